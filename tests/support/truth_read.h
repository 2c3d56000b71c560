/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nats-servers say themselves of a stream and its consumers, asked by hand (nats_wire.h): evidence for the judge.
 * Threads: one per connection.
 */
#ifndef EV_TESTS_TRUTH_READ_H
#define EV_TESTS_TRUTH_READ_H

#include "nats_wire.h"
#include "truth.h"

/* Of the stream that has the subject; of the first of its consumers whose name begins so. False: no answer, or none. */
bool truth_read_stream_name(struct nats_wire *w, const char *subject, char *ret, size_t size);
bool truth_read_consumer_name(struct nats_wire *w, const char *stream, const char *begins, char *ret, size_t size);

/* One that the server does not know any more has zeros. False: no answer. */
bool truth_read_consumer(struct nats_wire *w, const char *stream, const char *consumer, struct truth_consumer *ret);

/* What each server of a replicated stream holds: nothing, if there is no such stream. Their names end in their numbers, from
 * 0. False: `why` says why. */
bool truth_read_servers(uint16_t port, const char *stream, uint32_t patience_ms,
                        struct truth_content servers[TRUTH_SERVERS], char *why, size_t size);

#endif
