/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/options.h"
#include "outbox/sql.h"
#include "outbox/text.h"

#include <stdlib.h>
#include <string.h>

#define KEY_MAX 512

/* PostgreSQL: a function of the schema (schema.c), whose statements a session plans once. Its result is the rows. */
static const struct ev_sql insert = {
    "INSERT INTO evbus_outbox (event_id, idempotency_key, topic, aggregate_id, event_type, event_version,"
    " timestamp_ns, trace_id, correlation_id, tenant_id, payload, scheduled_ms, state, created_ms) VALUES ($1, $2, $3,"
    " $4, $5, " INT("$6") ", " INT("$7") ", $8, $9, " INT("$10") ", $11, " INT("$12") ", CASE WHEN " INT(
        "$12") " > " SQLITE_NOW " THEN 0 ELSE 1 END, " SQLITE_NOW ") ON CONFLICT DO NOTHING",
    "SELECT evbus_outbox_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
};

static evbus_status take_written(const char *const *columns, void *ctx)
{
    *(int64_t *)ctx = ev_number_of(columns[0]);
    return EVBUS_OK;
}

static evbus_status check(const struct ev_db *db, const char *topic, const evbus_envelope *env,
                          const evbus_outbox_opts *o)
{
    switch (ev_db_tx(db)) {
    case EV_DB_NO_TX:
        return ev_outbox_fail(EVBUS_INVALID,
                              "evbus_outbox_enqueue: no transaction is open: the event would not be part of one");
    case EV_DB_FAILED_TX:
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_enqueue: the open transaction has failed: roll it back");
    case EV_DB_IN_TX:
        break;
    }
    const evbus_status st = evbus_envelope_check(topic, env);
    if (st != EVBUS_OK)
        return ev_outbox_fail_bus(st, "evbus_outbox_enqueue");
    if (env->event_id && strlen(env->event_id) >= EVBUS_OUTBOX_ID_SIZE)
        return ev_outbox_fail(EVBUS_INVALID, "event_id: longer than %d bytes", EVBUS_OUTBOX_ID_SIZE - 1);
    if (o->idempotency_key && (!*o->idempotency_key || strlen(o->idempotency_key) > KEY_MAX))
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_opts.idempotency_key: 1..%d bytes", KEY_MAX);
    if (o->not_before_ns < 0)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_opts.not_before_ns: a time before 1970");
    return EVBUS_OK;
}

static evbus_status write_row(struct ev_db *db, const char *topic, const evbus_envelope *env,
                              const evbus_outbox_opts *o, const char *event_id, const char *payload)
{
    char version[EV_NUMBER_SIZE], stamp[EV_NUMBER_SIZE], tenant[EV_NUMBER_SIZE], due[EV_NUMBER_SIZE],
        lock[EV_NUMBER_SIZE];
    uint64_t changes = 0;
    int64_t put = 0;
    const char *const params[] = {
        event_id,
        o->idempotency_key,
        topic,
        env->aggregate_id,
        env->event_type,
        ev_number(env->event_version, version),
        ev_number(env->timestamp_ns ? env->timestamp_ns : ev_wall_ns(), stamp),
        env->trace_id,
        env->correlation_id,
        ev_number(env->tenant_id, tenant),
        payload,
        ev_number((o->not_before_ns + 999999) / 1000000, due),
        ev_number((int64_t)ev_hash_of(env->aggregate_id), lock),
    };
    const evbus_status st =
        ev_db_run(db, &insert, params, (int)(sizeof params / sizeof *params), take_written, &put, &changes);

    if (st != EVBUS_OK)
        return st;
    if (db->sqlite ? changes == 0 : put == 0)
        return ev_outbox_fail(EVBUS_EXISTS, "event %s%s%s is in the outbox already", event_id,
                              o->idempotency_key ? " or idempotency key " : "",
                              o->idempotency_key ? o->idempotency_key : "");
    return EVBUS_OK;
}

evbus_status evbus_outbox_enqueue(const evbus_outbox_db *tx, const char *topic, const evbus_envelope *env,
                                  const evbus_outbox_opts *opts, char *ret_event_id)
{
    struct ev_db db;
    evbus_outbox_opts o;
    char uuid[EV_UUID_SIZE];
    evbus_status st = ev_db_use(&db, tx);

    if (st != EVBUS_OK || (st = ev_outbox_opts_read(&o, sizeof o, opts, "evbus_outbox_opts")) != EVBUS_OK ||
        (st = check(&db, topic, env, &o)) != EVBUS_OK)
        return st;
    if (!env->event_id && !ev_outbox_uuid(ev_wall_ns(), uuid))
        return ev_outbox_fail(EVBUS_SYSTEM, "the system gives no random bytes");
    const char *id = env->event_id ? env->event_id : uuid;
    char *payload = env->payload_len ? strndup(env->payload, env->payload_len) : strdup(env->payload);
    if (!payload)
        return ev_outbox_fail(EVBUS_NOMEM, "out of memory for a payload");
    st = write_row(&db, topic, env, &o, id, payload);
    free(payload);
    if (st == EVBUS_OK && ret_event_id)
        memcpy(ret_event_id, id, strlen(id) + 1);
    return st;
}
