/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rare ends of a ring's life; what it does in between is in ring.h. One thread only: the ring is handed to others by
 * whatever starts them, so its first values need no order of their own.
 */
#include "conc/ring.h"

#include "base/alloc.h"

evbus_status ev_ring_init(struct ev_ring *ring, uint32_t capacity)
{
    uint64_t count = 2;

    while (count < capacity)
        count *= 2;

    atomic_init(&ring->tail, 0);
    atomic_init(&ring->head, 0);
    ring->mask = count - 1;
    ring->cells = ev_aligned(EV_APART, count * sizeof ring->cells[0]);
    if (ring->cells == NULL)
        return ev_fail(EVBUS_NOMEM, "no memory for a queue of %llu", (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++)
        atomic_init(&ring->cells[i].seq, i); /* free, for position i */
    return EVBUS_OK;
}

void ev_ring_fini(struct ev_ring *ring)
{
    ev_free(ring->cells);
    ring->cells = NULL;
}
