/* SPDX-License-Identifier: Apache-2.0 */
/* What a failing assertion on a thread of a test says, and how the test ends; how a program ends in which a failed case left
 * something running: looked at in a process of its own. */
#include "support/left.h"
#include "support/loop_assert.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char text[LOOP_TEXT];
static bool went_on;

/* ---- Cases that fail --------------------------------------------------------------------------------------------- */

static void wants_truth(void *arg)
{
    const int *number = arg;

    assert_true(*number == 7);
    went_on = true;
}

static void *by_itself(void *arg)
{
    wants_truth(arg);
    return NULL;
}

static void *within_try(void *arg)
{
    return loop_try(wants_truth, arg, text) ? NULL : text;
}

static void *on_thread(void *(*fn)(void *arg), int number)
{
    pthread_t thread;
    void *result = NULL;

    assert_int_equal(pthread_create(&thread, NULL, fn, &number), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    return result;
}

static void fails_by_itself(void **state)
{
    (void)state;
    (void)on_thread(by_itself, 8);
}

static void fails_within_try(void **state)
{
    (void)state;
    assert_ptr_equal(on_thread(within_try, 8), text);
    loop_fail(text);
}

static void fails_and_leaves_a_loop(void **state)
{
    (void)state;
    left_add();
    assert_true(false);
    left_remove();
}

static void ends_its_loop(void **state)
{
    (void)state;
    left_add();
    left_remove();
}

/* ---- Around them ------------------------------------------------------------------------------------------------- */

/* What a program that has only these cases prints, to `out`; its exit code. */
static int run_apart(const struct CMUnitTest *tests, size_t count, char *out, size_t cap)
{
    int ends[2], status = 0;
    size_t len = 0;

    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)dup2(ends[1], STDOUT_FILENO);
        (void)dup2(ends[1], STDERR_FILENO);
        const int failed = _cmocka_run_group_tests("apart", tests, count, NULL, left_none);
        (void)fflush(NULL);
        _exit(failed);
    }
    close(ends[1]);
    for (ssize_t n = 1; n > 0 && len<cap - 1; len += n> 0 ? (size_t)n : 0)
        n = read(ends[0], out + len, cap - 1 - len);
    out[len] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void must_say(const char *out, const char *what)
{
    if (!strstr(out, what))
        fail_msg("'%s' is not in: %s", what, out);
}

/* What loop_try ran is left there; the case fails, with its name and the text, and the program goes on. */
static void test_loop_assert_fails_the_case(void **state)
{
    const struct CMUnitTest test = cmocka_unit_test(fails_within_try);
    char out[4096];

    (void)state;
    assert_int_equal(run_apart(&test, 1, out, sizeof out), 1);
    must_say(out, "test_loop_assert.c:");
    must_say(out, ": *number == 7\n");
    must_say(out, "[  FAILED  ] fails_within_try");
}

/* Elsewhere cmocka ends the program: behind the name of the case stands why. */
static void test_loop_assert_speaks_before_the_end(void **state)
{
    const struct CMUnitTest test = cmocka_unit_test(fails_by_itself);
    char out[4096];

    (void)state;
    assert_int_equal(run_apart(&test, 1, out, sizeof out), 255);
    must_say(out, "fails_by_itself\n");
    must_say(out, "test_loop_assert.c:");
    must_say(out, ": *number == 7 (");
}

/* No case begins after one that failed and left something running, and the last one ends the program itself: what failed is said
 * before. */
static void test_left_running_ends_the_program(void **state)
{
    const struct CMUnitTest tests[] = {LEFT_CASE(ends_its_loop), LEFT_CASE(fails_and_leaves_a_loop),
                                       LEFT_CASE(ends_its_loop)};
    char out[4096];

    (void)state;
    assert_int_equal(run_apart(tests, 3, out, sizeof out), 1);
    must_say(out, "[       OK ] ends_its_loop");
    must_say(out, "[  FAILED  ] fails_and_leaves_a_loop");
    must_say(out, "the program ends here");
    const char *failed = strstr(out, "[  FAILED  ] fails_and_leaves_a_loop");
    assert_null(strstr(failed, "[       OK ]"));
    assert_int_equal(run_apart(tests + 1, 1, out, sizeof out), 1);
    must_say(out, "[  FAILED  ] fails_and_leaves_a_loop");
    must_say(out, "the program ends here");
    assert_int_equal(run_apart(tests, 1, out, sizeof out), 0);
}

static void test_loop_assert_lets_pass_what_holds(void **state)
{
    (void)state;
    assert_null(on_thread(within_try, 7));
    assert_true(went_on);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop_assert_fails_the_case),
        cmocka_unit_test(test_loop_assert_speaks_before_the_end),
        cmocka_unit_test(test_loop_assert_lets_pass_what_holds),
        cmocka_unit_test(test_left_running_ends_the_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
