/* SPDX-License-Identifier: Apache-2.0 */
/* The relay on both databases, with mem:// as the broker: the test's own bus opens the same one by name. */
#include "case.h"

#include "cases.h"

#include "../support/race.h"

#define TOPIC "orders.placed"
#define SEEN_MAX 4096

/* What arrived, in order. */
struct seen {
    pthread_mutex_t mutex;
    uint32_t count;
    struct {
        char aggregate[40], event_id[64];
        int64_t version, tenant;
    } event[SEEN_MAX];
};

struct broker {
    char url[64];
    evbus *bus;
    struct seen seen;
    _Atomic(uint64_t) events[8]; /* of the relay, by kind */
};

static unsigned brokers;

static evbus_verdict on_event(const evbus_msg *msg, void *ctx)
{
    struct seen *s = ctx;
    const evbus_envelope *env = evbus_msg_envelope(msg);

    pthread_mutex_lock(&s->mutex);
    if (s->count < SEEN_MAX) {
        (void)snprintf(s->event[s->count].aggregate, 40, "%s", env->aggregate_id);
        (void)snprintf(s->event[s->count].event_id, 64, "%s", env->event_id);
        s->event[s->count].version = env->event_version;
        s->event[s->count].tenant = env->tenant_id;
        s->count++;
    }
    pthread_mutex_unlock(&s->mutex);
    return EVBUS_ACK;
}

static struct broker *broker_open(const evbus_topic_opts *topic)
{
    struct broker *b = calloc(1, sizeof *b);

    assert_non_null(b);
    (void)pthread_mutex_init(&b->seen.mutex, NULL);
    (void)snprintf(b->url, sizeof b->url, "mem://outbox-%d-%u", (int)getpid(), ++brokers);
    must(evbus_open(b->url, EVBUS_OPTS(evbus_opts, .workers_min = 2), &b->bus));
    if (topic)
        must(evbus_topic_configure(b->bus, TOPIC, topic));
    must(evbus_subscribe_envelope(b->bus, TOPIC, on_event, &b->seen, NULL, NULL));
    return b;
}

static void broker_close(struct broker *b)
{
    evbus_close(b->bus);
    (void)pthread_mutex_destroy(&b->seen.mutex);
    free(b);
}

static void on_relay_event(const evbus_outbox_event *event, void *ctx)
{
    struct broker *b = ctx;

    atomic_fetch_add(&b->events[event->kind], 1);
}

static evbus_outbox_relay_opts options(const struct world *w, struct broker *b)
{
    return (evbus_outbox_relay_opts){.struct_size = sizeof(evbus_outbox_relay_opts),
                                     .database = w->place.database,
                                     .url = b->url,
                                     .on_event = on_relay_event,
                                     .on_event_ctx = b,
                                     .lease_ms = 20000,
                                     .publish_timeout_ms = 5000,
                                     .backoff_min_ms = 10,
                                     .backoff_max_ms = 40};
}

static evbus_outbox_relay *start(const evbus_outbox_relay_opts *o)
{
    evbus_outbox_relay *relay = NULL;

    must(evbus_outbox_relay_start(o, &relay));
    return relay;
}

static evbus_outbox_relay_statistics stats_of(const evbus_outbox_relay *relay)
{
    evbus_outbox_relay_statistics s;

    must(evbus_outbox_relay_stats(relay, &s));
    return s;
}

struct awaited {
    const evbus_outbox_db *db;
    const char *text;
    int64_t wanted;
    struct seen *seen;
    uint32_t count;
};

static bool is_wanted(void *arg)
{
    const struct awaited *a = arg;

    return number(a->db, a->text) == a->wanted;
}

static void await_number(const evbus_outbox_db *db, const char *text, int64_t wanted)
{
    struct awaited a = {.db = db, .text = text, .wanted = wanted};

    if (!wait_until(is_wanted, &a, wait_patience_ms()))
        fail_msg("%s: %lld, not %lld", text, (long long)number(db, text), (long long)wanted);
}

static void await_published(const struct world *w, int64_t rows)
{
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 2", rows);
}

static bool has_come(void *arg)
{
    const struct awaited *a = arg;

    pthread_mutex_lock(&a->seen->mutex);
    const bool come = a->seen->count >= a->count;
    pthread_mutex_unlock(&a->seen->mutex);
    return come;
}

static void await_seen(struct broker *b, uint32_t count)
{
    struct awaited a = {.seen = &b->seen, .count = count};

    if (!wait_until(has_come, &a, wait_patience_ms()))
        fail_msg("%u of %u events came", b->seen.count, count);
}

/* Every aggregate's versions are 1, 2, 3 ... without gap or repeat, and there are `rows` of them together. */
static void check_order(struct broker *b, uint32_t rows)
{
    await_seen(b, rows);
    assert_int_equal(b->seen.count, rows);
    for (uint32_t i = 0; i < rows; i++) {
        int64_t before = 0;
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(b->seen.event[k].aggregate, b->seen.event[i].aggregate) == 0)
                before = b->seen.event[k].version;
        }
        if (b->seen.event[i].version != before + 1)
            fail_msg("%s: version %lld after %lld", b->seen.event[i].aggregate, (long long)b->seen.event[i].version,
                     (long long)before);
    }
}

static void put_many(const evbus_outbox_db *db, int aggregates, int from, int to)
{
    char name[40];

    sql(db, "BEGIN");
    for (int v = from; v <= to; v++) {
        for (int a = 0; a < aggregates; a++) {
            (void)snprintf(name, sizeof name, "order-%d", a);
            must(put(db, name, v, NULL, NULL));
        }
    }
    sql(db, "COMMIT");
}

static void stop(evbus_outbox_relay *relay)
{
    must(evbus_outbox_relay_stop(relay, wait_patience_ms(), NULL));
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

void test_relay_publishes_what_was_committed_in_order(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);

    put_many(&w->db, 20, 1, 40); /* more rows than are read at once */
    sql(&w->db, "BEGIN");
    must(put(&w->db, "never", 1, NULL, NULL));
    sql(&w->db, "ROLLBACK");
    evbus_outbox_relay *relay = start(&o);
    await_published(w, 800);
    check_order(b, 800);
    const evbus_outbox_relay_statistics s = stats_of(relay);
    assert_int_equal(s.sent, 800);
    assert_int_equal(s.stored, 800);
    assert_int_equal(s.duplicate, 0);
    assert_int_equal(s.maybe_twice, 0);
    stop(relay);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox_lease"), 0);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE sequence > 0 AND done_ms > 0"), 800);
    broker_close(b);
}

void test_relay_hears_of_new_rows(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    char id[EVBUS_OUTBOX_ID_SIZE];

    evbus_outbox_relay *relay = start(&o);
    for (int v = 1; v <= 20; v++) {
        sql(&w->db, "BEGIN");
        must(put(&w->db, "a", v, NULL, id));
        sql(&w->db, "COMMIT");
        await_seen(b, (uint32_t)v);
        assert_string_equal(b->seen.event[v - 1].event_id, id);
    }
    check_order(b, 20);
    stop(relay);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 2"), 20);
    broker_close(b);
}

/* A row whose time has not come holds up nobody, and joins its aggregate when it has. */
void test_relay_waits_for_scheduled_rows(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    struct timespec now;
    evbus_outbox_counts c;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    const int64_t soon = ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1500) * 1000000;
    sql(&w->db, "BEGIN");
    must(put(&w->db, "a", 2, EVBUS_OPTS(evbus_outbox_opts, .not_before_ns = soon), NULL));
    must(put(&w->db, "a", 3, EVBUS_OPTS(evbus_outbox_opts, .not_before_ns = soon + INT64_C(3600000000000)), NULL));
    must(put(&w->db, "a", 1, NULL, NULL));
    sql(&w->db, "COMMIT");
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.scheduled, 2);
    assert_int_equal(c.pending, 1);
    evbus_outbox_relay *relay = start(&o);
    await_published(w, 2);
    check_order(b, 2);
    (void)clock_gettime(CLOCK_REALTIME, &now);
    assert_true((int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= soon);
    stop(relay);
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.scheduled, 1);
    broker_close(b);
}

/* ---- Failing ----------------------------------------------------------------------------------------------------- */

static const evbus_topic_opts two_only = {.struct_size = sizeof two_only, .max_msgs = 2, .discard = EVBUS_DISCARD_NEW};

/* A stream that is full refuses: three attempts, then the row is dead, told, and its aggregate waits; others go on. */
void test_relay_gives_up_a_row_that_is_refused_and_blocks_its_aggregate(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(&two_only);
    evbus_outbox_relay_opts o = options(w, b);
    evbus_outbox_counts c;

    o.attempts_max = 3;
    put_many(&w->db, 1, 1, 5);
    evbus_outbox_relay *relay = start(&o);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 3", 1);
    await_published(w, 2);
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.blocked, 2);
    assert_int_equal(c.blocked_aggregates, 1);
    assert_int_equal(number(&w->db, "SELECT attempts FROM evbus_outbox WHERE event_version = 3"), 3);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE event_version > 3 AND attempts > 0"), 0);
    stop(relay);
    assert_int_equal(atomic_load(&b->events[EVBUS_OUTBOX_EVENT_DEAD]), 1);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox_lease"), 0);
    broker_close(b);

    /* The stream is emptied; somebody retries: everything comes, in order. */
    b = broker_open(NULL);
    o.url = b->url;
    o.on_event_ctx = b;
    must(evbus_outbox_retry(&w->db, NULL, NULL));
    relay = start(&o);
    await_published(w, 5);
    await_seen(b, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(b->seen.event[i].version, i + 3);
    stop(relay);
    broker_close(b);
}

void test_relay_passes_dead_rows_by_policy(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(&two_only);
    evbus_outbox_relay_opts o = options(w, b);
    evbus_outbox_counts c;

    o.attempts_max = 2;
    o.on_dead = EVBUS_OUTBOX_PASS;
    put_many(&w->db, 1, 1, 4);
    evbus_outbox_relay *relay = start(&o);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 4", 2);
    stop(relay);
    must(evbus_outbox_status(&w->db, &c));
    assert_int_equal(c.published, 2);
    assert_int_equal(c.passed, 2);
    assert_int_equal(c.blocked, 0);
    assert_int_equal(number(&w->db, "SELECT SUM(attempts) FROM evbus_outbox"), 4);
    assert_int_equal(atomic_load(&b->events[EVBUS_OUTBOX_EVENT_DEAD]), 2);
    broker_close(b);
}

void test_relay_buries_what_can_never_be_sent_at_once(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    const evbus_opts bus = {.struct_size = sizeof bus, .publish_bytes_max = 65536};
    char *payload = malloc(200001);

    assert_non_null(payload);
    memset(payload, '1', 200000);
    payload[200000] = 0;
    sql(&w->db, "BEGIN");
    const evbus_envelope env = {.aggregate_id = "big", .event_type = "T", .event_version = 1, .payload = payload};
    must(evbus_outbox_enqueue(&w->db, TOPIC, &env, NULL, NULL));
    must(put(&w->db, "small", 1, NULL, NULL));
    sql(&w->db, "COMMIT");
    free(payload);
    o.bus = &bus;
    evbus_outbox_relay *relay = start(&o);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 3 AND attempts = 1", 1);
    await_published(w, 1);
    stop(relay);
    broker_close(b);
}

/* A relay that takes over must be able to send again: else it does not start, and does not serve what it finds later. */
void test_relay_checks_the_duplicate_window(void **state)
{
    struct world *w = *state;
    const evbus_topic_opts narrow = {.struct_size = sizeof narrow, .duplicate_window_ms = 24000};
    struct broker *b = broker_open(&narrow);
    evbus_outbox_relay_opts o = options(w, b);
    evbus_outbox_relay *relay = NULL;

    put_committed(&w->db, "a", 1);
    must_be(EVBUS_MISMATCH, evbus_outbox_relay_start(&o, &relay));
    assert_non_null(strstr(evbus_outbox_error_detail(), "duplicate window of 24000 ms"));
    sql(&w->db, "UPDATE evbus_outbox SET state = 0, scheduled_ms = created_ms"); /* not seen at the start */
    relay = start(&o);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox_lease WHERE retry_ms > 0", 1);
    stop(relay);
    assert_int_equal(atomic_load(&b->events[EVBUS_OUTBOX_EVENT_WINDOW]), 1);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 1 AND attempts = 0"), 1);
    o.lease_ms = 15000; /* it fits */
    relay = start(&o);
    await_published(w, 1);
    check_order(b, 1);
    stop(relay);
    broker_close(b);
}

void test_relay_serves_tenants(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    const evbus_opts bus = {.struct_size = sizeof bus, .tenants_max = 4}; /* fewer than there are: they come and go */
    int64_t sum = 0;

    o.bus = &bus;
    sql(&w->db, "BEGIN");
    for (int t = 1; t <= 30; t++) {
        char name[40];
        (void)snprintf(name, sizeof name, "of-tenant-%d", t);
        const evbus_envelope env = {
            .aggregate_id = name, .event_type = "T", .event_version = 1, .payload = "1", .tenant_id = t};
        must(evbus_outbox_enqueue(&w->db, TOPIC, &env, NULL, NULL));
    }
    sql(&w->db, "COMMIT");
    evbus_outbox_relay *relay = start(&o);
    await_published(w, 30);
    check_order(b, 30);
    for (int i = 0; i < 30; i++)
        sum += b->seen.event[i].tenant;
    assert_int_equal(sum, 30 * 31 / 2);
    stop(relay);
    broker_close(b);
}

/* ---- Several ----------------------------------------------------------------------------------------------------- */

void test_relays_share_the_work_and_send_nothing_twice(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    evbus_outbox_relay *relays[4];
    uint64_t sent = 0, duplicate = 0, lost = 0;

    o.aggregates_max = 8; /* so that they take turns */
    put_many(&w->db, 60, 1, 10);
    for (int i = 0; i < 4; i++)
        relays[i] = start(&o);
    put_many(&w->db, 60, 11, 30);
    await_published(w, 1800);
    check_order(b, 1800);
    for (int i = 0; i < 4; i++) {
        const evbus_outbox_relay_statistics s = stats_of(relays[i]);
        sent += s.sent;
        duplicate += s.duplicate;
        lost += s.leases_lost + s.taken_over;
        stop(relays[i]);
    }
    assert_int_equal(sent, 1800);
    assert_int_equal(duplicate, 0);
    assert_int_equal(lost, 0);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox_lease"), 0);
    broker_close(b);
}

static const char *lease_of_a_dead_relay(const struct world *w, int left_ms, int sent_before_ms)
{
    static char text[500];
    static const char *const now[] = {"CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)",
                                      "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"};

    (void)snprintf(text, sizeof text,
                   "INSERT INTO evbus_outbox_lease (aggregate_id, owner, until_ms, retry_ms, since_ms, upto_id, fails,"
                   " taken) VALUES ('a', 'somebody', %s + %d, 0, %s - %d, 1, 0, 0)",
                   now[w->place.postgres], left_ms, now[w->place.postgres], sent_before_ms);
    return text;
}

/* What another relay holds is left alone until its lease ends by the database's clock; then it is taken over. */
void test_relay_takes_over_when_a_lease_has_run_out(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);

    put_committed(&w->db, "a", 1);
    put_committed(&w->db, "b", 1);
    sql(&w->db, lease_of_a_dead_relay(w, 1500, 1000));
    const int64_t from = wait_now_ms();
    evbus_outbox_relay *relay = start(&o);
    await_published(w, 1);
    assert_int_equal(number(&w->db, "SELECT COUNT(*) FROM evbus_outbox WHERE state = 2 AND aggregate_id = 'b'"), 1);
    await_published(w, 2);
    assert_true(wait_now_ms() - from >= 1400);
    const evbus_outbox_relay_statistics s = stats_of(relay);
    assert_int_equal(s.taken_over, 1);
    assert_int_equal(s.maybe_twice, 0); /* sent 1 s before: the stream would know it */
    stop(relay);
    assert_int_equal(atomic_load(&b->events[EVBUS_OUTBOX_EVENT_TAKEN_OVER]), 1);
    broker_close(b);
}

void test_relay_counts_what_may_be_stored_twice(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);

    put_committed(&w->db, "a", 1);
    put_committed(&w->db, "a", 2); /* never sent before */
    sql(&w->db, lease_of_a_dead_relay(w, -300000, 400000));
    evbus_outbox_relay *relay = start(&o);
    await_published(w, 2);
    assert_int_equal(stats_of(relay).maybe_twice, 1);
    stop(relay);
    assert_int_equal(atomic_load(&b->events[EVBUS_OUTBOX_EVENT_MAYBE_TWICE]), 1);
    broker_close(b);
}

void test_relay_removes_old_rows(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    evbus_outbox_relay_opts o = options(w, b);
    bool first;

    o.keep_ms = 100;
    o.inbox_keep_ms = 100;
    put_many(&w->db, 10, 1, 10);
    sql(&w->db, "BEGIN");
    must(evbus_inbox_once(&w->db, "e", "h", &first));
    sql(&w->db, "COMMIT");
    sql(&w->db, "INSERT INTO evbus_outbox_lease VALUES ('gone', 'somebody', 1, 0, 1, 1, 0, 0)");
    evbus_outbox_relay *relay = start(&o);
    await_seen(b, 100);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox", 0);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_inbox", 0);
    await_number(&w->db, "SELECT COUNT(*) FROM evbus_outbox_lease", 0);
    assert_true(stats_of(relay).purged >= 101);
    stop(relay);
    broker_close(b);
}

void test_relay_refuses_wrong_options(void **state)
{
    struct world *w = *state;
    struct broker *b = broker_open(NULL);
    struct place empty = {.postgres = w->place.postgres};
    evbus_outbox_relay *relay = NULL;
    evbus_outbox_relay_opts o = options(w, b);

    o.lease_ms = 999;
    must_be(EVBUS_INVALID, evbus_outbox_relay_start(&o, &relay));
    assert_non_null(strstr(evbus_outbox_error_detail(), "lease_ms"));
    o = options(w, b);
    o.publish_timeout_ms = 10001; /* more than half of the lease */
    must_be(EVBUS_INVALID, evbus_outbox_relay_start(&o, &relay));
    o = options(w, b);
    o.url = NULL;
    must_be(EVBUS_INVALID, evbus_outbox_relay_start(&o, &relay));
    o = options(w, b);
    o.url = "nonsense://x";
    must_be(EVBUS_UNSUPPORTED, evbus_outbox_relay_start(&o, &relay));
    place_new(&empty);
    o = options(w, b);
    o.database = empty.database;
    must_be(EVBUS_NOT_FOUND, evbus_outbox_relay_start(&o, &relay));
    place_drop(&empty);
    must_be(EVBUS_INVALID, evbus_outbox_relay_start(&o, NULL));
    must(evbus_outbox_relay_stop(NULL, 0, NULL));
    assert_null(relay);
    broker_close(b);
}
