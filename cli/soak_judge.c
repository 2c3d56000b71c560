/* SPDX-License-Identifier: Apache-2.0 */
/* What the process uses, and whether it grew: the windows behind the warm-up, the first third of them against the last. */
#include "soak.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEPS 32

/* Allowed: what is noise on a machine with other work. */
#define MEMORY_PERCENT 1u
#define MEMORY_BYTES (UINT64_C(1) << 20)
#define P50_TIMES 2
#define P50_US 5000
#define P99_TIMES 3
#define P99_US 100000

/* ---- Latency ----------------------------------------------------------------------------------------------------- */

void soak_latency_add(struct soak_latency *l, int64_t ns)
{
    const uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    uint32_t i = (uint32_t)us;

    if (us >= 2 * STEPS) {
        const uint32_t power = 63u - (uint32_t)__builtin_clzll(us); /* us = 1.xxxxx * 2^power, five bits of x count */
        i = (power - 4) * STEPS + ((uint32_t)(us >> (power - 5)) & (STEPS - 1));
    }
    atomic_fetch_add_explicit(&l->bucket[i < SOAK_BUCKETS ? i : SOAK_BUCKETS - 1], 1, memory_order_relaxed);
}

static int64_t bucket_us(uint32_t i)
{
    return i < 2 * STEPS ? i : (int64_t)(STEPS + i % STEPS) << (i / STEPS - 1);
}

static int64_t percentile(const uint32_t count[SOAK_BUCKETS], uint64_t all, uint32_t percent)
{
    uint64_t left = (all * percent + 99) / 100;

    for (uint32_t i = 0; i < SOAK_BUCKETS && all; i++) {
        if (count[i] >= left)
            return bucket_us(i);
        left -= count[i];
    }
    return 0;
}

void soak_latency_take(struct soak_latency *l, int64_t *ret_p50_us, int64_t *ret_p99_us)
{
    uint32_t count[SOAK_BUCKETS];
    uint64_t all = 0;

    for (uint32_t i = 0; i < SOAK_BUCKETS; i++) {
        count[i] = atomic_exchange_explicit(&l->bucket[i], 0, memory_order_relaxed);
        all += count[i];
    }
    *ret_p50_us = percentile(count, all, 50);
    *ret_p99_us = percentile(count, all, 99);
}

/* ---- What the process uses --------------------------------------------------------------------------------------- */

uint64_t soak_memory(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file)
        return 0;
    const int n = fscanf(file, "%llu %llu", &size, &resident);
    (void)fclose(file);
    return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static uint32_t entries_of(const char *path, uint32_t own)
{
    DIR *folder = opendir(path);
    uint32_t n = 0;

    if (!folder)
        return 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        n += entry->d_name[0] != '.';
    (void)closedir(folder);
    return n - own;
}

uint32_t soak_threads(void)
{
    return entries_of("/proc/self/task", 0);
}

uint32_t soak_descriptors(void)
{
    return entries_of("/proc/self/fd", 1);
}

/* ---- The verdict ------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void wrong(struct soak *s, const char *format, ...)
{
    const size_t n = strlen(s->verdict);
    va_list args;

    va_start(args, format);
    (void)snprintf(s->verdict + n, sizeof s->verdict - n, "%s", n ? "; " : "");
    (void)vsnprintf(s->verdict + strlen(s->verdict), sizeof s->verdict - strlen(s->verdict), format, args);
    va_end(args);
}

static int ascending(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

enum field { MEMORY, P50, P99 };

static int64_t median(const struct soak_window *w, uint32_t n, enum field field)
{
    int64_t values[SOAK_WINDOWS];

    for (uint32_t i = 0; i < n; i++)
        values[i] = field == MEMORY ? (int64_t)w[i].memory_bytes : field == P50 ? w[i].p50_us : w[i].p99_us;
    qsort(values, n, sizeof values[0], ascending);
    return values[n / 2];
}

static void judge_latency(struct soak *s, const struct soak_window *first, const struct soak_window *last, uint32_t n)
{
    const int64_t p50[2] = {median(first, n, P50), median(last, n, P50)};
    const int64_t p99[2] = {median(first, n, P99), median(last, n, P99)};

    if (p50[1] > p50[0] * P50_TIMES + P50_US)
        wrong(s, "latency p50 went from %" PRId64 " to %" PRId64 " us", p50[0], p50[1]);
    if (p99[1] > p99[0] * P99_TIMES + P99_US)
        wrong(s, "latency p99 went from %" PRId64 " to %" PRId64 " us", p99[0], p99[1]);
}

static void judge_growth(struct soak *s)
{
    const struct soak_window *first = &s->windows[s->warm_count];
    const uint32_t judged = s->window_count - s->warm_count, n = judged / 3 ? judged / 3 : 1;
    const struct soak_window *last = &s->windows[s->window_count - n];
    const uint64_t memory[2] = {(uint64_t)median(first, n, MEMORY), (uint64_t)median(last, n, MEMORY)};
    uint32_t threads[2] = {0}, descriptors[2] = {0};

    for (uint32_t i = 0; i < n; i++) {
        threads[0] = first[i].threads > threads[0] ? first[i].threads : threads[0];
        threads[1] = last[i].threads > threads[1] ? last[i].threads : threads[1];
        descriptors[0] = first[i].descriptors > descriptors[0] ? first[i].descriptors : descriptors[0];
        descriptors[1] = last[i].descriptors > descriptors[1] ? last[i].descriptors : descriptors[1];
    }
    if (threads[1] > threads[0])
        wrong(s, "threads grew from %" PRIu32 " to %" PRIu32, threads[0], threads[1]);
    if (descriptors[1] > descriptors[0])
        wrong(s, "descriptors grew from %" PRIu32 " to %" PRIu32, descriptors[0], descriptors[1]);
    if (memory[1] > memory[0] + memory[0] * MEMORY_PERCENT / 100 + MEMORY_BYTES)
        wrong(s, "memory grew from %" PRIu64 " to %" PRIu64 " KiB", memory[0] >> 10, memory[1] >> 10);
    judge_latency(s, first, last, n);
}

void soak_judge(struct soak *s)
{
    const uint64_t published = atomic_load(&s->published), handled = atomic_load(&s->handled);
    const uint64_t failed = atomic_load(&s->failed), damaged = atomic_load(&s->damaged);
    const int64_t took_ns = s->window_count ? s->windows[s->window_count - 1].ended_ns : 0;
    const double asked = (double)s->rate * (double)took_ns / 1e9;

    if (s->window_count <= s->warm_count)
        wrong(s, "it did not last longer than the warm-up");
    else
        judge_growth(s);
    if ((double)published < asked * 0.95)
        wrong(s, "%" PRIu64 " published, %.0f were asked for", published, asked);
    if (failed)
        wrong(s, "%" PRIu64 " publishes refused or unknown", failed);
    if (damaged)
        wrong(s, "%" PRIu64 " messages damaged", damaged);
    if (handled != published - failed)
        wrong(s, "%" PRIu64 " published, %" PRIu64 " handled", published, handled);
}
