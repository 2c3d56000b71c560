/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop: the one thread that owns the loop's side of everything. A turn takes what came in, lets each part react,
 * and sleeps in the backend's wait when there was nothing.
 *
 * Edges     L1 (push or post, seq_cst) / L2 (then seq_cst load of `sleeping`) against L3 (loop: seq_cst store of
 *           `sleeping`) / L4 (then seq_cst look at the rings and the mailbox): Dekker's pattern; a producer that misses
 *           the sleeping flag is seen by the loop's last look.
 */
#include "core/bus.h"
#include "core/message.h"

#define IDLE_MAX (EV_SEC)

void ev_loop_wake(evbus *bus)
{
    if (ev_load_seqcst(&bus->sleeping) && ev_swap_seqcst(&bus->sleeping, 0)) /* L2 */
        bus->ops->wake(bus->state);
}

void ev_loop_post(evbus *bus, struct ev_command *command)
{
    pthread_mutex_lock(&bus->mutex);
    command->next = NULL;
    if (bus->commands_tail)
        bus->commands_tail->next = command;
    else
        bus->commands = command;
    bus->commands_tail = command;
    ev_store_seqcst(&bus->commands_waiting, 1); /* L1 */
    pthread_mutex_unlock(&bus->mutex);
    ev_loop_wake(bus);
}

void ev_loop_runnable(evbus *bus, struct ev_job *job)
{
    job->next = NULL;
    if (bus->runnable.tail)
        bus->runnable.tail->next = job;
    else
        bus->runnable.head = job;
    bus->runnable.tail = job;
    bus->runnable.count++;
}

static bool run_commands(evbus *bus)
{
    if (!ev_load_acquire(&bus->commands_waiting))
        return false;
    pthread_mutex_lock(&bus->mutex);
    struct ev_command *c = bus->commands;
    bus->commands = bus->commands_tail = NULL;
    ev_store_seqcst(&bus->commands_waiting, 0);
    pthread_mutex_unlock(&bus->mutex);
    while (c) {
        struct ev_command *next = c->next;
        c->run(bus, c);
        c = next;
    }
    return true;
}

bool ev_loop_turn(evbus *bus)
{
    const int64_t now = bus->turn_ns = ev_now(bus);
    bool busy = run_commands(bus);

    busy |= ev_outbound_turn(bus, now);
    busy |= bus->ops->turn(bus->state, now);
    busy |= ev_dispatch_turn(bus, now);
    busy |= ev_crew_turn(bus);
    ev_dispatch_rooms(bus);
    ev_slots_wake(bus, !busy);
    ev_shutdown_turn(bus);
    ev_receipts_turn(bus, now);
    ev_store_relaxed(&bus->n.held, bus->in.held_count);       /* statistic */
    ev_store_relaxed(&bus->n.held_bytes, bus->in.held_bytes); /* statistic */
    ev_store_relaxed(&bus->n.running, bus->in.out);           /* statistic */
    return busy;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t ev_loop_due(evbus *bus)
{
    int64_t due = earlier(ev_outbound_due(bus), ev_dispatch_due(bus));

    due = earlier(due, ev_receipts_due(bus));
    due = earlier(due, earlier(bus->slots.wake_at, bus->slots.look_at));
    return earlier(earlier(due, bus->ops->due(bus->state)), bus->halt_at);
}

/* True if something came in since the turn. */
static bool look_again(evbus *bus)
{
    /* While the backend's output is full, what was submitted waits for it. */
    return ev_load_seqcst(&bus->commands_waiting) || !ev_ring_empty(&bus->in.done) || /* L4 */
           (!bus->out.full && !ev_ring_empty(&bus->slots.submit));
}

static void nap(evbus *bus)
{
    int64_t due = ev_loop_due(bus);
    const int64_t crew = ev_crew_due(bus);

    if (crew != EV_NEVER)
        due = earlier(due, ev_now(bus) + (crew > ev_clock_now(NULL) ? crew - ev_clock_now(NULL) : 0));
    due = earlier(due, ev_deadline_ns(ev_now(bus), IDLE_MAX)); /* nothing is trusted to wake us for ever */
    ev_store_seqcst(&bus->sleeping, 1);                        /* L3 */
    if (!look_again(bus))
        bus->ops->wait(bus->state, due);
    ev_store_seqcst(&bus->sleeping, 0);
}

void *ev_loop_main(void *arg)
{
    evbus *bus = arg;

    ev_callback_enter(bus, NULL); /* nothing here may wait for the loop */
    while (!bus->ended)
        if (!ev_loop_turn(bus) && !bus->ended)
            nap(bus);
    return NULL;
}

/* ---- Waiting for the loop ---------------------------------------------------------------------------------------- */

void ev_bus_changed(evbus *bus)
{
    ev_park_wake(&bus->changed, UINT32_MAX);
}

/* Manual mode: whoever waits turns the loop, runs the workers and the keeper himself. */
static bool turn_until(evbus *bus, bool (*done)(void *arg), void *arg, int64_t deadline)
{
    while (!done(arg)) {
        bool busy = ev_loop_turn(bus);
        busy |= ev_crew_run_one(bus);
        busy |= ev_acks_run_one(bus);
        busy |= ev_keeper_turn(bus);
        if (busy)
            continue;
        if (ev_now(bus) >= deadline || !bus->when_idle)
            return done(arg);
        bus->when_idle();
    }
    return true;
}

bool ev_bus_await(evbus *bus, bool (*done)(void *arg), void *arg, int64_t deadline)
{
    if (bus->manual)
        return turn_until(bus, done, arg, deadline);
    while (!done(arg)) {
        const uint32_t ticket = ev_park_prepare(&bus->changed);
        if (done(arg)) {
            ev_park_cancel(&bus->changed);
            break;
        }
        if (!ev_park_wait(&bus->changed, ticket, bus->clock, deadline))
            return done(arg);
    }
    return true;
}
