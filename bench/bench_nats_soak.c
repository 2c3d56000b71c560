/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S13: 10,000 msg/s through one bus for as long as asked (--seconds, default 30): memory, threads and descriptors after
 * a warm-up and at the end. The stream is bounded, so that the server does not grow either.
 */
#include "bare_nats.h"

#include <math.h>
#include <time.h>

#define TOPIC "bench.soak"
#define RATE 10000u
#define WARM_UP_SECONDS 8u

static _Atomic(uint64_t) handled;

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    atomic_fetch_add(&handled, 1);
    return EVBUS_ACK;
}

static bool publish(evbus *bus, uint64_t first, uint64_t count)
{
    const int64_t start = bench_now(), step = 1000000000 / RATE;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = 0; i < count; i++) {
        const int64_t due = start + (int64_t)i * step;
        const struct timespec at = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
        if (bench_now() < due)
            (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        load_envelope(first + i, due, id, &env);
        if (evbus_publish_envelope(bus, TOPIC, &env, NULL) != EVBUS_OK)
            return bench_sorry("a publish failed: %s", evbus_error_detail());
    }
    return true;
}

/* FIG_VALUE: memory grown, KiB; FIG_VALUE2: threads and descriptors more than after the warm-up. */
static bool run(const void *arg, struct figures *out)
{
    const unsigned seconds = *(const unsigned *)arg;
    const uint64_t warm = (uint64_t)RATE * WARM_UP_SECONDS, n = (uint64_t)RATE * seconds;
    struct meter m;
    evbus *bus = bench_bus(bench_server.url, NULL);

    if (evbus_topic_configure(bus, TOPIC,
                              EVBUS_OPTS(evbus_topic_opts, .storage = EVBUS_STORAGE_MEMORY, .max_msgs = 50000,
                                         .duplicate_window_ms = 2000)) != EVBUS_OK ||
        evbus_subscribe_envelope(bus, TOPIC, on_message, NULL, NULL, NULL) != EVBUS_OK)
        return bench_sorry("cannot subscribe: %s", evbus_error_detail());
    if (!publish(bus, 0, warm) || !bench_await(&handled, warm))
        return false;
    const unsigned threads = bench_threads(), descriptors = bench_descriptors();
    const size_t rss = bench_rss_kib();
    meter_start(&m);
    if (!publish(bus, warm, n) || !bench_await(&handled, warm + n))
        return false;
    meter_stop(&m, (double)n, out);
    out->v[FIG_VALUE] = (double)bench_rss_kib() - (double)rss;
    out->v[FIG_VALUE2] =
        fmax(0, (double)bench_threads() - threads) + fmax(0, (double)bench_descriptors() - descriptors);
    evbus_close(bus);
    return true;
}

int main(int argc, char **argv)
{
    struct figures f;

    bench_begin(argc, argv, 1, 30);
    const struct variant v = {.name = "soak", .run = run, .arg = &bench_args.seconds};
    bench_server_start();
    if (!bench_once(&v, &f, bench_args.seconds * 2 + 120))
        bench_fail("the run failed");
    const double kib = f.v[FIG_VALUE], more = f.v[FIG_VALUE2];
    report_note("S13", "%u s at %u msg/s: memory %+.0f KiB, client %.1f us and server %.1f us a message",
                bench_args.seconds, RATE, kib, f.v[FIG_CLIENT_US], f.v[FIG_SERVER_US]);
    /* malloc's own reserve moves by a few pages: growth is more than 256 KiB in a run. */
    report_row(&(struct row){.row = "S13",
                             .what = "growth of memory after warm-up (256 KiB is the noise of malloc)",
                             .unit = "KiB",
                             .target = 256,
                             .at_most = true,
                             .ours = {kib, kib, kib},
                             .bare = {NAN, NAN, NAN},
                             .verdict = {kib, kib, kib}});
    report_row(&(struct row){.row = "S13",
                             .what = "growth of threads and descriptors",
                             .unit = "pieces",
                             .target = 0,
                             .at_most = true,
                             .ours = {more, more, more},
                             .bare = {NAN, NAN, NAN},
                             .verdict = {more, more, more}});
    return report_end();
}
