#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# version and help, for people and for programs; a full disk is noticed.
source "$(dirname "$0")/lib.sh"

expect 0 "$evbus" version
out_has '^evbus [0-9]+\.[0-9]+\.[0-9]+$'
out_lines 1
expect 0 "$evbus" --version
out_has '^evbus '
expect 0 "$evbus" version --json
out_has '^\{"version":"[0-9.]+",'
json_lines "$work/out"

expect 0 "$evbus" help
for command in pub sub demo version help; do
    out_has "^  $command "
done
out_has '^  3 +no connection'
expect 0 "$evbus" --help
out_has '^Usage: evbus COMMAND'

for command in pub sub demo version help; do
    expect 0 "$evbus" help "$command"
    out_has "^Usage: evbus $command"
    out_has '^  --json '
    out_has '^Exit status'
    cp "$work/out" "$work/page"
    expect 0 "$evbus" "$command" --help
    cmp -s "$work/out" "$work/page" || fail "'help $command' and '$command --help' differ"
    expect 0 "$evbus" "$command" -h
    awk 'length > 120 { exit 1 }' "$work/out" || fail "a line of 'help $command' is too wide"
done

expect 0 "$evbus" help --json
json_lines "$work/out"
out_has '"option":"--aggregate","value":"ID"'
out_lines 1

if [ -w /dev/full ]; then
    status=0
    "$evbus" help >/dev/full 2>"$work/err" || status=$?
    [ "$status" = 1 ] || fail "help on a full disk ended with $status, not 1"
    err_has 'cannot write to standard output: No space'
fi
