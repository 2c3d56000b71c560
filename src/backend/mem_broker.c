/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_broker.h"

#include "base/bytes.h"
#include "base/ids.h"
#include "core/names.h"

#include <stdio.h>
#include <string.h>

#define PURGE_PER_PUBLISH 4u
#define BYTES_PER_ID 64u /* of mem_bytes_max; ids are bounded by it too, though not counted as bytes of streams */

/* ---- Life -------------------------------------------------------------------------------------------------------- */

void ev_mem_broker_init(struct ev_mem_broker *broker, uint64_t bytes_max, int64_t now, int64_t wall)
{
    *broker = (struct ev_mem_broker){.bytes_max = bytes_max, .now = now, .wall = wall, .seed = ev_random()};
    broker->ids_max = bytes_max / BYTES_PER_ID > 1024 ? bytes_max / BYTES_PER_ID : 1024;
    broker->ready.next = broker->ready.prev = &broker->ready;
    broker->links.next = broker->links.prev = &broker->links;
}

static void stream_free(struct ev_mem_stream *stream)
{
    for (struct ev_mem_subject *subject = stream->subjects, *next; subject; subject = next) {
        next = subject->next;
        ev_free(subject);
    }
    ev_free(stream);
}

void ev_mem_broker_fini(struct ev_mem_broker *broker)
{
    for (uint32_t i = 0; broker->streams.buckets && i <= broker->streams.mask; i++)
        while (broker->streams.buckets[i])
            (void)ev_mem_stream_delete(broker, ((struct ev_mem_stream *)(void *)broker->streams.buckets[i])->name);
    for (struct ev_mem_stream *stream = broker->graves, *next; stream; stream = next) {
        next = (struct ev_mem_stream *)(void *)stream->node.next;
        stream_free(stream);
    }
    for (struct ev_mem_window *window = broker->windows, *next; window; window = next) {
        next = window->next;
        ev_mem_window_free(window);
    }
    ev_mem_routes_fini(broker);
    ev_mem_table_fini(&broker->streams);
    ev_mem_table_fini(&broker->consumers);
    ev_mem_table_fini(&broker->literals);
    ev_mem_timers_fini(&broker->timers);
}

/* ---- Names ------------------------------------------------------------------------------------------------------- */

struct ev_mem_stream *ev_mem_stream_find(struct ev_mem_broker *broker, const char *name)
{
    const uint32_t hash = ev_mem_hash(broker, name, strlen(name));

    for (struct ev_mem_node *node = ev_mem_table_chain(&broker->streams, hash); node; node = node->next) {
        struct ev_mem_stream *stream = (struct ev_mem_stream *)(void *)node;
        if (node->hash == hash && strcmp(stream->name, name) == 0)
            return stream;
    }
    return NULL;
}

static evbus_status stream_get(struct ev_mem_broker *broker, const char *name, struct ev_mem_stream **ret)
{
    *ret = ev_mem_stream_find(broker, name);
    return *ret ? EVBUS_OK : ev_fail(EVBUS_NOT_FOUND, "stream '%s': not found", name);
}

/* ---- The log ----------------------------------------------------------------------------------------------------- */

/* Filtered consumers count what waits for them; the others compute it. */
static void tell_evicted(struct ev_mem_broker *broker, const struct ev_mem_block *block)
{
    const struct ev_mem_route *route =
        ev_mem_route_of(broker, ev_mem_topic(block), block->topic_len, block->topic_hash);

    for (uint32_t i = 0; route && i < route->consumers; i++)
        ev_mem_consumer_evicted(route->targets[i], block->seq);
}

static void evict_first(struct ev_mem_broker *broker, struct ev_mem_stream *stream)
{
    struct ev_mem_block *block = stream->head;
    const uint64_t size = ev_mem_size(block);

    if (stream->filtered > 0)
        tell_evicted(broker, block);
    stream->head = block->next;
    if (!stream->head)
        stream->tail = NULL;
    const uint64_t next = stream->head ? stream->head->seq : stream->last + 1;
    stream->holes -= next - stream->first - 1;
    stream->first = next;
    stream->bytes -= size;
    broker->bytes -= size;
    ev_mem_unref(block, broker->home);
}

static void append(struct ev_mem_broker *broker, struct ev_mem_stream *stream, struct ev_mem_block *block)
{
    const uint64_t size = ev_mem_size(block);

    block->next = NULL;
    block->seq = ++stream->last;
    block->stored_at = broker->now;
    block->wall_ns = broker->wall;
    if (stream->tail)
        stream->tail->next = block;
    else
        stream->head = block;
    stream->tail = block;
    stream->bytes += size;
    broker->bytes += size;
    if (stream->max_age_ns && stream->timer.place == 0)
        ev_mem_timers_set(&broker->timers, &stream->timer, ev_deadline_ns(broker->now, (int64_t)stream->max_age_ns));
}

/* Drops what the limits do not allow beside a message of `size`; only if the message can be stored then. */
static enum ev_mem_code make_room(struct ev_mem_broker *broker, struct ev_mem_stream *stream, uint64_t size)
{
    const uint64_t count = ev_mem_stream_count(stream);
    const struct ev_mem_block *block = stream->head;
    uint64_t drop = 0, freed = 0;

    if (stream->max_bytes && size > stream->max_bytes)
        return EV_MEM_OVER_STREAM;
    for (; block; block = block->next) {
        const bool over_msgs = stream->max_msgs && count - drop >= stream->max_msgs;
        const bool over_bytes = stream->max_bytes && stream->bytes - freed + size > stream->max_bytes;
        if (!over_msgs && !over_bytes)
            break;
        if (stream->discard == EVBUS_DISCARD_NEW)
            return over_msgs ? EV_MEM_MAX_MSGS : EV_MEM_MAX_BYTES;
        drop++;
        freed += ev_mem_size(block);
    }
    if (broker->bytes - freed + size > broker->bytes_max)
        return EV_MEM_FULL;
    while (drop-- > 0)
        evict_first(broker, stream);
    return EV_MEM_STORED;
}

/* ---- The duplicate window ---------------------------------------------------------------------------------------- */

static struct ev_mem_window *window_of(struct ev_mem_broker *broker, int64_t span)
{
    struct ev_mem_window *window;

    for (window = broker->windows; window; window = window->next)
        if (window->span == span)
            return window;
    if (!ev_mem_timers_reserve(&broker->timers))
        return NULL;
    window = ev_mem_window_new(span);
    if (!window) {
        broker->timers.users--;
        return NULL;
    }
    window->timer.kind = EV_MEM_WINDOW_TIMER;
    window->next = broker->windows;
    broker->windows = window;
    return window;
}

/* One window serves many streams: the stream becomes part of the check. An odd factor keeps streams apart. */
static uint32_t id_check(const struct ev_mem_stream *stream, uint32_t check)
{
    return check ^ (uint32_t)stream->id * 0x9e3779b1u;
}

static void remember(struct ev_mem_broker *broker, struct ev_mem_stream *stream, const struct ev_mem_publish *publish)
{
    struct ev_mem_window *window = stream->window;

    ev_mem_window_add(window, publish->id_hash, id_check(stream, publish->id_check), stream->last, broker->now);
    broker->ids++;
    if (window->timer.place == 0)
        ev_mem_timers_set(&broker->timers, &window->timer, ev_mem_window_due(window));
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

static void answer(struct ev_mem_link *link, const struct ev_mem_publish *publish, enum ev_mem_code code,
                   struct ev_mem_stream *stream, uint64_t seq, bool duplicate)
{
    if (!publish->want_ack || link->closed)
        return;
    struct ev_mem_item *item = ev_mem_ring_next(&link->results);
    item->kind = EV_MEM_ANSWER;
    item->flags = duplicate;
    item->number = (uint16_t)code;
    item->count = publish->slot;
    item->object = stream;
    item->value = seq;
    item->other = publish->generation;
    ev_mem_ring_commit(&link->results);
}

static enum ev_mem_code store(struct ev_mem_broker *broker, struct ev_mem_stream *stream,
                              const struct ev_mem_publish *publish)
{
    const bool with_id = publish->has_id && stream->window;

    if (with_id) {
        broker->ids -= ev_mem_window_purge(stream->window, broker->now, PURGE_PER_PUBLISH);
        if (broker->ids >= broker->ids_max)
            return EV_MEM_IDS_FULL;
    }
    const enum ev_mem_code code = make_room(broker, stream, ev_mem_size(publish->block));
    if (code != EV_MEM_STORED)
        return code;
    if (with_id && !ev_mem_window_reserve(stream->window))
        return EV_MEM_NO_MEMORY;
    append(broker, stream, publish->block);
    if (with_id)
        remember(broker, stream, publish);
    return EV_MEM_STORED;
}

void ev_mem_publish(struct ev_mem_broker *broker, struct ev_mem_link *link, const struct ev_mem_publish *publish)
{
    struct ev_mem_block *block = publish->block;
    ev_mem_routes_trim(broker);
    const struct ev_mem_route *route =
        ev_mem_route_of(broker, ev_mem_topic(block), block->topic_len, block->topic_hash);
    struct ev_mem_stream *stream = route ? route->stream : NULL;
    enum ev_mem_code code = route ? EV_MEM_NO_STREAM : EV_MEM_NO_MEMORY;
    const struct ev_mem_id *seen = NULL;

    for (uint32_t i = 0; route && i < route->groups; i++)
        ev_mem_group_deliver(broker, route->targets[route->consumers + i], block);
    if (stream) {
        if (publish->has_id && stream->window)
            seen =
                ev_mem_window_find(stream->window, publish->id_hash, id_check(stream, publish->id_check), broker->now);
        code = seen ? EV_MEM_STORED : store(broker, stream, publish);
    }
    const bool stored = stream && !seen && code == EV_MEM_STORED;
    answer(link, publish, code, stream, seen ? seen->seq : block->seq, seen != NULL);
    if (!stored) {
        ev_mem_unref(block, broker->home);
        return;
    }
    for (uint32_t i = 0; i < route->consumers; i++)
        ev_mem_consumer_appended(broker, route->targets[i], block);
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

static void stream_timer(struct ev_mem_broker *broker, struct ev_mem_stream *stream)
{
    const int64_t age = (int64_t)stream->max_age_ns;

    while (stream->head && ev_deadline_ns(stream->head->stored_at, age) <= broker->now)
        evict_first(broker, stream);
    if (stream->head)
        ev_mem_timers_set(&broker->timers, &stream->timer, ev_deadline_ns(stream->head->stored_at, age));
}

static void window_timer(struct ev_mem_broker *broker, struct ev_mem_window *window)
{
    broker->ids -= ev_mem_window_purge(window, broker->now, UINT32_MAX);
    if (window->count > 0)
        ev_mem_timers_set(&broker->timers, &window->timer, ev_mem_window_due(window));
}

void ev_mem_broker_advance(struct ev_mem_broker *broker, int64_t now, int64_t wall)
{
    struct ev_mem_timer *timer;

    if (now > broker->now) /* sessions read their clocks before they get here: one may be late */
        broker->now = now;
    if (wall > broker->wall)
        broker->wall = wall;
    while ((timer = ev_mem_timers_first(&broker->timers)) != NULL && timer->at <= broker->now) {
        char *at = (char *)timer;
        ev_mem_timers_clear(&broker->timers, timer);
        if (timer->kind == EV_MEM_STREAM_TIMER)
            stream_timer(broker, (void *)(at - offsetof(struct ev_mem_stream, timer)));
        else if (timer->kind == EV_MEM_WINDOW_TIMER)
            window_timer(broker, (void *)(at - offsetof(struct ev_mem_window, timer)));
        else
            ev_mem_consumer_timer(broker, timer);
    }
}

int64_t ev_mem_broker_due(const struct ev_mem_broker *broker)
{
    const struct ev_mem_timer *timer = ev_mem_timers_first(&broker->timers);

    return timer ? timer->at : EV_NEVER;
}

/* ---- Administration of streams ----------------------------------------------------------------------------------- */

static evbus_status name_check(const char *what, const char *name)
{
    const size_t len = strlen(name);

    if (len == 0 || len >= EV_NAME_MAX || strpbrk(name, " .*>/\\\t\r\n"))
        return ev_fail(EVBUS_INVALID, "%s name '%.80s': 1..255 bytes without space . * > / and \\", what, name);
    return EVBUS_OK;
}

static evbus_status subject_free(struct ev_mem_broker *broker, const char *subject)
{
    evbus_status st = ev_mem_subject_check(subject);

    if (st != EVBUS_OK)
        return st;
    const struct ev_mem_stream *other = ev_mem_stream_overlapping(broker, subject);
    if (other)
        return ev_fail(EVBUS_EXISTS, "subject '%s': subjects overlap with an existing stream ('%s')", subject,
                       other->name);
    return EVBUS_OK;
}

static evbus_status subject_add(struct ev_mem_broker *broker, struct ev_mem_stream *stream, const char *text)
{
    const size_t len = strlen(text);
    struct ev_mem_subject *subject = NULL;

    if (ev_mem_interest_reserve(broker))
        subject = ev_malloc(sizeof *subject + len + 1);
    if (!subject)
        return ev_fail(EVBUS_NOMEM, "stream '%s': out of memory", stream->name);
    memcpy(subject->text, text, len + 1);
    subject->stream = stream;
    subject->next = stream->subjects;
    stream->subjects = subject;
    ev_mem_interest_add(broker, &subject->interest, EV_MEM_BY_STREAM, subject->text);
    for (struct ev_mem_consumer *consumer = stream->all; consumer; consumer = consumer->next)
        ev_mem_consumer_recount(consumer);
    return EVBUS_OK;
}

static bool same_config(const struct ev_mem_stream *stream, const struct ev_stream_cfg *cfg)
{
    uint32_t subjects = 0;

    for (const struct ev_mem_subject *subject = stream->subjects; subject; subject = subject->next) {
        bool found = false;
        for (uint32_t i = 0; i < cfg->subject_count && !found; i++)
            found = strcmp(subject->text, cfg->subjects[i]) == 0;
        if (!found)
            return false;
        subjects++;
    }
    return subjects == cfg->subject_count && stream->max_age_ns == cfg->max_age_ns &&
           stream->max_bytes == cfg->max_bytes && stream->max_msgs == cfg->max_msgs &&
           stream->storage == cfg->storage && stream->discard == cfg->discard && stream->replicas == cfg->replicas &&
           (stream->window ? (uint64_t)stream->window->span : 0) == cfg->duplicate_window_ns;
}

static evbus_status stream_check(struct ev_mem_broker *broker, const struct ev_stream_cfg *cfg)
{
    evbus_status st = name_check("stream", cfg->name);

    if (st == EVBUS_OK && cfg->subject_count == 0)
        st = ev_fail(EVBUS_INVALID, "stream '%s': it needs a subject", cfg->name);
    for (uint32_t i = 0; st == EVBUS_OK && i < cfg->subject_count; i++) {
        st = subject_free(broker, cfg->subjects[i]);
        for (uint32_t j = 0; st == EVBUS_OK && j < i; j++)
            if (ev_subjects_overlap(cfg->subjects[i], cfg->subjects[j]))
                st = ev_fail(EVBUS_INVALID, "stream '%s': its subjects '%s' and '%s' overlap", cfg->name,
                             cfg->subjects[j], cfg->subjects[i]);
    }
    if (st == EVBUS_OK && (cfg->max_age_ns > INT64_MAX || cfg->duplicate_window_ns > INT64_MAX))
        st = ev_fail(EVBUS_INVALID, "stream '%s': max_age or duplicate window out of range", cfg->name);
    return st;
}

static struct ev_mem_stream *stream_new(struct ev_mem_broker *broker, const struct ev_stream_cfg *cfg)
{
    const size_t len = strlen(cfg->name);
    struct ev_mem_window *window = NULL;

    if (cfg->duplicate_window_ns && !(window = window_of(broker, (int64_t)cfg->duplicate_window_ns)))
        return NULL;
    if (!ev_mem_table_reserve(&broker->streams) || !ev_mem_timers_reserve(&broker->timers))
        return NULL;
    struct ev_mem_stream *stream = ev_calloc(1, sizeof *stream + len + 1);
    if (!stream) {
        broker->timers.users--;
        return NULL;
    }
    memcpy(stream->name, cfg->name, len + 1);
    stream->timer.kind = EV_MEM_STREAM_TIMER;
    stream->first = 1;
    stream->window = window;
    stream->max_age_ns = cfg->max_age_ns;
    stream->max_bytes = cfg->max_bytes;
    stream->max_msgs = cfg->max_msgs;
    stream->storage = (uint8_t)cfg->storage;
    stream->discard = (uint8_t)cfg->discard;
    stream->replicas = cfg->replicas;
    stream->id = ++broker->streams_made;
    stream->created_ns = broker->wall;
    ev_mem_table_add(&broker->streams, &stream->node, ev_mem_hash(broker, stream->name, len));
    return stream;
}

evbus_status ev_mem_stream_create(struct ev_mem_broker *broker, const struct ev_stream_cfg *cfg)
{
    struct ev_mem_stream *stream = ev_mem_stream_find(broker, cfg->name);

    if (stream && same_config(stream, cfg))
        return EVBUS_OK;
    if (stream)
        return ev_fail(EVBUS_EXISTS, "stream '%s': name already in use with a different configuration", cfg->name);
    evbus_status st = stream_check(broker, cfg);
    if (st != EVBUS_OK)
        return st;
    stream = stream_new(broker, cfg);
    if (!stream)
        return ev_fail(EVBUS_NOMEM, "stream '%s': out of memory", cfg->name);
    for (uint32_t i = 0; i < cfg->subject_count; i++) {
        st = subject_add(broker, stream, cfg->subjects[i]);
        if (st != EVBUS_OK) {
            (void)ev_mem_stream_delete(broker, cfg->name);
            return st;
        }
    }
    return EVBUS_OK;
}

evbus_status ev_mem_stream_add(struct ev_mem_broker *broker, const char *name, const char *subject)
{
    struct ev_mem_stream *stream;
    evbus_status st = stream_get(broker, name, &stream);

    if (st != EVBUS_OK)
        return st;
    if (ev_mem_subject_check(subject) == EVBUS_OK && ev_mem_stream_subject(stream, subject))
        return ev_fail(EVBUS_EXISTS, "stream '%s': it covers '%s' already", name, subject);
    st = subject_free(broker, subject);
    return st == EVBUS_OK ? subject_add(broker, stream, subject) : st;
}

static void info_fill(const struct ev_mem_stream *stream, const char *subject, struct ev_stream_info *ret)
{
    *ret = (struct ev_stream_info){
        .covers = subject && ev_mem_stream_subject(stream, subject) != NULL,
        .max_age_ns = stream->max_age_ns,
        .max_bytes = stream->max_bytes,
        .max_msgs = stream->max_msgs,
        .duplicate_window_ns = stream->window ? (uint64_t)stream->window->span : 0,
        .storage = stream->storage,
        .discard = stream->discard,
        .replicas = stream->replicas,
        .msgs = ev_mem_stream_count(stream),
        .bytes = stream->bytes,
        .first_seq = stream->first,
        .last_seq = stream->last,
    };
    (void)ev_copy(ret->name, sizeof ret->name, stream->name);
    (void)snprintf(ret->created, sizeof ret->created, "%lld/%llu", (long long)stream->created_ns,
                   (unsigned long long)stream->id);
}

evbus_status ev_mem_stream_info(struct ev_mem_broker *broker, const char *name, const char *subject,
                                struct ev_stream_info *ret)
{
    struct ev_mem_stream *stream;
    evbus_status st = stream_get(broker, name, &stream);

    if (st == EVBUS_OK)
        info_fill(stream, subject, ret);
    return st;
}

/* Subjects of streams do not overlap: the stream that overlaps is the only one that may cover. */
evbus_status ev_mem_stream_covering(struct ev_mem_broker *broker, const char *subject, struct ev_stream_info *ret)
{
    evbus_status st = ev_mem_subject_check(subject);

    if (st != EVBUS_OK)
        return st;
    const struct ev_mem_stream *stream = ev_mem_stream_overlapping(broker, subject);
    if (!stream || !ev_mem_stream_subject(stream, subject))
        return ev_fail(EVBUS_NOT_FOUND, "no stream covers '%s'", subject);
    info_fill(stream, subject, ret);
    return EVBUS_OK;
}

evbus_status ev_mem_stream_purge(struct ev_mem_broker *broker, const char *name)
{
    struct ev_mem_stream *stream;
    evbus_status st = stream_get(broker, name, &stream);

    while (st == EVBUS_OK && stream->head)
        evict_first(broker, stream);
    return st;
}

evbus_status ev_mem_stream_delete(struct ev_mem_broker *broker, const char *name)
{
    struct ev_mem_stream *stream;
    evbus_status st = stream_get(broker, name, &stream);

    if (st != EVBUS_OK)
        return st;
    while (stream->all)
        ev_mem_consumer_remove(broker, stream->all, EV_MEM_STREAM_GONE);
    while (stream->head)
        evict_first(broker, stream);
    for (struct ev_mem_subject *subject = stream->subjects; subject; subject = subject->next)
        ev_mem_interest_remove(broker, &subject->interest);
    ev_mem_timers_leave(&broker->timers, &stream->timer);
    ev_mem_table_remove(&broker->streams, &stream->node);
    stream->gone = true;
    stream->node.next = (struct ev_mem_node *)(void *)broker->graves;
    broker->graves = stream;
    return EVBUS_OK;
}
