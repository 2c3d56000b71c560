/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded queue of pointers: many producers, many consumers (after an idea of Dmitry Vyukov).
 *
 * Use       ev_ring_push / ev_ring_pop; the _one forms when exactly one thread pushes, or exactly one pops. The struct is
 *           aligned to 128 bytes: on the heap it needs ev_aligned(alignof(struct ...), ...).
 *
 * Each cell carries a sequence number that says whose turn it is. Position p of the endless queue lives in cell
 * p & mask; with n = mask + 1:
 *           seq == p        free, for the producer that takes position p
 *           seq == p + 1    full, for the consumer that takes position p
 *           seq == p + n    free again, for position p + n
 *
 * Who       tail       producers write and read: the next position to claim.
 *           head       consumers write, consumers and ev_ring_empty read.
 *           cell.seq   written by whoever has claimed the position; read by all.
 *           cell.item  only whoever has claimed the position.
 *           mask, cells  constant after init.
 *
 * Edges     A1 (push, seq_cst publish of seq) -> A2 (pop, acquire seq): the item, and what the producer did before.
 *           B1 (pop, release of seq) -> B2 (push, acquire seq): the consumer has read the cell; it may be overwritten.
 *           C1 (push, seq_cst publish) / C2 (ev_ring_empty, seq_cst load): with a seq_cst flag of the sleeper this is
 *              Dekker's pattern. Producer: C1, then loads the flag. Sleeper: stores the flag, then C2. In the one order
 *              of all seq_cst operations either C2 comes after C1 and sees the item, or the producer's load comes
 *              after the store and sees the sleeper. Acquire and release alone would allow both to miss.
 *           tail and head are claimed with relaxed operations: they carry no data, the cell does.
 *
 * Progress  push, pop: lock-free, and never wait for a stalled thread: a producer stalled between claim and publish
 *           makes pop return false (also when later positions are full); a stalled consumer makes push return false.
 *           push_one, pop_one, peek_one: wait-free.  empty: lock-free (goes round only when the head has moved).
 *
 * Excludes    push  push_one  pop  pop_one  empty      X: the caller must exclude it; -: may run at the same time
 *   push        -      X       -      -       -
 *   push_one    X      X       -      -       -
 *   pop         -      -       -      X       -
 *   pop_one     -      -       X      X       -
 *
 * Holds     head <= tail <= head + n;  n a power of two >= 2 (with n = 1 "full" and "free again" would be one number).
 * Checked   tests/unit/test_ring.c, tests/model/test_ring.c
 */
#ifndef EV_CONC_RING_H
#define EV_CONC_RING_H

#include "base/status.h"
#include "conc/atomic.h"

#include <stdalign.h>

struct ev_ring_cell {
    _Atomic(uint64_t) seq;
    void *item;
};

struct ev_ring {
    alignas(EV_APART) _Atomic(uint64_t) tail;
    alignas(EV_APART) _Atomic(uint64_t) head;
    alignas(EV_APART) uint64_t mask;
    struct ev_ring_cell *cells;
};

_Static_assert(sizeof(struct ev_ring) == 3 * EV_APART, "producers, consumers and constants on lines of their own");

/* Rounds the capacity up to a power of two, at least 2. Returns: EVBUS_OK, EVBUS_NOMEM */
evbus_status ev_ring_init(struct ev_ring *ring, uint32_t capacity);

/* Nobody uses the ring any more. What is still in it is forgotten. A zeroed or finished ring is fine. */
void ev_ring_fini(struct ev_ring *ring);

/* Puts the item into the claimed cell and makes it visible. */
static inline void ev_ring_publish_(struct ev_ring_cell *cell, uint64_t position, void *item)
{
    if (EV_BUG(EV_BUG_RING_EARLY_PUBLISH))
        ev_store_seqcst(&cell->seq, position + 1);
    EV_WRITES(&cell->item);
    cell->item = item;
    ev_store_seqcst(&cell->seq, position + 1); /* A1, C1 */
}

/* Takes the item out of the claimed cell and hands the cell back to the producers. */
static inline void *ev_ring_empty_cell_(struct ev_ring *ring, struct ev_ring_cell *cell, uint64_t position)
{
    if (EV_BUG(EV_BUG_RING_EARLY_RELEASE))
        ev_store_release(&cell->seq, position + ring->mask + 1);
    EV_READS(&cell->item);
    void *item = cell->item;

    ev_store_release(&cell->seq, position + ring->mask + 1); /* B1 */
    return item;
}

/* False: full. */
static inline bool ev_ring_push(struct ev_ring *ring, void *item)
{
    uint64_t position = ev_load_relaxed(&ring->tail); /* hint: the exchange checks it */

    for (;;) {
        struct ev_ring_cell *cell = &ring->cells[position & ring->mask];
        const int64_t turn = (int64_t)(ev_load_acquire(&cell->seq) - position); /* B2 */

        if (turn < 0)
            return false;
        if (turn > 0) {
            position = ev_load_relaxed(&ring->tail);                            /* hint: others were faster */
        } else if (ev_cas_weak_relaxed(&ring->tail, &position, position + 1)) { /* a claim: the cell orders the data */
            ev_ring_publish_(cell, position, item);
            return true;
        }
    }
}

/* As ev_ring_push, when no other thread pushes. */
static inline bool ev_ring_push_one(struct ev_ring *ring, void *item)
{
    const uint64_t position = ev_load_relaxed(&ring->tail); /* own field */
    struct ev_ring_cell *cell = &ring->cells[position & ring->mask];

    if (ev_load_acquire(&cell->seq) != position) /* B2 */
        return false;
    ev_store_relaxed(&ring->tail, position + 1); /* own field */
    ev_ring_publish_(cell, position, item);
    return true;
}

/* False: nothing to take now. */
static inline bool ev_ring_pop(struct ev_ring *ring, void **ret_item)
{
    uint64_t position = ev_load_relaxed(&ring->head); /* hint: the exchange checks it */

    for (;;) {
        struct ev_ring_cell *cell = &ring->cells[position & ring->mask];
        const int64_t turn = (int64_t)(ev_load_acquire(&cell->seq) - (position + 1)); /* A2 */

        if (turn < 0)
            return false;
        if (turn > 0) {
            position = ev_load_relaxed(&ring->head);                            /* hint: others were faster */
        } else if (ev_cas_weak_relaxed(&ring->head, &position, position + 1)) { /* a claim: the cell orders the data */
            *ret_item = ev_ring_empty_cell_(ring, cell, position);
            return true;
        }
    }
}

/* As ev_ring_pop, when no other thread pops. */
static inline bool ev_ring_pop_one(struct ev_ring *ring, void **ret_item)
{
    const uint64_t position = ev_load_relaxed(&ring->head); /* own field; ev_ring_empty of others reads it */
    struct ev_ring_cell *cell = &ring->cells[position & ring->mask];

    if (ev_load_acquire(&cell->seq) != position + 1) /* A2 */
        return false;
    ev_store_relaxed(&ring->head, position + 1); /* own field */
    *ret_item = ev_ring_empty_cell_(ring, cell, position);
    return true;
}

/* What the `ahead`th ev_ring_pop_one from now will give, for the thread that makes them. NULL: not there yet. */
static inline const void *ev_ring_peek_one(struct ev_ring *ring, uint64_t ahead)
{
    const uint64_t position = ev_load_relaxed(&ring->head) + ahead; /* own field */
    struct ev_ring_cell *cell = &ring->cells[position & ring->mask];

    if (ev_load_acquire(&cell->seq) != position + 1) /* A2 */
        return NULL;
    EV_READS(&cell->item);
    return cell->item;
}

/*
 * True if nothing can be popped now; any thread may ask. For the sleep protocol (edge C) this answer counts, not that
 * of a failed pop, whose load is only an acquire.
 */
static inline bool ev_ring_empty(struct ev_ring *ring)
{
    for (;;) {
        const uint64_t position = ev_load_relaxed(&ring->head); /* hint: an old one names a cell that is not empty */
        const int64_t turn =
            (int64_t)(ev_load_seqcst(&ring->cells[position & ring->mask].seq) - (position + 1)); /* C2 */

        if (turn < 0)
            return true; /* the position is not published, so it is not popped: this is the head */
        if (turn == 0 && ev_load_relaxed(&ring->head) == position) /* hint: else it is being taken by another */
            return false;
    }
}

#endif
