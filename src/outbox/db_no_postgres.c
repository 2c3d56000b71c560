/* SPDX-License-Identifier: Apache-2.0 */
/* In place of db_postgres.c where there is no libpq. */
#include "outbox/db.h"

static evbus_status unsupported(void)
{
    return ev_outbox_fail(EVBUS_UNSUPPORTED, "postgresql: evbus_outbox was built without libpq");
}

evbus_status ev_postgres_open(struct ev_db *db, const char *conninfo)
{
    (void)db;
    (void)conninfo;
    return unsupported();
}

void ev_postgres_close(struct ev_db *db)
{
    db->postgres = NULL; /* the caller's */
}

evbus_status ev_postgres_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                             ev_row_fn fn, void *ctx, uint64_t *ret_changes)
{
    (void)db;
    (void)sql;
    (void)params;
    (void)params_count;
    (void)fn;
    (void)ctx;
    (void)ret_changes;
    return unsupported();
}

evbus_status ev_postgres_exec(struct ev_db *db, const char *text)
{
    (void)db;
    (void)text;
    return unsupported();
}

enum ev_db_tx ev_postgres_tx(const struct ev_db *db)
{
    (void)db;
    return EV_DB_IN_TX; /* so that the call itself says that it is unsupported */
}

evbus_status ev_postgres_changed(struct ev_db *db, bool *ret)
{
    (void)db;
    (void)ret;
    return unsupported();
}

int ev_postgres_fd(const struct ev_db *db)
{
    (void)db;
    return -1;
}
