/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One set of cases for both databases: a program includes this, says where its database is, and how to run a statement
 * of the test's own on a caller's connection.
 */
#ifndef EV_TESTS_OUTBOX_CASE_H
#define EV_TESTS_OUTBOX_CASE_H

#include "../support/wait.h"

#include <evbus/outbox.h>

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define must(call)                                                                                                     \
    do {                                                                                                               \
        const evbus_status must_st = (call);                                                                           \
        if (must_st != EVBUS_OK)                                                                                       \
            fail_msg("%s: %s (%s / %s)", #call, evbus_status_name(must_st), evbus_outbox_error_detail(),               \
                     evbus_error_detail());                                                                            \
    } while (0)
#define must_be(status, call)                                                                                          \
    do {                                                                                                               \
        const evbus_status must_st = (call);                                                                           \
        if (must_st != (status))                                                                                       \
            fail_msg("%s: %s (%s), not %s", #call, evbus_status_name(must_st), evbus_outbox_error_detail(), #status);  \
    } while (0)

/* The database of the running case. */
struct place {
    bool postgres;
    char database[160];
};

void place_new(struct place *place);                        /* empty */
void place_drop(struct place *place);                       /* removes it; connections are closed */
int64_t number(const evbus_outbox_db *db, const char *sql); /* the one value a statement returns */
void sql(const evbus_outbox_db *db, const char *text);
evbus_status try_sql(const evbus_outbox_db *db, const char *text); /* for a database that may be gone */
evbus_status try_number(const evbus_outbox_db *db, const char *text, int64_t *ret);
void place_crash(const struct place *place); /* PostgreSQL: kill -9, and start it again; SQLite has no server */

static inline evbus_outbox_db connected(const struct place *place)
{
    evbus_outbox_db db = {0};

    must(evbus_outbox_connect(place->database, &db));
    return db;
}

static inline evbus_status put(const evbus_outbox_db *tx, const char *aggregate, int64_t version,
                               const evbus_outbox_opts *opts, char *ret_id)
{
    const evbus_envelope env = {
        .aggregate_id = aggregate, .event_type = "T", .event_version = version, .payload = "{\"total\": 12}"};

    return evbus_outbox_enqueue(tx, "orders.placed", &env, opts, ret_id);
}

/* In a transaction of its own. */
static inline void put_committed(const evbus_outbox_db *db, const char *aggregate, int64_t version)
{
    sql(db, "BEGIN");
    must(put(db, aggregate, version, NULL, NULL));
    sql(db, "COMMIT");
}

#endif
