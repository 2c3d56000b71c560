/* SPDX-License-Identifier: Apache-2.0 */
/* One delivered message, from the broker to its verdict. Who owns it when: dispatch.h. */
#ifndef EV_CORE_MESSAGE_H
#define EV_CORE_MESSAGE_H

#include "core/bus.h"
#include "core/sub.h"

#include <string.h>

#define EV_TEXT_INLINE 480

enum ev_msg_phase {
    EV_MSG_QUEUED,   /* in its aggregate's queue, or runnable */
    EV_MSG_OUT,      /* with a worker, or deferred */
    EV_MSG_LETTER,   /* its dead letter is on its way */
    EV_MSG_UNSETTLED /* finished; waits for a link to tell the broker */
};

enum ev_claim { EV_CLAIM_FREE, EV_CLAIM_WORKER, EV_CLAIM_REVOKED };

enum { EV_DEFER_RETURNED = 1, EV_DEFER_SETTLED = 2 };

/* What a worker reports beyond the public verdicts. */
#define EV_VERDICT_NOT_RUN 100

struct evbus_msg {
    struct ev_job job; /* the head of a run is what the crew's ring carries */
    evbus *bus;
    struct evbus_sub *sub;
    struct ev_agg *agg;       /* NULL: plain */
    evbus_msg *next;          /* queue, run, done batch */
    evbus_msg *chain;         /* held table; free list */
    evbus_msg *older, *newer; /* subscription's messages by lease time */
    evbus_msg *given_up;      /* dispatch's list of those to end without a letter */

    void *token;
    const char *topic;
    const void *data;
    size_t len;
    uint64_t stream_seq, consumer_seq;
    int64_t stored_ns;
    uint32_t delivery_count; /* when it was handed to its worker */
    uint32_t deliveries;     /* [loop] the latest: it may be delivered again while its handler runs */
    uint32_t attempt;        /* handler runs, this one included */

    int64_t first_ns; /* when it came here */
    int64_t lease_ns; /* the ack wait began */
    uint64_t ordinal;
    _Atomic(int64_t) started_ns; /* written by the worker; read by the loop to find overdue handlers */
    _Atomic(uint32_t) claim;     /* enum ev_claim */
    _Atomic(uint32_t) defer;     /* EV_DEFER_* */
    uint8_t phase;
    uint8_t verdict;         /* evbus_verdict or EV_VERDICT_NOT_RUN: D3 */
    uint8_t verb;            /* enum ev_settle, when unsettled */
    bool doomed;             /* goes to the dead-letter topic instead of a handler ... */
    bool tail;               /* ... because its aggregate is parked: tail.h */
    bool overdue;            /* reported */
    bool probe;              /* it decides about its subscription's breaker: D1 */
    bool abandoned;          /* overdue and dead-lettered: its verdict will be ignored */
    bool gone;               /* settled while a worker still has it */
    bool fenced;             /* another member has it now: it is not settled here */
    bool past_stream;        /* of a stream that its subscription was bound to before: its sequence says nothing */
    const char *cause;       /* of a doomed message, static; `reason` when NULL */
    uint32_t retry_after_ms; /* 0: by backoff */
    char *reason;            /* allocated, or NULL */

    evbus_envelope env;
    char *text; /* decoded strings of env: text_inline or allocated */
    char text_inline[EV_TEXT_INLINE];
};

/* Runs a run's messages one after the other; a worker's job. */
void ev_msg_run(struct ev_job *job);

/* Around every call of user code on a thread of the bus. */
void ev_callback_enter(const evbus *bus, const struct evbus_sub *sub);
void ev_callback_leave(void);
bool ev_in_handler_of(const struct evbus_sub *sub);

#endif
