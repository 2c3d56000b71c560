/* SPDX-License-Identifier: Apache-2.0 */
/* How far consumers are, as CONSUMER.INFO and CONSUMER.LIST tell it. Rare: for people and for the backlog monitor. */
#include "backend/nats_api.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <jansson.h>
#include <string.h>

char *ev_nats_list_request(uint64_t offset)
{
    return ev_nats_json_text(json_pack("{s:I}", "offset", (json_int_t)offset));
}

static uint64_t count_of(const json_t *object, const char *key)
{
    const json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

static bool put(const json_t *object, const char *key, char out[EV_NAME_MAX])
{
    const char *text = json_string_value(json_object_get(object, key));

    return ev_copy(out, EV_NAME_MAX, text ? text : "");
}

static bool read_one(const json_t *info, struct ev_consumer_state *s)
{
    const json_t *config = json_object_get(info, "config");
    const char *ack = json_string_value(json_object_get(config, "ack_policy"));

    memset(s, 0, sizeof *s);
    s->durable = json_string_length(json_object_get(config, "durable_name")) > 0;
    s->ack_explicit = ack && strcmp(ack, "none") != 0;
    s->pending = count_of(info, "num_pending");
    s->ack_pending = count_of(info, "num_ack_pending");
    s->redelivered = count_of(info, "num_redelivered");
    s->waiting = count_of(info, "num_waiting");
    s->delivered = count_of(json_object_get(info, "delivered"), "consumer_seq");
    s->floor_seq = count_of(json_object_get(info, "ack_floor"), "stream_seq");
    s->delivered_seq = count_of(json_object_get(info, "delivered"), "stream_seq");
    if (!s->ack_explicit) /* nothing is settled: what was delivered is done */
        s->floor_seq = s->delivered_seq;
    return put(info, "stream_name", s->stream) && put(info, "name", s->name) && s->name[0] &&
           put(config, "filter_subject", s->filter);
}

evbus_status ev_nats_parse_states(const char *json, size_t len, const char *what, bool one, struct ev_nats_states *to)
{
    evbus_status st = ev_nats_parse_answer(json, len, what);
    json_t *root = st == EVBUS_OK ? json_loadb(json, len, 0, NULL) : NULL;
    const json_t *list = json_object_get(root, "consumers"); /* null when there is none */

    if (st != EVBUS_OK)
        return st;
    to->page = one ? 1 : (uint32_t)json_array_size(list);
    to->total = one ? 1 : count_of(root, "total");
    struct ev_consumer_state *items = ev_realloc(to->items, (to->count + to->page + 1) * sizeof *items);
    if (items)
        to->items = items;
    else
        st = ev_fail(EVBUS_NOMEM, "out of memory for the consumers of a stream");
    for (uint32_t i = 0; st == EVBUS_OK && i < to->page; i++) {
        if (read_one(one ? root : json_array_get(list, i), &to->items[to->count]))
            to->count++;
        else
            st = ev_fail(EVBUS_UNSUPPORTED, "%s: the server's answer cannot be read: a name is missing or too long",
                         what);
    }
    json_decref(root);
    return st;
}

evbus_status ev_nats_parse_account(const char *json, size_t len, struct ev_account *ret)
{
    const evbus_status st = ev_nats_parse_answer(json, len, "account");
    json_t *root = st == EVBUS_OK ? json_loadb(json, len, 0, NULL) : NULL;
    const json_t *limits = json_object_get(root, "limits");

    if (st != EVBUS_OK)
        return st;
    *ret = (struct ev_account){
        .streams = count_of(root, "streams"),
        .streams_max = count_of(limits, "max_streams"), /* -1: no limit */
        .consumers = count_of(root, "consumers"),
        .consumers_max = count_of(limits, "max_consumers"),
        .memory = count_of(root, "memory"),
        .memory_max = count_of(limits, "max_memory"),
        .storage = count_of(root, "storage"),
        .storage_max = count_of(limits, "max_storage"),
    };
    json_decref(root);
    return EVBUS_OK;
}
