/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus soak: a fixed rate for a long time, publishing and handling in this process. Latency is from the time at which the message
 * was to be published (not from when it could be) to the start of its handler.
 */
#include "cli.h"
#include "demo.h"
#include "json_out.h"
#include "soak.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define AGGREGATES 1000u
#define WORKERS 4u /* always: the number of threads may not change */
#define WARM_NS INT64_C(8000000000)
#define SAMPLE_MS 100u
#define SAMPLES_MAX 4096u
#define REST_NS INT64_C(30000000000)

struct soak_options {
    struct common c;
    int64_t rate, seconds;
    bool server;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct soak_options, field), min, max                                        \
    }

static const struct arg args[] = {
    ARG(ARG_NUMBER, "--rate", "N", rate, 1, 1000000, "events a second (10000)"),
    ARG(ARG_NUMBER, "--seconds", "N", seconds, 12, 864000, "how long (3600)"),
    ARG(ARG_FLAG, "--server", NULL, server, 0, 0, "on a nats-server of its own (default without --url: mem://)"),
};

static int run_soak(const struct common *options, const struct arg_list *operands);

const struct command command_soak = {
    .name = "soak",
    .summary = "publish and handle at a fixed rate for long, and judge what grows",
    .synopsis = "[--rate N] [--seconds N] [--server | --url URL]",
    .text = "Prints a line for each twelfth of the time: events handled, latency from the intended time of\n"
            "publishing to the start of the handler, and the threads, resident memory and open descriptors of this\n"
            "process. The first quarter, and at least 8 seconds, are its warm-up. After that the first third is\n"
            "compared with the last: no more threads, no more descriptors, memory within 1 % and 1 MiB, p50 at most\n"
            "doubled plus 5 ms, p99 tripled plus 100 ms. Every event must be stored and handled, and the rate kept\n"
            "within 5 %.\n"
            "\n"
            "Status 0: all of that. 1: something grew or was lost. 3: nats-server is not installed.\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct soak_options),
    .uses = USES_RUN | USES_CONNECTION,
    .run = run_soak,
};

/* ---- The load ---------------------------------------------------------------------------------------------------- */

static void on_publish_error(const evbus_receipt *receipt, void *ctx)
{
    struct soak *s = ctx;

    (void)receipt;
    atomic_fetch_add(&s->failed, 1);
}

static evbus_verdict handle(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *env = evbus_msg_envelope(msg);
    struct soak *s = ctx;
    long long at = 0;

    if (sscanf(env->payload, "{\"at\":%lld}", &at) == 1)
        soak_latency_add(&s->latency, now_ns() - at);
    else
        atomic_fetch_add(&s->damaged, 1);
    atomic_fetch_add(&s->handled, 1);
    return EVBUS_ACK;
}

static void publish_one(struct soak *s, uint64_t n, int64_t at)
{
    char aggregate[16], payload[48];
    const evbus_envelope env = {.aggregate_id = aggregate,
                                .event_type = "Soaked",
                                .event_version = (int64_t)(n / AGGREGATES) + 1,
                                .payload = payload};

    (void)snprintf(aggregate, sizeof aggregate, "s%u", (unsigned)(n % AGGREGATES));
    (void)snprintf(payload, sizeof payload, "{\"at\":%" PRId64 "}", at);
    if (evbus_publish_envelope(s->bus, s->topic, &env, NULL) == EVBUS_OK)
        atomic_fetch_add(&s->published, 1);
    else
        atomic_fetch_add(&s->declined, 1);
}

static void *publish(void *arg)
{
    struct soak *s = arg;
    const int64_t start = now_ns();

    for (uint64_t n = 0; !atomic_load(&s->stop); n++) {
        const int64_t at = start + (int64_t)((double)n * 1e9 / s->rate), left = at - now_ns();
        const struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        if (left > 0)
            (void)nanosleep(&pause, NULL);
        publish_one(s, n, at);
    }
    return NULL;
}

/* ---- Windows ----------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* One window of that length; false: asked to stop. */
static bool watch(struct soak *s, int64_t start, int64_t end)
{
    struct soak_window *w = &s->windows[s->window_count];
    static uint64_t memory[SAMPLES_MAX];
    const uint64_t before = atomic_load(&s->handled);
    uint32_t n = 0, skip = 0;
    const uint32_t every = (uint32_t)((end - now_ns()) / 1000000 / SAMPLE_MS / SAMPLES_MAX) + 1;

    while (now_ns() < end) {
        const int64_t left_ms = (end - now_ns()) / 1000000 + 1;
        if (stop_wait(left_ms < SAMPLE_MS ? (uint32_t)left_ms : SAMPLE_MS))
            return false;
        const uint32_t threads = soak_threads(), descriptors = soak_descriptors();
        w->threads = threads > w->threads ? threads : w->threads;
        w->descriptors = descriptors > w->descriptors ? descriptors : w->descriptors;
        if (skip++ % every == 0 && n < SAMPLES_MAX)
            memory[n++] = soak_memory();
    }
    qsort(memory, n, sizeof memory[0], ascending);
    w->memory_bytes = n ? memory[n / 2] : 0;
    w->handled = atomic_load(&s->handled) - before;
    w->ended_ns = now_ns() - start;
    soak_latency_take(&s->latency, &w->p50_us, &w->p99_us);
    s->window_count++;
    return true;
}

static void print_window(const struct soak *s, bool json)
{
    const struct soak_window *w = &s->windows[s->window_count - 1];
    const bool warm = s->window_count <= s->warm_count;
    struct json j = {0};

    if (!json) {
        (void)printf("%7.0f s%s %10" PRIu64 " handled  p50 %7.3f ms  p99 %8.3f ms  threads %3" PRIu32
                     "  memory %8" PRIu64 " KiB  descriptors %3" PRIu32 "\n",
                     (double)w->ended_ns / 1e9, warm ? " warm-up" : "        ", w->handled, (double)w->p50_us / 1000,
                     (double)w->p99_us / 1000, w->threads, w->memory_bytes >> 10, w->descriptors);
        (void)fflush(stdout);
        return;
    }
    json_open(&j, NULL, '{');
    json_fixed(&j, "seconds", (double)w->ended_ns / 1e9);
    json_bool(&j, "warm_up", warm);
    json_uint(&j, "handled", w->handled);
    json_int(&j, "p50_us", w->p50_us);
    json_int(&j, "p99_us", w->p99_us);
    json_uint(&j, "threads", w->threads);
    json_uint(&j, "memory_bytes", w->memory_bytes);
    json_uint(&j, "descriptors", w->descriptors);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* What a stream keeps shall not grow for longer than the warm-up. */
static evbus_status configure(struct soak *s, bool mem)
{
    evbus_topic_opts o;

    evbus_topic_opts_init(&o);
    o.max_bytes = UINT64_C(256) << 20;
    o.max_msgs = mem ? 4 * (uint64_t)s->rate : 0;
    o.duplicate_window_ms = 2000;
    return evbus_topic_configure(s->bus, s->topic, &o);
}

static int open_bus(struct soak *s, const struct common *c, const char *url)
{
    evbus_opts o;
    struct common with_url = *c;

    with_url.url = url;
    connection_fill(c, &o);
    o.workers_min = o.workers_max = WORKERS;
    o.on_publish_error = on_publish_error;
    o.on_publish_error_ctx = s;
    const int opened = connection_open(&with_url, &o, &s->bus);
    if (opened != CLI_OK)
        return opened;
    stop_mask(true);
    evbus_status st = configure(s, strncmp(url, "mem:", 4) == 0);
    if (st == EVBUS_OK)
        st =
            evbus_subscribe_envelope(s->bus, s->topic, handle, s, EVBUS_OPTS(evbus_sub_opts, .group = "soak"), &s->sub);
    stop_mask(false);
    return st == EVBUS_OK ? CLI_OK : fail(c->command, st, "cannot subscribe");
}

static bool watch_all(struct soak *s, bool json)
{
    const int64_t start = now_ns(), length = (int64_t)s->seconds * 1000000000 / SOAK_WINDOWS;
    const int64_t warm = (WARM_NS + length - 1) / length;

    s->warm_count = warm > SOAK_WINDOWS / 4 ? (uint32_t)warm : SOAK_WINDOWS / 4;
    for (int64_t i = 1; i <= SOAK_WINDOWS; i++) {
        if (!watch(s, start, start + i * length))
            return false;
        print_window(s, json);
    }
    return true;
}

/* What was published has been handled, or does not come. */
static void rest(struct soak *s)
{
    const int64_t until = now_ns() + REST_NS;

    s->stats.struct_size = sizeof s->stats;
    do
        (void)evbus_stats(s->bus, &s->stats);
    while ((s->stats.publishes_inflight ||
            atomic_load(&s->handled) + atomic_load(&s->failed) < atomic_load(&s->published)) &&
           now_ns() < until && !stop_wait(10));
}

static int soak(struct soak *s, const struct soak_options *o, const char *url)
{
    const int opened = open_bus(s, &o->c, url);

    if (opened != CLI_OK) {
        evbus_close(s->bus);
        return opened;
    }
    stop_mask(true);
    const bool started = pthread_create(&s->publisher, NULL, publish, s) == 0;
    stop_mask(false);
    const bool done = started && watch_all(s, o->c.json);
    atomic_store(&s->stop, true);
    if (started)
        (void)pthread_join(s->publisher, NULL);
    if (done)
        rest(s);
    (void)evbus_shutdown(s->bus, 0, NULL);
    evbus_close(s->bus);
    if (!started) {
        complain(o->c.command, "no thread for the publisher");
        return CLI_FAILED;
    }
    if (!done)
        return CLI_SIGNAL + stop_signal();
    soak_judge(s);
    if (!o->c.json)
        (void)printf("%s: %" PRIu64 " published, %" PRIu64 " handled: %s\n", url, atomic_load(&s->published),
                     atomic_load(&s->handled), s->verdict[0] ? "FAILED" : "nothing grew");
    if (s->verdict[0])
        complain(o->c.command, "%s", s->verdict);
    return s->verdict[0] ? CLI_FAILED : CLI_OK;
}

static int soak_on_server(struct soak *s, const struct soak_options *o)
{
    struct demo_server server;
    char why[512] = "";
    int result = CLI_FAILED;

    switch (demo_server_start(&server, why, sizeof why)) {
    case SERVER_RUNS:
        result = soak(s, o, server.url);
        demo_server_stop(&server);
        break;
    case SERVER_MISSING:
        complain(o->c.command, "%s", why);
        result = CLI_CONNECT;
        break;
    case SERVER_FAILED:
        complain(o->c.command, "%s", why);
        break;
    }
    return result;
}

static int run_soak(const struct common *options, const struct arg_list *operands)
{
    const struct soak_options *o = (const struct soak_options *)options;
    struct timespec now;
    int result;

    if (operands->count)
        return usage_error(o->c.command, "'%s': soak takes no operands", operands->items[0]);
    if (o->server && o->c.url)
        return usage_error(o->c.command, "--server and --url exclude each other");
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    struct soak *s = calloc(1, sizeof *s);
    if (!s) {
        complain(o->c.command, "out of memory");
        return CLI_FAILED;
    }
    (void)clock_gettime(CLOCK_REALTIME, &now);
    s->rate = o->rate ? (uint32_t)o->rate : 10000;
    s->seconds = o->seconds ? (uint32_t)o->seconds : 3600;
    (void)snprintf(s->topic, sizeof s->topic, "soak.%llx", (unsigned long long)now.tv_sec << 20 | now.tv_nsec >> 10);
    result = o->server ? soak_on_server(s, o) : soak(s, o, o->c.url ? o->c.url : "mem://");
    free(s);
    return result;
}
