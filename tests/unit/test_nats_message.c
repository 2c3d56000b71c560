/* SPDX-License-Identifier: Apache-2.0 */
/* A stored message as nats-server 2.9.10 answers STREAM.MSG.GET; and what must not be taken for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/nats_api.h"
#include "base/alloc.h"

#include <stdio.h>
#include <string.h>

static evbus_status parse(const char *message, struct ev_stored *ret)
{
    char text[1024];
    const int n = snprintf(text, sizeof text, "{\"type\":\"x\",\"message\":{%s}}", message);

    return ev_nats_parse_message(text, (size_t)n, "stream 'S'", ret);
}

/* Body, headers without their first line, time and sequence; one block of memory. */
static void test_nats_message_is_read(void **state)
{
    struct ev_stored m;

    (void)state;
    assert_int_equal(parse("\"subject\":\"a.b\",\"seq\":7,\"hdrs\":\"TkFUUy8xLjANCkE6IGINCg0K\",\"data\":\"aGk=\","
                           "\"time\":\"2026-01-01T00:00:00.5Z\"",
                           &m),
                     EVBUS_OK);
    assert_string_equal(m.topic, "a.b");
    assert_int_equal(m.seq, 7);
    assert_int_equal(m.len, 2);
    assert_memory_equal(m.data, "hi", 3);
    assert_int_equal(m.headers_len, 6);
    assert_string_equal(m.headers, "A: b\r\n");
    assert_int_equal(m.stored_ns, INT64_C(1767225600500000000));
    ev_free(m.memory);
}

/* An empty body has no "data"; without headers there is no "hdrs". */
static void test_nats_message_may_be_empty(void **state)
{
    struct ev_stored m;

    (void)state;
    assert_int_equal(parse("\"subject\":\"a\",\"seq\":1,\"time\":\"2026-01-01T00:00:00Z\"", &m), EVBUS_OK);
    assert_int_equal(m.len, 0);
    assert_string_equal(m.headers, "");
    ev_free(m.memory);
}

/* Every length of the last group of four. */
static void test_nats_message_base64_of_each_length(void **state)
{
    static const char *const text[] = {"YQ==", "YWI=", "YWJj", "YWJj/w=="}, *const bytes[] = {"a", "ab", "abc",
                                                                                              "abc\xff"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct ev_stored m;
        char message[128];
        (void)snprintf(message, sizeof message,
                       "\"subject\":\"a\",\"seq\":1,\"data\":\"%s\",\"time\":\"2026-01-01T00:00:00Z\"", text[i]);
        assert_int_equal(parse(message, &m), EVBUS_OK);
        assert_int_equal(m.len, strlen(bytes[i]));
        assert_memory_equal(m.data, bytes[i], m.len);
        ev_free(m.memory);
    }
}

/* What is no message is refused with a sentence; "no message" is the server's own word. */
static void test_nats_message_refusals(void **state)
{
    static const char *const wrong[] = {
        "",
        "\"subject\":\"a\",\"time\":\"2026-01-01T00:00:00Z\"",
        "\"seq\":1,\"time\":\"2026-01-01T00:00:00Z\"",
        "\"subject\":\"a\",\"seq\":1",
        "\"subject\":\"a\",\"seq\":1,\"time\":\"yesterday\"",
        "\"subject\":\"a\",\"seq\":1,\"data\":\"YQ=\",\"time\":\"2026-01-01T00:00:00Z\"",
        "\"subject\":\"a\",\"seq\":1,\"data\":\"Y===\",\"time\":\"2026-01-01T00:00:00Z\"",
        "\"subject\":\"a\",\"seq\":1,\"data\":\"YQ==YQ==\",\"time\":\"2026-01-01T00:00:00Z\"",
        "\"subject\":\"a\",\"seq\":1,\"hdrs\":\"!!!!\",\"time\":\"2026-01-01T00:00:00Z\"",
    };
    static const char gone[] = "{\"error\":{\"code\":404,\"err_code\":10037,\"description\":\"no message found\"}}";
    const uint64_t live = ev_alloc_live();
    struct ev_stored m;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(parse(wrong[i], &m), EVBUS_UNSUPPORTED);
    assert_int_equal(ev_nats_parse_message(gone, sizeof gone - 1, "stream 'S'", &m), EVBUS_NOT_FOUND);
    assert_int_equal(ev_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nats_message_is_read),
        cmocka_unit_test(test_nats_message_may_be_empty),
        cmocka_unit_test(test_nats_message_base64_of_each_length),
        cmocka_unit_test(test_nats_message_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
