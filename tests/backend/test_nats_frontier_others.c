/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frontier acks beside another client, one that takes from the durable without a lease and never acknowledges: an ack
 * settles all below it, so none may go past what that client has.
 */
#include "core/names.h"
#include "support/nats_case.h"

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

int main(int argc, char **argv)
{
    struct CMUnitTest tests[] = {
        CASE(test_frontier_goes_past_nothing_another_client_took),
    };

    return case_run("nats frontier, others", tests, sizeof tests / sizeof *tests, argc, argv);
}
