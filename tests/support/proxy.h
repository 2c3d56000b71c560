/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP proxy on loopback, on a thread of its own, that does to a connection what networks do: cut it in the middle of
 * a message, stop forwarding, delay. Commands may come from any thread and act on all connections of the proxy.
 */
#ifndef EV_TESTS_PROXY_H
#define EV_TESTS_PROXY_H

#include <stdbool.h>
#include <stdint.h>

struct proxy;

enum proxy_way { PROXY_TO_SERVER, PROXY_TO_CLIENT };
/* STALL reads no more in that direction; DROP reads on, and what it reads is gone: the sender notices nothing. */
enum proxy_act { PROXY_CUT, PROXY_STALL, PROXY_DROP };

struct proxy *proxy_open(uint16_t target_port); /* NULL: no socket */
void proxy_close(struct proxy *p);              /* NULL is fine */

uint16_t proxy_port(const struct proxy *p);

/* After `bytes` more in that direction: those are forwarded, not one more. */
void proxy_after(struct proxy *p, enum proxy_way way, uint64_t bytes, enum proxy_act act);
/* The same counted from the start of each connection made from now on; act PROXY_CUT with bytes UINT64_MAX: never. */
void proxy_after_each(struct proxy *p, enum proxy_way way, uint64_t bytes, enum proxy_act act);
void proxy_cut(struct proxy *p);                        /* all connections, now, with a reset */
void proxy_release(struct proxy *p);                    /* stalled directions go on; dropping ones are cut, for good */
void proxy_resume(struct proxy *p, enum proxy_way way); /* one stalled direction goes on */
void proxy_delay(struct proxy *p, uint32_t ms);         /* everything takes that long, both ways */

/* Connections made from now on are read as NATS. Of those, messages in that direction whose first line (subjects, reply)
 * contains `text` are swallowed, whole; all else passes, pings above all. NULL: no more. `text` outlives that. */
void proxy_read_nats(struct proxy *p);
void proxy_mute(struct proxy *p, enum proxy_way way, const char *text);
uint64_t proxy_muted(const struct proxy *p); /* messages swallowed so far */

uint64_t proxy_connections(const struct proxy *p); /* accepted so far */
uint64_t proxy_bytes(const struct proxy *p, enum proxy_way way);
uint64_t proxy_acts(const struct proxy *p); /* what proxy_after asked for and happened */
/* Bytes that came from the sender of that direction and were not forwarded: here, or in the socket's receive buffer. */
uint64_t proxy_waiting(struct proxy *p, enum proxy_way way);
/* The receive buffers of connections made from now on, as small as the system allows if 1; 0: the system's choice. */
void proxy_narrow(struct proxy *p, int bytes);

#endif
