/* SPDX-License-Identifier: Apache-2.0 */
/* Servers that die, sleep, leave or forbid things, and what URL and options may say. */
#include "nats_traffic.h"

#include "support/wait.h"

/* ---- The server dies, sleeps, leaves ----------------------------------------------------------------------------- */

#define STREAM_FILE "{\"name\":\"T\",\"subjects\":[\"t.>\"],\"storage\":\"file\",\"duplicate_window\":120000000000}"

/* Killed and restarted five times under load: what was acknowledged is there, once. */
static void test_nats_survives_killed_servers(void **state)
{
    struct fixture f;
    struct traffic t;
    const evbus_opts opts = {.reconnect_min_ms = 5, .reconnect_max_ms = 50};

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = with_traffic(&f, &t, &opts, STREAM_FILE);
    for (uint32_t i = 1; i <= 5; i++) {
        uint32_t stored = 0;
        SAY(h, stored = t.stored);
        assert_true(await(h, 20000, t.stored > stored + 2000));
        nats_server_kill(&f.server);
        assert_true(await(h, 10000, h->downs == i));
        assert_true(nats_server_restart(&f.server));
        assert_true(await(h, 10000, h->ups == i + 1));
    }
    finish_traffic(&f, h, &t);
}

static void note_rest(struct host *h, void *arg)
{
    if (!h->st->session)
        *(int64_t *)arg = h->ops->due(h->st) - ev_clock_now(NULL);
}

/* A stopped server keeps its connections open: only the heartbeat tells. */
static void test_nats_notices_a_stopped_server(void **state)
{
    struct fixture f;
    struct traffic t;
    const evbus_opts opts = {.heartbeat_ms = 100, .connect_timeout_ms = 200, .reconnect_max_ms = 50};

    (void)state;
    set_up(&f, JETSTREAM);
    struct host *h = with_traffic(&f, &t, &opts, STREAM_T);
    assert_true(await(h, 20000, t.stored > 2000));
    nats_server_signal(&f.server, SIGSTOP);
    const int64_t stopped = ev_clock_now(NULL);
    assert_true(await(h, 5000, h->downs == 1));
    const int64_t took = ev_clock_now(NULL) - stopped;
    print_message("noticed after %d ms: %s\n", (int)(took / EV_MS), h->down_text);
    assert_int_equal(h->down_cause, EVBUS_DISCONNECTED);
    assert_non_null(strstr(h->down_text, "heartbeat"));
    assert_true(took < 1500 * EV_MS);
    assert_true(await(h, 5000, h->failures > 0)); /* it tries, and is not answered */
    int64_t rest = EV_SEC;
    host_run(h, note_rest, &rest);
    assert_true(rest > EV_MS); /* and the loop sleeps meanwhile */
    nats_server_signal(&f.server, SIGCONT);
    assert_true(await(h, 10000, h->up));
    finish_traffic(&f, h, &t);
}

static void note_url(struct host *h, void *arg)
{
    (void)snprintf(arg, 64, "%s", h->st->session ? h->st->session->server->url : "");
}

/* Lame duck mode is reported; when the server closes, the next one is used. */
static void test_nats_leaves_a_lame_duck(void **state)
{
    struct fixture f;
    struct nats_server other;
    char urls[160], now_at[64], expected[64];
    const char *const config = "lame_duck_grace_period: \"10ms\"\nlame_duck_duration: \"30s\"\n";

    (void)state;
    set_up(&f, config);
    assert_true(nats_server_start(&other, config));
    (void)snprintf(urls, sizeof urls, "nats://127.0.0.1:%u,127.0.0.1:%u", f.server.port, other.port);
    (void)snprintf(expected, sizeof expected, "nats://127.0.0.1:%u", other.port);
    struct host *h = host_new();
    assert_int_equal(host_open(h, urls, NULL), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    nats_server_signal(&f.server, SIGUSR2);
    assert_true(await(h, 10000, h->events[EVBUS_EVENT_LAME_DUCK] == 1));
    assert_true(await(h, 60000, h->ups == 2));
    host_run(h, note_url, now_at);
    assert_string_equal(now_at, expected);
    host_close(h);
    nats_server_end(&other);
    tear_down(&f);
}

/* Of several servers the first living one is taken; a dead list fails with words and goes on trying. */
static void test_nats_tries_all_servers(void **state)
{
    struct fixture f;
    char urls[160], now_at[64];

    (void)state;
    set_up(&f, "");
    (void)snprintf(urls, sizeof urls, "nats://127.0.0.1:%u,127.0.0.1:%u,nats://localhost:%u", nats_free_port(),
                   nats_free_port(), f.server.port);
    struct host *h = host_new();
    assert_int_equal(host_open(h, urls, NULL), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    assert_int_equal(h->failures, 2);
    assert_int_equal(h->failure, EVBUS_DISCONNECTED);
    assert_non_null(strstr(h->failure_text, "no server answers there"));
    host_run(h, note_url, now_at);
    assert_non_null(strstr(now_at, "localhost"));
    nats_server_kill(&f.server);
    assert_true(await(h, 10000, !h->up && h->failures >= 8));
    assert_true(nats_server_restart(&f.server));
    assert_true(await(h, 10000, h->up));
    host_close(h);
    tear_down(&f);
}

struct count {
    int n;
};

static void count_discovered(struct host *h, void *arg)
{
    char **urls = NULL;
    struct count *c = arg;

    c->n = 0;
    if (h->st->session && natsConnection_GetDiscoveredServers(h->st->session->nc, &urls, &c->n) == NATS_OK) {
        for (int i = 0; i < c->n; i++)
            free(urls[i]);
        free(urls);
    }
}

/* A server told by the cluster is used when the only one of the URL dies. */
static void test_nats_uses_discovered_servers(void **state)
{
    struct fixture f;
    struct nats_server other;
    struct count found = {0};
    char config[256], now_at[64], expected[64];
    const uint16_t a = nats_free_port(), b = nats_free_port();

    (void)state;
    (void)snprintf(config, sizeof config,
                   "cluster { name: C, host: 127.0.0.1, port: %u, routes: [\"nats://127.0.0.1:%u\"] }\n", a, b);
    set_up(&f, config);
    (void)snprintf(config, sizeof config,
                   "cluster { name: C, host: 127.0.0.1, port: %u, routes: [\"nats://127.0.0.1:%u\"] }\n", b, a);
    assert_true(nats_server_start(&other, config));
    struct host *h = connected(&f, NULL);
    const int64_t until = ev_clock_now(NULL) + 10 * EV_SEC;
    while (found.n == 0 && ev_clock_now(NULL) < until)
        host_run(h, count_discovered, &found);
    assert_true(found.n > 0);
    nats_server_kill(&f.server);
    assert_true(await(h, 10000, h->ups == 2));
    host_run(h, note_url, now_at);
    (void)snprintf(expected, sizeof expected, ":%u", other.port);
    assert_non_null(strstr(now_at, expected));
    host_close(h);
    nats_server_end(&other);
    tear_down(&f);
}

/* ---- Permissions ------------------------------------------------------------------------------------------------- */

#define PERMISSIONS                                                                                                    \
    "authorization { users = [\n"                                                                                      \
    " {user: some, password: p, permissions: {publish: {deny: [\"secret.>\"]}}}\n"                                     \
    " {user: noinbox, password: p, permissions: {subscribe: {allow: [\"_mine.>\"]}}}\n"                                \
    " {user: noecho, password: p, permissions: {publish: {allow: [\"t.>\"]}}}\n] }\n"

static void send_secrets(struct host *h, void *arg)
{
    evbus_status status;

    (void)arg;
    for (uint32_t i = 0; i < 5; i++) {
        const struct ev_record r = {
            .topic = i % 2 ? "secret.a" : "secret.b", .data = "x", .len = 1, .slot = i, .want_ack = true};
        assert_int_equal(h->ops->send(h->st, &r, &status), EV_SENT);
    }
}

/* Each refused publish is reported, with its topic; the connection stays. */
static void test_nats_reports_refused_publishes(void **state)
{
    struct fixture f;
    struct ev_nats_reply reply = {0};
    const evbus_opts opts = {.user = "some", .password = "p"};

    (void)state;
    set_up(&f, PERMISSIONS);
    struct host *h = connected(&f, &opts);
    host_run(h, send_secrets, NULL);
    assert_true(await(h, 5000, h->denials == 5));
    assert_true(strncmp(h->denied_topic, "secret.", 7) == 0);
    assert_int_equal(ev_nats_request(h->st, "secret.c", "x", 1, ev_clock_now(NULL) + 5 * EV_SEC, &reply), EVBUS_DENIED);
    assert_int_equal(h->downs, 0);
    host_close(h);
    tear_down(&f);
}

/* Without an inbox there is no session, and the text says what to do. */
static void test_nats_needs_an_inbox(void **state)
{
    struct fixture f;
    const evbus_opts refused = {.user = "noinbox", .password = "p"};
    const evbus_opts allowed = {.user = "noinbox", .password = "p", .inbox_prefix = "_mine"};

    (void)state;
    set_up(&f, PERMISSIONS);
    struct host *h = host_new();
    assert_int_equal(host_open(h, f.url, &refused), EVBUS_OK);
    assert_true(await(h, 10000, h->failures > 0));
    assert_int_equal(h->failure, EVBUS_DENIED);
    assert_non_null(strstr(h->failure_text, "inbox_prefix"));
    assert_int_equal(h->ups, 0);
    host_close(h);
    h = connected(&f, &allowed);
    host_close(h);
    tear_down(&f);
}

/* An account that may not publish to its inbox still gets a link: the refused heartbeat is a sign of life. */
static void test_nats_lives_without_publishing_to_its_inbox(void **state)
{
    struct fixture f;
    const uint32_t heartbeat_ms = 40 * (wait_patience_ms() / 20000); /* under a sanitizer all takes longer */
    const evbus_opts opts = {.user = "noecho", .password = "p", .heartbeat_ms = heartbeat_ms};

    (void)state;
    set_up(&f, PERMISSIONS);
    struct host *h = connected(&f, &opts);
    assert_false(await(h, 15 * heartbeat_ms, h->downs > 0));
    nats_server_signal(&f.server, SIGSTOP);
    assert_true(await(h, 5000, h->downs == 1)); /* and it is one: silence ends the session */
    nats_server_signal(&f.server, SIGCONT);
    host_close(h);
    tear_down(&f);
}

/* ---- URL and options --------------------------------------------------------------------------------------------- */

static void test_nats_reads_urls(void **state)
{
    struct ev_nats_server s;
    bool tls;
    static const char *const bad[] = {"",       ":4222", "h:0", "h:65536", "h:x",    "h:",   "[::1",
                                      "[::1]x", "a b",   "@h",  "ftp://h", "h/path", "h?x=1"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (ev_nats_server_parse(&s, bad[i], strlen(bad[i]), &tls) != EVBUS_INVALID)
            fail_msg("'%s' was taken", bad[i]);
    }
    assert_int_equal(ev_nats_server_parse(&s, "tls://us%40er:p:a@ss@[::1]:99/", 30, &tls), EVBUS_OK);
    assert_true(tls);
    assert_string_equal(s.url, "nats://[::1]:99");
    assert_string_equal(s.host, "::1");
    assert_string_equal(s.user, "us@er");
    assert_string_equal(s.password, "p:a@ss");
    ev_nats_server_fini(&s);
    assert_int_equal(ev_nats_server_parse(&s, "t%6fken%@host", 13, &tls), EVBUS_OK);
    assert_string_equal(s.token, "token%");
    assert_string_equal(s.url, "nats://host:4222");
    ev_nats_server_fini(&s);
}

static void test_nats_refuses_wrong_options(void **state)
{
    evbus_clock *const clock = (evbus_clock *)(void *)state;
    const struct {
        const char *url;
        evbus_opts opts;
        evbus_status status;
        const char *says;
    } cases[] = {
        {"nats://h", {.clock = clock}, EVBUS_UNSUPPORTED, "clock"},
        {"nats://h", {.js_domain = "a", .js_api_prefix = "b"}, EVBUS_INVALID, "js_domain"},
        {"nats://h", {.js_domain = "a.b"}, EVBUS_INVALID, "js_domain"},
        {"nats://h", {.inbox_prefix = "a..b"}, EVBUS_INVALID, "inbox_prefix"},
        {"nats://h", {.inbox_prefix = "a.>"}, EVBUS_INVALID, "inbox_prefix"},
        {"nats://h", {.js_api_prefix = ".a"}, EVBUS_INVALID, "js_api_prefix"},
        {"nats://h", {.creds_file = "/etc/passwd", .nkey_seed_file = "/etc/passwd"}, EVBUS_INVALID, "exclude"},
        {"nats://h", {.creds_file = "/no/such"}, EVBUS_INVALID, "creds_file"},
        {"nats://h", {.nkey_seed_file = "/etc/passwd"}, EVBUS_INVALID, "nkey_seed_file"},
        {"nats://h", {.tls_cert_file = "/etc/passwd"}, EVBUS_INVALID, "tls_key_file"},
        {"nats://h", {.tls_ca_file = "/no/such"}, EVBUS_INVALID, "tls_ca_file"},
        {"nats://h", {.tls_ca_file = "/etc/passwd"}, EVBUS_TLS, "tls_ca_file"},
        {"nats://a,,b", {.user = NULL}, EVBUS_INVALID, "host"},
        {"nats://", {.user = NULL}, EVBUS_INVALID, "host"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct host *h = host_new();
        const evbus_status got = host_open(h, cases[i].url, &cases[i].opts);
        if (got != cases[i].status || !strstr(ev_detail(), cases[i].says))
            fail_msg("case %zu: %s (%s)", i, evbus_status_name(got), ev_detail());
        host_free(h);
    }
}

/* The API prefix follows the domain. */
static void test_nats_asks_in_its_domain(void **state)
{
    struct fixture f;
    struct ev_nats_reply reply = {0};
    const evbus_opts hub = {.js_domain = "hub"}, other = {.js_domain = "other"};

    (void)state;
    set_up(&f, "jetstream { store_dir: \"@DIR@/js\", domain: hub }\n");
    struct host *h = connected(&f, &hub);
    ask(h, "STREAM.CREATE.T", STREAM_T);
    host_close(h);
    h = connected(&f, &other);
    assert_int_equal(ev_nats_api(h->st, &reply, ev_clock_now(NULL) + 5 * EV_SEC, NULL, "INFO"), EVBUS_NO_JETSTREAM);
    host_close(h);
    tear_down(&f);
}

/* Closing without ever having had a server, or while nobody answers a connection, is quick. */
static void test_nats_closes_without_a_server(void **state)
{
    struct fixture f;
    const evbus_opts opts = {.connect_timeout_ms = 20000};
    char url[64];

    (void)state;
    set_up(&f, "");
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", nats_free_port());
    struct host *h = host_new();
    assert_int_equal(host_open(h, url, NULL), EVBUS_OK);
    assert_true(await(h, 5000, h->failures > 2));
    int64_t start = ev_clock_now(NULL);
    host_close(h);
    assert_true(ev_clock_now(NULL) - start < EV_SEC);

    nats_server_signal(&f.server, SIGSTOP);
    h = host_new();
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    start = ev_clock_now(NULL);
    host_close(h); /* the attempt is abandoned: it ends when the server does */
    assert_true(ev_clock_now(NULL) - start < 2 * EV_SEC);
    nats_server_kill(&f.server);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_survives_killed_servers),
        LEFT_CASE(test_nats_notices_a_stopped_server),
        LEFT_CASE(test_nats_leaves_a_lame_duck),
        LEFT_CASE(test_nats_tries_all_servers),
        LEFT_CASE(test_nats_uses_discovered_servers),
        LEFT_CASE(test_nats_reports_refused_publishes),
        LEFT_CASE(test_nats_needs_an_inbox),
        LEFT_CASE(test_nats_lives_without_publishing_to_its_inbox),
        LEFT_CASE(test_nats_reads_urls),
        LEFT_CASE(test_nats_refuses_wrong_options),
        LEFT_CASE(test_nats_asks_in_its_domain),
        LEFT_CASE(test_nats_closes_without_a_server),
    };

    if (!nats_server_available()) {
        print_message("SKIPPED: test_nats_faults (dying servers, permissions, URLs): no nats-server\n");
        return 77;
    }
    if (getenv("EV_TEST"))
        cmocka_set_test_filter(getenv("EV_TEST"));
    return cmocka_run_group_tests(tests, need_server, left_none);
}
