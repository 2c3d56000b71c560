/* SPDX-License-Identifier: Apache-2.0 */
/* The strict JSON walk: what it accepts, where it stops and why, and that it never reads past the end. */
#include "core/json_scan.h"
#include "core/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Walks a heap copy of exactly `len` bytes; *ret_at is the byte of the fault. */
static bool walk(const char *text, size_t len, const char **ret_what, size_t *ret_at)
{
    char *exact = malloc(len ? len : 1);
    struct ev_json_fault fault = {0};

    assert_non_null(exact);
    memcpy(exact, text, len);
    const bool ok = ev_json_text(exact, exact + len, EV_JSON_DEPTH_MAX, &fault);
    *ret_what = fault.what;
    *ret_at = ok ? 0 : (size_t)(fault.at - exact);
    assert_true(*ret_at <= len);
    free(exact);
    return ok;
}

static const char *const accepted[] = {
    "0",
    "-0",
    "1",
    "-1",
    "10",
    "1.0",
    "-0.0",
    "1.5e3",
    "1E+5",
    "1e-5",
    "0e0",
    "123456789012345678901234567890",
    "1e999",
    "true",
    "false",
    "null",
    "\"\"",
    "\"a\"",
    "\"/\"",
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    "{\"\":0}",
    " \t\r\n1\t\n ",
    "[1,2]",
    "[ 1 , 2 ]",
    "{\"a\":1,\"a\":2}",
    "{ \"a\" : { \"b\" : [ ] } }",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0001\"",
    "\"\\u00e4\\u20AC\"",
    "\"\\ud83d\\ude00\"",
    "\"\\uD800\\uDC00\"",
    "\"\\udbff\\udfff\"",
    "\"\\uFFFF\"",
    "\"\x7f\"",
    "\"\xc3\xa4\"",
    "\"\xe2\x82\xac\"",
    "\"\xf0\x9f\x98\x80\"",
    "\"\xed\x9f\xbf\"",
    "\"\xee\x80\x80\"",
    "\"\xf4\x8f\xbf\xbf\"",
    "\"\xc2\x80\"",
    "\"\xe0\xa0\x80\"",
    "\"\xf0\x90\x80\x80\"",
    "\"\xef\xbf\xbf\"",
    "[\"12345678\",\"1234567\",\"123456789\"]",
};

/* Everything RFC 8259 allows, to the edges of UTF-8. */
static void test_json_accepts_what_the_grammar_has(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++) {
        const char *what;
        size_t at;

        if (!walk(accepted[i], strlen(accepted[i]), &what, &at))
            fail_msg("%s: %s at byte %zu", accepted[i], what, at);
    }
}

#define ENDS "the text ends too early"
#define VALUE "expected a value"
#define DIGIT "expected a digit"
#define UTF8 "invalid UTF-8 in a string"
#define PAIR "unpaired surrogate in a string"
#define CONTROL "control character in a string"
#define HEX "\\u without four hexadecimal digits"

static const struct {
    const char *text;
    const char *what;
    size_t at;
} refused[] = {
    {"", ENDS, 0},
    {"  ", ENDS, 2},
    {"[", ENDS, 1},
    {"[1", ENDS, 2},
    {"[1,", ENDS, 3},
    {"{", ENDS, 1},
    {"{\"a\"", ENDS, 4},
    {"{\"a\":", ENDS, 5},
    {"{\"a\":1", ENDS, 6},
    {"{\"a\":1,", ENDS, 7},
    {"\"", ENDS, 1},
    {"\"a", ENDS, 2},
    {"\"\\", ENDS, 2},
    {"\"\\n", ENDS, 3},
    {"tru", ENDS, 3},
    {"nul", ENDS, 3},
    {"-", ENDS, 1},
    {"1.", ENDS, 2},
    {"1e", ENDS, 2},
    {"1e+", ENDS, 3},
    {"]", VALUE, 0},
    {"}", VALUE, 0},
    {"[1,]", VALUE, 3},
    {"[,1]", VALUE, 1},
    {"{\"a\":}", VALUE, 5},
    {"+1", VALUE, 0},
    {".5", VALUE, 0},
    {"'a'", VALUE, 0},
    {"True", VALUE, 0},
    {"trux", VALUE, 0},
    {"NaN", VALUE, 0},
    {"nil", VALUE, 0},
    {"Infinity", VALUE, 0},
    {"//", VALUE, 0},
    {"\xef\xbb\xbf"
     "1",
     VALUE, 0},
    {"\f1", VALUE, 0},
    {"\xc2\xa0"
     "1",
     VALUE, 0},
    {"-a", DIGIT, 1},
    {"1.a", DIGIT, 2},
    {"1.e5", DIGIT, 2},
    {"1ea", DIGIT, 2},
    {"1e+a", DIGIT, 3},
    {"-.5", DIGIT, 1},
    {"01", "number with a leading zero", 1},
    {"-00", "number with a leading zero", 2},
    {"{1:2}", "expected a key in quotes", 1},
    {"{,}", "expected a key in quotes", 1},
    {"{\"a\":1,}", "expected a key in quotes", 7},
    {"{a:1}", "expected a key in quotes", 1},
    {"{\"a\",1}", "expected ':' after a key", 4},
    {"{\"a\" 1}", "expected ':' after a key", 5},
    {"{\"a\":1]", "expected ',' or '}'", 6},
    {"{\"a\":1 \"b\":2}", "expected ',' or '}'", 7},
    {"[1}", "expected ',' or ']'", 2},
    {"[1 2]", "expected ',' or ']'", 3},
    {"[1:2]", "expected ',' or ']'", 2},
    {"1 2", "more bytes after the value", 2},
    {"{}}", "more bytes after the value", 2},
    {"nullx", "more bytes after the value", 4},
    {"0x10", "more bytes after the value", 1},
    {"\"a\nb\"", CONTROL, 2},
    {"\"\t\"", CONTROL, 1},
    {"\"1234567\x1f\"", CONTROL, 8},
    {"\"\\a\"", "unknown escape in a string", 1},
    {"\"\\U0041\"", "unknown escape in a string", 1},
    {"\"\\'\"", "unknown escape in a string", 1},
    {"\"\\\n\"", "unknown escape in a string", 1},
    {"\"\\u12\"", HEX, 1},
    {"\"\\u123", HEX, 1},
    {"\"\\u", HEX, 1},
    {"\"\\u12g4\"", HEX, 1},
    {"\"\\u 123\"", HEX, 1},
    {"\"\\u0000\"", "U+0000 in a string", 1},
    {"\"\\ud800\"", PAIR, 1},
    {"\"\\udc00\"", PAIR, 1},
    {"\"\\ud800x\"", PAIR, 1},
    {"\"\\ud800\\n\"", PAIR, 1},
    {"\"\\ud800\\ud800\"", PAIR, 1},
    {"\"\\ud800\\u0041\"", PAIR, 1},
    {"\"\\ud800\\udc0", PAIR, 1},
    {"\"\\ud800\\", PAIR, 1},
    {"\"\\udc00\\ud800\"", PAIR, 1},
    {"\"\x80\"", UTF8, 1},
    {"\"\xbf\"", UTF8, 1},
    {"\"\xc0\x80\"", UTF8, 1},
    {"\"\xc1\xbf\"", UTF8, 1},
    {"\"\xc3\"", UTF8, 1},
    {"\"\xc3", UTF8, 1},
    {"\"\xe0\x9f\xbf\"", UTF8, 1},
    {"\"\xe2\x82\"", UTF8, 1},
    {"\"\xe2\x82", UTF8, 1},
    {"\"\xed\xa0\x80\"", UTF8, 1},
    {"\"\xed\xbf\xbf\"", UTF8, 1},
    {"\"\xf0\x8f\xbf\xbf\"", UTF8, 1},
    {"\"\xf0\x9f\x98", UTF8, 1},
    {"\"\xf4\x90\x80\x80\"", UTF8, 1},
    {"\"\xf5\x80\x80\x80\"", UTF8, 1},
    {"\"\xff\"", UTF8, 1},
    {"\"\xe2\x28\xa1\"", UTF8, 1},
    {"\"1234567\xc3\"", UTF8, 8},
    {"\"\xc3\xa4\xc3\"", UTF8, 3},
};

/* What the grammar does not have is refused, with the reason and the byte. */
static void test_json_refuses_with_reason_and_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const char *what;
        size_t at;

        if (walk(refused[i].text, strlen(refused[i].text), &what, &at))
            fail_msg("%s was accepted", refused[i].text);
        if (strcmp(what, refused[i].what) != 0 || at != refused[i].at)
            fail_msg("%s: got '%s' at byte %zu, not '%s' at %zu", refused[i].text, what, at, refused[i].what,
                     refused[i].at);
    }
}

/* A raw NUL is refused wherever it stands. */
static void test_json_refuses_nul_bytes(void **state)
{
    static const char text[] = "{\"ab\":[1,\"cdefghijklmn\",true]}";
    const char *what;
    size_t at;

    (void)state;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        char copy[sizeof text];

        memcpy(copy, text, sizeof text);
        copy[i] = '\0';
        assert_false(walk(copy, sizeof text - 1, &what, &at));
    }
}

/* Each byte value, alone and behind eight plain ones, is special exactly when the grammar says so. */
static void test_json_knows_every_byte_in_a_string(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        for (size_t before = 0; before < 20; before++) {
            char text[40] = "\"abcdefghijklmnopqrstuvwxyz";
            const char *what;
            size_t at;

            text[1 + before] = (char)c;
            memcpy(text + 24, "\"", 2);
            const bool ok = walk(text, 25, &what, &at);
            const bool expected = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
            if (c == '\\') /* the letter behind it decides */
                continue;
            if (ok != expected)
                fail_msg("byte %#x at %zu", c, before);
            if (!ok && c != '"')
                assert_int_equal(at, 1 + before);
        }
    }
}

static char *nested(size_t depth, bool objects)
{
    char *text = malloc(depth * 6 + 2);
    size_t n = 0;

    assert_non_null(text);
    for (size_t i = 0; i < depth; i++) {
        const bool object = objects && i % 2 == 0;
        const char *open = object ? "{\"a\":" : "[";
        memcpy(text + n, open, strlen(open));
        n += strlen(open);
    }
    text[n++] = '1';
    for (size_t i = depth; i-- > 0;)
        text[n++] = objects && i % 2 == 0 ? '}' : ']';
    text[n] = '\0';
    return text;
}

/* 128 levels are walked, 129 are not; and so for a smaller limit. */
static void test_json_limits_depth(void **state)
{
    struct ev_json_fault fault;

    (void)state;
    for (int objects = 0; objects < 2; objects++) {
        for (size_t depth = 0; depth < 140; depth++) {
            char *text = nested(depth, objects);
            const char *end = text + strlen(text);

            assert_int_equal(ev_json_text(text, end, EV_JSON_DEPTH_MAX, &fault), depth <= EV_JSON_DEPTH_MAX);
            if (depth > EV_JSON_DEPTH_MAX)
                assert_string_equal(fault.what, "nested too deeply");
            assert_int_equal(ev_json_text(text, end, EV_JSON_DEPTH_MAX - 1, &fault), depth < EV_JSON_DEPTH_MAX);
            assert_int_equal(ev_json_text(text, end, 3, &fault), depth <= 3);
            free(text);
        }
    }
}

/* Breadth is no depth. */
static void test_json_forgets_closed_levels(void **state)
{
    char text[2 + 3 * 1000 + 1] = "[";
    struct ev_json_fault fault;

    (void)state;
    for (int i = 0; i < 1000; i++)
        memcpy(text + 1 + (ptrdiff_t)3 * i, "[],", 3);
    memcpy(text + 1 + 3 * 1000 - 1, "]", 2);
    assert_true(ev_json_text(text, text + strlen(text), 2, &fault));
}

static const struct {
    const char *source;
    const char *decoded;
} decodings[] = {
    {"", ""},
    {"abc", "abc"},
    {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
    {"\\u0041b\\u00e4\\u20AC", "Ab\xc3\xa4\xe2\x82\xac"},
    {"\\ud83d\\ude00!", "\xf0\x9f\x98\x80!"},
    {"\\uD800\\uDC00\\uDBFF\\uDFFF", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
    {"\\u007f\\u0080\\u07ff\\u0800\\uffff", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
    {"\xe8\xae\xa2\\u5355", "\xe8\xae\xa2\xe5\x8d\x95"},
    {"x\\u2028\\u2029y", "x\xe2\x80\xa8\xe2\x80\xa9y"},
};

/* Every escape decodes to its UTF-8; one byte too few is told and not written. */
static void test_json_unescapes_within_its_buffer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof decodings / sizeof decodings[0]; i++) {
        const char *source = decodings[i].source;
        const size_t len = strlen(decodings[i].decoded);

        for (size_t cap = 0; cap <= len + 2; cap++) {
            char *out = malloc(cap + 1); /* + 1: a block even for 0 */
            assert_non_null(out);
            out[cap] = 'E';
            const size_t n = ev_json_unescape(out, cap, source, source + strlen(source));
            assert_true(n == (cap < len ? SIZE_MAX : len));
            assert_int_equal(out[cap], 'E');
            if (n != SIZE_MAX)
                assert_memory_equal(out, decodings[i].decoded, len);
            free(out);
        }
    }
}

/* All code points, written by ev_utf8_put, are characters but for the surrogates; one byte less is not. */
static void test_utf8_knows_every_code_point(void **state)
{
    (void)state;
    for (uint32_t code = 1; code < 0x110000; code++) {
        char text[4];
        const size_t len = ev_utf8_put(text, code);
        const bool surrogate = code >= 0xd800 && code <= 0xdfff;

        assert_int_equal(ev_utf8_char(text, text + len), surrogate ? 0 : len);
        for (size_t cut = 0; cut < len; cut++)
            assert_int_equal(ev_utf8_char(text, text + cut), 0);
    }
}

/* White space is Go's, no more and no less. */
static void test_utf8_knows_gos_white_space(void **state)
{
    size_t found = 0;

    (void)state;
    for (uint32_t code = 1; code < 0x110000; code++) {
        char text[4];
        const size_t len = ev_utf8_put(text, code);
        const size_t space = ev_utf8_space(text, text + len);

        assert_true(space == 0 || space == len);
        found += space > 0;
    }
    assert_int_equal(found, 25); /* 6 in ASCII, 85, a0, 1680, 2000..200a, 2028, 2029, 202f, 205f, 3000 */
    char cut[] = "\xe2\x80";
    assert_int_equal(ev_utf8_space(cut, cut + 2), 0);
}

/* Values in detail texts are short, printable and never half a character. */
static void test_utf8_shortens_values(void **state)
{
    char out[EV_SHORT_MAX], text[400];

    (void)state;
    assert_string_equal(ev_utf8_short(out, "order-42", 8), "order-42");
    assert_string_equal(ev_utf8_short(out, "", 0), "");
    assert_string_equal(ev_utf8_short(out, "a\nb\x7f\xff\xc2\x85\xc3\xa4\xc2", 10), "a?b???\xc3\xa4?");
    for (size_t lead = 0; lead < 60; lead++) {
        memset(text, 'x', sizeof text);
        for (size_t i = lead; i + 3 <= sizeof text; i += 3)
            memcpy(text + i, "\xe8\xae\xa2", 3);
        ev_utf8_short(out, text, sizeof text);
        const size_t len = strlen(out);
        assert_true(len < EV_SHORT_MAX);
        assert_string_equal(out + len - 3, "...");
        assert_ptr_equal(ev_utf8_check(out, out + len), out + len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_accepts_what_the_grammar_has),
        cmocka_unit_test(test_json_refuses_with_reason_and_byte),
        cmocka_unit_test(test_json_refuses_nul_bytes),
        cmocka_unit_test(test_json_knows_every_byte_in_a_string),
        cmocka_unit_test(test_json_limits_depth),
        cmocka_unit_test(test_json_forgets_closed_levels),
        cmocka_unit_test(test_json_unescapes_within_its_buffer),
        cmocka_unit_test(test_utf8_knows_every_code_point),
        cmocka_unit_test(test_utf8_knows_gos_white_space),
        cmocka_unit_test(test_utf8_shortens_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
