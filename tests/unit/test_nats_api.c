/* SPDX-License-Identifier: Apache-2.0 */
/* JetStream's texts: what a real server wrote, cut anywhere, and what an unfriendly one might write. */
#include "backend/nats_api.h"

#include "base/alloc.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A copy without a byte behind it: the address sanitizer sees every step too far. */
static bool puback(const char *json, size_t len, struct ev_ack *ret)
{
    char *exact = malloc(len ? len : 1);

    memcpy(exact, json, len);
    const bool ok = ev_nats_parse_puback(exact, len, ret);
    if (ok) { /* slices point into the text: put them onto what stays */
        ret->stream = ret->stream_len ? json + (ret->stream - exact) : "";
        ret->text = ret->text_len ? json + (ret->text - exact) : "";
    }
    free(exact);
    return ok;
}

#define parse(text, ret) puback(text, strlen(text), ret)

/* ---- PubAck ------------------------------------------------------------------------------------------------------ */

/* What nats-server 2.9.10 answers to a stored message, with and without duplicate and domain. */
static void test_puback_reads_stored(void **state)
{
    struct ev_ack ack;

    (void)state;
    assert_true(parse("{\"stream\":\"S1\", \"seq\":5}", &ack));
    assert_int_equal(ack.outcome, EVBUS_OUTCOME_STORED);
    assert_int_equal(ack.sequence, 5);
    assert_false(ack.duplicate);
    assert_int_equal(ack.stream_len, 2);
    assert_memory_equal(ack.stream, "S1", 2);
    assert_true(parse("{\"stream\":\"S1\", \"domain\":\"hub\", \"seq\":2,\"duplicate\": true}", &ack));
    assert_true(ack.duplicate);
    assert_int_equal(ack.sequence, 2);
    assert_true(parse(
        "{\"seq\":18446744073709551615,\"x\":{\"a\":[1,{\"b\":null}],\"stream\":\"no\"},\"stream\":\"T\"}", &ack));
    assert_true(ack.sequence == UINT64_MAX);
    assert_memory_equal(ack.stream, "T", 1);
}

struct refusal {
    const char *json;
    evbus_status status;
    uint32_t code;
    bool missing, later;
};

/* What it answers to a refused one; each error becomes the status that tells what to do. */
static void test_puback_reads_refusals(void **state)
{
    static const struct refusal list[] = {
        {"{\"error\":{\"code\":400,\"err_code\":10071,\"description\":\"wrong last sequence: "
         "2\"},\"stream\":\"S1\",\"seq\":0}",
         EVBUS_REFUSED, 10071, false, false},
        {"{\"error\":{\"code\":400,\"err_code\":10060,\"description\":\"expected stream does not "
         "match\"},\"stream\":\"S1\"}",
         EVBUS_REFUSED, 10060, true, false},
        {"{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum messages "
         "exceeded\"},\"stream\":\"L\",\"seq\":0}",
         EVBUS_LIMIT, 10077, false, false},
        {"{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum bytes exceeded\"}}", EVBUS_LIMIT, 10077,
         false, false},
        {"{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"write failed: no space left\"}}", EVBUS_REFUSED,
         10077, false, false},
        {"{\"error\":{\"code\":503,\"err_code\":10023,\"description\":\"insufficient resources\"}}", EVBUS_LIMIT, 10023,
         false, false},
        {"{\"error\":{\"code\":400,\"err_code\":10002,\"description\":\"resource limits exceeded for account\"}}",
         EVBUS_LIMIT, 10002, false, false},
        {"{\"error\":{\"code\":400,\"err_code\":10054,\"description\":\"message size exceeds maximum allowed\"}}",
         EVBUS_TOO_LARGE, 10054, false, false},
        {"{\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"stream not found\"}}", EVBUS_NOT_FOUND, 10059,
         true, false},
        {"{\"error\":{\"code\":500,\"err_code\":10118,\"description\":\"stream is offline\"}}", EVBUS_REFUSED, 10118,
         true, false},
        {"{\"error\":{\"code\":503,\"err_code\":10039,\"description\":\"JetStream not enabled for account\"}}",
         EVBUS_NO_JETSTREAM, 10039, false, false},
        {"{\"error\":{\"code\":503,\"err_code\":10076,\"description\":\"JetStream not enabled\"}}", EVBUS_NO_JETSTREAM,
         10076, false, false},
        {"{\"error\":{\"code\":503,\"err_code\":10008,\"description\":\"JetStream system temporarily unavailable\"}}",
         EVBUS_REFUSED, 10008, false, true},
        {"{\"error\":{\"code\":500,\"description\":\"old servers have no err_code\"}}", EVBUS_REFUSED, 500, false,
         false},
        {"{\"error\":{}}", EVBUS_REFUSED, 0, false, false},
    };
    struct ev_ack ack;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        assert_true(parse(list[i].json, &ack));
        assert_int_equal(ack.outcome, EVBUS_OUTCOME_REFUSED);
        assert_int_equal(ack.status, list[i].status);
        assert_int_equal(ack.broker_code, list[i].code);
        assert_int_equal(ack.stream_missing, list[i].missing);
        assert_int_equal(ack.no_responders, list[i].later);
        assert_non_null(ack.text);
        assert_non_null(ack.stream);
    }
    for (size_t i = 0; i < sizeof list / sizeof *list;
         i++) { /* a full account is found before a message id is looked for */
        assert_true(parse(list[i].json, &ack));
        const bool expected = list[i].code == 10002 || list[i].code == 10023 || list[i].code == 10039 ||
                              list[i].code == 10060 || list[i].code == 10076 || list[i].code == 10118;
        assert_int_equal(ack.id_unread, expected);
    }
    assert_true(parse(list[0].json, &ack));
    assert_int_equal(ack.text_len, strlen("wrong last sequence: 2"));
    assert_memory_equal(ack.text, "wrong last sequence: 2", ack.text_len);
}

/* Taken in, and not stored yet: neither stored nor refused. nats-server 2.10 says it by sequence 0, 2.11 by an error. */
static void test_puback_reads_what_is_under_way(void **state)
{
    struct ev_ack ack;

    (void)state;
    assert_true(parse("{\"stream\":\"S1\", \"seq\":0,\"duplicate\": true}", &ack));
    assert_int_equal(ack.outcome, EVBUS_OUTCOME_UNKNOWN);
    assert_true(ack.sequence == 0 && !ack.duplicate);
    assert_true(parse("{\"error\":{\"code\":409,\"err_code\":10158,\"description\":\"duplicate message id is in "
                      "process\"},\"stream\":\"S1\",\"seq\":0}",
                      &ack));
    assert_int_equal(ack.outcome, EVBUS_OUTCOME_UNKNOWN);
    assert_int_equal(ack.broker_code, 10158);
    assert_true(ack.sequence == 0 && !ack.no_responders && !ack.stream_missing);
}

/* No prefix of an answer is an answer. */
static void test_puback_refuses_every_truncation(void **state)
{
    static const char *const list[] = {
        "{\"stream\":\"S1\", \"seq\":5}",
        "{\"error\":{\"code\":503,\"err_code\":10076,\"description\":\"a \\u003e \\\" b\"},\"x\":[1.5e+3,true,null]}",
    };
    struct ev_ack ack, zero;

    (void)state;
    memset(&zero, 0, sizeof zero);
    for (size_t i = 0; i < 2; i++)
        for (size_t len = 0; len < strlen(list[i]); len++) {
            assert_false(puback(list[i], len, &ack));
            assert_memory_equal(&ack, &zero, sizeof ack);
        }
}

/* Not JSON, not an answer, or with the wrong types. */
static void test_puback_refuses_what_is_none(void **state)
{
    static const char *const list[] = {
        "",
        " ",
        "null",
        "5",
        "[]",
        "\"x\"",
        "{}",
        "{}{}",
        "{\"stream\":\"S\",\"seq\":5}x",
        "{\"stream\":\"S\",\"seq\":5,}",
        "{\"stream\":\"S\"}",
        "{\"seq\":5}",
        "{\"stream\":\"\",\"seq\":5}",
        "{\"stream\":\"S\",\"seq\":0}",
        "{\"stream\":\"S\",\"seq\":0,\"duplicate\":false}",
        "{\"stream\":\"\",\"seq\":0,\"duplicate\":true}",
        "{\"stream\":5,\"seq\":5}",
        "{\"stream\":\"S\",\"seq\":\"5\"}",
        "{\"stream\":\"S\",\"seq\":-5}",
        "{\"stream\":\"S\",\"seq\":5.0}",
        "{\"stream\":\"S\",\"seq\":1e3}",
        "{\"stream\":\"S\",\"seq\":05}",
        "{\"stream\":\"S\",\"seq\":18446744073709551616}",
        "{\"stream\":\"S\",\"seq\":5,\"duplicate\":1}",
        "{\"stream\":\"S\n\",\"seq\":5}",
        "{\"stream\":\"\\x\",\"seq\":5}",
        "{\"stream\":\"\\u12g4\",\"seq\":5}",
        "{'stream':\"S\",\"seq\":5}",
        "{\"stream\" \"S\",\"seq\":5}",
        "{stream:\"S\",\"seq\":5}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":tru}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":+1}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":1.}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":[1,]}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":[}",
        "{\"stream\":\"S\",\"seq\":5,\"x\":}",
        "{\"error\":{\"code\":99999999999}}",
        "{\"error\":{\"err_code\":\"x\"}}",
        "{\"error\":{\"description\":5}}",
        "{\"error\":5}",
        "{\"error\":null}",
    };
    struct ev_ack ack;

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (parse(list[i], &ack))
            fail_msg("taken for an answer: %s", list[i]);
    assert_false(puback("{\"stream\":\"S\",\"seq\":5}\0", 23, &ack));
}

/* Nesting is followed 32 deep and not further: the stack is ours. */
static void test_puback_bounds_nesting(void **state)
{
    char json[4096];
    struct ev_ack ack;

    (void)state;
    for (int depth = 1; depth < 1000; depth += 1) {
        size_t n = (size_t)sprintf(json, "{\"x\":");
        memset(json + n, '[', (size_t)depth);
        n += (size_t)depth;
        memset(json + n, ']', (size_t)depth);
        n += (size_t)depth;
        n += (size_t)sprintf(json + n, ",\"stream\":\"S\",\"seq\":1}");
        assert_int_equal(puback(json, n, &ack), depth <= 31);
    }
}

/* ---- Ack subjects ------------------------------------------------------------------------------------------------ */

static bool ackref(const char *subject, struct ev_nats_ackref *ret)
{
    memset(ret, 0, sizeof *ret);
    return ev_nats_parse_ackref(subject, ret);
}

/* The old form with 9 tokens and the new ones with domain, account and whatever follows. */
static void test_ackref_reads_both_forms(void **state)
{
    struct ev_nats_ackref r;

    (void)state;
    assert_true(ackref("$JS.ACK.S1.g-a_b-00ff00ff00ff00ff.2.446.58.1795383016151192929.7", &r));
    assert_int_equal(r.stream_len, 2);
    assert_memory_equal(r.stream, "S1", 2);
    assert_int_equal(r.consumer_len, 22);
    assert_memory_equal(r.consumer, "g-a_b-", 6);
    assert_true(r.id == UINT64_C(0x00ff00ff00ff00ff));
    assert_int_equal(r.delivered, 2);
    assert_int_equal(r.stream_seq, 446);
    assert_int_equal(r.consumer_seq, 58);
    assert_true(r.stored_ns == INT64_C(1795383016151192929));
    assert_int_equal(r.pending, 7);
    static const char *const forms[] = {
        "$JS.ACK._.ACCHASH.ORDERS.c-0123456789abcdef.1.10.20.30.40",
        "$JS.ACK.hub.ACCHASH.ORDERS.c-0123456789abcdef.1.10.20.30.40.token",
        "$JS.ACK.hub.ACCHASH.ORDERS.c-0123456789abcdef.1.10.20.30.40.token.more.of.it",
    };
    for (size_t i = 0; i < 3; i++) {
        assert_true(ackref(forms[i], &r));
        assert_int_equal(r.stream_len, 6);
        assert_memory_equal(r.stream, "ORDERS", 6);
        assert_true(r.id == UINT64_C(0x0123456789abcdef));
        assert_int_equal(r.consumer_seq, 20);
        assert_int_equal(r.pending, 40);
    }
}

/* A consumer of somebody else has no id; it is no error. */
static void test_ackref_without_an_id(void **state)
{
    struct ev_nats_ackref r;

    (void)state;
    assert_true(ackref("$JS.ACK.S.short.1.1.1.1.0", &r));
    assert_int_equal(r.id, 0);
    assert_true(ackref("$JS.ACK.S.c-0123456789ABCDEF.1.1.1.1.0", &r));
    assert_int_equal(r.id, 0);
}

static void test_ackref_refuses_what_is_none(void **state)
{
    static const char good[] = "$JS.ACK.S.c-0123456789abcdef.1.10.20.30.40";
    static const char *const list[] = {
        "",
        ".",
        "$JS.ACK.",
        "$JS.ACK",
        "$JS.ACK.a",
        "$JS.FC.S.c.1.2.3",
        "js.ack.S.c.1.1.1.1.0",
        "$JS.ACK.S.c.1.1.1.1",
        "$JS.ACK.S.c.1.1.1.1.0.x",
        "$JS.ACK.S.c.1.1.1.1.",
        "$JS.ACK.S..1.1.1.1.0",
        "$JS.ACK..c.1.1.1.1.0",
        "$JS.ACK.S.c.0.1.1.1.0",
        "$JS.ACK.S.c.-1.1.1.1.0",
        "$JS.ACK.S.c.x.1.1.1.0",
        "$JS.ACK.S.c.1.0.1.1.0",
        "$JS.ACK.S.c.4294967296.1.1.1.0",
        "$JS.ACK.S.c.1.18446744073709551616.1.1.0",
        "$JS.ACK.S.c.1.1.1.9223372036854775808.0",
        "$JS.ACK.S.c.1.1.1.1.0 ",
        "$JS.ACK.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r",
    };
    struct ev_nats_ackref r;
    char cut[sizeof good];

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (ackref(list[i], &r))
            fail_msg("taken for an ack subject: %s", list[i]);
    for (size_t len = 0; len < sizeof good - 3; len++) { /* the last token may lose a digit and still be a number */
        memcpy(cut, good, len);
        cut[len] = 0;
        assert_false(ackref(cut, &r));
    }
}

/* ---- Statuses, pulls, verbs -------------------------------------------------------------------------------------- */

static void test_status_texts_of_the_server(void **state)
{
    (void)state;
    assert_int_equal(ev_nats_status_of(100, "Idle Heartbeat"), EV_NATS_ST_HEARTBEAT);
    assert_int_equal(ev_nats_status_of(400, "Bad Request - heartbeat value too large"), EV_NATS_ST_BAD_REQUEST);
    assert_int_equal(ev_nats_status_of(404, "No Messages"), EV_NATS_ST_ENDED);
    assert_int_equal(ev_nats_status_of(408, "Request Timeout"), EV_NATS_ST_ENDED);
    assert_int_equal(ev_nats_status_of(409, "Consumer Deleted"), EV_NATS_ST_GONE);
    assert_int_equal(ev_nats_status_of(409, "Consumer is push based"), EV_NATS_ST_CHANGED);
    assert_int_equal(ev_nats_status_of(409, "Message Size Exceeds MaxBytes"), EV_NATS_ST_SIZE);
    assert_int_equal(ev_nats_status_of(409, "Exceeded MaxRequestBatch of 3"), EV_NATS_ST_BATCH_MAX);
    assert_int_equal(ev_nats_status_of(409, "Exceeded MaxRequestExpires of 1s"), EV_NATS_ST_EXPIRES_MAX);
    assert_int_equal(ev_nats_status_of(409, "Exceeded MaxRequestMaxBytes of 10"), EV_NATS_ST_BYTES_MAX);
    assert_int_equal(ev_nats_status_of(409, "Exceeded MaxWaiting"), EV_NATS_ST_BUSY);
    assert_int_equal(ev_nats_status_of(409, "Leadership Change"), EV_NATS_ST_LEADER);
    assert_int_equal(ev_nats_status_of(409, "Server Shutdown"), EV_NATS_ST_ENDED);
    assert_int_equal(ev_nats_status_of(409, NULL), EV_NATS_ST_BUSY);
    assert_int_equal(ev_nats_status_of(503, NULL), EV_NATS_ST_BUSY);
    assert_int_equal(ev_nats_status_of(777, "news"), EV_NATS_ST_BUSY);
}

static void test_pull_request_and_verbs(void **state)
{
    char out[EV_NATS_PULL_MAX], verb[EV_NATS_VERB_MAX];

    (void)state;
    assert_int_equal(ev_nats_pull_request(out, 7, 0, 0, 0), strlen("{\"batch\":7}"));
    assert_string_equal(out, "{\"batch\":7}");
    const size_t len = ev_nats_pull_request(out, UINT32_MAX, UINT64_MAX, INT64_MAX, INT64_MAX);
    assert_int_equal(len, strlen(out));
    assert_string_equal(out, "{\"batch\":4294967295,\"max_bytes\":18446744073709551615,\"expires\":9223372036854775807,"
                             "\"idle_heartbeat\":9223372036854775807}");
    assert_int_equal(ev_nats_verb(verb, EV_SETTLE_ACK, 5), 4);
    assert_string_equal(verb, "+ACK");
    assert_int_equal(ev_nats_verb(verb, EV_SETTLE_NAK, 0), 4);
    assert_string_equal(verb, "-NAK");
    assert_int_equal(ev_nats_verb(verb, EV_SETTLE_NAK, INT64_MAX), 34);
    assert_string_equal(verb, "-NAK {\"delay\":9223372036854775807}");
    assert_int_equal(ev_nats_verb(verb, EV_SETTLE_TERM, 0), 5);
    assert_string_equal(verb, "+TERM");
    assert_int_equal(ev_nats_verb(verb, EV_SETTLE_EXTEND, 0), 4);
    assert_string_equal(verb, "+WPI");
}

/* ---- Administration ---------------------------------------------------------------------------------------------- */

#define STREAM_INFO                                                                                                    \
    "{\"type\":\"io.nats.jetstream.api.v1.stream_info_response\",\"total\":0,\"offset\":0,\"limit\":0,\"config\":{"    \
    "\"name\":\"S1\",\"subjects\":[\"a.\\u003e\",\"c\"],\"retention\":\"limits\",\"max_consumers\":-1,"                \
    "\"max_msgs\":-1,\"max_bytes\":1000,\"max_age\":5,\"max_msgs_per_subject\":-1,\"max_msg_size\":-1,"                \
    "\"discard\":\"old\",\"storage\":\"file\",\"num_replicas\":1,\"duplicate_window\":2000000000,\"new_field\":"       \
    "{\"of\":\"2.12\"}},\"created\":\"2026-11-22T21:29:04.585783775Z\",\"state\":{\"messages\":336,\"bytes\":"         \
    "20051124,\"first_seq\":1,\"last_seq\":336,\"num_subjects\":1,\"consumer_count\":3}}"
#define NOT_FOUND                                                                                                      \
    "{\"type\":\"x\",\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"stream not found\"},\"total\":0}"

static void test_stream_info_is_read(void **state)
{
    struct ev_stream_info info;

    (void)state;
    assert_int_equal(ev_nats_parse_stream(STREAM_INFO, strlen(STREAM_INFO), "stream", "a.b", &info), EVBUS_OK);
    assert_string_equal(info.name, "S1");
    assert_true(info.covers);
    assert_int_equal(info.max_msgs, 0);
    assert_int_equal(info.max_bytes, 1000);
    assert_int_equal(info.max_age_ns, 5);
    assert_int_equal(info.duplicate_window_ns, 2000000000);
    assert_int_equal(info.storage, EVBUS_STORAGE_FILE);
    assert_int_equal(info.discard, EVBUS_DISCARD_OLD);
    assert_int_equal(info.msgs, 336);
    assert_int_equal(info.last_seq, 336);
    assert_string_equal(info.created, "2026-11-22T21:29:04.585783775Z");
    assert_int_equal(ev_nats_parse_stream(STREAM_INFO, strlen(STREAM_INFO), "stream", ">", &info), EVBUS_OK);
    assert_false(info.covers);
    assert_int_equal(ev_nats_parse_stream(NOT_FOUND, strlen(NOT_FOUND), "stream 'x'", "a", &info), EVBUS_NOT_FOUND);
    assert_string_equal(ev_detail(), "stream 'x': stream not found (broker error 10059)");
    for (size_t len = 0; len < strlen(STREAM_INFO); len++)
        assert_int_equal(ev_nats_parse_stream(STREAM_INFO, len, "stream", "a", &info), EVBUS_UNSUPPORTED);
}

/* Adding a subject keeps every field, also those of servers to come. */
static void test_stream_add_keeps_unknown_fields(void **state)
{
    char *body = NULL;

    (void)state;
    assert_int_equal(ev_nats_stream_add_request(STREAM_INFO, strlen(STREAM_INFO), "new.one", &body), EVBUS_OK);
    json_t *root = json_loads(body, 0, NULL);
    assert_string_equal(json_string_value(json_array_get(json_object_get(root, "subjects"), 2)), "new.one");
    assert_int_equal(json_array_size(json_object_get(root, "subjects")), 3);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "new_field"), "of")), "2.12");
    json_decref(root);
    ev_free(body);
    assert_int_equal(ev_nats_stream_add_request(STREAM_INFO, strlen(STREAM_INFO), "a.b.c", &body), EVBUS_EXISTS);
    assert_int_equal(ev_nats_stream_add_request(NOT_FOUND, strlen(NOT_FOUND), "a", &body), EVBUS_NOT_FOUND);
    assert_int_equal(ev_nats_stream_add_request("{\"config\":5}", 12, "a", &body), EVBUS_UNSUPPORTED);
    assert_int_equal(ev_nats_stream_add_request("[]", 2, "a", &body), EVBUS_UNSUPPORTED);
}

static void test_names_are_read_page_by_page(void **state)
{
    static const char none[] = "{\"total\":0,\"offset\":0,\"limit\":1024,\"streams\":null}";
    static const char two[] = "{\"total\":7,\"offset\":0,\"limit\":1024,\"streams\":[\"A\",\"B\"]}";
    static const char odd[] = "{\"total\":7,\"streams\":[\"A\",5]}";
    struct ev_nats_names names;
    char many[4096] = "{\"total\":40,\"streams\":[\"n\"";

    (void)state;
    assert_int_equal(ev_nats_parse_names(none, strlen(none), "x", &names), EVBUS_OK);
    assert_int_equal(names.count, 0);
    assert_int_equal(ev_nats_parse_names(two, strlen(two), "x", &names), EVBUS_OK);
    assert_int_equal(names.count, 2);
    assert_int_equal(names.total, 7);
    assert_string_equal(names.names[1], "B");
    assert_int_equal(ev_nats_parse_names(odd, strlen(odd), "x", &names), EVBUS_UNSUPPORTED);
    for (int i = 1; i < 40; i++)
        strcat(many, ",\"n\"");
    strcat(many, "]}");
    assert_int_equal(ev_nats_parse_names(many, strlen(many), "x", &names), EVBUS_OK);
    assert_int_equal(names.count, EV_NATS_NAMES_MAX);
}

static void test_stream_request_says_everything(void **state)
{
    const char *subjects[] = {"a.b", "c.\"d\""};
    struct ev_stream_cfg cfg = {.name = "S",
                                .subjects = subjects,
                                .subject_count = 2,
                                .max_age_ns = 1000,
                                .duplicate_window_ns = 5000,
                                .storage = EVBUS_STORAGE_MEMORY,
                                .discard = EVBUS_DISCARD_NEW,
                                .replicas = 3,
                                .max_bytes = 77};

    (void)state;
    char *body = ev_nats_stream_request(&cfg);
    json_t *root = json_loads(body, 0, NULL);
    assert_string_equal(json_string_value(json_array_get(json_object_get(root, "subjects"), 1)), "c.\"d\"");
    assert_int_equal(json_integer_value(json_object_get(root, "duplicate_window")), 1000); /* not above max_age */
    assert_int_equal(json_integer_value(json_object_get(root, "max_msgs")), -1);
    assert_int_equal(json_integer_value(json_object_get(root, "max_bytes")), 77);
    assert_int_equal(json_integer_value(json_object_get(root, "num_replicas")), 3);
    assert_string_equal(json_string_value(json_object_get(root, "storage")), "memory");
    assert_string_equal(json_string_value(json_object_get(root, "discard")), "new");
    json_decref(root);
    ev_free(body);
}

static struct ev_consumer_cfg wanted(void)
{
    return (struct ev_consumer_cfg){.stream = "S1",
                                    .name = "g-0123456789abcdef",
                                    .filter = "a.x",
                                    .durable = true,
                                    .ack_explicit = true,
                                    .ack_wait_ns = 30 * EV_SEC,
                                    .ack_pending_max = 1000};
}

static char *consumer_info(const char *config)
{
    char *text = malloc(2048);

    snprintf(text, 2048,
             "{\"type\":\"io.nats.jetstream.api.v1.consumer_info_response\",\"stream_name\":\"S1\",\"name\":\"D1\","
             "\"config\":{\"durable_name\":\"D1\",%s},\"delivered\":{\"consumer_seq\":12,\"stream_seq\":8},"
             "\"num_pending\":336}",
             config);
    return text;
}

#define FITS                                                                                                           \
    "\"deliver_policy\":\"all\",\"ack_policy\":\"explicit\",\"ack_wait\":30000000000,\"max_deliver\":-1,"              \
    "\"filter_subject\":\"a.x\",\"replay_policy\":\"instant\",\"max_waiting\":512,\"max_ack_pending\":1000"

struct difference {
    const char *config, *says; /* NULL: it fits */
    bool update;
};

/* Every field that matters is compared; what differs is named with both values, what may change is updated. */
static void test_consumer_is_compared_field_by_field(void **state)
{
    static const struct difference list[] = {
        {FITS, NULL, false},
        {FITS ",\"ack_wait\":5", NULL, true},
        {FITS ",\"max_ack_pending\":5", NULL, true},
        {FITS ",\"filter_subject\":\"a.y\"", "filter 'a.y', needed is 'a.x'", false},
        {FITS ",\"filter_subject\":\"\"", "filter '', needed is 'a.x'", false},
        {FITS ",\"filter_subjects\":[\"a.x\",\"b\"]", "filter 'a.x, b', needed is 'a.x'", false},
        {FITS ",\"ack_policy\":\"none\"", "ack policy 'none', needed is 'explicit'", false},
        {FITS ",\"deliver_policy\":\"new\"", NULL, false}, /* where it began is past */
        {FITS ",\"max_deliver\":5", "max_deliver '5', needed is '-1'", false},
        {FITS ",\"replay_policy\":\"original\"", "replay policy 'original', needed is 'instant'", false},
        {FITS ",\"headers_only\":true", "headers_only 'true'", false},
        {FITS ",\"deliver_subject\":\"x.y\"", "deliver subject 'x.y'", false},
    };
    const struct ev_consumer_cfg want = wanted();

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct ev_nats_consumer have;
        bool update = false;
        char *text = consumer_info(list[i].config);
        assert_int_equal(ev_nats_parse_consumer(text, strlen(text), "c", &have), EVBUS_OK);
        assert_int_equal(have.delivered_seq, 12);
        const evbus_status st = ev_nats_compare_consumer(&want, &have, &update);
        assert_int_equal(st, list[i].says ? EVBUS_MISMATCH : EVBUS_OK);
        if (list[i].says && !strstr(ev_detail(), list[i].says))
            fail_msg("'%s' does not say %s", ev_detail(), list[i].says);
        assert_int_equal(update, list[i].update);
        free(text);
    }
}

/* The ack floor, and when the last ack came: Go leaves the time out until there is one. */
static void test_consumer_floor_is_read(void **state)
{
    static const char text[] =
        "{\"config\":{\"ack_policy\":\"all\"},\"delivered\":{\"consumer_seq\":9,\"stream_seq\":6},"
        "\"ack_floor\":{\"consumer_seq\":8,\"stream_seq\":7%s},\"num_ack_pending\":1}";
    static const char time[] = ",\"last_active\":\"1970-01-01T00:00:01.5Z\"";
    struct ev_nats_consumer have;
    char json[400];

    (void)state;
    int len = snprintf(json, sizeof json, text, time);
    assert_int_equal(ev_nats_parse_consumer(json, (size_t)len, "c", &have), EVBUS_OK);
    assert_int_equal(have.floor_stream_seq, 7);
    assert_int_equal(have.floor_ns, 1500 * EV_MS);
    len = snprintf(json, sizeof json, text, "");
    assert_int_equal(ev_nats_parse_consumer(json, (size_t)len, "c", &have), EVBUS_OK);
    assert_int_equal(have.floor_ns, 0);
}

/* An update changes our two fields and nothing else. */
static void test_consumer_update_keeps_the_rest(void **state)
{
    const struct ev_consumer_cfg want = wanted();
    char *text = consumer_info(FITS ",\"ack_wait\":5,\"max_batch\":9"), *body = NULL;

    (void)state;
    assert_int_equal(ev_nats_consumer_update_request(text, strlen(text), &want, &body), EVBUS_OK);
    json_t *root = json_loads(body, 0, NULL), *config = json_object_get(root, "config");
    assert_string_equal(json_string_value(json_object_get(root, "stream_name")), "S1");
    assert_true(json_integer_value(json_object_get(config, "ack_wait")) == 30 * EV_SEC);
    assert_int_equal(json_integer_value(json_object_get(config, "max_batch")), 9);
    json_decref(root);
    ev_free(body);
    free(text);
}

static void test_consumer_request_by_kind(void **state)
{
    struct ev_consumer_cfg cfg = wanted();

    (void)state;
    char *body = ev_nats_consumer_request(&cfg);
    json_t *root = json_loads(body, 0, NULL), *config = json_object_get(root, "config");
    assert_string_equal(json_string_value(json_object_get(config, "durable_name")), cfg.name);
    assert_int_equal(json_integer_value(json_object_get(config, "max_deliver")), -1);
    assert_null(json_object_get(config, "inactive_threshold"));
    json_decref(root);
    ev_free(body);
    cfg.durable = cfg.ack_explicit = false;
    cfg.deliver_new = true;
    body = ev_nats_consumer_request(&cfg);
    root = json_loads(body, 0, NULL);
    config = json_object_get(root, "config");
    assert_string_equal(json_string_value(json_object_get(config, "name")), cfg.name);
    assert_null(json_object_get(config, "durable_name"));
    assert_null(json_object_get(config, "ack_wait"));
    assert_string_equal(json_string_value(json_object_get(config, "deliver_policy")), "new");
    assert_true(json_integer_value(json_object_get(config, "inactive_threshold")) > 0);
    json_decref(root);
    ev_free(body);
}

/* Without memory: NULL or EVBUS_NOMEM, nothing leaks. */
static void test_requests_survive_want_of_memory(void **state)
{
    const uint64_t live = ev_alloc_live();
    const struct ev_consumer_cfg cfg = wanted();
    char *body = NULL;

    (void)state;
    ev_alloc_fail_after(1);
    assert_null(ev_nats_consumer_request(&cfg));
    ev_alloc_fail_after(1);
    assert_null(ev_nats_names_request("a", 0));
    ev_alloc_fail_after(1);
    assert_int_equal(ev_nats_stream_add_request(STREAM_INFO, strlen(STREAM_INFO), "n", &body), EVBUS_NOMEM);
    ev_alloc_fail_after(-1);
    assert_int_equal(ev_alloc_live(), live);
}

/* ---- Records of members ------------------------------------------------------------------------------------------ */

static evbus_status read_record(const char *json, struct ev_lease_record *ret)
{
    return ev_nats_parse_record(json, strlen(json), ret);
}

/* A record is read through its base64; one that is not there is no error; what others wrote into it does no harm. */
static void test_nats_record(void **state)
{
    struct ev_lease_record r;
    char holder[EV_LEASE_ID + 1];

    (void)state;
    /* {"state":"alive","ttl_ms":2000,"inbox":"_INBOX.a","server":"S","name":"n"} */
    assert_int_equal(
        read_record("{\"message\":{\"subject\":\"evbus.member.x\",\"seq\":7,\"data\":\""
                    "eyJzdGF0ZSI6ImFsaXZlIiwidHRsX21zIjoyMDAwLCJpbmJveCI6Il9JTkJPWC5hIiwic2VydmVyIjoiUyIsIm"
                    "5hbWUiOiJuIn0=\"}}",
                    &r),
        EVBUS_OK);
    assert_true(r.seq == 7 && r.alive && r.ttl_ns == 2 * EV_SEC);
    assert_string_equal(r.inbox, "_INBOX.a");
    assert_string_equal(r.server, "S");
    /* {"holder":"0123456789abcdef"} */
    assert_int_equal(read_record("{\"message\":{\"seq\":9,\"data\":\"eyJob2xkZXIiOiIwMTIzNDU2Nzg5YWJjZGVmIn0=\"}}", &r),
                     EVBUS_OK);
    assert_true(r.seq == 9 && !r.alive);
    assert_string_equal(r.holder, "0123456789abcdef");
    assert_int_equal(read_record("{\"error\":{\"code\":404,\"err_code\":10037,\"description\":\"none\"}}", &r),
                     EVBUS_OK);
    assert_true(r.seq == 0);
    assert_int_equal(read_record("{\"error\":{\"code\":404,\"err_code\":10059,\"description\":\"none\"}}", &r),
                     EVBUS_NOT_FOUND);
    assert_int_equal(read_record("{\"message\":{\"seq\":3,\"data\":\"!not base64\"}}", &r), EVBUS_OK);
    assert_true(r.seq == 3 && !r.alive && !r.holder[0]);
    assert_int_not_equal(read_record("{\"message\":{}}", &r), EVBUS_OK);
    assert_int_not_equal(read_record("no json", &r), EVBUS_OK);
    assert_true(ev_nats_parse_holder("{\"holder\":\"\"}", 13, holder) && !holder[0]);
    assert_false(ev_nats_parse_holder("{\"holder\":\"0123456789abcdef0\"}", 30, holder));
    assert_false(ev_nats_parse_holder("{\"holder\":7}", 12, holder));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_puback_reads_stored),
        cmocka_unit_test(test_puback_reads_refusals),
        cmocka_unit_test(test_puback_reads_what_is_under_way),
        cmocka_unit_test(test_puback_refuses_every_truncation),
        cmocka_unit_test(test_puback_refuses_what_is_none),
        cmocka_unit_test(test_puback_bounds_nesting),
        cmocka_unit_test(test_ackref_reads_both_forms),
        cmocka_unit_test(test_ackref_without_an_id),
        cmocka_unit_test(test_ackref_refuses_what_is_none),
        cmocka_unit_test(test_status_texts_of_the_server),
        cmocka_unit_test(test_pull_request_and_verbs),
        cmocka_unit_test(test_stream_info_is_read),
        cmocka_unit_test(test_stream_add_keeps_unknown_fields),
        cmocka_unit_test(test_names_are_read_page_by_page),
        cmocka_unit_test(test_stream_request_says_everything),
        cmocka_unit_test(test_consumer_is_compared_field_by_field),
        cmocka_unit_test(test_consumer_floor_is_read),
        cmocka_unit_test(test_consumer_update_keeps_the_rest),
        cmocka_unit_test(test_consumer_request_by_kind),
        cmocka_unit_test(test_requests_survive_want_of_memory),
        cmocka_unit_test(test_nats_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
