#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Torture on a nats-server of its own: nothing of it is left afterwards.
source "$(dirname "$0")/lib.sh"
seconds=$([ -n "${EVBUS_LONG:-}" ] && echo 300 || echo 20)
[ -n "${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server)}" ] || skip "nats-server is not installed"

expect 3 env NATS_SERVER="$work/none" "$evbus" torture --server --seconds 1
err_has 'nats-server is not installed'

expect 0 "$evbus" torture --server --seconds "$seconds" ${EVBUS_SEED:+--seed "$EVBUS_SEED"}
out_has '^torture on server, [0-9]+ s, seed [0-9]+: every promise was kept$'
cat "$work/out"

# Interrupted while things break: it judges what there was, and its server is gone.
servers_of() { cat "/proc/$1/task/$1/children" 2>/dev/null | tr -d ' '; }
has_server() { [ -n "$(servers_of "$1")" ]; }
start torture "$evbus" torture --server --seconds 60 --seed 2
tortured=$started
until_true has_server "$tortured"
server=$(servers_of "$tortured")
kill -s TERM "$tortured"
ended 143 "$tortured"
until_true gone "$server"
