/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are delivered again while their handlers run: what a handler is told of its message does not change. */
#include "../support/wait.h"

#include <evbus/evbus.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#define MESSAGES 300

struct world {
    evbus *bus;
    _Atomic(uint32_t) handled, changed;
};

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    struct world *w = ctx;
    const uint32_t count = evbus_msg_delivery_count(msg);
    const bool flagged = evbus_msg_redelivered(msg);

    wait_out(5); /* its duplicate comes while it runs */
    atomic_fetch_add(&w->changed, evbus_msg_delivery_count(msg) != count || evbus_msg_redelivered(msg) != flagged);
    atomic_fetch_add(&w->handled, 1);
    return EVBUS_ACK;
}

static bool all_handled(void *arg)
{
    return atomic_load(&((struct world *)arg)->handled) >= MESSAGES;
}

/* Every message comes twice, at once or 3 ms later. */
static void test_duplicates_do_not_change_a_message_under_its_handler(void **state)
{
    struct world w = {0};
    char id[16];

    (void)state;
    assert_int_equal(evbus_open("fault+mem://?seed=1&duplicate=1&reorder_by_ms=3", NULL, &w.bus), EVBUS_OK);
    assert_int_equal(evbus_subscribe_envelope(w.bus, "twice", handle, &w, NULL, NULL), EVBUS_OK);
    for (int i = 0; i < MESSAGES; i++) {
        (void)snprintf(id, sizeof id, "a%d", i % 16);
        const evbus_envelope env = {
            .aggregate_id = id, .event_type = "T", .event_version = i / 16 + 1, .payload = "{}"};
        assert_int_equal(evbus_publish_envelope(w.bus, "twice", &env, NULL), EVBUS_OK);
    }
    assert_true(wait_until(all_handled, &w, wait_patience_ms()));
    (void)evbus_shutdown(w.bus, 0, NULL);
    evbus_statistics s = {.struct_size = sizeof s};
    assert_int_equal(evbus_stats(w.bus, &s), EVBUS_OK);
    assert_true(s.duplicates_held + s.duplicates_settled > MESSAGES / 2);
    evbus_close(w.bus);
    assert_int_equal(atomic_load(&w.handled), MESSAGES); /* none ran twice */
    assert_int_equal(atomic_load(&w.changed), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_duplicates_do_not_change_a_message_under_its_handler),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
