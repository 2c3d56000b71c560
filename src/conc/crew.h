/* SPDX-License-Identifier: Apache-2.0 */
/* Idle workers, woken one at a time: at most one wake-up is in flight, and the woken worker hands on the next.
 *
 * Why       One wake-up per message makes four idle workers 19 times slower than a mutex (a system call and a context
 *           switch each). Here a burst costs its producer one system call; the workers wake each other while work is left.
 *
 * Use       Whoever makes work:  put it where has_work() sees it (seq_cst store, as ev_ring_push); ev_crew_wake(crew).
 *           Worker:              for (;;) {
 *                                    if (take(&item)) {
 *                                        ev_crew_pass(crew, !ev_ring_empty(ring));
 *                                        run(item);
 *                                    } else if (ev_crew_sleep(crew, has_work, arg, deadline) == EV_CREW_TIMEOUT) {
 *                                        end, or go round;
 *                                    }
 *                                }
 *           Both has_work() and the argument of ev_crew_pass must come from seq_cst loads (ev_ring_empty, a seq_cst
 *           flag), not from a failed pop. After EV_CREW_WORK a worker must look for work before it does anything long.
 *
 * Who       park     sleepers and wakers, see park.h.
 *           waking   1: a wake-up is in flight. Set by wakers. Cleared by sleepers, on the way in (after announcing
 *                    themselves, before has_work) and on every way out; nobody else.
 *
 * Edges     G1 (wake: work made, then seq_cst load or swap of waking gives 1, so no wake is sent) /
 *           G2 (sleeper: seq_cst store of 0, then its seq_cst look for work): whoever was refused for a wake in flight
 *              made its work before the 0 was stored, so the look after it sees that work. This holds for the clearing
 *              on the way in (a mark left behind by a waker that met nobody) and on the way out (the mark of the wake
 *              that ended this sleep). The clearing in between, when has_work said yes, is not needed for that (the
 *              model is sound without it): it lets the next wake through at once instead of after the next sleeper.
 *           D, E, F of park.h. F: has_work is asked once more when a sleep ends by its deadline, because a waker may
 *              still have counted on this sleeper.
 *
 * Progress  wake and pass are wait-free: one load when nobody sleeps; at most one system call.
 *           sleep blocks until woken or its deadline.
 *
 * Holds     work that nobody has taken and a sleeper  =>  a wake is in flight, or its maker is about to call
 *           ev_crew_wake, or a running worker is about to look (test_crew.c states it as: no end state in which
 *           all makers are done, work is left and somebody sleeps).
 * Checked   tests/unit/test_crew.c, tests/model/test_crew.c
 */
#ifndef EV_CONC_CREW_H
#define EV_CONC_CREW_H

#include "conc/atomic.h"
#include "conc/park.h"

#include <stdalign.h>

struct ev_crew {
    alignas(EV_APART) struct ev_park park;
    _Atomic(uint32_t) waking;
};

enum ev_crew_woken {
    EV_CREW_WORK,   /* look for work; there may be none */
    EV_CREW_TIMEOUT /* the deadline has passed and there was none */
};

void ev_crew_init(struct ev_crew *crew);

/* The part of ev_crew_wake for when somebody sleeps. */
void ev_crew_wake_one(struct ev_crew *crew);

/* Work was made: wakes one sleeper, if there is one and no wake-up is in flight. Threads: any. */
static inline void ev_crew_wake(struct ev_crew *crew)
{
    if (ev_load_seqcst(&crew->park.waiters) != 0) /* D2 */
        ev_crew_wake_one(crew);
}

/* By a worker that has just taken an item: wakes the next one if more is left. */
static inline void ev_crew_pass(struct ev_crew *crew, bool more_work)
{
    if (more_work)
        ev_crew_wake(crew);
}

/*
 * Sleeps until there may be work, or until the deadline on the system's monotonic clock (EV_NEVER: none).
 * has_work(arg) must not block; it is asked before sleeping, and again when the deadline ends the sleep.
 */
enum ev_crew_woken ev_crew_sleep(struct ev_crew *crew, bool (*has_work)(void *), void *arg, int64_t deadline_system_ns);

/* How many sleep, or are about to: a hint. */
uint32_t ev_crew_idle(const struct ev_crew *crew);

/* Wakes all: has_work() has become true for every one of them, as when the bus stops. */
void ev_crew_wake_all(struct ev_crew *crew);

#endif
