/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The publishing side of the demo: several threads, each with its own aggregates, so that one aggregate's versions come
 * in order from one thread. Publishing does not wait for outcomes; the statistics count them.
 */
#include "demo.h"

#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct one {
    struct publishers *all;
    pthread_t thread;
    uint32_t index;
};

struct publishers {
    const struct demo_plan *plan;
    evbus *bus;
    struct judge *judge;
    int64_t start_ns;
    uint32_t started;
    atomic_uint ended;
    atomic_bool stop;
    atomic_ullong accepted;
    pthread_mutex_t mutex; /* guards problem */
    char problem[512];
    struct one one[];
};

int demo_payload(char *out, size_t size, uint32_t aggregate, uint32_t version)
{
    return snprintf(out, size, "{\"order\":%" PRIu32 ",\"step\":%" PRIu32 "}", aggregate, version);
}

int demo_topic(char *out, size_t size, uint32_t topic)
{
    return snprintf(out, size, "demo.orders.%" PRIu32, topic);
}

/* The first problem counts; what comes after the order to stop is none. */
static void note(struct publishers *p, const char *text)
{
    pthread_mutex_lock(&p->mutex);
    if (!p->problem[0] && !atomic_load(&p->stop))
        (void)snprintf(p->problem, sizeof p->problem, "%s", text);
    pthread_mutex_unlock(&p->mutex);
}

static bool publish_one(struct publishers *p, uint32_t aggregate, uint32_t version)
{
    char topic[64], id[32], payload[64], text[512];

    (void)demo_topic(topic, sizeof topic, aggregate % p->plan->topics);
    (void)snprintf(id, sizeof id, "order-%" PRIu32, aggregate);
    const int len = demo_payload(payload, sizeof payload, aggregate, version);
    judge_published(p->judge, aggregate, version);
    const evbus_envelope env = {
        .aggregate_id = id,
        .event_type = "OrderMoved",
        .event_version = version,
        .payload = payload,
        .payload_len = (size_t)len,
    };
    const evbus_status st = evbus_publish_envelope(p->bus, topic, &env, NULL);
    if (st == EVBUS_OK) {
        atomic_fetch_add(&p->accepted, 1);
        return true;
    }
    (void)snprintf(text, sizeof text, "publishing version %" PRIu32 " of %s to %s: %s (%s)", version, id, topic,
                   evbus_strerror(st), evbus_error_detail());
    note(p, text);
    return false;
}

/* Holds the thread back until its n-th event is due. */
static void pace(const struct publishers *p, uint64_t n)
{
    if (!p->plan->rate)
        return;
    const double seconds = (double)n * p->plan->publishers / p->plan->rate;
    const int64_t due = p->start_ns + (int64_t)(seconds * 1e9);
    const struct timespec t = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
    while (due > now_ns() && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static void *publish_share(void *arg)
{
    struct one *one = arg;
    struct publishers *p = one->all;
    bool going = true;
    uint64_t n = 0;

    for (uint32_t version = 1; going && version <= p->plan->versions; version++)
        for (uint32_t a = one->index; going && a < p->plan->aggregates; a += p->plan->publishers) {
            pace(p, n++);
            going = !atomic_load(&p->stop) && publish_one(p, a, version);
        }
    atomic_fetch_add(&p->ended, 1);
    return NULL;
}

struct publishers *publishers_start(const struct demo_plan *plan, evbus *bus, struct judge *judge, char *problem,
                                    size_t size)
{
    struct publishers *p = calloc(1, sizeof *p + plan->publishers * sizeof p->one[0]);

    if (!p) {
        (void)snprintf(problem, size, "out of memory");
        return NULL;
    }
    p->plan = plan;
    p->bus = bus;
    p->judge = judge;
    p->start_ns = now_ns();
    (void)pthread_mutex_init(&p->mutex, NULL);
    for (uint32_t i = 0; i < plan->publishers; i++) {
        p->one[i] = (struct one){.all = p, .index = i};
        const int failed = pthread_create(&p->one[i].thread, NULL, publish_share, &p->one[i]);
        if (failed) {
            (void)snprintf(problem, size, "cannot start a thread: %s", strerror(failed));
            publishers_stop(p);
            return NULL;
        }
        p->started++;
    }
    return p;
}

uint64_t publishers_accepted(struct publishers *p)
{
    return atomic_load(&p->accepted);
}

bool publishers_done(struct publishers *p)
{
    return atomic_load(&p->ended) == p->started;
}

bool publishers_problem(struct publishers *p, char *problem, size_t size)
{
    pthread_mutex_lock(&p->mutex);
    const bool any = p->problem[0] != 0;
    if (any)
        (void)snprintf(problem, size, "%s", p->problem);
    pthread_mutex_unlock(&p->mutex);
    return any;
}

void publishers_ask_to_stop(struct publishers *p)
{
    atomic_store(&p->stop, true);
}

void publishers_stop(struct publishers *p)
{
    publishers_ask_to_stop(p);
    for (uint32_t i = 0; i < p->started; i++)
        (void)pthread_join(p->one[i].thread, NULL);
    (void)pthread_mutex_destroy(&p->mutex);
    free(p);
}
