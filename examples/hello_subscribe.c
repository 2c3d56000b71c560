/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: handling domain events. The handler returns its verdict; EVBUS_ACK means done, and without it the
 * broker keeps the event. To have something to handle, and an end, the program publishes three events itself.
 *
 * Run: hello_subscribe [URL]
 */
#include <evbus/evbus.h>

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define EVENTS 3

/* Runs on a thread of the bus. The message and all that hangs on it are valid until we return. */
static evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *event = evbus_msg_envelope(msg);
    sem_t *handled = ctx;

    printf("%s: %s version %lld %.*s\n", evbus_msg_topic(msg), event->aggregate_id, (long long)event->event_version,
           (int)event->payload_len, event->payload);
    sem_post(handled);
    return EVBUS_ACK; /* or EVBUS_RETRY, EVBUS_REJECT, EVBUS_DEFER */
}

static evbus_status publish_some(evbus *bus)
{
    evbus_status st = EVBUS_OK;

    for (int version = 1; version <= EVENTS && st == EVBUS_OK; version++) {
        const evbus_envelope event = {
            .aggregate_id = "order-42",
            .event_type = "OrderMoved",
            .event_version = version,
            .payload = "{\"by\":\"truck\"}",
        };
        st = evbus_publish_envelope(bus, "hello.moves", &event, NULL);
    }
    return st;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");
    evbus *bus = NULL;
    sem_t handled;

    sem_init(&handled, 0, 0);
    evbus_status st = evbus_open(url ? url : "mem://", NULL, &bus);

    /* Members of one group share one durable: what is published while none of them runs is not missed. */
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, "hello.moves", on_order, &handled,
                                      EVBUS_OPTS(evbus_sub_opts, .group = "billing"), NULL);
    if (st == EVBUS_OK)
        st = publish_some(bus);
    for (int i = 0; i < EVENTS && st == EVBUS_OK; i++)
        sem_wait(&handled);

    if (st != EVBUS_OK)
        fprintf(stderr, "hello_subscribe: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(bus); /* no handler runs after this */
    sem_destroy(&handled);
    return st == EVBUS_OK ? 0 : 1;
}
