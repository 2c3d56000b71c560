/* SPDX-License-Identifier: Apache-2.0 */
/* The baselines write and read envelopes with the library's own codec, so that the codec is on both sides. */
#include "bench.h"

#include "core/envelope.h"

size_t bare_encode(const evbus_envelope *env, char *out, size_t cap)
{
    size_t len = 0;

    return ev_envelope_encode(env, out, cap, &len) == EVBUS_OK ? len : 0;
}

bool bare_scan(const void *data, size_t len, char *text, size_t cap, evbus_envelope *env)
{
    return ev_envelope_scan(data, len, text, cap, env) == EVBUS_OK;
}
