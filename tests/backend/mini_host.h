/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core in miniature, for testing a backend alone: one loop thread, subscriptions that count what they get and settle
 * it as told, no order, no retries. Include it in one file of a test program: it defines the ev_host_* functions.
 *
 * Threads. The loop owns the subscriptions' fields; the test looks at them in a function run by on_loop(), or waits
 * with until() for a condition that the loop evaluates after each turn.
 */
#ifndef EV_TESTS_MINI_HOST_H
#define EV_TESTS_MINI_HOST_H

#include "base/alloc.h"
#include "base/thread.h"
#include "core/backend.h"
#include "host_unheard.h"
#include "support/loop_assert.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SEQ_MAX 65536
#define HOLD_MAX 8192
#define MINI_QUIET_MS 20000 /* far more than a backend may take to become quiet and leave */

enum policy { ACK_NOW, HOLD, REFUSE };

/* What the backend knows as struct evbus_sub. */
struct mini_sub {
    struct mini_host *host;
    void *binding;
    enum policy policy;
    struct ev_room capacity;
    uint64_t held_msgs, held_bytes;
    uint64_t count, redelivered, distinct, bytes, unsettled, foreign, lost;
    uint64_t last_seq, backwards;   /* deliveries with a lower sequence than the one before */
    uint32_t quiet;                 /* how often it was told that nothing more comes; since attach */
    uint32_t left;                  /* and that all it had said is worked off */
    uint64_t late;                  /* deliveries after that */
    uint64_t over_msgs, over_bytes; /* most that was held beyond the capacity */
    uint32_t deliveries_max;
    evbus_status lost_cause;
    char lost_text[128];
    char topic[EV_NAME_MAX]; /* of the last delivery */
    struct mini_held {
        void *token;
        size_t len;
        uint64_t seq;
    } hold[HOLD_MAX]; /* HOLD: not settled; ACK_NOW: settling failed for want of a link */
    uint32_t hold_count;
    unsigned char seen[SEQ_MAX];
    void (*on_deliver)(struct mini_sub *sub, const struct ev_delivery *d); /* the test's; may be NULL */
    void *arg;
    struct mini_sub *next;
};

struct mini_host {
    const struct ev_backend_ops *ops;
    void *state;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    void (*job)(void *arg); /* guarded by mutex, as are job_arg, job_failed, until_* */
    void *job_arg;
    char job_failed[LOOP_TEXT]; /* "": it did not */
    bool (*until_fn)(void *arg);
    void *until_arg;
    bool until_new, until_met, stop, stopped;
    /* [loop] */
    struct mini_sub *subs;
    uint64_t ups, downs;
    bool up;
    /* any: guarded by log_mutex */
    pthread_mutex_t log_mutex;
    char log[65536];
    size_t log_len;
    uint32_t connect_failures;
    struct ev_log out;
};

/* ---- ev_host_*: what the backend calls --------------------------------------------------------------------------- */

static void mini_note(struct mini_host *h, const char *text)
{
    pthread_mutex_lock(&h->log_mutex);
    const int n = snprintf(h->log + h->log_len, sizeof h->log - h->log_len, "%s\n", text);
    if (n > 0 && h->log_len + (size_t)n < sizeof h->log)
        h->log_len += (size_t)n;
    pthread_mutex_unlock(&h->log_mutex);
}

static void mini_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    if (getenv("EV_TEST_LOG"))
        (void)fprintf(stderr, "# %.3f [%d] %s: %s\n", (double)ev_clock_now(NULL) / 1e9, (int)level, subject, text);
    mini_note(ctx, text);
}

/* How often `text` was logged. */
static uint32_t logged(struct mini_host *h, const char *text)
{
    uint32_t n = 0;

    pthread_mutex_lock(&h->log_mutex);
    for (const char *at = strstr(h->log, text); at; at = strstr(at + 1, text))
        n++;
    pthread_mutex_unlock(&h->log_mutex);
    return n;
}

static struct mini_host *mini(struct ev_host *host)
{
    return (struct mini_host *)(void *)host;
}

static void mini_settle_again(struct mini_sub *sub)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < sub->hold_count; i++) {
        struct mini_held *m = &sub->hold[i];
        if (sub->host->ops->settle(sub->host->state, sub->binding, m->token, EV_SETTLE_ACK, 0)) {
            sub->host->ops->release(sub->host->state, m->token);
            sub->held_msgs--;
            sub->held_bytes -= m->len;
        } else {
            sub->hold[kept++] = *m;
        }
    }
    sub->hold_count = kept;
}

void ev_host_link_up(struct ev_host *host)
{
    mini(host)->ups++;
    mini(host)->up = true;
    for (struct mini_sub *sub = mini(host)->subs; sub; sub = sub->next)
        if (sub->policy == ACK_NOW)
            mini_settle_again(sub);
}

void ev_host_link_down(struct ev_host *host, evbus_status cause, const char *text)
{
    (void)cause;
    mini(host)->downs++;
    mini(host)->up = false;
    mini_log(EVBUS_LOG_INFO, "down", text, mini(host));
}

void ev_host_connect_failed(struct ev_host *host, evbus_status status, const char *text)
{
    (void)status;
    pthread_mutex_lock(&mini(host)->log_mutex);
    mini(host)->connect_failures++;
    pthread_mutex_unlock(&mini(host)->log_mutex);
    mini_note(mini(host), text);
}

void ev_host_silent(struct ev_host *host, struct evbus_sub *sub, bool silent, const char *text)
{
    (void)sub, (void)silent;
    mini_note(mini(host), text);
}

void ev_host_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    (void)host, (void)slot, (void)generation, (void)ack;
}

void ev_host_publish_denied(struct ev_host *host, const char *topic, const char *text)
{
    (void)topic;
    mini_note(mini(host), text);
}

static void mini_hold(struct mini_sub *sub, const struct ev_delivery *d)
{
    assert(sub->hold_count < HOLD_MAX);
    sub->hold[sub->hold_count++] = (struct mini_held){d->token, d->len, d->stream_seq};
    sub->held_msgs++;
    sub->held_bytes += d->len;
    if (sub->held_msgs > sub->capacity.msgs && sub->held_msgs - sub->capacity.msgs > sub->over_msgs)
        sub->over_msgs = sub->held_msgs - sub->capacity.msgs;
    if (sub->held_bytes > sub->capacity.bytes && sub->held_bytes - sub->capacity.bytes > sub->over_bytes)
        sub->over_bytes = sub->held_bytes - sub->capacity.bytes;
}

bool ev_host_deliver(struct ev_host *host, const struct ev_delivery *d)
{
    struct mini_host *h = mini(host);
    struct mini_sub *sub = (struct mini_sub *)(void *)d->sub;

    if (sub->policy == REFUSE)
        return false;
    sub->late += sub->quiet > 0;
    sub->count++;
    sub->bytes += d->len;
    sub->redelivered += d->delivery_count > 1;
    if (d->delivery_count > sub->deliveries_max)
        sub->deliveries_max = d->delivery_count;
    if (d->stream_seq < sub->last_seq)
        sub->backwards++;
    sub->last_seq = d->stream_seq;
    if (d->stream_seq < SEQ_MAX && !sub->seen[d->stream_seq]) {
        sub->seen[d->stream_seq] = 1;
        sub->distinct++;
    }
    snprintf(sub->topic, sizeof sub->topic, "%s", d->topic);
    if (sub->on_deliver)
        sub->on_deliver(sub, d);
    if (sub->policy == ACK_NOW && h->ops->settle(h->state, sub->binding, d->token, EV_SETTLE_ACK, 0)) {
        h->ops->release(h->state, d->token);
        return true;
    }
    sub->unsettled += sub->policy == ACK_NOW;
    mini_hold(sub, d);
    return true;
}

void ev_host_consumer_lost(struct ev_host *host, struct evbus_sub *s, evbus_status cause, const char *text)
{
    struct mini_sub *sub = (struct mini_sub *)(void *)s;

    (void)host;
    sub->lost++;
    sub->lost_cause = cause;
    snprintf(sub->lost_text, sizeof sub->lost_text, "%s", text);
}

/* Hands back what is held, as the core does: when nothing is under way any more. */
void ev_host_quiet(struct ev_host *host, struct evbus_sub *s)
{
    struct mini_sub *sub = (struct mini_sub *)(void *)s;
    const struct mini_host *h = mini(host);

    sub->quiet++;
    for (uint32_t i = 0; i < sub->hold_count; i++) {
        (void)h->ops->settle(h->state, sub->binding, sub->hold[i].token, EV_SETTLE_NAK, 0);
        h->ops->release(h->state, sub->hold[i].token);
    }
    sub->hold_count = 0;
    sub->held_msgs = sub->held_bytes = 0;
    h->ops->leave(h->state, sub->binding);
}

void ev_host_left(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host;
    ((struct mini_sub *)(void *)sub)->left++;
}

bool ev_host_holds(struct ev_host *host, struct evbus_sub *s, uint64_t stream_seq)
{
    const struct mini_sub *sub = (struct mini_sub *)(void *)s;

    (void)host;
    for (uint32_t i = 0; i < sub->hold_count; i++)
        if (sub->hold[i].seq == stream_seq)
            return true;
    return false;
}

void ev_host_foreign(struct ev_host *host, struct evbus_sub *s, uint64_t count)
{
    (void)host;
    ((struct mini_sub *)(void *)s)->foreign += count;
}

const evbus_clock *ev_host_clock(struct ev_host *host)
{
    (void)host;
    return NULL;
}

const struct ev_log *ev_host_log(struct ev_host *host)
{
    return &mini(host)->out;
}

void ev_host_event(struct ev_host *host, evbus_event_kind kind, evbus_status status, const char *topic,
                   const char *text)
{
    (void)kind, (void)status, (void)topic;
    mini_note(mini(host), text ? text : "");
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static void mini_rooms(struct mini_host *h)
{
    for (struct mini_sub *sub = h->subs; sub; sub = sub->next) {
        const struct ev_room room = {
            .msgs = sub->held_msgs < sub->capacity.msgs ? sub->capacity.msgs - (uint32_t)sub->held_msgs : 0,
            .bytes = sub->held_bytes < sub->capacity.bytes ? sub->capacity.bytes - sub->held_bytes : 0,
        };
        if (sub->binding)
            h->ops->want(h->state, sub->binding, room);
    }
}

/* A job and the condition waited for; true: the loop is to end. */
static bool mini_mailbox(struct mini_host *h)
{
    pthread_mutex_lock(&h->mutex);
    if (h->job) {
        (void)loop_try(h->job, h->job_arg, h->job_failed);
        h->job = NULL;
        pthread_cond_broadcast(&h->changed);
    }
    h->until_new = false;
    if (h->until_fn && h->until_fn(h->until_arg)) {
        h->until_fn = NULL;
        h->until_met = true;
        pthread_cond_broadcast(&h->changed);
    }
    const bool stop = h->stop;
    pthread_mutex_unlock(&h->mutex);
    return stop;
}

/* Whether somebody wants the loop. Looked at last before waiting: a turn may swallow the wake-up. */
static bool mini_called(struct mini_host *h)
{
    pthread_mutex_lock(&h->mutex);
    const bool called = h->job || h->stop || h->until_new;
    pthread_mutex_unlock(&h->mutex);
    return called;
}

static void *mini_loop(void *arg)
{
    struct mini_host *h = arg;

    while (!mini_mailbox(h)) {
        const bool any = h->ops->turn(h->state, ev_clock_now(NULL));
        mini_rooms(h);
        if (!any && !mini_called(h))
            h->ops->wait(h->state, h->ops->due(h->state));
    }
    h->ops->shut(h->state);
    return NULL;
}

static struct timespec mini_deadline(uint32_t ms)
{
    const int64_t at = ev_clock_now(NULL) + ms * EV_MS;

    return (struct timespec){.tv_sec = at / EV_SEC, .tv_nsec = at % EV_SEC};
}

/* Runs fn on the loop thread and waits for it. An assertion that fails in it fails here. */
static void on_loop(struct mini_host *h, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&h->mutex);
    h->job = fn;
    h->job_arg = arg;
    h->ops->wake(h->state);
    while (h->job)
        pthread_cond_wait(&h->changed, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
    if (h->job_failed[0])
        loop_fail(h->job_failed);
}

/* Waits until the loop finds fn(arg) true; false: not within `ms`. */
static bool until(struct mini_host *h, bool (*fn)(void *arg), void *arg, uint32_t ms)
{
    const struct timespec at = mini_deadline(ms);
    int e = 0;

    pthread_mutex_lock(&h->mutex);
    h->until_fn = fn;
    h->until_arg = arg;
    h->until_met = false;
    h->until_new = true;
    h->ops->wake(h->state);
    while (!h->until_met && e == 0)
        e = pthread_cond_timedwait(&h->changed, &h->mutex, &at);
    const bool met = h->until_met;
    h->until_fn = NULL;
    pthread_mutex_unlock(&h->mutex);
    return met;
}

static bool mini_is_up(void *arg)
{
    return ((struct mini_host *)arg)->up;
}

static evbus_status mini_open(struct mini_host *h, const struct ev_backend_ops *ops, const struct ev_url *url,
                              const evbus_opts *opts)
{
    pthread_condattr_t attr;

    memset(h, 0, sizeof *h);
    h->ops = ops;
    h->state = ev_aligned(64, (ops->state_size + 63) / 64 * 64);
    h->out = (struct ev_log){.fn = mini_log, .ctx = h, .level = EVBUS_LOG_INFO};
    pthread_mutex_init(&h->mutex, NULL);
    pthread_mutex_init(&h->log_mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    const evbus_status st = ops->open(h->state, url, opts, (struct ev_host *)(void *)h);
    h->stopped = st != EVBUS_OK;
    return st == EVBUS_OK ? ev_thread_start(&h->thread, "mini", mini_loop, h) : st;
}

/* Ends the loop thread; subscriptions and state stay for a look. */
static void mini_stop(struct mini_host *h)
{
    if (h->stopped)
        return;
    pthread_mutex_lock(&h->mutex);
    h->stop = true;
    pthread_mutex_unlock(&h->mutex);
    h->ops->wake(h->state);
    pthread_join(h->thread, NULL);
    h->stopped = true;
}

static void mini_close(struct mini_host *h)
{
    mini_stop(h);
    h->ops->fini(h->state);
    ev_free(h->state);
    pthread_mutex_destroy(&h->mutex);
    pthread_mutex_destroy(&h->log_mutex);
    pthread_cond_destroy(&h->changed);
}

/* ---- Subscriptions ----------------------------------------------------------------------------------------------- */

static void mini_attach_job(void *arg)
{
    struct mini_sub *sub = arg;

    sub->quiet = sub->left = 0;
    sub->next = sub->host->subs;
    sub->host->subs = sub;
    sub->host->ops->attach(sub->host->state, sub->binding);
}

static void mini_detach_job(void *arg)
{
    struct mini_sub *sub = arg, **link = &sub->host->subs;

    while (*link && *link != sub)
        link = &(*link)->next;
    if (*link)
        *link = sub->next;
    sub->host->ops->detach(sub->host->state, sub->binding);
}

static bool mini_has_left(void *arg)
{
    return ((struct mini_sub *)arg)->left > 0;
}

static void mini_attach(struct mini_sub *sub)
{
    on_loop(sub->host, mini_attach_job, sub);
}

/* Detaches, waits until nothing is under way any more and what was held is handed back, unbinds. */
static void mini_detach(struct mini_sub *sub)
{
    if (!sub->binding)
        return;
    on_loop(sub->host, mini_detach_job, sub);
    if (!until(sub->host, mini_has_left, sub, MINI_QUIET_MS))
        abort();
    sub->host->ops->unbind(sub->host->state, sub->binding);
    sub->binding = NULL;
}

#endif
