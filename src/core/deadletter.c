/* SPDX-License-Identifier: Apache-2.0 */
#include "core/deadletter.h"

#include "core/message.h"
#include "core/names.h"
#include "core/streams.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SOON (50 * EV_MS)
#define LONG_KEPT 200 /* of a topic that is too long with the prefix: the rest becomes a hash */
#define VALUE_MAX 512
#define OWN_HEADERS 4096 /* none of ours is longer than VALUE_MAX, few are longer than a name */
#define ORIGINAL_HEADERS_MAX 65536

void ev_letter_topic(char out[EV_NAME_MAX], const char *topic)
{
    const size_t prefix = strlen(EV_DLQ_PREFIX), len = strlen(topic);
    const bool whole = prefix + len <= EV_TOPIC_MAX;
    size_t n = prefix;

    memcpy(out, EV_DLQ_PREFIX, prefix);
    for (size_t i = 0; i < (whole ? len : LONG_KEPT); i++)
        out[n++] = topic[i] == '*' || topic[i] == '>' ? '_' : topic[i];
    if (!whole) { /* two long topics must not share one */
        out[n++] = '-';
        ev_put_hex16(out + n, ev_fnv1a(topic, len));
        n += 16;
    }
    out[n] = 0;
}

static const char *cause_of(const evbus_msg *m)
{
    return m->tail ? ev_tail_cause(m) : m->cause ? m->cause : "unknown";
}

/* Header values must stay on one line, and leave room for the others: the body has them whole. */
static void put_line(char *buf, size_t cap, size_t *at, const char *name, const char *value)
{
    if (!value || !*value)
        return;
    const size_t start = *at;
    *at += (size_t)snprintf(buf + *at, cap - *at, "%s: %.*s", name, VALUE_MAX, value);
    for (size_t i = start; i < *at; i++)
        if (buf[i] == '\r' || buf[i] == '\n')
            buf[i] = ' ';
    memcpy(buf + *at, "\r\n", 3);
    *at += 2;
}

static void put_number(char *buf, size_t cap, size_t *at, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    put_line(buf, cap, at, name, text);
}

/* The broker's own headers are not carried over: they would mean something else on the letter. */
static size_t drop_reserved(char *block, size_t len)
{
    size_t to = 0;

    for (size_t at = 0; at < len;) {
        const char *end = memchr(block + at, '\n', len - at);
        const size_t n = end ? (size_t)(end - (block + at)) + 1 : len - at;
        if (strncasecmp(block + at, "Nats-", 5) != 0) {
            memmove(block + to, block + at, n);
            to += n;
        }
        at += n;
    }
    block[to] = 0;
    return to;
}

static size_t put_headers(evbus *bus, const evbus_msg *m, char *buf, size_t cap)
{
    const struct evbus_sub *sub = m->sub;
    const int64_t wall = ev_clock_wall(bus->clock), here = ev_now(bus) - m->first_ns;
    size_t at = 0;

    put_line(buf, cap, &at, "Evbus-Cause", cause_of(m));
    put_line(buf, cap, &at, "Evbus-Detail", m->reason);
    put_line(buf, cap, &at, "Evbus-Topic", m->topic);
    put_line(buf, cap, &at, "Evbus-Group", sub->group);
    put_line(buf, cap, &at, "Evbus-Stream", evbus_msg_stream(m));
    put_number(buf, cap, &at, "Evbus-Sequence", m->stream_seq);
    put_number(buf, cap, &at, "Evbus-Attempts", m->attempt);
    put_number(buf, cap, &at, "Evbus-Deliveries", m->deliveries);
    put_line(buf, cap, &at, "Evbus-Aggregate", m->env.aggregate_id);
    put_line(buf, cap, &at, "Evbus-Event-Id", m->env.event_id);
    put_line(buf, cap, &at, "Evbus-Trace", m->env.trace_id);
    put_line(buf, cap, &at, "Evbus-Correlation", m->env.correlation_id);
    put_number(buf, cap, &at, "Evbus-Stored", (uint64_t)m->stored_ns);
    put_number(buf, cap, &at, "Evbus-First", (uint64_t)(wall - here));
    put_number(buf, cap, &at, "Evbus-Time", (uint64_t)wall);
    const size_t len = bus->ops->headers(bus->state, m->token, buf + at, cap - at);
    if (len < cap - at)
        at += drop_reserved(buf + at, len);
    buf[at] = 0;
    return at;
}

static bool fill(evbus *bus, struct ev_slot *slot, evbus_msg *m)
{
    const size_t original = bus->ops->headers(bus->state, m->token, NULL, 0);
    const size_t need = OWN_HEADERS + 300 + (original < ORIGINAL_HEADERS_MAX ? original : 0);

    if (slot->cap < need) {
        ev_free(slot->buf);
        slot->buf = ev_malloc(need);
        slot->cap = slot->buf ? (uint32_t)need : 0;
    }
    if (!slot->buf)
        return false;
    slot->buf[0] = 0;
    slot->msg_id = 1;
    const int n =
        snprintf(slot->buf + 1, 299, "dlq %s %" PRIu64 " %s", evbus_msg_stream(m), m->stream_seq, m->sub->group);
    slot->headers = (uint32_t)n + 2;
    slot->headers_len = (uint32_t)put_headers(bus, m, slot->buf + slot->headers, slot->cap - slot->headers);
    slot->outside = m->data;
    slot->data_len = (uint32_t)m->len;
    return true;
}

/* Not now: the aggregate pauses, or, when its head runs, the next letter of it tries again. */
static void later(evbus *bus, evbus_msg *m, int64_t until)
{
    struct ev_agg *agg = m->agg;

    agg->letter = false;
    m->phase = m->abandoned ? EV_MSG_OUT : EV_MSG_QUEUED;
    if (m->abandoned) {
        m->abandoned = m->overdue = m->doomed = false;
        agg->out++;
    }
    if (m == agg->head && !agg->out)
        agg->ready_at = until;
    ev_frontier_give_up(m->sub);
    if (ev_sub_stops(m->sub))
        ev_agg_stop(bus, agg, false, ev_now(bus));
    else
        ev_agg_next(bus, agg, ev_now(bus));
}

/* A fan-out subscription looks on: others have the message too, and a letter from each onlooker would be one too many. */
static void give_up(evbus *bus, evbus_msg *m)
{
    char text[400];

    (void)snprintf(text, sizeof text, "sequence %" PRIu64 " is dropped: %s%s%s", m->stream_seq, cause_of(m),
                   m->reason ? ": " : "", m->reason ? m->reason : "");
    ev_event(bus, EVBUS_EVENT_GIVEN_UP, EVBUS_OK, 1, m->topic, m->sub->group, m->env.aggregate_id, text);
    m->given_up = bus->in.given_up; /* not at once: the next one of a long queue would come on top of this call */
    bus->in.given_up = m;
}

evbus_status ev_letter_topic_get(struct evbus_sub *sub)
{
    char name[EV_NAME_MAX];

    ev_letter_topic(name, sub->topic->name);
    return ev_topic_get_own(sub->bus, name, &sub->letter_topic);
}

static void say_stays(evbus *bus, const evbus_msg *m, evbus_status st, const char *why)
{
    if (m->sub->letters_fail)
        return;
    m->sub->letters_fail = true;
    ev_count(&bus->n.dead_letter_failures, 1);
    ev_event(bus, EVBUS_EVENT_DEAD_LETTER_FAILED, st, 1, m->topic, m->sub->group, m->agg->id, why);
}

void ev_letter_start(evbus *bus, evbus_msg *m)
{
    const int64_t now = ev_now(bus);

    m->agg->letter = true;
    m->phase = EV_MSG_LETTER;
    if (!m->sub->letters) {
        give_up(bus, m);
        return;
    }
    if (!ev_tail_park(bus, m)) {
        later(bus, m, now + EV_SEC);
        return;
    }
    if (!m->sub->letter_topic && ev_letter_topic_get(m->sub) != EVBUS_OK) {
        say_stays(bus, m, EVBUS_NOMEM, "out of memory for the record of the dead-letter topic; the message stays");
        later(bus, m, now + EV_SEC);
        return;
    }
    struct ev_topic *topic = m->sub->letter_topic;
    if (ev_load_acquire(&topic->stream_state) != EV_STREAM_THERE) {
        const int64_t retry_at = ev_load_acquire(&topic->retry_at);
        const evbus_status failed = (evbus_status)ev_load_relaxed(&topic->failed_status); /* published by retry_at */
        if (failed != EVBUS_OK)
            say_stays(bus, m, failed, "the dead-letter topic has no stream; the message stays");
        if (now >= retry_at)
            ev_streams_check_later(bus, topic);
        later(bus, m, now >= retry_at ? now + SOON : retry_at);
        return;
    }
    struct ev_slot *slot = ev_outbound_letter(bus);
    if (!slot || !fill(bus, slot, m)) {
        if (slot)
            ev_slot_give_back(bus, slot);
        later(bus, m, now + SOON);
        return;
    }
    slot->topic = topic;
    slot->letter_of = m;
    slot->want_ack = true;
    slot->accepted_ns = now;
    slot->deadline_ns = ev_deadline(now, bus->cfg.o.publish_timeout_ms);
    ev_store_seqcst(&slot->state, EV_SLOT_QUEUED);
    ev_outbound_submit(bus, slot, now);
}

void ev_letter_done(evbus *bus, struct ev_slot *slot)
{
    evbus_msg *m = slot->letter_of;
    struct evbus_sub *sub = m->sub;
    const bool stored = slot->outcome == EVBUS_OUTCOME_STORED || EV_BUG(EV_BUG_LETTER_UNSTORED);
    char text[400];

    if (stored) {
        sub->letters_fail = false;
        ev_tail_stored(bus, m, slot->sequence, slot->dup);
        ev_count(&bus->n.dead_lettered, 1);
        ev_count(&sub->topic->dead_lettered, 1);
        (void)snprintf(text, sizeof text, "sequence %" PRIu64 " went to %s: %s%s%s", m->stream_seq, slot->topic->name,
                       cause_of(m), m->reason ? ": " : "", m->reason ? m->reason : "");
        ev_event(bus, EVBUS_EVENT_DEAD_LETTER, EVBUS_OK, 1, m->topic, sub->group, m->env.aggregate_id, text);
    } else {
        ev_count(&bus->n.dead_letter_failures, 1);
        if (!sub->letters_fail) {
            (void)snprintf(text, sizeof text, "sequence %" PRIu64 " could not be stored in %s: %s; it stays",
                           m->stream_seq, slot->topic->name,
                           slot->detail ? slot->detail : evbus_strerror(slot->status));
            ev_event(bus, EVBUS_EVENT_DEAD_LETTER_FAILED, slot->status, 1, m->topic, sub->group, m->env.aggregate_id,
                     text);
        }
        sub->letters_fail = true;
    }
    ev_slot_give_back(bus, slot);
    ev_dispatch_letter_done(bus, m, stored, ev_now(bus));
}
