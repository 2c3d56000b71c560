/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Around groups on a real server: counts that are waited for, a member in a process of its own and memory shared with it, a
 * proxy, and what the server says of the group's consumer. The file that includes it says what TOPIC is. Header only: include
 * it in one file of a test. Threads: one.
 */
#ifndef EV_TESTS_GROUP_CASE_H
#define EV_TESTS_GROUP_CASE_H

#include "core/bus.h"
#include "core/names.h"
#include "support/nats_case.h"
#include "support/proxy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- Counts ------------------------------------------------------------------------------------------------------ */

struct goal {
    const _Atomic(uint32_t) *count;
    uint32_t value;
};

static inline bool reached(void *arg)
{
    const struct goal *g = arg;

    return atomic_load(g->count) >= g->value;
}

static inline void await_count(const _Atomic(uint32_t) *count, uint32_t value)
{
    struct goal goal = {count, value};

    if (!wait_until(reached, &goal, wait_patience_ms()))
        fail_msg("%u, not %u", atomic_load(count), value);
}

/* ---- Around ------------------------------------------------------------------------------------------------------ */

static struct proxy *proxy; /* of the running case */

/* They hand back what they hold; then the proxy goes. */
static inline void end_buses(struct nats_case *c)
{
    while (c->s.bus_count > 0) {
        evbus *bus = c->s.buses[--c->s.bus_count];
        (void)evbus_shutdown(bus, 5000, NULL);
        evbus_close(bus);
    }
    proxy_close(proxy);
    proxy = NULL;
}

/* ---- Another process --------------------------------------------------------------------------------------------- */

/* The same each time, in the server's folder. The other process maps `path`. */
static inline void *share_memory(struct nats_case *c, size_t size, char path[96])
{
    (void)snprintf(path, 96, "%s/ledger", c->server.dir);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(memory != MAP_FAILED);
    (void)close(fd);
    return memory;
}

/* This program again, as "member URL PATH": its main calls become_member. */
static inline pid_t start_member(const char *path)
{
    char url[64];

    case_url(url, sizeof url, "");
    const pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/proc/self/exe", "test_nats", "member", url, path, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static inline void end_member(pid_t pid)
{
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* In the other process, which ends with the first one. NULL: it cannot. */
static inline void *map_shared(const char *path, size_t size)
{
    const int fd = open(path, O_RDWR | O_CLOEXEC);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static inline evbus_sub *become_member(const char *url, const evbus_opts *opts, evbus_handler handler, void *ctx)
{
    evbus_opts o = opts ? *opts : (evbus_opts){.struct_size = sizeof o};
    evbus *bus = NULL;
    evbus_sub *sub = NULL;

    o.name = "suite";
    if (evbus_open(url, &o, &bus) != EVBUS_OK ||
        evbus_subscribe_envelope(bus, TOPIC, handler, ctx, NULL, &sub) != EVBUS_OK)
        return NULL;
    return sub;
}

/* ---- The group's consumer ---------------------------------------------------------------------------------------- */

static inline jsConsumerInfo *read_consumer(struct nats_case *c)
{
    char stream[EV_NAME_MAX], durable[EV_NAME_MAX];
    jsConsumerInfo *info = NULL;

    ev_stream_name(stream, TOPIC);
    (void)ev_durable_name(durable, "suite", TOPIC);
    assert_int_equal(js_GetConsumerInfo(&info, c->js, stream, durable, NULL, NULL), NATS_OK);
    return info;
}

typedef bool consumer_is(const jsConsumerInfo *info, int64_t value);

/* Until the server says so of it. */
static inline void await_consumer(struct nats_case *c, consumer_is *is, int64_t value)
{
    const int64_t end = wait_now_ms() + wait_patience_ms();
    bool met = false;

    while (!met && wait_now_ms() < end) {
        jsConsumerInfo *info = read_consumer(c);
        met = is(info, value);
        jsConsumerInfo_Destroy(info);
    }
    assert_true(met);
}

static inline bool is_settled(const jsConsumerInfo *info, int64_t none)
{
    return (int64_t)info->NumPending == none && info->NumAckPending == none;
}

/* All is delivered and settled. */
static inline void await_settled(struct nats_case *c)
{
    await_consumer(c, is_settled, 0);
}

#endif
