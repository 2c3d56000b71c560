/* SPDX-License-Identifier: Apache-2.0 */
/* One callback, levels, no output of its own. Threads: any; the callback may run on several at once. */
#ifndef EV_BASE_LOG_H
#define EV_BASE_LOG_H

#include "base/status.h"

struct ev_log {
    evbus_log_fn fn; /* NULL: silent */
    void *ctx;
    evbus_log_level level;
};

void ev_log(const struct ev_log *log, evbus_log_level level, const char *subject, const char *fmt, ...) EV_PRINTF(4, 5);

#endif
