/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bindings, deliveries and verdicts. Pulling is in nats_pull.c, the end of a binding in nats_leave.c.
 *
 * Happy path: a message comes with an ack subject -> the id at the end of its consumer's name finds the binding -> the
 * core gets it with a token -> the core settles the token: a few bytes to the ack subject -> releases it.
 *
 * Failures. A message nobody is here for (just detached, or the core has no memory) is handed back at once and counted.
 * Without a link settle says so; the ack subject stays valid in the next session. A message that is delivered again
 * while it is here lends its newer address to the token that is here.
 *
 * Memory. Tokens come from slabs that are kept until the end; libnats's messages are freed in batches.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_MIN 64u
#define EXPIRES (30 * EV_SEC)
#define HEARTBEAT (5 * EV_SEC)
#define REFUSED_DELAY (500 * EV_MS) /* the core had no memory: not again at once */

/* ---- Life -------------------------------------------------------------------------------------------------------- */

evbus_status ev_nats_consume_init(struct ev_nats *st)
{
    struct ev_nats_consume *c = ev_calloc(1, sizeof *c);

    if (c)
        c->table = ev_calloc(TABLE_MIN, sizeof *c->table);
    if (!c || !c->table) {
        ev_free(c);
        return ev_fail(EVBUS_NOMEM, "out of memory");
    }
    c->table_mask = TABLE_MIN - 1;
    c->bucket_count = EV_NATS_BUCKETS;
    c->expires_ns = EXPIRES;
    c->heartbeat_ns = HEARTBEAT;
    st->consume = c;
    return EVBUS_OK;
}

void ev_nats_consume_tune(struct ev_nats *st, int64_t expires_ns, int64_t heartbeat_ns)
{
    st->consume->expires_ns = expires_ns;
    st->consume->heartbeat_ns = heartbeat_ns;
}

static void free_inbox(struct ev_nats *st, struct ev_nats_inbox *inbox)
{
    if (inbox)
        ev_nats_core_close(st, &inbox->core);
    ev_free(inbox);
}

void ev_nats_consume_fini(struct ev_nats *st)
{
    struct ev_nats_consume *c = st->consume;

    if (!c)
        return;
    st->consume = NULL;
    for (uint32_t i = 0; i < EV_NATS_BUCKETS; i++)
        free_inbox(st, c->buckets[i].inbox);
    for (struct ev_nats_inbox *next; c->cut; c->cut = next) {
        next = c->cut->next;
        free_inbox(st, c->cut);
    }
    for (struct ev_nats_slab *slab = c->slabs, *next; slab; slab = next) {
        next = slab->next;
        for (uint32_t i = 0; i < EV_NATS_SLAB; i++) { /* what the core did not release */
            natsMsg_Destroy(slab->tokens[i].msg);
            natsMsg_Destroy(slab->tokens[i].address);
        }
        ev_free(slab);
    }
    ev_free(c->heap);
    ev_free(c->bindings);
    ev_free(c->table);
    ev_free(c);
}

/* ---- Tokens ------------------------------------------------------------------------------------------------------ */

static struct ev_nats_token *token_new(struct ev_nats_consume *c)
{
    struct ev_nats_token *t = c->free_tokens;

    if (!t) {
        struct ev_nats_slab *slab = ev_calloc(1, sizeof *slab);
        if (!slab)
            return NULL;
        slab->next = c->slabs;
        c->slabs = slab;
        for (uint32_t i = 0; i < EV_NATS_SLAB; i++) {
            slab->tokens[i].next = c->free_tokens;
            c->free_tokens = &slab->tokens[i];
        }
        t = c->free_tokens;
    }
    c->free_tokens = t->next;
    c->tokens_live++;
    return t;
}

static void token_free(struct ev_nats_consume *c, struct ev_nats_token *t)
{
    t->msg = t->address = NULL;
    t->next = c->free_tokens;
    c->free_tokens = t;
    c->tokens_live--;
}

void ev_nats_release(void *state, void *token)
{
    struct ev_nats *st = state;
    struct ev_nats_token *t = token;

    ev_nats_bury(st, t->msg);
    ev_nats_bury(st, t->address);
    token_free(st->consume, t);
}

void ev_nats_replace(void *state, void *token, void *newer)
{
    struct ev_nats *st = state;
    struct ev_nats_token *t = token, *n = newer;

    ev_nats_bury(st, t->address);
    t->address = n->msg;
    ev_nats_bury(st, n->address);
    token_free(st->consume, n);
}

static bool tell(struct ev_nats *st, const natsMsg *msg, enum ev_settle verb, int64_t delay_ns)
{
    char text[EV_NATS_VERB_MAX];
    const size_t len = ev_nats_verb(text, verb, delay_ns);

    return ev_nats_publish(st, natsMsg_GetReply(msg), NULL, text, len);
}

/* The binding is not looked at: it may be gone, what is held outlives it. */
bool ev_nats_settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns)
{
    const struct ev_nats_token *t = token;

    (void)binding;
    return !t->ack || tell(state, t->address ? t->address : t->msg, verb, delay_ns);
}

/* By the consumer's ack subject: the messages themselves may be gone. */
bool ev_nats_settle_seq(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq, uint64_t consumer_seq)
{
    struct ev_nats *st = state;
    const struct ev_nats_binding *b = binding;
    char text[EV_NATS_VERB_MAX], subject[EV_NATS_SUBJECT_MAX];
    const size_t len = ev_nats_verb(text, verb, 0);

    (void)snprintf(subject, sizeof subject, "$JS.ACK.%s.%s.1.%" PRIu64 ".%" PRIu64 ".0.0", b->stream, b->consumer,
                   stream_seq, consumer_seq);
    return ev_nats_publish(st, subject, NULL, text, len);
}

const char *ev_nats_header(void *state, void *token, const char *name)
{
    struct ev_nats_token *t = token;
    const char *value = NULL;

    (void)state;
    return natsMsgHeader_Get(t->msg, name, &value) == NATS_OK ? value : NULL;
}

/* Text into a buffer that may be too small; counts what was needed. */
struct put {
    char *buf;
    size_t cap, len;
};

static void put(struct put *p, const char *text)
{
    const size_t len = strlen(text);

    if (p->len < p->cap)
        memcpy(p->buf + p->len, text, len < p->cap - p->len ? len : p->cap - p->len);
    p->len += len;
}

static void put_values(struct put *p, natsMsg *msg, const char *key)
{
    const char **values = NULL;
    int count = 0;

    if (natsMsgHeader_Values(msg, key, &values, &count) != NATS_OK)
        return;
    for (int i = 0; i < count; i++) {
        put(p, key);
        put(p, ": ");
        put(p, values[i] ? values[i] : "");
        put(p, "\r\n");
    }
    free((void *)values);
}

size_t ev_nats_headers(void *state, void *token, char *buf, size_t cap)
{
    struct ev_nats_token *t = token;
    struct put p = {buf, cap, 0};
    const char **keys = NULL;
    int count = 0;

    (void)state;
    if (natsMsgHeader_Keys(t->msg, &keys, &count) != NATS_OK)
        return 0;
    for (int i = 0; i < count; i++)
        put_values(&p, t->msg, keys[i]);
    free((void *)keys);
    return p.len;
}

/* ---- Which binding a message is for ------------------------------------------------------------------------------ */

static struct ev_nats_binding **bucket_of(struct ev_nats_consume *c, uint64_t id)
{
    return &c->table[(id ^ id >> 32) & c->table_mask];
}

static void table_grow(struct ev_nats_consume *c)
{
    const uint32_t size = (c->table_mask + 1) * 2;
    struct ev_nats_binding **old = c->table, **table = ev_calloc(size, sizeof *table);

    if (!table)
        return; /* longer chains */
    const uint32_t old_size = c->table_mask + 1;
    c->table = table;
    c->table_mask = size - 1;
    for (uint32_t i = 0; i < old_size; i++) {
        for (struct ev_nats_binding *b = old[i], *next; b; b = next) {
            next = b->chain;
            struct ev_nats_binding **head = bucket_of(c, b->id);
            b->chain = *head;
            *head = b;
        }
    }
    ev_free(old);
}

static void table_add(struct ev_nats_consume *c, struct ev_nats_binding *b)
{
    if (c->bindings_count > c->table_mask)
        table_grow(c);
    struct ev_nats_binding **head = bucket_of(c, b->id);
    b->chain = *head; /* the newest first: after a rebind the name may be here twice for a moment */
    *head = b;
}

void ev_nats_binding_forget(struct ev_nats_consume *c, struct ev_nats_binding *b)
{
    struct ev_nats_binding **link = bucket_of(c, b->id);

    while (*link && *link != b)
        link = &(*link)->chain;
    if (*link)
        *link = b->chain;
    if (c->last == b)
        c->last = NULL;
}

static bool matches(const struct ev_nats_binding *b, const struct ev_nats_ackref *ref)
{
    return b->id == ref->id && memcmp(b->consumer, ref->consumer, ref->consumer_len) == 0 &&
           b->consumer[ref->consumer_len] == 0 && memcmp(b->stream, ref->stream, ref->stream_len) == 0 &&
           b->stream[ref->stream_len] == 0;
}

struct ev_nats_binding *ev_nats_binding_find(struct ev_nats_consume *c, const struct ev_nats_ackref *ref)
{
    if (ref->consumer_len >= EV_NAME_MAX || ref->stream_len >= EV_NAME_MAX)
        return NULL;
    if (c->last && matches(c->last, ref))
        return c->last;
    for (struct ev_nats_binding *b = *bucket_of(c, ref->id); b; b = b->chain) {
        if (matches(b, ref)) {
            c->last = b;
            return b;
        }
    }
    return NULL;
}

/* ---- Deliveries -------------------------------------------------------------------------------------------------- */

/* Nobody is here for it: other members get it at once, it must not wait for its ack wait. */
static void stray(struct ev_nats *st, natsMsg *msg)
{
    struct ev_nats_consume *c = st->consume;

    c->strays++;
    if (!c->stray_logged) {
        c->stray_logged = true;
        ev_log(st->log, EVBUS_LOG_INFO, "nats", "a message on '%s' came for a subscription that ended: handed back",
               natsMsg_GetSubject(msg));
    }
    (void)tell(st, msg, EV_SETTLE_NAK, 0);
    ev_nats_bury(st, msg);
}

/* The consumer counts every delivery. What is missing between two of ours went to another member, or was lost: after a
 * reconnect, a change of leader, missed heartbeats or a cancelled pull the count is taken up anew. */
static void watch_foreign(struct ev_nats *st, struct ev_nats_binding *b, uint64_t seq)
{
    const bool known = b->seq_known;
    const uint64_t last = b->consumer_seq;

    b->seq_known = true;
    b->consumer_seq = seq;
    if (!known || seq == last + 1 || !b->ack || !b->durable)
        return;
    ev_nats_gap_suspected(st, b, seq > last ? seq - last - 1 : 0);
}

static void deliver(struct ev_nats *st, struct ev_nats_binding *b, natsMsg *msg, const struct ev_nats_ackref *ref)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_token *t = token_new(c);
    struct ev_delivery d = {
        .sub = b->sub,
        .topic = natsMsg_GetSubject(msg),
        .data = natsMsg_GetData(msg),
        .len = (size_t)natsMsg_GetDataLength(msg),
        .stream_seq = ref->stream_seq,
        .consumer_seq = ref->consumer_seq,
        .delivery_count = ref->delivered,
        .stored_ns = ref->stored_ns,
        .pending = ref->pending,
        .token = t,
        .settled = b->ack_all && ev_nats_frontier_is_settled(st, b, ref),
    };

    b->room.msgs -= b->room.msgs > 0; /* until the core says what it has room for now */
    b->room.bytes -= d.len < b->room.bytes ? d.len : b->room.bytes;
    if (t) {
        t->msg = msg;
        t->ack = b->ack;
        c->delivered++;
        if (ev_host_deliver(st->host, &d))
            return;
        token_free(c, t);
    }
    c->refused++;
    if (b->ack_all)
        ev_nats_frontier_refused(st, b);
    if (!c->refused_logged)
        ev_log(st->log, EVBUS_LOG_WARN, "nats", "no room or memory for a message on '%s': handed back", d.topic);
    c->refused_logged = true;
    if (b->ack)
        (void)tell(st, msg, EV_SETTLE_NAK, REFUSED_DELAY);
    ev_nats_bury(st, msg);
}

static void take_delivery(struct ev_nats *st, const struct ev_nats_core *core, natsMsg *msg)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_ackref ref;
    const char *reply = natsMsg_GetReply(msg);

    if (!reply || !ev_nats_parse_ackref(reply, &ref)) {
        c->odd++;
        ev_nats_bury(st, msg);
        return;
    }
    struct ev_nats_binding *b = st->shut ? NULL : ev_nats_binding_find(c, &ref);
    if (!b) {
        if (ev_nats_gap_listed(st, *bucket_of(c, ref.id), &ref))
            ev_nats_bury(st, msg);
        else
            stray(st, msg);
        return;
    }
    if (b->exclusive && !b->active) { /* another member has it */
        c->fenced++;
        ev_nats_bury(st, msg);
        return;
    }
    if (b->gap.left > 0 && ref.delivered > 1 && ref.stream_seq <= b->gap.last)
        b->gap.left--;
    ev_nats_pull_delivered(st, b,
                           strlen(natsMsg_GetSubject(msg)) + strlen(reply) + (uint64_t)natsMsg_GetDataLength(msg));
    const struct ev_nats_inbox *inbox = c->buckets[b->bucket].inbox;
    if (inbox && core == &inbox->core) /* else its inbox was cut: more may follow, or be lost */
        watch_foreign(st, b, ref.consumer_seq);
    if (b->ack_all)
        ev_nats_frontier_row(st, b, ref.consumer_seq);
    if (ref.stream_seq > b->gap.reached)
        b->gap.reached = ref.stream_seq;
    deliver(st, b, msg, &ref);
    if (b->gap.seen)
        ev_nats_gap_delivered(st, b, ref.stream_seq, ref.delivered == 1);
}

void ev_nats_consume_delivery(struct ev_nats *st, natsMsg *msg)
{
    take_delivery(st, NULL, msg);
}

static void deliver_core(struct ev_nats *st, struct ev_nats_binding *b, natsMsg *msg)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_token *t = token_new(c);
    struct ev_delivery d = {
        .sub = b->sub,
        .topic = natsMsg_GetSubject(msg),
        .data = natsMsg_GetData(msg),
        .len = (size_t)natsMsg_GetDataLength(msg),
        .delivery_count = 1,
        .token = t,
    };

    if (t) {
        t->msg = msg;
        t->ack = false;
        c->delivered++;
        if (ev_host_deliver(st->host, &d))
            return;
        token_free(c, t);
    }
    c->refused++;
    ev_nats_bury(st, msg);
}

void ev_nats_consume_core(struct ev_nats *st, struct ev_nats_core *core, natsMsg *msg)
{
    const char *subject = natsMsg_GetSubject(msg);
    const size_t prefix = strlen(core->subject) - 1; /* "<inbox>-<n>." */

    if (core->take) {
        core->take(st, core, msg);
        ev_nats_bury(st, msg);
    } else if (core->owner) {
        deliver_core(st, core->owner, msg);
    } else if (strncmp(subject, core->subject, prefix) == 0) {
        ev_nats_pull_status(st, msg, subject + prefix);
        ev_nats_bury(st, msg);
    } else {
        take_delivery(st, core, msg);
    }
}

void ev_nats_consume_status(struct ev_nats *st, natsMsg *msg, const char *rest)
{
    if (rest[0] == 'i' && rest[1] == '.')
        ev_nats_pull_probed(st, msg, rest + 2);
    else if (rest[0] == 'f' && rest[1] == '.')
        ev_nats_pull_fenced(st, rest + 2);
    else if (rest[0] == 'g' && rest[1] == '.')
        ev_nats_gap_answer(st, msg, rest + 2);
    else if (rest[0] == 'l' && rest[1] == '.')
        ev_nats_leave_answer(st, rest + 2);
    else if (rest[0] == 'e' && rest[1] == '.')
        ev_nats_members_answer(st, msg, rest + 2);
    else if (rest[0] == 'y')
        ev_nats_members_asked(st, msg);
}

void ev_nats_consume_no_responders(struct ev_nats *st, struct ev_nats_core *core)
{
    struct ev_nats_consume *c = st->consume;

    if (!core)
        ev_nats_leave_unanswered(st);
    if (core && core->take)
        core->take(st, core, NULL);
    if (!core || core->take || core->owner)
        return; /* an answer nobody needs: the heartbeats tell */
    for (uint32_t i = 0; i < EV_NATS_BUCKETS; i++)
        if (c->buckets[i].inbox && &c->buckets[i].inbox->core == core)
            ev_nats_pull_unanswered(st, &c->buckets[i]);
}

/* ---- What the permissions forbid --------------------------------------------------------------------------------- */

void ev_nats_consume_core_denied(struct ev_nats *st, struct ev_nats_core *core, const char *text)
{
    struct ev_nats_binding *b = core->owner;

    if (core->take)
        ev_nats_members_deaf(st, core, text);
    else if (b)
        ev_host_consumer_lost(st->host, b->sub, EVBUS_DENIED, text);
    else
        ev_log(st->log, EVBUS_LOG_ERROR, "nats", "nothing can be consumed: subscribing to '%s' is forbidden: %s",
               core->subject, text);
}

static void acks_denied(struct ev_nats *st, const char *subject, const char *text)
{
    struct ev_nats_consume *c = st->consume;
    struct ev_nats_ackref ref;

    if (!c->denied_logged)
        ev_log(st->log, EVBUS_LOG_ERROR, "nats",
               "the permissions forbid acknowledging (publish to '%s'): every message will come again: %s", subject,
               text);
    c->denied_logged = true;
    ev_nats_leave_unanswered(st);
    struct ev_nats_binding *b = ev_nats_parse_ackref(subject, &ref) ? ev_nats_binding_find(c, &ref) : NULL;
    if (b)
        ev_nats_gap_denied(st, b, true, text);
}

/* A message to ourselves, refused after what came before it: as good as its echo. False: it is none. */
static bool echo_denied(struct ev_nats *st, const char *subject)
{
    const char *inbox = ev_nats_inbox(st);
    const size_t len = strlen(inbox);

    if (strncmp(subject, inbox, len) != 0 || strncmp(subject + len, ".c.", 3) != 0)
        return false;
    subject += len + 3;
    if (strncmp(subject, "f.", 2) == 0)
        ev_nats_pull_fenced(st, subject + 2);
    else if (strncmp(subject, "l.", 2) == 0)
        ev_nats_leave_answer(st, subject + 2);
    return true;
}

bool ev_nats_consume_denied(struct ev_nats *st, const char *subject, const char *text)
{
    static const char next[] = ".CONSUMER.MSG.NEXT.", create[] = ".CONSUMER.CREATE.", info[] = ".CONSUMER.INFO.";
    struct ev_nats_consume *c = st->consume;
    const size_t len = strlen(subject);
    uint64_t id;

    if (strncmp(subject, "$JS.ACK.", 8) == 0) {
        acks_denied(st, subject, text);
        return true;
    }
    if (echo_denied(st, subject) || ev_nats_members_denied(st, subject, text))
        return true;
    if (!strstr(subject, next) && !strstr(subject, info) && !strstr(subject, create))
        return false;
    if (len < 16 || !ev_get_hex16(subject + len - 16, &id))
        return c->bindings_count > 0;
    for (struct ev_nats_binding *b = *bucket_of(c, id), *chain; b; b = chain) {
        chain = b->chain;
        if (b->id != id)
            continue;
        if (strstr(subject, next) && b->gap.step != EV_NATS_GAP_LIST)
            ev_nats_pull_lost(st, b, EVBUS_DENIED, text);
        else
            ev_nats_gap_denied(st, b, false, text);
    }
    return true;
}

/* ---- Attach and detach ------------------------------------------------------------------------------------------- */

void ev_nats_attach(void *state, void *binding)
{
    struct ev_nats *st = state;
    struct ev_nats_binding *b = binding;

    if (b->attached)
        return;
    if (b->is_core) {
        b->attached = true;
        ev_nats_core_open(st, &b->core);
        return;
    }
    if (!ev_nats_pull_join(st, b)) {
        ev_host_consumer_lost(st->host, b->sub, EVBUS_NOMEM, "out of memory");
        return;
    }
    b->attached = true;
    table_add(st->consume, b);
    if (b->exclusive) {
        ev_nats_members_join(st, b);
        return;
    }
    if (!b->fresh)
        ev_nats_gap_later(st, b);
    ev_nats_pull_consider(st, b);
}

void ev_nats_detach(void *state, void *binding)
{
    struct ev_nats *st = state;
    struct ev_nats_binding *b = binding;

    if (b->attached)
        ev_nats_leave(st, b);
    else
        ev_host_quiet(st->host, b->sub);
}
