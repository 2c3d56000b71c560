/* SPDX-License-Identifier: Apache-2.0 */
/* The stack of free places in all orders: nobody gets a place that another has, and none is lost. */
#include "conc/stack.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PLACES 3

static struct place {
    struct ev_stack_link link;
    bool taken;
    uint32_t uses;
} places[PLACES];
static struct ev_stack stack;
static uint32_t there;

static void reset_with(uint32_t count)
{
    memset(places, 0, sizeof places);
    ev_stack_init(&stack, &places[0].link, sizeof places[0]);
    there = count;
    for (uint32_t i = 0; i < count; i++)
        ev_stack_push(&stack, i);
}

static void reset_with_two(void)
{
    reset_with(2);
}

static void reset_with_three(void)
{
    reset_with(3);
}

static bool take(uint32_t *ret)
{
    if (!ev_stack_pop(&stack, ret))
        return false;
    EV_WRITES(&places[*ret].taken);
    MODEL_CHECK(!places[*ret].taken);
    places[*ret].taken = true;
    places[*ret].uses++;
    return true;
}

static void give(uint32_t number)
{
    EV_WRITES(&places[number].taken);
    places[number].taken = false;
    ev_stack_push(&stack, number);
}

static void take_and_give(void)
{
    uint32_t number;

    if (take(&number))
        give(number);
}

static void take_and_give_twice(void)
{
    take_and_give();
    take_and_give();
}

/* The order that a stack without a count does not survive: the first one taken comes back above another's. */
static void take_two_and_give_the_first(void)
{
    uint32_t first, second;

    if (!take(&first))
        return;
    if (take(&second))
        give(first);
    else
        give(first);
}

static void take_two_and_give_both_at_once(void)
{
    struct ev_stack_row row = {0};
    uint32_t number;

    for (int i = 0; i < 2; i++) {
        if (!take(&number))
            break;
        EV_WRITES(&places[number].taken);
        places[number].taken = false;
        ev_stack_row_add(&stack, &row, number);
    }
    ev_stack_push_row(&stack, &row);
}

static void all_are_there(void)
{
    uint32_t number, free_places = 0, taken = 0;

    for (uint32_t i = 0; i < there; i++)
        taken += places[i].taken;
    while (take(&number))
        free_places++;
    MODEL_CHECK(free_places + taken == there);
}

static const struct model two_users = {
    .name = "stack of 2: 2 threads that take and give back twice",
    .reset = reset_with_two,
    .threads = {take_and_give_twice, take_and_give_twice},
    .check = all_are_there,
    .store_buffers = true,
};

static const struct model keeps_one = {
    .name = "stack of 3: 1 thread that takes two and gives the first back, 1 that takes and gives back",
    .reset = reset_with_three,
    .threads = {take_two_and_give_the_first, take_and_give},
    .check = all_are_there,
    .store_buffers = true,
};

static const struct model three_users = {
    .name = "stack of 2: 3 threads that take and give back",
    .reset = reset_with_two,
    .threads = {take_and_give, take_and_give, take_and_give},
    .check = all_are_there,
};

static const struct model three_mixed = {
    .name = "stack of 3: 1 thread that keeps one of two, 2 that take and give back",
    .reset = reset_with_three,
    .threads = {take_two_and_give_the_first, take_and_give, take_and_give},
    .check = all_are_there,
};

static const struct model in_rows = {
    .name = "stack of 3: 1 thread that takes two and gives both back at once, 1 that keeps one of two",
    .reset = reset_with_three,
    .threads = {take_two_and_give_both_at_once, take_two_and_give_the_first},
    .check = all_are_there,
    .store_buffers = true,
};

static const struct model three_in_rows = {
    .name = "stack of 3: 1 thread that takes two and gives both back at once, 2 that take and give back",
    .reset = reset_with_three,
    .threads = {take_two_and_give_both_at_once, take_and_give, take_and_give},
    .check = all_are_there,
    .switches_max = MODEL_SWITCHES,
};

/* Each place has one owner or is in the stack, once. */
static void test_model_stack_gives_each_place_to_one(void **state)
{
    (void)state;
    model_expect_sound(&two_users);
    model_expect_sound(&keeps_one);
    model_expect_sound(&three_users);
    model_expect_sound(&three_mixed);
    model_expect_sound(&in_rows);
    model_expect_sound(&three_in_rows);
}

/* Without the count of pops an old link becomes the top. */
static void test_model_stack_finds_a_missing_count(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&keeps_one, EV_BUG_STACK_NO_COUNT);
    MODEL_EXPECT_FOUND(&three_mixed, EV_BUG_STACK_NO_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_stack_gives_each_place_to_one),
        cmocka_unit_test(test_model_stack_finds_a_missing_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
