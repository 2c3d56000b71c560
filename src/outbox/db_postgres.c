/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/db.h"

#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What an own connection must not hold for ever: a lock, or an open transaction while its process is stopped. */
#define OWN_SETTINGS "SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '5s'; LISTEN " EV_DB_NOTIFY

/* Without the line feed at its end and the further lines, which may quote values. */
static const char *first_line(const char *text, char *out, size_t cap)
{
    (void)snprintf(out, cap, "%.*s", (int)strcspn(text, "\n"), text);
    return out;
}

static evbus_status failed(struct ev_db *db, const PGresult *result)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    char text[300];

    (void)first_line(result ? PQresultErrorMessage(result) : PQerrorMessage(db->postgres), text, sizeof text);
    if (PQstatus(db->postgres) == CONNECTION_BAD || !state)
        return ev_outbox_fail(EVBUS_DISCONNECTED, "postgresql: %s", *text ? text : "the connection is gone");
    if (strcmp(state, "42P01") == 0 || (strcmp(state, "42883") == 0 && strstr(text, "evbus_outbox_put")))
        return ev_outbox_fail(EVBUS_NOT_FOUND, "postgresql: %s: call evbus_outbox_migrate first", text);
    if (strncmp(state, "40", 2) == 0 || strcmp(state, "55P03") == 0)
        return ev_outbox_fail(EVBUS_TIMEOUT, "postgresql: %s: roll back and begin again (%s)", text, state);
    if (strncmp(state, "57P0", 4) == 0 || strncmp(state, "08", 2) == 0)
        return ev_outbox_fail(EVBUS_DISCONNECTED, "postgresql: %s", text);
    if (strcmp(state, "25P02") == 0)
        return ev_outbox_fail(EVBUS_INVALID, "postgresql: %s", text);
    return ev_outbox_fail(EVBUS_SYSTEM, "postgresql: %s (%s)", text, state);
}

static void no_notice(void *ctx, const PGresult *result)
{
    (void)ctx;
    (void)result;
}

evbus_status ev_postgres_open(struct ev_db *db, const char *conninfo)
{
    static const char *const names[] = {"connect_timeout", "application_name", "dbname", NULL};
    const char *const values[] = {"5", "evbus_outbox", conninfo, NULL};

    db->postgres = PQconnectdbParams(names, values, 1);
    if (!db->postgres)
        return ev_outbox_fail(EVBUS_NOMEM, "postgresql: out of memory");
    if (PQstatus(db->postgres) != CONNECTION_OK)
        return failed(db, NULL);
    (void)PQsetNoticeReceiver(db->postgres, no_notice, NULL);
    return ev_postgres_exec(db, OWN_SETTINGS);
}

void ev_postgres_close(struct ev_db *db)
{
    if (db->own)
        PQfinish(db->postgres);
    db->postgres = NULL;
}

/* ---- Waiting for an answer, with a limit ------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool ready(PGconn *conn, int64_t until)
{
    while (PQisBusy(conn)) {
        struct pollfd p = {.fd = PQsocket(conn), .events = POLLIN};
        const int64_t left = until - now_ms();
        if (left <= 0 || p.fd < 0)
            return false;
        if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
            return false;
        if (p.revents && !PQconsumeInput(conn))
            return false;
    }
    return true;
}

/* The last result of what was sent, as PQexec does; NULL: no answer in time, and the connection cannot be used again. */
static PGresult *answer(struct ev_db *db)
{
    const int64_t until = now_ms() + (db->timeout_ms ? db->timeout_ms : INT32_MAX);
    PGresult *last = NULL;

    for (;;) {
        if (!ready(db->postgres, until)) {
            PQclear(last);
            return NULL;
        }
        PGresult *next = PQgetResult(db->postgres);
        if (!next)
            return last;
        if (last && PQresultStatus(last) == PGRES_FATAL_ERROR) {
            PQclear(next); /* the first failure says why */
            continue;
        }
        PQclear(last);
        last = next;
    }
}

static evbus_status check(struct ev_db *db, const PGresult *result)
{
    const ExecStatusType status = PQresultStatus(result);

    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
        return EVBUS_OK;
    if (!result && PQstatus(db->postgres) == CONNECTION_OK)
        return ev_outbox_fail(EVBUS_DISCONNECTED, "postgresql: no answer within %u ms", (unsigned)db->timeout_ms);
    return failed(db, result);
}

static evbus_status rows(const PGresult *result, ev_row_fn fn, void *ctx)
{
    const char *columns[EV_DB_COLUMNS_MAX];
    const int count = PQnfields(result);
    evbus_status st = EVBUS_OK;

    for (int r = 0; fn && r < PQntuples(result) && st == EVBUS_OK; r++) {
        for (int i = 0; i < count && i < EV_DB_COLUMNS_MAX; i++)
            columns[i] = PQgetisnull(result, r, i) ? NULL : PQgetvalue(result, r, i);
        st = fn(columns, ctx);
    }
    return st;
}

evbus_status ev_postgres_run(struct ev_db *db, const struct ev_sql *sql, const char *const *params, int params_count,
                             ev_row_fn fn, void *ctx, uint64_t *ret_changes)
{
    PGresult *result;

    if (!db->own) {
        result = PQexecParams(db->postgres, sql->postgres, params_count, NULL, params, NULL, NULL, 0);
    } else {
        if (!PQsendQueryParams(db->postgres, sql->postgres, params_count, NULL, params, NULL, NULL, 0))
            return failed(db, NULL);
        result = answer(db);
    }
    evbus_status st = check(db, result);
    if (st == EVBUS_OK)
        st = rows(result, fn, ctx);
    if (st == EVBUS_OK && ret_changes)
        *ret_changes = strtoull(PQcmdTuples(result), NULL, 10);
    PQclear(result);
    return st;
}

evbus_status ev_postgres_exec(struct ev_db *db, const char *text)
{
    PGresult *result;

    if (!db->own) {
        result = PQexec(db->postgres, text);
    } else {
        if (!PQsendQuery(db->postgres, text))
            return failed(db, NULL);
        result = answer(db);
    }
    const evbus_status st = check(db, result);
    PQclear(result);
    return st;
}

enum ev_db_tx ev_postgres_tx(const struct ev_db *db)
{
    switch (PQtransactionStatus(db->postgres)) {
    case PQTRANS_INTRANS:
        return EV_DB_IN_TX;
    case PQTRANS_INERROR:
        return EV_DB_FAILED_TX;
    default:
        return EV_DB_NO_TX;
    }
}

evbus_status ev_postgres_changed(struct ev_db *db, bool *ret)
{
    PGnotify *note;

    if (!PQconsumeInput(db->postgres))
        return failed(db, NULL);
    while ((note = PQnotifies(db->postgres)) != NULL) {
        db->notified = true;
        PQfreemem(note);
    }
    *ret = db->notified;
    db->notified = false;
    return EVBUS_OK;
}

int ev_postgres_fd(const struct ev_db *db)
{
    return PQsocket(db->postgres);
}
