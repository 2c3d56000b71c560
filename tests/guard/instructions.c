/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot paths one after the other, in one thread and in virtual time, each a fixed number of times, so that callgrind
 * counts the same instructions every time. tools/check-instructions.sh runs it and compares the counts with the recorded
 * ones. Compiled as the library is released: -O2, without assertions.
 */
#include "core/envelope.h"
#include "core/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

#define TIMES 1000
#define TOPICS 1000
#define AT_ONCE 250 /* publishes between two turns of the loop */
#define NAME_SIZE 40

static evbus_clock *simulated;
static evbus *bus;
static char names[TOPICS][NAME_SIZE];
static const char payload[] =
    "{\"order\":4711,\"currency\":\"EUR\",\"total\":129.95,\"lines\":[{\"sku\":\"A-100\",\"n\":2},"
    "{\"sku\":\"B-200\",\"n\":1}],\"note\":\"as large as many events are, no more than that\"}";

static void need(bool holds, const char *what)
{
    if (holds)
        return;
    (void)fprintf(stderr, "instructions: %s: %s\n", what, evbus_error_detail());
    exit(1);
}

/* All inlined to nothing outside valgrind. */
static void begin(void)
{
    CALLGRIND_ZERO_STATS;
    CALLGRIND_TOGGLE_COLLECT;
}

static void pause_counting(void)
{
    CALLGRIND_TOGGLE_COLLECT;
}

/* The name of the dump says what was counted, and how often it was done. */
#define END(name, times) CALLGRIND_DUMP_STATS_AT(name " " #times)

static evbus_envelope envelope(unsigned i)
{
    static char id[40];

    (void)snprintf(id, sizeof id, "019a5b3c-0000-7000-8000-%012u", i);
    return (evbus_envelope){.event_id = id,
                            .aggregate_id = "order-0190b6f7",
                            .event_type = "OrderPlaced",
                            .event_version = (int64_t)i + 1,
                            .timestamp_ns = INT64_C(1760000000123456789),
                            .trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
                            .payload = payload};
}

/* ---- The parts --------------------------------------------------------------------------------------------------- */

static void look_up(void)
{
    unsigned found = 0;

    begin();
    for (unsigned i = 0; i < TIMES; i++)
        found += ev_topic_find(bus, names[i * 7 % TOPICS], 32) != NULL;
    pause_counting();
    END("look_up", 1000);
    need(found == TIMES, "a topic was not found");
}

static void codec(void)
{
    char body[1024], text[1100];
    evbus_envelope read;
    size_t len = 0, good = 0;

    evbus_envelope env = envelope(1);
    env.payload_len = sizeof payload - 1;
    begin();
    for (unsigned i = 0; i < TIMES; i++)
        good += ev_envelope_check(&env) == EVBUS_OK && ev_envelope_encode(&env, body, sizeof body, &len) == EVBUS_OK;
    pause_counting();
    END("check_and_encode", 1000);
    begin();
    for (unsigned i = 0; i < TIMES; i++)
        good += ev_envelope_scan(body, len, text, sizeof text, &read) == EVBUS_OK;
    pause_counting();
    END("scan", 1000);
    need(good == 2 * TIMES, "the codec");
}

static void run_all(void)
{
    while (ev_loop_turn(bus) | ev_crew_run_one(bus))
        ;
}

/* What the application's thread does, and what the loop does until the outcome; then the same with a receipt, taken. */
static void publish(const char *topic, bool receipts)
{
    static evbus_receipt batch[AT_ONCE];
    const evbus_pub_opts *o = EVBUS_OPTS(evbus_pub_opts, .receipt = receipts ? EVBUS_ON : EVBUS_OFF);
    size_t taken = 0, n = 0;

    evbus_receipt_init(&batch[0]);
    for (unsigned round = 0; round < 2; round++) { /* the first makes all memory there is to make */
        static unsigned next;
        for (unsigned k = 0; k < TIMES / AT_ONCE; k++) {
            if (round == 1 && k == 0)
                CALLGRIND_ZERO_STATS;
            for (unsigned i = 0; i < AT_ONCE; i++) {
                const evbus_envelope env = envelope(next++);
                if (round == 1)
                    CALLGRIND_TOGGLE_COLLECT;
                const evbus_status st = evbus_publish_envelope(bus, topic, &env, o);
                if (round == 1)
                    CALLGRIND_TOGGLE_COLLECT;
                need(st == EVBUS_OK, "publish");
            }
            run_all();
            if (receipts && round == 1)
                CALLGRIND_TOGGLE_COLLECT;
            if (receipts && evbus_receipts_take(bus, 0, batch, AT_ONCE, 0, &n) == EVBUS_OK)
                taken += n;
            if (receipts && round == 1)
                CALLGRIND_TOGGLE_COLLECT;
        }
    }
    if (receipts)
        END("publish_and_take_receipt", 1000);
    else
        END("publish", 1000);
    need(!receipts || taken == 2 * TIMES, "receipts");
}

static uint32_t handled;

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)msg, (void)ctx;
    handled++;
    return EVBUS_ACK;
}

/* Send, store, outcome; with a subscription also: deliver, order, run the handler, settle, acknowledge. */
static void flow(const char *topic, bool subscribed)
{
    if (subscribed)
        need(evbus_subscribe_envelope(bus, topic, on_message, NULL, NULL, NULL) == EVBUS_OK, "subscribe");
    run_all();
    const uint32_t before = handled;
    for (unsigned round = 0; round < 2; round++) {
        static unsigned next = 1000000;
        if (round == 1)
            CALLGRIND_ZERO_STATS;
        for (unsigned k = 0; k < TIMES / AT_ONCE; k++) {
            for (unsigned i = 0; i < AT_ONCE; i++) {
                const evbus_envelope env = envelope(next++);
                need(evbus_publish_envelope(bus, topic, &env, NULL) == EVBUS_OK, "publish");
            }
            if (round == 1)
                CALLGRIND_TOGGLE_COLLECT;
            run_all();
            if (round == 1)
                CALLGRIND_TOGGLE_COLLECT;
        }
    }
    if (subscribed)
        END("store_deliver_handle_ack", 1000);
    else
        END("store_and_outcome", 1000);
    need(handled - before == (subscribed ? 2 * TIMES : 0), "not all were handled");
}

int main(void)
{
    ev_random_seed(1);
    simulated = evbus_clock_new(EV_SEC);
    need(ev_open("mem://guard", EVBUS_OPTS(evbus_opts, .name = "guard", .clock = simulated), true, &bus) == EVBUS_OK,
         "open");
    for (unsigned i = 0; i < TOPICS; i++) {
        struct ev_topic *topic = NULL;
        (void)snprintf(names[i], sizeof names[i], "orders.region-%02u.customer-%06u", i % 100, i);
        need(ev_topic_get(bus, names[i], false, &topic) == EVBUS_OK, "topic");
    }
    look_up();
    codec();
    publish("guard.plain", false);
    publish("guard.receipts", true);
    flow("guard.unheard", false);
    flow("guard.heard", true);
    evbus_close(bus);
    evbus_clock_free(simulated);
    return 0;
}
