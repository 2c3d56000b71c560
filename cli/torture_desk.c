/* SPDX-License-Identifier: Apache-2.0 */
/* The publishing side: threads with aggregates of their own, on one bus that is restarted under them. */
#include "torture.h"

#include "stop.h"

#define BACKLOG_MAX 3000u
#define OUTCOMES_MS 10000u

bool torture_desk_open(struct torture *t)
{
    struct torture_bus fresh = {0};
    const bool open = torture_bus_open(t, &fresh, t->url, true);

    pthread_rwlock_wrlock(&t->desk_lock);
    t->desk = fresh;
    pthread_rwlock_unlock(&t->desk_lock);
    return open;
}

void torture_desk_close(struct torture *t)
{
    evbus_statistics s = {.struct_size = sizeof s};

    pthread_rwlock_wrlock(&t->desk_lock);
    if (t->desk.bus) {
        (void)evbus_shutdown(t->desk.bus, OUTCOMES_MS, NULL); /* every publish has its outcome after that */
        (void)evbus_stats(t->desk.bus, &s);
        evbus_close(t->desk.bus);
        truth_totals(&t->desk.truth, &s);
    }
    t->desk.bus = NULL;
    pthread_rwlock_unlock(&t->desk_lock);
}

static uint64_t backlog(struct torture *t)
{
    const struct truth_shared *s = t->log.shared;
    const uint64_t done = atomic_load(&t->finished) + atomic_load(&s->failed), all = atomic_load(&s->accepted);

    return all > done ? all - done : 0;
}

struct one {
    struct torture *t;
    uint32_t index;
};

static struct one ones[TORTURE_PUBLISHERS];

static void *publish(void *arg)
{
    struct torture *t = ((struct one *)arg)->t;
    const uint32_t index = ((struct one *)arg)->index;
    uint32_t next[TORTURE_AGGREGATES] = {0};
    uint64_t rng = t->seed + 1000 + index;

    while (!atomic_load(&t->stop_publishing)) {
        const uint32_t mine = (uint32_t)(torture_random(&rng) % (TORTURE_AGGREGATES / TORTURE_PUBLISHERS));
        const uint32_t a = mine * TORTURE_PUBLISHERS + index;
        evbus_status st = EVBUS_CLOSED;
        if (next[a] + 2 >= t->versions_max)
            break;
        pthread_rwlock_rdlock(&t->desk_lock);
        if (t->desk.bus && backlog(t) < BACKLOG_MAX)
            st = truth_publish(&t->desk.truth, t->desk.bus, t->topic, index, a, next[a] + 1, EVBUS_NOWAIT);
        pthread_rwlock_unlock(&t->desk_lock);
        next[a] += st == EVBUS_OK; /* what was not accepted is published again */
        torture_nap_us(st == EVBUS_OK ? 1000000 * TORTURE_PUBLISHERS / TORTURE_RATE : 5000);
    }
    return NULL;
}

bool torture_publishers_start(struct torture *t)
{
    bool started = true;

    stop_mask(true);
    for (uint32_t i = 0; i < TORTURE_PUBLISHERS && started; i++) {
        ones[i] = (struct one){t, i};
        started = pthread_create(&t->publishers[i], NULL, publish, &ones[i]) == 0;
        t->publishers_started += started;
    }
    stop_mask(false);
    if (!started)
        torture_problem(t, "no thread for a publisher");
    return started;
}

void torture_publishers_stop(struct torture *t)
{
    atomic_store(&t->stop_publishing, true);
    while (t->publishers_started > 0)
        (void)pthread_join(t->publishers[--t->publishers_started], NULL);
}
