/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A subscription's circuit breaker (evbus_sub_opts.breaker_failures). Closed: all runs. After so many runs in a row that
 * failed (verdict retry, or overdue) it is open: nothing starts and nothing is pulled; what is here stays here and keeps
 * its lease, in order. After breaker_open_ms it is half open: one message runs, and what becomes of it closes the breaker, or
 * opens it for as long again. Handlers that run when it opens end as always; what they say does not count.
 *
 * [loop], but for the state, which the loop alone writes: workers read it before they start a message (a hint: one that
 * starts a moment later does no harm), and so does evbus_sub_breaker.
 */
#ifndef EV_CORE_BREAKER_H
#define EV_CORE_BREAKER_H

#include "core/bus.h"

struct ev_breaker {
    _Atomic(uint32_t) state; /* evbus_breaker_state */
    uint32_t failures;       /* in a row */
    int64_t open_until;
    bool probing; /* half open: its one message runs */
};

/* Its options' rules. [app] */
evbus_status ev_breaker_check(const evbus_sub_opts *o, bool envelope);

/* May a message of the subscription start? */
bool ev_breaker_lets(const struct evbus_sub *sub);
/* One is about to: true if it is the one that decides. */
bool ev_breaker_probe(struct evbus_sub *sub);

/* A message came back, or became overdue. `counts`: its handler ran, and `failed` says how. */
void ev_breaker_judge(evbus *bus, struct evbus_sub *sub, bool probe, bool counts, bool failed, int64_t now);

/* Opens halfway what was open long enough; when that is due next. */
bool ev_breaker_turn(evbus *bus, int64_t now);

/* The subscription ends. */
void ev_breaker_forget(evbus *bus, struct evbus_sub *sub);

#endif
