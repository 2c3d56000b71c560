/* SPDX-License-Identifier: Apache-2.0 */
#include "loop_assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef LargestIntegralType any_int;

struct trap {
    jmp_buf at;
    char *text;
};

static _Thread_local struct trap *trap;

bool loop_try(void (*fn)(void *arg), void *arg, char text[LOOP_TEXT])
{
    struct trap here = {.text = text};

    text[0] = 0;
    trap = &here;
    if (setjmp(here.at) == 0)
        fn(arg);
    trap = NULL;
    return text[0] == 0;
}

void loop_fail(const char *text)
{
    print_error("%s\n", text);
    fail();
}

/* The case's own thread goes on: cmocka says it there. */
__attribute__((format(printf, 3, 4))) static void say(const char *file, int line, const char *format, ...)
{
    char what[LOOP_TEXT / 2];
    va_list list;

    if (!trap && gettid() == getpid())
        return;
    va_start(list, format);
    (void)vsnprintf(what, sizeof what, format, list);
    va_end(list);
    if (trap) {
        (void)snprintf(trap->text, LOOP_TEXT, "%s:%d: %s", file, line, what);
        longjmp(trap->at, 1);
    }
    (void)fflush(stdout); /* the last line of it is the name of the case */
    (void)fprintf(stderr, "%s:%d: %s (on a thread of the case: the program ends)\n", file, line, what);
}

/* ---- In the place of cmocka's ------------------------------------------------------------------------------------ */

void __real__assert_true(any_int result, const char *expression, const char *file, int line);
void __real__assert_int_equal(any_int a, any_int b, const char *file, int line);
void __real__assert_int_not_equal(any_int a, any_int b, const char *file, int line);
void __real__assert_in_range(any_int value, any_int least, any_int most, const char *file, int line);
void __real__assert_string_equal(const char *a, const char *b, const char *file, int line);
void __real__fail(const char *file, int line);

void __wrap__assert_true(any_int result, const char *expression, const char *file, int line);
void __wrap__assert_int_equal(any_int a, any_int b, const char *file, int line);
void __wrap__assert_int_not_equal(any_int a, any_int b, const char *file, int line);
void __wrap__assert_in_range(any_int value, any_int least, any_int most, const char *file, int line);
void __wrap__assert_string_equal(const char *a, const char *b, const char *file, int line);
void __wrap__fail(const char *file, int line);

void __wrap__assert_true(any_int result, const char *expression, const char *file, int line)
{
    if (!result)
        say(file, line, "%s", expression);
    __real__assert_true(result, expression, file, line);
}

void __wrap__assert_int_equal(any_int a, any_int b, const char *file, int line)
{
    if (a != b)
        say(file, line, "%jd != %jd", (intmax_t)a, (intmax_t)b);
    __real__assert_int_equal(a, b, file, line);
}

void __wrap__assert_int_not_equal(any_int a, any_int b, const char *file, int line)
{
    if (a == b)
        say(file, line, "%jd == %jd", (intmax_t)a, (intmax_t)b);
    __real__assert_int_not_equal(a, b, file, line);
}

void __wrap__assert_in_range(any_int value, any_int least, any_int most, const char *file, int line)
{
    if (value < least || value > most)
        say(file, line, "%ju is not within %ju-%ju", (uintmax_t)value, (uintmax_t)least, (uintmax_t)most);
    __real__assert_in_range(value, least, most, file, line);
}

void __wrap__assert_string_equal(const char *a, const char *b, const char *file, int line)
{
    if (strcmp(a, b) != 0)
        say(file, line, "\"%s\" != \"%s\"", a, b);
    __real__assert_string_equal(a, b, file, line);
}

void __wrap__fail(const char *file, int line)
{
    say(file, line, "it failed");
    __real__fail(file, line);
}
