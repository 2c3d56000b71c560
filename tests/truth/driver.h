/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member at work: a bus that publishes and handles under load, with verdicts drawn from a seed, and writes the truth
 * about it into a log. In the test's own process, or in a child that the parent may kill or stop: the child's program is
 * the test's own (driver_main), watched and commanded through the log's shared words.
 */
#ifndef EV_TESTS_DRIVER_H
#define EV_TESTS_DRIVER_H

#include "../support/truth.h"

#include <pthread.h>
#include <sys/types.h>

#define DRIVER_PUBLISHERS 2u
#define DRIVER_DEFERRED 256u
#define DRIVER_EVENTS 32u
#define DRIVER_LOG 400000u

enum { DRIVER_RUN, DRIVER_STOP_PUBLISHING, DRIVER_END };                               /* shared->command */
enum { DRIVER_STARTING, DRIVER_RUNNING, DRIVER_SETTLED, DRIVER_ENDED, DRIVER_FAILED }; /* shared->state */

struct driver_opts {
    char url[256];
    char topic[64];
    uint64_t seed;
    uint32_t aggregates, publishers; /* 0 publishers: it only handles */
    bool consume;
    uint32_t inflight_max, ack_wait_ms, attempts_max;
    uint32_t handler_us;    /* most a handler takes */
    uint32_t pause_us;      /* between two publishes of a thread; 0: one after the other */
    uint32_t first_version; /* versions of this incarnation are above */
    uint32_t publish_timeout_ms, heartbeat_ms, publish_inflight_max;
    uint32_t replicas;
    bool frontier; /* EVBUS_ACK_FRONTIER, unless it is shared */
    bool shared;   /* the membership */
    uint32_t member_ttl_ms;
    bool calm;            /* every verdict is an ack */
    bool waits;           /* publishers use evbus_publish_envelope_wait */
    bool receipts;        /* every outcome is written down as it is told, with the sequence of what is stored */
    uint32_t backlog_max; /* publishers wait while so many are accepted and not started; 0: no limit */
    bool in_flood;        /* publishers never wait for room: a call without it is made again at once */
};

struct driver {
    struct driver_opts o;
    struct truth *truth;
    evbus *bus;
    evbus_sub *sub;
    uint16_t member;
    atomic_bool stop, ending, auditing; /* auditing: another group's messages are here too */
    struct driver_publisher {
        struct driver *driver;
        pthread_t thread;
        uint32_t index;
        bool running;
        uint64_t rng;
    } publishers[DRIVER_PUBLISHERS];
    pthread_t sampler;
    bool sampling;
    pthread_mutex_t mutex;
    const evbus_msg *deferred[DRIVER_DEFERRED];
    uint32_t deferred_count;
    _Atomic(uint64_t) events[DRIVER_EVENTS], event_counts[DRIVER_EVENTS];
    char event_texts[DRIVER_EVENTS][256]; /* the last of each kind; guarded by mutex */
    _Atomic(uint32_t) hold;               /* 1: handlers wait */
};

/* What driver_defaults says of `frontier`: a test program runs with the one or the other. */
extern bool driver_frontier;

struct driver_opts driver_defaults(const char *url, uint64_t seed);

/* Opens, subscribes and publishes as the options say. False: it could not, and said why on stderr. */
bool driver_start(struct driver *d, const struct driver_opts *o, struct truth *truth);
/* Ends the publishers and waits until every publish has its outcome. */
bool driver_settle(struct driver *d, uint32_t timeout_ms);
/* Shuts the bus down, writes the totals, closes it. */
void driver_end(struct driver *d);

/* A member that leaves and one that comes, in the same process. */
bool driver_resubscribe(struct driver *d);

evbus_statistics driver_stats(const struct driver *d);
uint64_t driver_event(const struct driver *d, evbus_event_kind kind); /* how many of that kind */

/* What the stream and its dead-letter stream hold, as another group gets it. For a broker without another way in. */
bool driver_read(struct driver *d, uint64_t stored, uint64_t letters, struct truth_case *c);

/* A child: this program again, with "member" as its first argument. */
pid_t driver_fork(const char *log, uint16_t process, const struct driver_opts *o);
/* The child's main; argv as driver_fork wrote it. */
int driver_main(int argc, char **argv);
bool driver_is_child(int argc, char **argv);

/* Numbers from a seed. */
uint64_t driver_random(uint64_t *rng);
uint64_t driver_seed(uint64_t usual);   /* EVBUS_SEED, or the usual one */
uint32_t driver_points(uint32_t usual); /* how many seeded points: `usual`, or at least 20 with EVBUS_LONG */

#endif
