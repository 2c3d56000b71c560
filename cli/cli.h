/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands share: exit codes, the options every command has, opening a bus, complaining. The command line
 * tool is an application: it sees <evbus/evbus.h> and nothing else of the library.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "args.h"

#include <evbus/evbus.h>

/* The exit status of every command; `evbus help` prints this table. */
#define CLI_EXIT_MAP(X)                                                                                                \
    X(CLI_OK, 0, "done")                                                                                               \
    X(CLI_FAILED, 1, "the work failed, or something was lost")                                                         \
    X(CLI_USAGE, 2, "wrong usage: a command, option, name or value breaks a rule")                                     \
    X(CLI_CONNECT, 3, "no connection: no server answered, or TLS failed; demo: no nats-server")                        \
    X(CLI_REFUSED, 4, "refused: credentials, permissions, no JetStream, or the broker's answer")                       \
    X(CLI_TIMEOUT, 5, "no answer in time; or sub: fewer than --count messages before --timeout")

enum cli_exit {
#define CLI_X(name, code, text) name = code,
    CLI_EXIT_MAP(CLI_X)
#undef CLI_X
        CLI_SIGNAL = 128 /* + its number: ended by a signal before the work was done */
};

/* The options all commands share. Each command's own struct begins with it, so that one base serves all tables. */
struct common {
    const char *command;
    bool help;
    bool json;
    bool progress;
    uint32_t verbose;
    const char *url;
    const char *name;
    const char *user;
    const char *password;
    const char *token;
    const char *nkey;
    const char *creds;
    const char *tls_ca;
    const char *tls_cert;
    const char *tls_key;
    uint32_t connect_timeout_ms;
};

/* Which of the shared option tables a command takes besides --help and --json. */
enum { USES_RUN = 1, USES_CONNECTION = 2 };

struct command {
    const char *name;
    const char *summary;  /* one line */
    const char *synopsis; /* behind "evbus NAME" */
    const char *text;     /* the rest of its page */
    const struct arg *args;
    size_t args_count;
    size_t options_size;
    unsigned uses;
    int (*run)(const struct common *options, const struct arg_list *operands);
};

extern const struct command command_pub;
extern const struct command command_sub;
extern const struct command command_demo;
extern const struct command command_outbox;
extern const struct command command_torture;
extern const struct command command_soak;
extern const struct command command_dlq;
extern const struct command command_doctor;
extern const struct command command_health;
extern const struct command command_lag;

/* "evbus CMD: text" on stderr. */
__attribute__((format(printf, 2, 3))) void complain(const char *command, const char *format, ...);

/* The same with a pointer to the command's page; returns CLI_USAGE. */
__attribute__((format(printf, 2, 3))) int usage_error(const char *command, const char *format, ...);

/* The exit status that stands for a status of the library. */
int exit_of(evbus_status status);

/* Says what failed, with the library's sentence, and returns exit_of(status). To be called right after the failure. */
__attribute__((format(printf, 3, 4))) int fail(const char *command, evbus_status status, const char *what, ...);

/* The bus's options out of the shared ones; the URL with its default. `o` points into `c`. */
void connection_fill(const struct common *c, evbus_opts *o);
const char *connection_url(const struct common *c);

/* Opens the bus; CLI_OK, or complains and returns the exit status. */
int connection_open(const struct common *c, const evbus_opts *o, evbus **ret_bus);

/* The command is at work now: says so, and writes the process id to `file`; NULL: to none. CLI_OK, or complains. */
int tell_ready(const struct common *c, const char *file);

/* A page on stdout; `command` NULL: the overview. */
void help_print(const struct command *const commands[], const struct command *command, bool json);

/* The shared tables a command takes; returns how many of out[] were filled. */
size_t common_tables(const struct command *command, struct arg_table out[4]);

/* Complains once that stdout did not take what was printed. */
void output_failed(const char *command, int error);

/* Flushes stdout; false (and that complaint) when what was printed did not arrive. */
bool output_finish(const char *command);

#endif
