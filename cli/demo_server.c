/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A nats-server of the demo's own: a free port on the loopback, files in a fresh folder, ended by its process id. It
 * runs in a process group of its own, so that Ctrl-C reaches the demo first, and ends with the demo whatever happens.
 */
#include "demo.h"

#include "stop.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define START_NS INT64_C(15000000000)
#define END_NS INT64_C(5000000000)
#define LOOK_EVERY_MS 10u

/* ---- Finding it -------------------------------------------------------------------------------------------------- */

/* $NATS_SERVER, else PATH, else where Debian puts it (not in everybody's PATH). */
bool demo_server_find(char *out, size_t size)
{
    const char *given = getenv("NATS_SERVER"), *path = getenv("PATH");
    char places[8192];

    if (given && *given) {
        (void)snprintf(out, size, "%s", given);
        return access(out, X_OK) == 0;
    }
    (void)snprintf(places, sizeof places, "%s:/usr/sbin:/usr/local/sbin:/usr/local/bin", path ? path : "");
    for (char *rest = places, *place; (place = strsep(&rest, ":")) != NULL;) {
        (void)snprintf(out, size, "%s/nats-server", place);
        if (*place && access(out, X_OK) == 0)
            return true;
    }
    return false;
}

/* ---- Its folder -------------------------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    (void)remove(path);
    return 0;
}

static bool make_folder(struct demo_server *s)
{
    const char *tmp = getenv("TMPDIR");
    const int n = snprintf(s->folder, sizeof s->folder, "%s/evbus-demo-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    const bool made = n < (int)sizeof s->folder && mkdtemp(s->folder) != NULL;

    if (!made)
        s->folder[0] = 0;
    return made;
}

static bool write_config(const struct demo_server *s, const char *path)
{
    FILE *file = fopen(path, "we");

    if (!file)
        return false;
    const bool written = fprintf(file,
                                 "listen: \"127.0.0.1:-1\"\n"
                                 "ports_file_dir: \"%s\"\n"
                                 "log_file: \"%s/log\"\n"
                                 "jetstream: { store_dir: \"%s/js\" }\n",
                                 s->folder, s->folder, s->folder) > 0;
    return fclose(file) == 0 && written;
}

/* The last line of its log, for the complaint. */
static void last_words(const struct demo_server *s, char *out, size_t size)
{
    char path[300], line[300];

    (void)snprintf(path, sizeof path, "%s/log", s->folder);
    FILE *file = fopen(path, "re");
    out[0] = 0;
    while (file && fgets(line, sizeof line, file))
        (void)snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
    if (file)
        (void)fclose(file);
}

/* ---- Starting ---------------------------------------------------------------------------------------------------- */

/* In the child: only what is allowed between fork and exec. */
static void become_server(const char *program, const char *config, pid_t parent)
{
    const int nothing = open("/dev/null", O_RDWR);

    (void)setpgid(0, 0);
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
#else
    (void)parent;
#endif
    (void)signal(SIGPIPE, SIG_DFL);
    if (nothing >= 0) {
        (void)dup2(nothing, STDIN_FILENO);
        (void)dup2(nothing, STDOUT_FILENO);
        (void)dup2(nothing, STDERR_FILENO);
    }
    (void)execl(program, "nats-server", "-c", config, (char *)NULL);
    _exit(127);
}

static bool accepts(uint16_t port)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected = fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof to) == 0;

    if (fd >= 0)
        (void)close(fd);
    return connected;
}

static bool read_ports_file(const struct demo_server *s, char *out, size_t size)
{
    DIR *folder = opendir(s->folder);
    FILE *file = NULL;
    char path[600];

    for (const struct dirent *entry; folder && !file && (entry = readdir(folder)) != NULL;)
        if (strstr(entry->d_name, ".ports")) {
            (void)snprintf(path, sizeof path, "%s/%s", s->folder, entry->d_name);
            file = fopen(path, "re");
        }
    out[file ? fread(out, 1, size - 1, file) : 0] = 0;
    if (file)
        (void)fclose(file);
    if (folder)
        (void)closedir(folder);
    return out[0] != 0;
}

/* The server writes its port into <folder>/<program>_<pid>.ports once it listens; 0: not yet. */
static uint16_t read_port(const struct demo_server *s)
{
    char text[512];

    if (!read_ports_file(s, text, sizeof text))
        return 0;
    const char *at = strstr(text, "nats://127.0.0.1:");
    return at && strchr(at, '"') ? (uint16_t)strtoul(at + strlen("nats://127.0.0.1:"), NULL, 10) : 0;
}

static bool await_port(struct demo_server *s, const char *program, char *why, size_t size)
{
    const int64_t deadline = now_ns() + START_NS;
    char words[300];

    while (now_ns() < deadline) {
        const uint16_t port = read_port(s);
        if (port && accepts(port)) {
            (void)snprintf(s->url, sizeof s->url, "nats://127.0.0.1:%u", port);
            return true;
        }
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid) {
            s->pid = 0;
            last_words(s, words, sizeof words);
            (void)snprintf(why, size, "%s ended at once%s%s", program, words[0] ? ": " : "", words);
            return false;
        }
        if (stop_wait(LOOK_EVERY_MS)) {
            (void)snprintf(why, size, "interrupted");
            return false;
        }
    }
    (void)snprintf(why, size, "%s does not listen after %d seconds", program, (int)(START_NS / 1000000000));
    return false;
}

enum demo_server_state demo_server_start(struct demo_server *s, char *why, size_t size)
{
    char program[512], config[300];

    *s = (struct demo_server){0};
    if (!demo_server_find(program, sizeof program)) {
        const char *given = getenv("NATS_SERVER");
        (void)snprintf(why, size, "%s is not installed (Debian: apt-get install nats-server; or set NATS_SERVER)",
                       given && *given ? given : "nats-server");
        return SERVER_MISSING;
    }
    if (!make_folder(s)) {
        (void)snprintf(why, size, "cannot make a temporary folder: %s", strerror(errno));
        return SERVER_FAILED;
    }
    (void)snprintf(config, sizeof config, "%s/config", s->folder);
    const pid_t parent = getpid();
    if (!write_config(s, config)) {
        (void)snprintf(why, size, "cannot write %s: %s", config, strerror(errno));
    } else if ((s->pid = fork()) < 0) {
        (void)snprintf(why, size, "cannot fork: %s", strerror(errno));
    } else if (s->pid == 0) {
        become_server(program, config, parent);
    } else if (await_port(s, program, why, size)) {
        return SERVER_RUNS;
    }
    demo_server_stop(s);
    return SERVER_FAILED;
}

/* ---- Stopping ---------------------------------------------------------------------------------------------------- */

void demo_server_stop(struct demo_server *s)
{
    const int64_t deadline = now_ns() + END_NS;

    if (s->pid > 0) {
        (void)kill(s->pid, SIGTERM);
        while (waitpid(s->pid, NULL, WNOHANG) == 0) {
            if (now_ns() > deadline)
                (void)kill(s->pid, SIGKILL);
            const struct timespec pause = {.tv_nsec = LOOK_EVERY_MS * 1000000L};
            (void)nanosleep(&pause, NULL);
        }
    }
    if (s->folder[0])
        (void)nftw(s->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    *s = (struct demo_server){0};
}
