/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The relay against the database. Every statement that touches a lease names its owner, so that a relay whose lease was
 * taken over changes nothing; rows are only ever changed where they are still pending.
 */
#include "outbox/relay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALK_MIN 64
#define PURGE_ROWS 1000
#define LOOK_PAUSE (50 * EV_MS)
#define LEASE_LEFTOVER_MS "3600000" /* a lease nobody holds and no row needs is removed after this */

/* The last id of the first EV_ROWS_MAX pending rows of aggregate `a`, or `none`. */
#define LAST_OF_BATCH(a, none)                                                                                         \
    "COALESCE((SELECT b.id FROM evbus_outbox b WHERE b.state = 1 AND b.aggregate_id = " a                              \
    " ORDER BY b.id LIMIT 1 OFFSET " EV_ROWS_OFFSET "), " none ")"
#define FIRST_DEAD(a)                                                                                                  \
    "COALESCE((SELECT MIN(d.id) FROM evbus_outbox d WHERE d.state = 3 AND d.aggregate_id = " a "), " EV_ID_MAX ")"
#define FIRST_PENDING(a) "(SELECT MIN(p.id) FROM evbus_outbox p WHERE p.state = 1 AND p.aggregate_id = " a ")"

/* From aggregate to aggregate along the index, not from row to row. $1 cursor, $2 how many, $3 owner. */
#define WALK(now, list, pairs)                                                                                         \
    "WITH RECURSIVE walk(a, n) AS (SELECT (SELECT MIN(aggregate_id) FROM evbus_outbox WHERE state = 1"                 \
    " AND aggregate_id > $1), 1 UNION ALL SELECT (SELECT MIN(aggregate_id) FROM evbus_outbox WHERE state = 1"          \
    " AND aggregate_id > walk.a), n + 1 FROM walk WHERE a IS NOT NULL AND n < " INT(                                   \
        "$2") ") SELECT a, CASE WHEN EXISTS (SELECT 1 FROM evbus_outbox_lease l WHERE l.aggregate_id = a AND "         \
              "(l.retry_ms > " now " OR (l.until_ms > " now " AND l.owner <> $3))) OR " FIRST_DEAD(                    \
                  "a") " < " FIRST_PENDING("a") " THEN 0 ELSE 1 END FROM walk WHERE a IS NOT NULL"

/* $1 aggregates, $2 owner, $3 lease */
#define CLAIM(now, list, pairs)                                                                                        \
    "INSERT INTO evbus_outbox_lease (aggregate_id, owner, until_ms, retry_ms, since_ms, upto_id, fails, taken)"        \
    " SELECT value, $2, " now " + " INT("$3") ", 0, 0, 0, 0, 0 FROM " list(                                            \
        "$1") " WHERE true ON CONFLICT (aggregate_id) DO UPDATE SET owner ="                                           \
              " excluded.owner, until_ms = excluded.until_ms, retry_ms = 0, taken = CASE WHEN "                        \
              "evbus_outbox_lease.until_ms > 0"                                                                        \
              " AND evbus_outbox_lease.owner <> excluded.owner THEN 1 ELSE 0 END WHERE evbus_outbox_lease.retry_ms "   \
              "<= " now " AND (evbus_outbox_lease.until_ms <= " now " OR evbus_outbox_lease.owner = excluded.owner)"   \
              " RETURNING aggregate_id, fails, taken, upto_id, CASE WHEN since_ms = 0 THEN -1 ELSE " now               \
              " - since_ms END"

/* $1 aggregates, $2 owner, $3 lease. Rows that may be sent from now on are noted before they are. */
#define KEEP(now, list, pairs)                                                                                                   \
    "UPDATE evbus_outbox_lease SET until_ms = " now " + " INT(                                                                   \
        "$3") ", since_ms = CASE WHEN since_ms > 0 AND upto_id"                                                                  \
              " >= " FIRST_PENDING(                                                                                              \
                  "evbus_outbox_lease.aggregate_id") " THEN since_ms ELSE " now                                                  \
                                                     " END, upto_id = CASE WHEN upto_id > " LAST_OF_BATCH(                       \
                                                         "evbus_outbox_lease.aggregate_id",                                      \
                                                         EV_ID_MAX) " THEN upto_id ELSE " LAST_OF_BATCH("evbus_"                 \
                                                                                                        "outbox_"                \
                                                                                                        "lease."                 \
                                                                                                        "aggregate_"             \
                                                                                                        "id",                    \
                                                                                                        "COALESCE(("             \
                                                                                                        "SELECT "                \
                                                                                                        "MAX(m.id) "             \
                                                                                                        "FROM"                   \
                                                                                                        " evbus_"                \
                                                                                                        "outbox m "              \
                                                                                                        "WHERE "                 \
                                                                                                        "m.state = 1 "           \
                                                                                                        "AND "                   \
                                                                                                        "m.aggregate_"           \
                                                                                                        "id = "                  \
                                                                                                        "evbus_"                 \
                                                                                                        "outbox_"                \
                                                                                                        "lease."                 \
                                                                                                        "aggregate_"             \
                                                                                                        "id), 0)") " "           \
                                                                                                                   "E"           \
                                                                                                                   "N"           \
                                                                                                                   "D"           \
                                                                                                                   " "           \
                                                                                                                   "W"           \
                                                                                                                   "H"           \
                                                                                                                   "E"           \
                                                                                                                   "R"           \
                                                                                                                   "E"           \
                                                                                                                   " "           \
                                                                                                                   "o"           \
                                                                                                                   "w"           \
                                                                                                                   "n"           \
                                                                                                                   "e"           \
                                                                                                                   "r"           \
                                                                                                                   " "           \
                                                                                                                   "="           \
                                                                                                                   " "           \
                                                                                                                   "$"           \
                                                                                                                   "2"           \
                                                                                                                   " "           \
                                                                                                                   "A"           \
                                                                                                                   "N"           \
                                                                                                                   "D"           \
                                                                                                                   " "           \
                                                                                                                   "u"           \
                                                                                                                   "n"           \
                                                                                                                   "t"           \
                                                                                                                   "i"           \
                                                                                                                   "l"           \
                                                                                                                   "_"           \
                                                                                                                   "m"           \
                                                                                                                   "s"           \
                                                                                                                   " "           \
                                                                                                                   ">"           \
                                                                                                                   " " now       \
                                                                                                                   " "           \
                                                                                                                   "A"           \
                                                                                                                   "N"           \
                                                                                                                   "D"           \
                                                                                                                   " "           \
                                                                                                                   "a"           \
                                                                                                                   "g"           \
                                                                                                                   "g"           \
                                                                                                                   "r"           \
                                                                                                                   "e"           \
                                                                                                                   "g"           \
                                                                                                                   "a"           \
                                                                                                                   "t"           \
                                                                                                                   "e"           \
                                                                                                                   "_"           \
                                                                                                                   "i"           \
                                                                                                                   "d"           \
                                                                                                                   " "           \
                                                                                                                   "I"           \
                                                                                                                   "N"           \
                                                                                                                   " "           \
                                                                                                                   "("           \
                                                                                                                   "S"           \
                                                                                                                   "E"           \
                                                                                                                   "L"           \
                                                                                                                   "E"           \
                                                                                                                   "C"           \
                                                                                                                   "T"           \
                                                                                                                   " "           \
                                                                                                                   "v"           \
                                                                                                                   "a"           \
                                                                                                                   "l"           \
                                                                                                                   "u"           \
                                                                                                                   "e"           \
                                                                                                                   " "           \
                                                                                                                   "F"           \
                                                                                                                   "R"           \
                                                                                                                   "O"           \
                                                                                                                   "M"           \
                                                                                                                   " " list(     \
                                                                                                                       "$1") ")" \
                                                                                                                             " RETURNING aggregate_id"

/* $1 aggregates, $2 owner */
#define READ(now, list, pairs)                                                                                         \
    "SELECT o.id, o.event_id, o.topic, o.event_type, o.event_version, o.timestamp_ns, o.trace_id, o.correlation_id,"   \
    " o.tenant_id, o.payload, o.attempts, o.aggregate_id FROM evbus_outbox_lease l JOIN evbus_outbox o ON"             \
    " o.state = 1 AND o.aggregate_id = l.aggregate_id AND o.id <= l.upto_id AND o.id < " FIRST_DEAD(                   \
        "l.aggregate_id") " AND o.id <= " LAST_OF_BATCH("l.aggregate_id",                                              \
                                                        EV_ID_MAX) " WHERE l.owner = $2 AND l.until_ms > " now         \
                                                                   " AND l.aggregate_id IN (SELECT value FROM " list(  \
                                                                       "$1") ")"                                       \
                                                                             " ORDER BY o.aggregate_id, o.id"

/* $1 pairs */
#define MARK(now, list, pairs)                                                                                         \
    "UPDATE evbus_outbox SET state = 2, done_ms = " now ", sequence = pair.seq, error = NULL FROM " pairs(             \
        "$1") " WHERE evbus_outbox.id = pair.id AND evbus_outbox.state = 1"

/* $1 id, $2 error, $3 1: dead now, $4 attempts_max, $5 state of the dead, $6 owner */
#define REFUSE(now, list, pairs)                                                                                                                                                                                                                         \
    "UPDATE evbus_outbox SET attempts = attempts + 1, error = $2, state = CASE WHEN " INT(                                                                                                                                                               \
        "$3") " = 1 OR attempts + 1 >= " INT("$4") " THEN " INT("$5") " ELSE state END, done_ms = CASE WHEN " INT("$"                                                                                                                                    \
                                                                                                                  "3") " = 1 OR attempts + 1 >= " INT("$4") " THEN " now                                                                                 \
                                                                                                                                                            " ELSE NULL END WHERE id = " INT(                                                            \
                                                                                                                                                                "$1") " AND state = 1 AND EXISTS (SELECT 1 FROM evbus_outbox_lease l WHERE l.owner = $6" \
                                                                                                                                                                      " AND l.aggregate_id = evbus_outbox.aggregate_id) RETURNING state, attempts"

/* $1 aggregate, $2 owner, $3 pause, $4 fails, $5 1: rows may be stored */
#define PAUSE(now, list, pairs)                                                                                        \
    "UPDATE evbus_outbox_lease SET until_ms = 0, retry_ms = " now " + " INT("$3") ", fails = " INT(                    \
        "$4") ", since_ms = CASE WHEN " INT("$5") " = 1 THEN since_ms ELSE 0 END"                                      \
                                                  " WHERE owner = $2 AND aggregate_id = $1"

/* $1 aggregates, $2 owner */
#define LEAVE(now, list, pairs)                                                                                        \
    "DELETE FROM evbus_outbox_lease WHERE owner = $2 AND aggregate_id IN (SELECT value FROM " list("$1") ")"
#define GIVE_BACK(now, list, pairs)                                                                                    \
    "UPDATE evbus_outbox_lease SET until_ms = 0 WHERE owner = $2 AND aggregate_id IN (SELECT value FROM " list("$1") ")"
#define PROMOTE(now, list, pairs)                                                                                      \
    "UPDATE evbus_outbox SET state = 1 WHERE state = 0 AND id IN (SELECT id FROM evbus_outbox WHERE state = 0"         \
    " AND scheduled_ms <= " now " ORDER BY scheduled_ms LIMIT 1000)"
#define DUE(now, list, pairs) "SELECT 1 FROM evbus_outbox WHERE state = 0 AND scheduled_ms <= " now " LIMIT 1"
#define TOPICS(now, list, pairs) "SELECT DISTINCT topic FROM evbus_outbox WHERE state = 1 LIMIT 256"
#define LEFTOVERS(now, list, pairs)                                                                                    \
    "DELETE FROM evbus_outbox_lease WHERE until_ms < " now " - " LEASE_LEFTOVER_MS " AND retry_ms < " now              \
    " AND NOT EXISTS (SELECT 1 FROM evbus_outbox o WHERE o.state = 1 AND o.aggregate_id ="                             \
    " evbus_outbox_lease.aggregate_id)"

EV_SQL(sql_walk, WALK);
EV_SQL(sql_claim, CLAIM);
EV_SQL(sql_keep, KEEP);
EV_SQL(sql_read, READ);
EV_SQL(sql_mark, MARK);
EV_SQL(sql_refuse, REFUSE);
EV_SQL(sql_pause, PAUSE);
EV_SQL(sql_leave, LEAVE);
EV_SQL(sql_give_back, GIVE_BACK);
EV_SQL(sql_promote, PROMOTE);
EV_SQL(sql_due, DUE);
EV_SQL(sql_topics, TOPICS);
EV_SQL(sql_leftovers, LEFTOVERS);

/* ---- Lists as parameters ----------------------------------------------------------------------------------------- */

/* Aggregate ids need no escaping in JSON: the envelope's rule allows only A-Z a-z 0-9 : _ - . / */
static void list_add(struct ev_text *list, const char *aggregate)
{
    ev_text_add(list, "%s\"%s\"", list->len ? "," : "[", aggregate);
}

static evbus_status list_end(struct ev_text *list)
{
    ev_text_add(list, "%s", list->len ? "]" : "[]");
    return list->broken ? ev_outbox_fail(EVBUS_NOMEM, "out of memory for a list of aggregates") : EVBUS_OK;
}

/* `r->list`: the aggregates of all lanes in `state`; returns how many. */
static uint32_t list_lanes(struct evbus_outbox_relay *r, enum ev_lane_state state)
{
    uint32_t count = 0;

    ev_text_clear(&r->list);
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        if (r->lanes[i].state == state) {
            list_add(&r->list, r->lanes[i].aggregate);
            count++;
        }
    }
    return count;
}

/* ---- Looking ----------------------------------------------------------------------------------------------------- */

struct walk {
    struct evbus_outbox_relay *r;
    uint32_t seen, free, room;
    char last[EV_AGGREGATE_SIZE];
};

static evbus_status take_walked(const char *const *c, void *ctx)
{
    struct walk *w = ctx;
    struct evbus_outbox_relay *r = w->r;

    w->seen++;
    if (w->room > r->chosen_count && strlen(c[0]) < sizeof w->last) {
        memcpy(w->last, c[0], strlen(c[0]) + 1);
        if (ev_number_of(c[1]) == 1 && !ev_lane_find(r, c[0])) {
            list_add(&r->chosen, c[0]);
            r->chosen_count++;
        }
    } else {
        w->free += ev_number_of(c[1]) == 1;
    }
    return EVBUS_OK;
}

static evbus_status look(struct evbus_outbox_relay *r)
{
    struct walk w = {.r = r, .room = r->o.aggregates_max - r->held};
    const uint32_t most = w.room * 2 > WALK_MIN ? w.room * 2 : WALK_MIN;
    char count[EV_NUMBER_SIZE];
    const char *const params[] = {r->cursor, ev_number(most, count), r->owner};
    const bool from_start = !*r->cursor;

    const evbus_status st = ev_db_run(&r->db, &sql_walk, params, 3, take_walked, &w, NULL);
    if (st != EVBUS_OK)
        return st;
    const bool to_end = w.seen < most && w.free == 0;
    if (to_end)
        r->cursor[0] = 0;
    else
        memcpy(r->cursor, w.last, sizeof w.last);
    r->look = !(from_start && to_end);
    r->look_at_ns = r->chosen_count ? 0 : ev_boot_ns() + LOOK_PAUSE;
    return EVBUS_OK;
}

static evbus_status take_yes(const char *const *c, void *ctx)
{
    (void)c;
    *(bool *)ctx = true;
    return EVBUS_OK;
}

/* Scheduled rows whose time has come join their aggregates. */
static evbus_status promote(struct evbus_outbox_relay *r)
{
    bool due = false;
    const evbus_status st = ev_db_run(&r->db, &sql_due, NULL, 0, take_yes, &due, NULL);

    return st != EVBUS_OK || !due ? st : ev_db_run(&r->db, &sql_promote, NULL, 0, NULL, NULL, NULL);
}

/* ---- Leases and rows --------------------------------------------------------------------------------------------- */

static evbus_status take_claimed(const char *const *c, void *ctx)
{
    struct evbus_outbox_relay *r = ctx;
    struct ev_lane *lane = ev_lane_take(r, c[0]);

    if (!lane)
        return EVBUS_OK; /* no room: claimed again later, it is ours */
    lane->more = true;
    lane->fails = ev_number_of(c[1]);
    if (ev_number_of(c[4]) >= 0) {
        lane->carry_upto = ev_number_of(c[3]);
        lane->carry_since_ns = ev_boot_ns() - ev_number_of(c[4]) * EV_MS;
    }
    EV_COUNT(r, claimed, 1);
    if (ev_number_of(c[2])) {
        EV_COUNT(r, taken_over, 1);
        ev_relay_event(r, EVBUS_OUTBOX_EVENT_TAKEN_OVER, EVBUS_OK, 1, NULL, c[0],
                       "aggregate %s is taken over: the lease of the relay that had it ran out", c[0]);
    }
    return EVBUS_OK;
}

static evbus_status claim(struct evbus_outbox_relay *r)
{
    char lease[EV_NUMBER_SIZE];
    evbus_status st = list_end(&r->chosen);
    const char *const params[] = {r->chosen.data, r->owner, ev_number(r->o.lease_ms, lease)};

    return st != EVBUS_OK ? st : ev_db_run(&r->db, &sql_claim, params, 3, take_claimed, r, NULL);
}

struct keeping {
    struct evbus_outbox_relay *r;
    int64_t until_ns;
};

static evbus_status take_kept(const char *const *c, void *ctx)
{
    const struct keeping *k = ctx;
    struct ev_lane *lane = ev_lane_find(k->r, c[0]);

    if (lane && lane->state == EV_LANE_SPENT) {
        lane->until_ns = k->until_ns;
        lane->kept = true;
    }
    return EVBUS_OK;
}

static evbus_status take_row(const char *const *c, void *ctx)
{
    struct evbus_outbox_relay *r = ctx;
    struct ev_lane *lane = ev_lane_find(r, c[11]);

    if (!lane || !lane->kept || lane->count >= EV_ROWS_MAX)
        return EVBUS_OK;
    if (lane->count > 0 && r->bytes > EV_ROW_BYTES_MAX) {
        lane->more = true; /* later */
        return EVBUS_OK;
    }
    struct ev_row *row = ev_row_new(c);
    if (!row)
        return ev_outbox_fail(EVBUS_NOMEM, "out of memory for a row");
    r->bytes += row->bytes;
    lane->rows[lane->count++] = row;
    lane->more = lane->more || lane->count == EV_ROWS_MAX;
    return EVBUS_OK;
}

/* Those that were not kept belong to somebody else by now. */
static void settle_read(struct evbus_outbox_relay *r)
{
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state != EV_LANE_SPENT)
            continue;
        if (!lane->kept) {
            EV_COUNT(r, leases_lost, 1);
            ev_lane_free(r, lane);
        } else {
            ev_lane_set(r, lane, lane->count ? EV_LANE_READY : EV_LANE_LEAVING);
        }
    }
}

static evbus_status read_rows(struct evbus_outbox_relay *r)
{
    char lease[EV_NUMBER_SIZE];

    if (list_lanes(r, EV_LANE_SPENT) == 0)
        return EVBUS_OK;
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state == EV_LANE_SPENT) {
            ev_lane_drop_rows(r, lane);
            lane->kept = lane->more = false;
        }
    }
    evbus_status st = list_end(&r->list);
    struct keeping k = {.r = r, .until_ns = ev_boot_ns() + (int64_t)r->o.lease_ms * EV_MS};
    const char *const params[] = {r->list.data, r->owner, ev_number(r->o.lease_ms, lease)};
    if (st == EVBUS_OK)
        st = ev_db_run(&r->db, &sql_keep, params, 3, take_kept, &k, NULL);
    if (st == EVBUS_OK)
        st = ev_db_run(&r->db, &sql_read, params, 2, take_row, r, NULL);
    if (st == EVBUS_OK)
        settle_read(r);
    return st;
}

static evbus_status leave(struct evbus_outbox_relay *r, enum ev_lane_state state, const struct ev_sql *sql)
{
    evbus_status st = EVBUS_OK;

    if (list_lanes(r, state) == 0)
        return EVBUS_OK;
    if ((st = list_end(&r->list)) != EVBUS_OK)
        return st;
    const char *const params[] = {r->list.data, r->owner};
    st = ev_db_run(&r->db, sql, params, 2, NULL, NULL, NULL);
    for (uint32_t i = 0; st == EVBUS_OK && i < r->o.aggregates_max; i++) {
        if (r->lanes[i].state == state)
            ev_lane_free(r, &r->lanes[i]);
    }
    return st;
}

/* ---- Outcomes ---------------------------------------------------------------------------------------------------- */

static evbus_status mark(struct evbus_outbox_relay *r, uint64_t *ret_marked)
{
    struct ev_text all = {0};
    evbus_status st = EVBUS_OK;

    if (r->marks_count == 0)
        return EVBUS_OK;
    ev_text_add(&all, "[%s]", r->marks.data);
    const char *const params[] = {all.data};
    if (all.broken || r->marks.broken)
        st = ev_outbox_fail(EVBUS_NOMEM, "out of memory for marks");
    if (st == EVBUS_OK)
        st = ev_db_run(&r->db, &sql_mark, params, 1, NULL, NULL, ret_marked);
    ev_text_fini(&all);
    return st;
}

/* Doubled each time, half of it by chance. */
static int64_t pause_ms(struct evbus_outbox_relay *r, int64_t fails)
{
    uint64_t ms = r->o.backoff_min_ms;

    for (int64_t i = 0; i < fails && ms < r->o.backoff_max_ms; i++)
        ms *= 2;
    if (ms > r->o.backoff_max_ms)
        ms = r->o.backoff_max_ms;
    r->random = r->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)(ms / 2 + (r->random >> 33) % (ms / 2 + 1));
}

static evbus_status take_refused(const char *const *c, void *ctx)
{
    struct ev_lane *lane = ctx;

    lane->failure.died = ev_number_of(c[0]) != EV_ROW_PENDING;
    lane->failure.attempts = ev_number_of(c[1]);
    return EVBUS_OK;
}

static evbus_status refuse(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    const bool hopeless = lane->failure.status == EVBUS_INVALID || lane->failure.status == EVBUS_TOO_LARGE;
    char id[EV_NUMBER_SIZE], most[EV_NUMBER_SIZE], state[EV_NUMBER_SIZE], error[300];
    const char *const params[] = {
        ev_number(lane->rows[lane->at]->id, id),
        error,
        hopeless ? "1" : "0",
        ev_number(r->o.attempts_max, most),
        ev_number(r->o.on_dead == EVBUS_OUTBOX_PASS ? EV_ROW_PASSED : EV_ROW_DEAD, state),
        r->owner,
    };

    (void)snprintf(error, sizeof error, "%s: %s", evbus_status_name(lane->failure.status), lane->failure.text);
    return ev_db_run(&r->db, &sql_refuse, params, 6, take_refused, lane, NULL);
}

static evbus_status fail_lane(struct evbus_outbox_relay *r, struct ev_lane *lane)
{
    char ms[EV_NUMBER_SIZE], fails[EV_NUMBER_SIZE];
    evbus_status st = EVBUS_OK;

    lane->failure.died = false;
    if (lane->failure.counts)
        st = refuse(r, lane);
    if (st != EVBUS_OK || lane->failure.died)
        return st;
    const char *const params[] = {lane->aggregate, r->owner, ev_number(pause_ms(r, lane->fails), ms),
                                  ev_number(lane->fails + 1, fails),
                                  lane->failure.unknown || ev_lane_carries(lane) ? "1" : "0"};
    return ev_db_run(&r->db, &sql_pause, params, 5, NULL, NULL, NULL);
}

static evbus_status fail_lanes(struct evbus_outbox_relay *r)
{
    evbus_status st = EVBUS_OK;

    for (uint32_t i = 0; st == EVBUS_OK && i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state == EV_LANE_FAILED)
            st = fail_lane(r, lane);
    }
    return st;
}

/* After the commit: what failed has been written down. A dead row's lane is let go in the next cycle, or reads on. */
static void failures_done(struct evbus_outbox_relay *r)
{
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state != EV_LANE_FAILED)
            continue;
        if (!lane->failure.died) {
            ev_lane_free(r, lane);
            continue;
        }
        EV_COUNT(r, dead, 1);
        ev_relay_event(r, EVBUS_OUTBOX_EVENT_DEAD, lane->failure.status, 1, lane->rows[lane->at], lane->aggregate,
                       "event %s of aggregate %s is dead after %" PRId64 " attempts%s: %s",
                       lane->rows[lane->at]->event_id, lane->aggregate, lane->failure.attempts,
                       r->o.on_dead == EVBUS_OUTBOX_PASS ? "" : ", and its later events wait", lane->failure.text);
        ev_lane_drop_rows(r, lane);
        lane->fails = 0;
        ev_lane_set(r, lane, r->o.on_dead == EVBUS_OUTBOX_PASS ? EV_LANE_SPENT : EV_LANE_LEAVING);
    }
}

/* ---- The cycle --------------------------------------------------------------------------------------------------- */

/* At the end: what was not sent goes back; with what is known of earlier sending, if there is such. */
static void give_up_unsent(struct evbus_outbox_relay *r)
{
    for (uint32_t i = 0; i < r->o.aggregates_max; i++) {
        struct ev_lane *lane = &r->lanes[i];
        if (lane->state == EV_LANE_READY || lane->state == EV_LANE_SPENT)
            ev_lane_set(r, lane, ev_lane_carries(lane) ? EV_LANE_SPENT : EV_LANE_LEAVING);
    }
}

static evbus_status transaction(struct evbus_outbox_relay *r, uint64_t *ret_marked)
{
    const bool stopping = ev_relay_stopping(r);
    evbus_status st = mark(r, ret_marked);

    if (st == EVBUS_OK)
        st = fail_lanes(r);
    if (stopping)
        give_up_unsent(r);
    if (st == EVBUS_OK)
        st = leave(r, EV_LANE_LEAVING, &sql_leave);
    if (st == EVBUS_OK && stopping)
        return leave(r, EV_LANE_SPENT, &sql_give_back);
    if (st == EVBUS_OK && r->chosen_count)
        st = claim(r);
    return st == EVBUS_OK ? read_rows(r) : st;
}

/* SQLite may refuse to commit while somebody reads: the transaction is still there, and is committed later. */
static evbus_status commit(struct evbus_outbox_relay *r)
{
    evbus_status st = EVBUS_TIMEOUT;

    for (int i = 0; i < 5 && st == EVBUS_TIMEOUT; i++)
        st = ev_db_commit(&r->db);
    return st;
}

static bool has_work(const struct evbus_outbox_relay *r)
{
    return r->marks_count || r->chosen_count || r->held > r->ready + r->inflight ||
           (atomic_load_explicit(&r->stopping, memory_order_relaxed) && r->held); /* hint: asked again inside */
}

evbus_status ev_relay_cycle(struct evbus_outbox_relay *r)
{
    uint64_t marked = 0;
    evbus_status st = EVBUS_OK;

    ev_text_clear(&r->chosen);
    r->chosen_count = 0;
    if (r->look && !ev_relay_stopping(r) && ev_relay_bus_up(r) && r->held < r->o.aggregates_max &&
        ev_boot_ns() >= r->look_at_ns) {
        st = promote(r);
        if (st == EVBUS_OK)
            st = look(r);
    }
    if (st != EVBUS_OK || !has_work(r))
        return st;
    if ((st = ev_db_begin(&r->db)) != EVBUS_OK)
        return st; /* locked: all is as it was */
    if (r->held > r->ready + r->inflight)
        r->look = true; /* whose lanes are let go of may have new rows */
    st = transaction(r, &marked);
    if (st == EVBUS_OK)
        st = commit(r);
    if (st != EVBUS_OK) {
        char why[EV_OUTBOX_DETAIL_MAX];
        (void)snprintf(why, sizeof why, "%s", evbus_outbox_error_detail());
        ev_db_rollback(&r->db);
        ev_lanes_forget(r);
        return ev_outbox_fail(st, "%s", why);
    }
    EV_COUNT(r, marked, marked);
    ev_text_clear(&r->marks);
    r->marks_count = 0;
    failures_done(r);
    return EVBUS_OK;
}

evbus_status ev_relay_purge(struct evbus_outbox_relay *r, bool *ret_more)
{
    uint64_t rows = 0, events = 0;
    evbus_status st = EVBUS_OK;

    if (r->o.keep_ms != EVBUS_FOREVER)
        st = ev_outbox_purge(&r->db, r->o.keep_ms, PURGE_ROWS, &rows);
    if (st == EVBUS_OK && r->o.inbox_keep_ms != EVBUS_FOREVER)
        st = ev_inbox_purge(&r->db, r->o.inbox_keep_ms, PURGE_ROWS, &events);
    if (st == EVBUS_OK)
        st = ev_db_run(&r->db, &sql_leftovers, NULL, 0, NULL, NULL, NULL);
    EV_COUNT(r, purged, rows + events);
    *ret_more = rows == PURGE_ROWS || events == PURGE_ROWS;
    return st;
}

evbus_status ev_relay_topics(struct evbus_outbox_relay *r, ev_row_fn fn, void *ctx)
{
    return ev_db_run(&r->db, &sql_topics, NULL, 0, fn, ctx, NULL);
}
