/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a run: no more misfortunes; a fence is published, and whatever the stream holds below it must be handled. What the
 * stream and the dead-letter topic hold is read by a group of its own, and the judge has the last word.
 */
#include "torture.h"

#include "stop.h"

#include <inttypes.h>
#include <stdlib.h>

#define PATIENCE_NS INT64_C(60000000000)
#define STUCK_NS INT64_C(20000000000) /* several ack waits and elections */
#define QUIET_NS INT64_C(2000000000)
#define LONG_QUIET_NS INT64_C(10000000000)
#define LOOK_MS 20u
#define LATE_MS 12000u /* what a stopped server had unread may be stored that long after it was given up */

struct reader {
    pthread_mutex_t mutex;
    struct truth_content *content;
    bool letters, fenced;
    uint64_t fence;
    int64_t last_ns; /* when something came */
};

static evbus_verdict collect(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    const char *of = evbus_msg_header(msg, "Evbus-Sequence");
    struct reader *r = ctx;
    const struct truth_stored s = {.sequence = r->letters ? strtoull(of ? of : "0", NULL, 10) : evbus_msg_sequence(msg),
                                   .aggregate = (uint32_t)strtoul(env->aggregate_id + 1, NULL, 10),
                                   .version = (uint32_t)env->event_version,
                                   .stored_ns = evbus_msg_stored_ns(msg)};

    pthread_mutex_lock(&r->mutex);
    truth_content_add(r->content, &s);
    r->fenced = r->fenced || (!r->letters && s.sequence == r->fence);
    r->last_ns = now_ns();
    pthread_mutex_unlock(&r->mutex);
    return EVBUS_ACK;
}

/* A stream of the topic's own has every sequence; in one that is shared, silence behind the fence must do. Of letters the
 * number is a guess: a verdict of a member that had lost its turn counted for nothing. */
static bool has_all(struct reader *r, uint64_t wanted)
{
    pthread_mutex_lock(&r->mutex);
    const int64_t quiet = now_ns() - r->last_ns;
    const bool counted = r->content->count >= wanted;
    const bool all =
        r->letters ? quiet > (counted ? QUIET_NS : LONG_QUIET_NS) : r->fenced && (counted || quiet > QUIET_NS);
    pthread_mutex_unlock(&r->mutex);
    return all;
}

static evbus_status subscribe(evbus *bus, const char *topic, struct reader *r, evbus_sub **ret)
{
    const int64_t until = now_ns() + PATIENCE_NS;
    evbus_sub_opts o;
    evbus_status st;

    evbus_sub_opts_init(&o);
    o.group = "audit";
    while ((st = evbus_subscribe_envelope(bus, topic, collect, r, &o, ret)) != EVBUS_OK && now_ns() < until)
        torture_nap_us(100000);
    return st;
}

static bool read_topic(struct torture *t, evbus *bus, const char *topic, struct reader *r, uint64_t wanted)
{
    const int64_t until = now_ns() + PATIENCE_NS;
    evbus_sub *sub = NULL;

    (void)pthread_mutex_init(&r->mutex, NULL);
    r->last_ns = now_ns();
    const evbus_status st = subscribe(bus, topic, r, &sub);
    while (st == EVBUS_OK && !has_all(r, wanted) && now_ns() < until)
        torture_nap_us(LOOK_MS * 1000);
    if (st != EVBUS_OK)
        torture_problem(t, "cannot read %s: %s (%s)", topic, evbus_strerror(st), evbus_error_detail());
    else if (!has_all(r, wanted))
        torture_problem(t, "reading %s: %zu came of %" PRIu64, topic, r->content->count, wanted);
    if (sub)
        (void)evbus_unsubscribe(sub);
    (void)pthread_mutex_destroy(&r->mutex);
    return !t->problem[0];
}

static bool set_fence(struct torture *t, struct torture_bus *audit, uint64_t *ret_sequence)
{
    const int64_t until = now_ns() + PATIENCE_NS;
    uint32_t version = 1;
    evbus_status st;

    while ((st = truth_publish_wait(&audit->truth, audit->bus, t->topic, 0, TORTURE_AGGREGATES, version, 0,
                                    ret_sequence)) != EVBUS_OK &&
           now_ns() < until) {
        version += st == EVBUS_UNKNOWN; /* that one may be stored all the same */
        torture_nap_us(100000);
    }
    if (st != EVBUS_OK)
        torture_problem(t, "nothing can be published any more: %s (%s)", evbus_strerror(st), evbus_error_detail());
    return st == EVBUS_OK;
}

static uint64_t count_fates(struct torture *t, uint8_t fate)
{
    uint64_t n = 0;

    for (size_t i = 0; i < t->stream.count; i++) {
        const struct truth_stored *s = &t->stream.all[i];
        _Atomic(uint8_t) *at = torture_fate(t, s->aggregate, s->version);
        n += at && atomic_load(at) == fate;
    }
    return n;
}

static bool add_lag(const evbus_lag *lag, void *sum)
{
    *(uint64_t *)sum += lag->pending + lag->ack_pending;
    return true;
}

/* What the broker has for them still: a member that lost its turn may have said what counted for nothing. */
static uint64_t lag_of(const struct torture *t, evbus *audit)
{
    uint64_t lag = 0;
    const evbus_status st =
        evbus_lags(audit, EVBUS_OPTS(evbus_lag_opts, .topic = t->topic, .group = TORTURE_GROUP, .timeout_ms = 2000),
                   add_lag, &lag);

    return st == EVBUS_OK ? lag : 1;
}

static uint64_t held_by_all(const struct torture *t)
{
    evbus_statistics s = {.struct_size = sizeof s};
    uint64_t held = 0;

    for (uint32_t i = 0; i < t->shop_count; i++)
        held += t->shops[i].bus.bus && evbus_stats(t->shops[i].bus.bus, &s) == EVBUS_OK ? s.held : 0;
    return held;
}

/* Until nothing moves any more. That is no problem of its own: the judge names the message that was never handled. */
static void await_handled(struct torture *t, evbus *audit, struct progress *progress)
{
    uint64_t open, held, last = UINT64_MAX;
    int64_t moved = now_ns();

    do {
        torture_settle(t);
        torture_nap_us(LOOK_MS * 1000);
        held = held_by_all(t);
        open = count_fates(t, TORTURE_OPEN);
        if (open + held == 0)
            held = lag_of(t, audit);
        moved = open + held == last ? moved : now_ns();
        last = open + held;
        if (progress_due(progress))
            progress_show(progress, "waiting for %" PRIu64 " messages", open);
    } while ((open || held) && now_ns() - moved < STUCK_NS);
}

static bool verdict(struct torture *t)
{
    struct truth_case c = {.name = "torture",
                           .seed = t->seed,
                           .logs = &t->log,
                           .log_count = 1,
                           .stream = t->stream,
                           .letters = t->letters,
                           .attempts_max = TORTURE_ATTEMPTS,
                           .late_ms = LATE_MS,
                           .unflagged_repeats = t->misfortunes[TORTURE_KILL] > 0,
                           .shared = t->shared};

    if (torture_place_read(t, &c) && !truth_judge(&c, &t->account))
        torture_problem(t, "%s", c.verdict);
    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        truth_content_clear(&c.servers[i]);
        truth_content_clear(&c.letter_servers[i]);
    }
    return !t->problem[0];
}

bool torture_judge(struct torture *t, struct progress *progress)
{
    struct torture_bus audit = {0};
    struct reader stream = {.content = &t->stream}, letters = {.content = &t->letters, .letters = true};
    char topic[80];

    if (!t->plain[0])
        (void)snprintf(t->plain, sizeof t->plain, "%s", t->url);
    (void)snprintf(topic, sizeof topic, "dlq.%s", t->topic);
    bool read = torture_bus_open(t, &audit, t->plain, false) && set_fence(t, &audit, &stream.fence) &&
                read_topic(t, audit.bus, t->topic, &stream, stream.fence);
    if (read)
        await_handled(t, audit.bus, progress);
    torture_shops_close(t);
    const uint64_t doomed = count_fates(t, TORTURE_DOOMED);
    if (read)
        read = read_topic(t, audit.bus, topic, &letters, doomed);
    evbus_close(audit.bus);
    progress_clear(progress);
    const bool kept = read && verdict(t);
    truth_content_clear(&t->stream);
    truth_content_clear(&t->letters);
    return kept;
}
