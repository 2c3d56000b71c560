/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core in miniature for the mem:// backend: sessions that a test turns itself, or gives to threads of its own. It
 * records answers and deliveries and settles as told. Include it in one file of a test program.
 */
#ifndef EV_TESTS_MEM_HOST_H
#define EV_TESTS_MEM_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "backend/mem_fault.h"
#include "core/backend.h"
#include "host_unheard.h"

#include <stdalign.h>
#include <string.h>

extern const struct ev_backend_ops ev_mem_ops;

#define GOT_MAX 70000u

enum policy { HOLD, ACK, RELEASE };

struct got {
    void *token;
    uint64_t seq;
    uint32_t count;
    char byte; /* first of the data */
};

/* What the backend knows as struct evbus_sub. */
struct sub {
    struct host *host;
    void *binding;
    enum policy policy;
    bool refuse;       /* as a core without memory */
    uint32_t capacity; /* room */
    uint32_t held;
    uint64_t count, redelivered, foreign, lost, pending;
    uint64_t last_seq, backwards;
    struct got *got; /* GOT_MAX; NULL: not recorded */
};

struct host {
    void *state;
    const evbus_clock *clock;
    struct ev_log log;
    uint32_t ups, downs, warnings;
    bool up;
    uint64_t stored, duplicates, refused;
    struct ev_ack answer; /* the last one; its texts are in the buffers */
    uint32_t slot, generation;
    char text[300], stream[EV_NAME_MAX], down_text[200];
};

static struct host *host_of(struct ev_host *host)
{
    return (struct host *)(void *)host;
}

void ev_host_link_up(struct ev_host *host)
{
    host_of(host)->ups++;
    host_of(host)->up = true;
}

void ev_host_link_down(struct ev_host *host, evbus_status cause, const char *text)
{
    assert_int_equal(cause, EVBUS_DISCONNECTED);
    host_of(host)->downs++;
    host_of(host)->up = false;
    strncpy(host_of(host)->down_text, text, sizeof host_of(host)->down_text - 1);
}

void ev_host_connect_failed(struct ev_host *host, evbus_status status, const char *text)
{
    (void)host, (void)status, (void)text;
    fail();
}

void ev_host_silent(struct ev_host *host, struct evbus_sub *sub, bool silent, const char *text)
{
    (void)host, (void)sub, (void)silent, (void)text;
}

void ev_host_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    struct host *h = host_of(host);

    h->answer = *ack;
    h->slot = slot;
    h->generation = generation;
    h->text[0] = h->stream[0] = '\0';
    if (ack->text)
        strncat(h->text, ack->text, ack->text_len);
    if (ack->stream)
        strncat(h->stream, ack->stream, ack->stream_len);
    h->stored += ack->outcome == EVBUS_OUTCOME_STORED;
    h->duplicates += ack->duplicate;
    h->refused += ack->outcome == EVBUS_OUTCOME_REFUSED;
}

void ev_host_publish_denied(struct ev_host *host, const char *topic, const char *text)
{
    (void)host, (void)topic, (void)text;
    fail();
}

bool ev_host_deliver(struct ev_host *host, const struct ev_delivery *d)
{
    struct sub *sub = (struct sub *)(void *)d->sub;

    if (sub->refuse)
        return false;
    if (sub->got && sub->count < GOT_MAX)
        sub->got[sub->count] =
            (struct got){d->token, d->stream_seq, d->delivery_count, d->len ? *(const char *)d->data : '\0'};
    sub->count++;
    sub->redelivered += d->delivery_count > 1;
    sub->backwards += d->stream_seq <= sub->last_seq && d->stream_seq != 0;
    sub->last_seq = d->stream_seq;
    sub->pending = d->pending;
    if (sub->policy == ACK)
        assert_true(ev_mem_ops.settle(host_of(host)->state, sub->binding, d->token, EV_SETTLE_ACK, 0));
    if (sub->policy == HOLD)
        sub->held++;
    else
        ev_mem_ops.release(host_of(host)->state, d->token);
    return true;
}

void ev_host_consumer_lost(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text)
{
    (void)host, (void)cause, (void)text;
    ((struct sub *)(void *)sub)->lost++;
}

void ev_host_left(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host, (void)sub;
}

void ev_host_quiet(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host, (void)sub;
}

void ev_host_foreign(struct ev_host *host, struct evbus_sub *sub, uint64_t count)
{
    (void)host;
    ((struct sub *)(void *)sub)->foreign += count;
}

const evbus_clock *ev_host_clock(struct ev_host *host)
{
    return host_of(host)->clock;
}

const struct ev_log *ev_host_log(struct ev_host *host)
{
    return &host_of(host)->log;
}

void ev_host_event(struct ev_host *host, evbus_event_kind kind, evbus_status status, const char *topic,
                   const char *text)
{
    (void)host, (void)kind, (void)status, (void)topic, (void)text;
}

static void host_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    (void)subject, (void)text;
    ((struct host *)ctx)->warnings += level == EVBUS_LOG_WARN;
}

/* ---- Sessions ---------------------------------------------------------------------------------------------------- */

static inline evbus_status host_open(struct host *h, const char *name, const evbus_clock *clock, uint64_t bytes_max)
{
    const struct ev_url url = {.scheme = "mem", .rest = name, .full = name};
    const evbus_opts opts = {.struct_size = sizeof opts, .mem_bytes_max = bytes_max};

    memset(h, 0, sizeof *h);
    h->clock = clock;
    h->log = (struct ev_log){.fn = host_log, .ctx = h, .level = EVBUS_LOG_INFO};
    h->state = ev_aligned(128, ev_mem_ops.state_size);
    assert_non_null(h->state);
    return ev_mem_ops.open(h->state, &url, &opts, (struct ev_host *)(void *)h);
}

static inline void host_close(struct host *h)
{
    if (!h->state)
        return;
    ev_mem_ops.shut(h->state);
    ev_mem_ops.fini(h->state);
    ev_free(h->state);
    h->state = NULL;
}

static inline bool host_turn(struct host *h)
{
    return ev_mem_ops.turn(h->state, ev_clock_now(h->clock));
}

/* Turns until nothing happens. */
static inline void host_settle_down(struct host *h)
{
    while (host_turn(h) || ev_mem_ops.due(h->state) <= ev_clock_now(h->clock))
        ;
}

static inline void host_stream(struct host *h, const char *name, const char *subject, uint64_t max_msgs,
                               evbus_discard discard)
{
    struct ev_stream_cfg cfg = {.subjects = &subject,
                                .subject_count = 1,
                                .max_msgs = max_msgs,
                                .duplicate_window_ns = 120 * (uint64_t)EV_SEC,
                                .storage = EVBUS_STORAGE_FILE,
                                .discard = discard,
                                .replicas = 1};

    strcpy(cfg.name, name);
    assert_int_equal(ev_mem_ops.stream_create(h->state, &cfg, 0), EVBUS_OK);
}

static inline enum ev_sent host_send(struct host *h, const char *topic, const char *data, const char *id, bool want_ack)
{
    const struct ev_record record = {.topic = topic,
                                     .data = data,
                                     .len = strlen(data),
                                     .headers = "Key: value\r\n",
                                     .headers_len = 12,
                                     .msg_id = id,
                                     .slot = 3,
                                     .generation = 4,
                                     .want_ack = want_ack};
    evbus_status status = EVBUS_OK;

    return ev_mem_ops.send(h->state, &record, &status);
}

static inline void host_publish(struct host *h, const char *topic, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(host_send(h, topic, "data", NULL, true), EV_SENT);
}

static inline struct ev_consumer_cfg consumer(const char *stream, const char *name, const char *filter)
{
    struct ev_consumer_cfg cfg = {
        .filter = filter, .durable = true, .ack_explicit = true, .ack_wait_ns = 30 * EV_SEC, .ack_pending_max = 65536};

    strcpy(cfg.stream, stream);
    strcpy(cfg.name, name);
    return cfg;
}

static inline void sub_want(struct sub *sub)
{
    ev_mem_ops.want(sub->host->state, sub->binding,
                    (struct ev_room){sub->held < sub->capacity ? sub->capacity - sub->held : 0, UINT64_C(1) << 30});
}

/* Attached, with room for `capacity`. `got` may be NULL. */
static inline void sub_open(struct sub *sub, struct host *h, const struct ev_consumer_cfg *cfg, enum policy policy,
                            uint32_t capacity, struct got *got)
{
    *sub = (struct sub){.host = h, .policy = policy, .capacity = capacity, .got = got};
    assert_int_equal(ev_mem_ops.bind(h->state, (struct evbus_sub *)(void *)sub, cfg, &sub->binding, 0), EVBUS_OK);
    ev_mem_ops.attach(h->state, sub->binding);
    sub_want(sub);
}

static inline void sub_open_core(struct sub *sub, struct host *h, const char *subject, const char *queue,
                                 uint32_t capacity, struct got *got)
{
    *sub = (struct sub){.host = h, .policy = RELEASE, .capacity = capacity, .got = got};
    assert_int_equal(ev_mem_ops.bind_core(h->state, (struct evbus_sub *)(void *)sub, subject, queue, &sub->binding),
                     EVBUS_OK);
    ev_mem_ops.attach(h->state, sub->binding);
    sub_want(sub);
}

/* Settles and releases what is held, from the `from`-th on. */
static inline void sub_settle(struct sub *sub, uint64_t from, enum ev_settle verb, int64_t delay)
{
    for (uint64_t i = from; i < sub->count; i++) {
        assert_true(ev_mem_ops.settle(sub->host->state, sub->binding, sub->got[i].token, verb, delay));
        ev_mem_ops.release(sub->host->state, sub->got[i].token);
        sub->held--;
    }
}

static inline void sub_close(struct sub *sub)
{
    ev_mem_ops.detach(sub->host->state, sub->binding);
    ev_mem_ops.unbind(sub->host->state, sub->binding);
    sub->binding = NULL;
}

#endif
