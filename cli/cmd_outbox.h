/* SPDX-License-Identifier: Apache-2.0 */
/* evbus outbox: what its two files share. */
#ifndef CLI_CMD_OUTBOX_H
#define CLI_CMD_OUTBOX_H

#include "cli.h"

#include <evbus/outbox.h>

struct outbox_options {
    struct common c;
    const char *database, *ready_file;
    bool all, pass, inbox;
    int64_t limit, attempts, aggregates;
    uint32_t lease_ms, age_ms;
};

/* The database of --database or $EVBUS_DATABASE; NULL after having complained. */
const char *outbox_database(const struct outbox_options *o);

/* As fail(), with the outbox's sentence. */
int outbox_fail(const char *command, evbus_status status, const char *what);

/* evbus outbox relay: until a signal. */
int outbox_relay(const struct outbox_options *o);

#endif
