/* SPDX-License-Identifier: Apache-2.0 */
/* The tables by version. A later version adds its step to `steps`; what was released is never edited. */
#include "outbox/schema.h"

#include "outbox/sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define INDEXES                                                                                                        \
    "CREATE INDEX evbus_outbox_pending ON evbus_outbox (aggregate_id, id) WHERE state = 1;"                            \
    "CREATE INDEX evbus_outbox_dead ON evbus_outbox (aggregate_id, id) WHERE state = 3;"                               \
    "CREATE INDEX evbus_outbox_scheduled ON evbus_outbox (scheduled_ms) WHERE state = 0;"                              \
    "CREATE INDEX evbus_outbox_published ON evbus_outbox (done_ms) WHERE state = 2;"                                   \
    "CREATE INDEX evbus_inbox_done ON evbus_inbox (done_ms);"

#define TABLES(id, binary, number, inbox_end)                                                                          \
    "CREATE TABLE evbus_outbox_schema (version " number " NOT NULL);"                                                  \
    "CREATE TABLE evbus_outbox (" id                                                                                   \
    "event_id TEXT NOT NULL UNIQUE, idempotency_key TEXT UNIQUE, topic TEXT NOT NULL,"                                 \
    " aggregate_id TEXT" binary " NOT NULL, event_type TEXT NOT NULL, event_version " number " NOT NULL,"              \
    " timestamp_ns " number " NOT NULL, trace_id TEXT, correlation_id TEXT, tenant_id " number " NOT NULL,"            \
    " payload TEXT NOT NULL, state " number " NOT NULL, attempts " number " NOT NULL DEFAULT 0, error TEXT,"           \
    " created_ms " number " NOT NULL, scheduled_ms " number " NOT NULL, done_ms " number ", sequence " number ");"     \
    "CREATE TABLE evbus_outbox_lease (aggregate_id TEXT" binary " PRIMARY KEY, owner TEXT NOT NULL,"                   \
    " until_ms " number " NOT NULL, retry_ms " number " NOT NULL, since_ms " number " NOT NULL,"                       \
    " upto_id " number " NOT NULL, fails " number " NOT NULL, taken " number " NOT NULL);"                             \
    "CREATE TABLE evbus_inbox (event_id TEXT NOT NULL, handler_id TEXT NOT NULL, done_ms " number " NOT NULL,"         \
    " PRIMARY KEY (event_id, handler_id))" inbox_end ";" INDEXES

/*
 * PostgreSQL hands out ids when rows are written, not when they commit. The advisory lock, held until the transaction
 * ends and taken before the id is, makes the two orders the same per aggregate.
 */
#define PUT                                                                                                            \
    "CREATE OR REPLACE FUNCTION evbus_outbox_put(p_event TEXT, p_key TEXT, p_topic TEXT, p_aggregate TEXT, p_type"     \
    " TEXT, p_version BIGINT, p_stamp BIGINT, p_trace TEXT, p_correlation TEXT, p_tenant BIGINT, p_payload TEXT,"      \
    " p_scheduled BIGINT, p_lock BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$ DECLARE now_ms BIGINT; written BIGINT;" \
    " BEGIN PERFORM pg_advisory_xact_lock(p_lock); now_ms := " POSTGRES_NOW "; INSERT INTO evbus_outbox (event_id,"    \
    " idempotency_key, topic, aggregate_id, event_type, event_version, timestamp_ns, trace_id, correlation_id,"        \
    " tenant_id, payload, scheduled_ms, state, created_ms) VALUES (p_event, p_key, p_topic, p_aggregate, p_type,"      \
    " p_version, p_stamp, p_trace, p_correlation, p_tenant, p_payload, p_scheduled, CASE WHEN p_scheduled > now_ms"    \
    " THEN 0 ELSE 1 END, now_ms) ON CONFLICT DO NOTHING; GET DIAGNOSTICS written = ROW_COUNT;"                         \
    " PERFORM pg_notify('" EV_DB_NOTIFY "', ''); RETURN written; END $$;"

/* steps[v]: from version v to v + 1. */
static const struct ev_sql steps[EV_SCHEMA_VERSION] = {
    {TABLES("id INTEGER PRIMARY KEY AUTOINCREMENT, ", "", "INTEGER", " WITHOUT ROWID"),
     TABLES("id BIGSERIAL PRIMARY KEY, ", " COLLATE \"C\"", "BIGINT", "") PUT},
};

static const struct ev_sql is_there = {
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'evbus_outbox_schema'",
    "SELECT 1 WHERE to_regclass('evbus_outbox_schema') IS NOT NULL",
};
static const struct ev_sql read_version = {
    "SELECT version FROM evbus_outbox_schema",
    "SELECT version FROM evbus_outbox_schema",
};

static evbus_status take_number(const char *const *columns, void *ctx)
{
    *(int64_t *)ctx = columns[0] ? strtoll(columns[0], NULL, 10) : 0;
    return EVBUS_OK;
}

evbus_status ev_schema_version(struct ev_db *db, int64_t *ret)
{
    int64_t there = 0, version = 0;
    evbus_status st = ev_db_run(db, &is_there, NULL, 0, take_number, &there, NULL);

    if (st == EVBUS_OK && there)
        st = ev_db_run(db, &read_version, NULL, 0, take_number, &version, NULL);
    if (st == EVBUS_OK)
        *ret = version;
    return st;
}

static evbus_status newer(int64_t version)
{
    return ev_outbox_fail(EVBUS_MISMATCH, "the outbox tables have version %" PRId64 ", this library knows up to %d",
                          version, EV_SCHEMA_VERSION);
}

evbus_status ev_schema_check(struct ev_db *db)
{
    int64_t version = 0;
    const evbus_status st = ev_schema_version(db, &version);

    if (st != EVBUS_OK)
        return st;
    if (version > EV_SCHEMA_VERSION)
        return newer(version);
    if (version < EV_SCHEMA_VERSION)
        return ev_outbox_fail(EVBUS_NOT_FOUND, version ? "the outbox tables are of an older version: call "
                                                         "evbus_outbox_migrate first"
                                                       : "no outbox tables: call evbus_outbox_migrate first");
    return EVBUS_OK;
}

static evbus_status migrate(struct ev_db *db)
{
    int64_t version = 0;
    char text[100];
    evbus_status st = EVBUS_OK;

    if (db->postgres) /* one at a time: the number stands for "migrating the outbox" */
        st = ev_db_exec(db, "SELECT pg_advisory_xact_lock(7310031921905518593)");
    if (st == EVBUS_OK)
        st = ev_schema_version(db, &version);
    if (st == EVBUS_OK && version > EV_SCHEMA_VERSION)
        return newer(version);
    const int64_t before = version;
    for (; st == EVBUS_OK && version < EV_SCHEMA_VERSION; version++)
        st = ev_db_exec(db, db->sqlite ? steps[version].sqlite : steps[version].postgres);
    if (st != EVBUS_OK || before == version)
        return st;
    (void)snprintf(text, sizeof text, "DELETE FROM evbus_outbox_schema; INSERT INTO evbus_outbox_schema VALUES (%d)",
                   EV_SCHEMA_VERSION);
    return ev_db_exec(db, text);
}

evbus_status evbus_outbox_migrate(const evbus_outbox_db *of)
{
    struct ev_db db;
    evbus_status st = ev_db_use(&db, of);

    if (st != EVBUS_OK)
        return st;
    if (ev_db_tx(&db) == EV_DB_FAILED_TX)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_migrate: the open transaction has failed");
    if (ev_db_tx(&db) == EV_DB_IN_TX)
        return migrate(&db);
    st = ev_db_begin(&db);
    if (st == EVBUS_OK)
        st = migrate(&db);
    if (st == EVBUS_OK)
        st = ev_db_commit(&db);
    if (st != EVBUS_OK)
        ev_db_rollback(&db);
    return st;
}
