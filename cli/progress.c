/* SPDX-License-Identifier: Apache-2.0 */
#include "progress.h"

#include "stop.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EVERY_TERMINAL_NS INT64_C(100000000)
#define EVERY_LINE_NS INT64_C(1000000000)

void progress_init(struct progress *p, bool asked)
{
    *p = (struct progress){.terminal = isatty(STDERR_FILENO) != 0};
    p->on = p->terminal || asked;
    p->next_ns = now_ns() + (p->terminal ? EVERY_TERMINAL_NS : EVERY_LINE_NS);
}

bool progress_due(struct progress *p)
{
    if (!p->on)
        return false;
    const int64_t now = now_ns();
    if (now < p->next_ns)
        return false;
    p->next_ns = now + (p->terminal ? EVERY_TERMINAL_NS : EVERY_LINE_NS);
    return true;
}

void progress_show(struct progress *p, const char *format, ...)
{
    va_list args;

    if (!p->on)
        return;
    va_start(args, format);
    if (p->terminal)
        (void)fputs("\r\033[K", stderr);
    (void)vfprintf(stderr, format, args);
    if (!p->terminal)
        (void)fputc('\n', stderr);
    (void)fflush(stderr);
    va_end(args);
    p->shown = p->terminal;
}

void progress_clear(struct progress *p)
{
    if (p->shown)
        (void)fputs("\r\033[K", stderr);
    p->shown = false;
}

const char *grouped(uint64_t value, char out[32])
{
    char digits[24];
    const int n = snprintf(digits, sizeof digits, "%" PRIu64, value);
    char *at = out;

    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            *at++ = ',';
        *at++ = digits[i];
    }
    *at = 0;
    return out;
}
