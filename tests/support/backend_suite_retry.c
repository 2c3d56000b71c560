/* SPDX-License-Identifier: Apache-2.0 */
/* Failing handlers: a head is retried in place, its aggregate waits, everybody else goes on, nothing is lost. */
#include "backend_suite_case.h"

#define QUICK .retry_min_ms = 2, .retry_max_ms = 20

/* Publishes `versions` of each of `aggregates` ("a0" ...), with handlers failing by plan; all must be acknowledged, in
 * order, and the plan's failures are the only further runs. Returns the tally. */
static struct tally *run_plan(struct suite *s, struct suite_plan *plan, int aggregates, int versions, size_t failures)
{
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const size_t total = (size_t)aggregates * (size_t)versions;

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish_many(bus, topic, "a", aggregates, 1, versions);
    assert_true(tally_await(t, &t->acked, total));
    must_reach(bus, handled, total);
    assert_int_equal(suite_stats_of(bus).retried, failures);
    assert_int_equal(suite_stats_of(bus).redelivered, 0); /* retried here, not by the broker */
    suite_close(s, bus);
    assert_int_equal(t->started, total + failures);
    tally_check_order(t);
    tally_check_complete(t, (size_t)aggregates, versions);
    return t;
}

/* A handler that fails twice and then succeeds runs exactly three times per message. */
static void test_retry_twice_takes_exactly_three_attempts(void **state)
{
    static struct suite_plan plan[] = {{.times = 2}, {.times = 0}};
    struct tally *t = run_plan(*state, plan, 3, 1, 6);

    for (size_t n = 0; n < 3; n++) {
        const struct tally_entry *e = tally_run(t, "a1", 1, n);
        assert_non_null(e);
        assert_int_equal(e->attempt, n + 1);
        assert_int_equal(e->deliveries, 1);
        assert_false(e->redelivered);
    }
    assert_int_equal(tally_runs(t, "a1", 1), 3);
}

/* The first of three messages fails once: all three are handled. */
static void test_retry_of_the_first_of_three_loses_none(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a0", .version = 1, .times = 1}, {.times = 0}};

    (void)run_plan(*state, plan, 3, 1, 1);
}

/* Three of five messages fail: the others are handled, and then those three. */
static void test_retry_of_three_in_five_spares_the_others(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a0", .times = 1},
                                       {.aggregate = "a2", .times = 1},
                                       {.aggregate = "a4", .times = 1},
                                       {.times = 0}};

    (void)run_plan(*state, plan, 5, 1, 3);
}

/* A failure in one aggregate leaves the runs of all others untouched. */
static void test_retry_in_one_aggregate_leaves_others_untouched(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a1", .version = 1, .times = 1}, {.times = 0}};
    struct tally *t = run_plan(*state, plan, 5, 3, 1);

    for (size_t i = 0; i < t->started; i++)
        assert_true(strcmp(tally_at(t, i)->aggregate, "a1") == 0 || tally_at(t, i)->attempt == 1);
    assert_int_equal(tally_runs(t, "a1", 1), 2);
}

/* With the default pause a message runs again within a second of its failure. */
static void test_retry_recovers_within_a_second(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    static struct suite_plan plan[] = {{.times = 1}, {.times = 0}};
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
    const int64_t pause = tally_at(t, 1)->at_ns - tally_at(t, 0)->at_ns;
    assert_true(pause >= 75000000 && pause < 1000000000);
}

/* A burst right after a failure is handled whole. */
static void test_retry_is_followed_by_a_burst_without_loss(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    static struct suite_plan plan[] = {{.aggregate = "a0", .version = 1, .times = 1}, {.times = 0}};
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish(bus, topic, "a0", 1);
    assert_true(tally_await(t, &t->retried, 1));
    suite_publish_many(bus, topic, "a", 1, 2, 6);
    assert_true(tally_await(t, &t->acked, 6));
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 1, 6);
}

/* Version 1 fails: it is retried before versions 2 to 10 run, in order. */
static void test_retry_of_version_one_holds_the_versions_behind_it(void **state)
{
    static struct suite_plan plan[] = {{.version = 1, .times = 3}, {.times = 0}};
    struct tally *t = run_plan(*state, plan, 1, 10, 3);

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(tally_at(t, i)->version, 1);
    assert_int_equal(tally_at(t, 4)->version, 2);
}

/* The hundredth of a thousand messages fails: all thousand are handled. */
static void test_retry_of_the_hundredth_of_a_thousand(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a9", .version = 10, .times = 1}, {.times = 0}};

    (void)run_plan(*state, plan, 10, 100, 1);
}

/* Three aggregates of ten, one failure: nothing is lost, and only that one runs twice. */
static void test_retry_of_one_in_three_aggregates_of_ten(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a1", .version = 5, .times = 1}, {.times = 0}};

    (void)run_plan(*state, plan, 3, 10, 1);
}

/* Five aggregates of three, the very first message fails: all fifteen are handled, in order also after the retry. */
static void test_retry_keeps_order_in_five_aggregates(void **state)
{
    static struct suite_plan plan[] = {{.aggregate = "a1", .version = 1, .times = 1}, {.times = 0}};
    struct tally *t = run_plan(*state, plan, 5, 3, 1);
    const struct tally_entry *again = tally_run(t, "a1", 1, 1), *second = tally_run(t, "a1", 2, 0);

    assert_true(again->finished < second->started);
}

/* Five aggregates of three, each fails once: all fifteen are handled. */
static void test_retry_of_every_aggregate_once(void **state)
{
    static struct suite_plan plan[] = {{.version = 1, .times = 1}, {.times = 0}};

    (void)run_plan(*state, plan, 5, 3, 5);
}

/* Every message of every aggregate fails once: order holds all the same. */
static void test_retry_of_every_message_once(void **state)
{
    static struct suite_plan plan[] = {{.times = 1}, {.times = 0}};

    (void)run_plan(*state, plan, 20, 5, 100);
}

/* One hopeless message and 99 aggregates of ten: those 990 are handled, once each, while it goes on failing. */
static void test_retry_of_a_hopeless_message_spares_all_others(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    plan[0].aggregate = "hopeless";
    plan[0].times = UINT32_MAX;
    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .attempts_max = EVBUS_FOREVER, QUICK));
    suite_publish(bus, topic, "hopeless", 1);
    suite_publish_many(bus, topic, "a", 99, 1, 10);
    assert_true(tally_await(t, &t->acked, 990));
    assert_true(tally_await(t, &t->retried, 10));
    assert_int_equal(tally_read(t, &t->acked), 990);
    atomic_store(&plan[0].over, true);
    assert_true(tally_await(t, &t->acked, 991));
    suite_close(s, bus);
    assert_int_equal(t->acked, 991);
    tally_check_order(t);
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

/* Fails until its time has come. */
struct until {
    const evbus_clock *clock;
    int64_t time_ns;
    struct suite *s;
};

static evbus_verdict fail_until(const evbus_msg *msg, void *arg)
{
    const struct until *u = arg;
    const bool head = strcmp(evbus_msg_envelope(msg)->aggregate_id, "a0") == 0;

    return head && suite_now_ns(u->s) < u->time_ns ? EVBUS_RETRY : EVBUS_ACK;
}

struct runs {
    struct tally *tally;
    size_t n;
};

static bool head_ran(void *arg)
{
    const struct runs *r = arg;

    return tally_runs(r->tally, "a0", 1) >= r->n;
}

/* Thousands of aggregates, the head of one fails for half a minute: all others complete at once (the virtual clock does
 * not even move), and then that one, in order. Where time is real: fewer, for two seconds. */
static void test_retry_for_long_stops_nobody_else(void **state)
{
    enum { VERSIONS = 3 };
    struct suite *s = *state;
    const int aggregates = s->clock ? 2000 : 200;
    const uint32_t fails_ms = s->clock ? 30000 : 2000;
    const char *topic = suite_topic(s, "orders");
    struct until *u = suite_alloc(s, sizeof *u);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    *u = (struct until){.s = s, .time_ns = suite_now_ns(s) + (int64_t)fails_ms * 1000000};
    t->decide = fail_until;
    t->arg = u;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .attempts_max = EVBUS_FOREVER, .retry_max_ms = 5000,
                               .inflight_max = 8192)); /* more than all: a frontier waits for the one that fails */
    suite_publish_many(bus, topic, "a", aggregates, 1, VERSIONS);
    const size_t others = (size_t)(aggregates - 1) * VERSIONS;
    assert_true(tally_await(t, &t->acked, others));
    assert_int_equal(tally_runs(t, "a0", 2), 0);
    assert_true(suite_now_ns(s) < u->time_ns);
    for (size_t n = 2; n <= 4; n++) /* virtual time that passes at once must leave its handler the time to run */
        assert_true(suite_pass_until(s, head_ran, &(struct runs){t, n}, 500));
    assert_true(suite_pass_until_count(s, t, &t->acked, others + VERSIONS, 2 * fails_ms + 5000));
    must_reach(bus, handled, others + VERSIONS);
    assert_int_equal(suite_stats_of(bus).redelivered, 0);
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, (size_t)aggregates, VERSIONS);
}

/* Pauses begin with retry_min_ms, double each time, and end at retry_max_ms; jitter is a fifth. */
static void test_retry_pauses_double_up_to_a_bound(void **state)
{
    static const int64_t least_ms[] = {80, 160, 320, 320, 320};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    static struct suite_plan plan[] = {{.times = 5}, {.times = 0}};
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .retry_min_ms = 100, .retry_max_ms = 400, .attempts_max = 9));
    suite_publish(bus, topic, "a", 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 1, 20000));
    suite_close(s, bus);
    for (size_t i = 0; i < 5; i++)
        assert_true(tally_at(t, i + 1)->at_ns - tally_at(t, i)->at_ns >= least_ms[i] * 1000000);
}

static void check_pauses(struct suite *s, const char *name, const evbus_sub_opts *opts, const int64_t *ms, size_t count)
{
    const char *topic = suite_topic(s, "%s", name);
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    plan[0].times = (uint32_t)count;
    t->decide = suite_by_plan;
    t->arg = plan;
    (void)suite_sub(bus, topic, t, opts);
    suite_publish(bus, topic, "a", 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 1, 20000));
    suite_close(s, bus);
    for (size_t i = 0; i < count; i++)
        assert_true(tally_at(t, i + 1)->at_ns - tally_at(t, i)->at_ns >= ms[i] * 1000000);
}

/* Pauses can be listed, then the last is repeated; or grow by another factor; with as much jitter as wanted, or none. */
static void test_retry_pauses_by_list_and_by_factor(void **state)
{
    static const uint32_t list[] = {50, 300, 100, 0};
    static const int64_t listed[] = {50, 300, 100, 100, 100}, tripled[] = {50, 150, 450, 500}, even[] = {100, 100, 100};
    struct suite *s = *state;

    check_pauses(s, "listed",
                 EVBUS_OPTS(evbus_sub_opts, .retry_list_ms = list, .attempts_max = 9, .retry_jitter_pct = EVBUS_NOWAIT),
                 listed, 5);
    check_pauses(s, "tripled",
                 EVBUS_OPTS(evbus_sub_opts, .retry_min_ms = 50, .retry_max_ms = 500, .retry_factor_pct = 300,
                            .attempts_max = 9, .retry_jitter_pct = EVBUS_NOWAIT),
                 tripled, 4);
    check_pauses(
        s, "even",
        EVBUS_OPTS(evbus_sub_opts, .retry_min_ms = 100, .retry_factor_pct = 100, .retry_jitter_pct = EVBUS_NOWAIT),
        even, 3);
}

/* A list of two pauses means three runs, then the dead letter, unless attempts_max says otherwise. */
static void test_retry_list_counts_the_attempts(void **state)
{
    static const uint32_t list[] = {2, 2, 0};
    static uint32_t many[34];
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct suite_plan *plan = suite_alloc(s, 2 * sizeof *plan);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    plan[0].times = UINT32_MAX;
    t->decide = suite_by_plan;
    t->arg = plan;
    for (size_t i = 0; i < 33; i++)
        many[i] = 1;
#define REFUSED(...)                                                                                                   \
    must_be(EVBUS_INVALID,                                                                                             \
            evbus_subscribe_envelope(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, __VA_ARGS__), NULL))
    REFUSED(.retry_list_ms = list, .retry_min_ms = 1);
    REFUSED(.retry_list_ms = many);
    must_mention("more than 32");
    REFUSED(.retry_list_ms = &many[33]);
    must_mention("no pause");
    REFUSED(.retry_factor_pct = 99);
    REFUSED(.retry_jitter_pct = 101);
#undef REFUSED
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .retry_list_ms = list));
    suite_publish(bus, topic, "a", 1);
    must_reach(bus, dead_lettered, 1);
    suite_close(s, bus);
    assert_int_equal(t->started, 3);
}

static evbus_verdict after_a_second(const evbus_msg *msg, void *arg)
{
    (void)arg;
    if (evbus_msg_attempt(msg) > 1)
        return EVBUS_ACK;
    evbus_msg_retry_after(msg, 1000);
    return EVBUS_RETRY;
}

/* evbus_msg_retry_after replaces the backoff once; the versions behind wait as long. */
static void test_retry_after_is_honoured(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = after_a_second;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(tally_await(t, &t->retried, 1));
    suite_pass(s, 500);
    assert_int_equal(tally_read(t, &t->started), 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 2, 20000));
    suite_close(s, bus);
    assert_true(tally_at(t, 1)->at_ns - tally_at(t, 0)->at_ns >= 1000000000);
    tally_check_order(t);
}

/* ---- Leases ------------------------------------------------------------------------------------------------------ */

/* A handler slower than the ack wait is not run twice: its lease is extended, and those of what waits behind it. */
static void test_retry_never_runs_a_slow_handler_twice(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "slow");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 800));
    suite_publish_many(bus, topic, "a", 2, 1, 3);
    assert_true(gate_await_inside(gate, 2));
    suite_pass(s, 2000);
    assert_int_equal(tally_read(t, &t->started), 2);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 6));
    must_reach(bus, handled, 6);
    const evbus_statistics stats = suite_stats_of(bus);
    assert_true(stats.lease_extensions >= 6);
    assert_int_equal(stats.redelivered, 0);
    suite_pass(s, s->clock ? 5000 : 1000);
    suite_close(s, bus);
    assert_int_equal(t->started, 6);
    tally_check_order(t);
    tally_check_complete(t, 2, 3);
}

/* A pause longer than the ack wait keeps the lease too: the broker never delivers the message again. */
static void test_retry_pause_keeps_the_lease(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "pause");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = after_a_second;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 400));
    suite_publish_many(bus, topic, "a", 1, 1, 3);
    assert_true(suite_pass_until_count(s, t, &t->acked, 3, 20000));
    suite_close(s, bus);
    for (size_t i = 0; i < t->started; i++)
        assert_int_equal(tally_at(t, i)->deliveries, 1);
    assert_int_equal(tally_runs(t, "a0", 1), 2);
    tally_check_order(t);
}

const struct suite_case suite_retry_cases[] = {
    SUITE_CASE(test_retry_twice_takes_exactly_three_attempts),
    SUITE_CASE(test_retry_of_the_first_of_three_loses_none),
    SUITE_CASE(test_retry_of_three_in_five_spares_the_others),
    SUITE_CASE(test_retry_in_one_aggregate_leaves_others_untouched),
    SUITE_CASE(test_retry_recovers_within_a_second),
    SUITE_CASE(test_retry_is_followed_by_a_burst_without_loss),
    SUITE_CASE(test_retry_of_version_one_holds_the_versions_behind_it),
    SUITE_CASE(test_retry_of_the_hundredth_of_a_thousand),
    SUITE_CASE(test_retry_of_one_in_three_aggregates_of_ten),
    SUITE_CASE(test_retry_keeps_order_in_five_aggregates),
    SUITE_CASE(test_retry_of_every_aggregate_once),
    SUITE_CASE(test_retry_of_every_message_once),
    SUITE_CASE(test_retry_of_a_hopeless_message_spares_all_others),
    SUITE_TIMED(test_retry_for_long_stops_nobody_else),
    SUITE_TIMED(test_retry_pauses_double_up_to_a_bound),
    SUITE_TIMED(test_retry_pauses_by_list_and_by_factor),
    SUITE_CASE(test_retry_list_counts_the_attempts),
    SUITE_TIMED(test_retry_after_is_honoured),
    SUITE_TIMED(test_retry_never_runs_a_slow_handler_twice),
    SUITE_TIMED(test_retry_pause_keeps_the_lease),
    {NULL, NULL, false},
};
