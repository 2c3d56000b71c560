/* SPDX-License-Identifier: Apache-2.0 */
/* Several members, with frontier acks. */
#define TRUTH_FRONTIER true
#include "test_truth_nats_members.c" /* the same, with frontier acks */
