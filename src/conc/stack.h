/* SPDX-License-Identifier: Apache-2.0 */
/* Free places by number: any thread takes one, any thread gives one back.
 *
 * Why       A ring does not do for this: a thread that stands still inside a pop keeps its cell, and the push that comes
 *           round to that cell fails although there is room, so that a place would be lost; one that stands still
 *           inside a push hides all that was pushed after. Here every operation is one exchange.
 *
 * Use       The places are elements of an array, each with a struct ev_stack_link. ev_stack_init leaves the stack empty.
 *
 * Who       top   pops so far << 24 | number of the top place + 1; 0 below: empty. Everybody exchanges it.
 *           link  who gives the place back writes it before the exchange; who takes it reads it, perhaps in vain.
 *           places, stride  constant after init.
 *
 * Edges     Q1 (push, release exchange of top) -> Q2 (pop, acquire load or exchange): what the giver did before. Top is
 *              only ever exchanged, so the edge holds for places below the top as well.
 *           Q3 (push, seq_cst exchange) / Q4 (pop, seq_cst load): Dekker's pattern with a sleeper's flag, as C of ring.h.
 *           A link may be of a place that was taken meanwhile: then the count of pops has changed, and the exchange fails.
 *
 * Progress  push and pop are lock-free; nobody waits for a thread that stands still.
 *
 * Holds     each number is in the stack at most once. The count of pops would have to wrap (2^40) while a thread stands
 *           still between its load and its exchange, and come out the same.
 * Checked   tests/model/test_stack.c, tests/model/test_slots.c
 */
#ifndef EV_CONC_STACK_H
#define EV_CONC_STACK_H

#include "conc/atomic.h"

#include <stdalign.h>

#define EV_STACK_BITS 24 /* at most 2^24 - 1 places */
#define EV_STACK_NUMBER ((UINT64_C(1) << EV_STACK_BITS) - 1)

struct ev_stack_link {
    _Atomic(uint32_t) below; /* number + 1 */
};

struct ev_stack {
    alignas(EV_APART) _Atomic(uint64_t) top;
    alignas(EV_APART) char *places;
    size_t stride;
};

/* `first`: the link of place 0; those of the others follow, `stride` bytes apart. */
static inline void ev_stack_init(struct ev_stack *stack, struct ev_stack_link *first, size_t stride)
{
    atomic_init(&stack->top, 0);
    stack->places = (char *)first;
    stack->stride = stride;
}

/* Puts the places 0 .. count - 1 in, 0 on top. Before anybody else knows the stack. */
static inline void ev_stack_fill(struct ev_stack *stack, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct ev_stack_link *link = (struct ev_stack_link *)(void *)(stack->places + i * stack->stride);
        atomic_init(&link->below, i + 1 < count ? i + 2 : 0);
    }
    atomic_init(&stack->top, count ? 1 : 0);
}

static inline struct ev_stack_link *ev_stack_link_(const struct ev_stack *stack, uint32_t number)
{
    return (struct ev_stack_link *)(void *)(stack->places + number * stack->stride);
}

/* Places that are not in the stack yet, tied by their links: they go in by one exchange. One thread's; zeroed: empty. */
struct ev_stack_row {
    uint32_t top, bottom; /* numbers */
    uint32_t count;
};

static inline void ev_stack_row_add(const struct ev_stack *stack, struct ev_stack_row *row, uint32_t number)
{
    ev_store_relaxed(&ev_stack_link_(stack, number)->below, row->count ? row->top + 1 : 0); /* published by Q1 */
    row->bottom = row->count ? row->bottom : number;
    row->top = number;
    row->count++;
}

/* What is in the row; it is empty afterwards. */
static inline void ev_stack_push_row(struct ev_stack *stack, struct ev_stack_row *row)
{
    struct ev_stack_link *bottom = ev_stack_link_(stack, row->bottom);
    uint64_t seen = ev_load_relaxed(&stack->top); /* hint: the exchange checks it */
    uint64_t next;

    if (row->count == 0)
        return;
    do {
        ev_store_relaxed(&bottom->below, (uint32_t)(seen & EV_STACK_NUMBER)); /* published by Q1 */
        next = (seen & ~EV_STACK_NUMBER) | (row->top + 1);
    } while (!ev_cas_seqcst(&stack->top, &seen, next)); /* Q1, Q3 */
    row->count = 0;
}

static inline void ev_stack_push(struct ev_stack *stack, uint32_t number)
{
    ev_stack_push_row(stack, &(struct ev_stack_row){.top = number, .bottom = number, .count = 1});
}

/* False: empty. */
static inline bool ev_stack_pop(struct ev_stack *stack, uint32_t *ret_number)
{
    uint64_t seen = ev_load_seqcst(&stack->top); /* Q2, Q4 */
    uint64_t next;
    uint32_t number;

    do {
        if ((seen & EV_STACK_NUMBER) == 0)
            return false;
        number = (uint32_t)(seen & EV_STACK_NUMBER) - 1;
        const uint32_t below =
            ev_load_relaxed(&ev_stack_link_(stack, number)->below); /* hint: the exchange checks it */
        next = (seen & ~EV_STACK_NUMBER) | below;
        if (!EV_BUG(EV_BUG_STACK_NO_COUNT))
            next += UINT64_C(1) << EV_STACK_BITS;
    } while (!ev_cas_seqcst(&stack->top, &seen, next)); /* Q2 */
    *ret_number = number;
    return true;
}

/* What a pop would give now: by the time it is used another may have taken it. False: empty. */
static inline bool ev_stack_peek(struct ev_stack *stack, uint32_t *ret_number)
{
    const uint64_t seen = ev_load_relaxed(&stack->top); /* hint */

    *ret_number = (uint32_t)(seen & EV_STACK_NUMBER) - 1;
    return (seen & EV_STACK_NUMBER) != 0;
}

/* Places taken so far, modulo 2^40: for statistics, others go on. */
static inline uint64_t ev_stack_pops(struct ev_stack *stack)
{
    return ev_load_relaxed(&stack->top) >> EV_STACK_BITS; /* hint */
}

static inline bool ev_stack_empty(struct ev_stack *stack)
{
    return (ev_load_seqcst(&stack->top) & EV_STACK_NUMBER) == 0; /* Q4 */
}

#endif
