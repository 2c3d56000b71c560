/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The linker sends malloc, calloc, realloc, aligned_alloc and free of the code under test here (cmake/EvbusTests.cmake);
 * what libraries call themselves is not meant. `marks` says of each 16 bytes whether they are part of a live block.
 */
#include "heap.h"
#include "explore.h"
#include "side.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#if SIDE_WITH_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(place, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(place, size) ((void)0)
#endif

#define HEAP_BYTES ((size_t)4 << 20)
#define UNIT 16
#define FREED_BYTE 0xdd

enum mark { MARK_NONE, MARK_LIVE, MARK_FREED };

struct block {
    alignas(UNIT) size_t size;
};

static alignas(4096) char bytes[HEAP_BYTES];
static uint8_t marks[HEAP_BYTES / UNIT];
static size_t used;
static uint64_t live;
static bool begun;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *ptr, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *ptr);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *ptr);

static bool is_ours(const volatile void *place)
{
    return (const volatile char *)place >= bytes && (const volatile char *)place < bytes + HEAP_BYTES;
}

static void mark(const char *from, size_t size, enum mark what)
{
    memset(&marks[(size_t)(from - bytes) / UNIT], what, (size + UNIT - 1) / UNIT);
}

void heap_begin(void)
{
    begun = true;
}

void heap_end(void)
{
    begun = false;
    mark(bytes, used, MARK_NONE);
    ASAN_UNPOISON_MEMORY_REGION(bytes, used);
    used = 0;
    live = 0;
}

uint64_t heap_live(void)
{
    return live;
}

bool heap_is_freed(const volatile void *place)
{
    return is_ours(place) && marks[(size_t)((const volatile char *)place - bytes) / UNIT] != MARK_LIVE;
}

static void *take(size_t alignment, size_t size)
{
    const size_t start = (used + sizeof(struct block) + alignment - 1) & ~(alignment - 1);

    if (start + size > HEAP_BYTES)
        return NULL;
    char *ptr = bytes + start;
    ((struct block *)(void *)ptr)[-1].size = size;
    mark(ptr, size, MARK_LIVE);
    used = (start + size + UNIT - 1) & ~(size_t)(UNIT - 1);
    live++;
    return ptr;
}

static size_t size_of(const void *ptr)
{
    return ((const struct block *)ptr)[-1].size;
}

void *__wrap_malloc(size_t size)
{
    return begun ? take(UNIT, size) : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    if (!begun)
        return __real_calloc(count, size);
    void *ptr = take(UNIT, count * size);
    return ptr != NULL ? memset(ptr, 0, count * size) : NULL;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return begun ? take(alignment < UNIT ? UNIT : alignment, size) : __real_aligned_alloc(alignment, size);
}

void *__wrap_realloc(void *ptr, size_t size)
{
    if (!begun || (ptr != NULL && !is_ours(ptr)))
        return __real_realloc(ptr, size);
    void *moved = take(UNIT, size);
    if (moved != NULL && ptr != NULL) {
        memcpy(moved, ptr, size_of(ptr) < size ? size_of(ptr) : size);
        __wrap_free(ptr);
    }
    return moved;
}

void __wrap_free(void *ptr)
{
    if (!is_ours(ptr)) {
        __real_free(ptr);
        return;
    }
    if (heap_is_freed(ptr)) {
        model_fail("a block is freed twice");
        return;
    }
    const size_t size = size_of(ptr);
    model_step_free(ptr, size);
    memset(ptr, FREED_BYTE, size);
    mark(ptr, size, MARK_FREED);
    ASAN_POISON_MEMORY_REGION(ptr, size);
    live--;
}
