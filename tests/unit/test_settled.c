/* SPDX-License-Identifier: Apache-2.0 */
#include "core/settled.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

/* What was settled is remembered, and nothing else is. */
static void test_settled_remembers_exactly_what_was_added(void **state)
{
    struct ev_settled s;

    (void)state;
    assert_true(ev_settled_init(&s, 128));
    for (uint64_t i = 1; i <= 100; i++)
        ev_settled_add(&s, i * 3);
    for (uint64_t i = 1; i <= 300; i++)
        assert_int_equal(ev_settled_has(&s, i), i % 3 == 0);
    ev_settled_fini(&s);
    assert_false(ev_settled_has(&s, 3));
}

/* The oldest make room: against a simple model, with sequences that collide. */
static void test_settled_forgets_the_oldest_first(void **state)
{
    enum { CAP = 64, N = 200000 };
    static uint64_t order[N];
    struct ev_settled s;
    uint64_t rng = 88172645463325252u;
    size_t count = 0;

    (void)state;
    assert_true(ev_settled_init(&s, CAP));
    for (size_t i = 0; i < N; i++) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        const uint64_t seq = 1 + rng % 200;
        bool known = false;
        for (size_t k = count > CAP ? count - CAP : 0; k < count && !known; k++)
            known = order[k] == seq;
        assert_int_equal(ev_settled_has(&s, seq), known);
        ev_settled_add(&s, seq);
        if (!known)
            order[count++] = seq;
    }
    ev_settled_fini(&s);
}

/* The same sequence stored at another time is another message. */
static void test_settled_keys_tell_messages_of_one_sequence_apart(void **state)
{
    (void)state;
    assert_int_equal(ev_settled_key(7, 1000), ev_settled_key(7, 1000));
    assert_int_not_equal(ev_settled_key(7, 1000), ev_settled_key(7, 1001));
    assert_int_not_equal(ev_settled_key(7, 1000), ev_settled_key(8, 1000));
    assert_int_not_equal(ev_settled_key(0, 0), 0);
}

/* Without memory it remembers nothing and breaks nothing. */
static void test_settled_lives_without_memory(void **state)
{
    struct ev_settled s;

    (void)state;
    ev_alloc_fail_after(1);
    assert_false(ev_settled_init(&s, 64));
    ev_alloc_fail_after(-1);
    ev_settled_add(&s, 1);
    assert_false(ev_settled_has(&s, 1));
    ev_settled_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settled_remembers_exactly_what_was_added),
        cmocka_unit_test(test_settled_forgets_the_oldest_first),
        cmocka_unit_test(test_settled_keys_tell_messages_of_one_sequence_apart),
        cmocka_unit_test(test_settled_lives_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
