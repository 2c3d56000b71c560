/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relays as processes of their own, against nats-server and both databases; kill -9 for each in turn, SIGSTOP for a
 * relay past its lease. In the end every committed row is in the stream once, in the order of its aggregate, and
 * nothing that was rolled back is. This program starts itself again as the relay.
 */
#include "case.h"

#include "../support/nats_server.h"
#include "../support/pg_server.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TOPIC "orders.placed"
#define AGGREGATES 12
#define VERSIONS 4000
#define RELAYS 2

struct scene {
    struct place place;
    struct nats_server nats;
    char url[64];
    pid_t relays[RELAYS];
    evbus_outbox_db db;
    uint64_t random;
    int64_t tx;                              /* number of the transaction */
    int32_t versions[AGGREGATES];            /* committed so far */
    int64_t by[AGGREGATES][VERSIONS];        /* by which transaction; version 1 at 0 */
    uint64_t committed, rolled_back, unsure; /* unsure: asked afterwards whether it had committed */
};

static struct scene scene;

/* ---- The relay's process ----------------------------------------------------------------------------------------- */

static int relay_main(const char *database, const char *url)
{
    const evbus_opts bus = {.struct_size = sizeof bus, .reconnect_max_ms = 100, .heartbeat_ms = 500};
    const evbus_outbox_relay_opts o = {.struct_size = sizeof o,
                                       .database = database,
                                       .url = url,
                                       .bus = &bus,
                                       .lease_ms = 1000,
                                       .publish_timeout_ms = 500,
                                       .backoff_min_ms = 10,
                                       .backoff_max_ms = 100,
                                       .poll_ms = 10,
                                       .mark_ms = 5,
                                       .aggregates_max = 8};
    const int64_t until = wait_now_ms() + 60000;
    evbus_outbox_relay *relay = NULL;
    sigset_t ending;
    int number_of;

    (void)sigemptyset(&ending);
    (void)sigaddset(&ending, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &ending, NULL);
    evbus_status st;
    while ((st = evbus_outbox_relay_start(&o, &relay)) != EVBUS_OK && wait_now_ms() < until)
        wait_out(20); /* the database may be down just now */
    if (st != EVBUS_OK) {
        (void)fprintf(stderr, "relay: %s\n", evbus_outbox_error_detail());
        return 1;
    }
    (void)sigwait(&ending, &number_of);
    return evbus_outbox_relay_stop(relay, 10000, NULL) == EVBUS_OK ? 0 : 2;
}

static pid_t relay_start(const struct scene *s)
{
    const pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", "relay", s->place.database, s->url, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static int relay_end(pid_t pid, int sig)
{
    int status = -1;

    kill(pid, sig);
    while (waitpid(pid, &status, 0) < 0)
        ;
    return status;
}

/* ---- The service ------------------------------------------------------------------------------------------------- */

static uint64_t dice(struct scene *s, uint64_t sides)
{
    s->random = s->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (s->random >> 33) % sides;
}

static void reconnect(struct scene *s)
{
    evbus_outbox_disconnect(&s->db);
    const int64_t until = wait_now_ms() + wait_patience_ms();
    while (evbus_outbox_connect(s->place.database, &s->db) != EVBUS_OK)
        assert_true(wait_now_ms() < until);
}

struct batch {
    int count;
    int aggregate[3];
    int32_t version[3];
};

static evbus_status enqueue(struct scene *s, struct batch *b)
{
    char name[20], id[60];
    evbus_status st = EVBUS_OK;

    b->count = 1 + (int)dice(s, 3);
    for (int i = 0; i < b->count && st == EVBUS_OK; i++) {
        int before = 0;
        b->aggregate[i] = (int)dice(s, AGGREGATES);
        for (int k = 0; k < i; k++)
            before += b->aggregate[k] == b->aggregate[i];
        b->version[i] = s->versions[b->aggregate[i]] + 1 + before;
        (void)snprintf(name, sizeof name, "order-%d", b->aggregate[i]);
        (void)snprintf(id, sizeof id, "%s/%d/%" PRId64, name, b->version[i], s->tx);
        const evbus_envelope env = {.event_id = id,
                                    .aggregate_id = name,
                                    .event_type = "T",
                                    .event_version = b->version[i],
                                    .payload = "{\"total\": 12}"};
        st = evbus_outbox_enqueue(&s->db, TOPIC, &env, NULL, NULL);
    }
    return st;
}

/* After a COMMIT without an answer: did it? */
static bool was_committed(struct scene *s, const struct batch *b)
{
    char text[200];
    int64_t rows = 0;

    s->unsure++;
    (void)snprintf(text, sizeof text, "SELECT COUNT(*) FROM evbus_outbox WHERE event_id = 'order-%d/%d/%" PRId64 "'",
                   b->aggregate[0], b->version[0], s->tx);
    reconnect(s);
    while (try_number(&s->db, text, &rows) != EVBUS_OK)
        reconnect(s);
    return rows == 1;
}

static void note(struct scene *s, const struct batch *b)
{
    for (int i = 0; i < b->count; i++) {
        assert_true(b->version[i] < VERSIONS);
        s->versions[b->aggregate[i]] = b->version[i];
        s->by[b->aggregate[i]][b->version[i] - 1] = s->tx;
        s->committed++;
    }
}

/* One transaction of the service; one in four rolls back. `crash`: the database dies before it can commit. */
static void transact(struct scene *s, bool crash)
{
    const bool give_up = dice(s, 4) == 0;
    struct batch b = {0};

    s->tx++;
    evbus_status st = try_sql(&s->db, s->place.postgres ? "BEGIN" : "BEGIN IMMEDIATE");
    if (st == EVBUS_OK)
        st = enqueue(s, &b);
    if (crash)
        place_crash(&s->place);
    if (st == EVBUS_OK && give_up) {
        (void)try_sql(&s->db, "ROLLBACK");
        s->rolled_back++;
        if (crash)
            reconnect(s);
        return;
    }
    if (st != EVBUS_OK) { /* nothing was written: a lock, or the connection */
        (void)try_sql(&s->db, "ROLLBACK");
        reconnect(s);
        return;
    }
    if (try_sql(&s->db, "COMMIT") == EVBUS_OK || was_committed(s, &b))
        note(s, &b);
}

static void transact_some(struct scene *s)
{
    for (uint64_t i = 5 + dice(s, 40); i > 0; i--)
        transact(s, false);
}

/* ---- What must have come ----------------------------------------------------------------------------------------- */

struct check {
    pthread_mutex_t mutex;
    const struct scene *scene;
    int32_t versions[AGGREGATES];
    uint64_t count;
    char wrong[200]; /* the first thing that was */
};

static evbus_verdict check_event(const evbus_msg *msg, void *ctx)
{
    struct check *c = ctx;
    const evbus_envelope *env = evbus_msg_envelope(msg);
    char wanted[60];

    pthread_mutex_lock(&c->mutex);
    const int a = atoi(env->aggregate_id + strlen("order-"));
    const int32_t version = ++c->versions[a];
    (void)snprintf(wanted, sizeof wanted, "order-%d/%d/%" PRId64, a, version, c->scene->by[a][version - 1]);
    if (!*c->wrong && strcmp(wanted, env->event_id) != 0)
        (void)snprintf(c->wrong, sizeof c->wrong, "%s came, not %s", env->event_id, wanted);
    c->count++;
    pthread_mutex_unlock(&c->mutex);
    return EVBUS_ACK;
}

static bool all_checked(void *arg)
{
    struct check *c = arg;

    pthread_mutex_lock(&c->mutex);
    const bool done = c->count >= c->scene->committed || *c->wrong;
    pthread_mutex_unlock(&c->mutex);
    return done;
}

static bool all_published(void *arg)
{
    struct scene *s = arg;
    int64_t rows = -1;

    if (try_number(&s->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state <> 2", &rows) != EVBUS_OK)
        reconnect(s);
    return rows == 0;
}

static void check_stream(struct scene *s)
{
    static unsigned checks; /* each reads the whole stream, in a group of its own */
    struct check c = {.mutex = PTHREAD_MUTEX_INITIALIZER, .scene = s};
    char name[20];
    evbus_stream_info info;
    evbus *bus = NULL;

    if (!wait_until(all_published, s, wait_patience_ms() * 2))
        fail_msg("%" PRId64 " rows are not published",
                 number(&s->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state <> 2"));
    (void)snprintf(name, sizeof name, "check-%u", ++checks);
    must(evbus_open(s->url, EVBUS_OPTS(evbus_opts, .name = name), &bus));
    must(evbus_topic_stream(bus, TOPIC, 0, &info));
    must(evbus_subscribe_envelope(bus, TOPIC, check_event, &c, NULL, NULL));
    assert_true(wait_until(all_checked, &c, wait_patience_ms()));
    evbus_close(bus);
    print_message("%" PRIu64 " rows committed, %" PRIu64 " transactions rolled back, %" PRIu64 " unsure; %" PRIu64
                  " messages\n",
                  s->committed, s->rolled_back, s->unsure, info.messages);
    if (*c.wrong)
        fail_msg("%s", c.wrong);
    assert_int_equal(info.messages, s->committed);
    assert_memory_equal(c.versions, s->versions, sizeof c.versions);
}

/* ---- The cases --------------------------------------------------------------------------------------------------- */

static void scene_open(struct scene *s, bool postgres)
{
    const char *given = getenv("EVBUS_SEED");

    if (!nats_server_available() || (postgres && !pg_server_available()))
        skip();
    memset(s, 0, sizeof *s);
    s->random = given ? strtoull(given, NULL, 10) : (uint64_t)wait_now_ms();
    print_message("EVBUS_SEED=%" PRIu64 "\n", s->random);
    s->place.postgres = postgres;
    place_new(&s->place);
    assert_true(nats_server_start(&s->nats, "jetstream: {store_dir: \"@DIR@/js\"}\n"));
    (void)snprintf(s->url, sizeof s->url, "nats://127.0.0.1:%u", s->nats.port);
    s->db = connected(&s->place);
    must(evbus_outbox_migrate(&s->db));
}

static void scene_close(struct scene *s)
{
    evbus_outbox_disconnect(&s->db);
    nats_server_end(&s->nats);
    place_drop(&s->place);
}

/* The broker is away while the service goes on; so is, in turn, a relay. The database dies under a transaction. */
static void kill_one(struct scene *s, int which)
{
    switch (which % 3) {
    case 0: {
        pid_t *relay = &s->relays[dice(s, RELAYS)];
        assert_true(WIFSIGNALED(relay_end(*relay, SIGKILL)));
        transact_some(s);
        *relay = relay_start(s);
        break;
    }
    case 1:
        nats_server_kill(&s->nats);
        transact_some(s);
        assert_true(nats_server_restart(&s->nats));
        break;
    default:
        transact(s, true);
    }
}

static void rounds_of_kills(bool postgres)
{
    struct scene *s = &scene;
    const int rounds = getenv("EVBUS_LONG") ? 50 : 5;

    scene_open(s, postgres);
    for (int i = 0; i < RELAYS; i++)
        s->relays[i] = relay_start(s);
    for (int round = 0; round < rounds; round++) {
        for (int which = 0; which < 3; which++) {
            transact_some(s);
            kill_one(s, which);
        }
    }
    transact_some(s);
    check_stream(s);
    for (int i = 0; i < RELAYS; i++)
        assert_int_equal(relay_end(s->relays[i], SIGTERM), 0);
    assert_int_equal(number(&s->db, "SELECT COUNT(*) FROM evbus_outbox_lease WHERE until_ms > 0"), 0);
    scene_close(s);
}

static void test_kills_on_sqlite_lose_and_double_nothing(void **state)
{
    (void)state;
    rounds_of_kills(false);
}

static bool half_published(void *arg)
{
    struct scene *s = arg;

    return number(&s->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 2") >= (int64_t)s->committed / 4;
}

/* Stopped where it does not hold SQLite's one lock: nobody else could go on. */
static void stop_in_mid_flow(struct scene *s, pid_t relay)
{
    int status;

    for (;;) {
        kill(relay, SIGSTOP);
        assert_int_equal(waitpid(relay, &status, WUNTRACED), relay);
        assert_true(WIFSTOPPED(status));
        if (s->place.postgres || try_sql(&s->db, "BEGIN IMMEDIATE; ROLLBACK") == EVBUS_OK)
            return;
        kill(relay, SIGCONT);
        (void)try_sql(&s->db,
                      "BEGIN IMMEDIATE; ROLLBACK"); /* it gets on: or it would be stopped there again and again */
    }
}

/* One relay is stopped with rows in flight, another takes over when the lease has ended, the first one comes back. */
static void stopped_past_its_lease(bool postgres)
{
    struct scene *s = &scene;

    scene_open(s, postgres);
    while (s->committed < 3000)
        transact(s, false);
    s->relays[0] = relay_start(s);
    assert_true(wait_until(half_published, s, wait_patience_ms()));
    stop_in_mid_flow(s, s->relays[0]);
    assert_true(number(&s->db, "SELECT COUNT(*) FROM evbus_outbox_lease WHERE until_ms > 0") > 0);
    s->relays[1] = relay_start(s);
    assert_true(wait_until(all_published, s, wait_patience_ms()));
    kill(s->relays[0], SIGCONT);
    transact_some(s);
    check_stream(s);
    for (int i = 0; i < RELAYS; i++)
        assert_int_equal(relay_end(s->relays[i], SIGTERM), 0);
    check_stream(s); /* what the first one still had has not come again */
    scene_close(s);
}

static void test_a_relay_stopped_past_its_lease_doubles_nothing_on_sqlite(void **state)
{
    (void)state;
    stopped_past_its_lease(false);
}

#if EVBUS_TEST_POSTGRES
static void test_kills_on_postgres_lose_and_double_nothing(void **state)
{
    (void)state;
    rounds_of_kills(true);
}

static void test_a_relay_stopped_past_its_lease_doubles_nothing_on_postgres(void **state)
{
    (void)state;
    stopped_past_its_lease(true);
}
#endif

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kills_on_sqlite_lose_and_double_nothing),
        cmocka_unit_test(test_a_relay_stopped_past_its_lease_doubles_nothing_on_sqlite),
#if EVBUS_TEST_POSTGRES
        cmocka_unit_test(test_kills_on_postgres_lose_and_double_nothing),
        cmocka_unit_test(test_a_relay_stopped_past_its_lease_doubles_nothing_on_postgres),
#endif
    };

    if (argc == 3 && strcmp(argv[0], "relay") == 0)
        return relay_main(argv[1], argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
