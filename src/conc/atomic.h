/* SPDX-License-Identifier: Apache-2.0 */
/*
 * C11 atomics with the memory order in the name. No default order, no volatile, no bare fence: ThreadSanitizer must be
 * able to follow every edge. A relaxed access says why at its call ("own field", "statistic", "hint").
 * EV_MODEL builds (tests/model) make each operation a scheduling point of an exhaustive interleaving search.
 */
#ifndef EV_CONC_ATOMIC_H
#define EV_CONC_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EV_CACHELINE 64
#define EV_APART (2 * EV_CACHELINE) /* adjacent-line prefetch makes pairs of lines one */

/*
 * In EV_MODEL builds each atomic operation waits here until the explorer lets its thread go on, telling it what it is
 * about to touch. (So: no operation among the arguments of another, or the two become one step.) EV_READS and EV_WRITES
 * by themselves make a plain access of shared data such a step. EV_BUG(name) is a mistake that a model can switch on,
 * to prove that it would be found; in EV_MUTANTS builds (`make check-mutants`) the whole library has them, those after
 * EV_BUG_WEAK_STORES, and the other tests must find them. EV_SIZE is for constants that must be small for a search to end. In other builds all
 * of this is nothing.
 */
#if defined(EV_MODEL) || defined(EV_MUTANTS)
enum ev_model_bug {
    EV_BUG_NONE,
    EV_BUG_RING_EARLY_PUBLISH,
    EV_BUG_RING_EARLY_RELEASE,
    EV_BUG_PARK_SILENT_WAKE,
    EV_BUG_CREW_CLEAR_ENTERING,
    EV_BUG_CREW_CLEAR_WORKING,
    EV_BUG_CREW_CLEAR_LEAVING,
    EV_BUG_CREW_NO_LAST_LOOK,
    EV_BUG_BATON_DROPS,
    EV_BUG_EPOCH_EARLY,
    EV_BUG_EPOCH_IGNORES_NAMELESS,
    EV_BUG_STACK_NO_COUNT,
    EV_BUG_TOPIC_INCOMPLETE,
    EV_BUG_TOPIC_EARLY_TABLE,
    EV_BUG_TOPIC_NO_SECOND_LOOK,
    EV_BUG_TOPIC_FREES_AT_ONCE,
    EV_BUG_SLOT_BLIND_SUBMIT,
    EV_BUG_SLOT_NO_SECOND_LOOK,
    EV_BUG_SLOT_SEAL_FORGETS,
    EV_BUG_SLOT_END_FORGETS,
    EV_BUG_SLOT_EARLY_DONE,
    EV_BUG_SLOT_EARLY_FREE,
    EV_BUG_SLOT_NO_LATE_WAKE,
    EV_BUG_QUOTA_LATE_LOOK,
    EV_BUG_BELL_LATE_RING,
    EV_BUG_BELL_NO_SECOND_LOOK,
    EV_BUG_WEAK_STORES,  /* every seq_cst store is a release store */
    EV_BUG_RETRY_BEHIND, /* a failed message joins its aggregate's queue at the end */
    EV_BUG_ACK_EARLY,    /* acknowledged when it is delivered */
    EV_BUG_DROP_ON_FULL, /* with half the window full, what is delivered is dropped */
    EV_BUG_SETTLED_FORGOTTEN,
    EV_BUG_SPAN_NO_HOLES,   /* what was lost on the way counts as given */
    EV_BUG_LETTER_UNSTORED, /* a dead letter counts as stored whatever became of it */
    EV_BUG_GAP_FORGOTTEN,
    EV_BUG_LEASE_SKIPPED,   /* another member's lease is taken, whether that member lives or not */
    EV_BUG_RIGHT_FORGOTTEN, /* a worker starts a handler without looking whether its member still may */
    EV_BUG_NO_CHARGE,       /* a publish's bytes are not looked at before it is sent */
    EV_BUG_RESEND_ANY,      /* what was sent is sent again though later ones were sent */
    EV_BUG_UNKNOWN_REFUSED, /* unknown is reported as refused */
    EV_BUG_UNKNOWN_LEAVES,  /* bytes may leave after they were reported */
    EV_BUG_RECEIPT_DROPPED, /* on_publish_error hears of nothing */
    EV_BUG_FLIGHT_OFF,      /* every first publisher looks for the stream himself */
    EV_BUG_FRONTIER_PAST,   /* a frontier ack goes past a message that is not finished */
    EV_BUG_FRONTIER_CERTAIN /* it is sent although not all that was delivered may be here */
};
extern enum ev_model_bug ev_model_bug;
#define EV_BUG(name) (ev_model_bug == (name))
#else
#define EV_BUG(name) false
#endif

#ifdef EV_MODEL
void ev_model_step(const volatile void *place, bool writes);
bool ev_model_delays(volatile void *place, size_t size, uint64_t value); /* the store stays in the thread's buffer */
void ev_model_yield(void);
#define EV_READS(p) ev_model_step((p), false)
#define EV_WRITES(p) ev_model_step((p), true)
#define EV_YIELD() ev_model_yield() /* nothing of use to do until another thread has taken a step */
#define EV_SIZE(usual, small) (small)
#define EV_STORE(p, v, order)                                                                                          \
    ((order != memory_order_seq_cst || EV_BUG(EV_BUG_WEAK_STORES)) && ev_model_delays((p), sizeof *(p), (uint64_t)(v)) \
         ? (void)0                                                                                                     \
         : (EV_WRITES(p), atomic_store_explicit((p), (v), order)))
#else
#include <sched.h>
#define EV_READS(p) ((void)0)
#define EV_WRITES(p) ((void)0)
#define EV_YIELD() ((void)sched_yield())
#define EV_SIZE(usual, small) (usual)
#define EV_STORE(p, v, order) atomic_store_explicit((p), (v), order)
#endif

#define ev_likely(condition) __builtin_expect(!!(condition), 1)

#define ev_load_relaxed(p) (EV_READS(p), atomic_load_explicit((p), memory_order_relaxed))
#define ev_load_acquire(p) (EV_READS(p), atomic_load_explicit((p), memory_order_acquire))
#define ev_load_seqcst(p) (EV_READS(p), atomic_load_explicit((p), memory_order_seq_cst))
#define ev_store_relaxed(p, v) EV_STORE(p, v, memory_order_relaxed)
#define ev_store_release(p, v) EV_STORE(p, v, memory_order_release)
#define ev_store_seqcst(p, v) EV_STORE(p, v, memory_order_seq_cst)
#define ev_swap_acqrel(p, v) (EV_WRITES(p), atomic_exchange_explicit((p), (v), memory_order_acq_rel))
#define ev_swap_seqcst(p, v) (EV_WRITES(p), atomic_exchange_explicit((p), (v), memory_order_seq_cst))
#define ev_add_relaxed(p, v) (EV_WRITES(p), atomic_fetch_add_explicit((p), (v), memory_order_relaxed))
#define ev_add_acqrel(p, v) (EV_WRITES(p), atomic_fetch_add_explicit((p), (v), memory_order_acq_rel))
#define ev_add_seqcst(p, v) (EV_WRITES(p), atomic_fetch_add_explicit((p), (v), memory_order_seq_cst))
#define ev_sub_relaxed(p, v) (EV_WRITES(p), atomic_fetch_sub_explicit((p), (v), memory_order_relaxed))
#define ev_sub_acqrel(p, v) (EV_WRITES(p), atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel))
#define ev_sub_seqcst(p, v) (EV_WRITES(p), atomic_fetch_sub_explicit((p), (v), memory_order_seq_cst))
#define ev_or_seqcst(p, v) (EV_WRITES(p), atomic_fetch_or_explicit((p), (v), memory_order_seq_cst))
#define ev_or_acqrel(p, v) (EV_WRITES(p), atomic_fetch_or_explicit((p), (v), memory_order_acq_rel))
/* Compare and swap; `seen` is updated on failure. Weak: may fail for no reason, use it in loops. */
#define ev_cas_weak_relaxed(p, seen, v)                                                                                \
    (EV_WRITES(p), atomic_compare_exchange_weak_explicit((p), (seen), (v), memory_order_relaxed, memory_order_relaxed))
#define ev_cas_acqrel(p, seen, v)                                                                                      \
    (EV_WRITES(p),                                                                                                     \
     atomic_compare_exchange_strong_explicit((p), (seen), (v), memory_order_acq_rel, memory_order_acquire))
#define ev_cas_seqcst(p, seen, v)                                                                                      \
    (EV_WRITES(p),                                                                                                     \
     atomic_compare_exchange_strong_explicit((p), (seen), (v), memory_order_seq_cst, memory_order_seq_cst))

/* A counter with one writer: no read-modify-write needed. Others may read it. */
#define ev_count(p, n) ev_store_relaxed((p), ev_load_relaxed(p) + (n)) /* own field; readers take it as a statistic */

#endif
