/* SPDX-License-Identifier: Apache-2.0 */
/* A number of places that can be closed: who is in may stay, nobody comes in any more, and exactly one thread learns that
 * the last one has left.
 *
 * Use       if (ev_quota_enter(quota, max) == EV_QUOTA_IN) { ...; if (ev_quota_leave(quota, 1)) the_end(); }
 *           if (ev_quota_close(quota)) the_end();
 *
 * Who       state  everybody exchanges it: how many are in, and a bit for closed.
 *
 * Edges     X1 (leave and close, release) -> X2 (the leave or close that ends it, acquire): the_end() sees what all
 *              others did before they left. A chain of read-modify-writes on one word.
 *           X3 (leave or close, seq_cst) / X4 (enter, seq_cst): Dekker's pattern with the flag of who sleeps for a place.
 *           After a leave or close that returned false the quota may be gone: its memory is somebody else's question.
 *
 * Progress  enter is lock-free; leave and close are wait-free.
 *
 * Holds     in <= max;  of all leaves and closes of one quota at most one returns true, and one does if it is closed
 *           and all have left.
 * Checked   tests/unit/test_quota.c, tests/model/test_receipts.c
 */
#ifndef EV_CONC_QUOTA_H
#define EV_CONC_QUOTA_H

#include "conc/atomic.h"

#define EV_QUOTA_CLOSED_BIT (UINT32_C(1) << 31)

struct ev_quota {
    _Atomic(uint32_t) state; /* zeroed is initialised */
};

enum ev_quota_entry { EV_QUOTA_IN, EV_QUOTA_FULL, EV_QUOTA_CLOSED };

static inline enum ev_quota_entry ev_quota_enter(struct ev_quota *quota, uint32_t max)
{
    uint32_t seen = ev_load_seqcst(&quota->state); /* X4 */

    do {
        if (seen & EV_QUOTA_CLOSED_BIT)
            return EV_QUOTA_CLOSED;
        if (seen >= max)
            return EV_QUOTA_FULL;
    } while (!ev_cas_seqcst(&quota->state, &seen, seen + 1));
    return EV_QUOTA_IN;
}

/* True: it was closed, and these were the last. */
static inline bool ev_quota_leave(struct ev_quota *quota, uint32_t count)
{
    if (EV_BUG(EV_BUG_QUOTA_LATE_LOOK)) {
        ev_sub_seqcst(&quota->state, count);
        return ev_load_seqcst(&quota->state) == EV_QUOTA_CLOSED_BIT;
    }
    const uint32_t before = ev_sub_seqcst(&quota->state, count); /* X1, X2, X3 */

    return before - count == EV_QUOTA_CLOSED_BIT;
}

/* True: nobody is in, and it was not closed before. */
static inline bool ev_quota_close(struct ev_quota *quota)
{
    return ev_or_seqcst(&quota->state, EV_QUOTA_CLOSED_BIT) == 0; /* X1, X2, X3 */
}

static inline uint32_t ev_quota_count(struct ev_quota *quota)
{
    return ev_load_seqcst(&quota->state) & ~EV_QUOTA_CLOSED_BIT;
}

#endif
