/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that is readable exactly while there is something, for programs that wait in an event loop of their own.
 *
 * Use       Producer (one):  put the item where has_more() sees it;  ev_bell_ring(bell, has_more, arg);
 *           Consumer, under the consumers' mutex:  take; if nothing is left: ev_bell_hush(bell, has_more, arg);
 *           At the end: make has_more() say yes for ever, then ring, under that mutex.
 *           Nobody asked for a descriptor: one load, no system call. It costs one when something comes after nothing.
 *
 * Who       state  whoever rings or silences claims it by an exchange, touches the descriptor, and lets go of it.
 *           fd     set once, under the consumers' mutex: the descriptor + 1; 0: nobody asked.
 *
 * Edges     Y1 (ring: item there, then seq_cst exchange of state fails: it is rung or claimed) /
 *           Y2 (hush: seq_cst store of "silent", then its look for more): Dekker's pattern; the look sees the item.
 *           Y3 (ring: item there, then seq_cst load of fd) / Y4 (open: seq_cst store of fd, then the look for more): as Y1.
 *           Y5 (ring: seq_cst store of "rung", then its look for more) / Y6 (hush: item taken, then seq_cst exchange of
 *              state fails: somebody is ringing): Dekker's pattern again; a ring that comes after its item was taken sees
 *              that, and silences itself. Nothing comes meanwhile: only the producer itself could bring it.
 *           So every look of has_more() must be of seq_cst loads, and every taking a seq_cst store before the hush.
 *
 * Progress  ring and hush are wait-free but for their second looks: they go round once for each item or end that came or
 *           went meanwhile.
 *
 * Holds     when no ring and no hush is under way: readable  <=>  state is rung  <=>  there is something.
 * Checked   tests/unit/test_bell.c, tests/model/test_receipts.c
 */
#ifndef EV_CONC_BELL_H
#define EV_CONC_BELL_H

#include "base/status.h"
#include "conc/atomic.h"

struct ev_bell {
    _Atomic(uint32_t) state; /* zeroed is initialised: silent, no descriptor */
    _Atomic(int32_t) fd;
#ifdef EV_MODEL
    _Atomic(uint32_t) written; /* stands for the kernel's counter */
#endif
};

/* Makes the descriptor if there is none, and rings if there is something. Under the consumers' mutex.
 * Returns: EVBUS_OK, EVBUS_SYSTEM */
evbus_status ev_bell_open(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg);

/* Another descriptor of the same bell, for the caller to close. After ev_bell_open. Returns: EVBUS_OK, EVBUS_SYSTEM */
evbus_status ev_bell_share(struct ev_bell *bell, int *ret_fd);

void ev_bell_fini(struct ev_bell *bell);

/* The part of ev_bell_ring for when there is a descriptor. */
void ev_bell_ring_it(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg);

static inline void ev_bell_ring(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg)
{
    if (ev_load_seqcst(&bell->fd) != 0) /* Y3 */
        ev_bell_ring_it(bell, has_more, arg);
}

/* Nothing is left: the descriptor is not readable any more, unless has_more(arg) says yes. Under the consumers' mutex. */
void ev_bell_hush(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg);

#endif
