/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/nats_lease.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "conc/atomic.h"

#include <string.h>

#define OP_MIN (100 * EV_MS) /* how long an answer is waited for */
#define OP_MAX (2 * EV_SEC)
#define RETRY (100 * EV_MS)
#define POLL (30 * EV_SEC) /* between looks at a lease somebody has, when changes are told */
#define FULL_PAUSE (2 * EV_MS)
#define OPS_OF_LEASES (EV_LEASE_OPS - 32u) /* the rest is for members */
#define HINT_LOOKS 7u
#define HINT_PAUSE (4 * EV_MS)

static void lease_turn(struct ev_leases *set, struct ev_lease *l, int64_t now);

void ev_lease_kick(struct ev_leases *set, int64_t at)
{
    if (at < set->due)
        set->due = at;
}

int64_t ev_lease_op_time(const struct ev_leases *set)
{
    const int64_t sixth = set->ttl_ns / 6;

    return sixth < OP_MIN ? OP_MIN : sixth > OP_MAX ? OP_MAX : sixth;
}

/* ---- Requests under way ------------------------------------------------------------------------------------------ */

/* 0: too many. */
uint64_t ev_lease_op_new(struct ev_leases *set, uint8_t kind, void *object)
{
    const uint32_t most = kind >= EV_OP_READ_LEASE ? OPS_OF_LEASES : EV_LEASE_OPS;

    if (set->ops_used >= most)
        return 0;
    do
        set->op_last++;
    while (set->op_last == 0 || set->ops[set->op_last % EV_LEASE_OPS].op != 0);
    struct ev_lease_op *o = &set->ops[set->op_last % EV_LEASE_OPS];
    *o = (struct ev_lease_op){.op = set->op_last, .kind = kind, .object = object};
    set->ops_used++;
    return o->op;
}

void ev_lease_op_end(struct ev_leases *set, uint64_t *op)
{
    struct ev_lease_op *o = &set->ops[*op % EV_LEASE_OPS];

    if (*op != 0 && o->op == *op) {
        o->op = 0;
        set->ops_used--;
    }
    *op = 0;
}

/* ---- Ourselves --------------------------------------------------------------------------------------------------- */

int64_t ev_leases_rights(const struct ev_leases *set)
{
    return set->linked && set->in && set->confirmed ? set->until : 0;
}

static bool may_act(const struct ev_leases *set, int64_t now)
{
    return now < ev_leases_rights(set);
}

/* A tenth for clocks that do not run alike, and for what is between a look at the clock and the deed. */
static int64_t margin(const struct ev_leases *set)
{
    return set->ttl_ns / 10;
}

/* Those that can go on now. */
static void go_on(struct ev_leases *set, int64_t now)
{
    for (struct ev_lease *l = set->leases; l; l = l->next)
        if (!l->op && (l->state == EV_LEASE_TAKE || (l->state == EV_LEASE_HELD && !l->active)))
            l->at = now;
    ev_lease_kick(set, now);
}

/* Somebody deposed us, or the records are gone: others may have what was ours. Line up again, as a new member. */
static void lose(struct ev_leases *set, int64_t now)
{
    set->lost++;
    ev_lease_op_end(set, &set->op);
    set->id[0] = 0;
    set->seq = 0;
    set->in = set->doubt = set->confirmed = false;
    set->first_sent = set->until = 0;
    set->renew_at = now + RETRY;
    for (struct ev_lease *l = set->leases, *next; l; l = next) {
        const bool had = l->active;
        next = l->next;
        ev_lease_op_end(set, &l->op);
        l->told |= had;
        l->active = l->check = false;
        l->state = EV_LEASE_LOOK;
        l->at = now;
        if (had) /* may end in its release */
            set->io->active(set->ctx, l, false);
    }
    ev_lease_kick(set, now);
}

static void leave(struct ev_leases *set)
{
    if (set->id[0] && set->linked) {
        if (set->in)
            set->io->write_member(set->ctx, 0, set->id, set->seq, false);
        set->io->forget_member(set->ctx, set->id);
    }
    ev_lease_op_end(set, &set->op);
    set->id[0] = 0;
    set->seq = 0;
    set->in = set->doubt = set->confirmed = false;
    set->first_sent = set->until = set->renew_at = 0;
}

static void renew(struct ev_leases *set, int64_t now)
{
    set->op = ev_lease_op_new(set, EV_OP_WRITE_SELF, NULL);
    set->op_at = now + ev_lease_op_time(set);
    set->sent = now;
    if (set->first_sent == 0)
        set->first_sent = now;
    if (set->op)
        set->io->write_member(set->ctx, set->op, set->id, set->seq, true);
}

static void self_turn(struct ev_leases *set, int64_t now)
{
    if (!set->leases) {
        leave(set);
        return;
    }
    if (set->op && now >= set->op_at) {
        ev_lease_op_end(set, &set->op);
        set->doubt = true;
    }
    if (set->op) {
        ev_lease_kick(set, set->op_at);
        return;
    }
    if (now < set->renew_at) {
        ev_lease_kick(set, set->renew_at);
        return;
    }
    if (!set->id[0]) {
        ev_put_hex16(set->id, set->io->random(set->ctx));
        set->id[EV_LEASE_ID] = 0;
    }
    if (set->doubt) {
        set->op = ev_lease_op_new(set, EV_OP_READ_SELF, NULL);
        set->op_at = now + ev_lease_op_time(set);
        if (set->op)
            set->io->read_member(set->ctx, set->op, set->id);
    } else {
        renew(set, now);
    }
    ev_lease_kick(set, set->op_at);
}

static void self_wrote(struct ev_leases *set, enum ev_lease_result result, uint64_t seq, int64_t now)
{
    switch (result) {
    case EV_LEASE_STORED:
        set->renewals++;
        set->seq = seq;
        set->in = set->confirmed = true;
        set->doubt = false;
        set->until = set->sent + set->ttl_ns - margin(set);
        set->renew_at = set->sent + set->ttl_ns / 3;
        set->first_sent = 0;
        go_on(set, now);
        break;
    case EV_LEASE_REJECTED:
        set->doubt = true;
        set->renew_at = now;
        break;
    case EV_LEASE_NO_STREAM:
        lose(set, now);
        break;
    default:
        set->doubt = true; /* of an earlier one nothing is known */
        set->renew_at = now + RETRY;
        break;
    }
    ev_lease_kick(set, set->renew_at);
}

/* What became of the writes that were not answered. Counted from the first of them: it may be that one. */
static void self_read(struct ev_leases *set, const struct ev_lease_record *r, int64_t now)
{
    if ((r->seq == 0 || !r->alive) && (set->in || r->seq != 0)) {
        lose(set, now);
        return;
    }
    set->doubt = false;
    set->renew_at = now;
    if (r->seq != set->seq) {
        set->seq = r->seq;
        set->in = true;
        if (set->first_sent + set->ttl_ns - margin(set) > set->until)
            set->until = set->first_sent + set->ttl_ns - margin(set);
        set->first_sent = 0;
    }
    ev_lease_kick(set, now);
}

/* ---- Leases ------------------------------------------------------------------------------------------------------ */

static void drop(struct ev_leases *set, struct ev_lease *l)
{
    ev_lease_op_end(set, &l->op);
    ev_lease_unwatch(set, l);
    *l->link = l->next;
    if (l->next)
        l->next->link = l->link;
    ev_lease_kick(set, 0); /* the last one: we are no member any more */
    set->io->ended(set->ctx, l);
}

/* False: too much is under way. */
static bool start(struct ev_leases *set, struct ev_lease *l, uint8_t kind, int64_t now)
{
    l->op = ev_lease_op_new(set, kind, l);
    l->at = now + (l->op ? ev_lease_op_time(set) : FULL_PAUSE);
    ev_lease_kick(set, l->at);
    return l->op != 0;
}

static void look(struct ev_leases *set, struct ev_lease *l, int64_t now)
{
    if (start(set, l, EV_OP_READ_LEASE, now))
        set->io->read_lease(set->ctx, l->op, l);
}

static void held(struct ev_leases *set, struct ev_lease *l, int64_t now)
{
    l->at = EV_NEVER;
    if (l->ending) {
        if (start(set, l, EV_OP_FREE_LEASE, now))
            set->io->write_lease(set->ctx, l->op, l, "", l->seq);
        return;
    }
    if (!l->active && may_act(set, now)) {
        l->active = true;
        l->told = false;
        set->io->active(set->ctx, l, true);
    }
    if (l->check)
        look(set, l, now);
}

static void lease_turn(struct ev_leases *set, struct ev_lease *l, int64_t now)
{
    if (now < l->at) {
        ev_lease_kick(set, l->at);
        return;
    }
    if (l->op) { /* no answer */
        ev_lease_op_end(set, &l->op);
        if (l->state == EV_LEASE_HELD && !l->ending)
            l->check = true;
        else
            l->state = EV_LEASE_LOOK;
    }
    if (l->state == EV_LEASE_WAIT)
        l->state = EV_LEASE_LOOK;
    if (l->state == EV_LEASE_LOOK) {
        look(set, l, now);
    } else if (l->state == EV_LEASE_HELD) {
        held(set, l, now);
    } else if (l->ending) {
        drop(set, l);
    } else if (l->seq == 0 && now < l->not_before) {
        l->at = l->not_before;
        ev_lease_kick(set, l->at);
    } else if (!may_act(set, now)) {
        l->at = EV_NEVER; /* go_on comes back to it */
    } else if (start(set, l, EV_OP_TAKE_LEASE, now)) {
        set->io->write_lease(set->ctx, l->op, l, set->id, l->seq);
    }
}

/* Another member has it. */
static void others(struct ev_leases *set, struct ev_lease *l, const char *holder, bool same, int64_t now)
{
    const bool had = l->active;

    if (l->ending) {
        drop(set, l);
        return;
    }
    l->active = l->check = false;
    if (!l->watch || strcmp(l->watch->id, holder) != 0) {
        struct ev_lease_watch *w = ev_lease_watch(set, holder, now);
        ev_lease_unwatch(set, l);
        l->watch = w;
    }
    if ((l->watch && l->watch->dead) || EV_BUG(EV_BUG_LEASE_SKIPPED)) {
        l->inherited_ns = l->watch && l->watch->ttl_ns ? l->watch->ttl_ns : set->ttl_ns;
        l->state = EV_LEASE_TAKE;
        l->at = now;
    } else {
        l->inherited_ns = 0;
        l->state = EV_LEASE_WAIT;
        l->again = same && l->again > 0 ? l->again - 1 : 0;
        l->at = now + (l->again > 0             ? HINT_PAUSE << (HINT_LOOKS - l->again)
                       : set->deaf || !l->watch ? set->ttl_ns / 3
                                                : POLL);
    }
    ev_lease_kick(set, l->at);
    if (had || !l->told) {
        l->told = true;
        set->io->active(set->ctx, l, false);
    }
}

static void lease_read(struct ev_leases *set, struct ev_lease *l, const struct ev_lease_record *r, int64_t now)
{
    const bool same = r->seq == l->seq;

    l->seq = r->seq;
    l->known = l->known || r->seq != 0;
    if (r->seq != 0 && r->holder[0] && (!set->id[0] || strcmp(r->holder, set->id) != 0)) {
        others(set, l, r->holder, same, now);
        return;
    }
    l->again = 0;
    l->check = false;
    ev_lease_unwatch(set, l);
    l->at = now;
    if (r->seq != 0 && r->holder[0]) {
        l->state = EV_LEASE_HELD;
        lease_turn(set, l, now);
        return;
    }
    const bool had = l->active;
    l->told |= had;
    l->active = false;
    l->inherited_ns = 0;
    l->state = EV_LEASE_TAKE;
    if (had)
        set->io->active(set->ctx, l, false); /* may end in its release */
    else
        lease_turn(set, l, now);
    ev_lease_kick(set, now);
}

static void lease_wrote(struct ev_leases *set, struct ev_lease *l, bool freed, enum ev_lease_result result,
                        uint64_t seq, int64_t now)
{
    if (freed && (result == EV_LEASE_STORED || result == EV_LEASE_NO_STREAM)) {
        drop(set, l);
        return;
    }
    l->at = now;
    if (!freed && result == EV_LEASE_STORED) {
        l->seq = seq;
        ev_lease_unwatch(set, l);
        l->state = EV_LEASE_HELD;
        lease_turn(set, l, now);
        return;
    }
    l->state = EV_LEASE_LOOK;
    if (result != EV_LEASE_REJECTED)
        l->at = now + RETRY;
    ev_lease_kick(set, l->at);
}

void ev_lease_hint(struct ev_leases *set, struct ev_lease *l, const char *holder, int64_t now)
{
    if (set->id[0] && strcmp(holder, set->id) == 0)
        return; /* our own word */
    if (l->state == EV_LEASE_HELD && !l->ending) {
        l->check = true;
    } else if (l->state == EV_LEASE_WAIT) {
        l->again = HINT_LOOKS; /* it may be told before it is stored */
    } else {
        return;
    }
    if (!l->op)
        l->at = now;
    ev_lease_kick(set, now);
}

void ev_lease_want(struct ev_leases *set, struct ev_lease *lease, int64_t now)
{
    lease->state = EV_LEASE_LOOK;
    lease->at = now;
    lease->link = &set->leases;
    lease->next = set->leases;
    if (lease->next)
        lease->next->link = &lease->next;
    set->leases = lease;
    ev_lease_kick(set, now);
}

void ev_lease_release(struct ev_leases *set, struct ev_lease *lease, int64_t now)
{
    lease->ending = true;
    lease->active = false;
    if (lease->op)
        return; /* its answer says whether we have it */
    if (lease->state == EV_LEASE_WAIT || lease->state == EV_LEASE_TAKE) {
        drop(set, lease);
        return;
    }
    lease->at = now;
    ev_lease_kick(set, now);
    if (set->linked)
        lease_turn(set, lease, now);
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static struct ev_lease_op find(struct ev_leases *set, uint64_t op)
{
    const struct ev_lease_op o = set->ops[op % EV_LEASE_OPS];

    if (op == 0 || o.op != op)
        return (struct ev_lease_op){.op = 0};
    return o;
}

void ev_leases_wrote(struct ev_leases *set, uint64_t op, enum ev_lease_result result, uint64_t seq, int64_t now)
{
    const struct ev_lease_op o = find(set, op);

    if (o.op == 0)
        return;
    if (o.kind == EV_OP_WRITE_SELF) {
        ev_lease_op_end(set, &set->op);
        self_wrote(set, result, seq, now);
    } else if (o.kind == EV_OP_DEPOSE) {
        struct ev_lease_watch *w = o.object;
        ev_lease_op_end(set, &w->op);
        ev_lease_deposed(set, w, result, now);
    } else if (o.kind == EV_OP_TAKE_LEASE || o.kind == EV_OP_FREE_LEASE) {
        struct ev_lease *l = o.object;
        ev_lease_op_end(set, &l->op);
        lease_wrote(set, l, o.kind == EV_OP_FREE_LEASE, result, seq, now);
    }
}

void ev_leases_read(struct ev_leases *set, uint64_t op, const struct ev_lease_record *record, int64_t now)
{
    const struct ev_lease_op o = find(set, op);

    if (o.op == 0)
        return;
    if (o.kind == EV_OP_READ_SELF) {
        ev_lease_op_end(set, &set->op);
        self_read(set, record, now);
    } else if (o.kind == EV_OP_READ_WATCH) {
        struct ev_lease_watch *w = o.object;
        ev_lease_op_end(set, &w->op);
        ev_lease_watch_read(set, w, record, now);
    } else if (o.kind == EV_OP_READ_LEASE) {
        struct ev_lease *l = o.object;
        ev_lease_op_end(set, &l->op);
        lease_read(set, l, record, now);
    }
}

void ev_leases_failed(struct ev_leases *set, uint64_t op, bool no_stream, int64_t now)
{
    const struct ev_lease_op o = find(set, op);

    if (o.op == 0)
        return;
    if (o.kind == EV_OP_READ_SELF) {
        ev_lease_op_end(set, &set->op);
        set->renew_at = now + RETRY;
        if (no_stream)
            lose(set, now);
    } else if (o.kind == EV_OP_READ_WATCH) {
        struct ev_lease_watch *w = o.object;
        ev_lease_op_end(set, &w->op);
        w->read_at = now + RETRY;
    } else if (o.kind == EV_OP_READ_LEASE) {
        struct ev_lease *l = o.object;
        ev_lease_op_end(set, &l->op);
        l->at = now + RETRY;
        l->check = l->state == EV_LEASE_HELD;
    }
    ev_lease_kick(set, now + RETRY);
}

/* ---- The set ----------------------------------------------------------------------------------------------------- */

void ev_leases_init(struct ev_leases *set, const struct ev_lease_io *io, void *ctx, int64_t ttl_ns)
{
    memset(set, 0, sizeof *set);
    set->io = io;
    set->ctx = ctx;
    set->ttl_ns = ttl_ns;
    set->due = EV_NEVER;
}

void ev_leases_fini(struct ev_leases *set)
{
    while (set->watches) {
        struct ev_lease_watch *w = set->watches;
        set->watches = w->next;
        ev_free(w);
    }
    set->leases = NULL;
}

void ev_leases_up(struct ev_leases *set, const char *server, int64_t now)
{
    set->linked = true;
    set->confirmed = false;
    set->renew_at = now;
    (void)ev_copy(set->server, sizeof set->server, server);
    for (struct ev_lease *l = set->leases; l; l = l->next)
        l->at = now;
    ev_lease_watches_up(set, now);
    ev_lease_kick(set, now);
}

/* Nothing under way will be answered: it may have been done, or not. */
void ev_leases_down(struct ev_leases *set)
{
    set->linked = set->confirmed = false;
    set->doubt |= set->op != 0;
    ev_lease_op_end(set, &set->op);
    ev_lease_watches_down(set);
    for (struct ev_lease *l = set->leases; l; l = l->next) {
        if (l->op && !(l->state == EV_LEASE_HELD && !l->ending))
            l->state = EV_LEASE_LOOK;
        ev_lease_op_end(set, &l->op);
    }
}

void ev_leases_close(struct ev_leases *set)
{
    leave(set);
    ev_leases_down(set);
}

bool ev_leases_turn(struct ev_leases *set, int64_t now)
{
    if (!set->linked || now < set->due)
        return false;
    set->due = EV_NEVER;
    self_turn(set, now);
    ev_lease_watches_turn(set, now);
    for (struct ev_lease *l = set->leases, *next; l; l = next) {
        next = l->next;
        lease_turn(set, l, now);
    }
    return true;
}

int64_t ev_leases_due(const struct ev_leases *set)
{
    return set->linked ? set->due : EV_NEVER;
}
