/* SPDX-License-Identifier: Apache-2.0 */
/* Time, CPU, futex calls, latencies. */
#include "bench.h"

#include <dirent.h>
#include <linux/perf_event.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t bench_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t bench_thread_cpu(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int64_t own_cpu(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* User and system time of the server; 0 if there is none. */
static int64_t server_cpu(void)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;

    if (bench_server.pid <= 0)
        return 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)bench_server.pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    (void)fclose(file);
    const char *after = strrchr(text, ')'); /* the name may hold anything */
    if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return 0;
    return (int64_t)(user + system) * (1000000000 / sysconf(_SC_CLK_TCK));
}

/* ---- Futex calls of the whole process, threads to come included -------------------------------------------------- */

static long tracepoint_id(void)
{
    static const char *const folders[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
    char path[128];
    long id = -1;

    for (size_t i = 0; i < 2 && id < 0; i++) {
        (void)snprintf(path, sizeof path, "%s/events/syscalls/sys_enter_futex/id", folders[i]);
        FILE *file = fopen(path, "re");
        if (file && fscanf(file, "%ld", &id) != 1)
            id = -1;
        if (file)
            (void)fclose(file);
    }
    return id;
}

/* Opened while the process has one thread: `inherit` takes in those made later. */
static int futex_counter(void)
{
    const long id = tracepoint_id();
    struct perf_event_attr attr = {
        .type = PERF_TYPE_TRACEPOINT, .size = sizeof attr, .config = (uint64_t)id, .inherit = 1};

    return id < 0 ? -1 : (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int futex_fd = -1;

void meter_prepare(void)
{
    futex_fd = futex_counter();
}

static double futex_calls(void)
{
    uint64_t n = 0;

    return futex_fd >= 0 && read(futex_fd, &n, sizeof n) == (ssize_t)sizeof n ? (double)n : NAN;
}

/* ---- The meter --------------------------------------------------------------------------------------------------- */

void meter_start(struct meter *m)
{
    m->counting = false;
    m->futexes = futex_calls();
    m->server_ns = server_cpu();
    m->cpu_ns = own_cpu();
    m->began_ns = bench_now();
}

void meter_start_counting(struct meter *m)
{
    meter_start(m);
    m->counting = true;
    count_start();
}

void meter_stop(struct meter *m, double messages, struct figures *out)
{
    const double seconds = (double)(bench_now() - m->began_ns) / 1e9;

    if (m->counting) {
        count_stop();
        const struct calls c = count_read();
        out->v[FIG_OUR_LOCKS] = (double)(c.mutex + c.rwlock + c.condition) / messages;
        out->v[FIG_OUR_FUTEX] = (double)c.futex / messages;
        out->v[FIG_OUR_ALLOCS] = (double)c.alloc / messages;
    }
    out->v[FIG_RATE] = messages / seconds;
    out->v[FIG_CLIENT_US] = (double)(own_cpu() - m->cpu_ns) / 1e3 / messages;
    if (bench_server.pid > 0)
        out->v[FIG_SERVER_US] = (double)(server_cpu() - m->server_ns) / 1e3 / messages;
    out->v[FIG_FUTEX] = (futex_calls() - m->futexes) / messages;
}

static unsigned entries(const char *folder)
{
    DIR *d = opendir(folder);
    unsigned n = 0;

    for (const struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d)
        (void)closedir(d);
    return n;
}

unsigned bench_threads(void)
{
    return entries("/proc/self/task");
}

unsigned bench_descriptors(void)
{
    return entries("/proc/self/fd") - 1; /* the folder itself was open */
}

size_t bench_rss_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    if (file && fscanf(file, "%*u %lu", &pages) != 1)
        pages = 0;
    if (file)
        (void)fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

/* ---- Latencies --------------------------------------------------------------------------------------------------- */

bool samples_init(struct samples *s, size_t cap)
{
    s->us10 = malloc(cap * sizeof *s->us10);
    s->count = 0;
    s->cap = s->us10 ? cap : 0;
    return s->us10 != NULL || bench_sorry("out of memory for %zu samples", cap);
}

void samples_add(struct samples *s, int64_t ns)
{
    if (s->count < s->cap)
        s->us10[s->count++] = ns < 0 ? 0 : ns / 100 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 100);
}

static int by_size(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static double at(const struct samples *s, double quantile)
{
    size_t i = (size_t)ceil(quantile * (double)s->count);

    return s->us10[i > 0 ? i - 1 : 0] / 10.0;
}

void samples_put(struct samples *s, struct figures *out)
{
    if (s->count == 0)
        return;
    qsort(s->us10, s->count, sizeof *s->us10, by_size);
    out->v[FIG_P50] = at(s, 0.5);
    out->v[FIG_P99] = at(s, 0.99);
    out->v[FIG_P999] = at(s, 0.999);
    out->v[FIG_MAX] = at(s, 1);
}

void samples_free(struct samples *s)
{
    free(s->us10);
    s->us10 = NULL;
}
