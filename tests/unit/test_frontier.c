/* SPDX-License-Identifier: Apache-2.0 */
#include "core/frontier.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void begin(struct ev_frontier *f, uint32_t capacity)
{
    memset(f, 0, sizeof *f);
    assert_true(ev_frontier_init(f, capacity));
    f->certain = true;
}

static void must_be_at(struct ev_frontier *f, uint64_t seq, uint64_t count)
{
    uint64_t have_seq = 0, have_count = 0;

    assert_true(ev_frontier_at(f, &have_seq, &have_count));
    assert_int_equal(have_seq, seq);
    assert_int_equal(have_count, count);
    ev_frontier_told(f);
}

static void must_stay(const struct ev_frontier *f)
{
    uint64_t seq, count;

    assert_false(ev_frontier_at(f, &seq, &count));
}

static void test_frontier_moves_over_what_is_finished_only(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 16);
    for (uint64_t i = 1; i <= 10; i++)
        assert_true(ev_frontier_add(&f, i * 7, i)); /* other topics' messages lie between */
    must_stay(&f);
    ev_frontier_finish(&f, 21);
    ev_frontier_finish(&f, 14);
    must_stay(&f);
    ev_frontier_finish(&f, 7);
    must_be_at(&f, 21, 3);
    must_stay(&f);
    for (uint64_t i = 5; i <= 10; i++)
        ev_frontier_finish(&f, i * 7);
    must_stay(&f);
    assert_true(ev_frontier_has(&f, 70));
    assert_false(ev_frontier_has(&f, 21));
    ev_frontier_finish(&f, 28);
    must_be_at(&f, 70, 10);
    assert_int_equal(f.count, 0);
    ev_frontier_fini(&f);
}

static void test_frontier_in_doubt_stays(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 16);
    assert_true(ev_frontier_add(&f, 1, 1));
    ev_frontier_finish(&f, 1);
    f.certain = false;
    must_stay(&f);
    f.certain = true;
    must_be_at(&f, 1, 1);
    ev_frontier_fini(&f);
}

/* nats-server takes no ack whose count is not above the one before: see the header. */
static void test_frontier_counts_go_up_through_redeliveries(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 32);
    for (uint64_t i = 1; i <= 10; i++)
        assert_true(ev_frontier_add(&f, i, i));
    for (uint64_t i = 1; i <= 5; i++)
        assert_true(ev_frontier_again(&f, i, 10 + i, false));
    for (uint64_t i = 1; i <= 10; i++) {
        ev_frontier_finish(&f, i);
        must_be_at(&f, i, 5 + i);
    }
    ev_frontier_fini(&f);
}

/* A leader that was elected has counted to 6 where 20 were delivered: an ack of 20 reached it, and it takes no other up to
 * that. What its replicas agreed on may be late; a consumer that was made anew begins to count again. */
static void test_frontier_counts_go_up_whatever_the_broker_has_counted(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 32);
    for (uint64_t i = 1; i <= 8; i++)
        assert_true(ev_frontier_add(&f, i, i));
    ev_frontier_certain(&f, 20, 12, false);
    for (uint64_t i = 1; i <= 8; i++)
        ev_frontier_finish(&f, i);
    must_be_at(&f, 8, 20);
    ev_frontier_certain(&f, 6, 4, false);
    assert_true(ev_frontier_add(&f, 9, 7));
    assert_true(ev_frontier_add(&f, 10, 8));
    assert_int_equal(ev_frontier_count_below(&f, 0, 4), 21);
    ev_frontier_finish(&f, 9);
    must_be_at(&f, 9, 22);
    assert_int_equal(ev_frontier_count_below(&f, 30, 0), 29); /* one stays */
    ev_frontier_finish(&f, 10);
    must_be_at(&f, 10, 30);
    ev_frontier_certain(&f, 31, 40, false); /* a member before had such a one */
    assert_true(ev_frontier_add(&f, 11, 32));
    ev_frontier_finish(&f, 11);
    must_be_at(&f, 11, 41);
    ev_frontier_certain(&f, 2, 1, true);
    assert_true(ev_frontier_add(&f, 12, 3));
    ev_frontier_finish(&f, 12);
    must_be_at(&f, 12, 3);
    assert_int_equal(ev_frontier_count_below(&f, 0, 9), 9); /* who has just begun */
    ev_frontier_fini(&f);
}

/* An ack was lost, the broker begins anew before it: what comes again is acked again. */
static void test_frontier_goes_back_with_the_broker(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 32);
    for (uint64_t i = 1; i <= 6; i++)
        assert_true(ev_frontier_add(&f, i, i));
    for (uint64_t i = 1; i <= 4; i++)
        ev_frontier_finish(&f, i);
    must_be_at(&f, 4, 4);
    ev_frontier_certain(&f, 3, 1, true);
    assert_true(ev_frontier_again(&f, 2, 4, true));
    assert_true(ev_frontier_again(&f, 3, 5, true));
    must_be_at(&f, 3, 3);
    ev_frontier_finish(&f, 5);
    must_be_at(&f, 5, 4);
    ev_frontier_fini(&f);
}

/* Delivered, and there was no memory for it: it holds the frontier until it has come again and is done. */
static void test_frontier_waits_for_what_was_not_taken_in(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 16);
    for (uint64_t i = 1; i <= 3; i++)
        assert_true(ev_frontier_add(&f, i, i));
    assert_int_equal(ev_frontier_within(&f, 1, 3), 3);
    ev_frontier_absent(&f, 1);
    assert_false(ev_frontier_has(&f, 1));
    assert_int_equal(ev_frontier_within(&f, 1, 3),
                     2); /* or it would never be asked for, and come after what is behind it */
    ev_frontier_finish(&f, 2);
    ev_frontier_finish(&f, 3);
    must_stay(&f);
    assert_true(ev_frontier_add(&f, 1, 4));
    must_stay(&f);
    ev_frontier_finish(&f, 1);
    must_be_at(&f, 3, 4);
    ev_frontier_fini(&f);
}

/* A broker that lost the end of its stream uses a sequence again, while the old message is still here. */
static void test_frontier_waits_for_both_of_one_sequence(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 16);
    assert_true(ev_frontier_add(&f, 9, 1));
    assert_true(ev_frontier_add(&f, 9, 2));
    ev_frontier_finish(&f, 9);
    must_stay(&f);
    ev_frontier_finish(&f, 9);
    must_be_at(&f, 9, 2);
    ev_frontier_fini(&f);
}

static void test_frontier_is_bounded_and_forgets_what_the_broker_has_not(void **state)
{
    struct ev_frontier f;

    (void)state;
    begin(&f, 16);
    for (uint64_t i = 1; i <= 16; i++)
        assert_true(ev_frontier_add(&f, i, i));
    ev_alloc_fail_after(1);
    assert_false(ev_frontier_add(&f, 17, 17));
    ev_alloc_fail_after(-1);
    assert_int_equal(ev_frontier_within(&f, 5, 12), 8);
    assert_int_equal(ev_frontier_within(&f, 5, UINT64_MAX - 1), 8);
    assert_true(ev_frontier_add(&f, 17, 17));
    assert_int_equal(ev_frontier_within(&f, 18, 20), 0);
    for (uint64_t i = 1; i <= EV_FRONTIER_MAX; i++)
        assert_true(ev_frontier_add(&f, i * 2, i));
    assert_false(ev_frontier_add(&f, 7, 7));
    ev_frontier_clear(&f);
    assert_int_equal(ev_frontier_within(&f, 0, 100), 0);
    ev_frontier_fini(&f);
}

struct model {
    bool here[400], done[400];
};

/* Against a simple model: any order of delivering, finishing, redelivering. */
static void test_frontier_as_a_model(void **state)
{
    enum { N = 400 };
    struct ev_frontier f;
    struct model m = {{false}, {false}};
    uint64_t rng = 88172645463325252u, top = 0, told = 0, seq = 0, count = 0, last = 0;

    (void)state;
    begin(&f, N);
    for (uint32_t round = 0; round < 20000; round++) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        const uint64_t i = 1 + rng / 8 % (N - 1);
        if (rng % 8 < 5 && !m.here[i] && i > told) {
            assert_true(ev_frontier_add(&f, i, ++top));
            m.here[i] = true;
        } else if (rng % 8 == 5 && m.here[i]) {
            assert_true(ev_frontier_again(&f, i, ++top, m.done[i]));
        } else if (m.here[i] && !m.done[i]) {
            ev_frontier_finish(&f, i);
            m.done[i] = true;
        }
        uint64_t want = 0;
        for (uint64_t k = 1; k < N && (!m.here[k] || m.done[k]); k++)
            want = m.here[k] ? k : want;
        assert_int_equal(ev_frontier_at(&f, &seq, &count), want != 0);
        if (want != 0)
            assert_int_equal(seq, want);
        assert_true(want == 0 || (count > last && (count <= top || count == last + 1)));
        if (want != 0 && rng % 3 == 0) {
            last = count;
            ev_frontier_told(&f);
            for (uint64_t k = 1; k <= want; k++)
                m.here[k] = m.done[k] = false;
            told = want < N / 2 ? want : 0; /* and begin again from below: acks that were lost */
        }
    }
    assert_true(top > 1000);
    ev_frontier_fini(&f);
}

static void test_frontier_lives_without_memory(void **state)
{
    struct ev_frontier f = {0};

    (void)state;
    ev_alloc_fail_after(1);
    assert_false(ev_frontier_init(&f, 64));
    ev_alloc_fail_after(-1);
    assert_false(ev_frontier_has(&f, 1));
    ev_frontier_finish(&f, 1);
    ev_frontier_absent(&f, 1);
    must_stay(&f);
    ev_frontier_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frontier_moves_over_what_is_finished_only),
        cmocka_unit_test(test_frontier_in_doubt_stays),
        cmocka_unit_test(test_frontier_counts_go_up_through_redeliveries),
        cmocka_unit_test(test_frontier_counts_go_up_whatever_the_broker_has_counted),
        cmocka_unit_test(test_frontier_goes_back_with_the_broker),
        cmocka_unit_test(test_frontier_waits_for_what_was_not_taken_in),
        cmocka_unit_test(test_frontier_waits_for_both_of_one_sequence),
        cmocka_unit_test(test_frontier_is_bounded_and_forgets_what_the_broker_has_not),
        cmocka_unit_test(test_frontier_as_a_model),
        cmocka_unit_test(test_frontier_lives_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
