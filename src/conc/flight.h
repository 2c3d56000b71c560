/* SPDX-License-Identifier: Apache-2.0 */
/* Single flight: of many callers that need the same rare work done, one does it and all get its result.
 *
 * Use       switch (ev_flight_join(flight, clock, deadline, &status)) {
 *           case EV_FLIGHT_LEAD:     status = work(); ev_flight_land(flight, status, ev_detail()); break;
 *           case EV_FLIGHT_DONE:     status is the leader's, ev_detail() is its text; break;
 *           case EV_FLIGHT_TIMEOUT:  our own deadline came first; break;
 *           }
 *           Nothing is remembered: a call after the landing starts a new flight. Remembering is the caller's.
 *
 * Who       lock      guards flying and the list of seats.
 *           seat      on the stack of each waiter; its leader writes status, detail and landed under the lock.
 *           park      waiters sleep there, the leader wakes all.
 *
 * Edges     O1 (land, seq_cst store of landed) -> O2 (join, seq_cst load): ends the sleep; status and text are read
 *              under the lock, which every waiter takes before it leaves. So a seat outlives the leader's walk.
 *
 * Progress  blocking (a mutex for a few instructions; a wait by intent). Not for the hot path. The leader never waits.
 *
 * Holds     at most one leader between a join that returned EV_FLIGHT_LEAD and its landing.
 *           Each waiter returns once: with the result of the flight it joined, or with EV_FLIGHT_TIMEOUT.
 * Checked   tests/unit/test_flight.c
 */
#ifndef EV_CONC_FLIGHT_H
#define EV_CONC_FLIGHT_H

#include "base/clock.h"
#include "base/status.h"
#include "conc/park.h"

#include <pthread.h>

struct ev_flight_seat; /* flight.c */

struct ev_flight {
    pthread_mutex_t *lock; /* flights may share one: it is held for a few instructions */
    struct ev_park park;
    struct ev_flight_seat *seats;
    bool flying;
};

enum ev_flight_role { EV_FLIGHT_LEAD, EV_FLIGHT_DONE, EV_FLIGHT_TIMEOUT };

/* `lock` outlives it. Nothing is to be undone. */
void ev_flight_init(struct ev_flight *flight, pthread_mutex_t *lock);

/*
 * Leads, or waits for who does, up to `deadline` in terms of ev_clock_now(clock). ret_status is written with
 * EV_FLIGHT_DONE only; when it is a failure, this thread's detail text is then the leader's.
 */
enum ev_flight_role ev_flight_join(struct ev_flight *flight, const evbus_clock *clock, int64_t deadline,
                                   evbus_status *ret_status);

/* By the leader, exactly once. `detail` may be NULL; it is copied. */
void ev_flight_land(struct ev_flight *flight, evbus_status status, const char *detail);

#endif
