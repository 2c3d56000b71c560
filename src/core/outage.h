/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a publish does while the broker is away: no connection, or the topic's gate is closed (evbus_topic_opts.outage).
 * What is accepted meanwhile under EVBUS_OUTAGE_HOLD is counted against bounds of its topic until it is sent or ended.
 */
#ifndef EV_CORE_OUTAGE_H
#define EV_CORE_OUTAGE_H

#include "core/bus.h"

/* Before the stream is looked up, for topics with a policy. EVBUS_OK: go on without looking, *ret_stored is known;
 * EVBUS_TIMEOUT: look it up; otherwise the publish fails so. [app] may wait until `deadline` */
evbus_status ev_outage_known(struct ev_topic *topic, const evbus_topic_opts *cfg, int64_t deadline, bool *ret_stored);

/* Past the gate, by the topic's policy. *ret_held: counted, to be given back by one of the two below. [app] */
evbus_status ev_outage_pass(struct ev_topic *topic, const evbus_topic_opts *cfg, uint32_t size, int64_t deadline,
                            bool *ret_held);
void ev_outage_release(struct ev_topic *topic, bool held, uint32_t size); /* no slot has it yet */
void ev_outage_forget(struct ev_slot *slot);                              /* sent, ended, or never submitted [any] */

#endif
