/* SPDX-License-Identifier: Apache-2.0 */
#include "core/rate.h"

#include "core/sub.h"

/* When the token can be used that is taken at `now`; *ret_next: the bucket after it. */
static int64_t take(int64_t bucket, int64_t now, uint32_t per_s, uint32_t burst, int64_t *ret_next)
{
    const int64_t step = EV_SEC / per_s, from = bucket > now ? bucket : now;
    const int64_t at = from - step * (int64_t)((burst ? burst : 1) - 1);

    *ret_next = from + step;
    return at > now ? at : now;
}

struct turn {
    evbus *bus;
    int64_t at;
};

static bool has_come(void *arg)
{
    const struct turn *t = arg;

    return ev_now(t->bus) >= t->at || ev_load_seqcst(&t->bus->phase) != EV_RUNNING;
}

evbus_status ev_rate_publish(struct ev_topic *topic, const evbus_topic_opts *cfg, int64_t deadline)
{
    struct turn turn = {.bus = topic->bus};
    int64_t seen = ev_load_relaxed(&topic->rate), next; /* checked by the exchange */

    do {
        turn.at = take(seen, ev_now(topic->bus), cfg->rate_per_s, cfg->rate_burst, &next);
        if (turn.at > ev_now(topic->bus) && turn.at > deadline) {
            ev_add_relaxed(&topic->bus->n.backpressure, 1); /* statistic */
            return ev_fail(EVBUS_BACKPRESSURE,
                           "topic '%s': rate_per_s (%u) is used up for longer than the call may wait", topic->name,
                           cfg->rate_per_s);
        }
    } while (!ev_cas_acqrel(&topic->rate, &seen, next)); /* counts only: nothing is published by it */
    if (!has_come(&turn))
        (void)ev_bus_await(topic->bus, has_come, &turn, turn.at);
    return EVBUS_OK;
}

bool ev_rate_run(struct ev_agg *agg, int64_t now)
{
    struct evbus_sub *sub = agg->sub;

    if (agg->token) {
        agg->token = false;
        return true;
    }
    const int64_t at = take(sub->rate, now, sub->o.rate_per_s, sub->o.rate_burst, &sub->rate);
    if (at <= now)
        return true;
    agg->token = true;
    agg->ready_at = at;
    return false;
}
