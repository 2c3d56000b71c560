/* SPDX-License-Identifier: Apache-2.0 */
/* Statuses, their texts, the detail sentence of each thread, and the log callback. */
#include "base/log.h"
#include "base/status.h"
#include "support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Every status has a name, a text of its own, and survives numbers that are no status. */
static void test_status_names_every_code(void **state)
{
    (void)state;
#define CHECK(name, code, text)                                                                                        \
    assert_int_equal(name, code);                                                                                      \
    assert_string_equal(evbus_status_name(name), #name);                                                               \
    assert_string_equal(evbus_strerror(name), text);
    EVBUS_STATUS_MAP(CHECK)
#undef CHECK
    for (int other = 22; other < 1000; other += 61) {
        assert_non_null(evbus_strerror((evbus_status)other));
        assert_non_null(evbus_status_name((evbus_status)other));
    }
}

/* The running library says the version of the header it was built with. */
static void test_status_version_is_the_headers(void **state)
{
    char expected[32];

    (void)state;
    snprintf(expected, sizeof expected, "%d.%d.%d", EVBUS_VERSION_MAJOR, EVBUS_VERSION_MINOR, EVBUS_VERSION_PATCH);
    assert_string_equal(evbus_version(), expected);
    assert_string_equal(evbus_version(), EVBUS_VERSION);
}

/* ev_fail returns its status and leaves the sentence, also when the sentence quotes the one before. */
static void test_status_fail_leaves_a_sentence(void **state)
{
    (void)state;
    assert_int_equal(ev_fail(EVBUS_LIMIT, "topics_max is %d", 7), EVBUS_LIMIT);
    assert_string_equal(evbus_error_detail(), "topics_max is 7");
    assert_int_equal(ev_fail(EVBUS_TIMEOUT, "%s, still", ev_detail()), EVBUS_TIMEOUT);
    assert_string_equal(ev_detail(), "topics_max is 7, still");
}

/* A prefix goes before the sentence, and stands alone when there was none. */
static void test_status_prefix_goes_before_the_sentence(void **state)
{
    (void)state;
    ev_fail(EVBUS_INVALID, "not a number");
    assert_int_equal(ev_fail_prefix(EVBUS_INVALID, "option %s", "inflight_max"), EVBUS_INVALID);
    assert_string_equal(ev_detail(), "option inflight_max: not a number");
    ev_fail(EVBUS_INVALID, "%s", "");
    ev_fail_prefix(EVBUS_INVALID, "open");
    assert_string_equal(ev_detail(), "open");
}

/* Sentences and prefixes of any length are cut, never overrun. */
static void test_status_cuts_long_sentences(void **state)
{
    char longer[3 * EV_DETAIL_MAX];

    (void)state;
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ev_fail(EVBUS_INVALID, "%s", longer);
    assert_int_equal(strlen(ev_detail()), EV_DETAIL_MAX - 1);
    ev_fail(EVBUS_INVALID, "tail");
    for (int len = EV_DETAIL_MAX - 10; len < EV_DETAIL_MAX + 3; len++) {
        ev_fail(EVBUS_INVALID, "tail");
        ev_fail_prefix(EVBUS_INVALID, "%.*s", len, longer);
        assert_true(strlen(ev_detail()) < EV_DETAIL_MAX);
        assert_int_equal(ev_detail()[0], 'x');
    }
}

static void fail_on_a_thread(int index, void *ctx)
{
    char mine[32];

    (void)ctx;
    RACE_CHECK(ev_detail()[0] == '\0');
    snprintf(mine, sizeof mine, "thread %d", index);
    for (int i = 0; i < 1000; i++) {
        ev_fail(EVBUS_INVALID, "thread %d", index);
        RACE_CHECK(strcmp(ev_detail(), mine) == 0);
    }
}

/* Threads do not see each other's sentences, and a new thread has none. */
static void test_status_sentence_belongs_to_the_thread(void **state)
{
    (void)state;
    ev_fail(EVBUS_INVALID, "main");
    race_run(4, fail_on_a_thread, NULL);
    assert_int_equal(race_failures(), 0);
    assert_string_equal(ev_detail(), "main");
}

static void take_line(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    snprintf(ctx, 2000, "%d %s %s", (int)level, subject, text);
}

/* The log callback gets lines up to its level; without a callback nothing happens. */
static void test_status_log_honours_its_level(void **state)
{
    char got[2000] = "";
    struct ev_log log = {.fn = take_line, .ctx = got, .level = EVBUS_LOG_WARN};
    char longer[3000];

    (void)state;
    ev_log(&log, EVBUS_LOG_INFO, "bus", "too quiet");
    assert_string_equal(got, "");
    ev_log(&log, EVBUS_LOG_WARN, "bus", "%d topics", 3);
    assert_string_equal(got, "2 bus 3 topics");
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ev_log(&log, EVBUS_LOG_ERROR, "bus", "%s", longer);
    assert_int_equal(strlen(got), strlen("1 bus ") + 1023);
    log.fn = NULL;
    ev_log(&log, EVBUS_LOG_ERROR, "bus", "nobody");
    ev_log(NULL, EVBUS_LOG_ERROR, "bus", "nobody");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_names_every_code),
        cmocka_unit_test(test_status_version_is_the_headers),
        cmocka_unit_test(test_status_fail_leaves_a_sentence),
        cmocka_unit_test(test_status_prefix_goes_before_the_sentence),
        cmocka_unit_test(test_status_cuts_long_sentences),
        cmocka_unit_test(test_status_sentence_belongs_to_the_thread),
        cmocka_unit_test(test_status_log_honours_its_level),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
