/* SPDX-License-Identifier: Apache-2.0 */
/* The client dies or sleeps, with frontier acks. */
#define TRUTH_FRONTIER true
#include "test_truth_nats_client.c" /* the same, with frontier acks */
