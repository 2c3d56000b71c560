/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON for the output: one growing buffer, written as one line. Out of memory is remembered and told by json_print.
 * Keys are our own literals; a NULL key is an element of an array.
 */
#ifndef CLI_JSON_OUT_H
#define CLI_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
    char *data;
    size_t len, cap;
    bool broken;
};

void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);                 /* '}' or ']' */
void json_string(struct json *j, const char *key, const char *text);
void json_text(struct json *j, const char *key, const char *text, size_t len); /* valid UTF-8 */
void json_base64(struct json *j, const char *key, const void *data, size_t len);
void json_raw(struct json *j, const char *key, const char *value, size_t len); /* JSON; its line breaks become spaces */
void json_uint(struct json *j, const char *key, uint64_t value);
void json_int(struct json *j, const char *key, int64_t value);
void json_fixed(struct json *j, const char *key, double value); /* three decimals */
void json_bool(struct json *j, const char *key, bool value);
void json_time(struct json *j, const char *key, int64_t unix_ns); /* RFC 3339, UTC */

/* Writes the buffer and a line feed, flushes, empties the buffer. False: not all of it was written. */
bool json_print(struct json *j, FILE *to);
void json_fini(struct json *j);

bool utf8_valid(const void *data, size_t len);

#endif
