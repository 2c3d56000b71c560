/* SPDX-License-Identifier: Apache-2.0 */
/* The sleeping half of crew.h; the edges and why `waking` is cleared in three places are explained there. */
#include "conc/crew.h"

void ev_crew_init(struct ev_crew *crew)
{
    ev_park_init(&crew->park);
    atomic_init(&crew->waking, 0);
}

/*
 * The load spares the line a write while a wake is in flight, which is most of a burst. The swap decides between wakers
 * that saw 0 together. A waker that stops right after its swap holds the others back, and the one it was going to wake
 * stays asleep until it goes on: the work itself is seen by every worker that looks meanwhile.
 */
void ev_crew_wake_one(struct ev_crew *crew)
{
    if (ev_load_seqcst(&crew->waking) != 0 || ev_swap_seqcst(&crew->waking, 1) != 0) /* G1 */
        return;
    ev_park_wake(&crew->park, 1);
}

static void clear_waking(struct ev_crew *crew)
{
    ev_store_seqcst(&crew->waking, 0); /* G2 */
}

enum ev_crew_woken ev_crew_sleep(struct ev_crew *crew, bool (*has_work)(void *), void *arg, int64_t deadline_system_ns)
{
    const uint32_t ticket = ev_park_prepare(&crew->park); /* D1 */

    if (!EV_BUG(EV_BUG_CREW_CLEAR_ENTERING))
        clear_waking(crew);
    if (has_work(arg)) {
        ev_park_cancel(&crew->park);
        if (!EV_BUG(EV_BUG_CREW_CLEAR_WORKING))
            clear_waking(crew);
        return EV_CREW_WORK;
    }

    const bool woken = ev_park_wait(&crew->park, ticket, NULL, deadline_system_ns);
    if (!EV_BUG(EV_BUG_CREW_CLEAR_LEAVING))
        clear_waking(crew);
    if (woken || (!EV_BUG(EV_BUG_CREW_NO_LAST_LOOK) && has_work(arg))) /* F */
        return EV_CREW_WORK;
    return EV_CREW_TIMEOUT;
}

/* Sleepers that were woken and have not yet withdrawn are in this number too. */
uint32_t ev_crew_idle(const struct ev_crew *crew)
{
    return ev_load_relaxed(&crew->park.waiters); /* hint */
}

/* `waking` has no part in this: everybody goes, whoever else is being woken. */
void ev_crew_wake_all(struct ev_crew *crew)
{
    ev_park_wake(&crew->park, UINT32_MAX);
}
