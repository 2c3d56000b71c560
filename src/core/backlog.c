/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"
#include "core/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SIDES (EVBUS_BACKLOG_SUBSCRIBER | EVBUS_BACKLOG_PUBLISHER)
#define SHORTEST_MS 10
#define TIMEOUT_MS 5000
#define ASK (2 * EV_SEC) /* for one question of the housekeeping thread, which has other things to do */

/* ---- Judging ----------------------------------------------------------------------------------------------------- */

/* Rates since the last look; `done` counts up for ever but may restart with a new consumer. */
static void measure(struct ev_backlog_entry *e, const evbus_backlog *before, uint64_t done, int64_t now)
{
    const double seconds = e->at ? (double)(now - e->at) / 1e9 : 0;
    evbus_backlog *b = &e->found;

    b->measured = seconds > 0;
    b->rate = b->measured && done >= e->done ? (double)(done - e->done) / seconds : 0;
    b->trend = b->measured ? ((double)b->msgs - (double)before->msgs) / seconds : 0;
    b->drain_ms = b->msgs == 0 ? 0 : UINT64_MAX;
    if (b->msgs > 0 && b->trend < 0)
        b->drain_ms = (uint64_t)((double)b->msgs / -b->trend * 1000);
    e->done = done;
    e->at = now;
}

/* Between low and high it stays what it is. */
static bool judge(bool was, bool any_high, bool all_low)
{
    return any_high || (was && !all_low);
}

static void tell(evbus *bus, const struct ev_backlog_side *side, const struct ev_backlog_entry *e, bool was)
{
    const evbus_backlog *b = &e->found;
    char text[300];

    if (b->high == was)
        return;
    if (e->topic)
        (void)snprintf(text, sizeof text,
                       "%" PRIu64 " messages wait, the oldest for %" PRIu64 " ms; %.1f/s are settled", b->msgs,
                       b->oldest_ms, b->rate);
    else
        (void)snprintf(text, sizeof text,
                       "%" PRIu64 " publishes wait for their outcome, which takes %.1f ms; %.1f/s have it", b->msgs,
                       b->latency_ms, b->rate);
    ev_event_to(bus, &side->monitor.listener, b->high ? EVBUS_EVENT_BACKLOG_HIGH : EVBUS_EVENT_BACKLOG_NORMAL, EVBUS_OK,
                b->msgs, e->topic, e->group, text);
}

/* ---- Finding them ------------------------------------------------------------------------------------------------ */

static uint32_t hash_of(const char *topic, const char *group)
{
    return (uint32_t)(ev_fnv1a(topic, strlen(topic)) + 31 * ev_fnv1a(group, strlen(group)));
}

/* Room for so many. False: no memory. */
static bool found_init(struct ev_backlog_found *f, uint32_t count)
{
    uint32_t places = 2;

    while (places < 2 * count)
        places *= 2;
    *f = (struct ev_backlog_found){.mask = places - 1};
    f->entries = ev_calloc(1, count * sizeof *f->entries + places * sizeof *f->places);
    f->places = f->entries ? (uint32_t *)(void *)(f->entries + count) : NULL;
    return f->entries;
}

/* The last of the entries, complete. */
static void put_last(struct ev_backlog_found *f)
{
    const struct ev_backlog_entry *e = &f->entries[f->count - 1];
    uint32_t at = hash_of(e->topic, e->group);

    while (f->places[at & f->mask])
        at++;
    f->places[at & f->mask] = f->count;
}

/* The next one from *at on, which begins as the hash; NULL: there is none any more. Under the bus's mutex. */
static struct ev_backlog_entry *next_of(struct ev_backlog_side *side, const char *topic, const char *group,
                                        uint32_t *at)
{
    const struct ev_backlog_found *f = &side->last;

    while (f->places && f->places[*at & f->mask]) {
        struct ev_backlog_entry *e = &f->entries[f->places[(*at)++ & f->mask] - 1];
        side->compared++;
        if (strcmp(e->topic, topic) == 0 && strcmp(e->group, group) == 0)
            return e;
    }
    return NULL;
}

/* ---- The subscribers' side --------------------------------------------------------------------------------------- */

/* What was known of it; topic and group name the consumer. */
static void recall(struct ev_backlog_side *side, const struct evbus_sub *s, const char *stream,
                   struct ev_backlog_entry *ret)
{
    uint32_t at = hash_of(s->topic->name, s->group);
    const struct ev_backlog_entry *e;

    while ((e = next_of(side, s->topic->name, s->group, &at)) && strcmp(e->stream, stream) != 0)
        ;
    if (e)
        *ret = *e;
}

/* Our durables now, with what was known of them. None: there are none, or no memory. */
static struct ev_backlog_found snapshot(evbus *bus, struct ev_backlog_side *side)
{
    struct ev_backlog_found f = {.entries = NULL};
    uint32_t n = 0;

    pthread_mutex_lock(&bus->mutex);
    for (const struct evbus_sub *s = bus->subs; s; s = s->next)
        n++;
    const bool any = n > 0 && found_init(&f, n);
    for (const struct evbus_sub *s = bus->subs; s && any; s = s->next) {
        const char *stream = ev_load_acquire(&s->stream);
        if (!stream || s->o.fanout)
            continue;
        struct ev_backlog_entry *e = &f.entries[f.count++];
        recall(side, s, stream, e);
        (void)ev_copy(e->stream, sizeof e->stream, stream);
        ev_sub_consumer_name(s, e->consumer);
        (void)ev_copy(e->group, sizeof e->group, s->group);
        e->topic = s->topic->name;
        put_last(&f);
    }
    pthread_mutex_unlock(&bus->mutex);
    return f;
}

/* When the oldest unsettled message of a consumer was stored; 0: there is none, or it cannot be had. */
static int64_t oldest_of(evbus *bus, const struct ev_consumer_state *s, int64_t deadline)
{
    struct ev_stored stored;

    if (s->pending + s->ack_pending == 0 || bus->ops->msg_get(bus->state, s->stream, *s->filter ? s->filter : ">",
                                                              s->floor_seq + 1, &stored, deadline) != EVBUS_OK)
        return 0;
    ev_free(stored.memory);
    return stored.stored_ns;
}

static uint64_t age_ms(const evbus *bus, int64_t stored_ns)
{
    const int64_t age = stored_ns ? ev_clock_wall(bus->clock) - stored_ns : 0;

    return age > 0 ? (uint64_t)(age / EV_MS) : 0;
}

static void look_at_durable(evbus *bus, struct ev_backlog_entry *e)
{
    const evbus_backlog_opts *o = &bus->backlog.o[0];
    const evbus_backlog before = e->found;
    struct ev_consumer_state s;

    if (bus->ops->consumer_state(bus->state, e->stream, e->consumer, &s, ev_now(bus) + ASK) != EVBUS_OK) {
        ev_log_some(bus, EVBUS_LOG_WARN, "backlog", "topic '%s' group %s: %s", e->topic, e->group, ev_detail());
        return;
    }
    const uint64_t msgs = s.pending + s.ack_pending;
    e->found = (evbus_backlog){
        .struct_size = sizeof e->found,
        .msgs = msgs,
        .queued = s.pending,
        .oldest_ms = age_ms(bus, oldest_of(bus, &s, ev_now(bus) + ASK)),
        .looked_ns = ev_clock_wall(bus->clock),
    };
    measure(e, &before, s.delivered - s.ack_pending, ev_now(bus));
    e->found.high = judge(before.high, msgs >= o->msgs_high || e->found.oldest_ms >= o->age_high_ms,
                          msgs <= o->msgs_low && e->found.oldest_ms <= o->age_low_ms);
    tell(bus, &bus->backlog.subscriber, e, before.high);
}

static void replace(evbus *bus, struct ev_backlog_side *side, struct ev_backlog_found found)
{
    pthread_mutex_lock(&bus->mutex);
    struct ev_backlog_entry *old = side->last.entries;
    side->last = found;
    pthread_mutex_unlock(&bus->mutex);
    ev_free(old);
}

static void subscriber_chore(evbus *bus, struct ev_chore *chore)
{
    struct ev_backlog_side *side = (struct ev_backlog_side *)chore;

    if (!ev_monitor_begin(bus, &side->monitor))
        return;
    const int64_t began = ev_now(bus);
    const struct ev_backlog_found f = snapshot(bus, side);
    for (uint32_t i = 0; i < f.count && ev_link_is_up(bus); i++)
        look_at_durable(bus, &f.entries[i]);
    replace(bus, side, f);
    ev_monitor_end(bus, &side->monitor, ev_deadline(began, side->look_ms));
}

/* ---- The publishers' side ---------------------------------------------------------------------------------------- */

/* Several counters, each right, not all of the same moment: enough for a rate. */
static void look_at_publishes(evbus *bus, struct ev_backlog_side *side, struct ev_backlog_entry *e)
{
    const evbus_backlog_opts *o = &bus->backlog.o[1];
    const evbus_backlog before = e->found;
    const uint64_t sum = ev_load_relaxed(&bus->n.latency_ns),
                   n = ev_load_relaxed(&bus->n.latency_count); /* statistic */
    const uint64_t measured = n - side->latency_count;
    evbus_statistics s = {.struct_size = sizeof s};
    evbus_health_report r;

    if (evbus_stats(bus, &s) != EVBUS_OK || evbus_health(bus, 0, &r) != EVBUS_OK)
        return;
    e->found = (evbus_backlog){
        .struct_size = sizeof e->found,
        .msgs = s.publishes_inflight,
        .queued = r.publishes_held,
        .oldest_ms = r.publish_oldest_ms,
        .latency_ms = measured ? (double)(sum - side->latency_sum) / (double)measured / 1e6 : 0,
        .looked_ns = ev_clock_wall(bus->clock),
    };
    side->latency_sum = sum;
    side->latency_count = n;
    measure(e, &before, s.publishes_stored + s.publishes_refused + s.publishes_unknown + s.publishes_core, ev_now(bus));
    const double slow =
        e->found.latency_ms > (double)e->found.oldest_ms ? e->found.latency_ms : (double)e->found.oldest_ms;
    e->found.high = judge(before.high, e->found.msgs >= o->inflight_high || slow >= o->latency_high_ms,
                          e->found.msgs <= o->inflight_low && slow <= o->latency_low_ms);
    tell(bus, side, e, before.high);
}

static void publisher_chore(evbus *bus, struct ev_chore *chore)
{
    struct ev_backlog_side *side = (struct ev_backlog_side *)chore;

    if (!ev_monitor_begin(bus, &side->monitor))
        return;
    const int64_t began = ev_now(bus);
    struct ev_backlog_entry *e = ev_calloc(1, sizeof *e);
    if (e && side->last.count)
        *e = side->last.entries[0];
    if (e) {
        look_at_publishes(bus, side, e);
        replace(bus, side, (struct ev_backlog_found){.entries = e, .count = 1});
    }
    ev_monitor_end(bus, &side->monitor, ev_deadline(began, side->look_ms));
}

/* ---- Start and stop ---------------------------------------------------------------------------------------------- */

static evbus_status low_check(const char *field, uint64_t low, uint64_t high)
{
    if (low <= high)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "evbus_backlog_opts.%s: %" PRIu64 " is above its high mark (%" PRIu64 ")", field, low,
                   high);
}

static evbus_status fill(const evbus *bus, evbus_backlog_opts *o)
{
    evbus_status st;
    const uint32_t most = bus->cfg.o.publish_inflight_max;

#define FILL(field, value) o->field = o->field ? o->field : (value)
    FILL(msgs_high, 10000);
    FILL(msgs_low, o->msgs_high / 2);
    FILL(age_high_ms, 300000);
    FILL(age_low_ms, o->age_high_ms / 2);
    FILL(inflight_high, most - most / 5);
    FILL(inflight_low, o->inflight_high / 2);
    FILL(latency_high_ms, 1000);
    FILL(latency_low_ms, o->latency_high_ms / 2);
    FILL(subscriber_look_ms, 30000);
    FILL(publisher_look_ms, 10000);
#undef FILL
    if ((st = low_check("msgs_low", o->msgs_low, o->msgs_high)) != EVBUS_OK ||
        (st = low_check("age_low_ms", o->age_low_ms, o->age_high_ms)) != EVBUS_OK ||
        (st = low_check("inflight_low", o->inflight_low, o->inflight_high)) != EVBUS_OK ||
        (st = low_check("latency_low_ms", o->latency_low_ms, o->latency_high_ms)) != EVBUS_OK)
        return st;
    if (o->subscriber_look_ms < SHORTEST_MS || o->publisher_look_ms < SHORTEST_MS)
        return ev_fail(EVBUS_INVALID,
                       "evbus_backlog_opts.subscriber_look_ms, publisher_look_ms: %" PRIu32 ", %" PRIu32
                       " are not both at least %d",
                       o->subscriber_look_ms, o->publisher_look_ms, SHORTEST_MS);
    return EVBUS_OK;
}

static struct ev_backlog_side *side_of(evbus *bus, uint32_t i)
{
    return i == 0 ? &bus->backlog.subscriber : &bus->backlog.publisher;
}

static evbus_status sides_check(const char *call, uint32_t sides)
{
    if (sides && (sides & ~(uint32_t)SIDES) == 0)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "%s: sides 0x%" PRIx32 " are not EVBUS_BACKLOG_SUBSCRIBER, _PUBLISHER or both", call,
                   sides);
}

static evbus_status take(evbus *bus, uint32_t sides)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (!(sides & 1u << i) || ev_monitor_take(bus, &side_of(bus, i)->monitor))
            continue;
        for (uint32_t k = 0; k < i; k++)
            if (sides & 1u << k)
                ev_monitor_release(bus, &side_of(bus, k)->monitor);
        return ev_fail(EVBUS_EXISTS, "the backlog of %s is watched already", i == 0 ? "subscribers" : "publishers");
    }
    return EVBUS_OK;
}

evbus_status evbus_backlog_start(evbus *bus, uint32_t sides, const evbus_backlog_opts *opts)
{
    evbus_backlog_opts o;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = sides_check("evbus_backlog_start", sides)) != EVBUS_OK ||
        (st = ev_opts_read(&o, sizeof o, opts, "evbus_backlog_opts")) != EVBUS_OK || (st = fill(bus, &o)) != EVBUS_OK ||
        (st = take(bus, sides)) != EVBUS_OK)
        return st;
    for (uint32_t i = 0; i < 2; i++) {
        struct ev_backlog_side *side = side_of(bus, i);
        if (!(sides & 1u << i))
            continue;
        replace(bus, side, (struct ev_backlog_found){.entries = NULL});
        bus->backlog.o[i] = o;
        side->look_ms = i == 0 ? o.subscriber_look_ms : o.publisher_look_ms;
        side->latency_sum = ev_load_relaxed(&bus->n.latency_ns);      /* statistic */
        side->latency_count = ev_load_relaxed(&bus->n.latency_count); /* statistic */
        side->monitor.listener = (struct ev_listener){o.on_change, o.on_change_ctx};
        ev_monitor_start(bus, &side->monitor, i == 0 ? subscriber_chore : publisher_chore);
    }
    return EVBUS_OK;
}

evbus_status evbus_backlog_stop(evbus *bus, uint32_t sides)
{
    bool any = false;
    evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK || (st = sides_check("evbus_backlog_stop", sides)) != EVBUS_OK)
        return st;
    for (uint32_t i = 0; i < 2; i++)
        if (sides & 1u << i)
            any |= ev_monitor_stop(bus, &side_of(bus, i)->monitor);
    return any ? EVBUS_OK : ev_fail(EVBUS_NOT_FOUND, "no backlog of these sides is watched");
}

evbus_status evbus_backlog_read(evbus *bus, const char *topic, const char *group, evbus_backlog *ret)
{
    const evbus_status st = ev_bus_check_alive(bus);
    const struct ev_backlog_entry *e = NULL;

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_backlog_read: ret is NULL");
    struct ev_backlog_side *side = side_of(bus, topic ? 0 : 1);
    group = group ? group : bus->cfg.o.name;
    uint32_t at = topic ? hash_of(topic, group) : 0;
    pthread_mutex_lock(&bus->mutex);
    if (!topic)
        e = side->last.entries;
    else
        while ((e = next_of(side, topic, group, &at)) && !e->at)
            ;
    const bool found = side->monitor.on && e && e->at;
    if (found)
        *ret = e->found;
    pthread_mutex_unlock(&bus->mutex);
    return found ? EVBUS_OK
                 : ev_fail(EVBUS_NOT_FOUND, "the backlog of %s was not looked at", topic ? topic : "publishes");
}

void ev_backlog_fini(evbus *bus)
{
    ev_free(bus->backlog.subscriber.last.entries);
    ev_free(bus->backlog.publisher.last.entries);
}

/* ---- Everybody's consumers --------------------------------------------------------------------------------------- */

/* The group in the name of a durable of ours, which is injective: only the right one gives the same name. */
static void group_of(const struct ev_consumer_state *s, char out[72])
{
    char name[EV_NAME_MAX];

    for (const char *at = strchr(s->name, '-'); at; at = strchr(at + 1, '-')) {
        const size_t len = (size_t)(at - s->name);
        if (len == 0 || len >= 72 || !ev_copyn(out, 72, s->name, len))
            continue;
        (void)ev_durable_name(name, out, s->filter);
        if (strcmp(name, s->name) == 0)
            return;
    }
    out[0] = 0;
}

static bool visit(evbus *bus, const struct ev_consumer_state *s, const evbus_lag_opts *o, evbus_lag_fn fn, void *ctx)
{
    char group[72];
    evbus_lag lag = {
        .struct_size = sizeof lag,
        .stream = s->stream,
        .consumer = s->name,
        .topic = s->filter,
        .group = group,
        .pending = s->pending,
        .ack_pending = s->ack_pending,
        .redelivered = s->redelivered,
        .waiting = s->waiting,
        .durable = s->durable,
    };

    group_of(s, group);
    if ((o->group && strcmp(o->group, group) != 0) || (*s->filter && !ev_subjects_overlap(o->topic, s->filter)))
        return true;
    lag.oldest_ns = oldest_of(bus, s, ev_deadline(ev_now(bus), o->timeout_ms));
    lag.oldest_ms = age_ms(bus, lag.oldest_ns);
    return fn(&lag, ctx);
}

evbus_status evbus_lags(evbus *bus, const evbus_lag_opts *opts, evbus_lag_fn fn, void *ctx)
{
    struct ev_consumer_state *all = NULL;
    uint32_t count = 0;
    evbus_lag_opts o;
    size_t len;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_lag_opts")) != EVBUS_OK)
        return st;
    if (!fn)
        return ev_fail(EVBUS_INVALID, "evbus_lags: the callback is NULL");
    o.topic = o.topic ? o.topic : ">";
    o.timeout_ms = o.timeout_ms ? o.timeout_ms : TIMEOUT_MS;
    if ((st = ev_topic_check(o.topic, true, &len)) != EVBUS_OK)
        return ev_fail_prefix(st, "evbus_lag_opts.topic");
    st = bus->ops->consumers(bus->state, o.topic, &all, &count, ev_deadline(ev_now(bus), o.timeout_ms));
    for (uint32_t i = 0; st == EVBUS_OK && i < count; i++)
        if (!visit(bus, &all[i], &o, fn, ctx))
            break;
    ev_free(all);
    return st;
}

evbus_status evbus_account_read(evbus *bus, uint32_t timeout_ms, evbus_account *ret)
{
    struct ev_account a;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_account_read: ret is NULL");
    st = bus->ops->account(bus->state, &a, ev_deadline(ev_now(bus), timeout_ms ? timeout_ms : TIMEOUT_MS));
    if (st != EVBUS_OK)
        return st;
    *ret = (evbus_account){
        .struct_size = sizeof *ret,
        .streams = a.streams,
        .streams_max = a.streams_max,
        .consumers = a.consumers,
        .consumers_max = a.consumers_max,
        .memory_bytes = a.memory,
        .memory_bytes_max = a.memory_max,
        .storage_bytes = a.storage,
        .storage_bytes_max = a.storage_max,
    };
    return EVBUS_OK;
}
