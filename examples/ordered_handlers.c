/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it shows: order is kept per aggregate, and only there. The first event of order-1 fails twice; the rest of
 * order-1 waits behind it, while order-2 and order-3 go on. The program checks both.
 *
 * Run: ordered_handlers [URL]
 */
#include <evbus/evbus.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC "ordered.orders"
#define AGGREGATES 3
#define VERSIONS 4
#define FAILURES 2

/* What the handlers know; they run in parallel for different aggregates. */
struct orders {
    pthread_mutex_t mutex;
    pthread_cond_t all_done;
    long long last[AGGREGATES]; /* the version handled last */
    int others_done;            /* events of order-2 and order-3 handled while order-1 was stuck */
    int handled;
    int failed;
    int wrong; /* out of order: must stay 0 */
};

static evbus_verdict on_order(const evbus_msg *msg, void *ctx)
{
    const evbus_envelope *event = evbus_msg_envelope(msg);
    struct orders *o = ctx;
    const int which = atoi(event->aggregate_id + strlen("order-")) - 1;
    evbus_verdict verdict = EVBUS_ACK;

    pthread_mutex_lock(&o->mutex);
    if (event->event_version != o->last[which] + 1)
        o->wrong++;
    if (which == 0 && event->event_version == 1 && o->failed < FAILURES) {
        o->failed++;
        evbus_msg_retry_after(msg, 100); /* instead of the backoff */
        verdict = EVBUS_RETRY;
    } else {
        o->last[which] = event->event_version;
        o->others_done += which != 0 && o->last[0] == 0;
        o->handled++;
    }
    printf("%s version %lld attempt %u: %s\n", event->aggregate_id, (long long)event->event_version,
           (unsigned)evbus_msg_attempt(msg), verdict == EVBUS_RETRY ? "fails" : "done");
    if (o->handled == AGGREGATES * VERSIONS)
        pthread_cond_signal(&o->all_done);
    pthread_mutex_unlock(&o->mutex);
    return verdict;
}

static evbus_status publish_all(evbus *bus)
{
    char id[32];
    evbus_status st = EVBUS_OK;

    for (int version = 1; version <= VERSIONS; version++)
        for (int i = 1; i <= AGGREGATES && st == EVBUS_OK; i++) {
            snprintf(id, sizeof id, "order-%d", i);
            const evbus_envelope event = {
                .aggregate_id = id,
                .event_type = "OrderMoved",
                .event_version = version,
                .payload = "{}",
            };
            st = evbus_publish_envelope(bus, TOPIC, &event, NULL);
        }
    return st;
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("EVBUS_URL");
    struct orders orders = {.mutex = PTHREAD_MUTEX_INITIALIZER, .all_done = PTHREAD_COND_INITIALIZER};
    evbus *bus = NULL;

    evbus_status st = evbus_open(url ? url : "mem://", NULL, &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, TOPIC, on_order, &orders, EVBUS_OPTS(evbus_sub_opts, .group = "ordered"),
                                      NULL);
    if (st == EVBUS_OK)
        st = publish_all(bus);
    pthread_mutex_lock(&orders.mutex);
    while (st == EVBUS_OK && orders.handled < AGGREGATES * VERSIONS)
        pthread_cond_wait(&orders.all_done, &orders.mutex);
    pthread_mutex_unlock(&orders.mutex);
    if (st != EVBUS_OK)
        fprintf(stderr, "ordered_handlers: %s (%s)\n", evbus_strerror(st), evbus_error_detail());
    evbus_close(bus);

    printf("%d failed, %d of others done meanwhile, %d out of order\n", orders.failed, orders.others_done,
           orders.wrong);
    return st == EVBUS_OK && orders.wrong == 0 && orders.others_done > 0 ? 0 : 1;
}
