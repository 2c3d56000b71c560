/* SPDX-License-Identifier: Apache-2.0 */
#include "core/utf8.h"

#include <string.h>

#define SHORT_TEXT_MAX 48 /* with "..." and the NUL below EV_SHORT_MAX */

const char *ev_utf8_check(const char *at, const char *end)
{
    for (;;) {
        while (end - at >= EV_WORD && (ev_word_load(at) & EV_WORD_TOPS) == 0)
            at += EV_WORD;
        if (at == end)
            return end;

        const size_t len = ev_utf8_char(at, end);
        if (len == 0)
            return at;
        at += len;
    }
}

size_t ev_utf8_put(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

size_t ev_utf8_space(const char *at, const char *end)
{
    const unsigned char *b = (const unsigned char *)at;
    const size_t left = (size_t)(end - at);

    if (left == 0)
        return 0;
    if (b[0] < 0x80)
        return b[0] == ' ' || (b[0] >= '\t' && b[0] <= '\r') ? 1 : 0;
    if (left >= 2 && b[0] == 0xc2)
        return b[1] == 0x85 || b[1] == 0xa0 ? 2 : 0; /* U+0085, U+00A0 */
    if (left < 3)
        return 0;

    const unsigned code = (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
                       code == 0x202f || code == 0x205f || code == 0x3000;

    return space && ev_utf8_char(at, end) == 3 ? 3 : 0;
}

const char *ev_utf8_short(char *out, const char *text, size_t len)
{
    const char *end = text + len;
    size_t n = 0;

    while (text < end) {
        const size_t bytes = ev_utf8_char(text, end);
        const unsigned char c = (unsigned char)text[0];
        const bool c1 = bytes == 2 && c == 0xc2 && (unsigned char)text[1] < 0xa0;
        const bool shown = bytes != 0 && c >= 0x20 && c != 0x7f && !c1;
        const size_t width = shown ? bytes : 1;

        if (n + width > SHORT_TEXT_MAX) {
            memcpy(out + n, "...", 3);
            n += 3;
            break;
        }
        if (shown)
            memcpy(out + n, text, bytes);
        else
            out[n] = '?';
        n += width;
        text += bytes == 0 ? 1 : bytes;
    }
    out[n] = '\0';
    return out;
}
