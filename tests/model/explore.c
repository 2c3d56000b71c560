/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The explorer of explore.h: dynamic partial-order reduction (Flanagan and Godefroid) with sleep sets. A run is a sequence of choices; `points` holds them and what else could have been chosen.
 * After a run the last point with an untried choice is found, and the next run repeats the choices up to it.
 *
 * The scheduler has no coroutine of its own: the one that stops makes the next choice and switches to it, or goes on.
 * A choice is a thread, or (store_buffers) the buffer of a thread, whose oldest store then reaches memory.
 */
#include "explore.h"
#include "heap.h"
#include "side.h"

#include "conc/epoch.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define CHOICES (2 * MODEL_THREADS_MAX) /* threads, then their buffers */
#define DEPTH_MAX 2000
#define BUFFER_MAX 16
#define MUTEXES_MAX 8
#define STACK_BYTES (64 * 1024)
#define NOBODY (-1)

enum touch { TOUCH_NOTHING, TOUCH_READ, TOUCH_WRITE, TOUCH_LOCK, TOUCH_UNLOCK, TOUCH_ALL };

struct step {
    enum touch touch;
    const volatile void *place;
    size_t size; /* from there on; steps that do not overlap do not depend on each other */
};

/* Happened-before: of each choice, the last point whose step is before. */
struct clock {
    int16_t seen[CHOICES];
};

struct store {
    int point; /* where it was put into the buffer */
    volatile void *place;
    size_t size;
    uint64_t value;
};

struct fiber {
    struct side side;
    struct step next; /* what it does when it is let go */
    enum { RUNS, SLEEPS, ENDED } state;
    bool yields;
    uint64_t writes_seen; /* of others, when it last came back from a yield */
    uint64_t writes;
    const void *word;  /* SLEEPS: on this */
    const void *mutex; /* RUNS: as soon as this is free */
    uint64_t queued;   /* since when */
    bool may_time_out;
    bool woken;
    struct store buffer[BUFFER_MAX];
    int buffered;
    struct ev_epoch_record *epoch_self; /* its thread-local variable */
    sigjmp_buf unwind;
};

struct point {
    struct step steps[CHOICES];
    uint32_t enabled;
    uint32_t sleeping; /* would only repeat what has been run */
    uint32_t wanted;   /* worth choosing: see add_races */
    uint32_t done;
    int chosen;
    int before; /* who ran */
    int switches;
    struct clock clock; /* after the chosen step */
};

enum outcome { GOES_ON, AT_END, CUT, FAILED };

enum ev_model_bug ev_model_bug;

static _Alignas(64) char stacks[MODEL_THREADS_MAX][STACK_BYTES];

static struct {
    const struct model *model;
    struct fiber fibers[MODEL_THREADS_MAX];
    int count;
    int running;
    struct side home;
    struct point points[DEPTH_MAX];
    struct clock clocks[CHOICES];
    int depth;
    int prefix; /* points to repeat */
    uint64_t sleeps;
    const void *locked[MUTEXES_MAX];
    int locked_count;
    enum outcome outcome;
    bool unwinding;
    struct model_result result;
} x = {.running = NOBODY};

/* ---- Switching ---------------------------------------------------------------------------------------------------- */

static void go_to(int thread)
{
    struct side *from = x.running == NOBODY ? &x.home : &x.fibers[x.running].side;

    x.running = thread;
    ev_epoch_self = x.fibers[thread].epoch_self;
    side_switch(from, &x.fibers[thread].side);
}

static void go_home(enum outcome outcome)
{
    struct fiber *me = &x.fibers[x.running];

    x.outcome = outcome;
    x.running = NOBODY;
    side_switch(&me->side, &x.home);
}

/* ---- Choosing ----------------------------------------------------------------------------------------------------- */

static uint32_t bit(int choice)
{
    return UINT32_C(1) << choice;
}

static uint64_t writes_of_others(const struct fiber *fiber)
{
    uint64_t writes = 0;

    for (int i = 0; i < x.count; i++)
        if (&x.fibers[i] != fiber)
            writes += x.fibers[i].writes;
    return writes;
}

static bool writes(const struct step *step)
{
    return step->touch == TOUCH_WRITE || step->touch == TOUCH_LOCK || step->touch == TOUCH_UNLOCK;
}

static bool is_locked(const void *mutex)
{
    for (int i = 0; i < x.locked_count; i++)
        if (x.locked[i] == mutex)
            return true;
    return false;
}

static bool waits_for_its_buffer(const struct fiber *fiber)
{
    if (writes(&fiber->next))
        return fiber->buffered > 0;
    for (int i = 0; i < fiber->buffered; i++)
        if (fiber->next.touch == TOUCH_READ && fiber->buffer[i].place == fiber->next.place)
            return true;
    return false;
}

static bool can_go_on(const struct fiber *fiber)
{
    if (fiber->state == ENDED)
        return false;
    if (fiber->state == SLEEPS)
        return fiber->woken || fiber->may_time_out;
    if (fiber->yields)
        return writes_of_others(fiber) > fiber->writes_seen;
    return !waits_for_its_buffer(fiber) && !is_locked(fiber->mutex);
}

static uint32_t enabled_choices(void)
{
    uint32_t enabled = 0;

    for (int i = 0; i < x.count; i++) {
        if (can_go_on(&x.fibers[i]))
            enabled |= bit(i);
        if (x.fibers[i].buffered > 0)
            enabled |= bit(i + MODEL_THREADS_MAX);
    }
    return enabled;
}

static struct step step_of(int choice)
{
    if (choice < MODEL_THREADS_MAX)
        return x.fibers[choice].next;
    const struct store *oldest = &x.fibers[choice - MODEL_THREADS_MAX].buffer[0];
    return (struct step){TOUCH_WRITE, oldest->place, 1};
}

static bool commute(const struct step *s, const struct step *t)
{
    if (s->touch == TOUCH_ALL || t->touch == TOUCH_ALL)
        return false;
    if (s->touch == TOUCH_NOTHING || t->touch == TOUCH_NOTHING)
        return true;
    const volatile char *a = s->place, *b = t->place;
    if (a + s->size <= b || b + t->size <= a)
        return true;
    return s->touch == TOUCH_READ && t->touch == TOUCH_READ;
}

static bool depend(const struct point *first, const struct point *last)
{
    return !commute(&first->steps[first->chosen], &last->steps[last->chosen]);
}

/* Of one point. A thread and its buffer touch the same place only one after the other: see waits_for_its_buffer. */
static bool independent(const struct point *point, int a, int b)
{
    if (a % MODEL_THREADS_MAX == b % MODEL_THREADS_MAX)
        return true;
    return commute(&point->steps[a], &point->steps[b]);
}

static uint32_t sleeping_after(const struct point *last)
{
    const uint32_t known = (last->sleeping | last->done) & ~bit(last->chosen);
    uint32_t sleeping = 0;

    for (int i = 0; i < CHOICES; i++)
        if ((known & bit(i)) && independent(last, i, last->chosen))
            sleeping |= bit(i);
    return sleeping;
}

static uint32_t candidates_at(const struct point *point)
{
    const int max = x.model->switches_max;
    uint32_t candidates = point->enabled & point->wanted & ~point->sleeping & ~point->done;

    if (max > 0 && point->switches >= max && point->before != NOBODY && (point->enabled & bit(point->before)))
        candidates &= bit(point->before);
    return candidates;
}

static bool costs_a_switch(const struct point *point)
{
    return point->before != NOBODY && point->chosen != point->before && (point->enabled & bit(point->before));
}

static void open_point(struct point *point, uint32_t enabled)
{
    const struct point *last = x.depth > 0 ? point - 1 : NULL;

    point->enabled = enabled;
    point->done = 0;
    point->wanted = UINT32_MAX;
    point->before = x.running;
    point->switches = last != NULL ? last->switches + costs_a_switch(last) : 0;
    point->sleeping = last != NULL && x.model->switches_max == 0 ? sleeping_after(last) : 0;
}

static void join(struct clock *into, const struct clock *from)
{
    for (int i = 0; i < CHOICES; i++)
        if (from->seen[i] > into->seen[i])
            into->seen[i] = from->seen[i];
}

/*
 * The step chosen at `last` could have come before the one at `first`, with another result: have that run too. It is a
 * run in which all that did not need `first` comes before it; whoever was the first of those goes in its place.
 */
static void want_reversed(int first, int last)
{
    struct point *point = &x.points[first];
    int i = first + 1;

    while (i < last && x.points[i].clock.seen[point->chosen] >= first)
        i++;
    if (point->enabled & bit(x.points[i].chosen))
        point->wanted |= bit(x.points[i].chosen);
    else
        point->wanted = UINT32_MAX; /* it was let go on by something that has no place: any of them may do so */
}

/* Orders the step chosen at this point after all that it depends on; steps that it races with are to be reversed. */
static void advance_clock(int depth)
{
    struct point *point = &x.points[depth];
    const int chosen = point->chosen;
    const int thread = chosen % MODEL_THREADS_MAX;
    struct clock known = x.clocks[chosen];

    if (chosen >= MODEL_THREADS_MAX)
        join(&known, &x.points[x.fibers[thread].buffer[0].point].clock); /* a store leaves after it has come */
    else if (writes(&point->steps[chosen]))
        join(&known, &x.clocks[thread + MODEL_THREADS_MAX]); /* it has waited for its buffer */

    struct clock after = known;
    for (int i = depth - 1; i >= 0; i--) {
        const struct point *earlier = &x.points[i];

        if (earlier->chosen % MODEL_THREADS_MAX == thread || !depend(earlier, point))
            continue;
        const bool released = earlier->steps[earlier->chosen].touch == TOUCH_UNLOCK; /* nobody could have been here */
        if (i > known.seen[earlier->chosen] && !released)
            want_reversed(i, depth);
        join(&after, &earlier->clock);
    }
    after.seen[chosen] = (int16_t)depth;
    point->clock = after;
    x.clocks[chosen] = after;
}

/* Who goes next; NOBODY ends the run. */
static int choose(void)
{
    const uint32_t enabled = enabled_choices();
    struct point *point = &x.points[x.depth];

    x.outcome = AT_END;
    if (enabled == 0)
        return NOBODY;
    if (x.depth == DEPTH_MAX - 1) {
        x.result.failure = "a run without end";
        x.outcome = FAILED;
        return NOBODY;
    }
    for (int i = 0; i < CHOICES; i++)
        if (enabled & bit(i))
            point->steps[i] = step_of(i); /* also when repeating: memory may have moved */
    if (x.depth >= x.prefix) {
        open_point(point, enabled);
        const uint32_t candidates = candidates_at(point);
        x.outcome = CUT;
        if (candidates == 0)
            return NOBODY;
        const bool stay = x.running != NOBODY && (candidates & bit(x.running));
        point->chosen = stay ? x.running : __builtin_ctz(candidates);
        if (x.model->switches_max == 0)
            point->wanted = bit(point->chosen);
    } else if (point->enabled != enabled) {
        x.result.failure = "the program is not deterministic";
        x.outcome = FAILED;
        return NOBODY;
    }
    advance_clock(x.depth);
    x.depth++;
    x.result.steps++;
    x.outcome = GOES_ON;
    return point->chosen;
}

/* Sets up the next run. False: all orders have been run. */
static bool next_schedule(void)
{
    while (x.depth > 0) {
        struct point *point = &x.points[x.depth - 1];

        point->done |= bit(point->chosen);
        const uint32_t candidates = candidates_at(point);
        if (candidates != 0) {
            point->chosen = __builtin_ctz(candidates);
            x.prefix = x.depth;
            return true;
        }
        x.depth--;
    }
    return false;
}

/* ---- What the code under test calls ------------------------------------------------------------------------------- */

static void drain_one(struct fiber *fiber)
{
    const struct store store = fiber->buffer[0];

    if (heap_is_freed(store.place))
        model_fail("a store reaches memory that was freed");
    fiber->buffered--;
    memmove(fiber->buffer, fiber->buffer + 1, (size_t)fiber->buffered * sizeof store);
    memcpy((void *)store.place, &store.value, store.size); /* little-endian, or sizes of 8 */
    fiber->writes++;
}

/* Lets others take their steps, until this thread is chosen to take its own. */
static void stop_before(struct step step)
{
    struct fiber *me = &x.fibers[x.running];

    me->next = step;
    for (;;) {
        const int choice = choose();

        if (choice == NOBODY) {
            go_home(x.outcome);
        } else if (choice >= MODEL_THREADS_MAX) {
            drain_one(&x.fibers[choice - MODEL_THREADS_MAX]);
            continue;
        } else if (&x.fibers[choice] != me) {
            me->epoch_self = ev_epoch_self;
            go_to(choice);
        }
        break;
    }
    if (x.unwinding)
        siglongjmp(me->unwind, 1);
    if (writes(&step))
        me->writes++;
    if (step.place != NULL && heap_is_freed(step.place))
        model_fail("memory that was freed is touched");
}

static void stop_before_place(enum touch touch, const volatile void *place)
{
    stop_before((struct step){touch, place, 1});
}

static void stop_before_nothing(void)
{
    stop_before((struct step){TOUCH_NOTHING, NULL, 0});
}

void ev_model_step(const volatile void *place, bool writes)
{
    if (x.running != NOBODY)
        stop_before_place(writes ? TOUCH_WRITE : TOUCH_READ, place);
}

void model_step_free(const volatile void *place, size_t size)
{
    if (x.running != NOBODY)
        stop_before((struct step){TOUCH_WRITE, place, size});
}

bool ev_model_delays(volatile void *place, size_t size, uint64_t value)
{
    if (x.running == NOBODY || !x.model->store_buffers)
        return false;

    struct fiber *me = &x.fibers[x.running];
    stop_before_nothing();
    if (me->buffered == BUFFER_MAX)
        model_fail("a store buffer is full");
    me->buffer[me->buffered++] = (struct store){x.depth - 1, place, size, value};
    return true;
}

void ev_model_yield(void)
{
    if (x.running == NOBODY)
        return;

    struct fiber *me = &x.fibers[x.running];
    me->yields = true;
    stop_before((struct step){TOUCH_ALL, NULL, 0});
    me->yields = false;
    me->writes_seen = writes_of_others(me);
}

int ev_model_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool may_time_out)
{
    stop_before_place(TOUCH_WRITE, word);
    if (atomic_load_explicit(word, memory_order_relaxed) != value)
        return EAGAIN;

    struct fiber *me = &x.fibers[x.running];
    me->state = SLEEPS;
    me->word = word;
    me->queued = x.sleeps++;
    me->may_time_out = may_time_out;
    me->woken = false;
    stop_before_place(TOUCH_WRITE, word); /* the end of the time; a wake makes it TOUCH_NOTHING */
    me->state = RUNS;
    return me->woken ? 0 : ETIMEDOUT;
}

void ev_model_futex_wake(_Atomic(uint32_t) *word, uint32_t count)
{
    stop_before_place(TOUCH_WRITE, word);
    for (; count > 0; count--) {
        struct fiber *first = NULL;

        for (int i = 0; i < x.count; i++) {
            struct fiber *fiber = &x.fibers[i];

            if (fiber->state == SLEEPS && !fiber->woken && fiber->word == word &&
                (first == NULL || fiber->queued < first->queued))
                first = fiber;
        }
        if (first == NULL)
            return;
        first->woken = true;
        join(&x.clocks[first - x.fibers], &x.points[x.depth - 1].clock);
        first->next = (struct step){TOUCH_NOTHING, NULL, 0};
    }
}

/* The linker sends all calls of pthread_mutex_lock and pthread_mutex_unlock here (cmake/EvbusTests.cmake). */
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (x.running == NOBODY)
        return 0;

    struct fiber *me = &x.fibers[x.running];
    me->mutex = mutex;
    stop_before_place(TOUCH_LOCK, mutex);
    me->mutex = NULL;
    if (x.locked_count == MUTEXES_MAX)
        model_fail("too many mutexes are locked");
    x.locked[x.locked_count++] = mutex;
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    if (x.running == NOBODY)
        return 0;
    stop_before_place(TOUCH_UNLOCK, mutex);

    int i = 0;
    while (i < x.locked_count && x.locked[i] != mutex)
        i++;
    if (i == x.locked_count)
        model_fail("a mutex is unlocked that is free");
    x.locked[i] = x.locked[--x.locked_count];
    return 0;
}

void model_fail(const char *text)
{
    if (x.result.failure == NULL)
        x.result.failure = text;
    if (x.running != NOBODY) {
        struct fiber *me = &x.fibers[x.running];

        go_home(FAILED);
        siglongjmp(me->unwind, 1);
    }
}

/* ---- Runs --------------------------------------------------------------------------------------------------------- */

static void fiber_main(void)
{
    const int mine = x.running;
    struct fiber *me = &x.fibers[mine];

    side_begin(&me->side, x.depth <= 1 ? &x.home : NULL);
    if (sigsetjmp(me->unwind, 0) == 0) {
        if (x.unwinding)
            siglongjmp(me->unwind, 1);
        x.model->threads[mine]();
    }
    me->state = ENDED;
    while (!x.unwinding) {
        const int choice = choose();

        if (choice == NOBODY)
            break;
        if (choice >= MODEL_THREADS_MAX) {
            drain_one(&x.fibers[choice - MODEL_THREADS_MAX]);
            continue;
        }
        x.running = choice;
        ev_epoch_self = x.fibers[choice].epoch_self;
        side_switch(&me->side, &x.fibers[choice].side);
    }
    go_home(x.outcome);
}

static void set_up_fibers(void)
{
    for (x.count = 0; x.count < MODEL_THREADS_MAX && x.model->threads[x.count] != NULL; x.count++) {
        struct fiber *fiber = &x.fibers[x.count];

        memset(&fiber->next, 0, offsetof(struct fiber, unwind) - offsetof(struct fiber, next));
        side_set_up(&fiber->side, stacks[x.count], STACK_BYTES, fiber_main);
    }
}

/* Stacks that were broken off are unwound for AddressSanitizer; else they can just be used again. */
static void unwind_fibers(void)
{
    const enum outcome outcome = x.outcome;

    x.unwinding = SIDE_WITH_ASAN;
    for (int i = 0; i < x.count && x.unwinding; i++)
        if (x.fibers[i].state != ENDED)
            go_to(i);
    x.unwinding = false;
    x.outcome = outcome;
}

static bool all_ended(void)
{
    for (int i = 0; i < x.count; i++)
        if (x.fibers[i].state != ENDED)
            return false;
    return true;
}

static void run_once(void)
{
    heap_begin();
    x.model->reset();
    set_up_fibers();
    x.depth = 0;
    x.locked_count = 0;
    memset(x.clocks, -1, sizeof x.clocks);

    const int first = choose();
    if (first != NOBODY)
        go_to(first);
    ev_epoch_self = NULL;

    if (x.outcome == AT_END) {
        x.result.schedules++;
        if (!all_ended() && !x.model->may_sleep)
            model_fail("a thread sleeps for ever");
        x.model->check();
    } else if (x.outcome == CUT) {
        x.result.cut++;
    }
    unwind_fibers();
    if (x.model->cleanup != NULL)
        x.model->cleanup();
    if (x.outcome == AT_END && heap_live() != 0)
        model_fail("memory is left");
    heap_end();
}

void model_print_schedule(void)
{
    fprintf(stderr, "  order (A: thread 0 and so on, a: its store buffer):");
    for (int i = 0; i < x.depth; i++) {
        const int choice = x.points[i].chosen;

        if (i == 0 || choice != x.points[i - 1].chosen)
            fputc(' ', stderr);
        fputc((choice < MODEL_THREADS_MAX ? 'A' : 'a') + choice % MODEL_THREADS_MAX, stderr);
    }
    fputc('\n', stderr);
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct model_result model_explore(const struct model *model)
{
    const double start = now();

    x.model = model;
    x.prefix = 0;
    x.result = (struct model_result){0};
    do
        run_once();
    while (x.result.failure == NULL && next_schedule());

    x.result.seconds = now() - start;
    printf("%s: %llu schedules (and %llu cut as repetitions), %llu steps, %s%s, %.2f s: %s\n", model->name,
           (unsigned long long)x.result.schedules, (unsigned long long)x.result.cut, (unsigned long long)x.result.steps,
           model->store_buffers ? "with store buffers, " : "", model->switches_max > 0 ? "bounded" : "all orders",
           x.result.seconds, x.result.failure != NULL ? x.result.failure : "sound");
    if (model->switches_max > 0)
        printf("  bound: %d switches away from a thread that could go on\n", model->switches_max);
    fflush(stdout);
    return x.result;
}
