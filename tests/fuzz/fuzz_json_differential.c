/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes: our JSON walk and jansson agree (differential.h; 200,000 documents of it are test_json_differential). */
#include "differential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    differential_check(data, size);
    return 0;
}
