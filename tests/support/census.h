/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a test must leave as it found it: threads, descriptors, blocks of the library's memory. Threads: one.
 */
#ifndef EV_TESTS_CENSUS_H
#define EV_TESTS_CENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct census {
    int threads;
    int descriptors;
    uint64_t blocks;
};

void census_take(struct census *census);

/* Threads and descriptors end a moment after they were told to, so this waits for them, up to 10 s. False: something
 * is left, and `text` says what. */
bool census_returned(const struct census *before, char *text, size_t cap);

int census_threads(void); /* of this process, now */
int census_threads_named(const char *name);
int census_descriptors(void); /* now */

#endif
