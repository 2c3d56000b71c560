/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for a test, made with the openssl program in a folder of the caller. Threads: one. */
#ifndef EV_TESTS_CERTS_H
#define EV_TESTS_CERTS_H

#include <stdbool.h>

/* Makes in `dir`: ca.pem; server.pem and server.key (for localhost and 127.0.0.1); client.pem and client.key, both
 * signed by it; other-ca.pem, which signed nothing of this. False: openssl failed. */
bool certs_make(const char *dir);

#endif
