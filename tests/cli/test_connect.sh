#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Who is not there, who refuses, and what may be said about it: statuses 3 and 4, no secret in a message.
source "$(dirname "$0")/lib.sh"

# A port that was free a moment ago, behind a server that is gone.
start_server
dead=$URL
kill "$started"
ended 1 "$started"
expect 3 "$evbus" pub t x --url "${dead/nats:\/\//nats://me:sesame@}" --connect-timeout 1
out_empty
err_has '^evbus pub: cannot open nats://127\.0\.0\.1:[0-9]+: no connection'
! grep -q sesame "$work/err" || fail "the password is in the message"
expect 3 "$evbus" sub t --url "$dead" --connect-timeout 0.5

# A server with users: refused without, with a wrong password; let in by URL, option and environment.
start_server 'jetstream: { store_dir: "'"$work"'/js" }' 'authorization: { user: me, password: sesame }'
expect 4 "$evbus" pub t x --connect-timeout 2
expect 4 "$evbus" pub t x --user me --password wrong --connect-timeout 2
err_has 'credentials'
! grep -q wrong "$work/err" || fail "the password is in the message"
expect 0 "$evbus" pub t x --user me --password sesame
expect 0 env EVBUS_PASSWORD=sesame "$evbus" pub t x --user me
expect 0 "$evbus" pub t x --url "${URL/nats:\/\//nats://me:sesame@}"
out_has ' 1 stored'

start_server 'authorization: { token: "open" }'
expect 4 "$evbus" pub t x --token shut --connect-timeout 2
expect 0 "$evbus" pub t x --token open

# TLS: with the server's certificate trusted it works, else it is status 3.
if command -v openssl >/dev/null; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 \
        -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null || fail "openssl made no certificate"
    start_server "tls: { cert_file: \"$work/cert.pem\", key_file: \"$work/key.pem\" }"
    expect 0 "$evbus" pub t x --tls-ca "$work/cert.pem"
    expect 3 "$evbus" pub t x --url "tls://${URL#*://}" --connect-timeout 2
    err_has 'TLS'
fi

# Without JetStream: envelopes are refused, plain messages go out unstored and say so.
start_server 'max_payload: 1000'
expect 4 "$evbus" pub t --envelope --aggregate a --type t '{}'
err_has 'JetStream'
out_empty
expect 0 "$evbus" pub t x
out_has '0 stored, 1 sent without a stream'
expect 4 "$evbus" pub t "$(printf '%01001d' 0)"
err_has 'larger'

# The log, when wanted, is on stderr.
expect 0 "$evbus" pub t x --verbose
err_has '^evbus pub: info: '
expect 0 "$evbus" pub t x
[ ! -s "$work/err" ] || fail "stderr is not empty"
