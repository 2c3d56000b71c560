/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include <inttypes.h>
#include <stdio.h>

static void note_cause(evbus *bus, evbus_status cause, const char *text) /* under mutex */
{
    bus->connect_status = cause;
    (void)ev_copy(bus->connect_text, sizeof bus->connect_text, text);
}

/* ---- What the backend tells -------------------------------------------------------------------------------------- */

void ev_reconnect_up(evbus *bus)
{
    struct ev_reconnect *r = &bus->reconnect;
    const bool first = ev_load_relaxed(&bus->n.connects) == 1; /* own field */

    pthread_mutex_lock(&bus->mutex);
    const uint32_t attempts = first ? 0 : r->attempts;
    r->attempts = r->failures = 0;
    r->failing = false;
    r->next = 0;
    r->connected = ev_clock_wall(bus->clock);
    pthread_mutex_unlock(&bus->mutex);
    ev_event(bus, EVBUS_EVENT_CONNECTED, EVBUS_OK, attempts, NULL, NULL, NULL, first ? "connected" : "connected again");
}

void ev_reconnect_down(evbus *bus, evbus_status cause, const char *text)
{
    pthread_mutex_lock(&bus->mutex);
    bus->reconnect.disconnected = ev_clock_wall(bus->clock);
    note_cause(bus, cause, text);
    pthread_mutex_unlock(&bus->mutex);
    ev_count(&bus->n.disconnects, 1);
    ev_event(bus, EVBUS_EVENT_DISCONNECTED, cause, 0, NULL, NULL, NULL, text);
}

void ev_reconnect_begun(evbus *bus)
{
    struct ev_reconnect *r = &bus->reconnect;
    char text[sizeof bus->connect_text + 64];

    if (ev_load_relaxed(&bus->n.connects) ==
        0) /* evbus_open waits; set before a session ended, which is why we are here */
        return;
    pthread_mutex_lock(&bus->mutex);
    const uint32_t attempts = ++r->attempts;
    const evbus_status cause = bus->connect_status;
    r->next = 0;
    (void)snprintf(text, sizeof text, "attempt %" PRIu32 ": %s", attempts, bus->connect_text);
    pthread_mutex_unlock(&bus->mutex);
    ev_add_relaxed(&bus->n.reconnect_attempts, 1); /* statistic */
    ev_event(bus, EVBUS_EVENT_RECONNECTING, cause, attempts, NULL, NULL, NULL, text);
}

void ev_reconnect_refused(evbus *bus, evbus_status cause, const char *text)
{
    ev_add_relaxed(&bus->n.connect_failures, 1); /* statistic */
    pthread_mutex_lock(&bus->mutex);
    note_cause(bus, cause, text);
    bus->reconnect.failed = ev_clock_wall(bus->clock);
    pthread_mutex_unlock(&bus->mutex);
    ev_log_some(bus, EVBUS_LOG_WARN, "connect", "%s", text);
}

/* [loop] */
static void end(evbus *bus, uint32_t failures, evbus_status cause, const char *why)
{
    char text[sizeof bus->connect_text + 128];

    (void)snprintf(text, sizeof text, "%" PRIu32 " attempts failed, no more will be made until evbus_reconnect: %s",
                   failures, why);
    ev_store_seqcst(&bus->link, EV_LINK_GIVEN_UP);
    ev_add_relaxed(&bus->n.reconnects_given_up, 1); /* statistic */
    ev_event(bus, EVBUS_EVENT_RECONNECT_GIVEN_UP, cause, failures, NULL, NULL, NULL, text);
    ev_outbound_given_up(bus, ev_now(bus));
    ev_bus_changed(bus);
}

void ev_reconnect_next(evbus *bus, bool failed, int64_t next)
{
    struct ev_reconnect *r = &bus->reconnect;
    char why[sizeof bus->connect_text], text[sizeof why + 64];

    if (ev_load_relaxed(&bus->n.connects) == 0) /* as above */
        return;
    pthread_mutex_lock(&bus->mutex);
    const uint32_t failures = r->failures += failed;
    const bool say = failed && failures >= bus->cfg.o.reconnect_failures_max && !r->failing;
    const evbus_status cause = bus->connect_status;
    r->failing |= say;
    r->next = next == EV_NEVER ? 0 : next;
    (void)ev_copy(why, sizeof why, bus->connect_text);
    pthread_mutex_unlock(&bus->mutex);
    (void)snprintf(text, sizeof text, "%" PRIu32 " attempts in a row failed: %s", failures, why);
    if (say)
        ev_event(bus, EVBUS_EVENT_RECONNECT_FAILING, cause, failures, NULL, NULL, NULL, text);
    if (next == EV_NEVER)
        end(bus, failures, cause, why);
}

/* ---- What the application asks ----------------------------------------------------------------------------------- */

evbus_status ev_reconnect_given_up(evbus *bus)
{
    char text[sizeof bus->connect_text];

    pthread_mutex_lock(&bus->mutex);
    (void)ev_copy(text, sizeof text, bus->connect_text);
    pthread_mutex_unlock(&bus->mutex);
    return ev_fail(EVBUS_DISCONNECTED,
                   "reconnecting was given up (reconnect_attempts_max; evbus_reconnect tries again): %s", text);
}

evbus_status evbus_connection_read(evbus *bus, evbus_connection *ret)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_connection_read: ret is NULL");
    const struct ev_reconnect *r = &bus->reconnect;
    const uint32_t link = ev_load_acquire(&bus->link);
    evbus_connection c = {
        .struct_size = sizeof c,
        .state = link == EV_LINK_UP         ? EVBUS_CONNECTION_UP
                 : link == EV_LINK_GIVEN_UP ? EVBUS_CONNECTION_GIVEN_UP
                                            : EVBUS_CONNECTION_DOWN,
        .connects = ev_load_relaxed(&bus->n.connects),                 /* statistic */
        .disconnects = ev_load_relaxed(&bus->n.disconnects),           /* statistic */
        .connect_failures = ev_load_relaxed(&bus->n.connect_failures), /* statistic */
    };
    pthread_mutex_lock(&bus->mutex);
    c.attempts = r->attempts;
    c.failures = r->failures;
    c.last_status = bus->connect_status;
    c.connected_ns = r->connected;
    c.disconnected_ns = r->disconnected;
    c.failed_ns = r->failed;
    if (r->next && link != EV_LINK_UP)
        c.next_ns = ev_clock_wall(bus->clock) + r->next - ev_now(bus);
    (void)ev_copy(c.last_error, sizeof c.last_error, bus->connect_text);
    pthread_mutex_unlock(&bus->mutex);
    *ret = c;
    return EVBUS_OK;
}

static void again_on_loop(evbus *bus, struct ev_command *command)
{
    struct ev_reconnect *r = &bus->reconnect;

    (void)command;
    pthread_mutex_lock(&bus->mutex);
    const uint64_t asked = r->asked;
    r->posted = false;
    r->attempts = r->failures = 0;
    r->failing = false;
    r->next = 0;
    pthread_mutex_unlock(&bus->mutex);
    if (ev_load_relaxed(&bus->link) == EV_LINK_GIVEN_UP) /* own field */
        ev_store_seqcst(&bus->link, EV_LINK_DOWN);
    bus->ops->reconnect(bus->state);
    pthread_mutex_lock(&bus->mutex);
    r->answered = asked;
    pthread_mutex_unlock(&bus->mutex);
    ev_bus_changed(bus);
}

struct question {
    evbus *bus;
    uint64_t number;
};

static bool answered(void *arg)
{
    const struct question *q = arg;

    pthread_mutex_lock(&q->bus->mutex);
    const bool done = q->bus->reconnect.answered >= q->number;
    pthread_mutex_unlock(&q->bus->mutex);
    return done || ev_load_seqcst(&q->bus->phase) == EV_STOPPED;
}

evbus_status evbus_reconnect(evbus *bus)
{
    const evbus_status st = ev_bus_check(bus);
    struct question q = {.bus = bus};

    if (st != EVBUS_OK)
        return st;
    pthread_mutex_lock(&bus->mutex);
    q.number = ++bus->reconnect.asked;
    const bool post = !bus->reconnect.posted;
    bus->reconnect.posted = true;
    bus->reconnect.again.run = again_on_loop;
    pthread_mutex_unlock(&bus->mutex);
    if (post)
        ev_loop_post(bus, &bus->reconnect.again);
    (void)ev_bus_await(bus, answered, &q, EV_NEVER);
    return EVBUS_OK;
}
