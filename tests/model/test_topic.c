/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The topic table in all orders (edges T1 to T6 of core/topic.h): what is found is complete, what was there before the
 * look is found, one name has one record, and a configuration is read whole and never after it was freed. The table has
 * four places here and holds two names; the third makes it grow.
 */
#include "small_bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_topic *old; /* there before the run, as "b" */
static struct ev_topic *got[3];
static _Atomic(uint32_t) told; /* 1: topic "c" was inserted, and somebody says so */

static struct ev_topic *get(const char *name)
{
    struct ev_topic *topic = NULL;

    MODEL_CHECK(ev_topic_get(&small_bus, name, false, &topic) == EVBUS_OK);
    return topic;
}

static void reset(void)
{
    small_bus_reset(1);
    memset(got, 0, sizeof got);
    atomic_init(&told, 0);
    old = get("a");
    (void)get("b");
}

static void is_complete(struct ev_topic *topic, const char *name)
{
    MODEL_CHECK(topic->bus == &small_bus && topic->len == 1 && strcmp(topic->name, name) == 0);
    MODEL_CHECK(ev_load_relaxed(&topic->cfg) != NULL);
}

static void get_c_first(void)
{
    got[0] = get("c");
    is_complete(got[0], "c");
}

static void get_c_second(void)
{
    got[1] = get("c");
    is_complete(got[1], "c");
}

static void get_c_and_tell(void)
{
    get_c_first();
    ev_store_release(&told, 1);
}

static void get_d(void)
{
    got[2] = get("d");
    is_complete(got[2], "d");
}

static void get_d_and_e(void)
{
    get_d();
    (void)get("e"); /* the second growth */
}

static void find_old_and_new(void)
{
    const bool was_told = ev_load_acquire(&told);
    struct ev_topic *topic = ev_topic_find(&small_bus, "c", 1);

    MODEL_CHECK(topic != NULL || !was_told);
    if (topic != NULL) {
        is_complete(topic, "c");
        MODEL_CHECK(ev_topic_find(&small_bus, "c", 1) == topic);
    }
    MODEL_CHECK(ev_topic_find(&small_bus, "a", 1) == old);
    is_complete(old, "a");
}

static uint32_t count_of(const char *name)
{
    const struct ev_topic_table *table = ev_load_acquire(&small_bus.topics.table);
    uint32_t n = 0;

    for (uint64_t i = 0; i <= table->mask; i++) {
        const struct ev_topic *topic = ev_load_acquire(&table->slots[i].topic);
        n += topic != NULL && strcmp(topic->name, name) == 0;
    }
    return n;
}

static void one_record_each(void)
{
    uint32_t n = 2;

    for (int i = 0; i < 3; i++)
        MODEL_CHECK(got[i] == NULL || ev_topic_find(&small_bus, got[i]->name, 1) == got[i]);
    MODEL_CHECK(count_of("a") == 1 && count_of("b") == 1 && count_of("c") <= 1 && count_of("d") <= 1);
    n += count_of("c") + count_of("d") + count_of("e");
    MODEL_CHECK(ev_load_relaxed(&small_bus.topics.count) == n);
    small_bus_fini();
}

static const struct model growing = {
    .name = "topic: 1 who gets a third one, which makes the table grow, 1 who looks for it and an old one",
    .reset = reset,
    .threads = {get_c_and_tell, find_old_and_new},
    .check = one_record_each,
    .cleanup = small_bus_forget,
    .store_buffers = true,
};

static const struct model two_names = {
    .name = "topic: 2 who get a third and more, 2 growths, 1 who looks",
    .reset = reset,
    .threads = {get_c_and_tell, get_d_and_e, find_old_and_new},
    .check = one_record_each,
    .cleanup = small_bus_forget,
};

static const struct model one_name = {
    .name = "topic: 2 who get the same new one, 1 who gets another",
    .reset = reset,
    .threads = {get_c_first, get_c_second, get_d},
    .check = one_record_each,
    .cleanup = small_bus_forget,
};

/* ---- Configuration ------------------------------------------------------------------------------------------------ */

static void reset_for_configuration(void)
{
    reset();
    ev_limbo_retire(&small_bus.limbo, NULL, ev_free); /* so that its list is there */
}

/* Every configuration here has as many bytes as milliseconds. */
static void configure(uint64_t n)
{
    const evbus_topic_opts opts = {.struct_size = sizeof opts, .max_age_ms = n, .max_bytes = n};

    MODEL_CHECK(evbus_topic_configure(&small_bus, "a", &opts) == EVBUS_OK);
}

static void configure_once(void)
{
    configure(1);
}

static void configure_twice(void)
{
    configure(2);
    configure(3);
}

static void read_configuration(void)
{
    evbus_topic_opts opts;

    ev_topic_read(old, &opts);
    MODEL_CHECK(opts.struct_size == sizeof opts && opts.replicas == 1);
    MODEL_CHECK(opts.max_bytes == opts.max_age_ms || opts.max_bytes == UINT64_C(1) << 30);
}

static void read_configuration_twice(void)
{
    read_configuration();
    read_configuration();
}

static void nothing_waits(void)
{
    configure(9); /* nobody reads any more: this empties limbo */
    MODEL_CHECK(small_bus.limbo.count == 0);
    small_bus_fini();
}

static const struct model configured_twice = {
    .name = "topic: 1 who configures twice, 1 who reads twice",
    .reset = reset_for_configuration,
    .threads = {configure_twice, read_configuration_twice},
    .check = nothing_waits,
    .cleanup = small_bus_forget,
    .store_buffers = true,
};

static const struct model configured_by_two = {
    .name = "topic: 1 who configures twice, 1 once, 1 who reads",
    .reset = reset_for_configuration,
    .threads = {configure_twice, configure_once, read_configuration},
    .check = nothing_waits,
    .cleanup = small_bus_forget,
};

/* Looks beside inserts and growths find complete records, and every old one; a name gets one record. */
static void test_model_topic_is_found_complete_while_the_table_grows(void **state)
{
    (void)state;
    model_expect_sound(&growing);
    model_expect_sound(&one_name);
    model_expect_sound(&two_names);
}

/* A configuration is read whole while it is replaced, and freed only then. */
static void test_model_topic_configuration_is_read_whole(void **state)
{
    (void)state;
    model_expect_sound(&configured_twice);
    model_expect_sound(&configured_by_two);
}

/* A record or a table that is published too early, no second look, a snapshot freed at once: each is found. */
static void test_model_topic_finds_mistakes(void **state)
{
    (void)state;
    MODEL_EXPECT_FOUND(&growing, EV_BUG_TOPIC_INCOMPLETE);
    MODEL_EXPECT_FOUND(&growing, EV_BUG_TOPIC_EARLY_TABLE);
    MODEL_EXPECT_FOUND(&one_name, EV_BUG_TOPIC_NO_SECOND_LOOK);
    MODEL_EXPECT_FOUND(&configured_twice, EV_BUG_TOPIC_FREES_AT_ONCE);
    MODEL_EXPECT_FOUND(&configured_twice, EV_BUG_EPOCH_EARLY);
    MODEL_EXPECT_FOUND(&configured_twice, EV_BUG_WEAK_STORES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_topic_is_found_complete_while_the_table_grows),
        cmocka_unit_test(test_model_topic_configuration_is_read_whole),
        cmocka_unit_test(test_model_topic_finds_mistakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
