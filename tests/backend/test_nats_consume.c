/* SPDX-License-Identifier: Apache-2.0 */
/* Consuming from a real nats-server without the core: credit, silence, loss, cancelled pulls, bindings, permissions. */
#include "nats_world.h"

#include <signal.h>

/* ---- Tests ------------------------------------------------------------------------------------------------------- */

/* Twenty thousand messages arrive once each, in order, are acknowledged, and no credit is left over or overdrawn. */
static void test_nats_consume_delivers_and_acks_every_message(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 10000, 200);
    prepare(w, &w->sub, ACK_NOW, 1024, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 10000, 200);
    await(w, got_distinct, &w->sub, 20000);
    mini_detach(&w->sub);
    mini_stop(&w->host);
    assert_int_equal(w->sub.count, 20000);
    assert_int_equal(w->sub.backwards, 0);
    assert_int_equal(w->sub.foreign, 0);
    assert_int_equal(w->sub.lost, 0);
    await_consumer(w, &cfg, 0, 0);
    printf("pulls %llu for 20000 messages\n", (unsigned long long)nats(w)->consume->pulls_sent);
    end_world(w);
}

/* What is held never exceeds the room, whatever the pulls do; settling makes room and the rest comes. */
static void test_nats_consume_never_holds_more_than_its_room(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 10, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 100, 50);
    for (uint64_t n = 10; n <= 100; n += 10) {
        await(w, got_count, &w->sub, n);
        assert_int_equal(w->sub.held_msgs, 10);
        (void)settle_held(&w->sub);
    }
    assert_int_equal(w->sub.over_msgs, 0);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

/* A room of one message is enough: every pull is for one. */
static void test_nats_consume_works_with_room_for_one(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 1, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 500, 50);
    await(w, got_distinct, &w->sub, 500);
    assert_int_equal(w->sub.count, 500);
    assert_int_equal(w->sub.over_msgs, 0);
    end_world(w);
}

/* The room's bytes are exceeded by one message at most, and one that is larger than all of it passes alone. */
static void test_nats_consume_bounds_bytes_and_lets_a_large_message_pass(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 3, 100);
    publish(w, "a.b", 50, 30000);
    publish(w, "a.b", 2, 400000);
    publish(w, "a.b", 100, 10);
    prepare(w, &w->sub, HOLD, 1000, 100000);
    subscribe(&w->sub, &cfg);
    for (uint64_t n = 0; n < 155; n = settle_held(&w->sub))
        await(w, got_held, &w->sub, 1);
    assert_int_equal(w->sub.distinct, 155);
    assert_in_range(w->sub.over_bytes, 0, 400000);
    assert_int_equal(w->sub.redelivered, 0);
    end_world(w);
}

/* Pulls that expire give their credit back: after many of them the sums are still right. */
static void test_nats_consume_gets_credit_back_from_expired_pulls(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    ev_nats_consume_tune(nats(w), 100 * EV_MS, 40 * EV_MS);
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 1000, 16 << 20);
    subscribe(&w->sub, &cfg);
    for (uint32_t i = 1; i <= 20; i++) {
        publish(w, "a.b", 20, 50);
        await(w, got_count, &w->sub, i * 20);
        await(w, got_returned, &w->sub, i);
    }
    await(w, got_outstanding, &w->sub, 600); /* 1000 - 400 held: all of it is asked for again */
    assert_int_equal(w->sub.count, 400);
    assert_int_equal(w->sub.over_msgs, 0);
    assert_int_equal(nats(w)->consume->missed, 0);
    end_world(w);
}

/* Deleting the consumer while messages flow is reported once, and the binding can be made anew. */
static void test_nats_consume_reports_a_deleted_consumer(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 2000, 100);
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_count, &w->sub, 500);
    assert_int_equal(js_DeleteConsumer(w->js, "S", cfg.name, NULL, NULL), NATS_OK);
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_NOT_FOUND);
    mini_detach(&w->sub);
    subscribe(&w->sub, &cfg);
    await(w, got_distinct, &w->sub, 2000);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

/* A server that dies and comes back: every binding pulls again, everything arrives, nothing stays unsettled. */
static void test_nats_consume_survives_a_killed_server(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 20000, 100);
    prepare(w, &w->sub, ACK_NOW, 512, 16 << 20);
    subscribe(&w->sub, &cfg);
    for (uint64_t n = 1; n <= 3; n++) {
        await(w, got_distinct, &w->sub, n * 3000);
        nats_server_kill(&w->server);
        assert_true(nats_server_restart(&w->server));
        await(w, got_ups, &w->sub, n + 1);
    }
    assert_true(until(&w->host, got_distinct, &(struct want){&w->sub, 20000}, 60000));
    assert_int_equal(w->sub.foreign, 0);
    assert_int_equal(w->sub.lost, 0);
    assert_int_equal(w->sub.hold_count, 0);
    printf("killed 3 times: %llu deliveries of 20000\n", (unsigned long long)w->sub.count);
    close_client(w);
    open_client(w, "");
    publish(w, "a.b", 100, 100);
    await(w, got_distinct, &w->sub, 20100);
    end_world(w);
}

/* A consumer that does not exist any more is not answered for on 2.9: silence is noticed and asked about. Later servers
 * say that there are no responders. */
static void test_nats_consume_asks_after_silence(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    ev_nats_consume_tune(nats(w), 400 * EV_MS, 100 * EV_MS);
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    assert_int_equal(ev_nats_bind(nats(w), (struct evbus_sub *)(void *)&w->sub, &cfg, &w->sub.binding, soon()),
                     EVBUS_OK);
    assert_int_equal(js_DeleteConsumer(w->js, "S", cfg.name, NULL, NULL), NATS_OK);
    mini_attach(&w->sub);
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_NOT_FOUND);
    assert_int_equal(logged(&w->host, nats_server_is_2_10() ? "nobody answers" : "is silent for"), 1);
    end_world(w);
}

/* A pull that ends without a word counts as silence, however soon it ends: one after the other would put off for ever what
 * two missed heartbeats are to show. */
static void test_nats_consume_notices_silence_across_pulls(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    ev_nats_consume_tune(nats(w), 8200 * EV_MS, 5 * EV_SEC); /* given up before 2.5 heartbeats are missed */
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    assert_int_equal(ev_nats_bind(nats(w), (struct evbus_sub *)(void *)&w->sub, &cfg, &w->sub.binding, soon()),
                     EVBUS_OK);
    assert_int_equal(js_DeleteConsumer(w->js, "S", cfg.name, NULL, NULL), NATS_OK);
    mini_attach(&w->sub);
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_NOT_FOUND);
    end_world(w);
}

/* A server that stands still for a while without losing the link: logged once, pulled again, nothing lost. */
static void test_nats_consume_pulls_again_after_missed_heartbeats(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    ev_nats_consume_tune(nats(w), 2 * EV_SEC, 50 * EV_MS);
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 50, 100);
    await(w, got_distinct, &w->sub, 50);
    nats_server_signal(&w->server, SIGSTOP);
    await(w, got_missed, &w->sub, 3);
    nats_server_signal(&w->server, SIGCONT);
    publish(w, "a.b", 1000, 100);
    await(w, got_distinct, &w->sub, 1050);
    assert_int_equal(w->host.downs, 0);
    assert_int_equal(w->sub.foreign, 0);
    assert_int_equal(logged(&w->host, "is silent for"), 1);
    assert_int_equal(logged(&w->host, "answers again"), 1);
    end_world(w);
}

/* The server forgets our pulls, and no heartbeat tells: as far as we know they are open for an hour. */
static void lose_pulls(void *arg)
{
    struct mini_sub *sub = arg;
    struct ev_nats *st = sub->host->state;
    struct ev_nats_binding *b = sub->binding;

    assert_true(b->pull_count > 0);
    ev_nats_pull_cut(st, &st->consume->buckets[b->bucket]);
    b->heartbeat = 3600 * EV_SEC;
    for (uint32_t i = 0; i < b->pull_count; i++)
        b->pulls[i].until = st->now + 3600 * EV_SEC;
    b->out_msgs = sub->capacity.msgs;
}

static void arm_anew(void *arg)
{
    struct mini_sub *sub = arg;

    sub->host->ops->rearm(sub->host->state, sub->binding);
}

/* What nobody else notices: the consumer waits for pulls that it does not have. Armed anew, it gets everything, once. */
static void test_nats_consume_arms_its_pull_anew(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 50, 100);
    await(w, got_distinct, &w->sub, 50);
    on_loop(&w->host, lose_pulls, &w->sub);
    assert_int_equal(ev_nats_fence(nats(w), soon()), EVBUS_OK); /* the server has dropped them */
    publish(w, "a.b", 500, 100);
    assert_int_equal(ev_nats_fence(nats(w), soon()), EVBUS_OK);
    assert_int_equal(w->sub.distinct, 50);
    on_loop(&w->host, arm_anew, &w->sub);
    await(w, got_distinct, &w->sub, 550);
    assert_int_equal(w->sub.redelivered, 0);
    assert_int_equal(w->sub.foreign, 0);
    on_loop(&w->host, arm_anew, &w->sub); /* of one that is well */
    publish(w, "a.b", 100, 100);
    await(w, got_distinct, &w->sub, 650);
    assert_int_equal(w->host.downs, 0);
    end_world(w);
}

/* The status of a pull whose leader stepped down, as the server of a cluster sends it. */
static void lead_no_more(struct world *w)
{
    struct ev_nats_binding *b = w->sub.binding;
    const struct ev_nats_inbox *inbox = nats(w)->consume->buckets[b->bucket].inbox;
    char subject[EV_NAME_MAX];
    natsMsg *msg = NULL;

    assert_true(b->pull_count > 0);
    snprintf(subject, sizeof subject, "%.*s%u.%llu", (int)strlen(inbox->core.subject) - 1, inbox->core.subject,
             b->index, (unsigned long long)b->pulls[0].number);
    assert_int_equal(natsMsg_Create(&msg, subject, NULL, NULL, 0), NATS_OK);
    assert_int_equal(natsMsgHeader_Set(msg, "Status", "409"), NATS_OK);
    assert_int_equal(natsMsgHeader_Set(msg, "Description", "Leadership Change"), NATS_OK);
    assert_int_equal(natsConnection_PublishMsg(w->nc, msg), NATS_OK);
    natsMsg_Destroy(msg);
}

static bool heard_of_leader(void *arg)
{
    return logged(arg, "pulling from the next leader") > 0;
}

static void test_nats_consume_follows_the_leader(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 50, 100);
    await(w, got_distinct, &w->sub, 50);
    assert_int_equal(ev_nats_fence(nats(w), soon()), EVBUS_OK); /* what it pulls now is quiet */
    lead_no_more(w);
    assert_true(until(&w->host, heard_of_leader, &w->host, WAIT));
    publish(w, "a.b", 50, 100);
    await(w, got_distinct, &w->sub, 100);
    assert_int_equal(logged(&w->host, "pulling from the next leader"), 1);
    assert_int_equal(w->sub.lost, 0);
    end_world(w);
}

/* Without acks there is nothing to settle: everything arrives once and settling is always done. */
static void test_nats_consume_without_acks(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    cfg.ack_explicit = false;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 5000, 100);
    prepare(w, &w->sub, ACK_NOW, 1024, 16 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_distinct, &w->sub, 5000);
    assert_int_equal(w->sub.count, 5000);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

/* A pattern gets what it matches, with the topic of each message; another consumer gets its own part. */
static void test_nats_consume_filters_by_pattern(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg many = consumer("S", "g", "a.*.c"), one = consumer("S", "g", "a.x.d");

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 16 << 20);
    prepare(w, &w->sub2, ACK_NOW, 100, 16 << 20);
    subscribe(&w->sub, &many);
    subscribe(&w->sub2, &one);
    publish(w, "a.x.c", 100, 10);
    publish(w, "a.x.d", 50, 10);
    publish(w, "a.y.c", 100, 10);
    publish(w, "a.y", 100, 10);
    await(w, got_distinct, &w->sub, 200);
    await(w, got_distinct, &w->sub2, 50);
    assert_string_equal(w->sub.topic, "a.y.c");
    assert_string_equal(w->sub2.topic, "a.x.d");
    assert_int_equal(w->sub.count, 200);
    assert_int_equal(w->sub2.count, 50);
    end_world(w);
}

/* After detach the pulls are gone at the server: what is handed back and what is published then go to another member
 * at once, and a neighbour in the same inbox goes on. */
static void test_nats_consume_detach_cancels_its_pulls(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    natsSubscription *member = NULL;
    natsMsgList list = {0};

    (void)state;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 1000, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 100, 100);
    await(w, got_held, &w->sub, 100);
    mini_detach(&w->sub);
    publish(w, "a.b", 50, 100);
    jsSubOptions so;
    jsSubOptions_Init(&so);
    so.Stream = "S";
    so.Consumer = cfg.name;
    assert_int_equal(js_PullSubscribe(&member, w->js, "a.b", cfg.name, NULL, &so, NULL), NATS_OK);
    uint64_t seen = 0, most = 0;
    const int64_t end = soon();
    while (seen < 150 && ev_clock_now(NULL) < end) {
        const natsStatus e = natsSubscription_Fetch(&list, member, 50, 1000, NULL);
        assert_true(e == NATS_OK || e == NATS_TIMEOUT); /* 2.9 may let a pull expire beside messages handed back */
        for (int i = 0; i < list.Count; i++, seen++) {
            jsMsgMetaData *meta = NULL;
            assert_int_equal(natsMsg_GetMetaData(&meta, list.Msgs[i]), NATS_OK);
            most = meta->NumDelivered > most ? meta->NumDelivered : most;
            jsMsgMetaData_Destroy(meta);
            assert_int_equal(natsMsg_Ack(list.Msgs[i], NULL), NATS_OK);
        }
        natsMsgList_Destroy(&list);
    }
    natsSubscription_Destroy(member);
    assert_int_equal(seen, 150);
    assert_int_equal(most, 2);
    assert_int_equal(nats(w)->consume->strays, 0);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

/* Fetches and acknowledges `count` messages as another member of the group would. */
static void take_as_member(struct world *w, const struct ev_consumer_cfg *cfg, int count)
{
    natsSubscription *member = NULL;
    natsMsgList list = {0};
    jsSubOptions so;

    jsSubOptions_Init(&so);
    so.Stream = cfg->stream;
    so.Consumer = cfg->name;
    assert_int_equal(js_PullSubscribe(&member, w->js, cfg->filter, cfg->name, NULL, &so, NULL), NATS_OK);
    assert_int_equal(natsSubscription_Fetch(&list, member, count, 5000, NULL), NATS_OK);
    assert_int_equal(list.Count, count);
    for (int i = 0; i < list.Count; i++)
        assert_int_equal(natsMsg_Ack(list.Msgs[i], NULL), NATS_OK);
    natsMsgList_Destroy(&list);
    natsSubscription_Destroy(member);
}

/* Messages that went to another member are counted exactly; redeliveries to us and reconnects are not taken for one. */
static void test_nats_consume_counts_what_others_take(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    cfg.ack_wait_ns = 200 * EV_MS;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 10, 16 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 10, 50);
    await(w, got_held, &w->sub, 10);
    (void)settle_held(&w->sub);
    publish(w, "a.b", 10, 50); /* held, and delivered again after each ack wait as far as there is room: none */
    await(w, got_held, &w->sub, 10);
    assert_int_equal(w->sub.foreign, 0);
    publish(w, "a.b", 7, 50);
    take_as_member(w, &cfg, 7); /* takes some of those whose ack wait is over, or new ones: seven deliveries */
    (void)settle_held(&w->sub);
    publish(w, "a.b", 1, 50);
    await(w, got_foreign, &w->sub, 7);
    assert_int_equal(w->sub.foreign, 7);
    end_world(w);
}

static void no_room(void *arg)
{
    ((struct mini_sub *)arg)->capacity = (struct ev_room){0, 0};
}

static void some_room(void *arg)
{
    ((struct mini_sub *)arg)->capacity = (struct ev_room){10, 1 << 20};
}

static void take_from_now_on(void *arg)
{
    ((struct mini_sub *)arg)->policy = ACK_NOW;
}

/* An idle member learns from the heartbeats that another one takes everything. */
static void test_nats_consume_sees_others_while_idle(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    ev_nats_consume_tune(nats(w), 300 * EV_MS, 50 * EV_MS);
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 10, 1 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 1, 50);
    await(w, got_count, &w->sub, 1);
    on_loop(&w->host, no_room, &w->sub);
    await(w, got_outstanding, &w->sub, 0);
    publish(w, "a.b", 5, 50);
    take_as_member(w, &cfg, 5);
    on_loop(&w->host, some_room, &w->sub);
    await(w, got_foreign, &w->sub, 5);
    assert_int_equal(w->sub.foreign, 5);
    end_world(w);
}

static void replace_job(void *arg)
{
    struct mini_sub *sub = arg;
    const struct ev_backend_ops *ops = sub->host->ops;

    ops->replace(sub->host->state, sub->hold[0].token, sub->hold[1].token);
    assert_true(ops->settle(sub->host->state, sub->binding, sub->hold[0].token, EV_SETTLE_ACK, 0));
    ops->release(sub->host->state, sub->hold[0].token);
    sub->hold_count = 0;
}

/* A message delivered again lends its address to the one that is here: one ack settles both. */
static void test_nats_consume_replaces_an_address(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    cfg.ack_wait_ns = 100 * EV_MS;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 2, 1 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 1, 50);
    await(w, got_held, &w->sub, 2);
    assert_int_equal(w->sub.hold[0].seq, w->sub.hold[1].seq);
    assert_int_equal(w->sub.deliveries_max, 2);
    on_loop(&w->host, replace_job, &w->sub);
    assert_int_equal(nats(w)->consume->tokens_live, 0);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

struct verbs {
    struct mini_sub *sub;
    enum ev_settle verb;
    int64_t delay;
};

static void settle_verb_job(void *arg)
{
    struct verbs *v = arg;
    struct mini_sub *sub = v->sub;

    for (uint32_t i = 0; i < sub->hold_count; i++) {
        assert_true(sub->host->ops->settle(sub->host->state, sub->binding, sub->hold[i].token, v->verb, v->delay));
        if (v->verb != EV_SETTLE_EXTEND) {
            sub->host->ops->release(sub->host->state, sub->hold[i].token);
            sub->held_msgs--;
        }
    }
    if (v->verb != EV_SETTLE_EXTEND)
        sub->hold_count = 0;
}

/* Every verdict reaches the server: delayed hand-back, extension, termination. */
static void test_nats_consume_tells_every_verdict(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    struct verbs v = {&w->sub, EV_SETTLE_NAK, 300 * EV_MS};

    (void)state;
    cfg.ack_wait_ns = EV_SEC;
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, HOLD, 100, 1 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 1, 50);
    await(w, got_held, &w->sub, 1);
    const int64_t before = ev_clock_now(NULL);
    on_loop(&w->host, settle_verb_job, &v);
    await(w, got_held, &w->sub, 1);
    assert_in_range(ev_clock_now(NULL) - before, 290 * EV_MS, 900 * EV_MS);
    v.verb = EV_SETTLE_EXTEND;
    for (int i = 0; i < 6; i++) { /* longer than the ack wait */
        on_loop(&w->host, settle_verb_job, &v);
        assert_false(until(&w->host, got_count, &(struct want){&w->sub, 3}, 300));
    }
    assert_int_equal(w->sub.count, 2);
    v.verb = EV_SETTLE_TERM;
    on_loop(&w->host, settle_verb_job, &v);
    await_consumer(w, &cfg, 0, 0);
    assert_int_equal(w->sub.count, 2);
    end_world(w);
}

static void headers_job(void *arg)
{
    struct mini_sub *sub = arg;
    const struct ev_backend_ops *ops = sub->host->ops;
    void *state = sub->host->state, *token = sub->hold[0].token;
    char text[256] = "", cut[8] = "xxxxxxx";

    const size_t len = ops->headers(state, token, NULL, 0);
    assert_int_equal(ops->headers(state, token, text, sizeof text), len);
    assert_int_equal(strlen(text), len);
    assert_non_null(strstr(text, "Evbus-Key: k\r\n"));
    assert_non_null(strstr(text, "X: 1\r\nX: 2\r\n"));
    assert_int_equal(ops->headers(state, token, cut, 5), len);
    assert_string_equal(cut + 5, "xx");
    assert_string_equal(ops->header(state, token, "Evbus-Key"), "k");
    assert_string_equal(ops->header(state, token, "X"), "1");
    assert_null(ops->header(state, token, "Y"));
}

/* Headers: the first value by name, and all of them as a block. */
static void test_nats_consume_shows_headers(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    natsMsg *msg = NULL;

    (void)state;
    make_stream(w, "S", "a.>");
    assert_int_equal(natsMsg_Create(&msg, "a.b", NULL, "body", 4), NATS_OK);
    assert_int_equal(natsMsgHeader_Set(msg, "Evbus-Key", "k"), NATS_OK);
    assert_int_equal(natsMsgHeader_Add(msg, "X", "1"), NATS_OK);
    assert_int_equal(natsMsgHeader_Add(msg, "X", "2"), NATS_OK);
    assert_int_equal(js_PublishMsg(NULL, w->js, msg, NULL, NULL), NATS_OK);
    natsMsg_Destroy(msg);
    prepare(w, &w->sub, HOLD, 100, 1 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_held, &w->sub, 1);
    on_loop(&w->host, headers_job, &w->sub);
    end_world(w);
}

/* What the core has no memory for goes back and comes again. */
static void test_nats_consume_hands_back_what_is_refused(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 20, 50);
    prepare(w, &w->sub, REFUSE, 100, 1 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_refused, &w->sub, 20);
    on_loop(&w->host, take_from_now_on, &w->sub);
    await(w, got_distinct, &w->sub, 20);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_consume_delivers_and_acks_every_message),
        LEFT_CASE(test_nats_consume_never_holds_more_than_its_room),
        LEFT_CASE(test_nats_consume_works_with_room_for_one),
        LEFT_CASE(test_nats_consume_bounds_bytes_and_lets_a_large_message_pass),
        LEFT_CASE(test_nats_consume_gets_credit_back_from_expired_pulls),
        LEFT_CASE(test_nats_consume_reports_a_deleted_consumer),
        LEFT_CASE(test_nats_consume_survives_a_killed_server),
        LEFT_CASE(test_nats_consume_asks_after_silence),
        LEFT_CASE(test_nats_consume_notices_silence_across_pulls),
        LEFT_CASE(test_nats_consume_pulls_again_after_missed_heartbeats),
        LEFT_CASE(test_nats_consume_arms_its_pull_anew),
        LEFT_CASE(test_nats_consume_follows_the_leader),
        LEFT_CASE(test_nats_consume_without_acks),
        LEFT_CASE(test_nats_consume_filters_by_pattern),
        LEFT_CASE(test_nats_consume_detach_cancels_its_pulls),
        LEFT_CASE(test_nats_consume_counts_what_others_take),
        LEFT_CASE(test_nats_consume_sees_others_while_idle),
        LEFT_CASE(test_nats_consume_replaces_an_address),
        LEFT_CASE(test_nats_consume_tells_every_verdict),
        LEFT_CASE(test_nats_consume_shows_headers),
        LEFT_CASE(test_nats_consume_hands_back_what_is_refused),
    };

    return world_run("test_nats_consume", tests, sizeof tests / sizeof tests[0], argc, argv);
}
