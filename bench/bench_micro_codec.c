/* SPDX-License-Identifier: Apache-2.0 */
/* S10: writing and reading one envelope of about 600 bytes, payload checked, by the library's functions. */
#include "bench.h"

#include "core/envelope.h"

#include <math.h>
#include <string.h>

enum { ENCODE, SCAN };

struct job {
    int what;
    uint64_t messages;
    bool counting;
};

static void fill(evbus_envelope *env, char id[LOAD_ID_SIZE])
{
    load_envelope(1, INT64_C(1760000000123456789), id, env);
    env->aggregate_id = "order-0190b6f7-9f2c-7cc1-8d6e-0a5d4b1f2233";
    env->event_type = "OrderPlacedAndConfirmed";
    env->correlation_id = "0190b6f7-9f2c-7cc1-8d6e-0a5d4b1f4455";
}

static bool run(const void *arg, struct figures *out)
{
    const struct job *job = arg;
    char id[LOAD_ID_SIZE], text[1100], body[1024];
    evbus_envelope env, read;
    struct meter m;
    size_t len = 0;

    fill(&env, id);
    if (ev_envelope_check(&env) != EVBUS_OK || ev_envelope_encode(&env, body, sizeof body, &len) != EVBUS_OK)
        return bench_sorry("%s", evbus_error_detail());
    if (job->counting)
        meter_start_counting(&m);
    else
        meter_start(&m);
    for (uint64_t i = 0; i < job->messages; i++) {
        evbus_status st;
        if (job->what == ENCODE) {
            env.event_version = (int64_t)i + 1;
            st = ev_envelope_check(&env);
            if (st == EVBUS_OK)
                st = ev_envelope_encode(&env, body, sizeof body, &len);
        } else {
            st = ev_envelope_scan(body, len, text, sizeof text, &read);
        }
        if (st != EVBUS_OK)
            return bench_sorry("%s", evbus_error_detail());
    }
    meter_stop(&m, (double)job->messages, out);
    out->v[FIG_VALUE] = (double)len;
    return true;
}

static void row(const char *what, double target, const struct variant *v, unsigned rounds, enum figure f)
{
    const struct spread s = bench_spread(v, rounds, f);

    report_row(&(struct row){.row = "S10",
                             .what = what,
                             .unit = f == FIG_CLIENT_US ? "us" : "allocations per message",
                             .target = target,
                             .at_most = true,
                             .ours = s,
                             .bare = {NAN, NAN, NAN},
                             .verdict = s});
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5, 0);
    const uint64_t n = bench_args.quick ? 200000 : 500000;
    const struct job jobs[] = {{ENCODE, n, false}, {SCAN, n, false}, {ENCODE, n, true}, {SCAN, n, true}};
    struct variant v[] = {{.name = "check and encode", .run = run, .arg = &jobs[0]},
                          {.name = "scan", .run = run, .arg = &jobs[1]},
                          {.name = "check and encode, counting", .run = run, .arg = &jobs[2]},
                          {.name = "scan, counting", .run = run, .arg = &jobs[3]}};

    bench_rounds(v, 4, bench_args.rounds);
    report_note("S10", "the envelope has %.0f bytes", bench_spread(&v[0], bench_args.rounds, FIG_VALUE).median);
    row("check and encode", 0.6, &v[0], bench_args.rounds, FIG_CLIENT_US);
    row("scan", 0.8, &v[1], bench_args.rounds, FIG_CLIENT_US);
    row("encode: allocations", 0, &v[2], bench_args.rounds, FIG_OUR_ALLOCS);
    row("scan: allocations", 0, &v[3], bench_args.rounds, FIG_OUR_ALLOCS);
    return report_end();
}
