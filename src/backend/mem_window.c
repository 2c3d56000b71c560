/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_window.h"

#include "backend/mem_store.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

#define CHUNK 1024u
#define SEGMENT 1024u
#define LOAD 3u        /* ids per bucket, on average; buckets that are not split yet have up to twice that */
#define TOP UINT32_MAX /* the one number that cannot be written as number + 1 */

static inline struct ev_mem_id *id_at(const struct ev_mem_window *window, uint32_t number)
{
    return &window->chunks[number / CHUNK & (window->chunk_room - 1)][number % CHUNK];
}

static inline struct ev_mem_bucket *bucket_at(const struct ev_mem_window *window, uint32_t bucket)
{
    return &window->segments[bucket / SEGMENT][bucket % SEGMENT];
}

static inline uint32_t bucket_of(const struct ev_mem_window *window, uint32_t tag)
{
    const uint32_t bucket = tag & (2 * window->low_mask + 1);

    return bucket < window->buckets ? bucket : bucket & window->low_mask;
}

/* ---- The index --------------------------------------------------------------------------------------------------- */

static void bucket_add(struct ev_mem_window *window, uint32_t tag, uint32_t number)
{
    struct ev_mem_bucket *bucket = bucket_at(window, bucket_of(window, tag));

    if (bucket->count < EV_MEM_BUCKET) {
        bucket->tag[bucket->count] = tag;
        bucket->number[bucket->count++] = number;
        return;
    }
    id_at(window, number)->next = bucket->overflow;
    bucket->overflow = number + 1;
}

static uint32_t overflow_take(const struct ev_mem_window *window, uint32_t *link)
{
    const uint32_t number = *link - 1;

    *link = id_at(window, number)->next;
    return number;
}

static void bucket_remove(struct ev_mem_window *window, uint32_t tag, uint32_t number)
{
    struct ev_mem_bucket *bucket = bucket_at(window, bucket_of(window, tag));
    uint32_t *link = &bucket->overflow;

    for (uint32_t i = 0; i < bucket->count; i++) {
        if (bucket->number[i] != number)
            continue;
        const uint32_t last = --bucket->count;
        bucket->tag[i] = bucket->tag[last];
        bucket->number[i] = bucket->number[last];
        if (bucket->overflow) {
            const uint32_t moved = overflow_take(window, &bucket->overflow);
            bucket_add(window, (uint32_t)id_at(window, moved)->hash, moved);
        }
        return;
    }
    while (*link != 0 && *link != number + 1)
        link = &id_at(window, *link - 1)->next;
    if (*link != 0)
        (void)overflow_take(window, link);
}

/* Empties a bucket; its ids go where they belong now. */
static void spread(struct ev_mem_window *window, struct ev_mem_bucket *bucket)
{
    const struct ev_mem_bucket was = *bucket;
    uint32_t overflow = was.overflow;

    bucket->count = bucket->overflow = 0;
    for (uint32_t i = 0; i < was.count; i++)
        bucket_add(window, was.tag[i], was.number[i]);
    while (overflow) {
        const uint32_t number = overflow_take(window, &overflow);
        bucket_add(window, (uint32_t)id_at(window, number)->hash, number);
    }
}

static bool segment_reserve(struct ev_mem_window *window, uint32_t segment)
{
    if (segment >= window->segment_room) {
        const uint32_t room = window->segment_room ? 2 * window->segment_room : 4;
        struct ev_mem_bucket **segments = ev_realloc(window->segments, room * sizeof(struct ev_mem_bucket *));
        if (!segments)
            return false;
        memset(segments + window->segment_room, 0, (room - window->segment_room) * sizeof(struct ev_mem_bucket *));
        window->segments = segments;
        window->segment_room = room;
    }
    if (!window->segments[segment])
        window->segments[segment] = ev_aligned(sizeof(struct ev_mem_bucket), SEGMENT * sizeof(struct ev_mem_bucket));
    return window->segments[segment] != NULL;
}

/* Adds one bucket and moves to it what belongs there. Without memory the overflows only get longer. */
static void split(struct ev_mem_window *window)
{
    const uint32_t added = window->buckets;
    struct ev_mem_bucket *from = bucket_at(window, added & window->low_mask);

    if (!segment_reserve(window, added / SEGMENT))
        return;
    window->buckets++;
    if (window->buckets > 2 * window->low_mask + 1)
        window->low_mask = 2 * window->low_mask + 1;
    spread(window, from);
}

/* Takes the last bucket away; its ids join the one it was split from. */
static void join(struct ev_mem_window *window)
{
    const uint32_t gone = --window->buckets;

    if (gone <= window->low_mask)
        window->low_mask /= 2;
    spread(window, bucket_at(window, gone));
    if (gone % SEGMENT == 0) {
        ev_free(window->segments[gone / SEGMENT]);
        window->segments[gone / SEGMENT] = NULL;
    }
}

/* ---- Ids in time order ------------------------------------------------------------------------------------------- */

static bool directory_grow(struct ev_mem_window *window)
{
    const uint32_t room = window->chunk_room ? 2 * window->chunk_room : 4;
    struct ev_mem_id **chunks = ev_calloc(room, sizeof(struct ev_mem_id *));

    if (!chunks)
        return false;
    for (uint32_t i = 0, chunk = window->first / CHUNK; i < window->chunks_live; i++, chunk++)
        chunks[chunk & (room - 1)] = window->chunks[chunk & (window->chunk_room - 1)];
    ev_free(window->chunks);
    window->chunks = chunks;
    window->chunk_room = room;
    return true;
}

bool ev_mem_window_reserve(struct ev_mem_window *window)
{
    const uint32_t number = window->first + window->count;

    if (window->buckets == 0) {
        if (!segment_reserve(window, 0))
            return false;
        window->buckets = SEGMENT;
        window->low_mask = SEGMENT - 1;
    }
    if (number % CHUNK != 0 && window->count > 0)
        return true;
    if (window->chunks_live == window->chunk_room && !directory_grow(window))
        return false;
    struct ev_mem_id **chunk = &window->chunks[number / CHUNK & (window->chunk_room - 1)];
    if (*chunk)
        return true;
    if (window->spares > 0) {
        *chunk = window->spare[--window->spares];
    } else if ((*chunk = ev_malloc(CHUNK * sizeof(struct ev_mem_id))) != NULL) {
        if (window->chunks_live > 0)
            ev_mem_populate(*chunk, CHUNK * sizeof(struct ev_mem_id));
    }
    window->chunks_live += *chunk != NULL;
    return *chunk != NULL;
}

void ev_mem_window_add(struct ev_mem_window *window, uint64_t hash, uint32_t check, uint64_t seq, int64_t now)
{
    const uint32_t number = window->first + window->count;

    *id_at(window, number) = (struct ev_mem_id){.hash = hash, .seq = seq, .at = now, .check = check};
    window->count++;
    if (number == TOP) /* this one is not remembered */
        return;
    bucket_add(window, (uint32_t)hash, number);
    if (window->count > LOAD * window->buckets)
        split(window);
}

void ev_mem_window_prefetch(const struct ev_mem_window *window, uint64_t hash)
{
    if (window->count > 0)
        __builtin_prefetch(bucket_at(window, bucket_of(window, (uint32_t)hash)), 1);
}

static bool is_id(const struct ev_mem_window *window, uint32_t number, uint64_t hash, uint32_t check, int64_t now)
{
    const struct ev_mem_id *id = id_at(window, number);

    return id->hash == hash && id->check == check && ev_deadline_ns(id->at, window->span) > now;
}

const struct ev_mem_id *ev_mem_window_find(const struct ev_mem_window *window, uint64_t hash, uint32_t check,
                                           int64_t now)
{
    if (window->count == 0)
        return NULL;
    const struct ev_mem_bucket *bucket = bucket_at(window, bucket_of(window, (uint32_t)hash));
    for (uint32_t i = 0; i < bucket->count; i++)
        if (bucket->tag[i] == (uint32_t)hash && is_id(window, bucket->number[i], hash, check, now))
            return id_at(window, bucket->number[i]);
    for (uint32_t next = bucket->overflow; next != 0; next = id_at(window, next - 1)->next)
        if (is_id(window, next - 1, hash, check, now))
            return id_at(window, next - 1);
    return NULL;
}

static void forget_first(struct ev_mem_window *window)
{
    const uint32_t number = window->first;

    if (number != TOP)
        bucket_remove(window, (uint32_t)id_at(window, number)->hash, number);
    window->first++;
    window->count--;
    if (window->first % CHUNK == 0 || window->count == 0) {
        struct ev_mem_id **chunk = &window->chunks[number / CHUNK & (window->chunk_room - 1)];
        if (window->spares < sizeof window->spare / sizeof window->spare[0])
            window->spare[window->spares++] = *chunk;
        else
            ev_free(*chunk);
        *chunk = NULL;
        window->chunks_live--;
    }
    if (window->count == 0)
        window->first = 0;
    if (window->buckets > SEGMENT && window->count < LOAD * window->buckets / 4)
        join(window);
}

uint32_t ev_mem_window_purge(struct ev_mem_window *window, int64_t now, uint32_t max)
{
    uint32_t n = 0;

    while (n < max && window->count > 0 && ev_mem_window_due(window) <= now) {
        forget_first(window);
        n++;
    }
    return n;
}

int64_t ev_mem_window_due(const struct ev_mem_window *window)
{
    return ev_deadline_ns(id_at(window, window->first)->at, window->span);
}

struct ev_mem_window *ev_mem_window_new(int64_t span)
{
    struct ev_mem_window *window = ev_calloc(1, sizeof *window);

    if (window)
        window->span = span;
    return window;
}

void ev_mem_window_free(struct ev_mem_window *window)
{
    if (!window)
        return;
    for (uint32_t i = 0; i < window->chunk_room; i++)
        ev_free(window->chunks[i]);
    for (uint32_t i = 0; i < window->segment_room; i++)
        ev_free(window->segments[i]);
    ev_free(window->chunks);
    ev_free(window->segments);
    while (window->spares > 0)
        ev_free(window->spare[--window->spares]);
    ev_free(window);
}
