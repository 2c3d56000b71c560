#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Torture on a cluster of three with replicated streams: kill -9, SIGSTOP, cuts and stalls.
source "$(dirname "$0")/lib.sh"
seconds=$([ -n "${EVBUS_LONG:-}" ] && echo 300 || echo 20)
[ -n "${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server)}" ] || skip "nats-server is not installed"

expect 0 "$evbus" torture --cluster --seconds "$seconds" ${EVBUS_SEED:+--seed "$EVBUS_SEED"}
out_has '^torture on cluster, [0-9]+ s, seed [0-9]+: every promise was kept$'
cat "$work/out"
