#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Dead letters on a stock nats-server: listed, shown, redriven in order, dropped; looking leaves nothing behind.
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
