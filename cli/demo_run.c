/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of the demo on one broker: subscribe to all topics in one group, publish everything, wait until all of it is
 * handled. A seeded few of the handlers fail at their first attempt; those of topic 0 defer every message to a thread
 * that settles it, as an application with an event loop would.
 */
#include "demo.h"

#include "cli.h"
#include "stop.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUP "demo"
#define FAILS_ONE_IN 50
#define RETRY_AFTER_MS 10
#define NO_PROGRESS_NS INT64_C(20000000000)
#define SHUTDOWN_MS 10000u
#define EVENT_BYTES 512u
#define STREAM_BYTES_MIN (UINT64_C(8) << 20)
#define LOOK_EVERY_MS 20u

struct deferred {
    struct deferred *next;
    const evbus_msg *msg;
    uint32_t aggregate, version;
};

struct run {
    const struct demo_plan *plan;
    struct judge *judge;
    evbus *bus;
    struct demo_result *result;
    struct publishers *publishers;
    pthread_t settler;
    bool settler_runs;
    pthread_mutex_t mutex; /* guards the list and `ending` */
    pthread_cond_t more;
    struct deferred *head, **tail;
    bool ending;
    pthread_mutex_t error_mutex; /* guards `refused` */
    char refused[640];           /* the first publish that was refused or is unknown */
};

/* Streams just large enough: a server sets the whole size of each aside. */
static uint64_t stream_bytes(const struct demo_plan *plan)
{
    const uint64_t aggregates = plan->aggregates / plan->topics + 1;

    return STREAM_BYTES_MIN + aggregates * plan->versions * EVENT_BYTES;
}

/* ---- Deferred messages ------------------------------------------------------------------------------------------- */

static void *settle_deferred(void *arg)
{
    struct run *run = arg;

    pthread_mutex_lock(&run->mutex);
    for (;;) {
        struct deferred *d = run->head;
        if (!d && run->ending)
            break;
        if (!d) {
            pthread_cond_wait(&run->more, &run->mutex);
            continue;
        }
        run->head = d->next;
        if (!run->head)
            run->tail = &run->head;
        pthread_mutex_unlock(&run->mutex);
        judge_acked(run->judge, d->aggregate, d->version); /* first: settling lets the next version start */
        (void)evbus_msg_settle(d->msg, EVBUS_ACK);
        free(d);
        pthread_mutex_lock(&run->mutex);
    }
    pthread_mutex_unlock(&run->mutex);
    return NULL;
}

static bool defer(struct run *run, const evbus_msg *msg, uint32_t aggregate, uint32_t version)
{
    struct deferred *d = malloc(sizeof *d);

    if (!d)
        return false;
    *d = (struct deferred){.msg = msg, .aggregate = aggregate, .version = version};
    pthread_mutex_lock(&run->mutex);
    *run->tail = d;
    run->tail = &d->next;
    pthread_cond_signal(&run->more);
    pthread_mutex_unlock(&run->mutex);
    return true;
}

static void end_settler(struct run *run)
{
    pthread_mutex_lock(&run->mutex);
    run->ending = true;
    pthread_cond_signal(&run->more);
    pthread_mutex_unlock(&run->mutex);
    if (run->settler_runs)
        (void)pthread_join(run->settler, NULL);
    run->settler_runs = false;
}

/* ---- The handler ------------------------------------------------------------------------------------------------- */

/* A hash (splitmix64) of seed, aggregate and version: which first attempts fail is chosen once, by the seed. */
static bool fails_first(const struct demo_plan *plan, uint32_t aggregate, uint32_t version)
{
    uint64_t x = plan->seed + UINT64_C(0x9e3779b97f4a7c15) * (((uint64_t)aggregate << 32) + version);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % FAILS_ONE_IN == 0;
}

/* Reads aggregate and version, and checks that everything in the message agrees with them. */
static bool read_event(const struct run *run, const evbus_msg *msg, uint32_t *ret_aggregate, uint32_t *ret_version)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    char payload[64], topic[64];

    if (!env || strncmp(env->aggregate_id, "order-", 6) != 0)
        return false;
    const unsigned long aggregate = strtoul(env->aggregate_id + 6, NULL, 10);
    if (aggregate >= run->plan->aggregates || env->event_version < 1 || env->event_version > run->plan->versions)
        return false;
    *ret_aggregate = (uint32_t)aggregate;
    *ret_version = (uint32_t)env->event_version;
    const int len = demo_payload(payload, sizeof payload, *ret_aggregate, *ret_version);
    (void)demo_topic(topic, sizeof topic, *ret_aggregate % run->plan->topics);
    return strcmp(topic, evbus_msg_topic(msg)) == 0 && env->payload_len == (size_t)len &&
           memcmp(env->payload, payload, (size_t)len) == 0;
}

static evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    struct run *run = ctx;
    uint32_t aggregate, version;

    if (!read_event(run, msg, &aggregate, &version)) {
        judge_damaged(run->judge);
        return EVBUS_ACK;
    }
    const bool first_attempt = evbus_msg_attempt(msg) == 1;
    judge_started(run->judge, aggregate, version, first_attempt);
    if (first_attempt && fails_first(run->plan, aggregate, version)) {
        judge_retried(run->judge, aggregate);
        evbus_msg_retry_after(msg, RETRY_AFTER_MS);
        return EVBUS_RETRY;
    }
    if (aggregate % run->plan->topics == 0 && defer(run, msg, aggregate, version))
        return EVBUS_DEFER;
    judge_acked(run->judge, aggregate, version); /* before the verdict: it lets the next version start */
    return EVBUS_ACK;
}

static void on_publish_error(const evbus_receipt *receipt, void *ctx)
{
    struct run *run = ctx;

    pthread_mutex_lock(&run->error_mutex);
    if (!run->refused[0])
        (void)snprintf(run->refused, sizeof run->refused, "event %.64s on %.128s: %s (%s)", receipt->event_id,
                       receipt->topic, evbus_strerror(receipt->status), receipt->detail);
    pthread_mutex_unlock(&run->error_mutex);
}

/* ---- The course of a run ----------------------------------------------------------------------------------------- */

static bool subscribe_all(struct run *run)
{
    const evbus_topic_opts *settings = EVBUS_OPTS(evbus_topic_opts, .max_bytes = stream_bytes(run->plan));
    const evbus_sub_opts *opts = EVBUS_OPTS(evbus_sub_opts, .group = GROUP);
    char topic[64];

    for (uint32_t t = 0; t < run->plan->topics; t++) {
        (void)demo_topic(topic, sizeof topic, t);
        evbus_status st = evbus_topic_configure(run->bus, topic, settings);
        if (st == EVBUS_OK)
            st = evbus_subscribe_envelope(run->bus, topic, on_order, run, opts, NULL);
        if (st != EVBUS_OK) {
            (void)snprintf(run->result->problem, sizeof run->result->problem, "cannot subscribe to %s: %s (%s)", topic,
                           evbus_strerror(st), evbus_error_detail());
            return false;
        }
    }
    return true;
}

/* Until all that was accepted is handled; or a signal, or nothing moves any more. */
static void watch(struct run *run, struct progress *progress)
{
    const uint64_t total = (uint64_t)run->plan->aggregates * run->plan->versions;
    struct demo_result *r = run->result;
    uint64_t seen = 0;
    int64_t moved_ns = now_ns();

    for (;;) {
        const bool done = publishers_done(run->publishers);
        const uint64_t accepted = publishers_accepted(run->publishers), handled = judge_handled(run->judge);
        if (progress_due(progress))
            progress_show(progress, "%s  published %" PRIu64 "  handled %" PRIu64 "  of %" PRIu64, r->broker, accepted,
                          handled, total);
        if (done && handled >= accepted)
            return;
        if (accepted + handled != seen) {
            seen = accepted + handled;
            moved_ns = now_ns();
        }
        if (now_ns() - moved_ns > NO_PROGRESS_NS) {
            (void)snprintf(r->problem, sizeof r->problem, "nothing moved for %d seconds",
                           (int)(NO_PROGRESS_NS / 1000000000));
            return;
        }
        if (stop_wait(LOOK_EVERY_MS)) {
            r->interrupted = true;
            return;
        }
    }
}

static bool start_settler(struct run *run)
{
    const int failed = pthread_create(&run->settler, NULL, settle_deferred, run);

    run->settler_runs = failed == 0;
    if (failed)
        (void)snprintf(run->result->problem, sizeof run->result->problem, "cannot start a thread: %s",
                       strerror(failed));
    return failed == 0;
}

static void publish_and_watch(struct run *run, struct progress *progress)
{
    struct demo_result *r = run->result;
    evbus_report report = {.struct_size = sizeof report};

    if (start_settler(run) && subscribe_all(run))
        run->publishers = publishers_start(run->plan, run->bus, run->judge, r->problem, sizeof r->problem);
    if (run->publishers)
        watch(run, progress);
    if (run->publishers)
        publishers_ask_to_stop(run->publishers);
    (void)evbus_shutdown(run->bus, SHUTDOWN_MS, &report);
    end_settler(run);
    if (run->publishers) {
        publishers_problem(run->publishers, r->problem, sizeof r->problem);
        r->published = publishers_accepted(run->publishers);
        publishers_stop(run->publishers);
    }
    r->stats.struct_size = sizeof r->stats;
    (void)evbus_stats(run->bus, &r->stats);
    if (report.status != EVBUS_OK && !r->interrupted && !r->problem[0])
        (void)snprintf(r->problem, sizeof r->problem,
                       "the shutdown left %" PRIu64 " handlers running and %" PRIu64 " messages unsettled",
                       report.total.handlers_running, report.total.unsettled);
}

void demo_run(const struct demo_plan *plan, const char *url, const evbus_opts *opts, struct progress *progress,
              struct demo_result *r)
{
    struct run run = {.plan = plan, .result = r, .judge = judge_new(plan)};
    evbus_opts o = *opts;

    if (!run.judge) {
        (void)snprintf(r->problem, sizeof r->problem, "out of memory");
        return;
    }
    run.tail = &run.head;
    (void)pthread_mutex_init(&run.mutex, NULL);
    (void)pthread_mutex_init(&run.error_mutex, NULL);
    (void)pthread_cond_init(&run.more, NULL);
    if (strncmp(url, "mem:", 4) == 0)
        o.mem_bytes_max = stream_bytes(plan) * plan->topics;
    o.on_publish_error = on_publish_error;
    o.on_publish_error_ctx = &run;
    stop_mask(true);
    const evbus_status st = evbus_open(url, &o, &run.bus);
    stop_mask(false);
    r->exit_code = exit_of(st);
    if (st != EVBUS_OK) {
        (void)snprintf(r->problem, sizeof r->problem, "cannot open %s: %s (%s)", url, evbus_strerror(st),
                       evbus_error_detail());
    } else {
        publish_and_watch(&run, progress);
        evbus_close(run.bus);
        if (run.refused[0])
            (void)snprintf(r->problem, sizeof r->problem, "%s", run.refused);
        if (!judge_totals(run.judge, &r->totals) && !r->problem[0])
            (void)snprintf(r->problem, sizeof r->problem, "out of memory for the totals");
        if (r->interrupted)
            r->totals.lost = 0; /* nobody knows: the broker has the rest */
    }
    (void)pthread_cond_destroy(&run.more);
    (void)pthread_mutex_destroy(&run.error_mutex);
    (void)pthread_mutex_destroy(&run.mutex);
    judge_free(run.judge);
}

bool demo_passed(const struct demo_plan *plan, const struct demo_result *r)
{
    const uint64_t events = (uint64_t)plan->aggregates * plan->versions;
    const struct judge_totals *t = &r->totals;

    return !r->skipped && !r->problem[0] && r->published == events && r->stats.publishes_stored == events &&
           r->stats.publishes_duplicate == 0 && r->stats.dead_lettered == 0 && t->handled == events &&
           t->duplicates == 0 && t->gaps == 0 && t->order_violations == 0 && t->damaged == 0 && t->lost == 0;
}
