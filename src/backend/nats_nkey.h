/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NKeys: libnats signs with a seed file, but wants to be told the public key as well. This derives it, so that users
 * name one file and not two things that must fit. Threads: any. No state.
 */
#ifndef EV_BACKEND_NATS_NKEY_H
#define EV_BACKEND_NATS_NKEY_H

#include "base/status.h"

#define EV_NKEY_PUBLIC_MAX 64 /* 56 characters and the NUL, with room */

/* The public key ("U...") of a seed ("SU..."). EVBUS_INVALID says what is wrong with the seed, without quoting it. */
evbus_status ev_nkey_public(const char *seed, char out[EV_NKEY_PUBLIC_MAX]);

/* The same for the first word starting with "SU" in a file. */
evbus_status ev_nkey_public_of_file(const char *path, char out[EV_NKEY_PUBLIC_MAX]);

#endif
