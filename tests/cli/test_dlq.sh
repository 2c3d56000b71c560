#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Dead letters on a stock nats-server: listed, shown, redriven in order per aggregate (with the
# tail parked as well), dropped; looking leaves nothing behind.
source "$(dirname "$0")/lib.sh"

# Wrong usage is told before anything is asked.
expect 2 "$evbus" dlq
err_has 'say ls, show, redrive or drop'
expect 2 "$evbus" dlq list
err_has "'list' is none of ls, show, redrive and drop"
expect 2 "$evbus" dlq drop
err_has 'say which letters'
expect 2 "$evbus" dlq ls --since 2x
err_has "'2x' is no age"
expect 3 "$evbus" dlq ls --url nats://127.0.0.1:1 --connect-timeout 0.2

start_server
expect 0 "$evbus" dlq ls
out_empty

# Bodies that are no envelopes become letters.
for i in 1 2 3; do
    expect 0 "$evbus" pub orders --header "X-Number=$i" "broken $i"
done
start_sub reader orders --envelope --group billing --all
letters_are() { "$evbus" dlq ls >"$work/out" 2>"$work/err" && [ "$(wc -l <"$work/out")" = "$1" ]; }
until_true letters_are 3
kill "$started"
ended 0 "$started"

expect 0 "$evbus" dlq ls
out_lines 3
out_has '^1 [0-9]+s orders billing - 0 not an envelope: .'
expect 0 "$evbus" dlq ls --json
json_lines "$work/out"
out_lines 3
out_has '^\{"sequence":2,"letter_topic":"dlq.orders","topic":"orders","group":"billing","stream":"orders-[0-9a-f]{16}","stream_sequence":2,"cause":"not an envelope",.*"attempts":0,"deliveries":1,"redriven":0,"stored":"20[^"]+","first":"20[^"]+","last":"20[^"]+","bytes":8\}$'
expect 0 "$evbus" dlq ls --limit 2
out_lines 2
expect 0 "$evbus" dlq ls --topic 'order.*'
out_empty
expect 0 "$evbus" dlq ls --topic 'orders' --group billing --cause envelope --since 1h
out_lines 3
expect 0 "$evbus" dlq ls --aggregate nobody
out_empty
expect 0 "$evbus" dlq show 2
out_has '^cause +not an envelope$'
out_has '^header +X-Number: 2$'
out_has '^broken 2$'
expect 0 "$evbus" dlq show 3 --json
json_lines "$work/out"
out_has '"headers":\{"X-Number":"3"\},"text":"broken 3"\}$'
expect 1 "$evbus" dlq show 99
err_has 'no such letter at sequence 99'

# Dropped is gone; redriven is published again, in order, as it was, and is no letter any more.
expect 0 "$evbus" dlq drop 2 --json
[ "$(cat "$work/out")" = '{"dropped":2}' ] || fail "drop did not say so"
expect 1 "$evbus" dlq drop 2
expect 0 "$evbus" dlq redrive --all
out_lines 2
out_has '^redriven 1 to orders sequence 4$'
out_has '^redriven 3 to orders sequence 5$'
expect 0 "$evbus" dlq ls
out_empty
expect 0 "$evbus" sub orders --group look --all --count 5 --header X-Number --header Evbus-Redriven
out_has '^orders #4 X-Number=1 Evbus-Redriven=1 broken 1$'
out_has '^orders #5 X-Number=3 Evbus-Redriven=1 broken 3$'
until_true consumers_are 2 # billing and look: dlq has none

# Given up again, it says how often it was redriven.
start_sub reader2 orders --envelope --group billing
until_true letters_are 2
kill "$started"
ended 0 "$started"
expect 0 "$evbus" dlq ls --json
[ "$(grep -c '"redriven":1,' "$work/out")" = 2 ] || fail "not redriven once"

# The letters of one topic.
expect 0 "$evbus" dlq ls --letter-topic dlq.orders
out_lines 2
expect 0 "$evbus" dlq ls --letter-topic dlq.other
out_empty

# Several aggregates, interleaved: all of them rejected, redriven one aggregate first and then all, in order of each.
publish() { # TOPIC VERSION AGGREGATE...
    local topic=$1 version=$2 id
    shift 2
    for id in "$@"; do
        expect 0 "$evbus" pub "$topic" '{}' --envelope --aggregate "$id" --type Moved --version "$version"
    done
}
lines_are() { [ "$(wc -l <"$work/$1.out")" = "$2" ]; }
# versions NAME AGGREGATE: those printed, in the order in which they were.
versions() { versions_in "$work/$1.out" "$2" | tr '\n' ' '; }
versions_in() { grep -F "\"aggregate_id\":\"$2\"" "$1" | grep -oE '"event_version":[0-9]+' | cut -d: -f2; }
letters_of() { "$evbus" dlq ls --topic "$1" >"$work/out" 2>"$work/err" && [ "$(wc -l <"$work/out")" = "$2" ]; }

start_sub rejecter mixed --envelope --group billing --all --json --reject a1 --reject a2 --reject a3
for version in 1 2 3 4; do publish mixed $version a1 b1 a2 a3; done
until_true lines_are rejecter 4
until_true letters_of mixed 12
[ "$(versions rejecter b1)" = "1 2 3 4 " ] || fail "b1 was handled as $(versions rejecter b1)"
kill "$started"
ended 0 "$started"
grep -q '"rejected":12' "$work/rejecter.err" || fail "it does not say how many it rejected"

start_sub taker mixed --envelope --group billing --json
expect 0 "$evbus" dlq redrive --aggregate a2
out_lines 4
until_true lines_are taker 4
expect 0 "$evbus" dlq redrive --topic mixed
out_lines 8
until_true lines_are taker 12
for id in a1 a2 a3; do
    [ "$(versions taker $id)" = "1 2 3 4 " ] || fail "$id was redriven as $(versions taker $id)"
done
kill "$started"
ended 0 "$started"
expect 0 "$evbus" dlq ls --topic mixed
out_empty

# The tail parked: behind the first of a1 and a2, nothing of theirs is handled, by no member, until it is redriven.
start_sub parker parked --envelope --group billing --all --json --park --reject a1 --reject a2
for version in 1 2 3; do publish parked $version a1 b1 a2; done
until_true letters_of parked 6
until_true lines_are parker 3
expect 0 "$evbus" dlq ls --topic parked --cause 'parked behind 1/' --aggregate a1
out_lines 2
expect 0 "$evbus" dlq ls --topic parked --cause 'rejected by its handler'
out_lines 2
kill "$started"
ended 0 "$started"
grep -q '"rejected":2' "$work/parker.err" || fail "more than the heads were handled"

start_sub unparker parked --envelope --group billing --json --park
publish parked 4 a1 b1 a2
until_true letters_of parked 8
until_true lines_are unparker 1
expect 0 "$evbus" dlq redrive --topic parked
out_lines 8
until_true lines_are unparker 9
publish parked 5 a1 b1 a2
until_true lines_are unparker 12
for id in a1 a2; do
    [ "$(versions unparker $id)" = "1 2 3 4 5 " ] || fail "$id was redriven as $(versions unparker $id)"
done
expect 0 "$evbus" dlq ls --topic parked
out_empty

# Dropped instead: the head is given up for good, what is behind it handled, and the aggregate goes on.
kill "$started"
ended 0 "$started"
start_sub parker2 parked --envelope --group billing --json --park --reject a1
publish parked 6 a1
publish parked 7 a1
until_true letters_of parked 2
kill "$started"
ended 0 "$started"
start_sub dropper parked --envelope --group billing --json --park
expect 0 "$evbus" dlq drop --topic parked --cause rejected
out_lines 1
expect 0 "$evbus" dlq redrive --topic parked
until_true lines_are dropper 1
publish parked 8 a1
until_true lines_are dropper 2
[ "$(versions dropper a1)" = "7 8 " ] || fail "behind the dropped one came $(versions dropper a1)"
