/* SPDX-License-Identifier: Apache-2.0 */
#include "jwt.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void base32(const uint8_t *data, size_t len, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    uint32_t bits = 0, have = 0;

    for (size_t i = 0; i < len; i++) {
        bits = (bits << 8) | data[i];
        for (have += 8; have >= 5; have -= 5)
            *out++ = alphabet[(bits >> (have - 5)) & 31u];
    }
    if (have > 0)
        *out++ = alphabet[(bits << (5 - have)) & 31u];
    *out = 0;
}

/* Bit by bit, unlike the table-free one of the library: an error would have to be made twice. */
static uint16_t crc(const uint8_t *data, size_t len)
{
    uint32_t r = 0;

    for (size_t i = 0; i < len * 8 + 16; i++) {
        const uint32_t bit = i < len * 8 ? (data[i / 8] >> (7 - i % 8)) & 1u : 0;
        r = (r << 1) | bit;
        if (r & 0x10000u)
            r ^= 0x11021u;
    }
    return (uint16_t)r;
}

static void seal(uint8_t *bytes, size_t len, char *out)
{
    const uint16_t sum = crc(bytes, len);

    bytes[len] = (uint8_t)(sum & 255u);
    bytes[len + 1] = (uint8_t)(sum >> 8);
    base32(bytes, len + 2, out);
}

bool nkey_make(struct nkey *key, char kind)
{
    const uint32_t prefix = kind == 'O' ? 14u << 3 : kind == 'A' ? 0 : 20u << 3;
    uint8_t seed[36], open[35];
    size_t len = 32;

    if (RAND_bytes(key->raw, sizeof key->raw) != 1)
        return false;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->raw, 32);
    const bool ok = pkey && EVP_PKEY_get_raw_public_key(pkey, open + 1, &len) == 1;
    EVP_PKEY_free(pkey);
    open[0] = (uint8_t)prefix;
    seed[0] = (uint8_t)(18u << 3 | prefix >> 5);
    seed[1] = (uint8_t)((prefix & 31u) << 3);
    memcpy(seed + 2, key->raw, 32);
    seal(seed, 34, key->seed);
    seal(open, 33, key->public_key);
    return ok;
}

static size_t base64url(const uint8_t *data, size_t len, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *p = out;
    uint32_t bits = 0, have = 0;

    for (size_t i = 0; i < len; i++) {
        bits = (bits << 8) | data[i];
        for (have += 8; have >= 6; have -= 6)
            *p++ = alphabet[(bits >> (have - 6)) & 63u];
    }
    if (have > 0)
        *p++ = alphabet[(bits << (6 - have)) & 63u];
    *p = 0;
    return (size_t)(p - out);
}

char *jwt_sign(const char *claims, const struct nkey *by)
{
    static const char header[] = "{\"typ\":\"JWT\",\"alg\":\"ed25519-nkey\"}";
    char *out = malloc(strlen(claims) * 2 + 512);
    uint8_t signature[64];
    size_t signature_len = sizeof signature;

    if (!out)
        return NULL;
    size_t n = base64url((const uint8_t *)header, sizeof header - 1, out);
    out[n++] = '.';
    n += base64url((const uint8_t *)claims, strlen(claims), out + n);
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, by->raw, 32);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    const bool ok = pkey && ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
                    EVP_DigestSign(ctx, signature, &signature_len, (const uint8_t *)out, n) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    if (!ok) {
        free(out);
        return NULL;
    }
    out[n++] = '.';
    (void)base64url(signature, signature_len, out + n);
    return out;
}

static char *token(const struct nkey *by, const struct nkey *about, const char *type, const char *more)
{
    char claims[2048];

    (void)snprintf(claims, sizeof claims,
                   "{\"jti\":\"%s-%s\",\"iat\":%ld,\"iss\":\"%s\",\"name\":\"%s\",\"sub\":\"%s\","
                   "\"nats\":{\"type\":\"%s\",\"version\":2%s}}",
                   type, about->public_key, (long)time(NULL), by->public_key, type, about->public_key, type, more);
    return jwt_sign(claims, by);
}

bool jwt_world(char *config, size_t config_cap, const char *creds_path)
{
    struct nkey operator_key, account, user;
    bool ok = false;

    if (!nkey_make(&operator_key, 'O') || !nkey_make(&account, 'A') || !nkey_make(&user, 'U'))
        return false;
    char *o = token(&operator_key, &operator_key, "operator", "");
    char *a =
        token(&operator_key, &account, "account",
              ",\"limits\":{\"subs\":-1,\"data\":-1,\"payload\":-1,\"imports\":-1,\"exports\":-1,\"wildcards\":true,"
              "\"conn\":-1,\"leaf\":-1}");
    char *u = token(&account, &user, "user", ",\"pub\":{},\"sub\":{},\"subs\":-1,\"data\":-1,\"payload\":-1");
    FILE *creds = fopen(creds_path, "we");
    if (o && a && u && creds) {
        (void)snprintf(config, config_cap, "operator: \"%s\"\nresolver: MEMORY\nresolver_preload: { %s: \"%s\" }\n", o,
                       account.public_key, a);
        ok = fprintf(creds,
                     "-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"
                     "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n",
                     u, user.seed) > 0;
    }
    if (creds)
        (void)fclose(creds);
    free(o);
    free(a);
    free(u);
    return ok;
}
