/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a case that failed leaves running. The assertion leaves the case's frame; its loop thread goes on in it, and its server is
 * still listed there: what follows may hang or crash anywhere, the end of the program too (seen: until the test's time was over).
 * Who starts something of that kind in a case counts it here; where anything is left, the program ends, before the next case
 * and at the end of the group: what failed was said then.
 */
#ifndef EV_TESTS_LEFT_H
#define EV_TESTS_LEFT_H

void left_add(void);
void left_remove(void);
/* Set-up of each case, and tear-down of the group. */
int left_none(void **state);

#define LEFT_CASE(fn) cmocka_unit_test_setup(fn, left_none)

#endif
