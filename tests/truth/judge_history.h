/* SPDX-License-Identifier: Apache-2.0 */
/* Histories written by hand, for the tests of the judge: include it in the one file of a test. Threads: one. */
#ifndef EV_TESTS_JUDGE_HISTORY_H
#define EV_TESTS_JUDGE_HISTORY_H

#include "../support/truth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static struct truth logs[2];
static struct truth_case trial;
static int64_t now;

static inline int set_up(void **state)
{
    (void)state;
    memset(&trial, 0, sizeof trial);
    trial.name = "judge";
    trial.attempts_max = 3;
    trial.quiet = true;
    trial.logs = logs;
    trial.log_count = 2;
    now = SECOND;
    return truth_open(&logs[0], NULL, 1, 64) && truth_open(&logs[1], NULL, 2, 64) ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    truth_close(&logs[0]);
    truth_close(&logs[1]);
    truth_content_clear(&trial.stream);
    truth_content_clear(&trial.letters);
    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        truth_content_clear(&trial.servers[i]);
        truth_content_clear(&trial.letter_servers[i]);
    }
    return 0;
}

/* ---- Writing history --------------------------------------------------------------------------------------------- */

static inline struct truth_entry *write_entry(int process, enum truth_kind kind, uint32_t version, uint64_t sequence)
{
    struct truth *t = &logs[process - 1];
    struct truth_entry *e = &t->entries[atomic_fetch_add(&t->shared->count, 1)];

    e->process = (uint16_t)process;
    e->member = 1;
    e->aggregate = 1;
    e->version = version;
    e->sequence = sequence;
    e->deliveries = e->attempt = 1;
    e->at_ns = e->wall_ns = ++now;
    atomic_store(&e->kind, kind);
    return e;
}

static inline void published(uint32_t version, uint64_t sequence)
{
    write_entry(1, TRUTH_CALL, version, 0)->publisher = 0;
    write_entry(1, TRUTH_ACCEPTED, version, 0)->publisher = 0;
    if (!sequence)
        return;
    truth_content_add(&trial.stream, &(struct truth_stored){
                                         .sequence = sequence, .aggregate = 1, .version = version, .stored_ns = now});
}

static inline void ran(int process, uint32_t version, uint64_t sequence, evbus_verdict verdict)
{
    write_entry(process, TRUTH_START, version, sequence);
    write_entry(process, TRUTH_VERDICT, version, sequence)->verdict = verdict;
}

static inline void letter(uint64_t sequence)
{
    truth_content_add(&trial.letters,
                      &(struct truth_stored){
                          .sequence = sequence, .aggregate = 1, .version = (uint32_t)sequence, .stored_ns = ++now});
}

static inline void totals(uint64_t accepted, uint64_t stored, uint64_t refused, uint64_t unknown)
{
    struct truth_entry *e = write_entry(1, TRUTH_TOTALS, 0, 0);

    e->counts[0] = accepted;
    e->counts[1] = stored;
    e->counts[2] = refused;
    e->counts[3] = unknown;
}

static inline void expect(const char *rule)
{
    struct truth_account account;
    const bool kept = truth_judge(&trial, &account);

    if (rule && (kept || !strstr(trial.verdict, rule)))
        fail_msg("expected '%s', the verdict is '%s'", rule, trial.verdict);
    if (!rule && !kept)
        fail_msg("expected nothing, the verdict is '%s'", trial.verdict);
}

/* Two versions stored at 1 and 2, and a member. */
static inline void two_published(void)
{
    published(1, 1);
    published(2, 2);
    write_entry(1, TRUTH_MEMBER, 0, 0);
}

/* A member of another process starts a message again. */
static inline struct truth_entry *started_again(int process, uint32_t version, uint64_t sequence)
{
    struct truth_entry *e = write_entry(process, TRUTH_START, version, sequence);

    e->deliveries = 2;
    return e;
}

static inline void ran_again(int process, uint32_t version, uint64_t sequence, evbus_verdict verdict)
{
    (void)started_again(process, version, sequence);
    write_entry(process, TRUTH_VERDICT, version, sequence)->verdict = verdict;
}

#endif
