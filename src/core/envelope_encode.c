/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes an envelope as Go's encoding/json does: keys in declaration order, empty optional ones left out, HTML-safe
 * escapes. Plain bytes are found eight at a time and copied in runs. The payload is walked once, then copied as it is.
 */
#include "core/envelope.h"

#include "base/bytes.h"
#include "base/status.h"
#include "core/json_scan.h"
#include "core/rfc3339.h"
#include "core/utf8.h"

#include <string.h>

#define INT64_TEXT_MAX 20 /* "-9223372036854775808" */

/* Keys, quotes, commas, both numbers and the time: all but the strings and the payload. */
#define FRAME_MAX                                                                                                      \
    (sizeof "{'event_id':'','aggregate_id':'','event_type':'','event_version':,'timestamp':'','trace_id':''"           \
            ",'correlation_id':'','tenant_id':,'payload':}" +                                                          \
     2 * INT64_TEXT_MAX + EV_RFC3339_MAX)

/* `end` is out's; once something did not fit, `full` stays set and nothing more is written. */
struct writer {
    char *at;
    char *end;
    bool full;
};

static inline void put(struct writer *w, const char *bytes, size_t len)
{
    if ((size_t)(w->end - w->at) < len) {
        w->full = true;
        w->end = w->at;
        return;
    }
    memcpy(w->at, bytes, len);
    w->at += len;
}

#define PUT(w, literal) put(w, literal, sizeof(literal) - 1)

static inline bool is_plain(char c)
{
    const unsigned char byte = (unsigned char)c;

    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<' && byte != '>' && byte != '&';
}

/* One bit apart: '<' and '>', '"' and '&'. */
static inline uint64_t special_in(const char *at)
{
    const uint64_t word = ev_word_load(at);

    return ev_word_equal(word | EV_WORD_ONES * 0x02, '>') | ev_word_equal(word | EV_WORD_ONES * 0x04, '&') |
           ev_word_equal(word, '\\') | ev_word_below(word, 0x20) | (word & EV_WORD_TOPS);
}

/* Bytes that are written as they are. */
static inline const char *skip_plain(const char *at, const char *end)
{
    const bool word_fits = end - at >= EV_WORD;

    for (; end - at >= EV_WORD; at += EV_WORD) {
        const uint64_t special = special_in(at);
        if (special)
            return at + ev_word_first(special);
    }
    if (word_fits && at < end) { /* the rest, with plain bytes of the word before */
        const uint64_t special = special_in(end - EV_WORD);
        return special ? end - EV_WORD + ev_word_first(special) : end;
    }
    while (at < end && is_plain(*at))
        at++;
    return at;
}

/* Bytes that a text adds when it is escaped, at most. */
static size_t escapes_max(const char *at, const char *end)
{
    size_t more = 0;

    while ((at = skip_plain(at, end)) < end) {
        const unsigned char c = (unsigned char)*at++;

        if (c == 0xe2) /* U+2028 and U+2029 begin like this: 6 bytes for 3 */
            more += 3;
        else if (c < 0x80)
            more += 5;
    }
    return more;
}

static size_t text_size(const char *text)
{
    if (!text)
        return 0;

    const size_t len = strlen(text);
    return len + escapes_max(text, text + len);
}

size_t ev_envelope_size(const evbus_envelope *env)
{
    const size_t payload_len = !env->payload ? 0 : env->payload_len ? env->payload_len : strlen(env->payload);

    return FRAME_MAX + text_size(env->event_id) + text_size(env->aggregate_id) + text_size(env->event_type) +
           text_size(env->trace_id) + text_size(env->correlation_id) + payload_len;
}

/* \b and \f have no short form in the original's encoder. */
static void put_escape(struct writer *w, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    char text[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};

    switch (c) {
    case '"':
    case '\\':
        text[1] = (char)c;
        break;
    case '\n':
        text[1] = 'n';
        break;
    case '\r':
        text[1] = 'r';
        break;
    case '\t':
        text[1] = 't';
        break;
    default:
        put(w, text, 6);
        return;
    }
    put(w, text, 2);
}

/* One character that is not ASCII; returns its bytes, 0 if it is none. */
static size_t put_wide(struct writer *w, const char *at, const char *end)
{
    const size_t len = ev_utf8_char(at, end);

    if (len == 3 && memcmp(at, "\xe2\x80\xa8", 3) == 0)
        PUT(w, "\\u2028");
    else if (len == 3 && memcmp(at, "\xe2\x80\xa9", 3) == 0)
        PUT(w, "\\u2029");
    else
        put(w, at, len);
    return len;
}

static evbus_status fail_utf8(const char *field, const char *text, const char *end, const char *at)
{
    char value[EV_SHORT_MAX];

    return ev_fail(EVBUS_INVALID, "%s '%s': invalid UTF-8 at byte %zu", field,
                   ev_utf8_short(value, text, (size_t)(end - text)), (size_t)(at - text));
}

static evbus_status put_text(struct writer *w, const char *field, const char *text)
{
    if (!text)
        return ev_fail(EVBUS_INVALID, "%s is required", field);

    const char *end = text + strlen(text);
    for (const char *at = text;;) {
        const char *stop = skip_plain(at, end);

        put(w, at, (size_t)(stop - at));
        at = stop;
        if (at == end)
            return EVBUS_OK;
        if ((unsigned char)*at < 0x80) {
            put_escape(w, (unsigned char)*at++);
            continue;
        }
        while (at < end && (unsigned char)*at >= 0x80) {
            const size_t len = put_wide(w, at, end);
            if (len == 0)
                return fail_utf8(field, text, end, at);
            at += len;
        }
    }
}

static void put_int64(struct writer *w, int64_t value)
{
    char text[INT64_TEXT_MAX];
    size_t n = 0;

    if (value < 0)
        text[n++] = '-';
    n += ev_put_u64(text + n, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
    put(w, text, n);
}

static evbus_status put_payload(struct writer *w, const evbus_envelope *env)
{
    const char *payload = env->payload ? env->payload : "";
    const size_t len = env->payload_len || !env->payload ? env->payload_len : strlen(payload);
    struct ev_json_fault fault;

    if (!env->payload || len == 0)
        return ev_fail(EVBUS_INVALID, "payload is required");
    if (!ev_json_text(payload, payload + len, EV_JSON_DEPTH_MAX - 1, &fault)) /* the envelope is a level, too */
        return ev_fail(EVBUS_INVALID, "payload is not valid JSON: %s at byte %zu", fault.what,
                       (size_t)(fault.at - payload));
    put(w, payload, len);
    return EVBUS_OK;
}

evbus_status ev_envelope_encode(const evbus_envelope *env, char *out, size_t cap, size_t *ret_len)
{
    struct writer w = {.at = out, .end = out + cap};
    char time[EV_RFC3339_MAX];
    evbus_status st;

    PUT(&w, "{\"event_id\":\"");
    if ((st = put_text(&w, "event_id", env->event_id)) != EVBUS_OK)
        return st;
    PUT(&w, "\",\"aggregate_id\":\"");
    if ((st = put_text(&w, "aggregate_id", env->aggregate_id)) != EVBUS_OK)
        return st;
    PUT(&w, "\",\"event_type\":\"");
    if ((st = put_text(&w, "event_type", env->event_type)) != EVBUS_OK)
        return st;
    PUT(&w, "\",\"event_version\":");
    put_int64(&w, env->event_version);
    PUT(&w, ",\"timestamp\":\"");
    put(&w, time, ev_rfc3339_put(time, env->timestamp_ns));
    PUT(&w, "\"");
    if (env->trace_id && env->trace_id[0]) {
        PUT(&w, ",\"trace_id\":\"");
        if ((st = put_text(&w, "trace_id", env->trace_id)) != EVBUS_OK)
            return st;
        PUT(&w, "\"");
    }
    if (env->correlation_id && env->correlation_id[0]) {
        PUT(&w, ",\"correlation_id\":\"");
        if ((st = put_text(&w, "correlation_id", env->correlation_id)) != EVBUS_OK)
            return st;
        PUT(&w, "\"");
    }
    if (env->tenant_id != 0) {
        PUT(&w, ",\"tenant_id\":");
        put_int64(&w, env->tenant_id);
    }
    PUT(&w, ",\"payload\":");
    if ((st = put_payload(&w, env)) != EVBUS_OK)
        return st;
    PUT(&w, "}");
    if (w.full)
        return ev_fail(EVBUS_LIMIT, "the envelope needs more than %zu bytes", cap);
    *ret_len = (size_t)(w.at - out);
    return EVBUS_OK;
}
