/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault+<scheme>://: any other backend, with faults injected from a seed. It stands between the core and the inner
 * backend on both sides: the core calls its table, the inner backend reports to its tap (ev_host_tap). What it does
 * to the traffic is what brokers and networks do, so every promise of core/backend.h is kept, as seen by the core.
 *
 *   fault.c        the table: what the core asks, passed on or not
 *   fault_wire.c   what comes in: lost, late, twice, overtaken; the link
 *   fault_url.c    the settings
 *
 * Which message is hit. Deliveries and settlements: by a hash of seed, kind, stream sequence and delivery count, so it does
 * not depend on threads. Publishes and their answers: by their number. What happens "about every N ms": by the bus's clock.
 *
 * Who       everything is the loop's but `settings`, `ops`, `inner` (set by open) and the functions marked [any].
 * Holds     a delivery of one aggregate never overtakes another one of it. What waits here counts as used room.
 */
#ifndef EV_BACKEND_FAULT_H
#define EV_BACKEND_FAULT_H

#include "core/backend.h"

/* kind, key of the URL. The keys are also the names in the log line at close. */
#define EV_FAULT_MAP(X)                                                                                                \
    X(EV_FAULT_LOST_ACK, "lost_ack")                                                                                   \
    X(EV_FAULT_LOST_SETTLE, "lost_settle")                                                                             \
    X(EV_FAULT_DUPLICATE, "duplicate")                                                                                 \
    X(EV_FAULT_REPEAT, "repeat")                                                                                       \
    X(EV_FAULT_REORDER, "reorder")                                                                                     \
    X(EV_FAULT_DELAY, "delay")                                                                                         \
    X(EV_FAULT_NO_RESPONDERS, "no_responders")                                                                         \
    X(EV_FAULT_SLOW, "slow")                                                                                           \
    X(EV_FAULT_DISCONNECT, "disconnect")                                                                               \
    X(EV_FAULT_CLOCK_JUMP, "clock_jump")                                                                               \
    X(EV_FAULT_SILENT, "silent")

enum ev_fault_kind {
#define EV_FAULT_X(kind, name) kind,
    EV_FAULT_MAP(EV_FAULT_X)
#undef EV_FAULT_X
        EV_FAULT_KINDS
};

#define EV_FAULT_CERTAIN 1000000000u /* of a probability */

struct ev_fault_settings {
    uint64_t seed;
    uint32_t chance[EV_FAULT_KINDS]; /* of EV_FAULT_CERTAIN; 0 for those that have none */
    uint32_t reorder_by_ms, delay_by_ms, no_responders_for_ms, slow_by_ms;
    uint32_t disconnect_every_ms, disconnect_for_ms, clock_jump_every_ms, clock_jump_by_ms;
    uint32_t silent_every_ms;
};

/* What stands behind the last '?' of a URL; NULL: nothing. EVBUS_INVALID names key, value and rule. */
evbus_status ev_fault_settings_parse(const char *query, struct ev_fault_settings *ret);

/* An inner token, shared by the deliveries that refer to it. */
struct ev_fault_address {
    struct ev_fault_address *next; /* free list */
    void *inner;
    uint32_t refs;
};

/* What the core has as a token: bytes of its first delivery, address of the newest one. */
struct ev_fault_token {
    struct ev_fault_token *next; /* free list */
    struct ev_fault_address *bytes, *address;
    uint64_t seq;
    uint32_t count;    /* deliveries */
    uint32_t attempts; /* settlements tried */
};

enum ev_fault_item_kind { EV_FAULT_ANSWER, EV_FAULT_DELIVERY };

/* Something that came in and has not reached the core yet. */
struct ev_fault_item {
    struct ev_fault_item *next;
    int64_t at;
    enum ev_fault_item_kind kind;
    uint32_t slot, generation;
    struct ev_ack ack; /* its texts are in the buffers */
    char stream[EV_NAME_MAX], text[256];
    struct ev_delivery delivery; /* its token is a struct ev_fault_token */
    uint64_t key;                /* of its aggregate */
    bool late;                   /* it is a duplicate that comes after some time */
};

struct ev_fault_items {
    struct ev_fault_item *head, *tail;
};

struct ev_fault_quiet { /* a subscription that became quiet while deliveries for it wait */
    struct ev_fault_quiet *next;
    struct evbus_sub *sub;
};

struct ev_fault_binding {
    void *inner;
    struct evbus_sub *sub;
    struct ev_fault_binding *next; /* attached, and neither lost nor quiet */
    bool detached;
    bool silent; /* it is not asked for, until it is armed or bound anew */
};

struct ev_fault {
    struct ev_host host; /* first: the inner backend's host */
    const struct ev_backend_ops *ops;
    void *inner;
    const struct ev_log *log;
    evbus_clock *clock; /* NULL: the system's, which cannot jump */
    struct ev_fault_settings settings;
    char *url, *rest;  /* the inner backend's */
    bool opened, shut; /* the inner backend was opened; `shut` was called */

    int64_t now;                 /* of this turn */
    struct ev_fault_items line;  /* in the order they came */
    struct ev_fault_items aside; /* overtaken deliveries, oldest first */
    struct ev_fault_quiet *quiet;
    struct ev_fault_binding *attached;
    struct ev_fault_item *free_items;
    struct ev_fault_token *free_tokens;
    struct ev_fault_address *free_addresses;
    bool inner_up, up; /* the inner link; the link as the core knows it */
    int64_t down_until, stalled_until, away_until, next_disconnect, next_jump, next_silence;
    uint64_t settled_seqs;               /* frontier acks and the like so far */
    uint64_t answers, publishes, events; /* seen so far: the numbers that decide */
    uint64_t count[EV_FAULT_KINDS];      /* injected */
};

/* True: this one is hit; it is counted. `key` says which one of its kind. */
bool ev_fault_hits(struct ev_fault *f, enum ev_fault_kind kind, uint64_t key);
/* A number below `limit` (> 0). */
uint64_t ev_fault_draw(struct ev_fault *f, enum ev_fault_kind kind, uint64_t key, uint64_t limit);

/* fault_wire.c */
extern const struct ev_host_tap ev_fault_tap;
void ev_fault_begin(struct ev_fault *f, int64_t now);
bool ev_fault_pump(struct ev_fault *f);
int64_t ev_fault_due(const struct ev_fault *f);
void ev_fault_answer(struct ev_fault *f, uint32_t slot, uint32_t generation, const struct ev_ack *ack);
uint32_t ev_fault_waiting(const struct ev_fault *f, const struct evbus_sub *sub, uint64_t *ret_bytes);
void ev_fault_token_free(struct ev_fault *f, struct ev_fault_token *token);
void ev_fault_address_put(struct ev_fault *f, struct ev_fault_address *address);
/* Deliveries of these sequences that wait here. */
uint32_t ev_fault_unsettled(const struct ev_fault *f, const struct evbus_sub *sub, uint64_t first, uint64_t last);
/* Gives back what waits; nothing reaches the core any more. */
void ev_fault_discard(struct ev_fault *f);
void ev_fault_fini(struct ev_fault *f);

#endif
