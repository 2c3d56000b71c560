/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions of mem:// as the core uses them, turned by hand. Several threads: test_mem_threads.c. */
#include "mem_host.h"

#include <stdio.h>
#include <stdlib.h>

static struct got got_a[GOT_MAX], got_b[GOT_MAX];

/* Published, answered, delivered with all its fields, settled; nothing is left. */
static void test_mem_session_carries_a_message(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct host h;
    struct sub sub;
    char buf[100] = {0};

    (void)state;
    assert_int_equal(host_open(&h, "", NULL, 0), EVBUS_OK);
    assert_false(h.up);
    (void)host_turn(&h);
    assert_int_equal(h.ups, 1);
    host_stream(&h, "S", "a.*", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c-1", "a.*");
    sub_open(&sub, &h, &cfg, HOLD, 10, got_a);
    assert_int_equal(host_send(&h, "a.b", "hello", "id-1", true), EV_SENT);
    assert_int_equal(host_send(&h, "a.c", "", "id-1", true), EV_SENT);
    host_settle_down(&h);
    assert_int_equal(h.stored, 2);
    assert_int_equal(h.duplicates, 1);
    assert_int_equal(h.answer.sequence, 1);
    assert_string_equal(h.stream, "S");
    assert_int_equal(h.slot, 3);
    assert_int_equal(h.generation, 4);
    assert_int_equal(sub.count, 1);
    assert_int_equal(got_a[0].seq, 1);
    assert_int_equal(got_a[0].byte, 'h');
    assert_string_equal(ev_mem_ops.header(h.state, got_a[0].token, "Key"), "value");
    assert_string_equal(ev_mem_ops.header(h.state, got_a[0].token, "Nats-Msg-Id"), "id-1");
    assert_int_equal(ev_mem_ops.headers(h.state, got_a[0].token, buf, sizeof buf), 31);
    assert_string_equal(buf, "Nats-Msg-Id: id-1\r\nKey: value\r\n");
    sub_settle(&sub, 0, EV_SETTLE_ACK, 0);
    host_settle_down(&h);
    sub_close(&sub);
    host_close(&h);
    assert_int_equal(ev_alloc_live(), live);
}

/* What cannot be stored is refused, and says why. */
static void test_mem_session_refuses_with_a_reason(void **state)
{
    static char big[(8 << 20) + 1];
    const struct ev_record record = {.topic = "s", .data = big, .len = sizeof big};
    evbus_status status = EVBUS_OK;
    struct host h;

    (void)state;
    assert_int_equal(host_open(&h, "", NULL, 1000), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 2, EVBUS_DISCARD_NEW);
    host_stream(&h, "T", "t", 0, EVBUS_DISCARD_OLD);
    host_publish(&h, "nobody", 1);
    host_settle_down(&h);
    assert_int_equal(h.answer.status, EVBUS_REFUSED);
    assert_true(h.answer.no_responders);
    host_publish(&h, "s", 3);
    host_settle_down(&h);
    assert_int_equal(h.answer.status, EVBUS_LIMIT);
    assert_non_null(strstr(h.text, "max_msgs 2"));
    host_publish(&h, "t", 40);
    host_settle_down(&h);
    assert_int_equal(h.answer.status, EVBUS_LIMIT);
    assert_non_null(strstr(h.text, "mem_bytes_max (1000)"));
    assert_int_equal(ev_mem_ops.send(h.state, &record, &status), EV_SEND_REFUSED);
    assert_int_equal(status, EVBUS_TOO_LARGE);
    assert_int_equal(ev_mem_ops.max_payload(h.state), 8 << 20);
    host_close(&h);
}

/* Redelivery by the virtual clock, to the nanosecond; due tells when. */
static void test_mem_session_follows_its_clock(void **state)
{
    const uint64_t live = ev_alloc_live();
    evbus_clock *clock = evbus_clock_new(1700000000 * EV_SEC);
    struct host h;
    struct sub sub;

    (void)state;
    assert_int_equal(host_open(&h, "", clock, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, HOLD, 10, got_a);
    host_publish(&h, "s", 2);
    host_settle_down(&h);
    assert_int_equal(sub.count, 2);
    assert_int_equal(ev_mem_ops.due(h.state), ev_clock_now(clock) + 30 * EV_SEC);
    evbus_clock_advance(clock, 29999);
    host_settle_down(&h);
    assert_int_equal(sub.count, 2);
    evbus_clock_advance(clock, 1);
    host_settle_down(&h);
    assert_int_equal(sub.count, 4);
    assert_int_equal(got_a[2].count, 2);
    ev_mem_ops.replace(h.state, got_a[0].token, got_a[2].token);
    ev_mem_ops.replace(h.state, got_a[1].token, got_a[3].token);
    sub.count = 2;
    sub.held = 2;
    sub_settle(&sub, 0, EV_SETTLE_TERM, 0);
    evbus_clock_advance(clock, 60000);
    host_settle_down(&h);
    assert_int_equal(sub.count, 2);
    sub_close(&sub);
    host_close(&h);
    evbus_clock_free(clock);
    assert_int_equal(ev_alloc_live(), live);
}

/* One broker for all who open a name; it lives as long as one of them. */
static void test_mem_session_shares_a_named_broker(void **state)
{
    const uint64_t live = ev_alloc_live();
    evbus_clock *clock = evbus_clock_new(EV_SEC);
    struct ev_stream_info info;
    struct host a, b, c;

    (void)state;
    assert_int_equal(host_open(&a, "one", NULL, 0), EVBUS_OK);
    assert_int_equal(host_open(&b, "one", NULL, 0), EVBUS_OK);
    assert_int_equal(host_open(&c, "two", NULL, 0), EVBUS_OK);
    host_stream(&a, "S", "s", 0, EVBUS_DISCARD_OLD);
    assert_int_equal(ev_mem_ops.stream_info(b.state, "S", "s", &info, 0), EVBUS_OK);
    assert_int_equal(ev_mem_ops.stream_covering(c.state, "s", &info, 0), EVBUS_NOT_FOUND);
    assert_non_null(strstr(ev_detail(), "no stream covers 's'"));
    host_close(&c);
    assert_int_equal(host_open(&c, "one", clock, 0), EVBUS_INVALID);
    assert_non_null(strstr(ev_detail(), "another clock"));
    host_close(&c);
    assert_int_equal(host_open(&c, "o/ne", NULL, 0), EVBUS_INVALID);
    host_close(&c);
    host_close(&a);
    assert_int_equal(ev_mem_ops.stream_covering(b.state, "s", &info, 0), EVBUS_OK);
    host_close(&b);
    assert_int_equal(host_open(&b, "one", NULL, 0), EVBUS_OK);
    assert_int_equal(ev_mem_ops.stream_covering(b.state, "s", &info, 0), EVBUS_NOT_FOUND);
    host_close(&b);
    evbus_clock_free(clock);
    assert_int_equal(ev_alloc_live(), live);
}

/* Two sessions on one durable: each message goes to one; each notices the other; what one hands back the other gets. */
static void test_mem_session_shares_a_durable(void **state)
{
    struct host a, b;
    struct sub left, right;

    (void)state;
    assert_int_equal(host_open(&a, "dur", NULL, 0), EVBUS_OK);
    assert_int_equal(host_open(&b, "dur", NULL, 0), EVBUS_OK);
    (void)host_turn(&a), (void)host_turn(&b);
    host_stream(&a, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&left, &a, &cfg, HOLD, 100, got_a);
    sub_open(&right, &b, &cfg, HOLD, 100, got_b);
    host_settle_down(&a), host_settle_down(&b);
    host_publish(&a, "s", 150);
    host_settle_down(&a), host_settle_down(&b), host_settle_down(&a);
    assert_int_equal(left.count + right.count, 150);
    assert_true(left.count > 40 && right.count > 40);
    assert_true(left.foreign > 0 && right.foreign > 0);
    assert_int_equal(left.backwards + right.backwards, 0);
    const uint64_t mine = left.count;
    sub_settle(&right, 0, EV_SETTLE_ACK, 0);
    sub_want(&right);
    ev_mem_ops.detach(a.state, left.binding);
    for (uint64_t i = 0; i < mine; i++) {
        assert_true(ev_mem_ops.settle(a.state, left.binding, got_a[i].token, EV_SETTLE_NAK, 0));
        ev_mem_ops.release(a.state, got_a[i].token);
    }
    ev_mem_ops.unbind(a.state, left.binding);
    host_settle_down(&a), host_settle_down(&b);
    assert_int_equal(right.count, 150);
    assert_int_equal(right.redelivered, mine);
    sub_settle(&right, 150 - mine, EV_SETTLE_ACK, 0);
    sub_close(&right);
    host_close(&a);
    host_close(&b);
}

/* Room: no more than wanted, and what lies between broker and core counts. */
static void test_mem_session_keeps_to_the_room(void **state)
{
    struct host h;
    struct sub sub;

    (void)state;
    assert_int_equal(host_open(&h, "", NULL, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, HOLD, 7, got_a);
    for (uint32_t i = 0; i < 50; i++) {
        host_publish(&h, "s", 20);
        (void)host_turn(&h);
        assert_true(sub.held <= 7);
        sub_want(&sub);
        sub_want(&sub);
        (void)host_turn(&h);
        assert_int_equal(sub.held, 7);
        sub_settle(&sub, sub.count - 7, EV_SETTLE_ACK, 0);
        sub_want(&sub);
    }
    host_settle_down(&h);
    sub_settle(&sub, sub.count - sub.held, EV_SETTLE_ACK, 0);
    sub_close(&sub);
    host_close(&h);
}

/* A full output: send says later, settlements are kept, and all arrives in order. */
static void test_mem_session_pushes_back_when_full(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct host h;
    struct sub sub;
    uint64_t sent = 0;

    (void)state;
    assert_int_equal(host_open(&h, "", NULL, 0), EVBUS_OK);
    assert_int_equal(host_send(&h, "s", "early", NULL, true), EV_SEND_LATER);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, HOLD, 1000, got_a);
    host_publish(&h, "s", 1000);
    host_settle_down(&h);
    assert_int_equal(sub.count, 1000);
    while (host_send(&h, "s", "more", NULL, true) == EV_SENT)
        sent++;
    assert_true(sent >= 1000);
    sub_settle(&sub, 0, EV_SETTLE_ACK, 0); /* none of them fits */
    assert_int_equal(host_send(&h, "s", "more", NULL, true), EV_SEND_LATER);
    sub_want(&sub);
    for (uint64_t from = 1000; host_settle_down(&h), from < sub.count; from = sub.count) {
        sub_settle(&sub, from, EV_SETTLE_ACK, 0);
        sub_want(&sub);
    }
    assert_int_equal(h.stored, 1000 + sent);
    assert_int_equal(sub.count, 1000 + sent);
    assert_int_equal(sub.redelivered + sub.backwards, 0);
    sub_close(&sub);
    host_close(&h);
    assert_int_equal(ev_alloc_live(), live);
}

/* A dropped link takes with it what the broker has not begun, and nothing else; then it is up again. */
static void test_mem_session_drops_the_link(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct ev_stream_info info;
    struct host h;

    (void)state;
    assert_int_equal(host_open(&h, "", NULL, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    host_publish(&h, "s", 2);
    const uint64_t early = ev_mem_ops.sent_mark(h.state);
    assert_true(ev_mem_ops.unsent_after(h.state, early));
    host_settle_down(&h);
    assert_false(ev_mem_ops.unsent_after(h.state, early));
    host_publish(&h, "s", 3);
    assert_int_equal(host_send(&h, "s", "plain", NULL, false), EV_SENT);
    assert_true(ev_mem_ops.unsent_after(h.state, ev_mem_ops.sent_mark(h.state)));
    ev_mem_ops.drop_link(h.state, "a deadline");
    assert_int_equal(host_send(&h, "s", "x", NULL, true), EV_SEND_LATER);
    host_settle_down(&h);
    assert_int_equal(h.downs, 1);
    assert_int_equal(h.ups, 2);
    assert_string_equal(h.down_text, "a deadline");
    assert_int_equal(ev_mem_ops.stream_info(h.state, "S", "s", &info, 0), EVBUS_OK);
    assert_int_equal(info.msgs, 3); /* the plain one wanted no answer: nobody was told that it is unknown */
    host_publish(&h, "s", 1);
    host_settle_down(&h);
    assert_int_equal(h.stored, 3);
    host_close(&h);
    assert_int_equal(ev_alloc_live(), live);
}

/* A core that has no memory gets the message again after a pause. */
static void test_mem_session_comes_again_to_a_full_core(void **state)
{
    evbus_clock *clock = evbus_clock_new(EV_SEC);
    struct host h;
    struct sub sub;

    (void)state;
    assert_int_equal(host_open(&h, "", clock, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, ACK, 10, got_a);
    sub.refuse = true;
    host_publish(&h, "s", 2);
    host_settle_down(&h);
    assert_int_equal(sub.count, 0);
    sub.refuse = false;
    host_settle_down(&h);
    assert_int_equal(sub.count, 0);
    evbus_clock_advance(clock, 50);
    host_settle_down(&h);
    assert_int_equal(sub.count, 2);
    assert_int_equal(got_a[0].seq, 1);
    sub_close(&sub);
    host_close(&h);
    evbus_clock_free(clock);
}

/* Core subscriptions of several sessions; the queue's members share. */
static void test_mem_session_core_subscriptions(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct host a, b;
    struct sub all, left, right;

    (void)state;
    assert_int_equal(host_open(&a, "core", NULL, 0), EVBUS_OK);
    assert_int_equal(host_open(&b, "core", NULL, 0), EVBUS_OK);
    (void)host_turn(&a), (void)host_turn(&b);
    sub_open_core(&all, &a, "c.>", NULL, 1000, got_a);
    sub_open_core(&left, &a, "c.*", "q", 1000, NULL);
    sub_open_core(&right, &b, "c.*", "q", 1000, NULL);
    assert_int_equal(host_send(&a, "c.y.z", "behind the attachment of `all`, in the same turn", NULL, false), EV_SENT);
    host_settle_down(&a), host_settle_down(&b);
    assert_int_equal(all.count, 1);
    all.count = 0;
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(host_send(&b, "c.x", "data", NULL, false), EV_SENT);
    host_settle_down(&b), host_settle_down(&a), host_settle_down(&b);
    assert_int_equal(all.count, 100);
    assert_int_equal(got_a[0].seq, 0);
    assert_int_equal(left.count, 50);
    assert_int_equal(right.count, 50);
    assert_int_equal(b.stored + b.refused, 0);
    sub_close(&all), sub_close(&left), sub_close(&right);
    host_close(&a);
    host_close(&b);
    assert_int_equal(ev_alloc_live(), live);
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

struct plan {
    bool settle, answer, delivery, repeat, down;
};

static bool lose_settle(void *ctx, uint64_t seq, enum ev_settle verb)
{
    (void)seq, (void)verb;
    return ((struct plan *)ctx)->settle;
}

static bool lose_answer(void *ctx, uint32_t slot)
{
    (void)slot;
    return ((struct plan *)ctx)->answer;
}

static bool lose_delivery(void *ctx, uint64_t seq, uint32_t delivery_count)
{
    (void)seq, (void)delivery_count;
    return ((struct plan *)ctx)->delivery;
}

static bool repeat_delivery(void *ctx, uint64_t seq)
{
    (void)seq;
    return ((struct plan *)ctx)->repeat;
}

static bool link_is_up(void *ctx, int64_t now)
{
    (void)now;
    return !((struct plan *)ctx)->down;
}

/* Each fault does what its name says, and what was lost comes again after the ack wait. */
static void test_mem_session_has_faults(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct plan plan = {0};
    const struct ev_mem_fault fault = {.ctx = &plan,
                                       .lose_settle = lose_settle,
                                       .lose_answer = lose_answer,
                                       .lose_delivery = lose_delivery,
                                       .repeat_delivery = repeat_delivery,
                                       .link_is_up = link_is_up};
    evbus_clock *clock = evbus_clock_new(EV_SEC);
    struct host h;
    struct sub sub;

    (void)state;
    ev_mem_fault_next(&fault);
    assert_int_equal(host_open(&h, "", clock, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 0, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, ACK, 10, got_a);
    plan = (struct plan){.settle = true, .answer = true};
    host_publish(&h, "s", 1);
    host_settle_down(&h);
    assert_int_equal(h.stored, 0);
    assert_int_equal(sub.count, 1);
    plan = (struct plan){.delivery = true};
    evbus_clock_advance(clock, 30000);
    host_settle_down(&h);
    assert_int_equal(sub.count, 1);
    plan = (struct plan){.repeat = true};
    evbus_clock_advance(clock, 30000);
    host_settle_down(&h);
    assert_int_equal(sub.count, 3);
    assert_int_equal(got_a[2].count, 3);
    plan = (struct plan){.down = true};
    host_publish(&h, "s", 1); /* never gets through */
    host_settle_down(&h);
    assert_int_equal(h.downs, 1);
    assert_int_equal(host_send(&h, "s", "x", NULL, true), EV_SEND_LATER);
    plan = (struct plan){0};
    host_settle_down(&h);
    assert_int_equal(h.ups, 2);
    sub_want(&sub);
    host_publish(&h, "s", 1);
    host_settle_down(&h);
    assert_int_equal(h.stored, 1);
    assert_int_equal(h.answer.sequence, 2);
    assert_int_equal(sub.count, 4);
    sub_close(&sub);
    host_close(&h);
    evbus_clock_free(clock);
    assert_int_equal(ev_alloc_live(), live);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

/* A steady flow through a session allocates nothing. */
static void test_mem_session_steady_flow_allocates_nothing(void **state)
{
    struct host h;
    struct sub sub;
    uint64_t before = 0;
    char id[32];

    (void)state;
    evbus_clock *clock = evbus_clock_new(EV_SEC);
    assert_int_equal(host_open(&h, "", clock, 0), EVBUS_OK);
    (void)host_turn(&h);
    host_stream(&h, "S", "s", 2000, EVBUS_DISCARD_OLD);
    const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&sub, &h, &cfg, ACK, 1000, NULL);
    for (uint32_t round = 0; round < 800; round++) {
        if (round == 400)
            before = ev_alloc_total();
        for (uint32_t i = 0; i < 300; i++) {
            (void)snprintf(id, sizeof id, "id-%u-%u", round, i);
            assert_int_equal(host_send(&h, "s", "data of a message", id, true), EV_SENT);
        }
        (void)host_turn(&h);
        sub_want(&sub);
        evbus_clock_advance(clock, 1000); /* the duplicate window is 120 s */
    }
    host_settle_down(&h);
    assert_int_equal(ev_alloc_total(), before);
    assert_int_equal(sub.count, 800 * 300);
    sub_close(&sub);
    host_close(&h);
    evbus_clock_free(clock);
}

/* Closing with everything in the air: commands posted, results not taken, bindings attached, messages retained. */
static void test_mem_session_closes_in_the_middle(void **state)
{
    const uint64_t live = ev_alloc_live();
    struct host a, b;
    struct sub one, two, three, other;
    struct ev_stream_info info;

    (void)state;
    assert_int_equal(host_open(&a, "mid", NULL, 0), EVBUS_OK);
    assert_int_equal(host_open(&b, "mid", NULL, 0), EVBUS_OK);
    (void)host_turn(&a), (void)host_turn(&b);
    host_stream(&a, "S", "s", 0, EVBUS_DISCARD_OLD);
    struct ev_consumer_cfg cfg = consumer("S", "c", "s");
    sub_open(&one, &a, &cfg, RELEASE, 10000, NULL);
    sub_open(&other, &b, &cfg, ACK, 10000, NULL);
    cfg = consumer("S", "e", "s");
    cfg.durable = false;
    sub_open(&two, &a, &cfg, RELEASE, 10000, NULL);
    sub_open_core(&three, &a, "s", NULL, 10, NULL);
    (void)host_turn(&a), (void)host_turn(&b);
    host_publish(&b, "s", 3000);
    (void)host_turn(&b);
    host_publish(&a, "s", 500);
    host_close(&a); /* what lay in its results goes back at once */
    host_settle_down(&b);
    assert_int_equal(other.count, b.stored);
    assert_int_equal(other.count, 3000);
    assert_int_equal(ev_mem_ops.stream_info(b.state, "S", NULL, &info, 0), EVBUS_OK);
    assert_int_equal(info.msgs, 3000); /* a's were ended as unknown: they may not be stored after */
    host_close(&b);
    assert_int_equal(ev_alloc_live(), live);
}

/* Opening fails cleanly wherever memory ends. */
static void test_mem_session_survives_failing_allocations(void **state)
{
    const uint64_t live = ev_alloc_live();

    (void)state;
    for (int64_t nth = 2; nth < 40; nth++) {
        struct host h;
        struct sub sub = {.host = &h, .policy = ACK, .capacity = 10};
        const struct ev_consumer_cfg cfg = consumer("S", "c", "s");
        ev_alloc_fail_after(nth);
        if (host_open(&h, "", NULL, 0) == EVBUS_OK) {
            const char *subject = "s";
            struct ev_stream_cfg stream = {.subjects = &subject, .subject_count = 1, .duplicate_window_ns = 1000};
            strcpy(stream.name, "S");
            (void)host_turn(&h);
            const evbus_status st = ev_mem_ops.stream_create(h.state, &stream, 0);
            if (st == EVBUS_OK &&
                ev_mem_ops.bind(h.state, (struct evbus_sub *)(void *)&sub, &cfg, &sub.binding, 0) == EVBUS_OK) {
                ev_mem_ops.attach(h.state, sub.binding);
                sub_want(&sub);
            }
            for (uint32_t i = 0; i < 100; i++)
                (void)host_send(&h, "s", "data", "id", true);
            host_settle_down(&h);
        }
        ev_alloc_fail_after(-1);
        host_close(&h);
        assert_int_equal(ev_alloc_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_session_carries_a_message),
        cmocka_unit_test(test_mem_session_refuses_with_a_reason),
        cmocka_unit_test(test_mem_session_follows_its_clock),
        cmocka_unit_test(test_mem_session_shares_a_named_broker),
        cmocka_unit_test(test_mem_session_shares_a_durable),
        cmocka_unit_test(test_mem_session_keeps_to_the_room),
        cmocka_unit_test(test_mem_session_pushes_back_when_full),
        cmocka_unit_test(test_mem_session_drops_the_link),
        cmocka_unit_test(test_mem_session_comes_again_to_a_full_core),
        cmocka_unit_test(test_mem_session_core_subscriptions),
        cmocka_unit_test(test_mem_session_has_faults),
        cmocka_unit_test(test_mem_session_steady_flow_allocates_nothing),
        cmocka_unit_test(test_mem_session_closes_in_the_middle),
        cmocka_unit_test(test_mem_session_survives_failing_allocations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
