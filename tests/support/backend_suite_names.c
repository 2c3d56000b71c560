/* SPDX-License-Identifier: Apache-2.0 */
/* Names: which topics are legal, what patterns match, and that every call holds to the same rules. */
#include "backend_suite_case.h"

static evbus_verdict acknowledge(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    return EVBUS_ACK;
}

/* Every call that takes a topic refuses this one, and says why. */
static void refused_everywhere(evbus *bus, const char *topic, const char *why)
{
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_topic_opts opts;
    evbus_topic_statistics stats;

    must_be(EVBUS_INVALID, evbus_publish(bus, topic, "x", 1, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &env, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_subscribe(bus, topic, acknowledge, NULL, NULL, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, NULL, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, NULL));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_topic_config(bus, topic, &opts));
    must_mention(why);
    must_be(EVBUS_INVALID, evbus_topic_stats(bus, topic, &stats));
    must_mention(why);
}

/* Valid names work in every call: one letter, 255 of them, digits, punctuation, many tokens. */
static void test_names_valid_ones_work_everywhere(void **state)
{
    static const char *const names[] = {
        "a", "0123456789", "a_b-c.D", "A.b.C.d.e.f.g", "x!\"#%&'()+,/:;<=?@[]^`{|}~", "$notreserved.x"};
    enum { COUNT = sizeof names / sizeof names[0] };
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_topic_opts opts;
    char longest[256];

    for (size_t i = 0; i <= COUNT; i++) {
        const char *topic = i < COUNT ? suite_topic(s, "%s", names[i]) : longest;
        (void)snprintf(longest, sizeof longest, "%s.", s->name);
        memset(longest + strlen(longest), 'a', 255 - strlen(longest));
        longest[255] = 0;
        must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .max_msgs = 10)));
        must(evbus_topic_config(bus, topic, &opts));
        (void)suite_sub(bus, topic, t, NULL);
        suite_publish(bus, topic, "a", 1);
        assert_true(tally_await(t, &t->acked, i + 1));
        assert_string_equal(tally_at(t, i)->topic, topic);
        assert_int_equal(suite_topic_stats_of(bus, topic).publishes_accepted, 1);
    }
    suite_close(s, bus);
}

/* "dlq." and a name of 255 bytes would be too long: the dead-letter topic is a shorter name, another one for each topic. */
static void test_names_of_dead_letter_topics_are_never_too_long(void **state)
{
    static const char *const headers[] = {"Evbus-Topic", NULL};
    struct suite *s = *state;
    struct tally *t = suite_tally(s), *letters = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char longest[2][256];

    (void)suite_letters(s, bus,
                        suite_topic(s, "any")); /* so that dead letters have a stream, which the pattern needs */
    letters->capture = headers;
    (void)suite_sub_plain(bus, "dlq.>", letters,
                          EVBUS_OPTS(evbus_sub_opts, .group = s->name, .start = EVBUS_START_NEW));
    for (int i = 0; i < 2; i++) {
        memset(longest[i], 'a', 255);
        (void)memcpy(longest[i], s->name, strlen(s->name));
        longest[i][254] = (char)('x' + i);
        longest[i][255] = 0;
        (void)suite_sub(bus, longest[i], t, NULL);
        suite_publish_plain(bus, longest[i], "no envelope");
        assert_true(tally_await(letters, &letters->acked, (size_t)i + 1));
        assert_string_equal(tally_header(letters, tally_at(letters, (size_t)i), "Evbus-Topic"), longest[i]);
    }
    suite_close(s, bus);
    assert_string_not_equal(tally_at(letters, 0)->topic, tally_at(letters, 1)->topic);
    assert_int_equal(strncmp(tally_at(letters, 0)->topic, "dlq.", 4), 0);
}

/* Invalid names are refused by every call alike; the text names the rule, the byte and its position. */
static void test_names_invalid_ones_are_refused_everywhere(void **state)
{
    static const struct {
        const char *name, *why;
    } bad[] = {
        {"", "empty"},
        {"has space", "space"},
        {" first", "space"},
        {"last ", "space"},
        {"\xe8\xae\xa2\xe5\x8d\x95", "position 0"},
        {"order-\xe8\xae\xa2", "position 6"},
        {"\xe3\x81\x82", "ASCII"},
        {"\xea\xb0\x80", "ASCII"},
        {"a\xf0\x9f\x98\x80", "position 1"},
        {"a\tb", "position 1"},
        {"a\x7f", "0x7f"},
        {"ab\x01", "0x01"},
        {".a", "position 0"},
        {"a.", "empty token"},
        {"a..b", "empty token"},
        {"a.b*", "*"},
        {"a.>.b", ">"},
        {"a>", ">"},
        {NULL, "NULL"},
    };
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    char longer[301];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused_everywhere(bus, bad[i].name, bad[i].why);
    memset(longer, 'a', 300);
    longer[300] = 0;
    refused_everywhere(bus, longer, "300");
    longer[256] = 0;
    refused_everywhere(bus, longer, "255");
    assert_int_equal(suite_stats_of(bus).topics, 0);
    suite_close(s, bus);
}

/* Group names have their own rule. */
static void test_names_of_groups_are_checked(void **state)
{
    static const char *const bad[] = {"", "a b", "a.b", "a*", "\xc3\xa4", "a/b"};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL), *other = NULL;
    char name[66];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, acknowledge, NULL,
                                                        EVBUS_OPTS(evbus_sub_opts, .group = bad[i]), NULL));
        must_mention("group");
        must_be(EVBUS_INVALID, suite_try_open(s, false, EVBUS_OPTS(evbus_opts, .name = bad[i]), &other));
        must_mention("name");
    }
    memset(name, 'g', 65);
    name[65] = 0;
    must_be(EVBUS_INVALID,
            evbus_subscribe_envelope(bus, topic, acknowledge, NULL, EVBUS_OPTS(evbus_sub_opts, .group = name), NULL));
    must_mention("65");
    name[64] = 0;
    must(evbus_subscribe_envelope(bus, topic, acknowledge, NULL, EVBUS_OPTS(evbus_sub_opts, .group = name), NULL));
    suite_close(s, bus);
}

/* Names that differ only in what streams and durables may not contain are different topics all the same. */
static void test_names_that_look_alike_are_kept_apart(void **state)
{
    static const char *const names[] = {"a.b", "a_b", "a-b", "a/b", "A.b"};
    struct suite *s = *state;
    struct tally *t[5];
    evbus *bus = suite_open(s, NULL);

    for (size_t i = 0; i < 5; i++) {
        t[i] = suite_tally(s);
        (void)suite_sub(bus, suite_topic(s, "%s", names[i]), t[i], NULL);
    }
    for (size_t i = 0; i < 5; i++)
        suite_publish(bus, suite_topic(s, "%s", names[i]), "a", (int64_t)i + 1);
    for (size_t i = 0; i < 5; i++)
        assert_true(tally_await(t[i], &t[i]->acked, 1));
    suite_close(s, bus);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(t[i]->started, 1);
        assert_int_equal(tally_at(t[i], 0)->version, i + 1);
    }
}

/* ---- Patterns ---------------------------------------------------------------------------------------------------- */

/* Publishing and configuring refuse patterns; subscribing refuses malformed ones. */
static void test_names_patterns_are_for_subscribing_only(void **state)
{
    static const char *const patterns[] = {"*", ">", "a.*", "a.*.c", "a.>"};
    static const char *const malformed[] = {"a*", "a.b*.c", "a.>.c", ">.a", "a.>b", "*.", "a.**"};
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_topic_opts opts;

    for (size_t i = 0; i < 5; i++) {
        must_be(EVBUS_INVALID, evbus_publish(bus, patterns[i], "x", 1, NULL));
        must_mention("wildcard");
        must_be(EVBUS_INVALID, evbus_publish_envelope(bus, patterns[i], &env, NULL));
        must_be(EVBUS_INVALID, evbus_publish_envelope_wait(bus, patterns[i], &env, NULL, NULL));
        must_be(EVBUS_INVALID, evbus_topic_configure(bus, patterns[i], NULL));
        must_mention("wildcard");
        must_be(EVBUS_INVALID, evbus_topic_config(bus, patterns[i], &opts));
    }
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++)
        must_be(EVBUS_INVALID, evbus_subscribe(bus, malformed[i], acknowledge, NULL, NULL, NULL));
    suite_close(s, bus);
}

/* A pattern that no stream covers is not found. */
static void test_names_pattern_without_a_stream_is_not_found(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);

    must_be(EVBUS_NOT_FOUND, evbus_subscribe_envelope(bus, suite_topic(s, "none.>"), acknowledge, NULL, NULL, NULL));
    must_mention("none.>");
    assert_int_equal(suite_stats_of(bus).subscriptions, 0);
    suite_publish(bus, suite_topic(s, "some.one"), "a", 1); /* has a stream of its own, which covers only itself */
    must_reach(bus, publishes_stored, 1);
    must_be(EVBUS_NOT_FOUND, evbus_subscribe_envelope(bus, suite_topic(s, "some.*"), acknowledge, NULL, NULL, NULL));
    suite_close(s, bus);
}

/* Plain messages of a pattern without a stream come unstored. */
static void test_names_plain_pattern_without_a_stream_gets_what_is_unstored(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "none.eu"), *pattern = suite_topic(s, "none.*");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL)));
    (void)suite_sub_plain(bus, pattern, t, NULL);
    suite_publish_plain(bus, topic, "x");
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_at(t, 0)->topic, topic);
    assert_int_equal(tally_at(t, 0)->sequence, 0);
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
}

/* With a default stream, * matches one token and > the rest; messages come with their real topic; order per aggregate
 * holds within the topic. */
static void test_names_patterns_match_what_they_say(void **state)
{
    static const char *const topics[] = {"eu.orders", "eu.bills", "us.orders", "eu.orders.new", "eu"};
    struct suite *s = *state;
    struct tally *any = suite_tally(s), *eu = suite_tally(s), *orders = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .stream = s->name, .stream_subjects = suite_topic(s, ">")));

    (void)suite_sub(bus, suite_topic(s, ">"), any, EVBUS_OPTS(evbus_sub_opts, .group = "any"));
    (void)suite_sub(bus, suite_topic(s, "eu.*"), eu, EVBUS_OPTS(evbus_sub_opts, .group = "eu"));
    (void)suite_sub(bus, suite_topic(s, "*.orders"), orders, EVBUS_OPTS(evbus_sub_opts, .group = "orders"));
    for (int version = 1; version <= 4; version++)
        for (size_t i = 0; i < 5; i++)
            suite_publish(bus, suite_topic(s, "%s", topics[i]), "a", version);
    assert_true(tally_await(any, &any->acked, 20));
    assert_true(tally_await(eu, &eu->acked, 8));
    assert_true(tally_await(orders, &orders->acked, 8));
    suite_close(s, bus);
    assert_int_equal(any->started, 20);
    assert_int_equal(eu->started, 8);
    assert_int_equal(orders->started, 8);
    tally_check_order(any);
    tally_check_complete(any, 5, 4);
    tally_check_complete(eu, 2, 4);
    tally_check_complete(orders, 2, 4);
    for (size_t i = 0; i < 8; i++) {
        assert_null(strstr(tally_at(eu, i)->topic, ".us."));
        assert_non_null(strstr(tally_at(orders, i)->topic, ".orders"));
        assert_string_equal(tally_at(eu, i)->stream, s->name);
    }
}

/* A pattern and a topic it matches may be subscribed in one group: they are two durables, each gets everything. */
static void test_names_pattern_and_topic_are_two_subscriptions(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "eu.orders");
    struct tally *pattern = suite_tally(s), *exact = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .stream = s->name, .stream_subjects = suite_topic(s, ">")));

    (void)suite_sub_plain(bus, suite_topic(s, ">"), pattern, NULL);
    (void)suite_sub_plain(bus, topic, exact, NULL);
    suite_publish_plain(bus, topic, "x");
    assert_true(tally_await(pattern, &pattern->acked, 1));
    assert_true(tally_await(exact, &exact->acked, 1));
    suite_close(s, bus);
}

/* Dead letters of a pattern's messages name the real topic. */
static void test_names_letters_of_a_pattern_name_the_real_topic(void **state)
{
    static const char *const headers[] = {"Evbus-Topic", NULL};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "eu.orders"), *morgue = suite_topic(s, "morgue");
    struct tally *t = suite_tally(s), *letters = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .stream = s->name, .stream_subjects = suite_topic(s, "eu.>")));

    letters->capture = headers;
    (void)suite_sub_plain(bus, morgue, letters, NULL);
    (void)suite_sub(bus, suite_topic(s, "eu.*"), t, EVBUS_OPTS(evbus_sub_opts, .dead_letter_topic = morgue));
    suite_publish_plain(bus, topic, "no envelope");
    assert_true(tally_await(letters, &letters->acked, 1));
    assert_string_equal(tally_header(letters, tally_at(letters, 0), "Evbus-Topic"), topic);
    suite_close(s, bus);
    assert_int_equal(t->started, 0);
}

const struct suite_case suite_names_cases[] = {
    SUITE_CASE(test_names_valid_ones_work_everywhere),
    SUITE_CASE(test_names_of_dead_letter_topics_are_never_too_long),
    SUITE_CASE(test_names_invalid_ones_are_refused_everywhere),
    SUITE_CASE(test_names_of_groups_are_checked),
    SUITE_CASE(test_names_that_look_alike_are_kept_apart),
    SUITE_CASE(test_names_patterns_are_for_subscribing_only),
    SUITE_CASE(test_names_pattern_without_a_stream_is_not_found),
    SUITE_CASE(test_names_plain_pattern_without_a_stream_gets_what_is_unstored),
    SUITE_CASE(test_names_patterns_match_what_they_say),
    SUITE_CASE(test_names_pattern_and_topic_are_two_subscriptions),
    SUITE_CASE(test_names_letters_of_a_pattern_name_the_real_topic),
    {NULL, NULL, false},
};
