/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crew in all orders, on a real ring. A worker here takes one item and is busy for ever after: the hardest case,
 * because nobody but the worker that was to be woken can take the next item.
 */
#include "conc/crew.h"
#include "conc/ring.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_crew crew;
static struct ev_ring ring;
static int made;
static int taken;
static int left;       /* workers that went home because their deadline had passed */
static int counted_on; /* items whose maker saw somebody idle after making them */

static void reset(void)
{
    ev_crew_init(&crew);
    atomic_init(&ring.head, 0);
    atomic_init(&ring.tail, 0);
    for (uint64_t i = 0; i <= ring.mask; i++)
        atomic_init(&ring.cells[i].seq, i);
    made = 0;
    taken = 0;
    left = 0;
    counted_on = 0;
}

static bool has_work(void *arg)
{
    (void)arg;
    return !ev_ring_empty(&ring);
}

static void make_one(void)
{
    MODEL_CHECK(ev_ring_push(&ring, &made));
    made++;
    ev_crew_wake(&crew);
}

static void make_two(void)
{
    make_one();
    make_one();
}

static void make_one_and_look(void)
{
    MODEL_CHECK(ev_ring_push(&ring, &made));
    made++;
    if (ev_load_seqcst(&crew.park.waiters) != 0)
        counted_on++;
    ev_crew_wake(&crew);
}

static void take_one(void)
{
    void *item;

    while (!ev_ring_pop(&ring, &item))
        ev_crew_sleep(&crew, has_work, NULL, EV_NEVER);
    ev_crew_pass(&crew, !ev_ring_empty(&ring));
    taken++;
}

static void take_two(void)
{
    take_one();
    take_one();
}

static void take_one_or_leave(void)
{
    void *item;

    while (!ev_ring_pop(&ring, &item)) {
        if (ev_crew_sleep(&crew, has_work, NULL, 0) == EV_CREW_TIMEOUT) {
            left++;
            return;
        }
    }
    ev_crew_pass(&crew, !ev_ring_empty(&ring));
    taken++;
}

/* All makers are done: nobody may sleep beside an item. */
static void no_work_is_left(void)
{
    MODEL_CHECK(taken == made);
}

static void no_work_is_left_by_a_sleeper(void)
{
    MODEL_CHECK(taken == made || left > 0);
    MODEL_CHECK(taken >= counted_on);
}

static const struct model one_item = {
    .name = "crew: 1 maker x 1 item, 2 workers",
    .reset = reset,
    .threads = {make_one, take_one, take_one},
    .check = no_work_is_left,
    .may_sleep = true,
};

static const struct model one_worker = {
    .name = "crew: 1 maker x 2 items, 1 worker for both",
    .reset = reset,
    .threads = {make_two, take_two},
    .check = no_work_is_left,
    .store_buffers = true,
};

static const struct model one_maker = {
    .name = "crew: 1 maker x 2 items, 2 workers",
    .reset = reset,
    .threads = {make_two, take_one, take_one},
    .check = no_work_is_left,
    .switches_max = MODEL_SWITCHES,
};

static const struct model two_makers = {
    .name = "crew: 2 makers x 1 item, 2 workers",
    .reset = reset,
    .threads = {make_one, make_one, take_one, take_one},
    .check = no_work_is_left,
    .switches_max = MODEL_SWITCHES - 1,
};

static const struct model leaving = {
    .name = "crew: 1 maker x 1 item, 1 worker with a deadline",
    .reset = reset,
    .threads = {make_one_and_look, take_one_or_leave},
    .check = no_work_is_left_by_a_sleeper,
    .store_buffers = true,
};

static const struct model staying = {
    .name = "crew: 1 maker x 2 items, 1 worker with a deadline, 1 without",
    .reset = reset,
    .threads = {make_two, take_one_or_leave, take_two},
    .check = no_work_is_left,
    .may_sleep = true,
    .switches_max = MODEL_SWITCHES,
};

/* Work and an idle worker never stay beside each other, with deadlines or without. */
static void test_model_crew_leaves_no_work(void **state)
{
    (void)state;
    model_expect_sound(&leaving);
    model_expect_sound(&one_worker);
    model_expect_sound(&one_item);
    model_expect_sound(&one_maker);
    model_expect_sound(&two_makers);
    model_expect_sound(&staying);
}

/* A mark that is not cleared on the way in or after the sleep, or a missing last look, leaves work behind. */
static void test_model_crew_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&one_maker, EV_BUG_CREW_CLEAR_LEAVING);
    MODEL_EXPECT_FOUND(&one_maker, EV_BUG_CREW_CLEAR_ENTERING);
    MODEL_EXPECT_FOUND(&leaving, EV_BUG_CREW_NO_LAST_LOOK);
    MODEL_EXPECT_FOUND(&one_worker, EV_BUG_WEAK_STORES);
}

/* Clearing it after the re-check has found work saves wakes, it is not what makes them safe: crew.h says so. */
static void test_model_crew_is_safe_without_the_second_clearing(void **state)
{
    struct model shorter = one_maker;

    (void)state;
    shorter.switches_max--;
    ev_model_bug = EV_BUG_CREW_CLEAR_WORKING;
    model_expect_sound(&shorter);
    model_expect_sound(&one_worker);
    model_expect_sound(&one_item);
    ev_model_bug = EV_BUG_NONE;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_crew_leaves_no_work),
        cmocka_unit_test(test_model_crew_finds_mistakes),
        cmocka_unit_test(test_model_crew_is_safe_without_the_second_clearing),
    };
    static struct ev_ring_cell cells[2];

    ring.mask = 1;
    ring.cells = cells;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
