/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers and UUIDv7. Per-thread generator seeded from the kernel and again after fork: colliding event ids would
 * be refused by the broker as duplicates, in silence. UUIDv7s of one thread never go backwards, also when the wall clock does.
 */
#ifndef EV_BASE_IDS_H
#define EV_BASE_IDS_H

#include <stdbool.h>
#include <stdint.h>

#define EV_UUID_LEN 36

void ev_random_seed(uint64_t seed);                        /* this thread's, for simulations that replay */
uint64_t ev_random(void);                                  /* not for secrets */
void ev_uuid7(int64_t wall_ns, char out[EV_UUID_LEN + 1]); /* lower-case, NUL-terminated */
bool ev_is_uuid(const char *text);

/* Counts forks: differs in a child from what the parent saw. One relaxed load. */
uint32_t ev_fork_generation(void);

#endif
