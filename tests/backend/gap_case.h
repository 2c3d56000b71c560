/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Around the gap rule's tests: a ledger of what was handled, a bus behind a proxy, what the server and the backend count, and a
 * client that pulls from the same consumer. Header only: include it in one file of a test. Threads: one.
 */
#ifndef EV_TESTS_GAP_CASE_H
#define EV_TESTS_GAP_CASE_H

#include "backend/nats_consume.h"
#include "core/bus.h"
#include "core/names.h"
#include "support/nats_case.h"
#include "support/proxy.h"

#define TOPIC "gap.orders"
#define AGGREGATES 100
#define VERSIONS 200

/* ---- What was handled -------------------------------------------------------------------------------------------- */

/* Which versions of aggregates "agg-<n>" were handled; may lie in memory that two processes share. */
struct ledger {
    _Atomic(uint32_t) runs[AGGREGATES][VERSIONS + 1];
    _Atomic(uint32_t) highest[AGGREGATES]; /* started so far */
    _Atomic(uint32_t) skipped;             /* a version started before the one below it had */
    _Atomic(uint32_t) started, distinct;
    _Atomic(uint32_t) stop_at; /* the run with this number never ends, nor any after it; 0: none */
    struct gate *gate;         /* handlers wait here; NULL: nowhere */
    _Atomic(uint32_t) came;    /* to the gate */
};

static inline evbus_verdict write_down(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    struct ledger *l = ctx;
    const uint32_t a = (uint32_t)atoi(env->aggregate_id + 4), v = (uint32_t)env->event_version;

    if (l->gate) {
        atomic_fetch_add(&l->came, 1);
        gate_pass(l->gate);
    }
    const uint32_t stop_at = atomic_load(&l->stop_at);
    if (stop_at != 0 && atomic_fetch_add(&l->started, 0) >= stop_at)
        for (;;)
            (void)pause();
    const uint32_t highest = atomic_load(&l->highest[a]);
    if (v > highest + 1)
        atomic_fetch_add(&l->skipped, 1);
    if (v > highest)
        atomic_store(&l->highest[a], v);
    if (atomic_fetch_add(&l->runs[a][v], 1) == 0)
        atomic_fetch_add(&l->distinct, 1);
    atomic_fetch_add(&l->started, 1);
    return EVBUS_ACK;
}

struct goal {
    const _Atomic(uint32_t) *count;
    uint32_t value;
};

static inline bool reached(void *arg)
{
    const struct goal *g = arg;

    return atomic_load(g->count) >= g->value;
}

static inline void await_count(const _Atomic(uint32_t) *count, uint32_t value)
{
    struct goal goal = {count, value};

    if (!wait_until(reached, &goal, wait_patience_ms()))
        fail_msg("%u, not %u", atomic_load(count), value);
}

static inline uint32_t most_runs(const struct ledger *l)
{
    uint32_t most = 0;

    for (uint32_t a = 0; a < AGGREGATES; a++)
        for (uint32_t v = 1; v <= VERSIONS; v++)
            most = atomic_load(&l->runs[a][v]) > most ? atomic_load(&l->runs[a][v]) : most;
    return most;
}

/* ---- What the backend counted ------------------------------------------------------------------------------------ */

struct counted {
    struct ev_command command;
    uint64_t gaps, told, off, slow, gathered;
    _Atomic(uint32_t) done;
};

static inline void count_on_loop(evbus *bus, struct ev_command *command)
{
    struct counted *n = (struct counted *)command;
    const struct ev_nats_consume *c = ((const struct ev_nats *)bus->state)->consume;

    n->gaps = c->gaps;
    n->told = c->gaps_told;
    n->off = c->gaps_off;
    n->slow = c->gaps_slow;
    n->gathered = c->gaps_gathered;
    atomic_store(&n->done, 1);
}

static inline struct counted counted(evbus *bus)
{
    struct counted n = {.command.run = count_on_loop};

    ev_loop_post(bus, &n.command);
    await_count(&n.done, 1);
    return n;
}

/* ---- Around ------------------------------------------------------------------------------------------------------ */

static struct proxy *proxy; /* of the running case */

static inline void proxy_url(char *out, size_t cap, const char *credentials)
{
    (void)snprintf(out, cap, "nats://%s127.0.0.1:%u", credentials, proxy_port(proxy));
}

/* The buses end first: they hand back what they hold. */
static inline int tear_down(void **state)
{
    struct nats_case *c = *state;

    gate_open(&c->gate);
    while (c->s.bus_count > 0) {
        evbus *bus = c->s.buses[--c->s.bus_count];
        (void)evbus_shutdown(bus, 5000, NULL);
        evbus_close(bus);
    }
    proxy_close(proxy);
    proxy = NULL;
    return case_tear_down(state);
}

/* A bus behind the proxy. Links end when the test says so, not by a heartbeat. */
static inline evbus *open_behind_proxy(struct nats_case *c, const char *user, const char *password)
{
    static const struct suite_backend behind = {.name = "nats", .url = proxy_url};
    const struct suite_backend *before = c->s.backend;
    const evbus_opts o = {.struct_size = sizeof o,
                          .reconnect_min_ms = 1,
                          .reconnect_max_ms = 5,
                          .heartbeat_ms = 20000,
                          .user = user,
                          .password = password};

    if (!proxy)
        proxy = proxy_open(c->server.port);
    assert_non_null(proxy);
    c->s.backend = &behind;
    evbus *bus = suite_open(&c->s, &o);
    c->s.backend = before;
    return bus;
}

/* Versions 1..versions of all aggregates, stored. */
static inline evbus *publish_all(struct nats_case *c, int64_t versions)
{
    evbus *bus = suite_open(&c->s, NULL);

    suite_publish_many(bus, TOPIC, "agg-", AGGREGATES, 1, versions);
    must_reach(bus, publishes_stored, (uint64_t)versions * AGGREGATES);
    return bus;
}

static inline evbus_sub *take(evbus *bus, struct ledger *ledger, const evbus_sub_opts *opts)
{
    evbus_sub *sub = NULL;

    must(evbus_subscribe_envelope(bus, TOPIC, write_down, ledger, opts, &sub));
    return sub;
}

/* Empty; of this case. */
static inline struct ledger *new_ledger(int number)
{
    static struct ledger ledgers[2];

    memset(&ledgers[number], 0, sizeof ledgers[number]);
    return &ledgers[number];
}

static inline jsConsumerInfo *read_consumer(struct nats_case *c)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX];
    jsConsumerInfo *info = NULL;

    ev_stream_name(stream, TOPIC);
    (void)ev_durable_name(durable, "suite", TOPIC);
    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, durable, NULL, NULL), NATS_OK);
    return info;
}

/* The server has delivered at least so many. */
static inline void await_delivered(struct nats_case *c, uint64_t count)
{
    const int64_t end = wait_now_ms() + wait_patience_ms();
    uint64_t delivered = 0;

    while (delivered < count && wait_now_ms() < end) {
        jsConsumerInfo *info = read_consumer(c);
        delivered = info->Delivered.Consumer;
        jsConsumerInfo_Destroy(info);
    }
    assert_in_range(delivered, count, UINT64_MAX);
}

/* So many pulls stand open. */
static inline void await_pulls(struct nats_case *c, int count)
{
    const int64_t end = wait_now_ms() + wait_patience_ms();
    bool met = false;

    while (!met && wait_now_ms() < end) {
        jsConsumerInfo *info = read_consumer(c);
        met = info->NumWaiting >= count;
        jsConsumerInfo_Destroy(info);
    }
    assert_true(met);
}

/* Nothing is left for the consumer: all is delivered and settled. */
static inline void await_settled(struct nats_case *c)
{
    const int64_t end = wait_now_ms() + wait_patience_ms();
    bool met = false;

    while (!met && wait_now_ms() < end) {
        jsConsumerInfo *info = read_consumer(c);
        met = info->NumPending == 0 && info->NumAckPending == 0;
        jsConsumerInfo_Destroy(info);
    }
    assert_true(met);
}

/* A member without a lease, of an older version or another client: pulls, and holds what it gets. */
static inline natsSubscription *pull_for(struct nats_case *c, int batch, int seconds)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX], subject[3 * EV_NAME_MAX], body[64];
    natsSubscription *sub = NULL;
    natsInbox *inbox = NULL;

    ev_stream_name(stream, TOPIC);
    (void)ev_durable_name(durable, "suite", TOPIC);
    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", stream, durable);
    const int len = snprintf(body, sizeof body, "{\"batch\":%d,\"expires\":%d000000000}", batch, seconds);
    assert_int_equal(natsInbox_Create(&inbox), NATS_OK);
    assert_int_equal(natsConnection_SubscribeSync(&sub, c->nc, inbox), NATS_OK);
    assert_int_equal(natsConnection_PublishRequest(c->nc, subject, inbox, body, len), NATS_OK);
    natsInbox_Destroy(inbox);
    return sub;
}

static inline natsSubscription *pull_some(struct nats_case *c, int batch)
{
    return pull_for(c, batch, 60);
}

/* Gets them, and never answers. */
static inline void lose_some(natsSubscription *sub, int count)
{
    for (int i = 0; i < count; i++) {
        natsMsg *msg = NULL;
        assert_int_equal(natsSubscription_NextMsg(&msg, sub, wait_patience_ms()), NATS_OK);
        natsMsg_Destroy(msg);
    }
    natsSubscription_Destroy(sub);
}

#define GAP_CASE(fn)                                                                                                   \
    {                                                                                                                  \
#fn, fn, case_set_up, tear_down, NULL                                                                          \
    }

#endif
