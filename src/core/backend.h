/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seam between the core and a broker. The core owns order, attempts, outcomes and time; a backend owns bytes and
 * the broker's protocol. Only core/backend_table.c names the backends.
 *
 * Threads. Each bus has one loop thread. Functions marked [loop] run on it and never block, never allocate per message
 * after warm-up, never call user code. Functions marked [any] run on application or housekeeping threads, may block up
 * to their deadline, and may run while [loop] functions run. ev_host_* functions say the same of themselves.
 */
#ifndef EV_CORE_BACKEND_H
#define EV_CORE_BACKEND_H

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EV_NAME_MAX 256 /* a subject, stream or consumer name with its NUL */

struct ev_host;   /* whom a backend reports to: the core, or a backend that wraps it; see below */
struct evbus_sub; /* a subscription of the core: backends pass it back, nothing else */

/* ---- What goes out ------------------------------------------------------------------------------------------------ */

/* Headers in one block: for each "name: value\r\n", no blank line at the end. Never seen by the JSON codec. */
struct ev_record {
    const char *topic; /* NUL-terminated */
    const void *data;
    size_t len;
    const char *headers; /* block as above, NUL-terminated; NULL if none */
    size_t headers_len;
    const char *msg_id; /* Nats-Msg-Id; NULL: none */
    uint32_t slot;      /* with `generation` the address of the answer; only when want_ack */
    uint32_t generation;
    bool want_ack;
};

/* The broker's answer to a publish. */
struct ev_ack {
    evbus_outcome
        outcome; /* STORED or REFUSED; UNKNOWN: the broker has its message id, and neither stored nor refused it yet. No
                    answer is the core's business */
    bool duplicate;
    bool no_responders;  /* REFUSED: nobody listens on the subject now (503); it may pass */
    bool id_unread;      /* REFUSED: before anybody looked whether its message id is stored: an earlier send may be */
    bool stream_missing; /* REFUSED: the stream is gone or does not cover the topic: ensure it again */
    evbus_status
        status; /* REFUSED: EVBUS_REFUSED, EVBUS_NO_JETSTREAM, EVBUS_DENIED, EVBUS_TOO_LARGE, EVBUS_LIMIT ... */
    uint32_t broker_code;
    uint64_t sequence;
    const char *stream; /* not NUL-terminated */
    size_t stream_len;
    const char *text; /* REFUSED: not NUL-terminated */
    size_t text_len;
};

enum ev_sent {
    EV_SENT,        /* the bytes are copied and will leave in order, or the link goes down */
    EV_SEND_LATER,  /* the output buffer is full: offer it again next turn */
    EV_SEND_REFUSED /* it can never leave (too large for the server): ev_detail() says why, `ret_status` too */
};

/* ---- What comes in ------------------------------------------------------------------------------------------------ */

/* One delivery. All pointers stay valid until ops->release(token). */
struct ev_delivery {
    struct evbus_sub *sub;
    const char *topic; /* NUL-terminated */
    const void *data;
    size_t len;
    uint64_t stream_seq; /* 0: not stored (core NATS) */
    uint64_t consumer_seq;
    uint32_t delivery_count; /* from 1 */
    int64_t stored_ns;       /* Unix time at the broker; 0: none */
    uint64_t pending;        /* what the broker still has for this consumer */
    void *token;             /* the backend's handle */
    bool settled;            /* the broker itself says so, and takes no word on it: not to be run */
};

enum ev_settle {
    EV_SETTLE_ACK,
    EV_SETTLE_NAK,   /* deliver again, after delay_ns; 0: at once */
    EV_SETTLE_TERM,  /* never again (after a dead letter was stored) */
    EV_SETTLE_EXTEND /* still working: the ack wait starts anew */
};

/* How much of a subscription the core has room for. Outstanding pulls count against it. */
struct ev_room {
    uint32_t msgs;
    uint64_t bytes;
};

/* ---- Administration ----------------------------------------------------------------------------------------------- */

struct ev_stream_cfg {
    char name[EV_NAME_MAX];
    const char *const *subjects; /* subject_count of them, NUL-terminated */
    uint32_t subject_count;
    uint64_t max_age_ns; /* 0: no limit */
    uint64_t max_bytes;  /* 0: no limit */
    uint64_t max_msgs;   /* 0: no limit */
    uint64_t duplicate_window_ns;
    evbus_storage storage;
    evbus_discard discard;
    uint32_t replicas;
};

struct ev_stream_info {
    char name[EV_NAME_MAX];
    bool covers; /* a subject of it covers the asked topic or pattern whole */
    uint64_t max_age_ns, max_bytes, max_msgs, duplicate_window_ns; /* 0: no limit */
    evbus_storage storage;
    evbus_discard discard;
    uint32_t replicas;
    uint64_t msgs, bytes, first_seq, last_seq;
    char created[40]; /* an opaque identity: differs when the stream was deleted and made again */
};

/* A stored message, read by its sequence; free `memory` with ev_free. */
struct ev_stored {
    char topic[EV_NAME_MAX];
    uint64_t seq;
    int64_t stored_ns;
    const void *data;
    size_t len;
    const char *headers; /* a block as in ev_record, NUL-terminated; "" if none */
    size_t headers_len;
    void *memory;
};

/* What the account uses and may use; maxima: 0 is no limit. */
struct ev_account {
    uint64_t streams, streams_max, consumers, consumers_max;
    uint64_t memory, memory_max, storage, storage_max; /* bytes */
};

/* What there is to know of a consumer. */
struct ev_consumer_state {
    char stream[EV_NAME_MAX], name[EV_NAME_MAX];
    char filter[EV_NAME_MAX]; /* "": none */
    bool durable;
    bool ack_explicit;      /* or all: false: nothing is settled */
    uint64_t pending;       /* stored and not delivered */
    uint64_t ack_pending;   /* delivered and not settled */
    uint64_t redelivered;   /* of those, more than once */
    uint64_t waiting;       /* pulls open, of all members; 0: nobody takes */
    uint64_t delivered;     /* deliveries ever */
    uint64_t floor_seq;     /* stream sequence: all up to there are settled, or were never its */
    uint64_t delivered_seq; /* stream sequence of the last that was delivered to anybody */
};

/* Everything a consumer is made of; the core fills it from the subscription. */
struct ev_consumer_cfg {
    char stream[EV_NAME_MAX];
    char name[EV_NAME_MAX]; /* ends with 16 hex digits: `id` */
    uint64_t id;
    const char *filter; /* topic or pattern */
    bool durable;       /* false: ephemeral, removed by the broker when unused */
    bool deliver_new;
    bool ack_explicit; /* false: ack none (plain) */
    bool ack_all;   /* with ack_explicit, of exclusive ones: an ack settles all below it too. Settled by settle_seq, and
                          only when ev_host_certain says so; never by EV_SETTLE_ACK or TERM of one message */
    bool exclusive; /* one active member at a time, the others stand by: nothing is delivered before
                                    ev_host_active; what the broker delivered and nobody here holds is asked for again
                                    (the gap rule, design 8) */
    int64_t ack_wait_ns;
    uint32_t ack_pending_max;
};

/* ---- The table ---------------------------------------------------------------------------------------------------- */

struct ev_url {
    const char *scheme; /* "mem", "nats", "tls" */
    const char *rest;   /* after "://" */
    const char *full;
};

struct ev_backend_ops {
    const char *scheme;
    size_t state_size;   /* the core allocates and zeroes it */
    bool group_optional; /* nobody outside this process can be in a group by mistake: it needs no name */

    /* Life. open [any]: parse, allocate, start own threads; must not wait for a session (the core waits for
     * ev_host_link_up or ev_host_connect_failed). shut [loop]: write what is buffered within ~50 ms, close; no
     * deliveries, answers or link calls after. fini [any]: after the loop thread ended; joins own threads, frees; safe
     * after a failed open. */
    evbus_status (*open)(void *state, const struct ev_url *url, const evbus_opts *opts, struct ev_host *host);
    void (*shut)(void *state);
    void (*fini)(void *state);

    /* The loop. turn: bounded I/O progress; calls ev_host_* for what came in; true if anything happened. wait: sleep
     * until I/O, wake() or the deadline (bus clock). due: when turn() must run again without I/O, EV_NEVER if not.
     * wake [any]: makes wait return; cheap when the loop is awake is the core's business. */
    bool (*turn)(void *state, int64_t now);      /* [loop] */
    int64_t (*due)(void *state);                 /* [loop] */
    void (*wait)(void *state, int64_t deadline); /* [loop] */
    void (*wake)(void *state);                   /* [any] */

    /* Publishing. unsent_after: true if bytes of the record sent as number `mark` (see sent_mark) may still be in this
     * process; drop_link: end the session now, so that they never leave. */
    enum ev_sent (*send)(void *state, const struct ev_record *record, evbus_status *ret_status); /* [loop] */
    uint64_t (*sent_mark)(void *state);               /* [loop] bytes appended */
    bool (*unsent_after)(void *state, uint64_t mark); /* [loop] */
    void (*drop_link)(void *state, const char *why);  /* [loop] */
    void (*reconnect)(void *state);                   /* [loop] try now, and count attempts anew; may be up */
    uint64_t (*max_payload)(void *state);             /* [any] 0: no limit */

    /* Streams: one request each. stream_covering: the stream whose subjects cover `subject`; EVBUS_NOT_FOUND only when
     * the broker said so. stream_add: adds a subject by read-modify-write with re-read; EVBUS_EXISTS if covered. */
    evbus_status (*stream_covering)(void *state, const char *subject, struct ev_stream_info *ret,
                                    int64_t deadline); /* [any] */
    evbus_status (*stream_info)(void *state, const char *stream, const char *subject, struct ev_stream_info *ret,
                                int64_t deadline);                                                      /* [any] */
    evbus_status (*stream_create)(void *state, const struct ev_stream_cfg *cfg, int64_t deadline);      /* [any] */
    evbus_status (*stream_add)(void *state, const char *stream, const char *subject, int64_t deadline); /* [any] */

    /* Single messages of a stream. msg_get: the first one at or behind `from` whose topic `filter` (a topic or pattern)
     * covers; EVBUS_NOT_FOUND: none, or no such stream. msg_delete: takes one out; EVBUS_NOT_FOUND: it is not there. */
    evbus_status (*msg_get)(void *state, const char *stream, const char *filter, uint64_t from, struct ev_stored *ret,
                            int64_t deadline);                                                   /* [any] */
    evbus_status (*msg_delete)(void *state, const char *stream, uint64_t seq, int64_t deadline); /* [any] */

    /* consumer_state: one consumer by its name. consumers: all of the streams that share a message with `subject` (or
     * pattern), in an array for ev_free; NULL and 0 if there are none. */
    evbus_status (*consumer_state)(void *state, const char *stream, const char *name, struct ev_consumer_state *ret,
                                   int64_t deadline); /* [any] */
    evbus_status (*consumers)(void *state, const char *subject, struct ev_consumer_state **ret, uint32_t *ret_count,
                              int64_t deadline);                                    /* [any] */
    evbus_status (*account)(void *state, struct ev_account *ret, int64_t deadline); /* [any] */

    /* Consumers. bind [any]: create the consumer or compare the existing one (EVBUS_MISMATCH names the field; what the
     * broker allows to update is updated); *ret_binding is the backend's object. bind_core [any]: plain messages
     * without a stream (core NATS); cfg NULL. attach [loop]: start. fence [any]: waits until the
     * broker knows of all that was attached before. detach [loop]: stop pulling; what is under way still
     * comes through ev_host_deliver; then ev_host_quiet once, and nothing after it. It may be called inside detach.
     * Ephemeral consumers are removed. leave [loop]: all of it is settled or handed back, nothing more will be said: when
     * the broker has worked that off and the next member may be active, ev_host_left, perhaps within. unbind [any]: free; after left, or never detached. want [loop]: the room changed, or the link is up again;
     * the backend pulls as it sees fit. Each delivery uses up one message of the room until the next want. */
    evbus_status (*bind)(void *state, struct evbus_sub *sub, const struct ev_consumer_cfg *cfg, void **ret_binding,
                         int64_t deadline);
    evbus_status (*bind_core)(void *state, struct evbus_sub *sub, const char *subject, const char *queue,
                              void **ret_binding);
    void (*attach)(void *state, void *binding);
    evbus_status (*fence)(void *state, int64_t deadline); /* [any] */
    void (*detach)(void *state, void *binding);
    void (*leave)(void *state, void *binding);
    void (*unbind)(void *state, void *binding);
    void (*want)(void *state, void *binding, struct ev_room room);
    /* Nothing comes although something must: what was asked for is forgotten, and asked for anew. */
    void (*rearm)(void *state, void *binding); /* [loop] */
    /* Since when nothing has come although something must have: a heartbeat of the consumer, or with binding NULL our own
     * through the broker. EV_NEVER: all is well. Not before bind's link, and not for plain core subscriptions. */
    int64_t (*silent_since)(void *state, void *binding); /* [loop] */

    /* Deliveries. settle: true when the broker was told (copied), false when there is no link: the core tries again
     * after ev_host_link_up; it never blocks. replace: `token` was delivered again as `newer`: settle uses the newer
     * address; the newer token is released by the backend. release: the core is done with the bytes.
     * header: first value of a header, NULL if absent; called by the thread that has the message. headers: all of
     * them as a block (see ev_record), into a buffer; returns the length needed. */
    bool (*settle)(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns); /* [loop] */
    /* ack_all, by sequence. ACK: it and all below; `consumer_seq` as core/frontier.h says. NAK, EXTEND: it alone. */
    bool (*settle_seq)(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq,
                       uint64_t consumer_seq);                          /* [loop] */
    void (*replace)(void *state, void *token, void *newer);             /* [loop] */
    void (*release)(void *state, void *token);                          /* [loop] */
    const char *(*header)(void *state, void *token, const char *name);  /* [any] */
    size_t (*headers)(void *state, void *token, char *buf, size_t cap); /* [loop] */
};

/* ---- What a backend may call -------------------------------------------------------------------------------------- */

/* The link: up means send() works. A link goes down with everything that was sent and not answered. [loop] */
void ev_host_link_up(struct ev_host *host);
void ev_host_link_down(struct ev_host *host, evbus_status cause, const char *text);
/* An attempt to connect begins; after the first session they are counted. [any] */
void ev_host_connecting(struct ev_host *host);
/* The next attempt begins at `next`; `failed`: the one before has failed, all servers were tried. EV_NEVER: none does before
 * ops->reconnect, as many failed in a row as evbus_opts allow. [any]; EV_NEVER: [loop] */
void ev_host_next_attempt(struct ev_host *host, bool failed, int64_t next);
/* A server could not be connected to. EVBUS_AUTH and EVBUS_TLS end a waiting evbus_open. [any] */
void ev_host_connect_failed(struct ev_host *host, evbus_status status, const char *text);

/* The answer to a record sent with want_ack; stale generations are ignored. [loop] */
void ev_host_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack);
/* The broker refused a publish on `topic` for missing permissions, without saying which one. [loop] */
void ev_host_publish_denied(struct ev_host *host, const char *topic, const char *text);

/* A delivery; the core now owns the token until it calls release. False: no memory; the backend still owns it and must
 * hand it back to the broker. [loop] */
bool ev_host_deliver(struct ev_host *host, const struct ev_delivery *delivery);
/* After leave: whoever comes next finds what was settled settled, and what was handed back in its order. [loop] */
void ev_host_left(struct ev_host *host, struct evbus_sub *sub);
/* Is this sequence here, delivered and not settled? For a backend that looks for what the broker delivered and nobody has:
 * what was settled here may come again, it is acked again and not run. [loop] */
bool ev_host_holds(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq);
/* All up to there is settled: if it comes again, the broker has lost what it knew. Exclusive ones, when their turn begins
 * and whenever the broker was asked what it has delivered; its count of deliveries need not fit the one before. [loop] */
void ev_host_floor(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq);
/* What the broker delivered before and nobody has will come in any order: while on, messages are put in the order of
 * the stream and none starts. [loop] */
void ev_host_gather(struct ev_host *host, struct evbus_sub *sub, bool on);
/* While it gathers, and nothing is pulled: is there room for what the broker delivered and is not here? If not (true), what is
 * here and was not started is let go, and is not here any more: the backend asks for it together with what is missing, and
 * all of it comes in the order of the stream. What stays was started, so nothing needs be gathered. [loop] */
struct ev_missing {
    uint64_t first, last, pending; /* the broker holds so many in first..last as delivered and unsettled */
    bool beyond;                   /* and lacks what it does not know to have been delivered: one must come at least */
    bool certainly;                /* there is no room, as was seen */
};
bool ev_host_let_go(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing);
/* ack_all. Certain: all that the broker delivered and holds as unsettled was handed to the core, and what follows is handed
 * over without a gap, until said otherwise (NULL). Before the first call it is not. [loop] */
struct ev_certainty {
    uint64_t consumer_seq; /* the broker's count of the last of it */
    uint64_t floor_seq;    /* ... of the last ack it took; 0: it does not count them */
    int64_t made_ns;       /* when the consumer was made: who was made anew counts from the beginning */
    bool exact;            /* it took no ack above `consumer_seq`; else the two may be late */
};
void ev_host_certain(struct ev_host *host, struct evbus_sub *sub, const struct ev_certainty *certain);
/* ack_all. The count of an ack that the backend sends by itself, below all that is here; `consumer_seq` was delivered, `floor_seq`
 * is the count of the last ack that the broker is known to have taken. 0: not known. [loop] */
uint64_t ev_host_count_below(struct ev_host *host, struct evbus_sub *sub, uint64_t consumer_seq, uint64_t floor_seq);
/* This message was settled here and is not here any more, however the broker counts it. [loop] */
bool ev_host_settled(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq, int64_t stored_ns);
/* ack_all. All that the broker holds as delivered and unsettled lies in first..last: how many of them the core has. [loop] */
uint32_t ev_host_unsettled(struct ev_host *host, struct evbus_sub *sub, uint64_t first, uint64_t last);
/* After detach: nothing more comes for this subscription. [loop] */
void ev_host_quiet(struct ev_host *host, struct evbus_sub *sub);
/* The consumer is gone, changed or unusable; the core binds again on the housekeeping thread. [loop] */
void ev_host_consumer_lost(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text);
/* Nothing is heard of its consumer, and the backend asks anew by itself (silent_since); or it is heard again. [loop] */
void ev_host_silent(struct ev_host *host, struct evbus_sub *sub, bool silent, const char *text);
/* The consumer's delivery counter moved by deliveries that were not ours. [loop] */
void ev_host_foreign(struct ev_host *host, struct evbus_sub *sub, uint64_t count);

/* This exclusive subscription is the active member, or not: at the end of that, what is here and not settled is the next
 * one's. Until the first call it waits. [loop] */
void ev_host_active(struct ev_host *host, struct evbus_sub *sub, bool active);
/* Until when active subscriptions may start handlers and settle, by the bus's clock; a time that has passed suspends
 * them until it is set anew. EV_NEVER (for ever) until the first call. [loop] */
void ev_host_rights(struct ev_host *host, int64_t until);

const evbus_clock *ev_host_clock(struct ev_host *host); /* [any] NULL: system */
const struct ev_log *ev_host_log(struct ev_host *host); /* [any] */
/* An event for on_event, with its one log line. Strings are copied; NULL means "". [any] */
void ev_host_event(struct ev_host *host, evbus_event_kind kind, evbus_status status, const char *topic,
                   const char *text);

/* ---- A backend around another one (backend/fault.c) --------------------------------------------------------------- */

/* What the inner backend reports goes to the wrapper first; the rest (clock, log, events ...) goes to the core at once.
 * The wrapper passes on what it wants to `host->outer`, by the ev_host_* functions above and under their rules. */
struct ev_host_tap {
    void (*link_up)(struct ev_host *host);
    void (*link_down)(struct ev_host *host, evbus_status cause, const char *text);
    void (*acked)(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack);
    bool (*deliver)(struct ev_host *host, const struct ev_delivery *delivery);
    bool (*holds)(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq);
    uint32_t (*unsettled)(struct ev_host *host, struct evbus_sub *sub, uint64_t first, uint64_t last);
    void (*gather)(struct ev_host *host, struct evbus_sub *sub, bool on);
    bool (*let_go)(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing);
    void (*active)(struct ev_host *host, struct evbus_sub *sub, bool active);
    void (*quiet)(struct ev_host *host, struct evbus_sub *sub);
    void (*consumer_lost)(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text);
};

/* Embedded in the bus (tap NULL) and in the state of a wrapper, which hands it to its inner backend's open. */
struct ev_host {
    const struct ev_host_tap *tap;
    struct ev_host *outer;
};

/* Implemented by the backends, named by core/backend_table.c. */
const struct ev_backend_ops *ev_backend_find(const char *scheme);

#endif
