/* SPDX-License-Identifier: Apache-2.0 */
#include "core/frontier.h"

#include "base/alloc.h"
#include "conc/atomic.h"

bool ev_frontier_init(struct ev_frontier *f, uint32_t capacity)
{
    uint32_t cap = 16;

    while (cap < capacity)
        cap *= 2;
    f->ring = ev_calloc(cap, sizeof *f->ring);
    f->mask = cap - 1;
    return f->ring != NULL;
}

void ev_frontier_fini(struct ev_frontier *f)
{
    ev_free(f->ring);
    *f = (struct ev_frontier){0};
}

void ev_frontier_clear(struct ev_frontier *f)
{
    f->head = f->count = f->ready = 0;
    f->certain = false;
}

/* The place of the first one that is not below `seq`. Where nothing is missing in between it is found at once. */
static uint32_t place(const struct ev_frontier *f, uint64_t seq)
{
    uint32_t low = 0, high = f->count;

    if (high == 0 || ev_frontier_entry(f, high - 1)->seq < seq)
        return high;
    const uint64_t ahead = seq - ev_frontier_entry(f, 0)->seq;
    if (ev_frontier_entry(f, 0)->seq <= seq && ahead < high && ev_frontier_entry(f, (uint32_t)ahead)->seq == seq)
        return (uint32_t)ahead;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (ev_frontier_entry(f, middle)->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct ev_frontier_entry *find(const struct ev_frontier *f, uint64_t seq, uint32_t *ret_at)
{
    const uint32_t at = place(f, seq);

    *ret_at = at;
    return at < f->count && ev_frontier_entry(f, at)->seq == seq ? ev_frontier_entry(f, at) : NULL;
}

static void count_ready(struct ev_frontier *f)
{
    while (f->ready < f->count && ev_frontier_entry(f, f->ready)->open == 0)
        f->ready++;
}

/* More than the window: a member before us may have had a larger one, and all it left must be here. */
static bool grow(struct ev_frontier *f)
{
    struct ev_frontier_entry *ring =
        f->ring && f->mask < EV_FRONTIER_MAX - 1 ? ev_calloc(((size_t)f->mask + 1) * 2, sizeof *ring) : NULL;

    if (!ring)
        return false;
    for (uint32_t i = 0; i < f->count; i++)
        ring[i] = *ev_frontier_entry(f, i);
    ev_free(f->ring);
    f->ring = ring;
    f->mask = f->mask * 2 + 1;
    f->head = 0;
    return true;
}

static struct ev_frontier_entry *insert(struct ev_frontier *f, uint32_t at, uint64_t seq)
{
    if ((!f->ring || f->count > f->mask) && !grow(f))
        return NULL;
    for (uint32_t i = f->count++; i > at; i--)
        *ev_frontier_entry(f, i) = *ev_frontier_entry(f, i - 1);
    *ev_frontier_entry(f, at) = (struct ev_frontier_entry){.seq = seq};
    if (at < f->ready)
        f->ready = at;
    return ev_frontier_entry(f, at);
}

bool ev_frontier_add(struct ev_frontier *f, uint64_t seq, uint64_t consumer_seq)
{
    uint32_t at;
    struct ev_frontier_entry *e = find(f, seq, &at);

    if (!e && !(e = insert(f, at, seq)))
        return false;
    f->top = consumer_seq > f->top ? consumer_seq : f->top;
    e->open += e->absent ? 0 : 1;
    e->absent = false;
    if (at < f->ready)
        f->ready = at;
    return true;
}

bool ev_frontier_again(struct ev_frontier *f, uint64_t seq, uint64_t consumer_seq, bool finished)
{
    uint32_t at;
    struct ev_frontier_entry *e = find(f, seq, &at);

    f->top = consumer_seq > f->top ? consumer_seq : f->top;
    if (e)
        return true;
    if (!(e = insert(f, at, seq))) {
        f->certain = false; /* what is not in here must not be acked */
        return false;
    }
    e->open = finished ? 0 : 1;
    count_ready(f);
    return true;
}

void ev_frontier_absent(struct ev_frontier *f, uint64_t seq)
{
    uint32_t at;
    struct ev_frontier_entry *e = find(f, seq, &at);

    if (e)
        e->absent = true;
}

bool ev_frontier_has(const struct ev_frontier *f, uint64_t seq)
{
    uint32_t at;
    const struct ev_frontier_entry *e = f->count > 0 ? find(f, seq, &at) : NULL;

    return e && !e->absent;
}

void ev_frontier_finish(struct ev_frontier *f, uint64_t seq)
{
    uint32_t at;
    struct ev_frontier_entry *e = find(f, seq, &at);

    if (!e || e->open == 0)
        return;
    e->open--;
    if (at == f->ready)
        count_ready(f);
}

void ev_frontier_certain(struct ev_frontier *f, uint64_t delivered, uint64_t floor, bool exact)
{
    f->certain = true;
    f->top = delivered;
    if (f->last < floor || (exact && f->last > delivered))
        f->last = floor;
}

/* Of an ack behind which so many stay. */
static uint64_t count_of(const struct ev_frontier *f, uint32_t stay)
{
    const uint64_t most = f->top > stay ? f->top - stay : 0;

    return most > f->last ? most : f->last + 1;
}

uint64_t ev_frontier_count_below(struct ev_frontier *f, uint64_t delivered, uint64_t floor)
{
    f->top = delivered > f->top ? delivered : f->top;
    if (f->last + 1 < floor)
        f->last = floor - 1;
    f->last = count_of(f, f->count);
    return f->last;
}

bool ev_frontier_at(const struct ev_frontier *f, uint64_t *ret_seq, uint64_t *ret_count)
{
    uint32_t n = f->ready;

    if (EV_BUG(EV_BUG_FRONTIER_PAST)) /* up to the last that is finished, whatever is not before it */
        for (n = f->count; n > 0 && ev_frontier_entry(f, n - 1)->open > 0;)
            n--;
    if (n == 0 || (!f->certain && !EV_BUG(EV_BUG_FRONTIER_CERTAIN)))
        return false;
    *ret_seq = ev_frontier_entry(f, n - 1)->seq;
    *ret_count = count_of(f, f->count - n);
    return true;
}

void ev_frontier_told(struct ev_frontier *f)
{
    f->last = count_of(f, f->count - f->ready);
    f->head += f->ready;
    f->count -= f->ready;
    f->ready = 0;
}

uint32_t ev_frontier_within(struct ev_frontier *f, uint64_t first, uint64_t last)
{
    const uint32_t below = place(f, first);
    uint32_t here = 0;

    f->head += below;
    f->count -= below;
    f->count = place(f, last + 1);
    f->ready = 0;
    count_ready(f);
    for (uint32_t i = 0; i < f->count; i++)
        here += !ev_frontier_entry(f, i)->absent;
    return here;
}
