/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots: publishes between acceptance and outcome. There is one slot per accepted publish, taken before anything is
 * sent, so that an outcome always has its place; no slot free means back-pressure. The bytes live in the slot until the
 * outcome, since a resend and the error callback need them.
 *
 * Who       A publisher owns a slot from take to submit, the loop from then to the outcome; a waiting publisher owns it
 *           again after DONE; whoever owns it last gives it back.
 * Edges     P1 (submit, release into the submit ring) -> P2 (loop, acquire pop): the fields and bytes are complete.
 *           P3 (outcome, seq_cst state = DONE) -> P4 (waiter, acquire state): the result fields are complete.
 *           P5 (give back, push to the free stack; the loop pushes rows) -> P6 (take, pop): the slot is clean.
 *           P7 (submit: RESERVED -> QUEUED) against P8 (end of the loop: RESERVED -> DEAD), compare-and-swap: exactly
 *           one wins, so a publisher that was asleep while the bus ended gets EVBUS_CLOSED, not a lost message.
 * Progress  take, submit, give back are lock-free. Waiting for room sleeps in `room`.
 * Holds     each slot is in the free stack, in `back`, or has one owner; bytes_used is the sum of `charged` of all taken
 *           slots, and back_bytes.
 * Checked   tests/model/test_slots.c, tests/stress/test_publishers.c
 */
#ifndef EV_CORE_SLOTS_H
#define EV_CORE_SLOTS_H

enum ev_slot_state { EV_SLOT_FREE, EV_SLOT_RESERVED, EV_SLOT_QUEUED, EV_SLOT_DONE, EV_SLOT_DEAD };

enum ev_slot_kind {
    EV_SLOT_PLAIN,
    EV_SLOT_ENVELOPE,
    EV_SLOT_WAIT,  /* an envelope whose publisher waits for the outcome */
    EV_SLOT_LETTER /* a dead letter: reserved places of the bus's own, see ev_slots.letters */
};

enum ev_slot_phase { EV_PHASE_IDLE, EV_PHASE_HELD, EV_PHASE_SENT }; /* [loop] */

/*
 * By cache lines: the first two are all that an answer touches, from the broker's word to the free place; the third is the
 * bytes' whereabouts, for filling and sending; the fourth is rare.
 */
struct ev_slot {
    alignas(EV_CACHELINE) _Atomic(uint32_t) state;
    struct ev_stack_link link; /* FREE: the next one */
    uint32_t index;
    uint32_t generation; /* [loop] counts sends: an answer to an older one is not ours any more */
    uint8_t kind;
    bool want_ack;     /* persistent: the broker answers */
    bool outage;       /* counted in its topic's outage_msgs: set before submit, cleared by the loop */
    bool maybe_stored; /* [loop] sent before, and no answer said it was not stored */
    uint8_t phase;     /* [loop] alone reads and writes it, also of slots that publishers own: then it is IDLE */
    bool dup;
    bool under_way; /* [loop] the broker said so of a send of it: it has the message id, and did not store it yet */
    struct ev_topic *topic;
    struct ev_receipt *receipt; /* where the outcome goes; NULL: no receipt is wanted */
    struct ev_slot *after;      /* [loop] sent next after this one, when last seen: what to have in the cache. A hint */
    int64_t accepted_ns, deadline_ns;

    /* The outcome, for the waiter or the error callback */
    evbus_outcome outcome;
    evbus_status status;
    uint32_t broker_code;
    uint32_t charged; /* bytes accounted */
    uint64_t sequence;
    int64_t completed_ns;
    const char *stream; /* interned, or NULL */
    char *detail;       /* allocated, or NULL */

    /* What follows `cap` are offsets into `buf`; 0 = absent. The buffer starts with a NUL byte. */
    char *buf;
    uint32_t cap;
    uint32_t data, data_len, headers, headers_len, msg_id, event_id, aggregate_id;
    uint64_t order; /* [loop] number of its last send */
    uint64_t mark;  /* [loop] ops->sent_mark after its last send */
    uint64_t tag;
    int64_t tenant;

    struct ev_slot *next; /* [loop] held list */
    int64_t ask_at; /* [loop] under_way: when it may be sent again to ask; EV_NEVER: it was, and no answer came yet */
    const void *outside;  /* LETTER: the dead message's bytes instead of data */
    evbus_msg *letter_of; /* LETTER */
    struct ev_park done;  /* WAIT: the publisher sleeps here */
    struct ev_job job;    /* error callback */
};

struct ev_slots {
    struct ev_slot *all;          /* `count` for publishers, then `letters` for dead letters */
    _Atomic(const char *) *bytes; /* each one's `buf`: a hint for who will take it, and does not own it yet */
    uint32_t count, letters;
    struct ev_stack free;  /* publishers' */
    struct ev_ring submit; /* publishers -> loop */
    struct ev_park
        room; /* publishers waiting for a slot, for bytes, or for a gate; not all want the same, and who wakes
                              in vain wakes nobody else: so all are woken in the end */
    alignas(EV_APART) _Atomic(uint64_t) bytes_used;
    struct ev_slot *free_letters; /* [loop] */
    struct ev_stack_row back;     /* [loop] free, and not put into `free` yet ... */
    uint64_t back_bytes;          /* [loop] ... and what they were charged */
    uint32_t released;            /* [loop] given back since publishers were last woken */
    int64_t wake_at;              /* [loop] publishers wait, and what came free is to be told by then; EV_NEVER */
    int64_t look_at;              /* [loop] some were woken: whether they use the room up is looked at then; EV_NEVER */
    uint32_t told;                /* [loop] places that had come free when they were woken ... */
    uint64_t taken;               /* [loop] ... and how often one had been taken by then */
};

evbus_status ev_slots_init(evbus *bus);
void ev_slots_fini(evbus *bus);

/* A slot with room for `size` bytes behind its leading NUL. EVBUS_BACKPRESSURE, EVBUS_TOO_LARGE, EVBUS_NOMEM,
 * EVBUS_CLOSED. Waits until `deadline`. [app] */
evbus_status ev_slot_take(evbus *bus, uint32_t size, int64_t deadline, struct ev_slot **ret);
/* False: the bus ended meanwhile; the slot is still the caller's to give back. [app] */
bool ev_slot_submit(evbus *bus, struct ev_slot *slot);
/* Whoever owns it. */
void ev_slot_give_back(evbus *bus, struct ev_slot *slot);
/* The loop's way: places come free in rows, once a turn at the latest, for publishers take from the same two lines. [loop] */
void ev_slot_release(evbus *bus, struct ev_slot *slot);
/* Lets what was released be taken. [loop] */
void ev_slots_put_back(evbus *bus);
/* The same, and wakes publishers waiting for room, if enough came free: part of each turn. `idle`: nothing else happened in it. [loop] */
void ev_slots_wake(evbus *bus, bool idle);

static inline const char *ev_slot_text(const struct ev_slot *slot, uint32_t offset)
{
    return offset ? slot->buf + offset : "";
}

#endif
