/* SPDX-License-Identifier: Apache-2.0 */
/* How far consumers are. For people and for the backlog monitor. */
#include "backend/mem_broker.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/names.h"

#include <string.h>

/* The lowest sequence that was delivered and not settled; `none` if there is none. */
static uint64_t oldest_unsettled(const struct ev_mem_unacked *u, uint64_t none)
{
    uint64_t oldest = none;

    for (uint32_t i = u->head; i != EV_MEM_NONE; i = u->held[i].next)
        oldest = u->held[i].seq < oldest ? u->held[i].seq : oldest;
    for (uint32_t i = 0; i < u->due_count; i++)
        oldest = u->held[u->due[i]].seq < oldest ? u->held[u->due[i]].seq : oldest;
    for (uint32_t i = 0; i < u->delayed_count; i++)
        oldest = u->held[u->delayed[i]].seq < oldest ? u->held[u->delayed[i]].seq : oldest;
    return oldest;
}

static void fill(const struct ev_mem_consumer *consumer, struct ev_consumer_state *s)
{
    const struct ev_mem_unacked *u = consumer->unacked;

    memset(s, 0, sizeof *s);
    (void)ev_copy(s->stream, sizeof s->stream, consumer->stream->name);
    (void)ev_copy(s->name, sizeof s->name, consumer->name);
    (void)ev_copy(s->filter, sizeof s->filter, consumer->interest.pattern);
    s->durable = consumer->durable;
    s->ack_explicit = consumer->ack_explicit;
    s->pending = ev_mem_consumer_waiting(consumer);
    s->ack_pending = u ? u->count : 0;
    for (uint32_t i = u ? u->head : EV_MEM_NONE; i != EV_MEM_NONE; i = u->held[i].next)
        s->redelivered += u->held[i].deliveries > 1;
    s->waiting = consumer->open;
    s->delivered = consumer->delivered;
    s->floor_seq = (u ? oldest_unsettled(u, consumer->cursor_seq) : consumer->cursor_seq) - 1;
}

evbus_status ev_mem_consumer_state(struct ev_mem_broker *broker, const char *stream_name, const char *name,
                                   struct ev_consumer_state *ret)
{
    const struct ev_mem_stream *stream = ev_mem_stream_find(broker, stream_name);
    const struct ev_mem_consumer *consumer = stream ? stream->all : NULL;

    while (consumer && strcmp(consumer->name, name) != 0)
        consumer = consumer->next;
    if (!consumer)
        return ev_fail(EVBUS_NOT_FOUND, "consumer '%s' of stream '%s': not found", name, stream_name);
    fill(consumer, ret);
    return EVBUS_OK;
}

static bool concerns(const struct ev_mem_stream *stream, const char *subject)
{
    for (const struct ev_mem_subject *s = stream->subjects; s; s = s->next)
        if (ev_subjects_overlap(s->text, subject))
            return true;
    return false;
}

evbus_status ev_mem_consumers(struct ev_mem_broker *broker, const char *subject, struct ev_consumer_state **ret,
                              uint32_t *ret_count)
{
    struct ev_consumer_state *all = ev_malloc((broker->consumers.count + 1) * sizeof *all);

    if (!all)
        return ev_fail(EVBUS_NOMEM, "out of memory for the list of consumers");
    *ret = all;
    *ret_count = 0;
    for (uint32_t i = 0; broker->streams.buckets && i <= broker->streams.mask; i++)
        for (struct ev_mem_node *node = broker->streams.buckets[i]; node; node = node->next) {
            const struct ev_mem_stream *stream = (struct ev_mem_stream *)(void *)node;
            if (!concerns(stream, subject))
                continue;
            for (const struct ev_mem_consumer *c = stream->all; c; c = c->next)
                fill(c, &all[(*ret_count)++]);
        }
    return EVBUS_OK;
}
