/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receipts: one for each accepted publish that asked for it. Each tenant has a queue of its own, the bus another; each
 * queue a fixed number of places. A place is taken before anything is sent, so a receipt always has one; a publish's
 * slot (slots.h) is free as soon as its outcome is known, whether anybody takes the receipt or not.
 *
 *   receipts.c  one queue: places, putting in, taking out, its end     tenants.c  which tenant has which queue
 *   acks.c      on_receipt: the ack workers; how long receipts take
 *
 * Happy path  publisher: reserve (quota, place), fill, submit -> loop: put (chain, bell) -> taker: take, give back.
 *
 * Who       A receipt belongs to the publisher from reserve to submit, to the loop until its outcome, then to whoever
 *           takes it, who gives its place back. Receipts are made in chunks, when their place is first used.
 *           `quota` counts places taken, and knows when the queue has ended: closed, and the last place given back.
 *           `inbox` the loop adds, takers take; `first`.. under `mutex`, which the loop never takes.
 *           Memory: `refs` are held by the registry and by whoever waits in the queue or runs its callbacks. The registry
 *           lets go on the loop (`gone`), so that the loop may touch a queue it has just put something into. The last
 *           one out hands the queue to the limbo, for publishers find it in an epoch section.
 * Edges     P1 -> P2 of slots.h: what the publisher wrote. V1 -> V2 (conc/chain.h): what the loop wrote.
 *           Q1 -> Q2 (conc/stack.h): the place is free again. X of conc/quota.h: the end. Y of conc/bell.h: the descriptor.
 *           U1 (chunk, release exchange) -> U2 (acquire load): its receipts are initialised.
 *           U3 (queue linked, seq_cst store) -> U4 (look-up in an epoch section, seq_cst load): it is complete.
 *           U5 (loop: item added, then seq_cst swap of `listed` gives 1) / U6 (ack worker: seq_cst store of 0, then its
 *              look at the inbox): Dekker's pattern; the queue is on the list of the ack workers while it has something.
 *           U7 (let go of refs, acq_rel) -> U7: the last one out frees after all others are done.
 * Progress  reserve, put, cancel are lock-free (reserve allocates when a place is used for the first time); takers exclude
 *           each other. Waiting for room sleeps in `room`, waiting for a receipt in `ready`.
 * Holds     places taken <= max; each receipt reserved is put once or cancelled; each receipt put is taken at most once.
 * Checked   tests/support/backend_suite_tenant.c, tests/stress/test_receipts.c, tests/model/test_receipts.c
 */
#ifndef EV_CORE_RECEIPTS_H
#define EV_CORE_RECEIPTS_H

#define EV_RECEIPTS_MIN 16
#define EV_RECEIPTS_MAX (1 << 20)
#define EV_RECEIPT_INLINE 88
#define EV_RECEIPT_CHUNK EV_SIZE(64u, 1u)

struct ev_receipt {
    alignas(EV_CACHELINE) struct ev_chain_link link; /* in the inbox; then the takers' list */
    struct ev_receipts *queue;
    struct ev_topic *topic;
    const char *stream; /* interned, or NULL */
    char *detail;       /* allocated, or NULL */
    uint64_t tag, sequence;
    int64_t accepted_ns, completed_ns;
    uint32_t number, broker_code;
    uint8_t outcome, status;
    bool dup;
    uint16_t cap;       /* of `text` */
    uint16_t aggregate; /* offset into it; the event id is at 0 */
    char *text;         /* here, or allocated: kept with the place */
    char here[EV_RECEIPT_INLINE];
};

struct ev_receipts {
    evbus *bus;
    int64_t tenant; /* 0: the bus's own */
    uint32_t max;
    _Atomic(struct ev_receipt *) *chunks;
    struct ev_stack_link *links; /* of the places */

    alignas(EV_APART) struct ev_quota quota;
    struct ev_park room;
    struct ev_stack free;

    alignas(EV_APART) struct ev_chain inbox;
    struct ev_park ready;
    struct ev_bell bell;
    _Atomic(uint64_t) put;            /* [loop] statistic */
    uint32_t unsaid;                  /* [loop] put, takers not yet woken */
    struct ev_receipts *next_unsaid;  /* [loop] */
    int64_t filled_ns;                /* [loop] when it was last found empty */
    bool watched, told;               /* [loop] in the list of those looked after; nobody takes: said so */
    struct ev_receipts *next_watched; /* [loop] */

    alignas(EV_APART) pthread_mutex_t mutex; /* takers */
    struct ev_receipt *first, *last;         /* guarded: taken out of the inbox, the oldest first */
    _Atomic(uint64_t) taken;                 /* guarded; the loop reads it */
    _Atomic(int64_t) taken_ns;               /* guarded; when last; the loop reads it */
    _Atomic(uint32_t) ended;                 /* guarded; closed, and everything taken */

    _Atomic(uint32_t) refs;
    _Atomic(uint32_t) unregistered;            /* written under bus->mutex */
    _Atomic(uint32_t) listed;                  /* with the ack workers */
    struct ev_chain_link listing;              /* owned by who set `listed` */
    _Atomic(struct ev_receipts *) next_hashed; /* written under bus->mutex */
    bool forgotten;                            /* guarded by bus->mutex: out of the table */
    struct ev_receipts *next;                  /* of all; guarded by bus->mutex */
    struct ev_receipts *next_closing;          /* by shutdown only */
    struct ev_command gone;                    /* lets the loop forget it */
};

struct ev_tenants {
    _Atomic(struct ev_receipts *) own;                /* the bus's queue; NULL until receipts are used */
    _Atomic(_Atomic(struct ev_receipts *) *) buckets; /* NULL until a tenant is registered */
    uint64_t mask;                                    /* constant before `buckets` is set */
    struct ev_receipts *all;                          /* guarded by bus->mutex */
    _Atomic(uint32_t) count;                          /* tenants; written under bus->mutex */
    struct ev_receipts *unsaid;                       /* [loop] something was put into it, takers not yet woken */
    uint32_t unsaid_count;                            /* [loop] receipts, of all these queues */
    int64_t say_at;                                   /* [loop] they are woken by then */
    struct ev_receipts *watched;                      /* [loop] those that may hold something */
    int64_t check_at;                                 /* [loop] */
};

struct ev_ack_worker;

struct ev_acks {
    struct ev_crew crew;
    struct ev_chain listed;             /* queues with something; the loop adds */
    pthread_mutex_t mutex;              /* ack workers */
    struct ev_chain_link *first, *last; /* guarded: taken out of `listed` */
    _Atomic(uint32_t) waiting;          /* guarded; length of that list: a sleeper's condition */
    _Atomic(uint32_t) stop;
    _Atomic(uint32_t) count;
    struct ev_ack_worker *workers; /* by open and shutdown only */

    pthread_mutex_t latency_mutex; /* takers of all queues, once per take */
    struct ev_hist *window;        /* guarded; NULL until receipts are used */
    int64_t window_ns;             /* guarded; when it began */
    bool slow;                     /* guarded */
    _Atomic(uint64_t) p99_ns;      /* of the last whole window */
};

/* ---- receipts.c -------------------------------------------------------------------------------------------------- */

evbus_status ev_receipts_new(evbus *bus, int64_t tenant, uint32_t max, struct ev_receipts **ret);
/* Nobody refers to it. Takes no lock. */
void ev_receipts_free(void *queue);

/* A place in the tenant's queue, with room for `text` bytes. EVBUS_BACKPRESSURE, EVBUS_NOT_REGISTERED, EVBUS_CLOSED,
 * EVBUS_NOMEM. Waits until `deadline`. [app] */
evbus_status ev_receipt_reserve(evbus *bus, int64_t tenant, size_t text, int64_t deadline, struct ev_receipt **ret);
/* What the publisher knows. [app] */
void ev_receipt_describe(struct ev_receipt *receipt, const struct ev_slot *slot);
/* It was not accepted after all. [app] */
void ev_receipt_cancel(struct ev_receipt *receipt);
/* The slot's outcome goes into the queue. [loop] */
void ev_receipt_put(evbus *bus, struct ev_slot *slot);

/* Takes up to `max` out, the oldest first, linked by link.next, the last with NULL. */
size_t ev_receipts_pop(struct ev_receipts *queue, size_t max, struct ev_receipt **ret_first);
bool ev_receipts_empty(struct ev_receipts *queue);
/* Another descriptor that is readable while there is something, or the end. EVBUS_SYSTEM. */
evbus_status ev_receipts_share_fd(struct ev_receipts *queue, int *ret_fd);
void ev_receipt_write(const struct ev_receipt *receipt, evbus_receipt *ret);
/* Gives the places of a popped list back. The caller holds a reference of the queue. */
void ev_receipts_give_back(struct ev_receipts *queue, struct ev_receipt *first);

/* Nothing comes in any more; its end, if it is empty. The caller holds a reference. */
void ev_receipts_close(struct ev_receipts *queue);

/* At the end of a turn: wakes takers, rings, if it is time; and looks after queues that nobody takes from. */
void ev_receipts_turn(evbus *bus, int64_t now);
int64_t ev_receipts_due(const evbus *bus);

/* ---- tenants.c --------------------------------------------------------------------------------------------------- */

evbus_status ev_tenants_init(evbus *bus);
void ev_tenants_fini(evbus *bus);
/* The bus's own queue, made if there is none. EVBUS_CLOSED, EVBUS_NOMEM. */
evbus_status ev_tenants_own(evbus *bus, struct ev_receipts **ret);
/* In an epoch section if `tenant` is not 0; NULL: none. */
struct ev_receipts *ev_tenants_find(evbus *bus, int64_t tenant);
/* With a reference, which ev_receipts_unref takes back; NULL: none. */
struct ev_receipts *ev_tenants_hold(evbus *bus, int64_t tenant);
void ev_receipts_unref(struct ev_receipts *queue);
/* An unregistered tenant's queue is at its end: nobody finds it any more. */
void ev_tenants_forget(evbus *bus, struct ev_receipts *queue);
/* The bus ends: closes all queues. */
void ev_tenants_close(evbus *bus);

/* ---- acks.c ------------------------------------------------------------------------------------------------------ */

evbus_status ev_acks_init(evbus *bus);
evbus_status ev_acks_start(evbus *bus);
/* Asks the ack workers to end and joins those that do until then. */
void ev_acks_stop(evbus *bus, int64_t deadline_system_ns);
void ev_acks_fini(evbus *bus);
/* Something was put into the queue. [loop] */
void ev_acks_list(evbus *bus, struct ev_receipts *queue);
/* Gives one receipt to on_receipt; false: there is none. */
bool ev_acks_run_one(evbus *bus);
/* How long receipts took: each to `now`. */
evbus_status ev_acks_measure(evbus *bus);
void ev_acks_note(evbus *bus, const struct ev_receipt *first, int64_t now);

#endif
