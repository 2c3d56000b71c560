/* SPDX-License-Identifier: Apache-2.0 */
/* The settings of fault+<scheme>://...?key=value&key=value, read strictly: what is not understood is refused. */
#include "backend/fault.h"

#include "base/bytes.h"

#include <stddef.h>
#include <string.h>

#define TIME_MAX 3600000u

struct key {
    const char *name;
    enum { CHANCE, NUMBER, SEED } is;
    size_t offset;
    uint32_t min, standard;
};

#define CHANCE_OF(name, kind)                                                                                          \
    {                                                                                                                  \
        name, CHANCE, offsetof(struct ev_fault_settings, chance) + (kind) * sizeof(uint32_t), 0, 0                     \
    }
#define TIME_OF(field, min, standard)                                                                                  \
    {                                                                                                                  \
#field, NUMBER, offsetof(struct ev_fault_settings, field), min, standard                                       \
    }

static const struct key keys[] = {
    {"seed", SEED, offsetof(struct ev_fault_settings, seed), 0, 0},
    CHANCE_OF("lost_ack", EV_FAULT_LOST_ACK),
    CHANCE_OF("lost_settle", EV_FAULT_LOST_SETTLE),
    CHANCE_OF("duplicate", EV_FAULT_DUPLICATE),
    CHANCE_OF("repeat", EV_FAULT_REPEAT),
    CHANCE_OF("reorder", EV_FAULT_REORDER),
    CHANCE_OF("delay", EV_FAULT_DELAY),
    CHANCE_OF("no_responders", EV_FAULT_NO_RESPONDERS),
    TIME_OF(reorder_by_ms, 1, 20),
    TIME_OF(delay_by_ms, 1, 50),
    TIME_OF(no_responders_for_ms, 1, 500),
    TIME_OF(slow_by_ms, 0, 0),
    TIME_OF(disconnect_every_ms, 0, 0),
    TIME_OF(disconnect_for_ms, 0, 100),
    TIME_OF(clock_jump_every_ms, 0, 0),
    TIME_OF(clock_jump_by_ms, 1, 1000),
    TIME_OF(silent_every_ms, 0, 0),
};

#define KEYS (sizeof keys / sizeof keys[0])

/* A decimal from 0 to 1 with at most 9 digits behind the point, exactly. */
static bool read_chance(const char *text, size_t len, uint32_t *ret)
{
    uint32_t value = 0, unit = EV_FAULT_CERTAIN / 10;

    if (len == 0 || len > 11 || (text[0] != '0' && text[0] != '1') || (len > 1 && (text[1] != '.' || len == 2)))
        return false;
    for (size_t i = 2; i < len; i++, unit /= 10) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value += (uint32_t)(text[i] - '0') * unit;
    }
    if (text[0] == '1' && value > 0)
        return false;
    *ret = text[0] == '1' ? EV_FAULT_CERTAIN : value;
    return true;
}

static evbus_status read_value(const struct key *key, const char *text, size_t len, struct ev_fault_settings *to)
{
    void *into = (char *)to + key->offset;
    uint64_t number = 0;

    switch (key->is) {
    case CHANCE:
        if (read_chance(text, len, into))
            return EVBUS_OK;
        return ev_fail(EVBUS_INVALID, "URL: %s '%.*s' is not a probability from 0 to 1, such as 0.01", key->name,
                       (int)len, text);
    case SEED:
        if (ev_get_u64(text, len, into))
            return EVBUS_OK;
        return ev_fail(EVBUS_INVALID, "URL: seed '%.*s' is not a whole number below 2^64", (int)len, text);
    default:
        if (ev_get_u64(text, len, &number) && number >= key->min && number <= TIME_MAX) {
            *(uint32_t *)into = (uint32_t)number;
            return EVBUS_OK;
        }
        return ev_fail(EVBUS_INVALID, "URL: %s '%.*s' is not a number of milliseconds within %u..%u", key->name,
                       (int)len, text, key->min, TIME_MAX);
    }
}

static const struct key *find(const char *name, size_t len)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strlen(keys[i].name) == len && memcmp(keys[i].name, name, len) == 0)
            return &keys[i];
    return NULL;
}

evbus_status ev_fault_settings_parse(const char *query, struct ev_fault_settings *ret)
{
    bool seen[KEYS] = {false};
    evbus_status st = EVBUS_OK;

    *ret = (struct ev_fault_settings){.seed = 1};
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].is == NUMBER)
            *(uint32_t *)(void *)((char *)ret + keys[i].offset) = keys[i].standard;
    for (const char *at = query; at && st == EVBUS_OK;) {
        const size_t len = strcspn(at, "&"), name = strcspn(at, "=&");
        const struct key *key = find(at, name);
        if (name == len)
            return ev_fail(EVBUS_INVALID, "URL: '%.*s' is not key=value", (int)len, at);
        if (!key)
            return ev_fail(EVBUS_INVALID, "URL: '%.*s' is no setting of fault+ (its value: '%.*s')", (int)name, at,
                           (int)(len - name - 1), at + name + 1);
        if (seen[key - keys])
            return ev_fail(EVBUS_INVALID, "URL: %s is given twice, the second time as '%.*s'", key->name,
                           (int)(len - name - 1), at + name + 1);
        seen[key - keys] = true;
        st = read_value(key, at + name + 1, len - name - 1, ret);
        at = at[len] ? at + len + 1 : NULL;
    }
    return st;
}
