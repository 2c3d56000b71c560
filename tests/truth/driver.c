/* SPDX-License-Identifier: Apache-2.0 */
#include "driver.h"

#include "../support/wait.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SAMPLE_MS 2

bool driver_frontier;

/* ---- Numbers ----------------------------------------------------------------------------------------------------- */

uint64_t driver_random(uint64_t *rng)
{
    *rng += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *rng;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t driver_seed(uint64_t usual)
{
    const char *given = getenv("EVBUS_SEED");

    return given && *given ? strtoull(given, NULL, 10) : usual;
}

uint32_t driver_points(uint32_t usual)
{
    const char *full = getenv("EVBUS_LONG");

    return full && *full && usual < 20 ? 20 : usual;
}

static void nap_us(uint32_t us)
{
    const struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

    if (us > 0)
        (void)nanosleep(&ts, NULL);
}

struct driver_opts driver_defaults(const char *url, uint64_t seed)
{
    struct driver_opts o = {.seed = seed,
                            .aggregates = 8,
                            .publishers = DRIVER_PUBLISHERS,
                            .consume = true,
                            .inflight_max = 128,
                            .ack_wait_ms = 1000,
                            .attempts_max = 3,
                            .handler_us = 6000,
                            .pause_us = 500,
                            .publish_timeout_ms = 4000,
                            .heartbeat_ms = 400,
                            .publish_inflight_max = 256,
                            .backlog_max = 300,
                            .frontier = driver_frontier,
                            .replicas = 1};

    (void)snprintf(o.url, sizeof o.url, "%s", url);
    (void)snprintf(o.topic, sizeof o.topic, "truth.orders");
    return o;
}

/* ---- Handling ---------------------------------------------------------------------------------------------------- */

/* The same for the same message and attempt, whoever handles it. */
static uint64_t lot(const struct driver *d, const evbus_msg *msg)
{
    uint64_t rng = d->o.seed ^ (uint64_t)truth_aggregate(msg) << 40 ^
                   (uint64_t)evbus_msg_envelope(msg)->event_version << 8 ^ evbus_msg_attempt(msg);

    return driver_random(&rng);
}

static evbus_verdict verdict_of(const struct driver *d, uint64_t lot)
{
    const uint64_t n = lot % 1000;

    if (d->o.calm)
        return EVBUS_ACK;
    return n < 4 ? EVBUS_REJECT : n < 40 ? EVBUS_RETRY : EVBUS_ACK;
}

static bool defer(struct driver *d, const evbus_msg *msg)
{
    pthread_mutex_lock(&d->mutex);
    const bool room = d->deferred_count < DRIVER_DEFERRED && !atomic_load(&d->ending);
    if (room)
        d->deferred[d->deferred_count++] = msg;
    pthread_mutex_unlock(&d->mutex);
    return room;
}

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    struct driver *d = ctx;
    const uint64_t n = lot(d, msg);

    truth_start(d->truth, d->member, msg);
    while (atomic_load(&d->hold) && !atomic_load(&d->ending))
        nap_us(200);
    nap_us(d->o.handler_us ? (uint32_t)(n >> 16) % d->o.handler_us : 0);
    const evbus_verdict v = verdict_of(d, n);
    if (v == EVBUS_RETRY)
        evbus_msg_retry_after(msg, 1 + (uint32_t)(n >> 40) % 5);
    if (!d->o.calm && (n >> 32) % 100 < 5 && defer(d, msg))
        return EVBUS_DEFER;
    truth_verdict(d->truth, d->member, msg, v);
    return v;
}

static void settle_deferred(struct driver *d)
{
    const evbus_msg *msgs[DRIVER_DEFERRED];

    pthread_mutex_lock(&d->mutex);
    const uint32_t count = d->deferred_count;
    memcpy(msgs, d->deferred, count * sizeof(const evbus_msg *));
    d->deferred_count = 0;
    pthread_mutex_unlock(&d->mutex);
    for (uint32_t i = 0; i < count; i++) {
        const evbus_verdict v = verdict_of(d, lot(d, msgs[i]));
        truth_verdict(d->truth, d->member, msgs[i], v);
        (void)evbus_msg_settle(msgs[i], v);
    }
}

/* Settles what was deferred, and takes the levels. */
static void *sample(void *arg)
{
    struct driver *d = arg;

    while (!atomic_load(&d->ending)) {
        const evbus_statistics s = driver_stats(d);
        if (!atomic_load(&d->auditing))
            truth_levels(d->truth, &s, d->o.publish_inflight_max, d->o.inflight_max);
        settle_deferred(d);
        nap_us(SAMPLE_MS * 1000);
    }
    return NULL;
}

static void on_event(const evbus_event *event, void *ctx)
{
    struct driver *d = ctx;

    if ((uint32_t)event->kind >= DRIVER_EVENTS)
        return;
    pthread_mutex_lock(&d->mutex);
    (void)snprintf(d->event_texts[event->kind], sizeof d->event_texts[0], "%s", event->text);
    pthread_mutex_unlock(&d->mutex);
    atomic_fetch_add(&d->event_counts[event->kind], event->count);
    atomic_fetch_add(&d->events[event->kind], 1);
}

/* With EV_TEST_LOG: what the library says. */
static void print_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    struct timespec now;

    (void)ctx;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)fprintf(stderr, "# %lld.%03ld [%d] %s: %s\n", (long long)now.tv_sec, now.tv_nsec / 1000000, (int)level,
                  subject, text);
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

static bool too_far_ahead(const struct driver *d)
{
    const struct truth_shared *s = d->truth->shared;

    return d->o.backlog_max &&
           atomic_load(&s->accepted) > atomic_load(&s->failed) + atomic_load(&s->starts) + d->o.backlog_max;
}

/* Each thread has aggregates of its own, and of each the versions in order. What was not accepted is called again, as a
 * caller does. */
static void *publish(void *arg)
{
    struct driver_publisher *p = arg;
    struct driver *d = p->driver;
    const uint32_t own = d->o.aggregates / d->o.publishers;
    uint32_t *versions = calloc(own, sizeof *versions);
    evbus_status st = EVBUS_OK;

    for (uint32_t at = 0; !atomic_load(&d->stop);) {
        if (too_far_ahead(d)) {
            nap_us(1000);
            continue;
        }
        const uint32_t aggregate = at * d->o.publishers + p->index;
        const uint32_t version = d->o.first_version + versions[at] + 1;
        if (d->o.waits)
            st = truth_publish_wait(d->truth, d->bus, d->o.topic, p->index, aggregate, version, 0, NULL);
        else
            st = truth_publish(d->truth, d->bus, d->o.topic, p->index, aggregate, version,
                               d->o.in_flood ? EVBUS_NOWAIT : 50);
        if (st == EVBUS_OK || st == EVBUS_UNKNOWN) {
            versions[at]++;
            at = (uint32_t)(driver_random(&p->rng) % own);
        }
        nap_us(st == EVBUS_OK ? d->o.pause_us : 1000);
    }
    free(versions);
    return NULL;
}

static void stop_publishing(struct driver *d)
{
    atomic_store(&d->stop, true);
    for (uint32_t i = 0; i < DRIVER_PUBLISHERS; i++) {
        if (d->publishers[i].running)
            pthread_join(d->publishers[i].thread, NULL);
        d->publishers[i].running = false;
    }
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static bool failed(struct driver *d, const char *what)
{
    (void)fprintf(stderr, "%s: %s\n", what, evbus_error_detail());
    evbus_close(d->bus);
    d->bus = NULL;
    return false;
}

static bool subscribe(struct driver *d)
{
    const evbus_sub_opts so = {.struct_size = sizeof so,
                               .inflight_max = d->o.inflight_max,
                               .ack_wait_ms = d->o.ack_wait_ms,
                               .attempts_max = d->o.attempts_max,
                               .membership = d->o.shared ? EVBUS_SHARED : EVBUS_EXCLUSIVE,
                               .ack_mode = d->o.frontier && !d->o.shared ? EVBUS_ACK_FRONTIER : EVBUS_ACK_EACH,
                               .retry_min_ms = 2,
                               .retry_max_ms = 20,
                               .deliveries_max = 1000,
                               .timeout_ms = 10000};

    d->member = truth_member(d->truth);
    return evbus_subscribe_envelope(d->bus, d->o.topic, handle, d, &so, &d->sub) == EVBUS_OK;
}

bool driver_resubscribe(struct driver *d)
{
    settle_deferred(d);
    if (evbus_unsubscribe(d->sub) != EVBUS_OK)
        return false;
    truth_left(d->truth, d->member);
    return subscribe(d);
}

bool driver_start(struct driver *d, const struct driver_opts *o, struct truth *truth)
{
    memset(d, 0, sizeof *d);
    d->o = *o;
    d->truth = truth;
    pthread_mutex_init(&d->mutex, NULL);
    const evbus_opts bo = {.struct_size = sizeof bo,
                           .name = "truth",
                           .publish_timeout_ms = o->publish_timeout_ms,
                           .publish_inflight_max = o->publish_inflight_max,
                           .publish_bytes_max = UINT64_C(1) << 30,
                           .heartbeat_ms = o->heartbeat_ms,
                           .member_ttl_ms = o->member_ttl_ms,
                           .connect_timeout_ms = 10000,
                           .reconnect_max_ms = 100,
                           .on_publish_error = truth_publish_error,
                           .on_publish_error_ctx = truth,
                           .receipts = o->receipts ? EVBUS_ON : EVBUS_OFF,
                           .on_receipt = o->receipts ? truth_receipt : NULL,
                           .on_receipt_ctx = truth,
                           .log = getenv("EV_TEST_LOG") ? print_log : NULL,
                           .on_event = on_event,
                           .on_event_ctx = d};
    if (evbus_open(o->url, &bo, &d->bus) != EVBUS_OK)
        return failed(d, "open");
    const evbus_topic_opts to = {.struct_size = sizeof to, .replicas = o->replicas};
    char letters[80];
    (void)snprintf(letters, sizeof letters, "dlq.%s", o->topic);
    if (evbus_topic_configure(d->bus, o->topic, &to) != EVBUS_OK ||
        evbus_topic_configure(d->bus, letters, &to) != EVBUS_OK)
        return failed(d, "configure");
    if (o->consume && !subscribe(d))
        return failed(d, "subscribe");
    d->sampling = pthread_create(&d->sampler, NULL, sample, d) == 0;
    for (uint32_t i = 0; i < o->publishers; i++) {
        struct driver_publisher *p = &d->publishers[i];
        *p = (struct driver_publisher){.driver = d, .index = i, .rng = o->seed + i};
        p->running = pthread_create(&p->thread, NULL, publish, p) == 0;
    }
    return true;
}

static bool no_publish_is_open(void *arg)
{
    return driver_stats(arg).publishes_inflight == 0;
}

bool driver_settle(struct driver *d, uint32_t timeout_ms)
{
    stop_publishing(d);
    return wait_until(no_publish_is_open, d, timeout_ms);
}

void driver_end(struct driver *d)
{
    if (!d->bus)
        return;
    stop_publishing(d);
    atomic_store(&d->ending, true);
    if (d->sampling)
        pthread_join(d->sampler, NULL);
    settle_deferred(d);
    (void)evbus_shutdown(d->bus, 10000, NULL);
    const evbus_statistics s = driver_stats(d);
    evbus_close(d->bus); /* ends the callbacks */
    if (d->o.consume)
        truth_left(d->truth, d->member);
    truth_totals(d->truth, &s);
    d->bus = NULL;
    pthread_mutex_destroy(&d->mutex);
}

evbus_statistics driver_stats(const struct driver *d)
{
    evbus_statistics s = {.struct_size = sizeof s};

    (void)evbus_stats(d->bus, &s);
    return s;
}

uint64_t driver_event(const struct driver *d, evbus_event_kind kind)
{
    return atomic_load(&d->events[kind]);
}

/* ---- Reading what is stored -------------------------------------------------------------------------------------- */

struct reader {
    pthread_mutex_t mutex;
    struct truth_content *content;
    bool letters;
    uint64_t wanted;
};

static evbus_verdict collect(const evbus_msg *msg, void *ctx)
{
    const char *of = evbus_msg_header(msg, "Evbus-Sequence");
    struct reader *r = ctx;
    const struct truth_stored s = {.sequence = r->letters ? strtoull(of ? of : "0", NULL, 10) : evbus_msg_sequence(msg),
                                   .aggregate = truth_aggregate(msg),
                                   .version = (uint32_t)evbus_msg_envelope(msg)->event_version,
                                   .stored_ns = evbus_msg_stored_ns(msg)};

    pthread_mutex_lock(&r->mutex);
    truth_content_add(r->content, &s);
    pthread_mutex_unlock(&r->mutex);
    return EVBUS_ACK;
}

static bool has_all(void *arg)
{
    struct reader *r = arg;

    pthread_mutex_lock(&r->mutex);
    const bool all = r->content->count >= r->wanted;
    pthread_mutex_unlock(&r->mutex);
    return all;
}

static bool read_topic(evbus *bus, const char *topic, struct reader *r)
{
    const evbus_sub_opts o = {.struct_size = sizeof o, .group = "audit"};
    evbus_sub *sub = NULL;

    if (r->wanted == 0)
        return true;
    pthread_mutex_init(&r->mutex, NULL);
    if (evbus_subscribe_envelope(bus, topic, collect, r, &o, &sub) != EVBUS_OK)
        return false;
    const bool all = wait_until(has_all, r, wait_patience_ms());
    (void)evbus_unsubscribe(sub);
    pthread_mutex_destroy(&r->mutex);
    return all;
}

bool driver_read(struct driver *d, uint64_t stored, uint64_t letters, struct truth_case *c)
{
    struct reader stream = {.content = &c->stream, .wanted = stored};
    struct reader dead = {.content = &c->letters, .wanted = letters, .letters = true};
    char topic[80];

    atomic_store(&d->auditing, true);
    (void)snprintf(topic, sizeof topic, "dlq.%s", d->o.topic);
    return read_topic(d->bus, d->o.topic, &stream) && read_topic(d->bus, topic, &dead);
}

/* ---- A child ----------------------------------------------------------------------------------------------------- */

#define WORDS 22

static void write_words(char words[WORDS][256], const char *log, uint16_t process, const struct driver_opts *o)
{
    const uint64_t numbers[] = {process,         o->seed,         o->aggregates,    o->publishers,
                                o->consume,      o->inflight_max, o->ack_wait_ms,   o->attempts_max,
                                o->handler_us,   o->pause_us,     o->first_version, o->publish_timeout_ms,
                                o->heartbeat_ms, o->replicas,     o->shared,        o->member_ttl_ms,
                                o->backlog_max,  o->frontier,     o->calm};

    (void)snprintf(words[0], 256, "%s", log);
    (void)snprintf(words[1], 256, "%s", o->url);
    (void)snprintf(words[2], 256, "%s", o->topic);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        (void)snprintf(words[3 + i], 256, "%" PRIu64, numbers[i]);
}

pid_t driver_fork(const char *log, uint16_t process, const struct driver_opts *o)
{
    static char name[] = "driver", role[] = "member";
    char words[WORDS][256];
    char *argv[WORDS + 3] = {name, role};

    write_words(words, log, process, o);
    for (size_t i = 0; i < WORDS; i++)
        argv[i + 2] = words[i];
    const pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives the test */
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    return pid;
}

bool driver_is_child(int argc, char **argv)
{
    return argc == WORDS + 2 && strcmp(argv[1], "member") == 0;
}

static struct driver_opts read_words(char **words)
{
    struct driver_opts o = driver_defaults(words[1], strtoull(words[4], NULL, 10));
    uint32_t n[WORDS];

    (void)snprintf(o.topic, sizeof o.topic, "%s", words[2]);
    for (int i = 5; i < WORDS; i++)
        n[i] = (uint32_t)strtoul(words[i], NULL, 10);
    o.aggregates = n[5];
    o.publishers = n[6];
    o.consume = n[7] != 0;
    o.inflight_max = n[8];
    o.ack_wait_ms = n[9];
    o.attempts_max = n[10];
    o.handler_us = n[11];
    o.pause_us = n[12];
    o.first_version = n[13];
    o.publish_timeout_ms = n[14];
    o.heartbeat_ms = n[15];
    o.replicas = n[16];
    o.shared = n[17] != 0;
    o.member_ttl_ms = n[18];
    o.backlog_max = n[19];
    o.frontier = n[20] != 0;
    o.calm = n[21] != 0;
    return o;
}

static bool commanded_end(void *arg)
{
    struct truth *t = arg;

    return atomic_load(&t->shared->command) == DRIVER_END;
}

static bool commanded_stop(void *arg)
{
    struct truth *t = arg;

    return atomic_load(&t->shared->command) >= DRIVER_STOP_PUBLISHING;
}

int driver_main(int argc, char **argv)
{
    static struct driver d;
    static struct truth t;
    const struct driver_opts o = read_words(argv + 2);

    (void)argc;
    if (!truth_open(&t, argv[2], (uint16_t)strtoul(argv[5], NULL, 10), DRIVER_LOG))
        return 1;
    if (!driver_start(&d, &o, &t)) {
        atomic_store(&t.shared->state, DRIVER_FAILED);
        return 1;
    }
    atomic_store(&t.shared->state, DRIVER_RUNNING);
    (void)wait_until(commanded_stop, &t, UINT32_MAX);
    if (driver_settle(&d, wait_patience_ms()))
        atomic_store(&t.shared->state, DRIVER_SETTLED);
    (void)wait_until(commanded_end, &t, UINT32_MAX);
    driver_end(&d);
    atomic_store(&t.shared->state, DRIVER_ENDED);
    truth_close(&t);
    return 0;
}
