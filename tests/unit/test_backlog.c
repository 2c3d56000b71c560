/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at many durables, and reading what was found: the work grows with their number, not with its square. */
#include "core/bus.h"

#include "../support/wait.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define TOPICS 10000

static evbus_verdict ack(const evbus_msg *msg, void *ctx)
{
    (void)msg, (void)ctx;
    return EVBUS_ACK;
}

static evbus *open_with_topics(void)
{
    const evbus_opts o = {.struct_size = sizeof o, .name = "g", .publish_inflight_max = 16, .held_max = 16};
    evbus *bus = NULL;
    char topic[32];

    assert_int_equal(evbus_open("mem://", &o, &bus), EVBUS_OK);
    for (int i = 0; i < TOPICS; i++) {
        (void)snprintf(topic, sizeof topic, "topic.%d", i);
        assert_int_equal(evbus_subscribe_envelope(bus, topic, ack, NULL, NULL, NULL), EVBUS_OK);
    }
    return bus;
}

/* The last look that ended, and how many entries were looked at to find one: since the bus was opened. */
struct looked {
    evbus *bus;
    int64_t at; /* after this */
    uint64_t compared;
};

static bool has_looked(void *arg)
{
    struct looked *l = arg;
    struct ev_backlog_side *side = &l->bus->backlog.subscriber;

    pthread_mutex_lock(&l->bus->mutex);
    const int64_t at = side->last.count ? side->last.entries[side->last.count - 1].at : 0;
    const bool is_new = at > l->at;
    if (is_new) {
        l->at = at;
        l->compared = side->compared;
    }
    pthread_mutex_unlock(&l->bus->mutex);
    return is_new;
}

static void test_backlog_of_many_topics_is_linear(void **state)
{
    struct looked l = {.bus = open_with_topics()};
    evbus_backlog found;
    char topic[32];

    (void)state;
    assert_int_equal(evbus_backlog_start(l.bus, EVBUS_BACKLOG_SUBSCRIBER,
                                         EVBUS_OPTS(evbus_backlog_opts, .subscriber_look_ms = 1000)),
                     EVBUS_OK);
    assert_true(wait_until(has_looked, &l, wait_patience_ms()));
    assert_int_equal(l.compared, 0); /* nothing was known before */
    assert_true(wait_until(has_looked, &l, wait_patience_ms()));
    const uint64_t recalled = l.compared;
    assert_in_range(recalled, TOPICS, 3 * TOPICS); /* each one, and those that share its place */
    assert_int_equal(evbus_backlog_stop(l.bus, EVBUS_BACKLOG_SUBSCRIBER), EVBUS_OK);
    assert_int_equal(evbus_backlog_start(l.bus, EVBUS_BACKLOG_SUBSCRIBER,
                                         EVBUS_OPTS(evbus_backlog_opts, .subscriber_look_ms = 3600000)),
                     EVBUS_OK);
    assert_true(wait_until(has_looked, &l, wait_patience_ms()));
    const uint64_t before = l.compared;
    for (int i = 0; i < TOPICS; i++) {
        found.struct_size = sizeof found;
        (void)snprintf(topic, sizeof topic, "topic.%d", i);
        assert_int_equal(evbus_backlog_read(l.bus, topic, NULL, &found), EVBUS_OK);
    }
    assert_in_range(l.bus->backlog.subscriber.compared - before, TOPICS, 3 * TOPICS);
    assert_int_equal(evbus_backlog_read(l.bus, "topic.0", "another", &found), EVBUS_NOT_FOUND);
    assert_int_equal(evbus_backlog_read(l.bus, "topic", NULL, &found), EVBUS_NOT_FOUND);
    evbus_close(l.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backlog_of_many_topics_is_linear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
