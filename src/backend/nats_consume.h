/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consuming, shared by nats_consume.c (bindings, deliveries, verdicts), nats_pull.c (credit and pulls), nats_roster.c
 * (who is pulled for, inboxes, time), nats_gap.c (what was delivered before and nobody has), nats_gather.c (until that is
 * here) and nats_leave.c (the end of a binding). Everything here is the loop's, except a binding between bind and attach and between quiet and unbind.
 *
 * Credit. A pull asks for `batch` messages and `max_bytes`; what the server may still send on our pulls is outstanding.
 * Outstanding messages never exceed the room. Outstanding bytes are counted as outstanding messages of the largest size
 * seen lately, so they exceed the room only when messages suddenly grow, and then by less than one room for each open
 * pull (max_bytes), or by one message (a message larger than the whole room must pass too). Deliveries do not say
 * which pull they belong to and a pull that got its batch ends without a word, so the sum is kept over all pulls of
 * a binding.
 *
 * Inboxes. nats-server 2.9 cannot cancel a pull; it only drops one whose reply subject nobody listens on. Pulls
 * therefore have up to EV_NATS_BUCKETS subscriptions of their own, "<inbox>-<n>.>", each for some of the bindings. To
 * detach, the bucket's subscription is cut at the server while libnats keeps it: what was under way still arrives,
 * what the core hands back does not come to us again, and the bucket's other bindings pull anew. They do so when a
 * message of our own, sent after the cut, is back: all that was under way is then here, in order. The number of buckets
 * is a balance: libnats must be asked for each one's messages, 1,024 cost 0.2 ms a turn.
 *
 * Replies to what is asked here come on "<inbox>.c.<letter>.": e records of members (y: are we here), f fence of a bucket, g gap rule, i does it exist, l
 * leaving, x nobody needs it.
 */
#ifndef EV_BACKEND_NATS_CONSUME_H
#define EV_BACKEND_NATS_CONSUME_H

#include "backend/nats_api.h"
#include "backend/nats_internal.h"

#define EV_NATS_BUCKETS 128u
#define EV_NATS_PULLS 8u  /* pulls remembered per binding; the two oldest are merged when there are more */
#define EV_NATS_SLAB 256u /* tokens allocated at a time */

/* A pull the server has. */
struct ev_nats_pull {
    uint64_t number; /* never used again in this process */
    uint32_t batch;
    uint64_t bytes; /* max_bytes, 0: no limit */
    int64_t until;  /* when the server has forgotten it */
};

/* The gap rule's steps: see nats_gap.c. */
enum ev_nats_gap_step {
    EV_NATS_GAP_CLOSED, /* nothing is missing: pull */
    EV_NATS_GAP_PAUSE,  /* asks again later */
    EV_NATS_GAP_ASK,    /* what was delivered, who else pulls */
    EV_NATS_GAP_PROBE,  /* may we settle at all */
    EV_NATS_GAP_MAKE,   /* a range with few of ours in it: a consumer that lists them */
    EV_NATS_GAP_LIST,   /* a page of the list is on its way */
    EV_NATS_GAP_TELL,   /* handing back what is not here */
    EV_NATS_GAP_CLOSE,  /* all told: waits until the server has worked it off */
    EV_NATS_GAP_WAIT    /* the slow way: until the ack wait is over */
};

struct ev_nats_gap {
    enum ev_nats_gap_step step;
    uint32_t epoch;         /* of the questions; answers to earlier ones are ignored */
    uint32_t answers, want; /* got, and needed to go on: sets of bits */
    uint32_t tries;         /* of this step without an answer */
    int64_t begun;
    int64_t at;           /* when to act without an answer */
    int64_t pause;        /* the last one */
    uint64_t first, last; /* stream sequences to look at; below `first` all is settled */
    uint64_t floor_seq;   /* the consumer sequence of its ack */
    int64_t floor_ns;     /* ... if it was stored by then; 0: not known */
    int64_t made_ns;      /* when the consumer was made */
    uint64_t top;         /* the highest that was delivered, as far as the server ever said */
    uint64_t delivered;   /* ... and what it says now: less, when it came back with an older state */
    uint64_t reached;     /* the highest that came here */
    uint64_t dseq;        /* a consumer sequence that the server takes for any of them */
    uint64_t pending;     /* delivered and not settled, of all members */
    uint64_t listed;      /* at most so many are in the range */
    uint64_t waiting;     /* pulls open, and not ours */
    uint64_t next;        /* of the range or the list: where telling is */
    uint64_t told;
    uint64_t left_out;   /* by the count, since the rule was last at work: lost, or another client has them */
    uint64_t left;       /* told and not seen again yet, at most */
    uint64_t lister;     /* in the name of the consumer that lists; 0: there is none */
    uint64_t *list;      /* its sequences, ascending; NULL: the range is told whole */
    uint32_t count, cap; /* of them */
    uint64_t listed_to;  /* the highest that was listed, of `list` or above */
    uint32_t page;       /* still to come of this page */
    unsigned char *seen; /* gathering: bits, which of the range came again; NULL: not in this link */
    uint64_t unseen;     /* of what was pending */
    uint64_t beyond;     /* `reached` when it was told: up to there new ones may come before those that are here */
    int64_t gather_until;
    int64_t suspected_at; /* the last time */
    bool gathering;       /* the core was told to, and not to stop yet */
    bool suspected;       /* because the count left some out */
    bool clustered;       /* they may be lost; else another client has them */
    bool alone;           /* nobody else had a pull open when we asked */
    uint32_t alarms;      /* suspicions that there was nothing to, in a row */
    bool cramped;         /* what was told did not come, and there is no room to ask for more */
    bool let_go;          /* there was no room for what is missing: what was here and not started is missing too */
    bool in_order;        /* what is gathered was told: it comes before anything new */
    bool again;           /* the same question once more */
    bool second;          /* the second time through */
    bool recheck, tried;  /* ack_all: what was asked for comes with the next pull, then asked again; it was sent */
    bool worked_off;      /* ack_all: what we settled before this question is */
    bool fewer;           /* ack_all: less is pending than lies between floor and position, in a cluster */
    uint64_t leaders;     /* ack_all: what is pending as the leader knows it */
    uint32_t rounds;      /* ack_all: asked for so often, and not all is here */
    uint64_t floor_told, floor_count; /* ack_all: of which floor the leader was told last, with which count */
    int64_t step_down_at;             /* ack_all: when its leader is asked to, if that goes on; 0: it does not */
    bool list_ends;                   /* its last sequence is here */
    bool due;                         /* to begin when no pull is open */
    bool logged;                      /* no answer: said once per gap */
    bool others_logged, slow_logged;  /* said once */
};

struct ev_nats_binding {
    struct evbus_sub *sub;
    struct ev_nats_core core; /* of bind_core; of others only the subject, for people: the filter */
    bool is_core;

    /* Immutable after bind */
    char stream[EV_NAME_MAX], consumer[EV_NAME_MAX];
    uint64_t id;
    bool durable, ack;
    bool exclusive; /* the gap rule is for it */
    bool ack_all;   /* frontier acks */
    int64_t ack_wait_ns;

    /* [loop] */
    bool fresh; /* bind made the consumer, and we have had no turn that ended: nothing was delivered before */
    bool attached;
    bool pulled;     /* in this link */
    bool lost;       /* the core was told: no more pulls */
    bool silent;     /* heartbeats were missed, and that was logged */
    bool complained; /* a refusal was logged */
    bool was_up;     /* attached during an earlier link */
    bool seq_known;  /* consumer_seq is of this link */
    uint32_t index;  /* in bindings[] */
    uint32_t bucket;
    uint32_t heap_at;                    /* 1..; 0: not in the heap */
    struct ev_nats_binding *chain;       /* hash table */
    struct ev_nats_binding *prev, *next; /* of its bucket */
    struct ev_room room, room_max;       /* room_max: the largest seen */
    uint32_t out_msgs;
    struct ev_nats_pull pulls[EV_NATS_PULLS]; /* oldest first */
    uint32_t pull_count;
    uint32_t batch_max; /* what the consumer allows, as far as it told us */
    uint64_t bytes_max;
    int64_t expires_max;
    uint64_t size_peak;        /* largest lately, as the server counts: subject, reply, headers, data */
    uint64_t size_next;        /* the next message needs more than this; 0: unknown */
    uint64_t consumer_seq;     /* of the last delivery */
    int64_t asked;             /* when the last pull went out */
    int64_t heard;             /* when anything last came for it */
    int64_t unended;           /* when a pull was given up whose end nobody told: silence goes on; 0: never */
    int64_t silent_since;      /* while `silent` */
    int64_t heartbeat;         /* what was asked for last */
    int64_t backoff, retry_at; /* no pull before */
    int64_t lag_at;            /* little room: wait a moment for more; 0: not waiting */
    int64_t pulled_until;      /* when the server has forgotten all our pulls, of earlier links too */
    int64_t foreign_at;        /* when deliveries that were not ours were last seen; 0: never */
    int64_t due;               /* heap key */
    struct ev_nats_gap gap;
    struct ev_nats_holding *holding; /* exclusive: nats_lease_io.c's */
    bool active;                     /* exclusive: this member's turn */
    bool certain;                    /* ack_all: the core has all that is pending: ev_host_certain */
    uint64_t row;                    /* certain: the last delivery's consumer sequence */
    int64_t patience;                /* until when the pulls of the member before may be open */

    /* Leaving: detached, not quiet yet */
    struct ev_nats_binding *next_leaving;
    uint64_t leave_number; /* in its question */
    int64_t leave_until;
    bool leave_answered;
    bool parting; /* quiet, all settled or handed back: waits until the server has worked that off */
};

/* A subscription that pulls are answered on. */
struct ev_nats_inbox {
    struct ev_nats_core core;   /* owner NULL: that is how ev_nats_consume_core tells it apart */
    struct ev_nats_inbox *next; /* of those cut, oldest first */
    int64_t close_at;
};

struct ev_nats_bucket {
    struct ev_nats_inbox *inbox; /* NULL: none is open */
    int64_t fence;               /* cut: no pull before our own message is back, or before this; 0: not cut */
    struct ev_nats_binding *first;
};

/* What the core holds: a delivered message, and where to settle it. */
struct ev_nats_token {
    natsMsg *msg;
    natsMsg *address; /* a newer delivery of the same message; NULL: msg is */
    struct ev_nats_token *next;
    bool ack; /* false: nothing to settle */
};

struct ev_nats_slab {
    struct ev_nats_slab *next;
    struct ev_nats_token tokens[EV_NATS_SLAB];
};

struct ev_nats_consume {
    struct ev_nats_binding **table; /* by id, chained */
    uint32_t table_mask;
    struct ev_nats_binding **bindings; /* by index; NULL: free */
    uint32_t bindings_cap, bindings_count;
    uint32_t bindings_top;         /* indexes in use are below */
    uint32_t bindings_hint;        /* free ones are not below */
    struct ev_nats_binding *last;  /* of the last delivery */
    struct ev_nats_binding **heap; /* heap[1] is the next due */
    uint32_t heap_count;
    uint32_t arm_at; /* after link up: bindings below have been served */
    struct ev_nats_bucket buckets[EV_NATS_BUCKETS];
    uint32_t bucket_count;          /* in use; fewer in tests */
    bool as_clustered;              /* in tests: the server counts as one of several */
    uint64_t as_floor, as_position; /* in tests: at least that is what its replicas have agreed on; 0: no more */
    uint64_t as_floor_most;         /* in tests: no more than that is it; 0: all */
    uint64_t as_pending;            /* in tests: its leader knows of no more that are pending; 0: of all */
    struct ev_nats_inbox *cut, *cut_last;
    struct ev_nats_binding *leaving, *leaving_last; /* oldest first */
    uint64_t inbox_last, pull_last, leave_last;
    uint32_t gaps_busy; /* bindings with a question of the gap rule open */
    struct ev_nats_slab *slabs;
    struct ev_nats_token *free_tokens;
    int64_t expires_ns, heartbeat_ns; /* of a pull, with few bindings */

    /* Statistics, for tests and the log */
    uint64_t tokens_live, delivered, strays, refused, odd, pulls_sent, returned, missed, cuts;
    uint64_t below;                                             /* the ack floor, and delivered */
    uint64_t fenced;                                            /* came although it was another member's turn */
    uint64_t gaps, gaps_told, gaps_off, gaps_slow, gaps_listed; /* looked at; messages asked for again; ... */
    uint64_t step_downs;                                        /* leaders that were asked to */
    uint64_t gaps_gathered, gaps_let_go;
    bool stray_logged, refused_logged, denied_logged;
};

/* ---- nats_pull.c: [loop] ----------------------------------------------------------------------------------------- */

/* Pulls if there is room and nothing speaks against it; otherwise sees to it that it is looked at again in time. */
void ev_nats_pull_consider(struct ev_nats *st, struct ev_nats_binding *b);
/* A message came: it uses up credit. `size` as the server counts, as far as we can know. */
void ev_nats_pull_delivered(struct ev_nats *st, struct ev_nats_binding *b, uint64_t size);
/* All credit is void: the link is gone, or the pulls are. */
void ev_nats_pull_reset(struct ev_nats_binding *b);
/* No pull for a while: 100 ms, doubled each time up to 10 s, with jitter; reset by any sign of life. */
void ev_nats_pull_back_off(struct ev_nats *st, struct ev_nats_binding *b);
/* A message on a pull inbox that is no delivery. */
void ev_nats_pull_status(struct ev_nats *st, natsMsg *msg, const char *rest);
/* "Nobody answers" came to one of the pulls of this bucket. */
void ev_nats_pull_unanswered(struct ev_nats *st, struct ev_nats_bucket *k);
/* The consumer is gone for us: tells the core, once. */
void ev_nats_pull_lost(struct ev_nats *st, struct ev_nats_binding *b, evbus_status cause, const char *text);
/* Asks whether the consumer exists; the answer comes to ev_nats_pull_probed. */
void ev_nats_pull_probe(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_pull_probed(struct ev_nats *st, natsMsg *msg, const char *rest);

/* Nothing came for more than two heartbeats although a pull is open. */
void ev_nats_pull_missed(struct ev_nats *st, struct ev_nats_binding *b);

/* The subject of an API verb for this binding: "<api>.<verb>.<stream>.<consumer>". */
#define EV_NATS_SUBJECT_MAX (3 * EV_NAME_MAX)
void ev_nats_pull_subject(const struct ev_nats *st, const struct ev_nats_binding *b, const char *verb,
                          char out[EV_NATS_SUBJECT_MAX]);

/* ---- nats_roster.c: [loop] --------------------------------------------------------------------------------------- */

/* Join and leave the bindings that are pulled for. False: no memory. Leaving ends its pulls at the server. */
bool ev_nats_pull_join(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_pull_leave(struct ev_nats *st, struct ev_nats_binding *b);

/* To be looked at again at `at` at the latest; not at all. */
void ev_nats_pull_schedule(struct ev_nats_consume *c, struct ev_nats_binding *b, int64_t at);
void ev_nats_pull_unschedule(struct ev_nats_consume *c, struct ev_nats_binding *b);

/* Ends all pulls of a bucket at the server; what is under way still comes. */
void ev_nats_pull_cut(struct ev_nats *st, struct ev_nats_bucket *k);
/* Our own message after a cut is back: "<bucket>". */
void ev_nats_pull_fenced(struct ev_nats *st, const char *rest);

/* The bucket's inbox, opened if need be; NULL: no memory. */
struct ev_nats_inbox *ev_nats_pull_inbox(struct ev_nats *st, struct ev_nats_bucket *k);

/* ---- nats_gap.c: [loop] ------------------------------------------------------------------------------------------ */

#define EV_NATS_GAPS_BUSY 256u /* bindings that ask at the same time after link up */

/* No pull before it is closed. Only while up, and only when no pull is open; does nothing if it is not exclusive. */
void ev_nats_gap_begin(struct ev_nats *st, struct ev_nats_binding *b);
/* As soon as no pull is open. */
void ev_nats_gap_later(struct ev_nats *st, struct ev_nats_binding *b);
/* Its time has come, and all that was read is handed on. */
void ev_nats_gap_turn(struct ev_nats *st, struct ev_nats_binding *b);
/* The link or the binding ends. */
void ev_nats_gap_end(struct ev_nats *st, struct ev_nats_binding *b);
/* A message on "<inbox>.c.g.<rest>". */
void ev_nats_gap_answer(struct ev_nats *st, natsMsg *msg, const char *rest);
/* A delivery that no binding knows: true if it is of a list. */
bool ev_nats_gap_listed(struct ev_nats *st, struct ev_nats_binding *chain, const struct ev_nats_ackref *ref);
/* The server refused one of its messages; or, settling, any verdict. */
void ev_nats_gap_denied(struct ev_nats *st, struct ev_nats_binding *b, bool settling, const char *text);

/* ---- nats_frontier.c: [loop]; of bindings with frontier acks (ack_all), with others they do nothing --------------- */

/* What was delivered may not be here. */
void ev_nats_frontier_doubt(struct ev_nats *st, struct ev_nats_binding *b);
/* All of it is: as the gap rule found. */
void ev_nats_frontier_certain(struct ev_nats *st, struct ev_nats_binding *b);
/* It was asked for: the gap rule looks again after the next pull. */
void ev_nats_frontier_look_again(struct ev_nats_binding *b);
/* As many as are pending are here. */
bool ev_nats_frontier_all_here(struct ev_nats *st, const struct ev_nats_binding *b);
/* It did not come: is it in the stream at all? So it is listed; then: all of the list is here. */
bool ev_nats_frontier_lists(const struct ev_nats_binding *b);
bool ev_nats_frontier_all_listed(struct ev_nats *st, const struct ev_nats_binding *b);
/* It is not. When that goes on, the consumer's leader is asked to step down. */
void ev_nats_frontier_missing(struct ev_nats *st, struct ev_nats_binding *b);
/* How many of what is delivered and not settled must be here, at most. */
uint64_t ev_nats_frontier_pending(const struct ev_nats_consumer *have);
/* It lies at or below the ack floor: nobody's any more, and the server takes no ack of it. */
bool ev_nats_frontier_is_settled(struct ev_nats *st, struct ev_nats_binding *b, const struct ev_nats_ackref *ref);
/* All up to the ack floor is settled: the leader may not know. */
void ev_nats_frontier_tell_floor(struct ev_nats *st, struct ev_nats_binding *b);
/* A delivery comes; one was not taken by the core. */
void ev_nats_frontier_row(struct ev_nats *st, struct ev_nats_binding *b, uint64_t consumer_seq);
void ev_nats_frontier_refused(struct ev_nats *st, struct ev_nats_binding *b);

/* ---- nats_gather.c: [loop] --------------------------------------------------------------------------------------- */

/* The server's count of deliveries left some out (or went back: another server is the consumer's leader now). They were
 * lost between two servers, or another client has them. */
void ev_nats_gap_suspected(struct ev_nats *st, struct ev_nats_binding *b, uint64_t left_out);
/* A delivery was handed to the core; `fresh`: for the first time. */
void ev_nats_gap_delivered(struct ev_nats *st, struct ev_nats_binding *b, uint64_t stream_seq, bool fresh);
/* A pull stands open and the server has nothing for it. */
void ev_nats_gap_idle(struct ev_nats *st, struct ev_nats_binding *b);
/* For the gap rule: it told, or waited, and closes. */
void ev_nats_gather_told(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_gather_waited(struct ev_nats *st, struct ev_nats_binding *b, int64_t until);
/* Before it tells: what was not started is let go where there is no room for what is missing. */
void ev_nats_gather_room(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_gather_turn(struct ev_nats *st, struct ev_nats_binding *b);
/* All that was pending is here; or it is known to come in order. */
void ev_nats_gather_end(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_gather_forget(struct ev_nats_gap *gap); /* what was seen; the core goes on gathering */

/* ---- nats_leave.c: [loop] ---------------------------------------------------------------------------------------- */

/* Ends in ev_host_quiet, perhaps within. `b` may be gone then. */
void ev_nats_leave(struct ev_nats *st, struct ev_nats_binding *b);
void ev_nats_leave_answer(struct ev_nats *st, const char *rest); /* "<inbox>.c.l.<rest>", or its refusal */
void ev_nats_leave_unanswered(struct ev_nats *st);               /* nobody takes acks: last words have no answer */
bool ev_nats_leave_turn(struct ev_nats *st);
int64_t ev_nats_leave_due(const struct ev_nats *st);
void ev_nats_leave_down(struct ev_nats *st);

/* ---- nats_lease_io.c: [loop] unless it says otherwise ------------------------------------------------------------ */

evbus_status ev_nats_members_init(struct ev_nats *st); /* [any] from open */
void ev_nats_members_fini(struct ev_nats *st);         /* [any] safe without init */
void ev_nats_members_up(struct ev_nats *st);
void ev_nats_members_down(struct ev_nats *st);
bool ev_nats_members_turn(struct ev_nats *st);
int64_t ev_nats_members_due(const struct ev_nats *st);
void ev_nats_members_shut(struct ev_nats *st); /* what we had is the others' */
/* The stream of the records is there, and was made just now: others may act on what was in the last one. [any] */
void ev_nats_members_ready(struct ev_nats *st, bool made);
bool ev_nats_members_are_ready(const struct ev_nats *st); /* [any] */

/* An exclusive binding lines up. */
void ev_nats_members_join(struct ev_nats *st, struct ev_nats_binding *b);
/* It has nothing any more, and the server has worked off what it was told: the next member's turn. */
void ev_nats_members_leave(struct ev_nats *st, struct ev_nats_binding *b);
/* How long it may still pull; 0: not at all. */
int64_t ev_nats_members_right(const struct ev_nats *st, const struct ev_nats_binding *b);
void ev_nats_members_answer(struct ev_nats *st, natsMsg *msg, const char *rest); /* "<inbox>.c.e.<rest>" */
void ev_nats_members_asked(struct ev_nats *st, natsMsg *msg);                    /* "<inbox>.c.y": are we here */
/* The permissions forbid this subject: true if it is one of ours. */
bool ev_nats_members_denied(struct ev_nats *st, const char *subject, const char *text);
void ev_nats_members_deaf(struct ev_nats *st, const struct ev_nats_core *core, const char *text);

/* ---- nats_consume.c: [loop] -------------------------------------------------------------------------------------- */

/* Deliveries of its consumer are not for it any more. */
void ev_nats_binding_forget(struct ev_nats_consume *c, struct ev_nats_binding *b);
struct ev_nats_binding *ev_nats_binding_find(struct ev_nats_consume *c, const struct ev_nats_ackref *ref);

#endif
