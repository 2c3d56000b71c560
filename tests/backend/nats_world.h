/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One nats-server, one NATS backend on a mini host, and a client of the test's own. Include it in one file of a test.
 */
#ifndef EV_TESTS_NATS_WORLD_H
#define EV_TESTS_NATS_WORLD_H

#include "backend/nats_consume.h"
#include "core/names.h"
#include "mini_host.h"
#include "support/left.h"
#include "support/nats_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define JETSTREAM "jetstream {store_dir: \"@DIR@\"}\n"
#define WAIT 20000

struct world {
    struct nats_server server;
    struct mini_host host;
    struct mini_sub sub, sub2;
    uint16_t via; /* a proxy's port for the backend; 0: straight to the server */
    char url[128];
    uint64_t blocks;    /* allocated before */
    natsConnection *nc; /* the test's own, with libnats's threads */
    jsCtx *js;
};

static struct ev_nats *nats(struct world *w)
{
    return w->host.state;
}

static int64_t soon(void)
{
    return ev_clock_now(NULL) + 10 * EV_SEC;
}

static void open_client(struct world *w, const char *credentials)
{
    char url[128];

    snprintf(url, sizeof url, "nats://%s127.0.0.1:%u", credentials, w->server.port);
    assert_int_equal(natsConnection_ConnectTo(&w->nc, url), NATS_OK);
    assert_int_equal(natsConnection_JetStream(&w->js, w->nc, NULL), NATS_OK);
}

static void close_client(struct world *w)
{
    jsCtx_Destroy(w->js);
    natsConnection_Destroy(w->nc);
    w->js = NULL;
    w->nc = NULL;
}

static void open_bus(struct world *w, const char *credentials)
{
    evbus_opts opts = {.struct_size = sizeof opts, .name = "test"};
    char rest[96];

    if (w->via) { /* the test ends links itself */
        opts.reconnect_min_ms = 1;
        opts.reconnect_max_ms = 5;
        opts.heartbeat_ms = 20000;
    }
    snprintf(rest, sizeof rest, "%s127.0.0.1:%u", credentials, w->via ? w->via : w->server.port);
    snprintf(w->url, sizeof w->url, "nats://%s", rest);
    const struct ev_url url = {.scheme = "nats", .rest = rest, .full = w->url};
    const evbus_status st = mini_open(&w->host, &ev_nats_ops, &url, &opts);
    if (st != EVBUS_OK)
        fail_msg("open: %s", ev_detail());
    assert_true(until(&w->host, mini_is_up, &w->host, WAIT));
}

static struct world *begin(const char *config)
{
    struct world *w = calloc(1, sizeof *w);

    w->blocks = ev_alloc_live();
    left_add();
    assert_true(nats_server_start(&w->server, config));
    return w;
}

static struct world *begin_open(void)
{
    struct world *w = begin(JETSTREAM);

    open_client(w, "");
    open_bus(w, "");
    return w;
}

static void make_stream(struct world *w, const char *name, const char *subject)
{
    struct ev_stream_cfg cfg = {.subjects = &subject, .subject_count = 1, .storage = EVBUS_STORAGE_FILE, .replicas = 1};

    snprintf(cfg.name, sizeof cfg.name, "%s", name);
    const evbus_status st = ev_nats_stream_create(nats(w), &cfg, soon());
    if (st != EVBUS_OK)
        fail_msg("stream: %s", ev_detail());
}

static void publish(struct world *w, const char *subject, uint32_t count, size_t size)
{
    char *body = malloc(size + 1);

    memset(body, 'x', size);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(js_PublishAsync(w->js, subject, body, (int)size, NULL), NATS_OK);
    assert_int_equal(js_PublishAsyncComplete(w->js, NULL), NATS_OK);
    free(body);
}

static struct ev_consumer_cfg consumer(const char *stream, const char *group, const char *filter)
{
    struct ev_consumer_cfg cfg = {
        .filter = filter, .durable = true, .ack_explicit = true, .ack_wait_ns = 30 * EV_SEC, .ack_pending_max = 4096};

    snprintf(cfg.stream, sizeof cfg.stream, "%s", stream);
    cfg.id = ev_durable_name(cfg.name, group, filter);
    return cfg;
}

static void prepare(struct world *w, struct mini_sub *sub, enum policy policy, uint32_t msgs, uint64_t bytes)
{
    sub->host = &w->host;
    sub->policy = policy;
    sub->capacity = (struct ev_room){msgs, bytes};
}

static void subscribe(struct mini_sub *sub, const struct ev_consumer_cfg *cfg)
{
    const evbus_status st = ev_nats_bind(sub->host->state, (struct evbus_sub *)(void *)sub, cfg, &sub->binding, soon());

    if (st != EVBUS_OK)
        fail_msg("bind: %s", ev_detail());
    mini_attach(sub);
}

/* await_consumer() stands below. */
static void end_world(struct world *w)
{
    if (w->host.state) {
        mini_detach(&w->sub);
        mini_detach(&w->sub2);
        mini_stop(&w->host);
        assert_true(w->sub.quiet <= 1 && w->sub2.quiet <= 1);
        assert_int_equal(w->sub.late + w->sub2.late, 0);
        assert_int_equal(nats(w)->consume->tokens_live, 0);
        assert_int_equal(nats(w)->consume->odd, 0);
        mini_close(&w->host);
    }
    if (w->nc)
        close_client(w);
    nats_server_end(&w->server);
    left_remove();
    assert_int_equal(ev_alloc_live(), w->blocks);
    free(w);
}

/* ---- Conditions -------------------------------------------------------------------------------------------------- */

struct want {
    struct mini_sub *sub;
    uint64_t value;
};

static bool got_distinct(void *arg)
{
    const struct want *want = arg;

    return want->sub->distinct >= want->value;
}

static bool got_count(void *arg)
{
    const struct want *want = arg;

    return want->sub->count >= want->value;
}

static bool got_lost(void *arg)
{
    const struct want *want = arg;

    return want->sub->lost >= want->value;
}

static bool got_foreign(void *arg)
{
    const struct want *want = arg;

    return want->sub->foreign >= want->value;
}

static bool got_held(void *arg)
{
    const struct want *want = arg;

    return want->sub->held_msgs >= want->value;
}

/* The pulls' sums: what is outstanding now. */
static bool got_outstanding(void *arg)
{
    const struct want *want = arg;
    const struct ev_nats_binding *b = want->sub->binding;

    return b->out_msgs == want->value;
}

static bool got_returned(void *arg)
{
    const struct want *want = arg;
    const struct ev_nats *st = want->sub->host->state;

    return st->consume->returned >= want->value;
}

static bool got_refused(void *arg)
{
    const struct want *want = arg;
    const struct ev_nats *st = want->sub->host->state;

    return st->consume->refused >= want->value;
}

static bool got_missed(void *arg)
{
    const struct want *want = arg;
    const struct ev_nats *st = want->sub->host->state;

    return st->consume->missed >= want->value;
}

static bool got_ups(void *arg)
{
    const struct want *want = arg;

    return want->sub->host->ups >= want->value;
}

static void settle_job(void *arg)
{
    struct want *want = arg;

    mini_settle_again(want->sub);
    want->value = want->sub->distinct;
}

/* Acknowledges what is held; returns how many different messages came so far. */
static uint64_t settle_held(struct mini_sub *sub)
{
    struct want want = {sub, 0};

    on_loop(sub->host, settle_job, &want);
    return want.value;
}

/* main's, after what it has to say itself. */
static inline int world_run(const char *name, const struct CMUnitTest *tests, size_t count, int argc, char **argv)
{
    /* Marks for the compiler: not every test file uses all of it. */
    (void)got_distinct, (void)got_count, (void)got_lost, (void)got_foreign, (void)got_held, (void)got_outstanding;
    (void)got_returned, (void)got_missed, (void)got_refused, (void)got_ups, (void)settle_held, (void)logged,
        (void)publish, (void)prepare;
    (void)subscribe, (void)consumer, (void)make_stream, (void)begin_open;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (!nats_server_available()) {
        printf("SKIPPED: %s: no nats-server\n", name);
        return 77;
    }
    const int failed = _cmocka_run_group_tests(name, tests, count, NULL, left_none);
    nats_Close();
    return failed;
}

#define await(w, fn, s, n) assert_true(until(&(w)->host, fn, &(struct want){s, n}, WAIT))

/* The server works acks off in its own time: asks until it has `acks` open and `pending` undelivered. */
static void await_consumer(struct world *w, const struct ev_consumer_cfg *cfg, int64_t acks, uint64_t pending)
{
    const int64_t end = soon();
    jsConsumerInfo *info = NULL;
    bool met = false;

    while (!met && ev_clock_now(NULL) < end) {
        assert_int_equal(js_GetConsumerInfo(&info, w->js, cfg->stream, cfg->name, NULL, NULL), NATS_OK);
        met = info->NumAckPending == acks && info->NumPending == pending;
        if (!met && ev_clock_now(NULL) >= end)
            printf("ack pending %lld, pending %llu\n", (long long)info->NumAckPending,
                   (unsigned long long)info->NumPending);
        jsConsumerInfo_Destroy(info);
    }
    assert_true(met);
}

#endif
