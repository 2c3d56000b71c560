/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite on nats://, with frontier acks. */
#include "support/backend_suite.h"
#include "support/nats_server.h"

#include <stdio.h>

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
    (void)broker;
    (void)snprintf(out, cap, "nats://127.0.0.1:%u", server.port);
}

int main(int argc, char **argv)
{
    const struct suite_backend nats = {
        .name = "nats, frontier acks",
        .set_up = set_up,
        .tear_down = tear_down,
        .url = url,
        .nowhere = "nats://127.0.0.1:1",
        .frontier = true,
        .topics_many = 200,
    };

    return backend_suite_run(&nats, argc, argv);
}
