/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines: tables of options, each saying where in a struct its value goes. "--name value" and "--name=value" are
 * the same, options and operands may be mixed, "--" ends the options. A single-valued option given twice: last wins.
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum arg_kind {
    ARG_FLAG,    /* bool */
    ARG_TALLY,   /* uint32_t, one more each time */
    ARG_TEXT,    /* const char * */
    ARG_CHOICE,  /* const char *, one of arg.value's words separated by | */
    ARG_NUMBER,  /* int64_t within min..max */
    ARG_SECONDS, /* uint32_t milliseconds out of seconds such as 1.5; min..max in milliseconds */
    ARG_LIST     /* struct arg_list, one more each time */
};

struct arg_list {
    const char **items;
    size_t count;
};

struct arg {
    const char *name;  /* "--count" */
    const char *value; /* what the help calls its value; NULL: it has none */
    const char *help;
    enum arg_kind kind;
    size_t offset; /* of its variable in the options struct */
    int64_t min, max;
};

struct arg_table {
    const char *title;
    const struct arg *args;
    size_t count;
};

#define ARG_COUNT(args) (sizeof(args) / sizeof(args)[0])

/*
 * Reads argv into `base` and the operands into `operands` (allocated; args_free). False after having complained, naming
 * `command`.
 */
bool args_parse(const char *command, int argc, char **argv, const struct arg_table *tables, size_t tables_count,
                void *base, struct arg_list *operands);

/* Frees the lists. */
void args_free(const struct arg_table *tables, size_t tables_count, void *base, struct arg_list *operands);

#endif
