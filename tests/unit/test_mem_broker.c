/* SPDX-License-Identifier: Apache-2.0 */
/* The mem:// broker: streams, limits, duplicate window, core subscriptions. Consumers: test_mem_consumer.c. */
#include "mem_world.h"

#include <stdio.h>

static void info(struct world *w, const char *stream, struct ev_stream_info *ret)
{
    assert_int_equal(ev_mem_stream_info(&w->broker, stream, NULL, ret), EVBUS_OK);
}

/* A stream stores what its subjects cover, numbered from 1, and says so. */
static void test_mem_broker_stores_and_numbers(void **state)
{
    static struct world w;
    struct ev_stream_info got;

    (void)state;
    world_init(&w, 1 << 20);
    world_stream(&w, "S", "a.*");
    assert_int_equal(world_publish(&w, "a.b", "xyz"), EV_MEM_STORED);
    assert_int_equal(w.answer.value, 1);
    assert_int_equal(w.answer.count, 7);
    assert_int_equal(w.answer.other, 9);
    assert_int_equal(world_publish(&w, "a.c", "xyz"), EV_MEM_STORED);
    assert_int_equal(w.answer.value, 2);
    assert_int_equal(world_publish(&w, "a.b.c", "xyz"), EV_MEM_NO_STREAM);
    info(&w, "S", &got);
    assert_int_equal(got.msgs, 2);
    assert_int_equal(got.first_seq, 1);
    assert_int_equal(got.last_seq, 2);
    assert_int_equal(got.bytes, 2 * (3 + 3 + 16));
    world_fini(&w);
}

/* The stream that covers a topic or pattern whole is found; one that only overlaps is not. */
static void test_mem_broker_finds_the_covering_stream(void **state)
{
    static struct world w;
    struct ev_stream_info got;
    const char *subjects[] = {"a.*", "b.>"};
    struct ev_stream_cfg cfg = world_stream_cfg("S", subjects, 2);

    (void)state;
    world_init(&w, 1 << 20);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    assert_int_equal(ev_mem_stream_covering(&w.broker, "a.x", &got), EVBUS_OK);
    assert_string_equal(got.name, "S");
    assert_true(got.covers);
    assert_int_equal(ev_mem_stream_covering(&w.broker, "b.*.z", &got), EVBUS_OK);
    assert_int_equal(ev_mem_stream_covering(&w.broker, "b", &got), EVBUS_NOT_FOUND);
    assert_int_equal(ev_mem_stream_covering(&w.broker, "a.>", &got), EVBUS_NOT_FOUND);
    assert_int_equal(ev_mem_stream_covering(&w.broker, ">", &got), EVBUS_NOT_FOUND);
    assert_int_equal(ev_mem_stream_info(&w.broker, "S", "a.>", &got), EVBUS_OK);
    assert_false(got.covers);
    assert_int_equal(ev_mem_stream_info(&w.broker, "T", "a", &got), EVBUS_NOT_FOUND);
    world_fini(&w);
}

/* Creating again with the same settings is fine; other settings, or a subject that another stream has, are not. */
static void test_mem_broker_refuses_what_exists(void **state)
{
    static struct world w;
    const char *one[] = {"a.*"}, *other[] = {"a.b"}, *twice[] = {"c.*", "c.d"}, *bad[] = {"a..b"};
    struct ev_stream_cfg cfg = world_stream_cfg("S", one, 1);

    (void)state;
    world_init(&w, 1 << 20);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    cfg.max_msgs = 5;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_EXISTS);
    cfg = world_stream_cfg("T", other, 1);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_EXISTS);
    assert_non_null(strstr(ev_detail(), "overlap"));
    cfg = world_stream_cfg("T", twice, 2);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_INVALID);
    cfg = world_stream_cfg("T", bad, 1);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_INVALID);
    cfg = world_stream_cfg("T.U", twice, 1);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_INVALID);
    cfg = world_stream_cfg("T", twice, 0);
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_INVALID);
    world_fini(&w);
}

/* A subject can be added; a topic refused before is stored from then on. */
static void test_mem_broker_adds_subjects(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w, 1 << 20);
    world_stream(&w, "S", "a");
    world_stream(&w, "T", "t.>");
    assert_int_equal(world_publish(&w, "b", "x"), EV_MEM_NO_STREAM);
    assert_int_equal(ev_mem_stream_add(&w.broker, "S", "b"), EVBUS_OK);
    assert_int_equal(ev_mem_stream_add(&w.broker, "S", "b"), EVBUS_EXISTS);
    assert_int_equal(ev_mem_stream_add(&w.broker, "S", "t.x"), EVBUS_EXISTS);
    assert_int_equal(ev_mem_stream_add(&w.broker, "U", "u"), EVBUS_NOT_FOUND);
    assert_int_equal(world_publish(&w, "b", "x"), EV_MEM_STORED);
    world_fini(&w);
}

/* Discard old: the newest max_msgs stay. Discard new: the one too many is refused. */
static void test_mem_broker_limits_messages(void **state)
{
    static struct world w;
    const char *old[] = {"old"}, *fresh[] = {"new"};
    struct ev_stream_cfg cfg = world_stream_cfg("OLD", old, 1);
    struct ev_stream_info got;

    (void)state;
    world_init(&w, 1 << 20);
    cfg.max_msgs = 3;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    cfg = world_stream_cfg("NEW", fresh, 1);
    cfg.max_msgs = 3;
    cfg.discard = EVBUS_DISCARD_NEW;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    world_publish_n(&w, "old", 5);
    info(&w, "OLD", &got);
    assert_int_equal(got.msgs, 3);
    assert_int_equal(got.first_seq, 3);
    assert_int_equal(got.last_seq, 5);
    world_publish_n(&w, "new", 3);
    assert_int_equal(world_publish(&w, "new", "data"), EV_MEM_MAX_MSGS);
    info(&w, "NEW", &got);
    assert_int_equal(got.last_seq, 3);
    world_fini(&w);
}

/* The same in bytes; a message larger than the stream is refused and drops nothing. */
static void test_mem_broker_limits_bytes(void **state)
{
    static struct world w;
    const char *old[] = {"b"}, *fresh[] = {"n"};
    struct ev_stream_cfg cfg = world_stream_cfg("OLD", old, 1);
    struct ev_stream_info got;
    char big[200];

    (void)state;
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = '\0';
    world_init(&w, 1 << 20);
    cfg.max_bytes = 100; /* messages of 21 bytes: 4 fit */
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    cfg = world_stream_cfg("NEW", fresh, 1);
    cfg.max_bytes = 100;
    cfg.discard = EVBUS_DISCARD_NEW;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    world_publish_n(&w, "b", 6);
    info(&w, "OLD", &got);
    assert_int_equal(got.msgs, 4);
    assert_int_equal(got.bytes, 84);
    assert_int_equal(world_publish(&w, "b", big), EV_MEM_OVER_STREAM);
    info(&w, "OLD", &got);
    assert_int_equal(got.msgs, 4);
    world_publish_n(&w, "n", 4);
    assert_int_equal(world_publish(&w, "n", "data"), EV_MEM_MAX_BYTES);
    world_fini(&w);
}

/* Messages leave at their age, neither before nor after. */
static void test_mem_broker_limits_age(void **state)
{
    static struct world w;
    const char *subjects[] = {"a"};
    struct ev_stream_cfg cfg = world_stream_cfg("S", subjects, 1);
    struct ev_stream_info got;

    (void)state;
    world_init(&w, 1 << 20);
    cfg.max_age_ns = 10 * (uint64_t)EV_SEC;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    world_publish_n(&w, "a", 2);
    world_at(&w, 4 * EV_SEC);
    world_publish_n(&w, "a", 1);
    assert_int_equal(ev_mem_broker_due(&w.broker), WORLD_START + 10 * EV_SEC);
    world_at(&w, 10 * EV_SEC - 1);
    info(&w, "S", &got);
    assert_int_equal(got.msgs, 3);
    world_at(&w, 10 * EV_SEC);
    info(&w, "S", &got);
    assert_int_equal(got.msgs, 1);
    assert_int_equal(ev_mem_broker_due(&w.broker), WORLD_START + 14 * EV_SEC);
    world_at(&w, 14 * EV_SEC);
    info(&w, "S", &got);
    assert_int_equal(got.msgs, 0);
    assert_int_equal(got.first_seq, 4);
    assert_int_equal(w.broker.bytes, 0);
    world_fini(&w);
}

/* The broker's own bound holds over all streams; a stream that drops its old ones makes room first. */
static void test_mem_broker_is_bounded(void **state)
{
    static struct world w;
    const char *subjects[] = {"b"};
    struct ev_stream_cfg cfg = world_stream_cfg("B", subjects, 1);
    struct ev_stream_info got;

    (void)state;
    world_init(&w, 210); /* 10 messages of 21 bytes */
    world_stream(&w, "A", "a");
    cfg.max_msgs = 2;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    world_publish_n(&w, "b", 2);
    world_publish_n(&w, "a", 8);
    assert_int_equal(world_publish(&w, "a", "data"), EV_MEM_FULL);
    world_publish_n(&w, "b", 2);
    assert_int_equal(world_publish(&w, "b", "data+"), EV_MEM_FULL);
    info(&w, "B", &got);
    assert_int_equal(got.msgs, 2); /* nothing was dropped for the one refused */
    assert_int_equal(ev_mem_stream_purge(&w.broker, "A"), EVBUS_OK);
    world_publish_n(&w, "a", 8);
    world_fini(&w);
}

/* A message id seen within the window is answered with the first one's sequence; after the window it is new. */
static void test_mem_broker_knows_duplicates(void **state)
{
    static struct world w;
    const char *subjects[] = {"s.*"};
    struct ev_stream_cfg cfg = world_stream_cfg("S", subjects, 1);

    (void)state;
    world_init(&w, 1 << 20);
    cfg.duplicate_window_ns = 60 * (uint64_t)EV_SEC;
    assert_int_equal(ev_mem_stream_create(&w.broker, &cfg), EVBUS_OK);
    world_stream(&w, "T", "t");
    world_publish_id(&w, "s.a", "x", 11);
    world_publish_id(&w, "s.a", "x", 12);
    world_publish_id(&w, "s.b", "x", 11); /* the window is the stream's, not the subject's */
    world_collect(&w);
    assert_int_equal(w.answer.number, EV_MEM_STORED);
    assert_true(w.answer.flags);
    assert_int_equal(w.answer.value, 1);
    world_publish_id(&w, "t", "x", 11); /* another stream */
    world_collect(&w);
    assert_false(w.answer.flags);
    world_at(&w, 60 * EV_SEC - 1);
    world_publish_id(&w, "s.a", "x", 11);
    world_collect(&w);
    assert_true(w.answer.flags);
    world_at(&w, 60 * EV_SEC);
    world_publish_id(&w, "s.a", "x", 11);
    world_collect(&w);
    assert_false(w.answer.flags);
    assert_int_equal(w.answer.value, 3);
    world_at(&w, 1000 * EV_SEC);
    assert_int_equal(w.broker.ids, 0);
    world_fini(&w);
}

/* Ids are bounded too; publishing without an id goes on. */
static void test_mem_broker_bounds_ids(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w, 1 << 16); /* 1,024 ids */
    world_stream(&w, "S", "s");
    for (uint64_t id = 1; id <= 1024; id++)
        world_publish_id(&w, "s", "", id);
    world_collect(&w);
    assert_int_equal(w.answer.number, EV_MEM_STORED);
    world_publish_id(&w, "s", "", 2000);
    world_collect(&w);
    assert_int_equal(w.answer.number, EV_MEM_IDS_FULL);
    assert_int_equal(world_publish(&w, "s", ""), EV_MEM_STORED);
    world_at(&w, 120 * EV_SEC);
    world_publish_id(&w, "s", "", 2000);
    world_collect(&w);
    assert_int_equal(w.answer.number, EV_MEM_STORED);
    world_fini(&w);
}

/* After a stream was deleted nobody answers; made again it starts at 1 with another identity, and knows no old ids. */
static void test_mem_broker_forgets_a_deleted_stream(void **state)
{
    static struct world w;
    struct ev_stream_info before, after;

    (void)state;
    world_init(&w, 1 << 20);
    world_stream(&w, "S", "s");
    world_publish_id(&w, "s", "x", 5);
    info(&w, "S", &before);
    assert_int_equal(ev_mem_stream_delete(&w.broker, "S"), EVBUS_OK);
    assert_int_equal(ev_mem_stream_delete(&w.broker, "S"), EVBUS_NOT_FOUND);
    assert_int_equal(w.broker.bytes, 0);
    assert_int_equal(world_publish(&w, "s", "x"), EV_MEM_NO_STREAM);
    world_stream(&w, "S", "s");
    info(&w, "S", &after);
    assert_string_not_equal(before.created, after.created);
    world_publish_id(&w, "s", "x", 5);
    world_collect(&w);
    assert_false(w.answer.flags);
    assert_int_equal(w.answer.value, 1);
    world_fini(&w);
}

/* ---- Core subscriptions ------------------------------------------------------------------------------------------ */

static void core(struct world *w, struct ev_mem_member *member, const char *subject, const char *queue, uint32_t room)
{
    memset(member, 0, sizeof *member);
    member->link = &w->link;
    assert_int_equal(ev_mem_bind_core(&w->broker, member, subject, queue), EVBUS_OK);
    ev_mem_attach(&w->broker, member);
    ev_mem_want(&w->broker, member, room, UINT64_MAX / 2);
}

static void leave(struct world *w, struct ev_mem_member *member)
{
    ev_mem_detach(&w->broker, member);
    ev_mem_unbind(&w->broker, member);
}

/* Core subscriptions get every message of their subject, stored or not; of a queue only one member does. */
static void test_mem_broker_serves_core_subscriptions(void **state)
{
    static struct world w;
    struct ev_mem_member all, left, right;
    uint32_t one = 0, other = 0;

    (void)state;
    world_init(&w, 1 << 20);
    world_stream(&w, "S", "c.stored");
    core(&w, &all, "c.*", "", 100);
    core(&w, &left, "c.>", "q", 100);
    core(&w, &right, "c.>", "q", 100);
    assert_int_equal(world_publish(&w, "c.stored", "x"), EV_MEM_STORED);
    for (int i = 0; i < 9; i++)
        assert_int_equal(world_publish(&w, "c.x", "x"), EV_MEM_NO_STREAM);
    assert_int_equal(world_pump(&w), 20);
    for (uint32_t i = 0; i < w.count; i++) {
        one += w.got[i].object == &left;
        other += w.got[i].object == &right;
    }
    assert_int_equal(one, 5);
    assert_int_equal(other, 5);
    leave(&w, &left);
    leave(&w, &all);
    (void)world_publish(&w, "c.x", "x");
    assert_int_equal(world_pump(&w), 1);
    leave(&w, &right);
    (void)world_publish(&w, "c.x", "x");
    assert_int_equal(world_pump(&w), 0);
    world_fini(&w);
}

/* Without room messages wait; those beyond the queue are dropped and counted with the next delivery. */
static void test_mem_broker_bounds_core_queues(void **state)
{
    static struct world w;
    struct ev_mem_member slow;

    (void)state;
    world_init(&w, 1 << 20);
    core(&w, &slow, "c", "", 1);
    for (uint32_t i = 0; i < 3; i++)
        (void)world_publish(&w, "c", "x");
    assert_int_equal(world_pump(&w), 1);
    for (uint32_t i = 0; i < EV_MEM_CORE_QUEUE; i++) {
        (void)world_publish(&w, "c", "x");
        if (i % 1000 == 0)
            (void)world_collect(&w);
    }
    assert_int_equal(w.broker.core_dropped, 2);
    (void)world_collect(&w);
    ev_mem_want(&w.broker, &slow, 3, UINT64_MAX / 2);
    assert_int_equal(world_pump(&w), 2);
    assert_int_equal(w.got[0].count, 2);
    assert_int_equal(w.got[1].count, 0);
    leave(&w, &slow); /* with 65,534 waiting */
    world_fini(&w);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

/* A refused allocation makes one call fail and leaves the broker as it was. */
static void test_mem_broker_survives_failing_allocations(void **state)
{
    (void)state;
    for (int64_t nth = 1; nth < 60; nth++) {
        static struct world w;
        struct ev_mem_member member = {.link = &w.link};
        const char *subjects[] = {"a", "b.*"};
        const struct ev_stream_cfg stream = world_stream_cfg("S", subjects, 2);
        const struct ev_consumer_cfg consumer = world_consumer_cfg("S", "c", "b.*");

        world_init(&w, 1 << 20);
        ev_alloc_fail_after(nth);
        evbus_status st = ev_mem_stream_create(&w.broker, &stream);
        assert_true(st == EVBUS_OK || st == EVBUS_NOMEM);
        st = ev_mem_bind(&w.broker, &member, &consumer);
        assert_true(st == EVBUS_OK || st == EVBUS_NOMEM || st == EVBUS_NOT_FOUND);
        const bool bound = st == EVBUS_OK;
        if (bound) {
            ev_mem_attach(&w.broker, &member);
            ev_mem_want(&w.broker, &member, 100, 1 << 20);
        }
        for (uint64_t i = 1; i <= 20; i++) {
            const struct ev_record record = {.topic = "b.x", .data = "data", .len = 4};
            struct ev_mem_publish publish = {.id_hash = i, .has_id = true, .want_ack = true};
            publish.block = ev_mem_block_new(w.pool, &record, 3, ev_mem_hash(&w.broker, "b.x", 3));
            if (publish.block)
                ev_mem_publish(&w.broker, &w.link, &publish);
        }
        (void)world_pump(&w);
        ev_alloc_fail_after(-1);
        world_at(&w, EV_SEC);
        (void)world_pump(&w);
        if (bound)
            leave(&w, &member);
        world_fini(&w);
    }
}

/* Headers come back as they were; the message id is one of them. */
static void test_mem_store_keeps_headers(void **state)
{
    static const char headers[] = "One: 1\r\nTwo-2: a: b\r\nEmpty: \r\nOne: 3\r\n";
    struct ev_mem_pool *pool = ev_mem_pool_new();
    const struct ev_record record = {.topic = "t",
                                     .data = "body",
                                     .len = 4,
                                     .headers = headers,
                                     .headers_len = sizeof headers - 1,
                                     .msg_id = "id-1"};
    struct ev_mem_block *block = ev_mem_block_new(pool, &record, 1, 0);
    char buf[100] = {0};

    (void)state;
    assert_memory_equal(ev_mem_data(block), "body", 4);
    assert_string_equal(ev_mem_topic(block), "t");
    assert_string_equal(ev_mem_header(block, "One"), "1");
    assert_string_equal(ev_mem_header(block, "Two-2"), "a: b");
    assert_string_equal(ev_mem_header(block, "Empty"), "");
    assert_string_equal(ev_mem_header(block, "Nats-Msg-Id"), "id-1");
    assert_null(ev_mem_header(block, "Tw"));
    assert_null(ev_mem_header(block, "Three"));
    const size_t n = ev_mem_headers(block, buf, sizeof buf);
    assert_string_equal(buf, "Nats-Msg-Id: id-1\r\nOne: 1\r\nTwo-2: a: b\r\nEmpty: \r\nOne: 3\r\n");
    assert_int_equal(n, strlen(buf));
    assert_int_equal(ev_mem_headers(block, buf, 3), n);
    ev_mem_unref(block, pool);
    ev_mem_pool_leave(pool);
}

/* Messages of all sizes live on after their pool's owner, and take the memory with them in any order. */
static void test_mem_store_outlives_its_pool(void **state)
{
    static char data[100000];
    struct ev_mem_block *blocks[400];
    const uint64_t live = ev_alloc_live();
    struct ev_mem_pool *pool = ev_mem_pool_new();

    (void)state;
    for (uint32_t i = 0; i < 400; i++) {
        const struct ev_record record = {.topic = "t", .data = data, .len = (size_t)i * 250};
        memset(data, (int)i, record.len);
        blocks[i] = ev_mem_block_new(pool, &record, 1, i);
        assert_non_null(blocks[i]);
    }
    for (uint32_t i = 0; i < 400; i += 3)
        ev_mem_unref(blocks[i], i % 2 ? pool : NULL);
    ev_mem_pool_leave(pool);
    for (uint32_t i = 0; i < 400; i++) {
        if (i % 3 == 0)
            continue;
        for (uint32_t k = 0; k < blocks[i]->len; k++)
            assert_int_equal((uint8_t)ev_mem_data(blocks[i])[k], (uint8_t)i);
        ev_mem_unref(blocks[i], NULL);
    }
    assert_int_equal(ev_alloc_live(), live);
}

/* The duplicate window under growth, expiry and shrinking, against a plain array. */
static void test_mem_window_remembers_exactly(void **state)
{
    enum { IDS = 60000 };
    static int64_t added[IDS];
    const uint64_t live = ev_alloc_live();
    struct ev_mem_window *window = ev_mem_window_new(1000);
    uint32_t next = 0;

    (void)state;
    for (int64_t now = 0; now < 9000; now++) {
        const uint32_t batch = now < 3000 ? 15 : now < 6000 ? 1 : now < 7000 ? 12 : 0;
        (void)ev_mem_window_purge(window, now, now % 7 == 0 ? 100 : 3);
        for (uint32_t i = 0; i < batch && next < IDS; i++) {
            assert_true(ev_mem_window_reserve(window));
            ev_mem_window_add(window, next * UINT64_C(0x9e3779b97f4a7c15), next, next, now);
            added[next++] = now;
        }
        for (uint32_t i = 0; i < 40 && next > 0; i++) {
            const uint32_t probe = (uint32_t)rand() % next;
            const struct ev_mem_id *id = ev_mem_window_find(window, probe * UINT64_C(0x9e3779b97f4a7c15), probe, now);
            assert_int_equal(id != NULL, added[probe] + 1000 > now);
            if (id)
                assert_int_equal(id->seq, probe);
            assert_null(ev_mem_window_find(window, probe * UINT64_C(0x9e3779b97f4a7c15), probe + 1, now));
        }
    }
    (void)ev_mem_window_purge(window, 20000, UINT32_MAX);
    assert_int_equal(window->count, 0);
    ev_mem_window_free(window);
    assert_int_equal(ev_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_broker_stores_and_numbers),
        cmocka_unit_test(test_mem_broker_finds_the_covering_stream),
        cmocka_unit_test(test_mem_broker_refuses_what_exists),
        cmocka_unit_test(test_mem_broker_adds_subjects),
        cmocka_unit_test(test_mem_broker_limits_messages),
        cmocka_unit_test(test_mem_broker_limits_bytes),
        cmocka_unit_test(test_mem_broker_limits_age),
        cmocka_unit_test(test_mem_broker_is_bounded),
        cmocka_unit_test(test_mem_broker_knows_duplicates),
        cmocka_unit_test(test_mem_broker_bounds_ids),
        cmocka_unit_test(test_mem_broker_forgets_a_deleted_stream),
        cmocka_unit_test(test_mem_broker_serves_core_subscriptions),
        cmocka_unit_test(test_mem_broker_bounds_core_queues),
        cmocka_unit_test(test_mem_broker_survives_failing_allocations),
        cmocka_unit_test(test_mem_store_keeps_headers),
        cmocka_unit_test(test_mem_store_outlives_its_pool),
        cmocka_unit_test(test_mem_window_remembers_exactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
