/* SPDX-License-Identifier: Apache-2.0 */
/* How long receipts take, in virtual time: the statistic of each ten seconds, and the warning when they take too long. */
#include "base/clock.h"
#include "../support/wait.h"

#include <evbus/evbus.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct world {
    evbus *bus;
    evbus_clock *clock;
    _Atomic(uint32_t) slow; /* events */
};

static void on_event(const evbus_event *e, void *ctx)
{
    struct world *w = ctx;

    if (e->kind == EVBUS_EVENT_RECEIPTS_SLOW && strstr(e->text, "ack workers"))
        atomic_fetch_add(&w->slow, 1);
}

static evbus_statistics stats_of(const struct world *w)
{
    evbus_statistics s;

    assert_int_equal(evbus_stats(w->bus, &s), EVBUS_OK);
    return s;
}

struct wanted {
    struct world *w;
    uint64_t receipts;
    uint32_t slow;
};

static bool is_there(void *arg)
{
    const struct wanted *want = arg;

    return stats_of(want->w).receipts >= want->receipts && atomic_load(&want->w->slow) >= want->slow;
}

/* Publishes one and takes it `ms` after it was accepted. */
static void publish_and_take_after(struct world *w, uint32_t ms)
{
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    struct wanted want = {.w = w, .receipts = stats_of(w).receipts + 1};
    evbus_receipt r;
    size_t n = 0;

    evbus_receipt_init(&r);
    assert_int_equal(evbus_publish_envelope(w->bus, "times", &env, NULL), EVBUS_OK);
    assert_true(wait_until(is_there, &want, wait_patience_ms()));
    evbus_clock_advance(w->clock, ms);
    assert_int_equal(evbus_receipts_take(w->bus, 0, &r, 1, 0, &n), EVBUS_OK);
    assert_int_equal(n, 1);
}

/* Over half of publish_timeout_ms is said once, and once more only after it was better in between. */
static void test_receipt_times_warn_when_taken_too_late(void **state)
{
    struct world w = {.clock = evbus_clock_new(EV_SEC)};
    const evbus_opts o = {.struct_size = sizeof o,
                          .clock = w.clock,
                          .receipts = EVBUS_ON,
                          .publish_timeout_ms = 2000,
                          .on_event = on_event,
                          .on_event_ctx = &w};

    (void)state;
    assert_int_equal(evbus_open("mem://", &o, &w.bus), EVBUS_OK);
    publish_and_take_after(&w, 5); /* begins the first ten seconds */
    assert_int_equal(stats_of(&w).receipts_p99_us, 0);
    evbus_clock_advance(w.clock, 10000);
    publish_and_take_after(&w, 1100); /* ends them, and is in the second ten */
    assert_in_range(stats_of(&w).receipts_p99_us, 5000, 5100);
    assert_int_equal(stats_of(&w).receipts_slow, 0);
    for (uint32_t i = 0; i < 3; i++) { /* three slow windows are one warning */
        evbus_clock_advance(w.clock, 10000);
        publish_and_take_after(&w, 1100);
        assert_in_range(stats_of(&w).receipts_p99_us, 1100000, 1110000);
        assert_int_equal(stats_of(&w).receipts_slow, 1);
    }
    assert_true(wait_until(is_there, &(struct wanted){.w = &w, .slow = 1}, wait_patience_ms()));
    for (uint32_t i = 0; i < 2; i++) { /* better */
        evbus_clock_advance(w.clock, 10000);
        publish_and_take_after(&w, 900);
    }
    assert_in_range(stats_of(&w).receipts_p99_us, 900000, 910000);
    for (uint32_t i = 0; i < 2; i++) { /* and slow again */
        evbus_clock_advance(w.clock, 10000);
        publish_and_take_after(&w, 1900);
    }
    assert_int_equal(stats_of(&w).receipts_slow, 2);
    assert_true(wait_until(is_there, &(struct wanted){.w = &w, .slow = 2}, wait_patience_ms()));
    evbus_close(w.bus);
    evbus_clock_free(w.clock);
}

static void on_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    if (level == EVBUS_LOG_WARN && strcmp(subject, "close") == 0 && strcmp(text, "2 receipts were never taken") == 0)
        atomic_fetch_add((_Atomic(uint32_t) *)ctx, 1);
}

/* What was never taken is gone with the bus, and the log says how many. */
static void test_receipt_times_close_tells_what_was_not_taken(void **state)
{
    const evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};
    _Atomic(uint32_t) told = 0;
    evbus_receipt r;
    evbus *bus;
    size_t n;

    (void)state;
    evbus_receipt_init(&r);
    const evbus_opts o = {.struct_size = sizeof o, .receipts = EVBUS_ON, .log = on_log, .log_ctx = &told};
    assert_int_equal(evbus_open("mem://", &o, &bus), EVBUS_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(evbus_publish_envelope(bus, "times", &env, NULL), EVBUS_OK);
    assert_int_equal(evbus_shutdown(bus, 0, NULL), EVBUS_OK);
    assert_int_equal(evbus_receipts_take(bus, 0, &r, 1, 0, &n), EVBUS_OK);
    evbus_close(bus);
    assert_int_equal(told, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_receipt_times_warn_when_taken_too_late),
        cmocka_unit_test(test_receipt_times_close_tells_what_was_not_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
