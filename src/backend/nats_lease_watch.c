/* SPDX-License-Identifier: Apache-2.0 */
/* The members that have what we wait for: is their time over? */
#include "backend/nats_lease.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <string.h>

#define PROBE_TIME (300 * EV_MS)
#define PROBE_IDLE (300 * EV_MS) /* the turn of one that died is over after this and EV_LEASE_QUICK */
#define AGAIN (100 * EV_MS)
#define NOBODY_MIN 4u
#define TTL_MIN (100 * EV_MS)
#define TTL_MAX (3600 * EV_SEC)

struct ev_lease_watch *ev_lease_watch(struct ev_leases *set, const char *id, int64_t now)
{
    struct ev_lease_watch *w = set->watches;

    while (w && strcmp(w->id, id) != 0)
        w = w->next;
    if (!w) {
        w = ev_calloc(1, sizeof *w);
        if (!w)
            return NULL;
        (void)ev_copy(w->id, sizeof w->id, id);
        w->read_at = now;
        w->next = set->watches;
        set->watches = w;
        ev_lease_kick(set, now);
    }
    w->refs++;
    return w;
}

void ev_lease_unwatch(struct ev_leases *set, struct ev_lease *l)
{
    struct ev_lease_watch *w = l->watch;

    l->watch = NULL;
    if (!w || --w->refs > 0)
        return;
    struct ev_lease_watch **link = &set->watches;
    while (*link != w)
        link = &(*link)->next;
    *link = w->next;
    if (set->probing == w)
        set->probing = NULL;
    ev_lease_op_end(set, &w->op);
    ev_free(w);
}

/* `by_us`: nobody else wrote anything since we looked. Otherwise the leases are read again first: of records that were
 * lost and made again the sequences may be those of the last ones. */
static void is_dead(struct ev_leases *set, struct ev_lease_watch *w, bool by_us, int64_t now)
{
    w->dead = true;
    for (struct ev_lease *l = set->leases; l; l = l->next) {
        if (l->watch != w || l->state != EV_LEASE_WAIT || l->op)
            continue;
        l->state = by_us ? EV_LEASE_TAKE : EV_LEASE_LOOK;
        l->inherited_ns = w->ttl_ns ? w->ttl_ns : set->ttl_ns;
        l->at = now;
    }
    ev_lease_kick(set, now);
}

static void depose(struct ev_leases *set, struct ev_lease_watch *w, int64_t now)
{
    ev_lease_op_end(set, &w->op);
    w->op = ev_lease_op_new(set, EV_OP_DEPOSE, w);
    w->op_at = now + ev_lease_op_time(set);
    w->nobody_since = 0;
    w->probe_at = now + PROBE_IDLE;
    if (w->op)
        set->io->write_member(set->ctx, w->op, w->id, w->seq, false);
    ev_lease_kick(set, w->op_at);
}

void ev_lease_watch_read(struct ev_leases *set, struct ev_lease_watch *w, const struct ev_lease_record *r, int64_t now)
{
    if (r->seq == 0 || !r->alive) {
        is_dead(set, w, false, now);
        return;
    }
    w->ttl_ns = r->ttl_ns < TTL_MIN ? TTL_MIN : r->ttl_ns > TTL_MAX ? TTL_MAX : r->ttl_ns;
    if (r->seq != w->seq) {
        w->seq = r->seq;
        w->seen = now;
        w->nobody_since = 0;
        (void)ev_copy(w->inbox, sizeof w->inbox, r->inbox);
        (void)ev_copy(w->server, sizeof w->server, r->server);
    }
    w->read_at = now + w->ttl_ns / 3 < w->seen + w->ttl_ns ? now + w->ttl_ns / 3 : w->seen + w->ttl_ns;
    if (now - w->seen >= w->ttl_ns)
        depose(set, w, now);
    ev_lease_kick(set, now);
}

/* The server that has our connection knows all of its own: of another one's it may not know for a while. */
static bool may_probe(const struct ev_leases *set, const struct ev_lease_watch *w)
{
    return w->seq != 0 && !w->dead && w->inbox[0] && w->server[0] && strcmp(w->server, set->server) == 0;
}

static void probe_turn(struct ev_leases *set, int64_t now)
{
    struct ev_lease_watch *next = NULL;

    if (set->probing && now >= set->probe_until) { /* undecided */
        set->probing->nobody_since = 0;
        set->probing->probe_at = now + AGAIN;
        set->probing = NULL;
    }
    if (set->probing) {
        ev_lease_kick(set, set->probe_until);
        return;
    }
    for (struct ev_lease_watch *w = set->watches; w; w = w->next)
        if (may_probe(set, w) && (!next || w->probe_at < next->probe_at))
            next = w;
    if (next && now >= next->probe_at) {
        set->probing = next;
        set->probe_until = now + PROBE_TIME;
        set->io->probe(set->ctx, next->inbox);
        ev_lease_kick(set, set->probe_until);
    } else if (next) {
        ev_lease_kick(set, next->probe_at);
    }
}

void ev_leases_probed(struct ev_leases *set, bool somebody, int64_t now)
{
    struct ev_lease_watch *w = set->probing;

    if (!w)
        return;
    set->probing = NULL;
    if (somebody) {
        w->nobody_since = 0;
        w->probe_at = now + PROBE_IDLE;
    } else if (w->nobody_since == 0) {
        w->nobody_since = now;
        w->nobody = 1;
        w->probe_at = now + AGAIN;
    } else {
        w->nobody++;
        w->probe_at = now + AGAIN;
        if (w->nobody >= NOBODY_MIN && now - w->nobody_since >= EV_LEASE_QUICK)
            depose(set, w, now);
    }
    ev_lease_kick(set, w->probe_at);
}

static void watch_turn(struct ev_leases *set, struct ev_lease_watch *w, int64_t now)
{
    if (w->dead)
        return;
    if (w->op && now >= w->op_at) {
        ev_lease_op_end(set, &w->op);
        w->read_at = now;
    }
    if (w->op) {
        ev_lease_kick(set, w->op_at);
        return;
    }
    if (now < w->read_at) {
        ev_lease_kick(set, w->read_at);
        return;
    }
    w->op = ev_lease_op_new(set, EV_OP_READ_WATCH, w);
    w->op_at = now + ev_lease_op_time(set);
    if (w->op)
        set->io->read_member(set->ctx, w->op, w->id);
    ev_lease_kick(set, w->op_at);
}

void ev_lease_deposed(struct ev_leases *set, struct ev_lease_watch *w, enum ev_lease_result result, int64_t now)
{
    w->read_at = result == EV_LEASE_FAILED ? now + AGAIN : now;
    ev_lease_kick(set, w->read_at);
    if (result != EV_LEASE_STORED)
        return;
    set->deposed++;
    set->io->forget_member(set->ctx, w->id);
    is_dead(set, w, true, now);
}

void ev_lease_watches_up(struct ev_leases *set, int64_t now)
{
    for (struct ev_lease_watch *w = set->watches; w; w = w->next) {
        w->read_at = w->probe_at = now;
        w->nobody_since = 0;
    }
}

void ev_lease_watches_down(struct ev_leases *set)
{
    set->probing = NULL;
    for (struct ev_lease_watch *w = set->watches; w; w = w->next)
        ev_lease_op_end(set, &w->op);
}

void ev_lease_watches_turn(struct ev_leases *set, int64_t now)
{
    for (struct ev_lease_watch *w = set->watches; w; w = w->next)
        watch_turn(set, w, now);
    probe_turn(set, now);
}
