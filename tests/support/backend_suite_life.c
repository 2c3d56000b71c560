/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a bus: opening, shutting down by a deadline with a true report, closing, forking. */
#include "backend_suite_case.h"

#include "base/alloc.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static evbus_verdict acknowledge(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    return EVBUS_ACK;
}

/* After shutdown everything that would start something is refused; what only reads still answers. */
static void test_life_after_shutdown_nothing_starts(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_topic_opts opts;
    evbus_topic_statistics stats;
    evbus_receipt receipt = {.struct_size = sizeof receipt};

    must(evbus_topic_configure(bus, topic, NULL));
    suite_publish(bus, topic, "a", 1);
    must(evbus_shutdown(bus, 0, NULL));
    must_be(EVBUS_CLOSED, evbus_publish(bus, topic, "x", 1, NULL));
    must_be(EVBUS_CLOSED, evbus_publish_envelope(bus, topic, &env, NULL));
    must_be(EVBUS_CLOSED, evbus_publish_envelope_wait(bus, topic, &env, NULL, &receipt));
    assert_int_equal(receipt.outcome, 0);
    must_be(EVBUS_CLOSED, evbus_subscribe(bus, topic, acknowledge, NULL, NULL, NULL));
    must_be(EVBUS_CLOSED, evbus_subscribe_envelope(bus, topic, acknowledge, NULL, NULL, NULL));
    must_be(EVBUS_CLOSED, evbus_topic_configure(bus, topic, NULL));
    must(evbus_topic_config(bus, topic, &opts));
    must(evbus_topic_stats(bus, topic, &stats));
    assert_int_equal(suite_stats_of(bus).publishes_stored, 1);
    assert_int_equal(suite_stats_of(bus).connected, 0);
    suite_close(s, bus);
}

/* Closing without shutting down does both; NULL is fine. */
static void test_life_close_shuts_down(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    suite_forget(s, bus);
    evbus_close(bus);
    evbus_close(NULL);
}

/* Twenty buses, one after the other, each used: nothing accumulates (the census says so). */
static void test_life_twenty_buses_one_after_the_other(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");

    for (int i = 0; i < 20; i++) {
        struct tally *t = suite_tally(s);
        evbus *bus = suite_open(s, NULL);
        (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, .fanout = true));
        suite_publish(bus, topic, "a", i + 1);
        assert_true(tally_await(t, &t->acked, 1));
        suite_close(s, bus);
    }
}

/* When memory runs out while opening, opening fails and leaves nothing, whichever allocation it was. */
static void test_life_opening_survives_a_lack_of_memory(void **state)
{
    struct suite *s = *state;
    int failed = 0;

    for (int n = 1; n <= 60; n++) {
        evbus *bus = NULL;
        ev_alloc_fail_after(n);
        const evbus_status st = suite_try_open(s, false, NULL, &bus);
        ev_alloc_fail_after(0);
        assert_true(st == EVBUS_OK || st == EVBUS_NOMEM || st == EVBUS_SYSTEM);
        failed += st != EVBUS_OK;
        if (bus)
            suite_close(s, bus);
    }
    assert_true(failed > 10);
}

/* When memory runs out while subscribing or publishing, that call fails, and the next one works. */
static void test_life_using_survives_a_lack_of_memory(void **state)
{
    struct suite *s = *state;
    evbus *bus = suite_open(s, NULL);
    const evbus_envelope env = suite_envelope_of("a", 1);
    int failed = 0;

    for (int n = 1; n <= 25; n++) {
        const char *topic = suite_topic(s, "t%d", n);
        struct tally *t = suite_tally(s);
        ev_alloc_fail_after(n);
        evbus_status st = evbus_subscribe_envelope(bus, topic, tally_handle, t, NULL, NULL);
        const evbus_status published = evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL);
        ev_alloc_fail_after(0);
        assert_true(st == EVBUS_OK || st == EVBUS_NOMEM);
        assert_true(published == EVBUS_OK || published == EVBUS_NOMEM);
        failed += st != EVBUS_OK || published != EVBUS_OK;
        if (st != EVBUS_OK)
            (void)suite_sub(bus, topic, t, NULL);
        if (published != EVBUS_OK)
            suite_publish(bus, topic, "a", 1);
        assert_true(tally_await(t, &t->acked, 1));
    }
    assert_true(failed > 2);
    suite_close(s, bus);
}

/* ---- Shutdown ---------------------------------------------------------------------------------------------------- */

struct shutting {
    evbus *bus;
    uint32_t timeout_ms;
    evbus_status status[10];
    evbus_report report[10];
    atomic_int returned;
};

static void shut_down(int index, void *arg)
{
    struct shutting *x = arg;

    x->status[index] = evbus_shutdown(x->bus, x->timeout_ms, &x->report[index]);
    atomic_fetch_add(&x->returned, 1);
}

static void check_same_answer(const struct shutting *x, evbus_status want)
{
    for (int i = 0; i < 10; i++) {
        assert_int_equal(x->status[i], want);
        assert_int_equal(x->report[i].status, want);
        assert_memory_equal(&x->report[i], &x->report[0], sizeof x->report[0]);
    }
}

/* Ten concurrent shutdowns all get the same answer and the same report; so does one more, and close after them. */
static void test_life_ten_shutdowns_get_one_answer(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct shutting *x = suite_alloc(s, sizeof *x);

    x->bus = suite_open(s, NULL);
    (void)suite_sub(x->bus, topic, t, NULL);
    suite_publish_many(x->bus, topic, "a", 50, 1, 2);
    suite_threads(10, shut_down, x);
    check_same_answer(x, EVBUS_OK);
    must(evbus_shutdown(x->bus, EVBUS_NOWAIT, NULL));
    suite_close(s, x->bus);
}

/* The same when something was left: all ten hear of the handler that still runs. */
static void test_life_ten_shutdowns_all_hear_what_was_left(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    struct shutting *x = suite_alloc(s, sizeof *x);

    x->bus = suite_open(s, NULL);
    x->timeout_ms = 100;
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(x->bus, topic, t, NULL);
    suite_publish(x->bus, topic, "a", 1);
    assert_true(gate_await_inside(gate, 1));
    suite_threads(10, shut_down, x);
    check_same_answer(x, EVBUS_TIMEOUT);
    assert_int_equal(x->report[0].total.handlers_running, 1);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 1));
    must_be(EVBUS_TIMEOUT, evbus_shutdown(x->bus, 0, NULL));
    suite_forget(s, x->bus);
    evbus_close(x->bus);
}

/* A handler that blocks past the deadline does not hold up shutdown: it returns by then and says so, and the bus may be
 * closed while the handler still runs. */
static void test_life_shutdown_ends_by_its_deadline(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_report r;

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(gate_await_inside(gate, 1));
    const int64_t began = wait_now_ms();
    must_be(EVBUS_TIMEOUT, evbus_shutdown(bus, 300, &r));
    const int64_t took = wait_now_ms() - began;
    assert_in_range(took, 295, 300 + wait_patience_ms() / 10);
    assert_int_equal(r.struct_size, sizeof r);
    assert_int_equal(r.status, EVBUS_TIMEOUT);
    assert_true(r.elapsed_ms >= 300 && r.elapsed_ms <= took);
    assert_int_equal(r.total.handlers_running, 1);
    assert_int_equal(r.topics, 1);
    assert_string_equal(r.topic[0].topic, topic);
    assert_int_equal(r.topic[0].handlers_running, 1);
    suite_forget(s, bus);
    evbus_close(bus);
    assert_int_equal(tally_read(t, &t->ended), 0);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 1));
}

/* EVBUS_NOWAIT: what is done is done, and the rest is reported. */
static void test_life_shutdown_without_waiting(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_report r;

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(gate_await_inside(gate, 1));
    const int64_t began = wait_now_ms();
    must_be(EVBUS_TIMEOUT, evbus_shutdown(bus, EVBUS_NOWAIT, &r));
    assert_true(wait_now_ms() - began < wait_patience_ms() / 10);
    assert_int_equal(r.total.handlers_running, 1);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 1));
    suite_forget(s, bus);
    evbus_close(bus);
}

static evbus_verdict keep_and_defer(const evbus_msg *msg, void *arg)
{
    atomic_store((const evbus_msg *_Atomic *)arg, msg);
    return EVBUS_DEFER;
}

/* A deferred message that nobody settles is left behind as running, and may still be settled until the bus is closed. */
static void test_life_shutdown_reports_what_is_deferred(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    const evbus_msg *_Atomic *kept = suite_alloc(s, sizeof *kept);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_report r;

    t->decide = keep_and_defer;
    t->arg = (void *)kept;
    (void)suite_sub(bus, topic, t, NULL);
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->deferred, 1));
    must_be(EVBUS_TIMEOUT, evbus_shutdown(bus, 50, &r));
    assert_int_equal(r.total.handlers_running, 1);
    must(evbus_msg_settle(atomic_load(kept), EVBUS_ACK));
    suite_forget(s, bus);
    evbus_close(bus);
}

/* ---- Handing back ------------------------------------------------------------------------------------------------ */

static bool shuts_down(void *arg)
{
    return evbus_publish(arg, "x", "", 0, NULL) == EVBUS_CLOSED;
}

static void shut_down_thread(void *arg)
{
    shut_down(0, arg);
}

/* Shutdown lets the running handlers end, hands back what was not started, counts it per topic, and another member of
 * the group handles that: nothing is lost and nothing runs twice. */
static void test_life_shutdown_hands_back_what_was_not_started(void **state)
{
    struct suite *s = *state;
    const char *one = suite_topic(s, "one"), *two = suite_topic(s, "two");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s), *rest = suite_tally(s);
    struct shutting *x = suite_alloc(s, sizeof *x);
    evbus *publisher = suite_open_shared(s, NULL);

    x->bus = suite_open_shared(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub(x->bus, one, t, NULL);
    (void)suite_sub(x->bus, two, t, NULL);
    suite_publish_many(publisher, one, "a", 6, 1, 5);
    suite_publish_many(publisher, two, "b", 2, 1, 5);
    must_reach(x->bus, held, 40);
    assert_true(gate_await_inside(gate, 1));
    struct suite_background *ending = suite_background(s, shut_down_thread, x, NULL);
    assert_true(wait_until(shuts_down, x->bus, wait_patience_ms()));
    suite_turn(x->bus);
    gate_open(gate);
    suite_background_join(ending);
    must(x->status[0]);
    const evbus_report *r = &x->report[0];
    const size_t handled = t->acked; /* 1, or a few more when the gate opened before the loop had heard of the end */
    assert_int_equal(t->started, handled);
    assert_int_equal(r->total.handed_back, 40 - handled);
    assert_int_equal(r->total.handlers_running, 0);
    assert_int_equal(r->total.unsettled, 0);
    assert_int_equal(r->topics, 2);
    assert_int_equal(r->topic[0].handed_back + r->topic[1].handed_back, r->total.handed_back);
    suite_close(s, x->bus);

    evbus *next = suite_open_shared(s, NULL);
    (void)suite_sub(next, one, rest, NULL);
    (void)suite_sub(next, two, rest, NULL);
    assert_true(tally_await(rest, &rest->acked, 40 - handled));
    suite_close(s, next);
    suite_close(s, publisher);
    assert_int_equal(rest->started, 40 - handled);
    tally_check_order(t);
    tally_check_order(rest);
}

/* Plain messages cannot be handed back, so shutdown lets what was pulled be handled; without time they are dropped and
 * counted. */
static void test_life_shutdown_handles_pulled_plain_messages(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "plain");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    struct shutting *x = suite_alloc(s, sizeof *x);

    x->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));
    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub_plain(x->bus, topic, t, NULL);
    for (int i = 0; i < 20; i++)
        suite_publish_plain(x->bus, topic, "x");
    must_reach(x->bus, held, 20);
    struct suite_background *ending = suite_background(s, shut_down_thread, x, NULL);
    assert_true(wait_until(shuts_down, x->bus, wait_patience_ms()));
    gate_open(gate);
    suite_background_join(ending);
    must(x->status[0]);
    assert_int_equal(t->acked, 20);
    assert_int_equal(x->report[0].total.plain_dropped, 0);
    suite_close(s, x->bus);
}

/* Without time, pulled plain messages are dropped, and counted. */
static void test_life_shutdown_without_time_counts_dropped_plain_messages(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "plain");
    struct gate *gate = suite_gate(s);
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));
    evbus_report r;

    t->decide = suite_at_gate;
    t->arg = gate;
    (void)suite_sub_plain(bus, topic, t, NULL);
    for (int i = 0; i < 20; i++)
        suite_publish_plain(bus, topic, "x");
    must_reach(bus, held, 20);
    assert_true(gate_await_inside(gate, 1));
    must_be(EVBUS_TIMEOUT, evbus_shutdown(bus, EVBUS_NOWAIT, &r));
    assert_int_equal(r.total.handlers_running, 1);
    assert_int_equal(r.total.plain_dropped, 19);
    assert_int_equal(suite_stats_of(bus).plain_dropped, 19);
    gate_open(gate);
    assert_true(tally_await(t, &t->acked, 1));
    suite_forget(s, bus);
    evbus_close(bus);
    assert_int_equal(t->started, 1);
}

struct race {
    evbus *bus;
    const char *topic;
    atomic_uint accepted;
};

static void publish_until_closed(int index, void *arg)
{
    struct race *r = arg;
    evbus_status st;

    if (index == 0) {
        while (atomic_load(&r->accepted) < 500)
            (void)poll(NULL, 0, 1);
        evbus_report report;
        thread_must(evbus_shutdown(r->bus, 0, &report) == EVBUS_OK);
        thread_must(report.total.publishes_refused == 0);
        thread_must(report.total.publishes_unknown == 0);
        thread_must(report.total.unsettled == 0);
        return;
    }
    for (int version = 1;; version++) {
        const evbus_envelope env = suite_envelope_of("a", version);
        st = index % 2 ? evbus_publish_envelope(r->bus, r->topic, &env, NULL)
                       : evbus_publish_envelope_wait(r->bus, r->topic, &env, NULL, NULL);
        if (st != EVBUS_OK)
            break;
        atomic_fetch_add(&r->accepted, 1);
    }
    thread_must(st == EVBUS_CLOSED);
}

/* Publishers race a shutdown: every publish that was accepted has exactly one outcome, everybody else hears CLOSED. */
static void test_life_publishers_race_a_shutdown(void **state)
{
    struct suite *s = *state;

    for (int round = 0; round < 5; round++) {
        struct race *r = suite_alloc(s, sizeof *r);
        r->bus = suite_open(s, NULL);
        r->topic = suite_topic(s, "orders%d", round);
        suite_threads(5, publish_until_closed, r);
        const evbus_statistics stats = suite_stats_of(r->bus);
        assert_int_equal(stats.publishes_accepted, atomic_load(&r->accepted));
        assert_int_equal(stats.publishes_stored, stats.publishes_accepted);
        assert_int_equal(stats.publishes_inflight, 0);
        assert_int_equal(stats.publish_bytes, 0);
        suite_close(s, r->bus);
    }
    assert_int_equal(suite_receipt_count(s), 0);
}

/* ---- Inside callbacks -------------------------------------------------------------------------------------------- */

struct inside {
    evbus *bus;
    const char *topic;
    struct tally *other;
    atomic_int shutdown_status, event_status, publish_status, subscribe_status, stats_status, close_refused;
};

static evbus_verdict call_everything(const evbus_msg *msg, void *arg)
{
    struct inside *in = arg;
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_statistics stats;

    (void)msg;
    atomic_store(&in->shutdown_status, evbus_shutdown(in->bus, 0, NULL));
    evbus_close(in->bus);
    atomic_store(&in->close_refused, strstr(evbus_error_detail(), "handler") != NULL);
    atomic_store(&in->subscribe_status,
                 evbus_subscribe_envelope(in->bus, in->topic, tally_handle, in->other, NULL, NULL));
    atomic_store(&in->publish_status, evbus_publish_envelope_wait(in->bus, in->topic, &env, NULL, NULL));
    atomic_store(&in->stats_status, evbus_stats(in->bus, &stats));
    return EVBUS_ACK;
}

static void shut_down_in_event(const evbus_event *event, void *arg)
{
    struct inside *in = arg;

    if (event->kind == EVBUS_EVENT_STREAM_CREATED)
        atomic_store(&in->event_status, evbus_shutdown(in->bus, 0, NULL));
}

static bool event_came(void *arg)
{
    return atomic_load(&((struct inside *)arg)->event_status) != -1;
}

/* A handler may call everything, publish and subscribe included, but not shut down or close its bus: that would wait
 * for itself, is refused, and changes nothing. The same in other callbacks. */
static void test_life_a_handler_may_not_end_its_bus(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct inside *in = suite_alloc(s, sizeof *in);

    *in = (struct inside){.topic = suite_topic(s, "other"), .other = suite_tally(s), .event_status = -1};
    in->bus = suite_open(s, EVBUS_OPTS(evbus_opts, .on_event = shut_down_in_event, .on_event_ctx = in));
    t->decide = call_everything;
    t->arg = in;
    (void)suite_sub(in->bus, topic, t, NULL);
    suite_publish(in->bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    assert_int_equal(atomic_load(&in->shutdown_status), EVBUS_INVALID);
    assert_true(atomic_load(&in->close_refused));
    assert_int_equal(atomic_load(&in->subscribe_status), EVBUS_OK);
    assert_int_equal(atomic_load(&in->publish_status), EVBUS_OK);
    assert_int_equal(atomic_load(&in->stats_status), EVBUS_OK);
    assert_true(wait_until(event_came, in, wait_patience_ms()));
    assert_int_equal(atomic_load(&in->event_status), EVBUS_INVALID);
    assert_true(tally_await(in->other, &in->other->acked, 1));
    suite_publish_plain(in->bus, suite_topic(s, "third"), "still works");
    suite_close(s, in->bus);
}

/* ---- Fork -------------------------------------------------------------------------------------------------------- */

/* In the child: every call on the parent's bus must say EVBUS_FORKED. Returns the number of the first that did not. */
static int call_all_in_child(evbus *bus, evbus_sub *sub, const evbus_msg *msg, const char *topic)
{
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus_topic_opts opts;
    evbus_statistics stats;
    evbus_topic_statistics topic_stats;
    evbus_receipt receipt;
    evbus_status each;
    size_t n;
    int fd;

    evbus_receipt_init(&receipt);
    const evbus_status got[] = {
        evbus_publish(bus, topic, "x", 1, NULL),
        evbus_publish_envelope(bus, topic, &env, NULL),
        evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL),
        evbus_subscribe(bus, topic, acknowledge, NULL, NULL, NULL),
        evbus_subscribe_envelope(bus, topic, acknowledge, NULL, NULL, NULL),
        evbus_unsubscribe(sub),
        evbus_msg_settle(msg, EVBUS_ACK),
        evbus_topic_configure(bus, topic, NULL),
        evbus_topic_config(bus, topic, &opts),
        evbus_stats(bus, &stats),
        evbus_topic_stats(bus, topic, &topic_stats),
        evbus_publish_envelopes(bus, topic, &env, 1, NULL, &each, &n),
        evbus_receipts_take(bus, 0, &receipt, 1, EVBUS_FOREVER, &n),
        evbus_receipts_fd(bus, 0, &fd),
        evbus_tenant_register(bus, 1, NULL),
        evbus_tenant_unregister(bus, 1),
        evbus_tenant_list(bus, NULL, 0, &n),
        evbus_shutdown(bus, EVBUS_NOWAIT, NULL),
    };

    for (size_t i = 0; i < sizeof got / sizeof got[0]; i++)
        if (got[i] != EVBUS_FORKED)
            return (int)i + 1;
    evbus_close(bus); /* nothing of the parent's is ended */
    return 0;
}

static int open_in_child(const char *url)
{
    const evbus_envelope env = suite_envelope_of("a", 1);
    evbus *bus = NULL;

    if (evbus_open(url, EVBUS_OPTS(evbus_opts, .name = "child"), &bus) != EVBUS_OK)
        return 101;
    if (evbus_publish_envelope_wait(bus, "child", &env, NULL, NULL) != EVBUS_OK)
        return 102;
    evbus_close(bus);
    return 0;
}

struct child {
    pid_t pid;
    int status;
};

static bool child_ended(void *arg)
{
    struct child *c = arg;

    return waitpid(c->pid, &c->status, WNOHANG) == c->pid;
}

static int wait_for_child(pid_t pid)
{
    struct child c = {.pid = pid};

    if (wait_until(child_ended, &c, wait_patience_ms()))
        return WIFEXITED(c.status) ? WEXITSTATUS(c.status) : -WTERMSIG(c.status);
    kill(pid, SIGKILL);
    (void)waitpid(pid, &c.status, 0);
    return -1;
}

/* After fork() the child gets EVBUS_FORKED from every call; the parent's bus does not notice. */
static void test_life_child_of_a_fork_may_not_use_the_bus(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders"), *deferred = suite_topic(s, "deferred");
    const evbus_msg *_Atomic *kept = suite_alloc(s, sizeof *kept);
    struct tally *t = suite_tally(s), *d = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    d->decide = keep_and_defer;
    d->arg = (void *)kept;
    evbus_sub *sub = suite_sub(bus, topic, t, NULL);
    (void)suite_sub(bus, deferred, d, NULL);
    suite_publish(bus, deferred, "a", 1);
    assert_true(tally_await(d, &d->deferred, 1));
    const pid_t pid = fork();
    if (pid == 0)
        _exit(call_all_in_child(bus, sub, atomic_load(kept), topic));
    assert_int_equal(wait_for_child(pid), 0);
    must(tally_settle(d, atomic_load(kept), EVBUS_ACK));
    suite_publish(bus, topic, "a", 1);
    assert_true(tally_await(t, &t->acked, 1));
    suite_close(s, bus);
}

/* The child may open a bus of its own, where the client library survives a fork. Not under ThreadSanitizer, which lets
 * no child of a threaded process start threads; nor under gcc 12's AddressSanitizer, whose allocator's locks stay held in the
 * child when another thread was allocating. */
static void test_life_child_of_a_fork_opens_its_own_bus(void **state)
{
    struct suite *s = *state;
    const char *sanitizer = getenv("EVBUS_SANITIZE");
    char url[256];

    if (!s->backend->opens_after_fork || (sanitizer && *sanitizer))
        return;
    evbus *bus = suite_open(s, NULL);
    suite_publish_plain(bus, suite_topic(s, "orders"), "parent");
    s->backend->url(url, sizeof url, "");
    const pid_t pid = fork();
    if (pid == 0)
        _exit(open_in_child(url));
    assert_int_equal(wait_for_child(pid), 0);
    suite_publish_plain(bus, suite_topic(s, "orders"), "parent");
    suite_close(s, bus);
}

const struct suite_case suite_life_cases[] = {
    SUITE_CASE(test_life_after_shutdown_nothing_starts),
    SUITE_CASE(test_life_close_shuts_down),
    SUITE_CASE(test_life_twenty_buses_one_after_the_other),
    SUITE_CASE(test_life_opening_survives_a_lack_of_memory),
    SUITE_CASE(test_life_using_survives_a_lack_of_memory),
    SUITE_CASE(test_life_ten_shutdowns_get_one_answer),
    SUITE_CASE(test_life_ten_shutdowns_all_hear_what_was_left),
    SUITE_CASE(test_life_shutdown_ends_by_its_deadline),
    SUITE_CASE(test_life_shutdown_without_waiting),
    SUITE_CASE(test_life_shutdown_reports_what_is_deferred),
    SUITE_CASE(test_life_shutdown_hands_back_what_was_not_started),
    SUITE_CASE(test_life_shutdown_handles_pulled_plain_messages),
    SUITE_CASE(test_life_shutdown_without_time_counts_dropped_plain_messages),
    SUITE_CASE(test_life_publishers_race_a_shutdown),
    SUITE_CASE(test_life_a_handler_may_not_end_its_bus),
    SUITE_CASE(test_life_child_of_a_fork_may_not_use_the_bus),
    SUITE_CASE(test_life_child_of_a_fork_opens_its_own_bus),
    {NULL, NULL, false},
};
