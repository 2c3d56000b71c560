/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S15: a consumer is killed with 1,000 messages in its hands, ack wait 30 s. How long after the next one subscribes is
 * the first of them handled again, and in which order do they come?
 */
#include "bare_nats.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TOPIC "bench.restart"
#define STREAM "BENCH"
#define IN_TRANSIT 1000u
#define MESSAGES 1500u

static _Atomic(uint64_t) handled, out_of_order, last;
static _Atomic(int64_t) first_at;

static evbus_verdict on_first_life(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    return EVBUS_DEFER; /* never settled, and the rest of its aggregate waits behind it: all are in transit */
}

static evbus_verdict on_second_life(const evbus_msg *msg, void *ctx)
{
    int64_t unset = 0;
    const uint64_t sequence = evbus_msg_sequence(msg);

    (void)ctx;
    (void)atomic_compare_exchange_strong(&first_at, &unset, bench_now());
    if (sequence != atomic_exchange(&last, sequence) + 1)
        atomic_fetch_add(&out_of_order, 1);
    atomic_fetch_add(&handled, 1);
    return EVBUS_ACK;
}

static evbus *subscribe(evbus_handler handler)
{
    evbus *bus = bench_bus(bench_server.url, EVBUS_OPTS(evbus_opts, .workers_min = 1, .workers_max = 1));

    if (evbus_subscribe_envelope(bus, TOPIC, handler, NULL,
                                 EVBUS_OPTS(evbus_sub_opts, .inflight_max = IN_TRANSIT, .ack_wait_ms = 30000),
                                 NULL) != EVBUS_OK)
        bench_fail("cannot subscribe: %s", evbus_error_detail());
    return bus;
}

/* Takes 1,000 messages, says so, waits to be killed. */
_Noreturn static void first_life(int fd)
{
    evbus_statistics s = {.struct_size = sizeof s};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    evbus *bus = subscribe(on_first_life);
    while (evbus_stats(bus, &s) == EVBUS_OK && s.held < IN_TRANSIT)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (write(fd, "x", 1) == 1)
        for (;;)
            (void)pause();
    _exit(2);
}

static bool kill_one_with_all_in_hand(void)
{
    int fd[2];
    char x;

    if (pipe(fd) != 0)
        return bench_sorry("pipe: %s", strerror(errno));
    const pid_t pid = fork();
    if (pid == 0) {
        (void)close(fd[0]);
        first_life(fd[1]);
    }
    (void)close(fd[1]);
    const bool there = pid > 0 && read(fd[0], &x, 1) == 1;
    (void)close(fd[0]);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    return there || bench_sorry("the first consumer did not get %u messages", IN_TRANSIT);
}

static bool run_fill(const void *arg, struct figures *out)
{
    struct bare_raw raw;
    char id[LOAD_ID_SIZE];
    evbus_envelope env;

    (void)arg;
    (void)out;
    bare_stream(STREAM, "bench.>", true);
    bare_raw_open(&raw, 1024, false);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        load_envelope(i, (int64_t)i + 1, id, &env);
        env.aggregate_id = "order-1";
        bare_raw_publish(&raw, TOPIC, &env);
    }
    return bare_raw_finish(&raw);
}

/* FIG_VALUE: milliseconds from evbus_open to the first handler; FIG_VALUE2: messages out of order. */
static bool run_second_life(const void *arg, struct figures *out)
{
    (void)arg;
    if (!kill_one_with_all_in_hand()) /* forks before there is any thread here */
        return false;
    const int64_t began = bench_now();
    evbus *bus = subscribe(on_second_life);
    if (!bench_await(&handled, MESSAGES))
        return false;
    out->v[FIG_VALUE] = (double)(atomic_load(&first_at) - began) / 1e6;
    out->v[FIG_VALUE2] = (double)atomic_load(&out_of_order);
    evbus_close(bus);
    return true;
}

int main(int argc, char **argv)
{
    struct variant fill = {.name = "fill", .run = run_fill}, v = {.name = "restart", .run = run_second_life};

    bench_begin(argc, argv, 5, 0);
    bench_server_start();
    for (unsigned i = 0; i < bench_args.rounds; i++)
        if (!bench_once(&fill, &v.round[i], 60) || !bench_once(&v, &v.round[i], 60))
            bench_fail("a run failed");
    const struct spread ms = bench_spread(&v, bench_args.rounds, FIG_VALUE);
    const struct spread wrong = bench_spread(&v, bench_args.rounds, FIG_VALUE2);
    report_row(&(struct row){.row = "S15",
                             .what = "1,000 in transit, consumer killed: first of them handled again after",
                             .unit = "ms",
                             .target = 1000,
                             .at_most = true,
                             .ours = ms,
                             .bare = {NAN, NAN, NAN},
                             .verdict = ms});
    report_row(&(struct row){.row = "S15",
                             .what = "of 1,500 messages, out of order",
                             .unit = "messages",
                             .target = 0,
                             .at_most = true,
                             .ours = wrong,
                             .bare = {NAN, NAN, NAN},
                             .verdict = wrong});
    return report_end();
}
