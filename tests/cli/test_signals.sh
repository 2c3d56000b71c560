#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SIGTERM and SIGINT end the commands in order; an onlooker leaves no consumer, a group exactly its durable.
source "$(dirname "$0")/lib.sh"
start_server

for signal in TERM INT; do
    start_sub "look$signal" sig.a 'sig.>' --json
    expect 0 "$evbus" pub sig.a "$signal"
    until_true test -s "$work/look$signal.out"
    kill -s "$signal" "$started"
    ended 0 "$started"
    json_lines "$work/look$signal.err"
    grep -q '"printed":[12],' "$work/look$signal.err" || fail "no summary: $(cat "$work/look$signal.err")"
done
until_true consumers_are 0

start_sub member sig.a --envelope --group members
kill -TERM "$started"
ended 0 "$started"
until_true consumers_are 1

# A count that is not met is told apart from success.
start_sub count sig.a --count 5
kill -TERM "$started"
ended 143 "$started"
grep -q '^evbus sub: 0 of 5 messages came$' "$work/count.err" || fail "no complaint: $(cat "$work/count.err")"

# pub between two lines: what was accepted is stored and counted.
mkfifo "$work/lines"
start pub bash -c 'exec "$0" pub sig.b <"$1"' "$evbus" "$work/lines"
exec 7>"$work/lines"
start_sub got sig.b --count 1
got=$started
echo one >&7
ended 0 "$got"
kill -INT "${pids[-2]}"
ended 130 "${pids[-2]}"
exec 7>&-
grep -q '^published 1 to sig.b: 1 stored' "$work/pub.out" || fail "no summary: $(cat "$work/pub.out")"
grep -q '^evbus pub: interrupted after 1 messages$' "$work/pub.err" || fail "no complaint: $(cat "$work/pub.err")"

# Cut off for good: by default it would wait for ever; with a number of attempts it says so, and ends.
start_server
server=$started
start_sub cut sig.c --reconnect-attempts 2
kill -KILL "$server"
ended 3 "$started"
grep -q '^evbus sub: no connection: 2 attempts failed' "$work/cut.err" || fail "no complaint: $(cat "$work/cut.err")"
