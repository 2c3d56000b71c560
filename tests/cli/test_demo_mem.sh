#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo on mem://: its table, its JSON, the same failures for the same seed.
source "$(dirname "$0")/lib.sh"

expect 0 "$evbus" demo --only mem --aggregates 40 --versions 20 --topics 3
out_has '^40 orders x 20 versions on 3 topics, 4 publishers, seed 1$'
out_has '^published +800$'
out_has '^stored by the broker +800$'
out_has '^handled +800$'
for row in lost duplicates gaps 'order violations' damaged; do
    out_has "^$row +0\$"
done
out_has '^verdict +ok$'

retried() { grep -oE '"retried":[0-9]+' "$work/out"; }
expect 0 "$evbus" demo --only mem --aggregates 30 --versions 10 --seed 7 --json
json_lines "$work/out"
out_lines 1
out_has '"runs":\[\{"broker":"mem://","verdict":"ok","published":300,"stored":300,'
first=$(retried)
[ "$first" != '"retried":0' ] || fail "no handler failed"
expect 0 "$evbus" demo --only mem --aggregates 30 --versions 10 --seed 7 --json --publishers 1 --progress
[ "$(retried)" = "$first" ] || fail "$(retried), but $first before with the same seed"

# One of everything; more topics than aggregates; paced.
expect 0 "$evbus" demo --only mem --aggregates 1 --versions 1 --topics 1 --publishers 1
expect 0 "$evbus" demo --only mem --aggregates 2 --versions 30 --topics 7 --publishers 5 --rate 1000
