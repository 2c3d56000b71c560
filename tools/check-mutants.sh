#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Mutants: one-line mistakes in the library (EV_BUG in src), switched on one at a time. For each, the test that should
# find it must fail; without it, it must pass. A mutant that survives is a hole in the tests.
#   tools/check-mutants.sh BUILD-FOLDER [NAME...]
set -uo pipefail
cd "$(dirname "$0")/.."
build=${1:?a build folder, configured by the preset `mutants`}
shift
export NATS_SERVER=${NATS_SERVER:-$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nats-server || true)}
SECONDS_EACH=180

# NAME  TARGET  PROGRAM  ARGUMENTS
# Another one is a line here, a name in tests/mutants/mutant.c and in conc/atomic.h, and EV_BUG(...) where it is made.
mutants="
RETRY_BEHIND        sim_test_sim                   tests/sim/test_sim
ACK_EARLY           sim_test_sim                   tests/sim/test_sim
DROP_ON_FULL        sim_test_sim                   tests/sim/test_sim
SETTLED_FORGOTTEN   sim_test_sim                   tests/sim/test_sim
SPAN_NO_HOLES       unit_test_span                 tests/unit/test_span
LETTER_UNSTORED     sim_test_sim                   tests/sim/test_sim
RESEND_ANY          sim_test_sim                   tests/sim/test_sim
UNKNOWN_REFUSED     sim_test_sim                   tests/sim/test_sim
RECEIPT_DROPPED     sim_test_sim                   tests/sim/test_sim
NO_CHARGE           backend_test_mem               tests/backend/test_mem *window*
EPOCH_EARLY         unit_test_epoch                tests/unit/test_epoch
BATON_DROPS         unit_test_baton                tests/unit/test_baton
GAP_FORGOTTEN       truth_test_truth_nats_client   tests/truth/test_truth_nats_client *killed
LEASE_SKIPPED       sim_test_nats_lease            tests/sim/test_nats_lease
RIGHT_FORGOTTEN     truth_test_truth_nats_members  tests/truth/test_truth_nats_members *active_one_stopped
UNKNOWN_LEAVES      truth_test_truth_nats_publish  tests/truth/test_truth_nats_publish *never_leave*
FLIGHT_OFF          backend_test_nats_streams      tests/backend/test_nats_streams first_publishes_at_once
FRONTIER_PAST       sim_test_sim                   tests/sim/test_sim
FRONTIER_CERTAIN    backend_test_nats_frontier_others tests/backend/test_nats_frontier_others
"

wanted=" $* "
targets=$(awk '{ print $2 }' <<<"$mutants" | sort -u)
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target $targets || exit 1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
declare -A clean
survivors=0
count=0

while read -r name target program arguments; do
    [ -n "$name" ] || continue
    [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || continue
    run=("$build/$program")
    [ -z "$arguments" ] || run+=("$arguments")
    if [ -z "${clean[${run[*]}]:-}" ]; then
        status=0
        EVBUS_MUTANT='' timeout "$SECONDS_EACH" "${run[@]}" >"$log" 2>&1 </dev/null || status=$?
        [ "$status" != 77 ] || { echo "check-mutants: SKIPPED: $name: no nats-server" && continue; }
        [ "$status" = 0 ] || { tail -20 "$log" && echo "check-mutants: ${run[*]} fails without a mutant" && exit 1; }
        clean[${run[*]}]=yes
    fi
    count=$((count + 1))
    status=0
    EVBUS_MUTANT=$name timeout "$SECONDS_EACH" "${run[@]}" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" = 0 ]; then
        echo "SURVIVED $name: ${run[*]}"
        survivors=$((survivors + 1))
    else
        echo "found    $name: $(grep -hoE '(G[1-5]|publishing order): .*|---.*|not true: .*|hangs|Sanitizer.*' "$log" | head -1 | cut -c1-110)"
    fi
done <<<"$mutants"

echo "check-mutants: $count mutants, $survivors survived"
[ "$survivors" = 0 ] && [ "$count" -gt 0 ]
