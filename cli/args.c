/* SPDX-License-Identifier: Apache-2.0 */
#include "args.h"

#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct parse {
    const char *command;
    const struct arg_table *tables;
    size_t tables_count;
    char *base;
};

static bool list_add(const char *command, struct arg_list *list, const char *item)
{
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);

    if (!items) {
        complain(command, "out of memory");
        return false;
    }
    list->items = items;
    items[list->count++] = item;
    return true;
}

static const struct arg *find(const struct parse *p, const char *name, size_t len)
{
    for (size_t t = 0; t < p->tables_count; t++)
        for (size_t i = 0; i < p->tables[t].count; i++) {
            const struct arg *arg = &p->tables[t].args[i];
            if (strlen(arg->name) == len && memcmp(arg->name, name, len) == 0)
                return arg;
        }
    return NULL;
}

/* ---- One value --------------------------------------------------------------------------------------------------- */

static bool put_number(const struct parse *p, const struct arg *arg, const char *text, int64_t *into)
{
    char *end;

    errno = 0;
    const long long n = strtoll(text, &end, 10);
    if (end == text || *end) {
        (void)usage_error(p->command, "%s: '%s' is not a whole number", arg->name, text);
        return false;
    }
    if (errno == ERANGE || n < arg->min || n > arg->max) {
        (void)usage_error(p->command, "%s: %s is outside %" PRId64 "..%" PRId64, arg->name, text, arg->min, arg->max);
        return false;
    }
    *into = n;
    return true;
}

static bool put_seconds(const struct parse *p, const struct arg *arg, const char *text, uint32_t *into)
{
    char *end;
    const double seconds = strtod(text, &end);

    if (end == text || *end || strspn(text, "0123456789.") != strlen(text)) {
        (void)usage_error(p->command, "%s: '%s' is not a number of seconds such as 2 or 0.5", arg->name, text);
        return false;
    }
    if (seconds * 1000 < (double)arg->min || seconds * 1000 > (double)arg->max) {
        (void)usage_error(p->command, "%s: %s seconds is outside %g..%g", arg->name, text, (double)arg->min / 1000,
                          (double)arg->max / 1000);
        return false;
    }
    *into = (uint32_t)llround(seconds * 1000);
    return true;
}

static bool put_choice(const struct parse *p, const struct arg *arg, const char *text, const char **into)
{
    const size_t len = strlen(text);

    for (const char *word = arg->value; *word;) {
        const size_t n = strcspn(word, "|");
        if (n == len && memcmp(word, text, n) == 0) {
            *into = text;
            return true;
        }
        word += n + (word[n] == '|');
    }
    (void)usage_error(p->command, "%s: '%s' is none of %s", arg->name, text, arg->value);
    return false;
}

static bool put(const struct parse *p, const struct arg *arg, const char *text)
{
    void *into = p->base + arg->offset;

    switch (arg->kind) {
    case ARG_FLAG:
        *(bool *)into = true;
        return true;
    case ARG_TALLY:
        ++*(uint32_t *)into;
        return true;
    case ARG_TEXT:
        *(const char **)into = text;
        return true;
    case ARG_CHOICE:
        return put_choice(p, arg, text, into);
    case ARG_NUMBER:
        return put_number(p, arg, text, into);
    case ARG_SECONDS:
        return put_seconds(p, arg, text, into);
    case ARG_LIST:
        return list_add(p->command, into, text);
    }
    return false;
}

/* ---- The line ---------------------------------------------------------------------------------------------------- */

/* One option at argv[*at], its value taken from there or from the next one. */
static bool take_option(const struct parse *p, int argc, char **argv, int *at)
{
    const char *word = strcmp(argv[*at], "-h") == 0 ? "--help" : argv[*at];
    const size_t len = strcspn(word, "=");
    const struct arg *arg = find(p, word, len);
    const char *value = word[len] == '=' ? word + len + 1 : NULL;

    if (!arg) {
        (void)usage_error(p->command, "unknown option '%.*s' (operands that begin with '-' go behind --)", (int)len,
                          word);
        return false;
    }
    if (!arg->value && value) {
        (void)usage_error(p->command, "%s takes no value, but '%s' was given", arg->name, value);
        return false;
    }
    if (arg->value && !value) {
        if (*at + 1 >= argc) {
            (void)usage_error(p->command, "%s needs a value: %s %s", arg->name, arg->name, arg->value);
            return false;
        }
        value = argv[++*at];
    }
    return put(p, arg, value);
}

bool args_parse(const char *command, int argc, char **argv, const struct arg_table *tables, size_t tables_count,
                void *base, struct arg_list *operands)
{
    const struct parse p = {.command = command, .tables = tables, .tables_count = tables_count, .base = base};
    bool options = true;

    for (int i = 0; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            if (!take_option(&p, argc, argv, &i))
                return false;
        } else if (!list_add(command, operands, argv[i])) {
            return false;
        }
    }
    return true;
}

void args_free(const struct arg_table *tables, size_t tables_count, void *base, struct arg_list *operands)
{
    for (size_t t = 0; t < tables_count; t++)
        for (size_t i = 0; i < tables[t].count; i++)
            if (tables[t].args[i].kind == ARG_LIST) {
                struct arg_list *list = (struct arg_list *)((char *)base + tables[t].args[i].offset);
                free((void *)list->items);
                *list = (struct arg_list){0};
            }
    free((void *)operands->items);
    *operands = (struct arg_list){0};
}
