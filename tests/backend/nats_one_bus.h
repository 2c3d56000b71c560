/* SPDX-License-Identifier: Apache-2.0 */
/* A server and a bus for one case. A test's `struct world` begins with it; include it in one file of a test. */
#ifndef EV_TESTS_NATS_ONE_BUS_H
#define EV_TESTS_NATS_ONE_BUS_H

#include "support/nats_server.h"

#include <evbus/evbus.h>
#include <stdlib.h>

struct one_bus {
    struct nats_server server;
    evbus *bus; /* opened by the case */
};

/* `size` is the world's: zeroed, its server started. */
static inline int one_bus_set_up(void **state, size_t size)
{
    struct one_bus *at = calloc(1, size);

    *state = at;
    return at && nats_server_start(&at->server, "jetstream: { store_dir: \"@DIR@/js\" }\n") ? 0 : -1;
}

static inline int one_bus_tear_down(void **state)
{
    struct one_bus *at = *state;

    (void)evbus_shutdown(at->bus, 1000, NULL);
    evbus_close(at->bus);
    nats_server_end(&at->server);
    free(at);
    return 0;
}

#endif
