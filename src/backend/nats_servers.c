/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Servers: what the URL says of each, what a server tells of its cluster, which one is next and after what pause.
 *
 * URL: [nats://|tls://][user[:password]@|token@]host[:port], several separated by commas. One tls:// makes all of them
 * TLS, since a session may move from one to the other.
 */
#include "backend/nats_servers.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DEFAULT_PORT 4222
#define REFUSED_MIN EV_SEC
#define REFUSED_MAX (10 * EV_SEC)

/* ---- URL --------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Undoes %41 in a user, password or token. NULL: no memory. */
static char *unescape(const char *text, size_t len)
{
    char *out = ev_strndup(text, len);
    size_t n = 0;

    if (!out)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '%' && i + 2 < len && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
            out[n++] = (char)(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        } else {
            out[n++] = text[i];
        }
    }
    out[n] = 0;
    return out;
}

static evbus_status parse_userinfo(struct ev_nats_server *ret, const char *text, size_t len)
{
    const char *colon = memchr(text, ':', len);

    if (len == 0)
        return ev_fail(EVBUS_INVALID, "URL: nothing stands before '@'");
    if (!colon) {
        ret->token = unescape(text, len);
        return ret->token ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "URL");
    }
    ret->user = unescape(text, (size_t)(colon - text));
    ret->password = unescape(colon + 1, len - (size_t)(colon - text) - 1);
    return ret->user && ret->password ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "URL");
}

static evbus_status parse_host(struct ev_nats_server *ret, const char *text, size_t len)
{
    const char *host = text, *port = NULL, *end = text + len;
    size_t host_len;
    uint64_t number = DEFAULT_PORT;
    char url[EV_NATS_TEXT_MAX];
    bool v6 = false;

    if (len > 0 && text[0] == '[') {
        const char *close = memchr(text, ']', len);
        if (!close || (close + 1 < end && close[1] != ':'))
            return ev_fail(EVBUS_INVALID, "URL: '%.*s' is no address in brackets", (int)len, text);
        host = text + 1;
        host_len = (size_t)(close - host);
        port = close + 1 < end ? close + 2 : NULL;
        v6 = true;
    } else {
        const char *colon = memchr(text, ':', len);
        host_len = colon ? (size_t)(colon - text) : len;
        port = colon ? colon + 1 : NULL;
    }
    if (host_len == 0)
        return ev_fail(EVBUS_INVALID, "URL: the host is missing in '%.*s'", (int)len, text);
    for (size_t i = 0; i < host_len; i++) {
        if (strchr("/?#@ \t\r\n", host[i]))
            return ev_fail(EVBUS_INVALID, "URL: host '%.*s' has a byte 0x%02x", (int)host_len, host,
                           (unsigned)(unsigned char)host[i]);
    }
    if (port && (!ev_get_u64(port, (size_t)(end - port), &number) || number == 0 || number > 65535))
        return ev_fail(EVBUS_INVALID, "URL: port '%.*s' is not 1..65535", (int)(end - port), port);
    const int n =
        snprintf(url, sizeof url, v6 ? "nats://[%.*s]:%u" : "nats://%.*s:%u", (int)host_len, host, (unsigned)number);
    if (n < 0 || (size_t)n >= sizeof url)
        return ev_fail(EVBUS_INVALID, "URL: a host is longer than %d bytes", EV_NATS_TEXT_MAX - 16);
    ret->host = ev_strndup(host, host_len);
    ret->url = ev_strdup(url);
    return ret->host && ret->url ? EVBUS_OK : ev_fail(EVBUS_NOMEM, "URL");
}

evbus_status ev_nats_server_parse(struct ev_nats_server *ret, const char *text, size_t len, bool *ret_tls)
{
    const char *end = text + len, *scheme_end = NULL;
    struct ev_nats_server it = {0};
    evbus_status status = EVBUS_OK;

    for (const char *p = text; p + 3 <= end && !scheme_end; p++) {
        if (memcmp(p, "://", 3) == 0)
            scheme_end = p;
    }
    if (scheme_end) {
        const size_t n = (size_t)(scheme_end - text);
        *ret_tls = n == 3 && memcmp(text, "tls", 3) == 0;
        if (!*ret_tls && !(n == 4 && memcmp(text, "nats", 4) == 0))
            return ev_fail(EVBUS_INVALID, "URL: scheme '%.*s' among servers of nats://", (int)n, text);
        text = scheme_end + 3;
    } else {
        *ret_tls = false;
    }
    if (end > text && end[-1] == '/')
        end--;
    const char *at = NULL;
    for (const char *p = text; p < end; p++) { /* the last '@': a password may hold one */
        if (*p == '@')
            at = p;
    }
    if (at) {
        status = parse_userinfo(&it, text, (size_t)(at - text));
        text = at + 1;
    }
    if (status == EVBUS_OK)
        status = parse_host(&it, text, (size_t)(end - text));
    if (status == EVBUS_OK)
        *ret = it;
    else
        ev_nats_server_fini(&it);
    return status;
}

/* ---- Servers ----------------------------------------------------------------------------------------------------- */

void ev_nats_server_fini(struct ev_nats_server *server)
{
    ev_free(server->url);
    ev_free(server->host);
    ev_free(server->user);
    ev_free(server->password);
    ev_free(server->token);
    *server = (struct ev_nats_server){0};
}

bool ev_nats_server_copy(struct ev_nats_server *to, const struct ev_nats_server *from)
{
    *to = (struct ev_nats_server){
        .url = ev_strdup(from->url),
        .host = ev_strdup(from->host),
        .user = ev_strdup(from->user),
        .password = ev_strdup(from->password),
        .token = ev_strdup(from->token),
        .discovered = from->discovered,
        .tls = from->tls,
    };
    if (to->url && to->host && !to->user == !from->user && !to->password == !from->password &&
        !to->token == !from->token)
        return true;
    ev_nats_server_fini(to);
    return false;
}

static bool is_address(const char *host)
{
    unsigned char buf[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

static void add_discovered(struct ev_nats_plan *p, const char *url, const struct ev_nats_server *via)
{
    struct ev_nats_server *to = &p->servers[p->count];
    struct ev_nats_server it;
    bool tls;

    if (p->count == EV_NATS_SERVERS_MAX || ev_nats_server_parse(&it, url, strlen(url), &tls) != EVBUS_OK)
        return;
    for (uint32_t i = 0; i < p->count; i++) {
        if (strcasecmp(p->servers[i].url, it.url) == 0) {
            ev_nats_server_fini(&it);
            return;
        }
    }
    /* It wants the credentials of the one that told us; an address is no name for a certificate, its host is. */
    if (ev_nats_server_copy(to, via)) {
        ev_free(to->url);
        to->url = it.url;
        it.url = NULL;
        if (!is_address(it.host)) {
            ev_free(to->host);
            to->host = it.host;
            it.host = NULL;
        }
        to->discovered = true;
        p->count++;
    }
    ev_nats_server_fini(&it);
}

/* The cluster as the last server sees it replaces what an earlier one told. */
void ev_nats_plan_merge(struct ev_nats_plan *p, char **found, int count, const struct ev_nats_server *via)
{
    struct ev_nats_server from;

    if (count > 0 && ev_nats_server_copy(&from, via)) {
        while (p->count > p->configured)
            ev_nats_server_fini(&p->servers[--p->count]);
        for (int i = 0; i < count; i++)
            add_discovered(p, found[i], &from);
        ev_nats_server_fini(&from);
        p->next %= p->count;
    }
    for (int i = 0; i < count; i++)
        free(found[i]); /* libnats's memory */
    free(found);
}

/* ---- When the next attempt is ------------------------------------------------------------------------------------ */

/* min, then each pause `pct` percent of the one before, up to max. */
static int64_t grown(int64_t min, int64_t max, uint32_t pct, uint32_t rounds)
{
    int64_t pause = min;

    for (uint32_t i = 1; i < rounds && pause < max && pct > 100; i++)
        pause = pause / 100 * pct;
    return pause < max ? pause : max;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Partly by chance: clients of one server must not come back in step. */
static void set_pause(struct ev_nats_plan *p, const struct ev_nats_config *cfg, int64_t now)
{
    const int64_t min = cfg->reconnect_min_ms * EV_MS, max = cfg->reconnect_max_ms * EV_MS;
    int64_t pause;

    if (p->refused) {
        p->refused_rounds++;
        pause = grown(larger(REFUSED_MIN, min), larger(REFUSED_MAX, max), 200, p->refused_rounds);
        pause += (int64_t)(ev_random() % (uint64_t)(pause / 4));
    } else {
        p->rounds++;
        pause = grown(min, max, cfg->reconnect_factor_pct, p->rounds);
        pause -= (int64_t)(ev_random() % (uint64_t)(pause / 100 * cfg->reconnect_jitter_pct + 1));
    }
    p->not_before = now + pause;
    p->tried = 0;
    p->refused = p->begun = false;
}

bool ev_nats_plan_failed(struct ev_nats_plan *p, const struct ev_nats_config *cfg, bool refused)
{
    p->refused |= refused;
    p->next = (p->next + 1) % p->count;
    if (++p->tried < p->count)
        return false;
    set_pause(p, cfg, ev_clock_now(NULL));
    p->attempts++;
    return true;
}

bool ev_nats_plan_spent(const struct ev_nats_plan *p, const struct ev_nats_config *cfg)
{
    return p->limited && cfg->reconnect_attempts_max != EVBUS_FOREVER && p->attempts >= cfg->reconnect_attempts_max;
}

void ev_nats_plan_again(struct ev_nats_plan *p)
{
    p->attempts = p->rounds = p->refused_rounds = p->tried = 0;
    p->not_before = 0;
    p->refused = p->begun = false;
}

bool ev_nats_plan_ended(struct ev_nats_plan *p, const struct ev_nats_config *cfg, enum ev_nats_ending ending,
                        bool was_up)
{
    p->attempts = was_up ? 0 : p->attempts + 1;
    p->limited |= was_up;
    p->tried = 0;
    p->begun = false;
    p->refused = ending == EV_NATS_ENDED_REFUSED;
    if (ending == EV_NATS_ENDED_WELL) {
        p->rounds = p->refused_rounds = 0;
        p->not_before = 0;
    } else {
        set_pause(p, cfg, ev_clock_now(NULL));
    }
    p->last = p->next;
    p->next = (p->next + 1) % p->count; /* the one that just failed us comes last */
    return !was_up;
}

void ev_nats_plan_free(struct ev_nats_plan *p)
{
    if (!p)
        return;
    while (p->count > 0)
        ev_nats_server_fini(&p->servers[--p->count]);
    ev_free(p);
}
