/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a bus, by its deadline:
 *   1. nothing new is accepted (phase DRAINING);
 *   2. [loop] subscriptions stop: what was pulled and not started is handed back; running handlers and publishes end;
 *   3. [loop] all ended, or the deadline: what is left gets its outcome (refused, unknown), the session is closed;
 *   4. the threads are joined; a worker inside a handler keeps the memory it needs until that returns;
 *   5. callbacks still owed (on_publish_error, on_receipt) run on the thread that shuts down; receipts that nobody took
 *      stay for evbus_receipts_take.
 */
#include "core/message.h"

#include <string.h>

struct halt {
    struct ev_command command;
    int64_t deadline;
};

static void halt_on_loop(evbus *bus, struct ev_command *command)
{
    struct halt *h = (struct halt *)command;
    const int64_t now = ev_now(bus);

    bus->halt_at = h->deadline;
    for (struct evbus_sub *sub = bus->in.attached, *next; sub; sub = next) {
        next = sub->next_attached;
        ev_dispatch_stop(bus, sub, false, now);
    }
}

static bool subs_idle(const evbus *bus)
{
    const struct evbus_sub *sub = bus->in.attached;

    while (sub && sub->left)
        sub = sub->next_attached;
    return sub == NULL;
}

static void force(evbus *bus, int64_t now)
{
    for (struct evbus_sub *sub = bus->in.attached, *next; sub; sub = next) {
        next = sub->next_attached;
        ev_dispatch_stop(bus, sub, true, now);
    }
}

void ev_shutdown_turn(evbus *bus)
{
    const int64_t now = ev_now(bus);

    if (bus->halt_at == EV_NEVER)
        return;
    const bool idle = ev_outbound_idle(bus) && subs_idle(bus) && ev_outbound_seal(bus);
    if (!idle && now < bus->halt_at)
        return;
    if (!idle)
        force(bus, now);
    ev_outbound_end(bus, now);
    bus->ops->shut(bus->state);
    ev_store_seqcst(&bus->link, EV_LINK_DOWN);
    bus->ended = true;
    ev_store_seqcst(&bus->phase, EV_STOPPED);
    ev_bus_changed(bus);
}

/* ---- The report -------------------------------------------------------------------------------------------------- */

static bool anything(const evbus_report_topic *t)
{
    return t->publishes_refused || t->publishes_unknown || t->handed_back || t->plain_dropped || t->handlers_running ||
           t->unsettled;
}

static evbus_report_topic *entry_of(evbus_report *r, const char *topic)
{
    for (uint32_t i = 0; i < r->topics; i++)
        if (strcmp(r->topic[i].topic, topic) == 0)
            return &r->topic[i];
    if (r->topics == EVBUS_REPORT_TOPICS) {
        r->topics_omitted++;
        return NULL;
    }
    evbus_report_topic *t = &r->topic[r->topics++];
    (void)ev_copy(t->topic, sizeof t->topic, topic);
    return t;
}

static void sum(evbus_report_topic *to, const evbus_report_topic *add)
{
    to->publishes_refused += add->publishes_refused;
    to->publishes_unknown += add->publishes_unknown;
    to->handed_back += add->handed_back;
    to->plain_dropped += add->plain_dropped;
    to->handlers_running += add->handlers_running;
    to->unsettled += add->unsettled;
}

static void note(evbus_report *r, const char *topic, const evbus_report_topic *left)
{
    if (!anything(left))
        return;
    sum(&r->total, left);
    evbus_report_topic *t = entry_of(r, topic);
    if (t)
        sum(t, left);
}

/* In their handler, or deferred and not settled; what was revoked is with a worker still, but nobody will run it. */
static uint64_t running(const struct evbus_sub *sub)
{
    uint64_t n = 0;

    for (const evbus_msg *m = sub->oldest; m; m = m->newer)
        n += m->abandoned || (m->phase == EV_MSG_OUT && !m->gone);
    return n;
}

/* The loop has ended: its fields are ours to read. */
static void write_report(evbus *bus, evbus_report *r)
{
    const struct ev_topic_table *table = ev_load_acquire(&bus->topics.table);

    *r = (evbus_report){.struct_size = sizeof *r};
    for (uint64_t i = 0; i <= table->mask; i++) {
        const struct ev_topic *t = ev_load_acquire(&table->slots[i].topic);
        if (!t)
            continue;
        note(r, t->name,
             &(evbus_report_topic){.publishes_refused = t->left_refused, .publishes_unknown = t->left_unknown});
    }
    pthread_mutex_lock(&bus->mutex);
    for (struct evbus_sub *s = bus->subs; s; s = s->next)
        note(r, s->topic->name,
             &(evbus_report_topic){.handed_back = s->left_back,
                                   .plain_dropped = s->left_dropped,
                                   .unsettled = s->left_unsettled,
                                   .handlers_running = running(s)});
    pthread_mutex_unlock(&bus->mutex);
    const evbus_report_topic *t = &r->total;
    const bool left =
        t->publishes_refused || t->publishes_unknown || t->plain_dropped || t->handlers_running || t->unsettled;
    r->status = left ? EVBUS_TIMEOUT : EVBUS_OK;
}

/* ---- Shutdown ---------------------------------------------------------------------------------------------------- */

static bool stopped(void *arg)
{
    return ev_load_seqcst(&((evbus *)arg)->phase) == EV_STOPPED;
}

/* Callbacks that are owed; runs of messages find their subscription stopped. */
static void run_what_is_owed(evbus *bus)
{
    ev_callback_enter(bus, NULL);
    do {
        while (ev_crew_run_one(bus) || ev_acks_run_one(bus))
            ;
    } while (ev_crew_turn(bus));
    ev_callback_leave();
}

void ev_abort_open(evbus *bus)
{
    bus->ended = true;
    ev_store_seqcst(&bus->phase, EV_STOPPED);
    ev_keeper_stop(bus);
    ev_acks_stop(bus, ev_clock_now(NULL) + EV_SEC);
    (void)ev_crew_stop(bus, ev_clock_now(NULL) + EV_SEC);
}

static void end(evbus *bus, uint32_t timeout_ms)
{
    const int64_t began = ev_now(bus), deadline = ev_deadline(began, timeout_ms ? timeout_ms : 10000);
    struct halt h = {.command.run = halt_on_loop, .deadline = deadline};

    ev_store_seqcst(&bus->phase, EV_DRAINING);
    ev_park_wake(&bus->slots.room, UINT32_MAX);
    ev_tenants_close(bus);
    ev_loop_post(bus, &h.command);
    if (!ev_bus_await(bus, stopped, bus, EV_NEVER)) { /* manual mode: time stands still, so this is the deadline */
        bus->halt_at = ev_now(bus);
        (void)ev_bus_await(bus, stopped, bus, EV_NEVER);
    }
    if (bus->loop_started)
        pthread_join(bus->loop, NULL);
    ev_keeper_stop(bus);
    const int64_t grace = ev_clock_now(NULL) + (timeout_ms == EVBUS_NOWAIT ? 20 : 200) * EV_MS;
    run_what_is_owed(bus);
    (void)ev_crew_stop(bus, grace);
    ev_acks_stop(bus, grace);
    run_what_is_owed(bus);
    write_report(bus, &bus->report);
    bus->report.elapsed_ms = (uint32_t)((ev_now(bus) - began) / EV_MS);
}

evbus_status evbus_shutdown(evbus *bus, uint32_t timeout_ms, evbus_report *ret_report)
{
    evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (ev_in_callback(bus))
        return ev_fail(EVBUS_INVALID,
                       "evbus_shutdown: called inside a handler or callback, which would wait for itself");
    for (bool done = false; !done;) {
        pthread_mutex_lock(&bus->mutex);
        done = bus->shut;
        pthread_mutex_unlock(&bus->mutex);
        if (done || ev_flight_join(&bus->closing, NULL, EV_NEVER, &st) != EV_FLIGHT_LEAD)
            continue;
        if (ev_load_seqcst(&bus->phase) == EV_RUNNING)
            end(bus, timeout_ms);
        pthread_mutex_lock(&bus->mutex);
        bus->shut = true;
        pthread_mutex_unlock(&bus->mutex);
        ev_flight_land(&bus->closing, EVBUS_OK, "");
    }
    if (ret_report)
        *ret_report = bus->report;
    st = bus->report.status;
    return st == EVBUS_OK ? st : ev_fail(st, "something was left when the bus ended; the report says what");
}
