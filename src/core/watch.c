/* SPDX-License-Identifier: Apache-2.0 */
#include "core/names.h"
#include "core/sub.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ROUND (2 * EV_SEC)
#define STEP (20 * EV_MS)
#define ANSWER_TIME (2 * EV_SEC)
#define NEAR(now, max) ((max) > 0 && (now) / 4 >= (max) / 5) /* 80 % */
#define FAR(now, max) ((max) == 0 || (now) / 7 < (max) / 10) /* 70 % */

/* A subscription as it was when it was chosen: it may be gone when the broker has answered. */
struct look {
    uint64_t number;
    const char *topic, *stream; /* live as long as the bus */
    char group[72], consumer[EV_NAME_MAX];
    bool shared, own;    /* own: the stream has this topic alone */
    bool durable, moved; /* moved: something came since the last look */
    bool mute;           /* its consumer is not to be asked for */
};

static bool choose(evbus *bus, uint64_t after, struct look *ret)
{
    struct evbus_sub *best = NULL;
    char own[EV_NAME_MAX];

    pthread_mutex_lock(&bus->mutex);
    for (struct evbus_sub *s = bus->subs; s; s = s->next)
        if (s->watched.number > after && (!best || s->watched.number < best->watched.number) && !s->unsubscribed &&
            ev_load_acquire(&s->stream))
            best = s;
    if (best) {
        *ret = (struct look){.number = best->watched.number,
                             .topic = best->topic->name,
                             .stream = ev_load_acquire(&best->stream),
                             .durable = best->consumer.durable,
                             .mute = best->watched.mute || best->o.progress_timeout_ms == EVBUS_FOREVER,
                             .shared = best->o.membership == EVBUS_SHARED};
        (void)ev_copy(ret->group, sizeof ret->group, best->group);
        ev_sub_consumer_name(best, ret->consumer);
        const uint64_t arrived = ev_load_relaxed(&best->watched.arrived); /* a statistic */
        ret->moved = arrived != best->watched.arrived_then;
        best->watched.arrived_then = arrived;
        ev_stream_name(own, ret->topic);
        ret->own = strcmp(own, ret->stream) == 0;
    }
    pthread_mutex_unlock(&bus->mutex);
    return best != NULL;
}

/* Under bus->mutex; NULL: it is gone, or its stream is another now. */
static struct evbus_sub *find(evbus *bus, const struct look *look)
{
    struct evbus_sub *s = bus->subs;

    while (s && s->watched.number != look->number)
        s = s->next;
    return s && ev_load_acquire(&s->stream) == look->stream ? s : NULL;
}

/* How many sequences were dropped since the last look that nobody was given. */
static uint64_t missed(evbus *bus, const struct look *look, uint64_t first, uint64_t to_others)
{
    uint64_t n = 0;

    pthread_mutex_lock(&bus->mutex);
    struct evbus_sub *s = find(bus, look);
    if (s) {
        struct ev_watched *w = &s->watched;
        const uint64_t skipped = ev_load_relaxed(&w->skipped), seen = ev_load_relaxed(&w->seen); /* statistics */
        const uint64_t told = ev_load_relaxed(&w->told);                                         /* own field */
        uint64_t given = seen > to_others ? seen : to_others;
        given = told > given ? told : given;
        if (first > given + 1) {
            n = first - given - 1;
            ev_store_relaxed(&w->told, first - 1); /* statistic */
        }
        if (look->own)
            n += skipped - w->skipped_told;
        w->skipped_told = skipped;
    }
    pthread_mutex_unlock(&bus->mutex);
    return n;
}

static void say_overtaken(evbus *bus, const struct look *look, uint64_t first, uint64_t n)
{
    char text[EV_NAME_MAX + 200];

    ev_add_relaxed(&bus->n.overtaken, n); /* statistic */
    (void)snprintf(text, sizeof text,
                   "stream %s dropped %" PRIu64 " sequences before they were handled (its limits, or a purge); it "
                   "begins at %" PRIu64 " now",
                   look->stream, n, first);
    ev_event(bus, EVBUS_EVENT_OVERTAKEN, EVBUS_LIMIT, n, look->topic, look->group, NULL, text);
}

/* Said once, and again after it was below 70 %. */
static void check_limits(evbus *bus, const struct look *look, const struct ev_stream_info *info)
{
    const bool near = NEAR(info->bytes, info->max_bytes) || NEAR(info->msgs, info->max_msgs);
    const bool far = FAR(info->bytes, info->max_bytes) && FAR(info->msgs, info->max_msgs);
    char text[EV_NAME_MAX + 160];
    bool say = false;

    pthread_mutex_lock(&bus->mutex);
    struct evbus_sub *s = find(bus, look);
    if (s && (near || far)) {
        say = near && !s->watched.near;
        s->watched.near = near;
    }
    pthread_mutex_unlock(&bus->mutex);
    if (!say)
        return;
    (void)snprintf(text, sizeof text,
                   "stream %s is above 80 %% of a limit: %" PRIu64 " messages of %" PRIu64 ", %" PRIu64
                   " bytes of %" PRIu64 " (0: no limit)",
                   look->stream, info->msgs, info->max_msgs, info->bytes, info->max_bytes);
    ev_event(bus, EVBUS_EVENT_NEAR_LIMIT, EVBUS_OK, 0, look->topic, look->group, NULL, text);
}

static bool asks_for_floor(evbus *bus, const struct look *look)
{
    pthread_mutex_lock(&bus->mutex);
    struct evbus_sub *s = find(bus, look);
    const bool asks = s && (look->shared || ev_load_relaxed(&s->watched.seen) == 0); /* hint */
    pthread_mutex_unlock(&bus->mutex);
    return asks;
}

static void ask_no_more(evbus *bus, const struct look *look)
{
    pthread_mutex_lock(&bus->mutex);
    struct evbus_sub *s = find(bus, look);
    if (s)
        s->watched.mute = true;
    pthread_mutex_unlock(&bus->mutex);
    ev_log(&bus->log, EVBUS_LOG_WARN, "watch", "topic %s group %s: whether messages wait for it cannot be asked: %s",
           look->topic, look->group, ev_detail());
}

/* Does it get what waits? While messages come that need not be asked. */
static void look_at_progress(evbus *bus, const struct look *look)
{
    struct ev_consumer_state state = {0};
    evbus_status st = EVBUS_OK;

    if (look->mute)
        return;
    if (!look->moved)
        st = bus->ops->consumer_state(bus->state, look->stream, look->consumer, &state, ev_now(bus) + ANSWER_TIME);
    if (st == EVBUS_OK)
        ev_progress_ask(bus, look->number, state.pending, state.ack_pending);
    else if (st == EVBUS_DENIED)
        ask_no_more(bus, look);
}

static void look_at(evbus *bus, const struct look *look)
{
    const int64_t deadline = ev_now(bus) + ANSWER_TIME;
    struct ev_consumer_state consumer = {0};
    struct ev_stream_info info;

    if (bus->ops->stream_info(bus->state, look->stream, look->topic, &info, deadline) != EVBUS_OK)
        return; /* that it is gone is found by those who use it */
    if (asks_for_floor(bus, look) &&
        bus->ops->consumer_state(bus->state, look->stream, look->consumer, &consumer, deadline) != EVBUS_OK)
        return;
    const uint64_t n = missed(bus, look, info.first_seq, consumer.delivered_seq);
    if (n > 0)
        say_overtaken(bus, look, info.first_seq, n);
    check_limits(bus, look, &info);
}

static void watch(evbus *bus, struct ev_chore *chore)
{
    struct ev_watch *w = &bus->watch;
    struct look look;

    if (w->last == 0)
        w->round = ev_now(bus);
    if (choose(bus, w->last, &look)) {
        w->last = look.number;
        if (ev_link_is_up(bus) && look.durable)
            look_at(bus, &look);
        if (ev_link_is_up(bus))
            look_at_progress(bus, &look);
        ev_keeper_post(bus, chore, ev_now(bus) + STEP);
        return;
    }
    w->last = 0;
    const int64_t next = w->round + ROUND;
    ev_keeper_post(bus, chore, next > ev_now(bus) + STEP ? next : ev_now(bus) + STEP);
}

/* What was dropped while nobody was here: what was delivered before and not settled counts as well. */
static uint64_t look_back(struct evbus_sub *sub, const char *stream, int64_t deadline, uint64_t *ret_which)
{
    evbus *bus = sub->bus;
    struct ev_consumer_state consumer;
    struct ev_stream_info info;
    struct look look = {.topic = sub->topic->name, .stream = stream};

    *ret_which = ev_fnv1a(stream, strlen(stream));
    ev_sub_consumer_name(sub, look.consumer);
    if (!sub->consumer.durable ||
        bus->ops->consumer_state(bus->state, stream, look.consumer, &consumer, deadline) != EVBUS_OK ||
        bus->ops->stream_info(bus->state, stream, look.topic, &info, deadline) != EVBUS_OK)
        return 0;
    *ret_which ^= ev_fnv1a(info.created, strlen(info.created));
    const uint64_t given = sub->o.membership == EVBUS_SHARED ? consumer.delivered_seq : consumer.floor_seq;
    (void)ev_copy(look.group, sizeof look.group, sub->group);
    if (info.first_seq > given + 1)
        say_overtaken(bus, &look, info.first_seq, info.first_seq - given - 1);
    return info.first_seq > given + 1 ? info.first_seq - 1 : given;
}

uint64_t ev_watch_bound(struct evbus_sub *sub, const char *stream, int64_t deadline)
{
    evbus *bus = sub->bus;
    uint64_t which;
    const uint64_t given = look_back(sub, stream, deadline, &which);
    bool begin = false;

    pthread_mutex_lock(&bus->mutex);
    if (sub->watched.number == 0)
        sub->watched.number = ++bus->watch.numbers;
    ev_store_relaxed(&sub->watched.told, given); /* statistic */
    begin = !bus->watch.begun;
    bus->watch.begun = true;
    pthread_mutex_unlock(&bus->mutex);
    if (begin) {
        bus->watch.chore.run = watch;
        ev_keeper_post(bus, &bus->watch.chore, ev_now(bus) + STEP);
    }
    return which;
}
