#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# evbus doctor: a healthy stock server; one without JetStream; accounts that may not do one thing; what stands still; a
# connection that breaks.
source "$(dirname "$0")/lib.sh"

expect 2 "$evbus" doctor now
expect 3 "$evbus" doctor --url nats://127.0.0.1:1 --connect-timeout 0.2
out_has '^fail connect '

start_server
expect 0 "$evbus" doctor --strict
for check in connect jetstream limits publish deliver ack clock consumers letters session; do
    out_has "^ok   $check "
done
out_lines 10
expect 0 "$evbus" doctor --json
json_lines "$work/out"
out_lines 10
out_has '^\{"check":"publish","result":"ok","text":"stored in EVBUS_DOCTOR '
until_true consumers_are 0

# A dead letter is a warning: status 1 only if asked for.
expect 0 "$evbus" pub orders broken
start_sub reader orders --envelope --group billing --all
has_letter() { "$evbus" dlq ls 2>/dev/null | grep -q .; }
until_true has_letter
kill "$started"
ended 0 "$started"
expect 0 "$evbus" doctor
out_has '^warn letters +1 dead letters wait: see evbus dlq ls$'
expect 1 "$evbus" doctor --strict --look-only
out_has '^skip publish +--look-only$'
out_has '^ok   consumers +1 durable, '

# Of two servers the first is not there: that is told, though the other one answers.
expect 0 "$evbus" doctor --look-only --url "nats://127.0.0.1:1,${URL#nats://}"
out_has '^warn session +it held for [0-9.]+ s, but [0-9]+ attempts? at a server failed: .*127.0.0.1:1'

# The connection breaks while the doctor stays, and the server does not come back.
start_server
server=$started
start doctor "$evbus" doctor --stay 60 --timeout 1
doctor=$started
stays() { grep -q '^ok   letters ' "$work/doctor.out"; }
until_true stays
kill -s KILL "$server"
ended 1 "$doctor"
cp "$work/doctor.out" "$work/out"
out_has '^fail session +it broke after [0-9.]+ s and is not back: .*127.0.0.1'

# Without JetStream.
start_server 'max_payload: 65536'
expect 1 "$evbus" doctor --timeout 2
out_has '^ok   connect '
out_has '^fail jetstream '
out_has '^skip publish '

# Acks are forbidden: everything else works, and the doctor says which subject it is.
start_server 'jetstream: { store_dir: "'"$work"'/js2" }' \
    'authorization: { users: [ { user: me, password: pw, permissions: { publish: { deny: ["$JS.ACK.>"] } } } ] }'
expect 1 "$evbus" doctor --user me --password pw --timeout 1
out_has '^ok   deliver '
out_has '^fail ack +.*\$JS\.ACK\.>'

# Streams may not be made.
start_server 'jetstream: { store_dir: "'"$work"'/js3" }' \
    'authorization: { users: [ { user: me, password: pw, permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>"] } } } ] }'
expect 1 "$evbus" doctor --user me --password pw --timeout 2
out_has '^ok   jetstream '
out_has "^fail publish +the broker's permissions forbid it"
out_has '^skip ack '
