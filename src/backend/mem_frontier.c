/* SPDX-License-Identifier: Apache-2.0 */
/* Frontier acks, the session's side: what the broker is told by sequence, and whether the core has all it delivered. [loop] */
#include "backend/mem_fault.h"
#include "backend/mem_hub.h"

bool ev_mem_binding_settle_seq(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq,
                               uint64_t consumer_seq)
{
    struct ev_mem_session *session = state;

    (void)consumer_seq;
    if (!session->up || session->drop)
        return false;
    if (session->fault && session->fault->lose_settle &&
        session->fault->lose_settle(session->fault->ctx, stream_seq, verb))
        return true;
    if (ev_mem_post_settle(session, binding, stream_seq, verb, 0))
        return true;
    ev_mem_drop_link(session, "out of memory for settlements");
    return false;
}

/* Is all here that was delivered and not settled? The broker is asked; its answer comes behind what it delivered. */
void ev_mem_frontier_ask(struct ev_mem_session *session, struct ev_mem_member *member)
{
    if (member->certain)
        ev_host_certain(session->host, member->sub, NULL);
    member->certain = false;
    if (member->asked || !ev_mem_is_attached(member))
        return;
    member->asked = true;
    ev_mem_post_ask(session, member);
}

/* Before it is handed over: something before it was lost, or it is not known what was. */
void ev_mem_frontier_row(struct ev_mem_session *session, struct ev_mem_member *member, uint64_t consumer_seq)
{
    if (member->certain && consumer_seq == member->row + 1)
        member->row++;
    else if (member->ack_all)
        ev_mem_frontier_ask(session, member);
}

void ev_mem_frontier_answer(struct ev_mem_session *session, const struct ev_mem_item *item)
{
    const struct ev_certainty certain = {.consumer_seq = item->other, .exact = true};
    struct ev_mem_member *member = item->object;

    member->asked = false;
    if (!ev_mem_is_attached(member) ||
        ev_host_unsettled(session->host, member->sub, item->value, UINT64_MAX - 1) < item->count)
        return; /* what is missing comes: then again */
    member->certain = true;
    member->row = item->other;
    ev_host_certain(session->host, member->sub, &certain);
}
