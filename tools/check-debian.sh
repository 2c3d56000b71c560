#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/check-debian.sh SUITE FOLDER
# The README's two commands in a fresh Debian of that suite, on a clone of what is committed here: Debian 13 brings
# nats-server 2.10 and a later libnats. FOLDER is made by debootstrap and removed at the end. Needs root and the network.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=$1 root=$2
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "check-debian: needs root, or sudo" >&2; exit 1; }
    exec sudo tools/check-debian.sh "$@"
fi
command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends debootstrap
rm -rf "$root"
trap 'rm -rf --one-file-system "$root"' EXIT
mkdir -p "$root"
root=$(realpath "$root")
debootstrap --variant=minbase --include=ca-certificates,git,make "$suite" "$root"
git clone --quiet --no-hardlinks . "$root/srv/evbus"

# In namespaces of its own: what it mounts and starts goes with it.
unshare --mount --pid --fork --kill-child bash -euc '
    mount --make-rprivate /
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    exec chroot "$1" env -i HOME=/tmp PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 \
        bash -euc "cd /srv/evbus && make demo && make check"' check-debian "$root"
echo "check-debian: make demo and make check passed on $suite"
