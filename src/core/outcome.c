/* SPDX-License-Identifier: Apache-2.0 */
#include "core/outcome.h"

#include "core/deadletter.h"

#include <stddef.h>

static void count(evbus *bus, const struct ev_slot *slot)
{
    struct ev_topic *t = slot->topic;

    switch (slot->outcome) {
    case EVBUS_OUTCOME_STORED:
        if (!slot->want_ack) {
            ev_count(&bus->n.core, 1);
            ev_count(&t->core, 1);
            break;
        }
        ev_count(&bus->n.stored, 1);
        ev_count(&bus->n.latency_ns, (uint64_t)(slot->completed_ns - slot->accepted_ns));
        ev_count(&bus->n.latency_count, 1);
        ev_count(&t->stored, 1);
        if (slot->dup) {
            ev_count(&bus->n.duplicate, 1);
            ev_count(&t->duplicate, 1);
        }
        break;
    case EVBUS_OUTCOME_REFUSED:
        ev_count(&bus->n.refused, 1);
        ev_count(&t->refused, 1);
        break;
    case EVBUS_OUTCOME_UNKNOWN:
        ev_count(&bus->n.unknown, 1);
        ev_count(&t->unknown, 1);
        break;
    }
}

void ev_receipt_fill(const struct ev_slot *slot, evbus_receipt *ret)
{
    const size_t size = ret->struct_size;

    EV_READS(&slot->outcome);
    *ret = (evbus_receipt){
        .struct_size = size,
        .outcome = slot->outcome,
        .status = slot->status,
        .tag = slot->tag,
        .sequence = slot->sequence,
        .tenant_id = slot->tenant,
        .accepted_ns = slot->accepted_ns,
        .completed_ns = slot->completed_ns,
        .duplicate = slot->dup,
        .is_envelope = slot->kind != EV_SLOT_PLAIN,
        .broker_code = slot->broker_code,
    };
    (void)ev_copy(ret->event_id, sizeof ret->event_id, ev_slot_text(slot, slot->event_id));
    (void)ev_copy(ret->aggregate_id, sizeof ret->aggregate_id, ev_slot_text(slot, slot->aggregate_id));
    (void)ev_copy(ret->topic, sizeof ret->topic, slot->topic->name);
    (void)ev_copy(ret->stream, sizeof ret->stream, slot->stream ? slot->stream : "");
    (void)ev_copy(ret->detail, sizeof ret->detail, slot->detail ? slot->detail : "");
}

/* On a worker: the application hears of a publish that was not stored, then its place is free again. */
static void tell_application(struct ev_job *job)
{
    struct ev_slot *slot = (struct ev_slot *)((char *)job - offsetof(struct ev_slot, job));
    evbus *bus = slot->topic->bus;
    evbus_receipt receipt = {.struct_size = sizeof receipt};

    ev_receipt_fill(slot, &receipt);
    bus->cfg.o.on_publish_error(&receipt, bus->cfg.o.on_publish_error_ctx);
    ev_slot_give_back(bus, slot);
    ev_park_wake(&bus->slots.room, UINT32_MAX);
}

static void log_failure(evbus *bus, const struct ev_slot *slot)
{
    ev_log_some(bus, EVBUS_LOG_WARN, "publish", "topic '%s': publish ended %s: %s%s%s", slot->topic->name,
                slot->outcome == EVBUS_OUTCOME_REFUSED ? "refused" : "unknown", evbus_strerror(slot->status),
                slot->detail ? ": " : "", slot->detail ? slot->detail : "");
}

void ev_outcome(evbus *bus, struct ev_slot *slot)
{
    if (slot->kind == EV_SLOT_LETTER) {
        ev_letter_done(bus, slot);
        return;
    }
    count(bus, slot);
    if (slot->kind == EV_SLOT_WAIT) {
        ev_store_seqcst(&slot->state, EV_SLOT_DONE); /* P3 */
        ev_park_wake(&slot->done, UINT32_MAX);
        if (bus->manual)
            ev_bus_changed(bus);
        return;
    }
    if (slot->outcome != EVBUS_OUTCOME_STORED)
        log_failure(bus, slot);
    if (slot->receipt) {
        ev_receipt_put(bus, slot);
    } else if (slot->outcome != EVBUS_OUTCOME_STORED) {
        if (bus->cfg.o.on_publish_error && !EV_BUG(EV_BUG_RECEIPT_DROPPED)) {
            ev_store_seqcst(&slot->state, EV_SLOT_DONE);
            slot->job.run = tell_application;
            ev_loop_runnable(bus, &slot->job);
            return;
        }
    }
    ev_slot_release(bus, slot);
}
