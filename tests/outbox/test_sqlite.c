/* SPDX-License-Identifier: Apache-2.0 */
#include "case.h"

#include "cases.h"

int main(void)
{
    RUN_OUTBOX_CASES("sqlite", false, );
}
