/* SPDX-License-Identifier: Apache-2.0 */
/*
 * on_receipt: ack workers take receipts out of all queues and run the callback; they do nothing else, so a slow callback
 * delays callbacks, not outcomes. Queues with something are in one list, and go to its end after each receipt: tenants take turns.
 *
 * And how long receipts take, from acceptance until they are taken (or given to the callback): a histogram for 10 s at
 * a time, filled once per take.
 */
#include "core/message.h"

#include <stddef.h>
#include <stdio.h>

#define WINDOW (10 * EV_SEC)

struct ev_ack_worker {
    pthread_t thread;
    evbus *bus;
    struct ev_ack_worker *next;
    _Atomic(uint32_t) left; /* it is about to end: join it */
};

evbus_status ev_acks_init(evbus *bus)
{
    ev_crew_init(&bus->acks.crew);
    return EVBUS_OK;
}

/* ---- The list of queues ------------------------------------------------------------------------------------------ */

void ev_acks_list(evbus *bus, struct ev_receipts *q)
{
    if (ev_swap_seqcst(&q->listed, 1)) /* U5 */
        return;
    ev_add_relaxed(&q->refs, 1); /* the receipt just put holds it, or the registry: the loop lets go of that */
    (void)ev_chain_add(&bus->acks.listed, &q->listing);
    ev_crew_wake(&bus->acks.crew);
}

static void append(struct ev_acks *a, struct ev_chain_link *link)
{
    if (a->last)
        a->last->next = link;
    else
        a->first = link;
    for (; link; link = link->next) {
        a->last = link;
        ev_store_seqcst(&a->waiting, ev_load_relaxed(&a->waiting) + 1); /* the mutex's */
    }
}

static struct ev_receipts *next_queue(struct ev_acks *a)
{
    pthread_mutex_lock(&a->mutex);
    append(a, ev_chain_take(&a->listed));
    struct ev_chain_link *link = a->first;
    if (link) {
        a->first = link->next;
        a->last = a->first ? a->last : NULL;
        ev_store_seqcst(&a->waiting, ev_load_relaxed(&a->waiting) - 1); /* the mutex's */
    }
    pthread_mutex_unlock(&a->mutex);
    return link ? (struct ev_receipts *)((char *)link - offsetof(struct ev_receipts, listing)) : NULL;
}

/* It has given one: to the end of the list if it has more, with a reference for its place there. */
static void list_again(struct ev_acks *a, struct ev_receipts *q)
{
    if (ev_receipts_empty(q)) {
        ev_store_seqcst(&q->listed, 0);                            /* U6 */
        if (ev_receipts_empty(q) || ev_swap_seqcst(&q->listed, 1)) /* the loop was faster */
            return;
    }
    ev_add_relaxed(&q->refs, 1); /* the caller has one */
    pthread_mutex_lock(&a->mutex);
    q->listing.next = NULL;
    append(a, &q->listing);
    pthread_mutex_unlock(&a->mutex);
}

static bool has_work(void *arg)
{
    struct ev_acks *a = arg;

    return ev_load_seqcst(&a->waiting) || !ev_chain_empty(&a->listed) || ev_load_seqcst(&a->stop);
}

static void call(evbus *bus, struct ev_receipts *q, struct ev_receipt *r)
{
    evbus_receipt receipt = {.struct_size = sizeof receipt};

    ev_acks_note(bus, r, ev_now(bus));
    ev_receipt_write(r, &receipt);
    ev_receipts_give_back(q, r);
    ev_callback_enter(bus, NULL);
    bus->cfg.o.on_receipt(&receipt, bus->cfg.o.on_receipt_ctx);
    ev_callback_leave();
}

bool ev_acks_run_one(evbus *bus)
{
    struct ev_acks *a = &bus->acks;
    struct ev_receipt *r = NULL;
    struct ev_receipts *q = next_queue(a);

    if (!q)
        return false;
    const size_t n = ev_receipts_pop(q, 1, &r);
    list_again(a, q);
    ev_crew_pass(&a->crew, has_work(a));
    if (n)
        call(bus, q, r);
    ev_receipts_unref(q);
    return true;
}

/* ---- The workers ------------------------------------------------------------------------------------------------- */

static void *ack_worker_main(void *arg)
{
    struct ev_ack_worker *w = arg;
    evbus *bus = w->bus;
    struct ev_acks *a = &bus->acks;

    while (!ev_load_acquire(&a->stop))
        if (!ev_acks_run_one(bus))
            (void)ev_crew_sleep(&a->crew, has_work, a, EV_NEVER);
    ev_store_seqcst(&w->left, 1); /* W3 */
    ev_bus_changed(bus);
    if (ev_sub_acqrel(&bus->refs, 1) == 1)
        ev_bus_free(bus);
    return NULL;
}

evbus_status ev_acks_start(evbus *bus)
{
    struct ev_acks *a = &bus->acks;

    for (uint32_t i = 0; bus->cfg.o.on_receipt && i < bus->cfg.o.ack_workers; i++) {
        struct ev_ack_worker *w = ev_calloc(1, sizeof *w);
        if (!w)
            return ev_fail(EVBUS_NOMEM, "out of memory for ack worker %u", i);
        w->bus = bus;
        ev_add_relaxed(&bus->refs, 1); /* we hold one ourselves */
        if (ev_thread_start(&w->thread, "evbus-ack", ack_worker_main, w) != EVBUS_OK) {
            ev_sub_relaxed(&bus->refs, 1);
            ev_free(w);
            return ev_fail(EVBUS_SYSTEM, "only %u of %u ack workers could be started", i, bus->cfg.o.ack_workers);
        }
        w->next = a->workers;
        a->workers = w;
        ev_add_relaxed(&a->count, 1); /* statistic */
    }
    return EVBUS_OK;
}

static bool await_left(evbus *bus, struct ev_ack_worker *w, int64_t deadline)
{
    while (!ev_load_acquire(&w->left)) { /* W4 */
        const uint32_t ticket = ev_park_prepare(&bus->changed);
        if (ev_load_seqcst(&w->left))
            ev_park_cancel(&bus->changed);
        else if (!ev_park_wait(&bus->changed, ticket, NULL, deadline))
            return ev_load_acquire(&w->left); /* W4 */
    }
    return true;
}

void ev_acks_stop(evbus *bus, int64_t deadline)
{
    struct ev_acks *a = &bus->acks;

    ev_store_seqcst(&a->stop, 1);
    ev_crew_wake_all(&a->crew);
    for (struct ev_ack_worker **link = &a->workers; *link;) {
        struct ev_ack_worker *w = *link;
        if (!await_left(bus, w, deadline)) {
            pthread_detach(w->thread);
            link = &w->next;
            continue;
        }
        pthread_join(w->thread, NULL);
        *link = w->next;
        ev_free(w);
        ev_sub_relaxed(&a->count, 1); /* statistic */
    }
}

void ev_acks_fini(evbus *bus)
{
    struct ev_acks *a = &bus->acks;

    while (a->workers) {
        struct ev_ack_worker *next = a->workers->next;
        ev_free(a->workers);
        a->workers = next;
    }
    ev_free(a->window);
    pthread_mutex_destroy(&a->mutex);
    pthread_mutex_destroy(&a->latency_mutex);
}

/* ---- How long receipts take -------------------------------------------------------------------------------------- */

evbus_status ev_acks_measure(evbus *bus)
{
    struct ev_acks *a = &bus->acks;
    struct ev_hist *made = ev_malloc(sizeof *made);

    if (!made)
        return ev_fail(EVBUS_NOMEM, "out of memory for measuring receipts");
    ev_hist_init(made);
    pthread_mutex_lock(&a->latency_mutex);
    if (!a->window) {
        a->window = made;
        made = NULL;
    }
    pthread_mutex_unlock(&a->latency_mutex);
    ev_free(made);
    return EVBUS_OK;
}

/* With the mutex held. Above 0: say so, it is the slow p99. */
static int64_t end_window(evbus *bus, int64_t now)
{
    struct ev_acks *a = &bus->acks;
    const int64_t p99 = ev_hist_quantile(a->window, 0.99);
    const uint32_t ms = bus->cfg.o.publish_timeout_ms;
    const bool slow = ms != EVBUS_FOREVER && p99 > (int64_t)ms * EV_MS / 2;
    const bool say = slow && !a->slow;

    a->slow = slow;
    ev_store_relaxed(&a->p99_ns, (uint64_t)p99); /* statistic */
    ev_hist_init(a->window);
    a->window_ns = now;
    return say ? p99 : 0;
}

static void tell_slow(evbus *bus, int64_t p99)
{
    char text[240];

    ev_add_relaxed(&bus->n.receipts_slow, 1); /* statistic */
    (void)snprintf(
        text, sizeof text,
        "1 %% of the receipts took more than %lld ms to be taken, over half of publish_timeout_ms (%u): take "
        "them sooner, or give them more ack workers",
        (long long)(p99 / EV_MS), bus->cfg.o.publish_timeout_ms);
    ev_event(bus, EVBUS_EVENT_RECEIPTS_SLOW, EVBUS_OK, 0, "", "", "", text);
}

void ev_acks_note(evbus *bus, const struct ev_receipt *first, int64_t now)
{
    struct ev_acks *a = &bus->acks;
    int64_t slow = 0;

    pthread_mutex_lock(&a->latency_mutex);
    if (a->window_ns == 0)
        a->window_ns = now;
    if (now - a->window_ns >= WINDOW)
        slow = end_window(bus, now);
    for (const struct ev_receipt *r = first; r; r = (const struct ev_receipt *)r->link.next)
        ev_hist_add(a->window, now - r->accepted_ns);
    pthread_mutex_unlock(&a->latency_mutex);
    if (slow)
        tell_slow(bus, slow);
}
