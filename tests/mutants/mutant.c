/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the mistakes of conc/atomic.h this process makes: $EVBUS_MUTANT, by name. In EV_MUTANTS builds only. */
#include "conc/atomic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum ev_model_bug ev_model_bug;

#define MUTANTS(X)                                                                                                     \
    X(EPOCH_EARLY)                                                                                                     \
    X(BATON_DROPS)                                                                                                     \
    X(RETRY_BEHIND)                                                                                                    \
    X(ACK_EARLY)                                                                                                       \
    X(DROP_ON_FULL)                                                                                                    \
    X(SETTLED_FORGOTTEN)                                                                                               \
    X(SPAN_NO_HOLES)                                                                                                   \
    X(LETTER_UNSTORED)                                                                                                 \
    X(GAP_FORGOTTEN)                                                                                                   \
    X(LEASE_SKIPPED)                                                                                                   \
    X(RIGHT_FORGOTTEN)                                                                                                 \
    X(NO_CHARGE)                                                                                                       \
    X(RESEND_ANY)                                                                                                      \
    X(UNKNOWN_REFUSED)                                                                                                 \
    X(UNKNOWN_LEAVES)                                                                                                  \
    X(RECEIPT_DROPPED)                                                                                                 \
    X(FLIGHT_OFF)                                                                                                      \
    X(FRONTIER_PAST)                                                                                                   \
    X(FRONTIER_CERTAIN)

__attribute__((constructor)) static void choose(void)
{
    static const struct {
        const char *name;
        enum ev_model_bug bug;
    } all[] = {
#define X(name) {#name, EV_BUG_##name},
        MUTANTS(X)
#undef X
    };
    const char *name = getenv("EVBUS_MUTANT");

    if (!name || !*name)
        return;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].name, name) == 0)
            ev_model_bug = all[i].bug;
    if (ev_model_bug == EV_BUG_NONE) {
        (void)fprintf(stderr, "EVBUS_MUTANT=%s: there is no such mistake\n", name);
        abort();
    }
}
