/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tenant has which queue of receipts: a hash table whose chains are read in epoch sections, without a lock, and
 * changed under bus->mutex. And the application's side of it: registering, taking, the descriptor.
 */
#include "core/message.h"

#include <string.h>

/* ---- The table --------------------------------------------------------------------------------------------------- */

static _Atomic(struct ev_receipts *) *bucket_of(struct ev_tenants *t, _Atomic(struct ev_receipts *) *buckets,
                                                int64_t tenant)
{
    const uint64_t h = (uint64_t)tenant * UINT64_C(0x9e3779b97f4a7c15);

    return &buckets[(h >> 32) & t->mask];
}

struct ev_receipts *ev_tenants_find(evbus *bus, int64_t tenant)
{
    struct ev_tenants *t = &bus->tenants;

    if (tenant == 0)
        return ev_load_acquire(&t->own);                                   /* U4 */
    _Atomic(struct ev_receipts *) *buckets = ev_load_acquire(&t->buckets); /* U4 */
    if (!buckets)
        return NULL;
    struct ev_receipts *q = ev_load_seqcst(bucket_of(t, buckets, tenant)); /* U4 */
    while (q && q->tenant != tenant)
        q = ev_load_seqcst(&q->next_hashed); /* U4 */
    return q;
}

/* False: nobody holds it any more. In an epoch section or under bus->mutex. */
static bool ref(struct ev_receipts *q)
{
    uint32_t refs = ev_load_relaxed(&q->refs); /* hint: the exchange checks it */

    while (refs && !ev_cas_acqrel(&q->refs, &refs, refs + 1))
        ;
    return refs != 0;
}

struct ev_receipts *ev_tenants_hold(evbus *bus, int64_t tenant)
{
    ev_epoch_enter();
    struct ev_receipts *q = ev_tenants_find(bus, tenant);
    if (q && !ref(q))
        q = NULL;
    ev_epoch_leave();
    return q;
}

void ev_receipts_unref(struct ev_receipts *q)
{
    evbus *bus = q->bus;

    if (ev_sub_acqrel(&q->refs, 1) != 1) /* U7 */
        return;
    pthread_mutex_lock(&bus->mutex);
    struct ev_receipts **link = &bus->tenants.all;
    while (*link != q)
        link = &(*link)->next;
    *link = q->next;
    ev_limbo_retire(&bus->limbo, q, ev_receipts_free);
    pthread_mutex_unlock(&bus->mutex);
}

/* With the mutex held. */
static void link_queue(evbus *bus, struct ev_receipts *q)
{
    struct ev_tenants *t = &bus->tenants;

    q->next = t->all;
    t->all = q;
    if (q->tenant == 0) {
        ev_store_release(&t->own, q); /* U3 */
        return;
    }
    _Atomic(struct ev_receipts *) *head = bucket_of(t, ev_load_relaxed(&t->buckets), q->tenant); /* the mutex's */
    ev_store_relaxed(&q->next_hashed, ev_load_relaxed(head));                                    /* published by U3 */
    ev_store_seqcst(head, q);                                                                    /* U3 */
    ev_store_relaxed(&t->count, ev_load_relaxed(&t->count) + 1); /* the mutex's; statistic */
}

void ev_tenants_forget(evbus *bus, struct ev_receipts *q)
{
    struct ev_tenants *t = &bus->tenants;

    pthread_mutex_lock(&bus->mutex);
    _Atomic(struct ev_receipts *) *link = bucket_of(t, ev_load_relaxed(&t->buckets), q->tenant); /* the mutex's */
    while (ev_load_relaxed(link) != q)                                                           /* the mutex's */
        link = &ev_load_relaxed(link)->next_hashed;                                              /* the mutex's */
    ev_store_seqcst(link, ev_load_relaxed(&q->next_hashed));     /* its own pointer stays, for readers that are there */
    ev_store_relaxed(&t->count, ev_load_relaxed(&t->count) - 1); /* the mutex's; statistic */
    q->forgotten = true;
    pthread_mutex_unlock(&bus->mutex);
}

evbus_status ev_tenants_own(evbus *bus, struct ev_receipts **ret)
{
    struct ev_tenants *t = &bus->tenants;
    struct ev_receipts *made = NULL;
    evbus_status st;

    if ((*ret = ev_load_acquire(&t->own)) != NULL) /* U4 */
        return EVBUS_OK;
    if (ev_load_seqcst(&bus->phase) != EV_RUNNING)
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    if ((st = ev_acks_measure(bus)) != EVBUS_OK ||
        (st = ev_receipts_new(bus, 0, bus->cfg.o.receipts_max, &made)) != EVBUS_OK)
        return st;
    pthread_mutex_lock(&bus->mutex);
    const bool running = ev_load_seqcst(&bus->phase) == EV_RUNNING;
    if (running && !ev_load_relaxed(&t->own)) { /* the mutex's */
        link_queue(bus, made);
        made = NULL;
    }
    *ret = ev_load_relaxed(&t->own); /* the mutex's */
    pthread_mutex_unlock(&bus->mutex);
    if (made)
        ev_receipts_free(made); /* another thread was faster, or the bus has ended */
    return *ret ? EVBUS_OK : ev_fail(EVBUS_CLOSED, "the bus is shut down");
}

evbus_status ev_tenants_init(evbus *bus)
{
    struct ev_receipts *own;
    const evbus_status st = ev_acks_init(bus);

    return st == EVBUS_OK && bus->cfg.o.receipts == EVBUS_ON ? ev_tenants_own(bus, &own) : st;
}

void ev_tenants_fini(evbus *bus)
{
    while (bus->tenants.all) {
        struct ev_receipts *next = bus->tenants.all->next;
        ev_receipts_free(bus->tenants.all);
        bus->tenants.all = next;
    }
    ev_free((void *)ev_load_relaxed(&bus->tenants.buckets)); /* nobody else is left */
    ev_acks_fini(bus);
}

/* One queue after the other, for closing one may end it, which takes locks. None is linked any more: the phase. */
void ev_tenants_close(evbus *bus)
{
    struct ev_receipts *list = NULL;

    pthread_mutex_lock(&bus->mutex);
    for (struct ev_receipts *q = bus->tenants.all; q; q = q->next) {
        if (!ref(q))
            continue;
        q->next_closing = list;
        list = q;
    }
    pthread_mutex_unlock(&bus->mutex);
    while (list) {
        struct ev_receipts *q = list;
        list = q->next_closing;
        ev_receipts_close(q);
        ev_receipts_unref(q);
    }
}

/* ---- Public: tenants --------------------------------------------------------------------------------------------- */

static evbus_status make_buckets(evbus *bus)
{
    struct ev_tenants *t = &bus->tenants;
    uint64_t count = 16;

    if (ev_load_relaxed(&t->buckets)) /* the mutex's */
        return EVBUS_OK;
    while (count < bus->cfg.o.tenants_max)
        count *= 2;
    _Atomic(struct ev_receipts *) *buckets = ev_calloc(count, sizeof *buckets);
    if (!buckets)
        return ev_fail(EVBUS_NOMEM, "out of memory for %llu tenants", (unsigned long long)count);
    t->mask = count - 1;
    ev_store_release(&t->buckets, buckets); /* U3 */
    return EVBUS_OK;
}

/* With the mutex held. */
static evbus_status link_tenant(evbus *bus, struct ev_receipts *q)
{
    struct ev_tenants *t = &bus->tenants;
    evbus_status st;

    if (ev_load_seqcst(&bus->phase) != EV_RUNNING)
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    if ((st = make_buckets(bus)) != EVBUS_OK)
        return st;
    const struct ev_receipts *old = ev_tenants_find(bus, q->tenant);
    if (old)
        return ev_fail(EVBUS_EXISTS, "tenant %lld %s", (long long)q->tenant,
                       ev_load_relaxed(&old->unregistered) ? "is unregistered, but receipts are left to be taken"
                                                           : "is registered"); /* the mutex's */
    if (ev_load_relaxed(&t->count) >= bus->cfg.o.tenants_max)                  /* the mutex's */
        return ev_fail(EVBUS_LIMIT, "tenants_max (%u) tenants have queues", bus->cfg.o.tenants_max);
    link_queue(bus, q);
    return EVBUS_OK;
}

evbus_status evbus_tenant_register(evbus *bus, int64_t tenant_id, const evbus_tenant_opts *opts)
{
    evbus_tenant_opts o;
    struct ev_receipts *q = NULL;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_tenant_opts")) != EVBUS_OK)
        return st;
    if (tenant_id <= 0)
        return ev_fail(EVBUS_INVALID, "tenant_id: %lld is not above 0", (long long)tenant_id);
    const uint32_t max = o.receipts_max ? o.receipts_max : bus->cfg.o.receipts_max;
    if (max < EV_RECEIPTS_MIN || max > EV_RECEIPTS_MAX)
        return ev_fail(EVBUS_INVALID, "evbus_tenant_opts.receipts_max: %u is outside %d..%d", max, EV_RECEIPTS_MIN,
                       EV_RECEIPTS_MAX);
    if ((st = ev_acks_measure(bus)) != EVBUS_OK || (st = ev_receipts_new(bus, tenant_id, max, &q)) != EVBUS_OK)
        return st;
    pthread_mutex_lock(&bus->mutex);
    st = link_tenant(bus, q);
    pthread_mutex_unlock(&bus->mutex);
    if (st != EVBUS_OK)
        ev_receipts_free(q);
    return st;
}

evbus_status evbus_tenant_unregister(evbus *bus, int64_t tenant_id)
{
    evbus_status st = ev_bus_check(bus);
    struct ev_receipts *q = NULL;

    if (st != EVBUS_OK)
        return st;
    if (tenant_id <= 0)
        return ev_fail(EVBUS_INVALID, "tenant_id: %lld is not above 0", (long long)tenant_id);
    pthread_mutex_lock(&bus->mutex);
    if (ev_load_seqcst(&bus->phase) != EV_RUNNING) {
        st = ev_fail(EVBUS_CLOSED, "the bus is shut down");
    } else if (!(q = ev_tenants_find(bus, tenant_id)) || ev_load_relaxed(&q->unregistered)) { /* the mutex's */
        st = ev_fail(EVBUS_NOT_REGISTERED, "tenant %lld is not registered", (long long)tenant_id);
    } else {
        ev_store_release(&q->unregistered, 1);
        ev_add_relaxed(&q->refs, 1); /* the registry has one */
    }
    pthread_mutex_unlock(&bus->mutex);
    if (st != EVBUS_OK)
        return st;
    ev_receipts_close(q);
    ev_receipts_unref(q);
    return EVBUS_OK;
}

static void describe(struct ev_receipts *q, evbus_tenant *ret)
{
    const uint64_t taken = ev_load_relaxed(&q->taken), put = ev_load_relaxed(&q->put); /* statistic */
    const uint64_t queued = put > taken ? put - taken : 0, in = ev_quota_count(&q->quota);

    ret->tenant_id = q->tenant;
    ret->receipts_max = q->max;
    ret->closing = ev_load_relaxed(&q->unregistered); /* the mutex's */
    ret->pending = in > queued ? in - queued : 0;
    ret->queued = queued;
    ret->taken = taken;
}

evbus_status evbus_tenant_list(evbus *bus, evbus_tenant *tenants, size_t max, size_t *ret_count)
{
    const evbus_status st = ev_bus_check_alive(bus);
    size_t n = 0;

    if (st != EVBUS_OK)
        return st;
    if (!ret_count || (!tenants && max))
        return ev_fail(EVBUS_INVALID, "evbus_tenant_list: %s is NULL", ret_count ? "tenants" : "ret_count");
    const size_t size = max ? tenants[0].struct_size : 0;
    if (max && size < sizeof *tenants)
        return ev_fail(EVBUS_INVALID, "evbus_tenant.struct_size: %zu; use evbus_tenant_init", size);
    pthread_mutex_lock(&bus->mutex);
    for (struct ev_receipts *q = bus->tenants.all; q; q = q->next) {
        if (q->tenant == 0 || q->forgotten)
            continue;
        if (n < max) {
            evbus_tenant *to = (evbus_tenant *)((char *)tenants + n * size);
            memset(to, 0, size);
            to->struct_size = size;
            describe(q, to);
        }
        n++;
    }
    pthread_mutex_unlock(&bus->mutex);
    *ret_count = n;
    return EVBUS_OK;
}

/* ---- Public: taking ---------------------------------------------------------------------------------------------- */

/* A reference of the queue. */
static evbus_status hold(evbus *bus, int64_t tenant, struct ev_receipts **ret)
{
    struct ev_receipts *own;
    evbus_status st = tenant == 0 ? ev_tenants_own(bus, &own) : EVBUS_OK;

    if (st != EVBUS_OK)
        return st;
    *ret = ev_tenants_hold(bus, tenant);
    return *ret ? EVBUS_OK
                : ev_fail(EVBUS_NOT_REGISTERED, "tenant %lld is not registered, or its last receipt is taken",
                          (long long)tenant);
}

struct taking {
    struct ev_receipts *queue;
    size_t max, count;
    struct ev_receipt *first;
    bool ended;
};

static bool some_or_end(void *arg)
{
    struct taking *t = arg;

    t->ended = ev_load_seqcst(&t->queue->ended);
    t->count = ev_receipts_pop(t->queue, t->max, &t->first);
    return t->count || t->ended;
}

static void await_some(struct taking *t, int64_t deadline)
{
    struct ev_receipts *q = t->queue;
    evbus *bus = q->bus;

    if (bus->manual) {
        (void)ev_bus_await(bus, some_or_end, t, deadline);
        return;
    }
    while (!some_or_end(t)) {
        const uint32_t ticket = ev_park_prepare(&q->ready);
        if (some_or_end(t)) {
            ev_park_cancel(&q->ready);
            return;
        }
        if (!ev_park_wait(&q->ready, ticket, bus->clock, deadline)) {
            (void)some_or_end(t);
            return;
        }
    }
}

static evbus_status at_end(const struct ev_receipts *q)
{
    if (ev_load_acquire(&q->unregistered))
        return ev_fail(EVBUS_NOT_REGISTERED, "tenant %lld was unregistered, and its last receipt is taken",
                       (long long)q->tenant);
    return ev_fail(EVBUS_CLOSED, "the bus is shut down, and the last receipt is taken");
}

static evbus_status check_take(const evbus *bus, const evbus_receipt *receipts, size_t max, const size_t *ret_count)
{
    const evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!receipts || !ret_count)
        return ev_fail(EVBUS_INVALID, "evbus_receipts_take: %s is NULL", receipts ? "ret_count" : "receipts");
    if (max == 0)
        return ev_fail(EVBUS_INVALID, "evbus_receipts_take: max is 0");
    if (receipts[0].struct_size < sizeof *receipts || receipts[0].struct_size > 65536)
        return ev_fail(EVBUS_INVALID, "evbus_receipt.struct_size: %zu; use evbus_receipt_init",
                       receipts[0].struct_size);
    if (bus->cfg.o.on_receipt)
        return ev_fail(EVBUS_INVALID, "evbus_receipts_take: evbus_opts.on_receipt gets the receipts of this bus");
    return EVBUS_OK;
}

evbus_status evbus_receipts_take(evbus *bus, int64_t tenant_id, evbus_receipt *receipts, size_t max,
                                 uint32_t timeout_ms, size_t *ret_count)
{
    struct taking t = {.max = max};
    evbus_status st = check_take(bus, receipts, max, ret_count);

    if (st != EVBUS_OK || (st = hold(bus, tenant_id, &t.queue)) != EVBUS_OK)
        return st;
    if (!some_or_end(&t) && timeout_ms != 0 && timeout_ms != EVBUS_NOWAIT)
        await_some(&t, ev_deadline(ev_now(bus), timeout_ms));
    const size_t size = receipts[0].struct_size;
    char *to = (char *)receipts;
    for (struct ev_receipt *r = t.first; r; r = (struct ev_receipt *)r->link.next, to += size) {
        ((evbus_receipt *)to)->struct_size = size;
        ev_receipt_write(r, (evbus_receipt *)to);
        memset(to + sizeof *receipts, 0, size - sizeof *receipts);
    }
    if (t.count) {
        ev_acks_note(bus, t.first, ev_now(bus));
        ev_receipts_give_back(t.queue, t.first);
    }
    if (!t.count && t.ended)
        st = at_end(t.queue);
    else
        *ret_count = t.count;
    ev_receipts_unref(t.queue);
    return st;
}

evbus_status evbus_receipts_fd(evbus *bus, int64_t tenant_id, int *ret_fd)
{
    struct ev_receipts *q;
    evbus_status st = ev_bus_check_alive(bus);

    if (st != EVBUS_OK)
        return st;
    if (!ret_fd)
        return ev_fail(EVBUS_INVALID, "evbus_receipts_fd: ret_fd is NULL");
    if (bus->cfg.o.on_receipt)
        return ev_fail(EVBUS_INVALID, "evbus_receipts_fd: evbus_opts.on_receipt gets the receipts of this bus");
    if ((st = hold(bus, tenant_id, &q)) != EVBUS_OK)
        return st;
    st = ev_receipts_share_fd(q, ret_fd);
    ev_receipts_unref(q);
    return st;
}
