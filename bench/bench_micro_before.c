/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S7 and the table "before and after": the original's design (one mutex for `closed` and the connection, a
 * reader-writer lock each for handlers, configurations and known streams) as a variant of a small hot-path program, and
 * the same program on the library's own topic table and checks. 1,000 topics with names of 32 characters, in random
 * order; a writer adds topics and changes configurations meanwhile where the row says so. Nothing is sent: both sides
 * copy the message into a buffer of the thread's.
 */
#include "bench.h"

#include "core/bus.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TOPICS 1000
#define NAME_LEN 32
#define ORDER 8192 /* a power of two */
#define THREADS_MAX 8
#define SAMPLE_EVERY 64
#define RUN_NS INT64_C(400000000)
#define BODY 256

#define BUSY_TRIES 12 /* a run that did not get the processors to itself is made again, so often at most */

static char names[TOPICS][NAME_LEN + 1];
static uint16_t order[ORDER];

static void prepare(void)
{
    uint64_t x = 88172645463325252u;

    for (unsigned i = 0; i < TOPICS; i++)
        (void)snprintf(names[i], sizeof names[i], "orders.region-%02u.customer-%06u", i % 100, i % TOPICS);
    for (unsigned i = 0; i < ORDER; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        order[i] = (uint16_t)(x % TOPICS);
    }
}

/* ---- Before ------------------------------------------------------------------------------------------------------ */

/* A table guarded by a reader-writer lock: name -> value. The hash is the library's. */
struct old_table {
    alignas(128) pthread_rwlock_t lock;
    uint64_t mask, count;
    struct old_entry {
        uint64_t hash;
        const char *name;
        evbus_topic_opts value;
    } * slots;
};

static struct old_bus {
    alignas(128) pthread_mutex_t mutex;
    bool closed;
    void *connection;
    struct old_table handlers, configs, streams;
    alignas(128) _Atomic(uint64_t) published;
} old;

/* Nanoseconds this thread was blocked in acquiring a lock. */
static _Thread_local int64_t blocked_ns;

static void lock_mutex(pthread_mutex_t *m)
{
    if (pthread_mutex_trylock(m) == 0)
        return;
    const int64_t began = bench_now();
    pthread_mutex_lock(m);
    blocked_ns += bench_now() - began;
}

static void lock_read(pthread_rwlock_t *l)
{
    if (pthread_rwlock_tryrdlock(l) == 0)
        return;
    const int64_t began = bench_now();
    pthread_rwlock_rdlock(l);
    blocked_ns += bench_now() - began;
}

static struct old_entry *old_find(struct old_table *t, const char *name, size_t len)
{
    const uint64_t hash = ev_hash(name, len, 7);

    for (uint64_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        struct old_entry *e = &t->slots[i];
        if (!e->name || (e->hash == hash && strncmp(e->name, name, len) == 0 && e->name[len] == 0))
            return e;
    }
}

static void old_put(struct old_table *t, const char *name)
{
    pthread_rwlock_wrlock(&t->lock);
    if ((t->count + 1) * 2 > t->mask) {
        struct old_entry *slots = t->slots;
        const uint64_t n = slots ? t->mask + 1 : 0;
        t->mask = n ? n * 2 - 1 : 63;
        t->slots = calloc(t->mask + 1, sizeof *t->slots);
        for (uint64_t i = 0; t->slots && i < n; i++)
            if (slots[i].name)
                *old_find(t, slots[i].name, strlen(slots[i].name)) = slots[i];
        free(slots);
    }
    struct old_entry *e = old_find(t, name, strlen(name));
    t->count += e->name == NULL;
    *e = (struct old_entry){.hash = ev_hash(name, strlen(name), 7), .name = name, .value = {.max_age_ms = 1}};
    pthread_rwlock_unlock(&t->lock);
}

static void old_open(void)
{
    pthread_mutex_init(&old.mutex, NULL);
    struct old_table *const tables[] = {&old.handlers, &old.configs, &old.streams};
    for (size_t t = 0; t < 3; t++) {
        pthread_rwlock_init(&tables[t]->lock, NULL);
        for (unsigned i = 0; i < TOPICS; i++)
            old_put(tables[t], names[i]);
    }
    old.connection = &old;
}

static bool old_look_up(const char *name)
{
    lock_read(&old.handlers.lock);
    const bool found = old_find(&old.handlers, name, NAME_LEN)->name != NULL;
    pthread_rwlock_unlock(&old.handlers.lock);
    return found;
}

static bool old_publish(const char *name, char *out)
{
    static const char body[BODY];

    lock_mutex(&old.mutex);
    const bool closed = old.closed;
    pthread_mutex_unlock(&old.mutex);
    lock_read(&old.configs.lock);
    const struct old_entry *e = old_find(&old.configs, name, NAME_LEN);
    const evbus_topic_opts cfg = e->value;
    pthread_rwlock_unlock(&old.configs.lock);
    lock_read(&old.streams.lock);
    const bool known = old_find(&old.streams, name, NAME_LEN)->name != NULL;
    pthread_rwlock_unlock(&old.streams.lock);
    lock_mutex(&old.mutex);
    const void *connection = old.connection;
    pthread_mutex_unlock(&old.mutex);
    if (closed || !known || !connection || cfg.max_age_ms == 0)
        return false;
    memcpy(out, body, sizeof body);
    atomic_fetch_add_explicit(&old.published, 1, memory_order_relaxed);
    return true;
}

/* ---- After: the library's own parts ------------------------------------------------------------------------------ */

static evbus *bus;
static alignas(128) _Atomic(uint64_t) published;

static void new_open(void)
{
    bus = bench_bus("mem://", NULL);
    for (unsigned i = 0; i < TOPICS; i++)
        if (evbus_publish(bus, names[i], "x", 1, NULL) != EVBUS_OK) /* its stream is known from then on */
            bench_fail("cannot publish: %s", evbus_error_detail());
}

static bool new_look_up(const char *name)
{
    return ev_topic_find(bus, name, NAME_LEN) != NULL;
}

static bool new_publish(const char *name, char *out)
{
    static const char body[BODY];
    struct ev_topic *topic = NULL;
    evbus_topic_opts cfg;

    if (ev_bus_check(bus) != EVBUS_OK || ev_topic_get(bus, name, false, &topic) != EVBUS_OK)
        return false;
    ev_topic_read(topic, &cfg);
    if (ev_load_acquire(&topic->stream_state) != EV_STREAM_THERE || !ev_link_is_up(bus) || cfg.max_age_ms == 0)
        return false;
    memcpy(out, body, sizeof body);
    atomic_fetch_add_explicit(&published, 1, memory_order_relaxed);
    return true;
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

struct job {
    bool ours, publish, writer;
    unsigned threads;
};

struct reader {
    const struct job *job;
    pthread_t thread;
    uint64_t done, failed;
    int64_t cpu_ns, wall_ns, blocked;
    struct samples latency;
};

static _Atomic(bool) go, stop;

static void wait_for_go(void)
{
    while (!atomic_load(&go))
        (void)sched_yield();
}

static void look_up(struct reader *r)
{
    bool (*const find)(const char *) = r->job->ours ? new_look_up : old_look_up;
    uint64_t n = (uintptr_t)r >> 7;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        for (unsigned i = 0; i < 1024; i++, n++)
            r->failed += !find(names[order[n & (ORDER - 1)]]);
        r->done += 1024;
    }
}

static void publish(struct reader *r)
{
    static _Thread_local char buffer[64][BODY];
    bool (*const send)(const char *, char *) = r->job->ours ? new_publish : old_publish;
    uint64_t n = (uintptr_t)r >> 7;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        const int64_t began = bench_now();
        r->failed += !send(names[order[n++ & (ORDER - 1)]], buffer[0]);
        samples_add(&r->latency, bench_now() - began);
        for (unsigned i = 1; i < SAMPLE_EVERY; i++, n++)
            r->failed += !send(names[order[n & (ORDER - 1)]], buffer[i]);
        r->done += SAMPLE_EVERY;
    }
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;

    wait_for_go();
    const int64_t wall = bench_now(), cpu = bench_thread_cpu();
    blocked_ns = 0;
    if (r->job->publish)
        publish(r);
    else
        look_up(r);
    r->cpu_ns = bench_thread_cpu() - cpu;
    r->wall_ns = bench_now() - wall;
    r->blocked = blocked_ns;
    return NULL;
}

/* A hundred topics added and a hundred configurations changed a second. */
static void *writer_main(void *arg)
{
    static char added[4096][NAME_LEN + 1];
    const struct job *job = arg;

    wait_for_go();
    for (unsigned i = 0; i < 4096 && !atomic_load(&stop); i++) {
        (void)snprintf(added[i], sizeof added[i], "added.region-%02u.customer-%07u", i % 100, i % 4096);
        if (job->ours) {
            if (evbus_topic_configure(bus, added[i], NULL) != EVBUS_OK ||
                evbus_topic_config(bus, added[i], &(evbus_topic_opts){.struct_size = sizeof(evbus_topic_opts)}) !=
                    EVBUS_OK)
                bench_fail("cannot configure: %s", evbus_error_detail());
        } else {
            old_put(&old.handlers, added[i]);
            old_put(&old.configs, added[i]);
            old_put(&old.streams, added[i]);
            lock_mutex(&old.mutex);
            old.connection = &old;
            pthread_mutex_unlock(&old.mutex);
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return NULL;
}

/* FIG_RATE by the wall clock; FIG_CLIENT_US by the threads' CPU; FIG_VALUE: blocked, per cent of the threads' time. */
static void put(struct reader *r, unsigned threads, struct figures *out)
{
    double done = 0, cpu = 0, wall = 0, blocked = 0, all = 0;
    struct samples latency;

    if (!samples_init(&latency, (size_t)threads * 400000))
        return;
    for (unsigned t = 0; t < threads; t++) {
        done += (double)r[t].done;
        cpu += (double)r[t].cpu_ns;
        all += (double)r[t].wall_ns;
        blocked += (double)r[t].blocked;
        wall = (double)r[t].wall_ns > wall ? (double)r[t].wall_ns : wall;
        memcpy(latency.us10 + latency.count, r[t].latency.us10, r[t].latency.count * sizeof *latency.us10);
        latency.count += r[t].latency.count;
    }
    samples_put(&latency, out);
    out->v[FIG_RATE] = done / wall * 1e9;
    out->v[FIG_CLIENT_US] = cpu / done / 1e3;
    out->v[FIG_VALUE] = 100 * blocked / all;
}

/* The threads had what there is: other programs took less than a tenth. */
static bool undisturbed(const struct reader *r, unsigned threads)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const unsigned at_once = (long)threads < cores ? threads : (unsigned)cores;
    double cpu = 0, wall = 0;

    for (unsigned t = 0; t < threads; t++) {
        cpu += (double)r[t].cpu_ns;
        wall = (double)r[t].wall_ns > wall ? (double)r[t].wall_ns : wall;
    }
    return cpu > 0.9 * wall * at_once;
}

static bool run_threads(const struct job *job, struct reader *r)
{
    pthread_t writer;
    uint64_t failed = 0;

    atomic_store(&go, false);
    atomic_store(&stop, false);
    for (unsigned t = 0; t < job->threads; t++) {
        r[t].job = job;
        r[t].done = r[t].failed = 0;
        r[t].latency.count = 0;
        if (pthread_create(&r[t].thread, NULL, reader_main, &r[t]) != 0)
            return bench_sorry("cannot start a thread");
    }
    if (job->writer && pthread_create(&writer, NULL, writer_main, (void *)job) != 0)
        return bench_sorry("cannot start a thread");
    atomic_store(&go, true);
    (void)nanosleep(&(struct timespec){.tv_nsec = RUN_NS}, NULL);
    atomic_store(&stop, true);
    for (unsigned t = 0; t < job->threads; t++) {
        (void)pthread_join(r[t].thread, NULL);
        failed += r[t].failed;
    }
    if (job->writer)
        (void)pthread_join(writer, NULL);
    return failed == 0 || bench_sorry("%llu operations failed", (unsigned long long)failed);
}

static bool run(const void *arg, struct figures *out)
{
    static alignas(128) struct reader r[THREADS_MAX];
    const struct job *job = arg;

    prepare();
    if (job->ours)
        new_open();
    else
        old_open();
    for (unsigned t = 0; t < job->threads; t++)
        if (!samples_init(&r[t].latency, 400000))
            return false;
    for (unsigned try = 0; try < BUSY_TRIES; try++) {
        if (!run_threads(job, r))
            return false;
        if (job->publish || undisturbed(r, job->threads)) /* threads that sleep on locks never use all */
            break;
    }
    put(r, job->threads, out);
    return true;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static struct spread per_thread(const struct variant *v)
{
    const struct spread us = bench_spread(v, bench_args.rounds, FIG_CLIENT_US);

    return (struct spread){1 / us.median, 1 / us.max, 1 / us.min}; /* us per operation -> M/s */
}

static void look_up_rows(struct variant v[2][4][2])
{
    const unsigned rounds = bench_args.rounds;
    const struct spread none = {NAN, NAN, NAN}, one = per_thread(&v[0][0][1]);

    for (int writer = 0; writer < 2; writer++) {
        const struct spread r = bench_ratio(&v[writer][1][1], &v[writer][1][0], rounds, FIG_RATE);
        report_row(&(struct row){.row = "S7",
                                 .what = writer ? "look-up, 2 threads, while topics are added, against the rwlock table"
                                                : "look-up, 2 threads, against the rwlock table",
                                 .unit = "look-ups/s",
                                 .target = 10,
                                 .ours = bench_spread(&v[writer][1][1], rounds, FIG_RATE),
                                 .bare = bench_spread(&v[writer][1][0], rounds, FIG_RATE),
                                 .verdict = r});
    }
    report_row(&(struct row){.row = "S7",
                             .what = "look-up by name among 1,000, one thread",
                             .unit = "M/s",
                             .target = 80,
                             .ours = one,
                             .bare = none,
                             .verdict = one});
    const struct spread flat = bench_ratio(&v[0][0][1], &v[0][3][1], rounds, FIG_CLIENT_US);
    report_row(&(struct row){.row = "S7",
                             .what = "rate per thread with 8 threads, of that with 1",
                             .unit = "M/s",
                             .target = 0.9,
                             .ours = per_thread(&v[0][3][1]),
                             .bare = none,
                             .verdict = flat});
}

static void table(struct variant v[2][4][2], const char *what, const unsigned *threads)
{
    static const char *const who[] = {"before: locks", "after: evbus"};
    char chart[160];

    for (int t = 0; t < 4; t++)
        for (int ours = 0; ours < 2; ours++) {
            const struct variant *a = &v[0][t][ours], *w = &v[1][t][ours];
            const unsigned n = bench_args.rounds;
            (void)snprintf(chart, sizeof chart, "Before and after: %s against threads", what);
            report_point(chart, who[ours], threads[t], "threads", bench_spread(a, n, FIG_RATE).median, "per second");
            report_note("before",
                        "%s, %s, %u threads: %.3g M/s, %.0f ns CPU, p99 %.1f us, blocked %.1f %% of the "
                        "time; with a writer %.3g M/s, p99 %.1f us, blocked %.1f %%",
                        what, who[ours], threads[t], bench_spread(a, n, FIG_RATE).median / 1e6,
                        bench_spread(a, n, FIG_CLIENT_US).median * 1e3, bench_spread(a, n, FIG_P99).median,
                        bench_spread(a, n, FIG_VALUE).median, bench_spread(w, n, FIG_RATE).median / 1e6,
                        bench_spread(w, n, FIG_P99).median, bench_spread(w, n, FIG_VALUE).median);
        }
}

int main(int argc, char **argv)
{
    static const unsigned threads[] = {1, 2, 4, 8};
    static struct variant v[2][2][4][2]; /* publish, writer, threads, ours */
    static struct job jobs[2][2][4][2];

    bench_begin(argc, argv, 5, 0);
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < 16; i++) {
            const int writer = i / 8, t = i / 2 % 4, ours = i % 2;
            jobs[p][writer][t][ours] = (struct job){ours, p, writer, threads[t]};
            v[p][writer][t][ours] =
                (struct variant){.name = ours ? "after" : "before", .run = run, .arg = &jobs[p][writer][t][ours]};
        }
        bench_rounds(&v[p][0][0][0], 16, bench_args.rounds);
    }
    look_up_rows(v[0]);
    table(v[0], "look-ups", threads);
    table(v[1], "publishes", threads);
    return report_end();
}
