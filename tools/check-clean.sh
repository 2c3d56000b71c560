#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Nothing in the tree names a developer's machine: no home folder, no work folder, no private host.
set -euo pipefail
cd "$(dirname "$0")/.."
folder='(^|[^A-Za-z0-9_./$}-])/(home|root|work|Users|mnt|farm)/[A-Za-z0-9_.-]'
host='[A-Za-z0-9-]+\.(internal|intranet|corp|lan)\b'
if grep -rnIE "$folder|$host" . --exclude-dir=build --exclude-dir=.git --exclude-dir=corpus --exclude=check-clean.sh; then
    echo "check-clean: the lines above name somebody's machine"
    exit 1
fi
