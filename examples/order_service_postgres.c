/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: the same as order_service_sqlite.c on PostgreSQL. Nothing but the connection differs: an order and its
 * event are written in one transaction, a relay publishes what was committed, and billing does every event once.
 *
 * Run: order_service_postgres URL CONNINFO     (for example "host=/run/postgresql dbname=orders")
 */
#include <evbus/outbox.h>

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TOPIC "orders.placed"
#define ORDERS 20

static bool run(PGconn *db, const char *sql)
{
    PGresult *result = PQexec(db, sql);
    const bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;

    PQclear(result);
    return ok;
}

/* The business row and its event: both, or neither. Every fifth customer changes their mind. */
static evbus_status place_order(PGconn *db, int order)
{
    char sql[100], id[32], payload[64];
    const evbus_outbox_db tx = {.postgres = db};

    snprintf(sql, sizeof sql, "INSERT INTO orders (id, total) VALUES (%d, %d)", order, 10 + order);
    snprintf(id, sizeof id, "order-%d", order);
    snprintf(payload, sizeof payload, "{\"total\":%d}", 10 + order);
    if (!run(db, "BEGIN"))
        return EVBUS_DISCONNECTED;
    evbus_status st = run(db, sql) ? EVBUS_OK : EVBUS_SYSTEM;
    if (st == EVBUS_OK)
        st = evbus_outbox_enqueue(
            &tx, TOPIC,
            &(evbus_envelope){.aggregate_id = id, .event_type = "OrderPlaced", .event_version = 1, .payload = payload},
            EVBUS_OPTS(evbus_outbox_opts, .idempotency_key = id), NULL);
    if (!run(db, st == EVBUS_OK && order % 5 != 0 ? "COMMIT" : "ROLLBACK"))
        return EVBUS_SYSTEM;
    return st;
}

/* Billing, another service: a connection of its own, which its one worker uses. */
static evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    PGconn *db = ctx;
    const evbus_outbox_db tx = {.postgres = db};
    char sql[200];
    bool first = false;

    if (!run(db, "BEGIN"))
        return EVBUS_RETRY;
    evbus_status st = evbus_inbox_once(&tx, evbus_msg_envelope(msg)->event_id, "billing", &first);
    snprintf(sql, sizeof sql, "INSERT INTO invoices (ordered) VALUES ('%s')", evbus_msg_envelope(msg)->aggregate_id);
    if (st == EVBUS_OK && first && !run(db, sql))
        st = EVBUS_SYSTEM;
    if (!run(db, st == EVBUS_OK ? "COMMIT" : "ROLLBACK"))
        st = EVBUS_SYSTEM;
    return st == EVBUS_OK ? EVBUS_ACK : EVBUS_RETRY;
}

static int count(PGconn *db, const char *table)
{
    char sql[64];

    snprintf(sql, sizeof sql, "SELECT COUNT(*) FROM %s", table);
    PGresult *result = PQexec(db, sql);
    const int rows = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : -1;
    PQclear(result);
    return rows;
}

static evbus_status serve(const char *url, const char *conninfo, PGconn *orders, PGconn *billing)
{
    const struct timespec moment = {.tv_nsec = 5 * 1000 * 1000};
    evbus *bus = NULL;
    evbus_outbox_relay *relay = NULL;

    evbus_status st = evbus_outbox_migrate(&(evbus_outbox_db){.postgres = orders});
    if (st == EVBUS_OK)
        st = evbus_open(url, EVBUS_OPTS(evbus_opts, .name = "billing", .workers_min = 1, .workers_max = 1), &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, TOPIC, on_order, billing,
                                      EVBUS_OPTS(evbus_sub_opts, .start = EVBUS_START_NEW), NULL);
    if (st == EVBUS_OK)
        st = evbus_outbox_relay_start(EVBUS_OPTS(evbus_outbox_relay_opts, .database = conninfo, .url = url), &relay);
    for (int order = 1; st == EVBUS_OK && order <= ORDERS; order++)
        st = place_order(orders, order);
    for (int i = 0; st == EVBUS_OK && i < 2000 && count(orders, "invoices") < ORDERS * 4 / 5; i++)
        nanosleep(&moment, NULL);
    if (st != EVBUS_OK)
        fprintf(stderr, "order_service_postgres: %s (%s%s)\n", evbus_strerror(st), evbus_outbox_error_detail(),
                evbus_error_detail());
    evbus_outbox_relay_stop(relay, 0, NULL);
    evbus_close(bus);
    return st;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: order_service_postgres URL CONNINFO\n");
        return 2;
    }
    PGconn *orders = PQconnectdb(argv[2]), *billing = PQconnectdb(argv[2]);
    if (!run(orders, "DROP TABLE IF EXISTS orders, invoices, evbus_outbox_schema, evbus_outbox, evbus_outbox_lease,"
                     " evbus_inbox") ||
        !run(orders, "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)") ||
        !run(orders, "CREATE TABLE invoices (id SERIAL PRIMARY KEY, ordered TEXT)")) {
        fprintf(stderr, "order_service_postgres: %s", PQerrorMessage(orders));
        return 1;
    }
    const evbus_status st = serve(argv[1], argv[2], orders, billing);
    const int placed = count(orders, "orders"), invoices = count(orders, "invoices");
    printf("%d of %d orders were placed, %d invoices written\n", placed, ORDERS, invoices);
    PQfinish(orders);
    PQfinish(billing);
    return st == EVBUS_OK && placed == ORDERS * 4 / 5 && invoices == placed ? 0 : 1;
}
