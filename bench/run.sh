#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every benchmark (about eight minutes) and writes report.html and results.jsonl beside the programs,
# in $EVBUS_BENCHES. Exit status: 0 when every row was reached, 1 when one is short, 2 when a program failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${EVBUS_BENCHES:?set it to the folder of the programs, or use make bench}
results=$out/results.jsonl
worst=0

cores=$(nproc)
model=$(sed -nE 's/^model name[^:]*: (.*)/\1/p' /proc/cpuinfo | head -1)
load() { cut -d' ' -f1 /proc/loadavg; }
busy() { awk -v load="$(load)" 'BEGIN { exit !(load > 0.5) }'; }
for ((i = 0; i < 120; i++)); do # what was built just now is still in the average
    busy || break
    [ "$i" != 0 ] || echo "run.sh: waiting up to two minutes for a quiet machine (load $(load))" >&2
    sleep 1
done
server=$("${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server || echo true)}" --version 2>/dev/null || true)
printf '{"type":"machine","date":"%s","cores":%s,"cpu":"%s","kernel":"%s","load_before":%s,"server":"%s"}\n' \
    "$(date -u +%Y-%m-%dT%H:%MZ)" "$cores" "${model:-unknown}" "$(uname -r)" "$(load)" "$server" >"$results"
if busy; then
    echo "run.sh: the machine is busy (load $(load)): what is measured now says less" >&2
fi

for program in "$out"/bench_*; do
    if [ ! -x "$program" ] || [ ! -f "$program" ]; then
        continue
    fi
    name=$(basename "$program")
    echo "== $name" >&2
    "$program" "$@" >"$out/$name.jsonl"
    status=$?
    [ "$status" -le 1 ] || echo "== $name failed ($status)" >&2
    [ "$status" -le "$worst" ] || worst=$status
    sed "s/^{/{\"program\":\"$name\",/" "$out/$name.jsonl" >>"$results"
    if [ "$status" -gt 1 ]; then
        printf '{"program":"%s","type":"row","row":"?","what":"%s","why":"the program failed","reached":false}\n' \
            "$name" "$name" >>"$results"
    fi
done

{
    sed '/^\/\*RESULTS\*\/$/,$d' "$here/report.html.in"
    sed 's/$/,/; s/</\\u003c/g' "$results"
    sed '1,/^\/\*RESULTS\*\/$/d' "$here/report.html.in"
} >"$out/report.html"
echo "report: $out/report.html" >&2
[ "$worst" -le 2 ] || worst=2
exit "$worst"
