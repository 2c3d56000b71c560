/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's side of subscribing, and the repair of lost consumers. Rare: the list of subscriptions is guarded
 * by the bus's mutex, which is never held while the broker is asked.
 */
#include "core/deadletter.h"
#include "core/message.h"
#include "core/names.h"
#include "core/streams.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define REBIND_EVERY EV_SEC

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static evbus_status enum_check(const char *field, uint32_t value, uint32_t last)
{
    if (value <= last)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "evbus_sub_opts.%s: %u is none of its values (0..%u)", field, value, last);
}

static evbus_status check(const evbus_sub_opts *o)
{
    evbus_status st;

    if ((st = enum_check("membership", o->membership, EVBUS_SHARED)) != EVBUS_OK ||
        (st = enum_check("ack_mode", o->ack_mode, EVBUS_ACK_FRONTIER)) != EVBUS_OK ||
        (st = enum_check("start", o->start, EVBUS_START_NEW)) != EVBUS_OK ||
        (st = enum_check("on_overdue", o->on_overdue, EVBUS_OVERDUE_DEAD_LETTER)) != EVBUS_OK ||
        (st = enum_check("on_waiting_full", o->on_waiting_full, EVBUS_WAITING_DEAD_LETTER)) != EVBUS_OK ||
        (st = enum_check("on_unhandled", o->on_unhandled, EVBUS_UNHANDLED_ACK)) != EVBUS_OK)
        return st;
    if (o->inflight_max > 65536)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.inflight_max: %u is outside 1..65536", o->inflight_max);
    if (o->progress_timeout_ms && (o->progress_timeout_ms < 100 || o->progress_timeout_ms == EVBUS_NOWAIT))
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.progress_timeout_ms: %u; at least 100, or EVBUS_FOREVER",
                       o->progress_timeout_ms);
    if (o->ack_wait_ms && o->ack_wait_ms < 100)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.ack_wait_ms: %u is below 100", o->ack_wait_ms);
    if ((st = ev_retry_check(o)) != EVBUS_OK)
        return st;
    if (o->rate_per_s > 1000000 || (o->rate_burst && !o->rate_per_s))
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.rate_per_s: %u is above 1000000, or 0 with a rate_burst",
                       o->rate_per_s);
    if (o->ack_mode == EVBUS_ACK_FRONTIER && (o->membership == EVBUS_SHARED || o->fanout))
        return ev_fail(
            EVBUS_UNSUPPORTED,
            "evbus_sub_opts.ack_mode: EVBUS_ACK_FRONTIER is for EXCLUSIVE members of a group: an ack settles "
            "all below it, whoever has it");
    if (o->fanout && o->group)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.group: fanout has no group");
    if (o->fanout && o->start == EVBUS_START_ALL)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.start: fanout starts with what is published from now on");
    return o->group ? ev_name_check("evbus_sub_opts.group", o->group) : EVBUS_OK;
}

static void fill_defaults(evbus_sub_opts *o)
{
#define FILL(field, value) o->field = o->field ? o->field : (value)
    FILL(retry_factor_pct, 200);
    FILL(retry_jitter_pct, 20);
    FILL(membership, EVBUS_EXCLUSIVE);
    FILL(ack_mode, EVBUS_ACK_EACH);
    FILL(start, o->fanout ? EVBUS_START_NEW : EVBUS_START_ALL);
    FILL(ack_wait_ms, 30000);
    FILL(inflight_max, 1024);
    FILL(inflight_bytes_max, UINT64_C(16) << 20);
    FILL(attempts_max, 5);
    FILL(retry_min_ms, 100);
    FILL(retry_max_ms, o->retry_min_ms > 30000 ? o->retry_min_ms : 30000);
    FILL(handler_timeout_ms, 300000);
    FILL(on_overdue, EVBUS_OVERDUE_KEEP);
    FILL(waiting_max, o->inflight_max / 2 ? o->inflight_max / 2 : 1);
    FILL(aggregate_waiting_max, o->inflight_max / 8 ? o->inflight_max / 8 : 1);
    FILL(on_waiting_full, EVBUS_WAITING_STALL);
    FILL(on_unhandled, EVBUS_UNHANDLED_HAND_BACK);
    FILL(deliveries_max, 10);
    FILL(timeout_ms, 5000);
    FILL(progress_timeout_ms, 30000);
    FILL(tail, EVBUS_TAIL_PASS);
    FILL(parked_max, 1024);
    FILL(breaker_open_ms, 10000);
#undef FILL
}

static evbus_status choose_group(struct evbus_sub *sub, const evbus_sub_opts *o)
{
    const struct ev_config *cfg = &sub->bus->cfg;

    if (o->fanout)
        return EVBUS_OK;
    if (!o->group && !cfg->named && !sub->bus->ops->group_optional)
        return ev_fail(EVBUS_INVALID,
                       "topic '%s': neither evbus_sub_opts.group nor evbus_opts.name nor fanout is set; "
                       "members of one group share one durable",
                       sub->topic->name);
    const char *group = o->group ? o->group : cfg->o.name;
    sub->group = ev_bus_intern(sub->bus, group, strlen(group));
    return sub->group ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "out of memory for the name of group '%s'", group);
}

/* ---- The consumer ------------------------------------------------------------------------------------------------ */

void ev_sub_consumer_name(const struct evbus_sub *sub, char out[EV_NAME_MAX])
{
    if (sub->o.fanout)
        (void)ev_ephemeral_name(out, sub->topic->name, sub->consumer.id);
    else
        (void)ev_durable_name(out, sub->group, sub->topic->name);
}

static void describe_consumer(struct evbus_sub *sub)
{
    char name[EV_NAME_MAX];

    sub->consumer.id = sub->o.fanout ? ev_random() : ev_durable_name(name, sub->group, sub->topic->name);
    sub->consumer.durable = !sub->o.fanout;
    sub->consumer.ack_explicit = sub->envelope;
    sub->consumer.exclusive = sub->envelope && !sub->o.fanout && sub->o.membership == EVBUS_EXCLUSIVE;
    sub->consumer.ack_all = sub->o.ack_mode == EVBUS_ACK_FRONTIER;
}

static void configure_consumer(const struct evbus_sub *sub, struct ev_consumer_cfg *ret)
{
    *ret = (struct ev_consumer_cfg){
        .id = sub->consumer.id,
        .filter = sub->topic->name,
        .durable = sub->consumer.durable,
        .deliver_new = sub->o.start == EVBUS_START_NEW,
        .ack_explicit = sub->consumer.ack_explicit,
        .ack_all = sub->consumer.ack_all,
        .exclusive = sub->consumer.exclusive,
        .ack_wait_ns = (int64_t)sub->o.ack_wait_ms * EV_MS,
        .ack_pending_max = ev_sub_window(sub),
    };
    ev_sub_consumer_name(sub, ret->name);
}

/* Plain messages follow the topic: without a stream there is core NATS, if the topic allows that. */
static bool may_use_core(struct evbus_sub *sub, evbus_status st)
{
    evbus_topic_opts cfg;

    ev_topic_read(sub->topic, &cfg);
    if (sub->envelope)
        return false;
    return cfg.persistence == EVBUS_EPHEMERAL ||
           (cfg.fallback == EVBUS_ON && st != EVBUS_DISCONNECTED && st != EVBUS_TIMEOUT);
}

static evbus_status bind(struct evbus_sub *sub, int64_t deadline, void **ret)
{
    evbus *bus = sub->bus;
    struct ev_consumer_cfg cfg;

    configure_consumer(sub, &cfg);
    evbus_status st = ev_streams_for_sub(sub->topic, deadline, cfg.stream);

    if (st != EVBUS_OK && may_use_core(sub, st)) {
        ev_store_release(&sub->stream, NULL);
        return bus->ops->bind_core(bus->state, sub, sub->topic->name, sub->o.fanout ? NULL : sub->group, ret);
    }
    if (st != EVBUS_OK)
        return st;
    const char *name = ev_bus_intern(bus, cfg.stream, strlen(cfg.stream));
    if (!name)
        return ev_fail(EVBUS_NOMEM, "out of memory for the name of a stream");
    st = bus->ops->bind(bus->state, sub, &cfg, ret, deadline);
    if (st != EVBUS_OK)
        return st;
    ev_store_relaxed(&sub->bound_to, ev_watch_bound(sub, name, deadline)); /* before the command that attaches */
    ev_store_release(&sub->stream, name);
    return EVBUS_OK;
}

/* ---- Subscribe --------------------------------------------------------------------------------------------------- */

bool ev_sub_make_past(struct evbus_sub *sub)
{
    struct ev_past *past = ev_calloc(1, sizeof *past);

    if (past && sub->consumer.exclusive) /* of others nothing is concluded: the least will do */
        past->span.most = past->given.most = ev_sub_window(sub) * 2;
    if (past && !sub->rebinding)
        past->stream = ev_load_relaxed(&sub->bound_to); /* nobody writes it now */
    sub->past = past;
    return past != NULL;
}

static void sub_free(struct evbus_sub *sub)
{
    if (sub->past) {
        ev_settled_fini(&sub->past->settled);
        ev_span_fini(&sub->past->span);
        ev_span_fini(&sub->past->given);
        ev_free(sub->past);
    }
    ev_tail_fini(sub);
    ev_frontier_fini(&sub->frontier);
    ev_free(sub->pauses);
    ev_free(sub);
}

/* Reserves the place in the list, so that of two concurrent calls one gets EVBUS_EXISTS. */
static evbus_status enlist(struct evbus_sub *sub)
{
    evbus *bus = sub->bus;
    evbus_status st = EVBUS_OK;

    pthread_mutex_lock(&bus->mutex);
    for (struct evbus_sub *s = bus->subs; s && st == EVBUS_OK; s = s->next)
        if (s->topic == sub->topic && !s->o.fanout && !sub->o.fanout && strcmp(s->group, sub->group) == 0)
            st = ev_fail(EVBUS_EXISTS, "topic '%s' is subscribed in group '%s' already", sub->topic->name, sub->group);
    if (st == EVBUS_OK) {
        sub->next = bus->subs;
        bus->subs = sub;
        ev_add_relaxed(&bus->n.subscriptions, 1); /* statistic */
        ev_add_acqrel(&sub->topic->handlers, 1);  /* T9 */
    }
    pthread_mutex_unlock(&bus->mutex);
    return st;
}

static void delist(struct evbus_sub *sub)
{
    evbus *bus = sub->bus;

    pthread_mutex_lock(&bus->mutex);
    struct evbus_sub **link = &bus->subs;
    while (*link && *link != sub)
        link = &(*link)->next;
    if (*link) {
        *link = sub->next;
        ev_sub_relaxed(&bus->n.subscriptions, 1); /* statistic */
        ev_sub_acqrel(&sub->topic->handlers, 1);  /* T9 */
    }
    pthread_mutex_unlock(&bus->mutex);
}

static void attach_on_loop(evbus *bus, struct ev_command *command)
{
    struct evbus_sub *sub = (struct evbus_sub *)((char *)command - offsetof(struct evbus_sub, bound));

    ev_dispatch_attach(bus, sub);
    ev_store_seqcst(&sub->state, EV_SUB_ATTACHED);
    if (ev_load_seqcst(&bus->phase) != EV_RUNNING)
        ev_dispatch_stop(bus, sub, false, ev_now(bus));
    ev_bus_changed(bus);
}

static bool attached(void *arg)
{
    struct evbus_sub *sub = arg;

    return ev_load_seqcst(&sub->state) != EV_SUB_BINDING || ev_load_seqcst(&sub->bus->phase) == EV_STOPPED;
}

static evbus_status sub_new(evbus *bus, const char *name, const evbus_sub_opts *o, struct evbus_sub **ret)
{
    struct ev_topic *topic = NULL;
    evbus_status st = ev_topic_get(bus, name, true, &topic);

    if (st != EVBUS_OK)
        return st;
    struct evbus_sub *sub = ev_calloc(1, sizeof *sub);
    if (!sub)
        return ev_fail(EVBUS_NOMEM, "out of memory for a subscription to '%s'", name);
    sub->bus = bus;
    sub->topic = topic;
    sub->o = *o;
    sub->group = "";
    st = choose_group(sub, o);
    if (st == EVBUS_OK)
        st = ev_retry_take(sub);
    sub->o.group = sub->group;
    sub->o.dead_letter_topic = NULL;
    fill_defaults(&sub->o);
    if (st != EVBUS_OK) {
        sub_free(sub);
        return st;
    }
    *ret = sub;
    return EVBUS_OK;
}

/* The record of the usual dead-letter topic is made with the first letter: most subscriptions never have one. */
static evbus_status choose_letters(struct evbus_sub *sub, const char *named)
{
    sub->letters = sub->envelope && (named || !sub->o.fanout);
    if (!sub->letters || (!named && !sub->tail))
        return EVBUS_OK;
    evbus_status st = named ? ev_topic_get(sub->bus, named, false, &sub->letter_topic) : ev_letter_topic_get(sub);
    return st == EVBUS_OK ? st : ev_fail_prefix(st, "evbus_sub_opts.dead_letter_topic");
}

/* Without a stream nothing keeps what is published before the broker knows of us. The doubt is not an error: it is
 * attached, and stays so. */
static void fence(evbus *bus, struct evbus_sub *sub)
{
    const int64_t deadline = ev_deadline(ev_now(bus), sub->o.timeout_ms);

    if (bus->ops->fence(bus->state, deadline) != EVBUS_OK)
        ev_log_some(bus, EVBUS_LOG_WARN, "consumer",
                    "topic '%s': whether the broker knows of the subscription already is not known: %s",
                    sub->topic->name, ev_detail());
}

static evbus_status start(struct evbus_sub *sub, const char *letters)
{
    evbus *bus = sub->bus;
    evbus_status st = ev_tail_init(sub);

    describe_consumer(sub);
    if (st != EVBUS_OK || (st = choose_letters(sub, letters)) != EVBUS_OK || (st = enlist(sub)) != EVBUS_OK) {
        sub_free(sub);
        return st;
    }
    ev_store_relaxed(&sub->active, !sub->consumer.exclusive); /* published by the command that attaches it */
    st = bind(sub, ev_deadline(ev_now(bus), sub->o.timeout_ms), &sub->binding);
    if (st != EVBUS_OK) {
        delist(sub);
        sub_free(sub);
        return st;
    }
    sub->bound.run = attach_on_loop;
    ev_loop_post(bus, &sub->bound);
    (void)ev_bus_await(bus, attached, sub, EV_NEVER);
    if (!ev_load_acquire(&sub->stream))
        fence(bus, sub);
    if (ev_load_seqcst(&sub->state) == EV_SUB_BINDING) /* the loop ended before it saw the command; close frees it */
        return ev_fail(EVBUS_CLOSED, "the bus is shut down");
    return EVBUS_OK;
}

static evbus_status subscribe(evbus *bus, const char *topic, evbus_handler fn, void *ctx, const evbus_sub_opts *opts,
                              bool envelope, evbus_sub **ret_sub)
{
    evbus_sub_opts o;
    struct evbus_sub *sub = NULL;
    evbus_status st = ev_bus_check(bus);

    if (st != EVBUS_OK || (st = ev_opts_read(&o, sizeof o, opts, "evbus_sub_opts")) != EVBUS_OK ||
        (st = check(&o)) != EVBUS_OK)
        return st;
    if (!fn)
        return ev_fail(EVBUS_INVALID, "subscribe: the handler is NULL");
    if (o.rate_per_s && !envelope)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.rate_per_s: plain messages would only be lost later");
    if (o.on_unhandled == EVBUS_UNHANDLED_ACK && (!envelope || o.fanout))
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.on_unhandled: only a group's envelopes wait for a handler");
    if ((st = ev_tail_check(&o, envelope)) != EVBUS_OK || (st = ev_breaker_check(&o, envelope)) != EVBUS_OK)
        return st;
    if (o.ack_mode == EVBUS_ACK_FRONTIER && !envelope)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.ack_mode: nothing is acknowledged of plain messages");
    if (o.ack_mode == EVBUS_ACK_FRONTIER && o.on_unhandled == EVBUS_UNHANDLED_ACK)
        return ev_fail(EVBUS_UNSUPPORTED,
                       "evbus_sub_opts.on_unhandled: a frontier ack would settle what has failed too");
    const char *letters = o.dead_letter_topic;
    if ((st = sub_new(bus, topic, &o, &sub)) != EVBUS_OK)
        return st;
    sub->fn = fn;
    sub->ctx = ctx;
    sub->envelope = envelope;
    st = start(sub, letters);
    if (st == EVBUS_OK && ret_sub)
        *ret_sub = sub;
    return st;
}

evbus_status evbus_subscribe(evbus *bus, const char *topic, evbus_handler fn, void *ctx, const evbus_sub_opts *opts,
                             evbus_sub **ret_sub)
{
    return subscribe(bus, topic, fn, ctx, opts, false, ret_sub);
}

evbus_status evbus_subscribe_envelope(evbus *bus, const char *topic, evbus_handler fn, void *ctx,
                                      const evbus_sub_opts *opts, evbus_sub **ret_sub)
{
    return subscribe(bus, topic, fn, ctx, opts, true, ret_sub);
}

/* ---- Unsubscribe ------------------------------------------------------------------------------------------------- */

static void halt_on_loop(evbus *bus, struct ev_command *command)
{
    struct evbus_sub *sub = (struct evbus_sub *)((char *)command - offsetof(struct evbus_sub, halt));

    sub->dismissed = true;
    ev_dispatch_stop(bus, sub, false, ev_now(bus));
}

static bool gone(void *arg)
{
    struct evbus_sub *sub = arg;

    return ev_load_seqcst(&sub->state) == EV_SUB_GONE;
}

static bool gone_or_end(void *arg)
{
    struct evbus_sub *sub = arg;

    return gone(sub) || ev_load_seqcst(&sub->bus->phase) == EV_STOPPED;
}

static void dispose(evbus *bus, struct evbus_sub *sub)
{
    (void)ev_keeper_cancel(bus, &sub->rebind);
    if (sub->binding)
        bus->ops->unbind(bus->state, sub->binding);
    delist(sub);
    sub_free(sub);
}

/* Frees an unsubscribed subscription whose caller could not wait (it was inside its handler). */
static void dispose_chore(evbus *bus, struct ev_chore *chore)
{
    dispose(bus, (struct evbus_sub *)((char *)chore - offsetof(struct evbus_sub, rebind)));
}

void ev_sub_ended(struct evbus_sub *sub)
{
    evbus *bus = sub->bus;

    if (ev_load_seqcst(&sub->state) == EV_SUB_GONE || sub->rebinding || !ev_tail_ended(bus, sub))
        return;
    ev_dispatch_forget(bus, sub);
    if (sub->left_unhandled > 0)
        ev_event(bus, EVBUS_EVENT_UNHANDLED, EVBUS_OK, sub->left_unhandled, sub->topic->name, sub->group, NULL,
                 "its subscription ended (on_unhandled)");
    if (sub->nobody_waits) {
        sub->rebind.run = dispose_chore;
        ev_store_seqcst(&sub->state, EV_SUB_GONE);
        ev_keeper_post(bus, &sub->rebind, ev_now(bus));
        return;
    }
    ev_store_seqcst(&sub->state, EV_SUB_GONE);
    ev_bus_changed(bus);
}

void ev_sub_left(struct evbus_sub *sub)
{
    if (!sub->leaving || sub->left)
        return;
    sub->left = true;
    ev_sub_ended(sub);
}

void ev_sub_check_ended(struct evbus_sub *sub)
{
    if (sub->held > 0 || !sub->detached || !sub->quiet || sub->stopping || sub->leaving)
        return;
    sub->leaving = true;
    ev_frontier_end(sub->bus, sub);
    if (sub->binding) /* also one whose consumer was lost: its turn has to be given back */
        sub->bus->ops->leave(sub->bus->state, sub->binding);
    else
        ev_sub_left(sub);
}

evbus_status evbus_unsubscribe(evbus_sub *sub)
{
    if (!sub)
        return ev_fail(EVBUS_INVALID, "evbus_unsubscribe: sub is NULL");
    evbus *bus = sub->bus;
    evbus_status st = ev_bus_check_alive(bus);
    if (st != EVBUS_OK)
        return st;
    const bool inside = ev_in_handler_of(sub);
    pthread_mutex_lock(&bus->mutex);
    const bool again = sub->unsubscribed;
    sub->unsubscribed = true;
    pthread_mutex_unlock(&bus->mutex);
    if (again)
        return ev_fail(EVBUS_INVALID, "evbus_unsubscribe: it is unsubscribed already");
    if (ev_load_seqcst(&bus->phase) == EV_STOPPED)
        return EVBUS_OK; /* the bus's end stopped it; evbus_close frees it */
    sub->nobody_waits = inside;
    if (inside && sub->envelope)
        ev_store_release(&sub->stop, 1); /* nothing of the run that this handler is in starts after it */
    sub->halt.run = halt_on_loop;
    ev_loop_post(bus, &sub->halt);
    if (inside)
        return EVBUS_OK;
    (void)ev_bus_await(bus, gone_or_end, sub, EV_NEVER);
    if (gone(sub))
        dispose(bus, sub);
    return EVBUS_OK;
}

/* ---- A lost consumer --------------------------------------------------------------------------------------------- */

static void adopt_on_loop(evbus *bus, struct ev_command *command)
{
    struct evbus_sub *sub = (struct evbus_sub *)((char *)command - offsetof(struct evbus_sub, bound));

    sub->rebinding = false;
    if (sub->detached ||
        !sub->fresh) { /* it stops meanwhile: the new one was never attached, the old one stays for acks */
        if (sub->fresh)
            bus->ops->unbind(bus->state, sub->fresh);
        sub->fresh = NULL;
        if (sub->left)
            ev_sub_ended(sub);
        return;
    }
    if (sub->binding)
        bus->ops->unbind(bus->state, sub->binding);
    sub->binding = sub->fresh;
    sub->fresh = NULL;
    const uint64_t stream = ev_load_relaxed(&sub->bound_to); /* nobody writes it now */
    if (sub->past && sub->past->stream != stream) {
        sub->past->stream = stream;
        ev_sub_forget_given(sub); /* sequences of another stream */
        for (evbus_msg *m = sub->oldest; m; m = m->newer)
            m->past_stream = true;
    }
    ev_dispatch_rebound(bus, sub);
}

/* Told once for each cause, however often it is tried. While there is no link, that is told and nothing else. */
static void tell_rebind(evbus *bus, struct evbus_sub *sub, evbus_status st, bool link)
{
    char text[EV_DETAIL_MAX + 64];

    if (st == EVBUS_OK) {
        (void)snprintf(text, sizeof text, "its consumer is bound again after %u attempts", sub->rebind_tries);
        if (sub->rebind_told)
            ev_event(bus, EVBUS_EVENT_RESUMED, EVBUS_OK, 0, sub->topic->name, sub->group, NULL, text);
        sub->rebind_tries = sub->rebind_told = 0;
        return;
    }
    if (!link || st == EVBUS_DISCONNECTED || (sub->rebind_told & UINT32_C(1) << st))
        return;
    sub->rebind_told |= UINT32_C(1) << st;
    (void)snprintf(text, sizeof text, "its consumer cannot be bound again, which is tried each second: %s",
                   ev_detail());
    ev_event(bus, EVBUS_EVENT_CONSUMER_LOST, st, sub->rebind_tries, sub->topic->name, sub->group, NULL, text);
}

static void rebind_chore(evbus *bus, struct ev_chore *chore)
{
    struct evbus_sub *sub = (struct evbus_sub *)((char *)chore - offsetof(struct evbus_sub, rebind));
    const bool link = ev_link_is_up(bus);
    const evbus_status st = bind(sub, ev_now(bus) + 2 * EV_SEC, &sub->fresh);

    sub->rebind_tries++;
    pthread_mutex_lock(&bus->mutex);
    const bool unwanted = sub->unsubscribed;
    pthread_mutex_unlock(&bus->mutex);
    if (!unwanted)
        tell_rebind(bus, sub, st, link && ev_link_is_up(bus));
    if (st == EVBUS_OK || unwanted) {
        sub->bound.run = adopt_on_loop;
        ev_loop_post(bus, &sub->bound);
        return;
    }
    if (ev_load_seqcst(&bus->phase) == EV_RUNNING)
        ev_keeper_post(bus, chore, ev_now(bus) + REBIND_EVERY);
}

static void post_rebind(struct evbus_sub *sub)
{
    ev_store_release(&sub->topic->stream_state, EV_STREAM_UNKNOWN);
    sub->rebind.run = rebind_chore;
    ev_keeper_post(sub->bus, &sub->rebind, ev_now(sub->bus));
}

static void begin_rebind(struct evbus_sub *sub)
{
    sub->rebinding = true;
    ev_dispatch_gather(sub->bus, sub, false, ev_now(sub->bus)); /* whoever began it does not end it any more */
}

void ev_sub_rebind(struct evbus_sub *sub, evbus_status cause, const char *text)
{
    evbus *bus = sub->bus;

    if (sub->rebinding || sub->detached)
        return;
    begin_rebind(sub);
    ev_event(bus, EVBUS_EVENT_CONSUMER_LOST, cause, 0, sub->topic->name, sub->group, NULL, text);
    bus->ops->detach(bus->state, sub->binding);
    post_rebind(sub);
}

void ev_sub_bind_again(struct evbus_sub *sub)
{
    begin_rebind(sub);
    sub->moving = true;
    sub->bus->ops->detach(sub->bus->state, sub->binding);
}

void ev_sub_moved(struct evbus_sub *sub)
{
    if (!sub->moving)
        return;
    sub->moving = false;
    post_rebind(sub);
}

void ev_subs_fini(evbus *bus)
{
    while (bus->subs) {
        struct evbus_sub *sub = bus->subs;
        bus->subs = sub->next;
        if (sub->binding)
            bus->ops->unbind(bus->state, sub->binding);
        if (sub->fresh)
            bus->ops->unbind(bus->state, sub->fresh);
        sub_free(sub);
    }
}
