/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd_outbox.h"

#include "json_out.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define STOP_MS 10000u

/* On the relay's thread, which is the only one that prints meanwhile. */
static void on_event(const evbus_outbox_event *event, void *ctx)
{
    static const char *const kinds[] = {"",       "dead",          "taken_over",   "maybe_twice",
                                        "window", "database_lost", "database_back"};
    const struct outbox_options *o = ctx;
    struct json j = {0};

    complain(o->c.command, "%s", event->text);
    if (!o->c.json)
        return;
    json_open(&j, NULL, '{');
    json_string(&j, "event", kinds[event->kind]);
    json_string(&j, "status", evbus_status_name(event->status));
    json_string(&j, "event_id", event->event_id);
    json_string(&j, "topic", event->topic);
    json_string(&j, "aggregate_id", event->aggregate_id);
    json_string(&j, "text", event->text);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

static void print_summary(const struct outbox_options *o, const evbus_outbox_relay_statistics *s)
{
    struct json j = {0};

    if (!o->c.json) {
        (void)printf(
            "%" PRIu64 " stored (%" PRIu64 " known already), %" PRIu64 " refused, %" PRIu64 " unknown, %" PRIu64
            " dead, %" PRIu64 " perhaps twice; %" PRIu64 " aggregates, %" PRIu64 " taken over\n",
            s->stored, s->duplicate, s->refused, s->unknown, s->dead, s->maybe_twice, s->claimed, s->taken_over);
        return;
    }
    json_open(&j, NULL, '{');
    json_uint(&j, "sent", s->sent);
    json_uint(&j, "stored", s->stored);
    json_uint(&j, "duplicate", s->duplicate);
    json_uint(&j, "refused", s->refused);
    json_uint(&j, "unknown", s->unknown);
    json_uint(&j, "dead", s->dead);
    json_uint(&j, "maybe_twice", s->maybe_twice);
    json_uint(&j, "claimed", s->claimed);
    json_uint(&j, "taken_over", s->taken_over);
    json_uint(&j, "database_errors", s->database_errors);
    json_uint(&j, "purged", s->purged);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

static int finish(const struct outbox_options *o, evbus_outbox_relay *relay)
{
    evbus_outbox_relay_statistics s;

    const evbus_status st = evbus_outbox_relay_stop(relay, STOP_MS, &s);
    print_summary(o, &s);
    return st == EVBUS_OK ? CLI_OK : outbox_fail(o->c.command, st, "the end");
}

int outbox_relay(const struct outbox_options *o)
{
    evbus_outbox_relay *relay = NULL;
    evbus_opts bus;
    const char *database = outbox_database(o);

    if (!database)
        return CLI_USAGE;
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    connection_fill(&o->c, &bus);
    const evbus_outbox_relay_opts opts = {
        .struct_size = sizeof opts,
        .database = database,
        .url = connection_url(&o->c),
        .bus = &bus,
        .on_event = on_event,
        .on_event_ctx = (void *)o,
        .lease_ms = o->lease_ms,
        .aggregates_max = (uint32_t)o->aggregates,
        .attempts_max = (uint32_t)o->attempts,
        .on_dead = o->pass ? EVBUS_OUTBOX_PASS : EVBUS_OUTBOX_BLOCK,
    };
    stop_mask(true);
    const evbus_status st = evbus_outbox_relay_start(&opts, &relay);
    stop_mask(false);
    if (st != EVBUS_OK)
        return outbox_fail(o->c.command, st, "cannot start the relay");
    int result = tell_ready(&o->c, o->ready_file);
    while (result == CLI_OK && !stop_wait(60000))
        ;
    const int ended = finish(o, relay);
    return result == CLI_OK ? ended : result;
}
