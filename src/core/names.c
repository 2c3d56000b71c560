/* SPDX-License-Identifier: Apache-2.0 */
#include "core/names.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

#define READABLE_MAX 48

static evbus_status refuse(const char *topic, const char *reason)
{
    return ev_fail(EVBUS_INVALID, "invalid topic name '%.80s': %s", topic, reason);
}

static evbus_status refuse_byte(const char *topic, size_t at)
{
    const unsigned char c = (unsigned char)topic[at];

    if (c == ' ')
        return refuse(topic, "topic name cannot contain spaces");
    if (c > 127) {
        size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return ev_fail(EVBUS_INVALID,
                       "invalid topic name '%.80s': topic name contains non-ASCII character '%.*s' at position %zu; "
                       "only printable ASCII is allowed",
                       topic, (int)len, topic + at, at);
    }
    return ev_fail(EVBUS_INVALID,
                   "invalid topic name '%.80s': topic name contains control character 0x%02x at position %zu", topic, c,
                   at);
}

/* Tokens: not empty; * and > only whole, > only last, and only in patterns. */
static evbus_status check_tokens(const char *topic, size_t len, bool pattern)
{
    size_t start = 0;

    for (size_t i = 0; i <= len; i++) {
        if (i < len && topic[i] != '.')
            continue;
        const size_t n = i - start;
        if (n == 0)
            return ev_fail(EVBUS_INVALID,
                           "invalid topic name '%.80s': empty token at position %zu (leading, trailing or "
                           "double '.')",
                           topic, start);
        for (size_t k = start; k < i; k++) {
            if (topic[k] != '*' && topic[k] != '>')
                continue;
            if (!pattern)
                return ev_fail(EVBUS_INVALID,
                               "invalid topic name '%.80s': wildcard '%c' at position %zu is allowed only when "
                               "subscribing",
                               topic, topic[k], k);
            if (n != 1 || (topic[k] == '>' && i != len))
                return ev_fail(EVBUS_INVALID,
                               "invalid topic name '%.80s': wildcard '%c' at position %zu must be a whole token%s",
                               topic, topic[k], k, topic[k] == '>' ? ", the last one" : "");
        }
        start = i + 1;
    }
    return EVBUS_OK;
}

evbus_status ev_topic_check(const char *topic, bool pattern, size_t *ret_len)
{
    if (!topic)
        return ev_fail(EVBUS_INVALID, "invalid topic name: topic is NULL");
    const size_t len = strlen(topic);
    if (len == 0)
        return refuse(topic, "topic name cannot be empty");
    if (len > EV_TOPIC_MAX)
        return ev_fail(EVBUS_INVALID, "invalid topic name '%.80s...': topic name too long (%zu characters, maximum %d)",
                       topic, len, EV_TOPIC_MAX);
    if (strchr(topic, ' '))
        return refuse(topic, "topic name cannot contain spaces");
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)topic[i];
        if (c <= 32 || c >= 127)
            return refuse_byte(topic, i);
    }
    evbus_status st = check_tokens(topic, len, pattern);
    if (st == EVBUS_OK)
        *ret_len = len;
    return st;
}

bool ev_topic_is_pattern(const char *topic)
{
    return strpbrk(topic, "*>") != NULL;
}

evbus_status ev_name_check(const char *what, const char *name)
{
    const size_t len = strlen(name);

    if (len == 0 || len > 64)
        return ev_fail(EVBUS_INVALID, "%s '%.80s': length %zu is outside 1..64", what, name, len);
    for (size_t i = 0; i < len; i++) {
        const char c = name[i];
        const bool ok =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        if (!ok)
            return ev_fail(EVBUS_INVALID, "%s '%.80s': byte 0x%02x at position %zu is not one of A-Z a-z 0-9 _ -", what,
                           name, (unsigned char)c, i);
    }
    return EVBUS_OK;
}

bool ev_subject_covers(const char *pattern, const char *subject)
{
    while (*pattern && *subject) {
        const size_t p = strcspn(pattern, "."), s = strcspn(subject, ".");
        if (p == 1 && pattern[0] == '>')
            return true;
        const bool any = p == 1 && pattern[0] == '*';
        if (s == 1 && subject[0] == '>')
            return false; /* only > covers > */
        if (!any && (p != s || memcmp(pattern, subject, p) != 0))
            return false;
        pattern += p;
        subject += s;
        if (*pattern != *subject)
            return false;
        if (*pattern) {
            pattern++;
            subject++;
        }
    }
    return *pattern == *subject;
}

bool ev_subjects_overlap(const char *a, const char *b)
{
    while (*a && *b) {
        const size_t n = strcspn(a, "."), m = strcspn(b, ".");
        if ((n == 1 && *a == '>') || (m == 1 && *b == '>'))
            return true;
        const bool any = (n == 1 && *a == '*') || (m == 1 && *b == '*');
        if (!any && (n != m || memcmp(a, b, n) != 0))
            return false;
        a += n;
        b += m;
        if (*a != *b)
            return false;
        if (*a) {
            a++;
            b++;
        }
    }
    return *a == *b;
}

/* Bytes that streams and durables may not have become '_': the hash tells the names apart. */
static size_t put_readable(char *out, const char *text)
{
    size_t n = 0;

    for (; text[n] && n < READABLE_MAX; n++) {
        const char c = text[n];
        const bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
        out[n] = ok ? c : '_';
    }
    return n;
}

static void put_hash(char *out, size_t at, uint64_t hash)
{
    out[at++] = '-';
    ev_put_hex16(out + at, hash);
    out[at + 16] = 0;
}

void ev_stream_name(char out[EV_NAME_MAX], const char *topic)
{
    put_hash(out, put_readable(out, topic), ev_fnv1a(topic, strlen(topic)));
}

uint64_t ev_durable_name(char out[EV_NAME_MAX], const char *group, const char *topic)
{
    char both[EV_NAME_MAX + 72];
    const int len = snprintf(both, sizeof both, "%s%c%s", group, '\n', topic); /* neither may contain a newline */
    const uint64_t id = ev_fnv1a(both, (size_t)len);
    size_t n = put_readable(out, group);

    out[n++] = '-';
    n += put_readable(out + n, topic);
    put_hash(out, n, id);
    return id;
}

uint64_t ev_ephemeral_name(char out[EV_NAME_MAX], const char *topic, uint64_t unique)
{
    const size_t n = put_readable(out, topic);

    put_hash(out, n, unique);
    return unique;
}
