/* SPDX-License-Identifier: Apache-2.0 */
/* mem:// under load on real threads, while members leave and come: judged as a real server is. */
#include "driver.h"

#include "../support/wait.h"

#ifndef TRUTH_FRONTIER
#define TRUTH_FRONTIER false
#endif

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

struct progress {
    struct driver *driver;
    uint64_t target;
};

static bool acked_enough(void *arg)
{
    const struct progress *p = arg;

    return atomic_load(&p->driver->truth->shared->acked) >= p->target;
}

static bool add_waiting(const evbus_lag *lag, void *ctx)
{
    *(uint64_t *)ctx += lag->pending + lag->ack_pending;
    return true;
}

/* As the broker has it: what was handled twice counts twice here. */
static bool all_finished(void *arg)
{
    const struct progress *p = arg;
    uint64_t waiting = 0;

    return evbus_lags(p->driver->bus, EVBUS_OPTS(evbus_lag_opts, .topic = p->driver->o.topic), add_waiting, &waiting) ==
               EVBUS_OK &&
           waiting == 0;
}

/* A letter that is stored again is the same one: what the broker has counts. */
static uint64_t letters_stored(const struct driver *d)
{
    evbus_stream_info info = {.struct_size = sizeof info};
    char topic[80];

    (void)snprintf(topic, sizeof topic, "dlq.%s", d->o.topic);
    assert_int_equal(evbus_topic_stream(d->bus, topic, 0, &info), EVBUS_OK);
    return info.messages;
}

static void run(uint64_t seed, struct truth *log, struct truth_account *total)
{
    static struct driver d;
    struct truth_case c = {.name = "mem", .seed = seed, .logs = log, .log_count = 1, .attempts_max = 3};
    struct truth_account account;
    struct driver_opts o = driver_defaults("mem://", seed);
    struct progress p = {.driver = &d};
    uint64_t rng = seed;

    truth_clear(log);
    o.pause_us = 100;
    o.handler_us = 200;
    assert_true(driver_start(&d, &o, log));
    for (int i = 0; i < 3; i++) { /* while messages are here and not settled */
        p.target += 200 + driver_random(&rng) % 300;
        assert_true(wait_until(acked_enough, &p, wait_patience_ms()));
        assert_true(driver_resubscribe(&d));
    }
    const evbus_statistics bitten = driver_stats(&d);
    assert_true(bitten.handed_back > 0 && bitten.redelivered > 0);
    assert_true(driver_settle(&d, wait_patience_ms()));
    assert_true(wait_until(all_finished, &p, wait_patience_ms()));
    const evbus_statistics s = driver_stats(&d);
    assert_true(driver_read(&d, s.publishes_stored, letters_stored(&d), &c));
    driver_end(&d);
    const bool kept = truth_judge(&c, &account);
    truth_content_clear(&c.stream);
    truth_content_clear(&c.letters);
    assert_true(kept);
    assert_int_equal(account.members, 4);
    total->starts += account.starts;
    total->retries += account.retries;
    total->letters += account.letters;
}

/* Retries, rejects, deferred verdicts; three members that leave in the middle. */
static void test_truth_mem_keeps_every_promise(void **state)
{
    struct truth_account total = {0};
    struct truth log;
    const uint64_t seed = driver_seed(1);

    (void)state;
    assert_true(truth_open(&log, NULL, 1, DRIVER_LOG));
    for (uint32_t i = 0; i < driver_points(3); i++)
        run(seed + i, &log, &total);
    truth_close(&log);
    print_message("%llu handler starts, %llu of them retries, %llu dead letters\n", (unsigned long long)total.starts,
                  (unsigned long long)total.retries, (unsigned long long)total.letters);
    assert_true(total.retries > 0 && total.letters > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth_mem_keeps_every_promise),
    };

    driver_frontier = TRUTH_FRONTIER;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
