/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A message id that the broker has taken in and not stored yet: it says so instead of an outcome. nats-server 2.10 of a
 * stream with replicas: "seq" 0 and "duplicate"; from 2.11 on: error 10158. That is neither stored nor refused: it is asked
 * again where that overtakes nothing. The stream answers nothing here (no_ack); we do, over a socket of our own.
 */
#include "nats_one_bus.h"
#include "support/nats_wire.h"
#include "support/proxy.h"
#include "support/wait.h"

#include <evbus/evbus.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOPIC "orders"
#define STUCK "stuck" /* the aggregate whose messages are under way for `under_way` sends */
#define SEQ_0 "{\"stream\":\"orders\", \"seq\":0,\"duplicate\": true}"
#define CONFLICT                                                                                                       \
    "{\"error\":{\"code\":409,\"err_code\":10158,\"description\":\"duplicate message id is in process\"},"             \
    "\"stream\":\"orders\",\"seq\":0}"
#define NO_ROOM                                                                                                        \
    "{\"error\":{\"code\":503,\"err_code\":10023,\"description\":\"insufficient resources\"},\"stream\":\"orders\"}"

struct world {
    struct one_bus at;
    struct nats_wire wire, ask;
    pthread_t thread;
    bool running;
    struct proxy *proxy;
    const char *says, *then;  /* to a send that is under way ("": nothing), and after those; NULL: that it is stored */
    uint32_t under_way;       /* so many sends */
    const char *word;         /* in the bodies or subjects of those */
    _Atomic(uint32_t) asked;  /* sends of them */
    _Atomic(uint32_t) others; /* sends of others */
    _Atomic(uint32_t) late;   /* sends of them after one of others */
    _Atomic(uint32_t) handled;
};

static void *answer(void *arg)
{
    struct world *w = arg;
    struct nats_wire_msg msg;
    uint64_t seq = 0;
    char text[256];

    while (nats_wire_next(&w->wire, &msg)) {
        const bool ours = strstr(msg.body, w->word) || strstr(msg.subject, w->word);
        const uint32_t n = ours ? atomic_fetch_add(&w->asked, 1) : 0;
        if (!ours)
            atomic_fetch_add(&w->others, 1);
        else if (atomic_load(&w->others) > 0)
            atomic_fetch_add(&w->late, 1);
        (void)snprintf(text, sizeof text, "{\"stream\":\"orders\", \"seq\":%llu%s}", (unsigned long long)++seq,
                       ours && w->under_way ? ",\"duplicate\": true" : "");
        const char *says = ours && n < w->under_way ? w->says : ours && w->then ? w->then : text;
        if (msg.reply[0] && says[0] && !nats_wire_send(&w->wire, msg.reply, says))
            break;
    }
    return NULL;
}

static void make_stream(struct world *w, const char *name, const char *subject)
{
    char api[128], config[256];

    (void)snprintf(api, sizeof api, "$JS.API.STREAM.CREATE.%s", name);
    (void)snprintf(config, sizeof config,
                   "{\"name\":\"%s\",\"subjects\":[\"%s\"],\"storage\":\"memory\",\"no_ack\":true}", name, subject);
    const char *made = nats_wire_ask(&w->ask, api, config);
    assert_non_null(made);
    assert_null(strstr(made, "\"error\""));
}

static int set_up(void **state)
{
    if (one_bus_set_up(state, sizeof(struct world)) != 0)
        return -1;
    struct world *w = *state;
    w->word = STUCK;
    w->wire.fd = w->ask.fd = -1;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    (void)evbus_shutdown(w->at.bus, 1000, NULL);
    nats_server_stop(&w->at.server); /* ends the thread that answers */
    if (w->running)
        (void)pthread_join(w->thread, NULL);
    nats_wire_close(&w->wire);
    nats_wire_close(&w->ask);
    proxy_close(w->proxy);
    return one_bus_tear_down(state);
}

static void begin(struct world *w)
{
    char url[64];

    assert_true(nats_wire_open(&w->ask, w->at.server.port, wait_patience_ms()));
    make_stream(w, "orders", TOPIC);
    make_stream(w, "letters", "dlq.>");
    assert_true(nats_wire_open(&w->wire, w->at.server.port, 600000));
    assert_true(nats_wire_subscribe(&w->wire, TOPIC, 2) && nats_wire_subscribe(&w->wire, "dlq.>", 3));
    assert_int_equal(pthread_create(&w->thread, NULL, answer, w), 0);
    w->running = true;
    w->proxy = proxy_open(w->at.server.port);
    assert_non_null(w->proxy);
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(w->proxy));
    assert_int_equal(evbus_open(url, EVBUS_OPTS(evbus_opts, .name = "under-way", .receipts = EVBUS_ON), &w->at.bus),
                     EVBUS_OK);
}

static uint64_t stored_in(struct world *w, const char *stream)
{
    char api[128];
    uint64_t count = UINT64_MAX;

    (void)snprintf(api, sizeof api, "$JS.API.STREAM.INFO.%s", stream);
    assert_true(nats_wire_number(nats_wire_ask(&w->ask, api, ""), "messages", &count));
    return count;
}

static evbus_status publish(struct world *w, const char *aggregate, uint32_t timeout_ms)
{
    const evbus_envelope env = {
        .aggregate_id = aggregate, .event_type = "T", .event_version = 1, .payload = "{\"text\":\"0123456789\"}"};

    return evbus_publish_envelope(w->at.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = timeout_ms));
}

static evbus_status publish_and_wait(struct world *w, uint32_t timeout_ms, evbus_receipt *ret)
{
    const evbus_envelope env = {
        .aggregate_id = STUCK, .event_type = "T", .event_version = 1, .payload = "{\"text\":\"0123456789\"}"};

    ret->struct_size = sizeof *ret;
    return evbus_publish_envelope_wait(w->at.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = timeout_ms),
                                       ret);
}

static void must_be_asked_again(struct world *w, const char *says)
{
    evbus_receipt receipt;

    w->says = says;
    w->under_way = 3;
    begin(w);
    assert_int_equal(publish_and_wait(w, wait_patience_ms(), &receipt), EVBUS_OK);
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_STORED);
    assert_true(receipt.sequence == 4 && receipt.duplicate);
    assert_int_equal(atomic_load(&w->asked), 4);
    assert_int_equal(stored_in(w, "orders"), 1); /* always the same message id */
    assert_int_equal(evbus_event_count(w->at.bus, EVBUS_EVENT_GATE_CLOSED), 0);
}

/* Who waits gets the sequence as soon as it is stored, not when his time is over; nats-server 2.10's answer. */
static void test_seq_0_is_asked_again(void **state)
{
    must_be_asked_again(*state, SEQ_0);
}

/* nats-server 2.11's answer looks like a refusal, and is none. */
static void test_conflict_is_asked_again(void **state)
{
    must_be_asked_again(*state, CONFLICT);
}

/* A refusal after it was under way says nothing of what was under way. */
static void test_refusal_after_it_is_unknown(void **state)
{
    struct world *w = *state;
    evbus_receipt receipt;

    w->says = SEQ_0;
    w->under_way = 1;
    w->then = NO_ROOM;
    begin(w);
    assert_int_equal(publish_and_wait(w, wait_patience_ms(), &receipt), EVBUS_UNKNOWN);
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_UNKNOWN);
    assert_true(receipt.sequence == 0);
    assert_int_equal(atomic_load(&w->asked), 2);
}

static void take(struct world *w, evbus_receipt *ret)
{
    size_t n = 0;

    ret->struct_size = sizeof *ret;
    assert_int_equal(evbus_receipts_take(w->at.bus, 0, ret, 1, wait_patience_ms(), &n), EVBUS_OK);
    assert_int_equal(n, 1);
}

static bool was_asked(void *arg)
{
    return atomic_load(&((struct world *)arg)->asked) > 0;
}

static void *cut_when_asked(void *arg)
{
    struct world *w = arg;

    if (wait_until(was_asked, w, wait_patience_ms()))
        proxy_cut(w->proxy);
    return NULL;
}

/* It was sent, and the link was cut before the answer; sent again, it is refused for want of room, which is looked for before
 * its message id is: the first send may be stored. (It is: the stream has it.) */
static void test_refusal_after_a_lost_answer_is_unknown(void **state)
{
    struct world *w = *state;
    evbus_receipt receipt;
    pthread_t cutter;

    w->says = "";
    w->under_way = 1;
    w->then = NO_ROOM;
    begin(w);
    assert_int_equal(pthread_create(&cutter, NULL, cut_when_asked, w), 0);
    const evbus_status status = publish_and_wait(w, wait_patience_ms(), &receipt);
    (void)pthread_join(cutter, NULL);
    assert_int_equal(status, EVBUS_UNKNOWN);
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_UNKNOWN);
    assert_int_equal(atomic_load(&w->asked), 2);
    assert_int_equal(stored_in(w, "orders"), 1);
}

/* A publish that must not overtake what was sent after it is not sent again: it ends unknown, with no sequence, at its
 * deadline. The stream does answer: its gate stays open. */
static void test_ends_unknown_when_something_later_was_sent(void **state)
{
    struct world *w = *state;
    evbus_receipt receipt;

    w->says = SEQ_0;
    w->under_way = UINT32_MAX;
    begin(w);
    assert_int_equal(publish(w, STUCK, 1000), EVBUS_OK);
    assert_true(wait_until(was_asked, w, wait_patience_ms()));
    assert_int_equal(publish(w, "later", wait_patience_ms()), EVBUS_OK);
    take(w, &receipt);
    assert_string_equal(receipt.aggregate_id, "later");
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_STORED);
    take(w, &receipt);
    assert_string_equal(receipt.aggregate_id, STUCK);
    assert_int_equal(receipt.outcome, EVBUS_OUTCOME_UNKNOWN);
    assert_true(receipt.sequence == 0 && !receipt.duplicate);
    assert_int_equal(atomic_load(&w->late), 0);
    assert_int_equal(evbus_event_count(w->at.bus, EVBUS_EVENT_GATE_CLOSED), 0);
}

static evbus_verdict reject_stuck(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;

    if (evbus_msg_envelope(msg)->event_version == 1) {
        evbus_msg_set_reason(msg, "no");
        return EVBUS_REJECT;
    }
    atomic_fetch_add(&w->handled, 1);
    return EVBUS_ACK;
}

static bool was_handled(void *arg)
{
    return atomic_load(&((struct world *)arg)->handled) > 0;
}

/* A dead letter that is under way is asked for again until it is stored: then, and not before, the aggregate goes on. */
static void test_letter_is_asked_again(void **state)
{
    struct world *w = *state;
    const evbus_envelope next = {.aggregate_id = STUCK, .event_type = "T", .event_version = 2, .payload = "{}"};
    evbus_statistics s;

    w->says = SEQ_0;
    w->word = "dlq.";
    w->under_way = 3;
    begin(w);
    assert_int_equal(evbus_subscribe_envelope(w->at.bus, TOPIC, reject_stuck, w, NULL, NULL), EVBUS_OK);
    assert_int_equal(publish(w, STUCK, wait_patience_ms()), EVBUS_OK);
    assert_int_equal(evbus_publish_envelope(w->at.bus, TOPIC, &next, NULL), EVBUS_OK);
    assert_true(wait_until(was_handled, w, wait_patience_ms()));
    assert_int_equal(atomic_load(&w->asked), 4);
    assert_int_equal(stored_in(w, "letters"), 1);
    assert_int_equal(evbus_stats(w->at.bus, &s), EVBUS_OK);
    assert_int_equal(s.dead_lettered, 1);
    assert_int_equal(evbus_event_count(w->at.bus, EVBUS_EVENT_DEAD_LETTER_FAILED), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_seq_0_is_asked_again),
        CASE(test_conflict_is_asked_again),
        CASE(test_refusal_after_it_is_unknown),
        CASE(test_refusal_after_a_lost_answer_is_unknown),
        CASE(test_ends_unknown_when_something_later_was_sent),
        CASE(test_letter_is_asked_again),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
