/* SPDX-License-Identifier: Apache-2.0 */
/* How a publish ends when nobody listens, nobody answers, or the bytes stand still on their way. */
#include "nats_truth.h"

#include "../support/proxy.h"

#define PADDING 1000

static struct nats_server server;
static struct proxy *proxy;
static struct driver driver;
static struct truth truth;
static struct witness witness;
static char padded[PADDING + 16];

static int set_up(void **state)
{
    (void)state;
    if (!nats_server_start(&server, TRUTH_JETSTREAM))
        return -1;
    proxy = proxy_open(server.port);
    return proxy && truth_open(&truth, NULL, 1, DRIVER_LOG) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    driver_end(&driver);
    if (witness.nc)
        witness_leave(&witness);
    truth_close(&truth);
    proxy_close(proxy);
    nats_server_end(&server);
    return 0;
}

/* A bus through the proxy; no load of its own. */
static struct driver_opts quiet_options(uint64_t seed)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(proxy));
    struct driver_opts o = driver_defaults(url, seed);
    o.publishers = 0;
    o.consume = false;
    return o;
}

static void begin(const struct driver_opts *o)
{
    char direct[64];

    (void)snprintf(direct, sizeof direct, "nats://127.0.0.1:%u", server.port);
    assert_true(driver_start(&driver, o, &truth));
    witness_come(&witness, direct, o->topic);
}

static struct truth_account judge(uint64_t seed, const char *name, uint32_t late_ms)
{
    struct truth_case c = {.name = name,
                           .seed = seed,
                           .logs = &truth,
                           .log_count = 1,
                           .attempts_max = 3,
                           .late_ms = late_ms,
                           .unfinished = true};

    driver_end(&driver);
    return witness_judge(&witness, &c);
}

static evbus_status publish(uint32_t version, uint32_t timeout_ms)
{
    return truth_publish(&truth, driver.bus, driver.o.topic, 0, 1, version, timeout_ms);
}

/* ---- No zombies -------------------------------------------------------------------------------------------------- */

static bool it_stands(void *arg)
{
    (void)arg;
    return proxy_acts(proxy) > 0;
}

/* There is a session that answers; what was ahead of it on the old one is forwarded before. */
static bool next_is_stored(void *arg)
{
    uint32_t *last = arg;
    const bool stored = truth_publish_wait(&truth, driver.bus, driver.o.topic, 0, 1, ++*last, 1000, NULL) == EVBUS_OK;

    proxy_resume(proxy, PROXY_TO_CLIENT);
    return stored;
}

/* The way to the server stands still while publishes expire, then goes on. What had reached the peer's machine by then
 * may be stored; nothing else may ever leave. */
static void stand_still(uint64_t seed, uint32_t count)
{
    struct driver_opts o = quiet_options(seed);
    uint32_t last = 1;

    (void)snprintf(padded, sizeof padded, "{\"x\":\"%0*d\"}", PADDING, 0);
    truth.payload = padded;
    proxy_narrow(proxy, 1);
    o.publish_timeout_ms = wait_patience_ms() > 20000 ? 5000 : 700; /* longer than it takes to publish them all */
    o.heartbeat_ms = 60000;                                         /* only the deadlines end it */
    o.publish_inflight_max = 8192;
    begin(&o);
    assert_int_equal(truth_publish_wait(&truth, driver.bus, o.topic, 0, 1, last, 5000, NULL), EVBUS_OK);
    proxy_after_each(proxy, PROXY_TO_SERVER, 0, PROXY_STALL); /* a session made meanwhile may carry nothing either: */
    proxy_after_each(proxy, PROXY_TO_CLIENT, 0, PROXY_STALL); /* what it stored would be right, and hide the rest */
    proxy_after(proxy, PROXY_TO_SERVER, 0, PROXY_STALL);
    proxy_after(proxy, PROXY_TO_CLIENT, 0, PROXY_STALL); /* no word of the server may close our socket */
    assert_int_equal(publish(++last, EVBUS_NOWAIT), EVBUS_OK);
    assert_true(wait_until(it_stands, NULL, wait_patience_ms()));
    while (last < count && publish(last + 1, EVBUS_NOWAIT) == EVBUS_OK)
        last++;
    assert_int_equal(last, count);
    assert_true(driver_stats(&driver).publishes_inflight > 0);
    assert_true(driver_settle(&driver, wait_patience_ms()));
    const evbus_statistics s = driver_stats(&driver);
    const uint64_t away = proxy_waiting(proxy, PROXY_TO_SERVER); /* what the peer's machine has of it */
    assert_true(s.publishes_unknown > away / PADDING + 20);      /* it bit: most of them had not left */
    proxy_after_each(proxy, PROXY_TO_SERVER, UINT64_MAX, PROXY_CUT);
    proxy_after_each(proxy, PROXY_TO_CLIENT, UINT64_MAX, PROXY_CUT);
    proxy_resume(proxy, PROXY_TO_SERVER);
    assert_true(wait_until(next_is_stored, &last, wait_patience_ms()));
    const struct truth_account a = judge(o.seed, "bytes that stand still", 60000);
    print_message("unknown %" PRIu64 ", refused %" PRIu64 ", %" PRIu64 " bytes had left; %" PRIu64
                  " of the unknown are stored\n",
                  s.publishes_unknown, s.publishes_refused, away, a.unknown_stored);
    assert_true(a.unknown_stored * PADDING <= away + PADDING);
}

/* In the socket's buffer. */
static void test_truth_unknown_bytes_never_leave_the_socket(void **state)
{
    (void)state;
    stand_still(driver_seed(900), 60);
}

/* And in libnats's. */
static void test_truth_unknown_bytes_never_leave_the_process(void **state)
{
    (void)state;
    stand_still(driver_seed(901), 6000);
}

/* ---- The gate ---------------------------------------------------------------------------------------------------- */

static bool gate_is_closed(void *arg)
{
    evbus_topic_statistics t = {.struct_size = sizeof t};

    (void)arg;
    (void)evbus_topic_stats(driver.bus, driver.o.topic, &t);
    return t.gate_closed != 0;
}

static bool gate_is_open(void *arg)
{
    return !gate_is_closed(arg);
}

/* The stream is somebody else's: the bus neither makes nor changes it. */
static void stream_is_made(void)
{
    const char *subject = driver.o.topic;
    jsStreamConfig cfg;

    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = witness.stream;
    cfg.Subjects = &subject;
    cfg.SubjectsLen = 1;
    assert_int_equal(js_AddStream(NULL, witness.js, &cfg, NULL, NULL), NATS_OK);
}

static void stream_takes(const char *subject)
{
    jsStreamInfo *info = NULL;

    assert_int_equal(js_GetStreamInfo(&info, witness.js, witness.stream, NULL, NULL), NATS_OK);
    jsStreamConfig cfg = *info->Config;
    cfg.Subjects = &subject;
    cfg.SubjectsLen = 1;
    assert_int_equal(js_UpdateStream(NULL, witness.js, &cfg, NULL, NULL), NATS_OK);
    jsStreamInfo_Destroy(info);
}

/* Nobody answers for the stream: the first 503 closes the gate, one probe at a time tries, other calls wait or are told
 * that there is no room. When the stream is back the gate opens, and what is stored is in the order of the calls. */
static void test_truth_gate_closes_probes_and_opens(void **state)
{
    struct driver_opts o = quiet_options(driver_seed(910));
    uint32_t last = 0;

    (void)state;
    o.publish_timeout_ms = 3000; /* a probe that falls into the stream's change is never answered */
    o.publish_inflight_max = 16;
    begin(&o);
    stream_is_made();
    while (last < 3)
        assert_int_equal(publish(++last, 1000), EVBUS_OK);
    assert_true(driver_settle(&driver, wait_patience_ms()));
    stream_takes("truth.elsewhere");
    while (publish(last + 1, EVBUS_NOWAIT) == EVBUS_OK) /* until it is full, or closed */
        last++;
    assert_true(wait_until(gate_is_closed, NULL, wait_patience_ms()));
    (void)publish(++last, EVBUS_NOWAIT); /* there is one to probe with */
    const evbus_status st = publish(last + 1, EVBUS_NOWAIT);
    assert_true(st == EVBUS_BACKPRESSURE || st == EVBUS_NOT_FOUND); /* the gate; or the answer to the question by now */
    const uint64_t before = proxy_bytes(proxy, PROXY_TO_SERVER);
    wait_out(1000);
    const uint64_t tried = proxy_bytes(proxy, PROXY_TO_SERVER) - before;
    assert_true(tried > 0 && tried < 12 * 400); /* at most one probe in 100 ms, and the question for the stream */
    stream_takes(o.topic);
    for (int64_t until = wait_now_ms() + wait_patience_ms(); !gate_is_open(NULL) && wait_now_ms() < until;)
        if (publish(last + 1, 100) == EVBUS_OK)
            last++;
        else
            wait_out(5);
    assert_true(gate_is_open(NULL));
    assert_int_equal(publish(last + 1, 1000), EVBUS_OK);
    assert_true(driver_settle(&driver, wait_patience_ms()));
    assert_true(driver_event(&driver, EVBUS_EVENT_GATE_CLOSED) > 0);
    const struct truth_account a = judge(o.seed, "gate", TRUTH_ON_THE_WAY_MS);
    print_message("gate: %" PRIu64 " refused, %" PRIu64 " unknown, %" PRIu64 " calls without room, %" PRIu64
                  " bytes of probes in a second\n",
                  a.refused, a.unknown, a.declined, tried);
    assert_true(a.declined > 0);
}

/* ---- Sending again ----------------------------------------------------------------------------------------------- */

static bool cut_and_back(void *arg)
{
    const evbus_statistics s = driver_stats(&driver);

    return s.connected && s.disconnects >= *(uint64_t *)arg;
}

/* Only what nothing overtakes is sent again, with the same message id: the stream has each once, in order of the calls. */
static void test_truth_resends_keep_the_order(void **state)
{
    const uint64_t seed = driver_seed(920);
    struct driver_opts o = quiet_options(seed);
    uint64_t rng = seed;

    (void)state;
    o.publishers = 2;
    o.waits = true;
    o.backlog_max = 0;
    o.pause_us = 50;
    begin(&o);
    for (uint32_t i = 0; i < driver_points(8); i++) {
        uint64_t cuts = i + 1;
        struct until more = {&truth, atomic_load(&truth.shared->accepted) + 20 + driver_random(&rng) % 200};
        assert_true(wait_until(accepted_enough, &more, wait_patience_ms()));
        /* the answers are cut off: what they answer is stored, and nobody knows */
        proxy_after(proxy, i % 3 ? PROXY_TO_CLIENT : PROXY_TO_SERVER, driver_random(&rng) % 600, PROXY_CUT);
        assert_true(wait_until(cut_and_back, &cuts, wait_patience_ms()));
    }
    assert_true(driver_settle(&driver, wait_patience_ms()));
    const evbus_statistics s = driver_stats(&driver);
    print_message("%" PRIu64 " stored, %" PRIu64 " sent again, %" PRIu64
                  " of them were stored already, unknown %" PRIu64 "\n",
                  s.publishes_stored, s.publishes_resent, s.publishes_duplicate, s.publishes_unknown);
    assert_true(s.publishes_resent > 0 && s.publishes_duplicate > 0);
    (void)judge(seed, "resends", TRUTH_ON_THE_WAY_MS);
}

int main(int argc, char **argv)
{
#define PUBLISH(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PUBLISH(test_truth_unknown_bytes_never_leave_the_socket),
        PUBLISH(test_truth_unknown_bytes_never_leave_the_process),
        PUBLISH(test_truth_gate_closes_probes_and_opens),
        PUBLISH(test_truth_resends_keep_the_order),
    };

    return truth_main("truth: publishing", tests, sizeof tests / sizeof tests[0], argc, argv);
}
