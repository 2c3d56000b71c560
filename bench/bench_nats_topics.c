/* SPDX-License-Identifier: Apache-2.0 */
/* S11 on nats://: 10,000 subscribed topics on one stream: set-up time, heartbeats, threads, memory. */
#include "bare_nats.h"

#include <malloc.h>
#include <math.h>
#include <time.h>

#define STREAM "BENCH"

static _Atomic(uint64_t) handled;

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    atomic_fetch_add(&handled, 1);
    return EVBUS_ACK;
}

static uint64_t received(const evbus *bus)
{
    evbus_statistics s = {.struct_size = sizeof s};

    return evbus_stats(bus, &s) == EVBUS_OK ? s.delivered : 0;
}

static size_t heap_used(void)
{
    const struct mallinfo2 m = mallinfo2();

    return m.uordblks + m.hblkhd;
}

/* FIG_VALUE: threads; FIG_VALUE2: bytes of heap; FIG_RATE: subscriptions a second; FIG_CLIENT_US and FIG_SERVER_US: CPU
 * for each second of doing nothing, in microseconds; FIG_P50: ms until a message of the last topic was handled. */
static bool run(const void *arg, struct figures *out)
{
    const unsigned topics = *(const unsigned *)arg;
    char topic[64], id[LOAD_ID_SIZE];
    evbus_envelope env;
    struct meter m;

    bare_stream(STREAM, "bench.>", true);
    evbus *bus = bench_bus(bench_server.url, NULL);
    meter_start(&m);
    for (unsigned i = 0; i < topics; i++) {
        (void)snprintf(topic, sizeof topic, "bench.idle.topic-%05u", i);
        if (evbus_subscribe_envelope(bus, topic, on_message, NULL, EVBUS_OPTS(evbus_sub_opts, .timeout_ms = 20000),
                                     NULL) != EVBUS_OK)
            return bench_sorry("cannot subscribe %s: %s", topic, evbus_error_detail());
    }
    meter_stop(&m, topics, out);
    const double rate = out->v[FIG_RATE];
    out->v[FIG_VALUE] = bench_threads();
    out->v[FIG_VALUE2] = (double)heap_used();
    meter_start(&m);
    (void)nanosleep(&(struct timespec){.tv_sec = 5}, NULL);
    meter_stop(&m, 5, out);
    out->v[FIG_RATE] = rate;
    const int64_t began = bench_now();
    load_envelope(1, began, id, &env);
    if (evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL) != EVBUS_OK || !bench_await(&handled, 1))
        return bench_sorry("the last topic does not work: %s", evbus_error_detail());
    out->v[FIG_P50] = (double)(bench_now() - began) / 1e6;
    return received(bus) == 1 || bench_sorry("more was delivered than was published");
}

int main(int argc, char **argv)
{
    static const unsigned one = 1;
    struct figures a, b;

    bench_begin(argc, argv, 1, 0);
    const unsigned topics = bench_args.quick ? 1000 : 10000;
    const struct variant v[] = {{.name = "1 topic", .run = run, .arg = &one},
                                {.name = "many topics", .run = run, .arg = &topics}};
    bench_server_start();
    if (!bench_once(&v[0], &a, 60) || !bench_once(&v[1], &b, 300))
        bench_fail("a run failed");
    const double threads = b.v[FIG_VALUE] - a.v[FIG_VALUE];
    const double bytes = (b.v[FIG_VALUE2] - a.v[FIG_VALUE2]) / (topics - 1);
    report_row(&(struct row){.row = "S11",
                             .what = "10,000 topics on one stream of nats://: threads more than with 1",
                             .unit = "threads",
                             .target = 0,
                             .at_most = true,
                             .ours = {b.v[FIG_VALUE], b.v[FIG_VALUE], b.v[FIG_VALUE]},
                             .bare = {a.v[FIG_VALUE], a.v[FIG_VALUE], a.v[FIG_VALUE]},
                             .verdict = {threads, threads, threads}});
    report_note("S11",
                "%u topics on one stream: set up in %.1f s (%.0f a second), %.0f bytes each in the client; idle: "
                "%.1f %% of a core in the client, %.1f %% in the server; a message of the last topic was handled "
                "%.1f ms after publishing",
                topics, topics / b.v[FIG_RATE], b.v[FIG_RATE], bytes, b.v[FIG_CLIENT_US] / 1e4,
                b.v[FIG_SERVER_US] / 1e4, b.v[FIG_P50]);
    return report_end();
}
