#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Instructions of the hot paths, counted by callgrind and compared with the recorded ones: more than 4 % above fails.
#   tools/check-instructions.sh BUILD-FOLDER            compares
#   tools/check-instructions.sh --renew BUILD-FOLDER    records what is counted now, for this compiler and processor
# They depend on the compiler: figures are recorded for each, and where there are none this says so and is skipped (77).
set -euo pipefail
cd "$(dirname "$0")/.."
renew=false
[ "${1:-}" != --renew ] || { renew=true && shift; }
build=$(realpath "${1:?a build folder}")
recorded=tests/guard/instructions.txt
tolerance=4 # per cent
program=$build/tests/guard/instructions

skip() { echo "check-instructions: skipped, $*" && exit 77; }

command -v valgrind >/dev/null || skip "no valgrind"
[ -x "$program" ] || skip "no $program (valgrind's headers were missing)"
kind=$(cat "$build/tests/guard/compiler")-$(uname -m)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
valgrind --tool=callgrind --collect-atstart=no --callgrind-out-file="$folder/out" "$program" >"$folder/log" 2>&1 || {
    tail -20 "$folder/log" >&2
    echo "check-instructions: $program failed under valgrind" >&2
    exit 1
}

# One dump for each END() of the program: "desc: Trigger: Client Request: NAME TIMES", "totals: INSTRUCTIONS".
counted=$(awk '
    /^desc: Trigger: Client Request: / { name = $5; times = $6 }
    /^(totals|summary): / { if (name != "") printf "%s %d\n", name, ($2 + times / 2) / times; name = "" }
' "$folder"/out.*[0-9] | sort)
[ "$(wc -l <<<"$counted")" -ge 7 ] || { echo "check-instructions: too few counts: $counted" >&2 && exit 1; }

if $renew; then
    { grep -v "^$kind " "$recorded" 2>/dev/null || true; sed "s/^/$kind /" <<<"$counted"; } >"$folder/new"
    { grep '^#' "$folder/new" || true; grep -v '^#' "$folder/new" | sort; } >"$recorded"
    echo "check-instructions: recorded for $kind:"
    echo "$counted"
    exit 0
fi
grep -q "^$kind " "$recorded" || skip "nothing recorded for $kind: tools/check-instructions.sh --renew $build"
awk -v kind="$kind" -v tolerance=$tolerance '
    NR == FNR { if ($1 == kind) was[$2] = $3; next }
    {
        now[$1] = $2
        if (!($1 in was)) { printf "%s: %d instructions, nothing recorded\n", $1, $2; bad = 1; next }
        by = ($2 - was[$1]) * 100 / was[$1]
        said = (by > tolerance) ? "  TOO MANY" : (by < -tolerance) ? "  fewer: record it (--renew)" : ""
        printf "%-26s %6d instructions, recorded %6d (%+.1f %%)%s\n", $1, $2, was[$1], by, said
        bad = bad || (by > tolerance)
    }
    END { for (name in was) if (!(name in now)) { printf "%s: recorded, not counted\n", name; bad = 1 } exit bad }
' "$recorded" <(echo "$counted") || {
    echo "check-instructions: more instructions than recorded. If that is meant: tools/check-instructions.sh --renew $build" >&2
    exit 1
}
