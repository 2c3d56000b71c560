/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NATS by hand, over a socket: for asking a server what it has without any library between, ours least of all, and in
 * programs that are not linked with libnats. Loopback, no authentication, no TLS. Threads: one per connection.
 */
#ifndef EV_TESTS_NATS_WIRE_H
#define EV_TESTS_NATS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NATS_WIRE_SUBJECT 256

struct nats_wire {
    int fd;         /* -1: not connected, or it failed */
    uint32_t asked; /* requests so far: each has an inbox of its own */
    char inbox[64];
    char *buffer; /* what came: `at` of `used` is taken */
    size_t at, used, capacity;
};

struct nats_wire_msg {
    char subject[NATS_WIRE_SUBJECT], reply[NATS_WIRE_SUBJECT];
    const char *body; /* without headers, and a 0 behind it; until the next call */
    size_t size;
};

/* False: nobody there. Everything below then fails at once. */
bool nats_wire_open(struct nats_wire *w, uint16_t port, uint32_t timeout_ms);
void nats_wire_close(struct nats_wire *w); /* also after a failed open */

bool nats_wire_subscribe(struct nats_wire *w, const char *subject, uint32_t sid);
/* The next message of any subscription; false: none came in time. */
bool nats_wire_next(struct nats_wire *w, struct nats_wire_msg *ret);
/* A question whose answer comes as one of the messages. */
bool nats_wire_send(struct nats_wire *w, const char *subject, const char *body);
/* The answer's body, NULL: none came in time. Messages that come before it are lost. */
const char *nats_wire_ask(struct nats_wire *w, const char *subject, const char *body);

/* The number, or the start of the text, behind "name": in JSON, looked for from `json` on; not told from what is inside of
 * strings. False, NULL: it is not there. */
bool nats_wire_number(const char *json, const char *name, uint64_t *ret);
bool nats_wire_text(const char *json, const char *name, char *ret, size_t size);
const char *nats_wire_value(const char *json, const char *name);

#endif
