/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records out, and what libnats says by callback.
 *
 * A record goes out as a plain NATS message whose reply subject carries slot and generation; JetStream answers there
 * (nats_lanes.c). Permission violations do not come as an answer: the server sends an -ERR, libnats hands it to its
 * callback thread, and from there a text travels through the mailbox ("notes") to the loop.
 *
 * The callbacks may come after everything of ours is gone, so they carry no pointer but the session's number, and look
 * the bus up in a process-wide list.
 */
#include "backend/nats_internal.h"

#include <inttypes.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* "NATS/1.0\r\n" and the empty line: what a header block costs besides its lines. */
#define HEADER_FRAME 12u
#define COMMAND_ROOM 96u /* "HPUB ", reply subject, sizes, line ends: about */
#define MSG_ID "Nats-Msg-Id"
#define MSG_ID_FRAME (sizeof MSG_ID - 1 + 4)

/* ---- libnats's status -------------------------------------------------------------------------------------------- */

evbus_status ev_nats_status(natsStatus s)
{
    switch (s) {
    case NATS_OK:
        return EVBUS_OK;
    case NATS_CONNECTION_AUTH_FAILED:
        return EVBUS_AUTH;
    case NATS_SSL_ERROR:
    case NATS_SECURE_CONNECTION_WANTED:
    case NATS_SECURE_CONNECTION_REQUIRED:
        return EVBUS_TLS;
    case NATS_NO_MEMORY:
        return EVBUS_NOMEM;
    case NATS_MAX_PAYLOAD:
        return EVBUS_TOO_LARGE;
    case NATS_NOT_PERMITTED:
        return EVBUS_DENIED;
    case NATS_NO_SERVER_SUPPORT:
        return EVBUS_UNSUPPORTED;
    case NATS_INVALID_SUBJECT:
    case NATS_INVALID_ARG:
    case NATS_INVALID_QUEUE_NAME:
    case NATS_ADDRESS_MISSING:
        return EVBUS_INVALID;
    case NATS_SYS_ERROR:
    case NATS_FAILED_TO_INITIALIZE:
        return EVBUS_SYSTEM;
    default:
        return EVBUS_DISCONNECTED;
    }
}

void ev_nats_say(char *out, size_t cap, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(out, cap, fmt, args);
    va_end(args);
}

/* ---- Records ----------------------------------------------------------------------------------------------------- */

static uint64_t wire_size(const struct ev_record *r)
{
    uint64_t size = r->len;

    if (r->headers || r->msg_id)
        size += HEADER_FRAME + r->headers_len;
    if (r->msg_id)
        size += MSG_ID_FRAME + strlen(r->msg_id);
    return size;
}

/* The record's headers onto libnats's message. It wants NUL-terminated names and values, so a copy is cut up. */
static natsStatus add_headers(struct ev_nats *st, natsMsg *msg, const struct ev_record *r)
{
    natsStatus e = NATS_OK;

    if (r->msg_id)
        e = natsMsgHeader_Set(msg, MSG_ID, r->msg_id);
    if (!r->headers || r->headers_len == 0 || e != NATS_OK)
        return e;
    if (st->scratch_cap < r->headers_len + 1) {
        char *bigger = ev_realloc(st->scratch, r->headers_len + 1);
        if (!bigger)
            return NATS_NO_MEMORY;
        st->scratch = bigger;
        st->scratch_cap = r->headers_len + 1;
    }
    memcpy(st->scratch, r->headers, r->headers_len);
    st->scratch[r->headers_len] = 0;
    for (char *line = st->scratch; *line && e == NATS_OK;) {
        char *end = strstr(line, "\r\n");
        char *colon = strchr(line, ':');
        if (!end || !colon || colon > end)
            return NATS_INVALID_ARG;
        *end = *colon = 0;
        const char *value = colon[1] == ' ' ? colon + 2 : colon + 1;
        e = natsMsgHeader_Add(msg, line, value);
        line = end + 2;
    }
    return e;
}

static natsStatus publish_with_headers(struct ev_nats *st, const struct ev_record *r, const char *reply)
{
    natsMsg *msg = NULL;
    natsStatus e = natsMsg_Create(&msg, r->topic, reply, r->data, (int)r->len);

    if (e != NATS_OK)
        return NATS_NO_MEMORY; /* nothing was appended: see send_failed */
    e = add_headers(st, msg, r);
    if (e == NATS_OK)
        e = natsConnection_PublishMsg(st->session->nc, msg);
    ev_nats_bury(st, msg);
    return e;
}

static enum ev_sent send_failed(struct ev_nats *st, const struct ev_record *r, natsStatus e, evbus_status *ret_status)
{
    switch (e) {
    case NATS_MAX_PAYLOAD:
    case NATS_INVALID_SUBJECT:
    case NATS_INVALID_ARG:
    case NATS_NO_SERVER_SUPPORT:
        *ret_status = ev_fail(ev_nats_status(e), "cannot publish to '%s': %s", r->topic, natsStatus_GetText(e));
        return EV_SEND_REFUSED;
    case NATS_CONNECTION_CLOSED:
        return EV_SEND_LATER;
    default:
        /* Half a command may stand in the buffer, and the server would take what follows as part of it. */
        ev_nats_drop(st, natsStatus_GetText(e));
        return EV_SEND_LATER;
    }
}

enum ev_sent ev_nats_send(void *state, const struct ev_record *record, evbus_status *ret_status)
{
    struct ev_nats *st = state;
    struct ev_nats_session *s = st->session;
    char reply[EV_NATS_REPLY_MAX];
    natsStatus e;

    if (!ev_nats_is_up(st))
        return EV_SEND_LATER;
    const uint64_t size = wire_size(record);
    const uint64_t max = ev_load_relaxed(&st->payload_max); /* own field */
    if ((max != 0 && size > max) || size > INT32_MAX) {
        *ret_status = ev_fail(
            EVBUS_TOO_LARGE, "message to '%s' has %" PRIu64 " bytes with headers, the server's max_payload is %" PRIu64,
            record->topic, size, max);
        return EV_SEND_REFUSED;
    }
    /* One message may exceed the bound when nothing else waits. */
    if (s->waiting > 0 && s->waiting + size > EV_NATS_BUFFER_MAX)
        return EV_SEND_LATER;
    if (record->want_ack && !ev_nats_lanes_reply(st, record, reply))
        return EV_SEND_LATER;
    if (record->headers || record->msg_id)
        e = publish_with_headers(st, record, record->want_ack ? reply : NULL);
    else if (record->want_ack)
        e = natsConnection_PublishRequest(s->nc, record->topic, reply, record->data, (int)record->len);
    else
        e = natsConnection_Publish(s->nc, record->topic, record->data, (int)record->len);
    if (e != NATS_OK)
        return send_failed(st, record, e, ret_status);
    s->waiting += size + strlen(record->topic) + COMMAND_ROOM;
    if (record->want_ack)
        ev_nats_lanes_sent(st, record);
    return EV_SENT;
}

/* Marks count bytes appended since open: what left the buffer (`gone`) plus what stands in it. */
uint64_t ev_nats_sent_mark(void *state)
{
    struct ev_nats *st = state;
    uint64_t mark = st->gone;

    if (st->session && !st->session->dead) {
        const int waiting = natsConnection_Buffered(st->session->nc);
        if (waiting > 0)
            mark += (uint64_t)waiting;
    }
    if (mark > st->mark)
        st->mark = mark;
    return st->mark;
}

/* Bytes in the socket that the peer's system has not acknowledged; closing throws them away (libnats sets SO_LINGER to
 * 0 seconds). Under TLS there are more of them than of ours: the answer errs on the side of "not gone". */
static uint64_t in_socket(const struct ev_nats_session *s)
{
    int n = 0;

    return s->fd >= 0 && ioctl(s->fd, SIOCOUTQ, &n) == 0 && n > 0 ? (uint64_t)n : 0;
}

bool ev_nats_unsent_after(void *state, uint64_t mark)
{
    const struct ev_nats *st = state;

    /* A dead session's bytes are still in libnats, and can go nowhere; those in its socket until that is closed. */
    if (!st->session || st->session->dead)
        return st->session && st->session->close_fd >= 0;
    return mark > st->gone || st->gone - mark < in_socket(st->session);
}

uint64_t ev_nats_max_payload(void *state)
{
    struct ev_nats *st = state;

    return ev_load_relaxed(&st->payload_max); /* statistic */
}

/* ---- Notes: from libnats's callback thread to the loop ----------------------------------------------------------- */

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ev_nats *registry; /* guarded by registry_mutex */

void ev_nats_register(struct ev_nats *st)
{
    pthread_mutex_lock(&registry_mutex);
    st->registry_next = registry;
    registry = st;
    pthread_mutex_unlock(&registry_mutex);
}

void ev_nats_unregister(struct ev_nats *st)
{
    pthread_mutex_lock(&registry_mutex);
    for (struct ev_nats **link = &registry; *link; link = &(*link)->registry_next) {
        if (*link == st) {
            *link = st->registry_next;
            break;
        }
    }
    pthread_mutex_unlock(&registry_mutex);
}

void ev_nats_notes_for(struct ev_nats *st, uint64_t session_id)
{
    pthread_mutex_lock(&registry_mutex);
    st->session_id = session_id;
    st->note_count = 0;
    pthread_mutex_unlock(&registry_mutex);
}

static void append_note(struct ev_nats *st, int kind, natsStatus status, const char *text)
{
    for (uint32_t i = 0; i < st->note_count; i++) {
        struct ev_nats_note *n = &st->notes[i];
        if ((int)n->kind == kind && n->status == status && strncmp(n->text, text, sizeof n->text - 1) == 0) {
            n->count++;
            return;
        }
    }
    if (st->note_count == EV_NATS_NOTES) {
        st->notes_lost++;
        return;
    }
    struct ev_nats_note *n = &st->notes[st->note_count++];
    n->kind = kind;
    n->status = status;
    n->count = 1;
    (void)ev_copy(n->text, sizeof n->text, text);
}

static void post_note(uint64_t session_id, int kind, natsStatus status, const char *text)
{
    pthread_mutex_lock(&registry_mutex);
    for (struct ev_nats *st = registry; st; st = st->registry_next) {
        if (st->session_id != session_id)
            continue;
        append_note(st, kind, status, text);
        ev_add_acqrel(&st->posted, 1);
        ev_nats_wake(st);
        break;
    }
    pthread_mutex_unlock(&registry_mutex);
}

static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus err, void *closure)
{
    natsStatus last = NATS_OK;
    const char *text = nats_GetLastError(&last); /* libnats sets this thread's error before it calls */

    (void)nc;
    (void)sub;
    post_note((uint64_t)(uintptr_t)closure, EV_NOTE_ERROR, err, text && text[0] ? text : natsStatus_GetText(err));
}

static void on_lame_duck(natsConnection *nc, void *closure)
{
    (void)nc;
    post_note((uint64_t)(uintptr_t)closure, EV_NOTE_LAME_DUCK, NATS_OK, "");
}

natsStatus ev_nats_callbacks(natsOptions *opts, uint64_t session_id)
{
    void *closure = (void *)(uintptr_t)session_id;
    natsStatus e = natsOptions_SetErrorHandler(opts, on_error, closure);

    return e == NATS_OK ? natsOptions_SetLameDuckModeCB(opts, on_lame_duck, closure) : e;
}

/* The subject in: Permissions Violation for Publish to "subject". False: there is none, or libnats cut it off. */
static bool violated_subject(const char *text, const char *after, char out[EV_NATS_TEXT_MAX])
{
    const char *at = strstr(text, after);
    const char *open = at ? strchr(at, '"') : NULL;
    const char *close = open ? strchr(open + 1, '"') : NULL;

    return close && ev_copyn(out, EV_NATS_TEXT_MAX, open + 1, (size_t)(close - open - 1));
}

static bool is_own(const struct ev_nats *st, const char *subject, const char *rest)
{
    const struct ev_nats_session *s = st->session;

    return strncmp(subject, s->inbox, s->inbox_len) == 0 && strcmp(subject + s->inbox_len, rest) == 0;
}

static void publish_violated(struct ev_nats *st, const struct ev_nats_note *note, const char *subject)
{
    if (is_own(st, subject, ".h")) {
        ev_nats_probe_denied(st);
        return;
    }
    if (strncmp(subject, ev_nats_inbox(st), st->session->inbox_len) == 0 &&
        strncmp(subject + st->session->inbox_len, ".m.", 3) == 0) {
        /* Refused after what came before it: as good as an echo. */
        ev_nats_lanes_fenced(st, subject + st->session->inbox_len + 3);
        return;
    }
    if (ev_nats_requests_denied(st, subject, note->text) || ev_nats_consume_denied(st, subject, note->text))
        return;
    for (uint32_t i = 0; i < note->count; i++)
        ev_host_publish_denied(st->host, subject, note->text);
}

static void subscribe_violated(struct ev_nats *st, const struct ev_nats_note *note, const char *subject)
{
    char why[EV_NATS_TEXT_MAX];

    if (is_own(st, subject, ".>")) {
        ev_nats_say(why, sizeof why, "the permissions forbid subscribing to %s.>: allow it, or set inbox_prefix",
                    st->cfg.inbox_prefix);
        st->fault_status = EVBUS_DENIED;
        ev_nats_drop(st, why);
        return;
    }
    for (struct ev_nats_core *c = st->cores, *next; c; c = next) {
        next = c->next;
        if (strcmp(c->subject, subject) == 0)
            ev_nats_consume_core_denied(st, c, note->text);
    }
}

static void handle_note(struct ev_nats *st, const struct ev_nats_note *note)
{
    char subject[EV_NATS_TEXT_MAX];

    if (note->kind == EV_NOTE_LAME_DUCK) {
        char text[EV_NATS_TEXT_MAX];
        ev_nats_say(text, sizeof text, "%s shuts down soon and asks its clients to leave", st->session->server->url);
        ev_host_event(st->host, EVBUS_EVENT_LAME_DUCK, EVBUS_OK, NULL, text);
    } else if (note->status == NATS_NOT_PERMITTED && violated_subject(note->text, "Publish to ", subject)) {
        publish_violated(st, note, subject);
    } else if (note->status == NATS_NOT_PERMITTED && violated_subject(note->text, "Subscription to ", subject)) {
        subscribe_violated(st, note, subject);
    } else {
        /* Anything else ends the session soon; then it is the reason. */
        (void)ev_copy(st->fault, sizeof st->fault, note->text);
        st->fault_status = note->status == NATS_NOT_PERMITTED ? EVBUS_DISCONNECTED : ev_nats_status(note->status);
        ev_log(st->log, EVBUS_LOG_WARN, "nats", "%s: %s", st->session->server->url, note->text);
    }
}

bool ev_nats_notes_turn(struct ev_nats *st)
{
    pthread_mutex_lock(&registry_mutex);
    const uint32_t count = st->note_count;
    const uint64_t lost = st->notes_lost, session_id = st->session_id;
    memcpy(st->taken, st->notes, count * sizeof st->notes[0]);
    st->note_count = 0;
    st->notes_lost = 0;
    pthread_mutex_unlock(&registry_mutex);
    if (lost > 0)
        ev_log(st->log, EVBUS_LOG_WARN, "nats", "%" PRIu64 " reports of libnats were lost: too many at once", lost);
    for (uint32_t i = 0; i < count; i++) {
        if (!st->session || st->session->id != session_id)
            break;
        if (!st->session->dead || st->taken[i].kind == EV_NOTE_LAME_DUCK) /* it may close in the same breath */
            handle_note(st, &st->taken[i]);
    }
    return count > 0;
}
