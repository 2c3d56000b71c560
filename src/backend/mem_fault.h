/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults of the wire between a mem:// session and its broker, for simulations of the core. Not part of the library's
 * interface. Each function is called on the session's loop and may be NULL: that fault does not happen.
 */
#ifndef EV_BACKEND_MEM_FAULT_H
#define EV_BACKEND_MEM_FAULT_H

#include "core/backend.h"

struct ev_mem_fault {
    void *ctx;
    bool (*lose_settle)(void *ctx, uint64_t seq, enum ev_settle verb);       /* true: the broker never hears of it */
    bool (*lose_answer)(void *ctx, uint32_t slot);                           /* a publish's; it may be stored */
    bool (*lose_delivery)(void *ctx, uint64_t seq, uint32_t delivery_count); /* comes again after the ack wait */
    bool (*repeat_delivery)(void *ctx, uint64_t seq);                        /* the core gets it twice */
    bool (*link_is_up)(void *ctx, int64_t now);                              /* asked in every turn */
    void (*lost_with_link)(void *ctx, uint64_t seq); /* a delivery was under way when it broke */
};

/* The next mem:// session opened by this thread has these faults; `fault` must outlive it. NULL: none. */
void ev_mem_fault_next(const struct ev_mem_fault *fault);
/* Takes what was set, and clears it. */
const struct ev_mem_fault *ev_mem_fault_take(void);

#endif
