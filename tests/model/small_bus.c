/* SPDX-License-Identifier: Apache-2.0 */
#include "small_bus.h"

#include <string.h>

struct evbus small_bus;
struct small_backend small_backend;

static const char stream_name[] = "S";

/* ---- The backend ------------------------------------------------------------------------------------------------- */

static void shut(void *state)
{
    ((struct small_backend *)state)->shut = true;
}

static bool turn(void *state, int64_t now)
{
    struct small_backend *b = state;
    const uint32_t n = b->asked_count;
    const struct ev_ack ack = {
        .outcome = EVBUS_OUTCOME_STORED, .sequence = b->sent, .stream = stream_name, .stream_len = 1};

    b->asked_count = 0;
    for (uint32_t i = 0; i < n; i++)
        ev_outbound_answer(&small_bus, b->asked[i].slot, b->asked[i].generation, &ack, now);
    if (b->ends_after != 0 && b->sent >= b->ends_after)
        small_bus.ended = true;
    return n > 0;
}

static int64_t due(void *state)
{
    (void)state;
    return EV_NEVER;
}

/* As mem://; the deadline never comes, so a wake that is lost is a sleep for ever. But where time passes, a near one. */
static void wait(void *state, int64_t deadline)
{
    struct small_backend *b = state;

    const int64_t nap_ns = deadline - ev_now(&small_bus);

    if (b->time_passes && nap_ns < EV_SEC) {
        evbus_clock_advance((evbus_clock *)small_bus.clock, (uint64_t)(nap_ns + EV_MS - 1) / EV_MS);
        return;
    }
    const uint32_t ticket = ev_park_prepare(&b->park);

    if (ev_load_seqcst(&b->poke))
        ev_park_cancel(&b->park);
    else
        (void)ev_park_wait(&b->park, ticket, NULL, EV_NEVER);
    ev_swap_acqrel(&b->poke, 0);
}

static void wake(void *state)
{
    struct small_backend *b = state;

    if (ev_swap_seqcst(&b->poke, 1) == 0)
        ev_park_wake(&b->park, 1);
}

static enum ev_sent send(void *state, const struct ev_record *record, evbus_status *ret_status)
{
    struct small_backend *b = state;

    (void)ret_status;
    if (record->want_ack) {
        if (b->asked_count == SMALL_BUS_ASKED)
            return EV_SEND_LATER;
        b->asked[b->asked_count].slot = record->slot;
        b->asked[b->asked_count++].generation = record->generation;
    }
    b->sent++;
    return EV_SENT;
}

static uint64_t sent_mark(void *state)
{
    (void)state;
    return 0;
}

static bool unsent_after(void *state, uint64_t mark)
{
    (void)state, (void)mark;
    return false;
}

static uint64_t max_payload(void *state)
{
    (void)state;
    return 1024;
}

static void attach(void *state, void *binding)
{
    (void)state, (void)binding;
}

static void detach(void *state, void *binding)
{
    (void)state;
    ev_dispatch_quiet(&small_bus, binding, ev_now(&small_bus));
}

static void want(void *state, void *binding, struct ev_room room)
{
    (void)state, (void)binding, (void)room;
}

static bool settle(void *state, void *binding, void *token, enum ev_settle verb, int64_t delay_ns)
{
    struct small_token *t = token;

    (void)state, (void)binding, (void)delay_ns;
    MODEL_CHECK(t->released == 0);
    t->acked += verb == EV_SETTLE_ACK;
    t->handed_back += verb == EV_SETTLE_NAK;
    t->terminated += verb == EV_SETTLE_TERM;
    return true;
}

static void release(void *state, void *token)
{
    (void)state;
    MODEL_CHECK(((struct small_token *)token)->released++ == 0);
}

static size_t headers(void *state, void *token, char *buf, size_t cap)
{
    (void)state, (void)token, (void)buf, (void)cap;
    return 0;
}

static const struct ev_backend_ops backend_ops = {
    .scheme = "small",
    .shut = shut,
    .turn = turn,
    .due = due,
    .wait = wait,
    .wake = wake,
    .send = send,
    .sent_mark = sent_mark,
    .unsent_after = unsent_after,
    .max_payload = max_payload,
    .attach = attach,
    .detach = detach,
    .want = want,
    .settle = settle,
    .release = release,
    .headers = headers,
};

/* ---- The bus ----------------------------------------------------------------------------------------------------- */

void small_bus_reset(uint32_t publishes)
{
    evbus *bus = &small_bus;

    ev_epoch_forget_records();
    ev_random_seed(1);
    memset(bus, 0, sizeof *bus);
    memset(&small_backend, 0, sizeof small_backend);
    ev_park_init(&small_backend.park);
    bus->ops = &backend_ops;
    bus->state = &small_backend;
    bus->clock = evbus_clock_new(EV_SEC);
    bus->fork_generation = ev_fork_generation();
    bus->cfg.o = (evbus_opts){.publish_inflight_max = publishes,
                              .publish_bytes_max = 4096,
                              .publish_timeout_ms = EVBUS_FOREVER,
                              .topics_max = 16,
                              .held_max = 4,
                              .held_bytes_max = 4096,
                              .workers_max = 1};
    bus->halt_at = EV_NEVER;
    ev_store_relaxed(&bus->link, EV_LINK_UP);
    ev_store_relaxed(&bus->refs, 1);
    ev_park_init(&bus->changed);
    ev_park_init(&bus->keeper.park);
    pthread_mutex_init(&bus->flights, NULL);
    ev_flight_init(&bus->closing, &bus->flights);
    ev_crew_init(&bus->crew.crew);
    (void)ev_tenants_init(bus);
    if (ev_topics_init(bus) != EVBUS_OK || ev_slots_init(bus) != EVBUS_OK || ev_dispatch_init(bus) != EVBUS_OK ||
        ev_ring_init(&bus->crew.ring, 4) != EVBUS_OK)
        model_fail("the model has too little memory");
}

void small_bus_fini(void)
{
    evbus *bus = &small_bus;

    ev_dispatch_fini(bus);
    ev_ring_fini(&bus->crew.ring);
    ev_slots_fini(bus);
    ev_tenants_fini(bus);
    ev_limbo_fini(&bus->limbo);
    ev_topics_fini(bus);
    pthread_mutex_destroy(&bus->flights);
    evbus_clock_free((evbus_clock *)bus->clock);
}

void small_bus_forget(void)
{
    ev_epoch_forget_records();
}

struct ev_topic *small_topic(const char *name, bool stored)
{
    struct ev_topic *topic = NULL;
    evbus_topic_opts *cfg = ev_malloc(sizeof *cfg);

    if (ev_topic_get(&small_bus, name, true, &topic) != EVBUS_OK || cfg == NULL) {
        model_fail("the model has no topic");
        return NULL;
    }
    *cfg = *ev_load_relaxed(&topic->cfg);
    cfg->persistence = stored ? EVBUS_PERSISTENT : EVBUS_EPHEMERAL;
    ev_store_relaxed(&topic->cfg, cfg);
    ev_store_relaxed(&topic->stream, stream_name);
    ev_store_relaxed(&topic->stream_state, EV_STREAM_THERE);
    return topic;
}

void small_loop(void)
{
    (void)ev_loop_main(&small_bus);
}

void small_deliver(struct evbus_sub *sub, uint64_t seq, struct small_token *token, const char *data)
{
    const struct ev_delivery delivery = {.sub = sub,
                                         .topic = sub->topic->name,
                                         .data = data,
                                         .len = strlen(data),
                                         .stream_seq = seq,
                                         .delivery_count = 1,
                                         .token = token};

    *token = (struct small_token){0};
    MODEL_CHECK(ev_dispatch_deliver(&small_bus, &delivery, ev_now(&small_bus)));
}
