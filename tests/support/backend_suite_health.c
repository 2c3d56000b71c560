/* SPDX-License-Identifier: Apache-2.0 */
/* Health: what the bus says of itself, the messages it sends to others, and the watch over theirs. */
#include "backend_suite_case.h"

static evbus_health_report report_of(evbus *bus)
{
    evbus_health_report r;

    must(evbus_health(bus, 20000, &r));
    return r;
}

struct wanted_reason {
    evbus *bus;
    uint32_t reasons;
};

static bool has_reasons(void *arg)
{
    const struct wanted_reason *w = arg;

    return report_of(w->bus).reasons == w->reasons;
}

static void must_have(struct suite *s, evbus *bus, uint32_t reasons)
{
    struct wanted_reason w = {bus, reasons};

    if (!suite_pass_until(s, has_reasons, &w, 20000))
        fail_msg("reasons 0x%x, not 0x%x: %s", report_of(bus).reasons, reasons, report_of(bus).text);
}

/* Nothing is wrong: live, ready, end to end, without reasons. Shut down it is none of them. */
static void test_health_of_a_bus_that_is_well(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, NULL);
    (void)suite_publish_wait(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    evbus_health_report r = report_of(bus);
    assert_true(r.live && r.ready && r.end_to_end);
    assert_int_equal(r.reasons, 0);
    assert_int_equal(r.subscriptions, 1);
    assert_string_equal(r.text, "all is well");
    must_be(EVBUS_INVALID, evbus_health(bus, 0, NULL));
    must(evbus_shutdown(bus, 0, NULL));
    r = report_of(bus);
    assert_false(r.live || r.ready || r.end_to_end);
    assert_int_equal(r.reasons, EVBUS_HEALTH_CLOSED);
    suite_close(s, bus);
}

/* Reconnecting has its options everywhere; where the connection stands, the status says so and nothing else. */
static void test_health_of_the_connection(void **state)
{
    struct suite *s = *state;
    const evbus_opts o = {.struct_size = sizeof o,
                          .reconnect_attempts_max = EVBUS_FOREVER,
                          .reconnect_factor_pct = 150,
                          .reconnect_jitter_pct = EVBUS_NOWAIT,
                          .reconnect_failures_max = 5};
    evbus *bus = suite_open(s, &o);
    evbus_connection c;

    must(evbus_connection_read(bus, &c));
    assert_int_equal(c.state, EVBUS_CONNECTION_UP);
    assert_int_equal(c.attempts, 0);
    assert_int_equal(c.connects, 1);
    assert_int_equal(c.disconnects, 0);
    assert_int_equal(c.next_ns, 0);
    assert_int_equal(c.disconnected_ns, 0);
    must(evbus_reconnect(bus)); /* there is nothing to do */
    must(evbus_connection_read(bus, &c));
    assert_int_equal(c.connects, 1);
    must_be(EVBUS_INVALID, evbus_connection_read(bus, NULL));
    must_be(EVBUS_INVALID, evbus_connection_read(NULL, &c));
    must_be(EVBUS_INVALID, evbus_reconnect(NULL));
    assert_int_equal(evbus_event_count(bus, EVBUS_EVENT_CONNECTED), 1);
    assert_int_equal(evbus_event_count(bus, EVBUS_EVENT_DISCONNECTED), 0);
    assert_int_equal(evbus_event_count(bus, (evbus_event_kind)1000), 0);
    assert_int_equal(evbus_event_count(bus, (evbus_event_kind)-1), 0);
    assert_int_equal(evbus_event_count(NULL, EVBUS_EVENT_CONNECTED), 0);
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_reconnect(bus));
    must(evbus_connection_read(bus, &c));
    assert_int_equal(c.state, EVBUS_CONNECTION_DOWN);
    suite_close(s, bus);
}

/* A subscription that stopped pulling is ready, but not end to end; the sentence names it. Then it is well again. */
static void test_health_names_a_stalled_subscription(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    evbus *bus = suite_open(s, NULL);

    plan[0] = (struct suite_plan){.aggregate = "a", .version = 1, .times = UINT32_MAX};
    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .group = "g", .attempts_max = EVBUS_FOREVER, .retry_min_ms = 50,
                               .retry_max_ms = 100, .aggregate_waiting_max = 2));
    for (int64_t version = 1; version <= 6; version++)
        suite_publish(bus, topic, "a", version);
    must_have(s, bus, EVBUS_HEALTH_STALLED);
    const evbus_health_report r = report_of(bus);
    assert_true(r.live && r.ready && !r.end_to_end);
    assert_int_equal(r.stalled, 1);
    assert_non_null(strstr(r.text, topic));
    atomic_store(&plan[0].over, true);
    assert_true(suite_pass_until_count(s, t, &t->acked, 6, 20000));
    must_have(s, bus, 0);
    suite_close(s, bus);
}

/* Letters that cannot be stored, and a handler that does not return. */
static void test_health_names_letters_and_overdue_handlers(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *slow = suite_topic(s, "slow");
    struct tally *t = suite_tally(s), *waits = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .lookup_retry_ms = 20));
    char letters[256];

    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    must(evbus_topic_configure(bus, letters, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL)));
    (void)suite_sub(bus, topic, t, NULL);
    must(evbus_publish(bus, topic, "no envelope", 11, NULL));
    must_have(s, bus, EVBUS_HEALTH_LETTERS_FAIL);
    assert_int_equal(report_of(bus).letters_fail, 1);
    must(evbus_topic_configure(bus, letters, NULL));
    must_have(s, bus, 0);
    waits->decide = suite_at_gate;
    waits->arg = gate;
    (void)suite_sub(bus, slow, waits, EVBUS_OPTS(evbus_sub_opts, .handler_timeout_ms = 100));
    suite_publish(bus, slow, "a", 1);
    assert_true(tally_await(waits, &waits->started, 1));
    must_have(s, bus, EVBUS_HEALTH_OVERDUE);
    assert_int_equal(report_of(bus).handlers_overdue, 1);
    gate_open(gate);
    assert_true(tally_await(waits, &waits->acked, 1));
    must_have(s, bus, 0);
    suite_close(s, bus);
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

struct heard {
    _Atomic(uint32_t) warnings, errors, criticals, recoveries, failing, sending, others;
};

static void hear(const evbus_event *event, void *ctx)
{
    struct heard *h = ctx;

    switch (event->kind) {
    case EVBUS_EVENT_HEALTH_WARNING:
        atomic_fetch_add(&h->warnings, 1);
        break;
    case EVBUS_EVENT_HEALTH_ERROR:
        atomic_fetch_add(&h->errors, 1);
        break;
    case EVBUS_EVENT_HEALTH_CRITICAL:
        atomic_fetch_add(&h->criticals, 1);
        break;
    case EVBUS_EVENT_HEALTH_RECOVERED:
        atomic_fetch_add(&h->recoveries, 1);
        break;
    default:
        atomic_fetch_add(&h->others, 1);
        break;
    }
}

static evbus_health_subscriber_stats watch_of(evbus *bus)
{
    evbus_health_subscriber_stats stats;

    must(evbus_health_subscriber_read(bus, &stats));
    return stats;
}

struct wanted_count {
    evbus *bus;
    struct heard *heard;
    uint64_t received;
    uint32_t severity, recoveries;
};

static bool received(void *arg)
{
    const struct wanted_count *w = arg;

    return watch_of(w->bus).received >= w->received;
}

static bool severity_is(void *arg)
{
    const struct wanted_count *w = arg;

    return watch_of(w->bus).severity == w->severity;
}

static bool recovered(void *arg)
{
    const struct wanted_count *w = arg;

    return atomic_load(&w->heard->recoveries) >= w->recoveries;
}

/* The sender counts a message after others may have it. */
static bool sent_three(void *arg)
{
    evbus_health_publisher_status status;

    must(evbus_health_publisher_read(arg, &status));
    return status.sent >= 3;
}

/* One bus hears another; the messages are as the Go original writes them, and lie in no stream. (The watcher's interval is
 * long: virtual time may run ahead of the sender's thread.) */
static void test_health_messages_reach_others(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "health");
    struct tally *raw = suite_tally(s);
    evbus *sender = suite_open_shared(s, NULL), *watcher = suite_open_shared(s, NULL);
    struct wanted_count three = {.bus = watcher, .received = 3};

    must(evbus_health_subscriber_start(
        watcher, EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic, .interval_ms = 60000, .source = "orders")));
    (void)suite_sub_plain(watcher, topic, raw, EVBUS_OPTS(evbus_sub_opts, .fanout = true));
    assert_false(watch_of(watcher).healthy);
    must(evbus_health_publisher_start(
        sender, EVBUS_OPTS(evbus_health_publisher_opts, .topic = topic, .source = "orders", .interval_ms = 100)));
    assert_true(suite_pass_until(s, received, &three, 20000));
    const evbus_health_subscriber_stats stats = watch_of(watcher);
    assert_true(stats.running && stats.healthy);
    assert_string_equal(stats.last_source, "orders");
    assert_int_equal(stats.alerts, 0);
    assert_true(tally_await(raw, &raw->acked, 1));
    const char *body = tally_at(raw, 0)->body;
    assert_memory_equal(body, "{\"messageId\":\"hc-", strlen("{\"messageId\":\"hc-"));
    assert_non_null(strstr(body, "\"source\":\"orders\",\"eventBusType\":"));
    assert_non_null(
        strstr(body, "\"version\":\"2.0.0\",\"metadata\":{\"checkType\":\"periodic\",\"instanceId\":\"orders-"));
    assert_int_equal(tally_at(raw, 0)->sequence, 0);
    assert_int_equal(suite_topic_stats_of(sender, topic).stream_known, 0);
    evbus_health_publisher_status status;
    assert_true(wait_until(sent_three, sender, wait_patience_ms()));
    must(evbus_health_publisher_read(sender, &status));
    assert_true(status.running && status.healthy);
    assert_int_equal(status.failed, 0);
    must(evbus_health_publisher_stop(sender));
    must(evbus_health_publisher_read(sender, &status));
    assert_false(status.running);
    suite_close(s, sender);
    suite_close(s, watcher);
}

/* Missed messages are told once a grade, in grades, and their return once; the callback and on_event hear the same. */
static void test_health_alerts_at_edges(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "health");
    struct heard *heard = suite_alloc(s, sizeof *heard);
    evbus *sender = suite_open_shared(s, NULL), *watcher = suite_open_shared(s, NULL);
    struct wanted_count w = {.bus = watcher, .heard = heard, .severity = 3, .recoveries = 1};
    const evbus_health_publisher_opts *sends =
        EVBUS_OPTS(evbus_health_publisher_opts, .topic = topic, .interval_ms = 200);

    must(evbus_health_subscriber_start(watcher,
                                       EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic, .interval_ms = 200,
                                                  .check_ms = 50, .warning_misses = 2, .error_misses = 4,
                                                  .critical_misses = 6, .on_change = hear, .on_change_ctx = heard)));
    assert_true(suite_pass_until(s, severity_is, &w, 20000));
    must_have(s, watcher, EVBUS_HEALTH_PEER_MISSED);
    suite_pass(s, 1000); /* goes on missing: nothing new to tell */
    assert_int_equal(watch_of(watcher).alerts, suite_event_count(s, EVBUS_EVENT_HEALTH_WARNING) +
                                                   suite_event_count(s, EVBUS_EVENT_HEALTH_ERROR) + 1);
    must(evbus_health_publisher_start(sender, sends));
    assert_true(suite_pass_until(s, recovered, &w, 20000));
    assert_true(watch_of(watcher).healthy);
    assert_int_equal(atomic_load(&heard->criticals), 1);
    assert_true(atomic_load(&heard->warnings) <= 1 && atomic_load(&heard->errors) <= 1);
    assert_int_equal(atomic_load(&heard->others), 0);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_HEALTH_CRITICAL), 1);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_HEALTH_RECOVERED), 1);
    assert_int_equal(watch_of(watcher).recoveries, 1);
    must(evbus_health_publisher_stop(sender));
    must(evbus_health_publisher_start(sender, sends)); /* again */
    must(evbus_health_subscriber_stop(watcher));
    must(evbus_health_subscriber_start(watcher, EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic)));
    w.received = 1;
    assert_true(suite_pass_until(s, received, &w, 20000));
    suite_close(s, sender);
    suite_close(s, watcher);
}

/* A message of the Go original counts; what is none is refused and counted. */
static void test_health_reads_the_originals_messages(void **state)
{
    static const char *const wrong[] = {"", "[]", "{}",
                                        "{\"messageId\":\"x\",\"source\":\"go\",\"eventBusType\":\"nats\"}",
                                        "{\"messageId\":\"x\",\"source\":\"go\",\"eventBusType\":\"rabbit\","
                                        "\"timestamp\":\"2026-01-01T00:00:00Z\"}"};
    enum { WRONG = sizeof wrong / sizeof wrong[0] };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "health");
    evbus *bus = suite_open(s, NULL);
    struct wanted_count one = {.bus = bus, .received = 1};

    must(evbus_health_subscriber_start(bus, EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic)));
    for (size_t i = 0; i < WRONG; i++)
        suite_publish_plain(bus, topic, wrong[i]);
    suite_publish_plain(bus, topic,
                        "{ \"version\":\"2.0.0\",\"metadata\":{\"instanceId\":\"go-1\"},\"eventBusType\":\"nats\","
                        "\"source\":\"go\\u002dservice\",\"timestamp\":\"2250-01-01T08:00:00+08:00\","
                        "\"messageId\":\"hc-1-0123456789abcdef\"}");
    assert_true(suite_pass_until(s, received, &one, 20000));
    must_reach(bus, handled, WRONG + 1);
    assert_string_equal(watch_of(bus).last_source, "go-service");
    assert_int_equal(watch_of(bus).refused, WRONG);
    assert_int_equal(watch_of(bus).received, 1);
    suite_close(s, bus);
}

/* Twice is refused, stopping what does not run is told, options have rules; reading always works. */
static void test_health_misuse(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "health");
    evbus *bus = suite_open(s, NULL);
    const evbus_health_publisher_opts *sends = EVBUS_OPTS(evbus_health_publisher_opts, .topic = topic);
    const evbus_health_subscriber_opts *watches = EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic);

    must_be(EVBUS_NOT_FOUND, evbus_health_publisher_stop(bus));
    must_be(EVBUS_NOT_FOUND, evbus_health_subscriber_stop(bus));
    must_be(EVBUS_INVALID,
            evbus_health_publisher_start(bus, EVBUS_OPTS(evbus_health_publisher_opts, .source = "a\"b")));
    must_mention("source");
    must_be(EVBUS_INVALID,
            evbus_health_publisher_start(bus, EVBUS_OPTS(evbus_health_publisher_opts, .interval_ms = 1)));
    must_mention("interval_ms");
    must_be(EVBUS_INVALID, evbus_health_subscriber_start(bus, EVBUS_OPTS(evbus_health_subscriber_opts, .topic = topic,
                                                                         .warning_misses = 5, .error_misses = 3)));
    must_mention("do not ascend");
    must_be(EVBUS_INVALID,
            evbus_health_subscriber_start(bus, EVBUS_OPTS(evbus_health_subscriber_opts, .topic = "a b")));
    must(evbus_health_publisher_start(bus, sends));
    must_be(EVBUS_EXISTS, evbus_health_publisher_start(bus, sends));
    must(evbus_health_subscriber_start(bus, watches));
    must_be(EVBUS_EXISTS, evbus_health_subscriber_start(bus, watches));
    must(evbus_shutdown(bus, 0, NULL));
    assert_int_equal(watch_of(bus).severity, 0);
    must_be(EVBUS_CLOSED, evbus_health_publisher_start(bus, sends));
    suite_close(s, bus);
}

const struct suite_case suite_health_cases[] = {
    SUITE_CASE(test_health_of_the_connection),
    SUITE_CASE(test_health_of_a_bus_that_is_well),
    SUITE_TIMED(test_health_names_a_stalled_subscription),
    SUITE_TIMED(test_health_names_letters_and_overdue_handlers),
    SUITE_TIMED(test_health_messages_reach_others),
    SUITE_TIMED(test_health_alerts_at_edges),
    SUITE_CASE(test_health_reads_the_originals_messages),
    SUITE_CASE(test_health_misuse),
    {NULL, NULL, false},
};
