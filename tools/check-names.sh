#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Documents and comments name only what exists: every EVBUS_ word is a constant or macro of a public header or a name of
# the build or of a program's environment; every evbus_x( is a function of one. docs/adr may name what was rejected.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/header.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
    for HEADER in evbus outbox; do header_constants; done
    header_macros
    grep -ohE 'EVBUS_[A-Z0-9_]+' CMakeLists.txt cmake/* CMakePresets.json Makefile tools/*.sh src/evbus.map src/outbox/outbox.map
    grep -rohE 'getenv\("EVBUS_[A-Z0-9_]+' cli tests bench examples | sed 's/.*"//' || true # environment of programs
} | LC_ALL=C sort -u >"$work/words"
for HEADER in evbus outbox; do header_functions; done >"$work/functions"

mapfile -t files < <(find include docs examples README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md \
    -type f \( -name '*.md' -o -name '*.h' -o -name '*.c' -o -name '*.cpp' \) -not -path 'docs/adr/*' 2>/dev/null |
    LC_ALL=C sort)

# A word with _ or _* at its end stands for a group: some word must begin with it.
grep -noHE '\bEVBUS_[A-Z0-9_]+' "${files[@]}" >"$work/used" || true
awk -F: -v words="$work/words" '
    BEGIN { while ((getline word < words) > 0) known[word] = 1 }
    {
        ok = $3 in known
        if (!ok && $3 ~ /_$/)
            for (word in known)
                if (index(word, $3) == 1 && word != $3) { ok = 1; break }
        if ($3 == "EVBUS_EVBUS_H" || $3 == "EVBUS_OUTBOX_H" || $3 == "EVBUS_X")
            ok = 1
        if (!ok) { print $1 ":" $2 ": " $3 " is defined nowhere"; bad = 1 }
    }
    END { exit bad }' "$work/used" || bad=1

grep -noHE '\bevbus_[a-z0-9_]+\(' "${files[@]}" >"$work/used" || true
awk -F: -v functions="$work/functions" '
    BEGIN { while ((getline name < functions) > 0) known[name] = 1 }
    {
        name = substr($3, 1, length($3) - 1)
        if (!(name in known)) { print $1 ":" $2 ": " name "() is in no public header"; bad = 1 }
    }
    END { exit bad }' "$work/used" || bad=1
exit "${bad:-0}"
