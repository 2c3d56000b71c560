/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite on mem://, with frontier acks. */
#include "support/backend_suite.h"

#include <stdio.h>

static void url(char *out, size_t cap, const char *broker)
{
    (void)snprintf(out, cap, "mem://%s", broker);
}

int main(int argc, char **argv)
{
    const struct suite_backend mem = {
        .name = "mem, frontier acks",
        .url = url,
        .virtual_clock = true,
        .private_brokers = true,
        .has_default_group = true,
        .bounded_memory = true,
        .recalls_room = true,
        .frontier = true,
        .opens_after_fork = true,
        .topics_many = 1000,
    };

    return backend_suite_run(&mem, argc, argv);
}
