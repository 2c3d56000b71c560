/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/relay.h"

#include "outbox/options.h"
#include "outbox/schema.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STATEMENT_MS 5000u
#define SWEEP (250 * EV_MS)
#define PURGE_EVERY (10000 * EV_MS)
#define RETRY_MIN (50 * EV_MS)
#define RETRY_MAX (2000 * EV_MS)
#define OPEN_AGAIN (500 * EV_MS)
#define STOP_MS 10000u

/* ---- Telling ----------------------------------------------------------------------------------------------------- */

bool ev_relay_stopping(struct evbus_outbox_relay *r)
{
    return atomic_load_explicit(&r->stopping, memory_order_acquire); /* R2 */
}

void ev_relay_log(struct evbus_outbox_relay *r, evbus_log_level level, const char *fmt, ...)
{
    char text[EV_OUTBOX_DETAIL_MAX];
    va_list args;

    if (!r->o.log)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->o.log(level, "outbox", text, r->o.log_ctx);
}

void ev_relay_event(struct evbus_outbox_relay *r, evbus_outbox_event_kind kind, evbus_status status, uint64_t count,
                    const struct ev_row *row, const char *aggregate, const char *fmt, ...)
{
    const bool good = kind == EVBUS_OUTBOX_EVENT_DATABASE_BACK || kind == EVBUS_OUTBOX_EVENT_TAKEN_OVER;
    char text[EV_OUTBOX_DETAIL_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ev_relay_log(r, good ? EVBUS_LOG_INFO : EVBUS_LOG_WARN, "%s", text);
    const evbus_outbox_event event = {
        .kind = kind,
        .status = status,
        .count = count,
        .event_id = row ? row->event_id : "",
        .topic = row ? row->topic : "",
        .aggregate_id = aggregate ? aggregate : "",
        .text = text,
    };
    if (r->o.on_event)
        r->o.on_event(&event, r->o.on_event_ctx);
}

/* ---- The database ------------------------------------------------------------------------------------------------ */

static int64_t retry_pause(const struct evbus_outbox_relay *r)
{
    const uint32_t shift = r->db_failures < 6 ? r->db_failures : 6;
    const int64_t pause = RETRY_MIN << shift;

    return pause < RETRY_MAX ? pause : RETRY_MAX;
}

static void database_failed(struct evbus_outbox_relay *r, evbus_status st)
{
    EV_COUNT(r, database_errors, 1);
    r->retry_ns = ev_boot_ns() + (st == EVBUS_TIMEOUT ? RETRY_MIN : retry_pause(r));
    r->db_failures++;
    if (!r->db_lost && st != EVBUS_TIMEOUT) {
        r->db_lost = true;
        ev_relay_event(r, EVBUS_OUTBOX_EVENT_DATABASE_LOST, st, 1, NULL, NULL, "%s; trying again",
                       evbus_outbox_error_detail());
    }
    if (st != EVBUS_DISCONNECTED)
        return;
    ev_db_close(&r->db);
    r->db_open = false;
    ev_lanes_forget(r);
}

static void database_worked(struct evbus_outbox_relay *r)
{
    if (r->db_lost)
        ev_relay_event(r, EVBUS_OUTBOX_EVENT_DATABASE_BACK, EVBUS_OK, 1, NULL, NULL, "the database works again");
    r->db_lost = false;
    r->db_failures = 0;
}

static evbus_status database_open(struct evbus_outbox_relay *r)
{
    const evbus_status st = ev_db_open(&r->db, r->database, STATEMENT_MS);

    if (st != EVBUS_OK) {
        ev_db_close(&r->db);
        return st == EVBUS_INVALID && r->db_failures ? EVBUS_DISCONNECTED : st; /* the file was there, and will be */
    }
    r->db_open = true;
    r->look = true;
    r->look_at_ns = 0;
    EV_COUNT(r, database_connects, 1);
    return st;
}

/* Is there news, or is it time to look anyway? */
static evbus_status database_poll(struct evbus_outbox_relay *r, int64_t now)
{
    bool changed = false;
    evbus_status st = EVBUS_OK;

    if (now >= r->poll_ns) {
        st = ev_db_changed(&r->db, &changed);
        r->poll_ns = now + (int64_t)r->o.poll_ms * EV_MS;
    }
    if (changed || now >= r->sweep_ns) {
        r->look = true;
        r->look_at_ns = 0;
        r->sweep_ns = now + SWEEP;
    }
    return st;
}

/* Has a cycle something to do? */
static bool wanted(struct evbus_outbox_relay *r, int64_t now)
{
    if (r->marks_count || r->held > r->ready + r->inflight)
        return true;
    if (ev_relay_stopping(r))
        return r->held > r->inflight && r->inflight == 0;
    return r->look && now >= r->look_at_ns && r->held < r->o.aggregates_max && ev_relay_bus_up(r);
}

/* Now, or together with what comes within mark_ms? */
static bool cycle_due(struct evbus_outbox_relay *r, int64_t now)
{
    if (!wanted(r, now)) {
        r->due_ns = 0;
        return false;
    }
    if (r->due_ns == 0)
        r->due_ns = now;
    return r->marks_count >= EV_MARKS_MAX || r->inflight == 0 || now - r->due_ns >= (int64_t)r->o.mark_ms * EV_MS;
}

static evbus_status purge(struct evbus_outbox_relay *r, int64_t now)
{
    bool more = false;

    if (now < r->purge_ns || ev_relay_stopping(r))
        return EVBUS_OK;
    const int64_t half_kept = (int64_t)r->o.keep_ms * EV_MS / 2;
    r->purge_ns = now + (half_kept < PURGE_EVERY ? half_kept : PURGE_EVERY);
    const evbus_status st = ev_relay_purge(r, &more);
    if (more)
        r->purge_ns = now;
    return st;
}

static void database(struct evbus_outbox_relay *r)
{
    const int64_t now = ev_boot_ns();
    evbus_status st = EVBUS_OK;

    if (now < r->retry_ns)
        return;
    if (!r->db_open && (st = database_open(r)) != EVBUS_OK) {
        database_failed(r, st);
        return;
    }
    st = database_poll(r, now);
    if (st == EVBUS_OK && cycle_due(r, now)) {
        r->due_ns = 0;
        st = ev_relay_cycle(r);
        if (st == EVBUS_OK)
            database_worked(r);
    }
    if (st == EVBUS_OK)
        st = purge(r, now);
    if (st != EVBUS_OK)
        database_failed(r, st);
}

/* ---- The thread -------------------------------------------------------------------------------------------------- */

static void broker(struct evbus_outbox_relay *r)
{
    const int64_t now = ev_boot_ns();

    if (r->bus || ev_relay_stopping(r) || now < r->open_ns)
        return;
    const evbus_status st = ev_relay_bus_open(r);
    if (st != EVBUS_OK)
        ev_relay_log(r, EVBUS_LOG_WARN, "%s; trying again", evbus_outbox_error_detail());
    r->open_ns = ev_boot_ns() + OPEN_AGAIN;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t next_ns(struct evbus_outbox_relay *r, int64_t now)
{
    int64_t at = r->sweep_ns;

    if (r->db_open && now >= r->retry_ns) {
        at = earlier(at, r->poll_ns);
        if (r->due_ns)
            at = earlier(at, r->due_ns + (int64_t)r->o.mark_ms * EV_MS);
        if (wanted(r, now) && r->inflight == 0)
            at = now;
    } else {
        at = r->retry_ns;
    }
    if (r->ready && ev_relay_bus_up(r))
        at = earlier(at, r->room_ns);
    if (!r->bus)
        at = earlier(at, r->open_ns);
    if (ev_relay_stopping(r))
        at = earlier(at, r->stop_at_ns);
    return at;
}

static void wait_for_news(struct evbus_outbox_relay *r)
{
    const int64_t now = ev_boot_ns(), at = next_ns(r, now);
    const int64_t ms = at <= now ? 0 : (at - now + EV_MS - 1) / EV_MS;
    struct pollfd p[2] = {{.fd = r->wake, .events = POLLIN},
                          {.fd = r->db_open ? ev_db_fd(&r->db) : -1, .events = POLLIN}};
    uint64_t count;

    if (poll(p, 2, (int)earlier(ms, 1000)) <= 0)
        return;
    if (p[0].revents)
        (void)!read(r->wake, &count, sizeof count);
    if (p[1].revents)
        r->poll_ns = 0;
}

static void show_gauges(struct evbus_outbox_relay *r)
{
    EV_GAUGE(r, held, r->held);
    EV_GAUGE(r, inflight, r->inflight);
    EV_GAUGE(r, connected, r->db_open && ev_relay_bus_up(r));
}

static void close_bus(struct evbus_outbox_relay *r)
{
    if (!r->bus)
        return;
    (void)evbus_shutdown(r->bus, EVBUS_NOWAIT, NULL); /* what is in flight ends as unknown */
    evbus_close(r->bus);
    r->bus = NULL;
    ev_relay_receipts(r);
}

static bool all_done(const struct evbus_outbox_relay *r)
{
    return r->inflight == 0 && r->held == 0 && r->marks_count == 0;
}

static void *run(void *arg)
{
    struct evbus_outbox_relay *r = arg;

    for (;;) {
        broker(r);
        ev_relay_receipts(r);
        if (!ev_relay_stopping(r))
            ev_relay_send(r);
        database(r);
        show_gauges(r);
        if (ev_relay_stopping(r) && (all_done(r) || ev_boot_ns() >= r->stop_at_ns))
            break;
        wait_for_news(r);
    }
    r->ended = all_done(r) ? EVBUS_OK : EVBUS_TIMEOUT;
    close_bus(r);
    if (r->db_open && !all_done(r)) { /* one more time, for what ended just now */
        if (ev_relay_cycle(r) != EVBUS_OK)
            ev_relay_log(r, EVBUS_LOG_WARN, "at the end: %s", evbus_outbox_error_detail());
    }
    return NULL;
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static evbus_status range(const char *name, uint32_t *value, uint32_t default_is, uint32_t min, uint32_t max)
{
    if (*value == 0)
        *value = default_is;
    if (*value >= min && *value <= max)
        return EVBUS_OK;
    return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_relay_opts.%s: %u is outside %u..%u", name, (unsigned)*value,
                          (unsigned)min, (unsigned)max);
}

static evbus_status fill_options(struct evbus_outbox_relay *r, const evbus_outbox_relay_opts *opts)
{
    evbus_outbox_relay_opts *o = &r->o;
    evbus_status st = ev_outbox_opts_read(o, sizeof *o, opts, "evbus_outbox_relay_opts");

    if (st != EVBUS_OK ||
        (st = ev_outbox_opts_read(&r->bus_opts, sizeof r->bus_opts, o->bus, "evbus_opts")) != EVBUS_OK)
        return st;
    if (!o->database || !o->url)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_relay_opts: database and url are required");
    if (r->bus_opts.clock)
        return ev_outbox_fail(EVBUS_UNSUPPORTED, "evbus_opts.clock: leases are on the database's clock");
    const bool sqlite = strncmp(o->database, "sqlite:", 7) == 0;
    if ((st = range("lease_ms", &o->lease_ms, 30000, 1000, 86400000)) != EVBUS_OK)
        return st;
    const uint32_t half = o->lease_ms / 2;
    if ((st = range("publish_timeout_ms", &o->publish_timeout_ms, half < 5000 ? half : 5000, 100, half)) != EVBUS_OK ||
        (st = range("aggregates_max", &o->aggregates_max, 256, 1, 4096)) != EVBUS_OK ||
        (st = range("attempts_max", &o->attempts_max, 10, 1, UINT32_MAX)) != EVBUS_OK ||
        (st = range("backoff_min_ms", &o->backoff_min_ms, 200, 1, 3600000)) != EVBUS_OK ||
        (st = range("backoff_max_ms", &o->backoff_max_ms, o->backoff_min_ms > 30000 ? o->backoff_min_ms : 30000,
                    o->backoff_min_ms, 86400000)) != EVBUS_OK ||
        (st = range("on_dead", &o->on_dead, EVBUS_OUTBOX_BLOCK, EVBUS_OUTBOX_BLOCK, EVBUS_OUTBOX_PASS)) != EVBUS_OK ||
        (st = range("poll_ms", &o->poll_ms, sqlite ? 20 : 1000, 1, 60000)) != EVBUS_OK ||
        (st = range("mark_ms", &o->mark_ms, 20, 1, 60000)) != EVBUS_OK ||
        (st = range("keep_ms", &o->keep_ms, 86400000, 1, EVBUS_FOREVER)) != EVBUS_OK ||
        (st = range("inbox_keep_ms", &o->inbox_keep_ms, 1209600000, 1, EVBUS_FOREVER)) != EVBUS_OK)
        return st;
    return EVBUS_OK;
}

static void relay_free(struct evbus_outbox_relay *r)
{
    close_bus(r);
    for (uint32_t i = 0; r->lanes && i < r->o.aggregates_max; i++)
        ev_lane_drop_rows(r, &r->lanes[i]);
    ev_db_close(&r->db);
    ev_relay_topics_free(r);
    ev_text_fini(&r->marks);
    ev_text_fini(&r->chosen);
    ev_text_fini(&r->list);
    if (r->wake >= 0)
        (void)close(r->wake);
    (void)pthread_mutex_destroy(&r->mutex);
    free(r->lanes);
    free(r->done);
    free(r->done_list);
    free(r->database);
    free(r->url);
    free(r);
}

static evbus_status relay_init(struct evbus_outbox_relay *r, const evbus_outbox_relay_opts *opts)
{
    r->wake = -1;
    (void)pthread_mutex_init(&r->mutex, NULL);
    const evbus_status st = fill_options(r, opts);
    if (st != EVBUS_OK)
        return st;
    r->lanes = calloc(r->o.aggregates_max, sizeof *r->lanes);
    r->done = calloc(r->o.aggregates_max, sizeof *r->done);
    r->done_list = calloc(r->o.aggregates_max, sizeof *r->done_list);
    r->database = strdup(r->o.database);
    r->url = strdup(r->o.url);
    if (!r->lanes || !r->done || !r->done_list || !r->database || !r->url)
        return ev_outbox_fail(EVBUS_NOMEM, "out of memory for a relay");
    r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake < 0 || !ev_outbox_uuid(ev_wall_ns(), r->owner))
        return ev_outbox_fail(EVBUS_SYSTEM, "no descriptor or no random bytes: %s", strerror(errno));
    r->random = ev_hash_of(r->owner);
    r->purge_ns = ev_boot_ns() + (r->o.keep_ms < 10000 ? (int64_t)r->o.keep_ms * EV_MS : PURGE_EVERY);
    return EVBUS_OK;
}

static evbus_status check_topic(const char *const *columns, void *ctx)
{
    uint64_t window_ms;
    const evbus_status st = ev_relay_topic_check(ctx, columns[0], &window_ms);

    return st == EVBUS_MISMATCH ? st
                                : EVBUS_OK; /* what cannot be known now is looked at before its first row is sent */
}

static evbus_status connect_both(struct evbus_outbox_relay *r)
{
    evbus_status st = database_open(r);

    if (st != EVBUS_OK || (st = ev_schema_check(&r->db)) != EVBUS_OK)
        return st;
    st = ev_relay_bus_open(r);
    if (st == EVBUS_DISCONNECTED || st == EVBUS_TIMEOUT) {
        ev_relay_log(r, EVBUS_LOG_WARN, "%s; trying again", evbus_outbox_error_detail());
        return EVBUS_OK;
    }
    return st != EVBUS_OK ? st : ev_relay_topics(r, check_topic, r);
}

/* Signals are the application's. */
static evbus_status start_thread(struct evbus_outbox_relay *r)
{
    sigset_t all, before;

    r->running = true;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    const int error = pthread_create(&r->thread, NULL, run, r);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return ev_outbox_fail(EVBUS_SYSTEM, "no thread for the relay: %s", strerror(error));
    (void)pthread_setname_np(r->thread, "evbus-outbox");
    return EVBUS_OK;
}

evbus_status evbus_outbox_relay_start(const evbus_outbox_relay_opts *opts, evbus_outbox_relay **ret)
{
    if (!ret)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_relay_start: ret is NULL");
    struct evbus_outbox_relay *r = calloc(1, sizeof *r);
    if (!r)
        return ev_outbox_fail(EVBUS_NOMEM, "out of memory for a relay");
    evbus_status st = relay_init(r, opts);
    if (st == EVBUS_OK)
        st = connect_both(r);
    if (st == EVBUS_OK)
        st = start_thread(r);
    if (st != EVBUS_OK) {
        relay_free(r);
        return st;
    }
    *ret = r;
    return EVBUS_OK;
}

evbus_status evbus_outbox_relay_stats(const evbus_outbox_relay *r, evbus_outbox_relay_statistics *ret)
{
    if (!r || !ret)
        return ev_outbox_fail(EVBUS_INVALID, "evbus_outbox_relay_stats: relay or ret is NULL");
#define N(field) atomic_load_explicit(&r->n.field, memory_order_relaxed) /* statistic */
    *ret = (evbus_outbox_relay_statistics){
        .struct_size = sizeof *ret,
        .claimed = N(claimed),
        .taken_over = N(taken_over),
        .sent = N(sent),
        .stored = N(stored),
        .duplicate = N(duplicate),
        .refused = N(refused),
        .unknown = N(unknown),
        .marked = N(marked),
        .dead = N(dead),
        .maybe_twice = N(maybe_twice),
        .leases_lost = N(leases_lost),
        .windows_refused = N(windows_refused),
        .database_errors = N(database_errors),
        .database_connects = N(database_connects),
        .purged = N(purged),
        .held = N(held),
        .inflight = N(inflight),
        .connected = N(connected),
    };
#undef N
    return EVBUS_OK;
}

evbus_status evbus_outbox_relay_stop(evbus_outbox_relay *r, uint32_t timeout_ms,
                                     evbus_outbox_relay_statistics *ret_last)
{
    const uint64_t one = 1;
    const uint32_t ms = timeout_ms == EVBUS_NOWAIT ? 0 : timeout_ms ? timeout_ms : STOP_MS;

    if (!r)
        return EVBUS_OK;
    r->stop_at_ns = ev_boot_ns() + (int64_t)ms * EV_MS;
    atomic_store_explicit(&r->stopping, true, memory_order_release); /* R1 */
    (void)!write(r->wake, &one, sizeof one);
    (void)pthread_join(r->thread, NULL);
    const evbus_status st = r->ended;
    show_gauges(r);
    if (ret_last)
        (void)evbus_outbox_relay_stats(r, ret_last);
    relay_free(r);
    return st == EVBUS_OK ? st : ev_outbox_fail(st, "the relay ended with rows in flight, unmarked or leased");
}
