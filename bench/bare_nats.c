/* SPDX-License-Identifier: Apache-2.0 */
/* See bare_nats.h. */
#include "bare_nats.h"

#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

void bare_check(natsStatus s, const char *what)
{
    if (s != NATS_OK)
        bench_fail("%s: %s", what, natsStatus_GetText(s));
}

/* ---- Administration ---------------------------------------------------------------------------------------------- */

static natsConnection *connect_js(jsCtx **js)
{
    natsConnection *nc = NULL;

    bare_check(natsConnection_ConnectTo(&nc, bench_server.url), "connect");
    bare_check(natsConnection_JetStream(js, nc, NULL), "JetStream");
    return nc;
}

static void disconnect_js(natsConnection *nc, jsCtx *js)
{
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
}

void bare_stream(const char *stream, const char *subjects, bool memory)
{
    jsCtx *js = NULL;
    natsConnection *nc = connect_js(&js);
    jsStreamConfig cfg;

    (void)js_DeleteStream(js, stream, NULL, NULL);
    bare_check(jsStreamConfig_Init(&cfg), "stream");
    cfg.Name = stream;
    cfg.Subjects = &subjects;
    cfg.SubjectsLen = 1;
    cfg.Storage = memory ? js_MemoryStorage : js_FileStorage;
    cfg.MaxAge = INT64_C(604800000000000); /* as the library would make it */
    cfg.MaxBytes = INT64_C(4) << 30;
    cfg.Duplicates = INT64_C(120000000000);
    bare_check(js_AddStream(NULL, js, &cfg, NULL, NULL), "making the stream");
    disconnect_js(nc, js);
}

void bare_stream_delete(const char *stream)
{
    jsCtx *js = NULL;
    natsConnection *nc = connect_js(&js);

    (void)js_DeleteStream(js, stream, NULL, NULL);
    disconnect_js(nc, js);
}

void bare_consumer(const char *stream, const char *durable, const char *topic, bool ack_all, int64_t max_ack_pending)
{
    jsCtx *js = NULL;
    natsConnection *nc = connect_js(&js);
    jsConsumerConfig cfg;

    bare_check(jsConsumerConfig_Init(&cfg), "consumer");
    cfg.Durable = durable;
    cfg.FilterSubject = topic;
    cfg.AckPolicy = ack_all ? js_AckAll : js_AckExplicit;
    cfg.DeliverPolicy = js_DeliverAll;
    cfg.AckWait = INT64_C(30000000000);
    cfg.MaxAckPending = max_ack_pending;
    bare_check(js_AddConsumer(NULL, js, stream, &cfg, NULL, NULL), "making the consumer");
    disconnect_js(nc, js);
}

static void make_inbox(char out[64])
{
    natsInbox *inbox = NULL;

    bare_check(natsInbox_Create(&inbox), "inbox");
    (void)snprintf(out, 64, "%s", inbox);
    natsInbox_Destroy(inbox);
}

/* ---- Raw publishing ---------------------------------------------------------------------------------------------- */

static void wake_producers(struct bare_raw *raw)
{
    if (atomic_load(&raw->waiting) == 0)
        return;
    atomic_fetch_add(&raw->word, 1);
    syscall(SYS_futex, &raw->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}

/* An answer: it is stored when there is a sequence; wakes when an eighth of the window has become free. */
static void on_answer(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *closure)
{
    struct bare_raw *raw = closure;
    const char *data = natsMsg_GetData(msg);
    const size_t len = (size_t)natsMsg_GetDataLength(msg);

    (void)nc;
    (void)sub;
    if (!data || !memmem(data, len, "\"seq\":", 6))
        atomic_fetch_add(&raw->refused, 1);
    if (raw->latency) {
        const uint64_t place = strtoull(natsMsg_GetSubject(msg) + strlen(raw->inbox) + 1, NULL, 10);
        samples_add(raw->latency, bench_now() - atomic_load(&raw->sent_ns[place % raw->window]));
    }
    const uint64_t acked = atomic_load_explicit(&raw->acked, memory_order_relaxed) + 1;
    atomic_store(&raw->acked, acked);
    if (acked % (raw->window / 8) == 0 || acked == atomic_load(&raw->sent))
        wake_producers(raw);
    natsMsg_Destroy(msg);
}

void bare_raw_open(struct bare_raw *raw, uint32_t window, bool msg_id)
{
    char subject[80];

    *raw = (struct bare_raw){.window = window, .msg_id = msg_id};
    load_envelope(0, 1, (char[LOAD_ID_SIZE]){0}, &(evbus_envelope){0});
    bare_check(natsConnection_ConnectTo(&raw->nc, bench_server.url), "connect");
    make_inbox(raw->inbox);
    (void)snprintf(subject, sizeof subject, "%s.*", raw->inbox);
    bare_check(natsConnection_Subscribe(&raw->sub, raw->nc, subject, on_answer, raw), "subscribe");
    bare_check(natsSubscription_SetPendingLimits(raw->sub, -1, -1), "limits");
    bare_check(natsConnection_Flush(raw->nc), "flush");
}

static bool has_room(struct bare_raw *raw)
{
    return atomic_load(&raw->sent) - atomic_load(&raw->acked) < raw->window;
}

static uint64_t take_place(struct bare_raw *raw)
{
    for (;;) {
        uint64_t sent = atomic_load(&raw->sent);
        if (sent - atomic_load(&raw->acked) < raw->window) {
            if (atomic_compare_exchange_weak(&raw->sent, &sent, sent + 1))
                return sent;
            continue;
        }
        atomic_fetch_add(&raw->waiting, 1);
        const uint32_t word = atomic_load(&raw->word);
        if (!has_room(raw))
            syscall(SYS_futex, &raw->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, word, NULL, NULL, 0);
        atomic_fetch_sub(&raw->waiting, 1);
    }
}

static void put_reply(char *out, const char *inbox, uint64_t place)
{
    char digits[24];
    size_t n = 0;
    const size_t len = strlen(inbox);

    memcpy(out, inbox, len);
    out += len;
    *out++ = '.';
    do
        digits[n++] = (char)('0' + place % 10);
    while ((place /= 10) > 0);
    while (n > 0)
        *out++ = digits[--n];
    *out = 0;
}

void bare_raw_bytes(struct bare_raw *raw, const char *subject, const char *msg_id, const void *data, size_t len)
{
    static _Thread_local natsMsg *graves[64];
    static _Thread_local unsigned grave_count;
    const uint64_t place = take_place(raw);
    char reply[96];
    natsMsg *msg = NULL;

    put_reply(reply, raw->inbox, place);
    if (raw->latency)
        atomic_store(&raw->sent_ns[place % raw->window], bench_now());
    if (!msg_id) {
        bare_check(natsConnection_PublishRequest(raw->nc, subject, reply, data, (int)len), "publish");
        return;
    }
    bare_check(natsMsg_Create(&msg, subject, reply, data, (int)len), "message");
    bare_check(natsMsgHeader_Set(msg, "Nats-Msg-Id", msg_id), "header");
    bare_check(natsConnection_PublishMsg(raw->nc, msg), "publish");
    graves[grave_count++] = msg;
    if (grave_count == 64)
        while (grave_count > 0)
            natsMsg_Destroy(graves[--grave_count]);
}

void bare_raw_publish(struct bare_raw *raw, const char *subject, const evbus_envelope *env)
{
    char body[1024], id[200];
    const size_t topic = strlen(subject), len = bare_encode(env, body, sizeof body);

    if (raw->msg_id) { /* as the library writes it: "<topic> <event id>" */
        memcpy(id, subject, topic);
        id[topic] = ' ';
        memcpy(id + topic + 1, env->event_id, strlen(env->event_id) + 1);
    }
    bare_raw_bytes(raw, subject, raw->msg_id ? id : NULL, body, len);
}

bool bare_raw_finish(struct bare_raw *raw)
{
    const bool done = bench_await(&raw->acked, atomic_load(&raw->sent));

    natsSubscription_Destroy(raw->sub);
    natsConnection_Destroy(raw->nc);
    return done && (atomic_load(&raw->refused) == 0 || bench_sorry("refused publishes in the baseline"));
}

/* ---- The event loop ---------------------------------------------------------------------------------------------- */

static natsStatus on_attach(void **user_data, void *loop, natsConnection *nc, natsSock fd)
{
    struct bare_loop *l = loop;

    (void)nc;
    l->fd = fd;
    *user_data = l;
    return NATS_OK;
}

static natsStatus on_read(void *user_data, bool add)
{
    (void)user_data;
    (void)add;
    return NATS_OK;
}

static natsStatus on_write(void *user_data, bool add)
{
    struct bare_loop *l = user_data;

    atomic_store(&l->want_write, add);
    if (add)
        bare_loop_wake(l);
    return NATS_OK;
}

static natsStatus on_detach(void *user_data)
{
    atomic_store(&((struct bare_loop *)user_data)->stop, true);
    return NATS_OK;
}

void bare_loop_wake(struct bare_loop *loop)
{
    const uint64_t one = 1;

    if (atomic_load(&loop->sleeping) && atomic_exchange(&loop->sleeping, false))
        (void)!write(loop->wake_fd, &one, sizeof one);
}

#define GRAVE_TIME 20000000 /* as ours: each time it is done wakes libnats's garbage collector */

static void destroy_graves(struct bare_loop *loop)
{
    while (loop->grave_count > 0)
        natsMsg_Destroy(loop->graves[--loop->grave_count]);
}

void bare_loop_bury(struct bare_loop *loop, natsMsg *msg)
{
    if (loop->grave_count == BARE_GRAVES)
        destroy_graves(loop);
    if (loop->grave_count == 0)
        loop->graves_due = bench_now() + GRAVE_TIME;
    loop->graves[loop->grave_count++] = msg;
}

static void drain(struct bare_loop *loop)
{
    uint64_t queued = 0;

    (void)natsSubscription_QueuedMsgs(loop->sub, &queued);
    for (natsMsg *msg = NULL; queued > 0 && natsSubscription_NextMsg(&msg, loop->sub, 0) == NATS_OK; queued--)
        loop->take(loop, msg);
}

static void nap(struct bare_loop *loop)
{
    struct pollfd fds[2] = {{.fd = loop->fd, .events = POLLIN}, {.fd = loop->wake_fd, .events = POLLIN}};
    uint64_t scrap;

    atomic_store(&loop->sleeping, true);
    loop->turn(loop);
    const bool write = atomic_load(&loop->want_write);
    if (write)
        natsConnection_ProcessWriteEvent(loop->nc);
    if (atomic_load(&loop->want_write))
        fds[0].events |= POLLOUT;
    if (loop->grave_count > 0 && bench_now() >= loop->graves_due)
        destroy_graves(loop);
    (void)poll(fds, 2, atomic_load(&loop->sleeping) ? 100 : 0);
    atomic_store(&loop->sleeping, false);
    if (fds[1].revents & POLLIN)
        (void)!read(loop->wake_fd, &scrap, sizeof scrap);
    if ((fds[0].revents & POLLOUT) && atomic_load(&loop->want_write))
        natsConnection_ProcessWriteEvent(loop->nc);
    if (fds[0].revents & (POLLIN | POLLERR | POLLHUP)) {
        natsConnection_ProcessReadEvent(loop->nc);
        drain(loop);
    }
}

static void *loop_main(void *arg)
{
    struct bare_loop *loop = arg;

    while (!atomic_load(&loop->stop))
        nap(loop);
    if (atomic_load(&loop->want_write))
        natsConnection_ProcessWriteEvent(loop->nc);
    destroy_graves(loop);
    natsConnection_Close(loop->nc);
    return NULL;
}

static void no_turn(struct bare_loop *loop)
{
    (void)loop;
}

void bare_loop_open(struct bare_loop *loop)
{
    natsOptions *o = NULL;
    char subject[80];

    load_envelope(0, 1, (char[LOAD_ID_SIZE]){0}, &(evbus_envelope){0});
    if (!loop->turn)
        loop->turn = no_turn;
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    bare_check(natsOptions_Create(&o), "options");
    bare_check(natsOptions_SetURL(o, bench_server.url), "options");
    bare_check(natsOptions_SetAllowReconnect(o, false), "options");
    bare_check(natsOptions_SetPingInterval(o, 0), "options");
    bare_check(natsOptions_SetSendAsap(o, true), "options");
    bare_check(natsOptions_SetEventLoop(o, loop, on_attach, on_read, on_write, on_detach), "options");
    bare_check(natsConnection_Connect(&loop->nc, o), "connect");
    natsOptions_Destroy(o);
    make_inbox(loop->inbox);
    (void)snprintf(subject, sizeof subject, "%s.>", loop->inbox);
    bare_check(natsConnection_SubscribeSync(&loop->sub, loop->nc, subject), "subscribe");
    bare_check(natsSubscription_SetPendingLimits(loop->sub, -1, -1), "limits");
    if (pthread_create(&loop->thread, NULL, loop_main, loop) != 0)
        bench_fail("cannot start a thread");
}

void bare_loop_close(struct bare_loop *loop)
{
    atomic_store(&loop->stop, true);
    bare_loop_wake(loop);
    (void)pthread_join(loop->thread, NULL);
    natsSubscription_Destroy(loop->sub);
    natsConnection_Destroy(loop->nc);
    (void)close(loop->wake_fd);
}

/* ---- Pulling ----------------------------------------------------------------------------------------------------- */

void bare_pull_init(struct bare_pull *pull, const struct bare_loop *loop, const char *stream, const char *durable,
                    unsigned batch)
{
    *pull = (struct bare_pull){.batch = batch};
    (void)snprintf(pull->next, sizeof pull->next, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", stream, durable);
    (void)snprintf(pull->reply, sizeof pull->reply, "%s.p", loop->inbox);
}

void bare_pull_turn(struct bare_pull *pull, struct bare_loop *loop)
{
    char body[80];

    while (pull->outstanding <= pull->batch / 2) {
        const int n = snprintf(body, sizeof body, "{\"batch\":%u,\"expires\":30000000000}", pull->batch);
        bare_check(natsConnection_PublishRequest(loop->nc, pull->next, pull->reply, body, n), "pull");
        pull->outstanding += pull->batch;
    }
}

bool bare_pull_took(struct bare_pull *pull, const natsMsg *msg)
{
    const char *reply = natsMsg_GetReply(msg);

    if (!reply || strncmp(reply, "$JS.ACK.", 8) != 0)
        return false;
    pull->outstanding -= pull->outstanding > 0;
    return true;
}
