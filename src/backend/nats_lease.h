/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is the active member of an EXCLUSIVE group: the rules, without I/O (ADR 9). Events and the time come in, requests
 * go out through struct ev_lease_io; nats_lease_io.c carries them, tests/sim/test_nats_lease.c simulates the rest.
 *
 * Two kinds of records, each the last message of its subject, written only by compare-and-swap on its sequence:
 *
 *   member  one per bus, renewed every third of its time to live: "I am here". Anybody may write "deposed" into it,
 *           once it is proved that its owner starts nothing any more; the owner's next renewal then fails.
 *   lease   one per stream and durable: which member has it, or nobody. Not renewed: it is worth what its member is.
 *
 * A member acts while its lease record names it, and its own clock is before the *sending* of its last successful
 * renewal plus the time to live less a margin, and that renewal was made on the present connection. So:
 *
 *   Holds     a lease is taken from a member only after a compare-and-swap deposed that member;
 *             a member is deposed only when (b) its record was the same for a whole time to live by the clock of who
 *             deposes, so its right has ended by its own clock; or (c) its connection is gone, so it has no right
 *             before a renewal on a new one, which fails then;
 *             hence never two members act at once, each by its own clock.
 *   Checked   tests/sim/test_nats_lease.c
 *
 * What was in doubt is read again: a write without an answer may have been stored, or may be later.
 */
#ifndef EV_BACKEND_NATS_LEASE_H
#define EV_BACKEND_NATS_LEASE_H

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>

#define EV_LEASE_ID 16u              /* hex digits */
#define EV_LEASE_OPS 256u            /* requests under way */
#define EV_LEASE_TEXT 128u           /* an inbox, a server's id */
#define EV_LEASE_QUICK (500 * EV_MS) /* nobody answers for a member for so long: its connection is gone */

/* A record as it was read. */
struct ev_lease_record {
    uint64_t seq;                 /* 0: there is none */
    char holder[EV_LEASE_ID + 1]; /* lease: "" for nobody */
    bool alive;                   /* member: neither gone nor deposed */
    int64_t ttl_ns;
    char inbox[EV_LEASE_TEXT], server[EV_LEASE_TEXT]; /* where it listens; "": it does not want to be asked there */
};

enum ev_lease_result {
    EV_LEASE_STORED,
    EV_LEASE_REJECTED, /* the record has another sequence */
    EV_LEASE_FAILED,   /* not stored, not now */
    EV_LEASE_NO_STREAM /* the records are gone */
};

enum ev_lease_state {
    EV_LEASE_LOOK, /* to be read */
    EV_LEASE_WAIT, /* another member has it */
    EV_LEASE_TAKE, /* free: ours as soon as we have the right */
    EV_LEASE_HELD  /* the record names us */
};

struct ev_leases;
struct ev_lease_watch;

struct ev_lease {
    struct ev_lease *next, **link;
    struct ev_lease_watch *watch; /* WAIT: who has it */
    enum ev_lease_state state;
    uint64_t seq;         /* of the record, as last known */
    uint64_t op;          /* under way; 0: none */
    int64_t at;           /* when to act */
    int64_t not_before;   /* without a record it is not free before: the records were lost, somebody may know of one */
    int64_t inherited_ns; /* taken from a member that did not end by itself: its time to live */
    uint32_t again;       /* looks after a hint that did not show yet */
    bool known;           /* there was a record before us */
    bool active;          /* as told */
    bool told;            /* that another one is active */
    bool check;           /* HELD: somebody wrote it */
    bool ending;          /* given back, as soon as it is settled whether we have it */
};

/* What the rules ask for. An `op` other than 0 is answered by ev_leases_wrote or ev_leases_read, or never. */
struct ev_lease_io {
    void (*write_member)(void *ctx, uint64_t op, const char *id, uint64_t expected, bool alive);
    void (*read_member)(void *ctx, uint64_t op, const char *id);
    void (*forget_member)(void *ctx, const char *id); /* nobody needs its record any more */
    void (*write_lease)(void *ctx, uint64_t op, struct ev_lease *lease, const char *holder, uint64_t expected);
    void (*read_lease)(void *ctx, uint64_t op, struct ev_lease *lease);
    void (*probe)(void *ctx,
                  const char *inbox); /* answered by ev_leases_probed; one at a time, a new one ends the last */
    void (*active)(void *ctx, struct ev_lease *lease, bool active);
    void (*ended)(void *ctx, struct ev_lease *lease); /* after release: it is not known here any more */
    uint64_t (*random)(void *ctx);
};

/* Another member, as long as a lease of it is waited for. */
struct ev_lease_watch {
    struct ev_lease_watch *next;
    char id[EV_LEASE_ID + 1];
    uint32_t refs;
    bool dead;
    uint64_t seq, op;
    int64_t op_at, read_at;
    int64_t seen; /* when `seq` was first seen */
    int64_t ttl_ns;
    int64_t probe_at, nobody_since; /* 0: somebody was there */
    uint32_t nobody;
    char inbox[EV_LEASE_TEXT], server[EV_LEASE_TEXT];
};

struct ev_leases {
    const struct ev_lease_io *io;
    void *ctx;
    int64_t ttl_ns;
    bool linked;
    bool deaf; /* nobody tells of changes: look more often */
    char server[EV_LEASE_TEXT];
    int64_t due;
    /* Ourselves */
    char id[EV_LEASE_ID + 1]; /* "": no member */
    uint64_t seq, op;
    bool in;        /* the record is there */
    bool doubt;     /* a write was not answered, or rejected: read */
    bool confirmed; /* renewed on this connection */
    int64_t op_at, sent, first_sent, until, renew_at;
    /* Others */
    struct ev_lease *leases;
    struct ev_lease_watch *watches;
    struct ev_lease_watch *probing;
    int64_t probe_until;
    struct ev_lease_op {
        uint64_t op; /* 0: free */
        uint8_t kind;
        void *object;
    } ops[EV_LEASE_OPS];
    uint32_t ops_used;
    uint64_t op_last;
    /* Statistics, for tests */
    uint64_t renewals, lost, deposed;
};

void ev_leases_init(struct ev_leases *set, const struct ev_lease_io *io, void *ctx, int64_t ttl_ns);
void ev_leases_fini(struct ev_leases *set); /* the leases are the caller's */

/* Our link: `server` names what it leads to. */
void ev_leases_up(struct ev_leases *set, const char *server, int64_t now);
void ev_leases_down(struct ev_leases *set);

/* Until when we may act; a time that has passed: not now. */
int64_t ev_leases_rights(const struct ev_leases *set);

/* `lease` is zeroed, and stays the caller's memory until ended() was called for it. */
void ev_lease_want(struct ev_leases *set, struct ev_lease *lease, int64_t now);
void ev_lease_release(struct ev_leases *set, struct ev_lease *lease, int64_t now);
/* The bus ends: all are given back at once, nobody is told. */
void ev_leases_close(struct ev_leases *set);

void ev_leases_wrote(struct ev_leases *set, uint64_t op, enum ev_lease_result result, uint64_t seq, int64_t now);
void ev_leases_read(struct ev_leases *set, uint64_t op, const struct ev_lease_record *record, int64_t now);
void ev_leases_failed(struct ev_leases *set, uint64_t op, bool no_stream, int64_t now); /* a read */
void ev_leases_probed(struct ev_leases *set, bool somebody, int64_t now);
/* Somebody wrote this lease: `holder` into it. */
void ev_lease_hint(struct ev_leases *set, struct ev_lease *lease, const char *holder, int64_t now);

bool ev_leases_turn(struct ev_leases *set, int64_t now);
int64_t ev_leases_due(const struct ev_leases *set);

/* ---- Between nats_lease.c and nats_lease_watch.c ----------------------------------------------------------------- */

enum ev_lease_op_kind {
    EV_OP_WRITE_SELF = 1,
    EV_OP_READ_SELF,
    EV_OP_READ_WATCH,
    EV_OP_DEPOSE,
    EV_OP_READ_LEASE, /* from here on: of leases, which leave some room to the others */
    EV_OP_TAKE_LEASE,
    EV_OP_FREE_LEASE
};

void ev_lease_kick(struct ev_leases *set, int64_t at);                       /* turn then at the latest */
int64_t ev_lease_op_time(const struct ev_leases *set);                       /* how long an answer is waited for */
uint64_t ev_lease_op_new(struct ev_leases *set, uint8_t kind, void *object); /* 0: too many */
void ev_lease_op_end(struct ev_leases *set, uint64_t *op);

struct ev_lease_watch *ev_lease_watch(struct ev_leases *set, const char *id, int64_t now); /* NULL: no memory */
void ev_lease_unwatch(struct ev_leases *set, struct ev_lease *l);
void ev_lease_watch_read(struct ev_leases *set, struct ev_lease_watch *w, const struct ev_lease_record *r, int64_t now);
void ev_lease_deposed(struct ev_leases *set, struct ev_lease_watch *w, enum ev_lease_result result, int64_t now);
void ev_lease_watches_turn(struct ev_leases *set, int64_t now);
void ev_lease_watches_up(struct ev_leases *set, int64_t now);
void ev_lease_watches_down(struct ev_leases *set);

#endif
