/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_index.h"

#include "base/alloc.h"

#define TABLE_MIN 16u

/* ---- Hash table -------------------------------------------------------------------------------------------------- */

bool ev_mem_table_reserve(struct ev_mem_table *table)
{
    const uint32_t size = table->buckets ? table->mask + 1 : 0;

    if (table->count < size)
        return true;
    const uint32_t larger = size ? 2 * size : TABLE_MIN;
    struct ev_mem_node **buckets = ev_calloc(larger, sizeof(struct ev_mem_node *));
    if (!buckets)
        return size > 0;
    for (uint32_t i = 0; i < size; i++) {
        for (struct ev_mem_node *node = table->buckets[i], *next; node; node = next) {
            next = node->next;
            node->next = buckets[node->hash & (larger - 1)];
            buckets[node->hash & (larger - 1)] = node;
        }
    }
    ev_free(table->buckets);
    table->buckets = buckets;
    table->mask = larger - 1;
    return true;
}

void ev_mem_table_fini(struct ev_mem_table *table)
{
    ev_free(table->buckets);
    *table = (struct ev_mem_table){0};
}

void ev_mem_table_add(struct ev_mem_table *table, struct ev_mem_node *node, uint32_t hash)
{
    struct ev_mem_node **bucket = &table->buckets[hash & table->mask];

    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    table->count++;
}

void ev_mem_table_remove(struct ev_mem_table *table, struct ev_mem_node *node)
{
    struct ev_mem_node **link = &table->buckets[node->hash & table->mask];

    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    table->count--;
}

/* ---- Due times --------------------------------------------------------------------------------------------------- */

static void place(struct ev_mem_timers *timers, uint32_t at, struct ev_mem_timer *timer)
{
    timers->heap[at] = timer;
    timer->place = at;
}

static void sift_up(struct ev_mem_timers *timers, uint32_t at, struct ev_mem_timer *timer)
{
    for (; at > 1 && timer->at < timers->heap[at / 2]->at; at /= 2)
        place(timers, at, timers->heap[at / 2]);
    place(timers, at, timer);
}

static void sift_down(struct ev_mem_timers *timers, uint32_t at, struct ev_mem_timer *timer)
{
    for (;;) {
        uint32_t child = 2 * at;
        if (child > timers->count)
            break;
        if (child < timers->count && timers->heap[child + 1]->at < timers->heap[child]->at)
            child++;
        if (timers->heap[child]->at >= timer->at)
            break;
        place(timers, at, timers->heap[child]);
        at = child;
    }
    place(timers, at, timer);
}

bool ev_mem_timers_reserve(struct ev_mem_timers *timers)
{
    if (timers->users + 1 >= timers->room) {
        const uint32_t room = timers->room ? 2 * timers->room : 16;
        struct ev_mem_timer **heap = ev_realloc(timers->heap, room * sizeof(struct ev_mem_timer *));
        if (!heap)
            return false;
        timers->heap = heap;
        timers->room = room;
    }
    timers->users++;
    return true;
}

void ev_mem_timers_leave(struct ev_mem_timers *timers, struct ev_mem_timer *timer)
{
    ev_mem_timers_clear(timers, timer);
    timers->users--;
}

void ev_mem_timers_fini(struct ev_mem_timers *timers)
{
    ev_free(timers->heap);
    *timers = (struct ev_mem_timers){0};
}

void ev_mem_timers_set(struct ev_mem_timers *timers, struct ev_mem_timer *timer, int64_t at)
{
    if (timer->place == 0) {
        timer->at = at;
        sift_up(timers, ++timers->count, timer);
        return;
    }
    const bool earlier = at < timer->at;
    timer->at = at;
    if (earlier)
        sift_up(timers, timer->place, timer);
    else
        sift_down(timers, timer->place, timer);
}

void ev_mem_timers_clear(struct ev_mem_timers *timers, struct ev_mem_timer *timer)
{
    const uint32_t at = timer->place;

    if (at == 0)
        return;
    timer->place = 0;
    struct ev_mem_timer *last = timers->heap[timers->count--];
    if (last == timer)
        return;
    if (at > 1 && last->at < timers->heap[at / 2]->at)
        sift_up(timers, at, last);
    else
        sift_down(timers, at, last);
}
