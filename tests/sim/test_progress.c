/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress watchdog in simulated time: pulls that go silent are repaired and said, by both repairs; what is slow, full
 * or stalled is left alone for as long as it takes. EVBUS_SEED=N runs one seed.
 */
#include "core/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOPIC "progress.topic"
#define DEFERRED_MAX 4

struct world {
    evbus_clock *clock;
    evbus *bus;
    evbus_sub *sub;
    uint64_t handled, stuck, resumed, rebound, lost;
    bool defers, fails;
    const evbus_msg *deferred[DEFERRED_MAX];
    uint32_t deferred_count;
};

static struct world *current;

static void let_time_pass(void)
{
    evbus_clock_advance(current->clock, 5);
}

static void on_event(const evbus_event *e, void *ctx)
{
    struct world *w = ctx;

    w->stuck += e->kind == EVBUS_EVENT_STUCK;
    w->rebound += e->kind == EVBUS_EVENT_STUCK && strstr(e->text, "binding its consumer anew") != NULL;
    w->resumed += e->kind == EVBUS_EVENT_RESUMED;
    w->lost += e->kind == EVBUS_EVENT_CONSUMER_LOST;
    if (e->kind == EVBUS_EVENT_STUCK) {
        assert_string_equal(e->topic, TOPIC);
        assert_string_equal(e->group, "evbus");
        assert_true(e->count > 0);
    }
}

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;

    if (w->fails)
        return EVBUS_RETRY;
    if (w->defers) {
        assert_true(w->deferred_count < DEFERRED_MAX);
        w->deferred[w->deferred_count++] = msg;
        return EVBUS_DEFER;
    }
    assert_int_equal(evbus_msg_envelope(msg)->event_version, (int64_t)w->handled + 1); /* in order, in spite of it */
    w->handled++;
    return EVBUS_ACK;
}

static void open_world(struct world *w, const char *query)
{
    char url[200];

    memset(w, 0, sizeof *w);
    current = w;
    ev_random_seed(1);
    w->clock = evbus_clock_new(INT64_C(1700000000) * EV_SEC);
    (void)snprintf(url, sizeof url, "fault+mem://%s", query);
    const evbus_opts o = {.struct_size = sizeof o, .clock = w->clock, .on_event = on_event, .on_event_ctx = w};
    assert_int_equal(ev_open(url, &o, true, &w->bus), EVBUS_OK);
    w->bus->when_idle = let_time_pass;
}

static void close_world(struct world *w)
{
    (void)evbus_shutdown(w->bus, 1000, NULL);
    evbus_close(w->bus);
    evbus_clock_free(w->clock);
}

static void subscribe(struct world *w, evbus_sub_opts o)
{
    o.struct_size = sizeof o;
    o.progress_timeout_ms = 1000;
    o.attempts_max = EVBUS_FOREVER;
    assert_int_equal(evbus_subscribe_envelope(w->bus, TOPIC, handle, w, &o, &w->sub), EVBUS_OK);
}

static void turn(struct world *w)
{
    while (ev_loop_turn(w->bus) | ev_crew_run_one(w->bus) | ev_keeper_turn(w->bus))
        ;
}

static void pass(struct world *w, uint32_t seconds)
{
    for (uint32_t i = 0; i < seconds * 10; i++) {
        evbus_clock_advance(w->clock, 100);
        turn(w);
    }
}

static void publish(struct world *w, int64_t version)
{
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = version, .payload = "{}"};

    assert_int_equal(evbus_publish_envelope_wait(w->bus, TOPIC, &env, NULL, NULL), EVBUS_OK);
}

static evbus_statistics stats_of(struct world *w)
{
    evbus_statistics s;

    assert_int_equal(evbus_stats(w->bus, &s), EVBUS_OK);
    return s;
}

/* Silent about every ten seconds, for ten minutes: everything is handled, and each repair was said and counted. */
static void run(uint64_t seed, uint64_t *ret_rebound)
{
    struct world w;
    char query[80];
    int64_t published = 0;

    (void)snprintf(query, sizeof query, "?seed=%llu&silent_every_ms=10000", (unsigned long long)seed);
    open_world(&w, query);
    subscribe(&w, (evbus_sub_opts){0});
    for (uint32_t second = 0; second < 600; second++) {
        publish(&w, ++published);
        pass(&w, 1);
    }
    for (uint32_t second = 0; second < 60 && w.handled < (uint64_t)published; second++)
        pass(&w, 1);
    if (w.handled != (uint64_t)published || w.stuck == 0 || w.resumed == 0)
        fail_msg("seed %llu: %llu of %lld handled, stuck %llu, resumed %llu", (unsigned long long)seed,
                 (unsigned long long)w.handled, (long long)published, (unsigned long long)w.stuck,
                 (unsigned long long)w.resumed);
    assert_int_equal(stats_of(&w).progress_repairs, w.stuck);
    assert_true(w.stuck >= w.resumed && w.stuck <= 200);
    assert_int_equal(w.lost, 0); /* the consumer was there all the time */
    *ret_rebound += w.rebound;
    close_world(&w);
}

static void test_progress_of_silent_pulls_is_repaired(void **state)
{
    const char *seed = getenv("EVBUS_SEED");
    uint64_t rebound = 0;

    (void)state;
    for (uint64_t s = 1; s <= 10 && !seed; s++)
        run(s, &rebound);
    if (seed)
        run(strtoull(seed, NULL, 10), &rebound);
    else
        assert_true(rebound > 0); /* both repairs were needed */
}

/* Two slow handlers fill the window for an hour. */
static void test_progress_leaves_a_full_window_alone(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, "");
    subscribe(&w, (evbus_sub_opts){.inflight_max = 2, .handler_timeout_ms = 36000000});
    w.defers = true;
    publish(&w, 1);
    pass(&w, 1);
    assert_int_equal(w.deferred_count, 1);
    for (int64_t v = 2; v <= 20; v++)
        publish(&w, v);
    pass(&w, 3600);
    assert_int_equal(stats_of(&w).progress_repairs, 0);
    assert_int_equal(w.sub->progress.reason, EV_PROGRESS_FULL);
    w.defers = false;
    w.handled = 1;
    assert_int_equal(evbus_msg_settle(w.deferred[0], EVBUS_ACK), EVBUS_OK);
    pass(&w, 10);
    assert_int_equal(w.handled, 20);
    assert_int_equal(w.stuck, 0);
    close_world(&w);
}

/* Stalled behind a failing aggregate: it has stopped pulling itself. */
static void test_progress_leaves_a_stalled_subscription_alone(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, "");
    subscribe(&w, (evbus_sub_opts){.aggregate_waiting_max = 4, .retry_min_ms = 60000, .retry_max_ms = 60000});
    w.fails = true;
    for (int64_t v = 1; v <= 30; v++)
        publish(&w, v);
    pass(&w, 1200);
    assert_int_equal(stats_of(&w).progress_repairs, 0);
    assert_int_equal(stats_of(&w).stalls, 1);
    w.fails = false;
    pass(&w, 120);
    assert_int_equal(w.handled, 30);
    assert_int_equal(w.stuck, 0);
    close_world(&w);
}

/* Nothing is published for an hour: nothing is stuck. */
static void test_progress_leaves_an_idle_subscription_alone(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, "");
    subscribe(&w, (evbus_sub_opts){0});
    publish(&w, 1);
    pass(&w, 3600);
    assert_int_equal(w.handled, 1);
    assert_int_equal(w.stuck, 0);
    assert_int_equal(w.sub->progress.reason, EV_PROGRESS_EMPTY);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress_of_silent_pulls_is_repaired),
        cmocka_unit_test(test_progress_leaves_a_full_window_alone),
        cmocka_unit_test(test_progress_leaves_a_stalled_subscription_alone),
        cmocka_unit_test(test_progress_leaves_an_idle_subscription_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
