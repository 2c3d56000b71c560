/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus pub: messages from the command line or from stdin. Envelopes are waited for one by one and their receipts
 * printed; plain messages (and envelopes with --no-wait) go out in a stream, and the shutdown of the bus waits for the
 * broker's answers to all of them. Whatever the broker did not store makes the exit status.
 */
#include "cli.h"
#include "json_out.h"
#include "progress.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pub_options {
    struct common c;
    bool envelope, wait, no_wait, ephemeral, whole;
    const char *aggregate, *type, *event_id, *trace, *correlation, *key;
    int64_t version, tenant, count;
    uint32_t timeout_ms;
    struct arg_list headers;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct pub_options, field), min, max                                         \
    }

static const struct arg args[] = {
    ARG(ARG_FLAG, "--envelope", NULL, envelope, 0, 0, "publish domain events; MESSAGE is the payload, JSON"),
    ARG(ARG_TEXT, "--aggregate", "ID", aggregate, 0, 0, "aggregate id (needed for envelopes)"),
    ARG(ARG_TEXT, "--type", "TYPE", type, 0, 0, "event type (needed for envelopes)"),
    ARG(ARG_NUMBER, "--version", "N", version, 1, INT64_MAX, "version of the aggregate (1); counts up per message"),
    ARG(ARG_TEXT, "--event-id", "ID", event_id, 0, 0, "event id, for one message (default: a new UUIDv7)"),
    ARG(ARG_NUMBER, "--tenant", "N", tenant, INT64_MIN, INT64_MAX, "tenant id (0: none)"),
    ARG(ARG_TEXT, "--trace", "ID", trace, 0, 0, "trace id"),
    ARG(ARG_TEXT, "--correlation", "ID", correlation, 0, 0, "correlation id"),
    ARG(ARG_LIST, "--header", "K=V", headers, 0, 0, "a header; can be repeated"),
    ARG(ARG_TEXT, "--key", "KEY", key, 0, 0, "partition key of plain messages"),
    ARG(ARG_NUMBER, "--count", "N", count, 1, INT64_MAX, "publish every message N times"),
    ARG(ARG_FLAG, "--wait", NULL, wait, 0, 0, "envelopes: wait for each outcome and print it (default)"),
    ARG(ARG_FLAG, "--no-wait", NULL, no_wait, 0, 0, "envelopes: wait for all outcomes together, at the end"),
    ARG(ARG_FLAG, "--ephemeral", NULL, ephemeral, 0, 0, "plain messages: no stream, only who listens now gets them"),
    ARG(ARG_FLAG, "--whole", NULL, whole, 0, 0, "all of stdin is one message"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 1, 86400000, "for one message, from call to outcome (5)"),
};

static int run_pub(const struct common *options, const struct arg_list *operands);

const struct command command_pub = {
    .name = "pub",
    .summary = "publish messages to a topic",
    .synopsis = "TOPIC [MESSAGE... | -] [options]",
    .text = "Each MESSAGE is published as one message. Without any, or with -, every line of stdin is one.\n"
            "\n"
            "Envelopes print one line each: what the broker stored and where. Plain messages print one\n"
            "line at the end: how many were stored, refused, or are unknown. A topic that no stream\n"
            "covers gets a stream of its own; see --ephemeral.\n"
            "\n"
            "Examples\n"
            "  evbus pub orders.created hello\n"
            "  evbus pub orders --envelope --aggregate order-42 --type OrderPlaced '{\"total\":12}'\n"
            "  evbus pub orders --envelope --aggregate order-42 --type Tick --version 2 <events.ndjson\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct pub_options),
    .uses = USES_CONNECTION | USES_RUN,
    .run = run_pub,
};

struct publisher {
    const struct pub_options *o;
    evbus *bus;
    const char *topic;
    evbus_header *headers;
    struct progress progress;
    uint64_t published; /* accepted by the library, or waited for and stored */
    struct json json;
    int result;            /* the first failure decides */
    pthread_mutex_t mutex; /* guards `late`: on_publish_error runs on a thread of the bus */
    evbus_receipt late;    /* the first refused or unknown publish that nobody waited for */
};

/* ---- Checking ---------------------------------------------------------------------------------------------------- */

static int check_envelope(const struct pub_options *o, const struct arg_list *messages)
{
    const char *cmd = o->c.command;

    if (!o->aggregate)
        return usage_error(cmd, "--envelope needs --aggregate ID");
    if (!o->type)
        return usage_error(cmd, "--envelope needs --type TYPE");
    if (o->wait && o->no_wait)
        return usage_error(cmd, "--wait and --no-wait exclude each other");
    if (o->ephemeral)
        return usage_error(cmd, "--ephemeral: envelopes are always stored");
    if (o->key)
        return usage_error(cmd, "--key: the key of an envelope is its --aggregate");
    if (o->event_id && (o->count > 1 || messages->count > 1))
        return usage_error(cmd, "--event-id names one message, but several are to be published");
    return CLI_OK;
}

static int check_plain(const struct pub_options *o)
{
    const struct {
        const char *name;
        bool given;
    } only_envelopes[] = {
        {"--aggregate", o->aggregate != NULL},
        {"--type", o->type != NULL},
        {"--version", o->version != 0},
        {"--event-id", o->event_id != NULL},
        {"--tenant", o->tenant != 0},
        {"--trace", o->trace != NULL},
        {"--no-wait", o->no_wait},
        {"--correlation", o->correlation != NULL},
    };

    for (size_t i = 0; i < sizeof only_envelopes / sizeof only_envelopes[0]; i++)
        if (only_envelopes[i].given)
            return usage_error(o->c.command, "%s is for envelopes only; add --envelope", only_envelopes[i].name);
    return CLI_OK;
}

/* "K=V" becomes a name and a value inside the argument itself, which is ours to write into. */
static int split_headers(struct publisher *p)
{
    const struct arg_list *list = &p->o->headers;

    p->headers = calloc(list->count + 1, sizeof *p->headers);
    if (!p->headers) {
        complain(p->o->c.command, "out of memory");
        return CLI_FAILED;
    }
    for (size_t i = 0; i < list->count; i++) {
        char *equals = strchr(list->items[i], '=');
        if (!equals || equals == list->items[i])
            return usage_error(p->o->c.command, "--header: '%s' is not of the form NAME=VALUE", list->items[i]);
        *equals = 0;
        p->headers[i] = (evbus_header){.name = list->items[i], .value = equals + 1};
    }
    return CLI_OK;
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

static void on_publish_error(const evbus_receipt *receipt, void *ctx)
{
    struct publisher *p = ctx;

    pthread_mutex_lock(&p->mutex);
    if (p->late.status == EVBUS_OK)
        p->late = *receipt;
    pthread_mutex_unlock(&p->mutex);
}

/* One line per receipt; false when stdout is gone. */
static bool print_receipt(struct publisher *p, const evbus_envelope *env, const evbus_receipt *r)
{
    static const char *const outcomes[] = {"", "stored", "refused", "unknown"};
    struct json *j = &p->json;

    progress_clear(&p->progress);
    if (!p->o->c.json) {
        if (r->outcome != EVBUS_OUTCOME_STORED)
            return true; /* stderr tells */
        return printf("%s %s sequence %" PRIu64 " event %s\n", r->duplicate ? "duplicate" : "stored", r->stream,
                      r->sequence, r->event_id) > 0 &&
               fflush(stdout) == 0;
    }
    json_open(j, NULL, '{');
    json_string(j, "outcome", r->outcome <= EVBUS_OUTCOME_UNKNOWN ? outcomes[r->outcome] : "");
    json_bool(j, "duplicate", r->duplicate);
    json_string(j, "topic", r->topic);
    json_string(j, "stream", r->stream);
    json_uint(j, "sequence", r->sequence);
    json_string(j, "event_id", r->event_id);
    json_string(j, "aggregate_id", r->aggregate_id);
    json_int(j, "event_version", env->event_version);
    json_fixed(j, "latency_ms", (double)(r->completed_ns - r->accepted_ns) / 1e6);
    if (r->status != EVBUS_OK) {
        json_string(j, "status", evbus_status_name(r->status));
        json_string(j, "detail", r->detail);
    }
    json_close(j, '}');
    return json_print(j, stdout);
}

static evbus_status publish_envelope(struct publisher *p, const char *data, size_t len, bool *ret_printed)
{
    const struct pub_options *o = p->o;
    evbus_receipt receipt;
    const evbus_envelope env = {
        .event_id = o->event_id,
        .aggregate_id = o->aggregate,
        .event_type = o->type,
        .event_version = (o->version ? o->version : 1) + (int64_t)p->published,
        .trace_id = o->trace,
        .correlation_id = o->correlation,
        .tenant_id = o->tenant,
        .payload = data,
        .payload_len = len,
    };
    const evbus_pub_opts *opts = EVBUS_OPTS(evbus_pub_opts, .headers = p->headers);

    if (o->no_wait)
        return evbus_publish_envelope(p->bus, p->topic, &env, opts);
    evbus_receipt_init(&receipt);
    const evbus_status st = evbus_publish_envelope_wait(p->bus, p->topic, &env, opts, &receipt);
    if (receipt.outcome)
        *ret_printed = print_receipt(p, &env, &receipt);
    return st;
}

/* One message, --count times. False: no more messages. */
static bool publish(struct publisher *p, const char *data, size_t len, const char *where)
{
    const struct pub_options *o = p->o;
    const int64_t count = o->count ? o->count : 1;

    for (int64_t i = 0; i < count && !stop_asked(); i++) {
        bool printed = true;
        if (o->event_id && p->published) {
            p->result = usage_error(o->c.command, "%s: --event-id names one message, but this is another", where);
            return false;
        }
        const evbus_status st = o->envelope
                                    ? publish_envelope(p, data, len, &printed)
                                    : evbus_publish(p->bus, p->topic, data, len,
                                                    EVBUS_OPTS(evbus_pub_opts, .headers = p->headers, .key = o->key));
        if (st != EVBUS_OK) {
            progress_clear(&p->progress);
            p->result = fail(o->c.command, st, "%s", where);
            return false;
        }
        p->published++;
        if (!printed) {
            output_failed(o->c.command, errno);
            p->result = CLI_FAILED;
            return false;
        }
        if (progress_due(&p->progress))
            progress_show(&p->progress, "published %" PRIu64, p->published);
    }
    return !stop_asked();
}

/* ---- Where messages come from ------------------------------------------------------------------------------------ */

static void publish_operands(struct publisher *p, const struct arg_list *operands)
{
    char where[48];

    for (size_t i = 1; i < operands->count; i++) {
        (void)snprintf(where, sizeof where, "message %zu", i);
        if (!publish(p, operands->items[i], strlen(operands->items[i]), where))
            return;
    }
}

static void complain_stdin(struct publisher *p)
{
    if (stop_asked() || !ferror(stdin))
        return;
    complain(p->o->c.command, "cannot read standard input: %s", strerror(errno));
    p->result = CLI_FAILED;
}

static void publish_lines(struct publisher *p)
{
    char *line = NULL, where[48];
    size_t cap = 0;
    ssize_t len;

    for (uint64_t n = 1; !stop_asked() && (len = getline(&line, &cap, stdin)) >= 0; n++) {
        if (len && line[len - 1] == '\n')
            line[--len] = 0;
        (void)snprintf(where, sizeof where, "line %" PRIu64, n);
        if (!publish(p, line, (size_t)len, where))
            break;
    }
    free(line);
    complain_stdin(p);
}

static void publish_whole(struct publisher *p)
{
    char *data = NULL;
    size_t len = 0, cap = 0, n;

    do {
        if (cap - len < 65536) {
            char *more = realloc(data, cap = 2 * cap + 131072);
            if (!more) {
                complain(p->o->c.command, "out of memory after %zu bytes of standard input", len);
                p->result = CLI_FAILED;
                free(data);
                return;
            }
            data = more;
        }
        n = fread(data + len, 1, cap - len, stdin);
        len += n;
    } while (n && !stop_asked());
    complain_stdin(p);
    if (p->result == CLI_OK && !stop_asked())
        (void)publish(p, data, len, "standard input");
    free(data);
}

/* ---- The end ----------------------------------------------------------------------------------------------------- */

static void print_summary(struct publisher *p, const evbus_statistics *s)
{
    struct json *j = &p->json;

    if (p->o->c.json) {
        json_open(j, NULL, '{');
        json_string(j, "topic", p->topic);
        json_uint(j, "published", p->published);
        json_uint(j, "stored", s->publishes_stored);
        json_uint(j, "duplicates", s->publishes_duplicate);
        json_uint(j, "not_stored", s->publishes_core);
        json_uint(j, "refused", s->publishes_refused);
        json_uint(j, "unknown", s->publishes_unknown);
        json_close(j, '}');
        (void)json_print(j, stdout);
        return;
    }
    (void)printf("published %" PRIu64 " to %s: %" PRIu64 " stored", p->published, p->topic, s->publishes_stored);
    if (s->publishes_duplicate)
        (void)printf(" (%" PRIu64 " of them duplicates)", s->publishes_duplicate);
    if (s->publishes_core)
        (void)printf(", %" PRIu64 " sent without a stream", s->publishes_core);
    (void)printf(", %" PRIu64 " refused, %" PRIu64 " unknown\n", s->publishes_refused, s->publishes_unknown);
}

/* Waits for every outcome that is still open; what went wrong is told here. */
static void finish(struct publisher *p)
{
    evbus_statistics stats = {.struct_size = sizeof stats};
    const uint32_t outcome_ms = p->o->timeout_ms ? p->o->timeout_ms : 5000;

    (void)evbus_shutdown(p->bus, outcome_ms + 1000, NULL); /* every publish ends within its own time */
    (void)evbus_stats(p->bus, &stats);
    progress_clear(&p->progress);
    if ((!p->o->envelope || p->o->no_wait) && (p->published || p->result == CLI_OK))
        print_summary(p, &stats);
    else if (p->result != CLI_OK && p->published)
        complain(p->o->c.command, "published before that: %" PRIu64, p->published);
    if (p->late.status != EVBUS_OK) {
        complain(p->o->c.command, "%s%s: %s%s%s%s", p->late.topic, p->late.event_id[0] ? " event" : "",
                 evbus_strerror(p->late.status), p->late.detail[0] ? " (" : "", p->late.detail,
                 p->late.detail[0] ? ")" : "");
        if (p->result == CLI_OK)
            p->result = exit_of(p->late.status);
    }
    if (p->result == CLI_OK && stats.publishes_refused + stats.publishes_unknown > 0)
        p->result = CLI_FAILED;
    if (p->result == CLI_OK && stop_signal()) {
        complain(p->o->c.command, "interrupted after %" PRIu64 " messages", p->published);
        p->result = CLI_SIGNAL + stop_signal();
    }
}

static int open_and_publish(struct publisher *p, const struct arg_list *operands)
{
    const struct pub_options *o = p->o;
    const bool from_stdin = operands->count == 1 || (operands->count == 2 && strcmp(operands->items[1], "-") == 0);
    evbus_opts opts;

    connection_fill(&o->c, &opts);
    opts.publish_timeout_ms = o->timeout_ms;
    opts.on_publish_error = on_publish_error;
    opts.on_publish_error_ctx = p;
    const int opened = connection_open(&o->c, &opts, &p->bus);
    if (opened != CLI_OK)
        return opened;
    if (o->ephemeral) {
        const evbus_status st =
            evbus_topic_configure(p->bus, p->topic, EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL));
        if (st != EVBUS_OK)
            p->result = fail(o->c.command, st, "--ephemeral");
    }
    if (p->result != CLI_OK)
        ;
    else if (!from_stdin)
        publish_operands(p, operands);
    else if (o->whole)
        publish_whole(p);
    else
        publish_lines(p);
    finish(p);
    evbus_close(p->bus);
    return p->result;
}

static int run_pub(const struct common *options, const struct arg_list *operands)
{
    const struct pub_options *o = (const struct pub_options *)options;
    struct publisher p = {.o = o, .mutex = PTHREAD_MUTEX_INITIALIZER};

    if (operands->count == 0)
        return usage_error(o->c.command, "no TOPIC given");
    p.topic = operands->items[0];
    int result = o->envelope ? check_envelope(o, &(struct arg_list){.count = operands->count - 1}) : check_plain(o);
    if (result != CLI_OK)
        return result;
    if (o->whole && operands->count > 1 && strcmp(operands->items[1], "-") != 0)
        return usage_error(o->c.command, "--whole: '%s' is given, so stdin is not read", operands->items[1]);
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    progress_init(&p.progress, o->c.progress);
    result = split_headers(&p);
    if (result == CLI_OK)
        result = open_and_publish(&p, operands);
    json_fini(&p.json);
    free(p.headers);
    return result;
}
