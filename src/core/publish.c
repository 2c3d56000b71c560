/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's side of publishing. In order: closed? topic record, room for the receipt if one is wanted, stream
 * known, gate open (outage.c), slot, bytes, submit. Room for the receipt comes before the slot: who waits for it holds no slot.
 * When all goes well that is a table look-up, three atomic reads, two ring operations and the encoding: no lock, no
 * allocation, no system call unless the loop sleeps.
 */
#include "core/bus.h"

#include "core/envelope.h"
#include "core/letters.h"
#include "core/outage.h"
#include "core/outcome.h"
#include "core/rate.h"
#include "core/streams.h"
#include "core/utf8.h"

#include <stdio.h>
#include <string.h>

#define HEADERS_MAX 64
#define HEADER_BYTES_MAX 65536
#define MSG_ID_PLAIN_MAX 200
#define MSG_ID_TOPIC_KEPT 120

struct request {
    evbus *bus;
    struct ev_topic *topic;
    evbus_pub_opts opts;
    evbus_topic_opts cfg;
    const evbus_envelope *env; /* NULL: plain */
    const struct ev_raw *raw;  /* plain, but with headers and ids of its own */
    const void *data;
    size_t len;
    enum ev_slot_kind kind;
    bool receipted;             /* ends in a receipt ... */
    struct ev_receipt *receipt; /* ... which has its place here; NULL: none yet, or it is the slot's by now */
    bool stored;                /* through the stream, not core NATS */
    int64_t now, room_deadline, deadline;
};

/* ---- Headers ----------------------------------------------------------------------------------------------------- */

static evbus_status header_check(const evbus_header *h)
{
    const size_t n = strlen(h->name), v = h->value ? strlen(h->value) : 0;

    if (n == 0 || n > 128 || v == 0 || v > 4096)
        return ev_fail(EVBUS_INVALID, "header '%.80s': name of %zu bytes (1..128), value of %zu (1..4096)", h->name, n,
                       v);
    for (size_t i = 0; i < n; i++)
        if (h->name[i] <= 32 || h->name[i] >= 127 || h->name[i] == ':')
            return ev_fail(EVBUS_INVALID,
                           "header '%.80s': byte 0x%02x at position %zu is not printable ASCII without "
                           "space and ':'",
                           h->name, (unsigned char)h->name[i], i);
    for (size_t i = 0; i < v; i++)
        if (h->value[i] == '\r' || h->value[i] == '\n')
            return ev_fail(EVBUS_INVALID, "header '%.80s': CR or LF at position %zu of its value", h->name, i);
    if (strncasecmp(h->name, "Nats-", 5) == 0 || strncasecmp(h->name, "Evbus-", 6) == 0)
        return ev_fail(EVBUS_INVALID, "header '%.80s': names starting with Nats- and Evbus- are reserved", h->name);
    return EVBUS_OK;
}

/* Bytes of the header block, 0 if there is none. */
static evbus_status headers_size(const evbus_pub_opts *o, size_t *ret)
{
    size_t size = 0;
    uint32_t count = 0;

    if (o->key) {
        const evbus_header key = {"Key", o->key};
        evbus_status st = header_check(&key);
        if (st != EVBUS_OK)
            return ev_fail_prefix(st, "evbus_pub_opts.key");
        size += strlen("Evbus-Key: \r\n") + strlen(o->key);
    }
    for (const evbus_header *h = o->headers; h && h->name; h++) {
        evbus_status st = header_check(h);
        if (st != EVBUS_OK)
            return st;
        size += strlen(h->name) + (h->value ? strlen(h->value) : 0) + 4;
        if (++count > HEADERS_MAX || size > HEADER_BYTES_MAX)
            return ev_fail(EVBUS_INVALID, "evbus_pub_opts.headers: more than %d headers or %d bytes", HEADERS_MAX,
                           HEADER_BYTES_MAX);
    }
    *ret = size;
    return EVBUS_OK;
}

static size_t put_headers(char *out, size_t cap, const evbus_pub_opts *o)
{
    size_t n = 0;

    if (o->key)
        n += (size_t)snprintf(out, cap, "Evbus-Key: %s\r\n", o->key);
    for (const evbus_header *h = o->headers; h && h->name; h++)
        n += (size_t)snprintf(out + n, cap - n, "%s: %s\r\n", h->name, h->value ? h->value : "");
    return n;
}

/* ---- Filling a slot ---------------------------------------------------------------------------------------------- */

/* A second hash of a long id, independent enough of ev_fnv1a: the same in every process and version. */
static uint64_t backwards(const char *text)
{
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15);

    for (size_t i = strlen(text); i > 0; i--)
        h = (h ^ (unsigned char)text[i - 1]) * UINT64_C(0xff51afd7ed558ccd);
    return h ^ (h >> 32);
}

/* Printable ASCII without space: a byte above 0x7e gets its top bit by adding 1. */
static bool is_graphic(const char *text, size_t len)
{
    size_t i = 0;

    for (; i + EV_WORD <= len; i += EV_WORD) {
        const uint64_t word = ev_word_load(text + i);
        if (ev_word_below(word, 33) | (word & EV_WORD_TOPS) | ev_word_equal(word, 0x7f))
            return false;
    }
    for (; i < len; i++)
        if (text[i] <= 32 || text[i] >= 127)
            return false;
    return true;
}

/* "<topic> <event id>": two subjects of one stream share the duplicate window. Long or unprintable ones are hashed. */
static uint32_t put_msg_id(char *buf, uint32_t at, const struct ev_topic *topic, const char *event_id)
{
    const size_t id = strlen(event_id);
    char *out = buf + at;

    if (topic->len + 1 + id <= MSG_ID_PLAIN_MAX && is_graphic(event_id, id)) {
        memcpy(out, topic->name, topic->len);
        out[topic->len] = ' ';
        memcpy(out + topic->len + 1, event_id, id + 1);
        return (uint32_t)(topic->len + id + 2);
    }
    const size_t kept = topic->len < MSG_ID_TOPIC_KEPT ? topic->len : MSG_ID_TOPIC_KEPT;
    memcpy(out, topic->name, kept);
    memcpy(out + kept, " #", 2);
    ev_put_hex16(out + kept + 2, ev_fnv1a(event_id, id));
    ev_put_hex16(out + kept + 18, backwards(event_id) ^ ev_fnv1a(topic->name, topic->len)); /* of the whole topic */
    out[kept + 34] = 0;
    return (uint32_t)kept + 35;
}

static uint32_t put_text(char *buf, uint32_t *at, const char *text)
{
    const uint32_t offset = *at;
    const size_t len = strlen(text) + 1;

    memcpy(buf + offset, text, len);
    *at += (uint32_t)len;
    return offset;
}

static evbus_status fill_envelope(const struct request *r, struct ev_slot *slot, uint32_t at)
{
    evbus_envelope env = *r->env;
    char uuid[EV_UUID_LEN + 1];
    size_t len = 0;
    const int64_t wall = env.event_id && env.timestamp_ns ? 0 : ev_clock_wall(r->bus->clock);

    if (!env.event_id) {
        ev_uuid7(wall, uuid);
        env.event_id = uuid;
    }
    if (env.timestamp_ns == 0)
        env.timestamp_ns = wall;
    slot->event_id = put_text(slot->buf, &at, env.event_id);
    slot->aggregate_id = put_text(slot->buf, &at, env.aggregate_id);
    if (r->cfg.msg_id == EVBUS_ON) {
        slot->msg_id = at;
        at += put_msg_id(slot->buf, at, r->topic, env.event_id);
    }
    evbus_status st = ev_envelope_encode(&env, slot->buf + at, slot->cap - at, &len);
    if (st != EVBUS_OK)
        return st;
    slot->tenant = env.tenant_id;
    slot->data = at;
    slot->data_len = (uint32_t)len;
    slot->receipt = r->receipt;
    if (r->receipt)
        ev_receipt_describe(r->receipt, slot);
    return EVBUS_OK;
}

static void fill_raw(const struct ev_raw *raw, struct ev_slot *slot, uint32_t *at)
{
    if (raw->headers_len) {
        slot->headers = put_text(slot->buf, at, raw->headers);
        slot->headers_len = (uint32_t)raw->headers_len;
    }
    slot->msg_id = put_text(slot->buf, at, raw->msg_id);
    slot->event_id = put_text(slot->buf, at, raw->event_id);
    slot->aggregate_id = put_text(slot->buf, at, raw->aggregate_id);
}

static evbus_status fill(const struct request *r, struct ev_slot *slot, size_t headers)
{
    uint32_t at = 1;

    slot->kind = (uint8_t)r->kind;
    slot->topic = r->topic;
    slot->tag = r->opts.tag;
    slot->want_ack = r->stored;
    slot->tenant = 0;
    slot->sequence = 0;
    slot->dup = false;
    slot->broker_code = 0;
    slot->accepted_ns = r->now;
    slot->deadline_ns = r->deadline;
    if (headers) {
        slot->headers = at;
        slot->headers_len = (uint32_t)put_headers(slot->buf + at, slot->cap - at, &r->opts);
        at += slot->headers_len + 1;
    }
    if (r->env)
        return fill_envelope(r, slot, at);
    if (r->raw)
        fill_raw(r->raw, slot, &at);
    slot->data = at;
    slot->data_len = (uint32_t)r->len;
    if (r->len)
        memcpy(slot->buf + at, r->data, r->len);
    return EVBUS_OK;
}

static evbus_status bytes_needed(const struct request *r, size_t *ret, size_t *ret_headers)
{
    evbus_status st = headers_size(&r->opts, ret_headers);

    if (st != EVBUS_OK)
        return st;
    size_t size = *ret_headers + 2;
    if (r->env) {
        const char *id = r->env->event_id;
        const size_t id_len = id ? strlen(id) : EV_UUID_LEN;
        size += ev_envelope_size(r->env) + strlen(r->env->aggregate_id) + 2 * id_len + r->topic->len + 64;
    } else {
        size += r->len;
    }
    if (r->raw)
        size +=
            r->raw->headers_len + strlen(r->raw->msg_id) + strlen(r->raw->event_id) + strlen(r->raw->aggregate_id) + 8;
    const uint64_t max = r->bus->ops->max_payload(r->bus->state);
    const size_t body = r->env ? r->env->payload_len : r->len;
    if ((max && body > max) || size > UINT32_MAX / 2)
        return ev_fail(EVBUS_TOO_LARGE, "topic '%s': message of %zu bytes is above the broker's max payload (%llu)",
                       r->topic->name, body, (unsigned long long)max);
    *ret = size;
    return EVBUS_OK;
}

/* ---- The way out ------------------------------------------------------------------------------------------------- */

/* Accepted: from here on there will be exactly one outcome. */
static evbus_status accept(struct request *r, struct ev_slot **ret)
{
    size_t size = 0, headers = 0;
    evbus_status st = bytes_needed(r, &size, &headers);

    bool held = false;
    if (st == EVBUS_OK && r->cfg.rate_per_s)
        st = ev_rate_publish(r->topic, &r->cfg, r->room_deadline);
    if (st != EVBUS_OK || (st = ev_outage_pass(r->topic, &r->cfg, (uint32_t)size, r->room_deadline, &held)) != EVBUS_OK)
        return st;
    if ((st = ev_slot_take(r->bus, (uint32_t)size, r->room_deadline, ret)) != EVBUS_OK) {
        ev_outage_release(r->topic, held, (uint32_t)size);
        return st;
    }
    struct ev_slot *slot = *ret;
    slot->outage = held;
    if ((st = fill(r, slot, headers)) != EVBUS_OK) {
        ev_outage_forget(slot);
        ev_slot_give_back(r->bus, slot);
        ev_park_wake(&r->bus->slots.room, UINT32_MAX);
        return st;
    }
    if (held && r->kind != EV_SLOT_WAIT)
        slot->deadline_ns = ev_deadline(r->now, r->cfg.outage_hold_ms);
    if (!ev_slot_submit(r->bus, slot)) {
        ev_outage_forget(slot);
        ev_slot_give_back(r->bus, slot);
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    }
    r->receipt = NULL;                      /* the loop's, or the taker's already */
    ev_add_relaxed(&r->bus->n.accepted, 1); /* statistic */
    ev_add_relaxed(&r->topic->accepted, 1); /* statistic */
    return EVBUS_OK;
}

static evbus_status want_receipt(struct request *r)
{
    const uint32_t asked = r->opts.receipt;

    if (asked > EVBUS_OFF)
        return ev_fail(EVBUS_INVALID, "evbus_pub_opts.receipt: %u is none of its values (0..%d)", asked, EVBUS_OFF);
    if (asked == EVBUS_ON && r->kind != EV_SLOT_ENVELOPE)
        return ev_fail(EVBUS_INVALID, "evbus_pub_opts.receipt: %s",
                       r->kind == EV_SLOT_WAIT ? "evbus_publish_envelope_wait returns it" : "plain messages have none");
    r->receipted = r->kind == EV_SLOT_ENVELOPE && (asked ? asked : r->bus->cfg.o.receipts) == EVBUS_ON;
    return EVBUS_OK;
}

/* What does not depend on the message. */
static evbus_status prepare(struct request *r, const char *topic, const evbus_pub_opts *opts)
{
    evbus_status st = ev_bus_check(r->bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&r->opts, sizeof r->opts, opts, "evbus_pub_opts")) != EVBUS_OK ||
        (st = want_receipt(r)) != EVBUS_OK)
        return st;
    if (r->kind != EV_SLOT_PLAIN && r->opts.key)
        return ev_fail(EVBUS_INVALID, "evbus_pub_opts.key: an envelope's key is its aggregate_id");
    if ((st = ev_topic_get(r->bus, topic, false, &r->topic)) != EVBUS_OK)
        return st;
    const uint32_t ms = r->opts.timeout_ms ? r->opts.timeout_ms : r->bus->cfg.o.publish_timeout_ms;
    r->now = ev_now(r->bus);
    r->room_deadline = ev_deadline(r->now, ms);
    r->deadline = ms == EVBUS_NOWAIT ? ev_deadline(r->now, r->bus->cfg.o.publish_timeout_ms) : r->room_deadline;
    ev_topic_read(r->topic, &r->cfg);
    return EVBUS_OK;
}

static evbus_status ensure_stream(struct request *r)
{
    if (r->cfg.outage) {
        const evbus_status st = ev_outage_known(r->topic, &r->cfg, r->room_deadline, &r->stored);
        if (st != EVBUS_TIMEOUT)
            return st;
    }
    return ev_streams_ensure(r->topic, &r->cfg, r->kind != EV_SLOT_PLAIN, r->deadline, &r->stored);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Room for the receipt of r->env, if it ends in one. */
static evbus_status reserve_receipt(struct request *r)
{
    const evbus_receipt *limits = NULL;
    const evbus_envelope *e = r->env;

    if (!r->receipted)
        return EVBUS_OK;
    const size_t text = least((e->event_id ? strlen(e->event_id) : EV_UUID_LEN) + 1, sizeof limits->event_id) +
                        least(strlen(e->aggregate_id) + 1, sizeof limits->aggregate_id);
    return ev_receipt_reserve(r->bus, e->tenant_id, text, r->room_deadline, &r->receipt);
}

static void give_up_receipt(struct request *r)
{
    if (r->receipt)
        ev_receipt_cancel(r->receipt);
    r->receipt = NULL;
}

evbus_status evbus_publish(evbus *bus, const char *topic, const void *data, size_t len, const evbus_pub_opts *opts)
{
    struct request r = {.bus = bus, .data = data, .len = len, .kind = EV_SLOT_PLAIN};
    struct ev_slot *slot;

    if (!data && len)
        return ev_fail(EVBUS_INVALID, "evbus_publish: data is NULL but len is %zu", len);
    evbus_status st = prepare(&r, topic, opts);
    if (st != EVBUS_OK || (st = ensure_stream(&r)) != EVBUS_OK)
        return st;
    return accept(&r, &slot);
}

/* `e` is a copy whose payload_len is filled in. */
static evbus_status check_envelope(const evbus_envelope *env, evbus_envelope *e)
{
    if (!env)
        return ev_fail(EVBUS_INVALID, "envelope is NULL");
    *e = *env;
    if (e->payload && e->payload_len == 0)
        e->payload_len = strlen(e->payload);
    return ev_envelope_check(e);
}

static evbus_status publish_envelope(struct request *r, const char *topic, const evbus_envelope *env,
                                     const evbus_pub_opts *opts, struct ev_slot **ret)
{
    evbus_envelope e;
    evbus_status st = ev_bus_check(r->bus);

    if (st != EVBUS_OK || (st = check_envelope(env, &e)) != EVBUS_OK)
        return st;
    r->env = &e;
    if ((st = prepare(r, topic, opts)) == EVBUS_OK && (st = reserve_receipt(r)) == EVBUS_OK &&
        (st = ensure_stream(r)) == EVBUS_OK)
        st = accept(r, ret);
    give_up_receipt(r);
    r->env = NULL;
    return st;
}

evbus_status evbus_publish_envelope(evbus *bus, const char *topic, const evbus_envelope *env,
                                    const evbus_pub_opts *opts)
{
    struct request r = {.bus = bus, .kind = EV_SLOT_ENVELOPE};
    struct ev_slot *slot;

    return publish_envelope(&r, topic, env, opts, &slot);
}

static bool slot_done(void *arg)
{
    struct ev_slot *slot = arg;

    return ev_load_seqcst(&slot->state) == EV_SLOT_DONE; /* P4 */
}

/* The loop ends every slot at its deadline, so this wait needs none of its own. */
static void await_outcome(evbus *bus, struct ev_slot *slot)
{
    if (bus->manual) {
        (void)ev_bus_await(bus, slot_done, slot, EV_NEVER);
        return;
    }
    while (!slot_done(slot)) {
        const uint32_t ticket = ev_park_prepare(&slot->done);
        if (slot_done(slot)) {
            ev_park_cancel(&slot->done);
            return;
        }
        (void)ev_park_wait(&slot->done, ticket, bus->clock, EV_NEVER);
    }
}

/* A receipt for a publish that was not accepted: refused, with what the caller knows. */
static void receipt_not_accepted(const struct request *r, const char *topic, const evbus_envelope *env,
                                 evbus_status status, evbus_receipt *ret)
{
    *ret = (evbus_receipt){
        .struct_size = ret->struct_size,
        .outcome = EVBUS_OUTCOME_REFUSED,
        .status = status,
        .tag = r->opts.tag,
        .tenant_id = env->tenant_id,
        .accepted_ns = r->now,
        .completed_ns = ev_now(r->bus),
        .is_envelope = true,
    };
    (void)ev_copy(ret->event_id, sizeof ret->event_id, env->event_id ? env->event_id : "");
    (void)ev_copy(ret->aggregate_id, sizeof ret->aggregate_id, env->aggregate_id ? env->aggregate_id : "");
    (void)ev_copy(ret->topic, sizeof ret->topic, topic ? topic : "");
    (void)ev_copy(ret->detail, sizeof ret->detail, ev_detail());
}

/* Accepted: waits for the outcome, and gives the slot back. */
static evbus_status end_wait(evbus *bus, struct ev_slot *slot, evbus_receipt *ret)
{
    await_outcome(bus, slot);
    if (ret)
        ev_receipt_fill(slot, ret);
    const evbus_status st = slot->status;
    if (st != EVBUS_OK)
        (void)ev_fail(st, "topic '%s': %s", slot->topic->name, slot->detail ? slot->detail : evbus_strerror(st));
    ev_slot_give_back(bus, slot);
    ev_park_wake(&bus->slots.room, UINT32_MAX);
    return st;
}

evbus_status evbus_publish_envelope_wait(evbus *bus, const char *topic, const evbus_envelope *env,
                                         const evbus_pub_opts *opts, evbus_receipt *ret)
{
    struct request r = {.bus = bus, .kind = EV_SLOT_WAIT};
    struct ev_slot *slot = NULL;
    evbus_status st = publish_envelope(&r, topic, env, opts, &slot);

    if (st == EVBUS_OK)
        return end_wait(bus, slot, ret);
    if (ret && env && st != EVBUS_INVALID && st != EVBUS_CLOSED && st != EVBUS_FORKED)
        receipt_not_accepted(&r, topic, env, st, ret);
    return st;
}

evbus_status ev_publish_raw(evbus *bus, const char *topic, const struct ev_raw *raw, uint32_t timeout_ms,
                            evbus_receipt *ret)
{
    const evbus_pub_opts opts = {.struct_size = sizeof opts, .timeout_ms = timeout_ms};
    const evbus_envelope ids = {.event_id = raw->event_id, .aggregate_id = raw->aggregate_id};
    struct request r = {.bus = bus, .kind = EV_SLOT_WAIT, .raw = raw, .data = raw->data, .len = raw->len};
    struct ev_slot *slot = NULL;
    evbus_status st = prepare(&r, topic, &opts);

    if (st == EVBUS_OK && (st = ensure_stream(&r)) == EVBUS_OK && (st = accept(&r, &slot)) == EVBUS_OK)
        return end_wait(bus, slot, ret);
    if (ret)
        receipt_not_accepted(&r, topic, &ids, st, ret);
    return st;
}

/* ---- Many at once ------------------------------------------------------------------------------------------------ */

/* The envelope's own fault: the others go on. */
static bool is_its_own(evbus_status st)
{
    return st == EVBUS_INVALID || st == EVBUS_TOO_LARGE || st == EVBUS_NOT_REGISTERED;
}

/* Did an earlier envelope of this tenant find its queue of receipts full? Then a later one must not overtake it. */
static bool is_full_for(const evbus_envelope *envs, const evbus_status *statuses, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (statuses[i] == EVBUS_BACKPRESSURE && envs[i].tenant_id == envs[at].tenant_id)
            return true;
    return false;
}

struct batch {
    struct request r;
    uint64_t first_tag;
    const evbus_envelope *envs;
    evbus_status *statuses;
    bool tenant_full; /* of some tenant */
    bool over;        /* the rest gets the same status */
};

static evbus_status publish_one(struct batch *b, size_t i)
{
    struct request *r = &b->r;
    struct ev_slot *slot;
    evbus_envelope e;
    evbus_status st = check_envelope(&b->envs[i], &e);

    if (st != EVBUS_OK)
        return st;
    if (b->tenant_full && is_full_for(b->envs, b->statuses, i))
        return ev_fail(EVBUS_BACKPRESSURE, "tenant %lld: an earlier envelope found no room for its receipt",
                       (long long)e.tenant_id);
    r->env = &e;
    r->opts.tag = b->first_tag + i;
    r->now = ev_now(r->bus);
    if ((st = reserve_receipt(r)) == EVBUS_OK) {
        st = accept(r, &slot);
        b->over = st != EVBUS_OK && !is_its_own(st);
    } else {
        b->tenant_full |= st == EVBUS_BACKPRESSURE;
        b->over = st != EVBUS_BACKPRESSURE && !is_its_own(st);
    }
    give_up_receipt(r);
    r->env = NULL;
    return st;
}

evbus_status evbus_publish_envelopes(evbus *bus, const char *topic, const evbus_envelope *envs, size_t count,
                                     const evbus_pub_opts *opts, evbus_status *ret_statuses, size_t *ret_accepted)
{
    struct batch b = {.r = {.bus = bus, .kind = EV_SLOT_ENVELOPE}, .envs = envs, .statuses = ret_statuses};
    char detail[EV_DETAIL_MAX];
    size_t accepted = 0, failed = 0;
    evbus_status first = EVBUS_OK, st;

    if ((!envs || !ret_statuses) && count)
        return ev_fail(EVBUS_INVALID, "evbus_publish_envelopes: %s is NULL", envs ? "ret_statuses" : "envs");
    if ((st = prepare(&b.r, topic, opts)) == EVBUS_OK)
        st = ensure_stream(&b.r);
    b.first_tag = b.r.opts.tag;
    b.over = st != EVBUS_OK;
    for (size_t i = 0; i < count; i++) {
        if (!b.over)
            st = publish_one(&b, i);
        ret_statuses[i] = st;
        accepted += st == EVBUS_OK;
        if (st == EVBUS_OK || first != EVBUS_OK)
            continue;
        first = st;
        failed = i;
        (void)ev_copy(detail, sizeof detail, ev_detail());
    }
    if (ret_accepted)
        *ret_accepted = accepted;
    if (count == 0)
        return st;
    return first == EVBUS_OK ? first : ev_fail(first, "envelope %zu: %s", failed, detail);
}
