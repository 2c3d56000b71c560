/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tail of an aggregate (evbus_sub_opts.tail = EVBUS_TAIL_PARK): an aggregate is parked as long as a letter of it, of
 * this group, lies in the dead-letter topic. What comes behind goes there too, in order; what is redriven from there runs.
 *
 * The dead-letter topic is the store. It is read when this member becomes active (nothing starts before that is known),
 * and looked at by the housekeeping thread while something is parked; between two looks the loop counts: letters that
 * it stored, letters that came back, told by the header that redriving adds ("Evbus-Letter: SEQUENCE GROUP").
 *
 * Released    when the last of its letters has come back, in the order of the stream: what was stored before that letter
 *             is parked, what was stored behind it runs. (If not all came back before it, a look tells whether they were
 *             dropped; the aggregate waits for that.)
 *             Or when a look finds no letter of it (they were dropped, or ran out of their stream's limits): then what
 *             lies in the stream up to the end it had after that look may be older than a redriven one, and is parked
 *             still unless it is redriven itself; what lies behind runs.
 * Bounded     parked_max aggregates per subscription; when it is full, the letter of the next one is not sent: the
 *             message stays, its aggregate waits, and it is said (EVBUS_EVENT_DEAD_LETTER_FAILED, EVBUS_LIMIT).
 * [loop] but for the look, which belongs to the housekeeping thread between its post and its command.
 */
#ifndef EV_CORE_TAIL_H
#define EV_CORE_TAIL_H

#include "core/bus.h"

#define EV_LETTER_HEADER "Evbus-Letter"
#define EV_TAIL_CAUSE "parked behind "

struct ev_parked { /* one aggregate */
    struct ev_agg *agg;
    struct ev_parked *next; /* of the subscription */
    uint64_t head_letter;   /* the last that failed itself: what was redriven from before it is behind it */
    uint64_t came_back;     /* letters up to here do not count any more */
    uint64_t last_letter;   /* the highest one that is known of */
    uint64_t letters;       /* behind came_back, as far as is known */
    uint64_t free_after;    /* no letter is left: what lies behind this place of the stream runs; 0: not so */
    uint64_t changed;       /* value of `changes` when a letter was stored or came back; 0: none is stored yet */
    uint64_t look;          /* number of the look that found it */
    bool asking;            /* its last letter came back, but not all of them: were they dropped? It waits for a look */
    char behind[288];       /* the cause of what waits: EV_TAIL_CAUSE "SEQUENCE/EVENT ID" */
};

struct ev_tail { /* of a subscription that parks */
    struct evbus_sub *sub;
    struct ev_parked *parked;
    uint32_t count;
    bool unknown; /* what is parked is not known yet: nothing starts */
    bool full;    /* reported: parked_max */
    bool failed;  /* reported: the letters cannot be read */
    bool pending; /* a look is posted, and its command has not run */
    bool useless; /* what that look finds is of no use: this member was not active all the time */
    bool soon;    /* another one is to follow at once */
    bool whole;   /* the next look walks over all letters; else only if some were taken out */
    uint64_t changes;
    uint64_t looks;

    /* The look */
    struct ev_chore chore;
    struct ev_command command;
    uint64_t began; /* value of `changes` when it was posted */
    evbus_status status;
    bool walked;
    uint64_t stream_last; /* the end of the topic's stream, after the walk */
    struct ev_tail_found *found;
    uint32_t found_count, found_cap;
    uint64_t letters_msgs, letters_last; /* of the dead-letter stream, at the last walk ... */
    char letters_created[40];
    char text[200];
};

/* Options that do not go with parking. [app] */
evbus_status ev_tail_check(const evbus_sub_opts *o, bool envelope);

/* Memory, if it parks. [app] */
evbus_status ev_tail_init(struct evbus_sub *sub);

/* This member is the active one now: reads what is parked. [loop] */
void ev_tail_begin(evbus *bus, struct evbus_sub *sub);

/* A message's letter is about to be sent: its aggregate is parked. False: no room. [loop] */
bool ev_tail_park(evbus *bus, evbus_msg *msg);
/* It was stored, as `sequence` of the dead-letter stream, or was there before. */
void ev_tail_stored(evbus *bus, evbus_msg *msg, uint64_t sequence, bool duplicate);

/* The head of an aggregate, about to run or to be lettered: dooms it if it is parked, and takes that back if it is not
 * any more. False: that is not known yet; it waits for a look. [loop] */
bool ev_tail_judge(evbus *bus, evbus_msg *head);
/* Why the message is parked. */
const char *ev_tail_cause(const evbus_msg *msg);

/* The aggregate, or the subscription, ends here. */
void ev_tail_forget(evbus *bus, struct ev_agg *agg);
/* False: a look is under way, whose end calls ev_sub_ended. [loop] */
bool ev_tail_ended(evbus *bus, struct evbus_sub *sub);
void ev_tail_fini(struct evbus_sub *sub);

#endif
