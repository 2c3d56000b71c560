/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include <stddef.h>
#include <stdio.h>

#define QUEUE_MAX 1024

struct ev_event_entry {
    struct ev_event_entry *next;
    const struct ev_listener *to; /* NULL: on_event */
    evbus_event e;
    char topic[256], group[72], aggregate_id[264], text[400];
};

static const struct {
    const char *name;
    evbus_log_level level;
} kinds[EV_EVENT_KINDS] = {
    [EVBUS_EVENT_CONNECTED] = {"connected", EVBUS_LOG_INFO},
    [EVBUS_EVENT_DISCONNECTED] = {"disconnected", EVBUS_LOG_WARN},
    [EVBUS_EVENT_AUTH_FAILED] = {"authentication failed", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_LAME_DUCK] = {"lame duck", EVBUS_LOG_WARN},
    [EVBUS_EVENT_STREAM_CREATED] = {"stream created", EVBUS_LOG_INFO},
    [EVBUS_EVENT_LOST_STREAM] = {"stream lost", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_STREAM_DIFFERS] = {"stream differs", EVBUS_LOG_WARN},
    [EVBUS_EVENT_FALLBACK] = {"fallback to core NATS", EVBUS_LOG_WARN},
    [EVBUS_EVENT_FALLBACK_ENDED] = {"fallback ended", EVBUS_LOG_INFO},
    [EVBUS_EVENT_GATE_CLOSED] = {"gate closed", EVBUS_LOG_WARN},
    [EVBUS_EVENT_GATE_OPEN] = {"gate open", EVBUS_LOG_INFO},
    [EVBUS_EVENT_DEAD_LETTER] = {"dead letter", EVBUS_LOG_WARN},
    [EVBUS_EVENT_DEAD_LETTER_FAILED] = {"dead letter failed", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_STALLED] = {"stalled", EVBUS_LOG_WARN},
    [EVBUS_EVENT_RESUMED] = {"resumed", EVBUS_LOG_INFO},
    [EVBUS_EVENT_HANDLER_OVERDUE] = {"handler overdue", EVBUS_LOG_WARN},
    [EVBUS_EVENT_CONSUMER_LOST] = {"consumer lost", EVBUS_LOG_WARN},
    [EVBUS_EVENT_FOREIGN_MEMBER] = {"foreign member", EVBUS_LOG_WARN},
    [EVBUS_EVENT_OVERTAKEN] = {"overtaken by retention", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_NEAR_LIMIT] = {"near a limit", EVBUS_LOG_WARN},
    [EVBUS_EVENT_GIVEN_UP] = {"given up", EVBUS_LOG_WARN},
    [EVBUS_EVENT_RECEIPTS_UNTAKEN] = {"receipts untaken", EVBUS_LOG_WARN},
    [EVBUS_EVENT_RECEIPTS_SLOW] = {"receipts slow", EVBUS_LOG_WARN},
    [EVBUS_EVENT_STANDBY] = {"standby", EVBUS_LOG_INFO},
    [EVBUS_EVENT_ACTIVE] = {"active", EVBUS_LOG_INFO},
    [EVBUS_EVENT_HEALTH_FAILING] = {"health messages fail", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_HEALTH_SENDING] = {"health messages are sent", EVBUS_LOG_INFO},
    [EVBUS_EVENT_HEALTH_WARNING] = {"health messages missed", EVBUS_LOG_WARN},
    [EVBUS_EVENT_HEALTH_ERROR] = {"health messages missed", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_HEALTH_CRITICAL] = {"health messages missed", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_HEALTH_RECOVERED] = {"health messages come", EVBUS_LOG_INFO},
    [EVBUS_EVENT_BACKLOG_HIGH] = {"backlog high", EVBUS_LOG_WARN},
    [EVBUS_EVENT_BACKLOG_NORMAL] = {"backlog normal", EVBUS_LOG_INFO},
    [EVBUS_EVENT_UNHANDLED] = {"messages acknowledged unhandled", EVBUS_LOG_WARN},
    [EVBUS_EVENT_LEADER_CHANGED] = {"leader changed", EVBUS_LOG_INFO},
    [EVBUS_EVENT_STUCK] = {"stuck", EVBUS_LOG_WARN},
    [EVBUS_EVENT_RECONNECTING] = {"reconnecting", EVBUS_LOG_DEBUG}, /* what failed has a line of its own */
    [EVBUS_EVENT_RECONNECT_FAILING] = {"reconnecting fails", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_RECONNECT_GIVEN_UP] = {"reconnecting given up", EVBUS_LOG_ERROR},
    [EVBUS_EVENT_PARKED] = {"parked", EVBUS_LOG_WARN},
    [EVBUS_EVENT_RELEASED] = {"released", EVBUS_LOG_INFO},
    [EVBUS_EVENT_BREAKER_OPEN] = {"breaker open", EVBUS_LOG_WARN},
    [EVBUS_EVENT_BREAKER_CLOSED] = {"breaker closed", EVBUS_LOG_INFO},
};

static struct ev_event_entry *take(evbus *bus)
{
    struct ev_events *ev = &bus->events;

    pthread_mutex_lock(&ev->mutex);
    struct ev_event_entry *entry = ev->head;
    if (entry) {
        ev->head = entry->next;
        ev->count--;
        if (!ev->head)
            ev->tail = NULL;
    } else {
        ev->posted = false;
    }
    const bool waited_for = ev->telling != NULL;
    ev->telling = entry ? entry->to : NULL;
    pthread_mutex_unlock(&ev->mutex);
    if (waited_for)
        ev_bus_changed(bus);
    return entry;
}

static void tell_application(struct ev_job *job)
{
    evbus *bus = (evbus *)((char *)job - offsetof(evbus, events.job));
    struct ev_event_entry *entry;

    while ((entry = take(bus)) != NULL) {
        ev_callback_enter(bus, NULL);
        if (entry->to)
            entry->to->fn(&entry->e, entry->to->ctx);
        else
            bus->cfg.o.on_event(&entry->e, bus->cfg.o.on_event_ctx);
        ev_callback_leave();
        ev_free(entry);
    }
}

static void make_runnable(evbus *bus, struct ev_command *command)
{
    (void)command;
    ev_loop_runnable(bus, &bus->events.job);
}

evbus_status ev_events_init(evbus *bus)
{
    pthread_mutex_init(&bus->events.mutex, NULL);
    bus->events.job.run = tell_application;
    bus->events.wanted.run = make_runnable;
    return EVBUS_OK;
}

void ev_events_fini(evbus *bus)
{
    while (bus->events.head) {
        struct ev_event_entry *next = bus->events.head->next;
        ev_free(bus->events.head);
        bus->events.head = next;
    }
    pthread_mutex_destroy(&bus->events.mutex);
}

static struct ev_event_entry *entry_new(evbus_event_kind kind, evbus_status status, uint64_t count, const char *topic,
                                        const char *group, const char *aggregate_id, const char *text)
{
    struct ev_event_entry *entry = ev_calloc(1, sizeof *entry);

    if (!entry)
        return NULL;
    (void)ev_copy(entry->topic, sizeof entry->topic, topic);
    (void)ev_copy(entry->group, sizeof entry->group, group);
    (void)ev_copy(entry->aggregate_id, sizeof entry->aggregate_id, aggregate_id);
    (void)ev_copy(entry->text, sizeof entry->text, text);
    entry->e = (evbus_event){
        .kind = kind,
        .status = status,
        .count = count,
        .topic = entry->topic,
        .group = entry->group,
        .aggregate_id = entry->aggregate_id,
        .text = entry->text,
    };
    return entry;
}

static void enqueue(evbus *bus, struct ev_event_entry *entry)
{
    struct ev_events *ev = &bus->events;
    bool post = false, dropped = false;

    pthread_mutex_lock(&ev->mutex);
    if (!entry || ev->count >= QUEUE_MAX) {
        dropped = true;
    } else {
        if (ev->tail)
            ev->tail->next = entry;
        else
            ev->head = entry;
        ev->tail = entry;
        ev->count++;
        post = !ev->posted;
        ev->posted = true;
    }
    pthread_mutex_unlock(&ev->mutex);
    if (dropped) {
        ev_add_relaxed(&bus->n.events_dropped, 1); /* statistic */
        ev_free(entry);
    }
    if (post)
        ev_loop_post(bus, &ev->wanted);
}

void ev_event(evbus *bus, evbus_event_kind kind, evbus_status status, uint64_t count, const char *topic,
              const char *group, const char *aggregate_id, const char *text)
{
    topic = topic ? topic : "";
    group = group ? group : "";
    aggregate_id = aggregate_id ? aggregate_id : "";
    text = text ? text : "";
    char where[640];
    (void)snprintf(where, sizeof where, "%s%s%s%s%s%s%s", *topic ? "topic " : "", topic, *group ? " group " : "", group,
                   *aggregate_id ? " aggregate " : "", aggregate_id, *topic || *group || *aggregate_id ? ": " : "");
    ev_add_relaxed(&bus->events.told[kind], 1); /* statistic */
    ev_log(&bus->log, kinds[kind].level, kinds[kind].name, "%s%s", where, text);
    if (bus->cfg.o.on_event)
        enqueue(bus, entry_new(kind, status, count, topic, group, aggregate_id, text));
}

uint64_t evbus_event_count(const evbus *bus, evbus_event_kind kind)
{
    if (ev_bus_check_alive(bus) != EVBUS_OK || (uint32_t)kind >= EV_EVENT_KINDS)
        return 0;
    return ev_load_relaxed(&bus->events.told[kind]); /* statistic */
}

void ev_event_to(evbus *bus, const struct ev_listener *listener, evbus_event_kind kind, evbus_status status,
                 uint64_t count, const char *topic, const char *group, const char *text)
{
    ev_event(bus, kind, status, count, topic, group, NULL, text);
    if (!listener->fn)
        return;
    struct ev_event_entry *entry = entry_new(kind, status, count, topic, group, "", text);
    if (entry)
        entry->to = listener;
    enqueue(bus, entry);
}

struct forgotten {
    evbus *bus;
    const struct ev_listener *listener;
};

static bool is_quiet(void *arg)
{
    const struct forgotten *f = arg;
    struct ev_events *ev = &f->bus->events;

    pthread_mutex_lock(&ev->mutex);
    const bool quiet = ev->telling != f->listener;
    pthread_mutex_unlock(&ev->mutex);
    return quiet;
}

void ev_events_forget(evbus *bus, const struct ev_listener *listener)
{
    struct ev_events *ev = &bus->events;
    struct forgotten f = {bus, listener};
    struct ev_event_entry *gone = NULL, *last = NULL;

    pthread_mutex_lock(&ev->mutex);
    for (struct ev_event_entry **link = &ev->head; *link;) {
        struct ev_event_entry *entry = *link;
        if (entry->to != listener) {
            last = entry;
            link = &entry->next;
            continue;
        }
        *link = entry->next;
        entry->next = gone;
        gone = entry;
        ev->count--;
    }
    ev->tail = last;
    pthread_mutex_unlock(&ev->mutex);
    while (gone) {
        struct ev_event_entry *next = gone->next;
        ev_free(gone);
        gone = next;
    }
    if (!ev_in_callback(bus))
        (void)ev_bus_await(bus, is_quiet, &f, EV_NEVER);
}

void ev_log_some(evbus *bus, evbus_log_level level, const char *subject, const char *fmt, ...)
{
    struct ev_events *ev = &bus->events;
    const int64_t now = ev_now(bus);
    char text[512];
    va_list args;

    if (!bus->log.fn)
        return;
    pthread_mutex_lock(&ev->mutex);
    const bool quiet = ev->last_log_ns != 0 && now - ev->last_log_ns < EV_SEC;
    const uint64_t left_out = ev->suppressed;
    if (quiet) {
        ev->suppressed++;
    } else {
        ev->last_log_ns = now;
        ev->suppressed = 0;
    }
    pthread_mutex_unlock(&ev->mutex);
    if (quiet)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (left_out)
        ev_log(&bus->log, level, subject, "%s (and %llu more like it before)", text, (unsigned long long)left_out);
    else
        ev_log(&bus->log, level, subject, "%s", text);
}
