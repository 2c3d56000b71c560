/* SPDX-License-Identifier: Apache-2.0 */
#include "case.h"

#include "cases.h"

#include "../support/pg_server.h"

#include <pthread.h>

/* PostgreSQL hands out ids before it is known who commits first: two transactions write to the same aggregate. */
struct second {
    evbus_outbox_db db;
    evbus_status status;
};

static void *write_second(void *arg)
{
    struct second *s = arg;

    s->status = put(&s->db, "a", 3, NULL, NULL); /* waits for the first transaction */
    return NULL;
}

static bool somebody_waits(void *arg)
{
    return number(arg, "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1;
}

static void test_interleaved_transactions_keep_the_order_of_their_commits(void **state)
{
    struct world *w = *state;
    evbus_outbox_db first = connected(&w->place);
    struct second second = {.db = connected(&w->place)};
    pthread_t thread;

    sql(&first, "BEGIN");
    sql(&second.db, "BEGIN");
    must(put(&first, "a", 1, NULL, NULL));
    must(put(&second.db, "b", 1, NULL, NULL)); /* another aggregate waits for nobody */
    assert_int_equal(pthread_create(&thread, NULL, write_second, &second), 0);
    assert_true(wait_until(somebody_waits, &w->db, wait_patience_ms()));
    must(put(&first, "a", 2, NULL, NULL));
    sql(&first, "COMMIT");
    assert_int_equal(pthread_join(thread, NULL), 0);
    must(second.status);
    sql(&second.db, "COMMIT");
    assert_int_equal(number(&w->db,
                            "SELECT COUNT(*) FROM evbus_outbox o JOIN evbus_outbox p ON o.aggregate_id = 'a' AND"
                            " p.aggregate_id = 'a' AND o.event_version < p.event_version AND o.id < p.id"),
                     3);
    evbus_outbox_disconnect(&first);
    evbus_outbox_disconnect(&second.db);
}

/* A failed transaction is told apart from none. */
static void test_a_failed_transaction_takes_nothing(void **state)
{
    struct world *w = *state;
    bool first;

    sql(&w->db, "BEGIN");
    sql(&w->db, "SAVEPOINT s");
    must(put(&w->db, "a", 1, NULL, NULL));
    sql(&w->db, "ROLLBACK TO s");
    must(put(&w->db, "a", 1, NULL, NULL));
    sql(&w->db, "DROP TABLE evbus_inbox");
    must_be(EVBUS_NOT_FOUND, evbus_inbox_once(&w->db, "e", "h", &first));
    must_be(EVBUS_INVALID, put(&w->db, "a", 2, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_outbox_migrate(&w->db));
    sql(&w->db, "ROLLBACK");
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox"), 0);
}

int main(void)
{
    if (!pg_server_available())
        return 77;
    RUN_OUTBOX_CASES("postgres", true,
                     OUTBOX_CASE(test_interleaved_transactions_keep_the_order_of_their_commits)
                         OUTBOX_CASE(test_a_failed_transaction_takes_nothing));
}
