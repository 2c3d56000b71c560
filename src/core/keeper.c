/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

static struct ev_chore **place_of(struct ev_keeper *k, const struct ev_chore *chore)
{
    struct ev_chore **link = &k->chores;

    while (*link && *link != chore)
        link = &(*link)->next;
    return link;
}

void ev_keeper_post(evbus *bus, struct ev_chore *chore, int64_t at)
{
    struct ev_keeper *k = &bus->keeper;

    pthread_mutex_lock(&bus->mutex);
    if (chore->queued) {
        struct ev_chore **link = place_of(k, chore);
        at = chore->at < at ? chore->at : at;
        *link = chore->next;
    }
    chore->queued = true;
    chore->at = at;
    struct ev_chore **link = &k->chores;
    while (*link && (*link)->at <= at)
        link = &(*link)->next;
    chore->next = *link;
    *link = chore;
    pthread_mutex_unlock(&bus->mutex);
    ev_add_seqcst(&k->posted, 1);
    ev_park_wake(&k->park, 1);
}

bool ev_keeper_cancel(evbus *bus, struct ev_chore *chore)
{
    pthread_mutex_lock(&bus->mutex);
    const bool queued = chore->queued;
    if (queued) {
        *place_of(&bus->keeper, chore) = chore->next;
        chore->queued = false;
    }
    pthread_mutex_unlock(&bus->mutex);
    return queued;
}

static struct ev_chore *take_due(evbus *bus, int64_t now, int64_t *ret_next)
{
    pthread_mutex_lock(&bus->mutex);
    struct ev_chore *chore = bus->keeper.chores;
    *ret_next = chore ? chore->at : EV_NEVER;
    if (chore && chore->at <= now) {
        bus->keeper.chores = chore->next;
        chore->queued = false;
    } else {
        chore = NULL;
    }
    pthread_mutex_unlock(&bus->mutex);
    return chore;
}

bool ev_keeper_turn(evbus *bus)
{
    int64_t next;
    struct ev_chore *chore = take_due(bus, ev_now(bus), &next);

    if (chore)
        chore->run(bus, chore);
    return chore != NULL;
}

static void *keeper_main(void *arg)
{
    evbus *bus = arg;
    struct ev_keeper *k = &bus->keeper;

    while (!ev_load_seqcst(&k->stop)) {
        const uint32_t seen = ev_load_seqcst(&k->posted);
        int64_t next;
        struct ev_chore *chore = take_due(bus, ev_now(bus), &next);
        if (chore) {
            chore->run(bus, chore);
            continue;
        }
        const uint32_t ticket = ev_park_prepare(&k->park);
        if (ev_load_seqcst(&k->posted) != seen || ev_load_seqcst(&k->stop))
            ev_park_cancel(&k->park);
        else
            (void)ev_park_wait(&k->park, ticket, bus->clock, next);
    }
    return NULL;
}

evbus_status ev_keeper_start(evbus *bus)
{
    evbus_status st = ev_thread_start(&bus->keeper.thread, "evbus-keeper", keeper_main, bus);

    bus->keeper.started = st == EVBUS_OK;
    return st;
}

void ev_keeper_stop(evbus *bus)
{
    if (!bus->keeper.started)
        return;
    ev_store_seqcst(&bus->keeper.stop, 1);
    ev_park_wake(&bus->keeper.park, UINT32_MAX);
    pthread_join(bus->keeper.thread, NULL);
    bus->keeper.started = false;
}
