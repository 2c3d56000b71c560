/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that names the backends. */
#include "core/backend.h"

#include <string.h>

extern const struct ev_backend_ops ev_mem_ops, ev_fault_mem_ops;
#ifdef EVBUS_HAVE_NATS
extern const struct ev_backend_ops ev_nats_ops, ev_fault_nats_ops;
#endif

const struct ev_backend_ops *ev_backend_find(const char *scheme)
{
    if (strcmp(scheme, "mem") == 0)
        return &ev_mem_ops;
    if (strcmp(scheme, "fault+mem") == 0)
        return &ev_fault_mem_ops;
#ifdef EVBUS_HAVE_NATS
    if (strcmp(scheme, "nats") == 0 || strcmp(scheme, "tls") == 0)
        return &ev_nats_ops;
    if (strcmp(scheme, "fault+nats") == 0 || strcmp(scheme, "fault+tls") == 0)
        return &ev_fault_nats_ops;
#endif
    return NULL;
}
