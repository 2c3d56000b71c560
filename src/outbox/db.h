/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both databases behind one call: a statement, its parameters as text, a callback per row. Statements exist in two
 * texts that differ in little (sql.h). The caller's connections are used as they are; our own ones (open) have limits:
 * a database that does not answer within timeout_ms costs the connection, not the thread.
 *
 * Threads: one at a time per connection.
 */
#ifndef EV_OUTBOX_DB_H
#define EV_OUTBOX_DB_H

#include "outbox/detail.h"

#define EV_DB_COLUMNS_MAX 16
#define EV_DB_PARAMS_MAX 16
#define EV_DB_CACHE 24
#define EV_DB_NOTIFY "evbus_outbox" /* the channel of LISTEN and NOTIFY */

/* A statement in both dialects. */
struct ev_sql {
    const char *sqlite, *postgres;
};

struct sqlite3_stmt;

struct ev_db {
    struct sqlite3 *sqlite;
    struct pg_conn *postgres;
    bool own;            /* opened here */
    bool notified;       /* PostgreSQL: a NOTIFY came */
    uint32_t timeout_ms; /* own PostgreSQL connections; 0: none */
    int64_t version;     /* SQLite: data_version when last looked */
    struct {
        const struct ev_sql *sql;
        struct sqlite3_stmt *stmt;
    } cache[EV_DB_CACHE]; /* own SQLite connections: prepared once */
};

/* Called per row; columns that are NULL in the database are NULL. EVBUS_OK: go on. */
typedef evbus_status (*ev_row_fn)(const char *const *columns, void *ctx);

/* Whose connection: exactly one of the two is set. */
evbus_status ev_db_use(struct ev_db *db, const evbus_outbox_db *of);

/* An own connection. `timeout_ms`: for each statement, and SQLite's waiting for a lock. */
evbus_status ev_db_open(struct ev_db *db, const char *database, uint32_t timeout_ms);
void ev_db_close(struct ev_db *db); /* safe on a zeroed one; leaves the caller's connections alone */

/* One statement. `params`: NULL is SQL's NULL. *ret_changes: rows inserted, updated or deleted; NULL if not wanted. */
evbus_status ev_db_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                       ev_row_fn fn, void *ctx, uint64_t *ret_changes);

/* Statements without parameters or rows, separated by semicolons. */
evbus_status ev_db_exec(struct ev_db *db, const char *text);

enum ev_db_tx { EV_DB_NO_TX, EV_DB_IN_TX, EV_DB_FAILED_TX };
enum ev_db_tx ev_db_tx(const struct ev_db *db);

evbus_status ev_db_begin(struct ev_db *db); /* SQLite: takes the write lock now */
evbus_status ev_db_commit(struct ev_db *db);
void ev_db_rollback(struct ev_db *db); /* also where none is open */

/* Cheap: has somebody else changed the database since the last call (SQLite), or told us so (PostgreSQL)? */
evbus_status ev_db_changed(struct ev_db *db, bool *ret);

/* A descriptor that is readable when ev_db_changed has news; -1: there is none, it has to be asked. */
int ev_db_fd(const struct ev_db *db);

/* Of the two files behind it; the PostgreSQL ones are EVBUS_UNSUPPORTED when built without. */
evbus_status ev_sqlite_open(struct ev_db *db, const char *path);
void ev_sqlite_close(struct ev_db *db);
evbus_status ev_sqlite_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                           ev_row_fn fn, void *ctx, uint64_t *ret_changes);
evbus_status ev_sqlite_exec(struct ev_db *db, const char *text);
enum ev_db_tx ev_sqlite_tx(const struct ev_db *db);
evbus_status ev_sqlite_changed(struct ev_db *db, bool *ret);

evbus_status ev_postgres_open(struct ev_db *db, const char *conninfo);
void ev_postgres_close(struct ev_db *db);
evbus_status ev_postgres_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                             ev_row_fn fn, void *ctx, uint64_t *ret_changes);
evbus_status ev_postgres_exec(struct ev_db *db, const char *text);
enum ev_db_tx ev_postgres_tx(const struct ev_db *db);
evbus_status ev_postgres_changed(struct ev_db *db, bool *ret);
int ev_postgres_fd(const struct ev_db *db);

#endif
