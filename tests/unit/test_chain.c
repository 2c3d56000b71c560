/* SPDX-License-Identifier: Apache-2.0 */
/* The chain: all that was added is taken, once, in order. */
#include "conc/chain.h"
#include "support/race.h"

#include <sched.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct item {
    struct ev_chain_link link;
    int adder, number; /* plain: ThreadSanitizer sees whether the edge holds */
};

/* Alone: first in, first out, and empty again. */
static void test_chain_gives_items_in_order(void **state)
{
    struct ev_chain chain = {0};
    struct item items[5] = {0};

    (void)state;
    assert_true(ev_chain_empty(&chain));
    assert_null(ev_chain_take(&chain));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++)
            assert_int_equal(ev_chain_add(&chain, &items[i].link), i == 0);
        assert_false(ev_chain_empty(&chain));
        struct ev_chain_link *link = ev_chain_take(&chain);
        for (int i = 0; i < 5; i++, link = link->next)
            assert_ptr_equal(link, &items[i].link);
        assert_null(link);
        assert_true(ev_chain_empty(&chain));
    }
}

#define ADDERS 3
#define TAKERS 2
#define EACH 500

struct world {
    struct ev_chain chain;
    _Atomic(int) taken;
    struct item items[ADDERS][EACH];
    _Atomic(uint32_t) seen[ADDERS][EACH];
};

static void add_or_take(int index, void *ctx)
{
    struct world *w = ctx;

    for (int i = 0; index < ADDERS && i < EACH; i++) {
        w->items[index][i].adder = index;
        w->items[index][i].number = i;
        (void)ev_chain_add(&w->chain, &w->items[index][i].link);
    }
    while (index >= ADDERS && atomic_load(&w->taken) < ADDERS * EACH) {
        int last[ADDERS] = {-1, -1, -1};
        struct ev_chain_link *link = ev_chain_take(&w->chain);
        if (!link)
            sched_yield();
        for (; link; link = link->next) {
            const struct item *item = (const struct item *)link;
            RACE_CHECK(item->number > last[item->adder]);
            last[item->adder] = item->number;
            RACE_CHECK(atomic_fetch_add(&w->seen[item->adder][item->number], 1) == 0);
            atomic_fetch_add(&w->taken, 1);
        }
    }
}

/* Three add, two take: each item once, and in each take those of one adder in its order. */
static void test_chain_loses_nothing_between_threads(void **state)
{
    static struct world w;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        memset(&w, 0, sizeof w);
        race_run(ADDERS + TAKERS, add_or_take, &w);
        assert_int_equal(w.taken, ADDERS * EACH);
        assert_int_equal(race_failures(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain_gives_items_in_order),
        cmocka_unit_test(test_chain_loses_nothing_between_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
