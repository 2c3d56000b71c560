/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S4, S5, S8: consuming envelopes that wait in a stream in memory; the handler does nothing, the aggregates' order is
 * kept, every message is acknowledged by itself (S4), or one ack is for all before it (S5, frontier acks). Against pull
 * loops of bare libnats that scan each envelope and acknowledge the same way, by a consumer of the topic like ours: the stream
 * may have others, and to look for one costs the server a tenth. What a consumer of the whole stream does is printed beside it.
 */
#include "bare_nats.h"

#include <math.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TOPIC "bench.consume"
#define STREAM "BENCH"
#define HELD 2048 /* messages pulled and not settled, on both sides */

struct job {
    bool ours, ack_all, counting;
    bool whole; /* bare: all of the stream, not the topic */
    uint64_t messages;
    uint32_t held;
};

static _Atomic(uint64_t) handled;
static _Atomic(bool) held_back;

static void durable_name(char out[32])
{
    static unsigned number;

    (void)snprintf(out, 32, "d%d-%u", (int)getpid(), number++);
}

/* ---- evbus ------------------------------------------------------------------------------------------------------- */

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)ctx;
    (void)msg;
    while (atomic_load_explicit(&held_back, memory_order_relaxed))
        (void)sched_yield();
    atomic_fetch_add_explicit(&handled, 1, memory_order_relaxed);
    return EVBUS_ACK;
}

/* Until the subscription holds all it may: its memory has its largest extent. */
static void fill_up(evbus *bus, uint64_t held)
{
    evbus_statistics s = {.struct_size = sizeof s};

    while (evbus_stats(bus, &s) == EVBUS_OK && s.held < held)
        (void)sched_yield();
    atomic_store(&held_back, false);
}

static bool run_evbus(const struct job *job, struct figures *out)
{
    const uint64_t skipped = job->counting ? job->messages / 4 : 0;
    char group[32];
    struct meter m;
    evbus *bus = bench_bus(bench_server.url, NULL);

    durable_name(group);
    atomic_store(&held_back, job->counting);
    if (!job->counting)
        meter_start(&m);
    if (evbus_subscribe_envelope(bus, TOPIC, on_message, NULL,
                                 EVBUS_OPTS(evbus_sub_opts, .group = group, .inflight_max = job->held,
                                            .ack_mode = job->ack_all ? EVBUS_ACK_FRONTIER : EVBUS_ACK_EACH),
                                 NULL) != EVBUS_OK)
        return bench_sorry("cannot subscribe: %s", evbus_error_detail());
    if (skipped) {
        fill_up(bus, job->held);
        while (atomic_load(&handled) < skipped)
            (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        meter_start_counting(&m);
    }
    const uint64_t first = skipped ? atomic_load(&handled) : 0;
    if (!bench_await(&handled, job->counting ? job->messages * 3 / 4 : job->messages))
        return false;
    meter_stop(&m, (double)(atomic_load(&handled) - first), out);
    if (!bench_await(&handled, job->messages))
        return false;
    evbus_close(bus);
    return true;
}

/* ---- The baseline ------------------------------------------------------------------------------------------------ */

struct reader {
    struct bare_loop loop;
    struct bare_pull pull;
    uint64_t goal;
    bool ack_all, failed;
    natsMsg *last; /* ack-all: acknowledged at the end of a read */
    unsigned unacked;
};

static void reader_ack_last(struct reader *r)
{
    if (!r->last)
        return;
    bare_check(natsConnection_PublishString(r->loop.nc, natsMsg_GetReply(r->last), "+ACK"), "ack");
    bare_loop_bury(&r->loop, r->last);
    r->last = NULL;
    r->unacked = 0;
}

static void reader_turn(struct bare_loop *loop)
{
    struct reader *r = loop->ctx;

    reader_ack_last(r);
    if (r->pull.batch)
        bare_pull_turn(&r->pull, loop);
}

static void reader_take(struct bare_loop *loop, natsMsg *msg)
{
    struct reader *r = loop->ctx;
    char text[1024];
    evbus_envelope env;

    if (!bare_pull_took(&r->pull, msg)) {
        bare_loop_bury(loop, msg);
        return;
    }
    if (!bare_scan(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), text, sizeof text, &env))
        r->failed = true;
    if (r->ack_all) {
        if (r->last)
            bare_loop_bury(loop, r->last);
        r->last = msg;
        if (++r->unacked == 100)
            reader_ack_last(r);
    } else {
        bare_check(natsConnection_Publish(loop->nc, natsMsg_GetReply(msg), "+ACK", 4), "ack");
        bare_loop_bury(loop, msg);
    }
    atomic_fetch_add_explicit(&handled, 1, memory_order_relaxed);
    bare_pull_turn(&r->pull, loop);
}

static bool run_bare(const struct job *job, struct figures *out)
{
    static struct reader r;
    char durable[32];
    struct meter m;

    durable_name(durable);
    r.ack_all = job->ack_all;
    r.loop.ctx = &r;
    r.loop.turn = reader_turn;
    r.loop.take = reader_take;
    meter_start(&m);
    bare_consumer(STREAM, durable, job->whole ? NULL : TOPIC, job->ack_all, 20000);
    bare_loop_open(&r.loop);
    bare_pull_init(&r.pull, &r.loop, STREAM, durable, job->held * 2 / 3); /* outstanding: up to one and a half */
    bare_loop_wake(&r.loop);
    if (!bench_await(&handled, job->messages))
        return false;
    meter_stop(&m, (double)job->messages, out);
    bare_loop_close(&r.loop);
    return !r.failed || bench_sorry("the baseline met something that is no envelope");
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;

    return job->ours ? run_evbus(job, out) : run_bare(job, out);
}

/* ---- The stream -------------------------------------------------------------------------------------------------- */

static bool run_fill(const void *arg, struct figures *out)
{
    const uint64_t n = *(const uint64_t *)arg;
    struct bare_raw raw;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    (void)out;
    bare_stream(STREAM, "bench.>", true);
    bare_raw_open(&raw, 4096, false);
    for (uint64_t i = 0; i < n; i++) {
        load_envelope(i, (int64_t)i + 1, id, &env);
        bare_raw_publish(&raw, TOPIC, &env);
    }
    return bare_raw_finish(&raw);
}

static void row(const char *row, const char *what, double target, const struct variant *ours,
                const struct variant *bare)
{
    const unsigned rounds = bench_args.rounds;

    report_row(&(struct row){.row = row,
                             .what = what,
                             .unit = "msg/s",
                             .target = target,
                             .ours = bench_spread(ours, rounds, FIG_RATE),
                             .bare = bench_spread(bare, rounds, FIG_RATE),
                             .verdict = bench_ratio(ours, bare, rounds, FIG_RATE),
                             .variant = ours,
                             .baseline = bare,
                             .rounds = rounds});
}

static void row_count(const char *what, double target, const struct variant *v, enum figure f)
{
    report_row(&(struct row){.row = "S8",
                             .what = what,
                             .unit = "calls per message",
                             .target = target,
                             .at_most = true,
                             .ours = bench_spread(v, 1, f),
                             .bare = {NAN, NAN, NAN},
                             .verdict = bench_spread(v, 1, f)});
}

static void held(uint64_t n)
{
    static const uint32_t at[] = {64, 256, 1024, 4096, 16384};

    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        const struct job jobs[] = {{.ours = true, .messages = n, .held = at[i]}, {.messages = n, .held = at[i]}};
        struct variant v[] = {{.name = "evbus", .run = run, .arg = &jobs[0]},
                              {.name = "bare pull loop", .run = run, .arg = &jobs[1]}};
        struct figures f;
        for (size_t w = 0; w < 2; w++) {
            if (!bench_once(&v[w], &f, 120))
                bench_fail("a run of '%s' failed", v[w].name);
            report_point("Consuming: throughput against messages held", v[w].name, at[i], "held", f.v[FIG_RATE],
                         "msg/s");
        }
    }
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5, 0);
    const uint64_t n = bench_args.quick ? 50000 : 200000;
    const struct job jobs[] = {{.ours = true, .messages = n, .held = HELD},
                               {.messages = n, .held = HELD},
                               {.ours = true, .ack_all = true, .messages = n, .held = HELD},
                               {.ack_all = true, .messages = n, .held = HELD},
                               {.whole = true, .messages = n, .held = HELD},
                               {.ours = true, .messages = n, .held = HELD, .counting = true},
                               {.ours = true, .ack_all = true, .messages = n, .held = HELD, .counting = true}};
    struct variant v[] = {
        {.name = "evbus_subscribe_envelope", .run = run, .arg = &jobs[0]},
        {.name = "bare pull loop, explicit acks, scan", .run = run, .arg = &jobs[1]},
        {.name = "evbus_subscribe_envelope, frontier acks", .run = run, .arg = &jobs[2]},
        {.name = "bare pull loop, ack-all, scan", .run = run, .arg = &jobs[3]},
        {.name = "bare pull loop, all of the stream, explicit acks, scan", .run = run, .arg = &jobs[4]}};
    struct variant counting[] = {{.name = "counting", .run = run, .arg = &jobs[5]},
                                 {.name = "counting, frontier acks", .run = run, .arg = &jobs[6]}};

    bench_server_start();
    if (!bench_once(&(struct variant){.name = "fill", .run = run_fill, .arg = &n, .always = true}, &v[0].round[0], 120))
        bench_fail("cannot fill the stream");
    bench_rounds(v, 5, bench_args.rounds);
    row("S4", "explicit acks, order per aggregate, against the bare pull loop", 0.93, &v[0], &v[1]);
    row("S5", "frontier acks, order per aggregate, against the bare pull loop with ack-all", 0.85, &v[2], &v[3]);
    const struct spread whole = bench_ratio(&v[0], &v[4], bench_args.rounds, FIG_RATE);
    report_note("S4", "explicit acks, against a bare consumer of all of the stream: %.2f (%.2f..%.2f)", whole.median,
                whole.min, whole.max);
    for (size_t i = 0; i < 2; i++) {
        if (!bench_once(&counting[i], &counting[i].round[0], 120))
            bench_fail("the counting run failed");
        row_count(i ? "frontier acks: our mutex, rwlock and condition calls"
                    : "consuming: our mutex, rwlock and condition calls",
                  BENCH_BY_TIME, &counting[i], FIG_OUR_LOCKS);
        row_count(i ? "frontier acks: our futex calls" : "consuming: our futex calls", 1.0 / 64, &counting[i],
                  FIG_OUR_FUTEX);
        row_count(i ? "frontier acks: our allocations" : "consuming: our allocations", BENCH_BY_TIME, &counting[i],
                  FIG_OUR_ALLOCS);
    }
    held(n / 2);
    return report_end();
}
