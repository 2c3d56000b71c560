/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads for tests: race_run() starts them, lets all go at the same moment and joins them. Assertions of cmocka leave
 * by longjmp, which a second thread must not do: threads use RACE_CHECK, the test then asserts race_failures() == 0.
 */
#ifndef EV_TESTS_RACE_H
#define EV_TESTS_RACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define RACE_REPETITIONS 100
#define RACE_THREADS_MAX 64

static _Atomic(int) race_failed;

#define RACE_CHECK(condition) ((condition) ? (void)0 : race_fail(#condition, __FILE__, __LINE__))

static inline void race_fail(const char *condition, const char *file, int line)
{
    if (atomic_fetch_add(&race_failed, 1) < 10)
        fprintf(stderr, "%s:%d: not true: %s\n", file, line, condition);
}

/* How many checks failed since the last call. */
static inline int race_failures(void)
{
    return atomic_exchange(&race_failed, 0);
}

struct race_runner {
    pthread_t thread;
    pthread_barrier_t *gate;
    void (*fn)(int index, void *ctx);
    void *ctx;
    int index;
};

static inline void *race_runner_main(void *arg)
{
    struct race_runner *runner = arg;

    pthread_barrier_wait(runner->gate);
    runner->fn(runner->index, runner->ctx);
    return NULL;
}

/* Runs fn(0, ctx) ... fn(count - 1, ctx), each on a thread of its own. */
static inline void race_run(int count, void (*fn)(int index, void *ctx), void *ctx)
{
    struct race_runner runners[RACE_THREADS_MAX];
    pthread_barrier_t gate;

    if (count > RACE_THREADS_MAX)
        abort();
    pthread_barrier_init(&gate, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        runners[i] = (struct race_runner){.gate = &gate, .fn = fn, .ctx = ctx, .index = i};
        if (pthread_create(&runners[i].thread, NULL, race_runner_main, &runners[i]) != 0)
            abort();
    }
    for (int i = 0; i < count; i++)
        pthread_join(runners[i].thread, NULL);
    pthread_barrier_destroy(&gate);
}

#endif
