/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Health. The question "how is it" is a command to the loop, which answers from what it is doing (health.c). The
 * messages that tell others, and the watch over theirs, are chores of the housekeeping thread (health_monitor.c); their
 * text is the Go original's (health_message.c).
 *
 * Who       everything here is guarded by bus->mutex but what says otherwise; all of it is rare.
 */
#ifndef EV_CORE_HEALTH_H
#define EV_CORE_HEALTH_H

#define EV_HEALTH_TEXT_MAX 1024
#define EV_HEALTH_SOURCE_MAX 128

struct ev_health_probe {
    struct ev_command command;
    bool pending;
    uint64_t asked, answered;
    evbus_health_report report;
};

/* A monitor's life: started and stopped by the application, run by the keeper. */
struct ev_monitor {
    struct ev_chore chore;
    struct ev_listener listener; /* written while it does not run */
    bool on;                     /* started: nobody else may start it */
    bool busy;                   /* its chore is running */
};

struct ev_health_sender {
    struct ev_monitor monitor;
    evbus_health_publisher_status status;
    char topic[256], source[EV_HEALTH_SOURCE_MAX];
    uint32_t interval_ms, timeout_ms, failures_max;
    int64_t started_s;
};

struct ev_health_watch {
    struct ev_monitor monitor;
    evbus_health_subscriber_stats stats;
    struct evbus_sub *sub;
    char topic[256], source[EV_HEALTH_SOURCE_MAX];
    uint32_t interval_ms, check_ms, misses[3];
    int64_t heard; /* monotonic: the last message, or the start */
};

struct ev_health {
    struct ev_health_probe probe;
    struct ev_health_sender sender;
    struct ev_health_watch watch;
};

/* True: it was off, and is on from now. */
bool ev_monitor_take(evbus *bus, struct ev_monitor *monitor);
void ev_monitor_release(evbus *bus, struct ev_monitor *monitor); /* taken, but not started */
void ev_monitor_start(evbus *bus, struct ev_monitor *monitor, void (*run)(evbus *bus, struct ev_chore *chore));
/* From within the chore. begin: false: it was stopped. end: runs again at `at` unless stopped. */
bool ev_monitor_begin(evbus *bus, struct ev_monitor *monitor);
void ev_monitor_end(evbus *bus, struct ev_monitor *monitor, int64_t at);
/* Its chore does not run after, nor its callback (unless this is inside it). False: it was off. */
bool ev_monitor_stop(evbus *bus, struct ev_monitor *monitor);
/* To be looked at now. */
void ev_monitor_hurry(evbus *bus, struct ev_monitor *monitor);

/* ---- health_message.c: no state ---------------------------------------------------------------------------------- */

struct ev_health_message {
    char id[64], source[EV_HEALTH_SOURCE_MAX], type[16];
    int64_t time_ns; /* 0: none */
};

/* Returns the length, without the NUL. `started_s` names this start of the source. */
size_t ev_health_put(char out[EV_HEALTH_TEXT_MAX], const char *source, const char *type, int64_t wall_ns,
                     int64_t started_s);
/* EVBUS_INVALID: not a health message; the detail says why. */
evbus_status ev_health_get(const char *text, size_t len, struct ev_health_message *ret);

#endif
