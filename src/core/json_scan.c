/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk keeps one byte per open array or object: what closes it. Strings, most of any document, are passed eight
 * bytes at a time until something in them needs a look.
 */
#include "core/json_scan.h"

#include "core/utf8.h"

#include <stdint.h>
#include <string.h>

static const char ends_early[] = "the text ends too early";

static const char *fail(struct ev_json_fault *fault, const char *at, const char *what)
{
    fault->at = at;
    fault->what = what;
    return NULL;
}

static const char *expected(struct ev_json_fault *fault, const char *at, const char *end, const char *what)
{
    return fail(fault, at, at == end ? ends_early : what);
}

/* ---- Strings ----------------------------------------------------------------------------------------------------- */

static inline bool is_plain(char c)
{
    const unsigned char byte = (unsigned char)c;

    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/* Bytes that mean themselves. */
static inline const char *skip_plain(const char *at, const char *end)
{
    for (; end - at >= EV_WORD; at += EV_WORD) {
        const uint64_t word = ev_word_load(at);
        const uint64_t special =
            ev_word_equal(word, '"') | ev_word_equal(word, '\\') | ev_word_below(word, 0x20) | (word & EV_WORD_TOPS);
        if (special)
            return at + ev_word_first(special);
    }
    while (at < end && is_plain(*at))
        at++;
    return at;
}

/* Four hexadecimal digits, or -1. */
static int32_t get_hex4(const char *at, const char *end)
{
    int32_t value = 0;

    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        const char c = at[i];

        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (c - 'A') + 10;
        else
            return -1;
    }
    return value;
}

static inline bool is_surrogate(int32_t code)
{
    return code >= 0xd800 && code <= 0xdfff;
}

/* The code point of the \uXXXX, or the pair of them, at `at`; *ret_end is behind it. Negative: `what` says why not. */
static int32_t get_code(const char *at, const char *end, const char **ret_end, const char **ret_what)
{
    const int32_t code = get_hex4(at + 2, end);

    if (code > 0 && !is_surrogate(code)) {
        *ret_end = at + 6;
        return code;
    }
    if (code < 0)
        *ret_what = "\\u without four hexadecimal digits";
    else if (code == 0)
        *ret_what = "U+0000 in a string";
    else
        *ret_what = "unpaired surrogate in a string";
    if (code < 0xd800 || code > 0xdbff || end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return -1;

    const int32_t low = get_hex4(at + 8, end);
    if (low < 0xdc00 || low > 0xdfff)
        return -1;
    *ret_end = at + 12;
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

/* What a backslash and `c` stand for; 0 if that is no short escape. */
static inline char short_escape(char c)
{
    switch (c) {
    case '"':
    case '\\':
    case '/':
        return c;
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return 0;
    }
}

static const char *skip_escape(const char *at, const char *end, struct ev_json_fault *fault)
{
    const char *stop, *what;

    if (end - at < 2)
        return fail(fault, end, ends_early);
    if (short_escape(at[1]))
        return at + 2;
    if (at[1] != 'u')
        return fail(fault, at, "unknown escape in a string");
    if (get_code(at, end, &stop, &what) < 0)
        return fail(fault, at, what);
    return stop;
}

const char *ev_json_string(const char *at, const char *end, bool *ret_escaped, struct ev_json_fault *fault)
{
    *ret_escaped = false;
    for (;;) {
        at = skip_plain(at, end);
        if (at == end)
            return fail(fault, at, ends_early);
        if (*at == '"')
            return at;
        if (*at == '\\') {
            *ret_escaped = true;
            at = skip_escape(at, end, fault);
            if (!at)
                return NULL;
            continue;
        }
        if ((unsigned char)*at < 0x20)
            return fail(fault, at, "control character in a string");
        while (at < end && (unsigned char)*at >= 0x80) {
            const size_t len = ev_utf8_char(at, end);
            if (len == 0)
                return fail(fault, at, "invalid UTF-8 in a string");
            at += len;
        }
    }
}

size_t ev_json_unescape(char *out, size_t cap, const char *at, const char *end)
{
    size_t n = 0;

    while (at < end) {
        const char *escape = memchr(at, '\\', (size_t)(end - at));
        const size_t run = (size_t)((escape ? escape : end) - at);
        char code[4];
        size_t bytes = 1;

        if (run > cap - n)
            return SIZE_MAX;
        memcpy(out + n, at, run);
        n += run;
        if (!escape)
            break;

        at = escape + 2;
        code[0] = short_escape(escape[1]);
        if (code[0] == 0) {
            const char *what;
            bytes = ev_utf8_put(code, (uint32_t)get_code(escape, end, &at, &what));
        }
        if (bytes > cap - n)
            return SIZE_MAX;
        memcpy(out + n, code, bytes);
        n += bytes;
    }
    return n;
}

/* ---- Values ------------------------------------------------------------------------------------------------------ */

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* One digit at least. */
static const char *skip_digits(const char *at, const char *end, struct ev_json_fault *fault)
{
    if (at == end || !is_digit(*at))
        return expected(fault, at, end, "expected a digit");
    do
        at++;
    while (at < end && is_digit(*at));
    return at;
}

static const char *skip_number(const char *at, const char *end, struct ev_json_fault *fault)
{
    if (*at == '-')
        at++;
    if (at < end && *at == '0') {
        at++;
        if (at < end && is_digit(*at))
            return fail(fault, at, "number with a leading zero");
    } else {
        at = skip_digits(at, end, fault);
    }
    if (at && at < end && *at == '.')
        at = skip_digits(at + 1, end, fault);
    if (at && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        at = skip_digits(at, end, fault);
    }
    return at;
}

static const char *skip_word(const char *at, const char *end, const char *word, size_t len, struct ev_json_fault *fault)
{
    for (size_t i = 0; i < len; i++) {
        if (at + i == end)
            return fail(fault, end, ends_early);
        if (at[i] != word[i])
            return fail(fault, at, "expected a value");
    }
    return at + len;
}

static const char *skip_scalar(const char *at, const char *end, struct ev_json_fault *fault)
{
    bool escaped;

    if (at == end)
        return fail(fault, at, ends_early);
    switch (*at) {
    case '"':
        at = ev_json_string(at + 1, end, &escaped, fault);
        return at ? at + 1 : NULL;
    case 't':
        return skip_word(at, end, "true", 4, fault);
    case 'f':
        return skip_word(at, end, "false", 5, fault);
    case 'n':
        return skip_word(at, end, "null", 4, fault);
    default:
        return *at == '-' || is_digit(*at) ? skip_number(at, end, fault) : fail(fault, at, "expected a value");
    }
}

/* From a member's key to its value. */
static const char *skip_key(const char *at, const char *end, struct ev_json_fault *fault)
{
    bool escaped;

    if (at == end || *at != '"')
        return expected(fault, at, end, "expected a key in quotes");
    at = ev_json_string(at + 1, end, &escaped, fault);
    if (!at)
        return NULL;
    at = ev_json_space(at + 1, end);
    if (at == end || *at != ':')
        return expected(fault, at, end, "expected ':' after a key");
    return ev_json_space(at + 1, end);
}

/* Behind a value: closes what ends here, and goes on to the next value. *depth is 0 when there is none. */
static const char *skip_to_next(const char *at, const char *end, const char *closer, unsigned *depth,
                                struct ev_json_fault *fault)
{
    while (*depth > 0) {
        const char close = closer[*depth - 1];

        at = ev_json_space(at, end);
        if (at < end && *at == ',') {
            at = ev_json_space(at + 1, end);
            return close == '}' ? skip_key(at, end, fault) : at;
        }
        if (at == end || *at != close)
            return expected(fault, at, end, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        at++;
        (*depth)--;
    }
    return at;
}

const char *ev_json_value(const char *at, const char *end, unsigned depth_max, struct ev_json_fault *fault)
{
    char closer[EV_JSON_DEPTH_MAX];
    unsigned depth = 0;

    do {
        if (at < end && (*at == '{' || *at == '[')) {
            const char close = (char)(*at + 2); /* so it is in ASCII, for both */

            if (depth == depth_max)
                return fail(fault, at, "nested too deeply");
            closer[depth++] = close;
            at = ev_json_space(at + 1, end);
            if (at == end || *at != close) {
                if (close == '}')
                    at = skip_key(at, end, fault);
                continue;
            }
            at++;
            depth--;
        } else {
            at = skip_scalar(at, end, fault);
        }
        if (at)
            at = skip_to_next(at, end, closer, &depth, fault);
    } while (at && depth > 0);
    return at;
}

bool ev_json_text(const char *at, const char *end, unsigned depth_max, struct ev_json_fault *fault)
{
    at = ev_json_value(ev_json_space(at, end), end, depth_max, fault);
    if (!at)
        return false;
    at = ev_json_space(at, end);
    if (at < end)
        fail(fault, at, "more bytes after the value");
    return at == end;
}
