/* SPDX-License-Identifier: Apache-2.0 */
#include "core/settled.h"

#include "base/alloc.h"

#include <string.h>

bool ev_settled_init(struct ev_settled *s, uint32_t capacity)
{
    uint32_t cap = 64;

    while (cap < capacity)
        cap *= 2;
    s->table = ev_calloc((size_t)cap * 2, sizeof *s->table);
    s->order = ev_calloc(cap, sizeof *s->order);
    if (!s->table || !s->order) {
        ev_settled_fini(s);
        return false;
    }
    s->capacity = cap;
    s->mask = cap * 2 - 1;
    s->count = s->head = 0;
    return true;
}

void ev_settled_fini(struct ev_settled *s)
{
    ev_free(s->table);
    ev_free(s->order);
    *s = (struct ev_settled){0};
}

static uint32_t place(const struct ev_settled *s, uint64_t key)
{
    return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & s->mask;
}

static uint32_t find(const struct ev_settled *s, uint64_t key)
{
    uint32_t i = place(s, key);

    while (s->table[i] != 0 && s->table[i] != key)
        i = (i + 1) & s->mask;
    return i;
}

bool ev_settled_has(const struct ev_settled *s, uint64_t key)
{
    return s->table && s->table[find(s, key)] == key;
}

/* Open addressing without tombstones: what stood behind the gap moves up if its own place allows. */
static void erase(struct ev_settled *s, uint64_t key)
{
    uint32_t gap = find(s, key);

    if (s->table[gap] != key)
        return;
    for (uint32_t i = (gap + 1) & s->mask; s->table[i] != 0; i = (i + 1) & s->mask) {
        const uint32_t home = place(s, s->table[i]);
        if (((i - home) & s->mask) >= ((i - gap) & s->mask)) {
            s->table[gap] = s->table[i];
            gap = i;
        }
    }
    s->table[gap] = 0;
}

void ev_settled_add(struct ev_settled *s, uint64_t key)
{
    if (!s->table || key == 0 || ev_settled_has(s, key))
        return;
    if (s->count == s->capacity) {
        erase(s, s->order[s->head]);
        s->head = (s->head + 1) & (s->capacity - 1);
        s->count--;
    }
    s->table[find(s, key)] = key;
    s->order[(s->head + s->count) & (s->capacity - 1)] = key;
    s->count++;
}
