/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts in queues: one for each publish, per tenant, taken, polled or called back; their bounds and their end. */
#include "backend_suite_taken.h"

#include "core/bus.h"

#include <unistd.h>

/* ---- One for each ------------------------------------------------------------------------------------------------ */

/* With receipts on, each publish ends in one receipt that says all there is to say. */
static void test_tenant_receipts_say_what_became_of_a_publish(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts = EVBUS_ON));
    evbus_envelope env = suite_envelope_of("order-42", 1);

    env.event_id = "ev-1";
    const int64_t before = suite_now_ns(s);
    must(evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .tag = UINT64_MAX)));
    const evbus_receipt r = take_one(bus, 0);
    assert_int_equal(r.struct_size, sizeof r);
    assert_int_equal(r.outcome, EVBUS_OUTCOME_STORED);
    assert_int_equal(r.status, EVBUS_OK);
    assert_true(r.tag == UINT64_MAX);
    assert_true(r.sequence > 0);
    assert_int_equal(r.tenant_id, 0);
    assert_true(before <= r.accepted_ns && r.accepted_ns <= r.completed_ns && r.completed_ns <= suite_now_ns(s));
    assert_false(r.duplicate);
    assert_true(r.is_envelope);
    assert_string_equal(r.event_id, "ev-1");
    assert_string_equal(r.aggregate_id, "order-42");
    assert_string_equal(r.topic, topic);
    assert_true(r.stream[0] != 0);
    assert_string_equal(r.detail, "");

    must(evbus_publish_envelope(bus, topic, &env, NULL));
    const evbus_receipt again = take_one(bus, 0);
    assert_true(again.duplicate);
    assert_int_equal(again.outcome, EVBUS_OUTCOME_STORED);
    assert_int_equal(again.sequence, r.sequence);
    assert_int_equal(take_now(bus, 0), 0);
    must_reach(bus, receipts, 2);
    must_reach(bus, receipts_taken, 2);
    must_reach(bus, receipts_queued, 0);
    suite_close(s, bus);
}

/* Off by default, and switched per publish either way; a call that waits returns its own. */
static void test_tenant_receipts_are_switched_per_publish(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    const evbus_envelope env = suite_envelope_of("a", 1);
    const evbus_pub_opts on = {.struct_size = sizeof on, .receipt = EVBUS_ON};
    const evbus_pub_opts off = {.struct_size = sizeof off, .receipt = EVBUS_OFF};
    evbus *quiet = suite_open(s, NULL), *loud = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts = EVBUS_ON));

    must(evbus_publish_envelope(quiet, topic, &env, NULL));
    must(evbus_publish_envelope(quiet, topic, &env, &on));
    must(evbus_publish_envelope(loud, topic, &env, &off));
    (void)suite_publish_wait(loud, topic, "a", 1);
    must(evbus_publish(loud, topic, "plain", 5, NULL));
    must_reach(quiet, publishes_stored, 2);
    must_reach(loud, publishes_stored, 3);
    must_reach(quiet, receipts, 1);
    must_reach(loud, receipts, 0);
    (void)take_one(quiet, 0);
    must_be(EVBUS_INVALID, evbus_publish(loud, topic, "plain", 5, &on));
    must_be(EVBUS_INVALID, evbus_publish_envelope_wait(loud, topic, &env, &on, NULL));
    must_be(EVBUS_INVALID, evbus_publish_envelope(loud, topic, &env, EVBUS_OPTS(evbus_pub_opts, .receipt = 3)));
    must_mention("receipt");
    suite_close(s, quiet);
    suite_close(s, loud);
}

/* A refusal comes as a receipt, and not to on_publish_error as well. */
static void test_tenant_receipts_tell_a_refusal(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "full");
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 1, .discard = EVBUS_DISCARD_NEW)));
    must(publish_for(bus, topic, 0, 1, 0));
    assert_int_equal(take_one(bus, 0).outcome, EVBUS_OUTCOME_STORED);
    must(publish_for(bus, topic, 0, 2, 0));
    const evbus_receipt r = take_one(bus, 0);
    assert_int_equal(r.tag, 2);
    assert_int_equal(r.outcome, EVBUS_OUTCOME_REFUSED);
    assert_true(r.status == EVBUS_LIMIT || r.status == EVBUS_REFUSED);
    assert_true(r.broker_code != 0);
    assert_true(r.detail[0] != 0);
    assert_string_equal(r.aggregate_id, "order-1");
    assert_int_equal(suite_receipt_count(s), 0);
    suite_close(s, bus);
}

/* Ids of the greatest lengths come back, an event id as far as the struct has room. */
static void test_tenant_receipts_keep_long_ids(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts = EVBUS_ON));
    char event_id[257], aggregate_id[257];
    evbus_envelope env = suite_envelope_of(aggregate_id, 1);

    memset(event_id, 'e', sizeof event_id - 1);
    memset(aggregate_id, 'a', sizeof aggregate_id - 1);
    event_id[255] = event_id[256] = aggregate_id[256] = 0;
    env.event_id = event_id;
    for (int round = 0; round < 3; round++) {
        event_id[0] = (char)('0' + round);
        must(evbus_publish_envelope(bus, topic, &env, NULL));
        const evbus_receipt r = take_one(bus, 0);
        assert_string_equal(r.event_id, event_id);
        assert_string_equal(r.aggregate_id, aggregate_id);
        suite_publish(bus, topic, "short", 1);
        assert_string_equal(take_one(bus, 0).aggregate_id, "short");
    }
    suite_close(s, bus);
}

/* ---- The descriptor ---------------------------------------------------------------------------------------------- */

/* Readable exactly while something waits, also after a take that left some; and for ever at the end. */
static void test_tenant_descriptor_is_readable_while_receipts_wait(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .receipts = EVBUS_ON));
    int fd = -1, late = -1;

    must(evbus_receipts_fd(bus, 0, &fd));
    assert_false(readable(fd, 0));
    for (int round = 0; round < 20; round++) {
        suite_publish_many(bus, topic, "a", 1, 1, 3);
        assert_true(readable(fd, (int)wait_patience_ms()));
        must_reach_at_least(bus, receipts_queued, 3);
        for (int left = 3; left > 0; left--) {
            assert_true(readable(fd, 0));
            assert_int_equal(take_now(bus, 0), 1);
        }
        assert_false(readable(fd, 0));
        assert_int_equal(take_now(bus, 0), 0);
        assert_false(readable(fd, 0));
    }
    suite_publish(bus, topic, "a", 1);
    must_reach(bus, receipts_queued, 1);
    must(evbus_receipts_fd(bus, 0, &late)); /* asked for when something waits already */
    assert_true(readable(late, 0));
    (void)take_one(bus, 0);
    assert_false(readable(late, 0));
    must(evbus_shutdown(bus, 0, NULL));
    assert_true(readable(fd, 0) && readable(late, 0));
    evbus_receipt r;
    size_t n;
    evbus_receipt_init(&r);
    must_be(EVBUS_CLOSED, evbus_receipts_take(bus, 0, &r, 1, EVBUS_FOREVER, &n));
    assert_true(readable(fd, 0));
    suite_close(s, bus);
    assert_true(readable(fd, 0)); /* it is ours */
    close(fd);
    close(late);
}

/* ---- Tenants ----------------------------------------------------------------------------------------------------- */

/* Each tenant's receipts are in its own queue and nowhere else; who is not registered publishes nothing. */
static void test_tenant_queues_are_apart(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_receipt r;
    size_t n;

    evbus_receipt_init(&r);
    must_be(EVBUS_NOT_REGISTERED, publish_for(bus, topic, 7, 0, 0));
    must_mention("7");
    must_be(EVBUS_NOT_REGISTERED, publish_for(bus, topic, -7, 0, 0));
    must_be(EVBUS_NOT_REGISTERED, evbus_receipts_take(bus, 7, &r, 1, EVBUS_FOREVER, &n));
    assert_int_equal(suite_stats_of(bus).publishes_accepted, 0);
    must(evbus_tenant_register(bus, 7, NULL));
    must(evbus_tenant_register(bus, 8, NULL));
    must_reach(bus, tenants, 2);
    for (uint64_t i = 0; i < 30; i++)
        must(publish_for(bus, topic, i % 3 == 0 ? 0 : (int64_t)(6 + i % 3), i, 0));
    must_be(EVBUS_NOT_REGISTERED, publish_for(bus, topic, 9, 0, 0));
    must_reach(bus, receipts, 30);
    for (int64_t tenant = 8; tenant != -1; tenant = tenant == 0 ? -1 : tenant == 7 ? 0 : 7) {
        for (int i = 0; i < 10; i++) {
            r = take_one(bus, tenant);
            assert_int_equal(r.tenant_id, tenant);
            assert_int_equal(r.tag % 3, tenant == 0 ? 0 : tenant - 6);
        }
        assert_int_equal(take_now(bus, tenant), 0);
    }
    suite_close(s, bus);
}

/* Without receipts, a tenant need not be registered. */
static void test_tenant_without_receipts_needs_no_queue(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    evbus_envelope env = suite_envelope_of("a", 1);

    env.tenant_id = 7;
    must(evbus_publish_envelope(bus, suite_topic(s, "orders"), &env, NULL));
    must_reach(bus, publishes_stored, 1);
    assert_int_equal(suite_stats_of(bus).receipts, 0);
    suite_close(s, bus);
}

/* Registering twice, with a wrong id, above the bound, after the end: each says so. */
static void test_tenant_registering_has_its_rules(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .tenants_max = 2));
    evbus_tenant list[3];
    size_t n;

    must(evbus_tenant_register(bus, 1, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 16)));
    must_be(EVBUS_EXISTS, evbus_tenant_register(bus, 1, NULL));
    must_be(EVBUS_INVALID, evbus_tenant_register(bus, 0, NULL));
    must_be(EVBUS_INVALID, evbus_tenant_register(bus, -1, NULL));
    must_be(EVBUS_INVALID, evbus_tenant_register(bus, 2, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 15)));
    must_mention("receipts_max");
    must(evbus_tenant_register(bus, INT64_MAX, NULL));
    must_be(EVBUS_LIMIT, evbus_tenant_register(bus, 3, NULL));
    must_mention("tenants_max");
    must_be(EVBUS_INVALID, evbus_tenant_unregister(bus, 0));
    must_be(EVBUS_NOT_REGISTERED, evbus_tenant_unregister(bus, 3));

    must(evbus_tenant_list(bus, NULL, 0, &n));
    assert_int_equal(n, 2);
    evbus_tenant_init(&list[0]);
    must(evbus_tenant_list(bus, list, 3, &n));
    assert_int_equal(n, 2);
    const evbus_tenant *one = list[0].tenant_id == 1 ? &list[0] : &list[1];
    assert_int_equal(one->tenant_id, 1);
    assert_int_equal(one->struct_size, sizeof *one);
    assert_int_equal(one->receipts_max, 16);
    assert_int_equal(one->closing + one->pending + one->queued + one->taken, 0);

    must(evbus_tenant_unregister(bus, 1));
    must_be(EVBUS_NOT_REGISTERED, evbus_tenant_unregister(bus, 1));
    must(evbus_tenant_register(bus, 3, NULL));
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_tenant_register(bus, 4, NULL));
    must_be(EVBUS_CLOSED, evbus_tenant_unregister(bus, 3));
    must_be(EVBUS_CLOSED, evbus_tenant_unregister(bus, 0));
    suite_close(s, bus);
}

/* A full queue holds up its own tenant and nobody else, until one is taken; it takes no place of the window. */
static void test_tenant_that_does_not_take_holds_up_nobody_else(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .publish_inflight_max = 16));

    must(evbus_tenant_register(bus, 1, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 40)));
    must(evbus_tenant_register(bus, 2, NULL));
    for (uint64_t i = 0; i < 40; i++)
        must(publish_for(bus, topic, 1, i, 0));
    must_be(EVBUS_BACKPRESSURE, publish_for(bus, topic, 1, 40, EVBUS_NOWAIT));
    must_mention("receipts_max");
    must_be(EVBUS_BACKPRESSURE, publish_for(bus, topic, 1, 40, 20));
    for (uint64_t i = 0; i < 100; i++)
        must(publish_for(bus, topic, i % 2 ? 2 : 0, i, 0));
    must_reach(bus, receipts_queued, 140);
    must_reach(bus, publishes_inflight, 0);
    must_reach(bus, backpressure, 2);
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(take_one(bus, 1).tag, i);
    must(publish_for(bus, topic, 1, 41, EVBUS_NOWAIT));
    assert_int_equal(take_one(bus, 1).tag, 41);
    suite_close(s, bus);
}

struct waiter {
    evbus *bus;
    const char *topic;
    evbus_status status;
    atomic_bool done;
};

static void publish_and_wait_for_room(void *arg)
{
    struct waiter *w = arg;

    w->status = publish_for(w->bus, w->topic, 1, 16, EVBUS_FOREVER);
    atomic_store(&w->done, true);
}

static bool waits_for_room(void *arg)
{
    evbus *bus = arg;

    ev_epoch_enter();
    const struct ev_receipts *q = ev_tenants_find(bus, 1);
    const bool waits = q && ev_load_seqcst(&q->room.waiters) > 0;
    ev_epoch_leave();
    return waits;
}

static struct waiter *start_waiter(struct suite *s, evbus *bus, const char *topic, struct suite_background **ret)
{
    struct waiter *w = suite_alloc(s, sizeof *w);

    *w = (struct waiter){.bus = bus, .topic = topic};
    must(evbus_tenant_register(bus, 1, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 16)));
    for (uint64_t i = 0; i < 16; i++)
        must(publish_for(bus, topic, 1, i, 0));
    *ret = suite_background(s, publish_and_wait_for_room, w, NULL);
    assert_true(wait_until(waits_for_room, bus, wait_patience_ms()));
    assert_false(atomic_load(&w->done));
    return w;
}

/* A publish that waits for room goes on when a receipt is taken. */
static void test_tenant_publish_waits_until_one_is_taken(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    struct suite_background *thread;
    struct waiter *w = start_waiter(s, bus, suite_topic(s, "orders"), &thread);

    (void)take_one(bus, 1);
    suite_background_join(thread);
    must(w->status);
    for (uint64_t i = 1; i <= 16; i++)
        assert_int_equal(take_one(bus, 1).tag, i);
    suite_close(s, bus);
}

/* Unregistering ends that wait. */
static void test_tenant_unregistered_while_a_publish_waits(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    struct suite_background *thread;
    struct waiter *w = start_waiter(s, bus, suite_topic(s, "orders"), &thread);

    must(evbus_tenant_unregister(bus, 1));
    suite_background_join(thread);
    assert_int_equal(w->status, EVBUS_NOT_REGISTERED);
    suite_close(s, bus);
}

/* So does the end of the bus. */
static void test_tenant_publish_waits_while_the_bus_ends(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    struct suite_background *thread;
    struct waiter *w = start_waiter(s, bus, suite_topic(s, "orders"), &thread);

    must(evbus_shutdown(bus, 0, NULL));
    suite_background_join(thread);
    assert_int_equal(w->status, EVBUS_CLOSED);
    suite_close(s, bus);
}

/* What was promised before unregistering still arrives; with the last one taken, the queue is gone, and may be made anew. */
static void test_tenant_unregistered_gets_what_is_outstanding(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    struct taken *t = taken_new(s, 300);
    evbus_receipt r;
    evbus_tenant info;
    size_t n;
    int fd;

    evbus_receipt_init(&r);
    evbus_tenant_init(&info);
    must(evbus_tenant_register(bus, 1, NULL));
    must(evbus_receipts_fd(bus, 1, &fd));
    for (uint64_t i = 0; i < 300; i++)
        must(publish_for(bus, topic, 1, i, 0));
    must(evbus_tenant_unregister(bus, 1));
    must_be(EVBUS_NOT_REGISTERED, publish_for(bus, topic, 1, 0, 0));
    must_be(EVBUS_EXISTS, evbus_tenant_register(bus, 1, NULL));
    must(evbus_tenant_list(bus, &info, 1, &n));
    assert_int_equal(n, 1);
    assert_int_equal(info.closing, 1);
    assert_int_equal(info.pending + info.queued, 300);
    must(take_until(bus, 1, t, 300));
    assert_int_equal(t->stored, 300);
    assert_int_equal(t->twice, 0);
    assert_true(readable(fd, (int)wait_patience_ms()));
    must_be(EVBUS_NOT_REGISTERED, evbus_receipts_take(bus, 1, &r, 1, EVBUS_FOREVER, &n));
    assert_true(readable(fd, 0));
    must(evbus_tenant_list(bus, NULL, 0, &n));
    assert_int_equal(n, 0);
    must(evbus_tenant_register(bus, 1, NULL));
    must(publish_for(bus, topic, 1, 1, 0));
    assert_int_equal(take_one(bus, 1).tag, 1);
    suite_close(s, bus);
    close(fd);
}

struct end_waiter {
    evbus *bus;
    int64_t tenant;
    evbus_status status;
    atomic_bool begun;
};

static void take_to_the_end(void *arg)
{
    struct end_waiter *w = arg;
    evbus_receipt r;
    size_t n;

    evbus_receipt_init(&r);
    atomic_store(&w->begun, true);
    do
        w->status = evbus_receipts_take(w->bus, w->tenant, &r, 1, EVBUS_FOREVER, &n);
    while (w->status == EVBUS_OK);
}

/* A take that waits learns of the end: the tenant's, and the bus's. */
static void test_tenant_waiting_take_learns_of_the_end(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    struct end_waiter *w = suite_alloc(s, 3 * sizeof *w);
    struct suite_background *threads[3];

    for (int64_t i = 0; i < 3; i++) {
        w[i] = (struct end_waiter){.bus = bus, .tenant = i};
        if (i > 0)
            must(evbus_tenant_register(bus, i, NULL));
        threads[i] = suite_background(s, take_to_the_end, &w[i], NULL);
    }
    must(evbus_tenant_unregister(bus, 2));
    suite_background_join(threads[2]);
    assert_int_equal(w[2].status, EVBUS_NOT_REGISTERED);
    must(evbus_shutdown(bus, 0, NULL));
    suite_background_join(threads[0]);
    suite_background_join(threads[1]);
    assert_int_equal(w[0].status, EVBUS_CLOSED);
    assert_int_equal(w[1].status, EVBUS_CLOSED);
    suite_close(s, bus);
}

/* Arguments that are wrong are named, and nothing is written. */
static void test_tenant_calls_refuse_wrong_arguments(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    evbus_receipt r = {.struct_size = 0};
    evbus_tenant one = {.struct_size = 1};
    size_t n = 77;
    int fd = 77;

    must_be(EVBUS_INVALID, evbus_receipts_take(bus, 0, &r, 1, 0, &n));
    must_mention("struct_size");
    evbus_receipt_init(&r);
    must_be(EVBUS_INVALID, evbus_receipts_take(NULL, 0, &r, 1, 0, &n));
    must_be(EVBUS_INVALID, evbus_receipts_take(bus, 0, NULL, 1, 0, &n));
    must_be(EVBUS_INVALID, evbus_receipts_take(bus, 0, &r, 0, 0, &n));
    must_be(EVBUS_INVALID, evbus_receipts_take(bus, 0, &r, 1, 0, NULL));
    must_be(EVBUS_INVALID, evbus_receipts_fd(NULL, 0, &fd));
    must_be(EVBUS_INVALID, evbus_receipts_fd(bus, 0, NULL));
    must_be(EVBUS_NOT_REGISTERED, evbus_receipts_fd(bus, 1, &fd));
    must_be(EVBUS_INVALID, evbus_tenant_register(NULL, 1, NULL));
    must_be(EVBUS_INVALID, evbus_tenant_unregister(NULL, 1));
    must_be(EVBUS_INVALID, evbus_tenant_list(bus, NULL, 1, &n));
    must_be(EVBUS_INVALID, evbus_tenant_list(bus, &one, 1, NULL));
    must_be(EVBUS_INVALID, evbus_tenant_list(bus, &one, 1, &n));
    must_mention("struct_size");
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_receipts_take(bus, 0, &r, 1, EVBUS_FOREVER, &n)); /* receipts were never used */
    must_be(EVBUS_CLOSED, evbus_receipts_fd(bus, 0, &fd));
    assert_int_equal(n, 77);
    assert_int_equal(fd, 77);
    suite_close(s, bus);
}

const struct suite_case suite_tenant_cases[] = {
    SUITE_CASE(test_tenant_receipts_say_what_became_of_a_publish),
    SUITE_CASE(test_tenant_receipts_are_switched_per_publish),
    SUITE_CASE(test_tenant_receipts_tell_a_refusal),
    SUITE_CASE(test_tenant_receipts_keep_long_ids),
    SUITE_CASE(test_tenant_descriptor_is_readable_while_receipts_wait),
    SUITE_CASE(test_tenant_queues_are_apart),
    SUITE_CASE(test_tenant_without_receipts_needs_no_queue),
    SUITE_CASE(test_tenant_registering_has_its_rules),
    SUITE_CASE(test_tenant_that_does_not_take_holds_up_nobody_else),
    SUITE_CASE(test_tenant_publish_waits_until_one_is_taken),
    SUITE_CASE(test_tenant_unregistered_while_a_publish_waits),
    SUITE_CASE(test_tenant_publish_waits_while_the_bus_ends),
    SUITE_CASE(test_tenant_unregistered_gets_what_is_outstanding),
    SUITE_CASE(test_tenant_waiting_take_learns_of_the_end),
    SUITE_CASE(test_tenant_calls_refuse_wrong_arguments),
    {NULL, NULL, false},
};
