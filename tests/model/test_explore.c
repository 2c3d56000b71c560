/* SPDX-License-Identifier: Apache-2.0 */
/* The explorer itself: it finds the known outcomes of known programs, and reduction loses none of them. */
#include "explore.h"

#include <errno.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static _Atomic(uint32_t) a;
static _Atomic(uint32_t) b;
static _Atomic(uint32_t) c;
static uint32_t seen[3];
static uint64_t outcomes; /* a bit for each combination of what was seen */

static void reset(void)
{
    atomic_init(&a, 0);
    atomic_init(&b, 0);
    atomic_init(&c, 0);
    memset(seen, 0, sizeof seen);
}

static void note(void)
{
    const uint32_t outcome = seen[0] + 4 * seen[1] + 16 * seen[2];

    MODEL_CHECK(outcome < 64);
    outcomes |= UINT64_C(1) << outcome;
}

static uint64_t outcomes_of(struct model model, int switches_max)
{
    outcomes = 0;
    model.switches_max = switches_max;
    assert_null(model_explore(&model).failure);
    return outcomes;
}

/* With and without reduction the same outcomes are reached. 1000 switches are no bound for such small programs. */
static uint64_t all_outcomes_of(const struct model *model)
{
    const uint64_t reduced = outcomes_of(*model, 0);

    assert_true(reduced == outcomes_of(*model, 1000));
    return reduced;
}

/* ---- Store, then load: the pattern of every sleep protocol --------------------------------------------------------- */

static void announce_a_by_release(void)
{
    ev_store_release(&a, 1);
    seen[0] = ev_load_acquire(&b);
}

static void announce_b_by_release(void)
{
    ev_store_release(&b, 1);
    seen[1] = ev_load_acquire(&a);
}

static void announce_a(void)
{
    ev_store_seqcst(&a, 1);
    seen[0] = ev_load_seqcst(&b);
}

static void announce_b(void)
{
    ev_store_seqcst(&b, 1);
    seen[1] = ev_load_seqcst(&a);
}

#define BOTH_MISSED (UINT64_C(1) << 0)

/* Both threads may miss each other if their stores wait in buffers, and only then; seq_cst forbids it. */
static void test_explore_store_buffers_reorder_what_is_not_seqcst(void **state)
{
    struct model weak = {.name = "store, load: release",
                         .reset = reset,
                         .threads = {announce_a_by_release, announce_b_by_release},
                         .check = note};
    struct model strong = {
        .name = "store, load: seq_cst", .reset = reset, .threads = {announce_a, announce_b}, .check = note};

    (void)state;
    assert_false(all_outcomes_of(&weak) & BOTH_MISSED);
    weak.store_buffers = true;
    assert_true(all_outcomes_of(&weak) & BOTH_MISSED);
    strong.store_buffers = true;
    assert_false(all_outcomes_of(&strong) & BOTH_MISSED);
    ev_model_bug = EV_BUG_WEAK_STORES;
    assert_true(all_outcomes_of(&strong) & BOTH_MISSED);
    ev_model_bug = EV_BUG_NONE;
}

/* ---- Reduction ----------------------------------------------------------------------------------------------------- */

static void add_twice(void)
{
    seen[0] = ev_load_relaxed(&a);
    ev_store_relaxed(&a, seen[0] + 1);
    ev_store_release(&b, 1);
}

static void look_backwards(void)
{
    seen[1] = ev_load_acquire(&b);
    seen[2] = ev_load_acquire(&a);
}

static void set_both(void)
{
    ev_store_release(&a, 2);
    ev_store_release(&b, 2);
}

static void add_to_c(void)
{
    ev_add_seqcst(&c, 1);
    seen[2] = ev_add_seqcst(&a, 1);
}

/* Reduced and unreduced exploration agree, with and without store buffers. */
static void test_explore_reduction_loses_no_outcome(void **state)
{
    struct model models[] = {
        {.name = "message passing", .reset = reset, .threads = {add_twice, look_backwards}, .check = note},
        {.name = "two writers", .reset = reset, .threads = {announce_a_by_release, set_both}, .check = note},
        {.name = "three threads",
         .reset = reset,
         .threads = {announce_a_by_release, announce_b_by_release, add_to_c},
         .check = note},
        {.name = "three with a reader",
         .reset = reset,
         .threads = {add_twice, look_backwards, set_both},
         .check = note},
    };

    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        all_outcomes_of(&models[i]);
        if (i < 3) {
            models[i].store_buffers = true;
            all_outcomes_of(&models[i]);
        }
    }
}

/* ---- Futex and yield ----------------------------------------------------------------------------------------------- */

static void sleep_on_a(void)
{
    seen[0] = ev_model_futex_wait(&a, 0, false) == 0 ? 1 : 2;
}

static void sleep_on_a_for_a_while(void)
{
    const int result = ev_model_futex_wait(&a, 0, true);

    seen[0] = result == 0 ? 1 : result == EAGAIN ? 2 : 3;
}

static void change_and_wake(void)
{
    ev_store_seqcst(&a, 1);
    ev_model_futex_wake(&a, 1);
}

static void wake_without_change(void)
{
    ev_model_futex_wake(&a, 1);
}

static void yield_until_c(void)
{
    while (ev_load_acquire(&c) == 0)
        EV_YIELD();
    seen[1] = ev_load_acquire(&a);
}

#define SEEN_0(value) (UINT64_C(1) << (value))

/* A futex is woken, or does not sleep because the word changed, or times out; each is met. */
static void test_explore_futex_ends_in_every_way(void **state)
{
    const struct model woken = {
        .name = "futex, woken", .reset = reset, .threads = {sleep_on_a, change_and_wake}, .check = note};
    const struct model timed = {.name = "futex with a deadline",
                                .reset = reset,
                                .threads = {sleep_on_a_for_a_while, change_and_wake},
                                .check = note};

    (void)state;
    assert_true(all_outcomes_of(&woken) == (SEEN_0(1) | SEEN_0(2)));
    assert_true(all_outcomes_of(&timed) == (SEEN_0(1) | SEEN_0(2) | SEEN_0(3)));
}

/* A thread that sleeps for ever is a failure, unless the model allows it. */
static void test_explore_sleeping_for_ever_is_found(void **state)
{
    struct model lost = {
        .name = "futex, wake too early", .reset = reset, .threads = {sleep_on_a, wake_without_change}, .check = note};

    (void)state;
    assert_string_equal(model_explore(&lost).failure, "a thread sleeps for ever");
    lost.may_sleep = true;
    assert_null(model_explore(&lost).failure);
}

/* A thread that yields goes on when another has written, and the search comes to an end. */
static void test_explore_yield_waits_for_a_write(void **state)
{
    const struct model patient = {
        .name = "yield", .reset = reset, .threads = {add_to_c, yield_until_c, announce_b}, .check = note};

    (void)state;
    assert_true(all_outcomes_of(&patient) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_explore_store_buffers_reorder_what_is_not_seqcst),
        cmocka_unit_test(test_explore_reduction_loses_no_outcome),
        cmocka_unit_test(test_explore_futex_ends_in_every_way),
        cmocka_unit_test(test_explore_sleeping_for_ever_is_found),
        cmocka_unit_test(test_explore_yield_waits_for_a_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
