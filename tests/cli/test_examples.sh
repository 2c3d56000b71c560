#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The examples on a nats-server (ctest runs them on mem://), twice: what the first run left must not confuse the second.
source "$(dirname "$0")/lib.sh"
examples=${EVBUS_EXAMPLES:-$(dirname "$evbus")/examples}
[ -d "$examples" ] || skip "the examples are not built"
start_server

for round in 1 2; do
    for example in "$examples"/*; do
        [ -x "$example" ] && [[ $example != *_postgres ]] || continue # those: test_outbox_postgres.sh
        echo "${example##*/}, round $round"
        expect 0 timeout "$WAIT_S" "$example" "$URL"
    done
done
