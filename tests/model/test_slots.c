/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Publishers and the loop in all orders (edges P1 to P8 of core/slots.h): each publish is accepted or not, an accepted
 * one has exactly one outcome, whoever waits for it or for room is woken, and at the end all places are free and clean.
 */
#include "small_bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PUBLISHERS 3

static evbus_status status[PUBLISHERS];
static bool called[PUBLISHERS];
static uint32_t publishes; /* places */
static struct ev_topic *topics[PUBLISHERS];
static const char *const names[PUBLISHERS] = {"a", "b", "c"};

static void reset(void)
{
    memset(called, 0, sizeof called);
    memset(topics, 0, sizeof topics);
    small_bus_reset(publishes);
}

/* Publishes of core NATS: they end when they are sent. */
static void reset_with_one_place(void)
{
    publishes = 1;
    reset();
    topics[0] = small_topic("a", false);
    topics[1] = small_topic("b", false);
}

static void reset_with_two_places(void)
{
    publishes = 2;
    reset();
    topics[0] = small_topic("a", false);
    topics[1] = small_topic("b", false);
}

static void reset_with_one_place_until_two_are_sent(void)
{
    reset_with_one_place();
    small_backend.ends_after = 2;
}

/* Both places are taken by publishes on their way to the loop, which ends when one more was sent; a's gate is closed. */
static void reset_with_all_places_taken(void)
{
    reset_with_two_places();
    topics[2] = small_topic("c", false);
    for (int i = 0; i < 2; i++)
        MODEL_CHECK(evbus_publish(&small_bus, names[2], "x", 1, NULL) == EVBUS_OK);
    ev_store_relaxed(&topics[0]->gate, EV_GATE_CLOSED);
    ev_store_relaxed(&topics[0]->held_hint, 1);
    small_backend.ends_after = 3;
    small_backend.time_passes = true;
}

/* ---- Threads ------------------------------------------------------------------------------------------------------ */

static void publish(int i)
{
    called[i] = true;
    status[i] = evbus_publish(&small_bus, names[i], "x", 1, NULL);
}

static void publish_a(void)
{
    publish(0);
}

static void publish_b(void)
{
    publish(1);
}

/* Step 1 of shutdown.c. */
static void begin_end(int64_t deadline)
{
    ev_store_seqcst(&small_bus.phase, EV_DRAINING);
    ev_park_wake(&small_bus.slots.room, UINT32_MAX);
    small_bus.halt_at = deadline;
}

static void end_now(void)
{
    begin_end(0);
    ev_shutdown_turn(&small_bus);
}

static void end_when_idle(void)
{
    begin_end(EV_NEVER - 1);
    small_loop();
}

/* ---- Checks ------------------------------------------------------------------------------------------------------- */

static void all_places_are_free(void)
{
    struct ev_slots *slots = &small_bus.slots;
    uint32_t free_places = 0, number;

    for (; ev_stack_pop(&slots->free, &number); free_places++) {
        struct ev_slot *slot = &slots->all[number];
        MODEL_CHECK(ev_load_relaxed(&slot->state) == EV_SLOT_FREE);
        ev_store_relaxed(&slot->state, EV_SLOT_RESERVED); /* no place is there twice */
        MODEL_CHECK(slot->phase == EV_PHASE_IDLE && slot->charged == 0);
    }
    MODEL_CHECK(free_places == slots->count);
    MODEL_CHECK(ev_load_relaxed(&slots->bytes_used) == 0);
    MODEL_CHECK(small_bus.out.active == 0);
}

static uint32_t accepted(void)
{
    uint32_t n = 0;

    for (int i = 0; i < PUBLISHERS; i++)
        n += called[i] && status[i] == EVBUS_OK;
    return n;
}

static void each_has_one_outcome(void)
{
    const struct ev_counters *n = &small_bus.n;

    all_places_are_free();
    for (int i = 0; i < PUBLISHERS; i++)
        MODEL_CHECK(!called[i] || status[i] == EVBUS_OK || status[i] == EVBUS_CLOSED);
    MODEL_CHECK(ev_load_relaxed(&n->accepted) == accepted());
    MODEL_CHECK(ev_load_relaxed(&n->core) == small_backend.sent);
    MODEL_CHECK(ev_load_relaxed(&n->core) + ev_load_relaxed(&n->refused) == accepted());
    for (int i = 0; i < PUBLISHERS && topics[i] != NULL; i++)
        MODEL_CHECK(ev_load_relaxed(&topics[i]->core) + ev_load_relaxed(&topics[i]->refused) ==
                    (called[i] && status[i] == EVBUS_OK));
    small_bus_fini();
}

static void b_is_sent(void)
{
    MODEL_CHECK(status[1] == EVBUS_OK && small_backend.sent == 3);
    all_places_are_free();
    small_bus_fini();
}

/* The end came before its deadline: it has waited for all that was accepted. */
static void each_accepted_is_sent(void)
{
    MODEL_CHECK(small_backend.sent == accepted());
    each_has_one_outcome();
}

/* ---- Models ------------------------------------------------------------------------------------------------------- */

static const struct model against_deadline = {
    .name = "slots: 1 publisher, the end at its deadline",
    .reset = reset_with_one_place,
    .threads = {publish_a, end_now},
    .check = each_has_one_outcome,
    .cleanup = small_bus_forget,
    .store_buffers = true,
};

static const struct model two_against_deadline = {
    .name = "slots: 2 publishers and places, the end at its deadline",
    .reset = reset_with_two_places,
    .threads = {publish_a, publish_b, end_now},
    .check = each_has_one_outcome,
    .cleanup = small_bus_forget,
};

static const struct model against_draining = {
    .name = "slots: 1 publisher, a loop that drains",
    .reset = reset_with_one_place,
    .threads = {publish_a, end_when_idle},
    .check = each_accepted_is_sent,
    .cleanup = small_bus_forget,
};

static const struct model two_for_one_place = {
    .name = "slots: 2 publishers for 1 place, a loop",
    .reset = reset_with_one_place_until_two_are_sent,
    .threads = {publish_a, publish_b, small_loop},
    .check = each_accepted_is_sent,
    .cleanup = small_bus_forget,
    .switches_max = MODEL_SWITCHES - 1,
};

/* One wake (a few, outside models) for both places: it may meet the publisher that waits for its gate, not for room. */
static const struct model woken_in_vain = {
    .name = "slots: a publisher at a closed gate and one that waits for room, a loop",
    .reset = reset_with_all_places_taken,
    .threads = {publish_a, publish_b, small_loop},
    .check = b_is_sent,
    .cleanup = small_bus_forget,
    .switches_max = 1,
    .may_sleep = true,
};

/* A publish beside the end of the bus is accepted and has its outcome, or is refused as closed. */
static void test_model_slots_have_one_outcome_beside_the_end(void **state)
{
    (void)state;
    model_expect_sound(&against_deadline);
    model_expect_sound(&against_draining);
    model_expect_sound(&two_against_deadline);
    model_expect_sound(&two_for_one_place);
}

/* Nobody sleeps on beside a free place, though fewer are woken than wait; without the later look somebody does. */
static void test_model_slots_wake_all_in_the_end(void **state)
{
    (void)state;
    model_expect_sound(&woken_in_vain);
    MODEL_EXPECT_FOUND(&woken_in_vain, EV_BUG_SLOT_NO_LATE_WAKE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_slots_wake_all_in_the_end),
        cmocka_unit_test(test_model_slots_have_one_outcome_beside_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
