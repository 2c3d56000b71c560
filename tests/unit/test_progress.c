/* SPDX-License-Identifier: Apache-2.0 */
/* The rule of progress.c on looks made up: when a subscription is stuck, when it is only slow, how often it is repaired. */
#include "core/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define PATIENCE (10 * EV_SEC)
#define EVERY (2 * EV_SEC)

/* Something waits, there is room, nothing came: what nothing but a repair explains. */
static struct ev_progress_look silent(int64_t now)
{
    return (struct ev_progress_look){.now = now, .patience = PATIENCE, .waiting = 5};
}

/* Looks every two seconds from `from` for `time`, and returns how often it was stuck; *ret_last: when last. */
static uint32_t look_for(struct ev_progress *p, struct ev_progress_look look, int64_t time, int64_t *ret_last)
{
    uint32_t stuck = 0;

    for (int64_t end = look.now + time; look.now < end; look.now += EVERY) {
        if (ev_progress_judge(p, &look) != EV_PROGRESS_STUCK)
            continue;
        stuck++;
        if (ret_last)
            *ret_last = look.now;
    }
    return stuck;
}

/* Not before its time; then each time twice as long after the one before, up to 16 times. */
static void test_progress_repairs_ever_more_seldom(void **state)
{
    static const int64_t times[] = {1, 2, 4, 8, 16, 16, 16};
    struct ev_progress p = {0};
    int64_t now = EV_SEC, last = now;

    (void)state;
    for (uint32_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        struct ev_progress_look look = silent(now);
        while (ev_progress_judge(&p, &look) == EV_PROGRESS_WAITS)
            look.now += EVERY;
        assert_int_equal(p.reason, EV_PROGRESS_STUCK);
        assert_int_equal(look.now - last, times[i] * PATIENCE);
        assert_int_equal(p.repairs, i + 1);
        last = now = look.now;
    }
}

/* Whatever explains the silence, for however long: no repair, and its time begins anew afterwards. */
static void test_progress_leaves_alone_what_is_slow(void **state)
{
    struct ev_progress_look full = silent(EV_SEC), away = full, empty = full, never = full;
    int64_t last = 0;

    (void)state;
    full.full = away.away = true;
    empty.waiting = 0;
    never.patience = EV_NEVER;
    const struct {
        struct ev_progress_look look;
        enum ev_progress_reason reason;
    } all[] = {{full, EV_PROGRESS_FULL}, {away, EV_PROGRESS_AWAY}, {empty, EV_PROGRESS_EMPTY}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct ev_progress p = {0};
        assert_int_equal(look_for(&p, silent(EV_SEC), PATIENCE - EVERY, NULL), 0); /* almost */
        struct ev_progress_look look = all[i].look;
        look.now = 100 * EV_SEC;
        assert_int_equal(look_for(&p, look, 3600 * EV_SEC, NULL), 0);
        assert_int_equal(p.reason, all[i].reason);
        assert_int_equal(look_for(&p, silent(4000 * EV_SEC), PATIENCE + EVERY, &last), 1);
        assert_int_equal(last, 4000 * EV_SEC + PATIENCE);
    }
    struct ev_progress p = {0};
    assert_int_equal(look_for(&p, never, 3600 * EV_SEC, NULL), 0);
    assert_int_equal(p.reason, EV_PROGRESS_WAITS);
}

/* One message is enough; a subscription that gets one now and then is slow. */
static void test_progress_is_a_message_that_came(void **state)
{
    struct ev_progress p = {0};
    struct ev_progress_look look = silent(EV_SEC);

    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        look.arrived++;
        assert_int_equal(ev_progress_judge(&p, &look), EV_PROGRESS_MOVES);
        look.now += EVERY;
        assert_int_equal(look_for(&p, look, PATIENCE, NULL), 0);
        look.now += PATIENCE;
    }
    assert_int_equal(p.repairs, 0);
}

/* What was delivered before comes again only after its ack wait: that much longer is waited. */
static void test_progress_waits_out_the_ack_wait(void **state)
{
    struct ev_progress p = {0};
    struct ev_progress_look look = silent(EV_SEC);
    int64_t last = 0;

    (void)state;
    look.slower = 30 * EV_SEC;
    assert_int_equal(look_for(&p, look, look.slower + PATIENCE + EVERY, &last), 1);
    assert_int_equal(last, EV_SEC + look.slower + PATIENCE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress_repairs_ever_more_seldom),
        cmocka_unit_test(test_progress_leaves_alone_what_is_slow),
        cmocka_unit_test(test_progress_is_a_message_that_came),
        cmocka_unit_test(test_progress_waits_out_the_ack_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
