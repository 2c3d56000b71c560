/* SPDX-License-Identifier: Apache-2.0 */
/* Single flight: one leader, its result for all who waited, each with a deadline of its own. */
#include "base/alloc.h"
#include "conc/flight.h"
#include "support/race.h"

#include <sched.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CROWD 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct airport {
    struct ev_flight flight;
    evbus_status result;
    _Atomic(int) leaders;
    _Atomic(int) passengers;
    _Atomic(int) late;
    _Atomic(int) flying;
    evbus_clock *clock;
};

/* Alone, a caller leads; after the landing the next one leads again: nothing is remembered. */
static void test_flight_forgets_its_result(void **state)
{
    struct ev_flight flight;
    evbus_status status = EVBUS_TIMEOUT;

    (void)state;
    ev_flight_init(&flight, &lock);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ev_flight_join(&flight, NULL, EV_NEVER, &status), EV_FLIGHT_LEAD);
        ev_flight_land(&flight, i == 1 ? EVBUS_REFUSED : EVBUS_OK, NULL);
    }
    assert_int_equal(status, EVBUS_TIMEOUT); /* written for passengers only */
}

/* A caller whose deadline comes before the landing leaves alone, and the landing does not touch it. */
static void test_flight_waiter_leaves_at_its_deadline(void **state)
{
    struct ev_flight flight;
    evbus_clock *clock = evbus_clock_new(0);
    evbus_status status = EVBUS_SYSTEM;

    (void)state;
    ev_flight_init(&flight, &lock);
    assert_int_equal(ev_flight_join(&flight, NULL, EV_NEVER, &status), EV_FLIGHT_LEAD);
    assert_int_equal(ev_flight_join(&flight, NULL, 0, &status), EV_FLIGHT_TIMEOUT);
    assert_int_equal(ev_flight_join(&flight, NULL, ev_clock_now(NULL) + EV_MS, &status), EV_FLIGHT_TIMEOUT);
    assert_int_equal(ev_flight_join(&flight, clock, 0, &status), EV_FLIGHT_TIMEOUT);
    ev_flight_land(&flight, EVBUS_OK, "");
    assert_int_equal(status, EVBUS_SYSTEM);
    evbus_clock_free(clock);
}

static void lead(struct airport *airport)
{
    RACE_CHECK(atomic_fetch_add(&airport->leaders, 1) == 0);
    while (ev_load_relaxed(&airport->flight.park.waiters) < CROWD - 1) /* all are aboard */
        sched_yield();
    ev_flight_land(&airport->flight, ev_fail(airport->result, "stream %s is full", "ORDERS"), ev_detail());
}

static void board(int index, void *ctx)
{
    struct airport *airport = ctx;
    evbus_status status = EVBUS_SYSTEM;

    (void)index;
    ev_fail(EVBUS_OK, "mine");
    switch (ev_flight_join(&airport->flight, NULL, EV_NEVER, &status)) {
    case EV_FLIGHT_LEAD:
        lead(airport);
        break;
    case EV_FLIGHT_DONE:
        RACE_CHECK(status == airport->result);
        RACE_CHECK(strcmp(ev_detail(), status == EVBUS_OK ? "mine" : "stream ORDERS is full") == 0);
        atomic_fetch_add(&airport->passengers, 1);
        break;
    default:
        RACE_CHECK(!"a deadline that was not set");
    }
}

static void fly_crowd(evbus_status result)
{
    struct airport airport = {.result = result};

    ev_flight_init(&airport.flight, &lock);
    for (int round = 0; round < 10; round++) {
        atomic_store(&airport.leaders, 0);
        atomic_store(&airport.passengers, 0);
        race_run(CROWD, board, &airport);
        assert_int_equal(race_failures(), 0);
        assert_int_equal(atomic_load(&airport.leaders), 1);
        assert_int_equal(atomic_load(&airport.passengers), CROWD - 1);
        assert_null(airport.flight.seats);
    }
    assert_int_equal(ev_alloc_live(), 0);
}

/* Of 64 threads one leads, and its success reaches the 63 others. */
static void test_flight_has_one_leader_of_many(void **state)
{
    (void)state;
    fly_crowd(EVBUS_OK);
}

/* A failure reaches all of them, with the leader's sentence. */
static void test_flight_failure_reaches_all(void **state)
{
    (void)state;
    fly_crowd(EVBUS_LIMIT);
}

static void fly_often(int index, void *ctx)
{
    struct airport *airport = ctx;

    for (int i = 0; i < 50; i++) {
        evbus_status status = EVBUS_SYSTEM;
        const int64_t deadline = (index + i) % 3 ? EV_NEVER : ev_clock_now(NULL) + 20000;
        char text[16];

        switch (ev_flight_join(&airport->flight, NULL, deadline, &status)) {
        case EV_FLIGHT_LEAD:
            RACE_CHECK(atomic_fetch_add(&airport->flying, 1) == 0);
            snprintf(text, sizeof text, "%d", index);
            atomic_fetch_sub(&airport->flying, 1);
            ev_flight_land(&airport->flight, EVBUS_REFUSED, text);
            atomic_fetch_add(&airport->leaders, 1);
            break;
        case EV_FLIGHT_DONE:
            RACE_CHECK(status == EVBUS_REFUSED && atoi(ev_detail()) != index);
            atomic_fetch_add(&airport->passengers, 1);
            break;
        case EV_FLIGHT_TIMEOUT:
            RACE_CHECK(deadline != EV_NEVER);
            atomic_fetch_add(&airport->late, 1);
        }
    }
}

/* Flights one after another, with deadlines that come at any moment: one leader at a time, an answer for everybody. */
static void test_flight_answers_everybody(void **state)
{
    struct airport airport = {0};

    (void)state;
    ev_flight_init(&airport.flight, &lock);
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        atomic_store(&airport.leaders, 0);
        atomic_store(&airport.passengers, 0);
        atomic_store(&airport.late, 0);
        race_run(6, fly_often, &airport);
        assert_int_equal(race_failures(), 0);
        assert_int_equal(atomic_load(&airport.leaders) + atomic_load(&airport.passengers) + atomic_load(&airport.late),
                         6 * 50);
        assert_null(airport.flight.seats);
        assert_int_equal(ev_load_relaxed(&airport.flight.park.waiters), 0);
    }
}

static void wait_virtually(int index, void *ctx)
{
    struct airport *airport = ctx;
    evbus_status status;

    if (index == 0) {
        RACE_CHECK(ev_flight_join(&airport->flight, airport->clock, 5 * EV_SEC, &status) == EV_FLIGHT_TIMEOUT);
        RACE_CHECK(ev_clock_now(airport->clock) >= 5 * EV_SEC);
        atomic_store(&airport->late, 1);
    }
    while (index == 1 && atomic_load(&airport->late) == 0) {
        evbus_clock_advance(airport->clock, 1000);
        sched_yield();
    }
}

/* Under a virtual clock a waiter's deadline is the clock's. */
static void test_flight_deadline_follows_a_virtual_clock(void **state)
{
    struct airport airport = {.clock = evbus_clock_new(0)};
    evbus_status status;

    (void)state;
    ev_flight_init(&airport.flight, &lock);
    assert_int_equal(ev_flight_join(&airport.flight, airport.clock, EV_NEVER, &status), EV_FLIGHT_LEAD);
    race_run(2, wait_virtually, &airport);
    assert_int_equal(race_failures(), 0);
    ev_flight_land(&airport.flight, EVBUS_OK, NULL);
    evbus_clock_free(airport.clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flight_forgets_its_result),
        cmocka_unit_test(test_flight_waiter_leaves_at_its_deadline),
        cmocka_unit_test(test_flight_has_one_leader_of_many),
        cmocka_unit_test(test_flight_failure_reaches_all),
        cmocka_unit_test(test_flight_answers_everybody),
        cmocka_unit_test(test_flight_deadline_follows_a_virtual_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
