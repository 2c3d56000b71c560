/* SPDX-License-Identifier: Apache-2.0 */
#include "nats_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct nats_server *running;

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static const char *program(void)
{
    const char *named = getenv("NATS_SERVER");

    return named && *named ? named : "nats-server";
}

bool nats_server_available(void)
{
    char command[512];

    (void)snprintf(command, sizeof command, "command -v '%s' >/dev/null 2>&1", program());
    return system(command) == 0;
}

bool nats_server_is_2_10(void)
{
    char command[512], line[128] = "";
    unsigned major = 0, minor = 0;

    (void)snprintf(command, sizeof command, "'%s' --version", program());
    FILE *out = popen(command, "r");
    if (!out || !fgets(line, sizeof line, out) || sscanf(line, "nats-server: v%u.%u", &major, &minor) != 2)
        abort();
    (void)pclose(out);
    return major > 2 || (major == 2 && minor >= 10);
}

uint16_t nats_free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint16_t port = 0;

    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        port = ntohs(at.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

static bool takes_connections(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte;
    bool ok = false;

    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN}; /* INFO comes at once when it serves */
        ok = poll(&p, 1, 1000) == 1 && recv(fd, &byte, 1, 0) == 1;
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

static void show_log(const struct nats_server *server)
{
    char command[160];

    (void)snprintf(command, sizeof command, "tail -n 40 '%s/log' >&2", server->dir);
    if (system(command) != 0)
        (void)fprintf(stderr, "no log in %s\n", server->dir);
}

static void put_with(FILE *to, const char *text, const struct nats_server *server)
{
    while (*text) {
        if (strncmp(text, "@DIR@", 5) == 0) {
            (void)fputs(server->dir, to);
            text += 5;
        } else if (strncmp(text, "@PORT@", 6) == 0) {
            (void)fprintf(to, "%u", server->port);
            text += 6;
        } else {
            (void)fputc(*text++, to);
        }
    }
}

void nats_server_configure(struct nats_server *server, const char *config)
{
    FILE *f = fopen(server->conf, "we");

    if (!f)
        return;
    (void)fprintf(f, "host: 127.0.0.1\nport: %u\nlog_file: \"%s/log\"\n", server->port, server->dir);
    put_with(f, config ? config : "", server);
    (void)fclose(f);
}

static void remove_folder(const struct nats_server *server)
{
    char command[160];

    if (strncmp(server->dir, "/tmp/evbus-nats-", 16) != 0)
        return;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", server->dir);
    if (system(command) != 0)
        (void)fprintf(stderr, "%s is left\n", server->dir);
}

/* At exit: what a failed test left running. */
static void end_all(void)
{
    for (struct nats_server *s = running; s; s = s->next) {
        if (s->pid > 0) {
            kill(s->pid, SIGKILL);
            (void)waitpid(s->pid, NULL, 0);
            s->pid = 0;
        }
        remove_folder(s);
    }
}

static void list(struct nats_server *server)
{
    static bool hooked;

    if (!hooked)
        (void)atexit(end_all);
    hooked = true;
    for (struct nats_server *s = running; s; s = s->next) {
        if (s == server)
            return;
    }
    server->next = running;
    running = server;
}

static void unlist(struct nats_server *server)
{
    for (struct nats_server **link = &running; *link; link = &(*link)->next) {
        if (*link == server) {
            *link = server->next;
            return;
        }
    }
}

bool nats_server_restart(struct nats_server *server)
{
    const int64_t until = now_ms() + 10000;

    list(server);
    server->pid = fork();
    if (server->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives the test */
        const int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        execlp(program(), program(), "-c", server->conf, (char *)NULL);
        _exit(127);
    }
    while (server->pid > 0 && now_ms() < until) {
        int status;
        if (takes_connections(server->port))
            return true;
        if (waitpid(server->pid, &status, WNOHANG) == server->pid) {
            server->pid = 0;
            break;
        }
        poll(NULL, 0, 2); /* refused at once while it starts: look again soon */
    }
    show_log(server);
    return false;
}

bool nats_server_start(struct nats_server *server, const char *config)
{
    memset(server, 0, sizeof *server);
    (void)strcpy(server->dir, "/tmp/evbus-nats-XXXXXX");
    if (!mkdtemp(server->dir))
        return false;
    (void)snprintf(server->conf, sizeof server->conf, "%s/conf", server->dir);
    server->port = nats_free_port();
    nats_server_configure(server, config);
    return nats_server_restart(server);
}

static void end_with(struct nats_server *server, int signal)
{
    if (server->pid <= 0)
        return;
    kill(server->pid, SIGCONT);
    kill(server->pid, signal);
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    server->pid = 0;
}

void nats_server_stop(struct nats_server *server)
{
    end_with(server, SIGTERM);
}

void nats_server_kill(struct nats_server *server)
{
    end_with(server, SIGKILL);
}

void nats_server_signal(struct nats_server *server, int signal)
{
    int status;

    if (server->pid <= 0)
        return;
    kill(server->pid, signal);
    if (signal == SIGSTOP) /* its threads run on for a moment: wait until they do not */
        (void)waitpid(server->pid, &status, WUNTRACED);
}

void nats_server_end(struct nats_server *server)
{
    end_with(server, SIGKILL);
    unlist(server);
    remove_folder(server);
    server->dir[0] = 0;
}
