/* SPDX-License-Identifier: Apache-2.0 */
/* What a backend says that none of the small cores of these tests listens to. Each of them includes it once. */
#ifndef EV_TESTS_HOST_UNHEARD_H
#define EV_TESTS_HOST_UNHEARD_H

#include "core/backend.h"

void ev_host_connecting(struct ev_host *host)
{
    (void)host;
}

void ev_host_next_attempt(struct ev_host *host, bool failed, int64_t next)
{
    (void)host, (void)failed, (void)next;
}

void ev_host_gather(struct ev_host *host, struct evbus_sub *sub, bool on)
{
    (void)host, (void)sub, (void)on;
}

void ev_host_floor(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq)
{
    (void)host, (void)sub, (void)stream_seq;
}

bool ev_host_let_go(struct ev_host *host, struct evbus_sub *sub, const struct ev_missing *missing)
{
    (void)host, (void)sub;
    return missing->certainly;
}

void ev_host_certain(struct ev_host *host, struct evbus_sub *sub, const struct ev_certainty *certain)
{
    (void)host, (void)sub, (void)certain;
}

uint64_t ev_host_count_below(struct ev_host *host, struct evbus_sub *sub, uint64_t consumer_seq, uint64_t floor_seq)
{
    (void)host, (void)sub, (void)floor_seq;
    return consumer_seq;
}

bool ev_host_settled(struct ev_host *host, struct evbus_sub *sub, uint64_t stream_seq, int64_t stored_ns)
{
    (void)host, (void)sub, (void)stream_seq, (void)stored_ns;
    return false;
}

uint32_t ev_host_unsettled(struct ev_host *host, struct evbus_sub *sub, uint64_t first, uint64_t last)
{
    (void)host, (void)sub, (void)first, (void)last;
    return 0;
}

void ev_host_active(struct ev_host *host, struct evbus_sub *sub, bool active)
{
    (void)host, (void)sub, (void)active;
}

void ev_host_rights(struct ev_host *host, int64_t until)
{
    (void)host, (void)until;
}

#endif
