/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc with two counters and one hook. The counters sit on lines of their own: threads that allocate at the same time
 * meet there, and the hot path of the bus does not allocate. With the hook off it costs one relaxed load.
 */
#include "base/alloc.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Any thread adds, any thread reads; all relaxed: statistics, and a countdown that only tests use. */
static struct {
    alignas(128) _Atomic(uint64_t) made;
    alignas(128) _Atomic(uint64_t) freed;
    alignas(128) _Atomic(int64_t) fail_in; /* > 0: counts down; the allocation that takes it to 0 fails */
} heap;

static bool must_fail(void)
{
    if (atomic_load_explicit(&heap.fail_in, memory_order_relaxed) <= 0)
        return false;
    return atomic_fetch_sub_explicit(&heap.fail_in, 1, memory_order_relaxed) == 1;
}

static void *made(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add_explicit(&heap.made, 1, memory_order_relaxed);
    return ptr;
}

void *ev_malloc(size_t size)
{
    if (must_fail())
        return NULL;
    return made(malloc(size != 0 ? size : 1));
}

void *ev_calloc(size_t count, size_t size)
{
    if (must_fail())
        return NULL;
    if (count == 0 || size == 0)
        count = size = 1;
    if (count > SIZE_MAX / size) /* calloc checks it too, but a sanitizer's ends the program */
        return NULL;
    return made(calloc(count, size));
}

void *ev_aligned(size_t alignment, size_t size)
{
    if (must_fail())
        return NULL;
    if (size == 0)
        size = 1;
    if (size > SIZE_MAX - alignment)
        return NULL;
    size = (size + alignment - 1) & ~(alignment - 1);

    void *ptr = made(aligned_alloc(alignment, size));
    if (ptr != NULL)
        memset(ptr, 0, size);
    return ptr;
}

void *ev_realloc(void *ptr, size_t size)
{
    if (must_fail())
        return NULL;

    void *moved = realloc(ptr, size != 0 ? size : 1);
    return ptr == NULL ? made(moved) : moved;
}

char *ev_strdup(const char *text)
{
    return text != NULL ? ev_strndup(text, strlen(text)) : NULL;
}

char *ev_strndup(const char *text, size_t len)
{
    if (text == NULL)
        return NULL;

    char *copy = ev_malloc(len + 1);
    if (copy != NULL) {
        memcpy(copy, text, len);
        copy[len] = '\0';
    }
    return copy;
}

void ev_free(void *ptr)
{
    if (ptr == NULL)
        return;
    atomic_fetch_add_explicit(&heap.freed, 1, memory_order_relaxed);
    free(ptr);
}

void ev_alloc_keep(const void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add_explicit(&heap.freed, 1, memory_order_relaxed);
}

uint64_t ev_alloc_live(void)
{
    /* freed first: a block freed between the two loads must not make the difference negative */
    uint64_t freed = atomic_load_explicit(&heap.freed, memory_order_relaxed);
    uint64_t total = atomic_load_explicit(&heap.made, memory_order_relaxed);

    return total > freed ? total - freed : 0;
}

uint64_t ev_alloc_total(void)
{
    return atomic_load_explicit(&heap.made, memory_order_relaxed);
}

void ev_alloc_fail_after(int64_t count)
{
    atomic_store_explicit(&heap.fail_in, count > 0 ? count : 0, memory_order_relaxed);
}
