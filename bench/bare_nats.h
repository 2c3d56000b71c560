/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The baselines: JetStream from bare libnats, as fast as we can write it. Two ways, since each is the better one for
 * something:
 *   raw    a connection on libnats's own threads; publishes with a reply subject in our own inbox, one asynchronous
 *          subscription takes the answers. The fastest publisher at saturation.
 *   loop   a connection on libnats's event-loop adapter with one thread of ours. The best latency, the cheapest
 *          consumer.
 */
#ifndef EVBUS_BARE_NATS_H
#define EVBUS_BARE_NATS_H

#include "bench.h"

#include <nats/nats.h>
#include <pthread.h>

void bare_check(natsStatus s, const char *what); /* ends the run when it is not NATS_OK */
/* Makes (after deleting it) a stream, by a connection of its own. */
void bare_stream(const char *stream, const char *subjects, bool memory);
void bare_stream_delete(const char *stream);
/* A pull consumer with explicit acks or ack-all, from the first message on; of one topic, or (NULL) of all in the stream. */
void bare_consumer(const char *stream, const char *durable, const char *topic, bool ack_all, int64_t max_ack_pending);

/* ---- Raw publishing ---------------------------------------------------------------------------------------------- */

struct bare_raw {
    natsConnection *nc;
    natsSubscription *sub;
    char inbox[64];
    uint32_t window;
    bool msg_id;
    _Alignas(128) _Atomic(uint64_t) sent;           /* producers */
    _Alignas(128) _Atomic(uint64_t) acked, refused; /* the subscription's thread */
    _Alignas(128) _Atomic(uint32_t) waiting, word;
    struct samples *latency; /* NULL: not wanted; by the time of sending, kept per place in the window */
    _Atomic(int64_t) *sent_ns;
};

void bare_raw_open(struct bare_raw *raw, uint32_t window, bool msg_id);
/* Encodes and publishes event `i`; waits while the window is full. */
void bare_raw_publish(struct bare_raw *raw, const char *subject, const evbus_envelope *env);
/* The same of bytes: with an id when `msg_id` is not NULL. */
void bare_raw_bytes(struct bare_raw *raw, const char *subject, const char *msg_id, const void *data, size_t len);
bool bare_raw_finish(struct bare_raw *raw); /* all answered; then closes */

/* ---- The event loop ---------------------------------------------------------------------------------------------- */

#define BARE_GRAVES 1024

struct bare_loop {
    natsConnection *nc;
    natsSubscription *sub; /* of inbox.> */
    char inbox[64];
    int fd, wake_fd;
    pthread_t thread;
    _Atomic(bool) want_write, sleeping, stop;
    void (*turn)(struct bare_loop *loop);               /* before writing */
    void (*take)(struct bare_loop *loop, natsMsg *msg); /* each message of `sub`; owns it */
    void *ctx;
    natsMsg *graves[BARE_GRAVES];
    unsigned grave_count;
    int64_t graves_due;
};

void bare_loop_open(struct bare_loop *loop);
void bare_loop_close(struct bare_loop *loop);
void bare_loop_wake(struct bare_loop *loop);               /* any thread, after making work for `turn` */
void bare_loop_bury(struct bare_loop *loop, natsMsg *msg); /* frees in batches: loop thread */

/* Overlapping pulls, asked again at half. */
struct bare_pull {
    char next[160], reply[80];
    unsigned batch, outstanding;
};
void bare_pull_init(struct bare_pull *pull, const struct bare_loop *loop, const char *stream, const char *durable,
                    unsigned batch);
void bare_pull_turn(struct bare_pull *pull, struct bare_loop *loop); /* asks if there is room */
/* True: it was a delivery, and is counted; false: a status. */
bool bare_pull_took(struct bare_pull *pull, const natsMsg *msg);

#endif
