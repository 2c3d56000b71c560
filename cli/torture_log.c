/* SPDX-License-Identifier: Apache-2.0 */
/* The log is the tests' own (tests/support/truth.h), in memory; beside it, what became of each message. */
#include "torture.h"

#include <stdlib.h>

#define ENTRIES_PER_EVENT 8u
#define ENTRIES_SPARE 200000u

/* Pages that are never touched cost nothing. */
bool torture_log_open(struct torture *t)
{
    const uint32_t events = t->seconds * TORTURE_RATE;

    if (!truth_open(&t->log, NULL, 0, events * ENTRIES_PER_EVENT + ENTRIES_SPARE))
        return false;
    t->log.payload = "{\"torture\":true}";
    t->versions_max = events / 2 + 1000;
    t->fate = calloc((size_t)(TORTURE_AGGREGATES + 1) * t->versions_max, sizeof *t->fate);
    return t->fate != NULL;
}

void torture_log_close(struct torture *t)
{
    truth_close(&t->log);
    free((void *)t->fate);
    t->fate = NULL;
}

_Atomic(uint8_t) *torture_fate(struct torture *t, uint32_t aggregate, uint32_t version)
{
    const bool known = aggregate <= TORTURE_AGGREGATES && version < t->versions_max;

    return known ? &t->fate[(size_t)aggregate * t->versions_max + version] : NULL;
}

/* The desk does not change while one of its publishes has no outcome. */
void torture_log_error(const evbus_receipt *receipt, void *torture)
{
    truth_publish_error(receipt, &((struct torture *)torture)->desk.truth);
}

void torture_log_receipt(const evbus_receipt *receipt, void *torture)
{
    truth_receipt(receipt, &((struct torture *)torture)->desk.truth);
}

void torture_log_verdict(struct torture_member *m, const evbus_msg *msg, evbus_verdict verdict)
{
    const uint32_t version = (uint32_t)evbus_msg_envelope(msg)->event_version;
    _Atomic(uint8_t) *fate = torture_fate(m->t, truth_aggregate(msg), version);
    const bool doomed =
        verdict == EVBUS_REJECT || (verdict == EVBUS_RETRY && evbus_msg_attempt(msg) >= TORTURE_ATTEMPTS);

    truth_verdict(&m->truth, m->number, msg, verdict);
    if (fate && (verdict == EVBUS_ACK || doomed) &&
        atomic_exchange(fate, (uint8_t)(doomed ? TORTURE_DOOMED : TORTURE_ACKED)) == TORTURE_OPEN)
        atomic_fetch_add(&m->t->finished, 1);
}
