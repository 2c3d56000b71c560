/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last way of a message nobody could handle: the original bytes and headers, with its cause, go to the dead-letter
 * topic, and only when they are stored there is the message settled. Stored once: the letter's message id is made of
 * stream, sequence and group. A letter that cannot be stored loses nothing: the message stays and is tried again.
 */
#ifndef EV_CORE_DEADLETTER_H
#define EV_CORE_DEADLETTER_H

#include "core/bus.h"

/* "dlq." and the topic, wildcards made plain, a hash for the end of a very long one: never a name from the wire. */
void ev_letter_topic(char out[EV_NAME_MAX], const char *topic);

/* The record of the subscription's usual dead-letter topic. EVBUS_NOMEM. [app] before it is attached, then [loop] */
evbus_status ev_letter_topic_get(struct evbus_sub *sub);

/* Sends the message's letter, or pauses its aggregate until that is possible. [loop] */
void ev_letter_start(evbus *bus, evbus_msg *msg);

/* The letter's outcome. Gives its slot back. [loop] */
void ev_letter_done(evbus *bus, struct ev_slot *slot);

#endif
