/* SPDX-License-Identifier: Apache-2.0 */
/* How far consumers are: for people, the backlog monitor and the watch over what is overtaken. */
#include "backend/mem_broker.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/names.h"

#include <string.h>

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
    s->delivered_seq = consumer->cursor_seq - 1;
    const uint64_t lowest = u ? ev_mem_unacked_lowest(u) : UINT64_MAX;
    s->floor_seq = (lowest < consumer->cursor_seq ? lowest : consumer->cursor_seq) - 1;
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
