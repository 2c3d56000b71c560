/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backlog: what waits at the broker for our durables, and which of our publishes wait for their outcome. Looked at by
 * chores of the housekeeping thread (a monitor as in health.h); publishing and handling only count. Guarded by
 * bus->mutex.
 */
#ifndef EV_CORE_BACKLOG_H
#define EV_CORE_BACKLOG_H

/* One measured thing: a durable of ours, or our publishes. */
struct ev_backlog_entry {
    char stream[EV_NAME_MAX], consumer[EV_NAME_MAX]; /* "": publishes */
    const char *topic;                               /* of the topic's record: it lives until close */
    char group[72];
    evbus_backlog found;
    uint64_t done; /* settled, or outcomes, when looked at */
    int64_t at;    /* monotonic: when that was; 0: never */
};

/* Those of one look, found by topic and group. Several have the same where a group has several members here. */
struct ev_backlog_found {
    struct ev_backlog_entry *entries;
    uint32_t count;
    uint32_t *places, mask; /* behind the entries, by hash: 1 + the entry's number; 0: none. Publishes have no places */
};

struct ev_backlog_side {
    struct ev_monitor monitor;
    struct ev_backlog_found last;
    uint64_t compared; /* entries that were looked at to find one: tests count them */
    uint32_t look_ms;
    uint64_t latency_sum, latency_count; /* publisher: as of the last look */
};

struct ev_backlog {
    struct ev_backlog_side subscriber, publisher;
    evbus_backlog_opts o[2]; /* defaults filled in: subscriber's, publisher's */
};

void ev_backlog_fini(evbus *bus);

#endif
