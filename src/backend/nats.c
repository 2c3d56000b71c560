/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nats://: the table, open and fini, and what is read from the URL and the options.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 5000u
#define CONNECT_TIMEOUT_MAX_MS 60000u
#define RECONNECT_MIN_MS 20u
#define RECONNECT_MAX_MS 1000u
#define RECONNECT_FACTOR_PCT 200u
#define RECONNECT_JITTER_PCT 50u
#define HEARTBEAT_MS 2000u
#define HEARTBEAT_MIN_MS 20u
#define MEMBER_TTL_MS 10000u
#define MEMBER_TTL_MIN_MS 200u

/* All servers of the URL. *ret is allocated, also when parsing stops half way. */
static evbus_status parse_servers(const struct ev_url *url, struct ev_nats_server **ret, uint32_t *ret_count,
                                  bool *ret_tls)
{
    const char *p = url->rest;

    *ret_count = 0;
    *ret_tls = strcmp(url->scheme, "tls") == 0;
    *ret = ev_calloc(EV_NATS_SERVERS_MAX, sizeof **ret);
    if (!*ret)
        return ev_fail(EVBUS_NOMEM, "URL");
    while (true) {
        const size_t len = strcspn(p, ",");
        bool tls = false;
        if (*ret_count == EV_NATS_SERVERS_MAX)
            return ev_fail(EVBUS_LIMIT, "URL: more than %u servers", EV_NATS_SERVERS_MAX);
        const evbus_status status = ev_nats_server_parse(&(*ret)[*ret_count], p, len, &tls);
        if (status != EVBUS_OK)
            return status;
        ++*ret_count;
        *ret_tls |= tls;
        if (p[len] == 0)
            return EVBUS_OK;
        p += len + 1;
    }
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static bool given(const char *text)
{
    return text && text[0];
}

/* NULL and "" are "not given". False: no memory. */
static bool copy(char **to, const char *from)
{
    *to = given(from) ? ev_strdup(from) : NULL;
    return *to || !given(from);
}

static evbus_status check_file(const char *option, const char *path)
{
    if (!given(path) || access(path, R_OK) == 0)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "%s '%s' cannot be read", option, path);
}

/* A subject prefix: tokens of printable bytes, no wildcards. */
static evbus_status check_prefix(const char *option, const char *text, size_t max)
{
    const size_t len = given(text) ? strlen(text) : 0;

    if (len == 0)
        return EVBUS_OK;
    if (len > max)
        return ev_fail(EVBUS_INVALID, "%s is longer than %zu bytes", option, max);
    for (size_t i = 0; i < len; i++) {
        const bool edge = i == 0 || i == len - 1 || text[i + 1] == '.';
        if (text[i] <= ' ' || text[i] > '~' || text[i] == '*' || text[i] == '>' || (text[i] == '.' && edge))
            return ev_fail(EVBUS_INVALID, "%s '%s' is no subject: byte %zu", option, text, i + 1);
    }
    return EVBUS_OK;
}

static evbus_status check_options(const evbus_opts *o)
{
    evbus_status s = EVBUS_OK;

    if (o->clock)
        return ev_fail(EVBUS_UNSUPPORTED, "clock: a virtual clock works on mem:// only");
    if (o->mem_bytes_max)
        return ev_fail(EVBUS_UNSUPPORTED, "mem_bytes_max: it is for mem:// only");
    if (given(o->js_domain) && given(o->js_api_prefix))
        return ev_fail(EVBUS_INVALID, "js_domain and js_api_prefix exclude each other");
    if (given(o->creds_file) && given(o->nkey_seed_file))
        return ev_fail(EVBUS_INVALID, "creds_file and nkey_seed_file exclude each other");
    if (given(o->tls_cert_file) != given(o->tls_key_file))
        return ev_fail(EVBUS_INVALID, "tls_cert_file and tls_key_file go together");
    if ((s = check_file("creds_file", o->creds_file)) != EVBUS_OK ||
        (s = check_file("nkey_seed_file", o->nkey_seed_file)) != EVBUS_OK ||
        (s = check_file("tls_ca_file", o->tls_ca_file)) != EVBUS_OK ||
        (s = check_file("tls_cert_file", o->tls_cert_file)) != EVBUS_OK ||
        (s = check_file("tls_key_file", o->tls_key_file)) != EVBUS_OK ||
        (s = check_prefix("inbox_prefix", o->inbox_prefix, 64)) != EVBUS_OK ||
        (s = check_prefix("js_api_prefix", o->js_api_prefix, 128)) != EVBUS_OK ||
        (s = check_prefix("js_domain", o->js_domain, 128)) != EVBUS_OK)
        return s;
    if (given(o->js_domain) && strchr(o->js_domain, '.'))
        return ev_fail(EVBUS_INVALID, "js_domain '%s' has a dot", o->js_domain);
    return EVBUS_OK;
}

static uint32_t bounded(uint32_t value, uint32_t standard, uint32_t min, uint32_t max)
{
    if (value == 0)
        value = standard;
    if (value < min)
        return min;
    return value > max ? max : value;
}

static char *api_prefix(const evbus_opts *o)
{
    char text[EV_NAME_MAX];

    if (given(o->js_domain))
        (void)snprintf(text, sizeof text, "$JS.%s.API", o->js_domain);
    else
        (void)snprintf(text, sizeof text, "%s", given(o->js_api_prefix) ? o->js_api_prefix : "$JS.API");
    return ev_strdup(text);
}

static evbus_status config_init(struct ev_nats_config *c, const evbus_opts *o, bool tls)
{
    const evbus_status status = check_options(o);

    if (status != EVBUS_OK)
        return status;
    c->tls = tls || given(o->tls_ca_file) || given(o->tls_cert_file) || given(o->tls_hostname);
    c->credentials = o->credentials;
    c->credentials_ctx = o->credentials_ctx;
    c->connect_timeout_ms = bounded(o->connect_timeout_ms, CONNECT_TIMEOUT_MS, 10, CONNECT_TIMEOUT_MAX_MS);
    c->reconnect_min_ms = bounded(o->reconnect_min_ms, RECONNECT_MIN_MS, 1, 3600000);
    c->reconnect_max_ms = bounded(o->reconnect_max_ms, RECONNECT_MAX_MS, c->reconnect_min_ms, 3600000);
    c->reconnect_factor_pct = bounded(o->reconnect_factor_pct, RECONNECT_FACTOR_PCT, 100, 10000);
    c->reconnect_jitter_pct =
        o->reconnect_jitter_pct == EVBUS_NOWAIT ? 0 : bounded(o->reconnect_jitter_pct, RECONNECT_JITTER_PCT, 1, 100);
    c->reconnect_attempts_max = o->reconnect_attempts_max ? o->reconnect_attempts_max : EVBUS_FOREVER;
    c->heartbeat_ms = bounded(o->heartbeat_ms, HEARTBEAT_MS, HEARTBEAT_MIN_MS, 3600000);
    c->member_ttl_ms = bounded(o->member_ttl_ms, MEMBER_TTL_MS, MEMBER_TTL_MIN_MS, 600000);
    c->api = api_prefix(o);
    if (!c->api || !copy(&c->name, o->name) || !copy(&c->user, o->user) || !copy(&c->password, o->password) ||
        !copy(&c->token, o->token) || !copy(&c->nkey_seed_file, o->nkey_seed_file) ||
        !copy(&c->creds_file, o->creds_file) || !copy(&c->tls_ca_file, o->tls_ca_file) ||
        !copy(&c->tls_cert_file, o->tls_cert_file) || !copy(&c->tls_key_file, o->tls_key_file) ||
        !copy(&c->tls_hostname, o->tls_hostname) ||
        !copy(&c->inbox_prefix, given(o->inbox_prefix) ? o->inbox_prefix : "_INBOX"))
        return ev_fail(EVBUS_NOMEM, "no memory for the options");
    return EVBUS_OK;
}

static void config_fini(struct ev_nats_config *c)
{
    char *const all[] = {c->name,           c->user,         c->password,     c->token,
                         c->nkey_seed_file, c->creds_file,   c->tls_ca_file,  c->tls_cert_file,
                         c->tls_key_file,   c->tls_hostname, c->inbox_prefix, c->api};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ev_free(all[i]);
    *c = (struct ev_nats_config){0};
}

/* ---- Open and fini ----------------------------------------------------------------------------------------------- */

static void free_servers(struct ev_nats_server *servers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ev_nats_server_fini(&servers[i]);
    ev_free(servers);
}

static evbus_status nats_open(void *state, const struct ev_url *url, const evbus_opts *opts, struct ev_host *host)
{
    struct ev_nats *st = state;
    static const evbus_opts defaults = {.struct_size = sizeof defaults};
    struct ev_nats_server *servers = NULL;
    uint32_t count = 0;
    bool tls = false;

    st->host = host;
    st->log = ev_host_log(host);
    st->epoll_fd = st->wake_fd = st->watch_fd = -1;
    pthread_mutex_init(&st->fd_mutex, NULL);
    pthread_mutex_init(&st->request_mutex, NULL);
    st->opened = true;
    evbus_status status = parse_servers(url, &servers, &count, &tls);
    if (status == EVBUS_OK)
        status = config_init(&st->cfg, opts ? opts : &defaults, tls);
    if (status == EVBUS_OK)
        status = ev_nats_options_check(st, &servers[0]);
    if (status == EVBUS_OK)
        status = ev_nats_loop_init(st);
    if (status == EVBUS_OK)
        status = ev_nats_lanes_init(st);
    if (status == EVBUS_OK)
        status = ev_nats_consume_init(st);
    if (status == EVBUS_OK)
        status = ev_nats_members_init(st);
    if (status != EVBUS_OK) {
        free_servers(servers, count);
        return status;
    }
    ev_nats_register(st);
    return ev_nats_keeper_start(st, servers, count);
}

static void nats_fini(void *state)
{
    struct ev_nats *st = state;

    if (!st->opened)
        return;
    st->shut = true;
    ev_nats_keeper_stop(st);
    ev_nats_unregister(st);
    ev_nats_members_fini(st);
    ev_nats_consume_fini(st);
    ev_nats_loop_fini(st);
    ev_nats_lanes_fini(st);
    config_fini(&st->cfg);
    pthread_mutex_destroy(&st->fd_mutex);
    pthread_mutex_destroy(&st->request_mutex);
    st->opened = false;
}

const struct ev_backend_ops ev_nats_ops = {
    .scheme = "nats",
    .state_size = sizeof(struct ev_nats),
    .open = nats_open,
    .shut = ev_nats_shut,
    .fini = nats_fini,
    .turn = ev_nats_turn,
    .due = ev_nats_due,
    .wait = ev_nats_wait,
    .wake = ev_nats_wake,
    .send = ev_nats_send,
    .sent_mark = ev_nats_sent_mark,
    .unsent_after = ev_nats_unsent_after,
    .drop_link = ev_nats_drop_link,
    .reconnect = ev_nats_keeper_again,
    .max_payload = ev_nats_max_payload,
    .stream_covering = ev_nats_stream_covering,
    .stream_info = ev_nats_stream_info,
    .stream_create = ev_nats_stream_create,
    .stream_add = ev_nats_stream_add,
    .msg_get = ev_nats_msg_get,
    .msg_delete = ev_nats_msg_delete,
    .consumer_state = ev_nats_consumer_state,
    .consumers = ev_nats_consumers,
    .account = ev_nats_account,
    .bind = ev_nats_bind,
    .bind_core = ev_nats_bind_core,
    .attach = ev_nats_attach,
    .fence = ev_nats_fence,
    .detach = ev_nats_detach,
    .leave = ev_nats_part,
    .unbind = ev_nats_unbind,
    .want = ev_nats_want,
    .rearm = ev_nats_rearm,
    .silent_since = ev_nats_silent_since,
    .settle = ev_nats_settle,
    .settle_seq = ev_nats_settle_seq,
    .replace = ev_nats_replace,
    .release = ev_nats_release,
    .header = ev_nats_header,
    .headers = ev_nats_headers,
};
