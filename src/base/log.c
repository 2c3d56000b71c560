/* SPDX-License-Identifier: Apache-2.0 */
/* Formats into a buffer on the stack, so that logging cannot fail; a line that does not fit is cut. */
#include "base/log.h"

#include <stdio.h>

#define LINE_MAX_BYTES 1024

void ev_log(const struct ev_log *log, evbus_log_level level, const char *subject, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;

    if (log == NULL || log->fn == NULL || level > log->level)
        return;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    log->fn(level, subject, line, log->ctx);
}
