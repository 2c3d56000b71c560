/* SPDX-License-Identifier: Apache-2.0 */
/* A subscription: the application's handle, the loop's account of it. */
#ifndef EV_CORE_SUB_H
#define EV_CORE_SUB_H

#include "base/alloc.h"
#include "core/breaker.h"
#include "core/bus.h"
#include "core/frontier.h"
#include "core/settled.h"
#include "core/span.h"
#include "core/tail.h"

#define EV_PAUSES_MAX 32

/* What came. There are many subscriptions to which nothing ever comes. */
struct ev_past {
    struct ev_settled settled; /* envelopes */
    struct ev_span span;       /* of a stream */
    struct ev_span given;      /* without what follows from the broker's count: only what came */
    uint64_t stream;           /* which one: `bound_to` as it was; 0: not certain */
    int64_t made_ns;           /* ack_all: of the consumer that counted, when it was certain the last time */
};

enum ev_sub_state {
    EV_SUB_BINDING, /* [app] its consumer is being made */
    EV_SUB_ATTACHED,
    EV_SUB_STOPPING, /* nothing new starts; running handlers end */
    EV_SUB_GONE
};

struct evbus_sub {
    /* Immutable once attached */
    evbus *bus;
    struct ev_topic *topic; /* its name may be a pattern */
    evbus_handler fn;
    void *ctx;
    bool envelope;
    bool letters;                  /* what nobody can handle goes to a dead-letter topic */
    uint32_t pause_count;          /* of `pauses` */
    evbus_sub_opts o;              /* defaults filled in; strings are copies */
    uint32_t *pauses;              /* retry_list_ms; NULL: none */
    const char *group;             /* interned; "" for fanout */
    struct ev_topic *letter_topic; /* NULL: it has no letters (plain, or fan-out that named none), or none yet */
    struct {
        uint64_t id;
        bool durable, ack_explicit, ack_all, exclusive;
    } consumer; /* as struct ev_consumer_cfg, which is made of it for binding: there are many that are idle */
    _Atomic(const char *) stream; /* interned; may change when a lost consumer is bound again */

    _Atomic(uint32_t) stop;   /* 1: workers start nothing of it any more */
    _Atomic(uint32_t) state;  /* enum ev_sub_state, for those who wait */
    _Atomic(uint32_t) defers; /* 1: its handlers return EVBUS_DEFER: whoever ends it may be the one who settles */
    _Atomic(uint32_t) active; /* 1: it may act; EXCLUSIVE envelopes: as the backend says. Written by the loop: D9 */

    struct ev_watched watched;

    /* [loop]; `binding` is replaced by the loop alone */
    void *binding;
    uint32_t held, out; /* messages here; of those with workers or deferred */
    uint64_t held_bytes;
    uint32_t waiting; /* behind failing heads */
    uint32_t hot;     /* aggregates above their own bound */
    int64_t rate;     /* rate.c's bucket */
    struct ev_progress progress;
    bool stalled, dirty, rebinding;
    bool moving;          /* rebinding, once nothing comes from the old binding */
    bool detached;        /* it pulls no more */
    bool quiet;           /* and nothing is under way to it any more */
    bool gathering;       /* nothing starts: what comes is put in the order of the stream first */
    bool stopping;        /* ev_dispatch_stop is at work: it has not ended yet, whatever the counts say */
    bool leaving;         /* all is settled or handed back; the broker is to work that off */
    bool left;            /* it has */
    bool foreign_seen;    /* reported */
    bool letters_fail;    /* reported: the dead-letter topic does not take them */
    bool standing_by;     /* reported: another member is active */
    bool lagging;         /* in the list of those whose frontier is to be told */
    bool frontier_held;   /* reported: nothing moves */
    bool dismissed;       /* by evbus_unsubscribe, not by the bus's end */
    bool unsubscribed;    /* guarded by bus->mutex: the handle is spent */
    bool nobody_waits;    /* unsubscribed inside its own handler; written before `halt` is posted */
    struct ev_tail *tail; /* NULL: it does not park */
    struct ev_breaker breaker;
    struct evbus_sub *next_attached, *next_dirty;
    evbus_msg *oldest, *newest;  /* by lease time */
    struct ev_past *past;        /* made at the first message */
    _Atomic(uint64_t) bound_to;  /* which stream, by name and making; written by who binds, before it attaches */
    uint64_t sequence_top;       /* nothing above it was ever delivered here: needs not be looked for */
    struct ev_frontier frontier; /* with frontier acks; made at the first message */
    struct evbus_sub *next_lagging;
    int64_t frontier_lease;  /* when what is finished in it was last extended */
    uint64_t frontier_front; /* the first of it when it was looked at; 0: nothing */
    uint64_t finish_to;      /* stopping: up to here everything is still handled; 0: nothing is */
    uint32_t left_back, left_dropped, left_unsettled, left_unhandled; /* for the report */

    /* Ending */
    struct ev_command bound; /* it has a binding: the first one, and later a new one */
    struct ev_command halt;
    struct ev_chore rebind;
    void *fresh; /* a new binding on its way to the loop */
    uint32_t rebind_tries,
        rebind_told;        /* [keeper] since it was lost: attempts; which statuses were reported, a bit each */
    struct evbus_sub *next; /* bus->subs; guarded by bus->mutex */
};

/* Nothing new starts; but for what finish_to says. */
static inline bool ev_sub_stops(const struct evbus_sub *sub)
{
    return ev_load_relaxed(&sub->stop) || sub->finish_to > 0; /* written by the loop, or on its behalf */
}

/* What the broker may have delivered and not heard of, of all members. */
static inline uint32_t ev_sub_window(const struct evbus_sub *sub)
{
    return sub->o.inflight_max * (sub->o.membership == EVBUS_SHARED ? 16 : 1);
}

/* What its consumer is called. [any] */
void ev_sub_consumer_name(const struct evbus_sub *sub, char out[EV_NAME_MAX]);

/* `past`, made if it is not there. False: no memory. [loop] */
bool ev_sub_make_past(struct evbus_sub *sub);
static inline bool ev_sub_has_past(struct evbus_sub *sub)
{
    return sub->past || ev_sub_make_past(sub);
}

/* Nothing is known any more of what came: ev_span_forget. [loop] */
void ev_sub_forget_given(struct evbus_sub *sub);

/* If nothing of it is here or under way: ev_sub_ended follows once the broker has worked off what it was told. [loop] */
void ev_sub_check_ended(struct evbus_sub *sub);
void ev_sub_left(struct evbus_sub *sub);

/* retry.c: the rules of the options; the list of pauses, copied; the pause after a run that failed. */
evbus_status ev_retry_check(const evbus_sub_opts *o);
evbus_status ev_retry_take(struct evbus_sub *sub);
int64_t ev_retry_pause(const evbus_msg *msg);

/* The loop's last word about a stopping subscription: its waiters may go on, or it is freed if none does. [loop] */
void ev_sub_ended(struct evbus_sub *sub);
/* Its consumer is gone: bind again on the housekeeping thread. [loop] */
void ev_sub_rebind(struct evbus_sub *sub, evbus_status cause, const char *text);
/* The same for one that may well be there, without an event: first its binding ends in order, up to ev_sub_moved. [loop] */
void ev_sub_bind_again(struct evbus_sub *sub);
void ev_sub_moved(struct evbus_sub *sub); /* nothing comes from its binding any more */
/* Frees what is left. Nothing else runs. */
void ev_subs_fini(evbus *bus);

#endif
