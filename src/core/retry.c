/* SPDX-License-Identifier: Apache-2.0 */
/* How long a message that failed rests before its next run: the retry part of evbus_sub_opts. */
#include "core/message.h"

#include <string.h>

evbus_status ev_retry_check(const evbus_sub_opts *o)
{
    if (o->retry_max_ms && o->retry_min_ms > o->retry_max_ms)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.retry_min_ms: %u is above retry_max_ms (%u)", o->retry_min_ms,
                       o->retry_max_ms);
    if (o->retry_factor_pct && (o->retry_factor_pct < 100 || o->retry_factor_pct > 10000))
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.retry_factor_pct: %u is outside 100..10000", o->retry_factor_pct);
    if (o->retry_jitter_pct > 100 && o->retry_jitter_pct != EVBUS_NOWAIT)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.retry_jitter_pct: %u is outside 0..100", o->retry_jitter_pct);
    if (o->retry_list_ms && (o->retry_min_ms || o->retry_max_ms || o->retry_factor_pct))
        return ev_fail(EVBUS_INVALID,
                       "evbus_sub_opts.retry_list_ms excludes retry_min_ms, retry_max_ms and retry_factor_pct");
    return EVBUS_OK;
}

/* The list's pauses; the application's memory is not looked at later. */
evbus_status ev_retry_take(struct evbus_sub *sub)
{
    const uint32_t *list = sub->o.retry_list_ms;

    for (; list && list[sub->pause_count]; sub->pause_count++)
        if (sub->pause_count == EV_PAUSES_MAX)
            return ev_fail(EVBUS_INVALID, "evbus_sub_opts.retry_list_ms: more than %d pauses", EV_PAUSES_MAX);
    if (list && sub->pause_count == 0)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.retry_list_ms: it has no pause");
    if (list && !(sub->pauses = ev_malloc(sub->pause_count * sizeof *list)))
        return ev_fail(EVBUS_NOMEM, "out of memory for retry_list_ms");
    if (list)
        memcpy(sub->pauses, list, sub->pause_count * sizeof *list);
    if (list && !sub->o.attempts_max)
        sub->o.attempts_max = sub->pause_count + 1;
    sub->o.retry_list_ms = NULL;
    return EVBUS_OK;
}

/* Before jitter: from the list, or growing by the factor. */
static uint32_t pause_ms(const struct evbus_sub *sub, uint32_t attempt)
{
    uint64_t ms = sub->o.retry_min_ms;

    if (sub->pause_count)
        return sub->pauses[attempt < sub->pause_count ? attempt - 1 : sub->pause_count - 1];
    for (uint32_t i = 1; i < attempt && ms < sub->o.retry_max_ms && sub->o.retry_factor_pct > 100; i++)
        ms = (ms * sub->o.retry_factor_pct + 99) / 100;
    return ms < sub->o.retry_max_ms ? (uint32_t)ms : sub->o.retry_max_ms;
}

int64_t ev_retry_pause(const evbus_msg *m)
{
    const struct evbus_sub *sub = m->sub;

    if (m->retry_after_ms)
        return (int64_t)m->retry_after_ms * EV_MS;
    const int64_t ns = pause_ms(sub, m->attempt) * EV_MS;
    const int64_t spread = sub->o.retry_jitter_pct == EVBUS_NOWAIT ? 0 : ns / 100 * sub->o.retry_jitter_pct;
    return ns - spread + (int64_t)(ev_random() % (uint64_t)(spread * 2 + 1));
}
