/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus demo: the promises of the library, shown. Orders of many aggregates over several topics, some handlers failing,
 * on mem:// and on a nats-server of its own; a judge watches that nothing is lost, doubled or out of order.
 */
#include "cli.h"
#include "demo.h"
#include "demo_table.h"
#include "stop.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define EVENTS_MAX 10000000

struct demo_options {
    struct common c;
    int64_t aggregates, versions, topics, publishers, rate, seed;
    const char *only;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct demo_options, field), min, max                                        \
    }

static const struct arg args[] = {
    ARG(ARG_NUMBER, "--aggregates", "N", aggregates, 1, 1000000, "orders (200)"),
    ARG(ARG_NUMBER, "--versions", "N", versions, 1, 1000000, "events of each order (50)"),
    ARG(ARG_NUMBER, "--topics", "N", topics, 1, 1000, "topics they are spread over (5)"),
    ARG(ARG_NUMBER, "--publishers", "N", publishers, 1, 64, "publishing threads (4)"),
    ARG(ARG_NUMBER, "--rate", "N", rate, 1, 10000000, "events a second (default: as fast as possible)"),
    ARG(ARG_NUMBER, "--seed", "N", seed, 1, INT64_MAX, "chooses which handlers fail (1)"),
    ARG(ARG_CHOICE, "--only", "mem|nats", only, 0, 0, "run on one of the brokers"),
};

static int run_demo(const struct common *options, const struct arg_list *operands);

const struct command command_demo = {
    .name = "demo",
    .summary = "show order and completeness under failures, on mem:// and on a nats-server",
    .synopsis = "[options]",
    .text = "Several threads publish orders: --versions events of each of --aggregates orders, spread over\n"
            "--topics topics. One handler in fifty fails at its first attempt; those of the first topic are\n"
            "deferred and settled by another thread. It runs on mem://, then on a nats-server (from\n"
            "$NATS_SERVER or PATH) that it starts on a free loopback port, files in a temporary folder, and\n"
            "stops again. Latency is from the call that publishes to the start of the handler: without\n"
            "--rate that is mostly time in the queue.\n"
            "\n"
            "Status 0: all of it was handled once and in order. 1: something was lost, doubled or out of\n"
            "order. 3: nats-server is not installed (then only mem:// ran).\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct demo_options),
    .uses = USES_RUN,
    .run = run_demo,
};

static void run_on_server(const struct demo_plan *plan, const evbus_opts *opts, struct progress *progress,
                          struct demo_result *r, char *why, size_t size)
{
    struct demo_server server;

    switch (demo_server_start(&server, why, size)) {
    case SERVER_RUNS:
        demo_run(plan, server.url, opts, progress, r);
        demo_server_stop(&server);
        break;
    case SERVER_MISSING:
        r->skipped = why;
        break;
    case SERVER_FAILED:
        r->interrupted = stop_asked();
        (void)snprintf(r->problem, sizeof r->problem, "%s", why);
        break;
    }
}

static int conclude(const struct demo_options *o, const struct demo_plan *plan, const struct demo_result *r, size_t n)
{
    int result = CLI_OK;

    for (size_t i = 0; i < n; i++) {
        if (r[i].problem[0])
            complain(o->c.command, "%s: %s", r[i].broker, r[i].problem);
        if (r[i].skipped)
            complain(o->c.command, "%s: skipped: %s; --only mem does without", r[i].broker, r[i].skipped);
        if (stop_signal())
            continue;
        if (r[i].skipped || r[i].exit_code == CLI_CONNECT)
            result = result == CLI_OK ? CLI_CONNECT : result;
        else if (!demo_passed(plan, &r[i]))
            result = CLI_FAILED;
    }
    return stop_signal() ? CLI_SIGNAL + stop_signal() : result;
}

static int check(const struct demo_options *o, const struct arg_list *operands, struct demo_plan *ret)
{
    const int64_t aggregates = o->aggregates ? o->aggregates : 200, versions = o->versions ? o->versions : 50;

    if (operands->count)
        return usage_error(o->c.command, "'%s': demo takes no operands", operands->items[0]);
    if (aggregates * versions > EVENTS_MAX)
        return usage_error(o->c.command, "--aggregates x --versions: more than %d events", EVENTS_MAX);
    *ret = (struct demo_plan){
        .aggregates = (uint32_t)aggregates,
        .versions = (uint32_t)versions,
        .topics = o->topics ? (uint32_t)o->topics : 5,
        .publishers = o->publishers ? (uint32_t)o->publishers : 4,
        .rate = (uint32_t)o->rate,
        .seed = o->seed ? (uint64_t)o->seed : 1,
    };
    return CLI_OK;
}

static int run_demo(const struct common *options, const struct arg_list *operands)
{
    const struct demo_options *o = (const struct demo_options *)options;
    struct demo_result results[2] = {0};
    struct demo_plan plan;
    struct progress progress;
    evbus_opts opts;
    char why[512] = "";
    size_t n = 0;
    const int checked = check(o, operands, &plan);

    if (checked != CLI_OK)
        return checked;
    if (!stop_init(true)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    progress_init(&progress, o->c.progress);
    connection_fill(&o->c, &opts);
    if (!o->only || strcmp(o->only, "mem") == 0) {
        results[n].broker = "mem://";
        demo_run(&plan, "mem://", &opts, &progress, &results[n++]);
    }
    if ((!o->only || strcmp(o->only, "nats") == 0) && !stop_asked()) {
        results[n].broker = "nats://";
        run_on_server(&plan, &opts, &progress, &results[n++], why, sizeof why);
    }
    progress_clear(&progress);
    demo_table_print(&plan, results, n, o->c.json);
    return conclude(o, &plan, results, n);
}
