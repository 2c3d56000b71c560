/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables, and every statement in both dialects. Times are Unix milliseconds on the database's own clock. Parameters
 * arrive as text: numbers are cast where no column tells their type. Lists arrive as JSON arrays.
 *
 *   evbus_outbox        one row per event. `state` below; an aggregate's order is that of `id`
 *   evbus_outbox_lease  one row per aggregate that a relay holds (until_ms), or that pauses after a failure (retry_ms).
 *                       since_ms, upto_id: rows up to that id were perhaps sent, the first of them at that time, and
 *                       nothing is known of their outcome; 0: none. fails: failures in a row. taken: the last claim
 *                       took it from another relay whose lease had run out
 *   evbus_inbox         one row per event and handler that is done
 */
#ifndef EV_OUTBOX_SQL_H
#define EV_OUTBOX_SQL_H

#include "outbox/db.h"

#define EV_SCHEMA_VERSION 1

#define EV_ROWS_MAX 16 /* of one aggregate, read at once */
#define EV_ROWS_OFFSET "15"
#define EV_ID_MAX "9223372036854775807"

enum ev_row_state {
    EV_ROW_SCHEDULED = 0,
    EV_ROW_PENDING = 1,
    EV_ROW_PUBLISHED = 2,
    EV_ROW_DEAD = 3,  /* later rows of its aggregate wait */
    EV_ROW_PASSED = 4 /* they do not */
};

#define SQLITE_NOW "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"
#define POSTGRES_NOW "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"

/* A JSON array of strings, or of [id, sequence] pairs, as a table. */
#define SQLITE_LIST(param) "json_each(" param ")"
#define POSTGRES_LIST(param) "json_array_elements_text(CAST(" param " AS json)) AS list(value)"
#define SQLITE_PAIRS(param)                                                                                            \
    "(SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS seq FROM json_each(" param ")) AS pair"
#define POSTGRES_PAIRS(param)                                                                                          \
    "(SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS seq"                                        \
    " FROM json_array_elements(CAST(" param " AS json)) AS list(value)) AS pair"

/* `text` is a macro of (now, list, pairs). */
#define EV_SQL(name, text)                                                                                             \
    static const struct ev_sql name = {text(SQLITE_NOW, SQLITE_LIST, SQLITE_PAIRS),                                    \
                                       text(POSTGRES_NOW, POSTGRES_LIST, POSTGRES_PAIRS)}

#define INT(param) "CAST(" param " AS BIGINT)"

#endif
