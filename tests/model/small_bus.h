/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bus without threads for models of src/core: real parts, small, on a backend that only counts. Threads of a model
 * call what application threads, the loop and workers call. Time stands still, unless time_passes: then the loop's naps of
 * less than a second are over at once.
 */
#ifndef EV_MODEL_SMALL_BUS_H
#define EV_MODEL_SMALL_BUS_H

#include "core/message.h"
#include "explore.h"

#define SMALL_BUS_ASKED 8

/* What the backend of the bus has seen. All of it is the loop's, but for the sleep, which is that of mem:// and of nats://. */
struct small_backend {
    _Atomic(uint32_t) poke;
    struct ev_park park;
    struct {
        uint32_t slot, generation;
    } asked[SMALL_BUS_ASKED]; /* sent and to be answered: stored, in the next turn */
    uint32_t asked_count;
    uint32_t sent;
    uint32_t ends_after; /* the loop ends when so many were sent and answered; 0: never */
    bool shut, time_passes;
};

/* Of a delivery: what the backend was told. */
struct small_token {
    uint32_t acked, handed_back, terminated, released;
};

extern struct evbus small_bus;
extern struct small_backend small_backend;

/* For model.reset: open, connected, with room for so many publishes. */
void small_bus_reset(uint32_t publishes);

/* For model.check, at its end: frees what a close frees. */
void small_bus_fini(void);

/* For model.cleanup, also after runs that were broken off. */
void small_bus_forget(void);

/* For reset: a topic with a stream, or one of core NATS, whose publishes end when they are sent. */
struct ev_topic *small_topic(const char *name, bool stored);

/* The loop's thread: until the bus has ended. */
void small_loop(void);

/* A delivery of the subscription, as the backend makes it; `data` is an envelope for those. The loop, or reset. */
void small_deliver(struct evbus_sub *sub, uint64_t seq, struct small_token *token, const char *data);

#endif
