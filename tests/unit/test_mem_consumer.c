/* SPDX-License-Identifier: Apache-2.0 */
/* Consumers of the mem:// broker: delivery, settlement, redelivery, room, limits. Against a model: test_mem_model.c. */
#include "mem_world.h"

#include <stdio.h>

static void stop(struct world *w, struct ev_mem_member *member)
{
    ev_mem_detach(&w->broker, member);
    ev_mem_unbind(&w->broker, member);
}

static void settle(struct world *w, struct ev_mem_member *member, uint64_t seq, enum ev_settle verb, int64_t delay)
{
    ev_mem_settle(&w->broker, member, seq, verb, delay);
}

/* Pumps and compares the sequences that come out: a list that ends with 0. */
static void expect(struct world *w, const uint64_t *seqs)
{
    uint32_t n = 0;

    world_pump(w);
    for (; seqs[n]; n++) {
        assert_true(n < w->count);
        assert_int_equal(w->got[n].value, seqs[n]);
    }
    assert_int_equal(w->count, n);
}

#define EXPECT(w, ...) expect((w), (const uint64_t[]){__VA_ARGS__})

static void start(struct world *w, struct ev_mem_member *member, uint32_t room)
{
    const struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    world_init(w, 1 << 24);
    world_stream(w, "S", "s.*");
    world_bind(w, member, &cfg, room);
}

/* In order, once each, with what remains; nothing more without room. */
static void test_mem_consumer_delivers_in_order(void **state)
{
    static struct world w;
    struct ev_mem_member m;

    (void)state;
    start(&w, &m, 3);
    world_publish_n(&w, "s.a", 5);
    EXPECT(&w, 1, 2, 3, 0);
    assert_int_equal(w.got[0].count, 4); /* remaining */
    assert_int_equal(w.got[0].number, 1);
    assert_int_equal(w.got[2].other, 3); /* consumer sequence */
    EXPECT(&w, 0);
    ev_mem_want(&w.broker, &m, m.pushed + 10, UINT64_MAX / 2);
    EXPECT(&w, 4, 5, 0);
    assert_int_equal(w.got[1].count, 0);
    world_publish_n(&w, "s.b", 1);
    EXPECT(&w, 6, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* Room in bytes: a message may go over it, the next one waits. */
static void test_mem_consumer_respects_room_in_bytes(void **state)
{
    static struct world w;
    struct ev_mem_member m;

    (void)state;
    start(&w, &m, 0);
    world_publish_n(&w, "s.a", 5); /* 4 bytes each */
    ev_mem_want(&w.broker, &m, 100, 6);
    EXPECT(&w, 1, 2, 0);
    ev_mem_want(&w.broker, &m, 100, 8);
    EXPECT(&w, 0);
    ev_mem_want(&w.broker, &m, 100, 9);
    EXPECT(&w, 3, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* Unacknowledged messages come again when their ack wait ends, oldest first and before new ones; acked ones do not. */
static void test_mem_consumer_redelivers_after_ack_wait(void **state)
{
    static struct world w;
    struct ev_mem_member m;

    (void)state;
    start(&w, &m, 100);
    world_publish_n(&w, "s.a", 4);
    EXPECT(&w, 1, 2, 3, 4, 0);
    settle(&w, &m, 2, EV_SETTLE_ACK, 0);
    settle(&w, &m, 2, EV_SETTLE_ACK, 0); /* again: nothing */
    world_at(&w, 10 * EV_SEC);
    settle(&w, &m, 1, EV_SETTLE_EXTEND, 0);
    assert_int_equal(ev_mem_broker_due(&w.broker), WORLD_START + 30 * EV_SEC);
    world_at(&w, 30 * EV_SEC - 1);
    EXPECT(&w, 0);
    world_at(&w, 30 * EV_SEC);
    world_publish_n(&w, "s.a", 1);
    EXPECT(&w, 3, 4, 5, 0);
    assert_int_equal(w.got[0].number, 2);
    assert_int_equal(w.got[2].number, 1);
    world_at(&w, 40 * EV_SEC);
    EXPECT(&w, 1, 0);
    for (uint64_t seq = 1; seq <= 5; seq++)
        settle(&w, &m, seq, EV_SETTLE_TERM, 0);
    world_at(&w, 1000 * EV_SEC);
    EXPECT(&w, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* Handed back: at once or after the delay, lowest sequence first, before new ones. */
static void test_mem_consumer_redelivers_what_is_handed_back(void **state)
{
    static struct world w;
    struct ev_mem_member m;

    (void)state;
    start(&w, &m, 100);
    world_publish_n(&w, "s.a", 6);
    EXPECT(&w, 1, 2, 3, 4, 5, 6, 0);
    world_publish_n(&w, "s.a", 1);
    settle(&w, &m, 5, EV_SETTLE_NAK, 0);
    settle(&w, &m, 2, EV_SETTLE_NAK, 0);
    settle(&w, &m, 4, EV_SETTLE_NAK, 3 * EV_SEC);
    settle(&w, &m, 1, EV_SETTLE_NAK, 2 * EV_SEC);
    settle(&w, &m, 3, EV_SETTLE_NAK, 60 * EV_SEC); /* longer than the ack wait */
    EXPECT(&w, 2, 5, 7, 0);
    assert_int_equal(ev_mem_broker_due(&w.broker), WORLD_START + 2 * EV_SEC);
    world_at(&w, 2 * EV_SEC);
    EXPECT(&w, 1, 0);
    world_at(&w, 3 * EV_SEC);
    EXPECT(&w, 4, 0);
    settle(&w, &m, 3, EV_SETTLE_ACK, 0); /* while delayed */
    world_at(&w, 30 * EV_SEC);
    EXPECT(&w, 2, 5, 6, 7, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* ack_pending_max bounds what is out; redeliveries go on above it; an ack lets the next one out. */
static void test_mem_consumer_bounds_what_is_unacked(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    (void)state;
    world_init(&w, 1 << 24);
    world_stream(&w, "S", "s.*");
    cfg.ack_pending_max = 2;
    world_bind(&w, &m, &cfg, 100);
    world_publish_n(&w, "s.a", 5);
    EXPECT(&w, 1, 2, 0);
    settle(&w, &m, 1, EV_SETTLE_NAK, 0);
    EXPECT(&w, 1, 0);
    settle(&w, &m, 2, EV_SETTLE_ACK, 0);
    EXPECT(&w, 3, 0);
    cfg.ack_pending_max = 4; /* binding again changes it */
    cfg.ack_wait_ns = 5 * EV_SEC;
    struct ev_mem_member other = {.link = &w.link};
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_OK);
    EXPECT(&w, 4, 5, 0);
    world_at(&w, 5 * EV_SEC);
    EXPECT(&w, 1, 3, 4, 5, 0);
    ev_mem_unbind(&w.broker, &other);
    stop(&w, &m);
    world_fini(&w);
}

/* What the limits dropped is not delivered, nor delivered again; what is held stays readable. */
static void test_mem_consumer_skips_what_was_dropped(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    const char *subjects[] = {"s.*"};
    struct ev_stream_cfg stream = world_stream_cfg("S", subjects, 1);
    const struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    (void)state;
    world_init(&w, 1 << 24);
    stream.max_msgs = 3;
    assert_int_equal(ev_mem_stream_create(&w.broker, &stream), EVBUS_OK);
    world_bind(&w, &m, &cfg, 2);
    world_publish_n(&w, "s.a", 2);
    (void)ev_mem_pump(&w.broker, 100); /* 1 and 2 lie in the results */
    world_publish_n(&w, "s.a", 8);
    world_collect(&w);
    assert_int_equal(w.count, 2);
    ev_mem_want(&w.broker, &m, m.pushed + 100, UINT64_MAX / 2);
    EXPECT(&w, 8, 9, 10, 0);
    assert_int_equal(w.got[0].count, 2);
    world_at(&w, 30 * EV_SEC);
    EXPECT(&w, 8, 9, 10, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* A filter takes its own; "new" starts behind what is there; ack none is delivered once. */
static void test_mem_consumer_filters_and_starts(void **state)
{
    static struct world w;
    struct ev_mem_member filtered, fresh, none;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "filtered", "s.x.*");

    (void)state;
    world_init(&w, 1 << 24);
    world_stream(&w, "S", "s.>");
    world_publish_n(&w, "s.a", 1);
    world_publish_n(&w, "s.x.1", 1);
    world_publish_n(&w, "s.b", 1);
    world_publish_n(&w, "s.x.2", 1);
    world_bind(&w, &filtered, &cfg, 100);
    EXPECT(&w, 2, 4, 0);
    assert_int_equal(w.got[0].count, 1);
    cfg = world_consumer_cfg("S", "fresh", "s.>");
    cfg.deliver_new = true;
    world_bind(&w, &fresh, &cfg, 100);
    EXPECT(&w, 0);
    cfg = world_consumer_cfg("S", "none", "s.a");
    cfg.ack_explicit = false;
    world_bind(&w, &none, &cfg, 100);
    EXPECT(&w, 1, 0);
    world_publish_n(&w, "s.a", 1);
    EXPECT(&w, 5, 5, 0);
    world_at(&w, 31 * EV_SEC);
    EXPECT(&w, 2, 4, 5, 0); /* filtered's two, fresh's one */
    stop(&w, &filtered);
    stop(&w, &fresh);
    stop(&w, &none);
    world_fini(&w);
}

/* A subject added later: a consumer of everything becomes one of a part, and counts on rightly. */
static void test_mem_consumer_follows_added_subjects(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    const struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "a");

    (void)state;
    world_init(&w, 1 << 24);
    world_stream(&w, "S", "a");
    world_bind(&w, &m, &cfg, 1);
    world_publish_n(&w, "a", 3);
    EXPECT(&w, 1, 0);
    assert_int_equal(ev_mem_stream_add(&w.broker, "S", "b"), EVBUS_OK);
    world_publish_n(&w, "b", 2);
    world_publish_n(&w, "a", 1);
    ev_mem_want(&w.broker, &m, m.pushed + 10, UINT64_MAX / 2);
    EXPECT(&w, 2, 3, 6, 0);
    assert_int_equal(w.got[0].count, 2);
    assert_int_equal(w.got[2].count, 0);
    stop(&w, &m);
    world_fini(&w);
}

/* The existing durable is compared; the detail names field and values. */
static void test_mem_consumer_compares_what_exists(void **state)
{
    static struct world w;
    struct ev_mem_member m, other = {.link = &w.link};
    struct ev_consumer_cfg cfg;

    (void)state;
    start(&w, &m, 0);
    cfg = world_consumer_cfg("S", "c", "s.x");
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_MISMATCH);
    assert_non_null(strstr(ev_detail(), "filter is 's.*', wanted is 's.x'"));
    cfg = world_consumer_cfg("S", "c", "s.*");
    cfg.ack_explicit = false;
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_MISMATCH);
    assert_non_null(strstr(ev_detail(), "ack policy"));
    cfg = world_consumer_cfg("S", "c", "s.*");
    cfg.deliver_new = true; /* where it began is past */
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_OK);
    ev_mem_unbind(&w.broker, &other);
    cfg = world_consumer_cfg("S", "c", "s.*");
    cfg.durable = false;
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_EXISTS);
    cfg = world_consumer_cfg("S", "d", "t");
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_REFUSED);
    cfg = world_consumer_cfg("T", "d", "t");
    assert_int_equal(ev_mem_bind(&w.broker, &other, &cfg), EVBUS_NOT_FOUND);
    stop(&w, &m);
    world_fini(&w);
}

/* Members of one durable share it by their room, each message to one of them. */
static void test_mem_consumer_splits_by_room(void **state)
{
    static struct world w;
    struct ev_mem_member left, right;
    const struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");
    uint32_t mine = 0;

    (void)state;
    start(&w, &left, 10);
    world_bind(&w, &right, &cfg, 30);
    world_publish_n(&w, "s.a", 100);
    assert_int_equal(world_pump(&w), 40);
    for (uint32_t i = 0; i < w.count; i++) {
        assert_int_equal(w.got[i].value, i + 1);
        mine += w.got[i].object == &left;
    }
    assert_int_equal(mine, 10);
    stop(&w, &left); /* what it had comes again after the ack wait, to the other one */
    ev_mem_want(&w.broker, &right, right.pushed + 15, UINT64_MAX / 2);
    assert_int_equal(world_pump(&w), 15);
    ev_mem_want(&w.broker, &right, right.pushed + 200, UINT64_MAX / 2);
    assert_int_equal(world_pump(&w), 45);
    world_at(&w, 30 * EV_SEC);
    assert_int_equal(world_pump(&w), 100);
    assert_ptr_equal(w.got[0].object, &right);
    stop(&w, &right);
    world_fini(&w);
}

/* A durable outlives its members and keeps what was not acked; an ephemeral consumer goes with its last one. */
static void test_mem_consumer_durable_or_not(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    (void)state;
    start(&w, &m, 2);
    world_publish_n(&w, "s.a", 3);
    EXPECT(&w, 1, 2, 0);
    settle(&w, &m, 1, EV_SETTLE_ACK, 0);
    ev_mem_detach(&w.broker, &m);
    settle(&w, &m, 2, EV_SETTLE_NAK, 0); /* handed back after detaching, as the core does */
    ev_mem_unbind(&w.broker, &m);
    world_bind(&w, &m, &cfg, 10);
    EXPECT(&w, 2, 3, 0);
    assert_int_equal(w.got[0].number, 2);
    stop(&w, &m);

    cfg = world_consumer_cfg("S", "e", "s.*");
    cfg.durable = false;
    world_bind(&w, &m, &cfg, 10);
    EXPECT(&w, 1, 2, 3, 0);
    stop(&w, &m);
    world_bind(&w, &m, &cfg, 10);
    EXPECT(&w, 1, 2, 3, 0); /* a new one */
    stop(&w, &m);
    assert_int_equal(ev_mem_bind(&w.broker, &m, &cfg), EVBUS_OK);
    ev_mem_unbind(&w.broker, &m); /* never attached */
    assert_int_equal(ev_mem_consumer_delete(&w.broker, "S", "e"), EVBUS_NOT_FOUND);
    world_fini(&w);
}

/* The gap rule: an exclusive member that comes alone gets first, and at once, what nobody has. */
static void test_mem_consumer_exclusive_member_closes_the_gap(void **state)
{
    static struct world w;
    struct ev_mem_member m, n;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    (void)state;
    start(&w, &m, 10);
    world_publish_n(&w, "s.a", 3);
    EXPECT(&w, 1, 2, 3, 0);
    settle(&w, &m, 2, EV_SETTLE_ACK, 0);
    world_bind(&w, &n, &cfg, 10);
    EXPECT(&w, 0); /* not alone, not exclusive */
    stop(&w, &n);
    stop(&w, &m); /* as after a crash: nothing handed back */
    world_publish_n(&w, "s.a", 1);
    cfg.exclusive = true;
    world_bind(&w, &m, &cfg, 10);
    EXPECT(&w, 1, 3, 4, 0);
    assert_int_equal(w.got[0].number, 2);
    stop(&w, &m);
    world_fini(&w);
}

/* Members of a deleted consumer or stream are told, once; what they do after is harmless. */
static void test_mem_consumer_tells_of_its_loss(void **state)
{
    static struct world w;
    struct ev_mem_member m, n, late = {.link = &w.link};
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "d", "s.*");

    (void)state;
    start(&w, &m, 10);
    world_bind(&w, &n, &cfg, 10);
    assert_int_equal(ev_mem_bind(&w.broker, &late, &cfg), EVBUS_OK);
    world_publish_n(&w, "s.a", 2);
    EXPECT(&w, 1, 2, 1, 2, 0);
    assert_int_equal(ev_mem_consumer_delete(&w.broker, "S", "d"), EVBUS_OK);
    EXPECT(&w, 0);
    assert_int_equal(w.lost, 1);
    settle(&w, &n, 1, EV_SETTLE_ACK, 0);
    ev_mem_want(&w.broker, &n, 1000, 1000);
    ev_mem_attach(&w.broker, &late); /* bound before, attached after */
    EXPECT(&w, 0);
    assert_int_equal(w.lost, 2);
    assert_int_equal(ev_mem_stream_delete(&w.broker, "S"), EVBUS_OK);
    settle(&w, &m, 1, EV_SETTLE_NAK, 0);
    world_at(&w, 100 * EV_SEC);
    EXPECT(&w, 0);
    assert_int_equal(w.lost, 3);
    stop(&w, &n);
    stop(&w, &late);
    stop(&w, &m);
    world_fini(&w);
}

/* A full results ring stops a consumer until the session has drained; others are served. */
static void test_mem_consumer_waits_for_the_session(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");

    (void)state;
    world_init(&w, 1 << 24);
    world_stream(&w, "S", "s.*");
    cfg.ack_explicit = false;
    world_bind(&w, &m, &cfg, 100000);
    for (uint32_t i = 0; i < 5; i++) {
        world_publish_n(&w, "s.a", 3000);
        (void)world_collect(&w);
    }
    assert_false(ev_mem_pump(&w.broker, UINT32_MAX)); /* nothing is ready: it is blocked */
    assert_int_equal(ev_load_relaxed(&w.link.starved), 1);
    uint32_t total = world_collect(&w);
    assert_int_equal(total, WORLD_RESULTS - EV_MEM_RESERVE);
    while (world_pump(&w) > 0)
        total += w.count;
    assert_int_equal(total, 15000);
    stop(&w, &m);
    world_fini(&w);
}

/* 10,000 idle topics: what they cost, and that a turn does not look at them. */
static void test_mem_consumer_idle_ones_cost_little(void **state)
{
    enum { TOPICS = 10000 };
    static struct world w;
    static struct ev_mem_member members[TOPICS];
    char stream[64], topic[64], name[96];
    size_t bytes = 0;

    (void)state;
    world_init(&w, 1 << 24);
    for (int i = 0; i < TOPICS; i++) {
        (void)snprintf(topic, sizeof topic, "orders.region.%05d.created", i);
        (void)snprintf(stream, sizeof stream, "orders_region_%05d_created-0123456789abcdef", i);
        (void)snprintf(name, sizeof name, "billing-orders_region_%05d_created-0123456789abcdef", i);
        world_stream(&w, stream, topic);
        const struct ev_consumer_cfg cfg = world_consumer_cfg(stream, name, topic);
        world_bind(&w, &members[i], &cfg, 1024);
        bytes += sizeof(struct ev_mem_stream) + strlen(stream) + sizeof(struct ev_mem_subject) + strlen(topic) +
                 sizeof(struct ev_mem_consumer) + strlen(name) + strlen(topic) + sizeof members[0] + 4 * 16 + 6 * 8;
    }
    assert_in_range(bytes / TOPICS, 1, 900);
    assert_int_equal(ev_mem_broker_due(&w.broker), EV_NEVER);
    assert_ptr_equal(w.broker.ready.next, &w.broker.ready);
    world_publish_n(&w, "orders.region.05000.created", 1);
    EXPECT(&w, 1, 0);
    assert_ptr_equal(w.got[0].object, &members[5000]);
    for (int i = 0; i < TOPICS; i++) {
        stop(&w, &members[i]);
        if (i % 1000 == 0)
            (void)world_collect(&w);
        (void)world_collect(&w);
    }
    world_fini(&w);
}

/* A steady flow allocates nothing: published, delivered, acked, dropped by the limits. */
static void test_mem_consumer_steady_flow_allocates_nothing(void **state)
{
    static struct world w;
    struct ev_mem_member m;
    const char *subjects[] = {"s.*"};
    struct ev_stream_cfg stream = world_stream_cfg("S", subjects, 1);
    const struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", "s.*");
    uint64_t before = 0;

    (void)state;
    world_init(&w, 1 << 24);
    stream.max_msgs = 1000;
    stream.duplicate_window_ns = 2 * (uint64_t)EV_SEC;
    assert_int_equal(ev_mem_stream_create(&w.broker, &stream), EVBUS_OK);
    world_bind(&w, &m, &cfg, 100);
    for (uint32_t round = 0; round < 4000; round++) {
        if (round == 2000)
            before = ev_alloc_total();
        for (uint32_t i = 0; i < 50; i++)
            world_publish_id(&w, i % 2 ? "s.a" : "s.b", "data of a message", round * 50 + i + 1);
        assert_int_equal(world_pump(&w), 50);
        for (uint32_t i = 0; i < w.count; i++)
            settle(&w, &m, w.got[i].value, round % 10 == 9 && i % 7 == 0 ? EV_SETTLE_NAK : EV_SETTLE_ACK, 0);
        ev_mem_want(&w.broker, &m, m.pushed + 100, UINT64_MAX / 2);
        while (world_pump(&w) > 0)
            for (uint32_t i = 0; i < w.count; i++)
                settle(&w, &m, w.got[i].value, EV_SETTLE_ACK, 0);
        ev_mem_want(&w.broker, &m, m.pushed + 100, UINT64_MAX / 2);
        world_at(&w, round * 10 * EV_MS);
    }
    assert_int_equal(ev_alloc_total(), before);
    stop(&w, &m);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_consumer_delivers_in_order),
        cmocka_unit_test(test_mem_consumer_respects_room_in_bytes),
        cmocka_unit_test(test_mem_consumer_redelivers_after_ack_wait),
        cmocka_unit_test(test_mem_consumer_redelivers_what_is_handed_back),
        cmocka_unit_test(test_mem_consumer_bounds_what_is_unacked),
        cmocka_unit_test(test_mem_consumer_skips_what_was_dropped),
        cmocka_unit_test(test_mem_consumer_filters_and_starts),
        cmocka_unit_test(test_mem_consumer_follows_added_subjects),
        cmocka_unit_test(test_mem_consumer_compares_what_exists),
        cmocka_unit_test(test_mem_consumer_splits_by_room),
        cmocka_unit_test(test_mem_consumer_durable_or_not),
        cmocka_unit_test(test_mem_consumer_exclusive_member_closes_the_gap),
        cmocka_unit_test(test_mem_consumer_tells_of_its_loss),
        cmocka_unit_test(test_mem_consumer_waits_for_the_session),
        cmocka_unit_test(test_mem_consumer_idle_ones_cost_little),
        cmocka_unit_test(test_mem_consumer_steady_flow_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
