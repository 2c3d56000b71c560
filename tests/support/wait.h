/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting in tests: always for something, always with a deadline, never a sleep. Deadlines here only end a test that
 * has failed, so they are long; under a sanitizer longer still. Threads: any.
 */
#ifndef EV_TESTS_WAIT_H
#define EV_TESTS_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

int64_t wait_now_ms(void);       /* monotonic */
uint32_t wait_patience_ms(void); /* how long a test waits before it calls it a failure: 20 s, under a sanitizer 60 s */

/* Looks at `done` every millisecond, for things that nobody signals (statistics, threads, descriptors). */
bool wait_until(bool (*done)(void *arg), void *arg, uint32_t ms);

/* A condition variable on the monotonic clock, and a wait with a deadline from wait_now_ms: false when it has passed. */
void wait_cond_init(pthread_cond_t *cond);
bool wait_cond(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until_ms);

/* Lets real time go by, where the time itself is what is tested. */
void wait_out(uint32_t ms);

/* A gate: handlers wait in front of it until the test opens it. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open;
    uint32_t inside; /* waiting now */
};

void gate_init(struct gate *gate);
void gate_fini(struct gate *gate);
void gate_pass(struct gate *gate);                         /* in a handler: waits until it is open */
bool gate_pass_within(struct gate *gate, uint32_t ms);     /* the same, at most that long; false: still closed */
bool gate_await_inside(struct gate *gate, uint32_t count); /* until so many wait in front of it */
void gate_open(struct gate *gate);
void gate_close(struct gate *gate);

#endif
