/* SPDX-License-Identifier: Apache-2.0 */
/* evbus: the command line tool. One table of commands; each has a table of options and a function. */
#include "cli.h"

#include "json_out.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int run_version(const struct common *options, const struct arg_list *operands);
static int run_help(const struct common *options, const struct arg_list *operands);

static const struct command command_version = {
    .name = "version",
    .summary = "print the version",
    .synopsis = "[--json]",
    .text = "",
    .options_size = sizeof(struct common),
    .run = run_version,
};

static const struct command command_help = {
    .name = "help",
    .summary = "print this, or the page of a command",
    .synopsis = "[COMMAND] [--json]",
    .text = "",
    .options_size = sizeof(struct common),
    .run = run_help,
};

static const struct command *const commands[] = {
    &command_pub,     &command_sub,    &command_dlq,  &command_health,  &command_lag,
    &command_doctor,  &command_outbox, &command_demo, &command_torture, &command_soak,
    &command_version, &command_help,   NULL,
};

static const struct command *command_named(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int run_version(const struct common *options, const struct arg_list *operands)
{
    struct json j = {0};

    if (operands->count)
        return usage_error(options->command, "'%s': version takes no operands", operands->items[0]);
    if (!options->json) {
        (void)printf("evbus %s\n", evbus_version());
        return CLI_OK;
    }
    json_open(&j, NULL, '{');
    json_string(&j, "version", evbus_version());
    json_string(&j, "built_with", EVBUS_VERSION);
    json_close(&j, '}');
    const bool printed = json_print(&j, stdout);
    json_fini(&j);
    return printed ? CLI_OK : CLI_FAILED;
}

static int run_help(const struct common *options, const struct arg_list *operands)
{
    const struct command *command = operands->count ? command_named(operands->items[0]) : NULL;

    if (operands->count && !command)
        return usage_error("", "no command '%s'", operands->items[0]);
    if (operands->count > 1)
        return usage_error(options->command, "'%s': help takes one command", operands->items[1]);
    help_print(commands, command, options->json);
    return CLI_OK;
}

static int run(const struct command *command, int argc, char **argv)
{
    struct arg_table tables[4];
    struct arg_list operands = {0};
    const size_t count = common_tables(command, tables);
    struct common *options = calloc(1, command->options_size);
    int result = CLI_USAGE;

    if (!options) {
        complain(command->name, "out of memory");
        return CLI_FAILED;
    }
    options->command = command->name;
    if (args_parse(command->name, argc, argv, tables, count, options, &operands)) {
        if (options->help) {
            help_print(commands, command, options->json);
            result = CLI_OK;
        } else {
            result = command->run(options, &operands);
        }
    }
    args_free(tables, count, options, &operands);
    free(options);
    if (!output_finish(command->name) && result == CLI_OK)
        result = CLI_FAILED;
    return result;
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that left shows as a write error */
    if (argc < 2)
        return usage_error("", "no command given");
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    else if (strcmp(name, "--version") == 0)
        name = "version";
    const struct command *command = command_named(name);
    if (!command)
        return usage_error("", "no command '%s'", name);
    return run(command, argc - 2, argv + 2);
}
