/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The judge knows nothing of the bus: it is told what happens and compares it with what must happen. One mutex per
 * aggregate; times are atomics, since publishing and handling one event are different threads.
 */
#include "demo.h"

#include "stop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct aggregate {
    pthread_mutex_t mutex;
    uint32_t last_acked;
    bool running;
};

struct judge {
    uint32_t aggregates, versions;
    struct aggregate *aggregate;
    uint8_t *acks;                  /* [aggregate][version]: how often acknowledged; guarded by the aggregate's mutex */
    _Atomic(int64_t) *published_ns; /* the same shape */
    _Atomic(int64_t) *latency_ns;
    atomic_ullong handled, retried, duplicates, gaps, order_violations, damaged;
    _Atomic(int64_t) last_ns;
};

static size_t slot(const struct judge *j, uint32_t aggregate, uint32_t version)
{
    return (size_t)aggregate * j->versions + version - 1;
}

struct judge *judge_new(const struct demo_plan *plan)
{
    const size_t events = (size_t)plan->aggregates * plan->versions;
    struct judge *j = calloc(1, sizeof *j);

    if (!j)
        return NULL;
    j->versions = plan->versions;
    j->aggregate = calloc(plan->aggregates, sizeof *j->aggregate);
    j->acks = calloc(events, sizeof *j->acks);
    j->published_ns = calloc(events, sizeof *j->published_ns);
    j->latency_ns = calloc(events, sizeof *j->latency_ns);
    if (!j->aggregate || !j->acks || !j->published_ns || !j->latency_ns) {
        judge_free(j);
        return NULL;
    }
    for (; j->aggregates < plan->aggregates; j->aggregates++)
        (void)pthread_mutex_init(&j->aggregate[j->aggregates].mutex, NULL);
    return j;
}

void judge_free(struct judge *j)
{
    if (!j)
        return;
    for (uint32_t a = 0; a < j->aggregates; a++)
        (void)pthread_mutex_destroy(&j->aggregate[a].mutex);
    free(j->aggregate);
    free(j->acks);
    free((void *)j->published_ns);
    free((void *)j->latency_ns);
    free(j);
}

void judge_published(struct judge *j, uint32_t aggregate, uint32_t version)
{
    atomic_store_explicit(&j->published_ns[slot(j, aggregate, version)], now_ns(), memory_order_relaxed);
}

void judge_started(struct judge *j, uint32_t aggregate, uint32_t version, bool first_attempt)
{
    const size_t i = slot(j, aggregate, version);
    const int64_t now = now_ns();
    struct aggregate *a = &j->aggregate[aggregate];

    if (first_attempt && atomic_load_explicit(&j->latency_ns[i], memory_order_relaxed) == 0) {
        const int64_t waited = now - atomic_load_explicit(&j->published_ns[i], memory_order_relaxed);
        atomic_store_explicit(&j->latency_ns[i], waited > 0 ? waited : 1, memory_order_relaxed);
    }
    pthread_mutex_lock(&a->mutex);
    if (a->running || version > a->last_acked + 1)
        atomic_fetch_add(&j->order_violations, 1);
    a->running = true;
    pthread_mutex_unlock(&a->mutex);
}

void judge_retried(struct judge *j, uint32_t aggregate)
{
    struct aggregate *a = &j->aggregate[aggregate];

    pthread_mutex_lock(&a->mutex);
    a->running = false;
    pthread_mutex_unlock(&a->mutex);
    atomic_fetch_add(&j->retried, 1);
}

void judge_acked(struct judge *j, uint32_t aggregate, uint32_t version)
{
    struct aggregate *a = &j->aggregate[aggregate];
    uint8_t *acks = &j->acks[slot(j, aggregate, version)];

    atomic_store_explicit(&j->last_ns, now_ns(), memory_order_relaxed);
    pthread_mutex_lock(&a->mutex);
    a->running = false;
    if (version > a->last_acked + 1)
        atomic_fetch_add(&j->gaps, 1);
    if (version > a->last_acked)
        a->last_acked = version;
    else
        atomic_fetch_add(&j->duplicates, 1);
    if (*acks == 0)
        atomic_fetch_add(&j->handled, 1);
    *acks = 1;
    pthread_mutex_unlock(&a->mutex);
}

void judge_damaged(struct judge *j)
{
    atomic_fetch_add(&j->damaged, 1);
}

uint64_t judge_handled(struct judge *j)
{
    return atomic_load(&j->handled);
}

/* ---- Totals ------------------------------------------------------------------------------------------------------ */

static int ascending(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

    return (a > b) - (a < b);
}

bool judge_totals(struct judge *j, struct judge_totals *ret)
{
    const size_t events = (size_t)j->aggregates * j->versions;
    int64_t *latency = malloc(events * sizeof *latency);
    size_t n = 0;

    if (!latency)
        return false;
    *ret = (struct judge_totals){
        .handled = j->handled,
        .retried = j->retried,
        .duplicates = j->duplicates,
        .gaps = j->gaps,
        .order_violations = j->order_violations,
        .damaged = j->damaged,
        .first_ns = INT64_MAX,
        .last_ns = j->last_ns,
    };
    for (size_t i = 0; i < events; i++) {
        const int64_t published = j->published_ns[i];
        if (!published)
            continue;
        ret->first_ns = published < ret->first_ns ? published : ret->first_ns;
        ret->lost += j->acks[i] == 0;
        if (j->latency_ns[i])
            latency[n++] = j->latency_ns[i];
    }
    if (n) {
        qsort(latency, n, sizeof *latency, ascending);
        ret->p50_ns = latency[(n - 1) / 2];
        ret->p99_ns = latency[(n - 1) * 99 / 100];
        ret->max_ns = latency[n - 1];
    }
    free(latency);
    return true;
}
