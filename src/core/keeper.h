/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The housekeeping thread: repairs that have to wait for the broker's answer, which the loop must not do. A chore is a
 * piece of such work with a time; it lives in what it repairs. Rare, so a mutex guards the list.
 */
#ifndef EV_CORE_KEEPER_H
#define EV_CORE_KEEPER_H

struct ev_chore {
    void (*run)(evbus *bus, struct ev_chore *chore); /* may post itself again */
    int64_t at;
    struct ev_chore *next;
    bool queued; /* guarded by bus->mutex */
};

struct ev_keeper {
    pthread_t thread;
    bool started;
    struct ev_park park;
    struct ev_chore *chores;  /* guarded by bus->mutex; ordered by time */
    _Atomic(uint32_t) posted; /* counts posts: the sleeper's condition */
    _Atomic(uint32_t) stop;
};

evbus_status ev_keeper_start(evbus *bus);
/* Joins. A chore that waits for the broker ends by its own deadline, at most a few seconds. */
void ev_keeper_stop(evbus *bus);

/* Runs `chore` at or after `at`. Posting a queued chore moves it to the earlier time. [any] */
void ev_keeper_post(evbus *bus, struct ev_chore *chore, int64_t at);
/* Takes a chore out if it has not started. True if it was taken out. [any] */
bool ev_keeper_cancel(evbus *bus, struct ev_chore *chore);

/* Runs one chore that is due; false if none is. Manual mode calls it; else the thread does. */
bool ev_keeper_turn(evbus *bus);

#endif
