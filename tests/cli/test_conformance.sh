#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# evbus-conformance as users run it: on mem://, on mem:// with faults on, and on a server that is there already. The
# whole suite runs on every backend in tests/backend.
source "$(dirname "$0")/lib.sh"
conformance=${EVBUS_CONFORMANCE:-}
[ -x "$conformance" ] || skip "evbus-conformance was not built (no cmocka)"

expect 2 "$conformance"
expect 2 "$conformance" nonsense
expect 2 "$conformance" mem://named
expect 0 "$conformance" --help
expect 1 "$conformance" mem:// 'no_such_case'
err_has 'no case has such a name'
expect 1 "$conformance" nats://127.0.0.1:1 'test_plain_*'

expect 0 "$conformance" mem:// 'test_verdict_*' '!*deferred*'
out_has '^evbus [0-9.]+, names begin with [a-z0-9]{7}$'
out_has '^\[       OK \] test_verdict_'

# Cases that count exactly, or settle for less than a duplicate, are left out: docs/faults.md has this list.
exact=('!test_retry_*' '!test_letter_of_a_body*' '!test_limit_*' '!test_stats_*' '!test_life_shutdown_without_time*'
    '!test_unsubscribe_and_resubscribe*' '!test_breaker_opens*' '!test_frontier_waits*')
late='reorder=0.2&delay=0.02&delay_by_ms=5&duplicate=0.1&repeat=0.1&slow_by_ms=1'
expect 0 "$conformance" "fault+mem://?seed=7&$late" "${exact[@]}"

start_server
expect 0 "$conformance" "$URL" 'test_group_*' 'test_verdict_*'
expect 0 "$conformance" "$URL" 'test_group_each*' # again on the same server: other names
expect 0 "$conformance" "fault+$URL?seed=7&$late" 'test_envelope_keeps*' 'test_group_*' 'test_verdict_*'
