/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One broker and the sessions that use it. Nobody waits for the broker: a session's loop posts commands into its own
 * ring, and whoever gets the baton runs the broker for all sessions, putting results into their rings. A loop that does
 * not get it goes on; the runner goes round once more.
 *
 *   loop of A ── commands ring ──┐                           ┌── results ring ──► loop of A
 *   loop of B ── commands ring ──┼─► broker (who has the     ┼── results ring ──► loop of B
 *   any thread ── requests ──────┘   baton runs it)          └── done, park ────► that thread
 *
 * Who       commands: produced by the loop, consumed by the runner.   results: the reverse.
 *           claim: the runner claims commands before it runs them; the loop starts a new epoch to take back publishes that
 *           are not claimed.   poke: anybody sets, the loop clears.   due: the runner writes, loops read.
 *           requests: a stack; anybody pushes, the runner takes all.
 * Edges     T1 (claim, acq_rel) <-> T1 (new epoch, acq_rel): read-modify-writes of one word. A publish is claimed before
 *              the new epoch begins and will be stored, or after, and is not.
 *           T2 (request, release push) -> T2 (runner, acquire swap): the request's arguments.
 *           T3 (runner, release done) -> T3 (caller, acquire): its answer.
 *           T4 (poke, acq_rel swap) -> T4 (turn, acq_rel swap): what was posted before poking. The sleeper's half is
 *              park.h's.
 *           T5 (resting = 1, then poke or baton free) -> T5 (who did not get the baton looks at resting): a runner that goes
 *              without going round is seen, and the baton tried again. Set and cleared with the baton only.
 *           The broker's own state: the baton's edges (baton.h).
 * Progress  loops: wait-free but for the retries of the stack and of claim (one other party). Requests wait for the
 *           runner, at most ROUNDS rounds, then for the next one.
 * Checked   tests/backend/test_mem_session.c
 */
#ifndef EV_BACKEND_MEM_HUB_H
#define EV_BACKEND_MEM_HUB_H

#include "backend/mem_broker.h"
#include "conc/baton.h"
#include "conc/park.h"

#define EV_MEM_COMMANDS 4096u
#define EV_MEM_RESULTS 2048u
#define EV_MEM_EPOCH_SHIFT 48
#define EV_MEM_PAYLOAD_MAX (UINT64_C(8) << 20) /* nats-server's default is 1 MiB, its advice at most 8 MiB */
#define EV_MEM_INDEX_MASK ((UINT64_C(1) << EV_MEM_EPOCH_SHIFT) - 1)

/*
 * kind      object   block / value    other                     count        number   flags
 * PUBLISH   id hash  block (its ref)  slot << 32 | generation   id check     epoch    EV_MEM_WANT_ACK, EV_MEM_HAS_ID
 * SETTLE    member   sequence         delay                                           verb
 * WANT      member   limit of bytes                             limit of messages
 * ATTACH, DETACH, LEAVE, UNBIND, ASK   member
 * CLOSE_ROOM                          no member of the session has room until it wants again
 */
enum ev_mem_command {
    EV_MEM_PUBLISH = 1,
    EV_MEM_SETTLE,
    EV_MEM_WANT,
    EV_MEM_ATTACH,
    EV_MEM_DETACH,
    EV_MEM_LEAVE,
    EV_MEM_UNBIND,
    EV_MEM_CLOSE_ROOM,
    EV_MEM_ASK
};

#define EV_MEM_WANT_ACK 1u
#define EV_MEM_HAS_ID 2u

struct ev_mem_fault;

struct ev_mem_session {
    struct ev_mem_link link; /* first: the broker knows a session by its link */
    struct ev_mem_ring commands;
    alignas(EV_APART) _Atomic(uint64_t) claim; /* epoch << 48 | commands claimed by runners */
    alignas(EV_APART) _Atomic(uint32_t) poke;
    struct ev_park park;
    _Atomic(struct ev_mem_member *) unbound; /* stack: anybody pushes, the loop takes all */

    /* Set by open */
    alignas(EV_APART) struct ev_mem_hub *hub;
    struct ev_host *host;
    const evbus_clock *clock;
    struct ev_mem_pool *pool;
    const struct ev_mem_fault *fault; /* NULL but in tests */

    /* The loop's: mem_session.c */
    uint64_t asked; /* commands' tail when the broker was last run, or asked for */
    uint16_t epoch;
    bool started, up, shut;
    bool run_again;  /* the broker waited for the room that is there now, or has to be asked again */
    bool drop;       /* the link goes down, and up again, in the next turn */
    bool close_room; /* CLOSE_ROOM has to be posted */
    bool held_back;  /* the ring had no room for all that the loop has to post */
    char drop_text[128];
    struct ev_mem_gap *gap;      /* faults only: deliveries that a cut link took */
    struct ev_mem_member *dirty; /* bindings with something to post */
    struct ev_mem_item *spill;   /* settlements that did not fit, in order: from spill_head, spill_count of them */
    uint32_t spill_head, spill_count, spill_room;

    /* Who has the baton */
    struct ev_mem_member *bound;
};

struct ev_mem_request {
    struct ev_mem_request *next;
    void (*run)(struct ev_mem_hub *hub, struct ev_mem_request *request);
    struct ev_mem_session *session;
    const char *name, *subject;
    const void *cfg;
    struct ev_mem_member *member;
    struct ev_stream_info *info;
    struct ev_stored *stored;
    struct ev_consumer_state *state, **consumers;
    uint32_t *count;
    struct ev_account *account;
    uint64_t seq;
    evbus_status status;
    char text[256];
    _Atomic(uint32_t) done;
};

struct ev_mem_hub {
    struct ev_baton baton;
    struct ev_park answered;   /* requests' callers */
    _Atomic(uint32_t) resting; /* 1: the last runner left although somebody had asked */
    _Atomic(struct ev_mem_request *) requests;
    alignas(EV_APART) _Atomic(int64_t) due;
    struct ev_mem_broker broker;
    const evbus_clock *clock;
    struct ev_mem_hub *next; /* registry; guarded by its mutex, as is refs */
    uint32_t refs;
    char name[72]; /* "" for a private one */
};

/* The broker of that name, made if need be; "" makes a private one. */
evbus_status ev_mem_hub_get(const char *name, const evbus_clock *clock, uint64_t bytes_max, struct ev_mem_hub **ret);
void ev_mem_hub_put(struct ev_mem_hub *hub); /* NULL is fine */

/* Runs the broker, or lets the one who does go round once more. `self`: the session whose loop calls, NULL: none.
 * False: the one who does is about to leave; try again. */
bool ev_mem_hub_run(struct ev_mem_hub *hub, struct ev_mem_session *self, int64_t now);

/* Has a request run, by this thread or another, and waits until it was. Sets this thread's detail. */
evbus_status ev_mem_hub_call(struct ev_mem_hub *hub, struct ev_mem_request *request);

/* Requests */
void ev_mem_join(struct ev_mem_hub *hub, struct ev_mem_request *request);
void ev_mem_leave(struct ev_mem_hub *hub, struct ev_mem_request *request); /* after the loop has ended */

void ev_mem_session_poke(struct ev_mem_session *session);

/* The sentence and the numbers for an answer that is not "stored" (mem.c). */
evbus_status ev_mem_refusal(const struct ev_mem_session *session, const struct ev_mem_item *item, char *text,
                            size_t cap, uint32_t *ret_code);

/* ---- mem_session.c: what the loop does; see ev_backend_ops -------------------------------------------------------- */

bool ev_mem_turn(void *state, int64_t now);
int64_t ev_mem_due(void *state);
void ev_mem_wait(void *state, int64_t deadline);
void ev_mem_shut(void *state);
enum ev_sent ev_mem_send(void *state, const struct ev_record *record, evbus_status *ret_status);
uint64_t ev_mem_sent_mark(void *state);
bool ev_mem_unsent_after(void *state, uint64_t mark);
void ev_mem_drop_link(void *state, const char *why);
void ev_mem_binding_attach(void *state, void *binding);
void ev_mem_binding_detach(void *state, void *binding);
void ev_mem_binding_leave(void *state, void *binding);
void ev_mem_binding_want(void *state, void *binding, struct ev_room room);
bool ev_mem_binding_settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns);
bool ev_mem_post_settle(struct ev_mem_session *session, struct ev_mem_member *member, uint64_t seq, enum ev_settle verb,
                        int64_t delay_ns);
void ev_mem_post_ask(struct ev_mem_session *session, struct ev_mem_member *member); /* see ev_mem_ask */
bool ev_mem_is_attached(const struct ev_mem_member *member);

/* mem_frontier.c; of consumers that are not ack_all they do nothing. Ask: is all here that was delivered and not settled?
 * row: a delivery is about to be handed over. answer: of the broker. */
void ev_mem_frontier_ask(struct ev_mem_session *session, struct ev_mem_member *member);
void ev_mem_frontier_row(struct ev_mem_session *session, struct ev_mem_member *member, uint64_t consumer_seq);
void ev_mem_frontier_answer(struct ev_mem_session *session, const struct ev_mem_item *item);
bool ev_mem_binding_settle_seq(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq,
                               uint64_t consumer_seq);
/* Gives back what lies in the results. The loop, or fini after it has ended. */
void ev_mem_discard(struct ev_mem_session *session);

#endif
