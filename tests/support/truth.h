/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The truth about a run, and a judge who reads it afterwards.
 *
 * Knows the public header only: `evbus torture` writes and judges with it too.
 *
 * A log is written by one process: every publish call and how it ended, every handler start and verdict, the levels of
 * what is bounded. It is a mapped file of fixed entries, so that a process killed by SIGKILL loses nothing of what it
 * wrote. The judge takes the logs of all processes of a run, what the stream and the dead-letter stream held at the end,
 * and says which promise of docs/guarantees.md was broken (G1 to G4), with the history of the aggregate concerned.
 *
 * One log, one topic, one group. Aggregates are "a<number>", their versions are never used twice: a publication is known
 * by the two. Threads: any may write; the judge reads when nobody writes.
 *
 * Members of an EXCLUSIVE group have turns: one begins when another member than the last one starts a handler. Who
 * stands by has none, so a member that starts anything out of its turn makes two turns too many, and the test knows
 * how many there must be: one, and one for each time it took the turn from a member. Of SHARED members no order is
 * promised, nor judged; each handles one message of an aggregate at a time, and together they lose nothing.
 */
#ifndef EV_TESTS_TRUTH_H
#define EV_TESTS_TRUTH_H

#include <evbus/evbus.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum truth_kind {
    TRUTH_NOTHING,
    TRUTH_MEMBER,   /* a member comes; whether it is its turn shows when it starts a handler */
    TRUTH_CALL,     /* a publish is about to be called ... */
    TRUTH_ACCEPTED, /* ... it returned EVBUS_OK ... */
    TRUTH_DECLINED, /* ... or it did not: nothing is stored; the same publication may be tried again */
    TRUTH_STORED,   /* outcomes */
    TRUTH_REFUSED,
    TRUTH_UNKNOWN,
    TRUTH_START,   /* a handler starts */
    TRUTH_VERDICT, /* it returned, or the deferred message is settled */
    TRUTH_LEFT,    /* a member has ended in order: it starts nothing any more */
    TRUTH_LEVELS,  /* something bounded has a new maximum */
    TRUTH_TOTALS,  /* the bus ended in order: its counts */
    TRUTH_STANDBY, /* an EXCLUSIVE member is told that it is not its turn: what it starts next is in a new turn */
    TRUTH_LOSS     /* the broker was killed, and has lost the state of the group's consumer */
};

struct truth_entry {
    _Atomic(uint32_t) kind; /* enum truth_kind; written last */
    uint16_t process, member;
    uint32_t aggregate, version;
    int64_t at_ns, wall_ns;
    uint64_t sequence;
    union {
        uint64_t counts[4]; /* LEVELS: publishes, held and their limits; TOTALS: accepted, stored, refused, unknown;
                               LOSS: floor before and after, delivered before and after */
        struct {
            uint32_t deliveries, attempt, verdict;
            uint32_t publisher;
            uint32_t status;
            uint32_t duplicate; /* STORED: the broker says that it had it */
        };
    };
};

/* Words that two processes share beside the entries: a parent watches and commands its child through them. */
struct truth_shared {
    _Atomic(uint32_t)
        count; /* entries given out; more than there is room for: the log is full, and the judge says so */
    uint32_t capacity;
    _Atomic(uint32_t) command, state; /* of the program's own meaning */
    _Atomic(uint64_t) calls, accepted, failed, starts, acked, delivered, redelivered, held, inflight, received, fenced;
};

/* Monotonic, and since 1970. */
typedef void truth_time(const evbus_clock *clock, int64_t *ret_now_ns, int64_t *ret_wall_ns);

struct truth {
    struct truth_shared *shared;
    struct truth_entry *entries;
    const evbus_clock *clock;
    truth_time *time;    /* tells `clock`; NULL: the system's time */
    const char *payload; /* of publishes; NULL: a short one */
    uint16_t process;
    _Atomic(uint32_t) members;
    _Atomic(uint64_t) held_most, publishes_most;
    int fd;
};

/* ---- Writing ----------------------------------------------------------------------------------------------------- */

/* path NULL: memory of this process. An existing file is taken as it is: that is how a parent reads. */
bool truth_open(struct truth *t, const char *path, uint16_t process, uint32_t capacity);
/* The same log, written by what counts as another process. `ret` is not closed; `t` outlives it. */
void truth_as(const struct truth *t, uint16_t process, struct truth *ret);
void truth_close(struct truth *t);
void truth_clear(struct truth *t);

uint16_t truth_member(struct truth *t); /* a new member of the group; its number */
void truth_left(struct truth *t, uint16_t member);
void truth_standby(struct truth *t); /* the one member that there is in this process */
/* Takes down a call and how it returned. `publisher` numbers threads: calls of one are in order. */
evbus_status truth_publish(struct truth *t, evbus *bus, const char *topic, uint32_t publisher, uint32_t aggregate,
                           uint32_t version, uint32_t timeout_ms);
/* The same with evbus_publish_envelope_wait; what it refused counts as declined. ret_sequence, or NULL: where it is stored. */
evbus_status truth_publish_wait(struct truth *t, evbus *bus, const char *topic, uint32_t publisher, uint32_t aggregate,
                                uint32_t version, uint32_t timeout_ms, uint64_t *ret_sequence);
void truth_publish_error(const evbus_receipt *receipt, void *truth); /* evbus_opts.on_publish_error */
void truth_receipt(const evbus_receipt *receipt, void *truth); /* evbus_opts.on_receipt: all outcomes, stored too */
void truth_start(struct truth *t, uint16_t member, const evbus_msg *msg);
void truth_verdict(struct truth *t, uint16_t member, const evbus_msg *msg, evbus_verdict verdict);
void truth_levels(struct truth *t, const evbus_statistics *s, uint64_t publishes_max, uint64_t held_max);
void truth_totals(struct truth *t, const evbus_statistics *s);

/* Sequences of the stream, as the broker says them: all up to the floor are settled. */
struct truth_consumer {
    uint64_t floor, delivered;
};

/* The broker was asked for the group's consumer right before it was killed, at that time, and before anybody else was let to
 * it when it was back. Takes it down if the state went back; false: it did not. */
bool truth_loss(struct truth *t, int64_t at_ns, int64_t wall_ns, const struct truth_consumer *before,
                const struct truth_consumer *after);

uint32_t truth_aggregate(const evbus_msg *msg);

/* ---- Judging ----------------------------------------------------------------------------------------------------- */

/* What a stream held at the end. For dead letters `sequence` is that of the message they are letters of. */
struct truth_stored {
    uint64_t sequence;
    uint32_t aggregate, version;
    int64_t stored_ns; /* Unix time at the broker */
};

struct truth_content {
    struct truth_stored *all;
    size_t count, capacity;
};

void truth_content_add(struct truth_content *content, const struct truth_stored *stored);
void truth_content_clear(struct truth_content *content);

#define TRUTH_SERVERS 3

struct truth_case {
    const char *name;
    uint64_t seed;
    struct truth *logs;
    size_t log_count;
    struct truth_content stream, letters; /* sorted by the judge */
    struct truth_content
        servers[TRUTH_SERVERS]; /* what each server of a replicated stream holds; sorted by the judge */
    size_t server_count;        /* 0: there is one, `stream` */
    struct truth_content
        letter_servers[TRUTH_SERVERS]; /* the same of the dead-letter stream, here by its own sequences */
    uint32_t attempts_max;             /* of the members */
    uint32_t late_ms;                  /* how long after it was reported unknown a publish may be stored: the way of
                                             bytes that had left the process before, through a slow or stopped peer */
    bool unflagged_repeats;            /* the broker may forget deliveries (a leader was killed) */
    bool shared;                       /* the members are SHARED ones */
    uint32_t turns;                    /* so many there must be; 0: not judged */
    bool in_order;                     /* no member lost its turn: each gave it back, and the broker was well */
    bool unfinished;                   /* the run was not waited for: G3 is not judged */
    bool quiet;                        /* a verdict is expected: print nothing */
    char verdict[512];                 /* the rule that was broken, "" if none */
};

/* What a run must have seen for its faults to have bitten, counted on the way. */
struct truth_account {
    uint64_t calls, accepted, declined, stored, refused, unknown, open; /* open: neither outcome nor totals */
    uint64_t starts, repeats, retries, acked, letters, members;         /* repeats: of what another member started */
    uint64_t turns;
    uint64_t unknown_stored, late; /* of those unknown; of those, after the report */
    uint64_t disputed, lost;       /* sequences at which the servers differ; stored ones that the stream lost by that */
    uint64_t letters_lost;         /* dead letters that a server holds where another one holds something else */
    uint64_t losses;               /* of the consumer's state; then, because of that: */
    uint64_t again, letters_again; /* runs of what had ended before, second letters */
};

/* True if every promise was kept. False: `verdict` says which was not, and the history is on stderr. */
bool truth_judge(struct truth_case *c, struct truth_account *ret);

#endif
