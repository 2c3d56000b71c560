/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/relay.h"

#include <string.h>

#define ROWS_DEFAULT 10000

#define ONCE(now, list, pairs)                                                                                         \
    "INSERT INTO evbus_inbox (event_id, handler_id, done_ms) VALUES ($1, $2, " now ") ON CONFLICT DO NOTHING"
#define PURGE(now, list, pairs)                                                                                        \
    "DELETE FROM evbus_inbox WHERE (event_id, handler_id) IN (SELECT event_id, handler_id FROM evbus_inbox"            \
    " WHERE done_ms <= " now " - " INT("$1") " ORDER BY done_ms LIMIT " INT("$2") ")"
EV_SQL(once, ONCE);
EV_SQL(purge, PURGE);

static evbus_status check_id(const char *what, const char *id)
{
    const size_t len = id ? strlen(id) : 0;

    return len >= 1 && len < EVBUS_OUTBOX_ID_SIZE
               ? EVBUS_OK
               : ev_outbox_fail(EVBUS_INVALID, "evbus_inbox_once: %s: 1..%d bytes", what, EVBUS_OUTBOX_ID_SIZE - 1);
}

evbus_status evbus_inbox_once(const evbus_outbox_db *tx, const char *event_id, const char *handler_id, bool *ret_first)
{
    const char *const params[] = {event_id, handler_id};
    struct ev_db db;
    uint64_t written = 0;
    evbus_status st = ev_db_use(&db, tx);

    if (st != EVBUS_OK || (st = check_id("event_id", event_id)) != EVBUS_OK ||
        (st = check_id("handler_id", handler_id)) != EVBUS_OK)
        return st;
    if (!ret_first)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_inbox_once: ret_first is NULL");
    if (ev_db_tx(&db) != EV_DB_IN_TX)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_inbox_once: no transaction is open, or it has failed");
    st = ev_db_run(&db, &once, params, 2, NULL, NULL, &written);
    if (st == EVBUS_OK)
        *ret_first = written > 0;
    return st;
}

evbus_status ev_inbox_purge(struct ev_db *db, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count)
{
    char age[EV_NUMBER_SIZE], rows[EV_NUMBER_SIZE];
    const char *const params[] = {
        ev_number(age_ms > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)age_ms, age),
        ev_number(rows_max ? rows_max : ROWS_DEFAULT, rows),
    };

    return ev_db_run(db, &purge, params, 2, NULL, NULL, ret_count);
}

evbus_status evbus_inbox_purge(const evbus_outbox_db *of, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count)
{
    struct ev_db db;
    const evbus_status st = ev_db_use(&db, of);

    return st != EVBUS_OK ? st : ev_inbox_purge(&db, age_ms, rows_max, ret_count);
}
