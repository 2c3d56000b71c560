/* SPDX-License-Identifier: Apache-2.0 */
/* Queue of linked items without a capacity of its own: any thread adds one, any thread takes all there are, in order.
 *
 * Why       What goes in has its place by other means (conc/quota.h), so no array is needed, and adding never fails.
 *
 * Use       struct item { struct ev_chain_link link; ... };  ev_chain_add(&chain, &item->link);
 *           for (link = ev_chain_take(&chain); link; link = next) { next = link->next; ... }
 *
 * Who       last  everybody exchanges it: the item added last, NULL: none.
 *           link  who adds writes it before the exchange; from the taking on it is the taker's.
 *
 * Edges     V1 (add, release exchange of last) -> V2 (take, acquire swap): the item, and what its adder did before. All
 *              exchanges of `last` are read-modify-writes, so the edge holds for the items behind the last as well.
 *           V3 (add, seq_cst exchange) / V4 (take or empty, seq_cst): Dekker's pattern with a sleeper's flag, as C of
 *              ring.h.
 *           `last` cannot be mistaken for an earlier one (ABA): an adder that meets the same last item again has the
 *           right successor, since items below are only ever taken together with it.
 *
 * Progress  add is lock-free; take is wait-free, plus turning round what it took.
 *
 * Holds     each item is in at most one chain, once; every item added is taken once, in the order of the exchanges.
 * Checked   tests/unit/test_chain.c, tests/model/test_receipts.c
 */
#ifndef EV_CONC_CHAIN_H
#define EV_CONC_CHAIN_H

#include "conc/atomic.h"

struct ev_chain_link {
    struct ev_chain_link *next;
};

struct ev_chain {
    _Atomic(struct ev_chain_link *) last; /* zeroed is initialised */
};

/* True: it was empty. */
static inline bool ev_chain_add(struct ev_chain *chain, struct ev_chain_link *link)
{
    struct ev_chain_link *seen = ev_load_relaxed(&chain->last); /* hint: the exchange checks it */

    do {
        EV_WRITES(&link->next);
        link->next = seen;
    } while (!ev_cas_seqcst(&chain->last, &seen, link)); /* V1, V3 */
    return seen == NULL;
}

/* All there are, the first added first; NULL: none. */
static inline struct ev_chain_link *ev_chain_take(struct ev_chain *chain)
{
    struct ev_chain_link *first = NULL;
    struct ev_chain_link *link = ev_swap_seqcst(&chain->last, NULL); /* V2, V4 */

    while (link) {
        EV_READS(&link->next);
        struct ev_chain_link *before = link->next;
        link->next = first;
        first = link;
        link = before;
    }
    return first;
}

static inline bool ev_chain_empty(struct ev_chain *chain)
{
    return ev_load_seqcst(&chain->last) == NULL; /* V4 */
}

#endif
