/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_hub.h"

#include "base/bytes.h"

#include <pthread.h>
#include <string.h>

#define PUMP_MAX 8192u
#define AHEAD 6u
#define ROUNDS 4u /* for others, before the runner goes back to its own work */

/* ---- Registry of named brokers ----------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t mutex; /* open and close only */
    struct ev_mem_hub *first;
} registry = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static struct ev_mem_hub *hub_new(const char *name, const evbus_clock *clock, uint64_t bytes_max)
{
    struct ev_mem_hub *hub = ev_aligned(EV_APART, sizeof *hub);

    if (!hub)
        return NULL;
    (void)ev_copy(hub->name, sizeof hub->name, name);
    hub->clock = clock;
    hub->refs = 1;
    ev_park_init(&hub->answered);
    atomic_init(&hub->due, EV_NEVER);
    ev_mem_broker_init(&hub->broker, bytes_max, ev_clock_now(clock), ev_clock_wall(clock));
    return hub;
}

/* With the mutex held. */
static evbus_status hub_find(const char *name, const evbus_clock *clock, struct ev_mem_hub **ret)
{
    for (struct ev_mem_hub *hub = registry.first; hub; hub = hub->next) {
        if (strcmp(hub->name, name) != 0)
            continue;
        if (hub->clock != clock)
            return ev_fail(EVBUS_INVALID, "mem://%s: it is open on another clock (evbus_opts.clock)", name);
        hub->refs++;
        *ret = hub;
        return EVBUS_OK;
    }
    *ret = NULL;
    return EVBUS_OK;
}

evbus_status ev_mem_hub_get(const char *name, const evbus_clock *clock, uint64_t bytes_max, struct ev_mem_hub **ret)
{
    struct ev_mem_hub *hub = NULL;
    evbus_status st = EVBUS_OK;

    pthread_mutex_lock(&registry.mutex);
    if (*name)
        st = hub_find(name, clock, &hub);
    if (st == EVBUS_OK && !hub) {
        hub = hub_new(name, clock, bytes_max);
        if (!hub)
            st = ev_fail(EVBUS_NOMEM, "mem://%s: out of memory", name);
        else if (*name) {
            hub->next = registry.first;
            registry.first = hub;
        }
    }
    pthread_mutex_unlock(&registry.mutex);
    if (st == EVBUS_OK)
        *ret = hub;
    return st;
}

void ev_mem_hub_put(struct ev_mem_hub *hub)
{
    if (!hub)
        return;
    pthread_mutex_lock(&registry.mutex);
    const bool last = --hub->refs == 0;
    for (struct ev_mem_hub **link = &registry.first; last && *link; link = &(*link)->next) {
        if (*link == hub) {
            *link = hub->next;
            break;
        }
    }
    pthread_mutex_unlock(&registry.mutex);
    if (!last)
        return;
    ev_mem_broker_fini(&hub->broker);
    ev_free(hub);
}

/* ---- Commands ---------------------------------------------------------------------------------------------------- */

static void run_publish(struct ev_mem_broker *broker, struct ev_mem_session *session, const struct ev_mem_item *item,
                        uint16_t epoch)
{
    if (item->number != epoch && (item->flags & EV_MEM_WANT_ACK)) { /* its outcome was told to be unknown */
        ev_mem_unref(item->block, broker->home);
        return;
    }
    const struct ev_mem_publish publish = {
        .block = item->block,
        .id_hash = item->key,
        .id_check = item->count,
        .slot = (uint32_t)(item->other >> 32),
        .generation = (uint32_t)item->other,
        .has_id = item->flags & EV_MEM_HAS_ID,
        .want_ack = item->flags & EV_MEM_WANT_ACK,
    };
    ev_mem_publish(broker, &session->link, &publish);
}

static void bound_remove(struct ev_mem_session *session, struct ev_mem_member *member)
{
    if (member->bound_prev)
        member->bound_prev->bound_next = member->bound_next;
    else
        session->bound = member->bound_next;
    if (member->bound_next)
        member->bound_next->bound_prev = member->bound_prev;
}

static void run_command(struct ev_mem_broker *broker, struct ev_mem_session *session, const struct ev_mem_item *item,
                        uint16_t epoch)
{
    switch (item->kind) {
    case EV_MEM_PUBLISH:
        run_publish(broker, session, item, epoch);
        break;
    case EV_MEM_SETTLE:
        ev_mem_settle(broker, item->object, item->value, (enum ev_settle)item->flags, (int64_t)item->other);
        break;
    case EV_MEM_WANT:
        ev_mem_want(broker, item->object, item->count, item->value);
        break;
    case EV_MEM_ATTACH:
        ev_mem_attach(broker, item->object);
        break;
    case EV_MEM_DETACH:
        ev_mem_detach(broker, item->object);
        ev_mem_say(item->object, EV_MEM_DETACHED);
        break;
    case EV_MEM_ASK:
        ev_mem_ask(broker, item->object);
        break;
    case EV_MEM_LEAVE:
        ev_mem_leave_group(broker, item->object);
        break;
    case EV_MEM_UNBIND:
        bound_remove(session, item->object);
        ev_mem_unbind(broker, item->object);
        if (session->link.closed) /* no result tells the loop to do it */
            ev_free(item->object);
        break;
    case EV_MEM_CLOSE_ROOM:
        for (struct ev_mem_member *member = session->bound; member; member = member->bound_next)
            ev_mem_want(broker, member, member->pushed, member->pushed_bytes);
        break;
    default:
        break;
    }
}

/* Claims what is posted, as far as there is room for answers. Returns how many; *ret_claim: epoch and first index. */
static uint64_t claim(struct ev_mem_session *session, uint64_t *ret_claim)
{
    uint64_t seen = ev_load_acquire(&session->claim);
    uint64_t count;

    do {
        const uint64_t first = seen & EV_MEM_INDEX_MASK;
        count = ev_load_acquire(&session->commands.tail) - first; /* R1 */
        if (count > 0 && !session->link.closed)
            count = ev_mem_link_room(&session->link, 0, count);
        if (count == 0)
            return 0;
    } while (!ev_cas_acqrel(&session->claim, &seen, seen + count)); /* T1 */
    *ret_claim = seen;
    return count;
}

/* A look-up in a large duplicate window misses the cache: it is announced a few commands before. */
static void prefetch_id(const struct ev_mem_broker *broker, const struct ev_mem_item *item)
{
    if (item->kind == EV_MEM_PUBLISH && (item->flags & EV_MEM_HAS_ID) && broker->windows)
        ev_mem_window_prefetch(broker->windows, item->key);
}

static void run_commands(struct ev_mem_broker *broker, struct ev_mem_session *session)
{
    struct ev_mem_ring *ring = &session->commands;
    uint64_t claimed = 0;
    const uint64_t count = claim(session, &claimed);
    const uint16_t epoch = (uint16_t)(claimed >> EV_MEM_EPOCH_SHIFT);
    const uint64_t first = claimed & EV_MEM_INDEX_MASK;

    for (uint64_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            prefetch_id(broker, &ring->items[(first + i + AHEAD) & ring->mask]);
        run_command(broker, session, &ring->items[(first + i) & ring->mask], epoch);
    }
    if (count > 0)
        ev_store_release(&ring->head, first + count); /* R2 */
}

/* ---- Requests ---------------------------------------------------------------------------------------------------- */

static void run_requests(struct ev_mem_hub *hub)
{
    struct ev_mem_request *request, *first = NULL;

    if (ev_load_relaxed(&hub->requests) == NULL) /* hint: who pushes takes the baton after */
        return;
    request = ev_swap_acqrel(&hub->requests, NULL); /* T2 */
    while (request) {                               /* the stack has the last one first */
        struct ev_mem_request *next = request->next;
        request->next = first;
        first = request;
        request = next;
    }
    while (first) {
        struct ev_mem_request *next = first->next;
        first->run(hub, first);
        if (first->status != EVBUS_OK)
            (void)ev_copy(first->text, sizeof first->text, ev_detail());
        ev_store_seqcst(&first->done, 1); /* T3; the request may be gone from here on */
        first = next;
    }
    ev_park_wake(&hub->answered, UINT32_MAX);
}

void ev_mem_join(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    ev_mem_link_join(&hub->broker, &request->session->link);
}

void ev_mem_leave(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    struct ev_mem_session *session = request->session;

    session->link.closed = true; /* no room is needed now */
    run_commands(&hub->broker, session);
    while (session->bound) {
        struct ev_mem_member *member = session->bound;
        bound_remove(session, member);
        ev_mem_unbind(&hub->broker, member);
        ev_free(member);
    }
    ev_mem_link_leave(&hub->broker, &session->link);
    for (struct ev_mem_link *link = hub->broker.links.next; link != &hub->broker.links; link = link->next)
        ev_mem_session_poke((struct ev_mem_session *)(void *)link); /* somebody must look at the due times */
}

/* ---- The run ----------------------------------------------------------------------------------------------------- */

void ev_mem_session_poke(struct ev_mem_session *session)
{
    if (ev_swap_seqcst(&session->poke, 1) == 0) /* T4; for park.h's order */
        ev_park_wake(&session->park, 1);
}

static void tell_sessions(struct ev_mem_broker *broker, const struct ev_mem_link *own)
{
    for (struct ev_mem_link *link = broker->links.next; link != &broker->links; link = link->next) {
        const uint64_t tail = ev_load_relaxed(&link->results.tail); /* own field: with the baton */
        if (tail == link->told)
            continue;
        link->told = tail;
        if (link != own)
            ev_mem_session_poke((struct ev_mem_session *)(void *)link);
    }
}

static void run_once(struct ev_mem_hub *hub, struct ev_mem_session *self, int64_t now)
{
    struct ev_mem_broker *broker = &hub->broker;

    broker->home = self ? self->pool : NULL;
    ev_mem_broker_advance(broker, now, ev_clock_wall(hub->clock));
    run_requests(hub);
    for (struct ev_mem_link *link = broker->links.next; link != &broker->links; link = link->next) {
        ev_mem_link_drained(broker, link);
        run_commands(broker, (struct ev_mem_session *)(void *)link);
    }
    const bool more = ev_mem_pump(broker, PUMP_MAX);
    const int64_t due = more ? broker->now : ev_mem_broker_due(broker);
    const bool earlier = due < ev_load_relaxed(&hub->due); /* own field: with the baton */
    ev_store_release(&hub->due, due);
    tell_sessions(broker, self ? &self->link : NULL);
    if (!self && earlier && broker->links.next != &broker->links) /* no loop has seen it yet */
        ev_mem_session_poke((struct ev_mem_session *)(void *)broker->links.next);
}

/* Others have kept this thread long enough: they are told to try for the baton themselves. */
static void hand_over(struct ev_mem_hub *hub)
{
    ev_store_seqcst(&hub->resting, 1); /* T5 */
    for (struct ev_mem_link *link = hub->broker.links.next; link != &hub->broker.links; link = link->next)
        ev_mem_session_poke((struct ev_mem_session *)(void *)link);
    ev_swap_acqrel(&hub->baton.state, EV_BATON_FREE); /* what pass does, without going round */
    ev_park_wake(&hub->answered, UINT32_MAX);
}

bool ev_mem_hub_run(struct ev_mem_hub *hub, struct ev_mem_session *self, int64_t now)
{
    if (!ev_baton_take(&hub->baton))
        return ev_load_acquire(&hub->resting) == 0; /* T5 */
    if (ev_load_relaxed(&hub->resting))             /* own field: with the baton */
        ev_store_release(&hub->resting, 0);
    for (uint32_t rounds = 0; rounds < ROUNDS; rounds++) {
        run_once(hub, self, now);
        if (!ev_baton_pass(&hub->baton))
            return true;
    }
    hand_over(hub);
    return true;
}

evbus_status ev_mem_hub_call(struct ev_mem_hub *hub, struct ev_mem_request *request)
{
    struct ev_mem_request *seen = ev_load_relaxed(&hub->requests); /* checked by the exchange */

    request->status = EVBUS_OK;
    atomic_init(&request->done, 0);
    do
        request->next = seen;
    while (!ev_cas_acqrel(&hub->requests, &seen, request)); /* T2 */
    for (;;) {
        (void)ev_mem_hub_run(hub, NULL, ev_clock_now(hub->clock));
        const uint32_t ticket = ev_park_prepare(&hub->answered);
        const bool done = ev_load_seqcst(&request->done); /* T3 */
        if (done || ev_load_seqcst(&hub->resting)) {      /* T5 */
            ev_park_cancel(&hub->answered);
            if (done)
                break;
            continue;
        }
        (void)ev_park_wait(&hub->answered, ticket, NULL, EV_NEVER);
    }
    return request->status == EVBUS_OK ? EVBUS_OK : ev_fail(request->status, "%s", request->text);
}
