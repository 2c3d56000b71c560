/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics: after traffic whose every message is known, every counter is exact. */
#include "backend_suite_case.h"

/* 'ok' is acknowledged, 'twice' retried once, 'no' rejected, 'never' retried until its attempts are used up. */
static evbus_verdict by_name(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);

    (void)ctx;
    if (strncmp(env->aggregate_id, "twice", 5) == 0 && evbus_msg_attempt(msg) == 1)
        return EVBUS_RETRY;
    if (strncmp(env->aggregate_id, "no", 2) == 0)
        return EVBUS_REJECT;
    return strncmp(env->aggregate_id, "xnever", 6) == 0 ? EVBUS_RETRY : EVBUS_ACK;
}

static void check_publishing(const evbus_statistics *n, uint64_t accepted, uint64_t duplicate)
{
    assert_int_equal(n->publishes_accepted, accepted);
    assert_int_equal(n->publishes_stored, accepted);
    assert_int_equal(n->publishes_duplicate, duplicate);
    assert_int_equal(n->publishes_refused, 0);
    assert_int_equal(n->publishes_unknown, 0);
    assert_int_equal(n->publishes_core, 0);
    assert_int_equal(n->publishes_resent, 0);
    assert_int_equal(n->backpressure, 0);
    assert_int_equal(n->publishes_inflight, 0);
    assert_int_equal(n->publish_bytes, 0);
}

static void check_nothing_odd(const evbus_statistics *n)
{
    assert_int_equal(n->redelivered, 0);
    assert_int_equal(n->dead_letter_failures, 0);
    assert_int_equal(n->duplicates_held, 0);
    assert_int_equal(n->duplicates_settled, 0);
    assert_int_equal(n->plain_dropped, 0);
    assert_int_equal(n->handed_back, 0);
    assert_int_equal(n->handlers_overdue, 0);
    assert_int_equal(n->stalls, 0);
    assert_int_equal(n->overtaken, 0);
    assert_int_equal(n->foreign, 0);
    assert_int_equal(n->held, 0);
    assert_int_equal(n->held_bytes, 0);
    assert_int_equal(n->handlers_running, 0);
    assert_int_equal(n->streams_lost, 0);
    assert_int_equal(n->connects, 1);
    assert_int_equal(n->disconnects, 0);
    assert_int_equal(n->connect_failures, 0);
    assert_int_equal(n->events_dropped, 0);
    assert_int_equal(n->connected, 1);
}

/* Ten acknowledged, five retried once, three rejected, two used up, four that are no envelopes, one duplicate: every
 * counter of the bus and of the topic says exactly that. */
static void test_stats_are_exact(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 3));
    evbus_envelope again = suite_envelope_of("ok0", 9);

    t->decide = by_name;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .attempts_max = 4, .retry_min_ms = 2, .retry_max_ms = 4));
    suite_publish_many(bus, topic, "ok", 10, 1, 1);
    suite_publish_many(bus, topic, "twice", 5, 1, 1);
    suite_publish_many(bus, topic, "no", 3, 1, 1);
    suite_publish_many(bus, topic, "xnever", 2, 1, 1);
    for (int i = 0; i < 4; i++)
        suite_publish_plain(bus, topic, "no envelope");
    again.event_id = "the-id";
    must(evbus_publish_envelope_wait(bus, topic, &again, NULL, NULL));
    must(evbus_publish_envelope_wait(bus, topic, &again, NULL, NULL));
    must_reach(bus, handled, 10 + 5 + 1);
    must_reach(bus, dead_lettered, 3 + 2 + 4);
    must_reach(bus, held, 0);

    const evbus_statistics n = suite_stats_of(bus);
    check_publishing(&n, 26, 1);
    check_nothing_odd(&n);
    assert_int_equal(n.delivered, 25);
    assert_int_equal(n.handler_runs, 11 + 5 * 2 + 3 + 2 * 4);
    assert_int_equal(n.retried, 5 + 2 * 4);
    assert_int_equal(n.rejected, 3);
    assert_int_equal(n.exhausted, 2);
    assert_int_equal(n.not_envelope, 4);
    assert_int_equal(n.topics, 2); /* and its dead-letter topic */
    assert_int_equal(n.subscriptions, 1);
    assert_in_range(n.workers, 3, 512);

    const evbus_topic_statistics o = suite_topic_stats_of(bus, topic);
    assert_int_equal(o.struct_size, sizeof o);
    assert_int_equal(o.publishes_accepted, 26);
    assert_int_equal(o.publishes_stored, 26);
    assert_int_equal(o.publishes_duplicate, 1);
    assert_int_equal(o.publishes_refused + o.publishes_unknown + o.publishes_core, 0);
    assert_int_equal(o.handled, 16);
    assert_int_equal(o.retried, 13);
    assert_int_equal(o.dead_lettered, 9);
    assert_int_equal(o.subscriptions, 1);
    assert_int_equal(o.stream_known, 1);
    assert_int_equal(o.gate_closed, 0);
    assert_int_equal(o.fallback, 0);
    suite_close(s, bus);
}

/* A bus that did nothing has counted nothing. */
static void test_stats_of_an_idle_bus_are_zero(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 3));

    const evbus_statistics n = suite_stats_of(bus);
    assert_int_equal(n.struct_size, sizeof n);
    check_publishing(&n, 0, 0);
    check_nothing_odd(&n);
    assert_int_equal(n.delivered + n.handled + n.handler_runs + n.topics + n.subscriptions + n.streams_created, 0);
    assert_true(n.workers >= 3); /* one more if the machine was too busy to run the callback of the first event */
    suite_close(s, bus);
}

struct counting {
    evbus *bus;
    const char *topics[3];
};

static void publish_some(int index, void *arg)
{
    const struct counting *c = arg;

    for (int i = 0; i < 200; i++)
        thread_must(evbus_publish(c->bus, c->topics[(index + i) % 3], "x", 1, NULL) == EVBUS_OK);
}

/* Counters of several topics, published to by several threads, add up to those of the bus. */
static void test_stats_of_topics_add_up(void **state)
{
    struct suite *s = *state;
    struct counting c = {.bus = suite_open(s, NULL)};
    struct tally *t = suite_tally(s);
    uint64_t accepted = 0, stored = 0, handled = 0;

    for (int i = 0; i < 3; i++) {
        c.topics[i] = suite_topic(s, "t%d", i);
        (void)suite_sub_plain(c.bus, c.topics[i], t, NULL);
    }
    suite_threads(4, publish_some, &c);
    must_reach(c.bus, publishes_stored, 800);
    must_reach(c.bus, handled, 800);
    for (int i = 0; i < 3; i++) {
        const evbus_topic_statistics o = suite_topic_stats_of(c.bus, c.topics[i]);
        assert_in_range(o.publishes_accepted, 264, 268);
        accepted += o.publishes_accepted;
        stored += o.publishes_stored;
        handled += o.handled;
    }
    assert_int_equal(accepted, 800);
    assert_int_equal(stored, 800);
    assert_int_equal(handled, 800);
    assert_int_equal(suite_stats_of(c.bus).delivered, 800);
    suite_close(s, c.bus);
}

struct lines {
    atomic_int streams, connected, others, wrong_level;
    evbus_log_level most;
};

static void note_line(evbus_log_level level, const char *subject, const char *text, void *arg)
{
    struct lines *l = arg;

    if (strcmp(subject, "stream created") == 0)
        atomic_fetch_add(&l->streams, strstr(text, "topic ") != NULL);
    else if (strcmp(subject, "connected") == 0)
        atomic_fetch_add(&l->connected, 1);
    else
        atomic_fetch_add(&l->others, 1);
    if (level > l->most)
        atomic_fetch_add(&l->wrong_level, 1);
}

/* Every event has its line in the log, of its level; a stricter level leaves it out; no log is fine too. */
static void test_stats_events_have_a_line_in_the_log(void **state)
{
    struct suite *s = *state;
    struct lines *all = suite_alloc(s, sizeof *all), *errors = suite_alloc(s, sizeof *errors);
    evbus *bus;

    all->most = EVBUS_LOG_INFO;
    bus = suite_open(s, EVBUS_OPTS(evbus_opts, .log = note_line, .log_ctx = all));
    (void)suite_publish_wait(bus, suite_topic(s, "one"), "a", 1);
    (void)suite_event(s, EVBUS_EVENT_CONNECTED, 0);
    assert_string_equal(suite_event(s, EVBUS_EVENT_STREAM_CREATED, 0).topic, suite_topic(s, "one"));
    suite_close(s, bus);
    assert_int_equal(atomic_load(&all->streams), 1);
    assert_int_equal(atomic_load(&all->connected), 1);
    assert_int_equal(atomic_load(&all->wrong_level), 0);

    errors->most = EVBUS_LOG_ERROR;
    bus = suite_open(s, EVBUS_OPTS(evbus_opts, .log = note_line, .log_ctx = errors, .log_level = EVBUS_LOG_ERROR));
    (void)suite_publish_wait(bus, suite_topic(s, "two"), "a", 1);
    suite_close(s, bus);
    assert_int_equal(atomic_load(&errors->streams) + atomic_load(&errors->connected), 0);
    assert_int_equal(atomic_load(&errors->wrong_level), 0);
}

const struct suite_case suite_stats_cases[] = {
    SUITE_CASE(test_stats_are_exact),
    SUITE_CASE(test_stats_of_an_idle_bus_are_zero),
    SUITE_CASE(test_stats_of_topics_add_up),
    SUITE_CASE(test_stats_events_have_a_line_in_the_log),
    {NULL, NULL, false},
};
