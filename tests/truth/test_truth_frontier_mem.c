/* SPDX-License-Identifier: Apache-2.0 */
/* mem://, with frontier acks. */
#define TRUTH_FRONTIER true
#include "test_truth_mem.c" /* the same, with frontier acks */
