#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/run-fuzz.sh PROGRAM SECONDS
# Runs one fuzzer: first over tests/fuzz/corpus/<name> (over all of tests/fuzz/corpus when there is no such folder), then
# from there with a fixed seed for SECONDS. New inputs stay in the build folder; a finding is left beside the program as
# fuzz_x-crash-*, and `fuzz_x fuzz_x-crash-...` runs it again.
set -euo pipefail
program=$(realpath "$1")
seconds=$2
name=$(basename "$program" | sed 's/^fuzz_//')
tests=$(realpath "$(dirname "$0")/../tests/fuzz")
corpus=$tests/corpus/$name
work=$program.work
mkdir -p "$work/empty"
[ -d "$corpus" ] || corpus=$tests/corpus
[ -d "$corpus" ] || corpus=$work/empty

# Built without libFuzzer: tests/fuzz/replay_main.c, with a generator of its own.
if [[ "$("$program" -help=1 2>&1 || true)" != *max_total_time* ]]; then
    exec "$program" -t "$seconds" -s 1 "$corpus"
fi

rm -rf "$work/new"
mkdir "$work/new"
# The default exit code of a finding, 77, would tell ctest that the test was skipped.
options=(-error_exitcode=1 -seed=1 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=$program-")
[ ! -f "$tests/$name.dict" ] || options+=("-dict=$tests/$name.dict")
"$program" "${options[@]}" -runs=0 "$corpus"
exec "$program" "${options[@]}" "-max_total_time=$seconds" "$work/new" "$corpus"
