/* SPDX-License-Identifier: Apache-2.0 */
#include "core/outage.h"

struct passage {
    struct ev_topic *topic;
    const evbus_topic_opts *cfg;
    uint32_t size;
    bool held;
};

static bool ends(const struct ev_topic *topic)
{
    return ev_load_seqcst(&topic->bus->phase) != EV_RUNNING;
}

/* At a closed gate one message is wanted: the probe. */
static bool gate_passable(const struct ev_topic *topic)
{
    return ev_load_seqcst(&topic->gate) == EV_GATE_OPEN ||
           ev_load_relaxed(&topic->held_hint) == 0; /* hint: two probes do no harm */
}

/* Waits until try(arg), woken through the publishers' park. False: the deadline passed. */
static bool await(evbus *bus, bool (*try)(void *arg), void *arg, int64_t deadline)
{
    struct ev_park *room = &bus->slots.room;

    if (try(arg))
        return true;
    if (bus->manual)
        return ev_bus_await(bus, try, arg, deadline);
    for (;;) {
        const uint32_t ticket = ev_park_prepare(room);
        if (try(arg)) {
            ev_park_cancel(room);
            return true;
        }
        if (!ev_park_wait(room, ticket, bus->clock, deadline))
            return try(arg);
    }
}

/* ---- Holding ----------------------------------------------------------------------------------------------------- */

void ev_outage_release(struct ev_topic *topic, bool held, uint32_t size)
{
    if (!held)
        return;
    ev_sub_acqrel(&topic->outage_bytes, size); /* P10 */
    ev_sub_acqrel(&topic->outage_msgs, 1);     /* P10 */
    ev_park_wake(&topic->bus->slots.room, UINT32_MAX);
}

void ev_outage_forget(struct ev_slot *slot)
{
    ev_outage_release(slot->topic, slot->outage, slot->charged);
    slot->outage = false;
}

/* Adds first and looks then: two who come together may both be refused, never both taken. */
static bool reserve(struct passage *p)
{
    struct ev_topic *t = p->topic;
    const uint64_t bytes = ev_add_acqrel(&t->outage_bytes, p->size) + p->size; /* P9 */
    const uint32_t msgs = ev_add_acqrel(&t->outage_msgs, 1) + 1;               /* P9 */

    p->held = msgs <= p->cfg->outage_msgs_max && bytes <= p->cfg->outage_bytes_max;
    if (!p->held) {
        ev_sub_acqrel(&t->outage_bytes, p->size); /* P10 */
        ev_sub_acqrel(&t->outage_msgs, 1);        /* P10 */
    }
    return p->held;
}

/* ---- Passing ----------------------------------------------------------------------------------------------------- */

static bool may_pass(void *arg)
{
    struct passage *p = arg;
    const struct ev_topic *t = p->topic;

    if (ends(t) || ev_link_given_up(t->bus)) /* refused by whoever comes next */
        return true;
    const bool up = ev_link_is_up(t->bus);
    switch (p->cfg->outage) {
    case EVBUS_OUTAGE_FAIL:
    case EVBUS_OUTAGE_WAIT:
        return up && gate_passable(t);
    case EVBUS_OUTAGE_HOLD: /* also behind what is held already, so that the bound is one of the topic's whole queue */
        return (up && ev_load_seqcst(&t->gate) == EV_GATE_OPEN && ev_load_relaxed(&t->held_hint) == 0) || reserve(p);
    default:
        return gate_passable(t);
    }
}

static evbus_status away(const struct ev_topic *topic, uint32_t policy)
{
    if (policy && !ev_link_is_up(topic->bus))
        return ev_fail(EVBUS_DISCONNECTED, "topic '%s': no connection to the broker; nothing was accepted",
                       topic->name);
    ev_add_relaxed(&topic->bus->n.backpressure, 1); /* statistic */
    return ev_fail(EVBUS_BACKPRESSURE, "topic '%s': nobody answers for its stream; its gate is closed", topic->name);
}

evbus_status ev_outage_pass(struct ev_topic *topic, const evbus_topic_opts *cfg, uint32_t size, int64_t deadline,
                            bool *ret_held)
{
    struct passage p = {.topic = topic, .cfg = cfg, .size = size};
    const bool passed = cfg->outage == EVBUS_OUTAGE_FAIL ? may_pass(&p) : await(topic->bus, may_pass, &p, deadline);

    if (ev_link_given_up(topic->bus)) {
        ev_outage_release(topic, p.held, size);
        return ev_reconnect_given_up(topic->bus);
    }
    *ret_held = p.held;
    if (passed)
        return EVBUS_OK;
    if (cfg->outage != EVBUS_OUTAGE_HOLD)
        return away(topic, cfg->outage);
    ev_add_relaxed(&topic->bus->n.backpressure, 1); /* statistic */
    return ev_fail(EVBUS_BACKPRESSURE,
                   "topic '%s': the broker is away, and as much is held as outage_msgs_max (%u) and outage_bytes_max "
                   "(%llu) allow",
                   topic->name, cfg->outage_msgs_max, (unsigned long long)cfg->outage_bytes_max);
}

static bool is_up(void *arg)
{
    const struct passage *p = arg;

    return ev_link_is_up(p->topic->bus) || ends(p->topic) || ev_link_given_up(p->topic->bus);
}

evbus_status ev_outage_known(struct ev_topic *topic, const evbus_topic_opts *cfg, int64_t deadline, bool *ret_stored)
{
    struct passage p = {.topic = topic, .cfg = cfg};
    const bool stored = cfg->persistence != EVBUS_EPHEMERAL && ev_load_acquire(&topic->stream) != NULL;
    const bool away_now = !ev_link_is_up(topic->bus) || ev_load_seqcst(&topic->gate) == EV_GATE_CLOSED;

    if (!away_now)
        return EVBUS_TIMEOUT;
    if (ev_link_given_up(topic->bus))
        return ev_reconnect_given_up(topic->bus);
    if (cfg->outage == EVBUS_OUTAGE_FAIL && !ev_link_is_up(topic->bus))
        return away(topic, cfg->outage);
    if (cfg->outage == EVBUS_OUTAGE_WAIT && !await(topic->bus, is_up, &p, deadline))
        return away(topic, cfg->outage);
    if (cfg->outage != EVBUS_OUTAGE_HOLD || !stored)
        return EVBUS_TIMEOUT;
    *ret_stored = true; /* its stream was there; if it is gone, the broker will say so of each message */
    return EVBUS_OK;
}
