/* SPDX-License-Identifier: Apache-2.0 */
#include "truth.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static size_t size_of(uint32_t capacity)
{
    return sizeof(struct truth_shared) + capacity * sizeof(struct truth_entry);
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static bool map(struct truth *t, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, t->fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, t->fd, 0);

    if (at == MAP_FAILED)
        return false;
    t->shared = at;
    t->entries = (struct truth_entry *)(t->shared + 1);
    return true;
}

bool truth_open(struct truth *t, const char *path, uint16_t process, uint32_t capacity)
{
    struct stat was;

    memset(t, 0, sizeof *t);
    t->process = process;
    t->fd = -1;
    if (path) {
        t->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (t->fd < 0 || fstat(t->fd, &was) != 0)
            return false;
        if (was.st_size > 0)
            capacity = (uint32_t)(((size_t)was.st_size - sizeof *t->shared) / sizeof *t->entries);
        else if (ftruncate(t->fd, (off_t)size_of(capacity)) != 0)
            return false;
    }
    if (!map(t, size_of(capacity)))
        return false;
    t->shared->capacity = capacity;
    return true;
}

void truth_as(const struct truth *t, uint16_t process, struct truth *ret)
{
    *ret = (struct truth){.shared = t->shared,
                          .entries = t->entries,
                          .clock = t->clock,
                          .time = t->time,
                          .payload = t->payload,
                          .process = process,
                          .fd = -1};
}

void truth_close(struct truth *t)
{
    if (t->shared)
        (void)munmap(t->shared, size_of(t->shared->capacity));
    if (t->fd >= 0)
        close(t->fd);
    memset(t, 0, sizeof *t);
    t->fd = -1;
}

void truth_clear(struct truth *t)
{
    const uint32_t capacity = t->shared->capacity, used = atomic_load(&t->shared->count);

    memset(t->entries, 0, (used < capacity ? used : capacity) * sizeof *t->entries);
    memset(t->shared, 0, sizeof *t->shared);
    t->shared->capacity = capacity;
    atomic_store(&t->members, 0);
    atomic_store(&t->held_most, 0);
    atomic_store(&t->publishes_most, 0);
}

/* ---- Entries ----------------------------------------------------------------------------------------------------- */

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;

    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* The next free place, its times filled in; NULL: the log is full. Whoever takes one after another thread's entry was
 * written gets a later one. */
static struct truth_entry *begin(struct truth *t)
{
    const uint32_t n = atomic_fetch_add(&t->shared->count, 1);

    if (n >= t->shared->capacity)
        return NULL;
    struct truth_entry *e = &t->entries[n];
    e->process = t->process;
    if (t->time) {
        t->time(t->clock, &e->at_ns, &e->wall_ns);
    } else {
        e->at_ns = read_clock(CLOCK_MONOTONIC);
        e->wall_ns = read_clock(CLOCK_REALTIME);
    }
    return e;
}

static void end(struct truth_entry *e, enum truth_kind kind)
{
    atomic_store_explicit(&e->kind, kind, memory_order_release);
}

uint16_t truth_member(struct truth *t)
{
    const uint16_t member = (uint16_t)(atomic_fetch_add(&t->members, 1) + 1);
    struct truth_entry *e = begin(t);

    if (e) {
        e->member = member;
        end(e, TRUTH_MEMBER);
    }
    return member;
}

void truth_left(struct truth *t, uint16_t member)
{
    struct truth_entry *e = begin(t);

    if (!e)
        return;
    e->member = member;
    end(e, TRUTH_LEFT);
}

void truth_standby(struct truth *t)
{
    struct truth_entry *e = begin(t);

    if (e)
        end(e, TRUTH_STANDBY);
}

static void publication(struct truth *t, enum truth_kind kind, uint32_t publisher, uint32_t aggregate, uint32_t version,
                        evbus_status status, uint64_t sequence)
{
    struct truth_entry *e = begin(t);

    if (!e)
        return;
    e->publisher = publisher;
    e->aggregate = aggregate;
    e->version = version;
    e->status = status;
    e->sequence = sequence;
    end(e, kind);
}

static void outcome(struct truth *t, enum truth_kind kind, const evbus_receipt *receipt)
{
    struct truth_entry *e = begin(t);

    if (!e)
        return;
    e->aggregate = (uint32_t)(receipt->tag >> 32);
    e->version = (uint32_t)receipt->tag;
    e->status = receipt->status;
    e->sequence = receipt->sequence;
    e->duplicate = receipt->duplicate;
    end(e, kind);
}

struct call {
    char aggregate[16], event[32];
    evbus_envelope env;
    evbus_pub_opts opts;
};

static void prepare(const struct truth *t, struct call *c, uint32_t aggregate, uint32_t version, uint32_t timeout_ms)
{
    (void)snprintf(c->aggregate, sizeof c->aggregate, "a%u", aggregate);
    (void)snprintf(c->event, sizeof c->event, "e-%u-%u", aggregate, version);
    c->env = (evbus_envelope){.event_id = c->event,
                              .aggregate_id = c->aggregate,
                              .event_type = "truth",
                              .event_version = version,
                              .payload = t->payload ? t->payload : "{\"true\":1}"};
    c->opts = (evbus_pub_opts){
        .struct_size = sizeof c->opts, .tag = (uint64_t)aggregate << 32 | version, .timeout_ms = timeout_ms};
}

evbus_status truth_publish(struct truth *t, evbus *bus, const char *topic, uint32_t publisher, uint32_t aggregate,
                           uint32_t version, uint32_t timeout_ms)
{
    struct call c;

    prepare(t, &c, aggregate, version, timeout_ms);
    publication(t, TRUTH_CALL, publisher, aggregate, version, EVBUS_OK, 0);
    atomic_fetch_add(&t->shared->calls, 1);
    const evbus_status st = evbus_publish_envelope(bus, topic, &c.env, &c.opts);
    publication(t, st == EVBUS_OK ? TRUTH_ACCEPTED : TRUTH_DECLINED, publisher, aggregate, version, st, 0);
    if (st == EVBUS_OK)
        atomic_fetch_add(&t->shared->accepted, 1);
    return st;
}

evbus_status truth_publish_wait(struct truth *t, evbus *bus, const char *topic, uint32_t publisher, uint32_t aggregate,
                                uint32_t version, uint32_t timeout_ms, uint64_t *ret_sequence)
{
    evbus_receipt receipt = {.struct_size = sizeof receipt};
    struct call c;

    prepare(t, &c, aggregate, version, timeout_ms);
    publication(t, TRUTH_CALL, publisher, aggregate, version, EVBUS_OK, 0);
    atomic_fetch_add(&t->shared->calls, 1);
    const evbus_status st = evbus_publish_envelope_wait(bus, topic, &c.env, &c.opts, &receipt);
    if (st != EVBUS_OK && st != EVBUS_UNKNOWN) { /* not accepted or refused: either way it may be called again */
        publication(t, TRUTH_DECLINED, publisher, aggregate, version, st, 0);
        return st;
    }
    publication(t, TRUTH_ACCEPTED, publisher, aggregate, version, st, 0);
    outcome(t, st == EVBUS_OK ? TRUTH_STORED : TRUTH_UNKNOWN, &receipt);
    atomic_fetch_add(&t->shared->accepted, 1);
    if (ret_sequence && st == EVBUS_OK)
        *ret_sequence = receipt.sequence;
    return st;
}

void truth_publish_error(const evbus_receipt *receipt, void *truth)
{
    atomic_fetch_add(&((struct truth *)truth)->shared->failed, 1);
    outcome(truth, receipt->outcome == EVBUS_OUTCOME_UNKNOWN ? TRUTH_UNKNOWN : TRUTH_REFUSED, receipt);
}

void truth_receipt(const evbus_receipt *receipt, void *truth)
{
    if (receipt->outcome == EVBUS_OUTCOME_STORED)
        outcome(truth, TRUTH_STORED, receipt);
    else
        truth_publish_error(receipt, truth);
}

uint32_t truth_aggregate(const evbus_msg *msg)
{
    return (uint32_t)strtoul(evbus_msg_envelope(msg)->aggregate_id + 1, NULL, 10);
}

static void handled(struct truth *t, enum truth_kind kind, uint16_t member, const evbus_msg *msg, evbus_verdict verdict)
{
    struct truth_entry *e = begin(t);

    if (!e)
        return;
    e->member = member;
    e->aggregate = truth_aggregate(msg);
    e->version = (uint32_t)evbus_msg_envelope(msg)->event_version;
    e->sequence = evbus_msg_sequence(msg);
    e->deliveries = evbus_msg_delivery_count(msg);
    e->attempt = evbus_msg_attempt(msg);
    e->verdict = verdict;
    end(e, kind);
}

void truth_start(struct truth *t, uint16_t member, const evbus_msg *msg)
{
    handled(t, TRUTH_START, member, msg, EVBUS_ACK);
    atomic_fetch_add(&t->shared->starts, 1);
}

void truth_verdict(struct truth *t, uint16_t member, const evbus_msg *msg, evbus_verdict verdict)
{
    handled(t, TRUTH_VERDICT, member, msg, verdict);
    if (verdict == EVBUS_ACK)
        atomic_fetch_add(&t->shared->acked, 1);
}

void truth_levels(struct truth *t, const evbus_statistics *s, uint64_t publishes_max, uint64_t held_max)
{
    atomic_store(&t->shared->delivered, s->delivered);
    atomic_store(&t->shared->redelivered, s->redelivered);
    atomic_store(&t->shared->held, s->held);
    atomic_store(&t->shared->inflight, s->publishes_inflight);
    atomic_store(&t->shared->fenced, s->fenced);
    if (s->held <= atomic_load(&t->held_most) && s->publishes_inflight <= atomic_load(&t->publishes_most))
        return;
    atomic_store(&t->held_most, s->held);
    atomic_store(&t->publishes_most, s->publishes_inflight);
    struct truth_entry *e = begin(t);
    if (!e)
        return;
    e->counts[0] = s->publishes_inflight;
    e->counts[1] = publishes_max;
    e->counts[2] = s->held;
    e->counts[3] = held_max;
    end(e, TRUTH_LEVELS);
}

void truth_totals(struct truth *t, const evbus_statistics *s)
{
    struct truth_entry *e = begin(t);

    if (!e)
        return;
    e->counts[0] = s->publishes_accepted;
    e->counts[1] = s->publishes_stored;
    e->counts[2] = s->publishes_refused;
    e->counts[3] = s->publishes_unknown;
    end(e, TRUTH_TOTALS);
}

bool truth_loss(struct truth *t, int64_t at_ns, int64_t wall_ns, const struct truth_consumer *before,
                const struct truth_consumer *after)
{
    if (after->floor >= before->floor && after->delivered >= before->delivered)
        return false;
    struct truth_entry *e = begin(t);
    if (!e)
        return true;
    e->at_ns = at_ns; /* what follows from it may be earlier than this entry */
    e->wall_ns = wall_ns;
    e->counts[0] = before->floor;
    e->counts[1] = after->floor;
    e->counts[2] = before->delivered;
    e->counts[3] = after->delivered;
    end(e, TRUTH_LOSS);
    return true;
}
