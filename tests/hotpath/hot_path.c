/* SPDX-License-Identifier: Apache-2.0 */
#include "hot_path.h"

#include "../support/wait.h"

#include <evbus/evbus.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define TOPIC "hot.topic"
#define WINDOW 4096
#define STREAM_MAX 8192
#define AHEAD_MAX 6144 /* published and not handled: less than the stream keeps */
#define RUNS_MAX 8
#define ALLOCS_ONCE 4 /* per producer: a thread's record, a table that grows once more: not by the message */
#define PAYLOAD "{\"order\":4711,\"currency\":\"EUR\",\"total\":129.95,\"note\":\"as large as many events are\"}"

static struct {
    evbus *bus;
    const struct hot_flow *flow;
    _Atomic(uint64_t) handled, next, failed;
    _Atomic(uint64_t) until; /* producers stop before this number */
    _Atomic(bool) held_back;
} hot;

/* The housekeeping thread looks at each subscription every two seconds and asks the broker about its stream, under the
 * mutexes of rare paths, and waits for the answer: a few calls by the time, whatever the number of messages. */
#define HOUSEKEEPING_MS 2000
#define HOUSEKEEPING_MUTEX 24
#define HOUSEKEEPING_CONDITION 2

static int64_t looks; /* that may have fallen into the counted part of the last run */
static int runs;      /* part of the event ids: the server remembers those of the run before */

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    while (atomic_load_explicit(&hot.held_back, memory_order_acquire))
        (void)sched_yield();
    atomic_fetch_add(&hot.handled, 1);
    return EVBUS_ACK;
}

static bool publish(uint64_t i)
{
    char id[64], aggregate[32];

    if (!hot.flow->envelopes)
        return evbus_publish(hot.bus, TOPIC, PAYLOAD, sizeof PAYLOAD - 1, NULL) == EVBUS_OK;
    (void)snprintf(id, sizeof id, "event-%d-%llu", runs, (unsigned long long)i);
    (void)snprintf(aggregate, sizeof aggregate, "order-%llu", (unsigned long long)(i % 200));
    const evbus_envelope env = {.event_id = id,
                                .aggregate_id = aggregate,
                                .event_type = "OrderPlaced",
                                .event_version = (int64_t)(i / 200) + 1,
                                .payload = PAYLOAD};
    return evbus_publish_envelope(hot.bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = 60000)) == EVBUS_OK;
}

static void *producer_main(void *arg)
{
    (void)arg;
    for (uint64_t i; (i = atomic_fetch_add(&hot.next, 1)) < atomic_load(&hot.until);) {
        while (i >= atomic_load(&hot.handled) + AHEAD_MAX)
            (void)sched_yield();
        if (!publish(i)) {
            atomic_fetch_add(&hot.failed, 1);
            (void)fprintf(stderr, "publish: %s\n", evbus_error_detail());
            break;
        }
    }
    return NULL;
}

static bool all_handled(void *arg)
{
    (void)arg;
    return atomic_load(&hot.handled) >= atomic_load(&hot.until);
}

static void flow_until(uint64_t until, bool (*middle)(void *))
{
    pthread_t producers[HOT_PRODUCERS_MAX];

    atomic_store(&hot.next, atomic_load(&hot.handled));
    atomic_store(&hot.until, until);
    for (int i = 0; i < hot.flow->producers; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, producer_main, NULL), 0);
    if (middle) {
        assert_true(wait_until(middle, NULL, wait_patience_ms()));
        atomic_store_explicit(&hot.held_back, false, memory_order_release);
    }
    for (int i = 0; i < hot.flow->producers; i++)
        assert_int_equal(pthread_join(producers[i], NULL), 0);
    assert_int_equal(atomic_load(&hot.failed), 0);
    assert_true(wait_until(all_handled, NULL, wait_patience_ms()));
}

/* All that a subscription may hold is here: its memory has its largest extent. */
static bool full(void *arg)
{
    evbus_statistics s = {.struct_size = sizeof s};

    (void)arg;
    return evbus_stats(hot.bus, &s) == EVBUS_OK && s.held >= HOT_INFLIGHT;
}

static bool idle(void *arg)
{
    evbus_statistics s = {.struct_size = sizeof s};

    (void)arg;
    return evbus_stats(hot.bus, &s) == EVBUS_OK && s.held == 0 && s.publishes_inflight == 0;
}

static void open_bus(const struct hot_flow *flow)
{
    const evbus_sub_opts *o = EVBUS_OPTS(evbus_sub_opts, .inflight_max = HOT_INFLIGHT);

    memset(&hot, 0, sizeof hot);
    runs++;
    hot.flow = flow;
    assert_int_equal(
        evbus_open(flow->url,
                   EVBUS_OPTS(evbus_opts, .name = "hot", .publish_inflight_max = WINDOW, .publish_timeout_ms = 60000),
                   &hot.bus),
        EVBUS_OK);
    assert_int_equal(
        evbus_topic_configure(hot.bus, TOPIC,
                              EVBUS_OPTS(evbus_topic_opts, .storage = EVBUS_STORAGE_MEMORY, .max_msgs = STREAM_MAX,
                                         .msg_id = flow->msg_id ? EVBUS_ON : EVBUS_OFF)),
        EVBUS_OK);
    assert_int_equal(flow->envelopes ? evbus_subscribe_envelope(hot.bus, TOPIC, on_message, NULL, o, NULL)
                                     : evbus_subscribe(hot.bus, TOPIC, on_message, NULL, o, NULL),
                     EVBUS_OK);
}

struct calls hot_path_run(const struct hot_flow *flow)
{
    const uint64_t warm = 2 * STREAM_MAX;

    open_bus(flow);
    atomic_store(&hot.held_back, true);
    flow_until(warm, full);
    flow_until(warm + flow->messages / 4, NULL);
    assert_true(wait_until(idle, NULL, wait_patience_ms()));
    const int64_t began = wait_now_ms();
    count_start();
    flow_until(warm + flow->messages / 4 + flow->messages, NULL);
    count_stop();
    looks = (wait_now_ms() - began) / HOUSEKEEPING_MS + 1;
    const struct calls calls = count_read();
    evbus_close(hot.bus);
    return calls;
}

static bool check_once(const struct hot_flow *flow)
{
    const uint64_t futexes = flow->messages / 64, allocs = ALLOCS_ONCE * (uint64_t)flow->producers;
    const struct calls calls = hot_path_run(flow);

    (void)printf("  %llu messages, %s, %d producers: mutex %llu, rwlock %llu, condition %llu, allocation %llu (allowed "
                 "%llu), futex %llu "
                 "(allowed %llu)\n",
                 (unsigned long long)flow->messages, flow->envelopes ? "envelopes" : "plain", flow->producers,
                 (unsigned long long)calls.mutex, (unsigned long long)calls.rwlock, (unsigned long long)calls.condition,
                 (unsigned long long)calls.alloc, (unsigned long long)allocs, (unsigned long long)calls.futex,
                 (unsigned long long)futexes);
    assert_in_range(calls.mutex, 0, looks * HOUSEKEEPING_MUTEX);
    assert_int_equal(calls.rwlock, 0);
    assert_in_range(calls.condition, 0, looks * HOUSEKEEPING_CONDITION);
    return calls.futex <= futexes && calls.alloc <= allocs;
}

void hot_path_check(const struct hot_flow *flow)
{
    int tries = 0;

    while (!check_once(flow))
        assert_in_range(++tries, 1, RUNS_MAX - 1);
}
