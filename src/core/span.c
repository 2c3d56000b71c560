/* SPDX-License-Identifier: Apache-2.0 */
#include "core/span.h"

#include "base/alloc.h"
#include "conc/atomic.h"

#include <string.h>

/* Room for as many holes at first. */
#define FIRST_HOLES 16u

/* The first hole that ends at or after `seq`. What is new lies behind all of them: that is found at once. */
static uint32_t place(const struct ev_span *s, uint64_t seq)
{
    uint32_t low = 0, high = s->count;

    if (high == 0 || s->holes[high - 1].last < seq)
        return high;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (s->holes[middle].last < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void remove_at(struct ev_span *s, uint32_t i, uint32_t n)
{
    memmove(&s->holes[i], &s->holes[i + n], (s->count - i - n) * sizeof s->holes[0]);
    s->count -= n;
}

/* Those that lie no farther from each other than `distance` become one, the lowest first, until `few` are left. */
static uint64_t join(struct ev_span *s, uint64_t distance, uint32_t few)
{
    uint64_t nearest = UINT64_MAX;
    uint32_t kept = 0;

    for (uint32_t i = 1, left = s->count; i < s->count; i++) {
        const uint64_t apart = s->holes[i].first - s->holes[kept].last;
        if (apart <= distance && left > few) {
            s->holes[kept].last = s->holes[i].last;
            left--;
            continue;
        }
        nearest = apart < nearest ? apart : nearest;
        s->holes[++kept] = s->holes[i];
    }
    s->count = kept + 1;
    return nearest;
}

/* An eighth of them goes, those with the least between them first: one by one it would be a walk over all for each delivery
 * where other topics share the stream. */
static void thin_out(struct ev_span *s)
{
    const uint32_t few = s->count - s->count / 8;

    for (uint64_t distance = join(s, 0, few); s->count > few;
         distance = distance > UINT64_MAX / 2 ? UINT64_MAX : distance * 2)
        (void)join(s, distance, few);
}

/* Room for one more: of memory, or made by joining. False: neither, so never once there was a hole. */
static bool make_room(struct ev_span *s)
{
    const uint32_t most = s->most > EV_SPAN_HOLES ? s->most : EV_SPAN_HOLES;
    uint32_t more = s->room ? s->room * 2 : FIRST_HOLES;

    if (s->count < s->room)
        return true;
    more = more < most ? more : most;
    struct ev_span_hole *holes = more > s->room ? ev_realloc(s->holes, more * sizeof *holes) : NULL;
    if (holes) {
        s->holes = holes;
        s->room = more;
    } else if (s->count > 0) {
        thin_out(s);
    }
    return s->count < s->room;
}

/* All that it touches become one with it. False: there are none. */
static bool widen(struct ev_span *s, uint64_t first, uint64_t last)
{
    const uint32_t i = place(s, first - 1);
    uint32_t n = 0;

    for (; i + n < s->count && s->holes[i + n].first <= last + 1; n++) {
        first = s->holes[i + n].first < first ? s->holes[i + n].first : first;
        last = s->holes[i + n].last > last ? s->holes[i + n].last : last;
    }
    if (n == 0)
        return false;
    s->holes[i].first = first;
    s->holes[i].last = last;
    remove_at(s, i + 1, n - 1);
    return true;
}

/* False: no memory; never once there was a hole. */
static bool dig(struct ev_span *s, uint64_t first, uint64_t last)
{
    if (widen(s, first, last))
        return true;
    if (!make_room(s))
        return false;
    if (widen(s, first, last)) /* one that was made by joining */
        return true;
    const uint32_t i = place(s, first);
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
        remove_at(s, i, 1);
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
    s->room = s->count = 0;
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
