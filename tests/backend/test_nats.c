/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite on nats://, against a nats-server of this test's own with file storage. */
#include "support/backend_suite.h"
#include "support/nats_server.h"

#include <stdio.h>

/* Streams reserve their max_bytes (1 GiB each by default), so the account's bound is above what all cases reserve. */
#define CONFIG "max_payload: 8388608\njetstream { store_dir: \"@DIR@/js\", max_file: 100T, max_mem: 100T }\n"

static struct nats_server server;

static bool set_up(void)
{
    return nats_server_available() && nats_server_start(&server, CONFIG);
}

static void tear_down(void)
{
    nats_server_end(&server);
}

static void url(char *out, size_t cap, const char *broker)
{
    (void)broker; /* one server for all: topics tell the cases apart */
    (void)snprintf(out, cap, "nats://127.0.0.1:%u", server.port);
}

int main(int argc, char **argv)
{
    const struct suite_backend nats = {
        .name = "nats",
        .set_up = set_up,
        .tear_down = tear_down,
        .url = url,
        .nowhere = "nats://127.0.0.1:1",
        /* no recalls_room: a pull that the server has cannot be shortened; held_max is exact to a factor of two */
        .topics_many = 500, /* each subscription is a durable that the server makes and writes to its disk */
    };

    return backend_suite_run(&nats, argc, argv);
}
