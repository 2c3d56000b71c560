/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: publishing. Plain bytes, where losing one is tolerable; and a domain event (an envelope), whose outcome
 * we wait for: the receipt says in which stream and at which sequence the broker stored it.
 *
 * Run: hello_publish [URL]
 */
#include <evbus/evbus.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");
    evbus *bus = NULL;
    evbus_receipt receipt;

    evbus_receipt_init(&receipt);
    evbus_status st = evbus_open(url ? url : "mem://", NULL, &bus);

    /* Accepted means: on its way. A refusal by the broker is counted and goes to evbus_opts.on_publish_error. */
    if (st == EVBUS_OK)
        st = evbus_publish(bus, "hello.metrics", "cpu=42", 6, NULL);

    /* Without an event id the library makes one; to publish the same event again, use the receipt's. */
    const evbus_envelope event = {
        .aggregate_id = "order-42",
        .event_type = "OrderPlaced",
        .event_version = 1,
        .payload = "{\"total\":12}",
    };
    if (st == EVBUS_OK)
        st = evbus_publish_envelope_wait(bus, "hello.orders", &event, NULL, &receipt);

    if (st == EVBUS_OK)
        printf("stored event %s in stream %s at %llu\n", receipt.event_id, receipt.stream,
               (unsigned long long)receipt.sequence);
    else
        fprintf(stderr, "hello_publish: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(bus); /* NULL is fine */
    return st == EVBUS_OK ? 0 : 1;
}
