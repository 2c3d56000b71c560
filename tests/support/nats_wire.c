/* SPDX-License-Identifier: Apache-2.0 */
#include "nats_wire.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define BUFFER_MIN 65536u
#define SID_OF_ANSWERS 1u /* subscriptions of others are numbered from 2 on */

/* ---- Bytes ------------------------------------------------------------------------------------------------------- */

static bool failed(struct nats_wire *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    return false;
}

static bool put(struct nats_wire *w, const char *bytes, size_t size)
{
    while (w->fd >= 0 && size > 0) {
        const ssize_t n = send(w->fd, bytes, size, MSG_NOSIGNAL);
        if (n <= 0)
            return failed(w);
        bytes += n;
        size -= (size_t)n;
    }
    return w->fd >= 0;
}

/* At least `wanted` bytes that are not taken yet, and room for a 0 behind them. */
static bool fill(struct nats_wire *w, size_t wanted)
{
    if (w->at > 0 && w->at + wanted + 1 > w->capacity) {
        memmove(w->buffer, w->buffer + w->at, w->used - w->at);
        w->used -= w->at;
        w->at = 0;
    }
    if (wanted + 1 > w->capacity) {
        w->capacity = wanted + BUFFER_MIN;
        w->buffer = realloc(w->buffer, w->capacity);
        if (!w->buffer)
            abort();
    }
    while (w->fd >= 0 && w->used - w->at < wanted) {
        const ssize_t n = recv(w->fd, w->buffer + w->used, w->capacity - 1 - w->used, 0);
        if (n <= 0)
            return failed(w);
        w->used += (size_t)n;
    }
    return w->fd >= 0;
}

/* Without its end; until the next call. */
static char *line(struct nats_wire *w)
{
    size_t seen = 0;

    for (;;) {
        char *end = w->used > w->at + seen ? memchr(w->buffer + w->at + seen, '\n', w->used - w->at - seen) : NULL;
        if (end) {
            char *start = w->buffer + w->at;
            w->at = (size_t)(end + 1 - w->buffer);
            *(end > start && end[-1] == '\r' ? end - 1 : end) = 0;
            return start;
        }
        seen = w->used - w->at;
        if (!fill(w, seen + 1))
            return NULL;
    }
}

/* ---- Connection -------------------------------------------------------------------------------------------------- */

bool nats_wire_open(struct nats_wire *w, uint16_t port, uint32_t timeout_ms)
{
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
    char inbox[72];

    memset(w, 0, sizeof *w);
    w->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (w->fd < 0)
        return false;
    (void)setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    (void)setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(w->fd, (const struct sockaddr *)&at, sizeof at) != 0)
        return failed(w);
    (void)snprintf(w->inbox, sizeof w->inbox, "wire.%d.%p", (int)getpid(), (void *)w);
    (void)snprintf(inbox, sizeof inbox, "%s.*", w->inbox);
    const char *info = line(w);
    return info && strncmp(info, "INFO", 4) == 0 && put(w, hello, sizeof hello - 1) &&
           nats_wire_subscribe(w, inbox, SID_OF_ANSWERS);
}

void nats_wire_close(struct nats_wire *w)
{
    (void)failed(w);
    free(w->buffer);
    w->buffer = NULL;
}

bool nats_wire_subscribe(struct nats_wire *w, const char *subject, uint32_t sid)
{
    char text[NATS_WIRE_SUBJECT + 32];
    const int n = snprintf(text, sizeof text, "SUB %s %u\r\n", subject, sid);

    return put(w, text, (size_t)n);
}

/* "MSG <subject> <sid> [reply] <size>", HMSG with the headers' size before the size. */
static bool take_message(struct nats_wire *w, char *first, struct nats_wire_msg *ret)
{
    const bool headers = first[0] == 'H';
    char *words[6] = {0}, *save = NULL;
    size_t n = 0, skip = 0;

    for (char *s = strtok_r(first, " ", &save); s && n < 6; s = strtok_r(NULL, " ", &save))
        words[n++] = s;
    if (n < 4u + headers)
        return failed(w);
    (void)snprintf(ret->subject, sizeof ret->subject, "%s", words[1]);
    (void)snprintf(ret->reply, sizeof ret->reply, "%s", n > 4u + headers ? words[3] : "");
    ret->size = strtoul(words[n - 1], NULL, 10);
    skip = headers ? strtoul(words[n - 2], NULL, 10) : 0;
    if (skip > ret->size || !fill(w, ret->size + 2))
        return failed(w);
    ret->body = w->buffer + w->at + skip;
    w->buffer[w->at + ret->size] = 0; /* in place of the end of line */
    w->at += ret->size + 2;
    ret->size -= skip;
    return true;
}

bool nats_wire_next(struct nats_wire *w, struct nats_wire_msg *ret)
{
    char *text;

    while ((text = line(w))) {
        if (strncmp(text, "MSG ", 4) == 0 || strncmp(text, "HMSG ", 5) == 0)
            return take_message(w, text, ret);
        if (strcmp(text, "PING") == 0 && !put(w, "PONG\r\n", 6))
            return false;
    }
    return false;
}

static bool send_question(struct nats_wire *w, const char *subject, const char *body, char reply[96])
{
    char text[2 * NATS_WIRE_SUBJECT + 128];

    (void)snprintf(reply, 96, "%s.%u", w->inbox, ++w->asked);
    const int n = snprintf(text, sizeof text, "PUB %s %s %zu\r\n", subject, reply, strlen(body));
    return put(w, text, (size_t)n) && put(w, body, strlen(body)) && put(w, "\r\n", 2);
}

bool nats_wire_send(struct nats_wire *w, const char *subject, const char *body)
{
    char reply[96];

    return send_question(w, subject, body, reply);
}

const char *nats_wire_ask(struct nats_wire *w, const char *subject, const char *body)
{
    struct nats_wire_msg msg;
    char reply[96];

    if (!send_question(w, subject, body, reply))
        return NULL;
    while (nats_wire_next(w, &msg))
        if (strcmp(msg.subject, reply) == 0)
            return msg.body;
    return NULL;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

const char *nats_wire_value(const char *json, const char *name)
{
    char key[64];

    (void)snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = json ? strstr(json, key) : NULL;
    if (!at)
        return NULL;
    at += strlen(key);
    return at + strspn(at, " ");
}

bool nats_wire_number(const char *json, const char *name, uint64_t *ret)
{
    const char *at = nats_wire_value(json, name);
    char *end = NULL;

    if (at)
        *ret = strtoull(at, &end, 10);
    return at && end > at;
}

bool nats_wire_text(const char *json, const char *name, char *ret, size_t size)
{
    const char *at = nats_wire_value(json, name);

    if (!at || *at++ != '"')
        return false;
    const size_t n = strcspn(at, "\"");
    if (n >= size)
        return false;
    memcpy(ret, at, n);
    ret[n] = 0;
    return true;
}
