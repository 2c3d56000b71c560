/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: what a person or supervisor should hear of. Each is logged once here and queued for on_event, which runs on a
 * worker, in order, one at a time; the queue is bounded, and what does not fit is counted (events_dropped).
 */
#ifndef EV_CORE_EVENTS_H
#define EV_CORE_EVENTS_H

#define EV_EVENT_KINDS (EVBUS_EVENT_LEADER_CHANGED + 1)

struct ev_event_entry;

/* Somebody beside on_event who hears of some events: a monitor's own callback. NULL fn: nobody. */
struct ev_listener {
    evbus_event_fn fn;
    void *ctx;
};

struct ev_events {
    pthread_mutex_t mutex;              /* events are rare */
    struct ev_event_entry *head, *tail; /* guarded */
    uint32_t count;                     /* guarded */
    bool posted;                        /* guarded: the job is on its way or running */
    const struct ev_listener *telling;  /* guarded: whose callback runs now; NULL: nobody's, or on_event */
    struct ev_job job;
    struct ev_command wanted;               /* asks the loop to make the job runnable */
    _Atomic(uint64_t) told[EV_EVENT_KINDS]; /* of each kind; statistic */
    int64_t last_log_ns;                    /* guarded: ev_log_some */
    uint64_t suppressed;                    /* guarded */
};

evbus_status ev_events_init(evbus *bus);
void ev_events_fini(evbus *bus);

/* Strings are copied; NULL means "". [any] */
void ev_event(evbus *bus, evbus_event_kind kind, evbus_status status, uint64_t count, const char *topic,
              const char *group, const char *aggregate_id, const char *text);

/* The same, and `listener`, which stays the caller's, hears of it as well. [any] */
void ev_event_to(evbus *bus, const struct ev_listener *listener, evbus_event_kind kind, evbus_status status,
                 uint64_t count, const char *topic, const char *group, const char *text);
/* Its callback is not called any more: what waits for it is dropped, and unless called from a callback, one that runs is
 * waited for. [app] */
void ev_events_forget(evbus *bus, const struct ev_listener *listener);

/* A log line of a kind that may come by the thousand: at most one a second, with the number left out. [any] */
void ev_log_some(evbus *bus, evbus_log_level level, const char *subject, const char *fmt, ...) EV_PRINTF(4, 5);

#endif
