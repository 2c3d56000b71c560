/* SPDX-License-Identifier: Apache-2.0 */
/* Single messages of a stream as JetStream's API shows them: JSON with base64 inside. Rare (dead letters, ages). */
#include "backend/nats_api.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/rfc3339.h"

#include <jansson.h>
#include <string.h>

char *ev_nats_get_request(const char *filter, uint64_t from)
{
    return ev_nats_json_text(json_pack("{s:I, s:s}", "seq", (json_int_t)from, "next_by_subj", filter));
}

char *ev_nats_delete_request(uint64_t seq)
{
    return ev_nats_json_text(json_pack("{s:I, s:b}", "seq", (json_int_t)seq, "no_erase", 1));
}

/* ---- Base64 ------------------------------------------------------------------------------------------------------ */

static int digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* Bytes written to `out`, which has 3 for each 4 of the text; SIZE_MAX: it is no base64. */
static size_t decode(const char *text, size_t len, char *out)
{
    size_t n = 0;

    if (len % 4 != 0)
        return SIZE_MAX;
    for (size_t i = 0; i < len; i += 4) {
        const bool last = i + 4 == len;
        const int pad = last && text[i + 3] == '=' ? (text[i + 2] == '=' ? 2 : 1) : 0;
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++) {
            const int d = k >= 4 - pad ? 0 : digit(text[i + (size_t)k]);
            if (d < 0)
                return SIZE_MAX;
            bits = bits << 6 | (uint32_t)d;
        }
        out[n++] = (char)(bits >> 16);
        if (pad < 2)
            out[n++] = (char)(bits >> 8);
        if (pad < 1)
            out[n++] = (char)bits;
    }
    return n;
}

/* ---- The answer -------------------------------------------------------------------------------------------------- */

/* "NATS/1.0\r\n", the headers, an empty line: only the headers stay. */
static size_t strip(char *block, size_t len)
{
    const char *first = memchr(block, '\n', len);

    if (!first)
        return 0;
    const size_t skip = (size_t)(first - block) + 1;
    len -= skip;
    memmove(block, block + skip, len);
    if (len >= 2 && memcmp(block + len - 2, "\r\n", 2) == 0)
        len -= 2;
    return len;
}

static evbus_status unreadable(const char *what, const char *why)
{
    return ev_fail(EVBUS_UNSUPPORTED, "%s: a message of it cannot be read: %s", what, why);
}

static evbus_status fill(const json_t *message, const char *what, struct ev_stored *ret)
{
    const json_t *data = json_object_get(message, "data"), *headers = json_object_get(message, "hdrs");
    const char *subject = json_string_value(json_object_get(message, "subject"));
    const char *time = json_string_value(json_object_get(message, "time"));
    const size_t data_len = json_string_length(data), headers_len = json_string_length(headers);

    if (!subject || !ev_copy(ret->topic, sizeof ret->topic, subject))
        return unreadable(what, "its subject is missing or longer than 255 bytes");
    if (!time || ev_rfc3339_get(time, strlen(time), &ret->stored_ns))
        return unreadable(what, "its time is missing or wrong");
    char *memory = ev_malloc(data_len / 4 * 3 + headers_len / 4 * 3 + 2);
    if (!memory)
        return ev_fail(EVBUS_NOMEM, "out of memory for a message");
    const size_t n = data_len ? decode(json_string_value(data), data_len, memory) : 0;
    char *block = n == SIZE_MAX ? NULL : memory + n + 1;
    const size_t h = block && headers_len ? decode(json_string_value(headers), headers_len, block) : 0;
    if (!block || h == SIZE_MAX) {
        ev_free(memory);
        return unreadable(what, "it is no base64");
    }
    memory[n] = 0;
    ret->headers_len = strip(block, h);
    block[ret->headers_len] = 0;
    ret->headers = block;
    ret->data = memory;
    ret->len = n;
    ret->memory = memory;
    return EVBUS_OK;
}

evbus_status ev_nats_parse_message(const char *json, size_t len, const char *what, struct ev_stored *ret)
{
    evbus_status st = ev_nats_parse_answer(json, len, what);
    json_t *root = st == EVBUS_OK ? json_loadb(json, len, 0, NULL) : NULL;
    const json_t *message = json_object_get(root, "message");
    const json_int_t seq = json_integer_value(json_object_get(message, "seq"));

    if (st != EVBUS_OK)
        return st;
    memset(ret, 0, sizeof *ret);
    ret->seq = seq > 0 ? (uint64_t)seq : 0;
    st = seq > 0 ? fill(message, what, ret) : unreadable(what, "its sequence is missing");
    json_decref(root);
    return st;
}
