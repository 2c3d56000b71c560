/* SPDX-License-Identifier: Apache-2.0 */
/* Why this exists: every failing call leaves one sentence for people, per thread, set where the error is first seen. */
#ifndef EV_BASE_STATUS_H
#define EV_BASE_STATUS_H

#include "evbus/evbus.h"

#include <stdarg.h>

#define EV_DETAIL_MAX 512 /* bytes of the sentence with its NUL; a longer one is cut */

#define EV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Sets this thread's detail text and returns `status`. Cold paths only. */
evbus_status ev_fail(evbus_status status, const char *fmt, ...) EV_PRINTF(2, 3);

/* Puts "prefix: " before the detail on its way up; returns `status`. */
evbus_status ev_fail_prefix(evbus_status status, const char *fmt, ...) EV_PRINTF(2, 3);

/* This thread's detail; never NULL. */
const char *ev_detail(void);

#endif
