/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S6: from the intended moment of sending to the handler, at 10,000 msg/s. The baseline is a publisher and a pull
 * consumer on libnats's event-loop adapter, one connection and one thread each, with one hop to a worker that
 * acknowledges.
 */
#include "bare_nats.h"

#include <linux/futex.h>
#include <math.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TOPIC "bench.latency"
#define STREAM "BENCH"
#define RING 65536u /* cells; a second of messages and more */

struct job {
    bool ours;
    unsigned rate, seconds;
};

static _Atomic(uint64_t) handled;
static struct samples latency;
static uint64_t skip; /* warm-up */

static void took(int64_t intended)
{
    const uint64_t n = atomic_load_explicit(&handled, memory_order_relaxed);

    if (n >= skip)
        samples_add(&latency, bench_now() - intended);
    atomic_store_explicit(&handled, n + 1, memory_order_release);
}

/* Open loop: event i is due at its own time, however late the one before was. */
static bool offer(const struct job *job, bool (*publish)(void *to, const evbus_envelope *env), void *to)
{
    const uint64_t n = (uint64_t)job->rate * job->seconds;
    const int64_t start = bench_now() + 10000000, step = 1000000000 / job->rate;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = 0; i < n; i++) {
        const int64_t due = start + (int64_t)i * step;
        const struct timespec at = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
        if (bench_now() < due)
            (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        load_envelope(i, due, id, &env);
        if (!publish(to, &env))
            return bench_sorry("a publish failed: %s", evbus_error_detail());
    }
    return bench_await(&handled, n);
}

/* ---- evbus ------------------------------------------------------------------------------------------------------- */

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    static _Atomic(bool) busy; /* samples have one writer: aggregates come to several workers at once */

    (void)ctx;
    while (atomic_exchange_explicit(&busy, true, memory_order_acquire))
        ;
    took(evbus_msg_envelope(msg)->timestamp_ns);
    atomic_store_explicit(&busy, false, memory_order_release);
    return EVBUS_ACK;
}

static bool publish_evbus(void *to, const evbus_envelope *env)
{
    return evbus_publish_envelope(to, TOPIC, env, NULL) == EVBUS_OK;
}

static bool run_evbus(const struct job *job, struct figures *out)
{
    struct meter m;
    evbus *bus = bench_bus(bench_server.url, NULL);

    bench_topic(bus, TOPIC, true, false);
    if (evbus_subscribe_envelope(bus, TOPIC, on_message, NULL, NULL, NULL) != EVBUS_OK)
        return bench_sorry("cannot subscribe: %s", evbus_error_detail());
    meter_start(&m);
    if (!offer(job, publish_evbus, bus))
        return false;
    meter_stop(&m, (double)job->rate * job->seconds, out);
    evbus_close(bus);
    samples_put(&latency, out);
    return true;
}

/* ---- The baseline ------------------------------------------------------------------------------------------------ */

static struct {
    struct bare_loop out, in;
    struct bare_pull pull;
    natsMsg *ring[RING];
    _Alignas(128) _Atomic(uint32_t) tail; /* the loop's; the worker sleeps on it */
    _Alignas(128) _Atomic(uint32_t) head;
    _Alignas(128) _Atomic(uint32_t) sleeping;
    natsMsg *done[RING]; /* back to the loop, to be freed in batches */
    _Alignas(128) _Atomic(uint32_t) done_tail;
    uint32_t done_head;
    _Atomic(bool) stop;
    pthread_t worker;
    uint64_t number;
} bare;

static void take(struct bare_loop *loop, natsMsg *msg)
{
    if (!bare_pull_took(&bare.pull, msg)) {
        bare_loop_bury(loop, msg);
        return;
    }
    const uint32_t tail = atomic_load_explicit(&bare.tail, memory_order_relaxed);
    bare.ring[tail % RING] = msg;
    atomic_store(&bare.tail, tail + 1);
    if (atomic_load(&bare.sleeping) && atomic_exchange(&bare.sleeping, 0))
        syscall(SYS_futex, &bare.tail, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

static void free_done(struct bare_loop *loop)
{
    for (const uint32_t tail = atomic_load(&bare.done_tail); bare.done_head != tail; bare.done_head++)
        bare_loop_bury(loop, bare.done[bare.done_head % RING]);
    if (bare.pull.batch)
        bare_pull_turn(&bare.pull, loop);
}

static void drop(struct bare_loop *loop, natsMsg *msg)
{
    bare_loop_bury(loop, msg); /* the answer to a publish */
}

static void work(natsMsg *msg)
{
    char text[1024];
    evbus_envelope env;

    if (bare_scan(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), text, sizeof text, &env))
        took(env.timestamp_ns);
    bare_check(natsConnection_Publish(bare.in.nc, natsMsg_GetReply(msg), "+ACK", 4), "ack");
    const uint32_t done = atomic_load_explicit(&bare.done_tail, memory_order_relaxed);
    bare.done[done % RING] = msg;
    atomic_store(&bare.done_tail, done + 1);
}

static void *worker_main(void *arg)
{
    uint32_t head = 0;

    (void)arg;
    while (!atomic_load(&bare.stop)) {
        while (head != atomic_load(&bare.tail))
            work(bare.ring[head++ % RING]);
        atomic_store(&bare.sleeping, 1);
        if (head == atomic_load(&bare.tail) && !atomic_load(&bare.stop))
            syscall(SYS_futex, &bare.tail, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, head, NULL, NULL, 0);
        atomic_store(&bare.sleeping, 0);
    }
    return NULL;
}

static bool publish_bare(void *to, const evbus_envelope *env)
{
    char body[1024], reply[96];
    const size_t len = bare_encode(env, body, sizeof body);

    (void)to;
    (void)snprintf(reply, sizeof reply, "%s.%llu", bare.out.inbox, (unsigned long long)bare.number++);
    return natsConnection_PublishRequest(bare.out.nc, TOPIC, reply, body, (int)len) == NATS_OK;
}

static bool run_bare(const struct job *job, struct figures *out)
{
    struct meter m;

    bare_consumer(STREAM, "bare", TOPIC, false, 20000);
    bare.out.take = drop;
    bare.in.take = take;
    bare.in.turn = free_done;
    bare_loop_open(&bare.out);
    bare_loop_open(&bare.in);
    bare_pull_init(&bare.pull, &bare.in, STREAM, "bare", 1000);
    bare_loop_wake(&bare.in);
    if (pthread_create(&bare.worker, NULL, worker_main, NULL) != 0)
        return bench_sorry("cannot start a thread");
    meter_start(&m);
    if (!offer(job, publish_bare, NULL))
        return false;
    meter_stop(&m, (double)job->rate * job->seconds, out);
    atomic_store(&bare.stop, true);
    atomic_fetch_add(&bare.tail, 0);
    syscall(SYS_futex, &bare.tail, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
    samples_put(&latency, out);
    return true; /* the process ends: nothing is left to free in order */
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;

    bare_stream(STREAM, "bench.>", true);
    skip = job->rate / 2;
    if (!samples_init(&latency, (size_t)job->rate * job->seconds))
        return false;
    return job->ours ? run_evbus(job, out) : run_bare(job, out);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void row(const char *what, double target, const struct variant *v, enum figure f)
{
    const unsigned rounds = bench_args.rounds;

    report_row(&(struct row){.row = "S6",
                             .what = what,
                             .unit = "us",
                             .target = target,
                             .at_most = true,
                             .ours = bench_spread(&v[0], rounds, f),
                             .bare = bench_spread(&v[1], rounds, f),
                             .verdict = bench_ratio(&v[0], &v[1], rounds, f),
                             .variant = &v[0],
                             .baseline = &v[1],
                             .rounds = rounds});
}

static void points(const struct variant *v)
{
    static const struct {
        double x;
        enum figure f;
    } at[] = {{50, FIG_P50}, {99, FIG_P99}, {99.9, FIG_P999}, {100, FIG_MAX}};

    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
        report_point("End to end at 10,000 msg/s: percentiles", v->name, at[i].x, "percentile",
                     bench_spread(v, bench_args.rounds, at[i].f).median, "us");
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 9, 2);
    const struct job jobs[] = {{true, 10000, bench_args.seconds}, {false, 10000, bench_args.seconds}};
    struct variant v[] = {{.name = "evbus", .run = run, .arg = &jobs[0]},
                          {.name = "bare adapter pair", .run = run, .arg = &jobs[1]}};

    bench_server_start();
    bench_rounds(v, 2, bench_args.rounds);
    row("end to end at 10,000 msg/s, p50", 1.15, v, FIG_P50);
    row("end to end at 10,000 msg/s, p99", 1.5, v, FIG_P99);
    const struct spread p99 = bench_spread(&v[0], bench_args.rounds, FIG_P99);
    report_row(&(struct row){.row = "S6",
                             .what = "p99 in microseconds",
                             .unit = "us",
                             .target = 1000,
                             .at_most = true,
                             .ours = p99,
                             .bare = {NAN, NAN, NAN},
                             .verdict = p99});
    points(&v[0]);
    points(&v[1]);
    return report_end();
}
