/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A nats-server of the program's own: a free port on the loopback, files in a fresh folder, ended by its process id. It
 * dies with this program whatever happens.
 */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_MARK "nats://127.0.0.1:"

struct bench_server bench_server;
static pid_t owner;

static void find_program(char *out, size_t size)
{
    const char *given = getenv("NATS_SERVER"), *path = getenv("PATH");
    char places[8192];

    if (given && *given) {
        (void)snprintf(out, size, "%s", given);
        return;
    }
    (void)snprintf(places, sizeof places, "%s:/usr/sbin:/usr/local/sbin", path ? path : "");
    for (char *rest = places, *place; (place = strsep(&rest, ":")) != NULL;) {
        (void)snprintf(out, size, "%s/nats-server", place);
        if (*place && access(out, X_OK) == 0)
            return;
    }
    bench_fail("nats-server is not installed (Debian: apt-get install nats-server; or set NATS_SERVER)");
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    (void)remove(path);
    return 0;
}

static void stop(void)
{
    if (getpid() != owner)
        return; /* a run that calls exit() */
    if (bench_server.pid > 0) {
        (void)kill(bench_server.pid, SIGKILL);
        (void)waitpid(bench_server.pid, NULL, 0);
    }
    if (bench_server.folder[0])
        (void)nftw(bench_server.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void write_config(const char *path)
{
    FILE *file = fopen(path, "we");

    if (!file || fprintf(file,
                         "listen: \"127.0.0.1:-1\"\nports_file_dir: \"%s\"\nlog_file: \"%s/log\"\n"
                         "jetstream: { store_dir: \"%s/js\", max_memory_store: 6GB, max_file_store: 6GB }\n",
                         bench_server.folder, bench_server.folder, bench_server.folder) < 0)
        bench_fail("cannot write %s: %s", path, strerror(errno));
    (void)fclose(file);
}

/* The server writes <folder>/<program>_<pid>.ports once it listens; 0: not yet. */
static unsigned read_port(void)
{
    char path[600], text[512] = "";
    DIR *folder = opendir(bench_server.folder);
    FILE *file = NULL;

    for (const struct dirent *e; folder && !file && (e = readdir(folder)) != NULL;)
        if (strstr(e->d_name, ".ports")) {
            (void)snprintf(path, sizeof path, "%s/%s", bench_server.folder, e->d_name);
            file = fopen(path, "re");
        }
    if (file) {
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        (void)fclose(file);
    }
    if (folder)
        (void)closedir(folder);
    const char *at = strstr(text, PORT_MARK);
    return at && strchr(at, '"') ? (unsigned)strtoul(at + sizeof PORT_MARK - 1, NULL, 10) : 0;
}

void bench_server_start(void)
{
    const char *tmp = getenv("TMPDIR");
    char program[512], config[300];
    unsigned port = 0;

    find_program(program, sizeof program);
    (void)snprintf(bench_server.folder, sizeof bench_server.folder, "%s/evbus-bench-XXXXXX",
                   tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(bench_server.folder)) {
        bench_server.folder[0] = 0;
        bench_fail("cannot make a temporary folder: %s", strerror(errno));
    }
    owner = getpid();
    (void)atexit(stop);
    (void)snprintf(config, sizeof config, "%s/config", bench_server.folder);
    write_config(config);
    if ((bench_server.pid = fork()) == 0) {
        const int nothing = open("/dev/null", O_RDWR);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(nothing, STDIN_FILENO);
        (void)dup2(nothing, STDOUT_FILENO);
        (void)dup2(nothing, STDERR_FILENO);
        (void)execl(program, "nats-server", "-c", config, (char *)NULL);
        _exit(127);
    }
    for (const int64_t deadline = bench_now() + INT64_C(15000000000); port == 0; port = read_port()) {
        if (bench_now() > deadline || waitpid(bench_server.pid, NULL, WNOHANG) != 0)
            bench_fail("%s did not start (see its log with -c %s)", program, config);
        (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    (void)snprintf(bench_server.url, sizeof bench_server.url, PORT_MARK "%u", port);
}
