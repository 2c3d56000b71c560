/* SPDX-License-Identifier: Apache-2.0 */
/* Coroutines of the explorer: two sides of a switch, each with a stack of its own. One operating-system thread. */
#ifndef EV_MODEL_SIDE_H
#define EV_MODEL_SIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIDE_WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIDE_WITH_ASAN 1
#endif
#endif
#ifndef SIDE_WITH_ASAN
#define SIDE_WITH_ASAN 0
#endif

struct side {
    ucontext_t context;  /* where there is no switch of our own */
    void *stack_pointer; /* where there is */
    const void *stack;
    size_t stack_bytes;
    void *fake_stack; /* AddressSanitizer's; lives as long as the program */
};

/* The next switch to it begins `entry`, which never returns. The last run's frames on that stack are forgotten. */
void side_set_up(struct side *side, char *stack, size_t stack_bytes, void (*entry)(void));

/* First thing in `entry`. `home`: the side that switched here, if it is the program's own stack; else NULL. */
void side_begin(const struct side *side, struct side *home);

/* Returns when somebody switches back to `from`. */
void side_switch(struct side *from, struct side *to);

#endif
