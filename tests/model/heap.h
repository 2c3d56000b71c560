/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of a run. Between heap_begin and heap_end malloc and its like take from one array, in order, and nothing is
 * used again: addresses are the same in each run, a run that was broken off leaves nothing behind, and a step that
 * touches memory that was freed is seen as such. Each free is a step of the explorer.
 */
#ifndef EV_MODEL_HEAP_H
#define EV_MODEL_HEAP_H

#include <stdbool.h>
#include <stdint.h>

void heap_begin(void);
void heap_end(void);

uint64_t heap_live(void); /* blocks not freed since heap_begin */
bool heap_is_freed(const volatile void *place);

#endif
