/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker behind mem://: streams, consumers, redelivery, limits, duplicate window, core subscriptions. A state
 * machine: no threads, no locks, no clock (time is an argument), so unit tests drive it to the nanosecond. One thread at a
 * time; mem_hub.c sees to that. It follows nats-server 2.9 where the bus relies on it; docs/guarantees.md has the rest.
 *
 *   mem_broker.c     streams: administration, storing a message, limits, time
 *   mem_route.c      which stream, consumers and core subscriptions a topic concerns
 *   mem_consumer.c   consumers and core subscriptions: who gets what, and when again
 *   mem_bind.c       how they come and go
 *   mem_message.c    single messages, read or deleted;  mem_state.c  how far consumers are
 *
 * What comes out goes into the *link* of the session concerned, as results in its ring:
 *
 *   kind       object   block / value   other           count         number     flags
 *   ANSWER     stream   sequence        generation      slot          EV_MEM_ok  duplicate
 *   MESSAGE    member   block (a ref)   consumer seq    what remains  deliveries
 *   CORE       member   block (a ref)                   dropped before
 *   LOST       member                                                 EV_MEM_why
 *   DETACHED   member   no message for it follows
 *   ACTIVE     member                                                 1: it is the active one; 0: it stands by
 *   UNSETTLED  member   lowest          consumer seq    how many         delivered and not settled, as asked
 *   UNBOUND    member   the last word about it: its memory may go
 */
#ifndef EV_BACKEND_MEM_BROKER_H
#define EV_BACKEND_MEM_BROKER_H

#include "backend/mem_index.h"
#include "backend/mem_ring.h"
#include "backend/mem_store.h"
#include "backend/mem_unacked.h"
#include "backend/mem_window.h"
#include "core/backend.h"

#define EV_MEM_RESERVE 256u      /* places of a results ring that deliveries leave to answers */
#define EV_MEM_CORE_QUEUE 65536u /* messages a core subscription may have waiting; as libnats: more are dropped */
#define EV_MEM_CORE_BYTES (64u << 20)

enum ev_mem_result {
    EV_MEM_ANSWER = 1,
    EV_MEM_MESSAGE,
    EV_MEM_CORE,
    EV_MEM_LOST,
    EV_MEM_DETACHED,
    EV_MEM_UNBOUND,
    EV_MEM_ACTIVE,
    EV_MEM_UNSETTLED
};

/* How a publish was answered. */
enum ev_mem_code {
    EV_MEM_STORED,
    EV_MEM_NO_STREAM,
    EV_MEM_MAX_MSGS,
    EV_MEM_MAX_BYTES,
    EV_MEM_OVER_STREAM, /* alone larger than the stream's max_bytes */
    EV_MEM_FULL,        /* mem_bytes_max */
    EV_MEM_IDS_FULL,
    EV_MEM_NO_MEMORY
};

enum ev_mem_why { EV_MEM_CONSUMER_GONE = 1, EV_MEM_STREAM_GONE };

/* ---- Who is interested in a topic -------------------------------------------------------------------------------- */

/* node.kind of an interest: which object it is part of, and whether its pattern has no wildcards. */
enum ev_mem_interest_kind { EV_MEM_BY_STREAM = 1, EV_MEM_BY_CONSUMER = 2, EV_MEM_BY_GROUP = 3, EV_MEM_LITERAL = 4 };

struct ev_mem_interest {
    struct ev_mem_node node; /* literal: in the table; else in the list of patterns */
    const char *pattern;
};

/* What a topic concerns, remembered until one of the interests changes. */
struct ev_mem_route {
    struct ev_mem_node node;
    struct ev_mem_stream *stream; /* NULL: none covers it */
    uint32_t consumers, groups;
    const char *topic;
    void *targets[]; /* consumers, then groups */
};

/* ---- Objects ----------------------------------------------------------------------------------------------------- */

struct ev_mem_subject {
    struct ev_mem_interest interest;
    struct ev_mem_stream *stream;
    struct ev_mem_subject *next;
    char text[];
};

struct ev_mem_stream {
    struct ev_mem_node node;
    struct ev_mem_timer timer; /* max_age of the oldest message */
    struct ev_mem_block *head, *tail;
    uint64_t first, last, bytes; /* sequences held are first..last but for the holes; none: first = last + 1 */
    uint64_t holes;              /* deleted one by one, between first and last */
    struct ev_mem_consumer *all; /* consumers */
    uint32_t filtered;           /* consumers that do not take everything */
    uint32_t replicas;
    struct ev_mem_window *window; /* NULL: no duplicate window */
    struct ev_mem_subject *subjects;
    uint64_t max_age_ns, max_bytes, max_msgs;
    uint64_t id; /* never used again */
    int64_t created_ns;
    uint8_t storage, discard;
    bool gone;
    char name[];
};

/* Something with messages to deliver: a consumer, or a core subscription's member. */
struct ev_mem_source {
    struct ev_mem_source *next, *prev; /* in the ready list or in a link's blocked list; NULL: in none */
    bool is_member;
};

struct ev_mem_consumer {
    struct ev_mem_source source;
    struct ev_mem_node node;         /* by stream and name */
    struct ev_mem_timer timer;       /* an ack wait or a delay ends */
    struct ev_mem_interest interest; /* its filter */
    struct ev_mem_stream *stream;
    struct ev_mem_consumer *next, **link; /* in its stream */
    struct ev_mem_member *members;        /* attached */
    struct ev_mem_member *turn;           /* whose turn it is */
    struct ev_mem_member *active;         /* the one exclusive member that gets something, until it leaves */
    uint32_t refs;                        /* members bound to it, attached or not */
    uint32_t open;                        /* attached members with room */
    struct ev_mem_block *cursor;          /* where to look for the next new message; valid while ... */
    uint64_t cursor_seq;                  /* ... the stream holds this, and something waits */
    uint64_t waiting;                     /* filtered: matching messages from the cursor on */
    uint64_t delivered;                   /* consumer sequence */
    struct ev_mem_unacked *unacked;
    int64_t ack_wait_ns;
    uint32_t ack_pending_max;
    bool everything : 1, durable : 1, ack_explicit : 1, deliver_new : 1, gone : 1;
    bool ack_all : 1; /* with ack_explicit: an ack settles all below it too */
    bool used : 1;    /* delivered something since the timer last looked */
    char name[];      /* and the filter's text */
};

/* Core subscriptions of one subject and queue name; without a queue name each is a group of its own. */
struct ev_mem_group {
    struct ev_mem_interest interest;
    struct ev_mem_group *next, **link; /* those with a queue name */
    struct ev_mem_member *members;     /* attached */
    struct ev_mem_member *turn;
    uint32_t refs;
    const char *queue; /* "" for none */
    char text[];
};

struct ev_mem_queue {
    struct ev_mem_source source;
    struct ev_mem_member *member;
    struct ev_mem_group *group;
    struct ev_mem_block **blocks; /* a ring */
    uint32_t head, count, room;
    uint64_t bytes;
    uint32_t dropped; /* since the last delivery */
};

/* A binding: what a session has of a consumer or group. */
struct ev_mem_member {
    /* Set by bind */
    struct ev_mem_link *link;
    struct evbus_sub *sub;
    struct ev_mem_consumer *consumer; /* one of the two */
    struct ev_mem_queue *queue;
    /* The broker's */
    struct ev_mem_member *next, *prev; /* attached: ring of its consumer or group; lost: `next` in the broker's list */
    uint32_t pushed, limit;            /* may deliver while limit - pushed > 0, modulo 2^32 */
    uint64_t pushed_bytes, limit_bytes;
    struct ev_mem_member *news_next;
    bool exclusive;            /* set by bind: one of them is active, in the order they came; what was delivered and it
                                  does not have comes first */
    bool attached, open, lost; /* lost: in the broker's list */
    bool news;                 /* in the broker's list of those to hear ... */
    bool news_active;          /* ... whether they are active */
    bool news_unsettled;       /* ... what is not settled */
    uint8_t why;
    /* The session's loop: mem_session.c */
    struct ev_mem_member *dirty_next, *unbound_next;
    uint32_t drained, want;
    uint64_t drained_bytes, want_bytes, consumer_seq;
    uint16_t want_epoch;
    uint8_t todo, state;
    bool ack_all; /* set by bind, as the next */
    bool certain; /* the core has all that is delivered and not settled: ev_host_certain */
    bool asked;   /* the broker, what that is */
    uint64_t row; /* certain: the last delivery's count */
    /* The session's, whoever has the baton */
    struct ev_mem_member *bound_next, *bound_prev;
};

/* A session, as the broker sees it. */
struct ev_mem_link {
    struct ev_mem_ring results;
    struct ev_mem_source blocked; /* sources that wait for room in `results` */
    struct ev_mem_link *next, *prev;
    uint64_t told; /* results' tail when the session was last woken */
    bool closed;   /* nothing is put into results any more */
    /* 1: something waits for room in `results`. Both sides swap, so whoever comes second sees what the other did
     * before: the broker looks at the room again after setting it, the session drains before it clears it. */
    _Atomic(uint32_t) starved;
};

struct ev_mem_broker {
    int64_t now, wall; /* as of the last advance */
    uint64_t bytes, bytes_max;
    uint64_t ids, ids_max;
    uint64_t seed; /* of hashes of topics and ids; any thread may read it */
    uint64_t streams_made;
    struct ev_mem_pool *home; /* the pool of the thread that runs, NULL if it has none */
    struct ev_mem_table streams, consumers, literals, routes;
    struct ev_mem_node *patterns; /* interests with wildcards */
    struct ev_mem_group *groups;  /* those with a queue name */
    struct ev_mem_window *windows;
    struct ev_mem_timers timers;
    struct ev_mem_source ready;   /* ring head */
    struct ev_mem_link links;     /* ring head */
    struct ev_mem_member *lost;   /* whose sessions have to be told */
    struct ev_mem_member *news;   /* the same: of being active, or not */
    struct ev_mem_stream *graves; /* deleted streams: answers may still name them */
    uint64_t core_dropped;
};

/* ---- Life and time ----------------------------------------------------------------------------------------------- */

void ev_mem_broker_init(struct ev_mem_broker *broker, uint64_t bytes_max, int64_t now, int64_t wall);
void ev_mem_broker_fini(struct ev_mem_broker *broker); /* all links are gone */

/* Lets time pass: ages, ack waits, delays, windows. */
void ev_mem_broker_advance(struct ev_mem_broker *broker, int64_t now, int64_t wall);
int64_t ev_mem_broker_due(const struct ev_mem_broker *broker); /* when advance has something to do */

bool ev_mem_link_init(struct ev_mem_link *link, uint32_t capacity);
void ev_mem_link_fini(struct ev_mem_link *link); /* after leave and drain */
void ev_mem_link_join(struct ev_mem_broker *broker, struct ev_mem_link *link);
void ev_mem_link_leave(struct ev_mem_broker *broker, struct ev_mem_link *link); /* its members were detached */
/* The session made room in its results. */
void ev_mem_link_drained(struct ev_mem_broker *broker, struct ev_mem_link *link);
/* Places free in the link's results beyond `reserve`, up to `want`; fewer than `want`: the link is marked starved. */
uint64_t ev_mem_link_room(struct ev_mem_link *link, uint64_t reserve, uint64_t want);

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

evbus_status ev_mem_stream_create(struct ev_mem_broker *broker, const struct ev_stream_cfg *cfg);
evbus_status ev_mem_stream_add(struct ev_mem_broker *broker, const char *stream, const char *subject);
evbus_status ev_mem_stream_info(struct ev_mem_broker *broker, const char *stream, const char *subject,
                                struct ev_stream_info *ret);
evbus_status ev_mem_stream_covering(struct ev_mem_broker *broker, const char *subject, struct ev_stream_info *ret);
/* See ev_backend_ops.msg_get and msg_delete. */
evbus_status ev_mem_msg_get(struct ev_mem_broker *broker, const char *stream, const char *filter, uint64_t from,
                            struct ev_stored *ret);
evbus_status ev_mem_msg_delete(struct ev_mem_broker *broker, const char *stream, uint64_t seq);
evbus_status ev_mem_consumer_state(struct ev_mem_broker *broker, const char *stream, const char *name,
                                   struct ev_consumer_state *ret);
evbus_status ev_mem_consumers(struct ev_mem_broker *broker, const char *subject, struct ev_consumer_state **ret,
                              uint32_t *ret_count);
/* Nobody can ask for these through the bus; tests can. */
evbus_status ev_mem_stream_delete(struct ev_mem_broker *broker, const char *stream);
evbus_status ev_mem_stream_purge(struct ev_mem_broker *broker, const char *stream);
evbus_status ev_mem_consumer_delete(struct ev_mem_broker *broker, const char *stream, const char *consumer);

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

/* What a publish wants of its answer, and its message id. */
struct ev_mem_publish {
    struct ev_mem_block *block; /* its reference is taken over */
    uint64_t id_hash;
    uint32_t id_check;
    uint32_t slot, generation;
    bool has_id, want_ack;
};

/* Needs one place in the results of `link`. */
void ev_mem_publish(struct ev_mem_broker *broker, struct ev_mem_link *link, const struct ev_mem_publish *publish);

evbus_status ev_mem_bind(struct ev_mem_broker *broker, struct ev_mem_member *member, const struct ev_consumer_cfg *cfg);
evbus_status ev_mem_bind_core(struct ev_mem_broker *broker, struct ev_mem_member *member, const char *subject,
                              const char *queue);
void ev_mem_attach(struct ev_mem_broker *broker, struct ev_mem_member *member);
void ev_mem_detach(struct ev_mem_broker *broker, struct ev_mem_member *member); /* again: does nothing */
/* An exclusive member has nothing any more: the next one is active. */
void ev_mem_leave_group(struct ev_mem_broker *broker, struct ev_mem_member *member);
/* A result that says no more than its kind; needs one place. */
void ev_mem_say(struct ev_mem_member *member, enum ev_mem_result kind);
/* The member is not touched after; needs one place in its link's results. */
void ev_mem_unbind(struct ev_mem_broker *broker, struct ev_mem_member *member);
void ev_mem_want(struct ev_mem_broker *broker, struct ev_mem_member *member, uint32_t limit, uint64_t limit_bytes);
/* What is delivered and not settled comes as a result, behind what was delivered. */
void ev_mem_ask(struct ev_mem_broker *broker, struct ev_mem_member *member);
/* All that is in flight is due now: nobody has it. */
void ev_mem_consumer_again(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer);
void ev_mem_settle(struct ev_mem_broker *broker, struct ev_mem_member *member, uint64_t seq, enum ev_settle verb,
                   int64_t delay_ns);

/* Puts into the links' results what is ready and has room, at most `max` messages. True if more may be possible. */
bool ev_mem_pump(struct ev_mem_broker *broker, uint32_t max);

/* ---- Between the files of the broker ----------------------------------------------------------------------------- */

static inline bool ev_mem_is_literal(const char *subject)
{
    for (; *subject; subject++)
        if (*subject == '*' || *subject == '>')
            return false;
    return true;
}

static inline bool ev_mem_in_list(const struct ev_mem_source *source)
{
    return source->next != NULL;
}

static inline void ev_mem_list_add(struct ev_mem_source *list, struct ev_mem_source *source)
{
    source->next = list;
    source->prev = list->prev;
    list->prev->next = source;
    list->prev = source;
}

static inline void ev_mem_list_remove(struct ev_mem_source *source)
{
    if (!ev_mem_in_list(source))
        return;
    source->prev->next = source->next;
    source->next->prev = source->prev;
    source->next = source->prev = NULL;
}

static inline bool ev_mem_is_by(const struct ev_mem_node *node, enum ev_mem_interest_kind kind)
{
    return (node->kind & ~(uint32_t)EV_MEM_LITERAL) == (uint32_t)kind;
}

static inline uint64_t ev_mem_stream_count(const struct ev_mem_stream *stream)
{
    return stream->last + 1 - stream->first - stream->holes;
}

/* mem_route.c */
evbus_status ev_mem_subject_check(const char *subject);
uint32_t ev_mem_hash(const struct ev_mem_broker *broker, const char *text, size_t len);
bool ev_mem_interest_reserve(struct ev_mem_broker *broker);
void ev_mem_interest_add(struct ev_mem_broker *broker, struct ev_mem_interest *interest, enum ev_mem_interest_kind kind,
                         const char *pattern);
void ev_mem_interest_remove(struct ev_mem_broker *broker, struct ev_mem_interest *interest);
bool ev_mem_interest_matches(const struct ev_mem_interest *interest, const char *topic, uint32_t hash);
/* NULL: out of memory. */
struct ev_mem_route *ev_mem_route_of(struct ev_mem_broker *broker, const char *topic, size_t len, uint32_t hash);
void ev_mem_routes_trim(struct ev_mem_broker *broker); /* forgets all when they are too many; they are made again */
void ev_mem_routes_fini(struct ev_mem_broker *broker);
/* A stream with a subject that overlaps; NULL if none. */
struct ev_mem_stream *ev_mem_stream_overlapping(struct ev_mem_broker *broker, const char *subject);
struct ev_mem_subject *ev_mem_stream_subject(const struct ev_mem_stream *stream, const char *subject); /* that covers */

/* mem_broker.c */
struct ev_mem_stream *ev_mem_stream_find(struct ev_mem_broker *broker, const char *name);

/* mem_consumer.c */
void ev_mem_consumer_appended(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                              struct ev_mem_block *block);
void ev_mem_consumer_evicted(struct ev_mem_consumer *consumer, uint64_t seq); /* filtered, and it matched */
void ev_mem_consumer_recount(struct ev_mem_consumer *consumer);               /* the stream's subjects changed */
/* The stream is about to lose one message in the middle: see ev_mem_msg_delete. */
void ev_mem_consumer_deleting(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                              const struct ev_mem_block *block);
bool ev_mem_consumer_all(const struct ev_mem_consumer *consumer);         /* its filter covers the whole stream */
uint64_t ev_mem_consumer_waiting(const struct ev_mem_consumer *consumer); /* new ones for it */
void ev_mem_consumer_ready(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer); /* if it has work */
void ev_mem_member_open(struct ev_mem_member *member, bool open);
void ev_mem_consumer_timer(struct ev_mem_broker *broker, struct ev_mem_timer *timer);
void ev_mem_group_deliver(struct ev_mem_broker *broker, struct ev_mem_group *group, struct ev_mem_block *block);

bool ev_mem_stands_by(const struct ev_mem_member *member);

/* mem_bind.c */
void ev_mem_consumer_remove(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer, enum ev_mem_why why);

enum ev_mem_timer_kind { EV_MEM_STREAM_TIMER = 1, EV_MEM_CONSUMER_TIMER, EV_MEM_WINDOW_TIMER };

#endif
