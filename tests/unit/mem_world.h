/* SPDX-License-Identifier: Apache-2.0 */
/* A mem:// broker with one link, driven by hand: what the unit tests of the broker have in common. */
#ifndef EV_TESTS_MEM_WORLD_H
#define EV_TESTS_MEM_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/mem_broker.h"

#include <stdlib.h>
#include <string.h>

#define WORLD_START (INT64_C(1000) * EV_SEC)
#define WORLD_WALL (INT64_C(1700000000) * EV_SEC)
#define WORLD_RESULTS 8192u

struct world {
    struct ev_mem_broker broker;
    struct ev_mem_link link;
    struct ev_mem_pool *pool;
    uint64_t live; /* blocks of memory before */
    int64_t now;
    struct ev_mem_item answer; /* the last one */
    uint32_t answers;
    struct ev_mem_item got[WORLD_RESULTS]; /* messages since the last collect */
    uint32_t count;
    uint32_t lost;
};

static inline void world_init(struct world *w, uint64_t bytes_max)
{
    memset(w, 0, sizeof *w);
    w->live = ev_alloc_live();
    w->now = WORLD_START;
    ev_mem_broker_init(&w->broker, bytes_max, w->now, WORLD_WALL);
    w->pool = ev_mem_pool_new();
    assert_non_null(w->pool);
    w->broker.home = w->pool;
    assert_true(ev_mem_link_init(&w->link, WORLD_RESULTS));
    ev_mem_link_join(&w->broker, &w->link);
}

/* What came out since the last time; messages are released at once. */
static inline uint32_t world_collect(struct world *w)
{
    struct ev_mem_item *item;

    w->count = 0;
    while ((item = ev_mem_ring_peek(&w->link.results)) != NULL) {
        if (item->kind == EV_MEM_ANSWER) {
            w->answer = *item;
            w->answers++;
        } else if (item->kind == EV_MEM_MESSAGE || item->kind == EV_MEM_CORE) {
            w->got[w->count] = *item;
            w->got[w->count++].value = item->kind == EV_MEM_CORE ? 0 : item->block->seq;
            ev_mem_unref(item->block, w->pool);
        } else if (item->kind == EV_MEM_LOST) {
            w->lost++;
        }
        ev_mem_ring_drop(&w->link.results);
    }
    ev_mem_link_drained(&w->broker, &w->link);
    return w->count;
}

static inline uint32_t world_pump(struct world *w)
{
    uint32_t n = 0;

    (void)ev_mem_pump(&w->broker, WORLD_RESULTS);
    n = world_collect(w);
    return n;
}

static inline void world_at(struct world *w, int64_t after_start)
{
    w->now = WORLD_START + after_start;
    ev_mem_broker_advance(&w->broker, w->now, WORLD_WALL + after_start);
}

static inline void world_fini(struct world *w)
{
    world_collect(w);
    ev_mem_link_leave(&w->broker, &w->link);
    world_collect(w);
    ev_mem_broker_fini(&w->broker);
    ev_mem_link_fini(&w->link);
    ev_mem_pool_leave(w->pool);
    assert_int_equal(ev_alloc_live(), w->live);
}

static inline struct ev_stream_cfg world_stream_cfg(const char *name, const char *const *subjects, uint32_t count)
{
    struct ev_stream_cfg cfg = {
        .subjects = subjects,
        .subject_count = count,
        .duplicate_window_ns = 120 * (uint64_t)EV_SEC,
        .storage = EVBUS_STORAGE_MEMORY,
        .discard = EVBUS_DISCARD_OLD,
        .replicas = 1,
    };

    strcpy(cfg.name, name);
    return cfg;
}

/* A stream of one subject, without limits. */
static inline void world_stream(struct world *w, const char *name, const char *subject)
{
    const struct ev_stream_cfg cfg = world_stream_cfg(name, &subject, 1);

    assert_int_equal(ev_mem_stream_create(&w->broker, &cfg), EVBUS_OK);
}

static inline struct ev_consumer_cfg world_consumer_cfg(const char *stream, const char *name, const char *filter)
{
    struct ev_consumer_cfg cfg = {
        .filter = filter, .durable = true, .ack_explicit = true, .ack_wait_ns = 30 * EV_SEC, .ack_pending_max = 1024};

    strcpy(cfg.stream, stream);
    strcpy(cfg.name, name);
    return cfg;
}

/* Bound and attached, with room for `room` messages. */
static inline void world_bind(struct world *w, struct ev_mem_member *member, const struct ev_consumer_cfg *cfg,
                              uint32_t room)
{
    memset(member, 0, sizeof *member);
    member->link = &w->link;
    assert_int_equal(ev_mem_bind(&w->broker, member, cfg), EVBUS_OK);
    ev_mem_attach(&w->broker, member);
    ev_mem_want(&w->broker, member, member->pushed + room, UINT64_MAX / 2);
}

static inline void world_publish_id(struct world *w, const char *topic, const char *data, uint64_t id)
{
    const struct ev_record record = {.topic = topic, .data = data, .len = strlen(data)};
    const size_t len = strlen(topic);
    const struct ev_mem_publish publish = {
        .block = ev_mem_block_new(w->pool, &record, len, ev_mem_hash(&w->broker, topic, len)),
        .id_hash = id * UINT64_C(0x9e3779b97f4a7c15),
        .id_check = (uint32_t)id,
        .slot = 7,
        .generation = 9,
        .has_id = id != 0,
        .want_ack = true,
    };

    assert_non_null(publish.block);
    ev_mem_publish(&w->broker, &w->link, &publish);
}

/* Returns the answer's code. */
static inline int world_publish(struct world *w, const char *topic, const char *data)
{
    struct ev_mem_ring *results = &w->link.results;

    world_publish_id(w, topic, data, 0);
    w->answer = results->items[(ev_load_relaxed(&results->tail) - 1) & results->mask];
    return w->answer.number;
}

static inline void world_publish_n(struct world *w, const char *topic, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(world_publish(w, topic, "data"), EV_MEM_STORED);
}

#endif
