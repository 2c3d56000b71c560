/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A strict walk over JSON (RFC 8259) that builds nothing: it checks, and says where a value ends. On top of the grammar
 * it refuses what cannot become C strings without loss: invalid UTF-8, unpaired surrogates, U+0000; and deep nesting.
 * No recursion, no allocation; reads [at, end) and nothing else. Threads: any.
 */
#ifndef EV_CORE_JSON_SCAN_H
#define EV_CORE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define EV_JSON_DEPTH_MAX 128

/* Where and why a walk stopped; `what` is a static text. Written only on failure. */
struct ev_json_fault {
    const char *at;
    const char *what;
};

/* The first byte that is no white space, or `end`. */
static inline const char *ev_json_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* From behind the opening quote to the closing one; NULL on a fault. *ret_escaped: it has a backslash. */
const char *ev_json_string(const char *at, const char *end, bool *ret_escaped, struct ev_json_fault *fault);

/*
 * From `at` (its first byte, no white space) to behind one value; NULL on a fault. Arrays and objects may nest
 * depth_max (at most EV_JSON_DEPTH_MAX) deep.
 */
const char *ev_json_value(const char *at, const char *end, unsigned depth_max, struct ev_json_fault *fault);

/* One value with white space around it, and nothing else. */
bool ev_json_text(const char *at, const char *end, unsigned depth_max, struct ev_json_fault *fault);

/*
 * Decodes what ev_json_string accepted, without its quotes and without a NUL. Never longer than its source. Returns the
 * bytes written, or SIZE_MAX if they are more than `cap`.
 */
size_t ev_json_unescape(char *out, size_t cap, const char *at, const char *end);

#endif
