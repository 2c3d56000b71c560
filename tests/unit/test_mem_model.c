/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A consumer of the mem:// broker against a model that is too simple to be wrong: one array of messages, looked through
 * from the start for every question. Random steps; after each, everything that came out is compared: which sequence, how
 * often delivered, how many remain. EVBUS_SEED repeats a run.
 */
#include "mem_world.h"

#include "base/ids.h"

#include <inttypes.h>
#include <stdio.h>

#define STEPS 6000u
#define RUNS 20u
#define MESSAGES 20000u
#define ACK_WAIT (10 * EV_SEC)

enum place { NEW, IN_FLIGHT, DUE, DELAYED, DONE };

struct model {
    struct {
        enum place place;
        bool matches, evicted, deleted;
        int64_t time; /* in flight: since; delayed: until */
        uint32_t deliveries;
    } message[MESSAGES + 1];
    uint64_t first, last, max_msgs, cursor; /* cursor: the next new one is not below */
    uint64_t kept;                          /* messages in the stream */
    uint32_t cap;
    uint64_t delivered;
    uint32_t room[2];
};

struct run {
    struct world w;
    struct model m;
    struct ev_mem_member member[2];
    bool attached[2];
    bool deletes;   /* messages are taken out of the middle, too */
    uint64_t state; /* random numbers */
    const char *filter;
    uint64_t out, settled;
};

static uint32_t pick(struct run *r, uint32_t below)
{
    r->state = r->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(r->state >> 33) % below;
}

/* ---- The model --------------------------------------------------------------------------------------------------- */

static void model_publish(struct model *m, bool matches)
{
    m->last++;
    m->message[m->last].matches = matches;
    m->message[m->last].place = NEW;
    m->kept++;
    while (m->max_msgs && m->kept > m->max_msgs) {
        m->kept -= !m->message[m->first].deleted;
        m->message[m->first++].evicted = true;
    }
}

static void model_delete(struct model *m, uint64_t seq)
{
    m->message[seq].deleted = true;
    m->message[seq].place = DONE;
    m->kept--;
}

static void model_advance(struct model *m, int64_t now)
{
    for (uint64_t seq = 1; seq <= m->last; seq++) {
        if (m->message[seq].place == IN_FLIGHT && m->message[seq].time + ACK_WAIT <= now)
            m->message[seq].place = DUE;
        if (m->message[seq].place == DELAYED && m->message[seq].time <= now)
            m->message[seq].place = DUE;
    }
}

static uint32_t model_unacked(const struct model *m)
{
    uint32_t n = 0;

    for (uint64_t seq = 1; seq <= m->last; seq++)
        n += m->message[seq].place == IN_FLIGHT || m->message[seq].place == DUE || m->message[seq].place == DELAYED;
    return n;
}

/* The sequence that has to come next, 0: none. */
static uint64_t model_next(struct model *m)
{
    for (uint64_t seq = 1; seq <= m->last; seq++) {
        if (m->message[seq].place == DUE && m->message[seq].evicted)
            m->message[seq].place = DONE; /* dropped by the limits: found out when its turn comes */
        else if (m->message[seq].place == DUE)
            return seq;
    }
    if (model_unacked(m) >= m->cap)
        return 0;
    for (uint64_t seq = m->cursor > m->first ? m->cursor : m->first; seq <= m->last; seq++)
        if (m->message[seq].place == NEW && m->message[seq].matches)
            return seq;
    return 0;
}

static uint64_t model_waiting(const struct model *m)
{
    uint64_t n = 0;

    for (uint64_t seq = m->cursor > m->first ? m->cursor : m->first; seq <= m->last; seq++)
        n += m->message[seq].place == NEW && m->message[seq].matches;
    return n;
}

/* ---- Comparing --------------------------------------------------------------------------------------------------- */

static void compare(struct run *r)
{
    struct model *m = &r->m;

    world_pump(&r->w);
    for (uint32_t i = 0; i < r->w.count; i++) {
        const struct ev_mem_item *got = &r->w.got[i];
        const uint32_t to = got->object == &r->member[1];
        const uint64_t seq = model_next(m);
        assert_int_equal(got->value, seq);
        assert_true(r->attached[to] && m->room[to] > 0);
        m->room[to]--;
        if (m->message[seq].place == NEW)
            m->cursor = seq + 1;
        m->message[seq].place = IN_FLIGHT;
        m->message[seq].time = r->w.now;
        assert_int_equal(got->number, ++m->message[seq].deliveries);
        assert_int_equal(got->count, model_waiting(m));
        assert_int_equal(got->other, ++m->delivered);
        r->out++;
    }
    if ((r->attached[0] && m->room[0] > 0) || (r->attached[1] && m->room[1] > 0))
        assert_int_equal(model_next(m), 0); /* with room, nothing may be left */
}

/* ---- Random steps ------------------------------------------------------------------------------------------------ */

static void step_publish(struct run *r)
{
    const bool a = pick(r, 3) != 0;
    const uint32_t n = 1 + pick(r, 4);

    for (uint32_t i = 0; i < n && r->m.last < MESSAGES; i++) {
        world_publish_n(&r->w, a ? "m.a" : "m.b", 1);
        model_publish(&r->m, a || strcmp(r->filter, "m.a") != 0);
    }
}

static void step_settle(struct run *r)
{
    struct model *m = &r->m;
    const uint64_t seq = m->last ? 1 + pick(r, (uint32_t)m->last) : 1;
    const uint32_t member = pick(r, 2);
    const enum place place = m->message[seq].place;
    const bool held = place == IN_FLIGHT || place == DUE || place == DELAYED;
    const int64_t delay = pick(r, 3) ? 0 : (int64_t)pick(r, 20) * EV_SEC;
    const enum ev_settle verb = (enum ev_settle)pick(r, 4);

    ev_mem_settle(&r->w.broker, &r->member[member], seq, verb, delay);
    if (!held)
        return;
    r->settled++;
    if (verb == EV_SETTLE_ACK || verb == EV_SETTLE_TERM) {
        m->message[seq].place = DONE;
    } else if (verb == EV_SETTLE_NAK && place != DUE) {
        m->message[seq].place = delay ? DELAYED : DUE;
        m->message[seq].time = r->w.now + delay;
    } else if (verb == EV_SETTLE_EXTEND && place == IN_FLIGHT) {
        m->message[seq].time = r->w.now;
    }
}

static void step_settle_oldest(struct run *r)
{
    uint32_t n = pick(r, 12);

    for (uint64_t seq = 1; seq <= r->m.last && n > 0; seq++) {
        if (r->m.message[seq].place != IN_FLIGHT)
            continue;
        ev_mem_settle(&r->w.broker, &r->member[0], seq, EV_SETTLE_ACK, 0);
        r->m.message[seq].place = DONE;
        r->settled++;
        n--;
    }
}

static void step_want(struct run *r)
{
    const uint32_t which = pick(r, 2), room = pick(r, 4) ? pick(r, 30) : 0;

    if (!r->attached[which])
        return;
    ev_mem_want(&r->w.broker, &r->member[which], r->member[which].pushed + room, UINT64_MAX / 2);
    r->m.room[which] = room;
}

static void step_attach(struct run *r)
{
    const uint32_t which = pick(r, 2);

    if (r->attached[which])
        ev_mem_detach(&r->w.broker, &r->member[which]);
    else
        ev_mem_attach(&r->w.broker, &r->member[which]);
    r->attached[which] = !r->attached[which];
    r->m.room[which] = 0;
}

static void step_delete(struct run *r)
{
    struct model *m = &r->m;
    const uint64_t seq = m->last ? 1 + pick(r, (uint32_t)m->last) : 1;
    const bool there = seq <= m->last && !m->message[seq].evicted && !m->message[seq].deleted;
    struct ev_stored stored = {0};

    assert_int_equal(ev_mem_msg_delete(&r->w.broker, "S", seq), there ? EVBUS_OK : EVBUS_NOT_FOUND);
    if (there)
        model_delete(m, seq);
    uint64_t next = seq;
    while (next <= m->last && (m->message[next].evicted || m->message[next].deleted))
        next++;
    const evbus_status found = ev_mem_msg_get(&r->w.broker, "S", "m.>", seq, &stored);
    assert_int_equal(found, next <= m->last ? EVBUS_OK : EVBUS_NOT_FOUND);
    assert_int_equal(stored.seq, found == EVBUS_OK ? next : 0);
    ev_free(stored.memory);
}

static void check_count(struct run *r)
{
    struct ev_stream_info info;

    assert_int_equal(ev_mem_stream_info(&r->w.broker, "S", NULL, &info), EVBUS_OK);
    assert_int_equal(info.msgs, r->m.kept);
}

static void step_time(struct run *r)
{
    world_at(&r->w, r->w.now - WORLD_START + (pick(r, 10) ? (int64_t)pick(r, 2000) * EV_MS : ACK_WAIT));
    model_advance(&r->m, r->w.now);
}

static void step(struct run *r)
{
    const uint32_t what = pick(r, 100);

    if (what < 35)
        step_publish(r);
    else if (what < 55)
        step_settle(r);
    else if (what < 70)
        step_settle_oldest(r);
    else if (what < 85)
        step_want(r);
    else if (what < 88)
        step_attach(r);
    else if (what < 91 && r->deletes)
        step_delete(r);
    else
        step_time(r);
    compare(r);
    check_count(r);
}

static void begin(struct run *r, uint64_t seed)
{
    const char *subjects[] = {"m.*"};
    struct ev_stream_cfg stream = world_stream_cfg("S", subjects, 1);

    memset(r, 0, sizeof *r);
    r->state = seed;
    r->deletes = pick(r, 2);
    r->filter = (const char *[]){"m.a", "m.*", "m.>"}[pick(r, 3)];
    r->m.first = r->m.cursor = 1;
    r->m.max_msgs = stream.max_msgs = pick(r, 2) ? 50 + pick(r, 500) : 0;
    r->m.cap = pick(r, 2) ? 5 + pick(r, 60) : 100000;
    struct ev_consumer_cfg cfg = world_consumer_cfg("S", "c", r->filter);
    cfg.ack_wait_ns = ACK_WAIT;
    cfg.ack_pending_max = r->m.cap;
    world_init(&r->w, 1 << 26);
    assert_int_equal(ev_mem_stream_create(&r->w.broker, &stream), EVBUS_OK);
    for (uint32_t i = 0; i < 2; i++) {
        world_bind(&r->w, &r->member[i], &cfg, 10);
        r->attached[i] = true;
        r->m.room[i] = 10;
    }
}

static void end(struct run *r)
{
    for (uint32_t i = 0; i < 2; i++) {
        ev_mem_detach(&r->w.broker, &r->member[i]);
        ev_mem_unbind(&r->w.broker, &r->member[i]);
    }
    world_fini(&r->w);
}

/* 120,000 random steps: order, counts and what remains are the model's; every message is delivered until it is settled. */
static void test_mem_model_holds(void **state)
{
    static struct run r;
    const char *given = getenv("EVBUS_SEED");
    const uint64_t seed = given ? strtoull(given, NULL, 0) : ev_random();
    uint64_t out = 0, settled = 0;

    (void)state;
    print_message("EVBUS_SEED=%" PRIu64 "\n", seed);
    for (uint32_t run = 0; run < RUNS; run++) {
        begin(&r, seed + run);
        for (uint32_t i = 0; i < STEPS; i++)
            step(&r);
        out += r.out;
        settled += r.settled;
        end(&r);
    }
    print_message("%" PRIu64 " delivered, %" PRIu64 " settled\n", out, settled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mem_model_holds)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
