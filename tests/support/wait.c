/* SPDX-License-Identifier: Apache-2.0 */
#include "wait.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

int64_t wait_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

uint32_t wait_patience_ms(void)
{
    return getenv("EVBUS_SANITIZE") ? 60000 : 20000;
}

bool wait_until(bool (*done)(void *arg), void *arg, uint32_t ms)
{
    const int64_t until = wait_now_ms() + ms;

    while (!done(arg)) {
        if (wait_now_ms() >= until)
            return done(arg);
        (void)poll(NULL, 0, 1);
    }
    return true;
}

void wait_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool wait_cond(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until_ms)
{
    const struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};

    return pthread_cond_timedwait(cond, mutex, &ts) != ETIMEDOUT;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

void wait_out(uint32_t ms)
{
    (void)wait_until(never, NULL, ms);
}

void gate_init(struct gate *gate)
{
    *gate = (struct gate){.open = false};
    pthread_mutex_init(&gate->mutex, NULL);
    wait_cond_init(&gate->changed);
}

void gate_fini(struct gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->mutex);
}

static bool pass(struct gate *gate, int64_t until)
{
    bool in_time = true;

    pthread_mutex_lock(&gate->mutex);
    gate->inside++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open && in_time)
        in_time = wait_cond(&gate->changed, &gate->mutex, until);
    const bool open = gate->open;
    gate->inside--;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->mutex);
    return open;
}

void gate_pass(struct gate *gate)
{
    while (!pass(gate, wait_now_ms() + 3600000))
        ;
}

bool gate_pass_within(struct gate *gate, uint32_t ms)
{
    return pass(gate, wait_now_ms() + ms);
}

bool gate_await_inside(struct gate *gate, uint32_t count)
{
    const int64_t until = wait_now_ms() + wait_patience_ms();
    bool in_time = true;

    pthread_mutex_lock(&gate->mutex);
    while (gate->inside < count && in_time)
        in_time = wait_cond(&gate->changed, &gate->mutex, until);
    const bool ok = gate->inside >= count;
    pthread_mutex_unlock(&gate->mutex);
    return ok;
}

static void set(struct gate *gate, bool open)
{
    pthread_mutex_lock(&gate->mutex);
    gate->open = open;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->mutex);
}

void gate_open(struct gate *gate)
{
    set(gate, true);
}

void gate_close(struct gate *gate)
{
    set(gate, false);
}
