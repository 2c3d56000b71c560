/* SPDX-License-Identifier: Apache-2.0 */
/* A state machine that at most one thread runs at a time, and for which nobody waits.
 *
 * Use       post the command (ev_ring_push, a flag, ...);
 *           if (ev_baton_take(baton))
 *               do
 *                   run everything that is posted;
 *               while (ev_baton_pass(baton));
 *
 * Who       state  written by every taker and by the runner, with read-modify-writes only.
 *           What the state machine owns is plain data of the runner.
 *
 * Edges     H1 (take, acq_rel swap or exchange) -> H2 (the runner's acquiring exchange in pass, or the next take): what
 *              was posted before take is visible to the run that follows. A chain of read-modify-writes on one word, so
 *              no seq_cst is needed: each reads the latest value there is.
 *           I1 (pass, release of 0) -> I2 (take that gets the baton, acquire): the next runner sees what the last did.
 *
 * Progress  take and pass are wait-free (at most two steps). A runner is kept as long as others post: bound the run.
 *
 * Holds     state: 0 nobody runs; 1 one thread runs; 2 one thread runs and will run once more.
 *           After every take that returned false a run begins; one run may serve many. A run with nothing to do is
 *           possible (a take that met the very end of a run).
 * Checked   tests/unit/test_baton.c, tests/model/test_baton.c
 */
#ifndef EV_CONC_BATON_H
#define EV_CONC_BATON_H

#include "conc/atomic.h"

#define EV_BATON_FREE 0u
#define EV_BATON_RUNS 1u
#define EV_BATON_AGAIN 2u

struct ev_baton {
    _Atomic(uint32_t) state; /* zeroed is initialised */
};

/* True: you run it now. False: somebody else does, and will run once more for you. */
static inline bool ev_baton_take(struct ev_baton *baton)
{
    uint32_t seen = EV_BATON_FREE;

    if (ev_cas_acqrel(&baton->state, &seen, EV_BATON_RUNS)) /* I2, H1 */
        return true;
    return ev_swap_acqrel(&baton->state, EV_BATON_AGAIN) == EV_BATON_FREE; /* H1; I2 if the runner has just let go */
}

/* By the runner, when done. True: somebody asked meanwhile, run again. False: you have it no more. */
static inline bool ev_baton_pass(struct ev_baton *baton)
{
    uint32_t seen = EV_BATON_RUNS;

    if (ev_cas_acqrel(&baton->state, &seen, EV_BATON_FREE)) /* I1 */
        return false;
    if (EV_BUG(EV_BUG_BATON_DROPS))
        return ev_swap_acqrel(&baton->state, EV_BATON_FREE), false;
    ev_swap_acqrel(&baton->state, EV_BATON_RUNS); /* H2 */
    return true;
}

#endif
