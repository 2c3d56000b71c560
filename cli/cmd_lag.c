/* SPDX-License-Identifier: Apache-2.0 */
/* evbus lag: how far behind consumers are, whoever's they are. Asks the broker; takes nothing, leaves nothing. */
#include "cli.h"
#include "json_out.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct lag_options {
    struct common c;
    const char *group;
    int64_t msgs_max;
    uint32_t age_max_ms, timeout_ms;
    bool ephemeral;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct lag_options, field), min, max                                         \
    }

static const struct arg args[] = {
    ARG(ARG_TEXT, "--group", "GROUP", group, 0, 0, "of this group"),
    ARG(ARG_FLAG, "--ephemeral", NULL, ephemeral, 0, 0, "those too that end with their subscriber"),
    ARG(ARG_NUMBER, "--max", "N", msgs_max, 1, INT64_MAX, "status 1 if more than N messages wait for one of them"),
    ARG(ARG_SECONDS, "--max-age", "S", age_max_ms, 1, 2000000000, "status 1 if one waits for longer than S seconds"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 1, 2000000000, "for each question to the broker; default: 5"),
};

static int run_lag(const struct common *options, const struct arg_list *operands);

const struct command command_lag = {
    .name = "lag",
    .summary = "how far behind consumers are",
    .synopsis = "[TOPIC...] [options]",
    .text = "For each consumer of TOPIC (a topic or a pattern; without one: of all streams): its topic, its\n"
            "group, how many messages wait at the broker, how many are under way, how many of those not for\n"
            "the first time, and how old the oldest is.\n"
            "\n"
            "Examples\n"
            "  evbus lag\n"
            "  evbus lag 'orders.>' --group billing --max 1000 --max-age 60 || page-somebody\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct lag_options),
    .uses = USES_CONNECTION,
    .run = run_lag,
};

struct work {
    const struct lag_options *o;
    struct json json;
    uint64_t behind; /* consumers above a limit */
    int result;
};

static bool is_behind(const struct lag_options *o, const evbus_lag *lag)
{
    return (o->msgs_max && lag->pending + lag->ack_pending > (uint64_t)o->msgs_max) ||
           (o->age_max_ms && lag->oldest_ms > o->age_max_ms);
}

static bool print_text(const evbus_lag *lag, bool behind)
{
    return printf("%s %s pending %" PRIu64 " unsettled %" PRIu64 " redelivered %" PRIu64 " oldest %.1fs%s%s\n",
                  *lag->topic ? lag->topic : ">", *lag->group ? lag->group : lag->consumer, lag->pending,
                  lag->ack_pending, lag->redelivered, (double)lag->oldest_ms / 1000,
                  lag->waiting ? "" : " nobody pulls", behind ? " BEHIND" : "") > 0;
}

static bool print_json(struct json *j, const evbus_lag *lag, bool behind)
{
    json_open(j, NULL, '{');
    json_string(j, "stream", lag->stream);
    json_string(j, "consumer", lag->consumer);
    json_string(j, "topic", lag->topic);
    json_string(j, "group", lag->group);
    json_bool(j, "durable", lag->durable);
    json_uint(j, "pending", lag->pending);
    json_uint(j, "ack_pending", lag->ack_pending);
    json_uint(j, "redelivered", lag->redelivered);
    json_uint(j, "waiting", lag->waiting);
    if (lag->oldest_ns)
        json_time(j, "oldest", lag->oldest_ns);
    json_uint(j, "oldest_ms", lag->oldest_ms);
    json_bool(j, "behind", behind);
    json_close(j, '}');
    return json_print(j, stdout);
}

static bool on_lag(const evbus_lag *lag, void *ctx)
{
    struct work *w = ctx;
    const bool behind = is_behind(w->o, lag);

    if (stop_signal()) {
        w->result = CLI_SIGNAL + stop_signal();
        return false;
    }
    if (!lag->durable && !w->o->ephemeral)
        return true;
    w->behind += behind;
    if (w->o->c.json ? print_json(&w->json, lag, behind) : print_text(lag, behind))
        return true;
    output_failed(w->o->c.command, errno);
    w->result = CLI_FAILED;
    return false;
}

static int ask(struct work *w, evbus *bus, const char *topic)
{
    const evbus_lag_opts opts = {
        .struct_size = sizeof opts, .topic = topic, .group = w->o->group, .timeout_ms = w->o->timeout_ms};
    const evbus_status st = evbus_lags(bus, &opts, on_lag, w);

    if (st != EVBUS_OK && w->result == CLI_OK)
        w->result = fail(w->o->c.command, st, "cannot ask for the consumers");
    return w->result;
}

static int run_lag(const struct common *options, const struct arg_list *operands)
{
    const struct lag_options *o = (const struct lag_options *)options;
    struct work w = {.o = o};
    evbus *bus = NULL;
    evbus_opts opts;

    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    connection_fill(&o->c, &opts);
    w.result = connection_open(&o->c, &opts, &bus);
    if (w.result != CLI_OK)
        return w.result;
    if (operands->count == 0)
        (void)ask(&w, bus, NULL);
    for (size_t i = 0; i < operands->count && w.result == CLI_OK; i++)
        (void)ask(&w, bus, operands->items[i]);
    evbus_close(bus);
    json_fini(&w.json);
    if (w.result == CLI_OK && w.behind)
        complain(o->c.command, "%" PRIu64 " consumer%s behind", w.behind, w.behind == 1 ? " is" : "s are");
    return w.result == CLI_OK && w.behind ? CLI_FAILED : w.result;
}
