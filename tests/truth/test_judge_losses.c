/* SPDX-License-Identifier: Apache-2.0 */
/* The judge, where a broker lost the state of its consumer: what follows from that is counted, all else is found as ever. */
#include "judge_history.h"

/* A broker that was killed now said before that all up to `before` was settled, and says `after` now. */
static void broker_lost(uint64_t before, uint64_t after)
{
    const struct truth_consumer was = {before, before}, is = {after, after};

    now++;
    assert_true(truth_loss(&logs[0], now, now, &was, &is));
}

/* v1 and v2 are acknowledged. The broker loses that, up to `lost`. */
static void both_settled_and_lost(uint64_t lost)
{
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    ran(1, 2, 2, EVBUS_ACK);
    broker_lost(lost, 0);
}

/* v1 is rejected, v2 acknowledged. The broker loses that, up to `lost`. Another member begins with v3, then runs all again. */
static void all_run_again(uint64_t lost)
{
    two_published();
    published(3, 3);
    ran(1, 1, 1, EVBUS_REJECT);
    letter(1);
    ran(1, 2, 2, EVBUS_ACK);
    if (lost)
        broker_lost(lost, 0);
    write_entry(2, TRUTH_MEMBER, 0, 0);
    ran(2, 3, 3, EVBUS_ACK);
    ran_again(2, 1, 1, EVBUS_REJECT);
    letter(1);
    ran_again(2, 2, 2, EVBUS_ACK);
}

static void test_judge_counts_what_runs_again_after_a_loss(void **state)
{
    struct truth_account account;

    (void)state;
    all_run_again(2);
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.losses, 1);
    assert_int_equal(account.again, 2);
    assert_int_equal(account.letters_again, 1);
}

static void test_judge_finds_the_same_without_a_loss(void **state)
{
    (void)state;
    all_run_again(0);
    expect("has two dead letters");
    trial.letters.count = 1;
    expect("sequence 1 starts after 3");
}

/* v1 was lost, and is excused; v2 was not: that v1 was before it excuses nothing. */
static void test_judge_finds_a_step_back_above_what_was_lost(void **state)
{
    (void)state;
    all_run_again(1);
    expect("sequence 2 starts after 3");
}

static void test_judge_finds_a_member_that_knew_what_was_lost(void **state)
{
    (void)state;
    both_settled_and_lost(2);
    ran(1, 1, 1, EVBUS_ACK);
    expect("sequence 1 starts after 2");
}

/* Its floor stood still; but it had delivered that, and says now that it never did. */
static void test_judge_counts_what_was_delivered_before_a_loss(void **state)
{
    const struct truth_consumer was = {0, 2}, less = {0, 1}, none = {0, 0};
    struct truth_account account;

    (void)state;
    all_run_again(0);
    now = logs[0].entries[10].at_ns; /* the verdict of v2 */
    assert_true(truth_loss(&logs[0], now, now, &was, &less));
    expect("has two dead letters");
    atomic_fetch_sub(&logs[0].shared->count, 1);
    assert_true(truth_loss(&logs[0], now, now, &was, &none));
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.again, 2);
    assert_int_equal(account.letters_again, 1);
}

/* It was settled by the one before, above the floor that the member was told when its turn began. Tried again, it is the same
 * run. */
static void test_judge_counts_what_others_settled_before_a_turn(void **state)
{
    struct truth_account account;

    (void)state;
    two_published();
    published(3, 3);
    ran(1, 1, 1, EVBUS_ACK);
    ran(1, 2, 2, EVBUS_ACK);
    write_entry(2, TRUTH_MEMBER, 0, 0);
    ran(2, 3, 3, EVBUS_ACK);
    broker_lost(3, 0);
    ran_again(2, 2, 2, EVBUS_RETRY);
    started_again(2, 2, 2)->attempt = 2;
    write_entry(2, TRUTH_VERDICT, 2, 2)->verdict = EVBUS_ACK;
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.again, 1);
    ran_again(2, 3, 3, EVBUS_ACK);
    expect("v3 was acknowledged here and runs again");
}

/* It lost its turn and has it again: it begins as any other. */
static void test_judge_counts_what_runs_again_in_a_new_turn(void **state)
{
    struct truth_account account;

    (void)state;
    both_settled_and_lost(2);
    truth_standby(&logs[0]);
    ran(1, 1, 1, EVBUS_ACK);
    trial.unflagged_repeats = true;
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.again, 1);
    logs[0].entries[10].process = 2; /* another one stood by */
    expect("sequence 1 starts after 2");
}

/* It remembers its latest only. */
static void test_judge_counts_what_a_shared_member_runs_again(void **state)
{
    struct truth_account account;

    (void)state;
    trial.shared = true;
    trial.unflagged_repeats = true;
    both_settled_and_lost(1);
    ran(1, 1, 1, EVBUS_ACK);
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.again, 1);
    ran(1, 1, 1, EVBUS_ACK);
    expect("was acknowledged here and runs again");
}

static void test_judge_finds_a_shared_member_that_runs_more_again(void **state)
{
    (void)state;
    trial.shared = true;
    trial.unflagged_repeats = true;
    both_settled_and_lost(1);
    ran(1, 2, 2, EVBUS_ACK);
    expect("v2 was acknowledged here and runs again");
}

static void test_judge_finds_two_letters_of_one_loss(void **state)
{
    (void)state;
    all_run_again(2);
    letter(1);
    expect("has two dead letters");
}

/* One loss is before both letters; the other one is between, but no run: that letter is nobody's but ours. */
static void test_judge_finds_a_second_letter_that_no_loss_explains(void **state)
{
    (void)state;
    two_published();
    broker_lost(2, 0);
    ran(1, 1, 1, EVBUS_REJECT);
    letter(1);
    ran(1, 2, 2, EVBUS_ACK);
    broker_lost(2, 0);
    letter(1);
    expect("has two dead letters");
}

static void test_truth_loss_is_a_state_that_went_back(void **state)
{
    const struct truth_consumer was = {5, 7}, same = {5, 7}, more = {6, 9}, less = {5, 6};

    (void)state;
    assert_false(truth_loss(&logs[0], 1, 1, &was, &same));
    assert_false(truth_loss(&logs[0], 1, 1, &was, &more));
    assert_true(truth_loss(&logs[0], 1, 1, &was, &less));
}

int main(void)
{
#define JUDGE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        JUDGE(test_judge_counts_what_runs_again_after_a_loss),
        JUDGE(test_judge_finds_the_same_without_a_loss),
        JUDGE(test_judge_finds_a_step_back_above_what_was_lost),
        JUDGE(test_judge_finds_a_member_that_knew_what_was_lost),
        JUDGE(test_judge_counts_what_was_delivered_before_a_loss),
        JUDGE(test_judge_counts_what_others_settled_before_a_turn),
        JUDGE(test_judge_counts_what_runs_again_in_a_new_turn),
        JUDGE(test_judge_counts_what_a_shared_member_runs_again),
        JUDGE(test_judge_finds_a_shared_member_that_runs_more_again),
        JUDGE(test_judge_finds_two_letters_of_one_loss),
        JUDGE(test_judge_finds_a_second_letter_that_no_loss_explains),
        JUDGE(test_truth_loss_is_a_state_that_went_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
