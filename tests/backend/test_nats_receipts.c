/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receipts where connections are cut: each accepted publish has one, what was in transit ends unknown, and publishing it
 * again tells whether it was stored. 20,000 publishes with cuts at random places; a million with EVBUS_LONG.
 */
#include "../support/left.h"
#include "../support/nats_server.h"
#include "../support/proxy.h"
#include "../support/race.h"
#include "../support/wait.h"

#include "base/ids.h"

#include <evbus/evbus.h>

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOPIC "receipts.orders"
#define PUBLISHERS 2
#define BATCH 256

struct world {
    struct nats_server server;
    struct proxy *proxy;
    evbus *bus;
    uint64_t seed, each;
    _Atomic(uint64_t) accepted, calls, cuts;
    _Atomic(uint32_t) publishing;
    uint8_t *seen, *sequences; /* by tag, by sequence: the taker's */
    uint64_t count[EVBUS_OUTCOME_UNKNOWN + 1], taken, duplicates;
};

static struct world w;

static void set_up(const evbus_opts *opts)
{
    const char *given = getenv("EVBUS_SEED");
    char url[64];
    evbus_opts o = *opts;

    memset(&w, 0, sizeof w);
    w.seed = given ? strtoull(given, NULL, 10) : ev_random();
    print_message("EVBUS_SEED=%" PRIu64 "\n", w.seed);
    left_add();
    assert_true(nats_server_start(&w.server, "jetstream: {store_dir: \"@DIR@/js\"}\n"));
    w.proxy = proxy_open(w.server.port);
    assert_non_null(w.proxy);
    snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(w.proxy));
    o.struct_size = sizeof o;
    o.receipts = EVBUS_ON;
    o.reconnect_min_ms = 2;
    o.reconnect_max_ms = 20;
    assert_int_equal(evbus_open(url, &o, &w.bus), EVBUS_OK);
}

static void tear_down(void)
{
    evbus_close(w.bus);
    proxy_close(w.proxy);
    nats_server_end(&w.server);
    left_remove();
}

static evbus_status publish(const char *event_id, uint64_t tag)
{
    const evbus_envelope env = {
        .event_id = event_id, .aggregate_id = "order-1", .event_type = "T", .event_version = 1, .payload = "{\"x\":1}"};

    return evbus_publish_envelope(w.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .tag = tag));
}

static evbus_receipt take_one(void)
{
    evbus_receipt r;
    size_t n = 0;

    evbus_receipt_init(&r);
    assert_int_equal(evbus_receipts_take(w.bus, 0, &r, 1, wait_patience_ms(), &n), EVBUS_OK);
    assert_int_equal(n, 1);
    return r;
}

static bool bytes_reached(void *arg)
{
    return proxy_bytes(w.proxy, PROXY_TO_SERVER) >= *(uint64_t *)arg;
}

/* Answers stand still, then the connection is cut: unknown, but for the last one, which may be sent again. Once more
 * with the same event ids, the stream says that it had them. */
static void test_nats_receipts_tell_unknown_after_a_cut(void **state)
{
    enum { COUNT = 10 };
    uint64_t unknown = 0, duplicates = 0;
    char id[16];

    (void)state;
    set_up(&(evbus_opts){.publish_timeout_ms = wait_patience_ms()});
    assert_int_equal(publish("first", 99), EVBUS_OK);
    assert_int_equal(take_one().outcome, EVBUS_OUTCOME_STORED);
    proxy_after(w.proxy, PROXY_TO_CLIENT, 0, PROXY_STALL);
    uint64_t bytes = proxy_bytes(w.proxy, PROXY_TO_SERVER) + COUNT * 200;
    for (uint64_t i = 0; i < COUNT; i++) {
        snprintf(id, sizeof id, "event-%" PRIu64, i);
        assert_int_equal(publish(id, i), EVBUS_OK);
    }
    assert_true(wait_until(bytes_reached, &bytes, wait_patience_ms()));
    proxy_cut(w.proxy);
    for (uint64_t i = 0; i < COUNT; i++) {
        const evbus_receipt r = take_one();
        assert_true(r.outcome == EVBUS_OUTCOME_UNKNOWN || (r.tag == COUNT - 1 && r.outcome == EVBUS_OUTCOME_STORED));
        assert_int_equal(r.status, r.outcome == EVBUS_OUTCOME_UNKNOWN ? EVBUS_UNKNOWN : EVBUS_OK);
        assert_true(r.outcome == EVBUS_OUTCOME_STORED || r.detail[0] != 0);
        unknown += r.outcome == EVBUS_OUTCOME_UNKNOWN;
    }
    assert_true(unknown >= COUNT - 1);
    for (uint64_t i = 0; i < COUNT; i++) {
        snprintf(id, sizeof id, "event-%" PRIu64, i);
        assert_int_equal(publish(id, i), EVBUS_OK);
        const evbus_receipt r = take_one();
        assert_int_equal(r.outcome, EVBUS_OUTCOME_STORED);
        assert_true(r.sequence >= 2 && r.sequence <= COUNT + 1);
        duplicates += r.duplicate;
    }
    assert_true(duplicates > 0);
    tear_down();
}

static void publish_share(int index)
{
    for (uint64_t i = 0; i < w.each; i++) {
        const uint64_t tag = (uint64_t)index * w.each + i;
        evbus_status st;
        do {
            st = publish(NULL, tag);
            atomic_fetch_add(&w.calls, 1);
            RACE_CHECK(st == EVBUS_OK || st == EVBUS_BACKPRESSURE || st == EVBUS_DISCONNECTED || st == EVBUS_TIMEOUT);
        } while (st != EVBUS_OK);
        atomic_fetch_add(&w.accepted, 1);
    }
    atomic_fetch_sub(&w.publishing, 1);
}

static bool all_published(void)
{
    return atomic_load(&w.publishing) == 0;
}

static bool cut_or_done(void *arg)
{
    return proxy_acts(w.proxy) != *(uint64_t *)arg || all_published();
}

static bool connected_again(void *arg)
{
    evbus_statistics s;

    return evbus_stats(w.bus, &s) == EVBUS_OK && (s.connects > *(uint64_t *)arg || all_published());
}

/* The connection is cut wherever it happens to be, in the middle of a message or an answer, each time it was good for
 * some ten or hundred kilobytes. */
static void cut_now_and_then(void)
{
    ev_random_seed(w.seed);
    for (uint64_t cuts = 0, sessions = 1; !all_published(); sessions++) {
        proxy_after(w.proxy, ev_random() % 2 ? PROXY_TO_CLIENT : PROXY_TO_SERVER, 5000 + ev_random() % 100000,
                    PROXY_CUT);
        RACE_CHECK(wait_until(cut_or_done, &cuts, 3 * wait_patience_ms()));
        cuts = proxy_acts(w.proxy);
        RACE_CHECK(wait_until(connected_again, &sessions, wait_patience_ms()));
        atomic_store(&w.cuts, cuts);
    }
}

static void take_all(void)
{
    evbus_receipt *batch = calloc(BATCH, sizeof *batch);
    const uint64_t total = PUBLISHERS * w.each;
    size_t n = 1;

    if (!batch)
        abort();
    evbus_receipt_init(batch);
    while (w.taken < total && n > 0) {
        RACE_CHECK(evbus_receipts_take(w.bus, 0, batch, BATCH, wait_patience_ms(), &n) == EVBUS_OK);
        for (size_t i = 0; i < n; i++) {
            const evbus_receipt *r = &batch[i];
            RACE_CHECK(r->tag < total && w.seen[r->tag]++ == 0);
            if (r->outcome == EVBUS_OUTCOME_STORED)
                RACE_CHECK(r->sequence > 0 && r->sequence <= 2 * total && w.sequences[r->sequence]++ == 0);
            w.count[r->outcome]++;
            w.duplicates += r->duplicate;
        }
        w.taken += n;
    }
    free(batch);
}

static void take_part(int index, void *ctx)
{
    (void)ctx;
    if (index < PUBLISHERS)
        publish_share(index);
    else if (index == PUBLISHERS)
        cut_now_and_then();
    else
        take_all();
}

/* Cut again and again: as many receipts as accepted publishes, none twice, and no two with one sequence. */
static void test_nats_receipts_are_complete_through_cuts(void **state)
{
    evbus_statistics s;

    (void)state;
    set_up(&(evbus_opts){.publish_timeout_ms = wait_patience_ms(), .publish_inflight_max = 256});
    w.each = getenv("EVBUS_LONG") ? 500000 : 10000;
    w.seen = calloc(PUBLISHERS * w.each, 1);
    w.sequences = calloc(2 * PUBLISHERS * w.each + 1, 1);
    assert_true(w.seen && w.sequences);
    atomic_store(&w.publishing, PUBLISHERS);
    race_run(PUBLISHERS + 2, take_part, NULL);
    assert_int_equal(evbus_stats(w.bus, &s), EVBUS_OK);
    print_message("accepted %" PRIu64 " (%" PRIu64 " calls), %" PRIu64 " cuts: stored %" PRIu64 " (%" PRIu64
                  " of them duplicates), refused %" PRIu64 ", unknown %" PRIu64 "\n",
                  w.accepted, w.calls, w.cuts, w.count[EVBUS_OUTCOME_STORED], w.duplicates,
                  w.count[EVBUS_OUTCOME_REFUSED], w.count[EVBUS_OUTCOME_UNKNOWN]);
    assert_int_equal(race_failures(), 0);
    assert_int_equal(w.taken, w.accepted);
    assert_int_equal(w.accepted, s.publishes_accepted);
    assert_int_equal(w.count[EVBUS_OUTCOME_STORED], s.publishes_stored);
    assert_int_equal(w.count[EVBUS_OUTCOME_REFUSED], s.publishes_refused);
    assert_int_equal(w.count[EVBUS_OUTCOME_UNKNOWN], s.publishes_unknown);
    assert_true(w.cuts > 0);
    tear_down();
    free(w.seen);
    free(w.sequences);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_receipts_tell_unknown_after_a_cut),
        LEFT_CASE(test_nats_receipts_are_complete_through_cuts),
    };

    if (!nats_server_available()) {
        print_message("SKIPPED: test_nats_receipts (receipts through cut connections): no nats-server\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, left_none);
}
