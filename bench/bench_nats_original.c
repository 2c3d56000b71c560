/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S14: the original's two workloads with its parameters (docs/benchmarks.md), ended by "all received" instead of a
 * fixed sleep; every event id is counted once, gaps and order are checked.
 *   A  envelopes: five topics, one thread per aggregate, versions 1 to 10 one after the other, stream on file
 *   B  plain: five topics, one thread per topic, 108 bytes, stream in memory (as the original) and on file
 */
#include "bare_nats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TOPICS 5u
#define STREAM "PERF"
#define VERSIONS 10u
#define PLAIN_BYTES 108u
#define MESSAGES_MAX 10000u

struct job {
    const char *level;
    bool envelopes, memory;
    unsigned messages;
};

static const unsigned levels[] = {500, 2000, 5000, 10000};
static const char *const level_names[] = {"Low", "Medium", "High", "Extreme"};
/* As published: A of 2025-10-17 (its rate is dominated by a fixed sleep), B of 2025-10-17. */
static const double published_a_ms[] = {61.6, 194.9, 493.5, 891.6}, published_a_rate[] = {33.3, 131.8, 163.8, 321.8};
static const double published_b_rate[] = {445, 1340, 2251, 2923};

static evbus *bus;
static char topics[TOPICS][64];
static unsigned aggregates;

/* What arrived: each message by its number, written by whichever worker has it. */
static _Atomic(uint8_t) seen[MESSAGES_MAX];
static int64_t took_ns[MESSAGES_MAX];
static _Atomic(uint32_t) last_version[1000];
static _Atomic(uint64_t) received, repeated, unordered;

static void arrived(unsigned number, int64_t sent_ns)
{
    if (number >= MESSAGES_MAX || atomic_fetch_add(&seen[number], 1) > 0) {
        atomic_fetch_add(&repeated, 1);
        return;
    }
    took_ns[number] = bench_now() - sent_ns;
    atomic_fetch_add(&received, 1);
}

static evbus_verdict on_envelope(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *e = evbus_msg_envelope(msg);
    const unsigned aggregate = (unsigned)strtoul(strrchr(e->aggregate_id, '-') + 1, NULL, 10);
    const uint32_t version = (uint32_t)e->event_version;

    (void)ctx;
    if (atomic_exchange(&last_version[aggregate % 1000], version) + 1 != version)
        atomic_fetch_add(&unordered, 1); /* gaps too */
    arrived(aggregate * VERSIONS + version - 1, e->timestamp_ns);
    return EVBUS_ACK;
}

static evbus_verdict on_plain(const evbus_msg *msg, void *ctx)
{
    const evbus_view body = evbus_msg_data(msg);
    int64_t sent = 0;
    unsigned i = 0, topic = 0;

    (void)ctx;
    memcpy(&sent, body.data, sizeof sent);
    if (body.len == PLAIN_BYTES && sscanf((const char *)body.data + 8, "Message %u from topic %u", &i, &topic) == 2)
        arrived(i * TOPICS + topic, sent);
    return EVBUS_ACK;
}

/* ---- Senders ----------------------------------------------------------------------------------------------------- */

struct sender {
    const struct job *job;
    unsigned index;
    struct samples call;
    bool failed;
    pthread_t thread;
};

static void *send_aggregate(void *arg)
{
    struct sender *s = arg;
    char aggregate[32], id[96], payload[80];

    (void)snprintf(aggregate, sizeof aggregate, "aggregate-%u", s->index);
    for (unsigned version = 1; version <= VERSIONS; version++) {
        const int64_t began = bench_now();
        (void)snprintf(id, sizeof id, "%s:TestEvent:%u:%lld", aggregate, version, (long long)began);
        (void)snprintf(payload, sizeof payload, "{\"aggregate\":\"%s\",\"version\":%u}", aggregate, version);
        const evbus_envelope env = {.event_id = id,
                                    .aggregate_id = aggregate,
                                    .event_type = "TestEvent",
                                    .event_version = version,
                                    .timestamp_ns = began,
                                    .payload = payload};
        s->failed |= evbus_publish_envelope(bus, topics[s->index % TOPICS], &env, NULL) != EVBUS_OK;
        samples_add(&s->call, bench_now() - began);
    }
    return NULL;
}

static void *send_plain(void *arg)
{
    struct sender *s = arg;
    char body[PLAIN_BYTES];

    for (unsigned i = 0; i < s->job->messages / TOPICS; i++) {
        const int64_t began = bench_now();
        memset(body, 0, sizeof body);
        memcpy(body, &began, sizeof began);
        (void)snprintf(body + 8, sizeof body - 8, "Message %u from topic %u", i, s->index);
        s->failed |= evbus_publish(bus, topics[s->index], body, sizeof body, NULL) != EVBUS_OK;
        samples_add(&s->call, bench_now() - began);
    }
    return NULL;
}

static bool send_all(const struct job *job)
{
    static struct sender s[1000];
    const unsigned count = job->envelopes ? aggregates : TOPICS;
    bool failed = false;

    for (unsigned i = 0; i < count; i++) {
        s[i] = (struct sender){.job = job, .index = i};
        if (!samples_init(&s[i].call, job->envelopes ? VERSIONS : job->messages / TOPICS) ||
            pthread_create(&s[i].thread, NULL, job->envelopes ? send_aggregate : send_plain, &s[i]) != 0)
            return bench_sorry("cannot start sender %u", i);
    }
    for (unsigned i = 0; i < count; i++) {
        (void)pthread_join(s[i].thread, NULL);
        failed |= s[i].failed;
    }
    return !failed || bench_sorry("a publish failed: %s", evbus_error_detail());
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

static bool subscribe(const struct job *job)
{
    for (unsigned t = 0; t < TOPICS; t++) {
        const evbus_sub_opts *o = EVBUS_OPTS(evbus_sub_opts, .inflight_max = job->envelopes ? 1000 : 10000);
        (void)snprintf(topics[t], sizeof topics[t], "perf.%s.topic%u", job->level, t + 1);
        const evbus_status st = job->envelopes ? evbus_subscribe_envelope(bus, topics[t], on_envelope, NULL, o, NULL)
                                               : evbus_subscribe(bus, topics[t], on_plain, NULL, o, NULL);
        if (st != EVBUS_OK)
            return bench_sorry("cannot subscribe: %s", evbus_error_detail());
    }
    return true;
}

/* FIG_VALUE: mean latency, ms; FIG_VALUE2: repeated plus out of order plus missing. */
static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;
    struct samples latency;
    struct meter m;
    double sum = 0;

    aggregates = job->messages / VERSIONS;
    bare_stream(STREAM, "perf.>", job->memory);
    bus = bench_bus(bench_server.url, NULL);
    if (!samples_init(&latency, job->messages) || !subscribe(job))
        return false;
    meter_start(&m);
    if (!send_all(job) || !bench_await(&received, job->messages))
        return false;
    meter_stop(&m, job->messages, out);
    evbus_close(bus);
    for (unsigned i = 0; i < job->messages; i++) {
        samples_add(&latency, took_ns[i]);
        sum += (double)took_ns[i] / 1e6;
    }
    samples_put(&latency, out);
    out->v[FIG_VALUE] = sum / job->messages;
    out->v[FIG_VALUE2] = (double)(atomic_load(&repeated) + atomic_load(&unordered));
    return true;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static double wrong(const struct variant *v)
{
    const struct spread s = bench_spread(v, bench_args.rounds, FIG_VALUE2);

    return s.max;
}

static void note(const struct variant *v, const struct job *job, const char *beside)
{
    const unsigned n = bench_args.rounds;

    report_note("S14",
                "%s %s, %s: %u of %u received, %.0f repeated or out of order; %.0f msg/s; latency mean %.2f ms, p50 "
                "%.2f, p99 %.2f; client %.1f us, server %.1f us a message; the original published: %s",
                job->envelopes ? "A" : "B", job->level, job->memory ? "memory" : "file", job->messages, job->messages,
                wrong(v), bench_spread(v, n, FIG_RATE).median, bench_spread(v, n, FIG_VALUE).median,
                bench_spread(v, n, FIG_P50).median / 1e3, bench_spread(v, n, FIG_P99).median / 1e3,
                bench_spread(v, n, FIG_CLIENT_US).median, bench_spread(v, n, FIG_SERVER_US).median, beside);
}

static void row(const char *what, const struct variant *v, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += wrong(&v[i]);
    report_row(&(struct row){.row = "S14",
                             .what = what,
                             .unit = "messages",
                             .target = 0,
                             .at_most = true,
                             .ours = {sum, sum, sum},
                             .bare = {NAN, NAN, NAN},
                             .verdict = {sum, sum, sum}});
}

int main(int argc, char **argv)
{
    static struct job jobs[3][4];
    static struct variant v[3][4];
    char beside[120];

    bench_begin(argc, argv, 3, 0);
    bench_server_start();
    for (int k = 0; k < 3; k++)
        for (int l = 0; l < 4; l++) {
            jobs[k][l] = (struct job){level_names[l], k == 0, k == 1, levels[l]};
            v[k][l] = (struct variant){.name = level_names[l], .run = run, .arg = &jobs[k][l]};
        }
    bench_rounds(&v[0][0], 12, bench_args.rounds);
    for (int l = 0; l < 4; l++) {
        (void)snprintf(beside, sizeof beside, "mean latency %.1f ms, %.1f msg/s (a fixed sleep included)",
                       published_a_ms[l], published_a_rate[l]);
        note(&v[0][l], &jobs[0][l], beside);
    }
    for (int l = 0; l < 8; l++) {
        (void)snprintf(beside, sizeof beside, "%.0f msg/s, mean latency 11-14 ms (memory)", published_b_rate[l % 4]);
        note(&v[1 + l / 4][l % 4], &jobs[1 + l / 4][l % 4], beside);
    }
    row("workload A, four levels: repeated, missing or out of order", v[0], 4);
    row("workload B, memory: repeated or missing", v[1], 4);
    row("workload B, file: repeated or missing", v[2], 4);
    return report_end();
}
