/* SPDX-License-Identifier: Apache-2.0 */
/* Three replicas, with frontier acks. */
#define TRUTH_FRONTIER true
#include "test_truth_nats_cluster_serial.c" /* the same, with frontier acks */
