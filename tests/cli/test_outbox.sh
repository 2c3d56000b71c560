#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# evbus outbox on SQLite, with sqlite3 or the example's library doing the service's part.
source "$(dirname "$0")/lib.sh"
if grep -q 'built without its outbox' <("$evbus" help outbox); then
    expect 2 "$evbus" outbox status
    err_has 'not supported by this build.*built without its outbox'
    skip "this build has no outbox (the command says so)"
fi

expect 2 "$evbus" outbox
expect 2 "$evbus" outbox nonsense
err_has "'nonsense' is none of status"
expect 2 "$evbus" outbox status
err_has 'no database given'
expect 2 "$evbus" outbox status --database "sqlite:$work/none.db"
err_has 'unable to open'
: >"$work/orders.db"
export EVBUS_DATABASE=sqlite:$work/orders.db
expect 1 "$evbus" outbox status
err_has 'no outbox tables'
expect 0 "$evbus" outbox migrate
expect 0 "$evbus" outbox migrate
expect 0 "$evbus" outbox status
out_has '^pending +0 '
expect 0 "$evbus" outbox status --json
json_lines "$work/out"
out_has '"schema_version":1'
expect 0 "$evbus" outbox dead
out_empty
expect 2 "$evbus" outbox retry
expect 2 "$evbus" outbox retry --all some-id
expect 2 "$evbus" outbox status too-many
expect 1 "$evbus" outbox pass unheard-of
err_has 'no dead row'
expect 0 "$evbus" outbox retry --all --json
out_has '^\{"retried":0\}$'
expect 0 "$evbus" outbox purge --inbox --age 1
out_has '^0 removed$'

start_server
command -v python3 >/dev/null && python3 -c 'import sqlite3' 2>/dev/null || skip "no python3 to write rows with"
write_rows() { # FROM TO
    python3 - "$work/orders.db" "$1" "$2" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20)
for v in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    db.execute("INSERT INTO evbus_outbox (event_id, topic, aggregate_id, event_type, event_version, timestamp_ns,"
               " tenant_id, payload, state, created_ms, scheduled_ms) VALUES (?, 'orders.placed', 'order-1',"
               " 'OrderPlaced', ?, 1, 0, '{\"total\": 12}', 1, 1, 0)", ("e-%d" % v, v))
db.commit()
PY
}
relay() {
    start "$1" "$evbus" outbox relay --ready-file "$work/$1.ready" "${@:2}"
    until_true ready_or_gone "$1"
    [ -s "$work/$1.ready" ] || fail "the relay ended"
}
published_is() { "$evbus" outbox status --json | grep -q "\"published\":$1,"; }

write_rows 1 5
start_sub seen --envelope --json --count 8 orders.placed
sub=$started
relay one --json
relay=$started
until_true published_is 5
write_rows 6 8
until_true published_is 8
ended 0 "$sub"
[ "$(grep -o '"event_version":[0-9]*\|"version":[0-9]*' "$work/seen.out" | grep -o '[0-9]*$' | tr '\n' ' ')" = "1 2 3 4 5 6 7 8 " ] ||
    fail "not in order"
kill -TERM "$relay"
ended 0 "$relay"
json_lines "$work/one.out"
grep -q '"stored":8,' "$work/one.out" || fail "no summary"
expect 0 "$evbus" outbox status --json
out_has '"published":8,"dead":0'
out_has '"leased_aggregates":0'
expect 0 "$evbus" outbox purge --age 0.001
out_has '^8 removed$'
