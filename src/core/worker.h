/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crew: threads that run handlers and other callbacks. It starts with workers_min, grows while work is waiting,
 * nobody is idle and the workers do not use the processors (they are blocked in handlers), and shrinks again.
 *
 * Who       `ring`: the loop pushes, workers pop. `workers`: written by the loop and by shutdown after the loop's end.
 * Edges     W1 (loop, release push) -> W2 (worker, acquire pop): the job is complete.
 *           W3 (worker, release `left`) -> W4 (loop, acquire `left`): the thread may be joined.
 * Progress  pop is lock-free; sleeping and waking: conc/crew.h, one wake-up in flight. Work that is done sooner than a
 *           sleeper is awake is not shared out: a worker hands on a wake only when what waits is worth it, judged by
 *           the pace of late. Should a handler then block all the same, the loop wakes another after LOOK_EVERY.
 * Checked   tests/unit/test_crew.c, tests/model/, tests/backend/ (300 blocked handlers)
 */
#ifndef EV_CORE_WORKER_H
#define EV_CORE_WORKER_H

struct ev_worker {
    pthread_t thread;
    evbus *bus;
    struct ev_worker *next; /* [loop] */
    int64_t cpu_ns;         /* [loop] its processor time when last looked at */
    _Atomic(uint32_t) busy; /* it is inside a job */
    _Atomic(uint32_t) left; /* it is about to end: join it */
};

struct ev_crew_state {
    struct ev_crew crew;
    struct ev_ring ring;
    struct ev_job *pending;    /* [loop] made ready, but the ring had no place */
    struct ev_worker *workers; /* [loop] */
    _Atomic(uint32_t) count;   /* live; written by the loop; decided by workers that leave */
    _Atomic(uint32_t) stop;
    _Atomic(int64_t) pace_ns; /* time of one job, of late; workers write it, a statistic */
    uint32_t peak;            /* [loop] */
    uint64_t seen_head;       /* [loop] how far the crew had got ... */
    int64_t seen_at;          /* ... and since when nothing moved; real time */
    bool system_refused;      /* logged once */
};

evbus_status ev_crew_start(evbus *bus);
/* Asks all to end after their job and joins those that do until `deadline_system_ns`; returns how many still run. */
uint32_t ev_crew_stop(evbus *bus, int64_t deadline_system_ns);

/* Moves runnable work into the ring, wakes, grows. True if work moved. [loop] */
bool ev_crew_turn(evbus *bus);
/* When the crew must be looked at again (real time); EV_NEVER if it keeps up. [loop] */
int64_t ev_crew_due(const evbus *bus);

/* Runs one job if there is one: manual mode, and the workers. */
bool ev_crew_run_one(evbus *bus);

#endif
