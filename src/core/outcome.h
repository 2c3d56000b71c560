/* SPDX-License-Identifier: Apache-2.0 */
/* How a publish's outcome reaches whoever wants it: counters, the waiting publisher, the queue of receipts, the error
 * callback, the dead letter. */
#ifndef EV_CORE_OUTCOME_H
#define EV_CORE_OUTCOME_H

#include "core/bus.h"

/* Exactly once per accepted publish. Gives the slot back or passes it on. [loop] */
void ev_outcome(evbus *bus, struct ev_slot *slot);

/* The receipt of a finished slot. The slot's owner. */
void ev_receipt_fill(const struct ev_slot *slot, evbus_receipt *ret);

#endif
