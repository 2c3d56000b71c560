/* SPDX-License-Identifier: Apache-2.0 */
/* Members of an EXCLUSIVE group: one is active, the others stand by; the turn passes on without loss and in order. */
#include "backend_suite_case.h"

#define GROUP EVBUS_OPTS(evbus_sub_opts, .group = "g")

static bool is_active(void *sub)
{
    return evbus_sub_active(sub);
}

static void await_active(evbus_sub *sub)
{
    assert_true(wait_until(is_active, sub, wait_patience_ms()));
}

/* A member whose turn it is. */
static evbus_sub *active_member(evbus *bus, const char *topic, struct tally *t)
{
    evbus_sub *sub = suite_sub(bus, topic, t, GROUP);

    await_active(sub);
    return sub;
}

/* A member that knows that it has to wait. */
static evbus_sub *standby_member(struct suite *s, evbus *bus, const char *topic, struct tally *t)
{
    const size_t before = suite_event_count(s, EVBUS_EVENT_STANDBY);
    evbus_sub *sub = suite_sub(bus, topic, t, GROUP);
    const struct suite_event e = suite_event(s, EVBUS_EVENT_STANDBY, before);

    assert_string_equal(e.topic, topic);
    assert_string_equal(e.group, "g");
    assert_false(evbus_sub_active(sub));
    return sub;
}

/* The second member of an EXCLUSIVE group is told that it stands by, and gets nothing. */
static void test_member_second_one_stands_by(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *first = suite_tally(s), *second = suite_tally(s);
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    (void)active_member(one, topic, first);
    (void)standby_member(s, two, topic, second);
    assert_int_equal(suite_stats_of(two).standby, 1);
    assert_int_equal(suite_stats_of(one).standby, 0);
    suite_publish_many(two, topic, "a", 5, 1, 10);
    assert_true(tally_await(first, &first->acked, 50));
    suite_close(s, one);
    suite_close(s, two);
    assert_int_equal(second->started, 0);
    tally_check_complete(first, 5, 10);
}

/* The active one unsubscribes: the one that stood by goes on at once, and says so; what was handled stays handled. */
static void test_member_takes_over_when_the_active_one_ends(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    evbus_sub *first = active_member(one, topic, t);
    evbus_sub *second = standby_member(s, two, topic, t);
    suite_publish_many(one, topic, "a", 5, 1, 10);
    assert_true(tally_await(t, &t->acked, 50));
    must_reach(one, handled, 50);
    const int64_t from = wait_now_ms();
    must(evbus_unsubscribe(first));
    await_active(second);
    print_message("took over after %" PRId64 " ms\n", wait_now_ms() - from);
    (void)suite_event(s, EVBUS_EVENT_ACTIVE, 0);
    suite_publish_many(one, topic, "a", 5, 11, 20);
    assert_true(tally_await(t, &t->acked, 100));
    assert_int_equal(suite_stats_of(two).takeovers, 1);
    assert_int_equal(suite_stats_of(two).standby, 0);
    suite_close(s, one);
    suite_close(s, two);
    tally_check_order(t);
    tally_check_complete(t, 5, 20);
}

static void close_it(void *bus)
{
    evbus_close(bus);
}

/* The active one ends with handlers running and messages waiting: the next one gets those in order, after the running
 * ones have ended, long before the ack wait. */
static void test_member_hands_over_in_order(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct gate *gate = suite_gate(s);
    evbus *one = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .workers_min = 4, .workers_max = 4));
    evbus *two = suite_open_shared(s, NULL);

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)active_member(one, topic, t);
    evbus_sub *second = standby_member(s, two, topic, t);
    suite_publish_many(one, topic, "a", 8, 1, 20);
    assert_true(gate_await_inside(gate, 4));
    must_reach(one, held, 160);
    const int64_t from = wait_now_ms();
    struct suite_background *end = suite_background(s, close_it, one, NULL);
    suite_forget(s, one);
    gate_open(gate);
    suite_background_join(end);
    await_active(second);
    assert_true(tally_await(t, &t->acked, 160));
    assert_in_range(wait_now_ms() - from, 0, 15000); /* the ack wait is 30 s */
    suite_close(s, two);
    tally_check_order(t);
    tally_check_complete(t, 8, 20);
}

/* Many wait; each gets its turn when the one before it ends, and the others go on waiting. */
static void test_member_turn_passes_from_one_to_the_next(void **state)
{
    enum { MEMBERS = 4 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus[MEMBERS];
    evbus_sub *sub[MEMBERS];

    evbus *publisher = suite_open_shared(s, NULL);
    for (int i = 0; i < MEMBERS; i++) {
        bus[i] = suite_open_shared(s, NULL);
        sub[i] = i == 0 ? active_member(bus[i], topic, t) : standby_member(s, bus[i], topic, t);
    }
    for (int left = MEMBERS, round = 1; left > 0; left--, round++) {
        int active = -1, count = 0;
        suite_publish_many(publisher, topic, "a", 3, round, round);
        assert_true(tally_await(t, &t->acked, (size_t)round * 3));
        for (int i = 0; i < MEMBERS; i++) {
            if (sub[i] && evbus_sub_active(sub[i])) {
                active = i;
                count++;
            }
        }
        assert_int_equal(count, 1);
        must(evbus_unsubscribe(sub[active]));
        sub[active] = NULL;
        suite_close(s, bus[active]);
    }
    suite_close(s, publisher);
    tally_check_order(t);
    tally_check_complete(t, 3, MEMBERS);
}

/* One bus can be active in one group or topic and stand by in another. */
static void test_member_turn_is_per_group_and_topic(void **state)
{
    struct suite *s = *state;
    const char *orders = suite_topic(s, "orders"), *stock = suite_topic(s, "stock");
    struct tally *t[2] = {suite_tally(s), suite_tally(s)};
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    (void)active_member(one, orders, t[0]);
    (void)active_member(two, stock, t[1]);
    (void)standby_member(s, one, stock, t[0]);
    (void)standby_member(s, two, orders, t[1]);
    evbus_sub *other = suite_sub(two, orders, t[1], EVBUS_OPTS(evbus_sub_opts, .group = "h"));
    await_active(other);
    suite_publish_many(one, orders, "a", 2, 1, 5);
    suite_publish_many(one, stock, "a", 2, 1, 5);
    assert_true(tally_await(t[0], &t[0]->acked, 10));
    assert_true(tally_await(t[1], &t[1]->acked, 20));
    suite_close(s, one);
    suite_close(s, two);
    assert_int_equal(t[0]->started, 10);
}

/* SHARED, fan-out and plain subscriptions never wait for a turn. */
static void test_member_only_exclusive_ones_wait(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *plain = suite_topic(s, "ticks");
    struct tally *t = suite_tally(s);

    for (int i = 0; i < 2; i++) {
        evbus *bus = suite_open_shared(s, NULL);
        assert_true(evbus_sub_active(
            suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "s", .membership = EVBUS_SHARED))));
        assert_true(evbus_sub_active(suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .fanout = true))));
        assert_true(evbus_sub_active(suite_sub_plain(bus, plain, t, EVBUS_OPTS(evbus_sub_opts, .group = "p"))));
        assert_int_equal(suite_stats_of(bus).standby, 0);
    }
    assert_false(evbus_sub_active(NULL));
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_STANDBY), 0);
}

/* ---- Rolling restarts -------------------------------------------------------------------------------------------- */

enum { AGGREGATES = 8, ROUNDS = 6, PER_ROUND = 40 };

struct stream_of_orders {
    evbus *bus;
    const char *topic;
    atomic_bool stop;
    _Atomic(int64_t) version; /* published of each aggregate */
};

static void publish_orders(void *arg)
{
    struct stream_of_orders *o = arg;

    for (int64_t v = 1; !atomic_load(&o->stop) || v <= ROUNDS * PER_ROUND; v++) {
        for (int i = 0; i < AGGREGATES; i++) {
            char aggregate[16];
            (void)snprintf(aggregate, sizeof aggregate, "a%d", i);
            const evbus_envelope env = suite_envelope_of(aggregate, v);
            thread_must(evbus_publish_envelope(o->bus, o->topic, &env, NULL) == EVBUS_OK);
        }
        atomic_store(&o->version, v);
        wait_out(1);
    }
}

/* The longest time between two starts of one aggregate, while messages flowed all the time. */
static int64_t longest_pause_ms(struct tally *t)
{
    int64_t longest = 0;

    for (int i = 0; i < AGGREGATES; i++) {
        char aggregate[16];
        int64_t last = 0;
        (void)snprintf(aggregate, sizeof aggregate, "a%d", i);
        for (size_t n = 0; n < t->started; n++) {
            const struct tally_entry *e = tally_at(t, n);
            if (strcmp(e->aggregate, aggregate) != 0)
                continue;
            if (last != 0 && e->at_ns - last > longest)
                longest = e->at_ns - last;
            last = e->at_ns;
        }
    }
    return longest / 1000000;
}

/* Members of this kind are replaced one after the other while messages flow. Returns how many were handled. */
static int64_t restart_rolling(struct suite *s, struct tally *t, const evbus_sub_opts *opts)
{
    struct stream_of_orders o = {.bus = suite_open_shared(s, NULL), .topic = suite_topic(s, "orders")};
    evbus *member[2];

    for (int i = 0; i < 2; i++) {
        member[i] = suite_open_shared(s, NULL);
        evbus_sub *sub = suite_sub(member[i], o.topic, t, opts);
        if (i == 0)
            await_active(sub);
    }
    struct suite_background *publisher = suite_background(s, publish_orders, &o, &o.stop);
    for (size_t round = 0; round < ROUNDS; round++) {
        assert_true(tally_await(t, &t->started, (round + 1) * PER_ROUND * AGGREGATES));
        suite_close(s, member[round % 2]);
        member[round % 2] = suite_open_shared(s, NULL);
        (void)suite_sub(member[round % 2], o.topic, t, opts);
    }
    atomic_store(&o.stop, true);
    suite_background_join(publisher);
    const int64_t versions = atomic_load(&o.version);
    assert_true(tally_await(t, &t->acked, (size_t)versions * AGGREGATES));
    must_reach(o.bus, publishes_inflight, 0);
    for (int i = 0; i < 2; i++)
        suite_close(s, member[i]);
    suite_close(s, o.bus);
    return versions;
}

/* Two EXCLUSIVE members, restarted in turn under load: nothing lost, nothing twice, order kept, and no aggregate pauses
 * for anything like the ack wait (30 s). */
static void test_member_rolling_restart_keeps_order(void **state)
{
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    const int64_t versions = restart_rolling(s, t, GROUP);

    tally_check_order(t);
    tally_check_complete(t, AGGREGATES, versions);
    const int64_t pause = longest_pause_ms(t);
    print_message("%d hand-overs, %" PRId64 " messages, longest pause of an aggregate %" PRId64 " ms\n", (int)ROUNDS,
                  versions * AGGREGATES, pause);
    assert_in_range(pause, 0, 8000);
}

/* Two SHARED members, restarted in turn under load: nothing lost. */
static void test_member_rolling_restart_of_shared_ones_loses_nothing(void **state)
{
    struct suite *s = *state;
    struct tally *t = suite_tally(s);
    const int64_t versions =
        restart_rolling(s, t, EVBUS_OPTS(evbus_sub_opts, .group = "g", .membership = EVBUS_SHARED));

    /* There are tens of thousands: each is looked at once. */
    bool *ran = suite_alloc(s, AGGREGATES * ((size_t)versions + 1));
    size_t distinct = 0;
    for (size_t i = 0; i < t->started; i++) {
        const struct tally_entry *e = tally_at(t, i);
        bool *here = &ran[(size_t)atoi(e->aggregate + 1) * ((size_t)versions + 1) + (size_t)e->version];
        distinct += e->verdict == EVBUS_ACK && !*here;
        *here = *here || e->verdict == EVBUS_ACK;
    }
    assert_int_equal(distinct, AGGREGATES * (size_t)versions);
}

const struct suite_case suite_member_cases[] = {
    SUITE_CASE(test_member_second_one_stands_by),
    SUITE_CASE(test_member_takes_over_when_the_active_one_ends),
    SUITE_CASE(test_member_hands_over_in_order),
    SUITE_CASE(test_member_turn_passes_from_one_to_the_next),
    SUITE_CASE(test_member_turn_is_per_group_and_topic),
    SUITE_CASE(test_member_only_exclusive_ones_wait),
    SUITE_CASE(test_member_rolling_restart_keeps_order),
    SUITE_CASE(test_member_rolling_restart_of_shared_ones_loses_nothing),
    {NULL, NULL, false},
};
