/* SPDX-License-Identifier: Apache-2.0 */
#include "core/streams.h"

#include "core/names.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define LOST_AFTER (2 * EV_SEC)
#define CHECK_EVERY EV_SEC
#define TRIES 4
#define ASK_MS 5000
#define SUBJECTS_MAX 32

/* ---- Streams this bus made --------------------------------------------------------------------------------------- */

/* bus->mutex is held. NULL: it did not make that one. */
static struct ev_text *made_find(evbus *bus, const char *stream)
{
    struct ev_text *t = ev_bus_text(bus, stream, strlen(stream));

    return t && t->made ? t : NULL;
}

static void made_note(evbus *bus, const char *stream)
{
    (void)ev_bus_intern(bus, stream, strlen(stream));
    pthread_mutex_lock(&bus->mutex);
    struct ev_text *t = ev_bus_text(bus, stream, strlen(stream));
    if (t) {
        t->made = true;
        t->missed_at = 0;
    }
    pthread_mutex_unlock(&bus->mutex);
}

enum lost { NEVER_KNOWN, WAIT_AND_SEE, MAKE_AGAIN, NOT_OURS };

/* The broker has no stream for a topic. Was there one, and is it ours to make again? */
static enum lost judge_missing(evbus *bus, struct ev_topic *topic)
{
    const char *known = ev_load_acquire(&topic->stream);
    enum lost verdict = NOT_OURS;

    if (!known)
        return NEVER_KNOWN;
    const int64_t now = ev_now(bus);
    pthread_mutex_lock(&bus->mutex);
    struct ev_text *m = made_find(bus, known);
    if (m && m->missed_at == 0)
        m->missed_at = now;
    if (m)
        verdict = now - m->missed_at >= LOST_AFTER ? MAKE_AGAIN : WAIT_AND_SEE;
    pthread_mutex_unlock(&bus->mutex);
    return verdict;
}

static void seen_again(evbus *bus, const char *stream)
{
    pthread_mutex_lock(&bus->mutex);
    struct ev_text *m = made_find(bus, stream);
    if (m)
        m->missed_at = 0;
    pthread_mutex_unlock(&bus->mutex);
}

/* ---- Making a stream --------------------------------------------------------------------------------------------- */

static void cfg_from(struct ev_stream_cfg *cfg, const char *name, const evbus_topic_opts *o)
{
    *cfg = (struct ev_stream_cfg){
        .max_age_ns = o->max_age_ms * UINT64_C(1000000),
        .max_bytes = o->max_bytes,
        .max_msgs = o->max_msgs,
        .duplicate_window_ns = o->duplicate_window_ms * UINT64_C(1000000),
        .storage = (evbus_storage)o->storage,
        .discard = (evbus_discard)o->discard,
        .replicas = o->replicas,
    };
    if (cfg->duplicate_window_ns > cfg->max_age_ns)
        cfg->duplicate_window_ns = cfg->max_age_ns; /* the broker's own rule */
    (void)ev_copy(cfg->name, sizeof cfg->name, name);
}

static evbus_status create(evbus *bus, const char *name, const char *const *subjects, uint32_t count,
                           const evbus_topic_opts *o, const char *topic, int64_t deadline)
{
    struct ev_stream_cfg cfg;

    cfg_from(&cfg, name, o);
    cfg.subjects = subjects;
    cfg.subject_count = count;
    evbus_status st = bus->ops->stream_create(bus->state, &cfg, deadline);
    if (st != EVBUS_OK)
        return st;
    made_note(bus, name);
    ev_add_relaxed(&bus->n.streams_created, 1); /* statistic */
    ev_event(bus, EVBUS_EVENT_STREAM_CREATED, EVBUS_OK, 0, topic, "", "", name);
    return EVBUS_OK;
}

/* The default stream's subjects, split; false if none covers the topic. */
static bool default_subjects(const evbus *bus, const char *topic, char *text, size_t cap, const char *subjects[],
                             uint32_t *ret_count)
{
    bool covers = false;
    char *save = NULL;

    *ret_count = 0;
    if (!bus->cfg.o.stream || !ev_copy(text, cap, bus->cfg.o.stream_subjects))
        return false;
    for (char *s = strtok_r(text, ", ", &save); s && *ret_count < SUBJECTS_MAX; s = strtok_r(NULL, ", ", &save)) {
        subjects[(*ret_count)++] = s;
        covers = covers || ev_subject_covers(s, topic);
    }
    return covers;
}

/* A stream of that name with the topic in it: made, or widened when it is there already. */
static evbus_status make(evbus *bus, const char *name, const char *const *subjects, uint32_t count, const char *topic,
                         const evbus_topic_opts *o, int64_t deadline)
{
    struct ev_stream_info info;
    evbus_status st = bus->ops->stream_info(bus->state, name, topic, &info, deadline);

    if (st == EVBUS_NOT_FOUND)
        return create(bus, name, subjects, count, o, topic, deadline);
    if (st != EVBUS_OK || info.covers)
        return st;
    return bus->ops->stream_add(bus->state, name, topic, deadline);
}

/* ---- The rule ---------------------------------------------------------------------------------------------------- */

static evbus_status make_by_rule(evbus *bus, const char *topic, const evbus_topic_opts *o, int64_t deadline,
                                 char ret[EV_NAME_MAX])
{
    const char *subjects[SUBJECTS_MAX];
    const bool letters = strncmp(topic, EV_DLQ_PREFIX, strlen(EV_DLQ_PREFIX)) == 0;
    char text[2048];
    uint32_t count;

    if (!o->stream && letters) {
        (void)ev_copy(ret, EV_NAME_MAX, EV_DLQ_STREAM);
        subjects[0] = EV_DLQ_PREFIX ">";
        return make(bus, ret, subjects, 1, topic, o, deadline);
    }
    if (!o->stream && default_subjects(bus, topic, text, sizeof text, subjects, &count)) {
        (void)ev_copy(ret, EV_NAME_MAX, bus->cfg.o.stream);
        return make(bus, ret, subjects, count, topic, o, deadline);
    }
    if (o->stream)
        (void)ev_copy(ret, EV_NAME_MAX, o->stream);
    else
        ev_stream_name(ret, topic);
    subjects[0] = topic;
    return make(bus, ret, subjects, 1, topic, o, deadline);
}

static void compare(evbus *bus, struct ev_topic *topic, const evbus_topic_opts *o, const struct ev_stream_info *info)
{
    const char *field = NULL;
    struct ev_stream_cfg want;

    if (!ev_load_relaxed(&topic->configured)) /* statistic */
        return;
    cfg_from(&want, info->name, o);
    if (want.max_age_ns != info->max_age_ns)
        field = "max_age_ms";
    else if (want.max_bytes != info->max_bytes)
        field = "max_bytes";
    else if (want.max_msgs != info->max_msgs)
        field = "max_msgs";
    else if (want.storage != info->storage)
        field = "storage";
    else if (want.discard != info->discard)
        field = "discard";
    else if (want.replicas != info->replicas)
        field = "replicas";
    else if (want.duplicate_window_ns != info->duplicate_window_ns)
        field = "duplicate_window_ms";
    if (!field)
        return;
    char text[EV_NAME_MAX + 80];
    (void)snprintf(text, sizeof text, "stream %s exists with another %s; it is used as it is", info->name, field);
    ev_event(bus, EVBUS_EVENT_STREAM_DIFFERS, EVBUS_MISMATCH, 0, topic->name, "", "", text);
}

static evbus_status look_up(evbus *bus, struct ev_topic *topic, const evbus_topic_opts *o, int64_t deadline,
                            struct ev_stream_info *info)
{
    if (!o->stream)
        return bus->ops->stream_covering(bus->state, topic->name, info, deadline);
    evbus_status st = bus->ops->stream_info(bus->state, o->stream, topic->name, info, deadline);
    if (st == EVBUS_OK && !info->covers)
        st = bus->ops->stream_add(bus->state, o->stream, topic->name, deadline);
    return st;
}

static evbus_status missing(evbus *bus, struct ev_topic *topic)
{
    const char *known = ev_load_acquire(&topic->stream);

    switch (judge_missing(bus, topic)) {
    case NEVER_KNOWN:
        return EVBUS_OK;
    case MAKE_AGAIN:
        ev_add_relaxed(&bus->n.streams_lost, 1); /* statistic */
        ev_event(bus, EVBUS_EVENT_LOST_STREAM, EVBUS_NOT_FOUND, 0, topic->name, "", "", known);
        return EVBUS_OK;
    case WAIT_AND_SEE:
        return ev_fail(EVBUS_NOT_FOUND, "topic '%s': stream %s is gone; it is made again if it stays away for 2 s",
                       topic->name, known);
    case NOT_OURS:
        break;
    }
    return ev_fail(EVBUS_NOT_FOUND, "topic '%s': stream %s is gone, and this bus did not make it: create it again",
                   topic->name, known);
}

static evbus_status resolve(evbus *bus, struct ev_topic *topic, const evbus_topic_opts *o, int64_t deadline,
                            char ret[EV_NAME_MAX])
{
    evbus_status st = EVBUS_TIMEOUT;

    /* A second process may make, widen or delete streams between our steps: look again. */
    for (int i = 0; i < TRIES; i++) {
        struct ev_stream_info info;
        st = look_up(bus, topic, o, deadline, &info);
        if (st == EVBUS_OK) {
            compare(bus, topic, o, &info);
            (void)ev_copy(ret, EV_NAME_MAX, info.name);
            seen_again(bus, ret);
            return EVBUS_OK;
        }
        if (st == EVBUS_EXISTS) /* covered by now, by this stream or by another */
            continue;
        if (st != EVBUS_NOT_FOUND)
            return st;
        if ((st = missing(bus, topic)) != EVBUS_OK)
            return st;
        st = make_by_rule(bus, topic->name, o, deadline, ret);
        if (st != EVBUS_EXISTS && st != EVBUS_NOT_FOUND)
            return st;
    }
    if (st == EVBUS_EXISTS)
        return ev_fail_prefix(EVBUS_MISMATCH, "topic '%s' is stored by another stream than configured", topic->name);
    return st;
}

/* ---- Ensuring, for publishers ------------------------------------------------------------------------------------ */

/* Without memory for it the status must do. */
static void remember_text(evbus *bus, struct ev_topic *topic)
{
    char *text = ev_strdup(ev_detail());

    pthread_mutex_lock(&bus->mutex);
    char *old = topic->failed_text;
    topic->failed_text = text;
    pthread_mutex_unlock(&bus->mutex);
    ev_free(old);
}

static evbus_status remember(evbus *bus, struct ev_topic *topic, evbus_status st, const char *stream)
{
    const uint32_t fell_back = ev_load_relaxed(&topic->fallback); /* statistic */

    if (st == EVBUS_NOMEM) /* says nothing about the stream */
        return st;
    if (st != EVBUS_OK) {
        remember_text(bus, topic);
        ev_store_relaxed(&topic->failed_status, st); /* published by retry_at */
        ev_store_release(&topic->retry_at, ev_deadline(ev_now(bus), bus->cfg.o.lookup_retry_ms));
        return st;
    }
    const char *name = ev_bus_intern(bus, stream, strlen(stream));
    if (!name)
        return ev_fail(EVBUS_NOMEM, "out of memory for the name of a stream");
    ev_store_relaxed(&topic->failed_status, EVBUS_OK); /* published by T7 */
    ev_store_release(&topic->stream, name);
    ev_store_release(&topic->stream_state, EV_STREAM_THERE); /* T7 */
    if (fell_back) {
        ev_store_relaxed(&topic->fallback, 0); /* statistic */
        ev_event(bus, EVBUS_EVENT_FALLBACK_ENDED, EVBUS_OK, 0, topic->name, "", "", name);
    }
    return EVBUS_OK;
}

static evbus_status find_stream(struct ev_topic *topic, const evbus_topic_opts *cfg, int64_t deadline)
{
    evbus *bus = topic->bus;
    evbus_status st = EVBUS_OK;
    char stream[EV_NAME_MAX];

    if (EV_BUG(EV_BUG_FLIGHT_OFF))
        return (st = resolve(bus, topic, cfg, deadline, stream)) == EVBUS_OK ? remember(bus, topic, st, stream) : st;
    switch (ev_flight_join(&topic->flight, bus->clock, deadline, &st)) {
    case EV_FLIGHT_TIMEOUT:
        return ev_fail(EVBUS_TIMEOUT, "topic '%s': its stream was not found or made in time", topic->name);
    case EV_FLIGHT_DONE:
        return st;
    case EV_FLIGHT_LEAD:
        break;
    }
    if (ev_load_acquire(&topic->stream_state) !=
        EV_STREAM_THERE) { /* the flight before ours may have landed just now */
        st = resolve(bus, topic, cfg, deadline, stream);
        st = remember(bus, topic, st, stream);
    }
    ev_flight_land(&topic->flight, st, ev_detail());
    return st;
}

static bool may_fall_back(const evbus_topic_opts *cfg, bool envelope, evbus_status st)
{
    const bool no_link = st == EVBUS_DISCONNECTED || st == EVBUS_TIMEOUT; /* nothing was learnt about the stream */

    return !envelope && cfg->fallback != EVBUS_OFF && !no_link;
}

static void fall_back(evbus *bus, struct ev_topic *topic, evbus_status st)
{
    ev_store_release(&topic->stream_state, EV_STREAM_NONE);
    if (ev_load_relaxed(&topic->fallback)) /* statistic */
        return;
    ev_store_relaxed(&topic->fallback, 1); /* statistic */
    ev_event(bus, EVBUS_EVENT_FALLBACK, st, 0, topic->name, "", "", ev_detail());
}

/* The answer of a failed look-up, while it counts; EVBUS_OK: there is none. */
static evbus_status remembered(const evbus *bus, const struct ev_topic *topic)
{
    if (ev_now(bus) >= ev_load_acquire(&topic->retry_at))
        return EVBUS_OK;
    return (evbus_status)ev_load_relaxed(&topic->failed_status); /* published by retry_at */
}

static void tell_again(evbus *bus, const struct ev_topic *topic, evbus_status st)
{
    pthread_mutex_lock(&bus->mutex);
    (void)ev_fail(st, "topic '%s': its stream could not be found or made a moment ago: %s", topic->name,
                  topic->failed_text && *topic->failed_text ? topic->failed_text : evbus_strerror(st));
    pthread_mutex_unlock(&bus->mutex);
}

evbus_status ev_streams_ensure(struct ev_topic *topic, const evbus_topic_opts *cfg, bool envelope, int64_t deadline,
                               bool *ret_stored)
{
    evbus *bus = topic->bus;
    evbus_status st;

    *ret_stored = false;
    if (cfg->persistence == EVBUS_EPHEMERAL)
        return envelope
                   ? ev_fail(EVBUS_INVALID, "topic '%s' is ephemeral: an envelope would not be stored", topic->name)
                   : EVBUS_OK;
    const uint32_t state = ev_load_acquire(&topic->stream_state); /* T8 */
    if (state == EV_STREAM_THERE) {
        *ret_stored = true;
        return EVBUS_OK;
    }
    st = remembered(bus, topic);
    if (st == EVBUS_OK)
        st = find_stream(topic, cfg, deadline);
    else if (!may_fall_back(cfg, envelope, st) || !ev_load_relaxed(&topic->fallback)) /* hint: else it was said then */
        tell_again(bus, topic, st);
    if (st == EVBUS_OK) {
        *ret_stored = true;
        return EVBUS_OK;
    }
    if (!may_fall_back(cfg, envelope, st))
        return st;
    fall_back(bus, topic, st);
    return EVBUS_OK;
}

/* ---- Asking, for applications ------------------------------------------------------------------------------------ */

evbus_status evbus_topic_stream(evbus *bus, const char *name, uint32_t timeout_ms, evbus_stream_info *ret)
{
    evbus_status st = ev_bus_check(bus);
    struct ev_topic *topic;
    struct ev_stream_info info;
    evbus_topic_opts cfg;
    bool stored;

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_topic_stream: ret is NULL");
    if ((st = ev_topic_get(bus, name, false, &topic)) != EVBUS_OK)
        return st;
    const int64_t deadline = ev_deadline(ev_now(bus), timeout_ms ? timeout_ms : ASK_MS);
    ev_topic_read(topic, &cfg);
    if ((st = ev_streams_ensure(topic, &cfg, true, deadline, &stored)) != EVBUS_OK)
        return st;
    st = bus->ops->stream_info(bus->state, ev_load_acquire(&topic->stream), topic->name, &info, deadline);
    if (st != EVBUS_OK)
        return st;
    *ret = (evbus_stream_info){
        .struct_size = sizeof *ret,
        .max_age_ms = info.max_age_ns / EV_MS,
        .max_bytes = info.max_bytes,
        .max_msgs = info.max_msgs,
        .duplicate_window_ms = info.duplicate_window_ns / EV_MS,
        .messages = info.msgs,
        .bytes = info.bytes,
        .first_sequence = info.first_seq,
        .last_sequence = info.last_seq,
    };
    (void)ev_copy(ret->name, sizeof ret->name, info.name);
    return EVBUS_OK;
}

/* ---- Subscribing ------------------------------------------------------------------------------------------------- */

evbus_status ev_streams_for_sub(struct ev_topic *topic, int64_t deadline, char ret[EV_NAME_MAX])
{
    evbus *bus = topic->bus;
    evbus_topic_opts cfg;
    bool stored;

    ev_topic_read(topic, &cfg);
    if (!ev_topic_is_pattern(topic->name)) {
        evbus_status st = ev_streams_ensure(topic, &cfg, true, deadline, &stored);
        if (st == EVBUS_OK)
            (void)ev_copy(ret, EV_NAME_MAX, ev_load_acquire(&topic->stream));
        return st;
    }
    struct ev_stream_info info;
    evbus_status st = bus->ops->stream_covering(bus->state, topic->name, &info, deadline);
    const char *subjects[SUBJECTS_MAX];
    char text[2048];
    uint32_t count;
    if (st == EVBUS_NOT_FOUND && default_subjects(bus, topic->name, text, sizeof text, subjects, &count)) {
        (void)ev_copy(ret, EV_NAME_MAX, bus->cfg.o.stream);
        return make(bus, ret, subjects, count, topic->name, &cfg, deadline);
    }
    if (st == EVBUS_NOT_FOUND)
        return ev_fail(st,
                       "no stream covers the pattern '%s': publish to or configure its topics first, or name a "
                       "default stream (evbus_opts.stream)",
                       topic->name);
    if (st == EVBUS_OK)
        (void)ev_copy(ret, EV_NAME_MAX, info.name);
    return st;
}

/* ---- Repair ------------------------------------------------------------------------------------------------------ */

static void check(evbus *bus, struct ev_chore *chore)
{
    struct ev_topic *topic = (struct ev_topic *)((char *)chore - offsetof(struct ev_topic, chore));
    evbus_topic_opts cfg;
    bool stored = false;

    ev_topic_read(topic, &cfg);
    ev_store_relaxed(&topic->retry_at, 0); /* hint: this is the retry */
    evbus_status st = ev_streams_ensure(topic, &cfg, true, ev_now(bus) + 2 * EV_SEC, &stored);
    if (st != EVBUS_OK && ev_load_relaxed(&topic->retry_at) == 0) /* hint: refused before anybody was asked */
        (void)remember(bus, topic, st, NULL);
    if (st != EVBUS_OK && ev_load_relaxed(&topic->gate) == EV_GATE_CLOSED) /* hint */
        ev_keeper_post(bus, chore, ev_now(bus) + CHECK_EVERY);
    else
        ev_store_release(&topic->checking, false);
}

void ev_streams_check_later(evbus *bus, struct ev_topic *topic)
{
    if (ev_load_acquire(&topic->checking))
        return;
    ev_store_release(&topic->checking, true);
    topic->chore.run = check;
    ev_keeper_post(bus, &topic->chore, ev_now(bus));
}
