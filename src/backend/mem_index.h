/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two small containers of the mem:// broker, both intrusive: a hash table and a heap of due times. One thread at a time.
 * Making room is a step of its own, done when an object is made, so that using the object later cannot fail.
 */
#ifndef EV_BACKEND_MEM_INDEX_H
#define EV_BACKEND_MEM_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_mem_node {
    struct ev_mem_node *next;
    uint32_t hash;
    uint32_t kind; /* free for the owner */
};

struct ev_mem_table {
    struct ev_mem_node **buckets;
    uint32_t mask, count;
};

/* Keeps the table at one entry per bucket; when that fails it only becomes slower. False: no table at all. */
bool ev_mem_table_reserve(struct ev_mem_table *table);
void ev_mem_table_fini(struct ev_mem_table *table);
void ev_mem_table_add(struct ev_mem_table *table, struct ev_mem_node *node, uint32_t hash); /* after reserve */
void ev_mem_table_remove(struct ev_mem_table *table, struct ev_mem_node *node);

/* The chain in which all entries of `hash` are, among others. */
static inline struct ev_mem_node *ev_mem_table_chain(const struct ev_mem_table *table, uint32_t hash)
{
    return table->buckets ? table->buckets[hash & table->mask] : NULL;
}

struct ev_mem_timer {
    int64_t at;
    uint32_t place; /* in the heap, from 1; 0: not set */
    uint32_t kind;  /* free for the owner */
};

struct ev_mem_timers {
    struct ev_mem_timer **heap; /* [1] is due first */
    uint32_t count, room, users;
};

bool ev_mem_timers_reserve(struct ev_mem_timers *timers); /* one more user, who may set one timer */
void ev_mem_timers_leave(struct ev_mem_timers *timers, struct ev_mem_timer *timer); /* takes it out, one user less */
void ev_mem_timers_fini(struct ev_mem_timers *timers);
void ev_mem_timers_set(struct ev_mem_timers *timers, struct ev_mem_timer *timer, int64_t at);
void ev_mem_timers_clear(struct ev_mem_timers *timers, struct ev_mem_timer *timer);

/* Sets the timer unless it is due earlier already. */
static inline void ev_mem_timers_at_most(struct ev_mem_timers *timers, struct ev_mem_timer *timer, int64_t at)
{
    if (timer->place == 0 || at < timer->at)
        ev_mem_timers_set(timers, timer, at);
}

static inline struct ev_mem_timer *ev_mem_timers_first(const struct ev_mem_timers *timers)
{
    return timers->count > 0 ? timers->heap[1] : NULL;
}

#endif
