/* SPDX-License-Identifier: Apache-2.0 */
/* The subscriber's side of bounded memory: what is pulled, what waits behind a failing head. */
#include "backend_suite_case.h"

#define QUICK .retry_min_ms = 2, .retry_max_ms = 20

/* Samples the statistics while a case runs. */
struct watch {
    evbus *bus;
    atomic_bool stop;
    _Atomic(uint64_t) held, held_bytes;
};

static void watch_held(void *arg)
{
    struct watch *w = arg;
    evbus_statistics stats;

    while (!atomic_load(&w->stop)) {
        if (evbus_stats(w->bus, &stats) != EVBUS_OK)
            continue;
        if (stats.held > atomic_load(&w->held))
            atomic_store(&w->held, stats.held);
        if (stats.held_bytes > atomic_load(&w->held_bytes))
            atomic_store(&w->held_bytes, stats.held_bytes);
        wait_out(1);
    }
}

/* With inflight_max = 8 and blocked handlers never more than 8 messages are held; all are handled in the end. */
static void test_limit_inflight_bounds_what_is_held(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    struct watch *w = suite_alloc(s, sizeof *w);

    w->bus = suite_open(s, NULL);
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(w->bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 8));
    struct suite_background *watching = suite_background(s, watch_held, w, &w->stop);
    suite_publish_many(w->bus, topic, "a", 50, 1, 2);
    must_reach(w->bus, publishes_stored, 100);
    must_reach(w->bus, held, 8);
    assert_true(gate_await_inside(gate, 8));
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 100));
    suite_background_join(watching);
    must_reach(w->bus, held, 0);
    assert_int_equal(atomic_load(&w->held), 8);
    suite_close(s, w->bus);
    tally_check_order(t);
    tally_check_complete(t, 50, 2);
}

/* inflight_max = 1 works: one message at a time. */
static void test_limit_of_one_message_at_a_time(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 1));
    suite_publish_many(bus, topic, "a", 10, 1, 5);
    assert_true(tally_await(t, &t->acked, 50));
    suite_close(s, bus);
    assert_int_equal(t->running_max, 1);
    tally_check_complete(t, 10, 5);
}

/* inflight_bytes_max bounds the bytes that are held, up to one message. */
static void test_limit_bytes_bound_what_is_held(void **state)
{
    enum { SIZE = 10000, BOUND = 65536, COUNT = 40 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    struct watch *w = suite_alloc(s, sizeof *w);
    char *payload = suite_alloc(s, SIZE + 1), aggregate[32];

    w->bus = suite_open(s, NULL);
    memset(payload, 'x', SIZE);
    payload[0] = payload[SIZE - 1] = '"';
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(w->bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .inflight_bytes_max = BOUND));
    struct suite_background *watching = suite_background(s, watch_held, w, &w->stop);
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(aggregate, sizeof aggregate, "a%d", i);
        evbus_envelope env = suite_envelope_of(aggregate, 1);
        env.payload = payload;
        must(evbus_publish_envelope(w->bus, topic, &env, NULL));
    }
    must_reach(w->bus, publishes_stored, COUNT);
    assert_true(gate_await_inside(gate, 5));
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, COUNT));
    suite_background_join(watching);
    assert_true(atomic_load(&w->held_bytes) >= 5 * SIZE);
    assert_true(atomic_load(&w->held_bytes) <= BOUND + SIZE + 1000);
    suite_close(s, w->bus);
    assert_int_equal(t->started, COUNT);
}

/* A message larger than inflight_bytes_max is delivered all the same, alone: nothing gets stuck behind it. */
static void test_limit_bytes_let_a_large_message_through(void **state)
{
    enum { SIZE = 200000 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char *payload = suite_alloc(s, SIZE + 1);
    evbus_envelope env = suite_envelope_of("a0", 2);

    memset(payload, 'x', SIZE);
    payload[0] = payload[SIZE - 1] = '"';
    env.payload = payload;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .inflight_bytes_max = 65536));
    suite_publish(bus, topic, "a0", 1);
    must(evbus_publish_envelope(bus, topic, &env, NULL));
    suite_publish(bus, topic, "a0", 3);
    assert_true(tally_await(t, &t->acked, 3));
    suite_close(s, bus);
    tally_check_complete(t, 1, 3);
}

/* held_max bounds all subscriptions of the bus together (twice as much while room that was given out before a
 * subscription came cannot be recalled); each still gets its share. */
static void test_limit_of_the_bus_is_shared(void **state)
{
    struct suite *s = *state;
    struct gate *gate = suite_gate(s);
    struct tally *t[2] = {suite_tally(s), suite_tally(s)};
    struct watch *w = suite_alloc(s, sizeof *w);

    w->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .held_max = 16));
    for (int i = 0; i < 2; i++) {
        t[i]->decide = suite_at_gate;
        t[i]->arg = gate;
        (void)suite_sub(w->bus, suite_topic(s, "t%d", i), t[i], NULL);
    }
    suite_turn(w->bus); /* the first has heard that it has only half of the room now */
    struct suite_background *watching = suite_background(s, watch_held, w, &w->stop);
    for (int i = 0; i < 2; i++)
        suite_publish_many(w->bus, suite_topic(s, "t%d", i), "a", 30, 1, 1);
    assert_true(tally_await(t[0], &t[0]->started, 1));
    assert_true(tally_await(t[1], &t[1]->started, 1));
    must_reach(w->bus, publishes_stored, 60);
    gate_open(gate);
    for (int i = 0; i < 2; i++)
        assert_true(tally_await(t[i], &t[i]->acked, 30));
    suite_background_join(watching);
    assert_true(atomic_load(&w->held) <= (s->backend->recalls_room ? 16 : 32));
    suite_close(s, w->bus);
}

/* ---- Waiting behind a failing head ------------------------------------------------------------------------------- */

static struct suite_plan *fail_always(struct suite *s, const char *aggregate)
{
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);

    plan[0].aggregate = aggregate;
    plan[0].version = 1;
    plan[0].times = UINT32_MAX;
    return plan;
}

/* Too many messages behind one failing head: the subscription stalls, the event names the aggregate; when the head
 * recovers, it resumes, and everything is handled in order. */
static void test_limit_of_waiting_stalls_and_resumes(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct suite_plan *plan = fail_always(s, "bad0");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .group = "g", .inflight_max = 64, .attempts_max = EVBUS_FOREVER, QUICK));
    suite_publish(bus, topic, "bad0", 1);
    assert_true(tally_await(t, &t->retried, 1));
    suite_publish_many(bus, topic, "bad", 1, 2, 120);
    const struct suite_event stalled = suite_event(s, EVBUS_EVENT_STALLED, 0);
    assert_string_equal(stalled.topic, topic);
    assert_string_equal(stalled.group, "g");
    assert_string_equal(stalled.aggregate_id, "bad0");
    assert_true(stalled.count > 0);
    assert_int_equal(suite_stats_of(bus).stalls, 1);
    suite_publish_many(bus, topic, "good", 10, 1, 3);
    must_reach(bus, publishes_stored, 150);
    assert_true(suite_stats_of(bus).held <= 64);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_RESUMED), 0);
    atomic_store(&plan[0].over, true);
    assert_true(tally_await(t, &t->acked, 150));
    assert_string_equal(suite_event(s, EVBUS_EVENT_RESUMED, 0).topic, topic);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_STALLED), suite_event_count(s, EVBUS_EVENT_RESUMED));
    suite_close(s, bus);
    assert_int_equal(t->acked, 150);
    tally_check_order(t);
}

/* Many failing heads with a few waiting each stall the subscription too, by waiting_max. */
static void test_limit_of_waiting_in_many_aggregates(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct suite_plan *plan = fail_always(s, NULL);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .inflight_max = 200, .waiting_max = 20, .aggregate_waiting_max = 100,
                               .attempts_max = EVBUS_FOREVER, QUICK));
    suite_publish_many(bus, topic, "a", 10, 1, 8);
    (void)suite_event(s, EVBUS_EVENT_STALLED, 0);
    atomic_store(&plan[0].over, true);
    assert_true(tally_await(t, &t->acked, 80));
    (void)suite_event(s, EVBUS_EVENT_RESUMED, 0);
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 10, 8);
}

struct letter_place {
    uint64_t stored, original; /* sequences: of the letter, of the message */
};

static int by_place(const void *left, const void *right)
{
    const struct letter_place *a = left, *b = right;

    return (a->stored > b->stored) - (a->stored < b->stored);
}

/* The letters were stored in the order of their messages, and each says that it waited. */
static void check_letters_in_order(struct tally *letters)
{
    struct letter_place places[64];

    assert_in_range(letters->started, 1, 64);
    for (size_t i = 0; i < letters->started; i++) {
        const struct tally_entry *e = tally_at(letters, i);
        assert_non_null(strstr(tally_header(letters, e, "Evbus-Cause"), "waited"));
        places[i] = (struct letter_place){e->sequence, strtoull(tally_header(letters, e, "Evbus-Sequence"), NULL, 10)};
    }
    qsort(places, letters->started, sizeof places[0], by_place);
    for (size_t i = 1; i < letters->started; i++)
        assert_true(places[i].original > places[i - 1].original);
}

/* With on_waiting_full = DEAD_LETTER the tail behind the failing head goes to the dead-letter topic, in order, and
 * nobody stalls: every message ends handled or there. */
static void test_limit_of_waiting_dead_letters_the_tail(void **state)
{
    enum { VERSIONS = 40 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct suite_plan *plan = fail_always(s, "bad0");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .inflight_max = 64, .attempts_max = EVBUS_FOREVER,
                               .ack_mode = EVBUS_ACK_EACH, /* a frontier would wait for bad0 with the window full */
                               .on_waiting_full = EVBUS_WAITING_DEAD_LETTER, QUICK));
    suite_publish(bus, topic, "bad0", 1);
    assert_true(tally_await(t, &t->retried, 1));
    suite_publish_many(bus, topic, "bad", 1, 2, VERSIONS);
    suite_publish_many(bus, topic, "good", 10, 1, 3);
    assert_true(tally_await(letters, &letters->acked, 8));
    assert_true(tally_await(t, &t->acked, 30));
    atomic_store(&plan[0].over, true);
    assert_true(tally_await(t, &t->acked, 31));
    must_reach(bus, held, 0);
    assert_true(tally_await(t, &t->acked, 30 + VERSIONS - tally_read(letters, &letters->acked)));
    suite_close(s, bus);
    assert_int_equal(t->acked + letters->acked, 30 + VERSIONS);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_STALLED), 0);
    assert_int_equal(letters->started, letters->acked);
    check_letters_in_order(letters);
    tally_check_order(t);
}

/* The broker's memory is bounded where it is ours: beyond mem_bytes_max publishes are refused, and said to be. */
static void test_limit_of_the_brokers_memory(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    char *data = suite_alloc(s, 100000);
    evbus_status st = EVBUS_OK;
    int stored = 0;

    if (!s->backend->bounded_memory)
        return;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .mem_bytes_max = 1 << 20));
    evbus_envelope env = suite_envelope_of("a", 1);
    memset(data, 'x', 99999);
    data[0] = data[99998] = '"';
    env.payload = data;
    for (; stored < 100 && st == EVBUS_OK; stored++)
        st = evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL);
    must_be(EVBUS_LIMIT, st);
    assert_in_range(stored, 8, 11);
    suite_close(s, bus);
}

/* A stream that drops old messages before they are handled: counted, said, and the rest is handled. */
static void test_limit_of_a_stream_that_overtakes_its_consumer(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);

    evbus *bus = suite_open(s, NULL);
    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 50)));
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 10));
    suite_publish_many(bus, topic, "a", 10, 1, 1);
    must_reach(bus, held, 10);
    suite_publish_many(bus, topic, "a", 10, 2, 20);
    must_reach(bus, publishes_stored, 200);
    const struct suite_event over = suite_event(s, EVBUS_EVENT_OVERTAKEN, 0);
    assert_string_equal(over.topic, topic);
    assert_string_equal(over.group, "suite");
    assert_non_null(strstr(over.text, "before they were handled"));
    assert_non_null(strstr(suite_event(s, EVBUS_EVENT_NEAR_LIMIT, 0).text, "50 messages of 50"));
    must_reach(bus, overtaken, 140); /* 1 to 10 are here, 151 to 200 are stored */
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 60));
    must_reach(bus, overtaken, 140); /* the step from 10 to 151 is counted already */
    suite_close(s, bus);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_NEAR_LIMIT), 1);
    tally_check_order(t);
}

/* The same while nobody was there to look. */
static void test_limit_of_a_stream_that_overtook_an_absent_member(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    evbus_sub *sub;

    evbus *bus = suite_open(s, NULL);
    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 50)));
    sub = suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "a", 10, 1, 1);
    assert_true(tally_await(t, &t->acked, 10));
    must_reach(bus, held, 0);
    must(evbus_unsubscribe(sub));
    suite_publish_many(bus, topic, "a", 10, 2, 11);
    must_reach(bus, publishes_stored, 110);
    (void)suite_sub(bus, topic, rest, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 1));
    assert_int_equal(suite_event(s, EVBUS_EVENT_OVERTAKEN, 0).count, 50);
    assert_true(tally_await(rest, &rest->acked, 50));
    suite_close(s, bus);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_OVERTAKEN), 1);
}

/* ---- Rates ------------------------------------------------------------------------------------------------------- */

static evbus_status publish_now(evbus *bus, const char *topic, int64_t version)
{
    const evbus_envelope env = suite_envelope_of("a", version);

    return evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = EVBUS_NOWAIT));
}

/* A topic takes its burst at once and then its rate; who may not wait is refused, and nothing of it was accepted. */
static void test_limit_rate_of_publishing(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    int64_t accepted = 0;

    (void)suite_publish_wait(bus, topic, "b", 1); /* the stream is there */
    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .rate_per_s = 1, .rate_burst = 3)));
    const int64_t began = suite_now_ns(s);
    while (publish_now(bus, topic, accepted + 1) == EVBUS_OK)
        accepted++;
    const int64_t seconds = (suite_now_ns(s) - began) / 1000000000;
    assert_true(accepted >= 3 && accepted <= 3 + 1 + seconds);
    must_mention("rate_per_s");
    suite_pass(s, s->clock ? 1000 : 1500); /* real time is rounded */
    must(publish_now(bus, topic, 99));
    assert_int_equal(suite_stats_of(bus).publishes_accepted, accepted + 2);
    must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .rate_burst = 3)));
    suite_close(s, bus);
}

struct share {
    evbus *bus;
    const char *topic;
    _Atomic(uint32_t) done;
};

static void publish_five(void *arg)
{
    struct share *share = arg;

    for (int64_t version = 1; version <= 5; version++) {
        const evbus_envelope env = suite_envelope_of("a", version);
        thread_must(evbus_publish_envelope(share->bus, share->topic, &env,
                                           EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 60000)) == EVBUS_OK);
    }
    atomic_store(&share->done, 1);
}

static bool is_done(void *arg)
{
    return atomic_load(&((struct share *)arg)->done) > 0;
}

/* Who may wait waits for his token. */
static void test_limit_rate_makes_publishers_wait(void **state)
{
    struct suite *s = *state;
    struct share *share = suite_alloc(s, sizeof *share);

    share->bus = suite_open(s, NULL);
    share->topic = suite_topic(s, "orders");
    (void)suite_publish_wait(share->bus, share->topic, "b", 1);
    must(evbus_topic_configure(share->bus, share->topic, EVBUS_OPTS(evbus_topic_opts, .rate_per_s = 10)));
    const int64_t began = suite_now_ns(s);
    struct suite_background *background = suite_background(s, publish_five, share, NULL);
    assert_true(suite_pass_until(s, is_done, share, 20000));
    assert_true(suite_now_ns(s) - began >= 400 * INT64_C(1000000)); /* four steps of 100 ms between five */
    suite_background_join(background);
    suite_close(s, share->bus);
}

/* Handlers of a subscription start no faster than its rate, of however many aggregates; all are handled, in order. */
static void test_limit_rate_of_a_subscription(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    must_be(EVBUS_UNSUPPORTED,
            evbus_subscribe(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .rate_per_s = 1), NULL));
    must_be(EVBUS_INVALID,
            evbus_subscribe_envelope(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .rate_burst = 1), NULL));
    const int64_t began = suite_now_ns(s);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .rate_per_s = 10, .rate_burst = 2));
    suite_publish_many(bus, topic, "a", 3, 1, 4);
    assert_true(suite_pass_until_count(s, t, &t->acked, 12, 20000));
    /* The first two at once, then one each 100 ms. A start is noted after its token was taken, perhaps much later. */
    assert_true(tally_at(t, 11)->at_ns - began >= 10 * INT64_C(100000000));
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 3, 4);
}

const struct suite_case suite_limit_cases[] = {
    SUITE_TIMED(test_limit_rate_of_publishing),
    SUITE_TIMED(test_limit_rate_makes_publishers_wait),
    SUITE_TIMED(test_limit_rate_of_a_subscription),
    SUITE_CASE(test_limit_inflight_bounds_what_is_held),
    SUITE_CASE(test_limit_of_one_message_at_a_time),
    SUITE_CASE(test_limit_bytes_bound_what_is_held),
    SUITE_CASE(test_limit_bytes_let_a_large_message_through),
    SUITE_CASE(test_limit_of_the_bus_is_shared),
    SUITE_CASE(test_limit_of_waiting_stalls_and_resumes),
    SUITE_CASE(test_limit_of_waiting_in_many_aggregates),
    SUITE_CASE(test_limit_of_waiting_dead_letters_the_tail),
    SUITE_CASE(test_limit_of_the_brokers_memory),
    SUITE_CASE(test_limit_of_a_stream_that_overtakes_its_consumer),
    SUITE_CASE(test_limit_of_a_stream_that_overtook_an_absent_member),
    {NULL, NULL, false},
};
