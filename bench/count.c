/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See count.h. One wrapper per function; the counters are relaxed atomics that nobody touches while counting is off.
 */
#include "count.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic(bool) on;
static _Atomic(uint64_t) mutexes, rwlocks, conditions, futexes, allocs, frees;

static void count(_Atomic(uint64_t) *counter)
{
    if (atomic_load_explicit(&on, memory_order_relaxed))
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

void count_start(void)
{
    atomic_store(&on, false);
    mutexes = rwlocks = conditions = futexes = allocs = frees = 0;
    atomic_store(&on, true);
}

void count_stop(void)
{
    atomic_store(&on, false);
}

struct calls count_read(void)
{
    return (struct calls){
        .mutex = mutexes, .rwlock = rwlocks, .condition = conditions, .futex = futexes, .alloc = allocs, .free = frees};
}

/* The linker makes these names: __wrap_f is called for f, __real_f is f. */
#define WRAP(counter, type, function, parameters, arguments)                                                           \
    type __real_##function parameters;                                                                                 \
    type __wrap_##function parameters;                                                                                 \
    type __wrap_##function parameters                                                                                  \
    {                                                                                                                  \
        count(&(counter));                                                                                             \
        return __real_##function arguments;                                                                            \
    }

WRAP(mutexes, int, pthread_mutex_lock, (pthread_mutex_t * m), (m))
WRAP(mutexes, int, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
WRAP(mutexes, int, pthread_mutex_timedlock, (pthread_mutex_t * m, const struct timespec *t), (m, t))
WRAP(mutexes, int, pthread_spin_lock, (pthread_spinlock_t * s), (s))
WRAP(rwlocks, int, pthread_rwlock_rdlock, (pthread_rwlock_t * l), (l))
WRAP(rwlocks, int, pthread_rwlock_wrlock, (pthread_rwlock_t * l), (l))
WRAP(rwlocks, int, pthread_rwlock_tryrdlock, (pthread_rwlock_t * l), (l))
WRAP(rwlocks, int, pthread_rwlock_trywrlock, (pthread_rwlock_t * l), (l))
WRAP(conditions, int, pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t *m), (c, m))
WRAP(conditions, int, pthread_cond_timedwait, (pthread_cond_t * c, pthread_mutex_t *m, const struct timespec *t),
     (c, m, t))
WRAP(conditions, int, pthread_cond_signal, (pthread_cond_t * c), (c))
WRAP(conditions, int, pthread_cond_broadcast, (pthread_cond_t * c), (c))
WRAP(allocs, void *, malloc, (size_t size), (size))
WRAP(allocs, void *, calloc, (size_t n, size_t size), (n, size))
WRAP(allocs, void *, realloc, (void *p, size_t size), (p, size))
WRAP(allocs, void *, aligned_alloc, (size_t alignment, size_t size), (alignment, size))

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
    if (p)
        count(&frees);
    __real_free(p);
}

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    va_list args;
    long a[6];

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_futex)
        count(&futexes);
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
