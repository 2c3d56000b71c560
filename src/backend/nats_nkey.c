/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/nats_nkey.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/*
 * Text: base32 (RFC 4648, no padding) over prefix, key and a CRC16 (XMODEM, little endian).
 * A seed's prefix is two bytes: 5 bits 'S', 5 bits the kind of key, 6 bits nothing. A public key's is one: its kind.
 */
#define PREFIX_SEED (18u << 3)
#define PREFIX_USER (20u << 3)
#define SEED_BYTES 36u
#define SEED_CHARS 58u
#define KEY_BYTES 32u

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

static uint16_t crc16(const uint8_t *data, size_t len)
{
    uint16_t crc = 0;

    for (size_t i = 0; i < len; i++) {
        crc = (uint16_t)(crc ^ (uint16_t)(data[i] << 8));
        for (int bit = 0; bit < 8; bit++)
            crc = (uint16_t)((crc << 1) ^ ((crc & 0x8000u) ? 0x1021 : 0));
    }
    return crc;
}

static bool decode(const char *text, size_t len, uint8_t *out, size_t cap, size_t *ret_len)
{
    uint32_t bits = 0, have = 0;
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        const char *at = memchr(alphabet, text[i], sizeof alphabet - 1);
        if (!at)
            return false;
        bits = (bits << 5) | (uint32_t)(at - alphabet);
        have += 5;
        if (have >= 8) {
            if (n == cap)
                return false;
            have -= 8;
            out[n++] = (uint8_t)(bits >> have);
        }
    }
    *ret_len = n;
    return true;
}

static void encode(const uint8_t *data, size_t len, char *out)
{
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

static bool derive(const uint8_t seed[KEY_BYTES], uint8_t public_key[KEY_BYTES])
{
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, KEY_BYTES);
    size_t len = KEY_BYTES;
    const bool ok = key && EVP_PKEY_get_raw_public_key(key, public_key, &len) == 1 && len == KEY_BYTES;

    EVP_PKEY_free(key);
    return ok;
}

evbus_status ev_nkey_public(const char *seed, char out[EV_NKEY_PUBLIC_MAX])
{
    uint8_t raw[SEED_BYTES + 4], key[1 + KEY_BYTES + 2];
    size_t len = 0;

    if (strlen(seed) != SEED_CHARS || !decode(seed, SEED_CHARS, raw, sizeof raw, &len) || len != SEED_BYTES)
        return ev_fail(EVBUS_INVALID, "an nkey seed has %u characters of A-Z and 2-7", SEED_CHARS);
    const uint16_t crc = (uint16_t)(raw[SEED_BYTES - 2] | raw[SEED_BYTES - 1] << 8);
    const bool intact = crc == crc16(raw, SEED_BYTES - 2);
    const uint32_t kind = (raw[0] & 7u) << 5 | (raw[1] & 248u) >> 3;
    const bool user = (raw[0] & 248u) == PREFIX_SEED && kind == PREFIX_USER;
    const bool derived = intact && user && derive(raw + 2, key + 1);
    explicit_bzero(raw, sizeof raw);
    if (!intact)
        return ev_fail(EVBUS_INVALID, "the nkey seed's checksum is wrong");
    if (!user)
        return ev_fail(EVBUS_INVALID, "the nkey seed is not one of a user (it must start with SU)");
    if (!derived)
        return ev_fail(EVBUS_SYSTEM, "OpenSSL cannot derive an Ed25519 key");
    key[0] = PREFIX_USER;
    const uint16_t sum = crc16(key, 1 + KEY_BYTES);
    key[1 + KEY_BYTES] = (uint8_t)(sum & 255u);
    key[2 + KEY_BYTES] = (uint8_t)(sum >> 8);
    encode(key, sizeof key, out);
    return EVBUS_OK;
}

evbus_status ev_nkey_public_of_file(const char *path, char out[EV_NKEY_PUBLIC_MAX])
{
    char text[4096];
    FILE *file = fopen(path, "re");

    if (!file)
        return ev_fail(EVBUS_INVALID, "nkey_seed_file '%s': %s", path, strerror(errno));
    const size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    (void)fclose(file);
    evbus_status status = EVBUS_INVALID;
    char *word = strstr(text, "SU");
    if (word) {
        word[strspn(word, alphabet)] = 0;
        status = ev_nkey_public(word, out);
        if (status != EVBUS_OK)
            status = ev_fail_prefix(status, "nkey_seed_file '%s'", path);
    } else {
        status = ev_fail(EVBUS_INVALID, "nkey_seed_file '%s' holds no user seed (SU...)", path);
    }
    explicit_bzero(text, sizeof text);
    return status;
}
