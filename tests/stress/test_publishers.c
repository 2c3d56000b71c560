/* SPDX-License-Identifier: Apache-2.0 */
/* Publishers against the end of the bus, and against a full window: every accepted publish has exactly one outcome. */
#include "core/bus.h"

#include "../support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define THREADS 8
#define EACH 400

struct world {
    evbus *bus;
    _Atomic(uint64_t) accepted, errors, waited_stored;
    _Atomic(uint32_t) outcome[THREADS * EACH]; /* error callbacks by tag */
};

static void on_error(const evbus_receipt *r, void *ctx)
{
    struct world *w = ctx;

    RACE_CHECK(r->outcome != EVBUS_OUTCOME_STORED);
    RACE_CHECK(atomic_fetch_add(&w->outcome[r->tag], 1) == 0);
    atomic_fetch_add(&w->errors, 1);
}

static void publish_until_closed(int index, void *ctx)
{
    struct world *w = ctx;
    char id[16];

    if (index == THREADS) {
        evbus_report report;
        RACE_CHECK(evbus_shutdown(w->bus, 2000, &report) != EVBUS_INVALID);
        return;
    }
    snprintf(id, sizeof id, "agg-%d", index);
    for (int i = 0; i < EACH; i++) {
        const evbus_envelope env = {.aggregate_id = id, .event_type = "T", .event_version = i + 1, .payload = "{}"};
        const evbus_pub_opts o = {.struct_size = sizeof o, .tag = (uint64_t)(index * EACH + i)};
        evbus_status st;
        if (i % 7 == 0) {
            evbus_receipt r = {.struct_size = sizeof r};
            st = evbus_publish_envelope_wait(w->bus, "stress", &env, &o, &r);
            if (st == EVBUS_OK) {
                atomic_fetch_add(&w->waited_stored, 1);
                RACE_CHECK(r.outcome == EVBUS_OUTCOME_STORED && r.sequence > 0);
            }
        } else {
            st = evbus_publish_envelope(w->bus, "stress", &env, &o);
            if (st == EVBUS_OK)
                atomic_fetch_add(&w->accepted, 1);
        }
        RACE_CHECK(st == EVBUS_OK || st == EVBUS_CLOSED || st == EVBUS_UNKNOWN);
        if (st == EVBUS_CLOSED)
            break;
    }
}

/* Eight publishers while the bus is shut down at a random moment: accepted = stored + refused + unknown, callbacks match. */
static void test_publishers_get_one_outcome_each_while_the_bus_ends(void **state)
{
    static struct world w;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        const uint64_t live = ev_alloc_live();
        memset(&w, 0, sizeof w);
        const evbus_opts o = {.struct_size = sizeof o,
                              .publish_inflight_max = 16u << (round % 4),
                              .workers_min = 1,
                              .held_max = 16,
                              .on_publish_error = on_error,
                              .on_publish_error_ctx = &w};
        assert_int_equal(evbus_open("mem://", &o, &w.bus), EVBUS_OK);
        race_run(THREADS + 1, publish_until_closed, &w);
        evbus_statistics s;
        assert_int_equal(evbus_stats(w.bus, &s), EVBUS_OK);
        assert_int_equal(s.publishes_accepted, s.publishes_stored + s.publishes_refused + s.publishes_unknown);
        assert_true(s.publishes_refused + s.publishes_unknown >= w.errors);
        evbus_close(w.bus);
        assert_int_equal(race_failures(), 0);
        assert_int_equal(ev_alloc_live(), live);
    }
}

static void publish_all(int index, void *ctx)
{
    struct world *w = ctx;
    char id[16];

    snprintf(id, sizeof id, "agg-%d", index);
    for (int i = 0; i < EACH; i++) {
        const evbus_envelope env = {.aggregate_id = id, .event_type = "T", .event_version = i + 1, .payload = "{}"};
        RACE_CHECK(evbus_publish_envelope(w->bus, "stress", &env, NULL) == EVBUS_OK);
    }
}

/* A window of 16 for eight threads: they wait for each other's places, nothing is refused, nobody starves. */
static void test_publishers_share_a_small_window(void **state)
{
    static struct world w;

    (void)state;
    for (int round = 0; round < 20; round++) {
        const evbus_opts o = {.struct_size = sizeof o, .publish_inflight_max = 16, .workers_min = 1, .held_max = 16};
        assert_int_equal(evbus_open("mem://", &o, &w.bus), EVBUS_OK);
        race_run(THREADS, publish_all, &w);
        evbus_report report;
        assert_int_equal(evbus_shutdown(w.bus, 10000, &report), EVBUS_OK);
        evbus_statistics s;
        assert_int_equal(evbus_stats(w.bus, &s), EVBUS_OK);
        assert_int_equal(s.publishes_stored, THREADS * EACH);
        assert_int_equal(s.backpressure, 0);
        evbus_close(w.bus);
        assert_int_equal(race_failures(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_publishers_get_one_outcome_each_while_the_bus_ends),
        cmocka_unit_test(test_publishers_share_a_small_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
