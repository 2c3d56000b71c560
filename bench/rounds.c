/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in processes of their own, in turn, and what becomes of their figures. This process has one thread and never
 * opens a bus, so forking it is safe; a run starts with no memory and no thread of the run before.
 */
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct bench_args bench_args;

void bench_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(2);
}

bool bench_sorry(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    return false;
}

static unsigned number(const char *text, const char *name)
{
    char *end = NULL;
    const unsigned long n = text ? strtoul(text, &end, 10) : 0;

    if (!text || !*text || *end || n < 1 || n > 1000000)
        bench_fail("%s: a number from 1 is wanted", name);
    return (unsigned)n;
}

void bench_begin(int argc, char **argv, unsigned rounds, unsigned seconds)
{
    bench_args = (struct bench_args){.rounds = rounds, .seconds = seconds};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            bench_args.quick = true;
            bench_args.rounds = bench_args.rounds < 2 ? bench_args.rounds : 2;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            bench_args.rounds = number(argv[++i], "--rounds");
        } else if (strcmp(argv[i], "--seconds") == 0) {
            bench_args.seconds = number(argv[++i], "--seconds");
        } else if (strcmp(argv[i], "--only") == 0 && argv[i + 1]) {
            bench_args.only = argv[++i];
        } else {
            bench_fail("usage: %s [--quick] [--rounds N] [--seconds N] [--only NAME]", argv[0]);
        }
    }
    if (bench_args.rounds > ROUNDS_MAX)
        bench_fail("--rounds: at most %d", ROUNDS_MAX);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
}

/* ---- One run ----------------------------------------------------------------------------------------------------- */

static struct figures unmeasured(void)
{
    struct figures f;

    for (int i = 0; i < FIG_COUNT; i++)
        f.v[i] = NAN;
    return f;
}

_Noreturn static void run_child(const struct variant *v, int fd, pid_t parent)
{
    struct figures f;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(2);
    f = unmeasured();
    meter_prepare();
    if (!v->run(v->arg, &f))
        _exit(2);
    _exit(write(fd, &f, sizeof f) == (ssize_t)sizeof f ? 0 : 2);
}

bool bench_once(const struct variant *v, struct figures *out, unsigned seconds_max)
{
    int fd[2], status = 0;

    if (bench_args.only && !v->always && strcmp(bench_args.only, v->name) != 0) {
        *out = unmeasured();
        return true;
    }
    if (pipe(fd) != 0)
        bench_fail("pipe: %s", strerror(errno));
    (void)fflush(NULL);
    const pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        bench_fail("fork: %s", strerror(errno));
    if (pid == 0) {
        (void)close(fd[0]);
        (void)alarm(seconds_max);
        run_child(v, fd[1], parent);
    }
    (void)close(fd[1]);
    const bool filled = read(fd[0], out, sizeof *out) == (ssize_t)sizeof *out;
    (void)close(fd[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return filled && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void bench_rounds(struct variant *variants, size_t count, unsigned rounds)
{
    struct figures scrap;

    for (unsigned round = 0; round <= rounds; round++)
        for (size_t i = 0; i < count; i++) {
            struct figures *f = round == 0 ? &scrap : &variants[i].round[round - 1];
            if (!bench_once(&variants[i], f, 120))
                bench_fail("a run of '%s' failed", variants[i].name);
        }
    for (size_t i = 0; i < count; i++)
        if (bench_args.only && strcmp(bench_args.only, variants[i].name) == 0)
            report_only(&variants[i], rounds);
}

/* ---- Medians ----------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct spread spread_of(double *v, unsigned n)
{
    if (n == 0 || isnan(v[0]))
        return (struct spread){NAN, NAN, NAN};
    qsort(v, n, sizeof *v, by_value);
    return (struct spread){n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2, v[0], v[n - 1]};
}

struct spread bench_spread(const struct variant *variant, unsigned rounds, enum figure f)
{
    double v[ROUNDS_MAX];

    for (unsigned i = 0; i < rounds; i++)
        v[i] = variant->round[i].v[f];
    return spread_of(v, rounds);
}

struct spread bench_ratio(const struct variant *a, const struct variant *b, unsigned rounds, enum figure f)
{
    double v[ROUNDS_MAX];

    for (unsigned i = 0; i < rounds; i++)
        v[i] = a->round[i].v[f] / b->round[i].v[f];
    return spread_of(v, rounds);
}

struct spread bench_difference(const struct variant *a, const struct variant *b, unsigned rounds, enum figure f)
{
    double v[ROUNDS_MAX];

    for (unsigned i = 0; i < rounds; i++)
        v[i] = a->round[i].v[f] - b->round[i].v[f];
    return spread_of(v, rounds);
}
