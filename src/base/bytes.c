/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ev_hash folds 16 bytes with one 64 x 64 -> 128 bit multiplication, in two lanes, so that two multiplications run at
 * the same time. Both factors are mixed with secrets made from the seed: with a known constant in their place, chosen
 * bytes could make a factor 0 and wipe out all that came before.
 */
#include "base/bytes.h"

#include <string.h>

__extension__ typedef unsigned __int128 ev_u128;

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* 2^64 divided by the golden ratio */
#define SILVER UINT64_C(0x6a09e667f3bcc909) /* sqrt(2) - 1 in 64 bits, odd */

uint64_t ev_fnv1a(const void *data, size_t len)
{
    const unsigned char *byte = data;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static inline uint64_t load64(const unsigned char *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t load32(const unsigned char *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    const ev_u128 product = (ev_u128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t ev_hash(const void *data, size_t len, uint64_t seed)
{
    const unsigned char *at = data;
    const uint64_t other = (seed ^ SILVER) * GOLDEN;
    uint64_t x = seed ^ GOLDEN;
    uint64_t y = other ^ (uint64_t)len * SILVER;
    uint64_t a = 0;
    uint64_t b = 0;
    size_t left = len;

    for (; left > 32; left -= 32, at += 32) {
        x = fold(load64(at) ^ x, load64(at + 8) ^ other);
        y = fold(load64(at + 16) ^ y, load64(at + 24) ^ ~seed);
    }
    if (left > 16) {
        x = fold(load64(at) ^ x, load64(at + 8) ^ other);
        left -= 16;
        at += 16;
    }
    if (left >= 8) { /* the two loads overlap when fewer than 16 are left */
        a = load64(at);
        b = load64(at + left - 8);
    } else if (left >= 4) {
        a = load32(at);
        b = load32(at + left - 4);
    } else if (left > 0) {
        a = (uint64_t)at[0] | (uint64_t)at[left / 2] << 8 | (uint64_t)at[left - 1] << 16;
    }
    y = fold(a ^ y, b ^ ~seed);
    return fold(x ^ SILVER, y ^ other);
}

static size_t digits_of(uint64_t value)
{
    size_t n = 1;

    for (; value >= 10000; value /= 10000)
        n += 4;
    return n + (value >= 10) + (value >= 100) + (value >= 1000);
}

size_t ev_put_u64(char *out, uint64_t value)
{
    const size_t len = digits_of(value);

    for (size_t at = len; at > 0; value /= 10)
        out[--at] = (char)('0' + value % 10);
    return len;
}

bool ev_get_u64(const char *text, size_t len, uint64_t *ret)
{
    uint64_t value = 0;

    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++) {
        const unsigned digit = (unsigned)(unsigned char)text[i] - '0';

        if (digit > 9 || (i >= 19 && value > (UINT64_MAX - digit) / 10)) /* 19 digits always fit */
            return false;
        value = value * 10 + digit;
    }
    *ret = value;
    return true;
}

void ev_put_hex16(char *out, uint64_t value)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 15; i >= 0; i--, value >>= 4)
        out[i] = digits[value & 15];
}

bool ev_get_hex16(const char *text, uint64_t *ret)
{
    uint64_t value = 0;

    for (int i = 0; i < 16; i++) { /* a NUL is no digit: never reads past the end of a short text */
        unsigned digit;

        if (text[i] >= '0' && text[i] <= '9')
            digit = (unsigned)(text[i] - '0');
        else if (text[i] >= 'a' && text[i] <= 'f')
            digit = (unsigned)(text[i] - 'a') + 10;
        else
            return false;
        value = value << 4 | digit;
    }
    *ret = value;
    return true;
}

bool ev_copy(char *out, size_t cap, const char *text)
{
    return ev_copyn(out, cap, text, strlen(text));
}

bool ev_copyn(char *out, size_t cap, const char *text, size_t len)
{
    if (cap == 0)
        return false;

    const size_t fits = len < cap ? len : cap - 1;
    if (fits > 0)
        memcpy(out, text, fits);
    out[fits] = '\0';
    return fits == len;
}
