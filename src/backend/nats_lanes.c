/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers to records, and which of them a "no responders" is about.
 *
 * When nobody listens on a subject the server answers 503 on the reply subject. libnats keeps that from us: it destroys
 * the message inside natsSubscription_NextMsg and returns NATS_NO_RESPONDERS, so all we learn is the subscription it
 * came on. Guessing would report a stored message as refused. Therefore replies come on several subscriptions, the
 * lanes, and the count tells:
 *
 *   Records of one write share a lane, the next write takes the next lane. Per lane we know what was sent and not
 *   answered (`unanswered`) and how many 503s came (`refused`). At the first 503 the lane closes: no new record gets
 *   it. Acknowledgements of the others come in; once `refused == unanswered`, all that is left was refused. Exact.
 *
 *   It does not come to that when a record is never answered at all (no stream, but some subscriber). So a closed lane
 *   also sends a message to ourselves, the fence: when that is back, no 503 for earlier records can follow. When then no
 *   answer has come for a while, the lane forgets what it waits for (those records end by their deadlines, as
 *   unanswered), and opens.
 *
 * A record whose slot was used again before it was answered is a ghost: counted, but nobody's. `epoch` is part of the
 * reply subject, so that an answer to something forgotten does not disturb the counts.
 *
 * Reply subject: <inbox>_p<lane>.<epoch>.<slot>.<generation>
 */
#include "backend/nats_api.h"
#include "backend/nats_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LANES 16u
#define FORGET_AFTER (2 * EV_SEC)    /* without any answer in the lane */
#define FORGET_CROWDED (500 * EV_MS) /* the same while no lane is open and everybody waits */
#define NONE UINT32_MAX

struct slot {
    uint32_t generation;
    uint32_t prev, next; /* in the lane's list, by slot number; NONE: end */
    uint8_t lane;
    bool waiting;
};

struct lane {
    natsSubscription *sub;
    uint32_t first;      /* of what waits; NONE */
    uint32_t unanswered; /* ghosts included */
    uint32_t refused;    /* 503s not given to anybody yet */
    uint32_t epoch;
    bool closed, fenced;
    uint8_t prefix_len;                  /* 0: to be made */
    char prefix[EV_NATS_INBOX_MAX + 24]; /* "<inbox>_p<lane>.<epoch>." */
    int64_t heard;                       /* the last answer, or when it closed */
    int64_t sent_at;                     /* the last record */
};

struct ev_nats_lanes {
    struct lane lane[LANES];
    struct slot *slots;
    uint32_t slot_cap;
    uint32_t now;       /* lane of this write */
    uint32_t closed;    /* lanes closed now */
    uint64_t forgotten; /* 503s never given to anybody */
};

evbus_status ev_nats_lanes_init(struct ev_nats *st)
{
    st->lanes = ev_calloc(1, sizeof *st->lanes);
    if (!st->lanes)
        return ev_fail(EVBUS_NOMEM, "no memory for the session");
    for (uint32_t i = 0; i < LANES; i++)
        st->lanes->lane[i].first = NONE;
    return EVBUS_OK;
}

void ev_nats_lanes_fini(struct ev_nats *st)
{
    if (!st->lanes)
        return;
    ev_free(st->lanes->slots);
    ev_free(st->lanes);
    st->lanes = NULL;
}

/* ---- Counting ---------------------------------------------------------------------------------------------------- */

static void unlink_slot(struct ev_nats_lanes *ls, uint32_t at)
{
    struct slot *s = &ls->slots[at];

    if (s->prev != NONE)
        ls->slots[s->prev].next = s->next;
    else
        ls->lane[s->lane].first = s->next;
    if (s->next != NONE)
        ls->slots[s->next].prev = s->prev;
    s->waiting = false;
}

/* Forgets whatever the lane waits for, and opens it. */
static void reset_lane(struct ev_nats_lanes *ls, struct lane *l)
{
    while (l->first != NONE)
        unlink_slot(ls, l->first);
    if (l->closed)
        ls->closed--;
    l->unanswered = l->refused = 0;
    l->closed = l->fenced = false;
    l->epoch++;
    l->prefix_len = 0;
}

bool ev_nats_lanes_begin(struct ev_nats *st)
{
    char subject[EV_NATS_INBOX_MAX + 16];

    for (uint32_t i = 0; i < LANES; i++) {
        struct lane *l = &st->lanes->lane[i];
        (void)snprintf(subject, sizeof subject, "%s_p%u.>", ev_nats_inbox(st), i);
        if (natsConnection_SubscribeSync(&l->sub, st->session->nc, subject) != NATS_OK ||
            natsSubscription_SetPendingLimits(l->sub, -1, -1) != NATS_OK)
            return false;
    }
    return true;
}

void ev_nats_lanes_end(struct ev_nats *st)
{
    for (uint32_t i = 0; i < LANES; i++) {
        struct lane *l = &st->lanes->lane[i];
        natsSubscription_Destroy(l->sub);
        l->sub = NULL;
        reset_lane(st->lanes, l);
    }
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

void ev_nats_lanes_next(struct ev_nats *st)
{
    st->lanes->now = (st->lanes->now + 1) % LANES;
}

static bool grow(struct ev_nats_lanes *ls, uint32_t slot)
{
    uint32_t cap = ls->slot_cap ? ls->slot_cap : 1024;

    while (cap <= slot && cap < UINT32_MAX / 2)
        cap *= 2;
    struct slot *slots = ev_realloc(ls->slots, (size_t)cap * sizeof *slots);
    if (!slots)
        return false;
    memset(slots + ls->slot_cap, 0, (size_t)(cap - ls->slot_cap) * sizeof *slots);
    ls->slots = slots;
    ls->slot_cap = cap;
    return true;
}

static void make_prefix(struct lane *l, const struct ev_nats_session *s, uint32_t number)
{
    char *out = l->prefix;

    memcpy(out, s->inbox, s->inbox_len);
    out += s->inbox_len;
    *out++ = '_';
    *out++ = 'p';
    out += ev_put_u64(out, number);
    *out++ = '.';
    out += ev_put_u64(out, l->epoch);
    *out++ = '.';
    l->prefix_len = (uint8_t)(out - l->prefix);
}

bool ev_nats_lanes_reply(struct ev_nats *st, const struct ev_record *r, char out[EV_NATS_REPLY_MAX])
{
    struct ev_nats_lanes *ls = st->lanes;

    if (r->slot >= ls->slot_cap && (r->slot >= UINT32_MAX / 2 || !grow(ls, r->slot)))
        return false;
    for (uint32_t tries = 0; ls->lane[ls->now].closed; tries++) {
        if (tries == LANES)
            return false;
        ev_nats_lanes_next(st);
    }
    struct lane *l = &ls->lane[ls->now];
    if (l->prefix_len == 0)
        make_prefix(l, st->session, ls->now);
    memcpy(out, l->prefix, l->prefix_len);
    out += l->prefix_len;
    out += ev_put_u64(out, r->slot);
    *out++ = '.';
    out += ev_put_u64(out, r->generation);
    *out = 0;
    return true;
}

void ev_nats_lanes_sent(struct ev_nats *st, const struct ev_record *r)
{
    struct ev_nats_lanes *ls = st->lanes;
    struct lane *l = &ls->lane[ls->now];
    struct slot *s = &ls->slots[r->slot];

    if (s->waiting) /* a ghost from now on: its lane still counts it */
        unlink_slot(ls, r->slot);
    *s = (struct slot){
        .generation = r->generation, .prev = NONE, .next = l->first, .lane = (uint8_t)ls->now, .waiting = true};
    if (l->first != NONE)
        ls->slots[l->first].prev = r->slot;
    l->first = r->slot;
    l->unanswered++;
    l->sent_at = st->now;
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

/* All that is left was refused. The core may send from within: the lane is still closed. */
static void settle(struct ev_nats *st, struct lane *l)
{
    static const char text[] = "no stream takes this subject (no responders)";
    struct ev_nats_lanes *ls = st->lanes;
    const struct ev_ack ack = {.outcome = EVBUS_OUTCOME_REFUSED,
                               .status = EVBUS_REFUSED,
                               .no_responders = true,
                               .broker_code = 503,
                               .text = text,
                               .text_len = sizeof text - 1};

    while (l->first != NONE) {
        const uint32_t slot = l->first, generation = ls->slots[slot].generation;
        unlink_slot(ls, slot);
        ev_host_acked(st->host, slot, generation, &ack);
    }
    reset_lane(ls, l);
}

static void refused(struct ev_nats *st, uint32_t at)
{
    struct lane *l = &st->lanes->lane[at];
    char fence[EV_NATS_REPLY_MAX];

    l->refused++;
    l->heard = st->now;
    if (!l->closed) {
        l->closed = true;
        st->lanes->closed++;
        if (l->refused < l->unanswered) {
            (void)snprintf(fence, sizeof fence, "%s.m.%u.%u", ev_nats_inbox(st), at, l->epoch);
            (void)ev_nats_publish(st, fence, NULL, NULL, 0);
        }
    }
    if (l->refused >= l->unanswered)
        settle(st, l);
}

static void answered(struct ev_nats *st, struct lane *l, uint64_t epoch, uint32_t slot, uint32_t generation)
{
    struct ev_nats_lanes *ls = st->lanes;

    if (epoch != l->epoch)
        return;
    l->heard = st->now;
    if (slot < ls->slot_cap && ls->slots[slot].waiting && ls->slots[slot].generation == generation)
        unlink_slot(ls, slot);
    if (l->unanswered > 0)
        l->unanswered--;
    if (l->closed && l->refused >= l->unanswered)
        settle(st, l);
}

/* "<epoch>.<slot>.<generation>" */
static bool parse_reply(const char *text, uint64_t v[3])
{
    for (int i = 0; i < 3; i++) {
        size_t len = 0;
        while (text[len] && text[len] != '.')
            len++;
        if (!ev_get_u64(text, len, &v[i]) || v[i] > UINT32_MAX || (text[len] == 0) != (i == 2))
            return false;
        text += len + 1;
    }
    return true;
}

static bool take(struct ev_nats *st, void *ctx, natsMsg *msg)
{
    const uint32_t at = (uint32_t)(uintptr_t)ctx;
    struct ev_ack ack = {0};
    uint64_t v[3];

    if (!msg) {
        refused(st, at);
        return true;
    }
    const char *rest = strchr(natsMsg_GetSubject(msg) + st->session->inbox_len, '.');
    const char *data = natsMsg_GetData(msg);
    const int len = natsMsg_GetDataLength(msg);
    if (rest && parse_reply(rest + 1, v)) {
        if (len > 0 && ev_nats_parse_puback(data, (size_t)len, &ack))
            ev_host_acked(st->host, (uint32_t)v[1], (uint32_t)v[2], &ack);
        else /* not JetStream's: some service answers on the subject, and the outcome stays open */
            ev_log(st->log, EVBUS_LOG_WARN, "nats", "an answer of %d bytes to a publish is no acknowledgement", len);
        if (st->session && !st->session->dead)
            answered(st, &st->lanes->lane[at], v[0], (uint32_t)v[1], (uint32_t)v[2]);
    }
    ev_nats_bury(st, msg);
    return true;
}

uint32_t ev_nats_lanes_drain(struct ev_nats *st, uint32_t budget)
{
    const struct ev_nats_session *s = st->session;
    uint32_t n = 0;

    /* Start with the lane after the one in use: it has waited longest. */
    for (uint32_t i = 1; i <= LANES && n < budget && !s->dead && s->drained < s->counted; i++) {
        const uint32_t at = (st->lanes->now + i) % LANES;
        n += ev_nats_drain_sub(st, st->lanes->lane[at].sub, budget - n, take, (void *)(uintptr_t)at);
    }
    return n;
}

void ev_nats_lanes_fenced(struct ev_nats *st, const char *rest)
{
    const size_t len = strcspn(rest, ".");
    uint64_t at, epoch;

    if (rest[len] != '.' || !ev_get_u64(rest, len, &at) || at >= LANES ||
        !ev_get_u64(rest + len + 1, strlen(rest + len + 1), &epoch))
        return;
    struct lane *l = &st->lanes->lane[at];
    if (l->closed && l->epoch == epoch) /* else the counts settled it, and this is late */
        l->fenced = true;
}

/* A message sent at `sent` came back: no 503 can follow for records before it, so lanes idle since then need not count
 * on answers that never come (to subscribers who do not answer, or refused by permissions). */
void ev_nats_lanes_passed(struct ev_nats *st, int64_t sent)
{
    for (uint32_t i = 0; i < LANES; i++) {
        struct lane *l = &st->lanes->lane[i];
        if (!l->closed && l->unanswered > 0 && l->sent_at < sent)
            reset_lane(st->lanes, l);
    }
}

static int64_t patience(const struct ev_nats_lanes *ls)
{
    return ls->closed < LANES ? FORGET_AFTER : FORGET_CROWDED;
}

void ev_nats_lanes_turn(struct ev_nats *st)
{
    struct ev_nats_lanes *ls = st->lanes;

    if (ls->closed == 0)
        return;
    for (uint32_t i = 0; i < LANES; i++) {
        struct lane *l = &ls->lane[i];
        if (!l->closed || !l->fenced || st->now - l->heard < patience(ls))
            continue;
        ls->forgotten += l->refused;
        ev_log(st->log, EVBUS_LOG_WARN, "nats",
               "%u of %u publishes had no responders, and it cannot be told which: others were not answered either; "
               "they end by their deadlines",
               l->refused, l->unanswered);
        reset_lane(ls, l);
    }
}

int64_t ev_nats_lanes_due(const struct ev_nats *st)
{
    int64_t due = EV_NEVER;

    for (uint32_t i = 0; st->lanes->closed > 0 && i < LANES; i++) {
        const struct lane *l = &st->lanes->lane[i];
        if (l->closed && l->fenced && l->heard + patience(st->lanes) < due)
            due = l->heard + patience(st->lanes);
    }
    return due;
}
