/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows (parameters that are JSON lists), numbers as text, ids. Threads: one per object. */
#ifndef EV_OUTBOX_TEXT_H
#define EV_OUTBOX_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_text {
    char *data; /* NULL until something was added */
    size_t len, cap;
    bool broken; /* out of memory: what was added since is missing */
};

void ev_text_clear(struct ev_text *t);
void ev_text_fini(struct ev_text *t);
__attribute__((format(printf, 2, 3))) void ev_text_add(struct ev_text *t, const char *fmt, ...);

#define EV_NUMBER_SIZE 24
const char *ev_number(int64_t value, char out[EV_NUMBER_SIZE]);
int64_t ev_number_of(const char *text); /* NULL: 0 */

#define EV_UUID_SIZE 37
bool ev_outbox_uuid(int64_t wall_ns, char out[EV_UUID_SIZE]); /* false: the system gives no random bytes */

uint64_t ev_hash_of(const char *text); /* FNV-1a: the same in every process and version */

int64_t ev_wall_ns(void);
int64_t ev_boot_ns(void); /* monotonic, and going on while the machine sleeps */

#endif
