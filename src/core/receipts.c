/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define UNTAKEN_AFTER (10 * EV_SEC)
#define CHECK_STEP EV_SEC
#define SAY_PAUSE EV_MS /* takers hear at most that long after a receipt came */

/* ---- A queue's life ---------------------------------------------------------------------------------------------- */

static void forget_on_loop(evbus *bus, struct ev_command *command);

evbus_status ev_receipts_new(evbus *bus, int64_t tenant, uint32_t max, struct ev_receipts **ret)
{
    struct ev_receipts *q = ev_aligned(alignof(struct ev_receipts), sizeof *q);

    if (!q)
        return ev_fail(EVBUS_NOMEM, "out of memory for a queue of receipts");
    q->bus = bus;
    q->tenant = tenant;
    q->max = max;
    q->links = ev_calloc(max, sizeof *q->links);
    q->chunks = ev_calloc((max + EV_RECEIPT_CHUNK - 1) / EV_RECEIPT_CHUNK, sizeof *q->chunks);
    pthread_mutex_init(&q->mutex, NULL);
    if (!q->links || !q->chunks) {
        ev_receipts_free(q);
        return ev_fail(EVBUS_NOMEM, "out of memory for a queue of %u receipts", max);
    }
    ev_stack_init(&q->free, q->links, sizeof q->links[0]);
    ev_stack_fill(&q->free, max);
    ev_park_init(&q->room);
    ev_park_init(&q->ready);
    q->gone.run = forget_on_loop;
    ev_store_relaxed(&q->refs, 1); /* not shared yet */
    *ret = q;
    return EVBUS_OK;
}

void ev_receipts_free(void *queue)
{
    struct ev_receipts *q = queue;
    const uint32_t chunks = (q->max + EV_RECEIPT_CHUNK - 1) / EV_RECEIPT_CHUNK;

    for (uint32_t i = 0; q->chunks && i < chunks; i++) {
        struct ev_receipt *chunk = ev_load_relaxed(&q->chunks[i]); /* nobody else has it */
        for (uint32_t k = 0; chunk && k < EV_RECEIPT_CHUNK; k++) {
            ev_free(chunk[k].detail);
            if (chunk[k].text != chunk[k].here)
                ev_free(chunk[k].text);
        }
        ev_free(chunk);
    }
    ev_bell_fini(&q->bell);
    pthread_mutex_destroy(&q->mutex);
    ev_free(q->chunks);
    ev_free(q->links);
    ev_free(q);
}

/* For takers, under the mutex. */
static bool has_more(void *arg)
{
    struct ev_receipts *q = arg;

    return q->first || !ev_chain_empty(&q->inbox) || ev_load_seqcst(&q->ended);
}

/* For the loop: not all of what it put is taken. */
static bool is_untaken(void *arg)
{
    struct ev_receipts *q = arg;

    return ev_load_relaxed(&q->put) != ev_load_seqcst(&q->taken) || ev_load_seqcst(&q->ended); /* own field; Y5 */
}

/* By the one thread that the quota told. */
static void end(struct ev_receipts *q)
{
    evbus *bus = q->bus;

    pthread_mutex_lock(&q->mutex);
    ev_store_seqcst(&q->ended, 1);
    ev_bell_ring(&q->bell, has_more, q);
    pthread_mutex_unlock(&q->mutex);
    ev_park_wake(&q->ready, UINT32_MAX);
    ev_park_wake(&q->room, UINT32_MAX);
    if (bus->manual)
        ev_bus_changed(bus);
    if (ev_load_acquire(&q->unregistered)) {
        ev_tenants_forget(bus, q);
        ev_loop_post(bus, &q->gone);
    }
}

void ev_receipts_close(struct ev_receipts *q)
{
    if (ev_quota_close(&q->quota))
        end(q);
    else
        ev_park_wake(&q->room, UINT32_MAX); /* who waits for room hears of it */
}

static void forget_on_loop(evbus *bus, struct ev_command *command)
{
    struct ev_receipts *q = (struct ev_receipts *)((char *)command - offsetof(struct ev_receipts, gone));

    for (struct ev_receipts **link = &bus->tenants.watched; q->watched && *link; link = &(*link)->next_watched) {
        if (*link != q)
            continue;
        *link = q->next_watched;
        break;
    }
    ev_receipts_unref(q);
}

/* ---- Places ------------------------------------------------------------------------------------------------------ */

static struct ev_receipt *make_chunk(struct ev_receipts *q, uint32_t which)
{
    struct ev_receipt *chunk = ev_aligned(EV_CACHELINE, EV_RECEIPT_CHUNK * sizeof *chunk), *seen = NULL;

    for (uint32_t k = 0; chunk && k < EV_RECEIPT_CHUNK; k++) {
        chunk[k].queue = q;
        chunk[k].number = which * EV_RECEIPT_CHUNK + k;
        chunk[k].text = chunk[k].here;
        chunk[k].cap = EV_RECEIPT_INLINE;
    }
    if (!chunk || ev_cas_acqrel(&q->chunks[which], &seen, chunk)) /* U1 */
        return chunk;
    ev_free(chunk); /* another publisher was faster */
    return seen;
}

static struct ev_receipt *receipt_of(struct ev_receipts *q, uint32_t number)
{
    struct ev_receipt *chunk = ev_load_acquire(&q->chunks[number / EV_RECEIPT_CHUNK]); /* U2 */

    if (!chunk)
        chunk = make_chunk(q, number / EV_RECEIPT_CHUNK);
    return chunk ? chunk + number % EV_RECEIPT_CHUNK : NULL;
}

/* What the next publish writes is fetched, most likely: as slots.c. */
__attribute__((always_inline)) static inline void fetch_next(struct ev_receipts *q)
{
    uint32_t number;

    if (!ev_stack_peek(&q->free, &number))
        return;
    const char *chunk = (const char *)ev_load_relaxed(&q->chunks[number / EV_RECEIPT_CHUNK]); /* hint */
    const size_t first = number % EV_RECEIPT_CHUNK * sizeof(struct ev_receipt);
    for (size_t at = 0; chunk && at < sizeof(struct ev_receipt); at += EV_CACHELINE)
        __builtin_prefetch(chunk + first + at, 1);
}

/* The place's memory, after the quota let us in: so there is a free one. */
static struct ev_receipt *take_place(struct ev_receipts *q, size_t text)
{
    uint32_t number = 0;

    (void)ev_stack_pop(&q->free, &number); /* Q2 */
    fetch_next(q);
    struct ev_receipt *r = receipt_of(q, number);
    if (r && text > r->cap) {
        char *more = ev_malloc(text);
        if (more) {
            if (r->text != r->here)
                ev_free(r->text);
            r->text = more;
            r->cap = (uint16_t)text;
        } else {
            r = NULL;
        }
    }
    if (!r)
        ev_stack_push(&q->free, number); /* Q1 */
    return r;
}

/* Without a reference of the queue: from the leave on, others may end and free it, but not while we are in a section. */
static void leave_one(struct ev_receipts *q)
{
    ev_epoch_enter();
    const bool last = ev_quota_leave(&q->quota, 1);
    if (!last)
        ev_park_wake(&q->room, 1);
    ev_epoch_leave();
    if (last)
        end(q);
}

void ev_receipt_cancel(struct ev_receipt *r)
{
    struct ev_receipts *q = r->queue;

    ev_stack_push(&q->free, r->number); /* Q1 */
    leave_one(q);
}

void ev_receipts_give_back(struct ev_receipts *q, struct ev_receipt *first)
{
    struct ev_stack_row row = {0};

    for (struct ev_receipt *r = first, *next; r; r = next) {
        next = (struct ev_receipt *)r->link.next;
        ev_free(r->detail);
        r->detail = NULL;
        ev_stack_row_add(&q->free, &row, r->number);
    }
    const uint32_t count = row.count;
    if (count == 0)
        return;
    ev_stack_push_row(&q->free, &row); /* Q1 */
    if (ev_quota_leave(&q->quota, count))
        end(q);
    else
        ev_park_wake(&q->room, count);
}

/* ---- Reserving --------------------------------------------------------------------------------------------------- */

struct want {
    evbus *bus;
    struct ev_receipts *queue;
    int64_t tenant;
    enum ev_quota_entry entry;
};

/* The bus's own queue lives as long as the bus; that of a tenant is protected by the section until we are in. */
static void try_enter(struct want *w)
{
    if (w->tenant != 0)
        ev_epoch_enter();
    w->queue = ev_tenants_find(w->bus, w->tenant);
    w->entry = w->queue ? ev_quota_enter(&w->queue->quota, w->queue->max) : EV_QUOTA_CLOSED;
    if (w->tenant != 0)
        ev_epoch_leave();
}

static bool room_or_end(void *arg)
{
    struct want *w = arg;

    w->entry = ev_quota_enter(&w->queue->quota, w->queue->max);
    return w->entry != EV_QUOTA_FULL;
}

static bool wait_in(struct want *w, int64_t deadline)
{
    struct ev_park *room = &w->queue->room;

    if (w->bus->manual)
        return ev_bus_await(w->bus, room_or_end, w, deadline);
    while (!room_or_end(w)) {
        const uint32_t ticket = ev_park_prepare(room);
        if (room_or_end(w)) {
            ev_park_cancel(room);
            return true;
        }
        if (!ev_park_wait(room, ticket, w->bus->clock, deadline))
            return room_or_end(w);
    }
    return true;
}

static void wait_for_room(struct want *w, int64_t deadline)
{
    w->queue = ev_tenants_hold(w->bus, w->tenant);
    if (!w->queue) {
        w->entry = EV_QUOTA_CLOSED;
        return;
    }
    (void)wait_in(w, deadline);
    ev_receipts_unref(w->queue); /* if we are in, it stays for us */
}

static evbus_status no_place(evbus *bus, const struct want *w)
{
    if (w->entry == EV_QUOTA_FULL) {
        ev_add_relaxed(&bus->n.backpressure, 1); /* statistic */
        return ev_fail(EVBUS_BACKPRESSURE, "tenant %lld: its receipts are promised or not taken (receipts_max)",
                       (long long)w->tenant);
    }
    if (ev_load_seqcst(&bus->phase) != EV_RUNNING)
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    return ev_fail(EVBUS_NOT_REGISTERED, "tenant %lld is not registered: nobody would get its receipts",
                   (long long)w->tenant);
}

evbus_status ev_receipt_reserve(evbus *bus, int64_t tenant, size_t text, int64_t deadline, struct ev_receipt **ret)
{
    struct want w = {.bus = bus, .tenant = tenant};

    if (tenant == 0 && !ev_load_acquire(&bus->tenants.own)) { /* U4 */
        const evbus_status st = ev_tenants_own(bus, &w.queue);
        if (st != EVBUS_OK)
            return st;
    }
    try_enter(&w);
    if (w.entry == EV_QUOTA_FULL)
        wait_for_room(&w, deadline);
    if (w.entry != EV_QUOTA_IN)
        return no_place(bus, &w);
    struct ev_receipt *r = take_place(w.queue, text);
    if (!r) {
        leave_one(w.queue);
        return ev_fail(EVBUS_NOMEM, "out of memory for a receipt");
    }
    *ret = r;
    return EVBUS_OK;
}

void ev_receipt_describe(struct ev_receipt *r, const struct ev_slot *slot)
{
    enum { ID = sizeof((evbus_receipt *)0)->event_id, AGGREGATE = sizeof((evbus_receipt *)0)->aggregate_id };

    (void)ev_copy(r->text, ID, ev_slot_text(slot, slot->event_id));
    r->aggregate = (uint16_t)(strlen(r->text) + 1);
    (void)ev_copy(r->text + r->aggregate, AGGREGATE, ev_slot_text(slot, slot->aggregate_id));
    r->topic = slot->topic;
    r->tag = slot->tag;
    r->accepted_ns = slot->accepted_ns;
}

/* ---- Putting and taking ------------------------------------------------------------------------------------------ */

static void watch(evbus *bus, struct ev_receipts *q, int64_t now)
{
    if (q->watched)
        return;
    q->watched = true;
    q->filled_ns = now;
    q->next_watched = bus->tenants.watched;
    if (!bus->tenants.watched)
        bus->tenants.check_at = now + CHECK_STEP;
    bus->tenants.watched = q;
}

void ev_receipt_put(evbus *bus, struct ev_slot *slot)
{
    struct ev_receipt *r = slot->receipt;
    struct ev_receipts *q = r->queue;

    r->outcome = (uint8_t)slot->outcome;
    r->status = (uint8_t)slot->status;
    r->sequence = slot->sequence;
    r->dup = slot->dup;
    r->broker_code = slot->broker_code;
    r->completed_ns = slot->completed_ns;
    r->stream = slot->stream;
    r->detail = slot->detail;
    slot->detail = NULL;
    slot->receipt = NULL;
    watch(bus, q, r->completed_ns);
    ev_count(&q->put, 1);
    if (q->unsaid++ == 0) {
        q->next_unsaid = bus->tenants.unsaid;
        bus->tenants.unsaid = q;
    }
    if (bus->tenants.unsaid_count++ == 0)
        bus->tenants.say_at = bus->turn_ns + SAY_PAUSE;
    (void)ev_chain_add(&q->inbox, &r->link); /* V1, V3; the queue stays: only this thread lets go of it */
}

/* A wake-up for each receipt would cost more than the receipt: takers are woken when an eighth of the publishes that were on
 * their way has ended, or a moment after the first. */
static bool is_time_to_say(const evbus *bus, int64_t now)
{
    const struct ev_tenants *t = &bus->tenants;

    return t->unsaid_count >= (bus->out.active + t->unsaid_count) / 8 || now >= t->say_at || bus->manual;
}

static void say(evbus *bus)
{
    uint64_t n = 0;

    for (struct ev_receipts *q = bus->tenants.unsaid; q; q = q->next_unsaid) {
        ev_bell_ring(&q->bell, is_untaken, q);
        ev_park_wake(&q->ready, q->unsaid);
        if (bus->cfg.o.on_receipt)
            ev_acks_list(bus, q);
        n += q->unsaid;
        q->unsaid = 0;
    }
    bus->tenants.unsaid = NULL;
    bus->tenants.unsaid_count = 0;
    ev_count(&bus->n.receipts, n);
    if (bus->manual)
        ev_bus_changed(bus);
}

static void take_in(struct ev_receipts *q)
{
    struct ev_chain_link *link = ev_chain_take(&q->inbox); /* V2, V4 */

    if (!link)
        return;
    if (q->last)
        q->last->link.next = link;
    else
        q->first = (struct ev_receipt *)link;
    while (link->next)
        link = link->next;
    q->last = (struct ev_receipt *)link;
}

size_t ev_receipts_pop(struct ev_receipts *q, size_t max, struct ev_receipt **ret_first)
{
    struct ev_receipt *end_of = NULL;
    size_t n = 0;

    pthread_mutex_lock(&q->mutex);
    take_in(q);
    struct ev_receipt *first = q->first;
    for (struct ev_receipt *r = first; r && n < max; r = (struct ev_receipt *)r->link.next, n++) {
        end_of = r;
        for (size_t at = EV_CACHELINE; at < sizeof *r; at += EV_CACHELINE) /* it comes from the loop's cache */
            __builtin_prefetch((const char *)r + at);
    }
    if (end_of) {
        q->first = (struct ev_receipt *)end_of->link.next;
        q->last = q->first ? q->last : NULL;
        end_of->link.next = NULL;
        ev_store_seqcst(&q->taken, ev_load_relaxed(&q->taken) + n); /* the mutex's; Y6 */
        ev_store_relaxed(&q->taken_ns, ev_now(q->bus));             /* the loop's hint */
    }
    if (!has_more(q))
        ev_bell_hush(&q->bell, has_more, q);
    pthread_mutex_unlock(&q->mutex);
    if (n)
        ev_add_relaxed(&q->bus->n.receipts_taken, n); /* statistic */
    *ret_first = n ? first : NULL;
    return n;
}

bool ev_receipts_empty(struct ev_receipts *q)
{
    pthread_mutex_lock(&q->mutex);
    const bool more = q->first || !ev_chain_empty(&q->inbox);
    pthread_mutex_unlock(&q->mutex);
    return !more;
}

evbus_status ev_receipts_share_fd(struct ev_receipts *q, int *ret_fd)
{
    pthread_mutex_lock(&q->mutex);
    const evbus_status st = ev_bell_open(&q->bell, has_more, q);
    pthread_mutex_unlock(&q->mutex);
    return st == EVBUS_OK ? ev_bell_share(&q->bell, ret_fd) : st;
}

/* Field by field: zeroing more than a kilobyte would cost more than the rest. */
void ev_receipt_write(const struct ev_receipt *r, evbus_receipt *ret)
{
    ret->outcome = (evbus_outcome)r->outcome;
    ret->status = (evbus_status)r->status;
    ret->tag = r->tag;
    ret->sequence = r->sequence;
    ret->tenant_id = r->queue->tenant;
    ret->accepted_ns = r->accepted_ns;
    ret->completed_ns = r->completed_ns;
    ret->duplicate = r->dup;
    ret->is_envelope = true;
    ret->reserved[0] = ret->reserved[1] = 0;
    ret->broker_code = r->broker_code;
    (void)ev_copy(ret->event_id, sizeof ret->event_id, r->text);
    (void)ev_copy(ret->aggregate_id, sizeof ret->aggregate_id, r->text + r->aggregate);
    (void)ev_copy(ret->topic, sizeof ret->topic, r->topic->name);
    (void)ev_copy(ret->stream, sizeof ret->stream, r->stream ? r->stream : "");
    (void)ev_copy(ret->detail, sizeof ret->detail, r->detail ? r->detail : "");
}

/* ---- What nobody takes ------------------------------------------------------------------------------------------- */

static void tell_untaken(evbus *bus, struct ev_receipts *q, uint64_t queued)
{
    char text[200];

    q->told = true;
    ev_count(&bus->n.receipts_untaken, 1);
    (void)snprintf(text, sizeof text, "tenant %lld: receipts wait, and nobody took one for %d s", (long long)q->tenant,
                   (int)(UNTAKEN_AFTER / EV_SEC));
    ev_event(bus, EVBUS_EVENT_RECEIPTS_UNTAKEN, EVBUS_OK, queued, "", "", "", text);
}

/* True: it stays in the list. */
static bool look_after(evbus *bus, struct ev_receipts *q, int64_t now)
{
    const int64_t taken_ns = ev_load_relaxed(&q->taken_ns); /* hint */
    const int64_t since = taken_ns > q->filled_ns ? taken_ns : q->filled_ns;
    const uint64_t put = ev_load_relaxed(&q->put), taken = ev_load_relaxed(&q->taken); /* own field; statistic */

    if (put == taken) {
        q->told = false;
        return false;
    }
    if (now - since < UNTAKEN_AFTER)
        q->told = false;
    else if (!q->told)
        tell_untaken(bus, q, put - taken);
    return true;
}

void ev_receipts_turn(evbus *bus, int64_t now)
{
    struct ev_tenants *t = &bus->tenants;

    if (t->unsaid && is_time_to_say(bus, now))
        say(bus);
    if (!t->watched || now < t->check_at)
        return;
    t->check_at = now + CHECK_STEP;
    for (struct ev_receipts **link = &t->watched; *link;) {
        struct ev_receipts *q = *link;
        if (look_after(bus, q, now)) {
            link = &q->next_watched;
        } else {
            q->watched = false;
            *link = q->next_watched;
        }
    }
}

int64_t ev_receipts_due(const evbus *bus)
{
    const struct ev_tenants *t = &bus->tenants;
    const int64_t check_at = t->watched ? t->check_at : EV_NEVER;

    return t->unsaid && t->say_at < check_at ? t->say_at : check_at;
}
