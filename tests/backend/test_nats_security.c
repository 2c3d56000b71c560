/* SPDX-License-Identifier: Apache-2.0 */
/* TLS and credentials against a real server; and where TLS of libnats can hang: in the handshake, in a record. */
#include "nats_host.h"

#include "../support/certs.h"
#include "../support/jwt.h"
#include "../support/nats_server.h"
#include "../support/proxy.h"

#include <signal.h>

struct fixture {
    struct nats_server server;
    struct proxy *proxy;
    char url[96], ca[128], other_ca[128], cert[128], key[128];
    char dir[64];
    int fds, threads;
    uint64_t blocks;
};

static void begin(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->fds = fds_open();
    f->threads = threads_running();
    f->blocks = ev_alloc_live();
    left_add();
    (void)strcpy(f->dir, "/tmp/evbus-certs-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static void start(struct fixture *f, const char *scheme, const char *config)
{
    char full[1024 + 8192];

    /* The certificates must be there before the server is: they have a folder of their own. */
    const char *at = strstr(config, "@CERTS@");
    if (at) {
        assert_true(certs_make(f->dir));
        (void)snprintf(f->ca, sizeof f->ca, "%s/ca.pem", f->dir);
        (void)snprintf(f->other_ca, sizeof f->other_ca, "%s/other-ca.pem", f->dir);
        (void)snprintf(f->cert, sizeof f->cert, "%s/client.pem", f->dir);
        (void)snprintf(f->key, sizeof f->key, "%s/client.key", f->dir);
        (void)snprintf(full, sizeof full,
                       "%.*scert_file: \"%s/server.pem\", key_file: \"%s/server.key\", ca_file: \"%s/ca.pem\"%s",
                       (int)(at - config), config, f->dir, f->dir, f->dir, at + 7);
    } else {
        (void)snprintf(full, sizeof full, "%s", config);
    }
    assert_true(nats_server_start(&f->server, full));
    (void)snprintf(f->url, sizeof f->url, "%s://localhost:%u", scheme, f->server.port);
}

static void through_proxy(struct fixture *f)
{
    f->proxy = proxy_open(f->server.port);
    assert_non_null(f->proxy);
    (void)snprintf(f->url, sizeof f->url, "tls://localhost:%u", proxy_port(f->proxy));
}

static void end(struct fixture *f)
{
    char command[128];
    const int64_t until = ev_clock_now(NULL) + 5 * EV_SEC;

    proxy_close(f->proxy);
    nats_server_end(&f->server);
    left_remove();
    (void)snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    assert_int_equal(system(command), 0);
    while ((fds_open() > f->fds || threads_running() > f->threads) && ev_clock_now(NULL) < until)
        (void)sched_yield();
    assert_int_equal(fds_open(), f->fds);
    assert_int_equal(threads_running(), f->threads);
    assert_int_equal(ev_alloc_live(), f->blocks);
}

/* It connects, and a request over it is answered. */
static void must_work(struct fixture *f, const evbus_opts *opts)
{
    struct host *h = host_new();
    struct ev_nats_reply reply = {0};

    if (host_open(h, f->url, opts) != EVBUS_OK)
        fail_msg("%s", ev_detail());
    if (!await(h, 10000, h->up))
        fail_msg("no link: %s", h->failure_text);
    assert_int_equal(ev_nats_request(h->st, "no.body", "x", 1, ev_clock_now(NULL) + 5 * EV_SEC, &reply),
                     EVBUS_NO_JETSTREAM);
    host_close(h);
}

static void must_fail(struct fixture *f, const evbus_opts *opts, evbus_status status, const char *says)
{
    struct host *h = host_new();

    assert_int_equal(host_open(h, f->url, opts), EVBUS_OK);
    assert_true(await(h, 10000, h->failures > 0));
    print_message("%s: %s\n", evbus_status_name(h->failure), h->failure_text);
    if (h->failure != status || !strstr(h->failure_text, says))
        fail_msg("expected %s with '%s'", evbus_status_name(status), says);
    assert_int_equal(h->ups, 0);
    host_close(h);
}

/* ---- TLS --------------------------------------------------------------------------------------------------------- */

/* The right authority connects, by either way to ask for TLS; the wrong one and plain text do not, and say why. */
static void test_nats_tls_checks_the_server(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f);
    start(&f, "tls", "tls { @CERTS@ }\n");
    const evbus_opts right = {.tls_ca_file = f.ca}, wrong = {.tls_ca_file = f.other_ca}, none = {.name = "x"};
    const evbus_opts name = {.tls_ca_file = f.ca, .tls_hostname = "elsewhere"};
    must_work(&f, &right);
    must_fail(&f, &wrong, EVBUS_TLS, "certificate");
    must_fail(&f, &name, EVBUS_TLS, "");
    (void)snprintf(f.url, sizeof f.url, "nats://localhost:%u", f.server.port);
    must_work(&f, &right);
    must_fail(&f, &none, EVBUS_TLS, "certificate"); /* the server wants TLS: done, with the system's authorities */
    assert_int_equal(setenv("SSL_CERT_FILE", f.ca, 1), 0);
    must_work(&f, &none);
    assert_int_equal(unsetenv("SSL_CERT_FILE"), 0);
    end(&f);
}

static void test_nats_tls_asked_of_a_plain_server(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f);
    start(&f, "tls", "");
    must_fail(&f, NULL, EVBUS_TLS, "does not offer TLS");
    end(&f);
}

/* A server that wants a client certificate gets it, or the text names the options. */
static void test_nats_tls_shows_its_certificate(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f);
    start(&f, "tls", "tls { @CERTS@, verify: true }\n");
    const evbus_opts with = {.tls_ca_file = f.ca, .tls_cert_file = f.cert, .tls_key_file = f.key};
    const evbus_opts without = {.tls_ca_file = f.ca};
    must_work(&f, &with);
    must_fail(&f, &without, EVBUS_TLS, "tls_cert_file");
    end(&f);
}

/* A peer that goes silent in the handshake holds up neither the loop nor the next attempt. */
static void test_nats_tls_abandons_a_stalled_handshake(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f);
    start(&f, "tls", "tls { @CERTS@, timeout: 60 }\n");
    through_proxy(&f);
    const evbus_opts opts = {.tls_ca_file = f.ca, .connect_timeout_ms = 300};
    proxy_after_each(f.proxy, PROXY_TO_SERVER, 50, PROXY_STALL); /* in the middle of the client's hello */
    struct host *h = host_new();
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    const int64_t begun = ev_clock_now(NULL);
    assert_true(await(h, 10000, h->failures == 1));
    print_message("abandoned after %d ms: %s\n", (int)((ev_clock_now(NULL) - begun) / EV_MS), h->failure_text);
    assert_int_equal(h->failure, EVBUS_TLS);
    assert_non_null(strstr(h->failure_text, "abandoned"));
    assert_true(ev_clock_now(NULL) - begun < 5 * EV_SEC);
    proxy_after_each(f.proxy, PROXY_TO_SERVER, UINT64_MAX, PROXY_CUT);
    assert_true(await(h, 10000, h->up)); /* the next attempt, which began stalled too, or the one after it */
    print_message("longest turn %d ms\n", (int)(h->worst_ns / EV_MS));
    assert_true(h->worst_ns < 500 * EV_MS);
    host_close(h);
    end(&f); /* closing the proxy ends the abandoned threads */
}

struct flood {
    natsConnection *nc;
    _Atomic(bool) stop;
};

static void *publish_large(void *arg)
{
    static char data[200000];
    struct flood *flood = arg;

    while (!ev_load_acquire(&flood->stop)) {
        (void)natsConnection_Publish(flood->nc, "t.large", data, sizeof data);
        (void)natsConnection_FlushTimeout(flood->nc, 1000);
    }
    return NULL;
}

/* A peer that stops in the middle of a TLS record blocks libnats's read: the watchdog ends it within 2.5 s. */
static void test_nats_tls_ends_a_stalled_record(void **state)
{
    struct fixture f;
    struct flood flood = {0};
    natsOptions *o = NULL;
    pthread_t thread;
    void *binding = NULL;
    char direct[96];

    (void)state;
    begin(&f);
    start(&f, "tls", "tls { @CERTS@ }\n");
    (void)snprintf(direct, sizeof direct, "nats://localhost:%u", f.server.port);
    through_proxy(&f);
    const evbus_opts opts = {.tls_ca_file = f.ca, .heartbeat_ms = 60000};
    struct host *h = host_new();
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    assert_int_equal(h->ops->bind_core(h->st, NULL, "t.>", NULL, &binding), EVBUS_OK);
    host_run(h, do_attach, binding);

    assert_int_equal(natsOptions_Create(&o), NATS_OK);
    assert_int_equal(natsOptions_SetURL(o, direct), NATS_OK);
    assert_int_equal(natsOptions_LoadCATrustedCertificates(o, f.ca), NATS_OK);
    assert_int_equal(natsOptions_SetSecure(o, true), NATS_OK);
    assert_int_equal(natsConnection_Connect(&flood.nc, o), NATS_OK);
    assert_int_equal(pthread_create(&thread, NULL, publish_large, &flood), 0);
    assert_true(await(h, 10000, h->deliveries > 3));
    SAY(h, h->worst_ns = 0);
    proxy_after(f.proxy, PROXY_TO_CLIENT, 70000, PROXY_STALL); /* no record ends there, but by accident */
    assert_true(await(h, 10000, h->downs == 1));
    assert_true(await(h, 10000, h->up));
    print_message("longest turn %d ms: %s\n", (int)(h->worst_ns / EV_MS), h->down_text);
    assert_true(h->worst_ns > EV_SEC && h->worst_ns < 2600 * EV_MS);
    assert_non_null(strstr(h->down_text, "stalled inside a TLS record"));
    const uint32_t before = h->deliveries;
    assert_true(await(h, 10000, h->deliveries > before));
    ev_store_release(&flood.stop, true);
    pthread_join(thread, NULL);
    natsConnection_Destroy(flood.nc);
    natsOptions_Destroy(o);
    host_run(h, do_detach, binding);
    host_stop(h);
    h->ops->unbind(h->st, binding);
    host_free(h);
    end(&f);
}

static bool send_all_the_time(struct host *h, int64_t now)
{
    static char data[60000];
    evbus_status status;
    const struct ev_record r = {.topic = "t.a", .data = data, .len = sizeof data};

    (void)now;
    return h->up && h->ops->send(h->st, &r, &status) == EV_SENT;
}

/* A peer that stops reading blocks libnats's TLS write: the write deadline or the watchdog ends it. */
static void test_nats_tls_ends_a_stalled_write(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f);
    start(&f, "tls", "tls { @CERTS@ }\n");
    through_proxy(&f);
    const evbus_opts opts = {.tls_ca_file = f.ca, .heartbeat_ms = 60000};
    struct host *h = host_new();
    h->on_turn = send_all_the_time;
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    SAY(h, h->worst_ns = 0);
    proxy_after(f.proxy, PROXY_TO_SERVER, 1000000, PROXY_STALL);
    assert_true(await(h, 20000, h->downs >= 1));
    assert_true(await(h, 10000, h->up));
    print_message("longest turn %d ms: %s\n", (int)(h->worst_ns / EV_MS), h->down_text);
    assert_true(h->worst_ns > EV_SEC && h->worst_ns < 2600 * EV_MS);
    host_close(h);
    end(&f);
}

/* ---- Credentials ------------------------------------------------------------------------------------------------- */

static void test_nats_logs_in_with_user_and_password(void **state)
{
    struct fixture f;
    const evbus_opts right = {.user = "ann", .password = "s3cret/@:"}, wrong = {.user = "ann", .password = "no"};

    (void)state;
    begin(&f);
    start(&f, "nats", "authorization { user: ann, password: \"s3cret/@:\" }\n");
    must_work(&f, &right);
    must_fail(&f, &wrong, EVBUS_AUTH, "refused");
    must_fail(&f, NULL, EVBUS_AUTH, "refused");
    (void)snprintf(f.url, sizeof f.url, "nats://ann:s3cret%%2F%%40%%3A@localhost:%u", f.server.port);
    must_work(&f, NULL);
    must_work(&f, &wrong); /* the URL goes first */
    end(&f);
}

static void test_nats_logs_in_with_a_token(void **state)
{
    struct fixture f;
    const evbus_opts right = {.token = "t0ken"}, wrong = {.token = "other"};

    (void)state;
    begin(&f);
    start(&f, "nats", "authorization { token: t0ken }\n");
    must_work(&f, &right);
    must_fail(&f, &wrong, EVBUS_AUTH, "refused");
    (void)snprintf(f.url, sizeof f.url, "nats://t0ken@localhost:%u", f.server.port);
    must_work(&f, NULL);
    end(&f);
}

static void test_nats_logs_in_with_an_nkey(void **state)
{
    struct fixture f;
    struct nkey key, other;
    char config[256], path[96];

    (void)state;
    begin(&f);
    assert_true(nkey_make(&key, 'U') && nkey_make(&other, 'U'));
    (void)snprintf(config, sizeof config, "authorization { users = [ {nkey: %s} ] }\n", key.public_key);
    start(&f, "nats", config);
    (void)snprintf(path, sizeof path, "%s/seed", f.dir);
    const evbus_opts opts = {.nkey_seed_file = path};
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fprintf(file, "%s\n", key.seed);
    (void)fclose(file);
    must_work(&f, &opts);
    file = fopen(path, "we");
    assert_non_null(file);
    (void)fprintf(file, "%s\n", other.seed);
    (void)fclose(file);
    must_fail(&f, &opts, EVBUS_AUTH, "refused");
    end(&f);
}

static void test_nats_logs_in_with_a_credentials_file(void **state)
{
    struct fixture f;
    char config[8192], path[96], other[96], unused[8192];

    (void)state;
    begin(&f);
    (void)snprintf(path, sizeof path, "%s/user.creds", f.dir);
    (void)snprintf(other, sizeof other, "%s/other.creds", f.dir);
    assert_true(jwt_world(config, sizeof config, path));
    assert_true(jwt_world(unused, sizeof unused, other));
    start(&f, "nats", config);
    const evbus_opts right = {.creds_file = path}, wrong = {.creds_file = other};
    must_work(&f, &right);
    must_fail(&f, &wrong, EVBUS_AUTH, "refused");
    end(&f);
}

struct vault {
    pthread_mutex_t mutex;
    char password[32];
    uint32_t asked;
};

static evbus_status current_password(evbus_credentials *ret, void *ctx)
{
    struct vault *v = ctx;

    pthread_mutex_lock(&v->mutex);
    v->asked++;
    (void)snprintf(ret->user, sizeof ret->user, "ann");
    (void)snprintf(ret->password, sizeof ret->password, "%s", v->password);
    pthread_mutex_unlock(&v->mutex);
    return EVBUS_OK;
}

#define PASSWORD(word) "authorization { user: ann, password: " word " }\n"

/* The server's password changes: the session ends, attempts fail slowly and loudly until the new one is known. */
static void test_nats_takes_up_a_rotated_password(void **state)
{
    struct fixture f;
    struct vault v = {.mutex = PTHREAD_MUTEX_INITIALIZER, .password = "first"};
    const evbus_opts opts = {.credentials = current_password, .credentials_ctx = &v};

    (void)state;
    begin(&f);
    start(&f, "nats", PASSWORD("first"));
    struct host *h = host_new();
    assert_int_equal(host_open(h, f.url, &opts), EVBUS_OK);
    assert_true(await(h, 10000, h->up));
    nats_server_configure(&f.server, PASSWORD("second"));
    nats_server_signal(&f.server, SIGHUP);
    assert_true(await(h, 10000, h->downs == 1));
    print_message("%s: %s\n", evbus_status_name(h->down_cause), h->down_text); /* 2.9 closes without a word */
    assert_true(await(h, 10000, h->events[EVBUS_EVENT_AUTH_FAILED] >= 2));
    assert_int_equal(h->failure, EVBUS_AUTH);
    pthread_mutex_lock(&v.mutex);
    (void)strcpy(v.password, "second");
    pthread_mutex_unlock(&v.mutex);
    assert_true(await(h, 15000, h->up));
    assert_true(h->events[EVBUS_EVENT_AUTH_FAILED] < 6); /* slowly: a second and more apart */
    host_close(h);
    end(&f);
}

static int need_server(void **state)
{
    (void)state;
    return nats_Open(-1) == NATS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LEFT_CASE(test_nats_tls_checks_the_server),          LEFT_CASE(test_nats_tls_asked_of_a_plain_server),
        LEFT_CASE(test_nats_tls_shows_its_certificate),      LEFT_CASE(test_nats_tls_abandons_a_stalled_handshake),
        LEFT_CASE(test_nats_tls_ends_a_stalled_record),      LEFT_CASE(test_nats_tls_ends_a_stalled_write),
        LEFT_CASE(test_nats_logs_in_with_user_and_password), LEFT_CASE(test_nats_logs_in_with_a_token),
        LEFT_CASE(test_nats_logs_in_with_an_nkey),           LEFT_CASE(test_nats_logs_in_with_a_credentials_file),
        LEFT_CASE(test_nats_takes_up_a_rotated_password),
    };

    if (!nats_server_available()) {
        print_message("SKIPPED: test_nats_security (TLS and credentials): no nats-server\n");
        return 77;
    }
    if (getenv("EV_TEST"))
        cmocka_set_test_filter(getenv("EV_TEST"));
    return cmocka_run_group_tests(tests, need_server, left_none);
}
