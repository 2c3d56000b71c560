/* SPDX-License-Identifier: Apache-2.0 */
/* The handling side: members of one group, whose handlers fail, are slow, or settle later. */
#include "torture.h"

#include "stop.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE_NS INT64_C(60000000000) /* for what must work in the end, whatever was broken before */
#define INFLIGHT 1024u /* four times as many settled ones are remembered: longer than any ack gets lost */
#define LEAVE_MS 20000u

uint64_t torture_random(uint64_t *rng)
{
    *rng += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    uint64_t z = *rng;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void torture_nap_us(uint32_t us)
{
    const struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

    if (us > 0)
        (void)nanosleep(&ts, NULL);
}

void torture_problem(struct torture *t, const char *format, ...)
{
    va_list args;

    if (t->problem[0])
        return; /* the first one tells most */
    va_start(args, format);
    (void)vsnprintf(t->problem, sizeof t->problem, format, args);
    va_end(args);
}

/* ---- Buses ------------------------------------------------------------------------------------------------------- */

static void bus_options(struct torture *t, evbus_opts *o, bool desk)
{
    *o = *t->opts;
    o->name = "torture";
    o->connect_timeout_ms = 5000;
    o->publish_timeout_ms = 2500;
    o->publish_inflight_max = 256;
    o->heartbeat_ms = 400;
    o->member_ttl_ms = 3000;
    if (desk && t->target == TORTURE_CLUSTER) { /* where each is stored: servers may lose it after that */
        o->receipts = EVBUS_ON;
        o->on_receipt = torture_log_receipt;
        o->on_receipt_ctx = t;
    } else if (desk) {
        o->on_publish_error = torture_log_error;
        o->on_publish_error_ctx = t;
    }
}

static void hear(const evbus_event *event, void *truth)
{
    if (event->kind == EVBUS_EVENT_STANDBY)
        truth_standby(truth);
}

static evbus_status configure(const struct torture *t, evbus *bus)
{
    evbus_topic_opts o;
    char letters[80];

    evbus_topic_opts_init(&o);
    o.max_bytes = UINT64_C(256) << 20;
    o.replicas = t->target == TORTURE_CLUSTER ? 3 : 1;
    (void)snprintf(letters, sizeof letters, "dlq.%s", t->topic);
    const evbus_status st = evbus_topic_configure(bus, letters, &o);
    return st == EVBUS_OK ? evbus_topic_configure(bus, t->topic, &o) : st;
}

bool torture_bus_open(struct torture *t, struct torture_bus *bus, const char *url, bool desk)
{
    const int64_t until = now_ns() + PATIENCE_NS;
    char with_seed[1200];
    evbus_opts o;
    evbus_status st;

    truth_as(&t->log, ++t->processes, &bus->truth);
    (void)snprintf(with_seed, sizeof with_seed, "%s", url);
    if (url == t->url && t->query)
        (void)snprintf(with_seed, sizeof with_seed, "%s?seed=%" PRIu64 "%s", url, t->seed + bus->truth.process,
                       t->query);
    bus_options(t, &o, desk);
    if (!desk) {
        o.on_event = hear;
        o.on_event_ctx = &bus->truth;
    }
    while ((st = evbus_open(with_seed, &o, &bus->bus)) == EVBUS_DISCONNECTED || st == EVBUS_TIMEOUT) {
        if (now_ns() > until || stop_asked())
            break;
        torture_nap_us(100000);
    }
    if (st == EVBUS_OK)
        st = configure(t, bus->bus);
    if (st != EVBUS_OK)
        torture_problem(t, "cannot open %s: %s (%s)", with_seed, evbus_strerror(st), evbus_error_detail());
    return st == EVBUS_OK;
}

/* ---- Handlers ---------------------------------------------------------------------------------------------------- */

static bool defer(struct torture_member *m, const evbus_msg *msg)
{
    struct torture *t = m->t;

    pthread_mutex_lock(&t->mutex);
    const bool room = t->deferred_count < TORTURE_DEFERRED && !m->ending;
    if (room)
        t->deferred[t->deferred_count++] = (struct torture_deferred){msg, m};
    pthread_mutex_unlock(&t->mutex);
    return room;
}

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    struct torture_member *m = ctx;
    uint64_t rng = m->t->seed ^ evbus_msg_sequence(msg) << 8 ^ evbus_msg_attempt(msg);
    const uint64_t n = torture_random(&rng), slow = torture_random(&rng);

    truth_start(&m->truth, m->number, msg);
    torture_nap_us((uint32_t)(slow % 500 == 0 ? 300000 : slow % 4000)); /* some hold their aggregate up for long */
    const evbus_verdict v = n % 1000 < 4 ? EVBUS_REJECT : n % 1000 < 50 ? EVBUS_RETRY : EVBUS_ACK;
    if (v == EVBUS_RETRY)
        evbus_msg_retry_after(msg, 1 + (uint32_t)(n >> 40) % 20);
    if ((n >> 32) % 100 < 5 && defer(m, msg))
        return EVBUS_DEFER;
    torture_log_verdict(m, msg, v);
    return v;
}

void torture_settle(struct torture *t)
{
    struct torture_deferred taken[TORTURE_DEFERRED];

    pthread_mutex_lock(&t->mutex);
    const uint32_t n = t->deferred_count;
    memcpy(taken, t->deferred, n * sizeof taken[0]);
    t->deferred_count = 0;
    pthread_mutex_unlock(&t->mutex);
    for (uint32_t i = 0; i < n; i++) {
        torture_log_verdict(taken[i].member, taken[i].msg, EVBUS_ACK);
        if (evbus_msg_settle(taken[i].msg, EVBUS_ACK) != EVBUS_OK)
            torture_problem(t, "a deferred message cannot be settled: %s", evbus_error_detail());
    }
}

/* ---- Members ----------------------------------------------------------------------------------------------------- */

bool torture_member_come(struct torture *t, struct torture_shop *shop)
{
    const int64_t until = now_ns() + PATIENCE_NS;
    struct torture_member *m = calloc(1, sizeof *m);
    evbus_sub_opts o;
    evbus_status st;

    if (!m)
        return false;
    *m = (struct torture_member){.t = t, .truth = shop->bus.truth, .number = truth_member(&shop->bus.truth)};
    evbus_sub_opts_init(&o);
    o.group = TORTURE_GROUP;
    o.membership = t->shared ? EVBUS_SHARED : EVBUS_EXCLUSIVE;
    o.ack_mode = t->frontier ? EVBUS_ACK_FRONTIER : EVBUS_ACK_EACH;
    o.ack_wait_ms = t->target == TORTURE_CLUSTER ? 3000 : 1500;
    o.inflight_max = INFLIGHT;
    o.attempts_max = TORTURE_ATTEMPTS;
    o.deliveries_max = 100000; /* handed back by members that leave: no crash loop */
    shop->member = m;
    while ((st = evbus_subscribe_envelope(shop->bus.bus, t->topic, handle, m, &o, &m->sub)) != EVBUS_OK) {
        if (now_ns() > until || stop_asked()) /* no leader yet, a server that is down: it must work in the end */
            break;
        torture_nap_us(100000);
    }
    if (st != EVBUS_OK)
        torture_problem(t, "cannot subscribe: %s (%s)", evbus_strerror(st), evbus_error_detail());
    return st == EVBUS_OK;
}

static void stop_deferring(struct torture *t, struct torture_member *m)
{
    pthread_mutex_lock(&t->mutex);
    m->ending = true;
    pthread_mutex_unlock(&t->mutex);
    torture_settle(t);
}

void torture_member_leave(struct torture *t, struct torture_shop *shop)
{
    struct torture_member *m = shop->member;

    if (!m)
        return;
    stop_deferring(t, m);
    if (m->sub && evbus_unsubscribe(m->sub) != EVBUS_OK)
        torture_problem(t, "cannot unsubscribe: %s", evbus_error_detail());
    truth_left(&m->truth, m->number);
    free(m);
    shop->member = NULL;
}

bool torture_shop_open(struct torture *t, struct torture_shop *shop)
{
    return torture_bus_open(t, &shop->bus, t->url, false) && torture_member_come(t, shop);
}

/* As at a service's end: the bus is shut down with its subscription. */
void torture_shop_close(struct torture *t, struct torture_shop *shop)
{
    struct torture_member *m = shop->member;
    evbus_report report = {.struct_size = sizeof report};

    if (m)
        stop_deferring(t, m);
    if (shop->bus.bus) {
        (void)evbus_shutdown(shop->bus.bus, LEAVE_MS, &report);
        if (report.total.handlers_running)
            torture_problem(t, "the shutdown left %" PRIu64 " handlers running", report.total.handlers_running);
        evbus_close(shop->bus.bus);
    }
    if (m)
        truth_left(&m->truth, m->number);
    shop->bus.bus = NULL;
    free(m);
    shop->member = NULL;
}

bool torture_shops_open(struct torture *t)
{
    bool open = true;

    for (uint32_t i = 0; i < t->shop_count && open; i++)
        open = torture_shop_open(t, &t->shops[i]);
    return open;
}

void torture_shops_close(struct torture *t)
{
    for (uint32_t i = 0; i < t->shop_count; i++)
        torture_shop_close(t, &t->shops[i]);
}
