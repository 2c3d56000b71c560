/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S1, S2, S3, S8: publishing envelopes at saturation, 256 bytes of payload, memory storage, against raw libnats and
 * js_PublishMsgAsync, with and without Nats-Msg-Id; then throughput against the in-flight window. With receipts on
 * (the targets' way) a thread takes the receipt of each publish in batches, and the run ends with the last one taken.
 */
#include "bare_nats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC "bench.publish"
#define STREAM "BENCH"
#define THREADS_MAX 16

enum way { WAY_EVBUS, WAY_RAW, WAY_RAW_BYTES, WAY_JS };

struct job {
    enum way way;
    unsigned threads;
    uint32_t window;
    uint64_t messages;
    bool msg_id, receipts, counting;
};

struct producer {
    const struct job *job;
    void *to; /* evbus, bare_raw or jsCtx */
    uint64_t first, count;
    bool failed;
    pthread_t thread;
};

/* ---- Producers --------------------------------------------------------------------------------------------------- */

static void *produce_evbus(void *arg)
{
    struct producer *p = arg;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = p->first; i < p->first + p->count; i++) {
        load_envelope(i, bench_now(), id, &env);
        if (evbus_publish_envelope(p->to, TOPIC, &env, NULL) != EVBUS_OK)
            p->failed = true;
    }
    return NULL;
}

static void *produce_raw(void *arg)
{
    struct producer *p = arg;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = p->first; i < p->first + p->count; i++) {
        load_envelope(i, bench_now(), id, &env);
        bare_raw_publish(p->to, TOPIC, &env);
    }
    return NULL;
}

/* The same bytes, encoded once: what the codec costs is the difference. */
static void *produce_bytes(void *arg)
{
    struct producer *p = arg;
    char id[LOAD_ID_SIZE], msg_id[200], body[1024];
    evbus_envelope env;

    load_envelope(p->first, bench_now(), id, &env);
    const size_t len = bare_encode(&env, body, sizeof body);
    for (uint64_t i = p->first; i < p->first + p->count; i++) {
        load_envelope(i, 1, id, &env);
        memcpy(msg_id, TOPIC " ", sizeof TOPIC);
        memcpy(msg_id + sizeof TOPIC, id, strlen(id) + 1);
        bare_raw_bytes(p->to, TOPIC, p->job->msg_id ? msg_id : NULL, body, len);
    }
    return NULL;
}

static void *produce_js(void *arg)
{
    struct producer *p = arg;
    char id[LOAD_ID_SIZE], msg_id[200], body[1024];
    evbus_envelope env;

    for (uint64_t i = p->first; i < p->first + p->count; i++) {
        natsMsg *msg = NULL;
        jsPubOptions o;

        load_envelope(i, bench_now(), id, &env);
        const size_t len = bare_encode(&env, body, sizeof body);
        bare_check(natsMsg_Create(&msg, TOPIC, NULL, body, (int)len), "message");
        (void)jsPubOptions_Init(&o);
        if (p->job->msg_id) {
            memcpy(msg_id, TOPIC " ", sizeof TOPIC);
            memcpy(msg_id + sizeof TOPIC, id, strlen(id) + 1);
            o.MsgId = msg_id;
        }
        if (js_PublishMsgAsync(p->to, &msg, &o) != NATS_OK)
            p->failed = true;
        natsMsg_Destroy(msg);
    }
    return NULL;
}

static bool run_producers(const struct job *job, void *to, uint64_t first, uint64_t messages)
{
    static void *(*const mains[])(void *) = {produce_evbus, produce_raw, produce_bytes, produce_js};
    struct producer p[THREADS_MAX];
    bool failed = false;

    for (unsigned t = 0; t < job->threads; t++) {
        p[t] = (struct producer){.job = job, .to = to, .first = first, .count = messages / job->threads};
        first += p[t].count;
        if (job->threads > 1 && pthread_create(&p[t].thread, NULL, mains[job->way], &p[t]) != 0)
            bench_fail("cannot start a thread");
    }
    for (unsigned t = 0; t < job->threads; t++) {
        if (job->threads > 1)
            (void)pthread_join(p[t].thread, NULL);
        else
            (void)mains[job->way](&p[t]);
        failed |= p[t].failed;
    }
    return !failed || bench_sorry("a publish failed: %s", evbus_error_detail());
}

/* ---- Receipts ---------------------------------------------------------------------------------------------------- */

#define TENANT 7 /* of load_envelope */
#define BATCH 64
#define RECEIPTS 8192

static struct taker {
    evbus *bus;
    uint64_t first_at; /* begins when so many wait: all places of the queue have been used then */
    _Atomic(uint64_t) taken, bad;
    pthread_t thread;
} taker;

static void *take_receipts(void *arg)
{
    static evbus_receipt batch[BATCH];
    size_t n = 0;

    (void)arg;
    for (evbus_statistics s = {.struct_size = sizeof s};
         evbus_stats(taker.bus, &s) == EVBUS_OK && s.receipts_queued < taker.first_at;)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    evbus_receipt_init(&batch[0]);
    while (evbus_receipts_take(taker.bus, TENANT, batch, BATCH, EVBUS_FOREVER, &n) == EVBUS_OK) {
        for (size_t i = 0; i < n; i++)
            if (batch[i].outcome != EVBUS_OUTCOME_STORED)
                atomic_fetch_add(&taker.bad, 1);
        atomic_fetch_add(&taker.taken, n);
    }
    return NULL; /* the tenant is unregistered, and its last receipt is taken */
}

static void start_taker(evbus *bus, bool counting)
{
    taker = (struct taker){.bus = bus, .first_at = counting ? RECEIPTS : 0};
    if (evbus_tenant_register(bus, TENANT, EVBUS_OPTS(evbus_tenant_opts, .receipts_max = RECEIPTS)) != EVBUS_OK)
        bench_fail("cannot register the tenant: %s", evbus_error_detail());
    if (pthread_create(&taker.thread, NULL, take_receipts, NULL) != 0)
        bench_fail("cannot start a thread");
}

static void end_taker(void)
{
    if (evbus_tenant_unregister(taker.bus, TENANT) != EVBUS_OK)
        bench_fail("cannot unregister the tenant: %s", evbus_error_detail());
    (void)pthread_join(taker.thread, NULL);
}

static bool taken_all(uint64_t goal)
{
    return bench_await(&taker.taken, goal) &&
           (atomic_load(&taker.bad) == 0 || bench_sorry("receipts that do not say stored"));
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

static bool stored_all(evbus *bus, uint64_t goal)
{
    evbus_statistics s = {.struct_size = sizeof s};
    const int64_t deadline = bench_now() + INT64_C(20000000000);

    while (evbus_stats(bus, &s) == EVBUS_OK && s.publishes_stored < goal)
        if (bench_now() > deadline || s.publishes_refused + s.publishes_unknown > 0)
            return bench_sorry("%llu of %llu stored, %llu refused, %llu unknown",
                               (unsigned long long)s.publishes_stored, (unsigned long long)goal,
                               (unsigned long long)s.publishes_refused, (unsigned long long)s.publishes_unknown);
        else
            (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return true;
}

static bool ended_all(const struct job *job, evbus *bus, uint64_t goal)
{
    return job->receipts ? taken_all(goal) : stored_all(bus, goal);
}

static bool run_evbus(const struct job *job, struct figures *out)
{
    const uint64_t warm = job->counting ? 50000 : 1000;
    struct meter m;
    evbus *bus = bench_bus(bench_server.url, EVBUS_OPTS(evbus_opts, .publish_inflight_max = job->window,
                                                        .publish_bytes_max = UINT64_C(32) << 20,
                                                        .receipts = job->receipts ? EVBUS_ON : EVBUS_OFF));

    bench_topic(bus, TOPIC, true, job->msg_id);
    if (job->receipts)
        start_taker(bus, job->counting);
    if (!run_producers(job, bus, 0, warm) || !ended_all(job, bus, warm))
        return false;
    if (job->counting)
        meter_start_counting(&m);
    else
        meter_start(&m);
    if (!run_producers(job, bus, warm, job->messages) || !ended_all(job, bus, warm + job->messages))
        return false;
    meter_stop(&m, (double)job->messages, out);
    if (job->receipts)
        end_taker();
    evbus_close(bus);
    return true;
}

static bool run_raw(const struct job *job, struct figures *out)
{
    struct bare_raw raw;
    struct meter m;

    bare_raw_open(&raw, job->window, job->msg_id);
    if (!run_producers(job, &raw, 0, 1000) || !bench_await(&raw.acked, 1000))
        return false;
    meter_start(&m);
    if (!run_producers(job, &raw, 1000, job->messages) || !bench_await(&raw.acked, 1000 + job->messages))
        return false;
    meter_stop(&m, (double)job->messages, out);
    return bare_raw_finish(&raw);
}

static bool run_js(const struct job *job, struct figures *out)
{
    natsConnection *nc = NULL;
    jsCtx *js = NULL;
    jsOptions o;
    jsPubOptions wait;
    struct meter m;

    load_envelope(0, 1, (char[LOAD_ID_SIZE]){0}, &(evbus_envelope){0});
    bare_check(natsConnection_ConnectTo(&nc, bench_server.url), "connect");
    (void)jsOptions_Init(&o);
    o.PublishAsync.MaxPending = job->window;
    o.PublishAsync.StallWait = 10000;
    bare_check(natsConnection_JetStream(&js, nc, &o), "JetStream");
    (void)jsPubOptions_Init(&wait);
    wait.MaxWait = 20000;
    if (!run_producers(job, js, 0, 1000))
        return false;
    bare_check(js_PublishAsyncComplete(js, &wait), "waiting for the answers");
    meter_start(&m);
    if (!run_producers(job, js, 1000, job->messages))
        return false;
    bare_check(js_PublishAsyncComplete(js, &wait), "waiting for the answers");
    meter_stop(&m, (double)job->messages, out);
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
    return true;
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;

    bare_stream(STREAM, "bench.>", true);
    if (job->way == WAY_EVBUS)
        return run_evbus(job, out);
    return job->way == WAY_JS ? run_js(job, out) : run_raw(job, out);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void row_against(const char *row, const char *what, double target, const struct variant *ours,
                        const struct variant *bare, unsigned rounds)
{
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

static void row_cpu(const char *what, double target, const struct variant *ours, const struct variant *bare,
                    unsigned rounds)
{
    report_row(&(struct row){.row = "S2",
                             .what = what,
                             .unit = "us CPU per message",
                             .target = target,
                             .at_most = true,
                             .ours = bench_spread(ours, rounds, FIG_CLIENT_US),
                             .bare = bench_spread(bare, rounds, FIG_CLIENT_US),
                             .verdict = bench_difference(ours, bare, rounds, FIG_CLIENT_US),
                             .variant = ours,
                             .baseline = bare,
                             .rounds = rounds});
}

/* "receipts on, with Nats-Msg-Id, against raw" */
static const char *named(const struct job *job, const char *rest)
{
    static char text[16][120]; /* rows keep the text only while they are reported */
    static unsigned next;
    char *out = text[next++ % 16];

    (void)snprintf(out, sizeof text[0], "receipts %s, %s%s", job->receipts ? "on" : "off",
                   job->msg_id ? "with Nats-Msg-Id" : "without id", rest);
    return out;
}

static void one_producer(bool msg_id, uint64_t n)
{
    const struct job jobs[] = {{WAY_EVBUS, 1, 4096, n, msg_id, true, false},
                               {WAY_EVBUS, 1, 4096, n, msg_id, false, false},
                               {WAY_RAW, 1, 4096, n, msg_id, false, false},
                               {WAY_RAW_BYTES, 1, 4096, n, msg_id, false, false},
                               {WAY_JS, 1, 4096, n, msg_id, false, false}};
    struct variant v[] = {{.name = "evbus_publish_envelope, receipts on", .run = run, .arg = &jobs[0]},
                          {.name = "evbus_publish_envelope", .run = run, .arg = &jobs[1]},
                          {.name = "raw, encoding", .run = run, .arg = &jobs[2]},
                          {.name = "raw, bytes made before", .run = run, .arg = &jobs[3]},
                          {.name = "js_PublishMsgAsync, encoding", .run = run, .arg = &jobs[4]}};
    const unsigned rounds = bench_args.rounds;

    bench_rounds(v, 5, rounds);
    for (int i = 0; i < 2; i++) {
        row_against("S1", named(&jobs[i], ", against raw"), 0.93, &v[i], &v[2], rounds);
        row_against("S1", named(&jobs[i], ", against js_PublishMsgAsync"), msg_id ? 1.1 : 1.2, &v[i], &v[4], rounds);
        row_cpu(named(&jobs[i], ", without the codec"), 0.5, &v[i], &v[2], rounds);
        row_cpu(named(&jobs[i], ", in all"), 1.2, &v[i], &v[3], rounds);
    }
    const struct spread server = bench_ratio(&v[2], &v[4], rounds, FIG_RATE);
    report_note("S1", "%s: raw libnats itself is %.2f (%.2f..%.2f) times as fast as js_PublishMsgAsync here",
                msg_id ? "with Nats-Msg-Id" : "without id", server.median, server.min, server.max);
}

static void four_producers(bool msg_id, uint64_t n)
{
    const struct job jobs[] = {{WAY_EVBUS, 4, 4096, n, msg_id, true, false},
                               {WAY_EVBUS, 4, 4096, n, msg_id, false, false},
                               {WAY_RAW, 4, 4096, n, msg_id, false, false}};
    struct variant v[] = {{.name = "evbus_publish_envelope, receipts on, 4 threads", .run = run, .arg = &jobs[0]},
                          {.name = "evbus_publish_envelope, 4 threads", .run = run, .arg = &jobs[1]},
                          {.name = "raw, encoding, 4 threads", .run = run, .arg = &jobs[2]}};

    bench_rounds(v, 3, bench_args.rounds);
    for (int i = 0; i < 2; i++)
        row_against("S3", named(&jobs[i], ", 4 producers, against raw"), 0.93, &v[i], &v[2], bench_args.rounds);
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

static void counted(uint64_t n, unsigned threads, bool receipts)
{
    const struct job job = {WAY_EVBUS, threads, 4096, n, true, receipts, true};
    struct variant v = {.name = "counting", .run = run, .arg = &job};
    char what[120];

    if (!bench_once(&v, &v.round[0], 120))
        bench_fail("the counting run failed");
    if (!receipts) { /* who takes receipts takes the mutex of its takers, once per batch */
        (void)snprintf(what, sizeof what, "publishing, %u producers: our mutex, rwlock and condition calls", threads);
        row_count(what, 0, &v, FIG_OUR_LOCKS);
    }
    const char *extra = receipts ? ", receipts on" : "";
    (void)snprintf(what, sizeof what, "publishing, %u producers%s: our futex calls", threads, extra);
    row_count(what, 1.0 / 64, &v, FIG_OUR_FUTEX);
    (void)snprintf(what, sizeof what, "publishing, %u producers%s: our allocations", threads, extra);
    row_count(what, 0, &v, FIG_OUR_ALLOCS);
}

static void windows(uint64_t n)
{
    static const uint32_t window[] = {16, 64, 256, 1024, 4096, 16384};

    for (size_t i = 0; i < sizeof window / sizeof window[0]; i++) {
        const uint64_t messages = window[i] < 256 ? n / 4 : n;
        const struct job jobs[] = {{WAY_EVBUS, 1, window[i], messages, true, false, false},
                                   {WAY_RAW, 1, window[i], messages, true, false, false}};
        struct variant v[] = {{.name = "evbus", .run = run, .arg = &jobs[0]},
                              {.name = "raw libnats", .run = run, .arg = &jobs[1]}};
        struct figures f;
        for (size_t w = 0; w < 2; w++) {
            if (!bench_once(&v[w], &f, 120))
                bench_fail("a run of '%s' failed", v[w].name);
            report_point("Publishing: throughput against the in-flight window", v[w].name, window[i], "in flight",
                         f.v[FIG_RATE], "msg/s");
        }
    }
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5, 0);
    const uint64_t n = bench_args.quick ? 50000 : 200000;

    bench_server_start();
    one_producer(true, n);
    one_producer(false, n);
    four_producers(true, n);
    four_producers(false, n);
    counted(n, 4, false);
    counted(n, 16, false);
    counted(n, 4, true);
    windows(n / 2);
    return report_end();
}
