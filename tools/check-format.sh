#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every C and C++ file is as clang-format 14 writes it. --fix writes it (`make format`). Other versions differ in small
# things, so the check is skipped (77) where version 14 is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

format=$(command -v clang-format-14 || command -v clang-format || true)
version=$([ -n "$format" ] && "$format" --version | sed -E 's/.*version ([0-9]+).*/\1/')
if [ "$version" != 14 ]; then
    echo "check-format: SKIPPED: clang-format 14 wanted, ${version:-none} found"
    exit 77
fi

mapfile -t files < <(find include src cli tests bench examples \( -name '*.[ch]' -o -name '*.cpp' \) | LC_ALL=C sort)
if [ "${1:-}" = --fix ]; then
    "$format" -i "${files[@]}"
    exit 0
fi

report=$("$format" --dry-run -Werror "${files[@]}" 2>&1) && exit 0
echo "$report" | awk -F: '/: (error|warning): / && !seen[$1]++ { print; bad++ }
    END { print "check-format: " bad " files are not as clang-format 14 writes them (first place of each above); run: make format" }'
exit 1
