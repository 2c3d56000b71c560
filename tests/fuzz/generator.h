/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Documents for the fuzz targets and the differential test: JSON, envelopes, and fields as fuzz_envelope_roundtrip takes
 * them, from a grammar that knows the corners; half of them are then damaged. A document depends on its seed only.
 */
#ifndef EV_TESTS_FUZZ_GENERATOR_H
#define EV_TESTS_FUZZ_GENERATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DOC_MAX 16384
#define DAMAGE_ROOM 512 /* a document is damaged only when this much is left behind it */

/* ---- Random and text --------------------------------------------------------------------------------------------- */

struct doc {
    uint64_t random;
    size_t len;
    char bytes[DOC_MAX];
};

static uint64_t next_random(struct doc *d)
{
    uint64_t x = (d->random += UINT64_C(0x9e3779b97f4a7c15));

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static size_t below(struct doc *d, size_t limit)
{
    return (size_t)(next_random(d) % limit);
}

static bool one_in(struct doc *d, size_t n)
{
    return below(d, n) == 0;
}

static void put(struct doc *d, const char *text)
{
    const size_t len = strlen(text);

    if (d->len + len <= DOC_MAX) {
        memcpy(d->bytes + d->len, text, len);
        d->len += len;
    }
}

#define PICK(d, list) ((list)[below(d, sizeof(list) / sizeof((list)[0]))])

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void put_space(struct doc *d)
{
    static const char *const spaces[] = {" ", "\n", "\t", "\r", "  ", "\r\n\t "};

    if (one_in(d, 6))
        put(d, PICK(d, spaces));
}

static void put_string(struct doc *d)
{
    static const char *const pieces[] = {
        "a",
        "bcd",
        "01234567",
        "\\\"",
        "\\\\",
        "\\/",
        "\\b\\f",
        "\\n\\r\\t",
        "\\u0041",
        "\\u00e4",
        "\\u20AC",
        "\\ud83d\\ude00",
        "\\uFFFF",
        "\\u0001",
        "\\u2028",
        "\\u0000",
        "\\ud800",
        "\\udc00x",
        "\xc3\xa4",
        "\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
        "\xe8\xae\xa2\xe5\x8d\x95",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xf4\x8f\xbf\xbf",
        "\xef\xbf\xbf",
        "\xe2\x80\xa8",
        "\x7f",
        "<&>",
        " ",
        ",",
        ":",
        "[{",
        "}]",
        "\xc2\x80",
    };
    const size_t count = one_in(d, 40) ? 200 : below(d, 6);

    put(d, "\"");
    for (size_t i = 0; i < count; i++) {
        const size_t piece = below(d, sizeof pieces / sizeof pieces[0]);

        if (piece < 15 || piece > 17 || one_in(d, 20)) /* the three that are refused: seldom */
            put(d, pieces[piece]);
    }
    put(d, "\"");
}

static void put_digits(struct doc *d)
{
    static const char *const digits[] = {"0", "1", "7", "9", "12", "500", "9223372036854775807", "4503599627370497"};

    put(d, PICK(d, digits));
}

static void put_number(struct doc *d)
{
    static const char *const exponents[] = {"e", "E", "e+", "E-", "e-"};

    if (one_in(d, 4))
        put(d, "-");
    put_digits(d);
    if (one_in(d, 60))
        put_digits(d); /* may begin with 0, may be huge: both are for the oracle to tell */
    if (one_in(d, 4)) {
        put(d, ".");
        put_digits(d);
    }
    if (one_in(d, 4)) {
        put(d, PICK(d, exponents));
        put_digits(d);
    }
}

static void put_value(struct doc *d, unsigned depth)
{
    static const char *const words[] = {"true", "false", "null"};
    const size_t kind = below(d, depth > 0 ? 10 : 6);

    put_space(d);
    if (kind < 2) {
        put(d, PICK(d, words));
    } else if (kind < 4) {
        put_number(d);
    } else if (kind < 6) {
        put_string(d);
    } else {
        const bool object = kind < 8;
        const size_t count = below(d, 5);

        put(d, object ? "{" : "[");
        for (size_t i = 0; i < count; i++) {
            if (i > 0)
                put(d, ",");
            put_space(d);
            if (object) {
                put_string(d);
                put_space(d);
                put(d, ":");
            }
            put_value(d, depth - 1);
        }
        put_space(d);
        put(d, object ? "}" : "]");
    }
    put_space(d);
}

/* Around the depth limit, or far above it. */
static void put_nested(struct doc *d)
{
    const size_t depth = one_in(d, 4) ? 1 + below(d, 600) : 120 + below(d, 16);
    const bool objects = one_in(d, 2);

    for (size_t i = 0; i < depth; i++)
        put(d, objects && i % 3 == 0 ? "{\"a\":" : "[");
    put_value(d, 1);
    for (size_t i = depth; i-- > 0;)
        put(d, objects && i % 3 == 0 ? "}" : "]");
}

/* ---- Envelopes --------------------------------------------------------------------------------------------------- */

static void put_field(struct doc *d, size_t field)
{
    static const char *const keys[][3] = {
        {"event_id", "EVENT_ID", "event\\u005fid"},
        {"aggregate_id", "Aggregate_Id", "aggregate_\\u0049d"},
        {"event_type", "eventType", "EVENT_type"},
        {"event_version", "event_ver\xc5\xbfion", "Event_Version"},
        {"payload", "PAYLOAD", "pay\\u006coad"},
        {"timestamp", "time\\u017ftamp", "TimeStamp"},
        {"trace_id", "TRACE_ID", "trace id"},
        {"correlation_id", "CORRELATION_ID", "correlation_id\\n"},
        {"tenant_id", "Tenant_Id", "tenant_\xe2\x84\xaa"},
    };
    static const char *const ids[] = {"\"order-42\"", "\"a\"", "\" a/b:c \"", "\"\\u0061.b\"", "\"a b\"", "\"\""};
    static const char *const numbers[] = {"1", "42", "9223372036854775807", "-7", "0", "1.0", "9223372036854775808"};
    static const char *const times[] = {"\"2026-01-02T03:04:05.123456789+08:00\"",
                                        "\"0001-01-01T00:00:00Z\"",
                                        "\"1677-09-21T00:12:43.145224192Z\"",
                                        "\"2262-04-11T23:47:16.854775807Z\"",
                                        "\"2024-02-29T23:59:59.5-12:34\"",
                                        "\"2026-02-30T00:00:00Z\"",
                                        "\"\""};

    put(d, "\"");
    put(d, keys[field][one_in(d, 12) ? 1 + below(d, 2) : 0]);
    put(d, "\":");
    put_space(d);
    if (one_in(d, 40))
        put_value(d, 2); /* of any type */
    else if (field == 1)
        put(d, one_in(d, 8) ? PICK(d, ids) : ids[below(d, 4)]); /* the last two: seldom */
    else if (field == 3 || field == 8)
        put(d, one_in(d, 8) ? PICK(d, numbers) : numbers[below(d, 3)]);
    else if (field == 5)
        put(d, one_in(d, 8) ? PICK(d, times) : times[below(d, 5)]);
    else if (field == 4)
        put_value(d, 4);
    else if (field <= 2 && !one_in(d, 8))
        put(d, "\"0198e5a0-7c3e-7b61\""); /* what must not be empty */
    else
        put_string(d);
}

static void put_envelope(struct doc *d)
{
    static const size_t order[] = {0, 1, 2, 3, 5, 6, 7, 8, 4};
    const bool shuffled = one_in(d, 4);
    bool first = true;

    put(d, "{");
    for (size_t i = 0; i < 9; i++) {
        if (one_in(d, order[i] < 5 ? 30 : 3))
            continue; /* left out: seldom, if it is required */
        if (!first)
            put(d, ",");
        first = false;
        put_space(d);
        put_field(d, shuffled && one_in(d, 3) ? below(d, 9) : order[i]);
        if (one_in(d, 20)) {
            put(d, ",");
            put_string(d);
            put(d, ":");
            put_value(d, 3);
        }
    }
    put(d, "}");
    put_space(d);
}

/* What fuzz_envelope_roundtrip takes: choices, three numbers, six lines. */
static void put_fields(struct doc *d)
{
    static const char *const lines[] = {"order-42",
                                        "e",
                                        "OrderPlaced",
                                        "\xe8\xae\xa2\xe5\x8d\x95 <&>\x01\x7f",
                                        "\xe2\x80\xa8\xf0\x9f\x98\x80",
                                        "\xe2\x80\xa9",
                                        "tr\\\"ace",
                                        " ",
                                        "\xff"};

    d->bytes[d->len++] = (char)next_random(d);
    for (int number = 0; number < 3; number++) {
        uint64_t value = one_in(d, 8) ? UINT64_C(1) << 63 : next_random(d) >> below(d, 64);

        if (number == 0 && !one_in(d, 10))
            value >>= 1; /* a version is positive */
        for (int i = 0; i < 8; i++)
            d->bytes[d->len++] = (char)(value >> (56 - 8 * i));
    }
    for (int i = 0; i < 5; i++) {
        put(d, PICK(d, lines));
        if (one_in(d, 2))
            put(d, PICK(d, lines));
        put(d, "\n");
    }
    put_value(d, 4);
}

/* ---- Damage ------------------------------------------------------------------------------------------------------ */

static void insert(struct doc *d, const char *bytes, size_t len)
{
    const size_t at = below(d, d->len + 1);

    memmove(d->bytes + at + len, d->bytes + at, d->len - at);
    memcpy(d->bytes + at, bytes, len);
    d->len += len;
}

static void damage(struct doc *d)
{
    static const char *const tokens[] = {
        "{", "}", "[",    "]",    ",",    ":",        "\"",           "\\",       "\\u", "\\ud800", "e", "-",
        ".", "0", "null", "\xff", "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xf4\x90", "\t",  "\n",      " "};
    char copy[64];
    const size_t at = below(d, d->len + 1);
    const size_t most = d->len - at < sizeof copy ? d->len - at : sizeof copy;
    const size_t len = most ? 1 + below(d, most) : 0;

    switch (below(d, 7)) {
    case 0: /* one bit */
        if (at < d->len)
            d->bytes[at] ^= (char)(1u << below(d, 8));
        break;
    case 1: /* any byte */
        if (at < d->len)
            d->bytes[at] = (char)next_random(d);
        break;
    case 2: /* cut */
        d->len = at;
        break;
    case 3: /* a piece less */
        memmove(d->bytes + at, d->bytes + at + len, d->len - at - len);
        d->len -= len;
        break;
    case 4: /* a piece twice */
        memcpy(copy, d->bytes + at, len);
        insert(d, copy, len);
        break;
    case 5: /* two bytes change places */
        if (d->len > 1 && at + 1 < d->len) {
            const char c = d->bytes[at];
            d->bytes[at] = d->bytes[at + 1];
            d->bytes[at + 1] = c;
        }
        break;
    default: {
        const char *token = PICK(d, tokens);
        insert(d, token, strlen(token));
    }
    }
}

static void generate(struct doc *d, uint64_t seed)
{
    d->random = seed * UINT64_C(0x2545f4914f6cdd1d); /* seeds that are neighbours make no overlapping sequences */
    d->len = 0;

    const size_t kind = below(d, 20);
    if (kind < 9)
        put_value(d, 4);
    else if (kind < 16)
        put_envelope(d);
    else if (kind < 18)
        put_fields(d);
    else if (kind < 19)
        put_nested(d);
    else
        put_string(d);
    if (one_in(d, 2))
        return;
    for (size_t count = 1 + below(d, 3); count > 0 && d->len + DAMAGE_ROOM <= DOC_MAX; count--)
        damage(d);
}

#endif
