/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bus knows of a topic, in one record: one look-up per message gives configuration, stream, gate, counters.
 * Records are made once per name passed by the application (never by the wire) and live until close, so the table is
 * insert-only and its readers need no section and no lock.
 *
 * Who       table, slots: written under bus->mutex, read by any thread. cfg, handlers: replaced under bus->mutex.
 * Edges     T1 (insert, release slot) -> T2 (find, acquire slot): the record is complete.
 *           T3 (grow, release table)  -> T4 (find, acquire table): the new table is complete; the old one stays readable.
 *           T5 (configure, seq_cst swap of cfg) -> T6 (read, seq_cst load inside an epoch section): the snapshot is complete,
 *              and not freed while it is read (conc/epoch.h says why both are seq_cst).
 *           T7 (ensured, release stream_state) -> T8 (publish, acquire): `stream` names the stream.
 *           T9 (subscribe, release handlers) -> T10 (read, acquire).
 * Progress  find and the reads are wait-free. Inserting takes the mutex.
 * Holds     a record is in the current table for ever; count <= slots / 2; a reader of an old table may miss a record
 *           that was inserted later, and then looks again under the mutex.
 * Checked   tests/unit/test_topic.c, tests/model/
 */
#ifndef EV_CORE_TOPIC_H
#define EV_CORE_TOPIC_H

#define EV_TEXT_BUCKETS 512

struct ev_topic_table {
    uint64_t mask;
    struct ev_topic_table *older;
    struct ev_topic_entry {
        _Atomic(uint64_t) hash; /* a hint beside the pointer: saves touching foreign records */
        _Atomic(struct ev_topic *) topic;
    } slots[];
};

/* A text that lives until close. As the name of a stream: what this bus did about it. */
struct ev_text {
    struct ev_text *next;
    int64_t missed_at; /* made: the first answer that it is not there; 0: none */
    uint32_t len;
    bool made; /* by this bus */
    char text[];
};

struct ev_topics {
    _Atomic(struct ev_topic_table *) table;
    uint64_t seed;
    _Atomic(uint32_t) count;                /* written under mutex */
    uint32_t own;                           /* guarded by mutex: of those, made by ev_topic_get_own */
    uint32_t interned;                      /* guarded by mutex: texts in `texts` */
    struct ev_text *texts[EV_TEXT_BUCKETS]; /* guarded by mutex */
};

enum ev_stream_state {
    EV_STREAM_UNKNOWN, /* ask before the next publish */
    EV_STREAM_THERE,   /* `stream` names it */
    EV_STREAM_NONE     /* ephemeral, or fallen back: core NATS; asked again after `retry_at` */
};

enum ev_gate { EV_GATE_OPEN, EV_GATE_CLOSED };

struct ev_topic {
    uint64_t hash;
    evbus *bus;
    _Atomic(const evbus_topic_opts *) cfg; /* never NULL: the defaults until configured. Defaults filled in */
    _Atomic(bool) configured;
    _Atomic(uint32_t) stream_state;  /* enum ev_stream_state */
    _Atomic(const char *) stream;    /* interned; valid once THERE */
    _Atomic(int64_t) retry_at;       /* a failed look-up is remembered until then */
    _Atomic(uint32_t) failed_status; /* its status */
    char *failed_text;               /* and what it said; guarded by bus->mutex */
    _Atomic(uint32_t) handlers;      /* subscriptions of exactly this name */
    struct ev_flight flight;         /* one look-up or creation at a time */

    /* The gate: written by the loop, read by publishers */
    _Atomic(uint32_t) gate;
    _Atomic(uint32_t) held_hint; /* held.count for publishers */
    _Atomic(uint32_t) fallback;  /* 1: plain messages go over core NATS though the topic is persistent */

    _Atomic(uint64_t) outage_bytes; /* accepted during an outage and not sent yet: added by publishers, ... */
    _Atomic(uint32_t) outage_msgs;  /* ... taken off by the loop */

    _Atomic(int64_t) rate; /* rate.c's bucket */

    /* [loop] outbound.c */
    struct {
        struct ev_slot *head, *tail;
        uint32_t count;
    } held;                /* accepted, not sent, in order */
    struct ev_slot *probe; /* the one message that tries a closed gate */
    int64_t probe_at;
    uint64_t last_order;                 /* order number of the topic's last sent message */
    uint32_t unanswered;                 /* sent and not answered */
    uint32_t denied;                     /* permission violations seen since unanswered was 0 */
    uint32_t left_refused, left_unknown; /* at the end, for the report */
    struct ev_topic *next_held;          /* list of topics with something held or a closed gate */
    bool in_held_list;
    _Atomic(bool) checking; /* a chore looks at the stream: set by the loop, cleared by the keeper */
    struct ev_chore chore;

    /* Counters: accepted [app], the rest [loop] */
    _Atomic(uint64_t) accepted;
    _Atomic(uint64_t) stored, duplicate, refused, unknown, core;
    _Atomic(uint64_t) handled, retried, dead_lettered;

    uint16_t len;
    char name[];
};

evbus_status ev_topics_init(evbus *bus);
void ev_topics_fini(evbus *bus);

/* What ev_bus_intern keeps, or NULL. bus->mutex is held. */
struct ev_text *ev_bus_text(evbus *bus, const char *text, size_t len);

/* The record, or NULL. [any] wait-free */
struct ev_topic *ev_topic_find(const evbus *bus, const char *name, size_t len);

/* The record, made if it is not there yet. EVBUS_INVALID (name), EVBUS_LIMIT (topics_max), EVBUS_NOMEM. [app] */
evbus_status ev_topic_get(evbus *bus, const char *name, bool pattern, struct ev_topic **ret);

/* The same for a name that the bus made of another topic's: topics_max does not count it. EVBUS_NOMEM. [app] [loop] */
evbus_status ev_topic_get_own(evbus *bus, const char *name, struct ev_topic **ret);

/* Copies the configuration, defaults filled in. [any] wait-free */
void ev_topic_read(struct ev_topic *topic, evbus_topic_opts *ret);

#endif
