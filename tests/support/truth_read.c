/* SPDX-License-Identifier: Apache-2.0 */
#include "truth_read.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOT_FOUND 10014u /* JetStream's: no such consumer */
#define STREAM_NOT_FOUND 10059u
#define NAME_MAX_SIZE 128u
#define ANSWER_MS 5000u
#define RETRY_MS 50

/* ---- Streams and consumers --------------------------------------------------------------------------------------- */

/* The first of "name":["a","b"] that begins so. */
static bool first_of(const char *json, const char *name, const char *begins, char *ret, size_t size)
{
    const char *at = nats_wire_value(json, name);

    while (at && (at = strchr(at, '"')) && at[-1] != ':') {
        const size_t n = strcspn(++at, "\"");
        if (n < size && strncmp(at, begins, strlen(begins)) == 0) {
            (void)snprintf(ret, size, "%.*s", (int)n, at);
            return true;
        }
        at += n + (at[n] == '"');
        if (*at != ',')
            break;
    }
    return false;
}

bool truth_read_stream_name(struct nats_wire *w, const char *subject, char *ret, size_t size)
{
    char body[NATS_WIRE_SUBJECT];

    (void)snprintf(body, sizeof body, "{\"subject\":\"%s\"}", subject);
    return first_of(nats_wire_ask(w, "$JS.API.STREAM.NAMES", body), "streams", "", ret, size);
}

bool truth_read_consumer_name(struct nats_wire *w, const char *stream, const char *begins, char *ret, size_t size)
{
    char subject[NATS_WIRE_SUBJECT];

    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.NAMES.%s", stream);
    return first_of(nats_wire_ask(w, subject, ""), "consumers", begins, ret, size);
}

bool truth_read_consumer(struct nats_wire *w, const char *stream, const char *consumer, struct truth_consumer *ret)
{
    char subject[2 * NATS_WIRE_SUBJECT];
    uint64_t code = 0;

    *ret = (struct truth_consumer){0};
    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.INFO.%s.%s", stream, consumer);
    const char *answer = nats_wire_ask(w, subject, "");
    if (nats_wire_number(answer, "err_code", &code))
        return code == NOT_FOUND;
    return nats_wire_number(nats_wire_value(answer, "ack_floor"), "stream_seq", &ret->floor) &&
           nats_wire_number(nats_wire_value(answer, "delivered"), "stream_seq", &ret->delivered);
}

/* ---- The store of each server ------------------------------------------------------------------------------------ */

struct reading {
    struct nats_wire wire;
    const char *stream;
    struct truth_content *servers;
    bool read[TRUTH_SERVERS], known;
    uint64_t last; /* known: 0: there is nothing to read */
    uint32_t readers;
};

static int64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* "$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>": behind so many dots. */
static uint64_t number_behind(const char *reply, int dots)
{
    const char *at = reply;

    for (; at && dots > 0; dots--) {
        at = strchr(at, '.');
        at = at ? at + 1 : NULL;
    }
    return at ? strtoull(at, NULL, 10) : 0;
}

static uint64_t sequence_of(const char *reply)
{
    return number_behind(reply, 5);
}

static void take(const struct nats_wire_msg *msg, struct truth_content *content)
{
    struct truth_stored s = {.sequence = sequence_of(msg->reply),
                             .aggregate = UINT32_MAX,
                             .stored_ns = (int64_t)number_behind(msg->reply, 7)};
    char aggregate[32];
    uint64_t version = 0;

    if (nats_wire_text(msg->body, "aggregate_id", aggregate, sizeof aggregate))
        s.aggregate = (uint32_t)strtoul(aggregate + 1, NULL, 10);
    (void)nats_wire_number(msg->body, "event_version", &version);
    s.version = (uint32_t)version;
    truth_content_add(content, &s);
}

/* The server that the answer names; TRUTH_SERVERS: none. */
static size_t node_of(const char *answer)
{
    char leader[NAME_MAX_SIZE];

    if (!nats_wire_text(nats_wire_value(answer, "cluster"), "leader", leader, sizeof leader) || !leader[0])
        return TRUTH_SERVERS;
    const size_t node = (size_t)leader[strlen(leader) - 1] - '0';
    return node < TRUTH_SERVERS ? node : TRUTH_SERVERS;
}

/* Messages may come before the answer that says whose they are. True: one more server is read. */
static bool read_all(struct reading *r)
{
    struct truth_content content = {0};
    struct nats_wire_msg msg;
    size_t node = TRUTH_SERVERS;
    bool useful = true;

    while (useful &&
           (node == TRUTH_SERVERS || content.count == 0 || content.all[content.count - 1].sequence < r->last) &&
           (useful = nats_wire_next(&r->wire, &msg))) {
        if (sequence_of(msg.reply)) {
            take(&msg, &content);
        } else {
            node = node_of(msg.body);
            useful = node < TRUTH_SERVERS && !r->read[node];
        }
    }
    if (!useful) {
        truth_content_clear(&content);
        return false;
    }
    r->servers[node] = content;
    r->read[node] = true;
    return true;
}

/* A consumer with one replica reads the store of the server that it was placed on, which is one of them at random. Each has
 * a connection of its own: nothing of the one before comes on it. */
static bool read_one(struct reading *r)
{
    char subject[NATS_WIRE_SUBJECT], body[2 * NATS_WIRE_SUBJECT], inbox[64];

    (void)snprintf(inbox, sizeof inbox, "truth.reader.%u.%" PRId64, ++r->readers, now_ms());
    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.CREATE.%s", r->stream);
    (void)snprintf(body, sizeof body,
                   "{\"stream_name\":\"%s\",\"config\":{\"deliver_subject\":\"%s\",\"deliver_policy\":\"all\","
                   "\"ack_policy\":\"none\",\"replay_policy\":\"instant\",\"inactive_threshold\":5000000000}}",
                   r->stream, inbox);
    return nats_wire_subscribe(&r->wire, inbox, 2) && nats_wire_send(&r->wire, subject, body) && read_all(r);
}

static bool read_last(struct reading *r)
{
    char subject[NATS_WIRE_SUBJECT];
    uint64_t code = 0;

    (void)snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", r->stream);
    const char *answer = nats_wire_ask(&r->wire, subject, "");
    r->known = (nats_wire_number(answer, "err_code", &code) && code == STREAM_NOT_FOUND) ||
               nats_wire_number(nats_wire_value(answer, "state"), "last_seq", &r->last);
    for (size_t i = 0; r->known && i < TRUTH_SERVERS; i++)
        r->read[i] = r->last == 0;
    return r->known;
}

bool truth_read_servers(uint16_t port, const char *stream, uint32_t patience_ms,
                        struct truth_content servers[TRUTH_SERVERS], char *why, size_t size)
{
    const int64_t until = now_ms() + patience_ms;
    struct reading r = {.stream = stream, .servers = servers};

    while (now_ms() < until && !(r.read[0] && r.read[1] && r.read[2])) {
        const bool read =
            nats_wire_open(&r.wire, port, ANSWER_MS) && (r.known || read_last(&r)) && (r.last == 0 || read_one(&r));
        nats_wire_close(&r.wire);
        if (!read)
            (void)poll(NULL, 0, RETRY_MS);
    }
    for (size_t i = 0; i < TRUTH_SERVERS; i++)
        if (!r.read[i])
            (void)snprintf(why, size, "server %zu of stream %s could not be read up to %" PRIu64, i, stream, r.last);
    return r.read[0] && r.read[1] && r.read[2];
}
