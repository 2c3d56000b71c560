/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of the library: named, signals blocked, one place. Threads: any. */
#ifndef EV_BASE_THREAD_H
#define EV_BASE_THREAD_H

#include "base/status.h"

#include <pthread.h>
#include <stdint.h>

/* `name` at most 15 bytes. EVBUS_SYSTEM when the system refuses. All signals are blocked in the new thread. */
evbus_status ev_thread_start(pthread_t *ret, const char *name, void *(*fn)(void *), void *arg);

uint32_t ev_thread_cores(void);             /* that this process may use, at least 1 */
int64_t ev_thread_cpu_ns(pthread_t thread); /* CPU time of a live thread; -1 if unknown */

#endif
