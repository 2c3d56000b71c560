/* SPDX-License-Identifier: Apache-2.0 */
/* The tail of an aggregate whose message became a dead letter: parked behind it, in order, until it is redriven or dropped. */
#include "backend_suite_case.h"

#define PARK .group = "g", .tail = EVBUS_TAIL_PARK
#define PATIENCE 20000

/* Rejects some versions, while it is told to; the aggregate decides who is concerned. */
struct mood {
    int64_t version; /* 0: all */
    const char *aggregate;
    atomic_bool well;
};

static evbus_verdict by_mood(const evbus_msg *msg, void *arg)
{
    const evbus_envelope *e = evbus_msg_envelope(msg);
    struct mood *mood = arg;
    const bool concerned = (!mood->version || e->event_version == mood->version) &&
                           (!mood->aggregate || strcmp(e->aggregate_id, mood->aggregate) == 0);

    return concerned && !atomic_load(&mood->well) ? EVBUS_REJECT : EVBUS_ACK;
}

static struct mood *mood_of(struct suite *s, struct tally *t, const char *aggregate, int64_t version)
{
    struct mood *mood = suite_alloc(s, sizeof *mood);

    mood->aggregate = aggregate;
    mood->version = version;
    t->decide = by_mood;
    t->arg = mood;
    return mood;
}

/* ---- The operator's side ----------------------------------------------------------------------------------------- */

struct letters {
    evbus *bus;
    evbus_status (*each)(evbus *bus, const evbus_letter *letter); /* NULL: only looks */
    size_t max, count;                                            /* max 0: all */
    struct {
        char cause[300];
        uint64_t origin, sequence;
    } at[32];
};

static bool take(const evbus_letter *letter, void *ctx)
{
    struct letters *l = ctx;

    assert_true(l->count < 32);
    (void)snprintf(l->at[l->count].cause, sizeof l->at[0].cause, "%s", letter->cause);
    l->at[l->count].origin = letter->origin_sequence;
    l->at[l->count++].sequence = letter->sequence;
    if (l->each)
        must(l->each(l->bus, letter));
    return l->count != l->max;
}

static const struct letters *walk(struct suite *s, evbus *bus, const char *topic, const char *aggregate, size_t max,
                                  evbus_status (*each)(evbus *bus, const evbus_letter *letter))
{
    struct letters *l = suite_alloc(s, sizeof *l);
    char letters[256];

    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    l->bus = bus;
    l->each = each;
    l->max = max;
    must(
        evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = letters, .aggregate_id = aggregate), take, l));
    for (size_t i = 1; i < l->count && aggregate; i++)
        assert_true(l->at[i].origin > l->at[i - 1].origin);
    return l;
}

static evbus_status redrive(evbus *bus, const evbus_letter *letter)
{
    return evbus_letter_redrive(bus, letter, 0, NULL);
}

static evbus_status drop(evbus *bus, const evbus_letter *letter)
{
    return evbus_letter_drop(bus, letter, 0);
}

/* The versions that were acknowledged, in the order of their starts: "1 2 5". */
static void must_have_handled(struct tally *t, const char *aggregate, const char *want)
{
    const size_t count = tally_read(t, &t->ended);
    char got[256] = "";
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        const struct tally_entry *e = tally_at(t, i);
        if (strcmp(e->aggregate, aggregate) == 0 && e->verdict == EVBUS_ACK)
            at += (size_t)snprintf(got + at, sizeof got - at, "%s%" PRId64, at ? " " : "", e->version);
    }
    assert_string_equal(got, want);
}

struct lettered {
    evbus *bus;
    uint64_t count;
};

static bool are_lettered(void *arg)
{
    const struct lettered *l = arg;

    return suite_stats_of(l->bus).dead_lettered == l->count;
}

/* must_reach for timed cases: a letter may have to wait for its stream. */
static void must_letter(struct suite *s, evbus *bus, uint64_t count)
{
    struct lettered l = {bus, count};

    assert_true(suite_pass_until(s, are_lettered, &l, PATIENCE));
}

static bool nothing_parked(void *bus)
{
    return suite_stats_of(bus).aggregates_parked == 0;
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

/* Behind a dead letter the versions of its aggregate are not handled: they are letters too, in order, which say behind what.
 * Other aggregates go on. */
static void test_tail_is_parked_in_order(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char behind[300];

    (void)mood_of(s, t, "a0", 2);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    suite_publish(bus, topic, "a0", 1);
    const evbus_receipt head = suite_publish_wait(bus, topic, "a0", 2);
    for (int64_t version = 3; version <= 8; version++)
        suite_publish(bus, topic, "a0", version);
    suite_publish_many(bus, topic, "b", 5, 1, 8);
    assert_true(tally_await(t, &t->acked, 41));
    must_reach(bus, dead_lettered, 7);
    must_reach(bus, aggregates_parked, 1);
    must_reach(bus, messages_parked, 6);
    assert_string_equal(suite_event(s, EVBUS_EVENT_PARKED, 0).aggregate_id, "a0");
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_PARKED), 1);
    const struct letters *l = walk(s, bus, topic, "a0", 0, NULL);
    assert_int_equal(l->count, 7);
    assert_int_equal(l->at[0].origin, head.sequence);
    assert_string_equal(l->at[0].cause, "rejected by its handler");
    (void)snprintf(behind, sizeof behind, "parked behind %" PRIu64 "/%s", head.sequence, head.event_id);
    for (size_t i = 1; i < 7; i++)
        assert_string_equal(l->at[i].cause, behind);
    must_have_handled(t, "a0", "1");
    suite_close(s, bus);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_RELEASED), 0);
}

/* Redriven in order, all of it is handled in order, and with the last one the aggregate goes on at once. */
static void test_tail_goes_on_when_it_was_redriven(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a", 1);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    for (int64_t version = 1; version <= 4; version++)
        suite_publish(bus, topic, "a", version);
    must_reach(bus, dead_lettered, 4);
    atomic_store(&mood->well, true);
    assert_int_equal(walk(s, bus, topic, "a", 0, redrive)->count, 4);
    assert_true(tally_await(t, &t->acked, 4));
    assert_string_equal(suite_event(s, EVBUS_EVENT_RELEASED, 0).aggregate_id, "a");
    must_reach(bus, aggregates_parked, 0);
    suite_publish(bus, topic, "a", 5);
    assert_true(tally_await(t, &t->acked, 5));
    must_have_handled(t, "a", "1 2 3 4 5");
    assert_int_equal(walk(s, bus, topic, NULL, 0, NULL)->count, 0);
    suite_close(s, bus);
    assert_int_equal(t->rejected, 1);
}

/* What is published while letters are redriven lies before some of them in the stream, and is parked again: it is handled
 * when it was redriven too, behind them. */
static void test_tail_keeps_order_while_it_is_redriven(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a", 1);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    for (int64_t version = 1; version <= 3; version++)
        suite_publish(bus, topic, "a", version);
    must_reach(bus, dead_lettered, 3);
    atomic_store(&mood->well, true);
    assert_int_equal(walk(s, bus, topic, "a", 2, redrive)->count, 2);
    suite_publish(bus, topic, "a", 4);
    assert_true(tally_await(t, &t->acked, 2));
    must_reach(bus, dead_lettered, 4);
    assert_int_equal(walk(s, bus, topic, "a", 0, redrive)->count, 2);
    assert_true(tally_await(t, &t->acked, 4));
    must_reach(bus, aggregates_parked, 0);
    must_have_handled(t, "a", "1 2 3 4");
    suite_close(s, bus);
}

/* A redriven message that fails again parks what was redriven behind it, again in order. */
static void test_tail_is_parked_again(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a", 1);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    for (int64_t version = 1; version <= 4; version++)
        suite_publish(bus, topic, "a", version);
    for (uint64_t round = 1; round <= 3; round++) {
        must_reach(bus, dead_lettered, 4 * round);
        must_reach(bus, aggregates_parked, 1);
        must_have_handled(t, "a", "");
        if (round == 3)
            atomic_store(&mood->well, true);
        assert_int_equal(walk(s, bus, topic, "a", 0, redrive)->count, 4);
    }
    assert_true(tally_await(t, &t->acked, 4));
    must_have_handled(t, "a", "1 2 3 4");
    suite_close(s, bus);
    assert_int_equal(t->rejected, 3);
    assert_int_equal(t->started, 7);
}

static bool was_released(void *arg)
{
    return suite_event_count(arg, EVBUS_EVENT_RELEASED) > 0;
}

/* Letters that were dropped release their aggregate as well, as soon as that is noticed; nothing else does. */
static void test_tail_goes_on_when_it_was_dropped(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)mood_of(s, t, NULL, 1);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    suite_publish_many(bus, topic, "a", 2, 1, 3);
    must_letter(s, bus, 6);
    assert_int_equal(walk(s, bus, topic, "a0", 2, drop)->count, 2);
    suite_pass(s, 5000);
    assert_int_equal(suite_stats_of(bus).aggregates_parked, 2); /* one letter of a0 is left */
    assert_int_equal(walk(s, bus, topic, "a0", 0, drop)->count, 1);
    const size_t before = suite_event_count(s, EVBUS_EVENT_RELEASED);
    assert_int_equal(before, 0);
    suite_publish(bus, topic, "b", 2); /* of another aggregate: for a stream whose end nobody has passed */
    assert_true(suite_pass_until(s, was_released, s, PATIENCE));
    assert_string_equal(suite_event(s, EVBUS_EVENT_RELEASED, 0).aggregate_id, "a0");
    must_reach(bus, aggregates_parked, 1);
    suite_publish_many(bus, topic, "a", 2, 4, 4);
    assert_true(suite_pass_until_count(s, t, &t->acked, 2, PATIENCE));
    must_letter(s, bus, 7);
    must_have_handled(t, "a0", "4");
    must_have_handled(t, "a1", "");
    suite_close(s, bus);
}

struct gated {
    struct mood *mood;
    struct gate *gate;
};

static evbus_verdict by_gate_or_mood(const evbus_msg *msg, void *arg)
{
    const struct gated *g = arg;

    return strcmp(evbus_msg_envelope(msg)->aggregate_id, "gate") == 0 ? suite_at_gate(msg, g->gate)
                                                                      : by_mood(msg, g->mood);
}

/* Letters that are gone release nothing that lies in the stream already: there what was redriven may lie behind what is
 * newer. */
static void test_tail_keeps_order_behind_a_backlog(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct gated *g = suite_alloc(s, sizeof *g);
    evbus *bus = suite_open(s, NULL);

    *g = (struct gated){mood_of(s, t, "a", 1), suite_gate(s)};
    t->decide = by_gate_or_mood;
    t->arg = g;
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK, .inflight_max = 1));
    suite_publish(bus, topic, "a", 1);
    suite_publish(bus, topic, "a", 2);
    must_letter(s, bus, 2);
    atomic_store(&g->mood->well, true);
    suite_publish(bus, topic, "gate", 1);
    assert_true(gate_await_inside(g->gate, 1)); /* nothing is pulled any more */
    (void)suite_publish_wait(bus, topic, "a", 3);
    assert_int_equal(walk(s, bus, topic, "a", 1, redrive)->count, 1);
    assert_int_equal(walk(s, bus, topic, "a", 1, drop)->count, 1);
    suite_pass(s, 5000); /* somebody has looked */
    gate_open(g->gate);
    assert_true(suite_pass_until_count(s, t, &t->acked, 2, PATIENCE));
    must_letter(s, bus, 3);
    must_have_handled(t, "a", "1");
    assert_int_equal(walk(s, bus, topic, "a", 0, redrive)->count, 1);
    assert_true(suite_pass_until_count(s, t, &t->acked, 3, PATIENCE));
    must_have_handled(t, "a", "1 3");
    suite_close(s, bus);
}

/* The head dropped, the tail redriven: what is published behind it is handled at once, however soon it comes. */
static void test_tail_goes_on_without_its_head(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

    (void)mood_of(s, t, "a", 1);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    for (int64_t version = 1; version <= 3; version++)
        suite_publish(bus, topic, "a", version);
    must_reach(bus, dead_lettered, 3);
    assert_int_equal(walk(s, bus, topic, "a", 1, drop)->count, 1);
    assert_int_equal(walk(s, bus, topic, "a", 0, redrive)->count, 2);
    suite_publish(bus, topic, "a", 4);
    assert_true(tally_await(t, &t->acked, 3));
    must_reach(bus, aggregates_parked, 0);
    must_have_handled(t, "a", "2 3 4");
    suite_close(s, bus);
}

/* The tail redriven without its head, whose letter stays: it is handled, and the aggregate stays parked behind the head. */
static void test_tail_stays_parked_behind_a_head_that_is_left(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    char letters[256];

    (void)mood_of(s, t, "a", 1);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    for (int64_t version = 1; version <= 3; version++)
        suite_publish(bus, topic, "a", version);
    must_reach(bus, dead_lettered, 3);
    struct letters *l = suite_alloc(s, sizeof *l);
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    *l = (struct letters){.bus = bus, .each = redrive};
    must(evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = letters, .cause = "parked behind"), take, l));
    assert_int_equal(l->count, 2);
    suite_publish(bus, topic, "a", 4);
    must_reach(bus, dead_lettered, 4);
    must_have_handled(t, "a", "2 3");
    assert_int_equal(suite_stats_of(bus).aggregates_parked, 1);
    suite_close(s, bus);
}

/* The same with one ack for all that is done; the next member finds nothing that was handled. */
static void test_tail_with_frontier_acks(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a0", 1);
    evbus *bus = suite_open(s, NULL);
    const evbus_sub_opts *opts = EVBUS_OPTS(evbus_sub_opts, PARK, .ack_mode = EVBUS_ACK_FRONTIER);

    evbus_sub *sub = suite_sub(bus, topic, t, opts);
    suite_publish_many(bus, topic, "a", 3, 1, 4);
    assert_true(tally_await(t, &t->acked, 8));
    must_reach(bus, dead_lettered, 4);
    must(evbus_unsubscribe(sub));
    atomic_store(&mood->well, true);
    sub = suite_sub(bus, topic, t, opts);
    assert_int_equal(walk(s, bus, topic, "a0", 0, redrive)->count, 4);
    suite_publish_many(bus, topic, "a", 3, 5, 5);
    assert_true(tally_await(t, &t->acked, 15));
    must_reach(bus, aggregates_parked, 0);
    must_have_handled(t, "a0", "1 2 3 4 5");
    must_have_handled(t, "a1", "1 2 3 4 5");
    must(evbus_unsubscribe(sub));
    suite_close(s, bus);
    assert_int_equal(t->started, 16);
}

/* The dead-letter topic is the memory: a later member of the group knows what is parked, before it handles anything. */
static void test_tail_is_known_to_the_next_member(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a", 1);
    evbus *keeper = suite_open_shared(s, NULL), *bus = suite_open_shared(s, NULL);

    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    suite_publish(bus, topic, "a", 1);
    suite_publish(bus, topic, "a", 2);
    must_reach(bus, dead_lettered, 2);
    suite_close(s, bus);
    atomic_store(&mood->well, true);
    suite_publish(keeper, topic, "a", 3);
    suite_publish(keeper, topic, "b", 1);
    bus = suite_open_shared(s, NULL);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    assert_true(tally_await(t, &t->acked, 1));
    must_reach(bus, dead_lettered, 1);
    must_reach(bus, aggregates_parked, 1);
    assert_int_equal(suite_event(s, EVBUS_EVENT_PARKED, 1).count, 1);
    must_have_handled(t, "a", "");
    const struct letters *l = walk(s, bus, topic, "a", 0, redrive);
    assert_int_equal(l->count, 3);
    assert_string_equal(l->at[2].cause, l->at[1].cause); /* behind the same one, said by another member */
    assert_true(tally_await(t, &t->acked, 4));
    must_reach(bus, aggregates_parked, 0);
    suite_publish(bus, topic, "a", 4);
    assert_true(tally_await(t, &t->acked, 5));
    must_have_handled(t, "a", "1 2 3 4");
    suite_close(s, bus);
    suite_close(s, keeper);
}

static bool is_active(void *sub)
{
    return evbus_sub_active(sub);
}

/* A member that stood by knows it as well when its turn comes. */
static void test_tail_is_known_to_who_stood_by(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    struct mood *mood = mood_of(s, t, "a", 1);
    evbus *one = suite_open_shared(s, NULL), *two = suite_open_shared(s, NULL);

    evbus_sub *first = suite_sub(one, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    assert_true(wait_until(is_active, first, wait_patience_ms()));
    evbus_sub *second = suite_sub(two, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    suite_publish(one, topic, "a", 1);
    suite_publish(one, topic, "a", 2);
    must_reach(one, dead_lettered, 2);
    assert_int_equal(suite_stats_of(two).aggregates_parked, 0); /* it is not its business yet */
    must(evbus_unsubscribe(first));
    assert_true(wait_until(is_active, second, wait_patience_ms()));
    atomic_store(&mood->well, true);
    suite_publish(one, topic, "a", 3);
    must_reach(two, dead_lettered, 1);
    must_have_handled(t, "a", "");
    assert_int_equal(walk(s, two, topic, "a", 0, redrive)->count, 3);
    assert_true(tally_await(t, &t->acked, 3));
    must_reach(two, aggregates_parked, 0);
    must_have_handled(t, "a", "1 2 3");
    suite_close(s, one);
    suite_close(s, two);
}

/* Another group's letters park nothing, and what they are redriven to is nothing to a parked aggregate. */
static void test_tail_is_the_groups_own(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *mine = suite_tally(s), *other = suite_tally(s);
    struct mood *mood = mood_of(s, mine, "a", 1), *others = mood_of(s, other, "a", 2);
    evbus *bus = suite_open(s, NULL);

    (void)suite_sub(bus, topic, mine, EVBUS_OPTS(evbus_sub_opts, PARK));
    (void)suite_sub(bus, topic, other, EVBUS_OPTS(evbus_sub_opts, .group = "other"));
    for (int64_t version = 1; version <= 3; version++)
        suite_publish(bus, topic, "a", version);
    must_reach(bus, dead_lettered, 4);
    assert_true(tally_await(other, &other->acked, 2));
    atomic_store(&mood->well, true);
    atomic_store(&others->well, true);
    struct letters *l = suite_alloc(s, sizeof *l);
    char letters[256];
    (void)snprintf(letters, sizeof letters, "dlq.%s", topic);
    *l = (struct letters){.bus = bus, .each = redrive};
    must(evbus_letters(bus, EVBUS_OPTS(evbus_letter_opts, .letter_topic = letters, .group = "other"), take, l));
    assert_int_equal(l->count, 1);
    assert_true(tally_await(other, &other->acked, 3));
    must_reach(bus, dead_lettered, 5); /* it is one more behind ours */
    must_have_handled(mine, "a", "");
    suite_close(s, bus);
}

static bool said_so(void *arg)
{
    return suite_event_count(arg, EVBUS_EVENT_DEAD_LETTER_FAILED) > 0;
}

/* parked_max aggregates: the message of the next one stays and its aggregate waits, which is said once; others go on. With
 * room again it is parked. */
static void test_tail_has_a_bound(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);
    evbus_health_report health = {.struct_size = sizeof health};

    (void)mood_of(s, t, NULL, 1);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK, .parked_max = 1));
    suite_publish(bus, topic, "a0", 1);
    suite_publish(bus, topic, "a0", 2);
    must_letter(s, bus, 2);
    suite_publish(bus, topic, "a1", 1);
    suite_publish(bus, topic, "a1", 2);
    suite_publish(bus, topic, "b", 2);
    assert_true(tally_await(t, &t->acked, 1));
    assert_true(suite_pass_until(s, said_so, s, PATIENCE));
    const struct suite_event event = suite_event(s, EVBUS_EVENT_DEAD_LETTER_FAILED, 0);
    assert_int_equal(event.status, EVBUS_LIMIT);
    assert_string_equal(event.aggregate_id, "a1");
    suite_pass(s, 5000);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_DEAD_LETTER_FAILED), 1);
    assert_int_equal(suite_stats_of(bus).dead_lettered, 2);
    assert_int_equal(suite_stats_of(bus).held, 2);
    must(evbus_health(bus, 0, &health));
    assert_true(health.reasons & EVBUS_HEALTH_LETTERS_FAIL);
    assert_non_null(strstr(health.text, "parked_max"));
    (void)walk(s, bus, topic, "a0", 0, drop);
    suite_publish(bus, topic, "b", 3);
    must_letter(s, bus, 4);
    assert_true(suite_pass_until_count(s, t, &t->acked, 2, PATIENCE));
    must_have_handled(t, "b", "2 3");
    must_have_handled(t, "a1", "");
    (void)walk(s, bus, topic, "a1", 0, drop);
    suite_publish(bus, topic, "b", 4);
    assert_true(suite_pass_until(s, nothing_parked, bus, PATIENCE));
    must(evbus_health(bus, 0, &health));
    assert_int_equal(health.reasons & EVBUS_HEALTH_LETTERS_FAIL, 0);
    suite_close(s, bus);
}

/* More aggregates have letters than a new member may park: it handles nothing, and says so, until there are fewer. */
static void test_tail_of_too_many_handles_nothing(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open_shared(s, NULL);

    (void)mood_of(s, t, NULL, 1);
    evbus_sub *sub = suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK));
    suite_publish_many(bus, topic, "a", 2, 1, 1);
    must_letter(s, bus, 2);
    must(evbus_unsubscribe(sub));
    must_reach(bus, aggregates_parked, 0);
    (void)suite_sub(bus, topic, t, EVBUS_OPTS(evbus_sub_opts, PARK, .parked_max = 1));
    suite_publish(bus, topic, "b", 2);
    assert_true(suite_pass_until(s, said_so, s, PATIENCE));
    assert_int_equal(suite_event(s, EVBUS_EVENT_DEAD_LETTER_FAILED, 0).status, EVBUS_LIMIT);
    suite_pass(s, 5000);
    assert_int_equal(suite_event_count(s, EVBUS_EVENT_DEAD_LETTER_FAILED), 1);
    assert_int_equal(tally_read(t, &t->acked), 0);
    (void)walk(s, bus, topic, "a0", 0, drop);
    assert_true(suite_pass_until_count(s, t, &t->acked, 1, PATIENCE));
    must_reach(bus, aggregates_parked, 1);
    suite_close(s, bus);
}

/* What cannot be parked is refused, with the reason. */
static void test_tail_misuse(void **state)
{
    struct suite *s = *state;
    const char *topic = suite_topic(s, "orders");
    struct tally *t = suite_tally(s);
    evbus *bus = suite_open(s, NULL);

#define REFUSED(status, ...)                                                                                           \
    must_be(status,                                                                                                    \
            evbus_subscribe_envelope(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, __VA_ARGS__), NULL))
    REFUSED(EVBUS_INVALID, .tail = 3);
    must_mention("evbus_sub_opts.tail");
    REFUSED(EVBUS_INVALID, .parked_max = 10);
    must_mention("parked_max");
    REFUSED(EVBUS_INVALID, .tail = EVBUS_TAIL_PARK, .parked_max = 8193);
    REFUSED(EVBUS_UNSUPPORTED, .tail = EVBUS_TAIL_PARK, .membership = EVBUS_SHARED);
    must_mention("SHARED");
    REFUSED(EVBUS_UNSUPPORTED, .tail = EVBUS_TAIL_PARK, .fanout = true);
    REFUSED(EVBUS_UNSUPPORTED, .tail = EVBUS_TAIL_PARK, .on_waiting_full = EVBUS_WAITING_DEAD_LETTER);
    must_mention("WAITING_DEAD_LETTER");
    REFUSED(EVBUS_UNSUPPORTED, .tail = EVBUS_TAIL_PARK, .on_unhandled = EVBUS_UNHANDLED_ACK);
#undef REFUSED
    must_be(EVBUS_UNSUPPORTED,
            evbus_subscribe(bus, topic, tally_handle, t, EVBUS_OPTS(evbus_sub_opts, .tail = EVBUS_TAIL_PARK), NULL));
    suite_close(s, bus);
}

const struct suite_case suite_tail_cases[] = {
    SUITE_CASE(test_tail_is_parked_in_order),
    SUITE_CASE(test_tail_goes_on_when_it_was_redriven),
    SUITE_CASE(test_tail_keeps_order_while_it_is_redriven),
    SUITE_CASE(test_tail_is_parked_again),
    SUITE_TIMED(test_tail_goes_on_when_it_was_dropped),
    SUITE_TIMED(test_tail_keeps_order_behind_a_backlog),
    SUITE_CASE(test_tail_goes_on_without_its_head),
    SUITE_CASE(test_tail_stays_parked_behind_a_head_that_is_left),
    SUITE_CASE(test_tail_with_frontier_acks),
    SUITE_CASE(test_tail_is_known_to_the_next_member),
    SUITE_CASE(test_tail_is_known_to_who_stood_by),
    SUITE_CASE(test_tail_is_the_groups_own),
    SUITE_TIMED(test_tail_has_a_bound),
    SUITE_TIMED(test_tail_of_too_many_handles_nothing),
    SUITE_CASE(test_tail_misuse),
    {NULL, NULL, false},
};
