/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rules of the lease (nats_lease.h) need of NATS: records read and written, changes heard of, and whether a
 * member's connection is there. And what they decide: who pulls, and until when the core may act.
 *
 *   writes   a publish with Nats-Expected-Last-Subject-Sequence; the PubAck comes on "<inbox>.c.e.w.<op>"
 *   reads    STREAM.MSG.GET, "<inbox>.c.e.r.<op>"
 *   changes  one subscription to all leases: a hint, what counts is read
 *   probes   a request to "<a member's inbox>.c.y", answered on "<inbox>_e<n>". A 503 there says that the server, the one
 *            that member is connected to, has no such connection. A subscription for each: a late answer is nobody's.
 *
 * The right to act is the lease's, but never longer than SLACK after the last look at the socket, which shows whether
 * the server closed it (EPOLLRDHUP, also in front of what is not read yet). So a process that was stopped starts nothing
 * before it has looked: whoever saw its connection gone for EV_LEASE_QUICK, twice SLACK, may go on in its place.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SLACK (250 * EV_MS)
#define REMAKE_PAUSE EV_SEC

/* A lease, as long as the rules know it. */
struct ev_nats_holding {
    struct ev_lease lease; /* first */
    struct evbus_sub *sub;
    struct ev_nats_binding *b; /* NULL: it left */
    char stream[EV_NAME_MAX], consumer[EV_NAME_MAX];
    struct ev_nats_holding *next, **link;
};

struct ev_nats_members {
    struct ev_leases set;
    struct ev_nats_holding *holdings;
    struct ev_nats_core hints, probe;
    uint64_t probes;
    int64_t remade; /* when the stream was last asked for again */
    int64_t rights; /* as told to the core */
    bool denied_logged;
    _Atomic(int64_t) made;   /* when we made the stream; 0: it was there */
    _Atomic(uint32_t) ready; /* 1: the stream is there */
};

/* ---- Out --------------------------------------------------------------------------------------------------------- */

static void write_record(struct ev_nats *st, uint64_t op, const char *subject, const char *body, uint64_t expected)
{
    char reply[EV_NAME_MAX], number[24];
    natsMsg *msg = NULL;

    if (!ev_nats_is_up(st) || !body)
        return;
    if (op)
        (void)snprintf(reply, sizeof reply, "%s.c.e.w.%" PRIu64, ev_nats_inbox(st), op);
    else
        (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st));
    (void)snprintf(number, sizeof number, "%" PRIu64, expected);
    natsStatus e = natsMsg_Create(&msg, subject, reply, body, (int)strlen(body));
    if (e == NATS_OK)
        e = natsMsgHeader_Set(msg, "Nats-Expected-Last-Subject-Sequence", number);
    if (e == NATS_OK)
        e = natsConnection_PublishMsg(st->session->nc, msg);
    natsMsg_Destroy(msg);
    if (e != NATS_OK && e != NATS_CONNECTION_CLOSED)
        ev_nats_drop(st, natsStatus_GetText(e)); /* half a command may stand in the buffer */
}

static void api(struct ev_nats *st, const char *verb, const char *key, const char *kind, const char *name, uint64_t op)
{
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX], body[2 * EV_NAME_MAX + 64];

    (void)snprintf(subject, sizeof subject, "%s.%s." EV_NATS_MEMBERS, st->cfg.api, verb);
    (void)snprintf(body, sizeof body, "{\"%s\":\"%s%s\"}", key, kind, name);
    if (op)
        (void)snprintf(reply, sizeof reply, "%s.c.e.r.%" PRIu64, ev_nats_inbox(st), op);
    else
        (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st));
    (void)ev_nats_publish(st, subject, reply, body, strlen(body));
}

/* Other servers, or an API that leads elsewhere, may not know our inbox: then we do not want to be asked there. */
static void server_of(struct ev_nats *st, char out[EV_LEASE_TEXT])
{
    out[0] = 0;
    if (ev_nats_is_up(st) && strcmp(st->cfg.api, "$JS.API") == 0)
        (void)natsConnection_GetConnectedServerId(st->session->nc, out, EV_LEASE_TEXT);
}

static void io_write_member(void *ctx, uint64_t op, const char *id, uint64_t expected, bool alive)
{
    struct ev_nats *st = ctx;
    char subject[EV_NAME_MAX], server[EV_LEASE_TEXT];

    server_of(st, server);
    (void)snprintf(subject, sizeof subject, EV_NATS_MEMBER_SUBJECT "%s", id);
    char *body = ev_nats_member_body(alive, st->members->set.ttl_ns, ev_nats_inbox(st), server,
                                     st->cfg.name ? st->cfg.name : "");
    write_record(st, op, subject, body, expected);
    ev_free(body);
}

static void io_read_member(void *ctx, uint64_t op, const char *id)
{
    api(ctx, "STREAM.MSG.GET", "last_by_subj", EV_NATS_MEMBER_SUBJECT, id, op);
}

static void io_forget_member(void *ctx, const char *id)
{
    api(ctx, "STREAM.PURGE", "filter", EV_NATS_MEMBER_SUBJECT, id, 0);
}

static void name_of(const struct ev_lease *lease, char out[2 * EV_NAME_MAX])
{
    const struct ev_nats_holding *h = (const struct ev_nats_holding *)(const void *)lease;

    (void)snprintf(out, 2 * EV_NAME_MAX, "%s.%s", h->stream, h->consumer);
}

static void io_write_lease(void *ctx, uint64_t op, struct ev_lease *lease, const char *holder, uint64_t expected)
{
    char name[2 * EV_NAME_MAX], subject[EV_NATS_SUBJECT_MAX], body[64];

    name_of(lease, name);
    (void)snprintf(subject, sizeof subject, EV_NATS_LEASE_SUBJECT "%s", name);
    (void)snprintf(body, sizeof body, "{\"holder\":\"%s\"}", holder);
    write_record(ctx, op, subject, body, expected);
}

static void io_read_lease(void *ctx, uint64_t op, struct ev_lease *lease)
{
    char name[2 * EV_NAME_MAX];

    name_of(lease, name);
    api(ctx, "STREAM.MSG.GET", "last_by_subj", EV_NATS_LEASE_SUBJECT, name, op);
}

static void take_probe(struct ev_nats *st, struct ev_nats_core *core, natsMsg *msg)
{
    ev_nats_core_close(st, core);
    ev_leases_probed(&st->members->set, msg != NULL, st->now);
}

static void io_probe(void *ctx, const char *inbox)
{
    struct ev_nats *st = ctx;
    struct ev_nats_core *core = &st->members->probe;
    char subject[EV_NATS_REPLY_MAX];

    ev_nats_core_close(st, core);
    (void)snprintf(core->subject, sizeof core->subject, "%s_e%" PRIu64, ev_nats_inbox(st), ++st->members->probes);
    ev_nats_core_open(st, core);
    (void)snprintf(subject, sizeof subject, "%s.c.y", inbox);
    (void)ev_nats_publish(st, subject, core->subject, NULL, 0);
}

static uint64_t io_random(void *ctx)
{
    (void)ctx;
    return ev_random();
}

/* ---- What is decided --------------------------------------------------------------------------------------------- */

static void activate(struct ev_nats *st, struct ev_nats_holding *h)
{
    struct ev_nats_binding *b = h->b;

    b->active = true;
    b->seq_known = false;
    b->foreign_at = 0;
    b->patience = h->lease.inherited_ns > 0 ? st->now + h->lease.inherited_ns : 0;
    ev_host_active(st->host, b->sub, true);
    if (!b->fresh || h->lease.known || b->ack_all)
        ev_nats_gap_later(st, b);
    ev_nats_pull_consider(st, b);
}

/* Nothing that comes from now on is ours. */
static void fence(struct ev_nats *st, struct ev_nats_binding *b)
{
    b->active = false;
    b->fresh = false; /* in this turn something may have been delivered */
    ev_nats_gap_end(st, b);
    ev_nats_frontier_doubt(st, b);
    if (b->attached && b->out_msgs > 0)
        ev_nats_pull_cut(st, &st->consume->buckets[b->bucket]);
    ev_nats_pull_reset(b);
    ev_nats_pull_unschedule(st->consume, b);
}

static void tell_rights(struct ev_nats *st)
{
    struct ev_nats_members *m = st->members;
    int64_t until = ev_leases_rights(&m->set);

    if (!st->session || st->session->hung_up)
        until = 0;
    else if (until > st->polled + SLACK)
        until = st->polled + SLACK;
    if (until == 0 && m->rights == 0)
        return;
    m->rights = until;
    ev_host_rights(st->host, until);
}

static void io_active(void *ctx, struct ev_lease *lease, bool active)
{
    struct ev_nats *st = ctx;
    struct ev_nats_holding *h = (struct ev_nats_holding *)(void *)lease;

    if (!h->b)
        return;
    if (active) {
        tell_rights(st);
        activate(st, h);
        return;
    }
    if (h->b->active)
        fence(st, h->b);
    ev_host_active(st->host, h->sub, false); /* may end in its release */
}

static void io_ended(void *ctx, struct ev_lease *lease)
{
    struct ev_nats_holding *h = (struct ev_nats_holding *)(void *)lease;

    (void)ctx;
    *h->link = h->next;
    if (h->next)
        h->next->link = h->link;
    ev_free(h);
}

static const struct ev_lease_io io = {
    .write_member = io_write_member,
    .read_member = io_read_member,
    .forget_member = io_forget_member,
    .write_lease = io_write_lease,
    .read_lease = io_read_lease,
    .probe = io_probe,
    .active = io_active,
    .ended = io_ended,
    .random = io_random,
};

/* ---- Bindings ---------------------------------------------------------------------------------------------------- */

static struct ev_nats_holding *holding_new(struct ev_nats_members *m, struct ev_nats_binding *b)
{
    struct ev_nats_holding *h = ev_calloc(1, sizeof *h);

    if (!h)
        return NULL;
    h->sub = b->sub;
    (void)ev_copy(h->stream, sizeof h->stream, b->stream);
    (void)ev_copy(h->consumer, sizeof h->consumer, b->consumer);
    h->link = &m->holdings;
    h->next = m->holdings;
    if (h->next)
        h->next->link = &h->next;
    m->holdings = h;
    return h;
}

/* The one of the binding before this one, whose consumer was lost. */
static struct ev_nats_holding *holding_of(const struct ev_nats_members *m, const struct evbus_sub *sub)
{
    struct ev_nats_holding *h = m->holdings;

    while (h && (h->sub != sub || h->lease.ending))
        h = h->next;
    return h;
}

static void let_go(struct ev_nats *st, struct ev_nats_holding *h)
{
    h->b = NULL;
    h->sub = NULL;
    ev_lease_release(&st->members->set, &h->lease, st->now); /* it may be gone now */
}

void ev_nats_members_join(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_members *m = st->members;
    struct ev_nats_holding *h = holding_of(m, b->sub);

    if (m->rights == EV_NEVER)
        tell_rights(st);
    if (h && (strcmp(h->stream, b->stream) != 0 || strcmp(h->consumer, b->consumer) != 0)) {
        let_go(st, h);
        h = NULL;
    }
    if (h) {
        b->holding = h;
        h->b = b;
        if (h->lease.active)
            activate(st, h);
        return;
    }
    b->holding = h = holding_new(m, b);
    if (!h) {
        ev_host_consumer_lost(st->host, b->sub, EVBUS_NOMEM, "out of memory");
        return;
    }
    h->b = b;
    ev_nats_core_open(st, &m->hints);
    /* The records are gone, but somebody may still act on what he knows of them. */
    const int64_t made = ev_load_acquire(&m->made); /* V1 */
    if (made != 0 && !b->fresh)
        h->lease.not_before = made + m->set.ttl_ns;
    ev_lease_want(&m->set, &h->lease, st->now);
    (void)ev_leases_turn(&m->set, st->now);
}

void ev_nats_members_leave(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_holding *h = b->holding;

    if (!h)
        return;
    b->holding = NULL;
    let_go(st, h);
}

int64_t ev_nats_members_right(const struct ev_nats *st, const struct ev_nats_binding *b)
{
    const int64_t left = ev_leases_rights(&st->members->set) - st->now;

    return b->active && left > 0 ? left : 0;
}

/* ---- In ---------------------------------------------------------------------------------------------------------- */

static enum ev_lease_result result_of(const char *data, size_t len, uint64_t *ret_seq)
{
    struct ev_ack ack;

    *ret_seq = 0;
    if (!ev_nats_parse_puback(data, len, &ack))
        return EV_LEASE_FAILED;
    *ret_seq = ack.sequence;
    if (ack.outcome == EVBUS_OUTCOME_STORED)
        return EV_LEASE_STORED;
    if (ack.broker_code == EV_NATS_ERR_WRONG_LAST_SEQUENCE)
        return EV_LEASE_REJECTED;
    return ack.broker_code == EV_NATS_ERR_STREAM_NOT_FOUND ? EV_LEASE_NO_STREAM : EV_LEASE_FAILED;
}

/* Somebody deleted it. What members do without it is over with their renewals; we wait for that. */
static void remake(struct ev_nats *st)
{
    struct ev_nats_members *m = st->members;
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX];

    if (m->remade != 0 && st->now - m->remade < REMAKE_PAUSE)
        return;
    ev_log(st->log, EVBUS_LOG_ERROR, "nats", "stream " EV_NATS_MEMBERS " is gone: making it again");
    m->remade = st->now;
    for (struct ev_nats_holding *h = m->holdings; h; h = h->next)
        h->lease.not_before = st->now + m->set.ttl_ns;
    char *body = ev_nats_members_request();
    (void)snprintf(subject, sizeof subject, "%s.STREAM.CREATE." EV_NATS_MEMBERS, st->cfg.api);
    (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st));
    if (body)
        (void)ev_nats_publish(st, subject, reply, body, strlen(body));
    ev_free(body);
}

void ev_nats_members_answer(struct ev_nats *st, natsMsg *msg, const char *rest)
{
    const char *data = natsMsg_GetData(msg);
    const size_t len = (size_t)natsMsg_GetDataLength(msg);
    struct ev_leases *set = &st->members->set;
    struct ev_lease_record record;
    uint64_t op, seq;

    if (!rest[0] || rest[1] != '.' || !ev_get_u64(rest + 2, strlen(rest + 2), &op))
        return;
    if (rest[0] == 'w') {
        const enum ev_lease_result result = result_of(data, len, &seq);
        ev_leases_wrote(set, op, result, seq, st->now);
    } else if (ev_nats_parse_record(data, len, &record) == EVBUS_OK) {
        ev_leases_read(set, op, &record, st->now);
    } else {
        const bool gone = ev_nats_error_code(data, len) == EV_NATS_ERR_STREAM_NOT_FOUND;
        ev_leases_failed(set, op, gone, st->now);
        if (gone)
            remake(st);
    }
}

void ev_nats_members_asked(struct ev_nats *st, natsMsg *msg)
{
    if (natsMsg_GetReply(msg))
        (void)ev_nats_publish(st, natsMsg_GetReply(msg), NULL, NULL, 0);
}

/* A message on "evbus.lease.<stream>.<consumer>". */
static void take_hint(struct ev_nats *st, struct ev_nats_core *core, natsMsg *msg)
{
    struct ev_nats_ackref ref = {0};
    char holder[EV_LEASE_ID + 1];

    (void)core;
    if (!msg || !ev_nats_parse_holder(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), holder))
        return;
    ref.stream = natsMsg_GetSubject(msg) + sizeof EV_NATS_LEASE_SUBJECT - 1;
    ref.stream_len = strcspn(ref.stream, ".");
    if (!ref.stream[ref.stream_len])
        return;
    ref.consumer = ref.stream + ref.stream_len + 1;
    ref.consumer_len = strlen(ref.consumer);
    if (ref.consumer_len < 16 || !ev_get_hex16(ref.consumer + ref.consumer_len - 16, &ref.id))
        return;
    struct ev_nats_binding *b = ev_nats_binding_find(st->consume, &ref);
    if (b && b->holding)
        ev_lease_hint(&st->members->set, &b->holding->lease, holder, st->now);
}

bool ev_nats_members_denied(struct ev_nats *st, const char *subject, const char *text)
{
    static const char member[] = EV_NATS_MEMBER_SUBJECT, lease[] = EV_NATS_LEASE_SUBJECT;
    const size_t len = strlen(subject);

    if (len > 4 && strcmp(subject + len - 4, ".c.y") == 0)
        return true; /* a probe: the record's age tells, later */
    const char *purge = strstr(subject, ".STREAM.PURGE." EV_NATS_MEMBERS);
    if (purge)
        return true;
    if (strncmp(subject, member, sizeof member - 1) != 0 && strncmp(subject, lease, sizeof lease - 1) != 0 &&
        !strstr(subject, ".STREAM.MSG.GET." EV_NATS_MEMBERS))
        return false;
    if (!st->members->denied_logged)
        ev_log(st->log, EVBUS_LOG_ERROR, "nats",
               "the permissions forbid what EXCLUSIVE members need (publish to '%s'): they stand by: %s", subject,
               text);
    st->members->denied_logged = true;
    return true;
}

void ev_nats_members_deaf(struct ev_nats *st, const struct ev_nats_core *core, const char *text)
{
    struct ev_nats_members *m = st->members;

    if (core != &m->hints || m->set.deaf)
        return;
    m->set.deaf = true;
    ev_log(st->log, EVBUS_LOG_WARN, "nats",
           "the permissions forbid subscribing to " EV_NATS_LEASE_SUBJECT ">: that a member ended is noticed later: %s",
           text);
}

/* ---- Hooks of the loop ------------------------------------------------------------------------------------------- */

evbus_status ev_nats_members_init(struct ev_nats *st)
{
    struct ev_nats_members *m = ev_calloc(1, sizeof *m);

    if (!m)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    ev_leases_init(&m->set, &io, st, (int64_t)st->cfg.member_ttl_ms * EV_MS);
    (void)ev_copy(m->hints.subject, sizeof m->hints.subject, EV_NATS_LEASE_SUBJECT ">");
    m->hints.take = take_hint;
    m->probe.take = take_probe;
    m->rights = EV_NEVER;
    st->members = m;
    return EVBUS_OK;
}

void ev_nats_members_fini(struct ev_nats *st)
{
    struct ev_nats_members *m = st->members;

    if (!m)
        return;
    ev_nats_core_close(st, &m->hints);
    ev_nats_core_close(st, &m->probe);
    ev_leases_fini(&m->set);
    while (m->holdings) {
        struct ev_nats_holding *h = m->holdings;
        m->holdings = h->next;
        ev_free(h);
    }
    st->members = NULL;
    ev_free(m);
}

void ev_nats_members_up(struct ev_nats *st)
{
    char server[EV_LEASE_TEXT];

    server_of(st, server);
    ev_leases_up(&st->members->set, server, st->now);
}

void ev_nats_members_down(struct ev_nats *st)
{
    struct ev_nats_members *m = st->members;

    ev_leases_down(&m->set);
    ev_nats_core_close(st, &m->probe);
    if (m->rights != EV_NEVER && !st->shut)
        tell_rights(st);
}

bool ev_nats_members_turn(struct ev_nats *st)
{
    const bool any = ev_leases_turn(&st->members->set, st->now);

    if (st->members->rights != EV_NEVER)
        tell_rights(st);
    return any;
}

int64_t ev_nats_members_due(const struct ev_nats *st)
{
    return ev_leases_due(&st->members->set);
}

void ev_nats_members_shut(struct ev_nats *st)
{
    ev_leases_close(&st->members->set);
}

void ev_nats_members_ready(struct ev_nats *st, bool made)
{
    if (made)
        ev_store_release(&st->members->made, ev_clock_now(NULL)); /* V1 */
    ev_store_release(&st->members->ready, 1);                     /* V1 */
}

bool ev_nats_members_are_ready(const struct ev_nats *st)
{
    return ev_load_acquire(&st->members->ready) != 0; /* V1 */
}
