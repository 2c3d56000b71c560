/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where it happens: a broker in the process, one nats-server, a cluster of three, or what a URL names. Servers of our own are on
 * free loopback ports, each behind a proxy that cuts and stalls connections; the advertised addresses are the proxies'.
 */
#include "torture.h"

#include "cli.h"
#include "demo.h"
#include "stop.h"

#include "support/nats_server.h"
#include "support/proxy.h"
#include "support/truth_read.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SERVERS_MAX 3u
#define ASK_MS 2000u
#define READ_MS 60000u

/* In a process nothing else happens than what fault+mem:// makes happen; servers get their misfortunes from outside. */
#define MEM_FAULTS                                                                                                     \
    "&lost_ack=0.002&lost_settle=0.02&duplicate=0.02&repeat=0.02&reorder=0.05&delay=0.01&delay_by_ms=20"               \
    "&no_responders=0.001&no_responders_for_ms=200&disconnect_every_ms=1500&disconnect_for_ms=100"
#define NATS_FAULTS                                                                                                    \
    "&lost_ack=0.001&lost_settle=0.01&duplicate=0.01&repeat=0.02&reorder=0.05&delay=0.005&delay_by_ms=20"

struct torture_place {
    struct nats_server servers[SERVERS_MAX];
    struct proxy *proxies[SERVERS_MAX];
    uint32_t count;
};

/* ---- Servers ----------------------------------------------------------------------------------------------------- */

static bool start_bare(struct torture_place *p)
{
    for (; p->count < SERVERS_MAX; p->count++) /* their ports are known before any of them is told of the others */
        if (!nats_server_start(&p->servers[p->count], "") ||
            !(p->proxies[p->count] = proxy_open(p->servers[p->count].port)))
            return false;
    return true;
}

static bool start_cluster(struct torture_place *p)
{
    uint16_t routes[SERVERS_MAX];
    char config[1024];

    if (!start_bare(p))
        return false;
    for (uint32_t i = 0; i < SERVERS_MAX; i++)
        routes[i] = nats_free_port();
    for (uint32_t i = 0; i < SERVERS_MAX; i++) {
        nats_server_stop(&p->servers[i]);
        (void)snprintf(config, sizeof config,
                       "server_name: \"torture-%" PRIu32 "\"\nclient_advertise: \"127.0.0.1:%u\"\n"
                       "jetstream { store_dir: \"@DIR@/js\", max_file: 10G, max_mem: 1G }\n"
                       "cluster { name: torture, listen: \"127.0.0.1:%u\", routes: [\"nats://127.0.0.1:%u\", "
                       "\"nats://127.0.0.1:%u\", \"nats://127.0.0.1:%u\"] }\n",
                       i, proxy_port(p->proxies[i]), routes[i], routes[0], routes[1], routes[2]);
        nats_server_configure(&p->servers[i], config);
    }
    for (uint32_t i = 0; i < SERVERS_MAX; i++)
        if (!nats_server_restart(&p->servers[i]))
            return false;
    return true;
}

static bool start_one(struct torture_place *p)
{
    if (!nats_server_start(&p->servers[0], "jetstream { store_dir: \"@DIR@/js\", max_file: 10G, max_mem: 1G }\n"))
        return false;
    p->count = 1;
    return (p->proxies[0] = proxy_open(p->servers[0].port)) != NULL;
}

static void write_urls(struct torture *t)
{
    const struct torture_place *p = t->place;
    size_t n = (size_t)snprintf(t->url, sizeof t->url, "fault+nats://"), m;

    m = (size_t)snprintf(t->plain, sizeof t->plain, "nats://");
    for (uint32_t i = 0; i < p->count; i++) {
        n += (size_t)snprintf(t->url + n, sizeof t->url - n, "%s127.0.0.1:%u", i ? "," : "", proxy_port(p->proxies[i]));
        m += (size_t)snprintf(t->plain + m, sizeof t->plain - m, "%s127.0.0.1:%u", i ? "," : "", p->servers[i].port);
    }
    t->query = NATS_FAULTS;
}

static int open_servers(struct torture *t, char *why, size_t size)
{
    char program[512];

    if (!demo_server_find(program, sizeof program)) {
        (void)snprintf(why, size,
                       "nats-server is not installed (Debian: apt-get install nats-server; or set NATS_SERVER)");
        return CLI_CONNECT;
    }
    (void)setenv("NATS_SERVER", program, 1);
    if (!(t->target == TORTURE_CLUSTER ? start_cluster(t->place) : start_one(t->place))) {
        (void)snprintf(why, size, "%s cannot be started", program);
        return CLI_FAILED;
    }
    write_urls(t);
    return CLI_OK;
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

int torture_place_open(struct torture *t, char *why, size_t size)
{
    t->place = calloc(1, sizeof *t->place);
    if (!t->place) {
        (void)snprintf(why, size, "out of memory");
        return CLI_FAILED;
    }
    switch (t->target) {
    case TORTURE_MEM:
        (void)snprintf(t->url, sizeof t->url, "fault+mem://torture-%d", (int)getpid());
        (void)snprintf(t->plain, sizeof t->plain, "mem://torture-%d", (int)getpid());
        t->query = MEM_FAULTS;
        return CLI_OK;
    case TORTURE_URL:
        return CLI_OK;
    default:
        return open_servers(t, why, size);
    }
}

void torture_place_close(struct torture *t)
{
    if (!t->place)
        return;
    for (uint32_t i = 0; i < SERVERS_MAX; i++) {
        proxy_close(t->place->proxies[i]);
        if (t->place->servers[i].dir[0])
            nats_server_end(&t->place->servers[i]);
    }
    free(t->place);
    t->place = NULL;
}

/* ---- Misfortunes ------------------------------------------------------------------------------------------------- */

bool torture_place_has(const struct torture *t, enum torture_misfortune what)
{
    return what < TORTURE_CUT || t->place->count > 0;
}

/* Time for what was done to have its effect; the deferred are settled meanwhile. */
static void pass(struct torture *t, uint32_t ms)
{
    const int64_t until = now_ns() + (int64_t)ms * 1000000;

    while (now_ns() < until && !stop_wait(5))
        torture_settle(t);
}

static void stall(struct torture *t, struct proxy *proxy)
{
    const uint64_t n = torture_random(&t->rng);

    proxy_after(proxy, n % 2 ? PROXY_TO_SERVER : PROXY_TO_CLIENT, n / 2 % 20000, PROXY_STALL);
    pass(t, 300 + (uint32_t)(n >> 40) % 600);
    proxy_release(proxy);
    proxy_after(proxy, n % 2 ? PROXY_TO_SERVER : PROXY_TO_CLIENT, UINT64_MAX, PROXY_CUT); /* if it did not come to it */
}

/* Over no proxy and with no library of ours between. */
static bool ask_stream(struct torture *t, struct nats_wire *w)
{
    return nats_wire_open(w, t->place->servers[0].port, ASK_MS) &&
           (t->stream_name[0] || truth_read_stream_name(w, t->topic, t->stream_name, sizeof t->stream_name));
}

/* Of the group's consumer. */
static bool ask_consumer(struct torture *t, struct truth_consumer *ret)
{
    struct nats_wire w;
    const bool answered =
        ask_stream(t, &w) &&
        (t->consumer_name[0] ||
         truth_read_consumer_name(&w, t->stream_name, TORTURE_GROUP "-", t->consumer_name, sizeof t->consumer_name)) &&
        truth_read_consumer(&w, t->stream_name, t->consumer_name, ret);

    nats_wire_close(&w);
    return answered;
}

static int64_t wall_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* A server that is killed may lose the state of its consumer, and so may a cluster whose leader falls. What they knew is asked
 * right before that, and what they know right after: acks and deliveries of clients only ever raise it. */
struct evidence {
    bool known;
    int64_t at_ns, wall_ns;
    struct truth_consumer before;
};

static struct evidence take_evidence(struct torture *t)
{
    struct evidence e = {.known = false};

    e.known = ask_consumer(t, &e.before);
    e.at_ns = now_ns();
    e.wall_ns = wall_ns();
    return e;
}

/* A server of a cluster may not know the consumer yet: there, to know nothing of it is no answer. */
static void compare_evidence(struct torture *t, const struct evidence *e)
{
    struct truth_consumer after;

    if (!e->known || !ask_consumer(t, &after) || (t->place->count > 1 && after.delivered == 0))
        return;
    if (truth_loss(&t->log, e->at_ns, e->wall_ns, &e->before, &after))
        complain(t->command,
                 "the server lost the state of consumer %s: floor %" PRIu64 " -> %" PRIu64 ", delivered %" PRIu64
                 " -> %" PRIu64,
                 t->consumer_name, e->before.floor, after.floor, e->before.delivered, after.delivered);
}

/* Nobody gets through the proxy before it is asked. */
static bool die(struct torture *t, struct nats_server *server, struct proxy *proxy, uint32_t ms)
{
    const struct evidence e = take_evidence(t);

    nats_server_kill(server);
    pass(t, ms);
    proxy_after_each(proxy, PROXY_TO_SERVER, 0, PROXY_STALL);
    const bool back = nats_server_restart(server);
    if (back)
        compare_evidence(t, &e);
    proxy_after_each(proxy, PROXY_TO_SERVER, UINT64_MAX, PROXY_CUT);
    proxy_after(proxy, PROXY_TO_SERVER, UINT64_MAX, PROXY_CUT); /* those that have sent nothing yet */
    proxy_release(proxy);
    return back;
}

static void sleep_like_dead(struct torture *t, struct nats_server *server, uint32_t ms)
{
    const struct evidence e = take_evidence(t);

    nats_server_signal(server, SIGSTOP);
    pass(t, ms);
    nats_server_signal(server, SIGCONT);
    compare_evidence(t, &e);
}

bool torture_place_suffer(struct torture *t, enum torture_misfortune what)
{
    struct torture_place *p = t->place;
    const uint32_t i = (uint32_t)(torture_random(&t->rng) % p->count);
    struct nats_server *server = &p->servers[i];
    const uint32_t ms = (uint32_t)(torture_random(&t->rng) % 1200);

    switch (what) {
    case TORTURE_CUT:
        proxy_cut(p->proxies[i]);
        return true;
    case TORTURE_STALL:
        stall(t, p->proxies[i]);
        return true;
    case TORTURE_STOP:
        sleep_like_dead(t, server, 300 + ms * 2);
        return true;
    default:
        if (die(t, server, p->proxies[i], ms))
            return true;
        torture_problem(t, "a killed nats-server does not start again");
        return false;
    }
}

bool torture_place_read(struct torture *t, struct truth_case *c)
{
    char why[sizeof t->problem] = "no server names the topic's stream", topic[80], letters[sizeof t->stream_name];
    struct nats_wire w;

    if (t->target != TORTURE_CLUSTER)
        return true;
    const uint16_t port = t->place->servers[0].port;
    (void)snprintf(topic, sizeof topic, "dlq.%s", t->topic);
    const bool asked = ask_stream(t, &w);
    const bool any = asked && truth_read_stream_name(&w, topic, letters, sizeof letters);
    nats_wire_close(&w);
    if (!asked || !truth_read_servers(port, t->stream_name, READ_MS, c->servers, why, sizeof why) ||
        (any && !truth_read_servers(port, letters, READ_MS, c->letter_servers, why, sizeof why))) {
        torture_problem(t, "%s", why);
        return false;
    }
    c->server_count = t->place->count;
    return true;
}
