/* SPDX-License-Identifier: Apache-2.0 */
/* Writing, looking after, inbox: what holds on both databases. The relay's cases are in relay_cases.c. */
#include "case.h"

#include "cases.h"

int world_setup(void **state)
{
    struct world *w = *state;

    place_new(&w->place);
    w->db = connected(&w->place);
    must(evbus_outbox_migrate(&w->db));
    return 0;
}

int world_teardown(void **state)
{
    struct world *w = *state;

    evbus_outbox_disconnect(&w->db);
    place_drop(&w->place);
    return 0;
}

/* What rolls back was never there; what commits is. The event id that was made is the one in the table. */
void test_enqueue_is_part_of_the_callers_transaction(void **state)
{
    struct world *w = *state;
    char id[EVBUS_OUTBOX_ID_SIZE] = "", text[400];

    sql(&w->db, "BEGIN");
    must(put(&w->db, "order-1", 1, NULL, NULL));
    sql(&w->db, "ROLLBACK");
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox"), 0);
    sql(&w->db, "BEGIN");
    must(put(&w->db, "order-1", 1, NULL, id));
    sql(&w->db, "COMMIT");
    assert_int_equal(strlen(id), 36);
    (void)snprintf(text, sizeof text, "SELECT COUNT(*) FROM evbus_outbox WHERE event_id = '%s' AND timestamp_ns > 0",
                   id);
    assert_int_equal(number(&w->db, text), 1);
}

void test_enqueue_refuses_what_could_never_be_published(void **state)
{
    struct world *w = *state;
    evbus_envelope env = {.aggregate_id = "a", .event_type = "T", .event_version = 1, .payload = "{}"};

    must_be(EVBUS_INVALID, put(&w->db, "a", 1, NULL, NULL)); /* no transaction */
    assert_non_null(strstr(evbus_outbox_error_detail(), "no transaction is open"));
    must_be(EVBUS_INVALID, put(&(evbus_outbox_db){0}, "a", 1, NULL, NULL));
    sql(&w->db, "BEGIN");
    must_be(EVBUS_INVALID, put(&w->db, "no spaces", 1, NULL, NULL));
    must_be(EVBUS_INVALID, put(&w->db, "a", 0, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_outbox_enqueue(&w->db, "no.*", &env, NULL, NULL));
    must_be(EVBUS_INVALID, evbus_outbox_enqueue(&w->db, "t", NULL, NULL, NULL));
    env.payload = "{\"x\": nothing}";
    must_be(EVBUS_INVALID, evbus_outbox_enqueue(&w->db, "t", &env, NULL, NULL));
    assert_non_null(strstr(evbus_outbox_error_detail(), "payload is not valid JSON"));
    must_be(EVBUS_INVALID, put(&w->db, "a", 1, EVBUS_OPTS(evbus_outbox_opts, .idempotency_key = ""), NULL));
    must_be(EVBUS_INVALID, put(&w->db, "a", 1, &(evbus_outbox_opts){.struct_size = 4}, NULL));
    must(put(&w->db, "a", 1, NULL, NULL)); /* the transaction has not suffered */
    sql(&w->db, "COMMIT");
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox"), 1);
}

/* A second event with the id or the key is refused with a status of its own, and the transaction goes on. */
void test_enqueue_knows_event_ids_and_idempotency_keys(void **state)
{
    struct world *w = *state;
    const evbus_outbox_opts key = {.struct_size = sizeof key, .idempotency_key = "order-1/placed"};
    const evbus_envelope env = {.event_id = "e-1",
                                .aggregate_id = "a",
                                .event_type = "T",
                                .event_version = 1,
                                .payload = "[] and more",
                                .payload_len = 2};

    sql(&w->db, "BEGIN");
    must(put(&w->db, "order-1", 1, &key, NULL));
    must_be(EVBUS_EXISTS, put(&w->db, "order-1", 2, &key, NULL));
    assert_non_null(strstr(evbus_outbox_error_detail(), "order-1/placed"));
    must(evbus_outbox_enqueue(&w->db, "t", &env, NULL, NULL));
    must_be(EVBUS_EXISTS, evbus_outbox_enqueue(&w->db, "t", &env, NULL, NULL));
    must(put(&w->db, "order-1", 3, NULL, NULL));
    sql(&w->db, "COMMIT");
    sql(&w->db, "BEGIN");
    must_be(EVBUS_EXISTS, put(&w->db, "order-9", 2, &key, NULL));
    sql(&w->db, "COMMIT");
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox"), 3);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE payload = '[]'"), 1);
}

void test_migrate_may_be_repeated_and_knows_newer_tables(void **state)
{
    struct world *w = *state;
    evbus_outbox_counts counts;

    must(evbus_outbox_migrate(&w->db));
    put_committed(&w->db, "a", 1);
    sql(&w->db, "BEGIN");
    must(evbus_outbox_migrate(&w->db));
    sql(&w->db, "COMMIT");
    must(evbus_outbox_status(&w->db, &counts));
    assert_int_equal(counts.pending, 1);
    assert_int_equal(counts.schema_version, 1);
    sql(&w->db, "UPDATE evbus_outbox_schema SET version = 99");
    must_be(EVBUS_MISMATCH, evbus_outbox_migrate(&w->db));
    must_be(EVBUS_MISMATCH, evbus_outbox_status(&w->db, &counts));
}

/* In a transaction of the application's that rolls back, the tables go with it; without tables every call says so. */
void test_without_tables_calls_say_so(void **state)
{
    struct world *w = *state;
    struct place other = {.postgres = w->place.postgres};
    evbus_outbox_counts counts;
    bool first;

    place_new(&other);
    evbus_outbox_db db = connected(&other);
    sql(&db, "BEGIN");
    must(evbus_outbox_migrate(&db));
    must(put(&db, "a", 1, NULL, NULL));
    sql(&db, "ROLLBACK");
    must_be(EVBUS_NOT_FOUND, evbus_outbox_status(&db, &counts));
    sql(&db, "BEGIN");
    must_be(EVBUS_NOT_FOUND, put(&db, "a", 1, NULL, NULL));
    sql(&db, "ROLLBACK");
    sql(&db, "BEGIN");
    must_be(EVBUS_NOT_FOUND, evbus_inbox_once(&db, "e", "h", &first));
    sql(&db, "ROLLBACK");
    evbus_outbox_disconnect(&db);
    place_drop(&other);
}

/* First once, then never again; a rollback makes it new; another handler has its own memory; the old is forgotten. */
void test_inbox_lets_an_effect_happen_once(void **state)
{
    struct world *w = *state;
    uint64_t count = 0;
    bool first = false;

    must_be(EVBUS_INVALID, evbus_inbox_once(&w->db, "e-1", "billing", &first)); /* no transaction */
    sql(&w->db, "BEGIN");
    must(evbus_inbox_once(&w->db, "e-1", "billing", &first));
    assert_true(first);
    sql(&w->db, "ROLLBACK");
    for (int i = 0; i < 3; i++) {
        sql(&w->db, "BEGIN");
        must(evbus_inbox_once(&w->db, "e-1", "billing", &first));
        assert_int_equal(first, i == 0);
        must(evbus_inbox_once(&w->db, "e-1", "shipping", &first));
        assert_int_equal(first, i == 0);
        sql(&w->db, "COMMIT");
    }
    sql(&w->db, "BEGIN");
    must_be(EVBUS_INVALID, evbus_inbox_once(&w->db, "", "billing", &first));
    must_be(EVBUS_INVALID, evbus_inbox_once(&w->db, "e-1", NULL, &first));
    must_be(EVBUS_INVALID, evbus_inbox_once(&w->db, "e-1", "billing", NULL));
    sql(&w->db, "COMMIT");
    must(evbus_inbox_purge(&w->db, 3600000, 0, &count));
    assert_int_equal(count, 0);
    sql(&w->db, "UPDATE evbus_inbox SET done_ms = done_ms - 7200000");
    must(evbus_inbox_purge(&w->db, 3600000, 1, &count));
    assert_int_equal(count, 1);
    must(evbus_inbox_purge(&w->db, 3600000, 0, &count));
    assert_int_equal(count, 1);
    sql(&w->db, "BEGIN");
    must(evbus_inbox_once(&w->db, "e-1", "billing", &first));
    assert_true(first);
    sql(&w->db, "COMMIT");
}

struct listed {
    unsigned rows;
    uint64_t blocks;
    char error[100], aggregate[50], payload[50];
};

static bool on_dead(const evbus_outbox_row *row, void *ctx)
{
    struct listed *l = ctx;

    l->rows++;
    l->blocks += row->blocks;
    (void)snprintf(l->error, sizeof l->error, "%s", row->error);
    (void)snprintf(l->aggregate, sizeof l->aggregate, "%s", row->aggregate_id);
    (void)snprintf(l->payload, sizeof l->payload, "%s", row->payload);
    return l->rows < 2;
}

/* Dead rows are listed, block their aggregates, and can be retried or passed, one or all. */
void test_dead_rows_are_listed_retried_and_passed(void **state)
{
    struct world *w = *state;
    struct listed l = {0};
    evbus_outbox_counts c;
    char id[EVBUS_OUTBOX_ID_SIZE];
    uint64_t count = 0;

    sql(&w->db, "BEGIN");
    must(put(&w->db, "a", 1, NULL, id));
    must(put(&w->db, "a", 2, NULL, NULL));
    must(put(&w->db, "b", 1, NULL, NULL));
    must(put(&w->db, "b", 2, NULL, NULL));
    must(put(&w->db, "c", 1, NULL, NULL));
    sql(&w->db, "COMMIT");
    sql(&w->db, "UPDATE evbus_outbox SET state = 3, done_ms = 1000, error = 'EVBUS_REFUSED: no', attempts = 3 WHERE"
                " event_version = 1 AND aggregate_id IN ('a', 'b')");
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.dead, 2);
    assert_int_equal(c.pending, 3);
    assert_int_equal(c.blocked, 2);
    assert_int_equal(c.blocked_aggregates, 2);
    must(evbus_outbox_dead(&w->db, 0, on_dead, &l));
    assert_int_equal(l.rows, 2);
    assert_int_equal(l.blocks, 2);
    assert_string_equal(l.aggregate, "b");
    assert_string_equal(l.error, "EVBUS_REFUSED: no");
    assert_string_equal(l.payload, "{\"total\": 12}");

    must_be(EVBUS_NOT_FOUND, evbus_outbox_retry(&w->db, "unheard-of", NULL));
    must(evbus_outbox_retry(&w->db, id, &count));
    assert_int_equal(count, 1);
    must_be(EVBUS_NOT_FOUND, evbus_outbox_retry(&w->db, id, NULL)); /* it is not dead any more */
    must(evbus_outbox_pass(&w->db, NULL, &count));
    assert_int_equal(count, 1);
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.dead, 0);
    assert_int_equal(c.passed, 1);
    assert_int_equal(c.blocked, 0);
    assert_int_equal(c.pending, 4);
    must(evbus_outbox_retry(&w->db, NULL, &count));
    assert_int_equal(count, 1);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 1 AND attempts = 0"), 5);
    must(evbus_outbox_retry(&w->db, NULL, &count));
    assert_int_equal(count, 0);
}

void test_purge_removes_only_what_was_published_long_ago(void **state)
{
    struct world *w = *state;
    uint64_t count = 0;

    for (int v = 1; v <= 6; v++)
        put_committed(&w->db, "a", v);
    sql(&w->db, "UPDATE evbus_outbox SET state = 2, done_ms = 1000 WHERE event_version <= 3");
    sql(&w->db, "UPDATE evbus_outbox SET state = 3, done_ms = 1000 WHERE event_version = 4");
    sql(&w->db, "UPDATE evbus_outbox SET state = 2, done_ms = created_ms WHERE event_version = 5");
    must(evbus_outbox_purge(&w->db, 3600000, 2, &count));
    assert_int_equal(count, 2);
    must(evbus_outbox_purge(&w->db, 3600000, 0, &count));
    assert_int_equal(count, 1);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox"), 3);
}

void test_connect_refuses_what_is_no_database(void **state)
{
    evbus_outbox_db db = {0};

    (void)state;
    must_be(EVBUS_INVALID, evbus_outbox_connect("orders", &db));
    must_be(EVBUS_INVALID, evbus_outbox_connect("", &db));
    must_be(EVBUS_INVALID, evbus_outbox_connect("sqlite:/nowhere/orders.db", &db));
    must_be(EVBUS_TEST_POSTGRES ? EVBUS_DISCONNECTED : EVBUS_UNSUPPORTED,
            evbus_outbox_connect("host=/nowhere dbname=x", &db));
    evbus_outbox_disconnect(&db);
    evbus_outbox_disconnect(NULL);
}
