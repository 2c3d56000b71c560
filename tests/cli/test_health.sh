#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# evbus health on a stock nats-server: a round of its own, another's message, nobody's; it leaves nothing there.
source "$(dirname "$0")/lib.sh"

expect 2 "$evbus" health now
expect 2 "$evbus" health --any --source x
expect 3 "$evbus" health --url nats://127.0.0.1:1 --connect-timeout 0.2

start_server
expect 0 "$evbus" health
out_has '^evbus-health: heard after [0-9.]+ ms; all is well$'
expect 0 "$evbus" health --json
json_lines "$work/out"
out_has '^\{"source":"evbus-health","after_ms":[0-9.]+,"live":true,"ready":true,"end_to_end":true,"reasons":0,'

# Nobody: status 5. A message as the Go original writes it: heard, and of whom; garbage is not.
expect 5 "$evbus" health --source billing --timeout 0.3
err_has 'no health message of billing came in time'
start waiter "$evbus" health --source billing --topic team-health --timeout "$WAIT_S"
waiter=$started
heard() {
    "$evbus" pub team-health --ephemeral '{"messageId":"hc-1-00","timestamp":"'"$(date -u +%FT%TZ)"'","source":"'"$1"'","eventBusType":"nats"}' >/dev/null 2>&1
    gone "$waiter"
}
"$evbus" pub team-health --ephemeral 'garbage' >/dev/null 2>&1
heard shipping && fail "it took another one for billing"
until_true heard billing
ended 0 "$waiter"
grep -q '^billing: heard after' "$work/waiter.out" || fail "it does not say whom it heard"
until_true consumers_are 0
