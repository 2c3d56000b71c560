/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters: what can never be handled goes to the dead-letter topic, once, whole, with its cause; then the
 * aggregate goes on. */
#include "backend_suite_case.h"

#define QUICK .retry_min_ms = 2, .retry_max_ms = 20

static uint64_t number(const char *text)
{
    return text ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* What every letter must say of where it comes from. */
static void check_origin(const struct tally *letters, const struct tally_entry *letter, const char *topic,
                         const char *group)
{
    assert_non_null(tally_header(letters, letter, "Evbus-Cause"));
    assert_string_equal(tally_header(letters, letter, "Evbus-Topic"), topic);
    assert_string_equal(tally_header(letters, letter, "Evbus-Group"), group);
    assert_non_null(tally_header(letters, letter, "Evbus-Stream"));
    assert_true(number(tally_header(letters, letter, "Evbus-Sequence")) > 0);
    assert_int_equal(number(tally_header(letters, letter, "Evbus-Deliveries")), 1);
}

/* A body that is no envelope goes to the dead-letter topic, once, with its bytes, its headers and the cause; no handler
 * sees it, and what is an envelope is handled. */
static void test_letter_of_a_body_that_is_no_envelope(void **state)
{
    static const char *const bodies[] = {
        "not json",
        "{}",
        "[]",
        "{\"event_id\":\"e\",\"aggregate_id\":\"a\"",
        "{\"event_id\":\"e\",\"aggregate_id\":\"a b\","
        "\"event_type\":\"t\",\"event_version\":1,\"timestamp\":\"2026-01-01T00:00:00Z\",\"payload\":1}",
        "\xff\xfe",
        ""};
    enum { COUNT = sizeof bodies / sizeof bodies[0] };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);
    const evbus_header headers[] = {{"X-Original", "kept"}, {NULL, NULL}};

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    for (size_t i = 0; i < COUNT; i++)
        must(evbus_publish(bus, topic, bodies[i], strlen(bodies[i]), EVBUS_OPTS(evbus_pub_opts, .headers = headers)));
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    assert_true(tally_await(letters, &letters->acked, COUNT));
    must_reach(bus, dead_lettered, COUNT);
    assert_int_equal(suite_stats_of(bus).not_envelope, COUNT);
    must_reach(bus, handler_runs, 1 + COUNT); /* and the letters' own handler */
    for (size_t i = 0; i < COUNT; i++) {
        const struct tally_entry *letter = NULL;
        for (size_t k = 0; k < COUNT; k++) /* plain messages come in no order */
            if (strcmp(tally_at(letters, k)->body, bodies[i]) == 0)
                letter = tally_at(letters, k);
        assert_non_null(letter);
        check_origin(letters, letter, topic, "g");
        assert_non_null(strstr(tally_header(letters, letter, "Evbus-Cause"), "not an envelope"));
        assert_non_null(tally_header(letters, letter, "Evbus-Detail"));
        assert_int_equal(number(tally_header(letters, letter, "Evbus-Attempts")), 0);
        assert_string_equal(tally_header(letters, letter, "X-Original"), "kept");
    }
    const struct suite_event event = suite_event(s, EVBUS_EVENT_DEAD_LETTER, COUNT - 1);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.group, "g");
    suite_close(s, bus);
    assert_int_equal(letters->started, COUNT);
    assert_int_equal(t->started, 1);
}

static evbus_verdict reject_with_reason(const evbus_msg *msg, void *reason)
{
    if (evbus_msg_envelope(msg)->event_version > 1)
        return EVBUS_ACK;
    evbus_msg_set_reason(msg, "will be replaced");
    evbus_msg_set_reason(msg, reason);
    return EVBUS_REJECT;
}

/* A rejected message goes there after one run, with the handler's reason, its bytes, ids and aggregate; then the next
 * version runs. */
static void test_letter_of_a_rejected_message_says_why(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *raw = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    t->decide = reject_with_reason;
    t->arg = (void *)(uintptr_t) "no such customer: 42\r\nNats-Expected-Stream: x";
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    (void)suite_sub_plain(bus, topic, raw, EVBUS_OPTS(evbus_sub_opts, .group = "raw"));
    const evbus_receipt receipt = suite_publish_wait(bus, topic, "order-1", 1);
    suite_publish(bus, topic, "order-1", 2);
    assert_true(tally_await(t, &t->acked, 1));
    assert_true(tally_await(letters, &letters->acked, 1));
    assert_true(tally_await(raw, &raw->acked, 2));
    const struct tally_entry *letter = tally_at(letters, 0);
    check_origin(letters, letter, topic, "g");
    assert_non_null(strstr(tally_header(letters, letter, "Evbus-Detail"), "no such customer: 42"));
    assert_int_equal(number(tally_header(letters, letter, "Evbus-Sequence")), receipt.sequence);
    assert_string_equal(tally_header(letters, letter, "Evbus-Stream"), receipt.stream);
    assert_string_equal(tally_header(letters, letter, "Evbus-Event-Id"), receipt.event_id);
    assert_string_equal(tally_header(letters, letter, "Evbus-Aggregate"), "order-1");
    assert_int_equal(number(tally_header(letters, letter, "Evbus-Attempts")), 1);
    const struct tally_entry *first =
        tally_at(raw, 0)->sequence == receipt.sequence ? tally_at(raw, 0) : tally_at(raw, 1);
    assert_string_equal(letter->body, first->body);
    assert_int_equal(suite_stats_of(bus).rejected, 1);
    suite_close(s, bus);
    assert_int_equal(letters->started, 1);
    assert_int_equal(tally_runs(t, "order-1", 1), 1);
}

/* A reason is cut at 255 bytes. */
static void test_letter_reason_is_cut(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);
    char *reason = suite_alloc(s, 1001);

    memset(reason, 'r', 1000);
    t->decide = reject_with_reason;
    t->arg = reason;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(letters, &letters->acked, 1));
    suite_close(s, bus);
    assert_int_equal(strlen(tally_header(letters, tally_at(letters, 0), "Evbus-Detail")), 255);
}

/* Fails for ever; the run of the next version notes how many letters had been stored by then. */
struct exhaustion {
    evbus *bus;
    _Atomic(uint64_t) letters_before_next;
};

static evbus_verdict fail_version_one(const evbus_msg *msg, void *arg)
{
    struct exhaustion *x = arg;
    evbus_statistics stats;

    if (evbus_msg_envelope(msg)->event_version == 1)
        return EVBUS_RETRY;
    if (evbus_stats(x->bus, &stats) == EVBUS_OK)
        atomic_store(&x->letters_before_next, stats.dead_lettered);
    return EVBUS_ACK;
}

/* attempts_max = 3 means three runs, then the dead letter, and only then the aggregate's next version. */
static void test_letter_comes_after_exactly_three_attempts(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct exhaustion *x = suite_alloc(s, sizeof *x);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    x->bus = bus;
    t->decide = fail_version_one;
    t->arg = x;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g", .attempts_max = 3, QUICK));
    suite_publish_many(bus, topic, "a", 1, 1, 3);
    assert_true(tally_await(t, &t->acked, 2));
    assert_true(tally_await(letters, &letters->acked, 1));
    const struct tally_entry *letter = tally_at(letters, 0);
    check_origin(letters, letter, topic, "g");
    assert_int_equal(number(tally_header(letters, letter, "Evbus-Attempts")), 3);
    assert_non_null(strstr(tally_header(letters, letter, "Evbus-Cause"), "attempts"));
    assert_int_equal(atomic_load(&x->letters_before_next), 1);
    assert_int_equal(suite_stats_of(bus).exhausted, 1);
    assert_int_equal(suite_stats_of(bus).retried, 3);
    assert_int_equal(suite_topic_stats_of(bus, topic).dead_lettered, 1);
    suite_close(s, bus);
    assert_int_equal(tally_runs(t, "a0", 1), 3);
    assert_int_equal(tally_runs(t, "a0", 2), 1);
    assert_int_equal(letters->started, 1);
    tally_check_order(t);
}

/* attempts_max = 1: the first failure is the last. */
static void test_letter_after_a_single_attempt(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct exhaustion *x = suite_alloc(s, sizeof *x);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    x->bus = bus;
    t->decide = fail_version_one;
    t->arg = x;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .attempts_max = 1));
    suite_publish_many(bus, topic, "a", 20, 1, 2);
    assert_true(tally_await(t, &t->acked, 20));
    assert_true(tally_await(letters, &letters->acked, 20));
    suite_close(s, bus);
    assert_int_equal(t->started, 40);
    assert_int_equal(letters->started, 20);
}

/* The default is five attempts. */
static void test_letter_comes_after_five_attempts_by_default(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct exhaustion *x = suite_alloc(s, sizeof *x);
    evbus *bus = suite_open(s, NULL);

    x->bus = bus;
    t->decide = fail_version_one;
    t->arg = x;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    assert_int_equal(tally_runs(t, "a0", 1), 5);
}

static evbus_verdict fail_for_an_hour(const evbus_msg *msg, void *arg)
{
    (void)arg;
    evbus_msg_retry_after(msg, 3600000);
    return EVBUS_RETRY;
}

/* A message that the broker delivered deliveries_max times, each time to a subscriber that ended without having handled
 * it, goes to the dead-letter topic instead of to the next one. */
static void test_letter_after_too_many_deliveries(void **state)
{
    enum { DELIVERIES = 3 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);
    const evbus_sub_opts *opts = EVBUS_OPTS(evbus_sub_opts, .deliveries_max = DELIVERIES);

    t->decide = fail_for_an_hour;
    suite_publish(bus, topic, "a", 1);
    for (uint32_t n = 1; n <= DELIVERIES; n++) {
        evbus_sub *sub = suite_sub(bus, topic, t, opts);
        assert_true(tally_await(t, &t->retried, n));
        assert_int_equal(tally_at(t, n - 1)->deliveries, n);
        assert_int_equal(tally_at(t, n - 1)->redelivered, n > 1);
        assert_int_equal(tally_at(t, n - 1)->attempt, 1);
        must(evbus_unsubscribe(sub));
    }
    (void)suite_sub(bus, topic, t, opts);
    assert_true(tally_await(letters, &letters->acked, 1));
    assert_non_null(strstr(tally_header(letters, tally_at(letters, 0), "Evbus-Cause"), "deliveries_max"));
    assert_int_equal(suite_stats_of(bus).exhausted, 1);
    suite_close(s, bus);
    assert_int_equal(t->started, DELIVERIES);
}

/* The dead-letter topic can be named; a name that is none is refused. */
static void test_letter_goes_to_the_topic_that_was_named(void **state)
{
    static const char *const headers[] = {"Evbus-Topic", NULL};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *morgue = suite_topic(s, "morgue");
    struct tally *t = suite_tally(s), *letters = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *standard = suite_letters(s, bus, topic);

    letters->capture = headers;
    t->decide = reject_with_reason;
    t->arg = (void *)(uintptr_t) "bad";
    must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, tally_handle, t,
                                                    EVBUS_OPTS(evbus_sub_opts, .dead_letter_topic = "dlq.*"), NULL));
    must_mention("dead_letter_topic");
    (void)suite_sub_plain(bus, morgue, letters, EVBUS_OPTS(evbus_sub_opts, .group = "letters"));
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .dead_letter_topic = morgue));
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(letters, &letters->acked, 1));
    assert_string_equal(tally_at(letters, 0)->topic, morgue);
    assert_string_equal(tally_header(letters, tally_at(letters, 0), "Evbus-Topic"), topic);
    suite_close(s, bus);
    assert_int_equal(standard->started, 0);
}

/* Each group has its own letters of the same message: they are not taken for duplicates of one another. */
static void test_letter_of_each_group_is_stored(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *one = suite_tally(s), *two = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    one->decide = two->decide = reject_with_reason;
    one->arg = two->arg = (void *)(uintptr_t) "bad";
    (void)suite_sub(bus, topic, one, EVBUS_OPTS(evbus_sub_opts, .group = "one"));
    (void)suite_sub(bus, topic, two, EVBUS_OPTS(evbus_sub_opts, .group = "two"));
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(letters, &letters->acked, 2));
    suite_close(s, bus);
    assert_string_not_equal(tally_header(letters, tally_at(letters, 0), "Evbus-Group"),
                            tally_header(letters, tally_at(letters, 1), "Evbus-Group"));
}

/* A dead letter is an envelope still: subscribed as such, it is handled like any other. */
static void test_letter_can_be_handled_as_an_envelope(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *repair = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char letters[256];

    t->decide = reject_with_reason;
    t->arg = (void *)(uintptr_t) "bad";
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    (void)suite_sub(bus, topic, t, NULL);
    const evbus_receipt receipt = suite_publish_wait(bus, topic, "order-1", 1);
    (void)suite_sub(bus, letters, repair, EVBUS_OPTS(evbus_sub_opts, .group = "repair"));
    assert_true(tally_await(repair, &repair->acked, 1));
    assert_string_equal(tally_at(repair, 0)->event_id, receipt.event_id);
    assert_string_equal(tally_at(repair, 0)->aggregate, "order-1");
    suite_close(s, bus);
}

/* A fan-out subscription leaves no dead letters, since others may well handle the message: what it cannot handle is
 * dropped, and said to be; with a dead-letter topic of its own it goes there. */
static void test_letter_of_fanout_only_where_it_names_a_topic(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *morgue = suite_topic(s, "morgue");
    struct tally *without = suite_tally(s), *with = suite_tally(s), *own = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *standard = suite_letters(s, bus, topic);

    without->decide = with->decide = reject_with_reason;
    without->arg = with->arg = (void *)(uintptr_t) "bad";
    (void)suite_sub_plain(bus, morgue, own, NULL);
    (void)suite_sub(bus, topic, without, EVBUS_OPTS(evbus_sub_opts, .fanout = true));
    (void)suite_sub(bus, topic, with, EVBUS_OPTS(evbus_sub_opts, .fanout = true, .dead_letter_topic = morgue));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(tally_await(without, &without->acked, 1));
    assert_true(tally_await(with, &with->acked, 1));
    assert_true(tally_await(own, &own->acked, 1));
    const struct suite_event event = suite_event(s, EVBUS_EVENT_GIVEN_UP, 0);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.aggregate_id, "a0");
    must_reach(bus, dead_lettered, 1);
    assert_int_equal(suite_stats_of(bus).rejected, 2);
    suite_close(s, bus);
    assert_int_equal(without->started, 2);
    assert_int_equal(standard->started, 0);
    assert_int_equal(own->started, 1);
}

const struct suite_case suite_letter_cases[] = {
    SUITE_CASE(test_letter_of_a_body_that_is_no_envelope),
    SUITE_CASE(test_letter_of_a_rejected_message_says_why),
    SUITE_CASE(test_letter_reason_is_cut),
    SUITE_CASE(test_letter_comes_after_exactly_three_attempts),
    SUITE_CASE(test_letter_after_a_single_attempt),
    SUITE_CASE(test_letter_comes_after_five_attempts_by_default),
    SUITE_CASE(test_letter_after_too_many_deliveries),
    SUITE_CASE(test_letter_goes_to_the_topic_that_was_named),
    SUITE_CASE(test_letter_of_each_group_is_stored),
    SUITE_CASE(test_letter_of_fanout_only_where_it_names_a_topic),
    SUITE_CASE(test_letter_can_be_handled_as_an_envelope),
    {NULL, NULL, false},
};
