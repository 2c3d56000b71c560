/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What receipts are made of, in all orders: the chain loses nothing and turns nothing round, a closed quota has one last
 * one out, the descriptor is readable exactly while something is there; and a tenant's queue, whose publisher, taker and
 * end meet, keeps its receipt and is freed once, by nobody too early.
 */
#include "small_bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- The chain ---------------------------------------------------------------------------------------------------- */

static struct item {
    struct ev_chain_link link;
    int adder, number;
} items[4];
static struct ev_chain chain;
static int last_of[2], taken_count;

static void reset_chain(void)
{
    memset(items, 0, sizeof items);
    memset(&chain, 0, sizeof chain);
    last_of[0] = last_of[1] = -1;
    taken_count = 0;
    for (int i = 0; i < 4; i++)
        items[i] = (struct item){.adder = i / 2, .number = i};
}

static void add_two(int adder)
{
    ev_chain_add(&chain, &items[2 * adder].link);
    ev_chain_add(&chain, &items[2 * adder + 1].link);
}

static void add_first(void)
{
    add_two(0);
}

static void add_second(void)
{
    add_two(1);
}

static void take_all(void)
{
    for (struct ev_chain_link *link = ev_chain_take(&chain); link; link = link->next) {
        const struct item *item = (const struct item *)link;
        MODEL_CHECK(item->number > last_of[item->adder]);
        last_of[item->adder] = item->number;
        taken_count++;
    }
}

static void take_all_twice(void)
{
    take_all();
    take_all();
}

static void all_are_taken_in_order(void)
{
    take_all();
    MODEL_CHECK(taken_count == 4);
    MODEL_CHECK(ev_chain_empty(&chain));
}

static const struct model chains = {
    .name = "chain: 2 adders of 2, 1 taker",
    .reset = reset_chain,
    .threads = {add_first, add_second, take_all_twice},
    .check = all_are_taken_in_order,
};

/* What is taken comes back while another adds: the adder's view of the last one is old, or right again. */
static void add_and_take_and_add_again(void)
{
    ev_chain_add(&chain, &items[0].link);
    struct ev_chain_link *link = ev_chain_take(&chain);
    while (link) {
        struct ev_chain_link *next = link->next;
        ev_chain_add(&chain, link);
        link = next;
    }
}

static void add_one_more(void)
{
    ev_chain_add(&chain, &items[2].link);
}

static void two_are_there(void)
{
    int n = 0;

    for (struct ev_chain_link *link = ev_chain_take(&chain); link && n < 3; link = link->next)
        n++;
    MODEL_CHECK(n == 2);
}

static const struct model chain_again = {
    .name = "chain: what was taken is added again beside an adder",
    .reset = reset_chain,
    .threads = {add_and_take_and_add_again, add_one_more},
    .check = two_are_there,
};

/* Every item is taken once, in the order it was added. */
static void test_model_chain_keeps_all_in_order(void **state)
{
    (void)state;
    model_expect_sound(&chains);
    model_expect_sound(&chain_again);
}

/* ---- The quota ---------------------------------------------------------------------------------------------------- */

static struct ev_quota quota;
static _Atomic(uint32_t) ends, inside;

static void reset_quota(void)
{
    memset(&quota, 0, sizeof quota);
    atomic_init(&ends, 0);
    atomic_init(&inside, 0);
}

static void enter_and_leave(void)
{
    if (ev_quota_enter(&quota, 1) != EV_QUOTA_IN)
        return;
    MODEL_CHECK(ev_load_relaxed(&ends) == 0); /* the end waits for whoever is in */
    MODEL_CHECK(ev_add_relaxed(&inside, 1) == 0);
    ev_sub_relaxed(&inside, 1);
    if (ev_quota_leave(&quota, 1))
        ev_add_relaxed(&ends, 1);
}

static void close_it(void)
{
    if (ev_quota_close(&quota))
        ev_add_relaxed(&ends, 1);
}

static void ended_once(void)
{
    MODEL_CHECK(ev_load_relaxed(&ends) == 1);
    MODEL_CHECK(ev_quota_enter(&quota, 1) == EV_QUOTA_CLOSED);
    MODEL_CHECK(ev_quota_count(&quota) == 0);
}

static const struct model closed_twice = {
    .name = "quota: 2 for 1 place, closed twice",
    .reset = reset_quota,
    .threads = {enter_and_leave, enter_and_leave, close_it, close_it},
    .check = ended_once,
};

static struct ev_park place_free;

static void reset_waiting_quota(void)
{
    reset_quota();
    ev_park_init(&place_free);
}

static void wait_enter_and_leave(void)
{
    while (ev_quota_enter(&quota, 1) != EV_QUOTA_IN) {
        const uint32_t ticket = ev_park_prepare(&place_free);
        if (ev_quota_count(&quota) == 0)
            ev_park_cancel(&place_free);
        else
            (void)ev_park_wait(&place_free, ticket, NULL, EV_NEVER);
    }
    (void)ev_quota_leave(&quota, 1);
    ev_park_wake(&place_free, 1);
}

static void nobody_is_in(void)
{
    MODEL_CHECK(ev_quota_count(&quota) == 0);
}

static const struct model waiting_for_a_place = {
    .name = "quota: 2 wait for 1 place",
    .reset = reset_waiting_quota,
    .threads = {wait_enter_and_leave, wait_enter_and_leave},
    .check = nobody_is_in,
    .store_buffers = true,
};

/* Exactly one learns of the end, and nobody is in then; who waits for a place gets it. */
static void test_model_quota_ends_once(void **state)
{
    (void)state;
    model_expect_sound(&closed_twice);
    model_expect_sound(&waiting_for_a_place);
    MODEL_EXPECT_FOUND(&closed_twice, EV_BUG_QUOTA_LATE_LOOK);
}

/* ---- The bell ----------------------------------------------------------------------------------------------------- */

static struct ev_bell bell;

static _Atomic(int) put_count, hushed_count; /* what the producer put, what the consumer took */

static bool more(void *arg)
{
    (void)arg;
    return !ev_chain_empty(&chain);
}

static bool is_untaken(void *arg)
{
    (void)arg;
    const int put = ev_load_seqcst(&put_count);
    return put != ev_load_seqcst(&hushed_count);
}

static void reset_bell(void)
{
    reset_chain();
    memset(&bell, 0, sizeof bell);
    atomic_init(&put_count, 0);
    atomic_init(&hushed_count, 0);
    (void)ev_bell_open(&bell, more, NULL);
}

static void reset_without_descriptor(void)
{
    reset_bell();
    memset(&bell, 0, sizeof bell);
}

static void add_and_ring(void)
{
    for (int i = 0; i < 2; i++) {
        ev_store_relaxed(&put_count, i + 1); /* own field */
        ev_chain_add(&chain, &items[i].link);
        ev_bell_ring(&bell, is_untaken, NULL);
    }
}

static void take_and_hush(void)
{
    take_all();
    ev_store_seqcst(&hushed_count, taken_count);
    ev_bell_hush(&bell, more, NULL);
}

static void take_and_hush_twice(void)
{
    take_and_hush();
    take_and_hush();
}

static void open_it(void)
{
    (void)ev_bell_open(&bell, more, NULL);
}

static void readable_means_something(void)
{
    MODEL_CHECK((ev_load_relaxed(&bell.written) > 0) == !ev_chain_empty(&chain));
}

static const struct model rung = {
    .name = "bell: 2 items, taken and hushed twice",
    .reset = reset_bell,
    .threads = {add_and_ring, take_and_hush_twice},
    .check = readable_means_something,
    .store_buffers = true,
};

static const struct model opened = {
    .name = "bell: asked for while items come",
    .reset = reset_without_descriptor,
    .threads = {add_and_ring, open_it},
    .check = readable_means_something,
    .store_buffers = true,
};

/* When all is quiet, the descriptor is readable if and only if something is there. */
static void test_model_bell_is_readable_while_something_is_there(void **state)
{
    (void)state;
    model_expect_sound(&rung);
    model_expect_sound(&opened);
    MODEL_EXPECT_FOUND(&rung, EV_BUG_BELL_LATE_RING);
    MODEL_EXPECT_FOUND(&rung, EV_BUG_BELL_NO_SECOND_LOOK);
}

/* ---- A tenant's queue --------------------------------------------------------------------------------------------- */

#define TENANT 1

static evbus_status published, taken_status;
static size_t got;
static struct ev_topic *topic;

static void reset_tenant(void)
{
    small_bus_reset(1);
    small_bus.cfg.o.receipts_max = EV_RECEIPTS_MIN;
    small_bus.cfg.o.tenants_max = 1;
    topic = small_topic("a", true);
    got = 0;
    published = taken_status = EVBUS_OK;
    if (evbus_tenant_register(&small_bus, TENANT, NULL) != EVBUS_OK)
        model_fail("the model has no tenant");
}

/* What others asked the loop to do. */
static void run_commands(void)
{
    pthread_mutex_lock(&small_bus.mutex);
    struct ev_command *c = small_bus.commands;
    small_bus.commands = small_bus.commands_tail = NULL;
    pthread_mutex_unlock(&small_bus.mutex);
    while (c) {
        struct ev_command *next = c->next;
        c->run(&small_bus, c);
        c = next;
    }
}

/* A publisher and the loop in one thread: between them is the submit ring, which has a model of its own. */
static void publish_and_complete(void)
{
    static char none[1];
    struct ev_slot slot = {.topic = topic, .buf = none, .outcome = EVBUS_OUTCOME_STORED};

    published = ev_receipt_reserve(&small_bus, TENANT, 2, 0, &slot.receipt);
    if (published == EVBUS_OK) {
        ev_receipt_describe(slot.receipt, &slot);
        ev_receipt_put(&small_bus, &slot);
        ev_receipts_turn(&small_bus, 0);
    }
    run_commands();
}

static void reserve_and_cancel(void)
{
    struct ev_receipt *receipt;

    published = ev_receipt_reserve(&small_bus, TENANT, 2, 0, &receipt);
    if (published == EVBUS_OK)
        ev_receipt_cancel(receipt);
}

static void unregister(void)
{
    MODEL_CHECK(evbus_tenant_unregister(&small_bus, TENANT) == EVBUS_OK);
}

static void take(void)
{
    evbus_receipt receipt;
    size_t n = 0;

    receipt.struct_size = sizeof receipt;
    taken_status = evbus_receipts_take(&small_bus, TENANT, &receipt, 1, 0, &n);
    MODEL_CHECK(taken_status == EVBUS_OK || taken_status == EVBUS_NOT_REGISTERED);
    if (taken_status == EVBUS_OK)
        got += n;
}

static void take_until_the_end(void)
{
    evbus_receipt receipt;
    size_t n = 0;

    receipt.struct_size = sizeof receipt;
    while ((taken_status = evbus_receipts_take(&small_bus, TENANT, &receipt, 1, EVBUS_FOREVER, &n)) == EVBUS_OK)
        got += n;
}

/* After all of it, and the takes that are left: one receipt for a publish, and no queue any more. */
static void one_receipt_and_nothing_left(void)
{
    for (int i = 0; i < 2; i++) {
        run_commands();
        take();
    }
    run_commands();
    MODEL_CHECK(published == EVBUS_OK || published == EVBUS_NOT_REGISTERED);
    MODEL_CHECK(got == (published == EVBUS_OK));
    MODEL_CHECK(taken_status == EVBUS_NOT_REGISTERED);
    MODEL_CHECK(small_bus.tenants.all == NULL && ev_load_relaxed(&small_bus.tenants.count) == 0);
    small_bus_fini();
}

/* The same where nothing is put. */
static void nothing_left(void)
{
    published = EVBUS_NOT_REGISTERED;
    one_receipt_and_nothing_left();
}

static const struct model queue_taken = {
    .name = "receipts: a publish, a take, the tenant unregistered",
    .reset = reset_tenant,
    .threads = {publish_and_complete, take, unregister},
    .check = one_receipt_and_nothing_left,
    .cleanup = small_bus_forget,
    .switches_max = MODEL_SWITCHES - 1,
};

static const struct model queue_awaited = {
    .name = "receipts: a take waits for a publish and the end",
    .reset = reset_tenant,
    .threads = {publish_and_complete, take_until_the_end, unregister},
    .check = one_receipt_and_nothing_left,
    .cleanup = small_bus_forget,
    .switches_max = MODEL_SWITCHES - 1,
};

static const struct model queue_cancelled = {
    .name = "receipts: a place given back, the tenant unregistered, the loop",
    .reset = reset_tenant,
    .threads = {reserve_and_cancel, unregister, run_commands},
    .check = nothing_left,
    .cleanup = small_bus_forget,
    .switches_max = MODEL_SWITCHES - 1,
};

/* A receipt is there or was taken, the end comes after it, and the queue's memory is nobody's then. */
static void test_model_receipts_survive_their_tenant(void **state)
{
    (void)state;
    model_expect_sound(&queue_taken);
    model_expect_sound(&queue_awaited);
    model_expect_sound(&queue_cancelled);
}

/* ---- Ack workers -------------------------------------------------------------------------------------------------- */

static _Atomic(uint32_t) called;

static void on_receipt(const evbus_receipt *receipt, void *ctx)
{
    (void)receipt;
    (void)ctx;
    ev_add_relaxed(&called, 1);
}

static void reset_callback(void)
{
    reset_tenant();
    small_bus.cfg.o.on_receipt = on_receipt;
    atomic_init(&called, 0);
}

static void complete_two(void)
{
    publish_and_complete();
    publish_and_complete();
}

static bool ack_work(void *arg)
{
    struct ev_acks *a = arg;

    return ev_load_seqcst(&a->waiting) || !ev_chain_empty(&a->listed);
}

/* As an ack worker, which ends here when both receipts were given out. */
static void work(void)
{
    while (ev_load_relaxed(&called) < 2)
        if (!ev_acks_run_one(&small_bus))
            (void)ev_crew_sleep(&small_bus.acks.crew, ack_work, &small_bus.acks, EV_NEVER);
}

static void both_were_called(void)
{
    MODEL_CHECK(ev_load_relaxed(&called) == 2);
    while (ev_acks_run_one(&small_bus)) /* it may be listed with nothing in it */
        ;
    MODEL_CHECK(evbus_tenant_unregister(&small_bus, TENANT) == EVBUS_OK);
    run_commands();
    MODEL_CHECK(small_bus.tenants.all == NULL);
    small_bus_fini();
}

static const struct model called_back = {
    .name = "receipts: 2 for 1 ack worker",
    .reset = reset_callback,
    .threads = {complete_two, work},
    .check = both_were_called,
    .cleanup = small_bus_forget,
    .switches_max = MODEL_SWITCHES - 1,
};

static const struct model called_by_two = {
    .name = "receipts: 2 for 2 ack workers",
    .reset = reset_callback,
    .threads = {complete_two, work, work},
    .check = both_were_called,
    .cleanup = small_bus_forget,
    .switches_max = 1, /* with 2 it takes a minute */
    .may_sleep = true, /* one that has nothing to do any more */
};

/* Nobody sleeps on a receipt, and none is given out twice. */
static void test_model_receipts_are_called_back(void **state)
{
    (void)state;
    model_expect_sound(&called_back);
    model_expect_sound(&called_by_two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_chain_keeps_all_in_order),
        cmocka_unit_test(test_model_quota_ends_once),
        cmocka_unit_test(test_model_bell_is_readable_while_something_is_there),
        cmocka_unit_test(test_model_receipts_survive_their_tenant),
        cmocka_unit_test(test_model_receipts_are_called_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
