/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The story of the link: attempts to reconnect, failures, and the end of trying. The backend tries, pauses and gives up
 * by evbus_opts.reconnect_*; here it is counted, told and acted on. Rare.
 *
 * Given up   EV_LINK_GIVEN_UP: publishes and requests fail at once, what was held ends refused. evbus_reconnect leaves it.
 * Order      the backend tells of attempts from its own thread, of sessions from the loop, one after the other; the event
 *            queue keeps that order.
 */
#ifndef EV_CORE_RECONNECT_H
#define EV_CORE_RECONNECT_H

struct ev_reconnect {
    struct ev_command again; /* evbus_reconnect */
    /* guarded by bus->mutex */
    uint32_t attempts, failures;             /* since the last session ended */
    bool failing;                            /* EVBUS_EVENT_RECONNECT_FAILING was told */
    bool posted;                             /* `again` is on its way */
    uint64_t asked, answered;                /* evbus_reconnect */
    int64_t next;                            /* when the next attempt begins, by the bus's clock; 0: none is due */
    int64_t connected, disconnected, failed; /* Unix times */
};

void ev_reconnect_up(evbus *bus);                                            /* [loop] before the core is told */
void ev_reconnect_down(evbus *bus, evbus_status cause, const char *text);    /* [loop] */
void ev_reconnect_begun(evbus *bus);                                         /* [any] an attempt begins */
void ev_reconnect_refused(evbus *bus, evbus_status cause, const char *text); /* [any] one server failed */
void ev_reconnect_next(evbus *bus, bool failed, int64_t next); /* [any] when one begins; EV_NEVER, [loop]: none will */

/* EVBUS_DISCONNECTED, with the reason. */
evbus_status ev_reconnect_given_up(evbus *bus);

#endif
