#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/run-bench.sh BUILD_FOLDER
# Runs bench/run.sh when there is one, else every benchmark one after the other; what they print is kept in
# BUILD_FOLDER/bench/*.out.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
export EVBUS_BENCHES=$build/bench EVBUS_BIN=$build/evbus
if [ -f bench/run.sh ]; then
    exec bash bench/run.sh
fi
for program in "$build"/bench/bench_*; do
    if [ -x "$program" ] && [ -f "$program" ]; then
        echo "== $(basename "$program")"
        "$program" | tee "$program.out"
    fi
done
