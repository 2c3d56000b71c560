/* SPDX-License-Identifier: Apache-2.0 */
/* ev_park in all orders, the futex being a step like any other: no wake is lost, no announcement is left behind. */
#include "conc/park.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_park park;
static _Atomic(uint32_t) tokens;
static int taken;
static int gave_up;

static void reset(void)
{
    ev_park_init(&park);
    atomic_init(&tokens, 0);
    taken = 0;
    gave_up = 0;
}

static bool take_token(void)
{
    uint32_t seen = ev_load_seqcst(&tokens);

    while (seen > 0)
        if (ev_cas_seqcst(&tokens, &seen, seen - 1))
            return true;
    return false;
}

/* As everywhere in the library: announce, look, sleep; in a loop. */
static void take_one(int64_t deadline)
{
    for (;;) {
        const uint32_t ticket = ev_park_prepare(&park);

        if (take_token()) {
            ev_park_cancel(&park);
            taken++;
            return;
        }
        if (!ev_park_wait(&park, ticket, NULL, deadline)) {
            gave_up++;
            return;
        }
    }
}

static void sleeper(void)
{
    take_one(EV_NEVER);
}

static void sleeper_with_deadline(void)
{
    take_one(0); /* in the model it may pass at any moment */
}

static void give_one(void)
{
    ev_add_seqcst(&tokens, 1);
    ev_park_wake(&park, 1);
}

static void give_by_store(void)
{
    ev_store_seqcst(&tokens, 1);
    ev_park_wake(&park, 1);
}

static void give_two(void)
{
    ev_add_seqcst(&tokens, 2);
    ev_park_wake(&park, UINT32_MAX);
}

static void nobody_is_left(void)
{
    MODEL_CHECK(atomic_load(&park.waiters) == 0);
    MODEL_CHECK(taken + gave_up == 2 || taken == 1);
    MODEL_CHECK((int)atomic_load(&tokens) <= gave_up);
}

static const struct model one_and_one = {
    .name = "park: 1 sleeper, 1 waker by a store",
    .reset = reset,
    .threads = {sleeper, give_by_store},
    .check = nobody_is_left,
    .store_buffers = true,
};

static const struct model two_and_two = {
    .name = "park: 2 sleepers, 2 wakers of 1",
    .reset = reset,
    .threads = {sleeper, sleeper, give_one, give_one},
    .check = nobody_is_left,
    .switches_max = MODEL_SWITCHES,
};

static const struct model wake_all = {
    .name = "park: 2 sleepers, 1 waker of all",
    .reset = reset,
    .threads = {sleeper, sleeper, give_two},
    .check = nobody_is_left,
    .store_buffers = true,
};

static const struct model deadlines = {
    .name = "park: 2 sleepers, 1 with a deadline, 2 wakers of 1",
    .reset = reset,
    .threads = {sleeper_with_deadline, sleeper, give_one, give_one},
    .check = nobody_is_left,
    .switches_max = MODEL_SWITCHES,
};

/* Every token is taken while somebody waits for one, with any number of sleepers, wakers and deadlines. */
static void test_model_park_loses_no_wake(void **state)
{
    (void)state;
    model_expect_sound(&one_and_one);
    model_expect_sound(&wake_all);
    model_expect_sound(&two_and_two);
    model_expect_sound(&deadlines);
}

/* A wake that does not change the word, and a condition stored with less than seq_cst, leave somebody asleep. */
static void test_model_park_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&one_and_one, EV_BUG_PARK_SILENT_WAKE);
    MODEL_EXPECT_FOUND(&one_and_one, EV_BUG_WEAK_STORES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_park_loses_no_wake),
        cmocka_unit_test(test_model_park_finds_mistakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
