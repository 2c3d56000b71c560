/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was settled here, most recent last: when it is delivered again (its ack was lost, or the broker crashed before it
 * had written the ack down), it is acked again and not run. Bounded: the oldest is forgotten when a new one needs its
 * place; a redelivery of a forgotten one runs again, which at-least-once allows. One per subscription, made at its first
 * message. [loop]
 *
 * A message is known by a key of its sequence and the time it was stored: a broker that lost the end of its stream uses
 * those sequences again, for other messages.
 */
#ifndef EV_CORE_SETTLED_H
#define EV_CORE_SETTLED_H

#include <stdbool.h>
#include <stdint.h>

struct ev_settled {
    uint64_t *table; /* hash set of keys, open addressing, 0 = free */
    uint64_t *order; /* ring of what is in it, oldest at `head` */
    uint32_t mask;   /* of the table: twice as many places as `capacity` */
    uint32_t capacity, count, head;
};

/* Capacity is rounded up to a power of two. False: no memory; everything else then does nothing. */
bool ev_settled_init(struct ev_settled *s, uint32_t capacity);
void ev_settled_fini(struct ev_settled *s);

static inline uint64_t ev_settled_key(uint64_t sequence, int64_t stored_ns)
{
    uint64_t h = (sequence ^ (uint64_t)stored_ns * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);

    h ^= h >> 32;
    return h ? h : 1;
}

void ev_settled_add(struct ev_settled *s, uint64_t key);
bool ev_settled_has(const struct ev_settled *s, uint64_t key);

#endif
