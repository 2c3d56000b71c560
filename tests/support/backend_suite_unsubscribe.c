/* SPDX-License-Identifier: Apache-2.0 */
/* Ending a subscription: no handler runs after it, nothing pulled is lost, the durable stays. */
#include "backend_suite_case.h"

#include "core/sub.h"

struct stream_of {
    evbus *bus;
    const char *topic;
    atomic_bool stop;
    atomic_uint published;
    bool plain;
};

static void publish_on_and_on(void *arg)
{
    struct stream_of *p = arg;
    char aggregate[32];

    for (unsigned n = 0; !atomic_load(&p->stop); n++) {
        (void)snprintf(aggregate, sizeof aggregate, "a%u", n % 17);
        const evbus_envelope env = suite_envelope_of(aggregate, n / 17 + 1);
        const evbus_status st = p->plain ? evbus_publish(p->bus, p->topic, "x", 1, NULL)
                                         : evbus_publish_envelope_wait(p->bus, p->topic, &env, NULL, NULL);
        thread_must(st == EVBUS_OK);
        atomic_fetch_add(&p->published, 1);
    }
}

/* While messages keep coming, a subscription ends: once evbus_unsubscribe has returned its handler never runs again. */
static void no_handler_after(struct suite *s, bool plain)
{
    struct stream_of *p = suite_alloc(s, sizeof *p);
    struct tally *t = suite_tally(s), *witness = suite_tally(s);

    p->bus = suite_open(s, NULL);
    p->topic = suite_topic(s, "orders");
    p->plain = plain;
    (void)suite_sub_plain(p->bus, p->topic, witness, EVBUS_OPTS(evbus_sub_opts, .group = "witness"));
    struct suite_background *publisher = suite_background(s, publish_on_and_on, p, &p->stop);
    for (size_t round = 1; round <= 10; round++) {
        evbus_sub *sub = plain ? suite_sub_plain(p->bus, p->topic, t, NULL) : suite_sub(p->bus, p->topic, t, NULL);
        assert_true(tally_await(t, &t->started, tally_read(t, &t->started) + 5));
        must(evbus_unsubscribe(sub));
        const size_t started = tally_read(t, &t->started), ended = tally_read(t, &t->ended);
        assert_int_equal(started, ended);
        const size_t seen = tally_read(witness, &witness->acked);
        assert_true(tally_await(witness, &witness->acked, seen + 5));
        assert_int_equal(tally_read(t, &t->started), started);
    }
    suite_background_join(publisher);
    assert_int_equal(suite_stats_of(p->bus).subscriptions, 1);
    suite_close(s, p->bus);
}

/* No envelope handler runs after evbus_unsubscribe has returned, and the next member goes on without loss. */
static void test_unsubscribe_ends_envelope_handlers(void **state)
{
    no_handler_after(*state, false);
}

/* The same for plain subscriptions. */
static void test_unsubscribe_ends_plain_handlers(void **state)
{
    no_handler_after(*state, true);
}

struct settling {
    struct stream_of *p;
    uint64_t unsettled, before;
};

static bool add_unsettled(const evbus_lag *lag, void *arg)
{
    ((struct settling *)arg)->unsettled += lag->pending + lag->ack_pending;
    return true;
}

static bool more_are_settled(void *arg)
{
    struct settling *g = arg;
    const uint64_t published = atomic_load(&g->p->published); /* before it is asked: it errs on the side of fewer */

    g->unsettled = 0;
    return evbus_lags(g->p->bus, EVBUS_OPTS(evbus_lag_opts, .topic = g->p->topic), add_unsettled, g) == EVBUS_OK &&
           published > g->unsettled + g->before;
}

/* With frontier acks it is known what the broker holds a round trip after the first delivery. Who ends before that has acked
 * nothing, and what it did comes again (ADR 15). */
static void must_be_certain(struct suite *s, struct stream_of *p, size_t before)
{
    struct settling g = {.p = p, .before = before};

    if (suite_frontier)
        assert_true(suite_pass_until(s, more_are_settled, &g, 20000));
}

/* Ten subscriptions of one group, one after the other, while messages keep coming: together they handle everything, in
 * order, and nothing twice. */
static void test_unsubscribe_and_resubscribe_lose_nothing(void **state)
{
    struct suite *s = *state;
    struct stream_of *p = suite_alloc(s, sizeof *p);
    struct tally *t = suite_tally(s);

    p->bus = suite_open(s, NULL);
    p->topic = suite_topic(s, "orders");
    struct suite_background *publisher = suite_background(s, publish_on_and_on, p, &p->stop);
    for (size_t round = 1; round <= 10; round++) {
        const size_t before = tally_read(t, &t->ended);
        evbus_sub *sub = suite_sub(p->bus, p->topic, t, NULL);
        assert_true(tally_await(t, &t->started, before + 20));
        must_be_certain(s, p, before);
        must(evbus_unsubscribe(sub));
    }
    suite_background_join(publisher);
    (void)suite_sub(p->bus, p->topic, t, NULL);
    assert_true(tally_await(t, &t->acked, atomic_load(&p->published)));
    suite_close(s, p->bus);
    assert_int_equal(t->acked, atomic_load(&p->published));
    assert_int_equal(t->started, t->acked);
    tally_check_order(t);
}

/* What was pulled and not started is handed back: a subscriber on another bus gets it, in order. */
static void test_unsubscribe_hands_back_what_was_not_started(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    evbus *one = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .workers_min = 2, .workers_max = 2));
    evbus *two = suite_open_shared(s, NULL);

    t->decide = suite_at_gate;
    t->arg = gate;
    evbus_sub *sub = suite_sub(one, topic, t, NULL);
    suite_publish_many(two, topic, "a", 10, 1, 3);
    must_reach(one, held, 30);
    assert_true(gate_await_inside(gate, 2));
    gate_open(gate);
    must(evbus_unsubscribe(sub));
    const size_t done = tally_read(t, &t->acked);
    assert_int_equal(done, tally_read(t, &t->started));
    assert_int_equal(suite_stats_of(one).handed_back, 30 - done);
    must_reach(one, held, 0);
    (void)suite_sub(two, topic, rest, NULL);
    assert_true(tally_await(rest, &rest->acked, 30 - done));
    suite_close(s, two);
    suite_close(s, one);
    assert_int_equal(rest->started, 30 - done);
    tally_check_order(t);
    tally_check_order(rest);
}

/* With on_unhandled = ACK it is acknowledged instead, counted and said once; only what has failed is handed back. */
static void test_unsubscribe_acknowledges_what_nobody_handles(void **state)
{
    static struct suite_plan plan[] = {{.version = 1, .times = UINT32_MAX}, {.times = 0}};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    evbus_sub *sub = suite_sub(bus, topic, t,
                               EVBUS_OPTS(evbus_sub_opts, .retry_min_ms = 3600000, .on_unhandled = EVBUS_UNHANDLED_ACK,
                                          .ack_mode = EVBUS_ACK_EACH));
    suite_publish_many(bus, topic, "a", 1, 1, 5);
    must_reach(bus, retried, 1);
    must_reach(bus, held, 5);
    must(evbus_unsubscribe(sub));
    assert_int_equal(suite_stats_of(bus).handed_back, 1);
    assert_int_equal(suite_stats_of(bus).unhandled, 4);
    assert_int_equal(suite_event(s, EVBUS_EVENT_UNHANDLED, 0).count, 4);
    (void)suite_sub(bus, topic, rest, EVBUS_OPTS(evbus_sub_opts, .ack_mode = EVBUS_ACK_EACH));
    suite_publish_many(bus, topic, "a", 1, 6, 6);
    assert_true(tally_await(rest, &rest->acked, 2));
    suite_close(s, bus);
    assert_int_equal(rest->started, 2);
    assert_int_equal(tally_at(rest, 0)->version, 1);
    assert_int_equal(tally_at(rest, 1)->version, 6);
}

/* It needs a handler that messages can wait for. */
static void test_unsubscribe_acknowledges_only_a_groups_envelopes(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);

    assert_int_equal(evbus_subscribe(bus, topic, tally_handle, suite_tally(s),
                                     EVBUS_OPTS(evbus_sub_opts, .on_unhandled = EVBUS_UNHANDLED_ACK), NULL),
                     EVBUS_UNSUPPORTED);
    assert_int_equal(
        evbus_subscribe_envelope(bus, topic, tally_handle, suite_tally(s),
                                 EVBUS_OPTS(evbus_sub_opts, .fanout = true, .on_unhandled = EVBUS_UNHANDLED_ACK), NULL),
        EVBUS_UNSUPPORTED);
    suite_close(s, bus);
}

struct ender {
    evbus_sub *sub;
    evbus_status status;
    atomic_bool returned;
};

static void unsubscribe_thread(void *arg)
{
    struct ender *e = arg;

    e->status = evbus_unsubscribe(e->sub);
    atomic_store(&e->returned, true);
}

static bool is_ending(void *arg)
{
    const struct ender *e = arg;

    pthread_mutex_lock(&e->sub->bus->mutex);
    const bool ending = e->sub->unsubscribed;
    pthread_mutex_unlock(&e->sub->bus->mutex);
    return ending;
}

/* Returns when it has begun, and had the time to end. */
static struct suite_background *unsubscribe_meanwhile(struct suite *s, struct ender *e)
{
    struct suite_background *ending = suite_background(s, unsubscribe_thread, e, NULL);

    assert_true(wait_until(is_ending, e, wait_patience_ms()));
    wait_out(50);
    return ending;
}

/* It waits for the handlers that run. */
static void test_unsubscribe_waits_for_running_handlers(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    struct ender *e = suite_alloc(s, sizeof *e);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_at_gate;
    t->arg = gate;
    e->sub = suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(gate_await_inside(gate, 1));
    struct suite_background *ending = unsubscribe_meanwhile(s, e);
    assert_false(atomic_load(&e->returned));
    gate_open(gate);
    suite_background_join(ending);
    must(e->status);
    assert_int_equal(tally_read(t, &t->acked), 1);
    must_reach(bus, handled, 1);
    suite_close(s, bus);
}

static evbus_verdict keep_and_defer(const evbus_msg *msg, void *arg)
{
    atomic_store((const evbus_msg *_Atomic *)arg, msg);
    return EVBUS_DEFER;
}

/* And for deferred messages that must still be settled. */
static void test_unsubscribe_waits_for_deferred_messages(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    const evbus_msg *_Atomic *kept = suite_alloc(s, sizeof *kept);
    struct tally *t = suite_tally(s);
    struct ender *e = suite_alloc(s, sizeof *e);
    evbus *bus = suite_open(s, NULL);

    t->decide = keep_and_defer;
    t->arg = (void *)kept;
    e->sub = suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(tally_await(t, &t->deferred, 1));
    struct suite_background *ending = unsubscribe_meanwhile(s, e);
    assert_false(atomic_load(&e->returned));
    must(tally_settle(t, atomic_load(kept), EVBUS_ACK));
    suite_background_join(ending);
    must(e->status);
    assert_int_equal(suite_stats_of(bus).handled, 1);
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
}

struct inside {
    evbus_sub *_Atomic sub;
    struct gate *ready;
    atomic_int status;
};

static evbus_verdict unsubscribe_itself(const evbus_msg *msg, void *arg)
{
    struct inside *in = arg;

    (void)msg;
    gate_pass(in->ready);
    evbus_sub *sub = atomic_exchange(&in->sub, NULL);
    if (sub)
        atomic_store(&in->status, evbus_unsubscribe(sub));
    return EVBUS_ACK;
}

/* Inside its own handler it takes effect when that returns: the rest is handed back, and the group may be joined again. */
static void test_unsubscribe_inside_the_handler(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    struct inside *in = suite_alloc(s, sizeof *in);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));

    in->ready = suite_gate(s);
    atomic_store(&in->status, -1);
    t->decide = unsubscribe_itself;
    t->arg = in;
    atomic_store(&in->sub, suite_sub(bus, topic, t, NULL));
    suite_publish_many(bus, topic, "a", 1, 1, 10);
    must_reach(bus, held, 10);
    gate_open(in->ready);
    must_reach(bus, subscriptions, 0);
    assert_int_equal(atomic_load(&in->status), EVBUS_OK);
    assert_int_equal(tally_read(t, &t->acked), 1);
    (void)suite_sub(bus, topic, rest, NULL);
    assert_true(tally_await(rest, &rest->acked, 9));
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
    assert_int_equal(rest->started, 9);
    assert_int_equal(tally_at(rest, 0)->version, 2);
    tally_check_order(rest);
}

/* While a head pauses before its retry the subscription ends at once; the next subscriber runs it, and then the rest. */
static void test_unsubscribe_during_a_pause(void **state)
{
    static struct suite_plan plan[] = {{.version = 1, .times = UINT32_MAX}, {.times = 0}};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    evbus_sub *sub = suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .retry_min_ms = 3600000));
    suite_publish_many(bus, topic, "a", 1, 1, 5);
    must_reach(bus, retried, 1);
    must_reach(bus, held, 5);
    must(evbus_unsubscribe(sub));
    assert_int_equal(suite_stats_of(bus).handed_back, 5);
    (void)suite_sub(bus, topic, rest, NULL);
    assert_true(tally_await(rest, &rest->acked, 5));
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
    assert_true(tally_at(rest, 0)->redelivered);
    assert_int_equal(tally_at(rest, 0)->attempt, 1);
    tally_check_order(rest);
    tally_check_complete(rest, 1, 5);
}

struct last_run {
    struct gate *gate;
    uint32_t pause_ms;
};

static evbus_verdict fail_at_the_gate(const evbus_msg *msg, void *arg)
{
    const struct last_run *r = arg;

    gate_pass(r->gate);
    evbus_msg_retry_after(msg, r->pause_ms);
    return EVBUS_RETRY;
}

/* A handler that was running fails when the subscription has begun to end: nobody waits for its pause, and the next
 * subscriber gets it first and then what was behind it. */
static void test_unsubscribe_hands_back_a_failed_head_before_its_followers(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    struct last_run *r = suite_alloc(s, sizeof *r);
    struct ender *e = suite_alloc(s, sizeof *e);
    evbus *bus = suite_open(s, NULL);

    *r = (struct last_run){suite_gate(s), 3600000};
    t->decide = fail_at_the_gate;
    t->arg = r;
    e->sub = suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a0", 1);
    assert_true(gate_await_inside(r->gate, 1));
    suite_publish_many(bus, topic, "a", 1, 2, 20);
    must_reach(bus, held, 20);
    struct suite_background *ending = suite_background(s, unsubscribe_thread, e, NULL);
    wait_out(20);
    gate_open(r->gate);
    suite_background_join(ending);
    must(e->status);
    assert_int_equal(suite_stats_of(bus).handed_back, 20);
    (void)suite_sub(bus, topic, rest, NULL);
    assert_true(tally_await(rest, &rest->acked, 20));
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
    tally_check_order(rest);
    tally_check_complete(rest, 1, 20);
}

/* A plain or fan-out subscription ends without a trace; messages published meanwhile are another's. */
static void test_unsubscribe_of_fanout_forgets_everything(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *again = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_sub_opts *fanout = EVBUS_OPTS(evbus_sub_opts, .fanout = true);

    evbus_sub *sub = suite_sub(bus, topic, t, fanout);
    (void)suite_publish_wait(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    must(evbus_unsubscribe(sub));
    (void)suite_publish_wait(bus, topic, "a", 2);
    (void)suite_sub(bus, topic, again, fanout);
    (void)suite_publish_wait(bus, topic, "a", 3);
    assert_true(tally_await(again, &again->acked, 1));
    suite_close(s, bus);
    assert_int_equal(tally_at(again, 0)->version, 3);
    assert_int_equal(t->started, 1);
}

/* NULL is an error; after shutdown the handle may still be given back. */
static void test_unsubscribe_of_nothing_and_after_the_end(void **state)
{
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_sub *sub = suite_sub(bus, suite_topic(s, "orders"), t, NULL);

    must_be(EVBUS_INVALID, evbus_unsubscribe(NULL));
    must(evbus_shutdown(bus, 0, NULL));
    must(evbus_unsubscribe(sub));
    suite_close(s, bus);
}

const struct suite_case suite_unsubscribe_cases[] = {
    SUITE_CASE(test_unsubscribe_ends_envelope_handlers),
    SUITE_CASE(test_unsubscribe_ends_plain_handlers),
    SUITE_CASE(test_unsubscribe_and_resubscribe_lose_nothing),
    SUITE_CASE(test_unsubscribe_hands_back_what_was_not_started),
    SUITE_CASE(test_unsubscribe_acknowledges_what_nobody_handles),
    SUITE_CASE(test_unsubscribe_acknowledges_only_a_groups_envelopes),
    SUITE_CASE(test_unsubscribe_waits_for_running_handlers),
    SUITE_CASE(test_unsubscribe_waits_for_deferred_messages),
    SUITE_CASE(test_unsubscribe_inside_the_handler),
    SUITE_CASE(test_unsubscribe_during_a_pause),
    SUITE_CASE(test_unsubscribe_hands_back_a_failed_head_before_its_followers),
    SUITE_CASE(test_unsubscribe_of_fanout_forgets_everything),
    SUITE_CASE(test_unsubscribe_of_nothing_and_after_the_end),
    {NULL, NULL, false},
};
