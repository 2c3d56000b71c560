/* SPDX-License-Identifier: Apache-2.0 */
#include "core/span.h"

#include "base/alloc.h"
#include "conc/atomic.h"

#include <string.h>

/* The first hole that ends at or after `seq`. */
static uint32_t place(const struct ev_span *s, uint64_t seq)
{
    uint32_t i = 0;

    while (i < s->count && s->holes[i].last < seq)
        i++;
    return i;
}

static void remove_at(struct ev_span *s, uint32_t i)
{
    memmove(&s->holes[i], &s->holes[i + 1], (s->count - i - 1) * sizeof s->holes[0]);
    s->count--;
}

/* Makes room for one at `i`: the two that lie closest to each other become one. Returns where `i` is then. */
static uint32_t make_room(struct ev_span *s, uint32_t i)
{
    uint32_t best = 0;

    if (s->count < EV_SPAN_HOLES)
        return i;
    for (uint32_t k = 1; k + 1 < s->count; k++)
        if (s->holes[k + 1].first - s->holes[k].last < s->holes[best + 1].first - s->holes[best].last)
            best = k;
    s->holes[best].last = s->holes[best + 1].last;
    remove_at(s, best + 1);
    return i > best ? i - 1 : i;
}

/* False: no memory; never once there was a hole. */
static bool dig(struct ev_span *s, uint64_t first, uint64_t last)
{
    if (!s->holes && !(s->holes = ev_calloc(EV_SPAN_HOLES, sizeof s->holes[0])))
        return false;
    uint32_t i = make_room(s, place(s, first));

    /* All that it touches become one with it. */
    while (i < s->count && s->holes[i].first <= last) {
        first = s->holes[i].first < first ? s->holes[i].first : first;
        last = s->holes[i].last > last ? s->holes[i].last : last;
        remove_at(s, i);
    }
    memmove(&s->holes[i + 1], &s->holes[i], (s->count - i) * sizeof s->holes[0]);
    s->holes[i].first = first;
    s->holes[i].last = last;
    s->count++;
    return true;
}

static void fill(struct ev_span *s, uint64_t seq)
{
    const uint32_t i = place(s, seq);

    if (i == s->count || s->holes[i].first > seq)
        return;
    const uint64_t last = s->holes[i].last;
    if (s->holes[i].first == seq && last == seq) {
        remove_at(s, i);
    } else if (s->holes[i].first == seq) {
        s->holes[i].first++;
    } else {
        s->holes[i].last = seq - 1;
        if (last > seq)
            (void)dig(s, seq + 1, last);
    }
}

void ev_span_fini(struct ev_span *s)
{
    ev_free(s->holes);
    s->holes = NULL;
}

void ev_span_count(struct ev_span *s, uint64_t consumer_seq, bool *ret_in_a_row)
{
    s->missed = s->missed || consumer_seq != s->last + 1 || s->last == 0;
    *ret_in_a_row = !s->missed || EV_BUG(EV_BUG_SPAN_NO_HOLES);
    s->last = consumer_seq;
}

/* Nothing else is known, but for what was settled below it. */
static void begin(struct ev_span *s, uint64_t seq, int64_t stored_ns, uint64_t floor)
{
    s->bottom = s->top = seq;
    s->top_ns = stored_ns;
    s->floor = 0;
    s->count = 0;
    s->missed = false;
    if (floor > 0 && floor < seq && (floor + 1 == seq || dig(s, floor + 1, seq - 1)))
        s->bottom = 1;
}

void ev_span_add(struct ev_span *s, uint64_t seq, int64_t stored_ns, bool in_a_row)
{
    if (s->top == 0) {
        begin(s, seq, stored_ns, s->floor);
    } else if (seq <= s->top && stored_ns > s->top_ns) {
        begin(s, seq, stored_ns, 0);
    } else if (seq > s->top) {
        if (!in_a_row && seq > s->top + 1 && !dig(s, s->top + 1, seq - 1))
            s->bottom = seq;
        s->missed = false;
        s->top = seq;
        s->top_ns = stored_ns;
    } else if (seq < s->bottom) {
        if (s->bottom == seq + 1 || dig(s, seq + 1, s->bottom - 1))
            s->bottom = seq;
    } else {
        fill(s, seq);
    }
}

void ev_span_break(struct ev_span *s)
{
    s->last = 0;
}

void ev_span_settled(struct ev_span *s, uint64_t floor)
{
    if (s->top == 0 && floor > s->floor)
        s->floor = floor;
}

void ev_span_forget(struct ev_span *s)
{
    s->last = s->bottom = s->top = s->floor = 0;
    s->count = 0;
}

void ev_span_hand_back(struct ev_span *s, uint64_t seq)
{
    if (s->top != 0 && seq >= s->bottom && seq <= s->top && !dig(s, seq, seq))
        ev_span_forget(s);
}

bool ev_span_has(const struct ev_span *s, uint64_t seq, int64_t stored_ns)
{
    if (s->top == 0 || seq < s->bottom || seq > s->top || stored_ns > s->top_ns)
        return false;
    const uint32_t i = place(s, seq);
    return i == s->count || s->holes[i].first > seq;
}
