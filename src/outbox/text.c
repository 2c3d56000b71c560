/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

void ev_text_clear(struct ev_text *t)
{
    t->len = 0;
    t->broken = false;
    if (t->data)
        t->data[0] = 0;
}

void ev_text_fini(struct ev_text *t)
{
    free(t->data);
    *t = (struct ev_text){0};
}

static bool reserve(struct ev_text *t, size_t more)
{
    if (t->len + more < t->cap)
        return true;
    const size_t cap = (t->len + more + 64) * 2;
    char *data = realloc(t->data, cap);
    if (!data) {
        t->broken = true;
        return false;
    }
    t->data = data;
    t->cap = cap;
    return true;
}

void ev_text_add(struct ev_text *t, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    const int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0 || t->broken || !reserve(t, (size_t)len))
        return;
    va_start(args, fmt);
    (void)vsnprintf(t->data + t->len, t->cap - t->len, fmt, args);
    va_end(args);
    t->len += (size_t)len;
}

const char *ev_number(int64_t value, char out[EV_NUMBER_SIZE])
{
    (void)snprintf(out, EV_NUMBER_SIZE, "%" PRId64, value);
    return out;
}

int64_t ev_number_of(const char *text)
{
    return text ? strtoll(text, NULL, 10) : 0;
}

/* From the kernel each time: right after a fork, and rare enough. */
bool ev_outbox_uuid(int64_t wall_ns, char out[EV_UUID_SIZE])
{
    const uint64_t ms = (uint64_t)wall_ns / 1000000;
    unsigned char r[10];

    if (getrandom(r, sizeof r, 0) != sizeof r)
        return false;
    (void)snprintf(out, EV_UUID_SIZE, "%08" PRIx64 "-%04" PRIx64 "-7%01x%02x-%01x%01x%02x-%02x%02x%02x%02x%02x%02x",
                   ms >> 16 & 0xffffffff, ms & 0xffff, r[0] & 15u, r[1], 8u | (r[2] & 3u), r[2] >> 4, r[3], r[4], r[5],
                   r[6], r[7], r[8], r[9]);
    return true;
}

uint64_t ev_hash_of(const char *text)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (const char *p = text; *p; p++)
        h = (h ^ (unsigned char)*p) * UINT64_C(1099511628211);
    return h;
}

int64_t ev_wall_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t ev_boot_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
