/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus-conformance: the conformance suite (tests/support/backend_suite.h) as a program, against a broker that is there.
 * It holds the library of its own build: a few cases look at live memory and at the turns of the loop.
 */
#include "support/backend_suite.h"

#include <evbus/evbus.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char base[112];  /* the URL up to its '?' */
static char query[128]; /* from there on */

static int usage(FILE *to)
{
    (void)fprintf(to,
                  "Usage: evbus-conformance URL [PATTERN...]\n"
                  "\n"
                  "Runs what evbus.h promises, case by case, against the broker at URL: mem://, nats://host:port, or\n"
                  "either of them with fault+ in front. PATTERN (with *) chooses cases, !PATTERN leaves some out;\n"
                  "none: all of them. Every run uses names of its own. Streams it makes on a server stay there\n"
                  "(their names begin with the tag it prints), each with room for 1 GiB reserved: use a server with\n"
                  "limits for that, such as jetstream { max_file: 100T, max_mem: 100T }, that you can throw away.\n"
                  "\n"
                  "With faults on, cases that count exactly or hurry fail by design: docs/faults.md names them.\n"
                  "\n"
                  "Status: 0 all passed, 1 some did not, 2 wrong usage.\n");
    return to == stdout ? 0 : 2;
}

static void tag_make(char tag[8])
{
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    uint64_t number = ((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec) ^ (uint64_t)getpid() << 40;
    for (int i = 0; i < 7; i++, number /= i ? 36 : 26)
        tag[i] = digits[number % (i ? 36 : 26)];
    tag[7] = 0;
}

/* mem:// has a name; elsewhere one broker serves all, and the topics tell the cases apart. */
static void url_of(char *out, size_t cap, const char *broker)
{
    (void)snprintf(out, cap, "%s%s%s", base, strstr(base, "mem://") ? broker : "", query);
}

static bool split(const char *url)
{
    const char *rest = strstr(url, "://"), *mark = strrchr(url, '?');
    const size_t len = mark ? (size_t)(mark - url) : strlen(url);

    if (!rest || len >= sizeof base || strlen(url + len) >= sizeof query)
        return false;
    (void)snprintf(base, sizeof base, "%.*s", (int)len, url);
    (void)snprintf(query, sizeof query, "%s", url + len);
    return true;
}

int main(int argc, char **argv)
{
    char tag[8], nowhere[64];

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return usage(stdout);
    if (argc < 2 || argv[1][0] == '-' || !split(argv[1]))
        return usage(stderr);
    const bool fault = strncmp(base, "fault+", 6) == 0, mem = strcmp(base + (fault ? 6 : 0), "mem://") == 0;
    if (strstr(base, "mem://") && !mem) {
        (void)fprintf(stderr, "evbus-conformance: mem:// gets its names from the cases; give none\n");
        return 2;
    }
    tag_make(tag);
    (void)snprintf(nowhere, sizeof nowhere, "%snats://127.0.0.1:1", fault ? "fault+" : "");
    const struct suite_backend backend = {
        .name = base,
        .url = url_of,
        .tag = tag,
        .nowhere = mem ? NULL : nowhere,
        .virtual_clock = mem,
        .real_time = query[0] != 0, /* faults need time to pass */
        .private_brokers = mem,
        .has_default_group = mem,
        .bounded_memory = mem,
        .recalls_room = mem,
        .opens_after_fork = mem,
        .topics_many = mem ? 1000 : 100,
    };
    (void)printf("evbus %s, names begin with %s\n", evbus_version(), tag);
    (void)fflush(stdout);
    return backend_suite_run(&backend, argc - 1, argv + 1) ? 1 : 0;
}
