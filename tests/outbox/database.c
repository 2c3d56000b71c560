/* SPDX-License-Identifier: Apache-2.0 */
#include "case.h"

#include "outbox/db.h"

#include "../support/pg_server.h"

static struct pg_server server; /* one for all cases of a program */
static unsigned made;

static evbus_status take_number(const char *const *columns, void *ctx)
{
    *(int64_t *)ctx = columns[0] ? strtoll(columns[0], NULL, 10) : 0;
    return EVBUS_OK;
}

evbus_status try_number(const evbus_outbox_db *of, const char *text, int64_t *ret)
{
    const struct ev_sql both = {text, text};
    struct ev_db db;

    must(ev_db_use(&db, of));
    return ev_db_run(&db, &both, NULL, 0, take_number, ret, NULL);
}

int64_t number(const evbus_outbox_db *of, const char *text)
{
    int64_t value = -1;

    must(try_number(of, text, &value));
    return value;
}

evbus_status try_sql(const evbus_outbox_db *of, const char *text)
{
    struct ev_db db;

    must(ev_db_use(&db, of));
    return ev_db_exec(&db, text);
}

void sql(const evbus_outbox_db *of, const char *text)
{
    must(try_sql(of, text));
}

static void make_sqlite(struct place *place)
{
    char name[64];

    (void)snprintf(name, sizeof name, "/tmp/evbus-outbox-%d-%u.db", (int)getpid(), ++made);
    FILE *f = fopen(name, "we");
    assert_non_null(f);
    (void)fclose(f);
    (void)snprintf(place->database, sizeof place->database, "sqlite:%s", name);
    evbus_outbox_db db = connected(place);
    sql(&db, "PRAGMA journal_mode = WAL");
    evbus_outbox_disconnect(&db);
}

static void make_postgres(struct place *place)
{
    char text[80];

    if (server.pid == 0)
        assert_true(pg_server_start(&server));
    (void)snprintf(place->database, sizeof place->database, "%s", server.conninfo);
    evbus_outbox_db db = connected(place);
    (void)snprintf(text, sizeof text, "CREATE DATABASE case_%u", ++made);
    sql(&db, text);
    evbus_outbox_disconnect(&db);
    (void)snprintf(place->database, sizeof place->database, "host=%s user=postgres dbname=case_%u", server.dir, made);
}

void place_new(struct place *place)
{
    if (place->postgres)
        make_postgres(place);
    else
        make_sqlite(place);
}

void place_drop(struct place *place)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char name[180];

    for (size_t i = 0; !place->postgres && i < 3; i++) {
        (void)snprintf(name, sizeof name, "%s%s", place->database + strlen("sqlite:"), ends[i]);
        (void)unlink(name);
    }
}

void place_crash(const struct place *place)
{
    if (!place->postgres)
        return;
    pg_server_kill(&server);
    assert_true(pg_server_restart(&server));
}
