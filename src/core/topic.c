/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include "core/names.h"

#include <string.h>

#define FIRST_SLOTS EV_SIZE(64, 4)
#define INTERNED_MAX 262144

static const evbus_topic_opts defaults = {
    .struct_size = sizeof(evbus_topic_opts),
    .max_age_ms = UINT64_C(7) * 24 * 3600 * 1000,
    .max_bytes = UINT64_C(1) << 30,
    .persistence = EVBUS_PERSIST_AUTO,
    .storage = EVBUS_STORAGE_FILE,
    .discard = EVBUS_DISCARD_OLD,
    .replicas = 1,
    .duplicate_window_ms = 120000,
    .msg_id = EVBUS_ON,
    .fallback = EVBUS_ON,
};

static struct ev_topic_table *table_new(uint64_t slots)
{
    struct ev_topic_table *t = ev_calloc(1, sizeof *t + slots * sizeof t->slots[0]);

    if (t)
        t->mask = slots - 1;
    return t;
}

evbus_status ev_topics_init(evbus *bus)
{
    struct ev_topic_table *t = table_new(FIRST_SLOTS);

    if (!t)
        return ev_fail(EVBUS_NOMEM, "out of memory for the topic table");
    bus->topics.seed = ev_random();
    ev_store_release(&bus->topics.table, t);
    return EVBUS_OK;
}

static void topic_free(struct ev_topic *topic)
{
    const evbus_topic_opts *cfg = ev_load_relaxed(&topic->cfg); /* nothing else runs */

    if (cfg != &defaults)
        ev_free((void *)cfg);
    ev_free(topic->failed_text);
    ev_free(topic);
}

void ev_topics_fini(evbus *bus)
{
    struct ev_topic_table *t = ev_load_relaxed(&bus->topics.table); /* nothing else runs */

    for (uint64_t i = 0; t && i <= t->mask; i++) {
        struct ev_topic *topic = ev_load_relaxed(&t->slots[i].topic); /* nothing else runs */
        if (topic)
            topic_free(topic);
    }
    while (t) {
        struct ev_topic_table *older = t->older;
        ev_free(t);
        t = older;
    }
    for (uint32_t b = 0; b < EV_TEXT_BUCKETS; b++) {
        while (bus->topics.texts[b]) {
            struct ev_text *next = bus->topics.texts[b]->next;
            ev_free(bus->topics.texts[b]);
            bus->topics.texts[b] = next;
        }
    }
}

static struct ev_topic *find(const evbus *bus, const char *name, size_t len, uint64_t hash)
{
    const struct ev_topic_table *t = ev_load_acquire(&bus->topics.table); /* T4 */

    for (uint64_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        struct ev_topic *topic = ev_load_acquire(&t->slots[i].topic); /* T2 */
        if (!topic)
            return NULL;
        if (ev_load_relaxed(&t->slots[i].hash) != hash) /* written before T1 */
            continue;
        if (topic->len == len && memcmp(topic->name, name, len) == 0)
            return topic;
    }
}

struct ev_topic *ev_topic_find(const evbus *bus, const char *name, size_t len)
{
    return find(bus, name, len, ev_hash(name, len, bus->topics.seed));
}

static void insert(struct ev_topic_table *t, struct ev_topic *topic)
{
    uint64_t i = topic->hash & t->mask;

    while (ev_load_relaxed(&t->slots[i].topic)) /* own field: only writers insert, and the mutex is held */
        i = (i + 1) & t->mask;
    ev_store_relaxed(&t->slots[i].hash, topic->hash); /* published by T1 */
    ev_store_release(&t->slots[i].topic, topic);      /* T1 */
}

/* Half full: a table of twice the size; the old one stays for readers that are inside. Mutex held. */
static evbus_status grow(evbus *bus)
{
    struct ev_topic_table *old = ev_load_relaxed(&bus->topics.table); /* own field under the mutex */
    struct ev_topic_table *t = table_new((old->mask + 1) * 2);

    if (!t)
        return ev_fail(EVBUS_NOMEM, "out of memory for the topic table");
    if (EV_BUG(EV_BUG_TOPIC_EARLY_TABLE))
        ev_store_release(&bus->topics.table, t);
    for (uint64_t i = 0; i <= old->mask; i++) {
        struct ev_topic *topic = ev_load_relaxed(&old->slots[i].topic); /* own field under the mutex */
        if (topic)
            insert(t, topic);
    }
    t->older = old;
    ev_store_release(&bus->topics.table, t); /* T3 */
    return EVBUS_OK;
}

static struct ev_topic *topic_new(evbus *bus, const char *name, size_t len, uint64_t hash)
{
    struct ev_topic *topic = ev_calloc(1, sizeof *topic + len + 1);

    if (!topic)
        return NULL;
    topic->hash = hash;
    topic->bus = bus;
    topic->len = (uint16_t)len;
    memcpy(topic->name, name, len);
    ev_store_relaxed(&topic->cfg, &defaults); /* published by T1 */
    ev_flight_init(&topic->flight, &bus->flights);
    return topic;
}

/* Mutex held. */
static evbus_status add(evbus *bus, const char *name, size_t len, uint64_t hash, struct ev_topic **ret)
{
    const uint32_t count = ev_load_relaxed(&bus->topics.count); /* own field under the mutex */

    const struct ev_topic_table *t = ev_load_relaxed(&bus->topics.table); /* own field under the mutex */
    if ((uint64_t)count * 2 > t->mask && grow(bus) != EVBUS_OK)
        return EVBUS_NOMEM;
    struct ev_topic *topic = topic_new(bus, name, len, hash);
    if (!topic)
        return ev_fail(EVBUS_NOMEM, "out of memory for topic '%.80s'", name);
    if (EV_BUG(EV_BUG_TOPIC_INCOMPLETE))
        ev_store_relaxed(&topic->cfg, NULL);
    insert(ev_load_relaxed(&bus->topics.table), topic); /* own field under the mutex */
    if (EV_BUG(EV_BUG_TOPIC_INCOMPLETE))
        ev_store_relaxed(&topic->cfg, &defaults);
    ev_store_relaxed(&bus->topics.count, count + 1); /* statistic */
    *ret = topic;
    return EVBUS_OK;
}

/* Mutex held. */
static evbus_status may_add(const evbus *bus, const char *name)
{
    const uint32_t named = ev_load_relaxed(&bus->topics.count) - bus->topics.own; /* own field under the mutex */

    if (named < bus->cfg.o.topics_max)
        return EVBUS_OK;
    return ev_fail(EVBUS_LIMIT, "topic '%.80s': the bus has %u topics already (option topics_max)", name, named);
}

evbus_status ev_topic_get_own(evbus *bus, const char *name, struct ev_topic **ret)
{
    const size_t len = strlen(name);
    const uint64_t hash = ev_hash(name, len, bus->topics.seed);
    evbus_status st = EVBUS_OK;

    pthread_mutex_lock(&bus->mutex);
    *ret = find(bus, name, len, hash);
    if (!*ret && (st = add(bus, name, len, hash, ret)) == EVBUS_OK)
        bus->topics.own++;
    pthread_mutex_unlock(&bus->mutex);
    return st;
}

evbus_status ev_topic_get(evbus *bus, const char *name, bool pattern, struct ev_topic **ret)
{
    if (name) {
        const size_t known = strnlen(name, EV_TOPIC_MAX + 1);
        struct ev_topic *topic = ev_topic_find(bus, name, known);
        if (topic && (pattern || !ev_topic_is_pattern(name))) {
            *ret = topic;
            return EVBUS_OK;
        }
    }
    size_t len = 0;
    evbus_status st = ev_topic_check(name, pattern, &len);
    if (st != EVBUS_OK)
        return st;
    const uint64_t hash = ev_hash(name, len, bus->topics.seed);
    pthread_mutex_lock(&bus->mutex);
    *ret = EV_BUG(EV_BUG_TOPIC_NO_SECOND_LOOK) ? NULL : find(bus, name, len, hash);
    if (!*ret && (st = may_add(bus, name)) == EVBUS_OK)
        st = add(bus, name, len, hash, ret);
    pthread_mutex_unlock(&bus->mutex);
    return st;
}

static struct ev_text **bucket_of(evbus *bus, const char *text, size_t len)
{
    return &bus->topics.texts[ev_hash(text, len, bus->topics.seed) % EV_TEXT_BUCKETS];
}

struct ev_text *ev_bus_text(evbus *bus, const char *text, size_t len)
{
    struct ev_text *t = *bucket_of(bus, text, len);

    while (t && (t->len != len || memcmp(t->text, text, len) != 0))
        t = t->next;
    return t;
}

const char *ev_bus_intern(evbus *bus, const char *text, size_t len)
{
    struct ev_text **bucket = bucket_of(bus, text, len);

    pthread_mutex_lock(&bus->mutex);
    struct ev_text *t = ev_bus_text(bus, text, len);
    if (!t && bus->topics.interned < INTERNED_MAX) {
        t = ev_calloc(1, sizeof *t + len + 1);
        if (t) {
            t->len = (uint32_t)len;
            memcpy(t->text, text, len);
            t->text[len] = 0;
            t->next = *bucket;
            *bucket = t;
            bus->topics.interned++;
        }
    }
    pthread_mutex_unlock(&bus->mutex);
    return t ? t->text : NULL;
}

void ev_topic_read(struct ev_topic *topic, evbus_topic_opts *ret)
{
    ev_epoch_enter();
    const evbus_topic_opts *cfg = ev_load_seqcst(&topic->cfg); /* T6 */
    EV_READS(cfg);
    *ret = *cfg;
    ev_epoch_leave();
}

/* ---- Public: configuration --------------------------------------------------------------------------------------- */

static evbus_status enum_check(const char *field, uint32_t value, uint32_t last)
{
    if (value <= last)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "evbus_topic_opts.%s: %u is none of its values (0..%u)", field, value, last);
}

static evbus_status check(const evbus_topic_opts *o)
{
    evbus_status st;
    size_t len;

    if ((st = enum_check("persistence", o->persistence, EVBUS_EPHEMERAL)) != EVBUS_OK ||
        (st = enum_check("storage", o->storage, EVBUS_STORAGE_MEMORY)) != EVBUS_OK ||
        (st = enum_check("discard", o->discard, EVBUS_DISCARD_NEW)) != EVBUS_OK ||
        (st = enum_check("msg_id", o->msg_id, EVBUS_OFF)) != EVBUS_OK ||
        (st = enum_check("fallback", o->fallback, EVBUS_OFF)) != EVBUS_OK ||
        (st = enum_check("outage", o->outage, EVBUS_OUTAGE_HOLD)) != EVBUS_OK)
        return st;
    if (o->rate_per_s > 1000000 || (o->rate_burst && !o->rate_per_s))
        return ev_fail(EVBUS_INVALID, "evbus_topic_opts.rate_per_s: %u is above 1000000, or 0 with a rate_burst",
                       o->rate_per_s);
    if (o->outage != EVBUS_OUTAGE_HOLD && (o->outage_bytes_max || o->outage_msgs_max || o->outage_hold_ms))
        return ev_fail(EVBUS_INVALID,
                       "evbus_topic_opts.outage_bytes_max, outage_msgs_max, outage_hold_ms are for EVBUS_OUTAGE_HOLD");
    if (o->outage_hold_ms == EVBUS_NOWAIT)
        return ev_fail(EVBUS_INVALID, "evbus_topic_opts.outage_hold_ms: EVBUS_NOWAIT is EVBUS_OUTAGE_FAIL");
    if (o->replicas > 5)
        return ev_fail(EVBUS_INVALID, "evbus_topic_opts.replicas: %u is outside 1..5", o->replicas);
    if (!o->stream)
        return EVBUS_OK;
    len = strlen(o->stream);
    if (len == 0 || len >= EV_NAME_MAX || strpbrk(o->stream, ". *>/\\\t\r\n"))
        return ev_fail(EVBUS_INVALID, "evbus_topic_opts.stream '%.80s': 1..255 bytes without space . * > / and \\",
                       o->stream);
    return EVBUS_OK;
}

static void fill_defaults(const evbus *bus, evbus_topic_opts *o)
{
    if (o->outage == EVBUS_OUTAGE_HOLD) {
        o->outage_bytes_max = o->outage_bytes_max ? o->outage_bytes_max : bus->cfg.o.publish_bytes_max / 2;
        o->outage_msgs_max = o->outage_msgs_max ? o->outage_msgs_max : bus->cfg.o.publish_inflight_max / 2;
        o->outage_hold_ms = o->outage_hold_ms ? o->outage_hold_ms : bus->cfg.o.publish_timeout_ms;
    }
#define FILL(field) o->field = o->field ? o->field : defaults.field
    FILL(max_age_ms);
    FILL(max_bytes);
    FILL(persistence);
    FILL(storage);
    FILL(discard);
    FILL(replicas);
    FILL(duplicate_window_ms);
    FILL(msg_id);
    FILL(fallback);
#undef FILL
}

evbus_status evbus_topic_configure(evbus *bus, const char *name, const evbus_topic_opts *opts)
{
    struct ev_topic *topic = NULL;
    evbus_topic_opts o;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_topic_opts")) != EVBUS_OK ||
        (st = check(&o)) != EVBUS_OK || (st = ev_topic_get(bus, name, false, &topic)) != EVBUS_OK)
        return st;
    fill_defaults(bus, &o);
    evbus_topic_opts *fresh = ev_malloc(sizeof *fresh);
    if (o.stream)
        o.stream = ev_bus_intern(bus, o.stream, strlen(o.stream));
    if (!fresh || (opts && opts->stream && !o.stream)) {
        ev_free(fresh);
        return ev_fail(EVBUS_NOMEM, "out of memory for the configuration of '%.80s'", name);
    }
    *fresh = o;
    pthread_mutex_lock(&bus->mutex);
    const evbus_topic_opts *old = ev_swap_seqcst(&topic->cfg, (const evbus_topic_opts *)fresh); /* T5 */
    ev_store_relaxed(&topic->configured, true);                /* statistic: read for NOT_FOUND only */
    ev_store_release(&topic->stream_state, EV_STREAM_UNKNOWN); /* look again: the rule may name another stream */
    ev_store_relaxed(&topic->retry_at, 0);                     /* hint */
    if (EV_BUG(EV_BUG_TOPIC_FREES_AT_ONCE) && old != &defaults)
        ev_free((void *)old);
    else if (old != &defaults)
        ev_limbo_retire(&bus->limbo, (void *)old, ev_free);
    pthread_mutex_unlock(&bus->mutex);
    return EVBUS_OK;
}

evbus_status evbus_topic_config(evbus *bus, const char *name, evbus_topic_opts *ret_opts)
{
    size_t len = 0;
    evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret_opts)
        return ev_fail(EVBUS_INVALID, "evbus_topic_config: ret_opts is NULL");
    if ((st = ev_topic_check(name, false, &len)) != EVBUS_OK)
        return st;
    struct ev_topic *topic = ev_topic_find(bus, name, len);
    if (!topic || !ev_load_relaxed(&topic->configured)) { /* statistic */
        *ret_opts = defaults;
        return ev_fail(EVBUS_NOT_FOUND, "topic '%.80s' was never configured", name);
    }
    ev_topic_read(topic, ret_opts);
    return EVBUS_OK;
}
