/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NATS backend's own header: what its files share.
 *
 *   nats.c          the table, open and fini, URL and options
 *   nats_servers.c  which servers there are, which is next, after what pause
 *   nats_connect.c  the keeper thread: makes sessions, watches over TLS calls; credentials (nats_nkey.c)
 *   nats_session.c  one TCP connection: libnats's adapter, epoll, bytes in and out, subscriptions
 *   nats_loop.c     turn and wait; a session's begin, heartbeat and end
 *   nats_publish.c  records out; what libnats reports by callback
 *   nats_lanes.c    answers to records
 *   nats_request.c  one request and its reply, for threads that may wait
 *   nats_api.c      JetStream's texts (no I/O)        nats_admin.c  streams and consumers, by requests
 *   nats_consume.c  pulls, deliveries, settling
 *   nats_lease.c    who is the active member (no I/O; nats_lease_watch.c)   nats_lease_io.c  its requests and answers
 *
 * Threads. The loop thread owns the natsConnection from hand-over to destruction: nobody else calls libnats with it.
 * The keeper thread makes connections and hands them over. libnats's callback thread only fills the mailbox.
 *
 * Locks. Every mutex here is a leaf: no libnats call, no host call and no other mutex while one is held. The adapter's
 * callbacks run under libnats's own connection mutex, so they too must not call libnats.
 *
 * libnats has its reconnect off: in event-loop mode its parser is not reset, so a message cut by a disconnect would be
 * delivered corrupted. A session therefore lives as long as one TCP connection.
 */
#ifndef EV_BACKEND_NATS_INTERNAL_H
#define EV_BACKEND_NATS_INTERNAL_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/thread.h"
#include "conc/atomic.h"
#include "core/backend.h"

#include <nats/nats.h>
#include <pthread.h>

#define EV_NATS_BUFFER_MAX (1024u * 1024u) /* libnats's output buffer has no bound of its own: send() stops here */
#define EV_NATS_TURN_MSGS 1024u            /* messages handed on per turn; the core wants its turn too */
#define EV_NATS_GRAVES 1024u               /* natsMsg_Destroy wakes one global thread: in batches of so many ... */
#define EV_NATS_GRAVE_BYTES (1024u * 1024) /* ... or of so much ... */
#define EV_NATS_GRAVE_TIME (20 * EV_MS)    /* ... or after so long */
#define EV_NATS_SERVERS_MAX 64u            /* configured and discovered */
#define EV_NATS_STUCK_MAX 16u              /* attempts of this process hanging in a TLS handshake, abandoned */
#define EV_NATS_INBOX_MAX 128u
#define EV_NATS_REPLY_MAX (EV_NATS_INBOX_MAX + 64u) /* an inbox and what comes after it */
#define EV_NATS_TEXT_MAX 256u

/*
 * The inbox, new in every session, so that nothing of an earlier one can arrive:
 *
 *   <inbox>.h, .z, .m.<...>   our own messages coming back: heartbeat, last one, fences     nats_loop.c, nats_lanes.c
 *   <inbox>_p<lane>.<...>     answers to records sent with want_ack                        nats_lanes.c
 *   <inbox>_e<n>              is a member there: answers, and 503s                        nats_lease_io.c
 *   <inbox>_r<id>             the reply to one ev_nats_request                              nats_request.c
 *   <inbox>.c.<anything>      ev_nats_consume_status: answers to what nats_consume.c asked
 *   other subject, with a reply "$JS.ACK...." on any of these: ev_nats_consume_delivery
 *
 * 503s. libnats destroys a "no responders" message inside natsSubscription_NextMsg and returns NATS_NO_RESPONDERS: all
 * that is known is the subscription it came on. Who must know what it is about needs a subscription of its own, as
 * requests have, or counts, as the lanes do. A take function gets it as a NULL message.
 */

struct ev_nats_keeper;
struct ev_nats_lanes;   /* nats_lanes.c's own */
struct ev_nats_consume; /* nats_consume.c's own */
struct ev_nats_members; /* nats_lease_io.c's own */

/* One server to connect to. */
struct ev_nats_server {
    char *url;                     /* "nats://host:port", without credentials: for libnats and for people */
    char *host;                    /* the name its certificate must carry */
    char *user, *password, *token; /* from the URL; NULL: the options' */
    bool discovered;               /* told by a server, not by the URL */
    bool tls;                      /* not asked for, but this server wants it */
};

/* Options as given, checked; immutable after open. Strings are copies. */
struct ev_nats_config {
    char *name;
    char *user, *password, *token;
    char *nkey_seed_file, *creds_file;
    char *tls_ca_file, *tls_cert_file, *tls_key_file, *tls_hostname;
    char *inbox_prefix;
    char *api; /* "$JS.API" or "$JS.<domain>.API" or js_api_prefix: no dot at the end */
    bool tls;
    evbus_credentials_fn credentials;
    void *credentials_ctx;
    uint32_t connect_timeout_ms, reconnect_min_ms, reconnect_max_ms, heartbeat_ms, member_ttl_ms;
    uint32_t reconnect_attempts_max, reconnect_factor_pct, reconnect_jitter_pct; /* EVBUS_FOREVER: no limit */
};

/* One TCP connection. Made by the keeper thread, then the loop's alone. */
struct ev_nats_session {
    natsConnection *nc;
    struct ev_nats *st;            /* set at hand-over; NULL before: the adapter then touches nothing of the bus */
    struct ev_nats_keeper *keeper; /* whose attempt it is; only for attach() */
    uint64_t id;                   /* process-wide, never reused: epoll cookie and closure of libnats's callbacks */
    natsSubscription *inbox_sub;
    struct ev_nats_server *server; /* a copy, for texts */
    int fd;                        /* -1 once libnats gave it up */
    int close_fd;                  /* 3.10 and later: ours to close; -1: none */
    bool tls;
    bool in_epoll, out_armed;
    bool want_write;    /* libnats has bytes to write: ProcessWriteEvent is legal only then */
    bool dead;          /* libnats closed it: detach() was called */
    bool hung_up;       /* the other side closed it; what it said before may still have to be read */
    bool up;            /* the heartbeat came back: ev_host_link_up was called */
    int64_t begun;      /* when the loop took it */
    int64_t received;   /* when bytes last came in */
    int64_t probe_next; /* when the next heartbeat is due */
    int64_t probe_open; /* since when one is unanswered; 0: none */
    uint64_t waiting;   /* bytes in libnats's output buffer, about: exact after each write */
    uint64_t drained;   /* messages taken out of subscriptions */
    uint64_t counted;   /* messages libnats has parsed */
    size_t inbox_len;
    char inbox[EV_NATS_INBOX_MAX]; /* "<prefix>.<unique>", no dot at the end */
};

struct ev_nats;

/* A core-NATS subscription, for plain messages without a stream. Owned by the binding; listed by the session code. */
struct ev_nats_core {
    char subject[EV_NAME_MAX];
    char queue[EV_NAME_MAX]; /* "": none */
    void *owner;             /* nats_consume.c's */
    /* Takes its messages instead, not over; NULL for a 503. */
    void (*take)(struct ev_nats *st, struct ev_nats_core *core, natsMsg *msg);
    natsSubscription *sub;     /* [loop] this session's; NULL: none */
    struct ev_nats_core *next; /* [loop] */
    bool listed;               /* [loop] */
};

/* What libnats's callback thread has to say; texts only. Guarded by the registry's mutex (nats_publish.c). */
struct ev_nats_note {
    enum { EV_NOTE_ERROR, EV_NOTE_LAME_DUCK } kind;
    natsStatus status;
    uint32_t count; /* equal ones are counted, not listed: one comes per refused publish */
    char text[EV_NATS_TEXT_MAX];
};

#define EV_NATS_NOTES 64u

struct ev_nats_request; /* nats_request.c's own */
struct ev_nats_flight;

struct ev_nats {
    struct ev_host *host;
    const struct ev_log *log;
    struct ev_nats_config cfg;
    bool opened; /* there is something for fini */

    /* [loop] */
    int epoll_fd, wake_fd;
    struct ev_nats_session *session;
    uint32_t ready_events; /* epoll said so for the session, not yet acted on */
    bool more;             /* messages are waiting in libnats: turn again before sleeping */
    bool shut;             /* no host calls any more */
    bool dropped;          /* drop_link was called: the end is announced at the next turn */
    char dropped_why[EV_NATS_TEXT_MAX];
    int64_t now;    /* of this turn */
    int64_t polled; /* when epoll was last asked */
    uint64_t gone;  /* bytes that left, or will never leave; see ev_nats_sent_mark */
    uint64_t mark;  /* the highest mark given out */
    bool was_busy;  /* the last look at the socket found data */
    struct ev_nats_core *cores;
    struct ev_nats_core *core_next; /* where the walk over them goes on; closing one moves it */
    natsStatistics *stats;
    natsMsg *graves[EV_NATS_GRAVES];
    uint32_t grave_count;
    uint64_t grave_bytes;
    int64_t graves_due; /* when they are freed; EV_NEVER: there is none */
    char *scratch;      /* header text while it is taken apart */
    size_t scratch_cap;
    char fault[EV_NATS_TEXT_MAX]; /* what libnats reported of this session, for the text of its end; "": nothing */
    evbus_status fault_status;

    /* [any] */
    _Atomic(uint64_t) payload_max;
    _Atomic(uint32_t) posted; /* notes, requests or a session wait for the loop: it looks under the mutexes */

    /* The socket the watchdog may shut down */
    pthread_mutex_t fd_mutex;
    int watch_fd;              /* guarded by fd_mutex; -1: none */
    _Atomic(int64_t) io_since; /* TLS: since when the loop has been inside libnats's I/O; 0: it is not */
    _Atomic(bool) stalled;     /* the watchdog did it, in this session */

    /* Keeper */
    struct ev_nats_keeper *keeper; /* [loop], and open/fini */

    /* Requests: guarded by request_mutex */
    pthread_mutex_t request_mutex;
    struct ev_nats_request *requests;
    struct ev_nats_flight *flights; /* [loop] those sent, with their subscriptions */
    uint64_t request_last;
    bool requests_closed, requests_hopeless;

    /* Notes: guarded by the registry's mutex, as are registry_* and session_id */
    struct ev_nats_note notes[EV_NATS_NOTES], taken[EV_NATS_NOTES]; /* taken: [loop] */
    uint32_t note_count;
    uint64_t notes_lost;
    uint64_t session_id; /* whose notes are wanted */
    struct ev_nats *registry_next;

    struct ev_nats_lanes *lanes;
    struct ev_nats_consume *consume;
    struct ev_nats_members *members;
};

/* ---- nats_session.c ---------------------------------------------------------------------------------------------- */

/* True while records, pulls and acks can be sent. [loop] */
static inline bool ev_nats_is_up(const struct ev_nats *st)
{
    return st->session != NULL && st->session->up && !st->session->dead;
}

/* Publish on the session: acks, pulls, API requests. `reply` may be NULL. The bytes are copied. False: there is no
 * link, nothing was sent. Not bounded by EV_NATS_BUFFER_MAX: callers are bounded by what they answer. [loop] */
bool ev_nats_publish(struct ev_nats *st, const char *subject, const char *reply, const void *data, size_t len);

/* This session's inbox, "" without a session. Reply subjects of nats_consume.c: "<inbox>.c.<anything>". [loop] */
const char *ev_nats_inbox(const struct ev_nats *st);

/* Frees a message, later, together with others. NULL is fine. [loop] */
void ev_nats_bury(struct ev_nats *st, natsMsg *msg);
void ev_nats_bury_all(struct ev_nats *st);

/* Start and stop a core-NATS subscription. It is made again in every session until closed; without a session it waits
 * for one. `core` stays the caller's and must be closed before it is freed. [loop] */
void ev_nats_core_open(struct ev_nats *st, struct ev_nats_core *core);
void ev_nats_core_close(struct ev_nats *st, struct ev_nats_core *core);
/* `to` takes over what `from` is: its subscription with all that is under way. `from` is closed then. [loop] */
void ev_nats_core_move(struct ev_nats *st, struct ev_nats_core *to, struct ev_nats_core *from);

/* Our heartbeat came back; or the server refused it, and so is alive. [loop] */
void ev_nats_probe_back(struct ev_nats *st, natsMsg *msg);
void ev_nats_probe_denied(struct ev_nats *st);

/* Ends the session; announced at the next turn. `why` is for people. [loop] */
void ev_nats_drop(struct ev_nats *st, const char *why);

/* Prepare and end one connection's adapter state; end closes and frees everything, on the calling thread. */
struct ev_nats_session *ev_nats_session_new(struct ev_nats_keeper *keeper, const struct ev_nats_server *server,
                                            bool tls);
void ev_nats_session_free(struct ev_nats_session *session);
natsStatus ev_nats_session_adapt(struct ev_nats_session *session, natsOptions *opts);

/* What nats_loop.c is made of. [loop] */
bool ev_nats_epoll_add(struct ev_nats *st, int fd, uint32_t events, uint64_t cookie);
void ev_nats_poll(struct ev_nats *st, int timeout_ms);
bool ev_nats_write(struct ev_nats *st, bool writable); /* one write, if one is wanted and the socket has room */
bool ev_nats_read(struct ev_nats *st);                 /* one read; only after epoll said so */
bool ev_nats_drain(struct ev_nats *st);                /* hands on what was parsed */
void ev_nats_kill(struct ev_nats *st);                 /* nothing leaves any more; announced by the next turn */
bool ev_nats_append(struct ev_nats *st, const char *subject, const char *reply, const void *data, size_t len);
void ev_nats_core_start(struct ev_nats *st, struct ev_nats_core *core);
/* Takes up to `budget` messages out of a subscription and hands them to `take`, which owns them then; NULL: one was a
 * 503. `take` returns false when the subscription is gone or must not be asked further. Returns how many. */
typedef bool (*ev_nats_take)(struct ev_nats *st, void *ctx, natsMsg *msg);
uint32_t ev_nats_drain_sub(struct ev_nats *st, natsSubscription *sub, uint32_t budget, ev_nats_take take, void *ctx);
evbus_status ev_nats_loop_init(struct ev_nats *st);
void ev_nats_loop_fini(struct ev_nats *st);

/* ---- nats_loop.c ------------------------------------------------------------------------------------------------- */

void ev_nats_link_up(struct ev_nats *st); /* the inbox works */

bool ev_nats_turn(void *state, int64_t now);
int64_t ev_nats_due(void *state);
void ev_nats_wait(void *state, int64_t deadline);
void ev_nats_wake(void *state);
void ev_nats_shut(void *state);
void ev_nats_drop_link(void *state, const char *why);

/* ---- nats_connect.c ---------------------------------------------------------------------------------------------- */

/* How the last session ended, as far as the pause before the next one depends on it. */
enum ev_nats_ending {
    EV_NATS_ENDED_WELL,   /* it lived for a while: try again at once */
    EV_NATS_ENDED_SOON,   /* back off as after a failed attempt */
    EV_NATS_ENDED_REFUSED /* the server does not want us: back off as after refused credentials */
};

/* Starts the keeper thread; it takes over `servers` (an array of `count`, allocated) also when it fails. */
evbus_status ev_nats_keeper_start(struct ev_nats *st, struct ev_nats_server *servers, uint32_t count);
/* quit: no further attempts; stop: waits for the thread, or abandons it when it hangs inside libnats. */
void ev_nats_keeper_quit(struct ev_nats *st);
void ev_nats_keeper_stop(struct ev_nats *st);

/* Asks for a session; the last one was up or failed before that. `found` are addresses told by it (libnats's memory, freed
 * here); may be NULL. [loop] */
void ev_nats_keeper_want(struct ev_nats *st, enum ev_nats_ending ending, bool was_up, char **found, int count);
/* Tells the core if it gave up. [loop] */
void ev_nats_keeper_tell(struct ev_nats *st);
/* Tries now, also after giving up; attempts count from 1 again. [loop] */
void ev_nats_keeper_again(void *state);
/* The session that was asked for, or NULL. [loop] */
struct ev_nats_session *ev_nats_keeper_take(struct ev_nats *st);
/* Abandons an attempt that hangs in a TLS handshake and starts another thread. Returns when to look again. [loop] */
int64_t ev_nats_keeper_check(struct ev_nats *st, int64_t now);
/* The session of this bus is (not) one to watch over: TLS can block inside libnats. [loop] */
void ev_nats_keeper_watch(struct ev_nats *st, bool on);
/* True once the bus gave up on this attempt: attach() then refuses. [any] */
bool ev_nats_keeper_abandoned(struct ev_nats_keeper *keeper);
/* Fails if a file of the options cannot be used: found at open rather than by every attempt. */
evbus_status ev_nats_options_check(struct ev_nats *st, const struct ev_nats_server *server);

void ev_nats_server_fini(struct ev_nats_server *server);
bool ev_nats_server_copy(struct ev_nats_server *to, const struct ev_nats_server *from);

/* ---- nats.c ------------------------------------------------------------------------------------------------------ */

extern const struct ev_backend_ops ev_nats_ops; /* for core/backend_table.c: "nats" and "tls" */

/* "host:port", "nats://user:password@host:port", ... */
evbus_status ev_nats_server_parse(struct ev_nats_server *ret, const char *text, size_t len, bool *ret_tls);

/* ---- nats_publish.c ---------------------------------------------------------------------------------------------- */

enum ev_sent ev_nats_send(void *state, const struct ev_record *record, evbus_status *ret_status);
uint64_t ev_nats_sent_mark(void *state);
bool ev_nats_unsent_after(void *state, uint64_t mark);
uint64_t ev_nats_max_payload(void *state);

/* libnats's callbacks find the bus by the session's id, so that they may come after its end. */
void ev_nats_register(struct ev_nats *st);
void ev_nats_unregister(struct ev_nats *st);
void ev_nats_notes_for(struct ev_nats *st, uint64_t session_id); /* older notes are dropped; 0: none are wanted */
natsStatus ev_nats_callbacks(natsOptions *opts, uint64_t session_id);
bool ev_nats_notes_turn(struct ev_nats *st); /* [loop] */

/* libnats's status in our words. */
evbus_status ev_nats_status(natsStatus s);
/* snprintf for sentences: one that does not fit is cut. */
void ev_nats_say(char *out, size_t cap, const char *fmt, ...) EV_PRINTF(3, 4);

/* ---- nats_lanes.c: [loop] ---------------------------------------------------------------------------------------- */

evbus_status ev_nats_lanes_init(struct ev_nats *st); /* [any] from open */
void ev_nats_lanes_fini(struct ev_nats *st);         /* [any] safe without init */
bool ev_nats_lanes_begin(struct ev_nats *st);        /* a session begins */
void ev_nats_lanes_end(struct ev_nats *st);
/* The reply subject for a record; false: no lane is open (or no memory), send it later. `sent`: it was appended. */
bool ev_nats_lanes_reply(struct ev_nats *st, const struct ev_record *r, char out[EV_NATS_REPLY_MAX]);
void ev_nats_lanes_sent(struct ev_nats *st, const struct ev_record *r);
void ev_nats_lanes_next(struct ev_nats *st); /* a write went out: the next records take the next lane */
uint32_t ev_nats_lanes_drain(struct ev_nats *st, uint32_t budget);
void ev_nats_lanes_fenced(struct ev_nats *st, const char *rest); /* "<lane>.<epoch>" came back, or was refused */
void ev_nats_lanes_passed(struct ev_nats *st, int64_t sent);     /* the heartbeat sent then came back */
void ev_nats_lanes_turn(struct ev_nats *st);
int64_t ev_nats_lanes_due(const struct ev_nats *st);

/* ---- nats_request.c ---------------------------------------------------------------------------------------------- */

struct ev_nats_reply {
    char *data; /* NUL-terminated; freed by ev_nats_reply_fini */
    size_t len;
};

/* One request, one reply. Waits for a link, then for the reply. [any, not loop; blocks up to the deadline]
 * EVBUS_OK             the reply is in *ret, whatever it says
 * EVBUS_NO_JETSTREAM   nobody answers on that subject (503)
 * EVBUS_DENIED         the permissions forbid the subject
 * EVBUS_DISCONNECTED   no link until the deadline, or it went down after sending: whether it was done is unknown
 * EVBUS_TIMEOUT        sent, no reply
 * EVBUS_CLOSED, EVBUS_NOMEM */
evbus_status ev_nats_request(struct ev_nats *st, const char *subject, const void *body, size_t len, int64_t deadline,
                             struct ev_nats_reply *ret);
/* The same on "<api>.<verb>", verb as in printf: ("STREAM.INFO.%s", name). body NULL: empty. */
evbus_status ev_nats_api(struct ev_nats *st, struct ev_nats_reply *ret, int64_t deadline, const char *body,
                         const char *verb, ...) EV_PRINTF(5, 6);
void ev_nats_reply_fini(struct ev_nats_reply *reply);

bool ev_nats_requests_turn(struct ev_nats *st);                                          /* [loop] sends what waits */
uint32_t ev_nats_requests_drain(struct ev_nats *st, uint32_t budget);                    /* [loop] */
bool ev_nats_requests_denied(struct ev_nats *st, const char *subject, const char *text); /* [loop] true: its own */
void ev_nats_requests_down(struct ev_nats *st);                                          /* [loop] */
void ev_nats_requests_hope(struct ev_nats *st, bool hope); /* [loop] false: all fail, until there is hope again */
bool ev_nats_requests_have_hope(struct ev_nats *st);       /* [any] false: a link is not to come */
void ev_nats_requests_close(struct ev_nats *st);           /* [loop] refuses from now on */

/* ---- nats_consume.c: hooks of the loop --------------------------------------------------------------------------- */

evbus_status ev_nats_consume_init(struct ev_nats *st); /* [any] from open */
void ev_nats_consume_fini(struct ev_nats *st);         /* [any] from fini; safe without init */

/* A session is up (after ev_host_link_up) / it is gone (before ev_host_link_down): pulls outstanding are gone, what was
 * asked will not be answered, nothing can be sent. */
void ev_nats_consume_up(struct ev_nats *st);
void ev_nats_consume_down(struct ev_nats *st);
/* Once per turn while up: pulls, acks, deadlines; true if anything was done. due: when it must run without I/O. */
bool ev_nats_consume_turn(struct ev_nats *st, int64_t now);
int64_t ev_nats_consume_due(struct ev_nats *st);

/* From shut, before the last heartbeat is sent and after each read until it came back: pulls are ended, what was under
 * way is handed back, nothing is delivered any more. */
void ev_nats_consume_flush(struct ev_nats *st);

/* A message with a "$JS.ACK" reply. Takes over `msg` (ev_nats_bury frees it). */
void ev_nats_consume_delivery(struct ev_nats *st, natsMsg *msg);
/* A message on "<inbox>.c.<rest>". `msg` stays the caller's. */
void ev_nats_consume_status(struct ev_nats *st, natsMsg *msg, const char *rest);
/* A 503 to a pull or to something asked: on this core-NATS subscription, or on "<inbox>.c." (core NULL). */
void ev_nats_consume_no_responders(struct ev_nats *st, struct ev_nats_core *core);
/* A message of a core-NATS subscription. Takes over `msg`. */
void ev_nats_consume_core(struct ev_nats *st, struct ev_nats_core *core, natsMsg *msg);
/* The server refuses this core-NATS subscription: it will never get anything. */
void ev_nats_consume_core_denied(struct ev_nats *st, struct ev_nats_core *core, const char *text);
/* The server refused a publish of nats_consume.c (a pull or an ack) on `subject`. True: it was one of its subjects. */
bool ev_nats_consume_denied(struct ev_nats *st, const char *subject, const char *text);

/* Tests: how long a pull stays open and how often the server says so, before anything is attached. */
void ev_nats_consume_tune(struct ev_nats *st, int64_t expires_ns, int64_t heartbeat_ns);

/* The table's entries; contracts in core/backend.h. */
void ev_nats_attach(void *state, void *binding);
void ev_nats_detach(void *state, void *binding);
void ev_nats_part(void *state, void *binding);
void ev_nats_want(void *state, void *binding, struct ev_room room);
void ev_nats_rearm(void *state, void *binding);
int64_t ev_nats_silent_since(void *state, void *binding);
bool ev_nats_settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns);
bool ev_nats_settle_seq(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq, uint64_t consumer_seq);
void ev_nats_replace(void *state, void *token, void *newer);
void ev_nats_release(void *state, void *token);
const char *ev_nats_header(void *state, void *token, const char *name);
size_t ev_nats_headers(void *state, void *token, char *buf, size_t cap);

/* ---- nats_admin.c ------------------------------------------------------------------------------------------------ */

evbus_status ev_nats_stream_covering(void *state, const char *subject, struct ev_stream_info *ret, int64_t deadline);
evbus_status ev_nats_stream_info(void *state, const char *stream, const char *subject, struct ev_stream_info *ret,
                                 int64_t deadline);
evbus_status ev_nats_stream_create(void *state, const struct ev_stream_cfg *cfg, int64_t deadline);
evbus_status ev_nats_stream_add(void *state, const char *stream, const char *subject, int64_t deadline);
evbus_status ev_nats_msg_get(void *state, const char *stream, const char *filter, uint64_t from, struct ev_stored *ret,
                             int64_t deadline);
evbus_status ev_nats_msg_delete(void *state, const char *stream, uint64_t seq, int64_t deadline);
evbus_status ev_nats_consumer_state(void *state, const char *stream, const char *name, struct ev_consumer_state *ret,
                                    int64_t deadline);
evbus_status ev_nats_consumers(void *state, const char *subject, struct ev_consumer_state **ret, uint32_t *ret_count,
                               int64_t deadline);
evbus_status ev_nats_account(void *state, struct ev_account *ret, int64_t deadline);
evbus_status ev_nats_bind(void *state, struct evbus_sub *sub, const struct ev_consumer_cfg *cfg, void **ret_binding,
                          int64_t deadline);
evbus_status ev_nats_fence(void *state, int64_t deadline);
evbus_status ev_nats_bind_core(void *state, struct evbus_sub *sub, const char *subject, const char *queue,
                               void **ret_binding);
void ev_nats_unbind(void *state, void *binding);

#endif
