/* SPDX-License-Identifier: Apache-2.0 */
/* What a bus has counted, and what the broker says of a stream. A part of evbus.h, which includes it. */
#ifndef EVBUS_STATS_H
#define EVBUS_STATS_H

#include <evbus/evbus.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Statistics: counters since open. Reading takes no lock and never blocks -------------------------------------- */

typedef struct evbus_statistics {
    size_t struct_size;
    /* publishing */
    uint64_t publishes_accepted;
    uint64_t publishes_stored;    /* the broker said so */
    uint64_t publishes_duplicate; /* of those */
    uint64_t publishes_refused;
    uint64_t publishes_unknown;
    uint64_t publishes_core; /* plain, sent without a stream: no answer will come */
    uint64_t publishes_resent;
    uint64_t backpressure;       /* calls that returned EVBUS_BACKPRESSURE */
    uint64_t publishes_inflight; /* now */
    uint64_t publish_bytes;      /* now */
    /* consuming */
    uint64_t delivered; /* by the broker, redeliveries included */
    uint64_t redelivered;
    uint64_t handled; /* verdict ack */
    uint64_t handler_runs;
    uint64_t retried;      /* verdict retry */
    uint64_t rejected;     /* verdict reject */
    uint64_t exhausted;    /* attempts or deliveries used up */
    uint64_t not_envelope; /* bodies that are no envelope */
    uint64_t dead_lettered;
    uint64_t dead_letter_failures;
    uint64_t duplicates_held;    /* redelivered while still here: not run twice */
    uint64_t duplicates_settled; /* delivered after it was settled: acked again if the broker takes it, not run */
    uint64_t plain_dropped;      /* plain messages delivered again, or left at shutdown: not run */
    uint64_t handed_back;
    uint64_t lease_extensions;
    uint64_t handlers_overdue;
    uint64_t stalls;
    uint64_t overtaken;        /* messages the stream dropped before they were handled */
    uint64_t foreign;          /* deliveries to other members of an EXCLUSIVE group */
    uint64_t held;             /* now: pulled and not settled */
    uint64_t held_bytes;       /* now */
    uint64_t handlers_running; /* now: with a worker, or deferred and not settled */
    /* the rest */
    uint64_t topics;        /* now */
    uint64_t subscriptions; /* now */
    uint64_t workers;       /* now */
    uint64_t streams_created;
    uint64_t streams_lost;
    uint64_t connects; /* sessions */
    uint64_t disconnects;
    uint64_t connect_failures;
    uint64_t events_dropped; /* on_event could not keep up */
    uint64_t connected;      /* now: 1 or 0 */
    /* receipts */
    uint64_t receipts;         /* put into a queue */
    uint64_t receipts_taken;   /* of those; by evbus_receipts_take or on_receipt */
    uint64_t receipts_queued;  /* now: not taken */
    uint64_t receipts_untaken; /* times that nobody took any for 10 s */
    uint64_t receipts_slow;    /* times that p99 rose above half of publish_timeout_ms */
    uint64_t receipts_p99_us;  /* acceptance to taken, of the last whole 10 s in which some were taken */
    uint64_t tenants;          /* now */
    uint64_t ack_workers;      /* now */
    /* EXCLUSIVE groups */
    uint64_t standby;   /* now: subscriptions that stand by */
    uint64_t takeovers; /* of those that stood by, how many became active */
    uint64_t fenced;    /* messages that were here when another member took over: not settled */
    uint64_t unhandled; /* acknowledged unhandled: evbus_unhandled */
    /* supervision */
    uint64_t reconnect_attempts; /* begun after a session had ended */
    uint64_t reconnects_given_up;
    uint64_t progress_repairs; /* as EVBUS_EVENT_STUCK says */
    /* EVBUS_TAIL_PARK */
    uint64_t aggregates_parked; /* now */
    uint64_t messages_parked;   /* of dead_lettered: behind another one of their aggregate */
    /* circuit breakers of subscriptions */
    uint64_t breaker_opens; /* times that one opened */
    uint64_t breakers_open; /* now: open or half open */
} evbus_statistics;

/** Threads: any.  Blocks: no.  Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED */
EVBUS_API evbus_status evbus_stats(const evbus *bus, evbus_statistics *ret_stats);

typedef struct evbus_topic_statistics {
    size_t struct_size;
    uint64_t publishes_accepted;
    uint64_t publishes_stored;
    uint64_t publishes_duplicate;
    uint64_t publishes_refused;
    uint64_t publishes_unknown;
    uint64_t publishes_core;
    uint64_t handled;
    uint64_t retried;
    uint64_t dead_lettered;
    uint64_t subscriptions; /* now */
    uint64_t stream_known;  /* now: 1 if its stream was found or made */
    uint64_t gate_closed;   /* now */
    uint64_t fallback;      /* now: plain messages go over core NATS */
} evbus_topic_statistics;

/** Threads: any.  Blocks: no.  Returns: EVBUS_OK, EVBUS_NOT_FOUND, EVBUS_INVALID, EVBUS_FORKED */
EVBUS_API evbus_status evbus_topic_stats(const evbus *bus, const char *topic, evbus_topic_statistics *ret_stats);

/** The stream that stores a topic, as the broker described it. */
typedef struct evbus_stream_info {
    size_t struct_size;
    char name[256];
    uint64_t max_age_ms; /* 0: no limit, in all of the limits */
    uint64_t max_bytes;
    uint64_t max_msgs;
    uint64_t duplicate_window_ms; /* publishing an event id again is safe this long */
    uint64_t messages;            /* when it was asked */
    uint64_t bytes;
    uint64_t first_sequence;
    uint64_t last_sequence;
} evbus_stream_info;

/**
 * Ask the broker about the stream that stores a topic. As before a publish, the stream is looked up, and made by the
 * topic's configuration when there is none.
 *
 * @param topic       as for publishing
 * @param timeout_ms  0: 5000
 *
 * Threads: any; in handlers too.  Blocks: up to timeout_ms.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID    topic, or a topic that is configured as ephemeral
 *          EVBUS_NOT_FOUND  the stream is gone, and this bus did not make it
 *          EVBUS_TIMEOUT, EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED, EVBUS_MISMATCH
 *          EVBUS_LIMIT, EVBUS_CLOSED, EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_topic_stream(evbus *bus, const char *topic, uint32_t timeout_ms,
                                                          evbus_stream_info *ret);

#ifdef __cplusplus
}
#endif

#endif
