/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of threads, and limbo. Edges J to N are explained in epoch.h.
 *
 * A thread's life here: its first section walks the list for a record that nobody has, or adds one; a thread-specific
 * key gives the record back when the thread ends. Other destructors of the thread may still enter sections after that:
 * they get a record again, and the key's destructor runs again. If a record or the key cannot be had, the section is
 * counted in `nameless` instead.
 */
#include "conc/epoch.h"

#include "base/alloc.h"

#include <pthread.h>
#include <stdlib.h>

_Atomic(uint64_t) ev_epoch_now = 1;
_Thread_local struct ev_epoch_record *ev_epoch_self;

static _Atomic(struct ev_epoch_record *) records;
static _Atomic(uint64_t) nameless;
static pthread_key_t ending;
static bool ending_works; /* written before main and at unloading */

/* ---- Records ------------------------------------------------------------------------------------------------------ */

static void let_go(void *arg)
{
    struct ev_epoch_record *record = arg;

    ev_epoch_self = NULL;                /* first: nobody may use what another can take */
    ev_store_release(&record->taken, 0); /* N1 */
}

/* The child of a fork has only the forking thread, which is in no section. */
static void forget_other_threads(void)
{
    struct ev_epoch_record *record = ev_load_seqcst(&records);

    for (; record != NULL; record = record->next) {
        if (record == ev_epoch_self)
            continue;
        ev_store_release(&record->active, 0); /* no other thread exists */
        ev_store_release(&record->taken, 0);
    }
    ev_store_release(&nameless, 0);
}

__attribute__((constructor)) static void watch_threads(void)
{
    ending_works = pthread_key_create(&ending, let_go) == 0;
    pthread_atfork(NULL, NULL, forget_other_threads);
}

/* At unloading: a thread that ends later must not call into code that is gone. */
__attribute__((destructor)) static void unwatch_threads(void)
{
    if (ending_works)
        pthread_key_delete(ending);
    ending_works = false;
}

static struct ev_epoch_record *take_free_record(void)
{
    struct ev_epoch_record *record = ev_load_seqcst(&records);

    for (; record != NULL; record = record->next) {
        uint32_t free_mark = 0;

        if (ev_load_relaxed(&record->taken) == 0 &&       /* hint: the exchange checks it */
            ev_cas_acqrel(&record->taken, &free_mark, 1)) /* N2 */
            return record;
    }
    return NULL;
}

static struct ev_epoch_record *add_record(void)
{
    struct ev_epoch_record *record = ev_aligned(EV_APART, sizeof *record);

    if (record == NULL)
        return NULL;
    ev_alloc_keep(record);
    atomic_init(&record->active, 0);
    atomic_init(&record->taken, 1);

    struct ev_epoch_record *first = ev_load_seqcst(&records);
    do
        record->next = first;
    while (!ev_cas_seqcst(&records, &first, record)); /* M1 */
    return record;
}

void ev_epoch_enter_first(void)
{
    struct ev_epoch_record *record = ending_works ? take_free_record() : NULL;

    if (record == NULL && ending_works)
        record = add_record();
    if (record != NULL && pthread_setspecific(ending, record) != 0) {
        let_go(record);
        record = NULL;
    }
    if (record == NULL) {
        ev_add_seqcst(&nameless, 1); /* J1 */
        return;
    }
    const uint64_t now = ev_load_acquire(&ev_epoch_now); /* K2 */
    ev_epoch_self = record;
    ev_store_seqcst(&record->active, now); /* J1 */
}

void ev_epoch_leave_nameless(void)
{
    ev_sub_acqrel(&nameless, 1); /* L1 */
}

void ev_epoch_detach(void)
{
    struct ev_epoch_record *record = ev_epoch_self;

    if (record == NULL)
        return;
    pthread_setspecific(ending, NULL);
    let_go(record);
}

#ifdef EV_MODEL
void ev_epoch_forget_records(void)
{
    struct ev_epoch_record *record = atomic_exchange(&records, NULL);

    while (record != NULL) {
        struct ev_epoch_record *next = record->next;

        free(record); /* kept, so not counted */
        record = next;
    }
    atomic_init(&nameless, 0);
    atomic_init(&ev_epoch_now, 1);
    ev_epoch_self = NULL;
}
#endif

/* ---- Limbo -------------------------------------------------------------------------------------------------------- */

/* The epoch of the oldest section there is; UINT64_MAX: none; 0: unknown. What is tagged lower is free. */
static uint64_t oldest_section(void)
{
    const uint64_t early = EV_BUG(EV_BUG_EPOCH_EARLY) ? 1 : 0;
    uint64_t oldest = UINT64_MAX;

    if (ev_load_seqcst(&nameless) != 0 && !EV_BUG(EV_BUG_EPOCH_IGNORES_NAMELESS)) /* J2, L2 */
        return 0;
    for (struct ev_epoch_record *record = ev_load_seqcst(&records); record != NULL; record = record->next) { /* M2 */
        const uint64_t active = ev_load_seqcst(&record->active); /* J2, L2 */

        if (active != 0 && active + early < oldest)
            oldest = active + early;
    }
    return oldest;
}

static void free_what_is_safe(struct ev_limbo *limbo)
{
    const uint64_t oldest = oldest_section();
    size_t done = 0;

    for (; done < limbo->count && limbo->entries[done].tag < oldest; done++)
        limbo->entries[done].free_fn(limbo->entries[done].ptr);
    for (size_t i = done; i < limbo->count; i++)
        limbo->entries[i - done] = limbo->entries[i];
    limbo->count -= done;
}

static bool make_room(struct ev_limbo *limbo)
{
    if (limbo->count < limbo->capacity)
        return true;

    const size_t capacity = limbo->capacity != 0 ? limbo->capacity * 2 : 8;
    struct ev_limbo_entry *entries = ev_realloc(limbo->entries, capacity * sizeof entries[0]);
    if (entries == NULL)
        return false;
    limbo->entries = entries;
    limbo->capacity = capacity;
    return true;
}

void ev_limbo_init(struct ev_limbo *limbo)
{
    *limbo = (struct ev_limbo){0};
}

void ev_limbo_retire(struct ev_limbo *limbo, void *ptr, void (*free_fn)(void *))
{
    const uint64_t tag = ev_add_seqcst(&ev_epoch_now, 1); /* K1 */

    if (!make_room(limbo)) {
        while (oldest_section() <= tag)
            EV_YIELD();
        free_fn(ptr);
        return;
    }
    limbo->entries[limbo->count++] = (struct ev_limbo_entry){.ptr = ptr, .free_fn = free_fn, .tag = tag};

    free_what_is_safe(limbo);
    for (int i = 0; i < EV_LIMBO_YIELDS && limbo->count >= EV_LIMBO_CROWDED; i++) {
        EV_YIELD();
        free_what_is_safe(limbo);
    }
}

void ev_limbo_fini(struct ev_limbo *limbo)
{
    for (size_t i = 0; i < limbo->count; i++)
        limbo->entries[i].free_fn(limbo->entries[i].ptr);
    ev_free(limbo->entries);
    *limbo = (struct ev_limbo){0};
}
