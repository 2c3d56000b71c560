/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server dies (kill -9) or sleeps (SIGSTOP, for longer than the ack wait), and the network between does what
 * networks do, at seeded points under load: one bus and one member, which need no help.
 */
#include "nats_truth.h"

#include "../support/proxy.h"

#ifndef TRUTH_FRONTIER
#define TRUTH_FRONTIER false
#endif

static struct nats_server server;
static struct proxy *proxy;
static struct driver driver;
static struct truth truth;
static struct witness witness;

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

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

static void begin(uint64_t seed, uint16_t port)
{
    char url[64], direct[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", port);
    (void)snprintf(direct, sizeof direct, "nats://127.0.0.1:%u", server.port);
    const struct driver_opts o = driver_defaults(url, seed);
    assert_true(driver_start(&driver, &o, &truth));
    witness_come(&witness, direct, o.topic);
}

static void finish(uint64_t seed, const char *name, uint32_t late_ms)
{
    struct truth_case c = {
        .name = name, .seed = seed, .logs = &truth, .log_count = 1, .attempts_max = 3, .late_ms = late_ms};

    if (!driver_settle(&driver, 2 * wait_patience_ms()) ||
        !wait_until(witness_is_idle, &witness, 2 * wait_patience_ms())) {
        struct in_flight at = {0};
        (void)witness_consumer(&witness, &at);
        const evbus_statistics s = driver_stats(&driver);
        fail_msg("EVBUS_SEED=%" PRIu64 ": it does not come to rest: pending %" PRIu64 ", not acknowledged %" PRIu64
                 " (floor %" PRIu64 " of %" PRIu64 "), publishes %" PRIu64 ", held %" PRIu64,
                 seed, at.pending, at.unacked, at.floor, at.delivered_seq, s.publishes_inflight, s.held);
    }
    const evbus_statistics s = driver_stats(&driver);
    struct in_flight at = {0};
    (void)witness_consumer(&witness, &at);
    driver_end(&driver);
    const struct truth_account a = witness_judge(&witness, &c);
    print_message(
        "%s: %" PRIu64 " starts, redelivered %" PRIu64 ", sessions %" PRIu64 ", unknown %" PRIu64 " (%" PRIu64
        " stored, %" PRIu64 " of them after the report), refused %" PRIu64 ", pending below the floor %" PRIu64 "\n",
        name, a.starts, s.redelivered, s.connects, a.unknown, a.unknown_stored, a.late, a.refused, at.unacked);
    assert_true(s.redelivered > 0);
    assert_int_equal(a.members, 1);
}

struct waiting {
    uint64_t value;
};

static bool sessions_reached(void *arg)
{
    const evbus_statistics s = driver_stats(&driver);

    return s.connected && s.connects >= ((struct waiting *)arg)->value;
}

static bool acts_reached(void *arg)
{
    return proxy_acts(proxy) >= ((struct waiting *)arg)->value;
}

static bool cuts_reached(void *arg)
{
    return driver_stats(&driver).disconnects >= ((struct waiting *)arg)->value;
}

/* ---- The server -------------------------------------------------------------------------------------------------- */

#define MOMENTS 20u
#define MOMENT_MS 300

/* It will bite: some of what was delivered is not acknowledged. */
static bool has_unacked(void *arg)
{
    struct in_flight at = {0};

    (void)arg;
    return witness_consumer(&witness, &at) && at.unacked > 0;
}

static bool has_work(void *arg)
{
    const evbus_statistics s = driver_stats(&driver);

    (void)arg;
    return s.publishes_inflight + s.held > 0;
}

/* The moment it dies at: what is on its way then is not answered any more. All that was sent may be answered and handled just then,
 * and whoever publishes waits for that to be acknowledged: then another moment. */
static void stop_at_work(void)
{
    for (uint32_t i = 0; i < MOMENTS; i++) {
        assert_true(wait_until(has_unacked, NULL, wait_patience_ms()));
        nats_server_signal(&server, SIGSTOP);
        if (wait_until(has_work, NULL, MOMENT_MS))
            return;
        nats_server_signal(&server, SIGCONT);
    }
    fail_msg("nothing is on its way at any of %u moments", MOMENTS);
}

static void test_truth_server_killed(void **state)
{
    const uint64_t seed = driver_seed(300);
    uint64_t rng = seed;

    (void)state;
    begin(seed, server.port);
    for (uint32_t i = 0; i < driver_points(3); i++) {
        struct waiting w = {i + 2};
        await_starts(&truth, 50 + driver_random(&rng) % 700);
        stop_at_work();
        nats_server_kill(&server);
        assert_true(nats_server_restart(&server));
        assert_true(wait_until(sessions_reached, &w, wait_patience_ms()));
    }
    finish(seed, "server killed", TRUTH_ON_THE_WAY_MS);
}

static void test_truth_server_stopped(void **state)
{
    const uint64_t seed = driver_seed(400);
    uint64_t rng = seed;

    (void)state;
    begin(seed, server.port);
    for (uint32_t i = 0; i < driver_points(2); i++) {
        struct waiting w = {i + 2};
        await_starts(&truth, 50 + driver_random(&rng) % 700);
        assert_true(wait_until(has_unacked, NULL, wait_patience_ms()));
        nats_server_signal(&server, SIGSTOP);
        wait_out(driver.o.ack_wait_ms + 300 + (uint32_t)(driver_random(&rng) % 300));
        nats_server_signal(&server, SIGCONT);
        assert_true(wait_until(sessions_reached, &w, wait_patience_ms()));
    }
    finish(seed, "server stopped", 2000 + TRUTH_ON_THE_WAY_MS); /* it had bytes unread */
}

/* ---- The network ------------------------------------------------------------------------------------------------- */

static bool acted_or_left(void *arg)
{
    struct waiting *w = arg;

    return acts_reached(&w[0]) || sessions_reached(&w[1]);
}

/* Does it somewhere within the next bytes of one direction. On a busy machine a session may end by itself before: the next
 * one gets the same. */
static void act_within_bytes(uint64_t *rng, enum proxy_way way, enum proxy_act act)
{
    const uint64_t acts = proxy_acts(proxy) + 1;

    for (int i = 0; i < 10 && proxy_acts(proxy) < acts; i++) {
        struct waiting w[2] = {{acts}, {driver_stats(&driver).connects + 1}};
        proxy_after(proxy, way, 500 + driver_random(rng) % 20000, act);
        assert_true(wait_until(acted_or_left, w, wait_patience_ms()));
    }
    assert_in_range(proxy_acts(proxy), acts, UINT64_MAX);
}

/* The longest that bytes were kept on their way: what is stored later than that left its process too late. */
static int64_t kept_ms;

/* How many deliveries never came, as far as one can tell. */
static uint64_t at_some_byte(uint64_t *rng, enum proxy_way way, enum proxy_act act)
{
    struct in_flight at = {0};

    await_starts(&truth, 20 + driver_random(rng) % 200);
    const evbus_statistics before = driver_stats(&driver);
    struct waiting cuts = {before.disconnects + 1}, sessions = {before.connects + 1};
    const int64_t began = wait_now_ms();
    act_within_bytes(rng, way, act);
    assert_true(wait_until(cuts_reached, &cuts, wait_patience_ms()));
    assert_true(witness_consumer(&witness, &at));
    const uint64_t received = driver_stats(&driver).delivered;
    proxy_release(proxy);
    const int64_t kept = wait_now_ms() - began;
    kept_ms = kept > kept_ms ? kept : kept_ms;
    assert_true(wait_until(sessions_reached, &sessions, wait_patience_ms()));
    return at.delivered > received ? at.delivered - received : 0;
}

static void faults(uint64_t seed, const char *name, enum proxy_act act, uint32_t points)
{
    uint64_t rng = seed, lost = 0;

    kept_ms = 0;
    begin(seed, proxy_port(proxy));
    for (uint32_t i = 0; i < points; i++)
        lost += at_some_byte(&rng, i % 2 ? PROXY_TO_SERVER : PROXY_TO_CLIENT, act);
    print_message("%s: at least %" PRIu64 " deliveries were in transit\n", name, lost);
    assert_true(lost > 0);
    finish(seed, name, (uint32_t)(kept_ms > 2000 ? kept_ms : 2000) + TRUTH_ON_THE_WAY_MS);
}

/* Cut in the middle of deliveries, and in the middle of publishes and acks. */
static void test_truth_network_cuts(void **state)
{
    (void)state;
    faults(driver_seed(500), "link cut", PROXY_CUT, driver_points(6));
}

/* One direction stands still until the session is given up, then goes on with what it had. */
static void test_truth_network_stalls(void **state)
{
    (void)state;
    faults(driver_seed(600), "link stalled", PROXY_STALL, driver_points(4));
}

/* One direction swallows everything, and the sender is told that all is well. */
static void test_truth_network_drops_one_direction(void **state)
{
    (void)state;
    faults(driver_seed(700), "direction dropped", PROXY_DROP, driver_points(4));
}

/* Everything takes longer, and is cut in transit. (Much longer, and the load would be more than the link can carry: then
 * publishes reach their deadline before they are written, and each time that ends the session.) */
static void test_truth_network_is_slow(void **state)
{
    (void)state;
    proxy_delay(proxy, 3);
    faults(driver_seed(800), "slow link cut", PROXY_CUT, driver_points(4));
}

int main(int argc, char **argv)
{
#define SERVER(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        SERVER(test_truth_server_killed),
        SERVER(test_truth_server_stopped),
        SERVER(test_truth_network_cuts),
        SERVER(test_truth_network_stalls),
        SERVER(test_truth_network_drops_one_direction),
        SERVER(test_truth_network_is_slow),
    };

    driver_frontier = TRUTH_FRONTIER;
    return truth_main("truth: the server and the network", tests, sizeof tests / sizeof tests[0], argc, argv);
}
