/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: evbus beside an event loop (poll here; epoll or libuv are the same). The handler only passes the
 * message's pointer through a pipe and returns EVBUS_DEFER; the loop's thread does the work and settles it. A deferred
 * message stays valid until it is settled, and the next event of its aggregate waits for that.
 *
 * Run: event_loop_defer [URL]
 */
#include <evbus/evbus.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TOPIC "loop.ticks"
#define EVENTS 10

/* On a worker thread of the bus. A pointer fits into the pipe's atomic write; the pipe is the queue. */
static evbus_verdict on_tick(const evbus_msg *msg, void *ctx)
{
    const int *to_loop = ctx;

    return write(*to_loop, &msg, sizeof msg) == (ssize_t)sizeof msg ? EVBUS_DEFER : EVBUS_RETRY;
}

/* On the loop's thread: here the application's own state is safe without a lock. */
static void handle_tick(const evbus_msg *msg, int *handled)
{
    const evbus_envelope *event = evbus_msg_envelope(msg);

    printf("%s version %lld\n", event->aggregate_id, (long long)event->event_version);
    ++*handled;
    evbus_msg_settle(msg, EVBUS_ACK); /* msg is gone now */
}

static evbus_status publish_ticks(evbus *bus)
{
    evbus_status st = EVBUS_OK;

    for (int i = 0; i < EVENTS && st == EVBUS_OK; i++) {
        const evbus_envelope event = {
            .aggregate_id = i % 2 ? "clock-b" : "clock-a",
            .event_type = "Ticked",
            .event_version = i / 2 + 1,
            .payload = "null",
        };
        st = evbus_publish_envelope(bus, TOPIC, &event, NULL);
    }
    return st;
}

static int run_loop(int from_bus)
{
    struct pollfd watched[] = {{.fd = from_bus, .events = POLLIN}}; /* and the application's sockets */
    const evbus_msg *msg;
    int handled = 0;

    while (handled < EVENTS) {
        if (poll(watched, 1, 10000) <= 0)
            return handled;
        if ((watched[0].revents & POLLIN) && read(from_bus, &msg, sizeof msg) == (ssize_t)sizeof msg)
            handle_tick(msg, &handled);
    }
    return handled;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");
    evbus *bus = NULL;
    int fds[2], handled = 0;

    if (pipe(fds) != 0) {
        perror("pipe");
        return 1;
    }
    evbus_status st = evbus_open(url ? url : "mem://", NULL, &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, TOPIC, on_tick, &fds[1], EVBUS_OPTS(evbus_sub_opts, .group = "loop"), NULL);
    if (st == EVBUS_OK)
        st = publish_ticks(bus);
    if (st == EVBUS_OK)
        handled = run_loop(fds[0]);
    else
        fprintf(stderr, "event_loop_defer: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(bus); /* waits for what is deferred: settle it all first */
    close(fds[0]);
    close(fds[1]);
    printf("%d of %d handled in the loop\n", handled, EVENTS);
    return handled == EVENTS ? 0 : 1;
}
