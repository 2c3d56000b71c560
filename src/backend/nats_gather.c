/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathering: what was delivered before is to come again and may come behind, or in the middle of, what is here or new; so the
 * core starts nothing and puts all that comes in the order of the stream, until it is here, or cannot be waited for longer.
 *
 *   suspected  The count of deliveries shows in mid-session that some did not come. The gap rule then tells of them, and
 *              they come before anything new.
 *   waited     They could not be told: they come in whatever order, after the ack wait.
 *
 * Room. Where more is missing than there is room for, the core lets go what is here and was not started, before the rule tells:
 * then all of it comes in order, and nothing is gathered. So too when no pull has been open for two seconds, whatever the cause.
 *
 * Bounds. Twice the ack wait where they were not told; a bit per sequence of the range.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>

#define TOLD_TIME (2 * EV_SEC)
#define SUSPECT_PAUSE EV_SEC
#define ALARMS_MAX 8u                  /* false ones, in that time */
#define GATHER_MAX (UINT64_C(1) << 22) /* sequences */

void ev_nats_gather_forget(struct ev_nats_gap *g)
{
    ev_free(g->seen);
    g->seen = NULL;
}

void ev_nats_gather_end(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_gather_forget(&b->gap);
    if (b->gap.gathering)
        ev_host_gather(st->host, b->sub, false);
    b->gap.gathering = b->gap.cramped = false;
}

static void start_gathering(struct ev_nats *st, struct ev_nats_binding *b)
{
    st->consume->gaps_gathered += !b->gap.gathering;
    b->gap.gathering = true;
    ev_host_gather(st->host, b->sub, true);
}

/* Until `count` of the range came. */
static void await_unseen(struct ev_nats_gap *g, uint64_t count, int64_t until)
{
    const uint64_t bits = g->last - g->first + 1;

    ev_nats_gather_forget(g);
    if ((count > 0 || g->beyond > g->delivered) && bits <= GATHER_MAX)
        g->seen = ev_calloc(bits / 8 + 1, 1);
    g->unseen = count;
    g->gather_until = until;
}

static void see(struct ev_nats_gap *g, uint64_t stream_seq)
{
    unsigned char *byte = &g->seen[(stream_seq - g->first) / 8];
    const unsigned char bit = (unsigned char)(1u << (stream_seq - g->first) % 8);

    g->unseen -= (*byte & bit) == 0 && g->unseen > 0;
    *byte |= bit;
}

/* A leader that was elected may not know of the latest deliveries. Those are new to it: it delivers them again as such, and
 * before them what of those got lost. Only then is all here that comes before what is here. */
static bool knows_all(const struct ev_nats_gap *g)
{
    return g->beyond <= g->delivered;
}

/* It comes in order and before anything new. What was settled since we asked does not come, so all that is missing
 * may be here earlier than can be counted: the first new one says so, or that there is none. */
void ev_nats_gather_told(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const uint64_t end = g->list ? g->count : g->last - g->first + 1;

    g->in_order = true;
    g->beyond = g->reached;
    await_unseen(g, g->pending, st->now + TOLD_TIME);
    for (uint64_t i = 0; g->seen && i < end; i++) {
        const uint64_t seq = g->list ? g->list[i] : g->first + i;
        if (seq <= g->delivered && ev_host_holds(st->host, b->sub, seq)) /* the others are not pending */
            see(g, seq);
    }
    if (g->unseen == 0 && knows_all(g))
        ev_nats_gather_forget(g);
}

/* There was nothing to it, again and again: another client settles at once what it gets. A few in a row are nothing unusual
 * while servers come and go, and the next may be a true one. */
static bool is_tiring(struct ev_nats_gap *g, int64_t now)
{
    if (g->told > 0 || now - g->suspected_at >= SUSPECT_PAUSE)
        g->alarms = 0;
    return ++g->alarms > ALARMS_MAX;
}

void ev_nats_gap_suspected(struct ev_nats *st, struct ev_nats_binding *b, uint64_t left_out)
{
    if (left_out > 0 && b->foreign_at != 0 && st->now - b->foreign_at < b->ack_wait_ns) {
        b->foreign_at = st->now; /* that there is another one is known */
        ev_host_foreign(st->host, b->sub, left_out);
        return;
    }
    if (!b->exclusive ||
        (b->ack_all && !b->gap.clustered)) { /* ack_all: another client has it; nothing is acked meanwhile */
        if (left_out > 0) {
            b->foreign_at = st->now;
            ev_host_foreign(st->host, b->sub, left_out);
        }
        return;
    }
    b->gap.left_out += left_out;
    if (b->gap.due && b->gap.gathering) {
        b->gap.recheck = false;
        return;
    }
    if (!b->ack_all && is_tiring(&b->gap, st->now)) /* ack_all looks again when it has told */
        return;
    b->gap.suspected_at = st->now;
    b->gap.suspected = left_out > 0;
    start_gathering(st, b); /* what comes now may come after what was lost */
    ev_nats_pull_cut(st, &st->consume->buckets[b->bucket]);
    ev_nats_gap_later(st, b);
    ev_nats_pull_schedule(st->consume, b, st->now);
}

void ev_nats_gather_waited(struct ev_nats *st, struct ev_nats_binding *b, int64_t until)
{
    struct ev_nats_gap *g = &b->gap;

    g->in_order = false;
    g->beyond = 0;
    await_unseen(g, g->pending, until);
    if (g->seen) { /* 0: not even what was delivered is known: in the order of the server's queue */
        start_gathering(st, b);
    } else {
        ev_log(st->log, EVBUS_LOG_WARN, "nats",
               "consumer '%s' of stream '%s': what was delivered before comes in the order of the server's queue",
               b->consumer, b->stream);
    }
}

/* Before they are told. Those that are here and not started come behind what is missing then. */
void ev_nats_gather_room(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const struct ev_missing missing = {.first = g->first,
                                       .last = g->delivered,
                                       .pending = g->pending,
                                       .beyond = g->reached > g->delivered,
                                       .certainly = g->cramped};

    g->let_go = g->gathering && ev_host_let_go(st->host, b->sub, &missing);
    g->cramped = false;
    if (!g->let_go)
        return;
    st->consume->gaps_let_go++;
    ev_nats_gather_forget(g);
}

static void give_up(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_log(st->log, EVBUS_LOG_WARN, "nats",
           "consumer '%s' of stream '%s': up to %" PRIu64 " of %" PRIu64
           " messages that were delivered before did not come "
           "again in time: the others start without them",
           b->consumer, b->stream, b->gap.unseen, b->gap.pending);
    ev_nats_gather_end(st, b);
}

/* They were told of and asked for, and neither they nor a new one nor an idle heartbeat came: the consumer has no leader
 * now, or the link stands still. They are as likely to come as before; and when silence was noticed the rule runs again. */
static bool still_to_come(const struct ev_nats_binding *b)
{
    return b->gap.in_order && (b->out_msgs > 0 || b->gap.due || b->gap.step != EV_NATS_GAP_CLOSED);
}

/* They were told, and there is no room to ask for them: from the start, with room. */
static void make_room(struct ev_nats *st, struct ev_nats_binding *b)
{
    b->gap.cramped = true;
    ev_nats_gap_later(st, b);
    ev_nats_pull_schedule(st->consume, b, st->now);
}

void ev_nats_gather_turn(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;

    if (!g->seen)
        return;
    if (st->now >= g->gather_until && still_to_come(b))
        g->gather_until = st->now + TOLD_TIME;
    if (st->now >= g->gather_until && g->in_order && !g->cramped) /* else it was not reached: others are active */
        make_room(st, b);
    else if (st->now >= g->gather_until)
        give_up(st, b);
    else
        ev_nats_pull_schedule(st->consume, b, g->gather_until);
}

/* More was lost since it was told: the rule is to go through again before anything starts. (Due is it also to look whether what
 * was told is here.) */
static bool more_was_lost(const struct ev_nats_gap *g)
{
    return g->due && !g->recheck;
}

void ev_nats_gap_idle(struct ev_nats *st, struct ev_nats_binding *b)
{
    if (b->gap.seen && b->gap.in_order && b->gap.step == EV_NATS_GAP_CLOSED && !more_was_lost(&b->gap))
        ev_nats_gather_end(st, b);
}

void ev_nats_gap_delivered(struct ev_nats *st, struct ev_nats_binding *b, uint64_t stream_seq, bool fresh)
{
    struct ev_nats_gap *g = &b->gap;

    if (fresh && g->in_order && stream_seq > g->delivered) { /* else it is pending, and the leader's count is not */
        if (stream_seq >= g->beyond)
            ev_nats_gap_idle(st, b);
        return;
    }
    if (stream_seq < g->first || stream_seq > g->last)
        return;
    see(g, stream_seq);
    if (g->unseen == 0 && knows_all(g) && !more_was_lost(g))
        ev_nats_gather_end(st, b);
}
