/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the inner backend reports, on its way to the core:
 *
 *   inner backend ─► lost? ─► line (late: delays, a slow server) ─► aside (overtaken, by other aggregates only) ─► core
 *
 * With nothing late and nothing aside a report goes through at once. While the core thinks that the link is down, nothing
 * does. When the link goes down what came in is taken to the core first: it had arrived.
 */
#include "backend/fault.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/envelope.h"

#include <string.h>

#define NO_MEMORY_PAUSE (50 * EV_MS)
#define DUPLICATE_LATER 2 /* one in so many comes later, when the first may have been settled */

static struct ev_fault *fault_of(struct ev_host *host)
{
    return (struct ev_fault *)(void *)host;
}

/* ---- Memory: free lists, so that nothing is allocated once they are warm ------------------------------------------- */

static struct ev_fault_item *item_new(struct ev_fault *f)
{
    struct ev_fault_item *item = f->free_items;

    if (!item)
        return ev_malloc(sizeof *item);
    f->free_items = item->next;
    return item;
}

static void item_free(struct ev_fault *f, struct ev_fault_item *item)
{
    item->next = f->free_items;
    f->free_items = item;
}

void ev_fault_address_put(struct ev_fault *f, struct ev_fault_address *address)
{
    if (--address->refs > 0)
        return;
    f->ops->release(f->inner, address->inner);
    address->next = f->free_addresses;
    f->free_addresses = address;
}

void ev_fault_token_free(struct ev_fault *f, struct ev_fault_token *token)
{
    ev_fault_address_put(f, token->address);
    ev_fault_address_put(f, token->bytes);
    token->next = f->free_tokens;
    f->free_tokens = token;
}

/* NULL: no memory. It has two references to the address. */
static struct ev_fault_token *token_new(struct ev_fault *f, struct ev_fault_address *address,
                                        const struct ev_delivery *d)
{
    struct ev_fault_token *token = f->free_tokens;

    if (token)
        f->free_tokens = token->next;
    else if (!(token = ev_malloc(sizeof *token)))
        return NULL;
    address->refs += 2;
    *token =
        (struct ev_fault_token){.bytes = address, .address = address, .seq = d->stream_seq, .count = d->delivery_count};
    return token;
}

static struct ev_fault_address *address_new(struct ev_fault *f, void *inner)
{
    struct ev_fault_address *address = f->free_addresses;

    if (address)
        f->free_addresses = address->next;
    else if (!(address = ev_malloc(sizeof *address)))
        return NULL;
    *address = (struct ev_fault_address){.inner = inner};
    return address;
}

/* The inner backend keeps its token: nothing is released. */
static void unwrap(struct ev_fault *f, struct ev_fault_token *token, struct ev_fault_address *address)
{
    if (token) {
        token->next = f->free_tokens;
        f->free_tokens = token;
    }
    if (address) {
        address->next = f->free_addresses;
        f->free_addresses = address;
    }
}

void ev_fault_fini(struct ev_fault *f)
{
    while (f->free_items) {
        struct ev_fault_item *next = f->free_items->next;
        ev_free(f->free_items);
        f->free_items = next;
    }
    while (f->free_tokens) {
        struct ev_fault_token *next = f->free_tokens->next;
        ev_free(f->free_tokens);
        f->free_tokens = next;
    }
    while (f->free_addresses) {
        struct ev_fault_address *next = f->free_addresses->next;
        ev_free(f->free_addresses);
        f->free_addresses = next;
    }
    while (f->quiet) {
        struct ev_fault_quiet *next = f->quiet->next;
        ev_free(f->quiet);
        f->quiet = next;
    }
}

/* ---- Lists ------------------------------------------------------------------------------------------------------- */

static void append(struct ev_fault_items *list, struct ev_fault_item *item)
{
    item->next = NULL;
    if (list->tail)
        list->tail->next = item;
    else
        list->head = item;
    list->tail = item;
}

/* Takes out the item behind `before` (NULL: the first). */
static struct ev_fault_item *take(struct ev_fault_items *list, struct ev_fault_item *before)
{
    struct ev_fault_item *item = before ? before->next : list->head;

    if (before)
        before->next = item->next;
    else
        list->head = item->next;
    if (list->tail == item)
        list->tail = before;
    return item;
}

static bool list_has(const struct ev_fault_items *list, const struct evbus_sub *sub, uint64_t seq)
{
    for (const struct ev_fault_item *i = list->head; i; i = i->next)
        if (i->kind == EV_FAULT_DELIVERY && i->delivery.sub == sub && (seq == 0 || i->delivery.stream_seq == seq))
            return true;
    return false;
}

static uint32_t count_waiting(const struct ev_fault_items *list, const struct evbus_sub *sub, uint64_t *bytes)
{
    uint32_t n = 0;

    for (const struct ev_fault_item *i = list->head; i; i = i->next) {
        if (i->kind != EV_FAULT_DELIVERY || i->delivery.sub != sub)
            continue;
        *bytes += i->delivery.len;
        n++;
    }
    return n;
}

uint32_t ev_fault_waiting(const struct ev_fault *f, const struct evbus_sub *sub, uint64_t *ret_bytes)
{
    *ret_bytes = 0;
    const uint32_t n = count_waiting(&f->line, sub, ret_bytes);
    return n + count_waiting(&f->aside, sub, ret_bytes);
}

/* ---- To the core ------------------------------------------------------------------------------------------------- */

/* The core did not take it: the broker gets it back. What is not stored is gone. */
static void hand_back(struct ev_fault *f, const struct ev_delivery *d)
{
    struct ev_fault_token *token = d->token;
    const struct ev_fault_binding *b = f->attached;

    while (b && b->sub != d->sub)
        b = b->next;
    if (b && d->stream_seq)
        (void)f->ops->settle(f->inner, b->inner, token->address->inner, EV_SETTLE_NAK, NO_MEMORY_PAUSE);
    ev_fault_token_free(f, token);
}

static void give(struct ev_fault *f, struct ev_fault_item *item)
{
    if (item->kind == EV_FAULT_ANSWER) {
        item->ack.stream = item->ack.stream ? item->stream : NULL;
        item->ack.text = item->ack.text ? item->text : NULL;
        ev_host_acked(f->host.outer, item->slot, item->generation, &item->ack);
    } else if (!ev_host_deliver(f->host.outer, &item->delivery)) {
        hand_back(f, &item->delivery);
    }
    item_free(f, item);
}

static void flush(struct ev_fault *f, struct ev_fault_items *list, const struct evbus_sub *sub)
{
    struct ev_fault_item *before = NULL, *i = list->head;

    while (i) {
        struct ev_fault_item *next = i->next;
        if (i->kind == EV_FAULT_DELIVERY && (!sub || i->delivery.sub == sub))
            give(f, take(list, before));
        else
            before = i;
        i = next;
    }
}

/* What came in for the subscription (NULL: for all), at once and in order. */
static void flush_deliveries(struct ev_fault *f, const struct evbus_sub *sub)
{
    flush(f, &f->aside, sub);
    flush(f, &f->line, sub);
}

/* ---- Aside: overtaken by other aggregates ------------------------------------------------------------------------ */

/* FNV-1a of the aggregate id, as the core orders; all that is no envelope counts as one aggregate. False: no memory. */
static bool aggregate_of(const struct ev_delivery *d, uint64_t *ret)
{
    char text[4096], *large = NULL;
    evbus_envelope env;
    evbus_status st = ev_envelope_scan(d->data, d->len, text, sizeof text, &env);

    if (st == EVBUS_LIMIT) {
        if (!(large = ev_malloc(d->len + 16)))
            return false;
        st = ev_envelope_scan(d->data, d->len, large, d->len + 16, &env);
    }
    *ret = st == EVBUS_OK ? ev_fnv1a(env.aggregate_id, strlen(env.aggregate_id)) : 0;
    ev_free(large);
    return true;
}

static struct ev_fault_item *last_aside(const struct ev_fault *f, const struct ev_fault_item *item)
{
    struct ev_fault_item *last = NULL;

    for (struct ev_fault_item *i = f->aside.head; i; i = i->next)
        if (i->delivery.sub == item->delivery.sub && i->key == item->key)
            last = i;
    return last;
}

static uint64_t identity(const struct ev_delivery *d)
{
    return d->stream_seq * 64 + d->delivery_count;
}

/* Its turn has come: to the core, unless it is overtaken, or waits behind one of its aggregate that is. */
static void emerge(struct ev_fault *f, struct ev_fault_item *item)
{
    const bool sorts = f->settings.chance[EV_FAULT_REORDER] || f->aside.head || item->late;

    if (item->kind == EV_FAULT_ANSWER || !sorts) {
        give(f, item);
        return;
    }
    if (!aggregate_of(&item->delivery, &item->key)) {
        flush(f, &f->aside, item->delivery.sub); /* nothing of it may be overtaken */
        give(f, item);
        return;
    }
    const struct ev_fault_item *last = last_aside(f, item);
    if (last) {
        item->at = last->at;
    } else if (item->late) {
        item->at = f->now + (int64_t)f->settings.reorder_by_ms * EV_MS;
    } else if (ev_fault_hits(f, EV_FAULT_REORDER, identity(&item->delivery))) {
        item->at = f->now + EV_MS * (int64_t)(1 + ev_fault_draw(f, EV_FAULT_REORDER, identity(&item->delivery) + 32,
                                                                f->settings.reorder_by_ms));
    } else {
        give(f, item);
        return;
    }
    append(&f->aside, item);
}

/* Each with all of its aggregate behind it, which has the same time: the list is in order of arrival. */
static bool pump_aside(struct ev_fault *f)
{
    struct ev_fault_item *before = NULL, *i = f->aside.head;
    bool any = false;

    while (i) {
        struct ev_fault_item *next = i->next;
        if (i->at <= f->now) {
            give(f, take(&f->aside, before));
            any = true;
        } else {
            before = i;
        }
        i = next;
    }
    return any;
}

/* ---- The line: late, in order ------------------------------------------------------------------------------------ */

static bool pump_line(struct ev_fault *f)
{
    bool any = false;

    while (f->line.head && f->line.head->at <= f->now && f->up) {
        emerge(f, take(&f->line, NULL));
        any = true;
    }
    return any;
}

static void enqueue(struct ev_fault *f, struct ev_fault_item *item)
{
    int64_t at = f->now + (int64_t)f->settings.slow_by_ms * EV_MS;

    f->count[EV_FAULT_SLOW] += f->settings.slow_by_ms > 0;
    if (ev_fault_hits(f, EV_FAULT_DELAY, ++f->events)) {
        const uint64_t by = 1 + ev_fault_draw(f, EV_FAULT_DELAY, ~f->events, f->settings.delay_by_ms);
        f->stalled_until = f->now + (int64_t)by * EV_MS;
    }
    if (at < f->stalled_until)
        at = f->stalled_until;
    item->at = f->line.tail && f->line.tail->at > at ? f->line.tail->at : at;
    append(&f->line, item);
}

/* Nothing waits and nothing can happen to it on the way. */
static bool is_clear(const struct ev_fault *f)
{
    const struct ev_fault_settings *s = &f->settings;

    return f->up && !f->line.head && !f->aside.head && !s->slow_by_ms && !s->chance[EV_FAULT_DELAY] &&
           !s->chance[EV_FAULT_REORDER];
}

static void arrive(struct ev_fault *f, struct ev_fault_item *item)
{
    enqueue(f, item);
    (void)pump_line(f);
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

void ev_fault_answer(struct ev_fault *f, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    struct ev_fault_item *item = item_new(f);

    if (!item) {
        f->count[EV_FAULT_LOST_ACK]++; /* no memory: lost, as on the way */
        return;
    }
    item->kind = EV_FAULT_ANSWER;
    item->slot = slot;
    item->generation = generation;
    item->ack = *ack;
    (void)ev_copyn(item->stream, sizeof item->stream, ack->stream ? ack->stream : "", ack->stream_len);
    (void)ev_copyn(item->text, sizeof item->text, ack->text ? ack->text : "", ack->text_len);
    item->ack.stream_len = strlen(item->stream);
    item->ack.text_len = strlen(item->text);
    enqueue(f, item);
}

static void tap_acked(struct ev_host *host, uint32_t slot, uint32_t generation, const struct ev_ack *ack)
{
    struct ev_fault *f = fault_of(host);

    if (ev_fault_hits(f, EV_FAULT_LOST_ACK, ++f->answers))
        return;
    if (is_clear(f)) {
        ev_host_acked(f->host.outer, slot, generation, ack);
        return;
    }
    ev_fault_answer(f, slot, generation, ack);
    (void)pump_line(f);
}

/* ---- Deliveries -------------------------------------------------------------------------------------------------- */

/* Delivered once more, as after an ack wait: at once, or later, when the first may have been settled. */
static void duplicate(struct ev_fault *f, struct ev_fault_token *token, const struct ev_delivery *d)
{
    struct ev_fault_item *item = item_new(f);

    if (!item) {
        ev_fault_token_free(f, token);
        return;
    }
    item->kind = EV_FAULT_DELIVERY;
    item->delivery = *d;
    item->delivery.token = token;
    item->delivery.delivery_count++;
    token->count++;
    item->late = ev_fault_draw(f, EV_FAULT_DUPLICATE, identity(d) + 32, DUPLICATE_LATER) == 0;
    arrive(f, item);
}

static bool pass_on(struct ev_fault *f, const struct ev_delivery *d)
{
    struct ev_fault_item *item;

    if (is_clear(f))
        return ev_host_deliver(f->host.outer, d);
    if (!(item = item_new(f)))
        return false;
    item->kind = EV_FAULT_DELIVERY;
    item->delivery = *d;
    item->late = false;
    arrive(f, item);
    return true;
}

static bool tap_deliver(struct ev_host *host, const struct ev_delivery *delivery)
{
    struct ev_fault *f = fault_of(host);
    struct ev_fault_address *address = address_new(f, delivery->token);
    struct ev_fault_token *token = address ? token_new(f, address, delivery) : NULL, *second = NULL;
    struct ev_delivery d = *delivery;

    if (!token) {
        unwrap(f, NULL, address);
        return false;
    }
    /* Only what is stored is ever delivered again; the copy must hold the bytes before the first one is let go. */
    if (d.stream_seq && ev_fault_hits(f, EV_FAULT_DUPLICATE, identity(&d)))
        second = token_new(f, address, &d);
    d.token = token;
    if (!pass_on(f, &d)) {
        if (second)
            unwrap(f, second, NULL);
        unwrap(f, token, address);
        return false;
    }
    if (second)
        duplicate(f, second, &d);
    return true;
}

static bool tap_holds(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    const struct ev_fault *f = fault_of(host);

    return list_has(&f->line, sub, stream_seq) || list_has(&f->aside, sub, stream_seq) ||
           ev_host_holds(f->host.outer, sub, stream_seq);
}

static uint32_t count_between(const struct ev_fault_items *list, const struct evbus_sub *sub, uint64_t first,
                              uint64_t last)
{
    uint32_t n = 0;

    for (const struct ev_fault_item *i = list->head; i; i = i->next)
        n += i->kind == EV_FAULT_DELIVERY && i->delivery.sub == sub && i->delivery.stream_seq >= first &&
             i->delivery.stream_seq <= last;
    return n;
}

uint32_t ev_fault_unsettled(const struct ev_fault *f, const struct evbus_sub *sub, uint64_t first, uint64_t last)
{
    return count_between(&f->line, sub, first, last) + count_between(&f->aside, sub, first, last);
}

/* Counted where each has its place: what waits here may be there twice. */
static uint32_t tap_unsettled(struct ev_host *host, struct evbus_sub *sub, uint64_t first, uint64_t last)
{
    struct ev_fault *f = fault_of(host);

    flush_deliveries(f, sub);
    return ev_host_unsettled(f->host.outer, sub, first, last);
}

/* What came while the core gathered must be there before it stops. */
static void tap_gather(struct ev_host *host, struct evbus_sub *sub, bool on)
{
    struct ev_fault *f = fault_of(host);

    if (!on)
        flush_deliveries(f, sub);
    ev_host_gather(f->host.outer, sub, on);
}

/* What waits here would be here twice. */
static bool tap_let_go(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing)
{
    struct ev_fault *f = fault_of(host);

    flush_deliveries(f, sub);
    return ev_host_let_go(f->host.outer, sub, missing);
}

/* The same: what came before its turn ended was its own. */
static void tap_active(struct ev_host *host, struct evbus_sub *sub, bool active)
{
    struct ev_fault *f = fault_of(host);

    if (!active)
        flush_deliveries(f, sub);
    ev_host_active(f->host.outer, sub, active);
}

/* ---- Subscriptions ----------------------------------------------------------------------------------------------- */

/* Nothing more comes from its binding (lost: of the one attached; quiet: of the one detached): what waits goes now. */
static void end(struct ev_fault *f, struct evbus_sub *sub, bool lost)
{
    struct ev_fault_binding **link = &f->attached;

    flush_deliveries(f, sub);
    while (*link && ((*link)->sub != sub || (*link)->detached == lost))
        link = &(*link)->next;
    if (*link)
        *link = (*link)->next;
}

/* It may be called inside the core's detach, where nothing is delivered: what waits goes first, in the next turn. */
static void tap_quiet(struct ev_host *host, struct evbus_sub *sub)
{
    struct ev_fault *f = fault_of(host);
    struct ev_fault_quiet *quiet = NULL;

    if ((list_has(&f->line, sub, 0) || list_has(&f->aside, sub, 0)) && (quiet = ev_calloc(1, sizeof *quiet))) {
        *quiet = (struct ev_fault_quiet){.next = f->quiet, .sub = sub};
        f->quiet = quiet;
        return;
    }
    end(f, sub, false);
    ev_host_quiet(f->host.outer, sub);
}

static bool pump_quiet(struct ev_fault *f)
{
    const bool any = f->quiet != NULL;

    while (f->quiet) {
        struct ev_fault_quiet *quiet = f->quiet;
        struct evbus_sub *sub = quiet->sub;
        f->quiet = quiet->next;
        ev_free(quiet);
        end(f, sub, false);
        ev_host_quiet(f->host.outer, sub);
    }
    return any;
}

static void tap_consumer_lost(struct ev_host *host, struct evbus_sub *sub, evbus_status cause, const char *text)
{
    struct ev_fault *f = fault_of(host);

    end(f, sub, true);
    ev_host_consumer_lost(f->host.outer, sub, cause, text);
}

/* ---- The link ---------------------------------------------------------------------------------------------------- */

static void link_up(struct ev_fault *f)
{
    f->up = true;
    ev_host_link_up(f->host.outer);
}

static void tap_link_up(struct ev_host *host)
{
    struct ev_fault *f = fault_of(host);

    f->inner_up = true;
    if (f->now >= f->down_until)
        link_up(f);
}

/* Answers that were under way are lost with the link. */
static void drop_answers(struct ev_fault *f)
{
    struct ev_fault_item *before = NULL, *i = f->line.head;

    while (i) {
        struct ev_fault_item *next = i->next;
        if (i->kind == EV_FAULT_ANSWER)
            item_free(f, take(&f->line, before));
        else
            before = i;
        i = next;
    }
}

static void tap_link_down(struct ev_host *host, evbus_status cause, const char *text)
{
    struct ev_fault *f = fault_of(host);
    const bool was_up = f->up;

    f->inner_up = false;
    if (!was_up)
        return;
    flush_deliveries(f, NULL);
    drop_answers(f);
    f->up = false;
    ev_host_link_down(f->host.outer, cause, text);
}

const struct ev_host_tap ev_fault_tap = {
    .link_up = tap_link_up,
    .link_down = tap_link_down,
    .acked = tap_acked,
    .deliver = tap_deliver,
    .holds = tap_holds,
    .unsettled = tap_unsettled,
    .gather = tap_gather,
    .let_go = tap_let_go,
    .active = tap_active,
    .quiet = tap_quiet,
    .consumer_lost = tap_consumer_lost,
};

/* ---- The turn ---------------------------------------------------------------------------------------------------- */

void ev_fault_begin(struct ev_fault *f, int64_t now)
{
    f->now = now;
    f->down_until = f->stalled_until = f->away_until = f->next_disconnect = f->next_jump = f->next_silence = INT64_MIN;
}

bool ev_fault_pump(struct ev_fault *f)
{
    bool busy = false;

    if (f->inner_up && !f->up && f->now >= f->down_until) {
        link_up(f);
        busy = true;
    }
    if (f->up)
        busy |= pump_aside(f);
    busy |= pump_line(f);
    busy |= pump_quiet(f);
    return busy;
}

int64_t ev_fault_due(const struct ev_fault *f)
{
    int64_t due = f->quiet ? INT64_MIN : EV_NEVER;

    if (f->inner_up && !f->up && f->down_until < due)
        due = f->down_until;
    if (!f->up)
        return due;
    if (f->line.head && f->line.head->at < due)
        due = f->line.head->at;
    for (const struct ev_fault_item *i = f->aside.head; i; i = i->next)
        if (i->at < due)
            due = i->at;
    return due;
}

void ev_fault_discard(struct ev_fault *f)
{
    struct ev_fault_items *const lists[] = {&f->aside, &f->line};

    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        while (lists[i]->head) {
            struct ev_fault_item *item = take(lists[i], NULL);
            if (item->kind == EV_FAULT_DELIVERY)
                hand_back(f, &item->delivery);
            item_free(f, item);
        }
    }
    f->up = false;
}
