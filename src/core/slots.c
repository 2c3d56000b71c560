/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include <string.h>

#define KEEP_BUFFER 16384 /* a larger buffer is freed with its message */
#define FIRST_BUFFER 1024
#define LETTERS EV_SIZE(64, 1)
#define ROW EV_SIZE(32u, 2u)
#define WAKE_PAUSE EV_MS /* publishers wait at most that long beside free places that nobody uses up */
#define WOKEN_AT_ONCE EV_SIZE(4u, 1u)

evbus_status ev_slots_init(evbus *bus)
{
    struct ev_slots *s = &bus->slots;
    evbus_status st;

    s->count = bus->cfg.o.publish_inflight_max;
    s->letters = LETTERS;
    s->all = ev_aligned(EV_CACHELINE, (s->count + s->letters) * sizeof *s->all);
    s->bytes = ev_calloc(s->count + s->letters, sizeof *s->bytes);
    if (!s->all || !s->bytes)
        return ev_fail(EVBUS_NOMEM, "out of memory for %u publish slots", s->count);
    if ((st = ev_ring_init(&s->submit, s->count)) != EVBUS_OK)
        return st;
    ev_stack_init(&s->free, &s->all[0].link, sizeof s->all[0]);
    ev_park_init(&s->room);
    s->wake_at = s->look_at = EV_NEVER;
    for (uint32_t i = 0; i < s->count + s->letters; i++) {
        struct ev_slot *slot = &s->all[i];
        slot->index = i;
        ev_park_init(&slot->done);
        if (i < s->count) {
            ev_stack_push(&s->free, s->count - 1 - i);
        } else {
            slot->kind = EV_SLOT_LETTER;
            slot->next = s->free_letters;
            s->free_letters = slot;
        }
    }
    return EVBUS_OK;
}

void ev_slots_fini(evbus *bus)
{
    struct ev_slots *s = &bus->slots;

    for (uint32_t i = 0; s->all && i < s->count + s->letters; i++) {
        ev_free(s->all[i].buf);
        ev_free(s->all[i].detail);
    }
    ev_free(s->all);
    ev_free(s->bytes);
    s->all = NULL;
    s->bytes = NULL;
    ev_ring_fini(&s->submit);
}

static bool charge(evbus *bus, uint32_t size)
{
    const uint64_t max = bus->cfg.o.publish_bytes_max;
    const uint64_t before = ev_add_acqrel(&bus->slots.bytes_used, size);

    if (before + size <= max || EV_BUG(EV_BUG_NO_CHARGE))
        return true;
    ev_sub_acqrel(&bus->slots.bytes_used, size);
    return false;
}

/* A window later a slot and its bytes are out of this processor's cache. The place that is on top now is most likely the
 * next that is taken: it is fetched while this one is filled. Inlined always, for gcc 12 leaves out the call of a function
 * that does nothing else. */
__attribute__((always_inline)) static inline void fetch_next(struct ev_slots *s, uint32_t size)
{
    uint32_t number;

    if (!ev_stack_peek(&s->free, &number))
        return;
    const char *slot = (const char *)&s->all[number];
    for (uint32_t at = 0; at < 3 * EV_CACHELINE; at += EV_CACHELINE)
        __builtin_prefetch(slot + at, 1);
    const char *bytes = ev_load_relaxed(&s->bytes[number]); /* hint */
    for (uint32_t at = 0; at < size && at < FIRST_BUFFER; at += EV_CACHELINE)
        __builtin_prefetch(bytes + at, 1);
}

static struct ev_slot *try_take(evbus *bus, uint32_t size)
{
    uint32_t number;

    if (!charge(bus, size))
        return NULL;
    if (ev_stack_pop(&bus->slots.free, &number)) { /* P6 */
        struct ev_slot *slot = &bus->slots.all[number];
        fetch_next(&bus->slots, size);
        slot->charged = size;
        return slot;
    }
    ev_sub_acqrel(&bus->slots.bytes_used, size);
    return NULL;
}

struct want {
    evbus *bus;
    uint32_t size;
    struct ev_slot *slot;
};

static bool room_or_end(void *arg)
{
    struct want *w = arg;

    if (ev_load_seqcst(&w->bus->phase) != EV_RUNNING)
        return true;
    w->slot = try_take(w->bus, w->size);
    return w->slot != NULL;
}

static bool wait_for_room(struct want *w, int64_t deadline)
{
    evbus *bus = w->bus;

    if (bus->manual)
        return ev_bus_await(bus, room_or_end, w, deadline);
    while (!room_or_end(w)) {
        const uint32_t ticket = ev_park_prepare(&bus->slots.room);
        if (room_or_end(w)) {
            ev_park_cancel(&bus->slots.room);
            return true;
        }
        if (!ev_park_wait(&bus->slots.room, ticket, bus->clock, deadline))
            return room_or_end(w);
    }
    return true;
}

static evbus_status fit(evbus *bus, struct ev_slot *slot, uint32_t size)
{
    const uint32_t need = size + 1;

    if (slot->cap >= need)
        return EVBUS_OK;
    uint32_t cap = slot->cap ? slot->cap : FIRST_BUFFER;
    while (cap < need)
        cap *= 2;
    char *buf = ev_malloc(cap);
    if (!buf) {
        ev_slot_give_back(bus, slot);
        ev_park_wake(&bus->slots.room, UINT32_MAX);
        return ev_fail(EVBUS_NOMEM, "out of memory for a message of %u bytes", size);
    }
    ev_free(slot->buf);
    slot->buf = buf;
    slot->cap = cap;
    ev_store_relaxed(&bus->slots.bytes[slot->index], buf); /* hint */
    return EVBUS_OK;
}

/* A publisher's are forgotten when the slot is taken again, on its side: who gives it back does not have that line. */
static void forget_bytes(struct ev_slot *slot)
{
    slot->data = slot->data_len = slot->headers = slot->headers_len = 0;
    slot->msg_id = slot->event_id = slot->aggregate_id = 0;
}

evbus_status ev_slot_take(evbus *bus, uint32_t size, int64_t deadline, struct ev_slot **ret)
{
    if (size > bus->cfg.o.publish_bytes_max)
        return ev_fail(EVBUS_TOO_LARGE, "message of %u bytes is above publish_bytes_max (%llu)", size,
                       (unsigned long long)bus->cfg.o.publish_bytes_max);
    struct want w = {.bus = bus, .size = size, .slot = try_take(bus, size)};
    if (!w.slot && !wait_for_room(&w, deadline)) {
        ev_add_relaxed(&bus->n.backpressure, 1); /* statistic */
        return ev_fail(EVBUS_BACKPRESSURE,
                       "no room: %u publishes or %llu bytes are without an outcome (publish_inflight_max, "
                       "publish_bytes_max)",
                       bus->slots.count, (unsigned long long)bus->cfg.o.publish_bytes_max);
    }
    struct ev_slot *slot = w.slot;
    if (!slot)
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    ev_store_seqcst(&slot->state, EV_SLOT_RESERVED);
    if (ev_load_seqcst(&bus->phase) !=
        EV_RUNNING) { /* pairs with the end's sweep: it sees RESERVED, or we see the end */
        ev_slot_give_back(bus, slot);
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    }
    evbus_status st = fit(bus, slot, size);
    if (st != EVBUS_OK)
        return st;
    slot->buf[0] = 0;
    forget_bytes(slot);
    *ret = slot;
    return EVBUS_OK;
}

bool ev_slot_submit(evbus *bus, struct ev_slot *slot)
{
    uint32_t seen = EV_SLOT_RESERVED;

    if (EV_BUG(EV_BUG_SLOT_BLIND_SUBMIT))
        ev_store_seqcst(&slot->state, EV_SLOT_QUEUED);
    else if (!ev_cas_seqcst(&slot->state, &seen, EV_SLOT_QUEUED)) /* P7 */
        return false;
    (void)ev_ring_push(&bus->slots.submit, slot); /* P1; as many cells as slots: never full */
    ev_loop_wake(bus);
    return true;
}

/* Ready for its next owner. Returns what it was charged. */
static uint32_t clean(evbus *bus, struct ev_slot *slot)
{
    const uint32_t charged = slot->charged;

    if (EV_BUG(EV_BUG_SLOT_EARLY_FREE))
        ev_stack_push(&bus->slots.free, slot->index);
    if (slot->cap > KEEP_BUFFER) {
        ev_store_relaxed(&bus->slots.bytes[slot->index], NULL); /* hint */
        ev_free(slot->buf);
        slot->buf = NULL;
        slot->cap = 0;
    }
    ev_free(slot->detail);
    slot->detail = NULL;
    slot->stream = NULL;
    slot->receipt = NULL;
    slot->maybe_stored = false;
    slot->under_way = false;
    slot->charged = 0;
    ev_store_seqcst(&slot->state, EV_SLOT_FREE);
    return charged;
}

void ev_slot_give_back(evbus *bus, struct ev_slot *slot)
{
    struct ev_slots *s = &bus->slots;

    ev_sub_acqrel(&s->bytes_used, clean(bus, slot));
    if (slot->index >= s->count) {
        forget_bytes(slot);
        slot->outside = NULL;
        slot->letter_of = NULL;
        slot->next = s->free_letters;
        s->free_letters = slot;
        return;
    }
    if (!EV_BUG(EV_BUG_SLOT_EARLY_FREE))
        ev_stack_push(&s->free, slot->index); /* P5 */
}

void ev_slots_put_back(evbus *bus)
{
    struct ev_slots *s = &bus->slots;

    if (s->back.count == 0)
        return;
    ev_sub_acqrel(&s->bytes_used, s->back_bytes);
    s->back_bytes = 0;
    ev_stack_push_row(&s->free, &s->back); /* P5 */
}

void ev_slot_release(evbus *bus, struct ev_slot *slot)
{
    struct ev_slots *s = &bus->slots;

    s->released++;
    if (EV_BUG(EV_BUG_SLOT_EARLY_FREE)) {
        ev_slot_give_back(bus, slot);
        return;
    }
    s->back_bytes += clean(bus, slot);
    ev_stack_row_add(&s->free, &s->back, slot->index);
    if (s->back.count >= ROW)
        ev_slots_put_back(bus);
}

/* ---- Waking who waits for room ----------------------------------------------------------------------------------- */

/* Enough came free, or a moment has passed since the rest stopped coming. */
static bool is_time(evbus *bus, bool idle)
{
    struct ev_slots *s = &bus->slots;

    if (s->released >= (bus->out.active + s->released) / 8 || !ev_park_waiting(&s->room))
        return true;
    if (idle && s->wake_at == EV_NEVER)
        s->wake_at = bus->turn_ns + WAKE_PAUSE;
    return bus->turn_ns >= s->wake_at;
}

static void wake_some(evbus *bus)
{
    struct ev_slots *s = &bus->slots;
    const bool waiting = ev_park_waiting(&s->room);

    s->told = s->released;
    s->taken = ev_stack_pops(&s->free);
    s->released = 0;
    s->wake_at = EV_NEVER;
    s->look_at = waiting ? bus->turn_ns + WAKE_PAUSE : EV_NEVER;
    if (waiting)
        ev_park_wake(&s->room, WOKEN_AT_ONCE);
}

/* Are those that were woken using the room up? */
static void look_after(evbus *bus)
{
    struct ev_slots *s = &bus->slots;
    const uint64_t taken = ev_stack_pops(&s->free), used = taken - s->taken;

    s->look_at = EV_NEVER;
    if (ev_stack_empty(&s->free) || EV_BUG(EV_BUG_SLOT_NO_LATE_WAKE)) /* what comes free next is told again */
        return;
    if (used > 0 && used * 8 >= s->told && ev_park_waiting(&s->room)) {
        s->taken = taken;
        s->look_at = bus->turn_ns + WAKE_PAUSE;
        return;
    }
    ev_park_wake(&s->room, UINT32_MAX);
}

/*
 * Waking all that wait for each place that comes free would cost a system call and a context switch per waiting
 * publisher and message. So a few are woken when an eighth of what was on its way has come back, or a moment after the
 * rest has stopped coming; they go on until the room is used up, and then sleep behind those that have waited longer. When they do
 * not use it up (they had one message, or wait for something else), all are woken a moment later.
 */
void ev_slots_wake(evbus *bus, bool idle)
{
    struct ev_slots *s = &bus->slots;

    ev_slots_put_back(bus);
    if (s->released && is_time(bus, idle))
        wake_some(bus);
    else if (bus->turn_ns >= s->look_at)
        look_after(bus);
}
