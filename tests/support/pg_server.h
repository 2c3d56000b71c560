/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real PostgreSQL for a test: a cluster of its own in a folder under /tmp, reached by a socket in that folder only,
 * stopped by its pid and nothing else, also when the test fails or dies. PostgreSQL refuses to run as root: then it runs
 * as user postgres, or nobody. Threads: one.
 */
#ifndef EV_TESTS_PG_SERVER_H
#define EV_TESTS_PG_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct pg_server {
    pid_t pid; /* 0: not running */
    char dir[64];
    char conninfo[128];     /* for libpq; also what evbus_outbox_connect takes */
    struct pg_server *next; /* of those to stop at exit */
};

/* initdb and postgres in $POSTGRES_BIN or PATH; false: the test should be skipped, by name. */
bool pg_server_available(void);

bool pg_server_start(struct pg_server *server);   /* makes the cluster; waits until it serves (30 s) */
bool pg_server_restart(struct pg_server *server); /* after stop or kill: the same cluster */
void pg_server_stop(struct pg_server *server);    /* SIGINT: connections end, what is committed is there */
void pg_server_kill(struct pg_server *server);    /* SIGKILL to the postmaster, whose children then end */
void pg_server_end(struct pg_server *server);     /* stops and removes the folder; safe at any time, also twice */

#endif
