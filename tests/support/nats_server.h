/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real nats-server for a test: its own loopback port, its own folder under /tmp, stopped by its pid and nothing else,
 * also when the test fails or dies. Threads: one.
 */
#ifndef EV_TESTS_NATS_SERVER_H
#define EV_TESTS_NATS_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct nats_server {
    pid_t pid; /* 0: not running */
    uint16_t port;
    char dir[64];
    char conf[96];
    struct nats_server *next; /* of those to stop at exit */
};

/* nats-server in $NATS_SERVER or PATH; false: the test should be skipped, by name. */
bool nats_server_available(void);

/* Is it 2.10 or later? Some answers differ. */
bool nats_server_is_2_10(void);

/* Starts one and waits until it takes connections; false: it did not within 10 s (its log goes to stderr). `config` is
 * added to "port" and "server_name"; "@DIR@" in it becomes the server's folder, "@PORT@" its port. */
bool nats_server_start(struct nats_server *server, const char *config);

/* Replaces the config file, as above, without telling the server. */
void nats_server_configure(struct nats_server *server, const char *config);

bool nats_server_restart(struct nats_server *server); /* after stop or kill: same port, same folder */
void nats_server_stop(struct nats_server *server);    /* SIGTERM; keeps the folder */
void nats_server_kill(struct nats_server *server);    /* SIGKILL; keeps the folder */
void nats_server_signal(struct nats_server *server,
                        int signal);              /* SIGSTOP, SIGCONT, SIGHUP: reload, SIGUSR2: lame duck */
void nats_server_end(struct nats_server *server); /* stops and removes the folder; safe at any time, also twice */

uint16_t nats_free_port(void);

#endif
