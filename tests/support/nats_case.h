/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A case through the public API with a nats-server of its own, and an operator: a second client who makes, changes and
 * deletes streams behind the buses' back. Buses, events, publish errors and assertions are those of the conformance
 * suite (backend_suite_case.h). Tear-down ends whatever a failed assertion left, and takes the census.
 *
 * Header only, since it needs libnats: include it in one file of a test. Threads: the case's own, handlers excepted.
 */
#ifndef EV_TESTS_NATS_CASE_H
#define EV_TESTS_NATS_CASE_H

#include "backend_suite_case.h"
#include "nats_server.h"
#include "race.h"

#include <nats/nats.h>
#include <signal.h>
#include <unistd.h>

#define CASE_JETSTREAM "jetstream { store_dir: \"@DIR@/js\", max_file: 1T, max_mem: 1G }\n"
#define LOAD_THREADS 2
#define LOAD_VERSIONS 50000

/* Threads that publish envelopes "load-<thread>" version 1, 2, ... about a thousand a second each, as a careful caller
 * does: a call that was not accepted is made again a moment later. */
struct load {
    evbus *bus;
    const char *topic;
    atomic_bool stop;
    bool running;
    struct load_thread {
        struct load *load;
        pthread_t thread;
        int index;
        _Atomic(int64_t) accepted; /* versions 1..accepted were */
    } threads[LOAD_THREADS];
    _Atomic(uint64_t) failed[EVBUS_SYSTEM + 1]; /* calls, by status */
    _Atomic(int64_t) longest_ms;                /* of a call */
};

/* Which of the load's envelopes a handler has seen. */
struct sink {
    _Atomic(uint32_t) seen[LOAD_THREADS][LOAD_VERSIONS + 1];
    bool lost[LOAD_THREADS][LOAD_VERSIONS + 1]; /* its publish ended refused or unknown; the case's thread */
    _Atomic(uint64_t) runs, last_sequence;
};

struct nats_case {
    struct suite s; /* buses, events; no pieces */
    struct nats_server server;
    natsConnection *nc; /* the operator */
    jsCtx *js;
    struct tally tally, other;
    struct gate gate; /* closed */
    struct load load;
    struct sink sink;
};

/* ---- Around a case ----------------------------------------------------------------------------------------------- */

static const struct nats_server *case_server; /* of the running case */

static inline void case_url(char *out, size_t cap, const char *broker)
{
    (void)broker;
    (void)snprintf(out, cap, "nats://127.0.0.1:%u", case_server->port);
}

static inline void case_hangs(int signal)
{
    static const char text[] = "\nthis case hangs\n";

    (void)signal;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    abort();
}

static inline int case_set_up(void **state)
{
    static const struct suite_backend backend = {.name = "nats", .url = case_url};
    struct nats_case *c = calloc(1, sizeof *c);

    if (!c)
        return -1;
    (void)signal(SIGALRM, case_hangs);
    (void)alarm(6 * wait_patience_ms() / 1000);
    census_take(&c->s.before);
    c->s.backend = &backend;
    pthread_mutex_init(&c->s.events.mutex, NULL);
    wait_cond_init(&c->s.events.changed);
    tally_init(&c->tally, NULL);
    tally_init(&c->other, NULL);
    gate_init(&c->gate);
    case_server = &c->server;
    *state = c;
    return 0;
}

static inline void load_stop(struct nats_case *c)
{
    if (!c->load.running)
        return;
    atomic_store(&c->load.stop, true);
    for (int i = 0; i < LOAD_THREADS; i++)
        pthread_join(c->load.threads[i].thread, NULL);
    c->load.running = false;
}

static inline void case_operator_leaves(struct nats_case *c)
{
    jsCtx_Destroy(c->js);
    natsConnection_Destroy(c->nc);
    c->js = NULL;
    c->nc = NULL;
}

static inline int case_tear_down(void **state)
{
    struct nats_case *c = *state;
    char text[1024];

    gate_open(&c->gate);
    load_stop(c);
    while (c->s.bus_count > 0) {
        evbus *bus = c->s.buses[--c->s.bus_count];
        (void)evbus_shutdown(bus, 5000, NULL);
        evbus_close(bus);
    }
    case_operator_leaves(c);
    nats_server_end(&c->server);
    const bool clean = census_returned(&c->s.before, text, sizeof text);
    if (!clean)
        print_error("%s\n", text);
    tally_fini(&c->tally);
    tally_fini(&c->other);
    gate_fini(&c->gate);
    pthread_cond_destroy(&c->s.events.changed);
    pthread_mutex_destroy(&c->s.events.mutex);
    free(c->s.events.all);
    free(c->s.events.receipts);
    free(c);
    (void)alarm(0);
    return clean && suite_thread_failures() == 0 && race_failures() == 0 ? 0 : -1;
}

/* libnats keeps threads after its first use: they belong to no case. */
static inline int case_run(const char *name, struct CMUnitTest *tests, size_t count, int argc, char **argv)
{
    size_t n = 0;

    if (!nats_server_available() || nats_Open(-1) != NATS_OK) {
        printf("SKIPPED: %s: no nats-server\n", name);
        return 77;
    }
    for (size_t i = 0; i < count; i++)
        if (argc < 2 || strstr(tests[i].name, argv[1]))
            tests[n++] = tests[i];
    return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

#define CASE(fn)                                                                                                       \
    {                                                                                                                  \
#fn, fn, case_set_up, case_tear_down, NULL                                                                     \
    }

/* ---- The server and its operator --------------------------------------------------------------------------------- */

static inline void case_operator_comes(struct nats_case *c, const char *credentials)
{
    char url[128];

    (void)snprintf(url, sizeof url, "nats://%s127.0.0.1:%u", credentials, c->server.port);
    assert_int_equal(natsConnection_ConnectTo(&c->nc, url), NATS_OK);
    assert_int_equal(natsConnection_JetStream(&c->js, c->nc, NULL), NATS_OK);
}

/* `credentials`: "" or "user:password@", for the operator. */
static inline void case_start(struct nats_case *c, const char *config, const char *credentials)
{
    assert_true(nats_server_start(&c->server, config));
    case_operator_comes(c, credentials);
}

static inline void operator_makes(struct nats_case *c, const jsStreamConfig *cfg)
{
    jsErrCode code = 0;

    assert_int_equal(js_AddStream(NULL, c->js, (jsStreamConfig *)(uintptr_t)cfg, NULL, &code), NATS_OK);
}

/* A stream with one subject, in the server's defaults. */
static inline void operator_makes_plain(struct nats_case *c, const char *name, const char *subject)
{
    jsStreamConfig cfg;

    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = name;
    cfg.Subjects = &subject;
    cfg.SubjectsLen = 1;
    operator_makes(c, &cfg);
}

/* The stream that members of EXCLUSIVE groups need, for buses that may not make it. */
static inline void operator_makes_members(struct nats_case *c)
{
    const char *subjects[] = {"evbus.member.>", "evbus.lease.>"};
    jsStreamConfig cfg;

    (void)jsStreamConfig_Init(&cfg);
    cfg.Name = "EVBUS_MEMBERS";
    cfg.Subjects = subjects;
    cfg.SubjectsLen = 2;
    cfg.MaxMsgsPerSubject = 1;
    operator_makes(c, &cfg);
}

static inline void operator_deletes(struct nats_case *c, const char *stream)
{
    assert_int_equal(js_DeleteStream(c->js, stream, NULL, NULL), NATS_OK);
}

/* NULL: there is none. The caller destroys it. */
static inline jsStreamInfo *operator_reads(struct nats_case *c, const char *stream)
{
    jsStreamInfo *info = NULL;
    jsErrCode code = 0;
    const natsStatus e = js_GetStreamInfo(&info, c->js, stream, NULL, &code);

    if (e == NATS_NOT_FOUND)
        return NULL;
    assert_int_equal(e, NATS_OK);
    return info;
}

static inline bool operator_finds(struct nats_case *c, const char *stream)
{
    jsStreamInfo *info = operator_reads(c, stream);

    jsStreamInfo_Destroy(info);
    return info != NULL;
}

static inline uint64_t operator_counts(struct nats_case *c, const char *stream)
{
    jsStreamInfo *info = operator_reads(c, stream);

    assert_non_null(info);
    const uint64_t msgs = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return msgs;
}

/* Whether that is one of the stream's subjects, word for word. */
static inline bool operator_sees_subject(struct nats_case *c, const char *stream, const char *subject)
{
    jsStreamInfo *info = operator_reads(c, stream);
    bool found = false;

    for (int i = 0; info && i < info->Config->SubjectsLen; i++)
        found = found || strcmp(info->Config->Subjects[i], subject) == 0;
    jsStreamInfo_Destroy(info);
    return found;
}

/* How many streams there are beside the records of members; the name of the last one to `name`, unless NULL. */
static inline int operator_lists(struct nats_case *c, char name[256])
{
    jsStreamNamesList *list = NULL;
    const natsStatus e = js_StreamNames(&list, c->js, NULL, NULL);
    int count = 0;

    if (e == NATS_NOT_FOUND)
        return 0;
    assert_int_equal(e, NATS_OK);
    for (int i = 0; i < list->Count; i++) {
        if (strcmp(list->List[i], "EVBUS_MEMBERS") == 0)
            continue;
        if (name)
            (void)snprintf(name, 256, "%s", list->List[i]);
        count++;
    }
    jsStreamNamesList_Destroy(list);
    return count;
}

/* The one stream of this server. */
static inline const char *the_stream(struct nats_case *c, char name[256])
{
    assert_int_equal(operator_lists(c, name), 1);
    return name;
}

/* ---- Load -------------------------------------------------------------------------------------------------------- */

static inline void load_publish(struct load_thread *t, int64_t version)
{
    struct load *l = t->load;
    char aggregate[16];

    (void)snprintf(aggregate, sizeof aggregate, "load-%d", t->index);
    const evbus_envelope env = suite_envelope_of(aggregate, version);
    const evbus_pub_opts o = {.struct_size = sizeof o, .tag = (uint64_t)t->index << 32 | (uint64_t)version};
    const int64_t from = wait_now_ms();
    const evbus_status st = evbus_publish_envelope(l->bus, l->topic, &env, &o);
    const int64_t took = wait_now_ms() - from;
    if (took > atomic_load(&l->longest_ms))
        atomic_store(&l->longest_ms, took);
    if (st == EVBUS_OK)
        atomic_store(&t->accepted, version);
    else
        atomic_fetch_add(&l->failed[st], 1);
}

static inline void *load_main(void *arg)
{
    struct load_thread *t = arg;

    while (!atomic_load(&t->load->stop) && atomic_load(&t->accepted) < LOAD_VERSIONS) {
        load_publish(t, atomic_load(&t->accepted) + 1);
        wait_out(1);
    }
    return NULL;
}

static inline void load_start(struct nats_case *c, evbus *bus, const char *topic)
{
    c->load.bus = bus;
    c->load.topic = topic;
    c->load.running = true;
    for (int i = 0; i < LOAD_THREADS; i++) {
        struct load_thread *t = &c->load.threads[i];
        t->load = &c->load;
        t->index = i;
        if (pthread_create(&t->thread, NULL, load_main, t) != 0)
            abort();
    }
}

static inline evbus_verdict sink_handle(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    struct sink *sink = ctx;

    if (strncmp(env->aggregate_id, "load-", 5) == 0)
        atomic_fetch_add(&sink->seen[atoi(env->aggregate_id + 5)][env->event_version], 1);
    atomic_store(&sink->last_sequence, evbus_msg_sequence(msg));
    atomic_fetch_add(&sink->runs, 1);
    return EVBUS_ACK;
}

/* Takes note of what ended refused or unknown so far. */
static inline void load_note_lost(struct nats_case *c)
{
    pthread_mutex_lock(&c->s.events.mutex);
    for (size_t i = 0; i < c->s.events.receipt_count; i++)
        c->sink.lost[c->s.events.receipts[i].tag >> 32][c->s.events.receipts[i].tag & 0xffffffff] = true;
    pthread_mutex_unlock(&c->s.events.mutex);
}

struct load_rest {
    struct nats_case *c;
    int64_t from[LOAD_THREADS]; /* versions above */
    uint64_t missing;
};

/* All that was stored above the given versions is handled. */
static inline bool load_is_handled(void *arg)
{
    struct load_rest *rest = arg;
    struct nats_case *c = rest->c;

    load_note_lost(c);
    rest->missing = 0;
    for (int i = 0; i < LOAD_THREADS; i++)
        for (int64_t v = rest->from[i] + 1; v <= atomic_load(&c->load.threads[i].accepted); v++)
            if (atomic_load(&c->sink.seen[i][v]) == 0 && !c->sink.lost[i][v])
                rest->missing++;
    return rest->missing == 0;
}

/* The versions accepted so far: what comes later is above. */
static inline struct load_rest load_mark(struct nats_case *c)
{
    struct load_rest rest = {.c = c};

    for (int i = 0; i < LOAD_THREADS; i++)
        rest.from[i] = atomic_load(&c->load.threads[i].accepted);
    return rest;
}

static inline uint64_t load_accepted(struct nats_case *c)
{
    uint64_t n = 0;

    for (int i = 0; i < LOAD_THREADS; i++)
        n += (uint64_t)atomic_load(&c->load.threads[i].accepted);
    return n;
}

/* Every accepted publish has ended, each in one way, and on_publish_error heard of each that was not stored. */
static inline evbus_statistics case_settles(struct nats_case *c, evbus *bus)
{
    must_reach(bus, publishes_inflight, 0);
    const evbus_statistics s = suite_stats_of(bus);
    assert_int_equal(s.publishes_accepted,
                     s.publishes_stored + s.publishes_refused + s.publishes_unknown + s.publishes_core);
    if (s.publishes_refused + s.publishes_unknown > 0)
        (void)suite_receipt_at(&c->s, s.publishes_refused + s.publishes_unknown - 1);
    assert_int_equal(suite_receipt_count(&c->s), s.publishes_refused + s.publishes_unknown);
    return s;
}

/* ---- Conditions -------------------------------------------------------------------------------------------------- */

struct topic_field {
    evbus *bus;
    const char *topic;
    size_t offset;
    uint64_t value, seen;
};

static inline bool topic_field_is(void *arg)
{
    struct topic_field *f = arg;
    evbus_topic_statistics stats;

    if (evbus_topic_stats(f->bus, f->topic, &stats) != EVBUS_OK)
        return false;
    memcpy(&f->seen, (const char *)&stats + f->offset, sizeof f->seen);
    return f->seen == f->value;
}

/* Until a statistic of a topic has that value. */
#define topic_must_reach(bus_, topic_, field_, value_)                                                                 \
    do {                                                                                                               \
        struct topic_field f_ = {bus_, topic_, offsetof(evbus_topic_statistics, field_), value_, 0};                   \
        if (!wait_until(topic_field_is, &f_, wait_patience_ms()))                                                      \
            fail_msg("topic %s: %s is %" PRIu64 ", not %" PRIu64, topic_, #field_, f_.seen, f_.value);                 \
    } while (0)

#endif
