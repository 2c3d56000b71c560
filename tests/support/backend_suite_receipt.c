/* SPDX-License-Identifier: Apache-2.0 */
/* How a publish ends: receipts, duplicates, refusals by the broker. */
#include "backend_suite_case.h"

#include <ctype.h>

static bool is_uuid7(const char *id)
{
    if (strlen(id) != 36 || id[14] != '7' || !strchr("89ab", id[19]))
        return false;
    for (int i = 0; i < 36; i++) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? id[i] != '-' : !isxdigit((unsigned char)id[i]) || isupper((unsigned char)id[i]))
            return false;
    }
    return true;
}

/* A receipt says exactly what was published, where it is stored, and when. */
static void test_receipt_is_exact(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_receipt r;
    const evbus_envelope env = {.event_id = "ev-1",
                                .aggregate_id = "order-42",
                                .event_type = "t",
                                .event_version = 1,
                                .tenant_id = 77,
                                .payload = "1"};

    (void)suite_sub(bus, topic, t, NULL);
    const int64_t before = suite_now_ns(s);
    evbus_receipt_init(&r);
    must(evbus_publish_envelope_wait(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .tag = UINT64_MAX), &r));
    const int64_t after = suite_now_ns(s);
    assert_true(tally_await(t, &t->acked, 1));
    assert_int_equal(r.struct_size, sizeof r);
    assert_int_equal(r.outcome, EVBUS_OUTCOME_STORED);
    assert_int_equal(r.status, EVBUS_OK);
    assert_true(r.tag == UINT64_MAX);
    assert_int_equal(r.sequence, tally_at(t, 0)->sequence);
    assert_int_equal(r.tenant_id, 77);
    assert_true(before <= r.accepted_ns && r.accepted_ns <= r.completed_ns && r.completed_ns <= after);
    assert_false(r.duplicate);
    assert_true(r.is_envelope);
    assert_int_equal(r.broker_code, 0);
    assert_string_equal(r.event_id, "ev-1");
    assert_string_equal(r.aggregate_id, "order-42");
    assert_string_equal(r.topic, topic);
    assert_true(r.stream[0] != 0);
    assert_string_equal(r.stream, tally_at(t, 0)->stream);
    assert_string_equal(r.detail, "");
    suite_close(s, bus);
}

/* Without an event id a UUIDv7 is made: every one different, each in the receipt and in the message. */
static void test_receipt_has_the_event_id_that_was_made(void **state)
{
    enum { COUNT = 20 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_receipt r[COUNT];

    (void)suite_sub(bus, topic, t, NULL);
    for (int i = 0; i < COUNT; i++) {
        r[i] = suite_publish_wait(bus, topic, "a", i + 1);
        assert_true(is_uuid7(r[i].event_id));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(r[i].event_id, r[k].event_id);
    }
    assert_true(tally_await(t, &t->acked, COUNT));
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(tally_at(t, (size_t)i)->event_id, r[i].event_id);
    suite_close(s, bus);
}

/* Sequences in the stream increase from publish to publish. */
static void test_receipt_sequences_increase(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    uint64_t last = 0;

    for (int i = 1; i <= 20; i++) {
        const evbus_receipt r = suite_publish_wait(bus, topic, "a", i);
        assert_true(r.sequence > last);
        last = r.sequence;
    }
    suite_close(s, bus);
}

static evbus_receipt publish_with_id(evbus *bus, const char *topic, const char *event_id)
{
    evbus_envelope env = suite_envelope_of("a", 1);
    evbus_receipt r;

    env.event_id = event_id;
    evbus_receipt_init(&r);
    must(evbus_publish_envelope_wait(bus, topic, &env, NULL, &r));
    return r;
}

/* The same event id on one topic is stored once, and the second receipt says so; on two topics it is stored twice, also
 * when one stream holds both. */
static void test_receipt_tells_a_duplicate(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *other = suite_topic(s, "bills");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .stream = s->name, .stream_subjects = suite_topic(s, ">")));
    char long_id[250];

    (void)suite_sub(bus, topic, t, NULL);
    const evbus_receipt first = publish_with_id(bus, topic, "the-id");
    const evbus_receipt again = publish_with_id(bus, topic, "the-id");
    const evbus_receipt elsewhere = publish_with_id(bus, other, "the-id");
    assert_false(first.duplicate);
    assert_true(again.duplicate);
    assert_int_equal(again.outcome, EVBUS_OUTCOME_STORED);
    assert_int_equal(again.sequence, first.sequence);
    assert_false(elsewhere.duplicate);
    assert_string_equal(elsewhere.stream, first.stream);
    assert_true(elsewhere.sequence > first.sequence);

    memset(long_id, 'x', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = 0;
    assert_false(publish_with_id(bus, topic, long_id).duplicate);
    assert_true(publish_with_id(bus, topic, long_id).duplicate);
    long_id[sizeof long_id - 2] = 'y';
    assert_false(publish_with_id(bus, topic, long_id).duplicate);
    assert_false(publish_with_id(bus, topic, "\xc3\xa4 b").duplicate);
    assert_true(publish_with_id(bus, topic, "\xc3\xa4 b").duplicate);

    assert_true(tally_await(t, &t->acked, 4));
    suite_close(s, bus);
    assert_int_equal(t->started, 4);
}

/* A topic may do without the message id; then repeating is storing twice. */
static void test_receipt_without_message_ids_never_tells_a_duplicate(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .msg_id = EVBUS_OFF)));
    const evbus_receipt first = publish_with_id(bus, topic, "the-id"), again = publish_with_id(bus, topic, "the-id");
    assert_false(again.duplicate);
    assert_true(again.sequence > first.sequence);
    assert_int_equal(suite_stats_of(bus).publishes_duplicate, 0);
    suite_close(s, bus);
}

/* What the duplicate window has forgotten is stored again. */
static void test_receipt_duplicate_window_ends(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .duplicate_window_ms = 300)));
    const evbus_receipt first = publish_with_id(bus, topic, "the-id");
    suite_pass(s, 1500);
    const evbus_receipt again = publish_with_id(bus, topic, "the-id");
    assert_false(again.duplicate);
    assert_true(again.sequence > first.sequence);
    suite_close(s, bus);
}

/* What a full stream (discard new) refuses ends refused: in the receipt, in the callback, in the counters. */
static void test_receipt_of_a_refused_publish_says_why(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "full");
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("order-1", 2);
    evbus_receipt r;

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 1, .discard = EVBUS_DISCARD_NEW)));
    (void)suite_publish_wait(bus, topic, "order-1", 1);
    evbus_receipt_init(&r);
    const evbus_status st = evbus_publish_envelope_wait(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .tag = 5), &r);
    assert_true(st == EVBUS_LIMIT || st == EVBUS_REFUSED);
    must_mention(topic);
    assert_int_equal(r.outcome, EVBUS_OUTCOME_REFUSED);
    assert_int_equal(r.status, st);
    assert_int_equal(r.tag, 5);
    assert_true(r.detail[0] != 0);
    assert_true(r.broker_code != 0);
    assert_string_equal(r.aggregate_id, "order-1");
    assert_true(is_uuid7(r.event_id));
    assert_int_equal(suite_receipt_count(s), 0); /* who waited was told already */

    must(evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .tag = 6)));
    must(evbus_publish(bus, topic, "plain", 5, EVBUS_OPTS(evbus_pub_opts, .tag = 7)));
    const evbus_receipt one = suite_receipt_at(s, 0), two = suite_receipt_at(s, 1);
    assert_int_equal(one.tag + two.tag, 13);
    assert_int_equal(one.outcome, EVBUS_OUTCOME_REFUSED);
    assert_int_equal(one.status, st);
    assert_string_equal(one.topic, topic);
    assert_true(one.is_envelope != two.is_envelope);
    must_reach(bus, publishes_refused, 3);
    assert_int_equal(suite_topic_stats_of(bus, topic).publishes_refused, 3);
    suite_close(s, bus);
}

/* A publish that is not accepted fills the receipt too. */
static void test_receipt_is_written_when_nothing_was_accepted(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .topics_max = 1));
    evbus_envelope env = suite_envelope_of("a", 1);
    evbus_receipt r;

    env.event_id = "the-id";
    (void)suite_publish_wait(bus, suite_topic(s, "one"), "a", 1);
    evbus_receipt_init(&r);
    must_be(EVBUS_LIMIT,
            evbus_publish_envelope_wait(bus, suite_topic(s, "two"), &env, EVBUS_OPTS(evbus_pub_opts, .tag = 9), &r));
    assert_int_equal(r.outcome, EVBUS_OUTCOME_REFUSED);
    assert_int_equal(r.status, EVBUS_LIMIT);
    assert_int_equal(r.tag, 9);
    assert_string_equal(r.event_id, "the-id");
    assert_non_null(strstr(r.detail, "topics_max"));
    assert_int_equal(r.struct_size, sizeof r);
    suite_close(s, bus);
}

/* The receipt is not wanted by everybody. */
static void test_receipt_may_be_null(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);

    must(evbus_publish_envelope_wait(bus, suite_topic(s, "orders"), &env, NULL, NULL));
    suite_close(s, bus);
}

/* Messages above what the broker takes are refused before anything is sent. */
static void test_receipt_refuses_what_is_too_large(void **state)
{
    enum { SIZE = 70 << 20 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "large");
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .publish_bytes_max = UINT64_C(1) << 30));
    char *large = suite_alloc(s, SIZE + 1);
    evbus_envelope env = suite_envelope_of("a", 1);

    memset(large, 'x', SIZE);
    large[0] = large[SIZE - 1] = '"';
    env.payload = large;
    must_be(EVBUS_TOO_LARGE, evbus_publish(bus, topic, large, SIZE, NULL));
    must_be(EVBUS_TOO_LARGE, evbus_publish_envelope(bus, topic, &env, NULL));
    must_be(EVBUS_TOO_LARGE, evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL));
    assert_int_equal(suite_stats_of(bus).publishes_accepted, 0);
    suite_close(s, bus);
}

const struct suite_case suite_receipt_cases[] = {
    SUITE_CASE(test_receipt_is_exact),
    SUITE_CASE(test_receipt_has_the_event_id_that_was_made),
    SUITE_CASE(test_receipt_sequences_increase),
    SUITE_CASE(test_receipt_tells_a_duplicate),
    SUITE_CASE(test_receipt_without_message_ids_never_tells_a_duplicate),
    SUITE_TIMED(test_receipt_duplicate_window_ends),
    SUITE_CASE(test_receipt_of_a_refused_publish_says_why),
    SUITE_CASE(test_receipt_is_written_when_nothing_was_accepted),
    SUITE_CASE(test_receipt_may_be_null),
    SUITE_CASE(test_receipt_refuses_what_is_too_large),
    {NULL, NULL, false},
};
