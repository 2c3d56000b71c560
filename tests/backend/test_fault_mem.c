/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite on fault+mem:// without faults: what stands in between may not be noticed. */
#include "support/backend_suite.h"

#include <stdio.h>

static void url(char *out, size_t cap, const char *broker)
{
    (void)snprintf(out, cap, "fault+mem://%s?seed=1", broker);
}

int main(int argc, char **argv)
{
    const struct suite_backend backend = {
        .name = "fault+mem",
        .url = url,
        .virtual_clock = true,
        .private_brokers = true,
        .has_default_group = true,
        .bounded_memory = true,
        .recalls_room = true,
        .opens_after_fork = true,
        .topics_many = 1000,
    };

    return backend_suite_run(&backend, argc, argv);
}
