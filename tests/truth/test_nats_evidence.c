/* SPDX-License-Identifier: Apache-2.0 */
/* What the judge takes as evidence, against a real server: a consumer's ack floor that a killed server lost. */
#include "../support/nats_server.h"
#include "../support/truth_read.h"
#include "../support/wait.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define STREAM "EVIDENCE"
#define DURABLE "group-evidence"

static struct nats_server server;
static struct nats_wire wire;
static struct truth truth;

static const char *ask(const char *subject, const char *body)
{
    const char *answer = nats_wire_ask(&wire, subject, body);

    assert_non_null(answer);
    return answer;
}

static void handle_one(void)
{
    struct nats_wire_msg msg;

    assert_true(nats_wire_send(&wire, "$JS.API.CONSUMER.MSG.NEXT." STREAM "." DURABLE, ""));
    assert_true(nats_wire_next(&wire, &msg));
    assert_int_equal(strncmp(msg.reply, "$JS.ACK.", 8), 0);
    (void)ask(msg.reply, "+ACK");
}

/* A stream of three messages, and a consumer that has acknowledged two of them. */
static int set_up(void **state)
{
    (void)state;
    assert_true(nats_server_start(&server, "jetstream { store_dir: \"@DIR@/js\", max_file: 1G, max_mem: 1G }\n"));
    assert_true(nats_wire_open(&wire, server.port, wait_patience_ms()));
    assert_true(truth_open(&truth, NULL, 1, 8));
    (void)ask("$JS.API.STREAM.CREATE." STREAM, "{\"name\":\"" STREAM "\",\"subjects\":[\"evidence\"]}");
    (void)ask("$JS.API.CONSUMER.DURABLE.CREATE." STREAM "." DURABLE,
              "{\"stream_name\":\"" STREAM "\",\"config\":{\"durable_name\":\"" DURABLE
              "\",\"ack_policy\":\"explicit\"}}");
    for (int i = 0; i < 3; i++)
        (void)ask("evidence", "{}");
    handle_one();
    handle_one();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    truth_close(&truth);
    nats_wire_close(&wire);
    nats_server_end(&server);
    return 0;
}

static struct truth_consumer consumer_now(const char *name)
{
    struct truth_consumer c;

    assert_true(truth_read_consumer(&wire, STREAM, name, &c));
    return c;
}

static bool state_is_on_disk(void *arg)
{
    char path[160];
    FILE *f;
    int first = EOF;

    (void)arg;
    (void)snprintf(path, sizeof path, "%s/js/jetstream/$G/streams/" STREAM "/obs/" DURABLE "/o.dat", server.dir);
    if ((f = fopen(path, "re"))) {
        first = fgetc(f);
        (void)fclose(f);
    }
    return first != EOF;
}

/* As a server does that is killed between truncating the file and writing it. */
static void forget_state(void)
{
    char path[160];

    (void)snprintf(path, sizeof path, "%s/js/jetstream/$G/streams/" STREAM "/obs/" DURABLE "/o.dat", server.dir);
    assert_int_equal(truncate(path, 0), 0);
}

static void kill_and_restart(void)
{
    assert_true(wait_until(state_is_on_disk, NULL, wait_patience_ms()));
    nats_server_kill(&server);
    nats_wire_close(&wire);
    forget_state();
    assert_true(nats_server_restart(&server));
    assert_true(nats_wire_open(&wire, server.port, wait_patience_ms()));
}

static void test_evidence_finds_stream_and_consumer(void **state)
{
    char name[64];

    (void)state;
    assert_true(truth_read_stream_name(&wire, "evidence", name, sizeof name));
    assert_string_equal(name, STREAM);
    assert_true(truth_read_consumer_name(&wire, STREAM, "group-", name, sizeof name));
    assert_string_equal(name, DURABLE);
    assert_false(truth_read_consumer_name(&wire, STREAM, "other-", name, sizeof name));
    assert_false(truth_read_stream_name(&wire, "nothing", name, sizeof name));
}

static void test_evidence_is_the_floor_that_a_killed_server_lost(void **state)
{
    (void)state;
    const struct truth_consumer before = consumer_now(DURABLE);
    assert_int_equal(before.floor, 2);
    assert_int_equal(before.delivered, 2);
    kill_and_restart();
    const struct truth_consumer after = consumer_now(DURABLE);
    assert_int_equal(after.floor, 0);
    assert_true(truth_loss(&truth, 1, 1, &before, &after));
    assert_int_equal(truth.entries[0].counts[0], 2);
    assert_int_equal(truth.entries[0].counts[1], 0);
}

static void test_evidence_of_a_consumer_that_is_gone(void **state)
{
    (void)state;
    const struct truth_consumer none = consumer_now("group-nobody");
    assert_int_equal(none.floor + none.delivered, 0);
}

static void test_evidence_is_none_without_an_answer(void **state)
{
    struct truth_consumer c;

    (void)state;
    nats_server_kill(&server);
    assert_false(truth_read_consumer(&wire, STREAM, DURABLE, &c));
    nats_wire_close(&wire);
    assert_false(nats_wire_open(&wire, server.port, 1000));
    assert_false(truth_read_consumer(&wire, STREAM, DURABLE, &c));
}

int main(int argc, char **argv)
{
#define EVIDENCE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        EVIDENCE(test_evidence_finds_stream_and_consumer),
        EVIDENCE(test_evidence_is_the_floor_that_a_killed_server_lost),
        EVIDENCE(test_evidence_of_a_consumer_that_is_gone),
        EVIDENCE(test_evidence_is_none_without_an_answer),
    };

    if (!nats_server_available()) {
        printf("SKIPPED: evidence: no nats-server\n");
        return 77;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
