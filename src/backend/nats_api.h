/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JetStream in text: what nats-server answers and what it wants to be asked. No I/O, no libnats, no state.
 *
 * Two halves. The parsers of the hot path (PubAck, ack subject, pull status: nats_wire.c) are written by hand and
 * allocate nothing; they read strangers' bytes and are fuzzed. The administration half (nats_api.c, nats_message.c) uses jansson and
 * runs a few times per topic.
 * Checked by tests/unit/test_nats_api.c and tests/fuzz/fuzz_nats_api.c. Threads: any.
 */
#ifndef EV_BACKEND_NATS_API_H
#define EV_BACKEND_NATS_API_H

#include "backend/nats_lease.h"
#include "core/backend.h"

/* ---- Wire: no allocation ----------------------------------------------------------------------------------------- */

/* The server's error numbers that mean something to us (err_code; the HTTP-like `code` says too little). */
enum ev_nats_err {
    EV_NATS_ERR_ACCOUNT_LIMIT = 10002,
    EV_NATS_ERR_CLUSTER_NOT_READY = 10008,
    EV_NATS_ERR_CONSUMER_CREATE = 10012, /* also: "... can not be updated" */
    EV_NATS_ERR_CONSUMER_EXISTS = 10013,
    EV_NATS_ERR_CONSUMER_NOT_FOUND = 10014,
    EV_NATS_ERR_RESOURCES = 10023,
    EV_NATS_ERR_CONSUMERS_MAX = 10026,
    EV_NATS_ERR_STREAMS_MAX = 10027,
    EV_NATS_ERR_MEMORY = 10028,
    EV_NATS_ERR_NO_MESSAGE = 10037,
    EV_NATS_ERR_NOT_ENABLED_ACCOUNT = 10039,
    EV_NATS_ERR_STORAGE = 10047,
    EV_NATS_ERR_STREAM_INVALID = 10052, /* also: "stream configuration update can not change ..." */
    EV_NATS_ERR_MESSAGE_TOO_LARGE = 10054,
    EV_NATS_ERR_STREAM_NAME_TAKEN = 10058,
    EV_NATS_ERR_STREAM_NOT_FOUND = 10059,
    EV_NATS_ERR_STREAM_NOT_EXPECTED = 10060,
    EV_NATS_ERR_SUBJECTS_OVERLAP = 10065,
    EV_NATS_ERR_WRONG_LAST_MSG_ID = 10070,
    EV_NATS_ERR_WRONG_LAST_SEQUENCE = 10071,
    EV_NATS_ERR_REPLICAS = 10074,
    EV_NATS_ERR_SEQUENCE_NOT_FOUND = 10043,
    EV_NATS_ERR_NOT_ENABLED = 10076,
    EV_NATS_ERR_STORE_FAILED = 10077, /* a limit with discard new, or the disk */
    EV_NATS_ERR_FILTER_OUTSIDE = 10093,
    EV_NATS_ERR_HEADER_TOO_LARGE = 10097,
    EV_NATS_ERR_SEALED = 10109,
    EV_NATS_ERR_STREAM_OFFLINE = 10118,
    EV_NATS_ERR_CONSUMER_OFFLINE = 10119,
    EV_NATS_ERR_CONSUMER_DIFFERS = 10148, /* 2.10: "consumer already exists" with another configuration */
    EV_NATS_ERR_ID_UNDER_WAY = 10158      /* 2.11: its message id is taken in, and not stored yet */
};

/*
 * A PubAck, or the error of any JetStream answer: both are one JSON object. False: it is neither; *ret is then all
 * zero. Key order, unknown keys and nesting are free (up to 32 deep), the JSON itself is not.
 *
 * The leader of a stream with replicas notes a message id when it proposes the message, with sequence 0, and the sequence when
 * it is stored. Asked again in between, it answers sequence 0 and "duplicate" (2.10) or an error of its own (2.11): UNKNOWN.
 * If what it proposed was lost in an election, 2.10 goes on answering that until the duplicate window is over.
 */
bool ev_nats_parse_puback(const char *json, size_t len, struct ev_ack *ret);

/* Our status for an error of theirs. */
evbus_status ev_nats_error_status(uint32_t err_code, const char *text, size_t len);

/* An ack subject: $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<n>.<sseq>.<cseq>.<time>.<pending>[.<x>] */
struct ev_nats_ackref {
    const char *stream, *consumer; /* into the subject */
    size_t stream_len, consumer_len;
    uint64_t id; /* the 16 hex digits the consumer's name ends with; 0: it has none */
    uint64_t stream_seq, consumer_seq, pending;
    uint32_t delivered; /* from 1 */
    int64_t stored_ns;
};

/* False: not an ack subject; *ret is then undefined. */
bool ev_nats_parse_ackref(const char *subject, struct ev_nats_ackref *ret);

/* What a status message on a pull's inbox asks for. */
enum ev_nats_status {
    EV_NATS_ST_HEARTBEAT,   /* 100: alive */
    EV_NATS_ST_ENDED,       /* 404, 408, 409 batch completed, server shutdown: ask again */
    EV_NATS_ST_SIZE,        /* 409: the next message is larger than what is left of max_bytes */
    EV_NATS_ST_BATCH_MAX,   /* 409: ask for fewer */
    EV_NATS_ST_BYTES_MAX,   /* 409: ask for fewer bytes */
    EV_NATS_ST_EXPIRES_MAX, /* 409: ask for a shorter time */
    EV_NATS_ST_BUSY,        /* 409 exceeded MaxWaiting, 503, and whatever we do not know: ask again later */
    EV_NATS_ST_LEADER,      /* 409: another server answers for the consumer now */
    EV_NATS_ST_BAD_REQUEST, /* 400: our request does not suit this server */
    EV_NATS_ST_GONE,        /* 409: consumer deleted */
    EV_NATS_ST_CHANGED      /* 409: it is a push consumer now */
};

/* `code` and `text` as in "NATS/1.0 409 Consumer Deleted"; text may be NULL. */
enum ev_nats_status ev_nats_status_of(uint32_t code, const char *text);

/* The payload of a pull; max_bytes 0: no limit. Returns the length (without the NUL). */
#define EV_NATS_PULL_MAX 160
size_t ev_nats_pull_request(char out[EV_NATS_PULL_MAX], uint32_t batch, uint64_t max_bytes, int64_t expires_ns,
                            int64_t heartbeat_ns);

/* The payload that settles: "+ACK", "-NAK", "-NAK {"delay":n}", "+TERM", "+WPI". Returns the length. */
#define EV_NATS_VERB_MAX 48
size_t ev_nats_verb(char out[EV_NATS_VERB_MAX], enum ev_settle verb, int64_t delay_ns);

/* ---- Administration: jansson ------------------------------------------------------------------------------------- */

struct json_t;

/* Requests are NUL-terminated, to be freed with ev_free; NULL: out of memory. */
char *ev_nats_json_text(struct json_t *root); /* takes over `root`, which may be NULL */
char *ev_nats_names_request(const char *subject, uint64_t offset);
char *ev_nats_stream_request(const struct ev_stream_cfg *cfg);
/* A new consumer: servers from 2.10 on refuse one that exists with other settings; 2.9 would change it. */
char *ev_nats_consumer_request(const struct ev_consumer_cfg *cfg);
/* An ephemeral consumer that shows the sequences of what `filter` matches, from `first` on, without the bodies. */
char *ev_nats_lister_request(const char *stream, const char *name, const char *filter, uint64_t first);
#define EV_NATS_MAX_WAITING 512            /* pulls open at a time, all members together */
#define EV_NATS_INACTIVE_NS (300 * EV_SEC) /* an ephemeral consumer nobody pulls from lives this long */

/* The body of an update that adds `subject` to the stream described by a STREAM.INFO answer; every other field, also
 * those this version does not know, is kept. EVBUS_EXISTS if a subject covers it already. */
evbus_status ev_nats_stream_add_request(const char *json, size_t len, const char *subject, char **ret_request);

/* The body that gives an existing consumer, described by a CONSUMER.INFO answer, our ack wait and ack pending. */
evbus_status ev_nats_consumer_update_request(const char *json, size_t len, const struct ev_consumer_cfg *cfg,
                                             char **ret_request);

/* The error number in an answer; 0: it has none. */
uint32_t ev_nats_error_code(const char *json, size_t len);

/* Any answer: EVBUS_OK, or the error in it. `what` names the object for people: "stream 'orders'". */
evbus_status ev_nats_parse_answer(const char *json, size_t len, const char *what);

/* The status of an error number, and the sentence for it in ev_detail(). */
evbus_status ev_nats_api_fail(uint32_t err_code, const char *what, const char *text);

/* Names of one page. A name longer than 255 bytes ends in EVBUS_UNSUPPORTED. */
#define EV_NATS_NAMES_MAX 16u
struct ev_nats_names {
    char names[EV_NATS_NAMES_MAX][EV_NAME_MAX];
    uint32_t count; /* in `names`; the page may have had more */
    uint64_t total; /* on the server */
};
evbus_status ev_nats_parse_names(const char *json, size_t len, const char *what, struct ev_nats_names *ret);

/* `subject`: what `covers` is asked for; NULL: nothing. */
evbus_status ev_nats_parse_stream(const char *json, size_t len, const char *what, const char *subject,
                                  struct ev_stream_info *ret);

/* STREAM.MSG.GET: the first message from `from` on that `filter` covers; and its answer, in one block of memory. */
char *ev_nats_get_request(const char *filter, uint64_t from);
evbus_status ev_nats_parse_message(const char *json, size_t len, const char *what, struct ev_stored *ret);
/* STREAM.MSG.DELETE, without overwriting its bytes on disk. */
char *ev_nats_delete_request(uint64_t seq);

/* A page of CONSUMER.LIST, or one CONSUMER.INFO (`one`), behind what is in the array already; it grows. */
struct ev_nats_states {
    struct ev_consumer_state *items;
    uint32_t count, page; /* page: how many this answer brought */
    uint64_t total;       /* of the stream, on the server */
};
char *ev_nats_list_request(uint64_t offset);
evbus_status ev_nats_parse_states(const char *json, size_t len, const char *what, bool one, struct ev_nats_states *to);

/* The answer to INFO. */
evbus_status ev_nats_parse_account(const char *json, size_t len, struct ev_account *ret);

/* An existing consumer, as far as it matters here. */
struct ev_nats_consumer {
    char filter[EV_NAME_MAX]; /* "": none; several are joined with ", " */
    char ack[16], replay[16];
    char push[EV_NAME_MAX]; /* deliver subject; "": a pull consumer */
    bool headers_only, durable;
    bool clustered; /* its server is one of several: deliveries may come through others, and be lost there */
    uint32_t filters;
    int64_t ack_wait_ns, max_deliver, ack_pending_max;
    uint64_t delivered_seq, delivered_stream_seq; /* of the last delivery: the consumer's own count, the stream's */
    uint64_t floor_seq, floor_stream_seq;         /* all up to there are settled */
    int64_t floor_ns;                             /* the server's time of the last ack; 0: it does not say */
    int64_t made_ns;                              /* when it was made; 0: it does not say */
    uint64_t ack_pending;                         /* delivered and not settled */
    uint64_t waiting;                             /* pulls open, of whatever member */
};
evbus_status ev_nats_parse_consumer(const char *json, size_t len, const char *what, struct ev_nats_consumer *ret);

/* The records of EXCLUSIVE members: their stream, what is in them, and what STREAM.MSG.GET says of one. A record that is
 * not there is EVBUS_OK with sequence 0. */
#define EV_NATS_MEMBERS "EVBUS_MEMBERS"
#define EV_NATS_MEMBER_SUBJECT "evbus.member."
#define EV_NATS_LEASE_SUBJECT "evbus.lease."
char *ev_nats_members_request(void);
char *ev_nats_member_body(bool alive, int64_t ttl_ns, const char *inbox, const char *server, const char *name);
evbus_status ev_nats_parse_record(const char *json, size_t len, struct ev_lease_record *ret);
/* The holder in a lease's body. False: it is none. */
bool ev_nats_parse_holder(const char *json, size_t len, char ret[EV_LEASE_ID + 1]);

/* EVBUS_OK: usable, *ret_update says whether ack wait or ack pending are to be updated; EVBUS_MISMATCH: names the field
 * and both values. */
evbus_status ev_nats_compare_consumer(const struct ev_consumer_cfg *want, const struct ev_nats_consumer *have,
                                      bool *ret_update);

#endif
