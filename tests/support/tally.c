/* SPDX-License-Identifier: Apache-2.0 */
#include "tally.h"

#include "base/clock.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void tally_init(struct tally *t, const evbus_clock *clock)
{
    *t = (struct tally){.clock = clock};
    pthread_mutex_init(&t->mutex, NULL);
    wait_cond_init(&t->changed);
}

void tally_fini(struct tally *t)
{
    for (size_t i = 0; i < t->started; i++) {
        for (size_t h = 0; h < TALLY_HEADERS; h++)
            free(t->entries[i]->header[h]);
        free(t->entries[i]->body);
        free(t->entries[i]);
    }
    free(t->entries);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
}

/* ---- Recording --------------------------------------------------------------------------------------------------- */

static void copy(char *to, size_t cap, const char *from)
{
    (void)snprintf(to, cap, "%s", from ? from : "");
}

static void fill(const struct tally *t, struct tally_entry *e, const evbus_msg *msg)
{
    const evbus_view body = evbus_msg_data(msg);
    const evbus_envelope *env = evbus_msg_envelope(msg);

    copy(e->topic, sizeof e->topic, evbus_msg_topic(msg));
    copy(e->group, sizeof e->group, evbus_msg_group(msg));
    copy(e->stream, sizeof e->stream, evbus_msg_stream(msg));
    copy(e->aggregate, sizeof e->aggregate, env ? env->aggregate_id : "");
    copy(e->event_id, sizeof e->event_id, env ? env->event_id : "");
    e->version = env ? env->event_version : 0;
    e->sequence = evbus_msg_sequence(msg);
    e->attempt = evbus_msg_attempt(msg);
    e->deliveries = evbus_msg_delivery_count(msg);
    e->redelivered = evbus_msg_redelivered(msg);
    e->stored_ns = evbus_msg_stored_ns(msg);
    e->at_ns = ev_clock_now(t->clock);
    e->thread = pthread_self();
    e->len = body.len;
    e->body = malloc(body.len + 1);
    if (e->body && body.len)
        memcpy(e->body, body.data, body.len);
    if (e->body)
        e->body[body.len] = 0;
    for (size_t h = 0; t->capture && t->capture[h] && h < TALLY_HEADERS; h++) {
        const char *value = evbus_msg_header(msg, t->capture[h]);
        e->header[h] = value ? strdup(value) : NULL;
    }
}

static struct tally_entry *note_start(struct tally *t, const evbus_msg *msg)
{
    struct tally_entry *e = calloc(1, sizeof *e);

    if (!e)
        abort();
    fill(t, e, msg);
    pthread_mutex_lock(&t->mutex);
    if (t->started == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 64;
        struct tally_entry **more = realloc(t->entries, t->capacity * sizeof(*more));
        if (!more)
            abort();
        t->entries = more;
    }
    e->started = ++t->order;
    t->entries[t->started++] = e;
    if (++t->running > t->running_max)
        t->running_max = t->running;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    return e;
}

/* With the mutex held. */
static void note_end(struct tally *t, struct tally_entry *e, evbus_verdict verdict)
{
    e->ended = true;
    e->verdict = verdict;
    e->finished = ++t->order;
    t->ended++;
    t->acked += verdict == EVBUS_ACK;
    t->retried += verdict == EVBUS_RETRY;
    t->rejected += verdict == EVBUS_REJECT;
    pthread_cond_broadcast(&t->changed);
}

evbus_verdict tally_handle(const evbus_msg *msg, void *ctx)
{
    struct tally *t = ctx;
    struct tally_entry *e = note_start(t, msg);
    const evbus_verdict verdict = t->decide ? t->decide(msg, t->arg) : EVBUS_ACK;

    pthread_mutex_lock(&t->mutex);
    t->running--;
    if (verdict == EVBUS_DEFER)
        t->deferred++;
    else
        note_end(t, e, verdict);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    return verdict;
}

/* Noted before the bus is told: the next run may start at once. */
evbus_status tally_settle(struct tally *t, const evbus_msg *msg, evbus_verdict verdict)
{
    const uint64_t sequence = evbus_msg_sequence(msg);
    const char *topic = evbus_msg_topic(msg);

    pthread_mutex_lock(&t->mutex);
    for (size_t i = t->started; i > 0; i--) {
        struct tally_entry *e = t->entries[i - 1];
        if (e->ended || e->sequence != sequence || strcmp(e->topic, topic) != 0)
            continue;
        note_end(t, e, verdict);
        break;
    }
    pthread_mutex_unlock(&t->mutex);
    return evbus_msg_settle(msg, verdict);
}

/* ---- Waiting and reading ----------------------------------------------------------------------------------------- */

bool tally_await(struct tally *t, const size_t *count, size_t n)
{
    const int64_t until = wait_now_ms() + wait_patience_ms();
    bool in_time = true;

    pthread_mutex_lock(&t->mutex);
    while (*count < n && in_time)
        in_time = wait_cond(&t->changed, &t->mutex, until);
    const bool ok = *count >= n;
    if (!ok)
        fprintf(stderr,
                "waited for %zu, there are %zu (started %zu, ended %zu, acked %zu, retried %zu, rejected %zu, deferred "
                "%zu, running %zu)\n",
                n, *count, t->started, t->ended, t->acked, t->retried, t->rejected, t->deferred, t->running);
    pthread_mutex_unlock(&t->mutex);
    return ok;
}

size_t tally_read(struct tally *t, const size_t *count)
{
    pthread_mutex_lock(&t->mutex);
    const size_t n = *count;
    pthread_mutex_unlock(&t->mutex);
    return n;
}

const struct tally_entry *tally_at(struct tally *t, size_t i)
{
    pthread_mutex_lock(&t->mutex);
    const struct tally_entry *e = i < t->started ? t->entries[i] : NULL;
    pthread_mutex_unlock(&t->mutex);
    if (!e)
        fail_msg("entry %zu of the tally is wanted, there are %zu", i, t->started);
    return e;
}

static bool is_run(const struct tally_entry *e, const char *aggregate, int64_t version)
{
    return e->version == version && strcmp(e->aggregate, aggregate) == 0;
}

const struct tally_entry *tally_run(struct tally *t, const char *aggregate, int64_t version, size_t n)
{
    const struct tally_entry *found = NULL;

    pthread_mutex_lock(&t->mutex);
    for (size_t i = 0; i < t->started && !found; i++)
        if (is_run(t->entries[i], aggregate, version) && n-- == 0)
            found = t->entries[i];
    pthread_mutex_unlock(&t->mutex);
    return found;
}

size_t tally_runs(struct tally *t, const char *aggregate, int64_t version)
{
    size_t n = 0;

    pthread_mutex_lock(&t->mutex);
    for (size_t i = 0; i < t->started; i++)
        n += is_run(t->entries[i], aggregate, version);
    pthread_mutex_unlock(&t->mutex);
    return n;
}

const char *tally_header(const struct tally *t, const struct tally_entry *entry, const char *name)
{
    for (size_t h = 0; t->capture && t->capture[h] && h < TALLY_HEADERS; h++)
        if (strcmp(t->capture[h], name) == 0)
            return entry->header[h];
    return NULL;
}

/* ---- Checks ------------------------------------------------------------------------------------------------------ */

static int same_queue(const struct tally_entry *a, const struct tally_entry *b)
{
    const int by_topic = strcmp(a->topic, b->topic);

    return by_topic ? by_topic : strcmp(a->aggregate, b->aggregate);
}

static int by_queue_and_start(const void *left, const void *right)
{
    const struct tally_entry *a = *(struct tally_entry *const *)left, *b = *(struct tally_entry *const *)right;
    const int queue = same_queue(a, b);

    return queue ? queue : (a->started > b->started) - (a->started < b->started);
}

/* A sorted copy of the entries; the caller frees it. */
static struct tally_entry **sorted(struct tally *t, size_t *ret_count)
{
    pthread_mutex_lock(&t->mutex);
    const size_t count = t->started;
    struct tally_entry **copy_of = malloc((count + 1) * sizeof(*copy_of));
    if (!copy_of)
        abort();
    if (count)
        memcpy(copy_of, t->entries, count * sizeof(*copy_of));
    pthread_mutex_unlock(&t->mutex);
    qsort(copy_of, count, sizeof(*copy_of), by_queue_and_start);
    *ret_count = count;
    return copy_of;
}

static const char *order_broken(const struct tally_entry *a, const struct tally_entry *b)
{
    if (!a->ended || a->finished > b->started)
        return "two of its messages ran at the same time";
    if (b->sequence < a->sequence)
        return "its sequences went backwards";
    if (b->sequence == a->sequence && a->verdict == EVBUS_ACK)
        return "a message ran again after it was acknowledged";
    return NULL;
}

void tally_check_order(struct tally *t)
{
    size_t count;
    struct tally_entry **all = sorted(t, &count);
    char text[600] = "";

    for (size_t i = 1; i < count && !text[0]; i++) {
        const struct tally_entry *a = all[i - 1], *b = all[i];
        const char *why = same_queue(a, b) == 0 ? order_broken(a, b) : NULL;
        if (why)
            (void)snprintf(text, sizeof text,
                           "topic %.80s aggregate %.80s: %s: sequence %" PRIu64 " attempt %u verdict %d, then %" PRIu64
                           " attempt %u delivery %u",
                           a->topic, a->aggregate, why, a->sequence, a->attempt, (int)a->verdict, b->sequence,
                           b->attempt, b->deliveries);
    }
    free(all);
    if (text[0])
        fail_msg("%s", text);
}

void tally_check_complete(struct tally *t, size_t aggregates, int64_t versions)
{
    size_t count, queues = 0;
    struct tally_entry **all = sorted(t, &count);
    char text[600] = "";
    int64_t expected = 1;

    for (size_t i = 0; i < count && !text[0]; i++) {
        const bool first = i == 0 || same_queue(all[i - 1], all[i]) != 0;
        if (first && i > 0 && expected != versions + 1)
            (void)snprintf(text, sizeof text,
                           "topic %.80s aggregate %.80s: version %" PRId64 " of %" PRId64 " is missing",
                           all[i - 1]->topic, all[i - 1]->aggregate, expected, versions);
        queues += first;
        expected = first ? 1 : expected;
        if (!all[i]->ended || all[i]->verdict != EVBUS_ACK)
            continue;
        if (all[i]->version != expected && !text[0])
            (void)snprintf(text, sizeof text,
                           "topic %.80s aggregate %.80s: version %" PRId64 " was wanted, %" PRId64 " came",
                           all[i]->topic, all[i]->aggregate, expected, all[i]->version);
        expected++;
    }
    if (!text[0] && (queues != aggregates || (count && expected != versions + 1)))
        (void)snprintf(text, sizeof text, "%zu of %zu aggregates; the last one ended before version %" PRId64, queues,
                       aggregates, expected);
    free(all);
    if (text[0])
        fail_msg("%s", text);
}
