/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NATS session against a real server: each record is answered once and rightly, nothing is lost, doubled or
 * corrupted in silence when the network cuts messages, and what counts as unsent never leaves.
 */
#include "nats_traffic.h"

#include <poll.h>

#include <inttypes.h>

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

/* Nothing here is sent again: a session that a busy machine calls silent would be the end of the case. */
static const evbus_opts patient = {.heartbeat_ms = 60000};

/* Each record is answered once, with or without headers; the stream has exactly what was acknowledged. */
static void test_nats_publishes_and_is_answered(void **state)
{
    struct fixture f;
    struct traffic t;

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = host_new();
    traffic_init(&t, h, 50000, 2048, 400);
    t.ids = true;
    h->on_turn = NULL;
    assert_int_equal(host_open(h, f.url, &patient), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    ask(h, "STREAM.CREATE.T", STREAM_T);
    host_run(h, start_traffic, NULL);
    assert_true(await(h, 60000, h->acks == t.total));
    host_close(h);
    assert_int_equal(t.stored, t.total);
    assert_int_equal(t.unexpected, 0);
    check_stream(&f, &t);
    traffic_fini(&t);
    tear_down(&f);
}

/* A 503 reaches exactly the records without a stream, also among thousands of others under way. */
static void test_nats_tells_which_record_had_no_responders(void **state)
{
    struct fixture f;
    struct traffic t;

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = host_new();
    traffic_init(&t, h, 60000, 1024, 100);
    t.lonely_every = 7;
    h->on_turn = NULL;
    assert_int_equal(host_open(h, f.url, &patient), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    ask(h, "STREAM.CREATE.T", STREAM_T);
    host_run(h, start_traffic, NULL);
    assert_true(await(h, 60000, h->acks == t.total));
    host_close(h);
    assert_int_equal(t.unexpected, 0);
    assert_int_equal(t.refused, (t.total + 6) / 7);
    traffic_fini(&t);
    tear_down(&f);
}

/* A record nobody answers makes it unknowable which of its lane had the 503: then nobody is told anything false, and
 * the rest goes on. */
static void test_nats_never_guesses(void **state)
{
    struct fixture f;
    struct traffic t;
    natsConnection *nc = NULL;
    natsSubscription *sub = NULL;

    (void)state;
    set_up(&f, JETSTREAM);
    assert_int_equal(natsConnection_ConnectTo(&nc, f.url), NATS_OK);
    assert_int_equal(natsConnection_SubscribeSync(&sub, nc, "quiet.a"), NATS_OK); /* takes and never answers */
    assert_int_equal(natsConnection_Flush(nc), NATS_OK);
    struct host *h = host_new();
    traffic_init(&t, h, 30000, 3000, 100);
    t.lonely_every = 500;
    t.quiet_every = 150;
    h->on_turn = NULL;
    assert_int_equal(host_open(h, f.url, &patient), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    ask(h, "STREAM.CREATE.T", STREAM_T);
    host_run(h, start_traffic, NULL);
    assert_true(await(h, 60000, t.stored == t.total - t.lonely - t.quiet));
    natsSubscription_Destroy(sub);
    natsConnection_Destroy(nc);
    host_close(h);
    print_message("%u without a stream: %u told so; %u never answered\n", t.lonely, t.refused, t.quiet);
    assert_int_equal(t.unexpected, 0);
    assert_true(t.refused < t.lonely); /* else the test did not test */
    traffic_fini(&t);
    tear_down(&f);
}

static void send_large(struct host *h, void *arg)
{
    static char big[2 * 1024 * 1024];
    evbus_status status = EVBUS_OK;
    const struct ev_record fits = {.topic = "t.a", .data = big, .len = 1048576};
    const struct ev_record large = {.topic = "t.a", .data = big, .len = 1048577};
    const struct ev_record headers = {.topic = "t.a", .data = big, .len = 1048576 - 20, .msg_id = "a"};

    (void)arg;
    assert_int_equal(h->ops->send(h->st, &large, &status), EV_SEND_REFUSED);
    assert_int_equal(status, EVBUS_TOO_LARGE);
    assert_non_null(strstr(ev_detail(), "1048576"));
    assert_int_equal(h->ops->send(h->st, &headers, &status), EV_SEND_REFUSED);
    while (h->ops->send(h->st, &fits, &status) == EV_SEND_LATER) /* alone in the buffer, or not at all */
        h->ops->wait(h->st, 0);
}

/* What the server would never take is refused before it is sent, and the connection lives on. */
static void test_nats_refuses_too_large_itself(void **state)
{
    struct fixture f;

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = connected(&f, NULL);
    ask(h, "STREAM.CREATE.T", STREAM_T);
    assert_int_equal(h->ops->max_payload(h->st), 1048576);
    host_run(h, send_large, NULL);
    ask(h, "STREAM.INFO.T", NULL);
    assert_int_equal(h->downs, 0);
    host_close(h);
    tear_down(&f);
}

/* ---- Requests ---------------------------------------------------------------------------------------------------- */

struct asker {
    struct host *h;
    uint32_t ok;
};

static void *ask_often(void *arg)
{
    struct asker *a = arg;

    for (int i = 0; i < 200; i++) {
        struct ev_nats_reply reply = {0};
        if (ev_nats_api(a->h->st, &reply, ev_clock_now(NULL) + 10 * EV_SEC, NULL, "STREAM.INFO.%s", "T") == EVBUS_OK)
            a->ok += strstr(reply.data, "\"name\":\"T\"") != NULL;
        ev_nats_reply_fini(&reply);
    }
    return NULL;
}

/* Many threads ask at once; each gets its own answer; a silent subject times out, one without listeners says so. */
static void test_nats_answers_requests(void **state)
{
    struct fixture f;
    struct ev_nats_reply reply = {0};
    struct asker askers[8];
    pthread_t threads[8];

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = connected(&f, NULL);
    ask(h, "STREAM.CREATE.T", STREAM_T);
    for (int i = 0; i < 8; i++) {
        askers[i] = (struct asker){.h = h};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, &askers[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(askers[i].ok, 200);
    }
    assert_int_equal(ev_nats_request(h->st, "no.body", "x", 1, ev_clock_now(NULL) + 5 * EV_SEC, &reply),
                     EVBUS_NO_JETSTREAM);
    nats_server_signal(&f.server, SIGSTOP);
    assert_int_equal(ev_nats_request(h->st, "no.body", "x", 1, ev_clock_now(NULL) + 100 * EV_MS, &reply),
                     EVBUS_TIMEOUT);
    nats_server_signal(&f.server, SIGCONT);
    nats_server_kill(&f.server);
    assert_true(await(h, 10000, !h->up));
    assert_int_equal(ev_nats_request(h->st, "no.body", "x", 1, ev_clock_now(NULL) + 50 * EV_MS, &reply),
                     EVBUS_DISCONNECTED);
    host_stop(h);
    assert_int_equal(ev_nats_request(h->st, "no.body", "x", 1, ev_clock_now(NULL) + 5 * EV_SEC, &reply), EVBUS_CLOSED);
    host_free(h);
    tear_down(&f);
}

/* ---- Disconnects ------------------------------------------------------------------------------------------------- */

/* Randomized, and replayed with EVBUS_SEED. */
static uint64_t seed;

static uint64_t chance(void)
{
    if (seed == 0) {
        const char *given = getenv("EVBUS_SEED");
        seed = given ? strtoull(given, NULL, 0) | 1 : ev_random() | 1;
        print_message("EVBUS_SEED=%" PRIu64 "\n", seed);
    }
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void run_cuts(uint32_t cuts, uint32_t size_max)
{
    struct fixture f;
    struct traffic t;
    void *binding = NULL;
    const evbus_opts opts = {.reconnect_min_ms = 1, .reconnect_max_ms = 5};

    set_up(&f, JETSTREAM);
    through_proxy(&f);
    struct host *h = host_new();
    traffic_init(&t, h, RECORDS_MAX, 64, size_max);
    t.ids = true;
    h->on_turn = NULL;
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    ask(h, "STREAM.CREATE.T", STREAM_T);
    assert_int_equal(h->ops->bind_core(h->st, NULL, "t.>", NULL, &binding), EVBUS_OK);
    host_run(h, do_attach, binding);
    host_run(h, start_traffic, NULL);
    for (uint32_t i = 0; i < cuts; i++) {
        const uint32_t downs = i + 1;
        assert_true(await(h, 20000, h->up && h->ups == downs));
        const uint64_t bytes = 1000 + chance() % (20 * (uint64_t)size_max);
        proxy_after(f.proxy, i % 2 ? PROXY_TO_CLIENT : PROXY_TO_SERVER, bytes, PROXY_CUT);
        h->ops->wake(h->st);
        assert_true(await(h, 20000, h->downs >= downs));
    }
    assert_true(await(h, 20000, h->up));
    host_run(h, last_number, NULL);
    assert_true(await(h, 30000, t.stored == t.total));
    host_run(h, do_detach, binding);
    host_stop(h);
    h->ops->unbind(h->st, binding);
    print_message("%u cuts, %u records, %u delivered, corrupt %u, sessions %u\n", h->downs, t.total, t.delivered,
                  t.corrupt, h->ups);
    host_free(h);
    assert_int_equal(t.corrupt, 0);
    assert_int_equal(t.unexpected, 0);
    assert_true(t.delivered > 0);
    check_stream(&f, &t);
    traffic_fini(&t);
    tear_down(&f);
}

/* Cut in the middle of messages, both directions: every record acknowledged, none corrupt, none twice. */
static void test_nats_survives_cuts_in_messages(void **state)
{
    (void)state;
    run_cuts(getenv("EV_TEST_CUTS") ? (uint32_t)atoi(getenv("EV_TEST_CUTS")) : 100, 60000);
}

static void test_nats_survives_cuts_in_small_messages(void **state)
{
    (void)state;
    run_cuts(30, 200);
}

/* ---- What may still leave ---------------------------------------------------------------------------------------- */

struct backlog {
    uint32_t sent;
    uint64_t marks[4096];
    bool could_leave[4096];
    int buffered;
};

static void send_until_full(struct host *h, void *arg)
{
    static char data[65536];
    struct backlog *b = arg;
    evbus_status status;

    for (int idle = 0; b->sent < 4096 && idle < 50;) {
        const struct ev_record r = {.topic = "t.a", .data = data, .len = sizeof data};
        memcpy(data, &b->sent, sizeof b->sent);
        if (h->ops->send(h->st, &r, &status) == EV_SENT) {
            b->marks[b->sent++] = h->ops->sent_mark(h->st);
            idle = 0;
        } else {
            idle++;
        }
        h->ops->wait(h->st, 0); /* writes what fits */
    }
    b->buffered = natsConnection_Buffered(h->st->session->nc);
}

/* Which could have left; true: more than when last looked. */
static bool look(struct host *h, struct backlog *b)
{
    bool more = false;

    for (uint32_t i = 0; i < b->sent; i++) {
        const bool could = !h->ops->unsent_after(h->st, b->marks[i]);
        more = more || could != b->could_leave[i];
        b->could_leave[i] = could;
    }
    return more;
}

static void drop_and_look(struct host *h, void *arg)
{
    struct backlog *b = arg;

    const int64_t until = ev_clock_now(NULL) + 8 * EV_SEC; /* host_run waits for 10 */
    /* until the systems between have taken what they take of a peer that does not read: some, and then no more */
    while ((look(h, b) || !b->could_leave[0]) && ev_clock_now(NULL) < until)
        (void)poll(NULL, 0, 50);
    assert_true(b->could_leave[0]);
    assert_false(b->could_leave[b->sent - 1]);
    h->ops->drop_link(h->st, "the test drops it");
    for (uint32_t i = 0; i < b->sent; i++)
        assert_false(h->ops->unsent_after(h->st, b->marks[i]));
}

static void mark_next_session(struct host *h, void *arg)
{
    struct backlog *b = arg;
    evbus_status status;
    const struct ev_record r = {.topic = "t.last", .data = "x", .len = 1};

    assert_int_equal(h->ops->send(h->st, &r, &status), EV_SENT);
    assert_true(h->ops->sent_mark(h->st) > b->marks[b->sent - 1]);
    assert_true(h->ops->unsent_after(h->st, h->ops->sent_mark(h->st)));
}

/* With a stalled peer the buffer is bounded; what unsent_after calls unsent never arrives once the link was dropped. */
static void test_nats_unsent_bytes_never_leave(void **state)
{
    struct fixture f;
    static struct backlog b;
    uint32_t last = 0;
    natsConnection *nc = NULL;
    natsSubscription *sub = NULL;
    natsMsg *msg = NULL;
    char direct[64];

    (void)state;
    memset(&b, 0, sizeof b);
    set_up(&f, JETSTREAM);
    (void)snprintf(direct, sizeof direct, "%s", f.url);
    through_proxy(&f);
    assert_int_equal(natsConnection_ConnectTo(&nc, direct), NATS_OK);
    assert_int_equal(natsConnection_SubscribeSync(&sub, nc, "t.>"), NATS_OK);
    (void)natsSubscription_SetPendingLimits(sub, -1, -1);
    assert_int_equal(natsConnection_Flush(nc), NATS_OK);
    struct host *h = connected(&f, NULL);
    proxy_after(f.proxy, PROXY_TO_SERVER, 100000, PROXY_STALL);
    host_run(h, send_until_full, &b);
    assert_true(b.sent > 2 && b.sent < 4096);
    assert_true(b.buffered > 0 && b.buffered <= 1100000);
    host_run(h, drop_and_look, &b);
    assert_true(await(h, 5000, h->downs == 1));
    assert_string_equal(h->down_text, "the test drops it");
    proxy_release(f.proxy); /* what the kernel has goes on now */
    assert_true(await(h, 10000, h->up));
    host_run(h, mark_next_session, &b);
    uint32_t arrived = 0;
    while (natsSubscription_NextMsg(&msg, sub, 10000) == NATS_OK) {
        const bool end = strcmp(natsMsg_GetSubject(msg), "t.last") == 0;
        if (!end) {
            memcpy(&last, natsMsg_GetData(msg), sizeof last);
            assert_true(last < b.sent && b.could_leave[last]);
            arrived++;
        }
        natsMsg_Destroy(msg);
        if (end)
            break;
    }
    print_message("%u records accepted, %d bytes buffered, %u arrived\n", b.sent, b.buffered, arrived);
    natsSubscription_Destroy(sub);
    natsConnection_Destroy(nc);
    host_close(h);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_publishes_and_is_answered),
        LEFT_CASE(test_nats_tells_which_record_had_no_responders),
        LEFT_CASE(test_nats_never_guesses),
        LEFT_CASE(test_nats_refuses_too_large_itself),
        LEFT_CASE(test_nats_answers_requests),
        LEFT_CASE(test_nats_survives_cuts_in_messages),
        LEFT_CASE(test_nats_survives_cuts_in_small_messages),
        LEFT_CASE(test_nats_unsent_bytes_never_leave),
    };

    if (!nats_server_available()) {
        print_message("SKIPPED: test_nats_session (publishing, 503s, requests, cuts): no nats-server\n");
        return 77;
    }
    if (getenv("EV_TEST"))
        cmocka_set_test_filter(getenv("EV_TEST"));
    return cmocka_run_group_tests(tests, need_server, left_none);
}
