/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot half of nats_api.h: bytes of strangers, read by hand in one pass without allocating. Everything that is not
 * exactly what it should be is refused; the caller then counts it and goes on.
 */
#include "backend/nats_api.h"

#include "base/bytes.h"

#include <stdio.h>
#include <string.h>

/* ---- A scanner of JSON: one pass, no allocation ------------------------------------------------------------------ */

#define DEPTH_MAX 32

struct scan {
    const char *at, *end;
};

struct slice {
    const char *data;
    size_t len;
};

static void skip_space(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

/* Takes `c` after white space. */
static bool take(struct scan *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static char peek(struct scan *s)
{
    skip_space(s);
    return s->at < s->end ? *s->at : 0;
}

static bool take_word(struct scan *s, const char *word)
{
    const size_t len = strlen(word);

    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return false;
    s->at += len;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The part behind a backslash. */
static bool take_escape(struct scan *s)
{
    if (s->at == s->end)
        return false;
    const char c = *s->at++;
    if (c != 'u')
        return c != 0 && strchr("\"\\/bfnrt", c) != NULL;
    if (s->end - s->at < 4)
        return false;
    for (int i = 0; i < 4; i++)
        if (!is_hex(*s->at++))
            return false;
    return true;
}

/* A string; the slice is what stands between the quotes, escapes as they are. */
static bool take_string(struct scan *s, struct slice *ret)
{
    if (!take(s, '"'))
        return false;
    const char *start = s->at;
    while (s->at < s->end) {
        const unsigned char c = (unsigned char)*s->at++;
        if (c == '"') {
            *ret = (struct slice){start, (size_t)(s->at - 1 - start)};
            return true;
        }
        if (c < 0x20 || (c == '\\' && !take_escape(s)))
            return false;
    }
    return false;
}

static bool take_digits(struct scan *s)
{
    const char *start = s->at;

    while (s->at < s->end && is_digit(*s->at))
        s->at++;
    return s->at > start;
}

static bool skip_number(struct scan *s)
{
    if (s->at < s->end && *s->at == '-')
        s->at++;
    if (s->at < s->end && *s->at == '0')
        s->at++;
    else if (!take_digits(s))
        return false;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!take_digits(s))
            return false;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-'))
            s->at++;
        if (!take_digits(s))
            return false;
    }
    return true;
}

static bool skip_value(struct scan *s, int depth);

/* An object or array behind its opening bracket. */
static bool skip_inside(struct scan *s, bool object, int depth)
{
    const char close = object ? '}' : ']';
    struct slice key;

    if (depth >= DEPTH_MAX)
        return false;
    if (take(s, close))
        return true;
    do {
        if (object && (!take_string(s, &key) || !take(s, ':')))
            return false;
        if (!skip_value(s, depth + 1))
            return false;
    } while (take(s, ','));
    return take(s, close);
}

static bool skip_value(struct scan *s, int depth)
{
    struct slice text;

    switch (peek(s)) {
    case '{':
    case '[':
        return skip_inside(s, *s->at++ == '{', depth);
    case '"':
        return take_string(s, &text);
    case 't':
        return take_word(s, "true");
    case 'f':
        return take_word(s, "false");
    case 'n':
        return take_word(s, "null");
    default:
        return skip_number(s);
    }
}

/* A whole number without sign, fraction or exponent. */
static bool take_u64(struct scan *s, uint64_t *ret)
{
    skip_space(s);
    const char *start = s->at;
    return skip_number(s) && ev_get_u64(start, (size_t)(s->at - start), ret);
}

static bool take_bool(struct scan *s, bool *ret)
{
    skip_space(s);
    *ret = take_word(s, "true");
    return *ret || take_word(s, "false");
}

static bool is(struct slice key, const char *name)
{
    return key.len == strlen(name) && memcmp(key.data, name, key.len) == 0;
}

/* ---- PubAck ------------------------------------------------------------------------------------------------------ */

struct answer {
    struct slice stream, text;
    uint64_t seq, code, err_code;
    bool duplicate, has_seq, has_error;
};

static bool take_error_field(struct scan *s, struct slice key, struct answer *a)
{
    if (is(key, "code"))
        return take_u64(s, &a->code) && a->code <= UINT32_MAX;
    if (is(key, "err_code"))
        return take_u64(s, &a->err_code) && a->err_code <= UINT32_MAX;
    if (is(key, "description"))
        return take_string(s, &a->text);
    return skip_value(s, 2);
}

static bool take_answer_field(struct scan *s, struct slice key, struct answer *a);

/* An object: of the answer itself, or of its error. */
static bool take_fields(struct scan *s, struct answer *a, bool (*field)(struct scan *, struct slice, struct answer *))
{
    struct slice key;

    if (!take(s, '{'))
        return false;
    if (take(s, '}'))
        return true;
    do {
        if (!take_string(s, &key) || !take(s, ':') || !field(s, key, a))
            return false;
    } while (take(s, ','));
    return take(s, '}');
}

static bool take_answer_field(struct scan *s, struct slice key, struct answer *a)
{
    if (is(key, "stream"))
        return take_string(s, &a->stream);
    if (is(key, "seq"))
        return a->has_seq = take_u64(s, &a->seq);
    if (is(key, "duplicate"))
        return take_bool(s, &a->duplicate);
    if (is(key, "error") && peek(s) == '{') {
        a->has_error = true;
        return take_fields(s, a, take_error_field);
    }
    return skip_value(s, 1);
}

static bool contains(const char *text, size_t len, const char *word)
{
    const size_t n = strlen(word);

    for (size_t i = 0; i + n <= len; i++)
        if (memcmp(text + i, word, n) == 0)
            return true;
    return false;
}

evbus_status ev_nats_error_status(uint32_t err_code, const char *text, size_t len)
{
    switch (err_code) {
    case EV_NATS_ERR_NOT_ENABLED:
    case EV_NATS_ERR_NOT_ENABLED_ACCOUNT:
        return EVBUS_NO_JETSTREAM;
    case EV_NATS_ERR_STREAM_NOT_FOUND:
    case EV_NATS_ERR_CONSUMER_NOT_FOUND:
    case EV_NATS_ERR_NO_MESSAGE:
    case EV_NATS_ERR_SEQUENCE_NOT_FOUND:
        return EVBUS_NOT_FOUND;
    case EV_NATS_ERR_STREAM_NAME_TAKEN:
    case EV_NATS_ERR_SUBJECTS_OVERLAP:
    case EV_NATS_ERR_CONSUMER_EXISTS:
        return EVBUS_EXISTS;
    case EV_NATS_ERR_CONSUMER_DIFFERS:
        return EVBUS_MISMATCH;
    case EV_NATS_ERR_ACCOUNT_LIMIT:
    case EV_NATS_ERR_RESOURCES:
    case EV_NATS_ERR_CONSUMERS_MAX:
    case EV_NATS_ERR_STREAMS_MAX:
    case EV_NATS_ERR_MEMORY:
    case EV_NATS_ERR_STORAGE:
        return EVBUS_LIMIT;
    case EV_NATS_ERR_MESSAGE_TOO_LARGE:
    case EV_NATS_ERR_HEADER_TOO_LARGE:
        return EVBUS_TOO_LARGE;
    case EV_NATS_ERR_STORE_FAILED: /* the limits of a stream with discard new, or the disk's trouble */
        return contains(text, len, "exceeded") ? EVBUS_LIMIT : EVBUS_REFUSED;
    default:
        return EVBUS_REFUSED;
    }
}

/* Servers look at message ids after these, so the message may be stored all the same. */
static bool is_before_message_ids(uint32_t code)
{
    switch (code) {
    case EV_NATS_ERR_NOT_ENABLED:
    case EV_NATS_ERR_NOT_ENABLED_ACCOUNT:
    case EV_NATS_ERR_ACCOUNT_LIMIT:
    case EV_NATS_ERR_RESOURCES:
    case EV_NATS_ERR_STREAM_NOT_EXPECTED:
    case EV_NATS_ERR_SEALED:
    case EV_NATS_ERR_STREAM_OFFLINE:
        return true;
    default:
        return false;
    }
}

/* Exactly {"stream":"NAME", "seq":N} with or without the space, as servers write nearly every answer. False: look closer. */
static bool parse_plain_puback(const char *json, size_t len, struct ev_ack *ret)
{
    static const char head[] = "{\"stream\":\"", seq[] = "\"seq\":";

    if (len < sizeof head + sizeof seq + 4 || json[len - 1] != '}' || memcmp(json, head, sizeof head - 1) != 0)
        return false;
    const char *at = json + sizeof head - 1, *end = json + len - 1;
    ret->stream = at;
    while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20)
        at++;
    ret->stream_len = (size_t)(at - ret->stream);
    if (end - at < (ptrdiff_t)sizeof seq + 2 || at[0] != '"' || at[1] != ',' || ret->stream_len == 0)
        return false;
    at += at[2] == ' ' ? 3 : 2;
    if (memcmp(at, seq, sizeof seq - 1) != 0)
        return false;
    at += sizeof seq - 1;
    if (*at == '0' || !ev_get_u64(at, (size_t)(end - at), &ret->sequence))
        return false;
    ret->outcome = EVBUS_OUTCOME_STORED;
    return true;
}

bool ev_nats_parse_puback(const char *json, size_t len, struct ev_ack *ret)
{
    struct scan s = {json, json + len};
    struct answer a = {0};

    memset(ret, 0, sizeof *ret);
    if (parse_plain_puback(json, len, ret))
        return true;
    memset(ret, 0, sizeof *ret);
    if (!take_fields(&s, &a, take_answer_field) || peek(&s) || s.at != s.end)
        return false;
    if (a.has_error) {
        const uint32_t code = (uint32_t)(a.err_code ? a.err_code : a.code);
        ret->outcome = code == EV_NATS_ERR_ID_UNDER_WAY ? EVBUS_OUTCOME_UNKNOWN : EVBUS_OUTCOME_REFUSED;
        ret->broker_code = code;
        ret->status = ev_nats_error_status(code, a.text.data, a.text.len);
        ret->no_responders = code == EV_NATS_ERR_CLUSTER_NOT_READY;
        ret->id_unread = is_before_message_ids(code);
        ret->stream_missing = code == EV_NATS_ERR_STREAM_NOT_FOUND || code == EV_NATS_ERR_STREAM_OFFLINE ||
                              code == EV_NATS_ERR_STREAM_NOT_EXPECTED;
        ret->text = a.text.data ? a.text.data : "";
        ret->text_len = a.text.len;
    } else if (a.has_seq && a.seq > 0 && a.stream.len > 0) {
        ret->outcome = EVBUS_OUTCOME_STORED;
        ret->duplicate = a.duplicate;
        ret->sequence = a.seq;
    } else if (a.has_seq && a.duplicate && a.stream.len > 0) {
        ret->outcome = EVBUS_OUTCOME_UNKNOWN;
    } else {
        return false;
    }
    ret->stream = a.stream.data ? a.stream.data : "";
    ret->stream_len = a.stream.len;
    return true;
}

/* ---- Ack subjects ------------------------------------------------------------------------------------------------ */

#define ACK_PREFIX "$JS.ACK."
#define ACK_TOKENS_MAX 16

/* Tokens behind the prefix; 0: not an ack subject. */
static size_t split(const char *subject, struct slice out[ACK_TOKENS_MAX])
{
    size_t count = 0;

    if (strncmp(subject, ACK_PREFIX, sizeof ACK_PREFIX - 1) != 0)
        return 0;
    for (const char *start = subject + sizeof ACK_PREFIX - 1, *at = start;; at++) {
        if (*at && *at != '.')
            continue;
        if (count == ACK_TOKENS_MAX || at == start)
            return 0;
        out[count++] = (struct slice){start, (size_t)(at - start)};
        start = at + 1;
        if (!*at)
            return count;
    }
}

bool ev_nats_parse_ackref(const char *subject, struct ev_nats_ackref *ret)
{
    struct slice t[ACK_TOKENS_MAX];
    const size_t count = split(subject, t);
    /* Old: 7 tokens behind the prefix. New: domain and account before them, and from 9 on anything may follow. */
    const size_t first = count == 7 ? 0 : 2;
    uint64_t delivered, stored;

    if (count != 7 && count < 9)
        return false;
    const struct slice *n = t + first;
    if (!ev_get_u64(n[2].data, n[2].len, &delivered) || !ev_get_u64(n[3].data, n[3].len, &ret->stream_seq) ||
        !ev_get_u64(n[4].data, n[4].len, &ret->consumer_seq) || !ev_get_u64(n[5].data, n[5].len, &stored) ||
        !ev_get_u64(n[6].data, n[6].len, &ret->pending))
        return false;
    if (delivered == 0 || delivered > UINT32_MAX || stored > INT64_MAX || ret->stream_seq == 0)
        return false;
    ret->stream = n[0].data;
    ret->stream_len = n[0].len;
    ret->consumer = n[1].data;
    ret->consumer_len = n[1].len;
    ret->delivered = (uint32_t)delivered;
    ret->stored_ns = (int64_t)stored;
    if (n[1].len < 16 || !ev_get_hex16(n[1].data + n[1].len - 16, &ret->id))
        ret->id = 0;
    return true;
}

/* ---- Pulls and verdicts ------------------------------------------------------------------------------------------ */

static enum ev_nats_status conflict(const char *text)
{
    static const struct {
        const char *word;
        enum ev_nats_status status;
    } known[] = {
        {"Consumer Deleted", EV_NATS_ST_GONE},
        {"Consumer is push based", EV_NATS_ST_CHANGED},
        {"Message Size Exceeds MaxBytes", EV_NATS_ST_SIZE},
        {"Exceeded MaxRequestBatch", EV_NATS_ST_BATCH_MAX},
        {"Exceeded MaxRequestMaxBytes", EV_NATS_ST_BYTES_MAX},
        {"Exceeded MaxRequestExpires", EV_NATS_ST_EXPIRES_MAX},
        {"Leadership Change", EV_NATS_ST_LEADER},
        {"Batch Completed", EV_NATS_ST_ENDED},
        {"Server Shutdown", EV_NATS_ST_ENDED},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (contains(text, strlen(text), known[i].word))
            return known[i].status;
    return EV_NATS_ST_BUSY; /* "Exceeded MaxWaiting", and what later servers may say */
}

enum ev_nats_status ev_nats_status_of(uint32_t code, const char *text)
{
    switch (code) {
    case 100:
        return EV_NATS_ST_HEARTBEAT;
    case 400:
        return EV_NATS_ST_BAD_REQUEST;
    case 404:
    case 408:
        return EV_NATS_ST_ENDED;
    case 409:
        return conflict(text ? text : "");
    default:
        return EV_NATS_ST_BUSY;
    }
}

size_t ev_nats_pull_request(char out[EV_NATS_PULL_MAX], uint32_t batch, uint64_t max_bytes, int64_t expires_ns,
                            int64_t heartbeat_ns)
{
    int n = snprintf(out, EV_NATS_PULL_MAX, "{\"batch\":%u", batch);

    if (max_bytes > 0)
        n += snprintf(out + n, EV_NATS_PULL_MAX - (size_t)n, ",\"max_bytes\":%llu", (unsigned long long)max_bytes);
    if (expires_ns > 0)
        n += snprintf(out + n, EV_NATS_PULL_MAX - (size_t)n, ",\"expires\":%lld", (long long)expires_ns);
    if (heartbeat_ns > 0)
        n += snprintf(out + n, EV_NATS_PULL_MAX - (size_t)n, ",\"idle_heartbeat\":%lld", (long long)heartbeat_ns);
    out[n] = '}';
    out[n + 1] = 0;
    return (size_t)n + 1;
}

size_t ev_nats_verb(char out[EV_NATS_VERB_MAX], enum ev_settle verb, int64_t delay_ns)
{
    static const char words[][8] = {
        [EV_SETTLE_ACK] = "+ACK", [EV_SETTLE_NAK] = "-NAK", [EV_SETTLE_TERM] = "+TERM", [EV_SETTLE_EXTEND] = "+WPI"};

    if (verb == EV_SETTLE_NAK && delay_ns > 0)
        return (size_t)snprintf(out, EV_NATS_VERB_MAX, "-NAK {\"delay\":%lld}", (long long)delay_ns);
    memcpy(out, words[verb], sizeof words[verb]); /* once per message: no printf */
    return strlen(words[verb]);
}
