/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning and the very end: parts are made in order, and freed in the reverse order once nobody refers to them. */
#include "core/message.h"
#include "core/streams.h"

#include <stdio.h>
#include <string.h>

static evbus_status usable(const evbus *bus)
{
    if (!bus)
        return ev_fail(EVBUS_INVALID, "the bus is NULL");
    if (bus->fork_generation != ev_fork_generation())
        return ev_fail(EVBUS_FORKED, "this bus was opened before fork(); open one in the child");
    return EVBUS_OK;
}

evbus_status ev_bus_check_alive(const evbus *bus)
{
    return usable(bus);
}

evbus_status ev_bus_check(const evbus *bus)
{
    const evbus_status st = usable(bus);

    if (st != EVBUS_OK)
        return st;
    if (ev_load_acquire(&bus->phase) != EV_RUNNING)
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    return EVBUS_OK;
}

/* ---- The end ----------------------------------------------------------------------------------------------------- */

void ev_bus_free(evbus *bus)
{
    ev_dispatch_fini(bus);
    ev_subs_fini(bus);
    if (bus->state) {
        bus->ops->fini(bus->state);
        ev_free(bus->state);
    }
    while (bus->crew.workers) {
        struct ev_worker *next = bus->crew.workers->next;
        ev_free(bus->crew.workers);
        bus->crew.workers = next;
    }
    ev_ring_fini(&bus->crew.ring);
    ev_slots_fini(bus);
    ev_tenants_fini(bus);
    ev_events_fini(bus);
    ev_backlog_fini(bus);
    ev_limbo_fini(&bus->limbo);
    ev_topics_fini(bus);
    pthread_mutex_destroy(&bus->flights);
    ev_config_fini(&bus->cfg);
    pthread_mutex_destroy(&bus->mutex);
    ev_free(bus);
}

/* They are gone now. */
static void tell_untaken_receipts(evbus *bus)
{
    const uint64_t put = ev_load_relaxed(&bus->n.receipts), taken = ev_load_relaxed(&bus->n.receipts_taken); /* ended */

    if (put > taken)
        ev_log(&bus->log, EVBUS_LOG_WARN, "close", "%llu receipts were never taken", (unsigned long long)(put - taken));
}

void evbus_close(evbus *bus)
{
    if (!bus)
        return;
    if (bus->fork_generation != ev_fork_generation())
        return; /* the parent's: its threads and connection are not ours to end */
    if (ev_in_callback(bus)) {
        (void)ev_fail(EVBUS_INVALID, "evbus_close: called inside a handler or callback, which would wait for itself");
        ev_log(&bus->log, EVBUS_LOG_ERROR, "close", "%s", ev_detail());
        return;
    }
    (void)evbus_shutdown(bus, 0, NULL);
    tell_untaken_receipts(bus);
    if (ev_sub_acqrel(&bus->refs, 1) == 1)
        ev_bus_free(bus);
}

/* ---- The beginning ----------------------------------------------------------------------------------------------- */

static evbus_status parse_url(const char *url, char scheme[16], struct ev_url *ret)
{
    const char *sep = url ? strstr(url, "://") : NULL;

    if (!url)
        return ev_fail(EVBUS_INVALID, "the URL is NULL");
    if (!sep || sep == url || sep - url > 15)
        return ev_fail(EVBUS_INVALID, "URL '%.80s': no scheme; use mem://, nats://host:port", url);
    memcpy(scheme, url, (size_t)(sep - url));
    scheme[sep - url] = 0;
    *ret = (struct ev_url){.scheme = scheme, .rest = sep + 3, .full = url};
    return EVBUS_OK;
}

static evbus_status init_parts(evbus *bus)
{
    evbus_status st;

    ev_park_init(&bus->changed);
    ev_park_init(&bus->keeper.park);
    ev_crew_init(&bus->crew.crew);
    if ((st = ev_topics_init(bus)) != EVBUS_OK || (st = ev_slots_init(bus)) != EVBUS_OK ||
        (st = ev_tenants_init(bus)) != EVBUS_OK || (st = ev_dispatch_init(bus)) != EVBUS_OK ||
        (st = ev_events_init(bus)) != EVBUS_OK)
        return st;
    return ev_ring_init(&bus->crew.ring, 1024);
}

static evbus *bus_new(const struct ev_backend_ops *ops, bool manual)
{
    evbus *bus = ev_aligned(alignof(evbus), sizeof *bus);

    if (!bus)
        return NULL;
    bus->ops = ops;
    bus->manual = manual;
    bus->fork_generation = ev_fork_generation();
    bus->halt_at = EV_NEVER;
    ev_store_relaxed(&bus->rights_until, EV_NEVER); /* not shared yet */
    ev_store_relaxed(&bus->refs, 1);                /* not shared yet */
    pthread_mutex_init(&bus->mutex, NULL);
    pthread_mutex_init(&bus->events.mutex, NULL);
    pthread_mutex_init(&bus->acks.mutex, NULL);
    pthread_mutex_init(&bus->acks.latency_mutex, NULL);
    pthread_mutex_init(&bus->flights, NULL);
    ev_flight_init(&bus->closing, &bus->flights);
    ev_limbo_init(&bus->limbo);
    return bus;
}

static evbus_status start_threads(evbus *bus)
{
    evbus_status st;

    if (bus->manual)
        return EVBUS_OK;
    if ((st = ev_crew_start(bus)) != EVBUS_OK || (st = ev_keeper_start(bus)) != EVBUS_OK ||
        (st = ev_acks_start(bus)) != EVBUS_OK)
        return st;
    st = ev_thread_start(&bus->loop, "evbus-loop", ev_loop_main, bus);
    bus->loop_started = st == EVBUS_OK;
    return st;
}

static bool connected_or_refused(void *arg)
{
    evbus *bus = arg;

    return ev_link_is_up(bus) || ev_load_seqcst(&bus->connect_fatal);
}

/* The first session, or the reason why there is none. */
static evbus_status await_link(evbus *bus)
{
    char text[256];
    const int64_t deadline = ev_deadline(ev_now(bus), bus->cfg.o.connect_timeout_ms);

    (void)ev_bus_await(bus, connected_or_refused, bus, deadline);
    if (ev_link_is_up(bus)) {
        ev_store_relaxed(&bus->connect_fatal, 0); /* from now on the connector never gives up */
        return EVBUS_OK;
    }
    pthread_mutex_lock(&bus->mutex);
    const evbus_status st = bus->connect_status == EVBUS_OK ? EVBUS_DISCONNECTED : bus->connect_status;
    (void)ev_copy(text, sizeof text, bus->connect_text[0] ? bus->connect_text : "no server answered in time");
    pthread_mutex_unlock(&bus->mutex);
    return ev_fail(st, "%s", text);
}

static evbus_status open_backend(evbus *bus, const struct ev_url *url)
{
    bus->clock = bus->cfg.o.clock;
    bus->log = (struct ev_log){bus->cfg.o.log, bus->cfg.o.log_ctx, (evbus_log_level)bus->cfg.o.log_level};
    bus->state = ev_aligned(EV_APART, bus->ops->state_size);
    if (!bus->state)
        return ev_fail(EVBUS_NOMEM, "out of memory for the %s backend", bus->ops->scheme);
    return bus->ops->open(bus->state, url, &bus->cfg.o, ev_host_of(bus));
}

evbus_status ev_open(const char *url, const evbus_opts *opts, bool manual, evbus **ret_bus)
{
    char scheme[16], detail[256];
    struct ev_url u;
    evbus_status st = parse_url(url, scheme, &u);

    if (st != EVBUS_OK)
        return st;
    if (!ret_bus)
        return ev_fail(EVBUS_INVALID, "evbus_open: ret_bus is NULL");
    const struct ev_backend_ops *ops = ev_backend_find(scheme);
    if (!ops)
        return ev_fail(EVBUS_UNSUPPORTED, "URL '%.80s': scheme '%s' is not in this build", url, scheme);
    evbus *bus = bus_new(ops, manual);
    if (!bus)
        return ev_fail(EVBUS_NOMEM, "out of memory for a bus");
    st = ev_config_init(&bus->cfg, opts);
    if (st == EVBUS_OK && (st = init_parts(bus)) == EVBUS_OK && (st = open_backend(bus, &u)) == EVBUS_OK &&
        (st = start_threads(bus)) == EVBUS_OK)
        st = await_link(bus);
    if (st == EVBUS_OK) {
        *ret_bus = bus;
        return EVBUS_OK;
    }
    (void)ev_copy(detail, sizeof detail, ev_detail());
    if (bus->loop_started)
        (void)evbus_shutdown(bus, EVBUS_NOWAIT, NULL);
    else
        ev_abort_open(bus);
    if (ev_sub_acqrel(&bus->refs, 1) == 1)
        ev_bus_free(bus);
    return ev_fail(st, "%s", detail);
}

evbus_status evbus_open(const char *url, const evbus_opts *opts, evbus **ret_bus)
{
    return ev_open(url, opts, false, ret_bus);
}
