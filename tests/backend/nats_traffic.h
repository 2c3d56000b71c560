/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server, a host, and traffic that can be checked: numbered records whose bytes follow from their number, sent again
 * after a disconnect as the core does it. Included by one test file each.
 */
#ifndef EV_TESTS_NATS_TRAFFIC_H
#define EV_TESTS_NATS_TRAFFIC_H

#include "nats_host.h"

#include "../support/nats_server.h"
#include "../support/proxy.h"

#include <signal.h>

#define JETSTREAM "jetstream { store_dir: \"@DIR@/js\", max_mem: 1G, max_file: 1G }\nmax_payload: 1048576\n"
#define STREAM_T "{\"name\":\"T\",\"subjects\":[\"t.>\"],\"storage\":\"memory\",\"duplicate_window\":120000000000}"

struct fixture {
    struct nats_server server;
    struct proxy *proxy;
    char url[64];
    int fds, threads;
    uint64_t blocks;
};

static inline bool set_up(struct fixture *f, const char *config)
{
    memset(f, 0, sizeof *f);
    f->fds = fds_open();
    f->threads = threads_running();
    f->blocks = ev_alloc_live();
    assert_true(nats_server_start(&f->server, config));
    left_add();
    (void)snprintf(f->url, sizeof f->url, "nats://127.0.0.1:%u", f->server.port);
    return true;
}

static inline void through_proxy(struct fixture *f)
{
    f->proxy = proxy_open(f->server.port);
    assert_non_null(f->proxy);
    (void)snprintf(f->url, sizeof f->url, "nats://127.0.0.1:%u", proxy_port(f->proxy));
}

/* Threads and descriptors end a moment after they were told to. */
static inline void must_settle(const struct fixture *f)
{
    const int64_t until = ev_clock_now(NULL) + 5 * EV_SEC;

    while ((fds_open() > f->fds || threads_running() > f->threads) && ev_clock_now(NULL) < until)
        (void)sched_yield();
    assert_int_equal(fds_open(), f->fds);
    assert_int_equal(threads_running(), f->threads);
    assert_int_equal(ev_alloc_live(), f->blocks);
}

static inline void tear_down(struct fixture *f)
{
    proxy_close(f->proxy);
    nats_server_end(&f->server);
    left_remove();
    must_settle(f);
}

static inline struct host *connected(struct fixture *f, const evbus_opts *opts)
{
    struct host *h = host_new();

    assert_int_equal(host_open(h, f->url, opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    return h;
}

static inline void ask(struct host *h, const char *verb, const char *body)
{
    struct ev_nats_reply reply = {0};

    assert_int_equal(ev_nats_api(h->st, &reply, ev_clock_now(NULL) + 10 * EV_SEC, body, "%s", verb), EVBUS_OK);
    assert_null(strstr(reply.data, "\"error\""));
    ev_nats_reply_fini(&reply);
}

/* ---- Traffic: numbered records whose bytes follow from their number ---------------------------------------------- */

#define RECORDS_MAX 400000u

enum { UNSENT, SENT, STORED, REFUSED };

struct traffic {
    uint32_t total, next, window, done, again;
    uint32_t stored, refused, duplicates, resent, corrupt, delivered, inflight, unexpected;
    uint32_t size_max;
    uint32_t lonely_every;  /* every n-th goes to a subject without a stream */
    uint32_t quiet_every;   /* every n-th goes to one that somebody takes and nobody answers */
    uint32_t lonely, quiet; /* how many */
    bool ids;
    uint8_t *state;
    uint32_t *generation;
    uint8_t *seen;
    char *data;
    uint32_t *retry; /* numbers to send again */
    uint32_t retries;
};

static inline uint32_t size_of(const struct traffic *t, uint32_t number)
{
    const uint64_t r = number * UINT64_C(0x9E3779B97F4A7C15);

    return 8 + (uint32_t)((r >> 33) % (t->size_max - 7));
}

static inline void fill(char *out, uint32_t number, uint32_t size)
{
    memcpy(out, &number, 4);
    memcpy(out + 4, &size, 4);
    for (uint32_t i = 8; i < size; i++)
        out[i] = (char)('a' + (number + i) % 23);
}

/* The number of an intact record, UINT32_MAX for anything else. */
static inline uint32_t number_of(const struct traffic *t, const char *data, size_t len)
{
    uint32_t number, size;

    if (len < 8)
        return UINT32_MAX;
    memcpy(&number, data, 4);
    memcpy(&size, data + 4, 4);
    if (number >= t->total || size != len || size != size_of(t, number))
        return UINT32_MAX;
    for (uint32_t i = 8; i < size; i++) {
        if (data[i] != (char)('a' + (number + i) % 23))
            return UINT32_MAX;
    }
    return number;
}

static inline bool is_lonely(const struct traffic *t, uint32_t number)
{
    return t->lonely_every && number % t->lonely_every == 0;
}

static inline bool is_quiet(const struct traffic *t, uint32_t number)
{
    return t->quiet_every && !is_lonely(t, number) && number % t->quiet_every == 1;
}

static inline const char *topic_of(const struct traffic *t, uint32_t number)
{
    if (is_lonely(t, number))
        return "lonely.a";
    if (is_quiet(t, number))
        return "quiet.a";
    return number % 2 ? "t.odd" : "t.even";
}

static inline enum ev_sent send_number(struct host *h, struct traffic *t, uint32_t number)
{
    char id[32], headers[64];
    evbus_status status = EVBUS_OK;
    const int len = snprintf(headers, sizeof headers, "X-Number: %u\r\nX-Other: b\r\n", number);

    (void)snprintf(id, sizeof id, "id-%u", number);
    const struct ev_record r = {.topic = topic_of(t, number),
                                .data = t->data,
                                .len = size_of(t, number),
                                .headers = t->ids && number % 3 == 0 ? headers : NULL,
                                .headers_len = t->ids && number % 3 == 0 ? (size_t)len : 0,
                                .msg_id = t->ids ? id : NULL,
                                .slot = number,
                                .generation = t->generation[number] + 1,
                                .want_ack = true};
    fill(t->data, number, (uint32_t)r.len);
    const enum ev_sent sent = h->ops->send(h->st, &r, &status);
    if (sent == EV_SENT) {
        t->generation[number]++;
        t->state[number] = SENT;
        t->inflight++;
    }
    assert_int_not_equal(sent, EV_SEND_REFUSED);
    return sent;
}

static inline bool traffic_turn(struct host *h, int64_t now)
{
    struct traffic *t = h->ctx;
    bool any = false;

    (void)now;
    for (int i = 0; h->up && i < 256 && t->inflight < t->window; i++) {
        uint32_t number;
        if (t->retries > 0)
            number = t->retry[t->retries - 1];
        else if (t->next < t->total)
            number = t->next;
        else
            break;
        if (send_number(h, t, number) != EV_SENT)
            break;
        if (t->retries > 0) {
            t->retries--;
            t->resent++;
        } else {
            t->lonely += is_lonely(t, number);
            t->quiet += is_quiet(t, number);
            t->next++;
        }
        any = true;
    }
    return any;
}

static inline void traffic_ack(struct host *h, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    struct traffic *t = h->ctx;

    if (slot >= t->total || t->state[slot] != SENT || t->generation[slot] != generation) {
        t->unexpected++;
        return;
    }
    t->inflight--;
    t->duplicates += ack->duplicate;
    if (ack->outcome == EVBUS_OUTCOME_STORED) {
        t->state[slot] = STORED;
        t->stored++;
        t->unexpected += is_lonely(t, slot);
    } else {
        t->state[slot] = REFUSED;
        t->refused++;
        t->unexpected += !is_lonely(t, slot) || !ack->no_responders;
    }
}

/* What was sent and not answered when the link went down is sent again, as the core does it with a message id. */
static inline void traffic_down(struct host *h)
{
    struct traffic *t = h->ctx;

    for (uint32_t i = 0; i < t->next; i++) {
        if (t->state[i] == SENT) {
            t->state[i] = UNSENT;
            t->retry[t->retries++] = i;
            t->inflight--;
        }
    }
    assert_int_equal(t->inflight, 0);
}

static inline void traffic_deliver(struct host *h, const struct ev_delivery *d)
{
    struct traffic *t = h->ctx; /* the host releases */
    const uint32_t number = number_of(t, d->data, d->len);

    if (number == UINT32_MAX)
        t->corrupt++;
    t->delivered++;
}

static inline void traffic_init(struct traffic *t, struct host *h, uint32_t total, uint32_t window, uint32_t size_max)
{
    *t = (struct traffic){.total = total, .window = window, .size_max = size_max};
    t->state = calloc(total, 1);
    t->seen = calloc(total, 1);
    t->generation = calloc(total, sizeof *t->generation);
    t->retry = calloc(total, sizeof *t->retry);
    t->data = malloc(size_max);
    assert_true(t->state && t->seen && t->generation && t->retry && t->data);
    h->ctx = t;
    h->on_ack = traffic_ack;
    h->on_down = traffic_down;
    h->on_deliver = traffic_deliver;
    h->on_turn = traffic_turn;
}

/* Jobs for host_run. */
static inline void start_traffic(struct host *h, void *arg)
{
    (void)arg;
    h->on_turn = traffic_turn;
}

static inline void last_number(struct host *h, void *arg)
{
    struct traffic *t = h->ctx;

    (void)arg;
    t->total = t->next; /* no new ones: what is under way ends */
}

static inline void traffic_fini(struct traffic *t)
{
    free(t->state);
    free(t->seen);
    free(t->generation);
    free(t->retry);
    free(t->data);
}

/* Reads stream T through a plain libnats connection: every message intact, and each number there once. */
static inline uint32_t read_stream(const struct nats_server *server, struct traffic *t, uint32_t *ret_corrupt)
{
    char url[64];
    natsConnection *nc = NULL;
    jsCtx *js = NULL;
    natsSubscription *sub = NULL;
    jsSubOptions so;
    uint32_t n = 0;

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", server->port);
    assert_int_equal(natsConnection_ConnectTo(&nc, url), NATS_OK);
    assert_int_equal(natsConnection_JetStream(&js, nc, NULL), NATS_OK);
    jsSubOptions_Init(&so);
    so.Ordered = true;
    assert_int_equal(js_SubscribeSync(&sub, js, "t.>", NULL, &so, NULL), NATS_OK);
    *ret_corrupt = 0;
    natsMsg *msg = NULL;
    while (natsSubscription_NextMsg(&msg, sub, 1000) == NATS_OK) {
        const uint32_t number = number_of(t, natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
        if (number == UINT32_MAX)
            ++*ret_corrupt;
        else
            t->seen[number]++;
        n++;
        natsMsg_Destroy(msg);
    }
    natsSubscription_Destroy(sub);
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
    return n;
}

static inline void check_stream(struct fixture *f, struct traffic *t)
{
    uint32_t corrupt, missing = 0, twice = 0;
    const uint32_t n = read_stream(&f->server, t, &corrupt);

    for (uint32_t i = 0; i < t->total; i++) {
        if (!is_lonely(t, i)) {
            missing += t->state[i] == STORED && t->seen[i] == 0;
            twice += t->seen[i] > 1;
        }
    }
    print_message("stream: %u messages, corrupt %u, missing %u, twice %u; resent %u, duplicates %u\n", n, corrupt,
                  missing, twice, t->resent, t->duplicates);
    assert_int_equal(corrupt, 0);
    assert_int_equal(missing, 0);
    assert_int_equal(twice, 0);
}

static inline struct host *with_traffic(struct fixture *f, struct traffic *t, const evbus_opts *opts,
                                        const char *stream)
{
    struct host *h = host_new();

    traffic_init(t, h, RECORDS_MAX, 256, 300);
    t->ids = true;
    h->on_turn = NULL;
    assert_int_equal(host_open(h, f->url, opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    ask(h, "STREAM.CREATE.T", stream);
    host_run(h, start_traffic, NULL);
    return h;
}

static inline void finish_traffic(struct fixture *f, struct host *h, struct traffic *t)
{
    host_run(h, last_number, NULL);
    assert_true(await(h, 30000, t->stored == t->total));
    host_close(h);
    assert_int_equal(t->unexpected, 0);
    check_stream(f, t);
    traffic_fini(t);
    tear_down(f);
}

static inline int need_server(void **state)
{
    (void)state;
    /* libnats's own threads start once and stay: they are no leak of ours. */
    return nats_Open(-1) == NATS_OK ? 0 : -1;
}

#endif
