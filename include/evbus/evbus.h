/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus: the event bus for C.
 *
 * Services publish to and subscribe to *topics*. A message is either plain bytes (loss tolerated, at most once) or an
 * *envelope*: a domain event of one aggregate, stored by the broker, delivered at least once and handled in order per
 * aggregate. The URL chooses the broker: mem:// (in this process), nats://host:port (NATS JetStream).
 *
 * Three rules of use
 *   1. Every call returns an evbus_status; evbus_error_detail() has one sentence for people, per thread.
 *   2. A handler returns its verdict (ack, retry, reject, defer); nothing is acknowledged behind its back.
 *   3. evbus_shutdown(), then evbus_close(). Everything else may be called from any thread at any time.
 *
 * Caveats
 *   - After fork() the child gets EVBUS_FORKED from every call: open a bus of its own there.
 *   - Opening a nats:// bus makes the process ignore SIGPIPE (libnats does that).
 *   - Callbacks run on threads of the bus. They may call anything except evbus_shutdown() and evbus_close().
 *   - Strings handed to a call are copied before it returns. Strings handed out say how long they live.
 *   - Times are in the unit their name ends with; a 0 in an option struct always means "the default".
 *
 * What is promised, per broker: docs/guarantees.md.
 */
#ifndef EVBUS_EVBUS_H
#define EVBUS_EVBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EVBUS_API __attribute__((visibility("default")))
#define EVBUS_NODISCARD __attribute__((warn_unused_result))
#else
#define EVBUS_API
#define EVBUS_NODISCARD
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EVBUS_VERSION_MAJOR 0
#define EVBUS_VERSION_MINOR 1
#define EVBUS_VERSION_PATCH 0
#define EVBUS_VERSION "0.1.0"

/** For times and counts in options: do not wait at all / no limit. */
#define EVBUS_NOWAIT (UINT32_MAX - 1u)
#define EVBUS_FOREVER UINT32_MAX

/* ---- Status ------------------------------------------------------------------------------------------------------ */

/* Each status means one thing; evbus_strerror() gives the text below. */
#define EVBUS_STATUS_MAP(X)                                                                                            \
    X(EVBUS_OK, 0, "ok")                                                                                               \
    X(EVBUS_INVALID, 1, "an argument, option or name breaks a rule")                                                   \
    X(EVBUS_NOMEM, 2, "out of memory")                                                                                 \
    X(EVBUS_UNSUPPORTED, 3, "not supported by this build, backend or server")                                          \
    X(EVBUS_CLOSED, 4, "the bus is shut down")                                                                         \
    X(EVBUS_FORKED, 5, "this bus belongs to the parent process")                                                       \
    X(EVBUS_BACKPRESSURE, 6, "no room within the time allowed; nothing was accepted")                                  \
    X(EVBUS_TIMEOUT, 7, "no answer within the time allowed; nothing was changed that is known of")                     \
    X(EVBUS_UNKNOWN, 8, "sent, but whether it was stored is unknown")                                                  \
    X(EVBUS_DISCONNECTED, 9, "no connection to the broker")                                                            \
    X(EVBUS_NOT_FOUND, 10, "no such object")                                                                           \
    X(EVBUS_EXISTS, 11, "it exists already")                                                                           \
    X(EVBUS_LIMIT, 12, "a configured limit is reached")                                                                \
    X(EVBUS_TOO_LARGE, 13, "the message is larger than allowed")                                                       \
    X(EVBUS_DENIED, 14, "the broker's permissions forbid it")                                                          \
    X(EVBUS_AUTH, 15, "the broker refused the credentials")                                                            \
    X(EVBUS_TLS, 16, "the TLS handshake failed")                                                                       \
    X(EVBUS_NO_JETSTREAM, 17, "JetStream is not available to this account")                                            \
    X(EVBUS_REFUSED, 18, "the broker refused it")                                                                      \
    X(EVBUS_MISMATCH, 19, "it exists with settings that do not fit")                                                   \
    X(EVBUS_NOT_REGISTERED, 20, "the tenant is not registered")                                                        \
    X(EVBUS_SYSTEM, 21, "the operating system refused a resource")

typedef enum evbus_status {
#define EVBUS_X(name, code, text) name = code,
    EVBUS_STATUS_MAP(EVBUS_X)
#undef EVBUS_X
} evbus_status;

/** The text of a status; never NULL, static. Threads: any. Blocks: no. */
EVBUS_API const char *evbus_strerror(evbus_status status);

/** The name of a status, as in "EVBUS_INVALID"; never NULL, static. Threads: any. Blocks: no. */
EVBUS_API const char *evbus_status_name(evbus_status status);

/**
 * One sentence about the last call of this thread that did not return EVBUS_OK: which field, value and rule, or what
 * the broker said. Never NULL; valid until this thread's next call into evbus. Threads: any. Blocks: no.
 */
EVBUS_API const char *evbus_error_detail(void);

/** "0.1.0": the version of the library that runs, which may be newer than EVBUS_VERSION. Threads: any. */
EVBUS_API const char *evbus_version(void);

/* ---- Types ------------------------------------------------------------------------------------------------------- */

typedef struct evbus evbus;
typedef struct evbus_sub evbus_sub;
typedef struct evbus_msg evbus_msg;
typedef struct evbus_clock evbus_clock;

/** Bytes that belong to somebody else. */
typedef struct evbus_view {
    const void *data;
    size_t len;
} evbus_view;

/** One message header. Lists of headers end with an element whose name is NULL. */
typedef struct evbus_header {
    const char *name;  /* 1..128 printable ASCII bytes, no space, no ':' */
    const char *value; /* 1..4096 bytes, no CR, no LF (libnats 3.4 loses headers behind an empty value) */
} evbus_header;

/**
 * A domain event. The wire format is frozen JSON (docs/wire.md); NULL or 0 means absent.
 * Publishing: the caller's; copied. Receiving: valid until the handler returns (or settles a deferred message).
 */
typedef struct evbus_envelope {
    const char *event_id;     /* NULL: a UUIDv7 is made */
    const char *aggregate_id; /* required: 1..256 bytes of A-Z a-z 0-9 : _ - . / */
    const char *event_type;   /* required */
    int64_t event_version;    /* required: > 0; the aggregate's version */
    int64_t timestamp_ns;     /* Unix time; 0 when published: now; 0 when received: none (Go's zero time) */
    const char *trace_id;
    const char *correlation_id;
    int64_t tenant_id;   /* 0: none */
    const char *payload; /* required: valid JSON, kept byte for byte */
    size_t payload_len;  /* 0: strlen(payload) */
} evbus_envelope;

/** How a publish ended. */
typedef enum evbus_outcome {
    EVBUS_OUTCOME_STORED = 1,  /* the broker has it */
    EVBUS_OUTCOME_REFUSED = 2, /* it is not stored and never will be */
    EVBUS_OUTCOME_UNKNOWN = 3  /* sent, no answer: publish again with the same event id */
} evbus_outcome;

/** The one terminal result of an accepted publish. Strings live as long as the receipt (it holds copies). */
typedef struct evbus_receipt {
    size_t struct_size;
    evbus_outcome outcome;
    evbus_status status; /* EVBUS_OK when stored, else why */
    uint64_t tag;        /* of evbus_pub_opts */
    uint64_t sequence;   /* in the stream, when stored */
    int64_t tenant_id;
    int64_t accepted_ns;  /* monotonic time: when the publish was accepted ... */
    int64_t completed_ns; /* ... and when its outcome was known */
    bool duplicate;       /* stored, and the broker had it already */
    bool is_envelope;
    uint8_t reserved[2];
    uint32_t broker_code; /* the broker's error code, 0 if none */
    char event_id[256];   /* always filled for envelopes; longer ids are cut */
    char aggregate_id[264];
    char topic[256];
    char stream[256];
    char detail[256]; /* one sentence when not stored */
} evbus_receipt;

/** What a handler wants done with its message. */
typedef enum evbus_verdict {
    EVBUS_ACK = 0,    /* done */
    EVBUS_RETRY = 1,  /* run it again after a pause; the rest of its aggregate waits */
    EVBUS_REJECT = 2, /* never again: to the dead-letter topic */
    EVBUS_DEFER = 3   /* evbus_msg_settle() will tell */
} evbus_verdict;

/**
 * Handles one message. Runs on a worker thread of the bus; messages of one aggregate never at the same time, others in
 * parallel. `msg` and all that its accessors return are valid until the handler returns, or until a deferred message is
 * settled. On plain subscriptions the verdict only counts: there is no second run.
 */
typedef evbus_verdict (*evbus_handler)(const evbus_msg *msg, void *ctx);

/* ---- Events and log ---------------------------------------------------------------------------------------------- */

typedef enum evbus_log_level {
    EVBUS_LOG_ERROR = 1,
    EVBUS_LOG_WARN = 2,
    EVBUS_LOG_INFO = 3,
    EVBUS_LOG_DEBUG = 4
} evbus_log_level;

/** Something a person or a supervisor wants to know. Each kind has a counter and one log line as well. */
typedef enum evbus_event_kind {
    EVBUS_EVENT_CONNECTED = 1, /* first session, or a new one after a disconnect; count: the attempts that took */
    EVBUS_EVENT_DISCONNECTED = 2,
    EVBUS_EVENT_AUTH_FAILED = 3, /* the connector goes on, slowly */
    EVBUS_EVENT_LAME_DUCK = 4,   /* the server asked its clients to leave */
    EVBUS_EVENT_STREAM_CREATED = 5,
    EVBUS_EVENT_LOST_STREAM = 6,    /* a stream this bus made is gone; it is made again */
    EVBUS_EVENT_STREAM_DIFFERS = 7, /* an existing stream has other settings than configured; it is used as it is */
    EVBUS_EVENT_FALLBACK = 8,       /* plain messages of a topic go over core NATS: nothing stores them */
    EVBUS_EVENT_FALLBACK_ENDED = 9,
    EVBUS_EVENT_GATE_CLOSED = 10, /* nobody answers for a topic's stream: publishing waits while one probe tries */
    EVBUS_EVENT_GATE_OPEN = 11,
    EVBUS_EVENT_DEAD_LETTER = 12,        /* a message went to the dead-letter topic */
    EVBUS_EVENT_DEAD_LETTER_FAILED = 13, /* it could not be stored there; the message stays and is tried again */
    EVBUS_EVENT_STALLED = 14,            /* a subscription stopped pulling: too much waits behind a failing aggregate */
    EVBUS_EVENT_RESUMED = 15,
    EVBUS_EVENT_HANDLER_OVERDUE = 16,
    EVBUS_EVENT_CONSUMER_LOST =
        17, /* the durable is gone or was changed; it is bound again. count > 0: that fails (attempts
                                        so far), told once for each cause, and RESUMED when it is over */
    EVBUS_EVENT_FOREIGN_MEMBER = 18, /* another process takes from an EXCLUSIVE group */
    EVBUS_EVENT_OVERTAKEN = 19,      /* the stream dropped messages before they were handled */
    EVBUS_EVENT_NEAR_LIMIT = 20,     /* a stream is above 80 % of a limit */
    EVBUS_EVENT_GIVEN_UP = 21, /* a fan-out subscription without dead-letter topic drops a message; others have it */
    EVBUS_EVENT_RECEIPTS_UNTAKEN = 22, /* receipts wait, and nobody took one of that queue for 10 s */
    EVBUS_EVENT_RECEIPTS_SLOW = 23,    /* of the receipts of 10 s, 1 % took longer than half of publish_timeout_ms from
                                           acceptance until they were taken or given to on_receipt */
    EVBUS_EVENT_STANDBY = 24,          /* another member of an EXCLUSIVE group is active: this one waits for its turn */
    EVBUS_EVENT_ACTIVE = 25,           /* its turn has come */
    EVBUS_EVENT_HEALTH_FAILING = 26,   /* our health messages cannot be published; count: how many in a row */
    EVBUS_EVENT_HEALTH_SENDING = 27,   /* they can again */
    EVBUS_EVENT_HEALTH_WARNING = 28,   /* health messages of others are missed; count: how many ... */
    EVBUS_EVENT_HEALTH_ERROR = 29,     /* ... more of them ... */
    EVBUS_EVENT_HEALTH_CRITICAL = 30,  /* ... and still more */
    EVBUS_EVENT_HEALTH_RECOVERED = 31, /* they come again */
    EVBUS_EVENT_BACKLOG_HIGH = 32,     /* too much waits, or for too long; topic "": our publishes */
    EVBUS_EVENT_BACKLOG_NORMAL = 33,   /* no longer */
    EVBUS_EVENT_UNHANDLED = 34,        /* count: messages acknowledged unhandled as their subscription ended */
    EVBUS_EVENT_RECONNECTING = 35,     /* an attempt to reconnect begins; count: which one since the link went down */
    EVBUS_EVENT_RECONNECT_FAILING = 36,  /* reconnect_failures_max of them failed in a row; once per outage */
    EVBUS_EVENT_RECONNECT_GIVEN_UP = 37, /* reconnect_attempts_max failed; count. Then only evbus_reconnect helps */
    EVBUS_EVENT_PARKED = 38,   /* what comes for an aggregate goes to the dead-letter topic (EVBUS_TAIL_PARK); without
                                 aggregate: count of them have letters as this member becomes active */
    EVBUS_EVENT_RELEASED = 39, /* no dead letter of it is left: it goes on */
    EVBUS_EVENT_BREAKER_OPEN = 40,   /* count: handler runs that failed in a row; said once until it is closed */
    EVBUS_EVENT_BREAKER_CLOSED = 41, /* a message got through */
    EVBUS_EVENT_STUCK = 42,          /* nothing comes although it should: repaired; count: in a row. Then RESUMED */
    EVBUS_EVENT_LEADER_CHANGED = 43  /* a consumer's pulls ended with its leader: they go to the next one */
} evbus_event_kind;

typedef struct evbus_event {
    evbus_event_kind kind;
    evbus_status status; /* the cause, EVBUS_OK if there is none */
    uint64_t count;      /* messages concerned, 0 if none */
    const char *topic;   /* "" if none; all strings live until the callback returns */
    const char *group;
    const char *aggregate_id;
    const char *text; /* one sentence */
} evbus_event;

typedef void (*evbus_log_fn)(evbus_log_level level, const char *subject, const char *text, void *ctx);
typedef void (*evbus_event_fn)(const evbus_event *event, void *ctx);
typedef void (*evbus_publish_error_fn)(const evbus_receipt *receipt, void *ctx);
/** Runs on an ack worker; receipts come one by one on each, in parallel on several. `receipt` is valid until it returns. */
typedef void (*evbus_receipt_fn)(const evbus_receipt *receipt, void *ctx);

/** Credentials for one connection attempt; asked again before every attempt, so rotated secrets are taken up. */
typedef struct evbus_credentials {
    size_t struct_size;
    char user[256];
    char password[256];
    char token[1024];
} evbus_credentials;

/** Fills `ret`; returns EVBUS_OK, or a status that makes this attempt fail. Runs on a thread of the bus; may block. */
typedef evbus_status (*evbus_credentials_fn)(evbus_credentials *ret, void *ctx);

/* ---- Options ----------------------------------------------------------------------------------------------------- */

/** A pointer to an option struct: EVBUS_OPTS(evbus_sub_opts, .group = "billing", .attempts_max = 3). C only. */
#define EVBUS_OPTS(type, ...) (&(type){.struct_size = sizeof(type), __VA_ARGS__})

typedef enum evbus_membership {
    EVBUS_EXCLUSIVE = 1, /* default: one member of the group handles a topic, the others stand by; order per aggregate
                                 holds. On nats:// members keep records in a stream of their own, made when missing */
    EVBUS_SHARED = 2     /* members share the load; no order across members */
} evbus_membership;

typedef enum evbus_start {
    EVBUS_START_ALL = 1, /* default for groups: a new durable gets what the stream still holds */
    EVBUS_START_NEW = 2  /* only what is published from now on */
} evbus_start;

/* How the broker is told that messages are done. The durable of a group is made for one of the two: subscribing with the
 * other is EVBUS_MISMATCH. */
typedef enum evbus_ack_mode {
    EVBUS_ACK_EACH = 1,    /* default: each message by itself */
    EVBUS_ACK_FRONTIER = 2 /* EXCLUSIVE members of a group: one ack for all up to the last message of the stream before
                              which every one is done. Far fewer acks; but one that is not done keeps all behind it
                              unacknowledged: at most inflight_max, then pulling stops (EVBUS_EVENT_STALLED), and after
                              a crash those are handled again. Ending, a member still handles what stands before
                              something that is done */
} evbus_ack_mode;

typedef enum evbus_overdue {
    EVBUS_OVERDUE_KEEP = 1,       /* default: report, keep the lease, wait for the handler */
    EVBUS_OVERDUE_DEAD_LETTER = 2 /* report and dead-letter; the verdict is ignored when it comes */
} evbus_overdue;

typedef enum evbus_waiting {
    EVBUS_WAITING_STALL = 1,      /* default: stop pulling until there is room again */
    EVBUS_WAITING_DEAD_LETTER = 2 /* dead-letter the failing aggregate's tail, in order */
} evbus_waiting;

/* What becomes of messages that were pulled and not started when evbus_unsubscribe takes their handler away. One that
 * has failed before is handed back in any case; shutdown always hands back. */
typedef enum evbus_unhandled {
    EVBUS_UNHANDLED_HAND_BACK = 1, /* default: the next subscriber of the group gets them */
    EVBUS_UNHANDLED_ACK = 2        /* acknowledge them, with a warning, EVBUS_EVENT_UNHANDLED and `unhandled`: nobody of
                                      this group handles them any more */
} evbus_unhandled;

/* What comes behind a message of the same aggregate that ended as a dead letter. Parked, it goes to the dead-letter topic
 * too, in order, with the cause "parked behind SEQUENCE/EVENT ID", as long as a letter of that aggregate and group lies there.
 * Redriven (in order: evbus dlq redrive), it is handled; when the last letter was redriven or dropped, the aggregate goes
 * on. Whoever becomes the active member reads what is parked before it handles anything. Parking is for EXCLUSIVE envelopes
 * only, and not with EVBUS_WAITING_DEAD_LETTER or EVBUS_UNHANDLED_ACK: else EVBUS_UNSUPPORTED. */
typedef enum evbus_tail {
    EVBUS_TAIL_PASS = 1, /* default: is handled */
    EVBUS_TAIL_PARK = 2
} evbus_tail;

typedef enum evbus_persistence {
    EVBUS_PERSIST_AUTO = 1, /* default: persistent if the broker can */
    EVBUS_PERSISTENT = 2,
    EVBUS_EPHEMERAL = 3 /* plain messages only, never stored by this bus's doing */
} evbus_persistence;

typedef enum evbus_storage { EVBUS_STORAGE_FILE = 1, EVBUS_STORAGE_MEMORY = 2 } evbus_storage;
typedef enum evbus_discard { EVBUS_DISCARD_OLD = 1, EVBUS_DISCARD_NEW = 2 } evbus_discard;
typedef enum evbus_switch { EVBUS_ON = 1, EVBUS_OFF = 2 } evbus_switch;

/* What a publish to a topic does while there is no connection, or nobody answers for the topic's stream (its gate is
 * closed). By default it is held without a connection, within the window and until its timeout_ms, and waits at a gate. */
typedef enum evbus_outage {
    EVBUS_OUTAGE_FAIL = 1, /* EVBUS_DISCONNECTED (or EVBUS_BACKPRESSURE at the gate) at once; nothing is accepted */
    EVBUS_OUTAGE_WAIT = 2, /* the call waits, up to timeout_ms, then fails like that; nothing is accepted */
    EVBUS_OUTAGE_HOLD = 3  /* accepted and held in memory, in order, up to outage_msgs_max and outage_bytes_max, for
                              outage_hold_ms; sent when the broker is back. Full: waits up to timeout_ms */
} evbus_outage;

typedef struct evbus_opts {
    size_t struct_size;
    const char *name; /* connection name and default consumer group; 1..64 of A-Z a-z 0-9 _ - */

    /* Connecting (nats://) */
    const char *user; /* what the URL does not say */
    const char *password;
    const char *token;
    const char *nkey_seed_file; /* file holding the seed (SU...) */
    const char *creds_file;     /* JWT and seed, as made by nsc */
    const char *tls_ca_file;    /* with tls:// or any tls_* option the connection must be TLS */
    const char *tls_cert_file;
    const char *tls_key_file;
    const char *tls_hostname; /* NULL: the URL's host */
    const char *js_domain;
    const char *js_api_prefix; /* NULL: "$JS.API" */
    const char *inbox_prefix;  /* NULL: "_INBOX" */
    evbus_credentials_fn credentials;
    void *credentials_ctx;
    uint32_t connect_timeout_ms; /* one attempt, and how long evbus_open waits; 0: 5000 */
    uint32_t reconnect_min_ms;   /* pause after the first failed attempt; grows by reconnect_factor_pct; 0: 20 */
    uint32_t reconnect_max_ms;   /* and no further than this; 0: 1000; at most 3600000 */
    uint32_t heartbeat_ms;       /* own heartbeat through our inbox; silence of 2.5 of them ends the session; 0: 2000 */

    /* Publishing */
    uint32_t publish_timeout_ms;             /* from acceptance to outcome; 0: 5000 */
    uint32_t publish_inflight_max;           /* accepted publishes without an outcome; 16..65536; 0: 4096 */
    uint64_t publish_bytes_max;              /* their bytes; 0: 4 MiB */
    evbus_publish_error_fn on_publish_error; /* refused and unknown publishes that have no receipt; NULL: counted and
                                                logged only */
    void *on_publish_error_ctx;

    /* Consuming */
    uint32_t workers_min;    /* 0: twice the cores */
    uint32_t workers_max;    /* 0: 512; at most 4096 */
    uint32_t worker_idle_ms; /* a worker above the minimum ends after this; 0: 10000 */
    uint32_t held_max;       /* messages pulled and not settled, all subscriptions; 0: 65536 */
    uint64_t held_bytes_max; /* their bytes; 0: 256 MiB */

    /* Topics and streams */
    uint32_t topics_max;         /* 0: 65536; usual dead-letter topics do not count */
    uint32_t lookup_retry_ms;    /* a failed stream look-up is remembered this long; 0: 1000 */
    const char *stream;          /* default stream for topics it covers; NULL: none */
    const char *stream_subjects; /* its subjects, separated by commas */

    /* mem:// only */
    uint64_t mem_bytes_max; /* all streams of the broker; publishing is refused beyond; 0: 1 GiB */
    evbus_clock *clock;     /* NULL: the system's; a virtual clock makes tests exact. Outlives the bus */

    /* Watching */
    evbus_log_fn log; /* NULL: silent */
    void *log_ctx;
    evbus_event_fn on_event;
    void *on_event_ctx;
    uint32_t log_level; /* evbus_log_level; 0: EVBUS_LOG_INFO */
    uint32_t
        member_ttl_ms; /* EXCLUSIVE groups on nats://: silence after which the active member's turn is over; the same in
                                     all members is best; 1000..600000; 0: 10000 */

    /* Receipts: receipts.h */
    uint32_t receipts;           /* evbus_switch: every evbus_publish_envelope ends in a receipt; 0: off */
    uint32_t receipts_max;       /* of one queue: promised and not taken yet; 16..1048576; 0: 8192 */
    uint32_t tenants_max;        /* registered, or unregistered with receipts left; 1..65536; 0: 1024 */
    uint32_t ack_workers;        /* threads that run on_receipt; 1..64; 0: 2 */
    evbus_receipt_fn on_receipt; /* takes all receipts of all queues; NULL: evbus_receipts_take does */
    void *on_receipt_ctx;

    /* Reconnecting (nats://; the connection of mem:// does not end): docs/supervision.md. An attempt tries every known
     * server once; the first begins at once when a session ends that was up for a second, else after a pause */
    uint32_t reconnect_attempts_max; /* failed in a row, then it gives up: all fails at once with EVBUS_DISCONNECTED
                                        until evbus_reconnect; 0 or EVBUS_FOREVER: it never does */
    uint32_t reconnect_factor_pct;   /* 100..10000: each pause is so much of the one before; 0: 200 */
    uint32_t reconnect_jitter_pct;   /* pauses are up to so much shorter, at most 100; 0: 50; EVBUS_NOWAIT: none */
    uint32_t reconnect_failures_max; /* so many failed ones in a row are EVBUS_EVENT_RECONNECT_FAILING; 0: 3 */
} evbus_opts;

typedef struct evbus_pub_opts {
    size_t struct_size;
    uint64_t tag;                /* echoed in the receipt */
    const evbus_header *headers; /* ends with a NULL name; names starting with "Nats-" or "Evbus-" are refused */
    const char *key;     /* plain messages: partition key, sent as header Evbus-Key; envelopes: their aggregate */
    uint32_t timeout_ms; /* waiting for room, and then for the outcome; 0: publish_timeout_ms;
                                    EVBUS_NOWAIT: do not wait for room (the outcome still gets publish_timeout_ms) */
    uint32_t receipt;    /* evbus_switch: this envelope ends in a receipt; 0: as evbus_opts.receipts. Not for plain
                                    messages and evbus_publish_envelope_wait, which returns it */
} evbus_pub_opts;

typedef struct evbus_sub_opts {
    size_t struct_size;
    const char *group;              /* NULL: evbus_opts.name; members of one group share one durable */
    const char *dead_letter_topic;  /* NULL: "dlq." and the topic (* and > as _; above 251 bytes cut, with a hash);
                                       with fanout NULL: none, what cannot be handled is dropped with an event */
    uint32_t membership;            /* evbus_membership */
    uint32_t start;                 /* evbus_start; ignored for a durable that exists */
    uint32_t ack_wait_ms;           /* 0: 30000 */
    uint32_t inflight_max;          /* pulled and not settled; 1..65536; 0: 1024 */
    uint64_t inflight_bytes_max;    /* their bytes; 0: 16 MiB */
    uint32_t attempts_max;          /* handler runs before the dead-letter topic; 0: 5; EVBUS_FOREVER: no limit */
    uint32_t retry_min_ms;          /* first pause; grows by retry_factor_pct each time, with jitter; 0: 100 */
    uint32_t retry_max_ms;          /* 0: 30000 */
    uint32_t handler_timeout_ms;    /* 0: 300000 */
    uint32_t on_overdue;            /* evbus_overdue */
    uint32_t waiting_max;           /* messages waiting behind failing heads; 0: half of inflight_max */
    uint32_t aggregate_waiting_max; /* of one aggregate; 0: an eighth of inflight_max */
    uint32_t on_waiting_full;       /* evbus_waiting */
    uint32_t deliveries_max;        /* deliveries without any verdict before the dead-letter topic; 0: 10 */
    uint32_t timeout_ms;            /* for the subscribe call itself; 0: 5000 */
    bool fanout;                    /* every subscriber gets every message from now on; no group, no durable */
    uint8_t reserved0[3];
    uint32_t retry_factor_pct;     /* 100..10000: each pause is so much of the one before; 0: 200 */
    const uint32_t *retry_list_ms; /* the pauses one by one instead, ends with 0, at most 32; the last is repeated; then
                                      attempts_max 0 is one run more than it has pauses */
    uint32_t retry_jitter_pct;     /* up to so much more or less, at most 100; 0: 20; EVBUS_NOWAIT: none */
    uint32_t rate_per_s;           /* handler runs a second, retries too; envelopes only; 0: no limit */
    uint32_t rate_burst;           /* so many at once after a rest; 0: 1 */
    uint32_t on_unhandled;         /* evbus_unhandled; envelopes of a group only */
    uint32_t tail;                 /* evbus_tail */
    uint32_t parked_max;           /* aggregates parked at a time; the next one's message stays and waits, with
                                      EVBUS_EVENT_DEAD_LETTER_FAILED; at most 8192; 0: 1024 */
    uint32_t breaker_failures; /* circuit breaker, see evbus_sub_breaker: so many runs in a row that ended in a retry or
                                      are overdue open it; envelopes only; 0: there is none */
    uint32_t breaker_open_ms;  /* then one message tries; at least 10; 0: 10000 */
    uint32_t ack_mode;         /* evbus_ack_mode */
    uint32_t progress_timeout_ms; /* none came, with room: repair; at least 100; 0: 30000; EVBUS_FOREVER: never */
} evbus_sub_opts;

typedef struct evbus_topic_opts {
    size_t struct_size;
    const char *stream;           /* NULL: by the stream rule. When read: NULL or valid until evbus_close */
    uint64_t max_age_ms;          /* 0: 7 days */
    uint64_t max_bytes;           /* 0: 1 GiB */
    uint64_t max_msgs;            /* 0: no limit */
    uint32_t persistence;         /* evbus_persistence */
    uint32_t storage;             /* evbus_storage; 0: file */
    uint32_t discard;             /* evbus_discard; 0: old */
    uint32_t replicas;            /* 0: 1 */
    uint32_t duplicate_window_ms; /* 0: 120000 */
    uint32_t msg_id;              /* evbus_switch: Nats-Msg-Id on envelopes; 0: on */
    uint32_t fallback;            /* evbus_switch: plain messages over core NATS when there is no stream; 0: on */
    uint32_t outage;              /* evbus_outage; 0: see there */
    uint64_t outage_bytes_max;    /* EVBUS_OUTAGE_HOLD; 0: half of publish_bytes_max, which bounds it too */
    uint32_t outage_msgs_max;     /* 0: half of publish_inflight_max, which bounds it too */
    uint32_t outage_hold_ms;      /* 0: publish_timeout_ms; EVBUS_FOREVER: until the broker is back or the bus ends */
    uint32_t rate_per_s;          /* publishes a second of this bus; more wait up to timeout_ms; 0: no limit */
    uint32_t rate_burst;          /* so many at once after a rest; 0: 1 */
} evbus_topic_opts;

/** For C++ (and C): sets struct_size and zeroes the rest. Threads: any. Blocks: no. */
EVBUS_API void evbus_opts_init(evbus_opts *opts);
EVBUS_API void evbus_pub_opts_init(evbus_pub_opts *opts);
EVBUS_API void evbus_sub_opts_init(evbus_sub_opts *opts);
EVBUS_API void evbus_topic_opts_init(evbus_topic_opts *opts);
EVBUS_API void evbus_receipt_init(evbus_receipt *receipt);

/* ---- Life -------------------------------------------------------------------------------------------------------- */

/**
 * Open a bus.
 *
 * @param url      mem://             a broker of this bus alone
 *                 mem://NAME         one broker for all opens of NAME in this process
 *                 nats://[user:password@ | token@]host[:4222][,host...]   (tls:// the same, over TLS)
 *                 fault+ in front of any of them, and ?seed=7&lost_ack=0.01&... behind: the same broker with faults from a
 *                 seed, for tests; the settings are in docs/faults.md
 * @param opts     NULL for defaults
 * @param ret_bus  written only on EVBUS_OK
 *
 * Threads: any.  Blocks: up to connect_timeout_ms for the first session.
 * Ownership: the caller owns the bus and ends it with evbus_close.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID       URL or option; the detail names it
 *          EVBUS_UNSUPPORTED   scheme not in this build; or an option this backend does not have
 *          EVBUS_DISCONNECTED  no server answered
 *          EVBUS_AUTH          a server refused the credentials
 *          EVBUS_TLS           certificate or handshake
 *          EVBUS_NOMEM, EVBUS_SYSTEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_open(const char *url, const evbus_opts *opts, evbus **ret_bus);

/** What shutdown left behind in one topic. */
typedef struct evbus_report_topic {
    char topic[256];
    uint64_t publishes_refused; /* accepted, never sent */
    uint64_t publishes_unknown; /* sent, no answer */
    uint64_t handed_back;       /* pulled, not started: the broker has them again */
    uint64_t plain_dropped;     /* plain messages pulled and not started: gone */
    uint64_t handlers_running;  /* still in their handler, or deferred and not settled */
    uint64_t unsettled;         /* finished, but the broker could not be told: it will deliver them again */
} evbus_report_topic;

#define EVBUS_REPORT_TOPICS 16

typedef struct evbus_report {
    size_t struct_size;
    evbus_status status; /* EVBUS_OK: everything ended in time; EVBUS_TIMEOUT: something was left */
    uint32_t elapsed_ms;
    evbus_report_topic total; /* topic is "" */
    uint32_t topics;          /* entries in topic[] */
    uint32_t topics_omitted;  /* further topics with something left */
    evbus_report_topic topic[EVBUS_REPORT_TOPICS];
} evbus_report;

/**
 * Stop accepting, hand back what was pulled and not started, let running handlers and publishes finish.
 *
 * @param timeout_ms  0: 10000; EVBUS_NOWAIT: what is done is done
 * @param ret_report  NULL if not wanted
 *
 * Threads: any, any number of times: the first call decides the deadline, all get the same answer. Not from a callback.
 * Blocks: up to timeout_ms.
 * Returns: EVBUS_OK       everything ended
 *          EVBUS_TIMEOUT  something was left; the report says what
 *          EVBUS_INVALID  called from a handler or callback, which would wait for itself
 *          EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_shutdown(evbus *bus, uint32_t timeout_ms, evbus_report *ret_report);

/**
 * Shut down if that was not done, then free. Once, with no other call running. NULL is fine.
 * A handler that still runs keeps the memory it needs until it returns; nothing is called after that. Receipts that
 * nobody took are gone, and logged.
 *
 * Threads: any but the bus's own.  Blocks: as evbus_shutdown(bus, 0, NULL).
 */
EVBUS_API void evbus_close(evbus *bus);

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

/**
 * Publish plain bytes. EVBUS_OK: accepted; a refusal by the broker is counted and goes to on_publish_error.
 *
 * @param topic  1..255 printable ASCII bytes, tokens separated by single dots, no space, no * and >
 * @param data   may be NULL when len is 0
 * @param opts   NULL for defaults
 *
 * Threads: any, concurrently; in handlers too. Messages of one thread to one topic keep their order.
 * Blocks: for room, up to timeout_ms; the first time for a topic, while its stream is looked up or made.
 * Ownership: `data` is copied.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID       topic, header or option; the detail says which
 *          EVBUS_TOO_LARGE     above the server's max payload or the window
 *          EVBUS_BACKPRESSURE  the window was full, or the topic's gate closed, for the whole time
 *          EVBUS_LIMIT         topics_max
 *          EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED, EVBUS_TIMEOUT, EVBUS_MISMATCH
 *                              the stream could not be ensured and the topic forbids the fallback
 *          EVBUS_DISCONNECTED  also: the bus gave up reconnecting (reconnect_attempts_max); at once, nothing is held
 *          EVBUS_CLOSED, EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_publish(evbus *bus, const char *topic, const void *data, size_t len,
                                                     const evbus_pub_opts *opts);

/**
 * Publish a domain event. EVBUS_OK: accepted, and it ends in exactly one outcome: stored, refused or unknown. With
 * receipts on that is exactly one receipt; off, the latter two are counted and go to on_publish_error. It is never
 * downgraded to an unstored message.
 *
 * Threads, Blocks, Ownership: as evbus_publish; with receipts on it also waits for room in its tenant's queue.
 * Returns: as evbus_publish; EVBUS_INVALID also names a wrong envelope field.
 *          EVBUS_BACKPRESSURE    also: receipts_max of the tenant's queue are promised or wait to be taken
 *          EVBUS_NOT_REGISTERED  with receipts on: the envelope's tenant_id is not registered; nothing was sent
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_publish_envelope(evbus *bus, const char *topic, const evbus_envelope *env,
                                                              const evbus_pub_opts *opts);

/**
 * Publish a domain event and wait for its outcome. With the message id on (the default) it is sent again after a
 * disconnect, until timeout_ms.
 *
 * @param ret  written on every return but EVBUS_INVALID, EVBUS_CLOSED, EVBUS_FORKED; may be NULL
 *
 * Threads: any, concurrently; in handlers too.  Blocks: up to timeout_ms.
 * Returns: EVBUS_OK       stored (or a duplicate of what is stored)
 *          EVBUS_UNKNOWN  sent, no answer; publish again with the receipt's event id
 *          otherwise      not stored: as evbus_publish
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_publish_envelope_wait(evbus *bus, const char *topic,
                                                                   const evbus_envelope *env,
                                                                   const evbus_pub_opts *opts, evbus_receipt *ret);

/**
 * Publish many domain events in one call: as evbus_publish_envelope for each, in order. The topic and its stream are
 * looked up once; opts->timeout_ms is for all of them together, and envelope i has the tag opts->tag + i.
 *
 * An envelope that is itself at fault (EVBUS_INVALID, EVBUS_TOO_LARGE, EVBUS_NOT_REGISTERED) hides nothing: the others
 * go on. Without room in a tenant's receipt queue, all further ones of that tenant get EVBUS_BACKPRESSURE and those of
 * other tenants go on. Any other status ends the call: the rest gets the same status, so that nothing overtakes.
 *
 * @param envs          `count` envelopes
 * @param opts          NULL for defaults
 * @param ret_statuses  `count` of them, required; written on every return but EVBUS_INVALID for a NULL argument
 * @param ret_accepted  how many are EVBUS_OK; may be NULL; written when ret_statuses is
 *
 * Threads, Blocks, Ownership: as evbus_publish_envelope.
 * Returns: EVBUS_OK   all were accepted (count may be 0)
 *          otherwise  the status of the first that was not; the detail begins with its number
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_publish_envelopes(evbus *bus, const char *topic,
                                                               const evbus_envelope *envs, size_t count,
                                                               const evbus_pub_opts *opts, evbus_status *ret_statuses,
                                                               size_t *ret_accepted);

/**
 * Would publishing refuse this event whatever the broker says? Checks topic, fields and payload without a bus and
 * without sending, for programs that store events first and publish them later.
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID  topic, a field or the payload breaks a rule; the detail says which
 *          EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_envelope_check(const char *topic, const evbus_envelope *env);

/* ---- Subscribing ------------------------------------------------------------------------------------------------- */

/**
 * Handle plain messages: at most once, in no order, on any worker.
 *
 * @param topic    as for publishing, or a pattern with * (one token) and > (the rest)
 * @param ret_sub  may be NULL; the subscription then lives until the bus closes
 *
 * Threads: any; in handlers too.  Blocks: up to opts->timeout_ms.
 * Returns: EVBUS_OK         bound: what is published from now on arrives
 *          EVBUS_INVALID    topic or option; on nats:// also: neither group, name nor fanout is set
 *          EVBUS_EXISTS     this bus has this topic in this group already
 *          EVBUS_NOT_FOUND  envelopes: a pattern that no existing stream covers (plain messages of such a pattern come
 *                           over core NATS, unless evbus_topic_opts.fallback forbids it)
 *          EVBUS_MISMATCH   the durable exists with other settings
 *          EVBUS_LIMIT, EVBUS_TIMEOUT, EVBUS_DISCONNECTED, EVBUS_DENIED, EVBUS_NO_JETSTREAM, EVBUS_REFUSED
 *          EVBUS_CLOSED, EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_subscribe(evbus *bus, const char *topic, evbus_handler fn, void *ctx,
                                                       const evbus_sub_opts *opts, evbus_sub **ret_sub);

/**
 * Handle domain events: at least once, in order per aggregate. A body that is no envelope goes to the dead-letter topic.
 * While another member of the (EXCLUSIVE) group is active, this one stands by: that is EVBUS_OK too, see
 * evbus_sub_active. EVBUS_DENIED also when the records of such members may not be kept; the detail says what to allow.
 * Everything else as evbus_subscribe.
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_subscribe_envelope(evbus *bus, const char *topic, evbus_handler fn,
                                                                void *ctx, const evbus_sub_opts *opts,
                                                                evbus_sub **ret_sub);

/**
 * End a subscription. No handler of it runs after this returns; from inside its own handler it takes effect when the
 * running handlers have returned. What was pulled and not started is handed back; the durable stays. Deferred messages
 * must have been settled: they are waited for. The handle is gone afterwards.
 *
 * Threads: any.  Blocks: until its running handlers have returned.
 * Returns: EVBUS_OK, EVBUS_INVALID (NULL), EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_unsubscribe(evbus_sub *sub);

/**
 * Is it this member's turn? Of an EXCLUSIVE group of envelopes one member is active, the others stand by until it ends,
 * dies or is cut off (docs/guarantees.md, G2). Every other subscription is active always.
 *
 * Threads: any, until evbus_unsubscribe or evbus_close.  Blocks: no.
 * Returns: true    its handlers may run
 *          false   it stands by; EVBUS_EVENT_ACTIVE tells when that ends. Also for NULL
 */
EVBUS_API bool evbus_sub_active(const evbus_sub *sub);

/**
 * Settle a message whose handler returns, or has returned, EVBUS_DEFER. Once; `msg` is gone afterwards.
 *
 * @param verdict  EVBUS_ACK, EVBUS_RETRY or EVBUS_REJECT
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_INVALID (NULL, EVBUS_DEFER, or settled already), EVBUS_FORKED
 */
EVBUS_API evbus_status evbus_msg_settle(const evbus_msg *msg, evbus_verdict verdict);

/** With EVBUS_RETRY: pause this long instead of the backoff. In the handler, or before settling. Blocks: no. */
EVBUS_API void evbus_msg_retry_after(const evbus_msg *msg, uint32_t ms);

/** Becomes the dead letter's cause, cut at 255 bytes. In the handler, or before settling. Blocks: no. */
EVBUS_API void evbus_msg_set_reason(const evbus_msg *msg, const char *text);

/* ---- Messages: valid in the handler, or until settled. Threads: the one that has the message. Block: no ---------- */

EVBUS_API evbus_view evbus_msg_data(const evbus_msg *msg);                /* the body as it was on the wire */
EVBUS_API const evbus_envelope *evbus_msg_envelope(const evbus_msg *msg); /* NULL on plain subscriptions */
EVBUS_API const char *evbus_msg_topic(const evbus_msg *msg);              /* the real topic, also for patterns */
EVBUS_API const char *evbus_msg_group(const evbus_msg *msg);              /* "" for fanout */
EVBUS_API const char *evbus_msg_stream(const evbus_msg *msg);             /* "" if not stored */
EVBUS_API uint64_t evbus_msg_sequence(const evbus_msg *msg);              /* in the stream; 0 if not stored */
EVBUS_API uint32_t evbus_msg_delivery_count(const evbus_msg *msg);        /* by the broker, from 1 */
EVBUS_API bool evbus_msg_redelivered(const evbus_msg *msg);               /* delivery count above 1 */
EVBUS_API uint32_t evbus_msg_attempt(const evbus_msg *msg);  /* run of the handler in this process, from 1 */
EVBUS_API int64_t evbus_msg_stored_ns(const evbus_msg *msg); /* Unix time at the broker; 0 if not stored */
EVBUS_API const char *evbus_msg_header(const evbus_msg *msg, const char *name); /* first value, or NULL */

/* ---- Topics ------------------------------------------------------------------------------------------------------ */

/**
 * Set a topic's options: how its stream is made if it has to be made, and how publishing behaves. An existing stream
 * is never changed; where it differs, EVBUS_EVENT_STREAM_DIFFERS says so.
 *
 * Threads: any.  Blocks: no (the stream is ensured at the next publish or subscribe).
 * Returns: EVBUS_OK, EVBUS_INVALID, EVBUS_UNSUPPORTED, EVBUS_LIMIT, EVBUS_CLOSED, EVBUS_FORKED, EVBUS_NOMEM
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_topic_configure(evbus *bus, const char *topic,
                                                             const evbus_topic_opts *opts);

/**
 * Read a topic's options, with every default filled in. Takes no lock.
 *
 * Threads: any.  Blocks: no.
 * Returns: EVBUS_OK, EVBUS_NOT_FOUND (never configured: ret_opts holds the defaults), EVBUS_INVALID, EVBUS_FORKED
 */
EVBUS_API EVBUS_NODISCARD evbus_status evbus_topic_config(evbus *bus, const char *topic, evbus_topic_opts *ret_opts);

/* ---- Virtual time: for tests on mem:// --------------------------------------------------------------------------- */

/** A clock that stands still until advanced; it starts at `start_ns` (Unix time). NULL when out of memory. */
EVBUS_API evbus_clock *evbus_clock_new(int64_t start_ns);

/** Moves time forward; buses on this clock notice at once. Threads: any. Blocks: no. */
EVBUS_API void evbus_clock_advance(evbus_clock *clock, uint64_t ms);

/** Frees the clock; no bus may use it any more. NULL is fine. */
EVBUS_API void evbus_clock_free(evbus_clock *clock);

#ifdef __cplusplus
}
#endif

#include <evbus/receipts.h>
#include <evbus/stats.h>
#include <evbus/watch.h>

#endif
