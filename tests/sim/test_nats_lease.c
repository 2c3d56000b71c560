/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of the lease (backend/nats_lease.h) in simulated time: two or three buses, two leases, one server. The seed
 * decides what is lost, late or done without an answer, which process stops, dies or comes back, whose link is cut with
 * or without a word, when a member leaves, and how fast each one's clock runs. After every step a judge asks: who may
 * start a handler now, by its own clock? Never two. In the end, when all is quiet, one does.
 *
 *   EVBUS_SIM_RUNS=N    schedules (default 10000)
 *   EVBUS_SIM_SEED=S    only this one
 */
#include "backend/nats_lease.h"
#include "base/bytes.h"
#include "base/ids.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NODES 3
#define LEASES 2
#define RECORDS 256
#define FLYING 512
#define TTL EV_SEC
#define SLACK (250 * EV_MS)     /* nats_lease_io.c: nothing starts so long after the last look at the socket */
#define HEARTBEAT (400 * EV_MS) /* a silent link is noticed after this; the server notices none in a test's time */
#define TROUBLE (12 * EV_SEC)
#define QUIET (4 * EV_SEC)

enum what { WRITE_MEMBER, WRITE_LEASE, READ_MEMBER, READ_LEASE, FORGET, PROBE };

struct record {
    char name[EV_LEASE_ID + 1]; /* member id; leases: "0", "1" */
    struct ev_lease_record r;
};

/* A request on its way, then its answer. */
struct flying {
    bool used, answer;
    enum what what;
    int node, lease;
    uint64_t session, op, expected, seq;
    int64_t at;
    char id[EV_LEASE_ID + 1], holder[EV_LEASE_ID + 1], inbox[EV_LEASE_TEXT];
    bool alive, somebody;
    enum ev_lease_result result;
    struct ev_lease_record read;
};

struct node {
    struct world *w;
    int index;
    bool running;          /* the process exists */
    int64_t stopped_until; /* SIGSTOP */
    int64_t offset;        /* of its clock */
    double rate;
    bool linked, mute; /* mute: nothing passes any more, and nobody has noticed */
    int64_t link_at;   /* when a link comes or a silent one is noticed */
    bool told_down;    /* the server closed it: seen at the next turn */
    uint64_t session;
    int64_t looked; /* by its clock: the last turn */
    struct ev_leases set;
    struct ev_lease leases[LEASES];
    bool wanted[LEASES];
    bool active[LEASES];
};

struct world {
    int64_t now;
    uint64_t seq, session;
    struct record records[RECORDS];
    struct flying flying[FLYING];
    struct node nodes[NODES];
    int count;
    bool quiet;
    uint64_t acts, takeovers, fenced;
    bool failed;
};

static uint64_t below(uint64_t n)
{
    return ev_random() % n;
}

static bool chance(const struct world *w, uint32_t percent)
{
    return !w->quiet && below(100) < percent;
}

static int64_t clock_of(const struct node *n)
{
    return n->offset + (int64_t)((double)n->w->now * n->rate);
}

/* ---- The server -------------------------------------------------------------------------------------------------- */

static struct record *record_of(struct world *w, const char *name, bool make)
{
    struct record *free_one = NULL;

    for (int i = 0; i < RECORDS; i++) {
        if (strcmp(w->records[i].name, name) == 0)
            return &w->records[i];
        if (!free_one && !w->records[i].name[0])
            free_one = &w->records[i];
    }
    if (!make || !free_one)
        return NULL;
    memset(free_one, 0, sizeof *free_one);
    (void)ev_copy(free_one->name, sizeof free_one->name, name);
    return free_one;
}

static void session_name(uint64_t session, char out[EV_LEASE_TEXT])
{
    (void)snprintf(out, EV_LEASE_TEXT, "inbox-%" PRIu64, session);
}

/* True if the server has a connection with that inbox: a silent one too. */
static struct node *connected(struct world *w, const char *inbox)
{
    char name[EV_LEASE_TEXT];

    for (int i = 0; i < w->count; i++) {
        session_name(w->nodes[i].session, name);
        if (w->nodes[i].running && w->nodes[i].linked && !w->nodes[i].told_down && strcmp(name, inbox) == 0)
            return &w->nodes[i];
    }
    return NULL;
}

static void hint_all(struct world *w, int lease, const char *holder)
{
    for (int i = 0; i < w->count; i++) {
        struct node *n = &w->nodes[i];
        if (n->running && n->linked && !n->mute && !n->told_down && n->stopped_until <= w->now && n->wanted[lease] &&
            !chance(w, 20))
            ev_lease_hint(&n->set, &n->leases[lease], holder, clock_of(n));
    }
}

static void serve_write(struct world *w, struct flying *f)
{
    struct record *r = record_of(w, f->id, true);

    if (!r || r->r.seq != f->expected) {
        f->result = EV_LEASE_REJECTED;
        return;
    }
    r->r.seq = f->seq = ++w->seq;
    f->result = EV_LEASE_STORED;
    if (f->what == WRITE_LEASE) {
        (void)ev_copy(r->r.holder, sizeof r->r.holder, f->holder);
        return;
    }
    r->r.alive = f->alive;
    r->r.ttl_ns = TTL;
    (void)ev_copy(r->r.inbox, sizeof r->r.inbox, f->inbox);
    (void)ev_copy(r->r.server, sizeof r->r.server, "the server");
}

/* False: no answer. */
static bool serve(struct world *w, struct flying *f)
{
    struct record *r = record_of(w, f->id, false);
    struct node *asked;

    switch (f->what) {
    case WRITE_MEMBER:
    case WRITE_LEASE:
        serve_write(w, f);
        break;
    case READ_MEMBER:
    case READ_LEASE:
        f->read = r ? r->r : (struct ev_lease_record){.seq = 0};
        break;
    case FORGET:
        if (r)
            memset(r, 0, sizeof *r);
        return false;
    case PROBE:
        asked = connected(w, f->inbox);
        f->somebody = asked != NULL;
        return !asked || (!asked->mute && asked->stopped_until <= w->now);
    }
    return true;
}

/* ---- The network ------------------------------------------------------------------------------------------------- */

static struct flying *send(struct node *n, enum what what, uint64_t op, const char *id)
{
    static struct flying lost;
    struct world *w = n->w;

    if (!n->linked || n->mute || chance(w, 2))
        return &lost;
    for (int i = 0; i < FLYING; i++) {
        struct flying *f = &w->flying[i];
        if (f->used)
            continue;
        *f = (struct flying){.used = true, .what = what, .node = n->index, .session = n->session, .op = op};
        f->at = w->now + (int64_t)below(chance(w, 5) ? 600 * EV_MS : 3 * EV_MS) + 1;
        (void)ev_copy(f->id, sizeof f->id, id);
        return f;
    }
    return &lost;
}

static void io_write_member(void *ctx, uint64_t op, const char *id, uint64_t expected, bool alive)
{
    struct node *n = ctx;
    struct flying *f = send(n, WRITE_MEMBER, op, id);

    f->expected = expected;
    f->alive = alive;
    session_name(n->session, f->inbox);
}

static void io_read_member(void *ctx, uint64_t op, const char *id)
{
    (void)send(ctx, READ_MEMBER, op, id);
}

static void io_forget_member(void *ctx, const char *id)
{
    (void)send(ctx, FORGET, 0, id);
}

static int number_of(const struct node *n, const struct ev_lease *l)
{
    return (int)(l - n->leases);
}

static void io_write_lease(void *ctx, uint64_t op, struct ev_lease *l, const char *holder, uint64_t expected)
{
    struct node *n = ctx;
    char name[2] = {(char)('0' + number_of(n, l)), 0};
    struct flying *f = send(n, WRITE_LEASE, op, name);

    f->expected = expected;
    f->lease = number_of(n, l);
    (void)ev_copy(f->holder, sizeof f->holder, holder);
}

static void io_read_lease(void *ctx, uint64_t op, struct ev_lease *l)
{
    char name[2] = {(char)('0' + number_of(ctx, l)), 0};

    (void)send(ctx, READ_LEASE, op, name);
}

static void io_probe(void *ctx, const char *inbox)
{
    struct flying *f = send(ctx, PROBE, 0, "");

    (void)ev_copy(f->inbox, sizeof f->inbox, inbox);
}

static void io_active(void *ctx, struct ev_lease *l, bool active)
{
    struct node *n = ctx;

    n->w->takeovers += active;
    n->w->fenced += n->active[number_of(n, l)] && !active;
    n->active[number_of(n, l)] = active;
}

static void io_ended(void *ctx, struct ev_lease *l)
{
    struct node *n = ctx;

    n->wanted[number_of(n, l)] = false;
}

static uint64_t io_random(void *ctx)
{
    (void)ctx;
    return ev_random();
}

static const struct ev_lease_io io = {
    .write_member = io_write_member,
    .read_member = io_read_member,
    .forget_member = io_forget_member,
    .write_lease = io_write_lease,
    .read_lease = io_read_lease,
    .probe = io_probe,
    .active = io_active,
    .ended = io_ended,
    .random = io_random,
};

static void take_answer(struct node *n, const struct flying *f)
{
    if (f->what == PROBE)
        ev_leases_probed(&n->set, f->somebody, clock_of(n));
    else if (f->what == READ_MEMBER || f->what == READ_LEASE)
        ev_leases_read(&n->set, f->op, &f->read, clock_of(n));
    else
        ev_leases_wrote(&n->set, f->op, f->result, f->seq, clock_of(n));
}

/* Requests arrive also when their link is gone by then; answers do not. */
static void fly(struct world *w, struct flying *f)
{
    struct node *n = &w->nodes[f->node];

    if (!f->answer) {
        const bool answered = serve(w, f) && !chance(w, 2);
        if (f->what == WRITE_LEASE && f->result == EV_LEASE_STORED)
            hint_all(w, f->id[0] - '0', f->holder);
        f->answer = true;
        f->used = answered;
        f->at = w->now + (int64_t)below(chance(w, 5) ? 600 * EV_MS : 3 * EV_MS) + 1;
    } else if (n->running && n->linked && !n->mute && n->session == f->session && n->stopped_until > w->now) {
        f->at = n->stopped_until + 1; /* it waits in the socket */
    } else {
        f->used = false;
        if (n->running && n->linked && !n->mute && !n->told_down && n->session == f->session)
            take_answer(n, f);
    }
}

/* ---- Processes --------------------------------------------------------------------------------------------------- */

static void want(struct node *n, int lease)
{
    memset(&n->leases[lease], 0, sizeof n->leases[lease]);
    n->wanted[lease] = true;
    n->active[lease] = false;
    ev_lease_want(&n->set, &n->leases[lease], clock_of(n));
}

static void begin(struct world *w, int index)
{
    struct node *n = &w->nodes[index];

    memset(n, 0, sizeof *n);
    n->w = w;
    n->index = index;
    n->running = true;
    n->offset = (int64_t)below(100 * EV_SEC) + EV_SEC;
    n->rate = 0.97 + (double)below(60) / 1000; /* 3 % fast or slow */
    n->link_at = w->now + (int64_t)below(50 * EV_MS);
    ev_leases_init(&n->set, &io, n, TTL);
    for (int i = 0; i < LEASES; i++)
        want(n, i);
}

static void end(struct node *n)
{
    n->running = n->linked = false;
    memset(n->active, 0, sizeof n->active);
    ev_leases_fini(&n->set);
}

static void link_lost(struct node *n)
{
    n->linked = n->mute = n->told_down = false;
    n->link_at = n->w->now + (int64_t)below(chance(n->w, 20) ? 3 * EV_SEC : 100 * EV_MS);
    ev_leases_down(&n->set);
}

static void turn(struct node *n)
{
    struct world *w = n->w;

    if (!n->running || n->stopped_until > w->now)
        return;
    if (n->linked && (n->told_down || (n->mute && w->now >= n->link_at)))
        link_lost(n);
    if (!n->linked && w->now >= n->link_at) {
        n->linked = true;
        n->session = ++w->session;
        ev_leases_up(&n->set, "the server", clock_of(n));
    }
    n->looked = clock_of(n);
    (void)ev_leases_turn(&n->set, clock_of(n));
}

static void trouble(struct world *w)
{
    struct node *n = &w->nodes[below((uint64_t)w->count)];
    const int lease = (int)below(LEASES);

    switch (below(7)) {
    case 0: /* kill -9; comes back a little later, or as soon as it can */
        if (n->running)
            end(n);
        else
            begin(w, n->index);
        break;
    case 1: /* SIGSTOP */
        n->stopped_until = w->now + (int64_t)below(3 * TTL);
        break;
    case 2: /* the server closes its connection; it may be stopped and not see it */
        n->told_down = n->linked;
        break;
    case 3: /* a cable is pulled */
        if (n->linked && !n->mute) {
            n->mute = true;
            n->link_at = w->now + (int64_t)below(HEARTBEAT) + 1;
        }
        break;
    case 4: /* it ends well */
        if (n->running && n->stopped_until <= w->now && n->wanted[lease] && !n->leases[lease].ending) {
            n->active[lease] = false;
            ev_lease_release(&n->set, &n->leases[lease], clock_of(n));
        }
        break;
    case 5:
        if (n->running && n->stopped_until <= w->now && !n->wanted[lease])
            want(n, lease);
        break;
    default: /* the whole bus */
        if (n->running && n->stopped_until <= w->now && n->linked && !n->told_down) {
            ev_leases_close(&n->set);
            end(n);
        }
        break;
    }
}

/* ---- The judge --------------------------------------------------------------------------------------------------- */

static bool acts(const struct node *n, int lease)
{
    const int64_t now = clock_of(n);

    return n->running && n->active[lease] && now < ev_leases_rights(&n->set) && now < n->looked + SLACK;
}

static int count_acting(struct world *w, int lease)
{
    int count = 0;

    for (int i = 0; i < w->count; i++)
        count += acts(&w->nodes[i], lease);
    return count;
}

static void judge(struct world *w)
{
    for (int lease = 0; lease < LEASES; lease++) {
        const int count = count_acting(w, lease);
        w->acts += (uint64_t)count;
        w->failed |= count > 1;
    }
}

/* ---- A schedule -------------------------------------------------------------------------------------------------- */

static struct flying *first_flying(struct world *w)
{
    struct flying *first = NULL;

    for (int i = 0; i < FLYING; i++)
        if (w->flying[i].used && (!first || w->flying[i].at < first->at))
            first = &w->flying[i];
    return first;
}

static void pass(struct world *w, int64_t until)
{
    int64_t next_trouble = w->now;

    while (w->now < until && !w->failed) {
        struct flying *f = first_flying(w);
        const int64_t step = w->now + (int64_t)below(20 * EV_MS) + 1;
        w->now = f && f->at < step ? f->at : step;
        if (f && f->at <= w->now)
            fly(w, f);
        judge(w);
        for (int i = 0; i < w->count; i++) {
            if (below(4) > 0 || w->quiet)
                turn(&w->nodes[i]);
            judge(w);
        }
        if (!w->quiet && w->now >= next_trouble) {
            trouble(w);
            next_trouble = w->now + (int64_t)below(2 * EV_SEC);
            judge(w);
        }
    }
}

/* All wake, come back and want everything. */
static void calm_down(struct world *w)
{
    w->quiet = true;
    for (int i = 0; i < w->count; i++) {
        struct node *n = &w->nodes[i];
        n->stopped_until = 0;
        if (!n->running)
            begin(w, i);
    }
    pass(w, w->now + QUIET);
    for (int i = 0; i < w->count; i++)
        for (int lease = 0; lease < LEASES; lease++)
            if (!w->nodes[i].wanted[lease])
                want(&w->nodes[i], lease);
    pass(w, w->now + QUIET);
}

static bool run(uint64_t seed, uint64_t sums[3])
{
    static struct world w;
    bool one_acts = true;

    ev_random_seed(seed);
    memset(&w, 0, sizeof w);
    w.count = 2 + (int)below(2);
    for (int i = 0; i < w.count; i++)
        begin(&w, i);
    pass(&w, TROUBLE);
    calm_down(&w);
    for (int lease = 0; lease < LEASES; lease++)
        one_acts &= count_acting(&w, lease) == 1;
    for (int i = 0; i < w.count; i++)
        if (w.nodes[i].running)
            end(&w.nodes[i]);
    if (w.failed || !one_acts)
        fprintf(stderr, "seed %" PRIu64 " at %" PRId64 " ms: %s\n", seed, w.now / EV_MS,
                w.failed ? "two members act" : "not exactly one member acts in the end");
    sums[0] += w.acts;
    sums[1] += w.takeovers;
    sums[2] += w.fenced;
    return !w.failed && one_acts;
}

/* Never two members act at once, each by its own clock, whatever is lost, late, stopped or cut; and one acts again. */
static void test_lease_never_two_at_once(void **state)
{
    const char *seed = getenv("EVBUS_SIM_SEED"), *runs = getenv("EVBUS_SIM_RUNS");
    const uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    const uint64_t count = seed ? 1 : runs ? strtoull(runs, NULL, 10) : getenv("EVBUS_SANITIZE") ? 500 : 10000;
    uint64_t sums[3] = {0}, bad = 0;

    (void)state;
    for (uint64_t s = first; s < first + count && bad < 5; s++)
        bad += !run(s, sums);
    print_message("%" PRIu64 " schedules: %" PRIu64 " times somebody could act, %" PRIu64 " turns taken, %" PRIu64
                  " lost to another member\n",
                  count, sums[0], sums[1], sums[2]);
    assert_int_equal(bad, 0);
    assert_true(seed || (sums[1] > 4 * count && sums[2] > count / 5)); /* the trouble bit */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lease_never_two_at_once)};

    return cmocka_run_group_tests_name("sim: lease", tests, NULL, NULL);
}
