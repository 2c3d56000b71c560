/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assertions of cmocka on another thread than the case's. Left alone, one that fails there ends the program and its text is
 * lost. Here it says where and what, behind the name of the case; and what loop_try runs is left at that assertion,
 * for the case's thread to fail with its text.
 *
 * Every program that links tests/support has it: the linker puts it before cmocka's (cmake/EvbusTests.cmake).
 */
#ifndef EV_TESTS_LOOP_ASSERT_H
#define EV_TESTS_LOOP_ASSERT_H

#include <stdbool.h>

#define LOOP_TEXT 400

/* Runs fn(arg), on any thread. False: an assertion failed, and `text` is it ("<file>:<line>: <what>"). */
bool loop_try(void (*fn)(void *arg), void *arg, char text[LOOP_TEXT]);

/* On the case's thread: fails it with what loop_try wrote on another. */
void loop_fail(const char *text);

#endif
