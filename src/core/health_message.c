/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The health message of the Go original: {"messageId":"hc-<unix ns>-<16 hex>","timestamp":...,"source":...,
 * "eventBusType":"nats","version":"2.0.0","metadata":{"checkType":"periodic","instanceId":"<source>-<unix s>"}}
 */
#include "core/bus.h"
#include "core/json_scan.h"
#include "core/rfc3339.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const types[] = {"nats", "kafka", "memory"};

/* A source is a checked name or was checked when the publisher was started: it needs no escapes. */
size_t ev_health_put(char out[EV_HEALTH_TEXT_MAX], const char *source, const char *type, int64_t wall_ns,
                     int64_t started_s)
{
    char time[EV_RFC3339_MAX + 1];

    time[ev_rfc3339_put(time, wall_ns)] = 0;
    const int n = snprintf(out, EV_HEALTH_TEXT_MAX,
                           "{\"messageId\":\"hc-%" PRId64 "-%016" PRIx64 "\",\"timestamp\":\"%s\",\"source\":\"%s\","
                           "\"eventBusType\":\"%s\",\"version\":\"2.0.0\",\"metadata\":{\"checkType\":\"periodic\","
                           "\"instanceId\":\"%s-%" PRId64 "\"}}",
                           wall_ns, ev_random(), time, source, type, source, started_s);
    return n > 0 ? (size_t)n : 0;
}

/* One key and its value, which are JSON already; the keys as the original writes them. */
static void take(struct ev_health_message *m, const char *key, size_t key_len, const char *from, const char *to)
{
    char time[64];
    const struct {
        const char *key;
        char *out;
        size_t cap;
    } texts[] = {{"messageId", m->id, sizeof m->id},
                 {"source", m->source, sizeof m->source},
                 {"eventBusType", m->type, sizeof m->type},
                 {"timestamp", time, sizeof time}};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (strlen(texts[i].key) != key_len || memcmp(texts[i].key, key, key_len) != 0 || *from != '"')
            continue;
        const size_t n = ev_json_unescape(texts[i].out, texts[i].cap - 1, from + 1, to - 1);
        texts[i].out[n == SIZE_MAX ? 0 : n] = 0; /* too long for what it is: absent */
        if (texts[i].out == time && ev_rfc3339_get(time, strlen(time), &m->time_ns))
            m->time_ns = 0;
    }
}

evbus_status ev_health_get(const char *text, size_t len, struct ev_health_message *ret)
{
    const char *end = text + len, *at = ev_json_space(text, end);
    struct ev_json_fault fault = {0};

    memset(ret, 0, sizeof *ret);
    if (!ev_json_text(text, end, 16, &fault))
        return ev_fail(EVBUS_INVALID, "health message: %s at byte %zu", fault.what, (size_t)(fault.at - text));
    if (*at != '{')
        return ev_fail(EVBUS_INVALID, "health message: it is no object");
    for (at = ev_json_space(at + 1, end); *at != '}'; at = ev_json_space(at + (*at == ','), end)) {
        bool escaped;
        const char *key = at + 1, *key_end = ev_json_string(key, end, &escaped, &fault);
        const char *value = ev_json_space(ev_json_space(key_end + 1, end) + 1, end); /* behind the colon */
        at = ev_json_value(value, end, 16, &fault);
        take(ret, key, (size_t)(key_end - key), value, at);
        at = ev_json_space(at, end);
    }
    bool known = false;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        known |= strcmp(ret->type, types[i]) == 0;
    if (!ret->id[0] || !ret->source[0] || !known || ret->time_ns == 0)
        return ev_fail(EVBUS_INVALID,
                       "health message: messageId, source, eventBusType (nats, kafka, memory) or timestamp is missing");
    return EVBUS_OK;
}
