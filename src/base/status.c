/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The texts of the statuses, and the sentence that each failing call leaves behind. The sentence lives in a buffer of
 * the thread, so that setting it never fails and never allocates; a text that does not fit is cut.
 */
#include "base/status.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char detail[EV_DETAIL_MAX];

const char *evbus_strerror(evbus_status status)
{
    switch (status) {
#define EVBUS_X(name, code, text)                                                                                      \
    case name:                                                                                                         \
        return text;
        EVBUS_STATUS_MAP(EVBUS_X)
#undef EVBUS_X
    }
    return "not a status of evbus";
}

const char *evbus_status_name(evbus_status status)
{
    switch (status) {
#define EVBUS_X(name, code, text)                                                                                      \
    case name:                                                                                                         \
        return #name;
        EVBUS_STATUS_MAP(EVBUS_X)
#undef EVBUS_X
    }
    return "EVBUS_?";
}

const char *evbus_version(void)
{
    return EVBUS_VERSION;
}

const char *evbus_error_detail(void)
{
    return detail;
}

const char *ev_detail(void)
{
    return detail;
}

evbus_status ev_fail(evbus_status status, const char *fmt, ...)
{
    char text[EV_DETAIL_MAX]; /* the arguments may point into the old detail */
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ev_copy(detail, sizeof detail, text);
    return status;
}

evbus_status ev_fail_prefix(evbus_status status, const char *fmt, ...)
{
    char text[EV_DETAIL_MAX];
    va_list args;

    va_start(args, fmt);
    int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof text)
        len = (int)strlen(text);
    if (detail[0] != '\0') {
        ev_copy(text + len, sizeof text - (size_t)len, ": ");
        len = (int)strlen(text);
        ev_copy(text + len, sizeof text - (size_t)len, detail);
    }
    ev_copy(detail, sizeof detail, text);
    return status;
}
