/* SPDX-License-Identifier: Apache-2.0 */
/* The baton in all orders: one runner at a time, and no command is left when all are home. */
#include "conc/baton.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_baton baton;
static _Atomic(uint32_t) posted;
static uint32_t handled;
static uint32_t expected;
static _Atomic(uint32_t) running;

static void reset(void)
{
    atomic_init(&baton.state, EV_BATON_FREE);
    atomic_init(&posted, 0);
    atomic_init(&running, 0);
    handled = 0;
    expected = 0;
}

static void run(void)
{
    MODEL_CHECK(ev_add_relaxed(&running, 1) == 0);
    handled = ev_load_acquire(&posted);
    ev_sub_relaxed(&running, 1);
}

static void post(void)
{
    ev_add_acqrel(&posted, 1);
    expected++;
    if (ev_baton_take(&baton))
        do
            run();
        while (ev_baton_pass(&baton));
}

static void post_twice(void)
{
    post();
    post();
}

static void all_is_handled(void)
{
    MODEL_CHECK(handled == expected);
    MODEL_CHECK(atomic_load(&baton.state) == EV_BATON_FREE);
}

static const struct model two = {
    .name = "baton: 2 threads x 2 commands",
    .reset = reset,
    .threads = {post_twice, post_twice},
    .check = all_is_handled,
    .store_buffers = true,
};

static const struct model three = {
    .name = "baton: 3 threads x 1 command",
    .reset = reset,
    .threads = {post, post, post},
    .check = all_is_handled,
};

static const struct model three_mixed = {
    .name = "baton: 3 threads, 1 + 1 + 2 commands",
    .reset = reset,
    .threads = {post, post, post_twice},
    .check = all_is_handled,
};

/* Whatever is posted is handled by somebody, and never by two at a time. */
static void test_model_baton_handles_all(void **state)
{
    (void)state;
    model_expect_sound(&two);
    model_expect_sound(&three);
    model_expect_sound(&three_mixed);
}

/* A runner that lets go without looking again leaves a command behind. */
static void test_model_baton_finds_a_dropped_request(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&two, EV_BUG_BATON_DROPS);
    MODEL_EXPECT_FOUND(&three, EV_BUG_BATON_DROPS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_baton_handles_all),
        cmocka_unit_test(test_model_baton_finds_a_dropped_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
