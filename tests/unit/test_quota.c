/* SPDX-License-Identifier: Apache-2.0 */
/* The quota: never more inside than there are places, and one last one out. */
#include "conc/quota.h"
#include "support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Alone: full, room again, closed while one is in, ended by the last. */
static void test_quota_ends_with_the_last_one_out(void **state)
{
    struct ev_quota quota = {0};

    (void)state;
    assert_int_equal(ev_quota_enter(&quota, 2), EV_QUOTA_IN);
    assert_int_equal(ev_quota_enter(&quota, 2), EV_QUOTA_IN);
    assert_int_equal(ev_quota_enter(&quota, 2), EV_QUOTA_FULL);
    assert_false(ev_quota_leave(&quota, 1));
    assert_int_equal(ev_quota_enter(&quota, 2), EV_QUOTA_IN);
    assert_int_equal(ev_quota_count(&quota), 2);
    assert_false(ev_quota_close(&quota));
    assert_false(ev_quota_close(&quota));
    assert_int_equal(ev_quota_enter(&quota, 9), EV_QUOTA_CLOSED);
    assert_true(ev_quota_leave(&quota, 2));
    assert_false(ev_quota_close(&quota));

    quota = (struct ev_quota){0};
    assert_true(ev_quota_close(&quota)); /* nobody was in */
    assert_false(ev_quota_close(&quota));
}

#define VISITORS 6
#define PLACES 2

struct world {
    struct ev_quota quota;
    _Atomic(int) inside, ends;
};

static void visit(int index, void *ctx)
{
    struct world *w = ctx;

    for (int i = 0; i < 200; i++) {
        if (index == VISITORS && i == 100 && ev_quota_close(&w->quota))
            atomic_fetch_add(&w->ends, 1);
        if (ev_quota_enter(&w->quota, PLACES) != EV_QUOTA_IN)
            continue;
        RACE_CHECK(atomic_load(&w->ends) == 0);
        RACE_CHECK(atomic_fetch_add(&w->inside, 1) < PLACES);
        atomic_fetch_sub(&w->inside, 1);
        if (ev_quota_leave(&w->quota, 1))
            atomic_fetch_add(&w->ends, 1);
    }
}

/* Seven threads for two places, one of which closes: one end, when nobody is in. */
static void test_quota_has_one_end_between_threads(void **state)
{
    static struct world w;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        memset(&w, 0, sizeof w);
        race_run(VISITORS + 1, visit, &w);
        assert_int_equal(w.ends, 1);
        assert_int_equal(ev_quota_count(&w.quota), 0);
        assert_int_equal(race_failures(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quota_ends_with_the_last_one_out),
        cmocka_unit_test(test_quota_has_one_end_between_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
