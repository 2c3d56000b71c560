#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/deps.sh [demo|check]
# Installs what is missing through apt: what `make demo` needs, or also what the tests need. Does nothing, and needs no
# root, when all is there. a|b means either package will do.
set -euo pipefail
want=${1:-demo}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

package() { # package|package...
    local name
    for name in ${1//|/ }; do
        ! installed "$name" || return 0
    done
    missing+=("$1")
}

command_from() { # command, package|package...
    command -v "$1" >/dev/null || package "$2"
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "deps: not a Debian system; needed: a C compiler, cmake 3.25, ninja, pkg-config, libnats >= 3.4, jansson, OpenSSL," \
        "SQLite, libpq, nats-server$([ "$want" != check ] || echo ", PostgreSQL, cmocka, clang with libFuzzer, clang-format 14, universal-ctags, openssl, valgrind")" >&2
    exit 0
fi

command_from cc "build-essential"
command_from make "build-essential"
command_from cmake "cmake"
command_from ninja "ninja-build"
command_from pkg-config "pkgconf|pkg-config"
command_from nats-server "nats-server"
package "libc6-dev"
package "libnats-dev"
package "libjansson-dev"
package "libssl-dev"
package "libsqlite3-dev"
package "libpq-dev"
if [ "$want" = check ]; then
    command_from c++ "build-essential"
    command_from clang "clang"
    command_from openssl "openssl"
    package "libclang-rt-dev|libclang-rt-14-dev|libclang-rt-19-dev"
    package "clang-format-14|clang-format"
    package "universal-ctags"
    package "libcmocka-dev"
    package "zlib1g-dev" # these two: Debian 13's libcrypto.pc names them for static linking (check-package.sh)
    package "libzstd-dev"
    package "valgrind"
    compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || command_from initdb "postgresql"
fi
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
echo "deps: missing: ${missing[*]}"
root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "deps: neither root nor sudo; as root: apt-get install ${missing[*]%%|*}" >&2
        exit 1
    fi
    root=(sudo)
fi
apt() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# known PACKAGE: apt has a version of it to install.
known() { apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null; }

choose() { # fills `chosen`; false when apt does not know one of them
    local alternatives name
    chosen=()
    for alternatives in "${missing[@]}"; do
        for name in ${alternatives//|/ } ""; do
            [ -n "$name" ] || return 1
            ! known "$name" || break
        done
        chosen+=("$name")
    done
}

updated=no
if ! choose; then
    apt update
    updated=yes
    choose || { echo "deps: apt offers no package for one of: ${missing[*]}" >&2; exit 1; }
fi

# Debian's packages start nats-server and PostgreSQL as services on 127.0.0.1:4222 and :5432. Tests and demo start their
# own on free ports and sockets, so the services are masked, until the next boot at most, while they are installed.
masked=()
unmask() { [ ${#masked[@]} -eq 0 ] || "${root[@]}" systemctl unmask --runtime --quiet "${masked[@]}" || true; }
if [ -d /run/systemd/system ]; then
    trap unmask EXIT
    for service in nats-server postgresql; do
        if [[ " ${chosen[*]} " == *" $service "* ]] &&
            "${root[@]}" systemctl mask --runtime --quiet "$service.service" 2>/dev/null; then
            masked+=("$service.service")
            echo "deps: $service.service is installed but not started now; to keep it from starting at boot:" \
                "systemctl disable $service"
        fi
    done
fi

if ! apt install --no-install-recommends "${chosen[@]}"; then
    [ "$updated" = no ] || exit 1
    apt update # the lists were too old
    apt install --no-install-recommends "${chosen[@]}"
fi
