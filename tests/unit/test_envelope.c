/* SPDX-License-Identifier: Apache-2.0 */
/* The envelope on the wire: the bytes that are written, and what is read back. Its rules: test_envelope_check.c. */
#include "core/envelope.h"

#include "core/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED UINT64_C(0x5eede27e)

static const evbus_envelope good = {
    .event_id = "0198e5a0-7c3e-7b61-9c1d-2f4f0a9b8c7d",
    .aggregate_id = "order-42",
    .event_type = "OrderPlaced",
    .event_version = 1,
    .timestamp_ns = INT64_C(1767294245123456789),
    .tenant_id = 7,
    .payload = "{\"amount\":99.5}",
};

/* origin.md 2.3, and what evbus makes of it: the same instant in UTC. */
static const char origin_wire[] =
    "{\"event_id\":\"0198e5a0-7c3e-7b61-9c1d-2f4f0a9b8c7d\",\"aggregate_id\":\"order-42\",\"event_type\":"
    "\"OrderPlaced\",\"event_version\":1,\"timestamp\":\"2026-01-02T03:04:05.123456789+08:00\",\"tenant_id\":7,"
    "\"payload\":{\"amount\":99.5}}";
static const char good_wire[] =
    "{\"event_id\":\"0198e5a0-7c3e-7b61-9c1d-2f4f0a9b8c7d\",\"aggregate_id\":\"order-42\",\"event_type\":"
    "\"OrderPlaced\",\"event_version\":1,\"timestamp\":\"2026-01-01T19:04:05.123456789Z\",\"tenant_id\":7,"
    "\"payload\":{\"amount\":99.5}}";

/* ---- Helpers ----------------------------------------------------------------------------------------------------- */

/* Encodes into a heap block of exactly ev_envelope_size() bytes; the caller frees *ret_wire, which ends with a NUL. */
static evbus_status encode(const evbus_envelope *env, char **ret_wire, size_t *ret_len)
{
    const size_t bound = ev_envelope_size(env);
    char *exact = malloc(bound);
    size_t len = 0;

    assert_non_null(exact);
    *ret_wire = NULL;
    evbus_status st = ev_envelope_encode(env, exact, bound, &len);
    assert_int_not_equal(st, EVBUS_LIMIT);
    if (st == EVBUS_OK) {
        *ret_wire = malloc(len + 1);
        assert_non_null(*ret_wire);
        memcpy(*ret_wire, exact, len);
        (*ret_wire)[len] = '\0';
        *ret_len = len;
    }
    free(exact);
    return st;
}

/* A scanned envelope with the blocks it points into, both of exactly the promised size. */
struct scanned {
    char *data;
    char *text;
    evbus_envelope env;
};

static evbus_status scan(const char *doc, size_t len, struct scanned *ret)
{
    ret->data = malloc(len ? len : 1);
    ret->text = malloc(len + 16);
    assert_non_null(ret->data);
    assert_non_null(ret->text);
    memcpy(ret->data, doc, len);
    memset(&ret->env, 0x5a, sizeof ret->env);
    evbus_status st = ev_envelope_scan(ret->data, len, ret->text, len + 16, &ret->env);
    assert_int_not_equal(st, EVBUS_LIMIT);
    assert_memory_equal(ret->data, doc, len);
    return st;
}

static void drop(struct scanned *s)
{
    free(s->data);
    free(s->text);
}

static struct scanned scan_ok(const char *doc)
{
    struct scanned s;

    if (scan(doc, strlen(doc), &s) != EVBUS_OK)
        fail_msg("%s: %s", doc, evbus_error_detail());
    return s;
}

static void assert_scan_fails(const char *doc, const char *detail)
{
    struct scanned s;
    const evbus_status st = scan(doc, strlen(doc), &s);

    if (st != EVBUS_INVALID)
        fail_msg("%s: accepted", doc);
    if (strcmp(evbus_error_detail(), detail) != 0)
        fail_msg("%s: got \"%s\", not \"%s\"", doc, evbus_error_detail(), detail);
    drop(&s);
}

static bool same_text(const char *a, const char *b)
{
    a = a ? a : "";
    b = b ? b : "";
    return strcmp(a, b) == 0;
}

static bool same(const evbus_envelope *a, const evbus_envelope *b)
{
    const size_t a_len = a->payload_len ? a->payload_len : strlen(a->payload);
    const size_t b_len = b->payload_len ? b->payload_len : strlen(b->payload);

    return same_text(a->event_id, b->event_id) && same_text(a->aggregate_id, b->aggregate_id) &&
           same_text(a->event_type, b->event_type) && a->event_version == b->event_version &&
           a->timestamp_ns == b->timestamp_ns && same_text(a->trace_id, b->trace_id) &&
           same_text(a->correlation_id, b->correlation_id) && a->tenant_id == b->tenant_id && a_len == b_len &&
           memcmp(a->payload, b->payload, a_len) == 0;
}

#define X32 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X256 X32 X32 X32 X32 X32 X32 X32 X32
#define SET " (allowed are A-Z a-z 0-9 : _ - . /)"
#define BAD(value, what) "invalid aggregate_id '" value "': contains invalid character " what SET

/* ---- Encoding ---------------------------------------------------------------------------------------------------- */

static void assert_wire(const evbus_envelope *env, const char *wire)
{
    char *out;
    size_t len;

    if (encode(env, &out, &len) != EVBUS_OK)
        fail_msg("%s", evbus_error_detail());
    assert_string_equal(out, wire);
    assert_int_equal(len, strlen(wire));
    free(out);
}

/* The original's example, byte for byte but for the time zone. */
static void test_envelope_encodes_the_originals_bytes(void **state)
{
    evbus_envelope env = good;

    (void)state;
    assert_wire(&env, good_wire);
    env.trace_id = env.correlation_id = "";
    assert_wire(&env, good_wire);

    env = (evbus_envelope){"e", "a", "t", INT64_MAX, 0, "tr", "co", INT64_MIN, " [1, 2] trailing", 7};
    assert_wire(&env, "{\"event_id\":\"e\",\"aggregate_id\":\"a\",\"event_type\":\"t\",\"event_version\":"
                      "9223372036854775807,\"timestamp\":\"1970-01-01T00:00:00Z\",\"trace_id\":\"tr\","
                      "\"correlation_id\":\"co\",\"tenant_id\":-9223372036854775808,\"payload\": [1, 2]}");
    env = (evbus_envelope){"e", "a", "t", 1, 0, NULL, NULL, 0, "null", 0};
    assert_wire(&env, "{\"event_id\":\"e\",\"aggregate_id\":\"a\",\"event_type\":\"t\",\"event_version\":1,"
                      "\"timestamp\":\"1970-01-01T00:00:00Z\",\"payload\":null}");
}

/* Each character as Go's HTML-safe encoder writes it, wherever it stands in a word of eight. */
static void test_envelope_escapes_as_go_does(void **state)
{
    (void)state;
    for (uint32_t code = 1; code < 0x3000; code++) {
        for (size_t before = 0; before < (code < 128 ? 18u : 1u); before++) {
            char text[40], expected[40], want[256], *out;
            evbus_envelope env = {"e", "a", text, 1, 0, NULL, NULL, 0, "1", 0};
            size_t len, n = before + ev_utf8_put(text + before, code);

            memset(text, 'p', before);
            memcpy(text + n, "qrs", 4);
            snprintf(expected, sizeof expected, "%s", text);
            if (code == '"' || code == '\\')
                snprintf(expected + before, 20, "\\%cqrs", (int)code);
            else if (code == '\n' || code == '\r' || code == '\t')
                snprintf(expected + before, 20, "\\%cqrs", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
            else if (code < 0x20 || code == '<' || code == '>' || code == '&' || code == 0x2028 || code == 0x2029)
                snprintf(expected + before, 20, "\\u%04xqrs", (unsigned)code);

            if (code >= 0xd800 && code <= 0xdfff)
                continue;
            snprintf(want, sizeof want, "\"event_type\":\"%s\",\"event_version\"", expected);
            assert_int_equal(encode(&env, &out, &len), EVBUS_OK);
            if (!strstr(out, want))
                fail_msg("U+%04X: %s not in %s", (unsigned)code, want, out);
            struct scanned s = scan_ok(out);
            assert_string_equal(s.env.event_type, text);
            drop(&s);
            free(out);
        }
    }
}

static const struct {
    const char *payload;
    size_t len;
    const char *detail;
} payloads[] = {
    {"{\"a\":}", 0, "payload is not valid JSON: expected a value at byte 5"},
    {"{\"a\":1}", 6, "payload is not valid JSON: the text ends too early at byte 6"},
    {"{} x", 0, "payload is not valid JSON: more bytes after the value at byte 3"},
    {"hello", 0, "payload is not valid JSON: expected a value at byte 0"},
    {" ", 0, "payload is not valid JSON: the text ends too early at byte 1"},
    {"1\0", 2, "payload is not valid JSON: more bytes after the value at byte 1"},
    {"\"\\u0000\"", 0, "payload is not valid JSON: U+0000 in a string at byte 1"},
    {"[\"\xff\"]", 0, "payload is not valid JSON: invalid UTF-8 in a string at byte 2"},
};

/* Where Go wrote null in silence, publishing is refused. */
static void test_envelope_encode_refuses_a_payload_that_is_no_json(void **state)
{
    char *out;
    size_t len;

    (void)state;
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        evbus_envelope env = good;

        env.payload = payloads[i].payload;
        env.payload_len = payloads[i].len;
        assert_int_equal(encode(&env, &out, &len), EVBUS_INVALID);
        assert_string_equal(evbus_error_detail(), payloads[i].detail);
    }
}

/* Encoding stays safe, and names the field, for what the check would have refused. */
static void test_envelope_encode_refuses_what_was_not_checked(void **state)
{
    evbus_envelope env = good;
    char *out;
    size_t len;

    (void)state;
    env.event_id = NULL;
    assert_int_equal(encode(&env, &out, &len), EVBUS_INVALID);
    assert_string_equal(evbus_error_detail(), "event_id is required");
    env = good;
    env.payload = NULL;
    assert_int_equal(encode(&env, &out, &len), EVBUS_INVALID);
    assert_string_equal(evbus_error_detail(), "payload is required");
    env = good;
    env.correlation_id = "abc\xe2\x80";
    assert_int_equal(encode(&env, &out, &len), EVBUS_INVALID);
    assert_string_equal(evbus_error_detail(), "correlation_id 'abc?\?': invalid UTF-8 at byte 3");
}

/* Every capacity below the length is a limit, and nothing is written behind it. */
static void test_envelope_encode_stays_within_its_buffer(void **state)
{
    evbus_envelope env = good;
    size_t len;

    (void)state;
    env.event_type = "<\xe8\xae\xa2\xe2\x80\xa8>";
    char *wire;
    assert_int_equal(encode(&env, &wire, &len), EVBUS_OK);
    for (size_t cap = 0; cap <= len; cap++) {
        char *out = malloc(cap + 1);
        size_t ret = 42;

        assert_non_null(out);
        out[cap] = 'E';
        assert_int_equal(ev_envelope_encode(&env, out, cap, &ret), cap < len ? EVBUS_LIMIT : EVBUS_OK);
        assert_int_equal(ret, cap < len ? 42 : len);
        assert_int_equal(out[cap], 'E');
        free(out);
    }
    free(wire);
}

/* ---- Scanning ---------------------------------------------------------------------------------------------------- */

/* The original's example is read: offset, tenant, and the payload as a slice of the message. */
static void test_envelope_scan_reads_the_originals_bytes(void **state)
{
    struct scanned s = scan_ok(origin_wire);

    (void)state;
    assert_true(same(&s.env, &good));
    assert_null(s.env.trace_id);
    assert_null(s.env.correlation_id);
    assert_int_equal(s.env.payload_len, 15);
    assert_ptr_equal(s.env.payload, s.data + sizeof origin_wire - 1 - 16);
    drop(&s);
}

/* Members that make a whole envelope together with what a test adds. */
#define REST "\"aggregate_id\":\"a\",\"event_type\":\"t\",\"event_version\":1,\"payload\":1"
#define ALL "\"event_id\":\"e\"," REST

static const struct {
    const char *doc;
    evbus_envelope env;
} readable[] = {
    {"{" ALL "}", {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {" \r\n\t{ \"event_id\" : \"e\" , " REST " } \n", {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    /* any order, unknown keys, duplicates: the last wins, null leaves the value */
    {"{\"payload\":{},\"event_version\":3,\"x\":[{\"event_id\":\"no\"}],\"event_type\":\"t\",\"aggregate_id\":\"a\","
     "\"event_id\":\"e\"}",
     {"e", "a", "t", 3, 0, NULL, NULL, 0, "{}", 0}},
    {"{" ALL ",\"event_id\":\"f\",\"payload\":2,\"payload\": [3] ,\"event_version\":9}",
     {"f", "a", "t", 9, 0, NULL, NULL, 0, "[3]", 0}},
    {"{" ALL ",\"event_id\":null,\"event_version\":null,\"timestamp\":null,\"tenant_id\":null,\"trace_id\":null}",
     {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"payload\":null}", {"e", "a", "t", 1, 0, NULL, NULL, 0, "null", 0}},
    {"{" ALL ",\"trace_id\":\"x\",\"trace_id\":\"\",\"correlation_id\":\"\"}",
     {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    /* case: as Go folds it */
    {"{\"EVENT_ID\":\"e\",\"Aggregate_Id\":\"a\",\"event_typE\":\"t\",\"eVENT_vERSION\":1,\"PAYLOAD\":1}",
     {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"EVENT_ID\":\"f\"}", {"f", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"Event_Id\":\"f\",\"event_id\":\"g\"}", {"g", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"event_ver\xc5\xbfion\":5,\"time\xc5\xbftamp\":\"1970-01-01T00:00:01Z\"}",
     {"e", "a", "t", 5, 1000000000, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"event_ver\\u017fion\":5,\"event\\u005fid\":\"f\",\"\\u0054ENANT_ID\":8}",
     {"f", "a", "t", 5, 0, NULL, NULL, 8, "1", 0}},
    {"{" ALL ",\"event_id \":\"f\",\"event-id\":\"f\",\"eventid\":\"f\",\"event_id\\n\":\"f\",\"\":0,\"event_ids\":0,"
     "\"tenant_\xe2\x84\xaa\":1,\"\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061\\u0061"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":1}",
     {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    /* strings */
    {"{" ALL ",\"trace_id\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\ud83d\\ude00\xe8\xae\xa2\"}",
     {"e", "a", "t", 1, 0, "\"\\/\b\f\n\r\t\xc3\xa4\xf0\x9f\x98\x80\xe8\xae\xa2", NULL, 0, "1", 0}},
    /* numbers */
    {"{" ALL ",\"event_version\":9223372036854775807,\"tenant_id\":-9223372036854775808}",
     {"e", "a", "t", INT64_MAX, 0, NULL, NULL, INT64_MIN, "1", 0}},
    {"{" ALL ",\"tenant_id\":-0}", {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    /* times */
    {"{" ALL ",\"timestamp\":\"0001-01-01T00:00:00Z\"}", {"e", "a", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"timestamp\":\"1970-01-01T00:00:00.25-00:01\"}",
     {"e", "a", "t", 1, INT64_C(60250000000), NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"timestamp\":\"1970-01-01T08:00:01\\u002b08:00\"}",
     {"e", "a", "t", 1, 1000000000, NULL, NULL, 0, "1", 0}},
    /* outer space in the aggregate id passes, and stays */
    {"{" ALL ",\"aggregate_id\":\" \\t a\xe3\x80\x80\\u2029 \"}",
     {"e", " \t a\xe3\x80\x80\xe2\x80\xa9 ", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"aggregate_id\":\"a \\u3000\"}", {"e", "a \xe3\x80\x80", "t", 1, 0, NULL, NULL, 0, "1", 0}},
    {"{" ALL ",\"aggregate_id\":\" " X256 " \"}", {"e", " " X256 " ", "t", 1, 0, NULL, NULL, 0, "1", 0}},
};

/* Order, case, duplicates, nulls, escapes and numbers are taken as Go takes them. */
static void test_envelope_scan_reads_as_go_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof readable / sizeof readable[0]; i++) {
        struct scanned s = scan_ok(readable[i].doc);

        if (!same(&s.env, &readable[i].env))
            fail_msg("%s: read otherwise", readable[i].doc);
        assert_true(s.env.trace_id == NULL || s.env.trace_id[0] != '\0');
        assert_true(s.env.correlation_id == NULL || s.env.correlation_id[0] != '\0');
        drop(&s);
    }
}

static const struct {
    const char *doc;
    const char *detail;
} refused[] = {
    {"", "no envelope: the body is empty"},
    {"  ", "no envelope: expected an object at byte 2"},
    {"[]", "no envelope: expected an object at byte 0"},
    {"null", "no envelope: expected an object at byte 0"},
    {"hello", "no envelope: expected an object at byte 0"},
    {"\xef\xbb\xbf{}", "no envelope: expected an object at byte 0"},
    {"{", "no envelope: expected a key in quotes at byte 1"},
    {"{]", "no envelope: expected a key in quotes at byte 1"},
    {"{" ALL "} x", "no envelope: more bytes after the object at byte 83"},
    {"{" ALL "}{" ALL "}", "no envelope: more bytes after the object at byte 82"},
    {"{" ALL ",}", "no envelope: expected a key in quotes at byte 82"},
    {"{" ALL " 1}", "no envelope: expected ',' or '}' at byte 82"},
    {"{\"event_id\" \"e\"," REST "}", "no envelope: expected ':' after a key at byte 12"},
    {"{\"unknown\":[1,]," REST "}", "no envelope: expected a value at byte 14"},
    {"{\"\\x\":1," REST "}", "no envelope: unknown escape in a string at byte 2"},
    {"{\"\\u0000\":1," REST "}", "no envelope: U+0000 in a string at byte 2"},
    {"{\"event_id\":\"\\u0000\"," REST "}", "no envelope: U+0000 in a string at byte 13"},
    {"{\"event_id\":\"\xff\"," REST "}", "no envelope: invalid UTF-8 in a string at byte 13"},
    {"{\"event_id\":\"\\ud800\"," REST "}", "no envelope: unpaired surrogate in a string at byte 13"},
    {"{\"payload\":[\"\xc0\xaf\"]," ALL "}", "no envelope: invalid UTF-8 in a string at byte 13"},
    {"{}", "invalid envelope: event_id is required"},
    {"{" REST "}", "invalid envelope: event_id is required"},
    {"{\"event_id\":null," REST "}", "invalid envelope: event_id is required"},
    {"{\"event_id\":\" \\n\"," REST "}", "invalid envelope: event_id is required"},
    {"{" ALL ",\"aggregate_id\":\"\\u3000\"}", "invalid envelope: aggregate_id is required"},
    {"{" ALL ",\"event_type\":\"\"}", "invalid envelope: event_type is required"},
    {"{" ALL ",\"event_version\":0}", "invalid envelope: event_version must be positive, it is 0"},
    {"{" ALL ",\"event_version\":-3}", "invalid envelope: event_version must be positive, it is -3"},
    {"{\"event_id\":\"e\",\"aggregate_id\":\"a\",\"event_type\":\"t\",\"event_version\":1}",
     "invalid envelope: payload is required"},
    {"{" ALL ",\"aggregate_id\":\" a b \"}", "invalid envelope: " BAD("a b", "' ' at byte 2")},
    {"{" ALL ",\"aggregate_id\":\"" X256 "x\"}",
     "invalid envelope: invalid aggregate_id '" X32 "xxxxxxxxxxxxxxxx...': too long (257 bytes, at most 256)"},
    {"{\"event_id\":1," REST "}", "invalid envelope: event_id must be a string at byte 12"},
    {"{\"event_id\":{}," REST "}", "invalid envelope: event_id must be a string at byte 12"},
    {"{\"event_id\":true," REST "}", "invalid envelope: event_id must be a string at byte 12"},
    {"{\"event_version\":\"1\"," ALL "}", "invalid envelope: event_version must be a number at byte 17"},
    {"{\"event_version\":[1]," ALL "}", "invalid envelope: event_version must be a number at byte 17"},
    {"{\"event_version\":1.0," ALL "}", "invalid envelope: event_version must be an integer of 64 bits at byte 17"},
    {"{\"tenant_id\":1e2," ALL "}", "invalid envelope: tenant_id must be an integer of 64 bits at byte 13"},
    {"{\"tenant_id\":9223372036854775808," ALL "}",
     "invalid envelope: tenant_id must be an integer of 64 bits at byte 13"},
    {"{\"tenant_id\":-9223372036854775809," ALL "}",
     "invalid envelope: tenant_id must be an integer of 64 bits at byte 13"},
    {"{\"tenant_id\":18446744073709551616," ALL "}",
     "invalid envelope: tenant_id must be an integer of 64 bits at byte 13"},
    {"{\"tenant_id\":01," ALL "}", "no envelope: number with a leading zero at byte 14"},
    {"{\"timestamp\":1767294245," ALL "}", "invalid envelope: timestamp must be a string at byte 13"},
    {"{\"timestamp\":\"\"," ALL "}", "invalid envelope: timestamp '' is not RFC 3339, as in "
                                     "2006-01-02T15:04:05.999999999Z at byte 13"},
    {"{\"timestamp\":\"2026-02-29T00:00:00Z\"," ALL "}",
     "invalid envelope: timestamp '2026-02-29T00:00:00Z' day is not in that month at byte 13"},
    {"{\"timestamp\":\"2262-04-11T23:47:16.854775808Z\"," ALL "}",
     "invalid envelope: timestamp '2262-04-11T23:47:16.854775808Z' is outside the years 1678..2262 at byte 13"},
    {"{\"timestamp\":\"1600-01-01T00:00:00\\u005a\"," ALL "}",
     "invalid envelope: timestamp '1600-01-01T00:00:00Z' is outside the years 1678..2262 at byte 13"},
};

/* What is no envelope is refused with field, reason and byte. */
static void test_envelope_scan_refuses_with_reason_and_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_scan_fails(refused[i].doc, refused[i].detail);
}

/* The envelope is one level of the 128: a payload of 127 passes both ways, one of 128 neither. */
static void test_envelope_limits_depth_on_both_sides(void **state)
{
    char payload[2 * 130 + 1], doc[700], *out;
    size_t len;

    (void)state;
    for (size_t depth = 120; depth <= 129; depth++) {
        evbus_envelope env = good;
        struct scanned s;
        const evbus_status expected = depth <= 127 ? EVBUS_OK : EVBUS_INVALID;

        memset(payload, '[', depth);
        memset(payload + depth, ']', depth);
        payload[2 * depth] = '\0';
        env.payload = payload;
        assert_int_equal(encode(&env, &out, &len), expected);
        if (expected != EVBUS_OK)
            assert_string_equal(evbus_error_detail(), "payload is not valid JSON: nested too deeply at byte 127");
        free(out);
        snprintf(doc, sizeof doc, "{" ALL ",\"x\":%s,\"payload\":%s}", payload, payload);
        assert_int_equal(scan(doc, strlen(doc), &s), expected);
        drop(&s);
    }
}

/* A valid message cut at any byte is refused, and nothing behind the cut is read. */
static void test_envelope_scan_refuses_every_prefix(void **state)
{
    static const char doc[] =
        " { \"event_id\" : \"0198e5a0-\\u00e4\\ud83d\\ude00\", \"aggregate_id\":\"order-42\", "
        "\"event_type\":\"\xe8\xae\xa2"
        "Placed\", \"event_version\":12, \"timestamp\":\"2026-01-02T03:04:05.123456789+08:00\", \"trace_id\":\"t\\n\","
        "\"CORRELATION_ID\":null, \"tenant_id\":-7, "
        "\"x\\u0041\":[true,false,null,{\"a\":-1.5e+3},\"\xf0\x9f\x98\x80\"],"
        "\"payload\":{\"amount\":99.5, \"list\":[1,[2],{}] } }";
    struct scanned s = scan_ok(doc);

    (void)state;
    drop(&s);
    for (size_t len = 0; len < sizeof doc - 1; len++) {
        assert_int_equal(scan(doc, len, &s), EVBUS_INVALID);
        drop(&s);
    }
}

/* A string buffer that is too small is a limit, told before anything is written behind it. */
static void test_envelope_scan_stays_within_its_buffer(void **state)
{
    static const char doc[] = "{" ALL ",\"trace_id\":\"a\\u00e4\\ud83d\\ude00\",\"correlation_id\":\"\xe8\xae\xa2\"}";
    const size_t needed = 2 + 2 + 2 + 8 + 4;

    (void)state;
    for (size_t cap = 0; cap < needed + 3; cap++) {
        char *text = malloc(cap + 1);
        evbus_envelope env;

        assert_non_null(text);
        text[cap] = 'E';
        assert_int_equal(ev_envelope_scan(doc, sizeof doc - 1, text, cap, &env), cap < needed ? EVBUS_LIMIT : EVBUS_OK);
        assert_int_equal(text[cap], 'E');
        free(text);
    }
    assert_int_equal(ev_envelope_scan(doc, sizeof doc - 1, NULL, 0, &(evbus_envelope){0}), EVBUS_LIMIT);
    assert_int_equal(ev_envelope_scan(NULL, 0, NULL, 0, &(evbus_envelope){0}), EVBUS_INVALID);
}

/* The result is written only on success. */
static void test_envelope_scan_leaves_the_result_alone_on_failure(void **state)
{
    evbus_envelope env = good;
    char text[64];

    (void)state;
    assert_int_equal(ev_envelope_scan("{\"event_id\":\"x\"}", 16, text, sizeof text, &env), EVBUS_INVALID);
    assert_true(same(&env, &good));
}

/* A payload of 1 MB, one string, goes through unchanged. */
static void test_envelope_carries_a_megabyte(void **state)
{
    const size_t size = 1 << 20;
    char *payload = malloc(size), *wire;
    evbus_envelope env = good;
    struct scanned s;
    size_t len;

    (void)state;
    assert_non_null(payload);
    for (size_t i = 0; i < size; i++)
        payload[i] = (char)('a' + i % 26);
    payload[0] = payload[size - 1] = '"';
    env.payload = payload;
    env.payload_len = size;
    assert_true(ev_envelope_size(&env) < size + 1024);
    assert_int_equal(encode(&env, &wire, &len), EVBUS_OK);
    assert_int_equal(scan(wire, len, &s), EVBUS_OK);
    assert_true(same(&s.env, &env));
    drop(&s);
    free(wire);
    free(payload);
}

/* ---- Random round trips ------------------------------------------------------------------------------------------ */

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = (*state += UINT64_C(0x9e3779b97f4a7c15));

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Characters of every kind, with a visible one first so that the text is not blank. */
static const char *random_text(uint64_t *random, char *out)
{
    const size_t count = next_random(random) % 24;
    size_t n = 0;

    out[n++] = 'x';
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = next_random(random);
        static const uint32_t limits[] = {0x7f, 0x7f, 0x20, 0x7ff, 0xffff, 0x10ffff};
        uint32_t code = 1 + (uint32_t)(r >> 8) % limits[r % 6];

        if (code >= 0xd800 && code <= 0xdfff)
            code = 0x2028 + (code & 1);
        n += ev_utf8_put(out + n, code);
    }
    out[n] = '\0';
    return out;
}

static const char *random_id(uint64_t *random, char *out)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_-./";
    const size_t len = 1 + next_random(random) % 40;

    for (size_t i = 0; i < len; i++)
        out[i] = set[next_random(random) % (sizeof set - 1)];
    out[len] = '\0';
    return out;
}

/* Whatever passes the check comes back field by field, and encodes to the same bytes again. */
static void test_envelope_round_trips_random_envelopes(void **state)
{
    static const char *const values[] = {
        "null", "0", "-1.5e-7", "\"\\u2028 \xe2\x80\xa8\"", "[]", "{\"<&>\":[{}, 1 ]}"};
    uint64_t random = SEED;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char id[128], aggregate[64], type[128], trace[128], correlation[128];
        char *wire = NULL, *again = NULL;
        const uint64_t r = next_random(&random);
        evbus_envelope env = {
            .event_id = random_text(&random, id),
            .aggregate_id = random_id(&random, aggregate),
            .event_type = random_text(&random, type),
            .event_version = (int64_t)(next_random(&random) >> (1 + r % 63)) + 1,
            .timestamp_ns = (int64_t)next_random(&random),
            .trace_id = r & 1 ? random_text(&random, trace) : NULL,
            .correlation_id = r & 2 ? random_text(&random, correlation) : NULL,
            .tenant_id = r & 4 ? (int64_t)next_random(&random) : 0,
            .payload = values[r / 8 % 6],
        };
        size_t len, again_len;
        struct scanned s;

        if (env.event_version <= 0)
            env.event_version = 1;
        if (ev_envelope_check(&env) != EVBUS_OK || encode(&env, &wire, &len) != EVBUS_OK ||
            scan(wire, len, &s) != EVBUS_OK || !same(&s.env, &env) || encode(&s.env, &again, &again_len) != EVBUS_OK)
            fail_msg("seed %#llx, envelope %d: %s", (unsigned long long)SEED, i, evbus_error_detail());
        assert_string_equal(again, wire);
        free(again);
        free(wire);
        drop(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_envelope_encodes_the_originals_bytes),
        cmocka_unit_test(test_envelope_escapes_as_go_does),
        cmocka_unit_test(test_envelope_encode_refuses_a_payload_that_is_no_json),
        cmocka_unit_test(test_envelope_encode_refuses_what_was_not_checked),
        cmocka_unit_test(test_envelope_encode_stays_within_its_buffer),
        cmocka_unit_test(test_envelope_scan_reads_the_originals_bytes),
        cmocka_unit_test(test_envelope_scan_reads_as_go_does),
        cmocka_unit_test(test_envelope_scan_refuses_with_reason_and_byte),
        cmocka_unit_test(test_envelope_limits_depth_on_both_sides),
        cmocka_unit_test(test_envelope_scan_refuses_every_prefix),
        cmocka_unit_test(test_envelope_scan_stays_within_its_buffer),
        cmocka_unit_test(test_envelope_scan_leaves_the_result_alone_on_failure),
        cmocka_unit_test(test_envelope_carries_a_megabyte),
        cmocka_unit_test(test_envelope_round_trips_random_envelopes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
