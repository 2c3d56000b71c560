#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Envelopes on a stock nats-server: receipts, duplicates, versions, every field there and back; groups keep their place.
source "$(dirname "$0")/lib.sh"
start_server
uuid='[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}'
pub() { "$evbus" pub orders --envelope --aggregate order-1 --type Placed "$@"; }

start_sub watch orders --envelope --json --count 4
expect 0 pub --event-id ev-1 --version 7 --tenant -3 --trace t-1 --correlation c-1 $'{"a": 1,\n"b":[2.50]}'
out_has '^stored orders-[0-9a-f]{16} sequence 1 event ev-1$'
expect 0 pub --event-id ev-1 --version 7 '{}'
out_has '^duplicate orders-[0-9a-f]{16} sequence 1 event ev-1$'

# Lines count the version up; receipts as JSON.
expect 0 pub --version 8 --json < <(printf '{"l":1}\n"two"\n3\n')
json_lines "$work/out"
out_lines 3
out_has '^\{"outcome":"stored","duplicate":false,"topic":"orders",.*"sequence":2,.*"aggregate_id":"order-1","event_version":8,'
out_has '"sequence":4,.*"event_version":10,'
ended 0 "$started"
cp "$work/watch.out" "$work/out"
json_lines "$work/out"
out_lines 4
out_has '"event_id":"ev-1","aggregate_id":"order-1","event_type":"Placed","event_version":7,"timestamp":"20[^"]+Z","trace_id":"t-1","correlation_id":"c-1","tenant_id":-3,"payload":\{"a": 1, "b":\[2\.50\]\}\}$'
out_has "\"event_id\":\"$uuid\",.*\"event_version\":8,.*\"payload\":\\{\"l\":1\\}"
out_has '"event_version":9,.*"payload":"two"'
out_has '"event_version":10,.*"payload":3'

# A mistake in line 2 stops there; line 1 is published.
expect 2 pub --version 11 < <(printf '1\nnojson\n3\n')
out_has '^stored .* sequence 5 '
out_lines 1
err_has '^evbus pub: line 2: payload is not valid JSON'
expect 0 pub --no-wait --version 12 --count 50 '{"many":true}'
out_has '^published 50 to orders: 50 stored, 0 refused, 0 unknown$'

# A group takes what the stream holds, in order, and goes on where it ended.
expect 0 "$evbus" sub orders --envelope --group audit --all --count 5 --timeout "$WAIT_S"
[ "$(grep -oE ' v[0-9]+ ' "$work/out" | tr -d ' \n')" = v7v8v9v10v11 ] || fail "not versions 7 to 11 in order"
expect 0 "$evbus" sub orders --envelope --group audit --all --count 50 --timeout "$WAIT_S"
[ "$(grep -oE ' v[0-9]+ ' "$work/out" | tr -d ' v')" = "$(seq 12 61)" ] || fail "not versions 12 to 61 in order"
expect 5 "$evbus" sub orders --envelope --group audit --all --count 1 --timeout 0.3
until_true consumers_are 1
