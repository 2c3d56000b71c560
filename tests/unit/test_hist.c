/* SPDX-License-Identifier: Apache-2.0 */
/* The latency histogram: its error, its ends, and readers beside the writer. */
#include "conc/hist.h"
#include "support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ev_hist hist; /* 36 KiB each: not for the stack */
static struct ev_hist other;

/* An empty histogram answers 0 to everything. */
static void test_hist_empty_answers_zero(void **state)
{
    (void)state;
    ev_hist_init(&hist);
    assert_int_equal(ev_hist_count(&hist), 0);
    assert_int_equal(ev_hist_max(&hist), 0);
    assert_int_equal(ev_hist_quantile(&hist, 0.99), 0);
}

/* Any value from a nanosecond to an hour is given back no lower, and less than 0.8 % higher. */
static void test_hist_error_is_below_one_percent(void **state)
{
    (void)state;
    for (int64_t value = 1; value < INT64_C(3600000000000); value += 1 + value / 97) {
        ev_hist_init(&hist);
        ev_hist_add(&hist, value);
        ev_hist_add(&hist, INT64_C(4000000000000)); /* so that max does not help */
        const int64_t got = ev_hist_quantile(&hist, 0.5);
        assert_true(got >= value);
        assert_true((got - value) * 1000 <= value * 8);
    }
}

/* Values up to 255 are exact; the largest seen is exact and bounds every quantile. */
static void test_hist_small_values_and_max_are_exact(void **state)
{
    (void)state;
    ev_hist_init(&hist);
    for (int64_t value = 0; value < 256; value++)
        ev_hist_add(&hist, value);
    assert_int_equal(ev_hist_count(&hist), 256);
    for (int64_t value = 0; value < 256; value++)
        assert_int_equal(ev_hist_quantile(&hist, ((double)value + 1) / 256), value);
    ev_hist_add(&hist, 1000001);
    assert_int_equal(ev_hist_max(&hist), 1000001);
    assert_int_equal(ev_hist_quantile(&hist, 1), 1000001);
    assert_int_equal(ev_hist_quantile(&hist, 2), 1000001);
    assert_int_equal(ev_hist_quantile(&hist, 0), 0);
    assert_int_equal(ev_hist_quantile(&hist, -1), 0);
}

/* Quantiles of a known crowd come out in the right place. */
static void test_hist_quantiles_of_a_known_crowd(void **state)
{
    static const double wanted[] = {0.01, 0.25, 0.5, 0.9, 0.99, 0.999};

    (void)state;
    ev_hist_init(&hist);
    for (int64_t value = 100000; value >= 1; value--)
        ev_hist_add(&hist, value * 1000);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const double exact = wanted[i] * 100000 * 1000;
        const double got = (double)ev_hist_quantile(&hist, wanted[i]);

        assert_true(got >= exact * 0.999 && got <= exact * 1.009);
    }
}

/* Times that cannot be: below zero counts as zero, beyond the last bucket is kept in it. */
static void test_hist_takes_impossible_times(void **state)
{
    (void)state;
    ev_hist_init(&hist);
    ev_hist_add(&hist, -1);
    ev_hist_add(&hist, INT64_MIN);
    assert_int_equal(ev_hist_quantile(&hist, 1), 0);
    ev_hist_add(&hist, INT64_MAX);
    assert_int_equal(ev_hist_count(&hist), 3);
    assert_true(ev_hist_quantile(&hist, 1) == INT64_MAX);
    assert_int_equal(ev_hist_quantile(&hist, 0.5), 0);
}

/* Two merged are as one that took all. */
static void test_hist_merge_is_as_one(void **state)
{
    static struct ev_hist both;

    (void)state;
    ev_hist_init(&hist);
    ev_hist_init(&other);
    ev_hist_init(&both);
    for (int64_t i = 1; i < 20000; i++) {
        ev_hist_add(i % 3 ? &hist : &other, i * i);
        ev_hist_add(&both, i * i);
    }
    ev_hist_merge(&hist, &other);
    assert_int_equal(ev_hist_count(&hist), ev_hist_count(&both));
    assert_int_equal(ev_hist_max(&hist), ev_hist_max(&both));
    for (double q = 0; q <= 1; q += 0.01)
        assert_int_equal(ev_hist_quantile(&hist, q), ev_hist_quantile(&both, q));
}

#define ADDS 20000

static void write_and_read(int index, void *ctx)
{
    uint64_t last = 0;

    (void)ctx;
    if (index == 0) {
        for (int64_t i = 1; i <= ADDS; i++)
            ev_hist_add(&hist, i);
        return;
    }
    while (last < ADDS) {
        const uint64_t count = ev_hist_count(&hist);

        RACE_CHECK(count >= last);
        RACE_CHECK(ev_hist_quantile(&hist, 0.5) <= ADDS);
        last = count;
    }
}

/* Readers beside the writer see numbers that only grow. */
static void test_hist_is_read_while_written(void **state)
{
    (void)state;
    ev_hist_init(&hist);
    race_run(3, write_and_read, NULL);
    assert_int_equal(race_failures(), 0);
    assert_int_equal(ev_hist_count(&hist), ADDS);
    assert_int_equal(ev_hist_max(&hist), ADDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hist_empty_answers_zero),
        cmocka_unit_test(test_hist_error_is_below_one_percent),
        cmocka_unit_test(test_hist_small_values_and_max_are_exact),
        cmocka_unit_test(test_hist_quantiles_of_a_known_crowd),
        cmocka_unit_test(test_hist_takes_impossible_times),
        cmocka_unit_test(test_hist_merge_is_as_one),
        cmocka_unit_test(test_hist_is_read_while_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
