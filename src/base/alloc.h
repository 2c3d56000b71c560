/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All memory of the library goes through here, so that tests can count live blocks and fail the Nth allocation.
 * Threads: any. The counters are relaxed statistics.
 */
#ifndef EV_BASE_ALLOC_H
#define EV_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

void *ev_malloc(size_t size);                    /* not zeroed; NULL when out of memory */
void *ev_calloc(size_t count, size_t size);      /* zeroed; refuses overflow */
void *ev_aligned(size_t alignment, size_t size); /* zeroed; alignment a power of two; ev_free frees it */
void *ev_realloc(void *ptr, size_t size);
char *ev_strdup(const char *text); /* NULL in, NULL out */
char *ev_strndup(const char *text, size_t len);
void ev_free(void *ptr);             /* NULL is fine */
void ev_alloc_keep(const void *ptr); /* it lives as long as the process: not counted as live */

uint64_t ev_alloc_live(void);            /* blocks not freed */
uint64_t ev_alloc_total(void);           /* allocations ever made */
void ev_alloc_fail_after(int64_t count); /* tests: 1: the next allocation fails, once; 2: the one after; < 1: off */

#endif
