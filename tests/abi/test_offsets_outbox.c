/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout of every public struct and the value of every public constant, so that an ABI change cannot happen
 * unnoticed: it does not compile. Structs may grow at their end, within the rules of struct_size; nothing may move.
 * Written by tools/update-abi.sh; tools/check-abi.sh tells when a struct or field is not covered.
 */
#include <evbus/outbox.h>

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define VALUE(name, value) _Static_assert((name) == (value), #name " has another value")

#if defined(__LP64__)

SIZE(evbus_outbox_db, 16);
AT(evbus_outbox_db, sqlite, 0);
AT(evbus_outbox_db, postgres, 8);

SIZE(evbus_outbox_opts, 24);
AT(evbus_outbox_opts, struct_size, 0);
AT(evbus_outbox_opts, idempotency_key, 8);
AT(evbus_outbox_opts, not_before_ns, 16);

SIZE(evbus_outbox_counts, 104);
AT(evbus_outbox_counts, struct_size, 0);
AT(evbus_outbox_counts, scheduled, 8);
AT(evbus_outbox_counts, pending, 16);
AT(evbus_outbox_counts, published, 24);
AT(evbus_outbox_counts, dead, 32);
AT(evbus_outbox_counts, passed, 40);
AT(evbus_outbox_counts, blocked, 48);
AT(evbus_outbox_counts, blocked_aggregates, 56);
AT(evbus_outbox_counts, leased_aggregates, 64);
AT(evbus_outbox_counts, waiting_aggregates, 72);
AT(evbus_outbox_counts, oldest_pending_ms, 80);
AT(evbus_outbox_counts, inbox, 88);
AT(evbus_outbox_counts, schema_version, 96);

SIZE(evbus_outbox_row, 96);
AT(evbus_outbox_row, id, 0);
AT(evbus_outbox_row, event_id, 8);
AT(evbus_outbox_row, topic, 16);
AT(evbus_outbox_row, aggregate_id, 24);
AT(evbus_outbox_row, event_type, 32);
AT(evbus_outbox_row, event_version, 40);
AT(evbus_outbox_row, tenant_id, 48);
AT(evbus_outbox_row, dead_ns, 56);
AT(evbus_outbox_row, attempts, 64);
AT(evbus_outbox_row, blocks, 72);
AT(evbus_outbox_row, payload, 80);
AT(evbus_outbox_row, error, 88);

SIZE(evbus_outbox_event, 48);
AT(evbus_outbox_event, kind, 0);
AT(evbus_outbox_event, status, 4);
AT(evbus_outbox_event, count, 8);
AT(evbus_outbox_event, event_id, 16);
AT(evbus_outbox_event, topic, 24);
AT(evbus_outbox_event, aggregate_id, 32);
AT(evbus_outbox_event, text, 40);

SIZE(evbus_outbox_relay_opts, 112);
AT(evbus_outbox_relay_opts, struct_size, 0);
AT(evbus_outbox_relay_opts, database, 8);
AT(evbus_outbox_relay_opts, url, 16);
AT(evbus_outbox_relay_opts, bus, 24);
AT(evbus_outbox_relay_opts, on_event, 32);
AT(evbus_outbox_relay_opts, on_event_ctx, 40);
AT(evbus_outbox_relay_opts, log, 48);
AT(evbus_outbox_relay_opts, log_ctx, 56);
AT(evbus_outbox_relay_opts, lease_ms, 64);
AT(evbus_outbox_relay_opts, publish_timeout_ms, 68);
AT(evbus_outbox_relay_opts, aggregates_max, 72);
AT(evbus_outbox_relay_opts, attempts_max, 76);
AT(evbus_outbox_relay_opts, backoff_min_ms, 80);
AT(evbus_outbox_relay_opts, backoff_max_ms, 84);
AT(evbus_outbox_relay_opts, on_dead, 88);
AT(evbus_outbox_relay_opts, poll_ms, 92);
AT(evbus_outbox_relay_opts, mark_ms, 96);
AT(evbus_outbox_relay_opts, keep_ms, 100);
AT(evbus_outbox_relay_opts, inbox_keep_ms, 104);
AT(evbus_outbox_relay_opts, reserved0, 108);

SIZE(evbus_outbox_relay_statistics, 152);
AT(evbus_outbox_relay_statistics, struct_size, 0);
AT(evbus_outbox_relay_statistics, claimed, 8);
AT(evbus_outbox_relay_statistics, taken_over, 16);
AT(evbus_outbox_relay_statistics, sent, 24);
AT(evbus_outbox_relay_statistics, stored, 32);
AT(evbus_outbox_relay_statistics, duplicate, 40);
AT(evbus_outbox_relay_statistics, refused, 48);
AT(evbus_outbox_relay_statistics, unknown, 56);
AT(evbus_outbox_relay_statistics, marked, 64);
AT(evbus_outbox_relay_statistics, dead, 72);
AT(evbus_outbox_relay_statistics, maybe_twice, 80);
AT(evbus_outbox_relay_statistics, leases_lost, 88);
AT(evbus_outbox_relay_statistics, windows_refused, 96);
AT(evbus_outbox_relay_statistics, database_errors, 104);
AT(evbus_outbox_relay_statistics, database_connects, 112);
AT(evbus_outbox_relay_statistics, purged, 120);
AT(evbus_outbox_relay_statistics, held, 128);
AT(evbus_outbox_relay_statistics, inflight, 136);
AT(evbus_outbox_relay_statistics, connected, 144);
#endif

VALUE(EVBUS_OUTBOX_BLOCK, 1);
VALUE(EVBUS_OUTBOX_PASS, 2);
VALUE(EVBUS_OUTBOX_EVENT_DEAD, 1);
VALUE(EVBUS_OUTBOX_EVENT_TAKEN_OVER, 2);
VALUE(EVBUS_OUTBOX_EVENT_MAYBE_TWICE, 3);
VALUE(EVBUS_OUTBOX_EVENT_WINDOW, 4);
VALUE(EVBUS_OUTBOX_EVENT_DATABASE_LOST, 5);
VALUE(EVBUS_OUTBOX_EVENT_DATABASE_BACK, 6);

int main(void)
{
    return 0; /* it compiled */
}
