/* SPDX-License-Identifier: Apache-2.0 */
/* The judge himself: a clean run passes, and each broken rule is found and named. */
#include "judge_history.h"

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

static void test_judge_passes_a_clean_run(void **state)
{
    struct truth_entry *again;

    (void)state;
    two_published();
    published(3, 0);
    write_entry(1, TRUTH_REFUSED, 3, 0);
    ran(1, 1, 1, EVBUS_RETRY);
    write_entry(1, TRUTH_START, 1, 1)->attempt = 2; /* in its handler when the process is killed */
    write_entry(2, TRUTH_MEMBER, 0, 0);
    again = write_entry(2, TRUTH_START, 1, 1);
    again->deliveries = 2;
    write_entry(2, TRUTH_VERDICT, 1, 1)->verdict = EVBUS_ACK;
    ran(2, 2, 2, EVBUS_ACK);
    totals(3, 2, 1, 0);
    expect(NULL);
}

static void test_judge_passes_what_is_dead_lettered(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_REJECT);
    letter(1);
    ran(1, 2, 2, EVBUS_ACK);
    expect(NULL);
}

static void test_judge_finds_a_start_before_the_letter_is_stored(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_REJECT);
    ran(1, 2, 2, EVBUS_ACK);
    letter(1);
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_a_start_out_of_order(void **state)
{
    (void)state;
    two_published();
    ran(1, 2, 2, EVBUS_ACK);
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_a_start_behind_a_failed_head(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_RETRY);
    ran(1, 2, 2, EVBUS_ACK);
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_a_step_back(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    ran(1, 2, 2, EVBUS_ACK);
    ran(1, 1, 1, EVBUS_ACK);
    expect("sequence 1 starts after 2");
}

static void test_judge_finds_a_settled_one_run_again(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    ran(1, 1, 1, EVBUS_ACK);
    expect("was acknowledged here and runs again");
}

static void test_judge_finds_a_rejected_one_run_again(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_REJECT);
    ran(1, 1, 1, EVBUS_ACK);
    expect("was given up here and runs again");
}

static void test_judge_finds_two_at_a_time(void **state)
{
    (void)state;
    two_published();
    write_entry(1, TRUTH_START, 1, 1);
    write_entry(1, TRUTH_START, 2, 2);
    expect("starts while another message of it runs");
}

static void test_judge_finds_a_start_out_of_turn(void **state)
{
    (void)state;
    two_published();
    published(3, 3);
    write_entry(2, TRUTH_MEMBER, 0, 0);
    ran(1, 1, 1, EVBUS_ACK);
    ran(2, 2, 2, EVBUS_ACK);
    ran(1, 3, 3, EVBUS_ACK);
    trial.turns = 3;
    expect(NULL);
    trial.turns = 2;
    expect("starts a handler, and it is not its turn");
    trial.turns = 4;
    expect("3 turns, not 4");
}

static void test_judge_finds_a_start_of_nobody(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    ran(2, 2, 2, EVBUS_ACK);
    expect("starts a handler, and never came");
}

static void test_judge_finds_a_start_after_the_end(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    write_entry(1, TRUTH_LEFT, 0, 0);
    ran(1, 2, 2, EVBUS_ACK);
    expect("starts a handler, and has left");
}

/* It was stopped in its handler; the next one runs that message again, and its own verdict is not settled. */
static void test_judge_passes_a_member_that_lost_its_turn(void **state)
{
    (void)state;
    two_published();
    write_entry(2, TRUTH_MEMBER, 0, 0);
    write_entry(1, TRUTH_START, 1, 1);
    (void)started_again(2, 1, 1);
    write_entry(1, TRUTH_VERDICT, 1, 1)->verdict = EVBUS_ACK;
    write_entry(2, TRUTH_VERDICT, 1, 1)->verdict = EVBUS_ACK;
    ran(2, 2, 2, EVBUS_ACK);
    trial.turns = 2;
    expect(NULL);
}

static void test_judge_finds_a_verdict_out_of_turn_settled(void **state)
{
    (void)state;
    two_published();
    published(3, 3);
    trial.stream.all[2].aggregate = 2; /* of another aggregate: it is what begins the turn */
    logs[0].entries[5].aggregate = logs[0].entries[6].aggregate = 2;
    write_entry(2, TRUTH_MEMBER, 0, 0);
    write_entry(1, TRUTH_START, 1, 1);
    write_entry(2, TRUTH_START, 3, 3)->aggregate = 2;
    write_entry(2, TRUTH_VERDICT, 3, 3)->aggregate = 2;
    write_entry(1, TRUTH_VERDICT, 1, 1)->verdict = EVBUS_ACK;
    ran(2, 2, 2, EVBUS_ACK);
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_a_hand_over_with_a_handler(void **state)
{
    (void)state;
    two_published();
    write_entry(2, TRUTH_MEMBER, 0, 0);
    write_entry(1, TRUTH_START, 1, 1);
    ran_again(2, 1, 1, EVBUS_ACK);
    ran(2, 2, 2, EVBUS_ACK);
    expect(NULL);
    trial.in_order = true;
    expect("still runs in the member before it");
}

static void test_judge_finds_a_repeat_after_a_hand_over(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    write_entry(1, TRUTH_LEFT, 0, 0);
    write_entry(2, TRUTH_MEMBER, 0, 0);
    ran_again(2, 1, 1, EVBUS_ACK);
    ran(2, 2, 2, EVBUS_ACK);
    expect(NULL);
    trial.in_order = true;
    expect("by a member that ended in order, and runs again");
}

/* Two at a time, in any order; one that was stopped starts what the other one got as a repeat meanwhile. */
static void test_judge_passes_shared_members(void **state)
{
    (void)state;
    two_published();
    write_entry(2, TRUTH_MEMBER, 0, 0);
    trial.shared = true;
    write_entry(1, TRUTH_START, 2, 2);
    ran_again(2, 1, 1, EVBUS_ACK);
    write_entry(1, TRUTH_VERDICT, 2, 2)->verdict = EVBUS_ACK;
    ran(1, 1, 1, EVBUS_ACK);
    expect(NULL);
    trial.shared = false;
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_what_shared_members_break(void **state)
{
    (void)state;
    two_published();
    write_entry(2, TRUTH_MEMBER, 0, 0);
    trial.shared = true;
    ran(1, 1, 1, EVBUS_ACK);
    ran(2, 1, 1, EVBUS_ACK);
    expect("is repeated and not flagged");
    trial.unflagged_repeats = true;
    expect("v2, sequence 2, was never handled");
    write_entry(2, TRUTH_START, 2, 2);
    write_entry(2, TRUTH_START, 1, 1);
    expect("starts while another message of it runs");
}

static void test_judge_finds_an_unflagged_repeat(void **state)
{
    (void)state;
    two_published();
    write_entry(1, TRUTH_START, 1, 1);
    write_entry(2, TRUTH_MEMBER, 0, 0);
    ran(2, 1, 1, EVBUS_ACK);
    expect("is repeated and not flagged");
}

static void test_judge_finds_a_lost_message(void **state)
{
    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_ACK);
    expect("v2, sequence 2, was never handled");
}

static void test_judge_finds_one_outcome_too_many(void **state)
{
    (void)state;
    published(1, 1);
    write_entry(1, TRUTH_UNKNOWN, 1, 0);
    write_entry(1, TRUTH_REFUSED, 1, 0);
    expect("has two outcomes");
}

static void test_judge_finds_a_refused_one_stored(void **state)
{
    (void)state;
    published(1, 1);
    write_entry(1, TRUTH_REFUSED, 1, 0);
    expect("reported refused and is in the stream");
}

static void test_judge_finds_a_zombie(void **state)
{
    (void)state;
    published(1, 0);
    write_entry(1, TRUTH_UNKNOWN, 1, 0);
    truth_content_add(&trial.stream,
                      &(struct truth_stored){.sequence = 1, .aggregate = 1, .version = 1, .stored_ns = now + 1});
    expect("reported unknown and stored");
    trial.late_ms = 1;
    trial.unfinished = true;
    expect(NULL);
}

static void test_judge_finds_a_stored_one_missing(void **state)
{
    (void)state;
    published(1, 0);
    totals(1, 1, 0, 0);
    expect("was stored and is not in the stream");
}

static void test_judge_finds_a_receipt_of_elsewhere(void **state)
{
    (void)state;
    published(1, 1);
    write_entry(1, TRUTH_STORED, 1, 2);
    expect("was stored at 2 and is in the stream at 1");
}

static void server_holds(size_t server, uint64_t sequence, uint32_t version)
{
    truth_content_add(&trial.servers[server],
                      &(struct truth_stored){.sequence = sequence, .aggregate = 1, .version = version});
    trial.server_count = TRUTH_SERVERS;
}

/* v1 was stored at 1. The servers do not agree: the stream's leader has v2 there, which nobody answered for. */
static void one_lost_by_the_servers(void)
{
    published(1, 0);
    write_entry(1, TRUTH_STORED, 1, 1);
    published(2, 1);
    write_entry(1, TRUTH_UNKNOWN, 2, 0);
    server_holds(0, 1, 2);
    server_holds(1, 1, 1);
    server_holds(2, 1, 1);
    write_entry(1, TRUTH_MEMBER, 0, 0);
}

static void test_judge_counts_what_servers_lost(void **state)
{
    struct truth_account account;

    (void)state;
    one_lost_by_the_servers();
    ran(1, 1, 1, EVBUS_ACK); /* the consumer's leader has it */
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.lost, 1);
    assert_int_equal(account.disputed, 1);
}

static void test_judge_finds_a_loss_that_servers_do_not_explain(void **state)
{
    (void)state;
    one_lost_by_the_servers();
    published(3, 0);
    write_entry(1, TRUTH_STORED, 3, 1); /* no server has it there */
    expect("v3 was stored and is not in the stream");
}

static void test_judge_finds_a_loss_where_a_server_only_lags(void **state)
{
    (void)state;
    published(1, 0);
    write_entry(1, TRUTH_STORED, 1, 1);
    server_holds(1, 1, 1);
    expect("v1 was stored and is not in the stream");
}

static void test_judge_finds_what_is_not_disputed(void **state)
{
    (void)state;
    one_lost_by_the_servers();
    published(3, 2);
    published(4, 3);
    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        server_holds(i, 2, 3);
        server_holds(i, 3, 4);
    }
    ran(1, 4, 3, EVBUS_ACK);
    expect("v4 starts before v3 is finished");
}

static void letter_on(size_t server, uint64_t sequence, uint32_t version)
{
    truth_content_add(
        &trial.letter_servers[server],
        &(struct truth_stored){.sequence = sequence, .aggregate = 1, .version = version, .stored_ns = ++now});
}

/* The letter of v1 was stored at 1. One server has it; the others, and whoever leads, have that of v2 there. */
static void test_judge_counts_letters_that_servers_lost(void **state)
{
    struct truth_account account;

    (void)state;
    two_published();
    ran(1, 1, 1, EVBUS_REJECT);
    letter_on(0, 1, 1);
    ran(1, 2, 2, EVBUS_REJECT);
    letter(2);
    expect("v2 starts before v1 is finished"); /* nothing says that it was lost: the others may be catching up */
    letter_on(1, 1, 2);
    letter_on(2, 1, 2);
    assert_true(truth_judge(&trial, &account));
    assert_int_equal(account.letters_lost, 1);
    trial.letter_servers[0].all[0].stored_ns = now; /* v2 did not wait for it */
    expect("v2 starts before v1 is finished");
}

static void test_judge_finds_a_lost_outcome(void **state)
{
    (void)state;
    published(1, 1);
    published(2, 0);
    totals(2, 1, 1, 0); /* the bus counts a refusal nobody was told of */
    expect("counts");
}

static void test_judge_finds_the_same_stored_twice(void **state)
{
    (void)state;
    published(1, 1);
    truth_content_add(&trial.stream,
                      &(struct truth_stored){.sequence = 2, .aggregate = 1, .version = 1, .stored_ns = now});
    expect("is in the stream twice");
}

static void test_judge_finds_calls_stored_out_of_order(void **state)
{
    (void)state;
    published(1, 2);
    published(2, 1);
    expect("is stored after it");
}

static void test_judge_finds_levels_above_their_limit(void **state)
{
    struct truth_entry *e;

    (void)state;
    e = write_entry(1, TRUTH_LEVELS, 0, 0);
    memset(e->counts, 0, sizeof e->counts);
    e->counts[2] = 11;
    e->counts[3] = 10;
    e->counts[1] = 1;
    expect("11 messages held, allowed are 10");
}

static void test_judge_finds_two_letters(void **state)
{
    (void)state;
    published(1, 1);
    write_entry(1, TRUTH_MEMBER, 0, 0);
    ran(1, 1, 1, EVBUS_REJECT);
    for (int i = 0; i < 2; i++)
        letter(1);
    expect("has two dead letters");
}

static void test_judge_finds_a_full_log(void **state)
{
    (void)state;
    atomic_store(&logs[0].shared->count, 65);
    expect("is full");
}

int main(void)
{
#define JUDGE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        JUDGE(test_judge_passes_a_clean_run),
        JUDGE(test_judge_passes_what_is_dead_lettered),
        JUDGE(test_judge_finds_a_start_before_the_letter_is_stored),
        JUDGE(test_judge_finds_a_start_out_of_order),
        JUDGE(test_judge_finds_a_start_behind_a_failed_head),
        JUDGE(test_judge_finds_a_step_back),
        JUDGE(test_judge_finds_a_settled_one_run_again),
        JUDGE(test_judge_finds_a_rejected_one_run_again),
        JUDGE(test_judge_finds_two_at_a_time),
        JUDGE(test_judge_finds_a_start_out_of_turn),
        JUDGE(test_judge_finds_a_start_of_nobody),
        JUDGE(test_judge_finds_a_start_after_the_end),
        JUDGE(test_judge_passes_a_member_that_lost_its_turn),
        JUDGE(test_judge_finds_a_verdict_out_of_turn_settled),
        JUDGE(test_judge_finds_a_hand_over_with_a_handler),
        JUDGE(test_judge_finds_a_repeat_after_a_hand_over),
        JUDGE(test_judge_passes_shared_members),
        JUDGE(test_judge_finds_what_shared_members_break),
        JUDGE(test_judge_finds_an_unflagged_repeat),
        JUDGE(test_judge_finds_a_lost_message),
        JUDGE(test_judge_finds_one_outcome_too_many),
        JUDGE(test_judge_finds_a_refused_one_stored),
        JUDGE(test_judge_finds_a_zombie),
        JUDGE(test_judge_finds_a_stored_one_missing),
        JUDGE(test_judge_finds_a_receipt_of_elsewhere),
        JUDGE(test_judge_counts_what_servers_lost),
        JUDGE(test_judge_finds_a_loss_that_servers_do_not_explain),
        JUDGE(test_judge_finds_a_loss_where_a_server_only_lags),
        JUDGE(test_judge_finds_what_is_not_disputed),
        JUDGE(test_judge_counts_letters_that_servers_lost),
        JUDGE(test_judge_finds_a_lost_outcome),
        JUDGE(test_judge_finds_the_same_stored_twice),
        JUDGE(test_judge_finds_calls_stored_out_of_order),
        JUDGE(test_judge_finds_levels_above_their_limit),
        JUDGE(test_judge_finds_two_letters),
        JUDGE(test_judge_finds_a_full_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
