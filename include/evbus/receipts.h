/* SPDX-License-Identifier: Apache-2.0 */
/* What became of each publish, for an outbox: receipts, and the tenants they are sorted by. A part of evbus.h, which includes it. */
#ifndef EVBUS_RECEIPTS_H
#define EVBUS_RECEIPTS_H

#include <evbus/evbus.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Receipts ---------------------------------------------------------------------------------------------------- */

/*
 * What became of each publish, for an outbox. With evbus_opts.receipts or evbus_pub_opts.receipt on, every accepted
 * evbus_publish_envelope(s) ends in exactly one receipt: stored, refused or unknown. Room for it is taken before
 * anything is sent, so none is ever dropped: receipts_max promised or not taken, and further publishes of that queue
 * wait, or get EVBUS_BACKPRESSURE. A receipt takes no place of publish_inflight_max: who does not take holds up nobody
 * else. If nobody takes for 10 s, EVBUS_EVENT_RECEIPTS_UNTAKEN says so.
 *
 * Each tenant has a queue of its own; an envelope's tenant_id chooses it, 0: the bus's. Nothing ever goes to another.
 * A queue is read by evbus_receipts_take, whose caller may wait in it or poll the descriptor of evbus_receipts_fd; or
 * all queues by evbus_opts.on_receipt, on ack workers. They come in the order in which their outcomes became known.
 *
 * How many ack workers: receipts a second times seconds per callback, and half as many again (2,000/s with 1 ms each:
 * 2 x 1.5 = 3). EVBUS_EVENT_RECEIPTS_SLOW, or receipts_p99_us above what you want, says that there are too few.
 */

/**
 * Take receipts. Each is given out once, whichever thread takes it.
 *
 * @param tenant_id   0: the bus's own queue
 * @param receipts    room for `max`; receipts[0].struct_size says how large each is (evbus_receipt_init)
 * @param timeout_ms  how long to wait for the first one; 0 or EVBUS_NOWAIT: not at all
 * @param ret_count   how many were written; 0: none came in time
 *
 * Threads: any, concurrently; in handlers too.  Blocks: up to timeout_ms while there is none.
 * Returns: EVBUS_OK              *ret_count receipts
 *          EVBUS_CLOSED          the bus was shut down and the queue's last receipt is taken: it is at its end
 *          EVBUS_NOT_REGISTERED  the tenant is not registered; if it was: its last receipt is taken
 *          EVBUS_INVALID         NULL, max 0, struct_size; or the bus gives its receipts to on_receipt
 *          EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_receipts_take(evbus *bus, int64_t tenant_id, evbus_receipt *receipts,
                                                           size_t max, uint32_t timeout_ms, size_t *ret_count);

/**
 * A descriptor that is readable while evbus_receipts_take would return at once: receipts wait, or the queue is at its
 * end. It stays readable after a take that left some, and for ever at the end; it is silent as soon as all are taken
 * (with several takers, one may wake for what another has just taken: a take that finds nothing is fine). With many
 * publishes on their way it becomes readable up to 1 ms after the first receipt came. For poll, level-triggered epoll,
 * libuv, libevent. Never read from it: take instead.
 *
 * Threads: any.  Blocks: no.
 * Ownership: the descriptor is the caller's, who ends it with close(), before or after the bus; each call makes one.
 * Returns: EVBUS_OK, EVBUS_NOT_REGISTERED, EVBUS_CLOSED (shut down, and nothing was ever promised)
 *          EVBUS_INVALID, EVBUS_SYSTEM, EVBUS_NOMEM, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_receipts_fd(evbus *bus, int64_t tenant_id, int *ret_fd);

typedef struct evbus_tenant_opts {
    size_t struct_size;
    uint32_t receipts_max; /* 16..1048576; 0: as evbus_opts */
    uint32_t reserved0;
} evbus_tenant_opts;

typedef struct evbus_tenant {
    size_t struct_size;
    int64_t tenant_id;
    uint32_t receipts_max;
    uint32_t closing; /* 1: unregistered, but receipts are left */
    uint64_t pending; /* now: promised, the outcome is to come */
    uint64_t queued;  /* now: waiting to be taken */
    uint64_t taken;
} evbus_tenant;

EVBUS_API void evbus_tenant_opts_init(evbus_tenant_opts *opts);
EVBUS_API void evbus_tenant_init(evbus_tenant *tenant);

/**
 * Give a tenant a receipt queue of its own. Needed only for publishing with receipts.
 *
 * @param tenant_id  above 0
 * @param opts       NULL for defaults
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK
 *          EVBUS_EXISTS   it is registered; or unregistered with receipts left
 *          EVBUS_LIMIT    tenants_max
 *          EVBUS_INVALID, EVBUS_CLOSED, EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_tenant_register(evbus *bus, int64_t tenant_id,
                                                             const evbus_tenant_opts *opts);

/**
 * Close a tenant's queue: publishing with receipts for it returns EVBUS_NOT_REGISTERED from now on, also where it
 * waited for room. Receipts that were promised still arrive and can be taken; when the last one is, the queue is gone:
 * waiting takes return EVBUS_NOT_REGISTERED and its descriptors are readable for ever.
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_NOT_REGISTERED, EVBUS_INVALID (id below 1), EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_tenant_unregister(evbus *bus, int64_t tenant_id);

/**
 * The tenants and their queues, in no order.
 *
 * @param tenants    room for `max`; tenants[0].struct_size says how large each is; NULL if max is 0
 * @param ret_count  how many there are, which may be more than `max`
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_tenant_list(evbus *bus, evbus_tenant *tenants, size_t max, size_t *ret_count);

#ifdef __cplusplus
}
#endif

#endif
