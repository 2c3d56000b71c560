/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sleep protocol of one consumer, made of a ring and a flag: the producer pushes, then looks at the flag; the
 * consumer sets the flag, then asks ev_ring_empty. Edge C of ring.h, with store buffers: it is sound because the push
 * publishes by a seq_cst store and the consumer announces itself by one, and not otherwise.
 */
#include "conc/ring.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_ring ring;
static _Atomic(uint32_t) asleep;
static int items_wanted;
static int taken;
static bool looks_first; /* the mistake this protocol is about: look for items, then announce */

static void reset(void)
{
    taken = 0;
    atomic_init(&asleep, 0);
    atomic_init(&ring.head, 0);
    atomic_init(&ring.tail, 0);
    for (uint64_t i = 0; i <= ring.mask; i++)
        atomic_init(&ring.cells[i].seq, i);
}

static void produce(void)
{
    MODEL_CHECK(ev_ring_push(&ring, &taken));
    if (ev_load_seqcst(&asleep) != 0) {
        ev_store_seqcst(&asleep, 0);
        ev_model_futex_wake(&asleep, 1);
    }
}

static void produce_two(void)
{
    produce();
    produce();
}

static void nap(void)
{
    if (looks_first && !ev_ring_empty(&ring))
        return;
    ev_store_seqcst(&asleep, 1);
    if (!looks_first && !ev_ring_empty(&ring))
        ev_store_seqcst(&asleep, 0);
    else
        (void)ev_model_futex_wait(&asleep, 1, false);
}

static void consume(void)
{
    void *item;

    while (taken < items_wanted) {
        if (ev_ring_pop_one(&ring, &item))
            taken++;
        else
            nap();
    }
}

static void consume_one(void)
{
    items_wanted = 1;
    consume();
}

static void consume_two(void)
{
    items_wanted = 2;
    consume();
}

static void all_are_taken(void)
{
    MODEL_CHECK(taken == items_wanted);
}

static const struct model one_item = {
    .name = "sleep: 1 item",
    .reset = reset,
    .threads = {produce, consume_one},
    .check = all_are_taken,
    .store_buffers = true,
};

static const struct model one_producer = {
    .name = "sleep: 1 producer x 2 items",
    .reset = reset,
    .threads = {produce_two, consume_two},
    .check = all_are_taken,
    .store_buffers = true,
};

static const struct model two_producers = {
    .name = "sleep: 2 producers x 1 item",
    .reset = reset,
    .threads = {produce, produce, consume_two},
    .check = all_are_taken,
    .store_buffers = true,
};

/* However pushes and naps meet, the consumer gets every item and never sleeps beside one. */
static void test_model_sleep_loses_no_wake(void **state)
{
    (void)state;
    model_expect_sound(&one_item);
    model_expect_sound(&one_producer);
    model_expect_sound(&two_producers);
}

/* Release stores in place of seq_cst ones, and looking before announcing, both lose a wake. */
static void test_model_sleep_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&one_item, EV_BUG_WEAK_STORES);
    looks_first = true;
    assert_non_null(model_explore(&one_item).failure);
    looks_first = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_sleep_loses_no_wake),
        cmocka_unit_test(test_model_sleep_finds_mistakes),
    };
    static struct ev_ring_cell cells[2];

    ring.mask = 1;
    ring.cells = cells;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
