/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping until a condition holds: a futex word used as an event count.
 *
 * Use       Sleeper                                        Waker
 *             ticket = ev_park_prepare(park);                make the condition true (seq_cst store or RMW)
 *             if (condition)  (seq_cst load)                 ev_park_wake(park, 1);
 *                 ev_park_cancel(park);
 *             else
 *                 ev_park_wait(park, ticket, clock, deadline);
 *           in a loop: a return of wait says "look again", not "the condition holds".
 *
 * Who       waiters  every sleeper adds itself and takes itself off; wakers read. Too high costs a system call only.
 *           word     wakers add; sleepers and the kernel compare it with their ticket.
 *
 * Edges     D1 (prepare, seq_cst add to waiters, then the sleeper's look at the condition) /
 *           D2 (the waker's seq_cst store, then wake's seq_cst load of waiters): Dekker's pattern; in the one order of
 *              seq_cst operations either the sleeper sees the condition or the waker sees the sleeper.
 *           E1 (wake, seq_cst add to word) -> E2 (prepare and wait, seq_cst load of word): a ticket that contains the
 *              waker's step makes its condition visible to the look that follows; a ticket without it is refused by
 *              the kernel, or woken by it.
 *           F  (withdraw, seq_cst sub): a look at the condition after it sees everything whose waker still saw this
 *              sleeper. crew.c needs that when a sleep ends by its deadline.
 *
 * Progress  wake is wait-free: one load when nobody waits, else one addition and one system call.
 *           prepare and cancel are wait-free. wait blocks until woken or its deadline.
 *
 * Holds     waiters >= number of threads inside the kernel's wait. Every wait whose ticket is older than the last
 *           addition to word returns (word wraps after 2^32 wakes: a sleeper would have to stand still between
 *           prepare and the system call for exactly that many).
 * Checked   tests/unit/test_park.c, tests/model/test_park.c
 */
#ifndef EV_CONC_PARK_H
#define EV_CONC_PARK_H

#include "base/clock.h"
#include "conc/atomic.h"

struct ev_park {
    _Atomic(uint32_t) word;
    _Atomic(uint32_t) waiters;
};

void ev_park_init(struct ev_park *park);

/* Announces a sleeper. Look at the condition next; then exactly one of cancel and wait. */
uint32_t ev_park_prepare(struct ev_park *park);

/* The condition holds after all. */
void ev_park_cancel(struct ev_park *park);

/*
 * Sleeps until a wake after `ticket`, or the deadline in terms of ev_clock_now(clock); EV_NEVER: none. Ends the
 * announcement in every case. False: the deadline has passed and no wake came; true may be for no reason.
 * With a virtual clock it sleeps in slices of 1 ms of real time and looks at the clock between them: for tests only.
 */
bool ev_park_wait(struct ev_park *park, uint32_t ticket, const evbus_clock *clock, int64_t deadline);

/* The system call behind ev_park_wake. */
void ev_park_wake_sleepers(struct ev_park *park, uint32_t count);

/* Would a wake now meet anybody? As ev_park_wake, after the condition was made true. */
static inline bool ev_park_waiting(struct ev_park *park)
{
    return ev_load_seqcst(&park->waiters) != 0; /* D2 */
}

/* Wakes up to `count` sleepers, UINT32_MAX: all; threads between prepare and wait do not sleep then. */
static inline void ev_park_wake(struct ev_park *park, uint32_t count)
{
    if (ev_park_waiting(park))
        ev_park_wake_sleepers(park, count);
}

#endif
