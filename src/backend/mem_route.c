/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a topic to what it concerns. Interests (subjects of streams, filters of consumers, core subscriptions) without
 * wildcards are found by hash; those with wildcards are few and looked through. The answer is remembered per topic as a
 * *route*, so a message costs one look-up; a new or vanished interest drops the routes it touches.
 */
#include "backend/mem_broker.h"

#include "base/bytes.h"
#include "core/names.h"

#include <string.h>

#define ROUTES_MAX 131072u

/* ---- Subjects ---------------------------------------------------------------------------------------------------- */

evbus_status ev_mem_subject_check(const char *subject)
{
    size_t len;

    return ev_topic_check(subject, true, &len);
}

uint32_t ev_mem_hash(const struct ev_mem_broker *broker, const char *text, size_t len)
{
    return (uint32_t)ev_hash(text, len, broker->seed);
}

/* ---- Interests --------------------------------------------------------------------------------------------------- */

static void route_drop(struct ev_mem_broker *broker, struct ev_mem_route *route)
{
    ev_mem_table_remove(&broker->routes, &route->node);
    ev_free(route);
}

static void routes_drop(struct ev_mem_broker *broker, const struct ev_mem_interest *interest)
{
    if (!broker->routes.buckets)
        return;
    const bool one = interest && (interest->node.kind & EV_MEM_LITERAL);
    const uint32_t from = one ? interest->node.hash & broker->routes.mask : 0;
    const uint32_t to = one ? from : broker->routes.mask;
    for (uint32_t i = from; i <= to; i++) {
        for (struct ev_mem_node *node = broker->routes.buckets[i], *next; node; node = next) {
            struct ev_mem_route *route = (struct ev_mem_route *)(void *)node;
            next = node->next;
            if (!interest || ev_mem_interest_matches(interest, route->topic, node->hash))
                route_drop(broker, route);
        }
    }
}

void ev_mem_routes_fini(struct ev_mem_broker *broker)
{
    routes_drop(broker, NULL);
    ev_mem_table_fini(&broker->routes);
}

bool ev_mem_interest_reserve(struct ev_mem_broker *broker)
{
    return ev_mem_table_reserve(&broker->literals);
}

void ev_mem_interest_add(struct ev_mem_broker *broker, struct ev_mem_interest *interest, enum ev_mem_interest_kind kind,
                         const char *pattern)
{
    const uint32_t hash = ev_mem_hash(broker, pattern, strlen(pattern));

    interest->node.kind = ev_mem_is_literal(pattern) ? (uint32_t)kind | EV_MEM_LITERAL : (uint32_t)kind;
    interest->pattern = pattern;
    if (interest->node.kind & EV_MEM_LITERAL) {
        ev_mem_table_add(&broker->literals, &interest->node, hash);
    } else {
        interest->node.hash = hash;
        interest->node.next = broker->patterns;
        broker->patterns = &interest->node;
    }
    routes_drop(broker, interest);
}

void ev_mem_interest_remove(struct ev_mem_broker *broker, struct ev_mem_interest *interest)
{
    if (interest->node.kind & EV_MEM_LITERAL) {
        ev_mem_table_remove(&broker->literals, &interest->node);
    } else {
        struct ev_mem_node **link = &broker->patterns;
        while (*link != &interest->node)
            link = &(*link)->next;
        *link = interest->node.next;
    }
    routes_drop(broker, interest);
}

bool ev_mem_interest_matches(const struct ev_mem_interest *interest, const char *topic, uint32_t hash)
{
    if (interest->node.kind & EV_MEM_LITERAL)
        return interest->node.hash == hash && strcmp(interest->pattern, topic) == 0;
    return ev_subject_covers(interest->pattern, topic);
}

/* ---- Routes ------------------------------------------------------------------------------------------------------ */

static void *owner_of(struct ev_mem_interest *interest)
{
    char *at = (char *)interest;

    switch (interest->node.kind & ~(uint32_t)EV_MEM_LITERAL) {
    case EV_MEM_BY_STREAM:
        return ((struct ev_mem_subject *)(void *)(at - offsetof(struct ev_mem_subject, interest)))->stream;
    case EV_MEM_BY_CONSUMER:
        return at - offsetof(struct ev_mem_consumer, interest);
    default:
        return at - offsetof(struct ev_mem_group, interest);
    }
}

/* Calls `fn` for every interest that matches the topic. */
static void for_matching(struct ev_mem_broker *broker, const char *topic, uint32_t hash,
                         void (*fn)(struct ev_mem_interest *interest, void *arg), void *arg)
{
    struct ev_mem_node *lists[2] = {ev_mem_table_chain(&broker->literals, hash), broker->patterns};

    for (int i = 0; i < 2; i++) {
        for (struct ev_mem_node *node = lists[i]; node; node = node->next) {
            struct ev_mem_interest *interest = (struct ev_mem_interest *)(void *)node;
            if (ev_mem_interest_matches(interest, topic, hash))
                fn(interest, arg);
        }
    }
}

struct gathering {
    struct ev_mem_stream *stream;
    uint32_t consumers, groups;
    struct ev_mem_route *route; /* NULL: only count */
};

static void gather(struct ev_mem_interest *interest, void *arg)
{
    struct gathering *g = arg;
    void *owner = owner_of(interest);

    if (ev_mem_is_by(&interest->node, EV_MEM_BY_STREAM)) {
        g->stream = owner;
    } else if (ev_mem_is_by(&interest->node, EV_MEM_BY_CONSUMER)) {
        if (g->route && ((struct ev_mem_consumer *)owner)->stream == g->route->stream)
            g->route->targets[g->route->consumers++] = owner;
        g->consumers++; /* when counting the stream may not be known yet: an upper bound */
    } else {
        g->groups++;
    }
}

static void gather_groups(struct ev_mem_interest *interest, void *arg)
{
    struct ev_mem_route *route = arg;

    if (ev_mem_is_by(&interest->node, EV_MEM_BY_GROUP))
        route->targets[route->consumers + route->groups++] = owner_of(interest);
}

static struct ev_mem_route *route_make(struct ev_mem_broker *broker, const char *topic, size_t len, uint32_t hash)
{
    struct gathering g = {0};

    if (!ev_mem_table_reserve(&broker->routes))
        return NULL;
    for_matching(broker, topic, hash, gather, &g);
    const size_t targets = (size_t)(g.consumers + g.groups) * sizeof(void *);
    struct ev_mem_route *route = ev_malloc(sizeof *route + targets + len + 1);
    if (!route)
        return NULL;
    *route = (struct ev_mem_route){.stream = g.stream};
    char *text = (char *)(route + 1) + targets;
    memcpy(text, topic, len + 1);
    route->topic = text;
    g.route = route;
    for_matching(broker, topic, hash, gather, &g);
    for_matching(broker, topic, hash, gather_groups, route);
    ev_mem_table_add(&broker->routes, &route->node, hash);
    return route;
}

struct ev_mem_route *ev_mem_route_of(struct ev_mem_broker *broker, const char *topic, size_t len, uint32_t hash)
{
    for (struct ev_mem_node *node = ev_mem_table_chain(&broker->routes, hash); node; node = node->next) {
        struct ev_mem_route *route = (struct ev_mem_route *)(void *)node;
        if (node->hash == hash && strcmp(route->topic, topic) == 0)
            return route;
    }
    return route_make(broker, topic, len, hash);
}

void ev_mem_routes_trim(struct ev_mem_broker *broker)
{
    if (broker->routes.count >= ROUTES_MAX)
        routes_drop(broker, NULL);
}

struct ev_mem_stream *ev_mem_stream_overlapping(struct ev_mem_broker *broker, const char *subject)
{
    const uint32_t hash = ev_mem_hash(broker, subject, strlen(subject));
    const bool literal = ev_mem_is_literal(subject);
    const uint32_t from = literal && broker->literals.buckets ? hash & broker->literals.mask : 0;
    const uint32_t to = literal ? from + 1 : broker->literals.buckets ? broker->literals.mask + 1 : 0;

    for (struct ev_mem_node *node = broker->patterns; node; node = node->next)
        if (ev_mem_is_by(node, EV_MEM_BY_STREAM) &&
            ev_subjects_overlap(((struct ev_mem_interest *)(void *)node)->pattern, subject))
            return owner_of((void *)node);
    for (uint32_t i = from; broker->literals.buckets && i < to; i++)
        for (struct ev_mem_node *node = broker->literals.buckets[i]; node; node = node->next)
            if (ev_mem_is_by(node, EV_MEM_BY_STREAM) &&
                ev_subjects_overlap(((struct ev_mem_interest *)(void *)node)->pattern, subject))
                return owner_of((void *)node);
    return NULL;
}

struct ev_mem_subject *ev_mem_stream_subject(const struct ev_mem_stream *stream, const char *subject)
{
    for (struct ev_mem_subject *s = stream->subjects; s; s = s->next)
        if (ev_subject_covers(s->text, subject))
            return s;
    return NULL;
}
