/* SPDX-License-Identifier: Apache-2.0 */
/* As base/status.h is for evbus: every failing call leaves one sentence for people, per thread. */
#ifndef EV_OUTBOX_DETAIL_H
#define EV_OUTBOX_DETAIL_H

#include <evbus/outbox.h>

#define EV_OUTBOX_DETAIL_MAX 512

/* Sets this thread's sentence and returns `status`. */
__attribute__((format(printf, 2, 3))) evbus_status ev_outbox_fail(evbus_status status, const char *fmt, ...);

/* The same with evbus's own sentence behind "what: "; right after the failing call of evbus. */
evbus_status ev_outbox_fail_bus(evbus_status status, const char *what);

#endif
