/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The health messages we publish, and the watch over those of others: chores of the housekeeping thread. Both use an
 * ephemeral topic, so that they fill nobody's stream. What is told is told at its edge: once when it begins to fail,
 * when it gets worse, and when it is over.
 */
#include "core/message.h"
#include "core/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define INTERVAL_MS 120000
#define CHECK_MS_MAX 30000
#define SHORTEST_MS 10
#define TOO_OLD (300 * EV_SEC)

/* ---- The life of a monitor --------------------------------------------------------------------------------------- */

bool ev_monitor_take(evbus *bus, struct ev_monitor *m)
{
    pthread_mutex_lock(&bus->mutex);
    const bool taken = !m->on && !m->busy;
    if (taken)
        m->on = true;
    pthread_mutex_unlock(&bus->mutex);
    return taken;
}

void ev_monitor_release(evbus *bus, struct ev_monitor *m)
{
    pthread_mutex_lock(&bus->mutex);
    m->on = false;
    pthread_mutex_unlock(&bus->mutex);
}

void ev_monitor_start(evbus *bus, struct ev_monitor *m, void (*run)(evbus *bus, struct ev_chore *chore))
{
    m->chore.run = run;
    ev_keeper_post(bus, &m->chore, ev_now(bus));
}

void ev_monitor_hurry(evbus *bus, struct ev_monitor *m)
{
    pthread_mutex_lock(&bus->mutex);
    const bool wanted = m->on && !m->busy && m->chore.run;
    pthread_mutex_unlock(&bus->mutex);
    if (wanted)
        ev_keeper_post(bus, &m->chore, ev_now(bus));
}

bool ev_monitor_begin(evbus *bus, struct ev_monitor *m)
{
    pthread_mutex_lock(&bus->mutex);
    m->busy = m->on;
    const bool on = m->on;
    pthread_mutex_unlock(&bus->mutex);
    return on;
}

void ev_monitor_end(evbus *bus, struct ev_monitor *m, int64_t at)
{
    pthread_mutex_lock(&bus->mutex);
    m->busy = false;
    const bool on = m->on;
    pthread_mutex_unlock(&bus->mutex);
    if (on && ev_load_acquire(&bus->phase) == EV_RUNNING)
        ev_keeper_post(bus, &m->chore, at);
    ev_bus_changed(bus);
}

struct rest {
    evbus *bus;
    struct ev_monitor *monitor;
};

static bool rests(void *arg)
{
    const struct rest *r = arg;

    pthread_mutex_lock(&r->bus->mutex);
    const bool busy = r->monitor->busy;
    pthread_mutex_unlock(&r->bus->mutex);
    return !busy;
}

bool ev_monitor_stop(evbus *bus, struct ev_monitor *m)
{
    struct rest r = {bus, m};

    pthread_mutex_lock(&bus->mutex);
    const bool was_on = m->on;
    m->on = false;
    pthread_mutex_unlock(&bus->mutex);
    if (!was_on)
        return false;
    (void)ev_bus_await(bus, rests, &r, EV_NEVER);
    (void)ev_keeper_cancel(bus, &m->chore); /* after its last run: that may have posted it again */
    ev_events_forget(bus, &m->listener);
    return true;
}

/* ---- What both have ---------------------------------------------------------------------------------------------- */

static const char *type_of(const evbus *bus)
{
    const char *plus = strchr(bus->ops->scheme, '+'); /* fault+mem: what lies below */
    const char *scheme = plus ? plus + 1 : bus->ops->scheme;

    return strcmp(scheme, "mem") == 0 ? "memory" : scheme;
}

static evbus_status choose_topic(evbus *bus, const char *named, char out[256])
{
    const evbus_topic_opts ephemeral = {.struct_size = sizeof ephemeral, .persistence = EVBUS_EPHEMERAL};
    evbus_topic_opts have = {.struct_size = sizeof have};

    if (named && strlen(named) > EV_TOPIC_MAX)
        return ev_fail(EVBUS_INVALID, "the health topic is longer than %d bytes", EV_TOPIC_MAX);
    if (named)
        (void)ev_copy(out, 256, named);
    else
        (void)snprintf(out, 256, "jxt-core-%s-health-check", type_of(bus));
    const evbus_status st = evbus_topic_config(bus, out, &have);
    return st == EVBUS_NOT_FOUND ? evbus_topic_configure(bus, out, &ephemeral)
                                 : st; /* configured: as the user wants it */
}

static evbus_status choose_source(const char *what, const char *source, char out[EV_HEALTH_SOURCE_MAX])
{
    for (const char *p = source; *p; p++)
        if (*p < 32 || *p >= 127 || *p == '"' || *p == '\\')
            return ev_fail(EVBUS_INVALID, "%s: byte 0x%02x at position %zu is not printable ASCII without \" and \\",
                           what, (unsigned char)*p, (size_t)(p - source));
    if (!ev_copy(out, EV_HEALTH_SOURCE_MAX, source))
        return ev_fail(EVBUS_INVALID, "%s: longer than %d bytes", what, EV_HEALTH_SOURCE_MAX - 1);
    return EVBUS_OK;
}

static evbus_status at_least(const char *what, uint32_t ms)
{
    if (ms == 0 || ms >= SHORTEST_MS)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "%s: %" PRIu32 " is below %d", what, ms, SHORTEST_MS);
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

/* One message, and back comes one of our own behind it: the broker has worked both off. */
static evbus_status send(evbus *bus, const struct ev_health_sender *s)
{
    const int64_t deadline = ev_deadline(ev_now(bus), s->timeout_ms);
    const evbus_pub_opts at_once = {.struct_size = sizeof at_once, .timeout_ms = EVBUS_NOWAIT};
    char text[EV_HEALTH_TEXT_MAX];

    if (!ev_link_is_up(bus))
        return ev_fail(EVBUS_DISCONNECTED, "no connection to the broker");
    const size_t len = ev_health_put(text, s->source, type_of(bus), ev_clock_wall(bus->clock), s->started_s);
    const evbus_status st = evbus_publish(bus, s->topic, text, len, &at_once);
    return st == EVBUS_OK ? bus->ops->fence(bus->state, deadline) : st;
}

static void publish_chore(evbus *bus, struct ev_chore *chore)
{
    struct ev_health_sender *s = (struct ev_health_sender *)chore;
    evbus_health_publisher_status *r = &s->status;

    if (!ev_monitor_begin(bus, &s->monitor))
        return;
    const int64_t began = ev_now(bus);
    const evbus_status st = send(bus, s);
    const bool closing = st == EVBUS_CLOSED;
    pthread_mutex_lock(&bus->mutex);
    const bool was_healthy = r->healthy;
    if (!closing) {
        r->last_status = st;
        r->failures = st == EVBUS_OK ? 0 : r->failures + 1;
        *(st == EVBUS_OK ? &r->sent : &r->failed) += 1;
        *(st == EVBUS_OK ? &r->last_sent_ns : &r->last_failed_ns) = ev_clock_wall(bus->clock);
        if (st != EVBUS_OK)
            (void)ev_copy(r->last_error, sizeof r->last_error, ev_detail());
        r->healthy = r->failures < s->failures_max;
    }
    const bool healthy = r->healthy;
    const uint32_t failures = r->failures;
    pthread_mutex_unlock(&bus->mutex);
    if (was_healthy && !healthy)
        ev_event_to(bus, &s->monitor.listener, EVBUS_EVENT_HEALTH_FAILING, st, failures, s->topic, "", ev_detail());
    else if (!was_healthy && healthy)
        ev_event_to(bus, &s->monitor.listener, EVBUS_EVENT_HEALTH_SENDING, EVBUS_OK, 0, s->topic, "",
                    "health messages are published again");
    ev_monitor_end(bus, &s->monitor, ev_deadline(began, s->interval_ms));
}

static evbus_status fill_sender(evbus *bus, struct ev_health_sender *s, const evbus_health_publisher_opts *o)
{
    evbus_status st =
        choose_source("evbus_health_publisher_opts.source", o->source ? o->source : bus->cfg.o.name, s->source);

    if (st != EVBUS_OK || (st = choose_topic(bus, o->topic, s->topic)) != EVBUS_OK)
        return st;
    s->interval_ms = o->interval_ms ? o->interval_ms : INTERVAL_MS;
    s->timeout_ms = o->timeout_ms ? o->timeout_ms : 2000;
    s->failures_max = o->failures_max ? o->failures_max : 3;
    s->started_s = ev_clock_wall(bus->clock) / EV_SEC;
    s->monitor.listener = (struct ev_listener){o->on_change, o->on_change_ctx};
    s->status = (evbus_health_publisher_status){.running = true, .healthy = true};
    return EVBUS_OK;
}

static evbus_status give_up_start(evbus *bus, struct ev_monitor *m, evbus_status st)
{
    ev_monitor_release(bus, m);
    return st;
}

evbus_status evbus_health_publisher_start(evbus *bus, const evbus_health_publisher_opts *opts)
{
    evbus_health_publisher_opts o;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_health_publisher_opts")) != EVBUS_OK ||
        (st = at_least("evbus_health_publisher_opts.interval_ms", o.interval_ms)) != EVBUS_OK)
        return st;
    struct ev_health_sender *s = &bus->health.sender;
    if (!ev_monitor_take(bus, &s->monitor))
        return ev_fail(EVBUS_EXISTS, "the health publisher runs already");
    if ((st = fill_sender(bus, s, &o)) != EVBUS_OK)
        return give_up_start(bus, &s->monitor, st);
    ev_monitor_start(bus, &s->monitor, publish_chore);
    return EVBUS_OK;
}

evbus_status evbus_health_publisher_stop(evbus *bus)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ev_monitor_stop(bus, &bus->health.sender.monitor))
        return ev_fail(EVBUS_NOT_FOUND, "the health publisher does not run");
    return EVBUS_OK;
}

evbus_status evbus_health_publisher_read(evbus *bus, evbus_health_publisher_status *ret)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_health_publisher_read: ret is NULL");
    pthread_mutex_lock(&bus->mutex);
    *ret = bus->health.sender.status;
    ret->running = bus->health.sender.monitor.on;
    pthread_mutex_unlock(&bus->mutex);
    ret->struct_size = sizeof *ret;
    return EVBUS_OK;
}

/* ---- Watching ---------------------------------------------------------------------------------------------------- */

static evbus_verdict on_health_message(const evbus_msg *msg, void *ctx)
{
    evbus *bus = ctx;
    struct ev_health_watch *w = &bus->health.watch;
    const evbus_view body = evbus_msg_data(msg);
    const int64_t wall = ev_clock_wall(bus->clock);
    struct ev_health_message m;
    evbus_status st = ev_health_get(body.data, body.len, &m);

    if (st == EVBUS_OK && wall - m.time_ns > TOO_OLD)
        st =
            ev_fail(EVBUS_INVALID, "health message of '%s': it is older than 5 minutes, or a clock is wrong", m.source);
    pthread_mutex_lock(&bus->mutex);
    const bool ours = st == EVBUS_OK && (!w->source[0] || strcmp(w->source, m.source) == 0);
    const bool recovers = ours && w->stats.severity > 0;
    if (st != EVBUS_OK)
        w->stats.refused++;
    if (ours) {
        w->heard = ev_now(bus);
        w->stats.received++;
        w->stats.last_ns = wall;
        w->stats.misses = 0;
        w->stats.healthy = true;
        (void)ev_copy(w->stats.last_source, sizeof w->stats.last_source, m.source);
    }
    pthread_mutex_unlock(&bus->mutex);
    if (st != EVBUS_OK)
        ev_log_some(bus, EVBUS_LOG_WARN, "health", "%s", ev_detail());
    if (recovers)
        ev_monitor_hurry(bus, &w->monitor);
    return EVBUS_ACK;
}

static void tell(evbus *bus, struct ev_health_watch *w, uint32_t before, uint32_t now, uint32_t misses)
{
    static const evbus_event_kind kinds[] = {EVBUS_EVENT_HEALTH_RECOVERED, EVBUS_EVENT_HEALTH_WARNING,
                                             EVBUS_EVENT_HEALTH_ERROR, EVBUS_EVENT_HEALTH_CRITICAL};
    char text[300];

    if (now == before || (now < before && now > 0)) /* it gets better message by message: told when it is over */
        return;
    if (now == 0)
        (void)snprintf(text, sizeof text, "health messages%s%s come again", w->source[0] ? " of " : "", w->source);
    else
        (void)snprintf(text, sizeof text, "%" PRIu32 " health messages%s%s missed, expected every %" PRIu32 " ms",
                       misses, w->source[0] ? " of " : "", w->source, w->interval_ms);
    ev_event_to(bus, &w->monitor.listener, kinds[now], now ? EVBUS_TIMEOUT : EVBUS_OK, misses, w->topic, "", text);
}

static void watch_chore(evbus *bus, struct ev_chore *chore)
{
    struct ev_health_watch *w = (struct ev_health_watch *)chore;

    if (!ev_monitor_begin(bus, &w->monitor))
        return;
    const int64_t now = ev_now(bus);
    pthread_mutex_lock(&bus->mutex);
    const int64_t misses = (now - w->heard) / (w->interval_ms * EV_MS);
    const uint32_t before = w->stats.severity;
    uint32_t severity = 0;
    w->stats.misses = misses < 0 ? 0 : misses < UINT32_MAX ? (uint32_t)misses : UINT32_MAX;
    for (uint32_t i = 0; i < 3; i++)
        if (w->stats.misses >= w->misses[i])
            severity = i + 1;
    if (severity > 0)
        w->stats.healthy = false;
    w->stats.severity = severity;
    w->stats.recoveries += severity == 0 && before > 0;
    if (severity > before) {
        w->stats.alerts++;
        w->stats.last_alert_ns = ev_clock_wall(bus->clock);
    }
    const uint32_t missed = w->stats.misses;
    pthread_mutex_unlock(&bus->mutex);
    tell(bus, w, before, severity, missed);
    ev_monitor_end(bus, &w->monitor, ev_deadline(now, w->check_ms));
}

static evbus_status fill_watch(evbus *bus, struct ev_health_watch *w, const evbus_health_subscriber_opts *o)
{
    evbus_status st = choose_source("evbus_health_subscriber_opts.source", o->source ? o->source : "", w->source);

    w->interval_ms = o->interval_ms ? o->interval_ms : INTERVAL_MS;
    w->check_ms = o->check_ms ? o->check_ms : w->interval_ms / 4;
    if (!o->check_ms)
        w->check_ms = w->check_ms < SHORTEST_MS ? SHORTEST_MS : w->check_ms > CHECK_MS_MAX ? CHECK_MS_MAX : w->check_ms;
    w->misses[0] = o->warning_misses ? o->warning_misses : 3;
    w->misses[1] = o->error_misses ? o->error_misses : w->misses[0] > 5 ? w->misses[0] : 5;
    w->misses[2] = o->critical_misses ? o->critical_misses : w->misses[1] > 10 ? w->misses[1] : 10;
    if (st == EVBUS_OK && (w->misses[0] > w->misses[1] || w->misses[1] > w->misses[2]))
        st = ev_fail(EVBUS_INVALID,
                     "evbus_health_subscriber_opts.warning_misses, error_misses, critical_misses: %" PRIu32 ", %" PRIu32
                     ", %" PRIu32 " do not ascend",
                     w->misses[0], w->misses[1], w->misses[2]);
    if (st != EVBUS_OK || (st = choose_topic(bus, o->topic, w->topic)) != EVBUS_OK)
        return st;
    w->monitor.listener = (struct ev_listener){o->on_change, o->on_change_ctx};
    w->stats = (evbus_health_subscriber_stats){.started_ns = ev_clock_wall(bus->clock)};
    w->heard = ev_now(bus);
    return EVBUS_OK;
}

evbus_status evbus_health_subscriber_start(evbus *bus, const evbus_health_subscriber_opts *opts)
{
    const evbus_sub_opts fanout = {.struct_size = sizeof fanout, .fanout = true};
    evbus_health_subscriber_opts o;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_health_subscriber_opts")) != EVBUS_OK ||
        (st = at_least("evbus_health_subscriber_opts.interval_ms", o.interval_ms)) != EVBUS_OK ||
        (st = at_least("evbus_health_subscriber_opts.check_ms", o.check_ms)) != EVBUS_OK)
        return st;
    struct ev_health_watch *w = &bus->health.watch;
    if (!ev_monitor_take(bus, &w->monitor))
        return ev_fail(EVBUS_EXISTS, "the health subscriber runs already");
    evbus_sub *sub = NULL;
    if ((st = fill_watch(bus, w, &o)) != EVBUS_OK ||
        (st = evbus_subscribe(bus, w->topic, on_health_message, bus, &fanout, &sub)) != EVBUS_OK)
        return give_up_start(bus, &w->monitor, st);
    pthread_mutex_lock(&bus->mutex);
    w->sub = sub;
    pthread_mutex_unlock(&bus->mutex);
    ev_monitor_start(bus, &w->monitor, watch_chore);
    return EVBUS_OK;
}

evbus_status evbus_health_subscriber_stop(evbus *bus)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    struct ev_health_watch *w = &bus->health.watch;
    pthread_mutex_lock(&bus->mutex);
    evbus_sub *sub = w->sub; /* once it is off, somebody may start it again */
    pthread_mutex_unlock(&bus->mutex);
    if (!ev_monitor_stop(bus, &w->monitor))
        return ev_fail(EVBUS_NOT_FOUND, "the health subscriber does not run");
    return evbus_unsubscribe(sub);
}

evbus_status evbus_health_subscriber_read(evbus *bus, evbus_health_subscriber_stats *ret)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_health_subscriber_read: ret is NULL");
    pthread_mutex_lock(&bus->mutex);
    *ret = bus->health.watch.stats;
    ret->running = bus->health.watch.monitor.on;
    pthread_mutex_unlock(&bus->mutex);
    ret->struct_size = sizeof *ret;
    return EVBUS_OK;
}
