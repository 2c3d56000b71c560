/* SPDX-License-Identifier: Apache-2.0 */
/* The ring in all orders: each item comes out once and whole, those of one producer in order. */
#include "conc/ring.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_ring ring;
static int items[2][2];
static int refused[2][2];
static int taken[2][2];
static bool in_order; /* one consumer: the order of taking is that of popping */

static void reset(void)
{
    memset(refused, 0, sizeof refused);
    memset(taken, 0, sizeof taken);
    in_order = true;
    atomic_init(&ring.head, 0);
    atomic_init(&ring.tail, 0);
    for (uint64_t i = 0; i <= ring.mask; i++) {
        atomic_init(&ring.cells[i].seq, i);
        ring.cells[i].item = NULL;
    }
}

static void take(const int *item)
{
    MODEL_CHECK(item >= &items[0][0] && item <= &items[1][1]);
    const int number = (int)(item - &items[0][0]);
    const int producer = number / 2;

    MODEL_CHECK(taken[producer][number % 2] == 0);
    if (in_order && number % 2 == 1)
        MODEL_CHECK(taken[producer][0] || refused[producer][0]);
    taken[producer][number % 2] = 1;
}

/* At the end: what was accepted and not taken is still there, and nothing else. */
static void nothing_is_lost(void)
{
    void *item = NULL;

    while (ev_ring_pop(&ring, &item))
        take(item);
    MODEL_CHECK(ev_ring_empty(&ring));
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 2; i++)
            MODEL_CHECK(taken[p][i] + refused[p][i] == 1);
}

static void push(int producer, int index)
{
    if (!ev_ring_push(&ring, &items[producer][index]))
        refused[producer][index] = 1;
}

static void push_two_of_first(void)
{
    push(0, 0);
    push(0, 1);
}

static void push_two_of_second(void)
{
    push(1, 0);
    push(1, 1);
}

static void push_one_of_first(void)
{
    push(0, 0);
    refused[0][1] = 1;
}

static void push_one_of_second(void)
{
    push(1, 0);
    refused[1][1] = 1;
}

static void push_two_beside_nobody(void)
{
    push_two_of_first();
    refused[1][0] = refused[1][1] = 1;
}

static void push_four_alone(void)
{
    for (int i = 0; i < 4; i++)
        if (!ev_ring_push_one(&ring, &items[i / 2][i % 2]))
            refused[i / 2][i % 2] = 1;
}

static void pop(void)
{
    void *item = NULL;

    if (ev_ring_pop(&ring, &item))
        take(item);
}

static void pop_once(void)
{
    in_order = false;
    pop();
}

static void pop_three(void)
{
    for (int i = 0; i < 3; i++)
        pop();
}

static void pop_four_alone(void)
{
    void *item = NULL;

    for (int i = 0; i < 4; i++)
        if (ev_ring_pop_one(&ring, &item))
            take(item);
}

static void ask_and_pop(void)
{
    void *item = NULL;
    const bool empty = ev_ring_empty(&ring);

    if (ev_ring_pop_one(&ring, &item))
        take(item);
    else
        MODEL_CHECK(empty); /* nobody else pops: what was there is still there */
}

static void ask_beside_a_consumer(void)
{
    (void)ev_ring_empty(&ring); /* comes to an end, whatever the others do */
}

static const struct model two_to_one = {
    .name = "ring of 2: 2 producers x 2 items, 1 consumer x 3",
    .reset = reset,
    .threads = {push_two_of_first, push_two_of_second, pop_three},
    .check = nothing_is_lost,
};

static const struct model two_to_two = {
    .name = "ring of 2: 2 producers x 2 items, 2 consumers x 1",
    .reset = reset,
    .threads = {push_two_of_first, push_two_of_second, pop_once, pop_once},
    .check = nothing_is_lost,
};

static const struct model one_to_one = {
    .name = "ring of 2: the only producer x 4 items, the only consumer x 4",
    .reset = reset,
    .threads = {push_four_alone, pop_four_alone},
    .check = nothing_is_lost,
    .store_buffers = true,
};

static const struct model asked = {
    .name = "ring of 2: 2 producers x 1 item, 1 who asks and pops",
    .reset = reset,
    .threads = {push_one_of_first, push_one_of_second, ask_and_pop},
    .check = nothing_is_lost,
    .store_buffers = true,
};

static const struct model asked_beside = {
    .name = "ring of 2: 1 producer x 2 items, 1 consumer, 1 who asks",
    .reset = reset,
    .threads = {push_two_beside_nobody, pop_once, ask_beside_a_consumer},
    .check = nothing_is_lost,
    .store_buffers = true,
};

/* Every item of every producer is taken once, in its order, by one consumer or by two. */
static void test_model_ring_is_sound(void **state)
{
    (void)state;
    model_expect_sound(&one_to_one);
    model_expect_sound(&two_to_two);
    model_expect_sound(&two_to_one);
    model_expect_sound(&asked);
    model_expect_sound(&asked_beside);
}

/* A cell that is published before its item, or released before it was read, is found. */
static void test_model_ring_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&one_to_one, EV_BUG_RING_EARLY_PUBLISH);
    MODEL_EXPECT_FOUND(&two_to_one, EV_BUG_RING_EARLY_PUBLISH);
    MODEL_EXPECT_FOUND(&two_to_one, EV_BUG_RING_EARLY_RELEASE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_ring_is_sound),
        cmocka_unit_test(test_model_ring_finds_mistakes),
    };
    static struct ev_ring_cell cells[2];

    ring.mask = 1;
    ring.cells = cells;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
