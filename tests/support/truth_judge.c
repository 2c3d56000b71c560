/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the logs in the order of their times. Times of one process never go back from one entry to the next; those of
 * two processes are the machine's monotonic clock.
 */
#include "truth_court.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define HISTORY_MAX 120
#define PUBLISHERS 64
#define AROUND 400 /* entries after a call that tell what became of it */

/* ---- Verdict ----------------------------------------------------------------------------------------------------- */

static const char *name_of(uint32_t kind)
{
    static const char *const names[] = {"nothing", "member",  "call",    "accepted", "declined",
                                        "stored",  "refused", "unknown", "start",    "verdict",
                                        "left",    "levels",  "totals",  "standby",  "loss"};

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
    if (e->kind == TRUTH_LOSS)
        (void)fprintf(stderr,
                      " of the consumer's state %.3f ms before: floor %" PRIu64 " -> %" PRIu64 ", delivered %" PRIu64
                      " -> %" PRIu64,
                      (double)(court->times[i] - e->at_ns) / 1e6, e->counts[0], e->counts[1], e->counts[2],
                      e->counts[3]);
    (void)fputc('\n', stderr);
}

static bool concerns(const struct truth_entry *e, uint32_t aggregate)
{
    return e->kind == TRUTH_MEMBER || e->kind == TRUTH_LEFT || e->kind >= TRUTH_STANDBY ||
           (e->kind < TRUTH_LEVELS && e->aggregate == aggregate);
}

/* What was done with the publication of an entry before, and when the member's turn began. */
static void tell_before(const struct court *court, size_t from, const struct truth_entry *of)
{
    if (atomic_load(&of->kind) != TRUTH_START)
        return;
    if (court->present)
        (void)fprintf(stderr, "the turn of p%u.%u began at %.3f ms; before:\n", court->present->process,
                      court->present->member, (double)(court->present_ns - court->times[0]) / 1e6);
    for (size_t i = 0; i < from; i++) {
        const struct truth_entry *e = court->entries[i];
        if (e->kind >= TRUTH_STANDBY || (e->kind < TRUTH_LEVELS && e->kind != TRUTH_MEMBER && e->kind != TRUTH_LEFT &&
                                         e->aggregate == of->aggregate && e->version == of->version))
            tell(court, i);
    }
}

/* The last entries that concern an aggregate, up to `until`. */
static void tell_history(const struct court *court, uint32_t aggregate, size_t until)
{
    size_t from = until + 1, n = 0, told = 0;

    while (from > 0 && n < HISTORY_MAX)
        n += concerns(court->entries[--from], aggregate);
    (void)fprintf(stderr, "history of a%u:\n", aggregate);
    tell_before(court, from, court->entries[until]);
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

void court_broken(struct court *court, uint32_t aggregate, size_t at, const char *fmt, ...)
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
            court_broken(court, 0, 0, "log %zu is full: %u entries of %u", l, used, s->capacity);
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

struct publication *court_find(const struct court *court, uint32_t aggregate, uint32_t version)
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
        court_broken(court, e->aggregate, i, "G1: a%u v%u has two outcomes: %s, then %s", e->aggregate, e->version,
                     name_of(p->outcome), name_of(e->kind));
    p->outcome = e->kind;
    p->receipt = e->kind == TRUTH_STORED ? e->sequence : 0;
    p->duplicate = e->kind == TRUTH_STORED && e->duplicate;
    p->reported_ns = e->wall_ns;
    court->account->stored += e->kind == TRUTH_STORED;
    court->account->refused += e->kind == TRUTH_REFUSED;
    court->account->unknown += e->kind == TRUTH_UNKNOWN;
}

static void take_publication(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = court_find(court, e->aggregate, e->version);

    if (!p) {
        court_broken(court, e->aggregate, i, "G1: a%u v%u ended without having been called", e->aggregate, e->version);
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
        court_broken(court, 0, at,
                     "G1: process %u accepted %" PRIu64 ", and counts %" PRIu64 "; without an error %" PRIu64
                     ", it counts stored %" PRIu64 "; refused %" PRIu64 " and %" PRIu64 "; unknown %" PRIu64
                     " and %" PRIu64,
                     totals->process, accepted, totals->counts[0], stored, totals->counts[1], refused,
                     totals->counts[2], unknown, totals->counts[3]);
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

int court_by_sequence(const void *a, const void *b)
{
    const struct truth_stored *x = a, *y = b;

    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static void match_one(struct court *court, const struct truth_stored *s)
{
    struct publication *p = court_find(court, s->aggregate, s->version);
    const size_t end = court->count;

    if (!p) {
        court_broken(court, s->aggregate, end, "G1: a%u v%u is in the stream and nobody published it", s->aggregate,
                     s->version);
        return;
    }
    if (p->sequence)
        court_broken(court, s->aggregate, end, "G1: a%u v%u is in the stream twice, at %" PRIu64 " and %" PRIu64,
                     s->aggregate, s->version, p->sequence, s->sequence);
    if (p->outcome == TRUTH_REFUSED)
        court_broken(court, s->aggregate, end, "G1: a%u v%u was reported refused and is in the stream at %" PRIu64,
                     s->aggregate, s->version, s->sequence);
    if (p->declined && !p->accepted && !p->outcome)
        court_broken(court, s->aggregate, end, "G1: a%u v%u was not accepted and is in the stream at %" PRIu64,
                     s->aggregate, s->version, s->sequence);
    const int64_t late = s->stored_ns - p->reported_ns;
    court->account->unknown_stored += p->outcome == TRUTH_UNKNOWN;
    court->account->late += p->outcome == TRUTH_UNKNOWN && late > 0;
    if (p->outcome == TRUTH_UNKNOWN && late > (int64_t)court->c->late_ms * 1000000)
        court_broken(court, s->aggregate, end, "G1: a%u v%u was reported unknown and stored %.3f ms after that",
                     s->aggregate, s->version, (double)late / 1e6);
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
        const struct publication *p = court_find(court, s->aggregate, s->version);
        if (!p || p->disputed || (p->outcome == TRUTH_UNKNOWN && p->stored_ns > p->reported_ns))
            continue;
        const struct publication **before = &last[(p->process * 8u + p->publisher) % PUBLISHERS];
        if (*before && (*before)->process == p->process && (*before)->publisher == p->publisher &&
            (*before)->called > p->called)
            court_broken(court, s->aggregate, court->count,
                         "publishing order: a%u v%u was called before a%u v%u, and is stored after it", p->aggregate,
                         p->version, (*before)->aggregate, (*before)->version);
        *before = p;
    }
}

/* A publisher was told that it is stored, and where. */
static void check_stored(struct court *court, const struct publication *p)
{
    if (p->sequence && (!p->receipt || p->receipt == p->sequence))
        return;
    const bool lost = court_holds(court_dispute(court, p->receipt), p);
    court->account->lost += lost;
    court->missing += !lost;
    court_tell_stored(court, p);
    if (lost)
        return;
    if (p->sequence)
        court_broken(court, p->aggregate, p->called + AROUND,
                     "G1: a%u v%u was stored at %" PRIu64 " and is in the stream at %" PRIu64, p->aggregate, p->version,
                     p->receipt, p->sequence);
    else
        court_broken(court, p->aggregate, p->called + AROUND, "G1: a%u v%u was stored and is not in the stream",
                     p->aggregate, p->version);
}

static void match_stream(struct court *court)
{
    struct truth_case *c = court->c;

    if (c->stream.count > 0)
        qsort(c->stream.all, c->stream.count, sizeof *c->stream.all, court_by_sequence);
    for (size_t i = 0; i < c->stream.count; i++)
        match_one(court, &c->stream.all[i]);
    for (size_t i = 0; i < court->publication_count; i++) {
        const struct publication *p = &court->publications[i];
        court->account->open += p->accepted && !p->outcome;
        if (p->outcome == TRUTH_STORED)
            check_stored(court, p);
    }
    check_publishing_order(court);
}

static struct publication *at_sequence(const struct court *court, uint64_t sequence)
{
    const struct truth_stored key = {.sequence = sequence};
    const struct truth_stored *s =
        court->c->stream.count == 0
            ? NULL
            : bsearch(&key, court->c->stream.all, court->c->stream.count, sizeof key, court_by_sequence);

    return s ? court_find(court, s->aggregate, s->version) : NULL;
}

/* Where it was last run; the end, if it never was. */
static size_t last_start(const struct court *court, const struct publication *p)
{
    size_t at = court->count;

    for (size_t i = 0; i < court->count; i++) {
        const struct truth_entry *e = court->entries[i];
        if (atomic_load(&e->kind) == TRUTH_START && e->aggregate == p->aggregate && e->version == p->version)
            at = i;
    }
    return at;
}

/* A second letter follows from a loss only if the message ran again because of it: whether it might, its start is judged by. */
static bool ran_again_before(const struct court *court, const struct publication *p, const struct truth_stored *letter)
{
    for (size_t i = 0; i < court->count; i++) {
        const struct truth_entry *e = court->entries[i];
        if (atomic_load(&e->kind) == TRUTH_START && e->aggregate == p->aggregate && e->version == p->version &&
            e->wall_ns < letter->stored_ns &&
            court_lost_between(court, letter->sequence, p->last_letter_ns, e->wall_ns, true))
            return true;
    }
    return false;
}

static void match_letters(struct court *court)
{
    for (size_t i = 0; i < court->c->letters.count; i++) {
        const struct truth_stored *s = &court->c->letters.all[i];
        struct publication *p = court_dispute(court, s->sequence) ? court_find(court, s->aggregate, s->version)
                                                                  : at_sequence(court, s->sequence);
        court->account->letters++;
        if (!p) {
            court_broken(court, s->aggregate, court->count,
                         "G5: a dead letter of sequence %" PRIu64 ", which never was", s->sequence);
            continue;
        }
        const bool again = p->letter_ns && ran_again_before(court, p, s);
        court->account->letters_again += again;
        if (p->letter_ns && !again)
            court_broken(court, p->aggregate, last_start(court, p),
                         "G3: a%u v%u has two dead letters, the second stored %.1f s after the first", p->aggregate,
                         p->version, (double)(s->stored_ns - p->last_letter_ns) / 1e9);
        p->letter_ns = p->letter_ns ? p->letter_ns : s->stored_ns;
        p->last_letter_ns = s->stored_ns;
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
    court_servers(&court);
    court_losses(&court);
    match_stream(&court);
    match_letters(&court);
    court_lost_letters(&court);
    court_handlers(&court);
    free(court.entries);
    free(court.times);
    free(court.publications);
    free(court.disputes);
    free((void *)court.losses);
    return c->verdict[0] == 0;
}
