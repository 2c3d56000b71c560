/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who gets what, and when again. A consumer with something to deliver and a member with room is in the ready list; pump
 * serves the list in turn. Nothing here looks at consumers that have nothing to do: 10,000 idle ones cost their memory.
 *
 *   appended, want, settle, time   -> ready list, if there is both a message and room
 *   pump                           -> due ones first, lowest sequence first, then new ones in order
 *   no place in a link's results   -> that link's blocked list, until the session has drained
 *   no room, or ack_pending_max    -> no list, until want or settle
 */
#include "backend/mem_broker.h"

#include "core/names.h"

#include <string.h>

#define QUANTUM 64u    /* messages of one source before the next one's turn */
#define SCAN_MAX 1024u /* messages of other topics looked at in one turn */
#define NO_MEMORY_PAUSE (10 * EV_MS)

enum step { STEP_DELIVERED, STEP_NOTHING, STEP_LATER };

/* ---- Links ------------------------------------------------------------------------------------------------------- */

bool ev_mem_link_init(struct ev_mem_link *link, uint32_t capacity)
{
    link->blocked.next = link->blocked.prev = &link->blocked;
    return ev_mem_ring_init(&link->results, capacity);
}

void ev_mem_link_fini(struct ev_mem_link *link)
{
    ev_mem_ring_fini(&link->results);
}

void ev_mem_link_join(struct ev_mem_broker *broker, struct ev_mem_link *link)
{
    link->next = &broker->links;
    link->prev = broker->links.prev;
    broker->links.prev->next = link;
    broker->links.prev = link;
}

void ev_mem_link_leave(struct ev_mem_broker *broker, struct ev_mem_link *link)
{
    while (link->blocked.next != &link->blocked) { /* they may have members elsewhere */
        struct ev_mem_source *source = link->blocked.next;
        ev_mem_list_remove(source);
        ev_mem_list_add(&broker->ready, source);
    }
    link->closed = true;
    link->prev->next = link->next;
    link->next->prev = link->prev;
}

uint64_t ev_mem_link_room(struct ev_mem_link *link, uint64_t reserve, uint64_t want)
{
    uint64_t room = ev_mem_ring_room(&link->results, reserve + want);

    if (room < reserve + want) {
        ev_swap_acqrel(&link->starved, 1); /* what the session drained before it cleared this is seen below */
        room = ev_mem_ring_room(&link->results, reserve + want);
    }
    if (room <= reserve)
        return 0;
    return room - reserve < want ? room - reserve : want;
}

static bool has_place(struct ev_mem_link *link)
{
    return ev_mem_link_room(link, EV_MEM_RESERVE, 1) > 0;
}

void ev_mem_link_drained(struct ev_mem_broker *broker, struct ev_mem_link *link)
{
    while (link->blocked.next != &link->blocked && has_place(link)) {
        struct ev_mem_source *source = link->blocked.next;
        ev_mem_list_remove(source);
        ev_mem_list_add(&broker->ready, source);
    }
}

/* ---- Room -------------------------------------------------------------------------------------------------------- */

static bool has_room(const struct ev_mem_member *member)
{
    return (int32_t)(member->limit - member->pushed) > 0 && (int64_t)(member->limit_bytes - member->pushed_bytes) > 0;
}

bool ev_mem_stands_by(const struct ev_mem_member *member)
{
    return member->exclusive && member->consumer->active != member;
}

/* Keeps the count of a consumer's open members right. */
void ev_mem_member_open(struct ev_mem_member *member, bool open)
{
    if (member->open == open)
        return;
    member->open = open;
    if (member->consumer)
        member->consumer->open += open ? 1u : UINT32_MAX;
}

static struct ev_mem_item *push(struct ev_mem_member *member, struct ev_mem_block *block, enum ev_mem_result kind)
{
    struct ev_mem_item *item = ev_mem_ring_next(&member->link->results);

    item->kind = (uint8_t)kind;
    item->object = member;
    item->block = block;
    member->pushed++;
    member->pushed_bytes += block->len;
    if (!has_room(member))
        ev_mem_member_open(member, false);
    return item;
}

/* ---- What a consumer has ----------------------------------------------------------------------------------------- */

static uint64_t waiting_of(const struct ev_mem_consumer *consumer)
{
    const struct ev_mem_stream *stream = consumer->stream;

    if (!consumer->everything)
        return consumer->waiting;
    return stream->last + 1 - (consumer->cursor_seq > stream->first ? consumer->cursor_seq : stream->first);
}

uint64_t ev_mem_consumer_waiting(const struct ev_mem_consumer *consumer)
{
    return waiting_of(consumer);
}

static bool may_have_new(const struct ev_mem_consumer *consumer)
{
    return !consumer->ack_explicit || !consumer->unacked || consumer->unacked->count < consumer->ack_pending_max;
}

static bool has_work(const struct ev_mem_consumer *consumer)
{
    return (consumer->unacked && consumer->unacked->due_count > 0) ||
           (may_have_new(consumer) && waiting_of(consumer) > 0);
}

void ev_mem_consumer_ready(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer)
{
    if (!ev_mem_in_list(&consumer->source) && consumer->open > 0 && has_work(consumer))
        ev_mem_list_add(&broker->ready, &consumer->source);
}

void ev_mem_consumer_appended(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                              struct ev_mem_block *block)
{
    if (consumer->everything) {
        if (consumer->cursor_seq == block->seq)
            consumer->cursor = block;
    } else if (consumer->waiting++ == 0) { /* nothing before it is for this consumer */
        consumer->cursor = block;
        consumer->cursor_seq = block->seq;
    }
    ev_mem_consumer_ready(broker, consumer);
}

void ev_mem_consumer_evicted(struct ev_mem_consumer *consumer, uint64_t seq)
{
    if (!consumer->everything && consumer->waiting > 0 && seq >= consumer->cursor_seq)
        consumer->waiting--;
}

bool ev_mem_consumer_all(const struct ev_mem_consumer *consumer)
{
    for (const struct ev_mem_subject *subject = consumer->stream->subjects; subject; subject = subject->next)
        if (!ev_subject_covers(consumer->interest.pattern, subject->text))
            return false;
    return true;
}

/* From now on it counts what waits for it. */
static void count_from_now(struct ev_mem_consumer *consumer)
{
    if (!consumer->everything)
        return;
    consumer->waiting =
        waiting_of(consumer); /* all that is stored came by subjects it covers, and nothing is missing */
    consumer->everything = false;
    consumer->stream->filtered++;
}

void ev_mem_consumer_recount(struct ev_mem_consumer *consumer)
{
    if (!ev_mem_consumer_all(consumer))
        count_from_now(consumer);
}

void ev_mem_consumer_deleting(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                              const struct ev_mem_block *block)
{
    struct ev_mem_unacked *u = consumer->unacked;
    const uint32_t index = u ? ev_mem_unacked_find(u, block->seq) : EV_MEM_NONE;

    count_from_now(consumer);
    if (ev_mem_interest_matches(&consumer->interest, ev_mem_topic(block), block->topic_hash))
        ev_mem_consumer_evicted(consumer, block->seq);
    if (consumer->cursor == block)
        consumer->cursor = block->next;
    if (index != EV_MEM_NONE) {
        ev_mem_unacked_remove(u, index);
        ev_mem_consumer_ready(broker, consumer);
    }
}

/* ---- Delivering -------------------------------------------------------------------------------------------------- */

/* The member whose turn it is among those that can take something; NULL: none, *ret_blocked: the link to wait for. */
static struct ev_mem_member *pick(struct ev_mem_consumer *consumer, struct ev_mem_link **ret_blocked)
{
    struct ev_mem_member *start = consumer->turn ? consumer->turn : consumer->members;
    struct ev_mem_member *member = start;

    *ret_blocked = NULL;
    if (!start || consumer->open == 0)
        return NULL;
    do {
        if (member->open) {
            if (has_place(member->link)) {
                consumer->turn = member->next;
                return member;
            }
            *ret_blocked = member->link;
        }
        member = member->next;
    } while (member != start);
    return NULL;
}

static void deliver(struct ev_mem_consumer *consumer, struct ev_mem_member *member, struct ev_mem_block *block,
                    uint16_t deliveries)
{
    const uint64_t waiting = waiting_of(consumer);
    struct ev_mem_item *item = push(member, block, EV_MEM_MESSAGE);

    ev_mem_ref(block);
    item->other = ++consumer->delivered;
    item->count = waiting < UINT32_MAX ? (uint32_t)waiting : UINT32_MAX;
    item->number = deliveries;
    ev_mem_ring_commit(&member->link->results);
}

static enum step deliver_due(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                             struct ev_mem_member *member)
{
    struct ev_mem_unacked *u = consumer->unacked;
    uint32_t index;

    while (u && (index = ev_mem_unacked_first_due(u)) != EV_MEM_NONE) {
        struct ev_mem_held *held = &u->held[index];
        if (held->seq < consumer->stream->first) { /* the limits dropped it */
            ev_mem_unacked_remove(u, index);
            continue;
        }
        if (held->deliveries < UINT16_MAX)
            held->deliveries++;
        ev_mem_unacked_renew(u, index, broker->now);
        ev_mem_timers_at_most(&broker->timers, &consumer->timer, ev_deadline_ns(broker->now, consumer->ack_wait_ns));
        deliver(consumer, member, held->block, held->deliveries);
        return STEP_DELIVERED;
    }
    return STEP_NOTHING;
}

/* The next message for the consumer; something waits. NULL: others' messages are in front, go on later. */
static struct ev_mem_block *next_new(struct ev_mem_consumer *consumer)
{
    const struct ev_mem_stream *stream = consumer->stream;
    struct ev_mem_block *block = consumer->cursor;

    if (consumer->cursor_seq < stream->first)
        block = stream->head;
    for (uint32_t n = 0; block && n < SCAN_MAX; n++, block = block->next) {
        consumer->cursor = block->next;
        consumer->cursor_seq = block->seq + 1;
        if (consumer->everything)
            return block;
        if (ev_mem_interest_matches(&consumer->interest, ev_mem_topic(block), block->topic_hash)) {
            consumer->waiting--;
            return block;
        }
    }
    return NULL;
}

static enum step deliver_new(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer,
                             struct ev_mem_member *member)
{
    if (!may_have_new(consumer) || waiting_of(consumer) == 0)
        return STEP_NOTHING;
    if (consumer->ack_explicit && !ev_mem_unacked_reserve(&consumer->unacked)) {
        ev_mem_timers_at_most(&broker->timers, &consumer->timer, broker->now + NO_MEMORY_PAUSE);
        return STEP_NOTHING;
    }
    struct ev_mem_block *block = next_new(consumer);
    if (!block)
        return STEP_LATER;
    if (block->next)
        __builtin_prefetch(block->next);
    if (consumer->ack_explicit) {
        (void)ev_mem_unacked_add(consumer->unacked, block, block->seq, broker->now);
        ev_mem_timers_at_most(&broker->timers, &consumer->timer, ev_deadline_ns(broker->now, consumer->ack_wait_ns));
        consumer->used = true;
    }
    deliver(consumer, member, block, 1);
    return STEP_DELIVERED;
}

/* Delivers up to `max`; how many. Puts the consumer where it belongs after. */
static uint32_t serve_consumer(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer, uint32_t max)
{
    struct ev_mem_link *blocked = NULL;
    enum step step = STEP_DELIVERED;
    uint32_t n = 0;

    for (; n < max; n++) {
        struct ev_mem_member *member = pick(consumer, &blocked);
        if (!member) {
            if (blocked)
                ev_mem_list_add(&blocked->blocked, &consumer->source);
            return n;
        }
        step = deliver_due(broker, consumer, member);
        if (step == STEP_NOTHING)
            step = deliver_new(broker, consumer, member);
        if (step != STEP_DELIVERED)
            break;
    }
    if (step != STEP_NOTHING)
        ev_mem_list_add(&broker->ready, &consumer->source);
    return step == STEP_LATER ? max : n;
}

/* ---- Core subscriptions ------------------------------------------------------------------------------------------ */

static bool queue_add(struct ev_mem_queue *queue, struct ev_mem_block *block)
{
    if (queue->count == queue->room) {
        const uint32_t room = queue->room ? 2 * queue->room : 16;
        struct ev_mem_block **blocks = ev_malloc(room * sizeof(struct ev_mem_block *));
        if (!blocks)
            return false;
        for (uint32_t i = 0; i < queue->count; i++)
            blocks[i] = queue->blocks[(queue->head + i) & (queue->room - 1)];
        ev_free(queue->blocks);
        queue->blocks = blocks;
        queue->head = 0;
        queue->room = room;
    }
    queue->blocks[(queue->head + queue->count++) & (queue->room - 1)] = block;
    queue->bytes += block->len;
    return true;
}

static uint32_t serve_member(struct ev_mem_broker *broker, struct ev_mem_member *member, uint32_t max)
{
    struct ev_mem_queue *queue = member->queue;
    uint32_t n = 0;

    for (; n < max && queue->count > 0 && member->open; n++) {
        if (!has_place(member->link)) {
            ev_mem_list_add(&member->link->blocked, &queue->source);
            return n;
        }
        struct ev_mem_block *block = queue->blocks[queue->head++ & (queue->room - 1)];
        queue->count--;
        queue->bytes -= block->len;
        struct ev_mem_item *item = push(member, block, EV_MEM_CORE); /* the queue's reference goes along */
        item->count = queue->dropped;
        queue->dropped = 0;
        ev_mem_ring_commit(&member->link->results);
    }
    if (queue->count > 0 && member->open)
        ev_mem_list_add(&broker->ready, &queue->source);
    return n;
}

static void member_ready(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    if (!ev_mem_in_list(&member->queue->source) && member->open && member->queue->count > 0)
        ev_mem_list_add(&broker->ready, &member->queue->source);
}

/* Each in turn; one with room is preferred. */
void ev_mem_group_deliver(struct ev_mem_broker *broker, struct ev_mem_group *group, struct ev_mem_block *block)
{
    struct ev_mem_member *start = group->turn ? group->turn : group->members;
    struct ev_mem_member *member = start;

    if (!start)
        return;
    while (!member->open && member->next != start)
        member = member->next;
    if (!member->open)
        member = start;
    group->turn = member->next;
    struct ev_mem_queue *queue = member->queue;
    if (queue->count >= EV_MEM_CORE_QUEUE || queue->bytes >= EV_MEM_CORE_BYTES || !queue_add(queue, block)) {
        queue->dropped++;
        broker->core_dropped++;
        return;
    }
    ev_mem_ref(block);
    member_ready(broker, member);
}

/* ---- Pump -------------------------------------------------------------------------------------------------------- */

static void tell_lost(struct ev_mem_broker *broker)
{
    struct ev_mem_member **link = &broker->lost;

    while (*link) {
        struct ev_mem_member *member = *link;
        if (!has_place(member->link)) {
            link = &member->next;
            continue;
        }
        struct ev_mem_item *item = ev_mem_ring_next(&member->link->results);
        item->kind = EV_MEM_LOST;
        item->object = member;
        item->number = member->why;
        ev_mem_ring_commit(&member->link->results);
        member->lost = false;
        *link = member->next;
        member->next = NULL;
    }
}

static void tell_one(struct ev_mem_member *member)
{
    const struct ev_mem_consumer *consumer = member->consumer;
    struct ev_mem_item *item = ev_mem_ring_next(&member->link->results);

    item->object = member;
    if (member->news_active) {
        item->kind = EV_MEM_ACTIVE;
        item->number = consumer->active == member;
        member->news_active = false;
    } else {
        item->kind = EV_MEM_UNSETTLED;
        item->count = consumer->unacked ? consumer->unacked->count : 0;
        item->value = item->count > 0 ? ev_mem_unacked_lowest(consumer->unacked) : consumer->cursor_seq;
        item->other = consumer->delivered;
        member->news_unsettled = false;
    }
    ev_mem_ring_commit(&member->link->results);
}

static void tell_news(struct ev_mem_broker *broker)
{
    struct ev_mem_member **link = &broker->news;

    while (*link) {
        struct ev_mem_member *member = *link;
        if (!has_place(member->link)) {
            link = &member->news_next;
            continue;
        }
        if (member->news_active && member->news_unsettled) { /* one place each: this one again */
            tell_one(member);
            continue;
        }
        tell_one(member);
        member->news = false;
        *link = member->news_next;
        member->news_next = NULL;
    }
}

bool ev_mem_pump(struct ev_mem_broker *broker, uint32_t max)
{
    if (broker->news) /* before anything is delivered to it */
        tell_news(broker);
    if (broker->lost)
        tell_lost(broker);
    for (uint32_t n = 0; n < max && broker->ready.next != &broker->ready;) {
        struct ev_mem_source *source = broker->ready.next;
        const uint32_t quantum = max - n < QUANTUM ? max - n : QUANTUM;
        ev_mem_list_remove(source);
        if (source->is_member)
            n += serve_member(broker, ((struct ev_mem_queue *)(void *)source)->member, quantum);
        else
            n += serve_consumer(broker, (struct ev_mem_consumer *)(void *)source, quantum);
    }
    return broker->ready.next != &broker->ready;
}

/* ---- Room and verdicts ------------------------------------------------------------------------------------------- */

void ev_mem_want(struct ev_mem_broker *broker, struct ev_mem_member *member, uint32_t limit, uint64_t limit_bytes)
{
    if (!member->attached)
        return;
    member->limit = limit;
    member->limit_bytes = limit_bytes;
    ev_mem_member_open(member, has_room(member) && !ev_mem_stands_by(member));
    if (member->queue)
        member_ready(broker, member);
    else
        ev_mem_consumer_ready(broker, member->consumer);
}

static void hand_back(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer, uint32_t index, int64_t delay_ns)
{
    struct ev_mem_unacked *u = consumer->unacked;

    if (u->held[index].place == EV_MEM_DUE) /* it is on its way already */
        return;
    if (delay_ns <= 0) {
        ev_mem_unacked_due(u, index);
        return;
    }
    const int64_t until = ev_deadline_ns(broker->now, delay_ns);
    ev_mem_unacked_delay(u, index, until);
    ev_mem_timers_at_most(&broker->timers, &consumer->timer, until);
}

void ev_mem_consumer_again(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer)
{
    struct ev_mem_unacked *u = consumer->unacked;

    while (u && u->head != EV_MEM_NONE)
        ev_mem_unacked_due(u, u->head);
    if (u)
        ev_mem_consumer_ready(broker, consumer);
}

static void settle_through(struct ev_mem_unacked *u, uint64_t seq)
{
    for (uint32_t i = u->carved; i > 0 && u->count > 0; i--)
        if (u->held[i - 1].seq <= seq && ev_mem_unacked_find(u, u->held[i - 1].seq) == i - 1)
            ev_mem_unacked_remove(u, i - 1);
}

void ev_mem_settle(struct ev_mem_broker *broker, struct ev_mem_member *member, uint64_t seq, enum ev_settle verb,
                   int64_t delay_ns)
{
    struct ev_mem_consumer *consumer = member->consumer;

    if (!consumer || consumer->gone || !consumer->unacked)
        return;
    if (consumer->ack_all && (verb == EV_SETTLE_ACK || verb == EV_SETTLE_TERM)) {
        settle_through(consumer->unacked, seq);
        ev_mem_consumer_ready(broker, consumer);
        return;
    }
    const uint32_t index = ev_mem_unacked_find(consumer->unacked, seq);
    if (index == EV_MEM_NONE)
        return;
    switch (verb) {
    case EV_SETTLE_ACK:
    case EV_SETTLE_TERM:
        ev_mem_unacked_remove(consumer->unacked, index);
        break;
    case EV_SETTLE_NAK:
        hand_back(broker, consumer, index, delay_ns);
        break;
    case EV_SETTLE_EXTEND:
        if (consumer->unacked->held[index].place == EV_MEM_IN_FLIGHT)
            ev_mem_unacked_renew(consumer->unacked, index, broker->now);
        return;
    }
    ev_mem_consumer_ready(broker, consumer);
}

void ev_mem_consumer_timer(struct ev_mem_broker *broker, struct ev_mem_timer *timer)
{
    struct ev_mem_consumer *consumer = (void *)((char *)timer - offsetof(struct ev_mem_consumer, timer));
    int64_t next = EV_NEVER;

    if (consumer->unacked) {
        next = ev_mem_unacked_expire(consumer->unacked, broker->now, consumer->ack_wait_ns);
        if (consumer->unacked->count == 0 && !consumer->used) { /* idle for a whole ack wait */
            ev_free(consumer->unacked);
            consumer->unacked = NULL;
        } else if (next == EV_NEVER) {
            next = ev_deadline_ns(broker->now, consumer->ack_wait_ns);
        }
        consumer->used = false;
    }
    if (next != EV_NEVER)
        ev_mem_timers_set(&broker->timers, timer, next);
    ev_mem_consumer_ready(broker, consumer);
}
