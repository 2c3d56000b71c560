/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nats-server is killed (kill -9) and started again while 20,000 envelopes flow: each accepted publish ends stored,
 * refused or unknown; each stored one is handled; consumption resumes by itself; nothing hangs, nothing leaks.
 */
#include "../support/nats_server.h"
#include "../support/race.h"
#include "../support/wait.h"
#include "base/alloc.h"

#include <evbus/evbus.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define AGGREGATES 100
#define VERSIONS 200
#define KILLS 3

enum { NOT_SENT, ACCEPTED, REFUSED, UNKNOWN };

struct world {
    struct nats_server server;
    evbus *bus;
    _Atomic(uint32_t) outcome[AGGREGATES][VERSIONS + 1];
    _Atomic(uint32_t) handled[AGGREGATES][VERSIONS + 1];
    _Atomic(uint64_t) published, runs, tries;
    _Atomic(bool) failed;
};

static struct world w;

static void on_error(const evbus_receipt *r, void *ctx)
{
    (void)ctx;
    const uint64_t a = r->tag >> 32, v = r->tag & 0xffffffff;
    const uint32_t now = r->outcome == EVBUS_OUTCOME_UNKNOWN ? UNKNOWN : REFUSED;

    RACE_CHECK(atomic_exchange(&w.outcome[a][v], now) == ACCEPTED);
}

static evbus_verdict handler(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);

    (void)ctx;
    atomic_fetch_add(&w.handled[atoi(env->aggregate_id + 4)][env->event_version], 1);
    atomic_fetch_add(&w.runs, 1);
    return EVBUS_ACK;
}

/* One aggregate after the other's version, so that all are in flight when the server dies. A call that was not accepted
 * is repeated: that is what a caller does. */
static void publish_share(int index)
{
    for (int v = 1; v <= VERSIONS; v++) {
        for (int a = index; a < AGGREGATES; a += 4) {
            char id[16];
            snprintf(id, sizeof id, "agg-%d", a);
            const evbus_envelope env = {
                .aggregate_id = id, .event_type = "T", .event_version = v, .payload = "{\"x\":1}"};
            const evbus_pub_opts o = {.struct_size = sizeof o, .tag = (uint64_t)a << 32 | (uint64_t)v};
            atomic_store(&w.outcome[a][v], ACCEPTED);
            evbus_status st = EVBUS_BACKPRESSURE;
            for (int i = 0; i < 50 && st != EVBUS_OK; i++) {
                st = evbus_publish_envelope(w.bus, "restart.orders", &env, &o);
                atomic_fetch_add(&w.tries, 1);
            }
            if (st != EVBUS_OK) {
                fprintf(stderr, "agg-%d v%d: %s (%s)\n", a, v, evbus_strerror(st), evbus_error_detail());
                RACE_CHECK(st == EVBUS_OK);
                return;
            }
            atomic_fetch_add(&w.published, 1);
        }
    }
}

static bool published_enough(void *arg)
{
    return atomic_load(&w.published) >= *(uint64_t *)arg;
}

static void *publisher(void *arg)
{
    publish_share((int)(intptr_t)arg);
    return NULL;
}

/* On the test's own thread: the server is a child of the thread that starts it, and ends with that. */
static void kill_while_they_publish(void)
{
    pthread_t threads[4];

    for (intptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publisher, (void *)i), 0);
    for (int k = 1; k <= KILLS; k++) {
        uint64_t at = (uint64_t)k * AGGREGATES * VERSIONS / (KILLS + 1);
        assert_true(wait_until(published_enough, &at, wait_patience_ms() * 3));
        nats_server_kill(&w.server);
        assert_true(nats_server_restart(&w.server));
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

static bool all_have_outcomes(void *arg)
{
    evbus_statistics s;

    (void)arg;
    (void)evbus_stats(w.bus, &s);
    return s.publishes_inflight == 0;
}

static bool is_back(void *arg)
{
    evbus_statistics s;

    (void)arg;
    (void)evbus_stats(w.bus, &s);
    return s.connected && s.connects > KILLS;
}

static bool all_handled(void *arg)
{
    (void)arg;
    for (int a = 0; a < AGGREGATES; a++)
        for (int v = 1; v <= VERSIONS; v++)
            if (atomic_load(&w.outcome[a][v]) == ACCEPTED && atomic_load(&w.handled[a][v]) == 0)
                return false;
    return true;
}

static void count(uint64_t by_outcome[4], uint64_t *ret_handled, uint64_t *ret_missing)
{
    memset(by_outcome, 0, 4 * sizeof *by_outcome);
    *ret_handled = *ret_missing = 0;
    for (int a = 0; a < AGGREGATES; a++) {
        for (int v = 1; v <= VERSIONS; v++) {
            const uint32_t outcome = atomic_load(&w.outcome[a][v]), handled = atomic_load(&w.handled[a][v]);
            by_outcome[outcome]++;
            *ret_handled += handled > 0;
            *ret_missing += outcome == ACCEPTED && handled == 0;
        }
    }
}

/* Three kills in the middle of 20,000 envelopes; the same bus, the same subscription, no help from the application. */
static void test_restart_loses_nothing_that_was_stored(void **state)
{
    uint64_t by_outcome[4], handled, missing;
    evbus_statistics s;

    (void)state;
    assert_true(nats_server_start(&w.server, "jetstream: {store_dir: \"@DIR@/js\"}\n"));
    char url[64];
    snprintf(url, sizeof url, "nats://127.0.0.1:%u", w.server.port);
    const evbus_opts o = {.struct_size = sizeof o,
                          .name = "restart",
                          .on_publish_error = on_error,
                          .heartbeat_ms = 500,
                          .publish_timeout_ms = wait_patience_ms()};
    assert_int_equal(evbus_open(url, &o, &w.bus), EVBUS_OK);
    assert_int_equal(evbus_subscribe_envelope(w.bus, "restart.orders", handler, NULL,
                                              EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 2000), NULL),
                     EVBUS_OK);
    kill_while_they_publish();
    assert_int_equal(race_failures(), 0);
    assert_true(wait_until(all_have_outcomes, NULL, wait_patience_ms() * 2));
    assert_true(wait_until(is_back, NULL, wait_patience_ms()));
    (void)wait_until(all_handled, NULL, wait_patience_ms() * 2);
    (void)evbus_stats(w.bus, &s);
    count(by_outcome, &handled, &missing);
    printf("accepted %llu (%llu calls): stored %llu, refused %llu, unknown %llu; handled %llu, runs %llu, redelivered "
           "%llu, "
           "sessions %llu\n",
           (unsigned long long)s.publishes_accepted, (unsigned long long)w.tries,
           (unsigned long long)s.publishes_stored, (unsigned long long)s.publishes_refused,
           (unsigned long long)s.publishes_unknown, (unsigned long long)handled, (unsigned long long)w.runs,
           (unsigned long long)s.redelivered, (unsigned long long)s.connects);
    assert_int_equal(missing, 0);
    assert_int_equal(s.publishes_accepted, AGGREGATES * VERSIONS);
    assert_int_equal(s.publishes_stored, by_outcome[ACCEPTED]);
    assert_int_equal(s.publishes_refused, by_outcome[REFUSED]);
    assert_int_equal(s.publishes_unknown, by_outcome[UNKNOWN]);
    assert_in_range(s.connects, KILLS + 1, UINT64_MAX); /* more where the machine is slower than the heartbeat */
    assert_int_equal(evbus_shutdown(w.bus, wait_patience_ms(), NULL), EVBUS_OK);
    evbus_close(w.bus);
    nats_server_end(&w.server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart_loses_nothing_that_was_stored),
    };

    if (!nats_server_available())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
