#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# No function over 70 lines, no .c file over 700, evbus.h not over 800. Split by noun, not by number.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0

mapfile -t files < <(find include src cli tests bench examples -name '*.[ch]' | LC_ALL=C sort)
long=$(ctags --quiet=yes --options=NONE -x --language-force=C --kinds-C=f --fields=+ne \
    --_xformat='%F:%n: %N: %e' "${files[@]}" |
    awk -F: '{ lines = $4 - $2 + 1; if ($4 != "" && lines > 70) print $1 ":" $2 ":" $3 " has " lines " lines (at most 70)" }')
if [ -n "$long" ]; then
    echo "$long"
    bad=1
fi

for file in "${files[@]}"; do
    limit=700
    case $file in
    include/evbus/evbus.h) limit=800 ;;
    tests/abi/test_offsets*.c) continue ;; # written by tools/update-abi.sh
    *.h) continue ;;
    esac
    lines=$(wc -l <"$file")
    if [ "$lines" -gt "$limit" ]; then
        echo "$file:$limit: the file has $lines lines (at most $limit)"
        bad=1
    fi
done
exit "$bad"
