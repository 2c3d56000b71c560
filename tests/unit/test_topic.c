/* SPDX-License-Identifier: Apache-2.0 */
/* The topic table and the configuration snapshots, read by many while they change. */
#include "core/bus.h"

#include "../support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOPICS 2000
#define THREADS 8

static evbus *open_bus(uint32_t topics_max)
{
    evbus *bus = NULL;
    const evbus_opts o = {
        .struct_size = sizeof o, .topics_max = topics_max, .publish_inflight_max = 16, .held_max = 16};

    assert_int_equal(ev_open("mem://", &o, true, &bus), EVBUS_OK);
    return bus;
}

struct shared {
    evbus *bus;
    struct ev_topic *seen[THREADS][TOPICS];
};

static void intern_all(int index, void *ctx)
{
    struct shared *s = ctx;
    char name[32];

    for (int i = 0; i < TOPICS; i++) {
        const int k = (i + index * 37) % TOPICS;
        snprintf(name, sizeof name, "topic.%d", k);
        RACE_CHECK(ev_topic_get(s->bus, name, false, &s->seen[index][k]) == EVBUS_OK);
        RACE_CHECK(ev_topic_find(s->bus, name, strlen(name)) == s->seen[index][k]);
    }
}

/* However many threads ask for a name at once, there is one record, and every later look-up finds it. */
static void test_topic_interned_by_many_is_one_record(void **state)
{
    static struct shared s;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS / 5; round++) {
        s.bus = open_bus(0);
        race_run(THREADS, intern_all, &s);
        assert_int_equal(race_failures(), 0);
        for (int t = 1; t < THREADS; t++)
            assert_memory_equal(s.seen[t], s.seen[0], sizeof s.seen[0]);
        assert_int_equal(ev_load_relaxed(&s.bus->topics.count), TOPICS);
        evbus_close(s.bus);
    }
}

static void configure_and_read(int index, void *ctx)
{
    struct shared *s = ctx;
    struct ev_topic *topic = s->seen[0][0];

    for (uint32_t i = 1; i <= 300; i++) {
        if (index < 2) {
            /* Both fields carry the same number: a torn or freed snapshot would show two. */
            evbus_topic_opts o = {.struct_size = sizeof o, .max_age_ms = i, .max_bytes = i};
            RACE_CHECK(evbus_topic_configure(s->bus, topic->name, &o) == EVBUS_OK);
        } else {
            evbus_topic_opts o;
            ev_topic_read(topic, &o);
            RACE_CHECK(o.max_age_ms == o.max_bytes || o.max_bytes == UINT64_C(1) << 30);
            RACE_CHECK(o.struct_size == sizeof o);
        }
    }
}

/* A reader sees the whole old or the whole new configuration, never a mixture, never freed memory. */
static void test_topic_configuration_is_read_whole_while_it_changes(void **state)
{
    static struct shared s;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        s.bus = open_bus(0);
        assert_int_equal(ev_topic_get(s.bus, "t", false, &s.seen[0][0]), EVBUS_OK);
        race_run(THREADS, configure_and_read, &s);
        assert_int_equal(race_failures(), 0);
        evbus_close(s.bus);
    }
}

/* The bound names its option, and names from patterns count like others. */
static void test_topic_table_is_bounded(void **state)
{
    evbus *bus = open_bus(3);
    struct ev_topic *topic = NULL;

    (void)state;
    assert_int_equal(ev_topic_get(bus, "a", false, &topic), EVBUS_OK);
    assert_int_equal(ev_topic_get(bus, "b", false, &topic), EVBUS_OK);
    assert_int_equal(ev_topic_get(bus, "c.*", true, &topic), EVBUS_OK);
    assert_int_equal(ev_topic_get(bus, "d", false, &topic), EVBUS_LIMIT);
    assert_non_null(strstr(evbus_error_detail(), "topics_max"));
    assert_int_equal(ev_topic_get(bus, "a", false, &topic), EVBUS_OK);
    assert_int_equal(ev_topic_get(bus, "c.*", false, &topic), EVBUS_INVALID); /* known as a pattern, not as a topic */
    evbus_close(bus);
}

/* Out of memory at any allocation: an error, no leak, and the table still works. */
static void test_topic_survives_each_failing_allocation(void **state)
{
    const uint64_t live = ev_alloc_live();
    bool failed = true;

    (void)state;
    for (int n = 1; failed; n++) {
        evbus *bus = open_bus(0);
        char name[32];
        failed = false;
        ev_alloc_fail_after(n);
        for (int i = 0; i < 200; i++) {
            struct ev_topic *topic = NULL;
            snprintf(name, sizeof name, "t.%d", i);
            const evbus_status st = ev_topic_get(bus, name, false, &topic);
            assert_true(st == EVBUS_OK || st == EVBUS_NOMEM);
            failed = failed || st == EVBUS_NOMEM;
        }
        ev_alloc_fail_after(-1);
        evbus_close(bus);
        assert_int_equal(ev_alloc_live(), live);
    }
}

/* evbus_open fails cleanly at each allocation, too. */
static void test_open_survives_each_failing_allocation(void **state)
{
    const uint64_t live = ev_alloc_live();
    evbus_status st = EVBUS_NOMEM;

    (void)state;
    for (int n = 1; st != EVBUS_OK; n++) {
        evbus *bus = NULL;
        const evbus_opts o = {.struct_size = sizeof o, .name = "x", .publish_inflight_max = 16, .held_max = 16};
        ev_alloc_fail_after(n);
        st = evbus_open("mem://", &o, &bus);
        ev_alloc_fail_after(-1);
        if (st == EVBUS_OK)
            evbus_close(bus);
        else if (st != EVBUS_NOMEM && st != EVBUS_SYSTEM)
            fail_msg("allocation %d: %s (%s)", n, evbus_strerror(st), evbus_error_detail());
        if (ev_alloc_live() != live)
            fail_msg("allocation %d: %lld blocks leaked", n, (long long)(ev_alloc_live() - live));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topic_interned_by_many_is_one_record),
        cmocka_unit_test(test_topic_configuration_is_read_whole_while_it_changes),
        cmocka_unit_test(test_topic_table_is_bounded),
        cmocka_unit_test(test_topic_survives_each_failing_allocation),
        cmocka_unit_test(test_open_survives_each_failing_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
