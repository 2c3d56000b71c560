/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's entries: turn, wait and the rest, and with them the life of a session: begin, heartbeat, end.
 *
 * A session begins with a message to ourselves: when it comes back the inbox works, and the link is up. It ends in one
 * place, end_session, whatever the cause was: link_down once, everything freed, the keeper asked for another one.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define POLL_EVERY (50 * 1000) /* ns between looks at a quiet socket while the core keeps turning */
#define SHUT_WRITE_TIME (50 * EV_MS)
#define WAIT_MAX_MS (60 * 1000)

/* ---- Heartbeat --------------------------------------------------------------------------------------------------- */

#define PROBE_ALIVE 'h'
#define PROBE_LAST 'z' /* of shut(): an earlier heartbeat's echo must not stand for it */

static void probe(struct ev_nats *st, char kind)
{
    struct ev_nats_session *s = st->session;
    char subject[EV_NATS_REPLY_MAX];

    (void)snprintf(subject, sizeof subject, "%s.%c", s->inbox, kind);
    s->probe_next = st->now + st->cfg.heartbeat_ms * EV_MS;
    if (ev_nats_append(st, subject, NULL, &st->now, sizeof st->now) && s->probe_open == 0)
        s->probe_open = st->now;
}

void ev_nats_link_up(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;

    s->up = true;
    ev_log(st->log, EVBUS_LOG_INFO, "nats", "connected to %s", s->server->url);
    ev_host_link_up(st->host);
    if (ev_nats_is_up(st))
        ev_nats_consume_up(st);
    ev_add_relaxed(&st->posted, 1); /* requests may wait for the link */
}

void ev_nats_probe_back(struct ev_nats *st, natsMsg *msg)
{
    int64_t sent = 0;

    if (natsMsg_GetDataLength(msg) == (int)sizeof sent) {
        memcpy(&sent, natsMsg_GetData(msg), sizeof sent); /* our own bytes, on the machine that wrote them */
        ev_nats_lanes_passed(st, sent);
    }
    st->session->probe_open = 0;
    if (!st->session->up)
        ev_nats_link_up(st);
}

void ev_nats_probe_denied(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;

    /* The refusal came from the server just now: it is as good a sign of life as the heartbeat itself. */
    s->received = st->now;
    s->probe_open = 0;
    if (s->up)
        return;
    ev_log(st->log, EVBUS_LOG_WARN, "nats",
           "the permissions forbid publishing to %s.>: the heartbeat works by being refused, which the server logs "
           "each time; allow it, or set inbox_prefix",
           st->cfg.inbox_prefix);
    ev_nats_link_up(st);
}

/* Ends a silent session. Only after reading: we may have been stopped ourselves. */
static void heartbeat(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;
    const int64_t interval = st->cfg.heartbeat_ms * EV_MS;
    char text[EV_NATS_TEXT_MAX];

    if (s->dead)
        return;
    if (!s->up && st->now - s->begun > st->cfg.connect_timeout_ms * EV_MS) {
        ev_nats_drop(st, "the server took the connection but our own first message did not come back");
        return;
    }
    if (s->probe_open != 0 && st->now - s->probe_open >= interval * 3 / 2 &&
        st->now - s->received >= interval * 5 / 2) {
        ev_nats_say(text, sizeof text, "%s is silent for %" PRId64 " ms (heartbeat unanswered)", s->server->url,
                    (st->now - s->received) / EV_MS);
        ev_nats_drop(st, text);
    } else if (st->now >= s->probe_next) {
        probe(st, PROBE_ALIVE);
    }
}

static int64_t heartbeat_due(const struct ev_nats *st)
{
    const struct ev_nats_session *s = st->session;
    const int64_t interval = st->cfg.heartbeat_ms * EV_MS;
    int64_t due = s->probe_next;

    if (s->probe_open != 0) {
        const int64_t a = s->probe_open + interval * 3 / 2, b = s->received + interval * 5 / 2;
        const int64_t silent = a > b ? a : b;
        if (silent < due)
            due = silent;
    }
    if (!s->up && s->begun + st->cfg.connect_timeout_ms * EV_MS < due)
        due = s->begun + st->cfg.connect_timeout_ms * EV_MS;
    return due;
}

/* ---- Begin and end ----------------------------------------------------------------------------------------------- */

static bool subscribe_inbox(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;
    char hex[16], subject[EV_NATS_REPLY_MAX];

    ev_put_hex16(hex, ev_random());
    s->inbox_len = (size_t)snprintf(s->inbox, sizeof s->inbox, "%s.%.16s", st->cfg.inbox_prefix, hex);
    (void)snprintf(subject, sizeof subject, "%s.>", s->inbox);
    return natsConnection_SubscribeSync(&s->inbox_sub, s->nc, subject) == NATS_OK &&
           natsSubscription_SetPendingLimits(s->inbox_sub, -1, -1) == NATS_OK;
}

static void begin_session(struct ev_nats *st, struct ev_nats_session *s)
{
    st->session = s;
    st->ready_events = 0;
    st->more = false;
    st->dropped = false;
    st->dropped_why[0] = st->fault[0] = 0;
    st->fault_status = EVBUS_OK;
    ev_store_release(&st->stalled, false);
    s->st = st;
    s->begun = s->received = st->now;
    ev_nats_notes_for(st, s->id);
    if (s->fd >= 0)
        s->in_epoll = ev_nats_epoll_add(st, s->fd, EPOLLIN | EPOLLRDHUP, s->id);
    pthread_mutex_lock(&st->fd_mutex);
    st->watch_fd = s->fd;
    pthread_mutex_unlock(&st->fd_mutex);
    if (s->tls)
        ev_nats_keeper_watch(st, true);
    if (!s->in_epoll || !subscribe_inbox(st) || !ev_nats_lanes_begin(st)) {
        ev_nats_drop(st, "no memory for the session");
        return;
    }
    const int64_t max = natsConnection_GetMaxPayload(s->nc);
    ev_store_relaxed(&st->payload_max, max > 0 ? (uint64_t)max : 0); /* a statistic for its readers */
    for (struct ev_nats_core *c = st->cores; c && !s->dead; c = c->next)
        ev_nats_core_start(st, c);
    probe(st, PROBE_ALIVE);
}

void ev_nats_drop(struct ev_nats *st, const char *why)
{
    if (!st->session || st->dropped)
        return;
    st->dropped = true;
    (void)ev_copy(st->dropped_why, sizeof st->dropped_why, why);
    ev_nats_kill(st);
}

void ev_nats_drop_link(void *state, const char *why)
{
    ev_nats_drop(state, why);
}

/* Why it ended, in words, most telling first. */
static evbus_status cause_of(struct ev_nats *st, char *text, size_t cap)
{
    struct ev_nats_session *s = st->session;
    const char *last = NULL;

    if (st->dropped) {
        (void)ev_copy(text, cap, st->dropped_why);
        return st->fault_status == EVBUS_OK ? EVBUS_DISCONNECTED : st->fault_status;
    }
    if (st->fault[0]) {
        ev_nats_say(text, cap, "%s: %s", s->server->url, st->fault);
        return st->fault_status;
    }
    const natsStatus e = natsConnection_GetLastError(s->nc, &last);
    if (ev_load_acquire(&st->stalled))
        ev_nats_say(text, cap, "%s stalled inside a TLS record", s->server->url);
    else if (e == NATS_TIMEOUT)
        ev_nats_say(text, cap, "%s does not read what we write", s->server->url);
    else if (!last || !last[0] || e == NATS_CONNECTION_CLOSED)
        ev_nats_say(text, cap, "%s closed the connection", s->server->url);
    else
        ev_nats_say(text, cap, "%s: %s", s->server->url, last);
    return e == NATS_CONNECTION_AUTH_FAILED ? EVBUS_AUTH : EVBUS_DISCONNECTED;
}

static void cores_end(struct ev_nats *st)
{
    for (struct ev_nats_core *c = st->cores; c; c = c->next) {
        natsSubscription_Destroy(c->sub);
        c->sub = NULL;
    }
}

static void end_session(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;
    const bool was_up = s->up;
    const int64_t lived = st->now - s->begun;
    char text[EV_NATS_TEXT_MAX], **found = NULL;
    int found_count = 0;

    const evbus_status cause = cause_of(st, text, sizeof text);
    ev_nats_kill(st);
    if (s->tls)
        ev_nats_keeper_watch(st, false);
    ev_nats_notes_for(st, 0);
    (void)natsConnection_GetDiscoveredServers(s->nc, &found, &found_count);
    cores_end(st);
    s->up = false;
    if (was_up)
        ev_nats_consume_down(st);
    ev_nats_lanes_end(st);
    ev_nats_requests_down(st);
    st->session = NULL;
    st->more = st->dropped = false; /* nothing to do until there is another one */
    ev_nats_session_free(s);
    enum ev_nats_ending ending = EV_NATS_ENDED_WELL;
    if (cause == EVBUS_AUTH || cause == EVBUS_DENIED)
        ending = EV_NATS_ENDED_REFUSED;
    else if (!was_up || lived < EV_SEC)
        ending = EV_NATS_ENDED_SOON;
    if (was_up) {
        ev_host_link_down(st->host, cause, text);
    } else {
        ev_host_connect_failed(st->host, cause, text);
    }
    ev_nats_keeper_want(st, ending, was_up, found, found_count);
}

/* ---- The loop's entries ------------------------------------------------------------------------------------------ */

/* Acts on what other threads left: notes, requests, a new session. */
static bool take_posted(struct ev_nats *st)
{
    if (ev_load_acquire(&st->posted) == 0)
        return false;
    (void)ev_swap_acqrel(&st->posted, 0);
    bool any = false;
    if (!st->session) {
        struct ev_nats_session *s = ev_nats_keeper_take(st);
        if (s) {
            begin_session(st, s);
            any = true;
        } else {
            ev_nats_keeper_tell(st);
        }
    }
    any |= ev_nats_notes_turn(st);
    any |= ev_nats_requests_turn(st);
    return any;
}

/* Asking epoll costs as much as reading: only when data was there last time, or when it was not asked for a while. */
static void look(struct ev_nats *st, bool busy)
{
    if (st->ready_events == 0 && (busy || st->now - st->polled >= POLL_EVERY)) {
        ev_nats_poll(st, 0);
        st->polled = st->now;
    }
}

bool ev_nats_turn(void *state, int64_t now)
{
    struct ev_nats *st = state;

    if (st->shut)
        return false;
    st->now = now;
    if (now >= st->graves_due)
        ev_nats_bury_all(st);
    bool any = take_posted(st);
    if (!st->session) {
        (void)ev_nats_keeper_check(st, now);
        return any;
    }
    if (!st->session->dead) {
        any |= ev_nats_write(st, false);
        look(st, st->was_busy);
        const uint32_t events = st->ready_events;
        st->ready_events = 0;
        if (events & EPOLLOUT)
            any |= ev_nats_write(st, true);
        st->was_busy = (events & ~(uint32_t)EPOLLOUT) != 0;
        const bool read = st->was_busy && !st->more && ev_nats_read(st);
        if (read || st->more)
            any |= ev_nats_drain(st) || read;
        if (ev_nats_is_up(st))
            any |= ev_nats_consume_turn(st, now);
        ev_nats_lanes_turn(st);
        heartbeat(st);
    }
    if (st->session->dead || st->dropped) {
        end_session(st);
        any = true;
    }
    return any;
}

int64_t ev_nats_due(void *state)
{
    struct ev_nats *st = state;

    if (st->shut)
        return EV_NEVER;
    if (st->more || st->dropped || ev_load_relaxed(&st->posted) != 0) /* hint: posting wakes */
        return 0;
    if (!st->session)
        return ev_nats_keeper_check(st, st->now);
    if (st->session->dead)
        return 0;
    int64_t due = heartbeat_due(st);
    if (st->graves_due < due)
        due = st->graves_due;
    const int64_t lanes = ev_nats_lanes_due(st);
    if (lanes < due)
        due = lanes;
    if (st->session->up) {
        const int64_t consume = ev_nats_consume_due(st);
        if (consume < due)
            due = consume;
    }
    return due;
}

void ev_nats_wait(void *state, int64_t deadline)
{
    struct ev_nats *st = state;

    (void)ev_nats_write(st, false);
    if (st->session && st->session->dead)
        return;
    if (st->more || st->dropped || st->ready_events != 0 || ev_load_acquire(&st->posted) != 0)
        return;
    const int64_t left = deadline == EV_NEVER ? WAIT_MAX_MS * EV_MS : deadline - ev_clock_now(NULL);
    int ms = 0;
    if (left > 0) /* upwards: waking a moment before the deadline would only turn in vain */
        ms = left >= WAIT_MAX_MS * EV_MS ? WAIT_MAX_MS : (int)((left + EV_MS - 1) / EV_MS);
    ev_nats_poll(st, ms);
    st->polled = st->now = ev_clock_now(NULL);
}

static bool take_last(struct ev_nats *st, void *ctx, natsMsg *msg)
{
    struct ev_nats_session *s = st->session;
    const char *subject = msg ? natsMsg_GetSubject(msg) : "";

    (void)ctx;
    if (strncmp(subject, s->inbox, s->inbox_len) == 0 && strcmp(subject + s->inbox_len, ".z") == 0)
        s->probe_open = 0;
    ev_nats_bury(st, msg); /* nobody hears deliveries any more */
    return true;
}

/* Writes what is buffered and waits for our own message to come back: then the server has processed everything before
 * it, hand-backs and acks included, and closing cannot undo them. */
static void flush_out(struct ev_nats *st)
{
    const int64_t deadline = ev_clock_now(NULL) + SHUT_WRITE_TIME;
    struct ev_nats_session *s = st->session;

    st->now = ev_clock_now(NULL);
    s->probe_open = 0;
    if (s->up) {
        ev_nats_members_shut(st);
        ev_nats_consume_flush(st);
        probe(st, PROBE_LAST);
    }
    while (!s->dead && (s->want_write || s->probe_open != 0)) {
        (void)ev_nats_write(st, s->out_armed);
        const int64_t left = deadline - ev_clock_now(NULL);
        if (s->dead || left <= 0)
            break;
        st->ready_events = 0;
        ev_nats_poll(st, (int)((left + EV_MS - 1) / EV_MS));
        if ((st->ready_events & ~(uint32_t)EPOLLOUT) && ev_nats_read(st)) {
            (void)ev_nats_drain_sub(st, s->inbox_sub, UINT32_MAX, take_last, NULL);
            if (s->up && !s->dead)
                ev_nats_consume_flush(st);
        }
    }
}

void ev_nats_shut(void *state)
{
    struct ev_nats *st = state;

    if (st->shut)
        return;
    st->shut = true;
    ev_nats_keeper_quit(st);
    ev_nats_requests_close(st);
    struct ev_nats_session *s = st->session;
    if (s) {
        if (!s->dead && !st->dropped)
            flush_out(st);
        if (s->up)
            ev_nats_consume_down(st);
        s->up = false;
        if (s->tls)
            ev_nats_keeper_watch(st, false);
        ev_nats_kill(st);
        ev_nats_lanes_end(st);
        cores_end(st);
        ev_nats_requests_close(st);
        st->session = NULL;
        ev_nats_session_free(s);
    }
    ev_nats_bury_all(st);
    ev_nats_keeper_stop(st);    /* not in fini: a handler that hangs may keep that away until the process ends */
    nats_ReleaseThreadMemory(); /* libnats keeps an error stack per thread */
}
