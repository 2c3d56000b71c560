/* SPDX-License-Identifier: Apache-2.0 */
#include "nats_cluster.h"

#include <stdio.h>
#include <string.h>

static bool start_node(struct nats_cluster *c, int i)
{
    char config[640];

    (void)snprintf(config, sizeof config,
                   "server_name: N%d\n"
                   "cluster { name: C, host: 127.0.0.1, port: %u, routes: [\"nats://127.0.0.1:%u\", "
                   "\"nats://127.0.0.1:%u\", \"nats://127.0.0.1:%u\"] }\n"
                   "jetstream { store_dir: \"@DIR@/js\", max_file: 1T, max_mem: 1G }\n",
                   i, c->route[i], c->route[0], c->route[1], c->route[2]);
    return nats_server_start(&c->node[i], config);
}

bool nats_cluster_start(struct nats_cluster *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < NATS_NODES; i++)
        c->route[i] = nats_free_port();
    for (int i = 0; i < NATS_NODES; i++)
        if (!start_node(c, i))
            return false;
    return true;
}

void nats_cluster_end(struct nats_cluster *c)
{
    for (int i = 0; i < NATS_NODES; i++)
        nats_server_end(&c->node[i]);
}

void nats_cluster_url(const struct nats_cluster *c, char *out, size_t cap)
{
    (void)snprintf(out, cap, "nats://127.0.0.1:%u,127.0.0.1:%u,127.0.0.1:%u", c->node[0].port, c->node[1].port,
                   c->node[2].port);
}

struct nats_server *nats_cluster_node(struct nats_cluster *c, const char *name)
{
    if (name[0] != 'N' || name[1] < '0' || name[1] >= '0' + NATS_NODES || name[2] != 0)
        return NULL;
    return &c->node[name[1] - '0'];
}
