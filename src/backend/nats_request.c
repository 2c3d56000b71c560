/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request and its reply, for threads that may wait: administration, binding.
 *
 * There is no second connection for this. The asking thread puts its request on a list and sleeps; the loop sends it
 * with a reply subject in the inbox and wakes the sleeper when the reply comes. So nobody waits on the I/O thread, and
 * a request shares the life of the link: not sent before it is up, answered or failed when it goes down.
 *
 * Each request has a subscription of its own while it is under way, because libnats does not say what a 503 was about
 * (nats_internal.h); they are rare. That is the flight, the loop's side of a request.
 *
 * A request is counted by the asker, the list and the flight: the asker may give up at any time.
 */
#include "backend/nats_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define HOPELESS "reconnecting was given up (reconnect_attempts_max; evbus_reconnect tries again)"

enum request_state { WAITING, SENT, DONE };

struct ev_nats_request {
    struct ev_nats_request *next;
    enum request_state state; /* all of it guarded by request_mutex, but what is immutable */
    uint32_t refs;
    uint64_t id;          /* immutable */
    char *subject, *body; /* immutable; subject "": to ourselves */
    size_t len;           /* immutable */
    evbus_status status;
    char text[EV_NATS_TEXT_MAX];
    struct ev_nats_reply reply;
    pthread_cond_t done;
};

static void unref(struct ev_nats_request *r) /* under request_mutex, or before anybody else knows it */
{
    if (--r->refs > 0)
        return;
    pthread_cond_destroy(&r->done);
    ev_nats_reply_fini(&r->reply);
    ev_free(r->subject);
    ev_free(r->body);
    ev_free(r);
}

static struct ev_nats_request *new_request(const char *subject, const void *body, size_t len)
{
    struct ev_nats_request *r = ev_calloc(1, sizeof *r);
    pthread_condattr_t attr;

    if (!r)
        return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->done, &attr);
    pthread_condattr_destroy(&attr);
    r->refs = 1;
    r->subject = ev_strdup(subject);
    r->body = ev_strndup(body ? body : "", body ? len : 0);
    r->len = body ? len : 0;
    if (!r->subject || !r->body) {
        unref(r);
        return NULL;
    }
    return r;
}

/* Takes it off the list, if it is there. Under request_mutex. */
static void unlist(struct ev_nats *st, struct ev_nats_request *r)
{
    for (struct ev_nats_request **link = &st->requests; *link; link = &(*link)->next) {
        if (*link == r) {
            *link = r->next;
            unref(r);
            return;
        }
    }
}

/* Under request_mutex; `r` may be gone afterwards. */
static void finish(struct ev_nats *st, struct ev_nats_request *r, evbus_status status, const char *text)
{
    r->state = DONE;
    r->status = status;
    (void)ev_copy(r->text, sizeof r->text, text);
    pthread_cond_signal(&r->done);
    unlist(st, r);
}

static evbus_status submit(struct ev_nats *st, struct ev_nats_request *r)
{
    struct ev_nats_request **end = &st->requests;

    pthread_mutex_lock(&st->request_mutex);
    const bool closed = st->requests_closed, hopeless = st->requests_hopeless;
    if (closed || hopeless) {
        pthread_mutex_unlock(&st->request_mutex);
        return closed ? ev_fail(EVBUS_CLOSED, "the bus is shutting down") : ev_fail(EVBUS_DISCONNECTED, HOPELESS);
    }
    r->id = ++st->request_last;
    while (*end)
        end = &(*end)->next;
    *end = r;
    r->refs++;
    pthread_mutex_unlock(&st->request_mutex);
    ev_add_acqrel(&st->posted, 1);
    ev_nats_wake(st);
    return EVBUS_OK;
}

static struct timespec to_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / EV_SEC, .tv_nsec = ns % EV_SEC};
}

static evbus_status await(struct ev_nats *st, struct ev_nats_request *r, int64_t deadline, struct ev_nats_reply *ret)
{
    const struct timespec until = to_timespec(deadline == EV_NEVER ? ev_clock_now(NULL) + 86400 * EV_SEC : deadline);
    evbus_status status;

    pthread_mutex_lock(&st->request_mutex);
    while (r->state != DONE && ev_clock_now(NULL) < deadline)
        (void)pthread_cond_timedwait(&r->done, &st->request_mutex, &until);
    if (r->state == DONE && r->status == EVBUS_OK) {
        *ret = r->reply;
        r->reply = (struct ev_nats_reply){0};
        status = EVBUS_OK;
    } else if (r->state == DONE) {
        status = ev_fail(r->status, "%s", r->text);
    } else if (r->state == SENT) {
        status = ev_fail(EVBUS_TIMEOUT, "no reply on '%s' within the time allowed",
                         r->subject[0] ? r->subject : "our own inbox");
    } else {
        status = ev_fail(EVBUS_DISCONNECTED, "no connection within the time allowed");
    }
    const bool flying = r->state == SENT;
    r->state = DONE;
    unlist(st, r);
    unref(r);
    pthread_mutex_unlock(&st->request_mutex);
    if (flying) { /* the loop takes the subscription down */
        ev_add_acqrel(&st->posted, 1);
        ev_nats_wake(st);
    }
    return status;
}

evbus_status ev_nats_request(struct ev_nats *st, const char *subject, const void *body, size_t len, int64_t deadline,
                             struct ev_nats_reply *ret)
{
    struct ev_nats_request *r = new_request(subject, body, len);

    if (!r)
        return ev_fail(EVBUS_NOMEM, "no memory for a request");
    const evbus_status status = submit(st, r);
    if (status != EVBUS_OK) {
        unref(r);
        return status;
    }
    return await(st, r, deadline, ret);
}

evbus_status ev_nats_api(struct ev_nats *st, struct ev_nats_reply *ret, int64_t deadline, const char *body,
                         const char *verb, ...)
{
    char subject[3 * EV_NAME_MAX + 64];
    const int at = snprintf(subject, sizeof subject, "%s.", st->cfg.api);
    va_list args;

    if (at < 0 || (size_t)at >= sizeof subject)
        return ev_fail(EVBUS_INVALID, "the JetStream API prefix is too long");
    va_start(args, verb);
    const int n = vsnprintf(subject + at, sizeof subject - (size_t)at, verb, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof subject - (size_t)at)
        return ev_fail(EVBUS_INVALID, "the subject of a JetStream request is too long: '%.200s'", subject);
    return ev_nats_request(st, subject, body, body ? strlen(body) : 0, deadline, ret);
}

/* A message to ourselves comes back when the server has worked off what we sent before it. */
evbus_status ev_nats_fence(void *state, int64_t deadline)
{
    struct ev_nats_reply reply;
    const evbus_status status = ev_nats_request(state, "", NULL, 0, deadline, &reply);

    if (status == EVBUS_OK)
        ev_nats_reply_fini(&reply);
    return status;
}

void ev_nats_reply_fini(struct ev_nats_reply *reply)
{
    ev_free(reply->data);
    reply->data = NULL;
    reply->len = 0;
}

/* ---- The loop's side --------------------------------------------------------------------------------------------- */

struct ev_nats_flight {
    struct ev_nats_flight *next;
    struct ev_nats_request *request;
    natsSubscription *sub;
};

static struct ev_nats_request *next_waiting(struct ev_nats *st)
{
    struct ev_nats_request *r;

    pthread_mutex_lock(&st->request_mutex);
    for (r = st->requests; r && r->state != WAITING; r = r->next)
        ;
    if (r) {
        r->state = SENT;
        r->refs++;
    }
    pthread_mutex_unlock(&st->request_mutex);
    return r;
}

/* `f` is off the list. The subscription goes first, or libnats would hand us what nobody waits for. */
static void land(struct ev_nats *st, struct ev_nats_flight *f)
{
    if (f->sub && st->session && !st->session->dead)
        (void)natsSubscription_Unsubscribe(f->sub);
    natsSubscription_Destroy(f->sub);
    pthread_mutex_lock(&st->request_mutex);
    unref(f->request);
    pthread_mutex_unlock(&st->request_mutex);
    ev_free(f);
}

/* True: it is under way. */
static bool launch(struct ev_nats *st, struct ev_nats_flight *f)
{
    char reply[EV_NATS_REPLY_MAX];

    (void)snprintf(reply, sizeof reply, "%s_r%" PRIu64, ev_nats_inbox(st), f->request->id);
    if (natsConnection_SubscribeSync(&f->sub, st->session->nc, reply) != NATS_OK)
        return false;
    if (!f->request->subject[0])
        return ev_nats_publish(st, reply, NULL, NULL, 0);
    return ev_nats_publish(st, f->request->subject, reply, f->request->body, f->request->len);
}

static void send_one(struct ev_nats *st, struct ev_nats_request *r)
{
    struct ev_nats_flight *f = ev_calloc(1, sizeof *f);

    if (f)
        f->request = r;
    if (f && launch(st, f)) {
        f->next = st->flights;
        st->flights = f;
        return;
    }
    pthread_mutex_lock(&st->request_mutex);
    if (r->state == SENT && !f)
        finish(st, r, EVBUS_NOMEM, "no memory for a request");
    else if (r->state == SENT && ev_nats_is_up(st))
        finish(st, r, EVBUS_TOO_LARGE, "the request is larger than the server's max_payload");
    else if (r->state == SENT)
        r->state = WAITING; /* the link broke under it: the next one takes it */
    if (!f)
        unref(r);
    pthread_mutex_unlock(&st->request_mutex);
    if (f)
        land(st, f);
}

/* Flights whose asker has its answer, or does not wait any more. */
static void land_done(struct ev_nats *st)
{
    struct ev_nats_flight **link = &st->flights;

    while (*link) {
        struct ev_nats_flight *f = *link;
        pthread_mutex_lock(&st->request_mutex);
        const bool done = f->request->state == DONE;
        pthread_mutex_unlock(&st->request_mutex);
        if (done) {
            *link = f->next;
            land(st, f);
        } else {
            link = &f->next;
        }
    }
}

bool ev_nats_requests_turn(struct ev_nats *st)
{
    struct ev_nats_request *r;
    bool any = false;

    land_done(st);
    while (ev_nats_is_up(st) && (r = next_waiting(st)) != NULL) {
        send_one(st, r);
        any = true;
    }
    return any;
}

static bool take(struct ev_nats *st, void *ctx, natsMsg *msg)
{
    struct ev_nats_request *r = ((struct ev_nats_flight *)ctx)->request;
    const int len = msg ? natsMsg_GetDataLength(msg) : 0;
    char *data = msg ? ev_strndup(natsMsg_GetData(msg), (size_t)len) : NULL;

    pthread_mutex_lock(&st->request_mutex);
    if (r->state != SENT) {
        ev_free(data);
    } else if (!msg) {
        finish(st, r, EVBUS_NO_JETSTREAM,
               "JetStream does not answer (no responders): it is off, not for this account, or has no leader now");
    } else if (!data) {
        finish(st, r, EVBUS_NOMEM, "no memory for a reply");
    } else {
        r->reply.data = data;
        r->reply.len = (size_t)len;
        finish(st, r, EVBUS_OK, "");
    }
    pthread_mutex_unlock(&st->request_mutex);
    ev_nats_bury(st, msg);
    return false; /* one request, one reply */
}

uint32_t ev_nats_requests_drain(struct ev_nats *st, uint32_t budget)
{
    const struct ev_nats_session *s = st->session;
    uint32_t n = 0;

    for (struct ev_nats_flight *f = st->flights; f && n < budget && !s->dead && s->drained < s->counted; f = f->next)
        n += ev_nats_drain_sub(st, f->sub, budget - n, take, f);
    if (n > 0)
        land_done(st);
    return n;
}

static void land_all(struct ev_nats *st)
{
    while (st->flights) {
        struct ev_nats_flight *f = st->flights;
        st->flights = f->next;
        land(st, f);
    }
}

bool ev_nats_requests_denied(struct ev_nats *st, const char *subject, const char *text)
{
    bool any = false;

    pthread_mutex_lock(&st->request_mutex);
    for (struct ev_nats_request *r = st->requests, *next; r; r = next) {
        next = r->next;
        if (r->state == SENT && strcmp(r->subject, subject) == 0) {
            finish(st, r, EVBUS_DENIED, text);
            any = true;
        }
    }
    pthread_mutex_unlock(&st->request_mutex);
    return any;
}

static void fail_all(struct ev_nats *st, bool close, evbus_status status, const char *text)
{
    pthread_mutex_lock(&st->request_mutex);
    st->requests_closed |= close;
    for (struct ev_nats_request *r = st->requests, *next; r; r = next) {
        next = r->next;
        if (close || r->state == SENT)
            finish(st, r, status, text);
    }
    pthread_mutex_unlock(&st->request_mutex);
}

void ev_nats_requests_down(struct ev_nats *st)
{
    land_all(st);
    fail_all(st, false, EVBUS_DISCONNECTED, "the connection broke before the reply came");
}

void ev_nats_requests_hope(struct ev_nats *st, bool hope)
{
    pthread_mutex_lock(&st->request_mutex);
    st->requests_hopeless = !hope;
    for (struct ev_nats_request *r = st->requests, *next; r && !hope; r = next) {
        next = r->next;
        finish(st, r, EVBUS_DISCONNECTED, HOPELESS);
    }
    pthread_mutex_unlock(&st->request_mutex);
}

bool ev_nats_requests_have_hope(struct ev_nats *st)
{
    pthread_mutex_lock(&st->request_mutex);
    const bool hope = !st->requests_hopeless;
    pthread_mutex_unlock(&st->request_mutex);
    return hope;
}

void ev_nats_requests_close(struct ev_nats *st)
{
    land_all(st);
    fail_all(st, true, EVBUS_CLOSED, "the bus is shutting down");
}
