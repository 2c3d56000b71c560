/* SPDX-License-Identifier: Apache-2.0 */
#include "core/breaker.h"

#include "core/message.h"

#include <stdio.h>

#define OPEN_MIN_MS 10

evbus_status ev_breaker_check(const evbus_sub_opts *o, bool envelope)
{
    if (o->breaker_open_ms && !o->breaker_failures)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.breaker_open_ms: %u without breaker_failures",
                       o->breaker_open_ms);
    if (o->breaker_failures > 1000000)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.breaker_failures: %u is above 1000000", o->breaker_failures);
    if (o->breaker_open_ms && (o->breaker_open_ms < OPEN_MIN_MS || o->breaker_open_ms >= EVBUS_NOWAIT))
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.breaker_open_ms: %u is below %d, or no time", o->breaker_open_ms,
                       OPEN_MIN_MS);
    if (o->breaker_failures && !envelope)
        return ev_fail(
            EVBUS_UNSUPPORTED,
            "evbus_sub_opts.breaker_failures: plain messages are not run again, and would be lost meanwhile");
    return EVBUS_OK;
}

static evbus_breaker_state state_of(const struct evbus_sub *sub)
{
    return (evbus_breaker_state)ev_load_relaxed(&sub->breaker.state); /* own field */
}

static void set(struct evbus_sub *sub, evbus_breaker_state state)
{
    ev_store_relaxed(&sub->breaker.state, (uint32_t)state); /* hint for workers, statistic for others */
    ev_room_changed(sub);
}

bool ev_breaker_lets(const struct evbus_sub *sub)
{
    const evbus_breaker_state state = state_of(sub);

    return state == EVBUS_BREAKER_CLOSED || (state == EVBUS_BREAKER_HALF_OPEN && !sub->breaker.probing);
}

bool ev_breaker_probe(struct evbus_sub *sub)
{
    return sub->breaker.probing = state_of(sub) == EVBUS_BREAKER_HALF_OPEN;
}

static void open_for_a_while(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    struct ev_breaker *b = &sub->breaker;
    char text[160];

    if (state_of(sub) == EVBUS_BREAKER_CLOSED) {
        ev_count(&bus->n.breaker_opens, 1);
        ev_count(&bus->n.breakers_open, 1);
        (void)snprintf(text, sizeof text,
                       "%u handler runs failed in a row (breaker_failures): nothing starts, but one message each %u ms",
                       b->failures, sub->o.breaker_open_ms);
        ev_event(bus, EVBUS_EVENT_BREAKER_OPEN, EVBUS_OK, b->failures, sub->topic->name, sub->group, NULL, text);
    }
    b->failures = 0;
    b->open_until = ev_deadline(now, sub->o.breaker_open_ms);
    if (b->open_until < bus->in.breaker_due)
        bus->in.breaker_due = b->open_until;
    set(sub, EVBUS_BREAKER_OPEN);
}

static void shut(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    ev_count(&bus->n.breakers_open, UINT64_MAX); /* minus one */
    set(sub, EVBUS_BREAKER_CLOSED);
    ev_event(bus, EVBUS_EVENT_BREAKER_CLOSED, EVBUS_OK, 0, sub->topic->name, sub->group, NULL,
             "a message got through: all go on");
    ev_aggs_resume(bus, sub, now);
}

void ev_breaker_judge(evbus *bus, struct evbus_sub *sub, bool probe, bool counts, bool failed, int64_t now)
{
    struct ev_breaker *b = &sub->breaker;
    const evbus_breaker_state state = state_of(sub);

    if (sub->o.breaker_failures == 0)
        return;
    if (state == EVBUS_BREAKER_CLOSED && counts) {
        b->failures = failed ? b->failures + 1 : 0;
        if (b->failures >= sub->o.breaker_failures)
            open_for_a_while(bus, sub, now);
    } else if (probe && b->probing) {
        b->probing = false;
        if (counts && failed)
            open_for_a_while(bus, sub, now);
        else if (counts)
            shut(bus, sub, now);
        else
            ev_aggs_resume(bus, sub, now); /* it was not run: another one decides */
    }
}

bool ev_breaker_turn(evbus *bus, int64_t now)
{
    if (now < bus->in.breaker_due)
        return false;
    bus->in.breaker_due = EV_NEVER;
    for (struct evbus_sub *sub = bus->in.attached; sub; sub = sub->next_attached) {
        if (state_of(sub) != EVBUS_BREAKER_OPEN)
            continue;
        if (now < sub->breaker.open_until) {
            if (sub->breaker.open_until < bus->in.breaker_due)
                bus->in.breaker_due = sub->breaker.open_until;
            continue;
        }
        set(sub, EVBUS_BREAKER_HALF_OPEN);
        ev_aggs_resume(bus, sub, now);
    }
    return true;
}

void ev_breaker_forget(evbus *bus, struct evbus_sub *sub)
{
    if (state_of(sub) != EVBUS_BREAKER_CLOSED)
        ev_count(&bus->n.breakers_open, UINT64_MAX); /* minus one */
    ev_store_relaxed(&sub->breaker.state, EVBUS_BREAKER_CLOSED);
}

evbus_breaker_state evbus_sub_breaker(const evbus_sub *sub)
{
    return sub ? (evbus_breaker_state)ev_load_relaxed(&sub->breaker.state) : EVBUS_BREAKER_CLOSED; /* statistic */
}
