/* SPDX-License-Identifier: Apache-2.0 */
/* The bell: its descriptor is readable exactly while something is there. */
#include "conc/bell.h"
#include "conc/chain.h"
#include "support/race.h"

#include <poll.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ITEMS 2000

struct world {
    struct ev_bell bell;
    struct ev_chain chain;
    _Atomic(int) put, taken;
    struct ev_chain_link items[ITEMS];
    int fd;
};

static bool more(void *arg)
{
    return !ev_chain_empty(&((struct world *)arg)->chain);
}

static bool is_untaken(void *arg)
{
    struct world *w = arg;

    return ev_load_seqcst(&w->put) != ev_load_seqcst(&w->taken);
}

static void put(struct world *w, int i)
{
    ev_store_seqcst(&w->put, i + 1);
    (void)ev_chain_add(&w->chain, &w->items[i]);
    ev_bell_ring(&w->bell, is_untaken, w);
}

static void take(struct world *w)
{
    int n = ev_load_seqcst(&w->taken);

    for (struct ev_chain_link *link = ev_chain_take(&w->chain); link; link = link->next)
        n++;
    ev_store_seqcst(&w->taken, n);
    ev_bell_hush(&w->bell, more, w);
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, timeout_ms) == 1;
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    assert_int_equal(ev_bell_open(&w->bell, more, w), EVBUS_OK);
    assert_int_equal(ev_bell_share(&w->bell, &w->fd), EVBUS_OK);
}

/* Alone: silent, rung, silent; asked for late; the shared descriptor outlives the bell. */
static void test_bell_rings_while_something_is_there(void **state)
{
    static struct world w;
    int late;

    (void)state;
    world_init(&w);
    assert_false(readable(w.fd, 0));
    for (int i = 0; i < 10; i += 2) {
        put(&w, i);
        put(&w, i + 1);
        assert_true(readable(w.fd, 0));
        take(&w);
        assert_false(readable(w.fd, 0));
    }
    put(&w, 10);
    assert_int_equal(ev_bell_share(&w.bell, &late), EVBUS_OK);
    ev_bell_fini(&w.bell);
    assert_true(readable(late, 0) && readable(w.fd, 0));
    close(late);
    close(w.fd);

    memset(&w, 0, sizeof w);
    put(&w, 0); /* nobody asked */
    assert_int_equal(ev_bell_open(&w.bell, more, &w), EVBUS_OK);
    assert_int_equal(ev_bell_share(&w.bell, &w.fd), EVBUS_OK);
    assert_true(readable(w.fd, 0));
    ev_bell_fini(&w.bell);
    close(w.fd);
}

static void put_or_poll(int index, void *ctx)
{
    struct world *w = ctx;

    for (int i = 0; index == 0 && i < ITEMS; i++)
        put(w, i);
    while (index == 1 && ev_load_seqcst(&w->taken) < ITEMS) {
        RACE_CHECK(readable(w->fd, 20000)); /* never asleep on something */
        take(w);
    }
}

/* One puts, one polls and takes: no item is slept on, and at the end there is silence. */
static void test_bell_wakes_a_poller_for_everything(void **state)
{
    static struct world w;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        world_init(&w);
        race_run(2, put_or_poll, &w);
        assert_int_equal(w.taken, ITEMS);
        assert_false(readable(w.fd, 0));
        assert_int_equal(race_failures(), 0);
        ev_bell_fini(&w.bell);
        close(w.fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bell_rings_while_something_is_there),
        cmocka_unit_test(test_bell_wakes_a_poller_for_everything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
