/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where mem:// keeps bytes. A message is copied once, by the loop that publishes it, into a *block*; from then on the
 * block is passed by pointer: into a stream's log, to consumers, to the core. It is immutable but for the fields named
 * below and lives until nobody counts on it.
 *
 * Blocks come from the publishing session's *pool*: size classes in slabs, so a steady flow of messages allocates
 * nothing, and messages dropped in order are reused in order (the memory is walked forwards, which caches like).
 *
 * Who       pool: its owner's loop alone allocates and frees directly; every other thread returns blocks through
 *           `returned`.    refs: anybody who has a reference.    next, seq, stored_at, wall_ns: who has the broker's baton.
 * Edges     S1 (unref, acq_rel) -> S1 (last unref, acq_rel): all uses of a block come before its memory is used again.
 *           S2 (give back, release on `returned`) -> S2 (collect, acquire swap): the block's link is visible.
 *           S3 (leave, release EV_MEM_LEFT) -> S3 (give back, acquire): the slab's count of blocks out is visible.
 * Progress  allocating and freeing by the owner: wait-free. Giving back: lock-free (a push), wait-free once the owner left.
 * Holds     a slab's blocks = carved and free + out; a pool that was left dies with its last slab, a slab with its last
 *           block.
 * Checked   tests/unit/test_mem_broker.c, tests/backend/test_mem_session.c (several threads, ThreadSanitizer)
 */
#ifndef EV_BACKEND_MEM_STORE_H
#define EV_BACKEND_MEM_STORE_H

#include "conc/atomic.h"
#include "core/backend.h"

#include <stdalign.h>

#define EV_MEM_CLASSES 73    /* 128 bytes to 64 KiB in eighths of a power of two; above: one allocation each */
#define EV_MEM_SIZE_EXTRA 16 /* counted per message beside its topic, headers and data, as nats-server does */

struct ev_mem_pool;

struct ev_mem_slab {
    struct ev_mem_pool *pool;        /* NULL: one big block of its own */
    struct ev_mem_slab *next, *prev; /* all slabs of the pool */
    struct ev_mem_slab *partial_next, *partial_prev;
    struct ev_mem_block *free;
    uint32_t used, carved, count;
    uint16_t size_class;
    bool is_partial;
    _Atomic(uint32_t) out; /* only after the owner left: blocks not given back, plus 1 while it leaves */
};

struct ev_mem_block {
    alignas(16) struct ev_mem_block *next; /* in a log; in a free list */
    struct ev_mem_slab *slab;
    _Atomic(uint32_t) refs;
    uint32_t len;
    uint32_t headers_len;
    uint32_t topic_hash;
    uint64_t seq;      /* in its stream, 0: not stored */
    int64_t stored_at; /* bus clock */
    int64_t wall_ns;
    uint16_t topic_len;
    uint16_t size_class;
};

struct ev_mem_pool {
    struct ev_mem_slab *partial[EV_MEM_CLASSES]; /* slabs with room */
    uint32_t slabs_of[EV_MEM_CLASSES];
    uint32_t empty_of[EV_MEM_CLASSES];
    struct ev_mem_slab *all;
    alignas(EV_APART) _Atomic(struct ev_mem_block *) returned;
    _Atomic(uint32_t) slabs; /* only after the owner left: slabs alive, plus 1 while it leaves */
};

struct ev_mem_pool *ev_mem_pool_new(void);
/* The owner goes; what is still in use keeps its memory until given back. NULL is fine. */
void ev_mem_pool_leave(struct ev_mem_pool *pool);

/* A copy of the record with one reference. NULL when out of memory. Owner only. */
struct ev_mem_block *ev_mem_block_new(struct ev_mem_pool *pool, const struct ev_record *record, size_t topic_len,
                                      uint32_t topic_hash);
void ev_mem_block_free(struct ev_mem_block *block, struct ev_mem_pool *home);

/* Has the kernel map memory that will be written soon, all at once: far cheaper than a fault per page. */
void ev_mem_populate(void *memory, size_t size);

static inline void ev_mem_ref(struct ev_mem_block *block)
{
    ev_add_relaxed(&block->refs, 1); /* the caller's own reference keeps it alive */
}

/* `home` is the pool this thread owns, NULL if none. */
static inline void ev_mem_unref(struct ev_mem_block *block, struct ev_mem_pool *home)
{
    /* Only who has a reference can make another: a count of 1 is ours alone and needs no read-modify-write. */
    if (ev_load_acquire(&block->refs) == 1 || ev_sub_acqrel(&block->refs, 1) == 1) /* S1 */
        ev_mem_block_free(block, home);
}

static inline const char *ev_mem_data(const struct ev_mem_block *block)
{
    return (const char *)(block + 1);
}

static inline const char *ev_mem_topic(const struct ev_mem_block *block)
{
    return ev_mem_data(block) + block->len;
}

/* What limits count. */
static inline uint64_t ev_mem_size(const struct ev_mem_block *block)
{
    return (uint64_t)block->len + block->headers_len + block->topic_len + EV_MEM_SIZE_EXTRA;
}

/* See ev_backend_ops. The message id is the first header, as on nats://. */
const char *ev_mem_header(const struct ev_mem_block *block, const char *name);
size_t ev_mem_headers(const struct ev_mem_block *block, char *buf, size_t cap);

#endif
