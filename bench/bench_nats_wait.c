/* SPDX-License-Identifier: Apache-2.0 */
/* S12: publishing that waits for its outcome, with 1, 4 and 16 threads, against js_Publish; memory storage. */
#include "bare_nats.h"

#include <string.h>

#define TOPIC "bench.wait"
#define STREAM "BENCH"
#define THREADS_MAX 16

struct job {
    bool ours;
    unsigned threads;
    uint64_t messages;
};

struct caller {
    const struct job *job;
    void *to; /* evbus or jsCtx */
    uint64_t first, count;
    struct samples latency;
    bool failed;
    pthread_t thread;
};

static bool call_evbus(void *to, const evbus_envelope *env)
{
    return evbus_publish_envelope_wait(to, TOPIC, env, NULL, NULL) == EVBUS_OK;
}

static bool call_js(void *to, const evbus_envelope *env)
{
    char body[1024], msg_id[200];
    const size_t len = bare_encode(env, body, sizeof body);
    natsMsg *msg = NULL;
    jsPubOptions o;

    (void)jsPubOptions_Init(&o);
    memcpy(msg_id, TOPIC " ", sizeof TOPIC);
    memcpy(msg_id + sizeof TOPIC, env->event_id, strlen(env->event_id) + 1);
    o.MsgId = msg_id;
    bare_check(natsMsg_Create(&msg, TOPIC, NULL, body, (int)len), "message");
    const natsStatus s = js_PublishMsg(NULL, to, msg, &o, NULL);
    natsMsg_Destroy(msg);
    return s == NATS_OK;
}

static void *caller_main(void *arg)
{
    struct caller *c = arg;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    for (uint64_t i = c->first; i < c->first + c->count; i++) {
        const int64_t began = bench_now();
        load_envelope(i, began, id, &env);
        if (!(c->job->ours ? call_evbus : call_js)(c->to, &env))
            c->failed = true;
        samples_add(&c->latency, bench_now() - began);
    }
    return NULL;
}

static bool run_callers(const struct job *job, void *to, struct figures *out)
{
    static struct caller c[THREADS_MAX];
    const uint64_t each = job->messages / job->threads;
    struct samples all;
    bool failed = !samples_init(&all, job->messages);

    for (unsigned t = 0; t < job->threads; t++) {
        c[t] = (struct caller){.job = job, .to = to, .first = 1000 + t * each, .count = each};
        if (!samples_init(&c[t].latency, each) || pthread_create(&c[t].thread, NULL, caller_main, &c[t]) != 0)
            bench_fail("cannot start a thread");
    }
    for (unsigned t = 0; t < job->threads; t++) {
        (void)pthread_join(c[t].thread, NULL);
        failed |= c[t].failed;
        memcpy(all.us10 + all.count, c[t].latency.us10, c[t].latency.count * sizeof *all.us10);
        all.count += c[t].latency.count;
    }
    samples_put(&all, out);
    return !failed || bench_sorry("a publish failed: %s", evbus_error_detail());
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;
    natsConnection *nc = NULL;
    jsCtx *js = NULL;
    struct meter m;
    void *to;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    bare_stream(STREAM, "bench.>", true);
    if (job->ours) {
        to = bench_bus(bench_server.url, NULL);
        bench_topic(to, TOPIC, true, true);
    } else {
        load_envelope(0, 1, id, &env);
        bare_check(natsConnection_ConnectTo(&nc, bench_server.url), "connect");
        bare_check(natsConnection_JetStream(&js, nc, NULL), "JetStream");
        to = js;
    }
    load_envelope(0, 1, id, &env);
    if (!(job->ours ? call_evbus : call_js)(to, &env))
        return bench_sorry("the first publish failed: %s", evbus_error_detail());
    meter_start(&m);
    if (!run_callers(job, to, out))
        return false;
    meter_stop(&m, (double)(job->messages / job->threads * job->threads), out);
    return true;
}

static void threads(unsigned count, uint64_t messages)
{
    const struct job jobs[] = {{true, count, messages}, {false, count, messages}};
    const unsigned rounds = count == THREADS_MAX || bench_args.rounds < 3 ? bench_args.rounds : 3;
    struct variant v[] = {{.name = "evbus_publish_envelope_wait", .run = run, .arg = &jobs[0]},
                          {.name = "js_PublishMsg, encoding", .run = run, .arg = &jobs[1]}};

    bench_rounds(v, 2, rounds);
    for (size_t i = 0; i < 2; i++)
        report_point("Publishing that waits: threads", v[i].name, count, "threads",
                     bench_spread(&v[i], rounds, FIG_RATE).median, "msg/s");
    if (count != THREADS_MAX)
        return;
    report_row(&(struct row){.row = "S12",
                             .what = "publish_envelope_wait, 16 threads, against js_Publish",
                             .unit = "msg/s",
                             .target = 2,
                             .ours = bench_spread(&v[0], rounds, FIG_RATE),
                             .bare = bench_spread(&v[1], rounds, FIG_RATE),
                             .verdict = bench_ratio(&v[0], &v[1], rounds, FIG_RATE),
                             .variant = &v[0],
                             .baseline = &v[1],
                             .rounds = rounds});
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5, 0);
    const uint64_t n = bench_args.quick ? 5000 : 20000;

    bench_server_start();
    threads(1, n / 4);
    threads(4, n / 2);
    threads(THREADS_MAX, n);
    return report_end();
}
