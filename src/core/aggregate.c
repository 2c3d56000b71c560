/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aggregates: queues in order, one per (subscription, aggregate id) that has messages here. [loop] throughout.
 *
 * Life         first message -> READY -> a run is handed out (IDLE, out > 0) -> messages come back -> next run, or a
 *              pause after a failure, or a dead letter -> empty: freed.
 */
#include "core/deadletter.h"
#include "core/message.h"
#include "core/rate.h"

#include <stddef.h>
#include <string.h>

#define FIRST_BUCKETS 1024
#define FIRST_HEAP 256

evbus_status ev_aggs_init(evbus *bus)
{
    struct ev_dispatch *d = &bus->in;

    d->aggs = ev_calloc(FIRST_BUCKETS, sizeof(*d->aggs));
    d->agg_mask = FIRST_BUCKETS - 1;
    d->heap = ev_calloc(FIRST_HEAP, sizeof(*d->heap));
    d->heap_cap = FIRST_HEAP;
    return d->aggs && d->heap ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "out of memory for the table of aggregates");
}

void ev_aggs_fini(evbus *bus)
{
    struct ev_dispatch *d = &bus->in;

    for (uint32_t i = 0; d->aggs && i <= d->agg_mask; i++) {
        for (struct ev_agg *a = d->aggs[i], *next; a; a = next) {
            next = a->chain;
            ev_tail_forget(bus, a);
            ev_free(a);
        }
    }
    while (d->free_aggs) {
        struct ev_agg *a = d->free_aggs;
        d->free_aggs = a->chain;
        ev_free(a);
    }
    ev_free(d->aggs);
    ev_free(d->heap);
    d->aggs = NULL;
    d->heap = NULL;
}

/* ---- The heap of paused ones ------------------------------------------------------------------------------------- */

static void heap_set(struct ev_dispatch *d, uint32_t i, struct ev_agg *a)
{
    d->heap[i] = a;
    a->timer.index = i;
}

static void heap_up(struct ev_dispatch *d, uint32_t i, struct ev_agg *a)
{
    while (i > 1 && d->heap[i / 2]->timer.at > a->timer.at) {
        heap_set(d, i, d->heap[i / 2]);
        i /= 2;
    }
    heap_set(d, i, a);
}

static void heap_down(struct ev_dispatch *d, uint32_t i, struct ev_agg *a)
{
    for (;;) {
        uint32_t child = i * 2;
        if (child > d->heap_count)
            break;
        if (child < d->heap_count && d->heap[child + 1]->timer.at < d->heap[child]->timer.at)
            child++;
        if (d->heap[child]->timer.at >= a->timer.at)
            break;
        heap_set(d, i, d->heap[child]);
        i = child;
    }
    heap_set(d, i, a);
}

/* Room for every aggregate there is, made before one is added: pausing never fails. */
static bool heap_reserve(struct ev_dispatch *d)
{
    if (d->agg_count + 2 < d->heap_cap)
        return true;
    struct ev_agg **more = ev_realloc(d->heap, (size_t)d->heap_cap * 2 * sizeof(*more));
    if (!more)
        return false;
    d->heap = more;
    d->heap_cap *= 2;
    return true;
}

static void heap_push(struct ev_dispatch *d, struct ev_agg *a, int64_t at)
{
    a->timer.at = at;
    heap_up(d, ++d->heap_count, a);
}

static void heap_remove(struct ev_dispatch *d, struct ev_agg *a)
{
    const uint32_t i = a->timer.index;
    struct ev_agg *last = d->heap[d->heap_count--];

    a->timer.index = 0;
    if (last == a)
        return;
    if (i > 1 && d->heap[i / 2]->timer.at > last->timer.at)
        heap_up(d, i, last);
    else
        heap_down(d, i, last);
}

int64_t ev_aggs_due(const evbus *bus)
{
    return bus->in.heap_count ? bus->in.heap[1]->timer.at : EV_NEVER;
}

bool ev_aggs_wake(evbus *bus, int64_t now)
{
    bool any = false;

    while (bus->in.heap_count && bus->in.heap[1]->timer.at <= now) {
        struct ev_agg *a = bus->in.heap[1];
        heap_remove(&bus->in, a);
        a->state = EV_AGG_IDLE;
        ev_agg_next(bus, a, now);
        any = true;
    }
    return any;
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static void grow(struct ev_dispatch *d)
{
    const uint32_t old_count = d->agg_mask + 1;
    struct ev_agg **old = d->aggs, **fresh = ev_calloc((size_t)old_count * 2, sizeof(*fresh));

    if (!fresh)
        return;
    d->aggs = fresh;
    d->agg_mask = old_count * 2 - 1;
    for (uint32_t i = 0; i < old_count; i++) {
        for (struct ev_agg *a = old[i], *next; a; a = next) {
            next = a->chain;
            struct ev_agg **b = &fresh[a->hash & d->agg_mask];
            a->chain = *b;
            *b = a;
        }
    }
    ev_free(old);
}

static struct ev_job *hand_out(evbus *bus, struct ev_job *job);

struct ev_agg *ev_agg_get(evbus *bus, struct evbus_sub *sub, const char *id, size_t len)
{
    struct ev_dispatch *d = &bus->in;
    const uint64_t hash = ev_fnv1a(id, len) ^ ((uint64_t)(uintptr_t)sub >> 4) * UINT64_C(0x9e3779b97f4a7c15);
    struct ev_agg *a = d->aggs[hash & d->agg_mask];

    while (a && (a->hash != hash || a->sub != sub || a->len != len || memcmp(a->id, id, len) != 0))
        a = a->chain;
    if (a)
        return a;
    if (!heap_reserve(d))
        return NULL;
    if (d->free_aggs) {
        a = d->free_aggs;
        d->free_aggs = a->chain;
    } else if (!(a = ev_malloc(sizeof(*a)))) {
        return NULL;
    }
    memset(a, 0, offsetof(struct ev_agg, id));
    a->job.ready = hand_out;
    a->sub = sub;
    a->hash = hash;
    a->len = (uint16_t)len;
    memcpy(a->id, id, len);
    a->id[len] = 0;
    if (d->agg_count > d->agg_mask)
        grow(d);
    a->chain = d->aggs[hash & d->agg_mask];
    d->aggs[hash & d->agg_mask] = a;
    d->agg_count++;
    return a;
}

static void agg_free(struct ev_dispatch *d, struct ev_agg *agg)
{
    struct ev_agg **link = &d->aggs[agg->hash & d->agg_mask];

    while (*link != agg)
        link = &(*link)->chain;
    *link = agg->chain;
    d->agg_count--;
    agg->chain = d->free_aggs;
    d->free_aggs = agg;
}

/* ---- The queue --------------------------------------------------------------------------------------------------- */

void ev_agg_append(struct ev_agg *agg, evbus_msg *msg)
{
    msg->agg = agg;
    msg->next = NULL;
    if (agg->tail)
        agg->tail->next = msg;
    else
        agg->head = msg;
    agg->tail = msg;
    agg->count++;
}

void ev_agg_insert(struct ev_agg *agg, evbus_msg *msg)
{
    evbus_msg **link = &agg->head;

    if (agg->tail && agg->tail->stream_seq < msg->stream_seq) {
        ev_agg_append(agg, msg);
        return;
    }
    while (*link && (*link)->stream_seq < msg->stream_seq)
        link = &(*link)->next;
    msg->agg = agg;
    msg->next = *link;
    *link = msg;
    if (!msg->next)
        agg->tail = msg;
    agg->count++;
}

void ev_agg_put_back(struct ev_agg *agg, evbus_msg *msg)
{
    evbus_msg **link = &agg->head;

    while (*link && (*link)->ordinal < msg->ordinal)
        link = &(*link)->next;
    msg->next = *link;
    *link = msg;
    if (!msg->next)
        agg->tail = msg;
    agg->count++;
}

bool ev_agg_remove(struct ev_agg *agg, evbus_msg *msg)
{
    evbus_msg *before = NULL;

    for (evbus_msg *m = agg->head; m; before = m, m = m->next) {
        if (m != msg)
            continue;
        if (before)
            before->next = m->next;
        else
            agg->head = m->next;
        if (agg->tail == m)
            agg->tail = before;
        m->next = NULL;
        agg->count--;
        return true;
    }
    return false;
}

/* ---- What waits -------------------------------------------------------------------------------------------------- */

/* The failing aggregate's tail goes to the dead-letter topic, in order, one letter at a time. */
static void doom_tail(evbus *bus, struct ev_agg *agg)
{
    evbus_msg *first = agg->out ? agg->head : agg->head ? agg->head->next : NULL;

    for (evbus_msg *m = first; m; m = m->next) {
        if (!m->doomed && m->phase == EV_MSG_QUEUED) {
            m->doomed = true;
            m->cause = "too much waited behind a failing message of its aggregate";
        }
    }
    if (first && !agg->letter && ev_may_act(bus, agg->sub))
        ev_letter_start(bus, first);
}

static void judge_stall(evbus *bus, struct ev_agg *agg)
{
    struct evbus_sub *sub = agg->sub;
    const bool full = sub->waiting > sub->o.waiting_max || sub->hot > 0;

    if (full && sub->o.on_waiting_full == EVBUS_WAITING_DEAD_LETTER && agg->failing) {
        doom_tail(bus, agg);
        return;
    }
    if (full == sub->stalled)
        return;
    sub->stalled = full;
    if (full)
        ev_count(&bus->n.stalls, 1);
    ev_event(bus, full ? EVBUS_EVENT_STALLED : EVBUS_EVENT_RESUMED, EVBUS_OK, sub->waiting, sub->topic->name,
             sub->group, agg->id,
             full ? "pulling stops: too much waits behind a failing aggregate (waiting_max, aggregate_waiting_max)"
                  : "pulling goes on");
}

void ev_agg_account(evbus *bus, struct ev_agg *agg)
{
    struct evbus_sub *sub = agg->sub;
    const uint32_t behind = agg->out ? agg->count : agg->count ? agg->count - 1 : 0;
    const uint32_t charged = agg->failing ? behind : 0;

    if (charged == agg->charged && charged == 0)
        return;
    sub->waiting += charged - agg->charged;
    agg->charged = charged;
    const bool hot = charged > sub->o.aggregate_waiting_max;
    if (hot != agg->hot) {
        agg->hot = hot;
        sub->hot += hot ? 1 : UINT32_MAX; /* minus one */
    }
    judge_stall(bus, agg);
}

/* ---- What happens next ------------------------------------------------------------------------------------------- */

/* Nothing starts, and no letter is sent, before that. */
static bool may_start(const evbus *bus, const struct evbus_sub *sub)
{
    return !sub->gathering && ev_may_act(bus, sub) && !(sub->tail && sub->tail->unknown);
}

static uint32_t run_length(const struct ev_agg *agg)
{
    /* A head that may fail again runs alone, and what has a rate limit, and what is parked; so does everything whose
     * handler may be given up on. */
    const bool alone =
        agg->failing || agg->parked || agg->sub->o.on_overdue == EVBUS_OVERDUE_DEAD_LETTER || agg->sub->o.rate_per_s;
    return alone ? 1 : EV_RUN_MAX;
}

static bool is_next(const struct ev_agg *agg, const evbus_msg *m)
{
    const uint64_t to = agg->sub->finish_to;

    return m && !m->doomed && m->phase == EV_MSG_QUEUED && (to == 0 || m->stream_seq <= to);
}

/* Its turn has come in the runnable list: the run goes to a worker. */
static struct ev_job *hand_out(evbus *bus, struct ev_job *job)
{
    struct ev_agg *agg = (struct ev_agg *)((char *)job - offsetof(struct ev_agg, job));
    evbus_msg *head = agg->head, *last = NULL;
    struct evbus_sub *sub = agg->sub;
    uint32_t most = run_length(agg);
    bool probe;

    agg->state = EV_AGG_IDLE;
    if (!may_start(bus, sub) || !ev_breaker_lets(sub) || (sub->o.rate_per_s && !ev_rate_run(agg, ev_now(bus)))) {
        ev_agg_next(bus, agg, ev_now(bus)); /* it waits, or is freed */
        return NULL;
    }
    if ((probe = ev_breaker_probe(sub)))
        most = 1;
    for (uint32_t n = 0; n < most && is_next(agg, agg->head); n++) {
        last = agg->head;
        agg->head = last->next;
        last->phase = EV_MSG_OUT;
        last->probe = probe;
        last->delivery_count = last->deliveries;
        last->attempt++;
        ev_store_relaxed(&last->started_ns, 0); /* published by D1, as the next two */
        ev_store_relaxed(&last->claim, EV_CLAIM_FREE);
        ev_store_relaxed(&last->defer, 0);
        agg->count--;
        agg->out++;
        sub->out++;
        bus->in.out++;
    }
    if (!last) {
        ev_agg_next(bus, agg, ev_now(bus));
        ev_breaker_judge(bus, sub, probe, false, false, ev_now(bus));
        return NULL;
    }
    last->next = NULL;
    if (!agg->head)
        agg->tail = NULL;
    ev_agg_account(bus, agg);
    return &head->job;
}

void ev_agg_next(evbus *bus, struct ev_agg *agg, int64_t now)
{
    if (agg->state != EV_AGG_IDLE || agg->out > 0 || agg->letter)
        return;
    evbus_msg *m = agg->head;
    if (!m) {
        agg->failing = false;
        ev_agg_account(bus, agg);
        if (!agg->parked)
            agg_free(&bus->in, agg);
        return;
    }
    if (ev_load_relaxed(&agg->sub->stop)) /* written by the loop, or on its behalf: ev_agg_stop hands it back */
        return;
    if (agg->sub->finish_to > 0 && m->stream_seq > agg->sub->finish_to) /* the same */
        return;
    if (!may_start(bus, agg->sub)) /* ev_dispatch_gather, ev_aggs_resume come back to it */
        return;
    if (now < agg->ready_at) {
        heap_push(&bus->in, agg, agg->ready_at);
        agg->state = EV_AGG_PAUSED;
        return;
    }
    if (!ev_tail_judge(bus, m)) /* tail.c comes back to it */
        return;
    if (m->doomed) {
        ev_letter_start(bus, m);
        return;
    }
    if (!ev_breaker_lets(agg->sub)) /* breaker.c comes back to it */
        return;
    agg->state = EV_AGG_READY;
    ev_loop_runnable(bus, &agg->job);
}

void ev_agg_stop(evbus *bus, struct ev_agg *agg, bool force, int64_t now)
{
    evbus_msg *keep = NULL;

    if (!force && (!agg->sub->quiet || agg->out > 0 || agg->letter))
        return; /* the broker delivers again in the order of the hand-backs */
    if (!force && agg->head && agg->head->stream_seq <= agg->sub->finish_to) {
        ev_agg_account(bus, agg);
        ev_agg_next(bus, agg, now);
        return;
    }
    if (agg->state == EV_AGG_PAUSED) {
        heap_remove(&bus->in, agg);
        agg->state = EV_AGG_IDLE;
    }
    while (agg->head) {
        evbus_msg *m = agg->head;
        agg->head = m->next;
        agg->count--;
        if (m->phase == EV_MSG_LETTER)
            keep = m; /* its letter is on the wire: it ends with that */
        else
            ev_hand_back(bus, m);
    }
    agg->tail = NULL;
    if (keep)
        ev_agg_append(agg, keep);
    agg->failing = false;
    ev_tail_forget(bus, agg);
    ev_agg_account(bus, agg);
    ev_agg_next(bus, agg, now); /* frees it when nothing of it is out or in the runnable list */
}

void ev_dispatch_gather(evbus *bus, struct evbus_sub *sub, bool on, int64_t now)
{
    struct ev_dispatch *d = &bus->in;
    const bool ends = sub->gathering && !on;

    sub->gathering = on;
    for (uint32_t i = 0; ends && i <= d->agg_mask; i++) {
        for (struct ev_agg *a = d->aggs[i], *next; a; a = next) {
            next = a->chain;
            for (evbus_msg *m = a->head; a->sub == sub && m; m = m->next)
                m->ordinal = ++d->ordinal;
            if (a->sub == sub)
                ev_agg_next(bus, a, now);
        }
    }
}

/* How much of what the broker holds as delivered and unsettled is here, or was and waits for the frontier. */
static uint64_t here(const struct evbus_sub *sub, uint64_t first, uint64_t last)
{
    uint64_t n = 0;

    for (const evbus_msg *m = sub->oldest; m && !sub->consumer.ack_all; m = m->newer)
        n += m->stream_seq >= first && m->stream_seq <= last && !m->fenced && !m->past_stream;
    for (uint32_t i = 0; i < sub->frontier.count; i++) {
        const struct ev_frontier_entry *e = ev_frontier_entry(&sub->frontier, i);
        n += e->seq >= first && e->seq <= last && !e->absent;
    }
    return n;
}

/* What was not started: it comes again. What was, was in its turn. */
static void let_go(evbus *bus, struct ev_agg *agg, int64_t now)
{
    evbus_msg **link = &agg->head, *last = NULL;

    if (agg->state == EV_AGG_PAUSED && agg->head->attempt == 0) {
        heap_remove(&bus->in, agg);
        agg->state = EV_AGG_IDLE;
    }
    while (*link) {
        evbus_msg *m = *link;
        if (m->phase == EV_MSG_QUEUED && m->attempt == 0) {
            *link = m->next;
            agg->count--;
            ev_let_go(bus, m);
        } else {
            last = m;
            link = &m->next;
        }
    }
    agg->tail = last;
    ev_agg_account(bus, agg);
    ev_agg_next(bus, agg, now); /* frees it when nothing is left */
}

bool ev_dispatch_let_go(evbus *bus, struct evbus_sub *sub, const struct ev_missing *missing, int64_t now)
{
    const bool known = !sub->consumer.ack_all || ev_frontier_recall(sub);
    const uint64_t have = known ? here(sub, missing->first, missing->last) : 0;
    struct ev_dispatch *d = &bus->in;
    struct ev_room room;

    ev_dispatch_room(bus, sub, &room);
    const uint64_t more = missing->pending > have ? missing->pending - have : 0;
    if (!missing->certainly && more <= room.msgs && (room.msgs > 0 || !missing->beyond))
        return false;
    for (uint32_t i = 0; i <= d->agg_mask; i++) {
        for (struct ev_agg *a = d->aggs[i], *next; a; a = next) {
            next = a->chain;
            if (a->sub == sub)
                let_go(bus, a, now);
        }
    }
    return true;
}

bool ev_aggs_pause(const evbus *bus, const struct evbus_sub *sub)
{
    for (uint32_t i = 0; i < bus->in.heap_count; i++)
        if (bus->in.heap[i + 1]->sub == sub)
            return true;
    return false;
}

void ev_aggs_stop(evbus *bus, const struct evbus_sub *sub, bool force, int64_t now)
{
    struct ev_dispatch *d = &bus->in;

    for (uint32_t i = 0; i <= d->agg_mask; i++) {
        for (struct ev_agg *a = d->aggs[i], *next; a; a = next) {
            next = a->chain;
            if (a->sub == sub)
                ev_agg_stop(bus, a, force, now);
        }
    }
}

void ev_aggs_resume(evbus *bus, const struct evbus_sub *sub, int64_t now)
{
    struct ev_dispatch *d = &bus->in;

    for (uint32_t i = 0; i <= d->agg_mask; i++) {
        for (struct ev_agg *a = d->aggs[i], *next; a; a = next) {
            next = a->chain;
            if (sub ? a->sub == sub : a->sub->consumer.exclusive)
                ev_agg_next(bus, a, now);
        }
    }
}
