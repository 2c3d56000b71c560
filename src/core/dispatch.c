/* SPDX-License-Identifier: Apache-2.0 */
#include "core/deadletter.h"
#include "core/envelope.h"
#include "core/message.h"

#include <stdio.h>
#include <string.h>

#define DONE_CAPACITY_MAX (1u << 20)
#define TICK_MAX EV_SEC
#define DONE_PER_TURN 1024
#define SETTLED_PER_INFLIGHT 4

evbus_status ev_dispatch_init(evbus *bus)
{
    evbus_status st = ev_ring_init(&bus->in.done, bus->cfg.o.held_max * 2);

    bus->in.tick = TICK_MAX;
    bus->in.breaker_due = EV_NEVER;
    if (st != EVBUS_OK || (st = ev_held_init(bus)) != EVBUS_OK)
        return st;
    return ev_aggs_init(bus);
}

void ev_dispatch_fini(evbus *bus)
{
    ev_aggs_fini(bus);
    ev_held_fini(bus);
    ev_ring_fini(&bus->in.done);
}

/* ---- Settling ---------------------------------------------------------------------------------------------------- */

bool ev_tell(evbus *bus, const struct evbus_sub *sub, void *token, enum ev_settle verb, int64_t delay_ns)
{
    return ev_may_act(bus, sub) && bus->ops->settle(bus->state, sub->binding, token, verb, delay_ns);
}

/* The broker is told and the message is gone; without a link, or the right to it, it stays until there is one. */
void ev_settle(evbus *bus, evbus_msg *m, enum ev_settle verb, int64_t delay_ns)
{
    struct evbus_sub *sub = m->sub;

    ev_settled_add(&sub->past->settled, ev_settled_key(m->stream_seq, m->stored_ns));
    if (sub->consumer.ack_all) {
        ev_frontier_done(m);
        ev_held_free(bus, m);
        return;
    }
    if (!sub->consumer.ack_explicit || ev_tell(bus, sub, m->token, verb, delay_ns)) {
        ev_held_free(bus, m);
        return;
    }
    m->phase = EV_MSG_UNSETTLED;
    m->verb = (uint8_t)verb;
    m->next = bus->in.unsettled;
    bus->in.unsettled = m;
}

/* It was given to this member ... */
static void note_given(struct evbus_sub *sub, const struct ev_delivery *d, bool in_a_row)
{
    if (d->stream_seq == 0)
        return;
    ev_span_add(&sub->past->span, d->stream_seq, d->stored_ns, in_a_row);
    ev_span_add(&sub->past->given, d->stream_seq, d->stored_ns, false);
}

/* ... and was not handled. */
static void note_not_given(struct evbus_sub *sub, uint64_t stream_seq)
{
    ev_span_hand_back(&sub->past->span, stream_seq);
    ev_span_hand_back(&sub->past->given, stream_seq);
}

void ev_hand_back(evbus *bus, evbus_msg *m)
{
    struct evbus_sub *sub = m->sub;
    const bool unhandled = sub->dismissed && m->attempt == 0 && sub->o.on_unhandled == EVBUS_UNHANDLED_ACK;

    note_not_given(sub, m->stream_seq);
    if (!sub->consumer.ack_explicit) {
        ev_count(&bus->n.plain_dropped, 1);
        sub->left_dropped++;
    } else if (ev_fenced(sub)) {
        ev_count(&bus->n.fenced, 1);
    } else if (unhandled && ev_tell(bus, sub, m->token, EV_SETTLE_ACK, 0)) {
        ev_count(&bus->n.unhandled, 1);
        sub->left_unhandled++;
    } else if (!unhandled && ev_tell(bus, sub, m->token, EV_SETTLE_NAK, 0)) {
        ev_count(&bus->n.handed_back, 1);
        sub->left_back++;
    } else {
        sub->left_unsettled++;
    }
    ev_held_free(bus, m);
}

void ev_let_go(evbus *bus, evbus_msg *m)
{
    if (!m->past_stream) {
        note_not_given(m->sub, m->stream_seq);
        ev_frontier_absent(&m->sub->frontier, m->stream_seq);
    }
    ev_count(&bus->n.handed_back, 1);
    ev_held_free(bus, m);
}

void ev_settle_again(evbus *bus)
{
    evbus_msg *m = bus->in.unsettled;

    bus->in.unsettled = NULL;
    while (m) {
        evbus_msg *next = m->next;
        ev_settle(bus, m, (enum ev_settle)m->verb, 0);
        m = next;
    }
}

/* ---- Deliveries -------------------------------------------------------------------------------------------------- */

void ev_dispatch_link_up(evbus *bus)
{
    ev_settle_again(bus);
    for (struct evbus_sub *sub = bus->in.attached, *next; sub; sub = next) {
        next = sub->next_attached;
        if (sub->detached)
            ev_sub_check_ended(sub); /* it may have waited for this settlement only, and be freed */
        else
            ev_room_changed(sub); /* the broker's idea of our room went with the old link */
    }
}

static void deliver_plain(evbus *bus, evbus_msg *m)
{
    m->env = (evbus_envelope){0};
    m->attempt = 1;
    m->phase = EV_MSG_OUT;
    m->sub->out++;
    bus->in.out++;
    ev_loop_runnable(bus, &m->job);
}

/* Strings are decoded beside the message; longer ones than usual get memory of their own. */
static evbus_status scan(evbus_msg *m)
{
    evbus_status st = ev_envelope_scan(m->data, m->len, m->text_inline, sizeof m->text_inline, &m->env);

    if (st != EVBUS_LIMIT)
        return st;
    m->text = ev_malloc(m->len + 16);
    if (!m->text) {
        m->text = m->text_inline;
        return EVBUS_NOMEM;
    }
    return ev_envelope_scan(m->data, m->len, m->text, m->len + 16, &m->env);
}

static void doom(evbus_msg *m, const char *cause, const char *detail)
{
    m->doomed = true;
    m->cause = cause;
    if (detail && !m->reason)
        m->reason = ev_strdup(detail);
}

static bool deliver_envelope(evbus *bus, evbus_msg *m, int64_t now)
{
    const char *id = "";
    size_t len = 0;
    const evbus_status st = scan(m);

    if (st == EVBUS_NOMEM)
        return false;
    if (st == EVBUS_OK) {
        id = m->env.aggregate_id;
        len = strlen(id);
    } else {
        m->env = (evbus_envelope){0};
        ev_count(&bus->n.not_envelope, 1);
        doom(m, "not an envelope", ev_detail());
    }
    if (len > EV_AGGREGATE_MAX) { /* white space around it, which the original lets pass */
        ev_count(&bus->n.not_envelope, 1);
        doom(m, "not an envelope", "aggregate_id is longer than 256 bytes");
        id = "";
        len = 0;
    }
    struct ev_agg *agg = ev_agg_get(bus, m->sub, id, len);
    if (!agg)
        return false;
    if (!m->doomed && m->deliveries > m->sub->o.deliveries_max) {
        ev_count(&bus->n.exhausted, 1);
        doom(m, "delivered too often without a verdict (deliveries_max): its handler may crash the process", NULL);
    }
    if (m->sub->gathering)
        ev_agg_insert(agg, m);
    else
        ev_agg_append(agg, m);
    ev_agg_account(bus, agg);
    ev_agg_next(bus, agg, now);
    return true;
}

/* It is here already: the broker's newer address is the one to settle; it is not run twice. */
static void delivered_again(evbus *bus, evbus_msg *m, const struct ev_delivery *d, int64_t now)
{
    ev_count(&bus->n.duplicates_held, 1);
    bus->ops->replace(bus->state, m->token, d->token);
    m->deliveries = d->delivery_count;
    m->past_stream = false; /* stored at that time, at that sequence: a copy of its stream */
    ev_held_touch(m, now);
    if (m->sub->consumer.ack_all)
        (void)ev_frontier_again(&m->sub->frontier, d->stream_seq, d->consumer_seq, m->gone && !m->fenced);
    if (m->fenced) /* it is ours again: the verdict under way counts */
        m->fenced = m->gone = false;
    else if (m->gone && !m->sub->consumer.ack_all)
        (void)ev_tell(bus, m->sub, m->token, EV_SETTLE_TERM, 0);
}

/* However long ago. Given once, not here and not handed back: it was settled here; or, below all that was given, by others
 * before its turn. Of a first delivery (the broker lost what it knew of the consumer and begins anew) also what lies
 * between two that were given in a row; a message that was delivered before, to whomever, has a higher count: of those
 * only what was really given to this member. Among SHARED members nothing is concluded, they hold what others do not
 * see. Nor of another stream. */
static bool given_before(struct evbus_sub *sub, const struct ev_delivery *d)
{
    const struct ev_span *given = d->delivery_count == 1 ? &sub->past->span : &sub->past->given;

    return sub->consumer.exclusive && ev_span_has(given, d->stream_seq, d->stored_ns);
}

/* It was settled here, but the broker does not know: it is told again. */
static bool settled_before(evbus *bus, struct evbus_sub *sub, const struct ev_delivery *d)
{
    const bool drop = EV_BUG(EV_BUG_DROP_ON_FULL) && sub->held > sub->o.inflight_max / 2;
    if (EV_BUG(EV_BUG_SETTLED_FORGOTTEN) ||
        (!drop && !ev_settled_has(&sub->past->settled, ev_settled_key(d->stream_seq, d->stored_ns)) &&
         !given_before(sub, d)))
        return false;
    ev_count(&bus->n.duplicates_settled, 1);
    if (sub->consumer.ack_all)
        (void)ev_frontier_again(&sub->frontier, d->stream_seq, d->consumer_seq, true);
    else
        (void)ev_tell(bus, sub, d->token, EV_SETTLE_ACK, 0);
    bus->ops->release(bus->state, d->token);
    return true;
}

/* Here already, or settled here before: nothing to run. What is above all before it needs not be looked for. */
static bool is_known(evbus *bus, struct evbus_sub *sub, const struct ev_delivery *d, int64_t now)
{
    if (d->stream_seq > sub->sequence_top && !EV_BUG(EV_BUG_DROP_ON_FULL)) {
        sub->sequence_top = d->stream_seq;
        return false;
    }
    evbus_msg *m = ev_held_find(bus, sub, d->stream_seq, d->stored_ns);
    if (m)
        delivered_again(bus, m, d, now);
    return m || settled_before(bus, sub, d);
}

static bool take_in(evbus *bus, struct evbus_sub *sub, const struct ev_delivery *d, bool in_a_row, int64_t now)
{
    if (sub->consumer.ack_all && !ev_frontier_take(sub, d))
        return false;
    evbus_msg *m = ev_held_new(bus, d, now);

    if (!m) {
        ev_frontier_absent(&sub->frontier, d->stream_seq);
        return false;
    }
    if (!sub->envelope) {
        deliver_plain(bus, m);
        return true;
    }
    if (!sub->past->settled.table)
        (void)ev_settled_init(&sub->past->settled, sub->o.inflight_max * SETTLED_PER_INFLIGHT);
    note_given(sub, d, in_a_row);
    if (sub->quiet) {
        ev_hand_back(bus, m);
        return true;
    }
    if (deliver_envelope(bus, m, now))
        return true;
    note_not_given(sub, d->stream_seq);
    ev_frontier_absent(&sub->frontier, d->stream_seq);
    (void)ev_tell(bus, sub, m->token, EV_SETTLE_NAK, EV_SEC);
    ev_held_free(bus, m);
    return true;
}

bool ev_dispatch_deliver(evbus *bus, const struct ev_delivery *d, int64_t now)
{
    struct evbus_sub *sub = d->sub;
    bool in_a_row;

    ev_count(&bus->n.delivered, 1);
    if (!ev_sub_has_past(sub))
        return false;
    ev_span_count(&sub->past->span, d->consumer_seq, &in_a_row);
    ev_room_changed(sub); /* whatever becomes of it: a part of the room that was announced is used up */
    if (d->delivery_count > 1)
        ev_count(&bus->n.redelivered, 1);
    ev_watch_seen(&sub->watched, d->stream_seq, in_a_row);
    if (d->settled) {
        ev_count(&bus->n.duplicates_settled, 1);
        bus->ops->release(bus->state, d->token);
        return true;
    }
    if (!sub->envelope && d->delivery_count > 1) {
        ev_count(&bus->n.plain_dropped, 1);
        bus->ops->release(bus->state, d->token);
        return true;
    }
    const bool room = bus->in.held_count < bus->cfg.o.held_max * 2;
    if (room && sub->envelope && is_known(bus, sub, d, now))
        return true;
    if (EV_BUG(EV_BUG_ACK_EARLY))
        (void)bus->ops->settle(bus->state, sub->binding, d->token, EV_SETTLE_ACK, 0);
    if (room && take_in(bus, sub, d, in_a_row, now))
        return true;
    ev_span_break(&sub->past->span);
    return false;
}

/* ---- Verdicts ---------------------------------------------------------------------------------------------------- */

static void retry(evbus *bus, evbus_msg *m, int64_t now)
{
    struct ev_agg *agg = m->agg;

    ev_count(&bus->n.retried, 1);
    ev_count(&m->sub->topic->retried, 1);
    agg->failing = true;
    if (m->sub->o.attempts_max != EVBUS_FOREVER && m->attempt >= m->sub->o.attempts_max) {
        ev_count(&bus->n.exhausted, 1);
        doom(m, "attempts exhausted (attempts_max)", NULL);
    } else {
        agg->ready_at = now + ev_retry_pause(m);
    }
    ev_frontier_give_up(m->sub);
    m->retry_after_ms = 0;
    m->phase = EV_MSG_QUEUED;
    (EV_BUG(EV_BUG_RETRY_BEHIND) ? ev_agg_append : ev_agg_put_back)(agg, m);
}

static void acknowledged(evbus *bus, evbus_msg *m)
{
    ev_count(&bus->n.handled, 1);
    ev_count(&m->sub->topic->handled, 1);
    if (m->agg)
        m->agg->failing = false;
    ev_settle(bus, m, EV_SETTLE_ACK, 0);
}

static void not_run(evbus_msg *m)
{
    m->attempt--;
    m->phase = EV_MSG_QUEUED;
    ev_agg_put_back(m->agg, m);
}

static void judge(evbus *bus, evbus_msg *m, int64_t now)
{
    switch (m->verdict) {
    case EVBUS_ACK:
        acknowledged(bus, m);
        break;
    case EVBUS_RETRY:
        retry(bus, m, now);
        break;
    case EV_VERDICT_NOT_RUN:
        not_run(m);
        break;
    default:
        ev_count(&bus->n.rejected, 1);
        m->agg->failing = true;
        m->agg->ready_at = 0;
        doom(m, "rejected by its handler", NULL);
        m->phase = EV_MSG_QUEUED;
        ev_agg_put_back(m->agg, m);
        break;
    }
}

static void came_back_plain(evbus *bus, evbus_msg *m)
{
    if (m->gone) {
        ev_held_free(bus, m);
        return;
    }
    if (m->verdict == EV_VERDICT_NOT_RUN) {
        ev_hand_back(bus, m);
        return;
    }
    ev_count(&bus->n.handler_runs, 1);
    ev_count(m->verdict == EVBUS_ACK     ? &bus->n.handled
             : m->verdict == EVBUS_RETRY ? &bus->n.retried
                                         : &bus->n.rejected,
             1);
    if (m->verdict == EVBUS_ACK)
        ev_count(&m->sub->topic->handled, 1);
    ev_held_free(bus, m);
}

/* The right to it went to another member, or its aggregate went on: only the memory came back. */
static void let_go(evbus *bus, evbus_msg *m)
{
    if (m->fenced)
        ev_count(&bus->n.fenced, 1);
    ev_held_free(bus, m);
}

/* Its aggregate went on without it (handler_timeout_ms); only the memory came back. */
static void came_back_abandoned(evbus *bus, evbus_msg *m)
{
    if (m->gone) {
        let_go(bus, m);
        return;
    }
    m->abandoned = false; /* its dead letter is still on its way: from now on a doomed head like any other */
    m->phase = EV_MSG_LETTER;
    ev_agg_put_back(m->agg, m);
}

static void came_back(evbus *bus, evbus_msg *m, int64_t now)
{
    struct evbus_sub *sub = m->sub;
    struct ev_agg *agg = m->agg;
    const bool probe = m->probe, failed = m->verdict == EVBUS_RETRY;
    const bool counts = m->verdict != EV_VERDICT_NOT_RUN && !m->abandoned && !m->gone && !m->fenced;

    sub->out--;
    bus->in.out--;
    if (sub->envelope && m->verdict != EV_VERDICT_NOT_RUN)
        ev_count(&bus->n.handler_runs, 1);
    if (!sub->envelope) {
        came_back_plain(bus, m);
    } else if (m->abandoned) {
        came_back_abandoned(bus, m);
    } else {
        agg->out--;
        if (m->gone || m->fenced)
            let_go(bus, m);
        else
            judge(bus, m, now);
        if (!sub->frontier.certain)
            ev_frontier_give_up(sub);
        if (ev_sub_stops(sub)) {
            ev_agg_stop(bus, agg, false, now);
        } else {
            ev_agg_account(bus, agg);
            ev_agg_next(bus, agg, now);
        }
    }
    ev_breaker_judge(bus, sub, probe, counts, failed, now);
    ev_sub_check_ended(sub);
}

static bool take_done(evbus *bus, int64_t now)
{
    uint32_t n = 0;
    void *item;

    while (n < DONE_PER_TURN && ev_ring_pop_one(&bus->in.done, &item)) { /* D4 */
        for (evbus_msg *m = item, *next; m; m = next) {
            next = m->next;
            m->next = NULL;
            came_back(bus, m, now);
            n++;
        }
    }
    return n > 0;
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

static void overdue(evbus *bus, evbus_msg *m)
{
    char text[160];

    m->overdue = true;
    ev_count(&bus->n.overdue, 1);
    (void)snprintf(text, sizeof text, "a handler runs for longer than handler_timeout_ms (%u), sequence %llu",
                   m->sub->o.handler_timeout_ms, (unsigned long long)m->stream_seq);
    ev_event(bus, EVBUS_EVENT_HANDLER_OVERDUE, EVBUS_TIMEOUT, 1, m->topic, m->sub->group, m->agg ? m->agg->id : "",
             text);
    ev_breaker_judge(bus, m->sub, m->probe, true, true, ev_now(bus));
    m->probe = false;
    if (!m->agg || m->sub->o.on_overdue != EVBUS_OVERDUE_DEAD_LETTER)
        return;
    /* The handler keeps the message's memory; the aggregate goes on without it once its letter is stored. */
    m->abandoned = true;
    m->agg->out--;
    doom(m, "its handler did not return in time (handler_timeout_ms)", NULL);
    ev_letter_start(bus, m);
}

static void find_overdue(evbus *bus, struct evbus_sub *sub, int64_t now)
{
    const int64_t limit = (int64_t)sub->o.handler_timeout_ms * EV_MS;

    if (sub->out == 0 || sub->o.handler_timeout_ms == EVBUS_FOREVER || !ev_may_act(bus, sub))
        return;
    for (evbus_msg *m = sub->oldest, *next; m; m = next) {
        next = m->newer;
        const int64_t started = ev_load_relaxed(&m->started_ns); /* hint: looked at again next time */
        if (m->phase == EV_MSG_OUT && !m->overdue && started && now - started >= limit)
            overdue(bus, m);
    }
}

static void tick(evbus *bus, int64_t now)
{
    const bool look = now >= bus->in.next_overdue;

    if (bus->in.attached == NULL || now < bus->in.next_tick)
        return;
    bus->in.next_tick = now + bus->in.tick;
    if (look)
        bus->in.next_overdue = now + TICK_MAX;
    for (struct evbus_sub *sub = bus->in.attached; sub; sub = sub->next_attached) {
        ev_held_leases(bus, sub, now);
        if (look) {
            find_overdue(bus, sub, now);
            ev_frontier_look(bus, sub);
        }
    }
}

bool ev_dispatch_turn(evbus *bus, int64_t now)
{
    ev_rights_check(bus);
    bool busy = take_done(bus, now);

    busy |= ev_aggs_wake(bus, now);
    busy |= ev_breaker_turn(bus, now);
    while (bus->in.given_up) {
        evbus_msg *m = bus->in.given_up;
        bus->in.given_up = m->given_up;
        ev_dispatch_letter_done(bus, m, true, now);
        busy = true;
    }
    tick(bus, now);
    return ev_frontiers_turn(bus, now) || busy;
}

int64_t ev_dispatch_due(const evbus *bus)
{
    int64_t due = ev_aggs_due(bus);

    if (bus->in.held_count && bus->in.next_tick < due)
        due = bus->in.next_tick;
    if (bus->in.breaker_due < due)
        due = bus->in.breaker_due;
    const int64_t told = ev_frontiers_due(bus);
    return told < due ? told : due;
}

/* ---- Subscriptions ----------------------------------------------------------------------------------------------- */

void ev_dispatch_room(evbus *bus, const struct evbus_sub *sub, struct ev_room *room)
{
    struct ev_dispatch *d = &bus->in;
    const uint32_t share = bus->cfg.o.held_max / (d->attached_count ? d->attached_count : 1);
    const uint32_t limit = share == 0 ? 1 : share < sub->o.inflight_max ? share : sub->o.inflight_max;
    const bool full = d->held_count >= bus->cfg.o.held_max || d->held_bytes >= bus->cfg.o.held_bytes_max;
    const bool closed = full || sub->stalled || ev_load_relaxed(&sub->breaker.state) == EVBUS_BREAKER_OPEN ||
                        sub->held_bytes >= sub->o.inflight_bytes_max;

    d->famine = d->famine || full;
    /* Until all that was delivered before is here, what is finished of it takes no room: it may be more than the window. */
    const bool waits = sub->frontier.certain && sub->frontier.count > sub->held;
    const uint32_t used = waits ? sub->frontier.count : sub->held;
    room->msgs = closed || used >= limit ? 0 : limit - used;
    room->bytes = closed ? 0 : sub->o.inflight_bytes_max - sub->held_bytes;
}

/* The bus was full and is not any more: everybody's room changed. */
static void end_famine(evbus *bus)
{
    struct ev_dispatch *d = &bus->in;

    if (!d->famine || d->held_count > bus->cfg.o.held_max / 8 * 7 || d->held_bytes > bus->cfg.o.held_bytes_max / 8 * 7)
        return;
    d->famine = false;
    for (struct evbus_sub *sub = d->attached; sub; sub = sub->next_attached)
        if (!sub->detached)
            ev_room_changed(sub);
}

void ev_dispatch_rooms(evbus *bus)
{
    struct ev_room room;

    end_famine(bus);
    struct evbus_sub *sub = bus->in.dirty;
    bus->in.dirty = NULL;
    while (sub) {
        struct evbus_sub *next = sub->next_dirty;
        sub->dirty = false;
        ev_frontier_moved(bus, sub, bus->turn_ns);
        if (sub->binding && !sub->detached) {
            ev_dispatch_room(bus, sub, &room);
            bus->ops->want(bus->state, sub->binding, room);
        }
        sub = next;
    }
}

/* ---- Dead letters ------------------------------------------------------------------------------------------------ */

/* The next doomed one behind the head, if its turn is now; the head itself goes through ev_agg_next. */
static evbus_msg *next_tail_letter(const struct ev_agg *agg)
{
    for (evbus_msg *m = agg->out ? agg->head : agg->head ? agg->head->next : NULL; m; m = m->next)
        if (m->doomed && m->phase == EV_MSG_QUEUED)
            return m;
    return NULL;
}

static void letter_failed(evbus_msg *m, int64_t now)
{
    struct ev_agg *agg = m->agg;

    if (m->abandoned) { /* still with its worker: found overdue again, and tried again */
        m->abandoned = m->overdue = m->doomed = false;
        m->phase = EV_MSG_OUT;
        agg->out++;
        return;
    }
    if (m->fenced) {
        (void)ev_agg_remove(agg, m);
        let_go(m->bus, m);
        return;
    }
    m->phase = EV_MSG_QUEUED;
    if (m == agg->head)
        agg->ready_at = now + EV_SEC;
}

static void letter_stored(evbus *bus, evbus_msg *m)
{
    struct ev_agg *agg = m->agg;

    if (m->abandoned) { /* the broker is told now; the memory is freed when the worker comes back */
        ev_settled_add(&m->sub->past->settled, ev_settled_key(m->stream_seq, m->stored_ns));
        if (m->sub->consumer.ack_all)
            ev_frontier_done(m);
        else if (!m->fenced)
            (void)ev_tell(bus, m->sub, m->token, EV_SETTLE_TERM, 0);
        m->gone = true;
        agg->failing = false;
        return;
    }
    if (m == agg->head && !agg->out)
        agg->failing = false;
    (void)ev_agg_remove(agg, m);
    if (m->fenced)
        let_go(bus, m);
    else
        ev_settle(bus, m, EV_SETTLE_TERM, 0);
}

void ev_dispatch_letter_done(evbus *bus, evbus_msg *m, bool stored, int64_t now)
{
    struct evbus_sub *sub = m->sub;
    struct ev_agg *agg = m->agg;

    agg->letter = false;
    if (stored)
        letter_stored(bus, m);
    else
        letter_failed(m, now);
    if (!stored)
        ev_frontier_give_up(sub);
    if (ev_sub_stops(sub)) {
        ev_agg_stop(bus, agg, false, now);
        ev_sub_check_ended(sub);
        return;
    }
    ev_agg_account(bus, agg);
    evbus_msg *tail = stored && !agg->letter ? next_tail_letter(agg) : NULL;
    if (tail && (agg->failing || agg->out) && ev_may_act(bus, sub))
        ev_letter_start(bus, tail);
    else
        ev_agg_next(bus, agg, now);
}
