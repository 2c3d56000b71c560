/* SPDX-License-Identifier: Apache-2.0 */
/* Topics: their options, their streams, how many there may be. */
#include "backend_suite_case.h"

/* What is set comes back, and every default is filled in. */
static void test_topic_config_comes_back_with_defaults_filled_in(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_topic_opts o;

    must(evbus_topic_configure(bus, topic,
                               EVBUS_OPTS(evbus_topic_opts, .max_msgs = 5, .max_age_ms = 60000, .stream = "SOME")));
    must(evbus_topic_config(bus, topic, &o));
    assert_int_equal(o.struct_size, sizeof o);
    assert_string_equal(o.stream, "SOME");
    assert_int_equal(o.max_age_ms, 60000);
    assert_int_equal(o.max_bytes, UINT64_C(1) << 30);
    assert_int_equal(o.max_msgs, 5);
    assert_int_equal(o.persistence, EVBUS_PERSIST_AUTO);
    assert_int_equal(o.storage, EVBUS_STORAGE_FILE);
    assert_int_equal(o.discard, EVBUS_DISCARD_OLD);
    assert_int_equal(o.replicas, 1);
    assert_int_equal(o.duplicate_window_ms, 120000);
    assert_int_equal(o.msg_id, EVBUS_ON);
    assert_int_equal(o.fallback, EVBUS_ON);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_PERSISTENT)));
    must(evbus_topic_config(bus, topic, &o));
    assert_null(o.stream);
    assert_int_equal(o.max_msgs, 0);
    assert_int_equal(o.max_age_ms, UINT64_C(7) * 24 * 3600 * 1000);
    assert_int_equal(o.persistence, EVBUS_PERSISTENT);
    must(evbus_topic_configure(bus, topic, NULL));
    must(evbus_topic_config(bus, topic, &o));
    assert_int_equal(o.persistence, EVBUS_PERSIST_AUTO);
    suite_close(s, bus);
}

/* A topic that was never configured is not found, used or not, and its defaults are filled in all the same. */
static void test_topic_config_of_an_unknown_topic_holds_the_defaults(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_topic_opts o = {0};

    must_be(EVBUS_NOT_FOUND, evbus_topic_config(bus, topic, &o));
    must_mention(topic);
    assert_int_equal(o.struct_size, sizeof o);
    assert_int_equal(o.storage, EVBUS_STORAGE_FILE);
    suite_publish_plain(bus, topic, "x");
    must_be(EVBUS_NOT_FOUND, evbus_topic_config(bus, topic, &o));
    must_be(EVBUS_INVALID, evbus_topic_config(bus, topic, NULL));
    suite_close(s, bus);
}

/* Persistent and ephemeral topics side by side, configured at the start: both work, each in its way. */
static void test_topic_persistent_and_ephemeral_side_by_side(void **state)
{
    struct suite *s = *state;
    const char *kept = suite_topic(s, "kept"), *loose = suite_topic(s, "loose");
    struct tally *t = suite_tally(s), *u = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, kept, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_PERSISTENT)));
    must(evbus_topic_configure(bus, loose, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL)));
    (void)suite_sub_plain(bus, kept, t, NULL);
    (void)suite_sub_plain(bus, loose, u, NULL);
    suite_publish_plain(bus, kept, "k");
    suite_publish_plain(bus, loose, "l");
    assert_true(tally_await(t, &t->acked, 1));
    assert_true(tally_await(u, &u->acked, 1));
    assert_true(tally_at(t, 0)->sequence > 0);
    assert_int_equal(tally_at(u, 0)->sequence, 0);
    must_reach(bus, publishes_stored, 1);
    must_reach(bus, publishes_core, 1);
    assert_int_equal(suite_topic_stats_of(bus, kept).stream_known, 1);
    assert_int_equal(suite_topic_stats_of(bus, loose).publishes_core, 1);
    suite_close(s, bus);
}

/* A topic may name its stream; several topics may share it. Their sequences are those of one stream. */
static void test_topic_may_name_its_stream(void **state)
{
    struct suite *s = *state;
    const char *one = suite_topic(s, "one"), *two = suite_topic(s, "two");
    evbus *bus = suite_open(s, NULL);
    char stream[64];

    (void)snprintf(stream, sizeof stream, "SHARED_%s", s->name);
    must(evbus_topic_configure(bus, one, EVBUS_OPTS(evbus_topic_opts, .stream = stream)));
    must(evbus_topic_configure(bus, two, EVBUS_OPTS(evbus_topic_opts, .stream = stream)));
    const evbus_receipt first = suite_publish_wait(bus, one, "a", 1), second = suite_publish_wait(bus, two, "a", 1);
    assert_string_equal(first.stream, stream);
    assert_string_equal(second.stream, stream);
    assert_int_equal(first.sequence, 1);
    assert_int_equal(second.sequence, 2);
    assert_int_equal(suite_stats_of(bus).streams_created, 1);
    (void)suite_event(s, EVBUS_EVENT_STREAM_CREATED, 0);
    suite_close(s, bus);
}

struct first_publish {
    evbus *bus;
    const char *topics[4];
};

static void publish_first(int index, void *arg)
{
    const struct first_publish *p = arg;
    const evbus_envelope env = suite_envelope_of("a", 1);

    thread_must(evbus_publish_envelope_wait(p->bus, p->topics[index % 4], &env, NULL, NULL) == EVBUS_OK);
}

/* Sixteen threads publish to four new topics of one stream at once: each topic is added to it, nothing is lost. */
static void test_topic_first_publishes_at_once_all_find_their_stream(void **state)
{
    struct suite *s = *state;
    struct first_publish p = {.bus = suite_open(s, NULL)};
    struct tally *t = suite_tally(s);
    char stream[64];

    (void)snprintf(stream, sizeof stream, "FOUR_%s", s->name);
    for (int i = 0; i < 4; i++) {
        p.topics[i] = suite_topic(s, "t%d", i);
        must(evbus_topic_configure(p.bus, p.topics[i], EVBUS_OPTS(evbus_topic_opts, .stream = stream)));
    }
    suite_threads(16, publish_first, &p);
    for (int i = 0; i < 4; i++)
        (void)suite_sub(p.bus, p.topics[i], t, NULL);
    assert_true(tally_await(t, &t->acked, 16));
    suite_close(s, p.bus);
    assert_int_equal(t->started, 16);
}

/* A stream that exists with other settings is used as it is, and that is said. */
static void test_topic_with_a_different_stream_is_reported(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    must(evbus_topic_configure(one, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 100)));
    (void)suite_publish_wait(one, topic, "a", 1);
    must(evbus_topic_configure(two, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 200)));
    (void)suite_publish_wait(two, topic, "a", 2);
    const struct suite_event event = suite_event(s, EVBUS_EVENT_STREAM_DIFFERS, 0);
    assert_string_equal(event.topic, topic);
    assert_non_null(strstr(event.text, "max_msgs"));
    suite_close(s, two);
    suite_close(s, one);
}

/* What was wrong with a topic's stream is said each time, also while the answer is remembered. */
static void test_topic_of_a_wrong_stream_says_why_again(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *one = suite_open_shared(s, NULL);
    evbus *two = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .lookup_retry_ms = 3600000));
    const evbus_envelope env = suite_envelope_of("a", 2);
    evbus_sub *sub = NULL;
    char first[64], second[64];

    (void)snprintf(first, sizeof first, "FIRST_%s", s->name);
    (void)snprintf(second, sizeof second, "SECOND_%s", s->name);
    must(evbus_topic_configure(one, topic, EVBUS_OPTS(evbus_topic_opts, .stream = first)));
    (void)suite_publish_wait(one, topic, "a", 1);
    must(evbus_topic_configure(two, topic, EVBUS_OPTS(evbus_topic_opts, .stream = second)));
    must_be(EVBUS_MISMATCH, evbus_publish_envelope(two, topic, &env, NULL));
    must_mention("another stream than configured");
    must_be(EVBUS_MISMATCH, evbus_publish_envelope(two, topic, &env, NULL));
    must_mention("a moment ago");
    must_mention("another stream than configured");
    must_be(EVBUS_MISMATCH, evbus_subscribe_envelope(two, topic, tally_handle, suite_tally(s), NULL, &sub));
    must_mention("another stream than configured");
    suite_close(s, two);
    suite_close(s, one);
}

/* A stream with a bound drops its oldest messages (the default) when it is full. */
static void test_topic_full_stream_drops_the_oldest(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 3)));
    for (int i = 1; i <= 10; i++)
        (void)suite_publish_wait(bus, topic, "a", i);
    (void)suite_sub(bus, topic, t, NULL);
    assert_true(tally_await(t, &t->acked, 3));
    suite_close(s, bus);
    assert_int_equal(t->started, 3);
    assert_int_equal(tally_at(t, 0)->version, 8);
}

/* Messages older than max_age_ms are gone. */
static void test_topic_old_messages_go(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_age_ms = 500)));
    (void)suite_publish_wait(bus, topic, "a", 1);
    suite_pass(s, 2000);
    (void)suite_publish_wait(bus, topic, "a", 2);
    (void)suite_sub(bus, topic, t, NULL);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    assert_int_equal(tally_at(t, 0)->version, 2);
}

static evbus_verdict reject(const evbus_msg *msg, void *ctx)
{
    (void)msg, (void)ctx;
    return EVBUS_REJECT;
}

/* topics_max bounds the topics of a bus; the error names the option, and known topics go on. */
static void test_topic_count_is_bounded(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .topics_max = 3));
    struct tally *t = suite_tally(s);
    const evbus_envelope env = suite_envelope_of("a", 1);

    for (int i = 0; i < 3; i++)
        suite_publish_plain(bus, suite_topic(s, "t%d", i), "x");
    assert_int_equal(suite_stats_of(bus).topics, 3);
    must_be(EVBUS_LIMIT, evbus_publish(bus, suite_topic(s, "t3"), "x", 1, NULL));
    must_mention("topics_max");
    must_be(EVBUS_LIMIT, evbus_publish_envelope(bus, suite_topic(s, "t3"), &env, NULL));
    must_be(EVBUS_LIMIT, evbus_subscribe(bus, suite_topic(s, "t3"), tally_handle, t, NULL, NULL));
    must_be(EVBUS_LIMIT, evbus_topic_configure(bus, suite_topic(s, "t3"), NULL));
    must_mention("topics_max");
    for (int i = 0; i < 3; i++)
        suite_publish_plain(bus, suite_topic(s, "t%d", i), "x");
    must_reach(bus, publishes_stored, 6);
    /* What must be given up has its place all the same. */
    t->decide = reject;
    (void)suite_sub(bus, suite_topic(s, "t0"), t, EVBUS_OPTS(evbus_sub_opts, .start = EVBUS_START_NEW));
    suite_publish(bus, suite_topic(s, "t0"), "a", 1);
    must_reach(bus, dead_lettered, 1);
    assert_int_equal(suite_stats_of(bus).topics, 4);
    suite_close(s, bus);
}

/* Publishes to and subscribes `count` topics, all on one stream, and returns the number of threads by then. */
static int threads_with_topics(struct suite *s, const char *prefix, int count)
{
    struct tally *t = suite_tally(s);
    char stream[64];

    (void)snprintf(stream, sizeof stream, "MANY_%s_%s", s->name, prefix);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 4, .workers_max = 4, .stream = stream,
                                          .stream_subjects = suite_topic(s, "%s.>", prefix)));

    for (int i = 0; i < count; i++)
        (void)suite_sub(bus, suite_topic(s, "%s.t%d", prefix, i), t, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 4));
    for (int i = 0; i < count; i++)
        suite_publish(bus, suite_topic(s, "%s.t%d", prefix, i), "a", 1);
    assert_true(tally_await(t, &t->acked, (size_t)count));
    must_reach(bus, handled, (uint64_t)count);
    assert_int_equal(suite_stats_of(bus).subscriptions, count);
    const int threads = census_threads();
    suite_close(s, bus);
    assert_int_equal(t->started, count);
    return threads;
}

/* Very many topics, each published to and subscribed, need not one thread more than a single one. */
static void test_topic_many_need_no_more_threads_than_one(void **state)
{
    struct suite *s = *state;
    const int with_one = threads_with_topics(s, "one", 1);
    const int with_many = threads_with_topics(s, "many", (int)s->backend->topics_many);

    assert_int_equal(with_many, with_one);
}

/* The stream of a topic is made when there is none, and described as the broker has it. */
static void test_topic_stream_tells_its_limits_and_window(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *loose = suite_topic(s, "loose");
    evbus *bus = suite_open(s, NULL);
    evbus_stream_info info = {0};

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .duplicate_window_ms = 30000, .max_msgs = 7)));
    must(evbus_topic_stream(bus, topic, 0, &info));
    assert_int_equal(info.struct_size, sizeof info);
    assert_int_equal(info.duplicate_window_ms, 30000);
    assert_int_equal(info.max_msgs, 7);
    assert_int_equal(info.max_age_ms, UINT64_C(7) * 24 * 3600 * 1000);
    assert_int_equal(info.messages, 0);
    const evbus_receipt stored = suite_publish_wait(bus, topic, "a", 1);
    must(evbus_topic_stream(bus, topic, 0, &info));
    assert_string_equal(info.name, stored.stream);
    assert_int_equal(info.messages, 1);
    assert_int_equal(info.last_sequence, stored.sequence);
    must(evbus_topic_configure(bus, loose, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL)));
    must_be(EVBUS_INVALID, evbus_topic_stream(bus, loose, 0, &info));
    must_be(EVBUS_INVALID, evbus_topic_stream(bus, "orders.>", 0, &info));
    must_be(EVBUS_INVALID, evbus_topic_stream(bus, topic, 0, NULL));
    (void)suite_event(s, EVBUS_EVENT_STREAM_CREATED, 0);
    suite_close(s, bus);
}

const struct suite_case suite_topic_cases[] = {
    SUITE_CASE(test_topic_stream_tells_its_limits_and_window),
    SUITE_CASE(test_topic_config_comes_back_with_defaults_filled_in),
    SUITE_CASE(test_topic_config_of_an_unknown_topic_holds_the_defaults),
    SUITE_CASE(test_topic_persistent_and_ephemeral_side_by_side),
    SUITE_CASE(test_topic_may_name_its_stream),
    SUITE_CASE(test_topic_first_publishes_at_once_all_find_their_stream),
    SUITE_CASE(test_topic_with_a_different_stream_is_reported),
    SUITE_CASE(test_topic_of_a_wrong_stream_says_why_again),
    SUITE_CASE(test_topic_full_stream_drops_the_oldest),
    SUITE_TIMED(test_topic_old_messages_go),
    SUITE_CASE(test_topic_count_is_bounded),
    SUITE_CASE(test_topic_many_need_no_more_threads_than_one),
    {NULL, NULL, false},
};
