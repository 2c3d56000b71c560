/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EV_OUTBOX_SCHEMA_H
#define EV_OUTBOX_SCHEMA_H

#include "outbox/db.h"

/* 0: no tables. */
evbus_status ev_schema_version(struct ev_db *db, int64_t *ret);

/* EVBUS_OK: the tables are of this library's version. */
evbus_status ev_schema_check(struct ev_db *db);

#endif
