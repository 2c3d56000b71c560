/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's side of dead letters: reading them where they lie, publishing them again, taking them out. How they
 * come to lie there is deadletter.c's matter. Nothing here runs on the loop; every step is a question to the broker.
 */
#ifndef EV_CORE_LETTERS_H
#define EV_CORE_LETTERS_H

#include "core/bus.h"

/* A message as it lies in a stream, with headers (a block as in ev_record) and ids of its own. No string is NULL. */
struct ev_raw {
    const void *data;
    size_t len;
    const char *headers;
    size_t headers_len;
    const char *msg_id, *event_id, *aggregate_id;
};

/* Publishes it through the topic's stream and waits for the outcome; `ret` (or NULL) is written always. publish.c [app] */
evbus_status ev_publish_raw(evbus *bus, const char *topic, const struct ev_raw *raw, uint32_t timeout_ms,
                            evbus_receipt *ret);

#endif
