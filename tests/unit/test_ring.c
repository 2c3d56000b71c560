/* SPDX-License-Identifier: Apache-2.0 */
/* The bounded queue: alone, and with every mixture of producers and consumers it allows. */
#include "base/alloc.h"
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

static void *item_of(uintptr_t number)
{
    return (void *)number; /* NOLINT(performance-no-int-to-ptr): the ring carries any pointer */
}

/* A capacity is rounded up to a power of two, at least 2, and exactly that many items fit. */
static void test_ring_holds_what_its_capacity_says(void **state)
{
    static const struct {
        uint32_t asked;
        uintptr_t fits;
    } cases[] = {{0, 2}, {1, 2}, {2, 2}, {3, 4}, {4, 4}, {1000, 1024}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ev_ring ring;

        assert_int_equal(ev_ring_init(&ring, cases[i].asked), EVBUS_OK);
        for (uintptr_t n = 1; n <= cases[i].fits; n++)
            assert_true(n % 2 ? ev_ring_push(&ring, item_of(n)) : ev_ring_push_one(&ring, item_of(n)));
        assert_false(ev_ring_push(&ring, item_of(99)));
        assert_false(ev_ring_push_one(&ring, item_of(99)));
        ev_ring_fini(&ring);
    }
    assert_int_equal(ev_alloc_live(), 0);
}

/* No memory is reported, and the ring can be finished all the same. */
static void test_ring_init_reports_no_memory(void **state)
{
    struct ev_ring ring;

    (void)state;
    ev_alloc_fail_after(1);
    assert_int_equal(ev_ring_init(&ring, 8), EVBUS_NOMEM);
    ev_ring_fini(&ring);
    ev_ring_fini(&ring);
}

/* One thread gets back what it put in, in order, over many rounds of the cells, by either form. */
static void test_ring_is_a_queue(void **state)
{
    struct ev_ring ring;
    uintptr_t pushed = 0;
    uintptr_t popped = 0;

    (void)state;
    assert_int_equal(ev_ring_init(&ring, 8), EVBUS_OK);
    assert_true(ev_ring_empty(&ring));
    for (int round = 0; round < 1000; round++) {
        void *item = NULL;

        for (int i = 0; i < round % 9; i++)
            if (round % 2 ? ev_ring_push(&ring, item_of(pushed + 1)) : ev_ring_push_one(&ring, item_of(pushed + 1)))
                pushed++;
        assert_true(pushed - popped <= 8);
        assert_int_equal(ev_ring_empty(&ring), pushed == popped);
        for (int i = 0; i < round % 7; i++)
            if (round % 3 ? ev_ring_pop(&ring, &item) : ev_ring_pop_one(&ring, &item))
                assert_ptr_equal(item, item_of(++popped));
        assert_int_equal(ev_ring_empty(&ring), pushed == popped);
    }
    assert_true(popped > 1000);
    ev_ring_fini(&ring);
}

/* A producer that stands still between claim and publish makes nobody wait: pop says "nothing", push goes on. */
static void test_ring_does_not_wait_for_a_stalled_producer(void **state)
{
    struct ev_ring ring;
    void *item;

    (void)state;
    assert_int_equal(ev_ring_init(&ring, 4), EVBUS_OK);
    const uint64_t claimed = ev_add_relaxed(&ring.tail, 1); /* what a producer does first */
    assert_true(ev_ring_push(&ring, item_of(2)));
    assert_true(ev_ring_push(&ring, item_of(3)));
    assert_true(ev_ring_empty(&ring));
    assert_false(ev_ring_pop(&ring, &item));
    assert_false(ev_ring_pop_one(&ring, &item));

    ring.cells[claimed].item = item_of(1); /* and what it does last */
    ev_store_seqcst(&ring.cells[claimed].seq, claimed + 1);
    assert_false(ev_ring_empty(&ring));
    for (uintptr_t n = 1; n <= 3; n++) {
        assert_true(ev_ring_pop(&ring, &item));
        assert_ptr_equal(item, item_of(n));
    }
    ev_ring_fini(&ring);
}

/* A consumer that stands still between claim and release makes push say "full", and other consumers go on. */
static void test_ring_does_not_wait_for_a_stalled_consumer(void **state)
{
    struct ev_ring ring;
    void *item;

    (void)state;
    assert_int_equal(ev_ring_init(&ring, 2), EVBUS_OK);
    assert_true(ev_ring_push(&ring, item_of(1)));
    assert_true(ev_ring_push(&ring, item_of(2)));
    const uint64_t claimed = ev_add_relaxed(&ring.head, 1); /* what a consumer does first */
    assert_false(ev_ring_empty(&ring));
    assert_true(ev_ring_pop(&ring, &item));
    assert_ptr_equal(item, item_of(2));
    assert_true(ev_ring_empty(&ring));
    assert_false(ev_ring_push(&ring, item_of(3)));

    ev_store_release(&ring.cells[claimed].seq, claimed + 2); /* and what it does last */
    assert_true(ev_ring_push(&ring, item_of(3)));
    ev_ring_fini(&ring);
}

/* ---- Races -------------------------------------------------------------------------------------------------------- */

#define PRODUCERS_MAX 4
#define ITEMS_EACH 120

struct flow {
    struct ev_ring ring;
    int producers;
    int consumers;
    bool push_one;
    bool pop_one;
    _Atomic(int) left;
    _Atomic(uint32_t) taken[PRODUCERS_MAX][ITEMS_EACH];
    int payload[PRODUCERS_MAX][ITEMS_EACH]; /* plain: ThreadSanitizer checks edge A1 -> A2 on it */
};

static void produce(struct flow *flow, int producer)
{
    for (int i = 0; i < ITEMS_EACH; i++) {
        int *payload = &flow->payload[producer][i];

        *payload = producer * ITEMS_EACH + i + 1;
        while (flow->push_one ? !ev_ring_push_one(&flow->ring, payload) : !ev_ring_push(&flow->ring, payload))
            sched_yield();
    }
}

static void consume(struct flow *flow)
{
    int last[PRODUCERS_MAX];
    void *item = NULL;

    memset(last, -1, sizeof last);
    while (atomic_load(&flow->left) > 0) {
        if (flow->pop_one ? !ev_ring_pop_one(&flow->ring, &item) : !ev_ring_pop(&flow->ring, &item)) {
            sched_yield();
            continue;
        }
        const int number = *(int *)item - 1;
        const int producer = number / ITEMS_EACH;
        const int index = number % ITEMS_EACH;

        RACE_CHECK(item == &flow->payload[producer][index]);
        RACE_CHECK(index > last[producer]);
        last[producer] = index;
        atomic_fetch_add(&flow->taken[producer][index], 1);
        atomic_fetch_sub(&flow->left, 1);
    }
}

static void flow_thread(int index, void *ctx)
{
    struct flow *flow = ctx;

    if (index < flow->producers)
        produce(flow, index);
    else
        consume(flow);
}

static void run_flow(int producers, int consumers, bool push_one, bool pop_one)
{
    struct flow *flow = ev_aligned(alignof(struct flow), sizeof *flow);

    assert_non_null(flow);
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        memset(flow, 0, sizeof *flow);
        flow->producers = producers;
        flow->consumers = consumers;
        flow->push_one = push_one;
        flow->pop_one = pop_one;
        atomic_init(&flow->left, producers * ITEMS_EACH);
        assert_int_equal(ev_ring_init(&flow->ring, 1u << round % 6), EVBUS_OK);
        race_run(producers + consumers, flow_thread, flow);
        assert_int_equal(race_failures(), 0);
        for (int p = 0; p < producers; p++)
            for (int i = 0; i < ITEMS_EACH; i++)
                assert_int_equal(atomic_load(&flow->taken[p][i]), 1);
        assert_true(ev_ring_empty(&flow->ring));
        ev_ring_fini(&flow->ring);
    }
    ev_free(flow);
    assert_int_equal(ev_alloc_live(), 0);
}

/* Several producers and consumers: each item comes out once, and those of one producer in order. */
static void test_ring_keeps_order_per_producer(void **state)
{
    (void)state;
    run_flow(2, 2, false, false);
    run_flow(4, 1, false, false);
}

/* The same with exactly one producer, exactly one consumer, and both. */
static void test_ring_keeps_order_in_its_single_forms(void **state)
{
    (void)state;
    run_flow(1, 3, true, false);
    run_flow(3, 1, false, true);
    run_flow(1, 1, true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_holds_what_its_capacity_says),
        cmocka_unit_test(test_ring_init_reports_no_memory),
        cmocka_unit_test(test_ring_is_a_queue),
        cmocka_unit_test(test_ring_does_not_wait_for_a_stalled_producer),
        cmocka_unit_test(test_ring_does_not_wait_for_a_stalled_consumer),
        cmocka_unit_test(test_ring_keeps_order_per_producer),
        cmocka_unit_test(test_ring_keeps_order_in_its_single_forms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
