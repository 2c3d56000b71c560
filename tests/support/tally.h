/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What handlers saw: one entry per run, in the order of their starts, with what a test may want to know of the message
 * and where in the one order of all starts and ends this run began and ended. Handlers write, the test waits and reads.
 * Threads: any; the checks fail the running cmocka test, so they are for its thread.
 */
#ifndef EV_TESTS_TALLY_H
#define EV_TESTS_TALLY_H

#include "wait.h"

#include <evbus/evbus.h>

#define TALLY_HEADERS 12

struct tally_entry {
    char topic[256], group[72], stream[256], aggregate[264], event_id[264];
    int64_t version; /* 0: plain */
    uint64_t sequence;
    uint32_t attempt, deliveries;
    bool redelivered;
    bool ended;                 /* the verdict is given; a deferred one: it is settled */
    evbus_verdict verdict;      /* once it ended */
    uint64_t started, finished; /* places in the order of all starts and ends, from 1 */
    int64_t at_ns;              /* when it started, on the tally's clock */
    int64_t stored_ns;
    pthread_t thread;
    char *body; /* the bytes, and a NUL */
    size_t len;
    char *header[TALLY_HEADERS]; /* values of the tally's `capture`, NULL where absent */
};

struct tally {
    evbus_handler decide;       /* the verdict of a run; NULL: EVBUS_ACK */
    void *arg;                  /* its ctx */
    const char *const *capture; /* headers to keep, ends with NULL */
    const evbus_clock *clock;

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct tally_entry **entries;
    size_t capacity;
    uint64_t order;
    /* Counts, for tally_await */
    size_t started, ended, acked, retried, rejected, deferred;
    size_t running, running_max; /* between start and return */
};

void tally_init(struct tally *tally, const evbus_clock *clock);
void tally_fini(struct tally *tally);

/* The handler; ctx is the tally. */
evbus_verdict tally_handle(const evbus_msg *msg, void *ctx);
/* Settles a message whose handler returned or will return EVBUS_DEFER, and notes that it ended. */
evbus_status tally_settle(struct tally *tally, const evbus_msg *msg, evbus_verdict verdict);

/* Until a count, &tally->acked for instance, has reached n; false and a line on stderr: it did not in time. */
bool tally_await(struct tally *tally, const size_t *count, size_t n);
size_t tally_read(struct tally *tally, const size_t *count);

/* Entry number i, in order of starts; lives until tally_fini, its header and body too. */
const struct tally_entry *tally_at(struct tally *tally, size_t i);
/* The nth (from 0) run of a version of an aggregate, or NULL; and how many runs it had. */
const struct tally_entry *tally_run(struct tally *tally, const char *aggregate, int64_t version, size_t n);
size_t tally_runs(struct tally *tally, const char *aggregate, int64_t version);
/* The value of a captured header, or NULL. */
const char *tally_header(const struct tally *tally, const struct tally_entry *entry, const char *name);

/* Per topic and aggregate: runs do not overlap, their sequences do not decrease, and equal ones follow a verdict other
 * than EVBUS_ACK. */
void tally_check_order(struct tally *tally);
/* There are `aggregates` of them, and of each the versions 1..versions were acknowledged, in order, once each. */
void tally_check_complete(struct tally *tally, size_t aggregates, int64_t versions);

#endif
