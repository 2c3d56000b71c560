#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# evbus lag on a stock nats-server: what waits for whom, limits for scripts; it leaves nothing there.
source "$(dirname "$0")/lib.sh"

expect 3 "$evbus" lag --url nats://127.0.0.1:1 --connect-timeout 0.2
start_server
expect 0 "$evbus" lag
out_empty
expect 2 "$evbus" lag 'a..b'

# A group that took two of five and left, and one that has taken all.
for i in 1 2 3 4 5; do
    expect 0 "$evbus" pub orders --envelope --aggregate "o-$i" --type T --version 1 '{}'
done
expect 0 "$evbus" sub orders --envelope --group billing --all --count 2
expect 0 "$evbus" sub orders --envelope --group audit --all --count 5
# What was pulled and handed back counts as unsettled until somebody takes it again.
waits() { # group, how many
    "$evbus" lag orders >"$work/out" 2>"$work/err" || return 1
    [ "$(awk -v g="$1" '$2 == g { print $4 + $6 }' "$work/out")" = "$2" ]
}
until_true waits billing 3
until_true waits audit 0
expect 0 "$evbus" lag orders
out_lines 2
out_has '^orders billing pending [0-3] unsettled [0-3] redelivered [0-3] oldest [0-9.]+s nobody pulls$'
out_has '^orders audit pending 0 unsettled 0 redelivered 0 oldest 0\.0s nobody pulls$'
expect 0 "$evbus" lag --group billing --json
json_lines "$work/out"
out_lines 1
out_has '"topic":"orders","group":"billing","durable":true,"pending":[0-3],"ack_pending":[0-3],"redelivered":[0-3],"waiting":0,"oldest":"20[^"]+","oldest_ms":[0-9]+,"behind":false\}$'
expect 0 "$evbus" lag 'other.>'
out_empty

# Limits.
expect 0 "$evbus" lag --max 3
expect 1 "$evbus" lag --max 2
out_has '^orders billing .* BEHIND$'
err_has '^evbus lag: 1 consumer is behind$'
too_old() { ! "$evbus" lag --group billing --max-age 0.2 >/dev/null 2>&1; }
until_true too_old
expect 0 "$evbus" lag --group audit --max-age 0.001
until_true consumers_are 2
