/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the logs in the order of their times. Times of one process never go back from one entry to the next; those of
 * two processes are the machine's monotonic clock.
 */
#include "truth.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define HISTORY_MAX 120
#define PUBLISHERS 64

/* One publication, known by aggregate and version. */
struct publication {
    uint32_t aggregate, version, publisher;
    uint16_t process;
    bool accepted, declined;
    uint32_t outcome; /* TRUTH_STORED, TRUTH_REFUSED, TRUTH_UNKNOWN; 0: none */
    int64_t reported_ns;
    uint64_t called;   /* place of its last call in the order of all entries */
    uint64_t sequence; /* in the stream; 0: it is not there */
    int64_t stored_ns, letter_ns;
    bool acked, doomed;                                /* doomed: rejected, or its attempts are used up */
    uint16_t acked_by, doomed_by, acked_in, doomed_in; /* the member, the process */
    uint32_t runs, calls;
};

/* One aggregate, as its handlers saw it. */
struct aggregate {
    uint32_t number;
    size_t first, count; /* its part of `order` */
    size_t unfinished;   /* before this one all are acknowledged or dead-lettered; only goes up */
    uint64_t last;       /* sequence of the last start, by the present member */
    bool running;
};

struct court {
    struct truth_case *c;
    struct truth_account *account;
    const struct truth_entry **entries;
    int64_t *times;
    size_t count;
    struct publication *publications; /* sorted by aggregate and version */
    size_t publication_count;
    struct publication **order; /* those in the stream, by aggregate and sequence */
    size_t stored_count;
    struct aggregate *aggregates; /* sorted by number */
    size_t aggregate_count;
    uint16_t process, member; /* the present one */
};

/* ---- Verdict ----------------------------------------------------------------------------------------------------- */

static const char *name_of(uint32_t kind)
{
    static const char *const names[] = {"nothing", "member",  "call",  "accepted", "declined", "stored",
                                        "refused", "unknown", "start", "verdict",  "levels",   "totals"};

    return kind < sizeof names / sizeof names[0] ? names[kind] : "?";
}

static void tell(const struct court *court, size_t i)
{
    static const char *const verdicts[] = {"ack", "retry", "reject", "defer"};
    const struct truth_entry *e = court->entries[i];

    (void)fprintf(stderr, "  %10.3f ms  p%u.%u %-8s v%u", (double)(court->times[i] - court->times[0]) / 1e6, e->process,
                  e->member, name_of(e->kind), e->version);
    if (e->kind == TRUTH_START || e->kind == TRUTH_VERDICT)
        (void)fprintf(stderr, " seq %" PRIu64 " delivery %u attempt %u %s", e->sequence, e->deliveries, e->attempt,
                      e->kind == TRUTH_VERDICT && e->verdict < 4 ? verdicts[e->verdict] : "");
    (void)fputc('\n', stderr);
}

static bool concerns(const struct truth_entry *e, uint32_t aggregate)
{
    return e->kind == TRUTH_MEMBER || (e->kind < TRUTH_LEVELS && e->aggregate == aggregate);
}

/* The last entries that concern an aggregate, up to `until`. */
static void tell_history(const struct court *court, uint32_t aggregate, size_t until)
{
    size_t from = until + 1, n = 0, told = 0;

    while (from > 0 && n < HISTORY_MAX)
        n += concerns(court->entries[--from], aggregate);
    (void)fprintf(stderr, "history of a%u:\n", aggregate);
    for (size_t i = from; i <= until && i < court->count; i++)
        if (concerns(court->entries[i], aggregate))
            tell(court, i);
    for (size_t i = 0; i < court->publication_count; i++) {
        const struct publication *p = &court->publications[i];
        if (p->aggregate == aggregate && p->sequence)
            (void)fprintf(stderr, "  v%u at %" PRIu64 "%s", p->version, p->sequence, ++told % 8 ? "," : "\n");
    }
    (void)fprintf(stderr, "%s are in the stream\n", told ? "" : "  none");
}

/* The first broken rule is the verdict. `at`: the entry that broke it. */
static void broken(struct court *court, uint32_t aggregate, size_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void broken(struct court *court, uint32_t aggregate, size_t at, const char *fmt, ...)
{
    struct truth_case *c = court->c;
    va_list args;

    if (c->verdict[0])
        return;
    va_start(args, fmt);
    (void)vsnprintf(c->verdict, sizeof c->verdict, fmt, args);
    va_end(args);
    if (c->quiet)
        return;
    (void)fprintf(stderr, "%s, seed %" PRIu64 ": %s\n", c->name, c->seed, c->verdict);
    if (court->count > 0)
        tell_history(court, aggregate, at < court->count ? at : court->count - 1);
}

/* ---- Reading the logs -------------------------------------------------------------------------------------------- */

struct timed {
    const struct truth_entry *entry;
    int64_t at;
    size_t place;
};

static int by_time(const void *a, const void *b)
{
    const struct timed *x = a, *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static void gather(struct court *court)
{
    struct truth_case *c = court->c;
    size_t most = 1, n = 0;

    for (size_t l = 0; l < c->log_count; l++)
        most += c->logs[l].shared->capacity;
    struct timed *all = calloc(most, sizeof *all);
    for (size_t l = 0; l < c->log_count; l++) {
        const struct truth_shared *s = c->logs[l].shared;
        const uint32_t used = atomic_load(&s->count);
        int64_t latest = 0;
        if (used > s->capacity)
            broken(court, 0, 0, "log %zu is full: %u entries of %u", l, used, s->capacity);
        for (uint32_t i = 0; i < used && i < s->capacity; i++) {
            const struct truth_entry *e = &c->logs[l].entries[i];
            if (atomic_load_explicit(&e->kind, memory_order_acquire) == TRUTH_NOTHING)
                continue; /* its writer was killed before it was complete */
            latest = e->at_ns > latest ? e->at_ns : latest;
            all[n] = (struct timed){e, latest, n};
            n++;
        }
    }
    qsort(all, n, sizeof *all, by_time);
    court->entries = calloc(n + 1, sizeof *court->entries);
    court->times = calloc(n + 1, sizeof *court->times);
    court->count = n;
    for (size_t i = 0; i < n; i++) {
        court->entries[i] = all[i].entry;
        court->times[i] = all[i].at;
    }
    free(all);
}

/* ---- Publications: G1 -------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct publication *x = a, *y = b;

    if (x->aggregate != y->aggregate)
        return x->aggregate < y->aggregate ? -1 : 1;
    return x->version < y->version ? -1 : x->version > y->version;
}

static struct publication *find(const struct court *court, uint32_t aggregate, uint32_t version)
{
    const struct publication key = {.aggregate = aggregate, .version = version};

    if (court->publication_count == 0)
        return NULL;
    return bsearch(&key, court->publications, court->publication_count, sizeof key, by_name);
}

static void list_publications(struct court *court)
{
    size_t n = 0, kept = 0;

    court->publications = calloc(court->count + 1, sizeof *court->publications);
    for (size_t i = 0; i < court->count; i++)
        if (court->entries[i]->kind == TRUTH_CALL)
            court->publications[n++] =
                (struct publication){.aggregate = court->entries[i]->aggregate, .version = court->entries[i]->version};
    qsort(court->publications, n, sizeof *court->publications, by_name);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || by_name(&court->publications[kept - 1], &court->publications[i]) != 0)
            court->publications[kept++] = court->publications[i];
    court->publication_count = kept;
}

static void take_outcome(struct court *court, struct publication *p, const struct truth_entry *e, size_t i)
{
    if (p->outcome)
        broken(court, e->aggregate, i, "G1: a%u v%u has two outcomes: %s, then %s", e->aggregate, e->version,
               name_of(p->outcome), name_of(e->kind));
    p->outcome = e->kind;
    p->reported_ns = e->wall_ns;
    court->account->stored += e->kind == TRUTH_STORED;
    court->account->refused += e->kind == TRUTH_REFUSED;
    court->account->unknown += e->kind == TRUTH_UNKNOWN;
}

static void take_publication(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = find(court, e->aggregate, e->version);

    if (!p) {
        broken(court, e->aggregate, i, "G1: a%u v%u ended without having been called", e->aggregate, e->version);
        return;
    }
    switch ((enum truth_kind)e->kind) {
    case TRUTH_CALL:
        p->process = e->process;
        p->publisher = e->publisher;
        p->called = i;
        p->declined = false;
        p->calls++;
        court->account->calls++;
        break;
    case TRUTH_ACCEPTED:
        p->accepted = true;
        court->account->accepted++;
        break;
    case TRUTH_DECLINED:
        p->declined = true;
        court->account->declined++;
        break;
    default:
        take_outcome(court, p, e, i);
        break;
    }
}

/* A process that ended in order has counted what this log counts, and what ended without a word is stored. */
static void close_accounts(struct court *court, const struct truth_entry *totals, size_t at)
{
    uint64_t accepted = 0, stored = 0, refused = 0, unknown = 0, again = 0;

    for (size_t i = 0; i < court->publication_count; i++) {
        struct publication *p = &court->publications[i];
        if (p->process != totals->process)
            continue;
        accepted += p->accepted;
        again += p->calls - p->accepted;
        refused += p->outcome == TRUTH_REFUSED;
        unknown += p->outcome == TRUTH_UNKNOWN;
        if (p->accepted && !p->outcome)
            p->outcome = TRUTH_STORED;
        stored += p->outcome == TRUTH_STORED;
    }
    /* evbus_publish_envelope_wait does not tell what it did not accept from what was refused. */
    const uint64_t waited = totals->counts[0] - accepted;
    if (waited > again || stored != totals->counts[1] || refused + waited != totals->counts[2] ||
        unknown != totals->counts[3])
        broken(court, 0, at,
               "G1: process %u accepted %" PRIu64 ", and counts %" PRIu64 "; without an error %" PRIu64
               ", it counts stored %" PRIu64 "; refused %" PRIu64 " and %" PRIu64 "; unknown %" PRIu64 " and %" PRIu64,
               totals->process, accepted, totals->counts[0], stored, totals->counts[1], refused, totals->counts[2],
               unknown, totals->counts[3]);
}

static void take_publications(struct court *court)
{
    for (size_t i = 0; i < court->count; i++)
        if (court->entries[i]->kind >= TRUTH_CALL && court->entries[i]->kind <= TRUTH_UNKNOWN)
            take_publication(court, court->entries[i], i);
    for (size_t i = 0; i < court->count; i++)
        if (court->entries[i]->kind == TRUTH_TOTALS)
            close_accounts(court, court->entries[i], i);
}

/* ---- The stream's end -------------------------------------------------------------------------------------------- */

static int by_sequence(const void *a, const void *b)
{
    const struct truth_stored *x = a, *y = b;

    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static void match_one(struct court *court, const struct truth_stored *s)
{
    struct publication *p = find(court, s->aggregate, s->version);
    const size_t end = court->count;

    if (!p) {
        broken(court, s->aggregate, end, "G1: a%u v%u is in the stream and nobody published it", s->aggregate,
               s->version);
        return;
    }
    if (p->sequence)
        broken(court, s->aggregate, end, "G1: a%u v%u is in the stream twice, at %" PRIu64 " and %" PRIu64,
               s->aggregate, s->version, p->sequence, s->sequence);
    if (p->outcome == TRUTH_REFUSED)
        broken(court, s->aggregate, end, "G1: a%u v%u was reported refused and is in the stream at %" PRIu64,
               s->aggregate, s->version, s->sequence);
    if (p->declined && !p->accepted && !p->outcome)
        broken(court, s->aggregate, end, "G1: a%u v%u was not accepted and is in the stream at %" PRIu64, s->aggregate,
               s->version, s->sequence);
    const int64_t late = s->stored_ns - p->reported_ns;
    court->account->unknown_stored += p->outcome == TRUTH_UNKNOWN;
    court->account->late += p->outcome == TRUTH_UNKNOWN && late > 0;
    if (p->outcome == TRUTH_UNKNOWN && late > (int64_t)court->c->late_ms * 1000000)
        broken(court, s->aggregate, end, "G1: a%u v%u was reported unknown and stored %.3f ms after that", s->aggregate,
               s->version, (double)late / 1e6);
    p->sequence = s->sequence;
    p->stored_ns = s->stored_ns;
}

/* What one thread published is stored in the order of its calls; but for what was given up before: it was on its way through
 * a peer that stood still, and what was sent by another way has overtaken it. */
static void check_publishing_order(struct court *court)
{
    const struct publication *last[PUBLISHERS] = {NULL};

    for (size_t i = 0; i < court->c->stream.count; i++) {
        const struct truth_stored *s = &court->c->stream.all[i];
        const struct publication *p = find(court, s->aggregate, s->version);
        if (!p || (p->outcome == TRUTH_UNKNOWN && p->stored_ns > p->reported_ns))
            continue;
        const struct publication **before = &last[(p->process * 8u + p->publisher) % PUBLISHERS];
        if (*before && (*before)->process == p->process && (*before)->publisher == p->publisher &&
            (*before)->called > p->called)
            broken(court, s->aggregate, court->count,
                   "publishing order: a%u v%u was called before a%u v%u, and is stored after it", p->aggregate,
                   p->version, (*before)->aggregate, (*before)->version);
        *before = p;
    }
}

static void match_stream(struct court *court)
{
    struct truth_case *c = court->c;

    if (c->stream.count > 0)
        qsort(c->stream.all, c->stream.count, sizeof *c->stream.all, by_sequence);
    for (size_t i = 0; i < c->stream.count; i++)
        match_one(court, &c->stream.all[i]);
    for (size_t i = 0; i < court->publication_count; i++) {
        const struct publication *p = &court->publications[i];
        court->account->open += p->accepted && !p->outcome;
        if (p->outcome == TRUTH_STORED && !p->sequence)
            broken(court, p->aggregate, court->count, "G1: a%u v%u was stored and is not in the stream", p->aggregate,
                   p->version);
    }
    check_publishing_order(court);
}

static struct publication *at_sequence(const struct court *court, uint64_t sequence)
{
    const struct truth_stored key = {.sequence = sequence};
    const struct truth_stored *s =
        court->c->stream.count == 0
            ? NULL
            : bsearch(&key, court->c->stream.all, court->c->stream.count, sizeof key, by_sequence);

    return s ? find(court, s->aggregate, s->version) : NULL;
}

static void match_letters(struct court *court)
{
    for (size_t i = 0; i < court->c->letters.count; i++) {
        const struct truth_stored *s = &court->c->letters.all[i];
        struct publication *p = at_sequence(court, s->sequence);
        court->account->letters++;
        if (!p) {
            broken(court, s->aggregate, court->count, "G5: a dead letter of sequence %" PRIu64 ", which never was",
                   s->sequence);
            continue;
        }
        if (p->letter_ns)
            broken(court, p->aggregate, court->count, "G3: a%u v%u has two dead letters", p->aggregate, p->version);
        p->letter_ns = s->stored_ns;
    }
}

/* ---- Handlers: G2, G3 -------------------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const struct publication *x = *(struct publication *const *)a, *y = *(struct publication *const *)b;

    if (x->aggregate != y->aggregate)
        return x->aggregate < y->aggregate ? -1 : 1;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static void list_aggregates(struct court *court)
{
    court->order = calloc(court->publication_count + 1, sizeof(struct publication *));
    court->aggregates = calloc(court->publication_count + 1, sizeof *court->aggregates);
    for (size_t i = 0; i < court->publication_count; i++)
        if (court->publications[i].sequence)
            court->order[court->stored_count++] = &court->publications[i];
    if (court->stored_count > 0)
        qsort(court->order, court->stored_count, sizeof(struct publication *), by_place);
    for (size_t i = 0; i < court->stored_count; i++) {
        if (i == 0 || court->order[i]->aggregate != court->order[i - 1]->aggregate)
            court->aggregates[court->aggregate_count++] =
                (struct aggregate){.number = court->order[i]->aggregate, .first = i};
        court->aggregates[court->aggregate_count - 1].count++;
    }
}

static int by_number(const void *a, const void *b)
{
    const struct aggregate *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

static struct aggregate *aggregate_of(const struct court *court, uint32_t number)
{
    const struct aggregate key = {.number = number};

    if (court->aggregate_count == 0)
        return NULL;
    return bsearch(&key, court->aggregates, court->aggregate_count, sizeof key, by_number);
}

/* All of the aggregate below the sequence is finished: acknowledged, or its letter was stored before `wall`. */
static const struct publication *unfinished_below(const struct court *court, struct aggregate *a, uint64_t sequence,
                                                  int64_t wall)
{
    while (a->unfinished < a->count) {
        const struct publication *p = court->order[a->first + a->unfinished];
        if (p->sequence >= sequence)
            return NULL;
        if (!p->acked && (p->letter_ns == 0 || p->letter_ns > wall))
            return p;
        a->unfinished++;
    }
    return NULL;
}

static void check_repeat(struct court *court, const struct publication *p, const struct truth_entry *e, size_t i)
{
    if (p->acked && p->acked_by == e->member && p->acked_in == e->process)
        broken(court, e->aggregate, i, "G3: a%u v%u was acknowledged here and runs again", p->aggregate, p->version);
    if (p->doomed && p->doomed_by == e->member && p->doomed_in == e->process)
        broken(court, e->aggregate, i, "G3: a%u v%u was given up here and runs again", p->aggregate, p->version);
    if (p->runs > 0 && e->attempt == 1) { /* started by another member, or before it came again */
        court->account->repeats++;
        if (e->deliveries < 2 && !court->c->unflagged_repeats)
            broken(court, e->aggregate, i, "G2: a%u v%u is repeated and not flagged", p->aggregate, p->version);
    }
    if (e->attempt > court->c->attempts_max)
        broken(court, e->aggregate, i, "G2: a%u v%u: attempt %u of at most %u", p->aggregate, p->version, e->attempt,
               court->c->attempts_max);
}

static void take_start(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = find(court, e->aggregate, e->version);
    struct aggregate *a = aggregate_of(court, e->aggregate);

    if (!p || !a || p->sequence != e->sequence) {
        broken(court, e->aggregate, i, "G2: a%u v%u was handled at sequence %" PRIu64 ", where the stream has it not",
               e->aggregate, e->version, e->sequence);
        return;
    }
    if (e->process != court->process || e->member != court->member)
        broken(court, e->aggregate, i, "G2: member %u of process %u starts a handler, and is not the present one",
               e->member, e->process);
    if (a->running)
        broken(court, e->aggregate, i, "G2: a%u v%u starts while another message of it runs", e->aggregate, e->version);
    if (e->sequence < a->last)
        broken(court, e->aggregate, i, "G2: a%u: sequence %" PRIu64 " starts after %" PRIu64, e->aggregate, e->sequence,
               a->last);
    const struct publication *skipped = unfinished_below(court, a, e->sequence, e->wall_ns);
    if (skipped)
        broken(court, e->aggregate, i, "G2: a%u v%u starts before v%u is finished", e->aggregate, e->version,
               skipped->version);
    check_repeat(court, p, e, i);
    court->account->starts++;
    court->account->retries += e->attempt > 1;
    p->runs++;
    a->last = e->sequence;
    a->running = true;
}

static void take_verdict(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = find(court, e->aggregate, e->version);
    struct aggregate *a = aggregate_of(court, e->aggregate);

    if (!p || !a || e->process != court->process || e->member != court->member)
        return; /* a handler that outlived its member's end; its start was judged */
    if (!a->running)
        broken(court, e->aggregate, i, "G2: a%u v%u has a verdict and did not run", e->aggregate, e->version);
    a->running = false;
    if (e->verdict == EVBUS_REJECT || (e->verdict == EVBUS_RETRY && e->attempt >= court->c->attempts_max)) {
        p->doomed = true;
        p->doomed_by = e->member;
        p->doomed_in = e->process;
    }
    if (e->verdict != EVBUS_ACK)
        return;
    p->acked = true;
    p->acked_by = e->member;
    p->acked_in = e->process;
    court->account->acked++;
}

static void take_member(struct court *court, const struct truth_entry *e)
{
    court->process = e->process;
    court->member = e->member;
    court->account->members++;
    for (size_t i = 0; i < court->aggregate_count; i++) {
        court->aggregates[i].last = 0;
        court->aggregates[i].running = false;
    }
}

static void check_levels(struct court *court, const struct truth_entry *e, size_t i)
{
    if (e->counts[0] > e->counts[1])
        broken(court, 0, i, "G4: %" PRIu64 " publishes without an outcome, allowed are %" PRIu64, e->counts[0],
               e->counts[1]);
    if (e->counts[2] > e->counts[3])
        broken(court, 0, i, "G4: %" PRIu64 " messages held, allowed are %" PRIu64, e->counts[2], e->counts[3]);
}

static void take_handlers(struct court *court)
{
    for (size_t i = 0; i < court->count && !court->c->verdict[0]; i++) {
        const struct truth_entry *e = court->entries[i];
        if (e->kind == TRUTH_MEMBER)
            take_member(court, e);
        else if (e->kind == TRUTH_START)
            take_start(court, e, i);
        else if (e->kind == TRUTH_VERDICT)
            take_verdict(court, e, i);
        else if (e->kind == TRUTH_LEVELS)
            check_levels(court, e, i);
    }
}

static void check_finished(struct court *court)
{
    for (size_t i = 0; i < court->stored_count && !court->c->unfinished; i++) {
        const struct publication *p = court->order[i];
        if (!p->acked && !p->letter_ns)
            broken(court, p->aggregate, court->count, "G3: a%u v%u, sequence %" PRIu64 ", was never handled",
                   p->aggregate, p->version, p->sequence);
        if (p->letter_ns && !p->doomed && p->acked)
            broken(court, p->aggregate, court->count, "G3: a%u v%u was acknowledged and dead-lettered", p->aggregate,
                   p->version);
    }
}

/* ---- Judging ----------------------------------------------------------------------------------------------------- */

void truth_content_add(struct truth_content *content, const struct truth_stored *stored)
{
    if (content->count == content->capacity) {
        content->capacity = content->capacity ? content->capacity * 2 : 1024;
        content->all = realloc(content->all, content->capacity * sizeof *content->all);
        if (!content->all)
            abort();
    }
    content->all[content->count++] = *stored;
}

void truth_content_clear(struct truth_content *content)
{
    free(content->all);
    *content = (struct truth_content){0};
}

bool truth_judge(struct truth_case *c, struct truth_account *ret)
{
    struct truth_account none;
    struct court court = {.c = c, .account = ret ? ret : &none};

    memset(court.account, 0, sizeof *court.account);
    c->verdict[0] = 0;
    gather(&court);
    list_publications(&court);
    take_publications(&court);
    match_stream(&court);
    match_letters(&court);
    list_aggregates(&court);
    take_handlers(&court);
    check_finished(&court);
    free(court.entries);
    free(court.times);
    free(court.publications);
    free(court.order);
    free(court.aggregates);
    return c->verdict[0] == 0;
}
