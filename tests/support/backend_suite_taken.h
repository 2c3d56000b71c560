/* SPDX-License-Identifier: Apache-2.0 */
/* Taking receipts, for the cases about them. */
#ifndef EV_TESTS_BACKEND_SUITE_TAKEN_H
#define EV_TESTS_BACKEND_SUITE_TAKEN_H

#include "backend_suite_case.h"

#include <poll.h>

#define TAKEN_BATCH 64

/* What was taken, by tag: each must come once. */
struct taken {
    size_t count, capacity, twice;
    size_t stored, duplicate, refused, unknown;
    bool *seen;
};

static inline struct taken *taken_new(struct suite *s, size_t capacity)
{
    struct taken *t = suite_alloc(s, sizeof *t);

    t->capacity = capacity;
    t->seen = suite_alloc(s, capacity * sizeof *t->seen);
    return t;
}

static inline void taken_note(struct taken *t, const evbus_receipt *r)
{
    t->count++;
    t->stored += r->outcome == EVBUS_OUTCOME_STORED;
    t->duplicate += r->duplicate;
    t->refused += r->outcome == EVBUS_OUTCOME_REFUSED;
    t->unknown += r->outcome == EVBUS_OUTCOME_UNKNOWN;
    if (r->tag >= t->capacity || t->seen[r->tag])
        t->twice++;
    else
        t->seen[r->tag] = true;
}

/* Takes until `count` are there, or the end. */
static inline evbus_status take_until(evbus *bus, int64_t tenant, struct taken *t, size_t count)
{
    evbus_receipt *batch = calloc(TAKEN_BATCH, sizeof *batch);
    evbus_status st = EVBUS_OK;
    size_t n = 1;

    if (!batch)
        abort();
    evbus_receipt_init(batch);
    while (t->count < count && n > 0) {
        const size_t want = count - t->count < TAKEN_BATCH ? count - t->count : TAKEN_BATCH;
        if ((st = evbus_receipts_take(bus, tenant, batch, want, wait_patience_ms(), &n)) != EVBUS_OK)
            break;
        for (size_t i = 0; i < n; i++)
            taken_note(t, &batch[i]);
    }
    free(batch);
    return st;
}

static inline evbus_receipt take_one(evbus *bus, int64_t tenant)
{
    evbus_receipt r;
    size_t n = 0;

    evbus_receipt_init(&r);
    must(evbus_receipts_take(bus, tenant, &r, 1, wait_patience_ms(), &n));
    assert_int_equal(n, 1);
    return r;
}

static inline size_t take_now(evbus *bus, int64_t tenant)
{
    evbus_receipt r;
    size_t n = 9;

    evbus_receipt_init(&r);
    must(evbus_receipts_take(bus, tenant, &r, 1, EVBUS_NOWAIT, &n));
    return n;
}

static inline evbus_status publish_for(evbus *bus, const char *topic, int64_t tenant, uint64_t tag, uint32_t timeout_ms)
{
    evbus_envelope env = suite_envelope_of("order-1", 1);

    env.tenant_id = tenant;
    return evbus_publish_envelope(
        bus, topic, &env, EVBUS_OPTS(evbus_pub_opts, .tag = tag, .receipt = EVBUS_ON, .timeout_ms = timeout_ms));
}

static inline bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, timeout_ms) == 1 && (p.revents & POLLIN);
}

#endif
