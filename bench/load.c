/* SPDX-License-Identifier: Apache-2.0 */
/* The messages every benchmark sends, and small helpers around a bus. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

char load_payload[LOAD_PAYLOAD + 1];
char load_aggregates[1000][16];

static void prepare(void)
{
    static const char head[] =
        "{\"order\":4711,\"currency\":\"EUR\",\"total\":129.95,\"lines\":[{\"sku\":\"A-100\",\"n\":2},"
        "{\"sku\":\"B-200\",\"n\":1}],\"note\":\"";

    for (unsigned i = 0; i < 1000; i++)
        (void)snprintf(load_aggregates[i], sizeof load_aggregates[i], "order-%u", i);
    memset(load_payload, 'x', LOAD_PAYLOAD);
    memcpy(load_payload, head, sizeof head - 1);
    memcpy(load_payload + LOAD_PAYLOAD - 2, "\"}", 2);
}

/* 36 characters, as a UUID has; distinct for each i. */
static void put_id(uint64_t i, char id[LOAD_ID_SIZE])
{
    static const char digits[] = "0123456789abcdef";

    memcpy(id, "019a5b3c-0000-7000-8000-000000000000", 37);
    for (int at = 35; at > 23; at--, i >>= 4)
        id[at] = digits[i & 15];
}

void load_envelope(uint64_t i, int64_t timestamp_ns, char id[LOAD_ID_SIZE], evbus_envelope *out)
{
    if (load_payload[0] == 0)
        prepare();
    put_id(i, id);
    *out = (evbus_envelope){
        .event_id = id,
        .aggregate_id = load_aggregates[i % 1000],
        .event_type = "OrderPlaced",
        .event_version = (int64_t)(i / 1000) + 1,
        .timestamp_ns = timestamp_ns,
        .trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
        .tenant_id = 7,
        .payload = load_payload,
        .payload_len = LOAD_PAYLOAD,
    };
}

static void print_log(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    (void)ctx;
    fprintf(stderr, "%s %s: %s\n", level == EVBUS_LOG_ERROR ? "error" : "warning", subject, text);
}

evbus *bench_bus(const char *url, const evbus_opts *opts)
{
    evbus_opts o;
    evbus *bus = NULL;

    load_envelope(0, 1, (char[LOAD_ID_SIZE]){0}, &(evbus_envelope){0});
    evbus_opts_init(&o);
    if (opts)
        o = *opts;
    o.log = print_log;
    o.log_level = EVBUS_LOG_WARN;
    if (!o.name)
        o.name = "bench";
    if (evbus_open(url, &o, &bus) != EVBUS_OK)
        bench_fail("cannot open %s: %s", url, evbus_error_detail());
    return bus;
}

void bench_topic(evbus *bus, const char *topic, bool memory, bool msg_id)
{
    if (evbus_topic_configure(bus, topic,
                              EVBUS_OPTS(evbus_topic_opts,
                                         .storage = memory ? EVBUS_STORAGE_MEMORY : EVBUS_STORAGE_FILE,
                                         .max_bytes = UINT64_C(4) << 30, .msg_id = msg_id ? EVBUS_ON : EVBUS_OFF,
                                         .fallback = EVBUS_OFF)) != EVBUS_OK)
        bench_fail("cannot configure %s: %s", topic, evbus_error_detail());
}

bool bench_await(_Atomic(uint64_t) *counter, uint64_t goal)
{
    uint64_t last = 0, now;
    int64_t moved = bench_now();

    while ((now = atomic_load(counter)) < goal) {
        if (now != last)
            moved = bench_now();
        else if (bench_now() - moved > INT64_C(20000000000))
            return bench_sorry("stuck at %llu of %llu messages", (unsigned long long)now, (unsigned long long)goal);
        last = now;
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}
