/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem://: a broker inside the process, with JetStream's semantics where the bus relies on them. It is the embedded
 * default and how users test. mem:// is private to the bus that opens it; mem://NAME is one broker for all who open
 * that name, for as long as one of them has it open, with the limits of the first.
 *
 *   mem.c            the table of operations; administration, which waits for its request to be run
 *   mem_session.c    the loop's side          mem_hub.*       one broker, many sessions, nobody waits
 *   mem_broker.*     the broker itself        mem_store.*     the bytes
 *
 * Not as on nats://: the link never goes down by itself; nothing survives the last close; storage "file" is memory too;
 * the wildcard-free subjects of a publish are trusted (the core has checked them); a publish that no stream covers is
 * answered "no responders" also when core subscriptions have it; administration answers at once, deadlines are not used.
 */
#include "backend/mem_fault.h"
#include "backend/mem_hub.h"

#include <stdio.h>
#include <string.h>

#define BYTES_MAX (UINT64_C(1) << 30)

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static evbus_status name_check(const char *name)
{
    const size_t len = strlen(name);

    if (len > 64 || strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != len)
        return ev_fail(EVBUS_INVALID, "URL mem://%.80s: the name is not 1..64 bytes of A-Z a-z 0-9 _ -", name);
    return EVBUS_OK;
}

/* Times and sizes fit any backend; who we are and whom we trust has no meaning here. */
static evbus_status options_check(const evbus_opts *o)
{
    const struct {
        const char *name;
        const char *value;
    } connecting[] = {{"user", o->user},
                      {"password", o->password},
                      {"token", o->token},
                      {"nkey_seed_file", o->nkey_seed_file},
                      {"creds_file", o->creds_file},
                      {"tls_ca_file", o->tls_ca_file},
                      {"tls_cert_file", o->tls_cert_file},
                      {"tls_key_file", o->tls_key_file},
                      {"tls_hostname", o->tls_hostname},
                      {"js_domain", o->js_domain},
                      {"js_api_prefix", o->js_api_prefix},
                      {"inbox_prefix", o->inbox_prefix},
                      {"credentials", o->credentials ? "given" : NULL}};

    for (size_t i = 0; i < sizeof connecting / sizeof connecting[0]; i++)
        if (connecting[i].value && connecting[i].value[0])
            return ev_fail(EVBUS_UNSUPPORTED, "%s: it is for nats:// only", connecting[i].name);
    return EVBUS_OK;
}

static evbus_status mem_open(void *state, const struct ev_url *url, const evbus_opts *opts, struct ev_host *host)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request join = {.run = ev_mem_join, .session = session};
    evbus_status st = name_check(url->rest);

    if (st != EVBUS_OK || (opts && (st = options_check(opts)) != EVBUS_OK))
        return st;
    session->host = host;
    session->clock = ev_host_clock(host);
    session->fault = ev_mem_fault_take();
    ev_park_init(&session->park);
    session->pool = ev_mem_pool_new();
    if (!session->pool || !ev_mem_link_init(&session->link, EV_MEM_RESULTS) ||
        !ev_mem_ring_init(&session->commands, EV_MEM_COMMANDS))
        return ev_fail(EVBUS_NOMEM, "mem://%s: out of memory", url->rest);
    st = ev_mem_hub_get(url->rest, session->clock, opts && opts->mem_bytes_max ? opts->mem_bytes_max : BYTES_MAX,
                        &session->hub);
    return st == EVBUS_OK ? ev_mem_hub_call(session->hub, &join) : st;
}

static void mem_fini(void *state)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request leave = {.run = ev_mem_leave, .session = session};

    if (session->hub)
        (void)ev_mem_hub_call(session->hub, &leave);
    if (session->link.results.items)
        ev_mem_discard(session);
    ev_mem_link_fini(&session->link);
    ev_mem_ring_fini(&session->commands);
    ev_free(session->spill);
    ev_mem_pool_leave(session->pool);
    ev_mem_hub_put(session->hub);
    session->hub = NULL;
    session->pool = NULL;
    session->spill = NULL;
}

static void mem_wake(void *state)
{
    ev_mem_session_poke(state);
}

/* The link comes up again in the next turn. */
static void mem_reconnect(void *state)
{
    (void)state;
}

/* The broker's room for a member is absolute, so nothing of it can be lost. */
static void mem_rearm(void *state, void *binding)
{
    (void)state, (void)binding;
}

static uint64_t mem_max_payload(void *state)
{
    (void)state;
    return EV_MEM_PAYLOAD_MAX;
}

/* ---- Streams ----------------------------------------------------------------------------------------------------- */

static void run_covering(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_stream_covering(&hub->broker, request->subject, request->info);
}

static evbus_status mem_stream_covering(void *state, const char *subject, struct ev_stream_info *ret, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_covering, .subject = subject, .info = ret};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_info(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_stream_info(&hub->broker, request->name, request->subject, request->info);
}

static evbus_status mem_stream_info(void *state, const char *stream, const char *subject, struct ev_stream_info *ret,
                                    int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_info, .name = stream, .subject = subject, .info = ret};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_create(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_stream_create(&hub->broker, request->cfg);
}

static evbus_status mem_stream_create(void *state, const struct ev_stream_cfg *cfg, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_create, .cfg = cfg};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_add(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_stream_add(&hub->broker, request->name, request->subject);
}

static evbus_status mem_stream_add(void *state, const char *stream, const char *subject, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_add, .name = stream, .subject = subject};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_msg_get(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_msg_get(&hub->broker, request->name, request->subject, request->seq, request->stored);
}

static evbus_status mem_msg_get(void *state, const char *stream, const char *filter, uint64_t from,
                                struct ev_stored *ret, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_msg_get, .name = stream, .subject = filter, .seq = from, .stored = ret};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_msg_delete(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_msg_delete(&hub->broker, request->name, request->seq);
}

static evbus_status mem_msg_delete(void *state, const char *stream, uint64_t seq, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_msg_delete, .name = stream, .seq = seq};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_consumer_state(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_consumer_state(&hub->broker, request->name, request->subject, request->state);
}

static evbus_status mem_consumer_state(void *state, const char *stream, const char *name, struct ev_consumer_state *ret,
                                       int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_consumer_state, .name = stream, .subject = name, .state = ret};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_consumers(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    request->status = ev_mem_consumers(&hub->broker, request->subject, request->consumers, request->count);
}

static evbus_status mem_consumers(void *state, const char *subject, struct ev_consumer_state **ret, uint32_t *ret_count,
                                  int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_consumers, .subject = subject, .consumers = ret, .count = ret_count};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

static void run_account(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    *request->account = (struct ev_account){
        .streams = hub->broker.streams.count,
        .consumers = hub->broker.consumers.count,
        .memory = hub->broker.bytes,
        .memory_max = hub->broker.bytes_max,
    };
}

static evbus_status mem_account(void *state, struct ev_account *ret, int64_t deadline)
{
    struct ev_mem_session *session = state;
    struct ev_mem_request request = {.run = run_account, .account = ret};

    (void)deadline;
    return ev_mem_hub_call(session->hub, &request);
}

/* ---- Bindings ---------------------------------------------------------------------------------------------------- */

static void run_bind(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    struct ev_mem_session *session = request->session;
    struct ev_mem_member *member = request->member;

    if (request->cfg)
        request->status = ev_mem_bind(&hub->broker, member, request->cfg);
    else
        request->status = ev_mem_bind_core(&hub->broker, member, request->subject, request->name);
    if (request->status != EVBUS_OK)
        return;
    member->bound_next = session->bound;
    if (session->bound)
        session->bound->bound_prev = member;
    session->bound = member;
}

static evbus_status bind(struct ev_mem_session *session, struct evbus_sub *sub, struct ev_mem_request *request,
                         void **ret_binding)
{
    struct ev_mem_member *member = ev_calloc(1, sizeof *member);

    if (!member)
        return ev_fail(EVBUS_NOMEM, "out of memory for a subscription");
    member->link = &session->link;
    member->sub = sub;
    request->run = run_bind;
    request->session = session;
    request->member = member;
    evbus_status st = ev_mem_hub_call(session->hub, request);
    if (st == EVBUS_OK)
        *ret_binding = member;
    else
        ev_free(member);
    return st;
}

static evbus_status mem_bind(void *state, struct evbus_sub *sub, const struct ev_consumer_cfg *cfg, void **ret_binding,
                             int64_t deadline)
{
    struct ev_mem_request request = {.cfg = cfg};

    (void)deadline;
    return bind(state, sub, &request, ret_binding);
}

static evbus_status mem_fence(void *state, int64_t deadline)
{
    (void)state, (void)deadline; /* attach is in the broker's order already */
    return EVBUS_OK;
}

static evbus_status mem_bind_core(void *state, struct evbus_sub *sub, const char *subject, const char *queue,
                                  void **ret_binding)
{
    struct ev_mem_request request = {.subject = subject, .name = queue};

    return bind(state, sub, &request, ret_binding);
}

/* The loop still may have the binding in its lists and rings: it is taken through all of them and freed at the end. */
static void mem_unbind(void *state, void *binding)
{
    struct ev_mem_session *session = state;
    struct ev_mem_member *member = binding;
    struct ev_mem_member *seen = ev_load_relaxed(&session->unbound); /* checked by the exchange */

    if (!member)
        return;
    do
        member->unbound_next = seen;
    while (!ev_cas_acqrel(&session->unbound, &seen, member));
    ev_mem_session_poke(session);
}

/* ---- Why a publish was refused ------------------------------------------------------------------------------------ */

evbus_status ev_mem_refusal(const struct ev_mem_session *session, const struct ev_mem_item *item, char *text,
                            size_t cap, uint32_t *ret_code)
{
    const struct ev_mem_stream *stream = item->object;
    const struct ev_mem_broker *broker = &session->hub->broker;

    switch ((enum ev_mem_code)item->number) {
    case EV_MEM_MAX_MSGS:
        (void)snprintf(text, cap, "stream '%s': maximum messages exceeded (max_msgs %llu, discard new)", stream->name,
                       (unsigned long long)stream->max_msgs);
        *ret_code = 10077;
        return EVBUS_LIMIT;
    case EV_MEM_MAX_BYTES:
    case EV_MEM_OVER_STREAM:
        (void)snprintf(text, cap, "stream '%s': maximum bytes exceeded (max_bytes %llu%s)", stream->name,
                       (unsigned long long)stream->max_bytes,
                       item->number == EV_MEM_MAX_BYTES ? ", discard new" : ", the message alone is larger");
        *ret_code = 10077;
        return EVBUS_LIMIT;
    case EV_MEM_FULL:
        (void)snprintf(text, cap, "the broker is full: mem_bytes_max (%llu) is reached",
                       (unsigned long long)broker->bytes_max);
        *ret_code = 10028;
        return EVBUS_LIMIT;
    case EV_MEM_IDS_FULL:
        (void)snprintf(text, cap,
                       "the duplicate windows hold %llu message ids, the most that mem_bytes_max (%llu) allows",
                       (unsigned long long)broker->ids_max, (unsigned long long)broker->bytes_max);
        *ret_code = 10028;
        return EVBUS_LIMIT;
    case EV_MEM_NO_STREAM:
        (void)snprintf(text, cap, "no stream covers the topic (no responders)");
        *ret_code = 503;
        return EVBUS_REFUSED;
    default:
        (void)snprintf(text, cap, "the broker is out of memory");
        *ret_code = 500;
        return EVBUS_NOMEM;
    }
}

/* The broker is in this process. */
static int64_t mem_silent_since(void *state, void *binding)
{
    (void)state, (void)binding;
    return EV_NEVER;
}

/* ---- Tokens ------------------------------------------------------------------------------------------------------ */

static void mem_release(void *state, void *token)
{
    const struct ev_mem_session *session = state;

    ev_mem_unref(token, session->pool);
}

/* Both are the same block: a message's address does not change when it is delivered again. */
static void mem_replace(void *state, void *token, void *newer)
{
    (void)token;
    mem_release(state, newer);
}

static const char *mem_header(void *state, void *token, const char *name)
{
    (void)state;
    return ev_mem_header(token, name);
}

static size_t mem_headers(void *state, void *token, char *buf, size_t cap)
{
    (void)state;
    return ev_mem_headers(token, buf, cap);
}

extern const struct ev_backend_ops ev_mem_ops; /* named by core/backend_table.c */

const struct ev_backend_ops ev_mem_ops = {
    .scheme = "mem",
    .state_size = sizeof(struct ev_mem_session),
    .group_optional = true,
    .open = mem_open,
    .shut = ev_mem_shut,
    .fini = mem_fini,
    .turn = ev_mem_turn,
    .due = ev_mem_due,
    .wait = ev_mem_wait,
    .wake = mem_wake,
    .send = ev_mem_send,
    .sent_mark = ev_mem_sent_mark,
    .unsent_after = ev_mem_unsent_after,
    .drop_link = ev_mem_drop_link,
    .reconnect = mem_reconnect,
    .rearm = mem_rearm,
    .max_payload = mem_max_payload,
    .stream_covering = mem_stream_covering,
    .stream_info = mem_stream_info,
    .stream_create = mem_stream_create,
    .stream_add = mem_stream_add,
    .msg_get = mem_msg_get,
    .msg_delete = mem_msg_delete,
    .consumer_state = mem_consumer_state,
    .consumers = mem_consumers,
    .account = mem_account,
    .bind = mem_bind,
    .bind_core = mem_bind_core,
    .fence = mem_fence,
    .attach = ev_mem_binding_attach,
    .detach = ev_mem_binding_detach,
    .leave = ev_mem_binding_leave,
    .unbind = mem_unbind,
    .want = ev_mem_binding_want,
    .silent_since = mem_silent_since,
    .settle = ev_mem_binding_settle,
    .settle_seq = ev_mem_binding_settle_seq,
    .replace = mem_replace,
    .release = mem_release,
    .header = mem_header,
    .headers = mem_headers,
};
