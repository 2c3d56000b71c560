/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts under load and at the end: races, callbacks, batches, what nobody takes. */
#include "backend_suite_taken.h"

/* ---- on_receipt -------------------------------------------------------------------------------------------------- */

#define CALLED_MAX 600

struct called {
    _Atomic(uint32_t) seen[CALLED_MAX];
    _Atomic(uint64_t) count, stored, inside, most;
    struct gate *gate; /* the callback for tag 0 waits here */
};

static void on_receipt(const evbus_receipt *r, void *ctx)
{
    struct called *c = ctx;
    const uint64_t inside = atomic_fetch_add(&c->inside, 1) + 1;

    if (inside > atomic_load(&c->most))
        atomic_store(&c->most, inside);
    thread_must(r->tag < CALLED_MAX && atomic_fetch_add(&c->seen[r->tag], 1) == 0);
    if (c->gate && r->tag == 0)
        gate_pass(c->gate);
    atomic_fetch_add(&c->stored, r->outcome == EVBUS_OUTCOME_STORED);
    atomic_fetch_sub(&c->inside, 1);
    atomic_fetch_add(&c->count, 1);
}

struct called_want {
    struct called *called;
    uint64_t count;
};

static bool were_called(void *arg)
{
    const struct called_want *w = arg;

    return atomic_load(&w->called->count) >= w->count;
}

/* The callback gets each receipt of every queue once; then nobody else may take. */
static void test_outcome_callback_gets_all_receipts(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct called *c = suite_alloc(s, sizeof *c);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .on_receipt = on_receipt, .on_receipt_ctx = c, .ack_workers = 3));
    evbus_receipt r;
    size_t n;
    int fd;

    evbus_receipt_init(&r);
    must_reach(bus, ack_workers, 3);
    must(evbus_tenant_register(bus, 1, NULL));
    must_be(EVBUS_INVALID, evbus_receipts_take(bus, 0, &r, 1, 0, &n));
    must_mention("on_receipt");
    must_be(EVBUS_INVALID, evbus_receipts_fd(bus, 1, &fd));
    for (uint64_t i = 0; i < 500; i++)
        must(publish_for(bus, topic, (int64_t)(i % 2), i, 0));
    assert_true(wait_until(were_called, &(struct called_want){c, 500}, wait_patience_ms()));
    assert_int_equal(c->stored, 500);
    assert_true(c->most <= 3);
    must_reach(bus, receipts_taken, 500);
    for (uint64_t i = 500; i < CALLED_MAX; i++)
        must(publish_for(bus, topic, 1, i, 0));
    must(evbus_tenant_unregister(bus, 1));
    suite_close(s, bus); /* which calls what is owed */
    assert_int_equal(c->count, CALLED_MAX);
    assert_int_equal(suite_thread_failures(), 0);
}

/* A callback that hangs holds up its worker only; the others go on, and the bus ends without it. */
static void test_outcome_callback_that_hangs_holds_up_one_worker(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct called *c = suite_alloc(s, sizeof *c);
    struct census before;
    char text[1024];

    c->gate = suite_gate(s);
    census_take(&before);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .on_receipt = on_receipt, .on_receipt_ctx = c));
    for (uint64_t i = 0; i < 100; i++)
        must(publish_for(bus, topic, 0, i, 0));
    assert_true(wait_until(were_called, &(struct called_want){c, 99}, wait_patience_ms()));
    must(evbus_shutdown(bus, 0, NULL));
    suite_forget(s, bus);
    evbus_close(bus);
    assert_int_equal(c->count, 99);
    gate_open(c->gate);
    assert_true(census_returned(&before, text, sizeof text)); /* it returned, and took the bus's memory with it */
    assert_int_equal(c->count, 100);
}

/* ---- Many at once ------------------------------------------------------------------------------------------------ */

/* In one call: each has its status and its tag, and one that is wrong hides nothing. */
static void test_outcome_batch_has_a_status_for_each(void **state)
{
    enum { COUNT = 8 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_envelope envs[COUNT];
    evbus_status st[COUNT];
    evbus_pub_opts o = {.struct_size = sizeof o, .tag = 100, .receipt = EVBUS_ON};
    size_t accepted = 99;

    must(evbus_tenant_register(bus, 1, NULL));
    for (int i = 0; i < COUNT; i++) {
        envs[i] = suite_envelope_of("order-1", i + 1);
        envs[i].tenant_id = i % 2;
    }
    must(evbus_publish_envelopes(bus, topic, envs, COUNT, &o, st, &accepted));
    assert_int_equal(accepted, COUNT);
    for (uint64_t i = 0; i < COUNT; i++) {
        const evbus_receipt r = take_one(bus, (int64_t)(i % 2));
        assert_int_equal(st[i], EVBUS_OK);
        assert_int_equal(r.tag, 100 + i);
        assert_true(r.accepted_ns <= r.completed_ns);
    }
    envs[2].payload = "{not json";
    envs[3].aggregate_id = NULL;
    envs[5].tenant_id = 77;
    must_be(EVBUS_INVALID, evbus_publish_envelopes(bus, topic, envs, COUNT, &o, st, &accepted));
    must_mention("envelope 2:");
    assert_int_equal(accepted, COUNT - 3);
    for (uint64_t i = 0; i < COUNT; i++) {
        const bool wrong = i == 2 || i == 3 || i == 5;
        assert_int_equal(st[i], !wrong ? EVBUS_OK : i == 5 ? EVBUS_NOT_REGISTERED : EVBUS_INVALID);
        if (!wrong)
            assert_int_equal(take_one(bus, (int64_t)(i % 2)).tag, 100 + i);
    }
    assert_int_equal(take_now(bus, 0) + take_now(bus, 1), 0);
    suite_close(s, bus);
}

/* A tenant's full queue stops that tenant's envelopes and no others; what stops all is the status of all. */
static void test_outcome_batch_stops_where_nothing_may_overtake(void **state)
{
    enum { COUNT = 40 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_envelope envs[COUNT];
    evbus_status st[COUNT];
    evbus_pub_opts o = {.struct_size = sizeof o, .receipt = EVBUS_ON, .timeout_ms = EVBUS_NOWAIT};
    size_t accepted = 99;

    must(evbus_tenant_register(bus, 1, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 16)));
    for (int i = 0; i < COUNT; i++) {
        envs[i] = suite_envelope_of("order-1", i + 1);
        envs[i].tenant_id = i % 2;
    }
    must_be(EVBUS_BACKPRESSURE, evbus_publish_envelopes(bus, topic, envs, COUNT, &o, st, &accepted));
    must_mention("envelope 33:");
    assert_int_equal(accepted, 20 + 16);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(st[i], i % 2 && i > 32 ? EVBUS_BACKPRESSURE : EVBUS_OK);
    for (uint64_t i = 0; i < 36; i++) {
        const int64_t tenant = i < 20 ? 0 : 1;
        assert_int_equal(take_one(bus, tenant).tag, tenant ? 2 * (i - 20) + 1 : 2 * i);
    }

    must(evbus_publish_envelopes(bus, topic, envs, 0, &o, NULL, &accepted));
    assert_int_equal(accepted, 0);
    must(evbus_publish_envelopes(bus, topic, NULL, 0, NULL, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_publish_envelopes(bus, topic, envs, 1, &o, NULL, &accepted));
    must_be(EVBUS_INVALID, evbus_publish_envelopes(bus, topic, NULL, 1, &o, st, &accepted));
    must_be(EVBUS_INVALID, evbus_publish_envelopes(bus, "a b", envs, 2, &o, st, &accepted));
    assert_int_equal(st[1], EVBUS_INVALID);
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_publish_envelopes(bus, topic, envs, 2, &o, st, &accepted));
    assert_int_equal(st[0], EVBUS_CLOSED);
    assert_int_equal(st[1], EVBUS_CLOSED);
    assert_int_equal(accepted, 0);
    suite_close(s, bus);
}

/* ---- What nobody takes ------------------------------------------------------------------------------------------- */

static bool told(void *arg)
{
    return suite_event_count(arg, EVBUS_EVENT_RECEIPTS_UNTAKEN) > 0;
}

/* Ten seconds without a take: one event, a log line, a counter. */
static void test_outcome_untaken_receipts_are_told(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts = EVBUS_ON));

    suite_publish_many(bus, suite_topic(s, "orders"), "a", 3, 1, 1);
    must_reach(bus, receipts_queued, 3);
    if (s->clock)
        suite_pass(s, 8000);
    assert_false(told(s));
    assert_true(suite_pass_until(s, told, s, wait_patience_ms()));
    const struct suite_event e = suite_event(s, EVBUS_EVENT_RECEIPTS_UNTAKEN, 0);
    assert_int_equal(e.count, 3);
    assert_non_null(strstr(e.text, "tenant 0"));
    if (s->clock)
        suite_pass(s, 5000);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_RECEIPTS_UNTAKEN), 1); /* not every second */
    must_reach(bus, receipts_untaken, 1);
    for (int i = 0; i < 3; i++)
        (void)take_one(bus, 0);
    suite_close(s, bus);
}

/* ---- Races ------------------------------------------------------------------------------------------------------- */

#define PUBLISHERS 8
#define EACH 400
#define TENANTS 4

struct coming_and_going {
    evbus *bus;
    const char *topic;
    _Atomic(uint32_t) accepted[TENANTS], running;
    _Atomic(uint32_t) seen[PUBLISHERS * EACH];
    _Atomic(uint32_t) taken[TENANTS];
};

static void publish_to_one(struct coming_and_going *w, int index)
{
    const int tenant = index % TENANTS;

    for (uint64_t i = 0; i < EACH; i++) {
        const evbus_status st =
            publish_for(w->bus, w->topic, tenant + 1, (uint64_t)index * EACH + i, wait_patience_ms());
        thread_must(st == EVBUS_OK || st == EVBUS_NOT_REGISTERED);
        if (st == EVBUS_OK)
            atomic_fetch_add(&w->accepted[tenant], 1);
    }
    atomic_fetch_sub(&w->running, 1);
}

/* Registers, takes a few, unregisters, takes the rest to the end: again and again. */
static void come_and_go(struct coming_and_going *w, int tenant)
{
    evbus_receipt r;

    evbus_receipt_init(&r);
    for (bool last = false; !last;) {
        last = atomic_load(&w->running) == 0;
        thread_must(evbus_tenant_register(w->bus, tenant + 1, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 16)) ==
                    EVBUS_OK);
        for (uint32_t i = 0;; i++) {
            size_t n = 0;
            if (i == 40)
                thread_must(evbus_tenant_unregister(w->bus, tenant + 1) == EVBUS_OK);
            const evbus_status st = evbus_receipts_take(w->bus, tenant + 1, &r, 1, i < 40 ? 1 : EVBUS_FOREVER, &n);
            if (st != EVBUS_OK) {
                thread_must(st == EVBUS_NOT_REGISTERED && i >= 40);
                break;
            }
            if (n == 0)
                continue;
            thread_must(r.tenant_id == tenant + 1 && atomic_fetch_add(&w->seen[r.tag], 1) == 0);
            atomic_fetch_add(&w->taken[tenant], 1);
        }
    }
}

static void come_go_and_publish(int index, void *arg)
{
    if (index < PUBLISHERS)
        publish_to_one(arg, index);
    else
        come_and_go(arg, index - PUBLISHERS);
}

/* Eight publishers while their tenants come and go: each accepted publish has its receipt, in its tenant's queue, once. */
static void test_outcome_tenants_come_and_go_under_load(void **state)
{
    struct suite *s = *state;
    struct coming_and_going *w = suite_alloc(s, sizeof *w);
    size_t n;

    w->bus = suite_open(s, NULL);
    w->topic = suite_topic(s, "orders");
    atomic_store(&w->running, PUBLISHERS);
    suite_threads(PUBLISHERS + TENANTS, come_go_and_publish, w);
    for (int i = 0; i < TENANTS; i++)
        assert_int_equal(w->accepted[i], w->taken[i]);
    must(evbus_tenant_list(w->bus, NULL, 0, &n));
    assert_int_equal(n, 0);
    suite_close(s, w->bus);
}

#define REGISTRARS 16
#define REGISTRATIONS 500

struct registering {
    evbus *bus;
    _Atomic(uint32_t) registered;
};

static void register_many(int index, void *arg)
{
    struct registering *w = arg;

    if (index == REGISTRARS) {
        while (atomic_load(&w->registered) < 1000)
            sched_yield();
        thread_must(evbus_shutdown(w->bus, 0, NULL) == EVBUS_OK);
        return;
    }
    for (int64_t i = 0; i < REGISTRATIONS; i++) {
        const evbus_status st = evbus_tenant_register(w->bus, index * REGISTRATIONS + i + 1, NULL);
        thread_must(st == EVBUS_OK || st == EVBUS_CLOSED);
        if (st == EVBUS_CLOSED)
            break;
        atomic_fetch_add(&w->registered, 1);
    }
}

/* 16 threads register tenants while the bus ends: no queue is left open. */
static void test_outcome_registering_while_the_bus_ends(void **state)
{
    struct suite *s = *state;
    struct registering *w = suite_alloc(s, sizeof *w);
    evbus_receipt r;
    uint32_t ended = 0;
    size_t n;

    evbus_receipt_init(&r);
    w->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .tenants_max = REGISTRARS * REGISTRATIONS, .receipts_max = 16));
    suite_threads(REGISTRARS + 1, register_many, w);
    must(evbus_tenant_list(w->bus, NULL, 0, &n));
    assert_int_equal(n, w->registered);
    for (int64_t id = 1; id <= REGISTRARS * REGISTRATIONS; id++) {
        const evbus_status st = evbus_receipts_take(w->bus, id, &r, 1, EVBUS_FOREVER, &n);
        assert_true(st == EVBUS_CLOSED || st == EVBUS_NOT_REGISTERED);
        ended += st == EVBUS_CLOSED;
    }
    assert_int_equal(ended, w->registered);
    suite_close(s, w->bus);
}

#define LOADERS 4
#define LOAD_EACH 5000

struct loading {
    evbus *bus;
    const char *topic;
    uint32_t stop_at;
    _Atomic(uint32_t) accepted;
};

static void publish_until_the_end(int index, void *arg)
{
    struct loading *w = arg;

    if (index == LOADERS) {
        while (atomic_load(&w->accepted) < w->stop_at)
            sched_yield();
        (void)evbus_shutdown(w->bus, EVBUS_NOWAIT, NULL);
        return;
    }
    for (uint64_t i = 0; i < LOAD_EACH; i++) {
        const evbus_status st =
            publish_for(w->bus, w->topic, index % 2, (uint64_t)index * LOAD_EACH + i, wait_patience_ms());
        thread_must(st == EVBUS_OK || st == EVBUS_CLOSED);
        if (st != EVBUS_OK)
            break;
        atomic_fetch_add(&w->accepted, 1);
    }
}

/* The bus ends under load, at once: what was accepted has its receipt, to be taken afterwards, once; then comes the end. */
static void test_outcome_all_receipts_after_a_hasty_end(void **state)
{
    struct suite *s = *state;
    struct loading *w = suite_alloc(s, sizeof *w);
    struct taken *t = taken_new(s, LOADERS * LOAD_EACH);
    evbus_statistics stats;

    w->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts_max = LOADERS * LOAD_EACH));
    w->topic = suite_topic(s, "orders");
    w->stop_at = 3000;
    must(evbus_tenant_register(w->bus, 1, NULL));
    suite_threads(LOADERS + 1, publish_until_the_end, w);
    must_be(EVBUS_CLOSED, take_until(w->bus, 0, t, SIZE_MAX));
    must_be(EVBUS_CLOSED, take_until(w->bus, 1, t, SIZE_MAX));
    assert_int_equal(t->count, w->accepted);
    assert_int_equal(t->twice, 0);
    stats = suite_stats_of(w->bus);
    assert_int_equal(t->stored, stats.publishes_stored);
    assert_int_equal(t->refused, stats.publishes_refused);
    assert_int_equal(t->unknown, stats.publishes_unknown);
    suite_forget(s, w->bus);
    evbus_close(w->bus);
}

const struct suite_case suite_outcome_cases[] = {
    SUITE_CASE(test_outcome_callback_gets_all_receipts),
    SUITE_CASE(test_outcome_callback_that_hangs_holds_up_one_worker),
    SUITE_CASE(test_outcome_batch_has_a_status_for_each),
    SUITE_CASE(test_outcome_batch_stops_where_nothing_may_overtake),
    SUITE_TIMED(test_outcome_untaken_receipts_are_told),
    SUITE_CASE(test_outcome_tenants_come_and_go_under_load),
    SUITE_CASE(test_outcome_registering_while_the_bus_ends),
    SUITE_CASE(test_outcome_all_receipts_after_a_hasty_end),
    {NULL, NULL, false},
};
