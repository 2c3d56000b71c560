/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a cluster loses between its servers while our own connection stands, or between our old link and the new one: deliveries
 * that nobody has, pulls that nobody listens on. Order holds all the same. One server, and a client that plays the losing part.
 */
#include "gap_case.h"

static void be_one_of_several(evbus *bus, struct ev_command *command)
{
    ((const struct ev_nats *)bus->state)->consume->as_clustered = true;
    ((const struct ev_nats *)bus->state)->consume->as_pending = ((struct counted *)command)->told;
    atomic_store(&((struct counted *)command)->done, 1);
}

/* One version of each, and others' messages behind it. */
static void publish_round(struct nats_case *c, evbus *publisher, int64_t first, bool others)
{
    for (int64_t version = first; version < first + 4; version++) {
        suite_publish_many(publisher, TOPIC, "agg-", AGGREGATES, version, version);
        for (int i = 0; others && i < 30; i++)
            assert_int_equal(natsConnection_PublishString(c->nc, "gap.others", ""), NATS_OK);
    }
}

/* Deliveries that never come, in the middle of a session, as when a server of a cluster dies on their way (here: taken by a
 * client that goes away, of a server that counts as one of several). The server's count shows it: nothing later starts before they came again. */
static void loses_on_the_way(struct nats_case *c, evbus_ack_mode mode, uint64_t pending, bool others)
{
    struct ledger *ledger = new_ledger(0);
    char stream[EV_NAME_MAX];

    case_start(c, CASE_JETSTREAM, "");
    ev_stream_name(stream, TOPIC);
    if (others)
        operator_makes_plain(c, stream, "gap.>");
    evbus *bus = suite_open(&c->s, NULL);
    struct counted command = {.command.run = be_one_of_several, .told = pending};
    ev_loop_post(bus, &command.command);
    await_count(&command.done, 1);
    (void)take(bus, ledger,
               EVBUS_OPTS(evbus_sub_opts, .ack_mode = mode, .ack_wait_ms = 2000, .deliveries_max = EVBUS_FOREVER));
    evbus *publisher = publish_all(c, 1);
    await_count(&ledger->distinct, AGGREGATES);
    await_settled(c);
    const uint64_t gathered = counted(bus).gathered;
    for (int64_t round = 0; round < 5; round++) {
        natsSubscription *foreign = pull_some(c, 20);
        await_pulls(c, 2);
        publish_round(c, publisher, 2 + round * 4, others);
        lose_some(foreign, 20);
        await_count(&ledger->distinct, AGGREGATES * (uint32_t)(5 + round * 4));
        await_settled(c);
    }
    assert_in_range(counted(bus).gathered, gathered + 5, UINT64_MAX);
    assert_in_range(counted(bus).told, 5 * 20, UINT64_MAX);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
}

static void test_gap_waits_for_what_was_lost_on_the_way(void **state)
{
    loses_on_the_way(*state, EVBUS_ACK_EACH, 0, false);
}

static void test_gap_waits_for_what_was_lost_on_the_way_with_frontier_acks(void **state)
{
    loses_on_the_way(*state, EVBUS_ACK_FRONTIER, 0, false);
}

/* A leader that is behind its replicas knows of less that is pending than lies between floor and position: that as many are here
 * does not say that all are. */
static void test_gap_waits_for_what_a_leader_behind_its_replicas_does_not_count(void **state)
{
    loses_on_the_way(*state, EVBUS_ACK_FRONTIER, 1, false);
}

/* What lies between may be others' as well. */
static void test_gap_waits_for_what_was_lost_among_others_with_frontier_acks(void **state)
{
    loses_on_the_way(*state, EVBUS_ACK_FRONTIER, 0, true);
}

/* What comes after them fills the room that they would need: here of the whole bus, which holds no more than the 16 that it
 * asked for; and the link is slow, so that all of those are here before the rule can end it. */
static void makes_room(struct nats_case *c, evbus_ack_mode mode)
{
    struct ledger *ledger = new_ledger(0);
    uint32_t distinct = AGGREGATES;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = open_small_behind_proxy(c, NULL, NULL, 16);
    struct counted command = {.command.run = be_one_of_several};
    ev_loop_post(bus, &command.command);
    await_count(&command.done, 1);
    (void)take(bus, ledger,
               EVBUS_OPTS(evbus_sub_opts, .ack_mode = mode, .deliveries_max = EVBUS_FOREVER, .inflight_max = 32));
    evbus *publisher = publish_all(c, 1);
    await_count(&ledger->distinct, distinct);
    await_settled(c);
    proxy_delay(proxy, 50);
    for (int64_t round = 0; round < 3; round++) {
        natsSubscription *foreign = pull_some(c, 16);
        await_pulls(c, 2);
        suite_publish_many(publisher, TOPIC, "agg-", 3, 2 + round * 30, 31 + round * 30);
        lose_some(foreign, 16);
        distinct += 3 * 30;
        await_count(&ledger->distinct, distinct);
        await_settled(c);
    }
    proxy_delay(proxy, 0);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
    assert_in_range(counted(bus).let_go, 1, UINT64_MAX);
}

static void test_gap_makes_room_for_what_was_lost_on_the_way(void **state)
{
    makes_room(*state, EVBUS_ACK_EACH);
}

static void test_gap_makes_room_for_what_was_lost_on_the_way_with_frontier_acks(void **state)
{
    makes_room(*state, EVBUS_ACK_FRONTIER);
}

struct looked {
    evbus *bus;
    uint64_t gaps;
};

static bool has_looked(void *arg)
{
    const struct looked *l = arg;

    return counted(l->bus).gaps >= l->gaps;
}

static void await_gaps(evbus *bus, uint64_t gaps)
{
    struct looked l = {bus, gaps};

    assert_true(wait_until(has_looked, &l, wait_patience_ms()));
}

/* The same, right after a count that left one out and for which nothing had to be asked (its client had settled it): what a cluster
 * loses it loses in bursts, while servers come and go. */
static void test_gap_waits_for_what_was_lost_right_after_a_false_alarm(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);
    natsMsg *msg = NULL, *answer = NULL;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    struct counted command = {.command.run = be_one_of_several};
    ev_loop_post(bus, &command.command);
    await_count(&command.done, 1);
    (void)take(bus, ledger, EVBUS_OPTS(evbus_sub_opts, .deliveries_max = EVBUS_FOREVER));
    evbus *publisher = publish_all(c, 1);
    await_count(&ledger->distinct, AGGREGATES);
    await_settled(c);
    for (int64_t round = 0; round < 5; round++) {
        const uint64_t gaps = counted(bus).gaps;
        natsSubscription *settles = pull_some(c, 1);
        await_pulls(c, 2);
        suite_publish_many(publisher, TOPIC, "agg-", 2, 1, 1); /* again: one each */
        assert_int_equal(natsSubscription_NextMsg(&msg, settles, wait_patience_ms()), NATS_OK);
        assert_int_equal(
            natsConnection_RequestString(&answer, c->nc, natsMsg_GetReply(msg), "+ACK", wait_patience_ms()), NATS_OK);
        natsMsg_Destroy(answer);
        natsMsg_Destroy(msg);
        natsSubscription_Destroy(settles);
        suite_publish(publisher, TOPIC, "agg-0", 1); /* shows it */
        await_gaps(bus, gaps + 1);
        await_settled(c);
        natsSubscription *loses = pull_some(c, 20);
        await_pulls(c, 2);
        suite_publish_many(publisher, TOPIC, "agg-", AGGREGATES, 2 + round * 4, 5 + round * 4);
        lose_some(loses, 20);
        await_count(&ledger->distinct, AGGREGATES * (uint32_t)(5 + round * 4));
        await_settled(c);
    }
    assert_int_equal(ledger->skipped, 0);
}

static bool is_told(void *bus)
{
    return counted(bus).told >= 20;
}

/* They were told of, and nothing comes at all for longer than that usually takes, as from a consumer that has no leader now:
 * nothing later starts meanwhile. */
static void test_gap_waits_while_nothing_comes(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = open_behind_proxy(c, NULL, NULL);
    struct counted command = {.command.run = be_one_of_several};
    ev_loop_post(bus, &command.command);
    await_count(&command.done, 1);
    (void)take(bus, ledger, EVBUS_OPTS(evbus_sub_opts, .deliveries_max = EVBUS_FOREVER));
    evbus *publisher = publish_all(c, 1);
    await_count(&ledger->distinct, AGGREGATES);
    await_settled(c);
    proxy_delay(proxy, 150);
    natsSubscription *foreign = pull_some(c, 20);
    await_pulls(c, 2);
    suite_publish_many(publisher, TOPIC, "agg-", AGGREGATES, 2, 3);
    lose_some(foreign, 20);
    assert_true(wait_until(is_told, bus, wait_patience_ms()));
    proxy_after(proxy, PROXY_TO_CLIENT, 0, PROXY_STALL);
    wait_out(2500);
    proxy_delay(proxy, 0);
    proxy_resume(proxy, PROXY_TO_CLIENT);
    await_count(&ledger->distinct, AGGREGATES * 3);
    await_settled(c);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
}

/* A pull of our last link that the server believes to be heard: of one that died unseen, or through another server, that stands
 * still (here: of a client that never looks). What it takes is lost, new messages too: we wait until it is over, longer
 * than the ack wait, and it is no other member's. */
static void test_gap_waits_for_its_own_pulls(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, CASE_JETSTREAM, "");
    evbus *publisher = publish_all(c, 1);
    evbus *bus = open_behind_proxy(c, NULL, NULL);
    (void)take(bus, ledger, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 1000, .deliveries_max = EVBUS_FOREVER));
    await_count(&ledger->distinct, AGGREGATES);
    await_settled(c);
    natsSubscription *lost = pull_for(c, 10000, 5);
    await_pulls(c, 2);
    proxy_cut(proxy);
    must_reach(bus, connects, 2);
    suite_publish_many(publisher, TOPIC, "agg-", AGGREGATES, 2, 5);
    await_count(&ledger->distinct, AGGREGATES * 5);
    await_settled(c);
    natsSubscription_Destroy(lost);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_FOREIGN_MEMBER), 0);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        GAP_CASE(test_gap_waits_for_what_was_lost_on_the_way),
        GAP_CASE(test_gap_waits_for_what_was_lost_on_the_way_with_frontier_acks),
        GAP_CASE(test_gap_waits_for_what_a_leader_behind_its_replicas_does_not_count),
        GAP_CASE(test_gap_waits_for_what_was_lost_among_others_with_frontier_acks),
        GAP_CASE(test_gap_makes_room_for_what_was_lost_on_the_way),
        GAP_CASE(test_gap_makes_room_for_what_was_lost_on_the_way_with_frontier_acks),
        GAP_CASE(test_gap_waits_for_what_was_lost_right_after_a_false_alarm),
        GAP_CASE(test_gap_waits_while_nothing_comes),
        GAP_CASE(test_gap_waits_for_its_own_pulls),
    };

    return case_run("nats gap: lost on the way", tests, sizeof tests / sizeof *tests, argc, argv);
}
