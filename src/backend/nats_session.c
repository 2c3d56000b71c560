/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One TCP connection as the loop sees it.
 *
 * Happy path: the keeper hands a connected session over -> epoll, one subscription on "<inbox>.>", a heartbeat to
 * ourselves; when that comes back the inbox works and the link is up. From then on each turn writes what was appended
 * since the last one, reads once, hands on what was parsed.
 *
 * Its end, whatever the cause (the server closed, a heartbeat unanswered, drop_link, a libnats error, the watchdog's
 * shutdown), is always the same: libnats closes inside a call made by this thread, detach() marks the session dead,
 * and the next look at `dead` takes it down: link_down once, everything freed, the keeper asked for another one.
 * Messages parsed in the very read that closed are lost with their subscription: publishes count as unanswered, and
 * JetStream delivers again.
 *
 * What libnats forces upon us here (eventloop.md has the measurements): EPOLL_CTL_DEL inside read(REMOVE), because the
 * descriptor is closed right after it; ProcessWriteEvent only while a write is wanted, an empty one ends the
 * connection; never natsConnection_Close with bytes in the buffer, it would wait 500 ms for a PONG nobody reads.
 */
#include "backend/nats_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAKE_COOKIE 0u /* session ids start at 1 */

/* ---- libnats's adapter: under its connection mutex; must not call libnats ---------------------------------------- */

/* In the thread that connects. Fills the session only: it reaches the loop through the keeper's mutex. */
static natsStatus adapter_attach(void **user_data, void *loop, natsConnection *nc, natsSock fd)
{
    struct ev_nats_session *s = loop;

    if (ev_nats_keeper_abandoned(s->keeper))
        return NATS_ERR;
    s->nc = nc;
    s->fd = fd;
    *user_data = s;
    return NATS_OK;
}

static natsStatus adapter_read(void *user_data, bool add)
{
    struct ev_nats_session *s = user_data;

    if (add || s->fd < 0)
        return NATS_OK;
    /* The descriptor is closed next and its number used again at once: nobody of us may know it any more. */
    if (s->in_epoll) {
        (void)epoll_ctl(s->st->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
        s->in_epoll = false;
    }
    if (s->st) {
        pthread_mutex_lock(&s->st->fd_mutex);
        s->st->watch_fd = -1;
        pthread_mutex_unlock(&s->st->fd_mutex);
    }
#if NATS_VERSION_NUMBER >= 0x030A00
    s->close_fd = s->fd;
#endif
    s->fd = -1;
    return NATS_OK;
}

static natsStatus adapter_write(void *user_data, bool add)
{
    struct ev_nats_session *s = user_data;

    s->want_write = add; /* only the loop appends, so there is nobody to wake */
    return NATS_OK;
}

static natsStatus adapter_detach(void *user_data)
{
    struct ev_nats_session *s = user_data;

    s->dead = true; /* libnats is still inside the connection: freeing comes later */
    return NATS_OK;
}

natsStatus ev_nats_session_adapt(struct ev_nats_session *session, natsOptions *opts)
{
    return natsOptions_SetEventLoop(opts, session, adapter_attach, adapter_read, adapter_write, adapter_detach);
}

struct ev_nats_session *ev_nats_session_new(struct ev_nats_keeper *keeper, const struct ev_nats_server *server,
                                            bool tls)
{
    static _Atomic(uint64_t) last = 0;
    struct ev_nats_session *s = ev_calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->fd = s->close_fd = -1;
    s->server = ev_calloc(1, sizeof *s->server);
    if (!s->server || !ev_nats_server_copy(s->server, server)) {
        ev_nats_session_free(s);
        return NULL;
    }
    s->keeper = keeper;
    s->tls = tls;
    s->id = ev_add_relaxed(&last, 1) + 1; /* unique is enough */
    return s;
}

/* 3.10 and later leave the descriptor to us. Until it is closed what stands in the socket may go on its way. */
static void close_collected(struct ev_nats_session *s)
{
#if NATS_VERSION_NUMBER >= 0x030A00
    if (s->close_fd >= 0) {
        natsSock fd = s->close_fd;
        s->close_fd = -1;
        natsConnection_ProcessCloseEvent(&fd);
    }
#else
    (void)s;
#endif
}

/* libnats closes with an empty buffer only, or not at all: see the head of this file. */
static void force_close(struct ev_nats_session *s)
{
    if (s->nc && !s->dead) {
        if (s->fd >= 0)
            (void)shutdown(s->fd, SHUT_RDWR);
        if (s->want_write)
            natsConnection_ProcessWriteEvent(s->nc); /* fails: EPIPE, and libnats closes without flushing */
        if (!s->dead)
            natsConnection_Close(s->nc);
    }
    close_collected(s);
}

void ev_nats_session_free(struct ev_nats_session *session)
{
    if (!session)
        return;
    force_close(session);
    natsSubscription_Destroy(session->inbox_sub);
    natsConnection_Destroy(session->nc);
    close_collected(session);
    if (session->server)
        ev_nats_server_fini(session->server);
    ev_free(session->server);
    ev_free(session);
}

/* ---- Bytes through libnats --------------------------------------------------------------------------------------- */

/* The watchdog looks at io_since: a TLS read or write can wait inside libnats without a limit. */
static void io_begin(struct ev_nats *st)
{
    if (st->session->tls)
        ev_store_release(&st->io_since, ev_clock_now(NULL));
}

static void io_end(struct ev_nats *st)
{
    if (st->session->tls)
        ev_store_release(&st->io_since, 0);
}

static uint64_t buffered(const struct ev_nats_session *s)
{
    const int n = natsConnection_Buffered(s->nc);

    return n > 0 ? (uint64_t)n : 0;
}

static void arm(struct ev_nats *st, bool out)
{
    struct ev_nats_session *s = st->session;

    if (s->out_armed == out || !s->in_epoll)
        return;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0u), .data.u64 = s->id};
    if (epoll_ctl(st->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) == 0)
        s->out_armed = out;
}

/* Waits for EPOLLOUT once the socket is full. */
bool ev_nats_write(struct ev_nats *st, bool writable)
{
    struct ev_nats_session *s = st->session;

    if (!s || s->dead || !s->want_write || (s->out_armed && !writable))
        return false;
    const uint64_t before = buffered(s);
    io_begin(st);
    natsConnection_ProcessWriteEvent(s->nc);
    io_end(st);
    if (s->dead)
        return true;
    s->waiting = buffered(s);
    st->gone += before - s->waiting;
    ev_nats_lanes_next(st);
    arm(st, s->want_write);
    return true;
}

bool ev_nats_read(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;

    if (s->dead)
        return false;
    s->received = st->now;
    io_begin(st);
    natsConnection_ProcessReadEvent(s->nc);
    io_end(st);
    return true;
}

/* Ends libnats's connection at once; nothing of what stands in the buffer leaves after this. */
void ev_nats_kill(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;

    io_begin(st);
    force_close(s);
    io_end(st);
    s->want_write = false;
    if (st->gone < st->mark)
        st->gone = st->mark; /* it will never leave, which is what unsent_after asks */
}

/* ---- epoll ------------------------------------------------------------------------------------------------------- */

bool ev_nats_epoll_add(struct ev_nats *st, int fd, uint32_t events, uint64_t cookie)
{
    struct epoll_event ev = {.events = events, .data.u64 = cookie};

    return epoll_ctl(st->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

/* Collects what epoll has; the session's events stay until the next turn acts on them. */
void ev_nats_poll(struct ev_nats *st, int timeout_ms)
{
    struct epoll_event ev[4];
    const int n = epoll_wait(st->epoll_fd, ev, 4, timeout_ms);

    for (int i = 0; i < n; i++) {
        /* The wake-up is edge-triggered and needs no reading. An event of an earlier session cannot be here, since
         * its descriptor was removed before it was closed; the cookie makes sure. */
        if (ev[i].data.u64 != WAKE_COOKIE && st->session && st->session->id == ev[i].data.u64)
            st->ready_events |= ev[i].events;
    }
    if (st->session && (st->ready_events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        st->session->hung_up = true;
}

evbus_status ev_nats_loop_init(struct ev_nats *st)
{
    st->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (st->epoll_fd < 0)
        return ev_fail(EVBUS_SYSTEM, "epoll_create1: %s", strerror(errno));
    st->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (st->wake_fd < 0)
        return ev_fail(EVBUS_SYSTEM, "eventfd: %s", strerror(errno));
    if (!ev_nats_epoll_add(st, st->wake_fd, EPOLLIN | EPOLLET, WAKE_COOKIE))
        return ev_fail(EVBUS_SYSTEM, "epoll_ctl: %s", strerror(errno));
    st->graves_due = EV_NEVER;
    if (natsStatistics_Create(&st->stats) != NATS_OK)
        return ev_fail(EVBUS_NOMEM, "no memory for the session");
    return EVBUS_OK;
}

void ev_nats_loop_fini(struct ev_nats *st)
{
    if (st->session) { /* the loop never got to shut() */
        ev_nats_session_free(st->session);
        st->session = NULL;
    }
    ev_nats_bury_all(st);
    natsStatistics_Destroy(st->stats);
    st->stats = NULL;
    if (st->wake_fd >= 0)
        close(st->wake_fd);
    if (st->epoll_fd >= 0)
        close(st->epoll_fd);
    st->wake_fd = st->epoll_fd = -1;
    ev_free(st->scratch);
    st->scratch = NULL;
}

void ev_nats_wake(void *state)
{
    struct ev_nats *st = state;
    const uint64_t one = 1;

    /* It can only fail when the counter is full, and then the loop was woken 2^64 - 2 times. */
    while (write(st->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

void ev_nats_bury(struct ev_nats *st, natsMsg *msg)
{
    if (!msg)
        return;
    if (st->grave_count == EV_NATS_GRAVES || st->grave_bytes >= EV_NATS_GRAVE_BYTES)
        ev_nats_bury_all(st);
    if (st->grave_count == 0)
        st->graves_due = st->now + EV_NATS_GRAVE_TIME;
    st->grave_bytes += (uint64_t)natsMsg_GetDataLength(msg);
    st->graves[st->grave_count++] = msg;
}

void ev_nats_bury_all(struct ev_nats *st)
{
    for (uint32_t i = 0; i < st->grave_count; i++)
        natsMsg_Destroy(st->graves[i]);
    st->grave_count = 0;
    st->grave_bytes = 0;
    st->graves_due = EV_NEVER;
}

uint32_t ev_nats_drain_sub(struct ev_nats *st, natsSubscription *sub, uint32_t budget, ev_nats_take take, void *ctx)
{
    struct ev_nats_session *s = st->session;
    uint64_t queued = 0;
    uint32_t n = 0;

    /* NextMsg on an empty queue would build an error each time, so ask first. */
    if (!sub || natsSubscription_QueuedMsgs(sub, &queued) != NATS_OK)
        return 0;
    for (bool more = true; more && n < queued && n < budget && !s->dead; n++) {
        natsMsg *msg = NULL;
        const natsStatus e = natsSubscription_NextMsg(&msg, sub, 0);
        if (e != NATS_OK && e != NATS_NO_RESPONDERS)
            break;
        more = take(st, ctx, msg);
    }
    s->drained += n;
    return n;
}

/* A message on "<inbox>.>" and what the subscription gets besides. */
static bool take_inbox(struct ev_nats *st, void *ctx, natsMsg *msg)
{
    struct ev_nats_session *s = st->session;
    const char *subject = msg ? natsMsg_GetSubject(msg) : "";

    (void)ctx;
    if (!msg) {
        ev_nats_consume_no_responders(st, NULL); /* nobody else asks on this subscription */
        return true;
    }
    if (strncmp(subject, s->inbox, s->inbox_len) != 0 || subject[s->inbox_len] != '.') {
        const char *reply = natsMsg_GetReply(msg);
        if (reply && strncmp(reply, "$JS.ACK.", 8) == 0) {
            ev_nats_consume_delivery(st, msg);
            return true;
        }
    } else {
        const char *rest = subject + s->inbox_len + 1;
        if (strcmp(rest, "h") == 0)
            ev_nats_probe_back(st, msg);
        else if (strncmp(rest, "m.", 2) == 0)
            ev_nats_lanes_fenced(st, rest + 2);
        else if (strncmp(rest, "c.", 2) == 0)
            ev_nats_consume_status(st, msg, rest + 2);
    }
    ev_nats_bury(st, msg);
    return true;
}

static bool take_core(struct ev_nats *st, void *ctx, natsMsg *msg)
{
    struct ev_nats_core *core = ctx;
    const natsSubscription *sub = core->sub;

    if (msg)
        ev_nats_consume_core(st, core, msg);
    else
        ev_nats_consume_no_responders(st, core);
    return core->listed && core->sub == sub; /* it may have been closed or moved just now */
}

/* How many messages libnats has parsed: tells when all were taken out, without asking every subscription. */
static void count_parsed(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;
    uint64_t in = 0;

    if (natsConnection_GetStats(s->nc, st->stats) == NATS_OK &&
        natsStatistics_GetCounts(st->stats, &in, NULL, NULL, NULL, NULL) == NATS_OK)
        s->counted = in;
}

static uint32_t drain_cores(struct ev_nats *st, uint32_t budget)
{
    const struct ev_nats_session *s = st->session;
    uint32_t n = 0;

    for (struct ev_nats_core *c = st->cores; c && n < budget && !s->dead && s->drained < s->counted;
         c = st->core_next) {
        st->core_next = c->next;
        n += ev_nats_drain_sub(st, c->sub, budget - n, take_core, c);
    }
    st->core_next = NULL;
    return n;
}

bool ev_nats_drain(struct ev_nats *st)
{
    struct ev_nats_session *s = st->session;
    uint32_t n = 0;

    count_parsed(st);
    if (s->drained < s->counted)
        n += ev_nats_drain_sub(st, s->inbox_sub, EV_NATS_TURN_MSGS, take_inbox, NULL);
    if (n < EV_NATS_TURN_MSGS && !s->dead)
        n += ev_nats_lanes_drain(st, EV_NATS_TURN_MSGS - n);
    if (n < EV_NATS_TURN_MSGS && !s->dead)
        n += ev_nats_requests_drain(st, EV_NATS_TURN_MSGS - n);
    if (n < EV_NATS_TURN_MSGS && !s->dead)
        n += drain_cores(st, EV_NATS_TURN_MSGS - n);
    if (n == 0)
        s->drained = s->counted; /* the rest was for a subscription that is gone */
    st->more = !s->dead && s->drained < s->counted;
    return n > 0;
}

/* ---- Sending, for everybody but the records ---------------------------------------------------------------------- */

bool ev_nats_append(struct ev_nats *st, const char *subject, const char *reply, const void *data, size_t len)
{
    struct ev_nats_session *s = st->session;
    natsStatus e;

    if (!s || s->dead || len > INT32_MAX)
        return false;
    if (reply)
        e = natsConnection_PublishRequest(s->nc, subject, reply, data, (int)len);
    else
        e = natsConnection_Publish(s->nc, subject, data, (int)len);
    if (e == NATS_OK)
        return true;
    if (e == NATS_MAX_PAYLOAD || e == NATS_INVALID_SUBJECT) {
        ev_log(st->log, EVBUS_LOG_ERROR, "nats", "cannot send to '%s': %s", subject, natsStatus_GetText(e));
        return false;
    }
    if (e != NATS_CONNECTION_CLOSED) /* half a command may stand in the buffer: nothing may follow it */
        ev_nats_drop(st, natsStatus_GetText(e));
    return false;
}

bool ev_nats_publish(struct ev_nats *st, const char *subject, const char *reply, const void *data, size_t len)
{
    return ev_nats_is_up(st) && ev_nats_append(st, subject, reply, data, len);
}

const char *ev_nats_inbox(const struct ev_nats *st)
{
    return st->session ? st->session->inbox : "";
}

/* ---- Core-NATS subscriptions ------------------------------------------------------------------------------------- */

void ev_nats_core_start(struct ev_nats *st, struct ev_nats_core *core)
{
    struct ev_nats_session *s = st->session;
    natsStatus e;

    if (!s || s->dead || core->sub)
        return;
    if (core->queue[0])
        e = natsConnection_QueueSubscribeSync(&core->sub, s->nc, core->subject, core->queue);
    else
        e = natsConnection_SubscribeSync(&core->sub, s->nc, core->subject);
    if (e == NATS_OK)
        (void)natsSubscription_SetPendingLimits(core->sub, -1, -1);
    else if (!s->dead)
        ev_nats_drop(st, "cannot subscribe"); /* no memory; the next session tries again */
}

static void core_stop(struct ev_nats *st, struct ev_nats_core *core)
{
    natsSubscription *sub = core->sub;

    core->sub = NULL;
    if (sub && st->session && !st->session->dead)
        (void)natsSubscription_Unsubscribe(sub);
    natsSubscription_Destroy(sub);
}

void ev_nats_core_open(struct ev_nats *st, struct ev_nats_core *core)
{
    if (core->listed)
        return;
    core->listed = true;
    core->sub = NULL;
    core->next = st->cores;
    st->cores = core;
    ev_nats_core_start(st, core);
}

void ev_nats_core_close(struct ev_nats *st, struct ev_nats_core *core)
{
    if (!core->listed)
        return;
    if (st->core_next == core)
        st->core_next = core->next;
    for (struct ev_nats_core **link = &st->cores; *link; link = &(*link)->next) {
        if (*link == core) {
            *link = core->next;
            break;
        }
    }
    core->listed = false;
    core_stop(st, core);
}

void ev_nats_core_move(struct ev_nats *st, struct ev_nats_core *to, struct ev_nats_core *from)
{
    *to = *from; /* in the list too, in the same place */
    for (struct ev_nats_core **link = &st->cores; *link; link = &(*link)->next) {
        if (*link == from) {
            *link = to;
            break;
        }
    }
    if (st->core_next == from)
        st->core_next = to;
    from->sub = NULL;
    from->next = NULL;
    from->listed = false;
}
