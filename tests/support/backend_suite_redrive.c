/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters as the operator has them: read where they lie, published again in order, taken out. */
#include "backend_suite_case.h"

#define LETTERS_MAX 16

struct seen {
    evbus *bus;
    evbus_status (*then)(evbus *bus, const evbus_letter *letter); /* what to do with each; NULL: nothing */
    size_t stop_after;                                            /* 0: never */
    size_t count;
    evbus_letter letter[LETTERS_MAX]; /* its strings are copies */
};

/* Strings of a case live as long as the case: one case walks at a time. */
static struct suite *owner;

static const char *kept(const char *text)
{
    const size_t size = strlen(text) + 1;

    return memcpy(suite_alloc(owner, size), text, size);
}

static bool note(const evbus_letter *letter, void *ctx)
{
    struct seen *seen = ctx;
    assert_true(seen->count < LETTERS_MAX);
    evbus_letter *l = &seen->letter[seen->count++];
    size_t headers = 0;

    *l = *letter;
    l->stream = kept(l->stream);
    l->letter_topic = kept(l->letter_topic);
    l->topic = kept(l->topic);
    l->group = kept(l->group);
    l->origin_stream = kept(l->origin_stream);
    l->aggregate_id = kept(l->aggregate_id);
    l->event_id = kept(l->event_id);
    l->trace_id = kept(l->trace_id);
    l->correlation_id = kept(l->correlation_id);
    l->cause = kept(l->cause);
    l->detail = kept(l->detail);
    l->data.data = memcpy(suite_alloc(owner, l->data.len + 1), l->data.data, l->data.len);
    while (letter->headers[headers].name)
        headers++;
    evbus_header *own = suite_alloc(owner, (headers + 1) * sizeof *own);
    for (size_t i = 0; i < headers; i++)
        own[i] = (evbus_header){kept(letter->headers[i].name), kept(letter->headers[i].value)};
    l->headers = own;
    if (seen->then)
        must(seen->then(seen->bus, letter));
    return seen->count != seen->stop_after;
}

static struct seen *walk(struct suite *s, evbus *bus, const char *topic, const evbus_letter_opts *filter,
                         evbus_status (*then)(evbus *bus, const evbus_letter *letter))
{
    struct seen *seen = suite_alloc(s, sizeof *seen);
    evbus_letter_opts opts = {.struct_size = sizeof opts};
    char letters[256];

    owner = s;
    seen->bus = bus;
    seen->then = then;
    if (filter)
        opts = *filter;
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    opts.letter_topic = letters;
    must(evbus_letters(bus, &opts, note, seen));
    return seen;
}

static evbus_status redrive(evbus *bus, const evbus_letter *letter)
{
    evbus_receipt receipt;

    evbus_receipt_init(&receipt);
    const evbus_status st = evbus_letter_redrive(bus, letter, 0, &receipt);
    if (st == EVBUS_OK) {
        assert_int_equal(receipt.outcome, EVBUS_OUTCOME_STORED);
        assert_false(receipt.duplicate);
        assert_true(receipt.sequence > letter->origin_sequence);
        assert_string_equal(receipt.event_id, letter->event_id);
        assert_string_equal(receipt.aggregate_id, letter->aggregate_id);
        assert_string_equal(receipt.topic, letter->topic);
    }
    return st;
}

static evbus_status drop(evbus *bus, const evbus_letter *letter)
{
    return evbus_letter_drop(bus, letter, 0);
}

static const char *own_header(const evbus_letter *letter, const char *name)
{
    for (const evbus_header *h = letter->headers; h->name; h++)
        if (strcmp(h->name, name) == 0)
            return h->value;
    return NULL;
}

/* Rejects everything until it is told to take it. */
struct mind {
    atomic_bool takes;
};

static evbus_verdict by_mind(const evbus_msg *msg, void *arg)
{
    struct mind *mind = arg;

    if (atomic_load(&mind->takes))
        return EVBUS_ACK;
    evbus_msg_set_reason(msg, "no such customer");
    return EVBUS_REJECT;
}

/* A letter tells what it is, whose, why, how often and when, with the body and the headers as they were published. */
static void test_redrive_letters_tell_all(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);
    const evbus_header headers[] = {{"X-Original", "kept: whole"}, {"traceparent", "00-0af7-b7ad-01"}, {NULL, NULL}};
    evbus_envelope env = suite_envelope_of("order-1", 7);
    evbus_receipt receipt;

    t->decide = by_mind;
    t->arg = mind;
    evbus_receipt_init(&receipt);
    env.trace_id = "trace-1";
    env.correlation_id = "corr-1";
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    must(evbus_publish_envelope_wait(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .headers = headers), &receipt));
    must_reach(bus, dead_lettered, 1);
    const struct seen *seen = walk(s, bus, topic, NULL, NULL);
    assert_int_equal(seen->count, 1);
    const evbus_letter *l = &seen->letter[0];
    assert_true(l->sequence > 0);
    assert_string_equal(l->stream, "EVBUS_DLQ");
    assert_string_equal(l->letter_topic + strlen("dlq."), topic);
    assert_string_equal(l->topic, topic);
    assert_string_equal(l->group, "g");
    assert_string_equal(l->origin_stream, receipt.stream);
    assert_int_equal(l->origin_sequence, receipt.sequence);
    assert_string_equal(l->aggregate_id, "order-1");
    assert_string_equal(l->event_id, receipt.event_id);
    assert_string_equal(l->trace_id, "trace-1");
    assert_string_equal(l->correlation_id, "corr-1");
    assert_non_null(strstr(l->cause, "rejected"));
    assert_string_equal(l->detail, "no such customer");
    assert_int_equal(l->attempts, 1);
    assert_int_equal(l->deliveries, 1);
    assert_int_equal(l->redriven, 0);
    assert_int_equal(l->stored_ns, tally_at(t, 0)->stored_ns);
    assert_true(l->first_ns > 0 && l->last_ns >= l->first_ns);
    assert_string_equal(own_header(l, "X-Original"), "kept: whole");
    assert_string_equal(own_header(l, "traceparent"), "00-0af7-b7ad-01");
    assert_null(own_header(l, "Nats-Msg-Id"));
    assert_int_equal(l->data.len, tally_at(t, 0)->len);
    assert_memory_equal(l->data.data, tally_at(t, 0)->body, l->data.len);
    suite_close(s, bus);
}

/* Letters are chosen by where they came from, aggregate, cause, time and sequence; the walk ends when the callback says so. */
static void test_redrive_letters_are_chosen(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);

    t->decide = by_mind;
    t->arg = mind;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    suite_publish_many(bus, topic, "a", 3, 1, 2);
    must(evbus_publish(bus, topic, "no envelope", 11, NULL));
    must_reach(bus, dead_lettered, 7);
    const struct seen *all = walk(s, bus, topic, NULL, NULL);
    assert_int_equal(all->count, 7);
#define CHOSEN(...) walk(s, bus, topic, EVBUS_OPTS(evbus_letter_opts, __VA_ARGS__), NULL)->count
    assert_int_equal(CHOSEN(.aggregate_id = "a1"), 2);
    assert_int_equal(CHOSEN(.aggregate_id = "a"), 0);
    assert_int_equal(CHOSEN(.cause = "not an envelope"), 1);
    assert_int_equal(CHOSEN(.cause = "such customer", .aggregate_id = "a2"), 2);
    assert_int_equal(CHOSEN(.group = "g"), 7);
    assert_int_equal(CHOSEN(.group = "other"), 0);
    assert_int_equal(CHOSEN(.topic = topic), 7);
    assert_int_equal(CHOSEN(.topic = "nothing.>"), 0);
    assert_int_equal(CHOSEN(.sequence = all->letter[3].sequence), 1);
    assert_int_equal(CHOSEN(.since_ns = all->letter[0].last_ns), 7);
    assert_int_equal(CHOSEN(.since_ns = all->letter[6].last_ns + INT64_C(3600000000000)), 0);
    assert_int_equal(CHOSEN(.until_ns = all->letter[0].last_ns), 0);
#undef CHOSEN
    struct seen *some = suite_alloc(s, sizeof *some);
    char letters[256];
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    some->stop_after = 2;
    must(evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = letters), note, some));
    assert_int_equal(some->count, 2);
    must_be(EVBUS_NOT_FOUND,
            evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = letters, .sequence = UINT64_C(1) << 40),
                          note, some));
    suite_close(s, bus);
}

/* Redriven letters arrive again in order, whole, and are letters no more; within the duplicate window of the original. */
static void test_redrive_keeps_order_and_bytes(void **state)
{
    static const char *const headers[] = {"X-Original", "Evbus-Redriven", "Evbus-Cause", NULL};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);
    const evbus_header original[] = {{"X-Original", "kept"}, {NULL, NULL}};

    t->decide = by_mind;
    t->arg = mind;
    t->capture = headers;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    for (int64_t version = 1; version <= 5; version++) {
        const evbus_envelope env = suite_envelope_of("a", version);
        must(evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .headers = original)));
    }
    must_reach(bus, dead_lettered, 5);
    atomic_store(&mind->takes, true);
    const struct seen *seen = walk(s, bus, topic, NULL, redrive);
    assert_int_equal(seen->count, 5);
    assert_true(tally_await(t, &t->acked, 5));
    for (int64_t version = 1; version <= 5; version++) {
        const struct tally_entry *first = tally_run(t, "a", version, 0), *again = tally_run(t, "a", version, 1);
        assert_string_equal(again->event_id, first->event_id);
        assert_int_equal(again->len, first->len);
        assert_memory_equal(again->body, first->body, first->len);
        assert_string_equal(tally_header(t, again, "X-Original"), "kept");
        assert_string_equal(tally_header(t, again, "Evbus-Redriven"), "1");
        assert_null(tally_header(t, again, "Evbus-Cause"));
        assert_null(tally_header(t, first, "Evbus-Redriven"));
    }
    tally_check_order(t);
    assert_int_equal(walk(s, bus, topic, NULL, NULL)->count, 0);
    suite_close(s, bus);
    assert_int_equal(t->started, 10);
}

/* What fails again is a letter again, which says so, and a walk does not meet it twice. */
static void test_redrive_that_fails_again_is_counted(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);

    t->decide = by_mind;
    t->arg = mind;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    suite_publish(bus, topic, "a", 1);
    for (uint32_t n = 0; n < 3; n++) {
        must_reach(bus, dead_lettered, n + 1);
        const struct seen *seen = walk(s, bus, topic, NULL, redrive);
        assert_int_equal(seen->count, 1);
        assert_int_equal(seen->letter[0].redriven, n);
    }
    must_reach(bus, dead_lettered, 4);
    assert_int_equal(walk(s, bus, topic, NULL, NULL)->letter[0].redriven, 3);
    suite_close(s, bus);
}

/* Redriven twice, as after a crash between the two steps, a message is stored once. */
static void test_redrive_twice_stores_once(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);
    evbus_receipt receipt;

    t->decide = by_mind;
    t->arg = mind;
    evbus_receipt_init(&receipt);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    suite_publish(bus, topic, "a", 1);
    must_reach(bus, dead_lettered, 1);
    atomic_store(&mind->takes, true);
    const struct seen *seen = walk(s, bus, topic, NULL, redrive);
    must(evbus_letter_redrive(bus, &seen->letter[0], 0, &receipt));
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_STORED);
    assert_true(receipt.duplicate);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    assert_int_equal(t->started, 2);
}

/* Dropped letters are gone, the others stay; a letter goes once. */
static void test_redrive_drop_takes_one_out(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *repair = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, NULL);
    char letters[256];

    t->decide = by_mind;
    t->arg = mind;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    suite_publish_many(bus, topic, "a", 3, 1, 1);
    must_reach(bus, dead_lettered, 3);
    const struct seen *gone = walk(s, bus, topic, EVBUS_OPTS(evbus_letter_opts, .aggregate_id = "a1"), drop);
    assert_int_equal(gone->count, 1);
    must_be(EVBUS_NOT_FOUND, evbus_letter_drop(bus, &gone->letter[0], 0));
    const struct seen *left = walk(s, bus, topic, NULL, NULL);
    assert_int_equal(left->count, 2);
    for (size_t i = 0; i < 2; i++) /* of different aggregates, in whatever order */
        assert_string_not_equal(left->letter[i].aggregate_id, "a1");
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic); /* a subscriber misses it, and only it */
    (void)suite_sub(bus, letters, repair, EVBUS_OPTS(evbus_sub_opts, .group = "repair"));
    assert_true(tally_await(repair, &repair->acked, 2));
    suite_close(s, bus);
    assert_int_equal(repair->started, 2);
    assert_int_equal(tally_runs(repair, "a1", 1), 0);
}

static bool never(const evbus_letter *letter, void *ctx)
{
    (void)letter;
    *(bool *)ctx = true;
    return true;
}

/* Nothing was given up: the walk is empty. What is no letter, option or topic is refused. */
static void test_redrive_misuse(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    const evbus_letter nowhere = {.struct_size = sizeof nowhere, .stream = "X", .topic = "", .sequence = 1};
    bool called = false;

    must(evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = suite_topic(s, "none")), never, &called));
    assert_false(called);
    must_be(EVBUS_INVALID, evbus_letters(bus, NULL, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = "a b"), never, &called));
    must_mention("letter_topic");
    must_be(EVBUS_INVALID, evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .topic = "a..b"), never, &called));
    must_mention("evbus_letter_opts.topic");
    must_be(EVBUS_INVALID, evbus_letter_redrive(bus, NULL, 0, NULL));
    must_be(EVBUS_INVALID, evbus_letter_redrive(bus, &nowhere, 0, NULL));
    must_mention("which topic");
    must_be(EVBUS_INVALID, evbus_letter_drop(bus, NULL, 0));
    must_be(EVBUS_NOT_FOUND, evbus_letter_drop(bus, &nowhere, 0));
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_letters(bus, NULL, never, &called));
    suite_close(s, bus);
}

static bool said_so(void *arg)
{
    return suite_event_count(arg, EVBUS_EVENT_DEAD_LETTER_FAILED) > 0;
}

/* Where letters cannot be stored, the message stays, its handler is not run again and again, and the subscription says
 * so once; as soon as they can, the letter is stored. */
static void test_redrive_no_stream_for_letters_never_loops(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mind *mind = suite_alloc(s, sizeof *mind);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .lookup_retry_ms = 20));
    char letters[256];

    t->decide = by_mind;
    t->arg = mind;
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    must(evbus_topic_configure(bus, letters, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL)));
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(suite_pass_until(s, said_so, s, 20000));
    const struct suite_event event = suite_event(s, EVBUS_EVENT_DEAD_LETTER_FAILED, 0);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.aggregate_id, "a0");
    suite_pass(s, 500);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_DEAD_LETTER_FAILED), 1);
    assert_int_equal(suite_stats_of(bus).handler_runs, 1);
    assert_int_equal(suite_stats_of(bus).dead_lettered, 0);
    must(evbus_topic_configure(bus, letters, NULL));
    assert_true(suite_pass_until_count(s, t, &t->rejected, 2, 20000));
    must_reach(bus, dead_lettered, 2);
    suite_close(s, bus);
    assert_int_equal(t->started, 2);
    tally_check_order(t);
}

const struct suite_case suite_redrive_cases[] = {
    SUITE_CASE(test_redrive_letters_tell_all),
    SUITE_CASE(test_redrive_letters_are_chosen),
    SUITE_CASE(test_redrive_keeps_order_and_bytes),
    SUITE_CASE(test_redrive_that_fails_again_is_counted),
    SUITE_CASE(test_redrive_twice_stores_once),
    SUITE_CASE(test_redrive_drop_takes_one_out),
    SUITE_CASE(test_redrive_misuse),
    SUITE_TIMED(test_redrive_no_stream_for_letters_never_loops),
    {NULL, NULL, false},
};
