/* SPDX-License-Identifier: Apache-2.0 */
/* Reclamation: nothing is freed under a reader, everything is freed in the end, threads come and go. */
#include "base/alloc.h"
#include "conc/epoch.h"
#include "support/race.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CANARY UINT64_C(0xcafe0e10c4ca11a5)
#define POISON UINT64_C(0xdeadf4eedeadf4ee)

struct thing {
    uint64_t canary;
    uint64_t number;
    uint64_t twice;
};

static _Atomic(uint64_t) freed;

static struct thing *new_thing(uint64_t number)
{
    struct thing *thing = ev_malloc(sizeof *thing);

    assert_non_null(thing);
    *thing = (struct thing){.canary = CANARY, .number = number, .twice = 2 * number};
    return thing;
}

/* Poisons what it frees, for builds without AddressSanitizer. */
static void free_thing(void *ptr)
{
    struct thing *thing = ptr;

    thing->canary = POISON;
    atomic_fetch_add(&freed, 1);
    ev_free(thing);
}

static int no_leaks(void **state)
{
    (void)state;
    atomic_store(&freed, 0);
    return ev_alloc_live() == 0 ? 0 : -1;
}

/* With no reader in a section, what is retired is freed at once. */
static void test_epoch_frees_at_once_without_readers(void **state)
{
    struct ev_limbo limbo;

    (void)state;
    ev_limbo_init(&limbo);
    for (uint64_t i = 0; i < 100; i++) {
        ev_epoch_enter();
        ev_epoch_leave();
        ev_limbo_retire(&limbo, new_thing(i), free_thing);
        assert_int_equal(atomic_load(&freed), i + 1);
    }
    ev_limbo_fini(&limbo);
}

/* A reader's section holds back what is retired during it, and nothing once it has ended; order is kept. */
static void test_epoch_section_holds_frees_back(void **state)
{
    struct ev_limbo limbo;

    (void)state;
    ev_limbo_init(&limbo);
    ev_epoch_enter();
    for (uint64_t i = 0; i < 200; i++) { /* far beyond EV_LIMBO_CROWDED: it goes on all the same */
        ev_limbo_retire(&limbo, new_thing(i), free_thing);
        assert_int_equal(atomic_load(&freed), 0);
    }
    assert_int_equal(limbo.count, 200);
    ev_epoch_leave();
    ev_limbo_retire(&limbo, new_thing(200), free_thing);
    assert_int_equal(atomic_load(&freed), 201);
    assert_int_equal(limbo.count, 0);
    ev_limbo_fini(&limbo);
}

/* A section that began after the retirement does not hold it back. */
static void test_epoch_later_section_holds_nothing_back(void **state)
{
    struct ev_limbo limbo;
    struct ev_limbo second;

    (void)state;
    ev_limbo_init(&limbo);
    ev_limbo_init(&second);
    ev_epoch_enter();
    ev_limbo_retire(&limbo, new_thing(1), free_thing);
    ev_epoch_leave();
    ev_epoch_enter();
    ev_limbo_retire(&second, new_thing(2), free_thing);
    ev_limbo_retire(&limbo, new_thing(3), free_thing);
    assert_int_equal(atomic_load(&freed), 1); /* the first of limbo; not those retired in this section */
    assert_int_equal(limbo.count, 1);
    assert_int_equal(second.count, 1);
    ev_epoch_leave();
    ev_limbo_fini(&limbo);
    ev_limbo_fini(&second);
    ev_limbo_fini(&second);
    assert_int_equal(atomic_load(&freed), 3);
}

struct room {
    _Atomic(uint32_t) inside;
    _Atomic(uint32_t) may_leave;
    struct ev_limbo limbo;
    _Atomic(struct thing *) current;
    _Atomic(int) writing;
    int swaps;
};

static void stay_inside(int index, void *ctx)
{
    struct room *room = ctx;

    if (index == 0) {
        ev_epoch_enter();
        atomic_store(&room->inside, 1);
        while (atomic_load(&room->may_leave) == 0)
            sched_yield();
        ev_epoch_leave();
        return;
    }
    while (atomic_load(&room->inside) == 0)
        sched_yield();
    ev_alloc_fail_after(2); /* the thing is made, limbo's list is not */
    struct thing *thing = new_thing(1);
    atomic_store(&room->may_leave, 1);
    ev_limbo_retire(&room->limbo, thing, free_thing);
    RACE_CHECK(atomic_load(&freed) == 1);
    ev_alloc_fail_after(-1);
}

/* Without memory for its list, retire waits for the readers and frees by itself. */
static void test_epoch_retire_works_without_memory(void **state)
{
    struct room room = {0};

    (void)state;
    ev_limbo_init(&room.limbo);
    ev_alloc_fail_after(2);
    ev_limbo_retire(&room.limbo, new_thing(0), free_thing);
    ev_alloc_fail_after(-1);
    assert_int_equal(atomic_load(&freed), 1);

    ev_epoch_detach(); /* a record for the other thread, whose allocations are not to fail */
    atomic_store(&freed, 0);
    race_run(2, stay_inside, &room);
    assert_int_equal(race_failures(), 0);
    ev_limbo_fini(&room.limbo);
}

/* A thread that can get no record is counted instead: its section holds frees back just as well. */
static void test_epoch_section_works_without_a_record(void **state)
{
    struct ev_epoch_record *records[64];
    struct ev_limbo limbo;
    struct thing *thing = new_thing(1);
    int taken = 0;

    (void)state;
    ev_limbo_init(&limbo);
    ev_limbo_retire(&limbo, new_thing(0), free_thing); /* makes limbo's list */
    ev_epoch_detach();
    for (ev_alloc_fail_after(1); taken < 64; taken++) { /* hide all free records */
        ev_epoch_enter();
        ev_epoch_leave();
        if (ev_epoch_self == NULL)
            break;
        records[taken] = ev_epoch_self;
        ev_epoch_self = NULL;
    }
    ev_alloc_fail_after(1);
    ev_epoch_enter();
    ev_alloc_fail_after(-1);
    assert_null(ev_epoch_self);
    ev_limbo_retire(&limbo, thing, free_thing);
    assert_int_equal(atomic_load(&freed), 1);
    assert_true(thing->canary == CANARY);
    ev_epoch_leave();
    ev_limbo_retire(&limbo, new_thing(2), free_thing);
    assert_int_equal(atomic_load(&freed), 3);
    while (taken-- > 0)
        ev_store_release(&records[taken]->taken, 0);
    ev_limbo_fini(&limbo);
}

/* ---- Races -------------------------------------------------------------------------------------------------------- */

static void look(struct room *room)
{
    ev_epoch_enter();
    const struct thing *thing = ev_load_seqcst(&room->current);
    for (int i = 0; i < 3; i++) {
        RACE_CHECK(thing->canary == CANARY);
        RACE_CHECK(thing->twice == 2 * thing->number);
    }
    ev_epoch_leave();
}

static void swap_and_read(int index, void *ctx)
{
    struct room *room = ctx;

    for (int i = 0; i < room->swaps && index == 0; i++) {
        struct thing *thing = ev_malloc(sizeof *thing);

        *thing = (struct thing){.canary = CANARY, .number = (uint64_t)i, .twice = 2 * (uint64_t)i};
        ev_limbo_retire(&room->limbo, ev_swap_seqcst(&room->current, thing), free_thing);
    }
    if (index == 0)
        atomic_store(&room->writing, 0);
    for (int i = 1; index > 0 && atomic_load(&room->writing); i++) {
        look(room);
        if (i % 64 == 0)
            sched_yield(); /* or readers keep the writer off the processor */
    }
}

/* Readers hammer a pointer while a writer swaps and retires what it points to: no reader meets a freed thing. */
static void test_epoch_readers_never_meet_the_freed(void **state)
{
    struct room room = {.swaps = 300};

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        ev_limbo_init(&room.limbo);
        atomic_store(&freed, 0);
        atomic_store(&room.writing, 1);
        atomic_store(&room.current, new_thing(0));
        race_run(4, swap_and_read, &room);
        assert_int_equal(race_failures(), 0);
        ev_limbo_fini(&room.limbo);
        assert_int_equal(atomic_load(&freed), 300);
        ev_free(atomic_load(&room.current));
    }
}

static pthread_key_t farewell;

static void look_once_more(void *ctx)
{
    look(ctx);
}

static void *visit(void *ctx)
{
    look(ctx);
    pthread_setspecific(farewell, ctx);
    return NULL;
}

static void come_and_go(int index, void *ctx)
{
    struct room *room = ctx;

    for (int i = 0; i < 20 && index > 0; i++) {
        pthread_t visitor;

        RACE_CHECK(pthread_create(&visitor, NULL, visit, room) == 0);
        pthread_join(visitor, NULL);
    }
    if (index > 0 && atomic_fetch_sub(&room->writing, 1) == 1)
        return;
    for (uint64_t i = 0; index == 0 && atomic_load(&room->writing) > 0; i++) {
        struct thing *thing = ev_malloc(sizeof *thing);

        *thing = (struct thing){.canary = CANARY, .number = i, .twice = 2 * i};
        ev_limbo_retire(&room->limbo, ev_swap_seqcst(&room->current, thing), free_thing);
    }
}

/* Threads come and go, some with a last section in a destructor of their own: their records are used again. */
static void test_epoch_threads_come_and_go(void **state)
{
    struct room room = {0};

    (void)state;
    assert_int_equal(pthread_key_create(&farewell, look_once_more), 0);
    atomic_store(&room.current, new_thing(0));
    ev_limbo_init(&room.limbo);
    for (int round = 0; round < 10; round++) {
        atomic_store(&room.writing, 3);
        race_run(4, come_and_go, &room);
        assert_int_equal(race_failures(), 0);
    }
    ev_limbo_fini(&room.limbo);

    const uint64_t total = ev_alloc_total();
    for (int i = 0; i < 100; i++) { /* by now there are records enough: no further one is made */
        pthread_t visitor;

        assert_int_equal(pthread_create(&visitor, NULL, visit, &room), 0);
        pthread_join(visitor, NULL);
    }
    assert_int_equal(ev_alloc_total() - total, 0);
    ev_free(atomic_load(&room.current));
    pthread_key_delete(farewell);
}

static void fork_beside_a_reader(int index, void *ctx)
{
    struct room *room = ctx;
    int status = -1;

    if (index == 0) {
        ev_epoch_enter();
        atomic_store(&room->inside, 1);
        while (atomic_load(&room->may_leave) == 0)
            sched_yield();
        ev_epoch_leave();
        return;
    }
    while (atomic_load(&room->inside) == 0)
        sched_yield();
    struct thing *thing = atomic_load(&room->current);
    const pid_t pid = fork();
    if (pid == 0) {
        ev_limbo_retire(&room->limbo, thing, free_thing);
        _exit(atomic_load(&freed) == 1 ? 0 : 1);
    }
    RACE_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    ev_limbo_retire(&room->limbo, thing, free_thing);
    RACE_CHECK(atomic_load(&freed) == 0);
    atomic_store(&room->may_leave, 1);
}

/* In a forked child the parent's readers do not exist, so they hold nothing back; in the parent they do. */
static void test_epoch_child_has_no_foreign_readers(void **state)
{
    struct room room = {0};

    (void)state;
    atomic_store(&room.current, new_thing(0));
    ev_limbo_init(&room.limbo);
    ev_limbo_retire(&room.limbo, new_thing(1), free_thing);
    atomic_store(&freed, 0);
    race_run(2, fork_beside_a_reader, &room);
    assert_int_equal(race_failures(), 0);
    ev_limbo_fini(&room.limbo);
    assert_int_equal(atomic_load(&freed), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_epoch_frees_at_once_without_readers, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_section_holds_frees_back, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_later_section_holds_nothing_back, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_retire_works_without_memory, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_section_works_without_a_record, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_readers_never_meet_the_freed, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_threads_come_and_go, no_leaks, no_leaks),
        cmocka_unit_test_setup_teardown(test_epoch_child_has_no_foreign_readers, no_leaks, no_leaks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
