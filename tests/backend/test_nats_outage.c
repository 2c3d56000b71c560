/* SPDX-License-Identifier: Apache-2.0 */
/* What a publish does while nats-server is away: fail at once, wait, or be held in order within bounds. */
#include "nats_one_bus.h"
#include "../support/wait.h"

#include <evbus/evbus.h>

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define TOPIC "orders"

struct world {
    struct one_bus at;
    _Atomic(uint32_t) handled, wrong, refused;
};

static int set_up(void **state)
{
    return one_bus_set_up(state, sizeof(struct world));
}

/* Versions come in order, without a gap. */
static evbus_verdict count(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;

    if (evbus_msg_envelope(msg)->event_version != (int64_t)atomic_load(&w->handled) + 1)
        atomic_fetch_add(&w->wrong, 1);
    atomic_fetch_add(&w->handled, 1);
    return EVBUS_ACK;
}

static void on_error(const evbus_receipt *receipt, void *ctx)
{
    (void)receipt;
    atomic_fetch_add(&((struct world *)ctx)->refused, 1);
}

static evbus_status publish(struct world *w, int64_t version, uint32_t timeout_ms)
{
    const evbus_envelope env = {
        .aggregate_id = "a", .event_type = "T", .event_version = version, .payload = "{\"text\":\"0123456789\"}"};

    return evbus_publish_envelope(w->at.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = timeout_ms));
}

static bool is_down(void *arg)
{
    evbus_statistics s;

    return evbus_stats(((struct world *)arg)->at.bus, &s) == EVBUS_OK && !s.connected;
}

static bool is_back(void *arg)
{
    evbus_statistics s;

    return evbus_stats(((struct world *)arg)->at.bus, &s) == EVBUS_OK && s.connected;
}

struct wanted {
    struct world *w;
    uint32_t count;
};

static bool handled(void *arg)
{
    const struct wanted *h = arg;

    return atomic_load(&h->w->handled) >= h->count;
}

static bool refused(void *arg)
{
    const struct wanted *h = arg;

    return atomic_load(&h->w->refused) >= h->count;
}

static void must_handle(struct world *w, uint32_t n)
{
    struct wanted h = {w, n};

    assert_true(wait_until(handled, &h, wait_patience_ms()));
    assert_int_equal(atomic_load(&w->wrong), 0);
}

/* A bus with one message through, so that the stream is known; then the server dies. */
static void begin(struct world *w, const evbus_topic_opts *topic)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", w->at.server.port);
    assert_int_equal(
        evbus_open(url,
                   EVBUS_OPTS(evbus_opts, .name = "outage", .publish_timeout_ms = 400, .reconnect_max_ms = 50,
                              .on_publish_error = on_error, .on_publish_error_ctx = w),
                   &w->at.bus),
        EVBUS_OK);
    assert_int_equal(evbus_topic_configure(w->at.bus, TOPIC, topic), EVBUS_OK);
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, count, w, NULL, NULL), EVBUS_OK);
    assert_int_equal(publish(w, 1, 10000), EVBUS_OK);
    must_handle(w, 1);
    nats_server_kill(&w->at.server);
    assert_true(wait_until(is_down, w, wait_patience_ms()));
}

/* Publishes until it is accepted: after an outage a look-up may still be on its way. */
struct attempt {
    struct world *w;
    int64_t version;
};

static bool accepted(void *arg)
{
    const struct attempt *a = arg;

    return publish(a->w, a->version, 2000) == EVBUS_OK;
}

/* FAIL: refused at once, with nothing accepted; well again afterwards. */
static void test_nats_outage_fails_at_once(void **state)
{
    struct world *w = *state;
    evbus_statistics s;

    begin(w, EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_FAIL));
    const int64_t began = wait_now_ms();
    for (int i = 0; i < 100; i++)
        assert_int_equal(publish(w, 2, 60000), EVBUS_DISCONNECTED);
    assert_true(wait_now_ms() - began < 30000); /* none of them waited */
    assert_int_equal(evbus_stats(w->at.bus, &s), EVBUS_OK);
    assert_int_equal(s.publishes_accepted, 1);
    assert_true(nats_server_restart(&w->at.server));
    assert_true(wait_until(accepted, &(struct attempt){w, 2}, wait_patience_ms()));
    must_handle(w, 2);
}

static void *publish_and_wait(void *arg)
{
    return (void *)(intptr_t)publish(arg, 2, 60000);
}

/* WAIT: the call ends with its timeout and accepted nothing; with time enough it outlasts the outage. */
static void test_nats_outage_waits(void **state)
{
    struct world *w = *state;
    pthread_t thread;
    void *result = NULL;

    begin(w, EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_WAIT));
    const int64_t began = wait_now_ms();
    assert_int_equal(publish(w, 2, 200), EVBUS_DISCONNECTED);
    assert_true(wait_now_ms() - began >= 190);
    assert_int_equal(atomic_load(&w->refused), 0);
    assert_int_equal(pthread_create(&thread, NULL, publish_and_wait, w), 0);
    assert_true(nats_server_restart(&w->at.server));
    pthread_join(thread, &result);
    assert_int_equal((intptr_t)result, EVBUS_OK);
    must_handle(w, 2);
}

static bool time_passed(void *arg)
{
    return wait_now_ms() >= *(int64_t *)arg;
}

/* HOLD: as many as the bound are accepted and kept far beyond publish_timeout_ms, the next is not; all arrive, in order. */
static void test_nats_outage_holds_messages_in_order(void **state)
{
    enum { HELD = 20 };
    struct world *w = *state;

    begin(w, EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_HOLD, .outage_msgs_max = HELD,
                        .outage_hold_ms = EVBUS_FOREVER));
    for (int64_t version = 2; version <= HELD + 1; version++)
        assert_int_equal(publish(w, version, EVBUS_NOWAIT), EVBUS_OK);
    assert_int_equal(publish(w, HELD + 2, EVBUS_NOWAIT), EVBUS_BACKPRESSURE);
    assert_int_equal(publish(w, HELD + 2, 50), EVBUS_BACKPRESSURE);
    int64_t later = wait_now_ms() + 1200; /* three times publish_timeout_ms */
    assert_true(wait_until(time_passed, &later, wait_patience_ms()));
    assert_int_equal(atomic_load(&w->refused), 0);
    assert_true(nats_server_restart(&w->at.server));
    must_handle(w, HELD + 1);
    assert_true(wait_until(accepted, &(struct attempt){w, HELD + 2}, wait_patience_ms())); /* there is room again */
    must_handle(w, HELD + 2);
    assert_int_equal(atomic_load(&w->refused), 0);
}

/* Bytes are a bound as well, and the time is one: what was held too long is refused, and was never sent. */
static void test_nats_outage_holds_bytes_for_a_time(void **state)
{
    struct world *w = *state;
    uint32_t held = 0;

    begin(w,
          EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_HOLD, .outage_bytes_max = 2000, .outage_hold_ms = 500));
    evbus_status st;
    while ((st = publish(w, 100 + held, EVBUS_NOWAIT)) == EVBUS_OK)
        held++;
    assert_int_equal(st, EVBUS_BACKPRESSURE);
    assert_true(held >= 2 && held <= 10);
    struct wanted all = {w, held};
    assert_true(wait_until(refused, &all, wait_patience_ms()));
    assert_true(nats_server_restart(&w->at.server));
    assert_true(
        wait_until(is_back, w, wait_patience_ms())); /* what is accepted before is held for half a second only */
    assert_true(wait_until(accepted, &(struct attempt){w, 2}, wait_patience_ms()));
    must_handle(w, 2);
}

static int64_t cpu_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The server stands still and its socket is full: the rest is held, and the I/O thread sleeps until it can be written. */
static void test_nats_outage_with_a_full_socket_costs_nothing(void **state)
{
    enum { BIG = 60000, MESSAGES = 400 };
    static char payload[BIG + 3] = "\"";
    struct world *w = *state;
    char url[64];
    evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .payload = payload};

    memset(payload + 1, 'x', BIG);
    payload[BIG + 1] = '"';
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", w->at.server.port);
    assert_int_equal(
        evbus_open(url,
                   EVBUS_OPTS(evbus_opts, .name = "full", .publish_timeout_ms = 4000, .heartbeat_ms = 60000,
                              .publish_bytes_max = 64 << 20, .on_publish_error = on_error, .on_publish_error_ctx = w),
                   &w->at.bus),
        EVBUS_OK);
    assert_int_equal(publish(w, 1, 10000), EVBUS_OK);
    nats_server_signal(&w->at.server, SIGSTOP);
    for (env.event_version = 2; env.event_version <= MESSAGES; env.event_version++)
        assert_int_equal(evbus_publish_envelope(w->at.bus, TOPIC, &env, NULL), EVBUS_OK);
    const int64_t began = wait_now_ms(), cpu = cpu_ms();
    struct wanted one = {w, 1};
    assert_true(wait_until(refused, &one, wait_patience_ms()));
    const int64_t used = cpu_ms() - cpu, passed = wait_now_ms() - began;
    nats_server_signal(&w->at.server, SIGCONT);
    if (used > passed / 2)
        fail_msg("%lld ms of CPU in %lld ms", (long long)used, (long long)passed);
}

/* The options have rules. */
static void test_nats_outage_misuse(void **state)
{
    struct world *w = *state;

    begin(w, NULL);
    assert_int_equal(evbus_topic_configure(w->at.bus, TOPIC, EVBUS_OPTS(evbus_topic_opts, .outage = 4)), EVBUS_INVALID);
    assert_int_equal(
        evbus_topic_configure(w->at.bus, TOPIC,
                              EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_FAIL, .outage_msgs_max = 1)),
        EVBUS_INVALID);
    assert_int_equal(evbus_topic_configure(
                         w->at.bus, TOPIC,
                         EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_HOLD, .outage_hold_ms = EVBUS_NOWAIT)),
                     EVBUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nats_outage_fails_at_once, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_outage_waits, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_outage_holds_messages_in_order, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_outage_holds_bytes_for_a_time, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_outage_with_a_full_socket_costs_nothing, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_outage_misuse, set_up, one_bus_tear_down),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
