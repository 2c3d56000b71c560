/* SPDX-License-Identifier: Apache-2.0 */
/* Small helpers on bytes: hashes, number text, a bounded text builder. No allocation, no locale. Threads: any. */
#ifndef EV_BASE_BYTES_H
#define EV_BASE_BYTES_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* FNV-1a, the hash of aggregate ids (origin's choice). 64 bit. */
uint64_t ev_fnv1a(const void *data, size_t len);

/* A fast seeded hash for tables of ours: not stable across processes or versions. */
uint64_t ev_hash(const void *data, size_t len, uint64_t seed);

/* Decimal text. ev_put_u64 returns the number of bytes written (1..20), no NUL. */
size_t ev_put_u64(char *out, uint64_t value);
bool ev_get_u64(const char *text, size_t len, uint64_t *ret); /* digits only, no sign; false on overflow or empty */
void ev_put_hex16(char *out, uint64_t value);                 /* 16 lower-case digits, no NUL */
bool ev_get_hex16(const char *text, uint64_t *ret);

/* Text into a fixed buffer: cut, always NUL-terminated; returns false when it was cut. */
bool ev_copy(char *out, size_t cap, const char *text);
bool ev_copyn(char *out, size_t cap, const char *text, size_t len);

#endif
