/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reclamation in all orders: no reader touches an object that was freed, and everything is freed in the end. Touching
 * and freeing an object are steps of their own, so that they can fall between any two operations of the others.
 */
#include "base/alloc.h"
#include "conc/epoch.h"
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OBJECTS 4

struct object {
    bool freed;
};

static struct object objects[OBJECTS];
static _Atomic(struct object *) current;
static struct ev_limbo limbo;
static int retired;

static void free_object(void *ptr)
{
    struct object *object = ptr;

    EV_WRITES(object);
    MODEL_CHECK(!object->freed);
    object->freed = true;
}

static void free_nothing(void *ptr)
{
    (void)ptr;
}

static void reset(void)
{
    ev_epoch_forget_records();
    memset(objects, 0, sizeof objects);
    atomic_init(&current, &objects[0]);
    retired = 0;
    ev_limbo_init(&limbo);
    ev_limbo_retire(&limbo, NULL, free_nothing); /* so that its list is there */
}

/* A record is there, so readers allocate nothing. */
static void reset_with_record(void)
{
    reset();
    ev_epoch_enter();
    ev_epoch_leave();
    ev_epoch_detach();
}

static void cleanup(void)
{
    ev_epoch_forget_records();
    ev_free(limbo.entries);
    limbo = (struct ev_limbo){0};
}

static void touch(const struct object *object)
{
    EV_READS(object);
    MODEL_CHECK(!object->freed);
}

static void read_once(void)
{
    ev_epoch_enter();
    const struct object *object = ev_load_seqcst(&current);
    touch(object);
    touch(object);
    ev_epoch_leave();
}

static void read_twice(void)
{
    read_once();
    read_once();
}

static void read_and_end(void)
{
    read_once();
    ev_epoch_detach();
}

/* Out of memory at the first section: counted without a record. */
static void read_nameless(void)
{
    ev_alloc_fail_after(1);
    ev_epoch_enter();
    ev_alloc_fail_after(-1);
    MODEL_CHECK(ev_epoch_self == NULL);
    touch(ev_load_seqcst(&current));
    ev_epoch_leave();
}

static void replace(void)
{
    struct object *old = ev_swap_seqcst(&current, &objects[++retired]);

    ev_limbo_retire(&limbo, old, free_object);
}

static void replace_twice(void)
{
    replace();
    replace();
}

/* As ev_swap_seqcst, for a writer that knows the old object: a store needs seq_cst just as much. */
static void replace_by_store(void)
{
    ev_store_seqcst(&current, &objects[++retired]);
    ev_limbo_retire(&limbo, &objects[retired - 1], free_object);
}

/* A replacement without memory for limbo's list: the writer waits for the readers. */
static void replace_without_memory(void)
{
    struct object *old = ev_swap_seqcst(&current, &objects[++retired]);

    limbo.count = limbo.capacity; /* as if full */
    ev_alloc_fail_after(1);
    ev_limbo_retire(&limbo, old, free_object);
    ev_alloc_fail_after(-1);
    limbo.count = 0;
    MODEL_CHECK(old->freed);
}

static void all_are_freed(void)
{
    struct object *last = atomic_load(&current);

    MODEL_CHECK(!last->freed);
    ev_limbo_retire(&limbo, last, free_object); /* nobody reads any more: this empties limbo */
    MODEL_CHECK(limbo.count == 0);
    for (int i = 0; i <= retired; i++)
        MODEL_CHECK(objects[i].freed);
}

static const struct model one_reader = {
    .name = "epoch: 1 reader x 2 sections, 1 writer x 2",
    .reset = reset,
    .threads = {read_twice, replace_twice},
    .check = all_are_freed,
    .cleanup = cleanup,
    .store_buffers = true,
};

static const struct model by_store = {
    .name = "epoch: 1 reader x 2 sections, 1 writer by a store",
    .reset = reset,
    .threads = {read_twice, replace_by_store},
    .check = all_are_freed,
    .cleanup = cleanup,
    .store_buffers = true,
};

static const struct model two_readers = {
    .name = "epoch: 2 readers, 1 writer",
    .reset = reset,
    .threads = {read_once, read_once, replace},
    .check = all_are_freed,
    .cleanup = cleanup,
};

static const struct model two_readers_two_writes = {
    .name = "epoch: 2 readers x 1 section, 1 writer x 2",
    .reset = reset,
    .threads = {read_once, read_once, replace_twice},
    .check = all_are_freed,
    .cleanup = cleanup,
};

static const struct model coming_and_going = {
    .name = "epoch: 2 threads that come, read and end, 1 writer",
    .reset = reset,
    .threads = {read_and_end, read_and_end, replace},
    .check = all_are_freed,
    .cleanup = cleanup,
};

static const struct model nameless = {
    .name = "epoch: 1 reader without a record, 1 writer x 2",
    .reset = reset,
    .threads = {read_nameless, replace_twice},
    .check = all_are_freed,
    .cleanup = cleanup,
    .store_buffers = true,
};

static const struct model without_memory = {
    .name = "epoch: 1 reader, 1 writer without memory",
    .reset = reset_with_record,
    .threads = {replace_without_memory, read_once},
    .check = all_are_freed,
    .cleanup = cleanup,
};

/* Readers never touch what was freed, whether their records are new, used again or missing. */
static void test_model_epoch_frees_nothing_too_early(void **state)
{
    (void)state;
    model_expect_sound(&one_reader);
    model_expect_sound(&by_store);
    model_expect_sound(&nameless);
    model_expect_sound(&without_memory);
    model_expect_sound(&two_readers);
    model_expect_sound(&coming_and_going);
    model_expect_sound(&two_readers_two_writes);
}

/* Freed one epoch too early, a reader without a record ignored, announced with less than seq_cst: each is found. */
static void test_model_epoch_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&one_reader, EV_BUG_EPOCH_EARLY);
    MODEL_EXPECT_FOUND(&two_readers, EV_BUG_EPOCH_EARLY);
    MODEL_EXPECT_FOUND(&nameless, EV_BUG_EPOCH_IGNORES_NAMELESS);
    MODEL_EXPECT_FOUND(&one_reader, EV_BUG_WEAK_STORES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_epoch_frees_nothing_too_early),
        cmocka_unit_test(test_model_epoch_finds_mistakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
