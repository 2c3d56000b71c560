/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four publishers of three tenants, takers that take now and then, some by polling: every accepted publish has its
 * receipt, in its tenant's queue, once. 200,000 publishes; ten times as many with EVBUS_LONG.
 */
#include "core/bus.h"

#include "../support/race.h"
#include "../support/wait.h"

#include <poll.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PUBLISHERS 4
#define TENANTS 3 /* 0: the bus's own queue */
#define TAKERS 4  /* the first TENANTS poll, the others wait */
#define BATCH 200

struct world {
    evbus *bus;
    uint64_t each, seed;
    _Atomic(uint8_t) *seen; /* by tag */
    _Atomic(uint64_t) accepted[TENANTS], taken[TENANTS], stored;
    _Atomic(uint32_t) publishing;
};

static void publish(struct world *w, int index)
{
    evbus_envelope envs[16];
    evbus_status st[16];
    char id[16];

    ev_random_seed(w->seed + (uint64_t)index);
    snprintf(id, sizeof id, "agg-%d", index);
    for (uint64_t i = 0; i < w->each;) {
        const uint64_t most = w->each - i < 16 ? w->each - i : 16, n = 1 + ev_random() % most;
        const evbus_pub_opts o = {.struct_size = sizeof o, .tag = (uint64_t)index * w->each + i};
        size_t accepted = 0;
        for (uint64_t k = 0; k < n; k++)
            envs[k] = (evbus_envelope){.aggregate_id = id,
                                       .event_type = "T",
                                       .event_version = (int64_t)(i + k + 1),
                                       .tenant_id = (int64_t)(ev_random() % TENANTS),
                                       .payload = "{}"};
        if (n == 1)
            st[0] = evbus_publish_envelope(w->bus, "stress", envs, &o);
        else
            (void)!evbus_publish_envelopes(w->bus, "stress", envs, n, &o, st, &accepted);
        for (uint64_t k = 0; k < n; k++) {
            RACE_CHECK(st[k] == EVBUS_OK);
            atomic_fetch_add(&w->accepted[envs[k].tenant_id], st[k] == EVBUS_OK);
        }
        i += n;
    }
    atomic_fetch_sub(&w->publishing, 1);
}

static bool take(struct world *w, int64_t tenant, evbus_receipt *batch, uint32_t timeout_ms)
{
    size_t n = 0;
    const evbus_status st = evbus_receipts_take(w->bus, tenant, batch, 1 + ev_random() % BATCH, timeout_ms, &n);

    if (st != EVBUS_OK) {
        RACE_CHECK(st == EVBUS_CLOSED);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        RACE_CHECK(batch[i].tenant_id == tenant && batch[i].tag < PUBLISHERS * w->each);
        RACE_CHECK(atomic_fetch_add(&w->seen[batch[i].tag], 1) == 0);
        atomic_fetch_add(&w->stored, batch[i].outcome == EVBUS_OUTCOME_STORED);
    }
    atomic_fetch_add(&w->taken[tenant], n);
    return true;
}

static void take_all(struct world *w, int index)
{
    evbus_receipt *batch = calloc(BATCH, sizeof *batch);
    struct pollfd p = {.fd = -1, .events = POLLIN};

    ev_random_seed(w->seed + 100 + (uint64_t)index);
    if (!batch)
        abort();
    evbus_receipt_init(batch);
    if (index < TENANTS) {
        RACE_CHECK(evbus_receipts_fd(w->bus, index, &p.fd) == EVBUS_OK);
        do
            RACE_CHECK(poll(&p, 1, (int)wait_patience_ms()) == 1);
        while (take(w, index, batch, 0));
        RACE_CHECK(poll(&p, 1, 0) == 1); /* the end is readable for ever */
        close(p.fd);
    } else {
        while (take(w, (int64_t)(ev_random() % TENANTS), batch, 1))
            ;
    }
    free(batch);
}

static void take_part(int index, void *ctx)
{
    struct world *w = ctx;

    if (index < PUBLISHERS) {
        publish(w, index);
    } else if (index < PUBLISHERS + TAKERS) {
        take_all(w, index - PUBLISHERS);
    } else {
        while (atomic_load(&w->publishing) > 0)
            sched_yield();
        RACE_CHECK(evbus_shutdown(w->bus, 0, NULL) == EVBUS_OK);
    }
}

static void test_receipts_are_one_for_each_of_very_many(void **state)
{
    static struct world w;
    const uint64_t live = ev_alloc_live();
    const char *given = getenv("EVBUS_SEED");

    (void)state;
    w.seed = given ? strtoull(given, NULL, 10) : ev_random();
    print_message("EVBUS_SEED=%llu\n", (unsigned long long)w.seed);
    w.each = getenv("EVBUS_LONG") ? 500000 : 50000;
    w.seen = calloc(PUBLISHERS * w.each, sizeof *w.seen);
    assert_non_null(w.seen);
    atomic_store(&w.publishing, PUBLISHERS);
    const evbus_opts o = {.struct_size = sizeof o, .receipts = EVBUS_ON, .receipts_max = 1000, .workers_min = 1};
    assert_int_equal(evbus_open("mem://", &o, &w.bus), EVBUS_OK);
    for (int64_t tenant = 1; tenant < TENANTS; tenant++)
        assert_int_equal(evbus_tenant_register(w.bus, tenant, NULL), EVBUS_OK);
    race_run(PUBLISHERS + TAKERS + 1, take_part, &w);
    uint64_t taken = 0;
    for (int i = 0; i < TENANTS; i++) {
        assert_int_equal(w.accepted[i], w.taken[i]);
        taken += w.taken[i];
    }
    assert_int_equal(taken, PUBLISHERS * w.each);
    assert_int_equal(w.stored, taken);
    evbus_close(w.bus);
    free((void *)w.seen);
    assert_int_equal(race_failures(), 0);
    assert_int_equal(ev_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_receipts_are_one_for_each_of_very_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
