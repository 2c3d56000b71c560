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
    uint32_t rounds, refused_rounds; /* failed, in a row: how long the pause is */
    uint32_t attempts;               /* failed since a session was up, or since ops->reconnect */
    bool begun;                      /* this round: the core was told */
    bool limited;                    /* a session was up once: reconnect_attempts_max counts */
    int64_t not_before;
};

/* The cluster as a server sees it replaces what an earlier one told. `found` is libnats's memory, freed here; `via` is
 * the server that told: the discovered ones want its credentials. */
void ev_nats_plan_merge(struct ev_nats_plan *p, char **found, int count, const struct ev_nats_server *via);
/* servers[next] failed. True: all were tried, which is a failed attempt, and not_before is after a pause. */
bool ev_nats_plan_failed(struct ev_nats_plan *p, const struct ev_nats_config *cfg, bool refused);
/* The session with servers[next] ended. True: it never was up, which is a failed attempt. */
bool ev_nats_plan_ended(struct ev_nats_plan *p, const struct ev_nats_config *cfg, enum ev_nats_ending ending,
                        bool was_up);
/* As many attempts failed as there may be. */
bool ev_nats_plan_spent(const struct ev_nats_plan *p, const struct ev_nats_config *cfg);
/* The next attempt is now, and the first one again. */
void ev_nats_plan_again(struct ev_nats_plan *p);
void ev_nats_plan_free(struct ev_nats_plan *p);

#endif
