/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gap rule: what the server delivered and nobody here has is asked for again, before anything new is pulled.
 *
 * A process that dies, a link or an inbox that is cut: the server has counted messages as delivered that nobody got. It
 * would send new ones first and those after their ack wait, out of order. So before the first pull after attach, link
 * up, missed heartbeats and a cut, with no pull of ours open:
 *
 *   ASK    CONSUMER.INFO, which also makes the server drop pulls that nobody listens on; and a pull that must be
 *          refused: the refusal comes through the queue that deliveries come through, so what was in there has been
 *          sent, or has failed.
 *   PROBE  a +WPI for a message that is not pending, as a request: may we settle, and has all of ours been worked off.
 *   TELL   for each sequence in (ack floor, delivered] that is not here, ascending: -NAK with a delay. Then the same
 *          again with -NAK.
 *   CLOSE  the +WPI again: when it is answered the server has worked all of it off. Now we pull.
 *
 * Told twice, since some may be in the server's queue of redeliveries already, in whatever order: what it could not
 * send when something was cut goes there by itself, what the last member handed back too, and -NAK leaves it where it
 * stands. (20,000 delivered and cut in mid-flow came as 15,856 to 20,000, then 1 to 15,855.) A delayed -NAK takes it
 * out. The server ignores both for what is not pending, so the range may have others between.
 *
 *   MAKE, LIST   If most of a large range is not ours (other topics of the stream), an ephemeral consumer shows which
 *          sequences are: headers only, nothing to acknowledge, deleted after.
 *   PAUSE  No answer within two seconds: asked again soon, and any answer to that question counts. Or others still pull:
 *          asked again. Others go on pulling: a second member is active, the rule would take its messages from it, so it
 *          is off.
 *   WAIT   Settling is forbidden, or too much to list: pulling waits until the ack wait is over. Said once. What comes
 *          then may come in any order (see above), so the core gathers: nothing starts until all that was pending is
 *          here, or twice the ack wait has passed.
 *
 * Bounds. One question at a time per binding, EV_NATS_GAPS_BUSY bindings at a time after link up; TELL_PER_TURN
 * messages a turn, none while much is unsent.
 */
#include "backend/nats_consume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_TIME (2 * EV_SEC)
#define PAUSE_MIN (100 * EV_MS)
#define PAUSE_FEW (500 * EV_MS)
#define PAUSE_MAX (10 * EV_SEC)
#define PAUSE_SHARE (2 * EV_MS) /* per binding: all together ask at most about 500 times a second */
#define OTHERS_MIN (5 * EV_MS)
#define OTHERS_MAX (200 * EV_MS)
#define OTHERS_TIME (2 * EV_SEC) /* how long somebody else's pulls may be those of a process that just ended */
#define PROBES 3u
#define CLOSES 5u /* 2, 4, 8, 16 and 16 s */
#define TELL_PER_TURN 1000u
#define LOOK_PER_TURN 50000u
#define UNSENT_MAX (256u * 1024u)
#define BEYOND 64u     /* 2.9 counts a delivery back when it meets a pull nobody listens on, once for each cut */
#define BACK_MAX 1000u /* so many at most, while we look; more: the server came back with an older state */
#define DENSE_MIN 5000u
#define DENSE_FACTOR 64u /* listing one costs the server about as much as being told of so many */
#define LIST_MAX 200000u
#define LIST_FIRST 1024u
#define PAGE 256u
#define WAIT_MARGIN (200 * EV_MS)
#define WAIT_MIN (2 * EV_SEC)
#define LISTER "gap-"
#define LISTER_LEN 37u /* "gap-<16 hex>-<16 hex>" */

enum { ANSWER_INFO = 1, ANSWER_FENCE = 2, ANSWER = 4 };

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

static bool asks(enum ev_nats_gap_step step)
{
    return step != EV_NATS_GAP_CLOSED && step != EV_NATS_GAP_PAUSE && step != EV_NATS_GAP_WAIT;
}

/* Acted on when `want` is answered, or at `at`. */
static void go(struct ev_nats *st, struct ev_nats_binding *b, enum ev_nats_gap_step step, uint32_t want, int64_t at)
{
    struct ev_nats_gap *g = &b->gap;

    st->consume->gaps_busy += (uint32_t)asks(step) - (uint32_t)asks(g->step);
    g->step = step;
    g->want = want;
    g->answers = 0;
    g->at = at;
    if (step != EV_NATS_GAP_CLOSED)
        ev_nats_pull_schedule(st->consume, b, at);
}

static void expect(struct ev_nats *st, struct ev_nats_binding *b, enum ev_nats_gap_step step, uint32_t want)
{
    go(st, b, step, want, st->now + (ANSWER_TIME << (b->gap.tries < 3 ? b->gap.tries : 3)));
}

static void send(struct ev_nats *st, const struct ev_nats_binding *b, const char *subject, char letter,
                 const char *body)
{
    char reply[EV_NAME_MAX];

    (void)snprintf(reply, sizeof reply, "%s.c.g.%" PRIu32 ".%" PRIu32 ".%c", ev_nats_inbox(st), b->index, b->gap.epoch,
                   letter);
    (void)ev_nats_publish(st, subject, reply, body, strlen(body)); /* without a link the end is near */
}

static void request(struct ev_nats *st, const struct ev_nats_binding *b, const char *verb, char letter,
                    const char *body)
{
    char subject[EV_NATS_SUBJECT_MAX];

    ev_nats_pull_subject(st, b, verb, subject);
    send(st, b, subject, letter, body);
}

static void lister_name(const struct ev_nats_binding *b, char out[LISTER_LEN + 1])
{
    (void)snprintf(out, LISTER_LEN + 1, LISTER "%016" PRIx64 "-%016" PRIx64, b->gap.lister, b->id);
}

static void lister_subject(const struct ev_nats *st, const struct ev_nats_binding *b, const char *verb,
                           char out[EV_NATS_SUBJECT_MAX])
{
    char name[LISTER_LEN + 1];

    lister_name(b, name);
    (void)snprintf(out, EV_NATS_SUBJECT_MAX, "%s.%s.%s.%s", st->cfg.api, verb, b->stream, name);
}

/* Forgets the list and the consumer that made it. */
static void drop_list(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], reply[EV_NAME_MAX];

    if (b->gap.lister) {
        lister_subject(st, b, "CONSUMER.DELETE", subject);
        (void)snprintf(reply, sizeof reply, "%s.c.x", ev_nats_inbox(st));
        (void)ev_nats_publish(st, subject, reply, NULL, 0);
    }
    ev_free(b->gap.list);
    b->gap.list = NULL;
    b->gap.lister = 0;
    b->gap.count = b->gap.cap = 0;
}

static void ask(struct ev_nats *st, struct ev_nats_binding *b)
{
    static const char refused[] = "{\"batch\":1,\"idle_heartbeat\":1000000000}"; /* without `expires` */

    b->gap.epoch += !b->gap.again; /* a slow server's answer to the same question is as good */
    b->gap.again = false;
    request(st, b, "CONSUMER.INFO", 'i', "");
    request(st, b, "CONSUMER.MSG.NEXT", 'f', refused);
    go(st, b, EV_NATS_GAP_ASK, ANSWER_INFO | ANSWER_FENCE, st->now + ANSWER_TIME);
}

void ev_nats_gap_begin(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;

    if (!b->exclusive || b->lost || !b->attached || !ev_nats_is_up(st) || ev_nats_members_right(st, b) == 0)
        return;
    drop_list(st, b);
    ev_nats_gather_forget(g); /* of a range that was; the core goes on gathering */
    g->due = g->logged = g->recheck = g->worked_off = g->again = false;
    g->begun = st->now;
    g->tries = 0;
    g->pause = 0;
    g->told = g->left = g->pending = 0;
    g->alone = g->let_go = false;
    ask(st, b);
}

void ev_nats_gap_later(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_frontier_doubt(st, b);
    b->gap.due = b->exclusive && !EV_BUG(EV_BUG_GAP_FORGOTTEN);
}

void ev_nats_gap_end(struct ev_nats *st, struct ev_nats_binding *b)
{
    drop_list(st, b);
    ev_nats_gather_forget(&b->gap); /* the core goes on gathering until the rule has been through again */
    b->gap.due = false;
    b->gap.left = 0;
    if (b->gap.step != EV_NATS_GAP_CLOSED)
        go(st, b, EV_NATS_GAP_CLOSED, 0, EV_NEVER);
}

/* ---- The end ----------------------------------------------------------------------------------------------------- */

static void close_gap(struct ev_nats *st, struct ev_nats_binding *b, bool certain)
{
    struct ev_nats_gap *g = &b->gap;

    if (certain)
        ev_nats_frontier_certain(st, b);
    else
        ev_nats_frontier_look_again(b);
    if (g->gathering && !g->seen && !g->let_go && (g->told > 0 || g->reached > g->delivered))
        ev_nats_gather_told(st, b);
    g->left = g->told < g->pending ? g->told : g->pending;
    if (g->told > 0)
        ev_log(st->log, EVBUS_LOG_INFO, "nats",
               "consumer '%s' of stream '%s': %" PRIu64 " messages were delivered before and not settled; what is not "
               "here is asked for again, in order (%" PRId64 " ms)",
               b->consumer, b->stream, g->pending, (st->now - g->begun) / EV_MS);
    if (g->alone) { /* no pull was open since we asked: the next delivery is the next in the count */
        b->consumer_seq = g->dseq;
        b->seq_known = true;
    }
    if (g->left_out > 0 && g->told == 0) /* nobody waits for them: another client has them, or had */
        ev_host_foreign(st->host, b->sub, g->left_out);
    g->left_out = 0;
    st->consume->gaps++;
    st->consume->gaps_told += g->told;
    drop_list(st, b);
    if (!g->seen)
        ev_nats_gather_end(st, b);
    g->suspected = false;
    go(st, b, EV_NATS_GAP_CLOSED, 0, EV_NEVER);
    ev_nats_pull_consider(st, b);
    if (g->seen)
        ev_nats_pull_schedule(st->consume, b, g->gather_until);
}

/* ---- When it cannot be done -------------------------------------------------------------------------------------- */

/* Asks again, after 100 ms, doubled each time up to 10 s where there are thousands: a consumer that has no leader now has one
 * soon, and cannot say so. */
static void pause_gap(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const int64_t share = st->consume->bindings_count * PAUSE_SHARE;
    const int64_t most = share < PAUSE_FEW ? PAUSE_FEW : share < PAUSE_MAX ? share : PAUSE_MAX;

    g->tries++;
    if (!g->logged)
        ev_log(st->log, EVBUS_LOG_WARN, "nats",
               "consumer '%s' of stream '%s': no answer to the question what was delivered before: pulling waits for "
               "that",
               b->consumer, b->stream);
    g->logged = true;
    g->pause = g->pause == 0 ? PAUSE_MIN : g->pause * 2;
    if (g->pause > most)
        g->pause = most;
    g->again = g->step == EV_NATS_GAP_ASK;
    go(st, b, EV_NATS_GAP_PAUSE, 0, st->now + g->pause / 2 + (int64_t)(ev_random() % (uint64_t)g->pause));
}

static void wait_out(struct ev_nats *st, struct ev_nats_binding *b, evbus_status status, const char *why)
{
    struct ev_nats_gap *g = &b->gap;
    const int64_t wait = b->ack_wait_ns + WAIT_MARGIN > WAIT_MIN ? b->ack_wait_ns + WAIT_MARGIN : WAIT_MIN;
    char text[EV_NATS_TEXT_MAX + 160];

    st->consume->gaps_slow++;
    g->told = g->left_out = 0;
    g->alone = false;
    drop_list(st, b);
    go(st, b, EV_NATS_GAP_WAIT, 0, st->now + wait);
    if (g->slow_logged)
        return;
    g->slow_logged = true;
    (void)snprintf(text, sizeof text,
                   "what was delivered before cannot be asked for: pulling waits until its ack wait is over, %" PRId64
                   " ms: %s",
                   wait / EV_MS, why);
    ev_host_event(st->host, EVBUS_EVENT_STALLED, status, b->core.subject, text);
}

/* The ack wait is over: what was pending may be pulled. */
static void waited(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_gather_waited(st, b, st->now + 2 * b->ack_wait_ns + WAIT_MARGIN);
    close_gap(st, b, false);
}

void ev_nats_gap_denied(struct ev_nats *st, struct ev_nats_binding *b, bool settling, const char *text)
{
    const enum ev_nats_gap_step step = b->gap.step;

    /* Verdicts that waited for the link are refused while we ask. Without the answer nothing could be gathered; and the
     * probe is refused as well. */
    if (asks(step) && !(settling && step == EV_NATS_GAP_ASK))
        wait_out(st, b, EVBUS_DENIED, text);
}

/* Another member is active: what is not here may be there. */
static void leave_to_others(struct ev_nats *st, struct ev_nats_binding *b)
{
    st->consume->gaps_off++;
    b->gap.alone = false;
    if (!b->gap.others_logged)
        ev_log(st->log, EVBUS_LOG_WARN, "nats",
               "consumer '%s' of stream '%s': another member is active; what was delivered before and is not here is "
               "left to it or to its ack wait",
               b->consumer, b->stream);
    b->gap.others_logged = true;
    b->foreign_at = st->now; /* its room may be full by and by: without open pulls it is active all the same */
    ev_host_foreign(st->host, b->sub, 0); /* how many deliveries it got is not known */
    close_gap(st, b, false);
}

/* ---- What is missing --------------------------------------------------------------------------------------------- */

static uint64_t span(const struct ev_nats_gap *g)
{
    return g->last - g->first + 1;
}

static bool dense(const struct ev_nats_gap *g)
{
    return span(g) <= g->listed * DENSE_FACTOR + DENSE_MIN;
}

static bool all_here(struct ev_nats *st, const struct ev_nats_binding *b)
{
    const struct ev_nats_gap *g = &b->gap;
    uint64_t here = 0;

    for (uint64_t seq = g->first; seq <= g->last; seq++)
        here += ev_host_holds(st->host, b->sub, seq);
    return here >= g->pending;
}

static void probe(struct ev_nats *st, struct ev_nats_binding *b, enum ev_nats_gap_step step)
{
    const struct ev_nats_gap *g = &b->gap;
    char subject[EV_NATS_SUBJECT_MAX];

    (void)snprintf(subject, sizeof subject, "$JS.ACK.%s.%s.1.%" PRIu64 ".%" PRIu64 ".0.0", b->stream, b->consumer,
                   g->last + 1, g->dseq);
    send(st, b, subject, 'p', "+WPI");
    expect(st, b, step, ANSWER);
}

/* Until when open pulls may be nobody's: ours, of a link that the server believes to stand (or one of its cluster, which
 * stands still), or the member's before us, which end with its right. New messages are lost in those as well. */
static int64_t orphans_until(const struct ev_nats_binding *b)
{
    return b->pulled_until > b->patience ? b->pulled_until : b->patience;
}

/* Or those of a process that just ended. */
static int64_t others_until(const struct ev_nats_binding *b)
{
    const int64_t time = b->gap.begun + OTHERS_TIME;

    return orphans_until(b) > time ? orphans_until(b) : time;
}

static void judge(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;

    g->tries = 0;
    g->pause = 0;
    g->alone = g->waiting == 0;
    if (g->pending == 0 && (g->waiting == 0 || st->now >= orphans_until(b))) {
        ev_nats_gather_room(st, b);
        close_gap(st, b, true);
    } else if ((b->foreign_at != 0 && st->now - b->foreign_at < b->ack_wait_ns) || (g->suspected && !g->clustered)) {
        leave_to_others(st, b);
    } else if (g->waiting > 0 && st->now < others_until(b)) {
        int64_t pause = (st->now - g->begun) / 4;
        pause = pause < OTHERS_MIN ? OTHERS_MIN : pause > OTHERS_MAX ? OTHERS_MAX : pause;
        go(st, b, EV_NATS_GAP_PAUSE, 0, st->now + pause);
    } else if (g->waiting > 0) {
        leave_to_others(st, b);
    } else {
        ev_nats_gather_room(st, b);
        if (!g->let_go && (b->ack_all ? ev_nats_frontier_all_here(st, b) : dense(g) && all_here(st, b)))
            close_gap(st, b, true);
        else
            probe(st, b, EV_NATS_GAP_PROBE);
    }
}

/* ---- A list of what is ours -------------------------------------------------------------------------------------- */

static void make_list(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], name[LISTER_LEN + 1];

    b->gap.lister = ev_random() | 1;
    b->gap.listed_to = 0;
    lister_name(b, name);
    char *body = ev_nats_lister_request(b->stream, name, b->core.subject, b->gap.first);
    if (!body) {
        wait_out(st, b, EVBUS_NOMEM, "out of memory");
        return;
    }
    st->consume->gaps_listed++;
    lister_subject(st, b, "CONSUMER.CREATE", subject);
    send(st, b, subject, 'm', body);
    ev_free(body);
    expect(st, b, EV_NATS_GAP_MAKE, ANSWER);
}

static void next_page(struct ev_nats *st, struct ev_nats_binding *b)
{
    char subject[EV_NATS_SUBJECT_MAX], body[64];

    lister_subject(st, b, "CONSUMER.MSG.NEXT", subject);
    (void)snprintf(body, sizeof body, "{\"batch\":%u,\"no_wait\":true}", PAGE);
    b->gap.page = PAGE;
    b->gap.list_ends = false;
    b->gap.epoch++; /* a status of the page before is not for this one */
    send(st, b, subject, 'l', body);
    expect(st, b, EV_NATS_GAP_LIST, ANSWER);
}

static bool note_listed(struct ev_nats_gap *g, uint64_t seq)
{
    if (g->count == g->cap) {
        const uint32_t cap = g->cap ? g->cap * 2 : LIST_FIRST;
        uint64_t *list = ev_realloc(g->list, cap * sizeof *list);
        if (!list)
            return false;
        g->list = list;
        g->cap = cap;
    }
    g->list[g->count++] = seq;
    return true;
}

bool ev_nats_gap_listed(struct ev_nats *st, struct ev_nats_binding *chain, const struct ev_nats_ackref *ref)
{
    struct ev_nats_binding *b = chain;
    char name[LISTER_LEN + 1];

    if (ref->consumer_len != LISTER_LEN || memcmp(ref->consumer, LISTER, sizeof LISTER - 1) != 0)
        return false;
    for (; b; b = b->chain) {
        lister_name(b, name);
        if (b->id == ref->id && b->gap.step == EV_NATS_GAP_LIST && memcmp(ref->consumer, name, LISTER_LEN) == 0)
            break;
    }
    if (!b || b->gap.list_ends)
        return true; /* of a list that is not needed any more */
    struct ev_nats_gap *g = &b->gap;
    /* A leader knows of acks that its replicas have not noted: what was settled here is neither missing nor delivered again. */
    const bool ours = b->ack_all && ev_host_settled(st->host, b->sub, ref->stream_seq, ref->stored_ns);
    if (ref->stream_seq <= g->last && !ours && (g->count == LIST_MAX || !note_listed(g, ref->stream_seq))) {
        wait_out(st, b, EVBUS_NOMEM, "no room to list it");
        return true;
    }
    g->list_ends = ref->stream_seq >= g->last || ref->pending == 0;
    g->listed_to = ref->stream_seq > g->listed_to ? ref->stream_seq : g->listed_to;
    g->at = st->now + ANSWER_TIME; /* a page takes as long as it takes: the server looks at everything between */
    if (--g->page > 0 && !g->list_ends)
        return true;
    g->answers |= ANSWER;
    ev_nats_pull_schedule(st->consume, b, st->now);
    return true;
}

/* ---- Telling ----------------------------------------------------------------------------------------------------- */

static void start_telling(struct ev_nats *st, struct ev_nats_binding *b)
{
    b->gap.next = 0;
    b->gap.second = false;
    go(st, b, EV_NATS_GAP_TELL, 0, st->now);
}

static void tell_some(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const uint64_t end = g->list ? g->count : span(g);
    const uint64_t count = g->dseq > g->floor_seq ? g->dseq : g->floor_seq + 1; /* else it is ignored */
    char text[EV_NATS_VERB_MAX], subject[EV_NATS_SUBJECT_MAX];
    const size_t len = ev_nats_verb(text, EV_SETTLE_NAK, g->second ? 0 : b->ack_wait_ns);
    const int prefix = snprintf(subject, sizeof subject, "$JS.ACK.%s.%s.1.", b->stream, b->consumer);
    uint32_t looked = 0, sent = 0;

    for (; g->next < end && looked < LOOK_PER_TURN && sent < TELL_PER_TURN; looked++) {
        const uint64_t at = g->next++, seq = g->list ? g->list[at] : g->first + at;
        char *out = subject + prefix;
        if (ev_host_holds(st->host, b->sub, seq))
            continue;
        out += ev_put_u64(out, seq);
        *out++ = '.';
        out += ev_put_u64(out, count);
        memcpy(out, ".0.0", sizeof ".0.0");
        (void)ev_nats_publish(st, subject, NULL, text, len);
        sent++;
    }
    g->told += g->second ? sent : 0;
}

static void tell(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;

    if (st->session->waiting > UNSENT_MAX) {
        go(st, b, EV_NATS_GAP_TELL, 0, st->now + EV_MS);
        return;
    }
    tell_some(st, b);
    if (g->next < (g->list ? g->count : span(g))) {
        go(st, b, EV_NATS_GAP_TELL, 0, st->now);
    } else if (!g->second) {
        g->second = true;
        g->next = 0;
        go(st, b, EV_NATS_GAP_TELL, 0, st->now);
    } else {
        g->tries = 0;
        probe(st, b, EV_NATS_GAP_CLOSE);
    }
}

static void probed(struct ev_nats *st, struct ev_nats_binding *b, bool answered)
{
    struct ev_nats_gap *g = &b->gap;

    if (!answered && ++g->tries >= PROBES)
        wait_out(st, b, EVBUS_TIMEOUT, "settling is not answered");
    else if (!answered)
        probe(st, b, EV_NATS_GAP_PROBE);
    else if (b->ack_all && !g->worked_off) {
        g->worked_off = true; /* our acks were on their way when it was asked what is pending */
        ev_nats_frontier_tell_floor(st, b);
        ask(st, b);
    } else if (dense(g) && !ev_nats_frontier_lists(b))
        start_telling(st, b);
    else if (g->listed <= LIST_MAX)
        make_list(st, b);
    else
        wait_out(st, b, EVBUS_LIMIT, "too much was delivered since the oldest message that is not settled");
}

static void tell_listed(struct ev_nats *st, struct ev_nats_binding *b)
{
    ev_nats_frontier_missing(st, b);
    start_telling(st, b);
}

static void list_goes_on(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;

    if (g->page == 0 && !g->list_ends)
        next_page(st, b);
    else if (ev_nats_frontier_lists(b) && ev_nats_frontier_all_listed(st, b))
        close_gap(st, b, true);
    else if (g->count == 0)
        close_gap(st, b, false);
    else
        tell_listed(st, b);
}

void ev_nats_gap_turn(struct ev_nats *st, struct ev_nats_binding *b)
{
    struct ev_nats_gap *g = &b->gap;
    const bool answered = g->want != 0 && g->answers == g->want;

    ev_nats_gather_turn(st, b);
    if (g->step == EV_NATS_GAP_CLOSED)
        return;
    if (ev_nats_members_right(st, b) ==
        0) { /* it may be another member's to say: from the start, when it is ours again */
        ev_nats_gap_end(st, b);
        ev_nats_gap_later(st, b);
        return;
    }
    if (!answered && st->now < g->at) {
        ev_nats_pull_schedule(st->consume, b, g->at);
        return;
    }
    if (g->step == EV_NATS_GAP_PAUSE)
        ask(st, b);
    else if (g->step == EV_NATS_GAP_TELL)
        tell(st, b);
    else if (g->step == EV_NATS_GAP_WAIT)
        waited(st, b);
    else if (g->step == EV_NATS_GAP_PROBE)
        probed(st, b, answered);
    else if (!answered && (g->step == EV_NATS_GAP_MAKE || g->step == EV_NATS_GAP_LIST))
        wait_out(st, b, EVBUS_TIMEOUT, "it cannot be listed");
    else if (!answered && g->step == EV_NATS_GAP_CLOSE && ++g->tries < CLOSES)
        probe(st, b, EV_NATS_GAP_CLOSE); /* telling all of it again would keep a slow server busy for good */
    else if (!answered)
        pause_gap(st, b);
    else if (g->step == EV_NATS_GAP_ASK)
        judge(st, b);
    else if (g->step == EV_NATS_GAP_MAKE)
        next_page(st, b);
    else if (g->step == EV_NATS_GAP_LIST)
        list_goes_on(st, b);
    else
        close_gap(st, b, false);
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static bool take_info(struct ev_nats *st, struct ev_nats_binding *b, const char *data, size_t len)
{
    struct ev_nats_gap *g = &b->gap;
    struct ev_nats_consumer have;
    const evbus_status status = ev_nats_parse_consumer(data, len, b->consumer, &have);

    if (status == EVBUS_NOT_FOUND)
        ev_nats_pull_lost(st, b, status, ev_detail());
    if (status != EVBUS_OK)
        return false; /* no leader now: asked again when the time for the answer is over */
    if (have.floor_stream_seq < st->consume->as_floor)
        have.floor_stream_seq = have.floor_seq = st->consume->as_floor;
    if (st->consume->as_floor_most != 0 && have.floor_stream_seq > st->consume->as_floor_most)
        have.floor_stream_seq = have.floor_seq = st->consume->as_floor_most;
    if (have.delivered_stream_seq < st->consume->as_position)
        have.delivered_stream_seq = st->consume->as_position;
    if (st->consume->as_pending != 0 && have.ack_pending > st->consume->as_pending)
        have.ack_pending = st->consume->as_pending;
    have.clustered = have.clustered || st->consume->as_clustered;
    g->pending = b->ack_all ? ev_nats_frontier_pending(&have) : have.ack_pending;
    g->fewer = b->ack_all && have.ack_pending < g->pending;
    g->leaders = have.ack_pending;
    g->waiting = have.waiting;
    g->clustered = have.clustered;
    g->first = have.floor_stream_seq + 1;
    g->floor_seq = have.floor_seq;
    g->floor_ns = have.floor_ns;
    g->made_ns = have.made_ns;
    if (b->exclusive)
        ev_host_floor(st->host, b->sub, have.floor_stream_seq);
    if (have.delivered_stream_seq > g->top || g->top - have.delivered_stream_seq > BACK_MAX)
        g->top = have.delivered_stream_seq;
    g->last = g->top + BEYOND;
    if (g->reached > have.delivered_stream_seq + BACK_MAX)
        g->reached = have.delivered_stream_seq;
    g->dseq = have.delivered_seq;
    g->delivered = have.delivered_stream_seq;
    g->listed = have.delivered_seq > have.floor_seq ? have.delivered_seq - have.floor_seq : 0;
    return true;
}

/* "<index>.<epoch>.<letter>" */
static struct ev_nats_binding *asker(const struct ev_nats_consume *c, const char *rest, char *ret_letter)
{
    const size_t a = strcspn(rest, "."), e = rest[a] ? strcspn(rest + a + 1, ".") : 0;
    uint64_t index, epoch;

    if (e == 0 || rest[a + 1 + e] != '.' || !ev_get_u64(rest, a, &index) || !ev_get_u64(rest + a + 1, e, &epoch))
        return NULL;
    *ret_letter = rest[a + e + 2];
    struct ev_nats_binding *b = index < c->bindings_top ? c->bindings[index] : NULL;
    return b && b->gap.epoch == epoch ? b : NULL;
}

void ev_nats_gap_answer(struct ev_nats *st, natsMsg *msg, const char *rest)
{
    const char *data = natsMsg_GetData(msg);
    const size_t len = (size_t)natsMsg_GetDataLength(msg);
    char letter = 0;
    struct ev_nats_binding *b = asker(st->consume, rest, &letter);

    if (!b)
        return;
    struct ev_nats_gap *g = &b->gap;
    if (letter == 'i' && g->step == EV_NATS_GAP_ASK && take_info(st, b, data, len)) {
        g->answers |= ANSWER_INFO;
    } else if (letter == 'f' && g->step == EV_NATS_GAP_ASK) {
        g->answers |= ANSWER_FENCE;
    } else if (letter == 'p' && (g->step == EV_NATS_GAP_PROBE || g->step == EV_NATS_GAP_CLOSE)) {
        g->answers |= ANSWER;
    } else if (letter == 'm' && g->step == EV_NATS_GAP_MAKE) {
        const evbus_status status = ev_nats_parse_answer(data, len, "a list of what was delivered before");
        if (status != EVBUS_OK)
            wait_out(st, b, status, ev_detail());
        g->answers |= ANSWER;
    } else if (letter == 'l' && g->step == EV_NATS_GAP_LIST) {
        g->list_ends = true; /* a status: there is no more */
        g->answers |= ANSWER;
    } else {
        return;
    }
    if (g->step != EV_NATS_GAP_CLOSED && g->answers == g->want)
        ev_nats_pull_schedule(st->consume, b, st->now);
}
