/* SPDX-License-Identifier: Apache-2.0 */
#include "pg_server.h"

#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATTERN "/tmp/evbus-pg-XXXXXX"
#define START_MS 30000

static struct pg_server *running;

static void program(const char *name, char out[256])
{
    const char *folder = getenv("POSTGRES_BIN");

    (void)snprintf(out, 256, "%s%s%s", folder ? folder : "", folder && *folder ? "/" : "", name);
}

bool pg_server_available(void)
{
    char initdb[256], command[400];

    program("initdb", initdb);
    (void)snprintf(command, sizeof command, "command -v '%s' >/dev/null 2>&1", initdb);
    return system(command) == 0;
}

/* Whom PostgreSQL runs as; NULL: as we are. */
static const struct passwd *other_user(void)
{
    if (getuid() != 0)
        return NULL;
    const struct passwd *user = getpwnam("postgres");
    return user ? user : getpwnam("nobody");
}

/* In the child: somebody else, nothing inherited but the log. */
static void become(const struct pg_server *server)
{
    const struct passwd *user = other_user();
    char log[96];

    if (user && (setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives the test; after setuid, which clears it */
    (void)snprintf(log, sizeof log, "%s/log", server->dir);
    const int null = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (null < 0 || out < 0 || chdir("/") != 0)
        _exit(126);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
}

static void show_log(const struct pg_server *server)
{
    char command[160];

    (void)snprintf(command, sizeof command, "tail -n 40 '%s/log' >&2", server->dir);
    if (system(command) != 0)
        (void)fprintf(stderr, "no log in %s\n", server->dir);
}

static bool make_cluster(const struct pg_server *server)
{
    char initdb[256], data[96];
    int status = -1;

    program("initdb", initdb);
    (void)snprintf(data, sizeof data, "%s/data", server->dir);
    const pid_t pid = fork();
    if (pid == 0) {
        become(server);
        execlp(initdb, initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync",
               (char *)NULL);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status == 0)
        return true;
    show_log(server);
    return false;
}

/* The postmaster writes its state into the last line of its pid file. */
static bool serves(const struct pg_server *server)
{
    char name[96], line[128] = "", pid[32] = "";

    (void)snprintf(name, sizeof name, "%s/data/postmaster.pid", server->dir);
    FILE *f = fopen(name, "re");
    if (!f)
        return false;
    if (!fgets(pid, sizeof pid, f))
        pid[0] = 0;
    while (fgets(line, sizeof line, f))
        ;
    (void)fclose(f);
    return atoi(pid) == server->pid && strncmp(line, "ready", 5) == 0;
}

static void end_with(struct pg_server *server, int signal)
{
    if (server->pid <= 0)
        return;
    kill(server->pid, signal);
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    server->pid = 0;
}

static void remove_folder(const struct pg_server *server)
{
    char command[160];

    if (strncmp(server->dir, PATTERN, strlen(PATTERN) - 6) != 0)
        return;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", server->dir);
    if (system(command) != 0)
        (void)fprintf(stderr, "%s is left\n", server->dir);
}

/* At exit: what a failed test left running. */
static void end_all(void)
{
    for (struct pg_server *s = running; s; s = s->next) {
        end_with(s, SIGQUIT);
        remove_folder(s);
    }
}

static void list(struct pg_server *server)
{
    static bool hooked;

    if (!hooked)
        (void)atexit(end_all);
    hooked = true;
    server->next = running;
    running = server;
}

static void unlist(const struct pg_server *server)
{
    for (struct pg_server **link = &running; *link; link = &(*link)->next) {
        if (*link == server) {
            *link = server->next;
            return;
        }
    }
}

/* One attempt; after a kill the old children may still be about to end, and it refuses to start beside them. */
static bool try_start(struct pg_server *server, int64_t until)
{
    char postgres[256], data[96];
    int status;

    program("postgres", postgres);
    (void)snprintf(data, sizeof data, "%s/data", server->dir);
    server->pid = fork();
    if (server->pid == 0) {
        become(server);
        execlp(postgres, postgres, "-D", data, "-k", server->dir, "-h", "", "-F", "-c", "max_connections=50", "-c",
               "log_min_messages=fatal", (char *)NULL);
        _exit(127);
    }
    while (server->pid > 0 && wait_now_ms() < until) {
        if (serves(server))
            return true;
        if (waitpid(server->pid, &status, WNOHANG) == server->pid) {
            server->pid = 0;
            return false;
        }
        poll(NULL, 0, 5); /* nothing tells: look again soon */
    }
    return false;
}

bool pg_server_restart(struct pg_server *server)
{
    const int64_t until = wait_now_ms() + START_MS;

    do {
        if (try_start(server, until))
            return true;
        poll(NULL, 0, 20); /* until the children of the last one have ended */
    } while (server->pid == 0 && wait_now_ms() < until);
    show_log(server);
    return false;
}

bool pg_server_start(struct pg_server *server)
{
    const struct passwd *user = other_user();

    memset(server, 0, sizeof *server);
    (void)strcpy(server->dir, PATTERN);
    if (!mkdtemp(server->dir))
        return false;
    list(server);
    if (user && chown(server->dir, user->pw_uid, user->pw_gid) != 0)
        return false;
    (void)snprintf(server->conninfo, sizeof server->conninfo, "host=%s user=postgres dbname=postgres", server->dir);
    return make_cluster(server) && pg_server_restart(server);
}

void pg_server_stop(struct pg_server *server)
{
    end_with(server, SIGINT);
}

void pg_server_kill(struct pg_server *server)
{
    end_with(server, SIGKILL);
}

void pg_server_end(struct pg_server *server)
{
    end_with(server, SIGQUIT);
    unlist(server);
    remove_folder(server);
    server->dir[0] = 0;
}
