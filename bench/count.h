/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts the calls that our own objects make into the C library to lock, to wait and to allocate. The program is linked
 * with --wrap for each of them, which redirects the calls of the objects linked into it (the library is linked
 * statically here) and of nothing else: what libnats or the C library do among themselves is not counted.
 */
#ifndef EVBUS_COUNT_H
#define EVBUS_COUNT_H

#include <stdbool.h>
#include <stdint.h>

struct calls {
    uint64_t mutex, rwlock, condition; /* lock, try, wait, signal; unlocking is not counted */
    uint64_t futex;                    /* through syscall(): waits and wakes */
    uint64_t alloc;                    /* malloc, calloc, realloc, aligned_alloc */
    uint64_t free;
};

void count_start(void); /* from 0 */
void count_stop(void);
struct calls count_read(void);

#endif
