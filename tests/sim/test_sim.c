/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole bus in simulated time: one thread, a virtual clock, a seeded schedule. The bus is opened without threads
 * (ev_open, manual); the test turns its loop, runs its workers and decides, from the seed, what fails and when: lost
 * deliveries, lost acks, lost publish answers, links that break, handlers that retry, reject, defer and settle late.
 * Every publish and handler start is written down and judged at the end (support/truth.h), as on a real server. A failing
 * seed prints itself and replays with EVBUS_SIM_SEED.
 *
 *   EVBUS_SIM_RUNS=N    schedules (default 10000)
 *   EVBUS_SIM_SEED=S    only this one, with a log
 */
#include "backend/mem_fault.h"
#include "core/message.h"
#include "support/truth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define AGGS 6
#define MSGS 40
#define DEFERRED 16
#define ATTEMPTS 4
#define LOG_ENTRIES 20000

struct totals {
    uint64_t lost_deliveries, lost_settles, lost_answers, repeats, link_flaps, retries, rejects, late_settles, letters;
    uint64_t redelivered, duplicates_held, duplicates_settled, handed_back, resubscribed, starts, stalls, unknown;
};

struct world {
    uint64_t seed, rng;
    evbus_clock *clock;
    evbus *bus;
    evbus_sub *sub;
    uint16_t member; /* counts subscriptions: each is a new member of the group */
    bool calm;       /* no more faults: everything must end well now */
    bool link_up;
    uint32_t versions[AGGS];
    const evbus_msg *deferred[DEFERRED];
    int deferred_count;
    bool leaving; /* nobody would settle what is deferred now */
    int published;
    const char *error;
    char text[256];
    struct ev_mem_fault fault;
};

static struct totals total;
static struct world *w;
static struct truth truth;       /* cleared for each run */
static struct truth_case judged; /* likewise; its memory is kept */
static bool loud;

static uint64_t rnd(void)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng;
}

static bool chance(unsigned percent)
{
    return rnd() % 100 < percent;
}

static void wrong(const char *fmt, ...)
{
    va_list args;

    if (w->error)
        return;
    va_start(args, fmt);
    vsnprintf(w->text, sizeof w->text, fmt, args);
    va_end(args);
    w->error = w->text;
}

static void say(const char *fmt, ...)
{
    va_list args;

    if (!loud)
        return;
    va_start(args, fmt);
    printf("[%8lld] ", (long long)(ev_clock_now(w->clock) / EV_MS));
    vprintf(fmt, args);
    va_end(args);
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

static bool lose_settle(void *ctx, uint64_t seq, enum ev_settle verb)
{
    (void)ctx;
    if (w->calm || !chance(4))
        return false;
    say("wire: %s of %llu lost\n", verb == EV_SETTLE_ACK ? "ack" : "settle", (unsigned long long)seq);
    total.lost_settles++;
    return true;
}

static bool lose_answer(void *ctx, uint32_t slot)
{
    (void)ctx;
    (void)slot;
    if (w->calm || !chance(2))
        return false;
    say("wire: a publish answer is lost\n");
    total.lost_answers++;
    return true;
}

/* TCP loses no delivery between two others: they are lost with the link, from some point on. */
static void lost_with_link(void *ctx, uint64_t seq)
{
    (void)ctx;
    say("wire: delivery of %llu lost with the link\n", (unsigned long long)seq);
    total.lost_deliveries++;
}

static bool repeat_delivery(void *ctx, uint64_t seq)
{
    (void)ctx;
    (void)seq;
    if (w->calm || !chance(2))
        return false;
    total.repeats++;
    return true;
}

static bool link_is_up(void *ctx, int64_t now)
{
    (void)ctx;
    (void)now;
    return w->calm || w->link_up;
}

/* ---- Handling ---------------------------------------------------------------------------------------------------- */

static void note_verdict(const evbus_msg *msg, evbus_verdict v)
{
    truth_verdict(&truth, w->member, msg, v);
    total.retries += v == EVBUS_RETRY;
    total.rejects += v == EVBUS_REJECT;
}

static evbus_verdict draw(void)
{
    return w->calm || chance(80) ? EVBUS_ACK : chance(85) ? EVBUS_RETRY : EVBUS_REJECT;
}

static evbus_verdict handler(const evbus_msg *msg, void *ctx)
{
    (void)ctx;
    total.starts++;
    say("start %s v%lld seq %llu attempt %u delivery %u\n", evbus_msg_envelope(msg)->aggregate_id,
        (long long)evbus_msg_envelope(msg)->event_version, (unsigned long long)evbus_msg_sequence(msg),
        evbus_msg_attempt(msg), evbus_msg_delivery_count(msg));
    truth_start(&truth, w->member, msg);
    if (chance(15) && w->deferred_count < DEFERRED && !w->leaving) {
        if (chance(20)) { /* settled before it returns */
            const evbus_verdict v = draw();
            note_verdict(msg, v);
            if (evbus_msg_settle(msg, v) != EVBUS_OK)
                wrong("settle inside the handler failed");
        } else {
            w->deferred[w->deferred_count++] = msg;
        }
        return EVBUS_DEFER;
    }
    const evbus_verdict v = draw();
    note_verdict(msg, v);
    if (v == EVBUS_RETRY && chance(30))
        evbus_msg_retry_after(msg, (uint32_t)(rnd() % 3000));
    return v;
}

static void settle_one(void)
{
    if (w->deferred_count == 0)
        return;
    const int i = (int)(rnd() % (uint64_t)w->deferred_count);
    const evbus_msg *msg = w->deferred[i];
    const evbus_verdict v = draw();

    w->deferred[i] = w->deferred[--w->deferred_count];
    total.late_settles++;
    say("settle %s v%lld\n", evbus_msg_envelope(msg)->aggregate_id, (long long)evbus_msg_envelope(msg)->event_version);
    note_verdict(msg, v);
    if (evbus_msg_settle(msg, v) != EVBUS_OK)
        wrong("settle failed: %s", evbus_error_detail());
}

static void on_publish_error(const evbus_receipt *r, void *ctx)
{
    total.unknown += r->outcome == EVBUS_OUTCOME_UNKNOWN;
    truth_publish_error(r, ctx);
}

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

static void publish_one(void)
{
    const uint32_t a = (uint32_t)(rnd() % AGGS);

    if (w->published >= MSGS || w->versions[a] >= MSGS)
        return;
    const evbus_status st = truth_publish(&truth, w->bus, "sim.topic", 0, a, w->versions[a] + 1, EVBUS_NOWAIT);
    if (st == EVBUS_OK) {
        w->versions[a]++;
        w->published++;
    } else if (st != EVBUS_BACKPRESSURE) {
        wrong("publish: %s", evbus_error_detail());
    }
}

static evbus_sub_opts sub_options(void)
{
    evbus_sub_opts o = {.struct_size = sizeof o,
                        .group = "sim",
                        .ack_wait_ms = 2000,
                        .attempts_max = ATTEMPTS,
                        .retry_min_ms = 50,
                        .retry_max_ms = 1000,
                        .deliveries_max = 1000};

    o.inflight_max = 1 + (uint32_t)(rnd() % 24);
    o.ack_mode = w->seed % 2 ? EVBUS_ACK_FRONTIER : EVBUS_ACK_EACH;
    return o;
}

static void virtual_time(const evbus_clock *clock, int64_t *ret_now_ns, int64_t *ret_wall_ns)
{
    *ret_now_ns = ev_clock_now(clock);
    *ret_wall_ns = ev_clock_wall(clock);
}

static void subscribe(void)
{
    const evbus_sub_opts o = sub_options();

    w->member = truth_member(&truth);
    if (evbus_subscribe_envelope(w->bus, "sim.topic", handler, NULL, &o, &w->sub) != EVBUS_OK)
        wrong("subscribe: %s", evbus_error_detail());
}

/* A member leaves and comes back: what it had not started is handed back. Deferred ones must be settled first. */
static void resubscribe(void)
{
    while (w->deferred_count)
        settle_one();
    w->leaving = true;
    if (evbus_unsubscribe(w->sub) != EVBUS_OK)
        wrong("unsubscribe: %s", evbus_error_detail());
    w->leaving = false;
    truth_left(&truth, w->member);
    total.resubscribed++;
    subscribe();
}

static void advance(uint64_t ms)
{
    evbus_clock_advance(w->clock, ms);
}

static void step(void)
{
    const uint64_t what = rnd() % 100;

    if (what < 18)
        publish_one();
    else if (what < 50)
        (void)ev_loop_turn(w->bus);
    else if (what < 75)
        (void)ev_crew_run_one(w->bus);
    else if (what < 80)
        (void)ev_keeper_turn(w->bus);
    else if (what < 88)
        settle_one();
    else if (what < 98)
        advance(rnd() % 40);
    else if (what < 99)
        advance(rnd() % 1500);
    else {
        w->link_up = !w->link_up;
        total.link_flaps++;
        say("link %s\n", w->link_up ? "up" : "down");
    }
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* Everything the stream holds is handled or dead-lettered, and the broker knows. */
static bool all_settled(void)
{
    evbus_statistics s;

    (void)evbus_stats(w->bus, &s);
    return !s.publishes_inflight && !w->deferred_count && w->bus->in.held_count == 0;
}

static void calm_down(void)
{
    w->calm = true;
    for (int i = 0; i < 4000 && !w->error; i++) {
        while (w->deferred_count)
            settle_one();
        while (ev_loop_turn(w->bus) | ev_crew_run_one(w->bus) | ev_keeper_turn(w->bus))
            ;
        if (i > 200 && all_settled())
            return;
        advance(50);
    }
    wrong("it did not come to rest: held %u, deferred %d", w->bus->in.held_count, w->deferred_count);
}

/* ---- The end ----------------------------------------------------------------------------------------------------- */

static evbus_verdict audit(const evbus_msg *msg, void *ctx)
{
    const char *of = evbus_msg_header(msg, "Evbus-Sequence");
    struct truth_content *content = ctx;
    const struct truth_stored s = {.sequence = content == &judged.letters ? strtoull(of ? of : "0", NULL, 10)
                                                                          : evbus_msg_sequence(msg),
                                   .aggregate = truth_aggregate(msg),
                                   .version = (uint32_t)evbus_msg_envelope(msg)->event_version,
                                   .stored_ns = evbus_msg_stored_ns(msg)};

    truth_content_add(content, &s);
    return EVBUS_ACK;
}

/* What a topic's stream holds, read by another group. */
static void read_stream(const char *topic, struct truth_content *content, uint64_t count)
{
    evbus_sub *sub = NULL;

    content->count = 0;
    if (count == 0)
        return;
    const evbus_sub_opts o = {.struct_size = sizeof o, .group = "audit"};
    if (evbus_subscribe_envelope(w->bus, topic, audit, content, &o, &sub) != EVBUS_OK)
        wrong("audit: %s", evbus_error_detail());
    for (int i = 0; i < 1000 && content->count < count; i++)
        while (ev_loop_turn(w->bus) | ev_crew_run_one(w->bus))
            ;
    if (content->count != count)
        wrong("%s holds %zu messages, expected are %llu", topic, content->count, (unsigned long long)count);
    (void)evbus_unsubscribe(sub);
}

/* How many messages a topic's stream holds. */
static uint64_t stored_in(const char *topic)
{
    struct ev_stream_info info;

    return w->bus->ops->stream_covering(w->bus->state, topic, &info, 0) == EVBUS_OK ? info.msgs : 0;
}

static void read_streams(void)
{
    read_stream("sim.topic", &judged.stream, stored_in("sim.topic"));
    read_stream("dlq.sim.topic", &judged.letters, stored_in("dlq.sim.topic"));
}

static void account(void)
{
    evbus_statistics s;

    (void)evbus_stats(w->bus, &s);
    total.letters += s.dead_lettered;
    total.redelivered += s.redelivered;
    total.duplicates_held += s.duplicates_held;
    total.duplicates_settled += s.duplicates_settled;
    total.handed_back += s.handed_back;
    total.stalls += s.stalls;
}

static void log_line(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    (void)ctx;
    (void)level;
    say("%s: %s\n", subject, text);
}

/* A call waits for something that only time brings. */
static void let_time_pass(void)
{
    evbus_clock_advance(w->clock, 10);
}

static bool open_world(void)
{
    evbus_opts o = {.struct_size = sizeof o,
                    .clock = w->clock,
                    .on_publish_error = on_publish_error,
                    .on_publish_error_ctx = &truth,
                    .publish_inflight_max = 16,
                    .publish_timeout_ms = 3000,
                    .held_max = 16 + (uint32_t)(rnd() % 64),
                    .log = loud ? log_line : NULL,
                    .log_level = EVBUS_LOG_DEBUG};

    w->fault = (struct ev_mem_fault){.lose_settle = lose_settle,
                                     .lose_answer = lose_answer,
                                     .repeat_delivery = repeat_delivery,
                                     .link_is_up = link_is_up,
                                     .lost_with_link = lost_with_link};
    ev_mem_fault_next(&w->fault);
    if (ev_open("mem://", &o, true, &w->bus) != EVBUS_OK)
        return false;
    w->bus->when_idle = let_time_pass;
    return true;
}

static void open_judged_world(uint64_t seed)
{
    w->seed = seed;
    ev_random_seed(seed);
    w->rng = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    w->link_up = true;
    w->clock = evbus_clock_new(INT64_C(1700000000) * EV_SEC);
    truth.clock = w->clock;
    truth.time = virtual_time;
    truth_clear(&truth);
}

static void end_world(void)
{
    evbus_statistics s;

    (void)evbus_shutdown(w->bus, 1000, NULL);
    (void)evbus_stats(w->bus, &s);
    evbus_close(w->bus);
    truth_totals(&truth, &s);
    evbus_clock_free(w->clock);
}

static const char *run(uint64_t seed)
{
    static struct world world;

    w = &world;
    memset(w, 0, sizeof *w);
    open_judged_world(seed);
    if (!open_world())
        return "open failed";
    subscribe();
    const int steps = 200 + (int)(rnd() % 600);
    for (int i = 0; i < steps && !w->error; i++) {
        step();
        if (i % 251 == 250 && chance(30) && w->link_up)
            resubscribe();
    }
    w->calm = true;
    w->link_up = true;
    for (int i = 0; i < 200 && !w->error; i++) { /* publishes end first: what they stored must be handled */
        (void)ev_loop_turn(w->bus);
        (void)ev_crew_run_one(w->bus);
        (void)ev_keeper_turn(w->bus);
        advance(50);
    }
    calm_down();
    account();
    if (!w->error)
        read_streams();
    end_world();
    judged.name = "sim";
    judged.seed = seed;
    judged.logs = &truth;
    judged.log_count = 1;
    judged.attempts_max = ATTEMPTS;
    if (!w->error && !truth_judge(&judged, NULL))
        return judged.verdict;
    return w->error;
}

/* Ten thousand seeded schedules: order, exactly one outcome, nothing lost, nothing acked run again. */
static void test_sim_keeps_every_promise_in_every_schedule(void **state)
{
    const char *one = getenv("EVBUS_SIM_SEED"), *runs = getenv("EVBUS_SIM_RUNS");
    const uint64_t count = one ? 1 : runs ? strtoull(runs, NULL, 10) : 10000;
    const uint64_t first = one ? strtoull(one, NULL, 10) : 1;

    (void)state;
    loud = one != NULL;
    assert_true(truth_open(&truth, NULL, 1, LOG_ENTRIES));
    for (uint64_t seed = first; seed < first + count; seed++) {
        const uint64_t live = ev_alloc_live();
        const char *error = run(seed);
        if (error)
            fail_msg("EVBUS_SIM_SEED=%llu: %s", (unsigned long long)seed, error);
        if (seed > first && ev_alloc_live() != live)
            fail_msg("EVBUS_SIM_SEED=%llu: %lld blocks leaked", (unsigned long long)seed,
                     (long long)(ev_alloc_live() - live));
    }
    printf("%llu schedules: %llu handler starts, %llu lost deliveries, %llu lost settles, %llu lost answers, "
           "%llu repeats, %llu link changes, %llu retries, %llu rejects, %llu late settles, %llu dead letters, "
           "%llu redelivered, %llu held here, %llu settled here, %llu handed back, %llu members replaced, %llu stalls, "
           "%llu unknown\n",
           (unsigned long long)count, (unsigned long long)total.starts, (unsigned long long)total.lost_deliveries,
           (unsigned long long)total.lost_settles, (unsigned long long)total.lost_answers,
           (unsigned long long)total.repeats, (unsigned long long)total.link_flaps, (unsigned long long)total.retries,
           (unsigned long long)total.rejects, (unsigned long long)total.late_settles, (unsigned long long)total.letters,
           (unsigned long long)total.redelivered, (unsigned long long)total.duplicates_held,
           (unsigned long long)total.duplicates_settled, (unsigned long long)total.handed_back,
           (unsigned long long)total.resubscribed, (unsigned long long)total.stalls, (unsigned long long)total.unknown);
    truth_content_clear(&judged.stream);
    truth_content_clear(&judged.letters);
    truth_close(&truth);
    if (one)
        return;
    assert_true(total.lost_deliveries && total.lost_settles && total.lost_answers && total.repeats);
    assert_true(total.link_flaps && total.retries && total.rejects && total.late_settles && total.letters);
    assert_true(total.redelivered && total.duplicates_held && total.duplicates_settled && total.handed_back);
    assert_true(total.resubscribed && total.stalls && total.unknown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sim_keeps_every_promise_in_every_schedule),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
