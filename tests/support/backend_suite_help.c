/* SPDX-License-Identifier: Apache-2.0 */
/* What the cases share: buses, publishing, time, events, assertions. */
#include "backend_suite_case.h"

#include "core/bus.h"

#define STEP_MS 50 /* of virtual time: small against the shortest ack wait */

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static void *grown(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 32;
    array = realloc(array, *capacity * size);
    if (!array)
        abort();
    return array;
}

static void copy(char *to, size_t cap, const char *from)
{
    (void)snprintf(to, cap, "%s", from ? from : "(null)");
}

static void note_event(const evbus_event *event, void *ctx)
{
    struct suite_events *events = ctx;

    pthread_mutex_lock(&events->mutex);
    events->all = grown(events->all, events->count, &events->capacity, sizeof *events->all);
    struct suite_event *e = &events->all[events->count++];
    *e = (struct suite_event){.kind = event->kind, .status = event->status, .count = event->count};
    copy(e->topic, sizeof e->topic, event->topic);
    copy(e->group, sizeof e->group, event->group);
    copy(e->aggregate_id, sizeof e->aggregate_id, event->aggregate_id);
    copy(e->text, sizeof e->text, event->text);
    pthread_cond_broadcast(&events->changed);
    pthread_mutex_unlock(&events->mutex);
}

static void note_receipt(const evbus_receipt *receipt, void *ctx)
{
    struct suite_events *events = ctx;

    pthread_mutex_lock(&events->mutex);
    events->receipts = grown(events->receipts, events->receipt_count, &events->receipt_capacity, sizeof *receipt);
    events->receipts[events->receipt_count++] = *receipt;
    pthread_cond_broadcast(&events->changed);
    pthread_mutex_unlock(&events->mutex);
}

/* With the mutex held. */
static const struct suite_event *nth_event(const struct suite_events *events, evbus_event_kind kind, size_t nth)
{
    for (size_t i = 0; i < events->count; i++)
        if (events->all[i].kind == kind && nth-- == 0)
            return &events->all[i];
    return NULL;
}

size_t suite_event_count(struct suite *s, evbus_event_kind kind)
{
    size_t n = 0;

    pthread_mutex_lock(&s->events.mutex);
    while (nth_event(&s->events, kind, n))
        n++;
    pthread_mutex_unlock(&s->events.mutex);
    return n;
}

struct suite_event suite_event(struct suite *s, evbus_event_kind kind, size_t nth)
{
    const int64_t until = wait_now_ms() + wait_patience_ms();
    struct suite_event event = {0};
    const struct suite_event *found;
    bool in_time = true;

    pthread_mutex_lock(&s->events.mutex);
    while (!(found = nth_event(&s->events, kind, nth)) && in_time)
        in_time = wait_cond(&s->events.changed, &s->events.mutex, until);
    if (found)
        event = *found;
    pthread_mutex_unlock(&s->events.mutex);
    if (!found)
        fail_msg("event %d did not come %zu times", (int)kind, nth + 1);
    return event;
}

size_t suite_receipt_count(struct suite *s)
{
    pthread_mutex_lock(&s->events.mutex);
    const size_t n = s->events.receipt_count;
    pthread_mutex_unlock(&s->events.mutex);
    return n;
}

evbus_receipt suite_receipt_at(struct suite *s, size_t nth)
{
    const int64_t until = wait_now_ms() + wait_patience_ms();
    evbus_receipt receipt = {0};
    bool in_time = true;

    pthread_mutex_lock(&s->events.mutex);
    while (s->events.receipt_count <= nth && in_time)
        in_time = wait_cond(&s->events.changed, &s->events.mutex, until);
    const bool there = s->events.receipt_count > nth;
    if (there)
        receipt = s->events.receipts[nth];
    pthread_mutex_unlock(&s->events.mutex);
    if (!there)
        fail_msg("on_publish_error was not called %zu times", nth + 1);
    return receipt;
}

/* ---- Buses ------------------------------------------------------------------------------------------------------- */

evbus_status suite_try_open(struct suite *s, bool shared, const evbus_opts *opts, evbus **ret)
{
    evbus_opts o = {.struct_size = sizeof o};
    char url[256];

    if (opts)
        o = *opts;
    if (!o.name)
        o.name = "suite";
    if (!o.on_event) {
        o.on_event = note_event;
        o.on_event_ctx = &s->events;
    }
    if (!o.on_publish_error) {
        o.on_publish_error = note_receipt;
        o.on_publish_error_ctx = &s->events;
    }
    if (!o.connect_timeout_ms) /* how fast a broker answers on a busy machine is not what is tested */
        o.connect_timeout_ms = wait_patience_ms();
    if (s->clock)
        o.clock = s->clock;
    s->backend->url(url, sizeof url, shared ? s->name : "");
    assert_true(s->bus_count < SUITE_BUSES);
    const evbus_status st = evbus_open(url, &o, ret);
    if (st == EVBUS_OK)
        s->buses[s->bus_count++] = *ret;
    return st;
}

evbus *suite_open(struct suite *s, const evbus_opts *opts)
{
    evbus *bus = NULL;

    must(suite_try_open(s, false, opts, &bus));
    return bus;
}

evbus *suite_open_shared(struct suite *s, const evbus_opts *opts)
{
    evbus *bus = NULL;

    must(suite_try_open(s, true, opts, &bus));
    return bus;
}

void suite_forget(struct suite *s, const evbus *bus)
{
    for (uint32_t i = 0; i < s->bus_count; i++) {
        if (s->buses[i] != bus)
            continue;
        s->buses[i] = s->buses[--s->bus_count];
        return;
    }
}

void suite_close(struct suite *s, evbus *bus)
{
    evbus_report report;

    evbus_status st = evbus_shutdown(bus, 0, &report);
    if (st != EVBUS_OK)
        print_error("%" PRIu64 " publishes refused, %" PRIu64 " unknown, %" PRIu64 " handlers running, %" PRIu64
                    " unsettled, %" PRIu64 " dropped\n",
                    report.total.publishes_refused, report.total.publishes_unknown, report.total.handlers_running,
                    report.total.unsettled, report.total.plain_dropped);
    must(st);
    suite_forget(s, bus);
    evbus_close(bus);
}

evbus_sub *suite_sub(evbus *bus, const char *topic, struct tally *tally, const evbus_sub_opts *opts)
{
    evbus_sub_opts o = {.struct_size = sizeof o};
    evbus_sub *sub = NULL;

    if (opts)
        o = *opts;
    if (suite_frontier && o.membership != EVBUS_SHARED && !o.fanout && o.ack_mode == 0)
        o.ack_mode = EVBUS_ACK_FRONTIER;
    must(evbus_subscribe_envelope(bus, topic, tally_handle, tally, &o, &sub));
    assert_non_null(sub);
    return sub;
}

evbus_sub *suite_sub_plain(evbus *bus, const char *topic, struct tally *tally, const evbus_sub_opts *opts)
{
    evbus_sub *sub = NULL;

    must(evbus_subscribe(bus, topic, tally_handle, tally, opts, &sub));
    assert_non_null(sub);
    return sub;
}

struct tally *suite_letters(struct suite *s, evbus *bus, const char *topic)
{
    static const char *const headers[] = {"Evbus-Cause",    "Evbus-Detail",    "Evbus-Topic",    "Evbus-Group",
                                          "Evbus-Stream",   "Evbus-Sequence",  "Evbus-Attempts", "Evbus-Deliveries",
                                          "Evbus-Event-Id", "Evbus-Aggregate", "X-Original",     NULL};
    struct tally *letters = suite_tally(s);
    char name[256];

    letters->capture = headers;
    (void)snprintf(name, sizeof name, "dlq.%s", topic);
    (void)suite_sub_plain(bus, name, letters, EVBUS_OPTS(evbus_sub_opts, .group = "letters"));
    return letters;
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

evbus_envelope suite_envelope_of(const char *aggregate, int64_t version)
{
    return (evbus_envelope){
        .aggregate_id = aggregate, .event_type = "Happened", .event_version = version, .payload = "{\"n\":1}"};
}

void suite_publish(evbus *bus, const char *topic, const char *aggregate, int64_t version)
{
    const evbus_envelope env = suite_envelope_of(aggregate, version);

    must(evbus_publish_envelope(bus, topic, &env, NULL));
}

void suite_publish_many(evbus *bus, const char *topic, const char *prefix, int count, int64_t first, int64_t last)
{
    char aggregate[64];

    for (int64_t version = first; version <= last; version++) {
        for (int i = 0; i < count; i++) {
            (void)snprintf(aggregate, sizeof aggregate, "%s%d", prefix, i);
            suite_publish(bus, topic, aggregate, version);
        }
    }
}

void suite_publish_plain(evbus *bus, const char *topic, const char *text)
{
    must(evbus_publish(bus, topic, text, strlen(text), NULL));
}

evbus_receipt suite_publish_wait(evbus *bus, const char *topic, const char *aggregate, int64_t version)
{
    const evbus_envelope env = suite_envelope_of(aggregate, version);
    evbus_receipt receipt;

    evbus_receipt_init(&receipt);
    must(evbus_publish_envelope_wait(bus, topic, &env, NULL, &receipt));
    return receipt;
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

struct turn {
    struct ev_command command;
    evbus *bus;
    atomic_bool ran;
};

static void has_turned(evbus *bus, struct ev_command *command)
{
    (void)bus;
    atomic_store(&((struct turn *)command)->ran, true);
}

static bool turned(void *arg)
{
    struct turn *t = arg;

    return atomic_load(&t->ran) || ev_load_seqcst(&t->bus->phase) == EV_STOPPED;
}

/* The first command may run in a turn that had begun before; the second one then runs in the turn after it. */
void suite_turn(evbus *bus)
{
    for (int i = 0; i < 2 && ev_load_seqcst(&bus->phase) != EV_STOPPED; i++) {
        struct turn t = {.command.run = has_turned, .bus = bus};
        ev_loop_post(bus, &t.command);
        while (!turned(&t))
            (void)wait_until(turned, &t, 1);
    }
}

int64_t suite_now_ns(const struct suite *s)
{
    return ev_clock_now(s->clock);
}

static void step(struct suite *s, uint32_t ms)
{
    evbus_clock_advance(s->clock, ms);
    for (uint32_t i = 0; i < s->bus_count; i++)
        suite_turn(s->buses[i]);
}

/* Virtual time may run ahead of handlers whose threads do not get the processor: then it goes on, slowly. */
bool suite_pass_until(struct suite *s, bool (*done)(void *arg), void *arg, uint32_t ms)
{
    const int64_t until = wait_now_ms() + wait_patience_ms();

    if (!s->clock)
        return wait_until(done, arg, ms);
    for (uint32_t passed = 0; !done(arg) && wait_now_ms() < until; passed += STEP_MS) {
        if (passed >= ms)
            wait_out(1);
        step(s, STEP_MS);
    }
    return done(arg);
}

void suite_pass(struct suite *s, uint32_t ms)
{
    if (!s->clock)
        wait_out(ms);
    for (uint32_t passed = 0; s->clock && passed < ms; passed += STEP_MS)
        step(s, ms - passed < STEP_MS ? ms - passed : STEP_MS);
}

struct counted {
    struct tally *tally;
    const size_t *count;
    size_t n;
};

static bool count_reached(void *arg)
{
    const struct counted *c = arg;

    return tally_read(c->tally, c->count) >= c->n;
}

bool suite_pass_until_count(struct suite *s, struct tally *tally, const size_t *count, size_t n, uint32_t ms)
{
    struct counted c = {tally, count, n};

    return suite_pass_until(s, count_reached, &c, ms);
}

/* ---- Statistics -------------------------------------------------------------------------------------------------- */

evbus_statistics suite_stats_of(evbus *bus)
{
    evbus_statistics stats;

    must(evbus_stats(bus, &stats));
    return stats;
}

evbus_topic_statistics suite_topic_stats_of(evbus *bus, const char *topic)
{
    evbus_topic_statistics stats;

    must(evbus_topic_stats(bus, topic, &stats));
    return stats;
}

struct wanted {
    evbus *bus;
    size_t offset;
    uint64_t value, seen;
    bool exact;
};

static bool has_value(void *arg)
{
    struct wanted *w = arg;
    evbus_statistics stats;

    if (evbus_stats(w->bus, &stats) != EVBUS_OK)
        return false;
    memcpy(&w->seen, (const char *)&stats + w->offset, sizeof w->seen);
    return w->exact ? w->seen == w->value : w->seen >= w->value;
}

void suite_reach(evbus *bus, size_t offset, const char *field, uint64_t value, bool exact, const char *file, int line)
{
    struct wanted w = {.bus = bus, .offset = offset, .value = value, .exact = exact};

    if (wait_until(has_value, &w, wait_patience_ms()))
        return;
    print_error("statistics.%s: waited for %s%" PRIu64 ", it is %" PRIu64 "\n", field, exact ? "" : "at least ", value,
                w.seen);
    _fail(file, line);
}

/* ---- Assertions -------------------------------------------------------------------------------------------------- */

void suite_status(evbus_status want, evbus_status got, const char *call, const char *file, int line)
{
    if (want == got)
        return;
    print_error("%s\n    returned %s, not %s: %s\n", call, evbus_status_name(got), evbus_status_name(want),
                evbus_error_detail());
    _fail(file, line);
}

void suite_mention(const char *text, const char *file, int line)
{
    if (strstr(evbus_error_detail(), text))
        return;
    print_error("the error detail does not mention '%s': %s\n", text, evbus_error_detail());
    _fail(file, line);
}

/* ---- Handlers and threads ---------------------------------------------------------------------------------------- */

evbus_verdict suite_by_plan(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);

    for (struct suite_plan *p = ctx; env && p->times > 0; p++) {
        const bool meant = (!p->aggregate || strcmp(p->aggregate, env->aggregate_id) == 0) &&
                           (p->version == 0 || p->version == env->event_version);
        if (meant && evbus_msg_attempt(msg) <= p->times && !atomic_load(&p->over))
            return EVBUS_RETRY;
    }
    return EVBUS_ACK;
}

evbus_verdict suite_at_gate(const evbus_msg *msg, void *gate)
{
    (void)msg;
    gate_pass(gate);
    return EVBUS_ACK;
}

static atomic_int thread_failures;

void suite_thread_failed(const char *what, const char *file, int line)
{
    if (atomic_fetch_add(&thread_failures, 1) < 10)
        fprintf(stderr, "%s:%d: not true: %s (%s)\n", file, line, what, evbus_error_detail());
}

int suite_thread_failures(void)
{
    return atomic_exchange(&thread_failures, 0);
}

struct runner {
    pthread_t thread;
    void (*fn)(int index, void *arg);
    void *arg;
    int index;
};

static void *run(void *arg)
{
    struct runner *r = arg;

    r->fn(r->index, r->arg);
    return NULL;
}

void suite_threads(int count, void (*fn)(int index, void *arg), void *arg)
{
    struct runner runners[32];

    assert_in_range(count, 1, 32);
    for (int i = 0; i < count; i++) {
        runners[i] = (struct runner){.fn = fn, .arg = arg, .index = i};
        if (pthread_create(&runners[i].thread, NULL, run, &runners[i]) != 0)
            abort();
    }
    for (int i = 0; i < count; i++)
        pthread_join(runners[i].thread, NULL);
    assert_int_equal(suite_thread_failures(), 0);
}
