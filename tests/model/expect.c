/* SPDX-License-Identifier: Apache-2.0 */
/* What a test says of a model: it is sound, and with a mistake switched on it is not. */
#include "explore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

void model_expect_sound(const struct model *model)
{
    const struct model_result result = model_explore(model);

    if (result.failure != NULL) {
        model_print_schedule();
        fail_msg("%s: %s", model->name, result.failure);
    }
}

void model_expect_found(const struct model *model, enum ev_model_bug bug, const char *bug_name)
{
    ev_model_bug = bug;
    const struct model_result result = model_explore(model);
    ev_model_bug = EV_BUG_NONE;

    if (result.failure == NULL)
        fail_msg("%s: %s was not found", model->name, bug_name);
    printf("  that was %s, found\n", bug_name);
}
