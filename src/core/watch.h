/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What streams do behind our back. Brokers drop old messages without a word to those who have not had them yet, so the
 * housekeeping thread looks: is the stream's first message above all that this consumer was given (overtaken), is the
 * stream above 80 % of a limit. One durable subscription at a time, all of them every two seconds, or slower when they
 * are many. What it learns of the consumer goes to progress.c.
 *
 * Given is what was delivered here; where that is nothing, or others share the consumer, also what the broker delivered
 * to anybody; when a subscription is bound, what is settled. Sequences are counted: where the stream has other topics too, they are more than the messages missed.
 */
#ifndef EV_CORE_WATCH_H
#define EV_CORE_WATCH_H

#include "core/keeper.h"
#include "core/progress.h"

struct evbus_sub;

struct ev_watch {
    struct ev_chore chore;
    bool begun;       /* guarded by bus->mutex, as is `numbers` */
    uint64_t numbers; /* given to subscriptions */
    uint64_t last;    /* [keeper] number of the one looked at last */
    int64_t round;    /* [keeper] when this round began */
    struct ev_progress_question question;
};

/* Of one subscription. */
struct ev_watched {
    uint64_t number;           /* guarded by bus->mutex */
    uint64_t skipped_told;     /* likewise; of `skipped` */
    bool mute;                 /* likewise; the permissions forbid to ask for its consumer */
    bool near;                 /* likewise; it was said that its stream is near a limit */
    _Atomic(uint64_t) told;    /* all up to there is settled, or counted as dropped; housekeeping writes */
    _Atomic(uint64_t) seen;    /* highest sequence delivered here; the loop writes, as ... */
    _Atomic(uint64_t) arrived; /* deliveries; as `seen` */
    uint64_t arrived_then;     /* guarded by bus->mutex: at the last look */
    _Atomic(uint64_t) skipped; /* ... how many the broker left out between two deliveries in a row */
};

/* A delivery: sequences left out in a stream of one topic were dropped. [loop] */
static inline void ev_watch_seen(struct ev_watched *w, uint64_t seq, bool in_a_row)
{
    const uint64_t seen = ev_load_relaxed(&w->seen), told = ev_load_relaxed(&w->told); /* own field; a statistic */

    ev_count(&w->arrived, 1);
    if (seq <= seen)
        return;
    if (in_a_row && seen > 0 && seq - 1 > seen && seq - 1 > told)
        ev_count(&w->skipped, seq - 1 - (told > seen ? told : seen));
    ev_store_relaxed(&w->seen, seq); /* statistic */
}

/* A subscription is about to be attached to its consumer, or to a new one of the same name. Says which stream that is: by its name
 * and, as far as the broker says, when it was made. [any] */
uint64_t ev_watch_bound(struct evbus_sub *sub, const char *stream, int64_t deadline);

#endif
