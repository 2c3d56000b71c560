/* SPDX-License-Identifier: Apache-2.0 */
/* The same on nats://: what libnats locks and allocates by itself is not counted, what our objects call is. */
#include "hot_path.h"

#include "../support/nats_server.h"

#include <stdio.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct nats_server server;
static char url[64];

static int start(void **state)
{
    (void)state;
    if (!nats_server_start(&server, "jetstream: { store_dir: \"@DIR@/js\" }\n"))
        return -1;
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", (unsigned)server.port);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    nats_server_end(&server);
    return 0;
}

static void test_hot_path_nats_envelopes_take_no_lock(void **state)
{
    const struct hot_flow flow = {url, true, true, 60000, 4};

    (void)state;
    hot_path_check(&flow);
}

/* More producers than find room at a time: few of them are woken at once. */
static void test_hot_path_nats_with_16_producers_rarely_sleeps(void **state)
{
    const struct hot_flow flow = {url, true, true, 60000, 16};

    (void)state;
    hot_path_check(&flow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hot_path_nats_envelopes_take_no_lock),
        cmocka_unit_test(test_hot_path_nats_with_16_producers_rarely_sleeps),
    };

    if (!nats_server_available()) {
        puts("test_hot_path_serial_nats: skipped, no nats-server");
        return 77;
    }
    return cmocka_run_group_tests(tests, start, stop);
}
