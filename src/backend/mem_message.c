/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single messages of a stream: read, or taken out of the middle. Rare (dead letters), so both walk the log. What is taken
 * out leaves a hole in the sequences; consumers of such a stream count what waits for them.
 */
#include "backend/mem_broker.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/names.h"

#include <string.h>

static evbus_status copy_out(const struct ev_mem_block *block, struct ev_stored *ret)
{
    char *memory = ev_malloc((size_t)block->len + block->headers_len + 2);

    if (!memory)
        return ev_fail(EVBUS_NOMEM, "out of memory for a message of %u bytes", block->len);
    char *headers = memory + block->len + 1;
    memcpy(memory, ev_mem_data(block), block->len);
    memory[block->len] = 0;
    (void)ev_mem_headers(block, headers, block->headers_len);
    headers[block->headers_len] = 0;
    *ret = (struct ev_stored){
        .seq = block->seq,
        .stored_ns = block->wall_ns,
        .data = memory,
        .len = block->len,
        .headers = headers,
        .headers_len = block->headers_len,
        .memory = memory,
    };
    (void)ev_copy(ret->topic, sizeof ret->topic, ev_mem_topic(block));
    return EVBUS_OK;
}

evbus_status ev_mem_msg_get(struct ev_mem_broker *broker, const char *name, const char *filter, uint64_t from,
                            struct ev_stored *ret)
{
    const struct ev_mem_stream *stream = ev_mem_stream_find(broker, name);

    if (!stream)
        return ev_fail(EVBUS_NOT_FOUND, "stream '%s': not found", name);
    for (const struct ev_mem_block *block = stream->head; block; block = block->next)
        if (block->seq >= from && ev_subject_covers(filter, ev_mem_topic(block)))
            return copy_out(block, ret);
    return ev_fail(EVBUS_NOT_FOUND, "stream '%s': no message of '%s' from sequence %llu on", name, filter,
                   (unsigned long long)from);
}

static void unlink_block(struct ev_mem_stream *stream, struct ev_mem_block *before, struct ev_mem_block *block)
{
    if (before)
        before->next = block->next;
    else
        stream->head = block->next;
    if (stream->tail == block)
        stream->tail = before;
    stream->holes++;
    if (before)
        return;
    const uint64_t next = stream->head ? stream->head->seq : stream->last + 1;
    stream->holes -= next - stream->first;
    stream->first = next;
}

evbus_status ev_mem_msg_delete(struct ev_mem_broker *broker, const char *name, uint64_t seq)
{
    struct ev_mem_stream *stream = ev_mem_stream_find(broker, name);
    struct ev_mem_block *before = NULL, *block = stream ? stream->head : NULL;

    for (; block && block->seq < seq; block = block->next)
        before = block;
    if (!block || block->seq != seq)
        return ev_fail(EVBUS_NOT_FOUND, "stream '%s', sequence %llu: not found", name, (unsigned long long)seq);
    for (struct ev_mem_consumer *consumer = stream->all; consumer; consumer = consumer->next)
        ev_mem_consumer_deleting(broker, consumer, block);
    unlink_block(stream, before, block);
    stream->bytes -= ev_mem_size(block);
    broker->bytes -= ev_mem_size(block);
    ev_mem_unref(block, broker->home);
    return EVBUS_OK;
}
