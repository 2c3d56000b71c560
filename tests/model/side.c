/* SPDX-License-Identifier: Apache-2.0 */
/*
 * swapcontext saves the signal mask by two system calls each time; a switch of our own takes nanoseconds, and a search
 * makes a hundred million of them. Elsewhere than on x86-64 it is swapcontext. AddressSanitizer is told of each switch.
 */
#include "side.h"

#include <stdint.h>

#if SIDE_WITH_ASAN
#include <sanitizer/asan_interface.h>

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0"; /* a run that is broken off forgets what it was about to publish */
}
#endif

#ifdef __x86_64__
/* Saves what a function must keep on this stack, and goes on where the other one was left. */
void ev_model_switch(void **save, void *load);
__asm__(".text\n"
        "ev_model_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n");
#endif

static void arrived(const struct side *side, struct side *home)
{
#if SIDE_WITH_ASAN
    const void *stack;
    size_t bytes;

    __sanitizer_finish_switch_fiber(side->fake_stack, &stack, &bytes);
    if (home != NULL) {
        home->stack = stack;
        home->stack_bytes = bytes;
    }
#else
    (void)side;
    (void)home;
#endif
}

void side_set_up(struct side *side, char *stack, size_t stack_bytes, void (*entry)(void))
{
    side->stack = stack;
    side->stack_bytes = stack_bytes;
#if SIDE_WITH_ASAN
    __asan_unpoison_memory_region(stack, stack_bytes);
#endif
#ifdef __x86_64__
    void **top = (void **)(void *)(stack + stack_bytes - 64); /* aligned, so that entry finds its stack as if called */

    *--top = NULL; /* where it would return to */
    *--top = (void *)(uintptr_t)entry;
    top -= 6; /* registers, whatever they hold */
    side->stack_pointer = top;
#else
    getcontext(&side->context);
    side->context.uc_stack.ss_sp = stack;
    side->context.uc_stack.ss_size = stack_bytes;
    makecontext(&side->context, entry, 0);
#endif
}

void side_begin(const struct side *side, struct side *home)
{
    arrived(side, home);
}

void side_switch(struct side *from, struct side *to)
{
#if SIDE_WITH_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef __x86_64__
    ev_model_switch(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived(from, NULL);
}
