/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backend may call of the core (core/backend.h): each call goes to the part that owns the matter. A backend inside
 * another one has a host with a tap: its wrapper hears first.
 */
#include "core/message.h"
#include "core/streams.h"

#include <stdio.h>
#include <string.h>

void ev_host_link_up(struct ev_host *host)
{
    if (host->tap) {
        host->tap->link_up(host);
        return;
    }
    evbus *bus = ev_bus_of(host);
    const int64_t now = ev_now(bus);

    ev_count(&bus->n.connects, 1); /* before: who sees the link up sees that it counts */
    ev_store_seqcst(&bus->link, EV_LINK_UP);
    ev_reconnect_up(bus);
    ev_bus_changed(bus);
    ev_outbound_link_up(bus, now);
    ev_dispatch_link_up(bus);
}

void ev_host_link_down(struct ev_host *host, evbus_status cause, const char *text)
{
    if (host->tap) {
        host->tap->link_down(host, cause, text);
        return;
    }
    evbus *bus = ev_bus_of(host);

    if (!ev_link_is_up(bus))
        return;
    ev_store_seqcst(&bus->link, EV_LINK_DOWN);
    ev_reconnect_down(bus, cause, text);
    ev_outbound_link_down(bus, ev_now(bus), text);
    ev_bus_changed(bus);
}

void ev_host_connect_failed(struct ev_host *host, evbus_status status, const char *text)
{
    evbus *bus = ev_bus_of(host);

    ev_reconnect_refused(bus, status, text);
    if (status == EVBUS_AUTH || status == EVBUS_TLS)
        ev_store_seqcst(&bus->connect_fatal, 1);
    ev_bus_changed(bus);
}

void ev_host_connecting(struct ev_host *host)
{
    ev_reconnect_begun(ev_bus_of(host));
}

void ev_host_next_attempt(struct ev_host *host, bool failed, int64_t next)
{
    ev_reconnect_next(ev_bus_of(host), failed, next);
}

void ev_host_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    evbus *bus = ev_bus_of(host);

    if (host->tap) {
        host->tap->acked(host, slot, generation, ack);
        return;
    }
    ev_outbound_answer(bus, slot, generation, ack, bus->turn_ns);
}

void ev_host_publish_denied(struct ev_host *host, const char *topic, const char *text)
{
    evbus *bus = ev_bus_of(host);

    ev_outbound_denied(bus, topic, text, bus->turn_ns);
}

bool ev_host_deliver(struct ev_host *host, const struct ev_delivery *delivery)
{
    evbus *bus = ev_bus_of(host);

    if (host->tap)
        return host->tap->deliver(host, delivery);
    return ev_dispatch_deliver(bus, delivery, bus->turn_ns);
}

void ev_host_quiet(struct ev_host *host, struct evbus_sub *sub)
{
    evbus *bus = ev_bus_of(host);

    if (host->tap) {
        host->tap->quiet(host, sub);
        return;
    }
    ev_dispatch_quiet(bus, sub, ev_now(bus));
}

void ev_host_left(struct ev_host *host, struct evbus_sub *sub)
{
    (void)host;
    ev_sub_left(sub);
}

bool ev_host_holds(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    if (host->tap)
        return host->tap->holds(host, sub, stream_seq);
    return ev_held_has(ev_bus_of(host), sub, stream_seq) || ev_frontier_has(&sub->frontier, stream_seq);
}

void ev_host_floor(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    (void)host;
    if (sub->past) /* who answers may count on from an older state: what it delivered since, and is not here, counts as what was */
        ev_span_break(&sub->past->span);
    if (stream_seq == 0 || !ev_sub_has_past(sub)) /* without memory less is known: it may run again */
        return;
    ev_span_settled(&sub->past->span, stream_seq);
    ev_span_settled(&sub->past->given, stream_seq);
}

void ev_host_certain(struct ev_host *host, struct evbus_sub *sub, const struct ev_certainty *certain)
{
    (void)host;
    sub->frontier.certain = false;
    if (!certain)
        return;
    const bool anew = ev_sub_has_past(sub) && sub->past->made_ns != certain->made_ns;
    if (sub->past)
        sub->past->made_ns = certain->made_ns;
    ev_frontier_certain(&sub->frontier, certain->consumer_seq, certain->floor_seq, certain->exact || anew);
    ev_room_changed(sub);
}

uint64_t ev_host_count_below(struct ev_host *host, struct evbus_sub *sub, uint64_t consumer_seq, uint64_t floor_seq)
{
    (void)host;
    return ev_frontier_count_below(&sub->frontier, consumer_seq, floor_seq);
}

bool ev_host_settled(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq, int64_t stored_ns)
{
    const struct ev_past *past = sub->past;

    return past && !ev_host_holds(host, sub, stream_seq) &&
           (ev_settled_has(&past->settled, ev_settled_key(stream_seq, stored_ns)) ||
            ev_span_has(&past->given, stream_seq, stored_ns));
}

uint32_t ev_host_unsettled(struct ev_host *host, struct evbus_sub *sub, uint64_t first, uint64_t last)
{
    if (host->tap)
        return host->tap->unsettled(host, sub, first, last);
    ev_room_changed(sub);
    if (!ev_frontier_recall(sub)) /* no memory: as if they were not here */
        return 0;
    return sub->frontier.count > 0 ? ev_frontier_within(&sub->frontier, first, last) : 0;
}

void ev_host_gather(struct ev_host *host, struct evbus_sub *sub, bool on)
{
    if (host->tap) {
        host->tap->gather(host, sub, on);
        return;
    }
    evbus *bus = ev_bus_of(host);

    ev_dispatch_gather(bus, sub, on, ev_now(bus));
}

bool ev_host_let_go(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing)
{
    if (host->tap)
        return host->tap->let_go(host, sub, missing);
    evbus *bus = ev_bus_of(host);

    return ev_dispatch_let_go(bus, sub, missing, ev_now(bus));
}

void ev_host_consumer_lost(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text)
{
    if (host->tap) {
        host->tap->consumer_lost(host, sub, cause, text);
        return;
    }
    ev_sub_rebind(sub, cause, text);
}

void ev_host_silent(struct ev_host *host, struct evbus_sub *sub, bool silent, const char *text)
{
    evbus *bus = ev_bus_of(host);

    if (silent)
        ev_count(&bus->n.repairs, 1);
    ev_event(bus, silent ? EVBUS_EVENT_STUCK : EVBUS_EVENT_RESUMED, silent ? EVBUS_TIMEOUT : EVBUS_OK, silent,
             sub->topic->name, sub->group, NULL, text);
}

void ev_host_foreign(struct ev_host *host, struct evbus_sub *sub, uint64_t count)
{
    evbus *bus = ev_bus_of(host);
    char text[200];

    ev_count(&bus->n.foreign, count);
    if (sub->o.membership == EVBUS_SHARED || sub->foreign_seen)
        return;
    sub->foreign_seen = true;
    (void)snprintf(text, sizeof text,
                   "another member takes messages of this EXCLUSIVE group: order per aggregate holds "
                   "within each member only");
    ev_event(bus, EVBUS_EVENT_FOREIGN_MEMBER, EVBUS_OK, count, sub->topic->name, sub->group, NULL, text);
}

const evbus_clock *ev_host_clock(struct ev_host *host)
{
    return ev_bus_of(host)->clock;
}

const struct ev_log *ev_host_log(struct ev_host *host)
{
    return &ev_bus_of(host)->log;
}

void ev_host_event(struct ev_host *host, evbus_event_kind kind, evbus_status status, const char *topic,
                   const char *text)
{
    ev_event(ev_bus_of(host), kind, status, 0, topic, NULL, NULL, text);
}
