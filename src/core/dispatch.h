/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's side of consuming: which message may run when, and what becomes of it. All state here belongs to the loop
 * thread alone, so there is not one atomic in it: workers get runs through the crew's ring and send messages back
 * through `done`. No I/O, no thread, no system time: the simulation drives the same code.
 *
 * The unit that waits is the aggregate. Its messages queue in order; the head runs (with up to RUN_MAX successors on
 * the same worker, one after the other); a head that fails is retried in place after a pause, and only when it is
 * settled does the next one start. Other aggregates never wait for it.
 *
 * Who       a message belongs to the loop, to one worker (from the run's hand-over until it comes back through `done`),
 *           or, when deferred, to whoever settles it.
 * Edges     D1 (loop, release into crew ring) -> D2 (worker, acquire pop): the run's messages are complete.
 *           D3 (worker or settler, release into done) -> D4 (loop, acquire pop): verdict, reason, pause are complete.
 *           D5 (worker returns DEFER / settler settles: acq_rel or on msg->defer): the second of the two hands it back.
 *           D6 (worker, compare-and-swap claim) against D7 (loop, compare-and-swap revoke): a message handed back to
 *           the broker is never started here.
 *           D8 (loop, release rights_until) -> D10 (worker, acquire): the right it has is still there when it starts
 *           a handler. D9 (loop, release active) -> accessor, acquire.
 * Holds     per aggregate at most one message is on its way between D6 and D4; its messages start in stream order.
 *           held = messages in the table = delivered - released. Each held message is in `done` at most once, and held
 *           is at most its capacity, so pushing there never fails.
 * Checked   tests/sim/, tests/unit/test_dispatch.c, tests/backend/ (conformance)
 */
#ifndef EV_CORE_DISPATCH_H
#define EV_CORE_DISPATCH_H

#define EV_RUN_MAX 16
#define EV_AGGREGATE_MAX 256

struct ev_timer { /* in the heap while `index` > 0 */
    int64_t at;
    uint32_t index;
};

enum ev_agg_state {
    EV_AGG_IDLE,  /* nothing is due: empty, out with a worker, or its head's dead letter is on its way */
    EV_AGG_READY, /* in the runnable list */
    EV_AGG_PAUSED /* in the heap: its head waits for its next attempt */
};

struct ev_agg {
    struct ev_job job;
    struct ev_timer timer;
    struct ev_agg *chain; /* hash table; free list */
    struct evbus_sub *sub;
    uint64_t hash;
    evbus_msg *head, *tail; /* here, in order; the first of them may not run before `ready_at` */
    uint32_t count;         /* in the queue */
    uint32_t out;           /* with a worker or deferred */
    uint32_t charged;       /* counted in the subscription's `waiting` */
    int64_t ready_at;
    uint8_t state;
    bool failing;             /* its head failed: what waits behind it counts as waiting */
    bool hot;                 /* above the aggregate's own bound */
    bool token;               /* its head has a token of the rate limit, for `ready_at` */
    bool letter;              /* a dead letter of it is on its way: one at a time, in order */
    struct ev_parked *parked; /* tail.h; NULL: it is not */
    uint16_t len;
    char id[EV_AGGREGATE_MAX + 1];
};

struct ev_dispatch {
    struct ev_ring done;  /* workers and settlers -> loop */
    struct ev_agg **aggs; /* hash table */
    uint32_t agg_mask, agg_count;
    struct ev_agg *free_aggs;
    evbus_msg **held; /* hash table by (subscription, sequence) */
    uint32_t held_mask, held_count;
    uint64_t held_bytes;
    uint32_t out; /* of those here: with workers or deferred */
    evbus_msg *free_msgs;
    struct ev_agg **heap; /* paused aggregates by time; heap[1] is the earliest */
    uint32_t heap_count, heap_cap;
    struct evbus_sub *attached; /* subscriptions that have not ended, linked by next_attached */
    struct evbus_sub *dirty;    /* whose room changed this turn */
    evbus_msg *unsettled;       /* finished, but the broker could not be told: no link */
    evbus_msg *given_up;        /* dropped by a fan-out subscription, to be ended this turn */
    struct evbus_sub *lagging;  /* whose frontier moved and was not told, linked by next_lagging */
    int64_t next_lag;           /* when it is */
    uint64_t ordinal;           /* deliveries so far: the order within a queue */
    uint32_t attached_count;    /* of those, without the ones that stop */
    int64_t next_tick;          /* leases, overdue handlers */
    int64_t tick;               /* their step: from the shortest ack wait */
    int64_t next_overdue;
    int64_t breaker_due; /* when the next breaker opens halfway */
    bool famine;         /* somebody got no room because the whole bus was full */
    bool suspended;      /* EXCLUSIVE subscriptions neither start nor settle anything: the right to it is in doubt */
};

evbus_status ev_dispatch_init(evbus *bus);
void ev_dispatch_fini(evbus *bus);

/* What workers sent back, what time brought. True if anything happened. */
bool ev_dispatch_turn(evbus *bus, int64_t now);
int64_t ev_dispatch_due(const evbus *bus);

bool ev_dispatch_deliver(evbus *bus, const struct ev_delivery *d, int64_t now);
void ev_dispatch_link_up(evbus *bus);

void ev_dispatch_attach(evbus *bus, struct evbus_sub *sub);
/* Its binding is a new one. */
void ev_dispatch_rebound(evbus *bus, struct evbus_sub *sub);
/* While on, its messages are put in the order of the stream as they come, and none starts. Then the ordinals are that
 * order, and what is due starts. */
void ev_dispatch_gather(evbus *bus, struct evbus_sub *sub, bool on, int64_t now);
bool ev_dispatch_let_go(evbus *bus, struct evbus_sub *sub, const struct ev_missing *missing, int64_t now);
/* Stops pulling. Envelopes that were not started are handed back once nothing is under way any more, each aggregate's in
 * order and after its running head; plain messages, which cannot be, are still handled
 * unless `force`. May be called again with force. The subscription has ended when its `held` is 0. */
void ev_dispatch_stop(evbus *bus, struct evbus_sub *sub, bool force, int64_t now);
/* It has ended: no list of the loop refers to it any more. */
void ev_dispatch_quiet(evbus *bus, struct evbus_sub *sub, int64_t now);
void ev_dispatch_forget(evbus *bus, struct evbus_sub *sub);
/* How much more of its messages may come now. */
void ev_dispatch_room(evbus *bus, const struct evbus_sub *sub, struct ev_room *room);
/* Tells the backend about changed room; at the end of a turn. */
void ev_dispatch_rooms(evbus *bus);

/* Aggregates (aggregate.c). */
evbus_status ev_aggs_init(evbus *bus);
void ev_aggs_fini(evbus *bus);
struct ev_agg *ev_agg_get(evbus *bus, struct evbus_sub *sub, const char *id, size_t len); /* <= EV_AGGREGATE_MAX */
void ev_agg_append(struct ev_agg *agg, evbus_msg *msg);
void ev_agg_insert(struct ev_agg *agg, evbus_msg *msg);   /* by stream sequence: while its subscription gathers */
void ev_agg_put_back(struct ev_agg *agg, evbus_msg *msg); /* by ordinal */
bool ev_agg_remove(struct ev_agg *agg, evbus_msg *msg);   /* from anywhere in the queue; false if it is not there */
void ev_agg_account(evbus *bus, struct ev_agg *agg);      /* after its queue or its failing changed */
void ev_agg_next(evbus *bus, struct ev_agg *agg, int64_t now); /* decides what happens to it; may free it */
bool ev_aggs_wake(evbus *bus, int64_t now);                    /* paused ones whose time has come */
int64_t ev_aggs_due(const evbus *bus);
/* Hands back what is queued, in order, once its run and its letter are back (`force`: at once); may free it. */
void ev_agg_stop(evbus *bus, struct ev_agg *agg, bool force, int64_t now);
bool ev_aggs_pause(const evbus *bus, const struct evbus_sub *sub); /* one of its waits for its next attempt */
void ev_aggs_stop(evbus *bus, const struct evbus_sub *sub, bool force, int64_t now);

/* Messages here (held.c): the table, the pool, leases. */
evbus_status ev_held_init(evbus *bus);
void ev_held_fini(evbus *bus);
evbus_msg *ev_held_find(const evbus *bus, const struct evbus_sub *sub, uint64_t stream_seq, int64_t stored_ns);
/* At any storing time. Not what a lost turn left here: its verdict settles nothing, so it comes again. */
bool ev_held_has(const evbus *bus, const struct evbus_sub *sub, uint64_t stream_seq);
evbus_msg *ev_held_new(evbus *bus, const struct ev_delivery *d, int64_t now);
void ev_held_free(evbus *bus, evbus_msg *msg);   /* releases the token, gives room back */
void ev_held_touch(evbus_msg *msg, int64_t now); /* its ack wait begins anew */
void ev_held_leases(evbus *bus, struct evbus_sub *sub, int64_t now);

/* Those of the subscription, or of all EXCLUSIVE ones (NULL), that waited until they may act. */
void ev_aggs_resume(evbus *bus, const struct evbus_sub *sub, int64_t now);
void ev_room_changed(struct evbus_sub *sub); /* held.c: the backend is told at the end of the turn */

/* The right to act (membership.c). */
bool ev_may_act(const evbus *bus, const struct evbus_sub *sub); /* start and settle, now */
bool ev_fenced(const struct evbus_sub *sub);                    /* another member has what is here */
void ev_rights_check(evbus *bus);

/* Frontier acks (frontier_acks.c); of other subscriptions they do nothing. */
void ev_frontier_moved(evbus *bus, struct evbus_sub *sub, int64_t now); /* tells, or sees to it that it is told soon */
bool ev_frontiers_turn(evbus *bus, int64_t now);
int64_t ev_frontiers_due(const evbus *bus);
void ev_frontier_leases(evbus *bus, struct evbus_sub *sub, int64_t now); /* of what is finished and not told */
void ev_frontier_look(evbus *bus, struct evbus_sub *sub);                /* does it stand still */
/* The subscription ends: told for the last time; what is finished beyond is handed back, or counted as left. */
void ev_frontier_end(evbus *bus, struct evbus_sub *sub);
/* It stops: up to which sequence everything should still be handled, so that the next member handles nothing again; 0: it
 * would not help, or take too long. Given up when something fails on the way. */
uint64_t ev_frontier_finish_to(const evbus *bus, const struct evbus_sub *sub);
void ev_frontier_give_up(struct evbus_sub *sub);
/* It is a delivery's turn to be noted; false: no room. */
bool ev_frontier_take(struct evbus_sub *sub, const struct ev_delivery *d);
/* What is held and not done is in it, also what it was made to forget: a binding that ended, a broker that seemed not to know
 * of it. False: no memory. */
bool ev_frontier_recall(struct evbus_sub *sub);
/* It is settled, as far as we are concerned: its place in the frontier is, if it is of this stream. */
void ev_frontier_done(const evbus_msg *m);

/* Settling (dispatch.c). */
/* The broker is told, if this member may; false: it may not, or there is no link. */
bool ev_tell(evbus *bus, const struct evbus_sub *sub, void *token, enum ev_settle verb, int64_t delay_ns);
void ev_settle_again(evbus *bus);                                                  /* what could not be told before */
void ev_settle(evbus *bus, evbus_msg *msg, enum ev_settle verb, int64_t delay_ns); /* and frees it when told */
void ev_let_go(evbus *bus, evbus_msg *msg);    /* not started, and the backend asks for it again; frees it */
void ev_hand_back(evbus *bus, evbus_msg *msg); /* not started: the broker gets it again; frees it */

/* A dead letter's fate. */
void ev_dispatch_letter_done(evbus *bus, evbus_msg *msg, bool stored, int64_t now);

#endif
