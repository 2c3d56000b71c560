/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Topic -> stream, decided here for publishing and subscribing alike:
 *   1. the stream named in the topic's configuration;
 *   2. else an existing stream whose subjects cover the topic (the broker is asked);
 *   3. else, for dead letters ("dlq."), the stream EVBUS_DLQ; else the bus's default stream if it covers the topic;
 *   4. else a stream of the topic's own.
 * One look-up or creation per topic at a time (single flight), its result for all who wait; success is cached in the
 * topic record until the broker says otherwise; a failure is remembered for lookup_retry_ms. "Not found" is believed
 * only from the broker's own error code. A stream that is gone is made again only after two not-found answers at least
 * 2 s apart, and only if this bus made it.
 */
#ifndef EV_CORE_STREAMS_H
#define EV_CORE_STREAMS_H

#include "core/bus.h"

#define EV_DLQ_STREAM "EVBUS_DLQ"
#define EV_DLQ_PREFIX "dlq."

/* May `topic` be published now, and through a stream (*ret_stored) or over core NATS? `cfg` is its configuration.
 * Takes no lock when the stream is known. Blocks up to `deadline` when it is not. [app] */
evbus_status ev_streams_ensure(struct ev_topic *topic, const evbus_topic_opts *cfg, bool envelope, int64_t deadline,
                               bool *ret_stored);

/* The stream for subscribing to `topic` (or a pattern, whose stream must exist). EVBUS_NOT_FOUND, ... [app] */
evbus_status ev_streams_for_sub(struct ev_topic *topic, int64_t deadline, char ret_stream[EV_NAME_MAX]);

/* The topic's stream did not answer: look again on the housekeeping thread, and while its gate is closed. [loop] */
void ev_streams_check_later(evbus *bus, struct ev_topic *topic);

#endif
