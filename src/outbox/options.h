/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EV_OUTBOX_OPTIONS_H
#define EV_OUTBOX_OPTIONS_H

#include "outbox/detail.h"

/* Copies an option struct of any version: shorter ones are filled with 0, a longer one's unknown tail must be 0. NULL:
 * all defaults. */
evbus_status ev_outbox_opts_read(void *into, size_t size, const void *from, const char *what);

#endif
