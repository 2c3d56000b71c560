/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several loops on one named mem:// broker, each on a thread of its own, for ThreadSanitizer and for the promises that
 * need threads: nothing lost or doubled between sessions, order, wake-ups, open and close at any time.
 */
#include "mem_host.h"

#include "conc/atomic.h"
#include "support/wait.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define WAIT_MAX                                                                                                       \
    (wait_patience_ms() / 2 * EV_MS) /* more than a busy machine takes: a wait that ends by it missed a wake-up */

/* Short under a sanitizer. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define MESSAGES 5000u
#else
#define MESSAGES 50000u
#endif

struct flow {
    pthread_t thread;
    struct host host;
    struct sub own, shared;
    uint32_t index, count; /* of sessions */
    uint64_t sent, late;
    _Atomic(uint64_t) *shared_total; /* messages of the shared durable, all sessions */
    _Atomic(uint8_t) *seen;          /* by sequence: deliveries of the shared durable */
    struct got *got;
};

static void sleep_unless_busy(struct host *h, bool busy, uint64_t *late)
{
    if (busy)
        return;
    const int64_t before = ev_clock_now(NULL), due = ev_mem_ops.due(h->state);

    if (due <= before)
        return;
    ev_mem_ops.wait(h->state, due < before + WAIT_MAX ? due : before + WAIT_MAX);
    if (ev_clock_now(NULL) >= before + WAIT_MAX && host_turn(h))
        ++*late;
}

static void flow_collect(struct flow *f)
{
    for (uint64_t i = 0; i < f->shared.count; i++)
        ev_add_relaxed(&f->seen[f->got[i].seq], 1); /* statistic */
    ev_add_acqrel(f->shared_total, f->shared.count);
    f->shared.count = 0;
}

static void *flow_loop(void *arg)
{
    struct flow *f = arg;
    struct host *h = &f->host;
    const uint64_t all = (uint64_t)f->count * MESSAGES;
    char topic[16];

    (void)snprintf(topic, sizeof topic, "s.%u", f->index);
    while (f->own.count < all || h->stored < MESSAGES || ev_load_acquire(f->shared_total) < all) {
        for (uint32_t i = 0; i < 200 && f->sent < MESSAGES; i++, f->sent++)
            if (host_send(h, topic, "0123456789abcdef0123456789abcdef", NULL, true) != EV_SENT)
                break;
        const bool busy = host_turn(h);
        if (f->shared.count > 0)
            flow_collect(f);
        sub_want(&f->own);
        sub_want(&f->shared);
        if (f->own.count == all && h->stored == MESSAGES)
            wait_out(1); /* only the others' share is missing */
        else
            sleep_unless_busy(h, busy || f->sent < MESSAGES, &f->late);
    }
    sub_close(&f->own);
    sub_close(&f->shared);
    ev_mem_ops.shut(h->state);
    return NULL;
}

static void *ask_around(void *arg)
{
    struct flow *flows = arg;
    struct ev_stream_info info;

    for (uint32_t i = 0; i < 300; i++) {
        struct flow *f = &flows[i % flows[0].count];
        struct sub sub = {.host = &f->host};
        char name[32];
        (void)snprintf(name, sizeof name, "T%u", i);
        assert_int_equal(ev_mem_ops.stream_info(f->host.state, "S", "s.x", &info, 0), EVBUS_OK);
        host_stream(&f->host, name, name, 0, EVBUS_DISCARD_OLD);
        const struct ev_consumer_cfg cfg = consumer(name, "c", name);
        assert_int_equal(ev_mem_ops.bind(f->host.state, (struct evbus_sub *)(void *)&sub, &cfg, &sub.binding, 0),
                         EVBUS_OK);
        ev_mem_ops.unbind(f->host.state, sub.binding);
    }
    return NULL;
}

static void run_flows(uint32_t count)
{
    const uint64_t live = ev_alloc_live();
    const uint64_t all = (uint64_t)count * MESSAGES;
    struct flow *flows = calloc(count, sizeof *flows);
    _Atomic(uint8_t) *seen = calloc(all + 1, sizeof *seen);
    _Atomic(uint64_t) shared_total = 0;
    uint64_t late = 0, shares = 0;
    pthread_t asker;

    for (uint32_t i = 0; i < count; i++) {
        struct flow *f = &flows[i];
        char name[16];
        f->index = i;
        f->count = count;
        f->seen = seen;
        f->shared_total = &shared_total;
        f->got = calloc(GOT_MAX, sizeof *f->got);
        assert_int_equal(host_open(&f->host, "flows", NULL, 0), EVBUS_OK);
        (void)host_turn(&f->host);
        if (i == 0)
            host_stream(&f->host, "S", "s.*", 0, EVBUS_DISCARD_OLD);
        (void)snprintf(name, sizeof name, "own-%u", i);
        struct ev_consumer_cfg cfg = consumer("S", name, "s.*");
        sub_open(&f->own, &f->host, &cfg, ACK, 500, NULL);
        cfg = consumer("S", "shared", "s.*");
        sub_open(&f->shared, &f->host, &cfg, ACK, 500, f->got);
    }
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&flows[i].thread, NULL, flow_loop, &flows[i]), 0);
    assert_int_equal(pthread_create(&asker, NULL, ask_around, flows), 0);
    pthread_join(asker, NULL);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(flows[i].thread, NULL);
    for (uint32_t i = 0; i < count; i++) {
        struct flow *f = &flows[i];
        assert_int_equal(f->own.count, all);
        assert_int_equal(f->own.backwards + f->own.redelivered + f->own.foreign, 0);
        assert_int_equal(f->shared.redelivered, 0);
        assert_int_equal(f->host.stored, MESSAGES);
        late += f->late;
        shares += f->shared.foreign > 0;
        ev_mem_ops.fini(f->host.state);
        ev_free(f->host.state);
        free(f->got);
    }
    for (uint64_t seq = 1; seq <= all; seq++)
        assert_int_equal(seen[seq], 1);
    assert_int_equal(late, 0);
    assert_int_equal(shares, count);
    free(seen);
    free(flows);
    assert_int_equal(ev_alloc_live(), live);
}

/* Two loops publish to one stream and consume it, each all of it and both together each message once. */
static void test_mem_threads_two_sessions(void **state)
{
    (void)state;
    run_flows(2);
}

/* The same with four. */
static void test_mem_threads_four_sessions(void **state)
{
    (void)state;
    run_flows(4);
}

/* ---- Wake-ups ---------------------------------------------------------------------------------------------------- */

struct player {
    pthread_t thread;
    struct host host;
    struct sub sub;
    const char *to;
    uint64_t rounds, late;
};

static void *play(void *arg)
{
    struct player *p = arg;
    uint64_t answered = 0;

    while (p->sub.count < p->rounds) {
        const bool busy = host_turn(&p->host);
        sub_want(&p->sub);
        while (answered < p->sub.count && host_send(&p->host, p->to, "ball", NULL, false) == EV_SENT)
            answered++;
        sleep_unless_busy(&p->host, busy || answered < p->sub.count, &p->late);
    }
    while (host_turn(&p->host))
        ;
    return NULL;
}

/* A message to a sleeping session wakes it, every time. */
static void test_mem_threads_wake_each_other(void **state)
{
    struct player players[2] = {{.to = "pong", .rounds = 3000}, {.to = "ping", .rounds = 3000}};
    const uint64_t live = ev_alloc_live();

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct player *p = &players[i];
        assert_int_equal(host_open(&p->host, "game", NULL, 0), EVBUS_OK);
        (void)host_turn(&p->host);
        sub_open_core(&p->sub, &p->host, i ? "pong" : "ping", NULL, 100, NULL);
        host_settle_down(&p->host);
    }
    assert_int_equal(host_send(&players[0].host, "ping", "ball", NULL, false), EV_SENT);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&players[i].thread, NULL, play, &players[i]), 0);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(players[i].thread, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(players[i].late, 0);
        host_close(&players[i].host);
    }
    assert_int_equal(ev_alloc_live(), live);
}

/* ---- Opening and closing ----------------------------------------------------------------------------------------- */

struct visitor {
    pthread_t thread;
    uint32_t index;
    uint64_t stored;
};

static void *visit(void *arg)
{
    struct visitor *v = arg;
    struct got *got = calloc(GOT_MAX, sizeof *got);

    for (uint32_t round = 0; round < 40; round++) {
        struct host h;
        struct sub durable, ephemeral;
        char name[32];
        assert_int_equal(host_open(&h, "visits", NULL, 0), EVBUS_OK);
        (void)host_turn(&h);
        struct ev_consumer_cfg cfg = consumer("S", "shared", "s");
        sub_open(&durable, &h, &cfg, round % 2 ? ACK : HOLD, 50, got);
        (void)snprintf(name, sizeof name, "e-%u-%u", v->index, round);
        cfg = consumer("S", name, "s");
        cfg.durable = false;
        cfg.deliver_new = true;
        sub_open(&ephemeral, &h, &cfg, RELEASE, 50, NULL);
        for (uint32_t i = 0; i < 100; i++) {
            if (i % 10 == 9)
                (void)host_turn(&h);
            while (host_send(&h, "s", "data", NULL, true) != EV_SENT)
                (void)host_turn(&h);
        }
        for (uint32_t i = 0; i < 10; i++)
            (void)host_turn(&h);
        if (round % 3 == 0)
            sub_close(&durable);
        while (round % 3 == 1 && h.stored < 100)
            (void)host_turn(&h);
        if (durable.policy == HOLD) /* without settling: they come again after the ack wait */
            for (uint64_t i = 0; i < durable.count; i++)
                ev_mem_ops.release(h.state, durable.got[i].token);
        host_close(&h);
        v->stored += h.stored;
    }
    free(got);
    return NULL;
}

/* Sessions come and go in the middle of everything; what was answered as stored is stored. */
static void test_mem_threads_open_and_close(void **state)
{
    struct visitor visitors[4] = {{.index = 0}, {.index = 1}, {.index = 2}, {.index = 3}};
    const uint64_t live = ev_alloc_live();
    struct ev_stream_info info;
    struct host keeper;
    uint64_t stored = 0;

    (void)state;
    assert_int_equal(host_open(&keeper, "visits", NULL, 0), EVBUS_OK);
    host_stream(&keeper, "S", "s", 0, EVBUS_DISCARD_OLD);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]), 0);
    for (uint32_t i = 0; i < 4; i++) {
        pthread_join(visitors[i].thread, NULL);
        stored += visitors[i].stored;
    }
    assert_int_equal(ev_mem_ops.stream_info(keeper.state, "S", NULL, &info, 0), EVBUS_OK);
    assert_true(info.last_seq >= stored && info.last_seq <= 4 * 40 * 100);
    host_close(&keeper);
    assert_int_equal(ev_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_threads_two_sessions),
        cmocka_unit_test(test_mem_threads_four_sessions),
        cmocka_unit_test(test_mem_threads_wake_each_other),
        cmocka_unit_test(test_mem_threads_open_and_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
