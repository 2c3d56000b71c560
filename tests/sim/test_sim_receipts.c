/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receipts in simulated time: one thread, a virtual clock, a seeded schedule of publishes, takes, lost answers, broken
 * links, tenants that come and go, and an end at any moment. Each accepted publish has one receipt, in its tenant's
 * queue. A failing seed prints itself and replays with EVBUS_SEED.
 */
#include "backend/mem_fault.h"
#include "core/message.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SEEDS 1000
#define PUBLISHES 400
#define TENANTS 3 /* 0: the bus's own queue */

struct world {
    evbus_clock *clock;
    evbus *bus;
    bool link_up;
    uint32_t published;           /* accepted */
    int64_t tenant_of[PUBLISHES]; /* by tag */
    uint8_t receipts[PUBLISHES];  /* by tag */
    uint32_t event_of[PUBLISHES]; /* event number, by tag */
    int fds[TENANTS];
    const char *error;
    struct ev_mem_fault fault;
};

static struct world *w;
static uint64_t lost_answers, outcomes[EVBUS_OUTCOME_UNKNOWN + 1], duplicates, full, unregistered, ended_early;

static uint64_t rnd(uint64_t below)
{
    return ev_random() % below;
}

static bool lose_answer(void *ctx, uint32_t slot)
{
    (void)ctx;
    (void)slot;
    const bool lose = rnd(100) < 5;
    lost_answers += lose;
    return lose;
}

static bool link_is_up(void *ctx, int64_t now)
{
    (void)ctx;
    (void)now;
    return w->link_up;
}

static void check(bool holds, const char *what)
{
    if (!holds && !w->error)
        w->error = what;
}

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

/* A new event, or an earlier one again. */
static void publish(void)
{
    char id[32];

    if (w->published == PUBLISHES)
        return;
    const uint32_t tag = w->published;
    const uint32_t number = tag && rnd(4) == 0 ? w->event_of[rnd(tag)] : tag;
    snprintf(id, sizeof id, "event-%u", number);
    const evbus_envelope env = {.event_id = id,
                                .aggregate_id = "a",
                                .event_type = "T",
                                .event_version = 1,
                                .tenant_id = (int64_t)rnd(TENANTS),
                                .payload = "{}"};
    const evbus_pub_opts o = {.struct_size = sizeof o, .tag = tag, .timeout_ms = EVBUS_NOWAIT};
    const evbus_status st = evbus_publish_envelope(w->bus, "sim.receipts", &env, &o);
    check(st == EVBUS_OK || st == EVBUS_BACKPRESSURE || (st == EVBUS_NOT_REGISTERED && env.tenant_id != 0),
          "a publish returned something else");
    full += st == EVBUS_BACKPRESSURE;
    if (st != EVBUS_OK)
        return;
    w->tenant_of[tag] = env.tenant_id;
    w->event_of[tag] = number;
    w->published++;
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void judge(const evbus_receipt *r, int64_t tenant)
{
    check(r->tenant_id == tenant && r->tag < w->published && w->tenant_of[r->tag] == tenant, "a receipt went astray");
    check(w->receipts[r->tag]++ == 0, "a publish has two receipts");
    check(r->outcome == EVBUS_OUTCOME_STORED ? r->sequence > 0 : r->status != EVBUS_OK, "a receipt contradicts itself");
    outcomes[r->outcome]++;
    duplicates += r->duplicate;
}

/* Takes up to `max`; the descriptor tells whether there was something, and whether there is more. */
static evbus_status take(int64_t tenant, size_t max)
{
    static evbus_receipt batch[16];
    size_t n = 0;
    const bool told = w->fds[tenant] >= 0 && readable(w->fds[tenant]);

    evbus_receipt_init(batch);
    const evbus_status st = evbus_receipts_take(w->bus, tenant, batch, max, EVBUS_NOWAIT, &n);
    if (st != EVBUS_OK)
        return st;
    check(w->fds[tenant] < 0 || told == (n > 0), "the descriptor says something else than take");
    for (size_t i = 0; i < n; i++)
        judge(&batch[i], tenant);
    return EVBUS_OK;
}

static void close_fd(int64_t tenant)
{
    if (w->fds[tenant] >= 0)
        close(w->fds[tenant]);
    w->fds[tenant] = -1;
}

static void take_some(void)
{
    const int64_t tenant = (int64_t)rnd(TENANTS);

    if (take(tenant, 1 + rnd(16)) == EVBUS_NOT_REGISTERED) {
        check(w->fds[tenant] < 0 || readable(w->fds[tenant]), "the end is not readable");
        close_fd(tenant);
    }
}

static void come_or_go(void)
{
    const int64_t tenant = 1 + (int64_t)rnd(TENANTS - 1);

    if (rnd(3) == 0) {
        const evbus_status st = evbus_tenant_unregister(w->bus, tenant);
        check(st == EVBUS_OK || st == EVBUS_NOT_REGISTERED, "unregistering failed");
        unregistered += st == EVBUS_OK;
        return;
    }
    const evbus_status st = evbus_tenant_register(w->bus, tenant, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = 16));
    check(st == EVBUS_OK || st == EVBUS_EXISTS, "registering failed");
    if (st != EVBUS_OK)
        return;
    close_fd(tenant);
    if (rnd(2))
        check(evbus_receipts_fd(w->bus, tenant, &w->fds[tenant]) == EVBUS_OK, "no descriptor");
}

static void step(void)
{
    const uint64_t what = rnd(100);

    if (what < 35)
        publish();
    else if (what < 65)
        (void)ev_loop_turn(w->bus);
    else if (what < 70)
        (void)ev_keeper_turn(w->bus);
    else if (what < 85)
        take_some();
    else if (what < 95)
        evbus_clock_advance(w->clock, rnd(60));
    else if (what < 98)
        come_or_go();
    else if (what < 99)
        evbus_clock_advance(w->clock, rnd(3000));
    else
        w->link_up = !w->link_up;
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

static void let_time_pass(void)
{
    evbus_clock_advance(w->clock, 10);
}

static bool open_world(void)
{
    const evbus_opts o = {.struct_size = sizeof o,
                          .clock = w->clock,
                          .receipts = EVBUS_ON,
                          .receipts_max = 40,
                          .publish_inflight_max = 16,
                          .publish_timeout_ms = 1500};

    w->fault = (struct ev_mem_fault){.lose_answer = lose_answer, .link_is_up = link_is_up};
    ev_mem_fault_next(&w->fault);
    if (ev_open("mem://", &o, true, &w->bus) != EVBUS_OK)
        return false;
    w->bus->when_idle = let_time_pass;
    return evbus_receipts_fd(w->bus, 0, &w->fds[0]) == EVBUS_OK;
}

/* The bus has ended: what is left is taken, then every queue says so. */
static void take_the_rest(void)
{
    for (int64_t tenant = 0; tenant < TENANTS; tenant++) {
        evbus_status st = EVBUS_OK;
        for (int i = 0; i < PUBLISHES && st == EVBUS_OK; i++)
            st = take(tenant, 16);
        check(st == EVBUS_CLOSED || (st == EVBUS_NOT_REGISTERED && tenant != 0), "a queue has no end");
        check(w->fds[tenant] < 0 || readable(w->fds[tenant]), "the end is not readable");
        close_fd(tenant);
    }
    for (uint32_t tag = 0; tag < w->published; tag++)
        check(w->receipts[tag] == 1, "a publish has no receipt");
}

static const char *run(uint64_t seed)
{
    static struct world world;

    w = &world;
    memset(w, 0, sizeof *w);
    memset(w->fds, -1, sizeof w->fds);
    ev_random_seed(seed);
    w->link_up = true;
    w->clock = evbus_clock_new(INT64_C(1700000000) * EV_SEC);
    if (!open_world())
        return "open failed";
    const uint64_t steps = 100 + rnd(1500);
    for (uint64_t i = 0; i < steps && !w->error; i++)
        step();
    ended_early += evbus_shutdown(w->bus, rnd(2) ? EVBUS_NOWAIT : 2000, NULL) == EVBUS_TIMEOUT;
    take_the_rest();
    evbus_close(w->bus);
    evbus_clock_free(w->clock);
    return w->error;
}

/* A thousand seeded schedules: one receipt for each accepted publish, where its tenant looks for it. */
static void test_sim_receipts_are_one_for_each_in_every_schedule(void **state)
{
    const char *given = getenv("EVBUS_SEED");
    const uint64_t first = given ? strtoull(given, NULL, 10) : 1, count = given ? 1 : SEEDS;

    (void)state;
    for (uint64_t seed = first; seed < first + count; seed++) {
        const uint64_t live = ev_alloc_live();
        const char *error = run(seed);
        if (error)
            fail_msg("EVBUS_SEED=%llu: %s", (unsigned long long)seed, error);
        if (seed > first && ev_alloc_live() != live)
            fail_msg("EVBUS_SEED=%llu: memory is left", (unsigned long long)seed);
    }
    printf("%llu schedules: stored %llu (%llu duplicates), refused %llu, unknown %llu; %llu answers lost, %llu times "
           "full, "
           "%llu tenants unregistered, %llu ended with something left\n",
           (unsigned long long)count, (unsigned long long)outcomes[EVBUS_OUTCOME_STORED],
           (unsigned long long)duplicates, (unsigned long long)outcomes[EVBUS_OUTCOME_REFUSED],
           (unsigned long long)outcomes[EVBUS_OUTCOME_UNKNOWN], (unsigned long long)lost_answers,
           (unsigned long long)full, (unsigned long long)unregistered, (unsigned long long)ended_early);
    if (given)
        return;
    assert_true(outcomes[EVBUS_OUTCOME_STORED] && outcomes[EVBUS_OUTCOME_REFUSED] && outcomes[EVBUS_OUTCOME_UNKNOWN]);
    assert_true(duplicates && lost_answers && full && unregistered && ended_early);
}

/* ---- Without memory ---------------------------------------------------------------------------------------------- */

static evbus_status take_one(evbus *bus, int64_t tenant, size_t *ret_count)
{
    evbus_receipt r;

    *ret_count = 0;
    evbus_receipt_init(&r);
    return evbus_receipts_take(bus, tenant, &r, 1, 0, ret_count);
}

/* Registers, publishes, takes; with memory that fails at the nth allocation. True: it did not fail any more. */
static bool use_with_failing_memory(evbus *bus, int64_t nth, int64_t tenant)
{
    static char long_id[200];
    bool refused[3] = {false};
    size_t n;

    memset(long_id, 'x', sizeof long_id - 1); /* more than a place has room for */
    const evbus_envelope own = {
        .event_id = long_id, .aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    evbus_envelope theirs = own;
    theirs.tenant_id = tenant;
    ev_alloc_fail_after(nth);
    refused[0] = evbus_tenant_register(bus, tenant, NULL) != EVBUS_OK;
    refused[1] = evbus_publish_envelope(bus, "sim.memory", &theirs, NULL) != EVBUS_OK;
    refused[2] = evbus_publish_envelope(bus, "sim.memory", &own, NULL) != EVBUS_OK;
    ev_alloc_fail_after(-1);
    for (int i = 0; i < 10; i++)
        (void)ev_loop_turn(bus);
    assert_int_equal(take_one(bus, tenant, &n), refused[0] ? EVBUS_NOT_REGISTERED : EVBUS_OK);
    assert_int_equal(n, !refused[0] && !refused[1]);
    assert_int_equal(take_one(bus, 0, &n), EVBUS_OK);
    assert_int_equal(n, !refused[2]);
    return !refused[0] && !refused[1] && !refused[2];
}

/* Whichever allocation fails: the call says so, nothing is promised that does not come, nothing leaks. */
static void test_sim_receipts_do_without_memory(void **state)
{
    const evbus_opts o = {.struct_size = sizeof o, .receipts = EVBUS_ON, .receipts_max = 16};
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    int64_t nth = 1;

    (void)state;
    for (bool done = false; !done; nth++) {
        const uint64_t live = ev_alloc_live();
        size_t n;
        evbus *bus;
        assert_int_equal(ev_open("mem://", &o, true, &bus), EVBUS_OK);
        assert_int_equal(evbus_publish_envelope(bus, "sim.memory", &env, NULL), EVBUS_OK); /* the stream is there */
        for (int i = 0; i < 10; i++)
            (void)ev_loop_turn(bus);
        assert_int_equal(take_one(bus, 0, &n), EVBUS_OK);
        assert_int_equal(n, 1);
        done = use_with_failing_memory(bus, nth, 7);
        evbus_close(bus);
        if (nth > 1)
            assert_int_equal(ev_alloc_live(), live);
    }
    assert_true(nth > 8); /* some failed */
}

/* Once each place was used, publishing with receipts and taking them allocates nothing. */
static void test_sim_receipts_allocate_nothing_when_warm(void **state)
{
    const evbus_opts o = {.struct_size = sizeof o, .receipts = EVBUS_ON, .receipts_max = 16};
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    uint64_t before = 0;
    evbus *bus;

    (void)state;
    assert_int_equal(ev_open("mem://", &o, true, &bus), EVBUS_OK);
    const evbus_topic_opts plain = {.struct_size = sizeof plain, .max_msgs = 1, .msg_id = EVBUS_OFF};
    assert_int_equal(evbus_topic_configure(bus, "sim.memory", &plain), EVBUS_OK);
    for (int i = 0; i < 3000; i++) {
        size_t n;
        assert_int_equal(evbus_publish_envelope(bus, "sim.memory", &env, NULL), EVBUS_OK);
        while (ev_loop_turn(bus))
            ;
        assert_int_equal(take_one(bus, 0, &n), EVBUS_OK);
        assert_int_equal(n, 1);
        if (i == 1000)
            before = ev_alloc_total();
    }
    assert_int_equal(ev_alloc_total(), before);
    evbus_close(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sim_receipts_are_one_for_each_in_every_schedule),
        cmocka_unit_test(test_sim_receipts_do_without_memory),
        cmocka_unit_test(test_sim_receipts_allocate_nothing_when_warm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
