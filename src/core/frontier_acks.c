/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frontier acks: when the broker is told how far a member is. At once when a batch has moved, or nothing of the
 * subscription runs; otherwise LAG later. [loop] throughout.
 *
 * What is finished and waits for one before it keeps its lease: the broker would deliver it again otherwise, and count.
 */
#include "core/message.h"

#include <inttypes.h>
#include <stdio.h>

#define LAG (2 * EV_MS)
#define BATCH_MAX 256u
#define BATCHES 8u      /* of the window */
#define PER_INFLIGHT 2u /* a broker that lost its state delivers anew what it had */

bool ev_frontier_take(struct evbus_sub *sub, const struct ev_delivery *d)
{
    struct ev_frontier *f = &sub->frontier;

    if ((f->ring || ev_frontier_init(f, sub->o.inflight_max * PER_INFLIGHT)) &&
        ev_frontier_add(f, d->stream_seq, d->consumer_seq))
        return true;
    f->certain = false; /* the backend hears that it was not taken in */
    return false;
}

bool ev_frontier_recall(struct evbus_sub *sub)
{
    for (const evbus_msg *m = sub->oldest; m; m = m->newer)
        if (!m->gone && !m->fenced && !m->past_stream && !ev_frontier_again(&sub->frontier, m->stream_seq, 0, false))
            return false;
    return true;
}

void ev_frontier_done(const evbus_msg *m)
{
    if (!m->past_stream)
        ev_frontier_finish(&m->sub->frontier, m->stream_seq);
}

/* False: not now. */
static bool tell(evbus *bus, struct evbus_sub *sub)
{
    uint64_t seq, count;

    if (!ev_frontier_at(&sub->frontier, &seq, &count) || !sub->binding || !ev_may_act(bus, sub) ||
        !bus->ops->settle_seq(bus->state, sub->binding, EV_SETTLE_ACK, seq, count))
        return false;
    ev_frontier_told(&sub->frontier);
    return true;
}

static bool is_due(const struct evbus_sub *sub)
{
    const uint32_t batch = sub->o.inflight_max / BATCHES;

    return sub->out == 0 || sub->frontier.ready >= (batch < BATCH_MAX ? batch : BATCH_MAX);
}

void ev_frontier_moved(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    struct ev_dispatch *d = &bus->in;

    if (sub->frontier.ready == 0 || (is_due(sub) && tell(bus, sub)) || sub->lagging || !sub->frontier.certain)
        return;
    if (!d->lagging)
        d->next_lag = now + LAG;
    sub->lagging = true;
    sub->next_lagging = d->lagging;
    d->lagging = sub;
}

/* Who cannot tell now does when the link, the right or the certainty is back: its room changes then. */
bool ev_frontiers_turn(evbus *bus, int64_t now)
{
    struct evbus_sub *sub = bus->in.lagging;

    if (!sub || now < bus->in.next_lag)
        return false;
    bus->in.lagging = NULL;
    for (struct evbus_sub *next; sub; sub = next) {
        next = sub->next_lagging;
        sub->lagging = false;
        if (tell(bus, sub))
            ev_room_changed(sub);
        else if (ev_link_is_up(bus) && ev_may_act(bus, sub))
            ev_frontier_moved(bus, sub, now);
    }
    return true;
}

int64_t ev_frontiers_due(const evbus *bus)
{
    return bus->in.lagging ? bus->in.next_lag : EV_NEVER;
}

void ev_frontier_leases(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    const struct ev_frontier *f = &sub->frontier;

    if (f->count == 0 || now - sub->frontier_lease < (int64_t)sub->o.ack_wait_ms * EV_MS / 3)
        return;
    sub->frontier_lease = now;
    for (uint32_t i = 0; i < f->count; i++) {
        const struct ev_frontier_entry *e = ev_frontier_entry(f, i);
        if (e->open > 0)
            continue;
        if (!bus->ops->settle_seq(bus->state, sub->binding, EV_SETTLE_EXTEND, e->seq, f->top))
            return;
        ev_count(&bus->n.lease_extensions, 1);
    }
}

/* Twice in a row the same one is in front, and the window is full behind it. */
void ev_frontier_look(evbus *bus, struct evbus_sub *sub)
{
    const struct ev_frontier *f = &sub->frontier;
    const uint64_t front = f->count > 0 ? ev_frontier_entry(f, 0)->seq : 0;
    const bool same = front != 0 && front == sub->frontier_front, full = f->count >= sub->o.inflight_max;
    char text[200];

    sub->frontier_front = front;
    if (sub->frontier_held == (same && (full || sub->frontier_held)))
        return;
    sub->frontier_held = same;
    if (same)
        ev_count(&bus->n.stalls, 1);
    const evbus_msg *m = sub->oldest;
    while (m && m->stream_seq != front)
        m = m->newer;
    (void)snprintf(text, sizeof text,
                   same ? "pulling stops: sequence %" PRIu64
                          " is not done, and inflight_max messages behind it wait for the "
                          "frontier"
                        : "pulling goes on: the frontier is at %" PRIu64,
                   front);
    ev_event(bus, same ? EVBUS_EVENT_STALLED : EVBUS_EVENT_RESUMED, EVBUS_OK, f->count, sub->topic->name, sub->group,
             m && m->agg ? m->agg->id : "", text);
}

uint64_t ev_frontier_finish_to(const evbus *bus, const struct evbus_sub *sub)
{
    const struct ev_frontier *f = &sub->frontier;
    uint64_t to = 0;

    if (!f->certain || sub->gathering || (sub->tail && sub->tail->unknown) ||
        ev_load_relaxed(&sub->breaker.state) != EVBUS_BREAKER_CLOSED || /* own field */ ev_load_relaxed(&sub->defers) ||
        !ev_link_is_up(bus) || !ev_may_act(bus, sub) || ev_aggs_pause(bus, sub))
        return 0;
    for (evbus_msg *m = sub->oldest; m; m = m->newer) {
        uint32_t seen = EV_CLAIM_FREE;
        const bool taken_back = m->phase == EV_MSG_OUT && ev_cas_acqrel(&m->claim, &seen, EV_CLAIM_REVOKED); /* D7 */
        if (!taken_back && m->phase != EV_MSG_QUEUED && m->stream_seq > to)
            to = m->stream_seq;
    }
    for (uint32_t i = f->count; i > 0 && ev_frontier_entry(f, i - 1)->seq > to; i--)
        if (ev_frontier_entry(f, i - 1)->open == 0)
            to = ev_frontier_entry(f, i - 1)->seq;
    return to;
}

void ev_frontier_give_up(struct evbus_sub *sub)
{
    if (sub->finish_to == 0)
        return;
    sub->finish_to = 0;
    ev_store_release(&sub->stop, 1);
}

void ev_frontier_end(evbus *bus, struct evbus_sub *sub)
{
    struct ev_frontier *f = &sub->frontier;

    (void)tell(bus, sub);
    for (uint32_t i = 0; i < f->count; i++) {
        const struct ev_frontier_entry *e = ev_frontier_entry(f, i);
        if (e->open > 0)
            continue; /* handed back, or counted */
        if (sub->binding && ev_may_act(bus, sub) &&
            bus->ops->settle_seq(bus->state, sub->binding, EV_SETTLE_NAK, e->seq, f->top))
            ev_count(&bus->n.handed_back, 1);
        else
            sub->left_unsettled++;
    }
    ev_frontier_clear(f);
}
