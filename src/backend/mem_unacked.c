/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_unacked.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

#define ROOM_MIN 4u

/* ---- The two heaps ----------------------------------------------------------------------------------------------- */

static uint32_t *heap_of(struct ev_mem_unacked *u, uint16_t kind)
{
    return kind == EV_MEM_DUE ? u->due : u->delayed;
}

static bool before(const struct ev_mem_unacked *u, uint16_t kind, uint32_t a, uint32_t b)
{
    if (kind == EV_MEM_DELAYED && u->held[a].time != u->held[b].time)
        return u->held[a].time < u->held[b].time;
    return u->held[a].seq < u->held[b].seq;
}

static void put(struct ev_mem_unacked *u, uint32_t *heap, uint32_t at, uint32_t index)
{
    heap[at] = index;
    u->held[index].prev = at;
}

static void sift_up(struct ev_mem_unacked *u, uint16_t kind, uint32_t at, uint32_t index)
{
    uint32_t *heap = heap_of(u, kind);

    for (; at > 0 && before(u, kind, index, heap[(at - 1) / 2]); at = (at - 1) / 2)
        put(u, heap, at, heap[(at - 1) / 2]);
    put(u, heap, at, index);
}

static void sift_down(struct ev_mem_unacked *u, uint16_t kind, uint32_t at, uint32_t index, uint32_t count)
{
    uint32_t *heap = heap_of(u, kind);

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(u, kind, heap[child + 1], heap[child]))
            child++;
        if (!before(u, kind, heap[child], index))
            break;
        put(u, heap, at, heap[child]);
        at = child;
    }
    put(u, heap, at, index);
}

static void heap_add(struct ev_mem_unacked *u, uint16_t kind, uint32_t index)
{
    uint32_t *count = kind == EV_MEM_DUE ? &u->due_count : &u->delayed_count;

    u->held[index].place = kind;
    sift_up(u, kind, (*count)++, index);
}

static void heap_remove(struct ev_mem_unacked *u, uint32_t index)
{
    const uint16_t kind = u->held[index].place;
    uint32_t *count = kind == EV_MEM_DUE ? &u->due_count : &u->delayed_count;
    uint32_t *heap = heap_of(u, kind);
    const uint32_t at = u->held[index].prev;
    const uint32_t last = heap[--*count];

    if (last == index)
        return;
    if (at > 0 && before(u, kind, last, heap[(at - 1) / 2]))
        sift_up(u, kind, at, last);
    else
        sift_down(u, kind, at, last, *count);
}

/* ---- The list ---------------------------------------------------------------------------------------------------- */

static void list_add(struct ev_mem_unacked *u, uint32_t index)
{
    struct ev_mem_held *held = &u->held[index];

    held->place = EV_MEM_IN_FLIGHT;
    held->prev = u->tail;
    held->next = EV_MEM_NONE;
    if (u->tail != EV_MEM_NONE)
        u->held[u->tail].next = index;
    else
        u->head = index;
    u->tail = index;
}

static void list_remove(struct ev_mem_unacked *u, uint32_t index)
{
    const struct ev_mem_held *held = &u->held[index];

    if (held->prev != EV_MEM_NONE)
        u->held[held->prev].next = held->next;
    else
        u->head = held->next;
    if (held->next != EV_MEM_NONE)
        u->held[held->next].prev = held->prev;
    else
        u->tail = held->prev;
}

static void leave_place(struct ev_mem_unacked *u, uint32_t index)
{
    if (u->held[index].place == EV_MEM_IN_FLIGHT)
        list_remove(u, index);
    else
        heap_remove(u, index);
}

/* ---- The whole --------------------------------------------------------------------------------------------------- */

/* Sequences in flight are nearly consecutive: their low bits spread well. */
static uint32_t *bucket_of(const struct ev_mem_unacked *u, uint64_t seq)
{
    return &u->buckets[seq & (u->room - 1)];
}

bool ev_mem_unacked_reserve(struct ev_mem_unacked **unacked)
{
    struct ev_mem_unacked *old = *unacked;

    if (old && old->count < old->room)
        return true;
    const uint32_t room = old ? 2 * old->room : ROOM_MIN;
    struct ev_mem_unacked *u = ev_malloc(sizeof *u + room * (sizeof u->held[0] + 3 * sizeof(uint32_t)));
    if (!u)
        return false;
    if (old) {
        memcpy(u, old, sizeof *u + old->room * sizeof u->held[0]);
    } else {
        memset(u, 0, sizeof *u);
        u->head = u->tail = u->free = EV_MEM_NONE;
    }
    u->room = room;
    u->buckets = (uint32_t *)(void *)&u->held[room];
    u->due = u->buckets + room;
    u->delayed = u->due + room;
    memset(u->buckets, 0xff, room * sizeof(uint32_t)); /* EV_MEM_NONE */
    if (old) {
        memcpy(u->due, old->due, old->due_count * sizeof(uint32_t));
        memcpy(u->delayed, old->delayed, old->delayed_count * sizeof(uint32_t));
        for (uint32_t i = 0; i < old->room; i++) { /* all are in use: it was full */
            u->held[i].next_hash = *bucket_of(u, u->held[i].seq);
            *bucket_of(u, u->held[i].seq) = i;
        }
        ev_free(old);
    }
    *unacked = u;
    return true;
}

uint32_t ev_mem_unacked_add(struct ev_mem_unacked *u, struct ev_mem_block *block, uint64_t seq, int64_t now)
{
    uint32_t index = u->free;

    if (index != EV_MEM_NONE)
        u->free = u->held[index].next_hash;
    else
        index = u->carved++;
    struct ev_mem_held *held = &u->held[index];
    held->block = block;
    held->seq = seq;
    held->time = now;
    held->deliveries = 1;
    held->next_hash = *bucket_of(u, seq);
    *bucket_of(u, seq) = index;
    list_add(u, index);
    u->count++;
    return index;
}

uint32_t ev_mem_unacked_find(const struct ev_mem_unacked *u, uint64_t seq)
{
    uint32_t index = *bucket_of(u, seq);

    while (index != EV_MEM_NONE && u->held[index].seq != seq)
        index = u->held[index].next_hash;
    return index;
}

void ev_mem_unacked_remove(struct ev_mem_unacked *u, uint32_t index)
{
    uint32_t *link = bucket_of(u, u->held[index].seq);

    leave_place(u, index);
    while (*link != index)
        link = &u->held[*link].next_hash;
    *link = u->held[index].next_hash;
    u->held[index].next_hash = u->free;
    u->free = index;
    u->count--;
}

void ev_mem_unacked_renew(struct ev_mem_unacked *u, uint32_t index, int64_t now)
{
    leave_place(u, index);
    u->held[index].time = now;
    list_add(u, index);
}

void ev_mem_unacked_due(struct ev_mem_unacked *u, uint32_t index)
{
    leave_place(u, index);
    heap_add(u, EV_MEM_DUE, index);
}

void ev_mem_unacked_delay(struct ev_mem_unacked *u, uint32_t index, int64_t until)
{
    leave_place(u, index);
    u->held[index].time = until;
    heap_add(u, EV_MEM_DELAYED, index);
}

int64_t ev_mem_unacked_expire(struct ev_mem_unacked *u, int64_t now, int64_t ack_wait)
{
    int64_t next = EV_NEVER;

    while (u->head != EV_MEM_NONE && ev_deadline_ns(u->held[u->head].time, ack_wait) <= now)
        ev_mem_unacked_due(u, u->head);
    while (u->delayed_count > 0 && u->held[u->delayed[0]].time <= now)
        ev_mem_unacked_due(u, u->delayed[0]);
    if (u->head != EV_MEM_NONE)
        next = ev_deadline_ns(u->held[u->head].time, ack_wait);
    if (u->delayed_count > 0 && u->held[u->delayed[0]].time < next)
        next = u->held[u->delayed[0]].time;
    return next;
}

uint64_t ev_mem_unacked_lowest(const struct ev_mem_unacked *u)
{
    uint64_t lowest = u->due_count > 0 ? u->held[u->due[0]].seq : UINT64_MAX;

    for (uint32_t i = u->head; i != EV_MEM_NONE; i = u->held[i].next)
        lowest = u->held[i].seq < lowest ? u->held[i].seq : lowest;
    for (uint32_t i = 0; i < u->delayed_count; i++)
        lowest = u->held[u->delayed[i]].seq < lowest ? u->held[u->delayed[i]].seq : lowest;
    return lowest;
}
