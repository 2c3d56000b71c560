/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/db.h"

#include <string.h>

#define SQLITE_FORM "sqlite:"

evbus_status ev_db_use(struct ev_db *db, const evbus_outbox_db *of)
{
    memset(db, 0, sizeof *db);
    if (!of || (of->sqlite != NULL) == (of->postgres != NULL))
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_db: set one of sqlite and postgres");
    db->sqlite = of->sqlite;
    db->postgres = of->postgres;
    return EVBUS_OK;
}

evbus_status ev_db_open(struct ev_db *db, const char *database, uint32_t timeout_ms)
{
    memset(db, 0, sizeof *db);
    if (!database || !*database)
        return ev_outbox_fail(EVBUS_INVALID, "no database given: sqlite:PATH, or what libpq takes");
    db->own = true;
    db->timeout_ms = timeout_ms;
    if (strncmp(database, SQLITE_FORM, strlen(SQLITE_FORM)) == 0)
        return ev_sqlite_open(db, database + strlen(SQLITE_FORM));
    if (strncmp(database, "postgres", 8) == 0 || strchr(database, '='))
        return ev_postgres_open(db, database);
    return ev_outbox_fail(EVBUS_INVALID, "database '%.80s': neither sqlite:PATH, postgresql://... nor key=value",
                          database);
}

void ev_db_close(struct ev_db *db)
{
    if (db->sqlite)
        ev_sqlite_close(db);
    if (db->postgres)
        ev_postgres_close(db);
    memset(db, 0, sizeof *db);
}

evbus_status ev_db_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                       ev_row_fn fn, void *ctx, uint64_t *ret_changes)
{
    return db->sqlite ? ev_sqlite_run(db, sql, params, params_count, fn, ctx, ret_changes)
                      : ev_postgres_run(db, sql, params, params_count, fn, ctx, ret_changes);
}

evbus_status ev_db_exec(struct ev_db *db, const char *text)
{
    return db->sqlite ? ev_sqlite_exec(db, text) : ev_postgres_exec(db, text);
}

enum ev_db_tx ev_db_tx(const struct ev_db *db)
{
    return db->sqlite ? ev_sqlite_tx(db) : ev_postgres_tx(db);
}

evbus_status ev_db_begin(struct ev_db *db)
{
    return ev_db_exec(db, db->sqlite ? "BEGIN IMMEDIATE" : "BEGIN");
}

evbus_status ev_db_commit(struct ev_db *db)
{
    return ev_db_exec(db, "COMMIT");
}

void ev_db_rollback(struct ev_db *db)
{
    if ((db->sqlite || db->postgres) && ev_db_tx(db) != EV_DB_NO_TX)
        (void)ev_db_exec(db, "ROLLBACK");
}

evbus_status ev_db_changed(struct ev_db *db, bool *ret)
{
    return db->sqlite ? ev_sqlite_changed(db, ret) : ev_postgres_changed(db, ret);
}

int ev_db_fd(const struct ev_db *db)
{
    return db->postgres ? ev_postgres_fd(db) : -1;
}

evbus_status evbus_outbox_connect(const char *database, evbus_outbox_db *ret)
{
    struct ev_db db;

    if (!ret)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_connect: ret is NULL");
    const evbus_status st = ev_db_open(&db, database, 30000);
    if (st != EVBUS_OK) {
        ev_db_close(&db);
        return st;
    }
    *ret = (evbus_outbox_db){.sqlite = db.sqlite, .postgres = db.postgres}; /* nothing is cached yet */
    return EVBUS_OK;
}

void evbus_outbox_disconnect(evbus_outbox_db *db)
{
    if (!db)
        return;
    struct ev_db own = {.sqlite = db->sqlite, .postgres = db->postgres, .own = true};
    ev_db_close(&own);
    *db = (evbus_outbox_db){0};
}
