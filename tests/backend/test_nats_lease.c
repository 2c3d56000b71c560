/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EXCLUSIVE groups on a real server: members that die, stop, are cut off, are forbidden, restart. What two members did
 * lies in a ledger that both processes write; the judge reads it afterwards. The rules by themselves: tests/sim.
 */
#define TOPIC "lease.orders"

#include "backend/nats_consume.h"
#include "group_case.h"

#define TTL_MS 2000
#define AGGREGATES 20
#define RUNS 65536

/* ---- What was handled, by whom, when ----------------------------------------------------------------------------- */

struct ledger {
    _Atomic(uint32_t) started, ended;
    _Atomic(uint32_t) hold;   /* 1: handlers of the first member do not return */
    _Atomic(uint32_t) active; /* the first member is */
    struct run {
        _Atomic(uint32_t) who; /* 1, 2; 0: not written yet */
        uint32_t aggregate, version;
        uint64_t sequence;
    } runs[RUNS];
};

struct member {
    struct ledger *ledger;
    uint32_t who;
};

static evbus_verdict write_down(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    const struct member *m = ctx;
    struct run *r = &m->ledger->runs[atomic_fetch_add(&m->ledger->started, 1)];

    r->aggregate = (uint32_t)atoi(env->aggregate_id + 1);
    r->version = (uint32_t)env->event_version;
    r->sequence = evbus_msg_sequence(msg);
    atomic_store(&r->who, m->who);
    while (m->who == 1 && atomic_load(&m->ledger->hold))
        wait_out(1);
    atomic_fetch_add(&m->ledger->ended, 1);
    return EVBUS_ACK;
}

static uint32_t count_runs(const struct ledger *l, uint32_t who, uint32_t from)
{
    uint32_t n = 0;

    for (uint32_t i = from; i < atomic_load(&l->started); i++)
        n += atomic_load(&l->runs[i].who) == who;
    return n;
}

struct all {
    const struct ledger *ledger;
    uint32_t versions;
};

static bool all_ran(void *arg)
{
    static bool seen[AGGREGATES][4096];
    const struct all *all = arg;
    uint32_t distinct = 0;

    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < atomic_load(&all->ledger->started); i++) {
        const struct run *r = &all->ledger->runs[i];
        if (atomic_load(&r->who) == 0 || seen[r->aggregate][r->version])
            continue;
        seen[r->aggregate][r->version] = true;
        distinct++;
    }
    return distinct >= AGGREGATES * all->versions;
}

static void await_all(const struct ledger *l, uint32_t versions)
{
    struct all all = {l, versions};

    assert_true(wait_until(all_ran, &all, wait_patience_ms()));
}

/* From run `from` on, each aggregate's versions go up, without a gap; a repeat only of what the other one had not
 * settled, so never below where its successor began. */
static void check_order(const struct ledger *l, uint32_t from)
{
    uint32_t last[AGGREGATES] = {0};

    for (uint32_t i = from; i < atomic_load(&l->started); i++) {
        const struct run *r = &l->runs[i];
        if (last[r->aggregate] != 0 && r->version != last[r->aggregate] + 1)
            fail_msg("run %u by %u: aggregate %u version %u after %u", i, r->who, r->aggregate, r->version,
                     last[r->aggregate]);
        last[r->aggregate] = r->version;
    }
}

/* ---- Around ------------------------------------------------------------------------------------------------------ */

static struct ledger *ledger; /* of the running case */
static char ledger_path[96];

static int tear_down(void **state)
{
    struct nats_case *c = *state;

    if (ledger)
        atomic_store(&ledger->hold, 0);
    end_buses(c);
    if (ledger)
        (void)munmap(ledger, sizeof *ledger);
    ledger = NULL;
    return case_tear_down(state);
}

static void share_ledger(struct nats_case *c)
{
    ledger = share_memory(c, sizeof *ledger, ledger_path);
}

static bool is_active(void *sub)
{
    return evbus_sub_active(sub);
}

static bool is_standby(void *sub)
{
    return !evbus_sub_active(sub);
}

static const evbus_opts opts = {.struct_size = sizeof opts, .member_ttl_ms = TTL_MS, .heartbeat_ms = 500};

static evbus_sub *take(evbus *bus, struct member *m)
{
    evbus_sub *sub = NULL;

    m->ledger = ledger;
    must(evbus_subscribe_envelope(bus, TOPIC, write_down, m, NULL, &sub));
    return sub;
}

/* The other process: the first member. */
static int be_member(const char *url, const char *path)
{
    static struct member me = {.who = 1};

    me.ledger = map_shared(path, sizeof *me.ledger);
    evbus_sub *sub = me.ledger ? become_member(url, &opts, write_down, &me) : NULL;
    if (!sub)
        return 1;
    for (;;) {
        atomic_store(&me.ledger->active, evbus_sub_active(sub));
        wait_out(1);
    }
}

static pid_t start_first(void)
{
    const pid_t pid = start_member(ledger_path);

    await_count(&ledger->active, 1);
    return pid;
}

static bool has_in_transit(const jsConsumerInfo *info, int64_t count)
{
    return info->NumAckPending >= count;
}

/* The server has delivered at least so many that are not settled. */
static void await_in_transit(struct nats_case *c, int64_t count)
{
    await_consumer(c, has_in_transit, count);
}

static uint64_t records_written(struct nats_case *c)
{
    jsStreamInfo *info = operator_reads(c, EV_NATS_MEMBERS);

    assert_non_null(info);
    const uint64_t last = info->State.LastSeq;
    jsStreamInfo_Destroy(info);
    return last;
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

/* The first member, with a thousand messages in transit to it. */
static pid_t hold_a_thousand(struct nats_case *c, evbus *publisher)
{
    atomic_store(&ledger->hold, 1);
    const pid_t pid = start_first();
    suite_publish_many(publisher, TOPIC, "a", AGGREGATES, 1, 100);
    await_in_transit(c, 1000);
    return pid;
}

/* The oldest of them is handled within a second of that, more where the machine is slow; then all, in order. */
static void must_go_on(struct nats_case *c, uint32_t before, int64_t since, const char *what)
{
    await_count(&ledger->started, before + 1);
    const int64_t took = wait_now_ms() - since;
    print_message("S15: %s with 1000 in transit, the first one is handled again after %d ms\n", what, (int)took);
    await_all(ledger, 100);
    assert_in_range(took, 0, 2000 * (wait_patience_ms() / 20000));
    check_order(ledger, before);
    await_settled(c);
}

/* S15: the active member is killed with a thousand messages in transit; its successor goes on within a second, at the
 * oldest that was not settled, in order, although the ack wait is 30 s. */
static void test_lease_killed_member_is_succeeded_within_a_second(void **state)
{
    struct nats_case *c = *state;
    struct member second = {.who = 2};

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    evbus *bus = suite_open(&c->s, &opts), *publisher = suite_open(&c->s, NULL);
    const pid_t pid = hold_a_thousand(c, publisher);
    evbus_sub *sub = take(bus, &second);
    (void)suite_event(&c->s, EVBUS_EVENT_STANDBY, 0);
    const uint32_t before = atomic_load(&ledger->started);
    const int64_t killed = wait_now_ms();
    end_member(pid);
    must_go_on(c, before, killed, "killed");
    assert_true(evbus_sub_active(sub));
    assert_int_equal(count_runs(ledger, 1, before), 0);
}

/* The same, but the successor comes only after the death: a restarted consumer. */
static void test_lease_restarted_member_goes_on_within_a_second(void **state)
{
    struct nats_case *c = *state;
    struct member second = {.who = 2};

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    evbus *publisher = suite_open(&c->s, NULL);
    end_member(hold_a_thousand(c, publisher));
    const uint32_t before = atomic_load(&ledger->started);
    const int64_t restarted = wait_now_ms();
    evbus *bus = suite_open(&c->s, &opts);
    (void)take(bus, &second);
    must_go_on(c, before, restarted, "restarted");
}

/* SIGSTOP for longer than its time to live: another member takes over; when it wakes it runs nothing and settles
 * nothing of what is the other one's now, not even what its handlers had begun. */
static void test_lease_stopped_member_is_fenced(void **state)
{
    struct nats_case *c = *state;
    struct member second = {.who = 2};

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    evbus *bus = suite_open(&c->s, &opts), *publisher = suite_open(&c->s, NULL);
    atomic_store(&ledger->hold, 1);
    const pid_t pid = start_first();
    evbus_sub *sub = take(bus, &second);
    suite_publish_many(publisher, TOPIC, "a", AGGREGATES, 1, 30);
    await_in_transit(c, AGGREGATES * 30);
    await_count(&ledger->started, 1);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    const uint32_t before = atomic_load(&ledger->started), ended = atomic_load(&ledger->ended);
    const int64_t stopped = wait_now_ms();
    assert_true(wait_until(is_active, sub, wait_patience_ms()));
    print_message("stopped: its turn was over after %d ms (time to live %d)\n", (int)(wait_now_ms() - stopped), TTL_MS);
    assert_in_range(wait_now_ms() - stopped, TTL_MS / 2, wait_patience_ms());
    await_all(ledger, 30);
    await_settled(c);
    atomic_store(&ledger->hold, 0);
    const uint32_t all = atomic_load(&ledger->started);
    assert_int_equal(kill(pid, SIGCONT), 0);
    await_count(&ledger->ended, ended + (all - before) + before); /* its handlers have returned */
    suite_publish_many(publisher, TOPIC, "a", AGGREGATES, 31, 60);
    await_all(ledger, 60);
    await_settled(c);
    assert_int_equal(count_runs(ledger, 1, before), 0);
    assert_int_equal(ledger->active, 0);
    check_order(ledger, before);
    end_member(pid);
}

/* The active member's link is cut without a word: it stops by itself before another one takes over, comes back, and
 * stands by. */
static void test_lease_cut_off_member_stops_and_stands_by(void **state)
{
    static const struct suite_backend backend = {.name = "nats", .url = case_url};
    struct nats_case *c = *state;
    struct member first = {.who = 1}, second = {.who = 2};
    evbus_opts o = opts;
    evbus *cut = NULL;
    char url[64];

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    c->s.backend = &backend;
    proxy = proxy_open(c->server.port);
    assert_non_null(proxy);
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(proxy));
    o.name = "suite";
    o.connect_timeout_ms = 1000;
    must(evbus_open(url, &o, &cut));
    c->s.buses[c->s.bus_count++] = cut;
    evbus *bus = suite_open(&c->s, &opts);
    evbus_sub *one = take(cut, &first);
    assert_true(wait_until(is_active, one, wait_patience_ms()));
    evbus_sub *two = take(bus, &second);
    suite_publish_many(bus, TOPIC, "a", AGGREGATES, 1, 10);
    await_all(ledger, 10);
    await_settled(c);                                         /* else it comes again, as it should */
    proxy_after_each(proxy, PROXY_TO_CLIENT, 0, PROXY_STALL); /* nor does a new link work */
    proxy_after(proxy, PROXY_TO_CLIENT, 0, PROXY_STALL);
    proxy_after(proxy, PROXY_TO_SERVER, 0, PROXY_STALL);
    const int64_t at = wait_now_ms();
    must_reach_at_least(cut, disconnects, 1);
    const int64_t noticed = wait_now_ms() - at;
    assert_true(wait_until(is_active, two, wait_patience_ms()));
    print_message("cut off: noticed after %d ms, taken over after %d ms\n", (int)noticed, (int)(wait_now_ms() - at));
    const uint32_t before = atomic_load(&ledger->started);
    suite_publish_many(bus, TOPIC, "a", AGGREGATES, 11, 20);
    await_all(ledger, 20);
    await_settled(c);
    proxy_after_each(proxy, PROXY_TO_CLIENT, UINT64_MAX, PROXY_CUT);
    proxy_release(proxy);
    assert_true(wait_until(is_standby, one, wait_patience_ms()));
    assert_int_equal(count_runs(ledger, 1, before), 0);
    must(evbus_unsubscribe(two)); /* and its turn comes again */
    assert_true(wait_until(is_active, one, wait_patience_ms()));
    suite_publish_many(bus, TOPIC, "a", AGGREGATES, 21, 30);
    await_all(ledger, 30);
    check_order(ledger, 0);
    await_settled(c);
}

/* A link that comes back within the time to live keeps its turn: nothing is handed over, nothing run twice. */
static void test_lease_survives_a_short_cut_and_a_restarted_server(void **state)
{
    struct nats_case *c = *state;
    struct member first = {.who = 1}, second = {.who = 2};
    evbus_opts o = opts;

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    o.member_ttl_ms = 30000;
    evbus *a = suite_open(&c->s, &o), *b = suite_open(&c->s, &o);
    evbus_sub *one = take(a, &first);
    assert_true(wait_until(is_active, one, wait_patience_ms()));
    evbus_sub *two = take(b, &second);
    suite_publish_many(a, TOPIC, "a", AGGREGATES, 1, 10);
    await_all(ledger, 10);
    await_settled(c);
    for (int i = 0; i < 3; i++) {
        case_operator_leaves(c);
        nats_server_kill(&c->server);
        assert_true(nats_server_restart(&c->server));
        case_operator_comes(c, "");
        must_reach_at_least(a, connects, (uint64_t)i + 2);
        must_reach_at_least(b, connects, (uint64_t)i + 2);
        suite_publish_many(b, TOPIC, "a", AGGREGATES, 11 + i * 10, 20 + i * 10);
        await_all(ledger, 20 + (uint32_t)i * 10);
        assert_true(evbus_sub_active(one));
        assert_false(evbus_sub_active(two));
    }
    check_order(ledger, 0);
    assert_int_equal(count_runs(ledger, 2, 0), 0);
    assert_int_equal(suite_stats_of(a).fenced, 0);
    await_settled(c);
}

#define FORBIDDEN                                                                                                      \
    CASE_JETSTREAM                                                                                                     \
    "accounts {A {jetstream: enabled, users: [{user: op, password: op},\n"                                             \
    "   {user: app, password: p, permissions: {publish: {deny: [\"evbus.>\", "                                         \
    "\"$JS.API.STREAM.CREATE.EVBUS_MEMBERS\"]}}},\n"                                                                   \
    "   {user: may, password: p, permissions: {publish: {deny: [\"$JS.API.STREAM.CREATE.EVBUS_MEMBERS\","              \
    "        \"$JS.API.STREAM.PURGE.>\", \"_INBOX.*.c.y\"]}, subscribe: {deny: [\"evbus.>\"]}}}]}}\nno_auth_user: "    \
    "op\n"

/* Where the records cannot be kept, subscribing says so and what to do; SHARED works, and EXCLUSIVE does as soon as an
 * operator has made the stream, also with the least that is needed. */
static void test_lease_missing_permissions_are_said(void **state)
{
    struct nats_case *c = *state;
    struct member first = {.who = 1}, second = {.who = 2};
    evbus_opts o = opts;

    case_start(c, FORBIDDEN, "op:op@");
    share_ledger(c);
    o.user = "app";
    o.password = "p";
    evbus *app = suite_open(&c->s, &o);
    first.ledger = ledger;
    must_be(EVBUS_DENIED, evbus_subscribe_envelope(app, TOPIC, write_down, &first, NULL, NULL));
    must_mention("EVBUS_MEMBERS");
    must_mention("SHARED");
    operator_makes_members(c);
    must_be(EVBUS_DENIED, evbus_subscribe_envelope(app, TOPIC, write_down, &first, NULL, NULL));
    must_mention("evbus.member.>");
    must(evbus_subscribe_envelope(app, TOPIC, write_down, &first,
                                  EVBUS_OPTS(evbus_sub_opts, .group = "s", .membership = EVBUS_SHARED), NULL));
    o.user = "may";
    evbus *a = suite_open(&c->s, &o), *b = suite_open(&c->s, &o);
    evbus_sub *one = take(a, &second);
    assert_true(wait_until(is_active, one, wait_patience_ms()));
    evbus_sub *two = take(b, &second);
    (void)suite_event(&c->s, EVBUS_EVENT_STANDBY, 0);
    must(evbus_unsubscribe(one)); /* nobody may tell the other one: it finds out */
    assert_true(wait_until(is_active, two, wait_patience_ms()));
}

/* A thousand subscriptions of one bus cost one renewal, not a thousand. */
static void test_lease_thousand_subscriptions_cost_one_renewal(void **state)
{
    enum { SUBS = 1000 };
    struct nats_case *c = *state;
    struct member first = {.who = 1};
    static evbus_sub *subs[SUBS];
    char topic[64];

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    operator_makes_plain(c, "MANY", "many.>");
    evbus *bus = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .member_ttl_ms = 3000));
    first.ledger = ledger;
    for (int i = 0; i < SUBS; i++) {
        (void)snprintf(topic, sizeof topic, "many.t%d", i);
        must(evbus_subscribe_envelope(bus, topic, write_down, &first, NULL, &subs[i]));
    }
    for (int i = 0; i < SUBS; i++)
        assert_true(wait_until(is_active, subs[i], wait_patience_ms()));
    const uint64_t before = records_written(c);
    wait_out(3500); /* time itself: renewals come every second */
    const uint64_t written = records_written(c) - before;
    print_message("%d subscriptions: %" PRIu64 " records in 3.5 s\n", SUBS, written);
    assert_in_range(written, 1, 10);
}

/* Deleted records: nobody goes on with what he knew of them, then one does. */
static void test_lease_lost_records_are_made_again(void **state)
{
    struct nats_case *c = *state;
    struct member first = {.who = 1}, second = {.who = 2};

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    evbus *a = suite_open(&c->s, &opts), *b = suite_open(&c->s, &opts);
    evbus_sub *subs[2] = {take(a, &first), take(b, &second)};
    (void)suite_event(&c->s, EVBUS_EVENT_STANDBY, 0);
    suite_publish_many(a, TOPIC, "a", AGGREGATES, 1, 10);
    await_all(ledger, 10);
    const uint64_t takeovers = suite_stats_of(a).takeovers + suite_stats_of(b).takeovers;
    operator_deletes(c, EV_NATS_MEMBERS);
    evbus_sub *active = evbus_sub_active(subs[0]) ? subs[0] : subs[1];
    assert_true(wait_until(is_standby, active, wait_patience_ms()));
    suite_publish_many(a, TOPIC, "a", AGGREGATES, 11, 20);
    await_all(ledger, 20);
    assert_int_equal(suite_stats_of(a).takeovers + suite_stats_of(b).takeovers, takeovers + 1);
    check_order(ledger, 0);
    await_settled(c);
}

struct statistic {
    evbus *bus;
    size_t offset;
    uint64_t least;
};

static bool statistic_is(void *arg)
{
    const struct statistic *f = arg;
    const evbus_statistics s = suite_stats_of(f->bus);
    uint64_t seen;

    memcpy(&seen, (const char *)&s + f->offset, sizeof seen);
    return seen >= f->least;
}

static void await_statistic(evbus *bus, size_t offset, uint64_t least)
{
    struct statistic f = {bus, offset, least};

    assert_true(wait_until(statistic_is, &f, wait_patience_ms()));
}

/* A member whose handler has the first message of an aggregate and does not return, when the member has lost its turn and got
 * it back; two more are stored. By itself, that message does not come again for as long as anybody waits here. */
static evbus *outlast_a_turn(struct nats_case *c, struct member *m, uint32_t inflight_max)
{
    evbus_sub *sub = NULL;

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    m->ledger = ledger;
    evbus *bus = suite_open(&c->s, &opts);
    must(evbus_subscribe_envelope(
        bus, TOPIC, write_down, m,
        EVBUS_OPTS(evbus_sub_opts, .inflight_max = inflight_max, .ack_wait_ms = 10 * wait_patience_ms()), &sub));
    assert_true(wait_until(is_active, sub, wait_patience_ms()));
    atomic_store(&ledger->hold, 1);
    suite_publish_many(bus, TOPIC, "a", 1, 1, 1);
    await_count(&ledger->started, 1);
    const uint64_t turns = suite_stats_of(bus).takeovers;
    operator_deletes(c, EV_NATS_MEMBERS);
    await_statistic(bus, offsetof(evbus_statistics, takeovers), turns + 1);
    suite_publish_many(bus, TOPIC, "a", 1, 2, 3);
    return bus;
}

static void check_versions(const uint32_t *versions, uint32_t count)
{
    assert_int_equal(atomic_load(&ledger->ended), count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(ledger->runs[i].version, versions[i]);
}

/* A handler that outlasts its turn: its verdict would settle nothing, so its message is asked for again, in a new turn of the
 * same member too. It comes while the handler still runs: the verdict counts. */
static void test_lease_handler_that_outlasts_its_turn_is_waited_for(void **state)
{
    const uint32_t versions[] = {1, 2, 3};
    struct nats_case *c = *state;
    static struct member first = {.who = 1}; /* its handler runs on if this fails */
    evbus *bus = outlast_a_turn(c, &first, 0);

    await_statistic(bus, offsetof(evbus_statistics, duplicates_held), 1);
    atomic_store(&ledger->hold, 0);
    await_settled(c);
    check_versions(versions, 3);
    assert_int_equal(suite_stats_of(bus).fenced, 0);
}

/* There is no room for it while the handler runs, so it comes after that, and runs again; nothing later of its aggregate starts
 * before it, though the server would give it. */
static void test_lease_handler_that_outlasts_its_turn_runs_again_first(void **state)
{
    const uint32_t versions[] = {1, 1, 2, 3};
    struct nats_case *c = *state;
    static struct member first = {.who = 1}; /* its handler runs on if this fails */
    evbus *bus = outlast_a_turn(c, &first, 1);

    jsConsumerInfo *info = read_consumer(c);
    info->Config->MaxAckPending = 10;
    assert_int_equal(js_UpdateConsumer(NULL, c->js, info->Stream, info->Config, NULL, NULL), NATS_OK);
    jsConsumerInfo_Destroy(info);
    atomic_store(&ledger->hold, 0);
    await_settled(c);
    check_versions(versions, 4);
    assert_int_equal(suite_stats_of(bus).fenced, 1);
}

/* As on a server of a cluster that has not heard yet what the stream of the records takes. */
static void *change_members_soon(void *arg)
{
    const char *subjects[] = {"evbus.member.>", "evbus.lease.>"};
    struct nats_case *c = arg;
    jsStreamConfig cfg;

    wait_out(200); /* the time it takes; it is asked for at once */
    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = EV_NATS_MEMBERS;
    cfg.Subjects = subjects;
    cfg.SubjectsLen = 2;
    cfg.MaxMsgsPerSubject = 1;
    return js_UpdateStream(NULL, c->js, &cfg, NULL, NULL) == NATS_OK ? c : NULL;
}

static void test_lease_stream_of_records_may_not_be_known_at_once(void **state)
{
    const char *elsewhere = "elsewhere";
    struct nats_case *c = *state;
    struct member first = {.who = 1};
    void *changed = NULL;
    pthread_t thread;

    case_start(c, CASE_JETSTREAM, "");
    share_ledger(c);
    operator_makes_plain(c, EV_NATS_MEMBERS, elsewhere);
    evbus *bus = suite_open(&c->s, &opts);
    assert_int_equal(pthread_create(&thread, NULL, change_members_soon, c), 0);
    (void)take(bus, &first);
    assert_int_equal(pthread_join(thread, &changed), 0);
    assert_non_null(changed);
}

#define LEASE_CASE(fn)                                                                                                 \
    {                                                                                                                  \
#fn, fn, case_set_up, tear_down, NULL                                                                          \
    }

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        LEASE_CASE(test_lease_killed_member_is_succeeded_within_a_second),
        LEASE_CASE(test_lease_restarted_member_goes_on_within_a_second),
        LEASE_CASE(test_lease_stopped_member_is_fenced),
        LEASE_CASE(test_lease_cut_off_member_stops_and_stands_by),
        LEASE_CASE(test_lease_survives_a_short_cut_and_a_restarted_server),
        LEASE_CASE(test_lease_missing_permissions_are_said),
        LEASE_CASE(test_lease_thousand_subscriptions_cost_one_renewal),
        LEASE_CASE(test_lease_lost_records_are_made_again),
        LEASE_CASE(test_lease_stream_of_records_may_not_be_known_at_once),
        LEASE_CASE(test_lease_handler_that_outlasts_its_turn_is_waited_for),
        LEASE_CASE(test_lease_handler_that_outlasts_its_turn_runs_again_first),
    };

    if (argc == 4 && strcmp(argv[1], "member") == 0)
        return be_member(argv[2], argv[3]);
    return case_run("nats lease", tests, sizeof tests / sizeof tests[0], argc, argv);
}
