/* SPDX-License-Identifier: Apache-2.0 */
/* Looking after the outbox: counting, listing and reviving dead rows, removing published ones. */
#include "outbox/relay.h"
#include "outbox/schema.h"

#include <string.h>

#define PURGE_DEFAULT 10000
#define DEAD_DEFAULT 1000

#define COUNT(now, list, pairs)                                                                                        \
    "SELECT (SELECT COUNT(*) FROM evbus_outbox WHERE state = 0), (SELECT COUNT(*) FROM evbus_outbox WHERE state = 1)," \
    " (SELECT COUNT(*) FROM evbus_outbox WHERE state = 2), (SELECT COUNT(*) FROM evbus_outbox WHERE state = 3),"       \
    " (SELECT COUNT(*) FROM evbus_outbox WHERE state = 4),"                                                            \
    " (SELECT COUNT(*) FROM evbus_outbox_lease WHERE until_ms > " now "),"                                             \
    " (SELECT COUNT(*) FROM evbus_outbox_lease WHERE retry_ms > " now "),"                                             \
    " (SELECT " now " - MIN(CASE WHEN scheduled_ms > created_ms THEN scheduled_ms ELSE created_ms END)"                \
    " FROM evbus_outbox WHERE state = 1), (SELECT COUNT(*) FROM evbus_inbox)"
#define BLOCKED(now, list, pairs)                                                                                      \
    "SELECT COUNT(*), COUNT(DISTINCT p.aggregate_id) FROM evbus_outbox p WHERE p.state = 1 AND EXISTS"                 \
    " (SELECT 1 FROM evbus_outbox d WHERE d.state = 3 AND d.aggregate_id = p.aggregate_id AND d.id < p.id)"
#define DEAD(now, list, pairs)                                                                                         \
    "SELECT id, event_id, topic, aggregate_id, event_type, event_version, tenant_id, done_ms, attempts, state,"        \
    " payload, error FROM evbus_outbox WHERE state IN (3, 4) ORDER BY id LIMIT " INT("$1")
#define RETRY(now, list, pairs)                                                                                        \
    "UPDATE evbus_outbox SET state = 1, attempts = 0, done_ms = NULL WHERE state IN (3, 4)"                            \
    " AND (CAST($1 AS TEXT) IS NULL OR event_id = $1)"
#define PASS(now, list, pairs)                                                                                         \
    "UPDATE evbus_outbox SET state = 4 WHERE state = 3 AND (CAST($1 AS TEXT) IS NULL OR event_id = $1)"
#define PURGE(now, list, pairs)                                                                                        \
    "DELETE FROM evbus_outbox WHERE id IN (SELECT id FROM evbus_outbox WHERE state = 2 AND done_ms <= " now            \
    " - " INT("$1") " ORDER BY done_ms LIMIT " INT("$2") ")"
EV_SQL(count_all, COUNT);
EV_SQL(count_blocked, BLOCKED);
EV_SQL(list_dead, DEAD);
EV_SQL(revive, RETRY);
EV_SQL(let_pass, PASS);
EV_SQL(purge, PURGE);

static const struct ev_sql notify = {"SELECT 1", "SELECT pg_notify('" EV_DB_NOTIFY "', '')"};

static evbus_status take_counts(const char *const *c, void *ctx)
{
    evbus_outbox_counts *r = ctx;

    r->scheduled = (uint64_t)ev_number_of(c[0]);
    r->pending = (uint64_t)ev_number_of(c[1]);
    r->published = (uint64_t)ev_number_of(c[2]);
    r->dead = (uint64_t)ev_number_of(c[3]);
    r->passed = (uint64_t)ev_number_of(c[4]);
    r->leased_aggregates = (uint64_t)ev_number_of(c[5]);
    r->waiting_aggregates = (uint64_t)ev_number_of(c[6]);
    const int64_t age = ev_number_of(c[7]);
    r->oldest_pending_ms = age > 0 ? (uint64_t)age : 0;
    r->inbox = (uint64_t)ev_number_of(c[8]);
    return EVBUS_OK;
}

static evbus_status take_blocked(const char *const *c, void *ctx)
{
    evbus_outbox_counts *r = ctx;

    r->blocked = (uint64_t)ev_number_of(c[0]);
    r->blocked_aggregates = (uint64_t)ev_number_of(c[1]);
    return EVBUS_OK;
}

evbus_status evbus_outbox_status(const evbus_outbox_db *of, evbus_outbox_counts *ret)
{
    evbus_outbox_counts r = {.struct_size = sizeof r};
    struct ev_db db;
    int64_t version = 0;
    evbus_status st = ev_db_use(&db, of);

    if (st == EVBUS_OK && !ret)
        st = ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_status: ret is NULL");
    if (st != EVBUS_OK || (st = ev_schema_check(&db)) != EVBUS_OK ||
        (st = ev_schema_version(&db, &version)) != EVBUS_OK)
        return st;
    st = ev_db_run(&db, &count_all, NULL, 0, take_counts, &r, NULL);
    if (st == EVBUS_OK)
        st = ev_db_run(&db, &count_blocked, NULL, 0, take_blocked, &r, NULL);
    r.schema_version = (uint64_t)version;
    if (st == EVBUS_OK)
        *ret = r;
    return st;
}

struct listing {
    evbus_outbox_row_fn fn;
    void *ctx;
    bool ended;
};

static evbus_status take_dead(const char *const *c, void *ctx)
{
    struct listing *l = ctx;
    const evbus_outbox_row row = {
        .id = ev_number_of(c[0]),
        .event_id = c[1],
        .topic = c[2],
        .aggregate_id = c[3],
        .event_type = c[4],
        .event_version = ev_number_of(c[5]),
        .tenant_id = ev_number_of(c[6]),
        .dead_ns = ev_number_of(c[7]) * 1000000,
        .attempts = (uint64_t)ev_number_of(c[8]),
        .blocks = ev_number_of(c[9]) == EV_ROW_DEAD,
        .payload = c[10],
        .error = c[11] ? c[11] : "",
    };

    if (!l->ended)
        l->ended = !l->fn(&row, l->ctx);
    return EVBUS_OK;
}

evbus_status evbus_outbox_dead(const evbus_outbox_db *of, uint32_t rows_max, evbus_outbox_row_fn fn, void *ctx)
{
    struct listing l = {.fn = fn, .ctx = ctx};
    char rows[EV_NUMBER_SIZE];
    const char *const params[] = {ev_number(rows_max ? rows_max : DEAD_DEFAULT, rows)};
    struct ev_db db;
    const evbus_status st = ev_db_use(&db, of);

    if (st == EVBUS_OK && !fn)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_dead: fn is NULL");
    return st != EVBUS_OK ? st : ev_db_run(&db, &list_dead, params, 1, take_dead, &l, NULL);
}

static evbus_status change_dead(const evbus_outbox_db *of, const struct ev_sql *sql, const char *event_id,
                                uint64_t *ret_count)
{
    const char *const params[] = {event_id};
    struct ev_db db;
    uint64_t changed = 0;
    evbus_status st = ev_db_use(&db, of);

    if (st == EVBUS_OK)
        st = ev_db_run(&db, sql, params, 1, NULL, NULL, &changed);
    if (st == EVBUS_OK && changed)
        st = ev_db_run(&db, &notify, NULL, 0, NULL, NULL, NULL);
    if (st != EVBUS_OK)
        return st;
    if (event_id && changed == 0)
        return ev_outbox_fail(EVBUS_NOT_FOUND, "no dead row has the event id %s", event_id);
    if (ret_count)
        *ret_count = changed;
    return EVBUS_OK;
}

evbus_status evbus_outbox_retry(const evbus_outbox_db *db, const char *event_id, uint64_t *ret_count)
{
    return change_dead(db, &revive, event_id, ret_count);
}

evbus_status evbus_outbox_pass(const evbus_outbox_db *db, const char *event_id, uint64_t *ret_count)
{
    return change_dead(db, &let_pass, event_id, ret_count);
}

evbus_status ev_outbox_purge(struct ev_db *db, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count)
{
    char age[EV_NUMBER_SIZE], rows[EV_NUMBER_SIZE];
    const char *const params[] = {
        ev_number(age_ms > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)age_ms, age),
        ev_number(rows_max ? rows_max : PURGE_DEFAULT, rows),
    };

    return ev_db_run(db, &purge, params, 2, NULL, NULL, ret_count);
}

evbus_status evbus_outbox_purge(const evbus_outbox_db *of, uint64_t age_ms, uint32_t rows_max, uint64_t *ret_count)
{
    struct ev_db db;
    const evbus_status st = ev_db_use(&db, of);

    return st != EVBUS_OK ? st : ev_outbox_purge(&db, age_ms, rows_max, ret_count);
}
