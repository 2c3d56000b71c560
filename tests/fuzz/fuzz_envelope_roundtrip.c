/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as the fields of an envelope: what the check and the encoder accept is read back the same; what they refuse
 * breaks nothing; a missing field never reaches the wire.
 */
#include "core/envelope.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s; %s\n", __FILE__, __LINE__, #condition, evbus_error_detail());                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The input: a byte of choices, three numbers of 8 bytes, then strings that end with a newline. */
struct input {
    const uint8_t *at;
    const uint8_t *end;
};

static uint64_t take_number(struct input *in)
{
    uint64_t value = 0;

    for (int i = 0; i < 8 && in->at < in->end; i++)
        value = value << 8 | *in->at++;
    return value;
}

/* A heap copy of exactly its length and a NUL, cut at the first NUL inside. */
static char *take_text(struct input *in)
{
    const size_t left = (size_t)(in->end - in->at);
    const uint8_t *newline = left ? memchr(in->at, '\n', left) : NULL;
    const size_t len = newline ? (size_t)(newline - in->at) : left;
    char *text = malloc(len + 1);

    MUST(text);
    if (len > 0)
        memcpy(text, in->at, len);
    text[len] = '\0';
    in->at += newline ? len + 1 : len;

    char *exact = strdup(text);
    MUST(exact);
    free(text);
    return exact;
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

/* The payload comes back without its outer white space. */
static bool same_payload(const evbus_envelope *sent, const evbus_envelope *got)
{
    const char *at = sent->payload;
    size_t len = sent->payload_len ? sent->payload_len : strlen(at);

    while (len > 0 && strchr(" \t\r\n", *at)) {
        at++;
        len--;
    }
    while (len > 0 && strchr(" \t\r\n", at[len - 1]))
        len--;
    return got->payload_len == len && memcmp(got->payload, at, len) == 0;
}

static void check_wire(const evbus_envelope *env, const char *wire, size_t len)
{
    evbus_envelope got;
    char *text = malloc(len + 16);

    MUST(text);
    MUST(ev_envelope_scan(wire, len, text, len + 16, &got) == EVBUS_OK);
    MUST(same_text(env->event_id, got.event_id));
    MUST(same_text(env->aggregate_id, got.aggregate_id));
    MUST(same_text(env->event_type, got.event_type));
    MUST(same_text(env->trace_id, got.trace_id));
    MUST(same_text(env->correlation_id, got.correlation_id));
    MUST(env->event_version == got.event_version);
    MUST(env->timestamp_ns == got.timestamp_ns);
    MUST(env->tenant_id == got.tenant_id);
    MUST(same_payload(env, &got));
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};

    if (size == 0)
        return 0;

    const uint8_t choices = *in.at++;
    const uint64_t version = take_number(&in), time = take_number(&in), tenant = take_number(&in);
    char *texts[6];
    for (int i = 0; i < 6; i++)
        texts[i] = take_text(&in);
    const evbus_envelope env = {
        .event_id = choices & 1 ? NULL : texts[0],
        .aggregate_id = choices & 2 ? "order-42" : texts[1],
        .event_type = texts[2],
        .event_version = (int64_t)version,
        .timestamp_ns = (int64_t)time,
        .trace_id = choices & 4 ? NULL : texts[3],
        .correlation_id = choices & 8 ? NULL : texts[4],
        .tenant_id = (int64_t)tenant,
        .payload = choices & 16 ? "{\"a\":[1, 2]}" : texts[5],
        .payload_len = choices & 32 ? strlen(choices & 16 ? "{\"a\":[1, 2]}" : texts[5]) : 0,
    };

    const size_t bound = ev_envelope_size(&env);
    char *wire = malloc(bound);
    MUST(wire);
    size_t len = 0;
    const evbus_status checked = ev_envelope_check(&env);
    const evbus_status st = ev_envelope_encode(&env, wire, bound, &len);
    MUST(checked == EVBUS_OK || checked == EVBUS_INVALID);
    MUST(st == EVBUS_OK || st == EVBUS_INVALID);
    if (st == EVBUS_OK) {
        MUST(env.event_id && len <= bound);
        size_t small_len;
        MUST(ev_envelope_encode(&env, wire, len - 1, &small_len) == EVBUS_LIMIT);
        MUST(ev_envelope_encode(&env, wire, len, &small_len) == EVBUS_OK && small_len == len);
    }
    if (st == EVBUS_OK && checked == EVBUS_OK)
        check_wire(&env, wire, len);
    free(wire);
    for (int i = 0; i < 6; i++)
        free(texts[i]);
    return 0;
}
