/* SPDX-License-Identifier: Apache-2.0 */
#include "sub_print.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

void sub_printer_init(struct sub_printer *p, bool as_json, const struct arg_list *headers)
{
    *p = (struct sub_printer){.as_json = as_json, .headers = headers, .terminal = isatty(STDOUT_FILENO) != 0};
}

void sub_printer_fini(struct sub_printer *p)
{
    json_fini(&p->json);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void put_bytes(struct json *j, const char *text_key, const char *other_key, const void *data, size_t len)
{
    if (utf8_valid(data, len))
        json_text(j, text_key, data, len);
    else
        json_base64(j, other_key, data, len);
}

static void put_headers(struct json *j, const struct arg_list *names, const evbus_msg *msg)
{
    if (names->count == 0)
        return;
    json_open(j, "headers", '{');
    for (size_t i = 0; i < names->count; i++) {
        const char *value = evbus_msg_header(msg, names->items[i]);
        if (value && utf8_valid(names->items[i], strlen(names->items[i])) && utf8_valid(value, strlen(value)))
            json_string(j, names->items[i], value);
    }
    json_close(j, '}');
}

static void put_envelope(struct json *j, const evbus_envelope *env)
{
    json_string(j, "event_id", env->event_id);
    json_string(j, "aggregate_id", env->aggregate_id);
    json_string(j, "event_type", env->event_type);
    json_int(j, "event_version", env->event_version);
    if (env->timestamp_ns)
        json_time(j, "timestamp", env->timestamp_ns);
    if (env->trace_id)
        json_string(j, "trace_id", env->trace_id);
    if (env->correlation_id)
        json_string(j, "correlation_id", env->correlation_id);
    if (env->tenant_id)
        json_int(j, "tenant_id", env->tenant_id);
    json_raw(j, "payload", env->payload, env->payload_len);
}

static bool print_json(struct sub_printer *p, const evbus_msg *msg)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    const evbus_view body = evbus_msg_data(msg);
    struct json *j = &p->json;

    json_open(j, NULL, '{');
    const char *topic = evbus_msg_topic(msg); /* others may publish to names evbus would refuse */
    put_bytes(j, "topic", "topic_base64", topic, strlen(topic));
    json_string(j, "stream", evbus_msg_stream(msg));
    json_uint(j, "sequence", evbus_msg_sequence(msg));
    json_uint(j, "delivery_count", evbus_msg_delivery_count(msg));
    if (evbus_msg_stored_ns(msg))
        json_time(j, "stored", evbus_msg_stored_ns(msg));
    put_headers(j, p->headers, msg);
    if (env)
        put_envelope(j, env);
    else
        put_bytes(j, "text", "base64", body.data, body.len);
    json_close(j, '}');
    return json_print(j, stdout);
}

/* ---- Text -------------------------------------------------------------------------------------------------------- */

/* Control characters could do things to a terminal; elsewhere the bytes stay what they are. */
static void put_body(const struct sub_printer *p, const char *data, size_t len)
{
    if (!p->terminal) {
        (void)fwrite(data, 1, len, stdout);
        return;
    }
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)data[i] < 0x20 && data[i] != '\t' && data[i] != '\n') || data[i] == 0x7f)
            (void)printf("\\x%02x", (unsigned char)data[i]);
        else
            (void)fputc(data[i], stdout);
}

static bool print_text(const struct sub_printer *p, const evbus_msg *msg)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    const evbus_view body = evbus_msg_data(msg);

    (void)fputs(evbus_msg_topic(msg), stdout);
    if (evbus_msg_sequence(msg))
        (void)printf(" #%" PRIu64, evbus_msg_sequence(msg));
    if (evbus_msg_redelivered(msg))
        (void)printf(" (delivery %" PRIu32 ")", evbus_msg_delivery_count(msg));
    for (size_t i = 0; i < p->headers->count; i++) {
        const char *value = evbus_msg_header(msg, p->headers->items[i]);
        if (value) {
            (void)printf(" %s=", p->headers->items[i]);
            put_body(p, value, strlen(value));
        }
    }
    (void)fputc(' ', stdout);
    if (env) {
        put_body(p, env->aggregate_id, strlen(env->aggregate_id));
        (void)printf(" v%" PRId64 " ", env->event_version);
        put_body(p, env->event_type, strlen(env->event_type));
        (void)fputc(' ', stdout);
        put_body(p, env->payload, env->payload_len);
    } else {
        put_body(p, body.data, body.len);
    }
    (void)fputc('\n', stdout);
    return fflush(stdout) == 0 && !ferror(stdout);
}

bool sub_print(struct sub_printer *p, const evbus_msg *msg)
{
    return p->as_json ? print_json(p, msg) : print_text(p, msg);
}
