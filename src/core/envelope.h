/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The envelope on the wire: one JSON object, byte for byte as the Go original writes it (docs/wire.md). Writing is
 * size, check, encode; reading is one scan. No allocation anywhere. Threads: any, as long as the memory is one thread's.
 */
#ifndef EV_CORE_ENVELOPE_H
#define EV_CORE_ENVELOPE_H

#include "evbus/evbus.h"

#define EV_AGGREGATE_ID_MAX 256

/* Upper bound of the encoded size, tight enough for buffers. Missing fields count as empty. */
size_t ev_envelope_size(const evbus_envelope *env);

/*
 * Every rule for publishing but the strings' UTF-8 and the payload's JSON, which encode checks; the first broken one is
 * reported. event_id NULL is fine here (the caller makes one), a blank one is not.
 * Returns: EVBUS_OK, EVBUS_INVALID (the detail has field, value and rule)
 */
evbus_status ev_envelope_check(const evbus_envelope *env);

/* The rules for what arrives, as the original has them: event_id is required, an aggregate id may have outer space. */
evbus_status ev_envelope_check_received(const evbus_envelope *env);

/*
 * Of an envelope that passed the check, with event_id and timestamp_ns filled in (0 is written as 1970). `out` gets no
 * NUL, and holds nothing of use after a failure.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID  the payload is no JSON, or a string no UTF-8; the detail says at which byte
 *          EVBUS_LIMIT    `cap` is too small; ev_envelope_size() always suffices
 */
evbus_status ev_envelope_encode(const evbus_envelope *env, char *out, size_t cap, size_t *ret_len);

/*
 * Read and check. Strings are decoded to `text`, absent or empty optional ones are NULL; the payload points into
 * `data`, which is never written and needs no NUL.
 * Returns: EVBUS_OK
 *          EVBUS_INVALID  no JSON object, or no envelope; the detail says why, and at which byte
 *          EVBUS_LIMIT    `cap` is too small, len + 16 always suffices; sets no detail: the caller tries again
 */
evbus_status ev_envelope_scan(const char *data, size_t len, char *text, size_t cap, evbus_envelope *ret);

/* The aggregate id rule alone: 1..256 of A-Z a-z 0-9 : _ - . / */
bool ev_aggregate_id_ok(const char *id, size_t len);

#endif
