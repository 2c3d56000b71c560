/* SPDX-License-Identifier: Apache-2.0 */
/* The relay against the bus: its own one, so that receipts are nobody else's. */
#include "outbox/relay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_ROOM_PAUSE (2 * EV_MS)
#define WINDOW_LOOK_AGAIN (30000 * EV_MS)
#define BUS_BYTES (UINT64_C(64) << 20)
#define TENANTS_MAX 65536
#define TENANTS_FORGOTTEN 64

/* ---- Receipts ---------------------------------------------------------------------------------------------------- */

/* On a thread of the bus. Each lane has one row in flight at most, so its place is free. */
static void on_receipt(const evbus_receipt *receipt, void *ctx)
{
    struct evbus_outbox_relay *r = ctx;
    const uint64_t one = 1;

    pthread_mutex_lock(&r->mutex);
    struct ev_done *done = &r->done[receipt->tag];
    done->outcome = receipt->outcome;
    done->status = receipt->status;
    done->duplicate = receipt->duplicate;
    done->sequence = receipt->sequence;
    (void)snprintf(done->text, sizeof done->text, "%s", receipt->detail);
    r->done_list[r->done_count++] = (uint32_t)receipt->tag;
    const bool first = r->done_count == 1;
    pthread_mutex_unlock(&r->mutex);
    if (first)
        (void)!write(r->wake, &one, sizeof one);
}

/* Says nothing about the row: it will pass. */
static bool passing(evbus_status status)
{
    switch (status) {
    case EVBUS_DISCONNECTED:
    case EVBUS_TIMEOUT:
    case EVBUS_BACKPRESSURE:
    case EVBUS_CLOSED:
    case EVBUS_UNKNOWN:
    case EVBUS_NOT_FOUND:
    case EVBUS_NO_JETSTREAM:
    case EVBUS_NOMEM:
    case EVBUS_SYSTEM:
    case EVBUS_AUTH:
    case EVBUS_TLS:
        return true;
    default:
        return false;
    }
}

static void fail(struct evbus_outbox_relay *r, struct ev_lane *lane, evbus_status status, bool unknown,
                 const char *text)
{
    lane->failure.status = status;
    lane->failure.unknown = unknown;
    lane->failure.counts = !unknown && !passing(status);
    (void)snprintf(lane->failure.text, sizeof lane->failure.text, "%s", *text ? text : evbus_strerror(status));
    ev_lane_set(r, lane, EV_LANE_FAILED);
}

static void complete(struct evbus_outbox_relay *r, struct ev_lane *lane, const struct ev_done *done)
{
    if (done->outcome != EVBUS_OUTCOME_STORED) {
        if (done->outcome == EVBUS_OUTCOME_REFUSED)
            EV_COUNT(r, refused, 1);
        else
            EV_COUNT(r, unknown, 1);
        fail(r, lane, done->status, done->outcome != EVBUS_OUTCOME_REFUSED, done->text);
        return;
    }
    EV_COUNT(r, stored, 1);
    EV_COUNT(r, duplicate, done->duplicate);
    ev_text_add(&r->marks, "%s[%" PRId64 ",%" PRIu64 "]", r->marks_count ? "," : "", lane->rows[lane->at]->id,
                done->sequence);
    r->marks_count++;
    lane->fails = 0;
    ev_lane_next(r, lane);
}

void ev_relay_receipts(struct evbus_outbox_relay *r)
{
    for (;;) {
        uint32_t batch[64];
        uint32_t count = 0;
        pthread_mutex_lock(&r->mutex);
        while (r->done_count && count < sizeof batch / sizeof *batch)
            batch[count++] = r->done_list[--r->done_count];
        pthread_mutex_unlock(&r->mutex);
        if (count == 0)
            return;
        for (uint32_t i = 0; i < count; i++)
            complete(r, &r->lanes[batch[i]], &r->done[batch[i]]);
    }
}

/* ---- The bus ----------------------------------------------------------------------------------------------------- */

static uint32_t at_least(uint32_t given, uint32_t default_is, uint32_t wanted)
{
    const uint32_t now = given ? given : default_is;

    return now < wanted ? wanted : now;
}

evbus_status ev_relay_bus_open(struct evbus_outbox_relay *r)
{
    evbus_opts o = r->bus_opts;

    o.receipts = EVBUS_ON;
    o.on_receipt = on_receipt;
    o.on_receipt_ctx = r;
    o.ack_workers = 1;
    if (!o.tenants_max)
        o.tenants_max = TENANTS_MAX;
    o.publish_timeout_ms = r->o.publish_timeout_ms;
    o.publish_inflight_max = at_least(o.publish_inflight_max, 4096, r->o.aggregates_max);
    o.receipts_max = at_least(o.receipts_max, 8192, r->o.aggregates_max);
    if (!o.publish_bytes_max)
        o.publish_bytes_max = BUS_BYTES;
    if (!o.workers_min && !o.workers_max)
        o.workers_min = o.workers_max = 1; /* nothing is subscribed here */
    if (!o.name)
        o.name = "evbus-outbox-relay";
    const evbus_status st = evbus_open(r->url, &o, &r->bus);
    return st == EVBUS_OK ? st : ev_outbox_fail_bus(st, "the relay's bus");
}

bool ev_relay_bus_up(const struct evbus_outbox_relay *r)
{
    evbus_statistics s;

    return r->bus && evbus_stats(r->bus, &s) == EVBUS_OK && s.connected;
}

/* ---- Topics ------------------------------------------------------------------------------------------------------ */

static struct ev_relay_topic *topic_get(struct evbus_outbox_relay *r, const char *name)
{
    struct ev_relay_topic **bucket = &r->topics[ev_hash_of(name) % EV_TOPIC_BUCKETS];

    for (struct ev_relay_topic *t = *bucket; t; t = t->next) {
        if (strcmp(t->name, name) == 0)
            return t;
    }
    struct ev_relay_topic *t = calloc(1, sizeof *t + strlen(name) + 1);
    if (!t)
        return NULL;
    strcpy(t->name, name);
    t->next = *bucket;
    *bucket = t;
    return t;
}

void ev_relay_topics_free(struct evbus_outbox_relay *r)
{
    for (uint32_t i = 0; i < EV_TOPIC_BUCKETS; i++) {
        while (r->topics[i]) {
            struct ev_relay_topic *next = r->topics[i]->next;
            free(r->topics[i]);
            r->topics[i] = next;
        }
    }
}

static evbus_status too_short(struct evbus_outbox_relay *r, const struct ev_relay_topic *t)
{
    return ev_outbox_fail(EVBUS_MISMATCH,
                          "topic %s: its stream's duplicate window of %" PRIu64
                          " ms does not exceed lease_ms + publish_timeout_ms (%u + %u): not safe to send again",
                          t->name, t->window_ms, (unsigned)r->o.lease_ms, (unsigned)r->o.publish_timeout_ms);
}

evbus_status ev_relay_topic_check(struct evbus_outbox_relay *r, const char *topic, uint64_t *ret_window_ms)
{
    struct ev_relay_topic *t = topic_get(r, topic);
    evbus_stream_info info;

    if (!t)
        return ev_outbox_fail(EVBUS_NOMEM, "out of memory for a topic");
    if (!t->fits && ev_boot_ns() < t->look_again_ns)
        return too_short(r, t);
    if (!t->fits) {
        const evbus_status st = evbus_topic_stream(r->bus, topic, r->o.publish_timeout_ms, &info);
        if (st != EVBUS_OK)
            return ev_outbox_fail_bus(st, topic);
        t->window_ms = info.duplicate_window_ms;
        t->fits = t->window_ms > (uint64_t)r->o.lease_ms + r->o.publish_timeout_ms;
    }
    if (!t->fits) {
        t->look_again_ns = ev_boot_ns() + WINDOW_LOOK_AGAIN;
        const evbus_status st = too_short(r, t);
        EV_COUNT(r, windows_refused, 1);
        const struct ev_row row = {.topic = t->name, .event_id = ""};
        if (r->running) /* else the start says so */
            ev_relay_event(r, EVBUS_OUTBOX_EVENT_WINDOW, st, 1, &row, "", "%s", evbus_outbox_error_detail());
        return st;
    }
    *ret_window_ms = t->window_ms;
    return EVBUS_OK;
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

/* Perhaps it was sent before, and so long ago that the stream does not know any more. */
static void count_maybe_twice(struct evbus_outbox_relay *r, const struct ev_lane *lane, int64_t now, uint64_t window_ms)
{
    const struct ev_row *row = lane->rows[lane->at];

    if (!ev_lane_carries(lane) ||
        now - lane->carry_since_ns + (int64_t)r->o.publish_timeout_ms * EV_MS < (int64_t)window_ms * EV_MS)
        return;
    EV_COUNT(r, maybe_twice, 1);
    ev_relay_event(r, EVBUS_OUTBOX_EVENT_MAYBE_TWICE, EVBUS_UNKNOWN, 1, row, lane->aggregate,
                   "event %s of aggregate %s may have been sent %" PRId64
                   " ms ago, beyond the stream's duplicate window: it may be stored twice",
                   row->event_id, lane->aggregate, (now - lane->carry_since_ns) / EV_MS);
}

/* The first row of its tenant, or the first again. Room is made by forgetting tenants; those with a row in flight are
 * gone when its receipt has come. */
static evbus_status register_tenant(struct evbus_outbox_relay *r, int64_t id)
{
    evbus_tenant old[TENANTS_FORGOTTEN] = {{.struct_size = sizeof *old}};
    size_t count = 0;
    const evbus_status st = evbus_tenant_register(r->bus, id, NULL);

    if (st == EVBUS_LIMIT && evbus_tenant_list(r->bus, old, TENANTS_FORGOTTEN, &count) == EVBUS_OK) {
        for (size_t i = 0; i < count && i < TENANTS_FORGOTTEN; i++)
            (void)evbus_tenant_unregister(r->bus, old[i].tenant_id);
    }
    return st == EVBUS_LIMIT || st == EVBUS_EXISTS ? EVBUS_BACKPRESSURE : st; /* soon */
}

static evbus_status publish(struct evbus_outbox_relay *r, const struct ev_lane *lane)
{
    const struct ev_row *row = lane->rows[lane->at];
    const evbus_envelope env = {
        .event_id = row->event_id,
        .aggregate_id = lane->aggregate,
        .event_type = row->event_type,
        .event_version = row->version,
        .timestamp_ns = row->stamp_ns,
        .trace_id = row->trace_id,
        .correlation_id = row->correlation_id,
        .tenant_id = row->tenant,
        .payload = row->payload,
        .payload_len = row->payload_len,
    };
    const evbus_pub_opts o = {.struct_size = sizeof o, .tag = (uint64_t)(lane - r->lanes), .timeout_ms = EVBUS_NOWAIT};
    evbus_status st = evbus_publish_envelope(r->bus, row->topic, &env, &o);

    if (st == EVBUS_NOT_REGISTERED) {
        st = register_tenant(r, row->tenant);
        if (st == EVBUS_OK)
            st = evbus_publish_envelope(r->bus, row->topic, &env, &o);
    }
    return st;
}

static void send_row(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    uint64_t window_ms = 0;
    evbus_status st = ev_relay_topic_check(r, lane->rows[lane->at]->topic, &window_ms);

    if (st != EVBUS_OK) {
        fail(r, lane, st, false, evbus_outbox_error_detail());
        lane->failure.counts = lane->failure.counts && st != EVBUS_MISMATCH;
        return;
    }
    const int64_t now = ev_boot_ns();
    if (now >= lane->until_ns) { /* somebody else's by now, perhaps */
        EV_COUNT(r, leases_lost, 1);
        ev_lane_free(r, lane);
        return;
    }
    if (now + (int64_t)r->o.publish_timeout_ms * EV_MS > lane->until_ns) {
        ev_lane_set(r, lane, EV_LANE_SPENT); /* keep the lease first; the rows are read again */
        return;
    }
    count_maybe_twice(r, lane, now, window_ms);
    ev_lane_set(r, lane, EV_LANE_SENT); /* its receipt may come before the call returns */
    st = publish(r, lane);
    if (st == EVBUS_OK) {
        EV_COUNT(r, sent, 1);
    } else if (st == EVBUS_BACKPRESSURE) {
        ev_lane_set(r, lane, EV_LANE_READY);
        r->room_ns = ev_boot_ns() + NO_ROOM_PAUSE;
    } else {
        if (!passing(st))
            EV_COUNT(r, refused, 1);
        fail(r, lane, st, false, evbus_error_detail());
    }
}

void ev_relay_send(struct evbus_outbox_relay *r)
{
    if (r->ready == 0 || ev_boot_ns() < r->room_ns || !ev_relay_bus_up(r))
        return;
    for (uint32_t i = 0; i < r->o.aggregates_max && r->ready; i++) {
        if (r->lanes[i].state == EV_LANE_READY)
            send_row(r, &r->lanes[i]);
    }
}
