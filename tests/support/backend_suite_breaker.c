/* SPDX-License-Identifier: Apache-2.0 */
/* The circuit breaker of a subscription: handlers that fail one after the other are left alone for a while. */
#include "backend_suite_case.h"

#define QUICK .retry_min_ms = 2, .retry_max_ms = 20, .attempts_max = EVBUS_FOREVER
#define PATIENCE 20000

/* What the handlers need: while it is away they fail. */
struct need {
    atomic_bool there;
    evbus_verdict otherwise; /* when it is not */
};

static evbus_verdict by_need(const evbus_msg *msg, void *arg)
{
    struct need *need = arg;

    (void)msg;
    return atomic_load(&need->there) ? EVBUS_ACK : need->otherwise;
}

static struct need *need_of(struct suite *s, struct tally *t)
{
    struct need *need = suite_alloc(s, sizeof *need);

    need->otherwise = EVBUS_RETRY;
    t->decide = by_need;
    t->arg = need;
    return need;
}

struct state_of {
    evbus_sub *sub;
    evbus_breaker_state state;
};

static bool is_in_state(void *arg)
{
    const struct state_of *want = arg;

    return evbus_sub_breaker(want->sub) == want->state;
}

static void must_become(struct suite *s, evbus_sub *sub, evbus_breaker_state state)
{
    struct state_of want = {sub, state};

    assert_true(suite_pass_until(s, is_in_state, &want, PATIENCE));
}

/* Runs that fail one after the other open it: then nothing runs but one message after each pause, told once, seen in health
 * and statistics. One that gets through closes it; all are handled then, in order, and the broker delivered none again. */
static void test_breaker_opens_tries_and_closes(void **state)
{
    enum { OPEN_MS = 1000 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct need *need = need_of(s, t);
    evbus *bus = suite_open(s, NULL);
    evbus_health_report health = {.struct_size = sizeof health};

    evbus_sub *sub = suite_sub(bus, topic, t,
                               EVBUS_OPTS(evbus_sub_opts, .group = "g", .breaker_failures = 3,
                                          .breaker_open_ms = OPEN_MS, .ack_wait_ms = 1000, QUICK));
    assert_int_equal(evbus_sub_breaker(sub), EVBUS_BREAKER_CLOSED);
    suite_publish_many(bus, topic, "a", 10, 1, 3);
    must_become(s, sub, EVBUS_BREAKER_OPEN);
    const struct suite_event event = suite_event(s, EVBUS_EVENT_BREAKER_OPEN, 0);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.group, "g");
    assert_int_equal(event.count, 3);
    must_reach(bus, handlers_running, 0);
    must(evbus_health(bus, 0, &health));
    assert_true(health.reasons & EVBUS_HEALTH_BREAKER_OPEN);
    assert_true(health.ready && !health.end_to_end);
    assert_int_equal(suite_stats_of(bus).breakers_open, 1);
    const size_t before = tally_read(t, &t->started);
    const int64_t began = suite_now_ns(s);
    assert_true(
        suite_pass_until_count(s, t, &t->started, before + 2, PATIENCE)); /* virtual time may run ahead of threads */
    const size_t tries = tally_read(t, &t->started) - before;
    assert_in_range(tries, 2, (suite_now_ns(s) - began) / (OPEN_MS * INT64_C(1000000)) + 1);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_BREAKER_OPEN), 1);
    atomic_store(&need->there, true);
    assert_true(suite_pass_until_count(s, t, &t->acked, 30, PATIENCE));
    assert_string_equal(suite_event(s, EVBUS_EVENT_BREAKER_CLOSED, 0).topic, topic);
    assert_int_equal(evbus_sub_breaker(sub), EVBUS_BREAKER_CLOSED);
    must(evbus_health(bus, 0, &health));
    assert_true(health.end_to_end);
    const evbus_statistics stats = suite_stats_of(bus);
    assert_int_equal(stats.breaker_opens, 1);
    assert_int_equal(stats.breakers_open, 0);
    assert_int_equal(stats.redelivered, 0);
    suite_close(s, bus);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_BREAKER_CLOSED), 1);
    tally_check_order(t);
    tally_check_complete(t, 10, 3);
}

/* Failures with answers in between do not open it, and a reject is an answer. */
static void test_breaker_counts_failures_in_a_row(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *others = suite_topic(s, "others");
    struct tally *t = suite_tally(s), *rejecting = suite_tally(s);
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    struct need *need = need_of(s, rejecting);
    evbus *bus = suite_open(s, NULL);

    need->otherwise = EVBUS_REJECT;
    plan[0].aggregate = NULL;
    plan[0].times = 1; /* each fails once, then it is handled */
    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .breaker_failures = 2, QUICK));
    (void)suite_sub(bus, others, rejecting, EVBUS_OPTS(evbus_sub_opts, .breaker_failures = 1));
    suite_publish_many(bus, topic, "a", 1, 1, 10);
    suite_publish_many(bus, others, "a", 1, 1, 10);
    assert_true(tally_await(t, &t->acked, 10));
    assert_true(tally_await(rejecting, &rejecting->rejected, 10));
    must_reach(bus, dead_lettered, 10);
    assert_int_equal(tally_read(t, &t->retried), 10);
    assert_int_equal(suite_stats_of(bus).breaker_opens, 0);
    suite_close(s, bus);
}

/* While it is open, nothing more is pulled, and another subscription of the bus goes on. */
static void test_breaker_is_the_subscriptions_own(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *bad = suite_tally(s), *good = suite_tally(s);
    struct need *need = need_of(s, bad);
    evbus *bus = suite_open(s, NULL);

    evbus_sub *sub = suite_sub(bus, topic, bad,
                               EVBUS_OPTS(evbus_sub_opts, .group = "bad", .breaker_failures = 1,
                                          .breaker_open_ms = 3600000, .inflight_max = 1, QUICK));
    (void)suite_sub(bus, topic, good, EVBUS_OPTS(evbus_sub_opts, .group = "good"));
    suite_publish(bus, topic, "a", 1);
    must_become(s, sub, EVBUS_BREAKER_OPEN);
    suite_publish_many(bus, topic, "b", 10, 1, 3);
    assert_true(suite_pass_until_count(s, good, &good->acked, 31, PATIENCE));
    assert_int_equal(tally_read(bad, &bad->started), 1);
    must_reach(bus, held, 1);     /* the other's acks may still be on their way to the loop */
    must(evbus_unsubscribe(sub)); /* what it has goes to the next one, whose breaker is its own */
    assert_int_equal(suite_stats_of(bus).breakers_open, 0);
    atomic_store(&need->there, true);
    (void)suite_sub(bus, topic, bad, EVBUS_OPTS(evbus_sub_opts, .group = "bad", .breaker_failures = 1));
    assert_true(suite_pass_until_count(s, bad, &bad->acked, 31, PATIENCE));
    suite_close(s, bus);
    tally_check_order(bad);
}

/* The first two runs: one fails, one hangs at the gate. */
struct hanging {
    struct gate *gate;
    _Atomic(uint32_t) runs;
};

static evbus_verdict fail_then_hang(const evbus_msg *msg, void *arg)
{
    struct hanging *h = arg;
    const uint32_t run = atomic_fetch_add(&h->runs, 1);

    return run == 0 ? EVBUS_RETRY : run == 1 ? suite_at_gate(msg, h->gate) : EVBUS_ACK;
}

/* One that hangs does not keep it half open for ever: overdue is a failure, and another one tries. */
static void test_breaker_does_not_wait_for_one_that_hangs(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct hanging *h = suite_alloc(s, sizeof *h);
    evbus *bus = suite_open(s, NULL);

    h->gate = suite_gate(s);
    t->decide = fail_then_hang;
    t->arg = h;
    evbus_sub *sub = suite_sub(bus, topic, t,
                               EVBUS_OPTS(evbus_sub_opts, .breaker_failures = 1, .breaker_open_ms = 200,
                                          .handler_timeout_ms = 500, .inflight_max = 8, QUICK));
    suite_publish(bus, topic, "a", 1);
    must_become(s, sub, EVBUS_BREAKER_HALF_OPEN);
    assert_true(gate_await_inside(h->gate, 1));
    suite_publish(bus, topic, "b", 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 1, PATIENCE));
    must_become(s, sub, EVBUS_BREAKER_CLOSED);
    assert_int_equal(suite_stats_of(bus).handlers_overdue, 1);
    gate_open(h->gate);
    assert_true(suite_pass_until_count(s, t, &t->acked, 2, PATIENCE));
    suite_close(s, bus);
}

static void test_breaker_misuse(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

#define REFUSED(...)                                                                                                   \
    must_be(EVBUS_INVALID,                                                                                             \
            evbus_subscribe_envelope(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, __VA_ARGS__), NULL))
    REFUSED(.breaker_open_ms = 100);
    must_mention("without breaker_failures");
    REFUSED(.breaker_failures = 1000001);
    must_mention("breaker_failures");
    REFUSED(.breaker_failures = 1, .breaker_open_ms = 9);
    must_mention("breaker_open_ms");
    REFUSED(.breaker_failures = 1, .breaker_open_ms = EVBUS_FOREVER);
#undef REFUSED
    must_be(EVBUS_UNSUPPORTED,
            evbus_subscribe(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .breaker_failures = 1), NULL));
    assert_int_equal(evbus_sub_breaker(NULL), EVBUS_BREAKER_CLOSED);
    suite_close(s, bus);
}

const struct suite_case suite_breaker_cases[] = {
    SUITE_TIMED(test_breaker_opens_tries_and_closes),
    SUITE_CASE(test_breaker_counts_failures_in_a_row),
    SUITE_TIMED(test_breaker_is_the_subscriptions_own),
    SUITE_TIMED(test_breaker_does_not_wait_for_one_that_hangs),
    SUITE_CASE(test_breaker_misuse),
    {NULL, NULL, false},
};
