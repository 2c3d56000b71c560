/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evbus doctor: what works between here and the broker, step by step as a service would use it: connect, the account, a
 * stream, a publish, a delivery, an ack; then what stands still. The steps that write use a small stream in memory of
 * the doctor's own, EVBUS_DOCTOR; messages leave it after a minute.
 */
#include "cli.h"
#include "json_out.h"
#include "stop.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#define TOPIC "evbus.doctor"
#define STREAM "EVBUS_DOCTOR"
#define TIMEOUT_MS 5000u
#define LETTERS_MAX 1000
#define STANDS_MS 60000u

struct doctor_options {
    struct common c;
    bool strict, look_only;
    uint32_t timeout_ms, stay_ms;
};

#define ARG(kind, name, value, field, min, max, help)                                                                  \
    {                                                                                                                  \
        name, value, help, kind, offsetof(struct doctor_options, field), min, max                                      \
    }

static const struct arg args[] = {
    ARG(ARG_FLAG, "--look-only", NULL, look_only, 0, 0, "write nothing: no stream, publish, delivery, ack, clock"),
    ARG(ARG_FLAG, "--strict", NULL, strict, 0, 0, "status 1 for warnings too"),
    ARG(ARG_SECONDS, "--stay", "S", stay_ms, 1, 86400000, "then keep the connection for so long: does it hold?"),
    ARG(ARG_SECONDS, "--timeout", "S", timeout_ms, 100, 600000, "for each step; default: 5"),
};

static int run_doctor(const struct common *options, const struct arg_list *operands);

const struct command command_doctor = {
    .name = "doctor",
    .summary = "check server, account, permissions, consumers, clock",
    .synopsis = "[options]",
    .text = "Prints one line for each check: ok, warn, fail or skip (a step before it failed). With --json one\n"
            "object a line: check, result, text. Status 1 if a check failed, 3 or 4 if there is no connection.\n"
            "\n"
            "connect    jetstream   limits (warn above 80 % of one)\n"
            "publish    a message is stored in the stream " STREAM " (in memory, made if need be)\n"
            "deliver    it comes back     ack   $JS.ACK.> may be published: the broker counts it as settled\n"
            "clock      the broker's and ours differ by less than a second\n"
            "consumers  none stands still: has messages for a minute and nobody who pulls\n"
            "letters    no dead letters wait in dlq.>\n"
            "session    the doctor's own connection held, and no server that it tried failed. How often a service\n"
            "           had to connect again it knows itself: evbus_connection_read\n",
    .args = args,
    .args_count = ARG_COUNT(args),
    .options_size = sizeof(struct doctor_options),
    .uses = USES_CONNECTION,
    .run = run_doctor,
};

enum result { OK, WARN, FAIL, SKIP };

struct visit {
    const struct doctor_options *o;
    evbus *bus;
    uint32_t warned, failed;
    uint32_t timeout_ms;
    int64_t opened_ns;
    char event_id[40];
    int64_t sent_ns; /* Unix time */
    pthread_mutex_t mutex;
    bool came; /* guarded, as what follows */
    int64_t came_ns, stored_ns;
};

static int64_t wall_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

__attribute__((format(printf, 4, 5))) static void tell(struct visit *v, const char *check, enum result result,
                                                       const char *format, ...)
{
    static const char *const words[] = {"ok", "warn", "fail", "skip"};
    struct json j = {0};
    char text[500];
    va_list list;

    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    v->warned += result == WARN;
    v->failed += result == FAIL;
    if (!v->o->c.json) {
        (void)printf("%-5s%-11s%s\n", words[result], check, text);
        return;
    }
    json_open(&j, NULL, '{');
    json_string(&j, "check", check);
    json_string(&j, "result", words[result]);
    json_string(&j, "text", text);
    json_close(&j, '}');
    (void)json_print(&j, stdout);
    json_fini(&j);
}

/* What the library says of the call before. */
static bool failed(struct visit *v, const char *check, evbus_status st)
{
    const char *detail = evbus_error_detail();

    if (st == EVBUS_OK)
        return false;
    tell(v, check, FAIL, "%s%s%s%s", evbus_strerror(st), *detail ? " (" : "", detail, *detail ? ")" : "");
    return true;
}

/* ---- The account ------------------------------------------------------------------------------------------------- */

static bool near(uint64_t used, uint64_t most)
{
    return most && used > most / 5 * 4;
}

static bool check_account(struct visit *v)
{
    evbus_account a;

    if (failed(v, "jetstream", evbus_account_read(v->bus, v->timeout_ms, &a))) {
        tell(v, "limits", SKIP, "the account cannot be read");
        return false;
    }
    tell(v, "jetstream", OK,
         "%" PRIu64 " streams, %" PRIu64 " consumers, %" PRIu64 " bytes on disk, %" PRIu64 " in memory", a.streams,
         a.consumers, a.storage_bytes, a.memory_bytes);
    const struct {
        const char *name;
        uint64_t used, most;
    } all[] = {{"streams", a.streams, a.streams_max},
               {"consumers", a.consumers, a.consumers_max},
               {"bytes on disk", a.storage_bytes, a.storage_bytes_max},
               {"bytes in memory", a.memory_bytes, a.memory_bytes_max}};
    bool any = false;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (!near(all[i].used, all[i].most))
            continue;
        any = true;
        tell(v, "limits", all[i].used >= all[i].most ? FAIL : WARN, "%s: %" PRIu64 " of %" PRIu64, all[i].name,
             all[i].used, all[i].most);
    }
    if (!any)
        tell(v, "limits", OK, "none is near");
    return true;
}

/* ---- There and back ---------------------------------------------------------------------------------------------- */

static evbus_verdict on_message(const evbus_msg *msg, void *ctx)
{
    struct visit *v = ctx;

    pthread_mutex_lock(&v->mutex);
    if (strcmp(evbus_msg_envelope(msg)->event_id, v->event_id) == 0 && !v->came) {
        v->came = true;
        v->came_ns = wall_ns();
        v->stored_ns = evbus_msg_stored_ns(msg);
    }
    pthread_mutex_unlock(&v->mutex);
    return EVBUS_ACK;
}

static bool came(struct visit *v)
{
    pthread_mutex_lock(&v->mutex);
    const bool yes = v->came;
    pthread_mutex_unlock(&v->mutex);
    return yes;
}

static bool add_unsettled(const evbus_lag *lag, void *ctx)
{
    *(uint64_t *)ctx += strcmp(lag->topic, TOPIC) == 0 ? lag->ack_pending : 0;
    return true;
}

/* The consumer is ours alone and ephemeral; another doctor's has settled in a moment as well. */
static bool settled(struct visit *v)
{
    uint64_t unsettled = 0;

    return evbus_lags(v->bus, EVBUS_OPTS(evbus_lag_opts, .topic = TOPIC, .timeout_ms = v->timeout_ms), add_unsettled,
                      &unsettled) == EVBUS_OK &&
           unsettled == 0;
}

static bool within_time(struct visit *v, bool (*done)(struct visit *v))
{
    const int64_t until = now_ns() + (int64_t)v->timeout_ms * 1000000;

    while (!done(v))
        if (now_ns() >= until || stop_wait(5))
            return false;
    return true;
}

static bool check_publish(struct visit *v)
{
    const evbus_topic_opts small = {.struct_size = sizeof small,
                                    .stream = STREAM,
                                    .storage = EVBUS_STORAGE_MEMORY,
                                    .max_age_ms = 60000,
                                    .max_bytes = 1 << 20};
    const evbus_envelope env = {
        .event_id = v->event_id, .aggregate_id = "doctor", .event_type = "Visit", .event_version = 1, .payload = "{}"};
    evbus_receipt receipt;

    evbus_receipt_init(&receipt);
    evbus_status st = evbus_topic_configure(v->bus, TOPIC, &small);
    if (st == EVBUS_OK)
        st = evbus_subscribe_envelope(v->bus, TOPIC, on_message, v,
                                      EVBUS_OPTS(evbus_sub_opts, .fanout = true, .timeout_ms = v->timeout_ms), NULL);
    const int64_t began = now_ns();
    v->sent_ns = wall_ns();
    if (st == EVBUS_OK)
        st = evbus_publish_envelope_wait(v->bus, TOPIC, &env, EVBUS_OPTS(evbus_pub_opts, .timeout_ms = v->timeout_ms),
                                         &receipt);
    if (failed(v, "publish", st))
        return false;
    tell(v, "publish", OK, "stored in %s after %.1f ms", receipt.stream, (double)(now_ns() - began) / 1e6);
    return true;
}

static void check_clock(struct visit *v)
{
    /* It was stored between sending and coming. */
    const int64_t early = v->sent_ns - v->stored_ns, late = v->stored_ns - v->came_ns;
    const int64_t off = early > 0 ? early : late > 0 ? late : 0;

    tell(v, "clock", off >= 1000000000 ? WARN : OK, off ? "the broker's differs by %.3f s" : "the broker's fits ours",
         (double)off / 1e9);
}

static void check_way(struct visit *v, bool account)
{
    if (v->o->look_only || !account || !check_publish(v)) {
        if (v->o->look_only || !account)
            tell(v, "publish", SKIP, v->o->look_only ? "--look-only" : "no account");
        tell(v, "deliver", SKIP, "nothing was published");
        tell(v, "ack", SKIP, "nothing was delivered");
        tell(v, "clock", SKIP, "nothing was delivered");
        return;
    }
    if (!within_time(v, came)) {
        tell(v, "deliver", FAIL, "the message did not come: may _INBOX.> be subscribed, and $JS.API.> published?");
        tell(v, "ack", SKIP, "nothing was delivered");
        tell(v, "clock", SKIP, "nothing was delivered");
        return;
    }
    tell(v, "deliver", OK, "it came back after %.1f ms", (double)(v->came_ns - v->sent_ns) / 1e6);
    if (within_time(v, settled))
        tell(v, "ack", OK, "the broker has settled it");
    else
        tell(v, "ack", FAIL, "the broker does not hear of acks: may $JS.ACK.> be published?");
    check_clock(v);
}

/* ---- What stands still ------------------------------------------------------------------------------------------- */

struct consumers {
    struct visit *v;
    uint64_t all, pending, unsettled, still;
};

static bool on_lag(const evbus_lag *lag, void *ctx)
{
    struct consumers *c = ctx;

    if (!lag->durable)
        return true;
    c->all++;
    c->pending += lag->pending;
    c->unsettled += lag->ack_pending;
    if (lag->waiting == 0 && lag->oldest_ms >= STANDS_MS) {
        c->still++;
        tell(c->v, "consumers", WARN,
             "%s of stream %s stands still: %" PRIu64 " wait, the oldest for %" PRIu64 " s, nobody pulls",
             *lag->group ? lag->group : lag->consumer, lag->stream, lag->pending + lag->ack_pending,
             lag->oldest_ms / 1000);
    }
    return true;
}

static void check_consumers(struct visit *v)
{
    struct consumers c = {.v = v};

    if (failed(v, "consumers",
               evbus_lags(v->bus, EVBUS_OPTS(evbus_lag_opts, .timeout_ms = v->timeout_ms), on_lag, &c)) ||
        c.still)
        return;
    tell(v, "consumers", OK, "%" PRIu64 " durable, %" PRIu64 " messages wait, %" PRIu64 " are under way", c.all,
         c.pending, c.unsettled);
}

static bool count_letter(const evbus_letter *letter, void *ctx)
{
    (void)letter;
    return ++*(uint64_t *)ctx < LETTERS_MAX;
}

static void check_letters(struct visit *v)
{
    uint64_t n = 0;

    if (failed(v, "letters",
               evbus_letters(v->bus, EVBUS_OPTS(evbus_letter_opts, .timeout_ms = v->timeout_ms), count_letter, &n)))
        return;
    if (n)
        tell(v, "letters", WARN, "%" PRIu64 "%s dead letters wait: see evbus dlq ls", n,
             n == LETTERS_MAX ? " or more" : "");
    else
        tell(v, "letters", OK, "none");
}

/* ---- The doctor's own connection --------------------------------------------------------------------------------- */

static void read_session(const struct visit *v, evbus_connection *ret)
{
    evbus_connection_init(ret);
    if (evbus_connection_read(v->bus, ret) != EVBUS_OK)
        evbus_connection_init(ret); /* it is our own and open: it can be read */
}

static bool is_back(struct visit *v)
{
    evbus_connection c;

    read_session(v, &c);
    return c.state == EVBUS_CONNECTION_UP;
}

static void check_session(struct visit *v)
{
    const int64_t until = now_ns() + (int64_t)v->o->stay_ms * 1000000;
    evbus_connection c;

    (void)fflush(stdout);
    do
        read_session(v, &c);
    while (c.disconnects == 0 && now_ns() < until && !stop_wait(20));
    const double seconds = (double)(now_ns() - v->opened_ns) / 1e9;
    if (c.disconnects > 0) {
        const bool back = within_time(v, is_back);
        tell(v, "session", back ? WARN : FAIL, "it broke after %.1f s and is %s: %s", seconds,
             back ? "up again" : "not back", c.last_error);
    } else if (c.connect_failures > 0) {
        tell(v, "session", WARN, "it held for %.1f s, but %" PRIu64 " attempt%s at a server failed: %s", seconds,
             c.connect_failures, c.connect_failures == 1 ? "" : "s", c.last_error);
    } else {
        tell(v, "session", OK, "it held for %.1f s", seconds);
    }
}

static int examine(struct visit *v, double ms)
{
    tell(v, "connect", OK, "after %.1f ms", ms);
    const bool account = check_account(v);
    check_way(v, account);
    if (account) {
        check_consumers(v);
        check_letters(v);
    } else {
        tell(v, "consumers", SKIP, "no account");
        tell(v, "letters", SKIP, "no account");
    }
    check_session(v);
    if (stop_signal())
        return CLI_SIGNAL + stop_signal();
    return v->failed || (v->o->strict && v->warned) ? CLI_FAILED : CLI_OK;
}

static int run_doctor(const struct common *options, const struct arg_list *operands)
{
    const struct doctor_options *o = (const struct doctor_options *)options;
    struct visit v = {.o = o, .mutex = PTHREAD_MUTEX_INITIALIZER};
    evbus_opts opts;

    if (operands->count)
        return usage_error(o->c.command, "'%s': doctor takes no operands", operands->items[0]);
    if (!stop_init(false)) {
        complain(o->c.command, "no pipe: %s", strerror(errno));
        return CLI_FAILED;
    }
    v.timeout_ms = o->timeout_ms ? o->timeout_ms : TIMEOUT_MS;
    (void)snprintf(v.event_id, sizeof v.event_id, "visit-%" PRId64, wall_ns());
    connection_fill(&o->c, &opts);
    const int64_t began = now_ns();
    int result = connection_open(&o->c, &opts, &v.bus);
    if (result != CLI_OK) {
        tell(&v, "connect", FAIL, "%s", evbus_error_detail());
        return result;
    }
    v.opened_ns = now_ns();
    result = examine(&v, (double)(now_ns() - began) / 1e6);
    evbus_close(v.bus);
    return result;
}
