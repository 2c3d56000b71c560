/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nats-server itself says about a run: what its streams hold, what a consumer has in flight. Asked over a
 * connection of its own, with libnats alone: the library under test has no part in it.
 *
 * Header only, since it needs libnats: include it in one file of a test. Threads: one.
 */
#ifndef EV_TESTS_NATS_TRUTH_H
#define EV_TESTS_NATS_TRUTH_H

#include "driver.h"

#include "../support/nats_server.h"
#include "../support/truth_read.h"
#include "../support/wait.h"
#include "core/names.h"
#include "core/streams.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <nats/nats.h>

#define TRUTH_JETSTREAM "jetstream { store_dir: \"@DIR@/js\", max_file: 1T, max_mem: 1G }\n"

struct witness {
    natsConnection *nc;
    jsCtx *js;
    char topic[64], stream[EV_NAME_MAX], consumer[EV_NAME_MAX], letters[80];
};

/* `url` may name several servers, separated by commas. */
static inline void witness_come(struct witness *w, const char *url, const char *topic)
{
    natsOptions *opts = NULL;
    char urls[256], *save = NULL;
    const char *servers[4];
    int count = 0;

    memset(w, 0, sizeof *w);
    assert_int_equal(natsOptions_Create(&opts), NATS_OK);
    (void)snprintf(urls, sizeof urls, "%s", url);
    for (char *s = strtok_r(urls, ",", &save); s && count < 4; s = strtok_r(NULL, ",", &save))
        servers[count++] = s;
    assert_int_equal(natsOptions_SetServers(opts, servers, count), NATS_OK);
    assert_int_equal(natsOptions_SetReconnectWait(opts, 20), NATS_OK);
    assert_int_equal(natsOptions_SetReconnectJitter(opts, 1, 1), NATS_OK);
    assert_int_equal(natsOptions_SetMaxReconnect(opts, -1), NATS_OK);
    assert_int_equal(natsOptions_SetPingInterval(opts, 300), NATS_OK); /* a stopped server is left */
    assert_int_equal(natsOptions_SetMaxPingsOut(opts, 2), NATS_OK);
    assert_int_equal(natsConnection_Connect(&w->nc, opts), NATS_OK);
    natsOptions_Destroy(opts);
    assert_int_equal(natsConnection_JetStream(&w->js, w->nc, NULL), NATS_OK);
    (void)snprintf(w->topic, sizeof w->topic, "%s", topic);
    (void)snprintf(w->letters, sizeof w->letters, "%s%s", EV_DLQ_PREFIX, topic);
    (void)ev_stream_name(w->stream, topic);
    (void)ev_durable_name(w->consumer, "truth", topic);
}

static inline void witness_leave(struct witness *w)
{
    jsCtx_Destroy(w->js);
    natsConnection_Destroy(w->nc);
    w->js = NULL;
    w->nc = NULL;
}

/* Of a consumer; false: nobody answers now, or there is none. */
struct in_flight {
    uint64_t pending, unacked, redelivered;
    uint64_t delivered;            /* deliveries so far, repeated ones too */
    uint64_t delivered_seq, floor; /* stream sequences */
    bool frontier;                 /* ack policy "all" */
    char leader[64];
};

static inline bool witness_consumer(struct witness *w, struct in_flight *ret)
{
    jsConsumerInfo *info = NULL;

    if (js_GetConsumerInfo(&info, w->js, w->stream, w->consumer, NULL, NULL) != NATS_OK)
        return false;
    *ret = (struct in_flight){.pending = info->NumPending,
                              .unacked = (uint64_t)info->NumAckPending,
                              .redelivered = (uint64_t)info->NumRedelivered,
                              .delivered = info->Delivered.Consumer,
                              .delivered_seq = info->Delivered.Stream,
                              .floor = info->AckFloor.Stream,
                              .frontier = info->Config->AckPolicy == js_AckAll};
    if (info->Cluster && info->Cluster->Leader)
        (void)snprintf(ret->leader, sizeof ret->leader, "%s", info->Cluster->Leader);
    jsConsumerInfo_Destroy(info);
    return true;
}

/* The stream's last sequence; UINT64_MAX: nobody answers now. */
static inline uint64_t witness_last(struct witness *w)
{
    jsStreamInfo *info = NULL;

    if (js_GetStreamInfo(&info, w->js, w->stream, NULL, NULL) != NATS_OK)
        return UINT64_MAX;
    const uint64_t last = info->State.LastSeq;
    jsStreamInfo_Destroy(info);
    return last;
}

/* Nothing waits, and all is acknowledged, up to the end of the stream: a consumer's leader that was just elected may have a
 * replica that is behind, and says of that. With frontier acks what is pending does not count: nats-server 2.9 counts a message
 * below the ack floor for ever, if it counted back and the ack of a link that ended came late (ADR 15). With an ack for each the
 * floor does not count: in a cluster it is what the replicas have agreed on, and may stand below for good while its leader has
 * nothing pending (seen on 2.10.27: floor 8,262 of 8,793). */
static inline bool witness_is_idle(void *arg)
{
    struct in_flight f;

    if (!witness_consumer(arg, &f) || f.pending > 0 || f.delivered_seq < witness_last(arg))
        return false;
    return f.frontier ? f.floor >= f.delivered_seq : f.unacked == 0;
}

/* ---- Reading streams --------------------------------------------------------------------------------------------- */

static inline void read_envelope(const natsMsg *msg, struct truth_stored *s)
{
    json_t *root = json_loadb(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), JSON_REJECT_DUPLICATES, NULL);
    const char *id = json_string_value(json_object_get(root, "aggregate_id"));

    s->aggregate = id ? (uint32_t)strtoul(id + 1, NULL, 10) : UINT32_MAX;
    s->version = (uint32_t)json_integer_value(json_object_get(root, "event_version"));
    json_decref(root);
}

struct asked {
    struct witness *w;
    const char *stream;
    uint64_t seq;
    jsStreamInfo *info;
    natsMsg *msg;
};

/* Servers that elect a leader answer later. */
static inline bool stream_answers(void *arg)
{
    struct asked *a = arg;
    const natsStatus e = js_GetStreamInfo(&a->info, a->w->js, a->stream, NULL, NULL);

    return e == NATS_OK || e == NATS_NOT_FOUND;
}

static inline bool message_answers(void *arg)
{
    struct asked *a = arg;
    const natsStatus e = js_GetMsg(&a->msg, a->w->js, a->stream, a->seq, NULL, NULL);

    return e == NATS_OK || e == NATS_NOT_FOUND;
}

static inline void witness_read(struct witness *w, const char *stream, const char *subject, bool letters,
                                struct truth_content *content)
{
    struct asked a = {.w = w, .stream = stream};

    assert_true(wait_until(stream_answers, &a, wait_patience_ms()));
    jsStreamInfo *info = a.info;
    for (uint64_t seq = info ? info->State.FirstSeq : 1; info && info->State.Msgs > 0 && seq <= info->State.LastSeq;
         seq++) {
        struct truth_stored s = {.sequence = seq};
        const char *of = NULL;
        a.seq = seq;
        a.msg = NULL;
        assert_true(wait_until(message_answers, &a, wait_patience_ms()));
        natsMsg *msg = a.msg;
        if (!msg)
            continue;
        if (strcmp(natsMsg_GetSubject(msg), subject) == 0) {
            read_envelope(msg, &s);
            s.stored_ns = natsMsg_GetTime(msg);
            if (letters && natsMsgHeader_Get(msg, "Evbus-Sequence", &of) == NATS_OK)
                s.sequence = strtoull(of, NULL, 10);
            truth_content_add(content, &s);
        }
        natsMsg_Destroy(msg);
    }
    jsStreamInfo_Destroy(info);
}

#define TRUTH_ON_THE_WAY_MS 2000 /* nobody is stopped: what left a process is stored by then */

/* What each server holds of the dead letters. */
static inline void witness_read_letters(struct witness *w, struct truth_case *c)
{
    char url[128], why[256] = "";

    assert_int_equal(natsConnection_GetConnectedUrl(w->nc, url, sizeof url), NATS_OK);
    const char *port = strrchr(url, ':');
    assert_non_null(port);
    if (!truth_read_servers((uint16_t)strtoul(port + 1, NULL, 10), EV_DLQ_STREAM, 3 * wait_patience_ms(),
                            c->letter_servers, why, sizeof why))
        fail_msg("%s", why);
}

/* Judges a run by its logs and by what the server holds. */
static inline struct truth_account witness_judge(struct witness *w, struct truth_case *c)
{
    struct truth_account account;

    witness_read(w, w->stream, w->topic, false, &c->stream);
    witness_read(w, EV_DLQ_STREAM, w->letters, true, &c->letters);
    if (c->server_count > 0)
        witness_read_letters(w, c);
    const bool kept = truth_judge(c, &account);
    truth_content_clear(&c->stream);
    truth_content_clear(&c->letters);
    for (size_t i = 0; i < TRUTH_SERVERS; i++)
        truth_content_clear(&c->letter_servers[i]);
    if (account.letters_lost > 0)
        print_message("%s: %" PRIu64 " dead letters were lost by the servers\n", c->name, account.letters_lost);
    if (!kept)
        fail_msg("EVBUS_SEED=%" PRIu64 ": %s", c->seed, c->verdict);
    return account;
}

/* ---- Children ---------------------------------------------------------------------------------------------------- */

#define CHILDREN 10

/* The members of a run, and who publishes, each in a process of its own; known by its log. */
struct family {
    char dir[64];
    struct truth logs[CHILDREN];
    pid_t pids[CHILDREN]; /* 0: ended */
    size_t count;
};

static inline void family_begin(struct family *f)
{
    memset(f, 0, sizeof *f);
    (void)strcpy(f->dir, "/tmp/evbus-truth-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static inline struct truth *family_child(struct family *f, struct driver_opts *o)
{
    char log[96];

    assert_true(f->count < CHILDREN);
    (void)snprintf(log, sizeof log, "%s/%zu", f->dir, f->count);
    assert_true(truth_open(&f->logs[f->count], log, (uint16_t)(f->count + 1), DRIVER_LOG));
    o->first_version = (uint32_t)f->count * 1000000u;
    f->pids[f->count] = driver_fork(log, (uint16_t)(f->count + 1), o);
    assert_true(f->pids[f->count] > 0);
    return &f->logs[f->count++];
}

static inline pid_t *family_pid(struct family *f, const struct truth *child)
{
    return &f->pids[child - f->logs];
}

static inline void family_kill(struct family *f, const struct truth *child, int signal)
{
    pid_t *pid = family_pid(f, child);

    (void)kill(*pid, signal);
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *pid = 0;
}

static inline void family_signal(struct family *f, const struct truth *child, int signal)
{
    int status;

    (void)kill(*family_pid(f, child), signal);
    if (signal == SIGSTOP)
        (void)waitpid(*family_pid(f, child), &status, WUNTRACED);
}

static inline void family_end(struct family *f)
{
    char path[96];

    for (size_t i = 0; i < f->count; i++) {
        if (f->pids[i] > 0) {
            (void)kill(f->pids[i], SIGKILL);
            (void)waitpid(f->pids[i], NULL, 0);
        }
        truth_close(&f->logs[i]);
        (void)snprintf(path, sizeof path, "%s/%zu", f->dir, i);
        (void)unlink(path);
    }
    (void)rmdir(f->dir);
    f->count = 0;
}

struct until {
    struct truth *log;
    uint64_t value;
};

static inline bool started_enough(void *arg)
{
    const struct until *u = arg;

    return atomic_load(&u->log->shared->starts) >= u->value || atomic_load(&u->log->shared->state) == DRIVER_FAILED;
}

static inline bool accepted_enough(void *arg)
{
    const struct until *u = arg;

    return atomic_load(&u->log->shared->accepted) >= u->value;
}

static inline bool reached_state(void *arg)
{
    const struct until *u = arg;

    return atomic_load(&u->log->shared->state) >= u->value;
}

static inline void await_starts_within(struct truth *log, uint64_t more, uint32_t timeout_ms)
{
    struct until u = {log, atomic_load(&log->shared->starts) + more};

    assert_true(wait_until(started_enough, &u, timeout_ms));
    assert_int_not_equal(atomic_load(&log->shared->state), DRIVER_FAILED);
}

static inline void await_starts(struct truth *log, uint64_t more)
{
    await_starts_within(log, more, wait_patience_ms());
}

static inline void await_state(const struct truth *child, uint64_t state, uint32_t timeout_ms)
{
    struct until u = {(struct truth *)child, state};

    assert_true(wait_until(reached_state, &u, timeout_ms));
    assert_int_not_equal(atomic_load(&child->shared->state), DRIVER_FAILED);
}

/* It publishes nothing more, and all that it published has an outcome. */
static inline void family_hush(const struct truth *child)
{
    atomic_store(&child->shared->command, DRIVER_STOP_PUBLISHING);
    await_state(child, DRIVER_SETTLED, 3 * wait_patience_ms());
}

/* It shuts down. */
static inline void family_leave(struct family *f, const struct truth *child)
{
    atomic_store(&child->shared->command, DRIVER_END);
    await_state(child, DRIVER_ENDED, 2 * wait_patience_ms());
    family_kill(f, child, 0);
}

static inline void await_idle(struct witness *w)
{
    struct in_flight at = {0};

    if (wait_until(witness_is_idle, w, 3 * wait_patience_ms()))
        return;
    (void)witness_consumer(w, &at);
    fail_msg("it does not come to rest: pending %" PRIu64 ", not acknowledged %" PRIu64 ", floor %" PRIu64
             " of %" PRIu64,
             at.pending, at.unacked, at.floor, at.delivered_seq);
}

/* The child ends in order, once the server has nothing in flight. */
static inline void family_finish(struct family *f, const struct truth *child, struct witness *w)
{
    family_hush(child);
    await_idle(w);
    family_leave(f, child);
}

/* Judges the run by all their logs, which are gone then. */
static inline struct truth_account family_judge(struct family *f, struct witness *w, struct truth_case *c)
{
    c->logs = f->logs;
    c->log_count = f->count;
    const struct truth_account account = witness_judge(w, c);
    family_end(f);
    return account;
}

static inline int truth_main(const char *name, const struct CMUnitTest *tests, size_t count, int argc, char **argv)
{
    if (driver_is_child(argc, argv))
        return driver_main(argc, argv);
    if (!nats_server_available() || nats_Open(-1) != NATS_OK) {
        printf("SKIPPED: %s: no nats-server\n", name);
        return 77;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests(name, tests, count, NULL, NULL);
}

#endif
