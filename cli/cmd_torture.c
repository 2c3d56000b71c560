/* SPDX-License-Identifier: Apache-2.0 */
/* evbus torture: everything that can go wrong, from a seed, and a judge of what was promised. */
#include "cli.h"
#include "json_out.h"
#include "stop.h"
#include "torture.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct torture_options {
    struct common c;
    int64_t seconds, seed, members;
    bool mem, server, cluster, shared, frontier;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct torture_options, field), min, max                                     \
    }

static const struct arg args[] = {
    ARG(ARG_NUMBER, "--seconds", "N", seconds, 1, 86400, "how long things go wrong (20)"),
    ARG(ARG_NUMBER, "--seed", "N", seed, 1, INT64_MAX, "chooses what goes wrong and when (default: another each time)"),
    ARG(ARG_NUMBER, "--members", "N", members, 1, TORTURE_SHOPS,
        "of the group at a time (3); one is active, the others stand by"),
    ARG(ARG_FLAG, "--shared", NULL, shared, 0, 0, "the members share the load: no order is promised then"),
    ARG(ARG_FLAG, "--frontier", NULL, frontier, 0, 0, "the members use frontier acks: one settles all before it"),
    ARG(ARG_FLAG, "--mem", NULL, mem, 0, 0, "in this process, on fault+mem:// (the default without --url)"),
    ARG(ARG_FLAG, "--server", NULL, server, 0, 0, "on a nats-server of its own"),
    ARG(ARG_FLAG, "--cluster", NULL, cluster, 0, 0, "on three of its own, streams with three replicas"),
};

static int run_torture(const struct common *options, const struct arg_list *operands);

const struct command command_torture = {
    .name = "torture",
    .summary = "break everything from a seed, and judge what was promised",
    .synopsis = "[--mem | --server | --cluster | --url URL] [--seconds N] [--seed N] [--members N] "
                "[--shared | --frontier]",
    .text = "Two threads publish, the members of one group handle (one is active, the others stand by; --shared:\n"
            "all at once), some handlers fail, are slow or settle later.\n"
            "Meanwhile members leave and come, publishers and consumers are restarted, acks get lost, messages\n"
            "come twice, late and overtaken (fault+: see docs/faults.md); with --server and --cluster connections\n"
            "are cut and stalled by proxies, servers stopped (SIGSTOP) and killed (kill -9). Servers are started on\n"
            "free loopback ports, files in temporary folders, and ended again. With --url only this process\n"
            "suffers; the URL may begin with fault+, settings behind a '?'.\n"
            "\n"
            "After that nothing fails any more, and a judge reads what was taken down and what the streams hold: one\n"
            "outcome for every publish, order per aggregate, nothing lost, nothing run again that was settled.\n"
            "What its servers lose when they are killed is asked of them (the ack floor of the consumer before and "
            "after; what\n"
            "each server of a cluster holds), printed and counted; what follows from it is no broken promise.\n"
            "Status 0: every promise was kept. 1: one was not: the seed, the rule and the history of the aggregate\n"
            "are on stderr. 3: nats-server is not installed.\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct torture_options),
    .uses = USES_RUN | USES_CONNECTION,
    .run = run_torture,
};

static const char *target_name(const struct torture *t)
{
    static const char *const names[] = {"mem", "server", "cluster", "url"};

    return names[t->target];
}

/* ---- Misfortunes ------------------------------------------------------------------------------------------------- */

/* Every other time the active one: what befalls those that stand by is seldom seen. */
static struct torture_shop *choose_shop(struct torture *t)
{
    const uint64_t n = torture_random(&t->rng);

    for (uint32_t i = 0; (n & 1) && i < t->shop_count; i++)
        if (t->shops[i].member && evbus_sub_active(t->shops[i].member->sub))
            return &t->shops[i];
    return &t->shops[(n >> 8) % t->shop_count];
}

static bool suffer(struct torture *t, enum torture_misfortune what)
{
    struct torture_shop *shop = choose_shop(t);
    bool survived = true;

    t->misfortunes[what]++;
    switch (what) {
    case TORTURE_MEMBER_LEAVES:
        torture_member_leave(t, shop);
        survived = torture_member_come(t, shop);
        break;
    case TORTURE_MEMBER_MOVES:
        torture_shop_close(t, shop);
        survived = torture_shop_open(t, shop);
        break;
    case TORTURE_DESK_RESTARTS:
        torture_desk_close(t);
        survived = torture_desk_open(t);
        break;
    default:
        survived = torture_place_suffer(t, what);
        break;
    }
    return survived;
}

static void break_things(struct torture *t, struct progress *progress)
{
    const int64_t end = now_ns() + (int64_t)t->seconds * 1000000000;
    int64_t next = now_ns() + 500000000;
    bool survived = true;

    while (survived && now_ns() < end && !stop_wait(5)) {
        torture_settle(t);
        if (progress_due(progress))
            progress_show(progress, "%s, seed %" PRIu64 ": %" PRIu64 " published, %" PRIu64 " handled, %d s left",
                          target_name(t), t->seed, atomic_load(&t->log.shared->accepted), atomic_load(&t->finished),
                          (int)((end - now_ns()) / 1000000000));
        if (now_ns() < next)
            continue;
        const enum torture_misfortune what = (enum torture_misfortune)(torture_random(&t->rng) % TORTURE_MISFORTUNES);
        if (torture_place_has(t, what))
            survived = suffer(t, what);
        next = now_ns() + 200000000 + (int64_t)(torture_random(&t->rng) % 700000000);
    }
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

static bool run(struct torture *t, struct progress *progress)
{
    bool good = torture_log_open(t);

    if (!good)
        torture_problem(t, "out of memory for the log");
    stop_mask(true);
    good = good && torture_shops_open(t) && torture_desk_open(t) && torture_publishers_start(t);
    stop_mask(false);
    if (good)
        break_things(t, progress);
    torture_publishers_stop(t);
    torture_desk_close(t);
    if (good)
        good = torture_judge(t, progress);
    torture_shops_close(t);
    return good && !t->problem[0];
}

/* What the servers did, and what follows from it. */
static void print_losses(const struct truth_account *a)
{
    if (a->losses)
        (void)printf("  the server lost its consumer's state %" PRIu64 " times; run again because of that %" PRIu64
                     ", second dead letters %" PRIu64 "\n",
                     a->losses, a->again, a->letters_again);
    if (a->letters_lost)
        (void)printf("  the servers lost %" PRIu64 " dead letters\n", a->letters_lost);
    if (a->disputed)
        (void)printf("  the servers differ at %" PRIu64 " sequences, and lost %" PRIu64
                     " acknowledged messages by that\n",
                     a->disputed, a->lost);
}

static void print_text(const struct torture *t, bool kept)
{
    static const char *const texts[] = {
#define TORTURE_X(name, text) text,
        TORTURE_MAP(TORTURE_X)
#undef TORTURE_X
    };
    const struct truth_account *a = &t->account;

    (void)printf("torture on %s, %" PRIu32 " s, seed %" PRIu64 ": %s\n", target_name(t), t->seconds, t->seed,
                 kept ? "every promise was kept" : "FAILED");
    (void)printf("  published %" PRIu64 ", not accepted %" PRIu64 ", refused %" PRIu64 ", unknown %" PRIu64
                 " (of these stored %" PRIu64 ")\n",
                 a->accepted, a->declined, a->refused, a->unknown, a->unknown_stored);
    (void)printf("  handler starts %" PRIu64 ", retries %" PRIu64 ", repeats %" PRIu64 ", acknowledged %" PRIu64
                 ", dead letters %" PRIu64 ", members %" PRIu64 ", turns %" PRIu64 "\n",
                 a->starts, a->retries, a->repeats, a->acked, a->letters, a->members, a->turns);
    print_losses(a);
    (void)printf(" ");
    for (size_t i = 0; i < TORTURE_MISFORTUNES; i++)
        if (t->misfortunes[i])
            (void)printf(" %s %" PRIu64 "%s", texts[i], t->misfortunes[i], i + 1 < TORTURE_MISFORTUNES ? ";" : "");
    (void)printf("\n");
}

static void print_json(const struct torture *t, bool kept)
{
    const struct truth_account *a = &t->account;
    struct json j = {0};
    uint64_t misfortunes = 0;

    for (size_t i = 0; i < TORTURE_MISFORTUNES; i++)
        misfortunes += t->misfortunes[i];
    json_open(&j, NULL, '{');
    json_string(&j, "target", target_name(t));
    json_uint(&j, "seconds", t->seconds);
    json_uint(&j, "seed", t->seed);
    json_bool(&j, "kept", kept);
    if (t->problem[0])
        json_string(&j, "problem", t->problem);
    json_uint(&j, "published", a->accepted);
    json_uint(&j, "refused", a->refused);
    json_uint(&j, "unknown", a->unknown);
    json_uint(&j, "starts", a->starts);
    json_uint(&j, "retries", a->retries);
    json_uint(&j, "repeats", a->repeats);
    json_uint(&j, "acknowledged", a->acked);
    json_uint(&j, "dead_letters", a->letters);
    json_uint(&j, "members", a->members);
    json_bool(&j, "shared", t->shared);
    json_bool(&j, "frontier", t->frontier);
    json_uint(&j, "turns", a->turns);
    json_uint(&j, "misfortunes", misfortunes);
    json_uint(&j, "lost_by_servers", a->lost);
    json_uint(&j, "letters_lost_by_servers", a->letters_lost);
    json_uint(&j, "state_losses", a->losses);
    json_uint(&j, "again_after_loss", a->again);
    json_uint(&j, "letters_after_loss", a->letters_again);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

static int check(const struct torture_options *o, const struct arg_list *operands, struct torture *t)
{
    struct timespec now;

    if (operands->count)
        return usage_error(o->c.command, "'%s': torture takes no operands", operands->items[0]);
    if (o->mem + o->server + o->cluster + (o->c.url != NULL) > 1)
        return usage_error(o->c.command, "--mem, --server, --cluster and --url exclude each other");
    if (o->shared && o->frontier)
        return usage_error(o->c.command, "--shared and --frontier exclude each other");
    t->target = o->server ? TORTURE_SERVER : o->cluster ? TORTURE_CLUSTER : o->c.url ? TORTURE_URL : TORTURE_MEM;
    t->command = o->c.command;
    t->seconds = o->seconds ? (uint32_t)o->seconds : 20;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    t->seed = o->seed ? (uint64_t)o->seed : (uint64_t)now.tv_nsec % 1000000 + 1;
    t->rng = t->seed;
    t->shop_count = o->members ? (uint32_t)o->members : 3;
    t->shared = o->shared;
    t->frontier = o->frontier;
    (void)snprintf(t->topic, sizeof t->topic, "torture.%llx", (unsigned long long)now.tv_sec << 20 | now.tv_nsec >> 10);
    if (o->c.url)
        (void)snprintf(t->url, sizeof t->url, "%s", o->c.url);
    return CLI_OK;
}

static int run_torture(const struct common *options, const struct arg_list *operands)
{
    const struct torture_options *o = (const struct torture_options *)options;
    struct torture *t = calloc(1, sizeof *t);
    struct progress progress;
    evbus_opts opts;
    char why[600] = "";
    int result = t ? check(o, operands, t) : CLI_FAILED;

    if (result != CLI_OK) {
        free(t);
        return result;
    }
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        free(t);
        return CLI_FAILED;
    }
    progress_init(&progress, o->c.progress);
    connection_fill(&o->c, &opts);
    t->opts = &opts;
    (void)pthread_mutex_init(&t->mutex, NULL);
    (void)pthread_rwlock_init(&t->desk_lock, NULL);
    result = torture_place_open(t, why, sizeof why);
    if (result == CLI_OK) {
        const bool kept = run(t, &progress);
        progress_clear(&progress);
        (o->c.json ? print_json : print_text)(t, kept);
        if (!kept)
            complain(o->c.command,
                     "%s; the same again: evbus torture --%s --members %" PRIu32 "%s --seconds %" PRIu32
                     " --seed %" PRIu64,
                     t->problem, target_name(t), t->shop_count,
                     t->shared     ? " --shared"
                     : t->frontier ? " --frontier"
                                   : "",
                     t->seconds, t->seed);
        result = kept ? CLI_OK : CLI_FAILED;
    } else {
        complain(o->c.command, "%s", why);
    }
    torture_place_close(t);
    torture_log_close(t);
    (void)pthread_rwlock_destroy(&t->desk_lock);
    (void)pthread_mutex_destroy(&t->mutex);
    free(t);
    return stop_signal() ? CLI_SIGNAL + stop_signal() : result;
}
