/* SPDX-License-Identifier: Apache-2.0 */
/* What handlers started and how they ended, of one member or of several: G2, G3, G4, G6. */
#include "truth_court.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- Lists ------------------------------------------------------------------------------------------------------- */

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

static void list_members(struct court *court)
{
    for (size_t i = 0; i < court->count; i++)
        court->seat_count += court->entries[i]->kind == TRUTH_MEMBER;
    court->account->members = court->seat_count;
    court->seats = calloc(court->seat_count + 1, sizeof *court->seats);
    court->running = calloc(court->seat_count * court->aggregate_count + 1, sizeof *court->running);
    for (size_t i = 0; i < court->aggregate_count; i++)
        court->aggregates[i].running = court->running + i * court->seat_count;
    court->seat_count = 0; /* they come one by one */
}

/* NULL: it did not come yet. */
static struct seat *seat_of(const struct court *court, const struct truth_entry *e)
{
    for (size_t i = court->seat_count; i > 0; i--)
        if (court->seats[i - 1].process == e->process && court->seats[i - 1].member == e->member)
            return &court->seats[i - 1];
    return NULL;
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

/* ---- Rules ------------------------------------------------------------------------------------------------------- */

/* All of the aggregate below the sequence is finished: acknowledged, or its letter was stored before `wall`. */
static const struct publication *unfinished_below(const struct court *court, struct aggregate *a, uint64_t sequence,
                                                  int64_t wall)
{
    while (a->unfinished < a->count) {
        const struct publication *p = court->order[a->first + a->unfinished];
        if (p->sequence >= sequence)
            return NULL;
        if (!p->disputed && !p->acked.by && (p->letter_ns == 0 || p->letter_ns > wall))
            return p;
        a->unfinished++;
    }
    return NULL;
}

/* It is settled for this member: it had given that verdict in this turn. (In an earlier turn, it may have lost the right
 * to settle it.) */
static bool settled_here(const struct court *court, const struct ending *end, const struct seat *seat)
{
    return end->by == seat && end->turn == court->account->turns;
}

/* The broker delivers it for the first time once: of two starts one is flagged. Of those of EXCLUSIVE members the later. */
static bool repeat_is_hidden(const struct court *court, const struct publication *p, const struct truth_entry *e)
{
    if (e->deliveries >= 2 || court->c->unflagged_repeats)
        return false;
    return court->c->shared ? p->unflagged > 0 : p->runs > 0;
}

/* It had ended, and was delivered again to a member that need not know: it did not run it itself in this turn (what the floor
 * said when the turn began is less than all), or it is a SHARED one, which remembers no more than its latest. */
static bool runs_again(const struct court *court, const struct publication *p, const struct truth_entry *e)
{
    return (p->acked.by || p->doomed.by) && (court->c->shared || p->ran_ns < court->present_ns) &&
           court_lost_between(court, e->sequence, p->ran_ns, e->at_ns, false);
}

static void check_repeat(struct court *court, const struct publication *p, const struct seat *seat,
                         const struct truth_entry *e, bool again, size_t i)
{
    if (!again && settled_here(court, &p->acked, seat))
        court_broken(court, e->aggregate, i, "G3: a%u v%u was acknowledged here and runs again", p->aggregate,
                     p->version);
    if (!again && settled_here(court, &p->doomed, seat))
        court_broken(court, e->aggregate, i, "G3: a%u v%u was given up here and runs again", p->aggregate, p->version);
    if (court->c->in_order && p->acked.by)
        court_broken(court, e->aggregate, i,
                     "G6: a%u v%u was acknowledged by a member that ended in order, and runs again", p->aggregate,
                     p->version);
    if (p->runs > 0 && e->attempt == 1) { /* started by another member, or before it came again */
        court->account->repeats++;
        if (repeat_is_hidden(court, p, e))
            court_broken(court, e->aggregate, i, "G2: a%u v%u is repeated and not flagged", p->aggregate, p->version);
    }
    if (e->attempt > court->c->attempts_max)
        court_broken(court, e->aggregate, i, "G2: a%u v%u: attempt %u of at most %u", p->aggregate, p->version,
                     e->attempt, court->c->attempts_max);
}

/* A member that gave its turn back has no handler that still runs. */
static void check_hand_over(struct court *court, const struct truth_entry *e, size_t i)
{
    for (size_t k = 0; k < court->aggregate_count; k++)
        if (court->aggregates[k].running[court->present - court->seats])
            court_broken(
                court, court->aggregates[k].number, i,
                "G2: member %u of process %u starts a handler while one of a%u still runs in the member before it",
                e->member, e->process, court->aggregates[k].number);
}

static void begin_turn(struct court *court, const struct seat *seat, const struct truth_entry *e, size_t i)
{
    const struct truth_case *c = court->c;

    court->account->turns++;
    if (c->turns && court->account->turns > c->turns)
        court_broken(court, e->aggregate, i, "G2: member %u of process %u starts a handler, and it is not its turn",
                     e->member, e->process);
    if (court->present && c->in_order)
        check_hand_over(court, e, i);
    court->present = seat;
    court->present_ns = e->at_ns;
    court->stood_by = false;
    for (size_t k = 0; k < court->aggregate_count; k++)
        court->aggregates[k].last = court->aggregates[k].back = 0;
}

/* That one step back is excused says nothing of the next: that is measured by the highest. */
static void take_place(struct aggregate *a, const struct truth_entry *e)
{
    a->back = e->sequence < a->last ? e->sequence : 0;
    if (!a->back)
        a->last = e->sequence;
}

static void check_order(struct court *court, struct aggregate *a, const struct truth_entry *e, bool again, size_t i)
{
    if (e->sequence < a->last && e->sequence != a->back && !again)
        court_broken(court, e->aggregate, i, "G2: a%u: sequence %" PRIu64 " starts after %" PRIu64, e->aggregate,
                     e->sequence, a->last);
    const struct publication *skipped = unfinished_below(court, a, e->sequence, e->wall_ns);
    if (skipped)
        court_broken(court, e->aggregate, i, "G2: a%u v%u starts before v%u is finished", e->aggregate, e->version,
                     skipped->version);
}

static void take_start(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = court_find(court, e->aggregate, e->version);
    struct aggregate *a = aggregate_of(court, e->aggregate);
    const struct seat *seat = seat_of(court, e);

    if (!p || !a || (p->sequence != e->sequence && !court_holds(court_dispute(court, e->sequence), p))) {
        court_broken(court, e->aggregate, i,
                     "G2: a%u v%u was handled at sequence %" PRIu64 ", where the stream has it not", e->aggregate,
                     e->version, e->sequence);
        return;
    }
    if (!seat || seat->left) {
        court_broken(court, e->aggregate, i, "G2: member %u of process %u starts a handler, and %s", e->member,
                     e->process, seat ? "has left" : "never came");
        return;
    }
    if (!court->c->shared && seat != court->present)
        begin_turn(court, seat, e, i);
    if (court->stood_by)
        court->present_ns = e->at_ns;
    court->stood_by = false;
    if (a->running[seat - court->seats])
        court_broken(court, e->aggregate, i, "G2: a%u v%u starts while another message of it runs", e->aggregate,
                     e->version);
    const bool again = runs_again(court, p, e);
    if (!court->c->shared && !p->disputed)
        check_order(court, a, e, again, i);
    check_repeat(court, p, seat, e, again, i);
    court->account->starts++;
    court->account->again += again;
    court->account->retries += e->attempt > 1;
    p->runs++;
    p->ran_ns = e->at_ns;
    p->unflagged += e->attempt == 1 && e->deliveries < 2;
    if (!p->disputed)
        take_place(a, e);
    a->running[seat - court->seats] = true;
}

static void take_verdict(struct court *court, const struct truth_entry *e, size_t i)
{
    struct publication *p = court_find(court, e->aggregate, e->version);
    struct aggregate *a = aggregate_of(court, e->aggregate);
    const struct seat *seat = seat_of(court, e);

    if (!p || !a || !seat)
        return; /* its start was judged */
    if (!a->running[seat - court->seats])
        court_broken(court, e->aggregate, i, "G2: a%u v%u has a verdict and did not run", e->aggregate, e->version);
    a->running[seat - court->seats] = false;
    if (!court->c->shared && seat != court->present)
        return; /* a handler that outlived its member's turn: nothing of it is settled */
    const struct ending end = {seat, court->account->turns};
    if (e->verdict == EVBUS_REJECT || (e->verdict == EVBUS_RETRY && e->attempt >= court->c->attempts_max))
        p->doomed = end;
    if (e->verdict != EVBUS_ACK)
        return;
    p->acked = end;
    court->account->acked++;
}

static void take_member(struct court *court, const struct truth_entry *e)
{
    struct seat *seat = seat_of(court, e);

    if (e->kind == TRUTH_MEMBER)
        court->seats[court->seat_count++] = (struct seat){.process = e->process, .member = e->member};
    else if (seat)
        seat->left = true;
}

static void check_levels(struct court *court, const struct truth_entry *e, size_t i)
{
    if (e->counts[0] > e->counts[1])
        court_broken(court, 0, i, "G4: %" PRIu64 " publishes without an outcome, allowed are %" PRIu64, e->counts[0],
                     e->counts[1]);
    if (e->counts[2] > e->counts[3])
        court_broken(court, 0, i, "G4: %" PRIu64 " messages held, allowed are %" PRIu64, e->counts[2], e->counts[3]);
}

static void take_handlers(struct court *court)
{
    for (size_t i = 0; i < court->count && !court->c->verdict[0]; i++) {
        const struct truth_entry *e = court->entries[i];
        if (e->kind == TRUTH_MEMBER || e->kind == TRUTH_LEFT)
            take_member(court, e);
        else if (e->kind == TRUTH_STANDBY)
            court->stood_by = court->stood_by || (court->present && court->present->process == e->process);
        else if (e->kind == TRUTH_START)
            take_start(court, e, i);
        else if (e->kind == TRUTH_VERDICT)
            take_verdict(court, e, i);
        else if (e->kind == TRUTH_LEVELS)
            check_levels(court, e, i);
    }
    if (court->c->turns && court->account->turns != court->c->turns)
        court_broken(court, 0, court->count,
                     "G2: %" PRIu64 " turns, not %u: a member that should have had one had none", court->account->turns,
                     court->c->turns);
}

static void check_finished(struct court *court)
{
    for (size_t i = 0; i < court->stored_count && !court->c->unfinished; i++) {
        const struct publication *p = court->order[i];
        if (!p->acked.by && !p->letter_ns && !p->disputed)
            court_broken(court, p->aggregate, court->count, "G3: a%u v%u, sequence %" PRIu64 ", was never handled",
                         p->aggregate, p->version, p->sequence);
        if (p->letter_ns && !p->doomed.by && p->acked.by)
            court_broken(court, p->aggregate, court->count, "G3: a%u v%u was acknowledged and dead-lettered",
                         p->aggregate, p->version);
    }
}

void court_handlers(struct court *court)
{
    list_aggregates(court);
    list_members(court);
    take_handlers(court);
    check_finished(court);
    free(court->order);
    free(court->aggregates);
    free(court->seats);
    free(court->running);
}
