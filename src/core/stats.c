/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the counters: relaxed loads, no lock. */
#include "core/bus.h"
#include "core/names.h"

/* All are statistics: no order between them. */
#define N(field) ev_load_relaxed(&bus->n.field)

static void read_publishing(const evbus *bus, evbus_statistics *r)
{
    r->publishes_accepted = N(accepted);
    r->publishes_stored = N(stored);
    r->publishes_duplicate = N(duplicate);
    r->publishes_refused = N(refused);
    r->publishes_unknown = N(unknown);
    r->publishes_core = N(core);
    r->publishes_resent = N(resent);
    r->backpressure = N(backpressure);
    r->publish_bytes = ev_load_relaxed(&bus->slots.bytes_used);
}

static void read_consuming(const evbus *bus, evbus_statistics *r)
{
    r->delivered = N(delivered);
    r->redelivered = N(redelivered);
    r->handled = N(handled);
    r->handler_runs = N(handler_runs);
    r->retried = N(retried);
    r->rejected = N(rejected);
    r->exhausted = N(exhausted);
    r->not_envelope = N(not_envelope);
    r->dead_lettered = N(dead_lettered);
    r->dead_letter_failures = N(dead_letter_failures);
    r->duplicates_held = N(duplicates_held);
    r->duplicates_settled = N(duplicates_settled);
    r->plain_dropped = N(plain_dropped);
    r->handed_back = N(handed_back);
    r->unhandled = N(unhandled);
    r->lease_extensions = N(lease_extensions);
    r->handlers_overdue = N(overdue);
    r->stalls = N(stalls);
    r->overtaken = N(overtaken);
    r->foreign = N(foreign);
    r->standby = N(standby);
    r->takeovers = N(takeovers);
    r->fenced = N(fenced);
    r->aggregates_parked = N(aggregates_parked);
    r->messages_parked = N(messages_parked);
    r->breaker_opens = N(breaker_opens);
    r->breakers_open = N(breakers_open);
    r->held = N(held);
    r->held_bytes = N(held_bytes);
    r->handlers_running = N(running);
}

static void read_receipts(const evbus *bus, evbus_statistics *r)
{
    r->receipts_taken = N(receipts_taken);
    r->receipts = N(receipts);
    r->receipts_untaken = N(receipts_untaken);
    r->receipts_slow = N(receipts_slow);
    r->receipts_p99_us = ev_load_relaxed(&bus->acks.p99_ns) / 1000;
    r->tenants = ev_load_relaxed(&bus->tenants.count);
    r->ack_workers = ev_load_relaxed(&bus->acks.count);
}

static void read_bus(const evbus *bus, evbus_statistics *r)
{
    r->topics = ev_load_relaxed(&bus->topics.count);
    r->subscriptions = N(subscriptions);
    r->workers = ev_load_relaxed(&bus->crew.count);
    r->streams_created = N(streams_created);
    r->streams_lost = N(streams_lost);
    r->connects = N(connects);
    r->disconnects = N(disconnects);
    r->connect_failures = N(connect_failures);
    r->reconnect_attempts = N(reconnect_attempts);
    r->reconnects_given_up = N(reconnects_given_up);
    r->progress_repairs = N(repairs);
    r->events_dropped = N(events_dropped);
    r->connected = ev_link_is_up(bus);
}

#undef N

evbus_status evbus_stats(const evbus *bus, evbus_statistics *r)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!r)
        return ev_fail(EVBUS_INVALID, "evbus_stats: ret_stats is NULL");
    *r = (evbus_statistics){.struct_size = sizeof *r};
    read_publishing(bus, r);
    read_consuming(bus, r);
    read_receipts(bus, r);
    read_bus(bus, r);
    const uint64_t ended = r->publishes_stored + r->publishes_refused + r->publishes_unknown + r->publishes_core;
    r->publishes_inflight = r->publishes_accepted > ended ? r->publishes_accepted - ended : 0;
    r->receipts_queued = r->receipts > r->receipts_taken ? r->receipts - r->receipts_taken : 0;
    return EVBUS_OK;
}

evbus_status evbus_topic_stats(const evbus *bus, const char *topic, evbus_topic_statistics *r)
{
    size_t len = 0;
    evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK || (st = ev_topic_check(topic, true, &len)) != EVBUS_OK)
        return st;
    if (!r)
        return ev_fail(EVBUS_INVALID, "evbus_topic_stats: ret_stats is NULL");
    const struct ev_topic *t = ev_topic_find(bus, topic, len);
    if (!t)
        return ev_fail(EVBUS_NOT_FOUND, "topic '%.80s' was never used on this bus", topic);
#define N(field) ev_load_relaxed(&t->field) /* statistic */
    *r = (evbus_topic_statistics){
        .struct_size = sizeof *r,
        .publishes_accepted = N(accepted),
        .publishes_stored = N(stored),
        .publishes_duplicate = N(duplicate),
        .publishes_refused = N(refused),
        .publishes_unknown = N(unknown),
        .publishes_core = N(core),
        .handled = N(handled),
        .retried = N(retried),
        .dead_lettered = N(dead_lettered),
        .subscriptions = N(handlers),
        .stream_known = N(stream_state) == EV_STREAM_THERE,
        .gate_closed = N(gate) == EV_GATE_CLOSED,
        .fallback = N(fallback),
    };
#undef N
    return EVBUS_OK;
}
