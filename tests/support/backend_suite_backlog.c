/* SPDX-License-Identifier: Apache-2.0 */
/* Backlog: what waits for our durables and which of our publishes wait, told when it changes; and everybody's lag. */
#include "backend_suite_case.h"

struct heard {
    _Atomic(uint32_t) high, normal, others;
};

static void hear(const evbus_event *event, void *ctx)
{
    struct heard *h = ctx;

    atomic_fetch_add(event->kind == EVBUS_EVENT_BACKLOG_HIGH     ? &h->high
                     : event->kind == EVBUS_EVENT_BACKLOG_NORMAL ? &h->normal
                                                                 : &h->others,
                     1);
}

static bool heard_normal(void *arg)
{
    return atomic_load(&((struct heard *)arg)->normal) > 0;
}

struct look {
    evbus *bus;
    const char *topic;
    uint64_t msgs;
    bool high;
    evbus_backlog found;
};

static bool found_msgs(void *arg)
{
    struct look *l = arg;

    return evbus_backlog_read(l->bus, l->topic, "g", &l->found) == EVBUS_OK && l->found.msgs == l->msgs &&
           l->found.high == l->high && l->found.measured;
}

static void must_find(struct suite *s, struct look *l, uint64_t msgs, bool high)
{
    l->msgs = msgs;
    l->high = high;
    if (!suite_pass_until(s, found_msgs, l, 20000))
        fail_msg("%" PRIu64 " messages, %s; not %" PRIu64 ", %s", l->found.msgs, l->found.high ? "high" : "normal",
                 msgs, high ? "high" : "normal");
}

/* What waits grows past the high mark: told once. It shrinks below the low mark: told once, and not between. */
static void test_backlog_of_a_subscription_has_two_marks(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct gate *gate = suite_gate(s);
    struct heard *heard = suite_alloc(s, sizeof *heard);
    evbus *bus = suite_open(s, NULL);
    struct look l = {.bus = bus, .topic = topic};

    t->decide = suite_at_gate;
    t->arg = gate;
    evbus_sub *sub = suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g", .inflight_max = 4));
    must_be(EVBUS_NOT_FOUND, evbus_backlog_read(bus, topic, "g", &l.found));
    must(evbus_backlog_start(bus, EVBUS_BACKLOG_SUBSCRIBER,
                             EVBUS_OPTS(evbus_backlog_opts, .msgs_high = 10, .msgs_low = 3, .subscriber_look_ms = 20,
                                        .age_high_ms = 3600000, .on_change = hear, .on_change_ctx = heard)));
    must_find(s, &l, 0, false);
    assert_int_equal(l.found.drain_ms, 0);
    assert_int_equal(l.found.oldest_ms, 0);
    suite_publish_many(bus, topic, "a", 1, 1, 9);
    must_find(s, &l, 9, false);
    assert_int_equal(l.found.queued, 5); /* four are here */
    suite_pass(s, 1000);
    suite_publish(bus, topic, "a", 10);
    must_find(s, &l, 10, true);
    assert_true(l.found.oldest_ms >= 900);
    (void)suite_event(s, EVBUS_EVENT_BACKLOG_HIGH, 0);
    suite_pass(s, 500);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_BACKLOG_HIGH), 1);
    assert_string_equal(suite_event(s, EVBUS_EVENT_BACKLOG_HIGH, 0).topic, topic);
    assert_string_equal(suite_event(s, EVBUS_EVENT_BACKLOG_HIGH, 0).group, "g");
    gate_open(gate);
    assert_true(suite_pass_until_count(s, t, &t->acked, 10, 20000));
    must_find(s, &l, 0, false);
    assert_true(wait_until(heard_normal, heard, wait_patience_ms()));
    must(evbus_backlog_stop(bus, EVBUS_BACKLOG_SUBSCRIBER));
    assert_int_equal(atomic_load(&heard->high), 1);
    assert_int_equal(atomic_load(&heard->normal), 1);
    assert_int_equal(atomic_load(&heard->others), 0);
    must_be(EVBUS_NOT_FOUND, evbus_backlog_read(bus, topic, "g", &l.found));
    must(evbus_unsubscribe(sub));
    suite_close(s, bus);
}

/* One old message is a backlog as well. */
static void test_backlog_by_age(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open(s, NULL);
    struct look l = {.bus = bus, .topic = topic};

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    must(evbus_backlog_start(bus, EVBUS_BACKLOG_SUBSCRIBER,
                             EVBUS_OPTS(evbus_backlog_opts, .age_high_ms = 400, .subscriber_look_ms = 20)));
    suite_publish(bus, topic, "a", 1);
    must_find(s, &l, 1, true);
    assert_true(l.found.oldest_ms >= 400);
    gate_open(gate);
    must_find(s, &l, 0, false);
    suite_close(s, bus);
}

/* The publishers' side counts outcomes and their time; both sides can be watched and stopped together. */
static void test_backlog_of_publishes(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    struct look l = {.bus = bus, .topic = NULL};
    const uint32_t both = EVBUS_BACKLOG_SUBSCRIBER | EVBUS_BACKLOG_PUBLISHER;

    must(evbus_backlog_start(bus, both, EVBUS_OPTS(evbus_backlog_opts, .publisher_look_ms = 50)));
    must_be(EVBUS_EXISTS, evbus_backlog_start(bus, EVBUS_BACKLOG_PUBLISHER, NULL));
    must_find(s, &l, 0, false);
    for (int64_t version = 1; version <= 50; version++)
        (void)suite_publish_wait(bus, topic, "a", version);
    must_find(s, &l, 0, false);
    assert_true(l.found.latency_ms >= 0 && l.found.rate >= 0);
    must(evbus_backlog_stop(bus, both));
    must_be(EVBUS_NOT_FOUND, evbus_backlog_stop(bus, both));
    must(evbus_backlog_start(bus, EVBUS_BACKLOG_PUBLISHER, NULL));
    suite_close(s, bus);
}

/* Sides, marks and times have rules. */
static void test_backlog_misuse(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    evbus_backlog found;

    must_be(EVBUS_INVALID, evbus_backlog_start(bus, 0, NULL));
    must_be(EVBUS_INVALID, evbus_backlog_start(bus, 4, NULL));
    must_be(EVBUS_INVALID, evbus_backlog_stop(bus, 0));
    must_be(EVBUS_INVALID, evbus_backlog_start(bus, EVBUS_BACKLOG_SUBSCRIBER,
                                               EVBUS_OPTS(evbus_backlog_opts, .msgs_high = 1, .msgs_low = 2)));
    must_mention("msgs_low");
    must_be(EVBUS_INVALID, evbus_backlog_start(bus, EVBUS_BACKLOG_SUBSCRIBER,
                                               EVBUS_OPTS(evbus_backlog_opts, .subscriber_look_ms = 1)));
    must_mention("look_ms");
    must_be(EVBUS_INVALID, evbus_backlog_read(bus, NULL, NULL, NULL));
    must_be(EVBUS_NOT_FOUND, evbus_backlog_read(bus, "nothing", NULL, &found));
    must_be(EVBUS_INVALID, evbus_lags(bus, NULL, NULL, NULL));
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_backlog_start(bus, EVBUS_BACKLOG_PUBLISHER, NULL));
    suite_close(s, bus);
}

struct lags {
    size_t count;
    uint64_t pending, ack_pending;
    char group[72], topic[256];
    bool durable, aged;
};

static bool add_lag(const evbus_lag *lag, void *ctx)
{
    struct lags *l = ctx;

    l->count++;
    l->pending += lag->pending;
    l->ack_pending += lag->ack_pending;
    l->durable = lag->durable;
    l->aged = lag->oldest_ns > 0;
    (void)snprintf(l->group, sizeof l->group, "%s", lag->group);
    (void)snprintf(l->topic, sizeof l->topic, "%s", lag->topic);
    return true;
}

struct lag_of {
    evbus *bus;
    const char *topic, *group;
    uint64_t pending, ack_pending;
    struct lags found;
};

static bool lag_is(void *arg)
{
    struct lag_of *l = arg;

    memset(&l->found, 0, sizeof l->found);
    must(evbus_lags(l->bus, EVBUS_OPTS(evbus_lag_opts, .topic = l->topic, .group = l->group), add_lag, &l->found));
    return l->found.count == 1 && l->found.pending == l->pending && l->found.ack_pending == l->ack_pending;
}

/* Everybody's consumers with their groups: how much waits, how much is under way, how old; by topic and by group. */
static void test_backlog_lags_of_all_groups(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *done = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open_shared(s, NULL), *other = suite_open_shared(s, NULL);
    struct lag_of slow = {other, topic, "slow-group_1", 7, 3, {0}}, quick = {other, topic, "quick", 0, 0, {0}};
    struct lags all = {0};

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "slow-group_1", .inflight_max = 3));
    (void)suite_sub(bus, topic, done, EVBUS_OPTS(evbus_sub_opts, .group = "quick"));
    suite_publish_many(bus, topic, "a", 10, 1, 1);
    assert_true(tally_await(done, &done->acked, 10));
    assert_true(wait_until(lag_is, &slow, wait_patience_ms()));
    assert_string_equal(slow.found.group, "slow-group_1");
    assert_string_equal(slow.found.topic, topic);
    assert_true(slow.found.durable && slow.found.aged);
    assert_true(wait_until(lag_is, &quick, wait_patience_ms()));
    assert_false(quick.found.aged);
    must(evbus_lags(other, EVBUS_OPTS(evbus_lag_opts, .topic = topic), add_lag, &all));
    assert_int_equal(all.count, 2);
    memset(&all, 0, sizeof all);
    must(evbus_lags(other, EVBUS_OPTS(evbus_lag_opts, .topic = "no.such.topic"), add_lag, &all));
    assert_int_equal(all.count, 0);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 10));
    suite_close(s, bus);
    suite_close(s, other);
}

const struct suite_case suite_backlog_cases[] = {
    SUITE_TIMED(test_backlog_of_a_subscription_has_two_marks),
    SUITE_TIMED(test_backlog_by_age),
    SUITE_TIMED(test_backlog_of_publishes),
    SUITE_CASE(test_backlog_misuse),
    SUITE_CASE(test_backlog_lags_of_all_groups),
    {NULL, NULL, false},
};
