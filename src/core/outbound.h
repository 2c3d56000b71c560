/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's side of publishing: what to send now, what to hold, and how each publish ends. No I/O of its own, no
 * thread: it reacts to submit, answer, link and time, and calls the backend.
 *
 * Happy path   submit -> send -> answer STORED -> outcome.
 * Held         link down, gate closed, or something of the topic is held already: behind it, in order.
 * Gate         the first "no responders", or a deadline without an answer, closes the topic's gate: what was accepted is
 *              held while one message every 100..250 ms tries. The first good answer opens it.
 * Sent again   only what cannot overtake: a publish whose caller waits for it, or the last one sent of its topic; and
 *              after a lost answer only with a message id. All else ends refused (known not stored) or unknown.
 * No zombie    before a sent publish ends unknown at its deadline, its bytes have left this process, or the link is
 *              dropped with them.
 */
#ifndef EV_CORE_OUTBOUND_H
#define EV_CORE_OUTBOUND_H

struct ev_outbound {
    uint64_t order;               /* sends so far */
    uint32_t active;              /* slots the loop owns: held or sent */
    struct ev_topic *held_topics; /* topics with something held or a closed gate */
    int64_t next_check;           /* when deadlines are looked at; EV_NEVER: there is none */
    struct ev_slot *last_sent;    /* of those that are answered; a hint */
    bool full;                    /* the backend takes no more this turn */
};

/* Takes what publishers submitted and sends what may go. True if anything happened. */
bool ev_outbound_turn(evbus *bus, int64_t now);
/* Earliest time at which turn has something to do, EV_NEVER if nothing. */
int64_t ev_outbound_due(const evbus *bus);

void ev_outbound_link_up(evbus *bus, int64_t now);
void ev_outbound_link_down(evbus *bus, int64_t now, const char *why);
/* No link is to come: what is held ends; dead letters keep their deadline, they are tried again. */
void ev_outbound_given_up(evbus *bus, int64_t now);
void ev_outbound_answer(evbus *bus, uint32_t index, uint32_t generation, const struct ev_ack *ack, int64_t now);
void ev_outbound_denied(evbus *bus, const char *topic, const char *text, int64_t now);

/* A dead letter: takes one of the reserved slots, NULL if none is free. Then fill it and send it. */
struct ev_slot *ev_outbound_letter(evbus *bus);
void ev_outbound_submit(evbus *bus, struct ev_slot *slot, int64_t now);

/* The end: everything not sent ends refused, everything sent unknown. */
void ev_outbound_end(evbus *bus, int64_t now);
/* Accepted and without outcome. */
bool ev_outbound_idle(const evbus *bus);
/* While draining: publishers that have a slot and did not submit it get EVBUS_CLOSED. False: one did, at the last moment,
 * so there is one publish more to come. */
bool ev_outbound_seal(evbus *bus);

/* Closes or opens a topic's gate. */
void ev_gate_close(evbus *bus, struct ev_topic *topic, int64_t now, const char *why);

#endif
