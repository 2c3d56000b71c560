/* SPDX-License-Identifier: Apache-2.0 */
#include "core/letters.h"

#include "core/names.h"
#include "core/streams.h"
#include "core/tail.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 5000
#define HEADERS_MAX 128

/* One letter, taken apart: its headers' lines become strings where they lie. */
struct view {
    evbus_letter letter;
    evbus_header own[HEADERS_MAX + 1];
    uint32_t own_count;
};

/* ---- Taking apart ------------------------------------------------------------------------------------------------ */

/* What deadletter.c says in headers of ours. */
static const struct {
    const char *name;
    size_t offset;
    enum { TEXT, NUMBER, NUMBER32 } kind;
} fields[] = {
    {"Evbus-Cause", offsetof(evbus_letter, cause), TEXT},
    {"Evbus-Detail", offsetof(evbus_letter, detail), TEXT},
    {"Evbus-Topic", offsetof(evbus_letter, topic), TEXT},
    {"Evbus-Group", offsetof(evbus_letter, group), TEXT},
    {"Evbus-Stream", offsetof(evbus_letter, origin_stream), TEXT},
    {"Evbus-Sequence", offsetof(evbus_letter, origin_sequence), NUMBER},
    {"Evbus-Attempts", offsetof(evbus_letter, attempts), NUMBER32},
    {"Evbus-Deliveries", offsetof(evbus_letter, deliveries), NUMBER32},
    {"Evbus-Aggregate", offsetof(evbus_letter, aggregate_id), TEXT},
    {"Evbus-Event-Id", offsetof(evbus_letter, event_id), TEXT},
    {"Evbus-Trace", offsetof(evbus_letter, trace_id), TEXT},
    {"Evbus-Correlation", offsetof(evbus_letter, correlation_id), TEXT},
    {"Evbus-Stored", offsetof(evbus_letter, stored_ns), NUMBER},
    {"Evbus-First", offsetof(evbus_letter, first_ns), NUMBER},
    {"Evbus-Time", offsetof(evbus_letter, last_ns), NUMBER},
    {"Evbus-Redriven", offsetof(evbus_letter, redriven), NUMBER32},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

/* A letter of a letter has the older one's headers behind its own: the first counts. */
static void take_field(struct view *v, size_t i, const char *value, uint32_t *seen)
{
    void *field = (char *)&v->letter + fields[i].offset;
    uint64_t number = 0;

    if (*seen & 1u << i)
        return;
    *seen |= 1u << i;
    if (fields[i].kind == TEXT)
        *(const char **)field = value;
    else if (!ev_get_u64(value, strlen(value), &number))
        return;
    else if (fields[i].kind == NUMBER)
        *(uint64_t *)field = number;
    else
        *(uint32_t *)field = number < UINT32_MAX ? (uint32_t)number : UINT32_MAX;
}

static void take_line(struct view *v, char *name, char *value, uint32_t *seen)
{
    for (size_t i = 0; i < FIELDS; i++)
        if (strcmp(name, fields[i].name) == 0) {
            take_field(v, i, value, seen);
            return;
        }
    if (strncasecmp(name, "Nats-", 5) != 0 && strcmp(name, EV_LETTER_HEADER) != 0 && v->own_count < HEADERS_MAX)
        v->own[v->own_count++] = (evbus_header){name, value};
}

static void take_apart(struct view *v, const char *stream, struct ev_stored *stored)
{
    uint32_t seen = 0;

    memset(v, 0, sizeof *v);
    v->letter = (evbus_letter){
        .struct_size = sizeof v->letter,
        .sequence = stored->seq,
        .stream = stream,
        .letter_topic = stored->topic,
        .headers = v->own,
        .data = {stored->data, stored->len},
    };
    for (size_t i = 0; i < FIELDS; i++)
        if (fields[i].kind == TEXT)
            *(const char **)(void *)((char *)&v->letter + fields[i].offset) = "";
    char *at = (char *)stored->headers; /* in memory of ours */
    for (char *end; *at && (end = strstr(at, "\r\n")) != NULL; at = end + 2) {
        char *colon = memchr(at, ':', (size_t)(end - at));
        *end = 0;
        if (!colon)
            continue;
        *colon = 0;
        take_line(v, at, colon + 1 + (colon[1] == ' '), &seen);
    }
}

/* ---- Walking ----------------------------------------------------------------------------------------------------- */

static bool fits(const evbus_letter *l, const evbus_letter_opts *o)
{
    return (!o->topic || ev_subject_covers(o->topic, l->topic)) && (!o->group || strcmp(o->group, l->group) == 0) &&
           (!o->aggregate_id || strcmp(o->aggregate_id, l->aggregate_id) == 0) &&
           (!o->cause || strstr(l->cause, o->cause) || strstr(l->detail, o->cause)) &&
           (!o->sequence || o->sequence == l->sequence) && (!o->since_ns || l->last_ns >= o->since_ns) &&
           (!o->until_ns || l->last_ns < o->until_ns);
}

static evbus_status read_opts(evbus *bus, const evbus_letter_opts *opts, evbus_letter_opts *ret)
{
    size_t len;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(ret, sizeof *ret, opts, "evbus_letter_opts")) != EVBUS_OK)
        return st;
    if (!ret->letter_topic)
        ret->letter_topic = EV_DLQ_PREFIX ">";
    if ((st = ev_topic_check(ret->letter_topic, true, &len)) != EVBUS_OK)
        return ev_fail_prefix(st, "evbus_letter_opts.letter_topic");
    if (ret->topic && (st = ev_topic_check(ret->topic, true, &len)) != EVBUS_OK)
        return ev_fail_prefix(st, "evbus_letter_opts.topic");
    ret->timeout_ms = ret->timeout_ms ? ret->timeout_ms : TIMEOUT_MS;
    return EVBUS_OK;
}

/* Letters that come while we walk, such as one that was redriven and failed again, are for the next walk. */
static evbus_status walk(evbus *bus, const evbus_letter_opts *o, const struct ev_stream_info *info, struct view *v,
                         evbus_letter_fn fn, void *ctx)
{
    uint64_t from = o->sequence ? o->sequence : 1;
    bool more = true, found = false;

    while (more && from <= info->last_seq && (!o->sequence || from == o->sequence)) {
        struct ev_stored stored;
        evbus_status st = bus->ops->msg_get(bus->state, info->name, o->letter_topic, from, &stored,
                                            ev_deadline(ev_now(bus), o->timeout_ms));
        if (st == EVBUS_NOT_FOUND)
            break;
        if (st != EVBUS_OK)
            return st;
        take_apart(v, info->name, &stored);
        const bool wanted = stored.seq <= info->last_seq && fits(&v->letter, o);
        found |= wanted;
        if (wanted)
            more = fn(&v->letter, ctx);
        from = stored.seq + 1;
        ev_free(stored.memory);
    }
    if (o->sequence && !found)
        return ev_fail(EVBUS_NOT_FOUND, "stream %s: no such letter at sequence %" PRIu64, info->name, o->sequence);
    return EVBUS_OK;
}

evbus_status evbus_letters(evbus *bus, const evbus_letter_opts *opts, evbus_letter_fn fn, void *ctx)
{
    evbus_letter_opts o;
    struct ev_stream_info info;
    evbus_status st = read_opts(bus, opts, &o);

    if (st != EVBUS_OK)
        return st;
    if (!fn)
        return ev_fail(EVBUS_INVALID, "evbus_letters: the callback is NULL");
    st = bus->ops->stream_covering(bus->state, o.letter_topic, &info, ev_deadline(ev_now(bus), o.timeout_ms));
    if (st == EVBUS_NOT_FOUND && !o.sequence)
        return EVBUS_OK; /* nothing was ever given up */
    if (st != EVBUS_OK)
        return st;
    struct view *v = ev_malloc(sizeof *v);
    if (!v)
        return ev_fail(EVBUS_NOMEM, "out of memory for a letter");
    st = walk(bus, &o, &info, v, fn, ctx);
    ev_free(v);
    return st;
}

/* ---- Again, or never --------------------------------------------------------------------------------------------- */

static evbus_status check_letter(const evbus *bus, const evbus_letter *letter)
{
    const evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK)
        return st;
    if (!letter || letter->struct_size < sizeof letter->struct_size || !letter->stream || letter->sequence == 0)
        return ev_fail(EVBUS_INVALID, "the letter is NULL or not one of evbus_letters");
    return EVBUS_OK;
}

evbus_status evbus_letter_drop(evbus *bus, const evbus_letter *letter, uint32_t timeout_ms)
{
    const evbus_status st = check_letter(bus, letter);

    if (st != EVBUS_OK)
        return st;
    return bus->ops->msg_delete(bus->state, letter->stream, letter->sequence,
                                ev_deadline(ev_now(bus), timeout_ms ? timeout_ms : TIMEOUT_MS));
}

/* The message's own headers, and the count. NULL: out of memory. */
static char *put_headers(const evbus_letter *letter, size_t *ret_len)
{
    size_t size = 128 + strlen(letter->group), at = 0;

    for (const evbus_header *h = letter->headers; h && h->name; h++)
        size += strlen(h->name) + strlen(h->value) + 4;
    char *block = ev_malloc(size);
    if (!block)
        return NULL;
    for (const evbus_header *h = letter->headers; h && h->name; h++)
        if (*h->value)
            at += (size_t)snprintf(block + at, size - at, "%s: %s\r\n", h->name, h->value);
    at += (size_t)snprintf(block + at, size - at,
                           "Evbus-Redriven: %" PRIu32 "\r\n" EV_LETTER_HEADER ": %" PRIu64 " %s\r\n",
                           letter->redriven + 1, letter->sequence, letter->group);
    *ret_len = at;
    return block;
}

evbus_status evbus_letter_redrive(evbus *bus, const evbus_letter *letter, uint32_t timeout_ms, evbus_receipt *ret)
{
    char id[EV_NAME_MAX + 80];
    evbus_status st = check_letter(bus, letter);

    if (st != EVBUS_OK)
        return st;
    if (!*letter->topic)
        return ev_fail(EVBUS_INVALID, "letter %" PRIu64 " of stream %s does not say which topic it came from",
                       letter->sequence, letter->stream);
    (void)snprintf(id, sizeof id, "redrive %s %" PRIu64 " %" PRIi64, letter->stream, letter->sequence, letter->last_ns);
    struct ev_raw raw = {
        .data = letter->data.data,
        .len = letter->data.len,
        .msg_id = id,
        .event_id = letter->event_id,
        .aggregate_id = letter->aggregate_id,
    };
    char *headers = put_headers(letter, &raw.headers_len);
    if (!headers)
        return ev_fail(EVBUS_NOMEM, "out of memory for the headers of a letter");
    raw.headers = headers;
    st = ev_publish_raw(bus, letter->topic, &raw, timeout_ms, ret);
    ev_free(headers);
    if (st != EVBUS_OK)
        return st;
    st = evbus_letter_drop(bus, letter, timeout_ms);
    if (st == EVBUS_NOT_FOUND) /* somebody else redrove it as well: the message id saw to it that it is stored once */
        return EVBUS_OK;
    return st == EVBUS_OK ? st : ev_fail_prefix(st, "the message is stored again, but its letter stays");
}
