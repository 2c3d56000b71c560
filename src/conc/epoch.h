/* SPDX-License-Identifier: Apache-2.0 */
/* Reclamation by epochs: readers take no lock and no reference; what a writer has replaced is freed when no reader can
 * hold it.
 *
 * Use       Reader   ev_epoch_enter();
 *                    p = ev_load_seqcst(&place);  use *p, and what hangs below it and never changes
 *                    ev_epoch_leave();
 *           Writer   (holding its mutex)  old = ev_swap_seqcst(&place, new);  ev_limbo_retire(limbo, old, free_fn);
 *           Sections do not nest, and hold no wait, lock, libnats or user code: a reader in a section delays all frees.
 *           Nothing else is needed of a thread: it is registered at its first section and forgotten when it ends.
 *
 * Who       ev_epoch_now     writers add 1 per retired object; readers copy it.
 *           record.active    its thread alone writes: 0 outside, else the copy. Every writer reads all of them.
 *           record.taken     0 free, 1 a thread has it. Changed by compare and swap, or by its thread letting go.
 *           record.next      constant once the record is in the list. Records are never freed, only reused: as many
 *                            as there were threads at one time; kept for the process (ev_alloc_keep), so no leak.
 *           nameless         counts threads in sections that could not get a record (no memory). Any of them: nothing is free.
 *           struct ev_limbo  its writer, under the caller's mutex.
 *
 * Edges     An object is unlinked, then tagged r = ev_epoch_now++. It is freed when each record shows 0 or more than r.
 *           J1 (enter, seq_cst store of active; then the seq_cst load of a protected pointer) /
 *           J2 (writer, seq_cst swap of the pointer; then the seq_cst loads of all records): Dekker's pattern. If the
 *              writer reads a record before its thread entered, that thread's load of the pointer comes later in the
 *              one order of seq_cst operations and gets the new object. Hence: both accesses of a protected pointer
 *              are seq_cst (on x86 the load costs nothing more).
 *           K1 (retire, seq_cst addition) -> K2 (enter, acquire load of ev_epoch_now gives more than r): the unlinking
 *              is visible, so this reader gets the new object as well; one with r or less holds the free back.
 *           L1 (leave, release store of 0) -> L2 (writer, seq_cst load of active): the reader is done with the object.
 *           M1 (a record enters the list, seq_cst) / M2 (writer reads the list, seq_cst): as J, for a thread's first section.
 *           N1 (let go of a record, release) -> N2 (take it, acquire): the next thread's stores come after.
 *
 * Progress  enter and leave are wait-free, but for a thread's first enter (lock-free walk of the list, may allocate).
 *           retire: as ev_limbo_retire says; the mutex is its caller's.
 *
 * Holds     freed(x)  =>  every section that began before unlink(x) has ended.
 *           fork: the child has one thread, and its handler clears all other records.
 * Checked   tests/unit/test_epoch.c, tests/model/test_epoch.c
 */
#ifndef EV_CONC_EPOCH_H
#define EV_CONC_EPOCH_H

#include "conc/atomic.h"

#include <assert.h>
#include <stdalign.h>
#include <stddef.h>

struct ev_epoch_record {
    alignas(EV_APART) _Atomic(uint64_t) active;
    _Atomic(uint32_t) taken;
    struct ev_epoch_record *next;
};

extern _Atomic(uint64_t) ev_epoch_now; /* starts at 1 */

/* NULL before the first section. initial-exec: one instruction, also in a shared library (8 bytes of its surplus). */
extern _Thread_local struct ev_epoch_record *ev_epoch_self __attribute__((tls_model("initial-exec")));

/* The forms for a thread without a record. */
void ev_epoch_enter_first(void);
void ev_epoch_leave_nameless(void);

static inline void ev_epoch_enter(void)
{
    struct ev_epoch_record *self = ev_epoch_self;

    if (ev_likely(self != NULL)) {
        const uint64_t now = ev_load_acquire(&ev_epoch_now); /* K2 */

        assert(ev_load_relaxed(&self->active) == 0); /* own field; sections do not nest */
        ev_store_seqcst(&self->active, now);         /* J1 */
    } else {
        ev_epoch_enter_first();
    }
}

static inline void ev_epoch_leave(void)
{
    struct ev_epoch_record *self = ev_epoch_self;

    if (ev_likely(self != NULL))
        ev_store_release(&self->active, 0); /* L1 */
    else
        ev_epoch_leave_nameless();
}

#ifdef EV_MODEL
void ev_epoch_forget_records(void); /* between two runs of a model */
#endif

/* Lets go of this thread's record, as the end of the thread does. Not in a section. The next section takes one again. */
void ev_epoch_detach(void);

/* ---- What waits to be freed: one per bus, guarded by the mutex of its writers ------------------------------------- */

#define EV_LIMBO_CROWDED 64 /* from here on retire gives readers time */
#define EV_LIMBO_YIELDS 100

struct ev_limbo_entry {
    void *ptr;
    void (*free_fn)(void *);
    uint64_t tag;
};

struct ev_limbo {
    struct ev_limbo_entry *entries; /* oldest first: tags rise */
    size_t count;
    size_t capacity;
};

void ev_limbo_init(struct ev_limbo *limbo); /* allocates nothing */

/*
 * Frees `ptr` by free_fn once no reader can hold it, which is at once if none is in a section; and whatever else has
 * become free meanwhile. `ptr` must be unlinked already. free_fn runs under the caller's mutex: it takes no lock of
 * the caller's and retires nothing into this limbo.
 *
 * Blocks: with EV_LIMBO_CROWDED objects waiting it yields the processor up to EV_LIMBO_YIELDS times, then goes on.
 * Out of memory: it yields until no reader holds `ptr` (sections are short), and frees it. So it never fails.
 */
void ev_limbo_retire(struct ev_limbo *limbo, void *ptr, void (*free_fn)(void *));

/* Frees all that waits. No reader of this limbo's objects is in a section any more. Zeroed or finished is fine. */
void ev_limbo_fini(struct ev_limbo *limbo);

#endif
