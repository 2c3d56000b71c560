/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time text as Go's encoding/json writes and reads it (time.RFC3339Nano), against Unix time in nanoseconds.
 * No allocation, no locale, no time zone of the system. Threads: any.
 */
#ifndef EV_CORE_RFC3339_H
#define EV_CORE_RFC3339_H

#include <stddef.h>
#include <stdint.h>

#define EV_RFC3339_MAX 30 /* "2262-04-11T23:47:16.854775807Z" */

/* UTC, trailing zeros of the fraction left out, no NUL. `out` has EV_RFC3339_MAX bytes; returns those written, 20..30. */
size_t ev_rfc3339_put(char *out, int64_t time_ns);

/*
 * Any offset, any number of fraction digits (those after the ninth are cut, as in Go). Go's zero time, 0001-01-01 00:00
 * UTC, reads as 0. Returns NULL when fine, else what is wrong, a static text; `ret` is written only when fine.
 */
const char *ev_rfc3339_get(const char *text, size_t len, int64_t *ret);

#endif
