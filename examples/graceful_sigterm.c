/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: a service that ends well. SIGTERM (or Ctrl-C) is taken by sigwait in main; then evbus_shutdown stops
 * accepting, lets running handlers finish, hands back what was pulled and not started, and reports what was left. To
 * come to its end by itself, the program publishes some work and sends SIGTERM to itself in the middle of it.
 *
 * Run: graceful_sigterm [URL]
 */
#include <evbus/evbus.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TOPIC "graceful.jobs"
#define JOBS 200

static evbus_verdict on_job(const evbus_msg *msg, void *ctx)
{
    const struct timespec work = {.tv_nsec = 20 * 1000 * 1000};

    (void)ctx;
    nanosleep(&work, NULL);
    if (evbus_msg_envelope(msg)->event_version == 1)
        kill(getpid(), SIGTERM); /* what `systemctl stop` would do, some day */
    return EVBUS_ACK;
}

static evbus_status publish_jobs(evbus *bus)
{
    char id[32];
    evbus_status st = EVBUS_OK;

    for (int i = 1; i <= JOBS && st == EVBUS_OK; i++) {
        snprintf(id, sizeof id, "job-%d", i);
        const evbus_envelope event = {
            .aggregate_id = id,
            .event_type = "JobOrdered",
            .event_version = i,
            .payload = "{}",
        };
        st = evbus_publish_envelope(bus, TOPIC, &event, NULL);
    }
    return st;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");
    evbus *bus = NULL;
    evbus_report report = {.struct_size = sizeof report};
    evbus_statistics stats = {.struct_size = sizeof stats};
    sigset_t ending;
    int number = 0;

    /* Before the bus is opened: its threads inherit the mask, so that the signal waits for sigwait. */
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ending, NULL);

    evbus_status st = evbus_open(url ? url : "mem://", NULL, &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, TOPIC, on_job, NULL, EVBUS_OPTS(evbus_sub_opts, .group = "workers"), NULL);
    if (st == EVBUS_OK)
        st = publish_jobs(bus);
    if (st == EVBUS_OK)
        sigwait(&ending, &number);

    if (st == EVBUS_OK)
        st = evbus_shutdown(bus, 5000, &report); /* 5 s, then whatever is left is reported */
    if (st != EVBUS_OK)
        fprintf(stderr, "graceful_sigterm: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    if (bus)
        evbus_stats(bus, &stats);
    printf("signal %d: shut down in %u ms; %llu jobs done, %llu handed back to the broker, %llu still running\n",
           number, (unsigned)report.elapsed_ms, (unsigned long long)stats.handled,
           (unsigned long long)report.total.handed_back, (unsigned long long)report.total.handlers_running);
    evbus_close(bus);
    return st == EVBUS_OK ? 0 : 1;
}
