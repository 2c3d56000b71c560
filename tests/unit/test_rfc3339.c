/* SPDX-License-Identifier: Apache-2.0 */
/* Time text: Go's RFC3339Nano both ways, against tables and against the C library's calendar. */
#include "core/rfc3339.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SEED UINT64_C(0x5eed0339)

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = (*state += UINT64_C(0x9e3779b97f4a7c15));

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* From a heap block of exactly `len` bytes, so that a sanitizer sees every byte read behind it. */
static const char *get(const char *text, size_t len, int64_t *ret)
{
    char *exact = malloc(len ? len : 1);

    assert_non_null(exact);
    memcpy(exact, text, len);
    const char *wrong = ev_rfc3339_get(exact, len, ret);
    free(exact);
    return wrong;
}

static void assert_put(int64_t time_ns, const char *text)
{
    char out[EV_RFC3339_MAX + 1];

    out[ev_rfc3339_put(out, time_ns)] = '\0';
    assert_string_equal(out, text);
}

static const struct {
    int64_t time_ns;
    const char *text;
} both_ways[] = {
    {0, "1970-01-01T00:00:00Z"},
    {1, "1970-01-01T00:00:00.000000001Z"},
    {-1, "1969-12-31T23:59:59.999999999Z"},
    {100000000, "1970-01-01T00:00:00.1Z"},
    {120000000, "1970-01-01T00:00:00.12Z"},
    {123456000, "1970-01-01T00:00:00.123456Z"},
    {123456780, "1970-01-01T00:00:00.12345678Z"},
    {10000000, "1970-01-01T00:00:00.01Z"},
    {INT64_C(1767294245123456789), "2026-01-01T19:04:05.123456789Z"},
    {INT64_C(951782400000000000), "2000-02-29T00:00:00Z"},
    {INT64_C(951868800000000000), "2000-03-01T00:00:00Z"},
    {INT64_C(4107542399000000000), "2100-02-28T23:59:59Z"},
    {INT64_C(4107542400000000000), "2100-03-01T00:00:00Z"},
    {INT64_C(-2203891200000000000), "1900-03-01T00:00:00Z"},
    {INT64_C(1709164800000000000), "2024-02-29T00:00:00Z"},
    {INT64_C(1735689599999999999), "2024-12-31T23:59:59.999999999Z"},
    {INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
    {INT64_MIN, "1677-09-21T00:12:43.145224192Z"},
    {INT64_MIN + 1, "1677-09-21T00:12:43.145224193Z"},
};

/* What Go writes is written, and read back to the same nanosecond, up to both ends of the range. */
static void test_rfc3339_writes_and_reads_as_go_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof both_ways / sizeof both_ways[0]; i++) {
        int64_t time_ns = 42;

        assert_put(both_ways[i].time_ns, both_ways[i].text);
        assert_null(get(both_ways[i].text, strlen(both_ways[i].text), &time_ns));
        assert_int_equal(time_ns, both_ways[i].time_ns);
    }
}

static const struct {
    const char *text;
    int64_t time_ns;
} readable[] = {
    {"2026-01-02T03:04:05.123456789+08:00", INT64_C(1767294245123456789)}, /* origin's example */
    {"1970-01-01T00:00:00+00:00", 0},
    {"1970-01-01T00:00:00-00:00", 0},
    {"1970-01-01T05:30:00+05:30", 0},
    {"1969-12-31T18:15:00-05:45", 0},
    {"1970-01-01T23:59:00+23:59", 0},
    {"1969-12-31T00:01:00-23:59", 0},
    {"1970-01-01T00:00:00.0Z", 0},
    {"1970-01-01T00:00:00.000000000Z", 0},
    {"1970-01-01T00:00:00.5Z", 500000000},
    {"1970-01-01T00:00:00.50Z", 500000000},
    {"1970-01-01T00:00:00.1234567899Z", 123456789}, /* the tenth digit is cut, not rounded */
    {"1970-01-01T00:00:00.99999999999999999999999999999999999999Z", 999999999},
    {"1970-01-01T00:00:00.000000000999+01:00", INT64_C(-3600000000000)},
    {"2262-04-12T07:47:16.854775807+08:00", INT64_MAX},
    {"1677-09-20T16:12:43.145224192-08:00", INT64_MIN},
    {"0001-01-01T00:00:00Z", 0}, /* Go's zero time */
    {"0001-01-01T08:00:00+08:00", 0},
    {"0000-12-31T16:00:00-08:00", 0},
    {"0001-01-01T00:00:00.000000000Z", 0},
};

/* Every offset and any number of fraction digits is read; Go's zero time, in any zone, is 0. */
static void test_rfc3339_reads_offsets_fractions_and_zero_time(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof readable / sizeof readable[0]; i++) {
        int64_t time_ns = 42;
        const char *wrong = get(readable[i].text, strlen(readable[i].text), &time_ns);

        if (wrong)
            fail_msg("'%s': %s", readable[i].text, wrong);
        assert_int_equal(time_ns, readable[i].time_ns);
    }
}

#define SHAPE "is not RFC 3339, as in 2006-01-02T15:04:05.999999999Z"
#define ENDING "does not end with Z or an offset as in +08:00"
#define RANGE "is outside the years 1678..2262"

static const struct {
    const char *text;
    const char *wrong;
} refused[] = {
    {"", SHAPE},
    {"Z", SHAPE},
    {"2026-01-02", SHAPE},
    {"2026-01-02T03:04:05", SHAPE},
    {"2026-01-02T03:04Z...", SHAPE},
    {"2026-1-02T03:04:05Z.", SHAPE},
    {"2026-01-02 03:04:05Z", SHAPE},
    {"2026-01-02t03:04:05Z", SHAPE},
    {" 2026-01-02T03:04:05Z", SHAPE},
    {"+2026-01-02T03:04:05Z", SHAPE},
    {"-026-01-02T03:04:05Z", SHAPE},
    {"2026/01/02T03:04:05Z", SHAPE},
    {"1767294245123456789012", SHAPE},
    {"2026-00-02T03:04:05Z", "month is outside 01..12"},
    {"2026-13-02T03:04:05Z", "month is outside 01..12"},
    {"2026-01-00T03:04:05Z", "day is not in that month"},
    {"2026-01-32T03:04:05Z", "day is not in that month"},
    {"2026-04-31T03:04:05Z", "day is not in that month"},
    {"2026-02-29T03:04:05Z", "day is not in that month"},
    {"2100-02-29T03:04:05Z", "day is not in that month"},
    {"1900-02-29T03:04:05Z", "day is not in that month"},
    {"2000-02-30T03:04:05Z", "day is not in that month"},
    {"2026-01-02T24:00:00Z", "hour is outside 00..23"},
    {"2026-01-02T23:60:00Z", "minute is outside 00..59"},
    {"2016-12-31T23:59:60Z", "second is outside 00..59"},
    {"2026-01-02T03:04:05.Z", "fraction has no digits"},
    {"2026-01-02T03:04:05.+08:00", "fraction has no digits"},
    {"2026-01-02T03:04:05.", "fraction has no digits"},
    {"2026-01-02T03:04:05,5Z", ENDING},
    {"2026-01-02T03:04:05.123", ENDING},
    {"2026-01-02T03:04:05z", ENDING},
    {"2026-01-02T03:04:05ZZ", ENDING},
    {"2026-01-02T03:04:05Z ", ENDING},
    {"2026-01-02T03:04:05+8:00", ENDING},
    {"2026-01-02T03:04:05+0800", ENDING},
    {"2026-01-02T03:04:05+08", ENDING},
    {"2026-01-02T03:04:05+08:00Z", ENDING},
    {"2026-01-02T03:04:05+08:0x", ENDING},
    {"2026-01-02T03:04:05 08:00", ENDING},
    {"2026-01-02T03:04:05+24:00", "offset is outside -23:59..+23:59"},
    {"2026-01-02T03:04:05-08:60", "offset is outside -23:59..+23:59"},
    {"2262-04-11T23:47:16.854775808Z", RANGE},
    {"2262-04-11T23:47:17Z", RANGE},
    {"1677-09-21T00:12:43.145224191Z", RANGE},
    {"1677-09-21T00:12:43Z", RANGE},
    {"1677-09-21T00:12:42.999999999Z", RANGE},
    {"0001-01-01T00:00:00.000000001Z", RANGE},
    {"0000-01-01T00:00:00Z", RANGE},
    {"9999-12-31T23:59:59.999999999Z", RANGE},
    {"9999-12-31T23:59:59-23:59", RANGE},
};

/* What Go refuses is refused with the reason, and the result is left alone. */
static void test_rfc3339_refuses_with_a_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        int64_t time_ns = 42;
        const char *wrong = get(refused[i].text, strlen(refused[i].text), &time_ns);

        if (!wrong)
            fail_msg("'%s' was accepted", refused[i].text);
        if (strcmp(wrong, refused[i].wrong) != 0)
            fail_msg("'%s': got '%s', not '%s'", refused[i].text, wrong, refused[i].wrong);
        assert_int_equal(time_ns, 42);
    }
}

/* Every prefix of a time is refused or, without the fraction's last digits, never read beyond. */
static void test_rfc3339_refuses_every_prefix(void **state)
{
    static const char text[] = "2026-01-02T03:04:05.123456789+08:00";
    int64_t time_ns;

    (void)state;
    for (size_t len = 0; len < sizeof text - 1; len++)
        assert_non_null(get(text, len, &time_ns));
}

/* The calendar agrees with the C library's for random times of the whole range and around each year's end. */
static void test_rfc3339_agrees_with_gmtime(void **state)
{
    uint64_t random = SEED;

    (void)state;
    for (int i = 0; i < 200000; i++) {
        int64_t time_ns = (int64_t)next_random(&random);
        if (i % 4 == 0) /* within two days of a new year */
            time_ns = (time_ns % 292) * INT64_C(31556952000000000) + time_ns % INT64_C(172800000000000);

        if (time_ns < INT64_MIN + 1000000000)
            continue; /* the table has the ends of the range */

        const int64_t ns = ((time_ns % 1000000000) + 1000000000) % 1000000000;
        const time_t sec = (time_t)((time_ns - ns) / 1000000000);
        struct tm tm;
        char expected[96], out[EV_RFC3339_MAX + 1];
        int64_t back;

        assert_non_null(gmtime_r(&sec, &tm));
        snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.%09d", tm.tm_year + 1900, tm.tm_mon + 1,
                 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)ns);
        size_t len = strlen(expected);
        while (expected[len - 1] == '0')
            len--;
        if (expected[len - 1] == '.')
            len--;
        memcpy(expected + len, "Z", 2);

        out[ev_rfc3339_put(out, time_ns)] = '\0';
        if (strcmp(out, expected) != 0)
            fail_msg("seed %#llx: %lld is '%s', not '%s'", (unsigned long long)SEED, (long long)time_ns, out, expected);
        assert_null(ev_rfc3339_get(out, strlen(out), &back));
        assert_int_equal(back, time_ns);
    }
}

/* Every day of 400 years is where its neighbours say it is. */
static void test_rfc3339_counts_every_day(void **state)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t expected = INT64_C(-8551872000); /* 1699-01-01 */

    (void)state;
    for (int year = 1699; year < 2200; year++) {
        const int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

        for (int month = 1; month <= 12; month++) {
            for (int day = 1; day <= days[month - 1] + (month == 2 && leap); day++, expected += 86400) {
                char text[64];
                int64_t time_ns = 42;

                snprintf(text, sizeof text, "%04d-%02d-%02dT00:00:00Z", year, month, day);
                assert_null(ev_rfc3339_get(text, strlen(text), &time_ns));
                if (time_ns != expected * 1000000000)
                    fail_msg("%s is %lld", text, (long long)time_ns);
                assert_put(time_ns, text);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc3339_writes_and_reads_as_go_does),
        cmocka_unit_test(test_rfc3339_reads_offsets_fractions_and_zero_time),
        cmocka_unit_test(test_rfc3339_refuses_with_a_reason),
        cmocka_unit_test(test_rfc3339_refuses_every_prefix),
        cmocka_unit_test(test_rfc3339_agrees_with_gmtime),
        cmocka_unit_test(test_rfc3339_counts_every_day),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
