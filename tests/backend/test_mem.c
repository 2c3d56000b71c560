/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite on mem://. */
#include "support/backend_suite.h"

#include <stdio.h>

static void url(char *out, size_t cap, const char *broker)
{
    (void)snprintf(out, cap, "mem://%s", broker);
}

int main(int argc, char **argv)
{
    const struct suite_backend mem = {
        .name = "mem",
        .url = url,
        .virtual_clock = true,     /* no broker outside this process has a time of its own */
        .private_brokers = true,   /* mem:// without a name */
        .has_default_group = true, /* a group nobody else can be in by mistake needs no name */
        .bounded_memory = true,    /* the broker's memory is ours */
        .recalls_room = true,      /* the broker asks for the room when it delivers */
        .opens_after_fork = true,  /* no client library whose threads the child would lack */
        .topics_many = 10000,
    };

    return backend_suite_run(&mem, argc, argv);
}
