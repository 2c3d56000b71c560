/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation is counted, any one of them can be made to fail, and none is handed out unzeroed or unaligned. */
#include "base/alloc.h"
#include "support/race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Each way to allocate adds one live block, and ev_free takes it off. */
static void test_alloc_counts_live_blocks(void **state)
{
    const uint64_t total = ev_alloc_total();
    void *blocks[6];

    (void)state;
    assert_int_equal(ev_alloc_live(), 0);
    blocks[0] = ev_malloc(10);
    blocks[1] = ev_calloc(2, 5);
    blocks[2] = ev_aligned(128, 10);
    blocks[3] = ev_realloc(NULL, 10);
    blocks[4] = ev_strdup("text");
    blocks[5] = ev_strndup("text", 2);
    assert_int_equal(ev_alloc_live(), 6);
    assert_int_equal(ev_alloc_total() - total, 6);
    assert_string_equal(blocks[4], "text");
    assert_string_equal(blocks[5], "te");
    blocks[3] = ev_realloc(blocks[3], 1000);
    assert_int_equal(ev_alloc_live(), 6);
    for (int i = 0; i < 6; i++)
        ev_free(blocks[i]);
    ev_free(NULL);
    assert_int_equal(ev_alloc_live(), 0);
    assert_null(ev_strdup(NULL));
    assert_null(ev_strndup(NULL, 3));
}

/* Sizes of zero give a block, sizes that overflow give none. */
static void test_alloc_handles_the_ends_of_sizes(void **state)
{
    void *blocks[] = {ev_malloc(0), ev_calloc(0, 8), ev_calloc(8, 0), ev_aligned(64, 0), ev_realloc(NULL, 0)};
    volatile size_t huge = SIZE_MAX; /* volatile: or gcc warns that this cannot work */

    (void)state;
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        assert_non_null(blocks[i]);
        ev_free(blocks[i]);
    }
    assert_null(ev_calloc(huge / 2, 3));
    assert_null(ev_aligned(64, huge));
    assert_null(ev_aligned(64, huge - 10));
    assert_int_equal(ev_alloc_live(), 0);
}

/* ev_aligned keeps its alignment at every size, and its block is zeroed. */
static void test_alloc_aligned_is_aligned_and_zeroed(void **state)
{
    (void)state;
    for (size_t alignment = 16; alignment <= 4096; alignment *= 2) {
        for (size_t size = 1; size < 600; size += 97) {
            unsigned char *block = ev_aligned(alignment, size);

            assert_non_null(block);
            assert_int_equal((uintptr_t)block % alignment, 0);
            for (size_t i = 0; i < size; i++)
                assert_int_equal(block[i], 0);
            memset(block, 0xff, size);
            ev_free(block);
        }
    }
}

/* The hook fails exactly the allocation it was told to, once, whatever its kind. */
static void test_alloc_fails_the_nth_allocation_once(void **state)
{
    (void)state;
    for (int64_t nth = 1; nth <= 6; nth++) {
        void *blocks[6];
        void *old = ev_malloc(8);

        ev_alloc_fail_after(nth);
        blocks[0] = ev_malloc(8);
        blocks[1] = ev_calloc(1, 8);
        blocks[2] = ev_aligned(16, 8);
        blocks[3] = ev_realloc(old, 16);
        blocks[4] = ev_strdup("x");
        blocks[5] = ev_strndup("x", 1);
        for (int64_t i = 0; i < 6; i++)
            assert_int_equal(blocks[i] == NULL, i + 1 == nth);
        if (blocks[3] == NULL)
            blocks[3] = old; /* a failed realloc leaves the block */
        for (int i = 0; i < 6; i++)
            ev_free(blocks[i]);
        assert_int_equal(ev_alloc_live(), 0);
    }
    ev_alloc_fail_after(1);
    ev_alloc_fail_after(-1);
    void *block = ev_malloc(1);
    assert_non_null(block);
    ev_free(block);
}

/* A block kept for the life of the process does not count as live. */
static void test_alloc_kept_blocks_are_not_live(void **state)
{
    static void *kept;

    (void)state;
    kept = ev_malloc(16);
    ev_alloc_keep(kept);
    assert_int_equal(ev_alloc_live(), 0);
    ev_alloc_keep(NULL);
    assert_int_equal(ev_alloc_live(), 0);
    free(kept); /* not ev_free: it is not counted any more */
}

static void churn(int index, void *ctx)
{
    (void)index;
    (void)ctx;
    for (int i = 0; i < 2000; i++) {
        void *block = ev_malloc((size_t)i);

        RACE_CHECK(block != NULL);
        RACE_CHECK(ev_alloc_live() >= 1);
        ev_free(block);
    }
}

/* Threads that allocate at the same time lose no count. */
static void test_alloc_counts_across_threads(void **state)
{
    const uint64_t total = ev_alloc_total();

    (void)state;
    race_run(4, churn, NULL);
    assert_int_equal(race_failures(), 0);
    assert_int_equal(ev_alloc_total() - total, 8000);
    assert_int_equal(ev_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc_counts_live_blocks),
        cmocka_unit_test(test_alloc_handles_the_ends_of_sizes),
        cmocka_unit_test(test_alloc_aligned_is_aligned_and_zeroed),
        cmocka_unit_test(test_alloc_fails_the_nth_allocation_once),
        cmocka_unit_test(test_alloc_kept_blocks_are_not_live),
        cmocka_unit_test(test_alloc_counts_across_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
