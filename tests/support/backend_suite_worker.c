/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: they grow while handlers block, end when they are idle, and never exceed their bounds. */
#include "backend_suite_case.h"

static evbus_verdict block_the_blocked(const evbus_msg *msg, void *gate)
{
    if (evbus_msg_envelope(msg)->aggregate_id[0] == 'b')
        gate_pass(gate);
    return EVBUS_ACK;
}

/* Three hundred blocked handlers stop nobody: the 301st aggregate is handled; the workers that grew for them go again. */
static void test_worker_count_grows_while_handlers_block_and_returns(void **state)
{
    enum { BLOCKED = 300 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 4, .worker_idle_ms = 50));

    t->decide = block_the_blocked;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, NULL);
    must_reach(bus, workers, 4);
    suite_publish_many(bus, topic, "b", BLOCKED, 1, 1);
    assert_true(gate_await_inside(gate, BLOCKED));
    must_reach(bus, handlers_running, BLOCKED);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_at(t, BLOCKED)->aggregate, "a");
    assert_in_range(suite_stats_of(bus).workers, BLOCKED + 1, 512);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, BLOCKED + 1));
    must_reach(bus, workers, 4);
    must_reach(bus, handlers_running, 0);
    suite_publish(bus, topic, "a", 2);
    assert_true(tally_await(t, &t->acked, BLOCKED + 2));
    suite_close(s, bus);
}

/* workers_max bounds them: no more handlers run at the same time, and the rest waits its turn. */
static void test_worker_count_is_bounded(void **state)
{
    enum { WORKERS = 6 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 2, .workers_max = WORKERS));

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "a", 30, 1, 1);
    assert_true(gate_await_inside(gate, WORKERS));
    assert_int_equal(suite_stats_of(bus).workers, WORKERS);
    wait_out(50);
    assert_int_equal(tally_read(t, &t->started), WORKERS);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 30));
    suite_close(s, bus);
    assert_int_equal(t->running_max, WORKERS);
}

/* One worker is enough for any number of aggregates. */
static void test_worker_alone_handles_everything(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));

    (void)suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "a", 100, 1, 10);
    assert_true(tally_await(t, &t->acked, 1000));
    suite_close(s, bus);
    assert_int_equal(t->running_max, 1);
    tally_check_order(t);
    tally_check_complete(t, 100, 10);
}

struct chain {
    evbus *bus;
    const char *next;
};

static evbus_verdict pass_on(const evbus_msg *msg, void *arg)
{
    const struct chain *c = arg;
    const evbus_envelope *in = evbus_msg_envelope(msg);
    evbus_envelope out = *in;

    out.event_id = NULL;
    return evbus_publish_envelope_wait(c->bus, c->next, &out, NULL, NULL) == EVBUS_OK ? EVBUS_ACK : EVBUS_RETRY;
}

/* Handlers that publish and wait for the outcome never wait for themselves, not even with a single worker. */
static void test_worker_may_publish_and_wait_in_a_handler(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *last = suite_tally(s);
    struct chain *c = suite_alloc(s, sizeof *c);

    c->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));
    c->next = suite_topic(s, "bills");
    t->decide = pass_on;
    t->arg = c;
    (void)suite_sub(c->bus, topic, t, NULL);
    (void)suite_sub(c->bus, c->next, last, NULL);
    suite_publish_many(c->bus, topic, "a", 10, 1, 5);
    assert_true(tally_await(last, &last->acked, 50));
    suite_close(s, c->bus);
    tally_check_complete(last, 10, 5);
}

const struct suite_case suite_worker_cases[] = {
    SUITE_CASE(test_worker_count_grows_while_handlers_block_and_returns),
    SUITE_CASE(test_worker_count_is_bounded),
    SUITE_CASE(test_worker_alone_handles_everything),
    SUITE_CASE(test_worker_may_publish_and_wait_in_a_handler),
    {NULL, NULL, false},
};
