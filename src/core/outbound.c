/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include "core/deadletter.h"
#include "core/outage.h"
#include "core/outcome.h"
#include "core/streams.h"

#include <string.h>

#define TAKE_PER_TURN 512
#define FETCHED_MAX 1024u
#define CHECK_STEP (20 * EV_MS)
#define FULL_STEP (5 * EV_MS)
#define PROBE_MIN (100 * EV_MS)
#define PROBE_SPREAD (150 * EV_MS)
#define PROBE_PATIENCE EV_SEC
#define ASK_MIN (50 * EV_MS)
#define ASK_MAX EV_SEC

/* ---- Time: when to look -------------------------------------------------------------------------------------------- */

/* Slots are looked through when the first of them is due, in steps: all of them are out of the processor's cache by then. */
static void look_by(evbus *bus, int64_t at, int64_t now)
{
    const int64_t step = now + CHECK_STEP, by = at > step ? at : step;

    if (by < bus->out.next_check)
        bus->out.next_check = by;
}

/* ---- Held messages ----------------------------------------------------------------------------------------------- */

static void list_topic(evbus *bus, struct ev_topic *topic)
{
    if (topic->in_held_list)
        return;
    topic->in_held_list = true;
    topic->next_held = bus->out.held_topics;
    bus->out.held_topics = topic;
}

static void hold(evbus *bus, struct ev_slot *slot, bool front)
{
    struct ev_topic *t = slot->topic;

    slot->phase = EV_PHASE_HELD;
    if (front) {
        slot->next = t->held.head;
        t->held.head = slot;
        if (!t->held.tail)
            t->held.tail = slot;
    } else {
        slot->next = NULL;
        if (t->held.tail)
            t->held.tail->next = slot;
        else
            t->held.head = slot;
        t->held.tail = slot;
    }
    t->held.count++;
    ev_store_relaxed(&t->held_hint, t->held.count); /* hint */
    list_topic(bus, t);
}

static void unhold(struct ev_slot *slot)
{
    struct ev_topic *t = slot->topic;
    struct ev_slot *before = NULL;

    for (struct ev_slot *s = t->held.head; s; before = s, s = s->next) {
        if (s != slot)
            continue;
        if (before)
            before->next = s->next;
        else
            t->held.head = s->next;
        if (t->held.tail == s)
            t->held.tail = before;
        t->held.count--;
        ev_store_relaxed(&t->held_hint, t->held.count); /* hint */
        slot->next = NULL;
        return;
    }
}

/* ---- Outcomes ---------------------------------------------------------------------------------------------------- */

static void finish(evbus *bus, struct ev_slot *slot, evbus_outcome outcome, evbus_status status, const char *detail,
                   int64_t now)
{
    struct ev_topic *t = slot->topic;

    if (slot->phase == EV_PHASE_SENT && slot->want_ack && --t->unanswered == 0)
        t->denied = 0;
    if (slot->phase == EV_PHASE_HELD)
        unhold(slot);
    if (t->probe == slot)
        t->probe = NULL;
    slot->phase = EV_PHASE_IDLE;
    if (slot->outage)
        ev_outage_forget(slot);
    if (EV_BUG(EV_BUG_SLOT_EARLY_DONE) && slot->kind == EV_SLOT_WAIT)
        ev_store_seqcst(&slot->state, EV_SLOT_DONE);
    EV_WRITES(&slot->outcome);
    slot->outcome = outcome;
    slot->status = status;
    slot->completed_ns =
        now > slot->accepted_ns ? now : slot->accepted_ns; /* `now` is the turn's: it may have begun before */
    if (detail && !slot->detail)
        slot->detail = ev_strdup(detail);
    bus->out.active--;
    ev_outcome(bus, slot);
}

/* Ends a publish that will not be sent (again). What was sent before and never answered may be stored. */
static void give_up(evbus *bus, struct ev_slot *slot, evbus_status status, const char *detail, int64_t now)
{
    if (slot->maybe_stored && !EV_BUG(EV_BUG_UNKNOWN_REFUSED))
        finish(bus, slot, EVBUS_OUTCOME_UNKNOWN, EVBUS_UNKNOWN, detail, now);
    else
        finish(bus, slot, EVBUS_OUTCOME_REFUSED, status, detail, now);
}

/* True: there is no link, and none is to come; it ended. Dead letters wait on: nothing else may become of them. */
static bool end_without_link(evbus *bus, struct ev_slot *slot, int64_t now)
{
    if (slot->kind == EV_SLOT_LETTER || ev_load_relaxed(&bus->link) != EV_LINK_GIVEN_UP) /* own field */
        return false;
    give_up(bus, slot, EVBUS_DISCONNECTED, "reconnecting was given up (reconnect_attempts_max); not sent", now);
    return true;
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

static enum ev_sent send(evbus *bus, struct ev_slot *slot, int64_t now)
{
    struct ev_topic *t = slot->topic;
    evbus_status status = EVBUS_OK;

    slot->generation++;
    const struct ev_record record = {
        .topic = t->name,
        .data = slot->outside ? slot->outside : slot->buf + slot->data,
        .len = slot->data_len,
        .headers = slot->headers ? slot->buf + slot->headers : NULL,
        .headers_len = slot->headers_len,
        .msg_id = slot->msg_id ? slot->buf + slot->msg_id : NULL,
        .slot = slot->index,
        .generation = slot->generation,
        .want_ack = slot->want_ack,
    };
    const enum ev_sent sent = bus->ops->send(bus->state, &record, &status);
    if (sent == EV_SEND_LATER)
        return sent;
    if (slot->phase == EV_PHASE_HELD)
        unhold(slot);
    slot->phase = EV_PHASE_IDLE;
    if (sent == EV_SEND_REFUSED) {
        give_up(bus, slot, status, ev_detail(), now);
        return sent;
    }
    if (slot->maybe_stored)
        ev_count(&bus->n.resent, 1);
    if (slot->outage) { /* its time as a held one is over: from here on it is a publish like any other */
        ev_outage_forget(slot);
        slot->deadline_ns = ev_deadline(now, bus->cfg.o.publish_timeout_ms);
        look_by(bus, slot->deadline_ns, now);
    }
    slot->order = t->last_order = ++bus->out.order;
    slot->mark = bus->ops->sent_mark(bus->state);
    slot->phase = EV_PHASE_SENT;
    if (!slot->want_ack) {
        finish(bus, slot, EVBUS_OUTCOME_STORED, EVBUS_OK, NULL, now);
        return sent;
    }
    t->unanswered++;
    slot->after = NULL;
    if (bus->out.last_sent)
        bus->out.last_sent->after = slot;
    bus->out.last_sent = slot;
    return sent;
}

static bool may_send(const evbus *bus, const struct ev_topic *t)
{
    return !bus->out.full && ev_load_relaxed(&bus->link) == EV_LINK_UP &&   /* own field */
           ev_load_relaxed(&t->gate) == EV_GATE_OPEN && t->held.count == 0; /* own field */
}

void ev_outbound_submit(evbus *bus, struct ev_slot *slot, int64_t now)
{
    if (bus->out.active++ == 0)
        bus->out.next_check = EV_NEVER;
    look_by(bus, slot->deadline_ns, now);
    if (!may_send(bus, slot->topic)) {
        hold(bus, slot, false);
        (void)end_without_link(bus, slot, now);
    } else if (send(bus, slot, now) == EV_SEND_LATER) {
        bus->out.full = true;
        hold(bus, slot, false);
    }
}

/* Slots and bytes come from another processor's cache: the slot after the next, and the bytes of the next, are fetched
 * while this one is sent. */
__attribute__((always_inline)) static inline void fetch_submitted(struct ev_ring *submit)
{
    const struct ev_slot *next = ev_ring_peek_one(submit, 0);
    const char *after = next ? ev_ring_peek_one(submit, 1) : NULL;

    for (uint32_t at = 0; after && at < 3 * EV_CACHELINE; at += EV_CACHELINE)
        __builtin_prefetch(after + at, 1);
    for (uint32_t at = 0; next && at < next->data + next->data_len && at < FETCHED_MAX; at += EV_CACHELINE)
        __builtin_prefetch(next->buf + at);
}

static bool take_submitted(evbus *bus, int64_t now)
{
    uint32_t n = 0;
    void *item;

    while (n < TAKE_PER_TURN && !bus->out.full && ev_ring_pop_one(&bus->slots.submit, &item)) { /* P2 */
        fetch_submitted(&bus->slots.submit);
        ev_outbound_submit(bus, item, now);
        n++;
    }
    return n > 0;
}

/* Sends what a topic holds; with a closed gate only one probe at a time. True if anything went. */
static bool send_held(evbus *bus, struct ev_topic *t, int64_t now)
{
    bool any = false;

    while (t->held.head && !bus->out.full) {
        struct ev_slot *slot = t->held.head;
        const bool closed = ev_load_relaxed(&t->gate) == EV_GATE_CLOSED; /* own field */
        if (closed && (t->probe || now < t->probe_at))
            break;
        if (closed) {
            t->probe = slot;
            t->probe_at = now + PROBE_MIN + (int64_t)(ev_random() % (uint64_t)PROBE_SPREAD);
        }
        if (send(bus, slot, now) == EV_SEND_LATER) {
            bus->out.full = true;
            if (t->probe == slot)
                t->probe = NULL;
            break;
        }
        any = true;
    }
    return any;
}

static bool send_all_held(evbus *bus, int64_t now)
{
    struct ev_topic **link = &bus->out.held_topics;
    bool any = false;

    if (!ev_link_is_up(bus))
        return false;
    while (*link) {
        struct ev_topic *t = *link;
        any |= send_held(bus, t, now);
        if (t->held.count == 0 && ev_load_relaxed(&t->gate) == EV_GATE_OPEN) { /* own field */
            t->in_held_list = false;
            *link = t->next_held;
        } else {
            link = &t->next_held;
        }
    }
    return any;
}

/* ---- The gate ---------------------------------------------------------------------------------------------------- */

void ev_gate_close(evbus *bus, struct ev_topic *t, int64_t now, const char *why)
{
    ev_store_release(&t->stream_state, EV_STREAM_UNKNOWN);
    ev_streams_check_later(bus, t);
    if (ev_load_relaxed(&t->gate) == EV_GATE_CLOSED) /* own field */
        return;
    t->probe = NULL;
    t->probe_at = now + PROBE_MIN + (int64_t)(ev_random() % (uint64_t)PROBE_SPREAD);
    ev_store_seqcst(&t->gate, EV_GATE_CLOSED);
    list_topic(bus, t);
    ev_event(bus, EVBUS_EVENT_GATE_CLOSED, EVBUS_REFUSED, 0, t->name, "", "", why);
}

static void gate_open(evbus *bus, struct ev_topic *t)
{
    t->probe = NULL;
    ev_store_release(&t->retry_at, 0);             /* that its stream was not found a moment ago is out of date */
    if (ev_load_relaxed(&t->gate) == EV_GATE_OPEN) /* own field */
        return;
    ev_store_seqcst(&t->gate, EV_GATE_OPEN);
    ev_park_wake(&bus->slots.room, UINT32_MAX);
    ev_event(bus, EVBUS_EVENT_GATE_OPEN, EVBUS_OK, 0, t->name, "", "", "the topic's stream answers again");
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

/* May this sent publish go out once more without overtaking anything of its topic? */
static bool may_repeat(const struct ev_slot *slot)
{
    const struct ev_topic *t = slot->topic;

    return EV_BUG(EV_BUG_RESEND_ANY) || slot->kind == EV_SLOT_WAIT || slot->kind == EV_SLOT_LETTER ||
           (slot->order == t->last_order && t->held.count == 0);
}

static void repeat(evbus *bus, struct ev_slot *slot)
{
    struct ev_topic *t = slot->topic;

    if (slot->phase == EV_PHASE_SENT && --t->unanswered == 0)
        t->denied = 0;
    if (t->probe == slot)
        t->probe = NULL;
    slot->generation++; /* a late answer to the earlier send is not the answer to the next */
    slot->ask_at = EV_NEVER;
    hold(bus, slot, true);
}

/* A probe may meet a stream whose subjects are being changed, and is never answered then. It is sent again, still before
 * all that is held, if its message id makes that safe. */
static int64_t probe_due(const struct ev_topic *t, int64_t now)
{
    const struct ev_slot *slot = t->probe;
    const int64_t due = t->probe_at + PROBE_PATIENCE;
    const bool renewable = slot && slot->phase == EV_PHASE_SENT && slot->msg_id && slot->order == t->last_order;

    return renewable && due < slot->deadline_ns && now < slot->deadline_ns ? due : EV_NEVER;
}

static void renew_probe(evbus *bus, struct ev_topic *t, int64_t now)
{
    struct ev_slot *slot = t->probe;

    if (now < probe_due(t, now))
        return;
    slot->maybe_stored = true;
    repeat(bus, slot);
}

static void answered_refused(evbus *bus, struct ev_slot *slot, const struct ev_ack *ack, int64_t now)
{
    char text[200];

    (void)ev_copyn(text, sizeof text, ack->text ? ack->text : "", ack->text_len);
    slot->broker_code = ack->broker_code;
    if (ack->no_responders || ack->stream_missing) {
        ev_gate_close(bus, slot->topic, now,
                      ack->no_responders ? "no stream answers for the topic (no responders)" : text);
        if (may_repeat(slot) && now < slot->deadline_ns) {
            repeat(bus, slot);
            return;
        }
    }
    /* An earlier send of it may be stored all the same. */
    if (slot->maybe_stored && (ack->no_responders || ack->id_unread || slot->under_way))
        finish(bus, slot, EVBUS_OUTCOME_UNKNOWN, EVBUS_UNKNOWN, text, now);
    else
        finish(bus, slot, EVBUS_OUTCOME_REFUSED, ack->status == EVBUS_OK ? EVBUS_REFUSED : ack->status, text, now);
}

/* The broker has its message id and did not store it yet: whether it will is not known. It is asked again after as long as this
 * took until now, if that is in order; see check_deadlines. */
static void answered_under_way(evbus *bus, struct ev_slot *slot, int64_t now)
{
    const int64_t took = now - slot->accepted_ns;

    slot->maybe_stored = slot->under_way = true;
    slot->ask_at = now + (took < ASK_MIN ? ASK_MIN : took > ASK_MAX ? ASK_MAX : took);
    look_by(bus, slot->ask_at, now);
}

static void ask_again(evbus *bus, struct ev_slot *slot, int64_t now)
{
    if (slot->phase != EV_PHASE_SENT || now < slot->ask_at || !slot->msg_id || !may_repeat(slot))
        return;
    repeat(bus, slot);
}

/* Answers come in the order of sending, a window later: by then slots and receipts are out of this processor's cache. The
 * next answer's receipt, and the slot of the one after, are fetched while this one is worked on. Inlined always, for gcc 12
 * leaves out the call of a function that does nothing else. */
__attribute__((always_inline)) static inline void fetch_next(const struct ev_slot *slot)
{
    const struct ev_slot *next = slot->after, *after = next ? next->after : NULL;

    if (next && next->phase == EV_PHASE_SENT && next->receipt) { /* sent: ours, not a publisher's again */
        __builtin_prefetch(next->receipt, 1);
        __builtin_prefetch((const char *)next->receipt + EV_CACHELINE, 1);
    }
    if (after) {
        __builtin_prefetch(after, 1);
        __builtin_prefetch((const char *)after + EV_CACHELINE, 1);
    }
}

void ev_outbound_answer(evbus *bus, uint32_t index, uint32_t generation, const struct ev_ack *ack, int64_t now)
{
    if (index >= bus->slots.count + bus->slots.letters)
        return;
    struct ev_slot *slot = &bus->slots.all[index];
    if (slot->phase != EV_PHASE_SENT || slot->generation != generation)
        return; /* an answer that came after its deadline: the outcome is out already */
    if (ack->outcome == EVBUS_OUTCOME_REFUSED) {
        answered_refused(bus, slot, ack, now);
        return;
    }
    fetch_next(slot);
    struct ev_topic *t = slot->topic;
    if (t->probe || ev_load_relaxed(&t->gate) == EV_GATE_CLOSED) /* own field */
        gate_open(bus, t);
    if (ack->outcome == EVBUS_OUTCOME_UNKNOWN) {
        answered_under_way(bus, slot, now);
        return;
    }
    slot->sequence = ack->sequence;
    slot->dup = ack->duplicate;
    const char *known = ev_load_relaxed(&t->stream); /* a hint: compared, not trusted */
    if (!known || strncmp(known, ack->stream, ack->stream_len) != 0 || known[ack->stream_len] != 0)
        known = ev_bus_intern(bus, ack->stream, ack->stream_len);
    slot->stream = known;
    finish(bus, slot, EVBUS_OUTCOME_STORED, EVBUS_OK, NULL, now);
}

/* Every refused publish causes one violation; when there are as many as unanswered publishes, all of them are refused. */
void ev_outbound_denied(evbus *bus, const char *topic, const char *text, int64_t now)
{
    struct ev_topic *t = ev_topic_find(bus, topic, strlen(topic));

    if (!t || t->unanswered == 0)
        return;
    if (++t->denied < t->unanswered)
        return;
    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++) {
        struct ev_slot *slot = &bus->slots.all[i];
        if (slot->phase == EV_PHASE_SENT && slot->topic == t)
            give_up(bus, slot, EVBUS_DENIED, text, now);
    }
}

/* ---- The link ---------------------------------------------------------------------------------------------------- */

void ev_outbound_link_up(evbus *bus, int64_t now)
{
    bus->out.full = false;
    (void)send_all_held(bus, now);
    ev_park_wake(&bus->slots.room, UINT32_MAX); /* publishers may wait for the link: evbus_topic_opts.outage */
}

void ev_outbound_link_down(evbus *bus, int64_t now, const char *why)
{
    char text[256];

    (void)ev_copy(text, sizeof text, why);
    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++) {
        struct ev_slot *slot = &bus->slots.all[i];
        if (slot->phase != EV_PHASE_SENT)
            continue;
        slot->maybe_stored = true;
        if (slot->msg_id && may_repeat(slot) && now < slot->deadline_ns)
            repeat(bus, slot);
        else
            finish(bus, slot, EVBUS_OUTCOME_UNKNOWN, EVBUS_UNKNOWN, text, now);
    }
    for (struct ev_topic *t = bus->out.held_topics; t; t = t->next_held)
        t->probe = NULL;
}

void ev_outbound_given_up(evbus *bus, int64_t now)
{
    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++)
        if (bus->slots.all[i].phase == EV_PHASE_HELD)
            (void)end_without_link(bus, &bus->slots.all[i], now);
    ev_park_wake(&bus->slots.room, UINT32_MAX);
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

static void expire_held(evbus *bus, struct ev_slot *slot, int64_t now)
{
    if (!ev_link_is_up(bus))
        give_up(bus, slot, EVBUS_DISCONNECTED, "there was no connection to the broker until the deadline; not sent",
                now);
    else
        give_up(bus, slot, EVBUS_TIMEOUT, "the topic's stream did not answer until the deadline; not sent", now);
}

static void expire_sent(evbus *bus, struct ev_slot *slot, int64_t now)
{
    struct ev_topic *t = slot->topic;

    if (!EV_BUG(EV_BUG_UNKNOWN_LEAVES) && bus->ops->unsent_after(bus->state, slot->mark)) {
        /* Part of it may still stand in our output buffer: it must not leave after we said unknown. */
        bus->ops->drop_link(bus->state, "publishes reached their deadline before they were written");
        if (slot->phase == EV_PHASE_HELD)
            unhold(slot), slot->phase = EV_PHASE_IDLE;
        if (slot->phase != EV_PHASE_SENT)
            return;
    }
    slot->maybe_stored = true;
    if (slot->under_way && slot->ask_at != EV_NEVER) { /* its stream answers */
        give_up(bus, slot, EVBUS_UNKNOWN,
                "the broker had its message id, and did not say until the deadline that it is stored", now);
        return;
    }
    give_up(bus, slot, EVBUS_UNKNOWN, "the broker did not answer until the deadline", now);
    ev_gate_close(bus, t, now, "a publish was not answered until its deadline");
}

/* Returns when it is due. */
static int64_t check_deadline(evbus *bus, struct ev_slot *slot, int64_t now)
{
    if (now < slot->deadline_ns) {
        if (slot->under_way)
            ask_again(bus, slot, now);
        return slot->under_way && slot->ask_at < slot->deadline_ns ? slot->ask_at : slot->deadline_ns;
    }
    if (slot->phase == EV_PHASE_HELD)
        expire_held(bus, slot, now);
    else
        expire_sent(bus, slot, now);
    return EV_NEVER;
}

static void check_deadlines(evbus *bus, int64_t now)
{
    int64_t first = EV_NEVER;

    if (bus->out.active == 0 || now < bus->out.next_check)
        return;
    bus->out.next_check = EV_NEVER;
    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++) {
        struct ev_slot *slot = &bus->slots.all[i];
        if (slot->phase == EV_PHASE_IDLE)
            continue;
        const int64_t due = check_deadline(bus, slot, now);
        first = due < first ? due : first;
    }
    look_by(bus, first, now);
}

bool ev_outbound_turn(evbus *bus, int64_t now)
{
    bus->out.full = false;
    for (struct ev_topic *t = bus->out.held_topics; t; t = t->next_held)
        renew_probe(bus, t, now);
    bool busy = bus->out.held_topics ? send_all_held(bus, now) : false;
    busy |= take_submitted(bus, now);
    check_deadlines(bus, now);
    return busy;
}

/* When something that a topic holds may go. A backend that is full says when it is not any more; what it may forget is tried soon. */
static int64_t held_due(const evbus *bus, const struct ev_topic *t)
{
    if (t->probe)
        return probe_due(t, bus->turn_ns);
    if (t->held.count == 0 || !ev_link_is_up(bus))
        return EV_NEVER;
    if (ev_load_relaxed(&t->gate) == EV_GATE_CLOSED) /* own field */
        return t->probe_at;
    return bus->out.full ? bus->turn_ns + FULL_STEP : bus->turn_ns;
}

int64_t ev_outbound_due(const evbus *bus)
{
    int64_t due = bus->out.active ? bus->out.next_check : EV_NEVER;

    for (const struct ev_topic *t = bus->out.held_topics; t; t = t->next_held) {
        const int64_t at = held_due(bus, t);
        due = at < due ? at : due;
    }
    return due;
}

bool ev_outbound_idle(const evbus *bus)
{
    return bus->out.active == 0 && ev_ring_empty((struct ev_ring *)&bus->slots.submit);
}

bool ev_outbound_seal(evbus *bus)
{
    bool sealed = true;

    for (uint32_t i = 0; i < bus->slots.count; i++) {
        struct ev_slot *slot = &bus->slots.all[i];
        uint32_t seen = EV_SLOT_RESERVED;
        (void)ev_cas_seqcst(&slot->state, &seen, EV_SLOT_DEAD); /* P8 */
        sealed =
            sealed && !(seen == EV_SLOT_QUEUED && slot->phase == EV_PHASE_IDLE && !EV_BUG(EV_BUG_SLOT_SEAL_FORGETS));
    }
    return sealed;
}

struct ev_slot *ev_outbound_letter(evbus *bus)
{
    struct ev_slot *slot = bus->slots.free_letters;

    if (slot)
        bus->slots.free_letters = slot->next;
    return slot;
}

void ev_outbound_end(evbus *bus, int64_t now)
{
    void *item;

    while (ev_ring_pop_one(&bus->slots.submit, &item)) {
        bus->out.active++;
        hold(bus, item, false);
    }
    for (uint32_t i = 0; i < bus->slots.count + bus->slots.letters; i++) {
        struct ev_slot *slot = &bus->slots.all[i];
        uint32_t seen = EV_SLOT_RESERVED;
        (void)ev_cas_seqcst(&slot->state, &seen, EV_SLOT_DEAD); /* P8 */
        if (slot->phase == EV_PHASE_IDLE && seen == EV_SLOT_QUEUED && !EV_BUG(EV_BUG_SLOT_END_FORGETS)) {
            /* Its publisher is between the state and the ring: accepted, so it gets its outcome here. */
            bus->out.active++;
            hold(bus, slot, false);
        }
        if (slot->phase != EV_PHASE_IDLE && slot->kind != EV_SLOT_LETTER) {
            const bool unknown = slot->phase == EV_PHASE_SENT || slot->maybe_stored;
            *(unknown ? &slot->topic->left_unknown : &slot->topic->left_refused) += 1;
        }
        if (slot->phase == EV_PHASE_SENT) {
            slot->maybe_stored = true;
            give_up(bus, slot, EVBUS_UNKNOWN, "the bus was shut down before the broker answered", now);
        } else if (slot->phase == EV_PHASE_HELD) {
            give_up(bus, slot, EVBUS_CLOSED, "the bus was shut down before it could be sent", now);
        }
    }
    ev_slots_put_back(bus);
}
