/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's loop. It posts commands, has the broker run once per turn for all of them, and takes the results to the
 * core. Nothing here waits, and nothing allocates once the pool is warm:
 *
 *   send, settle, want ...  -> commands ring (or the spill, for settlements; or a binding's todo)
 *   turn: flush, run        -> results ring
 *   turn: drain             -> ev_host_acked, ev_host_deliver
 */
#include "backend/mem_fault.h"
#include "backend/mem_hub.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

#define DRAIN_MAX 1024u
#define NO_MEMORY_PAUSE (50 * EV_MS) /* before a message the core had no memory for is delivered again */
#define SHUT_TRIES 1000u

/* What a binding has to post (todo). */
#define TODO_ATTACH 1u
#define TODO_WANT 2u
#define TODO_DETACH 4u
#define TODO_UNBIND 8u
#define TODO_LEAVE 16u
#define TODO_ASK 32u
#define TODO_LISTED 128u /* it is in the session's dirty list */

/* State of a binding, as the loop knows it. GONE: the broker has detached it, and all messages for it were taken. */
enum { BOUND, ATTACHED, DETACHED, GONE };

/* ---- Posting ----------------------------------------------------------------------------------------------------- */

static bool ring_has_room(struct ev_mem_session *session)
{
    return ev_mem_ring_room(&session->commands, 1) > 0;
}

static void post(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    *ev_mem_ring_next(&session->commands) = *item;
    ev_mem_ring_commit(&session->commands);
}

static bool spill_add(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    if (session->spill_count == session->spill_room) {
        const uint32_t room = session->spill_room ? 2 * session->spill_room : 256;
        struct ev_mem_item *spill = ev_malloc(room * sizeof *spill);
        if (!spill)
            return false;
        for (uint32_t i = 0; i < session->spill_count; i++)
            spill[i] = session->spill[(session->spill_head + i) & (session->spill_room - 1)];
        ev_free(session->spill);
        session->spill = spill;
        session->spill_head = 0;
        session->spill_room = room;
    }
    session->spill[(session->spill_head + session->spill_count++) & (session->spill_room - 1)] = *item;
    return true;
}

/* True when all of it is in the ring. */
static bool flush_spill(struct ev_mem_session *session)
{
    while (session->spill_count > 0 && ring_has_room(session)) {
        post(session, &session->spill[session->spill_head++ & (session->spill_room - 1)]);
        session->spill_count--;
    }
    return session->spill_count == 0;
}

static void todo(struct ev_mem_session *session, struct ev_mem_member *member, uint32_t what)
{
    if (!(member->todo & TODO_LISTED)) {
        member->dirty_next = session->dirty;
        session->dirty = member;
    }
    member->todo = (uint8_t)(member->todo | what | TODO_LISTED);
}

static bool post_todo(struct ev_mem_session *session, struct ev_mem_member *member, uint32_t what,
                      enum ev_mem_command kind)
{
    const struct ev_mem_item item = {
        .kind = (uint8_t)kind, .object = member, .count = member->want, .value = member->want_bytes};

    if (!(member->todo & what))
        return true;
    if (!ring_has_room(session))
        return false;
    member->todo = (uint8_t)(member->todo & ~what);
    post(session, &item);
    return true;
}

void ev_mem_post_ask(struct ev_mem_session *session, struct ev_mem_member *member)
{
    todo(session, member, TODO_ASK);
}

bool ev_mem_is_attached(const struct ev_mem_member *member)
{
    return member->state == ATTACHED;
}

/* Posts what a binding has to post, as far as there is room: true if that was all. It may be gone then. */
static bool flush_member(struct ev_mem_session *session, struct ev_mem_member *member)
{
    if ((member->todo & TODO_UNBIND) && member->state == ATTACHED) {
        member->state = DETACHED;
        member->todo |= TODO_DETACH;
    }
    if (!post_todo(session, member, TODO_ATTACH, EV_MEM_ATTACH) ||
        !post_todo(session, member, TODO_WANT, EV_MEM_WANT) || !post_todo(session, member, TODO_ASK, EV_MEM_ASK) ||
        !post_todo(session, member, TODO_DETACH, EV_MEM_DETACH) ||
        !post_todo(session, member, TODO_LEAVE, EV_MEM_LEAVE))
        return false;
    if (!(member->todo & TODO_UNBIND) || member->state == DETACHED) { /* unbinding waits for DETACHED */
        member->todo &= (uint8_t)~TODO_LISTED;
        return true;
    }
    if (!ring_has_room(session))
        return false;
    member->todo = 0;
    post(session, &(struct ev_mem_item){.kind = EV_MEM_UNBIND, .object = member});
    return true;
}

/* Settlements first: a binding that goes must not overtake them. */
static void flush(struct ev_mem_session *session)
{
    if (ev_load_relaxed(&session->unbound)) { /* hint: unbind pokes after */
        struct ev_mem_member *member = ev_swap_acqrel(&session->unbound, NULL);
        for (; member; member = member->unbound_next)
            todo(session, member, TODO_UNBIND);
    }
    session->held_back = true;
    if (!flush_spill(session))
        return;
    if (session->close_room && ring_has_room(session)) {
        post(session, &(struct ev_mem_item){.kind = EV_MEM_CLOSE_ROOM});
        session->close_room = false;
    }
    while (session->dirty) {
        struct ev_mem_member *next = session->dirty->dirty_next;
        if (!flush_member(session, session->dirty))
            return;
        session->dirty = next;
    }
    session->held_back = false;
}

static void detached(struct ev_mem_session *session, struct ev_mem_member *member)
{
    member->state = GONE;
    if (member->todo & TODO_UNBIND)
        todo(session, member, TODO_UNBIND);
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

static enum ev_sent refuse(evbus_status *ret_status, evbus_status status, const struct ev_record *record, uint64_t size)
{
    *ret_status = status;
    if (status == EVBUS_NOMEM)
        (void)ev_fail(status, "topic '%s': no memory for a message of %llu bytes", record->topic,
                      (unsigned long long)size);
    else
        (void)ev_fail(status, "topic '%s': message of %llu bytes is above the max payload of mem:// (%llu)",
                      record->topic, (unsigned long long)size, (unsigned long long)EV_MEM_PAYLOAD_MAX);
    return EV_SEND_REFUSED;
}

enum ev_sent ev_mem_send(void *state, const struct ev_record *record, evbus_status *ret_status)
{
    struct ev_mem_session *session = state;
    const uint64_t seed = session->hub->broker.seed; /* never changes */
    const uint64_t size = (uint64_t)record->len + record->headers_len;
    const size_t topic_len = strlen(record->topic);

    if (session->held_back) /* in order: behind attachments and settlements */
        flush(session);
    if (!session->up || session->drop || session->held_back || session->spill_count > 0 || !ring_has_room(session))
        return EV_SEND_LATER;
    if (size > EV_MEM_PAYLOAD_MAX)
        return refuse(ret_status, EVBUS_TOO_LARGE, record, size);
    struct ev_mem_block *block = ev_mem_block_new(session->pool, record, topic_len,
                                                  ev_mem_hash(&session->hub->broker, record->topic, topic_len));
    if (!block)
        return refuse(ret_status, EVBUS_NOMEM, record, size);
    struct ev_mem_item *item = ev_mem_ring_next(&session->commands);
    item->kind = EV_MEM_PUBLISH;
    item->flags = (uint8_t)(record->want_ack ? EV_MEM_WANT_ACK : 0);
    item->number = session->epoch;
    item->block = block;
    item->other = (uint64_t)record->slot << 32 | record->generation;
    if (record->msg_id) {
        const size_t id_len = strlen(record->msg_id);
        item->flags |= EV_MEM_HAS_ID;
        item->key = ev_hash(record->msg_id, id_len, seed);
        item->count = (uint32_t)ev_hash(record->msg_id, id_len, ~seed);
    }
    ev_mem_ring_commit(&session->commands);
    return EV_SENT;
}

uint64_t ev_mem_sent_mark(void *state)
{
    struct ev_mem_session *session = state;

    return ev_load_relaxed(&session->commands.tail); /* own field */
}

bool ev_mem_unsent_after(void *state, uint64_t mark)
{
    struct ev_mem_session *session = state;

    return (ev_load_acquire(&session->claim) & EV_MEM_INDEX_MASK) < mark; /* T1 */
}

/* What wants an answer and was claimed by no runner is not stored any more: runners see the new epoch. */
static void new_epoch(struct ev_mem_session *session)
{
    ev_add_acqrel(&session->claim, UINT64_C(1) << EV_MEM_EPOCH_SHIFT); /* T1 */
    session->epoch++;
}

void ev_mem_drop_link(void *state, const char *why)
{
    struct ev_mem_session *session = state;

    if (!session->up || session->drop)
        return;
    new_epoch(session);
    session->drop = true;
    (void)ev_copy(session->drop_text, sizeof session->drop_text, why);
}

/* ---- Bindings ---------------------------------------------------------------------------------------------------- */

void ev_mem_binding_attach(void *state, void *binding)
{
    struct ev_mem_member *member = binding;

    member->state = ATTACHED;
    todo(state, member, TODO_ATTACH);
    flush(state); /* what is published from now on is for it */
}

void ev_mem_binding_detach(void *state, void *binding)
{
    struct ev_mem_member *member = binding;

    if (member->state == BOUND || member->state == GONE)
        ev_host_quiet(((struct ev_mem_session *)state)->host, member->sub);
    if (member->state != ATTACHED)
        return;
    member->state = DETACHED;
    todo(state, member, TODO_DETACH);
    flush(state); /* before what the core hands back now: it shall not come here again */
}

/* Behind what the core handed back; the broker takes what it is told in order: whoever is next comes after it. */
void ev_mem_binding_leave(void *state, void *binding)
{
    struct ev_mem_session *session = state;
    struct ev_mem_member *member = binding;

    if (member->exclusive) {
        todo(session, member, TODO_LEAVE);
        flush(session);
    }
    ev_host_left(session->host, member->sub);
}

/* The room becomes a limit on what was taken to the core ever: what lies in the results counts by itself. */
void ev_mem_binding_want(void *state, void *binding, struct ev_room room)
{
    struct ev_mem_session *session = state;
    struct ev_mem_member *member = binding;
    const uint32_t msgs = room.msgs < INT32_MAX ? room.msgs : INT32_MAX;
    const uint64_t bytes = room.bytes < INT64_MAX ? room.bytes : INT64_MAX;

    const uint32_t limit = member->drained + msgs;
    const uint64_t limit_bytes = member->drained_bytes + bytes;

    if (member->state != ATTACHED ||
        (limit == member->want && limit_bytes == member->want_bytes && member->want_epoch == session->epoch))
        return;
    member->want = limit;
    member->want_bytes = limit_bytes;
    member->want_epoch = session->epoch; /* a link that went down closed the room */
    todo(session, member, TODO_WANT);
}

bool ev_mem_post_settle(struct ev_mem_session *session, struct ev_mem_member *member, uint64_t seq, enum ev_settle verb,
                        int64_t delay_ns)
{
    const struct ev_mem_item item = {
        .kind = EV_MEM_SETTLE, .flags = (uint8_t)verb, .object = member, .value = seq, .other = (uint64_t)delay_ns};

    if (flush_spill(session) && ring_has_room(session)) {
        post(session, &item);
        return true;
    }
    return spill_add(session, &item);
}

bool ev_mem_binding_settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns)
{
    struct ev_mem_session *session = state;
    const struct ev_mem_block *block = token;

    if (!session->up || session->drop)
        return false;
    if (session->fault && session->fault->lose_settle &&
        session->fault->lose_settle(session->fault->ctx, block->seq, verb))
        return true;
    if (ev_mem_post_settle(session, binding, block->seq, verb, delay_ns))
        return true;
    ev_mem_drop_link(session, "out of memory for settlements"); /* the core settles again when the link is up */
    return false;
}

/* ---- Results ----------------------------------------------------------------------------------------------------- */

static void take_answer(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    const struct ev_mem_stream *stream = item->object;
    char text[400];
    struct ev_ack ack = {.outcome = EVBUS_OUTCOME_STORED, .duplicate = item->flags, .sequence = item->value};

    if (session->fault && session->fault->lose_answer && session->fault->lose_answer(session->fault->ctx, item->count))
        return;
    if (item->number == EV_MEM_STORED) {
        ack.stream = stream->name;
        ack.stream_len = strlen(stream->name);
    } else {
        ack.outcome = EVBUS_OUTCOME_REFUSED;
        ack.status = ev_mem_refusal(session, item, text, sizeof text, &ack.broker_code);
        ack.no_responders = item->number == EV_MEM_NO_STREAM;
        ack.text = text;
        ack.text_len = strlen(text);
    }
    ev_host_acked(session->host, item->count, (uint32_t)item->other, &ack);
}

/* The core did not take it. Stored messages come again; of a plain one this was the only delivery. */
static void not_taken(struct ev_mem_session *session, struct ev_mem_member *member, struct ev_mem_block *block,
                      int64_t delay_ns)
{
    (void)ev_mem_post_settle(session, member, block->seq, EV_SETTLE_NAK, delay_ns);
    ev_mem_unref(block, session->pool);
}

static void give_to_core(struct ev_mem_session *session, const struct ev_delivery *delivery,
                         struct ev_mem_member *member)
{
    if (ev_host_deliver(session->host, delivery))
        return;
    not_taken(session, member, delivery->token, NO_MEMORY_PAUSE);
    if (member->ack_all)
        ev_mem_frontier_ask(session, member);
}

/* A delivery that was under way when the link was cut. With nats:// the backend finds such gaps by asking the broker and
 * hands them back before it pulls again; here it is known what was lost. */
struct ev_mem_gap {
    struct ev_mem_gap *next;
    struct ev_mem_member *member;
    uint64_t seq;
};

static void gap_note(struct ev_mem_session *session, struct ev_mem_member *member, uint64_t seq)
{
    struct ev_mem_gap *gap = ev_calloc(1, sizeof *gap);

    if (!gap)
        return; /* it comes again after the ack wait */
    *gap = (struct ev_mem_gap){.next = session->gap, .member = member, .seq = seq};
    session->gap = gap;
}

static void gap_close(struct ev_mem_session *session, bool hand_back)
{
    while (session->gap) {
        struct ev_mem_gap *gap = session->gap;
        session->gap = gap->next;
        if (hand_back && gap->member->state == ATTACHED)
            (void)ev_mem_post_settle(session, gap->member, gap->seq, EV_SETTLE_NAK, 0);
        ev_free(gap);
    }
}

static void gap_forget(struct ev_mem_session *session, const struct ev_mem_member *member)
{
    for (struct ev_mem_gap **link = &session->gap; *link;) {
        struct ev_mem_gap *gap = *link;
        if (gap->member != member) {
            link = &gap->next;
            continue;
        }
        *link = gap->next;
        ev_free(gap);
    }
}

static bool fault_takes(struct ev_mem_session *session, const struct ev_delivery *delivery,
                        struct ev_mem_member *member)
{
    const struct ev_mem_fault *fault = session->fault;

    if (!session->up ||
        (fault->lose_delivery && fault->lose_delivery(fault->ctx, delivery->stream_seq, delivery->delivery_count))) {
        if (!session->up && fault->lost_with_link)
            fault->lost_with_link(fault->ctx, delivery->stream_seq);
        if (!session->up && member->exclusive)
            gap_note(session, member, delivery->stream_seq);
        ev_mem_unref(delivery->token, session->pool);
        return true;
    }
    if (fault->repeat_delivery && fault->repeat_delivery(fault->ctx, delivery->stream_seq)) {
        ev_mem_ref(delivery->token);
        give_to_core(session, delivery, member);
    }
    return false;
}

/* Detached, what was under way is the core's still, as long as the subscription is there. */
static bool is_listening(const struct ev_mem_member *member)
{
    return member->state == ATTACHED || (member->state == DETACHED && !(member->todo & TODO_UNBIND));
}

static void take_message(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    struct ev_mem_member *member = item->object;
    struct ev_mem_block *block = item->block;
    const struct ev_delivery delivery = {
        .sub = member->sub,
        .topic = ev_mem_topic(block),
        .data = ev_mem_data(block),
        .len = block->len,
        .stream_seq = block->seq,
        .consumer_seq = item->other,
        .delivery_count = item->number,
        .stored_ns = block->wall_ns,
        .pending = item->count,
        .token = block,
    };

    member->drained++;
    member->drained_bytes += block->len;
    if (!is_listening(member)) {
        not_taken(session, member, block, 0);
        return;
    }
    if (item->other > member->consumer_seq + 1)
        ev_host_foreign(session->host, member->sub, item->other - member->consumer_seq - 1);
    member->consumer_seq = item->other;
    if (session->fault && fault_takes(session, &delivery, member))
        return;
    ev_mem_frontier_row(session, member, item->other);
    give_to_core(session, &delivery, member);
}

static void take_core(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    struct ev_mem_member *member = item->object;
    struct ev_mem_block *block = item->block;
    const struct ev_delivery delivery = {
        .sub = member->sub,
        .topic = ev_mem_topic(block),
        .data = ev_mem_data(block),
        .len = block->len,
        .delivery_count = 1,
        .token = block,
    };

    member->drained++;
    member->drained_bytes += block->len;
    if (item->count > 0)
        ev_log(ev_host_log(session->host), EVBUS_LOG_WARN, "mem",
               "topic '%s': %u messages dropped, more than the subscription may have waiting", delivery.topic,
               item->count);
    if (!is_listening(member) || !session->up || !ev_host_deliver(session->host, &delivery))
        ev_mem_unref(block, session->pool);
}

static void take_lost(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    const struct ev_mem_member *member = item->object;
    const bool stream = item->number == EV_MEM_STREAM_GONE;

    if (member->state == ATTACHED)
        ev_host_consumer_lost(session->host, member->sub, EVBUS_NOT_FOUND,
                              stream ? "the stream was deleted" : "the consumer was deleted");
}

static void take_detached(struct ev_mem_session *session, struct ev_mem_member *member)
{
    const bool listening = is_listening(member);

    detached(session, member);
    if (listening)
        ev_host_quiet(session->host, member->sub);
}

static void take_active(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    struct ev_mem_member *member = item->object;

    if (member->state != ATTACHED)
        return;
    ev_host_active(session->host, member->sub, item->number != 0);
    if (member->ack_all && item->number)
        ev_mem_frontier_ask(session, member);
}

static void take_result(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    switch (item->kind) {
    case EV_MEM_ANSWER:
        if (session->up)
            take_answer(session, item);
        break;
    case EV_MEM_MESSAGE:
        take_message(session, item);
        break;
    case EV_MEM_CORE:
        take_core(session, item);
        break;
    case EV_MEM_LOST:
        take_lost(session, item);
        break;
    case EV_MEM_DETACHED:
        take_detached(session, item->object);
        break;
    case EV_MEM_ACTIVE:
        take_active(session, item);
        break;
    case EV_MEM_UNSETTLED:
        ev_mem_frontier_answer(session, item);
        break;
    case EV_MEM_UNBOUND:
        gap_forget(session, item->object);
        ev_free(item->object);
        break;
    default:
        break;
    }
}

static uint32_t drain(struct ev_mem_session *session)
{
    const struct ev_mem_item *item;
    uint32_t n = 0;

    while (n < DRAIN_MAX && (item = ev_mem_ring_peek(&session->link.results)) != NULL) {
        const struct ev_mem_item copy = *item;
        ev_mem_ring_drop(&session->link.results);
        take_result(session, &copy);
        n++;
    }
    if (n > 0 && ev_swap_acqrel(&session->link.starved, 0)) /* see struct ev_mem_link */
        session->run_again = true;
    return n;
}

void ev_mem_discard(struct ev_mem_session *session)
{
    const struct ev_mem_item *item;

    gap_close(session, false);
    while ((item = ev_mem_ring_peek(&session->link.results)) != NULL) {
        if (item->kind == EV_MEM_MESSAGE && !session->link.closed)
            not_taken(session, item->object, item->block, 0);
        else if (item->kind == EV_MEM_MESSAGE || item->kind == EV_MEM_CORE)
            ev_mem_unref(item->block, session->pool);
        else if (item->kind == EV_MEM_DETACHED && !session->link.closed)
            detached(session, item->object);
        else if (item->kind == EV_MEM_UNBOUND)
            ev_free(item->object);
        ev_mem_ring_drop(&session->link.results);
    }
    ev_swap_acqrel(&session->link.starved, 0);
}

/* ---- The turn ---------------------------------------------------------------------------------------------------- */

static void link_down(struct ev_mem_session *session, const char *why)
{
    session->up = false;
    ev_host_link_down(session->host, EVBUS_DISCONNECTED, why);
}

static void link_up(struct ev_mem_session *session)
{
    session->up = true;
    gap_close(session, true);
    ev_host_link_up(session->host);
}

/* The link goes up in the first turn and never goes down, but for drop_link and faults. */
static bool mind_link(struct ev_mem_session *session, int64_t now)
{
    const struct ev_mem_fault *fault = session->fault;
    const bool should = !fault || !fault->link_is_up || fault->link_is_up(fault->ctx, now);
    const bool was = session->up;

    if (was && (session->drop || !should)) {
        if (!session->drop)
            new_epoch(session);
        if (!should)
            session->close_room = true;
        link_down(session, session->drop ? session->drop_text : "the link was cut (fault)");
        session->drop = false;
    }
    if (!session->up && should)
        link_up(session);
    return session->up != was;
}

static bool must_run(struct ev_mem_session *session, int64_t now)
{
    return session->run_again || ev_load_relaxed(&session->commands.tail) != session->asked || /* own field */
           ev_load_acquire(&session->hub->due) <= now;
}

bool ev_mem_turn(void *state, int64_t now)
{
    struct ev_mem_session *session = state;
    bool busy = false;

    if (ev_load_relaxed(&session->poke)) { /* hint: wait looks again */
        ev_swap_acqrel(&session->poke, 0); /* T4 */
        session->run_again = true;
    }
    if (!session->started || session->drop || session->fault)
        busy = mind_link(session, now);
    session->started = true;
    flush(session);
    if (must_run(session, now)) {
        session->asked = ev_load_relaxed(&session->commands.tail); /* own field */
        session->run_again = !ev_mem_hub_run(session->hub, session, now);
        busy = true;
    }
    return drain(session) > 0 || busy;
}

int64_t ev_mem_due(void *state)
{
    struct ev_mem_session *session = state;

    if (!session->started || session->run_again || session->drop || session->dirty || session->spill_count > 0 ||
        session->close_room || ev_load_relaxed(&session->commands.tail) != session->asked || /* own field */
        ev_load_relaxed(&session->poke) || !ev_mem_ring_empty(&session->link.results)) /* hint: wait looks again */
        return INT64_MIN;
    return ev_load_acquire(&session->hub->due);
}

void ev_mem_wait(void *state, int64_t deadline)
{
    struct ev_mem_session *session = state;
    const uint32_t ticket = ev_park_prepare(&session->park);

    if (ev_load_seqcst(&session->poke) || !ev_mem_ring_empty(&session->link.results) || deadline == INT64_MIN)
        ev_park_cancel(&session->park);
    else
        (void)ev_park_wait(&session->park, ticket, session->clock, deadline);
}

/* What is posted is run, by us or by whoever has the baton; what is in the results goes back. */
void ev_mem_shut(void *state)
{
    struct ev_mem_session *session = state;

    if (session->shut || !session->hub)
        return;
    session->shut = true;
    session->up = false;
    new_epoch(session); /* the core has ended all publishes: none may be stored after that */
    session->close_room = true;
    for (uint32_t i = 0; i < SHUT_TRIES; i++) {
        flush(session);
        (void)ev_mem_hub_run(session->hub, session, ev_clock_now(session->clock));
        ev_mem_discard(session);
        if (!session->close_room && !session->dirty && session->spill_count == 0 &&
            ev_mem_ring_empty(&session->commands))
            break;
    }
}
