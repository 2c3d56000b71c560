/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/detail.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char detail[EV_OUTBOX_DETAIL_MAX];

evbus_status ev_outbox_fail(evbus_status status, const char *fmt, ...)
{
    char text[EV_OUTBOX_DETAIL_MAX]; /* the old sentence may be an argument */
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)snprintf(detail, sizeof detail, "%s", text);
    return status;
}

evbus_status ev_outbox_fail_bus(evbus_status status, const char *what)
{
    const char *said = evbus_error_detail();

    return ev_outbox_fail(status, "%s: %s", what, *said ? said : evbus_strerror(status));
}

const char *evbus_outbox_error_detail(void)
{
    return detail;
}
