/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINKS 64
#define CHUNK 16384
#define LINE 1024
#define NEVER UINT64_MAX

/* One direction: what was read and not written yet. At most one chunk, so a stalled reader pushes back. */
struct way {
    char data[CHUNK];
    size_t len;
    int64_t due;   /* delayed until */
    uint64_t left; /* bytes until `act`; NEVER: no act */
    enum proxy_act act;
    bool stalled, dropping;
    char line[LINE + 1]; /* as NATS: of a message or command whose first line is not complete */
    size_t line_len;
    uint64_t body; /* bytes of a message that follow its first line */
    bool muted;    /* they are swallowed */
};

struct link {
    int fd[2]; /* [PROXY_TO_SERVER] is where the client's bytes go: the server's socket; the other the client's */
    struct way way[2];
    bool open, nats;
};

struct proxy {
    int listener, wake;
    uint16_t port, target;
    pthread_t thread;
    pthread_mutex_t mutex;
    bool stop, cut, release, resume[2];
    bool armed[2];
    uint64_t after[2], each[2];
    enum proxy_act act[2], each_act[2];
    uint32_t delay_ms;
    int narrow;
    bool nats;
    const char *mute[2];
    struct link links[LINKS];
    _Atomic(uint64_t) connections, acts, muted, bytes[2];
};

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* A reset throws away what is under way; without it both sides get the bytes that were forwarded, then the end. */
static void drop(struct link *l, bool reset)
{
    const struct linger hard = {.l_onoff = 1, .l_linger = 0};

    if (!l->open)
        return;
    for (int i = 0; i < 2; i++) {
        if (reset)
            (void)setsockopt(l->fd[i], SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(l->fd[i]);
    }
    l->open = false;
}

static void take_client(struct proxy *p)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(p->target), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int one = 1;
    struct link *l = NULL;
    const int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (client < 0)
        return;
    for (int i = 0; i < LINKS && !l; i++)
        l = p->links[i].open ? NULL : &p->links[i];
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->narrow) /* the listener's applies to the client's side, whose window was announced already */
        (void)setsockopt(server, SOL_SOCKET, SO_RCVBUF, &p->narrow, sizeof p->narrow);
    if (!l || server < 0 || connect(server, (struct sockaddr *)&at, sizeof at) != 0) {
        close(client);
        if (server >= 0)
            close(server);
        return;
    }
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memset(l, 0, sizeof *l);
    l->fd[PROXY_TO_SERVER] = server;
    l->fd[PROXY_TO_CLIENT] = client;
    for (int w = 0; w < 2; w++) {
        l->way[w].left = p->each[w];
        l->way[w].act = p->each_act[w];
    }
    l->open = true;
    l->nats = p->nats;
    atomic_fetch_add(&p->connections, 1);
}

static int source(const struct link *l, int way)
{
    return l->fd[1 - way];
}

/* True while it may read more for this direction. */
static bool wants(const struct way *w)
{
    return w->len == 0 && !w->stalled;
}

static void act(struct proxy *p, struct link *l, struct way *w)
{
    atomic_fetch_add(&p->acts, 1);
    w->left = NEVER;
    if (w->act == PROXY_CUT)
        drop(l, false);
    w->stalled = w->act == PROXY_STALL;
    w->dropping = w->act == PROXY_DROP;
}

/* How many bytes follow a first line; 0: it is a command of one line. */
static uint64_t body_of(const char *line)
{
    const char *last = strrchr(line, ' ');

    if (!last || (strncmp(line, "PUB ", 4) != 0 && strncmp(line, "HPUB ", 5) != 0 && strncmp(line, "MSG ", 4) != 0 &&
                  strncmp(line, "HMSG ", 5) != 0))
        return 0;
    return strtoull(last + 1, NULL, 10) + 2;
}

/* What passes of `in`, to w->data. A first line is held back until it is complete. */
static size_t read_nats(struct proxy *p, int way, struct way *w, const char *in, size_t n)
{
    size_t out = 0;

    for (size_t i = 0; i < n;) {
        if (w->body > 0) {
            const size_t part = n - i < w->body ? n - i : (size_t)w->body;
            if (!w->muted)
                memcpy(w->data + out, in + i, part);
            out += w->muted ? 0 : part;
            w->body -= part;
            i += part;
            continue;
        }
        w->line[w->line_len++] = in[i++];
        if (w->line[w->line_len - 1] != '\n' && w->line_len < LINE)
            continue;
        w->line[w->line_len] = 0;
        w->body = body_of(w->line);
        w->muted = w->body > 0 && p->mute[way] && strstr(w->line, p->mute[way]);
        if (!w->muted)
            memcpy(w->data + out, w->line, w->line_len);
        out += w->muted ? 0 : w->line_len;
        atomic_fetch_add(&p->muted, w->muted);
        w->line_len = 0;
    }
    return out;
}

static void pull(struct proxy *p, struct link *l, int way)
{
    struct way *w = &l->way[way];
    char in[CHUNK];
    size_t room = l->nats ? CHUNK - LINE : CHUNK;

    if (w->left < room)
        room = (size_t)w->left;
    if (room == 0) {
        act(p, l, w);
        return;
    }
    const ssize_t n = recv(source(l, way), l->nats ? in : w->data, room, MSG_DONTWAIT);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            drop(l, false);
        return;
    }
    w->len = l->nats ? read_nats(p, way, w, in, (size_t)n) : (size_t)n;
    if (w->dropping)
        w->len = 0;
    w->due = p->delay_ms ? now_ms() + p->delay_ms : 0;
}

static void push(struct proxy *p, struct link *l, int way)
{
    struct way *w = &l->way[way];

    const size_t len = w->len < w->left ? w->len : (size_t)w->left;
    const ssize_t n = send(l->fd[way], w->data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(l, false);
        return;
    }
    memmove(w->data, w->data + n, w->len - (size_t)n);
    w->len -= (size_t)n;
    atomic_fetch_add(&p->bytes[way], (uint64_t)n);
    if (w->left != NEVER) {
        w->left -= (uint64_t)n < w->left ? (uint64_t)n : w->left;
        if (w->left == 0)
            act(p, l, w);
        if (w->dropping)
            w->len = 0;
    }
}

/* Commands given since the last look. Under mutex. */
static void obey(struct proxy *p)
{
    bool any = false;

    for (int i = 0; i < LINKS; i++) {
        struct link *l = &p->links[i];
        any = any || l->open;
        for (int w = 0; l->open && w < 2; w++) {
            if (p->release && l->way[w].dropping) {
                drop(l, true);
                break;
            }
            if (p->release || p->resume[w])
                l->way[w].stalled = false;
            if (p->armed[w]) {
                l->way[w].left = p->after[w];
                l->way[w].act = p->act[w];
            }
        }
        if (p->cut)
            drop(l, true);
    }
    p->cut = p->release = p->resume[0] = p->resume[1] = false;
    if (any) /* else it is for the next one */
        p->armed[0] = p->armed[1] = false;
}

static bool may_push(const struct way *w)
{
    return w->len > 0 && !w->stalled;
}

/* One round: what may move, moves. Returns how long poll may wait. */
static void serve(struct proxy *p)
{
    struct pollfd fds[2 + 2 * LINKS];
    struct {
        struct link *l;
        int way;
        bool out;
    } of[2 + 2 * LINKS];
    nfds_t n = 2;
    int64_t wait = 1000;

    pthread_mutex_lock(&p->mutex);
    obey(p);
    fds[0] = (struct pollfd){.fd = p->listener, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = p->wake, .events = POLLIN};
    for (int i = 0; i < LINKS; i++) {
        struct link *l = &p->links[i];
        for (int way = 0; l->open && way < 2; way++) {
            struct way *w = &l->way[way];
            const int64_t late = w->due - now_ms();
            if (may_push(w) && late > 0) {
                wait = late < wait ? late : wait;
            } else if (may_push(w) || wants(w)) {
                of[n].l = l;
                of[n].way = way;
                of[n].out = w->len > 0;
                fds[n] = (struct pollfd){.fd = w->len > 0 ? l->fd[way] : source(l, way),
                                         .events = w->len > 0 ? POLLOUT : POLLIN};
                n++;
            }
        }
    }
    pthread_mutex_unlock(&p->mutex);
    (void)poll(fds, n, (int)wait);
    pthread_mutex_lock(&p->mutex);
    uint64_t drained;
    if (fds[1].revents && read(p->wake, &drained, sizeof drained) < 0)
        drained = 0;
    for (nfds_t i = 2; i < n && !p->cut; i++) {
        if (!fds[i].revents || !of[i].l->open)
            continue;
        if (of[i].out)
            push(p, of[i].l, of[i].way);
        else
            pull(p, of[i].l, of[i].way);
    }
    if (fds[0].revents)
        take_client(p);
    pthread_mutex_unlock(&p->mutex);
}

static void *run(void *arg)
{
    struct proxy *p = arg;

    while (true) {
        pthread_mutex_lock(&p->mutex);
        const bool stop = p->stop;
        pthread_mutex_unlock(&p->mutex);
        if (stop)
            return NULL;
        serve(p);
    }
}

struct proxy *proxy_open(uint16_t target_port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    struct proxy *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->target = target_port;
    p->each[0] = p->each[1] = NEVER;
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&p->mutex, NULL);
    if (p->listener < 0 || p->wake < 0 || bind(p->listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(p->listener, 64) != 0 || getsockname(p->listener, (struct sockaddr *)&at, &len) != 0 ||
        pthread_create(&p->thread, NULL, run, p) != 0) {
        close(p->listener);
        close(p->wake);
        free(p);
        return NULL;
    }
    p->port = ntohs(at.sin_port);
    return p;
}

static void wake(struct proxy *p)
{
    const uint64_t one = 1;

    if (write(p->wake, &one, sizeof one) < 0)
        return;
}

void proxy_close(struct proxy *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
    pthread_join(p->thread, NULL);
    for (int i = 0; i < LINKS; i++)
        drop(&p->links[i], true);
    close(p->listener);
    close(p->wake);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

uint16_t proxy_port(const struct proxy *p)
{
    return p->port;
}

void proxy_after(struct proxy *p, enum proxy_way way, uint64_t bytes, enum proxy_act what)
{
    pthread_mutex_lock(&p->mutex);
    p->armed[way] = true;
    p->after[way] = bytes;
    p->act[way] = what;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_after_each(struct proxy *p, enum proxy_way way, uint64_t bytes, enum proxy_act what)
{
    pthread_mutex_lock(&p->mutex);
    p->each[way] = bytes;
    p->each_act[way] = what;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_cut(struct proxy *p)
{
    pthread_mutex_lock(&p->mutex);
    p->cut = true;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_release(struct proxy *p)
{
    pthread_mutex_lock(&p->mutex);
    p->release = true;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_resume(struct proxy *p, enum proxy_way way)
{
    pthread_mutex_lock(&p->mutex);
    p->resume[way] = true;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_delay(struct proxy *p, uint32_t ms)
{
    pthread_mutex_lock(&p->mutex);
    p->delay_ms = ms;
    pthread_mutex_unlock(&p->mutex);
    wake(p);
}

void proxy_narrow(struct proxy *p, int bytes)
{
    pthread_mutex_lock(&p->mutex);
    p->narrow = bytes;
    if (bytes)
        (void)setsockopt(p->listener, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    pthread_mutex_unlock(&p->mutex);
}

void proxy_read_nats(struct proxy *p)
{
    pthread_mutex_lock(&p->mutex);
    p->nats = true;
    pthread_mutex_unlock(&p->mutex);
}

void proxy_mute(struct proxy *p, enum proxy_way way, const char *text)
{
    pthread_mutex_lock(&p->mutex);
    p->mute[way] = text;
    pthread_mutex_unlock(&p->mutex);
}

uint64_t proxy_muted(const struct proxy *p)
{
    return atomic_load(&p->muted);
}

uint64_t proxy_waiting(struct proxy *p, enum proxy_way way)
{
    uint64_t n = 0;

    pthread_mutex_lock(&p->mutex);
    for (int i = 0; i < LINKS; i++) {
        const struct link *l = &p->links[i];
        int unread = 0;
        if (!l->open)
            continue;
        if (ioctl(source(l, way), FIONREAD, &unread) == 0)
            n += (uint64_t)unread;
        n += l->way[way].len;
    }
    pthread_mutex_unlock(&p->mutex);
    return n;
}

uint64_t proxy_connections(const struct proxy *p)
{
    return atomic_load(&p->connections);
}

uint64_t proxy_bytes(const struct proxy *p, enum proxy_way way)
{
    return atomic_load(&p->bytes[way]);
}

uint64_t proxy_acts(const struct proxy *p)
{
    return atomic_load(&p->acts);
}
