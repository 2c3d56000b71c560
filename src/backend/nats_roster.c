/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is pulled for, where pulls are answered, and when somebody must be looked at.
 *
 * Time. Each binding has one entry in a heap, touched when something must happen earlier than known: what comes in does
 * not move it. Thousands of idle bindings cost nothing per turn.
 *
 * Links. A new link starts with no credit and new inboxes; bindings pull again some at a time.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ARM_PER_TURN 64u
#define FIRE_PER_TURN 256u
#define LAME_TIME (2 * EV_SEC) /* how long a cut inbox is listened on */
#define FENCE_TIME EV_SEC      /* how long a cut bucket waits for its own message */

/* ---- Heap -------------------------------------------------------------------------------------------------------- */

static void heap_set(struct ev_nats_consume *c, uint32_t at, struct ev_nats_binding *b)
{
    c->heap[at] = b;
    b->heap_at = at;
}

static void heap_up(struct ev_nats_consume *c, uint32_t at, struct ev_nats_binding *b)
{
    for (; at > 1 && c->heap[at / 2]->due > b->due; at /= 2)
        heap_set(c, at, c->heap[at / 2]);
    heap_set(c, at, b);
}

static void heap_down(struct ev_nats_consume *c, uint32_t at, struct ev_nats_binding *b)
{
    for (uint32_t child; (child = at * 2) <= c->heap_count; at = child) {
        if (child < c->heap_count && c->heap[child + 1]->due < c->heap[child]->due)
            child++;
        if (c->heap[child]->due >= b->due)
            break;
        heap_set(c, at, c->heap[child]);
    }
    heap_set(c, at, b);
}

void ev_nats_pull_unschedule(struct ev_nats_consume *c, struct ev_nats_binding *b)
{
    const uint32_t at = b->heap_at;

    if (at == 0)
        return;
    struct ev_nats_binding *moved = c->heap[c->heap_count--];
    b->heap_at = 0;
    if (moved == b)
        return;
    if (at > 1 && c->heap[at / 2]->due > moved->due)
        heap_up(c, at, moved);
    else
        heap_down(c, at, moved);
}

/* Looked at again at `at` at the latest. The heap has room for every binding that joined. */
void ev_nats_pull_schedule(struct ev_nats_consume *c, struct ev_nats_binding *b, int64_t at)
{
    if (b->heap_at == 0) {
        b->due = at;
        heap_up(c, ++c->heap_count, b);
    } else if (at < b->due) {
        b->due = at;
        heap_up(c, b->heap_at, b);
    }
}

/* ---- Inboxes ----------------------------------------------------------------------------------------------------- */

struct ev_nats_inbox *ev_nats_pull_inbox(struct ev_nats *st, struct ev_nats_bucket *k)
{
    if (k->inbox)
        return k->inbox;
    struct ev_nats_inbox *inbox = ev_calloc(1, sizeof *inbox);
    if (!inbox)
        return NULL;
    (void)snprintf(inbox->core.subject, sizeof inbox->core.subject, "%s-%" PRIu64 ".>", ev_nats_inbox(st),
                   ++st->consume->inbox_last);
    ev_nats_core_open(st, &inbox->core);
    k->inbox = inbox;
    return inbox;
}

/* Ends all pulls of an inbox at the server and keeps listening for what is under way. libnats has no call for that: the
 * server drops a subscription whose limit is reached already, which our own message makes sure of; the second limit is
 * for libnats alone, the server does not know the subscription any more. False: closed on both sides. */
static bool mute(struct ev_nats *st, struct ev_nats_inbox *inbox)
{
    natsSubscription *sub = inbox->core.sub;
    char own[EV_NAME_MAX];
    int64_t taken = 0;

    (void)snprintf(own, sizeof own, "%.*sx", (int)strlen(inbox->core.subject) - 1, inbox->core.subject);
    if (sub && natsSubscription_GetDelivered(sub, &taken) == NATS_OK && taken < INT32_MAX - 1 &&
        ev_nats_publish(st, own, NULL, NULL, 0) && natsSubscription_AutoUnsubscribe(sub, (int)taken + 1) == NATS_OK &&
        natsSubscription_AutoUnsubscribe(sub, INT32_MAX) == NATS_OK)
        return true;
    ev_nats_core_close(st, &inbox->core); /* what is under way comes again after its ack wait */
    return false;
}

void ev_nats_pull_cut(struct ev_nats *st, struct ev_nats_bucket *k)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_inbox *inbox = k->inbox;
    char fence[EV_NAME_MAX];

    if (!inbox)
        return;
    c->cuts++;
    k->inbox = NULL;
    inbox->close_at = mute(st, inbox) ? st->now + LAME_TIME : st->now; /* not freed here: it may be being drained */
    if (c->cut_last)
        c->cut_last->next = inbox;
    else
        c->cut = inbox;
    c->cut_last = inbox;
    k->fence = st->now + FENCE_TIME;
    (void)snprintf(fence, sizeof fence, "%s.c.f.%zu", ev_nats_inbox(st), (size_t)(k - c->buckets));
    (void)ev_nats_publish(st, fence, NULL, NULL, 0);
    for (struct ev_nats_binding *b = k->first; b; b = b->next) {
        if (b->out_msgs > 0)
            ev_nats_gap_later(st, b);
        ev_nats_pull_reset(b);
        b->seq_known = false;
        if (!b->lost)
            ev_nats_pull_schedule(c, b, k->fence);
    }
}

/* Everything that was under way when the bucket was cut is here. */
void ev_nats_pull_fenced(struct ev_nats *st, const char *rest)
{
    uint64_t at;

    if (!ev_get_u64(rest, strlen(rest), &at) || at >= EV_NATS_BUCKETS)
        return;
    struct ev_nats_bucket *k = &st->consume->buckets[at];
    k->fence = 0;
    for (struct ev_nats_binding *b = k->first; b; b = b->next) {
        b->seq_known = false;
        ev_nats_pull_consider(st, b);
    }
}

static void close_cut(struct ev_nats *st, int64_t until)
{
    struct ev_nats_consume *c = st->consume;

    while (c->cut && c->cut->close_at <= until) {
        struct ev_nats_inbox *inbox = c->cut;
        c->cut = inbox->next;
        if (!c->cut)
            c->cut_last = NULL;
        ev_nats_core_close(st, &inbox->core);
        ev_free(inbox);
    }
}

/* ---- Joining and leaving ----------------------------------------------------------------------------------------- */

static bool grow(struct ev_nats_consume *c)
{
    const uint32_t cap = c->bindings_cap ? c->bindings_cap * 2 : 64;
    struct ev_nats_binding **bindings = ev_realloc(c->bindings, cap * sizeof *bindings);

    if (!bindings)
        return false;
    c->bindings = bindings;
    struct ev_nats_binding **heap = ev_realloc(c->heap, (cap + 1) * sizeof *heap);
    if (!heap)
        return false;
    c->heap = heap;
    c->bindings_cap = cap;
    return true;
}

bool ev_nats_pull_join(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_consume *c = st->consume;
    uint32_t index = c->bindings_hint;

    while (index < c->bindings_top && c->bindings[index])
        index++;
    c->bindings_hint = index;
    if (index == c->bindings_top) {
        if (c->bindings_top == c->bindings_cap && !grow(c))
            return false;
        c->arm_at += c->arm_at == c->bindings_top; /* whoever joins begins by itself, not once more with the others */
        c->bindings_top++;
    }
    c->bindings[index] = b;
    c->bindings_count++;
    b->index = index;
    b->bucket = index % c->bucket_count;
    b->prev = NULL;
    b->next = c->buckets[b->bucket].first;
    if (b->next)
        b->next->prev = b;
    c->buckets[b->bucket].first = b;
    b->heard = st->now;
    return true;
}

void ev_nats_pull_leave(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_bucket *k = &c->buckets[b->bucket];

    if (b->next)
        b->next->prev = b->prev;
    if (b->prev)
        b->prev->next = b->next;
    else
        k->first = b->next;
    c->bindings[b->index] = NULL;
    c->bindings_count--;
    if (b->index < c->bindings_hint)
        c->bindings_hint = b->index;
    ev_nats_pull_unschedule(c, b);
    if (b->out_msgs > 0)
        ev_nats_pull_cut(st, k);
    ev_nats_pull_reset(b);
}

/* ---- Hooks of the loop ------------------------------------------------------------------------------------------- */

void ev_nats_consume_up(struct ev_nats *st)
{
    st->consume->arm_at = 0; /* everybody pulls, some each turn */
    ev_nats_members_up(st);
}

static void hand_back_queued(struct ev_nats *st, struct ev_nats_inbox *inbox)
{
    natsSubscription *sub = inbox->core.sub;
    uint64_t queued = 0;
    natsMsg *msg = NULL;

    if (!sub || natsSubscription_QueuedMsgs(sub, &queued) != NATS_OK)
        return;
    for (; queued > 0; queued--) {
        const natsStatus e = natsSubscription_NextMsg(&msg, sub, 0);
        if (e == NATS_OK)
            ev_nats_consume_core(st, &inbox->core, msg);
        else if (e != NATS_NO_RESPONDERS)
            return;
    }
}

void ev_nats_consume_flush(struct ev_nats *st)
{
    struct ev_nats_consume *c = st->consume;

    for (uint32_t i = 0; i < EV_NATS_BUCKETS; i++)
        ev_nats_pull_cut(st, &c->buckets[i]);
    for (struct ev_nats_inbox *inbox = c->cut; inbox; inbox = inbox->next)
        hand_back_queued(st, inbox);
}

void ev_nats_consume_down(struct ev_nats *st)
{
    struct ev_nats_consume *c = st->consume;

    ev_nats_members_down(st);
    for (uint32_t i = 0; i < c->bindings_top; i++) {
        struct ev_nats_binding *b = c->bindings[i];
        if (!b)
            continue;
        ev_nats_gap_end(st, b);
        ev_nats_frontier_doubt(st, b);
        ev_nats_pull_reset(b);
        b->seq_known = false;
        b->backoff = 0;
        b->retry_at = 0;
        b->was_up = true;
        b->pulled = false;
        ev_nats_pull_unschedule(c, b);
    }
    for (uint32_t i = 0; i < EV_NATS_BUCKETS; i++) {
        struct ev_nats_inbox *inbox = c->buckets[i].inbox;
        if (inbox)
            ev_nats_core_close(st, &inbox->core);
        ev_free(inbox);
        c->buckets[i].inbox = NULL;
        c->buckets[i].fence = 0;
    }
    close_cut(st, EV_NEVER);
    c->arm_at = c->bindings_top;
    ev_nats_leave_down(st);
}

static bool may_arm(const struct ev_nats_consume *c)
{
    return c->arm_at < c->bindings_top && c->gaps_busy < EV_NATS_GAPS_BUSY; /* else their answers wake us */
}

/* After link up: the gap rule or a pull for everybody, and for those of an earlier link the question whether their
 * consumer outlived it: pulling from one that did not would be answered with silence. */
static bool arm(struct ev_nats *st)
{
    struct ev_nats_consume *c = st->consume;
    uint32_t left = ARM_PER_TURN;

    if (!may_arm(c))
        return false;
    for (; left > 0 && may_arm(c); c->arm_at++) {
        struct ev_nats_binding *b = c->bindings[c->arm_at];
        if (!b || b->lost)
            continue;
        left--;
        if (b->was_up || !b->fresh)
            ev_nats_gap_later(st, b);
        if (b->was_up && !b->exclusive)
            ev_nats_pull_probe(st, b);
        ev_nats_pull_consider(st, b);
    }
    return true;
}

bool ev_nats_consume_turn(struct ev_nats *st, int64_t now)
{
    struct ev_nats_consume *c = st->consume;
    bool any = ev_nats_members_turn(st);

    any |= arm(st);

    if (c->cut && c->cut->close_at <= now) {
        close_cut(st, now);
        any = true;
    }
    any |= ev_nats_leave_turn(st);
    for (uint32_t left = FIRE_PER_TURN; left > 0 && c->heap_count > 0 && c->heap[1]->due <= now; left--) {
        struct ev_nats_binding *b = c->heap[1];
        if (b->gap.step != EV_NATS_GAP_CLOSED && st->more)
            break; /* its answer came before deliveries that were read with it */
        ev_nats_pull_unschedule(c, b);
        ev_nats_gap_turn(st, b);
        if (b->out_msgs > 0 && now - b->heard >= 2 * b->heartbeat + b->heartbeat / 2)
            ev_nats_pull_missed(st, b);
        ev_nats_pull_consider(st, b);
        any = true;
    }
    return any;
}

int64_t ev_nats_consume_due(struct ev_nats *st)
{
    const struct ev_nats_consume *c = st->consume;
    int64_t due = c->heap_count > 0 ? c->heap[1]->due : EV_NEVER;

    if (may_arm(c))
        return 0;
    if (c->cut && c->cut->close_at < due)
        due = c->cut->close_at;
    const int64_t leave = ev_nats_leave_due(st), members = ev_nats_members_due(st);
    due = leave < due ? leave : due;
    return members < due ? members : due;
}
