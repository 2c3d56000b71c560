/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The relay, in one picture:
 *
 *   rows ──claim──► lane (one aggregate) ──send one row──► bus ──receipt──► mark ──► rows
 *                     │        ▲ stored: its next row                        │ together, in the next cycle
 *                     └─ refused, unknown: pause, or dead ───────────────────┘
 *
 * A lane has at most one row in flight, so nothing of an aggregate overtakes; lanes run side by side. A cycle
 * (relay_cycle.c) is one transaction: marks, failures, leases kept, rows read, lanes let go, aggregates claimed. What it
 * read is sent only after it committed.
 *
 * A row is sent only while the lane's lease has at least publish_timeout_ms left: when that is over, the bus guarantees
 * that the bytes cannot leave any more. The lease's end is known by our clock from before the statement that set it by
 * the database's, so ours is the earlier one; CLOCK_BOOTTIME goes on while a process is stopped or a machine sleeps.
 *
 * Who       everything: the relay's thread. `done`, `done_list`, `done_count`: under `mutex`, also by the bus's threads
 *           (on_receipt). Statistics: written by the relay's thread, read by any.
 * Edges     R1 (stop, release stopping) -> R2 (thread, acquire): the deadline is there.
 */
#ifndef EV_OUTBOX_RELAY_H
#define EV_OUTBOX_RELAY_H

#include "outbox/sql.h"
#include "outbox/text.h"

#include <pthread.h>
#include <stdatomic.h>

#define EV_MS INT64_C(1000000)
#define EV_MARKS_MAX 1024
#define EV_AGGREGATE_SIZE 257
#define EV_ROW_BYTES_MAX (UINT64_C(64) << 20) /* of rows read and not done */
#define EV_TOPIC_BUCKETS 256

struct ev_row {
    int64_t id, version, stamp_ns, tenant, attempts;
    const char *event_id, *topic, *event_type, *trace_id, *correlation_id, *payload; /* in text */
    size_t payload_len, bytes;
    char text[];
};

enum ev_lane_state {
    EV_LANE_FREE,
    EV_LANE_READY,  /* rows[at] is to be sent */
    EV_LANE_SENT,   /* rows[at] is in flight */
    EV_LANE_SPENT,  /* its rows are done, but there may be more; or its lease needs to be kept */
    EV_LANE_FAILED, /* rows[at] was refused, or nothing is known of it: `failure` */
    EV_LANE_LEAVING /* to be let go of */
};

struct ev_lane {
    enum ev_lane_state state;
    bool more; /* the database may have more rows than were read */
    bool kept; /* within a cycle: its lease was renewed */
    uint32_t count, at;
    int64_t until_ns;                   /* our clock: the lease is ours until then */
    int64_t fails;                      /* failures in a row */
    int64_t carry_upto, carry_since_ns; /* rows up to this id may have been sent before, since then; 0: none */
    uint64_t hash;
    struct ev_row *rows[EV_ROWS_MAX];
    struct {
        evbus_status status;
        bool counts;  /* as an attempt: the broker refused the row itself */
        bool unknown; /* it may be stored */
        bool died;    /* within a cycle: it is dead now */
        int64_t attempts;
        char text[256];
    } failure;
    char aggregate[EV_AGGREGATE_SIZE];
};

/* A receipt, on its way from the bus's threads. */
struct ev_done {
    evbus_outcome outcome;
    evbus_status status;
    bool duplicate;
    uint64_t sequence;
    char text[256];
};

struct ev_relay_topic {
    struct ev_relay_topic *next;
    bool fits; /* its duplicate window is long enough */
    int64_t look_again_ns;
    uint64_t window_ms;
    char name[];
};

/* Statistics: written by the relay's thread, read by any; nothing is ordered by them. */
struct ev_relay_counters {
    _Atomic(uint64_t) claimed, taken_over, sent, stored, duplicate, refused, unknown, marked, dead, maybe_twice,
        leases_lost, windows_refused, database_errors, database_connects, purged;
    _Atomic(uint64_t) held, inflight, connected; /* now */
};

struct evbus_outbox_relay {
    evbus_outbox_relay_opts o; /* defaults filled in */
    char *database, *url;
    evbus_opts bus_opts;
    evbus *bus; /* NULL until the broker was reached */
    struct ev_db db;
    bool db_open;
    bool db_lost;             /* told so */
    char owner[EV_UUID_SIZE]; /* in the leases: who we are */
    pthread_t thread;
    bool running; /* the thread was started */
    int wake;     /* eventfd */
    _Atomic(bool) stopping;
    int64_t stop_at_ns; /* written before `stopping` */
    evbus_status ended; /* the thread's last word; read after joining it */

    struct ev_lane *lanes; /* o.aggregates_max of them */
    uint32_t ready, inflight, held;
    uint64_t bytes;
    struct ev_text marks; /* JSON pairs [id, sequence], without the outer brackets */
    uint32_t marks_count;
    struct ev_relay_topic *topics[EV_TOPIC_BUCKETS];
    uint64_t random;

    /* When */
    bool look;                      /* there may be aggregates to claim ... */
    int64_t look_at_ns;             /* ... and then */
    int64_t due_ns;                 /* since then a cycle has something to do; 0: it has not */
    int64_t retry_ns;               /* the database: not before */
    int64_t sweep_ns;               /* look without being told: due times, ended leases */
    int64_t purge_ns;               /* remove old rows */
    int64_t poll_ns;                /* ask the database for changes */
    int64_t room_ns;                /* the bus had no room: not before */
    int64_t open_ns;                /* the broker: not before */
    uint32_t db_failures;           /* in a row */
    char cursor[EV_AGGREGATE_SIZE]; /* aggregates behind it are looked at next */
    struct ev_text chosen, list;    /* JSON lists of a cycle */
    uint32_t chosen_count;

    pthread_mutex_t mutex;
    struct ev_done *done; /* one place per lane */
    uint32_t *done_list;  /* lanes whose receipt has come */
    uint32_t done_count;

    struct ev_relay_counters n;
};

#define EV_COUNT(relay, name, by) atomic_fetch_add_explicit(&(relay)->n.name, (by), memory_order_relaxed)
#define EV_GAUGE(relay, name, to) atomic_store_explicit(&(relay)->n.name, (to), memory_order_relaxed)

/* ---- relay.c ---- */
bool ev_relay_stopping(struct evbus_outbox_relay *r);
/* One event and one log line. NULL strings are "". */
__attribute__((format(printf, 7, 8))) void ev_relay_event(struct evbus_outbox_relay *r, evbus_outbox_event_kind kind,
                                                          evbus_status status, uint64_t count, const struct ev_row *row,
                                                          const char *aggregate, const char *fmt, ...);
__attribute__((format(printf, 3, 4))) void ev_relay_log(struct evbus_outbox_relay *r, evbus_log_level level,
                                                        const char *fmt, ...);

/* ---- relay_lane.c ---- */
struct ev_lane *ev_lane_find(struct evbus_outbox_relay *r, const char *aggregate);
struct ev_lane *ev_lane_take(struct evbus_outbox_relay *r, const char *aggregate); /* a free one; NULL: none is */
void ev_lane_free(struct evbus_outbox_relay *r, struct ev_lane *lane);
void ev_lane_set(struct evbus_outbox_relay *r, struct ev_lane *lane, enum ev_lane_state state);
void ev_lane_next(struct evbus_outbox_relay *r, struct ev_lane *lane); /* rows[at] is done */
/* Its next row may have been sent before, by whom the lane was taken from or in an attempt without outcome. */
bool ev_lane_carries(const struct ev_lane *lane);
void ev_lane_drop_rows(struct evbus_outbox_relay *r, struct ev_lane *lane);
/* From the columns of the reading statement; NULL: out of memory. */
struct ev_row *ev_row_new(const char *const *columns);
/* Frees all lanes but those in flight: their leases end by themselves, or are claimed again. */
void ev_lanes_forget(struct evbus_outbox_relay *r);

/* ---- relay_cycle.c ---- */
/* Looks for aggregates to claim, if that is due; then the one transaction. */
evbus_status ev_relay_cycle(struct evbus_outbox_relay *r);
evbus_status ev_relay_purge(struct evbus_outbox_relay *r, bool *ret_more);
/* Topics that have rows now. */
evbus_status ev_relay_topics(struct evbus_outbox_relay *r, ev_row_fn fn, void *ctx);

/* ---- relay_send.c ---- */
evbus_status ev_relay_bus_open(struct evbus_outbox_relay *r);
bool ev_relay_bus_up(const struct evbus_outbox_relay *r);
void ev_relay_receipts(struct evbus_outbox_relay *r); /* takes what has come */
void ev_relay_send(struct evbus_outbox_relay *r);     /* every ready lane's row */
/* EVBUS_OK: the topic may be served. EVBUS_MISMATCH: its stream's window is too short. Else: it cannot be known now. */
evbus_status ev_relay_topic_check(struct evbus_outbox_relay *r, const char *topic, uint64_t *ret_window_ms);
void ev_relay_topics_free(struct evbus_outbox_relay *r);

/* ---- admin.c, inbox.c ---- */
evbus_status ev_outbox_purge(struct ev_db *db, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count);
evbus_status ev_inbox_purge(struct ev_db *db, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count);

#endif
