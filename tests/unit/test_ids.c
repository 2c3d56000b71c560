/* SPDX-License-Identifier: Apache-2.0 */
/* Ids are distinct across threads and processes, and never go backwards on a thread. */
#include "base/ids.h"
#include "support/race.h"

#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 4
#define IDS_EACH 250000
#define MS INT64_C(1000000)

static int hex(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* Both halves of an id as numbers, for sorting and comparing a million of them. */
struct number {
    uint64_t high;
    uint64_t low;
};

static struct number number_of(const char *id)
{
    struct number number = {0, 0};
    int digits = 0;

    for (; *id != '\0'; id++) {
        if (*id == '-')
            continue;
        number.high = number.high << 4 | number.low >> 60;
        number.low = number.low << 4 | (uint64_t)hex(*id);
        digits++;
    }
    assert_int_equal(digits, 32);
    return number;
}

static int compare(const void *a, const void *b)
{
    const struct number *x = a;
    const struct number *y = b;

    if (x->high != y->high)
        return x->high < y->high ? -1 : 1;
    return x->low < y->low ? -1 : x->low > y->low;
}

static int64_t ms_of(const char *id)
{
    return (int64_t)(number_of(id).high >> 16);
}

/* An id carries version 7, the variant of RFC 9562 and the given millisecond. */
static void test_ids_uuid_has_the_layout_of_rfc_9562(void **state)
{
    char id[EV_UUID_LEN + 1];

    (void)state;
    ev_uuid7(INT64_C(1645557742000) * MS + 999999, id); /* the RFC's own example time */
    assert_int_equal(strlen(id), EV_UUID_LEN);
    assert_true(ev_is_uuid(id));
    assert_memory_equal(id, "017f22e2-79b0-7", 15);
    assert_non_null(strchr("89ab", id[19]));
}

/* Within one millisecond, and while the wall clock steps back, ids of a thread still rise. */
static void test_ids_rise_when_the_clock_stands_or_steps_back(void **state)
{
    const int64_t start = INT64_C(1700000000000);
    char id[EV_UUID_LEN + 1];
    char last[EV_UUID_LEN + 1] = "";

    (void)state;
    for (int64_t i = 0; i < 20000; i++) {
        ev_uuid7((start - i / 2) * MS, id);
        assert_true(strcmp(last, id) < 0);
        assert_int_equal(ms_of(id), start);
        memcpy(last, id, sizeof last);
    }
    ev_uuid7((start + 1) * MS, id);
    assert_int_equal(ms_of(id), start + 1);
    assert_true(strcmp(last, id) < 0);
    ev_uuid7(-5, id);
    assert_int_equal(ms_of(id), start + 1);
}

struct mint {
    struct number *numbers;
};

static void mint_ids(int index, void *ctx)
{
    struct number *out = ((struct mint *)ctx)->numbers + (size_t)index * IDS_EACH;
    char id[EV_UUID_LEN + 1];

    for (int i = 0; i < IDS_EACH; i++) {
        ev_uuid7(INT64_C(1800000000000) * MS, id); /* all in one millisecond: the hardest case */
        out[i] = number_of(id);
        RACE_CHECK(i == 0 || compare(&out[i - 1], &out[i]) < 0);
    }
}

/* A million ids of one millisecond from four threads are all different. */
static void test_ids_of_four_threads_are_distinct(void **state)
{
    const size_t count = (size_t)THREADS * IDS_EACH;
    struct mint mint = {malloc(count * sizeof(struct number))};

    (void)state;
    assert_non_null(mint.numbers);
    race_run(THREADS, mint_ids, &mint);
    assert_int_equal(race_failures(), 0);
    qsort(mint.numbers, count, sizeof mint.numbers[0], compare);
    for (size_t i = 1; i < count; i++)
        assert_true(compare(&mint.numbers[i - 1], &mint.numbers[i]) != 0);
    free(mint.numbers);
}

struct drawn {
    uint64_t random;
    uint32_t generation;
    char id[EV_UUID_LEN + 1];
};

static struct drawn draw(void)
{
    struct drawn drawn;

    memset(&drawn, 0, sizeof drawn);
    drawn.random = ev_random();
    drawn.generation = ev_fork_generation();
    ev_uuid7(INT64_C(1900000000000) * MS, drawn.id);
    return drawn;
}

/* A forked child counts a fork, and its next id and random number are not its parent's. */
static void test_ids_of_a_forked_child_differ(void **state)
{
    const struct drawn before = draw(); /* so that the generator is seeded */
    struct drawn child;
    int pipe_ends[2];
    int status;

    (void)state;
    assert_int_equal(pipe(pipe_ends), 0);

    const pid_t pid = fork();
    const struct drawn mine = draw();
    if (pid == 0)
        _exit(write(pipe_ends[1], &mine, sizeof mine) == (ssize_t)sizeof mine ? 0 : 1);

    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(pipe_ends[0], &child, sizeof child), sizeof child);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    assert_int_equal(mine.generation, before.generation);
    assert_int_equal(child.generation, before.generation + 1);
    assert_true(child.random != mine.random);
    assert_string_not_equal(child.id, mine.id);
    assert_true(strcmp(before.id, child.id) < 0); /* and the child's go on rising */
    assert_true(strcmp(before.id, mine.id) < 0);
}

/* Random numbers use all 64 bits about equally and do not repeat. */
static void test_ids_random_uses_every_bit(void **state)
{
    enum { DRAWS = 100000 };
    int ones[64] = {0};
    struct number *seen = calloc(DRAWS, sizeof *seen);

    (void)state;
    assert_non_null(seen);
    for (int i = 0; i < DRAWS; i++) {
        seen[i].low = ev_random();
        for (int bit = 0; bit < 64; bit++)
            ones[bit] += (int)(seen[i].low >> bit & 1);
    }
    for (int bit = 0; bit < 64; bit++)
        assert_in_range(ones[bit], DRAWS / 2 - 1000, DRAWS / 2 + 1000); /* 6 sigma */
    qsort(seen, DRAWS, sizeof *seen, compare);
    for (int i = 1; i < DRAWS; i++)
        assert_true(seen[i].low != seen[i - 1].low);
    free(seen);
}

/* A UUID is 36 characters of the right kind at every place. */
static void test_ids_is_uuid_looks_at_every_place(void **state)
{
    char id[] = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

    (void)state;
    assert_true(ev_is_uuid(id));
    assert_true(ev_is_uuid("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"));
    assert_false(ev_is_uuid(""));
    assert_false(ev_is_uuid("017f22e2-79b0-7cc3-98c4-dc0c0c07398"));
    assert_false(ev_is_uuid("017f22e2-79b0-7cc3-98c4-dc0c0c07398f0"));
    for (int i = 0; i < EV_UUID_LEN; i++) {
        const char was = id[i];

        id[i] = was == '-' ? '0' : '-';
        assert_false(ev_is_uuid(id));
        id[i] = 'g';
        assert_false(ev_is_uuid(id));
        id[i] = was;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_uuid_has_the_layout_of_rfc_9562),
        cmocka_unit_test(test_ids_rise_when_the_clock_stands_or_steps_back),
        cmocka_unit_test(test_ids_of_four_threads_are_distinct),
        cmocka_unit_test(test_ids_of_a_forked_child_differ),
        cmocka_unit_test(test_ids_random_uses_every_bit),
        cmocka_unit_test(test_ids_is_uuid_looks_at_every_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
