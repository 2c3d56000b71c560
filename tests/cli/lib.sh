#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests of the command. A test runs commands with `expect`, looks at what they printed, waits for files
# and lines (never for time), and leaves nothing behind: servers and commands in the background end by their pid.
set -uo pipefail

evbus=${EVBUS_BIN:?the evbus command under test}
unset EVBUS_URL EVBUS_PASSWORD
work=$(mktemp -d "${TMPDIR:-/tmp}/evbus-cli-XXXXXX")
pids=()
pg_folders=()
WAIT_S=60

cleanup() {
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work" "${pg_folders[@]}"
}
trap cleanup EXIT

fail() {
    local file
    echo "FAILED at line ${BASH_LINENO[-2]}: $*"
    for file in "$work"/out "$work"/err "$work"/*.err; do
        [ ! -s "$file" ] || { echo "--- ${file##*/}" && head -50 "$file"; }
    done
    exit 1
}

skip() {
    echo "SKIPPED: $*"
    exit 77
}

# expect STATUS COMMAND...: runs it; what it printed is in $work/out and $work/err.
expect() {
    local want=$1 status=0
    shift
    "$@" >"$work/out" 2>"$work/err" || status=$?
    [ "$status" = "$want" ] || fail "$* ended with $status, not $want"
}

out_has() { grep -qE -- "$1" "$work/out" || fail "stdout has no line like: $1"; }
err_has() { grep -qE -- "$1" "$work/err" || fail "stderr has no line like: $1"; }
out_lines() { [ "$(wc -l <"$work/out")" = "$1" ] || fail "stdout has $(wc -l <"$work/out") lines, not $1"; }
out_empty() { [ ! -s "$work/out" ] || fail "stdout is not empty"; }

# json_lines FILE: every line is JSON, where something is there to tell.
json_lines() {
    local line
    if command -v jq >/dev/null; then
        jq -e . "$1" >/dev/null || fail "$1 is not JSON"
    elif command -v python3 >/dev/null; then
        while IFS= read -r line; do
            python3 -m json.tool <<<"$line" >/dev/null || fail "not JSON: $line"
        done <"$1"
    fi
}

# until_true COMMAND...: asks again until it says yes, or fails after WAIT_S.
until_true() {
    local deadline=$((SECONDS + WAIT_S))
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not within ${WAIT_S} s: $*"
        sleep 0.02
    done
}

# start NAME COMMAND...: in the background; its output in $work/NAME.out and .err, its pid in $started.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.err" &
    started=$!
    pids+=("$started")
}

# start_sub NAME ARGS...: evbus sub, until it is subscribed.
start_sub() {
    local name=$1
    shift
    start "$name" "$evbus" sub --ready-file "$work/$name.ready" "$@"
    until_true ready_or_gone "$name"
    [ -s "$work/$name.ready" ] || fail "evbus sub $* ended"
}
ready_or_gone() { [ -s "$work/$1.ready" ] || ! kill -0 "$started" 2>/dev/null; }

# ended STATUS PID: it ends with this status.
ended() {
    local status=0
    until_true gone "$2"
    wait "$2" || status=$?
    [ "$status" = "$1" ] || fail "process $2 ended with $status, not $1"
}
gone() { [ ! -e "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# start_server [CONFIG LINE...]: a stock nats-server on a free port; sets URL and MONITOR, exports EVBUS_URL.
start_server() {
    local server folder
    server=${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server || true)}
    [ -n "$server" ] || skip "nats-server is not installed"
    folder=$(mktemp -d "$work/server-XXXXXX")
    {
        printf 'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\nports_file_dir: "%s"\nlog_file: "%s/log"\n' "$folder" "$folder"
        if [ $# -gt 0 ]; then printf '%s\n' "$@"; else printf 'jetstream: { store_dir: "%s/js" }\n' "$folder"; fi
    } >"$folder/config"
    start server "$server" -c "$folder/config"
    until_true listening "$folder"
    URL=nats://$(grep -hoE '(nats|tls)://127[^"]*' "$folder"/*.ports | sed 's,.*://,,')
    MONITOR=$(grep -ho 'http://127[^"]*' "$folder"/*.ports)
    export EVBUS_URL=$URL
}
listening() { grep -q 'http://127' "$1"/*.ports 2>/dev/null; }

# consumers: how many consumers all streams of the server have together; nothing when curl is missing.
consumers() {
    command -v curl >/dev/null || return 0
    curl -s "$MONITOR/jsz" | grep -oE '"consumers": *[0-9]+' | head -1 | grep -oE '[0-9]+'
}
consumers_are() { local n; n=$(consumers); [ -z "$n" ] || [ "$n" = "$1" ]; }

# start_postgres: a PostgreSQL of its own in a folder, reached by a socket there; sets DATABASE. It refuses to run as
# root: then it runs as user postgres, or nobody.
start_postgres() {
    local bin folder user as=()
    bin=${POSTGRES_BIN:-$(dirname "$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -1)")}
    [ -x "$bin/initdb" ] || skip "PostgreSQL is not installed"
    folder=$(mktemp -d /tmp/evbus-pg-XXXXXX)
    pg_folders+=("$folder")
    if [ "$(id -u)" = 0 ]; then
        user=$(id -un postgres 2>/dev/null || echo nobody)
        chown "$user" "$folder"
        as=(setpriv --reuid "$user" --regid "$(id -gn "$user")" --clear-groups)
    fi
    (cd / && "${as[@]}" "$bin/initdb" -D "$folder/data" -A trust -U postgres -E UTF8 --locale=C --no-sync) \
        >"$work/initdb.out" 2>"$work/initdb.err" || fail "initdb"
    start postgres "${as[@]}" "$bin/postgres" -D "$folder/data" -k "$folder" -h "" -F
    until_true postgres_ready "$folder"
    DATABASE="host=$folder user=postgres dbname=postgres"
}
postgres_ready() { tail -1 "$1/data/postmaster.pid" 2>/dev/null | grep -q '^ready'; }
