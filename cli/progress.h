/* SPDX-License-Identifier: Apache-2.0 */
/* One line on stderr that tells how far long work is: on a terminal rewritten in place, else (--progress) a line each. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool on, terminal, shown;
    int64_t next_ns;
};

/* On when stderr is a terminal, or when asked for. */
void progress_init(struct progress *p, bool asked);
bool progress_due(struct progress *p); /* a few times a second on a terminal, once a second elsewhere */
__attribute__((format(printf, 2, 3))) void progress_show(struct progress *p, const char *format, ...);
void progress_clear(struct progress *p);

/* 1234567 as "1,234,567"; returns out. */
const char *grouped(uint64_t value, char out[32]);

#endif
