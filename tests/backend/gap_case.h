/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Around the gap rule's tests: a ledger of what was handled, a bus behind a proxy, what the backend counts, and a client that
 * pulls from the same consumer. Header only: include it in one file of a test. Threads: one.
 */
#ifndef EV_TESTS_GAP_CASE_H
#define EV_TESTS_GAP_CASE_H

#define TOPIC "gap.orders"

#include "backend/nats_consume.h"
#include "group_case.h"

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
    uint64_t gaps, told, off, slow, gathered, let_go;
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
    n->let_go = c->gaps_let_go;
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

static inline void proxy_url(char *out, size_t cap, const char *credentials)
{
    (void)snprintf(out, cap, "nats://%s127.0.0.1:%u", credentials, proxy_port(proxy));
}

static inline int tear_down(void **state)
{
    struct nats_case *c = *state;

    gate_open(&c->gate);
    end_buses(c);
    return case_tear_down(state);
}

/* A bus behind the proxy. Links end when the test says so, not by a heartbeat. held_max, 0: the usual. */
static inline evbus *open_small_behind_proxy(struct nats_case *c, const char *user, const char *password,
                                             uint32_t held_max)
{
    static const struct suite_backend behind = {.name = "nats", .url = proxy_url};
    const struct suite_backend *before = c->s.backend;
    const evbus_opts o = {.struct_size = sizeof o,
                          .reconnect_min_ms = 1,
                          .reconnect_max_ms = 5,
                          .heartbeat_ms = 20000,
                          .held_max = held_max,
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

static inline evbus *open_behind_proxy(struct nats_case *c, const char *user, const char *password)
{
    return open_small_behind_proxy(c, user, password, 0);
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

static inline bool has_delivered(const jsConsumerInfo *info, int64_t count)
{
    return (int64_t)info->Delivered.Consumer >= count;
}

static inline void await_delivered(struct nats_case *c, int64_t count)
{
    await_consumer(c, has_delivered, count);
}

static inline bool has_pulls(const jsConsumerInfo *info, int64_t count)
{
    return info->NumWaiting >= count;
}

/* So many pulls stand open. */
static inline void await_pulls(struct nats_case *c, int64_t count)
{
    await_consumer(c, has_pulls, count);
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
