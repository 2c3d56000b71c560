/* SPDX-License-Identifier: Apache-2.0 */
#include "stop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

static int pipe_fd[2] = {-1, -1};
static atomic_bool asked;
static atomic_int first_signal;
static bool be_patient;

void stop_ask(void)
{
    const int saved = errno;

    atomic_store(&asked, true);
    if (pipe_fd[1] >= 0)
        (void)!write(pipe_fd[1], "", 1); /* full: somebody has asked already */
    errno = saved;
}

static void on_signal(int number)
{
    int none = 0;

    if (!atomic_compare_exchange_strong(&first_signal, &none, number) && !be_patient)
        _exit(128 + number);
    stop_ask();
}

bool stop_init(bool patient)
{
    struct sigaction act = {.sa_handler = on_signal}; /* no SA_RESTART: reading from stdin must end */

    be_patient = patient;
    if (pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK) != 0)
        return false;
    (void)sigemptyset(&act.sa_mask);
    (void)sigaction(SIGINT, &act, NULL);
    (void)sigaction(SIGTERM, &act, NULL);
    (void)sigaction(SIGHUP, &act, NULL);
    return true;
}

bool stop_wait(uint32_t ms)
{
    struct pollfd p = {.fd = pipe_fd[0], .events = POLLIN};

    if (!atomic_load(&asked))
        (void)poll(&p, 1, (int)ms); /* interrupted: the flag says why */
    return atomic_load(&asked);
}

bool stop_asked(void)
{
    return atomic_load(&asked);
}

int stop_signal(void)
{
    return atomic_load(&first_signal);
}

void stop_mask(bool masked)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(masked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

int64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
