/* SPDX-License-Identifier: Apache-2.0 */
/* Option structs: reading them safely across versions, the bus's rules and defaults. */
#include "core/bus.h"
#include "core/names.h"

#include <string.h>

#define INIT(name)                                                                                                     \
    void name##_init(name *opts)                                                                                       \
    {                                                                                                                  \
        if (opts)                                                                                                      \
            *opts = (name){.struct_size = sizeof *opts};                                                               \
    }

INIT(evbus_opts)
INIT(evbus_pub_opts)
INIT(evbus_sub_opts)
INIT(evbus_topic_opts)
INIT(evbus_receipt)
INIT(evbus_tenant_opts)
INIT(evbus_tenant)
INIT(evbus_letter_opts)
INIT(evbus_connection)
INIT(evbus_lag_opts)
INIT(evbus_backlog_opts)
INIT(evbus_health_publisher_opts)
INIT(evbus_health_subscriber_opts)

evbus_status ev_opts_read(void *out, size_t size, const void *opts, const char *what)
{
    size_t given = 0;

    memset(out, 0, size);
    if (!opts)
        return EVBUS_OK;
    memcpy(&given, opts, sizeof given);
    if (given < sizeof given || given > 65536)
        return ev_fail(EVBUS_INVALID, "%s.struct_size: %zu; use EVBUS_OPTS or %s_init", what, given, what);
    for (size_t i = size; i < given; i++)
        if (((const unsigned char *)opts)[i] != 0)
            return ev_fail(EVBUS_UNSUPPORTED,
                           "%s: byte %zu is set, but this library (%s) knows %zu bytes: it is older "
                           "than the header",
                           what, i, EVBUS_VERSION, size);
    memcpy(out, opts, given < size ? given : size);
    return EVBUS_OK;
}

static evbus_status range(const char *field, uint64_t value, uint64_t min, uint64_t max)
{
    if (value >= min && value <= max)
        return EVBUS_OK;
    return ev_fail(EVBUS_INVALID, "evbus_opts.%s: %llu is outside %llu..%llu", field, (unsigned long long)value,
                   (unsigned long long)min, (unsigned long long)max);
}

static void fill_defaults(evbus_opts *o)
{
#define FILL(field, value) o->field = o->field ? o->field : (value)
    FILL(connect_timeout_ms, 5000);
    FILL(reconnect_min_ms, 20);
    FILL(reconnect_max_ms, o->reconnect_min_ms > 1000 ? o->reconnect_min_ms : 1000);
    FILL(heartbeat_ms, 2000);
    FILL(publish_timeout_ms, 5000);
    FILL(publish_inflight_max, 4096);
    FILL(publish_bytes_max, UINT64_C(4) << 20);
    FILL(workers_min, 2 * ev_thread_cores());
    FILL(workers_max, o->workers_min > 512 ? o->workers_min : 512);
    FILL(worker_idle_ms, 10000);
    FILL(held_max, 65536);
    FILL(held_bytes_max, UINT64_C(256) << 20);
    FILL(topics_max, 65536);
    FILL(lookup_retry_ms, 1000);
    FILL(log_level, EVBUS_LOG_INFO);
    FILL(receipts, EVBUS_OFF);
    FILL(receipts_max, 8192);
    FILL(tenants_max, 1024);
    FILL(member_ttl_ms, 10000);
    FILL(reconnect_attempts_max, EVBUS_FOREVER);
    FILL(reconnect_factor_pct, 200);
    FILL(reconnect_jitter_pct, 50);
    FILL(reconnect_failures_max, 3);
#undef FILL
}

static evbus_status check_receipts(evbus_opts *o)
{
    evbus_status st;

    if ((st = range("receipts", o->receipts, EVBUS_ON, EVBUS_OFF)) != EVBUS_OK ||
        (st = range("receipts_max", o->receipts_max, EV_RECEIPTS_MIN, EV_RECEIPTS_MAX)) != EVBUS_OK ||
        (st = range("tenants_max", o->tenants_max, 1, 65536)) != EVBUS_OK)
        return st;
    if (!o->on_receipt)
        return o->ack_workers ? ev_fail(EVBUS_INVALID, "evbus_opts.ack_workers: on_receipt is not set") : EVBUS_OK;
    o->ack_workers = o->ack_workers ? o->ack_workers : 2;
    return range("ack_workers", o->ack_workers, 1, 64);
}

static evbus_status check_reconnect(const evbus_opts *o)
{
    evbus_status st;

    if ((st = range("reconnect_max_ms", o->reconnect_max_ms, 1, 3600000)) != EVBUS_OK ||
        (st = range("reconnect_min_ms", o->reconnect_min_ms, 1, o->reconnect_max_ms)) != EVBUS_OK ||
        (st = range("reconnect_factor_pct", o->reconnect_factor_pct, 100, 10000)) != EVBUS_OK ||
        (st = range("reconnect_failures_max", o->reconnect_failures_max, 1, 1000000)) != EVBUS_OK)
        return st;
    if (o->reconnect_attempts_max != EVBUS_FOREVER &&
        (st = range("reconnect_attempts_max", o->reconnect_attempts_max, 1, 1000000)) != EVBUS_OK)
        return st;
    return o->reconnect_jitter_pct == EVBUS_NOWAIT ? EVBUS_OK
                                                   : range("reconnect_jitter_pct", o->reconnect_jitter_pct, 1, 100);
}

static evbus_status check(const evbus_opts *o)
{
    evbus_status st;

    if ((st = range("publish_inflight_max", o->publish_inflight_max, 16, 65536)) != EVBUS_OK ||
        (st = range("publish_bytes_max", o->publish_bytes_max, 65536, UINT64_C(1) << 32)) != EVBUS_OK ||
        (st = range("workers_max", o->workers_max, 1, 4096)) != EVBUS_OK ||
        (st = range("workers_min", o->workers_min, 1, o->workers_max)) != EVBUS_OK ||
        (st = range("held_max", o->held_max, 16, 1u << 20)) != EVBUS_OK ||
        (st = range("topics_max", o->topics_max, 1, 1u << 24)) != EVBUS_OK ||
        (st = range("member_ttl_ms", o->member_ttl_ms, 1000, 600000)) != EVBUS_OK ||
        (st = range("heartbeat_ms", o->heartbeat_ms, 100, 3600000)) != EVBUS_OK ||
        (st = check_reconnect(o)) != EVBUS_OK ||
        (st = range("log_level", o->log_level, EVBUS_LOG_ERROR, EVBUS_LOG_DEBUG)) != EVBUS_OK)
        return st;
    if (!o->stream != !o->stream_subjects)
        return ev_fail(EVBUS_INVALID, "evbus_opts.stream and stream_subjects: one is set without the other");
    if (o->stream && (st = ev_name_check("evbus_opts.stream", o->stream)) != EVBUS_OK)
        return st;
    if (o->stream_subjects && strlen(o->stream_subjects) >= 2048)
        return ev_fail(EVBUS_INVALID, "evbus_opts.stream_subjects: longer than 2047 bytes");
    if (o->publish_timeout_ms == EVBUS_NOWAIT)
        return ev_fail(EVBUS_INVALID,
                       "evbus_opts.publish_timeout_ms: an outcome needs time; EVBUS_NOWAIT is for one call");
    return o->name ? ev_name_check("evbus_opts.name", o->name) : EVBUS_OK;
}

/* The strings of the struct, by address. */
static const char **string_at(evbus_opts *o, uint32_t i)
{
    const char **all[] = {&o->name,       &o->user,          &o->password,      &o->token,        &o->nkey_seed_file,
                          &o->creds_file, &o->tls_ca_file,   &o->tls_cert_file, &o->tls_key_file, &o->tls_hostname,
                          &o->js_domain,  &o->js_api_prefix, &o->inbox_prefix,  &o->stream,       &o->stream_subjects};

    return i < sizeof all / sizeof all[0] ? all[i] : NULL;
}

static void wipe(const char *secret)
{
    volatile char *p = (volatile char *)(uintptr_t)secret; /* volatile: the stores must not be optimised away */

    while (p && *p)
        *p++ = 0;
}

void ev_config_fini(struct ev_config *cfg)
{
    wipe(cfg->o.password);
    wipe(cfg->o.token);
    for (uint32_t i = 0; string_at(&cfg->o, i); i++) {
        ev_free((void *)*string_at(&cfg->o, i));
        *string_at(&cfg->o, i) = NULL;
    }
}

evbus_status ev_config_init(struct ev_config *cfg, const evbus_opts *opts)
{
    evbus_opts o;
    evbus_status st = ev_opts_read(&o, sizeof o, opts, "evbus_opts");

    if (st != EVBUS_OK)
        return st;
    fill_defaults(&o);
    if ((st = check(&o)) != EVBUS_OK || (st = check_receipts(&o)) != EVBUS_OK)
        return st;
    cfg->o = o;
    cfg->named = o.name != NULL;
    if (!cfg->o.name)
        cfg->o.name = "evbus";
    bool whole = true;
    for (uint32_t i = 0; string_at(&cfg->o, i); i++) {
        const char **s = string_at(&cfg->o, i);
        const bool given = *s != NULL;
        *s = ev_strdup(*s);
        whole = whole && (!given || *s);
    }
    if (whole)
        return EVBUS_OK;
    ev_config_fini(cfg);
    return ev_fail(EVBUS_NOMEM, "out of memory for the options");
}
