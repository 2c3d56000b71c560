/* SPDX-License-Identifier: Apache-2.0 */
/* The server and the network, with frontier acks. */
#define TRUTH_FRONTIER true
#include "test_truth_nats_server.c" /* the same, with frontier acks */
