/* SPDX-License-Identifier: Apache-2.0 */
#include "core/tail.h"

#include "core/message.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_EVERY (2 * EV_SEC)
#define RETRY_EVERY EV_SEC
#define ANSWER_MS 2000
#define PARKED_MAX 8192

/* An aggregate that has letters. */
struct ev_tail_found {
    uint64_t first, last, head_letter, letters;
    char behind[sizeof(((struct ev_parked *)0)->behind)];
    char id[EV_AGGREGATE_MAX + 1];
};

evbus_status ev_tail_check(const evbus_sub_opts *o, bool envelope)
{
    if (o->tail > EVBUS_TAIL_PARK)
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.tail: %u is none of its values (0..%d)", o->tail,
                       EVBUS_TAIL_PARK);
    if (o->parked_max > PARKED_MAX || (o->parked_max && o->tail != EVBUS_TAIL_PARK))
        return ev_fail(EVBUS_INVALID, "evbus_sub_opts.parked_max: %u is above %d, or tail is not EVBUS_TAIL_PARK",
                       o->parked_max, PARKED_MAX);
    if (o->tail != EVBUS_TAIL_PARK)
        return EVBUS_OK;
    if (!envelope)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.tail: plain messages have no aggregate to park");
    if (o->fanout)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.tail: fanout leaves no letters to park behind");
    if (o->membership == EVBUS_SHARED)
        return ev_fail(EVBUS_UNSUPPORTED,
                       "evbus_sub_opts.tail: SHARED members do not know of each other's letters, nor keep order");
    if (o->on_waiting_full == EVBUS_WAITING_DEAD_LETTER)
        return ev_fail(EVBUS_UNSUPPORTED, "evbus_sub_opts.tail: EVBUS_WAITING_DEAD_LETTER gives up what waits behind "
                                          "a message that may still succeed");
    if (o->on_unhandled == EVBUS_UNHANDLED_ACK)
        return ev_fail(EVBUS_UNSUPPORTED,
                       "evbus_sub_opts.tail: EVBUS_UNHANDLED_ACK would drop what waits to be parked");
    return EVBUS_OK;
}

evbus_status ev_tail_init(struct evbus_sub *sub)
{
    if (sub->o.tail != EVBUS_TAIL_PARK)
        return EVBUS_OK;
    sub->tail = ev_calloc(1, sizeof *sub->tail);
    if (!sub->tail)
        return ev_fail(EVBUS_NOMEM, "out of memory for the tail of a subscription to '%s'", sub->topic->name);
    sub->tail->sub = sub;
    return EVBUS_OK;
}

/* ---- Parking ----------------------------------------------------------------------------------------------------- */

static void post_look(evbus *bus, struct evbus_sub *sub, int64_t at);
static void look_now(evbus *bus, struct evbus_sub *sub);

static struct ev_parked *park(struct evbus_sub *sub, struct ev_agg *agg)
{
    struct ev_parked *p = ev_calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->agg = agg;
    p->next = sub->tail->parked;
    sub->tail->parked = p;
    sub->tail->count++;
    agg->parked = p;
    ev_count(&sub->bus->n.aggregates_parked, 1);
    return p;
}

static void unpark(evbus *bus, struct ev_agg *agg)
{
    struct evbus_sub *sub = agg->sub;
    struct ev_parked **link = &sub->tail->parked, *p = agg->parked;

    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    sub->tail->count--;
    sub->tail->full = false;
    ev_count(&bus->n.aggregates_parked, UINT64_MAX); /* minus one */
    agg->parked = NULL;
    ev_free(p);
}

static void release(evbus *bus, struct ev_agg *agg, const char *why)
{
    ev_event(bus, EVBUS_EVENT_RELEASED, EVBUS_OK, 1, agg->sub->topic->name, agg->sub->group, agg->id, why);
    unpark(bus, agg);
}

static void no_room(evbus *bus, const evbus_msg *m)
{
    struct evbus_sub *sub = m->sub;
    char text[240];

    if (sub->tail->full)
        return;
    sub->tail->full = true;
    ev_count(&bus->n.dead_letter_failures, 1);
    (void)snprintf(text, sizeof text,
                   "sequence %" PRIu64 " is to be a dead letter, but %u aggregates are parked already (parked_max); it "
                   "stays and its aggregate waits: redrive or drop letters",
                   m->stream_seq, sub->tail->count);
    ev_event(bus, EVBUS_EVENT_DEAD_LETTER_FAILED, EVBUS_LIMIT, 1, m->topic, sub->group, m->agg->id, text);
}

bool ev_tail_park(evbus *bus, evbus_msg *m)
{
    struct evbus_sub *sub = m->sub;
    struct ev_agg *agg = m->agg;

    if (!sub->tail || agg->len == 0 || agg->parked)
        return true;
    struct ev_parked *p = sub->tail->count < sub->o.parked_max ? park(sub, agg) : NULL;
    if (!p)
        no_room(bus, m);
    return p != NULL;
}

static void say_behind(char out[288], uint64_t sequence, const char *event_id)
{
    (void)snprintf(out, 288, EV_TAIL_CAUSE "%" PRIu64 "/%.240s", sequence, event_id);
}

void ev_tail_stored(evbus *bus, evbus_msg *m, uint64_t sequence, bool duplicate)
{
    struct evbus_sub *sub = m->sub;
    struct ev_parked *p = m->agg->parked;
    const bool first = p && p->changed == 0;

    if (!p)
        return;
    p->changed = ++sub->tail->changes;
    p->free_after = 0;
    p->asking = false;
    p->last_letter = sequence > p->last_letter ? sequence : p->last_letter;
    if (!duplicate || p->letters == 0) /* else it was counted when it was read */
        p->letters++;
    if (m->tail) {
        ev_count(&bus->n.messages_parked, 1);
    } else {
        p->head_letter = sequence;
        say_behind(p->behind, m->stream_seq, m->env.event_id ? m->env.event_id : "");
    }
    if (first)
        ev_event(
            bus, EVBUS_EVENT_PARKED, EVBUS_OK, 1, m->topic, sub->group, m->agg->id,
            "what comes behind its dead letter goes to the dead-letter topic too, until its letters are redriven or "
            "dropped");
    if (!sub->tail->pending)
        post_look(bus, sub, ev_now(bus) + LOOK_EVERY);
}

void ev_tail_forget(evbus *bus, struct ev_agg *agg)
{
    if (agg->parked)
        unpark(bus, agg);
}

/* ---- Whose turn it is -------------------------------------------------------------------------------------------- */

/* The letter that the message was redriven from, if it was one of this group. */
static uint64_t letter_of(evbus *bus, const evbus_msg *m)
{
    const char *text = bus->ops->header(bus->state, m->token, EV_LETTER_HEADER);
    char *end = NULL;

    if (!text || *text < '1' || *text > '9')
        return 0;
    const uint64_t sequence = strtoull(text, &end, 10);
    return *end == ' ' && strcmp(end + 1, m->sub->group) == 0 ? sequence : 0;
}

/* Redriven from the letter that it all waits for, or from one behind that. */
static bool comes_back(evbus *bus, evbus_msg *m)
{
    struct ev_parked *p = m->agg->parked;
    const uint64_t letter = letter_of(bus, m);

    if (letter == 0 || letter < p->head_letter)
        return false;
    if (letter <= p->came_back)
        return true; /* it is known of, or older than what is known */
    p->came_back = letter;
    p->changed = ++m->sub->tail->changes;
    p->letters -= p->letters > 0;
    if (p->letters == 0) {
        release(bus, m->agg, "the last of its dead letters was redriven: it goes on");
    } else if (letter >= p->last_letter) {
        p->asking = true;
        look_now(bus, m->sub);
    }
    return true;
}

bool ev_tail_judge(evbus *bus, evbus_msg *m)
{
    struct ev_parked *p = m->agg->parked;

    if (p && p->free_after && m->stream_seq > p->free_after) {
        release(bus, m->agg, "no dead letter of it is left: it goes on");
        p = NULL;
    }
    if (!p && m->tail)
        m->tail = m->doomed = false;
    if (p && p->asking && !ev_sub_stops(m->sub)) /* who stops cannot wait: it is parked */
        return false;
    if (p && !m->doomed && !comes_back(bus, m))
        m->tail = m->doomed = true;
    return true;
}

const char *ev_tail_cause(const evbus_msg *m)
{
    const struct ev_parked *p = m->agg->parked;

    return p && *p->behind ? p->behind : EV_TAIL_CAUSE "a dead letter of its aggregate";
}

/* ---- Looking: the housekeeping thread ---------------------------------------------------------------------------- */

static struct ev_tail_found *find(struct ev_tail *t, const char *id)
{
    for (uint32_t i = 0; i < t->found_count; i++)
        if (strcmp(t->found[i].id, id) == 0)
            return &t->found[i];
    return NULL;
}

static struct ev_tail_found *add(struct evbus_sub *sub, const evbus_letter *l)
{
    struct ev_tail *t = sub->tail;

    if (t->found_count == sub->o.parked_max) {
        t->status = ev_fail(EVBUS_LIMIT, "more than parked_max (%u) aggregates have letters in %s", sub->o.parked_max,
                            l->letter_topic);
        return NULL;
    }
    if (t->found_count == t->found_cap) {
        const uint32_t cap = t->found_cap ? t->found_cap * 2 : 16;
        struct ev_tail_found *more = ev_realloc(t->found, cap * sizeof *more);
        if (!more) {
            t->status = ev_fail(EVBUS_NOMEM, "out of memory for what is parked");
            return NULL;
        }
        t->found = more;
        t->found_cap = cap;
    }
    struct ev_tail_found *f = &t->found[t->found_count++];
    memset(f, 0, sizeof *f);
    f->first = l->sequence;
    memcpy(f->id, l->aggregate_id, strlen(l->aggregate_id) + 1);
    return f;
}

static bool note(const evbus_letter *l, void *ctx)
{
    struct evbus_sub *sub = ctx;

    if (ev_load_acquire(&sub->stop) || ev_load_acquire(&sub->bus->phase) != EV_RUNNING) {
        sub->tail->status = EVBUS_CLOSED;
        return false;
    }
    if (!*l->aggregate_id || strlen(l->aggregate_id) > EV_AGGREGATE_MAX)
        return true;
    struct ev_tail_found *f = find(sub->tail, l->aggregate_id);
    if (!f && !(f = add(sub, l)))
        return false;
    f->letters++;
    f->last = l->sequence;
    if (strncmp(l->cause, EV_TAIL_CAUSE, strlen(EV_TAIL_CAUSE)) != 0) {
        f->head_letter = l->sequence;
        say_behind(f->behind, l->origin_sequence, l->event_id);
    } else if (!*f->behind) {
        (void)snprintf(f->behind, sizeof f->behind, "%.*s", (int)sizeof f->behind - 1, l->cause);
    }
    return true;
}

/* Letters may have been taken out since the last walk: the stream has fewer than its end has moved on. */
static bool worth_walking(struct ev_tail *t, const struct ev_stream_info *info)
{
    const bool walk = t->whole || strcmp(t->letters_created, info->created) != 0 ||
                      info->last_seq - t->letters_last != info->msgs - t->letters_msgs;

    t->letters_last = info->last_seq;
    t->letters_msgs = info->msgs;
    (void)ev_copy(t->letters_created, sizeof t->letters_created, info->created);
    return walk;
}

static evbus_status read_letters(evbus *bus, struct evbus_sub *sub)
{
    const int64_t deadline = ev_deadline(ev_now(bus), ANSWER_MS);
    struct ev_tail *t = sub->tail;
    struct ev_stream_info info = {0};
    evbus_status st = bus->ops->stream_covering(bus->state, sub->letter_topic->name, &info, deadline);

    if (st == EVBUS_NOT_FOUND)
        info = (struct ev_stream_info){0}; /* nothing was ever given up */
    else if (st != EVBUS_OK)
        return st;
    if (!worth_walking(t, &info))
        return EVBUS_OK;
    t->walked = true;
    t->status = EVBUS_OK;
    if (info.msgs > 0)
        st = evbus_letters(bus,
                           EVBUS_OPTS(evbus_letter_opts, .letter_topic = sub->letter_topic->name,
                                      .topic = sub->topic->name, .group = sub->group, .timeout_ms = ANSWER_MS),
                           note, sub);
    else
        st = EVBUS_OK;
    if (st != EVBUS_OK || (st = t->status) != EVBUS_OK)
        return st;
    st = bus->ops->stream_info(bus->state, ev_load_acquire(&sub->stream), sub->topic->name, &info,
                               ev_deadline(ev_now(bus), ANSWER_MS));
    t->stream_last = info.last_seq;
    return st;
}

static void look(evbus *bus, struct ev_chore *chore)
{
    struct ev_tail *t = (struct ev_tail *)((char *)chore - offsetof(struct ev_tail, chore));
    struct evbus_sub *sub = t->sub;

    t->found_count = 0;
    t->walked = false;
    t->status = read_letters(bus, sub);
    (void)ev_copy(t->text, sizeof t->text, t->status == EVBUS_OK ? "" : ev_detail());
    ev_loop_post(bus, &t->command);
}

/* ---- What a look found: the loop --------------------------------------------------------------------------------- */

static void say_failed(evbus *bus, struct evbus_sub *sub)
{
    char text[400];

    if (sub->tail->failed)
        return;
    sub->tail->failed = true;
    (void)snprintf(text, sizeof text, "which aggregates are parked cannot be read from %s: %s%s",
                   sub->letter_topic->name, sub->tail->text, sub->tail->unknown ? "; nothing starts before" : "");
    ev_event(bus, EVBUS_EVENT_DEAD_LETTER_FAILED, sub->tail->status, 0, sub->topic->name, sub->group, NULL, text);
}

/* The first look of an active member parks; later ones only correct, since a letter they saw may have come back since. */
static bool take(evbus *bus, struct evbus_sub *sub, const struct ev_tail_found *f)
{
    struct ev_agg *agg = ev_agg_get(bus, sub, f->id, strlen(f->id));
    struct ev_tail *t = sub->tail;

    if (!agg)
        return false;
    struct ev_parked *p = agg->parked;
    if (!p && t->unknown && !(p = park(sub, agg))) {
        ev_agg_next(bus, agg, ev_now(bus)); /* frees it when it is empty */
        return false;
    }
    if (!p) {
        ev_agg_next(bus, agg, ev_now(bus));
        return true;
    }
    /* The one that came back last may lie there still: it is taken out only after its message was stored. */
    const uint64_t letters = f->letters - (f->last == p->came_back);
    if (letters == 0)
        return true;
    p->look = t->looks;
    if (!t->unknown && p->changed > t->began) {
        t->whole = true; /* it is not worth knowing any more */
        return true;
    }
    p->letters = letters;
    p->came_back = f->first - 1;
    p->last_letter = f->last;
    p->head_letter = f->head_letter ? f->head_letter : p->head_letter;
    p->changed = t->began;
    p->free_after = 0;
    memcpy(p->behind, f->behind, sizeof p->behind);
    return true;
}

/* The walk told what had become of the letters that did not come back: it goes on where it waited, parked or not. */
static void answer(evbus *bus, struct ev_parked *p, bool found)
{
    struct ev_agg *agg = p->agg;

    p->asking = false;
    if (!found)
        release(bus, agg, "no dead letter of it is left: it goes on");
    ev_agg_next(bus, agg, ev_now(bus));
}

/* Those of which the walk found no letter. */
static void free_others(evbus *bus, struct evbus_sub *sub)
{
    struct ev_tail *t = sub->tail;

    for (struct ev_parked *p = t->parked, *next; p; p = next) {
        struct ev_agg *agg = p->agg;
        next = p->next;
        if (p->asking) {
            if (t->walked && p->changed <= t->began)
                answer(bus, p, p->look == t->looks);
            continue; /* else another look is to follow: look_now */
        }
        if (t->walked && p->look != t->looks && p->changed && p->changed <= t->began && !agg->letter)
            p->free_after = t->stream_last ? t->stream_last : 1;
        else if (t->walked && p->look != t->looks)
            t->whole = true;
        if (!p->free_after || sub->sequence_top < p->free_after || agg->head || agg->out)
            continue; /* ev_tail_judge knows which is the first that runs */
        release(bus, agg, "no dead letter of it is left: it goes on");
        ev_agg_next(bus, agg, ev_now(bus));
    }
}

static bool take_all(evbus *bus, struct evbus_sub *sub)
{
    struct ev_tail *t = sub->tail;

    t->looks++;
    t->whole = false;
    for (uint32_t i = 0; t->walked && i < t->found_count; i++)
        if (!take(bus, sub, &t->found[i]))
            return false;
    free_others(bus, sub);
    if (!t->unknown)
        return true;
    t->unknown = false;
    if (t->count > 0)
        ev_event(bus, EVBUS_EVENT_PARKED, EVBUS_OK, t->count, sub->topic->name, sub->group, NULL,
                 "so many aggregates have dead letters: what comes for them goes to the dead-letter topic too");
    ev_aggs_resume(bus, sub, ev_now(bus));
    return true;
}

static void adopt(evbus *bus, struct ev_command *command)
{
    struct ev_tail *t = (struct ev_tail *)((char *)command - offsetof(struct ev_tail, command));
    struct evbus_sub *sub = t->sub;
    int64_t again = LOOK_EVERY;

    t->pending = false;
    if (sub->detached) {
        if (sub->left)
            ev_sub_ended(sub);
        return;
    }
    if (t->useless) {
        again = 0;
        t->useless = false;
        t->whole = true;
    } else if (t->status != EVBUS_OK || !take_all(bus, sub)) {
        again = RETRY_EVERY;
        t->whole = true;
        if (t->status == EVBUS_OK) {
            t->status = EVBUS_NOMEM;
            (void)ev_copy(t->text, sizeof t->text, "out of memory");
        }
        say_failed(bus, sub);
    } else {
        t->failed = false;
    }
    ev_free(t->found);
    t->found = NULL;
    t->found_cap = 0;
    if (t->soon) {
        again = 0;
        t->soon = false;
        t->whole = true;
    }
    if ((t->unknown || t->count > 0) && !t->pending)
        post_look(bus, sub, ev_now(bus) + again);
}

static void post_look(evbus *bus, struct evbus_sub *sub, int64_t at)
{
    struct ev_tail *t = sub->tail;

    t->pending = true;
    t->began = t->changes;
    t->chore.run = look;
    t->command.run = adopt;
    ev_keeper_post(bus, &t->chore, at);
}

/* All that changed before is in what it finds. */
static void look_now(evbus *bus, struct evbus_sub *sub)
{
    struct ev_tail *t = sub->tail;

    t->soon = t->pending && !ev_keeper_cancel(bus, &t->chore);
    if (t->soon)
        return;
    t->whole = true;
    post_look(bus, sub, ev_now(bus));
}

void ev_tail_begin(evbus *bus, struct evbus_sub *sub)
{
    struct ev_tail *t = sub->tail;

    if (!t || sub->detached)
        return;
    t->unknown = true;
    t->changes += t->changes == 0;
    t->useless = t->pending && !ev_keeper_cancel(bus, &t->chore);
    if (t->useless)
        return;
    t->whole = true;
    post_look(bus, sub, ev_now(bus));
}

bool ev_tail_ended(evbus *bus, struct evbus_sub *sub)
{
    struct ev_tail *t = sub->tail;

    if (t && t->pending && ev_keeper_cancel(bus, &t->chore))
        t->pending = false;
    return !t || !t->pending;
}

void ev_tail_fini(struct evbus_sub *sub)
{
    if (sub->tail)
        ev_free(sub->tail->found);
    ev_free(sub->tail);
    sub->tail = NULL;
}
