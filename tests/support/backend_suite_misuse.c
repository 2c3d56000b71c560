/* SPDX-License-Identifier: Apache-2.0 */
/* Wrong arguments and options: refused by name, whatever the backend. */
#include "backend_suite_case.h"

static evbus_verdict acknowledge(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    return EVBUS_ACK;
}

static evbus_status try_open(struct suite *s, const evbus_opts *opts)
{
    evbus *bus = NULL;
    const evbus_status st = suite_try_open(s, false, opts, &bus);

    if (st == EVBUS_OK)
        suite_close(s, bus);
    else
        assert_null(bus);
    return st;
}

/* URLs that are none, schemes nobody knows, a missing place for the result. */
static void test_misuse_of_urls(void **state)
{
    struct suite *s = *state;
    evbus *bus = NULL;
    char url[256];

    must_be(EVBUS_INVALID, evbus_open(NULL, NULL, &bus));
    must_be(EVBUS_INVALID, evbus_open("", NULL, &bus));
    must_mention("scheme");
    must_be(EVBUS_INVALID, evbus_open("localhost:4222", NULL, &bus));
    must_be(EVBUS_INVALID, evbus_open("://x", NULL, &bus));
    must_be(EVBUS_UNSUPPORTED, evbus_open("amqp://localhost", NULL, &bus));
    must_mention("amqp");
    must_be(EVBUS_INVALID, evbus_open("mem://a b", NULL, &bus));
    must_be(EVBUS_INVALID, evbus_open("mem://a.b", NULL, &bus));
    assert_null(bus);
    s->backend->url(url, sizeof url, s->name);
    must_be(EVBUS_INVALID, evbus_open(url, NULL, NULL));
}

/* Where nobody answers, opening fails within its time and leaves nothing behind. */
static void test_misuse_of_a_url_where_nobody_answers(void **state)
{
    struct suite *s = *state;
    evbus *bus = NULL;

    if (!s->backend->nowhere)
        return;
    const int64_t began = wait_now_ms();
    must_be(EVBUS_DISCONNECTED,
            evbus_open(s->backend->nowhere, EVBUS_OPTS(evbus_opts, .connect_timeout_ms = 300), &bus));
    assert_in_range(wait_now_ms() - began, 200, 300 + wait_patience_ms() / 10);
    assert_null(bus);
}

/* A NULL bus is an error of every call, and no crash. */
static void test_misuse_of_a_null_bus(void **state)
{
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_topic_opts opts;
    evbus_statistics stats;
    evbus_topic_statistics topic_stats;

    (void)state;
    must_be(EVBUS_INVALID, evbus_publish(NULL, "t", "x", 1, NULL));
    must_be(EVBUS_INVALID, evbus_publish_envelope(NULL, "t", &env, NULL));
    must_be(EVBUS_INVALID, evbus_publish_envelope_wait(NULL, "t", &env, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_subscribe(NULL, "t", acknowledge, NULL, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_subscribe_envelope(NULL, "t", acknowledge, NULL, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_unsubscribe(NULL));
    must_be(EVBUS_INVALID, evbus_msg_settle(NULL, EVBUS_ACK));
    must_be(EVBUS_INVALID, evbus_topic_configure(NULL, "t", NULL));
    must_be(EVBUS_INVALID, evbus_topic_config(NULL, "t", &opts));
    must_be(EVBUS_INVALID, evbus_stats(NULL, &stats));
    must_be(EVBUS_INVALID, evbus_topic_stats(NULL, "t", &topic_stats));
    must_be(EVBUS_INVALID, evbus_shutdown(NULL, 0, NULL));
    evbus_close(NULL);
    evbus_msg_retry_after(NULL, 1);
    evbus_msg_set_reason(NULL, "x");
    assert_int_equal(evbus_msg_data(NULL).len, 0);
    assert_string_equal(evbus_msg_topic(NULL), "");
    assert_null(evbus_msg_envelope(NULL));
}

/* NULL where a handler, data or a result is needed. */
static void test_misuse_of_null_arguments(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    evbus_topic_statistics topic_stats;

    must_be(EVBUS_INVALID, evbus_subscribe(bus, topic, NULL, NULL, NULL, NULL));
    must_mention("handler");
    must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, NULL, NULL, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_publish(bus, topic, NULL, 1, NULL));
    must(evbus_publish(bus, topic, NULL, 0, NULL));
    must_be(EVBUS_INVALID, evbus_stats(bus, NULL));
    must_be(EVBUS_INVALID, evbus_topic_stats(bus, topic, NULL));
    must_be(EVBUS_NOT_FOUND, evbus_topic_stats(bus, suite_topic(s, "never"), &topic_stats));
    suite_close(s, bus);
}

/* An option struct says its size: 0 and garbage are refused; an older, shorter one is taken; a newer, longer one is taken
 * while its unknown part is zero. */
static void test_misuse_of_struct_sizes(void **state)
{
    static const size_t wrong[] = {0, 1, 7, 65537, SIZE_MAX};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);
    union { /* each option struct with a tail that this version does not know */
        struct {
            evbus_opts o;
            uint64_t tail;
        } bus;
        struct {
            evbus_pub_opts o;
            uint64_t tail;
        } pub;
        struct {
            evbus_sub_opts o;
            uint64_t tail;
        } sub;
        struct {
            evbus_topic_opts o;
            uint64_t tail;
        } topic;
        size_t struct_size;
    } newer;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        memset(&newer, 0, sizeof newer);
        newer.struct_size = wrong[i];
        must_be(EVBUS_INVALID, try_open(s, &newer.bus.o));
        must_mention("struct_size");
        must_be(EVBUS_INVALID, evbus_publish(bus, topic, "x", 1, &newer.pub.o));
        must_mention("evbus_pub_opts");
        must_be(EVBUS_INVALID, evbus_publish_envelope(bus, topic, &env, &newer.pub.o));
        must_be(EVBUS_INVALID, evbus_subscribe(bus, topic, acknowledge, NULL, &newer.sub.o, NULL));
        must_mention("evbus_sub_opts");
        must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, &newer.topic.o));
        must_mention("evbus_topic_opts");
    }
    for (int set = 0; set <= 1; set++) {
        const evbus_status want = set ? EVBUS_UNSUPPORTED : EVBUS_OK;
        memset(&newer, 0, sizeof newer);
        newer.struct_size = sizeof newer.pub;
        newer.pub.tail = (uint64_t)set << 63;
        must_be(want, evbus_publish(bus, topic, "x", 1, &newer.pub.o));
        memset(&newer, 0, sizeof newer);
        newer.struct_size = sizeof newer.sub;
        newer.sub.tail = (uint64_t)set;
        must_be(want, evbus_subscribe(bus, topic, acknowledge, NULL, &newer.sub.o, NULL));
        memset(&newer, 0, sizeof newer);
        newer.struct_size = sizeof newer.topic;
        newer.topic.tail = (uint64_t)set;
        must_be(want, evbus_topic_configure(bus, topic, &newer.topic.o));
    }
    newer.struct_size = sizeof(size_t); /* the oldest possible one */
    must(evbus_publish(bus, topic, "x", 1, &newer.pub.o));
    suite_close(s, bus);
}

/* The same for evbus_opts, whose tail is looked at when opening. */
static void test_misuse_of_a_newer_evbus_opts(void **state)
{
    struct suite *s = *state;
    struct {
        evbus_opts o;
        uint64_t tail;
    } newer;
    evbus *bus = NULL;
    char url[256];

    s->backend->url(url, sizeof url, "");
    memset(&newer, 0, sizeof newer);
    newer.o.struct_size = sizeof newer;
    newer.tail = 1;
    must_be(EVBUS_UNSUPPORTED, evbus_open(url, &newer.o, &bus));
    must_mention("evbus_opts");
    assert_null(bus);
    newer.tail = 0;
    must(evbus_open(url, &newer.o, &bus));
    s->buses[s->bus_count++] = bus;
    suite_close(s, bus);
}

/* Every enumeration out of its range is refused by the name of its field. */
static void test_misuse_of_enumerations(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    const struct {
        evbus_sub_opts o;
        const char *field;
    } subs[] = {
        {{.membership = 3}, "membership"},     {{.start = 3}, "start"},
        {{.on_overdue = 3}, "on_overdue"},     {{.on_waiting_full = 3}, "on_waiting_full"},
        {{.on_unhandled = 3}, "on_unhandled"}, {{.membership = UINT32_MAX}, "membership"},
    };
    const struct {
        evbus_topic_opts o;
        const char *field;
    } topics[] = {
        {{.persistence = 4}, "persistence"}, {{.storage = 3}, "storage"},   {{.discard = 3}, "discard"},
        {{.msg_id = 3}, "msg_id"},           {{.fallback = 3}, "fallback"}, {{.storage = UINT32_MAX}, "storage"},
    };

    for (size_t i = 0; i < sizeof subs / sizeof subs[0]; i++) {
        evbus_sub_opts o = subs[i].o;
        o.struct_size = sizeof o;
        must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
        must_mention(subs[i].field);
    }
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        evbus_topic_opts o = topics[i].o;
        o.struct_size = sizeof o;
        must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, &o));
        must_mention(topics[i].field);
    }
    must_be(EVBUS_INVALID, try_open(s, EVBUS_OPTS(evbus_opts, .log_level = 5)));
    must_mention("log_level");
    suite_close(s, bus);
}

static void ignore_receipt(const evbus_receipt *receipt, void *ctx)
{
    (void)receipt;
    (void)ctx;
}

/* Numbers outside their range are refused by the name of their field. */
static void test_misuse_of_numbers(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    const struct {
        evbus_opts o;
        const char *field;
    } opens[] = {
        {{.publish_inflight_max = 15}, "publish_inflight_max"},
        {{.publish_inflight_max = 65537}, "publish_inflight_max"},
        {{.publish_bytes_max = 1}, "publish_bytes_max"},
        {{.workers_max = 4097}, "workers_max"},
        {{.workers_min = 8, .workers_max = 4}, "workers_min"},
        {{.held_max = 1}, "held_max"},
        {{.reconnect_min_ms = 500, .reconnect_max_ms = 100}, "reconnect_min_ms"},
        {{.reconnect_max_ms = 3600001}, "reconnect_max_ms"},
        {{.reconnect_attempts_max = 1000001}, "reconnect_attempts_max"},
        {{.reconnect_factor_pct = 99}, "reconnect_factor_pct"},
        {{.reconnect_factor_pct = 10001}, "reconnect_factor_pct"},
        {{.reconnect_jitter_pct = 101}, "reconnect_jitter_pct"},
        {{.reconnect_failures_max = 1000001}, "reconnect_failures_max"},
        {{.stream = "S"}, "stream_subjects"},
        {{.stream_subjects = "s.>"}, "stream"},
        {{.stream = "a.b", .stream_subjects = "s.>"}, "stream"},
        {{.publish_timeout_ms = EVBUS_NOWAIT}, "publish_timeout_ms"},
        {{.receipts = 3}, "receipts"},
        {{.receipts_max = 15}, "receipts_max"},
        {{.receipts_max = (1 << 20) + 1}, "receipts_max"},
        {{.tenants_max = 65537}, "tenants_max"},
        {{.ack_workers = 1}, "on_receipt"},
        {{.ack_workers = 65, .on_receipt = ignore_receipt}, "ack_workers"},
    };
    const struct {
        evbus_sub_opts o;
        const char *field;
    } subs[] = {
        {{.inflight_max = 65537}, "inflight_max"},
        {{.retry_min_ms = 500, .retry_max_ms = 100}, "retry_min_ms"},
        {{.ack_wait_ms = 1}, "ack_wait_ms"},
        {{.progress_timeout_ms = 99}, "progress_timeout_ms"},
        {{.progress_timeout_ms = EVBUS_NOWAIT}, "progress_timeout_ms"},
    };

    for (size_t i = 0; i < sizeof opens / sizeof opens[0]; i++) {
        evbus_opts o = opens[i].o;
        o.struct_size = sizeof o;
        must_be(EVBUS_INVALID, try_open(s, &o));
        must_mention(opens[i].field);
    }
    for (size_t i = 0; i < sizeof subs / sizeof subs[0]; i++) {
        evbus_sub_opts o = subs[i].o;
        o.struct_size = sizeof o;
        must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, &o, NULL));
        must_mention(subs[i].field);
    }
    must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .replicas = 6)));
    must_mention("replicas");
    must_be(EVBUS_INVALID, evbus_topic_configure(bus, topic, EVBUS_OPTS(evbus_topic_opts, .stream = "a.b")));
    must_mention("stream");
    suite_close(s, bus);
}

/* A virtual clock where time is the broker's, or a second one for one broker, is refused, not ignored. */
static void test_misuse_of_a_clock_the_backend_cannot_use(void **state)
{
    struct suite *s = *state;
    evbus *bus = NULL;
    char url[256];

    evbus_clock *clock = evbus_clock_new(0);
    if (s->backend->virtual_clock) { /* one broker, one time */
        s->backend->url(url, sizeof url, s->name);
        (void)suite_open_shared(s, NULL);
        must_be(EVBUS_INVALID, evbus_open(url, EVBUS_OPTS(evbus_opts, .clock = clock), &bus));
        must_mention("clock");
        evbus_clock_free(clock);
        return;
    }
    s->backend->url(url, sizeof url, "");
    must_be(EVBUS_UNSUPPORTED, evbus_open(url, EVBUS_OPTS(evbus_opts, .clock = clock), &bus));
    must_mention("clock");
    evbus_clock_free(clock);
    assert_null(bus);
}

/* The initialisers set the size and zero the rest. */
static void test_misuse_is_avoided_by_the_initialisers(void **state)
{
    evbus_opts o;
    evbus_pub_opts p;
    evbus_sub_opts u;
    evbus_topic_opts t;
    evbus_receipt r;

    (void)state;
#define CHECK(value, init)                                                                                             \
    do {                                                                                                               \
        memset(&(value), 0xa5, sizeof(value));                                                                         \
        init(&(value));                                                                                                \
        assert_int_equal((value).struct_size, sizeof(value));                                                          \
        (value).struct_size = 0;                                                                                       \
        for (size_t i = 0; i < sizeof(value); i++)                                                                     \
            assert_int_equal(((const unsigned char *)&(value))[i], 0);                                                 \
        init(NULL);                                                                                                    \
    } while (0)
    CHECK(o, evbus_opts_init);
    CHECK(p, evbus_pub_opts_init);
    CHECK(u, evbus_sub_opts_init);
    CHECK(t, evbus_topic_opts_init);
    CHECK(r, evbus_receipt_init);
#undef CHECK
}

/* Every status has its name and its text, and an unknown one too. */
static void test_misuse_of_status_numbers(void **state)
{
    (void)state;
    for (int i = EVBUS_OK; i <= EVBUS_SYSTEM; i++) {
        assert_true(strncmp(evbus_status_name((evbus_status)i), "EVBUS_", 6) == 0);
        assert_true(evbus_strerror((evbus_status)i)[0] != 0);
    }
    assert_non_null(evbus_strerror((evbus_status)999));
    assert_non_null(evbus_status_name((evbus_status)-1));
    assert_string_equal(evbus_version(), EVBUS_VERSION);
}

const struct suite_case suite_misuse_cases[] = {
    SUITE_CASE(test_misuse_of_urls),
    SUITE_CASE(test_misuse_of_a_url_where_nobody_answers),
    SUITE_CASE(test_misuse_of_a_null_bus),
    SUITE_CASE(test_misuse_of_null_arguments),
    SUITE_CASE(test_misuse_of_struct_sizes),
    SUITE_CASE(test_misuse_of_a_newer_evbus_opts),
    SUITE_CASE(test_misuse_of_enumerations),
    SUITE_CASE(test_misuse_of_numbers),
    SUITE_CASE(test_misuse_of_a_clock_the_backend_cannot_use),
    SUITE_CASE(test_misuse_is_avoided_by_the_initialisers),
    SUITE_CASE(test_misuse_of_status_numbers),
    {NULL, NULL, false},
};
