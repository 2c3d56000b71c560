/* SPDX-License-Identifier: Apache-2.0 */
/* The pages of `evbus help`: made from the option tables, so that they cannot differ from what is understood. */
#include "cli.h"

#include "json_out.h"

#include <stdio.h>
#include <string.h>

#define TEXT_COLUMN 26

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct common, field), min, max                                              \
    }

static const struct arg basic_args[] = {
    ARG(ARG_FLAG, "--json", NULL, json, 0, 0, "print JSON, one object per line"),
    ARG(ARG_FLAG, "--help", NULL, help, 0, 0, "this page; also -h"),
};

static const struct arg run_args[] = {
    ARG(ARG_TALLY, "--verbose", NULL, verbose, 0, 0, "the library's log on stderr; twice: debug messages too"),
    ARG(ARG_FLAG, "--progress", NULL, progress, 0, 0, "progress on stderr even where that is no terminal"),
};

static const struct arg connection_args[] = {
    ARG(ARG_TEXT, "--url", "URL", url, 0, 0, "the broker; else $EVBUS_URL, else nats://127.0.0.1:4222"),
    ARG(ARG_TEXT, "--name", "NAME", name, 0, 0, "of the connection (default evbus-cli)"),
    ARG(ARG_TEXT, "--user", "USER", user, 0, 0, "user name"),
    ARG(ARG_TEXT, "--password", "PASSWORD", password, 0, 0, "its password; $EVBUS_PASSWORD keeps it out of `ps`"),
    ARG(ARG_TEXT, "--token", "TOKEN", token, 0, 0, "token"),
    ARG(ARG_TEXT, "--nkey", "FILE", nkey, 0, 0, "file with the nkey seed"),
    ARG(ARG_TEXT, "--creds", "FILE", creds, 0, 0, "file with JWT and seed, as made by nsc"),
    ARG(ARG_TEXT, "--tls-ca", "FILE", tls_ca, 0, 0, "certificates to trust; the connection must then be TLS"),
    ARG(ARG_TEXT, "--tls-cert", "FILE", tls_cert, 0, 0, "own certificate"),
    ARG(ARG_TEXT, "--tls-key", "FILE", tls_key, 0, 0, "its key"),
    ARG(ARG_SECONDS, "--connect-timeout", "S", connect_timeout_ms, 10, 86400000,
        "give up connecting after S seconds (5)"),
};

size_t common_tables(const struct command *command, struct arg_table out[4])
{
    size_t n = 0;

    if (command->args_count)
        out[n++] = (struct arg_table){"Options", command->args, command->args_count};
    if (command->uses & USES_CONNECTION)
        out[n++] = (struct arg_table){"Connecting", connection_args, ARG_COUNT(connection_args)};
    if (command->uses & USES_RUN)
        out[n++] = (struct arg_table){"Watching", run_args, ARG_COUNT(run_args)};
    out[n++] = (struct arg_table){"Output", basic_args, ARG_COUNT(basic_args)};
    return n;
}

/* ---- For people -------------------------------------------------------------------------------------------------- */

static void print_exits(void)
{
    (void)printf("\nExit status\n");
#define CLI_X(name, code, text) (void)printf("  %-4d%s\n", code, text);
    CLI_EXIT_MAP(CLI_X)
#undef CLI_X
    (void)printf("  128+N ended by signal N before the work was done\n");
}

/* The text of an option; its own lines continue in the same column. */
static void print_arg(const struct arg *arg)
{
    char left[64];

    (void)snprintf(left, sizeof left, "%s%s%s", arg->name, arg->value ? " " : "", arg->value ? arg->value : "");
    (void)printf("  %-*s", TEXT_COLUMN - 2, left);
    if (strlen(left) >= TEXT_COLUMN - 2)
        (void)printf("\n%*s", TEXT_COLUMN, "");
    for (const char *at = arg->help; *at;) {
        const size_t n = strcspn(at, "\n");
        (void)printf("%.*s\n", (int)n, at);
        at += n + (at[n] != 0);
        if (*at)
            (void)printf("%*s", TEXT_COLUMN, "");
    }
}

static void print_page(const struct command *command)
{
    struct arg_table tables[4];
    const size_t n = common_tables(command, tables);

    (void)printf("evbus %s - %s\n\nUsage: evbus %s %s\n", command->name, command->summary, command->name,
                 command->synopsis);
    if (*command->text)
        (void)printf("\n%s", command->text);
    for (size_t t = 0; t < n; t++) {
        (void)printf("\n%s\n", tables[t].title);
        for (size_t i = 0; i < tables[t].count; i++)
            print_arg(&tables[t].args[i]);
    }
    print_exits();
}

static void print_overview(const struct command *const commands[])
{
    (void)printf("evbus %s - the event bus for C\n\nUsage: evbus COMMAND [options]\n\nCommands\n", evbus_version());
    for (size_t i = 0; commands[i]; i++)
        (void)printf("  %-9s%s\n", commands[i]->name, commands[i]->summary);
    (void)printf("\n`evbus help COMMAND` and `evbus COMMAND --help` show a command's page.\n"
                 "The broker is --url, else $EVBUS_URL, else nats://127.0.0.1:4222.\n");
    print_exits();
}

/* ---- For programs ------------------------------------------------------------------------------------------------ */

static void json_page(struct json *j, const struct command *command)
{
    struct arg_table tables[4];
    const size_t n = common_tables(command, tables);

    json_open(j, NULL, '{');
    json_string(j, "command", command->name);
    json_string(j, "summary", command->summary);
    json_string(j, "synopsis", command->synopsis);
    json_open(j, "options", '[');
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < tables[t].count; i++) {
            const struct arg *arg = &tables[t].args[i];
            json_open(j, NULL, '{');
            json_string(j, "option", arg->name);
            if (arg->value)
                json_string(j, "value", arg->value);
            json_string(j, "help", arg->help);
            json_close(j, '}');
        }
    json_close(j, ']');
    json_close(j, '}');
}

static void json_help(const struct command *const commands[], const struct command *command)
{
    struct json j = {0};

    json_open(&j, NULL, '{');
    json_string(&j, "version", evbus_version());
    json_open(&j, "commands", '[');
    for (size_t i = 0; commands[i]; i++)
        if (!command || command == commands[i])
            json_page(&j, commands[i]);
    json_close(&j, ']');
    json_open(&j, "exit_status", '{');
#define CLI_X(name, code, text) json_string(&j, #code, text);
    CLI_EXIT_MAP(CLI_X)
#undef CLI_X
    json_close(&j, '}');
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

void help_print(const struct command *const commands[], const struct command *command, bool json)
{
    if (json)
        json_help(commands, command);
    else if (command)
        print_page(command);
    else
        print_overview(commands);
}
