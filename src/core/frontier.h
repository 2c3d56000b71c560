/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the broker delivered to a member with frontier acks and was not told to be settled: in the order of the stream,
 * each finished or not. The frontier is the last of the finished ones at the front; one ack settles all up to it. [loop]
 *
 * The broker takes such an ack for everything below, whoever has it. So it must be known that all it delivered is in
 * here: `certain`, as the backend says (ev_host_certain). In doubt nothing is acked; what finishes waits.
 *
 * Count of the ack. nats-server ignores an ack whose consumer sequence is not above that of the ack before, and a message
 * that was delivered again has a high one. So an ack carries the count of the last delivery, less what stays behind: it leaves
 * as many numbers as messages stay. And always more than the ack before: a leader that was elected may have counted less far
 * than was delivered, and take no other until it has counted to where that ack was.
 */
#ifndef EV_CORE_FRONTIER_H
#define EV_CORE_FRONTIER_H

#include <stdbool.h>
#include <stdint.h>

#define EV_FRONTIER_MAX (1u << 17) /* entries: twice the largest window */

struct ev_frontier_entry {
    uint64_t seq;
    uint32_t open; /* messages of that sequence that are here and not finished; 0: finished */
    bool absent;   /* delivered and not taken in: it comes again */
};

struct ev_frontier {
    struct ev_frontier_entry *ring; /* ascending, from `head` */
    uint32_t mask, head, count;
    uint32_t ready : 31; /* the first so many are finished */
    uint32_t certain : 1;
    uint64_t top;  /* the broker's count of the last delivery */
    uint64_t last; /* the count of the last ack */
};

/* Room for `capacity`, rounded up to a power of two, and more when needed. False: no memory. */
bool ev_frontier_init(struct ev_frontier *f, uint32_t capacity);
void ev_frontier_fini(struct ev_frontier *f);
void ev_frontier_clear(struct ev_frontier *f); /* nothing is known any more */

/* It was delivered. False: there is no room for it. */
bool ev_frontier_add(struct ev_frontier *f, uint64_t seq, uint64_t consumer_seq);
/* The same of one that is here already, or was settled here before (`finished`). */
bool ev_frontier_again(struct ev_frontier *f, uint64_t seq, uint64_t consumer_seq, bool finished);
/* It was delivered and could not be taken in. */
void ev_frontier_absent(struct ev_frontier *f, uint64_t seq);
/* It is settled, as far as we are concerned. */
void ev_frontier_finish(struct ev_frontier *f, uint64_t seq);

/* It is here, or was and waits for the frontier. */
bool ev_frontier_has(const struct ev_frontier *f, uint64_t seq);

/* All that the broker holds as delivered is in here. `delivered` is its count, `floor` that of the last ack it is known to have
 * taken. `exact`: it has counted no further, and an ack of ours above that was not taken; else those are what several agreed on. */
void ev_frontier_certain(struct ev_frontier *f, uint64_t delivered, uint64_t floor, bool exact);

/* The count of an ack below all that is here, by which the broker is told what it does not know; it has counted to `delivered`, or
 * further, and `floor` is good for it unless there was a later ack. */
uint64_t ev_frontier_count_below(struct ev_frontier *f, uint64_t delivered, uint64_t floor);

/* Where the frontier is; false: nothing at the front is finished, or it is not certain. */
bool ev_frontier_at(const struct ev_frontier *f, uint64_t *ret_seq, uint64_t *ret_count);
/* The broker was told. */
void ev_frontier_told(struct ev_frontier *f);

/* How many of these sequences are here, or were and wait for the frontier. The broker holds no others as delivered: they are forgotten. */
uint32_t ev_frontier_within(struct ev_frontier *f, uint64_t first, uint64_t last);

static inline struct ev_frontier_entry *ev_frontier_entry(const struct ev_frontier *f, uint32_t at)
{
    return &f->ring[(f->head + at) & f->mask];
}

#endif
