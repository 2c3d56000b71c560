/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus outbox: domain events that are published exactly when the transaction of their business rows commits.
 *
 * A service writes its event with evbus_outbox_enqueue in the transaction of its business rows. A relay, in the same
 * process or another, publishes what was committed: one aggregate's events in order, many aggregates in parallel.
 * Several relays may run on one database; what a dead one held is taken over when its lease ends. On the other side,
 * evbus_inbox_once lets a handler's effect happen once even when its event comes twice.
 *
 * SQLite is built in; PostgreSQL is there when the library was built with libpq. A library of its own beside evbus:
 * -levbus_outbox, pkg-config evbus_outbox, evbus::outbox in CMake.
 *
 * Three rules of use
 *   1. Every call returns an evbus_status; evbus_outbox_error_detail() has one sentence for people, per thread.
 *   2. enqueue and inbox_once work in the caller's open transaction and never begin or end one.
 *   3. evbus_outbox_migrate() once, before the rest; relays and commands do not do it by themselves.
 *
 * What is promised, and for how long repeats are told apart: docs/guarantees.md, G9.
 */
#ifndef EVBUS_OUTBOX_H
#define EVBUS_OUTBOX_H

#include <evbus/evbus.h>

struct sqlite3; /* of sqlite3.h */
struct pg_conn; /* PGconn of libpq-fe.h */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The database ------------------------------------------------------------------------------------------------ */

/**
 * A connection of the caller's: set one of the two, NULL the other. Where a parameter of this type is called `tx`, a
 * transaction must be open on it; it stays open. Never used after the call. Threads: as the connection itself.
 */
typedef struct evbus_outbox_db {
    struct sqlite3 *sqlite;
    struct pg_conn *postgres;
} evbus_outbox_db;

/** As evbus_error_detail(), of this library's calls. Never NULL. Threads: any. Blocks: no. */
EVBUS_API const char *evbus_outbox_error_detail(void);

/**
 * Open a connection of one's own, for programs that have none (the command line).
 *
 * @param database  sqlite:PATH, or what libpq takes: postgresql://..., or host=... dbname=...
 * @param ret       written only on EVBUS_OK; end it with evbus_outbox_disconnect
 *
 * Threads: any.  Blocks: while connecting.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID       no such form; or SQLite: no such file (it is not made)
 *          EVBUS_UNSUPPORTED   PostgreSQL, and the library was built without it
 *          EVBUS_DISCONNECTED  the database does not answer, or refused the connection
 *          EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_connect(const char *database, evbus_outbox_db *ret);

/** Closes what evbus_outbox_connect opened. NULL and closed ones are fine. */
EVBUS_API void evbus_outbox_disconnect(evbus_outbox_db *db);

/**
 * Make the tables of outbox and inbox, or bring older ones up to date. Any number of times, by several processes at
 * once. Inside an open transaction it joins that; else it uses one of its own.
 *
 * Blocks: as the database.
 * Returns: EVBUS_OK
 *          EVBUS_MISMATCH  the tables are newer than this library
 *          EVBUS_INVALID, EVBUS_UNSUPPORTED, EVBUS_DISCONNECTED, EVBUS_SYSTEM (the database refused it), EVBUS_TIMEOUT
 *          (locked), EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_migrate(const evbus_outbox_db *db);

/* ---- Outbox: writing --------------------------------------------------------------------------------------------- */

#define EVBUS_OUTBOX_ID_SIZE 256 /* an event id, as the outbox takes it, with its NUL */

typedef struct evbus_outbox_opts {
    size_t struct_size;
    const char
        *idempotency_key;  /* 1..512 bytes; a second event with it is refused; NULL: only the event id is unique */
    int64_t not_before_ns; /* Unix time; the event joins its aggregate's order when that has come; 0: now */
} evbus_outbox_opts;

EVBUS_API void evbus_outbox_opts_init(evbus_outbox_opts *opts);

/**
 * Write one event into the outbox, in the caller's transaction: it is published if and when that commits.
 *
 * @param tx            an open transaction (SQLite: BEGIN; PostgreSQL: not a failed one)
 * @param topic         as for evbus_publish_envelope
 * @param env           event_id NULL: one is made; timestamp_ns 0: now. The id stays the same however often it is sent
 * @param opts          NULL for defaults
 * @param ret_event_id  EVBUS_OUTBOX_ID_SIZE bytes, or NULL
 *
 * Order: events of one aggregate are published in the order of this call; where two transactions write to the same
 * aggregate, in the order in which they commit. For that, PostgreSQL transactions take an advisory lock per aggregate
 * until they end: a transaction that writes several aggregates should do so in an order that others follow too.
 *
 * Blocks: as the database; on PostgreSQL while another open transaction has written to the same aggregate.
 * Ownership: everything is copied.
 * Returns: EVBUS_OK
 *          EVBUS_EXISTS     the event id or idempotency key is there already: nothing was written, and the transaction
 *                           is as good as before
 *          EVBUS_INVALID    no open transaction; or what publishing would refuse (evbus_envelope_check); event ids above
 *                           255 bytes and aggregate ids with a space
 *          EVBUS_NOT_FOUND  no tables: evbus_outbox_migrate
 *          EVBUS_TIMEOUT    a lock was not to be had: SQLite is locked by another connection; PostgreSQL ended a deadlock
 *                           or a serialization failure: roll back and begin again
 *          EVBUS_UNSUPPORTED, EVBUS_DISCONNECTED, EVBUS_SYSTEM, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_enqueue(const evbus_outbox_db *tx, const char *topic,
                                                            const evbus_envelope *env, const evbus_outbox_opts *opts,
                                                            char *ret_event_id);

/* ---- Inbox ------------------------------------------------------------------------------------------------------- */

/**
 * Has this handler done this event already? In the transaction of the handler's effect: when it commits, the answer is
 * yes from then on; when it rolls back, the event is as new.
 *
 * @param event_id    of the envelope; 1..255 bytes
 * @param handler_id  names the handler; 1..255 bytes
 * @param ret_first   true: do it now, in this transaction; false: it was done
 *
 * Blocks: on PostgreSQL while another open transaction asked for the same pair; then it has its answer.
 * Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_NOT_FOUND, EVBUS_TIMEOUT, EVBUS_UNSUPPORTED, EVBUS_DISCONNECTED,
 *          EVBUS_SYSTEM, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_inbox_once(const evbus_outbox_db *tx, const char *event_id,
                                                        const char *handler_id, bool *ret_first);

/**
 * Forget what was handled longer ago than `age_ms`, at most `rows_max` (0: 10,000) at a time. Keep it longer than the
 * stream keeps its messages: what is forgotten is new again.
 *
 * Returns: EVBUS_OK, and as evbus_inbox_once. *ret_count may be NULL.
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_inbox_purge(const evbus_outbox_db *db, uint64_t age_ms, uint32_t rows_max,
                                                         uint64_t *ret_count);

/* ---- Outbox: looking after it ------------------------------------------------------------------------------------ */

typedef struct evbus_outbox_counts {
    size_t struct_size;
    uint64_t scheduled; /* rows whose time has not come */
    uint64_t pending;   /* to be published; those in `blocked` included */
    uint64_t published; /* and not yet purged */
    uint64_t dead;      /* given up; their aggregates are blocked */
    uint64_t passed;    /* given up; later rows went on without them */
    uint64_t blocked;   /* pending rows behind a dead one of their aggregate */
    uint64_t blocked_aggregates;
    uint64_t leased_aggregates;  /* held by a relay now */
    uint64_t waiting_aggregates; /* pausing after a failure */
    uint64_t oldest_pending_ms;  /* age of the oldest pending row; 0: none */
    uint64_t inbox;              /* handled events that are remembered */
    uint64_t schema_version;
} evbus_outbox_counts;

/** Counts rows; reads all of the table. Returns: EVBUS_OK, EVBUS_NOT_FOUND (no tables), and as evbus_outbox_migrate */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_status(const evbus_outbox_db *db, evbus_outbox_counts *ret);

/** A row that was given up. Strings live until the callback returns. */
typedef struct evbus_outbox_row {
    int64_t id;
    const char *event_id;
    const char *topic;
    const char *aggregate_id;
    const char *event_type;
    int64_t event_version;
    int64_t tenant_id;
    int64_t dead_ns;   /* Unix time, by the database's clock */
    uint64_t attempts; /* refusals by the broker */
    uint64_t blocks;   /* 1: its aggregate waits for it; 0: later rows went on */
    const char *payload;
    const char *error; /* the last refusal */
} evbus_outbox_row;

/** False ends the listing. */
typedef bool (*evbus_outbox_row_fn)(const evbus_outbox_row *row, void *ctx);

/** The dead rows, oldest first, at most `rows_max` (0: 1,000). Returns: EVBUS_OK, and as evbus_outbox_status */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_dead(const evbus_outbox_db *db, uint32_t rows_max,
                                                         evbus_outbox_row_fn fn, void *ctx);

/**
 * Make dead rows pending again, with their attempts forgotten; a row that was passed is then published late.
 *
 * @param event_id   NULL: all dead ones
 * @param ret_count  how many; NULL if not wanted
 *
 * Returns: EVBUS_OK, EVBUS_NOT_FOUND (no dead row of that event id), and as evbus_outbox_status
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_retry(const evbus_outbox_db *db, const char *event_id,
                                                          uint64_t *ret_count);

/** Let the later rows of the aggregate go on without this dead one (NULL: all). Returns: as evbus_outbox_retry */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_pass(const evbus_outbox_db *db, const char *event_id,
                                                         uint64_t *ret_count);

/**
 * Remove rows published longer ago than `age_ms`, at most `rows_max` (0: 10,000) at a time. Their event ids and
 * idempotency keys may then be enqueued again.
 *
 * Returns: EVBUS_OK, and as evbus_outbox_status
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_purge(const evbus_outbox_db *db, uint64_t age_ms, uint32_t rows_max,
                                                          uint64_t *ret_count);

/* ---- The relay --------------------------------------------------------------------------------------------------- */

typedef struct evbus_outbox_relay evbus_outbox_relay;

typedef enum evbus_outbox_on_dead {
    EVBUS_OUTBOX_BLOCK = 1, /* default: later rows of its aggregate wait until somebody retries or passes it */
    EVBUS_OUTBOX_PASS = 2   /* they go on without it */
} evbus_outbox_on_dead;

/** Something a person or a supervisor wants to know. Each kind has a counter and one log line as well. */
typedef enum evbus_outbox_event_kind {
    EVBUS_OUTBOX_EVENT_DEAD = 1,        /* a row was given up: refused for good, or attempts_max times */
    EVBUS_OUTBOX_EVENT_TAKEN_OVER = 2,  /* aggregates whose relay let its lease run out */
    EVBUS_OUTBOX_EVENT_MAYBE_TWICE = 3, /* a row is sent again so late that the stream may not know it any more */
    EVBUS_OUTBOX_EVENT_WINDOW = 4,      /* a topic is not served: its stream's duplicate window is too short */
    EVBUS_OUTBOX_EVENT_DATABASE_LOST = 5,
    EVBUS_OUTBOX_EVENT_DATABASE_BACK = 6
} evbus_outbox_event_kind;

typedef struct evbus_outbox_event {
    evbus_outbox_event_kind kind;
    evbus_status status;
    uint64_t count;       /* rows or aggregates concerned */
    const char *event_id; /* "" if none; all strings live until the callback returns */
    const char *topic;
    const char *aggregate_id;
    const char *text; /* one sentence */
} evbus_outbox_event;

/** Runs on the relay's thread, which waits for it. */
typedef void (*evbus_outbox_event_fn)(const evbus_outbox_event *event, void *ctx);

typedef struct evbus_outbox_relay_opts {
    size_t struct_size;
    const char *database; /* as evbus_outbox_connect */
    const char *url; /* the broker, as evbus_open. The relay opens a bus of its own: its receipts are nobody else's */
    const evbus_opts *bus; /* credentials, TLS, log ...; NULL for defaults. It and what it points at live until stop.
                               Its receipts, on_receipt and publish_timeout_ms are the relay's */
    evbus_outbox_event_fn on_event;
    void *on_event_ctx;
    evbus_log_fn log; /* NULL: silent */
    void *log_ctx;
    uint32_t lease_ms;           /* an aggregate is one relay's this long, on the database's clock; 0: 30000; >= 1000 */
    uint32_t publish_timeout_ms; /* from sending to outcome; at most half of lease_ms; 0: 5000, or what fits */
    uint32_t aggregates_max;     /* held, and in flight, at once; 1..4096; 0: 256 */
    uint32_t attempts_max;       /* refusals of a row before it is dead; 0: 10. Outages do not count */
    uint32_t backoff_min_ms;     /* pause of an aggregate after a failure, doubled each time, with jitter; 0: 200 */
    uint32_t backoff_max_ms;     /* 0: 30000 */
    uint32_t on_dead;            /* evbus_outbox_on_dead */
    uint32_t poll_ms;            /* looking for new rows; 0: SQLite 20, PostgreSQL 1000 (it is notified) */
    uint32_t mark_ms;            /* published rows are marked together, at most this late; 0: 20 */
    uint32_t keep_ms;            /* published rows are removed after this; 0: 24 h; EVBUS_FOREVER: never */
    uint32_t inbox_keep_ms;      /* handled events are forgotten after this; 0: 14 days; EVBUS_FOREVER: never */
    uint32_t reserved0;
} evbus_outbox_relay_opts;

typedef struct evbus_outbox_relay_statistics {
    size_t struct_size;
    uint64_t claimed;    /* aggregates */
    uint64_t taken_over; /* of those, from a relay whose lease ran out */
    uint64_t sent;       /* rows handed to the bus */
    uint64_t stored;     /* the broker has them; those in `duplicate` included */
    uint64_t duplicate;  /* of those, it had them already */
    uint64_t refused;
    uint64_t unknown;
    uint64_t marked; /* rows marked as published */
    uint64_t dead;
    uint64_t maybe_twice;     /* sent again so late that the stream may have stored them twice */
    uint64_t leases_lost;     /* aggregates let go of because their lease could not be kept */
    uint64_t windows_refused; /* topics not served because of their duplicate window; each time it is found */
    uint64_t database_errors; /* transactions of the relay that failed */
    uint64_t database_connects;
    uint64_t purged;
    uint64_t held;      /* now: aggregates */
    uint64_t inflight;  /* now: rows sent without an outcome */
    uint64_t connected; /* now: 1: both the database and the broker */
} evbus_outbox_relay_statistics;

EVBUS_API void evbus_outbox_relay_opts_init(evbus_outbox_relay_opts *opts);

/**
 * Start a relay: one thread, one connection to the database, one bus. It checks that for every topic with rows the
 * stream's duplicate window exceeds lease_ms + publish_timeout_ms: else a relay that takes over could not send again
 * safely. A topic that is found later and fails this is not served, with an event.
 *
 * Threads: any.  Blocks: while connecting to both.
 * Returns: EVBUS_OK           also when the broker cannot be reached now: it goes on trying
 *          EVBUS_INVALID      options
 *          EVBUS_MISMATCH     a duplicate window is too short, or the tables are newer than this library
 *          EVBUS_NOT_FOUND    no tables: evbus_outbox_migrate
 *          EVBUS_UNSUPPORTED, EVBUS_DISCONNECTED (the database), EVBUS_AUTH, EVBUS_TLS, EVBUS_TIMEOUT (locked), EVBUS_SYSTEM,
 *          EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_outbox_relay_start(const evbus_outbox_relay_opts *opts,
                                                                evbus_outbox_relay **ret);

/** Threads: any, until stop.  Blocks: no.  Returns: EVBUS_OK, EVBUS_INVALID */
EVBUS_API evbus_status evbus_outbox_relay_stats(const evbus_outbox_relay *relay, evbus_outbox_relay_statistics *ret);

/**
 * Send nothing more, wait for what is in flight, mark it, give the leases back, and free the relay. NULL is fine.
 *
 * @param timeout_ms  0: 10000. What has no outcome by then is sent again by whoever runs next
 * @param ret_last    the statistics at the end; NULL if not wanted
 *
 * Threads: any but on_event's.  Blocks: up to timeout_ms, and for the database's last transaction.
 * Returns: EVBUS_OK
 *          EVBUS_TIMEOUT  something was left in flight, unmarked or leased
 */
EVBUS_API evbus_status evbus_outbox_relay_stop(evbus_outbox_relay *relay, uint32_t timeout_ms,
                                               evbus_outbox_relay_statistics *ret_last);

#ifdef __cplusplus
}
#endif

#endif
