/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets messages flow at saturation and counts the calls that our objects make meanwhile (bench/count.h): the program is
 * linked with --wrap, which redirects the calls of the library's objects and this test's, not those of libnats.
 */
#ifndef EV_TESTS_HOT_PATH_H
#define EV_TESTS_HOT_PATH_H

#include "count.h"

#include <stdbool.h>
#include <stdint.h>

#define HOT_PRODUCERS_MAX 16
#define HOT_INFLIGHT 1024

struct hot_flow {
    const char *url;
    bool envelopes;
    bool msg_id;       /* not on mem://: its broker remembers the ids of a time, which takes memory by the rate */
    uint64_t messages; /* counted ones */
    int producers;
};

/*
 * Publishes from `producers` threads to one topic and handles what comes. Before counting everything has reached its
 * largest extent: the handler held all it may hold, every place of the window was used, the stream was full.
 */
struct calls hot_path_run(const struct hot_flow *flow);

/*
 * Fails unless the calls are within what the hot path owes: no lock, no allocation, a futex call in 64 messages. The
 * last is a promise about saturation, and other programs can keep our threads from it: the best of some runs counts.
 */
void hot_path_check(const struct hot_flow *flow);

#endif
