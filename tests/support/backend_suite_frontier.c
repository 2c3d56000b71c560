/* SPDX-License-Identifier: Apache-2.0 */
/* Frontier acks: one ack for all up to the last message before which every one is done. */
#include "backend_suite_case.h"

static evbus_verdict acknowledge(const evbus_msg *msg, void *ctx)
{
    (void)msg, (void)ctx;
    return EVBUS_ACK;
}

struct unsettled {
    evbus *bus;
    const char *topic;
    uint64_t ack_pending, want;
};

static bool take_lag(const evbus_lag *lag, void *ctx)
{
    ((struct unsettled *)ctx)->ack_pending += lag->ack_pending;
    return true;
}

static bool holds_so_many(void *arg)
{
    struct unsettled *u = arg;

    u->ack_pending = 0;
    return evbus_lags(u->bus, EVBUS_OPTS(evbus_lag_opts, .topic = u->topic), take_lag, u) == EVBUS_OK &&
           u->ack_pending == u->want;
}

static void must_leave_unsettled(struct suite *s, evbus *bus, const char *topic, uint64_t want)
{
    struct unsettled u = {.bus = bus, .topic = topic, .want = want};

    if (!suite_pass_until(s, holds_so_many, &u, 10000))
        fail_msg("the broker holds %" PRIu64 " as delivered and not settled, expected are %" PRIu64, u.ack_pending,
                 want);
}

static void test_frontier_is_refused_where_others_could_have_what_is_below(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_sub_opts o = {.struct_size = sizeof o, .group = "g", .ack_mode = EVBUS_ACK_FRONTIER};

    must_be(EVBUS_UNSUPPORTED, evbus_subscribe(bus, topic, acknowledge, NULL, &o, NULL));
    must_mention("ack_mode");
    o.membership = EVBUS_SHARED;
    must_be(EVBUS_UNSUPPORTED, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
    must_mention("EXCLUSIVE");
    o.membership = 0;
    o.group = NULL;
    o.fanout = true;
    must_be(EVBUS_UNSUPPORTED, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
    o.fanout = false;
    o.group = "g";
    o.on_unhandled = EVBUS_UNHANDLED_ACK;
    must_be(EVBUS_UNSUPPORTED, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
    o.on_unhandled = 0;
    o.ack_mode = 3;
    must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
    must_mention("ack_mode");
    suite_close(s, bus);
}

/* The durable is made for one of the two. */
static void test_frontier_durable_does_not_fit_the_other_mode(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_sub_opts each = {.struct_size = sizeof each, .group = "g", .ack_mode = EVBUS_ACK_EACH};
    evbus_sub_opts frontier = {.struct_size = sizeof frontier, .group = "g", .ack_mode = EVBUS_ACK_FRONTIER};

    evbus_sub *sub = suite_sub(bus, topic, t, &frontier);
    must(evbus_unsubscribe(sub));
    must_be(EVBUS_MISMATCH, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &each, NULL));
    must_mention("ack policy");
    each.group = frontier.group = "h";
    sub = suite_sub(bus, topic, t, &each);
    must(evbus_unsubscribe(sub));
    must_be(EVBUS_MISMATCH, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &frontier, NULL));
    must_mention("ack policy");
    suite_close(s, bus);
}

/* What is done behind one that is not stays unsettled at the broker, up to the window; an event tells. */
static void test_frontier_waits_for_a_handler_that_does_not_return(void **state)
{
    enum { WINDOW = 8 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *slow = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open(s, NULL);

    slow->decide = suite_at_gate;
    slow->arg = gate;
    evbus_sub *sub =
        suite_sub(bus, topic, slow, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 1, .ack_mode = EVBUS_ACK_FRONTIER));
    suite_publish(bus, topic, "slow", 1);
    assert_true(gate_await_inside(gate, 1));
    must_leave_unsettled(s, bus, topic, 1);
    gate_open(gate);
    must(evbus_unsubscribe(sub));
    must_leave_unsettled(s, bus, topic, 0);

    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    *plan = (struct suite_plan){.aggregate = "bad", .times = UINT32_MAX};
    t->decide = suite_by_plan;
    t->arg = plan;
    sub = suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .inflight_max = WINDOW, .attempts_max = EVBUS_FOREVER, .retry_min_ms = 5,
                               .retry_max_ms = 10, .ack_mode = EVBUS_ACK_FRONTIER));
    suite_publish_many(bus, topic, "a", 3, 1, 1);
    suite_publish(bus, topic, "bad", 1);
    suite_publish_many(bus, topic, "b", 20, 1, 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 3 + WINDOW - 1, 20000));
    suite_pass(s, 5000);
    assert_int_equal(suite_event(s, EVBUS_EVENT_STALLED, 0).count, WINDOW);
    assert_string_equal(suite_event(s, EVBUS_EVENT_STALLED, 0).topic, topic);
    assert_int_equal(tally_read(t, &t->acked), 3 + WINDOW - 1);
    must_leave_unsettled(s, bus, topic, WINDOW);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_STALLED), 1);
    atomic_store(&plan->over, true);
    assert_true(suite_pass_until_count(s, t, &t->acked, 24, 20000));
    must_leave_unsettled(s, bus, topic, 0);
    assert_int_equal(suite_stats_of(bus).redelivered, 0);
    suite_close(s, bus);
    tally_check_order(t);
}

/* A dead letter is stored, then its message is done. */
static void test_frontier_goes_past_a_dead_letter(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);

    *plan = (struct suite_plan){.aggregate = "a0", .version = 1, .times = UINT32_MAX};
    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .attempts_max = 2, .retry_min_ms = 5, .ack_mode = EVBUS_ACK_FRONTIER));
    suite_publish_many(bus, topic, "a", 5, 1, 4);
    assert_true(suite_pass_until_count(s, t, &t->acked, 19, 20000));
    assert_true(suite_pass_until_count(s, letters, &letters->acked, 1, 20000));
    must_leave_unsettled(s, bus, topic, 0);
    suite_close(s, bus);
    tally_check_order(t);
}

/* Who ends handles what stands before something that is done; the next one repeats nothing. */
static void test_frontier_ends_where_all_before_is_done(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *one = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .workers_min = 2, .workers_max = 2));
    evbus *two = suite_open_shared(s, NULL);
    const evbus_sub_opts o = {.struct_size = sizeof o, .ack_mode = EVBUS_ACK_FRONTIER};

    t->decide = suite_at_gate;
    t->arg = gate;
    evbus_sub *sub = suite_sub(one, topic, t, &o);
    suite_publish_many(two, topic, "a", 10, 1, 6);
    must_reach(one, held, 60);
    assert_true(gate_await_inside(gate, 2));
    gate_open(gate);
    must(evbus_unsubscribe(sub));
    const size_t done = tally_read(t, &t->acked);
    assert_int_equal(suite_stats_of(one).handed_back, 60 - done);
    (void)suite_sub(two, topic, rest, &o);
    assert_true(tally_await(rest, &rest->acked, 60 - done));
    must_leave_unsettled(s, two, topic, 0);
    suite_close(s, two);
    suite_close(s, one);
    assert_int_equal(t->started + rest->started, 60);
    tally_check_order(t);
    tally_check_order(rest);
}

/* What the member before had in a larger window comes whole, although it is more than the window. */
static void test_frontier_takes_over_from_a_larger_window(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 2, .workers_max = 2));

    t->decide = suite_at_gate;
    t->arg = gate;
    evbus_sub *sub = suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .ack_mode = EVBUS_ACK_FRONTIER));
    suite_publish_many(bus, topic, "a", 4, 1, 20);
    must_reach(bus, held, 80);
    gate_open(gate);
    must(evbus_unsubscribe(sub));
    const size_t done = tally_read(t, &t->acked);
    (void)suite_sub(bus, topic, rest, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 2, .ack_mode = EVBUS_ACK_FRONTIER));
    assert_true(suite_pass_until_count(s, rest, &rest->acked, 80 - done, 20000));
    suite_publish_many(bus, topic, "a", 4, 21, 30);
    assert_true(suite_pass_until_count(s, rest, &rest->acked, 120 - done, 20000));
    must_leave_unsettled(s, bus, topic, 0);
    suite_close(s, bus);
    tally_check_order(rest);
}

const struct suite_case suite_frontier_cases[] = {
    SUITE_CASE(test_frontier_is_refused_where_others_could_have_what_is_below),
    SUITE_CASE(test_frontier_durable_does_not_fit_the_other_mode),
    SUITE_TIMED(test_frontier_waits_for_a_handler_that_does_not_return),
    SUITE_TIMED(test_frontier_goes_past_a_dead_letter),
    SUITE_CASE(test_frontier_ends_where_all_before_is_done),
    SUITE_TIMED(test_frontier_takes_over_from_a_larger_window),
    {NULL, NULL, false},
};
