/* SPDX-License-Identifier: Apache-2.0 */
/* The system's time, virtual time, and deadlines at the ends of the number line. */
#include "base/alloc.h"
#include "base/clock.h"
#include "support/race.h"

#include <time.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Without a clock of ours, monotonic time goes on and wall time is the system's. */
static void test_clock_null_is_the_systems(void **state)
{
    const int64_t before = ev_clock_now(NULL);
    const int64_t wall = ev_clock_wall(NULL);
    struct timespec ts;

    (void)state;
    assert_true(before > 0);
    assert_true(ev_clock_now(NULL) >= before);
    clock_gettime(CLOCK_REALTIME, &ts);
    assert_true(llabs((long long)ts.tv_sec - wall / EV_SEC) <= 60);
}

/* A virtual clock stands still until it is advanced; both of its times are the same. */
static void test_clock_virtual_moves_only_when_advanced(void **state)
{
    evbus_clock *clock = evbus_clock_new(1700000000 * EV_SEC);

    (void)state;
    assert_non_null(clock);
    for (int i = 0; i < 100; i++)
        assert_true(ev_clock_now(clock) == 1700000000 * EV_SEC);
    evbus_clock_advance(clock, 1500);
    assert_true(ev_clock_now(clock) == 1700000001 * EV_SEC + 500 * EV_MS);
    assert_true(ev_clock_wall(clock) == ev_clock_now(clock));
    evbus_clock_advance(clock, 0);
    assert_true(ev_clock_now(clock) == 1700000001 * EV_SEC + 500 * EV_MS);
    evbus_clock_free(clock);
    evbus_clock_free(NULL);
    assert_int_equal(ev_alloc_live(), 0);
}

/* However far it is advanced, "never" does not come. */
static void test_clock_virtual_never_reaches_never(void **state)
{
    evbus_clock *clock = evbus_clock_new(0);

    (void)state;
    evbus_clock_advance(clock, UINT64_MAX);
    assert_true(ev_clock_now(clock) < EV_NEVER);
    evbus_clock_advance(clock, UINT64_MAX);
    assert_true(ev_clock_now(clock) < EV_NEVER);
    evbus_clock_free(clock);
}

static void advance_by_thousand(int index, void *clock)
{
    (void)index;
    for (int i = 0; i < 1000; i++) {
        const int64_t before = ev_clock_now(clock);

        evbus_clock_advance(clock, 1);
        RACE_CHECK(ev_clock_now(clock) > before);
    }
}

/* Threads that advance it at the same time lose no millisecond. */
static void test_clock_virtual_counts_every_advance(void **state)
{
    evbus_clock *clock = evbus_clock_new(0);

    (void)state;
    race_run(4, advance_by_thousand, clock);
    assert_int_equal(race_failures(), 0);
    assert_true(ev_clock_now(clock) == 4000 * EV_MS);
    evbus_clock_free(clock);
}

/* No memory gives no clock, and nothing else. */
static void test_clock_new_reports_no_memory(void **state)
{
    (void)state;
    ev_alloc_fail_after(1);
    assert_null(evbus_clock_new(0));
    ev_alloc_fail_after(-1);
}

/* The two special times of option structs, and sums that would overflow. */
static void test_clock_deadlines_saturate(void **state)
{
    (void)state;
    assert_true(ev_deadline(5, EVBUS_NOWAIT) == 5);
    assert_true(ev_deadline(5, EVBUS_FOREVER) == EV_NEVER);
    assert_true(ev_deadline(5, 0) == 5);
    assert_true(ev_deadline(5, 20) == 5 + 20 * EV_MS);
    assert_true(ev_deadline(EV_NEVER - 5, 20) == EV_NEVER);
    assert_true(ev_deadline(-20 * EV_MS, 20) == 0);
    assert_true(ev_deadline_ns(1, EV_NEVER) == EV_NEVER);
    assert_true(ev_deadline_ns(0, EV_NEVER) == EV_NEVER);
    assert_true(ev_deadline_ns(INT64_MIN, -1) == INT64_MIN);
    assert_true(ev_deadline_ns(10, -3) == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_null_is_the_systems),
        cmocka_unit_test(test_clock_virtual_moves_only_when_advanced),
        cmocka_unit_test(test_clock_virtual_never_reaches_never),
        cmocka_unit_test(test_clock_virtual_counts_every_advance),
        cmocka_unit_test(test_clock_new_reports_no_memory),
        cmocka_unit_test(test_clock_deadlines_saturate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
