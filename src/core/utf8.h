/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UTF-8 by RFC 3629, and eight bytes at a time in plain C. No allocation, no locale. Threads: any.
 *
 * The ev_word_* tests return a mask with the top bit of each byte that fits. Borrows can set bits above a byte that
 * fits, never below the first: "is there one" and "where is the first" are exact, the rest of the mask is not.
 */
#ifndef EV_CORE_UTF8_H
#define EV_CORE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EV_WORD 8
#define EV_WORD_ONES UINT64_C(0x0101010101010101)
#define EV_WORD_TOPS UINT64_C(0x8080808080808080)

/* The first byte in the lowest bits on every machine; compilers make one load of it. */
static inline uint64_t ev_word_load(const char *at)
{
    const unsigned char *b = (const unsigned char *)at;

    return (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 | (uint64_t)b[4] << 32 |
           (uint64_t)b[5] << 40 | (uint64_t)b[6] << 48 | (uint64_t)b[7] << 56;
}

static inline uint64_t ev_word_equal(uint64_t word, unsigned char byte)
{
    const uint64_t differs = word ^ (EV_WORD_ONES * byte);

    return (differs - EV_WORD_ONES) & ~differs & EV_WORD_TOPS;
}

/* Bytes below `limit`, which is at most 128. */
static inline uint64_t ev_word_below(uint64_t word, unsigned char limit)
{
    return (word - EV_WORD_ONES * limit) & ~word & EV_WORD_TOPS;
}

/* Bytes before the first one in a mask that is not 0. */
static inline size_t ev_word_first(uint64_t mask)
{
    return (size_t)__builtin_ctzll(mask) / 8;
}

static inline bool ev_utf8_is_tail(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Bytes of the character that starts at `at`: 1..4, or 0 if it is cut, overlong, a surrogate or above U+10FFFF. */
static inline size_t ev_utf8_char(const char *at, const char *end)
{
    const unsigned char *b = (const unsigned char *)at;
    const size_t left = (size_t)(end - at);

    if (left == 0)
        return 0;
    if (b[0] < 0x80)
        return 1;
    if (b[0] < 0xe0) /* c0 and c1 would be overlong */
        return b[0] >= 0xc2 && left >= 2 && ev_utf8_is_tail(b[1]) ? 2 : 0;
    if (b[0] < 0xf0) {
        const unsigned char low = b[0] == 0xe0 ? 0xa0 : 0x80;  /* below: overlong */
        const unsigned char high = b[0] == 0xed ? 0x9f : 0xbf; /* above: surrogates */

        return left >= 3 && b[1] >= low && b[1] <= high && ev_utf8_is_tail(b[2]) ? 3 : 0;
    }
    if (b[0] < 0xf5) {
        const unsigned char low = b[0] == 0xf0 ? 0x90 : 0x80;  /* below: overlong */
        const unsigned char high = b[0] == 0xf4 ? 0x8f : 0xbf; /* above: past U+10FFFF */

        return left >= 4 && b[1] >= low && b[1] <= high && ev_utf8_is_tail(b[2]) && ev_utf8_is_tail(b[3]) ? 4 : 0;
    }
    return 0;
}

/* The first byte that is not UTF-8, or `end`. */
const char *ev_utf8_check(const char *at, const char *end);

/* Writes a code point (no surrogate, at most U+10FFFF) and returns its bytes, 1..4. */
size_t ev_utf8_put(char *out, uint32_t code);

/* Bytes of the white space, as Go's unicode.IsSpace has it, that starts at `at`; 0 if there is none. */
size_t ev_utf8_space(const char *at, const char *end);

/*
 * A value for a detail text: cut to a few characters, what cannot be printed as '?'. `out` has EV_SHORT_MAX bytes;
 * returns `out`.
 */
#define EV_SHORT_MAX 56
const char *ev_utf8_short(char *out, const char *text, size_t len);

#endif
