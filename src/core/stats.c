/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the counters: relaxed loads, no lock. */
#include "core/bus.h"
#include "core/names.h"

evbus_status evbus_stats(const evbus *bus, evbus_statistics *r)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!r)
        return ev_fail(EVBUS_INVALID, "evbus_stats: ret_stats is NULL");
    const struct ev_counters *n = &bus->n;
#define N(field) ev_load_relaxed(&n->field) /* statistic */
    *r = (evbus_statistics){
        .struct_size = sizeof *r,
        .publishes_accepted = N(accepted),
        .publishes_stored = N(stored),
        .publishes_duplicate = N(duplicate),
        .publishes_refused = N(refused),
        .publishes_unknown = N(unknown),
        .publishes_core = N(core),
        .publishes_resent = N(resent),
        .backpressure = N(backpressure),
        .publish_bytes = ev_load_relaxed(&bus->slots.bytes_used), /* statistic */
        .delivered = N(delivered),
        .redelivered = N(redelivered),
        .handled = N(handled),
        .handler_runs = N(handler_runs),
        .retried = N(retried),
        .rejected = N(rejected),
        .exhausted = N(exhausted),
        .not_envelope = N(not_envelope),
        .dead_lettered = N(dead_lettered),
        .dead_letter_failures = N(dead_letter_failures),
        .duplicates_held = N(duplicates_held),
        .duplicates_settled = N(duplicates_settled),
        .plain_dropped = N(plain_dropped),
        .handed_back = N(handed_back),
        .lease_extensions = N(lease_extensions),
        .handlers_overdue = N(overdue),
        .stalls = N(stalls),
        .overtaken = N(overtaken),
        .foreign = N(foreign),
        .standby = N(standby),
        .takeovers = N(takeovers),
        .fenced = N(fenced),
        .held = N(held),
        .held_bytes = N(held_bytes),
        .handlers_running = N(running),
        .topics = ev_load_relaxed(&bus->topics.count), /* statistic */
        .subscriptions = N(subscriptions),
        .workers = ev_load_relaxed(&bus->crew.count), /* statistic */
        .streams_created = N(streams_created),
        .streams_lost = N(streams_lost),
        .connects = N(connects),
        .disconnects = N(disconnects),
        .connect_failures = N(connect_failures),
        .events_dropped = N(events_dropped),
        .connected = ev_link_is_up(bus),
        .receipts_taken = N(receipts_taken),
        .receipts = N(receipts),
        .receipts_untaken = N(receipts_untaken),
        .receipts_slow = N(receipts_slow),
        .receipts_p99_us = ev_load_relaxed(&bus->acks.p99_ns) / 1000, /* statistic */
        .tenants = ev_load_relaxed(&bus->tenants.count),              /* statistic */
        .ack_workers = ev_load_relaxed(&bus->acks.count),             /* statistic */
    };
#undef N
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
