/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads an envelope in one pass: each member's key is looked up, its value decoded, noted or walked over. What is no
 * strict JSON object is refused as "no envelope", a wrong field as "invalid envelope", as in the original.
 *
 * Keys come in the original's order nearly always, so the look-up begins behind the field found last.
 */
#include "core/envelope.h"

#include "base/bytes.h"
#include "base/status.h"
#include "core/json_scan.h"
#include "core/rfc3339.h"
#include "core/utf8.h"

#include <string.h>

enum kind { TEXT, INTEGER, TIME, PAYLOAD };

struct field {
    const char *name;
    size_t len;
    enum kind kind;
    size_t offset; /* in evbus_envelope */
};

#define FIELD(name, kind, member)                                                                                      \
    {                                                                                                                  \
#name, sizeof #name - 1, kind, offsetof(evbus_envelope, member)                                                \
    }

static const struct field fields[] = {
    FIELD(event_id, TEXT, event_id),
    FIELD(aggregate_id, TEXT, aggregate_id),
    FIELD(event_type, TEXT, event_type),
    FIELD(event_version, INTEGER, event_version),
    FIELD(timestamp, TIME, timestamp_ns),
    FIELD(trace_id, TEXT, trace_id),
    FIELD(correlation_id, TEXT, correlation_id),
    FIELD(tenant_id, INTEGER, tenant_id),
    FIELD(payload, PAYLOAD, payload),
};

#define FIELDS (sizeof fields / sizeof fields[0])
#define KEY_MIN 7                                   /* payload */
#define KEY_MAX (3 * (sizeof "correlation_id" - 1)) /* folded characters have up to 3 bytes */
#define TIME_TEXT_MAX 128                           /* of a time with escapes, decoded */

struct scan {
    const char *data;
    const char *at;
    const char *end;
    char *text; /* what is left of the caller's buffer */
    size_t room;
    size_t guess; /* the field that comes next, probably */
    evbus_envelope env;
};

static evbus_status fail_json(const struct scan *s, const char *at, const char *what)
{
    return ev_fail(EVBUS_INVALID, "no envelope: %s at byte %zu", what, (size_t)(at - s->data));
}

static evbus_status fail_field(const struct scan *s, const char *at, const struct field *field, const char *what)
{
    return ev_fail(EVBUS_INVALID, "invalid envelope: %s %s at byte %zu", field->name, what, (size_t)(at - s->data));
}

/* The character of a key as Go's encoding/json folds it: ASCII by case, and the two others that fold into ASCII. */
static inline char folded(const char *key, const char *end, size_t *ret_len)
{
    *ret_len = 1;
    if (*key >= 'A' && *key <= 'Z')
        return (char)(*key + ('a' - 'A'));
    if (end - key >= 2 && memcmp(key, "\xc5\xbf", 2) == 0) { /* U+017F, long s */
        *ret_len = 2;
        return 's';
    }
    if (end - key >= 3 && memcmp(key, "\xe2\x84\xaa", 3) == 0) { /* U+212A, Kelvin sign */
        *ret_len = 3;
        return 'k';
    }
    return *key;
}

static bool is_name_folded(const char *name, const char *key, const char *end)
{
    size_t len;

    for (; *name && key < end; name++, key += len) {
        if (folded(key, end, &len) != *name)
            return false;
    }
    return *name == '\0' && key == end;
}

/* Exact first, then folded; NULL: unknown. */
static const struct field *find_field(struct scan *s, const char *key, size_t len)
{
    for (size_t i = 0, at = s->guess; i < FIELDS; i++, at++) {
        if (at == FIELDS)
            at = 0;
        if (fields[at].len == len && memcmp(fields[at].name, key, len) == 0) {
            s->guess = at + 1;
            return &fields[at];
        }
    }
    if (len < KEY_MIN || len > KEY_MAX)
        return NULL;
    for (size_t at = 0; at < FIELDS; at++) {
        if (is_name_folded(fields[at].name, key, key + len))
            return &fields[at];
    }
    return NULL;
}

/* Reads a key and its colon; s->at is then at the value. */
static evbus_status scan_key(struct scan *s, const struct field **ret_field)
{
    struct ev_json_fault fault;
    char decoded[KEY_MAX];
    bool escaped;

    if (s->at == s->end || *s->at != '"')
        return fail_json(s, s->at, "expected a key in quotes");

    const char *key = s->at + 1;
    const char *stop = ev_json_string(key, s->end, &escaped, &fault);
    if (!stop)
        return fail_json(s, fault.at, fault.what);

    size_t len = (size_t)(stop - key);
    if (escaped) {
        len = ev_json_unescape(decoded, sizeof decoded, key, stop);
        key = decoded;
    }
    *ret_field = len <= KEY_MAX || !escaped ? find_field(s, key, len) : NULL;

    s->at = ev_json_space(stop + 1, s->end);
    if (s->at == s->end || *s->at != ':')
        return fail_json(s, s->at, "expected ':' after a key");
    s->at = ev_json_space(s->at + 1, s->end);
    return EVBUS_OK;
}

/* Moves s->at behind a value; the value is [*ret_value, s->at). */
static evbus_status skip_value(struct scan *s, const char **ret_value)
{
    struct ev_json_fault fault;
    const char *stop = ev_json_value(s->at, s->end, EV_JSON_DEPTH_MAX - 1, &fault);

    if (!stop)
        return fail_json(s, fault.at, fault.what);
    *ret_value = s->at;
    s->at = stop;
    return EVBUS_OK;
}

static evbus_status scan_text(struct scan *s, const struct field *field)
{
    const char *start = s->at;
    struct ev_json_fault fault;
    const char *value;
    bool escaped;

    if (start == s->end || *start != '"') {
        evbus_status st = skip_value(s, &value);
        return st != EVBUS_OK || *value == 'n' ? st : fail_field(s, start, field, "must be a string");
    }
    const char *stop = ev_json_string(start + 1, s->end, &escaped, &fault);
    if (!stop)
        return fail_json(s, fault.at, fault.what);

    size_t len = (size_t)(stop - start) - 1;
    if (s->room == 0)
        return EVBUS_LIMIT;
    if (escaped)
        len = ev_json_unescape(s->text, s->room - 1, start + 1, stop);
    if (len >= s->room)
        return EVBUS_LIMIT;
    if (!escaped)
        memcpy(s->text, start + 1, len);
    s->text[len] = '\0';
    *(const char **)((char *)&s->env + field->offset) = s->text;
    s->text += len + 1;
    s->room -= len + 1;
    s->at = stop + 1;
    return EVBUS_OK;
}

/* Go refuses 1.0 and 1e2 for an integer, so digits are all there may be. */
static evbus_status scan_integer(struct scan *s, const struct field *field)
{
    const char *start;
    evbus_status st = skip_value(s, &start);
    uint64_t value;

    if (st != EVBUS_OK || *start == 'n')
        return st;

    const bool negative = *start == '-';
    const char *digits = start + negative;
    if (*digits < '0' || *digits > '9')
        return fail_field(s, start, field, "must be a number");
    if (!ev_get_u64(digits, (size_t)(s->at - digits), &value) || value > (uint64_t)INT64_MAX + negative)
        return fail_field(s, start, field, "must be an integer of 64 bits");
    *(int64_t *)((char *)&s->env + field->offset) = (int64_t)(negative ? 0 - value : value);
    return EVBUS_OK;
}

static evbus_status scan_time(struct scan *s, const struct field *field)
{
    const char *start;
    evbus_status st = skip_value(s, &start);
    char decoded[TIME_TEXT_MAX];

    if (st != EVBUS_OK || *start == 'n')
        return st;
    if (*start != '"')
        return fail_field(s, start, field, "must be a string");

    const char *text = start + 1;
    size_t len = (size_t)(s->at - text) - 1;
    if (memchr(text, '\\', len)) {
        len = ev_json_unescape(decoded, sizeof decoded, text, text + len);
        text = decoded;
        if (len > sizeof decoded)
            len = 0; /* longer than any time: refused as such */
    }
    const char *wrong = ev_rfc3339_get(text, len, &s->env.timestamp_ns);
    if (wrong) {
        char value[EV_SHORT_MAX];
        return ev_fail(EVBUS_INVALID, "invalid envelope: %s '%s' %s at byte %zu", field->name,
                       ev_utf8_short(value, text, len), wrong, (size_t)(start - s->data));
    }
    return EVBUS_OK;
}

static evbus_status scan_payload(struct scan *s)
{
    evbus_status st = skip_value(s, &s->env.payload);

    if (st == EVBUS_OK)
        s->env.payload_len = (size_t)(s->at - s->env.payload);
    return st;
}

static evbus_status scan_member(struct scan *s)
{
    const struct field *field = NULL;
    const char *value;
    evbus_status st = scan_key(s, &field);

    if (st != EVBUS_OK)
        return st;
    if (!field)
        return skip_value(s, &value);
    switch (field->kind) {
    case TEXT:
        return scan_text(s, field);
    case INTEGER:
        return scan_integer(s, field);
    case TIME:
        return scan_time(s, field);
    case PAYLOAD:
        break;
    }
    return scan_payload(s);
}

/* From behind '{' to behind '}'. */
static evbus_status scan_members(struct scan *s)
{
    s->at = ev_json_space(s->at, s->end);
    if (s->at < s->end && *s->at == '}') {
        s->at++;
        return EVBUS_OK;
    }
    for (;;) {
        evbus_status st = scan_member(s);
        if (st != EVBUS_OK)
            return st;
        s->at = ev_json_space(s->at, s->end);
        if (s->at == s->end)
            return fail_json(s, s->at, "the text ends too early");
        if (*s->at != ',' && *s->at != '}')
            return fail_json(s, s->at, "expected ',' or '}'");
        if (*s->at++ == '}')
            return EVBUS_OK;
        s->at = ev_json_space(s->at, s->end);
    }
}

evbus_status ev_envelope_scan(const char *data, size_t len, char *text, size_t cap, evbus_envelope *ret)
{
    if (len == 0)
        return ev_fail(EVBUS_INVALID, "no envelope: the body is empty");

    struct scan s = {.data = data, .at = data, .end = data + len, .text = text, .room = cap};
    s.at = ev_json_space(data, s.end);
    if (s.at == s.end || *s.at != '{')
        return fail_json(&s, s.at, "expected an object");
    s.at++;

    evbus_status st = scan_members(&s);
    if (st != EVBUS_OK)
        return st;
    s.at = ev_json_space(s.at, s.end);
    if (s.at < s.end)
        return fail_json(&s, s.at, "more bytes after the object");

    if (s.env.trace_id && s.env.trace_id[0] == '\0')
        s.env.trace_id = NULL;
    if (s.env.correlation_id && s.env.correlation_id[0] == '\0')
        s.env.correlation_id = NULL;
    st = ev_envelope_check_received(&s.env);
    if (st != EVBUS_OK)
        return ev_fail_prefix(st, "invalid envelope");
    *ret = s.env;
    return EVBUS_OK;
}
