/* SPDX-License-Identifier: Apache-2.0 */
/* Plain messages: bytes, at most once, in no order. */
#include "backend_suite_case.h"

/* One message arrives once, with its bytes and where they came from. */
static void test_plain_message_arrives_once(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub_plain(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "billing"));
    suite_publish_plain(bus, topic, "hello");
    assert_true(tally_await(t, &t->acked, 1));
    const struct tally_entry *e = tally_at(t, 0);
    assert_string_equal(e->body, "hello");
    assert_int_equal(e->len, 5);
    assert_string_equal(e->topic, topic);
    assert_string_equal(e->group, "billing");
    assert_true(e->stream[0] != 0);
    assert_true(e->sequence > 0);
    assert_int_equal(e->attempt, 1);
    assert_int_equal(e->deliveries, 1);
    assert_false(e->redelivered);
    assert_true(e->stored_ns > 0);
    assert_int_equal(e->version, 0);

    suite_publish_plain(bus, topic, "second");
    assert_true(tally_await(t, &t->acked, 2));
    assert_string_equal(tally_at(t, 1)->body, "second");
    suite_close(s, bus);
    assert_int_equal(t->started, 2);
}

/* Ten of ten arrive, published with options: headers, key, tag, time-out. */
static void test_plain_options_travel_with_the_message(void **state)
{
    static const char *const names[] = {"X-Trace", "Evbus-Key", "X-Absent", NULL};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_header headers[] = {{"X-Trace", "first"}, {"X-Trace", "second"}, {NULL, NULL}};

    t->capture = names;
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 10; i++)
        must(
            evbus_publish(bus, topic, "x", 1,
                          EVBUS_OPTS(evbus_pub_opts, .headers = headers, .key = "k-42", .tag = 7, .timeout_ms = 9000)));
    assert_true(tally_await(t, &t->acked, 10));
    for (size_t i = 0; i < 10; i++) {
        const struct tally_entry *e = tally_at(t, i);
        assert_string_equal(tally_header(t, e, "X-Trace"), "first");
        assert_string_equal(tally_header(t, e, "Evbus-Key"), "k-42");
        assert_null(tally_header(t, e, "X-Absent"));
    }
    suite_close(s, bus);
    assert_int_equal(t->started, 10);
}

/* An empty header value is refused by name: libnats would lose it, and others of the same message. */
static void test_plain_headers_with_an_empty_value_are_refused(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    const evbus_header headers[] = {{"X-Before", "b"}, {"X-Empty", ""}, {NULL, NULL}};

    assert_int_equal(evbus_publish(bus, topic, "x", 1, EVBUS_OPTS(evbus_pub_opts, .headers = headers)), EVBUS_INVALID);
    assert_non_null(strstr(evbus_error_detail(), "X-Empty"));
    assert_non_null(strstr(evbus_error_detail(), "1..4096"));
    suite_close(s, bus);
}

struct publishing {
    evbus *bus;
    const char *topic;
    int each;
};

static void publish_numbers(int index, void *arg)
{
    const struct publishing *p = arg;
    char text[32];

    for (int i = 0; i < p->each; i++) {
        const int n = snprintf(text, sizeof text, "%d %d", index, i);
        thread_must(evbus_publish(p->bus, p->topic, text, (size_t)n, NULL) == EVBUS_OK);
    }
}

/* A hundred messages of four threads all arrive, and the stream has those of each thread in the order of its calls. */
static void test_plain_fan_in_loses_none_and_keeps_each_threads_order(void **state)
{
    enum { THREADS = 4, EACH = 25 };
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct publishing p = {bus, suite_topic(s, "many"), EACH};
    uint64_t sequences[THREADS][EACH] = {{0}};

    (void)suite_sub_plain(bus, p.topic, t, NULL);
    suite_threads(THREADS, publish_numbers, &p);
    assert_true(tally_await(t, &t->acked, THREADS * EACH));
    for (size_t i = 0; i < THREADS * EACH; i++) {
        const struct tally_entry *e = tally_at(t, i);
        char *rest = NULL;
        const long thread = strtol(e->body, &rest, 10), n = strtol(rest, NULL, 10);
        assert_in_range(thread, 0, THREADS - 1);
        assert_in_range(n, 0, EACH - 1);
        assert_int_equal(sequences[thread][n], 0); /* not twice */
        sequences[thread][n] = e->sequence;
    }
    for (int thread = 0; thread < THREADS; thread++)
        for (int i = 1; i < EACH; i++)
            assert_true(sequences[thread][i] > sequences[thread][i - 1]);
    suite_close(s, bus);
}

/* A body is any bytes of any length, none included. */
static void test_plain_bodies_are_kept_byte_for_byte(void **state)
{
    enum { LARGE = 300000 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "bytes");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    unsigned char *large = suite_alloc(s, LARGE);

    for (size_t i = 0; i < LARGE; i++)
        large[i] = (unsigned char)(i * 7 + i / 256);
    (void)suite_sub_plain(bus, topic, t, NULL);
    const size_t lengths[] = {0, 1, 256, LARGE};
    for (size_t i = 0; i < 4; i++) {
        must(evbus_publish(bus, topic, lengths[i] ? large : NULL, lengths[i], NULL));
        assert_true(tally_await(t, &t->acked, i + 1));
        assert_int_equal(tally_at(t, i)->len, lengths[i]);
        assert_memory_equal(tally_at(t, i)->body, large, lengths[i]);
    }
    suite_close(s, bus);
}

static evbus_verdict never_ack(const evbus_msg *msg, void *ctx)
{
    (void)ctx;
    const evbus_view body = evbus_msg_data(msg);
    const char first = body.len ? *(const char *)body.data : 0;

    return first == 'r' ? EVBUS_RETRY : first == 'j' ? EVBUS_REJECT : EVBUS_ACK;
}

/* A handler that always fails runs once per message: whatever it returns, there is no second run and no dead letter. */
static void test_plain_failing_handler_runs_once_per_message(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    t->decide = never_ack;
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 10; i++)
        suite_publish_plain(bus, topic, i % 2 ? "retry" : "j: reject");
    assert_true(tally_await(t, &t->ended, 10));
    suite_pass(s, s->clock ? 120000 : 300);
    suite_publish_plain(bus, topic, "good");
    assert_true(tally_await(t, &t->acked, 1));
    must_reach(bus, handled, 1);
    const evbus_statistics stats = suite_stats_of(bus);
    assert_int_equal(stats.retried, 5);
    assert_int_equal(stats.rejected, 5);
    assert_int_equal(stats.handler_runs, 11);
    assert_int_equal(stats.dead_lettered, 0);
    suite_close(s, bus);
    assert_int_equal(t->started, 11);
    assert_int_equal(letters->started, 0);
}

static evbus_verdict fail_number_seven(const evbus_msg *msg, void *ctx)
{
    const evbus_view body = evbus_msg_data(msg);

    (void)ctx;
    return body.len == 1 && *(const char *)body.data == '7' ? EVBUS_RETRY : EVBUS_ACK;
}

/* One failure among fifteen messages spoils only its own message. */
static void test_plain_one_failure_spoils_no_other_message(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char text[2] = "0";

    t->decide = fail_number_seven;
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 15; i++) {
        text[0] = (char)('0' + i);
        suite_publish_plain(bus, topic, text);
    }
    assert_true(tally_await(t, &t->ended, 15));
    suite_close(s, bus);
    assert_int_equal(t->acked, 14);
    assert_int_equal(t->retried, 1);
    assert_int_equal(t->started, 15);
}

static evbus_verdict take_a_tenth_of_a_second(const evbus_msg *msg, void *gate)
{
    (void)msg;
    (void)gate_pass_within(gate, 100);
    return EVBUS_ACK;
}

/* Handlers that take 100 ms all complete, and run beside each other. */
static void test_plain_slow_handlers_all_complete(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "slow");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 4));

    t->decide = take_a_tenth_of_a_second;
    t->arg = suite_gate(s);
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 12; i++)
        suite_publish_plain(bus, topic, "work");
    assert_true(tally_await(t, &t->acked, 12));
    suite_close(s, bus);
    assert_int_equal(t->started, 12);
    assert_true(t->running_max >= 2);
}

/* A plain subscription sees an envelope as the bytes it is. */
static void test_plain_subscription_sees_an_envelope_as_bytes(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = {.event_id = "e-1",
                                .aggregate_id = "order-42",
                                .event_type = "OrderPlaced",
                                .event_version = 1,
                                .timestamp_ns = INT64_C(1767225845123456789),
                                .tenant_id = 7,
                                .payload = "{\"amount\": 99.5}"};

    (void)suite_sub_plain(bus, topic, t, NULL);
    must(evbus_publish_envelope(bus, topic, &env, NULL));
    assert_true(tally_await(t, &t->acked, 1));
    const char *body = tally_at(t, 0)->body;
    assert_non_null(strstr(body, "{\"event_id\":\"e-1\",\"aggregate_id\":\"order-42\",\"event_type\":\"OrderPlaced\","
                                 "\"event_version\":1,\"timestamp\":\"2026-01-01T"));
    assert_non_null(strstr(body, ",\"tenant_id\":7,\"payload\":{\"amount\": 99.5}}"));
    suite_close(s, bus);
}

/* Twenty ordered envelopes and thirty plain messages on two topics at once: all arrive, the envelopes in order. */
static void test_plain_and_envelopes_on_two_topics_at_once(void **state)
{
    struct suite *s = *state;
    const char *ordered = suite_topic(s, "ordered"), *loose = suite_topic(s, "loose");
    struct tally *envelopes = suite_tally(s), *plain = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, ordered, envelopes, NULL);
    (void)suite_sub_plain(bus, loose, plain, NULL);
    for (int i = 1; i <= 30; i++) {
        suite_publish_plain(bus, loose, "x");
        if (i <= 20)
            suite_publish(bus, ordered, "order-1", i);
    }
    assert_true(tally_await(envelopes, &envelopes->acked, 20));
    assert_true(tally_await(plain, &plain->acked, 30));
    suite_close(s, bus);
    tally_check_order(envelopes);
    tally_check_complete(envelopes, 1, 20);
    assert_int_equal(plain->started, 30);
}

/* An ephemeral topic is never stored: who is not there misses the message, and envelopes are refused. */
static void test_plain_ephemeral_topic_stores_nothing(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "ticks");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open_shared(s, NULL), *other = suite_open_shared(s, NULL);
    const evbus_topic_opts ephemeral = {.struct_size = sizeof ephemeral, .persistence = EVBUS_EPHEMERAL};
    const evbus_envelope env = suite_envelope_of("a", 1);

    must(evbus_topic_configure(bus, topic, &ephemeral));
    must(evbus_topic_configure(other, topic, &ephemeral));
    suite_publish_plain(other, topic, "missed");
    must_reach(other, publishes_core, 1);
    (void)suite_sub_plain(bus, topic, t, NULL);
    suite_publish_plain(other, topic, "seen");
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_at(t, 0)->body, "seen");
    assert_int_equal(tally_at(t, 0)->sequence, 0);
    assert_string_equal(tally_at(t, 0)->stream, "");
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &env, NULL));
    must_mention("ephemeral");
    must_be(EVBUS_INVALID,
            evbus_subscribe_envelope(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .group = "other"), NULL));
    suite_close(s, other);
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
}

/* Publishing needs no subscriber: what the stream holds is there for the group that comes later. */
static void test_plain_messages_wait_for_their_first_subscriber(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "early");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    for (int i = 0; i < 10; i++)
        suite_publish_plain(bus, topic, "early");
    must_reach(bus, publishes_stored, 10);
    (void)suite_sub_plain(bus, topic, t, NULL);
    assert_true(tally_await(t, &t->acked, 10));
    suite_close(s, bus);
    assert_int_equal(t->started, 10);
}

const struct suite_case suite_plain_cases[] = {
    SUITE_CASE(test_plain_message_arrives_once),
    SUITE_CASE(test_plain_options_travel_with_the_message),
    SUITE_CASE(test_plain_headers_with_an_empty_value_are_refused),
    SUITE_CASE(test_plain_fan_in_loses_none_and_keeps_each_threads_order),
    SUITE_CASE(test_plain_bodies_are_kept_byte_for_byte),
    SUITE_TIMED(test_plain_failing_handler_runs_once_per_message),
    SUITE_CASE(test_plain_one_failure_spoils_no_other_message),
    SUITE_CASE(test_plain_slow_handlers_all_complete),
    SUITE_CASE(test_plain_subscription_sees_an_envelope_as_bytes),
    SUITE_CASE(test_plain_and_envelopes_on_two_topics_at_once),
    SUITE_CASE(test_plain_ephemeral_topic_stores_nothing),
    SUITE_CASE(test_plain_messages_wait_for_their_first_subscriber),
    {NULL, NULL, false},
};
