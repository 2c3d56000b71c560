/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault+mem:// in simulated time: the bus without threads on a virtual clock, every fault on, many seeds. What the core
 * promises holds, each kind of fault happens and is counted, and a seed does the same again. EVBUS_SEED=N runs one seed.
 */
#include "core/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define AGGREGATES 5
#define VERSIONS 12
#define TOPIC "fault.topic"
#define EVERYTHING                                                                                                     \
    "lost_ack=0.05&lost_settle=0.1&duplicate=0.1&repeat=0.1&reorder=0.2&reorder_by_ms=40&delay=0.05&delay_by_ms=30"    \
    "&no_responders=0.03&no_responders_for_ms=300&slow_by_ms=2&disconnect_every_ms=900&disconnect_for_ms=80"           \
    "&clock_jump_every_ms=700&clock_jump_by_ms=400"

struct world {
    evbus_clock *clock;
    evbus *bus;
    evbus_sub *sub;
    uint64_t last_seq[AGGREGATES];
    uint32_t acked[AGGREGATES][VERSIONS + 1];
    uint32_t overtook; /* starts of another aggregate before one with a lower sequence: what reordering makes */
    uint64_t highest;
    uint64_t hash; /* of all handler starts, in order: the transcript */
    const evbus_msg *deferred;
    bool defers;
    char counts[600]; /* the log line at close */
};

static void note_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    struct world *w = ctx;

    (void)level;
    if (strcmp(subject, "fault") == 0)
        (void)snprintf(w->counts, sizeof w->counts, "%s", text);
}

static void mix(struct world *w, uint64_t value)
{
    w->hash = (w->hash ^ value) * UINT64_C(0x100000001b3);
}

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;
    const evbus_envelope *env = evbus_msg_envelope(msg);
    const int a = env->aggregate_id[0] - 'a';
    const uint64_t seq = evbus_msg_sequence(msg);

    assert_true(seq >= w->last_seq[a]); /* order per aggregate, in spite of everything */
    w->last_seq[a] = seq;
    w->overtook += seq < w->highest;
    w->highest = seq > w->highest ? seq : w->highest;
    mix(w, seq);
    mix(w, evbus_msg_delivery_count(msg));
    if (w->defers) {
        w->deferred = msg;
        return EVBUS_DEFER;
    }
    if ((seq * 7 + evbus_msg_attempt(msg)) % 11 == 0)
        return EVBUS_RETRY;
    w->acked[a][env->event_version]++;
    return EVBUS_ACK;
}

static struct world *current;

static void let_time_pass(void)
{
    evbus_clock_advance(current->clock, 5);
}

static void open_world_of(struct world *w, const char *query, const char *stream)
{
    char url[600];

    memset(w, 0, sizeof *w);
    current = w;
    ev_random_seed(1);
    w->clock = evbus_clock_new(INT64_C(1700000000) * EV_SEC);
    (void)snprintf(url, sizeof url, "fault+mem://%s%s", query ? "?" : "", query ? query : "");
    const evbus_opts o = {.struct_size = sizeof o,
                          .clock = w->clock,
                          .log = note_log,
                          .log_ctx = w,
                          .stream = stream,
                          .stream_subjects = stream ? "fault.>" : NULL};
    assert_int_equal(ev_open(url, &o, true, &w->bus), EVBUS_OK);
    w->bus->when_idle = let_time_pass;
}

static void open_world(struct world *w, const char *query)
{
    open_world_of(w, query, NULL);
}

static void close_world(struct world *w)
{
    (void)evbus_shutdown(w->bus, 1000, NULL);
    evbus_close(w->bus);
    evbus_clock_free(w->clock);
}

static void turn(struct world *w)
{
    while (ev_loop_turn(w->bus) | ev_crew_run_one(w->bus) | ev_keeper_turn(w->bus))
        ;
}

static void publish(struct world *w, int a, int64_t version)
{
    const char id[] = {(char)('a' + a), 0};
    const evbus_envelope env = {.aggregate_id = id, .event_type = "T", .event_version = version, .payload = "{}"};
    evbus_status st;

    do /* until it is stored: what is unknown is published again, under the same id */
        st = evbus_publish_envelope_wait(w->bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 2000), NULL);
    while (st == EVBUS_UNKNOWN || st == EVBUS_TIMEOUT || st == EVBUS_DISCONNECTED || st == EVBUS_BACKPRESSURE);
    assert_int_equal(st, EVBUS_OK);
}

static void subscribe(struct world *w)
{
    assert_int_equal(evbus_subscribe_envelope(w->bus, TOPIC, handle, w,
                                              EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 1000, .retry_min_ms = 10,
                                                         .attempts_max = EVBUS_FOREVER, .deliveries_max = 1000),
                                              &w->sub),
                     EVBUS_OK);
}

static bool all_acked(const struct world *w)
{
    for (int a = 0; a < AGGREGATES; a++)
        for (int v = 1; v <= VERSIONS; v++)
            if (!w->acked[a][v])
                return false;
    return w->bus->in.held_count == 0;
}

/* Everything published is handled, in order. Returns the transcript. */
static uint64_t run(struct world *w, uint64_t seed)
{
    char query[500];

    (void)snprintf(query, sizeof query, "seed=%llu&" EVERYTHING, (unsigned long long)seed);
    open_world(w, query);
    subscribe(w);
    for (int v = 1; v <= VERSIONS; v++)
        for (int a = 0; a < AGGREGATES; a++)
            publish(w, a, v);
    for (int i = 0; i < 20000 && !all_acked(w); i++) {
        turn(w);
        let_time_pass();
    }
    if (!all_acked(w))
        fail_msg("EVBUS_SEED=%llu: it did not come to rest, held %u", (unsigned long long)seed, w->bus->in.held_count);
    close_world(w);
    return w->hash;
}

static const char *const kinds[] = {"lost_ack", "lost_settle", "duplicate",     "repeat",     "reorder",
                                    "delay",    "slow",        "no_responders", "disconnect", "clock_jump"};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void add_counts(const struct world *w, uint64_t *to)
{
    char name[32];

    for (size_t i = 0; i < KINDS; i++) {
        (void)snprintf(name, sizeof name, " %s ", kinds[i]);
        const char *at = strstr(w->counts, name);
        assert_non_null(at);
        to[i] += strtoull(at + strlen(name), NULL, 10);
    }
}

/* With every fault on, whatever the seed: order per aggregate, everything handled, no memory left, each kind counted. */
static void test_fault_breaks_no_promise_of_the_core(void **state)
{
    static struct world w;
    const char *one = getenv("EVBUS_SEED");
    const uint64_t first = one ? strtoull(one, NULL, 10) : 1, count = one ? 1 : 200;
    uint64_t total[KINDS] = {0}, overtook = 0;

    (void)state;
    for (uint64_t seed = first; seed < first + count; seed++) {
        const uint64_t live = ev_alloc_live();
        (void)run(&w, seed);
        add_counts(&w, total);
        overtook += w.overtook;
        if (seed > first && ev_alloc_live() != live)
            fail_msg("EVBUS_SEED=%llu: %lld blocks leaked", (unsigned long long)seed,
                     (long long)(ev_alloc_live() - live));
    }
    for (size_t i = 0; i < KINDS; i++) {
        printf("%s %llu, ", kinds[i], (unsigned long long)total[i]);
        assert_true(one || total[i] > 0);
    }
    printf("overtook %llu\n", (unsigned long long)overtook);
    assert_true(one || overtook > 0);
}

/* The same seed does the same again, another one something else. */
static void test_fault_replays_from_its_seed(void **state)
{
    static struct world w;
    char counts[sizeof w.counts];

    (void)state;
    const uint64_t transcript = run(&w, 7);
    (void)snprintf(counts, sizeof counts, "%s", w.counts);
    assert_true(run(&w, 7) == transcript);
    assert_string_equal(w.counts, counts);
    assert_true(run(&w, 8) != transcript);
}

/* Without faults nothing is injected. */
static void test_fault_without_settings_does_nothing(void **state)
{
    static struct world w;
    uint64_t total[KINDS] = {0};

    (void)state;
    open_world(&w, NULL);
    subscribe(&w);
    publish(&w, 0, 1);
    turn(&w);
    close_world(&w);
    add_counts(&w, total);
    for (size_t i = 0; i < KINDS; i++)
        assert_int_equal(total[i], 0);
}

/* A message settled while there is no link keeps its subscription from ending only until there is one again. */
static void test_fault_unsubscribe_ends_after_a_settlement_without_link(void **state)
{
    static struct world w;

    (void)state;
    open_world(&w, "seed=1&disconnect_every_ms=1000&disconnect_for_ms=300");
    w.defers = true;
    subscribe(&w);
    publish(&w, 0, 1);
    turn(&w);
    assert_non_null(w.deferred);
    for (int i = 0; i < 10000 && ev_link_is_up(w.bus); i++) {
        turn(&w);
        let_time_pass();
    }
    assert_false(ev_link_is_up(w.bus));
    assert_int_equal(evbus_msg_settle(w.deferred, EVBUS_ACK), EVBUS_OK);
    const int64_t before = ev_clock_now(w.clock);
    assert_int_equal(evbus_unsubscribe(w.sub), EVBUS_OK);
    assert_true(ev_clock_now(w.clock) - before < 5 * EV_SEC);
    close_world(&w);
}

static void refuse(const char *query, const char *key, const char *value, const char *rule)
{
    char url[200];
    evbus *bus = NULL;

    (void)snprintf(url, sizeof url, "fault+mem://?%s", query);
    assert_int_equal(evbus_open(url, NULL, &bus), EVBUS_INVALID);
    if (!strstr(evbus_error_detail(), key) || !strstr(evbus_error_detail(), value) ||
        !strstr(evbus_error_detail(), rule))
        fail_msg("%s: %s", query, evbus_error_detail());
}

/* Settings are read strictly; the detail names key, value and rule. */
static void test_fault_refuses_settings_it_does_not_understand(void **state)
{
    (void)state;
    refuse("seed=1&lost_acks=0.1", "lost_acks", "0.1", "no setting");
    refuse("lost_ack=1.1", "lost_ack", "1.1", "probability from 0 to 1");
    refuse("lost_ack=", "lost_ack", "''", "probability from 0 to 1");
    refuse("lost_ack=.5", "lost_ack", ".5", "probability");
    refuse("lost_ack=-0.5", "lost_ack", "-0.5", "probability");
    refuse("lost_ack=0.5x", "lost_ack", "0.5x", "probability");
    refuse("lost_ack=1e-3", "lost_ack", "1e-3", "probability");
    refuse("lost_ack=0.1234567891", "lost_ack", "0.1234567891", "probability");
    refuse("seed=-1", "seed", "-1", "whole number");
    refuse("seed=1&seed=2", "seed", "2", "twice");
    refuse("delay_by_ms=0", "delay_by_ms", "'0'", "1..3600000");
    refuse("slow_by_ms=3600001", "slow_by_ms", "3600001", "0..3600000");
    refuse("lost_ack", "lost_ack", "lost_ack", "not key=value");
    refuse("", "''", "''", "not key=value");
    refuse("seed=1&", "''", "''", "not key=value");
    refuse("clock_jump_every_ms=100", "clock_jump_every_ms", "100", "virtual clock");
}

/* Until nothing comes again. */
static void let_all_come_again(struct world *w)
{
    for (int i = 0; i < 200; i++) {
        evbus_clock_advance(w->clock, 50);
        turn(w);
    }
}

static void check_that_nothing_ran_again(struct world *w, uint32_t published, uint32_t least, uint32_t most)
{
    evbus_statistics s = {.struct_size = sizeof s};
    uint32_t acked = 0;

    assert_int_equal(evbus_stats(w->bus, &s), EVBUS_OK);
    assert_in_range(s.redelivered, least, most); /* it bit */
    assert_int_equal(s.duplicates_settled, s.redelivered);
    for (int a = 0; a < AGGREGATES; a++)
        for (int v = 1; v <= VERSIONS; v++)
            acked += w->acked[a][v];
    assert_int_equal(acked, published);
}

static void subscribe_within(struct world *w, uint32_t inflight_max)
{
    assert_int_equal(
        evbus_subscribe_envelope(w->bus, TOPIC, handle, w,
                                 EVBUS_OPTS(evbus_sub_opts, .inflight_max = inflight_max, .ack_wait_ms = 5000,
                                            .retry_min_ms = 1, .retry_max_ms = 1, .attempts_max = EVBUS_FOREVER),
                                 &w->sub),
        EVBUS_OK);
}

/* An ack is lost, and far more is settled before the message comes again than is remembered one by one: all that was given
 * to an EXCLUSIVE member and is not here was settled here. It is told again, and does not run after later ones. */
static void test_fault_an_ack_lost_long_ago_runs_nothing_again(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, "seed=5&lost_settle=0.02");
    subscribe_within(&w, 32);
    for (int i = 0; i < 800; i++) {
        publish(&w, i % AGGREGATES, 1 + i % VERSIONS);
        turn(&w);
    }
    let_all_come_again(&w);
    check_that_nothing_ran_again(&w, 800, 8, 32);
    close_world(&w);
}

/* Nor if there are gaps in what it was given: as many as twice what may be out are remembered. */
static void test_fault_an_ack_lost_between_many_gaps_runs_nothing_again(void **state)
{
    enum { INFLIGHT = 128, MESSAGES = 2400, EVERY = 10 };
    const evbus_envelope other = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    struct world w;

    (void)state;
    open_world_of(&w, "seed=5&lost_settle=0.02", "FAULTS");
    subscribe_within(&w, INFLIGHT);
    for (int i = 0; i < MESSAGES; i++) {
        publish(&w, i % AGGREGATES, 1 + i % VERSIONS);
        turn(&w);
        let_time_pass();
        if (i % EVERY == 0)
            assert_int_equal(evbus_publish_envelope_wait(w.bus, "fault.other", &other, NULL, NULL), EVBUS_OK);
    }
    assert_in_range(w.sub->past->given.count, EV_SPAN_HOLES * 2, INFLIGHT * 2); /* so many that it bites */
    let_all_come_again(&w);
    check_that_nothing_ran_again(&w, MESSAGES, 24, INFLIGHT);
    close_world(&w);
}

static void other_and_ours(struct world *w, int64_t version)
{
    const evbus_envelope other = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};

    assert_int_equal(evbus_publish_envelope_wait(w->bus, "fault.other", &other, NULL, NULL), EVBUS_OK);
    publish(w, 0, version);
    turn(w);
}

/* What lies between two deliveries in a row is not ours. But where the broker was asked what it delivered, another leader of it
 * may go on counting from an older state: what it delivered and was lost on its way counts no other than what came here before. */
static void test_fault_a_count_ends_where_the_broker_was_asked(void **state)
{
    struct world w;

    (void)state;
    open_world_of(&w, "seed=5", "FAULTS");
    subscribe_within(&w, 32);
    publish(&w, 0, 1);
    turn(&w);
    other_and_ours(&w, 2);
    assert_int_equal(w.sub->past->span.count, 0);
    ev_host_floor(&w.bus->host, w.sub, 1);
    other_and_ours(&w, 3);
    assert_int_equal(w.sub->past->span.count, 1); /* nothing is concluded of the other's */
    other_and_ours(&w, 4);
    assert_int_equal(w.sub->past->span.count, 1);
    close_world(&w);
}

/* What it does understand opens a bus, of any scheme that is there; others are not. */
static void test_fault_opens_what_is_inside(void **state)
{
    evbus *bus = NULL;

    (void)state;
    assert_int_equal(evbus_open("fault+mem://inside?lost_ack=0&delay=1&reorder=0.000000001", NULL, &bus), EVBUS_OK);
    evbus_close(bus);
    assert_int_equal(evbus_open("fault+mem://not a name?seed=1", NULL, &bus), EVBUS_INVALID);
    assert_int_equal(evbus_open("fault+gopher://x", NULL, &bus), EVBUS_UNSUPPORTED);
    assert_int_equal(evbus_open("fault+fault+mem://", NULL, &bus), EVBUS_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fault_refuses_settings_it_does_not_understand),
        cmocka_unit_test(test_fault_opens_what_is_inside),
        cmocka_unit_test(test_fault_without_settings_does_nothing),
        cmocka_unit_test(test_fault_unsubscribe_ends_after_a_settlement_without_link),
        cmocka_unit_test(test_fault_an_ack_lost_long_ago_runs_nothing_again),
        cmocka_unit_test(test_fault_an_ack_lost_between_many_gaps_runs_nothing_again),
        cmocka_unit_test(test_fault_a_count_ends_where_the_broker_was_asked),
        cmocka_unit_test(test_fault_replays_from_its_seed),
        cmocka_unit_test(test_fault_breaks_no_promise_of_the_core),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
