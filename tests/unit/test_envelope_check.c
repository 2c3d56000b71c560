/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of an envelope's fields: which one is named, and in which words. */
#include "core/envelope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define X32 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X256 X32 X32 X32 X32 X32 X32 X32 X32
#define SET " (allowed are A-Z a-z 0-9 : _ - . /)"
#define BAD(value, what) "invalid aggregate_id '" value "': contains invalid character " what SET

/* A NULL detail means accepted. */
static const struct {
    evbus_envelope env;
    const char *detail;
} rules[] = {
    {{"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, NULL},
    {{NULL, "a", "t", 1, 0, NULL, NULL, 0, "1", 1}, NULL},
    {{"", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, "event_id is required"},
    {{" \t\n\v\f\r", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, "event_id is required"},
    {{"\xe3\x80\x80\xc2\xa0\xe2\x80\xa8", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, "event_id is required"},
    {{" e ", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, NULL},
    {{"any form \xe8\xae\xa2 <&> \x01", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}, NULL},
    {{"e", NULL, "t", 1, 0, NULL, NULL, 0, "1", 0}, "aggregate_id is required"},
    {{"e", "", "t", 1, 0, NULL, NULL, 0, "1", 0}, "aggregate_id is required"},
    {{"e", " \t", "t", 1, 0, NULL, NULL, 0, "1", 0}, "aggregate_id is required"},
    {{"e", "a", NULL, 1, 0, NULL, NULL, 0, "1", 0}, "event_type is required"},
    {{"e", "a", "", 1, 0, NULL, NULL, 0, "1", 0}, "event_type is required"},
    {{"e", "a", "\n", 1, 0, NULL, NULL, 0, "1", 0}, "event_type is required"},
    {{"e", "a", "t", 0, 0, NULL, NULL, 0, "1", 0}, "event_version must be positive, it is 0"},
    {{"e", "a", "t", -1, 0, NULL, NULL, 0, "1", 0}, "event_version must be positive, it is -1"},
    {{"e", "a", "t", INT64_MIN, 0, NULL, NULL, 0, "1", 0},
     "event_version must be positive, it is -9223372036854775808"},
    {{"e", "a", "t", INT64_MAX, INT64_MIN, "", "", INT64_MIN, "1", 0}, NULL},
    {{"e", "a", "t", 1, 0, NULL, NULL, 0, NULL, 0}, "payload is required"},
    {{"e", "a", "t", 1, 0, NULL, NULL, 0, NULL, 5}, "payload is required"},
    {{"e", "a", "t", 1, 0, NULL, NULL, 0, "", 0}, "payload is required"},
    {{"e", "a", "t", 1, 0, NULL, NULL, -7, "not checked here", 0}, NULL},
    /* the order: the first broken rule is named */
    {{"", "", "", 0, 0, NULL, NULL, 0, "", 0}, "event_id is required"},
    {{"e", "", "", 0, 0, NULL, NULL, 0, "", 0}, "aggregate_id is required"},
    {{"e", "?", "", 0, 0, NULL, NULL, 0, "", 0}, "event_type is required"},
    {{"e", "?", "t", 0, 0, NULL, NULL, 0, "", 0}, "event_version must be positive, it is 0"},
    {{"e", "?", "t", 1, 0, NULL, NULL, 0, "", 0}, "payload is required"},
    {{"\xff", "?", "\xff", 1, 0, NULL, NULL, 0, "1", 0}, BAD("?", "'?' at byte 0")},
    {{"\xff", "a", "\xff", 1, 0, "\xff", "\xff", 0, "1", 0}, "event_id '?': invalid UTF-8 at byte 0"},
    {{"e", "a", "t\xc3", 1, 0, "\xff", "\xff", 0, "1", 0}, "event_type 't?': invalid UTF-8 at byte 1"},
    {{"e", "a", "t", 1, 0, "tr\xed\xa0\x80", "\xff", 0, "1", 0}, "trace_id 'tr?\?\?': invalid UTF-8 at byte 2"},
    {{"e", "a", "t", 1, 0, "tr", "12345678\xc0\x80", 0, "1", 0},
     "correlation_id '12345678?\?': invalid UTF-8 at byte 8"},
    /* the aggregate id's format */
    {{"e", "AZaz09:_-./", "t", 1, 0, NULL, NULL, 0, "1", 0}, NULL},
    {{"e", X256, "t", 1, 0, NULL, NULL, 0, "1", 0}, NULL},
    {{"e", X256 "x", "t", 1, 0, NULL, NULL, 0, "1", 0},
     "invalid aggregate_id '" X32 "xxxxxxxxxxxxxxxx...': too long (257 bytes, at most 256)"},
    {{"e", "order 42", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("order 42", "' ' at byte 5")},
    {{"e", " a", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD(" a", "' ' at byte 0")},
    {{"e", "a ", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("a ", "' ' at byte 1")},
    {{"e", "a\n", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("a?", "0x0a at byte 1")},
    {{"e", "a\x7f", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("a?", "0x7f at byte 1")},
    {{"e", "ab\xff", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("ab?", "0xff at byte 2")},
    {{"e", "\xe8\xae\xa2-1", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("\xe8\xae\xa2-1", "'\xe8\xae\xa2' at byte 0")},
    {{"e", "a*b", "t", 1, 0, NULL, NULL, 0, "1", 0}, BAD("a*b", "'*' at byte 1")},
};

/* Every rule, in the original's order, with the text for people; that strings are UTF-8 is found as they are written. */
static void test_envelope_check_names_the_first_broken_rule(void **state)
{
    char out[1024];
    size_t len;

    (void)state;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        evbus_status st = ev_envelope_check(&rules[i].env);

        if (st == EVBUS_OK && rules[i].detail)
            st = ev_envelope_encode(&rules[i].env, out, sizeof out, &len);
        if (!rules[i].detail && st != EVBUS_OK)
            fail_msg("rule %zu: %s", i, evbus_error_detail());
        if (rules[i].detail && (st != EVBUS_INVALID || strcmp(evbus_error_detail(), rules[i].detail) != 0))
            fail_msg("rule %zu: status %d, \"%s\", not \"%s\"", i, st, evbus_error_detail(), rules[i].detail);
    }
}

/* The set is exactly A-Z a-z 0-9 : _ - . / and the length 1..256. */
static void test_envelope_aggregate_id_rule_alone(void **state)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_-./";
    char id[258];

    (void)state;
    for (int c = 0; c < 256; c++) {
        const char text[2] = {(char)c, 'a'};
        const bool expected = c != 0 && strchr(set, c);
        assert_int_equal(ev_aggregate_id_ok(text, 1), expected);
        assert_int_equal(ev_aggregate_id_ok(text, 2), expected);
    }
    memset(id, 'x', sizeof id);
    assert_false(ev_aggregate_id_ok(id, 0));
    assert_true(ev_aggregate_id_ok(id, 256));
    assert_false(ev_aggregate_id_ok(id, 257));
}

/* The public check finds what publishing would find: the topic, a field, the payload's JSON, the time's range. */
static void test_envelope_check_is_what_publishing_would_say(void **state)
{
    const evbus_envelope good = {.aggregate_id = "a", .event_type = "t", .event_version = 1, .payload = "{\"x\": 1}"};
    evbus_envelope bad = good;

    (void)state;
    assert_int_equal(evbus_envelope_check("orders.placed", &good), EVBUS_OK);
    assert_int_equal(evbus_envelope_check("orders.*", &good), EVBUS_INVALID);
    assert_int_equal(evbus_envelope_check(NULL, &good), EVBUS_INVALID);
    assert_int_equal(evbus_envelope_check("orders", NULL), EVBUS_INVALID);
    bad.aggregate_id = "a b";
    assert_int_equal(evbus_envelope_check("orders", &bad), EVBUS_INVALID);
    bad = good;
    bad.payload = "{\"x\": }";
    assert_int_equal(evbus_envelope_check("orders", &bad), EVBUS_INVALID);
    assert_non_null(strstr(evbus_error_detail(), "payload is not valid JSON"));
    bad = good;
    bad.payload = "[] and more";
    bad.payload_len = 2;
    assert_int_equal(evbus_envelope_check("orders", &bad), EVBUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_envelope_check_names_the_first_broken_rule),
        cmocka_unit_test(test_envelope_aggregate_id_rule_alone),
        cmocka_unit_test(test_envelope_check_is_what_publishing_would_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
