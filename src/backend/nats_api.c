/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The administration half of nats_api.h. Numbers and texts were taken from what nats-server 2.9.10 answered; a CREATE
 * of an existing durable silently replaces its filter there, which is why consumers are read before they are made.
 */
#include "backend/nats_api.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/names.h"
#include "core/rfc3339.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* ---- Administration: what is asked ------------------------------------------------------------------------------- */

char *ev_nats_json_text(json_t *root)
{
    char *text = NULL;

    if (!root)
        return NULL;
    const size_t size = json_dumpb(root, NULL, 0, JSON_COMPACT);
    if (size > 0)
        text = ev_malloc(size + 1);
    if (text) {
        (void)json_dumpb(root, text, size, JSON_COMPACT);
        text[size] = 0;
    }
    json_decref(root);
    return text;
}

static json_int_t or_none(uint64_t value)
{
    return value == 0 || value > INT64_MAX ? -1 : (json_int_t)value;
}

char *ev_nats_names_request(const char *subject, uint64_t offset)
{
    return ev_nats_json_text(json_pack("{s:s, s:I}", "subject", subject, "offset", (json_int_t)offset));
}

char *ev_nats_stream_request(const struct ev_stream_cfg *cfg)
{
    uint64_t window = cfg->duplicate_window_ns;
    json_t *subjects = json_array();

    for (uint32_t i = 0; i < cfg->subject_count; i++)
        if (json_array_append_new(subjects, json_string(cfg->subjects[i])) != 0) {
            json_decref(subjects);
            return NULL;
        }
    if (cfg->max_age_ns > 0 && window > cfg->max_age_ns)
        window = cfg->max_age_ns; /* the server refuses a window longer than the messages live */
    json_t *root = json_pack("{s:s, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:I}", "name", cfg->name,
                             "subjects", subjects, "retention", "limits", "max_consumers", (json_int_t)-1, "max_msgs",
                             or_none(cfg->max_msgs), "max_bytes", or_none(cfg->max_bytes), "max_age",
                             (json_int_t)cfg->max_age_ns, "max_msgs_per_subject", (json_int_t)-1, "max_msg_size",
                             (json_int_t)-1, "discard", cfg->discard == EVBUS_DISCARD_NEW ? "new" : "old", "storage",
                             cfg->storage == EVBUS_STORAGE_MEMORY ? "memory" : "file", "num_replicas",
                             (json_int_t)(cfg->replicas ? cfg->replicas : 1));
    if (root && window > 0)
        json_object_set_new(root, "duplicate_window", json_integer((json_int_t)window));
    return ev_nats_json_text(root);
}

static const char *ack_policy(const struct ev_consumer_cfg *cfg)
{
    return cfg->ack_all ? "all" : cfg->ack_explicit ? "explicit" : "none";
}

char *ev_nats_consumer_request(const struct ev_consumer_cfg *cfg)
{
    json_t *c = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I}", cfg->durable ? "durable_name" : "name", cfg->name,
                          "deliver_policy", cfg->deliver_new ? "new" : "all", "ack_policy", ack_policy(cfg),
                          "max_deliver", (json_int_t)-1, "filter_subject", cfg->filter, "replay_policy", "instant",
                          "max_waiting", (json_int_t)EV_NATS_MAX_WAITING);

    if (!c)
        return NULL;
    if (cfg->ack_explicit) {
        json_object_set_new(c, "ack_wait", json_integer(cfg->ack_wait_ns));
        json_object_set_new(c, "max_ack_pending", json_integer(cfg->ack_pending_max));
    }
    if (!cfg->durable)
        json_object_set_new(c, "inactive_threshold", json_integer(EV_NATS_INACTIVE_NS));
    return ev_nats_json_text(json_pack("{s:s, s:o, s:s}", "stream_name", cfg->stream, "config", c, "action", "create"));
}

char *ev_nats_lister_request(const char *stream, const char *name, const char *filter, uint64_t first)
{
    return ev_nats_json_text(json_pack("{s:s, s:{s:s, s:s, s:s, s:I, s:s, s:s, s:b, s:b, s:I}}", "stream_name", stream,
                                       "config", "name", name, "ack_policy", "none", "deliver_policy",
                                       "by_start_sequence", "opt_start_seq", (json_int_t)first, "filter_subject",
                                       filter, "replay_policy", "instant", "headers_only", 1, "mem_storage", 1,
                                       "inactive_threshold", (json_int_t)(10 * EV_SEC)));
}

/* ---- Administration: what is answered ---------------------------------------------------------------------------- */

evbus_status ev_nats_api_fail(uint32_t err_code, const char *what, const char *text)
{
    const evbus_status st = ev_nats_error_status(err_code, text, strlen(text));

    switch (st) {
    case EVBUS_NO_JETSTREAM:
        return ev_fail(st,
                       "%s: JetStream is not enabled for this account (broker error %u): enable it for the account, or "
                       "use evbus_publish on an EPHEMERAL topic",
                       what, err_code);
    case EVBUS_LIMIT:
        return ev_fail(st, "%s: %s (broker error %u): raise the account's or the server's limits, or free room", what,
                       text, err_code);
    case EVBUS_MISMATCH:
        return ev_fail(st, "%s: %s (broker error %u): delete it or use another group", what, text, err_code);
    default:
        break;
    }
    if (err_code == EV_NATS_ERR_CLUSTER_NOT_READY || err_code == EV_NATS_ERR_STREAM_OFFLINE ||
        err_code == EV_NATS_ERR_CONSUMER_OFFLINE)
        return ev_fail(EVBUS_DISCONNECTED, "%s: %s (broker error %u): it has no leader now", what, text, err_code);
    return ev_fail(st, "%s: %s (broker error %u)", what, text, err_code);
}

static evbus_status unreadable(const char *what, const char *why)
{
    return ev_fail(EVBUS_UNSUPPORTED, "%s: the server's answer cannot be read: %s", what, why);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key)); /* 0 if absent */
}

static uint64_t count_of(const json_t *object, const char *key)
{
    const int64_t value = number_of(object, key);

    return value > 0 ? (uint64_t)value : 0; /* -1: no limit */
}

/* The answer as an object without error; the caller drops the reference. */
static evbus_status load(const char *json, size_t len, const char *what, json_t **ret)
{
    json_error_t error;
    json_t *root = json_loadb(json, len, 0, &error);

    if (!root)
        return unreadable(what, error.text);
    const json_t *failure = json_object_get(root, "error");
    evbus_status st = EVBUS_OK;
    if (!json_is_object(root))
        st = unreadable(what, "it is no object");
    else if (json_is_object(failure)) {
        const int64_t err_code = number_of(failure, "err_code");
        const int64_t code = err_code ? err_code : number_of(failure, "code");
        st = ev_nats_api_fail((uint32_t)code, what, text_of(failure, "description"));
    }
    if (st != EVBUS_OK) {
        json_decref(root);
        return st;
    }
    *ret = root;
    return EVBUS_OK;
}

uint32_t ev_nats_error_code(const char *json, size_t len)
{
    struct ev_ack answer;

    return ev_nats_parse_puback(json, len, &answer) ? answer.broker_code : 0;
}

evbus_status ev_nats_parse_answer(const char *json, size_t len, const char *what)
{
    json_t *root = NULL;
    const evbus_status st = load(json, len, what, &root);

    json_decref(root);
    return st;
}

evbus_status ev_nats_parse_names(const char *json, size_t len, const char *what, struct ev_nats_names *ret)
{
    json_t *root = NULL;
    evbus_status st = load(json, len, what, &root);

    if (st != EVBUS_OK)
        return st;
    const json_t *streams = json_object_get(root, "streams"); /* null when there is none */
    ret->total = count_of(root, "total");
    ret->count = 0;
    for (size_t i = 0; i < json_array_size(streams) && i < EV_NATS_NAMES_MAX && st == EVBUS_OK; i++) {
        const char *name = json_string_value(json_array_get(streams, i));
        if (!name || !*name || !ev_copy(ret->names[ret->count], EV_NAME_MAX, name))
            st = unreadable(what, "a stream's name is missing or longer than 255 bytes");
        else
            ret->count++;
    }
    json_decref(root);
    return st;
}

static bool covered(const json_t *config, const char *subject)
{
    const json_t *subjects = json_object_get(config, "subjects");

    for (size_t i = 0; i < json_array_size(subjects); i++) {
        const char *one = json_string_value(json_array_get(subjects, i));
        if (one && ev_subject_covers(one, subject))
            return true;
    }
    return false;
}

evbus_status ev_nats_parse_stream(const char *json, size_t len, const char *what, const char *subject,
                                  struct ev_stream_info *ret)
{
    json_t *root = NULL;
    evbus_status st = load(json, len, what, &root);

    if (st != EVBUS_OK)
        return st;
    const json_t *config = json_object_get(root, "config");
    const json_t *state = json_object_get(root, "state");
    memset(ret, 0, sizeof *ret);
    if (!json_is_object(config) || !ev_copy(ret->name, sizeof ret->name, text_of(config, "name")) || !ret->name[0])
        st = unreadable(what, "the stream's configuration or name is missing");
    ret->covers = subject && covered(config, subject);
    ret->max_age_ns = count_of(config, "max_age");
    ret->max_bytes = count_of(config, "max_bytes");
    ret->max_msgs = count_of(config, "max_msgs");
    ret->duplicate_window_ns = count_of(config, "duplicate_window");
    ret->storage = strcmp(text_of(config, "storage"), "memory") == 0 ? EVBUS_STORAGE_MEMORY : EVBUS_STORAGE_FILE;
    ret->discard = strcmp(text_of(config, "discard"), "new") == 0 ? EVBUS_DISCARD_NEW : EVBUS_DISCARD_OLD;
    ret->replicas = (uint32_t)count_of(config, "num_replicas");
    ret->msgs = count_of(state, "messages");
    ret->bytes = count_of(state, "bytes");
    ret->first_seq = count_of(state, "first_seq");
    ret->last_seq = count_of(state, "last_seq");
    (void)ev_copy(ret->created, sizeof ret->created, text_of(root, "created"));
    json_decref(root);
    return st;
}

evbus_status ev_nats_stream_add_request(const char *json, size_t len, const char *subject, char **ret_request)
{
    json_t *root = NULL;
    evbus_status st = load(json, len, "stream", &root);

    if (st != EVBUS_OK)
        return st;
    json_t *config = json_object_get(root, "config");
    json_t *subjects = json_object_get(config, "subjects");
    if (!json_is_object(config)) {
        st = unreadable("stream", "its configuration is missing");
    } else if (covered(config, subject)) {
        st = ev_fail(EVBUS_EXISTS, "stream '%s' covers '%s' already", text_of(config, "name"), subject);
    } else {
        if (!json_is_array(subjects) && json_object_set_new(config, "subjects", json_array()) == 0)
            subjects = json_object_get(config, "subjects");
        char *text = NULL;
        if (json_array_append_new(subjects, json_string(subject)) == 0)
            text = ev_nats_json_text(json_incref(config));
        if (text)
            *ret_request = text;
        else
            st = ev_fail(EVBUS_NOMEM, "out of memory");
    }
    json_decref(root);
    return st;
}

/* ---- Consumers --------------------------------------------------------------------------------------------------- */

/* filter_subject, or (from 2.10 on) filter_subjects joined for people. */
static void read_filter(const json_t *config, struct ev_nats_consumer *ret)
{
    const json_t *many = json_object_get(config, "filter_subjects");
    size_t at = 0;

    ret->filters = *text_of(config, "filter_subject") ? 1 : 0;
    (void)ev_copy(ret->filter, sizeof ret->filter, text_of(config, "filter_subject"));
    for (size_t i = 0; i < json_array_size(many); i++) {
        const char *one = json_string_value(json_array_get(many, i));
        const int n = snprintf(ret->filter + at, sizeof ret->filter - at, "%s%s", i ? ", " : "", one ? one : "");
        at = n > 0 && at + (size_t)n < sizeof ret->filter ? at + (size_t)n : sizeof ret->filter - 1;
        ret->filters = (uint32_t)i + 1;
    }
}

evbus_status ev_nats_parse_consumer(const char *json, size_t len, const char *what, struct ev_nats_consumer *ret)
{
    json_t *root = NULL;
    evbus_status st = load(json, len, what, &root);

    if (st != EVBUS_OK)
        return st;
    const json_t *config = json_object_get(root, "config");
    memset(ret, 0, sizeof *ret);
    if (!json_is_object(config))
        st = unreadable(what, "the consumer's configuration is missing");
    read_filter(config, ret);
    (void)ev_copy(ret->ack, sizeof ret->ack, text_of(config, "ack_policy"));
    (void)ev_copy(ret->replay, sizeof ret->replay, text_of(config, "replay_policy"));
    (void)ev_copy(ret->push, sizeof ret->push, text_of(config, "deliver_subject"));
    ret->headers_only = json_is_true(json_object_get(config, "headers_only"));
    ret->durable = *text_of(config, "durable_name") != 0;
    ret->ack_wait_ns = number_of(config, "ack_wait");
    ret->max_deliver = number_of(config, "max_deliver");
    ret->ack_pending_max = number_of(config, "max_ack_pending");
    const json_t *delivered = json_object_get(root, "delivered"), *floor = json_object_get(root, "ack_floor");
    ret->delivered_seq = count_of(delivered, "consumer_seq");
    ret->delivered_stream_seq = count_of(delivered, "stream_seq");
    ret->floor_seq = count_of(floor, "consumer_seq");
    ret->floor_stream_seq = count_of(floor, "stream_seq");
    const char *acked = text_of(floor, "last_active");
    const char *made = text_of(root, "created");
    (void)ev_rfc3339_get(acked, strlen(acked), &ret->floor_ns); /* else 0 */
    (void)ev_rfc3339_get(made, strlen(made), &ret->made_ns);
    ret->ack_pending = count_of(root, "num_ack_pending");
    ret->clustered = json_is_object(json_object_get(root, "cluster"));
    ret->waiting = count_of(root, "num_waiting");
    json_decref(root);
    return st;
}

static evbus_status differs(const struct ev_consumer_cfg *want, const char *field, const char *has, const char *needs)
{
    return ev_fail(EVBUS_MISMATCH,
                   "consumer '%s' of stream '%s' exists with %s '%s', needed is '%s': use another group, or delete the "
                   "consumer if nobody needs it",
                   want->name, want->stream, field, has, needs);
}

evbus_status ev_nats_consumer_update_request(const char *json, size_t len, const struct ev_consumer_cfg *cfg,
                                             char **ret_request)
{
    json_t *root = NULL;
    evbus_status st = load(json, len, "consumer", &root);

    if (st != EVBUS_OK)
        return st;
    json_t *config = json_object_get(root, "config");
    if (!json_is_object(config)) {
        st = unreadable("consumer", "its configuration is missing");
    } else {
        json_object_set_new(config, "ack_wait", json_integer(cfg->ack_wait_ns));
        json_object_set_new(config, "max_ack_pending", json_integer(cfg->ack_pending_max));
        *ret_request = ev_nats_json_text(json_pack("{s:s, s:O}", "stream_name", cfg->stream, "config", config));
        if (!*ret_request)
            st = ev_fail(EVBUS_NOMEM, "out of memory");
    }
    json_decref(root);
    return st;
}

evbus_status ev_nats_compare_consumer(const struct ev_consumer_cfg *want, const struct ev_nats_consumer *have,
                                      bool *ret_update)
{
    const char *ack = ack_policy(want);
    const bool whole = have->filters == 0 && strcmp(want->filter, ">") == 0;
    char number[24];

    if (have->push[0])
        return differs(want, "deliver subject", have->push, "none, a pull consumer");
    if (!whole && (have->filters != 1 || strcmp(have->filter, want->filter) != 0))
        return differs(want, "filter", have->filter, want->filter);
    if (strcmp(have->ack, ack) != 0)
        return differs(want, "ack policy", have->ack, ack);
    if (have->max_deliver != -1) { /* hand-backs count there, and what is used up is lost in silence */
        snprintf(number, sizeof number, "%lld", (long long)have->max_deliver);
        return differs(want, "max_deliver", number, "-1");
    }
    if (have->replay[0] && strcmp(have->replay, "instant") != 0)
        return differs(want, "replay policy", have->replay, "instant");
    if (have->headers_only)
        return differs(want, "headers_only", "true", "false");
    *ret_update = want->ack_explicit &&
                  (have->ack_wait_ns != want->ack_wait_ns || have->ack_pending_max != (int64_t)want->ack_pending_max);
    return EVBUS_OK;
}

/* ---- The records of members -------------------------------------------------------------------------------------- */

char *ev_nats_members_request(void)
{
    return ev_nats_json_text(json_pack("{s:s, s:[s,s], s:s, s:s, s:I, s:s, s:s, s:I, s:I}", "name", EV_NATS_MEMBERS,
                                       "subjects", EV_NATS_MEMBER_SUBJECT ">", EV_NATS_LEASE_SUBJECT ">", "retention",
                                       "limits", "storage", "file", "max_msgs_per_subject", (json_int_t)1, "discard",
                                       "old", "description", "evbus: who is the active member of which EXCLUSIVE group",
                                       "num_replicas", (json_int_t)1, "max_consumers", (json_int_t)-1));
}

char *ev_nats_member_body(bool alive, int64_t ttl_ns, const char *inbox, const char *server, const char *name)
{
    if (!alive)
        return ev_nats_json_text(json_pack("{s:s}", "state", "gone"));
    return ev_nats_json_text(json_pack("{s:s, s:I, s:s, s:s, s:s}", "state", "alive", "ttl_ms",
                                       (json_int_t)(ttl_ns / EV_MS), "inbox", inbox, "server", server, "name", name));
}

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* As much of it as is base64 and fits. */
static size_t from_base64(const char *text, char *out, size_t cap)
{
    uint32_t bits = 0, have = 0;
    size_t n = 0;

    for (int value; (value = sextet(*text)) >= 0 && n < cap; text++) {
        bits = (bits << 6 | (uint32_t)value) & 0xffffff;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (char)(bits >> have & 0xff);
        }
    }
    return n;
}

static void read_body(const json_t *body, struct ev_lease_record *ret)
{
    const int64_t ms = number_of(body, "ttl_ms");

    (void)ev_copy(ret->holder, sizeof ret->holder, text_of(body, "holder"));
    ret->alive = strcmp(text_of(body, "state"), "alive") == 0;
    ret->ttl_ns = ms > 0 && ms < INT64_MAX / EV_MS ? ms * EV_MS : 0;
    if (!ev_copy(ret->inbox, sizeof ret->inbox, text_of(body, "inbox")) ||
        !ev_copy(ret->server, sizeof ret->server, text_of(body, "server")))
        ret->inbox[0] = 0; /* nothing to ask at */
}

evbus_status ev_nats_parse_record(const char *json, size_t len, struct ev_lease_record *ret)
{
    char data[1024];
    json_error_t error;
    json_t *root = NULL;

    memset(ret, 0, sizeof *ret);
    if (ev_nats_error_code(json, len) == EV_NATS_ERR_NO_MESSAGE)
        return EVBUS_OK;
    const evbus_status st = load(json, len, "a member's record", &root);
    if (st != EVBUS_OK)
        return st;
    const json_t *message = json_object_get(root, "message");
    ret->seq = count_of(message, "seq");
    const size_t n = from_base64(text_of(message, "data"), data, sizeof data);
    json_t *body = json_loadb(data, n, 0, &error);
    if (json_is_object(body))
        read_body(body, ret);
    json_decref(body);
    json_decref(root);
    return ret->seq > 0 ? EVBUS_OK : unreadable("a member's record", "it has no sequence");
}

bool ev_nats_parse_holder(const char *json, size_t len, char ret[EV_LEASE_ID + 1])
{
    json_error_t error;
    json_t *body = json_loadb(json, len, 0, &error);
    const char *holder = json_string_value(json_object_get(body, "holder"));
    const bool is = holder && ev_copy(ret, EV_LEASE_ID + 1, holder);

    json_decref(body);
    return is;
}
