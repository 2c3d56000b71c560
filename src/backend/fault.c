/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/fault.h"

#include "base/alloc.h"
#include "conc/atomic.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "fault+"

/* ---- Chance ------------------------------------------------------------------------------------------------------ */

/* splitmix64's finaliser: near numbers give unrelated ones. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t ev_fault_draw(struct ev_fault *f, enum ev_fault_kind kind, uint64_t key, uint64_t limit)
{
    const uint64_t kinds = mix(f->settings.seed + UINT64_C(0x9e3779b97f4a7c15) * (uint64_t)(kind + 1));

    return mix(kinds ^ mix(key)) % limit;
}

bool ev_fault_hits(struct ev_fault *f, enum ev_fault_kind kind, uint64_t key)
{
    const uint32_t chance = f->settings.chance[kind];

    if (chance == 0 || ev_fault_draw(f, kind, key, EV_FAULT_CERTAIN) >= chance)
        return false;
    f->count[kind]++;
    return true;
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static bool split_url(struct ev_fault *f, const struct ev_url *url, const char **ret_query)
{
    const char *query = strrchr(url->rest, '?');
    const size_t rest = query ? (size_t)(query - url->rest) : strlen(url->rest);
    const char *scheme = url->scheme + sizeof PREFIX - 1;
    const size_t full = strlen(scheme) + 3 + rest + 1;

    *ret_query = query ? query + 1 : NULL;
    f->rest = ev_strndup(url->rest, rest);
    f->url = ev_malloc(full);
    if (!f->rest || !f->url)
        return false;
    (void)snprintf(f->url, full, "%s://%s", scheme, f->rest);
    return true;
}

static evbus_status fault_open(void *state, const struct ev_url *url, const evbus_opts *opts, struct ev_host *host)
{
    struct ev_fault *f = state;
    const char *query = NULL;

    f->host = (struct ev_host){.tap = &ev_fault_tap, .outer = host};
    f->log = ev_host_log(host);
    f->clock = opts->clock;
    f->ops = ev_backend_find(url->scheme + sizeof PREFIX - 1);
    if (!split_url(f, url, &query))
        return ev_fail(EVBUS_NOMEM, "URL");
    const evbus_status st = ev_fault_settings_parse(query, &f->settings);
    if (st != EVBUS_OK)
        return st;
    if (f->settings.clock_jump_every_ms && !f->clock)
        return ev_fail(EVBUS_INVALID, "URL: clock_jump_every_ms '%u' needs a virtual clock (evbus_opts.clock)",
                       f->settings.clock_jump_every_ms);
    f->inner = ev_aligned(EV_APART, f->ops->state_size);
    if (!f->inner)
        return ev_fail(EVBUS_NOMEM, "out of memory for the %s backend", f->ops->scheme);
    ev_fault_begin(f, ev_clock_now(f->clock));
    const struct ev_url inner = {.scheme = url->scheme + sizeof PREFIX - 1, .rest = f->rest, .full = f->url};
    f->opened = true;
    return f->ops->open(f->inner, &inner, opts, &f->host);
}

static void log_counts(const struct ev_fault *f)
{
    static const char *const names[] = {
#define EV_FAULT_X(kind, name) name,
        EV_FAULT_MAP(EV_FAULT_X)
#undef EV_FAULT_X
    };
    char text[512];
    size_t n = 0;

    for (size_t i = 0; i < EV_FAULT_KINDS; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s %s %llu", i ? "," : "", names[i],
                              (unsigned long long)f->count[i]);
    ev_log(f->log, EVBUS_LOG_INFO, "fault", "seed %llu, injected:%s", (unsigned long long)f->settings.seed, text);
}

static void fault_shut(void *state)
{
    struct ev_fault *f = state;

    if (f->shut)
        return;
    f->shut = true;
    if (f->opened) {
        ev_fault_discard(f);
        f->ops->shut(f->inner);
        log_counts(f);
    }
}

static void fault_fini(void *state)
{
    struct ev_fault *f = state;

    if (f->opened) {
        if (!f->shut)
            ev_fault_discard(f);
        f->ops->fini(f->inner);
    }
    ev_fault_fini(f);
    ev_free(f->inner);
    ev_free(f->url);
    ev_free(f->rest);
    f->inner = NULL;
    f->url = f->rest = NULL;
    f->opened = false;
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static int64_t after_about(struct ev_fault *f, enum ev_fault_kind kind, uint32_t ms)
{
    const int64_t half = (int64_t)ms * EV_MS / 2;

    return f->now + half + (int64_t)ev_fault_draw(f, kind, ++f->events, (uint64_t)half * 2 + 1);
}

static bool disconnect(struct ev_fault *f)
{
    const uint32_t every = f->settings.disconnect_every_ms;

    if (every == 0 || f->now < f->next_disconnect)
        return false;
    if (f->next_disconnect != INT64_MIN && f->up) {
        f->count[EV_FAULT_DISCONNECT]++;
        f->down_until = f->now + (int64_t)f->settings.disconnect_for_ms * EV_MS;
        f->ops->drop_link(f->inner, "disconnected (fault+)");
    }
    f->next_disconnect = after_about(f, EV_FAULT_DISCONNECT, every);
    return true;
}

/* One subscription is not asked for any more, and nothing says so: its room stays as it is, which is none. */
static void silence(struct ev_fault *f)
{
    const uint32_t every = f->settings.silent_every_ms;
    uint64_t count = 0;

    if (every == 0 || f->now < f->next_silence)
        return;
    for (const struct ev_fault_binding *b = f->attached; b; b = b->next)
        count += !b->detached && !b->silent;
    if (f->next_silence != INT64_MIN && count > 0) {
        uint64_t which = ev_fault_draw(f, EV_FAULT_SILENT, ++f->events, count);
        struct ev_fault_binding *b = f->attached;
        while (b->detached || b->silent || which-- > 0)
            b = b->next;
        f->count[EV_FAULT_SILENT]++;
        f->ops->want(f->inner, b->inner, (struct ev_room){0});
        b->silent = true;
    }
    f->next_silence = after_about(f, EV_FAULT_SILENT, every);
}

static void jump(struct ev_fault *f)
{
    const uint32_t every = f->settings.clock_jump_every_ms;

    if (every == 0 || f->now < f->next_jump)
        return;
    if (f->next_jump != INT64_MIN) {
        f->count[EV_FAULT_CLOCK_JUMP]++;
        evbus_clock_advance(f->clock,
                            1 + ev_fault_draw(f, EV_FAULT_CLOCK_JUMP, f->events, f->settings.clock_jump_by_ms));
    }
    f->next_jump = after_about(f, EV_FAULT_CLOCK_JUMP, every);
}

static bool fault_turn(void *state, int64_t now)
{
    struct ev_fault *f = state;

    f->now = now;
    bool busy = disconnect(f);
    busy |= f->ops->turn(f->inner, now);
    busy |= ev_fault_pump(f);
    jump(f);
    silence(f);
    return busy;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t fault_due(void *state)
{
    struct ev_fault *f = state;
    int64_t due = earlier(f->ops->due(f->inner), ev_fault_due(f));

    if (f->settings.disconnect_every_ms)
        due = earlier(due, f->next_disconnect);
    if (f->settings.clock_jump_every_ms)
        due = earlier(due, f->next_jump);
    if (f->settings.silent_every_ms)
        due = earlier(due, f->next_silence);
    return due;
}

static void fault_wait(void *state, int64_t deadline)
{
    struct ev_fault *f = state;

    f->ops->wait(f->inner, deadline);
}

static void fault_wake(void *state)
{
    struct ev_fault *f = state;

    f->ops->wake(f->inner);
}

/* ---- Publishing -------------------------------------------------------------------------------------------------- */

/* For a while nobody listens: every publish is answered so, and none leaves. */
static bool nobody_listens(struct ev_fault *f, const struct ev_record *record)
{
    static const char text[] = "no responders (fault+)";
    const struct ev_ack ack = {.outcome = EVBUS_OUTCOME_REFUSED,
                               .no_responders = true,
                               .status = EVBUS_REFUSED,
                               .broker_code = 503,
                               .text = text,
                               .text_len = sizeof text - 1};

    if (!record->want_ack)
        return false;
    if (f->now >= f->away_until) {
        if (!ev_fault_hits(f, EV_FAULT_NO_RESPONDERS, f->publishes))
            return false;
        f->away_until = f->now + (int64_t)f->settings.no_responders_for_ms * EV_MS;
    } else {
        f->count[EV_FAULT_NO_RESPONDERS]++;
    }
    ev_fault_answer(f, record->slot, record->generation, &ack);
    return true;
}

static enum ev_sent fault_send(void *state, const struct ev_record *record, evbus_status *ret_status)
{
    struct ev_fault *f = state;
    evbus_status ignored;

    if (!f->up)
        return EV_SEND_LATER;
    f->publishes++;
    if (nobody_listens(f, record))
        return EV_SENT;
    const enum ev_sent sent = f->ops->send(f->inner, record, ret_status);
    if (sent != EV_SENT) {
        f->publishes--; /* it comes again as the same one */
        return sent;
    }
    if (record->msg_id && ev_fault_hits(f, EV_FAULT_REPEAT, f->publishes)) {
        struct ev_record again = *record; /* as a resend whose first copy arrived after all */
        again.want_ack = false;
        (void)f->ops->send(f->inner, &again, &ignored);
    }
    return sent;
}

static uint64_t fault_sent_mark(void *state)
{
    struct ev_fault *f = state;

    return f->ops->sent_mark(f->inner);
}

static bool fault_unsent_after(void *state, uint64_t mark)
{
    struct ev_fault *f = state;

    return f->ops->unsent_after(f->inner, mark);
}

static void fault_drop_link(void *state, const char *why)
{
    struct ev_fault *f = state;

    f->ops->drop_link(f->inner, why);
}

static void fault_reconnect(void *state)
{
    struct ev_fault *f = state;

    f->ops->reconnect(f->inner);
}

static uint64_t fault_max_payload(void *state)
{
    struct ev_fault *f = state;

    return f->ops->max_payload(f->inner);
}

/* ---- Administration: a slow server answers late here too, on the system's clock [any] ------------------------------ */

static evbus_status slow(const struct ev_fault *f, int64_t deadline)
{
    const int64_t now = ev_clock_now(NULL), at = now + (int64_t)f->settings.slow_by_ms * EV_MS;
    const int64_t until = at < deadline ? at : deadline;

    if (f->clock || f->settings.slow_by_ms == 0)
        return EVBUS_OK;
    if (until > now)
        (void)poll(NULL, 0, (int)((until - now + EV_MS - 1) / EV_MS));
    return at <= deadline ? EVBUS_OK : ev_fail(EVBUS_TIMEOUT, "the server is too slow (fault+, slow_by_ms)");
}

static evbus_status fault_stream_covering(void *state, const char *subject, struct ev_stream_info *ret,
                                          int64_t deadline)
{
    struct ev_fault *f = state;
    const evbus_status st = slow(f, deadline);

    return st == EVBUS_OK ? f->ops->stream_covering(f->inner, subject, ret, deadline) : st;
}

static evbus_status fault_stream_info(void *state, const char *stream, const char *subject, struct ev_stream_info *ret,
                                      int64_t deadline)
{
    struct ev_fault *f = state;
    const evbus_status st = slow(f, deadline);

    return st == EVBUS_OK ? f->ops->stream_info(f->inner, stream, subject, ret, deadline) : st;
}

static evbus_status fault_stream_create(void *state, const struct ev_stream_cfg *cfg, int64_t deadline)
{
    struct ev_fault *f = state;
    const evbus_status st = slow(f, deadline);

    return st == EVBUS_OK ? f->ops->stream_create(f->inner, cfg, deadline) : st;
}

static evbus_status fault_stream_add(void *state, const char *stream, const char *subject, int64_t deadline)
{
    struct ev_fault *f = state;
    const evbus_status st = slow(f, deadline);

    return st == EVBUS_OK ? f->ops->stream_add(f->inner, stream, subject, deadline) : st;
}

/* ---- Bindings ---------------------------------------------------------------------------------------------------- */

static evbus_status bound(evbus_status st, struct ev_fault_binding *b, void **ret_binding)
{
    if (st == EVBUS_OK)
        *ret_binding = b;
    else
        ev_free(b);
    return st;
}

static struct ev_fault_binding *binding_new(struct evbus_sub *sub)
{
    struct ev_fault_binding *b = ev_calloc(1, sizeof *b);

    if (b)
        b->sub = sub;
    return b;
}

static evbus_status fault_bind(void *state, struct evbus_sub *sub, const struct ev_consumer_cfg *cfg,
                               void **ret_binding, int64_t deadline)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = NULL;
    const evbus_status st = slow(f, deadline);

    if (st != EVBUS_OK)
        return st;
    if (!(b = binding_new(sub)))
        return ev_fail(EVBUS_NOMEM, "out of memory for a subscription");
    return bound(f->ops->bind(f->inner, sub, cfg, &b->inner, deadline), b, ret_binding);
}

static evbus_status fault_bind_core(void *state, struct evbus_sub *sub, const char *subject, const char *queue,
                                    void **ret_binding)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = binding_new(sub);

    if (!b)
        return ev_fail(EVBUS_NOMEM, "out of memory for a subscription");
    return bound(f->ops->bind_core(f->inner, sub, subject, queue, &b->inner), b, ret_binding);
}

static evbus_status fault_msg_get(void *state, const char *stream, const char *filter, uint64_t from,
                                  struct ev_stored *ret, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->msg_get(f->inner, stream, filter, from, ret, deadline);
}

static evbus_status fault_msg_delete(void *state, const char *stream, uint64_t seq, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->msg_delete(f->inner, stream, seq, deadline);
}

static evbus_status fault_consumer_state(void *state, const char *stream, const char *name,
                                         struct ev_consumer_state *ret, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->consumer_state(f->inner, stream, name, ret, deadline);
}

static evbus_status fault_consumers(void *state, const char *subject, struct ev_consumer_state **ret,
                                    uint32_t *ret_count, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->consumers(f->inner, subject, ret, ret_count, deadline);
}

static evbus_status fault_account(void *state, struct ev_account *ret, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->account(f->inner, ret, deadline);
}

static int64_t fault_silent_since(void *state, void *binding)
{
    struct ev_fault *f = state;
    const struct ev_fault_binding *b = binding;

    return f->ops->silent_since(f->inner, b ? b->inner : NULL);
}

static void fault_attach(void *state, void *binding)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = binding;

    b->next = f->attached;
    f->attached = b;
    f->ops->attach(f->inner, b->inner);
}

static evbus_status fault_fence(void *state, int64_t deadline)
{
    struct ev_fault *f = state;

    return f->ops->fence(f->inner, deadline);
}

static void fault_detach(void *state, void *binding)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = binding;

    b->detached = true;
    f->ops->detach(f->inner, b->inner);
}

static void fault_leave(void *state, void *binding)
{
    struct ev_fault *f = state;

    f->ops->leave(f->inner, ((struct ev_fault_binding *)binding)->inner);
}

static void fault_unbind(void *state, void *binding)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = binding;

    if (!b)
        return;
    f->ops->unbind(f->inner, b->inner);
    ev_free(b);
}

static void fault_rearm(void *state, void *binding)
{
    struct ev_fault *f = state;
    struct ev_fault_binding *b = binding;

    if (b->silent)
        b->silent = ev_fault_draw(f, EV_FAULT_SILENT, ++f->events, 2) == 0; /* else only binding anew helps */
    f->ops->rearm(f->inner, b->inner);
}

static void fault_want(void *state, void *binding, struct ev_room room)
{
    struct ev_fault *f = state;
    const struct ev_fault_binding *b = binding;
    uint64_t bytes;
    if (b->silent)
        return;
    const uint32_t msgs = ev_fault_waiting(f, b->sub, &bytes);

    room.msgs = room.msgs > msgs ? room.msgs - msgs : 0;
    room.bytes = room.bytes > bytes ? room.bytes - bytes : 0;
    f->ops->want(f->inner, b->inner, room);
}

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

static bool fault_settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns)
{
    struct ev_fault *f = state;
    const struct ev_fault_binding *b = binding;
    struct ev_fault_token *t = token;

    if (!f->up)
        return false;
    const uint64_t key = t->seq * 64 + t->count * 8 + t->attempts++;
    if (ev_fault_hits(f, EV_FAULT_LOST_SETTLE, key))
        return true;
    return f->ops->settle(f->inner, b ? b->inner : NULL, t->address->inner, verb, delay_ns);
}

/* What waits here was delivered, as the broker sees it: an ack must not go past it. */
static bool fault_settle_seq(void *state, void *binding, enum ev_settle verb, uint64_t stream_seq,
                             uint64_t consumer_seq)
{
    struct ev_fault *f = state;
    const struct ev_fault_binding *b = binding;

    if (!f->up || (verb == EV_SETTLE_ACK && ev_fault_unsettled(f, b->sub, 0, stream_seq) > 0))
        return false;
    if (ev_fault_hits(f, EV_FAULT_LOST_SETTLE, stream_seq * 64 + 32 + (f->settled_seqs++ & 31)))
        return true;
    return f->ops->settle_seq(f->inner, b->inner, verb, stream_seq, consumer_seq);
}

static void fault_replace(void *state, void *token, void *newer)
{
    struct ev_fault *f = state;
    struct ev_fault_token *t = token, *n = newer;
    struct ev_fault_address *before = t->address;

    t->address = n->address;
    t->address->refs++;
    t->count = n->count;
    ev_fault_address_put(f, before);
    ev_fault_token_free(f, n);
}

static void fault_release(void *state, void *token)
{
    ev_fault_token_free(state, token);
}

static const char *fault_header(void *state, void *token, const char *name)
{
    struct ev_fault *f = state;
    const struct ev_fault_token *t = token;

    return f->ops->header(f->inner, t->bytes->inner, name); /* `bytes` never changes */
}

static size_t fault_headers(void *state, void *token, char *buf, size_t cap)
{
    struct ev_fault *f = state;
    const struct ev_fault_token *t = token;

    return f->ops->headers(f->inner, t->bytes->inner, buf, cap);
}

/* ---- The tables -------------------------------------------------------------------------------------------------- */

#define FAULT_OPS(scheme_, group_optional_)                                                                            \
    {                                                                                                                  \
        .scheme = scheme_, .state_size = sizeof(struct ev_fault), .group_optional = group_optional_,                   \
        .open = fault_open, .shut = fault_shut, .fini = fault_fini, .turn = fault_turn, .due = fault_due,              \
        .wait = fault_wait, .wake = fault_wake, .send = fault_send, .sent_mark = fault_sent_mark,                      \
        .unsent_after = fault_unsent_after, .drop_link = fault_drop_link, .reconnect = fault_reconnect,                \
        .max_payload = fault_max_payload, .stream_covering = fault_stream_covering, .stream_info = fault_stream_info,  \
        .stream_create = fault_stream_create, .stream_add = fault_stream_add, .msg_get = fault_msg_get,                \
        .msg_delete = fault_msg_delete, .consumer_state = fault_consumer_state, .consumers = fault_consumers,          \
        .account = fault_account, .silent_since = fault_silent_since, .rearm = fault_rearm, .bind = fault_bind,        \
        .bind_core = fault_bind_core, .attach = fault_attach, .fence = fault_fence, .detach = fault_detach,            \
        .leave = fault_leave, .unbind = fault_unbind, .want = fault_want, .settle = fault_settle,                      \
        .settle_seq = fault_settle_seq, .replace = fault_replace, .release = fault_release, .header = fault_header,    \
        .headers = fault_headers,                                                                                      \
    }

extern const struct ev_backend_ops ev_fault_mem_ops, ev_fault_nats_ops; /* named by core/backend_table.c */

const struct ev_backend_ops ev_fault_mem_ops = FAULT_OPS("fault+mem", true);
const struct ev_backend_ops ev_fault_nats_ops = FAULT_OPS("fault+nats", false);

/* Whoever adds an operation adds it here. */
_Static_assert(sizeof(struct ev_backend_ops) == 41 * sizeof(void *), "fault+ has to pass on every operation");
