/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, consumers and plain subscriptions as they are made, compared, refused and left, on a real nats-server. */
#include "nats_world.h"

#define ACCOUNTS                                                                                                       \
    JETSTREAM                                                                                                          \
    "accounts {\n"                                                                                                     \
    "  A {jetstream: enabled, users: [{user: a, password: a},\n"                                                       \
    "     {user: nocreate, password: p, permissions: {publish: {deny: [\"$JS.API.CONSUMER.DURABLE.>\"]}}},\n"          \
    "     {user: nopull, password: p, permissions: {publish: {deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"]}}},\n"           \
    "     {user: nosub, password: p, permissions: {subscribe: {deny: [\"secret.>\"]}}},\n"                             \
    "     {user: nostream, password: p, permissions: {publish: {deny: [\"$JS.API.STREAM.>\"]}}}]}\n"                   \
    "  B {users: [{user: b, password: b}]}\n"                                                                          \
    "  L {jetstream: {max_streams: 1, max_consumers: 1}, users: [{user: l, password: l}]}\n"                           \
    "}\n"

static evbus_status bind(struct world *w, struct mini_sub *sub, const struct ev_consumer_cfg *cfg)
{
    sub->host = &w->host;
    return ev_nats_bind(nats(w), (struct evbus_sub *)(void *)sub, cfg, &sub->binding, soon());
}

static void says(const char *text)
{
    if (!strstr(ev_detail(), text))
        fail_msg("'%s' does not say '%s'", ev_detail(), text);
}

static evbus_status create(struct world *w, const char *name, const char *subject, uint32_t replicas)
{
    struct ev_stream_cfg cfg = {.subjects = &subject, .subject_count = 1, .replicas = replicas};

    snprintf(cfg.name, sizeof cfg.name, "%s", name);
    return ev_nats_stream_create(nats(w), &cfg, soon());
}

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

/* The stream that covers a topic whole is found; parts do not count, and nothing is found only by the server's word. */
static void test_nats_stream_covering_finds_whole_coverage(void **state)
{
    struct world *w = begin_open();
    struct ev_stream_info info;

    (void)state;
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.b", &info, soon()), EVBUS_NOT_FOUND);
    says("no stream covers 'a.b'");
    make_stream(w, "S1", "a.b");
    make_stream(w, "S2", "a.c.>");
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.b", &info, soon()), EVBUS_OK);
    assert_string_equal(info.name, "S1");
    assert_true(info.covers);
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.c.*", &info, soon()), EVBUS_OK);
    assert_string_equal(info.name, "S2");
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.>", &info, soon()), EVBUS_NOT_FOUND);
    says("covers a part of it");
    assert_int_equal(ev_nats_stream_info(nats(w), "S2", "a.c.d", &info, soon()), EVBUS_OK);
    assert_true(info.covers);
    assert_int_equal(ev_nats_stream_info(nats(w), "S2", "a.b", &info, soon()), EVBUS_OK);
    assert_false(info.covers);
    assert_int_equal(ev_nats_stream_info(nats(w), "none", "a.b", &info, soon()), EVBUS_NOT_FOUND);
    end_world(w);
}

/* A pattern that shares messages with many streams is followed over all pages. */
static void test_nats_stream_covering_looks_at_all_pages(void **state)
{
    struct world *w = begin_open();
    struct ev_stream_info info;
    char name[16], subject[16];

    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "S%02d", i);
        snprintf(subject, sizeof subject, "p.%d.x", i);
        make_stream(w, name, subject);
    }
    assert_int_equal(ev_nats_stream_covering(nats(w), "p.*.x", &info, soon()), EVBUS_NOT_FOUND);
    says("S39");
    end_world(w);
}

/* Creating: twice the same is fine, another configuration or an overlap is told apart from refusals. */
static void test_nats_stream_create_says_why_not(void **state)
{
    struct world *w = begin_open();

    (void)state;
    assert_int_equal(create(w, "S1", "a.>", 1), EVBUS_OK);
    assert_int_equal(create(w, "S1", "a.>", 1), EVBUS_OK);
    assert_int_equal(create(w, "S1", "b", 1), EVBUS_EXISTS);
    assert_int_equal(create(w, "S2", "a.b", 1), EVBUS_EXISTS);
    says("overlap");
    assert_int_equal(create(w, "S3", "c", 3), EVBUS_REFUSED);
    says("stream 'S3': replicas > 1 not supported");
    end_world(w);
}

struct adder {
    struct world *w;
    int from;
    evbus_status worst;
};

static void *add_subjects(void *arg)
{
    struct adder *adder = arg;
    char subject[16];

    for (int i = adder->from; i < adder->from + 10; i++) {
        snprintf(subject, sizeof subject, "s.%d", i);
        const evbus_status st = ev_nats_stream_add(nats(adder->w), "S", subject, soon());
        if (st != EVBUS_OK)
            adder->worst = st;
    }
    return NULL;
}

/* Subjects added by several at a time, who overwrite each other's updates, are all there in the end. */
static void test_nats_stream_add_by_several(void **state)
{
    struct world *w = begin_open();
    struct adder adders[3] = {{w, 0, EVBUS_OK}, {w, 10, EVBUS_OK}, {w, 20, EVBUS_OK}};
    struct ev_stream_info info;
    pthread_t threads[3];
    char subject[16];

    (void)state;
    make_stream(w, "S", "s.first");
    for (int i = 0; i < 3; i++)
        assert_int_equal(ev_thread_start(&threads[i], "adder", add_subjects, &adders[i]), EVBUS_OK);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(adders[i].worst, EVBUS_OK);
    }
    int there = 0;
    for (int i = 0; i < 30; i++) {
        snprintf(subject, sizeof subject, "s.%d", i);
        assert_int_equal(ev_nats_stream_info(nats(w), "S", subject, &info, soon()), EVBUS_OK);
        there += info.covers;
    }
    assert_int_equal(there, 30);
    assert_int_equal(ev_nats_stream_add(nats(w), "S", "s.1", soon()), EVBUS_EXISTS);
    assert_int_equal(ev_nats_stream_add(nats(w), "none", "s.1", soon()), EVBUS_NOT_FOUND);
    end_world(w);
}

/* ---- Binding ----------------------------------------------------------------------------------------------------- */

/* An existing durable is used when it fits, updated where the server allows it, and left alone otherwise. */
static void test_nats_bind_compares_an_existing_durable(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b"), other;

    (void)state;
    make_stream(w, "S", "a.>");
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_OK);
    ev_nats_unbind(nats(w), w->sub.binding);
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_OK);
    ev_nats_unbind(nats(w), w->sub.binding);
    w->sub.binding = NULL;
    other = cfg;
    other.filter = "a.c";
    assert_int_equal(bind(w, &w->sub, &other), EVBUS_MISMATCH);
    says("filter 'a.b', needed is 'a.c'");
    other = cfg;
    other.ack_explicit = false;
    assert_int_equal(bind(w, &w->sub, &other), EVBUS_MISMATCH);
    other = cfg;
    other.deliver_new = true; /* where it began is past */
    assert_int_equal(bind(w, &w->sub, &other), EVBUS_OK);
    ev_nats_unbind(nats(w), w->sub.binding);
    w->sub.binding = NULL;
    assert_int_equal(logged(&w->host, "ack wait"), 0);
    cfg.ack_wait_ns = 7 * EV_SEC;
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_OK);
    assert_int_equal(logged(&w->host, "ack wait 30000 -> 7000 ms"), 1);
    jsConsumerInfo *info = NULL;
    assert_int_equal(js_GetConsumerInfo(&info, w->js, "S", cfg.name, NULL, NULL), NATS_OK);
    assert_true(info->Config->AckWait == 7 * EV_SEC);
    assert_string_equal(info->Config->FilterSubject, "a.b");
    jsConsumerInfo_Destroy(info);
    end_world(w);
}

static void test_nats_bind_without_a_stream(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = consumer("none", "g", "a.b");

    (void)state;
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_NOT_FOUND);
    says("stream not found");
    make_stream(w, "S", "a.>");
    cfg = consumer("S", "g", "b.c");
    if (!nats_server_is_2_10()) { /* later ones take a filter that nothing passes yet */
        assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_REFUSED);
        says("filter subject is not a valid subset");
    }
    end_world(w);
}

/* An ephemeral consumer gets what is published from now on, and is gone with its subscription. */
static void test_nats_bind_ephemeral(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = {.stream = "S",
                                  .filter = "a.*",
                                  .deliver_new = true,
                                  .ack_explicit = true,
                                  .ack_wait_ns = 30 * EV_SEC,
                                  .ack_pending_max = 100};
    jsConsumerInfo *info = NULL;

    (void)state;
    cfg.id = ev_ephemeral_name(cfg.name, "a.*", 0x1234567890abcdef);
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 10, 50);
    prepare(w, &w->sub, ACK_NOW, 100, 1 << 20);
    subscribe(&w->sub, &cfg);
    publish(w, "a.b", 10, 50);
    await(w, got_count, &w->sub, 10);
    assert_int_equal(js_GetConsumerInfo(&info, w->js, "S", cfg.name, NULL, NULL), NATS_OK);
    assert_true(info->Config->Durable == NULL);
    jsConsumerInfo_Destroy(info);
    mini_detach(&w->sub);
    const int64_t end = soon();
    natsStatus e = NATS_OK;
    while (e != NATS_NOT_FOUND && ev_clock_now(NULL) < end) {
        e = js_GetConsumerInfo(&info, w->js, "S", cfg.name, NULL, NULL);
        if (e == NATS_OK)
            jsConsumerInfo_Destroy(info);
    }
    assert_int_equal(e, NATS_NOT_FOUND);
    assert_int_equal(w->sub.count, 10);
    end_world(w);
}

/* An ephemeral consumer that did not outlive the link is reported, not waited for. */
static void test_nats_bind_ephemeral_lost_with_the_link(void **state)
{
    struct world *w = begin_open();
    struct ev_consumer_cfg cfg = {.stream = "S",
                                  .filter = "a.*",
                                  .deliver_new = true,
                                  .ack_explicit = true,
                                  .ack_wait_ns = 30 * EV_SEC,
                                  .ack_pending_max = 100};

    (void)state;
    cfg.id = ev_ephemeral_name(cfg.name, "a.*", 0x1234567890abcdef);
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 100, 1 << 20);
    subscribe(&w->sub, &cfg);
    nats_server_kill(&w->server);
    char command[512];
    snprintf(command, sizeof command, "find '%s' -depth -path '*obs/%s*' -delete", w->server.dir, cfg.name);
    assert_int_equal(system(command), 0);
    assert_true(nats_server_restart(&w->server));
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_NOT_FOUND);
    end_world(w);
}

struct late_bind {
    struct world *w;
    const struct ev_consumer_cfg *cfg;
    evbus_status st;
    char detail[256];
};

static void *bind_thread(void *arg)
{
    struct late_bind *b = arg;

    b->st = bind(b->w, &b->w->sub, b->cfg);
    snprintf(b->detail, sizeof b->detail, "%s", b->st == EVBUS_OK ? "" : ev_detail());
    return NULL;
}

static bool mini_is_down(void *arg)
{
    return !((struct mini_host *)arg)->up;
}

/* A request that meets a dead link waits for the next one, up to its deadline. */
static void test_nats_bind_waits_for_the_link(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    struct late_bind late = {.w = w, .cfg = &cfg};
    pthread_t thread;

    (void)state;
    make_stream(w, "S", "a.>");
    nats_server_kill(&w->server);
    assert_true(until(&w->host, mini_is_down, &w->host, WAIT));
    assert_int_equal(ev_thread_start(&thread, "bind", bind_thread, &late), EVBUS_OK);
    assert_true(nats_server_restart(&w->server));
    pthread_join(thread, NULL);
    if (late.st != EVBUS_OK)
        fail_msg("%s", late.detail);
    nats_server_kill(&w->server);
    assert_true(until(&w->host, mini_is_down, &w->host, WAIT));
    struct ev_stream_info info;
    const int64_t before = ev_clock_now(NULL);
    assert_int_equal(ev_nats_stream_info(nats(w), "S", "a", &info, before + 300 * EV_MS), EVBUS_DISCONNECTED);
    assert_in_range(ev_clock_now(NULL) - before, 100 * EV_MS, 5 * EV_SEC);
    end_world(w);
}

/* ---- What accounts and permissions forbid ------------------------------------------------------------------------ */

/* Without JetStream everything says so, at once, and says what to do. */
static void test_nats_account_without_jetstream(void **state)
{
    struct world *w = begin(ACCOUNTS);
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    struct ev_stream_info info;

    (void)state;
    open_bus(w, "b:b@");
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.b", &info, soon()), EVBUS_NO_JETSTREAM);
    says("enable it for the account, or use evbus_publish on an EPHEMERAL topic");
    assert_int_equal(create(w, "S", "a.b", 1), EVBUS_NO_JETSTREAM);
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_NO_JETSTREAM);
    end_world(w);
}

static void test_nats_server_without_jetstream(void **state)
{
    struct world *w = begin("");
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    struct ev_stream_info info;

    (void)state;
    open_bus(w, "");
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.b", &info, soon()), EVBUS_NO_JETSTREAM);
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_NO_JETSTREAM);
    end_world(w);
}

/* Missing permissions are told by the server beside the request: no waiting for a time-out. */
static void test_nats_permissions_are_told_apart(void **state)
{
    struct world *w = begin(ACCOUNTS);
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    open_bus(w, "nocreate:p@");
    make_stream(w, "S", "a.>");
    const int64_t before = ev_clock_now(NULL);
    assert_int_equal(bind(w, &w->sub, &cfg), EVBUS_DENIED);
    assert_true(ev_clock_now(NULL) - before < 3 * EV_SEC);
    says("CONSUMER.DURABLE.CREATE");
    end_world(w);
}

static void test_nats_stream_permission(void **state)
{
    struct world *w = begin(ACCOUNTS);
    struct ev_stream_info info;

    (void)state;
    open_bus(w, "nostream:p@");
    assert_int_equal(ev_nats_stream_covering(nats(w), "a.b", &info, soon()), EVBUS_DENIED);
    assert_int_equal(create(w, "S", "a.b", 1), EVBUS_DENIED);
    end_world(w);
}

/* Pulling forbidden: the subscription is told, with the server's words. */
static void test_nats_pull_permission(void **state)
{
    struct world *w = begin(ACCOUNTS);
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");

    (void)state;
    open_bus(w, "nopull:p@");
    make_stream(w, "S", "a.>");
    prepare(w, &w->sub, ACK_NOW, 10, 1 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_DENIED);
    assert_non_null(strstr(w->sub.lost_text, "MSG.NEXT"));
    end_world(w);
}

static void test_nats_account_limits(void **state)
{
    struct world *w = begin(ACCOUNTS);
    const struct ev_consumer_cfg one = consumer("S", "g", "a.b"), two = consumer("S", "h", "a.b");

    (void)state;
    open_bus(w, "l:l@");
    make_stream(w, "S", "a.>");
    assert_int_equal(create(w, "S2", "b", 1), EVBUS_LIMIT);
    assert_int_equal(bind(w, &w->sub, &one), EVBUS_OK);
    assert_int_equal(bind(w, &w->sub2, &two), EVBUS_LIMIT);
    says("raise the account's or the server's limits");
    end_world(w);
}

/* ---- Plain messages ---------------------------------------------------------------------------------------------- */

static void bind_plain(struct world *w, struct mini_sub *sub, const char *subject, const char *queue)
{
    prepare(w, sub, ACK_NOW, 100, 1 << 20);
    assert_int_equal(ev_nats_bind_core(nats(w), (struct evbus_sub *)(void *)sub, subject, queue, &sub->binding),
                     EVBUS_OK);
    mini_attach(sub);
}

static bool got_both(void *arg)
{
    const struct world *w = arg;

    return w->sub.count + w->sub2.count >= 100;
}

static void do_nothing(void *arg)
{
    (void)arg;
}

/* Plain subscriptions share a queue, need no stream, and are there again after a reconnect. */
static void test_nats_core_subscriptions_outlive_the_link(void **state)
{
    struct world *w = begin_open();

    (void)state;
    bind_plain(w, &w->sub, "plain.*", "q");
    bind_plain(w, &w->sub2, "plain.x", "q");
    on_loop(&w->host, do_nothing, NULL);
    struct ev_stream_info info; /* a round trip: the subscriptions are known to the server after it */
    assert_int_equal(ev_nats_stream_info(nats(w), "none", "x", &info, soon()), EVBUS_NOT_FOUND);
    for (int i = 0; i < 100; i++)
        assert_int_equal(natsConnection_Publish(w->nc, "plain.x", "abc", 3), NATS_OK);
    assert_true(until(&w->host, got_both, w, WAIT));
    assert_int_equal(w->sub.count + w->sub2.count, 100);
    assert_string_equal(w->sub.topic, "plain.x");
    mini_detach(&w->sub2);
    nats_server_kill(&w->server);
    assert_true(nats_server_restart(&w->server));
    await(w, got_ups, &w->sub, 2);
    close_client(w);
    open_client(w, "");
    assert_int_equal(ev_nats_stream_info(nats(w), "none", "x", &info, soon()), EVBUS_NOT_FOUND);
    const uint64_t before = w->sub.count;
    assert_int_equal(natsConnection_Publish(w->nc, "plain.y", "abc", 3), NATS_OK);
    await(w, got_count, &w->sub, before + 1);
    assert_int_equal(w->sub.count, before + 1);
    end_world(w);
}

static void test_nats_core_subscription_denied(void **state)
{
    struct world *w = begin(ACCOUNTS);

    (void)state;
    open_bus(w, "nosub:p@");
    bind_plain(w, &w->sub, "secret.x", NULL);
    await(w, got_lost, &w->sub, 1);
    assert_int_equal(w->sub.lost_cause, EVBUS_DENIED);
    end_world(w);
}

/* ---- Many, and the end ------------------------------------------------------------------------------------------- */

#define MANY 300
#define SHARED 4

static bool got_all_of_many(void *arg)
{
    const struct mini_sub *subs = arg;

    for (int i = 0; i < MANY; i++)
        if (subs[i].distinct < 1)
            return false;
    return true;
}

/* Hundreds of bindings share sixteen inboxes; each gets its own messages, also after a reconnect and after neighbours
 * left. */
static void test_nats_many_bindings(void **state)
{
    struct world *w = begin_open();
    struct mini_sub *subs = calloc(MANY, sizeof *subs);
    char subject[32];

    (void)state;
    nats(w)->consume->bucket_count = 16;
    make_stream(w, "S", "m.>");
    for (int i = 0; i < MANY; i++) {
        snprintf(subject, sizeof subject, "m.%d", i);
        const struct ev_consumer_cfg cfg = consumer("S", "g", subject);
        prepare(w, &subs[i], ACK_NOW, 100, 1 << 20);
        subscribe(&subs[i], &cfg);
        publish(w, subject, 1, 20);
    }
    assert_true(until(&w->host, got_all_of_many, subs, WAIT));
    nats_server_kill(&w->server);
    assert_true(nats_server_restart(&w->server));
    await(w, got_ups, &subs[0], 2);
    close_client(w);
    open_client(w, "");
    for (int i = 0; i < MANY; i += 2)
        mini_detach(&subs[i]);
    for (int i = 1; i < MANY; i += 2) {
        snprintf(subject, sizeof subject, "m.%d", i);
        publish(w, subject, 1, 20);
        await(w, got_distinct, &subs[i], 2);
        assert_int_equal(subs[i].foreign, 0);
    }
    for (int i = 1; i < MANY; i += 2)
        mini_detach(&subs[i]);
    assert_int_equal(nats(w)->consume->bindings_count, 0);
    assert_int_equal(nats(w)->consume->heap_count, 0);
    free(subs);
    end_world(w);
}

/* A neighbour that leaves cuts the inbox both share in the middle of a flood: nothing is taken for foreign or missing. */
static void test_nats_neighbour_leaves_in_a_flood(void **state)
{
    struct world *w = begin_open();
    struct mini_sub *subs = calloc(SHARED, sizeof *subs);
    struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    char subject[32];

    (void)state;
    nats(w)->consume->bucket_count = SHARED;
    cfg.ack_wait_ns = 2 * EV_SEC; /* what the server has counted and not sent yet when it is cut waits for that */
    make_stream(w, "S", "a.>");
    for (uint32_t i = 0; i < SHARED; i++) {
        snprintf(subject, sizeof subject, "a.%u", i);
        const struct ev_consumer_cfg other = consumer("S", "g", subject);
        prepare(w, &subs[i], ACK_NOW, 10, 1 << 20);
        subscribe(&subs[i], &other);
    }
    publish(w, "a.b", 20000, 100);
    prepare(w, &w->sub, ACK_NOW, 500, 16 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_distinct, &w->sub, 3000);
    mini_detach(&subs[0]);
    await(w, got_distinct, &w->sub, 20000);
    assert_true(nats(w)->consume->cuts > 0);
    assert_int_equal(w->sub.foreign, 0);
    printf("flood: %llu redelivered, %llu backwards\n", (unsigned long long)w->sub.redelivered,
           (unsigned long long)w->sub.backwards);
    assert_in_range(w->sub.backwards, 0, w->sub.redelivered);
    for (uint32_t i = 1; i < SHARED; i++)
        mini_detach(&subs[i]);
    free(subs);
    end_world(w);
}

/* A bus that ends in the middle of a flood hands everything back: another process has it at once, without ack wait. */
static void test_nats_end_hands_back_what_is_under_way(void **state)
{
    struct world *w = begin_open();
    const struct ev_consumer_cfg cfg = consumer("S", "g", "a.b");
    natsSubscription *member = NULL;
    natsMsgList list = {0};
    jsSubOptions so;

    (void)state;
    make_stream(w, "S", "a.>");
    publish(w, "a.b", 4000, 100);
    prepare(w, &w->sub, HOLD, 2000, 16 << 20);
    subscribe(&w->sub, &cfg);
    await(w, got_held, &w->sub, 300);
    mini_detach(&w->sub);
    mini_stop(&w->host);
    jsSubOptions_Init(&so);
    so.Stream = "S";
    so.Consumer = cfg.name;
    assert_int_equal(js_PullSubscribe(&member, w->js, "a.b", cfg.name, NULL, &so, NULL), NATS_OK);
    uint64_t seen = 0;
    for (const int64_t end = soon(); seen < 4000 && ev_clock_now(NULL) < end;) {
        const natsStatus e = natsSubscription_Fetch(&list, member, 1000, 500, NULL);
        assert_true(e == NATS_OK || e == NATS_TIMEOUT);
        for (int i = 0; i < list.Count; i++, seen++)
            assert_int_equal(natsMsg_Ack(list.Msgs[i], NULL), NATS_OK);
        natsMsgList_Destroy(&list);
    }
    natsSubscription_Destroy(member);
    assert_int_equal(seen, 4000);
    await_consumer(w, &cfg, 0, 0);
    end_world(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_stream_covering_finds_whole_coverage),
        LEFT_CASE(test_nats_stream_covering_looks_at_all_pages),
        LEFT_CASE(test_nats_stream_create_says_why_not),
        LEFT_CASE(test_nats_stream_add_by_several),
        LEFT_CASE(test_nats_bind_compares_an_existing_durable),
        LEFT_CASE(test_nats_bind_without_a_stream),
        LEFT_CASE(test_nats_bind_ephemeral),
        LEFT_CASE(test_nats_bind_ephemeral_lost_with_the_link),
        LEFT_CASE(test_nats_bind_waits_for_the_link),
        LEFT_CASE(test_nats_account_without_jetstream),
        LEFT_CASE(test_nats_server_without_jetstream),
        LEFT_CASE(test_nats_permissions_are_told_apart),
        LEFT_CASE(test_nats_stream_permission),
        LEFT_CASE(test_nats_pull_permission),
        LEFT_CASE(test_nats_account_limits),
        LEFT_CASE(test_nats_core_subscriptions_outlive_the_link),
        LEFT_CASE(test_nats_core_subscription_denied),
        LEFT_CASE(test_nats_many_bindings),
        LEFT_CASE(test_nats_neighbour_leaves_in_a_flood),
        LEFT_CASE(test_nats_end_hands_back_what_is_under_way),
    };

    return world_run("test_nats_binding", tests, sizeof tests / sizeof tests[0], argc, argv);
}
