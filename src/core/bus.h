/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus: what its parts share. Each part lives in its own files and owns its own fields:
 *
 *   topic.*      what is known of a topic: insert-only table, read without a lock
 *   slots.*      publishes between acceptance and outcome
 *   publish.c    the application's side of publishing; outbound.* the loop's side
 *   receipts.*   what became of each publish, per tenant (tenants.c); acks.c gives them to a callback
 *   streams.*    topic -> stream, in one place
 *   subscribe.c  the application's side of subscribing; dispatch.* the loop's side: order, attempts, verdicts
 *   message.*    one delivered message; deadletter.c its last way
 *   worker.*     threads that run handlers; loop.* the one thread that owns the loop's side of everything
 *   keeper.*     the housekeeping thread; watch.* what it looks at
 *   reconnect.*  attempts to reconnect, and the end of them
 *   events.*     callbacks to the application; health.* how the bus is, backlog.* what waits; shutdown.c the end
 *
 * Ownership words used below: [app] application threads, [loop] the loop thread alone, [worker], [any] atomic.
 */
#ifndef EV_CORE_BUS_H
#define EV_CORE_BUS_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/thread.h"
#include "conc/atomic.h"
#include "conc/bell.h"
#include "conc/chain.h"
#include "conc/crew.h"
#include "conc/epoch.h"
#include "conc/flight.h"
#include "conc/hist.h"
#include "conc/park.h"
#include "conc/quota.h"
#include "conc/ring.h"
#include "conc/stack.h"
#include "core/backend.h"

#include <pthread.h>

/* A piece of work for a worker: embedded in what it works on. */
struct ev_job {
    void (*run)(struct ev_job *job);                         /* by the worker */
    struct ev_job *(*ready)(evbus *bus, struct ev_job *job); /* [loop] when its turn has come: what to run instead,
                                                                   or NULL if there is nothing to do; NULL: itself */
    struct ev_job *next;                                     /* [loop] runnable list */
};

struct ev_job_list {
    struct ev_job *head, *tail;
    uint32_t count;
};

/* A command of another thread to the loop; rare, so a mutex guards the list. */
struct ev_command {
    void (*run)(evbus *bus, struct ev_command *command);
    struct ev_command *next;
};

enum ev_phase {
    EV_RUNNING,
    EV_DRAINING, /* nothing new is accepted; what runs may end */
    EV_STOPPED   /* the loop has ended */
};

enum ev_link { EV_LINK_DOWN, EV_LINK_UP, EV_LINK_GIVEN_UP }; /* given up: see core/reconnect.h */

/* Options with every default filled in; strings are copies. Immutable after open. */
struct ev_config {
    evbus_opts o;
    bool named; /* o.name was given */
};

/* Statistics. Each field says who writes it; all may be read by anybody, relaxed. */
struct ev_counters {
    /* [app] read-modify-write */
    alignas(EV_APART) _Atomic(uint64_t) accepted, backpressure;
    /* [loop] single writer */
    alignas(EV_APART) _Atomic(uint64_t) stored, duplicate, refused, unknown, core, resent;
    _Atomic(uint64_t) delivered, redelivered, handled, handler_runs, retried, rejected, exhausted, not_envelope;
    _Atomic(uint64_t) dead_lettered, dead_letter_failures, duplicates_held, duplicates_settled, plain_dropped;
    _Atomic(uint64_t) unhandled, handed_back, lease_extensions, overdue, stalls, foreign, held, held_bytes, running;
    _Atomic(uint64_t) repairs, standby, takeovers, fenced, aggregates_parked, messages_parked, breaker_opens,
        breakers_open;
    _Atomic(uint64_t) connects, disconnects, receipts, receipts_untaken;
    _Atomic(uint64_t) latency_ns, latency_count; /* of stored publishes: sum, and how many */
    /* [any] rare, read-modify-write */
    alignas(EV_APART) _Atomic(uint64_t) subscriptions, streams_created, streams_lost, overtaken, connect_failures,
        events_dropped, reconnect_attempts, reconnects_given_up;
    _Atomic(uint64_t) receipts_slow;
    /* takers, once per take, read-modify-write */
    alignas(EV_APART) _Atomic(uint64_t) receipts_taken;
};

struct ev_slot;
struct ev_topic;
struct ev_agg;
struct ev_worker;

#include "core/keeper.h"
#include "core/progress.h"
#include "core/watch.h"
#include "core/slots.h"
#include "core/receipts.h"
#include "core/topic.h"
#include "core/dispatch.h"
#include "core/events.h"
#include "core/health.h"
#include "core/backlog.h"
#include "core/outbound.h"
#include "core/worker.h"
#include "core/reconnect.h"

struct evbus {
    /* Immutable after open */
    struct ev_host host; /* first: ev_bus_of */
    const struct ev_backend_ops *ops;
    void *state;
    struct ev_config cfg;
    const evbus_clock *clock;
    struct ev_log log;
    uint32_t fork_generation;
    bool manual;             /* no threads of its own: a test turns the loop and runs the workers ... */
    void (*when_idle)(void); /* ... and, while a call waits and nothing happens, moves its clock here */

    alignas(EV_APART) _Atomic(uint32_t) phase; /* enum ev_phase: written by the loop and shutdown, read by everybody */
    _Atomic(uint32_t) link;                    /* enum ev_link: written by the loop */
    _Atomic(int64_t) rights_until; /* EXCLUSIVE handlers start before this only: D8; EV_NEVER: no lease is needed */

    struct ev_topics topics;
    struct ev_slots slots;
    struct ev_tenants tenants;
    struct ev_acks acks;
    struct ev_outbound out; /* [loop] */
    struct ev_dispatch in;  /* [loop] */
    struct ev_crew_state crew;
    struct ev_events events;
    struct ev_counters n;

    /* The loop and its mailbox */
    pthread_t loop;
    bool loop_started;
    int64_t turn_ns; /* [loop] when this turn began: time for all that comes in during it */
    bool ended;      /* [loop] leave after this turn */
    int64_t halt_at; /* [loop] deadline of the shutdown, EV_NEVER before */
    alignas(EV_APART) _Atomic(uint32_t) sleeping; /* 1: the loop is about to wait; see ev_loop_wake */
    _Atomic(uint32_t) commands_waiting;
    struct ev_command *commands, *commands_tail; /* guarded by mutex */
    struct ev_park changed;      /* anybody waiting for a command, the link, a phase: woken on each change */
    struct ev_job_list runnable; /* [loop] work that does not fit into the crew's ring yet */

    /* Rare paths */
    pthread_mutex_t mutex;       /* topics' writers, subscriptions list, interned strings, commands, connect error */
    struct ev_limbo limbo;       /* replaced snapshots; guarded by mutex */
    struct evbus_sub *subs;      /* guarded by mutex */
    evbus_status connect_status; /* last failed attempt, or why the last session ended; guarded by mutex */
    char connect_text[256];
    _Atomic(uint32_t) connect_fatal; /* 1: an attempt failed for good (authentication, TLS) while opening */

    struct ev_reconnect reconnect;
    struct ev_keeper keeper;
    struct ev_watch watch;
    struct ev_health health;
    struct ev_backlog backlog;

    /* The end */
    struct ev_flight closing;
    pthread_mutex_t flights; /* of `closing` and of all topics */
    bool shut;               /* guarded by mutex: report is filled in */
    evbus_report report;
    _Atomic(uint32_t) refs; /* 1 for the application, 1 per live worker and ack worker */
};

/* ---- For every part ---------------------------------------------------------------------------------------------- */

static inline struct evbus *ev_bus_of(struct ev_host *host)
{
    while (host->outer) /* of a backend inside another one */
        host = host->outer;
    return (struct evbus *)(void *)host;
}

static inline struct ev_host *ev_host_of(struct evbus *bus)
{
    return &bus->host;
}

static inline int64_t ev_now(const evbus *bus)
{
    return ev_clock_now(bus->clock);
}

static inline bool ev_link_is_up(const evbus *bus)
{
    return ev_load_acquire(&bus->link) == EV_LINK_UP;
}

static inline bool ev_link_given_up(const evbus *bus)
{
    return ev_load_acquire(&bus->link) == EV_LINK_GIVEN_UP;
}

/* EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED or EVBUS_CLOSED. The first thing every call does. [any] */
evbus_status ev_bus_check(const evbus *bus);
/* The same for calls that stay legal after shutdown. */
evbus_status ev_bus_check_alive(const evbus *bus);

/* Wakes the loop if it sleeps. After a seq_cst push into one of its rings, or after posting a command. [any] */
void ev_loop_wake(evbus *bus);

/* Runs `command` on the loop thread; the command's memory is the caller's until it ran. [any] */
void ev_loop_post(evbus *bus, struct ev_command *command);

/* Waits until done(arg), woken by ev_bus_changed. False: the deadline passed. In manual mode it turns the loop. [app] */
bool ev_bus_await(evbus *bus, bool (*done)(void *arg), void *arg, int64_t deadline);
void ev_bus_changed(evbus *bus);

void *ev_loop_main(void *arg);

/* Work for the crew. [loop] */
void ev_loop_runnable(evbus *bus, struct ev_job *job);

/* A copy that lives until close; equal texts share one. NULL when out of memory or above the bound. [any] takes mutex */
const char *ev_bus_intern(evbus *bus, const char *text, size_t len);

/* Options. */
evbus_status ev_config_init(struct ev_config *cfg, const evbus_opts *opts);
void ev_config_fini(struct ev_config *cfg);
/* Copies `size` bytes of an option struct after checking struct_size: a larger, newer struct is fine while its unknown
 * tail is zero. `what` names it. */
evbus_status ev_opts_read(void *out, size_t size, const void *opts, const char *what);

/* True on a thread that runs a callback of this bus: waiting for the bus's end there would wait for itself. */
bool ev_in_callback(const evbus *bus);

/* evbus_open with a switch: `manual` opens without threads (tests/sim). */
evbus_status ev_open(const char *url, const evbus_opts *opts, bool manual, evbus **ret_bus);
/* Ends the bus when its time has come; part of each turn. [loop] */
void ev_shutdown_turn(evbus *bus);
/* Ends what runs of a bus whose opening failed before its loop ran. */
void ev_abort_open(evbus *bus);
/* Frees everything; the last reference is gone. */
void ev_bus_free(evbus *bus);
/* One turn of the loop; true if anything happened. [loop] */
bool ev_loop_turn(evbus *bus);
/* When the next turn is due without anything coming in. [loop] */
int64_t ev_loop_due(evbus *bus);

#endif
