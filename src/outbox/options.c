/* SPDX-License-Identifier: Apache-2.0 */
#include "outbox/options.h"

#include <string.h>

evbus_status ev_outbox_opts_read(void *into, size_t size, const void *from, const char *what)
{
    size_t given = 0;

    memset(into, 0, size);
    memcpy(into, &size, sizeof size);
    if (!from)
        return EVBUS_OK;
    memcpy(&given, from, sizeof given);
    if (given < sizeof given || given > 65536)
        return ev_outbox_fail(EVBUS_INVALID, "%s.struct_size: %zu; use EVBUS_OPTS or %s_init", what, given, what);
    for (size_t i = size; i < given; i++) {
        if (((const unsigned char *)from)[i])
            return ev_outbox_fail(EVBUS_UNSUPPORTED, "%s: an option is set that this library does not know", what);
    }
    memcpy((char *)into + sizeof size, (const char *)from + sizeof size, (given < size ? given : size) - sizeof size);
    return EVBUS_OK;
}

void evbus_outbox_opts_init(evbus_outbox_opts *opts)
{
    *opts = (evbus_outbox_opts){.struct_size = sizeof *opts};
}

void evbus_outbox_relay_opts_init(evbus_outbox_relay_opts *opts)
{
    *opts = (evbus_outbox_relay_opts){.struct_size = sizeof *opts};
}
