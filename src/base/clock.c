/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only file that asks the system for the time. A virtual clock is one number: its monotonic and its wall time are
 * the same, so a transcript shows one time, and a deadline of a test can be computed from the start time.
 */
#include "base/clock.h"

#include "base/alloc.h"

#include <stdatomic.h>
#include <time.h>

struct evbus_clock {
    _Atomic(int64_t) now; /* written by evbus_clock_advance (release), read by anybody (acquire): A -> B */
};

static int64_t system_time(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * EV_SEC + ts.tv_nsec;
}

int64_t ev_clock_now(const evbus_clock *clock)
{
    if (clock == NULL)
        return system_time(CLOCK_MONOTONIC);
    return atomic_load_explicit(&clock->now, memory_order_acquire); /* B */
}

int64_t ev_clock_wall(const evbus_clock *clock)
{
    if (clock == NULL)
        return system_time(CLOCK_REALTIME);
    return atomic_load_explicit(&clock->now, memory_order_acquire); /* B */
}

int64_t ev_deadline(int64_t now, uint32_t ms)
{
    if (ms == EVBUS_NOWAIT)
        return now;
    if (ms == EVBUS_FOREVER)
        return EV_NEVER;
    return ev_deadline_ns(now, (int64_t)ms * EV_MS);
}

int64_t ev_deadline_ns(int64_t now, int64_t ns)
{
    int64_t sum;

    if (__builtin_add_overflow(now, ns, &sum))
        return ns > 0 ? EV_NEVER : INT64_MIN;
    return sum;
}

evbus_clock *evbus_clock_new(int64_t start_ns)
{
    evbus_clock *clock = ev_calloc(1, sizeof *clock);

    if (clock != NULL)
        atomic_init(&clock->now, start_ns);
    return clock;
}

void evbus_clock_advance(evbus_clock *clock, uint64_t ms)
{
    const int64_t step = ms > (uint64_t)(EV_NEVER / EV_MS) ? EV_NEVER : (int64_t)ms * EV_MS;
    int64_t seen = atomic_load_explicit(&clock->now, memory_order_relaxed); /* the exchange checks it */
    int64_t next;

    do {
        next = ev_deadline_ns(seen, step);
        if (next == EV_NEVER)
            next = EV_NEVER - 1; /* "never" must not come */
    } while (!atomic_compare_exchange_weak_explicit(&clock->now, &seen, next, memory_order_release,
                                                    memory_order_relaxed)); /* A */
}

void evbus_clock_free(evbus_clock *clock)
{
    ev_free(clock);
}
