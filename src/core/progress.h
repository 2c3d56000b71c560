/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a subscription that should get messages getting them? The last net under all other repairs: connected, something
 * waits at the broker, there is room here, and still nothing has come for evbus_sub_opts.progress_timeout_ms. Then its pull
 * is armed anew; if that does not help, its consumer is bound anew; each time twice as long after the time before, up to 16
 * times. A subscription that is slow (handlers run, the window is full, messages are paused or parked) has no room, or gets
 * messages: it is left alone.
 *
 * Who   the housekeeping thread asks the broker, once a round of watch.c; what it heard is judged on the loop, which owns
 *       the rest.
 */
#ifndef EV_CORE_PROGRESS_H
#define EV_CORE_PROGRESS_H

enum ev_progress_reason {
    EV_PROGRESS_MOVES, /* something came since the last look */
    EV_PROGRESS_EMPTY, /* nothing waits for it */
    EV_PROGRESS_AWAY,  /* no link, no consumer, another member's turn, or the gap rule is at work: others see to that */
    EV_PROGRESS_FULL,  /* no room, here or as the broker counts: it is slow */
    EV_PROGRESS_WAITS, /* something should come, and it is early yet */
    EV_PROGRESS_STUCK  /* to be repaired now */
};

/* What one look saw. */
struct ev_progress_look {
    int64_t now;
    int64_t patience; /* without anything coming; EV_NEVER: for ever */
    int64_t slower;   /* more of it: what waits was delivered before, and comes again after its ack wait */
    uint64_t arrived; /* ever */
    uint64_t waiting; /* at the broker, for us */
    bool away, full;
};

struct ev_progress {
    uint64_t arrived; /* at the last look */
    int64_t since;    /* when something should have come first; 0: nothing should */
    uint32_t repairs; /* in a row */
    enum ev_progress_reason reason;
};

/* The rule. STUCK: counted as a repair, and not again before twice as long. MOVES and EMPTY leave `repairs` to the caller,
 * who tells of their end. */
enum ev_progress_reason ev_progress_judge(struct ev_progress *p, const struct ev_progress_look *look);

struct ev_consumer_state;
struct evbus_sub;

/* Housekeeping's question to the loop, one at a time. */
struct ev_progress_question {
    struct ev_command command;
    bool asked; /* guarded by bus->mutex, as is the rest */
    uint64_t number;
    uint64_t pending, ack_pending;
};

/* What the broker said of the subscription with this number (struct ev_watched). [keeper] */
void ev_progress_ask(evbus *bus, uint64_t number, uint64_t pending, uint64_t ack_pending);

#endif
