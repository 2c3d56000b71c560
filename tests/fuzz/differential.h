/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle for "strict" is jansson: our walk must agree with it on whole documents and on decoded strings, and what
 * the envelope scanner takes out of an object must be what jansson sees in it.
 *
 * Where they may differ, and why:
 *   - numbers too large for a double ("1e999"): jansson has to store them, the walk only checks them. Integers above 64
 *     bits are the same case; JSON_DECODE_INT_AS_REAL makes jansson read them as reals.
 *   - a NUL byte right behind a number or a word: jansson's push-back takes it for an empty buffer and loses it.
 *   - nesting: we stop at 128, jansson at 2048. Then the brackets open at the fault are counted here, and must be 128.
 * All else is equal: jansson's defaults refuse U+0000, unpaired surrogates and invalid UTF-8 as we do.
 */
#ifndef EV_TESTS_FUZZ_DIFFERENTIAL_H
#define EV_TESTS_FUZZ_DIFFERENTIAL_H

#include "core/envelope.h"
#include "core/json_scan.h"

#include <jansson.h>

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define JANSSON_FLAGS (JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL)

/* What our side made of a document. */
enum verdict { REFUSED, IS_JSON, IS_ENVELOPE };

static const uint8_t *document;
static size_t document_len;

static void disagree(const char *what, const char *ours, const char *theirs)
{
    fprintf(stderr, "differential: %s; ours: %s; jansson: %s; document:\n", what, ours, theirs);
    fwrite(document, 1, document_len, stderr);
    fputc('\n', stderr);
    abort();
}

/* Brackets open between `at` and `end`; what is before the fault is well-formed. */
static int open_brackets(const char *at, const char *end)
{
    bool in_string = false;
    int open = 0;

    for (; at < end; at++) {
        if (in_string && *at == '\\')
            at++;
        else if (*at == '"')
            in_string = !in_string;
        else if (!in_string && (*at == '[' || *at == '{'))
            open++;
        else if (!in_string && (*at == ']' || *at == '}'))
            open--;
    }
    return open;
}

static bool is_lost_nul(const char *doc, const char *end, const char *at)
{
    return at > doc && at < end && *at == '\0' && isalnum((unsigned char)at[-1]);
}

static void compare_string(const char *doc, const char *end, const json_t *theirs)
{
    const char *start = ev_json_space(doc, end) + 1;
    struct ev_json_fault fault;
    bool escaped;
    const char *stop = ev_json_string(start, end, &escaped, &fault);
    char *out = malloc((size_t)(stop - start) + 1);

    if (!out)
        abort();
    const size_t len = ev_json_unescape(out, (size_t)(stop - start), start, stop);
    if (len != json_string_length(theirs) || memcmp(out, json_string_value(theirs), len) != 0)
        disagree("decoded string", "see", json_string_value(theirs));
    free(out);
}

static const char *const names[] = {"event_id", "aggregate_id",   "event_type", "event_version", "timestamp",
                                    "trace_id", "correlation_id", "tenant_id",  "payload"};

/* A key that is ours only by folding, or a null: jansson, which knows neither rule, cannot tell what wins. */
static bool is_beyond_jansson(json_t *object)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        bool known = false;

        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            const bool exact = strcmp(key, names[i]) == 0;

            known |= exact;
            if ((!exact && strcasecmp(key, names[i]) == 0) || (exact && json_is_null(value)))
                return true;
        }
        if (!known && strstr(key, "\xc5\xbf"))
            return true;
    }
    return false;
}

static void compare_text(json_t *object, const char *name, const char *ours)
{
    const char *theirs = json_string_value(json_object_get(object, name));

    if (strcmp(ours ? ours : "", theirs ? theirs : "") != 0)
        disagree(name, ours, theirs);
}

static void compare_number(json_t *object, const char *name, int64_t ours)
{
    if ((double)ours != json_number_value(json_object_get(object, name)))
        disagree(name, "see", "see");
}

/* True if it is an envelope for us. */
static bool compare_envelope(const char *doc, size_t len, json_t *theirs, bool accepted)
{
    char *text = malloc(len + 16);
    evbus_envelope env;

    if (!text)
        abort();
    const bool is_envelope = ev_envelope_scan(doc, len, text, len + 16, &env) == EVBUS_OK;
    if (is_envelope) {
        if (!accepted || (theirs && !json_is_object(theirs)))
            disagree("envelope", "accepted", "no object");
        if (theirs && !is_beyond_jansson(theirs)) {
            compare_text(theirs, "event_id", env.event_id);
            compare_text(theirs, "aggregate_id", env.aggregate_id);
            compare_text(theirs, "event_type", env.event_type);
            compare_text(theirs, "trace_id", env.trace_id);
            compare_text(theirs, "correlation_id", env.correlation_id);
            compare_number(theirs, "event_version", env.event_version);
            compare_number(theirs, "tenant_id", env.tenant_id);
            json_t *payload = json_loadb(env.payload, env.payload_len, JANSSON_FLAGS, NULL);
            if (!payload || !json_equal(payload, json_object_get(theirs, "payload")))
                disagree("payload", "see", "differs");
            json_decref(payload);
        }
    }
    free(text);
    return is_envelope;
}

/* Aborts, with the document on stderr, where ours and jansson's verdicts differ for no reason listed above. */
static enum verdict differential_check(const uint8_t *data, size_t size)
{
    char *doc = malloc(size ? size : 1); /* exact, so that the sanitizer sees each byte read too many */
    struct ev_json_fault fault = {NULL, "accepted"};
    json_error_t error = {.text = "accepted"};

    if (!doc)
        abort();
    if (size > 0)
        memcpy(doc, data, size);
    document = data;
    document_len = size;

    const bool ours = ev_json_text(doc, doc + size, EV_JSON_DEPTH_MAX, &fault);
    json_t *theirs = json_loadb(doc, size, JANSSON_FLAGS, &error);
    if (ours && !theirs) {
        if (json_error_code(&error) != json_error_numeric_overflow)
            disagree("verdict", "accepted", error.text);
    } else if (!ours && strcmp(fault.what, "nested too deeply") == 0) {
        if (open_brackets(doc, fault.at) != EV_JSON_DEPTH_MAX)
            disagree("depth", "too deep", "not at the limit");
    } else if (!ours && theirs && !is_lost_nul(doc, doc + size, fault.at)) {
        disagree("verdict", fault.what, "accepted");
    }

    if (ours && json_is_string(theirs))
        compare_string(doc, doc + size, theirs);
    const bool is_envelope = compare_envelope(doc, size, theirs, ours);
    json_decref(theirs);
    free(doc);
    return is_envelope ? IS_ENVELOPE : ours ? IS_JSON : REFUSED;
}

#endif
