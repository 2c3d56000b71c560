/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replicated stream is the same on each of its servers: a sequence is one message. Where two servers hold different ones,
 * the stream has no truth: it depends on who leads when it is read, and the consumer's leader reads its own. Such sequences
 * are disputed. What the publisher was told is stored at one of them, and one server has there, was stored and lost by
 * the servers; of disputed messages neither order nor delivery can be judged. Everything else is judged as ever.
 *
 * A server that has nothing at a sequence disputes nothing: it may not be done with catching up.
 *
 * Of dead letters nobody was told a sequence. One that a server holds where another one holds something else was stored: what
 * the dead-letter stream shows of such a sequence depends on who is asked.
 */
#include "truth_court.h"

#include <inttypes.h>
#include <stdlib.h>

#define TOLD_MAX 10

static bool same(const struct truth_stored *a, const struct truth_stored *b)
{
    return a->aggregate == b->aggregate && a->version == b->version;
}

/* What each server holds at its place, if that is `sequence`. True: they differ. */
static bool take_sequence(const struct truth_content servers[TRUTH_SERVERS], size_t place[TRUTH_SERVERS],
                          struct dispute *ret)
{
    const struct truth_stored *first = NULL;
    bool differ = false;

    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        const struct truth_content *content = &servers[i];
        if (place[i] >= content->count || content->all[place[i]].sequence != ret->sequence)
            continue;
        ret->held[i] = &content->all[place[i]++];
        differ = differ || (first && !same(first, ret->held[i]));
        first = ret->held[i];
    }
    return differ;
}

static bool next_sequence(const struct truth_content servers[TRUTH_SERVERS], const size_t place[TRUTH_SERVERS],
                          uint64_t *ret)
{
    bool any = false;

    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        const struct truth_content *content = &servers[i];
        if (place[i] >= content->count || (any && content->all[place[i]].sequence >= *ret))
            continue;
        *ret = content->all[place[i]].sequence;
        any = true;
    }
    return any;
}

/* The next sequence at which they differ; false: there is none any more. */
static bool next_dispute(const struct truth_content servers[TRUTH_SERVERS], size_t place[TRUTH_SERVERS],
                         struct dispute *ret)
{
    uint64_t sequence = 0;

    while (next_sequence(servers, place, &sequence)) {
        *ret = (struct dispute){.sequence = sequence};
        if (take_sequence(servers, place, ret))
            return true;
    }
    return false;
}

/* How many messages there are on all. */
static size_t sort_servers(struct truth_content servers[TRUTH_SERVERS])
{
    size_t sum = 0;

    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        if (servers[i].count > 0)
            qsort(servers[i].all, servers[i].count, sizeof *servers[i].all, court_by_sequence);
        sum += servers[i].count;
    }
    return sum;
}

static void dispute(struct court *court, const struct dispute *d)
{
    for (size_t i = 0; i < TRUTH_SERVERS; i++) {
        struct publication *p = d->held[i] ? court_find(court, d->held[i]->aggregate, d->held[i]->version) : NULL;
        if (p)
            p->disputed = true;
        else if (d->held[i])
            court_broken(court, d->held[i]->aggregate, court->count,
                         "G1: a%u v%u is in the stream of server %zu and nobody published it", d->held[i]->aggregate,
                         d->held[i]->version, i);
    }
    court->disputes[court->account->disputed++] = *d;
}

void court_servers(struct court *court)
{
    struct truth_case *c = court->c;
    size_t place[TRUTH_SERVERS] = {0};
    struct dispute d;

    court->disputes = calloc(sort_servers(c->servers) + 1, sizeof *court->disputes);
    while (next_dispute(c->servers, place, &d))
        dispute(court, &d);
}

void court_lost_letters(struct court *court)
{
    struct truth_content *servers = court->c->letter_servers;
    size_t place[TRUTH_SERVERS] = {0};
    struct dispute d;

    (void)sort_servers(servers);
    while (next_dispute(servers, place, &d))
        for (size_t i = 0; i < TRUTH_SERVERS; i++) {
            struct publication *p = d.held[i] ? court_find(court, d.held[i]->aggregate, d.held[i]->version) : NULL;
            if (!p || p->letter_ns)
                continue;
            p->letter_ns = p->last_letter_ns = d.held[i]->stored_ns;
            court->account->letters_lost++;
        }
}

static int by_dispute(const void *a, const void *b)
{
    const struct dispute *x = a, *y = b;

    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

const struct dispute *court_dispute(const struct court *court, uint64_t sequence)
{
    const struct dispute key = {.sequence = sequence};

    if (court->account->disputed == 0)
        return NULL;
    return bsearch(&key, court->disputes, court->account->disputed, sizeof key, by_dispute);
}

bool court_holds(const struct dispute *d, const struct publication *p)
{
    for (size_t i = 0; d && i < TRUTH_SERVERS; i++)
        if (d->held[i] && d->held[i]->aggregate == p->aggregate && d->held[i]->version == p->version)
            return true;
    return false;
}

static const struct truth_stored *stored_at(const struct truth_content *content, uint64_t sequence)
{
    const struct truth_stored key = {.sequence = sequence};

    if (content->count == 0)
        return NULL;
    return bsearch(&key, content->all, content->count, sizeof key, court_by_sequence);
}

void court_tell_stored(const struct court *court, const struct publication *p)
{
    const struct truth_case *c = court->c;

    if (c->quiet || court->account->lost + court->missing > TOLD_MAX)
        return;
    (void)fprintf(stderr, "a%u v%u was stored%s at %" PRIu64 "; there is", p->aggregate, p->version,
                  p->duplicate ? ", as a duplicate," : "", p->receipt);
    for (size_t i = 0; i <= c->server_count; i++) {
        const struct truth_stored *s = stored_at(i ? &c->servers[i - 1] : &c->stream, p->receipt);
        if (i)
            (void)fprintf(stderr, ", on server %zu", i - 1);
        if (!s) {
            (void)fprintf(stderr, " nothing");
            continue;
        }
        const struct publication *other = court_find(court, s->aggregate, s->version);
        (void)fprintf(stderr, " a%u v%u", s->aggregate, s->version);
        if (!i && other)
            (void)fprintf(stderr, " (%s)", other->outcome == TRUTH_STORED ? "stored as well" : "not reported stored");
    }
    (void)fputc('\n', stderr);
}
