/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator or a supervisor wants of a bus: dead letters, health, backlog. A part of evbus.h, which includes it. */
#ifndef EVBUS_WATCH_H
#define EVBUS_WATCH_H

#include <evbus/evbus.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Dead letters: what nobody could handle, kept until somebody decides ------------------------------------------ */

/**
 * A dead letter: the message as it was, and what is known of its end. Valid until the callback returns. Strings are ""
 * and numbers 0 where the letter does not say, as when another program wrote it.
 */
typedef struct evbus_letter {
    size_t struct_size;
    uint64_t sequence;         /* its place in ... */
    const char *stream;        /* ... the stream that keeps it */
    const char *letter_topic;  /* where it lies: "dlq.orders" */
    const char *topic;         /* where the message came from: "orders" */
    const char *group;         /* whose handler gave it up */
    const char *origin_stream; /* where the message lay ... */
    uint64_t origin_sequence;  /* ... and at which place */
    const char *aggregate_id;  /* "" if the body is no envelope */
    const char *event_id;
    const char *trace_id; /* of the envelope; a "traceparent" is among the headers */
    const char *correlation_id;
    const char *cause;           /* why it was given up */
    const char *detail;          /* the handler's reason (evbus_msg_set_reason), or what is wrong with the body */
    int64_t stored_ns;           /* Unix times: when the message was stored, ... */
    int64_t first_ns;            /* ... first delivered to the process that gave it up, ... */
    int64_t last_ns;             /* ... and given up */
    evbus_view data;             /* the body, byte for byte */
    const evbus_header *headers; /* the message's own; ends with a NULL name */
    uint32_t attempts;           /* handler runs in that process */
    uint32_t deliveries;         /* by the broker */
    uint32_t redriven;           /* how often it has been redriven already */
    uint32_t reserved0;
} evbus_letter;

/** Which letters: all that are given must fit. */
typedef struct evbus_letter_opts {
    size_t struct_size;
    const char *letter_topic; /* topic or pattern; NULL: "dlq.>" */
    const char *topic;        /* where the message came from: topic or pattern */
    const char *group;
    const char *aggregate_id;
    const char *cause;   /* a part of the cause or the detail, in this spelling */
    uint64_t sequence;   /* this one; 0: all */
    int64_t since_ns;    /* given up at or after */
    int64_t until_ns;    /* given up before; 0: no limit */
    uint32_t timeout_ms; /* for each question to the broker; 0: 5000 */
    uint32_t reserved0;
} evbus_letter_opts;

/** As the other _init functions. Threads: any. Blocks: no. */
EVBUS_API void evbus_letter_opts_init(evbus_letter_opts *opts);

/** Called for one letter; false ends the walk. */
typedef bool (*evbus_letter_fn)(const evbus_letter *letter, void *ctx);

/**
 * Walk over the dead letters that are there now, oldest first. Nothing is taken or changed; the callback may redrive or
 * drop the letter it is given.
 *
 * @param opts  NULL: all of "dlq.>"
 *
 * Threads: any; the callback runs on the calling one.  Blocks: for the broker, up to timeout_ms for each letter.
 * Returns: EVBUS_OK         walked to the end, or the callback ended it; also when there is no dead-letter stream yet
 *          EVBUS_NOT_FOUND  opts->sequence is not there
 *          EVBUS_INVALID    an option; EVBUS_NOMEM
 *          EVBUS_TIMEOUT, EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED
 *          EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_letters(evbus *bus, const evbus_letter_opts *opts, evbus_letter_fn fn,
                                                     void *ctx);

/**
 * Publish a letter's message again where it came from, byte for byte with its headers, "Evbus-Redriven" and
 * "Evbus-Letter", and take the letter out once that is stored. It gets a message id of its own, made of the letter's
 * place: redriven twice, it is stored once (within the stream's duplicate window). It is stored behind what came
 * meanwhile, and all groups of the topic get it. Redriven in the order of the walk, each stored before the next, an
 * aggregate's messages keep their order. Where what comes behind is parked (EVBUS_TAIL_PARK), redriving or dropping all
 * letters of an aggregate lets it go on.
 *
 * @param letter      as given to the callback
 * @param timeout_ms  0: publish_timeout_ms
 * @param ret         may be NULL; written on every return but EVBUS_INVALID, EVBUS_CLOSED, EVBUS_FORKED
 *
 * Threads: any.  Blocks: up to timeout_ms to publish, then as long again to take the letter out.
 * Returns: EVBUS_OK       stored, and the letter is gone
 *          EVBUS_UNKNOWN  sent, no answer: the letter stays; redrive it again
 *          EVBUS_INVALID  the letter does not say where it came from
 *          otherwise      as evbus_publish_envelope; ret->outcome tells whether it was stored and only the letter stayed
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_letter_redrive(evbus *bus, const evbus_letter *letter, uint32_t timeout_ms,
                                                            evbus_receipt *ret);

/**
 * Take a letter out for good.
 *
 * Threads: any.  Blocks: up to timeout_ms (0: 5000).
 * Returns: EVBUS_OK, EVBUS_NOT_FOUND (it is gone already), otherwise as evbus_letters
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_letter_drop(evbus *bus, const evbus_letter *letter, uint32_t timeout_ms);

/* ---- The connection ---------------------------------------------------------------------------------------------- */

typedef enum evbus_connection_state {
    EVBUS_CONNECTION_UP = 1,
    EVBUS_CONNECTION_DOWN = 2,    /* an attempt to reconnect runs or is to come */
    EVBUS_CONNECTION_GIVEN_UP = 3 /* reconnect_attempts_max of them failed: none is to come */
} evbus_connection_state;

typedef struct evbus_connection {
    size_t struct_size;
    uint32_t state;           /* evbus_connection_state */
    uint32_t attempts;        /* to reconnect, since the last session ended; 0 while it is up */
    uint32_t failures;        /* of those, failed */
    evbus_status last_status; /* why the last session ended or the last server failed; EVBUS_OK: neither ever did */
    uint64_t connects;        /* sessions since open */
    uint64_t disconnects;
    uint64_t connect_failures; /* servers that were tried and failed */
    int64_t connected_ns;      /* Unix times, 0: never. When the last session began ... */
    int64_t disconnected_ns;   /* ... when one last ended ... */
    int64_t failed_ns;         /* ... when an attempt last failed ... */
    int64_t next_ns;           /* ... when the next one begins; 0: it is up, or one runs, or none is to come */
    char last_error[256];      /* the sentence behind last_status */
} evbus_connection;

EVBUS_API void evbus_connection_init(evbus_connection *connection);

/** How the connection is, and what became of reconnecting. Threads: any. Blocks: no.
 *  Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_connection_read(evbus *bus, evbus_connection *ret);

/**
 * Try to reconnect now: ends the pause before the next attempt, or begins anew after it was given up. Attempts and
 * pauses count from the beginning. Does nothing while the connection is up or an attempt runs (but for the counting).
 *
 * Threads: any; in handlers and callbacks too.  Blocks: as long as the loop's turn takes.
 * Returns: EVBUS_OK (asked for; EVBUS_EVENT_CONNECTED tells when it is up), EVBUS_INVALID, EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_reconnect(evbus *bus);

/**
 * How many events of a kind there were since open, told to on_event or not. Threads: any.  Blocks: no.
 * Returns: 0 for a kind that does not exist, a NULL bus, and one of before fork()
 */
EVBUS_API uint64_t evbus_event_count(const evbus *bus, evbus_event_kind kind);

/* ---- Health ------------------------------------------------------------------------------------------------------ */

/** Why a bus is not well: bits of evbus_health_report.reasons. */
typedef enum evbus_health_reason {
    /* not live: restart the process */
    EVBUS_HEALTH_CLOSED = 1 << 0, /* it is shut down */
    EVBUS_HEALTH_STUCK = 1 << 1,  /* its loop does not answer within the time allowed */
    /* live, not ready: send it no work */
    EVBUS_HEALTH_DISCONNECTED = 1 << 2,
    EVBUS_HEALTH_LINK_SILENT = 1 << 3,   /* the broker has not answered the last heartbeat for an interval */
    EVBUS_HEALTH_CONSUMER_LOST = 1 << 4, /* a durable is gone; it is being bound again */
    /* ready, but not all that it was given gets through */
    EVBUS_HEALTH_PUBLISH_SLOW = 1 << 5,    /* a publish has waited for its outcome for half of publish_timeout_ms */
    EVBUS_HEALTH_GATE_CLOSED = 1 << 6,     /* nobody answers for a topic's stream */
    EVBUS_HEALTH_STALLED = 1 << 7,         /* a subscription has stopped pulling */
    EVBUS_HEALTH_CONSUMER_SILENT = 1 << 8, /* the broker answers, but says nothing about a consumer */
    EVBUS_HEALTH_LETTERS_FAIL = 1 << 9,    /* dead letters cannot be stored; their aggregates wait */
    EVBUS_HEALTH_OVERDUE = 1 << 10,        /* a handler runs for longer than handler_timeout_ms */
    EVBUS_HEALTH_SENDER_FAILS = 1 << 11,   /* evbus_health_publisher */
    EVBUS_HEALTH_PEER_MISSED = 1 << 12,    /* evbus_health_subscriber */
    /* not live either */
    EVBUS_HEALTH_GIVEN_UP = 1 << 13, /* reconnecting was given up (reconnect_attempts_max) */
    /* as the middle ones: ready, but not all gets through */
    EVBUS_HEALTH_BREAKER_OPEN = 1 << 14 /* a subscription's circuit breaker is not closed */
} evbus_health_reason;

typedef struct evbus_health_report {
    size_t struct_size;
    bool live;       /* it works; a connection is not needed for that, but the will to get one is */
    bool ready;      /* and is connected, with all subscriptions bound */
    bool end_to_end; /* and what it was given gets through */
    uint8_t reserved0[5];
    uint32_t reasons;           /* evbus_health_reason, 0: none */
    uint32_t link_silent_ms;    /* since the heartbeat went out that is unanswered; 0: none is */
    uint32_t publish_oldest_ms; /* age of the oldest publish without an outcome; 0: none */
    uint32_t publishes;         /* without an outcome */
    uint32_t gates_closed;      /* topics */
    uint32_t subscriptions;
    uint32_t lost, stalled, silent, letters_fail; /* of those */
    uint32_t handlers_overdue;                    /* running now */
    uint32_t publishes_held;                      /* of those without an outcome: not sent (no link, gate closed) */
    char text[256];                               /* one sentence: the gravest reason and where */
} evbus_health_report;

/**
 * How is it? Computed now, by the loop, from what it is doing: not from a cache, and without asking the broker.
 *
 * @param timeout_ms  0: 1000; a loop that does not answer until then is stuck
 * @param ret         written on EVBUS_OK
 *
 * Threads: any; in handlers and callbacks too.  Blocks: as long as the loop's turn takes, up to timeout_ms.
 * Returns: EVBUS_OK (whatever the answer is), EVBUS_INVALID, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_health(evbus *bus, uint32_t timeout_ms, evbus_health_report *ret);

typedef struct evbus_health_publisher_opts {
    size_t struct_size;
    const char *topic;        /* NULL: "jxt-core-nats-health-check" ("memory" on mem://) */
    const char *source;       /* who we are; NULL: evbus_opts.name */
    evbus_event_fn on_change; /* hears of HEALTH_FAILING and HEALTH_SENDING; on_event does as well */
    void *on_change_ctx;
    uint32_t interval_ms;  /* 0: 120000; at least 10 */
    uint32_t timeout_ms;   /* for the broker to have worked one off; 0: 2000 */
    uint32_t failures_max; /* so many in a row are a failure; 0: 3 */
    uint32_t reserved0;
} evbus_health_publisher_opts;

typedef struct evbus_health_publisher_status {
    size_t struct_size;
    uint64_t sent, failed;
    int64_t last_sent_ns, last_failed_ns; /* Unix times; 0: never */
    uint32_t failures;                    /* in a row, now */
    evbus_status last_status;             /* of the last one */
    bool running, healthy;
    uint8_t reserved0[6];
    char last_error[256]; /* of the last one that failed */
} evbus_health_publisher_status;

EVBUS_API void evbus_health_publisher_opts_init(evbus_health_publisher_opts *opts);

/**
 * Tell others that we are here: one message at once, then one an interval, in the form the Go original uses. They go
 * over core NATS, to nobody's stream (unless somebody's stream covers the topic). One publisher per bus.
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_EXISTS (it runs), EVBUS_INVALID, EVBUS_LIMIT, EVBUS_NOMEM, EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_health_publisher_start(evbus *bus,
                                                                    const evbus_health_publisher_opts *opts);

/** Ends it; it may be started again. Its callback is not called after. Threads: any. Blocks: up to timeout_ms. */
EVBUS_API evbus_status evbus_health_publisher_stop(evbus *bus);

/** Threads: any. Blocks: no. Also when it does not run. Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED */
EVBUS_API evbus_status evbus_health_publisher_read(evbus *bus, evbus_health_publisher_status *ret);

typedef struct evbus_health_subscriber_opts {
    size_t struct_size;
    const char *topic;        /* NULL: as the publisher's */
    const char *source;       /* only messages of this source count; NULL: any */
    evbus_event_fn on_change; /* hears of HEALTH_WARNING, _ERROR, _CRITICAL and _RECOVERED; on_event does as well */
    void *on_change_ctx;
    uint32_t interval_ms;     /* of the publisher that is watched; 0: 120000; at least 10 */
    uint32_t check_ms;        /* how often we look; 0: a quarter of interval_ms, at most 30000; at least 10 */
    uint32_t warning_misses;  /* messages missed in a row; 0: 3 */
    uint32_t error_misses;    /* 0: 5 */
    uint32_t critical_misses; /* 0: 10 */
    uint32_t reserved0;
} evbus_health_subscriber_opts;

typedef struct evbus_health_subscriber_stats {
    size_t struct_size;
    uint64_t received;
    uint64_t refused; /* no health messages, or too old */
    uint64_t alerts;  /* warnings, errors and critical ones */
    uint64_t recoveries;
    int64_t started_ns, last_ns, last_alert_ns; /* Unix times; 0: never */
    uint32_t misses;                            /* in a row, now */
    uint32_t severity;                          /* now: 0 none, 1 warning, 2 error, 3 critical */
    bool running, healthy;                      /* healthy: a message came, and none is missed to a warning */
    uint8_t reserved0[6];
    char last_source[128];
} evbus_health_subscriber_stats;

EVBUS_API void evbus_health_subscriber_opts_init(evbus_health_subscriber_opts *opts);

/**
 * Watch for somebody's health messages. Each alert is told once: when so many were missed, again only when it gets
 * worse, and once when they come again. One subscriber per bus.
 *
 * Threads: any.  Blocks: as evbus_subscribe.
 * Returns: as evbus_subscribe; EVBUS_EXISTS (it runs)
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_health_subscriber_start(evbus *bus,
                                                                     const evbus_health_subscriber_opts *opts);

/** Ends it; it may be started again. Its callback is not called after. Threads: any. Blocks: as evbus_unsubscribe. */
EVBUS_API evbus_status evbus_health_subscriber_stop(evbus *bus);

/** Threads: any. Blocks: no. Also when it does not run. Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_FORKED */
EVBUS_API evbus_status evbus_health_subscriber_read(evbus *bus, evbus_health_subscriber_stats *ret);

/* ---- Circuit breakers -------------------------------------------------------------------------------------------- */

typedef enum evbus_breaker_state {
    EVBUS_BREAKER_CLOSED = 0,   /* all is well, or it has no breaker */
    EVBUS_BREAKER_OPEN = 1,     /* nothing starts, nothing is pulled */
    EVBUS_BREAKER_HALF_OPEN = 2 /* one message tries */
} evbus_breaker_state;

/**
 * The state of a subscription's circuit breaker (evbus_sub_opts.breaker_failures): for handlers that fail because something
 * they need is away, so that they do not use up the attempts of everything that waits. Closed: all run. Open, for
 * breaker_open_ms: nothing of it starts, nothing is pulled; what is here keeps its place and its lease. Half open: one
 * message runs; ACK and REJECT close the breaker, a retry or being overdue opens it again. Runs that were under way when
 * it opened end as always. Each try uses up an attempt of its message: give attempts_max room, or EVBUS_FOREVER.
 * For publishing the gate of a topic does the same (EVBUS_EVENT_GATE_CLOSED).
 *
 * Threads: any, until evbus_unsubscribe or evbus_close.  Blocks: no.  Returns: the state; closed for NULL
 */
EVBUS_API evbus_breaker_state evbus_sub_breaker(const evbus_sub *sub);

/* ---- Backlog ----------------------------------------------------------------------------------------------------- */

/** How far behind one consumer is. Valid until the callback returns. */
typedef struct evbus_lag {
    size_t struct_size;
    const char *stream;
    const char *consumer;
    const char *topic;    /* its filter; "" if it takes the whole stream */
    const char *group;    /* "" if it is not one of ours */
    uint64_t pending;     /* stored, not delivered */
    uint64_t ack_pending; /* delivered, not settled */
    uint64_t redelivered; /* of those, more than once */
    uint64_t waiting;     /* requests for more that are open; 0: nobody takes, or all members are busy */
    int64_t oldest_ns;    /* Unix time when the oldest of pending and ack_pending was stored; 0: there is none */
    uint64_t oldest_ms;   /* its age */
    bool durable;
    uint8_t reserved0[7];
} evbus_lag;

typedef struct evbus_lag_opts {
    size_t struct_size;
    const char *topic;   /* topic or pattern; NULL: all streams */
    const char *group;   /* NULL: any */
    uint32_t timeout_ms; /* for each question to the broker; 0: 5000 */
    uint32_t reserved0;
} evbus_lag_opts;

EVBUS_API void evbus_lag_opts_init(evbus_lag_opts *opts);

/** Called for one consumer; false ends the walk. */
typedef bool (*evbus_lag_fn)(const evbus_lag *lag, void *ctx);

/**
 * Ask the broker how far behind the consumers of a topic are, also those of other processes. What a stream has dropped
 * is not counted: it is not there any more.
 *
 * Threads: any; the callback runs on the calling one.  Blocks: for the broker, up to timeout_ms for each consumer.
 * Returns: EVBUS_OK (also when there is none), EVBUS_INVALID, EVBUS_NOMEM
 *          EVBUS_TIMEOUT, EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED
 *          EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_lags(evbus *bus, const evbus_lag_opts *opts, evbus_lag_fn fn, void *ctx);

/** What our account at the broker uses and may use; maxima: 0 is no limit. */
typedef struct evbus_account {
    size_t struct_size;
    uint64_t streams, streams_max;
    uint64_t consumers, consumers_max;
    uint64_t memory_bytes, memory_bytes_max;
    uint64_t storage_bytes, storage_bytes_max; /* on disk */
} evbus_account;

/**
 * Ask the broker what we use and may use.
 *
 * Threads: any.  Blocks: up to timeout_ms (0: 5000).
 * Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_TIMEOUT, EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED,
 *          EVBUS_CLOSED, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_account_read(evbus *bus, uint32_t timeout_ms, evbus_account *ret);

/** Which backlog: bits. */
typedef enum evbus_backlog_side {
    EVBUS_BACKLOG_SUBSCRIBER = 1, /* of our durables: what waits at the broker */
    EVBUS_BACKLOG_PUBLISHER = 2   /* of our publishes: what waits for its outcome */
} evbus_backlog_side;

/* A state is high when one of its measures reaches "high", and normal again when all are at or below "low". */
typedef struct evbus_backlog_opts {
    size_t struct_size;
    evbus_event_fn on_change; /* hears of BACKLOG_HIGH and BACKLOG_NORMAL of these sides; on_event does as well */
    void *on_change_ctx;
    uint64_t msgs_high;          /* subscriber: pending and ack pending; 0: 10000 */
    uint64_t msgs_low;           /* 0: half of msgs_high */
    uint32_t age_high_ms;        /* subscriber: age of the oldest of them; 0: 300000 */
    uint32_t age_low_ms;         /* 0: half of age_high_ms */
    uint32_t inflight_high;      /* publisher: publishes without an outcome; 0: 80 % of publish_inflight_max */
    uint32_t inflight_low;       /* 0: half of inflight_high */
    uint32_t latency_high_ms;    /* publisher: mean time to the outcome; 0: 1000 */
    uint32_t latency_low_ms;     /* 0: half of latency_high_ms */
    uint32_t subscriber_look_ms; /* 0: 30000; at least 10 */
    uint32_t publisher_look_ms;  /* 0: 10000; at least 10 */
} evbus_backlog_opts;

EVBUS_API void evbus_backlog_opts_init(evbus_backlog_opts *opts);

/**
 * Watch the backlog of some sides, or of all: EVBUS_BACKLOG_SUBSCRIBER | EVBUS_BACKLOG_PUBLISHER. The housekeeping
 * thread asks and looks; publishing and handling pay nothing.
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_EXISTS (one of the sides is watched; none was started), EVBUS_INVALID, EVBUS_CLOSED,
 *          EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_backlog_start(evbus *bus, uint32_t sides, const evbus_backlog_opts *opts);

/**
 * End it. Its callback is not called for these sides after. It may be started again.
 *
 * Threads: any.  Blocks: until a look that is under way has ended.
 * Returns: EVBUS_OK, EVBUS_NOT_FOUND (none of them was watched), EVBUS_INVALID, EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_backlog_stop(evbus *bus, uint32_t sides);

/** What the last look found. */
typedef struct evbus_backlog {
    size_t struct_size;
    bool high;
    bool measured; /* rates are known: it has looked twice */
    uint8_t reserved0[6];
    uint64_t msgs;      /* subscriber: pending and ack pending; publisher: without an outcome */
    uint64_t queued;    /* subscriber: pending; publisher: of msgs, not sent yet */
    uint64_t oldest_ms; /* age of the oldest of msgs */
    double rate;        /* settled, or outcomes, a second */
    double trend;       /* msgs more (or less, < 0) a second */
    uint64_t drain_ms;  /* until it is empty at this trend; UINT64_MAX: not at all, 0: it is empty */
    double latency_ms;  /* publisher: mean time to the outcome since the last look; subscriber: 0 */
    int64_t looked_ns;  /* Unix time */
} evbus_backlog;

/**
 * Read what was found for a subscription of ours, or with topic NULL for our publishes.
 *
 * @param group  NULL: evbus_opts.name
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_NOT_FOUND (not watched, or not looked at yet), EVBUS_INVALID, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_backlog_read(evbus *bus, const char *topic, const char *group,
                                                          evbus_backlog *ret);

#ifdef __cplusplus
}
#endif

#endif
