/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How is the bus? The loop answers: it owns what the answer is made of, and that it answers at all is a part of it.
 * Several who ask at the same time share one answer, which is made after all of them asked.
 */
#include "core/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS 1000

#define NOT_LIVE (EVBUS_HEALTH_CLOSED | EVBUS_HEALTH_STUCK | EVBUS_HEALTH_GIVEN_UP)
#define NOT_READY (EVBUS_HEALTH_DISCONNECTED | EVBUS_HEALTH_LINK_SILENT | EVBUS_HEALTH_CONSUMER_LOST)

/* Notes a reason; the sentence is that of the gravest, which is the lowest bit. */
static void EV_PRINTF(3, 4) note(evbus_health_report *r, evbus_health_reason reason, const char *fmt, ...)
{
    const bool first = (r->reasons & (((uint32_t)reason << 1) - 1)) == 0;
    va_list args;

    r->reasons |= (uint32_t)reason;
    if (!first)
        return;
    va_start(args, fmt);
    (void)vsnprintf(r->text, sizeof r->text, fmt, args);
    va_end(args);
}

static uint32_t age_ms(int64_t now, int64_t since)
{
    const int64_t ms = (now - since) / EV_MS;

    return ms < 1 ? 1 : ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* ---- The loop's answer ------------------------------------------------------------------------------------------- */

static void look_at_link(evbus *bus, evbus_health_report *r, int64_t now)
{
    const int64_t silent = bus->ops->silent_since(bus->state, NULL);

    if (!ev_link_is_up(bus)) {
        pthread_mutex_lock(&bus->mutex);
        const bool over = ev_link_given_up(bus);
        note(r, EVBUS_HEALTH_DISCONNECTED,
             "no connection to the broker, %" PRIu32 " attempts to reconnect failed%s%s%s", bus->reconnect.failures,
             over ? ", none is to come" : "", bus->connect_text[0] ? ": " : "", bus->connect_text);
        if (over)
            note(r, EVBUS_HEALTH_GIVEN_UP, "reconnecting was given up");
        pthread_mutex_unlock(&bus->mutex);
        return;
    }
    if (silent == EV_NEVER)
        return;
    r->link_silent_ms = age_ms(now, silent);
    if (r->link_silent_ms >= bus->cfg.o.heartbeat_ms)
        note(r, EVBUS_HEALTH_LINK_SILENT, "the broker has not answered our heartbeat for %" PRIu32 " ms",
             r->link_silent_ms);
}

static void look_at_publishes(evbus *bus, evbus_health_report *r, int64_t now)
{
    const struct ev_slot *oldest = NULL;

    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++) {
        const struct ev_slot *slot = &bus->slots.all[i];
        if (slot->phase == EV_PHASE_IDLE)
            continue;
        r->publishes++;
        r->publishes_held += slot->phase == EV_PHASE_HELD;
        if (!oldest || slot->accepted_ns < oldest->accepted_ns)
            oldest = slot;
    }
    if (oldest) {
        r->publish_oldest_ms = age_ms(now, oldest->accepted_ns);
        if (r->publish_oldest_ms >= bus->cfg.o.publish_timeout_ms / 2)
            note(r, EVBUS_HEALTH_PUBLISH_SLOW, "topic '%s': a publish waits for its outcome for %" PRIu32 " ms",
                 oldest->topic->name, r->publish_oldest_ms);
    }
    for (const struct ev_topic *t = bus->out.held_topics; t; t = t->next_held) {
        if (ev_load_relaxed(&t->gate) != EV_GATE_CLOSED) /* own field */
            continue;
        r->gates_closed++;
        note(r, EVBUS_HEALTH_GATE_CLOSED, "topic '%s': nobody answers for its stream", t->name);
    }
}

static void look_at_sub(evbus *bus, const struct evbus_sub *sub, evbus_health_report *r, int64_t now)
{
    const char *topic = sub->topic->name, *group = sub->group;
    const int64_t silent =
        sub->binding && !sub->rebinding ? bus->ops->silent_since(bus->state, sub->binding) : EV_NEVER;

    r->subscriptions++;
    if (sub->rebinding) {
        r->lost++;
        note(r, EVBUS_HEALTH_CONSUMER_LOST, "topic '%s' group '%s': its consumer is gone", topic, group);
    }
    if (sub->stalled) {
        r->stalled++;
        note(r, EVBUS_HEALTH_STALLED, "topic '%s' group '%s': %" PRIu32 " messages wait behind failing ones", topic,
             group, sub->waiting);
    }
    if (ev_load_relaxed(&sub->breaker.state) != EVBUS_BREAKER_CLOSED) /* own field */
        note(r, EVBUS_HEALTH_BREAKER_OPEN, "topic '%s' group '%s': its handler fails, and its breaker is open", topic,
             group);
    if (silent != EV_NEVER) {
        r->silent++;
        note(r, EVBUS_HEALTH_CONSUMER_SILENT,
             "topic '%s' group '%s': nothing is heard of its consumer for %" PRIu32 " ms", topic, group,
             age_ms(now, silent));
    }
    if (silent == EV_NEVER && sub->progress.repairs > 0) {
        r->silent++;
        note(r, EVBUS_HEALTH_CONSUMER_SILENT,
             "topic '%s' group '%s': messages wait at the broker and do not come, after %" PRIu32 " repairs", topic,
             group, sub->progress.repairs);
    }
    if (sub->letters_fail || (sub->tail && (sub->tail->full || sub->tail->failed))) {
        r->letters_fail++;
        note(r, EVBUS_HEALTH_LETTERS_FAIL, "topic '%s' group '%s': %s", topic, group,
             sub->letters_fail ? "dead letters cannot be stored"
             : sub->tail->full ? "parked_max aggregates are parked"
                               : "what is parked cannot be read");
    }
    for (const evbus_msg *m = sub->out ? sub->oldest : NULL; m; m = m->newer) {
        if (m->phase != EV_MSG_OUT || !m->overdue)
            continue;
        r->handlers_overdue++;
        note(r, EVBUS_HEALTH_OVERDUE, "topic '%s' group '%s': a handler runs for longer than handler_timeout_ms", topic,
             group);
    }
}

static void answer(evbus *bus, struct ev_command *command)
{
    struct ev_health_probe *probe = (struct ev_health_probe *)command;
    const int64_t now = ev_now(bus);
    evbus_health_report r = {.struct_size = sizeof r};

    pthread_mutex_lock(&bus->mutex);
    probe->pending = false;
    const uint64_t asked = probe->asked;
    if (bus->health.sender.monitor.on && !bus->health.sender.status.healthy)
        note(&r, EVBUS_HEALTH_SENDER_FAILS, "health messages cannot be published: %s",
             bus->health.sender.status.last_error);
    if (bus->health.watch.monitor.on && bus->health.watch.stats.severity)
        note(&r, EVBUS_HEALTH_PEER_MISSED, "%" PRIu32 " health messages of others were missed",
             bus->health.watch.stats.misses);
    pthread_mutex_unlock(&bus->mutex);
    look_at_link(bus, &r, now);
    look_at_publishes(bus, &r, now);
    for (const struct evbus_sub *sub = bus->in.attached; sub; sub = sub->next_attached)
        if (!sub->detached)
            look_at_sub(bus, sub, &r, now);
    pthread_mutex_lock(&bus->mutex);
    probe->report = r;
    probe->answered = asked;
    pthread_mutex_unlock(&bus->mutex);
    ev_bus_changed(bus);
}

/* ---- Asking ------------------------------------------------------------------------------------------------------ */

struct question {
    evbus *bus;
    uint64_t number;
    evbus_health_report report;
    bool answered;
};

static bool answered(void *arg)
{
    struct question *q = arg;
    const struct ev_health_probe *probe = &q->bus->health.probe;

    pthread_mutex_lock(&q->bus->mutex);
    q->answered = probe->answered >= q->number;
    if (q->answered)
        q->report = probe->report;
    pthread_mutex_unlock(&q->bus->mutex);
    return q->answered || ev_load_seqcst(&q->bus->phase) == EV_STOPPED;
}

static void ask(evbus *bus, struct question *q, int64_t deadline)
{
    struct ev_health_probe *probe = &bus->health.probe;

    pthread_mutex_lock(&bus->mutex);
    q->number = ++probe->asked;
    const bool post = !probe->pending;
    probe->pending = true;
    probe->command.run = answer;
    pthread_mutex_unlock(&bus->mutex);
    if (post)
        ev_loop_post(bus, &probe->command);
    (void)ev_bus_await(bus, answered, q, deadline);
}

evbus_status evbus_health(evbus *bus, uint32_t timeout_ms, evbus_health_report *ret)
{
    const evbus_status st = ev_bus_check_alive(bus);
    struct question q = {.bus = bus, .report = {.struct_size = sizeof q.report}};

    if (st != EVBUS_OK)
        return st;
    if (!ret)
        return ev_fail(EVBUS_INVALID, "evbus_health: ret is NULL");
    const uint32_t ms = timeout_ms ? timeout_ms : TIMEOUT_MS;
    if (ev_load_acquire(&bus->phase) == EV_RUNNING)
        ask(bus, &q, ev_deadline(ev_now(bus), ms));
    if (ev_load_acquire(&bus->phase) != EV_RUNNING)
        note(&q.report, EVBUS_HEALTH_CLOSED, "the bus is shut down");
    else if (!q.answered)
        note(&q.report, EVBUS_HEALTH_STUCK, "the loop has not answered for %" PRIu32 " ms", ms);
    q.report.live = !(q.report.reasons & NOT_LIVE);
    q.report.ready = q.report.live && !(q.report.reasons & NOT_READY);
    q.report.end_to_end = q.report.reasons == 0;
    if (q.report.reasons == 0)
        (void)ev_copy(q.report.text, sizeof q.report.text, "all is well");
    *ret = q.report;
    return EVBUS_OK;
}
