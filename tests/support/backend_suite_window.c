/* SPDX-License-Identifier: Apache-2.0 */
/* The publisher's side of bounded memory: a window of publishes without outcome, in messages and in bytes. */
#include "backend_suite_case.h"

/* A publish error callback that blocks keeps its publish in the window: so a window can be filled exactly. */
struct blocked {
    struct gate *gate;
    atomic_uint calls;
};

static void block(const evbus_receipt *receipt, void *arg)
{
    struct blocked *b = arg;

    (void)receipt;
    atomic_fetch_add(&b->calls, 1);
    gate_pass(b->gate);
}

/* A bus with that window and a topic whose stream is full, so that every further publish is refused and stays. */
static evbus *open_blocked(struct suite *s, struct blocked *b, const char *topic, uint32_t inflight, uint64_t bytes)
{
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .publish_inflight_max = inflight, .publish_bytes_max = bytes,
                                          .on_publish_error = block, .on_publish_error_ctx = b));

    b->gate = suite_gate(s);
    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 1, .discard = EVBUS_DISCARD_NEW)));
    (void)suite_publish_wait(bus, topic, "a", 1);
    return bus;
}

struct late {
    evbus *bus;
    const char *topic;
    evbus_status status;
    atomic_bool returned;
};

static void publish_late(void *arg)
{
    struct late *l = arg;
    const evbus_envelope env = suite_envelope_of("a", 2);

    l->status = evbus_publish_envelope(l->bus, l->topic, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 60000));
    atomic_store(&l->returned, true);
}

/* A full window refuses at once with EVBUS_NOWAIT, after the time given with a time-out, and otherwise waits until there
 * is room; what was refused was not accepted, and what was accepted has its outcome. */
static void test_window_full_slows_the_publisher(void **state)
{
    enum { WINDOW = 16 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct blocked *b = suite_alloc(s, sizeof *b);
    struct late *late = suite_alloc(s, sizeof *late);
    evbus *bus = open_blocked(s, b, topic, WINDOW, 0);
    const evbus_envelope env = suite_envelope_of("a", 2);

    for (int i = 0; i < WINDOW; i++)
        suite_publish(bus, topic, "a", 2);
    must_reach(bus, publishes_refused, WINDOW);
    must_be(EVBUS_BACKPRESSURE,
            evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = EVBUS_NOWAIT)));
    must_mention("publish_inflight_max");
    must_be(EVBUS_BACKPRESSURE,
            evbus_publish(bus, topic, "x", 1, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = EVBUS_NOWAIT)));
    const int64_t began = wait_now_ms();
    must_be(EVBUS_BACKPRESSURE, evbus_publish(bus, topic, "x", 1, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 100)));
    assert_true(wait_now_ms() - began >= 99);
    assert_int_equal(suite_stats_of(bus).backpressure, 3);
    *late = (struct late){.bus = bus, .topic = topic};
    struct suite_background *waiting = suite_background(s, publish_late, late, NULL);
    wait_out(50);
    assert_false(atomic_load(&late->returned));
    gate_open(b->gate);
    suite_background_join(waiting);
    must(late->status);
    must_reach(bus, publishes_refused, WINDOW + 1);
    const evbus_statistics stats = suite_stats_of(bus);
    assert_int_equal(stats.publishes_accepted, 1 + WINDOW + 1);
    assert_int_equal(stats.publishes_stored, 1);
    assert_int_equal(stats.publishes_inflight, 0);
    suite_close(s, bus);
    assert_int_equal(atomic_load(&b->calls), WINDOW + 1);
}

/* The window is bounded in bytes too; what is larger than the whole window is too large. */
static void test_window_is_bounded_in_bytes(void **state)
{
    enum { WINDOW = 65536, SIZE = 30000 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct blocked *b = suite_alloc(s, sizeof *b);
    evbus *bus = open_blocked(s, b, topic, 0, WINDOW);
    char *data = suite_alloc(s, WINDOW + 1);
    const evbus_pub_opts *nowait = EVBUS_OPTS(evbus_pub_opts, .timeout_ms = EVBUS_NOWAIT);

    must_be(EVBUS_TOO_LARGE, evbus_publish(bus, topic, data, WINDOW + 1, NULL));
    must_mention("publish_bytes_max");
    must(evbus_publish(bus, topic, data, SIZE, NULL));
    must(evbus_publish(bus, topic, data, SIZE, NULL));
    must_be(EVBUS_BACKPRESSURE, evbus_publish(bus, topic, data, SIZE, nowait));
    must_mention("publish_bytes_max");
    must(evbus_publish(bus, topic, data, 1000, nowait));
    assert_in_range(suite_stats_of(bus).publish_bytes, 2 * SIZE, WINDOW);
    gate_open(b->gate);
    must(evbus_publish(bus, topic, data, SIZE, NULL));
    must_reach(bus, publishes_refused, 4);
    must_reach(bus, publish_bytes, 0);
    suite_close(s, bus);
}

enum { CROWD = 4, EACH = 2000, SMALL = 16 };

struct crowd {
    evbus *bus;
    const char *topic;
    uint32_t timeout_ms;
    atomic_uint accepted, refused;
    _Atomic(uint64_t) most;
};

static void publish_hard(int index, void *arg)
{
    struct crowd *c = arg;
    char aggregate[32];

    (void)snprintf(aggregate, sizeof aggregate, "a%d", index);
    for (int i = 1; i <= EACH; i++) {
        const evbus_envelope env = suite_envelope_of(aggregate, i);
        evbus_statistics stats;
        const evbus_status st =
            evbus_publish_envelope(c->bus, c->topic, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = c->timeout_ms));
        thread_must(st == EVBUS_OK || (st == EVBUS_BACKPRESSURE && c->timeout_ms == EVBUS_NOWAIT));
        atomic_fetch_add(st == EVBUS_OK ? &c->accepted : &c->refused, 1);
        if (i % 16 == 0 && evbus_stats(c->bus, &stats) == EVBUS_OK && stats.publishes_inflight > atomic_load(&c->most))
            atomic_store(&c->most, stats.publishes_inflight);
    }
}

static struct crowd *press(struct suite *s, uint32_t timeout_ms)
{
    struct crowd *c = suite_alloc(s, sizeof *c);

    c->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .publish_inflight_max = SMALL));
    c->topic = suite_topic(s, "orders");
    c->timeout_ms = timeout_ms;
    (void)suite_publish_wait(c->bus, c->topic, "first", 1);
    suite_threads(CROWD, publish_hard, c);
    must_reach(c->bus, publishes_inflight, 0);
    return c;
}

static void check_crowd(struct suite *s, struct crowd *c)
{
    const evbus_statistics stats = suite_stats_of(c->bus);

    assert_int_equal(atomic_load(&c->accepted) + atomic_load(&c->refused), CROWD * EACH);
    assert_int_equal(stats.publishes_accepted, atomic_load(&c->accepted) + 1);
    assert_int_equal(stats.publishes_stored, stats.publishes_accepted);
    assert_int_equal(stats.backpressure, atomic_load(&c->refused));
    assert_true(atomic_load(&c->most) <= SMALL);
    suite_close(s, c->bus);
}

/* Four threads press on a window of 16 without waiting: accepted and refused add up, and all accepted are stored. */
static void test_window_counts_exactly_without_waiting(void **state)
{
    check_crowd(*state, press(*state, EVBUS_NOWAIT));
}

/* Four threads press on a window of 16 and wait: all are accepted, none is lost. */
static void test_window_lets_everybody_through_in_time(void **state)
{
    struct crowd *c = press(*state, 0);

    assert_int_equal(atomic_load(&c->accepted), CROWD * EACH);
    check_crowd(*state, c);
}

const struct suite_case suite_window_cases[] = {
    SUITE_CASE(test_window_full_slows_the_publisher),
    SUITE_CASE(test_window_is_bounded_in_bytes),
    SUITE_CASE(test_window_counts_exactly_without_waiting),
    SUITE_CASE(test_window_lets_everybody_through_in_time),
    {NULL, NULL, false},
};
