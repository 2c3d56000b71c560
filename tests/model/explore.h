/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a few threads of the real code of src/conc in every order there is.
 *
 * The sources are compiled with EV_MODEL, so that every atomic operation, every futex call and every marked plain access
 * is a step, before which the thread stops. Threads are coroutines of one operating-system thread. The explorer runs the
 * program again and again, depth first through the choices "which thread takes the next step", until none is left.
 *
 * All orders, by partial-order reduction: two steps of different threads that touch different places, or only read,
 * give the same result either way round, so of such orders one is enough. After each run, every pair of steps whose
 * order did matter is turned round in a further run; sleep sets keep those from meeting again. Nothing else is left
 * out, and there is no bound on context switches (switches_max = 0). With switches_max = n, all orders with at most n
 * switches away from a thread that could go on are run, without reduction.
 *
 * What is explored are sequentially consistent interleavings. Where code relies on less than that being enough
 * (acquire/release), ThreadSanitizer checks the edges in tests/unit; where it needs seq_cst (edges C, D, F, G of ring.h,
 * park.h, crew.h; J and M of epoch.h), store_buffers = true adds the reordering that seq_cst is there to forbid: each
 * relaxed or release store may stay in its thread's buffer for a while (x86's total store order), a seq_cst operation
 * or a read-modify-write empties it first.
 */
#ifndef EV_MODEL_EXPLORE_H
#define EV_MODEL_EXPLORE_H

#include "conc/atomic.h"
#include "side.h"

#define MODEL_THREADS_MAX 5

/* For programs too large for all orders. Under a sanitizer each run costs ten times as much. */
#define MODEL_SWITCHES (SIDE_WITH_ASAN ? 2 : 3)

struct model {
    const char *name;
    void (*reset)(void);                      /* before each run */
    void (*threads[MODEL_THREADS_MAX])(void); /* up to the first NULL */
    void (*check)(void);                      /* at each run's end: all threads have returned or sleep for ever */
    void (*cleanup)(void);                    /* after each run, also a broken-off one; NULL: nothing */
    int switches_max;                         /* 0: no bound */
    bool may_sleep;                           /* threads may sleep for ever at the end; else that is a failure */
    bool store_buffers;
};

struct model_result {
    uint64_t schedules; /* run to their end */
    uint64_t cut;       /* broken off: the same as one run to its end */
    uint64_t steps;
    double seconds;
    const char *failure; /* NULL: none */
};

/* Runs all orders, or up to the first failure. Prints a line of figures: how many schedules, and what bound there was. */
struct model_result model_explore(const struct model *model);

void model_print_schedule(void); /* of the last run */

/* Expects no failure, else prints its schedule; and with `bug` switched on, a failure. Both are cmocka assertions. */
void model_expect_sound(const struct model *model);
void model_expect_found(const struct model *model, enum ev_model_bug bug, const char *bug_name);
#define MODEL_EXPECT_FOUND(model, bug) model_expect_found((model), (bug), #bug)

/* For threads and checks. A failed check ends the exploration. */
void model_fail(const char *text);
#define MODEL_CHECK(condition) ((condition) ? (void)0 : model_fail(#condition))

/* By heap.c: the block's bytes are given up. */
void model_step_free(const volatile void *place, size_t size);

/* A futex as the kernel has it, first come first served. Returns 0, EAGAIN or ETIMEDOUT (at any moment, if it may). */
int ev_model_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool may_time_out);
void ev_model_futex_wake(_Atomic(uint32_t) *word, uint32_t count);

#endif
