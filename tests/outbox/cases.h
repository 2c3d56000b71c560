/* SPDX-License-Identifier: Apache-2.0 */
/* The cases, and the world each runs in: an empty database with the tables, and a connection to it. */
#ifndef EV_TESTS_OUTBOX_CASES_H
#define EV_TESTS_OUTBOX_CASES_H

struct world {
    struct place place;
    evbus_outbox_db db;
};

int world_setup(void **state);
int world_teardown(void **state);

#define OUTBOX_CASES(X)                                                                                                \
    X(test_enqueue_is_part_of_the_callers_transaction)                                                                 \
    X(test_enqueue_refuses_what_could_never_be_published)                                                              \
    X(test_enqueue_knows_event_ids_and_idempotency_keys)                                                               \
    X(test_migrate_may_be_repeated_and_knows_newer_tables)                                                             \
    X(test_without_tables_calls_say_so)                                                                                \
    X(test_inbox_lets_an_effect_happen_once)                                                                           \
    X(test_dead_rows_are_listed_retried_and_passed)                                                                    \
    X(test_purge_removes_only_what_was_published_long_ago)                                                             \
    X(test_connect_refuses_what_is_no_database)                                                                        \
    X(test_relay_publishes_what_was_committed_in_order)                                                                \
    X(test_relay_hears_of_new_rows)                                                                                    \
    X(test_relay_waits_for_scheduled_rows)                                                                             \
    X(test_relay_gives_up_a_row_that_is_refused_and_blocks_its_aggregate)                                              \
    X(test_relay_passes_dead_rows_by_policy)                                                                           \
    X(test_relay_buries_what_can_never_be_sent_at_once)                                                                \
    X(test_relay_checks_the_duplicate_window)                                                                          \
    X(test_relay_serves_tenants)                                                                                       \
    X(test_relays_share_the_work_and_send_nothing_twice)                                                               \
    X(test_relay_takes_over_when_a_lease_has_run_out)                                                                  \
    X(test_relay_counts_what_may_be_stored_twice)                                                                      \
    X(test_relay_removes_old_rows)                                                                                     \
    X(test_relay_refuses_wrong_options)

#define X(name) void name(void **state);
OUTBOX_CASES(X)
#undef X

/* Runs them all on one kind of database, and `own`: OUTBOX_CASE(...) of the program's. */
#define RUN_OUTBOX_CASES(title, is_postgres, own)                                                                      \
    static struct world world = {.place = {.postgres = (is_postgres)}};                                                \
    const struct CMUnitTest tests[] = {OUTBOX_CASES(OUTBOX_CASE) own};                                                 \
    return _cmocka_run_group_tests(title, tests, sizeof tests / sizeof *tests, NULL, NULL)
#define OUTBOX_CASE(name) {#name, name, world_setup, world_teardown, &world},

#endif
