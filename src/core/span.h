/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that one member was ever given, and what was settled before its turn, in a few words of memory: from `bottom` to `top`, but for the holes. What lies in
 * it and is not held was settled here, however long ago; when a broker that lost its consumer's state delivers it again,
 * it is acknowledged and not run. ev_settled knows the latest ones for certain; this knows the rest. [loop]
 *
 * The broker counts deliveries. Two in a row: whatever sequences lie between are not of this consumer. A count left out:
 * something was lost or went to another member, so what lies between is a hole, as is what was handed back. A hole only
 * ever leads to a message being run, never to its loss; so when there are too many, some become one, and without memory for
 * them less is known.
 *
 * How many there may be: what a member is given at the beginning of its turn is what those before it left unsettled, here
 * and there between what they settled; later, what was lost on its way or handed back. Either is what the broker counts as
 * delivered and not settled, of which it lets there be no more than the window: `most` is twice that.
 *
 * A sequence in the span stored later than `top` was: the broker lost the end of its stream and uses it again. Nothing
 * is known then any more.
 */
#ifndef EV_CORE_SPAN_H
#define EV_CORE_SPAN_H

#include <stdbool.h>
#include <stdint.h>

#define EV_SPAN_HOLES 64u /* or `most`, if that is more */

struct ev_span {
    uint64_t bottom, top; /* 0: nothing yet */
    int64_t top_ns;       /* when `top` was stored */
    uint64_t floor;       /* before the first: all up to there was settled, by those before us */
    uint64_t last;        /* the broker's count of the last delivery */
    uint32_t most;        /* holes; set before the first delivery */
    uint32_t count, room;
    bool missed; /* a count was left out since `top` came: whatever came again in between does not make up for it */
    struct ev_span_hole {
        uint64_t first, last;
    } * holes; /* of the first `room` there is memory, made when it is needed; ascending, apart from each other */
};

/* Zeroed is initialised. */
void ev_span_fini(struct ev_span *s);

/* A delivery came; before it is looked up. */
void ev_span_count(struct ev_span *s, uint64_t consumer_seq, bool *ret_in_a_row);
/* It was taken in. `in_a_row`: as counted; false: whatever it steps over is a hole. */
void ev_span_add(struct ev_span *s, uint64_t seq, int64_t stored_ns, bool in_a_row);
/* It was counted and not taken in: whatever comes next does not come in a row with what came before. */
void ev_span_break(struct ev_span *s);
/* As the broker says, all up to `floor` is settled: counts from the first delivery on, which must be above it. */
void ev_span_settled(struct ev_span *s, uint64_t floor);
/* Nothing is known any more. */
void ev_span_forget(struct ev_span *s);
/* It was handed back without a verdict. */
void ev_span_hand_back(struct ev_span *s, uint64_t seq);
/* It was given to this member before. */
bool ev_span_has(const struct ev_span *s, uint64_t seq, int64_t stored_ns);

#endif
