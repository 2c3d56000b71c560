/* SPDX-License-Identifier: Apache-2.0 */
/* Result lines: JSON on stdout for the report, one line for people on stderr. */
#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static unsigned short_rows;

static void put_number(const char *name, double value)
{
    if (isfinite(value))
        (void)printf("\"%s\":%.6g,", name, value);
}

static void put_spread(const char *name, struct spread s)
{
    if (isfinite(s.median))
        (void)printf("\"%s\":{\"median\":%.6g,\"min\":%.6g,\"max\":%.6g},", name, s.median, s.min, s.max);
}

static void put_figures(const char *name, const struct variant *v, unsigned rounds)
{
    static const struct {
        const char *name;
        enum figure figure;
    } all[] = {{"rate", FIG_RATE},           {"client_us", FIG_CLIENT_US},  {"server_us", FIG_SERVER_US},
               {"futex", FIG_FUTEX},         {"p50_us", FIG_P50},           {"p99_us", FIG_P99},
               {"p999_us", FIG_P999},        {"max_us", FIG_MAX},           {"our_locks", FIG_OUR_LOCKS},
               {"our_futex", FIG_OUR_FUTEX}, {"our_allocs", FIG_OUR_ALLOCS}};

    if (!v)
        return;
    (void)printf("\"%s\":{\"name\":\"%s\",", name, v->name);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        put_spread(all[i].name, bench_spread(v, rounds, all[i].figure));
    (void)printf("\"rounds\":%u},", rounds);
}

void report_only(const struct variant *v, unsigned rounds)
{
    (void)printf("%s: %.0f a second; client %.3g us, server %.3g us\n", v->name,
                 bench_spread(v, rounds, FIG_RATE).median, bench_spread(v, rounds, FIG_CLIENT_US).median,
                 bench_spread(v, rounds, FIG_SERVER_US).median);
}

void report_row(const struct row *r)
{
    if (bench_args.only)
        return;
    const bool reached =
        r->at_most ? r->verdict.median <= r->target : r->verdict.median >= r->target; /* NAN is short */

    short_rows += !reached;
    (void)printf("{\"type\":\"row\",\"row\":\"%s\",\"what\":\"%s\",\"unit\":\"%s\",\"at_most\":%s,", r->row, r->what,
                 r->unit, r->at_most ? "true" : "false");
    put_number("target", r->target);
    put_spread("ours", r->ours);
    put_spread("bare", r->bare);
    put_spread("verdict", r->verdict);
    put_figures("figures", r->variant, r->rounds);
    put_figures("baseline", r->baseline, r->rounds);
    (void)printf("\"reached\":%s}\n", reached ? "true" : "false");
    (void)fprintf(stderr, "%-7s %-4s %s: %.4g (%.4g..%.4g), wanted %s %.4g", reached ? "reached" : "SHORT", r->row,
                  r->what, r->verdict.median, r->verdict.min, r->verdict.max, r->at_most ? "<=" : ">=", r->target);
    if (isfinite(r->bare.median))
        (void)fprintf(stderr, "; ours %.5g, bare %.5g %s", r->ours.median, r->bare.median, r->unit);
    if (r->variant)
        (void)fprintf(stderr, "; client %.3g us", bench_spread(r->variant, r->rounds, FIG_CLIENT_US).median);
    if (r->baseline)
        (void)fprintf(stderr, " (bare %.3g)", bench_spread(r->baseline, r->rounds, FIG_CLIENT_US).median);
    (void)fputc('\n', stderr);
}

void report_point(const char *chart, const char *line, double x, const char *x_unit, double y, const char *y_unit)
{
    if (bench_args.only)
        return;
    (void)printf("{\"type\":\"point\",\"chart\":\"%s\",\"line\":\"%s\",\"x\":%.6g,\"x_unit\":\"%s\",\"y\":%.6g,"
                 "\"y_unit\":\"%s\"}\n",
                 chart, line, x, x_unit, y, y_unit);
}

void report_note(const char *row, const char *format, ...)
{
    char text[1000];
    va_list args;

    if (bench_args.only)
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)printf("{\"type\":\"note\",\"row\":\"%s\",\"text\":\"%s\"}\n", row, text);
    (void)fprintf(stderr, "        %-4s %s\n", row, text);
}

int report_end(void)
{
    return short_rows ? 1 : 0;
}
