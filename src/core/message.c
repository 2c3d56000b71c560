/* SPDX-License-Identifier: Apache-2.0 */
/* Running handlers, and what a handler may ask of its message. */
#include "core/message.h"

#include <stddef.h>

#define BATCH_NS (200 * 1000) /* a finished message is not held back longer than this for the rest of its run */

/* The callback this thread is inside of. */
static _Thread_local struct {
    const evbus *bus;
    const struct evbus_sub *sub;
} inside;

bool ev_in_callback(const evbus *bus)
{
    return inside.bus == bus;
}

bool ev_in_handler_of(const struct evbus_sub *sub)
{
    return inside.sub == sub;
}

void ev_callback_enter(const evbus *bus, const struct evbus_sub *sub)
{
    inside.bus = bus;
    inside.sub = sub;
}

void ev_callback_leave(void)
{
    inside.bus = NULL;
    inside.sub = NULL;
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

/* Finished messages on their way back, pushed as one. */
struct batch {
    evbus_msg *head, *tail;
    int64_t since;
};

static void flush(evbus *bus, struct batch *b)
{
    if (!b->head)
        return;
    (void)ev_ring_push(&bus->in.done, b->head); /* D3; never full: dispatch.h */
    ev_loop_wake(bus);
    b->head = b->tail = NULL;
}

static void add(struct batch *b, evbus_msg *m, uint8_t verdict, int64_t now)
{
    m->verdict = verdict;
    m->next = NULL;
    if (b->tail)
        b->tail->next = m;
    else
        b->head = m, b->since = now;
    b->tail = m;
}

static void add_not_run(struct batch *b, evbus_msg *m, int64_t now)
{
    while (m) {
        evbus_msg *next = m->next;
        add(b, m, EV_VERDICT_NOT_RUN, now);
        m = next;
    }
}

/* True if the message may be started: nobody stopped its subscription or took it back, and the right to it holds. */
static bool claim(evbus_msg *m, int64_t now)
{
    uint32_t seen = EV_CLAIM_FREE;

    if (m->sub->consumer.exclusive && now >= ev_load_acquire(&m->bus->rights_until) && /* D10 */
        !EV_BUG(EV_BUG_RIGHT_FORGOTTEN))
        return false;
    if (ev_load_relaxed(&m->sub->breaker.state) != EVBUS_BREAKER_CLOSED && !m->probe) /* hint: breaker.h */
        return false;
    return !ev_load_acquire(&m->sub->stop) && ev_cas_acqrel(&m->claim, &seen, EV_CLAIM_WORKER); /* D6 */
}

static evbus_verdict call(evbus_msg *m)
{
    inside.sub = m->sub;
    const evbus_verdict v = m->sub->fn(m, m->sub->ctx);
    inside.sub = NULL;
    return v;
}

void ev_msg_run(struct ev_job *job)
{
    evbus_msg *m = (evbus_msg *)((char *)job - offsetof(evbus_msg, job));
    evbus *bus = m->bus;
    struct batch done = {0};

    inside.bus = bus;
    while (m) {
        evbus_msg *rest = m->next;
        const int64_t now = ev_now(bus);
        if (!claim(m, now)) {
            add_not_run(&done, m, now);
            break;
        }
        ev_store_relaxed(&m->started_ns, now); /* hint for the loop's search for overdue handlers */
        const evbus_verdict v = call(m);
        if (v == EVBUS_DEFER) {
            /* Its settler may hand it back at once, and then the rest of the run must be back already. */
            ev_store_relaxed(&m->sub->defers, 1); /* hint: ev_frontier_finish_to */
            add_not_run(&done, rest, now);
            flush(bus, &done);
            if (ev_or_acqrel(&m->defer, EV_DEFER_RETURNED) & EV_DEFER_SETTLED) /* D5 */
                add(&done, m, m->verdict, now);
            break;
        }
        const bool settled = ev_load_acquire(&m->defer) & EV_DEFER_SETTLED; /* D5: settled inside its handler */
        const uint8_t verdict = settled ? m->verdict : (uint8_t)v;
        add(&done, m, verdict, now);
        if (verdict != EVBUS_ACK) {
            add_not_run(&done, rest, now);
            break;
        }
        if (rest && ev_now(bus) - done.since > BATCH_NS)
            flush(bus, &done);
        m = rest;
    }
    flush(bus, &done);
    inside.bus = NULL;
}

/* ---- What a handler may ask -------------------------------------------------------------------------------------- */

evbus_status evbus_msg_settle(const evbus_msg *msg, evbus_verdict verdict)
{
    evbus_msg *m = (evbus_msg *)msg;

    if (!m)
        return ev_fail(EVBUS_INVALID, "evbus_msg_settle: msg is NULL");
    evbus *bus = m->bus;
    evbus_status st = ev_bus_check_alive(bus);
    if (st != EVBUS_OK)
        return st;
    if (verdict != EVBUS_ACK && verdict != EVBUS_RETRY && verdict != EVBUS_REJECT)
        return ev_fail(EVBUS_INVALID, "evbus_msg_settle: verdict %d is not ACK, RETRY or REJECT", (int)verdict);
    if (ev_load_acquire(&m->defer) & EV_DEFER_SETTLED)
        return ev_fail(EVBUS_INVALID, "evbus_msg_settle: the message is settled already");
    m->verdict = (uint8_t)verdict;
    const uint32_t before = ev_or_acqrel(&m->defer, EV_DEFER_SETTLED); /* D5 */
    if (before & EV_DEFER_SETTLED)
        return ev_fail(EVBUS_INVALID, "evbus_msg_settle: the message is settled already");
    if (!(before & EV_DEFER_RETURNED))
        return EVBUS_OK; /* its handler still runs: the worker hands it back */
    m->next = NULL;
    (void)ev_ring_push(&bus->in.done, m); /* D3 */
    ev_loop_wake(bus);
    return EVBUS_OK;
}

void evbus_msg_retry_after(const evbus_msg *msg, uint32_t ms)
{
    if (msg)
        ((evbus_msg *)msg)->retry_after_ms = ms;
}

void evbus_msg_set_reason(const evbus_msg *msg, const char *text)
{
    evbus_msg *m = (evbus_msg *)msg;

    if (!m || !text)
        return;
    char *copy = ev_strndup(text, strnlen(text, 255));
    if (!copy)
        return;
    ev_free(m->reason);
    m->reason = copy;
}

evbus_view evbus_msg_data(const evbus_msg *msg)
{
    return msg ? (evbus_view){msg->data, msg->len} : (evbus_view){NULL, 0};
}

const evbus_envelope *evbus_msg_envelope(const evbus_msg *msg)
{
    return msg && msg->sub->envelope ? &msg->env : NULL;
}

const char *evbus_msg_topic(const evbus_msg *msg)
{
    return msg ? msg->topic : "";
}

const char *evbus_msg_group(const evbus_msg *msg)
{
    return msg ? msg->sub->group : "";
}

const char *evbus_msg_stream(const evbus_msg *msg)
{
    const char *stream = msg && msg->stream_seq ? ev_load_acquire(&msg->sub->stream) : NULL;

    return stream ? stream : "";
}

uint64_t evbus_msg_sequence(const evbus_msg *msg)
{
    return msg ? msg->stream_seq : 0;
}

uint32_t evbus_msg_delivery_count(const evbus_msg *msg)
{
    return msg ? msg->delivery_count : 0;
}

bool evbus_msg_redelivered(const evbus_msg *msg)
{
    return msg && msg->delivery_count > 1;
}

uint32_t evbus_msg_attempt(const evbus_msg *msg)
{
    return msg ? msg->attempt : 0;
}

int64_t evbus_msg_stored_ns(const evbus_msg *msg)
{
    return msg ? msg->stored_ns : 0;
}

const char *evbus_msg_header(const evbus_msg *msg, const char *name)
{
    return msg && name ? msg->bus->ops->header(msg->bus->state, msg->token, name) : NULL;
}
