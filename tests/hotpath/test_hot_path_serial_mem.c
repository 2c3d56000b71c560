/* SPDX-License-Identifier: Apache-2.0 */
/* While messages flow on mem://, our objects take no lock, allocate nothing and rarely ask the kernel to sleep or wake. */
#include "hot_path.h"

#include <pthread.h>
#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* The counters count what this program calls; a test that relies on them shows that first. */
static void test_hot_path_counters_count_calls_of_this_program(void **state)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

    (void)state;
    count_start();
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    void *volatile block = malloc(1);
    free(block);
    count_stop();
    const struct calls calls = count_read();
    assert_int_equal(calls.mutex, 1);
    assert_int_equal(calls.alloc, 1);
    assert_int_equal(calls.free, 1);
    assert_int_equal(calls.rwlock + calls.condition + calls.futex, 0);
}

static void test_hot_path_mem_plain_takes_no_lock(void **state)
{
    const struct hot_flow flow = {"mem://", false, false, 200000, 4};

    (void)state;
    hot_path_check(&flow);
}

static void test_hot_path_mem_envelopes_take_no_lock(void **state)
{
    const struct hot_flow flow = {"mem://", true, false, 100000, 4};

    (void)state;
    hot_path_check(&flow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hot_path_counters_count_calls_of_this_program),
        cmocka_unit_test(test_hot_path_mem_plain_takes_no_lock),
        cmocka_unit_test(test_hot_path_mem_envelopes_take_no_lock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
