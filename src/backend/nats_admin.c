/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams and consumers, by requests over the session. Runs on threads that may wait, bounded by the caller's deadline.
 *
 * A request that dies with its link is asked again until the deadline: everything asked here may be asked twice. A
 * server without a leader counts as a dead link. Nothing is concluded from silence: "not found" is the server's word.
 *
 * Consumers are read before they are made. nats-server 2.9 takes the creation of an existing durable as an update and
 * silently exchanges its filter, so another program's durable of the same name would be taken over.
 */
#include "backend/nats_consume.h"

#include "core/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PAUSE_MIN (20 * EV_MS)
#define PAUSE_MAX (500 * EV_MS)
#define BIND_TRIES 4
#define CONFIRMED 2
#define HEARD_WITHIN (2 * EV_SEC)
#define SIZE_ASSUMED 4096 /* of a message, until one has come */

/* ---- Asking until the deadline ----------------------------------------------------------------------------------- */

/* One operation of a caller. */
struct call {
    struct ev_nats *st;
    int64_t deadline;
    int64_t pause;
    struct ev_nats_reply reply;      /* the last one; freed by end() */
    char what[2 * EV_NAME_MAX + 32]; /* "stream 'orders'" */
};

static evbus_status end(struct call *call, evbus_status status)
{
    ev_nats_reply_fini(&call->reply);
    return status;
}

/* Waits a little before asking again; false: the deadline is near. */
static bool pause_a_little(struct call *call)
{
    const int64_t left = call->deadline - ev_clock_now(NULL);
    struct timespec time;

    call->pause = call->pause == 0 ? PAUSE_MIN : call->pause * 2;
    if (call->pause > PAUSE_MAX)
        call->pause = PAUSE_MAX;
    if (left <= call->pause)
        return false;
    const int64_t ns = call->pause / 2 + (int64_t)(ev_random() % (uint64_t)call->pause);
    time = (struct timespec){.tv_sec = ns / EV_SEC, .tv_nsec = ns % EV_SEC};
    (void)nanosleep(&time, NULL);
    return true;
}

/* One request; `verb` has a %s for each name; names2 may be NULL. The answer is in call->reply, errors of the server
 * included, but those that only say "not now". */
static evbus_status ask(struct call *call, const char *body, const char *verb, const char *name, const char *name2)
{
    for (;;) {
        ev_nats_reply_fini(&call->reply);
        evbus_status st = ev_nats_api(call->st, &call->reply, call->deadline, body, "%s%s%s%s%s", verb, name ? "." : "",
                                      name ? name : "", name2 ? "." : "", name2 ? name2 : "");
        if (st == EVBUS_OK) {
            switch (ev_nats_error_code(call->reply.data, call->reply.len)) {
            case EV_NATS_ERR_CLUSTER_NOT_READY:
            case EV_NATS_ERR_STREAM_OFFLINE:
            case EV_NATS_ERR_CONSUMER_OFFLINE:
                st = ev_nats_parse_answer(call->reply.data, call->reply.len, call->what);
                break;
            default:
                return EVBUS_OK;
            }
        } else if (st != EVBUS_DISCONNECTED || !ev_nats_requests_have_hope(call->st)) {
            return ev_fail_prefix(st, "%s", call->what);
        }
        if (!pause_a_little(call))
            return ev_fail_prefix(st, "%s", call->what);
    }
}

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

static evbus_status ask_stream(struct call *call, const char *stream, const char *subject, struct ev_stream_info *ret)
{
    const evbus_status st = ask(call, NULL, "STREAM.INFO", stream, NULL);

    if (st != EVBUS_OK)
        return st;
    return ev_nats_parse_stream(call->reply.data, call->reply.len, call->what, subject, ret);
}

evbus_status ev_nats_stream_info(void *state, const char *stream, const char *subject, struct ev_stream_info *ret,
                                 int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};

    (void)snprintf(call.what, sizeof call.what, "stream '%s'", stream);
    return end(&call, ask_stream(&call, stream, subject, ret));
}

/* The names the server has from `offset` on, of streams that share a message with `subject`. */
static evbus_status ask_names(struct call *call, const char *subject, uint64_t offset, struct ev_nats_names *ret)
{
    char *body = ev_nats_names_request(subject, offset);

    if (!body)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    const evbus_status st = ask(call, body, "STREAM.NAMES", NULL, NULL);
    ev_free(body);
    if (st != EVBUS_OK)
        return st;
    return ev_nats_parse_names(call->reply.data, call->reply.len, call->what, ret);
}

evbus_status ev_nats_stream_covering(void *state, const char *subject, struct ev_stream_info *ret, int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    struct ev_nats_names page = {.count = 0};
    char part[EV_NAME_MAX] = "";
    uint64_t offset = 0;

    (void)snprintf(call.what, sizeof call.what, "stream for '%s'", subject);
    do { /* a topic has one stream at most; a pattern may share messages with many */
        evbus_status st = ask_names(&call, subject, offset, &page);
        if (st != EVBUS_OK)
            return end(&call, st);
        for (uint32_t i = 0; i < page.count; i++) {
            st = ask_stream(&call, page.names[i], subject, ret);
            if (st == EVBUS_OK && ret->covers)
                return end(&call, EVBUS_OK);
            if (st != EVBUS_OK && st != EVBUS_NOT_FOUND) /* not found: deleted meanwhile */
                return end(&call, st);
            (void)ev_copy(part, sizeof part, page.names[i]);
        }
        offset += page.count;
    } while (page.count > 0 && offset < page.total);
    if (part[0])
        return end(&call, ev_fail(EVBUS_NOT_FOUND, "no stream covers all of '%s' (stream '%s' covers a part of it)",
                                  subject, part));
    return end(&call, ev_fail(EVBUS_NOT_FOUND, "no stream covers '%s'", subject));
}

evbus_status ev_nats_stream_create(void *state, const struct ev_stream_cfg *cfg, int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    char *body = ev_nats_stream_request(cfg);

    if (!body)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    (void)snprintf(call.what, sizeof call.what, "stream '%s'", cfg->name);
    evbus_status st = ask(&call, body, "STREAM.CREATE", cfg->name, NULL);
    ev_free(body);
    if (st == EVBUS_OK)
        st = ev_nats_parse_answer(call.reply.data, call.reply.len, call.what);
    return end(&call, st);
}

/* Reads the stream, adds the subject if it is not there. *ret_written: it was not. */
static evbus_status add_once(struct call *call, const char *stream, const char *subject, bool *ret_written)
{
    struct ev_stream_info info;
    char *body = NULL;
    evbus_status st = ask_stream(call, stream, subject, &info);

    *ret_written = false;
    if (st != EVBUS_OK || info.covers)
        return st;
    st = ev_nats_stream_add_request(call->reply.data, call->reply.len, subject, &body);
    if (st != EVBUS_OK)
        return st;
    st = ask(call, body, "STREAM.UPDATE", stream, NULL);
    ev_free(body);
    if (st == EVBUS_OK)
        st = ev_nats_parse_answer(call->reply.data, call->reply.len, call->what);
    *ret_written = true;
    return st;
}

/* Updates have no version: who wrote last wins, also with an older list. So the subject must be found there twice, with
 * a pause between, after it was written. Whoever still loses is told by the next publish and asks again. */
evbus_status ev_nats_stream_add(void *state, const char *stream, const char *subject, int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    bool ever = false, written = false;
    int found = 0;

    (void)snprintf(call.what, sizeof call.what, "stream '%s'", stream);
    do {
        const evbus_status st = add_once(&call, stream, subject, &written);
        if (st != EVBUS_OK)
            return end(&call, st);
        if (!written && !ever)
            return end(&call, ev_fail(EVBUS_EXISTS, "stream '%s' covers '%s' already", stream, subject));
        ever |= written;
        found = written ? 0 : found + 1;
        call.pause = 0;
        if (found == CONFIRMED)
            return end(&call, EVBUS_OK);
    } while (pause_a_little(&call));
    return end(&call, ever ? EVBUS_OK : ev_fail(EVBUS_TIMEOUT, "stream '%s': no time to add '%s'", stream, subject));
}

/* ---- Single messages --------------------------------------------------------------------------------------------- */

evbus_status ev_nats_msg_get(void *state, const char *stream, const char *filter, uint64_t from, struct ev_stored *ret,
                             int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    char *body = ev_nats_get_request(filter, from);

    if (!body)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    (void)snprintf(call.what, sizeof call.what, "stream '%s'", stream);
    evbus_status st = ask(&call, body, "STREAM.MSG.GET", stream, NULL);
    ev_free(body);
    if (st == EVBUS_OK)
        st = ev_nats_parse_message(call.reply.data, call.reply.len, call.what, ret);
    return end(&call, st);
}

evbus_status ev_nats_msg_delete(void *state, const char *stream, uint64_t seq, int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    char *body = ev_nats_delete_request(seq);

    if (!body)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    (void)snprintf(call.what, sizeof call.what, "stream '%s', sequence %" PRIu64, stream, seq);
    evbus_status st = ask(&call, body, "STREAM.MSG.DELETE", stream, NULL);
    ev_free(body);
    if (st == EVBUS_OK)
        st = ev_nats_parse_answer(call.reply.data, call.reply.len, call.what);
    return end(&call, st);
}

/* ---- How far consumers are --------------------------------------------------------------------------------------- */

evbus_status ev_nats_consumer_state(void *state, const char *stream, const char *name, struct ev_consumer_state *ret,
                                    int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    struct ev_nats_states one = {0};

    (void)snprintf(call.what, sizeof call.what, "consumer '%s' of stream '%s'", name, stream);
    evbus_status st = ask(&call, NULL, "CONSUMER.INFO", stream, name);
    if (st == EVBUS_OK)
        st = ev_nats_parse_states(call.reply.data, call.reply.len, call.what, true, &one);
    if (st == EVBUS_OK)
        *ret = one.items[0];
    ev_free(one.items);
    return end(&call, st);
}

static evbus_status list_stream(struct call *call, const char *stream, struct ev_nats_states *to)
{
    uint64_t offset = 0;

    do {
        char *body = ev_nats_list_request(offset);
        if (!body)
            return ev_fail(EVBUS_NOMEM, "out of memory");
        evbus_status st = ask(call, body, "CONSUMER.LIST", stream, NULL);
        ev_free(body);
        if (st == EVBUS_OK)
            st = ev_nats_parse_states(call->reply.data, call->reply.len, call->what, false, to);
        if (st != EVBUS_OK)
            return st == EVBUS_NOT_FOUND ? EVBUS_OK : st; /* deleted meanwhile */
        offset += to->page;
    } while (to->page > 0 && offset < to->total);
    return EVBUS_OK;
}

evbus_status ev_nats_consumers(void *state, const char *subject, struct ev_consumer_state **ret, uint32_t *ret_count,
                               int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    struct ev_nats_names page = {.count = 0};
    struct ev_nats_states all = {0};
    uint64_t offset = 0;

    (void)snprintf(call.what, sizeof call.what, "consumers of '%s'", subject);
    do {
        evbus_status st = ask_names(&call, subject, offset, &page);
        for (uint32_t i = 0; st == EVBUS_OK && i < page.count; i++)
            st = list_stream(&call, page.names[i], &all);
        if (st != EVBUS_OK) {
            ev_free(all.items);
            return end(&call, st);
        }
        offset += page.count;
    } while (page.count > 0 && offset < page.total);
    *ret = all.items;
    *ret_count = all.count;
    return end(&call, EVBUS_OK);
}

evbus_status ev_nats_account(void *state, struct ev_account *ret, int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline, .what = "account"};

    evbus_status st = ask(&call, NULL, "INFO", NULL, NULL);
    if (st == EVBUS_OK)
        st = ev_nats_parse_account(call.reply.data, call.reply.len, ret);
    return end(&call, st);
}

/* ---- Consumers --------------------------------------------------------------------------------------------------- */

static evbus_status create(struct call *call, const struct ev_consumer_cfg *cfg)
{
    char *body = ev_nats_consumer_request(cfg);

    if (!body)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    evbus_status st =
        ask(call, body, cfg->durable ? "CONSUMER.DURABLE.CREATE" : "CONSUMER.CREATE", cfg->stream, cfg->name);
    ev_free(body);
    if (st == EVBUS_NO_JETSTREAM && !cfg->durable)
        return ev_fail(EVBUS_UNSUPPORTED,
                       "%s: the server does not know ephemeral consumers with a name (nats-server 2.9 or later is "
                       "needed for fanout subscriptions), or JetStream is off",
                       call->what);
    if (st == EVBUS_OK)
        st = ev_nats_parse_answer(call->reply.data, call->reply.len, call->what);
    return st;
}

/* What the broker allows to change is made as asked for, and said. */
static evbus_status update(struct call *call, const struct ev_consumer_cfg *cfg, const struct ev_nats_consumer *have)
{
    char *body = NULL;
    evbus_status st = ev_nats_consumer_update_request(call->reply.data, call->reply.len, cfg, &body);

    if (st != EVBUS_OK)
        return st;
    st = ask(call, body, have->durable ? "CONSUMER.DURABLE.CREATE" : "CONSUMER.CREATE", cfg->stream, cfg->name);
    ev_free(body);
    if (st == EVBUS_OK)
        st = ev_nats_parse_answer(call->reply.data, call->reply.len, call->what);
    if (st == EVBUS_OK)
        ev_log(call->st->log, EVBUS_LOG_INFO, "nats",
               "%s: ack wait %" PRId64 " -> %" PRId64 " ms, ack pending %" PRId64 " -> %" PRIu32, call->what,
               have->ack_wait_ns / EV_MS, cfg->ack_wait_ns / EV_MS, have->ack_pending_max, cfg->ack_pending_max);
    return st;
}

/* The consumer exists: does it fit? EVBUS_NOT_FOUND: it does not exist (but its stream does). */
static evbus_status take_existing(struct call *call, const struct ev_consumer_cfg *cfg, bool *ret_no_stream)
{
    struct ev_nats_consumer have;
    bool different = false;

    *ret_no_stream = false;
    evbus_status st = ask(call, NULL, "CONSUMER.INFO", cfg->stream, cfg->name);
    if (st != EVBUS_OK)
        return st;
    *ret_no_stream = ev_nats_error_code(call->reply.data, call->reply.len) == EV_NATS_ERR_STREAM_NOT_FOUND;
    st = ev_nats_parse_consumer(call->reply.data, call->reply.len, call->what, &have);
    if (st == EVBUS_OK)
        st = ev_nats_compare_consumer(cfg, &have, &different);
    if (st == EVBUS_OK && different)
        st = update(call, cfg, &have);
    return st;
}

/* Takes the existing consumer or makes one; several processes may do so at the same time. */
static evbus_status ensure(struct call *call, const struct ev_consumer_cfg *cfg, bool *ret_made)
{
    bool look = cfg->durable; /* the name of an ephemeral one is random: it is new */
    evbus_status st = EVBUS_OK;

    for (int i = 0; i < BIND_TRIES; i++) {
        bool no_stream = false;
        *ret_made = false;
        if (look) {
            st = take_existing(call, cfg, &no_stream);
            if (st != EVBUS_NOT_FOUND || no_stream)
                return st;
        }
        st = create(call, cfg);
        *ret_made = st == EVBUS_OK;
        const uint32_t code = st == EVBUS_OK ? 0 : ev_nats_error_code(call->reply.data, call->reply.len);
        if (code != EV_NATS_ERR_CONSUMER_CREATE && code != EV_NATS_ERR_CONSUMER_EXISTS &&
            code != EV_NATS_ERR_CONSUMER_DIFFERS)
            return st;
        look = true; /* somebody was faster */
    }
    return st;
}

/* May we write such records? Every bus tries with the same two, which are nobody's. In a cluster it takes a moment until our server
 * has heard that the stream was made, or changed, on another one. */
static evbus_status try_record(struct call *call, const char *subject)
{
    static const char body[] = "{\"state\":\"gone\"}";
    const int64_t until = ev_clock_now(NULL) + HEARD_WITHIN;
    evbus_status st;

    do {
        ev_nats_reply_fini(&call->reply);
        st = ev_nats_request(call->st, subject, body, sizeof body - 1, call->deadline, &call->reply);
    } while (st == EVBUS_NO_JETSTREAM && ev_clock_now(NULL) < until && pause_a_little(call));
    if (st == EVBUS_NO_JETSTREAM)
        return ev_fail(EVBUS_MISMATCH, "stream " EV_NATS_MEMBERS " does not take '%s'", subject);
    return st == EVBUS_OK ? ev_nats_parse_answer(call->reply.data, call->reply.len, subject) : st;
}

static evbus_status make_members(struct call *call, bool *ret_made)
{
    static const char look[] = "{\"last_by_subj\":\"" EV_NATS_LEASE_SUBJECT "0\"}";
    evbus_status st = ask(call, look, "STREAM.MSG.GET", EV_NATS_MEMBERS, NULL);
    const uint32_t code = st == EVBUS_OK ? ev_nats_error_code(call->reply.data, call->reply.len) : 0;

    *ret_made = code == EV_NATS_ERR_STREAM_NOT_FOUND;
    if (*ret_made) {
        char *body = ev_nats_members_request();
        if (!body)
            return ev_fail(EVBUS_NOMEM, "out of memory");
        st = ask(call, body, "STREAM.CREATE", EV_NATS_MEMBERS, NULL);
        ev_free(body);
    }
    if (st != EVBUS_OK || code == EV_NATS_ERR_NO_MESSAGE)
        return st;
    return ev_nats_parse_answer(call->reply.data, call->reply.len, call->what);
}

/* What an EXCLUSIVE member needs, once per bus. */
static evbus_status ensure_members(struct ev_nats *st, int64_t deadline)
{
    struct call call = {.st = st, .deadline = deadline, .what = "stream '" EV_NATS_MEMBERS "'"};
    bool made = false;

    if (ev_nats_members_are_ready(st))
        return EVBUS_OK;
    evbus_status status = make_members(&call, &made);
    if (status == EVBUS_OK)
        status = try_record(&call, EV_NATS_MEMBER_SUBJECT "0");
    if (status == EVBUS_OK)
        status = try_record(&call, EV_NATS_LEASE_SUBJECT "0");
    if (status == EVBUS_OK)
        ev_nats_members_ready(st, made);
    if (status == EVBUS_DENIED)
        status = ev_fail_prefix(status,
                                "an EXCLUSIVE group keeps records in stream " EV_NATS_MEMBERS
                                "; let it be created, and allow publishing to evbus.member.>, evbus.lease.> and "
                                "%s.STREAM.MSG.GET." EV_NATS_MEMBERS ", or use membership SHARED",
                                st->cfg.api);
    return end(&call, status);
}

static struct ev_nats_binding *new_binding(struct evbus_sub *sub)
{
    struct ev_nats_binding *b = ev_calloc(1, sizeof *b);

    if (!b)
        return NULL;
    b->sub = sub;
    b->batch_max = UINT32_MAX;
    b->expires_max = EV_NEVER;
    b->size_peak = SIZE_ASSUMED;
    return b;
}

evbus_status ev_nats_bind(void *state, struct evbus_sub *sub, const struct ev_consumer_cfg *cfg, void **ret_binding,
                          int64_t deadline)
{
    struct call call = {.st = state, .deadline = deadline};
    struct ev_nats_binding *b = new_binding(sub);

    if (!b)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    (void)snprintf(call.what, sizeof call.what, "consumer '%s' of stream '%s'", cfg->name, cfg->stream);
    b->exclusive = cfg->exclusive && cfg->durable && cfg->ack_explicit;
    evbus_status st = b->exclusive ? ensure_members(state, deadline) : EVBUS_OK;
    if (st == EVBUS_OK)
        st = end(&call, ensure(&call, cfg, &b->fresh));
    if (st != EVBUS_OK) {
        ev_free(b);
        return st;
    }
    (void)ev_copy(b->stream, sizeof b->stream, cfg->stream);
    (void)ev_copy(b->consumer, sizeof b->consumer, cfg->name);
    b->id = cfg->id;
    b->durable = cfg->durable;
    b->ack = cfg->ack_explicit;
    b->ack_all = cfg->ack_all && b->exclusive;
    b->ack_wait_ns = cfg->ack_wait_ns;
    (void)ev_copy(b->core.subject, sizeof b->core.subject, cfg->filter);
    *ret_binding = b;
    return EVBUS_OK;
}

evbus_status ev_nats_bind_core(void *state, struct evbus_sub *sub, const char *subject, const char *queue,
                               void **ret_binding)
{
    struct ev_nats_binding *b = new_binding(sub);

    (void)state;
    if (!b)
        return ev_fail(EVBUS_NOMEM, "out of memory");
    b->is_core = true;
    b->core.owner = b;
    if (!ev_copy(b->core.subject, sizeof b->core.subject, subject) ||
        (queue && !ev_copy(b->core.queue, sizeof b->core.queue, queue))) {
        ev_free(b);
        return ev_fail(EVBUS_INVALID, "the subject or queue is longer than %d bytes", EV_NAME_MAX - 1);
    }
    *ret_binding = b;
    return EVBUS_OK;
}

void ev_nats_unbind(void *state, void *binding)
{
    struct ev_nats_binding *b = binding;

    (void)state;
    if (!b)
        return;
    ev_free(b->gap.list); /* the bus ended in the middle of it */
    ev_free(b->gap.seen);
    ev_free(b);
}
