/* SPDX-License-Identifier: Apache-2.0 */
/* The outcome of the demo on stdout: a table with a column per broker, or one JSON object. */
#ifndef CLI_DEMO_TABLE_H
#define CLI_DEMO_TABLE_H

#include "demo.h"

void demo_table_print(const struct demo_plan *plan, const struct demo_result *results, size_t n, bool json);

#endif
