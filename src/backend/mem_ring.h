/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes between a session and the broker: two rings of small records, one each way. One producer, one consumer each:
 *
 *   commands   produced by the session's loop, consumed by whoever has the broker's baton
 *   results    produced by whoever has the baton, consumed by the session's loop
 *
 * Who       tail, head_seen: the producer's.   head, tail_seen: the consumer's.   items: by position.
 *           A side that is "whoever has the baton" changes threads with the baton, whose edge orders their accesses.
 * Edges     R1 (commit, release tail) -> R1 (peek, acquire tail):  the item, and the block it points to, are visible.
 *           R2 (drop, release head)   -> R2 (room, acquire head):  the place may be overwritten.
 * Progress  wait-free.
 * Holds     head <= tail <= head + mask + 1.
 * Checked   tests/backend/test_mem_session.c (ThreadSanitizer)
 */
#ifndef EV_BACKEND_MEM_RING_H
#define EV_BACKEND_MEM_RING_H

#include "base/alloc.h"
#include "conc/atomic.h"

#include <stdalign.h>
#include <stddef.h>

/* One command or result; mem_broker.h and mem_session.h say what the fields mean for each kind. */
struct ev_mem_item {
    uint8_t kind;
    uint8_t flags;
    uint16_t number;
    uint32_t count;
    union {
        void *object;
        uint64_t key;
    };
    union {
        struct ev_mem_block *block;
        uint64_t value;
    };
    uint64_t other;
};

struct ev_mem_ring {
    alignas(EV_APART) _Atomic(uint64_t) tail;
    uint64_t head_seen;
    alignas(EV_APART) _Atomic(uint64_t) head;
    uint64_t tail_seen;
    alignas(EV_APART) uint64_t mask;
    struct ev_mem_item *items;
};

/* capacity: a power of two. */
static inline bool ev_mem_ring_init(struct ev_mem_ring *ring, uint32_t capacity)
{
    ring->items = ev_calloc(capacity, sizeof *ring->items);
    ring->mask = capacity - 1;
    return ring->items != NULL;
}

static inline void ev_mem_ring_fini(struct ev_mem_ring *ring)
{
    ev_free(ring->items);
    ring->items = NULL;
}

/* Producer: places free, at least `want` if there are that many. */
static inline uint64_t ev_mem_ring_room(struct ev_mem_ring *ring, uint64_t want)
{
    const uint64_t tail = ev_load_relaxed(&ring->tail); /* own field */

    if (tail + want - ring->head_seen > ring->mask + 1)
        ring->head_seen = ev_load_acquire(&ring->head); /* R2 */
    return ring->mask + 1 - (tail - ring->head_seen);
}

/* Producer, when there is room: fill the item, then commit. */
static inline struct ev_mem_item *ev_mem_ring_next(struct ev_mem_ring *ring)
{
    return &ring->items[ev_load_relaxed(&ring->tail) & ring->mask]; /* own field */
}

static inline void ev_mem_ring_commit(struct ev_mem_ring *ring)
{
    ev_store_release(&ring->tail, ev_load_relaxed(&ring->tail) + 1); /* own field; R1 */
}

/* Consumer: the oldest item, NULL if there is none. */
static inline struct ev_mem_item *ev_mem_ring_peek(struct ev_mem_ring *ring)
{
    const uint64_t head = ev_load_relaxed(&ring->head); /* own field */

    if (head == ring->tail_seen) {
        ring->tail_seen = ev_load_acquire(&ring->tail); /* R1 */
        if (head == ring->tail_seen)
            return NULL;
    }
    return &ring->items[head & ring->mask];
}

static inline void ev_mem_ring_drop(struct ev_mem_ring *ring)
{
    ev_store_release(&ring->head, ev_load_relaxed(&ring->head) + 1); /* own field; R2 */
}

/* Any thread, as a hint; exact for the consumer. */
static inline bool ev_mem_ring_empty(struct ev_mem_ring *ring)
{
    return ev_load_acquire(&ring->tail) == ev_load_relaxed(&ring->head); /* R1; hint */
}

#endif
