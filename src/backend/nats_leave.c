/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a binding: no more pulls, the rest of what is under way goes to the core, then ev_host_quiet.
 *
 * Its inbox is cut at the server, and CONSUMER.INFO asked after that. When the answer is here, two things are true: all
 * that the server sent before the cut is here too (it came on the same connection, before), and the server has dropped
 * the pulls that nobody listens on. nats-server 2.9 keeps those until it looks at them and loses track when a message
 * that was handed back meets one first: that message then waits for its ack wait, another one is delivered twice. So
 * hand-backs come after the answer, and never mix with deliveries: the next member gets them in the core's order.
 *
 * What the server had counted as delivered and not sent at the cut goes to its queue of redeliveries by itself, before
 * what the core hands back; the next member's gap rule puts that in order (nats_gap.c).
 *
 * Its last word: hand-backs and acks are worked off by the server after it has read them, and a next member that
 * began before would find them undone: its gap rule and our hand-backs would mix. So a +WPI for a message that does not
 * exist follows them as a request, through the same queue; its reply says that all before it is done.
 *
 * Plain subscriptions have no inbox to cut: the server is told to send no more where libnats can be made to say so
 * without forgetting the subscription, and a message to ourselves comes back after all that was sent.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LEAVE_TIME (2 * EV_SEC)       /* at most, without an answer */
#define NO_SUCH "4611686018427387904" /* a sequence no stream reaches */

/* Takes it out of the list. */
static void unlist(struct ev_nats_consume *c, struct ev_nats_binding *b)
{
    struct ev_nats_binding *before = NULL, *at = c->leaving;

    while (at && at != b) {
        before = at;
        at = at->next_leaving;
    }
    if (!at)
        return;
    if (before)
        before->next_leaving = b->next_leaving;
    else
        c->leaving = b->next_leaving;
    if (c->leaving_last == b)
        c->leaving_last = before;
    b->next_leaving = NULL;
}

static void enlist(struct ev_nats_consume *c, struct ev_nats_binding *b)
{
    if (c->leaving_last)
        c->leaving_last->next_leaving = b;
    else
        c->leaving = b;
    c->leaving_last = b;
}

/* The last word about it. */
static void finish(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX];
    const bool remove = !b->is_core && !b->durable;

    if (b->is_core)
        ev_nats_core_close(st, &b->core);
    else
        ev_nats_binding_forget(st->consume, b);
    if (remove)
        ev_nats_pull_subject(st, b, "CONSUMER.DELETE", subject);
    if (!st->shut)
        ev_host_quiet(st->host, b->sub); /* `b` may be gone now */
    if (!remove)
        return;
    (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st)); /* without a link the broker does it when it is
                                                                          unused */
    (void)ev_nats_publish(st, subject, reply, NULL, 0);
}

/* No more from the server, as far as it goes. A limit that was passed already cuts at once there, and is none for
 * libnats, if it has handed out as many. Otherwise it has handed out none: then what comes is little. */
static void cut_core(const struct ev_nats_core *core)
{
    int64_t taken = 0;

    if (core->sub && natsSubscription_GetDelivered(core->sub, &taken) == NATS_OK &&
        natsSubscription_AutoUnsubscribe(core->sub, 1) == NATS_OK && taken == 0)
        (void)natsSubscription_AutoUnsubscribe(core->sub, INT32_MAX);
}

static void begin_wait(struct ev_nats *st, struct ev_nats_binding *b, char own[EV_NAME_MAX])
{
    b->leave_number = ++st->consume->leave_last;
    b->leave_answered = false;
    b->leave_until = st->now + LEAVE_TIME;
    (void)snprintf(own, EV_NAME_MAX, "%s.c.l.%" PRIu64, ev_nats_inbox(st), b->leave_number);
}

static bool ask(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], own[EV_NAME_MAX];

    begin_wait(st, b, own);
    if (b->is_core)
        return ev_nats_publish(st, own, NULL, NULL, 0);
    ev_nats_pull_subject(st, b, "CONSUMER.INFO", subject);
    return ev_nats_publish(st, subject, own, NULL, 0);
}

void ev_nats_leave(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_consume *c = st->consume;

    b->attached = false;
    if (!b->is_core) {
        ev_nats_gap_end(st, b);
        ev_nats_pull_leave(st, b);
    }
    if (b->lost || st->shut || !ev_nats_is_up(st) || !(b->is_core || b->pulled)) {
        finish(st, b);
        return;
    }
    if (b->is_core)
        cut_core(&b->core);
    if (!ask(st, b)) {
        finish(st, b);
        return;
    }
    enlist(c, b);
}

void ev_nats_leave_answer(struct ev_nats *st, const char *rest)
{
    uint64_t number;

    if (!ev_get_u64(rest, strlen(rest), &number))
        return;
    for (struct ev_nats_binding *b = st->consume->leaving; b; b = b->next_leaving)
        if (b->leave_number == number)
            b->leave_answered = true; /* acted on when all that was read is handed on */
}

/* What it was told is worked off: the next member may come. */
static void left(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_members_leave(st, b);
    ev_host_left(st->host, b->sub); /* `b` may be gone now */
}

/* It has no answer to wait for any more. */
static void done(struct ev_nats *st, struct ev_nats_binding *b)
{
    unlist(st->consume, b);
    if (!b->parting)
        finish(st, b);
    else if (!st->shut)
        left(st, b);
}

void ev_nats_part(void *state, void *binding)
{
    struct ev_nats *st = state;
    struct ev_nats_binding *b = binding;
    char subject[EV_NATS_SUBJECT_MAX], own[EV_NAME_MAX];

    if (!b->is_core && b->durable && b->ack && !b->lost && !st->shut && ev_nats_is_up(st)) {
        begin_wait(st, b, own);
        (void)snprintf(subject, sizeof subject, "$JS.ACK.%s.%s.1." NO_SUCH "." NO_SUCH ".0.0", b->stream, b->consumer);
        b->parting = ev_nats_publish(st, subject, own, "+WPI", 4);
    }
    if (b->parting)
        enlist(st->consume, b);
    else
        left(st, b);
}

/* Whose word it was is not known. Waiting for none is right: what nobody takes will not be worked off. */
void ev_nats_leave_unanswered(struct ev_nats *st)
{
    for (struct ev_nats_binding *b = st->consume->leaving; b; b = b->next_leaving)
        b->leave_answered = b->leave_answered || b->parting;
}

static struct ev_nats_binding *find_done(const struct ev_nats *st)
{
    struct ev_nats_binding *b = st->consume->leaving;

    while (b && !(b->leave_answered && !st->more) && b->leave_until > st->now)
        b = b->next_leaving;
    return b;
}

bool ev_nats_leave_turn(struct ev_nats *st)
{
    bool any = false;

    for (struct ev_nats_binding *b; (b = find_done(st)) != NULL; any = true)
        done(st, b);
    return any;
}

int64_t ev_nats_leave_due(const struct ev_nats *st)
{
    return st->consume->leaving ? st->consume->leaving->leave_until : EV_NEVER;
}

void ev_nats_leave_down(struct ev_nats *st)
{
    while (st->consume->leaving)
        done(st, st->consume->leaving);
}
