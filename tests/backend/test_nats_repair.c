/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and durables that are deleted, purged or changed behind a bus that is at work: what it does, and says. */
#include "core/names.h"
#include "support/nats_case.h"

#include <sys/stat.h>

#define TOPIC "repair.orders"

/* A bus under load that handles what it publishes; *ret_name is its stream's. */
static evbus *at_work(struct nats_case *c, char name[256])
{
    evbus *bus;

    case_start(c, CASE_JETSTREAM, "");
    bus = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .publish_timeout_ms = 1000, .lookup_retry_ms = 100));
    must(evbus_subscribe_envelope(bus, TOPIC, sink_handle, &c->sink, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 2000),
                                  NULL));
    (void)the_stream(c, name);
    load_start(c, bus, TOPIC);
    must_reach_at_least(bus, handled, 200);
    return bus;
}

static void must_handle_what_comes(struct nats_case *c)
{
    struct load_rest rest = load_mark(c);
    const uint64_t runs = atomic_load(&c->sink.runs);

    while (load_accepted(c) < 200 || atomic_load(&c->sink.runs) < runs + 200)
        wait_out(1);
    load_stop(c);
    if (!wait_until(load_is_handled, &rest, wait_patience_ms()))
        fail_msg("%" PRIu64 " stored publishes were not handled", rest.missing);
}

/* Calls of the load that were not accepted. */
static uint64_t load_failures(struct nats_case *c)
{
    uint64_t n = 0;

    for (int i = 0; i <= EVBUS_SYSTEM; i++)
        n += atomic_load(&c->load.failed[i]);
    return n;
}

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

/* Its own stream, deleted under load: made again, but not before it was missed for two seconds; said, counted; the load
 * goes on by itself. */
static void test_repair_a_stream_of_ours_that_is_deleted(void **state)
{
    struct nats_case *c = *state;
    char name[256];

    evbus *bus = at_work(c, name);
    const int64_t deleted = wait_now_ms();
    operator_deletes(c, name);
    (void)suite_event(&c->s, EVBUS_EVENT_STREAM_CREATED, 1);
    assert_true(wait_now_ms() - deleted >= 2000);
    const struct suite_event lost = suite_event(&c->s, EVBUS_EVENT_LOST_STREAM, 0);
    assert_string_equal(lost.topic, TOPIC);
    assert_non_null(strstr(lost.text, name));
    (void)suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    must_handle_what_comes(c);
    const evbus_statistics s = case_settles(c, bus);
    assert_int_equal(s.streams_lost, 1);
    assert_int_equal(s.streams_created, 2);
    assert_true(load_failures(c) + s.publishes_refused + s.publishes_unknown > 0); /* it bit */
    suite_close(&c->s, bus);
}

static bool waited(void *arg)
{
    return wait_now_ms() >= *(int64_t *)arg;
}

/* Somebody else's stream is not made again; it is used again when its owner makes it. */
static void test_repair_a_stream_of_others_is_left_to_them(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "THEIRS", TOPIC);
    evbus *bus = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .publish_timeout_ms = 1000, .lookup_retry_ms = 100));
    must(evbus_subscribe_envelope(bus, TOPIC, sink_handle, &c->sink, NULL, NULL));
    load_start(c, bus, TOPIC);
    must_reach_at_least(bus, handled, 200);
    operator_deletes(c, "THEIRS");
    (void)suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    int64_t until = wait_now_ms() + 3500; /* longer than a stream of its own would be missed */
    (void)wait_until(waited, &until, 5000);
    assert_int_equal(operator_lists(c, NULL), 0);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_LOST_STREAM), 0);
    operator_makes_plain(c, "THEIRS", TOPIC);
    must_handle_what_comes(c);
    const evbus_statistics s = case_settles(c, bus);
    assert_int_equal(s.streams_created, 0);
    assert_true(load_failures(c) + s.publishes_refused + s.publishes_unknown > 0); /* it bit */
    suite_close(&c->s, bus);
}

/* What is logged of a consumer that is lost. */
struct said {
    _Atomic(uint32_t) lost, again;
};

static void count_lines(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    struct said *said = ctx;

    (void)level;
    if (strcmp(subject, "consumer lost") == 0 || strstr(text, "cannot be bound"))
        atomic_fetch_add(&said->lost, 1);
    if (strstr(text, "is bound again"))
        atomic_fetch_add(&said->again, 1);
}

/* A stream that stays away, and the server with it for a while: tried each second, said once, and when it is over. */
static void test_repair_says_once_what_stays_lost(void **state)
{
    struct nats_case *c = *state;
    struct said said = {0};

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "THEIRS", TOPIC);
    evbus *bus =
        suite_open(&c->s, EVBUS_OPTS(evbus_opts, .log = count_lines, .log_ctx = &said, .lookup_retry_ms = 100));
    (void)suite_sub(bus, TOPIC, &c->tally, NULL);
    suite_publish(bus, TOPIC, "a", 1);
    assert_true(tally_await(&c->tally, &c->tally.acked, 1));
    operator_deletes(c, "THEIRS");
    const struct suite_event lost = suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    const struct suite_event fails = suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 1);
    assert_int_equal(lost.count, 0);
    assert_true(fails.count > 0);
    assert_int_equal(fails.status, EVBUS_NOT_FOUND);
    assert_string_equal(fails.topic, TOPIC);
    assert_non_null(strstr(fails.text, "THEIRS"));
    case_operator_leaves(c);
    nats_server_kill(&c->server);
    (void)suite_event(&c->s, EVBUS_EVENT_DISCONNECTED, 0);
    int64_t until = wait_now_ms() + 3500; /* three attempts, and three more when the server is back */
    (void)wait_until(waited, &until, 5000);
    assert_true(nats_server_restart(&c->server));
    (void)suite_event(&c->s, EVBUS_EVENT_CONNECTED, 1);
    until = wait_now_ms() + 3500;
    (void)wait_until(waited, &until, 5000);
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_CONSUMER_LOST), 2);
    assert_int_equal(atomic_load(&said.lost), 2);
    case_operator_comes(c, "");
    operator_makes_plain(c, "THEIRS", TOPIC);
    const struct suite_event over = suite_event(&c->s, EVBUS_EVENT_RESUMED, 0);
    assert_string_equal(over.topic, TOPIC);
    assert_string_equal(over.group, "suite");
    suite_publish(bus, TOPIC, "a", 2);
    assert_true(tally_await(&c->tally, &c->tally.acked, 2));
    assert_int_equal(suite_event_count(&c->s, EVBUS_EVENT_RESUMED), 1);
    assert_int_equal(atomic_load(&said.again), 1);
    suite_close(&c->s, bus);
}

static bool is_active(void *arg)
{
    return evbus_sub_active(arg);
}

/* A subscription that ends while it looks for its lost stream gives its turn back: the next member does not wait. */
static void test_repair_ends_while_the_stream_is_gone(void **state)
{
    struct nats_case *c = *state;
    evbus_sub *sub = NULL, *next = NULL;

    case_start(c, CASE_JETSTREAM, "");
    operator_makes_plain(c, "THEIRS", TOPIC);
    evbus *one = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .name = "g", .lookup_retry_ms = 100));
    evbus *two = suite_open(&c->s, EVBUS_OPTS(evbus_opts, .name = "g"));
    must(evbus_subscribe_envelope(one, TOPIC, sink_handle, &c->sink, NULL, &sub));
    assert_true(wait_until(is_active, sub, wait_patience_ms()));
    operator_deletes(c, "THEIRS");
    (void)suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    must(evbus_unsubscribe(sub));
    operator_makes_plain(c, "THEIRS", TOPIC);
    must(evbus_subscribe_envelope(two, TOPIC, sink_handle, &c->sink, NULL, &next));
    assert_true(wait_until(is_active, next, 5000)); /* half of member_ttl_ms */
    suite_close(&c->s, two);
    suite_close(&c->s, one);
}

/* What is purged before it was given to anybody is counted and said; what is here is handled. */
static void test_repair_a_purged_stream(void **state)
{
    struct nats_case *c = *state;
    char name[256];

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    c->tally.decide = suite_at_gate;
    c->tally.arg = &c->gate;
    (void)suite_sub(bus, TOPIC, &c->tally, EVBUS_OPTS(evbus_sub_opts, .inflight_max = 10));
    suite_publish_many(bus, TOPIC, "a", 10, 1, 10);
    must_reach(bus, publishes_stored, 100);
    must_reach(bus, held, 10);
    assert_int_equal(js_PurgeStream(c->js, the_stream(c, name), NULL, NULL), NATS_OK);
    assert_int_equal(suite_event(&c->s, EVBUS_EVENT_OVERTAKEN, 0).count, 90);
    gate_open(&c->gate);
    assert_true(tally_await(&c->tally, &c->tally.acked, 10));
    suite_publish_many(bus, TOPIC, "a", 10, 11, 11);
    assert_true(tally_await(&c->tally, &c->tally.acked, 20));
    must_reach(bus, overtaken, 90);
    suite_close(&c->s, bus);
    tally_check_order(&c->tally);
}

/* ---- Durables ---------------------------------------------------------------------------------------------------- */

/* Its name; there is no other beside the gap rule's, which comes and goes. */
static void the_consumer(struct nats_case *c, const char *stream, char name[256])
{
    (void)ev_durable_name(name, "suite", TOPIC);
    jsConsumerInfo *info = NULL;

    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, name, NULL, NULL), NATS_OK);
    jsConsumerInfo_Destroy(info);
}

/* nats-server 2.9 may write the state of a consumer while it removes it, and then finds the folder not empty: it is gone
 * all the same. */
static void delete_consumer(struct nats_case *c, const char *stream, const char *consumer)
{
    jsErrCode code = 0;
    const natsStatus e = js_DeleteConsumer(c->js, stream, consumer, NULL, &code);

    assert_true(e == NATS_OK || code == 10051);
}

/* The durable, deleted under load: made and bound again. It starts anew, and what was handled here is not run again. */
static void test_repair_a_durable_that_is_deleted(void **state)
{
    struct nats_case *c = *state;
    char stream[256], consumer[256];
    uint64_t twice = 0;

    evbus *bus = at_work(c, stream);
    the_consumer(c, stream, consumer);
    delete_consumer(c, stream, consumer);
    const struct suite_event lost = suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    assert_int_equal(lost.status, EVBUS_NOT_FOUND);
    assert_string_equal(lost.group, "suite");
    must_reach_at_least(bus, duplicates_settled, 100); /* it bit: the new one gives everything again */
    must_handle_what_comes(c);
    must_reach(bus, held, 0);
    for (int i = 0; i < LOAD_THREADS; i++)
        for (int64_t v = 1; v <= atomic_load(&c->load.threads[i].accepted); v++)
            twice += atomic_load(&c->sink.seen[i][v]) > 1;
    assert_int_equal(twice, 0);
    the_consumer(c, stream, consumer);
    suite_close(&c->s, bus);
}

/* A member that took over: fifty messages are settled by the one before it, fifty by itself. */
static evbus *that_took_over(struct nats_case *c, char stream[256], char consumer[256])
{
    case_start(c, CASE_JETSTREAM, "");
    evbus *one = suite_open(&c->s, NULL), *two = suite_open(&c->s, NULL);
    (void)suite_sub(one, TOPIC, &c->tally, NULL);
    suite_publish_many(one, TOPIC, "a", 10, 1, 5);
    assert_true(tally_await(&c->tally, &c->tally.acked, 50));
    suite_close(&c->s, one);
    (void)suite_sub(two, TOPIC, &c->other, NULL);
    suite_publish_many(two, TOPIC, "a", 10, 6, 10);
    assert_true(tally_await(&c->other, &c->other.acked, 50));
    the_consumer(c, the_stream(c, stream), consumer);
    return two;
}

/* All of it is given to it again, and nothing run again: neither what it settled itself nor what the one before did. */
static void must_run_none_again(struct nats_case *c, evbus *two)
{
    must_reach_at_least(two, duplicates_settled, 100); /* it bit */
    suite_publish_many(two, TOPIC, "a", 10, 11, 11);
    assert_true(tally_await(&c->other, &c->other.acked, 60));
    suite_close(&c->s, two);
    assert_int_equal(c->other.started, 60);
    tally_check_order(&c->other);
}

/* The same under a member that took over: the durable begins anew, with what the member before has settled. */
static void test_repair_a_durable_that_others_had(void **state)
{
    struct nats_case *c = *state;
    char stream[256], consumer[256];

    evbus *two = that_took_over(c, stream, consumer);
    delete_consumer(c, stream, consumer);
    (void)suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    must_run_none_again(c, two);
}

/* nats-server 2.9, killed while it writes a consumer's state, finds none when it comes back. */
static void state_path(const struct nats_case *c, const char *stream, const char *consumer, char *out, size_t cap)
{
    (void)snprintf(out, cap, "%s/js/jetstream/$G/streams/%s/obs/%s/o.dat", c->server.dir, stream, consumer);
}

static bool has_state(void *arg)
{
    struct stat about;

    return stat(arg, &about) == 0 && about.st_size > 0;
}

/* It delivers all anew, to the same member. */
static void test_repair_a_consumer_whose_state_is_lost(void **state)
{
    struct nats_case *c = *state;
    char stream[256], consumer[256], path[1024];

    evbus *two = that_took_over(c, stream, consumer);
    state_path(c, stream, consumer, path, sizeof path);
    assert_true(wait_until(has_state, path, wait_patience_ms()));
    case_operator_leaves(c);
    nats_server_kill(&c->server);
    assert_int_equal(unlink(path), 0);
    assert_true(nats_server_restart(&c->server));
    (void)suite_event(&c->s, EVBUS_EVENT_DISCONNECTED, 0);
    must_run_none_again(c, two);
}

/* A durable changed into one that cannot be used: said with the field; used again once it is gone. */
static void test_repair_a_durable_that_becomes_another(void **state)
{
    struct nats_case *c = *state;
    char stream[256], consumer[256];
    jsConsumerInfo *info = NULL;
    jsConsumerConfig cfg;

    evbus *bus = at_work(c, stream);
    the_consumer(c, stream, consumer);
    delete_consumer(c, stream, consumer);
    (void)jsConsumerConfig_Init(&cfg);
    cfg.Durable = consumer;
    cfg.DeliverSubject = "somewhere.else";
    cfg.AckPolicy = js_AckExplicit;
    const natsStatus e = js_AddConsumer(&info, c->js, stream, &cfg, NULL, NULL);
    jsConsumerInfo_Destroy(info);
    (void)suite_event(&c->s, EVBUS_EVENT_CONSUMER_LOST, 0);
    if (e == NATS_OK) { /* else the bus was faster, and it is the one that deleting brings */
        const uint64_t runs = atomic_load(&c->sink.runs);
        int64_t until = wait_now_ms() + 1500;
        (void)wait_until(waited, &until, 5000);
        assert_in_range(atomic_load(&c->sink.runs), runs, runs + 2000);
        delete_consumer(c, stream, consumer);
    }
    must_handle_what_comes(c);
    suite_close(&c->s, bus);
}

/* What the server allows to change is changed back at the next bind, and said in the log; what it does not is refused. */
static void test_repair_a_durable_with_other_settings(void **state)
{
    struct nats_case *c = *state;
    char stream[256], consumer[256];
    jsConsumerInfo *info = NULL;
    evbus_sub *sub = NULL;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    sub = suite_sub(bus, TOPIC, &c->tally, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 7000));
    must(evbus_unsubscribe(sub));
    the_consumer(c, the_stream(c, stream), consumer);
    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, consumer, NULL, NULL), NATS_OK);
    jsConsumerConfig cfg = *info->Config;
    cfg.AckWait = INT64_C(60000000000);
    cfg.MaxAckPending = 3;
    jsConsumerInfo *changed = NULL;
    assert_int_equal(js_AddConsumer(&changed, c->js, stream, &cfg, NULL, NULL), NATS_OK);
    jsConsumerInfo_Destroy(changed);
    jsConsumerInfo_Destroy(info);
    (void)suite_sub(bus, TOPIC, &c->tally, EVBUS_OPTS(evbus_sub_opts, .ack_wait_ms = 7000));
    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, consumer, NULL, NULL), NATS_OK);
    assert_int_equal(info->Config->AckWait, INT64_C(7000000000));
    assert_int_equal(info->Config->MaxAckPending, 1024);
    jsConsumerInfo_Destroy(info);
    suite_publish_many(bus, TOPIC, "a", 5, 1, 2);
    assert_true(tally_await(&c->tally, &c->tally.acked, 10));
    suite_close(&c->s, bus);
    tally_check_order(&c->tally);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        CASE(test_repair_a_stream_of_ours_that_is_deleted), CASE(test_repair_a_stream_of_others_is_left_to_them),
        CASE(test_repair_ends_while_the_stream_is_gone),    CASE(test_repair_a_purged_stream),
        CASE(test_repair_says_once_what_stays_lost),        CASE(test_repair_a_durable_that_is_deleted),
        CASE(test_repair_a_durable_that_becomes_another),   CASE(test_repair_a_durable_that_others_had),
        CASE(test_repair_a_consumer_whose_state_is_lost),   CASE(test_repair_a_durable_with_other_settings),
    };

    return case_run("test_nats_repair (lost streams and durables)", tests, sizeof tests / sizeof tests[0], argc, argv);
}
