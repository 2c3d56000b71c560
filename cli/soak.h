/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of `evbus soak` share: the load, its latencies, what the process uses, and the verdict on all of it. */
#ifndef CLI_SOAK_H
#define CLI_SOAK_H

#include <evbus/evbus.h>

#include <pthread.h>
#include <stdatomic.h>

#define SOAK_WINDOWS 12u
#define SOAK_BUCKETS 1024u

/* Latencies: 32 steps for each power of two of microseconds. Any thread adds; the main thread reads and empties. */
struct soak_latency {
    _Atomic(uint32_t) bucket[SOAK_BUCKETS];
};

/* One part of the time, and what was seen in it. */
struct soak_window {
    int64_t ended_ns; /* since the start */
    uint64_t handled;
    uint64_t memory_bytes;         /* resident: the median of its samples */
    uint32_t threads, descriptors; /* the most */
    int64_t p50_us, p99_us;
};

struct soak {
    uint32_t rate, seconds;
    evbus *bus;
    evbus_sub *sub;
    char topic[64];
    pthread_t publisher;
    atomic_bool stop;
    _Atomic(uint64_t) published, declined, handled, damaged, failed;
    struct soak_latency latency;
    struct soak_window windows[SOAK_WINDOWS];
    uint32_t window_count, warm_count; /* of them; those of the warm-up, which are not judged */
    evbus_statistics stats;            /* at the end */
    char verdict[512];                 /* what grew or went wrong; "": nothing */
};

void soak_latency_add(struct soak_latency *l, int64_t ns);
/* The latency in microseconds that `percent` of them are below; 0 if there are none. Empties it. */
void soak_latency_take(struct soak_latency *l, int64_t *ret_p50_us, int64_t *ret_p99_us);

/* What this process uses now. */
uint64_t soak_memory(void);
uint32_t soak_threads(void);
uint32_t soak_descriptors(void);

/* Fills `verdict`. */
void soak_judge(struct soak *s);

#endif
