/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The duplicate window: message ids seen in the last `span` ns, in time order, with a hash index. One for all streams
 * with the same span: the caller mixes the stream into the check. An id is 96 bits of hash; two different ids meet with
 * probability 2^-96 per pair.
 *
 * A bucket is one cache line, and a window of millions of ids costs one cache miss per message. Linear hashing: every
 * insertion splits at most one bucket, every removal joins at most one. There is no moment at which a large table is
 * copied, and an idle broker gives the memory back. One thread at a time.
 */
#ifndef EV_BACKEND_MEM_WINDOW_H
#define EV_BACKEND_MEM_WINDOW_H

#include "backend/mem_index.h"

struct ev_mem_id {
    uint64_t hash;
    uint64_t seq;
    int64_t at;
    uint32_t check;
    uint32_t next; /* in its bucket's overflow */
};

#define EV_MEM_BUCKET 7u

struct ev_mem_bucket {
    uint32_t tag[EV_MEM_BUCKET]; /* low half of the hash */
    uint32_t number[EV_MEM_BUCKET];
    uint32_t count;    /* in the two arrays */
    uint32_t overflow; /* number + 1 of the first that did not fit, 0: none; only while the arrays are full */
};

struct ev_mem_window {
    struct ev_mem_timer timer; /* when the oldest id leaves */
    struct ev_mem_window *next;
    int64_t span;
    uint32_t first, count;     /* ids are numbered in order, modulo 2^32 */
    struct ev_mem_id **chunks; /* of CHUNK ids each, by number */
    uint32_t chunk_room, chunks_live;
    struct ev_mem_id *spare[4];
    uint32_t spares;
    struct ev_mem_bucket **segments; /* of SEGMENT buckets each */
    uint32_t segment_room, buckets, low_mask;
};

struct ev_mem_window *ev_mem_window_new(int64_t span);
void ev_mem_window_free(struct ev_mem_window *window);

/* A hint that `hash` will be looked for soon. */
void ev_mem_window_prefetch(const struct ev_mem_window *window, uint64_t hash);
/* NULL: not seen within the window. */
const struct ev_mem_id *ev_mem_window_find(const struct ev_mem_window *window, uint64_t hash, uint32_t check,
                                           int64_t now);
/* Makes sure the next add succeeds. */
bool ev_mem_window_reserve(struct ev_mem_window *window);
void ev_mem_window_add(struct ev_mem_window *window, uint64_t hash, uint32_t check, uint64_t seq, int64_t now);
/* Forgets up to `max` ids that have left the window; how many that were. */
uint32_t ev_mem_window_purge(struct ev_mem_window *window, int64_t now, uint32_t max);
/* When the oldest leaves; only if count > 0. */
int64_t ev_mem_window_due(const struct ev_mem_window *window);

#endif
