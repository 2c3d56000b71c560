/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of an envelope's fields, in the original's order: event_id, aggregate_id, event_type, event_version,
 * payload, then the aggregate id's format. Ours, that strings are UTF-8, is for who writes them. Failures name field, value and rule.
 */
#include "core/envelope.h"

#include "base/alloc.h"
#include "base/status.h"
#include "core/names.h"
#include "core/utf8.h"

#include <inttypes.h>
#include <string.h>

static const unsigned char in_aggregate_id[256] = {
    ['A'] = 1, ['B'] = 1, ['C'] = 1, ['D'] = 1, ['E'] = 1, ['F'] = 1, ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1,
    ['K'] = 1, ['L'] = 1, ['M'] = 1, ['N'] = 1, ['O'] = 1, ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1,
    ['U'] = 1, ['V'] = 1, ['W'] = 1, ['X'] = 1, ['Y'] = 1, ['Z'] = 1, ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1,
    ['e'] = 1, ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1, ['k'] = 1, ['l'] = 1, ['m'] = 1, ['n'] = 1,
    ['o'] = 1, ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1, ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1,
    ['y'] = 1, ['z'] = 1, ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1,
    ['8'] = 1, ['9'] = 1, [':'] = 1, ['_'] = 1, ['-'] = 1, ['.'] = 1, ['/'] = 1,
};

/* Bytes that fit the set, from the start. */
static inline size_t fitting(const char *id, size_t len)
{
    size_t n = 0;

    while (n < len && in_aggregate_id[(unsigned char)id[n]])
        n++;
    return n;
}

bool ev_aggregate_id_ok(const char *id, size_t len)
{
    return len >= 1 && len <= EV_AGGREGATE_ID_MAX && fitting(id, len) == len;
}

static bool is_blank(const char *text)
{
    const char *end;
    size_t space = 1;

    if (!text)
        return true;
    if (text[0] > ' ') /* nearly always */
        return false;
    for (end = text + strlen(text); text < end && space > 0; text += space)
        space = ev_utf8_space(text, end);
    return space > 0;
}

/* The part of an id that the format rule sees in what arrives: without outer white space. */
static const char *trimmed(const char *text, size_t *len)
{
    const char *end = text + *len;
    size_t space;

    while ((space = ev_utf8_space(text, end)) > 0)
        text += space;
    for (size_t width = 1; width <= 3; width++) {
        if (end - text >= (ptrdiff_t)width && ev_utf8_space(end - width, end) == width) {
            end -= width;
            width = 0; /* from the start: there may be more */
        }
    }
    *len = (size_t)(end - text);
    return text;
}

static evbus_status fail_format(const char *id, size_t len, size_t at, size_t shift)
{
    char value[EV_SHORT_MAX], seen[EV_SHORT_MAX];
    const size_t bytes = ev_utf8_char(id + at, id + len);

    ev_utf8_short(value, id, len);
    if (bytes == 0 || (bytes == 1 && (id[at] < ' ' || id[at] == 0x7f)))
        return ev_fail(EVBUS_INVALID,
                       "invalid aggregate_id '%s': contains invalid character 0x%02x at byte %zu "
                       "(allowed are A-Z a-z 0-9 : _ - . /)",
                       value, (unsigned char)id[at], at + shift);
    return ev_fail(EVBUS_INVALID,
                   "invalid aggregate_id '%s': contains invalid character '%s' at byte %zu "
                   "(allowed are A-Z a-z 0-9 : _ - . /)",
                   value, ev_utf8_short(seen, id + at, bytes), at + shift);
}

static evbus_status check_format(const char *id, bool received)
{
    char value[EV_SHORT_MAX];
    size_t len = strlen(id);
    const char *core = id;

    if (ev_aggregate_id_ok(id, len))
        return EVBUS_OK;
    if (received)
        core = trimmed(id, &len);
    if (len > EV_AGGREGATE_ID_MAX)
        return ev_fail(EVBUS_INVALID, "invalid aggregate_id '%s': too long (%zu bytes, at most %d)",
                       ev_utf8_short(value, core, len), len, EV_AGGREGATE_ID_MAX);

    const size_t good = fitting(core, len);
    return good == len ? EVBUS_OK : fail_format(core, len, good, (size_t)(core - id));
}

static evbus_status check(const evbus_envelope *env, bool received)
{
    const bool id_is_made = !env->event_id && !received;

    if (!id_is_made && is_blank(env->event_id))
        return ev_fail(EVBUS_INVALID, "event_id is required");
    if (is_blank(env->aggregate_id))
        return ev_fail(EVBUS_INVALID, "aggregate_id is required");
    if (is_blank(env->event_type))
        return ev_fail(EVBUS_INVALID, "event_type is required");
    if (env->event_version <= 0)
        return ev_fail(EVBUS_INVALID, "event_version must be positive, it is %" PRId64, env->event_version);
    if (!env->payload || (env->payload_len == 0 && env->payload[0] == '\0'))
        return ev_fail(EVBUS_INVALID, "payload is required");
    return check_format(env->aggregate_id, received);
}

evbus_status ev_envelope_check(const evbus_envelope *env)
{
    return check(env, false);
}

evbus_status ev_envelope_check_received(const evbus_envelope *env)
{
    return check(env, true);
}

/* By encoding it: what publishing would find is found. */
evbus_status evbus_envelope_check(const char *topic, const evbus_envelope *env)
{
    size_t len = 0;
    evbus_status st = ev_topic_check(topic, false, &len);

    if (st != EVBUS_OK)
        return st;
    if (!env)
        return ev_fail(EVBUS_INVALID, "envelope is NULL");
    if ((st = ev_envelope_check(env)) != EVBUS_OK)
        return st;
    evbus_envelope e = *env;
    if (!e.event_id)
        e.event_id = "made when it is published";
    const size_t size = ev_envelope_size(&e);
    char *text = ev_malloc(size);
    if (!text)
        return ev_fail(EVBUS_NOMEM, "out of memory for %zu bytes", size);
    st = ev_envelope_encode(&e, text, size, &len);
    ev_free(text);
    return st;
}
