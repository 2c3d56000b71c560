/* SPDX-License-Identifier: Apache-2.0 */
/* In place of cmd_outbox.c where the library is not built. */
#include "cli.h"

static int run_outbox(const struct common *options, const struct arg_list *operands)
{
    (void)operands;
    complain(options->command, "%s: this evbus was built without its outbox", evbus_strerror(EVBUS_UNSUPPORTED));
    return exit_of(EVBUS_UNSUPPORTED);
}

const struct command command_outbox = {
    .name = "outbox",
    .summary = "not in this build",
    .synopsis = "",
    .text = "This evbus was built without its outbox: it needs SQLite.\n",
    .options_size = sizeof(struct common),
    .run = run_outbox,
};
