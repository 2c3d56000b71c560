/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's half of bell.h: an eventfd, whose counter is 0 or more. Calls on it give no ordering that C11 or
 * ThreadSanitizer knows of, and none is needed. EV_MODEL builds replace the two calls by steps of the explorer.
 */
#include "conc/bell.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { SILENT, CLAIMED, RUNG };

#ifdef EV_MODEL

static evbus_status make(int32_t *ret)
{
    *ret = 1;
    return EVBUS_OK;
}

static void put(struct ev_bell *bell)
{
    ev_add_seqcst(&bell->written, 1);
}

static void clear(struct ev_bell *bell)
{
    ev_swap_seqcst(&bell->written, 0);
}

void ev_bell_fini(struct ev_bell *bell)
{
    ev_store_relaxed(&bell->fd, 0); /* nobody uses it any more */
}

evbus_status ev_bell_share(struct ev_bell *bell, int *ret_fd)
{
    (void)bell;
    *ret_fd = -1;
    return ev_fail(EVBUS_SYSTEM, "no descriptors in a model");
}

#else

static evbus_status make(int32_t *ret)
{
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return ev_fail(EVBUS_SYSTEM, "no descriptor for receipts: %s", strerror(errno));
    *ret = fd;
    return EVBUS_OK;
}

static int fd_of(struct ev_bell *bell)
{
    return ev_load_relaxed(&bell->fd) - 1; /* set once, and seen before */
}

/* Neither can fail: the counter is far from its end, and nobody else reads. */
static void put(struct ev_bell *bell)
{
    (void)eventfd_write(fd_of(bell), 1);
}

static void clear(struct ev_bell *bell)
{
    eventfd_t count;

    (void)eventfd_read(fd_of(bell), &count);
}

void ev_bell_fini(struct ev_bell *bell)
{
    if (fd_of(bell) >= 0)
        (void)close(fd_of(bell));
    ev_store_relaxed(&bell->fd, 0); /* nobody uses it any more */
}

evbus_status ev_bell_share(struct ev_bell *bell, int *ret_fd)
{
    const int fd = fcntl(fd_of(bell), F_DUPFD_CLOEXEC, 0);

    if (fd < 0)
        return ev_fail(EVBUS_SYSTEM, "no descriptor for receipts: %s", strerror(errno));
    *ret_fd = fd;
    return EVBUS_OK;
}

#endif

static bool claim(struct ev_bell *bell, uint32_t from)
{
    return ev_cas_seqcst(&bell->state, &from, CLAIMED); /* Y1, Y6 */
}

/* Each look is at what the last store may have missed, so it ends when nothing changed meanwhile. */
static void follow(struct ev_bell *bell, bool ring, bool (*has_more)(void *arg), void *arg)
{
    while (claim(bell, ring ? SILENT : RUNG)) {
        if (ring)
            put(bell);
        else
            clear(bell);
        ev_store_seqcst(&bell->state, ring ? RUNG : SILENT); /* Y5, Y2 */
        if (EV_BUG(ring ? EV_BUG_BELL_LATE_RING : EV_BUG_BELL_NO_SECOND_LOOK) || has_more(arg) == ring)
            return;
        ring = !ring;
    }
}

void ev_bell_ring_it(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg)
{
    follow(bell, true, has_more, arg);
}

evbus_status ev_bell_open(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg)
{
    int32_t fd = -1;

    if (ev_load_relaxed(&bell->fd) != 0) /* own field: the mutex's */
        return EVBUS_OK;
    const evbus_status st = make(&fd);
    if (st != EVBUS_OK)
        return st;
    ev_store_seqcst(&bell->fd, fd + 1); /* Y4 */
    if (has_more(arg))
        follow(bell, true, has_more, arg);
    return EVBUS_OK;
}

void ev_bell_hush(struct ev_bell *bell, bool (*has_more)(void *arg), void *arg)
{
    if (ev_load_relaxed(&bell->fd) != 0) /* own field: the mutex's */
        follow(bell, false, has_more, arg);
}
