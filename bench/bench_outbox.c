/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the outbox costs, on both databases: a transaction with a business row and an event beside one with the business
 * row alone (alternating, median of the rounds), and how many rows a second a relay publishes (to mem://, so that the
 * database is what is measured). PostgreSQL is a cluster of its own; without it only SQLite is measured.
 * fsync is off there (SQLite has it on), so that its ratio is the worst that can be seen.
 */
#include "bench.h"

#include "pg_server.h" /* of tests/support */

#include <evbus/outbox.h>

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if EVBUS_HAVE_POSTGRES
#include <libpq-fe.h>
#endif

#define AGGREGATES 1000

struct bench {
    const char *name;
    char database[160];
    evbus_outbox_db db;
    int transactions, rounds, rows;
};

static void run_sql(const struct bench *b, const char *text)
{
    if (b->db.sqlite) {
        if (sqlite3_exec(b->db.sqlite, text, NULL, NULL, NULL) != SQLITE_OK)
            bench_fail("%s: %s", text, sqlite3_errmsg(b->db.sqlite));
        return;
    }
#if EVBUS_HAVE_POSTGRES
    PGresult *result = PQexec(b->db.postgres, text);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        bench_fail("%s: %s", text, PQerrorMessage(b->db.postgres));
    PQclear(result);
#endif
}

static void enqueue(const struct bench *b, int i)
{
    char name[32];

    (void)snprintf(name, sizeof name, "order-%d", i % AGGREGATES);
    const evbus_envelope env = {.aggregate_id = name,
                                .event_type = "OrderPlaced",
                                .event_version = i + 1,
                                .payload = "{\"customer\":\"c-1882\",\"total\":1299,\"currency\":\"EUR\"}"};
    if (evbus_outbox_enqueue(&b->db, "bench.orders", &env, NULL, NULL) != EVBUS_OK)
        bench_fail("%s: %s", "enqueue", evbus_outbox_error_detail());
}

/* Seconds for one round of transactions. */
static double transactions(const struct bench *b, bool with_event)
{
    const int64_t from = bench_now();

    for (int i = 0; i < b->transactions; i++) {
        run_sql(b, "BEGIN");
        run_sql(b, "INSERT INTO orders (total) VALUES (1299)");
        if (with_event)
            enqueue(b, i);
        run_sql(b, "COMMIT");
    }
    return (double)(bench_now() - from) / 1e9;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static void measure_enqueue(const struct bench *b)
{
    double bare[ROUNDS_MAX], event[ROUNDS_MAX], ratio[ROUNDS_MAX];

    (void)transactions(b, true); /* does not count */
    for (int i = 0; i < b->rounds; i++) {
        bare[i] = transactions(b, false) / b->transactions * 1e6;
        event[i] = transactions(b, true) / b->transactions * 1e6;
        ratio[i] = event[i] / bare[i];
    }
    report_note("outbox", "%s: a transaction with a bare INSERT %.1f us, with an event too %.1f us: %.2f times",
                b->name, median(bare, b->rounds), median(event, b->rounds), median(ratio, b->rounds));
}

static void measure_relay(const struct bench *b)
{
    evbus_outbox_relay *relay = NULL;
    evbus_outbox_relay_statistics s = {0};
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    evbus_outbox_relay_opts o = {.struct_size = sizeof o, .database = b->database, .url = "mem://bench_outbox"};

    run_sql(b, "DELETE FROM evbus_outbox");
    run_sql(b, "BEGIN");
    for (int i = 0; i < b->rows; i++)
        enqueue(b, i);
    run_sql(b, "COMMIT");
    const int64_t from = bench_now();
    if (evbus_outbox_relay_start(&o, &relay) != EVBUS_OK)
        bench_fail("%s: %s", "relay", evbus_outbox_error_detail());
    while (s.marked < (uint64_t)b->rows) {
        nanosleep(&moment, NULL);
        (void)evbus_outbox_relay_stats(relay, &s);
    }
    const double took = (double)(bench_now() - from) / 1e9;
    if (evbus_outbox_relay_stop(relay, 0, &s) != EVBUS_OK)
        bench_fail("%s: %s", "relay", evbus_outbox_error_detail());
    report_note("outbox", "%s: a relay publishes %d rows of %d aggregates in %.2f s: %.0f rows/s", b->name, b->rows,
                AGGREGATES, took, b->rows / took);
}

static void measure(struct bench *b)
{
    if (evbus_outbox_connect(b->database, &b->db) != EVBUS_OK || evbus_outbox_migrate(&b->db) != EVBUS_OK)
        bench_fail("%s: %s", b->name, evbus_outbox_error_detail());
    if (b->db.sqlite)
        run_sql(b, "PRAGMA journal_mode = WAL");
    run_sql(b, b->db.sqlite ? "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)"
                            : "CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, total INTEGER)");
    measure_enqueue(b);
    measure_relay(b);
    evbus_outbox_disconnect(&b->db);
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 9, 0);
    struct bench b = {.name = "sqlite",
                      .transactions = bench_args.quick ? 200 : 1000,
                      .rounds = (int)bench_args.rounds,
                      .rows = bench_args.quick ? 10000 : 100000};
    char folder[] = "/tmp/bench-outbox-XXXXXX", command[64];

    if (!mkdtemp(folder))
        bench_fail("%s cannot be made", folder);
    (void)snprintf(b.database, sizeof b.database, "%s/db", folder);
    FILE *f = fopen(b.database, "we");
    if (!f || fclose(f) != 0)
        bench_fail("%s cannot be made", b.database);
    (void)snprintf(b.database, sizeof b.database, "sqlite:%s/db", folder);
    measure(&b);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        (void)fprintf(stderr, "%s is left\n", folder);
#if EVBUS_HAVE_POSTGRES
    struct pg_server server;
    if (!pg_server_available()) {
        report_note("outbox", "postgresql is not installed");
        return report_end();
    }
    if (!pg_server_start(&server))
        bench_fail("postgresql does not start");
    b.name = "postgresql";
    (void)snprintf(b.database, sizeof b.database, "%s", server.conninfo);
    measure(&b);
    pg_server_end(&server);
#endif
    return report_end();
}
