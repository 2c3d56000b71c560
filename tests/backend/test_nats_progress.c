/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A subscription on a real server whose pull goes silent, although it is connected and messages wait: it goes on by itself,
 * and says so. That one that is slow is left alone: tests/sim/test_progress.c.
 */
#include "nats_one_bus.h"
#include "../support/wait.h"

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
    _Atomic(uint32_t) published, handled, wrong, stuck, resumed, lost;
};

static int set_up(void **state)
{
    return one_bus_set_up(state, sizeof(struct world));
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

static void open_bus(struct world *w, const char *query)
{
    char url[120];

    (void)snprintf(url, sizeof url, "fault+nats://127.0.0.1:%u?seed=5%s", w->at.server.port, query);
    assert_int_equal(evbus_open(url,
                                EVBUS_OPTS(evbus_opts, .name = "progress", .on_event = on_event, .on_event_ctx = w),
                                &w->at.bus),
                     EVBUS_OK);
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

    open_bus(w, "&silent_every_ms=1000");
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, count, w,
                                              EVBUS_OPTS(evbus_sub_opts, .progress_timeout_ms = 100, .inflight_max = 8),
                                              NULL),
                     EVBUS_OK);
    assert_true(wait_until(was_repaired_often, w, wait_patience_ms()));
    assert_true(wait_until(all_handled, w, wait_patience_ms()));
    assert_int_equal(atomic_load(&w->wrong), 0);
    assert_int_equal(evbus_stats(w->at.bus, &s), EVBUS_OK);
    assert_true(s.progress_repairs >= atomic_load(&w->stuck));
    assert_true(evbus_event_count(w->at.bus, EVBUS_EVENT_STUCK) >= 2);
    assert_int_equal(s.disconnects, 0);
    assert_int_equal(atomic_load(&w->lost), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nats_progress_goes_on_by_itself, set_up, one_bus_tear_down),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
