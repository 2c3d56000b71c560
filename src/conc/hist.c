/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bucket of a value: its top 8 bits, shifted down by `shift`, plus 128 for each shift. So bucket b >= 256 stands for
 * values whose top bits are 128 + b % 128, shifted up by b / 128 - 1.
 */
#include "conc/hist.h"

#define FINE (1u << EV_HIST_FINE_BITS)
#define TOP ((INT64_C(1) << EV_HIST_TOP_BITS) - 1)

static uint32_t bucket_of(int64_t ns)
{
    const uint64_t value = (uint64_t)(ns > TOP ? TOP : ns);

    if (value < 2 * FINE)
        return (uint32_t)value;

    const uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - EV_HIST_FINE_BITS;
    return (shift << EV_HIST_FINE_BITS) + (uint32_t)(value >> shift);
}

/* The largest value that falls into the bucket. */
static int64_t edge_of(uint32_t bucket)
{
    if (bucket < 2 * FINE)
        return bucket;

    const uint32_t shift = (bucket >> EV_HIST_FINE_BITS) - 1;
    const int64_t top_bits = FINE + (bucket & (FINE - 1));
    return ((top_bits + 1) << shift) - 1;
}

void ev_hist_init(struct ev_hist *hist)
{
    atomic_init(&hist->count, 0);
    atomic_init(&hist->max, 0);
    for (uint32_t i = 0; i < EV_HIST_BUCKETS; i++)
        atomic_init(&hist->buckets[i], 0);
}

static void raise_max(struct ev_hist *hist, int64_t ns)
{
    if (ns > ev_load_relaxed(&hist->max)) /* own field */
        ev_store_relaxed(&hist->max, ns); /* own field; statistic */
}

void ev_hist_add(struct ev_hist *hist, int64_t ns)
{
    if (ns < 0)
        ns = 0;
    ev_count(&hist->buckets[bucket_of(ns)], 1);
    ev_count(&hist->count, 1);
    raise_max(hist, ns);
}

void ev_hist_merge(struct ev_hist *into, const struct ev_hist *from)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < EV_HIST_BUCKETS; i++) {
        const uint64_t n = ev_load_relaxed(&from->buckets[i]); /* statistic */

        if (n != 0)
            ev_count(&into->buckets[i], n);
        sum += n;
    }
    ev_count(&into->count, sum);
    raise_max(into, ev_load_relaxed(&from->max)); /* statistic */
}

static uint64_t sum_of_buckets(const struct ev_hist *hist)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < EV_HIST_BUCKETS; i++)
        sum += ev_load_relaxed(&hist->buckets[i]); /* statistic */
    return sum;
}

int64_t ev_hist_quantile(const struct ev_hist *hist, double quantile)
{
    const uint64_t total = sum_of_buckets(hist);
    const double wanted = quantile < 0 ? 0 : quantile * (double)total;
    const int64_t max = ev_load_relaxed(&hist->max); /* statistic */
    uint64_t seen = 0;

    if (total == 0)
        return 0;
    for (uint32_t i = 0; i < EV_HIST_BUCKETS; i++) {
        seen += ev_load_relaxed(&hist->buckets[i]); /* statistic */
        if (seen > 0 && (double)seen >= wanted)
            return edge_of(i) < max && i < EV_HIST_BUCKETS - 1 ? edge_of(i) : max;
    }
    return max;
}

int64_t ev_hist_max(const struct ev_hist *hist)
{
    return ev_load_relaxed(&hist->max); /* statistic */
}

uint64_t ev_hist_count(const struct ev_hist *hist)
{
    return ev_load_relaxed(&hist->count); /* statistic */
}
