/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/relay.h"

#include <stdlib.h>
#include <string.h>

struct ev_lane *ev_lane_find(struct evbus_outbox_relay *r, const char *aggregate)
{
    const uint64_t hash = ev_hash_of(aggregate);

    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state != EV_LANE_FREE && lane->hash == hash && strcmp(lane->aggregate, aggregate) == 0)
            return lane;
    }
    return NULL;
}

struct ev_lane *ev_lane_take(struct evbus_outbox_relay *r, const char *aggregate)
{
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state != EV_LANE_FREE)
            continue;
        memset(lane, 0, sizeof *lane);
        lane->hash = ev_hash_of(aggregate);
        memcpy(lane->aggregate, aggregate, strlen(aggregate) + 1);
        lane->state = EV_LANE_SPENT;
        r->held++;
        return lane;
    }
    return NULL;
}

void ev_lane_set(struct evbus_outbox_relay *r, struct ev_lane *lane, enum ev_lane_state state)
{
    r->ready -= lane->state == EV_LANE_READY;
    r->inflight -= lane->state == EV_LANE_SENT;
    lane->state = state;
    r->ready += state == EV_LANE_READY;
    r->inflight += state == EV_LANE_SENT;
}

void ev_lane_drop_rows(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    for (uint32_t i = 0; i < lane->count; i++) {
        if (lane->rows[i])
            r->bytes -= lane->rows[i]->bytes;
        free(lane->rows[i]);
        lane->rows[i] = NULL;
    }
    lane->count = lane->at = 0;
}

void ev_lane_free(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    ev_lane_drop_rows(r, lane);
    ev_lane_set(r, lane, EV_LANE_FREE);
    r->held--;
}

void ev_lane_next(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    r->bytes -= lane->rows[lane->at]->bytes;
    free(lane->rows[lane->at]);
    lane->rows[lane->at] = NULL;
    lane->at++;
    if (lane->at < lane->count)
        ev_lane_set(r, lane, EV_LANE_READY);
    else
        ev_lane_set(r, lane, lane->more ? EV_LANE_SPENT : EV_LANE_LEAVING);
}

bool ev_lane_carries(const struct ev_lane *lane)
{
    return lane->carry_upto > 0 && (lane->at >= lane->count || lane->rows[lane->at]->id <= lane->carry_upto);
}

void ev_lanes_forget(struct evbus_outbox_relay *r)
{
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state != EV_LANE_FREE && lane->state != EV_LANE_SENT)
            ev_lane_free(r, lane);
    }
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static const char *put(char **at, const char *text)
{
    if (!text)
        return NULL;
    const size_t size = strlen(text) + 1;
    char *to = *at;
    memcpy(to, text, size);
    *at += size;
    return to;
}

/* id, event_id, topic, event_type, event_version, timestamp_ns, trace_id, correlation_id, tenant_id, payload, attempts */
struct ev_row *ev_row_new(const char *const *c)
{
    static const int texts[] = {1, 2, 3, 6, 7, 9};
    size_t size = 0;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        size += c[texts[i]] ? strlen(c[texts[i]]) + 1 : 0;
    struct ev_row *row = malloc(sizeof *row + size);
    if (!row)
        return NULL;
    char *at = row->text;
    row->id = ev_number_of(c[0]);
    row->event_id = put(&at, c[1]);
    row->topic = put(&at, c[2]);
    row->event_type = put(&at, c[3]);
    row->version = ev_number_of(c[4]);
    row->stamp_ns = ev_number_of(c[5]);
    row->trace_id = put(&at, c[6]);
    row->correlation_id = put(&at, c[7]);
    row->tenant = ev_number_of(c[8]);
    row->payload = put(&at, c[9]);
    row->payload_len = strlen(row->payload);
    row->attempts = ev_number_of(c[10]);
    row->bytes = sizeof *row + size;
    return row;
}
