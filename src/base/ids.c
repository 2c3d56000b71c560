/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each thread has a generator of its own, so ids cost no shared line. Its seed comes from the kernel; a fork makes the
 * copies differ again, because the child's handler bumps a number that every use compares.
 *
 * UUIDv7 (RFC 9562): 48 bits of milliseconds, then a 32-bit counter in rand_a and the top of rand_b, then 42 random
 * bits. The counter starts at a random 31-bit value each millisecond and is counted up within one, or while the wall
 * clock is behind the last id; if it ever runs out, the id borrows the next millisecond.
 */
#include "base/ids.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static _Atomic(uint32_t) forks; /* written by the only thread of a new child; read by all: a number to compare */

struct generator {
    uint64_t state;
    uint64_t step; /* odd, random: sequences of two threads differ in more than their place */
    uint64_t key;
    int64_t last_ms;     /* of the last UUID */
    uint32_t counter;    /* of the last UUID */
    uint32_t generation; /* of the seed */
    bool seeded;
};

static _Thread_local struct generator generator;

static void count_fork(void)
{
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed); /* a fresh child has one thread */
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

uint32_t ev_fork_generation(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed); /* fork itself orders it */
}

/* Without getrandom (a sandbox): time, process, thread and address still tell threads and processes apart. */
static void seed_without_kernel(uint64_t seed[3])
{
    struct timespec wall;
    struct timespec mono;

    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    seed[0] = ((uint64_t)wall.tv_sec << 30) ^ (uint64_t)wall.tv_nsec;
    seed[1] = (uint64_t)(uintptr_t)&generator ^ (uint64_t)getpid() << 40;
    seed[2] = ((uint64_t)mono.tv_sec << 30) ^ (uint64_t)mono.tv_nsec ^ (uint64_t)gettid() << 40;
}

static void seed_generator(struct generator *gen, uint32_t generation)
{
    uint64_t seed[3];
    ssize_t got;

    do
        got = getrandom(seed, sizeof seed, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof seed)
        seed_without_kernel(seed);

    gen->state = seed[0];
    gen->step = seed[1] | 1;
    gen->key = seed[2];
    gen->generation = generation;
    gen->seeded = true;
    gen->counter = UINT32_MAX; /* a forked child goes on in another millisecond than its parent */
}

static struct generator *own_generator(void)
{
    struct generator *gen = &generator;
    const uint32_t generation = ev_fork_generation();

    if (!gen->seeded || gen->generation != generation)
        seed_generator(gen, generation);
    return gen;
}

/* A counter with a random odd step, scrambled by a bijection: no repetition in 2^64 calls. */
static uint64_t next_random(struct generator *gen)
{
    uint64_t x = gen->state += gen->step;

    x = (x ^ x >> 31) * UINT64_C(0xd1342543de82ef95);
    x = (x ^ x >> 29) * UINT64_C(0xaf251af3b0f025b5);
    return x ^ x >> 32 ^ gen->key;
}

void ev_random_seed(uint64_t seed)
{
    generator = (struct generator){.state = seed,
                                   .step = seed * 2 + 1,
                                   .key = seed,
                                   .counter = UINT32_MAX,
                                   .generation = ev_fork_generation(),
                                   .seeded = true};
}

uint64_t ev_random(void)
{
    return next_random(own_generator());
}

static void step_counter(struct generator *gen, int64_t ms)
{
    if (ms <= gen->last_ms && gen->counter != UINT32_MAX) {
        gen->counter++;
        return;
    }
    gen->last_ms = ms > gen->last_ms ? ms : gen->last_ms + 1;
    gen->counter = (uint32_t)(next_random(gen) >> 33); /* 31 bits: at least 2^31 more fit */
}

static void put_hex(char *out, uint64_t value, int digits)
{
    static const char hex[] = "0123456789abcdef";

    for (int i = digits - 1; i >= 0; i--, value >>= 4)
        out[i] = hex[value & 15];
}

void ev_uuid7(int64_t wall_ns, char out[EV_UUID_LEN + 1])
{
    struct generator *gen = own_generator();

    step_counter(gen, wall_ns > 0 ? wall_ns / INT64_C(1000000) : 0);

    const uint64_t ms = (uint64_t)gen->last_ms;
    const uint64_t tail = (uint64_t)(gen->counter & 0xfffff) << 42 | next_random(gen) >> 22; /* 62 bits */

    put_hex(out, ms >> 16, 8);
    out[8] = '-';
    put_hex(out + 9, ms & 0xffff, 4);
    out[13] = '-';
    put_hex(out + 14, UINT64_C(0x7000) | gen->counter >> 20, 4);
    out[18] = '-';
    put_hex(out + 19, UINT64_C(0x8000) | tail >> 48, 4);
    out[23] = '-';
    put_hex(out + 24, tail & UINT64_C(0xffffffffffff), 12);
    out[EV_UUID_LEN] = '\0';
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool ev_is_uuid(const char *text)
{
    for (int i = 0; i < EV_UUID_LEN; i++) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? text[i] != '-' : !is_hex(text[i]))
            return false;
    }
    return text[EV_UUID_LEN] == '\0';
}
