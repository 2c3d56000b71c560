/* SPDX-License-Identifier: Apache-2.0 */
#include "core/span.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct ev_span span;
static uint64_t counted;

static int set_up(void **state)
{
    (void)state;
    memset(&span, 0, sizeof span);
    counted = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ev_span_fini(&span);
    return 0;
}

/* A delivery; `lost` others were counted before it and did not come. Stored at its sequence's time. */
static void deliver(uint64_t seq, uint64_t lost)
{
    bool in_a_row;

    counted += lost + 1;
    ev_span_count(&span, counted, &in_a_row);
    ev_span_add(&span, seq, (int64_t)seq * 10, in_a_row);
}

static bool has(uint64_t seq)
{
    return ev_span_has(&span, seq, (int64_t)seq * 10);
}

/* However many there were, one span holds them; what lies between two that came in a row belongs to others. */
static void test_span_remembers_all_that_came_in_a_row(void **state)
{
    (void)state;
    assert_false(has(1));
    for (uint64_t seq = 3; seq < 3000000; seq += 3)
        deliver(seq, 0);
    assert_int_equal(span.count, 0);
    assert_true(has(3) && has(2999997) && has(1500000));
    assert_false(has(2) || has(3000000));
}

static void test_span_leaves_a_hole_where_something_was_lost(void **state)
{
    (void)state;
    deliver(1, 0);
    deliver(2, 0);
    deliver(10, 7);
    for (uint64_t seq = 3; seq < 10; seq++)
        assert_false(has(seq));
    assert_true(has(1) && has(2) && has(10));
    deliver(5, 0); /* it comes again */
    assert_true(has(5));
    assert_false(has(4) || has(6));
    assert_int_equal(span.count, 2);
    for (uint64_t seq = 3; seq < 10; seq++)
        deliver(seq, 0);
    assert_int_equal(span.count, 0);
}

/* What comes again in between does not make up for what was left out: the next new one is in a row with it, and the lost one
 * is still missing. */
static void test_span_keeps_a_hole_behind_a_redelivery(void **state)
{
    bool in_a_row;

    (void)state;
    deliver(1, 0);
    deliver(2, 0);
    counted += 2; /* 3 was lost, and 1, settled, comes again: it is counted and not taken in */
    ev_span_count(&span, counted, &in_a_row);
    assert_false(in_a_row);
    deliver(4, 0);
    assert_false(has(3));
    deliver(3, 0);
    assert_true(has(3));
}

static void test_span_forgets_what_was_handed_back(void **state)
{
    (void)state;
    for (uint64_t seq = 1; seq <= 5; seq++)
        deliver(seq, 0);
    ev_span_hand_back(&span, 3);
    ev_span_hand_back(&span, 4);
    ev_span_hand_back(&span, 9);
    assert_true(has(2) && has(5));
    assert_false(has(3) || has(4) || has(9));
}

static void test_span_grows_downwards(void **state)
{
    (void)state;
    deliver(100, 0);
    deliver(50, 0);
    assert_true(has(50) && has(100));
    assert_false(has(51) || has(99) || has(49));
}

/* A broker that lost the end of its stream uses the sequences again, for what is stored later. */
static void test_span_knows_nothing_of_a_sequence_used_again(void **state)
{
    bool in_a_row;

    (void)state;
    for (uint64_t seq = 1; seq <= 100; seq++)
        deliver(seq, 0);
    assert_false(ev_span_has(&span, 90, 1001));
    ev_span_count(&span, 1, &in_a_row);
    ev_span_add(&span, 90, 1001, in_a_row);
    assert_true(ev_span_has(&span, 90, 1001));
    assert_false(has(89)); /* forgotten: at worst it runs again */
}

/* What was settled before the first delivery is known as well, once that delivery is above it. */
static void test_span_begins_above_what_others_settled(void **state)
{
    (void)state;
    ev_span_settled(&span, 100);
    ev_span_settled(&span, 40); /* the broker has lost some of it since */
    assert_false(has(7));       /* not yet: the stream may be another one */
    deliver(106, 0);
    deliver(107, 0);
    assert_true(has(1) && has(100) && has(106) && has(107));
    assert_false(has(101) || has(105) || has(108));
    assert_false(ev_span_has(&span, 7, 1071)); /* stored later: used again */
    ev_span_settled(&span, 105);               /* we are at work: what comes between comes to us */
    assert_false(has(105));
    ev_span_forget(&span);
    deliver(106, 0);
    assert_false(has(100));
}

/* It begins at or below what was said to be settled: nothing is known, and nothing is concluded. */
static void test_span_doubts_what_others_settled(void **state)
{
    (void)state;
    ev_span_settled(&span, 100);
    deliver(60, 0);
    assert_true(has(60));
    assert_false(has(59) || has(1) || has(61));
}

/* Without memory for the first hole, what lies beside it is not claimed any more. */
static void test_span_claims_less_without_memory(void **state)
{
    (void)state;
    deliver(1, 0);
    ev_alloc_fail_after(1);
    deliver(5, 3);
    assert_false(has(1) || has(2) || has(4));
    assert_true(has(5));
    ev_alloc_fail_after(1);
    deliver(2, 0);
    assert_false(has(2) || has(3) || has(4));
    deliver(6, 0);
    ev_alloc_fail_after(1);
    ev_span_hand_back(&span, 5);
    assert_false(has(5) || has(6));
    ev_alloc_fail_after(0);
}

/* A member's turn begins with what those before it left, here and there between what they settled, and what it settled of
 * that it knows however much it settles after. */
static void test_span_remembers_what_was_left_here_and_there(void **state)
{
    enum { WINDOW = 1000 };

    (void)state;
    span.most = WINDOW * 2;
    ev_span_settled(&span, 100);
    for (uint64_t seq = 103; seq < 103 + 3 * WINDOW; seq += 3)
        deliver(seq, 1); /* two between settled by those before; as if another member had been given them */
    for (uint64_t seq = 103 + 3 * WINDOW; seq < 50000; seq++)
        deliver(seq, seq == 103 + 3 * WINDOW ? 1 : 0);
    for (uint64_t seq = 101; seq < 103 + 3 * WINDOW; seq++)
        assert_int_equal(has(seq), seq % 3 == 1);
    for (uint64_t seq = 49999; seq > 49999 - 2 * (WINDOW - 1); seq -= 2) /* as many are out, and handed back */
        ev_span_hand_back(&span, seq);
    assert_true(has(103) && has(100 + 3 * WINDOW) && has(49998));
    assert_false(has(49999) || has(104));
}

/* Handed back one after the other, many are one hole. */
static void test_span_holes_side_by_side_are_one(void **state)
{
    (void)state;
    for (uint64_t seq = 1; seq <= 1000; seq++)
        deliver(seq, 0);
    for (uint64_t seq = 301; seq <= 900; seq += 2)
        ev_span_hand_back(&span, seq < 600 ? seq : 1500 - seq);
    for (uint64_t seq = 302; seq <= 900; seq += 2)
        ev_span_hand_back(&span, seq);
    assert_int_equal(span.count, 1);
    assert_true(has(300) && has(901));
    assert_false(has(301) || has(600) || has(900));
}

/* More than there may be, or than there is memory for: those with the least between them become one, the latest last. */
static void test_span_keeps_the_widest_of_what_it_cannot_keep(void **state)
{
    (void)state;
    for (uint64_t seq = 1; seq <= 20000; seq += 2)
        deliver(seq, 1);
    assert_in_range(span.count, EV_SPAN_HOLES / 2, EV_SPAN_HOLES);
    assert_true(has(19999) && has(19997) && !has(19998));
    for (uint64_t seq = 20001; seq <= 21000; seq++)
        deliver(seq, 0);
    for (uint64_t seq = 21002; seq <= 40000; seq += 2)
        deliver(seq, 1);
    assert_true(has(20001) && has(21000) && has(40000));
    assert_false(has(39999) || has(21001));
}

static void test_span_does_with_the_memory_there_is(void **state)
{
    uint64_t seq;

    (void)state;
    span.most = 4096;
    for (seq = 1; span.count == 0 || span.count < span.room; seq += 2)
        deliver(seq, 1);
    const uint32_t room = span.room;
    ev_alloc_fail_after(1);
    deliver(seq, 1);
    ev_alloc_fail_after(0);
    assert_int_equal(span.room, room);
    assert_in_range(span.count, 1, room);
    assert_true(has(seq) && has(seq - 2));
    assert_false(has(seq - 1) || has(2));
}

/* Against a plain set: what it claims to have came, and with room for all holes it has all that came. */
static void compare_with_a_set(uint32_t most)
{
    enum { N = 20000 };
    static bool came[N + 1];
    uint64_t rng = 88172645463325252u, seq = 1;

    span.most = most;
    memset(came, 0, sizeof came);
    for (int i = 0; i < 12000 && seq <= N; i++) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        if (rng % 100 < 3) { /* some are lost */
            const uint64_t lost = 1 + rng / 100 % 5;
            seq += lost;
            if (seq > N)
                break;
            deliver(seq, lost);
            came[seq++] = true;
        } else if (rng % 100 < 8) { /* an old one comes again, or for the first time */
            const uint64_t old = 1 + rng / 100 % seq;
            if (old < seq && old >= span.bottom) {
                deliver(old, 0);
                came[old] = true;
            }
        } else if (rng % 100 < 10 && seq > 1) {
            const uint64_t back = 1 + rng / 100 % (seq - 1);
            ev_span_hand_back(&span, back);
            came[back] = false;
        } else {
            deliver(seq, 0);
            came[seq++] = true;
        }
        assert_true(span.count <= (most > EV_SPAN_HOLES ? most : EV_SPAN_HOLES));
        for (uint32_t h = 1; h < span.count; h++)
            assert_true(span.holes[h - 1].last + 1 < span.holes[h].first);
    }
    for (uint64_t s = 1; s < seq; s++)
        assert_true(has(s) == came[s] || (!has(s) && span.count + most / 8 >= most));
    assert_true(seq > 5000);
}

static void test_span_never_claims_what_did_not_come(void **state)
{
    (void)state;
    compare_with_a_set(0);
}

static void test_span_knows_all_with_room_for_it(void **state)
{
    (void)state;
    compare_with_a_set(5000);
    assert_in_range(span.count, EV_SPAN_HOLES * 2, 4000); /* many, but there was room */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_span_remembers_all_that_came_in_a_row, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_leaves_a_hole_where_something_was_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_keeps_a_hole_behind_a_redelivery, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_forgets_what_was_handed_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_grows_downwards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_knows_nothing_of_a_sequence_used_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_begins_above_what_others_settled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_doubts_what_others_settled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_claims_less_without_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_remembers_what_was_left_here_and_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_holes_side_by_side_are_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_keeps_the_widest_of_what_it_cannot_keep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_does_with_the_memory_there_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_never_claims_what_did_not_come, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_span_knows_all_with_room_for_it, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
