/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frontier acks beside another client, one that takes from the durable without a lease and never acknowledges: an ack
 * settles all below it, so none may go past what that client has. And behind a link that ended, whose pulls and acks come
 * late: nats-server 2.9 may then count its position back below its ack floor. And what is here while it is bound again, and a
 * list by a replica that has not caught up.
 */
#include "backend/nats_consume.h"
#include "core/bus.h"
#include "core/names.h"
#include "core/sub.h"
#include "support/nats_case.h"

#include <inttypes.h>

#define TOPIC "frontier.orders"
#define ACK_WAIT_MS 2000

static const evbus_sub_opts frontier = {
    .struct_size = sizeof frontier, .ack_mode = EVBUS_ACK_FRONTIER, .ack_wait_ms = ACK_WAIT_MS};

static void names(char stream[EV_NAME_MAX], char durable[EV_NAME_MAX])
{
    ev_stream_name(stream, TOPIC);
    (void)ev_durable_name(durable, "suite", TOPIC);
}

/* Asks for `batch` messages, as a client that knows of no lease. */
static natsSubscription *other_pulls(struct nats_case *c, int batch)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX], subject[3 * EV_NAME_MAX], body[64];
    natsSubscription *sub = NULL;
    natsInbox *inbox = NULL;

    names(stream, durable);
    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", stream, durable);
    const int len = snprintf(body, sizeof body, "{\"batch\":%d,\"expires\":60000000000}", batch);
    assert_int_equal(natsInbox_Create(&inbox), NATS_OK);
    assert_int_equal(natsConnection_SubscribeSync(&sub, c->nc, inbox), NATS_OK);
    assert_int_equal(natsConnection_PublishRequest(c->nc, subject, inbox, body, len), NATS_OK);
    assert_int_equal(natsConnection_Flush(c->nc), NATS_OK);
    natsInbox_Destroy(inbox);
    return sub;
}

/* Takes what comes, at most `most`, and goes without a word. */
static int other_takes(natsSubscription *sub, int most)
{
    natsMsg *msg = NULL;
    int taken = 0;

    while (taken < most && natsSubscription_NextMsg(&msg, sub, taken ? 500 : wait_patience_ms()) == NATS_OK) {
        natsMsg_Destroy(msg);
        taken++;
    }
    natsSubscription_Destroy(sub);
    return taken;
}

static void await_settled(struct nats_case *c)
{
    const int64_t end = wait_now_ms() + wait_patience_ms();
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX];
    bool met = false;

    names(stream, durable);
    while (!met && wait_now_ms() < end) {
        jsConsumerInfo *info = NULL;
        assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, durable, NULL, NULL), NATS_OK);
        met = info->NumPending == 0 && info->NumAckPending == 0;
        jsConsumerInfo_Destroy(info);
    }
    assert_true(met);
}

/* It takes from the middle of what is delivered: that comes here after its ack wait, and was not settled meanwhile. */
static void test_frontier_goes_past_nothing_another_client_took(void **state)
{
    enum { AGGREGATES = 10, FIRST = 20, LAST = 60 };
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    (void)suite_sub(bus, TOPIC, &c->tally, &frontier);
    suite_publish_many(bus, TOPIC, "a", AGGREGATES, 1, FIRST);
    assert_true(tally_await(&c->tally, &c->tally.acked, AGGREGATES * FIRST));
    natsSubscription *other = other_pulls(c, 50);
    suite_publish_many(bus, TOPIC, "a", AGGREGATES, FIRST + 1, LAST);
    const int taken = other_takes(other, 50);
    print_message("another client took %d messages\n", taken);
    assert_true(taken > 0); /* it bit */
    suite_publish_many(bus, TOPIC, "b", 1, 1, 50);
    assert_true(tally_await(&c->tally, &c->tally.acked, AGGREGATES * LAST + 50));
    await_settled(c);
    assert_int_equal(c->tally.acked, AGGREGATES * LAST + 50);
}

/* ---- Below the ack floor ----------------------------------------------------------------------------------------- */

static jsConsumerInfo *asked(struct nats_case *c)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX];
    jsConsumerInfo *info = NULL;

    names(stream, durable);
    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, durable, NULL, NULL), NATS_OK);
    return info;
}

/* The consumer's position: what it delivers next is above. */
static uint64_t position(struct nats_case *c)
{
    jsConsumerInfo *info = asked(c);
    const uint64_t at = info->Delivered.Stream;

    jsConsumerInfo_Destroy(info);
    return at;
}

/* A pull that nobody listens to. The question drops those; so another one each time, until one has met the redelivery. */
static bool counts_back(void *arg)
{
    struct nats_case *c = arg;
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX], pull[3 * EV_NAME_MAX];

    names(stream, durable);
    (void)snprintf(pull, sizeof pull, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", stream, durable);
    assert_int_equal(natsConnection_PublishRequest(c->nc, pull, "nobody.listens", "1", 1), NATS_OK);
    assert_int_equal(natsConnection_Flush(c->nc), NATS_OK);
    return position(c) < 7;
}

/* Answered when it was worked off. */
static void old_link_says(struct nats_case *c, natsMsg *msg, const char *verdict)
{
    natsMsg *answer = NULL;

    assert_int_equal(natsConnection_RequestString(&answer, c->nc, natsMsg_GetReply(msg), verdict, wait_patience_ms()),
                     NATS_OK);
    natsMsg_Destroy(answer);
}

/*
 * Five messages are handled and acknowledged. A link takes the sixth and the seventh, and ends. What it had on its way
 * comes late: a pull that nobody listens to, which meets a redelivery, and the ack of both. False: this server does
 * not count back.
 */
static bool old_link_comes_late(struct nats_case *c)
{
    natsMsg *six = NULL, *seven = NULL;

    natsSubscription *old = other_pulls(c, 2);
    assert_int_equal(natsSubscription_NextMsg(&six, old, wait_patience_ms()), NATS_OK);
    assert_int_equal(natsSubscription_NextMsg(&seven, old, wait_patience_ms()), NATS_OK);
    natsSubscription_Destroy(old);
    assert_int_equal(position(c), 7);
    old_link_says(c, six, "-NAK");
    const bool back = wait_until(counts_back, c, 2000);
    old_link_says(c, seven, "+ACK");
    natsMsg_Destroy(six);
    natsMsg_Destroy(seven);
    return back;
}

/* It came again after its ack wait, or the server let go of it by itself, as later ones do. */
static bool came_again(void *arg)
{
    struct nats_case *c = arg;
    jsConsumerInfo *info = asked(c);
    const bool again = info->NumRedelivered > 0 || info->NumAckPending == 0;

    jsConsumerInfo_Destroy(info);
    return again;
}

struct floor {
    struct nats_case *c;
    uint64_t seq;
};

static bool floor_is_at(void *arg)
{
    const struct floor *f = arg;
    jsConsumerInfo *info = asked(f->c);
    const bool all = info->NumPending == 0 && info->AckFloor.Stream == f->seq;

    jsConsumerInfo_Destroy(info);
    return all;
}

static void must_settle_to(struct nats_case *c, uint64_t seq)
{
    struct floor f = {c, seq};

    assert_true(wait_until(floor_is_at, &f, wait_patience_ms()));
}

struct count {
    struct ev_command command;
    uint64_t told;
    atomic_bool done;
};

static void count_told(evbus *bus, struct ev_command *command)
{
    struct count *n = (struct count *)command;

    n->told = ((const struct ev_nats *)bus->state)->consume->gaps_told;
    atomic_store(&n->done, true);
}

static bool is_counted(void *arg)
{
    return atomic_load(&((struct count *)arg)->done);
}

/* How many messages this bus's gap rule asked for again. */
static uint64_t asked_again(evbus *bus)
{
    struct count n = {.command.run = count_told};

    ev_loop_post(bus, &n.command);
    assert_true(wait_until(is_counted, &n, wait_patience_ms()));
    return n.told;
}

/* Handles 1 to `n`, and is gone when all of it is settled. */
static void member_before(struct nats_case *c, const evbus_sub_opts *o, int64_t n)
{
    evbus *bus = suite_open(&c->s, NULL);

    (void)suite_sub(bus, TOPIC, &c->tally, o);
    suite_publish_many(bus, TOPIC, "a", 1, 1, n);
    assert_true(tally_await(&c->tally, &c->tally.acked, (uint32_t)n));
    await_settled(c);
    suite_close(&c->s, bus);
}

static void test_frontier_what_lies_below_the_ack_floor_is_settled(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    member_before(c, &frontier, 5);
    evbus *bus = suite_open(&c->s, NULL);
    suite_publish_many(bus, TOPIC, "a", 1, 6, 7);
    must_reach(bus, publishes_inflight, 0);
    if (!old_link_comes_late(c)) {
        print_message("this server does not count back\n");
        skip();
    }
    assert_int_equal(position(c), 6); /* it bit: the floor is above */
    (void)suite_sub(bus, TOPIC, &c->tally, &frontier);
    suite_publish_many(bus, TOPIC, "a", 1, 8, 8);
    assert_true(tally_await(&c->tally, &c->tally.acked, 6));
    assert_true(wait_until(came_again, c, ACK_WAIT_MS + wait_patience_ms()));
    suite_publish_many(bus, TOPIC, "a", 1, 9, 9);
    assert_true(tally_await(&c->tally, &c->tally.acked, 7));
    assert_true(suite_stats_of(bus).duplicates_settled > 0);
    assert_int_equal(tally_runs(&c->tally, "a0", 7), 0); /* not behind what was handled after it */
    assert_int_equal(tally_runs(&c->tally, "a0", 9), 1);
    must_settle_to(c, 9);
    suite_close(&c->s, bus);
    evbus *next = suite_open(&c->s, NULL); /* what lies there does not make it uncertain */
    (void)suite_sub(next, TOPIC, &c->tally, &frontier);
    suite_publish_many(next, TOPIC, "a", 1, 10, 10);
    must_settle_to(c, 10);
    assert_int_equal(tally_runs(&c->tally, "a0", 7), 0);
    assert_int_equal(asked_again(next), 0);
}

/* ---- Counts of acks ---------------------------------------------------------------------------------------------- */

/* As an earlier member's ack may: the server takes any count that is above that of the ack before. */
static void other_acks(struct nats_case *c, uint64_t seq, uint64_t count)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX], subject[3 * EV_NAME_MAX];
    natsMsg *answer = NULL;

    names(stream, durable);
    (void)snprintf(subject, sizeof subject, "$JS.ACK.%s.%s.1.%" PRIu64 ".%" PRIu64 ".0.0", stream, durable, seq, count);
    assert_int_equal(natsConnection_RequestString(&answer, c->nc, subject, "+ACK", wait_patience_ms()), NATS_OK);
    natsMsg_Destroy(answer);
}

/* One that was delivered again has a high count, and a leader of a cluster that does not know of it has not counted so far. It takes
 * an ack of that count, and then none below. */
static void test_frontier_goes_on_after_an_ack_of_a_count_that_was_never_reached(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    member_before(c, &frontier, 5);
    evbus *bus = suite_open(&c->s, NULL);
    suite_publish_many(bus, TOPIC, "a", 1, 6, 9);
    must_reach(bus, publishes_inflight, 0);
    assert_int_equal(other_takes(other_pulls(c, 4), 4), 4);
    other_acks(c, 6, 1000);
    jsConsumerInfo *info = asked(c);
    assert_int_equal(info->AckFloor.Consumer, 1000); /* it bit */
    assert_int_equal(info->AckFloor.Stream, 6);
    jsConsumerInfo_Destroy(info);
    (void)suite_sub(bus, TOPIC, &c->tally, &frontier);
    suite_publish_many(bus, TOPIC, "a", 1, 10, 20);
    assert_true(tally_await(&c->tally, &c->tally.acked, 5 + 20 - 6));
    must_settle_to(c, 20);
    suite_publish_many(bus, TOPIC, "a", 1, 21, 30);
    must_settle_to(c, 30);
    assert_int_equal(tally_runs(&c->tally, "a0", 7), 1);
}

/* ---- What is known of what is here ------------------------------------------------------------------------------- */

/* On the loop: its consumer is lost, as the backend sees it; the frontier. */
struct look {
    struct ev_command command;
    struct evbus_sub *sub;
    bool certain, told;
    atomic_bool done;
};

static void lose_consumer(evbus *bus, struct ev_command *command)
{
    struct look *l = (struct look *)command;

    ev_host_consumer_lost(&bus->host, l->sub, EVBUS_MISMATCH, "it ended");
    atomic_store(&l->done, true);
}

static void look_at_frontier(evbus *bus, struct ev_command *command)
{
    struct look *l = (struct look *)command;

    (void)bus;
    l->certain = l->sub->frontier.certain;
    l->told = l->sub->frontier.ready == 0 && !l->sub->lagging;
    atomic_store(&l->done, true);
}

static bool has_looked(void *arg)
{
    return atomic_load(&((struct look *)arg)->done);
}

static struct look look(evbus *bus, struct evbus_sub *sub, void (*run)(evbus *, struct ev_command *))
{
    struct look l = {.command.run = run, .sub = sub};

    ev_loop_post(bus, &l.command);
    assert_true(wait_until(has_looked, &l, wait_patience_ms()));
    return l;
}

struct subscribed {
    evbus *bus;
    evbus_sub *sub;
};

static bool is_certain_and_told(void *arg)
{
    const struct subscribed *s = arg;
    const struct look l = look(s->bus, s->sub, look_at_frontier);

    return l.certain && l.told;
}

static evbus_verdict slow_waits(const evbus_msg *msg, void *gate)
{
    return strcmp(evbus_msg_envelope(msg)->aggregate_id, "slow") == 0 ? suite_at_gate(msg, gate) : EVBUS_ACK;
}

/* The binding ends and the new one finds the consumer as it was: a handler still runs, and all behind it is done. */
static void test_frontier_bound_again_waits_for_what_still_runs(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    c->tally.decide = slow_waits;
    c->tally.arg = &c->gate;
    struct subscribed s = {bus, suite_sub(bus, TOPIC, &c->tally, &frontier)};
    suite_publish_many(bus, TOPIC, "a", 1, 1, 3);
    assert_true(tally_await(&c->tally, &c->tally.acked, 3));
    await_settled(c);
    suite_publish(bus, TOPIC, "slow", 1); /* sequence 4 */
    suite_publish_many(bus, TOPIC, "b", 5, 1, 2);
    assert_true(tally_await(&c->tally, &c->tally.acked, 3 + 10));
    assert_true(gate_await_inside(&c->gate, 1));
    (void)look(bus, s.sub, lose_consumer);
    suite_publish_many(bus, TOPIC, "b", 5, 3, 4);
    assert_true(tally_await(&c->tally, &c->tally.acked, 3 + 20));
    assert_true(wait_until(is_certain_and_told, &s, wait_patience_ms()));
    jsConsumerInfo *info = asked(c);
    assert_int_equal(info->AckFloor.Stream, 3);
    jsConsumerInfo_Destroy(info);
    gate_open(&c->gate);
    assert_true(tally_await(&c->tally, &c->tally.acked, 3 + 21));
    must_settle_to(c, 24);
    assert_int_equal(tally_runs(&c->tally, "slow", 1), 1);
}

struct gates {
    struct gate *before, *after;
};

static evbus_verdict both_wait(const evbus_msg *msg, void *arg)
{
    const struct gates *g = arg;
    const char *id = evbus_msg_envelope(msg)->aggregate_id;

    if (strcmp(id, "before") == 0)
        return suite_at_gate(msg, g->before);
    return strcmp(id, "after") == 0 ? suite_at_gate(msg, g->after) : EVBUS_ACK;
}

/* The stream is made again when it has stayed away for a while. */
static bool is_published_after(void *bus)
{
    const evbus_envelope env = {.aggregate_id = "after", .event_type = "t", .event_version = 1, .payload = "{}"};

    return evbus_publish_envelope(bus, TOPIC, &env, NULL) == EVBUS_OK;
}

/* A handler outlives its stream, and one runs for the same sequence of the stream that was made anew: it is not done when the
 * other is. */
static void test_frontier_of_a_new_stream_does_not_wait_for_the_old_one(void **state)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX];
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    static struct gate after;
    gate_init(&after);
    struct gates gates = {&c->gate, &after};
    c->tally.decide = both_wait;
    c->tally.arg = &gates;
    struct subscribed s = {bus, suite_sub(bus, TOPIC, &c->tally, &frontier)};
    names(stream, durable);
    suite_publish(bus, TOPIC, "before", 1); /* sequence 1 */
    assert_true(gate_await_inside(gates.before, 1));
    operator_deletes(c, stream);
    assert_true(wait_until(is_published_after, bus, wait_patience_ms())); /* sequence 1 */
    assert_true(gate_await_inside(gates.after, 1));
    assert_true(wait_until(is_certain_and_told, &s, wait_patience_ms()));
    gate_open(gates.before);
    assert_true(tally_await(&c->tally, &c->tally.acked, 1));
    suite_publish(bus, TOPIC, "b", 1); /* sequence 2 */
    assert_true(tally_await(&c->tally, &c->tally.acked, 2));
    assert_true(wait_until(is_certain_and_told, &s, wait_patience_ms()));
    jsConsumerInfo *info = asked(c);
    assert_int_equal(info->AckFloor.Stream, 0);
    jsConsumerInfo_Destroy(info);
    gate_open(gates.after);
    must_settle_to(c, 2);
    suite_close(&c->s, bus);
    gate_fini(&after);
}

static void be_behind(evbus *bus, struct ev_command *command)
{
    struct ev_nats_consume *c = ((const struct ev_nats *)bus->state)->consume;

    c->as_clustered = true;
    c->as_floor = 8;
    c->as_position = 16;
    atomic_store(&((struct look *)command)->done, true);
}

/* The leader was elected before it had worked off what its replicas have agreed on: they name 8 as settled and 16 as
 * delivered; it holds 6 to 13 as pending, and that is all it may. It is told what is settled, and goes on. */
static void test_frontier_tells_a_leader_that_is_behind_its_replicas(void **state)
{
    enum { WINDOW = 8 };
    struct nats_case *c = *state;
    evbus_sub_opts o = frontier;

    case_start(c, CASE_JETSTREAM, "");
    o.inflight_max = WINDOW;
    member_before(c, &o, 5);
    evbus *bus = suite_open(&c->s, NULL);
    suite_publish_many(bus, TOPIC, "a", 1, 6, 20);
    must_reach(bus, publishes_inflight, 0);
    assert_int_equal(other_takes(other_pulls(c, WINDOW), WINDOW), WINDOW);
    (void)look(bus, NULL, be_behind);
    (void)suite_sub(bus, TOPIC, &c->tally, &o);
    assert_true(tally_await(&c->tally, &c->tally.acked, 5 + 20 - 8));
    must_settle_to(c, 20);
    assert_int_equal(tally_runs(&c->tally, "a0", 6) + tally_runs(&c->tally, "a0", 8), 0);
    assert_int_equal(tally_runs(&c->tally, "a0", 9), 1);
}

static void be_ahead(evbus *bus, struct ev_command *command)
{
    struct ev_nats_consume *c = ((const struct ev_nats *)bus->state)->consume;

    c->as_clustered = true;
    c->as_floor_most = 8;
    atomic_store(&((struct look *)command)->done, true);
}

/* The leader took acks up to 12 that its replicas did not note: they name 8 as settled. Nothing of what lies between will ever come
 * again, but it was settled here. */
static void test_frontier_goes_on_where_a_leader_is_ahead_of_its_replicas(void **state)
{
    struct nats_case *c = *state;

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    evbus_sub *sub = suite_sub(bus, TOPIC, &c->tally, &frontier);
    suite_publish_many(bus, TOPIC, "a", 1, 1, 12);
    assert_true(tally_await(&c->tally, &c->tally.acked, 12));
    must_settle_to(c, 12);
    (void)look(bus, NULL, be_ahead);
    (void)look(bus, sub, lose_consumer);
    suite_publish_many(bus, TOPIC, "a", 1, 13, 20);
    assert_true(tally_await(&c->tally, &c->tally.acked, 20));
    must_settle_to(c, 20);
    assert_int_equal(tally_runs(&c->tally, "a0", 9), 1);
}

static void be_as_noted(evbus *bus, struct ev_command *command)
{
    ((const struct ev_nats *)bus->state)->consume->as_floor_most = 0;
    atomic_store(&((struct look *)command)->done, true);
}

/* The same for the next member, which cannot know: the leader is asked to step down, for the next one goes on from what is noted. */
static void test_frontier_has_a_leader_that_is_ahead_step_down(void **state)
{
    struct nats_case *c = *state;
    natsSubscription *asked_to = NULL;
    natsMsg *request = NULL;

    case_start(c, CASE_JETSTREAM, "");
    member_before(c, &frontier, 12);
    assert_int_equal(natsConnection_SubscribeSync(&asked_to, c->nc, "$JS.API.CONSUMER.LEADER.STEPDOWN.>"), NATS_OK);
    evbus *bus = suite_open(&c->s, NULL);
    (void)look(bus, NULL, be_ahead);
    (void)suite_sub(bus, TOPIC, &c->tally, &frontier);
    suite_publish_many(bus, TOPIC, "a", 1, 13, 20);
    assert_true(tally_await(&c->tally, &c->tally.acked, 20));
    assert_int_equal(natsSubscription_NextMsg(&request, asked_to, wait_patience_ms()), NATS_OK);
    jsConsumerInfo *info = asked(c);
    assert_int_equal(info->AckFloor.Stream, 12); /* until then nothing is acked */
    jsConsumerInfo_Destroy(info);
    (void)look(bus, NULL, be_as_noted);
    must_settle_to(c, 20);
    natsMsg_Destroy(request);
    natsSubscription_Destroy(asked_to);
}

struct listing {
    struct ev_command command;
    bool short_alone, short_of_several, whole;
    atomic_bool done;
};

static void judge_listing(evbus *bus, struct ev_command *command)
{
    struct listing *l = (struct listing *)command;
    struct ev_nats *st = bus->state;
    struct ev_nats_binding b = *st->consume->bindings[0];

    b.gap = (struct ev_nats_gap){.first = 1, .top = 10, .delivered = 10, .reached = 10, .rounds = 2, .listed_to = 9};
    l->short_alone = ev_nats_frontier_all_listed(st, &b);
    b.gap.clustered = true;
    l->short_of_several = ev_nats_frontier_all_listed(st, &b);
    b.gap.listed_to = 11;
    l->whole = ev_nats_frontier_all_listed(st, &b);
    atomic_store(&l->done, true);
}

static bool is_judged(void *arg)
{
    return atomic_load(&((struct listing *)arg)->done);
}

/* A consumer that lists may live on a replica that has not caught up: what it does not list is gone only if it lists what was
 * delivered last, or later ones. */
static void test_frontier_believes_no_list_that_ends_before_what_was_delivered(void **state)
{
    struct nats_case *c = *state;
    struct listing l = {.command.run = judge_listing};

    case_start(c, CASE_JETSTREAM, "");
    evbus *bus = suite_open(&c->s, NULL);
    (void)suite_sub(bus, TOPIC, &c->tally, &frontier);
    ev_loop_post(bus, &l.command);
    assert_true(wait_until(is_judged, &l, wait_patience_ms()));
    assert_true(l.short_alone);
    assert_false(l.short_of_several);
    assert_true(l.whole);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        CASE(test_frontier_goes_past_nothing_another_client_took),
        CASE(test_frontier_what_lies_below_the_ack_floor_is_settled),
        CASE(test_frontier_goes_on_after_an_ack_of_a_count_that_was_never_reached),
        CASE(test_frontier_bound_again_waits_for_what_still_runs),
        CASE(test_frontier_of_a_new_stream_does_not_wait_for_the_old_one),
        CASE(test_frontier_tells_a_leader_that_is_behind_its_replicas),
        CASE(test_frontier_goes_on_where_a_leader_is_ahead_of_its_replicas),
        CASE(test_frontier_has_a_leader_that_is_ahead_step_down),
        CASE(test_frontier_believes_no_list_that_ends_before_what_was_delivered),
    };

    return case_run("nats frontier, others", tests, sizeof tests / sizeof *tests, argc, argv);
}
