/* SPDX-License-Identifier: Apache-2.0 */
#include "core/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void refused(const char *topic, bool pattern, const char *text)
{
    size_t len = 0;

    assert_int_equal(ev_topic_check(topic, pattern, &len), EVBUS_INVALID);
    if (!strstr(evbus_error_detail(), text))
        fail_msg("'%s': \"%s\" does not say \"%s\"", topic ? topic : "NULL", evbus_error_detail(), text);
}

static void accepted(const char *topic, bool pattern)
{
    size_t len = 0;

    if (ev_topic_check(topic, pattern, &len) != EVBUS_OK)
        fail_msg("'%s' is refused: %s", topic, evbus_error_detail());
    assert_int_equal(len, strlen(topic));
}

/* One character, 255 characters, digits, dashes and tokens are names. */
static void test_names_accept_what_nats_accepts(void **state)
{
    char longest[256];

    (void)state;
    memset(longest, 'a', 255);
    longest[255] = 0;
    accepted("a", false);
    accepted(longest, false);
    accepted("orders.created.v2", false);
    accepted("A-b_9", false);
    accepted("with/slash#and$more", false);
    accepted("orders.*", true);
    accepted("*.created.>", true);
    accepted(">", true);
}

/* A refusal names the topic, the byte, its position and the rule. */
static void test_names_say_what_is_wrong(void **state)
{
    char text[301];

    (void)state;
    memset(text, 'a', 300);
    text[300] = 0;
    refused(NULL, false, "NULL");
    refused("", false, "cannot be empty");
    refused(text, false, "too long (300 characters, maximum 255)");
    text[256] = 0;
    refused(text, false, "too long (256 characters, maximum 255)");
    refused("a b", false, "cannot contain spaces");
    refused(" ab", false, "cannot contain spaces");
    refused("ab ", false, "cannot contain spaces");
    refused("订单", false, "non-ASCII character '订' at position 0");
    refused("orders.订单", false, "non-ASCII character '订' at position 7");
    refused("日本語", false, "at position 0");
    refused("주문", false, "non-ASCII character '주'");
    refused("ok🙂", false, "non-ASCII character '🙂' at position 2");
    refused("a\x01z", false, "control character 0x01 at position 1");
    refused("a\tz", false, "control character 0x09 at position 1");
    refused("a\x7f", false, "control character 0x7f at position 1");
    refused(".a", false, "empty token at position 0");
    refused("a.", false, "empty token at position 2");
    refused("a..b", false, "empty token at position 2");
    refused("a.*", false, "wildcard '*' at position 2 is allowed only when subscribing");
    refused("a.>", false, "wildcard '>'");
    refused("a*", true, "must be a whole token");
    refused("a.>.b", true, "must be a whole token, the last one");
}

/* A pattern covers exactly the subjects that NATS would deliver to it. */
static void test_names_patterns_cover_as_nats_does(void **state)
{
    (void)state;
    assert_true(ev_subject_covers("a.b", "a.b"));
    assert_true(ev_subject_covers("a.*", "a.b"));
    assert_true(ev_subject_covers("a.*", "a.*"));
    assert_true(ev_subject_covers("a.>", "a.b.c"));
    assert_true(ev_subject_covers("a.>", "a.*.c"));
    assert_true(ev_subject_covers("a.>", "a.>"));
    assert_true(ev_subject_covers(">", "a"));
    assert_true(ev_subject_covers("*.*", "a.b"));
    assert_false(ev_subject_covers("a.>", "a"));
    assert_false(ev_subject_covers("a.*", "a.b.c"));
    assert_false(ev_subject_covers("a.*", "a.>"));
    assert_false(ev_subject_covers("a.b", "a.*"));
    assert_false(ev_subject_covers("a.b", "a.bc"));
    assert_false(ev_subject_covers("a.bc", "a.b"));
    assert_false(ev_subject_covers("a", "a.b"));
}

/* Different topics and groups have different streams and durables, also where the readable part is the same. */
static void test_names_streams_and_durables_are_injective(void **state)
{
    char a[EV_NAME_MAX], b[EV_NAME_MAX];

    (void)state;
    ev_stream_name(a, "a.b");
    ev_stream_name(b, "a_b");
    assert_string_not_equal(a, b);
    assert_int_not_equal(ev_durable_name(a, "g", "a.b"), ev_durable_name(b, "g", "a_b"));
    assert_string_not_equal(a, b);
    assert_int_not_equal(ev_durable_name(a, "g-x", "a"), ev_durable_name(b, "g", "x-a"));
    assert_int_equal(ev_durable_name(a, "g", "t"), ev_durable_name(b, "g", "t"));
    assert_string_equal(a, b);
}

/* The names on a broker must not change with a release: these are recorded. */
static void test_names_are_stable(void **state)
{
    char name[EV_NAME_MAX];

    (void)state;
    ev_stream_name(name, "orders.created");
    assert_string_equal(name, "orders_created-6d1c1d4adcc23972");
    (void)ev_durable_name(name, "billing", "orders.created");
    assert_string_equal(name, "billing-orders_created-75ffcf8df6ce59f9");
}

/* No stream or durable name has a byte that NATS forbids, and none is too long, whatever the topic. */
static void test_names_made_of_long_topics_are_legal(void **state)
{
    char topic[256], name[EV_NAME_MAX], group[65];

    (void)state;
    memset(topic, '/', 255);
    topic[255] = 0;
    memset(group, 'g', 64);
    group[64] = 0;
    ev_stream_name(name, topic);
    assert_null(strpbrk(name, ". *>/\\"));
    (void)ev_durable_name(name, group, topic);
    assert_null(strpbrk(name, ". *>/\\"));
    assert_true(strlen(name) < 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_accept_what_nats_accepts),
        cmocka_unit_test(test_names_say_what_is_wrong),
        cmocka_unit_test(test_names_patterns_cover_as_nats_does),
        cmocka_unit_test(test_names_streams_and_durables_are_injective),
        cmocka_unit_test(test_names_are_stable),
        cmocka_unit_test(test_names_made_of_long_topics_are_legal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
