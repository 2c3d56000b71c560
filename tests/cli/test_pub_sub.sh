#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Plain messages on a stock nats-server: arguments, lines, whole files, headers, counts, JSON; none of it leaves a consumer.
source "$(dirname "$0")/lib.sh"
start_server

start_sub plain plain.a --count 4
expect 0 "$evbus" pub plain.a one two --count 2
out_has '^published 4 to plain.a: 4 stored, 0 refused, 0 unknown$'
ended 0 "$started"
[ "$(grep -cE '^plain\.a #[1-4] (one|two)$' "$work/plain.out")" = 4 ] || fail "not 4 messages: $(cat "$work/plain.out")"
grep -q '^evbus sub: 4 printed' "$work/plain.err" || fail "no summary: $(cat "$work/plain.err")"

# One line of stdin is one message; bytes that are no UTF-8 come as base64, a missing last line feed is none.
start_sub json plain.a --json --count 3 --header X-Source
expect 0 "$evbus" pub plain.a --json --header X-Source=test < <(printf 'quo"te\n\xff\xfe\n\xc3\xa4')
out_has '^\{"topic":"plain.a","published":3,"stored":3,'
ended 0 "$started"
json_lines "$work/json.out"
cp "$work/json.out" "$work/out"
out_lines 3
out_has '"topic":"plain.a","stream":"[^"]+","sequence":5,"delivery_count":1,.*"headers":\{"X-Source":"test"\},"text":"quo\\"te"'
out_has '"sequence":6,.*"base64":"//4="'
out_has '"sequence":7,.*"text":"ä"'
json_lines "$work/json.err"

# "-" is stdin too; --whole is one message.
start_sub whole plain.w --json --count 2
expect 0 "$evbus" pub plain.w - --whole < <(printf 'a\nb\n')
expect 0 "$evbus" pub plain.w </dev/null
out_has '^published 0 '
expect 0 "$evbus" pub plain.w < <(printf '\n')
ended 0 "$started"
cp "$work/whole.out" "$work/out"
out_has '"text":"a\\nb\\n"'
out_has '"text":""'

# Not stored: only who listens gets it, and no stream is made.
start_sub core core.a --ephemeral --count 1
expect 0 "$evbus" pub core.a x --ephemeral
out_has '^published 1 to core.a: 0 stored, 1 sent without a stream, 0 refused, 0 unknown$'
ended 0 "$started"
grep -qx 'core.a x' "$work/core.out" || fail "not 'core.a x': $(cat "$work/core.out")"

# Many: all arrive, whatever the order.
start_sub many plain.many --count 20000
expect 0 "$evbus" pub plain.many --progress < <(seq 20000)
out_has ' 20000 stored'
ended 0 "$started"
[ "$(awk '{ print $3 }' "$work/many.out" | sort -n | uniq | wc -l)" = 20000 ] || fail "not 20000 different messages"

# Too few before --timeout: status 5. Without a count the time is simply over.
expect 5 "$evbus" sub plain.a --count 1 --timeout 0.2
err_has '^evbus sub: 0 of 1 messages came$'
expect 0 "$evbus" sub plain.a --timeout 0.2

# A pattern that no stream covers listens to what passes.
start_sub pattern 'plain.*' 'other.>' --count 2
expect 0 "$evbus" pub plain.a x
expect 0 "$evbus" pub other.b.c y
ended 0 "$started"
[ "$(sort "$work/pattern.out" | tr '\n' ,)" = "other.b.c y,plain.a x," ] || fail "not two: $(cat "$work/pattern.out")"

# When nobody takes what is printed, the command ends with a complaint.
if [ -w /dev/full ]; then
    start full bash -c 'exec "$0" sub plain.r --ready-file "$1" >/dev/full' "$evbus" "$work/full.ready"
    until_true test -s "$work/full.ready"
    expect 0 "$evbus" pub plain.r x
    ended 1 "$started"
    grep -q 'cannot write to standard output: No space' "$work/full.err" || fail "no complaint: $(cat "$work/full.err")"
fi
until_true consumers_are 0
