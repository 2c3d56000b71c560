/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core of the smallest kind: runs a backend's table on a loop thread and writes down what it says. Included by one
 * test file each, since it defines the ev_host_* functions.
 *
 * Everything the loop writes is guarded by `mutex`; tests wait for it with await(), never by sleeping.
 */
#ifndef EV_TESTS_NATS_HOST_H
#define EV_TESTS_NATS_HOST_H

#include "backend/nats_internal.h"
#include "host_unheard.h"
#include "support/left.h"
#include "support/loop_assert.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct host {
    const struct ev_backend_ops *ops;
    struct ev_nats *st;
    struct ev_log log;
    pthread_t loop;
    _Atomic(bool) stop;
    pthread_mutex_t mutex;
    pthread_cond_t changed;

    /* What the backend said */
    uint32_t ups, downs, failures, denials, acks, deliveries;
    bool up, ended; /* ended: shut() was called, so nothing may be said any more */
    uint32_t late;  /* said all the same */
    evbus_status down_cause, failure;
    char down_text[256], failure_text[256], denied_topic[256];
    uint32_t events[32];
    _Atomic(int64_t) worst_ns; /* the longest turn or overslept wait */

    /* A job for the loop thread; see host_run */
    void (*job)(struct host *h, void *arg);
    void *job_arg;
    char job_failed[LOOP_TEXT]; /* "": it did not */

    /* The test's part: on the loop thread, under the mutex; set before host_open or by host_run */
    bool (*on_turn)(struct host *h, int64_t now);
    void (*on_up)(struct host *h);
    void (*on_down)(struct host *h);
    void (*on_ack)(struct host *h, uint32_t slot, uint32_t generation, const struct ev_ack *ack);
    void (*on_deliver)(struct host *h, const struct ev_delivery *d);
    void *ctx;
};

static inline void host_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    (void)ctx;
    if (getenv("EV_TEST_LOG"))
        (void)fprintf(stderr, "# %.3f [%d] %s: %s\n", (double)ev_clock_now(NULL) / 1e9, (int)level, subject, text);
}

static inline struct host *host_of(struct ev_host *host)
{
    return (struct host *)(void *)host;
}

#define SAY(h, statements)                                                                                             \
    do {                                                                                                               \
        pthread_mutex_lock(&(h)->mutex);                                                                               \
        statements;                                                                                                    \
        pthread_cond_broadcast(&(h)->changed);                                                                         \
        pthread_mutex_unlock(&(h)->mutex);                                                                             \
    } while (0)

void ev_host_link_up(struct ev_host *host)
{
    struct host *h = host_of(host);

    SAY(h, h->ups++; h->late += h->ended; assert_false(h->up); h->up = true; if (h->on_up) h->on_up(h));
}

void ev_host_link_down(struct ev_host *host, evbus_status cause, const char *text)
{
    struct host *h = host_of(host);

    host_log(EVBUS_LOG_INFO, "down", text, NULL);
    SAY(h, if (h->on_down) h->on_down(h); h->downs++; h->late += h->ended; assert_true(h->up); h->up = false;
        h->down_cause = cause; (void)ev_copy(h->down_text, sizeof h->down_text, text));
}

void ev_host_connect_failed(struct ev_host *host, evbus_status status, const char *text)
{
    struct host *h = host_of(host);

    SAY(h, h->failures++; h->failure = status; (void)ev_copy(h->failure_text, sizeof h->failure_text, text));
}

void ev_host_silent(struct ev_host *host, struct evbus_sub *sub, bool silent, const char *text)
{
    (void)host, (void)sub, (void)silent, (void)text;
}

void ev_host_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    struct host *h = host_of(host);

    SAY(h, if (h->on_ack) h->on_ack(h, slot, generation, ack); h->acks++; h->late += h->ended);
}

void ev_host_publish_denied(struct ev_host *host, const char *topic, const char *text)
{
    struct host *h = host_of(host);

    (void)text;
    SAY(h, h->denials++; (void)ev_copy(h->denied_topic, sizeof h->denied_topic, topic));
}

bool ev_host_deliver(struct ev_host *host, const struct ev_delivery *d)
{
    struct host *h = host_of(host);

    SAY(h, if (h->on_deliver) h->on_deliver(h, d); h->deliveries++; h->late += h->ended);
    h->ops->release(h->st, d->token);
    return true;
}

void ev_host_consumer_lost(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text)
{
    (void)host, (void)sub, (void)cause;
    host_log(EVBUS_LOG_WARN, "consumer lost", text, NULL);
}

void ev_host_quiet(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host, (void)sub;
}

void ev_host_left(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host, (void)sub;
}

bool ev_host_holds(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    (void)host, (void)sub, (void)stream_seq;
    return false;
}

void ev_host_foreign(struct ev_host *host, struct evbus_sub *sub, uint64_t count)
{
    (void)host, (void)sub, (void)count;
}

const evbus_clock *ev_host_clock(struct ev_host *host)
{
    (void)host;
    return NULL;
}

const struct ev_log *ev_host_log(struct ev_host *host)
{
    return &host_of(host)->log;
}

void ev_host_event(struct ev_host *host, evbus_event_kind kind, evbus_status status, const char *topic,
                   const char *text)
{
    struct host *h = host_of(host);

    (void)status, (void)topic;
    host_log(EVBUS_LOG_WARN, "event", text, NULL);
    SAY(h, h->events[kind]++);
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static inline void run_job(void *arg)
{
    struct host *h = arg;

    h->job(h, h->job_arg);
}

static inline void *host_loop(void *arg)
{
    struct host *h = arg;

    while (!ev_load_acquire(&h->stop)) {
        const int64_t now = ev_clock_now(NULL);
        bool any = h->ops->turn(h->st, now);
        pthread_mutex_lock(&h->mutex);
        if (h->on_turn)
            any |= h->on_turn(h, now);
        if (h->job) {
            (void)loop_try(run_job, h, h->job_failed);
            h->job = NULL;
            any = true;
            pthread_cond_broadcast(&h->changed);
        }
        pthread_mutex_unlock(&h->mutex);
        int64_t took = ev_clock_now(NULL) - now;
        if (!any) {
            int64_t until = h->ops->due(h->st);
            if (until > now + EV_SEC)
                until = now + EV_SEC;
            h->ops->wait(h->st, until);
            took = ev_clock_now(NULL) - (until > now ? until : now);
        }
        if (took > h->worst_ns)
            SAY(h, h->worst_ns = took);
    }
    h->ops->shut(h->st);
    SAY(h, h->ended = true);
    return NULL;
}

/* A host whose backend could be opened, or the status. */
static inline struct host *host_new(void)
{
    struct host *h = calloc(1, sizeof *h);

    assert_non_null(h);
    h->ops = &ev_nats_ops;
    h->log = (struct ev_log){.fn = host_log, .level = EVBUS_LOG_DEBUG};
    pthread_mutex_init(&h->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    h->st = ev_calloc(1, h->ops->state_size);
    assert_non_null(h->st);
    return h;
}

static inline evbus_status host_open(struct host *h, const char *url, const evbus_opts *opts)
{
    const struct ev_url parsed = {
        .scheme = strncmp(url, "tls", 3) == 0 ? "tls" : "nats", .rest = strstr(url, "://") + 3, .full = url};
    evbus_opts o = opts ? *opts : (evbus_opts){0};

    o.struct_size = sizeof o;
    const evbus_status status = h->ops->open(h->st, &parsed, &o, (struct ev_host *)(void *)h);
    if (status == EVBUS_OK) {
        assert_int_equal(pthread_create(&h->loop, NULL, host_loop, h), 0);
        left_add();
    }
    return status;
}

static inline void host_stop(struct host *h)
{
    ev_store_release(&h->stop, true);
    h->ops->wake(h->st);
    pthread_join(h->loop, NULL);
    left_remove();
}

static inline void host_free(struct host *h)
{
    h->ops->fini(h->st);
    assert_int_equal(h->late, 0);
    ev_free(h->st);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

static inline void host_close(struct host *h)
{
    host_stop(h);
    host_free(h);
}

/* Waits for a condition on what the host wrote down; the expression is read under the mutex. */
#define await(h, ms, condition)                                                                                        \
    __extension__({                                                                                                    \
        const int64_t until_ = ev_clock_now(NULL) + (int64_t)(ms)*EV_MS;                                               \
        const struct timespec ts_ = {.tv_sec = until_ / EV_SEC, .tv_nsec = until_ % EV_SEC};                           \
        pthread_mutex_lock(&(h)->mutex);                                                                               \
        while (!(condition) && ev_clock_now(NULL) < until_)                                                            \
            (void)pthread_cond_timedwait(&(h)->changed, &(h)->mutex, &ts_);                                            \
        const bool met_ = (condition);                                                                                 \
        pthread_mutex_unlock(&(h)->mutex);                                                                             \
        met_;                                                                                                          \
    })

/* Runs fn on the loop thread, under the mutex, and waits for that. An assertion that fails in it fails here. */
static inline void host_run(struct host *h, void (*fn)(struct host *h, void *arg), void *arg)
{
    pthread_mutex_lock(&h->mutex);
    h->job_arg = arg;
    h->job = fn;
    pthread_mutex_unlock(&h->mutex);
    h->ops->wake(h->st);
    assert_true(await(h, 10000, h->job == NULL));
    if (h->job_failed[0])
        loop_fail(h->job_failed);
}

static inline void do_attach(struct host *h, void *binding)
{
    h->ops->attach(h->st, binding);
    h->ops->want(h->st, binding, (struct ev_room){.msgs = 1000, .bytes = 64 * 1024 * 1024});
}

static inline void do_detach(struct host *h, void *binding)
{
    h->ops->detach(h->st, binding);
}

/* ---- What must be the same after as before ----------------------------------------------------------------------- */

static inline int count_in(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;

    if (!d)
        return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static inline int fds_open(void)
{
    return count_in("/proc/self/fd");
}

static inline int threads_running(void)
{
    return count_in("/proc/self/task");
}

#endif
