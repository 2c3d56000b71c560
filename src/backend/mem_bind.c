/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How consumers and core subscriptions come and go. A member is bound (it knows its consumer), then attached (it takes
 * part), detached, unbound. A durable outlives its members; an ephemeral consumer goes with its last attached one.
 * What a member had in flight stays in flight: as with nats-server it comes again after the ack wait, unless the core
 * hands it back before, or a member comes that is the only one (exclusive): it gets that first (the gap rule).
 */
#include "backend/mem_broker.h"

#include "core/names.h"

#include <string.h>

/* ---- Rings of attached members ----------------------------------------------------------------------------------- */

static void ring_add(struct ev_mem_member **ring, struct ev_mem_member *member)
{
    struct ev_mem_member *first = *ring;

    if (!first) {
        member->next = member->prev = member;
        *ring = member;
        return;
    }
    member->next = first;
    member->prev = first->prev;
    first->prev->next = member;
    first->prev = member;
}

static void ring_remove(struct ev_mem_member **ring, struct ev_mem_member **turn, struct ev_mem_member *member)
{
    struct ev_mem_member *next = member->next == member ? NULL : member->next;

    if (*ring == member)
        *ring = next;
    if (*turn == member)
        *turn = next;
    member->next->prev = member->prev;
    member->prev->next = member->next;
    member->next = member->prev = NULL;
}

/* ---- The list of those to be told -------------------------------------------------------------------------------- */

static void lose(struct ev_mem_broker *broker, struct ev_mem_member *member, enum ev_mem_why why)
{
    if (member->lost)
        return;
    member->lost = true;
    member->why = (uint8_t)why;
    member->next = broker->lost;
    broker->lost = member;
}

static void lose_no_more(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_member **link = &broker->lost;

    if (!member->lost)
        return;
    while (*link != member)
        link = &(*link)->next;
    *link = member->next;
    member->next = NULL;
    member->lost = false;
}

/* ---- Who is active ----------------------------------------------------------------------------------------------- */

static void news_list(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    if (member->news)
        return;
    member->news = true;
    member->news_next = broker->news;
    broker->news = member;
}

static void news_for(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    member->news_active = true;
    news_list(broker, member);
}

void ev_mem_ask(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    if (!member->attached)
        return;
    member->news_unsettled = true;
    news_list(broker, member);
}

static void no_news(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_member **link = &broker->news;

    if (!member->news)
        return;
    while (*link != member)
        link = &(*link)->news_next;
    *link = member->news_next;
    member->news_next = NULL;
    member->news = member->news_active = member->news_unsettled = false;
}

/* Somebody shares the consumer and may have what was delivered. */
static bool is_shared(const struct ev_mem_consumer *consumer)
{
    const struct ev_mem_member *member = consumer->members;

    if (!member)
        return false;
    do {
        if (!member->exclusive)
            return true;
        member = member->next;
    } while (member != consumer->members);
    return false;
}

static void activate(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_consumer *consumer = member->consumer;

    consumer->active = member;
    if (!is_shared(consumer)) /* nobody has what was delivered: it comes first (the gap rule) */
        ev_mem_consumer_again(broker, consumer);
    news_for(broker, member);
    ev_mem_want(broker, member, member->limit, member->limit_bytes);
}

/* The next one, in the order they came. */
void ev_mem_leave_group(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_consumer *consumer = member->consumer;

    if (!member->exclusive || consumer->active != member)
        return;
    consumer->active = NULL;
    struct ev_mem_member *next = consumer->members;
    for (; next && !next->exclusive; next = next->next == consumer->members ? NULL : next->next)
        ;
    if (next)
        activate(broker, next);
}

/* ---- Consumers --------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(struct ev_mem_broker *broker, const struct ev_mem_stream *stream, const char *name)
{
    return ev_mem_hash(broker, name, strlen(name)) ^ (uint32_t)stream->id * 0x9e3779b1u;
}

static struct ev_mem_consumer *consumer_at(struct ev_mem_node *node)
{
    return (struct ev_mem_consumer *)(void *)((char *)node - offsetof(struct ev_mem_consumer, node));
}

static struct ev_mem_consumer *consumer_find(struct ev_mem_broker *broker, const struct ev_mem_stream *stream,
                                             const char *name)
{
    const uint32_t hash = hash_of(broker, stream, name);

    for (struct ev_mem_node *node = ev_mem_table_chain(&broker->consumers, hash); node; node = node->next) {
        struct ev_mem_consumer *consumer = consumer_at(node);
        if (node->hash == hash && consumer->stream == stream && strcmp(consumer->name, name) == 0)
            return consumer;
    }
    return NULL;
}

static void consumer_drop(struct ev_mem_consumer *consumer)
{
    if (!consumer->gone || consumer->refs > 0)
        return;
    ev_free(consumer->unacked);
    ev_free(consumer);
}

void ev_mem_consumer_remove(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer, enum ev_mem_why why)
{
    struct ev_mem_stream *stream = consumer->stream;

    consumer->gone = true;
    while (consumer->members) {
        struct ev_mem_member *member = consumer->members;
        ring_remove(&consumer->members, &consumer->turn, member);
        ev_mem_member_open(member, false);
        member->attached = false;
        no_news(broker, member);
        lose(broker, member, why);
    }
    consumer->active = NULL;
    ev_mem_list_remove(&consumer->source);
    ev_mem_timers_leave(&broker->timers, &consumer->timer);
    ev_mem_interest_remove(broker, &consumer->interest);
    ev_mem_table_remove(&broker->consumers, &consumer->node);
    *consumer->link = consumer->next;
    if (consumer->next)
        consumer->next->link = consumer->link;
    if (!consumer->everything)
        stream->filtered--;
    consumer_drop(consumer);
}

evbus_status ev_mem_consumer_delete(struct ev_mem_broker *broker, const char *stream_name, const char *name)
{
    struct ev_mem_stream *stream = ev_mem_stream_find(broker, stream_name);
    struct ev_mem_consumer *consumer = stream ? consumer_find(broker, stream, name) : NULL;

    if (!consumer)
        return ev_fail(EVBUS_NOT_FOUND, "consumer '%s' of stream '%s': not found", name, stream_name);
    ev_mem_consumer_remove(broker, consumer, EV_MEM_CONSUMER_GONE);
    return EVBUS_OK;
}

/* Where a new consumer starts. */
static void set_start(struct ev_mem_consumer *consumer)
{
    struct ev_mem_stream *stream = consumer->stream;

    consumer->everything = stream->holes == 0 && ev_mem_consumer_all(consumer);
    if (!consumer->everything)
        stream->filtered++;
    if (consumer->deliver_new) {
        consumer->cursor_seq = stream->last + 1;
        return;
    }
    consumer->cursor = stream->head;
    consumer->cursor_seq = stream->first;
    for (struct ev_mem_block *block = consumer->everything ? NULL : stream->head; block; block = block->next)
        if (ev_mem_interest_matches(&consumer->interest, ev_mem_topic(block), block->topic_hash))
            consumer->waiting++;
}

static struct ev_mem_consumer *consumer_new(struct ev_mem_broker *broker, struct ev_mem_stream *stream,
                                            const struct ev_consumer_cfg *cfg)
{
    const size_t name_len = strlen(cfg->name), filter_len = strlen(cfg->filter);

    if (!ev_mem_table_reserve(&broker->consumers) || !ev_mem_interest_reserve(broker) ||
        !ev_mem_timers_reserve(&broker->timers))
        return NULL;
    struct ev_mem_consumer *consumer = ev_calloc(1, sizeof *consumer + name_len + 1 + filter_len + 1);
    if (!consumer) {
        broker->timers.users--;
        return NULL;
    }
    char *filter = consumer->name + name_len + 1;
    memcpy(consumer->name, cfg->name, name_len + 1);
    memcpy(filter, cfg->filter, filter_len + 1);
    consumer->stream = stream;
    consumer->timer.kind = EV_MEM_CONSUMER_TIMER;
    consumer->durable = cfg->durable;
    consumer->ack_explicit = cfg->ack_explicit;
    consumer->ack_all = cfg->ack_all;
    consumer->deliver_new = cfg->deliver_new;
    consumer->next = stream->all;
    consumer->link = &stream->all;
    if (stream->all)
        stream->all->link = &consumer->next;
    stream->all = consumer;
    ev_mem_table_add(&broker->consumers, &consumer->node, hash_of(broker, stream, cfg->name));
    ev_mem_interest_add(broker, &consumer->interest, EV_MEM_BY_CONSUMER, filter);
    set_start(consumer);
    return consumer;
}

static evbus_status mismatch(const struct ev_consumer_cfg *cfg, const char *field, const char *is, const char *wanted)
{
    return ev_fail(EVBUS_MISMATCH, "consumer '%s' of stream '%s': its %s is '%s', wanted is '%s'", cfg->name,
                   cfg->stream, field, is, wanted);
}

static const char *policy(bool ack_explicit, bool ack_all)
{
    return ack_all ? "all" : ack_explicit ? "explicit" : "none";
}

static evbus_status compare(const struct ev_mem_consumer *consumer, const struct ev_consumer_cfg *cfg)
{
    if (!cfg->durable || !consumer->durable)
        return ev_fail(EVBUS_EXISTS, "consumer '%s' of stream '%s': it exists already", cfg->name, cfg->stream);
    if (strcmp(consumer->interest.pattern, cfg->filter) != 0)
        return mismatch(cfg, "filter", consumer->interest.pattern, cfg->filter);
    if (consumer->ack_explicit != cfg->ack_explicit || consumer->ack_all != cfg->ack_all)
        return mismatch(cfg, "ack policy", policy(consumer->ack_explicit, consumer->ack_all),
                        policy(cfg->ack_explicit, cfg->ack_all));
    return EVBUS_OK;
}

/* What a consumer allows to be changed. */
static void update(struct ev_mem_broker *broker, struct ev_mem_consumer *consumer, const struct ev_consumer_cfg *cfg)
{
    const bool rearm = consumer->ack_wait_ns != cfg->ack_wait_ns && consumer->unacked;

    consumer->ack_wait_ns = cfg->ack_wait_ns > 0 ? cfg->ack_wait_ns : 30 * EV_SEC;
    consumer->ack_pending_max = cfg->ack_pending_max > 0 ? cfg->ack_pending_max : UINT32_MAX;
    if (rearm)
        ev_mem_timers_at_most(&broker->timers, &consumer->timer, broker->now);
    ev_mem_consumer_ready(broker, consumer);
}

static evbus_status check(const struct ev_mem_stream *stream, const struct ev_consumer_cfg *cfg)
{
    evbus_status st = ev_mem_subject_check(cfg->filter);

    if (st != EVBUS_OK)
        return st;
    if (cfg->name[0] == '\0' || strpbrk(cfg->name, " .*>/\\\t\r\n"))
        return ev_fail(EVBUS_INVALID, "consumer name '%.80s': 1..255 bytes without space . * > / and \\", cfg->name);
    for (const struct ev_mem_subject *subject = stream->subjects; subject; subject = subject->next)
        if (ev_subjects_overlap(subject->text, cfg->filter))
            return EVBUS_OK;
    return ev_fail(EVBUS_REFUSED,
                   "consumer '%s' of stream '%s': its filter '%s' is not a valid subset of the stream's "
                   "subjects",
                   cfg->name, cfg->stream, cfg->filter);
}

evbus_status ev_mem_bind(struct ev_mem_broker *broker, struct ev_mem_member *member, const struct ev_consumer_cfg *cfg)
{
    struct ev_mem_stream *stream = ev_mem_stream_find(broker, cfg->stream);

    if (!stream)
        return ev_fail(EVBUS_NOT_FOUND, "stream '%s': not found", cfg->stream);
    evbus_status st = check(stream, cfg);
    if (st != EVBUS_OK)
        return st;
    struct ev_mem_consumer *consumer = consumer_find(broker, stream, cfg->name);
    if (consumer && (st = compare(consumer, cfg)) != EVBUS_OK)
        return st;
    if (!consumer && !(consumer = consumer_new(broker, stream, cfg)))
        return ev_fail(EVBUS_NOMEM, "consumer '%s' of stream '%s': out of memory", cfg->name, cfg->stream);
    update(broker, consumer, cfg);
    consumer->refs++;
    member->consumer = consumer;
    member->exclusive = cfg->exclusive;
    member->ack_all = cfg->ack_all;
    member->consumer_seq = consumer->delivered;
    return EVBUS_OK;
}

/* ---- Core subscriptions ------------------------------------------------------------------------------------------ */

static struct ev_mem_group *group_find(const struct ev_mem_broker *broker, const char *subject, const char *queue)
{
    for (struct ev_mem_group *group = broker->groups; group; group = group->next)
        if (strcmp(group->queue, queue) == 0 && strcmp(group->interest.pattern, subject) == 0)
            return group;
    return NULL;
}

static struct ev_mem_group *group_new(struct ev_mem_broker *broker, const char *subject, const char *queue)
{
    const size_t subject_len = strlen(subject), queue_len = strlen(queue);

    if (!ev_mem_interest_reserve(broker))
        return NULL;
    struct ev_mem_group *group = ev_calloc(1, sizeof *group + subject_len + 1 + queue_len + 1);
    if (!group)
        return NULL;
    memcpy(group->text, subject, subject_len + 1);
    memcpy(group->text + subject_len + 1, queue, queue_len + 1);
    group->queue = group->text + subject_len + 1;
    if (queue_len > 0) {
        group->next = broker->groups;
        group->link = &broker->groups;
        if (broker->groups)
            broker->groups->link = &group->next;
        broker->groups = group;
    }
    ev_mem_interest_add(broker, &group->interest, EV_MEM_BY_GROUP, group->text);
    return group;
}

static void group_drop(struct ev_mem_broker *broker, struct ev_mem_group *group)
{
    if (--group->refs > 0)
        return;
    ev_mem_interest_remove(broker, &group->interest);
    if (group->link) {
        *group->link = group->next;
        if (group->next)
            group->next->link = group->link;
    }
    ev_free(group);
}

evbus_status ev_mem_bind_core(struct ev_mem_broker *broker, struct ev_mem_member *member, const char *subject,
                              const char *queue)
{
    evbus_status st = ev_mem_subject_check(subject);

    if (st != EVBUS_OK)
        return st;
    if (!queue)
        queue = "";
    struct ev_mem_queue *waiting = ev_calloc(1, sizeof *waiting);
    struct ev_mem_group *group = *queue ? group_find(broker, subject, queue) : NULL;
    if (waiting && !group)
        group = group_new(broker, subject, queue);
    if (!waiting || !group) {
        ev_free(waiting);
        return ev_fail(EVBUS_NOMEM, "subscription to '%s': out of memory", subject);
    }
    group->refs++;
    waiting->source.is_member = true;
    waiting->member = member;
    waiting->group = group;
    member->queue = waiting;
    return EVBUS_OK;
}

static void queue_clear(struct ev_mem_broker *broker, struct ev_mem_queue *queue)
{
    ev_mem_list_remove(&queue->source);
    for (; queue->count > 0; queue->count--)
        ev_mem_unref(queue->blocks[queue->head++ & (queue->room - 1)], broker->home);
    ev_free(queue->blocks);
    queue->blocks = NULL;
    queue->head = queue->room = 0;
    queue->bytes = 0;
}

/* ---- Taking part ------------------------------------------------------------------------------------------------- */

void ev_mem_attach(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    if (member->attached)
        return;
    if (member->consumer && member->consumer->gone) { /* between bind and attach */
        lose(broker, member, EV_MEM_CONSUMER_GONE);
        return;
    }
    member->attached = true;
    ring_add(member->consumer ? &member->consumer->members : &member->queue->group->members, member);
    if (!member->exclusive)
        return;
    if (!member->consumer->active)
        activate(broker, member);
    else
        news_for(broker, member);
}

void ev_mem_detach(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_consumer *consumer = member->consumer;

    lose_no_more(broker, member);
    no_news(broker, member);
    if (!member->attached)
        return;
    member->attached = false;
    ev_mem_member_open(member, false);
    if (member->queue) {
        ring_remove(&member->queue->group->members, &member->queue->group->turn, member);
        queue_clear(broker, member->queue);
        return;
    }
    ring_remove(&consumer->members, &consumer->turn, member);
    if (!consumer->durable && !consumer->members)
        ev_mem_consumer_remove(broker, consumer, EV_MEM_CONSUMER_GONE);
}

void ev_mem_say(struct ev_mem_member *member, enum ev_mem_result kind)
{
    struct ev_mem_link *link = member->link;

    if (link->closed)
        return;
    struct ev_mem_item *item = ev_mem_ring_next(&link->results);
    item->kind = (uint8_t)kind;
    item->object = member;
    ev_mem_ring_commit(&link->results);
}

void ev_mem_unbind(struct ev_mem_broker *broker, struct ev_mem_member *member)
{
    struct ev_mem_consumer *consumer = member->consumer;

    ev_mem_detach(broker, member);
    if (consumer) {
        ev_mem_leave_group(broker, member);
        consumer->refs--;
        if (!consumer->gone && !consumer->durable && consumer->refs == 0) /* it was never attached */
            ev_mem_consumer_remove(broker, consumer, EV_MEM_CONSUMER_GONE);
        else
            consumer_drop(consumer);
    }
    if (member->queue) {
        group_drop(broker, member->queue->group);
        ev_free(member->queue);
    }
    member->consumer = NULL;
    member->queue = NULL;
    ev_mem_say(member, EV_MEM_UNBOUND);
}
