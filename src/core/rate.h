/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits: a token bucket as one number, the time at which the next token but `burst` would be due if all came evenly
 * (GCRA). Taking a token may mean to wait for it: it is taken at once, so whoever comes later waits longer.
 */
#ifndef EV_CORE_RATE_H
#define EV_CORE_RATE_H

#include "core/bus.h"

/* A token of the topic's: waits for it until `deadline`, else EVBUS_BACKPRESSURE and none is taken. [app] */
evbus_status ev_rate_publish(struct ev_topic *topic, const evbus_topic_opts *cfg, int64_t deadline);

/* May a message of this aggregate run now? False: it has a token, for agg->ready_at. [loop] */
bool ev_rate_run(struct ev_agg *agg, int64_t now);

#endif
