/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ending: SIGINT, SIGTERM, SIGHUP and stop_ask() from any thread make stop_wait() return. Signals only write into a
 * pipe, so that the ending itself is ordinary code on the main thread.
 */
#ifndef CLI_STOP_H
#define CLI_STOP_H

#include <stdbool.h>
#include <stdint.h>

/* A second signal ends the process at once, unless `patient`. False: no pipe. */
bool stop_init(bool patient);

/* Waits until asked to stop, at most `ms`; true: asked. */
bool stop_wait(uint32_t ms);

void stop_ask(void);
bool stop_asked(void);
int stop_signal(void); /* the first signal that came, 0: none */

/* Threads that are started while masked never see the signals, so that their writes are not interrupted. */
void stop_mask(bool masked);

int64_t now_ns(void); /* monotonic */

#endif
