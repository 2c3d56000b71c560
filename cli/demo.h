/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of `evbus demo` share: the plan, the judge of order, one run on one broker, the private server. */
#ifndef CLI_DEMO_H
#define CLI_DEMO_H

#include "progress.h"

#include <evbus/evbus.h>

#include <sys/types.h>

struct demo_plan {
    uint32_t aggregates, versions, topics, publishers;
    uint32_t rate; /* events a second, all publishers together; 0: as fast as they are taken */
    uint64_t seed; /* chooses whose first attempt fails */
};

/* ---- The judge: every event is noted when published, when a handler starts on it, when it is acknowledged -------- */

struct judge;

struct judge_totals {
    uint64_t handled;          /* events acknowledged at least once */
    uint64_t retried;          /* attempts that asked for another */
    uint64_t duplicates;       /* acknowledgements of what was acknowledged before */
    uint64_t gaps;             /* acknowledgements that jumped over a version */
    uint64_t order_violations; /* starts before the predecessor's acknowledgement, or beside another of the aggregate */
    uint64_t damaged;          /* payload or topic is not what was published */
    uint64_t lost;             /* published, never acknowledged */
    int64_t first_ns, last_ns; /* first publish, last acknowledgement */
    int64_t p50_ns, p99_ns, max_ns; /* from publish to the start of its first attempt */
};

struct judge *judge_new(const struct demo_plan *plan); /* NULL: out of memory */
void judge_free(struct judge *j);
void judge_published(struct judge *j, uint32_t aggregate, uint32_t version); /* to be called before publishing it */
void judge_started(struct judge *j, uint32_t aggregate, uint32_t version, bool first_attempt);
void judge_retried(struct judge *j, uint32_t aggregate);                 /* to be called before the verdict is given */
void judge_acked(struct judge *j, uint32_t aggregate, uint32_t version); /* likewise */
void judge_damaged(struct judge *j);
uint64_t judge_handled(struct judge *j); /* so far */

/* The verdict, when nothing runs any more. False: out of memory. */
bool judge_totals(struct judge *j, struct judge_totals *ret);

/* ---- One run on one broker --------------------------------------------------------------------------------------- */

struct demo_result {
    const char *broker;
    const char *skipped; /* why it was not run; NULL: it was */
    char problem[640];   /* what went wrong besides the counts below; "": nothing */
    int exit_code;       /* of opening the bus, CLI_OK once it is open */
    uint64_t published;
    evbus_statistics stats;
    struct judge_totals totals;
    bool interrupted;
};

void demo_run(const struct demo_plan *plan, const char *url, const evbus_opts *opts, struct progress *progress,
              struct demo_result *r);

/* Nothing lost, doubled, damaged or out of order. */
bool demo_passed(const struct demo_plan *plan, const struct demo_result *r);

/* ---- Who publishes ----------------------------------------------------------------------------------------------- */

struct publishers;

/* Starts the plan's publisher threads; NULL with `problem` filled. */
struct publishers *publishers_start(const struct demo_plan *plan, evbus *bus, struct judge *judge, char *problem,
                                    size_t size);
uint64_t publishers_accepted(struct publishers *p); /* so far */
bool publishers_done(struct publishers *p);
bool publishers_problem(struct publishers *p, char *problem, size_t size); /* true: one of them gave up, and why */
void publishers_ask_to_stop(struct publishers *p);
void publishers_stop(struct publishers *p); /* joins the threads and frees */

/* The event's payload, and its topic. Both sides make them out of the same numbers. */
int demo_payload(char *out, size_t size, uint32_t aggregate, uint32_t version);
int demo_topic(char *out, size_t size, uint32_t topic);

/* ---- A private nats-server --------------------------------------------------------------------------------------- */

enum demo_server_state { SERVER_RUNS, SERVER_MISSING, SERVER_FAILED };

struct demo_server {
    pid_t pid;
    char folder[256];
    char url[64];
};

/* The path of nats-server; false: there is none. */
bool demo_server_find(char *out, size_t size);

/* Starts nats-server on a free loopback port, its files in a folder of its own. `why` is filled unless it runs. */
enum demo_server_state demo_server_start(struct demo_server *s, char *why, size_t size);
void demo_server_stop(struct demo_server *s); /* by its process id; removes the folder */

#endif
