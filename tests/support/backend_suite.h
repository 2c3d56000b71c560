/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance suite: what evbus.h promises, as cases that every backend runs. A backend's test file names its URL
 * and its differences, and inherits all cases (guarantee G8: the same everywhere, or the difference written down).
 */
#ifndef EV_TESTS_BACKEND_SUITE_H
#define EV_TESTS_BACKEND_SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct suite_backend {
    const char *name;
    bool (*set_up)(void); /* once, before all cases; false: the suite is skipped, by name. NULL: nothing to do */
    void (*tear_down)(void);
    /* The URL of a broker all of whose users meet ("" : one of the bus's own, where there is such a thing). */
    void (*url)(char *out, size_t cap, const char *broker);

    const char *tag;     /* at most 7 of a-z 0-9: in front of all names, where others use the broker too; NULL: none */
    const char *nowhere; /* a URL where nobody answers; NULL: there is no such thing */

    /* Differences. Each test file says why its backend has them. */
    bool virtual_clock;     /* evbus_opts.clock works: time-dependent cases take no time */
    bool real_time;         /* but the cases shall take the time they need: what is late must come by itself */
    bool private_brokers;   /* a URL without a name is a broker of the bus alone */
    bool has_default_group; /* a subscription may have no group at all */
    bool bounded_memory;    /* mem_bytes_max bounds the broker */
    bool recalls_room;      /* room that was given to one subscription can be given to another before it is used up */
    bool frontier;          /* not a difference: every case that can uses EVBUS_ACK_FRONTIER */
    bool opens_after_fork;  /* a forked child may open a bus of its own */
    uint32_t topics_many;   /* for the case that uses very many topics */
};

/* The main function of a backend's test. The arguments are patterns (with *) of cases to run, those with a ! in front of
 * cases to leave out; none: all of them. */
int backend_suite_run(const struct suite_backend *backend, int argc, char **argv);

#endif
