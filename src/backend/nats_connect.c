/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper thread: makes the next session, and watches over the loop while a TLS session is up.
 *
 * One attempt is one server with fresh credentials. After every server was tried once it pauses: backoff with jitter,
 * longer when credentials were refused. It gives up only after reconnect_attempts_max such rounds between two sessions,
 * until ops->reconnect; the core decides what that means.
 *
 * libnats's TLS handshake has no timeout: a server that takes the connection and then says nothing hangs
 * natsConnection_Connect for ever. The loop notices, marks the keeper abandoned and starts another one. The abandoned
 * thread owns what it was making and touches nothing of the bus when it comes back: that is why the keeper is an
 * object of its own, counted by its thread and by the bus.
 *
 * Once connected, a TLS read or write can wait inside libnats without limit. The keeper then shuts the socket down,
 * which needs no lock of libnats: the call fails, and the session ends as after any disconnect.
 */
#include "backend/nats_internal.h"
#include "backend/nats_nkey.h"
#include "backend/nats_servers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define IO_BUFFER (128 * 1024) /* one read is one turn: larger ones spare turns, and wakes of workers, under load */
#define WRITE_DEADLINE_MS 2000
#define STUCK_GRACE (2 * EV_SEC) /* beyond connect_timeout_ms */
#define STOP_GRACE (500 * EV_MS) /* how long stop waits for an attempt to end by itself */
#define CHECK_EVERY EV_SEC       /* the loop looks at an attempt this often */
#define WATCH_EVERY (250 * EV_MS)
#define IO_MAX (2 * EV_SEC) /* the loop inside one libnats call */

struct ev_nats_keeper {
    struct ev_nats *st; /* immutable; valid while not abandoned */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* guarded by mutex */
    uint32_t refs;
    bool quit, wanted, watching, abandoned;
    bool again;         /* ops->reconnect: not taken up yet */
    bool over;          /* it gave up: not told yet */
    int64_t connecting; /* since when the thread is inside natsConnection_Connect; 0: it is not */
    char connecting_to[EV_NATS_TEXT_MAX];
    enum ev_nats_ending ending;
    struct ev_nats_session *ready;
    char **found;
    int found_count;
    /* the thread's, unless abandoned */
    struct ev_nats_plan *plan;
};

static _Atomic(uint32_t) stuck = 0; /* abandoned threads of this process that still hang */

/* libnats's text without its "(file.c:123): ". */
static const char *said_by_libnats(natsStatus e)
{
    const char *said = nats_GetLastError(NULL);

    if (!said || !said[0])
        return natsStatus_GetText(e);
    const char *end = said[0] == '(' ? strstr(said, "): ") : NULL;
    return end ? end + 3 : said;
}

/* ---- Options of one attempt -------------------------------------------------------------------------------------- */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        natsStatus e_ = (call);                                                                                        \
        if (e_ != NATS_OK)                                                                                             \
            return e_;                                                                                                 \
    } while (0)

static natsStatus set_basics(natsOptions *o, const struct ev_nats_config *cfg, const struct ev_nats_server *server)
{
    TRY(natsOptions_SetURL(o, server->url));
    TRY(natsOptions_SetAllowReconnect(o, false));
    TRY(natsOptions_SetPingInterval(o, 0)); /* its timer thread would close the socket under our read */
    TRY(natsOptions_SetSendAsap(o, true));  /* else a flusher thread is started for nothing */
    TRY(natsOptions_SetIOBufSize(o, IO_BUFFER));
    TRY(natsOptions_SetTimeout(o, cfg->connect_timeout_ms));
    if (cfg->name)
        TRY(natsOptions_SetName(o, cfg->name));
    return NATS_OK;
}

/* When the server wants TLS and we did not ask for it, libnats would use it without telling us, and the watchdog would
 * not know. So that handshake must fail: no certificate carries this name. attempt() then tries again with TLS. */
#define NO_HOST "tls-was-not-asked-for.invalid"

static natsStatus set_tls(natsOptions *o, const struct ev_nats_config *cfg, const struct ev_nats_server *server)
{
    if (!cfg->tls && !server->tls)
        return natsOptions_SetExpectedHostname(o, NO_HOST);
    TRY(natsOptions_SetSecure(o, true));
    TRY(natsOptions_SetWriteDeadline(
        o, WRITE_DEADLINE_MS)); /* plain sockets never wait; it reads the clock for each message */
    if (cfg->tls_ca_file)
        TRY(natsOptions_LoadCATrustedCertificates(o, cfg->tls_ca_file));
    if (cfg->tls_cert_file)
        TRY(natsOptions_LoadCertificatesChain(o, cfg->tls_cert_file, cfg->tls_key_file));
    TRY(natsOptions_SetExpectedHostname(o, cfg->tls_hostname ? cfg->tls_hostname : server->host));
    return NATS_OK;
}

static natsStatus set_login(natsOptions *o, const char *user, const char *password, const char *token)
{
    if (user && user[0])
        TRY(natsOptions_SetUserInfo(o, user, password ? password : ""));
    if (token && token[0])
        TRY(natsOptions_SetToken(o, token));
    return NATS_OK;
}

/* Secrets are read anew for every attempt: what was rotated is taken up. */
static evbus_status set_credentials(natsOptions *o, const struct ev_nats_config *cfg,
                                    const struct ev_nats_server *server, bool ask)
{
    char key[EV_NKEY_PUBLIC_MAX];
    natsStatus e = NATS_OK;

    if (cfg->credentials && ask) {
        evbus_credentials c = {.struct_size = sizeof c};
        const evbus_status status = cfg->credentials(&c, cfg->credentials_ctx);
        if (status == EVBUS_OK) {
            c.user[sizeof c.user - 1] = c.password[sizeof c.password - 1] = c.token[sizeof c.token - 1] = 0;
            e = set_login(o, c.user, c.password, c.token);
        }
        explicit_bzero(&c, sizeof c);
        if (status != EVBUS_OK)
            return ev_fail(status, "the credentials callback failed (%s)", evbus_status_name(status));
    } else if (cfg->creds_file) {
        e = natsOptions_SetUserCredentialsFromFiles(o, cfg->creds_file, NULL);
    } else if (cfg->nkey_seed_file) {
        const evbus_status status = ev_nkey_public_of_file(cfg->nkey_seed_file, key);
        if (status != EVBUS_OK)
            return status;
        e = natsOptions_SetNKeyFromSeed(o, key, cfg->nkey_seed_file);
    } else if (server->user || server->token) {
        e = set_login(o, server->user, server->password, server->token);
    } else {
        e = set_login(o, cfg->user, cfg->password, cfg->token);
    }
    return e == NATS_OK ? EVBUS_OK : ev_fail(ev_nats_status(e), "credentials: %s", said_by_libnats(e));
}

static evbus_status make_options(const struct ev_nats_config *cfg, const struct ev_nats_server *server, bool ask,
                                 natsOptions **ret)
{
    natsOptions *o = NULL;

    if (natsOptions_Create(&o) != NATS_OK)
        return ev_fail(EVBUS_NOMEM, "no memory for a connection");
    natsStatus e = set_basics(o, cfg, server);
    evbus_status status = EVBUS_OK;
    if (e != NATS_OK) {
        status = ev_fail(ev_nats_status(e), "%s: %s", server->url, said_by_libnats(e));
    } else if ((e = set_tls(o, cfg, server)) != NATS_OK) {
        status = ev_fail(EVBUS_TLS, "%s: %s (tls_ca_file '%s', tls_cert_file '%s')", server->url, said_by_libnats(e),
                         cfg->tls_ca_file ? cfg->tls_ca_file : "", cfg->tls_cert_file ? cfg->tls_cert_file : "");
    } else {
        status = set_credentials(o, cfg, server, ask);
    }
    if (status != EVBUS_OK) {
        natsOptions_Destroy(o);
        return status;
    }
    *ret = o;
    return EVBUS_OK;
}

evbus_status ev_nats_options_check(struct ev_nats *st, const struct ev_nats_server *server)
{
    natsOptions *o = NULL;
    const evbus_status status = make_options(&st->cfg, server, false, &o);

    if (status == EVBUS_OK)
        natsOptions_Destroy(o);
    return status;
}

/* ---- One attempt ------------------------------------------------------------------------------------------------- */

/* What a failed natsConnection_Connect means, and what can be done about it. */
static evbus_status failure(bool tls, const char *url, natsStatus e, char *text, size_t cap)
{
    const char *said = said_by_libnats(e);

    /* With TLS 1.3 a server refuses a missing client certificate only after the handshake, by closing. */
    if (tls && (e == NATS_PROTOCOL_ERROR || e == NATS_CONNECTION_CLOSED || e == NATS_IO_ERROR)) {
        ev_nats_say(text, cap,
                    "%s: closed right after the TLS handshake (%.120s): does the server want a client "
                    "certificate (tls_cert_file, tls_key_file)?",
                    url, said);
        return EVBUS_TLS;
    }
    switch (e) {
    case NATS_CONNECTION_AUTH_FAILED:
        ev_nats_say(text, cap,
                    "%s: the credentials were refused (%.120s): check user, password, token, nkey or creds "
                    "file",
                    url, said);
        return EVBUS_AUTH;
    case NATS_SECURE_CONNECTION_REQUIRED:
        ev_nats_say(text, cap, "%s: the server wants TLS: use tls:// or set tls_ca_file", url);
        return EVBUS_TLS;
    case NATS_SECURE_CONNECTION_WANTED:
        ev_nats_say(text, cap, "%s: the server does not offer TLS, but tls:// or a tls_* option asks for it", url);
        return EVBUS_TLS;
    case NATS_SSL_ERROR:
        ev_nats_say(text, cap, "%s: TLS: %.180s", url, said);
        return EVBUS_TLS;
    case NATS_NO_SERVER:
        ev_nats_say(text, cap, "%s: no server answers there (%.120s)", url, said);
        return EVBUS_DISCONNECTED;
    default:
        ev_nats_say(text, cap, "%s: %.180s", url, said);
        return ev_nats_status(e);
    }
}

/* Loud once per outage; the core counts them all. */
static void report(struct ev_nats *st, evbus_status status, const char *text, bool loud)
{
    ev_log(st->log, loud ? EVBUS_LOG_WARN : EVBUS_LOG_DEBUG, "nats", "cannot connect: %s", text);
    if (status == EVBUS_AUTH)
        ev_host_event(st->host, EVBUS_EVENT_AUTH_FAILED, status, NULL, text);
    ev_host_connect_failed(st->host, status, text);
}

static void unref(struct ev_nats_keeper *k)
{
    pthread_mutex_lock(&k->mutex);
    const bool last = --k->refs == 0;
    pthread_mutex_unlock(&k->mutex);
    if (!last)
        return;
    pthread_cond_destroy(&k->changed);
    pthread_mutex_destroy(&k->mutex);
    ev_free(k);
}

/* The only stretch in which a keeper may be abandoned. False: it was; `session` is gone and the bus may be, too. */
static bool connect_session(struct ev_nats_keeper *k, struct ev_nats_session *session, natsOptions *opts,
                            natsStatus *ret)
{
    natsConnection *nc = NULL;

    pthread_mutex_lock(&k->mutex);
    const bool quit = k->quit; /* who stops us waits for the thread unless it is marked as connecting */
    k->connecting = quit ? 0 : ev_clock_now(NULL);
    (void)ev_copy(k->connecting_to, sizeof k->connecting_to, session->server->url);
    pthread_mutex_unlock(&k->mutex);

    *ret = quit ? NATS_CONNECTION_CLOSED : natsConnection_Connect(&nc, opts);
    session->nc = *ret == NATS_OK ? nc : NULL; /* attach() may have set one that is gone again */

    pthread_mutex_lock(&k->mutex);
    k->connecting = 0;
    const bool abandoned = k->abandoned;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->mutex);
    if (!abandoned)
        return true;
    ev_nats_session_free(session);
    ev_sub_relaxed(&stuck, 1);
    return false;
}

static void hand_over(struct ev_nats_keeper *k, struct ev_nats_session *session)
{
    char **found = NULL;
    int count = 0;

    if (natsConnection_GetDiscoveredServers(session->nc, &found, &count) == NATS_OK)
        ev_nats_plan_merge(k->plan, found, count, session->server);
    pthread_mutex_lock(&k->mutex);
    k->wanted = k->again = false;
    k->ready = session;
    pthread_mutex_unlock(&k->mutex);
    ev_add_acqrel(&k->st->posted, 1);
    ev_nats_wake(k->st);
}

/* That it gave up (EV_NEVER) is the loop's to tell, which also takes it back (ops->reconnect). */
static void tell_next(struct ev_nats *st, bool failed, int64_t next)
{
    if (next == EV_NEVER)
        ev_nats_requests_hope(st, false);
    ev_host_next_attempt(st->host, failed, next);
}

static void attempt_failed(struct ev_nats_keeper *k, evbus_status status, const char *text)
{
    struct ev_nats_plan *p = k->plan;
    const bool round = ev_nats_plan_failed(p, &k->st->cfg, status == EVBUS_AUTH);

    pthread_mutex_lock(&k->mutex);
    const bool quit = k->quit;
    pthread_mutex_unlock(&k->mutex);
    if (quit) /* a bus that ends hears nothing any more */
        return;
    report(k->st, status, text, p->rounds + p->refused_rounds <= 1);
    if (!round)
        return;
    pthread_mutex_lock(&k->mutex);
    const bool over = !k->again && ev_nats_plan_spent(p, &k->st->cfg);
    if (over) {
        k->wanted = false;
        k->over = true;
    }
    pthread_mutex_unlock(&k->mutex);
    if (over) {
        ev_add_acqrel(&k->st->posted, 1);
        ev_nats_wake(k->st);
    } else {
        tell_next(k->st, true, p->not_before);
    }
}

/* One server, once. False: the keeper was abandoned meanwhile. */
static bool attempt(struct ev_nats_keeper *k)
{
    struct ev_nats *st = k->st;
    struct ev_nats_plan *p = k->plan;
    if (!p->begun)
        ev_host_connecting(st->host);
    p->begun = true;
    struct ev_nats_server *server = &p->servers[p->next];
    const bool tls = st->cfg.tls || server->tls;
    char text[EV_NATS_TEXT_MAX];
    natsOptions *opts = NULL;
    natsStatus e = NATS_OK;

    evbus_status status = make_options(&st->cfg, server, true, &opts);
    if (status != EVBUS_OK) {
        (void)ev_copy(text, sizeof text, ev_detail());
        attempt_failed(k, status, text);
        return true;
    }
    struct ev_nats_session *session = ev_nats_session_new(k, server, tls);
    if (session)
        e = ev_nats_session_adapt(session, opts);
    if (session && e == NATS_OK)
        e = ev_nats_callbacks(opts, session->id);
    if (session && e == NATS_OK && !connect_session(k, session, opts, &e)) {
        natsOptions_Destroy(opts);
        return false;
    }
    if (session && e == NATS_OK) {
        hand_over(k, session);
    } else if (session && ((e == NATS_SSL_ERROR && !tls) || (e == NATS_SECURE_CONNECTION_WANTED && server->tls))) {
        server->tls = !tls; /* it wants TLS, or no longer: no failure, the next attempt at it does that */
        ev_nats_session_free(session);
    } else {
        status = session ? failure(tls, server->url, e, text, sizeof text) : EVBUS_NOMEM;
        if (!session)
            (void)ev_copy(text, sizeof text, "no memory for a session");
        ev_nats_session_free(session);
        attempt_failed(k, status, text);
    }
    natsOptions_Destroy(opts);
    return true;
}

/* ---- The thread -------------------------------------------------------------------------------------------------- */

static void wait_until(struct ev_nats_keeper *k, int64_t until) /* under mutex */
{
    const struct timespec ts = {.tv_sec = until / EV_SEC, .tv_nsec = until % EV_SEC};

    if (until == EV_NEVER)
        (void)pthread_cond_wait(&k->changed, &k->mutex);
    else
        (void)pthread_cond_timedwait(&k->changed, &k->mutex, &ts);
}

/* libnats waits inside a TLS read or write: make the socket fail, without any lock of libnats. */
static void watch(struct ev_nats *st)
{
    const int64_t since = ev_load_acquire(&st->io_since);

    if (since == 0 || ev_clock_now(NULL) - since < IO_MAX)
        return;
    pthread_mutex_lock(&st->fd_mutex);
    if (st->watch_fd >= 0) {
        (void)shutdown(st->watch_fd, SHUT_RDWR);
        ev_store_release(&st->stalled, true);
    }
    pthread_mutex_unlock(&st->fd_mutex);
}

static void take_ending(struct ev_nats_keeper *k) /* under mutex; the plan is ours */
{
    if (k->found) {
        ev_nats_plan_merge(k->plan, k->found, k->found_count, &k->plan->servers[k->plan->last]);
        k->found = NULL;
        k->found_count = 0;
    }
}

/* One step under the mutex; false: the keeper was abandoned, and only the mutex's object is left. */
static bool step(struct ev_nats_keeper *k)
{
    const int64_t now = ev_clock_now(NULL);

    if (k->wanted && k->again)
        ev_nats_plan_again(k->plan);
    k->again = k->again && !k->wanted;
    if (k->wanted && now < k->plan->not_before) {
        wait_until(k, k->plan->not_before);
    } else if (k->wanted) {
        take_ending(k);
        pthread_mutex_unlock(&k->mutex);
        const bool ours = attempt(k);
        pthread_mutex_lock(&k->mutex);
        return ours;
    } else if (k->watching) {
        wait_until(k, now + WATCH_EVERY);
        pthread_mutex_unlock(&k->mutex);
        watch(k->st);
        pthread_mutex_lock(&k->mutex);
    } else {
        wait_until(k, EV_NEVER);
    }
    return true;
}

static void *keeper_main(void *arg)
{
    struct ev_nats_keeper *k = arg;

    pthread_mutex_lock(&k->mutex);
    while (!k->quit && step(k))
        ;
    pthread_mutex_unlock(&k->mutex);
    nats_ReleaseThreadMemory();
    unref(k);
    return NULL;
}

/* NULL: ev_detail() says why. */
static struct ev_nats_keeper *start(struct ev_nats *st, struct ev_nats_plan *plan)
{
    struct ev_nats_keeper *k = ev_calloc(1, sizeof *k);
    pthread_condattr_t attr;

    if (!k) {
        (void)ev_fail(EVBUS_NOMEM, "no memory for the connector");
        return NULL;
    }
    k->st = st;
    k->plan = plan;
    k->wanted = plan != NULL;
    k->refs = 2;
    pthread_mutex_init(&k->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (ev_thread_start(&k->thread, "evbus-nats", keeper_main, k) != EVBUS_OK) {
        k->refs = 1;
        unref(k);
        return NULL;
    }
    return k;
}

evbus_status ev_nats_keeper_start(struct ev_nats *st, struct ev_nats_server *servers, uint32_t count)
{
    struct ev_nats_plan *p = ev_calloc(1, sizeof *p);
    evbus_status status = EVBUS_OK;

    if (!p)
        status = ev_fail(EVBUS_NOMEM, "no memory for the connector");
    for (uint32_t i = 0; i < count; i++) {
        if (p && i < EV_NATS_SERVERS_MAX)
            p->servers[p->count++] = servers[i];
        else
            ev_nats_server_fini(&servers[i]);
    }
    ev_free(servers);
    if (p) {
        p->configured = p->count;
        st->keeper = start(st, p);
        if (!st->keeper) {
            status = EVBUS_SYSTEM;
            ev_nats_plan_free(p);
        }
    }
    return status;
}

/* ---- The bus's side ---------------------------------------------------------------------------------------------- */

bool ev_nats_keeper_abandoned(struct ev_nats_keeper *keeper)
{
    pthread_mutex_lock(&keeper->mutex);
    const bool abandoned = keeper->abandoned;
    pthread_mutex_unlock(&keeper->mutex);
    return abandoned;
}

void ev_nats_keeper_quit(struct ev_nats *st)
{
    if (!st->keeper)
        return;
    pthread_mutex_lock(&st->keeper->mutex);
    st->keeper->quit = true;
    pthread_cond_broadcast(&st->keeper->changed);
    pthread_mutex_unlock(&st->keeper->mutex);
}

/* Under mutex: from now on the thread, when it comes back, only cleans up after itself. */
static void abandon(struct ev_nats_keeper *k)
{
    k->abandoned = true;
    ev_add_relaxed(&stuck, 1);
    pthread_detach(k->thread);
}

void ev_nats_keeper_stop(struct ev_nats *st)
{
    struct ev_nats_keeper *k = st->keeper;

    if (!k)
        return;
    ev_nats_keeper_quit(st);
    const int64_t until = ev_clock_now(NULL) + STOP_GRACE;
    pthread_mutex_lock(&k->mutex);
    while (k->connecting != 0 && ev_clock_now(NULL) < until)
        wait_until(k, until);
    const bool hangs = k->connecting != 0;
    if (hangs)
        abandon(k);
    pthread_mutex_unlock(&k->mutex);
    if (!hangs)
        pthread_join(k->thread, NULL);
    ev_nats_session_free(k->ready); /* made and never taken */
    for (int i = 0; i < k->found_count; i++)
        free(k->found[i]);
    free(k->found);
    ev_nats_plan_free(k->plan);
    k->ready = NULL;
    k->found = NULL;
    k->plan = NULL;
    st->keeper = NULL;
    unref(k);
}

void ev_nats_keeper_want(struct ev_nats *st, enum ev_nats_ending ending, bool was_up, char **found, int count)
{
    struct ev_nats_keeper *k = st->keeper;

    pthread_mutex_lock(&k->mutex); /* the thread does not look at the plan while nothing is wanted */
    const bool failed = ev_nats_plan_ended(k->plan, &st->cfg, ending, was_up);
    k->found = found; /* the last one was merged before the session was made */
    k->found_count = count;
    const bool over = failed && ev_nats_plan_spent(k->plan, &st->cfg);
    const int64_t next = over ? EV_NEVER : k->plan->not_before;
    k->wanted = !over;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->mutex);
    if (next != 0)
        tell_next(st, failed, next);
}

void ev_nats_keeper_tell(struct ev_nats *st)
{
    pthread_mutex_lock(&st->keeper->mutex);
    const bool over = st->keeper->over;
    st->keeper->over = false;
    pthread_mutex_unlock(&st->keeper->mutex);
    if (over)
        tell_next(st, true, EV_NEVER);
}

void ev_nats_keeper_again(void *state)
{
    struct ev_nats *st = state;
    struct ev_nats_keeper *k = st->keeper;

    if (st->session || st->shut)
        return;
    ev_nats_requests_hope(st, true);
    pthread_mutex_lock(&k->mutex);
    if (!k->ready) {
        k->again = k->wanted = true;
        k->over = false;
        pthread_cond_broadcast(&k->changed);
    }
    pthread_mutex_unlock(&k->mutex);
}

struct ev_nats_session *ev_nats_keeper_take(struct ev_nats *st)
{
    struct ev_nats_keeper *k = st->keeper;

    pthread_mutex_lock(&k->mutex);
    struct ev_nats_session *s = k->ready;
    k->ready = NULL;
    pthread_mutex_unlock(&k->mutex);
    return s;
}

void ev_nats_keeper_watch(struct ev_nats *st, bool on)
{
    pthread_mutex_lock(&st->keeper->mutex);
    st->keeper->watching = on;
    pthread_cond_broadcast(&st->keeper->changed);
    pthread_mutex_unlock(&st->keeper->mutex);
}

/* Moves the plan from a hanging keeper to a fresh one. False: it came back in the meantime. */
static bool replace(struct ev_nats *st, struct ev_nats_keeper *fresh, char *url, size_t cap)
{
    struct ev_nats_keeper *k = st->keeper;

    pthread_mutex_lock(&k->mutex);
    const bool hangs = k->connecting != 0, again = k->again;
    struct ev_nats_plan *plan = k->plan;
    if (hangs) {
        (void)ev_copy(url, cap, k->connecting_to);
        abandon(k);
        k->plan = NULL;
    }
    pthread_mutex_unlock(&k->mutex);
    if (!hangs)
        return false;
    const bool round = ev_nats_plan_failed(plan, &st->cfg, false);
    const bool over = round && !again && ev_nats_plan_spent(plan, &st->cfg);
    const int64_t next = over ? EV_NEVER : plan->not_before;
    pthread_mutex_lock(&fresh->mutex);
    fresh->plan = plan;
    fresh->again = again;
    fresh->wanted = !over;
    pthread_cond_broadcast(&fresh->changed);
    pthread_mutex_unlock(&fresh->mutex);
    if (round)
        tell_next(st, true, next);
    st->keeper = fresh;
    unref(k);
    return true;
}

int64_t ev_nats_keeper_check(struct ev_nats *st, int64_t now)
{
    const int64_t limit = st->cfg.connect_timeout_ms * EV_MS + STUCK_GRACE;
    char url[EV_NATS_TEXT_MAX], text[EV_NATS_TEXT_MAX];

    pthread_mutex_lock(&st->keeper->mutex);
    const int64_t since = st->keeper->connecting;
    pthread_mutex_unlock(&st->keeper->mutex);
    if (since == 0)
        return now + CHECK_EVERY;
    if (now < since + limit)
        return since + limit;
    if (ev_load_relaxed(&stuck) >= EV_NATS_STUCK_MAX) /* statistic */
        return now + CHECK_EVERY;
    struct ev_nats_keeper *fresh = start(st, NULL);
    if (!fresh)
        return now + CHECK_EVERY; /* no thread to be had now */
    if (!replace(st, fresh, url, sizeof url)) {
        struct ev_nats_keeper *k = st->keeper;
        st->keeper = fresh;
        ev_nats_keeper_stop(st);
        st->keeper = k;
        return now + CHECK_EVERY;
    }
    ev_nats_say(text, sizeof text, "%s: no progress for %" PRId64 " ms while connecting; the attempt was abandoned",
                url, (now - since) / EV_MS);
    report(st, st->cfg.tls ? EVBUS_TLS : EVBUS_DISCONNECTED, text, true);
    return now + CHECK_EVERY;
}
