/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_table.h"

#include "json_out.h"

#include <inttypes.h>
#include <stdio.h>

/* One row: a count, or a time. Zero is what the marked ones must be. */
struct row {
    const char *label, *key;
    enum { COUNT, RATE, MILLISECONDS } unit;
    double (*value)(const struct demo_result *r);
};

#define VALUE(name, expression)                                                                                        \
    static double name(const struct demo_result *r)                                                                    \
    {                                                                                                                  \
        return (double)(expression);                                                                                   \
    }

VALUE(published, r->published)
VALUE(stored, r->stats.publishes_stored)
VALUE(refused, r->stats.publishes_refused + r->stats.publishes_unknown)
VALUE(handled, r->totals.handled)
VALUE(retried, r->totals.retried)
VALUE(lost, r->totals.lost)
VALUE(duplicates, r->totals.duplicates)
VALUE(gaps, r->totals.gaps)
VALUE(order_violations, r->totals.order_violations)
VALUE(damaged, r->totals.damaged)
VALUE(p50, r->totals.p50_ns / 1e6)
VALUE(p99, r->totals.p99_ns / 1e6)
VALUE(max, r->totals.max_ns / 1e6)

static double throughput(const struct demo_result *r)
{
    const double seconds = (double)(r->totals.last_ns - r->totals.first_ns) / 1e9;

    return r->totals.handled && seconds > 0 ? (double)r->totals.handled / seconds : 0;
}

static const struct row rows[] = {
    {"published", "published", COUNT, published},
    {"stored by the broker", "stored", COUNT, stored},
    {"refused or unknown", "refused_or_unknown", COUNT, refused},
    {"handled", "handled", COUNT, handled},
    {"attempts retried", "retried", COUNT, retried},
    {"lost", "lost", COUNT, lost},
    {"duplicates", "duplicates", COUNT, duplicates},
    {"gaps", "gaps", COUNT, gaps},
    {"order violations", "order_violations", COUNT, order_violations},
    {"damaged", "damaged", COUNT, damaged},
    {"events per second", "events_per_second", RATE, throughput},
    {"latency p50, ms", "latency_p50_ms", MILLISECONDS, p50},
    {"latency p99, ms", "latency_p99_ms", MILLISECONDS, p99},
    {"latency max, ms", "latency_max_ms", MILLISECONDS, max},
};

#define ROWS (sizeof rows / sizeof rows[0])

static const char *verdict(const struct demo_plan *plan, const struct demo_result *r)
{
    return r->skipped ? "skipped" : r->interrupted ? "interrupted" : demo_passed(plan, r) ? "ok" : "FAILED";
}

static void print_cell(const struct row *row, const struct demo_result *r)
{
    char text[32];

    if (r->skipped)
        (void)printf("%14s", "-");
    else if (row->unit == MILLISECONDS)
        (void)printf("%14.3f", row->value(r));
    else
        (void)printf("%14s", grouped((uint64_t)row->value(r), text));
}

static void print_table(const struct demo_plan *plan, const struct demo_result *results, size_t n)
{
    (void)printf("%" PRIu32 " orders x %" PRIu32 " versions on %" PRIu32 " topics, %" PRIu32
                 " publishers, seed %" PRIu64 "\n\n%-22s",
                 plan->aggregates, plan->versions, plan->topics, plan->publishers, plan->seed, "");
    for (size_t i = 0; i < n; i++)
        (void)printf("%14s", results[i].broker);
    for (size_t row = 0; row < ROWS; row++) {
        (void)printf("\n%-22s", rows[row].label);
        for (size_t i = 0; i < n; i++)
            print_cell(&rows[row], &results[i]);
    }
    (void)printf("\n%-22s", "verdict");
    for (size_t i = 0; i < n; i++)
        (void)printf("%14s", verdict(plan, &results[i]));
    (void)printf("\n");
}

static void print_json(const struct demo_plan *plan, const struct demo_result *results, size_t n)
{
    struct json j = {0};

    json_open(&j, NULL, '{');
    json_uint(&j, "aggregates", plan->aggregates);
    json_uint(&j, "versions", plan->versions);
    json_uint(&j, "topics", plan->topics);
    json_uint(&j, "publishers", plan->publishers);
    json_uint(&j, "rate", plan->rate);
    json_int(&j, "seed", (int64_t)plan->seed);
    json_open(&j, "runs", '[');
    for (size_t i = 0; i < n; i++) {
        json_open(&j, NULL, '{');
        json_string(&j, "broker", results[i].broker);
        json_string(&j, "verdict", verdict(plan, &results[i]));
        for (size_t row = 0; row < ROWS && !results[i].skipped; row++)
            if (rows[row].unit == COUNT)
                json_uint(&j, rows[row].key, (uint64_t)rows[row].value(&results[i]));
            else
                json_fixed(&j, rows[row].key, rows[row].value(&results[i]));
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

void demo_table_print(const struct demo_plan *plan, const struct demo_result *results, size_t n, bool json)
{
    if (json)
        print_json(plan, results, n);
    else
        print_table(plan, results, n);
}
