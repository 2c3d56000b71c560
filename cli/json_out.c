/* SPDX-License-Identifier: Apache-2.0 */
#include "json_out.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Room for `more` bytes at the end; NULL once memory has run out. */
static char *reserve(struct json *j, size_t more)
{
    if (j->broken)
        return NULL;
    if (j->cap - j->len < more) {
        const size_t cap = (j->len + more) * 2 < 512 ? 512 : (j->len + more) * 2;
        char *data = realloc(j->data, cap);
        if (!data) {
            j->broken = true;
            return NULL;
        }
        j->data = data;
        j->cap = cap;
    }
    return j->data + j->len;
}

static void put(struct json *j, const char *text, size_t len)
{
    char *at = reserve(j, len);

    if (at) {
        memcpy(at, text, len);
        j->len += len;
    }
}

/* The comma, if something stands before, and the key. */
static void begin(struct json *j, const char *key)
{
    if (j->len && j->data[j->len - 1] != '{' && j->data[j->len - 1] != '[')
        put(j, ",", 1);
    if (key) {
        put(j, "\"", 1);
        put(j, key, strlen(key));
        put(j, "\":", 2);
    }
}

void json_open(struct json *j, const char *key, char bracket)
{
    begin(j, key);
    put(j, &bracket, 1);
}

void json_close(struct json *j, char bracket)
{
    put(j, &bracket, 1);
}

void json_string(struct json *j, const char *key, const char *text)
{
    json_text(j, key, text, strlen(text));
}

/* What follows the backslash, 0 if the byte has no short escape. */
static char short_escape(unsigned char c)
{
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

void json_text(struct json *j, const char *key, const char *text, size_t len)
{
    begin(j, key);
    char *at = reserve(j, 6 * len + 2); /* every byte may become \u00XX */
    if (!at)
        return;
    *at++ = '"';
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (short_escape(c)) {
            *at++ = '\\';
            *at++ = short_escape(c);
        } else if (c < 0x20 || c == 0x7f) {
            at += sprintf(at, "\\u%04x", c);
        } else {
            *at++ = (char)c;
        }
    }
    *at++ = '"';
    j->len = (size_t)(at - j->data);
}

void json_base64(struct json *j, const char *key, const void *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = data;

    begin(j, key);
    char *at = reserve(j, (len + 2) / 3 * 4 + 2);
    if (!at)
        return;
    *at++ = '"';
    for (size_t i = 0; i < len; i += 3) {
        const uint32_t left = len - i < 3 ? (uint32_t)(len - i) : 3;
        const uint32_t bits =
            (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? (uint32_t)in[i + 2] : 0);
        for (uint32_t k = 0; k < 4; k++)
            *at++ = k <= left ? digits[bits >> (18 - 6 * k) & 63] : '=';
    }
    *at++ = '"';
    j->len = (size_t)(at - j->data);
}

void json_raw(struct json *j, const char *key, const char *value, size_t len)
{
    begin(j, key);
    char *at = reserve(j, len);
    if (!at)
        return;
    for (size_t i = 0; i < len; i++)
        at[i] = value[i] == '\n' || value[i] == '\r' ? ' ' : value[i];
    j->len += len;
}

static void put_formatted(struct json *j, const char *key, const char *text)
{
    begin(j, key);
    put(j, text, strlen(text));
}

void json_uint(struct json *j, const char *key, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    put_formatted(j, key, text);
}

void json_int(struct json *j, const char *key, int64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRId64, value);
    put_formatted(j, key, text);
}

void json_fixed(struct json *j, const char *key, double value)
{
    char text[64];

    (void)snprintf(text, sizeof text, "%.3f", value);
    put_formatted(j, key, text);
}

void json_bool(struct json *j, const char *key, bool value)
{
    put_formatted(j, key, value ? "true" : "false");
}

void json_time(struct json *j, const char *key, int64_t unix_ns)
{
    const int64_t ns = (unix_ns % 1000000000 + 1000000000) % 1000000000;
    const time_t seconds = (time_t)((unix_ns - ns) / 1000000000);
    char text[64];
    struct tm tm;

    (void)gmtime_r(&seconds, &tm);
    (void)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%09dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                   tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)ns);
    json_string(j, key, text);
}

bool json_print(struct json *j, FILE *to)
{
    put(j, "\n", 1);
    const bool written = !j->broken && fwrite(j->data, 1, j->len, to) == j->len && fflush(to) == 0;
    j->len = 0;
    return written;
}

void json_fini(struct json *j)
{
    free(j->data);
    *j = (struct json){0};
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

/* The length of the sequence at p, 0 if it is none: overlong forms, surrogates and what is above U+10FFFF are none. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    const unsigned char c = p[0];
    const size_t n = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;

    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] >= 0xa0) || (c == 0xf0 && p[1] < 0x90) ||
        (c == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

bool utf8_valid(const void *data, size_t len)
{
    const unsigned char *p = data;

    for (size_t i = 0, n; i < len; i += n)
        if ((n = utf8_sequence(p + i, len - i)) == 0)
            return false;
    return true;
}
