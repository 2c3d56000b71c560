/* SPDX-License-Identifier: Apache-2.0 */
/* Our JSON against jansson's on generated and damaged documents; what the two may differ in is pinned down here. */
#include "fuzz/differential.h"
#include "fuzz/generator.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SEED UINT64_C(20261122)
#define DOCUMENTS 200000

static bool is_ours(const char *doc, size_t len)
{
    struct ev_json_fault fault;

    return ev_json_text(doc, doc + len, EV_JSON_DEPTH_MAX, &fault);
}

static bool is_theirs(const char *doc, size_t len, size_t flags)
{
    json_t *value = json_loadb(doc, len, flags, NULL);

    json_decref(value);
    return value != NULL;
}

/* 200,000 documents, of which enough are JSON and envelopes: one verdict, the same strings, the same fields. */
static void test_json_agrees_with_jansson(void **state)
{
    static struct doc doc;
    size_t count[3] = {0};

    (void)state;
    for (uint64_t i = 0; i < DOCUMENTS; i++) {
        generate(&doc, SEED + i);
        count[differential_check((const uint8_t *)doc.bytes, doc.len)]++;
    }
    print_message("seed %llu: %zu refused, %zu JSON, %zu envelopes\n", (unsigned long long)SEED, count[REFUSED],
                  count[IS_JSON], count[IS_ENVELOPE]);
    assert_true(count[REFUSED] > DOCUMENTS / 4);
    assert_true(count[IS_JSON] > DOCUMENTS / 4);
    assert_true(count[IS_ENVELOPE] > DOCUMENTS / 20);
}

static const struct {
    const char *doc;
    size_t len;
    size_t flags;
    bool ours;
    bool theirs;
} differences[] = {
    {"1e999", 5, JANSSON_FLAGS, true, false},                           /* a number nobody can store */
    {"[9223372036854775808]", 21, 0, true, false},                      /* an integer above 64 bits */
    {"[9223372036854775808]", 21, JSON_DECODE_INT_AS_REAL, true, true}, /* ... as a real */
    {"[1\0]", 4, JANSSON_FLAGS, false, true},                           /* jansson loses the NUL */
    {"[true\0]", 7, JANSSON_FLAGS, false, true},
    {"[\0]", 3, JANSSON_FLAGS, false, false},
    {"\"\\u0000\"", 8, JANSSON_FLAGS, false, false}, /* no difference, as long as nobody asks for it */
    {"\"\\u0000\"", 8, JANSSON_FLAGS | JSON_ALLOW_NUL, false, true},
    {"1", 1, 0, true, false}, /* the reason for JSON_DECODE_ANY */
};

/* Each exception that differential.h makes is one. */
static void test_json_differs_from_jansson_only_here(void **state)
{
    char nested[2 * 129];

    (void)state;
    for (size_t i = 0; i < sizeof differences / sizeof differences[0]; i++) {
        assert_int_equal(is_ours(differences[i].doc, differences[i].len), differences[i].ours);
        assert_int_equal(is_theirs(differences[i].doc, differences[i].len, differences[i].flags),
                         differences[i].theirs);
    }
    memset(nested, '[', 129);
    memset(nested + 129, ']', 129);
    assert_true(is_ours(nested + 1, 256));
    assert_false(is_ours(nested, 258));
    assert_true(is_theirs(nested, 258, JANSSON_FLAGS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_agrees_with_jansson),
        cmocka_unit_test(test_json_differs_from_jansson_only_here),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
