/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A subscription on a real server whose pull goes silent, although it is connected and messages wait: it goes on by
 * itself, and says so. Silent by the injector of faults, and by a proxy that keeps the pulls to itself while pings
 * pass. That one that is slow is left alone: tests/sim/test_progress.c.
 */
#include "nats_one_bus.h"
#include "support/proxy.h"
#include "support/wait.h"

#include <evbus/evbus.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOPIC "orders"

struct world {
    struct one_bus at;
    struct proxy *proxy;
    _Atomic(uint32_t) published, handled, wrong, stuck, resumed, lost;
    _Atomic(uint32_t) stuck_lines, resumed_lines;
};

static int set_up(void **state)
{
    return one_bus_set_up(state, sizeof(struct world));
}

static int tear_down(void **state)
{
    struct proxy *proxy = ((struct world *)*state)->proxy;
    const int result = one_bus_tear_down(state);

    proxy_close(proxy);
    return result;
}

static evbus_verdict count(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;
    const uint32_t next = atomic_load(&w->handled) + 1;

    if (evbus_msg_redelivered(msg) && evbus_msg_envelope(msg)->event_version < (int64_t)next)
        return EVBUS_ACK;
    if (evbus_msg_envelope(msg)->event_version != (int64_t)next)
        atomic_fetch_add(&w->wrong, 1);
    atomic_store(&w->handled, next);
    return EVBUS_ACK;
}

static void on_event(const evbus_event *e, void *ctx)
{
    struct world *w = ctx;

    if (e->kind == EVBUS_EVENT_STUCK && strcmp(e->topic, TOPIC) == 0 && strcmp(e->group, "progress") == 0 && e->count)
        atomic_fetch_add(&w->stuck, 1);
    if (e->kind == EVBUS_EVENT_RESUMED)
        atomic_fetch_add(&w->resumed, 1);
    if (e->kind == EVBUS_EVENT_CONSUMER_LOST)
        atomic_fetch_add(&w->lost, 1);
}

static void on_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    struct world *w = ctx;

    (void)level, (void)text;
    if (getenv("EV_TEST_LOG"))
        (void)fprintf(stderr, "# %lld %s: %s\n", (long long)wait_now_ms(), subject, text);
    if (strcmp(subject, "stuck") == 0)
        atomic_fetch_add(&w->stuck_lines, 1);
    if (strcmp(subject, "resumed") == 0)
        atomic_fetch_add(&w->resumed_lines, 1);
}

static void open_url(struct world *w, const char *url)
{
    assert_int_equal(evbus_open(url,
                                EVBUS_OPTS(evbus_opts, .name = "progress", .heartbeat_ms = 20000, .on_event = on_event,
                                           .on_event_ctx = w, .log = on_log, .log_ctx = w),
                                &w->at.bus),
                     EVBUS_OK);
}

static void open_bus(struct world *w, const char *query)
{
    char url[120];

    (void)snprintf(url, sizeof url, "fault+nats://127.0.0.1:%u?seed=5%s", w->at.server.port, query);
    open_url(w, url);
}

/* A bus behind a proxy that can keep some of the messages to itself. */
static void open_behind_proxy(struct world *w)
{
    char url[64];

    w->proxy = proxy_open(w->at.server.port);
    assert_non_null(w->proxy);
    proxy_read_nats(w->proxy);
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(w->proxy));
    open_url(w, url);
}

static void publish(struct world *w)
{
    const evbus_envelope env = {.aggregate_id = "a",
                                .event_type = "T",
                                .event_version = (int64_t)atomic_fetch_add(&w->published, 1) + 1,
                                .payload = "{}"};

    assert_int_equal(evbus_publish_envelope_wait(w->at.bus, TOPIC, &env, NULL, NULL), EVBUS_OK);
}

/* Publishes one more each time it is asked, so that something waits when the pull has gone silent. */
static bool was_repaired_often(void *arg)
{
    struct world *w = arg;

    publish(w);
    return atomic_load(&w->stuck) >= 2 && atomic_load(&w->resumed) >= 1;
}

static bool all_handled(void *arg)
{
    struct world *w = arg;

    return atomic_load(&w->handled) == atomic_load(&w->published);
}

static void test_nats_progress_goes_on_by_itself(void **state)
{
    struct world *w = *state;
    evbus_statistics s;

    open_bus(w, "&silent_every_ms=3000");
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, count, w,
                                              EVBUS_OPTS(evbus_sub_opts, .progress_timeout_ms = 100, .inflight_max = 8),
                                              NULL),
                     EVBUS_OK);
    assert_true(wait_until(was_repaired_often, w, 3 * wait_patience_ms()));
    assert_true(wait_until(all_handled, w, wait_patience_ms()));
    assert_int_equal(atomic_load(&w->wrong), 0);
    assert_int_equal(evbus_stats(w->at.bus, &s), EVBUS_OK);
    assert_true(s.progress_repairs >= atomic_load(&w->stuck));
    assert_true(evbus_event_count(w->at.bus, EVBUS_EVENT_STUCK) >= 2);
    assert_int_equal(s.disconnects, 0);
    assert_int_equal(atomic_load(&w->lost), 0);
}

/* ---- What gets lost between the server and us -------------------------------------------------------------------- */

#define PULLS "$JS.API.CONSUMER.MSG.NEXT."

static bool was_stuck(void *arg)
{
    return atomic_load(&((struct world *)arg)->stuck) > 0;
}

static bool looks_silent(void *arg)
{
    evbus_health_report r;

    return evbus_health(((struct world *)arg)->at.bus, 0, &r) == EVBUS_OK && r.live && !r.end_to_end &&
           (r.reasons & EVBUS_HEALTH_CONSUMER_SILENT) != 0;
}

static bool has_resumed(void *arg)
{
    return atomic_load(&((struct world *)arg)->resumed) > 0;
}

static void subscribe(struct world *w, uint32_t progress_timeout_ms)
{
    const evbus_sub_opts o = {.struct_size = sizeof o, .progress_timeout_ms = progress_timeout_ms, .inflight_max = 8};

    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, count, w, &o, NULL), EVBUS_OK);
    publish(w);
    assert_true(wait_until(all_handled, w, wait_patience_ms()));
}

/* What was repaired is counted, told and logged once each; the telling may be a moment behind. */
static bool is_said(void *arg)
{
    struct world *w = arg;
    const uint32_t stuck = atomic_load(&w->stuck);
    evbus_statistics s;

    return evbus_stats(w->at.bus, &s) == EVBUS_OK && s.progress_repairs == stuck &&
           evbus_event_count(w->at.bus, EVBUS_EVENT_STUCK) == stuck && atomic_load(&w->stuck_lines) == stuck &&
           atomic_load(&w->resumed_lines) == atomic_load(&w->resumed);
}

/* Everything came, once and in order; and all the while there was one connection, which looked well. */
static void must_be_well(struct world *w)
{
    evbus_connection c;

    assert_true(wait_until(all_handled, w, wait_patience_ms()));
    assert_true(wait_until(is_said, w, wait_patience_ms()));
    assert_int_equal(evbus_connection_read(w->at.bus, &c), EVBUS_OK);
    assert_int_equal(c.state, EVBUS_CONNECTION_UP);
    assert_int_equal(c.connects, 1);
    assert_int_equal(c.disconnects, 0);
    assert_int_equal(atomic_load(&w->wrong), 0);
    assert_int_equal(atomic_load(&w->lost), 0);
}

/* The pulls do not reach the server, pings do: connected, and nothing comes. */
static void lose_pulls(struct world *w, uint32_t progress_timeout_ms)
{
    open_behind_proxy(w);
    subscribe(w, progress_timeout_ms);
    proxy_mute(w->proxy, PROXY_TO_SERVER, PULLS);
    for (int i = 0; i < 20; i++) /* more than was pulled before */
        publish(w);
    assert_true(wait_until(was_stuck, w, wait_patience_ms()));
    assert_true(wait_until(looks_silent, w, wait_patience_ms()));
    assert_true(atomic_load(&w->handled) < atomic_load(&w->published));
    assert_true(proxy_muted(w->proxy) > 0);
    proxy_mute(w->proxy, PROXY_TO_SERVER, NULL);
    assert_true(wait_until(has_resumed, w, wait_patience_ms()));
    must_be_well(w);
}

/* The watchdog sees that what waits does not come, long before heartbeats are missed. */
static void test_nats_progress_of_pulls_that_are_lost(void **state)
{
    lose_pulls(*state, 500);
}

/* Without it, the missed heartbeats tell. */
static void test_nats_progress_of_heartbeats_that_are_missed(void **state)
{
    lose_pulls(*state, EVBUS_FOREVER);
}

int main(int argc, char **argv)
{
#define PROGRESS(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROGRESS(test_nats_progress_goes_on_by_itself),
        PROGRESS(test_nats_progress_of_pulls_that_are_lost),
        PROGRESS(test_nats_progress_of_heartbeats_that_are_missed),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
