/* SPDX-License-Identifier: Apache-2.0 */
/* Latency histogram in nanoseconds: fixed memory (36 KiB), errors below 0.8 %, no lock.
 *
 * Use       one struct per writing thread; readers merge them into one of their own and ask that for quantiles.
 *           Values below 256 have a bucket each; every further power of two is cut into 128 buckets. The last ends at
 *           2^42 - 1 ns, 73 minutes; larger values are put there, and `max` still has them exactly.
 *
 * Who       all fields: written by one thread, read by any.
 *
 * Edges     none: every access is relaxed, each number is a statistic of its own. A reader may see a bucket without the
 *           value that came before it; quantiles count the buckets they see, so they are of what they see.
 *
 * Progress  add is wait-free: three plain stores. merge, quantile: 4,608 loads; they never hold up the writer.
 *
 * Holds     count = sum of buckets, whenever the writer is not inside add.
 * Checked   tests/unit/test_hist.c
 */
#ifndef EV_CONC_HIST_H
#define EV_CONC_HIST_H

#include "conc/atomic.h"

#define EV_HIST_FINE_BITS 7 /* 128 buckets for each power of two */
#define EV_HIST_TOP_BITS 42 /* up to 2^42 - 1 ns */
#define EV_HIST_BUCKETS ((EV_HIST_TOP_BITS - EV_HIST_FINE_BITS + 1) << EV_HIST_FINE_BITS)

struct ev_hist {
    _Atomic(uint64_t) count;
    _Atomic(int64_t) max;
    _Atomic(uint64_t) buckets[EV_HIST_BUCKETS];
};

void ev_hist_init(struct ev_hist *hist);
void ev_hist_add(struct ev_hist *hist, int64_t ns);                    /* the writer; below 0 counts as 0 */
void ev_hist_merge(struct ev_hist *into, const struct ev_hist *from);  /* the writer of `into` */
int64_t ev_hist_quantile(const struct ev_hist *hist, double quantile); /* 0..1; 0 when empty; rounded up */
int64_t ev_hist_max(const struct ev_hist *hist);                       /* exact; 0 when empty */
uint64_t ev_hist_count(const struct ev_hist *hist);

#endif
