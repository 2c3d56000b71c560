/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster of three in good health. Its operator asks the leader of a stream, or of a consumer, to step down while
 * messages flow; deliveries are lost on their way to us: publishing and consuming go on by themselves, in order, on the
 * same connection, and nothing is lost. Leaders that die: tests/truth/test_truth_nats_cluster_serial.c.
 */
#include "core/names.h"
#include "support/nats_cluster.h"
#include "support/proxy.h"
#include "support/wait.h"

#include <evbus/evbus.h>
#include <nats/nats.h>

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOPIC "cluster.orders"
#define GROUP "cluster"
#define AGGREGATES 4
#define STEPS 3 /* downs of each kind */

struct world {
    struct nats_cluster cluster;
    struct proxy *proxy;
    evbus *bus;
    natsConnection *nc; /* the operator */
    jsCtx *js;
    char stream[256], consumer[256];

    pthread_t publisher;
    bool publishes;
    atomic_bool stop;
    _Atomic(uint32_t) stored[AGGREGATES], tried_again; /* versions 1..stored were */
    _Atomic(uint32_t) handled[AGGREGATES], repeats, skipped;
    _Atomic(uint32_t) leader_changed, leader_lines, lost, gate_closed, gate_open;
};

/* ---- The bus ----------------------------------------------------------------------------------------------------- */

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    struct world *w = ctx;
    _Atomic(uint32_t) *last = &w->handled[env->aggregate_id[0] - '0'];
    const uint32_t next = atomic_load(last) + 1;

    if (env->event_version < (int64_t)next) {
        atomic_fetch_add(&w->repeats, 1);
        return EVBUS_ACK;
    }
    if (env->event_version > (int64_t)next)
        atomic_fetch_add(&w->skipped, 1);
    atomic_store(last, (uint32_t)env->event_version);
    return EVBUS_ACK;
}

static void on_event(const evbus_event *e, void *ctx)
{
    struct world *w = ctx;

    if (e->kind == EVBUS_EVENT_LEADER_CHANGED)
        atomic_fetch_add(&w->leader_changed, 1);
    if (e->kind == EVBUS_EVENT_GATE_CLOSED)
        atomic_fetch_add(&w->gate_closed, 1);
    if (e->kind == EVBUS_EVENT_GATE_OPEN)
        atomic_fetch_add(&w->gate_open, 1);
    if (e->kind == EVBUS_EVENT_CONSUMER_LOST || e->kind == EVBUS_EVENT_LOST_STREAM)
        atomic_fetch_add(&w->lost, 1);
}

static void on_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    struct world *w = ctx;

    (void)level;
    if (getenv("EV_TEST_LOG"))
        (void)fprintf(stderr, "# %lld %s: %s\n", (long long)wait_now_ms(), subject, text);
    if (strcmp(subject, "leader changed") == 0)
        atomic_fetch_add(&w->leader_lines, 1);
}

static void publish(struct world *w, int aggregate)
{
    const uint32_t version = atomic_load(&w->stored[aggregate]) + 1;
    char id[32], name[2] = {(char)('0' + aggregate), 0};

    (void)snprintf(id, sizeof id, "event-%d-%" PRIu32, aggregate, version);
    const evbus_envelope env = {
        .event_id = id, .aggregate_id = name, .event_type = "T", .event_version = version, .payload = "{}"};
    if (evbus_publish_envelope_wait(w->bus, TOPIC, &env, NULL, NULL) == EVBUS_OK)
        atomic_store(&w->stored[aggregate], version);
    else
        atomic_fetch_add(&w->tried_again, 1); /* with the same id: stored once, whatever became of it */
}

static void *publisher(void *arg)
{
    struct world *w = arg;

    for (int i = 0; !atomic_load(&w->stop); i = (i + 1) % AGGREGATES)
        publish(w, i);
    return NULL;
}

static uint32_t sum(_Atomic(uint32_t) *of)
{
    uint32_t n = 0;

    for (int i = 0; i < AGGREGATES; i++)
        n += atomic_load(&of[i]);
    return n;
}

struct more {
    struct world *w;
    uint32_t stored, handled;
};

static bool both_went_on(void *arg)
{
    struct more *m = arg;

    return sum(m->w->stored) >= m->stored && sum(m->w->handled) >= m->handled;
}

/* So many more are stored, and handled. */
static void await_more(struct world *w, uint32_t count)
{
    struct more more = {w, sum(w->stored) + count, sum(w->handled) + count};

    assert_true(wait_until(both_went_on, &more, 3 * wait_patience_ms()));
}

static bool all_is_handled(void *arg)
{
    struct world *w = arg;

    return sum(w->handled) == sum(w->stored);
}

/* ---- The cluster and its operator -------------------------------------------------------------------------------- */

static bool three_replicas_work(void *arg)
{
    const char *subject = "first.try";
    struct world *w = arg;
    jsStreamConfig cfg;

    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = "FIRST";
    cfg.Subjects = &subject;
    cfg.SubjectsLen = 1;
    cfg.Replicas = NATS_NODES;
    return js_AddStream(NULL, w->js, &cfg, NULL, NULL) == NATS_OK;
}

static void leader_name(const jsClusterInfo *cluster, char ret[64])
{
    (void)snprintf(ret, 64, "%s", cluster && cluster->Leader ? cluster->Leader : "");
}

struct leaders {
    struct world *w;
    char stream[64], consumer[64];
};

/* Both have one, and all replicas are there to vote. */
static bool are_led(void *arg)
{
    struct leaders *l = arg;
    jsStreamInfo *stream = NULL;
    jsConsumerInfo *consumer = NULL;
    bool well = js_GetStreamInfo(&stream, l->w->js, l->w->stream, NULL, NULL) == NATS_OK &&
                js_GetConsumerInfo(&consumer, l->w->js, l->w->stream, l->w->consumer, NULL, NULL) == NATS_OK;

    l->stream[0] = l->consumer[0] = 0;
    if (well) {
        leader_name(stream->Cluster, l->stream);
        leader_name(consumer->Cluster, l->consumer);
        well = stream->Cluster && stream->Cluster->ReplicasLen == NATS_NODES - 1;
    }
    for (int i = 0; well && i < stream->Cluster->ReplicasLen; i++)
        well = stream->Cluster->Replicas[i]->Current && !stream->Cluster->Replicas[i]->Offline;
    jsStreamInfo_Destroy(stream);
    jsConsumerInfo_Destroy(consumer);
    return well && l->stream[0] && l->consumer[0];
}

struct change {
    struct leaders now;
    const char *old;
    bool of_stream;
};

static bool has_changed(void *arg)
{
    struct change *c = arg;

    return are_led(&c->now) && strcmp(c->of_stream ? c->now.stream : c->now.consumer, c->old) != 0;
}

/* Asks the leader of the one or of the other to step down, under load, and waits for the next one. */
static void step_down(struct world *w, bool of_stream)
{
    struct leaders before = {.w = w};
    struct change change = {.now = {.w = w}, .of_stream = of_stream};
    char subject[600];
    natsMsg *answer = NULL;

    assert_true(wait_until(are_led, &before, 3 * wait_patience_ms()));
    change.old = of_stream ? before.stream : before.consumer;
    (void)snprintf(subject, sizeof subject, "$JS.API.%s.LEADER.STEPDOWN.%s%s%s", of_stream ? "STREAM" : "CONSUMER",
                   w->stream, of_stream ? "" : ".", of_stream ? "" : w->consumer);
    assert_int_equal(natsConnection_RequestString(&answer, w->nc, subject, "", wait_patience_ms()), NATS_OK);
    const bool agreed = strstr(natsMsg_GetData(answer), "\"success\":true") != NULL;
    natsMsg_Destroy(answer);
    assert_true(agreed);
    assert_true(wait_until(has_changed, &change, 3 * wait_patience_ms()));
}

/* ---- Around a case ----------------------------------------------------------------------------------------------- */

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);

    *state = w;
    return w && nats_cluster_start(&w->cluster) ? 0 : -1;
}

static void stop_publishing(struct world *w)
{
    atomic_store(&w->stop, true);
    if (w->publishes)
        (void)pthread_join(w->publisher, NULL);
    w->publishes = false;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    stop_publishing(w);
    (void)evbus_shutdown(w->bus, 5000, NULL);
    evbus_close(w->bus);
    jsCtx_Destroy(w->js);
    natsConnection_Destroy(w->nc);
    proxy_close(w->proxy);
    nats_cluster_end(&w->cluster);
    free(w);
    return 0;
}

static void begin(struct world *w)
{
    evbus_stream_info info;
    char url[128];

    w->proxy = proxy_open(w->cluster.node[0].port);
    assert_non_null(w->proxy);
    proxy_read_nats(w->proxy);
    nats_cluster_url(&w->cluster, url, sizeof url);
    assert_int_equal(natsConnection_ConnectTo(&w->nc, url), NATS_OK);
    assert_int_equal(natsConnection_JetStream(&w->js, w->nc, NULL), NATS_OK);
    assert_true(wait_until(three_replicas_work, w, 3 * wait_patience_ms()));
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", proxy_port(w->proxy));
    assert_int_equal(evbus_open(url,
                                EVBUS_OPTS(evbus_opts, .name = GROUP, .heartbeat_ms = 20000, .on_event = on_event,
                                           .on_event_ctx = w, .log = on_log, .log_ctx = w),
                                &w->bus),
                     EVBUS_OK);
    assert_int_equal(evbus_topic_configure(w->bus, TOPIC, EVBUS_OPTS(evbus_topic_opts, .replicas = NATS_NODES)),
                     EVBUS_OK);
    assert_int_equal(evbus_subscribe_envelope(w->bus, TOPIC, handle, w,
                                              EVBUS_OPTS(evbus_sub_opts, .timeout_ms = wait_patience_ms()), NULL),
                     EVBUS_OK);
    assert_int_equal(evbus_topic_stream(w->bus, TOPIC, wait_patience_ms(), &info), EVBUS_OK);
    (void)snprintf(w->stream, sizeof w->stream, "%s", info.name);
    (void)ev_durable_name(w->consumer, GROUP, TOPIC);
    assert_int_equal(pthread_create(&w->publisher, NULL, publisher, w), 0);
    w->publishes = true;
    await_more(w, 100);
}

static void finish(struct world *w)
{
    evbus_statistics s;

    stop_publishing(w);
    assert_true(wait_until(all_is_handled, w, 3 * wait_patience_ms()));
    assert_int_equal(evbus_stats(w->bus, &s), EVBUS_OK);
    print_message("handled %" PRIu32 ", repeats %" PRIu32 ", published again %" PRIu32 ", leader changed %" PRIu32
                  ", repairs %" PRIu64 "\n",
                  sum(w->handled), atomic_load(&w->repeats), atomic_load(&w->tried_again),
                  atomic_load(&w->leader_changed), s.progress_repairs);
    assert_int_equal(atomic_load(&w->skipped), 0);
    assert_int_equal(atomic_load(&w->lost), 0);
    assert_int_equal(s.connects, 1);
    assert_int_equal(s.disconnects, 0);
    assert_int_equal(s.foreign, 0);
    assert_int_equal(evbus_event_count(w->bus, EVBUS_EVENT_FOREIGN_MEMBER), 0);
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

static bool leader_was_told(void *arg)
{
    return atomic_load(&((struct world *)arg)->leader_changed) > 0;
}

/* The consumer's: its pulls end with its leader, which is said, and go to the next one. */
static void test_cluster_stepdown_of_a_consumer(void **state)
{
    struct world *w = *state;

    begin(w);
    for (int i = 0; i < STEPS; i++) {
        step_down(w, false);
        await_more(w, 100);
    }
    assert_true(wait_until(leader_was_told, w, wait_patience_ms()));
    finish(w);
    assert_int_equal(atomic_load(&w->leader_lines), evbus_event_count(w->bus, EVBUS_EVENT_LEADER_CHANGED));
}

static bool gates_are_open(void *arg)
{
    struct world *w = arg;

    return atomic_load(&w->gate_open) == atomic_load(&w->gate_closed);
}

/* The stream's: publishes that it did not answer end by themselves, and go to the next one. */
static void test_cluster_stepdown_of_a_stream(void **state)
{
    struct world *w = *state;

    begin(w);
    for (int i = 0; i < STEPS; i++) {
        step_down(w, true);
        await_more(w, 100);
    }
    finish(w);
    assert_true(wait_until(gates_are_open, w, wait_patience_ms()));
}

#define DELIVERIES " $JS.ACK."

struct losses {
    struct proxy *proxy;
    uint64_t until;
};

static bool some_are_lost(void *arg)
{
    const struct losses *l = arg;

    return proxy_muted(l->proxy) >= l->until;
}

/* Deliveries that do not reach us while the connection stands, as when a route between servers drops them: the count of
 * those that do tells, and nothing later starts before they came again. */
static void test_cluster_of_deliveries_that_are_lost(void **state)
{
    struct world *w = *state;

    begin(w);
    for (int i = 0; i < STEPS; i++) {
        struct losses losses = {w->proxy, proxy_muted(w->proxy) + 10};
        proxy_mute(w->proxy, PROXY_TO_CLIENT, DELIVERIES);
        assert_true(wait_until(some_are_lost, &losses, wait_patience_ms()));
        proxy_mute(w->proxy, PROXY_TO_CLIENT, NULL);
        await_more(w, 100);
    }
    finish(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cluster_stepdown_of_a_consumer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cluster_stepdown_of_a_stream, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cluster_of_deliveries_that_are_lost, set_up, tear_down),
    };

    if (!nats_server_available() || nats_Open(-1) != NATS_OK) {
        printf("SKIPPED: nats-server is not installed\n");
        return 77;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
