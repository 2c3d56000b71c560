/* SPDX-License-Identifier: Apache-2.0 */
/* NKeys, and the JWTs of an operator, an account and a user as nsc makes them, for a server under test. */
#ifndef EV_TESTS_JWT_H
#define EV_TESTS_JWT_H

#include <stdbool.h>
#include <stddef.h>

#define NKEY_TEXT 64

struct nkey {
    char seed[NKEY_TEXT];       /* "SU..." */
    char public_key[NKEY_TEXT]; /* "U..." */
    unsigned char raw[32];
};

/* `kind`: 'O' operator, 'A' account, 'U' user. False: libcrypto failed. */
bool nkey_make(struct nkey *key, char kind);

/* "<header>.<claims>.<signature>" of `claims` (a JSON text), signed by `by`. To be freed. */
char *jwt_sign(const char *claims, const struct nkey *by);

/* Writes the server's config (operator, resolver MEMORY) and a credentials file for one user. */
bool jwt_world(char *config, size_t config_cap, const char *creds_path);

#endif
