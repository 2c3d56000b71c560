/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus sub: prints what arrives. Without --group it is an onlooker: every message from now on, nothing taken from a
 * service, nothing left on the server. With --group it is a member, and a message counts as done once it is printed.
 */
#include "cli.h"
#include "json_out.h"
#include "progress.h"
#include "stop.h"
#include "sub_print.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHUTDOWN_MS 5000u
#define NEVER_AGAIN_MS 3600000u

struct sub_options {
    struct common c;
    const char *group, *ready_file;
    bool envelope, all, shared, ephemeral, park;
    int64_t count, reconnects;
    uint32_t timeout_ms;
    struct arg_list headers, reject;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct sub_options, field), min, max                                         \
    }

static const struct arg args[] = {
    ARG(ARG_FLAG, "--envelope", NULL, envelope, 0, 0, "read domain events, in order per aggregate"),
    ARG(ARG_TEXT, "--group", "GROUP", group, 0, 0,
        "be a member of GROUP: takes its messages, leaves its durable consumer"),
    ARG(ARG_FLAG, "--all", NULL, all, 0, 0, "a new group begins with what the stream still holds"),
    ARG(ARG_FLAG, "--shared", NULL, shared, 0, 0, "share the group's load with its other members"),
    ARG(ARG_LIST, "--reject", "ID", reject, 0, 0,
        "of this aggregate: to the dead-letter topic, not printed; can be repeated"),
    ARG(ARG_FLAG, "--park", NULL, park, 0, 0,
        "what comes behind a dead letter of its aggregate goes there too, until redriven"),
    ARG(ARG_FLAG, "--ephemeral", NULL, ephemeral, 0, 0, "plain messages, no group: only listen, make no stream"),
    ARG(ARG_NUMBER, "--count", "N", count, 1, INT64_MAX, "end after N messages"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 1, 2000000000,
        "end after S seconds; status 5 if --count is not met"),
    ARG(ARG_NUMBER, "--reconnect-attempts", "N", reconnects, 1, 1000000,
        "end with status 3 after N failed attempts to reconnect in a row; default: try for ever"),
    ARG(ARG_LIST, "--header", "NAME", headers, 0, 0, "print this header too; can be repeated"),
    ARG(ARG_TEXT, "--ready-file", "FILE", ready_file, 0, 0, "write the process id to FILE once subscribed"),
};

static int run_sub(const struct common *options, const struct arg_list *operands);

const struct command command_sub = {
    .name = "sub",
    .summary = "print the messages of topics",
    .synopsis = "TOPIC... [options]",
    .text = "TOPIC may be a pattern: * is one token, > is the rest. Without --group every message from now\n"
            "on is printed and nobody loses any: no group is joined and no consumer stays behind. A topic\n"
            "that no stream covers gets a stream of its own, so that nothing is missed; see --ephemeral.\n"
            "Quote patterns, so that the shell leaves them alone.\n"
            "\n"
            "Runs until --count, --timeout, SIGINT or SIGTERM, then hands back what it took and did not\n"
            "print, and says on stderr what it did. With --envelope, a body that is no envelope goes to the\n"
            "dead-letter topic, and so do those that --reject and --park are about. Each line: topic,\n"
            "#sequence, and of envelopes aggregate, version, type; then the payload. With --json the\n"
            "payload is \"payload\" (JSON of an envelope), \"text\" or,\n"
            "if it is not UTF-8, \"base64\".\n"
            "\n"
            "Examples\n"
            "  evbus sub 'orders.>'\n"
            "  evbus sub orders --envelope --json | jq .payload\n"
            "  evbus sub orders --envelope --group audit --all --count 100\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct sub_options),
    .uses = USES_CONNECTION | USES_RUN,
    .run = run_sub,
};

struct subscriber {
    const struct sub_options *o;
    evbus *bus;
    struct progress progress;
    pthread_mutex_t mutex; /* guards what follows, and stdout */
    struct sub_printer printer;
    uint64_t printed, redelivered, rejected, refused; /* refused: plain messages that came after the last one wanted */
    int output_error;                                 /* errno, once stdout does not take any more */
    char cut_off[300];                                /* why there is no connection and none to come; "": there is */
};

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

static bool enough(const struct subscriber *s)
{
    return s->output_error || (s->o->count && s->printed >= (uint64_t)s->o->count);
}

/* Not ours any more: it waits for a retry that does not come, until the shutdown hands it back. */
static evbus_verdict leave(struct subscriber *s, const evbus_msg *msg)
{
    if (!s->o->envelope)
        s->refused++;
    evbus_msg_retry_after(msg, NEVER_AGAIN_MS);
    return EVBUS_RETRY;
}

static bool is_rejected(const struct subscriber *s, const evbus_msg *msg)
{
    const evbus_envelope *e = evbus_msg_envelope(msg);

    for (size_t i = 0; e && i < s->o->reject.count; i++)
        if (strcmp(s->o->reject.items[i], e->aggregate_id) == 0)
            return true;
    return false;
}

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    struct subscriber *s = ctx;
    evbus_verdict verdict = EVBUS_ACK;

    pthread_mutex_lock(&s->mutex);
    if (enough(s)) {
        verdict = leave(s, msg);
    } else if (is_rejected(s, msg)) {
        s->rejected++;
        evbus_msg_set_reason(msg, "evbus sub --reject");
        verdict = EVBUS_REJECT;
    } else if (!sub_print(&s->printer, msg)) {
        s->output_error = errno ? errno : EIO;
        verdict = leave(s, msg);
    } else {
        s->printed++;
        s->redelivered += evbus_msg_redelivered(msg);
    }
    if (enough(s))
        stop_ask();
    pthread_mutex_unlock(&s->mutex);
    return verdict;
}

static void on_event(const evbus_event *event, void *ctx)
{
    struct subscriber *s = ctx;

    if (event->kind != EVBUS_EVENT_RECONNECT_GIVEN_UP)
        return;
    pthread_mutex_lock(&s->mutex);
    (void)snprintf(s->cut_off, sizeof s->cut_off, "%s", event->text);
    pthread_mutex_unlock(&s->mutex);
    stop_ask();
}

/* ---- Subscribing ------------------------------------------------------------------------------------------------- */

/* A member with a count takes no more than that from its group; a plain message that is taken is gone, so one by one. */
static uint32_t inflight_max(const struct sub_options *o)
{
    if (!o->group || !o->count)
        return 0;
    return !o->envelope ? 1 : o->count < 1024 ? (uint32_t)o->count : 0;
}

static int subscribe(struct subscriber *s, const struct arg_list *topics)
{
    const struct sub_options *o = s->o;
    const evbus_topic_opts *listen_only = EVBUS_OPTS(evbus_topic_opts, .persistence = EVBUS_EPHEMERAL);
    const evbus_sub_opts opts = {
        .struct_size = sizeof opts,
        .group = o->group,
        .fanout = o->group == NULL,
        .start = o->all ? EVBUS_START_ALL : EVBUS_START_NEW,
        .membership = o->shared ? EVBUS_SHARED : EVBUS_EXCLUSIVE,
        .attempts_max = EVBUS_FOREVER,
        .tail = o->park ? EVBUS_TAIL_PARK : EVBUS_TAIL_PASS,
        .inflight_max = inflight_max(o),
    };

    for (size_t i = 0; i < topics->count; i++) {
        const char *topic = topics->items[i];
        const bool listen = o->ephemeral && !strpbrk(topic, "*>"); /* a pattern makes no stream anyway */
        evbus_status st = listen ? evbus_topic_configure(s->bus, topic, listen_only) : EVBUS_OK;
        if (st == EVBUS_OK)
            st = o->envelope ? evbus_subscribe_envelope(s->bus, topic, on_message, s, &opts, NULL)
                             : evbus_subscribe(s->bus, topic, on_message, s, &opts, NULL);
        if (st != EVBUS_OK)
            return fail(o->c.command, st, "cannot subscribe to %s", topic);
    }
    return CLI_OK;
}

static uint64_t printed_so_far(struct subscriber *s)
{
    pthread_mutex_lock(&s->mutex);
    const uint64_t printed = s->printed;
    pthread_mutex_unlock(&s->mutex);
    return printed;
}

/* Until a signal, --count, --timeout or the end of stdout. True: the time was up. */
static bool wait_for_the_end(struct subscriber *s)
{
    const int64_t deadline = s->o->timeout_ms ? now_ns() + (int64_t)s->o->timeout_ms * 1000000 : INT64_MAX;

    for (;;) {
        const int64_t left_ms = (deadline - now_ns() + 999999) / 1000000;
        if (left_ms <= 0)
            return true;
        if (stop_wait(left_ms < 100 || !s->progress.on ? (uint32_t)(left_ms < 60000 ? left_ms : 60000) : 100))
            return false;
        if (progress_due(&s->progress))
            progress_show(&s->progress, "received %" PRIu64, printed_so_far(s));
    }
}

/* ---- The end ----------------------------------------------------------------------------------------------------- */

static void print_summary(const struct subscriber *s, const evbus_report *r, uint64_t dropped)
{
    struct json j = {0};

    if (!s->o->c.json) {
        (void)fprintf(stderr,
                      "evbus sub: %" PRIu64 " printed, %" PRIu64 " redelivered, %" PRIu64 " handed back, %" PRIu64
                      " dropped",
                      s->printed, s->redelivered, r->total.handed_back, dropped);
        if (s->o->reject.count)
            (void)fprintf(stderr, ", %" PRIu64 " rejected", s->rejected);
        (void)fputc('\n', stderr);
        return;
    }
    json_open(&j, NULL, '{');
    json_uint(&j, "printed", s->printed);
    json_uint(&j, "redelivered", s->redelivered);
    json_uint(&j, "handed_back", r->total.handed_back);
    json_uint(&j, "dropped", dropped);
    json_uint(&j, "unsettled", r->total.unsettled);
    if (s->o->reject.count)
        json_uint(&j, "rejected", s->rejected);
    json_close(&j, '}');
    (void)json_print(&j, stderr);
    json_fini(&j);
}

static int finish(struct subscriber *s, bool time_is_up)
{
    const struct sub_options *o = s->o;
    const char *cmd = o->c.command;
    evbus_report report = {.struct_size = sizeof report};

    (void)evbus_shutdown(s->bus, SHUTDOWN_MS, &report);
    progress_clear(&s->progress);
    if (report.total.handlers_running) {
        complain(cmd, "standard output has not taken a message for %u ms", SHUTDOWN_MS);
        _exit(CLI_FAILED); /* a handler sits in it, and has the mutex */
    }
    const uint64_t dropped = report.total.plain_dropped + s->refused;
    print_summary(s, &report, dropped);
    if (s->output_error) {
        output_failed(cmd, s->output_error);
        return CLI_FAILED;
    }
    if (o->group && dropped) {
        complain(cmd, "%" PRIu64 " plain messages were taken from group %s and not printed", dropped, o->group);
        return CLI_FAILED;
    }
    if (o->group && report.total.unsettled) {
        complain(cmd, "%" PRIu64 " messages were printed, but the broker could not be told: it will deliver them again",
                 report.total.unsettled);
        return CLI_FAILED;
    }
    if (s->cut_off[0]) {
        complain(cmd, "no connection: %s", s->cut_off);
        return CLI_CONNECT;
    }
    if (o->count && s->printed < (uint64_t)o->count) {
        complain(cmd, "%" PRIu64 " of %" PRId64 " messages came", s->printed, o->count);
        return time_is_up ? CLI_TIMEOUT : CLI_SIGNAL + stop_signal();
    }
    return CLI_OK;
}

static int check(const struct sub_options *o, const struct arg_list *operands)
{
    if (operands->count == 0)
        return usage_error(o->c.command, "no TOPIC given");
    if (o->all && !o->group)
        return usage_error(o->c.command, "--all needs --group: without one only what is published from now on comes");
    if (o->shared && !o->group)
        return usage_error(o->c.command, "--shared needs --group");
    if ((o->reject.count || o->park) && !(o->envelope && o->group))
        return usage_error(o->c.command, "%s needs --envelope and --group", o->park ? "--park" : "--reject");
    if (o->park && o->shared)
        return usage_error(o->c.command, "--park excludes --shared");
    if (o->ephemeral && (o->envelope || o->group))
        return usage_error(o->c.command, "--ephemeral excludes %s", o->group ? "--group" : "--envelope");
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

static int run_sub(const struct common *options, const struct arg_list *operands)
{
    const struct sub_options *o = (const struct sub_options *)options;
    struct subscriber s = {.o = o, .mutex = PTHREAD_MUTEX_INITIALIZER};
    evbus_opts opts;
    int result = check(o, operands);

    if (result != CLI_OK)
        return result;
    sub_printer_init(&s.printer, o->c.json, &o->headers);
    connection_fill(&o->c, &opts);
    opts.reconnect_attempts_max = (uint32_t)o->reconnects;
    opts.on_event = on_event;
    opts.on_event_ctx = &s;
    result = connection_open(&o->c, &opts, &s.bus);
    if (result == CLI_OK) {
        progress_init(&s.progress, o->c.progress);
        if (isatty(STDOUT_FILENO))
            s.progress.on = o->c.progress; /* the messages themselves are the progress */
        result = subscribe(&s, operands);
        if (result == CLI_OK)
            result = tell_ready(&o->c, o->ready_file);
        if (result == CLI_OK)
            result = finish(&s, wait_for_the_end(&s));
        evbus_close(s.bus);
    }
    sub_printer_fini(&s.printer);
    return result;
}
