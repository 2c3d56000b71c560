/* SPDX-License-Identifier: Apache-2.0 */
/* Health against a nats-server that dies, and one that stops answering. */
#include "nats_one_bus.h"
#include "../support/wait.h"

#include <evbus/evbus.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct world {
    struct one_bus at;
    _Atomic(uint32_t) failing, sending;
    uint32_t wanted; /* reasons */
};

static void hear(const evbus_event *event, void *ctx)
{
    struct world *w = ctx;

    if (event->kind == EVBUS_EVENT_HEALTH_FAILING)
        atomic_fetch_add(&w->failing, 1);
    if (event->kind == EVBUS_EVENT_HEALTH_SENDING)
        atomic_fetch_add(&w->sending, 1);
}

static int set_up(void **state)
{
    return one_bus_set_up(state, sizeof(struct world));
}

static void open_bus(struct world *w, evbus_opts opts)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", w->at.server.port);
    opts.struct_size = sizeof opts;
    opts.name = "health";
    assert_int_equal(evbus_open(url, &opts, &w->at.bus), EVBUS_OK);
}

static evbus_health_report report_of(struct world *w)
{
    evbus_health_report r;

    assert_int_equal(evbus_health(w->at.bus, 20000, &r), EVBUS_OK);
    return r;
}

static bool has_any(void *arg)
{
    struct world *w = arg;

    return (report_of(w).reasons & w->wanted) != 0;
}

static bool is_well(void *arg)
{
    return report_of(arg).end_to_end;
}

static bool has_failed(void *arg)
{
    return atomic_load(&((struct world *)arg)->failing) > 0;
}

static bool sends_again(void *arg)
{
    return atomic_load(&((struct world *)arg)->sending) > 0;
}

static bool is_stored(void *arg)
{
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "1"};

    return evbus_publish_envelope_wait(((struct world *)arg)->at.bus, "orders", &env, NULL, NULL) == EVBUS_OK;
}

static evbus_verdict take(const evbus_msg *msg, void *ctx)
{
    (void)msg, (void)ctx;
    return EVBUS_ACK;
}

/* Without a server the bus lives and is not ready; its health messages fail, which is told once, and again go out. */
static void test_nats_health_without_server_and_back(void **state)
{
    struct world *w = *state;
    evbus_health_publisher_status status;

    open_bus(w, (evbus_opts){.reconnect_max_ms = 50});
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, "orders", take, NULL, NULL, NULL), EVBUS_OK);
    assert_int_equal(
        evbus_health_publisher_start(w->at.bus, EVBUS_OPTS(evbus_health_publisher_opts, .interval_ms = 20,
                                                           .failures_max = 2, .on_change = hear, .on_change_ctx = w)),
        EVBUS_OK);
    assert_true(wait_until(is_well, w, wait_patience_ms()));
    nats_server_kill(&w->at.server);
    w->wanted = EVBUS_HEALTH_DISCONNECTED;
    assert_true(wait_until(has_any, w, wait_patience_ms()));
    const evbus_health_report r = report_of(w);
    assert_true(r.live && !r.ready && !r.end_to_end);
    assert_non_null(strstr(r.text, "no connection"));
    assert_true(wait_until(has_failed, w, wait_patience_ms()));
    w->wanted = EVBUS_HEALTH_SENDER_FAILS;
    assert_true(wait_until(has_any, w, wait_patience_ms()));
    assert_int_equal(evbus_health_publisher_read(w->at.bus, &status), EVBUS_OK);
    assert_false(status.healthy);
    assert_true(status.failures >= 2 && status.failed >= 2);
    assert_true(nats_server_restart(&w->at.server));
    assert_true(wait_until(sends_again, w, wait_patience_ms()));
    assert_true(wait_until(is_well, w, wait_patience_ms()));
    assert_int_equal(evbus_health_publisher_stop(w->at.bus), EVBUS_OK);
    assert_int_equal(atomic_load(&w->failing), 1);
    assert_int_equal(atomic_load(&w->sending), 1);
}

/* A server that is there and does not answer: the link is silent before it is given up, and the publish is slow. */
static void test_nats_health_of_a_server_that_does_not_answer(void **state)
{
    struct world *w = *state;
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "1"};

    open_bus(w, (evbus_opts){.heartbeat_ms = 2000, .publish_timeout_ms = 1000});
    assert_int_equal(evbus_publish_envelope_wait(w->at.bus, "orders", &env, NULL, NULL), EVBUS_OK);
    nats_server_signal(&w->at.server, SIGSTOP);
    assert_int_equal(evbus_publish_envelope(w->at.bus, "orders", &env, NULL), EVBUS_OK);
    w->wanted = EVBUS_HEALTH_PUBLISH_SLOW;
    assert_true(wait_until(has_any, w, wait_patience_ms()));
    w->wanted = EVBUS_HEALTH_LINK_SILENT;
    assert_true(wait_until(has_any, w, wait_patience_ms()));
    assert_true(report_of(w).live && !report_of(w).ready);
    nats_server_signal(&w->at.server, SIGCONT);
    assert_true(wait_until(is_stored, w, wait_patience_ms())); /* a failed look-up is remembered for a moment */
    assert_true(wait_until(is_well, w, wait_patience_ms()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nats_health_without_server_and_back, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_health_of_a_server_that_does_not_answer, set_up, one_bus_tear_down),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
