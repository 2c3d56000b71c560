/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the suite's own files: what a case is and what it may use. Everything a case makes (buses, tallies, gates, topic
 * names) belongs to its `struct suite` and outlives a failed assertion: teardown opens the gates, closes the buses and
 * takes the census. Handlers run on other threads and never assert: they record, the case's thread asserts.
 */
#ifndef EV_TESTS_BACKEND_SUITE_CASE_H
#define EV_TESTS_BACKEND_SUITE_CASE_H

#include "backend_suite.h"
#include "census.h"
#include "tally.h"
#include "wait.h"

#include <evbus/evbus.h>

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct suite_case {
    const char *name;
    void (*run)(void **state);
    bool timed; /* on a virtual clock where the backend has one */
};

#define SUITE_CASE(fn)                                                                                                 \
    {                                                                                                                  \
#fn, fn, false                                                                                                 \
    }
#define SUITE_TIMED(fn)                                                                                                \
    {                                                                                                                  \
#fn, fn, true                                                                                                  \
    }

/* Each ends with an element whose name is NULL. */
extern const struct suite_case suite_plain_cases[], suite_envelope_cases[], suite_receipt_cases[], suite_retry_cases[],
    suite_letter_cases[], suite_verdict_cases[], suite_group_cases[], suite_names_cases[], suite_topic_cases[],
    suite_life_cases[], suite_unsubscribe_cases[], suite_window_cases[], suite_limit_cases[], suite_worker_cases[],
    suite_misuse_cases[], suite_stats_cases[], suite_tenant_cases[], suite_outcome_cases[], suite_redrive_cases[],
    suite_health_cases[], suite_backlog_cases[], suite_member_cases[], suite_tail_cases[], suite_breaker_cases[],
    suite_frontier_cases[];

#define SUITE_BUSES 8

/* What on_event and on_publish_error of the suite's buses were told. */
struct suite_events {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct suite_event {
        const evbus *bus;
        evbus_event_kind kind;
        evbus_status status;
        uint64_t count;
        char topic[256], group[72], aggregate_id[264], text[400];
    } * all;
    size_t count, capacity;
    evbus_receipt *receipts;
    size_t receipt_count, receipt_capacity;
};

struct suite {
    const struct suite_backend *backend;
    struct census before;
    evbus_clock *clock; /* of a timed case; NULL: the system's */
    char name[16];      /* unique: the first token of its topics */
    struct suite_events events;
    evbus *buses[SUITE_BUSES];
    uint32_t bus_count;
    struct suite_piece *pieces; /* memory, freed last to first */
};

/* ---- Making things ----------------------------------------------------------------------------------------------- */

void *suite_alloc(struct suite *s, size_t size); /* zeroed, lives as long as the case */
struct tally *suite_tally(struct suite *s);
struct gate *suite_gate(struct suite *s); /* closed */

/* Name of a topic nobody else uses: "<case>.<name>". */
const char *suite_topic(struct suite *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A bus; `opts` may be NULL. Without a name its group is "suite"; events and publish errors go to s->events unless the
 * options say otherwise. suite_open: on a broker of its own if there is such a thing; suite_open_shared: on the one
 * broker of this case. */
evbus *suite_open(struct suite *s, const evbus_opts *opts);
evbus *suite_open_shared(struct suite *s, const evbus_opts *opts);
evbus_status suite_try_open(struct suite *s, bool shared, const evbus_opts *opts, evbus **ret);
/* Shuts it down, which must leave nothing, and closes it. */
void suite_close(struct suite *s, evbus *bus);
/* The case closed it itself. */
void suite_forget(struct suite *s, const evbus *bus);

/* With frontier acks where the suite runs with them and nothing speaks against it. */
extern bool suite_frontier;
evbus_sub *suite_sub(evbus *bus, const char *topic, struct tally *tally, const evbus_sub_opts *opts);
evbus_sub *suite_sub_plain(evbus *bus, const char *topic, struct tally *tally, const evbus_sub_opts *opts);
/* A tally of what arrives in the dead-letter topic of `topic`, headers kept. */
struct tally *suite_letters(struct suite *s, evbus *bus, const char *topic);

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

/* A valid envelope; the strings are the caller's. */
evbus_envelope suite_envelope_of(const char *aggregate, int64_t version);
void suite_publish(evbus *bus, const char *topic, const char *aggregate, int64_t version);
/* Versions first..last of aggregates "<prefix>0" .. "<prefix>(count-1)": first version of all, second of all ... */
void suite_publish_many(evbus *bus, const char *topic, const char *prefix, int count, int64_t first, int64_t last);
void suite_publish_plain(evbus *bus, const char *topic, const char *text);
evbus_receipt suite_publish_wait(evbus *bus, const char *topic, const char *aggregate, int64_t version);

/* ---- Time -------------------------------------------------------------------------------------------------------- */

/* Lets time go by, on the virtual clock in steps that every bus of the case has seen before the next. */
void suite_pass(struct suite *s, uint32_t ms);
/* The same until done(arg), which should need no more than `ms`; false: it did not become true. */
bool suite_pass_until(struct suite *s, bool (*done)(void *arg), void *arg, uint32_t ms);
/* Until a count of a tally has reached n. */
bool suite_pass_until_count(struct suite *s, struct tally *tally, const size_t *count, size_t n, uint32_t ms);
int64_t suite_now_ns(const struct suite *s);
/* Until the loop of the bus has begun and ended a whole turn. */
void suite_turn(evbus *bus);

/* ---- Events and statistics --------------------------------------------------------------------------------------- */

size_t suite_event_count(struct suite *s, evbus_event_kind kind);
/* The nth (from 0) event of that kind, waited for; fails the case when it does not come. */
struct suite_event suite_event(struct suite *s, evbus_event_kind kind, size_t nth);
size_t suite_receipt_count(struct suite *s);
evbus_receipt suite_receipt_at(struct suite *s, size_t nth); /* waited for */

evbus_statistics suite_stats_of(evbus *bus);
evbus_topic_statistics suite_topic_stats_of(evbus *bus, const char *topic);

void suite_reach(evbus *bus, size_t offset, const char *field, uint64_t value, bool exact, const char *file, int line);
/* Until the statistic has (at least) that value. */
#define must_reach(bus, field, value)                                                                                  \
    suite_reach(bus, offsetof(evbus_statistics, field), #field, value, true, __FILE__, __LINE__)
#define must_reach_at_least(bus, field, value)                                                                         \
    suite_reach(bus, offsetof(evbus_statistics, field), #field, value, false, __FILE__, __LINE__)

/* ---- Assertions: on the case's thread ---------------------------------------------------------------------------- */

void suite_status(evbus_status want, evbus_status got, const char *call, const char *file, int line);
#define must(call) suite_status(EVBUS_OK, (call), #call, __FILE__, __LINE__)
#define must_be(status, call) suite_status((status), (call), #call, __FILE__, __LINE__)

void suite_mention(const char *text, const char *file, int line);
/* The last call's error detail has this text in it. */
#define must_mention(text) suite_mention(text, __FILE__, __LINE__)

/* ---- Handlers' helpers ------------------------------------------------------------------------------------------- */

/* Verdicts by plan: a message of this aggregate (NULL: any) and version (0: any) is retried on its first `times` runs
 * (UINT32_MAX: always, until `over` is set). The list ends with times == 0. */
struct suite_plan {
    const char *aggregate;
    int64_t version;
    uint32_t times;
    atomic_bool over;
};
evbus_verdict suite_by_plan(const evbus_msg *msg, void *plan);

/* Waits in front of a gate, then acknowledges. */
evbus_verdict suite_at_gate(const evbus_msg *msg, void *gate);

/* A thread that settles deferred messages: a handler gives them and returns EVBUS_DEFER. */
struct suite_settler;
struct suite_settler *suite_settler_start(struct suite *s, struct tally *tally);
void suite_settler_give(struct suite_settler *settler, const evbus_msg *msg, evbus_verdict verdict);
void suite_settler_stop(struct suite_settler *settler); /* when all given are settled; also by the case's end */

/* One thread beside the case's own. `stop`, if given, is set before it is joined: by the case, or by its end. */
struct suite_background;
struct suite_background *suite_background(struct suite *s, void (*fn)(void *arg), void *arg, atomic_bool *stop);
void suite_background_join(struct suite_background *background);

/* Runs fn(0, arg) .. fn(count - 1, arg), each on a thread, and waits for all. */
void suite_threads(int count, void (*fn)(int index, void *arg), void *arg);
/* Another thread failed: the case fails when suite_threads returns. */
void suite_thread_failed(const char *what, const char *file, int line);
/* How many such failures there were since the last call. */
int suite_thread_failures(void);
#define thread_must(condition) ((condition) ? (void)0 : suite_thread_failed(#condition, __FILE__, __LINE__))

#endif
