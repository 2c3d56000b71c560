/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes, number text and the bounded copy. */
#include "base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* FNV-1a gives the published values: other systems compute the same shard. */
static void test_bytes_fnv1a_gives_the_published_values(void **state)
{
    (void)state;
    assert_true(ev_fnv1a("", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(ev_fnv1a("a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(ev_fnv1a("foobar", 6) == UINT64_C(0x85944171f73967e8));
}

static int bits_set(uint64_t value)
{
    return __builtin_popcountll(value);
}

/* One changed bit of the key, at any length and place, changes about half of the hash; so does the seed. */
static void test_bytes_hash_spreads_every_bit(void **state)
{
    unsigned char key[80];
    uint64_t changed = 0;
    uint64_t tried = 0;

    (void)state;
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (unsigned char)(i * 37 + 11);
    for (size_t len = 0; len <= sizeof key; len++) {
        const uint64_t plain = ev_hash(key, len, 1);

        assert_true(plain != ev_hash(key, len, 2));
        for (size_t bit = 0; bit < len * 8; bit++) {
            key[bit / 8] ^= (unsigned char)(1u << bit % 8);
            const int flips = bits_set(plain ^ ev_hash(key, len, 1));
            key[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_in_range(flips, 8, 56);
            changed += (uint64_t)flips;
            tried++;
        }
    }
    assert_in_range(changed * 100 / tried, 3150, 3250); /* 32 of 64 on average */
}

/* Keys of zeros differ by their length, and a hundred thousand topic names fall evenly into a table. */
static void test_bytes_hash_fills_a_table_evenly(void **state)
{
    enum { KEYS = 100000, SLOTS = 1024 };
    static uint32_t hits[SLOTS];
    static const char zeros[64];
    char key[64];

    (void)state;
    for (size_t len = 0; len < sizeof zeros; len++)
        for (size_t other = 0; other < len; other++)
            assert_true(ev_hash(zeros, len, 7) != ev_hash(zeros, other, 7));
    for (int i = 0; i < KEYS; i++) {
        const int len = snprintf(key, sizeof key, "orders.%d.created.v1", i);

        hits[ev_hash(key, (size_t)len, 42) % SLOTS]++;
    }
    double chi = 0;
    for (int i = 0; i < SLOTS; i++) {
        const double off = hits[i] - (double)KEYS / SLOTS;

        chi += off * off / ((double)KEYS / SLOTS);
    }
    assert_true(chi > 850 && chi < 1200); /* 1023 degrees of freedom: about 4 sigma to each side */
}

/* Decimal numbers go there and back; what is no number, or too large, is refused. */
static void test_bytes_decimal_goes_both_ways(void **state)
{
    static const char *const wrong[] = {
        "", "-1", "+1", " 1", "1 ", "1x", "18446744073709551616", "99999999999999999999"};
    uint64_t value = 1;
    char text[21];

    (void)state;
    for (int i = 0; i < 66; i++) {
        const uint64_t sent = i == 65 ? UINT64_MAX : i == 64 ? 0 : value << i;
        const size_t len = ev_put_u64(text, sent);
        char expected[32];

        snprintf(expected, sizeof expected, "%llu", (unsigned long long)sent);
        assert_int_equal(len, strlen(expected));
        assert_memory_equal(text, expected, len);
        uint64_t got;
        assert_true(ev_get_u64(text, len, &got));
        assert_true(got == sent);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        value = 77;
        assert_false(ev_get_u64(wrong[i], strlen(wrong[i]), &value));
        assert_int_equal(value, 77);
    }
    assert_true(ev_get_u64("000000000000000000000042", 24, &value));
    assert_int_equal(value, 42);
}

/* Sixteen hex digits go there and back; capitals, short text and other letters are refused. */
static void test_bytes_hex_goes_both_ways(void **state)
{
    char text[17] = "";
    uint64_t value = 0;

    (void)state;
    ev_put_hex16(text, UINT64_C(0x0123456789abcdef));
    assert_string_equal(text, "0123456789abcdef");
    assert_true(ev_get_hex16(text, &value));
    assert_true(value == UINT64_C(0x0123456789abcdef));
    assert_false(ev_get_hex16("0123456789ABCDEF", &value));
    assert_false(ev_get_hex16("0123456789abcde", &value));
    assert_false(ev_get_hex16("0123456789abcdeg", &value));
    assert_false(ev_get_hex16("", &value));
}

/* A copy ends with a NUL in any buffer and says whether it was cut. */
static void test_bytes_copy_cuts_and_says_so(void **state)
{
    char out[5] = "????";

    (void)state;
    assert_true(ev_copy(out, sizeof out, "four"));
    assert_string_equal(out, "four");
    assert_false(ev_copy(out, sizeof out, "fives"));
    assert_string_equal(out, "five");
    assert_false(ev_copy(out, 1, "x"));
    assert_string_equal(out, "");
    assert_true(ev_copyn(out, 1, NULL, 0));
    assert_false(ev_copyn(NULL, 0, "x", 1));
    assert_true(ev_copyn(out, sizeof out, "abcdef", 3));
    assert_string_equal(out, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_fnv1a_gives_the_published_values),
        cmocka_unit_test(test_bytes_hash_spreads_every_bit),
        cmocka_unit_test(test_bytes_hash_fills_a_table_evenly),
        cmocka_unit_test(test_bytes_decimal_goes_both_ways),
        cmocka_unit_test(test_bytes_hex_goes_both_ways),
        cmocka_unit_test(test_bytes_copy_cuts_and_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
