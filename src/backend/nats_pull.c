/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pulling: credit, requests, and what the server says about them. See nats_consume.h for the two rules.
 *
 * Happy path: the core's room grows -> ev_nats_pull_consider asks for what fits as soon as no more than half of it is
 * outstanding -> messages use the credit up -> the room changes -> again. An idle pull ends after `expires` with a
 * status that names what it did not use.
 *
 * Failures. Every status other than "consumer deleted" gives its credit back and is followed by another pull, at once
 * or after a pause. Silence (two heartbeats missed) is reported once, all credit is dropped, the server is asked
 * whether the consumer exists, and the next pull goes out all the same: a client that waits for a sign is a client that
 * never wakes up. On 2.9 a pull for a consumer that does not exist is not answered at all.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BACKOFF_MIN (100 * EV_MS)
#define BACKOFF_MAX (10 * EV_SEC)
#define LAG (2 * EV_MS)    /* with little room: how long to wait for more before pulling for less */
#define GRACE (2 * EV_SEC) /* what a status may be late */
#define RECHECK_EXPIRES EV_SEC
#define PULL_MIN (20 * EV_MS)        /* below that a pull is not worth it: soon the right is renewed */
#define HEARTBEAT_SHARE (10 * EV_MS) /* per binding: all together send at most 100 heartbeats a second */

/* ---- Credit ------------------------------------------------------------------------------------------------------ */

void ev_nats_pull_reset(struct ev_nats_binding *b)
{
    b->out_msgs = 0;
    b->pull_count = 0;
    b->unended = 0;
}

static void take_credit(struct ev_nats_binding *b, uint32_t msgs)
{
    b->out_msgs -= msgs < b->out_msgs ? msgs : b->out_msgs;
    if (b->out_msgs == 0) /* every pull has ended */
        ev_nats_pull_reset(b);
}

static struct ev_nats_pull *find_pull(struct ev_nats_binding *b, uint64_t number)
{
    for (uint32_t i = 0; i < b->pull_count; i++)
        if (b->pulls[i].number == number)
            return &b->pulls[i];
    return NULL;
}

static void forget_pull(struct ev_nats_binding *b, const struct ev_nats_pull *pull)
{
    const size_t at = (size_t)(pull - b->pulls);

    b->pull_count--;
    memmove(b->pulls + at, b->pulls + at + 1, (b->pull_count - at) * sizeof *b->pulls);
}

static void remember_pull(struct ev_nats_binding *b, const struct ev_nats_pull *pull)
{
    if (b->pull_count == EV_NATS_PULLS) { /* the older of the two has most likely ended; the sum stays a bound */
        b->pulls[1].batch += b->pulls[0].batch;
        forget_pull(b, b->pulls);
    }
    b->pulls[b->pull_count++] = *pull;
    b->out_msgs += pull->batch;
}

/* Pulls whose end nobody announced: outstanding cannot be more than what the others asked for. */
static void forget_expired(struct ev_nats_binding *b, int64_t now)
{
    uint64_t msgs = 0;

    if (b->pull_count == 0 || now < b->pulls[0].until + GRACE)
        return;
    while (b->pull_count > 0 && now >= b->pulls[0].until + GRACE)
        forget_pull(b, b->pulls);
    for (uint32_t i = 0; i < b->pull_count; i++)
        msgs += b->pulls[i].batch;
    take_credit(b, b->out_msgs > msgs ? b->out_msgs - (uint32_t)msgs : 0);
    b->unended = now;
}

static void alive(struct ev_nats *st, struct ev_nats_binding *b)
{
    b->heard = st->now;
    b->unended = 0;
    b->backoff = 0;
    if (b->silent) {
        char text[3 * EV_NAME_MAX];
        b->silent = false;
        ev_nats_say(text, sizeof text, "consumer '%s' of stream '%s' answers again", b->consumer, b->stream);
        ev_host_silent(st->host, b->sub, false, text);
    }
}

void ev_nats_pull_delivered(struct ev_nats *st, struct ev_nats_binding *b, uint64_t size)
{
    alive(st, b);
    b->complained = false;
    b->size_next = 0;
    if (size >= b->size_peak)
        b->size_peak = size;
    else
        b->size_peak -= (b->size_peak - size) / 64;
    take_credit(b, 1);
}

/* ---- Asking ------------------------------------------------------------------------------------------------------ */

void ev_nats_pull_subject(const struct ev_nats *st, const struct ev_nats_binding *b, const char *verb,
                          char out[EV_NATS_SUBJECT_MAX])
{
    (void)snprintf(out, EV_NATS_SUBJECT_MAX, "%s.%s.%s.%s", st->cfg.api, verb, b->stream, b->consumer);
}

/* +-10 %, so that the heartbeats of many bindings do not come together. */
static int64_t jitter(int64_t ns)
{
    return ns - ns / 10 + (int64_t)(ev_random() % (uint64_t)(ns / 5 + 1));
}

struct ask {
    uint32_t batch;
    uint64_t max_bytes; /* 0: no limit */
};

/*
 * How many messages of the size seen lately fit into the room for bytes, and the most a pull may bring. max_bytes is a
 * guard against messages much larger than those before, not a measure: a pull that uses it up exactly ends without a
 * word, and its credit comes back only when it expires. False: not now.
 */
static bool fit_bytes(const struct ev_nats_binding *b, uint32_t msgs, struct ask *ret)
{
    const uint64_t size = b->size_next > b->size_peak ? b->size_next : b->size_peak;
    const uint64_t out = b->out_msgs * b->size_peak;
    const uint64_t left = b->room.bytes > out ? b->room.bytes - out : 0;
    const uint64_t fits = left / (size ? size : 1);

    if (fits == 0) {
        /* The next message is larger than what is left. When that is all there ever is, it must pass alone. */
        if (b->out_msgs > 0 || left == 0 || b->room.bytes < b->room_max.bytes / 2)
            return false;
        *ret = (struct ask){.batch = 1, .max_bytes = 0};
        return true;
    }
    uint64_t guard = b->room.bytes / 2 + (ev_random() & 4095);
    if (guard < size)
        guard = size;
    if (b->bytes_max > 0 && guard > b->bytes_max)
        guard = b->bytes_max;
    *ret = (struct ask){.batch = fits < msgs ? (uint32_t)fits : msgs, .max_bytes = guard};
    return true;
}

/* What to ask for now. False: nothing; *ret_at says when to look again, if time will change that. */
static bool decide(struct ev_nats_binding *b, int64_t now, struct ask *ret, int64_t *ret_at)
{
    const uint32_t left = b->room.msgs > b->out_msgs ? b->room.msgs - b->out_msgs : 0;

    if (left == 0 || b->out_msgs > left)
        return false;
    if (left < b->room_max.msgs / 4) { /* almost full: small pulls would cost more than they bring */
        if (b->out_msgs > 0)
            return false;
        if (b->lag_at == 0)
            b->lag_at = now + LAG;
        if (now < b->lag_at) {
            *ret_at = b->lag_at;
            return false;
        }
    }
    uint32_t most = left < b->batch_max ? left : b->batch_max;
    if (b->gap.recheck && b->gap.left > 0 &&
        b->gap.left < most) /* what was asked for, no more: then it is looked again */
        most = (uint32_t)b->gap.left;
    return fit_bytes(b, most, ret);
}

static bool send_pull(struct ev_nats *st, struct ev_nats_binding *b, const struct ask *ask)
{
    struct ev_nats_consume *c = st->consume;
    const int64_t share = c->bindings_count * HEARTBEAT_SHARE;
    const int64_t beat = share > c->heartbeat_ns ? share : c->heartbeat_ns;
    int64_t expires = share * 6 > c->expires_ns ? share * 6 : c->expires_ns;
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX], body[EV_NATS_PULL_MAX];

    if (expires > b->expires_max)
        expires = b->expires_max;
    if (b->exclusive && expires > ev_nats_members_right(st, b)) /* it takes nothing after that */
        expires = ev_nats_members_right(st, b);
    if (b->gap.recheck && expires > RECHECK_EXPIRES)
        expires = RECHECK_EXPIRES;
    if (expires < PULL_MIN)
        return false;
    b->heartbeat = jitter(beat);
    if (b->heartbeat > expires / 2)
        b->heartbeat = expires / 2;
    struct ev_nats_inbox *inbox = ev_nats_pull_inbox(st, &c->buckets[b->bucket]);
    if (!inbox)
        return false;
    const struct ev_nats_pull pull = {++c->pull_last, ask->batch, ask->max_bytes, st->now + expires};
    const int prefix = (int)strlen(inbox->core.subject) - 1;
    (void)snprintf(reply, sizeof reply, "%.*s%" PRIu32 ".%" PRIu64, prefix, inbox->core.subject, b->index, pull.number);
    ev_nats_pull_subject(st, b, "CONSUMER.MSG.NEXT", subject);
    const size_t len = ev_nats_pull_request(body, ask->batch, ask->max_bytes, expires, b->heartbeat);
    if (!ev_nats_publish(st, subject, reply, body, len))
        return false;
    if (b->out_msgs == 0 && (b->unended == 0 || st->now - b->unended > GRACE))
        b->heard = st->now; /* silence counts from the first pull */
    remember_pull(b, &pull);
    b->asked = st->now;
    b->lag_at = 0;
    b->gap.tried = true;
    b->pulled = true;
    if (pull.until > b->pulled_until)
        b->pulled_until = pull.until;
    c->pulls_sent++;
    return true;
}

void ev_nats_pull_consider(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ask ask;
    int64_t at = EV_NEVER;

    if (!b->attached || b->is_core || b->lost || st->shut || !ev_nats_is_up(st) || b->gap.step != EV_NATS_GAP_CLOSED ||
        (b->exclusive && ev_nats_members_right(st, b) == 0))
        return;
    forget_expired(b, st->now);
    const bool last = b->gap.recheck && !b->gap.tried; /* one more pull before it is asked */
    if (b->gap.due && b->out_msgs == 0 && !last) {
        ev_nats_gap_begin(st, b);
        return;
    }
    const struct ev_nats_bucket *k = &st->consume->buckets[b->bucket];
    if (st->now < b->retry_at || st->now < k->fence) {
        at = b->retry_at > k->fence ? b->retry_at : k->fence;
    } else if ((!b->gap.due || last) && decide(b, st->now, &ask, &at) && !send_pull(st, b, &ask)) {
        ev_nats_pull_back_off(st, b);
        at = b->retry_at;
    }
    if (b->out_msgs > 0) {
        const int64_t silence = b->heard + 2 * b->heartbeat + b->heartbeat / 2;
        const int64_t expiry = b->pull_count > 0 ? b->pulls[0].until + GRACE : EV_NEVER;
        at = silence < at ? silence : at;
        at = expiry < at ? expiry : at;
    }
    if (at != EV_NEVER)
        ev_nats_pull_schedule(st->consume, b, at);
}

void ev_nats_pull_back_off(struct ev_nats *st, struct ev_nats_binding *b)
{
    b->backoff = b->backoff == 0 ? BACKOFF_MIN : b->backoff * 2;
    if (b->backoff > BACKOFF_MAX)
        b->backoff = BACKOFF_MAX;
    b->retry_at = st->now + jitter(b->backoff);
}

void ev_nats_want(void *state, void *binding, struct ev_room room)
{
    struct ev_nats_binding *b = binding;

    b->room = room;
    if (room.msgs > b->room_max.msgs)
        b->room_max.msgs = room.msgs;
    if (room.bytes > b->room_max.bytes)
        b->room_max.bytes = room.bytes;
    ev_nats_pull_consider(state, b);
}

/* ---- What the server says ---------------------------------------------------------------------------------------- */

void ev_nats_pull_lost(struct ev_nats *st, struct ev_nats_binding *b, evbus_status cause, const char *text)
{
    if (b->lost)
        return;
    b->lost = true;
    ev_nats_gap_end(st, b);
    ev_nats_pull_reset(b);
    ev_nats_pull_unschedule(st->consume, b);
    ev_host_consumer_lost(st->host, b->sub, cause, text);
}

static uint32_t header_u32(natsMsg *msg, const char *name, uint32_t otherwise)
{
    const char *text = NULL;
    uint64_t value;

    if (natsMsgHeader_Get(msg, name, &text) != NATS_OK || !text || !ev_get_u64(text, strlen(text), &value))
        return otherwise;
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static uint64_t header_u64(natsMsg *msg, const char *name, uint64_t otherwise)
{
    const char *text = NULL;
    uint64_t value;

    if (natsMsgHeader_Get(msg, name, &text) != NATS_OK || !text || !ev_get_u64(text, strlen(text), &value))
        return otherwise;
    return value;
}

/* The pull has ended; what it did not use is ours again. Without a number it used nothing. */
static void give_back(struct ev_nats_consume *c, struct ev_nats_binding *b, struct ev_nats_pull *pull, natsMsg *msg)
{
    const uint32_t msgs = header_u32(msg, "Nats-Pending-Messages", pull->batch);

    c->returned += msgs;
    forget_pull(b, pull);
    take_credit(b, msgs);
}

/* Said once until messages flow again. */
static void complain(struct ev_nats *st, struct ev_nats_binding *b, uint32_t code, const char *text)
{
    if (b->complained)
        return;
    b->complained = true;
    ev_log(st->log, EVBUS_LOG_WARN, "nats", "a pull for consumer '%s' of stream '%s' was refused: %" PRIu32 " %s",
           b->consumer, b->stream, code, code == 503 && !*text ? "nobody answers" : text);
}

/* Said once until messages flow again. */
static void leader_changed(struct ev_nats *st, struct ev_nats_binding *b, const char *text)
{
    char said[3 * EV_NAME_MAX];

    if (b->complained)
        return;
    b->complained = true;
    ev_nats_say(said, sizeof said, "consumer '%s' of stream '%s': %s; pulling from the next leader", b->consumer,
                b->stream, text);
    ev_host_event(st->host, EVBUS_EVENT_LEADER_CHANGED, EVBUS_OK, b->core.subject, said);
}

/* The consumer's own limits are found by halving what we ask for. */
static void smaller(struct ev_nats_binding *b, const struct ev_nats_pull *pull, enum ev_nats_status status)
{
    if (status == EV_NATS_ST_BATCH_MAX && pull->batch > 1)
        b->batch_max = pull->batch / 2;
    if (status == EV_NATS_ST_BYTES_MAX && pull->bytes > 1)
        b->bytes_max = pull->bytes / 2;
    if (status == EV_NATS_ST_EXPIRES_MAX && b->expires_max > EV_SEC)
        b->expires_max = (b->expires_max > 60 * EV_SEC ? 60 * EV_SEC : b->expires_max) / 2;
}

static void heartbeat(struct ev_nats *st, struct ev_nats_binding *b, natsMsg *msg)
{
    const uint64_t seq = header_u64(msg, "Nats-Last-Consumer", 0);

    alive(st, b);
    if (b->seq_known && seq > b->consumer_seq && b->ack && b->durable) {
        ev_nats_gap_suspected(st, b, seq - b->consumer_seq);
        return;
    }
    if (!b->seq_known || seq > b->consumer_seq)
        b->consumer_seq = seq;
    b->seq_known = true;
    ev_nats_gap_idle(st, b);
}

/* Acts on the end of one of our pulls. */
static void ended(struct ev_nats *st, struct ev_nats_binding *b, struct ev_nats_pull *pull, natsMsg *msg, uint32_t code,
                  const char *text)
{
    const enum ev_nats_status status = ev_nats_status_of(code, text);
    const struct ev_nats_pull old = *pull;
    const uint32_t unused = header_u32(msg, "Nats-Pending-Messages", pull->batch);

    give_back(st->consume, b, pull, msg);
    switch (status) {
    case EV_NATS_ST_GONE:
        ev_nats_pull_lost(st, b, EVBUS_NOT_FOUND, text);
        return;
    case EV_NATS_ST_CHANGED:
        ev_nats_pull_lost(st, b, EVBUS_MISMATCH, text);
        return;
    case EV_NATS_ST_SIZE: /* if it brought nothing: times 8 each round trip, until it fits or has all room */
        b->size_next = unused == old.batch ? old.bytes * 8 : header_u64(msg, "Nats-Pending-Bytes", 0) + 1;
        alive(st, b);
        if (b->gap.left > 0) /* 2.9 loses sight of a redelivery that meets a pull it does not fit into */
            ev_nats_gap_later(st, b);
        break;
    case EV_NATS_ST_BATCH_MAX:
    case EV_NATS_ST_BYTES_MAX:
    case EV_NATS_ST_EXPIRES_MAX:
        smaller(b, &old, status);
        complain(st, b, code, text);
        ev_nats_pull_back_off(st, b);
        break;
    case EV_NATS_ST_LEADER:
        leader_changed(st, b, text);
        b->seq_known = false; /* what the old leader sent may be lost */
        ev_nats_gap_later(st, b);
        ev_nats_pull_back_off(st, b);
        break;
    case EV_NATS_ST_ENDED:
        alive(st, b);
        break;
    default:
        complain(st, b, code, text);
        ev_nats_pull_back_off(st, b);
        break;
    }
    ev_nats_pull_consider(st, b);
}

void ev_nats_pull_status(struct ev_nats *st, natsMsg *msg, const char *rest)
{
    struct ev_nats_consume *c = st->consume;
    const size_t len = strcspn(rest, ".");
    const char *code_text = NULL, *text = NULL;
    uint64_t index, number, code = 0;

    if (rest[len] != '.' || !ev_get_u64(rest, len, &index) || index >= c->bindings_top ||
        !ev_get_u64(rest + len + 1, strlen(rest + len + 1), &number) || !c->bindings[index])
        return;
    struct ev_nats_binding *b = c->bindings[index];
    struct ev_nats_pull *pull = find_pull(b, number);
    if (!pull || natsMsgHeader_Get(msg, "Status", &code_text) != NATS_OK || !code_text)
        return; /* of a pull given up long ago */
    if (natsMsgHeader_Get(msg, "Description", &text) != NATS_OK || !text)
        text = "";
    (void)ev_get_u64(code_text, strlen(code_text), &code);
    if (ev_nats_status_of((uint32_t)code, text) == EV_NATS_ST_HEARTBEAT)
        heartbeat(st, b, msg);
    else
        ended(st, b, pull, msg, (uint32_t)code, text);
}

/* All that was asked for is void. */
static void start_over(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_bucket *k = &st->consume->buckets[b->bucket];

    if (b->exclusive || (k->first == b && !b->next)) /* the old pulls may be alive: the new one must not come on top */
        ev_nats_pull_cut(st, k);
    ev_nats_pull_reset(b);
    b->seq_known = false;
    b->heard = st->now;
}

/* A 503 does not say to what: libnats swallows the message. It comes when nobody serves the API, and from 2.10 on also
 * when the consumer is gone, or has no leader now: so to every pull that was sent lately, and the consumer is asked for. What its
 * last leader sent may be lost: nothing new is asked for before the gap rule has looked, or it would take its room. */
void ev_nats_pull_unanswered(struct ev_nats *st, struct ev_nats_bucket *k)
{
    for (struct ev_nats_binding *b = k->first; b; b = b->next) {
        if (b->pull_count == 0 || st->now - b->asked > GRACE)
            continue;
        start_over(st, b);
        complain(st, b, 503, "");
        ev_nats_pull_back_off(st, b);
        ev_nats_gap_later(st, b);
        if (!b->exclusive) /* else the gap rule asks */
            ev_nats_pull_probe(st, b);
        ev_nats_pull_consider(st, b);
    }
}

int64_t ev_nats_silent_since(void *state, void *binding)
{
    const struct ev_nats *st = state;
    const struct ev_nats_binding *b = binding;

    if (b)
        return b->silent ? b->silent_since : EV_NEVER;
    return ev_nats_is_up(st) && st->session->probe_open ? st->session->probe_open : EV_NEVER;
}

/* ---- Is the consumer still there? -------------------------------------------------------------------------------- */

void ev_nats_pull_probe(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX];

    ev_nats_pull_subject(st, b, "CONSUMER.INFO", subject);
    (void)snprintf(reply, sizeof reply, "%s.c.i.%" PRIu32 ".%016" PRIx64, ev_nats_inbox(st), b->index, b->id);
    (void)ev_nats_publish(st, subject, reply, NULL, 0);
}

void ev_nats_pull_probed(struct ev_nats *st, natsMsg *msg, const char *rest)
{
    struct ev_nats_consume *c = st->consume;
    const size_t len = strcspn(rest, ".");
    struct ev_ack answer;
    uint64_t index, id;
    char text[160];

    if (rest[len] != '.' || !ev_get_u64(rest, len, &index) || index >= c->bindings_top || !c->bindings[index] ||
        !ev_get_hex16(rest + len + 1, &id) || c->bindings[index]->id != id)
        return;
    struct ev_nats_binding *b = c->bindings[index];
    if (!ev_nats_parse_puback(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), &answer) ||
        answer.outcome != EVBUS_OUTCOME_REFUSED)
        return; /* it is there */
    (void)ev_copyn(text, sizeof text, answer.text, answer.text_len);
    if (answer.broker_code == EV_NATS_ERR_CONSUMER_NOT_FOUND || answer.broker_code == EV_NATS_ERR_STREAM_NOT_FOUND)
        ev_nats_pull_lost(st, b, EVBUS_NOT_FOUND, text);
    else if (answer.status == EVBUS_NO_JETSTREAM)
        complain(st, b, answer.broker_code, text);
}

void ev_nats_rearm(void *state, void *binding)
{
    struct ev_nats *st = state;
    struct ev_nats_binding *b = binding;

    if (!b->attached || b->is_core || b->lost || !ev_nats_is_up(st) || b->gap.step != EV_NATS_GAP_CLOSED)
        return; /* the gap rule asks again by itself */
    start_over(st, b);
    b->backoff = b->retry_at = 0;
    ev_nats_gap_later(st, b);
    ev_nats_pull_consider(st, b);
}

/* Nothing for more than two heartbeats although a pull is open. */
void ev_nats_pull_missed(struct ev_nats *st, struct ev_nats_binding *b)
{
    char text[3 * EV_NAME_MAX];

    st->consume->missed++;
    if (!b->silent) {
        b->silent = true;
        b->silent_since = b->heard;
        ev_nats_say(text, sizeof text,
                    "consumer '%s' of stream '%s' is silent for %" PRId64 " ms: asking for it, pulling again",
                    b->consumer, b->stream, (st->now - b->heard) / EV_MS);
        ev_host_silent(st->host, b->sub, true, text);
    }
    start_over(st, b);
    ev_nats_pull_back_off(st, b);
    ev_nats_gap_later(st, b);
    if (!b->exclusive) /* else the gap rule asks */
        ev_nats_pull_probe(st, b);
}
