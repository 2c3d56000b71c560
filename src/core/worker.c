/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include <stdio.h>

#define RING 1024
#define LOOK_EVERY (2 * EV_MS)    /* real time: how long the crew may stand still before it grows */
#define WORTH_WAKING (200 * 1000) /* ns of work that waits: less is done before another worker is awake */
#define PACE_JOBS 32

static bool has_work(void *arg)
{
    struct ev_crew_state *c = arg;

    return !ev_ring_empty(&c->ring) || ev_load_seqcst(&c->stop);
}

static bool worth_waking(struct ev_crew_state *c)
{
    if (ev_ring_empty(&c->ring))
        return false;
    const uint64_t head = ev_load_relaxed(&c->ring.head); /* hint: as is the pace */
    const uint64_t tail = ev_load_relaxed(&c->ring.tail); /* hint */
    return (int64_t)(tail - head) * ev_load_relaxed(&c->pace_ns) >= WORTH_WAKING;
}

bool ev_crew_run_one(evbus *bus)
{
    struct ev_crew_state *c = &bus->crew;
    void *item;

    if (!ev_ring_pop(&c->ring, &item)) /* W2 */
        return false;
    ev_crew_pass(&c->crew, worth_waking(c));
    struct ev_job *job = item;
    job->run(job);
    return true;
}

/* More than the minimum may go; the count decides who. */
static bool may_leave(struct ev_crew_state *c, uint32_t min)
{
    uint32_t n = ev_load_relaxed(&c->count); /* decided by the compare-and-swap */

    while (n > min)
        if (ev_cas_weak_relaxed(&c->count, &n, n - 1))
            return true;
    return false;
}

static void drop_ref(evbus *bus)
{
    if (ev_sub_acqrel(&bus->refs, 1) == 1)
        ev_bus_free(bus);
}

/* Slower is believed at once, faster by and by. */
static void note_pace(struct ev_crew_state *c, int64_t elapsed, uint32_t jobs)
{
    const int64_t now = elapsed / jobs, before = ev_load_relaxed(&c->pace_ns); /* statistic */

    ev_store_relaxed(&c->pace_ns, now > before ? now : before - (before - now) / 4); /* statistic */
}

/* Runs jobs until there are none, the crew stops, or it is time to look at the clock. True: none are left. */
static bool run_some(struct ev_worker *w, int64_t *since)
{
    evbus *bus = w->bus;
    uint32_t jobs = 0;

    ev_store_relaxed(&w->busy, 1); /* statistic */
    while (jobs < PACE_JOBS && !ev_load_acquire(&bus->crew.stop) && ev_crew_run_one(bus))
        jobs++;
    ev_store_relaxed(&w->busy, 0); /* statistic */
    if (jobs == 0)
        return true;
    const int64_t now = ev_clock_now(NULL);
    note_pace(&bus->crew, now - *since, jobs);
    *since = now;
    return jobs < PACE_JOBS;
}

static void *worker_main(void *arg)
{
    struct ev_worker *w = arg;
    evbus *bus = w->bus;
    struct ev_crew_state *c = &bus->crew;
    const int64_t idle = (int64_t)bus->cfg.o.worker_idle_ms * EV_MS;
    int64_t since = ev_clock_now(NULL);

    while (!ev_load_acquire(&c->stop)) {
        if (!run_some(w, &since))
            continue;
        const enum ev_crew_woken woken = ev_crew_sleep(&c->crew, has_work, c, since + idle);
        since = ev_clock_now(NULL);
        if (woken == EV_CREW_TIMEOUT && may_leave(c, bus->cfg.o.workers_min))
            break;
    }
    ev_store_seqcst(&w->left, 1); /* W3 */
    ev_bus_changed(bus);
    drop_ref(bus);
    return NULL;
}

static bool grow(evbus *bus)
{
    struct ev_crew_state *c = &bus->crew;
    struct ev_worker *w = ev_calloc(1, sizeof(*w));

    if (!w)
        return false;
    w->bus = bus;
    ev_add_relaxed(&bus->refs, 1); /* we hold one ourselves */
    ev_add_relaxed(&c->count, 1);  /* decided here and in may_leave */
    if (ev_thread_start(&w->thread, "evbus-worker", worker_main, w) != EVBUS_OK) {
        if (!c->system_refused)
            ev_log(&bus->log, EVBUS_LOG_ERROR, "workers", "%s", ev_detail());
        c->system_refused = true;
        ev_sub_relaxed(&bus->refs, 1);
        ev_sub_relaxed(&c->count, 1);
        ev_free(w);
        return false;
    }
    w->next = c->workers;
    c->workers = w;
    return true;
}

evbus_status ev_crew_start(evbus *bus)
{
    struct ev_crew_state *c = &bus->crew;

    for (uint32_t i = 0; i < bus->cfg.o.workers_min; i++)
        if (!grow(bus))
            return ev_fail(EVBUS_SYSTEM, "only %u of %u workers could be started", i, bus->cfg.o.workers_min);
    ev_store_relaxed(&c->stop, 0);
    return EVBUS_OK;
}

/* Joins those that left. */
static void reap(struct ev_crew_state *c)
{
    for (struct ev_worker **link = &c->workers; *link;) {
        struct ev_worker *w = *link;
        if (!ev_load_acquire(&w->left)) { /* W4 */
            link = &w->next;
            continue;
        }
        pthread_join(w->thread, NULL);
        *link = w->next;
        ev_free(w);
    }
}

/* Do the workers spend their time computing? Then more of them would not help. */
static bool computing(struct ev_crew_state *c, int64_t elapsed, uint32_t cores)
{
    int64_t used = 0;

    for (struct ev_worker *w = c->workers; w; w = w->next) {
        if (ev_load_acquire(&w->left))
            continue;
        const int64_t cpu = ev_thread_cpu_ns(w->thread);
        if (cpu > w->cpu_ns)
            used += cpu - w->cpu_ns;
        w->cpu_ns = cpu;
    }
    return used > elapsed * (int64_t)cores / 2;
}

/* Work waits and nobody took anything for a while. Nobody is idle: all are blocked, more are needed. Somebody sleeps: who
 * was to take it is blocked, after a pace that did not make one expect it. */
static void grow_if_stuck(evbus *bus)
{
    struct ev_crew_state *c = &bus->crew;
    const uint64_t head = ev_load_relaxed(&c->ring.head); /* hint */
    const uint32_t count = ev_load_relaxed(&c->count);    /* decided below by thread creation */
    const int64_t now = ev_clock_now(NULL);

    if (head != c->seen_head || ev_ring_empty(&c->ring)) {
        c->seen_head = head;
        c->seen_at = now;
        return;
    }
    if (now - c->seen_at < LOOK_EVERY)
        return;
    if (ev_crew_idle(&c->crew)) {
        c->seen_at = now;
        ev_crew_wake(&c->crew);
        return;
    }
    if (count >= bus->cfg.o.workers_max || ev_load_acquire(&bus->phase) == EV_STOPPED)
        return;
    reap(c);
    const bool busy = computing(c, now - c->seen_at, ev_thread_cores());
    c->seen_at = now;
    if (busy)
        return;
    uint32_t more = count / 4 + 1;
    while (more-- > 0 && ev_load_relaxed(&c->count) < bus->cfg.o.workers_max && grow(bus))
        ;
    if (ev_load_relaxed(&c->count) > c->peak)
        c->peak = ev_load_relaxed(&c->count);
}

bool ev_crew_turn(evbus *bus)
{
    struct ev_crew_state *c = &bus->crew;
    uint32_t moved = 0;

    for (;;) {
        struct ev_job *job = c->pending;
        if (!job) {
            job = bus->runnable.head;
            if (!job)
                break;
            bus->runnable.head = job->next;
            if (!bus->runnable.head)
                bus->runnable.tail = NULL;
            bus->runnable.count--;
            job = job->ready ? job->ready(bus, job) : job;
            if (!job)
                continue;
        }
        if (!ev_ring_push_one(&c->ring, job)) { /* W1 */
            c->pending = job;
            break;
        }
        c->pending = NULL;
        moved++;
    }
    if (bus->manual)
        return moved > 0;
    if (moved)
        ev_crew_wake(&c->crew);
    if (!ev_ring_empty(&c->ring))
        grow_if_stuck(bus);
    else if (c->workers && ev_load_acquire(&c->workers->left))
        reap(c);
    return moved > 0;
}

int64_t ev_crew_due(const evbus *bus)
{
    struct ev_crew_state *c = (struct ev_crew_state *)&bus->crew;

    if (bus->manual || ev_ring_empty(&c->ring) ||
        (!ev_crew_idle(&c->crew) && ev_load_relaxed(&c->count) >= bus->cfg.o.workers_max)) /* hint */
        return EV_NEVER;
    return c->seen_at + LOOK_EVERY;
}

uint32_t ev_crew_stop(evbus *bus, int64_t deadline)
{
    struct ev_crew_state *c = &bus->crew;
    uint32_t running = 0;

    ev_store_seqcst(&c->stop, 1);
    ev_crew_wake_all(&c->crew);
    for (struct ev_worker **link = &c->workers; *link;) {
        struct ev_worker *w = *link;
        while (!ev_load_acquire(&w->left) && ev_clock_now(NULL) < deadline) {
            const uint32_t ticket = ev_park_prepare(&bus->changed);
            if (ev_load_seqcst(&w->left))
                ev_park_cancel(&bus->changed);
            else
                (void)ev_park_wait(&bus->changed, ticket, NULL, deadline);
        }
        if (!ev_load_acquire(&w->left)) {
            running++;
            pthread_detach(w->thread);
            link = &w->next;
            continue;
        }
        pthread_join(w->thread, NULL);
        *link = w->next;
        ev_free(w);
    }
    return running;
}
