/* SPDX-License-Identifier: Apache-2.0 */
/* When gathering ends: not before all is here that comes before what is here, also if a new leader knows less. */
#include "backend/nats_consume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static bool held[64];
static uint32_t ended;
static struct ev_missing asked; /* is there room for it? */
static bool cramped;            /* there is not */

static bool holds(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    (void)host;
    (void)sub;
    return stream_seq < 64 && held[stream_seq];
}

static void gather(struct ev_host *host, struct evbus_sub *sub, bool on)
{
    (void)host;
    (void)sub;
    ended += !on;
}

static bool let_go(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing)
{
    (void)host;
    (void)sub;
    asked = *missing;
    return cramped;
}

static const struct ev_host_tap tap = {.holds = holds, .gather = gather, .let_go = let_go};
static struct ev_host host = {.tap = &tap};
static struct ev_nats st;
static struct ev_nats_consume consume;
static struct ev_nats_binding b, *heap[4];

/* 1 to 9 are settled; the server has delivered up to `delivered` and `pending` of those are not settled; what came here last is 20. */
static int set_up(void **state)
{
    (void)state;
    memset(&st, 0, sizeof st);
    memset(&b, 0, sizeof b);
    memset(held, 0, sizeof held);
    memset(&consume, 0, sizeof consume);
    memset(&asked, 0, sizeof asked);
    cramped = false;
    ended = 0;
    st.host = &host;
    st.consume = &consume;
    consume.heap = heap;
    b.exclusive = true;
    b.gap.first = 10;
    b.gap.last = 60;
    b.gap.reached = 20;
    b.gap.told = 1;
    b.gap.gathering = true;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ev_nats_gather_forget(&b.gap);
    return 0;
}

static void told(uint64_t delivered, uint64_t pending)
{
    b.gap.delivered = delivered;
    b.gap.pending = pending;
    ev_nats_gather_told(&st, &b);
}

static void test_gathering_ends_when_all_came(void **state)
{
    (void)state;
    for (int seq = 12; seq <= 20; seq++)
        held[seq] = true;
    told(20, 11);
    ev_nats_gap_delivered(&st, &b, 10, false);
    ev_nats_gap_delivered(&st, &b, 10, false);
    assert_int_equal(ended, 0);
    ev_nats_gap_delivered(&st, &b, 11, false);
    assert_int_equal(ended, 1);
}

static void test_gathering_ends_at_the_first_new_one(void **state)
{
    (void)state;
    told(20, 11); /* some of them were settled meanwhile */
    ev_nats_gap_delivered(&st, &b, 10, false);
    assert_int_equal(ended, 0);
    ev_nats_gap_delivered(&st, &b, 21, true);
    assert_int_equal(ended, 1);
}

/* A new leader may not know that it was delivered before, only that it is pending. */
static void test_what_is_pending_is_not_new(void **state)
{
    (void)state;
    b.gap.reached = 15;
    told(20, 11);
    for (uint64_t seq = 10; seq <= 19; seq++)
        ev_nats_gap_delivered(&st, &b, seq, true);
    assert_int_equal(ended, 0);
    ev_nats_gap_delivered(&st, &b, 20, true);
    assert_int_equal(ended, 1);
}

/* 16 to 20 are here, which the new leader does not know of: they are none of the three that it misses. */
static void test_what_a_leader_forgot_is_not_counted(void **state)
{
    (void)state;
    for (int seq = 16; seq <= 20; seq++)
        held[seq] = true;
    told(12, 3);
    ev_nats_gap_delivered(&st, &b, 10, false);
    assert_int_equal(ended, 0);
    assert_int_equal(b.gap.unseen, 2);
}

/* 13 to 15 got lost and are new to it: they come before 16 to 20 may start. */
static void test_what_a_leader_forgot_is_waited_for(void **state)
{
    (void)state;
    for (int seq = 16; seq <= 20; seq++)
        held[seq] = true;
    told(12, 3);
    for (uint64_t seq = 10; seq <= 12; seq++)
        ev_nats_gap_delivered(&st, &b, seq, false);
    for (uint64_t seq = 13; seq <= 19; seq++)
        ev_nats_gap_delivered(&st, &b, seq, true);
    assert_int_equal(ended, 0);
    ev_nats_gap_delivered(&st, &b, 20, true);
    assert_int_equal(ended, 1);
}

static void test_a_leader_that_forgot_all_is_waited_for(void **state)
{
    (void)state;
    held[20] = true;
    told(9, 0);
    ev_nats_gap_delivered(&st, &b, 10, true);
    assert_int_equal(ended, 0);
    ev_nats_gap_idle(&st, &b); /* and has nothing more */
    assert_int_equal(ended, 1);
}

/* They were told, and no pull is open since there is no room: they are told once more, with room. */
static void test_what_does_not_fit_is_not_given_up(void **state)
{
    (void)state;
    told(20, 11);
    st.now = 3 * EV_SEC;
    ev_nats_gather_turn(&st, &b);
    assert_int_equal(ended, 0);
    assert_true(b.gap.due);
    b.gap.due = false; /* the rule began */
    cramped = true;
    ev_nats_gather_room(&st, &b);
    assert_true(asked.certainly);
    assert_int_equal(asked.pending, 11);
    assert_true(b.gap.let_go);
    assert_null(b.gap.seen);
}

/* The rule was through without asking for room: it left them to another client. */
static void test_what_is_left_to_others_is_given_up(void **state)
{
    (void)state;
    told(20, 11);
    st.now = 3 * EV_SEC;
    ev_nats_gather_turn(&st, &b);
    b.gap.due = false;
    st.now = 6 * EV_SEC;
    ev_nats_gather_turn(&st, &b);
    assert_int_equal(ended, 1);
}

/* Nobody takes a pull, since the consumer has no leader now: what its last one sent may be lost, and is looked for before anything
 * new is asked for. */
static void test_after_no_answer_it_is_looked_for_what_was_lost(void **state)
{
    (void)state;
    consume.buckets[0].first = &b;
    b.pull_count = 1;
    b.out_msgs = 5;
    b.seq_known = true;
    ev_nats_pull_unanswered(&st, &consume.buckets[0]);
    assert_int_equal(b.out_msgs, 0);
    assert_true(b.gap.due);
    assert_false(b.seq_known);
}

int main(void)
{
#define GATHER(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        GATHER(test_gathering_ends_when_all_came),
        GATHER(test_gathering_ends_at_the_first_new_one),
        GATHER(test_what_is_pending_is_not_new),
        GATHER(test_what_a_leader_forgot_is_not_counted),
        GATHER(test_what_a_leader_forgot_is_waited_for),
        GATHER(test_a_leader_that_forgot_all_is_waited_for),
        GATHER(test_what_does_not_fit_is_not_given_up),
        GATHER(test_what_is_left_to_others_is_given_up),
        GATHER(test_after_no_answer_it_is_looked_for_what_was_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
