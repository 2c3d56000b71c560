/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/db.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static evbus_status failed(struct sqlite3 *handle, const char *what)
{
    const int code = handle ? sqlite3_errcode(handle) : SQLITE_NOMEM;
    const char *said = handle ? sqlite3_errmsg(handle) : "out of memory";

    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ev_outbox_fail(EVBUS_TIMEOUT, "sqlite: %s: locked by another connection (%s)", what, said);
    case SQLITE_NOMEM:
        return ev_outbox_fail(EVBUS_NOMEM, "sqlite: out of memory");
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_NOTADB:
        return ev_outbox_fail(EVBUS_DISCONNECTED, "sqlite: %s: %s", what, said);
    default:
        if (strstr(said, "no such table: evbus_"))
            return ev_outbox_fail(EVBUS_NOT_FOUND, "sqlite: %s: call evbus_outbox_migrate first", said);
        return ev_outbox_fail(EVBUS_SYSTEM, "sqlite: %s: %s", what, said);
    }
}

evbus_status ev_sqlite_open(struct ev_db *db, const char *path)
{
    if (sqlite3_open_v2(path, &db->sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        const int code = db->sqlite ? sqlite3_errcode(db->sqlite) : SQLITE_NOMEM;
        const evbus_status st = failed(db->sqlite, path);
        return (code & 0xff) == SQLITE_CANTOPEN ? EVBUS_INVALID : st;
    }
    (void)sqlite3_busy_timeout(db->sqlite, (int)db->timeout_ms);
    return EVBUS_OK;
}

void ev_sqlite_close(struct ev_db *db)
{
    for (size_t i = 0; i < EV_DB_CACHE; i++)
        (void)sqlite3_finalize(db->cache[i].stmt);
    memset(db->cache, 0, sizeof db->cache);
    if (db->own)
        (void)sqlite3_close_v2(db->sqlite);
    db->sqlite = NULL;
}

/* From the cache of an own connection, or made; *ret_cached says who ends it. */
static evbus_status statement(struct ev_db *db, const struct ev_sql *sql, sqlite3_stmt **ret, bool *ret_cached)
{
    size_t i = 0;

    *ret_cached = false;
    for (; db->own && i < EV_DB_CACHE && db->cache[i].sql; i++) {
        if (db->cache[i].sql == sql) {
            *ret = db->cache[i].stmt;
            *ret_cached = true;
            return EVBUS_OK;
        }
    }
    if (sqlite3_prepare_v2(db->sqlite, sql->sqlite, -1, ret, NULL) != SQLITE_OK)
        return failed(db->sqlite, "prepare");
    if (db->own && i < EV_DB_CACHE) {
        db->cache[i].sql = sql;
        db->cache[i].stmt = *ret;
        *ret_cached = true;
    }
    return EVBUS_OK;
}

static evbus_status bind(struct ev_db *db, sqlite3_stmt *stmt, const char *const *params, int count)
{
    char name[16];

    for (int i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "$%d", i + 1);
        const int at = sqlite3_bind_parameter_index(stmt, name);
        if (at && sqlite3_bind_text(stmt, at, params[i], -1, SQLITE_STATIC) != SQLITE_OK)
            return failed(db->sqlite, "bind");
    }
    return EVBUS_OK;
}

static evbus_status step(struct ev_db *db, sqlite3_stmt *stmt, ev_row_fn fn, void *ctx)
{
    const char *columns[EV_DB_COLUMNS_MAX];
    const int count = sqlite3_column_count(stmt);
    evbus_status st = EVBUS_OK;
    int code;

    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        for (int i = 0; i < count && i < EV_DB_COLUMNS_MAX; i++)
            columns[i] = (const char *)sqlite3_column_text(stmt, i);
        if (fn && st == EVBUS_OK)
            st = fn(columns, ctx); /* a statement with RETURNING has to run to its end */
    }
    return code != SQLITE_DONE ? failed(db->sqlite, "step") : st;
}

evbus_status ev_sqlite_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                           ev_row_fn fn, void *ctx, uint64_t *ret_changes)
{
    sqlite3_stmt *stmt = NULL;
    bool cached;
    evbus_status st = statement(db, sql, &stmt, &cached);

    if (st != EVBUS_OK)
        return st;
    st = bind(db, stmt, params, params_count);
    if (st == EVBUS_OK)
        st = step(db, stmt, fn, ctx);
    if (st == EVBUS_OK && ret_changes)
        *ret_changes = (uint64_t)sqlite3_changes(db->sqlite);
    if (cached) {
        (void)sqlite3_reset(stmt);
        (void)sqlite3_clear_bindings(stmt);
    } else {
        (void)sqlite3_finalize(stmt);
    }
    return st;
}

evbus_status ev_sqlite_exec(struct ev_db *db, const char *text)
{
    if (sqlite3_exec(db->sqlite, text, NULL, NULL, NULL) != SQLITE_OK)
        return failed(db->sqlite, text);
    return EVBUS_OK;
}

enum ev_db_tx ev_sqlite_tx(const struct ev_db *db)
{
    return sqlite3_get_autocommit(db->sqlite) ? EV_DB_NO_TX : EV_DB_IN_TX;
}

static evbus_status take_version(const char *const *columns, void *ctx)
{
    *(int64_t *)ctx = columns[0] ? strtoll(columns[0], NULL, 10) : 0;
    return EVBUS_OK;
}

evbus_status ev_sqlite_changed(struct ev_db *db, bool *ret)
{
    static const struct ev_sql version = {.sqlite = "PRAGMA data_version"};
    int64_t now = 0;
    const evbus_status st = ev_sqlite_run(db, &version, NULL, 0, take_version, &now, NULL);

    if (st != EVBUS_OK)
        return st;
    *ret = now != db->version;
    db->version = now;
    return EVBUS_OK;
}
