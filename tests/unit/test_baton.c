/* SPDX-License-Identifier: Apache-2.0 */
/* The baton: one runner at a time, no request lost, nobody waits. */
#include "conc/baton.h"
#include "conc/ring.h"
#include "support/race.h"

#include <sched.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Alone: taken once, asked for twice, run twice. */
static void test_baton_runs_again_when_asked_meanwhile(void **state)
{
    struct ev_baton baton = {0};

    (void)state;
    assert_true(ev_baton_take(&baton));
    assert_false(ev_baton_pass(&baton));
    assert_true(ev_baton_take(&baton));
    assert_false(ev_baton_take(&baton));
    assert_false(ev_baton_take(&baton));
    assert_true(ev_baton_pass(&baton)); /* two requests, one more run */
    assert_false(ev_baton_pass(&baton));
    assert_true(ev_baton_take(&baton));
    assert_false(ev_baton_pass(&baton));
}

#define THREADS 4
#define COMMANDS_EACH 300

struct machine {
    struct ev_baton baton;
    struct ev_ring mailbox;
    _Atomic(int) running;
    int handled; /* plain: only the runner touches it, and ThreadSanitizer sees whether that is so */
    int sum;
    int commands[THREADS][COMMANDS_EACH];
};

static void run_machine(struct machine *machine)
{
    void *item;

    RACE_CHECK(atomic_fetch_add(&machine->running, 1) == 0);
    while (ev_ring_pop_one(&machine->mailbox, &item)) {
        machine->handled++;
        machine->sum += *(int *)item;
    }
    atomic_fetch_sub(&machine->running, 1);
}

static void command_machine(int index, void *ctx)
{
    struct machine *machine = ctx;

    for (int i = 0; i < COMMANDS_EACH; i++) {
        machine->commands[index][i] = i;
        while (!ev_ring_push(&machine->mailbox, &machine->commands[index][i]))
            sched_yield();
        if (ev_baton_take(&machine->baton))
            do
                run_machine(machine);
            while (ev_baton_pass(&machine->baton));
    }
}

/* Many threads post commands: one runs at a time, and when all are home every command has been run. */
static void test_baton_handles_every_command(void **state)
{
    static struct machine machine;

    (void)state;
    for (int round = 0; round < RACE_REPETITIONS; round++) {
        memset(&machine, 0, sizeof machine);
        assert_int_equal(ev_ring_init(&machine.mailbox, 8), EVBUS_OK);
        race_run(THREADS, command_machine, &machine);
        assert_int_equal(race_failures(), 0);
        assert_int_equal(machine.handled, THREADS * COMMANDS_EACH);
        assert_int_equal(machine.sum, THREADS * COMMANDS_EACH * (COMMANDS_EACH - 1) / 2);
        assert_int_equal(ev_load_relaxed(&machine.baton.state), EV_BATON_FREE);
        ev_ring_fini(&machine.mailbox);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_baton_runs_again_when_asked_meanwhile),
        cmocka_unit_test(test_baton_handles_every_command),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
