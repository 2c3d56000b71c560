/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: an order service that cannot lose an event and does nothing twice, on SQLite alone. An order and its
 * event are written in one transaction; a relay publishes what was committed; the billing handler remembers in its own
 * transaction which events it has done, so that an event that comes again changes nothing.
 *
 * Run: order_service_sqlite [URL]
 */
#include <evbus/outbox.h>

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TOPIC "orders.placed"
#define ORDERS 20

static int run(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

/* The business row and its event: both, or neither. Every fifth customer changes their mind. */
static evbus_status place_order(sqlite3 *db, int order)
{
    char sql[100], id[32], payload[64];
    const evbus_outbox_db tx = {.sqlite = db};

    snprintf(sql, sizeof sql, "INSERT INTO orders (id, total) VALUES (%d, %d)", order, 10 + order);
    snprintf(id, sizeof id, "order-%d", order);
    snprintf(payload, sizeof payload, "{\"total\":%d}", 10 + order);
    if (run(db, "BEGIN IMMEDIATE") != SQLITE_OK)
        return EVBUS_TIMEOUT;
    evbus_status st = run(db, sql) == SQLITE_OK ? EVBUS_OK : EVBUS_SYSTEM;
    if (st == EVBUS_OK)
        st = evbus_outbox_enqueue(
            &tx, TOPIC,
            &(evbus_envelope){.aggregate_id = id, .event_type = "OrderPlaced", .event_version = 1, .payload = payload},
            EVBUS_OPTS(evbus_outbox_opts, .idempotency_key = id), NULL);
    if (run(db, st == EVBUS_OK && order % 5 != 0 ? "COMMIT" : "ROLLBACK") != SQLITE_OK)
        return EVBUS_SYSTEM;
    return st;
}

/* Billing, another service: a connection and tables of its own. */
static evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    sqlite3 *db = ctx;
    const evbus_outbox_db tx = {.sqlite = db};
    char sql[200];
    bool first = false;

    if (run(db, "BEGIN IMMEDIATE") != SQLITE_OK)
        return EVBUS_RETRY;
    evbus_status st = evbus_inbox_once(&tx, evbus_msg_envelope(msg)->event_id, "billing", &first);
    snprintf(sql, sizeof sql, "INSERT INTO invoices (ordered) VALUES ('%s')", evbus_msg_envelope(msg)->aggregate_id);
    if (st == EVBUS_OK && first && run(db, sql) != SQLITE_OK)
        st = EVBUS_SYSTEM;
    if (run(db, st == EVBUS_OK ? "COMMIT" : "ROLLBACK") != SQLITE_OK)
        st = EVBUS_SYSTEM;
    return st == EVBUS_OK ? EVBUS_ACK : EVBUS_RETRY;
}

static int count(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *stmt = NULL;
    int rows = -1;

    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        rows = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return rows;
}

static sqlite3 *open_database(const char *path)
{
    sqlite3 *db = NULL;

    if (sqlite3_open(path, &db) != SQLITE_OK)
        return NULL;
    sqlite3_busy_timeout(db, 5000);
    run(db, "PRAGMA journal_mode = WAL");
    run(db, "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, total INTEGER)");
    run(db, "CREATE TABLE IF NOT EXISTS invoices (id INTEGER PRIMARY KEY, ordered TEXT)");
    return db;
}

static evbus_status serve(const char *url, const char *path, sqlite3 *orders, sqlite3 *billing)
{
    char database[128];
    evbus *bus = NULL;
    evbus_outbox_relay *relay = NULL;
    const struct timespec moment = {.tv_nsec = 5 * 1000 * 1000};

    snprintf(database, sizeof database, "sqlite:%s", path);
    evbus_status st = evbus_outbox_migrate(&(evbus_outbox_db){.sqlite = orders});
    if (st == EVBUS_OK)
        st = evbus_open(url, EVBUS_OPTS(evbus_opts, .name = "billing", .workers_min = 1, .workers_max = 1), &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, TOPIC, on_order, billing,
                                      EVBUS_OPTS(evbus_sub_opts, .start = EVBUS_START_NEW), NULL);
    if (st == EVBUS_OK)
        st = evbus_outbox_relay_start(EVBUS_OPTS(evbus_outbox_relay_opts, .database = database, .url = url), &relay);
    for (int order = 1; st == EVBUS_OK && order <= ORDERS; order++)
        st = place_order(orders, order);
    for (int i = 0; st == EVBUS_OK && i < 2000 && count(orders, "SELECT COUNT(*) FROM invoices") < ORDERS * 4 / 5; i++)
        nanosleep(&moment, NULL);
    if (st != EVBUS_OK)
        fprintf(stderr, "order_service_sqlite: %s (%s%s)\n", evbus_strerror(st), evbus_outbox_error_detail(),
                evbus_error_detail());
    evbus_outbox_relay_stop(relay, 0, NULL);
    evbus_close(bus);
    return st;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : "mem://order_service"; /* by name: the relay opens it as well */
    char path[] = "/tmp/order_service-XXXXXX", name[64];
    const int file = mkstemp(path);

    sqlite3 *orders = file >= 0 ? open_database(path) : NULL, *billing = file >= 0 ? open_database(path) : NULL;
    if (!orders || !billing)
        return 1;
    const evbus_status st = serve(url, path, orders, billing);
    const int placed = count(orders, "SELECT COUNT(*) FROM orders"),
              invoices = count(orders, "SELECT COUNT(*) FROM invoices");
    printf("%d of %d orders were placed, %d invoices written\n", placed, ORDERS, invoices);
    sqlite3_close(orders);
    sqlite3_close(billing);
    close(file);
    unlink(path);
    snprintf(name, sizeof name, "%s-wal", path);
    unlink(name);
    snprintf(name, sizeof name, "%s-shm", path);
    unlink(name);
    return st == EVBUS_OK && placed == ORDERS * 4 / 5 && invoices == placed ? 0 : 1;
}
