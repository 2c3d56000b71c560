/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time. Deadlines are monotonic nanoseconds; the wall clock only makes timestamps. A virtual clock (evbus_clock of the
 * public header) stands still until advanced, and gives both. Core code never asks the system for the time.
 */
#ifndef EV_BASE_CLOCK_H
#define EV_BASE_CLOCK_H

#include "evbus/evbus.h"

#include <limits.h>

#define EV_MS INT64_C(1000000)
#define EV_SEC INT64_C(1000000000)
#define EV_NEVER INT64_MAX

int64_t ev_clock_now(const evbus_clock *clock);  /* monotonic; NULL: the system's */
int64_t ev_clock_wall(const evbus_clock *clock); /* Unix time; NULL: the system's */

/* now + a time of an option struct: EVBUS_NOWAIT gives now, EVBUS_FOREVER gives EV_NEVER. Saturates. */
int64_t ev_deadline(int64_t now, uint32_t ms);
int64_t ev_deadline_ns(int64_t now, int64_t ns);

#endif
