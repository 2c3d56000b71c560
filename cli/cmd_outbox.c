/* SPDX-License-Identifier: Apache-2.0 */
/* evbus outbox: looks after the outbox of a service in its database, and runs a relay (cmd_outbox_relay.c). */
#include "cmd_outbox.h"

#include "json_out.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGE_DEFAULT_MS 86400000u
#define PURGE_ROWS 10000u

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct outbox_options, field), min, max                                      \
    }

static const struct arg args[] = {
    ARG(ARG_TEXT, "--database", "DB", database, 0, 0,
        "sqlite:PATH, postgresql://... or key=value; else $EVBUS_DATABASE"),
    ARG(ARG_FLAG, "--all", NULL, all, 0, 0, "retry, pass: every dead row"),
    ARG(ARG_NUMBER, "--limit", "N", limit, 1, UINT32_MAX, "dead: print at most N rows (1000)"),
    ARG(ARG_SECONDS, "--age", "S", age_ms, 0, 2000000000, "purge: rows published more than S seconds ago (86400)"),
    ARG(ARG_FLAG, "--inbox", NULL, inbox, 0, 0, "purge: forget handled events of that age as well"),
    ARG(ARG_SECONDS, "--lease", "S", lease_ms, 1000, 86400000,
        "relay: an aggregate is this relay's for S seconds (30)"),
    ARG(ARG_NUMBER, "--attempts", "N", attempts, 1, UINT32_MAX - 2, "relay: refusals before a row is dead (10)"),
    ARG(ARG_NUMBER, "--aggregates", "N", aggregates, 1, 4096, "relay: how many are held and in flight at once (256)"),
    ARG(ARG_FLAG, "--pass", NULL, pass, 0, 0, "relay: later rows of an aggregate go on without a dead one"),
    ARG(ARG_TEXT, "--ready-file", "FILE", ready_file, 0, 0, "relay: write the process id to FILE once it runs"),
};

static int run_outbox(const struct common *options, const struct arg_list *operands);

const struct command command_outbox = {
    .name = "outbox",
    .summary = "publish and look after events written in database transactions",
    .synopsis = "status|relay|dead|retry|pass|purge|migrate [EVENT_ID...] [options]",
    .text = "  status   count the rows: scheduled, pending, published, dead, blocked\n"
            "  relay    publish what is committed, until SIGINT or SIGTERM; several may run at once\n"
            "  dead     list the rows that were given up\n"
            "  retry    make dead rows pending again: EVENT_ID... or --all\n"
            "  pass     let the later rows of an aggregate go on without a dead one: EVENT_ID... or --all\n"
            "  purge    remove rows that were published long ago (a relay does it by itself)\n"
            "  migrate  make the tables, or bring them up to date\n"
            "\n"
            "A relay says on stderr what it gives up or takes over, and at its end what it did.\n"
            "\n"
            "Examples\n"
            "  evbus outbox status --database sqlite:orders.db\n"
            "  evbus outbox relay --database 'host=db dbname=orders' --url nats://broker\n"
            "  evbus outbox dead --json | jq -r .event_id\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct outbox_options),
    .uses = USES_CONNECTION | USES_RUN,
    .run = run_outbox,
};

const char *outbox_database(const struct outbox_options *o)
{
    const char *database = o->database ? o->database : getenv("EVBUS_DATABASE");

    if (!database || !*database)
        (void)usage_error(o->c.command, "no database given: --database or $EVBUS_DATABASE");
    return database && *database ? database : NULL;
}

int outbox_fail(const char *command, evbus_status status, const char *what)
{
    const char *detail = evbus_outbox_error_detail();

    if (exit_of(status) == CLI_USAGE)
        return usage_error(command, "%s: %s", what, *detail ? detail : evbus_strerror(status));
    complain(command, "%s: %s%s%s%s", what, evbus_strerror(status), *detail ? " (" : "", detail, *detail ? ")" : "");
    return exit_of(status);
}

/* ---- Status ------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name, *text;
    size_t offset;
} counts[] = {
    {"scheduled", "their time has not come", offsetof(evbus_outbox_counts, scheduled)},
    {"pending", "to be published", offsetof(evbus_outbox_counts, pending)},
    {"published", "and not yet removed", offsetof(evbus_outbox_counts, published)},
    {"dead", "given up; their aggregates wait", offsetof(evbus_outbox_counts, dead)},
    {"passed", "given up; later rows went on", offsetof(evbus_outbox_counts, passed)},
    {"blocked", "of the pending, behind a dead one", offsetof(evbus_outbox_counts, blocked)},
    {"blocked_aggregates", "", offsetof(evbus_outbox_counts, blocked_aggregates)},
    {"leased_aggregates", "held by a relay", offsetof(evbus_outbox_counts, leased_aggregates)},
    {"waiting_aggregates", "pausing after a failure", offsetof(evbus_outbox_counts, waiting_aggregates)},
    {"oldest_pending_ms", "its age", offsetof(evbus_outbox_counts, oldest_pending_ms)},
    {"inbox", "handled events remembered", offsetof(evbus_outbox_counts, inbox)},
    {"schema_version", "of the tables", offsetof(evbus_outbox_counts, schema_version)},
};

static int run_status(const struct outbox_options *o, const evbus_outbox_db *db)
{
    evbus_outbox_counts c;
    struct json j = {0};
    const evbus_status st = evbus_outbox_status(db, &c);

    if (st != EVBUS_OK)
        return outbox_fail(o->c.command, st, "cannot count");
    if (o->c.json)
        json_open(&j, NULL, '{');
    for (size_t i = 0; i < ARG_COUNT(counts); i++) {
        uint64_t value;
        memcpy(&value, (const char *)&c + counts[i].offset, sizeof value);
        if (o->c.json)
            json_uint(&j, counts[i].name, value);
        else
            (void)printf("%-20s%10" PRIu64 "%s%s\n", counts[i].name, value, *counts[i].text ? "  " : "",
                         counts[i].text);
    }
    if (o->c.json) {
        json_close(&j, '}');
        (void)json_print(&j, stdout);
        json_fini(&j);
    }
    return CLI_OK;
}

/* ---- Dead rows --------------------------------------------------------------------------------------------------- */

static bool print_dead(const evbus_outbox_row *row, void *ctx)
{
    const struct outbox_options *o = ctx;
    struct json j = {0};

    if (!o->c.json)
        return printf("%s  %s  %s v%" PRId64 "  %s  %" PRIu64 " attempts%s  %s\n", row->event_id, row->topic,
                      row->aggregate_id, row->event_version, row->event_type, row->attempts,
                      row->blocks ? ", blocks" : "", row->error) > 0;
    json_open(&j, NULL, '{');
    json_string(&j, "event_id", row->event_id);
    json_string(&j, "topic", row->topic);
    json_string(&j, "aggregate_id", row->aggregate_id);
    json_string(&j, "event_type", row->event_type);
    json_int(&j, "event_version", row->event_version);
    json_int(&j, "tenant_id", row->tenant_id);
    json_time(&j, "dead", row->dead_ns);
    json_uint(&j, "attempts", row->attempts);
    json_bool(&j, "blocks", row->blocks);
    json_string(&j, "error", row->error);
    json_raw(&j, "payload", row->payload, strlen(row->payload));
    json_close(&j, '}');
    const bool printed = json_print(&j, stdout);
    json_fini(&j);
    return printed;
}

static int run_dead(const struct outbox_options *o, const evbus_outbox_db *db)
{
    const evbus_status st = evbus_outbox_dead(db, (uint32_t)o->limit, print_dead, (void *)o);

    return st == EVBUS_OK ? CLI_OK : outbox_fail(o->c.command, st, "cannot list");
}

static int print_count(const struct outbox_options *o, const char *what, uint64_t count)
{
    struct json j = {0};

    if (!o->c.json) {
        (void)printf("%" PRIu64 " %s\n", count, what);
        return CLI_OK;
    }
    json_open(&j, NULL, '{');
    json_uint(&j, what, count);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
    return CLI_OK;
}

typedef evbus_status (*change_fn)(const evbus_outbox_db *db, const char *event_id, uint64_t *ret_count);

static int run_change(const struct outbox_options *o, const evbus_outbox_db *db, const struct arg_list *ids,
                      change_fn change, const char *what)
{
    uint64_t all = 0, count = 0;

    if ((ids->count > 1) == o->all) /* operand 0 is the verb */
        return usage_error(o->c.command, "%s: give EVENT_ID..., or --all", ids->items[0]);
    for (size_t i = o->all ? 0 : 1; i < (o->all ? 1 : ids->count); i++) {
        const evbus_status st = change(db, o->all ? NULL : ids->items[i], &count);
        if (st != EVBUS_OK)
            return outbox_fail(o->c.command, st, ids->items[i]);
        all += count;
    }
    return print_count(o, what, all);
}

static int run_retry(const struct outbox_options *o, const evbus_outbox_db *db, const struct arg_list *operands)
{
    return run_change(o, db, operands, evbus_outbox_retry, "retried");
}

static int run_pass(const struct outbox_options *o, const evbus_outbox_db *db, const struct arg_list *operands)
{
    return run_change(o, db, operands, evbus_outbox_pass, "passed");
}

/* ---- Cleaning up ------------------------------------------------------------------------------------------------- */

static int run_purge(const struct outbox_options *o, const evbus_outbox_db *db)
{
    const uint32_t age_ms = o->age_ms ? o->age_ms : AGE_DEFAULT_MS;
    uint64_t all = 0, count = PURGE_ROWS;
    evbus_status st = EVBUS_OK;

    while (st == EVBUS_OK && count == PURGE_ROWS) {
        st = evbus_outbox_purge(db, age_ms, PURGE_ROWS, &count);
        all += st == EVBUS_OK ? count : 0;
    }
    count = o->inbox ? PURGE_ROWS : 0;
    while (st == EVBUS_OK && count == PURGE_ROWS) {
        st = evbus_inbox_purge(db, age_ms, PURGE_ROWS, &count);
        all += st == EVBUS_OK ? count : 0;
    }
    return st == EVBUS_OK ? print_count(o, "removed", all) : outbox_fail(o->c.command, st, "cannot remove");
}

static int run_migrate(const struct outbox_options *o, const evbus_outbox_db *db)
{
    const evbus_status st = evbus_outbox_migrate(db);

    return st == EVBUS_OK ? CLI_OK : outbox_fail(o->c.command, st, "cannot migrate");
}

/* ---- Verbs ------------------------------------------------------------------------------------------------------- */

static int run_verb(const struct outbox_options *o, const evbus_outbox_db *db, const struct arg_list *operands)
{
    const char *verb = operands->items[0];

    if (strcmp(verb, "retry") == 0)
        return run_retry(o, db, operands);
    if (strcmp(verb, "pass") == 0)
        return run_pass(o, db, operands);
    if (strcmp(verb, "status") == 0)
        return run_status(o, db);
    if (strcmp(verb, "dead") == 0)
        return run_dead(o, db);
    return strcmp(verb, "purge") == 0 ? run_purge(o, db) : run_migrate(o, db);
}

static bool is_one_of(const char *verb, const char *const *verbs)
{
    while (*verbs && strcmp(*verbs, verb) != 0)
        verbs++;
    return *verbs != NULL;
}

static int run_outbox(const struct common *options, const struct arg_list *operands)
{
    static const char *const with_ids[] = {"retry", "pass", NULL};
    static const char *const without[] = {"status", "relay", "dead", "purge", "migrate", NULL};
    const struct outbox_options *o = (const struct outbox_options *)options;
    const char *verb = operands->count ? operands->items[0] : "";
    evbus_outbox_db db;

    if (!is_one_of(verb, with_ids) && !is_one_of(verb, without))
        return usage_error(options->command, "'%s' is none of status, relay, dead, retry, pass, purge, migrate", verb);
    if (operands->count > 1 && is_one_of(verb, without))
        return usage_error(options->command, "'%s': %s takes no operands", operands->items[1], verb);
    if (strcmp(verb, "relay") == 0)
        return outbox_relay(o);
    const char *database = outbox_database(o);
    if (!database)
        return CLI_USAGE;
    const evbus_status st = evbus_outbox_connect(database, &db);
    if (st != EVBUS_OK)
        return outbox_fail(options->command, st, "cannot open the database");
    const int result = run_verb(o, &db, operands);
    evbus_outbox_disconnect(&db);
    return result;
}
