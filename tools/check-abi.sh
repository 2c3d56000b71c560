#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/check-abi.sh LIBEVBUS.SO LIBEVBUS.A, or with libevbus_outbox: tools/check-abi.sh --outbox ...
# What the libraries export, what the map lists and what the header declares is the same set, and tests/abi covers every
# public struct and constant.
set -euo pipefail
HEADER=evbus map=src/evbus.map offsets=tests/abi/test_offsets.c
if [ "$1" = --outbox ]; then
    HEADER=outbox map=src/outbox/outbox.map offsets=tests/abi/test_offsets_outbox.c
    shift
fi
shared=$(realpath "$1")
static=$(realpath "$2")
cd "$(dirname "$0")/.."
source tools/header.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0

header_functions >"$work/header"
sed -n '/global:/,/local:/p' "$map" | grep -oE 'evbus_[a-z0-9_]+' | LC_ALL=C sort >"$work/map"
nm -D --defined-only "$shared" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | LC_ALL=C sort >"$work/shared library"
nm -g --defined-only "$static" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort >"$work/static library"

for other in "map" "shared library" "static library"; do
    LC_ALL=C comm -23 "$work/header" "$work/$other" | sed "s|.*|$HEADER.h declares &, the $other has it not|" >"$work/report"
    LC_ALL=C comm -13 "$work/header" "$work/$other" | sed "s|.*|the $other has &, $HEADER.h declares it not|" >>"$work/report"
    if [ -s "$work/report" ]; then
        cat "$work/report"
        bad=1
    fi
done

header_fields | sed -E 's/(.*) (.*)/AT(\1, \2, /' >"$work/wanted"
header_constants | sed 's/.*/VALUE(&, /' >>"$work/wanted"
grep -oE '^(AT\([^,]+, [^,]+|VALUE\([^,]+), ' "$offsets" | LC_ALL=C sort >"$work/covered"
LC_ALL=C sort "$work/wanted" | LC_ALL=C comm -23 - "$work/covered" >"$work/report"
if [ -s "$work/report" ]; then
    sed "s|.*|$offsets: &...) is missing|" "$work/report"
    bad=1
fi
[ "$bad" = 0 ] || echo "check-abi: if the change is meant: tools/update-abi.sh"
exit "$bad"
