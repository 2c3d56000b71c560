/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: each gets everything, its members share a durable, fan-out gets copies from now on. */
#include "backend_suite_case.h"

/* Three groups on one topic of one bus: each gets all messages, in order. */
static void test_group_each_gets_everything(void **state)
{
    static const char *const groups[] = {"billing", "stock", "mail"};
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t[3];
    evbus *bus = suite_open(s, NULL);

    for (int i = 0; i < 3; i++) {
        t[i] = suite_tally(s);
        (void)suite_sub(bus, topic, t[i], EVBUS_OPTS(evbus_sub_opts, .group = groups[i]));
    }
    suite_publish_many(bus, topic, "a", 4, 1, 5);
    for (int i = 0; i < 3; i++) {
        assert_true(tally_await(t[i], &t[i]->acked, 20));
        assert_string_equal(tally_at(t[i], 0)->group, groups[i]);
    }
    suite_close(s, bus);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(t[i]->started, 20);
        tally_check_order(t[i]);
        tally_check_complete(t[i], 4, 5);
    }
}

/* The same group twice on one bus is refused, whatever the kind; after unsubscribing it is possible again. */
static void test_group_twice_on_one_bus_is_refused(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    const evbus_sub_opts *g = EVBUS_OPTS(evbus_sub_opts, .group = "g");
    evbus_sub *untouched = NULL;

    evbus_sub *sub = suite_sub(bus, topic, t, g);
    must_be(EVBUS_EXISTS, evbus_subscribe_envelope(bus, topic, tally_handle, t, g, &untouched));
    must_mention(topic);
    must_be(EVBUS_EXISTS, evbus_subscribe(bus, topic, tally_handle, t, g, &untouched));
    assert_null(untouched);
    assert_int_equal(suite_stats_of(bus).subscriptions, 1);
    (void)suite_sub(bus, suite_topic(s, "other"), t, g);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "h"));
    must(evbus_unsubscribe(sub));
    (void)suite_sub(bus, topic, t, g);
    assert_int_equal(suite_stats_of(bus).subscriptions, 3);
    suite_close(s, bus);
}

/* Three fan-out subscriptions, two of them on one bus, each get a copy of every message, plain or envelope. */
static void test_group_fanout_gives_everyone_a_copy(void **state)
{
    struct suite *s = *state;
    const char *envelopes = suite_topic(s, "orders"), *plain = suite_topic(s, "ticks");
    struct tally *e[3], *p[3];
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);
    const evbus_sub_opts *fanout = EVBUS_OPTS(evbus_sub_opts, .fanout = true);

    for (int i = 0; i < 3; i++) {
        e[i] = suite_tally(s);
        p[i] = suite_tally(s);
        (void)suite_sub(i < 2 ? one : two, envelopes, e[i], fanout);
        (void)suite_sub_plain(i < 2 ? one : two, plain, p[i], fanout);
    }
    suite_publish_many(one, envelopes, "a", 3, 1, 5);
    for (int i = 0; i < 15; i++)
        suite_publish_plain(two, plain, "tick");
    for (int i = 0; i < 3; i++) {
        assert_true(tally_await(e[i], &e[i]->acked, 15));
        assert_true(tally_await(p[i], &p[i]->acked, 15));
        assert_string_equal(tally_at(e[i], 0)->group, "");
    }
    suite_close(s, two);
    suite_close(s, one);
    for (int i = 0; i < 3; i++) {
        tally_check_complete(e[i], 3, 5);
        assert_int_equal(p[i]->started, 15);
    }
}

/* Fan-out starts with what is published from now on; so does a group with EVBUS_START_NEW; another group gets what the
 * stream holds. */
static void test_group_starts_where_it_says(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *fanout = suite_tally(s), *fresh = suite_tally(s), *all = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    for (int i = 1; i <= 3; i++)
        (void)suite_publish_wait(bus, topic, "a0", i);
    (void)suite_sub(bus, topic, fanout, EVBUS_OPTS(evbus_sub_opts, .fanout = true));
    (void)suite_sub(bus, topic, fresh, EVBUS_OPTS(evbus_sub_opts, .group = "new", .start = EVBUS_START_NEW));
    (void)suite_sub(bus, topic, all, EVBUS_OPTS(evbus_sub_opts, .group = "all"));
    suite_publish_many(bus, topic, "a", 1, 4, 5);
    assert_true(tally_await(fanout, &fanout->acked, 2));
    assert_true(tally_await(fresh, &fresh->acked, 2));
    assert_true(tally_await(all, &all->acked, 5));
    suite_close(s, bus);
    assert_int_equal(tally_at(fanout, 0)->version, 4);
    assert_int_equal(tally_at(fresh, 0)->version, 4);
    assert_int_equal(fanout->started + fresh->started, 4);
    tally_check_complete(all, 1, 5);
}

/* What fan-out cannot have is refused: a group, a start in the past. */
static void test_group_and_fanout_exclude_each_other(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);

    must_be(EVBUS_INVALID, evbus_subscribe_envelope(bus, topic, tally_handle, NULL,
                                                    EVBUS_OPTS(evbus_sub_opts, .fanout = true, .group = "g"), NULL));
    must_mention("group");
    must_be(EVBUS_UNSUPPORTED,
            evbus_subscribe_envelope(bus, topic, tally_handle, NULL,
                                     EVBUS_OPTS(evbus_sub_opts, .fanout = true, .start = EVBUS_START_ALL), NULL));
    must_mention("start");
    suite_close(s, bus);
}

struct pair {
    struct tally *t[2];
    size_t n;
};

static bool both_acked(void *arg)
{
    struct pair *p = arg;

    return tally_read(p->t[0], &p->t[0]->acked) + tally_read(p->t[1], &p->t[1]->acked) >= p->n;
}

/* Two SHARED members of one group on two buses split the load: each gets some, together they get all, once each. */
static void test_group_shared_members_split_the_load(void **state)
{
    enum { TOTAL = 200 };
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t[2] = {suite_tally(s), suite_tally(s)};
    evbus *bus[2];
    bool seen[TOTAL] = {false};
    const evbus_sub_opts *shared =
        EVBUS_OPTS(evbus_sub_opts, .group = "g", .membership = EVBUS_SHARED, .inflight_max = 4);

    for (int i = 0; i < 2; i++) {
        bus[i] = suite_open_shared(s, NULL);
        t[i]->decide = suite_at_gate;
        t[i]->arg = gate;
        (void)suite_sub(bus[i], topic, t[i], shared);
    }
    suite_publish_many(bus[0], topic, "a", TOTAL, 1, 1);
    assert_true(tally_await(t[0], &t[0]->started, 1));
    assert_true(tally_await(t[1], &t[1]->started, 1));
    gate_open(gate);
    assert_true(wait_until(both_acked, &(struct pair){{t[0], t[1]}, TOTAL}, wait_patience_ms()));
    suite_close(s, bus[0]);
    suite_close(s, bus[1]);
    assert_int_equal(t[0]->started + t[1]->started, TOTAL);
    for (int i = 0; i < 2; i++) {
        for (size_t n = 0; n < t[i]->started; n++) {
            const long a = strtol(tally_at(t[i], n)->aggregate + 1, NULL, 10);
            assert_in_range(a, 0, TOTAL - 1);
            assert_false(seen[a]);
            seen[a] = true;
        }
    }
}

/* A group goes on where it was: a bus that joins later handles what the last one did not, and nothing twice. */
static void test_group_goes_on_on_another_bus(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *first = suite_tally(s), *second = suite_tally(s);
    evbus *publisher = suite_open_shared(s, NULL), *one = suite_open_shared(s, NULL);

    (void)suite_sub(one, topic, first, NULL);
    suite_publish_many(publisher, topic, "a", 3, 1, 4);
    assert_true(tally_await(first, &first->acked, 12));
    must_reach(one, handled, 12);
    suite_close(s, one);
    suite_publish_many(publisher, topic, "a", 3, 5, 8);
    evbus *two = suite_open_shared(s, NULL);
    (void)suite_sub(two, topic, second, NULL);
    assert_true(tally_await(second, &second->acked, 12));
    suite_close(s, two);
    suite_close(s, publisher);
    assert_int_equal(first->started, 12);
    assert_int_equal(second->started, 12);
    tally_check_complete(first, 3, 4);
    for (size_t i = 0; i < 12; i++)
        assert_in_range(tally_at(second, i)->version, 5, 8);
    tally_check_order(second);
}

/* The one who has an EXCLUSIVE group hears of deliveries to somebody else in it. */
static void test_group_exclusive_reports_another_member(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *others = suite_tally(s);
    struct gate *gate = suite_gate(s), *others_gate = suite_gate(s);
    evbus *bus = suite_open_shared(s, NULL), *other = suite_open_shared(s, NULL);

    t->decide = others->decide = suite_at_gate;
    t->arg = gate;
    others->arg = others_gate;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .group = "g", .inflight_max = 2, .ack_mode = EVBUS_ACK_EACH));
    suite_publish_many(bus, topic, "a", 2, 1, 1);
    assert_true(gate_await_inside(gate, 2));
    (void)suite_sub(other, topic, others,
                    EVBUS_OPTS(evbus_sub_opts, .group = "g", .inflight_max = 4, .membership = EVBUS_SHARED));
    suite_publish_many(bus, topic, "b", 4, 1, 1);
    assert_true(gate_await_inside(others_gate, 4)); /* the first one has no room */
    gate_open(gate);
    suite_publish_many(bus, topic, "c", 4, 1, 1);
    assert_true(tally_await(t, &t->acked, 6)); /* the other one has none now */
    const struct suite_event event = suite_event(s, EVBUS_EVENT_FOREIGN_MEMBER, 0);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.group, "g");
    must_reach(bus, foreign, 4);
    gate_open(others_gate);
    assert_true(tally_await(others, &others->acked, 4));
    suite_close(s, other);
    suite_close(s, bus);
    assert_int_equal(t->acked + others->acked, 10);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_FOREIGN_MEMBER), 1);
}

/* A group's durable that exists with other settings is not used: plain and envelope members do not mix. */
static void test_group_with_other_settings_does_not_fit(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    (void)suite_sub(one, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"));
    must_be(EVBUS_MISMATCH,
            evbus_subscribe(two, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .group = "g"), NULL));
    assert_int_equal(suite_stats_of(two).subscriptions, 0);
    suite_publish(two, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, two);
    suite_close(s, one);
}

/* Without a group the bus's name is the group; where there is neither, it depends on the backend. */
static void test_group_defaults_to_the_name_of_the_bus(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s), *unnamed = suite_tally(s);
    evbus *bus = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .name = "the-service"));
    evbus *nameless = NULL;
    char url[256];

    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    assert_string_equal(tally_at(t, 0)->group, "the-service");

    s->backend->url(url, sizeof url, s->name);
    must(evbus_open(url, NULL, &nameless));
    s->buses[s->bus_count++] = nameless;
    const evbus_status st = evbus_subscribe_envelope(nameless, topic, tally_handle, unnamed, NULL, NULL);
    if (s->backend->has_default_group) {
        assert_int_equal(st, EVBUS_OK);
        assert_true(tally_await(unnamed, &unnamed->acked, 1));
    } else {
        assert_int_equal(st, EVBUS_INVALID);
        must_mention("group");
    }
    suite_close(s, nameless);
    suite_close(s, bus);
}

/* A broker of the bus's own is nobody else's, where there is such a thing. */
static void test_group_of_a_private_broker_is_alone(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t[2] = {suite_tally(s), suite_tally(s)};

    if (!s->backend->private_brokers)
        return;
    evbus *bus[2] = {suite_open(s, NULL), suite_open(s, NULL)};
    for (int i = 0; i < 2; i++) {
        (void)suite_sub(bus[i], topic, t[i], NULL);
        suite_publish(bus[i], topic, i == 0 ? "zero" : "one", 1);
    }
    for (int i = 0; i < 2; i++)
        assert_true(tally_await(t[i], &t[i]->acked, 1));
    suite_close(s, bus[0]);
    suite_close(s, bus[1]);
    assert_int_equal(t[0]->started + t[1]->started, 2);
    assert_string_equal(tally_at(t[0], 0)->aggregate, "zero");
    assert_string_equal(tally_at(t[1], 0)->aggregate, "one");
}

const struct suite_case suite_group_cases[] = {
    SUITE_CASE(test_group_each_gets_everything),
    SUITE_CASE(test_group_twice_on_one_bus_is_refused),
    SUITE_CASE(test_group_fanout_gives_everyone_a_copy),
    SUITE_CASE(test_group_starts_where_it_says),
    SUITE_CASE(test_group_and_fanout_exclude_each_other),
    SUITE_CASE(test_group_shared_members_split_the_load),
    SUITE_CASE(test_group_goes_on_on_another_bus),
    SUITE_CASE(test_group_exclusive_reports_another_member),
    SUITE_CASE(test_group_with_other_settings_does_not_fit),
    SUITE_CASE(test_group_defaults_to_the_name_of_the_bus),
    SUITE_CASE(test_group_of_a_private_broker_is_alone),
    {NULL, NULL, false},
};
