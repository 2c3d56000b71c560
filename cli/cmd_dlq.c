/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus dlq: dead letters where they lie. They are read by their sequence, so that looking takes nothing and leaves
 * nothing behind; redriving waits for each before the next, and ends at the first that fails: order is kept.
 */
#include "cli.h"
#include "json_out.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct dlq_options {
    struct common c;
    const char *letter_topic, *topic, *group, *aggregate, *cause, *since;
    bool all;
    int64_t limit;
    uint32_t timeout_ms;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct dlq_options, field), min, max                                         \
    }

static const struct arg args[] = {
    ARG(ARG_TEXT, "--letter-topic", "TOPIC", letter_topic, 0, 0, "where the letters lie; default: dlq.>"),
    ARG(ARG_TEXT, "--topic", "TOPIC", topic, 0, 0, "of messages that came from TOPIC, or a pattern"),
    ARG(ARG_TEXT, "--group", "GROUP", group, 0, 0, "that this group gave up"),
    ARG(ARG_TEXT, "--aggregate", "ID", aggregate, 0, 0, "of this aggregate"),
    ARG(ARG_TEXT, "--cause", "TEXT", cause, 0, 0, "with TEXT in the cause or the detail"),
    ARG(ARG_TEXT, "--since", "AGE", since, 0, 0, "given up within the last AGE: 90s, 15m, 2h, 7d"),
    ARG(ARG_NUMBER, "--limit", "N", limit, 1, INT64_MAX, "no more than N letters"),
    ARG(ARG_FLAG, "--all", NULL, all, 0, 0, "redrive, drop: all letters, without a filter"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 1, 2000000000, "for each step at the broker; default: 5"),
};

static int run_dlq(const struct common *options, const struct arg_list *operands);

const struct command command_dlq = {
    .name = "dlq",
    .summary = "list, show, redrive or drop dead letters",
    .synopsis = "ls|show|redrive|drop [SEQUENCE...] [options]",
    .text = "A message that nobody could handle lies in the dead-letter topic (dlq. and its topic), with its\n"
            "cause. ls lists, show prints a letter whole. redrive publishes letters again where they came\n"
            "from, byte for byte, oldest first, each stored before the next, and takes them out; it ends at\n"
            "the first that fails. What was published meanwhile stays in front of them, and all groups of\n"
            "the topic get them. drop takes letters out for good. Those two want SEQUENCEs, a filter or\n"
            "--all. An aggregate that is parked (\"parked behind ...\") goes on when all of its letters are\n"
            "redriven or dropped; what is published meanwhile is parked too, so redrive until none is left.\n"
            "\n"
            "Each line of ls: sequence, age, topic, group, aggregate, attempts, cause.\n"
            "\n"
            "Examples\n"
            "  evbus dlq ls --topic 'orders.>' --since 2h\n"
            "  evbus dlq show 17\n"
            "  evbus dlq redrive --aggregate order-42\n"
            "  evbus dlq drop --cause 'not an envelope' --json\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct dlq_options),
    .uses = USES_CONNECTION,
    .run = run_dlq,
};

struct work {
    const struct dlq_options *o;
    evbus *bus;
    bool (*each)(struct work *w, const evbus_letter *letter); /* false: no more */
    uint64_t done;
    int result;
    struct json json;
};

static int64_t wall_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- Printing ---------------------------------------------------------------------------------------------------- */

static void put_age(char out[24], int64_t then)
{
    const int64_t s = then ? (wall_ns() - then) / 1000000000 : 0;

    if (!then)
        (void)snprintf(out, 24, "-");
    else if (s < 100)
        (void)snprintf(out, 24, "%" PRId64 "s", s < 0 ? 0 : s);
    else if (s < 6000)
        (void)snprintf(out, 24, "%" PRId64 "m", s / 60);
    else if (s < 48 * 3600)
        (void)snprintf(out, 24, "%" PRId64 "h", s / 3600);
    else
        (void)snprintf(out, 24, "%" PRId64 "d", s / 86400);
}

/* A letter is strangers' bytes: what is not printable shows as '?'. */
static void put_text(const char *text)
{
    if (!*text)
        (void)fputc('-', stdout);
    for (; *text; text++)
        (void)fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, stdout);
}

static void json_time_if(struct json *j, const char *key, int64_t ns)
{
    if (ns)
        json_time(j, key, ns);
}

static void json_words(struct json *j, const char *key, const char *text)
{
    if (*text && utf8_valid(text, strlen(text)))
        json_string(j, key, text);
}

static void json_letter(struct json *j, const evbus_letter *l)
{
    json_uint(j, "sequence", l->sequence);
    json_words(j, "letter_topic", l->letter_topic);
    json_words(j, "topic", l->topic);
    json_words(j, "group", l->group);
    json_words(j, "stream", l->origin_stream);
    json_uint(j, "stream_sequence", l->origin_sequence);
    json_words(j, "aggregate_id", l->aggregate_id);
    json_words(j, "event_id", l->event_id);
    json_words(j, "trace_id", l->trace_id);
    json_words(j, "correlation_id", l->correlation_id);
    json_words(j, "cause", l->cause);
    json_words(j, "detail", l->detail);
    json_uint(j, "attempts", l->attempts);
    json_uint(j, "deliveries", l->deliveries);
    json_uint(j, "redriven", l->redriven);
    json_time_if(j, "stored", l->stored_ns);
    json_time_if(j, "first", l->first_ns);
    json_time_if(j, "last", l->last_ns);
    json_uint(j, "bytes", l->data.len);
}

static bool printed(struct work *w, bool ok)
{
    if (ok && !ferror(stdout))
        return true;
    output_failed(w->o->c.command, errno);
    w->result = CLI_FAILED;
    return false;
}

static bool list(struct work *w, const evbus_letter *l)
{
    char age[24];

    if (w->o->c.json) {
        json_open(&w->json, NULL, '{');
        json_letter(&w->json, l);
        json_close(&w->json, '}');
        return printed(w, json_print(&w->json, stdout));
    }
    put_age(age, l->last_ns);
    (void)printf("%" PRIu64 " %s ", l->sequence, age);
    put_text(l->topic);
    (void)fputc(' ', stdout);
    put_text(l->group);
    (void)fputc(' ', stdout);
    put_text(l->aggregate_id);
    (void)printf(" %" PRIu32 " ", l->attempts);
    put_text(l->cause);
    if (*l->detail) {
        (void)fputs(": ", stdout);
        put_text(l->detail);
    }
    return printed(w, fputc('\n', stdout) != EOF);
}

static void json_body(struct json *j, const evbus_letter *l)
{
    json_open(j, "headers", '{');
    for (const evbus_header *h = l->headers; h->name; h++)
        if (utf8_valid(h->name, strlen(h->name)))
            json_words(j, h->name, h->value);
    json_close(j, '}');
    if (utf8_valid(l->data.data, l->data.len))
        json_text(j, "text", l->data.data, l->data.len);
    else
        json_base64(j, "base64", l->data.data, l->data.len);
}

static void show_line(const char *name, const char *value)
{
    if (!*value)
        return;
    (void)printf("%-14s", name);
    put_text(value);
    (void)fputc('\n', stdout);
}

static void show_time(const char *name, int64_t ns)
{
    const time_t seconds = (time_t)(ns / 1000000000);
    char text[32];
    struct tm tm;

    if (ns && gmtime_r(&seconds, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        show_line(name, text);
}

static bool show(struct work *w, const evbus_letter *l)
{
    if (w->o->c.json) {
        json_open(&w->json, NULL, '{');
        json_letter(&w->json, l);
        json_body(&w->json, l);
        json_close(&w->json, '}');
        return printed(w, json_print(&w->json, stdout));
    }
    (void)printf("%s%-14s%" PRIu64 "\n", w->done ? "\n" : "", "letter", l->sequence);
    show_line("lies in", l->letter_topic);
    show_line("topic", l->topic);
    show_line("group", l->group);
    show_line("stream", l->origin_stream);
    (void)printf("%-14s%" PRIu64 "\n", "sequence", l->origin_sequence);
    show_line("aggregate", l->aggregate_id);
    show_line("event", l->event_id);
    show_line("trace", l->trace_id);
    show_line("correlation", l->correlation_id);
    show_line("cause", l->cause);
    show_line("detail", l->detail);
    (void)printf("%-14s%" PRIu32 "\n%-14s%" PRIu32 "\n%-14s%" PRIu32 "\n", "attempts", l->attempts, "deliveries",
                 l->deliveries, "redriven", l->redriven);
    show_time("stored", l->stored_ns);
    show_time("first", l->first_ns);
    show_time("last", l->last_ns);
    for (const evbus_header *h = l->headers; h->name; h++) {
        (void)printf("%-14s", "header");
        put_text(h->name);
        (void)fputs(": ", stdout);
        put_text(h->value);
        (void)fputc('\n', stdout);
    }
    (void)fwrite(l->data.data, 1, l->data.len, stdout);
    return printed(w, fputc('\n', stdout) != EOF);
}

/* ---- Doing ------------------------------------------------------------------------------------------------------- */

static bool failed(struct work *w, evbus_status st, const char *what, const evbus_letter *l)
{
    w->result = fail(w->o->c.command, st, "cannot %s letter %" PRIu64, what, l->sequence);
    return false;
}

static bool redrive(struct work *w, const evbus_letter *l)
{
    evbus_receipt receipt;

    evbus_receipt_init(&receipt);
    const evbus_status st = evbus_letter_redrive(w->bus, l, w->o->timeout_ms, &receipt);
    if (st != EVBUS_OK)
        return failed(w, st, "redrive", l);
    if (!w->o->c.json)
        return printed(w, printf("redriven %" PRIu64 " to %s sequence %" PRIu64 "%s\n", l->sequence, receipt.topic,
                                 receipt.sequence, receipt.duplicate ? " (stored before)" : "") > 0);
    json_open(&w->json, NULL, '{');
    json_uint(&w->json, "sequence", l->sequence);
    json_string(&w->json, "redriven_to", receipt.topic);
    json_string(&w->json, "stream", receipt.stream);
    json_uint(&w->json, "stream_sequence", receipt.sequence);
    json_bool(&w->json, "duplicate", receipt.duplicate);
    json_close(&w->json, '}');
    return printed(w, json_print(&w->json, stdout));
}

static bool drop(struct work *w, const evbus_letter *l)
{
    const evbus_status st = evbus_letter_drop(w->bus, l, w->o->timeout_ms);

    if (st != EVBUS_OK)
        return failed(w, st, "drop", l);
    if (!w->o->c.json)
        return printed(w, printf("dropped %" PRIu64 "\n", l->sequence) > 0);
    json_open(&w->json, NULL, '{');
    json_uint(&w->json, "dropped", l->sequence);
    json_close(&w->json, '}');
    return printed(w, json_print(&w->json, stdout));
}

static bool on_letter(const evbus_letter *letter, void *ctx)
{
    struct work *w = ctx;

    if (stop_signal()) {
        w->result = CLI_SIGNAL + stop_signal();
        return false;
    }
    if (!w->each(w, letter))
        return false;
    w->done++;
    return !w->o->limit || w->done < (uint64_t)w->o->limit;
}

/* ---- The command ------------------------------------------------------------------------------------------------- */

/* "90s", "15m", "2h", "7d" */
static bool parse_age(const char *text, int64_t *ret_ns)
{
    char *end;

    errno = 0;
    const long long n = strtoll(text, &end, 10);
    const char *units = "smhd", *unit = *end ? strchr(units, *end) : NULL;
    static const int64_t seconds[] = {1, 60, 3600, 86400};
    if (end == text || n < 0 || n > 100000000 || errno || !unit || end[1])
        return false;
    *ret_ns = (int64_t)n * seconds[unit - units] * 1000000000;
    return true;
}

static int fill(const struct dlq_options *o, evbus_letter_opts *ret)
{
    int64_t age = 0;

    *ret = (evbus_letter_opts){
        .struct_size = sizeof *ret,
        .letter_topic = o->letter_topic,
        .topic = o->topic,
        .group = o->group,
        .aggregate_id = o->aggregate,
        .cause = o->cause,
        .timeout_ms = o->timeout_ms,
    };
    if (o->since && !parse_age(o->since, &age))
        return usage_error(o->c.command, "--since: '%s' is no age such as 90s, 15m, 2h or 7d", o->since);
    ret->since_ns = o->since ? wall_ns() - age : 0;
    return CLI_OK;
}

static int walk(struct work *w, const evbus_letter_opts *opts)
{
    const evbus_status st = evbus_letters(w->bus, opts, on_letter, w);

    if (st != EVBUS_OK && w->result == CLI_OK)
        w->result = fail(w->o->c.command, st, "cannot read the letters");
    return w->result;
}

static int walk_all(struct work *w, evbus_letter_opts *opts, const struct arg_list *operands)
{
    if (operands->count == 1)
        return walk(w, opts);
    for (size_t i = 1; i < operands->count && w->result == CLI_OK; i++) {
        char *end;
        opts->sequence = strtoull(operands->items[i], &end, 10);
        if (*end || opts->sequence == 0 || operands->items[i][0] == '-')
            return usage_error(w->o->c.command, "'%s' is no sequence", operands->items[i]);
        (void)walk(w, opts);
    }
    return w->result;
}

static const struct {
    const char *name;
    bool (*each)(struct work *w, const evbus_letter *letter);
    bool changes;
} verbs[] = {{"ls", list, false}, {"show", show, false}, {"redrive", redrive, true}, {"drop", drop, true}};

static int check(const struct dlq_options *o, const struct arg_list *operands, struct work *w)
{
    const char *verb = operands->count ? operands->items[0] : NULL;
    bool chosen = operands->count > 1 || o->all || o->letter_topic || o->topic || o->group || o->aggregate ||
                  o->cause || o->since;

    if (!verb)
        return usage_error(o->c.command, "say ls, show, redrive or drop");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        if (verbs[i].changes && !chosen)
            return usage_error(o->c.command, "%s: say which letters: SEQUENCEs, a filter or --all", verb);
        w->each = verbs[i].each;
    }
    if (!w->each)
        return usage_error(o->c.command, "'%s' is none of ls, show, redrive and drop", verb);
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

static int run_dlq(const struct common *options, const struct arg_list *operands)
{
    const struct dlq_options *o = (const struct dlq_options *)options;
    struct work w = {.o = o};
    evbus_letter_opts letters;
    evbus_opts opts;
    int result = check(o, operands, &w);

    if (result == CLI_OK)
        result = fill(o, &letters);
    if (result != CLI_OK)
        return result;
    connection_fill(&o->c, &opts);
    result = connection_open(&o->c, &opts, &w.bus);
    if (result != CLI_OK)
        return result;
    result = walk_all(&w, &letters, operands);
    evbus_close(w.bus);
    json_fini(&w.json);
    return result;
}
