/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include <inttypes.h>
#include <stdio.h>

#define DOUBLINGS_MAX 4

/* ---- The rule ---------------------------------------------------------------------------------------------------- */

static enum ev_progress_reason reason_of(const struct ev_progress *p, const struct ev_progress_look *look)
{
    const uint32_t doublings = p->repairs < DOUBLINGS_MAX ? p->repairs : DOUBLINGS_MAX;

    if (look->arrived != p->arrived)
        return EV_PROGRESS_MOVES;
    if (look->away)
        return EV_PROGRESS_AWAY;
    if (look->waiting == 0)
        return EV_PROGRESS_EMPTY;
    if (look->full)
        return EV_PROGRESS_FULL;
    if (p->since == 0 || look->patience == EV_NEVER ||
        look->now - p->since < (look->patience << doublings) + look->slower)
        return EV_PROGRESS_WAITS;
    return EV_PROGRESS_STUCK;
}

enum ev_progress_reason ev_progress_judge(struct ev_progress *p, const struct ev_progress_look *look)
{
    p->reason = reason_of(p, look);
    p->arrived = look->arrived;
    if (p->reason == EV_PROGRESS_STUCK) {
        p->repairs++;
        p->since = look->now;
    } else if (p->reason != EV_PROGRESS_WAITS) {
        p->since = 0;
    } else if (p->since == 0) {
        p->since = look->now;
    }
    return p->reason;
}

/* ---- On the loop ------------------------------------------------------------------------------------------------- */

/* The window is as good as full when the next message may be larger than what is left of its bytes. */
static bool is_full(evbus *bus, const struct evbus_sub *sub, uint64_t ack_pending)
{
    struct ev_room room;

    ev_dispatch_room(bus, sub, &room);
    return room.msgs == 0 || room.bytes == 0 || sub->held_bytes > sub->o.inflight_bytes_max / 2 ||
           (sub->o.membership == EVBUS_SHARED && sub->consumer.ack_explicit &&
            ack_pending >= ev_sub_window(sub)); /* by other members */
}

static void repair(evbus *bus, struct evbus_sub *sub, uint64_t waiting, int64_t silent)
{
    const bool rearm = sub->progress.repairs == 1;
    char text[240];

    (void)snprintf(text, sizeof text,
                   "%" PRIu64 " messages wait at the broker, there is room, and none came for %" PRId64 " ms: %s",
                   waiting, silent / EV_MS, rearm ? "pulling anew" : "binding its consumer anew");
    ev_count(&bus->n.repairs, 1);
    ev_event(bus, EVBUS_EVENT_STUCK, EVBUS_TIMEOUT, sub->progress.repairs, sub->topic->name, sub->group, NULL, text);
    if (rearm) {
        bus->ops->rearm(bus->state, sub->binding);
        ev_room_changed(sub);
    } else {
        ev_sub_bind_again(sub);
    }
}

static void recover(evbus *bus, struct evbus_sub *sub)
{
    char text[80];

    (void)snprintf(text, sizeof text, "it goes on after %" PRIu32 " repairs", sub->progress.repairs);
    sub->progress.repairs = 0;
    ev_event(bus, EVBUS_EVENT_RESUMED, EVBUS_OK, 0, sub->topic->name, sub->group, NULL, text);
}

static void look_at(evbus *bus, struct evbus_sub *sub, uint64_t pending, uint64_t ack_pending)
{
    struct ev_progress *p = &sub->progress;
    /* Delivered, and not here. With frontier acks the rest is done and not acked yet. */
    const bool alone = sub->o.membership == EVBUS_EXCLUSIVE && !sub->consumer.ack_all;
    const uint64_t lost = alone && ack_pending > sub->held ? ack_pending - sub->held : 0;
    const struct ev_progress_look look = {
        .now = ev_now(bus),
        .patience = ev_deadline(0, sub->o.progress_timeout_ms),
        .slower = pending && lost == 0 && ack_pending < ev_sub_window(sub) ? 0 : (int64_t)sub->o.ack_wait_ms * EV_MS,
        .arrived = ev_load_relaxed(&sub->watched.arrived), /* own field */
        .waiting = pending + lost,
        .away = !ev_link_is_up(bus) || sub->rebinding || !ev_may_act(bus, sub) || sub->gathering,
        .full = is_full(bus, sub, ack_pending),
    };
    const int64_t since = p->since;
    const enum ev_progress_reason reason = ev_progress_judge(p, &look);

    if (reason == EV_PROGRESS_STUCK)
        repair(bus, sub, look.waiting, look.now - since);
    else if (p->repairs > 0 && (reason == EV_PROGRESS_MOVES || reason == EV_PROGRESS_EMPTY))
        recover(bus, sub);
}

static void judge(evbus *bus, struct ev_command *command)
{
    struct ev_progress_question *q = &bus->watch.question;

    (void)command;
    pthread_mutex_lock(&bus->mutex);
    const struct ev_progress_question asked = *q;
    q->asked = false;
    pthread_mutex_unlock(&bus->mutex);
    for (struct evbus_sub *sub = bus->in.attached; sub; sub = sub->next_attached) {
        if (sub->watched.number != asked.number || sub->detached) /* its number was given before it was attached */
            continue;
        look_at(bus, sub, asked.pending, asked.ack_pending);
        return;
    }
}

void ev_progress_ask(evbus *bus, uint64_t number, uint64_t pending, uint64_t ack_pending)
{
    struct ev_progress_question *q = &bus->watch.question;

    pthread_mutex_lock(&bus->mutex);
    const bool post = !q->asked; /* else the loop is busy with the last one: this look is left out */
    if (post) {
        q->asked = true;
        q->number = number;
        q->pending = pending;
        q->ack_pending = ack_pending;
        q->command.run = judge;
    }
    pthread_mutex_unlock(&bus->mutex);
    if (post)
        ev_loop_post(bus, &q->command);
}
