/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/mem_store.h"

#include "base/alloc.h"

#include <string.h>
#include <sys/mman.h>

#define CLASS_NONE EV_MEM_CLASSES
#define BLOCK_MIN 128u
#define BLOCK_MAX 65536u
#define SLAB_MIN 4096u
#define SLAB_MAX (256u * 1024)
#define POPULATE_MIN (64u * 1024)
#define EMPTY_KEPT 8u /* and a quarter of a class's slabs: dropping and storing come in batches */

static const char id_name[] = "Nats-Msg-Id";

/* What `returned` points to once the owner has left; never a block's address. */
static struct ev_mem_block left_mark;
#define EV_MEM_LEFT (&left_mark)

/* ---- Size classes ------------------------------------------------------------------------------------------------ */

static uint32_t class_of(size_t size)
{
    if (size <= BLOCK_MIN)
        return 0;
    if (size > BLOCK_MAX)
        return CLASS_NONE;
    const uint32_t top = (uint32_t)size - 1;
    const uint32_t log = 31 - (uint32_t)__builtin_clz(top); /* >= 7 */

    return 1 + (log - 7) * 8 + ((top >> (log - 3)) & 7);
}

static uint32_t class_size(uint32_t size_class)
{
    if (size_class == 0)
        return BLOCK_MIN;
    return (9 + ((size_class - 1) & 7)) << (4 + (size_class - 1) / 8);
}

/* ---- Slabs ------------------------------------------------------------------------------------------------------- */

static struct ev_mem_block *block_at(struct ev_mem_slab *slab, uint32_t index)
{
    const size_t header = (sizeof *slab + 15) & ~(size_t)15;

    return (struct ev_mem_block *)(void *)((char *)slab + header + (size_t)index * class_size(slab->size_class));
}

static void partial_add(struct ev_mem_pool *pool, struct ev_mem_slab *slab)
{
    struct ev_mem_slab **head = &pool->partial[slab->size_class];

    slab->partial_prev = NULL;
    slab->partial_next = *head;
    if (*head)
        (*head)->partial_prev = slab;
    *head = slab;
    slab->is_partial = true;
}

static void partial_remove(struct ev_mem_pool *pool, struct ev_mem_slab *slab)
{
    if (slab->partial_prev)
        slab->partial_prev->partial_next = slab->partial_next;
    else
        pool->partial[slab->size_class] = slab->partial_next;
    if (slab->partial_next)
        slab->partial_next->partial_prev = slab->partial_prev;
    slab->is_partial = false;
}

void ev_mem_populate(void *memory, size_t size)
{
#ifdef MADV_POPULATE_WRITE
    const uintptr_t page = 4096; /* where pages are larger the kernel refuses, which does no harm */
    const uintptr_t from = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t to = ((uintptr_t)memory + size) & ~(page - 1);

    if (to > from)
        (void)madvise((void *)from, to - from, MADV_POPULATE_WRITE);
#else
    (void)memory, (void)size;
#endif
}

/* Few messages need little: the first slabs of a class are small. */
static struct ev_mem_slab *slab_new(struct ev_mem_pool *pool, uint32_t size_class)
{
    const uint32_t size = class_size(size_class);
    const uint32_t doublings = pool->slabs_of[size_class] < 6 ? pool->slabs_of[size_class] : 6;
    uint32_t bytes = SLAB_MIN << doublings;

    if (bytes < size + sizeof(struct ev_mem_slab) + 16)
        bytes = (doublings < 2 ? 1u << doublings : 4) * size + sizeof(struct ev_mem_slab) + 16;
    if (bytes > SLAB_MAX && 4 * size < SLAB_MAX)
        bytes = SLAB_MAX;
    struct ev_mem_slab *slab = ev_malloc(bytes);
    if (!slab)
        return NULL;
    if (bytes >= POPULATE_MIN)
        ev_mem_populate(slab, bytes);
    memset(slab, 0, sizeof *slab);
    slab->pool = pool;
    slab->size_class = (uint16_t)size_class;
    slab->count = (bytes - (uint32_t)((sizeof *slab + 15) & ~(size_t)15)) / size;
    slab->next = pool->all;
    if (pool->all)
        pool->all->prev = slab;
    pool->all = slab;
    pool->slabs_of[size_class]++;
    pool->empty_of[size_class]++;
    partial_add(pool, slab);
    return slab;
}

static void slab_free(struct ev_mem_pool *pool, struct ev_mem_slab *slab)
{
    partial_remove(pool, slab);
    if (slab->prev)
        slab->prev->next = slab->next;
    else
        pool->all = slab->next;
    if (slab->next)
        slab->next->prev = slab->prev;
    pool->slabs_of[slab->size_class]--;
    ev_free(slab);
}

static void free_own(struct ev_mem_pool *pool, struct ev_mem_block *block)
{
    struct ev_mem_slab *slab = block->slab;

    block->next = slab->free;
    slab->free = block;
    slab->used--;
    if (!slab->is_partial)
        partial_add(pool, slab);
    if (slab->used != 0)
        return;
    if (pool->empty_of[slab->size_class] >= EMPTY_KEPT + pool->slabs_of[slab->size_class] / 4)
        slab_free(pool, slab);
    else
        pool->empty_of[slab->size_class]++;
}

/* Takes back what other threads freed. Owner only. */
static void collect(struct ev_mem_pool *pool)
{
    if (ev_load_relaxed(&pool->returned) == NULL) /* hint: what comes later is collected later */
        return;
    struct ev_mem_block *block = ev_swap_acqrel(&pool->returned, NULL); /* S2 */
    while (block) {
        struct ev_mem_block *next = block->next;
        free_own(pool, block);
        block = next;
    }
}

/* ---- The pool after its owner ------------------------------------------------------------------------------------ */

static void drop_slab(struct ev_mem_slab *slab)
{
    struct ev_mem_pool *pool = slab->pool;

    if (ev_sub_acqrel(&slab->out, 1) != 1)
        return;
    ev_free(slab);
    if (ev_sub_acqrel(&pool->slabs, 1) == 1)
        ev_free(pool);
}

static void give_back(struct ev_mem_pool *pool, struct ev_mem_block *block)
{
    struct ev_mem_block *seen = ev_load_acquire(&pool->returned); /* S3 */

    do {
        if (seen == EV_MEM_LEFT) {
            drop_slab(block->slab);
            return;
        }
        block->next = seen;
    } while (!ev_cas_acqrel(&pool->returned, &seen, block)); /* S2; acquire on failure: S3 */
}

struct ev_mem_pool *ev_mem_pool_new(void)
{
    return ev_aligned(EV_APART, sizeof(struct ev_mem_pool));
}

void ev_mem_pool_leave(struct ev_mem_pool *pool)
{
    uint32_t slabs = 1;

    if (!pool)
        return;
    collect(pool);
    for (struct ev_mem_slab *slab = pool->all; slab; slab = slab->next) {
        ev_store_relaxed(&slab->out, slab->used + 1); /* published by S3 */
        slabs++;
    }
    ev_store_relaxed(&pool->slabs, slabs);
    struct ev_mem_block *block = ev_swap_acqrel(&pool->returned, EV_MEM_LEFT); /* S2, S3 */
    while (block) {
        struct ev_mem_block *next = block->next;
        drop_slab(block->slab);
        block = next;
    }
    for (struct ev_mem_slab *slab = pool->all, *next; slab; slab = next) {
        next = slab->next; /* its own count of 1 keeps each slab until here */
        drop_slab(slab);
    }
    if (ev_sub_acqrel(&pool->slabs, 1) == 1)
        ev_free(pool);
}

/* ---- Blocks ------------------------------------------------------------------------------------------------------ */

static struct ev_mem_block *block_alloc_big(size_t size)
{
    const size_t header = (sizeof(struct ev_mem_slab) + 15) & ~(size_t)15;
    struct ev_mem_slab *slab = ev_malloc(header + size);

    if (!slab)
        return NULL;
    slab->pool = NULL;
    struct ev_mem_block *block = (struct ev_mem_block *)(void *)((char *)slab + header);
    block->slab = slab;
    block->size_class = CLASS_NONE;
    return block;
}

static struct ev_mem_block *block_alloc(struct ev_mem_pool *pool, size_t size)
{
    const uint32_t size_class = class_of(size);

    if (size_class == CLASS_NONE)
        return block_alloc_big(size);
    collect(pool);
    struct ev_mem_slab *slab = pool->partial[size_class];
    if (!slab && !(slab = slab_new(pool, size_class)))
        return NULL;
    struct ev_mem_block *block = slab->free;
    if (block)
        slab->free = block->next;
    else
        block = block_at(slab, slab->carved++);
    block->slab = slab;
    block->size_class = (uint16_t)size_class;
    if (slab->used++ == 0)
        pool->empty_of[size_class]--;
    if (!slab->free && slab->carved == slab->count)
        partial_remove(pool, slab);
    return block;
}

void ev_mem_block_free(struct ev_mem_block *block, struct ev_mem_pool *home)
{
    struct ev_mem_slab *slab = block->slab;

    if (!slab->pool)
        ev_free(slab);
    else if (slab->pool == home)
        free_own(home, block);
    else
        give_back(slab->pool, block);
}

/* Headers are kept as they came, but each CR is a NUL: a value is then a C string without a copy. */
static void put_headers(char *out, const struct ev_record *record, size_t id_len)
{
    if (record->msg_id) {
        memcpy(out, id_name, sizeof id_name - 1);
        out += sizeof id_name - 1;
        *out++ = ':';
        *out++ = ' ';
        memcpy(out, record->msg_id, id_len);
        out += id_len;
        *out++ = '\0';
        *out++ = '\n';
    }
    if (record->headers_len == 0)
        return;
    memcpy(out, record->headers, record->headers_len);
    char *at = out;
    const char *const end = out + record->headers_len;
    while ((at = memchr(at, '\r', (size_t)(end - at))) != NULL)
        *at++ = '\0';
}

struct ev_mem_block *ev_mem_block_new(struct ev_mem_pool *pool, const struct ev_record *record, size_t topic_len,
                                      uint32_t topic_hash)
{
    const size_t id_len = record->msg_id ? strlen(record->msg_id) : 0;
    const size_t headers_len = record->headers_len + (record->msg_id ? sizeof id_name - 1 + id_len + 4 : 0);
    const size_t size = sizeof(struct ev_mem_block) + record->len + topic_len + 1 + headers_len;
    struct ev_mem_block *block = block_alloc(pool, size);

    if (!block)
        return NULL;
    block->next = NULL;
    ev_store_relaxed(&block->refs, 1); /* not shared yet */
    block->len = (uint32_t)record->len;
    block->headers_len = (uint32_t)headers_len;
    block->topic_hash = topic_hash;
    block->topic_len = (uint16_t)topic_len;
    block->seq = 0;
    block->stored_at = 0;
    block->wall_ns = 0;
    char *out = (char *)(block + 1);
    if (record->len)
        memcpy(out, record->data, record->len);
    memcpy(out + record->len, record->topic, topic_len + 1);
    if (headers_len)
        put_headers(out + record->len + topic_len + 1, record, id_len);
    return block;
}

const char *ev_mem_header(const struct ev_mem_block *block, const char *name)
{
    const char *at = ev_mem_topic(block) + block->topic_len + 1;
    const char *const end = at + block->headers_len;
    const size_t n = strlen(name);

    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end)
            return NULL;
        if ((size_t)(line_end - at) > n && memcmp(at, name, n) == 0 && at[n] == ':') {
            at += n + 1;
            return *at == ' ' ? at + 1 : at;
        }
        at = line_end + 1;
    }
    return NULL;
}

size_t ev_mem_headers(const struct ev_mem_block *block, char *buf, size_t cap)
{
    const char *from = ev_mem_topic(block) + block->topic_len + 1;
    const size_t n = block->headers_len < cap ? block->headers_len : cap;

    for (size_t i = 0; i < n; i++)
        buf[i] = from[i] == '\0' ? '\r' : from[i];
    return block->headers_len;
}
