/* SPDX-License-Identifier: Apache-2.0 */
/* Idle workers: one wake-up in flight, handed on, never lost. */
#include "conc/crew.h"
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

#define WORKERS 4
#define PRODUCERS 2
#define ITEMS_EACH 200

struct shop {
    struct ev_crew crew;
    struct ev_ring ring;
    _Atomic(uint32_t) closing;
    _Atomic(int) producing;
    _Atomic(int) done;
    int64_t patience_ns; /* how long a worker sleeps; EV_NEVER: for ever */
    int asked;
};

static bool has_work(void *arg)
{
    struct shop *shop = arg;

    return !ev_ring_empty(&shop->ring) || ev_load_seqcst(&shop->closing) != 0;
}

static bool has_work_the_second_time(void *arg)
{
    return ((struct shop *)arg)->asked++ > 0;
}

static void open_shop(struct shop *shop, uint32_t capacity)
{
    memset(shop, 0, sizeof *shop);
    ev_crew_init(&shop->crew);
    shop->patience_ns = EV_NEVER;
    atomic_init(&shop->producing, PRODUCERS);
    assert_int_equal(ev_ring_init(&shop->ring, capacity), EVBUS_OK);
}

/* Work that is there already is found before sleeping, and work that comes as the deadline passes is found after it. */
static void test_crew_looks_before_and_after_the_sleep(void **state)
{
    struct shop shop;

    (void)state;
    open_shop(&shop, 2);
    assert_int_equal(ev_crew_sleep(&shop.crew, has_work, &shop, 0), EV_CREW_TIMEOUT);
    assert_int_equal(ev_crew_sleep(&shop.crew, has_work_the_second_time, &shop, 0), EV_CREW_WORK);
    assert_true(ev_ring_push(&shop.ring, &shop));
    assert_int_equal(ev_crew_sleep(&shop.crew, has_work, &shop, EV_NEVER), EV_CREW_WORK);
    assert_int_equal(ev_crew_idle(&shop.crew), 0);
    assert_int_equal(ev_load_relaxed(&shop.crew.waking), 0);
    ev_ring_fini(&shop.ring);
}

/* However much work is made while one wake-up is in flight, no second one is sent. */
static void test_crew_sends_one_wake_at_a_time(void **state)
{
    struct shop shop;

    (void)state;
    open_shop(&shop, 2);
    for (int i = 0; i < 10; i++)
        ev_crew_wake(&shop.crew);
    assert_int_equal(ev_load_relaxed(&shop.crew.park.word), 0); /* nobody sleeps: nothing is sent */
    ev_park_prepare(&shop.crew.park);
    assert_int_equal(ev_crew_idle(&shop.crew), 1);
    for (int i = 0; i < 10; i++) {
        ev_crew_wake(&shop.crew);
        ev_crew_pass(&shop.crew, true);
    }
    assert_int_equal(ev_load_relaxed(&shop.crew.park.word), 1);
    ev_park_cancel(&shop.crew.park);
    ev_ring_fini(&shop.ring);
}

/* A mark that a waker left behind when it met nobody does not keep the next sleeper asleep. */
static void test_crew_clears_a_stale_mark(void **state)
{
    struct shop shop;

    (void)state;
    open_shop(&shop, 2);
    ev_store_seqcst(&shop.crew.waking, 1);
    assert_int_equal(ev_crew_sleep(&shop.crew, has_work, &shop, 0), EV_CREW_TIMEOUT);
    assert_int_equal(ev_load_relaxed(&shop.crew.waking), 0);
    ev_ring_fini(&shop.ring);
}

static void produce(struct shop *shop)
{
    for (int i = 0; i < ITEMS_EACH; i++) {
        while (!ev_ring_push(&shop->ring, shop))
            sched_yield();
        ev_crew_wake(&shop->crew);
    }
    if (atomic_fetch_sub(&shop->producing, 1) == 1) {
        ev_store_seqcst(&shop->closing, 1);
        ev_crew_wake_all(&shop->crew);
    }
}

static void work(struct shop *shop)
{
    void *item;

    for (;;) {
        if (ev_ring_pop(&shop->ring, &item)) {
            ev_crew_pass(&shop->crew, !ev_ring_empty(&shop->ring));
            atomic_fetch_add(&shop->done, 1);
        } else if (ev_load_seqcst(&shop->closing) && ev_ring_empty(&shop->ring)) {
            return;
        } else {
            const int64_t until = shop->patience_ns == EV_NEVER ? EV_NEVER : ev_clock_now(NULL) + shop->patience_ns;

            ev_crew_sleep(&shop->crew, has_work, shop, until);
        }
    }
}

static void shop_thread(int index, void *ctx)
{
    if (index < PRODUCERS)
        produce(ctx);
    else
        work(ctx);
}

static void run_shop(int64_t patience_ns)
{
    struct shop shop;

    for (int round = 0; round < RACE_REPETITIONS; round++) {
        open_shop(&shop, 2u << round % 8);
        shop.patience_ns = patience_ns;
        race_run(PRODUCERS + WORKERS, shop_thread, &shop);
        assert_int_equal(atomic_load(&shop.done), PRODUCERS * ITEMS_EACH);
        assert_int_equal(ev_crew_idle(&shop.crew), 0);
        ev_ring_fini(&shop.ring);
    }
    assert_int_equal(race_failures(), 0);
}

/* Two producers, four workers that sleep without a deadline: all work is done and all come home. */
static void test_crew_does_all_work(void **state)
{
    (void)state;
    run_shop(EV_NEVER);
}

/* The same with sleeps that end by their deadline all the time. */
static void test_crew_does_all_work_with_short_patience(void **state)
{
    (void)state;
    run_shop(20000);
}

static void relay(int index, void *ctx)
{
    struct shop *shop = ctx;
    void *item;

    if (index == 0) {
        while (ev_crew_idle(&shop->crew) < WORKERS)
            sched_yield();
        for (int i = 0; i < WORKERS; i++)
            RACE_CHECK(ev_ring_push(&shop->ring, shop));
        ev_crew_wake(&shop->crew);
        return;
    }
    while (!ev_ring_pop(&shop->ring, &item))
        ev_crew_sleep(&shop->crew, has_work, shop, EV_NEVER);
    ev_crew_pass(&shop->crew, !ev_ring_empty(&shop->ring));
    atomic_fetch_add(&shop->done, 1);
    while (atomic_load(&shop->done) < WORKERS) /* a handler that goes on until the others have started theirs */
        sched_yield();
}

/* One wake for a burst is enough: each woken worker wakes the next before its long handler begins. */
static void test_crew_hands_the_wake_on(void **state)
{
    struct shop shop;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        open_shop(&shop, WORKERS);
        race_run(1 + WORKERS, relay, &shop);
        assert_int_equal(atomic_load(&shop.done), WORKERS);
        ev_ring_fini(&shop.ring);
    }
    assert_int_equal(race_failures(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crew_looks_before_and_after_the_sleep),
        cmocka_unit_test(test_crew_sends_one_wake_at_a_time),
        cmocka_unit_test(test_crew_clears_a_stale_mark),
        cmocka_unit_test(test_crew_does_all_work),
        cmocka_unit_test(test_crew_does_all_work_with_short_patience),
        cmocka_unit_test(test_crew_hands_the_wake_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
