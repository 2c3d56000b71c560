/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a message: the scanner stays within its buffers, len + 16 bytes of text always suffice, and what it
 * accepts encodes to a message that reads the same and encodes to the same bytes again.
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

static void *block(size_t size)
{
    void *ptr = calloc(size ? size : 1, 1);

    MUST(ptr);
    return ptr;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same(const evbus_envelope *a, const evbus_envelope *b)
{
    return same_text(a->event_id, b->event_id) && same_text(a->aggregate_id, b->aggregate_id) &&
           same_text(a->event_type, b->event_type) && a->event_version == b->event_version &&
           a->timestamp_ns == b->timestamp_ns && same_text(a->trace_id, b->trace_id) &&
           same_text(a->correlation_id, b->correlation_id) && a->tenant_id == b->tenant_id &&
           a->payload_len == b->payload_len && memcmp(a->payload, b->payload, a->payload_len) == 0;
}

static char *encoded(const evbus_envelope *env, size_t *ret_len)
{
    const size_t bound = ev_envelope_size(env);
    char *out = block(bound);

    MUST(ev_envelope_encode(env, out, bound, ret_len) == EVBUS_OK);
    MUST(*ret_len <= bound);
    return out;
}

static void check_accepted(const evbus_envelope *env)
{
    evbus_envelope back;
    size_t len, again_len;
    char *wire = encoded(env, &len);
    char *text = block(len + 16);

    MUST(ev_envelope_scan(wire, len, text, len + 16, &back) == EVBUS_OK);
    MUST(same(env, &back));
    char *again = encoded(&back, &again_len);
    MUST(again_len == len && memcmp(again, wire, len) == 0);
    MUST(ev_envelope_scan(wire, len - 1, text, len + 16, &back) == EVBUS_INVALID);
    free(again);
    free(text);
    free(wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *doc = block(size); /* exact, so that the sanitizer sees each byte read too many */
    char *text = block(size + 16);
    const size_t small = size ? data[size / 2] % (size + 1) : 0;
    char *small_text = block(small);
    evbus_envelope env;

    if (size > 0)
        memcpy(doc, data, size);
    evbus_status st = ev_envelope_scan(doc, size, text, size + 16, &env);
    MUST(st == EVBUS_OK || st == EVBUS_INVALID);
    MUST(size == 0 || memcmp(doc, data, size) == 0);
    if (st == EVBUS_OK)
        check_accepted(&env);

    evbus_status less = ev_envelope_scan(doc, size, small_text, small, &env);
    MUST(less == st || less == EVBUS_LIMIT);
    free(small_text);
    free(text);
    free(doc);
    return 0;
}
