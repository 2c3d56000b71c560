/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S9, S11, S8 on mem://: one producer, one subscription, 256 bytes copied, retained and acknowledged as on nats://;
 * then 10,000 subscribed topics. These targets are absolute: there is no library to stand beside.
 */
#include "bench.h"

#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <string.h>

#define TOPIC "bench.mem"

struct job {
    bool envelopes, counting;
    uint64_t messages;
};

#define HELD 8192u
#define STREAM_MAX 200000u
#define AHEAD_MAX 150000u /* published and not handled: less than the stream keeps */

static _Atomic(uint64_t) handled;
static _Atomic(bool) held_back;

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    while (atomic_load_explicit(&held_back, memory_order_relaxed))
        (void)sched_yield();
    atomic_fetch_add_explicit(&handled, 1, memory_order_relaxed);
    return EVBUS_ACK;
}

/* The handler goes on once the subscription holds all it may; until then, and while it does, somebody else's turn. */
static void let_go(const evbus *bus)
{
    evbus_statistics s = {.struct_size = sizeof s};

    if (atomic_load(&held_back) && evbus_stats(bus, &s) == EVBUS_OK && s.held >= HELD)
        atomic_store(&held_back, false);
    (void)sched_yield();
}

static bool send(evbus *bus, bool envelopes, uint64_t first, uint64_t count)
{
    static const char body[LOAD_PAYLOAD];
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = first; i < first + count; i++) {
        evbus_status st;
        while (i >= atomic_load_explicit(&handled, memory_order_relaxed) + AHEAD_MAX)
            let_go(bus);
        if (envelopes) {
            load_envelope(i, (int64_t)i + 1, id, &env);
            st = evbus_publish_envelope(bus, TOPIC, &env, NULL);
        } else {
            st = evbus_publish(bus, TOPIC, body, sizeof body, NULL);
        }
        if (st != EVBUS_OK)
            return bench_sorry("a publish failed: %s", evbus_error_detail());
    }
    while (atomic_load(&held_back))
        let_go(bus);
    return bench_await(&handled, first + count);
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;
    const uint64_t warm = job->messages / 4;
    struct meter m;
    evbus *bus = bench_bus("mem://", EVBUS_OPTS(evbus_opts, .mem_bytes_max = UINT64_C(4) << 30));
    const evbus_sub_opts *o = EVBUS_OPTS(evbus_sub_opts, .inflight_max = HELD);
    evbus_status st;

    /* Old messages leave the stream: retention is part of the work. Remembered ids take memory by the rate, so not while
     * allocations are counted. */
    st = evbus_topic_configure(bus, TOPIC,
                               EVBUS_OPTS(evbus_topic_opts, .max_msgs = STREAM_MAX, .duplicate_window_ms = 100,
                                          .msg_id = job->counting ? EVBUS_OFF : EVBUS_ON));
    if (st == EVBUS_OK)
        st = job->envelopes ? evbus_subscribe_envelope(bus, TOPIC, on_message, NULL, o, NULL)
                            : evbus_subscribe(bus, TOPIC, on_message, NULL, o, NULL);
    if (st != EVBUS_OK)
        return bench_sorry("cannot subscribe: %s", evbus_error_detail());
    atomic_store(&held_back, true); /* until all that may be held is held: memory has its largest extent then */
    if (!send(bus, job->envelopes, 0, warm))
        return false;
    if (job->counting)
        meter_start_counting(&m);
    else
        meter_start(&m);
    if (!send(bus, job->envelopes, warm, job->messages))
        return false;
    meter_stop(&m, (double)job->messages, out);
    evbus_close(bus);
    return true;
}

static void rate(const char *what, double target, const struct job *job)
{
    const unsigned rounds = bench_args.rounds;
    struct variant v = {.name = what, .run = run, .arg = job};

    bench_rounds(&v, 1, rounds);
    report_row(&(struct row){.row = "S9",
                             .what = what,
                             .unit = "msg/s",
                             .target = target,
                             .ours = bench_spread(&v, rounds, FIG_RATE),
                             .bare = {NAN, NAN, NAN},
                             .verdict = bench_spread(&v, rounds, FIG_RATE),
                             .variant = &v,
                             .rounds = rounds});
}

static void counts(const char *kind, bool envelopes, uint64_t n)
{
    static const struct {
        const char *what;
        enum figure f;
        double target;
    } rows[] = {{"our mutex, rwlock and condition calls (housekeeping's, by time, are among them)", FIG_OUR_LOCKS,
                 BENCH_BY_TIME},
                {"our futex calls", FIG_OUR_FUTEX, 1.0 / 64},
                {"our allocations", FIG_OUR_ALLOCS, 0}};
    const struct job job = {envelopes, true, n};
    struct variant v = {.name = "counting", .run = run, .arg = &job};
    char what[120];

    if (!bench_once(&v, &v.round[0], 120))
        bench_fail("the counting run failed");
    for (size_t i = 0; i < 3; i++) {
        const struct spread s = bench_spread(&v, 1, rows[i].f);
        (void)snprintf(what, sizeof what, "mem://, %s: %s", kind, rows[i].what);
        report_row(&(struct row){.row = "S8",
                                 .what = what,
                                 .unit = "calls per message",
                                 .target = rows[i].target,
                                 .at_most = true,
                                 .ours = s,
                                 .bare = {NAN, NAN, NAN},
                                 .verdict = s});
    }
}

/* ---- Many topics ------------------------------------------------------------------------------------------------- */

/* FIG_VALUE: threads; FIG_VALUE2: bytes of heap. */
static bool run_topics(const void *arg, struct figures *out)
{
    const unsigned topics = *(const unsigned *)arg;
    char topic[64];
    evbus *bus = bench_bus("mem://", NULL);

    for (unsigned i = 0; i < topics; i++) {
        (void)snprintf(topic, sizeof topic, "bench.idle.topic-%05u", i);
        if (evbus_subscribe_envelope(bus, topic, on_message, NULL, NULL, NULL) != EVBUS_OK)
            return bench_sorry("cannot subscribe %s: %s", topic, evbus_error_detail());
    }
    out->v[FIG_VALUE] = bench_threads();
    const struct mallinfo2 heap = mallinfo2();
    out->v[FIG_VALUE2] = (double)(heap.uordblks + heap.hblkhd);
    evbus_close(bus);
    return true;
}

static void many_topics(void)
{
    static const unsigned one = 1, many = 10000;
    struct variant v[] = {{.name = "1 topic", .run = run_topics, .arg = &one},
                          {.name = "10,000 topics", .run = run_topics, .arg = &many}};
    const unsigned rounds = bench_args.rounds;

    bench_rounds(v, 2, rounds);
    const struct spread threads = bench_difference(&v[1], &v[0], rounds, FIG_VALUE);
    report_row(&(struct row){.row = "S11",
                             .what = "10,000 topics on mem://: threads more than with 1",
                             .unit = "threads",
                             .target = 0,
                             .at_most = true,
                             .ours = bench_spread(&v[1], rounds, FIG_VALUE),
                             .bare = bench_spread(&v[0], rounds, FIG_VALUE),
                             .verdict = threads});
    struct spread bytes = bench_difference(&v[1], &v[0], rounds, FIG_VALUE2);
    bytes = (struct spread){bytes.median / 9999, bytes.min / 9999, bytes.max / 9999};
    report_row(&(struct row){.row = "S11",
                             .what = "10,000 topics on mem://: memory of an idle subscribed topic",
                             .unit = "bytes",
                             .target = 2048,
                             .at_most = true,
                             .ours = bytes,
                             .bare = {NAN, NAN, NAN},
                             .verdict = bytes});
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5, 0);
    const uint64_t n = bench_args.quick ? 300000 : 1000000;
    const struct job plain = {false, false, n * 2}, envelopes = {true, false, n};

    rate("plain, one producer, one subscription", 2e6, &plain);
    rate("envelopes, one producer, one subscription", 0.7e6, &envelopes);
    counts("plain", false, n);
    counts("envelopes", true, n);
    many_topics();
    return report_end();
}
