#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole demo: it starts a nats-server and ends it again, also when interrupted; without one it says so.
source "$(dirname "$0")/lib.sh"
[ -n "${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server)}" ] || skip "nats-server is not installed"
export TMPDIR=$work/tmp # where the demo makes its folder
mkdir "$TMPDIR"
nothing_left() { [ -z "$(ls "$TMPDIR")" ]; }

expect 0 "$evbus" demo --aggregates 40 --versions 20
out_has '^ +mem:// +nats://$'
out_has '^handled +800 +800$'
out_has '^lost +0 +0$'
out_has '^verdict +ok +ok$'
nothing_left || fail "the demo left $(ls "$TMPDIR")"

expect 0 "$evbus" demo --only nats --aggregates 20 --versions 5 --json
json_lines "$work/out"
out_has '"runs":\[\{"broker":"nats://","verdict":"ok","published":100,"stored":100,'

# Interrupted while events flow: the server is gone, its folder too.
server_of() { cat "/proc/$1/task/$1/children" 2>/dev/null; }
has_server() { [ -n "$(server_of "$1")" ]; }
for signal in INT TERM; do
    start "demo$signal" "$evbus" demo --only nats --rate 200
    demo=$started
    until_true has_server "$demo"
    server=$(server_of "$demo" | tr -d ' ')
    kill -s "$signal" "$demo"
    ended "$([ "$signal" = INT ] && echo 130 || echo 143)" "$demo"
    until_true gone "$server"
    nothing_left || fail "the demo left $(ls "$TMPDIR")"
done

# No server to be found: mem:// runs, nats:// is skipped by name.
expect 3 env NATS_SERVER="$work/none" "$evbus" demo --aggregates 10 --versions 5
out_has '^handled +50 +-$'
out_has '^verdict +ok +skipped$'
err_has '^evbus demo: nats://: skipped: .*/none is not installed .*--only mem'
expect 3 env NATS_SERVER="$work/none" "$evbus" demo --aggregates 10 --versions 5 --json
out_has '\{"broker":"nats://","verdict":"skipped"\}'
nothing_left || fail "the demo left $(ls "$TMPDIR")"

# One that cannot start: its last words are told.
printf '#!/bin/sh\nexit 1\n' >"$work/broken"
chmod +x "$work/broken"
expect 1 env NATS_SERVER="$work/broken" "$evbus" demo --only nats
err_has '^evbus demo: nats://: .*/broken ended at once'
nothing_left || fail "the demo left $(ls "$TMPDIR")"
