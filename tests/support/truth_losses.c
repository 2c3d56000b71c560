/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A broker that is killed may lose the state of its consumer. That is no guess: right before it was killed it said up to where
 * all was settled (its ack floor) and up to where it had delivered, and less of one of the two when it was back. What lies
 * between is delivered again as if it never had been. A member that did not run it itself in its present turn need not know
 * that it was settled. This excuses such members, of those sequences: each may be run again once for each loss, also after later
 * ones, and have a second letter. What an EXCLUSIVE member ran itself in its turn it remembers, and is excused of nothing.
 *
 * The floor alone does not say it: nats-server 2.9 that came back does not raise it before nothing at all is pending, while
 * it delivers tens of thousands.
 */
#include "truth_court.h"

#include <stdlib.h>

void court_losses(struct court *court)
{
    court->losses = calloc(court->count + 1, sizeof(struct truth_entry *));
    for (size_t i = 0; i < court->count; i++)
        if (court->entries[i]->kind == TRUTH_LOSS)
            court->losses[court->account->losses++] = court->entries[i];
}

bool court_lost_between(const struct court *court, uint64_t sequence, int64_t from, int64_t to, bool wall)
{
    for (size_t i = 0; i < court->account->losses; i++) {
        const struct truth_entry *e = court->losses[i];
        const int64_t at = wall ? e->wall_ns : e->at_ns;
        const bool settled = sequence <= e->counts[0] && sequence > e->counts[1];
        const bool delivered = sequence <= e->counts[2] && sequence > e->counts[3];
        if ((settled || delivered) && from < at && at < to)
            return true;
    }
    return false;
}
