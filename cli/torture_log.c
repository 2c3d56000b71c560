/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes down what happens, in the entries of tests/support/truth.h, in memory: an entry's place is taken first, its kind is
 * written last.
 */
#include "torture.h"

#include "stop.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ENTRIES_PER_EVENT 8u
#define ENTRIES_SPARE 200000u

static size_t log_size(uint32_t capacity)
{
    return sizeof(struct truth_shared) + capacity * sizeof(struct truth_entry);
}

/* Pages that are never touched cost nothing. */
bool torture_log_open(struct torture *t)
{
    const uint32_t events = t->seconds * TORTURE_RATE, capacity = events * ENTRIES_PER_EVENT + ENTRIES_SPARE;
    void *at = mmap(NULL, log_size(capacity), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return false;
    t->log.shared = at;
    t->log.entries = (struct truth_entry *)(t->log.shared + 1);
    t->log.shared->capacity = capacity;
    t->versions_max = events / 2 + 1000;
    t->fate = calloc((size_t)(TORTURE_AGGREGATES + 1) * t->versions_max, sizeof *t->fate);
    return t->fate != NULL;
}

void torture_log_close(struct torture *t)
{
    if (t->log.shared)
        (void)munmap(t->log.shared, log_size(t->log.shared->capacity));
    free((void *)t->fate);
    t->log.shared = NULL;
    t->fate = NULL;
}

_Atomic(uint8_t) *torture_fate(struct torture *t, uint32_t aggregate, uint32_t version)
{
    const bool known = aggregate <= TORTURE_AGGREGATES && version < t->versions_max;

    return known ? &t->fate[(size_t)aggregate * t->versions_max + version] : NULL;
}

/* The next place; NULL: the log is full, which the judge sees by its count. */
static struct truth_entry *begin(struct torture *t, uint16_t process)
{
    struct truth_shared *s = t->log.shared;
    const uint32_t n = atomic_fetch_add(&s->count, 1);
    struct timespec wall;

    if (n >= s->capacity)
        return NULL;
    struct truth_entry *e = &t->log.entries[n];
    (void)clock_gettime(CLOCK_REALTIME, &wall);
    e->process = process;
    e->at_ns = now_ns();
    e->wall_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec;
    return e;
}

static void end(struct truth_entry *e, enum truth_kind kind)
{
    atomic_store_explicit(&e->kind, kind, memory_order_release);
}

void torture_log_member(struct torture_member *m)
{
    struct truth_entry *e = begin(m->t, m->process);

    if (!e)
        return;
    e->member = m->number;
    end(e, TRUTH_MEMBER);
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

static void publication(struct torture *t, enum truth_kind kind, uint16_t process, uint32_t publisher,
                        uint32_t aggregate, uint32_t version, evbus_status status, uint64_t sequence)
{
    struct truth_entry *e = begin(t, process);

    if (!e)
        return;
    e->publisher = publisher;
    e->aggregate = aggregate;
    e->version = version;
    e->status = status;
    e->sequence = sequence;
    end(e, kind);
}

struct call {
    char aggregate[16], event[32];
    evbus_envelope env;
    evbus_pub_opts opts;
};

static void prepare(struct call *c, uint32_t aggregate, uint32_t version)
{
    (void)snprintf(c->aggregate, sizeof c->aggregate, "a%" PRIu32, aggregate);
    (void)snprintf(c->event, sizeof c->event, "e-%" PRIu32 "-%" PRIu32, aggregate, version);
    c->env = (evbus_envelope){.event_id = c->event,
                              .aggregate_id = c->aggregate,
                              .event_type = "Tortured",
                              .event_version = version,
                              .payload = "{\"torture\":true}"};
    evbus_pub_opts_init(&c->opts);
    c->opts.tag = (uint64_t)aggregate << 32 | version;
}

evbus_status torture_log_publish(struct torture *t, const struct torture_bus *bus, uint32_t publisher,
                                 uint32_t aggregate, uint32_t version)
{
    struct call c;

    prepare(&c, aggregate, version);
    c.opts.timeout_ms = EVBUS_NOWAIT;
    publication(t, TRUTH_CALL, bus->process, publisher, aggregate, version, EVBUS_OK, 0);
    const evbus_status st = evbus_publish_envelope(bus->bus, t->topic, &c.env, &c.opts);
    publication(t, st == EVBUS_OK ? TRUTH_ACCEPTED : TRUTH_DECLINED, bus->process, publisher, aggregate, version, st,
                0);
    if (st == EVBUS_OK)
        atomic_fetch_add(&t->accepted, 1);
    return st;
}

evbus_status torture_log_publish_wait(struct torture *t, const struct torture_bus *bus, uint32_t aggregate,
                                      uint32_t version, uint64_t *ret_sequence)
{
    evbus_receipt receipt;
    struct call c;

    prepare(&c, aggregate, version);
    evbus_receipt_init(&receipt);
    publication(t, TRUTH_CALL, bus->process, 0, aggregate, version, EVBUS_OK, 0);
    const evbus_status st = evbus_publish_envelope_wait(bus->bus, t->topic, &c.env, &c.opts, &receipt);
    if (st != EVBUS_OK) {
        publication(t, TRUTH_DECLINED, bus->process, 0, aggregate, version, st, 0);
        return st;
    }
    publication(t, TRUTH_ACCEPTED, bus->process, 0, aggregate, version, st, 0);
    publication(t, TRUTH_STORED, bus->process, 0, aggregate, version, st, receipt.sequence);
    *ret_sequence = receipt.sequence;
    return st;
}

/* The desk does not change while one of its publishes has no outcome. */
void torture_log_error(const evbus_receipt *receipt, void *torture)
{
    struct torture *t = torture;

    publication(t, receipt->outcome == EVBUS_OUTCOME_UNKNOWN ? TRUTH_UNKNOWN : TRUTH_REFUSED, t->desk.process, 0,
                (uint32_t)(receipt->tag >> 32), (uint32_t)receipt->tag, receipt->status, 0);
    atomic_fetch_add(&t->failed, 1);
}

void torture_log_totals(struct torture *t, uint16_t process, const evbus_statistics *s)
{
    struct truth_entry *e = begin(t, process);

    if (!e)
        return;
    e->counts[0] = s->publishes_accepted;
    e->counts[1] = s->publishes_stored;
    e->counts[2] = s->publishes_refused;
    e->counts[3] = s->publishes_unknown;
    end(e, TRUTH_TOTALS);
}

/* ---- Handling ---------------------------------------------------------------------------------------------------- */

static void handled(struct torture_member *m, enum truth_kind kind, const evbus_msg *msg, evbus_verdict verdict)
{
    struct truth_entry *e = begin(m->t, m->process);

    if (!e)
        return;
    e->member = m->number;
    e->aggregate = (uint32_t)strtoul(evbus_msg_envelope(msg)->aggregate_id + 1, NULL, 10);
    e->version = (uint32_t)evbus_msg_envelope(msg)->event_version;
    e->sequence = evbus_msg_sequence(msg);
    e->deliveries = evbus_msg_delivery_count(msg);
    e->attempt = evbus_msg_attempt(msg);
    e->verdict = verdict;
    end(e, kind);
}

void torture_log_start(struct torture_member *m, const evbus_msg *msg)
{
    handled(m, TRUTH_START, msg, EVBUS_ACK);
}

void torture_log_verdict(struct torture_member *m, const evbus_msg *msg, evbus_verdict verdict)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    _Atomic(uint8_t) *fate =
        torture_fate(m->t, (uint32_t)strtoul(env->aggregate_id + 1, NULL, 10), (uint32_t)env->event_version);
    const bool doomed =
        verdict == EVBUS_REJECT || (verdict == EVBUS_RETRY && evbus_msg_attempt(msg) >= TORTURE_ATTEMPTS);

    handled(m, TRUTH_VERDICT, msg, verdict);
    if (fate && (verdict == EVBUS_ACK || doomed) &&
        atomic_exchange(fate, (uint8_t)(doomed ? TORTURE_DOOMED : TORTURE_ACKED)) == TORTURE_OPEN)
        atomic_fetch_add(&m->t->finished, 1);
}
