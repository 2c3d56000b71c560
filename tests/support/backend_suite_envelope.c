/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes: the fields, the bytes, the order per aggregate. */
#include "backend_suite_case.h"

/* ---- Fields ------------------------------------------------------------------------------------------------------ */

/* What a handler saw of one envelope, field by field. */
struct seen {
    atomic_bool done;
    char event_id[300], aggregate_id[300], event_type[300], trace_id[300], correlation_id[300], payload[4096];
    bool has_trace, has_correlation;
    int64_t version, timestamp_ns, tenant_id;
    size_t payload_len;
};

static void keep(char *to, size_t cap, const char *from)
{
    (void)snprintf(to, cap, "%s", from ? from : "(null)");
}

static evbus_verdict keep_fields(const evbus_msg *msg, void *ctx)
{
    struct seen *seen = ctx;
    const evbus_envelope *env = evbus_msg_envelope(msg);

    keep(seen->event_id, sizeof seen->event_id, env->event_id);
    keep(seen->aggregate_id, sizeof seen->aggregate_id, env->aggregate_id);
    keep(seen->event_type, sizeof seen->event_type, env->event_type);
    keep(seen->trace_id, sizeof seen->trace_id, env->trace_id);
    keep(seen->correlation_id, sizeof seen->correlation_id, env->correlation_id);
    seen->has_trace = env->trace_id != NULL;
    seen->has_correlation = env->correlation_id != NULL;
    seen->version = env->event_version;
    seen->timestamp_ns = env->timestamp_ns;
    seen->tenant_id = env->tenant_id;
    seen->payload_len = env->payload_len;
    if (env->payload_len < sizeof seen->payload)
        memcpy(seen->payload, env->payload, env->payload_len);
    return EVBUS_ACK;
}

/* Publishes one envelope and returns what the handler saw of it. */
static struct seen *round_trip(struct suite *s, const evbus_envelope *env)
{
    const char *topic = suite_topic(s, "trip");
    struct tally *t = suite_tally(s);
    struct seen *seen = suite_alloc(s, sizeof *seen);
    evbus *bus = suite_open(s, NULL);

    t->decide = keep_fields;
    t->arg = seen;
    (void)suite_sub(bus, topic, t, NULL);
    must(evbus_publish_envelope(bus, topic, env, NULL));
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    return seen;
}

/* Every field of an envelope survives the round trip. */
static void test_envelope_fields_survive_the_round_trip(void **state)
{
    const evbus_envelope env = {.event_id = "ev \"1\" \\ <&> \xc3\xa4",
                                .aggregate_id = "Order:42/line_1-a.b",
                                .event_type = "Order Placed",
                                .event_version = INT64_MAX,
                                .timestamp_ns = INT64_C(1767225845123456789),
                                .trace_id = "trace-1",
                                .correlation_id = "corr-1",
                                .tenant_id = -7,
                                .payload = "{\"amount\":99.5}XXX",
                                .payload_len = 15};
    const struct seen *seen = round_trip(*state, &env);

    assert_string_equal(seen->event_id, env.event_id);
    assert_string_equal(seen->aggregate_id, env.aggregate_id);
    assert_string_equal(seen->event_type, env.event_type);
    assert_true(seen->version == env.event_version);
    assert_true(seen->timestamp_ns == env.timestamp_ns);
    assert_string_equal(seen->trace_id, env.trace_id);
    assert_string_equal(seen->correlation_id, env.correlation_id);
    assert_true(seen->tenant_id == env.tenant_id);
    assert_int_equal(seen->payload_len, 15);
    assert_string_equal(seen->payload, "{\"amount\":99.5}");
}

/* What is optional may be absent: no trace, no correlation, no tenant; id and time are made. */
static void test_envelope_optional_fields_may_be_absent(void **state)
{
    struct suite *s = *state;
    const evbus_envelope env = suite_envelope_of("a", 1);
    const int64_t before = (int64_t)time(NULL) * 1000000000;
    const struct seen *seen = round_trip(s, &env);

    assert_int_equal(strlen(seen->event_id), 36);
    assert_false(seen->has_trace);
    assert_false(seen->has_correlation);
    assert_int_equal(seen->tenant_id, 0);
    assert_true(seen->timestamp_ns >= before && seen->timestamp_ns < before + INT64_C(600000000000));
}

/* A payload is JSON of any shape and is kept byte for byte, white space and number formats included. */
static void test_envelope_payloads_are_kept_byte_for_byte(void **state)
{
    static const char *const payloads[] = {
        "{\"n\":1}",
        "[1, 2.50, -0.0, 1e400, 123456789012345678901234567890]",
        "\"text \\u00e4 \\ud83d\\ude00 \xc3\xa4 <&>\"",
        "{ \"a\" : { \"b\" : [ { \"c\" : null } , true , false ] } , \"a\" : 2 }",
        "null",
        "0",
        "{\"nested\":\"{\\\"event_id\\\":\\\"x\\\"}\"}",
    };
    enum { COUNT = sizeof payloads / sizeof payloads[0] };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "payloads");
    struct tally *t = suite_tally(s);
    struct seen *seen = suite_alloc(s, sizeof *seen);
    evbus *bus = suite_open(s, NULL);

    t->decide = keep_fields;
    t->arg = seen;
    (void)suite_sub(bus, topic, t, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        evbus_envelope env = suite_envelope_of("a", (int64_t)i + 1);
        env.payload = payloads[i];
        must(evbus_publish_envelope(bus, topic, &env, NULL));
        assert_true(tally_await(t, &t->acked, i + 1));
        assert_int_equal(seen->payload_len, strlen(payloads[i]));
        assert_memory_equal(seen->payload, payloads[i], strlen(payloads[i]));
    }
    suite_close(s, bus);
}

static evbus_verdict keep_payload_length(const evbus_msg *msg, void *ctx)
{
    atomic_store((_Atomic(size_t) *)ctx, evbus_msg_envelope(msg)->payload_len);
    return EVBUS_ACK;
}

/* A megabyte of payload arrives whole. */
static void test_envelope_payload_of_a_megabyte_arrives(void **state)
{
    enum { SIZE = 1 << 20 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "large");
    struct tally *t = suite_tally(s);
    _Atomic(size_t) *length = suite_alloc(s, sizeof *length);
    char *payload = suite_alloc(s, SIZE + 1);
    evbus *bus = suite_open(s, NULL);
    evbus_envelope env = suite_envelope_of("a", 1);

    memset(payload, 'x', SIZE);
    payload[0] = payload[SIZE - 1] = '"';
    env.payload = payload;
    t->decide = keep_payload_length;
    t->arg = (void *)length;
    (void)suite_sub(bus, topic, t, NULL);
    must(evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL));
    assert_true(tally_await(t, &t->acked, 1));
    assert_int_equal(atomic_load(length), SIZE);
    suite_close(s, bus);
}

/* ---- Refusals ---------------------------------------------------------------------------------------------------- */

static const struct {
    evbus_envelope env;
    const char *names; /* what the detail must mention */
} wrong[] = {
    {{.event_id = "", .aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1"}, "event_id"},
    {{.event_id = " \t", .aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1"}, "event_id"},
    {{.event_id = "\xff", .aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1"}, "event_id"},
    {{.event_type = "t", .event_version = 1, .payload = "1"}, "aggregate_id"},
    {{.aggregate_id = "", .event_type = "t", .event_version = 1, .payload = "1"}, "aggregate_id"},
    {{.aggregate_id = "a b", .event_type = "t", .event_version = 1, .payload = "1"}, "aggregate_id"},
    {{.aggregate_id = " a", .event_type = "t", .event_version = 1, .payload = "1"}, "aggregate_id"},
    {{.aggregate_id = "a#1", .event_type = "t", .event_version = 1, .payload = "1"}, "#"},
    {{.aggregate_id = "\xe8\xae\xa2", .event_type = "t", .event_version = 1, .payload = "1"}, "aggregate_id"},
    {{.aggregate_id = "a", .event_version = 1, .payload = "1"}, "event_type"},
    {{.aggregate_id = "a", .event_type = " ", .event_version = 1, .payload = "1"}, "event_type"},
    {{.aggregate_id = "a", .event_type = "t", .payload = "1"}, "event_version"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = -1, .payload = "1"}, "event_version"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = ""}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "{"}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "nul"}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1 2"}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "{}", .payload_len = 1}, "payload"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1", .trace_id = "\xc0"}, "trace_id"},
    {{.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "1", .correlation_id = "\xc0"},
     "correlation_id"},
};

/* A wrong envelope is refused by every call that publishes, the error names the field, and nothing is accepted. */
static void test_envelope_errors_name_the_field(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "wrong");
    evbus *bus = suite_open(s, NULL);
    evbus_receipt receipt;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &wrong[i].env, NULL));
        must_mention(wrong[i].names);
        evbus_receipt_init(&receipt);
        must_be(EVBUS_INVALID, evbus_publish_envelope_wait(bus, topic, &wrong[i].env, NULL, &receipt));
        must_mention(wrong[i].names);
        assert_int_equal(receipt.outcome, 0); /* not written */
    }
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_publish_envelope_wait(bus, topic, NULL, NULL, NULL));
    assert_int_equal(suite_stats_of(bus).publishes_accepted, 0);
    suite_close(s, bus);
}

/* An aggregate id may have 256 bytes and not one more. */
static void test_envelope_aggregate_id_has_a_length(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "long");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char id[258];

    memset(id, 'a', 257);
    id[257] = 0;
    const evbus_envelope too_long = suite_envelope_of(id, 1);
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &too_long, NULL));
    must_mention("256");
    id[256] = 0;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, id, 1);
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_at(t, 0)->aggregate, id);
    suite_close(s, bus);
}

/* An envelope without an aggregate is refused when it is published, and no handler ever sees it. */
static void test_envelope_without_aggregate_is_never_handled(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope nobodys = suite_envelope_of("", 1);

    (void)suite_sub(bus, topic, t, NULL);
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &nobodys, NULL));
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
    assert_string_equal(tally_at(t, 0)->aggregate, "a");
}

/* Headers arrive beside the envelope; reserved names, malformed ones and a key of one's own are refused. */
static void test_envelope_headers_arrive_and_reserved_ones_are_refused(void **state)
{
    static const char *const names[] = {"X-Trace", "x-lower", NULL};
    static const evbus_header bad[][2] = {{{"Nats-Msg-Id", "x"}, {0}},
                                          {{"nats-expected-stream", "x"}, {0}},
                                          {{"Evbus-Key", "x"}, {0}},
                                          {{"evbus-x", "x"}, {0}},
                                          {{"", "x"}, {0}},
                                          {{"a b", "x"}, {0}},
                                          {{"a:b", "x"}, {0}},
                                          {{"a", "x\r\ny: z"}, {0}},
                                          {{"\xc3\xa4", "x"}, {0}}};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "headers");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);
    const evbus_header good[] = {{"X-Trace", "t 1: 2"}, {"x-lower", "\xc3\xa4"}, {NULL, NULL}};

    t->capture = names;
    (void)suite_sub(bus, topic, t, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .headers = bad[i])));
        must_mention("header");
        must_be(EVBUS_INVALID, evbus_publish(bus, topic, "x", 1, EVBUS_OPTS(evbus_pub_opts, .headers = bad[i])));
    }
    must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .key = "k")));
    must_mention("key");
    must(evbus_publish_envelope(bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .headers = good)));
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_header(t, tally_at(t, 0), "X-Trace"), "t 1: 2");
    assert_string_equal(tally_header(t, tally_at(t, 0), "x-lower"), "\xc3\xa4");
    suite_close(s, bus);
    assert_int_equal(t->started, 1);
}

/* ---- Order ------------------------------------------------------------------------------------------------------- */

/* Versions 1..10 of one aggregate are handled in order. */
static void test_envelope_keeps_order_of_one_aggregate(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "order-", 1, 1, 10);
    assert_true(tally_await(t, &t->acked, 10));
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 1, 10);
    assert_int_equal(t->started, 10);
}

/* Five aggregates of ten versions: complete, and each in order. */
static void test_envelope_keeps_order_of_five_aggregates(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, NULL);
    suite_publish_many(bus, topic, "order-", 5, 1, 10);
    assert_true(tally_await(t, &t->acked, 50));
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 5, 10);
    assert_int_equal(t->started, 50);
}

/* The same aggregate id on three topics is three aggregates: one that waits does not hold up the others. */
static void test_envelope_order_is_per_topic(void **state)
{
    struct suite *s = *state;
    const char *blocked = suite_topic(s, "blocked"), *free_topic = suite_topic(s, "free");
    struct tally *stuck = suite_tally(s), *running = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open(s, NULL);

    stuck->decide = suite_at_gate;
    stuck->arg = gate;
    (void)suite_sub(bus, blocked, stuck, NULL);
    (void)suite_sub(bus, free_topic, running, NULL);
    suite_publish(bus, blocked, "a", 1);
    assert_true(gate_await_inside(gate, 1));
    suite_publish_many(bus, free_topic, "a", 1, 1, 10);
    assert_true(tally_await(running, &running->acked, 10));
    gate_open(gate);
    suite_close(s, bus);
    assert_int_equal(stuck->acked, 1);
}

enum { CROWD_THREADS = 8, CROWD_AGGREGATES = 50, CROWD_VERSIONS = 20 };

struct crowd {
    evbus *bus;
    const char *topic;
    struct suite_settler *settler;
    atomic_uint random;
};

static void publish_crowd(int index, void *arg)
{
    struct crowd *c = arg;
    char aggregate[32];

    for (int version = 1; version <= CROWD_VERSIONS; version++) {
        for (int i = 0; i < CROWD_AGGREGATES; i++) {
            (void)snprintf(aggregate, sizeof aggregate, "t%d-a%d", index, i);
            const evbus_envelope env = suite_envelope_of(aggregate, version);
            thread_must(evbus_publish_envelope(c->bus, c->topic, &env, NULL) == EVBUS_OK);
        }
    }
}

/* Now and then a retry, now and then a deferred verdict. */
static evbus_verdict at_random(const evbus_msg *msg, void *arg)
{
    struct crowd *c = arg;
    const unsigned dice = (atomic_fetch_add(&c->random, 1) * 2654435761u) >> 24;

    if (dice < 8)
        return EVBUS_RETRY;
    if (dice >= 16)
        return EVBUS_ACK;
    suite_settler_give(c->settler, msg, dice < 12 ? EVBUS_ACK : EVBUS_RETRY);
    return EVBUS_DEFER;
}

/* Eight publishing threads, fifty aggregates each, random retries and deferred verdicts: starts never go backwards,
 * nothing is lost, nothing is acknowledged twice. */
static void test_envelope_keeps_order_in_a_crowd(void **state)
{
    enum { TOTAL = CROWD_THREADS * CROWD_AGGREGATES * CROWD_VERSIONS };
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    struct crowd *c = suite_alloc(s, sizeof *c);

    c->bus = suite_open(s, NULL);
    c->topic = suite_topic(s, "crowd");
    c->settler = suite_settler_start(s, t);
    t->decide = at_random;
    t->arg = c;
    (void)suite_sub(c->bus, c->topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .attempts_max = EVBUS_FOREVER, .retry_min_ms = 1, .retry_max_ms = 5));
    suite_threads(CROWD_THREADS, publish_crowd, c);
    assert_true(tally_await(t, &t->acked, TOTAL));
    must_reach(c->bus, handled, TOTAL);
    suite_settler_stop(c->settler); /* no call may run while the bus is closed */
    suite_close(s, c->bus);
    assert_int_equal(t->acked, TOTAL);
    assert_true(t->retried > 0);
    assert_true(t->deferred > 0);
    tally_check_order(t);
    tally_check_complete(t, CROWD_THREADS * CROWD_AGGREGATES, CROWD_VERSIONS);
}

const struct suite_case suite_envelope_cases[] = {
    SUITE_CASE(test_envelope_fields_survive_the_round_trip),
    SUITE_CASE(test_envelope_optional_fields_may_be_absent),
    SUITE_CASE(test_envelope_payloads_are_kept_byte_for_byte),
    SUITE_CASE(test_envelope_payload_of_a_megabyte_arrives),
    SUITE_CASE(test_envelope_errors_name_the_field),
    SUITE_CASE(test_envelope_aggregate_id_has_a_length),
    SUITE_CASE(test_envelope_without_aggregate_is_never_handled),
    SUITE_CASE(test_envelope_headers_arrive_and_reserved_ones_are_refused),
    SUITE_CASE(test_envelope_keeps_order_of_one_aggregate),
    SUITE_CASE(test_envelope_keeps_order_of_five_aggregates),
    SUITE_CASE(test_envelope_order_is_per_topic),
    SUITE_CASE(test_envelope_keeps_order_in_a_crowd),
    {NULL, NULL, false},
};
