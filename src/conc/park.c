/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's half of park.h. Futex calls give no ordering that C11 or ThreadSanitizer knows of; none is needed: every
 * edge is on `word` and `waiters`. EV_MODEL builds replace the two calls by steps of the explorer.
 */
#include "conc/park.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define VIRTUAL_SLICE_NS EV_MS

_Static_assert(sizeof(_Atomic(uint32_t)) == sizeof(uint32_t), "the kernel compares the word as a plain number");

#ifdef EV_MODEL

int ev_model_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool may_time_out);
void ev_model_futex_wake(_Atomic(uint32_t) *word, uint32_t count);

static int futex_wait(struct ev_park *park, uint32_t ticket, const struct timespec *until)
{
    return ev_model_futex_wait(&park->word, ticket, until != NULL);
}

static void futex_wake(struct ev_park *park, uint32_t count)
{
    ev_model_futex_wake(&park->word, count);
}

#else

/* Sleeps while word == ticket, until `until` of CLOCK_MONOTONIC (NULL: for ever). Returns 0 or the error. */
static int futex_wait(struct ev_park *park, uint32_t ticket, const struct timespec *until)
{
    if (syscall(SYS_futex, &park->word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, ticket, until, NULL,
                FUTEX_BITSET_MATCH_ANY) == 0)
        return 0;
    return errno;
}

static void futex_wake(struct ev_park *park, uint32_t count)
{
    const uint32_t most = count > INT32_MAX ? INT32_MAX : count;

    syscall(SYS_futex, &park->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, most, NULL, NULL, 0);
}

#endif

void ev_park_init(struct ev_park *park)
{
    atomic_init(&park->word, 0);
    atomic_init(&park->waiters, 0);
}

uint32_t ev_park_prepare(struct ev_park *park)
{
    ev_add_seqcst(&park->waiters, 1);   /* D1 */
    return ev_load_seqcst(&park->word); /* E2: before the caller's look at the condition */
}

static void withdraw(struct ev_park *park)
{
    ev_sub_seqcst(&park->waiters, 1); /* F */
}

void ev_park_cancel(struct ev_park *park)
{
    withdraw(park);
}

static int sleep_until(struct ev_park *park, uint32_t ticket, int64_t deadline)
{
    struct timespec until;

    if (deadline == EV_NEVER)
        return futex_wait(park, ticket, NULL);
    if (deadline < 0)
        deadline = 0; /* the kernel refuses negative times */
    until.tv_sec = (time_t)(deadline / EV_SEC);
    until.tv_nsec = (long)(deadline % EV_SEC);
    return futex_wait(park, ticket, &until);
}

/* False: the deadline has passed. */
static bool wait_by_system(struct ev_park *park, uint32_t ticket, int64_t deadline)
{
    while (ev_load_seqcst(&park->word) == ticket) { /* E2; goes round after a signal */
        if (sleep_until(park, ticket, deadline) == ETIMEDOUT)
            return ev_load_seqcst(&park->word) != ticket; /* E2 */
    }
    return true;
}

static bool wait_by_virtual(struct ev_park *park, uint32_t ticket, const evbus_clock *clock, int64_t deadline)
{
    while (ev_load_seqcst(&park->word) == ticket) { /* E2 */
        if (ev_clock_now(clock) >= deadline)
            return false;
        sleep_until(park, ticket, ev_clock_now(NULL) + VIRTUAL_SLICE_NS);
    }
    return true;
}

bool ev_park_wait(struct ev_park *park, uint32_t ticket, const evbus_clock *clock, int64_t deadline)
{
    bool woken;

    if (clock == NULL || deadline == EV_NEVER)
        woken = wait_by_system(park, ticket, deadline);
    else
        woken = wait_by_virtual(park, ticket, clock, deadline);
    withdraw(park);
    return woken;
}

void ev_park_wake_sleepers(struct ev_park *park, uint32_t count)
{
    if (!EV_BUG(EV_BUG_PARK_SILENT_WAKE))
        ev_add_seqcst(&park->word, 1); /* E1 */
    futex_wake(park, count);
}
