/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benchmarks share. A program runs its variants in turn (A B A B ...), each run in a process of its own forked
 * from this one, and prints JSON lines: one per row of the table of targets, one per point of a chart.
 */
#ifndef EVBUS_BENCH_H
#define EVBUS_BENCH_H

#include <evbus/evbus.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "count.h"

/* ---- One run ----------------------------------------------------------------------------------------------------- */

enum figure {
    FIG_RATE,      /* messages (or operations) a second */
    FIG_CLIENT_US, /* CPU of this process per message */
    FIG_SERVER_US, /* of the server, to 10 ms in all */
    FIG_FUTEX,     /* futex calls of the whole process per message, where the kernel lets us count them */
    FIG_P50,       /* microseconds */
    FIG_P99,
    FIG_P999,
    FIG_MAX,
    FIG_OUR_LOCKS, /* calls per message made by our objects: see count.h. Only of runs that count */
    FIG_OUR_FUTEX,
    FIG_OUR_ALLOCS,
    FIG_VALUE, /* what the program says it is */
    FIG_VALUE2,
    FIG_COUNT
};

struct figures {
    double v[FIG_COUNT]; /* NAN: not measured */
};

/* Calls a message of the housekeeping thread, which looks at each subscription every two seconds: not by the message, at most. */
#define BENCH_BY_TIME 5e-4

/* Fills `out`; false: failed, the reason is on stderr. Runs in a process of its own. */
typedef bool (*bench_run)(const void *arg, struct figures *out);

#define ROUNDS_MAX 32

struct variant {
    const char *name;
    bench_run run;
    const void *arg;
    bool always; /* also with --only: what the others need */
    struct figures round[ROUNDS_MAX];
};

struct spread {
    double median, min, max;
};

/* `rounds` counted rounds after one that is not; ends the program when a run fails. */
void bench_rounds(struct variant *variants, size_t count, unsigned rounds);
/* One run in a process of its own. */
bool bench_once(const struct variant *variant, struct figures *out, unsigned seconds_max);

struct spread bench_spread(const struct variant *v, unsigned rounds, enum figure f);
/* Of the quotients (or differences) round by round. */
struct spread bench_ratio(const struct variant *a, const struct variant *b, unsigned rounds, enum figure f);
struct spread bench_difference(const struct variant *a, const struct variant *b, unsigned rounds, enum figure f);

/* ---- Measuring within a run -------------------------------------------------------------------------------------- */

struct meter {
    int64_t began_ns, cpu_ns, server_ns;
    double futexes;
    bool counting;
};

int64_t bench_now(void);  /* CLOCK_MONOTONIC */
void meter_prepare(void); /* at the start of a run, before there are threads */
void meter_start(struct meter *m);
void meter_start_counting(struct meter *m); /* also the calls of our objects; slower */
void meter_stop(struct meter *m, double messages, struct figures *out);
int64_t bench_thread_cpu(void);
unsigned bench_threads(void);
unsigned bench_descriptors(void);
size_t bench_rss_kib(void);

/* Latencies in ns; exact: kept and sorted. One writer. */
struct samples {
    uint32_t *us10; /* tenths of a microsecond */
    size_t count, cap;
};
bool samples_init(struct samples *s, size_t cap);
void samples_add(struct samples *s, int64_t ns);
void samples_put(struct samples *s, struct figures *out);
void samples_free(struct samples *s);

/* ---- Result lines ------------------------------------------------------------------------------------------------ */

struct row {
    const char *row;    /* "S1" */
    const char *what;   /* which of the row's figures, for people */
    const char *unit;   /* of ours and bare */
    double target;      /* of the verdict */
    bool at_most;       /* the verdict must be at most the target; else at least */
    struct spread ours; /* as measured */
    struct spread bare; /* NAN: no baseline */
    struct spread verdict;
    const struct variant *variant, *baseline; /* NULL: no further figures */
    unsigned rounds;
};

void report_row(const struct row *row);
/* Of --only: one line. */
void report_only(const struct variant *v, unsigned rounds);
/* One point of a chart. */
void report_point(const char *chart, const char *line, double x, const char *x_unit, double y, const char *y_unit);
/* A sentence beside the rows; no double quotes in it. */
void report_note(const char *row, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Exit status: 0 when every row was reached, 1 when one was short. */
int report_end(void);

/* Arguments every program knows: --rounds N, --quick (few and short), --seconds N, --only NAME (the variants of that name, and
 * no rows: to look at one of them with a profiler). */
struct bench_args {
    unsigned rounds, seconds;
    bool quick;
    const char *only;
};
extern struct bench_args bench_args;
void bench_begin(int argc, char **argv, unsigned rounds, unsigned seconds);
_Noreturn void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* For a run: says why on stderr, returns false. */
bool bench_sorry(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- A nats-server of the program's own ------------------------------------------------------------------------- */

extern struct bench_server {
    pid_t pid;
    char url[64], folder[256];
} bench_server;
void bench_server_start(void); /* ends the program when it cannot; stopped at exit */

/* ---- The load ---------------------------------------------------------------------------------------------------- */

#define LOAD_ID_SIZE 40
#define LOAD_PAYLOAD 256

/* Event `i`: 256 bytes of JSON, one of 1,000 aggregates; the strings live in `id` and in constants. */
void load_envelope(uint64_t i, int64_t timestamp_ns, char id[LOAD_ID_SIZE], evbus_envelope *out);
extern char load_payload[LOAD_PAYLOAD + 1];
extern char load_aggregates[1000][16];

/* The library's own encoder and scanner, for the baselines: they do the same visible work (bare_codec.c). */
size_t bare_encode(const evbus_envelope *env, char *out, size_t cap);
bool bare_scan(const void *data, size_t len, char *text, size_t cap, evbus_envelope *env);

/* A bus for a run; ends the run's process when it cannot be opened. */
evbus *bench_bus(const char *url, const evbus_opts *opts);
/* Configures the topic: memory storage, no limits that matter, message id on or off. */
void bench_topic(evbus *bus, const char *topic, bool memory, bool msg_id);
/* Sleeps until *counter reaches `goal`; false: nothing moved for 20 s. */
bool bench_await(_Atomic(uint64_t) *counter, uint64_t goal);

#endif
