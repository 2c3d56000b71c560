/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include "stop.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define URL_DEFAULT "nats://127.0.0.1:4222"

/* ---- Complaining ------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void say(const char *command, const char *format, va_list args)
{
    (void)fprintf(stderr, "evbus%s%s: ", *command ? " " : "", command);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
}

void complain(const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(command, format, args);
    va_end(args);
}

int usage_error(const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(command, format, args);
    va_end(args);
    (void)fprintf(stderr, "see: evbus help%s%s\n", *command ? " " : "", command);
    return CLI_USAGE;
}

int exit_of(evbus_status status)
{
    switch (status) {
    case EVBUS_OK:
        return CLI_OK;
    case EVBUS_INVALID:
    case EVBUS_UNSUPPORTED:
        return CLI_USAGE;
    case EVBUS_DISCONNECTED:
    case EVBUS_TLS:
        return CLI_CONNECT;
    case EVBUS_AUTH:
    case EVBUS_DENIED:
    case EVBUS_NO_JETSTREAM:
    case EVBUS_REFUSED:
    case EVBUS_MISMATCH:
    case EVBUS_TOO_LARGE:
    case EVBUS_LIMIT:
    case EVBUS_NOT_REGISTERED:
        return CLI_REFUSED;
    case EVBUS_TIMEOUT:
    case EVBUS_UNKNOWN:
    case EVBUS_BACKPRESSURE:
        return CLI_TIMEOUT;
    default:
        return CLI_FAILED;
    }
}

int fail(const char *command, evbus_status status, const char *what, ...)
{
    char text[512];
    const char *detail = evbus_error_detail();
    va_list args;

    va_start(args, what);
    (void)vsnprintf(text, sizeof text, what, args);
    va_end(args);
    if (exit_of(status) == CLI_USAGE) /* the sentence names what is wrong; the status would only say that it is */
        return usage_error(command, "%s: %s", text, *detail ? detail : evbus_strerror(status));
    complain(command, "%s: %s%s%s%s", text, evbus_strerror(status), *detail ? " (" : "", detail, *detail ? ")" : "");
    return exit_of(status);
}

void output_failed(const char *command, int error)
{
    static bool told;

    if (!told)
        complain(command, "cannot write to standard output: %s", strerror(error));
    told = true;
}

bool output_finish(const char *command)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    output_failed(command, errno);
    return false;
}

int tell_ready(const struct common *c, const char *name)
{
    if (c->verbose)
        complain(c->command, "ready");
    if (!name)
        return CLI_OK;
    FILE *file = fopen(name, "we");
    const bool written = file && fprintf(file, "%ld\n", (long)getpid()) > 0;
    if (!file || fclose(file) != 0 || !written) {
        complain(c->command, "--ready-file: cannot write %s: %s", name, strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* ---- Connecting -------------------------------------------------------------------------------------------------- */

static void log_line(evbus_log_level level, const char *subject, const char *text, void *ctx)
{
    static const char *const names[] = {"", "error", "warning", "info", "debug"};
    const struct common *c = ctx;

    (void)fprintf(stderr, "evbus %s: %s: %s: %s\n", c->command, level <= EVBUS_LOG_DEBUG ? names[level] : "", subject,
                  text);
}

const char *connection_url(const struct common *c)
{
    const char *url = c->url ? c->url : getenv("EVBUS_URL");

    return url && *url ? url : URL_DEFAULT;
}

void connection_fill(const struct common *c, evbus_opts *o)
{
    evbus_opts_init(o);
    o->name = c->name ? c->name : "evbus-cli";
    o->user = c->user;
    o->password = c->password ? c->password : c->user ? getenv("EVBUS_PASSWORD") : NULL;
    o->token = c->token;
    o->nkey_seed_file = c->nkey;
    o->creds_file = c->creds;
    o->tls_ca_file = c->tls_ca;
    o->tls_cert_file = c->tls_cert;
    o->tls_key_file = c->tls_key;
    o->connect_timeout_ms = c->connect_timeout_ms;
    o->log_level = c->verbose > 1 ? EVBUS_LOG_DEBUG : c->verbose ? EVBUS_LOG_INFO : EVBUS_LOG_WARN;
    o->log = c->verbose ? log_line : NULL;
    o->log_ctx = (void *)c;
}

/* The URL for people: what stands before an '@' is a secret. */
static void redact(const char *url, char *out, size_t cap)
{
    const char *at = strstr(url, "://");
    size_t n = 0;

    at = at ? at + 3 : url;
    n = (size_t)snprintf(out, cap, "%.*s", (int)(at - url), url);
    while (*at && n < cap - 1) {
        const size_t host = strcspn(at, ",");
        const char *secret = memchr(at, '@', host);
        const char *from = secret ? secret + 1 : at;
        n += (size_t)snprintf(out + n, cap - n, "%.*s%s", (int)(at + host - from), from, at[host] ? "," : "");
        at += host + (at[host] != 0);
    }
}

int connection_open(const struct common *c, const evbus_opts *o, evbus **ret_bus)
{
    const char *url = connection_url(c);
    char shown[300];

    stop_mask(true);
    const evbus_status st = evbus_open(url, o, ret_bus);
    stop_mask(false);

    if (st == EVBUS_OK)
        return CLI_OK;
    redact(url, shown, sizeof shown);
    return fail(c->command, st, "cannot open %s", shown);
}
