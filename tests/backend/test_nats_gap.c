/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the gap rule promises to applications: after a cut link, a killed process, a killed server or a hand-over, each
 * aggregate goes on where it was, in order, without waiting for the ack wait (30 s here, where nothing else is said);
 * and what it does where it must not or cannot. The order of single deliveries is in test_nats_gap_order.c, what is lost on
 * its way in mid-session in test_nats_gap_lost.c.
 */
#include "gap_case.h"

static bool is_slow_again(void *bus)
{
    return counted(bus).slow >= 2;
}

static bool is_off(void *bus)
{
    return counted(bus).off >= 1;
}

/* Subscribes behind the proxy, lets `count` be delivered into a link that stands still, and cuts that. */
static void lose(struct nats_case *c, evbus *bus, struct ledger *ledger, const evbus_sub_opts *opts, uint32_t count)
{
    const uint64_t cuts = suite_stats_of(bus).disconnects;

    proxy_after(proxy, PROXY_TO_CLIENT, 40000, PROXY_STALL);
    (void)take(bus, ledger, opts);
    await_delivered(c, count);
    assert_in_range(atomic_load(&ledger->started), 0, count - count / 4); /* the fault bit */
    if (ledger->gate) { /* no new link before the test says so; the handlers end meanwhile */
        await_count(&ledger->came, 1);
        proxy_after_each(proxy, PROXY_TO_CLIENT, 0, PROXY_CUT);
    }
    proxy_cut(proxy);
    must_reach(bus, disconnects, cuts + 1);
    if (ledger->gate)
        gate_open(ledger->gate);
}

/* ---- Cuts -------------------------------------------------------------------------------------------------------- */

/* Links are cut at forty places, most of them in the middle of a delivery, some in the middle of the gap rule: each
 * aggregate's versions are handled in order, none is skipped, each is handled once. */
static void test_gap_keeps_order_when_links_are_cut(void **state)
{
    struct nats_case *c = *state;
    const char *given = getenv("EVBUS_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)wait_now_ms();
    struct ledger *ledger = new_ledger(0);

    print_message("EVBUS_SEED=%" PRIu64 "\n", seed);
    case_start(c, CASE_JETSTREAM, "");
    (void)publish_all(c, VERSIONS);
    evbus *bus = open_behind_proxy(c, NULL, NULL);
    const int64_t begun = wait_now_ms();
    (void)take(bus, ledger, EVBUS_OPTS(evbus_sub_opts, .deliveries_max = EVBUS_FOREVER));
    for (uint64_t cuts = 1; cuts <= 40; cuts++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const uint64_t bytes = 2000 + (seed >> 33) % (cuts % 4 == 0 ? 400000 : 50000);
        proxy_after(proxy, cuts % 5 ? PROXY_TO_CLIENT : PROXY_TO_SERVER, bytes, PROXY_CUT);
        if (atomic_load(&ledger->distinct) < AGGREGATES * VERSIONS * 3 / 4)
            must_reach_at_least(bus, disconnects, cuts);
        must_reach(bus, connected, 1);
    }
    await_count(&ledger->distinct, AGGREGATES * VERSIONS);
    const struct counted n = counted(bus);
    print_message("%" PRIu64 " cuts, %" PRIu64 " told, %d ms\n", suite_stats_of(bus).disconnects, n.told,
                  (int)(wait_now_ms() - begun));
    assert_in_range(suite_stats_of(bus).disconnects, 20, UINT64_MAX);
    assert_in_range(n.told, 1000, UINT64_MAX);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
    await_settled(c);
}

/* The server is killed (kill -9) in mid-delivery, three times, and comes back with an older state: nothing it still has
 * is skipped. */
static void test_gap_keeps_order_when_the_server_is_killed(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);
    char stream[EV_NAME_MAX];

    case_start(c, CASE_JETSTREAM, "");
    suite_close(&c->s, publish_all(c, VERSIONS));
    evbus *bus = open_behind_proxy(c, NULL, NULL);
    (void)take(bus, ledger, EVBUS_OPTS(evbus_sub_opts, .deliveries_max = EVBUS_FOREVER));
    for (uint32_t n = 1; n <= 3; n++) {
        await_count(&ledger->distinct, n * 3000);
        nats_server_kill(&c->server);
        assert_true(nats_server_restart(&c->server));
        must_reach(bus, connects, n + 1);
    }
    case_operator_leaves(c);
    case_operator_comes(c, "");
    ev_stream_name(stream, TOPIC);
    jsStreamInfo *info = operator_reads(c, stream);
    const uint32_t left = (uint32_t)info->State.LastSeq; /* killed, it may have lost an end that it had not written */
    jsStreamInfo_Destroy(info);
    const int64_t before = wait_now_ms();
    await_count(&ledger->distinct, left);
    assert_in_range(wait_now_ms() - before, 0, 10000);
    assert_int_equal(ledger->skipped, 0);
    await_settled(c);
}

/* ---- What it must not or cannot do ------------------------------------------------------------------------------- */

#define NO_ACKS                                                                                                        \
    CASE_JETSTREAM                                                                                                     \
    "accounts {A {jetstream: enabled, users: [{user: op, password: op},\n"                                             \
    "   {user: noack, password: p, permissions: {publish: {deny: [\"$JS.ACK.>\"]}}}]}}\nno_auth_user: op\n"

/* Without permission to settle, pulling waits until the ack wait is over: order holds, an event says so, once. */
static void test_gap_waits_where_settling_is_forbidden(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, NO_ACKS, "op:op@");
    (void)publish_all(c, 10);
    evbus *bus = open_behind_proxy(c, "noack", "p");
    lose(c, bus, ledger,
         EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 2000, .inflight_max = 2000, .deliveries_max = EVBUS_FOREVER), 1000);
    const int64_t before = wait_now_ms();
    await_count(&ledger->distinct, AGGREGATES * 10);
    assert_in_range(wait_now_ms() - before, 1000, 8000);
    proxy_cut(proxy);
    must_reach(bus, connects, 3);
    assert_true(wait_until(is_slow_again, bus, wait_patience_ms()));
    must_reach_at_least(bus, duplicates_settled, 1); /* all come again and again: nobody may say that they are done */
    const struct suite_event event = suite_event(&c->s, EVBUS_EVENT_STALLED, 0);
    assert_string_equal(event.topic, TOPIC);
    assert_int_equal(event.status, EVBUS_DENIED);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_STALLED), 1);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
}

/* Handlers that end while there is no link: their verdicts are refused when there is one again, before the server has
 * said what it delivered. That is asked for all the same, so that it can be gathered. */
static void test_gap_gathers_where_verdicts_waited_for_the_link(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, NO_ACKS, "op:op@");
    (void)publish_all(c, 10);
    evbus *bus = open_behind_proxy(c, "noack", "p");
    ledger->gate = &c->gate;
    lose(c, bus, ledger,
         EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 2000, .inflight_max = 2000, .deliveries_max = EVBUS_FOREVER), 1000);
    must_reach_at_least(bus, handler_runs, 1);
    proxy_after_each(proxy, PROXY_TO_CLIENT, UINT64_MAX, PROXY_CUT);
    await_count(&ledger->distinct, AGGREGATES * 10);
    assert_int_equal(counted(bus).slow, 1);
    assert_int_equal(counted(bus).gathered, 1);
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
}

/* SHARED members have no order to keep and may hold what is missing here: nothing is asked for, the ack wait decides. */
static void test_gap_is_off_for_shared_subscriptions(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, CASE_JETSTREAM, "");
    (void)publish_all(c, 10);
    evbus *bus = open_behind_proxy(c, NULL, NULL);
    lose(c, bus, ledger, EVBUS_OPTS(evbus_sub_opts, .membership = EVBUS_SHARED, .ack_wait_ms = 1000), 1000);
    await_count(&ledger->distinct, AGGREGATES * 10);
    const struct counted n = counted(bus);
    assert_int_equal(n.gaps + n.told + n.off + n.slow, 0);
    await_settled(c);
}

#define FOREIGN 150

static void foreign_acks(struct nats_case *c, natsSubscription *sub)
{
    for (int i = 0; i < FOREIGN; i++) {
        natsMsg *msg = NULL;
        assert_int_equal(natsSubscription_NextMsg(&msg, sub, wait_patience_ms()), NATS_OK);
        assert_int_equal(natsConnection_Publish(c->nc, natsMsg_GetReply(msg), "+ACK", 4), NATS_OK);
        natsMsg_Destroy(msg);
    }
    natsSubscription_Destroy(sub);
}

/* A member of an EXCLUSIVE group that has no lease is reported, and what it holds is not taken from it. */
static void test_gap_takes_nothing_from_an_active_member(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    must(evbus_unsubscribe(take(bus, ledger, NULL))); /* the durable is there */
    evbus *publisher = publish_all(c, 1);
    natsSubscription *foreign = pull_some(c, FOREIGN);
    await_delivered(c, AGGREGATES);
    (void)take(bus, ledger, NULL);
    assert_true(wait_until(is_off, bus, wait_patience_ms()));
    assert_int_equal(suite_event(&c->s, EVBUS_EVENT_FOREIGN_MEMBER, 0).status, EVBUS_OK);
    suite_publish_many(publisher, TOPIC, "agg-", AGGREGATES, 2, 40); /* more than the other one asked for */
    await_count(&ledger->started, AGGREGATES * 40 - FOREIGN);
    assert_int_equal(counted(bus).told, 0);
    for (int i = 0; i < AGGREGATES; i++)
        assert_int_equal(ledger->runs[i][1], 0);
    foreign_acks(c, foreign);
    await_settled(c);
    assert_int_equal(ledger->distinct, AGGREGATES * 40 - FOREIGN);
    assert_int_equal(ledger->started, AGGREGATES * 40 - FOREIGN);
}

/* ---- Hand-overs -------------------------------------------------------------------------------------------------- */

#define HANDOVERS 50

/* Fifty times a subscriber leaves with hundreds of messages here and in transit and another one takes over: in order, at
 * once, nothing lost, nothing run twice. */
static void test_gap_hands_over_in_order(void **state)
{
    struct nats_case *c = *state;
    const evbus_sub_opts o = {.struct_size = sizeof o, .inflight_max = 1000, .deliveries_max = EVBUS_FOREVER};
    struct ledger *ledger = new_ledger(0);
    int64_t longest = 0;
    uint64_t in_transit = 0;

    case_start(c, CASE_JETSTREAM, "");
    (void)publish_all(c, VERSIONS);
    evbus *buses[2] = {suite_open(&c->s, NULL), suite_open(&c->s, NULL)};
    evbus_sub *sub = take(buses[0], ledger, &o);
    await_count(&ledger->started, 100);
    for (int i = 1; i <= HANDOVERS; i++) {
        const int64_t before = wait_now_ms();
        must(evbus_unsubscribe(sub));
        const uint32_t seen = atomic_load(&ledger->started);
        jsConsumerInfo *info = read_consumer(c);
        in_transit += (uint64_t)info->NumAckPending;
        jsConsumerInfo_Destroy(info);
        sub = take(buses[i % 2], ledger, &o);
        await_count(&ledger->started, seen + 1 < AGGREGATES * VERSIONS ? seen + 1 : seen);
        longest = wait_now_ms() - before > longest ? wait_now_ms() - before : longest;
    }
    await_count(&ledger->distinct, AGGREGATES * VERSIONS);
    print_message("%d hand-overs, %" PRIu64 " messages each, the longest %d ms\n", HANDOVERS, in_transit / HANDOVERS,
                  (int)longest);
    assert_in_range(in_transit / HANDOVERS, 200, 1000); /* the fault bit */
    assert_in_range(longest, 0, 2000 * (wait_patience_ms() / 20000));
    assert_int_equal(ledger->skipped, 0);
    assert_int_equal(most_runs(ledger), 1);
    await_settled(c);
}

/* The other process: handles, until it is killed. */
static int be_member(const char *url, const char *path)
{
    struct ledger *ledger = map_shared(path, sizeof *ledger);

    if (!ledger || !become_member(url, NULL, write_down, ledger))
        return 1;
    for (;;)
        (void)pause();
}

/* A process is killed (kill -9) while it holds a thousand messages: its successor takes over in order within seconds. */
static void test_gap_succeeds_a_killed_process(void **state)
{
    struct nats_case *c = *state;
    char path[96];

    case_start(c, CASE_JETSTREAM, "");
    (void)publish_all(c, 30);
    evbus *bus = suite_open(&c->s, NULL);
    for (int i = 0; i < 3; i++) {
        struct ledger *ledger = share_memory(c, sizeof *ledger, path);
        const uint32_t before = atomic_load(&ledger->started);
        atomic_store(&ledger->stop_at, before + 300);
        const pid_t pid = start_member(path);
        await_count(&ledger->started, before + 300);
        await_delivered(c, 1000);
        end_member(pid);
        atomic_store(&ledger->stop_at, 0);
        const uint32_t seen = atomic_load(&ledger->started);
        const int64_t killed = wait_now_ms();
        evbus_sub *sub = take(bus, ledger, NULL);
        await_count(&ledger->started, seen + 1);
        const int64_t took = wait_now_ms() - killed;
        print_message("taken over after %d ms\n", (int)took);
        assert_in_range(took, 0, 3000 * (wait_patience_ms() / 20000));
        if (i == 2)
            await_count(&ledger->distinct, AGGREGATES * 30);
        must(evbus_unsubscribe(sub));
        assert_int_equal(ledger->skipped, 0);
        (void)munmap(ledger, sizeof *ledger);
    }
    await_settled(c);
}

/* ---- Gathering --------------------------------------------------------------------------------------------------- */

struct gathered {
    struct ev_command command;
    bool with_more_lost, after_a_look, forgotten;
    _Atomic(uint32_t) done;
};

static struct ev_nats_gap told_ten(void)
{
    struct ev_nats_gap g = {.first = 1, .last = 74, .top = 10, .delivered = 10, .beyond = 10, .unseen = 5};

    g.in_order = g.gathering = g.due = true;
    g.seen = ev_calloc(10, 1);
    return g;
}

static void gather_on_loop(evbus *bus, struct ev_command *command)
{
    struct gathered *n = (struct gathered *)command;
    struct ev_nats *st = bus->state;
    struct ev_nats_binding *b = st->consume->bindings[0], copy = *b;

    copy.gap = told_ten();
    ev_nats_gap_delivered(st, &copy, 12, true);
    n->with_more_lost = copy.gap.gathering;
    copy.gap.recheck = true;
    ev_nats_gap_delivered(st, &copy, 12, true);
    n->after_a_look = copy.gap.gathering;
    b->gap.seen = ev_calloc(1, 1);
    b->gap.gathering = true;
    ev_nats_gap_begin(st, b);
    n->forgotten = b->gap.seen == NULL;
    atomic_store(&n->done, 1);
}

/* What was told is on its way, and the count leaves some out again: the first new one does not say any more that all before it is
 * here. And when the rule begins anew its range is another: what was seen of the old one is forgotten. */
static void test_gap_goes_on_gathering_when_more_is_lost(void **state)
{
    struct nats_case *c = *state;
    struct ledger *ledger = new_ledger(0);
    struct gathered n = {.command.run = gather_on_loop};

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    (void)take(bus, ledger, NULL);
    (void)publish_all(c, 1);
    await_count(&ledger->distinct, AGGREGATES);
    await_settled(c);
    ev_loop_post(bus, &n.command);
    await_count(&n.done, 1);
    assert_true(n.with_more_lost);
    assert_false(n.after_a_look);
    assert_true(n.forgotten);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        GAP_CASE(test_gap_keeps_order_when_links_are_cut),
        GAP_CASE(test_gap_keeps_order_when_the_server_is_killed),
        GAP_CASE(test_gap_waits_where_settling_is_forbidden),
        GAP_CASE(test_gap_gathers_where_verdicts_waited_for_the_link),
        GAP_CASE(test_gap_is_off_for_shared_subscriptions),
        GAP_CASE(test_gap_takes_nothing_from_an_active_member),
        GAP_CASE(test_gap_hands_over_in_order),
        GAP_CASE(test_gap_succeeds_a_killed_process),
        GAP_CASE(test_gap_goes_on_gathering_when_more_is_lost),
    };

    if (argc == 4 && strcmp(argv[1], "member") == 0)
        return be_member(argv[2], argv[3]);
    return case_run("nats gap", tests, sizeof tests / sizeof *tests, argc, argv);
}
