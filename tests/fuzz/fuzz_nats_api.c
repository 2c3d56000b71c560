/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from the wire: PubAcks, ack subjects, statuses, answers of the JetStream API. The first byte chooses which.
 * Besides the sanitizers: slices lie in the input, and what our scanner takes for JSON is JSON for jansson too.
 */
#include "backend/nats_api.h"

#include "base/alloc.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz_nats_api: %s\n", what);
    abort();
}

static bool inside(const char *slice, size_t len, const char *text, size_t size)
{
    return len == 0 || (slice >= text && slice + len <= text + size);
}

/* What jansson refuses and we do not look at: encodings inside strings, numbers beyond its types. */
static bool finer_than_ours(const json_error_t *error)
{
    static const char *const known[] = {"UTF-8",   "decode byte", "too big", "overflow",
                                        "\\u0000", "surrogate",   "Unicode"};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(error->text, known[i]))
            return true;
    return false;
}

static void fuzz_puback(const char *text, size_t size)
{
    struct ev_ack ack;
    json_error_t error;

    if (!ev_nats_parse_puback(text, size, &ack))
        return;
    check(inside(ack.stream, ack.stream_len, text, size), "stream outside the text");
    check(inside(ack.text, ack.text_len, text, size), "description outside the text");
    check((ack.outcome == EVBUS_OUTCOME_STORED) == (ack.sequence > 0),
          "stored, and no sequence, or the other way round");
    check(ack.outcome != EVBUS_OUTCOME_REFUSED || ack.status != EVBUS_OK, "refused, and ok");
    json_t *root = json_loadb(text, size, 0, &error);
    check(root || finer_than_ours(&error), error.text);
    json_decref(root);
}

static void fuzz_ackref(const char *text, size_t size)
{
    struct ev_nats_ackref ref;

    if (!ev_nats_parse_ackref(text, &ref))
        return;
    check(inside(ref.stream, ref.stream_len, text, size), "stream outside the subject");
    check(inside(ref.consumer, ref.consumer_len, text, size), "consumer outside the subject");
    check(ref.delivered > 0 && ref.stream_seq > 0 && ref.stream_len > 0 && ref.consumer_len > 0, "an empty field");
}

static void fuzz_consumer(const char *text, size_t size)
{
    const struct ev_consumer_cfg want = {
        .stream = "S", .name = "c-0123456789abcdef", .filter = "a", .ack_explicit = true};
    struct ev_nats_consumer have;
    char *body = NULL;
    bool update;

    if (ev_nats_parse_consumer(text, size, "fuzz", &have) == EVBUS_OK)
        (void)ev_nats_compare_consumer(&want, &have, &update);
    if (ev_nats_consumer_update_request(text, size, &want, &body) == EVBUS_OK)
        ev_free(body);
}

static void fuzz_stream(const char *text, size_t size)
{
    struct ev_stream_info info;
    struct ev_nats_names names;
    char *body = NULL;

    (void)ev_nats_parse_stream(text, size, "fuzz", "a.*.b", &info);
    (void)ev_nats_parse_names(text, size, "fuzz", &names);
    if (ev_nats_stream_add_request(text, size, "x.y", &body) == EVBUS_OK)
        ev_free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const uint64_t live = ev_alloc_live();
    char *text = malloc(size); /* the rest and a NUL, not one byte more */
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    switch (data[0] % 5) {
    case 0:
        fuzz_puback(text, size - 1);
        break;
    case 1:
        fuzz_ackref(text, size - 1);
        break;
    case 2:
        (void)ev_nats_status_of(data[0], text);
        break;
    case 3:
        fuzz_consumer(text, size - 1);
        break;
    default:
        fuzz_stream(text, size - 1);
        break;
    }
    free(text);
    check(ev_alloc_live() == live, "memory was left behind");
    return 0;
}
