/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three nats-servers with routes between them, on loopback: JetStream with three replicas. Each is a nats_server of its
 * own, to be killed, stopped and started again. Threads: one.
 */
#ifndef EV_TESTS_NATS_CLUSTER_H
#define EV_TESTS_NATS_CLUSTER_H

#include "nats_server.h"

#include <stddef.h>

#define NATS_NODES 3

struct nats_cluster {
    struct nats_server node[NATS_NODES]; /* called N0, N1, N2 */
    uint16_t route[NATS_NODES];
};

/* All take connections; JetStream needs a moment more, until they have elected one. False: one did not start. */
bool nats_cluster_start(struct nats_cluster *cluster);
void nats_cluster_end(struct nats_cluster *cluster); /* also after a failed start */

/* "nats://127.0.0.1:a,127.0.0.1:b,127.0.0.1:c" */
void nats_cluster_url(const struct nats_cluster *cluster, char *out, size_t cap);
/* The node of that name, NULL: none. */
struct nats_server *nats_cluster_node(struct nats_cluster *cluster, const char *name);

#endif
