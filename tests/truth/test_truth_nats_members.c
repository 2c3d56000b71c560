/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several members of one group, each in a process of its own, and another process that publishes. EXCLUSIVE ones: the
 * active one leaves, dies (kill -9) or sleeps (SIGSTOP, for longer than its time to live) at seeded points under load, and
 * a member that stands by takes its turn. The ack wait is 30 s: nothing here waits for it. SHARED ones: the same befalls
 * one of two, and the other one gets what it had when the ack wait is over.
 */
#include "nats_truth.h"

#ifndef TRUTH_FRONTIER
#define TRUTH_FRONTIER false
#endif

#define TTL_MS 1500

static struct nats_server server;
static struct family family;
static struct witness witness;
static struct truth *publisher;

static int set_up(void **state)
{
    (void)state;
    return nats_server_start(&server, TRUTH_JETSTREAM) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    family_end(&family);
    if (witness.nc)
        witness_leave(&witness);
    nats_server_end(&server);
    return 0;
}

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

static struct driver_opts options(uint64_t seed, bool shared)
{
    char url[64];

    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", server.port);
    struct driver_opts o = driver_defaults(url, seed);
    (void)snprintf(o.topic, sizeof o.topic, "truth.m%" PRIu64, seed);
    o.shared = shared;
    o.member_ttl_ms = TTL_MS;
    o.ack_wait_ms = shared ? 1000 : 30000;
    o.aggregates = shared ? 8 : 4; /* about as much is published as they can handle: there is always something here */
    o.handler_us = 6000;
    o.pause_us = shared ? 2000 : 1000;
    o.backlog_max = 0; /* who publishes does not see what is handled */
    return o;
}

static struct truth *come(const struct driver_opts *all)
{
    struct driver_opts o = *all;

    o.publishers = 0;
    struct truth *member = family_child(&family, &o);
    await_state(member, DRIVER_RUNNING, wait_patience_ms());
    return member;
}

/* Somebody publishes, and the first member handles. */
static struct truth *begin(const struct driver_opts *all)
{
    struct driver_opts o = *all;

    o.consume = false;
    family_begin(&family);
    publisher = family_child(&family, &o);
    await_state(publisher, DRIVER_RUNNING, wait_patience_ms());
    struct truth *member = come(all);
    await_starts(member, 50);
    witness_come(&witness, o.url, o.topic);
    return member;
}

/* It will bite: this one has some. */
static bool holds_some(void *member)
{
    return atomic_load(&((struct truth *)member)->shared->held) > 2;
}

static void await_held(struct truth *member)
{
    assert_true(wait_until(holds_some, member, wait_patience_ms()));
}

/* It bit: the server waits for verdicts. */
static void must_have_in_flight(void)
{
    struct in_flight at = {0};

    assert_true(witness_consumer(&witness, &at));
    assert_true(at.unacked > 0);
}

/* The other one handles; how long it took. */
static int64_t await_turn(struct truth *member, int64_t since)
{
    struct until u = {member, 1};

    assert_true(wait_until(started_enough, &u, wait_patience_ms()));
    return wait_now_ms() - since;
}

struct sums {
    uint64_t starts, repeats, redelivered, fenced;
    int64_t longest;
};

/* All that is left is handled, all leave, and the judge has the word. */
static struct truth_account finish(struct truth_case *c, const struct driver_opts *o, struct sums *sums)
{
    family_hush(publisher);
    await_idle(&witness);
    for (size_t i = 0; i < family.count; i++) {
        sums->redelivered += atomic_load(&family.logs[i].shared->redelivered);
        sums->fenced += atomic_load(&family.logs[i].shared->fenced);
    }
    for (size_t i = 0; i < family.count; i++)
        if (family.pids[i] > 0)
            family_leave(&family, &family.logs[i]);
    c->seed = o->seed;
    c->attempts_max = o->attempts_max;
    c->late_ms = TRUTH_ON_THE_WAY_MS;
    const struct truth_account a = family_judge(&family, &witness, c);
    witness_leave(&witness);
    sums->starts += a.starts;
    sums->repeats += a.repeats;
    return a;
}

static void note_turn(struct sums *sums, int64_t took)
{
    sums->longest = took > sums->longest ? took : sums->longest;
}

static void print_sums(const char *name, uint32_t points, const struct sums *s)
{
    print_message("%s: %u points, %" PRIu64 " starts, %" PRIu64 " repeated, %" PRIu64 " redelivered, %" PRIu64
                  " fenced; the longest change took %d ms\n",
                  name, points, s->starts, s->repeats, s->redelivered, s->fenced, (int)s->longest);
}

/* ---- EXCLUSIVE members ------------------------------------------------------------------------------------------- */

#define RESTARTS 3u

/* Three times the active one leaves in order, and the next one is there. What it had is handed over: no handler of it runs
 * any more, nothing that was acknowledged runs again. */
static void roll(uint64_t seed, struct sums *sums)
{
    struct driver_opts o = options(seed, false);
    struct truth_case c = {.name = "rolling restart", .turns = RESTARTS + 1, .in_order = true};
    uint64_t rng = seed;

    o.calm = o.frontier; /* what fails or is deferred meanwhile ends the frontier: what is done behind it comes again */
    struct truth *active = begin(&o);
    for (uint32_t i = 0; i < RESTARTS; i++) {
        struct truth *next = come(&o);
        await_starts(active, 30 + driver_random(&rng) % 300);
        assert_int_equal(atomic_load(&next->shared->starts), 0);
        await_held(active);
        const int64_t at = wait_now_ms();
        family_leave(&family, active);
        note_turn(sums, await_turn(next, at));
        await_starts(next, 20);
        active = next;
    }
    (void)finish(&c, &o, sums);
}

static void test_truth_members_rolling_restart(void **state)
{
    const uint64_t seed = driver_seed(1100);
    const uint32_t points = driver_points(2);
    struct sums sums = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        roll(seed + i, &sums);
    print_sums("rolling restart", points, &sums);
    assert_true(sums.redelivered > 0); /* it bit: what was here and not started came again */
}

/* Twice the active one is killed. */
static void kill_active(uint64_t seed, struct sums *sums)
{
    const struct driver_opts o = options(seed, false);
    struct truth_case c = {.name = "active member killed", .turns = 3};
    struct truth *active = begin(&o);
    uint64_t rng = seed;

    for (int i = 0; i < 2; i++) {
        struct truth *next = come(&o);
        await_starts(active, 30 + driver_random(&rng) % 500);
        assert_int_equal(atomic_load(&next->shared->starts), 0);
        await_held(active);
        const int64_t at = wait_now_ms();
        family_kill(&family, active, SIGKILL);
        must_have_in_flight();
        note_turn(sums, await_turn(next, at));
        await_starts(next, 20);
        active = next;
    }
    (void)finish(&c, &o, sums);
}

static void test_truth_members_active_one_killed(void **state)
{
    const uint64_t seed = driver_seed(1200);
    const uint32_t points = driver_points(2);
    struct sums sums = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        kill_active(seed + i, &sums);
    print_sums("active member killed", points, &sums);
    assert_true(sums.redelivered > 0);
}

/* The active one sleeps until another has its turn, and longer. It wakes, starts nothing and settles nothing, stands by,
 * and has a turn again when the other one leaves. (What the judge cannot tell from a start out of turn: a thread that is
 * stopped between its last look at the clock and the first line of its handler. That is a microsecond in milliseconds.) */
static void stop_active(uint64_t seed, struct sums *sums)
{
    struct driver_opts o = options(seed, false);
    o.aggregates = 2; /* long runs are with the workers when it sleeps */
    o.pause_us = 2000;
    struct truth_case c = {.name = "active member stopped", .turns = 3};
    struct truth *first = begin(&o), *second = come(&o);
    uint64_t rng = seed;

    await_starts(first, 30 + driver_random(&rng) % 500);
    assert_int_equal(atomic_load(&second->shared->starts), 0);
    await_held(first);
    const int64_t at = wait_now_ms();
    family_signal(&family, first, SIGSTOP);
    must_have_in_flight();
    note_turn(sums, await_turn(second, at));
    await_starts(second, driver_random(&rng) % 300);
    family_signal(&family, first, SIGCONT);
    await_starts(second, 100);
    const uint64_t before = atomic_load(&first->shared->starts);
    family_leave(&family, second);
    await_starts(first, 50);
    assert_in_range(atomic_load(&first->shared->starts), before + 50, UINT64_MAX);
    (void)finish(&c, &o, sums);
}

static void test_truth_members_active_one_stopped(void **state)
{
    const uint64_t seed = driver_seed(1300);
    const uint32_t points = driver_points(2);
    struct sums sums = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        stop_active(seed + i, &sums);
    print_sums("active member stopped", points, &sums);
    assert_true(sums.redelivered > 0 && sums.fenced > 0);
}

/* ---- SHARED members ---------------------------------------------------------------------------------------------- */

/* One of two is killed, and replaced; the other one leaves in order, and is replaced too. */
static void kill_shared(uint64_t seed, struct sums *sums)
{
    const struct driver_opts o = options(seed, true);
    struct truth_case c = {.name = "shared member killed", .shared = true};
    struct truth *first = begin(&o), *second = come(&o);
    uint64_t rng = seed;

    await_starts(second, 30 + driver_random(&rng) % 300);
    await_starts(first, 1); /* both have a share */
    await_held(second);
    family_kill(&family, second, SIGKILL);
    struct truth *third = come(&o);
    await_starts(third, 30);
    await_starts(first, driver_random(&rng) % 300);
    family_leave(&family, first);
    struct truth *fourth = come(&o);
    await_starts(fourth, 30);
    assert_int_equal(finish(&c, &o, sums).members, 4);
}

static void test_truth_members_shared_one_killed(void **state)
{
    const uint64_t seed = driver_seed(1400);
    const uint32_t points = driver_points(2);
    struct sums sums = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        kill_shared(seed + i, &sums);
    print_sums("shared member killed", points, &sums);
    assert_true(sums.redelivered > 0);
}

/* One of two sleeps for longer than the ack wait: the other one runs what it had, and it does as well when it wakes. */
static void stop_shared(uint64_t seed, struct sums *sums)
{
    const struct driver_opts o = options(seed, true);
    struct truth_case c = {.name = "shared member stopped", .shared = true};
    struct truth *first = begin(&o), *second = come(&o);
    uint64_t rng = seed;

    await_starts(second, 30 + driver_random(&rng) % 300);
    await_held(second);
    family_signal(&family, second, SIGSTOP);
    wait_out(o.ack_wait_ms + 300 + (uint32_t)(driver_random(&rng) % 300));
    await_starts(first, 100);
    family_signal(&family, second, SIGCONT);
    await_starts(second, 30);
    (void)finish(&c, &o, sums);
}

static void test_truth_members_shared_one_stopped(void **state)
{
    const uint64_t seed = driver_seed(1500);
    const uint32_t points = driver_points(2);
    struct sums sums = {0};

    (void)state;
    for (uint32_t i = 0; i < points; i++)
        stop_shared(seed + i, &sums);
    print_sums("shared member stopped", points, &sums);
    assert_true(sums.redelivered > 0 && sums.repeats > 0);
}

int main(int argc, char **argv)
{
#define MEMBERS(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        MEMBERS(test_truth_members_rolling_restart),    MEMBERS(test_truth_members_active_one_killed),
        MEMBERS(test_truth_members_active_one_stopped), MEMBERS(test_truth_members_shared_one_killed),
        MEMBERS(test_truth_members_shared_one_stopped),
    };

    driver_frontier = TRUTH_FRONTIER;
    return truth_main("truth: several members", tests, sizeof tests / sizeof tests[0], argc, argv);
}
