/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a subscription takes part: attached, active or standing by, fenced, stopped. [loop] but for the accessor.
 *
 * An EXCLUSIVE subscription of envelopes starts nothing until the backend says that it is the active member
 * (ev_host_active). Two things may take that from it:
 *
 *   suspended  The right is in doubt: no link, or it was not renewed in time (ev_host_rights). What is here stays,
 *              nothing of it is started and nothing settled until the right is back.
 *   fenced     The right is another member's (ev_host_active false). What was not started is dropped, for the other
 *              member has it; running handlers end, and their verdicts are not settled.
 */
#include "core/message.h"

#define TICK_MIN (10 * EV_MS)

/* ---- The right to act -------------------------------------------------------------------------------------------- */

bool ev_fenced(const struct evbus_sub *sub)
{
    return sub->consumer.exclusive && !ev_load_relaxed(&sub->active); /* own field */
}

bool ev_may_act(const evbus *bus, const struct evbus_sub *sub)
{
    return !sub->consumer.exclusive || (ev_load_relaxed(&sub->active) && !bus->in.suspended); /* own fields */
}

static void suspend(evbus *bus, bool suspended)
{
    if (bus->in.suspended == suspended)
        return;
    bus->in.suspended = suspended;
    if (suspended)
        return;
    ev_settle_again(bus);
    ev_aggs_resume(bus, NULL, ev_now(bus));
    for (struct evbus_sub *sub = bus->in.attached, *next; sub; sub = next) {
        next = sub->next_attached;
        if (sub->detached)
            ev_sub_check_ended(sub); /* it may have waited for a settlement only, and be freed */
        else if (sub->consumer.exclusive)
            ev_room_changed(sub);
    }
}

void ev_host_rights(struct ev_host *host, int64_t until)
{
    evbus *bus = ev_bus_of(host);

    if (until != ev_load_relaxed(&bus->rights_until)) /* own field */
        ev_store_release(&bus->rights_until, until);  /* D8 */
    suspend(bus, until <= bus->turn_ns); /* ev_rights_check looks at the clock before anything is done with it */
}

/* The process may have been stopped since the backend looked. */
void ev_rights_check(evbus *bus)
{
    const int64_t until = ev_load_relaxed(&bus->rights_until); /* own field */

    if (until != EV_NEVER && !bus->in.suspended && ev_now(bus) >= until)
        suspend(bus, true); /* the backend says when it is over: ev_host_rights */
}

static void fence(evbus *bus, struct evbus_sub *sub, int64_t now);

static void say_standby(evbus *bus, struct evbus_sub *sub)
{
    if (sub->standing_by)
        return;
    sub->standing_by = true;
    ev_count(&bus->n.standby, 1);
    ev_event(bus, EVBUS_EVENT_STANDBY, EVBUS_OK, 0, sub->topic->name, sub->group, NULL,
             "another member of this EXCLUSIVE group is active: this one stands by");
}

static void end_standby(evbus *bus, struct evbus_sub *sub)
{
    if (!sub->standing_by)
        return;
    sub->standing_by = false;
    ev_count(&bus->n.standby, UINT64_MAX); /* minus one */
}

void ev_host_active(struct ev_host *host, struct evbus_sub *sub, bool active)
{
    if (host->tap) {
        host->tap->active(host, sub, active);
        return;
    }
    evbus *bus = ev_bus_of(host);
    const bool was = ev_load_relaxed(&sub->active), detached = sub->detached; /* own fields */

    if (!sub->consumer.exclusive)
        return;
    if (!active) {
        ev_store_release(&sub->active, 0); /* D9 */
        if (was)
            fence(bus, sub, ev_now(bus)); /* a detached one may be gone after this */
        if (!detached)
            say_standby(bus, sub);
        return;
    }
    ev_store_release(&sub->active, 1);
    if (sub->standing_by) {
        end_standby(bus, sub);
        ev_count(&bus->n.takeovers, 1);
        ev_event(bus, EVBUS_EVENT_ACTIVE, EVBUS_OK, 0, sub->topic->name, sub->group, NULL,
                 "this member of the EXCLUSIVE group is the active one now");
    }
    if (!was)
        ev_tail_begin(bus, sub);
    if (!sub->detached)
        ev_room_changed(sub);
}

bool evbus_sub_active(const evbus_sub *sub)
{
    return sub && ev_load_acquire(&sub->active) != 0;
}

/* ---- Taking part ------------------------------------------------------------------------------------------------- */

void ev_dispatch_attach(evbus *bus, struct evbus_sub *sub)
{
    struct ev_dispatch *d = &bus->in;
    const int64_t step = (int64_t)sub->o.ack_wait_ms * EV_MS / 8;

    sub->next_attached = d->attached;
    d->attached = sub;
    d->attached_count++;
    for (struct evbus_sub *s = d->attached; (d->attached_count & (d->attached_count - 1)) == 0 && s;
         s = s->next_attached)
        if (!s->detached && s->binding)
            ev_room_changed(s); /* everybody's share of held_max is half of what it was */
    if (step < d->tick)
        d->tick = step < TICK_MIN ? TICK_MIN : step;
    bus->ops->attach(bus->state, sub->binding);
    ev_room_changed(sub);
}

void ev_dispatch_rebound(evbus *bus, struct evbus_sub *sub)
{
    ev_frontier_clear(&sub->frontier);
    ev_store_relaxed(&sub->watched.seen, 0); /* its stream may be another: its sequences begin anew */
    bus->ops->attach(bus->state, sub->binding);
    ev_room_changed(sub);
}

/* A message with a worker that has not started: the broker gets it again, the worker will find it revoked. */
static void revoke(evbus *bus, evbus_msg *m)
{
    uint32_t seen = EV_CLAIM_FREE;

    if (m->phase != EV_MSG_OUT || m->gone || !ev_cas_acqrel(&m->claim, &seen, EV_CLAIM_REVOKED)) /* D7 */
        return;
    m->gone = true;
    if (ev_fenced(m->sub)) {
        m->fenced = true;
    } else if (m->sub->consumer.ack_explicit && ev_tell(bus, m->sub, m->token, EV_SETTLE_NAK, 0)) {
        ev_count(&bus->n.handed_back, 1);
        m->sub->left_back++;
    } else if (m->sub->consumer.ack_explicit) {
        m->sub->left_unsettled++;
    } else {
        ev_count(&bus->n.plain_dropped, 1);
        m->sub->left_dropped++;
    }
}

/* What could not be told to the broker will be delivered again. */
static void forget_unsettled(evbus *bus, struct evbus_sub *sub)
{
    evbus_msg **link = &bus->in.unsettled;

    while (*link) {
        evbus_msg *m = *link;
        if (m->sub != sub) {
            link = &m->next;
            continue;
        }
        *link = m->next;
        if (ev_fenced(sub))
            ev_count(&bus->n.fenced, 1);
        else
            sub->left_unsettled++;
        ev_held_free(bus, m);
    }
}

void ev_sub_forget_given(struct evbus_sub *sub)
{
    if (!sub->past)
        return;
    ev_span_forget(&sub->past->span);
    ev_span_forget(&sub->past->given);
}

/* Another member has what is here. A handler that runs is let be; its verdict will not be settled. */
static void fence(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    for (evbus_msg *m = sub->oldest, *next; m; m = next) {
        next = m->newer;
        revoke(bus, m);
        if (!m->gone && (m->phase == EV_MSG_OUT || m->phase == EV_MSG_LETTER))
            m->fenced = true;
    }
    ev_aggs_stop(bus, sub, true, now);
    ev_frontier_clear(&sub->frontier);
    ev_sub_forget_given(sub); /* it was given to us, and not settled by us */
    ev_dispatch_gather(bus, sub, false, now);
    forget_unsettled(bus, sub);
    ev_sub_check_ended(sub);
}

static void leave(evbus *bus, struct evbus_sub *sub)
{
    if (sub->detached)
        return;
    sub->detached = true;
    bus->in.attached_count--;
    sub->quiet = !sub->binding || (sub->rebinding && !sub->moving); /* a lost binding was detached when it was lost */
    if (!sub->quiet)
        bus->ops->detach(bus->state, sub->binding);
}

void ev_dispatch_quiet(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    ev_sub_moved(sub);
    if (!sub->detached || sub->quiet)
        return;
    sub->quiet = true;
    if (sub->stopping)
        return;
    if (ev_sub_stops(sub))
        ev_aggs_stop(bus, sub, false, now);
    ev_sub_check_ended(sub);
}

void ev_dispatch_forget(evbus *bus, struct evbus_sub *sub)
{
    struct evbus_sub **link = &bus->in.attached;

    end_standby(bus, sub);
    ev_breaker_forget(bus, sub);
    while (*link && *link != sub)
        link = &(*link)->next_attached;
    if (*link)
        *link = sub->next_attached;
    for (link = &bus->in.lagging; sub->lagging && *link; link = &(*link)->next_lagging) {
        if (*link != sub)
            continue;
        *link = sub->next_lagging;
        sub->lagging = false;
        break;
    }
    for (link = &bus->in.dirty; sub->dirty && *link; link = &(*link)->next_dirty) {
        if (*link != sub)
            continue;
        *link = sub->next_dirty;
        sub->dirty = false;
        break;
    }
}

void ev_dispatch_stop(evbus *bus, struct evbus_sub *sub, bool force, int64_t now)
{
    sub->stopping = true;
    if (sub->consumer.ack_all && !sub->detached && !ev_load_relaxed(&sub->stop)) /* own field */
        sub->finish_to = force ? 0 : ev_frontier_finish_to(bus, sub);
    if (force)
        sub->finish_to = 0;
    if ((sub->envelope && sub->finish_to == 0) || force)
        ev_store_release(&sub->stop, 1);
    leave(bus, sub);
    for (evbus_msg *m = sub->oldest, *next; force && m; m = next) {
        next = m->newer;
        revoke(bus, m);
    }
    if (sub->envelope)
        ev_aggs_stop(bus, sub, force, now);
    if (force || !ev_link_is_up(bus) || !ev_may_act(bus, sub))
        forget_unsettled(bus, sub);
    sub->stopping = false;
    ev_sub_check_ended(sub);
}
