/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages a consumer has delivered and that were not settled. Each is in one of three places:
 *
 *   in flight    a list in order of delivery (or of the last "still working"): its head's ack wait ends first
 *   due          a heap by sequence: to be delivered again now, oldest sequence first
 *   delayed      a heap by time: handed back with a delay
 *
 * Grows by doubling up to what the consumer allows and never shrinks while in use. One thread at a time.
 */
#ifndef EV_BACKEND_MEM_UNACKED_H
#define EV_BACKEND_MEM_UNACKED_H

#include <stdbool.h>
#include <stdint.h>

#define EV_MEM_NONE UINT32_MAX

struct ev_mem_block;

enum ev_mem_place { EV_MEM_IN_FLIGHT, EV_MEM_DUE, EV_MEM_DELAYED };

struct ev_mem_held {
    struct ev_mem_block *block; /* valid while the stream has its sequence */
    uint64_t seq;
    int64_t time;       /* in flight: since when; delayed: until when */
    uint32_t next_hash; /* in its bucket; in the list of free entries */
    uint32_t prev;      /* in flight: in the list; else: place in the heap */
    uint32_t next;
    uint16_t deliveries; /* stays at its maximum */
    uint16_t place;      /* enum ev_mem_place */
};

struct ev_mem_unacked {
    uint32_t room, count;
    uint32_t head, tail; /* in flight */
    uint32_t due_count, delayed_count;
    uint32_t free;
    uint32_t carved; /* entries ever used */
    uint32_t *buckets, *due, *delayed;
    struct ev_mem_held held[];
};

/* Room for one more; *unacked may be NULL at first and may move. False: out of memory. */
bool ev_mem_unacked_reserve(struct ev_mem_unacked **unacked);

uint32_t ev_mem_unacked_add(struct ev_mem_unacked *u, struct ev_mem_block *block, uint64_t seq, int64_t now);
uint32_t ev_mem_unacked_find(const struct ev_mem_unacked *u, uint64_t seq); /* EV_MEM_NONE: not there */
void ev_mem_unacked_remove(struct ev_mem_unacked *u, uint32_t index);

void ev_mem_unacked_renew(struct ev_mem_unacked *u, uint32_t index, int64_t now); /* in flight, from now on */
void ev_mem_unacked_due(struct ev_mem_unacked *u, uint32_t index);
void ev_mem_unacked_delay(struct ev_mem_unacked *u, uint32_t index, int64_t until);

/* Moves what is due to the heap of due ones. Returns when the next one is due, INT64_MAX if none will be. */
int64_t ev_mem_unacked_expire(struct ev_mem_unacked *u, int64_t now, int64_t ack_wait);

/* The lowest sequence of all, UINT64_MAX if none. Looks at each. */
uint64_t ev_mem_unacked_lowest(const struct ev_mem_unacked *u);

/* The lowest sequence that is due, EV_MEM_NONE if none. */
static inline uint32_t ev_mem_unacked_first_due(const struct ev_mem_unacked *u)
{
    return u->due_count > 0 ? u->due[0] : EV_MEM_NONE;
}

#endif
