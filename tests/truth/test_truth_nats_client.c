/* SPDX-License-Identifier: Apache-2.0 */
/* The client dies (kill -9) or sleeps (SIGSTOP, for longer than the ack wait) at seeded points, under load. */
#include "nats_truth.h"

#ifndef TRUTH_FRONTIER
#define TRUTH_FRONTIER false
#endif

static struct nats_server server;
static struct family family;

static int set_up(void **state)
{
    (void)state;
    return nats_server_start(&server, TRUTH_JETSTREAM) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    family_end(&family);
    nats_server_end(&server);
    return 0;
}

static struct driver_opts options(uint64_t seed, uint32_t point)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", server.port);
    struct driver_opts o = driver_defaults(url, seed);
    (void)snprintf(o.topic, sizeof o.topic, "truth.k%u", point);
    return o;
}

static struct truth_account judge_family(struct witness *w, uint64_t seed, const char *name)
{
    struct truth_case c = {.name = name, .seed = seed, .attempts_max = 3, .late_ms = TRUTH_ON_THE_WAY_MS};

    return family_judge(&family, w, &c);
}

/* Two deaths, then a member that finishes. */
static void kill_at(uint64_t seed, uint32_t point, struct truth_account *total)
{
    struct driver_opts o = options(seed, point);
    struct in_flight at = {0};
    struct witness w;
    uint64_t rng = seed;

    family_begin(&family);
    witness_come(&w, o.url, o.topic);
    for (int death = 0; death < 2; death++) {
        struct truth *log = family_child(&family, &o);
        await_starts(log, 50 + driver_random(&rng) % 1000);
        family_kill(&family, log, SIGKILL);
        assert_true(witness_consumer(&w, &at));
        assert_true(at.unacked > 0); /* it bit: messages died with it */
    }
    struct truth *last = family_child(&family, &o);
    await_starts(last, 100);
    family_finish(&family, last, &w);
    const uint64_t redelivered = atomic_load(&last->shared->redelivered);
    const struct truth_account a = judge_family(&w, seed, "client killed");
    assert_int_equal(a.members, 3);
    assert_true(redelivered > 0);
    total->repeats += a.repeats;
    total->open += a.open;
    total->starts += a.starts;
    total->letters += a.letters;
    witness_leave(&w);
}

static void test_truth_client_killed(void **state)
{
    const uint64_t seed = driver_seed(100);
    const uint32_t points = driver_points(3);
    struct truth_account total = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        kill_at(seed + i, i, &total);
    print_message("%u points: %" PRIu64 " starts, %" PRIu64 " repeated, %" PRIu64 " dead letters, %" PRIu64
                  " publishes of processes killed before their outcome\n",
                  points, total.starts, total.repeats, total.letters, total.open);
    assert_true(total.repeats > 0 && total.letters > 0 && total.open > 0);
}

static void stop_at(uint64_t seed, uint32_t point, struct truth_account *total)
{
    struct driver_opts o = options(seed, 1000 + point);
    struct in_flight at = {0};
    struct witness w;
    uint64_t rng = seed;

    family_begin(&family);
    witness_come(&w, o.url, o.topic);
    struct truth *log = family_child(&family, &o);
    await_starts(log, 50 + driver_random(&rng) % 1000);
    family_signal(&family, log, SIGSTOP);
    assert_true(witness_consumer(&w, &at));
    assert_true(at.unacked > 0);
    wait_out(o.ack_wait_ms + 300 + (uint32_t)(driver_random(&rng) % 300));
    assert_true(witness_consumer(&w, &at));
    assert_true(at.unacked > 0); /* it bit: the ack wait is over for what it held */
    family_signal(&family, log, SIGCONT);
    await_starts(log, 300);
    const uint64_t redelivered = atomic_load(&log->shared->redelivered);
    family_finish(&family, log, &w);
    const struct truth_account a = judge_family(&w, seed, "client stopped");
    total->starts += a.starts;
    total->repeats += redelivered;
    witness_leave(&w);
}

static void test_truth_client_stopped(void **state)
{
    const uint64_t seed = driver_seed(200);
    const uint32_t points = driver_points(2);
    struct truth_account total = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        stop_at(seed + i, i, &total);
    print_message("%u points: %" PRIu64 " starts, %" PRIu64 " delivered again\n", points, total.starts, total.repeats);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_truth_client_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_truth_client_stopped, set_up, tear_down),
    };

    driver_frontier = TRUTH_FRONTIER;
    return truth_main("truth: the client", tests, sizeof tests / sizeof tests[0], argc, argv);
}
