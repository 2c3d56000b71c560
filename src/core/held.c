/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages that are here: found by (subscription, sequence), so that a redelivery of one is recognised; pooled, so
 * that nothing is allocated per message; listed by lease, so that what waits here is never delivered elsewhere because
 * its ack wait ran out. [loop] throughout.
 */
#include "core/message.h"

#include <string.h>

#define FIRST_BUCKETS 1024

evbus_status ev_held_init(evbus *bus)
{
    struct ev_dispatch *d = &bus->in;

    d->held = ev_calloc(FIRST_BUCKETS, sizeof *d->held);
    d->held_mask = FIRST_BUCKETS - 1;
    return d->held ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "out of memory for the table of messages");
}

static void msg_delete(evbus_msg *m)
{
    if (m->text != m->text_inline)
        ev_free(m->text);
    ev_free(m->reason);
    ev_free(m);
}

void ev_held_fini(evbus *bus)
{
    struct ev_dispatch *d = &bus->in;

    for (uint32_t i = 0; d->held && i <= d->held_mask; i++) {
        for (evbus_msg *m = d->held[i], *next; m; m = next) { /* deferred and never settled, or left behind */
            next = m->chain;
            bus->ops->release(bus->state, m->token);
            msg_delete(m);
        }
    }
    while (d->free_msgs) {
        evbus_msg *m = d->free_msgs;
        d->free_msgs = m->chain;
        msg_delete(m);
    }
    ev_free(d->held);
    d->held = NULL;
}

static uint32_t bucket(const struct ev_dispatch *d, const struct evbus_sub *sub, uint64_t seq)
{
    const uint64_t h = (seq ^ ((uint64_t)(uintptr_t)sub >> 4)) * UINT64_C(0x9e3779b97f4a7c15);

    return (uint32_t)(h >> 32) & d->held_mask;
}

evbus_msg *ev_held_find(const evbus *bus, const struct evbus_sub *sub, uint64_t stream_seq, int64_t stored_ns)
{
    evbus_msg *m = bus->in.held[bucket(&bus->in, sub, stream_seq)];

    /* The time as well: a broker that lost the end of its stream uses the sequences again for other messages. */
    while (m && (m->sub != sub || m->stream_seq != stream_seq || m->stored_ns != stored_ns))
        m = m->chain;
    return m;
}

bool ev_held_has(const evbus *bus, const struct evbus_sub *sub, uint64_t stream_seq)
{
    const evbus_msg *m = bus->in.held[bucket(&bus->in, sub, stream_seq)];

    while (m && (m->sub != sub || m->stream_seq != stream_seq || m->fenced || m->past_stream))
        m = m->chain;
    return m != NULL;
}

/* Twice the buckets; without memory the chains just get longer. */
static void grow(struct ev_dispatch *d)
{
    const uint32_t old_count = d->held_mask + 1;
    evbus_msg **old = d->held, **fresh = ev_calloc((size_t)old_count * 2, sizeof *fresh);

    if (!fresh)
        return;
    d->held = fresh;
    d->held_mask = old_count * 2 - 1;
    for (uint32_t i = 0; i < old_count; i++) {
        for (evbus_msg *m = old[i], *next; m; m = next) {
            next = m->chain;
            const uint32_t b = bucket(d, m->sub, m->stream_seq);
            m->chain = fresh[b];
            fresh[b] = m;
        }
    }
    ev_free(old);
}

static void table_remove(struct ev_dispatch *d, evbus_msg *msg)
{
    evbus_msg **link = &d->held[bucket(d, msg->sub, msg->stream_seq)];

    while (*link && *link != msg)
        link = &(*link)->chain;
    if (*link)
        *link = msg->chain;
}

static void lease_append(evbus_msg *m)
{
    struct evbus_sub *sub = m->sub;

    m->older = sub->newest;
    m->newer = NULL;
    if (sub->newest)
        sub->newest->newer = m;
    else
        sub->oldest = m;
    sub->newest = m;
}

static void lease_remove(evbus_msg *m)
{
    struct evbus_sub *sub = m->sub;

    if (m->older)
        m->older->newer = m->newer;
    else
        sub->oldest = m->newer;
    if (m->newer)
        m->newer->older = m->older;
    else
        sub->newest = m->older;
}

void ev_held_touch(evbus_msg *m, int64_t now)
{
    lease_remove(m);
    m->lease_ns = now;
    lease_append(m);
}

static evbus_msg *pool_get(evbus *bus)
{
    evbus_msg *m = bus->in.free_msgs;

    if (m) {
        bus->in.free_msgs = m->chain;
        __builtin_prefetch(m->chain, 1); /* the next delivery's */
        return m;
    }
    m = ev_calloc(1, sizeof *m);
    if (m) {
        m->bus = bus;
        m->text = m->text_inline;
        m->job.run = ev_msg_run;
    }
    return m;
}

void ev_room_changed(struct evbus_sub *sub)
{
    if (sub->dirty)
        return;
    sub->dirty = true;
    sub->next_dirty = sub->bus->in.dirty;
    sub->bus->in.dirty = sub;
}

evbus_msg *ev_held_new(evbus *bus, const struct ev_delivery *d, int64_t now)
{
    struct ev_dispatch *in = &bus->in;
    evbus_msg *m = pool_get(bus);

    if (!m)
        return NULL;
    m->sub = d->sub;
    m->agg = NULL;
    m->next = NULL;
    m->token = d->token;
    m->topic = d->topic;
    m->data = d->data;
    m->len = d->len;
    m->stream_seq = d->stream_seq;
    m->consumer_seq = d->consumer_seq;
    m->stored_ns = d->stored_ns;
    m->delivery_count = m->deliveries = d->delivery_count;
    m->attempt = 0;
    m->first_ns = now;
    m->lease_ns = now;
    m->ordinal = ++in->ordinal;
    m->phase = EV_MSG_QUEUED;
    m->probe = m->doomed = m->tail = m->overdue = m->abandoned = m->gone = m->fenced = m->past_stream = false;
    m->cause = NULL;
    m->retry_after_ms = 0;
    ev_store_relaxed(&m->started_ns, 0); /* own field until handed to a worker */
    ev_store_relaxed(&m->claim, EV_CLAIM_FREE);
    ev_store_relaxed(&m->defer, 0);
    if (in->held_count > in->held_mask)
        grow(in);
    const uint32_t b = bucket(in, m->sub, m->stream_seq);
    m->chain = in->held[b];
    in->held[b] = m;
    __builtin_prefetch(&in->held[bucket(in, m->sub, m->stream_seq + 1)], 1); /* most likely the next one's place */
    in->held_count++;
    in->held_bytes += m->len;
    m->sub->held++;
    m->sub->held_bytes += m->len;
    lease_append(m);
    ev_room_changed(m->sub);
    return m;
}

void ev_held_free(evbus *bus, evbus_msg *m)
{
    struct ev_dispatch *in = &bus->in;
    struct evbus_sub *sub = m->sub;

    table_remove(in, m);
    lease_remove(m);
    in->held_count--;
    in->held_bytes -= m->len;
    sub->held--;
    sub->held_bytes -= m->len;
    ev_room_changed(sub);
    bus->ops->release(bus->state, m->token);
    m->token = NULL;
    if (m->text != m->text_inline) {
        ev_free(m->text);
        m->text = m->text_inline;
    }
    if (m->reason) {
        ev_free(m->reason);
        m->reason = NULL;
    }
    m->chain = in->free_msgs;
    in->free_msgs = m;
}

/* A third of the ack wait is a good time: two renewals may be lost. */
void ev_held_leases(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    const int64_t third = (int64_t)sub->o.ack_wait_ms * EV_MS / 3;

    if (!sub->consumer.ack_explicit || !sub->binding || !ev_may_act(bus, sub))
        return;
    ev_frontier_leases(bus, sub, now);
    for (uint32_t n = sub->held; n > 0 && sub->oldest && now - sub->oldest->lease_ns >= third; n--) {
        evbus_msg *m = sub->oldest;
        if (m->phase != EV_MSG_UNSETTLED && !m->gone) {
            if (!bus->ops->settle(bus->state, sub->binding, m->token, EV_SETTLE_EXTEND, 0))
                return;
            ev_count(&bus->n.lease_extensions, 1);
        }
        ev_held_touch(m, now);
    }
}
