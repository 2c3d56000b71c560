/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus health: is somebody there? Waits for a health message of a service; or, without one to wait for, sends its own
 * and waits until that is back, which says that the way through the broker and back is open.
 */
#include "cli.h"
#include "json_out.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define TIMEOUT_MS 10000u
#define OURSELVES "evbus-health"

struct health_options {
    struct common c;
    const char *topic, *source;
    bool any;
    uint32_t timeout_ms;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct health_options, field), min, max                                      \
    }

static const struct arg args[] = {
    ARG(ARG_TEXT, "--source", "NAME", source, 0, 0, "wait for a health message of NAME, and send none"),
    ARG(ARG_FLAG, "--any", NULL, any, 0, 0, "wait for anybody's, and send none"),
    ARG(ARG_TEXT, "--topic", "TOPIC", topic, 0, 0, "where they are published; default: jxt-core-nats-health-check"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 1, 2000000000, "status 5 if none comes in S seconds; default: 10"),
};

static int run_health(const struct common *options, const struct arg_list *operands);

const struct command command_health = {
    .name = "health",
    .summary = "wait for a service's health message, or send one round",
    .synopsis = "[options]",
    .text = "Services that call evbus_health_publisher_start (or use the Go original) publish a health message\n"
            "now and then. With --source NAME this ends as soon as one of NAME comes. Without, it publishes\n"
            "one and ends when that is back: the broker is there and passes messages on.\n"
            "\n"
            "Examples\n"
            "  evbus health --timeout 2\n"
            "  evbus health --source billing --timeout 130 || page-somebody\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct health_options),
    .uses = USES_CONNECTION,
    .run = run_health,
};

static int print(const struct health_options *o, const evbus_health_report *r,
                 const evbus_health_subscriber_stats *heard, double ms)
{
    struct json j = {0};

    if (!o->c.json) {
        (void)printf("%s: heard after %.1f ms; %s\n", heard->last_source, ms, r->text);
        return CLI_OK;
    }
    json_open(&j, NULL, '{');
    json_string(&j, "source", heard->last_source);
    json_fixed(&j, "after_ms", ms);
    json_bool(&j, "live", r->live);
    json_bool(&j, "ready", r->ready);
    json_bool(&j, "end_to_end", r->end_to_end);
    json_uint(&j, "reasons", r->reasons);
    json_string(&j, "text", r->text);
    json_close(&j, '}');
    const bool ok = json_print(&j, stdout);
    json_fini(&j);
    return ok ? CLI_OK : CLI_FAILED;
}

/* Until a message came, a signal, or the time is up. */
static int wait_for_one(const struct health_options *o, evbus *bus)
{
    const int64_t began = now_ns(), until = began + (int64_t)(o->timeout_ms ? o->timeout_ms : TIMEOUT_MS) * 1000000;
    evbus_health_subscriber_stats heard;
    evbus_health_report report;

    for (;;) {
        evbus_status st = evbus_health_subscriber_read(bus, &heard);
        if (st == EVBUS_OK && heard.received)
            st = evbus_health(bus, 0, &report);
        if (st != EVBUS_OK)
            return fail(o->c.command, st, "cannot read the state");
        if (heard.received)
            return print(o, &report, &heard, (double)(now_ns() - began) / 1e6);
        if (now_ns() >= until)
            break;
        if (stop_wait(5))
            return CLI_SIGNAL + stop_signal();
    }
    complain(o->c.command, "no health message%s%s came in time", o->source ? " of " : "", o->source ? o->source : "");
    return CLI_TIMEOUT;
}

static int work(const struct health_options *o, evbus *bus)
{
    const bool alone = !o->source && !o->any;
    const evbus_health_subscriber_opts watch = {
        .struct_size = sizeof watch, .topic = o->topic, .source = alone ? OURSELVES : o->source};
    const evbus_health_publisher_opts send = {
        .struct_size = sizeof send, .topic = o->topic, .source = OURSELVES, .timeout_ms = o->timeout_ms};
    evbus_status st = evbus_health_subscriber_start(bus, &watch);

    if (st == EVBUS_OK && alone)
        st = evbus_health_publisher_start(bus, &send);
    if (st != EVBUS_OK)
        return fail(o->c.command, st, "cannot listen for health messages");
    return wait_for_one(o, bus);
}

static int run_health(const struct common *options, const struct arg_list *operands)
{
    const struct health_options *o = (const struct health_options *)options;
    evbus *bus = NULL;
    evbus_opts opts;

    if (operands->count)
        return usage_error(o->c.command, "'%s': health takes no operands", operands->items[0]);
    if (o->any && o->source)
        return usage_error(o->c.command, "--any excludes --source");
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    connection_fill(&o->c, &opts);
    int result = connection_open(&o->c, &opts, &bus);
    if (result != CLI_OK)
        return result;
    result = work(o, bus);
    evbus_close(bus);
    return result;
}
