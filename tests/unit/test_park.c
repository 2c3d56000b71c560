/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping and waking: no wake is lost, deadlines end a sleep, and a virtual clock is looked at. */
#include "conc/park.h"
#include "conc/ring.h"
#include "support/race.h"

#include <sched.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A wake between prepare and wait ends the sleep before it begins. */
static void test_park_wake_before_wait_is_not_lost(void **state)
{
    struct ev_park park;

    (void)state;
    ev_park_init(&park);
    const uint32_t ticket = ev_park_prepare(&park);
    ev_park_wake(&park, 1);
    assert_true(ev_park_wait(&park, ticket, NULL, EV_NEVER));
    assert_int_equal(ev_load_relaxed(&park.waiters), 0);
}

/* With nobody announced, a wake touches nothing: it costs one load. */
static void test_park_wake_without_sleepers_touches_nothing(void **state)
{
    struct ev_park park;

    (void)state;
    ev_park_init(&park);
    ev_park_wake(&park, UINT32_MAX);
    assert_int_equal(ev_load_relaxed(&park.word), 0);
    ev_park_prepare(&park);
    ev_park_cancel(&park);
    ev_park_wake(&park, UINT32_MAX);
    assert_int_equal(ev_load_relaxed(&park.word), 0);
}

/* A sleep ends by its deadline, not before; a deadline in the past ends it at once, also one before the clock's zero. */
static void test_park_wait_ends_by_its_deadline(void **state)
{
    struct ev_park park;
    const int64_t deadline = ev_clock_now(NULL) + 3 * EV_MS;

    (void)state;
    ev_park_init(&park);
    assert_false(ev_park_wait(&park, ev_park_prepare(&park), NULL, deadline));
    assert_true(ev_clock_now(NULL) >= deadline);
    assert_false(ev_park_wait(&park, ev_park_prepare(&park), NULL, deadline));
    assert_false(ev_park_wait(&park, ev_park_prepare(&park), NULL, 0));
    assert_false(ev_park_wait(&park, ev_park_prepare(&park), NULL, INT64_MIN));
    assert_int_equal(ev_load_relaxed(&park.waiters), 0);
}

struct stage {
    struct ev_park park;
    evbus_clock *clock;
    _Atomic(uint32_t) done;
    _Atomic(uint32_t) tokens;
    struct ev_ring ring;
};

static void sleep_by_virtual_clock(int index, void *ctx)
{
    struct stage *stage = ctx;

    if (index == 0) {
        RACE_CHECK(!ev_park_wait(&stage->park, ev_park_prepare(&stage->park), stage->clock, 60 * EV_SEC));
        RACE_CHECK(ev_clock_now(stage->clock) >= 60 * EV_SEC);
        atomic_store(&stage->done, 1);
    }
    while (index == 1 && atomic_load(&stage->done) == 0) {
        evbus_clock_advance(stage->clock, 10000);
        sched_yield();
    }
}

/* Under a virtual clock a minute's sleep ends as soon as the minute is over there. */
static void test_park_wait_follows_a_virtual_clock(void **state)
{
    struct stage stage = {.clock = evbus_clock_new(0)};

    (void)state;
    ev_park_init(&stage.park);
    race_run(2, sleep_by_virtual_clock, &stage);
    assert_int_equal(race_failures(), 0);
    assert_false(ev_park_wait(&stage.park, ev_park_prepare(&stage.park), stage.clock, 0));
    evbus_clock_free(stage.clock);
}

static void wake_under_virtual_clock(int index, void *ctx)
{
    struct stage *stage = ctx;

    if (index == 0)
        RACE_CHECK(ev_park_wait(&stage->park, ev_park_prepare(&stage->park), stage->clock, EV_SEC));
    while (index == 1 &&
           ev_load_relaxed(&stage->park.word) == 0) { /* the test looks inside, to wake without sleeping */
        ev_park_wake(&stage->park, 1);
        sched_yield();
    }
}

/* Under a virtual clock that stands still a wake ends the sleep. */
static void test_park_wake_works_under_a_virtual_clock(void **state)
{
    struct stage stage = {.clock = evbus_clock_new(0)};

    (void)state;
    ev_park_init(&stage.park);
    race_run(2, wake_under_virtual_clock, &stage);
    assert_int_equal(race_failures(), 0);
    evbus_clock_free(stage.clock);
}

/* ---- Races: a lost wake would hang them ---------------------------------------------------------------------------- */

#define TURNS 200

static bool take_token(struct stage *stage)
{
    uint32_t seen = ev_load_seqcst(&stage->tokens);

    while (seen > 0)
        if (ev_cas_seqcst(&stage->tokens, &seen, seen - 1))
            return true;
    return false;
}

static void wait_for_token(struct stage *stage)
{
    for (;;) {
        const uint32_t ticket = ev_park_prepare(&stage->park);

        if (take_token(stage)) {
            ev_park_cancel(&stage->park);
            return;
        }
        RACE_CHECK(ev_park_wait(&stage->park, ticket, NULL, EV_NEVER));
    }
}

static void pass_tokens(int index, void *ctx)
{
    struct stage *stage = ctx;

    for (int i = 0; i < TURNS; i++) {
        if (index % 2 == 0) {
            wait_for_token(stage);
        } else {
            ev_add_seqcst(&stage->tokens, 1);
            ev_park_wake(&stage->park, 1);
        }
    }
}

/* Every token that is put down with one wake is taken by a sleeper, however the two meet. */
static void test_park_loses_no_wake_between_many(void **state)
{
    struct stage stage = {0};

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        ev_park_init(&stage.park);
        race_run(round % 2 ? 2 : 6, pass_tokens, &stage);
        assert_int_equal(race_failures(), 0);
        assert_int_equal(atomic_load(&stage.tokens), 0);
        assert_int_equal(ev_load_relaxed(&stage.park.waiters), 0);
    }
}

static void wait_for_curtain(int index, void *ctx)
{
    struct stage *stage = ctx;

    if (index == 0) {
        ev_store_seqcst(&stage->done, 1);
        ev_park_wake(&stage->park, UINT32_MAX);
        return;
    }
    for (;;) {
        const uint32_t ticket = ev_park_prepare(&stage->park);

        if (ev_load_seqcst(&stage->done)) {
            ev_park_cancel(&stage->park);
            return;
        }
        ev_park_wait(&stage->park, ticket, NULL, EV_NEVER);
    }
}

/* One wake of all ends every sleep. */
static void test_park_wakes_all(void **state)
{
    struct stage stage = {0};

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        ev_park_init(&stage.park);
        atomic_store(&stage.done, 0);
        race_run(6, wait_for_curtain, &stage);
        assert_int_equal(ev_load_relaxed(&stage.park.waiters), 0);
    }
    assert_int_equal(race_failures(), 0);
}

static void push_to_sleeper(int index, void *ctx)
{
    struct stage *stage = ctx;
    void *item;

    for (int i = 0; i < TURNS && index > 0; i++) {
        while (!ev_ring_push(&stage->ring, stage))
            sched_yield();
        ev_park_wake(&stage->park, 1);
    }
    for (int got = 0; got < 2 * TURNS && index == 0;) {
        if (ev_ring_pop_one(&stage->ring, &item)) {
            got++;
            continue;
        }
        const uint32_t ticket = ev_park_prepare(&stage->park);
        if (!ev_ring_empty(&stage->ring))
            ev_park_cancel(&stage->park);
        else
            ev_park_wait(&stage->park, ticket, NULL, EV_NEVER);
    }
}

/* A ring's push and ev_ring_empty are the two ends of the sleep protocol: two producers never leave the consumer asleep. */
static void test_park_and_ring_lose_no_item(void **state)
{
    struct stage stage = {0};

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        ev_park_init(&stage.park);
        assert_int_equal(ev_ring_init(&stage.ring, 4u << round % 8), EVBUS_OK);
        race_run(3, push_to_sleeper, &stage);
        assert_true(ev_ring_empty(&stage.ring));
        ev_ring_fini(&stage.ring);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_park_wake_before_wait_is_not_lost),
        cmocka_unit_test(test_park_wake_without_sleepers_touches_nothing),
        cmocka_unit_test(test_park_wait_ends_by_its_deadline),
        cmocka_unit_test(test_park_wait_follows_a_virtual_clock),
        cmocka_unit_test(test_park_wake_works_under_a_virtual_clock),
        cmocka_unit_test(test_park_loses_no_wake_between_many),
        cmocka_unit_test(test_park_wakes_all),
        cmocka_unit_test(test_park_and_ring_lose_no_item),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
