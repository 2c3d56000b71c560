#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Torture in one process; and what it says when a promise is broken.
source "$(dirname "$0")/lib.sh"
seconds=$([ -n "${EVBUS_LONG:-}" ] && echo 300 || echo 20)

expect 2 "$evbus" torture --mem --server
expect 2 "$evbus" torture --seconds 0
expect 2 "$evbus" torture something

expect 0 "$evbus" torture --mem --seconds "$seconds" ${EVBUS_SEED:+--seed "$EVBUS_SEED"}
out_has '^torture on mem, [0-9]+ s, seed [0-9]+: every promise was kept$'
out_has 'members replaced [0-9]+;'
cat "$work/out"

# Several members: they take turns, or share the load.
out_has ', members [0-9]+, turns [0-9]+$'
expect 2 "$evbus" torture --members 9
expect 0 "$evbus" torture --mem --seconds 5 --members 4 --shared ${EVBUS_SEED:+--seed "$EVBUS_SEED"} --json
out_has '"kept":true,.*"shared":true,'

# With frontier acks, which are for members that take turns.
expect 2 "$evbus" torture --shared --frontier
expect 0 "$evbus" torture --mem --seconds 5 --frontier ${EVBUS_SEED:+--seed "$EVBUS_SEED"} --json
out_has '"kept":true,.*"frontier":true,'

# Each bus with a broker of its own: what the one publishes the other never gets. The seed and the history are told.
expect 1 "$evbus" torture --url mem:// --seconds 1 --seed 5
out_has '^torture on url, 1 s, seed 5: FAILED$'
err_has '^torture, seed 5: G1: a[0-9]+ v[0-9]+ was stored and is not in the stream$'
err_has '^history of a[0-9]+:$'
err_has ' accepted v1$'
err_has 'the same again: evbus torture --url .*--seconds 1 --seed 5$'

# Settings of its own faults, as JSON.
expect 0 "$evbus" torture --url 'fault+mem://own?seed=3&duplicate=0.2&lost_settle=0.1' --seconds 2 --seed 5 --json
json_lines "$work/out"
out_has '"target":"url","seconds":2,"seed":5,"kept":true,'
