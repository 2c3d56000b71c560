#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every mistake is told by name, with the page that helps, and ends with status 2; nothing is printed on stdout.
source "$(dirname "$0")/lib.sh"

# wrong PAGE TEXT ARGS...
wrong() {
    local page=$1 text=$2
    shift 2
    expect 2 "$evbus" "$@"
    out_empty
    err_has "$text"
    err_has "^see: evbus help${page:+ $page}\$"
}

wrong "" "no command given"
wrong "" "no command 'nope'" nope
wrong "" "no command 'nope'" help nope
wrong help "'sub': help takes one command" help pub sub
wrong version "'x': version takes no operands" version x
wrong pub "no TOPIC" pub
wrong pub "unknown option '--nope'" pub t --nope
wrong pub "unknown option '-5'.* behind --" pub t -5
wrong pub "--json takes no value, but '1'" pub t --json=1
wrong pub "--type needs a value: --type TYPE" pub t --type
wrong pub "--count: 'x' is not a whole number" pub t --count x
wrong pub "--count: 0 is outside 1\.\." pub t --count=0
wrong pub "--count: 99999999999999999999 is outside" pub t --count=99999999999999999999
wrong pub "--timeout: '-1' is not a number of seconds" pub t --timeout -1
wrong pub "--timeout: '1e3' is not a number of seconds" pub t --timeout 1e3
wrong pub "--timeout: 0 seconds is outside" pub t --timeout 0
wrong pub "--aggregate is for envelopes only" pub t --aggregate a x
wrong pub "--envelope needs --aggregate" pub t --envelope --type t '{}'
wrong pub "--envelope needs --type" pub t --envelope --aggregate a '{}'
wrong pub "--wait and --no-wait" pub t --envelope --aggregate a --type t --wait --no-wait '{}'
wrong pub "--ephemeral: envelopes are always stored" pub t --envelope --aggregate a --type t --ephemeral '{}'
wrong pub "--event-id names one message" pub t --envelope --aggregate a --type t --event-id e 1 2
wrong pub "--header: 'x' is not of the form" pub t --header x y
wrong pub "--whole: 'x' is given" pub t --whole x
wrong sub "no TOPIC" sub
wrong sub "--all needs --group" sub t --all
wrong sub "--shared needs --group" sub t --shared
wrong sub "--reject needs --envelope and --group" sub t --envelope --reject a
wrong sub "--park needs --envelope and --group" sub t --group g --park
wrong sub "--park excludes --shared" sub t --group g --envelope --shared --park
wrong sub "--ephemeral excludes --group" sub t --ephemeral --group g
wrong demo "'x': demo takes no operands" demo x
wrong demo "--only: 'kafka' is none of mem\|nats" demo --only kafka
wrong demo "more than 10000000 events" demo --aggregates 10000 --versions 10000

# What only the library can tell is told in its words.
export EVBUS_URL=mem://
for topic in 'a..b' 'a b' 'a.*' '>' ''; do
    expect 2 "$evbus" pub "$topic" x
    out_empty
    err_has "message 1: .*topic"
done
wrong pub "payload is not valid JSON" pub t --envelope --aggregate a --type t nojson
wrong pub "invalid aggregate_id 'a b'" pub t --envelope --aggregate 'a b' --type t 1
wrong pub "header 'Nats-X'" pub t --header Nats-X=1 y
wrong sub "cannot subscribe to a\.\.b" sub a..b
wrong sub "group" sub t --group 'a b'
wrong pub "cannot open nope://x: .*scheme 'nope'" pub --url nope://x t y
wrong pub "cannot open nope: " pub --url nope t y

# Behind -- everything is an operand; options and operands mix; the last of two wins.
expect 0 "$evbus" pub --count 5 t --count 1 -- -5
out_has '^published 1 to t: 1 stored'
