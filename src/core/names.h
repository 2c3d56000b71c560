/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: which topics are legal, which subjects a pattern covers, and how streams and durables are called.
 * The texts of the rules follow origin's; the NATS rules (tokens, wildcards) are added. Threads: any.
 */
#ifndef EV_CORE_NAMES_H
#define EV_CORE_NAMES_H

#include "core/backend.h"

#define EV_TOPIC_MAX 255

/* EVBUS_INVALID names the topic, the offending byte and the rule. `pattern`: * and > are allowed as whole tokens. */
evbus_status ev_topic_check(const char *topic, bool pattern, size_t *ret_len);
bool ev_topic_is_pattern(const char *topic);

/* 1..64 bytes of A-Z a-z 0-9 _ -; `what` names the option. */
evbus_status ev_name_check(const char *what, const char *name);

/* True if every subject that `subject` (a topic or pattern) can match is matched by `pattern`. */
bool ev_subject_covers(const char *pattern, const char *subject);

/* True if there is a subject that both match. */
bool ev_subjects_overlap(const char *a, const char *b);

/* Injective: a readable part and 16 hex digits of a hash, stable across processes and versions. */
void ev_stream_name(char out[EV_NAME_MAX], const char *topic);
uint64_t ev_durable_name(char out[EV_NAME_MAX], const char *group, const char *topic);
uint64_t ev_ephemeral_name(char out[EV_NAME_MAX], const char *topic, uint64_t unique);

#endif
