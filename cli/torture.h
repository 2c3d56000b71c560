/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of `evbus torture` share. A desk publishes, the members of one group handle, all on buses that come and
 * go; misfortunes befall them and their broker from a seed; everything is taken down, and judged after the run by the
 * judge of the tests (tests/support/truth.h).
 *
 * Threads: the main thread does the misfortunes; publishers publish; handlers and callbacks run on the buses' threads.
 */
#ifndef CLI_TORTURE_H
#define CLI_TORTURE_H

#include "progress.h"

#include "support/truth.h"

#include <evbus/evbus.h>

#include <pthread.h>

#define TORTURE_GROUP "torture"
#define TORTURE_AGGREGATES 16u /* and one more: the fence */
#define TORTURE_PUBLISHERS 2u
#define TORTURE_RATE 600u /* publishes a second */
#define TORTURE_ATTEMPTS 3u
#define TORTURE_DEFERRED 64u
#define TORTURE_SHOPS 8u

enum torture_target { TORTURE_MEM, TORTURE_SERVER, TORTURE_CLUSTER, TORTURE_URL };

/* What befalls them; the names are printed. */
#define TORTURE_MAP(X)                                                                                                 \
    X(TORTURE_MEMBER_LEAVES, "members replaced")                                                                       \
    X(TORTURE_MEMBER_MOVES, "consumer restarts")                                                                       \
    X(TORTURE_DESK_RESTARTS, "publisher restarts")                                                                     \
    X(TORTURE_CUT, "connections cut")                                                                                  \
    X(TORTURE_STALL, "connections stalled")                                                                            \
    X(TORTURE_STOP, "servers stopped")                                                                                 \
    X(TORTURE_KILL, "servers killed")

enum torture_misfortune {
#define TORTURE_X(name, text) name,
    TORTURE_MAP(TORTURE_X)
#undef TORTURE_X
        TORTURE_MISFORTUNES
};

struct torture_place; /* servers and proxies of our own */

/* A bus of ours: its entries in the log are told from those of the one before, as another process's. */
struct torture_bus {
    evbus *bus;
    struct truth truth;
};

struct torture_member {
    struct torture *t;
    evbus_sub *sub;
    struct truth truth; /* of its bus */
    uint16_t number;
    bool ending; /* guarded by t->mutex: nothing is deferred any more */
};

/* Where a member works. */
struct torture_shop {
    struct torture_bus bus;
    struct torture_member *member;
};

struct torture_deferred {
    const evbus_msg *msg;
    struct torture_member *member;
};

struct torture {
    const char *command;
    enum torture_target target;
    uint64_t seed, rng;
    uint32_t seconds;
    const evbus_opts *opts; /* connection */
    struct torture_place *place;
    char url[1024], plain[1024]; /* with faults, without */
    const char *query;           /* of the faults, without the seed; NULL: none */
    char topic[64];
    char problem[512]; /* what went wrong besides the judge's verdict; "": nothing */

    struct truth log;
    uint16_t processes;

    /* The desk */
    pthread_rwlock_t desk_lock; /* write: the bus is being replaced */
    struct torture_bus desk;
    pthread_t publishers[TORTURE_PUBLISHERS];
    uint32_t publishers_started;
    atomic_bool stop_publishing;

    /* The members */
    struct torture_shop shops[TORTURE_SHOPS];
    uint32_t shop_count;
    bool shared;           /* they share the load; else one is active, the others stand by */
    bool frontier;         /* it uses frontier acks */
    pthread_mutex_t mutex; /* guards deferred */
    struct torture_deferred deferred[TORTURE_DEFERRED];
    uint32_t deferred_count;
    uint32_t versions_max;
    _Atomic(uint8_t) *fate; /* [aggregate][version]: TORTURE_ACKED, TORTURE_DOOMED */
    _Atomic(uint64_t) finished;

    uint64_t misfortunes[TORTURE_MISFORTUNES];
    char stream_name[128], consumer_name[128]; /* as the server names them; "": not asked yet */
    struct truth_content stream, letters;
    struct truth_account account;
};

enum { TORTURE_OPEN, TORTURE_ACKED, TORTURE_DOOMED };

uint64_t torture_random(uint64_t *rng);
void torture_nap_us(uint32_t us);
__attribute__((format(printf, 2, 3))) void torture_problem(struct torture *t, const char *format, ...);

/* torture_log.c: the log, in memory, and what became of each message */
bool torture_log_open(struct torture *t);
void torture_log_close(struct torture *t);
void torture_log_error(const evbus_receipt *receipt, void *torture);   /* on_publish_error of the desk */
void torture_log_receipt(const evbus_receipt *receipt, void *torture); /* its on_receipt, where there are receipts */
void torture_log_verdict(struct torture_member *m, const evbus_msg *msg, evbus_verdict verdict);
_Atomic(uint8_t) *torture_fate(struct torture *t, uint32_t aggregate, uint32_t version);

/* torture_member.c, torture_desk.c: false: `problem` says why */
bool torture_bus_open(struct torture *t, struct torture_bus *bus, const char *url, bool desk);
bool torture_member_come(struct torture *t, struct torture_shop *shop);
void torture_member_leave(struct torture *t, struct torture_shop *shop);
bool torture_shop_open(struct torture *t, struct torture_shop *shop);
void torture_shop_close(struct torture *t, struct torture_shop *shop);
bool torture_shops_open(struct torture *t);
void torture_shops_close(struct torture *t);
void torture_settle(struct torture *t); /* what was deferred */
bool torture_desk_open(struct torture *t);
void torture_desk_close(struct torture *t);
bool torture_publishers_start(struct torture *t);
void torture_publishers_stop(struct torture *t);

/* torture_place.c. why: filled unless CLI_OK */
int torture_place_open(struct torture *t, char *why, size_t size);
void torture_place_close(struct torture *t);
bool torture_place_has(const struct torture *t, enum torture_misfortune what);
bool torture_place_suffer(struct torture *t, enum torture_misfortune what);
/* Of a cluster: what each server holds of the topic. False: `problem` says why. */
bool torture_place_read(struct torture *t, struct truth_case *c);

/* torture_end.c: waits until all is handled, reads what is stored, judges. True: every promise was kept. */
bool torture_judge(struct torture *t, struct progress *progress);

#endif
