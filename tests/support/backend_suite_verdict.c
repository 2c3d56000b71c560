/* SPDX-License-Identifier: Apache-2.0 */
/* Verdicts given later, and handlers that take too long. */
#include "backend_suite_case.h"

#define QUICK .retry_min_ms = 2, .retry_max_ms = 20

/* Settles on its first run before it returns; the verdict it returns is not asked for then. */
struct early {
    struct tally *tally;
    evbus_verdict verdict, returned;
    atomic_int first, second; /* statuses of the two calls */
};

static evbus_verdict settle_early(const evbus_msg *msg, void *arg)
{
    struct early *e = arg;

    if (evbus_msg_attempt(msg) > 1 || evbus_msg_envelope(msg)->event_version > 1)
        return EVBUS_ACK;
    atomic_store(&e->first, tally_settle(e->tally, msg, e->verdict));
    atomic_store(&e->second, evbus_msg_settle(msg, EVBUS_ACK));
    return EVBUS_DEFER;
}

static struct early *run_early(struct suite *s, evbus_verdict verdict, size_t runs)
{
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct early *e = suite_alloc(s, sizeof *e);
    evbus *bus = suite_open(s, NULL);

    *e = (struct early){.tally = t, .verdict = verdict};
    t->decide = settle_early;
    t->arg = e;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(tally_await(t, &t->ended, runs));
    suite_close(s, bus);
    assert_int_equal(t->started, runs);
    tally_check_order(t);
    return e;
}

/* A message may be settled before its handler returns; settling it twice is refused. */
static void test_verdict_settled_before_the_return(void **state)
{
    const struct early *e = run_early(*state, EVBUS_ACK, 2);

    assert_int_equal(atomic_load(&e->first), EVBUS_OK);
    assert_int_equal(atomic_load(&e->second), EVBUS_INVALID);
}

/* The same with a retry: it runs again, and only then the next version. */
static void test_verdict_settled_as_retry_before_the_return(void **state)
{
    const struct early *e = run_early(*state, EVBUS_RETRY, 3);

    assert_int_equal(atomic_load(&e->first), EVBUS_OK);
    assert_int_equal(atomic_load(&e->second), EVBUS_INVALID);
}

/* Keeps what was deferred for the case's thread. */
struct kept {
    const evbus_msg *_Atomic msg;
};

static evbus_verdict keep_first_run(const evbus_msg *msg, void *arg)
{
    struct kept *k = arg;

    if (evbus_msg_attempt(msg) > 1 || evbus_msg_envelope(msg)->event_version > 1)
        return EVBUS_ACK;
    atomic_store(&k->msg, msg);
    return EVBUS_DEFER;
}

static struct kept *defer_first(struct suite *s, evbus *bus, const char *topic, struct tally *t,
                                const evbus_sub_opts *o)
{
    struct kept *k = suite_alloc(s, sizeof *k);

    t->decide = keep_first_run;
    t->arg = k;
    (void)suite_sub(bus, topic, t, o);
    suite_publish_many(bus, topic, "a", 1, 1, 3);
    assert_true(tally_await(t, &t->deferred, 1));
    return k;
}

/* A deferred message is settled later by another thread; until then it can be read and the rest of its aggregate waits,
 * while other aggregates run. */
static void test_verdict_settled_later_by_another_thread(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct kept *k = defer_first(s, bus, topic, t, NULL);

    suite_publish_many(bus, topic, "b", 1, 2, 4);
    assert_true(tally_await(t, &t->acked, 3));
    assert_int_equal(tally_runs(t, "a0", 2), 0);
    must_reach(bus, handlers_running, 1); /* it counts as running until it is settled */
    const evbus_msg *msg = atomic_load(&k->msg);
    assert_string_equal(evbus_msg_envelope(msg)->aggregate_id, "a0");
    assert_string_equal(evbus_msg_topic(msg), topic);
    assert_true(evbus_msg_data(msg).len > 0);
    must_be(EVBUS_INVALID, evbus_msg_settle(msg, EVBUS_DEFER));
    must_be(EVBUS_INVALID, evbus_msg_settle(msg, (evbus_verdict)17));
    must_be(EVBUS_INVALID, evbus_msg_settle(NULL, EVBUS_ACK));
    must(tally_settle(t, msg, EVBUS_ACK));
    assert_true(tally_await(t, &t->acked, 6));
    suite_close(s, bus);
    assert_int_equal(t->started, 6);
    tally_check_order(t);
}

/* A deferred message settled as retry runs again, after the pause that was asked for. */
static void test_verdict_retry_settled_later_waits_as_asked(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct kept *k = defer_first(s, bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    const evbus_msg *msg = atomic_load(&k->msg);

    evbus_msg_retry_after(msg, 600);
    const int64_t settled = suite_now_ns(s);
    must(tally_settle(t, msg, EVBUS_RETRY));
    assert_true(suite_pass_until_count(s, t, &t->acked, 3, 20000));
    suite_close(s, bus);
    const struct tally_entry *again = tally_run(t, "a0", 1, 1);
    assert_non_null(again);
    assert_int_equal(again->attempt, 2);
    assert_true(again->at_ns - settled >= 600000000);
    tally_check_order(t);
    tally_check_complete(t, 1, 3);
}

/* A deferred message settled as reject goes to the dead-letter topic with its reason; then the next version runs. */
static void test_verdict_reject_settled_later(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);
    struct kept *k = defer_first(s, bus, topic, t, NULL);
    const evbus_msg *msg = atomic_load(&k->msg);

    evbus_msg_set_reason(msg, "thought about it");
    must(tally_settle(t, msg, EVBUS_REJECT));
    assert_true(tally_await(t, &t->acked, 2));
    assert_true(tally_await(letters, &letters->acked, 1));
    suite_close(s, bus);
    assert_non_null(strstr(tally_header(letters, tally_at(letters, 0), "Evbus-Detail"), "thought about it"));
    assert_int_equal(tally_runs(t, "a0", 1), 1);
}

struct deferrer {
    struct suite_settler *settler;
};

static evbus_verdict defer_all(const evbus_msg *msg, void *arg)
{
    suite_settler_give(((struct deferrer *)arg)->settler, msg,
                       evbus_msg_attempt(msg) == 1 && evbus_msg_sequence(msg) % 3 == 0 ? EVBUS_RETRY : EVBUS_ACK);
    return EVBUS_DEFER;
}

/* Hundreds of deferred messages, each settled while or after its handler returns: none is lost, order holds. */
static void test_verdict_of_many_deferred_messages(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct deferrer *d = suite_alloc(s, sizeof *d);
    evbus *bus = suite_open(s, NULL);

    d->settler = suite_settler_start(s, t);
    t->decide = defer_all;
    t->arg = d;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, QUICK));
    suite_publish_many(bus, topic, "a", 40, 1, 15);
    assert_true(tally_await(t, &t->acked, 600));
    must_reach(bus, handled, 600);
    suite_settler_stop(d->settler); /* no call may run while the bus is closed */
    suite_close(s, bus);
    tally_check_order(t);
    tally_check_complete(t, 40, 15);
}

static evbus_verdict settle_plain(const evbus_msg *msg, void *arg)
{
    const evbus_view body = evbus_msg_data(msg);

    suite_settler_give(((struct deferrer *)arg)->settler, msg,
                       *(const char *)body.data == 'r' ? EVBUS_RETRY : EVBUS_ACK);
    return EVBUS_DEFER;
}

/* Plain messages may be deferred too; their verdict is counted and nothing else. */
static void test_verdict_of_deferred_plain_messages_only_counts(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "plain");
    struct tally *t = suite_tally(s);
    struct deferrer *d = suite_alloc(s, sizeof *d);
    evbus *bus = suite_open(s, NULL);

    d->settler = suite_settler_start(s, t);
    t->decide = settle_plain;
    t->arg = d;
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 10; i++)
        suite_publish_plain(bus, topic, i % 2 ? "r" : "a");
    assert_true(tally_await(t, &t->ended, 10));
    must_reach(bus, handler_runs, 10);
    assert_int_equal(suite_stats_of(bus).handled, 5);
    assert_int_equal(suite_stats_of(bus).retried, 5);
    suite_settler_stop(d->settler);
    suite_close(s, bus);
    assert_int_equal(t->started, 10);
}

/* ---- Overdue handlers -------------------------------------------------------------------------------------------- */

static evbus_verdict version_one_at_gate(const evbus_msg *msg, void *gate)
{
    if (evbus_msg_envelope(msg)->event_version == 1)
        gate_pass(gate);
    return EVBUS_ACK;
}

static bool is_overdue(void *arg)
{
    evbus_statistics stats;

    return evbus_stats(arg, &stats) == EVBUS_OK && stats.handlers_overdue > 0;
}

/* A handler that takes longer than handler_timeout_ms is reported; by default its lease is kept and its verdict counts. */
static void test_verdict_of_an_overdue_handler_is_waited_for(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    t->decide = version_one_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .group = "g", .handler_timeout_ms = 500));
    suite_publish_many(bus, topic, "a", 1, 1, 2);
    assert_true(gate_await_inside(gate, 1));
    assert_true(suite_pass_until(s, is_overdue, bus, 20000));
    const struct suite_event event = suite_event(s, EVBUS_EVENT_HANDLER_OVERDUE, 0);
    assert_string_equal(event.topic, topic);
    assert_string_equal(event.group, "g");
    assert_string_equal(event.aggregate_id, "a0");
    assert_int_equal(tally_read(t, &t->started), 1);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 2));
    must_reach(bus, handled, 2);
    assert_int_equal(suite_stats_of(bus).handlers_overdue, 1);
    assert_int_equal(suite_stats_of(bus).dead_lettered, 0);
    suite_close(s, bus);
    assert_int_equal(t->started, 2);
}

/* With on_overdue = DEAD_LETTER the message is dead-lettered and its aggregate goes on; the late verdict is ignored. */
static void test_verdict_of_an_abandoned_handler_is_ignored(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    struct tally *letters = suite_letters(s, bus, topic);

    t->decide = version_one_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t,
                    EVBUS_OPTS(evbus_sub_opts, .handler_timeout_ms = 500, .on_overdue = EVBUS_OVERDUE_DEAD_LETTER));
    suite_publish_many(bus, topic, "a", 1, 1, 3);
    assert_true(gate_await_inside(gate, 1));
    assert_true(suite_pass_until(s, is_overdue, bus, 20000));
    assert_true(tally_await(t, &t->acked, 2));
    assert_true(tally_await(letters, &letters->acked, 1));
    assert_string_equal(tally_header(letters, tally_at(letters, 0), "Evbus-Aggregate"), "a0");
    must_reach(bus, handled, 2 + 1); /* and the letter's own handler */
    gate_open(gate);
    assert_true(tally_await(t, &t->ended, 3));
    must_reach(bus, held, 0);
    assert_int_equal(suite_stats_of(bus).handled, 2 + 1);
    suite_close(s, bus);
    assert_int_equal(t->started, 3);
    assert_int_equal(letters->started, 1);
}

const struct suite_case suite_verdict_cases[] = {
    SUITE_CASE(test_verdict_settled_before_the_return),
    SUITE_CASE(test_verdict_settled_as_retry_before_the_return),
    SUITE_CASE(test_verdict_settled_later_by_another_thread),
    SUITE_TIMED(test_verdict_retry_settled_later_waits_as_asked),
    SUITE_CASE(test_verdict_reject_settled_later),
    SUITE_CASE(test_verdict_of_many_deferred_messages),
    SUITE_CASE(test_verdict_of_deferred_plain_messages_only_counts),
    SUITE_TIMED(test_verdict_of_an_overdue_handler_is_waited_for),
    SUITE_TIMED(test_verdict_of_an_abandoned_handler_is_ignored),
    {NULL, NULL, false},
};
