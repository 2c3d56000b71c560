/* SPDX-License-Identifier: Apache-2.0 */
/* The runner: every case gets a fresh `struct suite`, ends its buses and leaves nothing behind. */
#include "backend_suite_case.h"

#include <fnmatch.h>
#include <signal.h>
#include <unistd.h>

static const struct suite_backend *backend;
bool suite_frontier;
static const char *running = "none";

struct piece_head {
    struct suite_piece *next;
    void (*fini)(void *memory);
};

struct suite_piece {
    struct piece_head head;
    max_align_t memory[];
};

/* ---- Things of a case -------------------------------------------------------------------------------------------- */

static void *piece(struct suite *s, size_t size, void (*fini)(void *memory))
{
    struct suite_piece *p = calloc(1, sizeof *p + size);

    if (!p)
        abort();
    p->head = (struct piece_head){s->pieces, fini};
    s->pieces = p;
    return p->memory;
}

void *suite_alloc(struct suite *s, size_t size)
{
    return piece(s, size, NULL);
}

static void fini_tally(void *memory)
{
    tally_fini(memory);
}

struct tally *suite_tally(struct suite *s)
{
    struct tally *t = piece(s, sizeof *t, fini_tally);

    tally_init(t, s->clock);
    return t;
}

static void fini_gate(void *memory)
{
    gate_fini(memory);
}

struct gate *suite_gate(struct suite *s)
{
    struct gate *gate = piece(s, sizeof *gate, fini_gate);

    gate_init(gate);
    return gate;
}

const char *suite_topic(struct suite *s, const char *fmt, ...)
{
    char *topic = suite_alloc(s, 256);
    const int n = snprintf(topic, 256, "%s.", s->name);
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(topic + n, 256 - (size_t)n, fmt, args);
    va_end(args);
    return topic;
}

/* ---- Settlers ---------------------------------------------------------------------------------------------------- */

struct suite_settler {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct tally *tally;
    struct given {
        struct given *next;
        const evbus_msg *msg;
        evbus_verdict verdict;
    } * head, *tail;
    bool stop, joined;
};

static void *settle_given(void *arg)
{
    struct suite_settler *settler = arg;

    pthread_mutex_lock(&settler->mutex);
    for (;;) {
        struct given *g = settler->head;
        if (!g && settler->stop)
            break;
        if (!g) {
            pthread_cond_wait(&settler->changed, &settler->mutex);
            continue;
        }
        settler->head = g->next;
        if (!settler->head)
            settler->tail = NULL;
        pthread_mutex_unlock(&settler->mutex);
        thread_must(tally_settle(settler->tally, g->msg, g->verdict) == EVBUS_OK);
        free(g);
        pthread_mutex_lock(&settler->mutex);
    }
    pthread_mutex_unlock(&settler->mutex);
    return NULL;
}

void suite_settler_stop(struct suite_settler *settler)
{
    if (settler->joined)
        return;
    pthread_mutex_lock(&settler->mutex);
    settler->stop = true;
    pthread_cond_broadcast(&settler->changed);
    pthread_mutex_unlock(&settler->mutex);
    pthread_join(settler->thread, NULL);
    settler->joined = true;
}

static void fini_settler(void *memory)
{
    struct suite_settler *settler = memory;

    suite_settler_stop(settler);
    pthread_cond_destroy(&settler->changed);
    pthread_mutex_destroy(&settler->mutex);
}

struct suite_settler *suite_settler_start(struct suite *s, struct tally *tally)
{
    struct suite_settler *settler = piece(s, sizeof *settler, fini_settler);

    settler->tally = tally;
    pthread_mutex_init(&settler->mutex, NULL);
    wait_cond_init(&settler->changed);
    if (pthread_create(&settler->thread, NULL, settle_given, settler) != 0)
        abort();
    return settler;
}

void suite_settler_give(struct suite_settler *settler, const evbus_msg *msg, evbus_verdict verdict)
{
    struct given *g = malloc(sizeof *g);

    if (!g)
        abort();
    *g = (struct given){.msg = msg, .verdict = verdict};
    pthread_mutex_lock(&settler->mutex);
    if (settler->tail)
        settler->tail->next = g;
    else
        settler->head = g;
    settler->tail = g;
    pthread_cond_broadcast(&settler->changed);
    pthread_mutex_unlock(&settler->mutex);
}

/* ---- Background threads ------------------------------------------------------------------------------------------ */

struct suite_background {
    pthread_t thread;
    void (*fn)(void *arg);
    void *arg;
    atomic_bool *stop;
    bool joined;
};

static void *run_background(void *arg)
{
    struct suite_background *b = arg;

    b->fn(b->arg);
    return NULL;
}

void suite_background_join(struct suite_background *b)
{
    if (b->joined)
        return;
    if (b->stop)
        atomic_store(b->stop, true);
    pthread_join(b->thread, NULL);
    b->joined = true;
}

static void fini_background(void *memory)
{
    suite_background_join(memory);
}

struct suite_background *suite_background(struct suite *s, void (*fn)(void *arg), void *arg, atomic_bool *stop)
{
    struct suite_background *b = piece(s, sizeof *b, fini_background);

    *b = (struct suite_background){.fn = fn, .arg = arg, .stop = stop};
    if (pthread_create(&b->thread, NULL, run_background, b) != 0)
        abort();
    return b;
}

/* ---- Around a case ----------------------------------------------------------------------------------------------- */

static void hangs(int signal)
{
    static const char text[] = "\nthis case hangs: ";

    (void)signal;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    (void)!write(STDERR_FILENO, running, strlen(running));
    (void)!write(STDERR_FILENO, "\n", 1);
    abort();
}

static int set_up(void **state)
{
    static unsigned number;
    const struct suite_case *c = *state;
    struct suite *s = calloc(1, sizeof *s);

    if (!s)
        return -1;
    running = c->name;
    (void)alarm(4 * wait_patience_ms() / 1000);
    census_take(&s->before);
    s->backend = backend;
    (void)snprintf(s->name, sizeof s->name, "%.7sc%u", backend->tag ? backend->tag : "", ++number);
    pthread_mutex_init(&s->events.mutex, NULL);
    wait_cond_init(&s->events.changed);
    if (c->timed && backend->virtual_clock && !backend->real_time)
        s->clock = evbus_clock_new(INT64_C(1700000000) * 1000000000);
    *state = s;
    return 0;
}

/* What a failed case may have left waiting must not keep the buses from ending. */
static void release(struct suite *s)
{
    for (struct suite_piece *p = s->pieces; p; p = p->head.next)
        if (p->head.fini == fini_gate)
            gate_open((struct gate *)p->memory);
    for (struct suite_piece *p = s->pieces; p; p = p->head.next)
        if (p->head.fini == fini_settler)
            suite_settler_stop((struct suite_settler *)p->memory);
    for (struct suite_piece *p = s->pieces; p; p = p->head.next)
        if (p->head.fini == fini_background)
            suite_background_join((struct suite_background *)p->memory);
}

static void free_pieces(struct suite *s)
{
    while (s->pieces) {
        struct suite_piece *p = s->pieces;
        s->pieces = p->head.next;
        if (p->head.fini)
            p->head.fini(p->memory);
        free(p);
    }
    pthread_cond_destroy(&s->events.changed);
    pthread_mutex_destroy(&s->events.mutex);
    free(s->events.all);
    free(s->events.receipts);
}

static int tear_down(void **state)
{
    struct suite *s = *state;
    char text[1024];

    release(s);
    while (s->bus_count > 0) {
        evbus *bus = s->buses[--s->bus_count];
        (void)evbus_shutdown(bus, 5000, NULL);
        evbus_close(bus);
    }
    evbus_clock_free(s->clock);
    const bool clean = census_returned(&s->before, text, sizeof text);
    if (!clean)
        print_error("%s: %s\n", running, text);
    free_pieces(s);
    free(s);
    (void)alarm(0);
    return clean && suite_thread_failures() == 0 ? 0 : -1;
}

/* ---- The run ----------------------------------------------------------------------------------------------------- */

/* A theme is a file backend_suite_<name>.c, whose cases are named test_<name>_...: one test of ctest each. */
static const struct theme {
    const char *name;
    const struct suite_case *cases;
} themes[] = {
    {"plain", suite_plain_cases},
    {"envelope", suite_envelope_cases},
    {"receipt", suite_receipt_cases},
    {"retry", suite_retry_cases},
    {"letter", suite_letter_cases},
    {"verdict", suite_verdict_cases},
    {"group", suite_group_cases},
    {"names", suite_names_cases},
    {"topic", suite_topic_cases},
    {"life", suite_life_cases},
    {"unsubscribe", suite_unsubscribe_cases},
    {"window", suite_window_cases},
    {"limit", suite_limit_cases},
    {"worker", suite_worker_cases},
    {"misuse", suite_misuse_cases},
    {"stats", suite_stats_cases},
    {"tenant", suite_tenant_cases},
    {"outcome", suite_outcome_cases},
    {"redrive", suite_redrive_cases},
    {"health", suite_health_cases},
    {"backlog", suite_backlog_cases},
    {"member", suite_member_cases},
    {"tail", suite_tail_cases},
    {"breaker", suite_breaker_cases},
    {"frontier", suite_frontier_cases},
};

static evbus_verdict acknowledge(const evbus_msg *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
    return EVBUS_ACK;
}

/* Client libraries keep threads and memory after their first use: that belongs to no case. */
static bool warm_up(void)
{
    const evbus_envelope env = suite_envelope_of("a", 1);
    char url[256], topic[64];
    evbus *bus = NULL;

    backend->url(url, sizeof url, "");
    (void)snprintf(topic, sizeof topic, "%.7swarm.up", backend->tag ? backend->tag : "");
    evbus_status st = evbus_open(url, EVBUS_OPTS(evbus_opts, .name = "warm"), &bus);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(bus, topic, acknowledge, NULL, NULL, NULL);
    if (st == EVBUS_OK)
        st = evbus_publish_envelope_wait(bus, topic, &env, NULL, NULL);
    if (st != EVBUS_OK)
        fprintf(stderr, "%s: %s (%s)\n", url, evbus_strerror(st), evbus_error_detail());
    evbus_close(bus);
    return st == EVBUS_OK;
}

/* Is the case wanted by these patterns? */
static bool wanted(const char *name, int count, char **patterns)
{
    bool any = false, in = false;

    for (int i = 0; i < count; i++) {
        const bool out = patterns[i][0] == '!';
        const bool match = fnmatch(patterns[i] + out, name, 0) == 0;
        if (out && match)
            return false;
        any |= !out;
        in |= !out && match;
    }
    return in || !any;
}

/* Another name would leave the case out of every test of ctest. */
static bool named_after(const char *theme, const char *name)
{
    const size_t len = strlen(theme);

    return strncmp(name, "test_", 5) == 0 && strncmp(name + 5, theme, len) == 0 && name[5 + len] == '_';
}

static size_t collect(int count, char **patterns, struct CMUnitTest *to)
{
    size_t n = 0;

    for (size_t i = 0; i < sizeof themes / sizeof themes[0]; i++) {
        for (const struct suite_case *c = themes[i].cases; c->name; c++) {
            if (!named_after(themes[i].name, c->name))
                abort();
            if (!wanted(c->name, count, patterns))
                continue;
            if (to)
                to[n] = (struct CMUnitTest){c->name, c->run, set_up, tear_down, (void *)(uintptr_t)c};
            n++;
        }
    }
    return n;
}

int backend_suite_run(const struct suite_backend *b, int argc, char **argv)
{
    const size_t count = collect(argc - 1, argv + 1, NULL);
    struct CMUnitTest *tests = calloc(count + 1, sizeof *tests);
    int failed = 1;

    backend = b;
    suite_frontier = b->frontier;
    if (!tests)
        return 1;
    if (count == 0) {
        fprintf(stderr, "no case has such a name\n");
        free(tests);
        return 1;
    }
    (void)collect(argc - 1, argv + 1, tests);
    (void)signal(SIGALRM, hangs);
    if (b->set_up && !b->set_up()) {
        printf("SKIPPED: %s: its broker is not available\n", b->name);
        free(tests);
        return 77;
    }
    if (warm_up())
        failed = _cmocka_run_group_tests(b->name, tests, count, NULL, NULL);
    if (b->tear_down)
        b->tear_down();
    free(tests);
    return failed;
}
