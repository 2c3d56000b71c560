/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_fault.h"

static _Thread_local const struct ev_mem_fault *next_fault;

void ev_mem_fault_next(const struct ev_mem_fault *fault)
{
    next_fault = fault;
}

const struct ev_mem_fault *ev_mem_fault_take(void)
{
    const struct ev_mem_fault *fault = next_fault;

    next_fault = NULL;
    return fault;
}
