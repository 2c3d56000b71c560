/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ack settles all that was delivered before, so all of it must be here. The server says how many are pending, while no
 * pull is open; as many here are all of them. If not, they are asked for and come with the next pull, a short one; then it
 * is looked again. What does not come, again and again, may be gone from the stream: the server holds it as pending for
 * ever, and a list of what is there shows that nothing else is missing.
 *
 * Counting back. When a redelivery meets a pull that nobody listens on, nats-server 2.9 steps its position back by one, and
 * delivers the last message once more, as a new one. If the ack of that message is worked off in between (an ack of a link
 * that stalled and comes late), it lies below the ack floor then: the server takes no ack of it, counts it as pending and
 * delivers it again after each ack wait, for as long as it runs. It was settled by a member that could: nobody runs it again.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>

#define GONE_ROUNDS 2u
#define STEP_DOWN_MIN (2 * EV_SEC) /* or twice the ack wait: what a leader does hold as pending has come by then */
#define STEP_DOWN_AGAIN (30 * EV_SEC)

/* Something that was delivered may not be here: nothing is acked until it is known again. */
void ev_nats_frontier_doubt(struct ev_nats *st, struct ev_nats_binding *b)
{
    if (b->certain)
        ev_host_certain(st->host, b->sub, NULL);
    b->certain = b->gap.recheck = false;
    b->gap.rounds = 0;
    b->gap.step_down_at = 0;
}

bool ev_nats_frontier_all_here(struct ev_nats *st, const struct ev_nats_binding *b)
{
    /* What lies above was delivered by a server that came back with an older state: it comes again. */
    return ev_host_unsettled(st->host, b->sub, b->gap.first, b->gap.delivered) >= b->gap.pending;
}

bool ev_nats_frontier_lists(const struct ev_nats_binding *b)
{
    return b->ack_all && (b->gap.rounds >= GONE_ROUNDS || b->gap.fewer);
}

static bool lacks_listed(struct ev_nats *st, const struct ev_nats_binding *b)
{
    const struct ev_nats_gap *g = &b->gap;

    for (uint32_t i = 0; i < g->count && g->list[i] <= g->top; i++)
        if (!ev_host_holds(st->host, b->sub, g->list[i]))
            return true;
    return false;
}

bool ev_nats_frontier_all_listed(struct ev_nats *st, const struct ev_nats_binding *b)
{
    const struct ev_nats_gap *g = &b->gap;

    /* By a replica that has not caught up, perhaps: what it does not have yet is not gone. (The position may be behind others'
     * messages.) */
    const uint64_t came = g->reached < g->delivered ? g->reached : g->delivered;
    if (g->clustered &&
        ((came >= g->first && g->listed_to < came) ||
         (g->rounds < GONE_ROUNDS && ev_host_unsettled(st->host, b->sub, g->first, g->delivered) < g->leaders)))
        return false;
    if (lacks_listed(st, b))
        return false;
    if (g->fewer)
        return true; /* others' messages lie between */
    ev_log(st->log, EVBUS_LOG_WARN, "nats",
           "consumer '%s' of stream '%s': some of %" PRIu64
           " messages that were delivered and not settled are not in the "
           "stream any more, or below its ack floor",
           b->consumer, b->stream, g->pending);
    return true;
}

/* In a cluster a leader may know of acks that its replicas have not noted. What lies between never comes, and who did not settle it
 * cannot know that it is settled. The next leader goes on from what is noted: it delivers it again. */
void ev_nats_frontier_missing(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX];
    const int64_t wait = 2 * b->ack_wait_ns;

    if (!b->ack_all || !g->clustered || g->rounds <= GONE_ROUNDS || !lacks_listed(st, b))
        return;
    if (g->step_down_at == 0)
        g->step_down_at = st->now + (wait > STEP_DOWN_MIN ? wait : STEP_DOWN_MIN);
    if (st->now < g->step_down_at)
        return;
    g->step_down_at = st->now + (wait > STEP_DOWN_AGAIN ? wait : STEP_DOWN_AGAIN);
    st->consume->step_downs++;
    ev_log(st->log, EVBUS_LOG_WARN, "nats",
           "consumer '%s' of stream '%s': above %" PRIu64
           " some of what its replicas have noted as delivered and not settled is "
           "not here and does not come; its leader is asked to step down",
           b->consumer, b->stream, g->first - 1);
    ev_nats_pull_subject(st, b, "CONSUMER.LEADER.STEPDOWN", subject);
    (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st));
    (void)ev_nats_publish(st, subject, reply, NULL, 0);
}

void ev_nats_frontier_certain(struct ev_nats *st, struct ev_nats_binding *b)
{
    if (!b->ack_all || b->gap.due) /* a new doubt since it was asked */
        return;
    (void)ev_nats_frontier_all_here(
        st, b); /* what the server does not know of must not be acked: it would take nothing below */
    /* In a cluster its replicas' counts, unless somebody made the consumer anew: those begin again. */
    const struct ev_certainty certain = {.consumer_seq = b->gap.dseq,
                                         .floor_seq = b->gap.floor_seq,
                                         .made_ns = b->gap.made_ns,
                                         .exact = !b->gap.clustered};
    b->gap.step_down_at = 0;
    b->certain = true;
    b->row = b->gap.dseq;
    b->gap.rounds = 0;
    ev_host_certain(st->host, b->sub, &certain);
}

void ev_nats_frontier_look_again(struct ev_nats_binding *b)
{
    if (!b->ack_all)
        return;
    b->gap.recheck = !b->gap.due;
    b->gap.due = true;
    b->gap.tried = false;
    b->gap.rounds++;
}

/* Delivered, not settled, and missing if it is not here: what the server counts at or below its floor takes no ack, and
 * what it counts above its position comes again. In a cluster floor and position are its replicas', and what is pending is its
 * leader's, which may know of less: as many here would prove nothing. There all that lies between must be here, or be listed. */
uint64_t ev_nats_frontier_pending(const struct ev_nats_consumer *have)
{
    const uint64_t position = have->delivered_stream_seq, floor = have->floor_stream_seq;
    const uint64_t between = position > floor ? position - floor : 0;

    return have->ack_pending < between && !have->clustered ? have->ack_pending : between;
}

/* In a cluster the floor is what the replicas have agreed on. A leader that was elected before it had worked off all of that
 * (nats-server 2.10.27) goes on from an older state: it holds as pending what lies below, and when that is as much as it
 * may hold, it delivers nothing new, for ever. So it is told; who knows takes no notice. Of the same floor with the same count, else counts would run ahead. */
void ev_nats_frontier_tell_floor(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const uint64_t floor = g->first - 1;

    if (!g->clustered || floor == 0)
        return;
    if (g->floor_told != floor)
        g->floor_count = ev_host_count_below(st->host, b->sub, 0, g->floor_seq);
    g->floor_told = floor;
    (void)ev_nats_settle_seq(st, b, EV_SETTLE_ACK, floor, g->floor_count);
}

/* The time: a server that lost the end of its stream uses the sequences again, for messages that nobody has seen. */
bool ev_nats_frontier_is_settled(struct ev_nats *st, struct ev_nats_binding *b, const struct ev_nats_ackref *ref)
{
    if (ref->stream_seq >= b->gap.first || ref->stored_ns > b->gap.floor_ns)
        return false;
    if (st->consume->below++ == 0)
        ev_log(st->log, EVBUS_LOG_INFO, "nats",
               "consumer '%s' of stream '%s': sequence %" PRIu64 " was delivered although all up to %" PRIu64
               " is acknowledged: it is not run",
               b->consumer, b->stream, ref->stream_seq, b->gap.first - 1);
    if (b->gap.clustered)
        (void)ev_nats_settle_seq(st, b, EV_SETTLE_ACK, ref->stream_seq,
                                 ev_host_count_below(st->host, b->sub, ref->consumer_seq, 0));
    return true;
}

void ev_nats_frontier_row(struct ev_nats *st, struct ev_nats_binding *b, uint64_t consumer_seq)
{
    if (b->certain && consumer_seq == b->row + 1)
        b->row++;
    else if (b->certain)
        ev_nats_gap_later(st, b);
}

void ev_nats_frontier_refused(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_gap_later(st, b);
}
