/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's plan: one keeper's at a time, so no locks. */
#ifndef EV_BACKEND_NATS_SERVERS_H
#define EV_BACKEND_NATS_SERVERS_H

#include "backend/nats_internal.h"

/* Which server is next, and when. One keeper's at a time; handed on when a thread is abandoned. */
struct ev_nats_plan {
    struct ev_nats_server servers[EV_NATS_SERVERS_MAX];
    uint32_t count;
    uint32_t configured; /* the first ones; the rest was discovered */
    uint32_t next;
    uint32_t last;                   /* of the last session */
    uint32_t tried;                  /* in this round */
    bool refused;                    /* credentials, in this round */
    uint32_t rounds, refused_rounds; /* failed, in a row */
    int64_t not_before;
};

/* The cluster as a server sees it replaces what an earlier one told. `found` is libnats's memory, freed here; `via` is
 * the server that told: the discovered ones want its credentials. */
void ev_nats_plan_merge(struct ev_nats_plan *p, char **found, int count, const struct ev_nats_server *via);
/* The attempt at servers[next] failed; pauses once all were tried. */
void ev_nats_plan_failed(struct ev_nats_plan *p, const struct ev_nats_config *cfg, bool refused);
/* The session with servers[next] ended. */
void ev_nats_plan_ended(struct ev_nats_plan *p, const struct ev_nats_config *cfg, enum ev_nats_ending ending);
void ev_nats_plan_free(struct ev_nats_plan *p);

#endif
