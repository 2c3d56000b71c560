#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The outbox's example and commands on a PostgreSQL and a nats-server of their own.
source "$(dirname "$0")/lib.sh"
example=${EVBUS_EXAMPLES:-$(dirname "$evbus")/examples}/order_service_postgres
[ -x "$example" ] || skip "the example is not built"
start_postgres
start_server
expect 2 "$example"
for round in 1 2; do
    expect 0 timeout "$WAIT_S" "$example" "$URL" "$DATABASE"
    out_has '^16 of 20 orders were placed, 16 invoices written$'
done
expect 0 timeout "$WAIT_S" "$example" mem://orders "$DATABASE"
expect 0 "$evbus" outbox status --database "$DATABASE" --json
out_has '"pending":0,"published":16,"dead":0'
out_has '"inbox":16'
expect 3 "$evbus" outbox status --database "host=$work dbname=orders"
