/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiters sit on their own stacks, so a flight of any number of callers allocates nothing and cannot fail. The result is
 * written into each seat, not kept in the flight: the next flight may land before the last waiter of this one has woken.
 *
 * A waiter passes through: sit down (lock), wait (park, no lock), stand up (lock). A seat is in the list from the first
 * to either the landing, which empties the list, or to standing up early, which takes it out. Edge O1 -> O2 only ends
 * the wait; what the seat holds is ordered by the lock.
 */
#include "conc/flight.h"

#include "base/bytes.h"

struct ev_flight_seat {
    struct ev_flight_seat *next;
    _Atomic(uint32_t) landed;
    evbus_status status; /* this and detail: the leader's, before landed */
    char detail[EV_DETAIL_MAX];
};

void ev_flight_init(struct ev_flight *flight, pthread_mutex_t *lock)
{
    flight->lock = lock;
    ev_park_init(&flight->park);
    flight->seats = NULL;
    flight->flying = false;
}

/* False: nobody flies, so the caller leads. */
static bool sit_down(struct ev_flight *flight, struct ev_flight_seat *seat)
{
    pthread_mutex_lock(flight->lock);
    const bool flying = flight->flying;
    if (flying) {
        seat->next = flight->seats;
        flight->seats = seat;
    }
    flight->flying = true;
    pthread_mutex_unlock(flight->lock);
    return flying;
}

/* Returns when the flight may have landed or the deadline has passed; stand_up says which. */
static void wait_for_landing(struct ev_flight *flight, const struct ev_flight_seat *seat, const evbus_clock *clock,
                             int64_t deadline)
{
    for (bool in_time = true; in_time;) {
        const uint32_t ticket = ev_park_prepare(&flight->park);

        if (ev_load_seqcst(&seat->landed)) { /* O2 */
            ev_park_cancel(&flight->park);
            return;
        }
        in_time = ev_park_wait(&flight->park, ticket, clock, deadline);
    }
}

/* Returns whether the seat's flight has landed; if not, the seat is out of the list. */
static bool stand_up(struct ev_flight *flight, struct ev_flight_seat *seat)
{
    pthread_mutex_lock(flight->lock);
    const bool landed = ev_load_relaxed(&seat->landed); /* the lock orders it */
    if (!landed) {
        struct ev_flight_seat **at = &flight->seats;

        while (*at != seat)
            at = &(*at)->next;
        *at = seat->next;
    }
    pthread_mutex_unlock(flight->lock);
    return landed;
}

enum ev_flight_role ev_flight_join(struct ev_flight *flight, const evbus_clock *clock, int64_t deadline,
                                   evbus_status *ret_status)
{
    struct ev_flight_seat seat;

    atomic_init(&seat.landed, 0);
    if (!sit_down(flight, &seat))
        return EV_FLIGHT_LEAD;
    wait_for_landing(flight, &seat, clock, deadline);
    if (!stand_up(flight, &seat))
        return EV_FLIGHT_TIMEOUT;
    *ret_status = seat.status;
    if (seat.status != EVBUS_OK)
        ev_fail(seat.status, "%s", seat.detail);
    return EV_FLIGHT_DONE;
}

void ev_flight_land(struct ev_flight *flight, evbus_status status, const char *detail)
{
    pthread_mutex_lock(flight->lock);
    for (struct ev_flight_seat *seat = flight->seats; seat != NULL; seat = seat->next) {
        seat->status = status;
        ev_copy(seat->detail, sizeof seat->detail, detail != NULL ? detail : "");
        ev_store_seqcst(&seat->landed, 1); /* O1; the seat stays until we unlock */
    }
    flight->seats = NULL;
    flight->flying = false; /* from here on a caller starts the next flight */
    pthread_mutex_unlock(flight->lock);
    ev_park_wake(&flight->park, UINT32_MAX);
}
