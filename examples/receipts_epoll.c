/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: publishing from an event loop without ever waiting, as an outbox does. Rows are published with their
 * number as the tag; the loop polls the receipts' descriptor with epoll and marks each row by its receipt. A row whose
 * outcome is unknown is published again with the same event id: inside the stream's duplicate window it is stored once.
 *
 * Run: receipts_epoll [URL]
 */
#include <evbus/evbus.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define TOPIC "outbox.orders"
#define ROWS 1000
#define BATCH 64

enum row_state { PENDING, SENT, STORED, FAILED };

struct outbox {
    evbus *bus;
    enum row_state state[ROWS];
    char event_id[ROWS][64]; /* "" until a receipt told it */
    int stored, failed;
};

/* Publishes what is pending and fits; what does not stays pending until receipts have made room. */
static evbus_status publish_pending(struct outbox *o)
{
    char order[32];

    for (int row = 0; row < ROWS; row++) {
        if (o->state[row] != PENDING)
            continue;
        snprintf(order, sizeof order, "order-%d", row % 10);
        const evbus_envelope event = {
            .event_id = o->event_id[row][0] ? o->event_id[row] : NULL,
            .aggregate_id = order,
            .event_type = "OrderPlaced",
            .event_version = row / 10 + 1,
            .payload = "{\"total\":12}",
        };
        const evbus_status st = evbus_publish_envelope(
            o->bus, TOPIC, &event, EVBUS_OPTS(evbus_pub_opts, .tag = (uint64_t)row, .timeout_ms = EVBUS_NOWAIT));
        if (st != EVBUS_OK)
            return st == EVBUS_BACKPRESSURE ? EVBUS_OK : st;
        o->state[row] = SENT;
    }
    return EVBUS_OK;
}

static void mark(struct outbox *o, const evbus_receipt *r)
{
    const uint64_t row = r->tag;

    if (r->outcome == EVBUS_OUTCOME_STORED) {
        o->state[row] = STORED;
        o->stored++;
    } else if (r->outcome == EVBUS_OUTCOME_UNKNOWN) {
        snprintf(o->event_id[row], sizeof o->event_id[row], "%s", r->event_id);
        o->state[row] = PENDING;
    } else {
        fprintf(stderr, "row %llu: %s: %s\n", (unsigned long long)row, evbus_strerror(r->status), r->detail);
        o->state[row] = FAILED;
        o->failed++;
    }
}

/* The descriptor is readable: takes one batch. If that left some, it is readable again at once. */
static evbus_status mark_some(struct outbox *o)
{
    static evbus_receipt batch[BATCH];
    size_t count = 0;

    evbus_receipt_init(&batch[0]);
    const evbus_status st = evbus_receipts_take(o->bus, 0, batch, BATCH, EVBUS_NOWAIT, &count);
    for (size_t i = 0; st == EVBUS_OK && i < count; i++)
        mark(o, &batch[i]);
    return st;
}

static evbus_status run_loop(struct outbox *o)
{
    struct epoll_event event = {.events = EPOLLIN}; /* and the application's sockets and timers */
    evbus_status st;
    int fd;

    if ((st = evbus_receipts_fd(o->bus, 0, &fd)) != EVBUS_OK)
        return st;
    const int loop = epoll_create1(EPOLL_CLOEXEC);
    if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) != 0)
        st = EVBUS_SYSTEM;
    while (st == EVBUS_OK && o->stored + o->failed < ROWS) {
        if ((st = publish_pending(o)) != EVBUS_OK)
            break;
        if (epoll_wait(loop, &event, 1, 10000) <= 0)
            st = EVBUS_TIMEOUT;
        else
            st = mark_some(o);
    }
    close(fd); /* it is ours */
    if (loop >= 0)
        close(loop);
    return st;
}

int main(int argc, char **argv)
{
    static struct outbox outbox;
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");

    evbus_status st =
        evbus_open(url ? url : "mem://", EVBUS_OPTS(evbus_opts, .name = "outbox", .receipts = EVBUS_ON), &outbox.bus);
    if (st == EVBUS_OK)
        st = run_loop(&outbox);
    if (st != EVBUS_OK)
        fprintf(stderr, "receipts_epoll: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(outbox.bus);
    printf("%d rows: %d stored, %d refused\n", ROWS, outbox.stored, outbox.failed);
    return st == EVBUS_OK && outbox.stored == ROWS ? 0 : 1;
}
