/* SPDX-License-Identifier: Apache-2.0 */
/* Reconnecting as configured: what is told in which order, how long it pauses, when it gives up, how it begins again. */
#include "nats_one_bus.h"
#include "../support/census.h"
#include "../support/wait.h"

#include <evbus/evbus.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TOPIC "orders"
#define TOLD_MAX 256

struct world {
    struct one_bus at;
    _Atomic(uint32_t) handled, refused, told;
    evbus_event_kind kinds[TOLD_MAX]; /* the first `told` are written */
    uint64_t counts[TOLD_MAX];
    char texts[TOLD_MAX][200];
};

static int set_up(void **state)
{
    return one_bus_set_up(state, sizeof(struct world));
}

static evbus_verdict count(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    atomic_fetch_add(&((struct world *)ctx)->handled, 1);
    return EVBUS_ACK;
}

static void on_error(const evbus_receipt *receipt, void *ctx)
{
    assert_int_equal(receipt->outcome, EVBUS_OUTCOME_REFUSED);
    assert_int_equal(receipt->status, EVBUS_DISCONNECTED);
    atomic_fetch_add(&((struct world *)ctx)->refused, 1);
}

/* Only what is about the connection. */
static void on_event(const evbus_event *e, void *ctx)
{
    struct world *w = ctx;
    const uint32_t at = atomic_load(&w->told);
    const bool ours = e->kind == EVBUS_EVENT_CONNECTED || e->kind == EVBUS_EVENT_DISCONNECTED ||
                      (e->kind >= EVBUS_EVENT_RECONNECTING && e->kind <= EVBUS_EVENT_RECONNECT_GIVEN_UP);

    if (!ours || at == TOLD_MAX)
        return;
    w->kinds[at] = e->kind;
    w->counts[at] = e->count;
    (void)snprintf(w->texts[at], sizeof w->texts[at], "%s", e->text);
    atomic_store(&w->told, at + 1);
}

static evbus_status publish(struct world *w, int64_t version, uint32_t timeout_ms)
{
    const evbus_envelope env = {
        .aggregate_id = "a", .event_type = "T", .event_version = version, .payload = "{\"text\":\"0123456789\"}"};

    return evbus_publish_envelope(w->at.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = timeout_ms));
}

static evbus_connection read_of(struct world *w)
{
    evbus_connection c;

    assert_int_equal(evbus_connection_read(w->at.bus, &c), EVBUS_OK);
    return c;
}

struct wanted {
    struct world *w;
    uint32_t state, at_least;
};

static bool is_in_state(void *arg)
{
    const struct wanted *x = arg;

    return read_of(x->w).state == x->state;
}

static bool has_failed(void *arg)
{
    const struct wanted *x = arg;

    return read_of(x->w).failures >= x->at_least;
}

static bool pauses(void *arg)
{
    return read_of(((const struct wanted *)arg)->w).next_ns != 0;
}

static bool has_told(void *arg)
{
    const struct wanted *x = arg;

    return atomic_load(&x->w->told) >= x->at_least;
}

static bool has_handled(void *arg)
{
    const struct wanted *x = arg;

    return atomic_load(&x->w->handled) >= x->at_least;
}

static bool has_refused(void *arg)
{
    const struct wanted *x = arg;

    return atomic_load(&x->w->refused) >= x->at_least;
}

static void must(bool (*done)(void *arg), struct world *w, uint32_t state, uint32_t at_least)
{
    assert_true(wait_until(done, &(struct wanted){w, state, at_least}, wait_patience_ms()));
}

static void open_bus(struct world *w, evbus_opts *o)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", w->at.server.port);
    o->struct_size = sizeof *o;
    o->name = "reconnect";
    o->on_event = on_event;
    o->on_event_ctx = w;
    o->on_publish_error = on_error;
    o->on_publish_error_ctx = w;
    assert_int_equal(evbus_open(url, o, &w->at.bus), EVBUS_OK);
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, count, w, NULL, NULL), EVBUS_OK);
    assert_int_equal(publish(w, 1, 10000), EVBUS_OK);
    must(has_handled, w, 0, 1);
}

static void must_be_told(struct world *w, uint32_t at, evbus_event_kind kind, uint64_t n)
{
    must(has_told, w, 0, at + 1);
    if (w->kinds[at] != kind || w->counts[at] != n)
        fail_msg("event %u is %d (%llu): %s; not %d (%llu)", at, w->kinds[at], (unsigned long long)w->counts[at],
                 w->texts[at], kind, (unsigned long long)n);
}

/* Every publish fails at once, whatever its topic's policy; so does what has to ask the broker. */
static void must_fail_at_once(struct world *w)
{
    static const uint32_t policies[] = {0, EVBUS_OUTAGE_FAIL, EVBUS_OUTAGE_WAIT, EVBUS_OUTAGE_HOLD};
    const int64_t began = wait_now_ms();
    evbus_account account;
    evbus_sub *sub = NULL;

    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        assert_int_equal(
            evbus_topic_configure(w->at.bus, TOPIC,
                                  EVBUS_OPTS(evbus_topic_opts, .outage = policies[i],
                                             .outage_hold_ms = policies[i] == EVBUS_OUTAGE_HOLD ? EVBUS_FOREVER : 0)),
            EVBUS_OK);
        assert_int_equal(publish(w, 3, 600000), EVBUS_DISCONNECTED);
        assert_non_null(strstr(evbus_error_detail(), "evbus_reconnect"));
    }
    assert_int_equal(
        evbus_publish(w->at.bus, "another.topic", "x", 1, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 600000)),
        EVBUS_DISCONNECTED);
    account.struct_size = sizeof account;
    assert_int_equal(evbus_account_read(w->at.bus, 600000, &account), EVBUS_DISCONNECTED);
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, "another.topic", count, w,
                                              EVBUS_OPTS(evbus_sub_opts, .timeout_ms = 600000), &sub),
                     EVBUS_DISCONNECTED);
    assert_true(wait_now_ms() - began < 60000); /* none of them waited */
}

/* Three attempts, the second of which passes the threshold; what was held ends refused, for ever held or not. */
static void test_nats_reconnect_gives_up_and_begins_again(void **state)
{
    struct world *w = *state;
    evbus_opts o = {.reconnect_attempts_max = 3,
                    .reconnect_failures_max = 2,
                    .reconnect_min_ms = 300,
                    .reconnect_max_ms = 600,
                    .reconnect_jitter_pct = EVBUS_NOWAIT};
    evbus_health_report health;
    evbus_statistics s;

    open_bus(w, &o);
    assert_int_equal(evbus_topic_configure(
                         w->at.bus, TOPIC,
                         EVBUS_OPTS(evbus_topic_opts, .outage = EVBUS_OUTAGE_HOLD, .outage_hold_ms = EVBUS_FOREVER)),
                     EVBUS_OK);
    nats_server_kill(&w->at.server);
    must(is_in_state, w, EVBUS_CONNECTION_DOWN, 0);
    assert_int_equal(publish(w, 2, 10000), EVBUS_OK); /* held: the pauses before the last attempt are 900 ms */
    must(is_in_state, w, EVBUS_CONNECTION_GIVEN_UP, 0);
    must(has_refused, w, 0, 1);
    must_be_told(w, 0, EVBUS_EVENT_CONNECTED, 0);
    must_be_told(w, 1, EVBUS_EVENT_DISCONNECTED, 0);
    must_be_told(w, 2, EVBUS_EVENT_RECONNECTING, 1);
    must_be_told(w, 3, EVBUS_EVENT_RECONNECTING, 2);
    must_be_told(w, 4, EVBUS_EVENT_RECONNECT_FAILING, 2);
    must_be_told(w, 5, EVBUS_EVENT_RECONNECTING, 3);
    must_be_told(w, 6, EVBUS_EVENT_RECONNECT_GIVEN_UP, 3);
    evbus_connection c = read_of(w);
    assert_int_equal(c.attempts, 3);
    assert_int_equal(c.failures, 3);
    assert_int_equal(c.next_ns, 0);
    assert_int_equal(c.last_status, EVBUS_DISCONNECTED);
    assert_true(c.disconnected_ns > c.connected_ns && c.failed_ns - c.disconnected_ns > 800 * 1000000ll);
    assert_non_null(strstr(c.last_error, "no server"));
    must_fail_at_once(w);
    assert_int_equal(evbus_health(w->at.bus, 20000, &health), EVBUS_OK);
    assert_false(health.live);
    assert_int_equal(health.reasons, EVBUS_HEALTH_DISCONNECTED | EVBUS_HEALTH_GIVEN_UP);
    assert_true(nats_server_restart(&w->at.server));
    assert_int_equal(evbus_reconnect(w->at.bus), EVBUS_OK);
    must(is_in_state, w, EVBUS_CONNECTION_UP, 0);
    must_be_told(w, 7, EVBUS_EVENT_RECONNECTING, 1);
    must_be_told(w, 8, EVBUS_EVENT_CONNECTED, 1);
    assert_int_equal(publish(w, 2, 20000), EVBUS_OK);
    must(has_handled, w, 0, 2);
    c = read_of(w);
    assert_int_equal(c.connects, 2);
    assert_int_equal(c.attempts, 0);
    assert_true(c.connected_ns > c.disconnected_ns);
    assert_int_equal(evbus_stats(w->at.bus, &s), EVBUS_OK);
    assert_int_equal(s.reconnects_given_up, 1);
    assert_int_equal(s.reconnect_attempts, 4);
    assert_int_equal(atomic_load(&w->refused), 1);
    assert_int_equal(atomic_load(&w->told), 9); /* once each */
}

/* By default it never gives up; what came before the threshold's event comes once. */
static void test_nats_reconnect_never_gives_up_by_default(void **state)
{
    struct world *w = *state;
    evbus_opts o = {.reconnect_min_ms = 1, .reconnect_max_ms = 5};

    open_bus(w, &o);
    nats_server_kill(&w->at.server);
    must(has_failed, w, 0, 40);
    assert_int_equal(read_of(w).state, EVBUS_CONNECTION_DOWN);
    assert_true(nats_server_restart(&w->at.server));
    must(is_in_state, w, EVBUS_CONNECTION_UP, 0);
    assert_int_equal(publish(w, 2, 20000), EVBUS_OK);
    must(has_handled, w, 0, 2);
    uint32_t failing = 0;
    for (uint32_t i = 0; i < atomic_load(&w->told); i++)
        failing += w->kinds[i] == EVBUS_EVENT_RECONNECT_FAILING;
    assert_int_equal(failing, 1);
    assert_int_equal(read_of(w).failures, 0);
}

/* A pause of an hour is over when the application says so; and the next outage counts from the beginning. */
static void test_nats_reconnect_now(void **state)
{
    struct world *w = *state;
    evbus_opts o = {.reconnect_min_ms = 3600000, .reconnect_max_ms = 3600000, .reconnect_jitter_pct = 1};

    open_bus(w, &o);
    assert_int_equal(evbus_reconnect(w->at.bus), EVBUS_OK); /* while it is up */
    assert_int_equal(read_of(w).state, EVBUS_CONNECTION_UP);
    for (uint32_t round = 1; round <= 2; round++) {
        nats_server_kill(&w->at.server);
        must(pauses, w, 0, 0);
        const evbus_connection c = read_of(w);
        assert_true(c.attempts <= 1 &&
                    c.failures == c.attempts); /* none before the pause when it was up for less than 1 s */
        assert_true(c.next_ns - c.disconnected_ns > 3500 * 1000000000ll);
        assert_true(nats_server_restart(&w->at.server));
        assert_int_equal(evbus_reconnect(w->at.bus), EVBUS_OK);
        must(is_in_state, w, EVBUS_CONNECTION_UP, 0);
        assert_int_equal(read_of(w).connects, round + 1);
    }
}

static _Atomic(bool) passed;

static evbus_verdict wait_at_gate(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    gate_pass(ctx);
    atomic_store(&passed, true);
    return EVBUS_ACK;
}

static bool has_passed(void *arg)
{
    (void)arg;
    return atomic_load(&passed);
}

/* In the place of the server: somebody who takes connections and says nothing. */
static int listen_at(uint16_t port)
{
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void *close_soon(void *arg)
{
    wait_out(200);
    close(*(int *)arg);
    return NULL;
}

/* Shutdown is the end of it, also where a handler that hangs keeps the bus: what goes on connecting while the process exits
 * meets a TLS library that is cleaned up. */
static void test_nats_reconnect_ends_with_shutdown(void **state)
{
    struct world *w = *state;
    struct gate gate;

    gate_init(&gate);
    open_bus(w, &(evbus_opts){0});
    assert_int_equal(
        evbus_subscribe_envelope(w->at.bus, TOPIC, wait_at_gate, &gate, EVBUS_OPTS(evbus_sub_opts, .group = "g"), NULL),
        EVBUS_OK);
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    assert_int_equal(evbus_publish_envelope_wait(w->at.bus, TOPIC, &env, NULL, NULL), EVBUS_OK);
    assert_true(gate_await_inside(&gate, 1));
    nats_server_kill(&w->at.server);
    const int listener = listen_at(w->at.server.port);
    int attempt = accept(listener, NULL, NULL);
    pthread_t closer;
    assert_int_equal(census_threads_named("evbus-nats"), 1);
    assert_int_equal(pthread_create(&closer, NULL, close_soon, &attempt), 0);
    (void)evbus_shutdown(w->at.bus, EVBUS_NOWAIT, NULL);
    assert_int_equal(census_threads_named("evbus-nats"), 0);
    (void)pthread_join(closer, NULL);
    close(listener);
    gate_open(&gate);
    evbus_close(w->at.bus); /* does not wait for the handler, which is in front of the gate yet, perhaps */
    w->at.bus = NULL;
    assert_true(wait_until(has_passed, NULL, wait_patience_ms()));
    gate_fini(&gate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nats_reconnect_gives_up_and_begins_again, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_reconnect_never_gives_up_by_default, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_reconnect_now, set_up, one_bus_tear_down),
        cmocka_unit_test_setup_teardown(test_nats_reconnect_ends_with_shutdown, set_up, one_bus_tear_down),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
