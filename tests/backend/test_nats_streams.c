/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Topic -> stream on a real server: who makes which stream, with what in it, and who is told when that cannot be. How a
 * lost stream comes back is in test_nats_repair.c.
 */
#include "support/nats_case.h"

#define CROWD 64
#define SECOND INT64_C(1000000000)

/* ---- First publishes --------------------------------------------------------------------------------------------- */

struct crowd {
    evbus *bus[2];
    const char *topic[2];
    evbus_status want;
    const char *mention;
    _Atomic(uint32_t) stored;
};

static void publish_in_crowd(int index, void *ctx)
{
    struct crowd *crowd = ctx;
    char aggregate[16];

    (void)snprintf(aggregate, sizeof aggregate, "a-%d", index);
    const evbus_envelope env = suite_envelope_of(aggregate, 1);
    const evbus_status st =
        evbus_publish_envelope_wait(crowd->bus[index % 2], crowd->topic[index / 2 % 2], &env, NULL, NULL);
    const bool late =
        strstr(evbus_error_detail(), "found or made a moment ago") != NULL; /* after the others' look-up */
    if (st != crowd->want || !(late || strstr(evbus_error_detail(), st == EVBUS_OK ? "" : crowd->mention)))
        suite_thread_failed(evbus_status_name(st), __FILE__, __LINE__);
    if (st == EVBUS_OK)
        atomic_fetch_add(&crowd->stored, 1);
}

static void run_crowd(struct crowd *crowd)
{
    race_run(CROWD, publish_in_crowd, crowd);
    assert_int_equal(suite_thread_failures(), 0);
}

/* Sixty-four first publishes at once make one stream, and all of them are stored in it. */
static void test_streams_first_publishes_at_once_make_one_stream(void **state)
{
    struct nats_case *c = *state;
    char name[256];

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    struct crowd crowd = {{bus, bus}, {"first.topic", "first.topic"}, EVBUS_OK, "", 0};
    run_crowd(&crowd);
    assert_int_equal(crowd.stored, CROWD);
    assert_int_equal(suite_stats_of(bus).streams_created, 1);
    assert_int_equal(operator_counts(c, the_stream(c, name)), CROWD);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_STREAM_CREATED), 1);
    assert_string_equal(suite_event(&c->s, EVBUS_EVENT_STREAM_CREATED, 0).topic, "first.topic");
    assert_int_equal(suite_topic_stats_of(bus, "first.topic").stream_known, 1);
    suite_close(&c->s, bus);
}

/* The same from two buses: the server has one stream, and nobody fails because the other was faster. */
static void test_streams_first_publishes_of_two_buses_make_one_stream(void **state)
{
    struct nats_case *c = *state;
    char name[256];

    case_start(c, CASE_JETSTREAM, "");
    evbus *one = suite_open(&c->s, NULL), *two = suite_open(&c->s, NULL);
    struct crowd crowd = {{one, two}, {"first.topic", "first.topic"}, EVBUS_OK, "", 0};
    run_crowd(&crowd);
    assert_int_equal(crowd.stored, CROWD);
    assert_int_equal(operator_counts(c, the_stream(c, name)), CROWD);
    assert_in_range(suite_stats_of(one).streams_created + suite_stats_of(two).streams_created, 1, 2);
    suite_close(&c->s, two);
    suite_close(&c->s, one);
}

/* ---- Permissions ------------------------------------------------------------------------------------------------- */

#define MAY_NOT_CREATE                                                                                                 \
    CASE_JETSTREAM                                                                                                     \
    "authorization { users: [ {user: op, password: op}, {user: app, password: app, permissions: {publish: {deny: "     \
    "[\"$JS.API.STREAM.CREATE.>\", \"$JS.API.STREAM.UPDATE.>\"]}}} ] }\n"

static evbus *open_as_app(struct nats_case *c, const evbus_opts *opts)
{
    evbus_opts o = opts ? *opts : (evbus_opts){.struct_size = sizeof o};

    o.user = "app";
    o.password = "app";
    return suite_open(&c->s, &o);
}

/* Credentials that may not create a stream: every one of sixty-four callers is told so at once, and what to do. */
static void test_streams_denied_creation_reaches_every_caller_at_once(void **state)
{
    struct nats_case *c = *state;

    case_start(c, MAY_NOT_CREATE, "op:op@");
    evbus *bus = open_as_app(c, EVBUS_OPTS(evbus_opts, .publish_timeout_ms = wait_patience_ms()));
    struct crowd crowd = {{bus, bus}, {"new.topic", "new.topic"}, EVBUS_DENIED, "$JS.API.STREAM.CREATE", 0};
    const int64_t from = wait_now_ms();
    run_crowd(&crowd);
    assert_in_range(wait_now_ms() - from, 0, wait_patience_ms() / 2);
    const evbus_statistics s = suite_stats_of(bus);
    assert_int_equal(s.publishes_accepted + s.streams_created, 0);
    suite_close(&c->s, bus);
}

static bool is_published(void *bus)
{
    const evbus_envelope env = suite_envelope_of("a", 1);

    return evbus_publish_envelope_wait(bus, "new.topic", &env, NULL, NULL) == EVBUS_OK;
}

/* As soon as somebody who may has made the stream, the same bus publishes to it and handles what is in it. */
static void test_streams_denied_creation_heals_when_the_operator_makes_it(void **state)
{
    struct nats_case *c = *state;
    const evbus_envelope env = suite_envelope_of("a", 1);

    case_start(c, MAY_NOT_CREATE, "op:op@");
    evbus *bus = open_as_app(c, NULL);
    must_be(EVBUS_DENIED, evbus_subscribe_envelope(bus, "new.topic", tally_handle, &c->tally, NULL, NULL));
    must_mention("$JS.API.STREAM.CREATE");
    must_be(EVBUS_DENIED, evbus_publish_envelope(bus, "new.topic", &env, NULL));
    operator_makes_plain(c, "NEW", "new.>");
    operator_makes_members(c);
    assert_true(wait_until(is_published, bus, wait_patience_ms()));
    (void)suite_sub(bus, "new.topic", &c->tally, NULL);
    assert_true(tally_await(&c->tally, &c->tally.acked, 1));
    assert_string_equal(tally_at(&c->tally, 0)->stream, "NEW");
    assert_int_equal(suite_stats_of(bus).streams_created, 0);
    suite_close(&c->s, bus);
}

/* A stream that these credentials may not widen: the same, said with the stream's name. */
static void test_streams_denied_widening_is_said(void **state)
{
    struct nats_case *c = *state;
    const evbus_envelope env = suite_envelope_of("a", 1);

    case_start(c, MAY_NOT_CREATE, "op:op@");
    operator_makes_plain(c, "SHARED", "some.topic");
    evbus *bus = open_as_app(c, NULL);
    must(evbus_topic_configure(bus, "other.topic", EVBUS_OPTS(evbus_topic_opts, .stream = "SHARED")));
    must_be(EVBUS_DENIED, evbus_publish_envelope(bus, "other.topic", &env, NULL));
    must_mention("SHARED");
    must_mention("$JS.API.STREAM.UPDATE");
    suite_close(&c->s, bus);
}

/* ---- Which stream ------------------------------------------------------------------------------------------------ */

/* A topic that an existing stream covers is stored there; none is made. */
static void test_streams_existing_wide_stream_is_used(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "WIDE", "shop.>");
    evbus *bus = suite_open(&c->s, NULL);
    assert_string_equal(suite_publish_wait(bus, "shop.orders.new", "a", 1).stream, "WIDE");
    (void)suite_sub(bus, "shop.orders.new", &c->tally, NULL);
    (void)suite_sub(bus, "shop.*.new", &c->other, EVBUS_OPTS(evbus_sub_opts, .group = "pattern"));
    assert_true(tally_await(&c->tally, &c->tally.acked, 1));
    assert_true(tally_await(&c->other, &c->other.acked, 1));
    assert_string_equal(tally_at(&c->other, 0)->stream, "WIDE");
    assert_int_equal(operator_lists(c, NULL), 1);
    assert_int_equal(suite_stats_of(bus).streams_created, 0);
    suite_close(&c->s, bus);
}

/* A pattern that a stream covers only in part is no stream of the pattern, and that is said. */
static void test_streams_partly_covered_pattern_is_not_found(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "PART", "shop.orders.*");
    evbus *bus = suite_open(&c->s, NULL);
    must_be(EVBUS_NOT_FOUND, evbus_subscribe_envelope(bus, "shop.>", tally_handle, &c->tally, NULL, NULL));
    must_mention("shop.>");
    suite_close(&c->s, bus);
}

/* Topics that name a stream share it: the first makes it with its subject, the second widens it by its own. */
static void test_streams_named_stream_is_made_then_widened(void **state)
{
    struct nats_case *c = *state;
    char name[256];

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "a.one", EVBUS_OPTS(evbus_topic_opts, .stream = "SHARED")));
    must(evbus_topic_configure(bus, "b.two", EVBUS_OPTS(evbus_topic_opts, .stream = "SHARED")));
    assert_int_equal(suite_publish_wait(bus, "a.one", "a", 1).sequence, 1);
    assert_true(operator_sees_subject(c, "SHARED", "a.one"));
    assert_false(operator_sees_subject(c, "SHARED", "b.two"));
    assert_int_equal(suite_publish_wait(bus, "b.two", "a", 1).sequence, 2);
    assert_true(operator_sees_subject(c, "SHARED", "b.two"));
    assert_string_equal(the_stream(c, name), "SHARED");
    assert_int_equal(suite_stats_of(bus).streams_created, 1);
    suite_close(&c->s, bus);
}

/* Widening keeps what the operator set, also what evbus has no option for. */
static void test_streams_widening_leaves_the_rest_alone(void **state)
{
    struct nats_case *c = *state;
    const char *subject = "some.topic";
    jsStreamConfig cfg;

    case_start(c, CASE_JETSTREAM, "");
    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = "SHARED";
    cfg.Subjects = &subject;
    cfg.SubjectsLen = 1;
    cfg.Description = "mind the gap";
    cfg.MaxMsgsPerSubject = 77;
    cfg.MaxAge = 3600 * SECOND;
    operator_makes(c, &cfg);
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "other.topic", EVBUS_OPTS(evbus_topic_opts, .stream = "SHARED")));
    (void)suite_publish_wait(bus, "other.topic", "a", 1);
    jsStreamInfo *info = operator_reads(c, "SHARED");
    assert_int_equal(info->Config->SubjectsLen, 2);
    assert_string_equal(info->Config->Description, "mind the gap");
    assert_int_equal(info->Config->MaxMsgsPerSubject, 77);
    assert_int_equal(info->Config->MaxAge, 3600 * SECOND);
    jsStreamInfo_Destroy(info);
    suite_close(&c->s, bus);
}

/* Publishes to topic number index of its bus: half of the topics belong to each of two buses. */
static void publish_to_own_topic(int index, void *ctx)
{
    struct crowd *crowd = ctx;
    const evbus_envelope env = suite_envelope_of("a", 1);
    char topic[32];

    (void)snprintf(topic, sizeof topic, "t%d.x", index / 2);
    evbus *bus = crowd->bus[index % 2];
    thread_must(evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .stream = "SHARED")) == EVBUS_OK);
    thread_must(evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL) == EVBUS_OK);
}

/* Two buses name one stream for the same eight new topics, all at once: none of the subjects is lost. */
static void test_streams_widened_by_many_at_once_loses_no_subject(void **state)
{
    struct nats_case *c = *state;
    const char *const first[] = {NULL, "before.x"}; /* the stream is new, or it is there */

    case_start(c, CASE_JETSTREAM, "");
    for (int round = 0; round < 2; round++) {
        if (first[round])
            operator_makes_plain(c, "SHARED", first[round]);
        evbus *one = suite_open(&c->s, NULL), *two = suite_open(&c->s, NULL);
        struct crowd crowd = {.bus = {one, two}};
        race_run(16, publish_to_own_topic, &crowd);
        assert_int_equal(suite_thread_failures(), 0);
        for (int i = 0; i < 8; i++) {
            char topic[32];
            (void)snprintf(topic, sizeof topic, "t%d.x", i);
            assert_true(operator_sees_subject(c, "SHARED", topic));
            assert_string_equal(suite_publish_wait(one, topic, "b", 1).stream, "SHARED");
        }
        assert_int_equal(operator_counts(c, "SHARED"), 24);
        suite_close(&c->s, two);
        suite_close(&c->s, one);
        operator_deletes(c, "SHARED");
    }
}

/* A topic that names one stream while another stores it already: refused with both named, not stored elsewhere. */
static void test_streams_named_stream_against_another_that_covers_the_topic(void **state)
{
    struct nats_case *c = *state;
    const evbus_envelope env = suite_envelope_of("a", 1);

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "WIDE", "shop.>");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "shop.orders", EVBUS_OPTS(evbus_topic_opts, .stream = "MINE")));
    must_be(EVBUS_MISMATCH, evbus_publish_envelope(bus, "shop.orders", &env, NULL));
    must_mention("MINE");
    must_mention("shop.orders");
    assert_int_equal(operator_counts(c, "WIDE"), 0);
    must(evbus_topic_configure(bus, "shop.orders", EVBUS_OPTS(evbus_topic_opts, .stream = "WIDE")));
    assert_string_equal(suite_publish_wait(bus, "shop.orders", "a", 1).stream, "WIDE");
    suite_close(&c->s, bus);
}

/* The bus's default stream takes the topics that its subjects cover, and no other. */
static void test_streams_default_stream_takes_what_it_covers(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus =
        suite_open(&c->s, EVBUS_OPTS(evbus_opts, .stream = "SHOP", .stream_subjects = "shop.>, stock.*.count"));
    assert_string_equal(suite_publish_wait(bus, "shop.orders", "a", 1).stream, "SHOP");
    assert_string_equal(suite_publish_wait(bus, "stock.7.count", "a", 1).stream, "SHOP");
    assert_string_not_equal(suite_publish_wait(bus, "stock.count", "a", 1).stream, "SHOP");
    assert_string_not_equal(suite_publish_wait(bus, "mail.sent", "a", 1).stream, "SHOP");
    assert_true(operator_sees_subject(c, "SHOP", "shop.>"));
    assert_true(operator_sees_subject(c, "SHOP", "stock.*.count"));
    assert_int_equal(operator_lists(c, NULL), 3);
    assert_int_equal(suite_stats_of(bus).streams_created, 3);
    suite_close(&c->s, bus);
}

/* A pattern that the default stream covers may be subscribed before anything was published. */
static void test_streams_default_stream_is_made_for_a_pattern(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .stream = "SHOP", .stream_subjects = "shop.>"));
    (void)suite_sub(bus, "shop.*", &c->tally, NULL);
    assert_true(operator_sees_subject(c, "SHOP", "shop.>"));
    (void)suite_publish_wait(bus, "shop.orders", "a", 1);
    assert_true(tally_await(&c->tally, &c->tally.acked, 1));
    assert_int_equal(suite_stats_of(bus).streams_created, 1);
    suite_close(&c->s, bus);
}

/* A topic's own options go before the default stream, and dead letters have a stream of theirs. */
static void test_streams_rule_has_its_order(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .stream = "ALL", .stream_subjects = "shop.>, dlq.>"));
    must(evbus_topic_configure(bus, "shop.apart", EVBUS_OPTS(evbus_topic_opts, .stream = "APART")));
    assert_string_equal(suite_publish_wait(bus, "shop.apart", "a", 1).stream, "APART");
    assert_string_equal(suite_publish_wait(bus, "dlq.shop.apart", "a", 1).stream, "EVBUS_DLQ");
    assert_true(operator_sees_subject(c, "EVBUS_DLQ", "dlq.>"));
    suite_close(&c->s, bus);
}

/* ---- Settings ---------------------------------------------------------------------------------------------------- */

static jsStreamConfig config_of(struct nats_case *c, evbus *bus, const char *topic)
{
    jsStreamInfo *info = operator_reads(c, suite_publish_wait(bus, topic, "a", 1).stream);
    const jsStreamConfig cfg = *info->Config;

    assert_int_equal(cfg.SubjectsLen, 1);
    assert_string_equal(cfg.Subjects[0], topic);
    jsStreamInfo_Destroy(info);
    return cfg; /* its numbers; the strings are gone */
}

/* A stream that the bus makes has exactly the settings of the topic's options. */
static void test_streams_made_with_the_settings_of_their_topic(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "set.by.hand",
                               EVBUS_OPTS(evbus_topic_opts, .max_age_ms = 3600000, .max_bytes = 1 << 20,
                                          .max_msgs = 1000, .storage = EVBUS_STORAGE_MEMORY,
                                          .discard = EVBUS_DISCARD_NEW, .replicas = 1, .duplicate_window_ms = 7000)));
    const jsStreamConfig set = config_of(c, bus, "set.by.hand");
    assert_int_equal(set.MaxAge, 3600 * SECOND);
    assert_int_equal(set.MaxBytes, 1 << 20);
    assert_int_equal(set.MaxMsgs, 1000);
    assert_int_equal(set.Storage, js_MemoryStorage);
    assert_int_equal(set.Discard, js_DiscardNew);
    assert_int_equal(set.Replicas, 1);
    assert_int_equal(set.Duplicates, 7 * SECOND);
    const jsStreamConfig def = config_of(c, bus, "by.default");
    assert_int_equal(def.MaxAge, 7 * 86400 * SECOND);
    assert_int_equal(def.MaxBytes, 1 << 30);
    assert_int_equal(def.MaxMsgs, -1);
    assert_int_equal(def.Storage, js_FileStorage);
    assert_int_equal(def.Discard, js_DiscardOld);
    assert_int_equal(def.Replicas, 1);
    assert_int_equal(def.Duplicates, 120 * SECOND);
    assert_int_equal(def.Retention, js_LimitsPolicy);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_STREAM_DIFFERS), 0);
    suite_close(&c->s, bus);
}

/* A duplicate window longer than messages live cannot be had: the stream is made with the longest there is. */
static void test_streams_duplicate_window_ends_with_the_messages(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "short.lived", EVBUS_OPTS(evbus_topic_opts, .max_age_ms = 30000)));
    const jsStreamConfig cfg = config_of(c, bus, "short.lived");
    assert_int_equal(cfg.MaxAge, 30 * SECOND);
    assert_int_equal(cfg.Duplicates, 30 * SECOND);
    must(evbus_topic_configure(bus, "short.lived", EVBUS_OPTS(evbus_topic_opts, .max_age_ms = 30000)));
    (void)suite_publish_wait(bus, "short.lived", "a", 2); /* looks again */
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_STREAM_DIFFERS), 0);
    suite_close(&c->s, bus);
}

/* Each setting in which an existing stream differs from the topic's options is named; the stream stays as it is. */
static void test_streams_existing_stream_that_differs_is_left_alone(void **state)
{
    struct nats_case *c = *state;
    const struct {
        const char *field;
        evbus_topic_opts opts;
    } differs[] = {
        {"max_age_ms", {.struct_size = sizeof(evbus_topic_opts), .max_age_ms = 1000000}},
        {"max_bytes", {.struct_size = sizeof(evbus_topic_opts), .max_bytes = 12345678}},
        {"max_msgs", {.struct_size = sizeof(evbus_topic_opts), .max_msgs = 5}},
        {"storage", {.struct_size = sizeof(evbus_topic_opts), .storage = EVBUS_STORAGE_MEMORY}},
        {"discard", {.struct_size = sizeof(evbus_topic_opts), .discard = EVBUS_DISCARD_NEW}},
        {"replicas", {.struct_size = sizeof(evbus_topic_opts), .replicas = 3}},
        {"duplicate_window_ms", {.struct_size = sizeof(evbus_topic_opts), .duplicate_window_ms = 5000}},
    };

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    const evbus_receipt made = suite_publish_wait(bus, "plain.topic", "a", 1);
    const jsStreamConfig before = config_of(c, bus, "plain.topic");
    for (size_t i = 0; i < sizeof differs / sizeof differs[0]; i++) {
        must(evbus_topic_configure(bus, "plain.topic", &differs[i].opts));
        assert_string_equal(suite_publish_wait(bus, "plain.topic", "a", 2).stream, made.stream);
        const struct suite_event event = suite_event(&c->s, EVBUS_EVENT_STREAM_DIFFERS, i);
        assert_string_equal(event.topic, "plain.topic");
        assert_int_equal(event.status, EVBUS_MISMATCH);
        assert_non_null(strstr(event.text, differs[i].field));
        assert_non_null(strstr(event.text, made.stream));
    }
    must(evbus_topic_configure(bus, "plain.topic", NULL));
    const jsStreamConfig after = config_of(c, bus, "plain.topic");
    assert_int_equal(after.MaxAge, before.MaxAge);
    assert_int_equal(after.MaxBytes, before.MaxBytes);
    assert_int_equal(after.MaxMsgs, before.MaxMsgs);
    assert_int_equal(after.Discard, before.Discard);
    assert_int_equal(after.Duplicates, before.Duplicates);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_STREAM_DIFFERS), sizeof differs / sizeof differs[0]);
    suite_close(&c->s, bus);
}

/* What the server will not have (replicas without a cluster) is refused with its words, and nothing is made. */
static void test_streams_settings_the_server_refuses_are_named(void **state)
{
    struct nats_case *c = *state;
    const evbus_envelope env = suite_envelope_of("a", 1);

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_topic_configure(bus, "three.fold", EVBUS_OPTS(evbus_topic_opts, .replicas = 3)));
    must_be(EVBUS_REFUSED, evbus_publish_envelope(bus, "three.fold", &env, NULL));
    must_mention("replicas");
    must_be(EVBUS_REFUSED, evbus_publish_envelope(bus, "three.fold", &env, NULL));
    assert_int_equal(operator_lists(c, NULL), 0);
    suite_close(&c->s, bus);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        CASE(test_streams_first_publishes_at_once_make_one_stream),
        CASE(test_streams_first_publishes_of_two_buses_make_one_stream),
        CASE(test_streams_denied_creation_reaches_every_caller_at_once),
        CASE(test_streams_denied_creation_heals_when_the_operator_makes_it),
        CASE(test_streams_denied_widening_is_said),
        CASE(test_streams_existing_wide_stream_is_used),
        CASE(test_streams_partly_covered_pattern_is_not_found),
        CASE(test_streams_named_stream_is_made_then_widened),
        CASE(test_streams_widening_leaves_the_rest_alone),
        CASE(test_streams_widened_by_many_at_once_loses_no_subject),
        CASE(test_streams_named_stream_against_another_that_covers_the_topic),
        CASE(test_streams_default_stream_takes_what_it_covers),
        CASE(test_streams_default_stream_is_made_for_a_pattern),
        CASE(test_streams_rule_has_its_order),
        CASE(test_streams_made_with_the_settings_of_their_topic),
        CASE(test_streams_duplicate_window_ends_with_the_messages),
        CASE(test_streams_existing_stream_that_differs_is_left_alone),
        CASE(test_streams_settings_the_server_refuses_are_named),
    };

    return case_run("nats streams", tests, sizeof tests / sizeof tests[0], argc, argv);
}
