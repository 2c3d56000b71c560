/* SPDX-License-Identifier: Apache-2.0 */
/* Between the judge's files: truth_judge.c reads the logs and judges publications, truth_servers.c compares the servers of a
 * replicated stream, truth_losses.c knows what the broker lost of the consumer, truth_handlers.c judges the handlers. */
#ifndef EV_TESTS_TRUTH_COURT_H
#define EV_TESTS_TRUTH_COURT_H

#include "truth.h"

#include <stddef.h>

/* A verdict, the last one: which member gave it, in which turn. */
struct ending {
    const struct seat *by; /* NULL: there is none */
    uint64_t turn;
};

/* One publication, known by aggregate and version. */
struct publication {
    uint32_t aggregate, version, publisher;
    uint16_t process;
    bool accepted, declined;
    uint32_t outcome; /* TRUTH_STORED, TRUTH_REFUSED, TRUTH_UNKNOWN; 0: none */
    int64_t reported_ns;
    uint64_t called;                              /* place of its last call in the order of all entries */
    uint64_t sequence;                            /* in the stream; 0: it is not there */
    uint64_t receipt;                             /* where it is stored, as the publisher was told; 0: he was not */
    bool duplicate;                               /* the broker said that it had it */
    bool disputed;                                /* a server holds it where another one holds something else */
    int64_t stored_ns, letter_ns, last_letter_ns; /* letter_ns: the first one's */
    int64_t ran_ns;                               /* monotonic: its last start */
    struct ending acked, doomed;                  /* doomed: rejected, or its attempts are used up */
    uint32_t runs, unflagged, calls;
};

/* A sequence at which servers differ. */
struct dispute {
    uint64_t sequence;
    const struct truth_stored *held[TRUTH_SERVERS];
};

/* One member. */
struct seat {
    uint16_t process, member;
    bool left;
};

/* One aggregate, as its handlers saw it. */
struct aggregate {
    uint32_t number;
    size_t first, count; /* its part of `order` */
    size_t unfinished;   /* before this one all are acknowledged or dead-lettered; only goes up */
    uint64_t last;       /* highest sequence that was started in the present turn */
    uint64_t back;       /* one below that, started last: excused by a loss (it may be tried again); 0: none */
    bool *running;       /* by seat */
};

struct court {
    struct truth_case *c;
    struct truth_account *account;
    const struct truth_entry **entries;
    int64_t *times;
    size_t count;
    struct publication *publications; /* sorted by aggregate and version */
    size_t publication_count;
    size_t missing;                    /* told so far: stored, and not in the stream */
    struct dispute *disputes;          /* sorted; account->disputed of them */
    const struct truth_entry **losses; /* of the consumer's state; account->losses of them */
    /* truth_handlers.c */
    struct publication **order; /* those in the stream, by aggregate and sequence */
    size_t stored_count;
    struct aggregate *aggregates; /* sorted by number */
    size_t aggregate_count;
    struct seat *seats;
    size_t seat_count;
    bool *running;              /* [aggregate][seat] */
    const struct seat *present; /* EXCLUSIVE members: whose turn it is; NULL: nobody's yet */
    int64_t present_ns;         /* monotonic: since when; later, if it stood by meanwhile and nobody had a turn */
    bool stood_by;
};

/* The first broken rule is the verdict. `at`: the entry that broke it. */
void court_broken(struct court *court, uint32_t aggregate, size_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
struct publication *court_find(const struct court *court, uint32_t aggregate,
                               uint32_t version); /* NULL: never called */

int court_by_sequence(const void *a, const void *b); /* of truth_stored */

/* Finds the disputed sequences. */
void court_servers(struct court *court);
/* Takes letters that the servers lost for letters; after those that there are. */
void court_lost_letters(struct court *court);
const struct dispute *court_dispute(const struct court *court, uint64_t sequence); /* NULL: it is not disputed */
bool court_holds(const struct dispute *d, const struct publication *p);            /* a server does, there; d or NULL */
/* Where it is said to be stored, and what is there. */
void court_tell_stored(const struct court *court, const struct publication *p);

/* truth_losses.c */
void court_losses(struct court *court);
/* The broker knew it settled, or delivered, and was killed and did not know any more, between the two times (Unix times if `wall`). */
bool court_lost_between(const struct court *court, uint64_t sequence, int64_t from, int64_t to, bool wall);

void court_handlers(struct court *court);

#endif
